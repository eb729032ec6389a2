package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"coati/gateway/control"
)

// A responder is a daemon that answers callers, with the least it can be configured to do beside: no checks of liveness, no
// keepalives, no rekeys, no routes of its own where that can be told, no log of tunnels. It carries ESP in userspace.
type responder struct {
	name string
	host *host
	p    *process
	// ask runs the daemon's own command, such as reload.
	ask func(args ...string) (string, error)
}

// spent is the processor time of the daemon so far, with all its threads, in user and kernel mode.
func (r *responder) spent() (time.Duration, error) {
	if !r.p.running() {
		return 0, fmt.Errorf("%s has ended: %s", r.name, lastLines(r.p.text(), 3))
	}
	return processTime(r.p.pid)
}

// processTime is finer than what /proc tells in ticks: the kernel names a process's own clock by its number (the macro
// MAKE_PROCESS_CPUCLOCK, with CPUCLOCK_SCHED).
func processTime(pid int) (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// peerPSK is the secret of the n-th of many tunnels.
func peerPSK(n int) string { return fmt.Sprintf("secret %d of the bench", n) }

func anyPSK(int) string { return psk }

// coatiAny has one tunnel for whoever knows the secret, or has a certificate.
func coatiAny(h *host, certificates bool) string {
	proof := `psk-file = "bench.psk"`
	if certificates {
		proof = fmt.Sprintf("auth = \"cert\"\nlocal-id = %q\ncert-file = %q\nkey-file = %q\nca-file = %q", "fqdn:"+responderName, responderCert, responderKey, authorityCert)
	}
	return fmt.Sprintf(`[gateway]
tun = "coati0"
log-level = "warn"

[tunnel.any]
local = %q
remote = "any"
%s
ike = ["aes128gcm16-prfsha256-x25519-modp2048"]
encap = "udp"
dpd = "0s"
keepalive = "0s"

[[tunnel.any.child]]
name = "lan"
local-ts = [%q]
remote-ts = [%q]
esp = ["aes128gcm16"]
`, h.outer, proof, h.lanNet.Masked(), callerLANs)
}

// coatiMany has n tunnels that wait for their peers.
func coatiMany(h *host, n int) string {
	var b strings.Builder
	b.WriteString("[gateway]\ntun = \"coati0\"\n")
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&b, `
[tunnel.t%d]
local = %q
remote = %q
psk-file = "t%d.psk"
ike = ["aes128gcm16-prfsha256-x25519"]
start = "listen"

[[tunnel.t%d.child]]
name = "lan"
local-ts = [%q]
remote-ts = [%q]
esp = ["aes128gcm16"]
`, i, h.outer, nth(callerNet, i), i, i, h.lanNet.Masked(), nth(callerLANs, i))
	}
	return b.String()
}

// swanAny and swanMany say the same to strongSwan.
func swanAny(h *host, certificates bool) string {
	proof := swanPSK(h)
	if certificates {
		proof = fmt.Sprintf(`local { auth = pubkey
      id = %s
      certs = %s }
    remote { auth = pubkey
      cacerts = %s }`, responderName, responderCert, authorityCert)
	}
	return fmt.Sprintf("connections {\n%s}\nsecrets { ike { secret = %q } }\n",
		swanConnection("any", h, "%any", "aes128gcm16-prfsha256-x25519-modp2048", callerLANs.String(), proof), psk)
}

func swanPSK(h *host) string {
	return fmt.Sprintf(`local { auth = psk
      id = %s }
    remote { auth = psk }`, h.outer)
}

func swanMany(h *host, n int) string {
	var b strings.Builder
	b.WriteString("connections {\n")
	for i := 1; i <= n; i++ {
		b.WriteString(swanConnection(fmt.Sprintf("t%d", i), h, nth(callerNet, i).String(), "aes128gcm16-prfsha256-x25519", nth(callerLANs, i).String()+"/32", swanPSK(h)))
	}
	b.WriteString("}\nsecrets {\n")
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&b, "  ike-t%d { id = %s\n    secret = %q }\n", i, nth(callerNet, i), peerPSK(i))
	}
	b.WriteString("}\n")
	return b.String()
}

func swanConnection(name string, h *host, remote, ike, remoteTS, proof string) string {
	return fmt.Sprintf(`  %s { version = 2
    local_addrs = %s
    remote_addrs = %s
    proposals = %s
    unique = never
    mobike = no
    rekey_time = 0s
    %s
    children { lan { local_ts = %s
      remote_ts = %s
      esp_proposals = aes128gcm16
      rekey_time = 0s } } }
`, name, h.outer, remote, ike, proof, h.lanNet.Masked(), remoteTS)
}

// beginCoati starts the daemon with its configuration, and returns when it has written the words; without words, when it
// answers. Its log goes to a file named after label, which nothing else may use.
func beginCoati(ctx context.Context, h *host, label, conf, words string) (*responder, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(h.write("bench.psk", psk+"\n"), h.write("coati.toml", conf)); err != nil {
		return nil, err
	}
	socket := filepath.Join(h.dir, "coati.sock")
	p, err := h.start(label, nil, "", program, "run", "--config", filepath.Join(h.dir, "coati.toml"), "--control", socket)
	if err != nil {
		return nil, err
	}
	r := &responder{name: Coati, host: h, p: p, ask: func(args ...string) (string, error) {
		return h.run(append(append([]string{program}, args...), "--control", socket)...)
	}}
	client := control.NewClient(socket)
	return r, p.await(ctx, loadLimit, "coati run", func() bool {
		if words != "" {
			return strings.Contains(p.text(), words)
		}
		_, err := client.Version(ctx)
		return err == nil
	})
}
