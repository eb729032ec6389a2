package gateway

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// From the TUN of one gateway to that of the other no packet costs an allocation, and no batch. What there is, mostly none at
// all, is the runtime's, when it starts a thread, and that of timers.
func TestThePathAllocatesNothing(t *testing.T) {
	const packets = 20_000
	for _, encap := range []string{"udp", "esp"} {
		t.Run(encap, func(t *testing.T) {
			a, b := twoHosts(t)
			dir := t.TempDir()
			var gateways []*daemon
			for _, e := range [][2]host{{a, b}, {b, a}} {
				g, err := e[0].start(t, Config{Settings: configure(t, dir, e[0], e[1], fmt.Sprintf("encap = %q\n", encap)), StateDir: dir, Log: testLog(t, e[0].name)})
				if err != nil {
					t.Fatal(err)
				}
				defer g.stop()
				gateways = append(gateways, g)
			}
			a.ping(t, b.inner)
			at := netip.AddrPortFrom(netip.MustParseAddr(b.inner), 7000)
			in := inside(t, b, func() (int, error) { return socketOf(at) })
			defer unix.Close(in)
			out := inside(t, a, func() (int, error) {
				return socketOf(netip.AddrPortFrom(netip.MustParseAddr(a.inner), 0))
			})
			defer unix.Close(out)
			if err := unix.Connect(out, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}); err != nil {
				t.Fatal(err)
			}
			sent, got := make([]byte, 1000), make([]byte, 1000)
			exchange := func(n int) {
				// A few at a time, so that no buffer on the way is full.
				const few = 20
				for range n / few {
					for range few {
						again(t, func() (int, error) { return unix.Write(out, sent) })
					}
					for range few {
						again(t, func() (int, error) { return unix.Read(in, got) })
					}
				}
			}
			exchange(1000)
			before, threads := mallocs(), threadCount()
			exchange(packets)
			n, started := mallocs()-before, max(0, threadCount()-threads)
			if limit := uint64(packets/200 + started*perThread); n > limit {
				t.Errorf("%d allocations while %d packets went through two gateways and %d threads were started, at most %d are explained", n, packets, started, limit)
			}
			for _, g := range gateways {
				g.end(t)
			}
		})
	}
}

// socketOf opens a blocking UDP socket that gives up waiting after ten seconds.
func socketOf(a netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	limit := unix.NsecToTimeval((10 * time.Second).Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return 0, err
	}
	return fd, unix.Bind(fd, &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())})
}

// again makes a system call until no signal comes between.
func again(t *testing.T, call func() (int, error)) {
	t.Helper()
	for {
		_, err := call()
		if err == nil {
			return
		}
		if err != unix.EINTR {
			t.Fatalf("a packet did not leave, or did not arrive: %v", err)
		}
	}
}

// perThread is how often the runtime allocates for a thread it starts.
const perThread = 7

// threadCount is how many threads there are.
func threadCount() int {
	n, _ := runtime.ThreadCreateProfile(nil)
	return n
}

func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

// A flow of small datagrams and of large ones, which leave in fragments, arrives in the order in which it was sent, though
// two queues carry it, beside another flow.
func TestMixedSizesStayInOrder(t *testing.T) {
	a, b := twoHosts(t)
	// Packets of one sender are taken in by one processor: else this link itself changes their order.
	for _, h := range []host{a, b} {
		set := exec.Command("ip", "netns", "exec", h.name, "sh", "-c", "echo 1 > /sys/class/net/veth0/queues/rx-0/rps_cpus")
		if out, err := set.CombinedOutput(); err != nil {
			t.Skipf("cannot make the link keep the order: %v: %s", err, out)
		}
	}
	dir := t.TempDir()
	var gateways []*daemon
	for _, e := range [][2]host{{a, b}, {b, a}} {
		g, err := e[0].start(t, Config{Settings: configure(t, dir, e[0], e[1], "encap = \"udp\"\n"), StateDir: dir, Log: testLog(t, e[0].name)})
		if err != nil {
			t.Fatal(err)
		}
		defer g.stop()
		gateways = append(gateways, g)
	}
	a.ping(t, b.inner)
	at := &net.UDPAddr{IP: net.ParseIP(b.inner), Port: 7000}
	in := inside(t, b, func() (*net.UDPConn, error) { return net.ListenUDP("udp", at) })
	defer in.Close()
	_ = in.SetReadBuffer(8 << 20)
	out := inside(t, a, func() (*net.UDPConn, error) { return net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(a.inner)}, at) })
	defer out.Close()
	const rounds, few = 300, 30
	buf := make([]byte, 5000)
	for round := range rounds {
		for i := range few {
			b := buf[:100]
			if i%3 == 1 {
				b = buf[:5000]
			}
			b[0], b[1], b[2] = byte(round>>8), byte(round), byte(i)
			if _, err := out.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		for i := range few {
			_ = in.SetReadDeadline(time.Now().Add(10 * time.Second))
			n, err := in.Read(buf)
			if err != nil {
				t.Fatalf("round %d: datagram %d: %v", round, i, err)
			}
			if buf[0] != byte(round>>8) || buf[1] != byte(round) || buf[2] != byte(i) {
				t.Fatalf("round %d: datagram %d came as number %d, %d octets", round, buf[2], i, n)
			}
		}
	}
	for _, g := range gateways {
		g.end(t)
	}
}
