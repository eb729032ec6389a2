package tun

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// The test binary is also the daemon that gets killed: see startDaemon.
func TestMain(m *testing.M) {
	if env := os.Getenv(daemonEnv); env != "" {
		runDaemon(env)
		return
	}
	goleak.VerifyTestMain(m)
}

// namespace is a network namespace of a test. Namespaces belong to threads, so the test's goroutine
// keeps its thread, which ends with it.
type namespace struct{ fd int }

// enterNamespace moves the test into a fresh namespace with lo up.
func enterNamespace(t testing.TB) namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	runtime.LockOSThread()
	ok(t, unix.Unshare(unix.CLONE_NEWNET))
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	ok(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	lo, err := netlink.LinkByName("lo")
	ok(t, err)
	ok(t, netlink.LinkSetUp(lo))
	return namespace{fd}
}

// another makes a second namespace; the test stays where it is.
func (n namespace) another(t testing.TB) namespace {
	t.Helper()
	o := enterNamespace(t)
	ok(t, unix.Setns(n.fd, unix.CLONE_NEWNET))
	return o
}

// in runs f in namespace o, coming from n.
func (n namespace) in(t testing.TB, o namespace, f func()) {
	t.Helper()
	ok(t, unix.Setns(o.fd, unix.CLONE_NEWNET))
	defer func() { ok(t, unix.Setns(n.fd, unix.CLONE_NEWNET)) }()
	f()
}

// The two ends of the link that connect makes.
var (
	here4, there4 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	here6, there6 = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
)

// connect joins n (interface up0) and o (interface peer0) with a veth pair.
func (n namespace) connect(t testing.TB, o namespace) {
	t.Helper()
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0"}, PeerName: "peer0", PeerNamespace: netlink.NsFd(o.fd)}
	ok(t, netlink.LinkAdd(veth))
	address := func(name string, addrs ...netip.Addr) {
		link, err := netlink.LinkByName(name)
		ok(t, err)
		for _, a := range addrs {
			bits := 24
			if a.Is6() {
				bits = 64
			}
			ok(t, netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, bits)), Flags: unix.IFA_F_NODAD}))
		}
		ok(t, netlink.LinkSetUp(link))
		for _, a := range addrs {
			awaitLocal(t, a)
		}
	}
	n.in(t, o, func() { address("peer0", there4, there6) })
	address("up0", here4, here6)
}

// awaitLocal waits until packets to an own address find it: the kernel makes the local route of an
// IPv6 address later than the address.
func awaitLocal(t testing.TB, a netip.Addr) {
	t.Helper()
	for give := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		if routes, err := netlink.RouteGet(a.AsSlice()); err == nil && routes[0].Type == unix.RTN_LOCAL {
			return
		}
		if time.Now().After(give) {
			t.Fatalf("%v does not become local", a)
		}
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openHost(t testing.TB, name, dir string) *Host {
	t.Helper()
	h, err := Open(Config{Name: name, StateDir: dir})
	ok(t, err)
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if left := h.Ledger().Entries(); len(left) > 0 {
			t.Errorf("left in the ledger: %q", left)
		}
	})
	return h
}

const daemonEnv = "COATI_TUN_TEST_DAEMON"

// daemonConfig says what a daemon in another process does to the machine.
type daemonConfig struct {
	Name, Dir string
	Block     bool
	Routes    []netip.Prefix
	Loosen    string
	UDP       netip.AddrPort
	Guard     bool
	Hold      bool
}

// daemon is another process of ours in the test's namespace.
type daemon struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.Closer
}

func startDaemon(t *testing.T, c daemonConfig) *daemon {
	t.Helper()
	env, err := json.Marshal(c)
	ok(t, err)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), daemonEnv+"="+string(env))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	ok(t, err)
	out, err := cmd.StdoutPipe()
	ok(t, err)
	ok(t, cmd.Start())
	d := &daemon{t, cmd, in}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			d.kill()
		}
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("daemon said %q, %v", line, err)
	}
	return d
}

// kill is kill -9.
func (d *daemon) kill() {
	d.t.Helper()
	ok(d.t, d.cmd.Process.Kill())
	d.cmd.Wait()
}

// stop lets the daemon close its Host.
func (d *daemon) stop() {
	d.t.Helper()
	ok(d.t, d.in.Close())
	ok(d.t, d.cmd.Wait())
}

func runDaemon(env string) {
	runtime.LockOSThread()
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "daemon:", err)
			os.Exit(1)
		}
	}
	var c daemonConfig
	fail(json.Unmarshal([]byte(env), &c))
	h, err := Open(Config{Name: c.Name, StateDir: c.Dir})
	fail(err)
	d, err := h.OpenDevice(DeviceConfig{Queues: 1, MTU: 1400})
	fail(err)
	r, err := h.OpenRoutes(d, RoutesConfig{Block: c.Block})
	fail(err)
	for _, p := range c.Routes {
		fail(r.Add(Route{Dst: p}))
	}
	if c.Loosen != "" {
		_, err := h.LoosenRPFilter(c.Loosen)
		fail(err)
	}
	if c.UDP.IsValid() {
		_, err := h.OpenUDP(UDPConfig{Local: c.UDP, Sockets: 2})
		fail(err)
	}
	if c.Guard {
		_, err := h.OpenGuard(GuardConfig{})
		fail(err)
	}
	if c.Hold {
		_, err := h.HoldWithoutSA()
		fail(err)
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	fail(h.Close())
}
