package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"coati/gateway/control"
	"coati/policy/config"
)

// host is a network namespace with one address towards the other host and one behind it.
type host struct {
	name, outer, inner string
}

// twoHosts are joined by a veth pair.
func twoHosts(t *testing.T) (a, b host) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("needs /dev/net/tun")
	}
	tag := fmt.Sprintf("cgw-%d", os.Getpid())
	a = host{tag + "-a", "198.51.100.1", "10.1.0.1"}
	b = host{tag + "-b", "198.51.100.2", "10.2.0.1"}
	for _, h := range []host{a, b} {
		ip(t, "netns", "add", h.name)
		t.Cleanup(func() { ip(t, "netns", "del", h.name) })
	}
	ip(t, "link", "add", "veth0", "netns", a.name, "type", "veth", "peer", "name", "veth0", "netns", b.name)
	for _, h := range []host{a, b} {
		h.ip(t, "link", "set", "lo", "up")
		// A link-local address would come in its own time.
		h.ip(t, "link", "set", "veth0", "addrgenmode", "none", "up")
		h.ip(t, "addr", "add", h.outer+"/24", "dev", "veth0")
		h.ip(t, "addr", "add", h.inner+"/32", "dev", "lo")
	}
	for _, h := range []host{a, b} {
		// The kernel notes the carrier in its own time.
		for begin := time.Now(); !strings.Contains(h.ip(t, "-o", "link", "show", "veth0"), "state UP") || strings.Contains(h.traces(t), "linkdown"); {
			if time.Since(begin) > 5*time.Second {
				t.Fatal("the link between the hosts does not come up")
			}
		}
	}
	return a, b
}

func ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (h host) ip(t *testing.T, args ...string) string {
	t.Helper()
	return ip(t, append([]string{"-n", h.name}, args...)...)
}

// traces of a gateway on a host.
func (h host) traces(t *testing.T) string {
	t.Helper()
	return h.ip(t, "-o", "rule") + h.ip(t, "-6", "-o", "rule") + h.ip(t, "route", "show", "table", "all") + fmt.Sprint(strings.Contains(h.ip(t, "-o", "link"), "coati"))
}

// ping loses nothing, the first packet included. Each is alone: after its first answer ping has little patience with the others,
// less than a machine under load may take.
func (h host) ping(t *testing.T, to string) {
	t.Helper()
	for range 3 {
		out, err := exec.Command("ip", "netns", "exec", h.name, "ping", "-c", "1", "-W", "20", to).CombinedOutput()
		if err != nil || !strings.Contains(string(out), " 0% packet loss") {
			t.Errorf("ping %s: %v\n%s", to, err, out)
		}
	}
}

// daemon is a gateway that runs on a host.
type daemon struct {
	*Gateway
	stop  context.CancelFunc
	ended chan error
}

// start runs a gateway in a host's namespace: on a thread that stays there and dies with the goroutine.
func (h host) start(t *testing.T, c Config) (*daemon, error) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	d := &daemon{stop: stop, ended: make(chan error, 1)}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := enter(h.name)
		if err == nil {
			d.Gateway, err = New(c)
		}
		ready <- err
		if err == nil {
			d.ended <- d.Run(ctx)
		}
	}()
	if err := <-ready; err != nil {
		stop()
		return nil, err
	}
	return d, nil
}

func enter(name string) error {
	fd, err := unix.Open("/run/netns/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Setns(fd, unix.CLONE_NEWNET)
}

// end is what SIGTERM does.
func (d *daemon) end(t *testing.T) {
	t.Helper()
	d.stop()
	select {
	case err := <-d.ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("a gateway does not end")
	}
}

func configure(t *testing.T, dir string, h, peer host, more string) *config.Config {
	t.Helper()
	psk := filepath.Join(dir, "psk")
	if err := os.WriteFile(psk, []byte("a secret of the test"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("[gateway]\ntun = \"coati0\"\ncontrol = %q\n[tunnel.peer]\nremote = %q\npsk-file = %q\nlocal-ts = [%q]\nremote-ts = [%q]\n",
		filepath.Join(dir, h.name[len(h.name)-1:]+".sock"), peer.outer, psk, h.inner+"/32", peer.inner+"/32") + more
	c, faults := config.Parse("test.toml", []byte(text))
	if config.Failed(faults) {
		t.Fatal(faults)
	}
	return c
}

// pairs lists the SPIs of the only tunnel's SAs.
func pairs(t *testing.T, g *Gateway) []string {
	t.Helper()
	s, err := g.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, tun := range s.Tunnels {
		for _, c := range tun.Children {
			for _, p := range c.SAs {
				out = append(out, p.In.SPI+" "+p.Out.SPI)
			}
		}
	}
	return out
}

func testLog(t *testing.T, who string) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil)).With(slog.String("gateway", who))
}

func TestTwoGateways(t *testing.T) {
	a, b := twoHosts(t)
	dir := t.TempDir()
	before := a.traces(t)
	conf := configure(t, dir, a, b, "")
	next, nextFaults := conf, []config.Fault(nil)
	first, err := a.start(t, Config{
		Settings: conf, StateDir: dir, Log: testLog(t, "a"),
		Load: func() (*config.Config, []config.Fault) { return next, nextFaults },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer first.stop()
	second, err := b.start(t, Config{Settings: configure(t, dir, b, a, ""), StateDir: dir, Log: testLog(t, "b")})
	if err != nil {
		t.Fatal(err)
	}
	defer second.stop()

	// The first packet brings the tunnel up and is not lost.
	a.ping(t, b.inner)
	status := func() control.Tunnel {
		s, err := control.NewClient(filepath.Join(dir, "a.sock")).Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s.Tunnels[0]
	}
	if tun := status(); tun.State != control.StateUp || len(tun.Children[0].SAs) != 1 {
		t.Fatalf("status %+v", tun)
	}
	// A packet is counted when it has been handed on: its answer may be here before.
	tick, late := time.NewTicker(10*time.Millisecond), time.After(10*time.Second)
	defer tick.Stop()
	for counted := false; !counted; {
		p := status().Children[0].SAs[0]
		counted = p.In.Packets == 3 && p.Out.Packets == 3 && p.In.Octets == 3*84
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("counters %+v", p)
		}
	}

	// A faulty file changes nothing; a better one only what it says.
	spis := pairs(t, first.Gateway)
	next, nextFaults = config.Parse("test.toml", []byte("[tunnel.peer]\nremot = 7\n"))
	if r, err := first.Reload(t.Context()); err != nil || !r.Failed || len(r.Faults) == 0 {
		t.Errorf("reload of a faulty file: %+v, %v", r, err)
	}
	next = configure(t, dir, a, b, fmt.Sprintf("[tunnel.other]\nremote = \"198.51.100.9\"\npsk-file = %q\nremote-ts = [\"10.9.0.0/16\"]\n", filepath.Join(dir, "psk")))
	nextFaults = nil
	if r, err := first.Reload(t.Context()); err != nil || len(r.Plan) != 1 || r.Plan[0] != "+ other" {
		t.Errorf("reload: %+v, %v", r, err)
	}
	a.ping(t, b.inner)
	if diff := cmp.Diff(spis, pairs(t, first.Gateway)); diff != "" {
		t.Errorf("the unchanged tunnel was disturbed: %s", diff)
	}
	if !strings.Contains(a.ip(t, "route", "show", "table", "all"), "10.9.0.0/16 dev coati0") {
		t.Error("no route for the new tunnel")
	}

	// New keys for the child, then for the IKE SA; traffic goes on.
	for _, target := range []control.Target{{Tunnel: "peer", Child: "peer"}, {Tunnel: "peer"}} {
		if _, err := first.Rekey(t.Context(), target); err != nil {
			t.Errorf("rekey %v: %v", target, err)
		}
		a.ping(t, b.inner)
	}
	if now := pairs(t, first.Gateway); len(now) == 0 || now[len(now)-1] == spis[0] {
		t.Errorf("after rekeys: %v, before: %v", now, spis)
	}

	// Down tells the peer; the peer's first packet brings it up again.
	if _, err := first.Down(t.Context(), control.Target{Tunnel: "peer"}); err != nil {
		t.Error(err)
	}
	if n := len(pairs(t, second.Gateway)); n != 0 {
		t.Errorf("the peer has %d pairs after down", n)
	}
	b.ping(t, a.inner)

	first.end(t)
	if diff := cmp.Diff(before, a.traces(t)); diff != "" {
		t.Errorf("left behind: %s", diff)
	}
	if n := len(pairs(t, second.Gateway)); n != 0 {
		t.Errorf("the peer was not told: it has %d pairs", n)
	}
	second.end(t)
}

func TestTwoGatewaysOnOneHost(t *testing.T) {
	a, b := twoHosts(t)
	dir := t.TempDir()
	on := func(tun, local string) *config.Config {
		c := configure(t, dir, a, b, "")
		c.Gateway.TUN, c.Gateway.Control = tun, filepath.Join(dir, tun+".sock")
		if local != "" {
			c.Tunnels[0].Local = netip.MustParseAddr(local)
		}
		return c
	}
	a.ip(t, "addr", "add", "198.51.100.7/24", "dev", "veth0")
	before := a.traces(t)
	one, err := a.start(t, Config{Settings: on("coati0", a.outer), StateDir: dir, Log: testLog(t, "one")})
	if err != nil {
		t.Fatal(err)
	}
	defer one.stop()
	running := a.traces(t)
	for _, c := range []struct{ tun, local, want string }{
		{"coati1", a.outer, "udp 500 on 198.51.100.1 is in use by another coati"},
		{"coati1", "", "is in use by another coati"},
		{"coati0", "198.51.100.7", "tun coati0 is in use by another coati"},
	} {
		d, err := a.start(t, Config{Settings: on(c.tun, c.local), Control: filepath.Join(dir, "x.sock"), StateDir: dir})
		if err == nil {
			d.end(t)
			t.Errorf("%v: started", c)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v", c, err)
		}
	}
	two, err := a.start(t, Config{Settings: on("coati1", "198.51.100.7"), StateDir: dir, Log: testLog(t, "two")})
	if err != nil {
		t.Fatal(err)
	}
	two.end(t)
	if diff := cmp.Diff(running, a.traces(t)); diff != "" {
		t.Errorf("the second one's end disturbed the first: %s", diff)
	}
	one.end(t)
	if diff := cmp.Diff(before, a.traces(t)); diff != "" {
		t.Errorf("left behind: %s", diff)
	}
}
