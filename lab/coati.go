package lab

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"coati/gateway/control"
)

// psk is the secret of every tunnel in the lab.
const psk = "a secret of the lab"

// program is the program under test, as the Makefile built it.
func program(t testing.TB) string {
	t.Helper()
	path := os.Getenv("COATI_BIN")
	if path == "" {
		path = filepath.Join("..", "bin", "coati")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no %s: make build", path)
	}
	return path
}

// A Coati is a daemon on a host.
type Coati struct {
	Host   *Host
	Socket string // of its control interface
	Keys   string // folder of its key log
	binary string
	config string
	label  string
	p      *Process
}

// A Tunnel is what the lab varies in the native configuration of one tunnel with one child, lan.
type Tunnel struct {
	Name                      string
	Local, Remote             netip.Addr
	LocalTS, RemoteTS         []netip.Prefix
	IKE, ESP                  string // empty: the default
	Start, Encap, DPD         string // empty: the default
	TUN                       string // empty: coati0
	ControlLabel              string // of a second daemon on one host
	ExtraGateway, ExtraTunnel string // lines added to [gateway] and [tunnel]
	ExtraChild, More          string // lines added to the child, and to the file
	PSK                       string // empty: psk
	NoPSK                     bool   // ExtraTunnel says how to authenticate
	NoLocal                   bool   // leave local out
	AnyRemote                 bool   // remote = "any"
}

// Between is the tunnel from one host to another: IPv4 inside and outside.
func Between(from, to *Host) Tunnel {
	return Tunnel{
		Name: "peer", Local: from.Outer4, Remote: to.Outer4,
		LocalTS: []netip.Prefix{from.LANNet4}, RemoteTS: []netip.Prefix{to.LANNet4},
	}
}

// Reversed is the same tunnel as its other end sees it.
func (n Tunnel) Reversed() Tunnel {
	n.Local, n.Remote = n.Remote, n.Local
	n.LocalTS, n.RemoteTS = n.RemoteTS, n.LocalTS
	return n
}

func (n Tunnel) toml(socket, keys string) string {
	var b strings.Builder
	line := func(key, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s = %q\n", key, value)
		}
	}
	list := func(prefixes []netip.Prefix) string {
		quoted := make([]string, len(prefixes))
		for i, p := range prefixes {
			quoted[i] = fmt.Sprintf("%q", p)
		}
		return strings.Join(quoted, ", ")
	}
	tun := n.TUN
	if tun == "" {
		tun = "coati0"
	}
	b.WriteString("[gateway]\n")
	line("tun", tun)
	line("control", socket)
	line("keylog", keys)
	// Two on any machine: what queues can break must break here.
	b.WriteString("queues = 2\n" + n.ExtraGateway)
	fmt.Fprintf(&b, "\n[tunnel.%s]\n", n.Name)
	if !n.NoLocal {
		line("local", n.Local.String())
	}
	if n.AnyRemote {
		line("remote", "any")
	} else {
		line("remote", n.Remote.String())
	}
	if !n.NoPSK {
		line("psk-file", "lab.psk")
	}
	line("start", n.Start)
	line("encap", n.Encap)
	line("dpd", n.DPD)
	if n.IKE != "" {
		fmt.Fprintf(&b, "ike = [%q]\n", n.IKE)
	}
	b.WriteString(n.ExtraTunnel)
	fmt.Fprintf(&b, "\n[[tunnel.%s.child]]\n", n.Name)
	line("name", "lan")
	fmt.Fprintf(&b, "local-ts = [%s]\nremote-ts = [%s]\n", list(n.LocalTS), list(n.RemoteTS))
	if n.ESP != "" {
		fmt.Fprintf(&b, "esp = [%q]\n", n.ESP)
	}
	b.WriteString(n.ExtraChild + "\n" + n.More)
	return b.String()
}

// StartCoati starts a daemon with this tunnel and returns when it answers on its control socket.
func StartCoati(t testing.TB, h *Host, tunnel Tunnel) *Coati {
	t.Helper()
	c := NewCoati(t, h, tunnel)
	c.Start(t)
	return c
}

// NewCoati writes the configuration of a daemon that Start starts.
func NewCoati(t testing.TB, h *Host, tunnel Tunnel) *Coati {
	t.Helper()
	label := "coati" + tunnel.ControlLabel
	c := &Coati{Host: h, Socket: h.Path(label + ".sock"), Keys: h.Path(label + ".keys"), binary: program(t), label: label}
	h.Write(t, "lab.psk", cmp.Or(tunnel.PSK, psk)+"\n")
	c.config = h.Write(t, label+".toml", tunnel.toml(c.Socket, c.Keys))
	return c
}

// Start starts the daemon and returns when it answers.
func (c *Coati) Start(t testing.TB) {
	t.Helper()
	c.Launch(t)
	answers := func() bool {
		if InKernel() {
			_, err := control.NewClient(c.Socket).Version(context.Background())
			return err == nil
		}
		_, err := c.Command("status")
		return err == nil
	}
	limit := 10 * time.Second
	if InKernel() {
		limit = time.Minute
	}
	if !Within(limit, func() bool { return answers() || !c.p.Running() }) || !answers() {
		t.Fatalf("coati does not answer:\n%s", tail(c.p.Log, 20))
	}
	if n := c.Status(t).Gateway.Queues; n != 2 && !InKernel() {
		t.Errorf("%d tun queues, want 2", n)
	}
}

// Configure replaces the daemon's configuration file: the next start, or reload, reads it.
func (c *Coati) Configure(t testing.TB, tunnel Tunnel) {
	t.Helper()
	c.Host.Write(t, c.label+".toml", tunnel.toml(c.Socket, c.Keys))
}

// Log is what the daemon wrote so far.
func (c *Coati) Log() string { return c.p.Text() }

// Launch starts the daemon without waiting: for those that are to fail.
func (c *Coati) Launch(t testing.TB) *Process {
	t.Helper()
	c.p = c.Host.Start(t, c.label, nil, c.binary, "run", "--config", c.config, "--control", c.Socket, "--log-level", "debug")
	return c.p
}

// Command runs `coati COMMAND ARGS` against this daemon.
func (c *Coati) Command(args ...string) (string, error) {
	return c.Host.Run(append(append([]string{c.binary}, args...), "--control", c.Socket)...)
}

// Patiently is Command for what may take longer than other programs: a negotiation nobody answers.
// The output is what the person sees.
func (c *Coati) Patiently(args ...string) (string, error) {
	all := append([]string{"netns", "exec", c.Host.Name, c.binary}, args...)
	return runFor(3*oneRun, "ip", append(all, "--control", c.Socket)...)
}

// Do is Command for what has to succeed.
func (c *Coati) Do(t testing.TB, args ...string) string {
	t.Helper()
	output, err := c.Command(args...)
	if err != nil {
		t.Fatal(err)
	}
	return output
}

// Status is what `coati status --json` says.
func (c *Coati) Status(t testing.TB) control.Status {
	t.Helper()
	var s control.Status
	if InKernel() {
		// Starting a program takes long there.
		s, err := control.NewClient(c.Socket).Status(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if err := json.Unmarshal([]byte(c.Do(t, "status", "--json")), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// Pairs lists the pairs of ESP SAs of all tunnels and children.
func (c *Coati) Pairs(t testing.TB) []control.Pair {
	t.Helper()
	var pairs []control.Pair
	for _, tunnel := range c.Status(t).Tunnels {
		for _, child := range tunnel.Children {
			pairs = append(pairs, child.SAs...)
		}
	}
	return pairs
}

// WaitPairs waits until there are exactly that many.
func (c *Coati) WaitPairs(t testing.TB, limit time.Duration, want int) {
	t.Helper()
	WaitFor(t, limit, fmt.Sprintf("%d pairs of ESP SAs on %s", want, c.Host.Name), func() bool {
		return len(c.Pairs(t)) == want
	})
}

// IKESAs is how many IKE SAs the daemon has, in whatever state.
func (c *Coati) IKESAs(t testing.TB) int {
	t.Helper()
	n := 0
	for _, tunnel := range c.Status(t).Tunnels {
		n += len(tunnel.IKE)
	}
	return n
}

// Terminate ends the daemon with SIGTERM; it must end in time and with exit code 0.
func (c *Coati) Terminate(t testing.TB) {
	t.Helper()
	code, err := c.p.End(syscall.SIGTERM)
	if err != nil {
		t.Fatal(err)
	}
	if code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
}

// Kill ends the daemon as a crash would.
func (c *Coati) Kill() { _, _ = c.p.End(syscall.SIGKILL) }

// Alive fails the test if the daemon has ended, or its log holds a panic.
func (c *Coati) Alive(t testing.TB) {
	t.Helper()
	if !c.p.Running() {
		t.Errorf("coati on %s has ended", c.Host.Name)
	}
	if log := c.p.Text(); strings.Contains(log, "panic:") || strings.Contains(log, "goroutine ") || strings.Contains(log, "panic=") {
		t.Errorf("a panic in the log of coati on %s", c.Host.Name)
	}
}
