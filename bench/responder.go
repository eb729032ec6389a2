package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
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

// coatiAny has one tunnel for whoever knows the secret.
func coatiAny(h *host) string {
	return fmt.Sprintf(`[gateway]
tun = "coati0"
log-level = "warn"

[tunnel.any]
local = %q
remote = "any"
psk-file = "bench.psk"
ike = ["aes128gcm16-prfsha256-x25519-modp2048"]
encap = "udp"
dpd = "0s"
keepalive = "0s"

[[tunnel.any.child]]
name = "lan"
local-ts = [%q]
remote-ts = [%q]
esp = ["aes128gcm16"]
`, h.outer, h.lanNet.Masked(), callerLANs)
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
func swanAny(h *host) string {
	return fmt.Sprintf("connections {\n%s}\nsecrets { ike { secret = %q } }\n",
		swanConnection("any", h, "%any", "aes128gcm16-prfsha256-x25519-modp2048", callerLANs.String()), psk)
}

func swanMany(h *host, n int) string {
	var b strings.Builder
	b.WriteString("connections {\n")
	for i := 1; i <= n; i++ {
		b.WriteString(swanConnection(fmt.Sprintf("t%d", i), h, nth(callerNet, i).String(), "aes128gcm16-prfsha256-x25519", nth(callerLANs, i).String()+"/32"))
	}
	b.WriteString("}\nsecrets {\n")
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&b, "  ike-t%d { id = %s\n    secret = %q }\n", i, nth(callerNet, i), peerPSK(i))
	}
	b.WriteString("}\n")
	return b.String()
}

func swanConnection(name string, h *host, remote, ike, remoteTS string) string {
	return fmt.Sprintf(`  %s { version = 2
    local_addrs = %s
    remote_addrs = %s
    proposals = %s
    unique = never
    mobike = no
    rekey_time = 0s
    local { auth = psk
      id = %s }
    remote { auth = psk }
    children { lan { local_ts = %s
      remote_ts = %s
      esp_proposals = aes128gcm16
      rekey_time = 0s } } }
`, name, h.outer, remote, ike, h.outer, h.lanNet.Masked(), remoteTS)
}

// Sizes of strongSwan's tables are what its documentation advises for many SAs; a flood from one address is expected here.
const swanResponderConf = `charon {
  load = nonce random openssl kdf hmac sha1 sha2 aes gcm curve25519 kernel-libipsec kernel-netlink socket-default vici
  load_modular = no
  install_routes = no
  install_virtual_ip = no
  dos_protection = no
  keep_alive = 0
  ikesa_table_size = 16384
  ikesa_table_segments = 16
  plugins { vici { socket = unix://%[1]s/vici } }
  filelog { stderr { default = 0
      flush_line = yes } }
}
swanctl { load = nonce random openssl sha1 sha2 hmac aes gcm }
`

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

// beginCharon starts strongSwan without a connection, which load gives it. The label is as for beginCoati.
func beginCharon(ctx context.Context, h *host, label string) (*responder, error) {
	if err := h.write("strongswan.conf", fmt.Sprintf(swanResponderConf, h.dir)); err != nil {
		return nil, err
	}
	for folder := range strings.FieldsSeq("x509 x509ca x509ocsp x509aa x509ac x509crl pubkey private rsa ecdsa bliss pkcs8 pkcs12 conf.d") {
		if err := os.MkdirAll(filepath.Join(h.dir, "swanctl", folder), 0o700); err != nil {
			return nil, err
		}
	}
	p, err := h.start(label, swanEnv(h), "", "sh", "-c", "mount -t tmpfs tmpfs /run && exec "+charonProgram)
	if err != nil {
		return nil, err
	}
	r := &responder{name: StrongSwan, host: h, p: p, ask: func(args ...string) (string, error) {
		all := append(append([]string{"env"}, swanEnv(h)...), "swanctl", args[0], "--uri", "unix://"+h.dir+"/vici")
		return h.run(append(all, args[1:]...)...)
	}}
	return r, p.await(ctx, loadLimit, "charon", func() bool { _, err := r.ask("--stats"); return err == nil })
}

// load gives strongSwan its connections and secrets, all of which it must have taken.
func (r *responder) load(conf string, connections int) error {
	if err := r.host.write("swanctl/swanctl.conf", conf); err != nil {
		return err
	}
	text, err := r.ask("--load-all")
	if err == nil && !strings.Contains(text, fmt.Sprintf("successfully loaded %d connections", connections)) {
		err = fmt.Errorf("strongSwan did not load %d connections: %s", connections, lastLines(text, 2))
	}
	return err
}

// haveStrongSwan says what is missing.
func haveStrongSwan() error {
	if _, err := os.Stat(charonProgram); err != nil {
		return fmt.Errorf("strongSwan %w: apt-get install strongswan-charon strongswan-swanctl libcharon-extra-plugins", errMissing)
	}
	if _, err := exec.LookPath("swanctl"); err != nil {
		return fmt.Errorf("swanctl %w: apt-get install strongswan-swanctl", errMissing)
	}
	return nil
}
