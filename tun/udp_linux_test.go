package tun

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

var (
	cmpAddr     = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	cmpAddrPort = cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
)

// pair opens two groups of one socket each.
func pair(t *testing.T, h *Host, a, b netip.Addr) (from, to *UDP) {
	t.Helper()
	open := func(a netip.Addr) *UDP {
		u, err := h.OpenUDP(UDPConfig{Local: netip.AddrPortFrom(a, 0), Sockets: 1})
		ok(t, err)
		if u.Offloads() != "gso, gro" {
			t.Errorf("offloads %q", u.Offloads())
		}
		return u
	}
	return open(a), open(b)
}

// receiveAll receives runs until size octets are there, and returns them with the length of each
// datagram and the number of runs.
func receiveAll(t *testing.T, s *UDPSocket, size int) (octets []byte, lengths []int, runs int) {
	t.Helper()
	buf := make([]byte, 1<<16)
	for len(octets) < size {
		d, err := s.Receive(buf)
		ok(t, err)
		octets = append(octets, buf[:d.N]...)
		for n := d.N; n > 0; n -= d.SegSize {
			lengths = append(lengths, min(n, d.SegSize))
		}
		runs++
	}
	return octets, lengths, runs
}

func cut(size, seg int) (lengths []int) {
	for ; size > 0; size -= seg {
		lengths = append(lengths, min(size, seg))
	}
	return lengths
}

func TestRunsOfDatagrams(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "::1"} {
		for _, c := range []struct{ size, seg, runs int }{
			{100, 0, 1},
			{100, 100, 1},
			{64_000, 1000, 1},
			{63_500, 1000, 1},
			{200*1400 + 7, 1400, 5}, // 46 datagrams of 1,400 octets are a run
			{65 * 40, 40, 2},
			{65_480, 0, 1},
		} {
			t.Run(fmt.Sprintf("%s/%d-%d", addr, c.size, c.seg), func(t *testing.T) {
				enterNamespace(t)
				local := netip.MustParseAddr(addr)
				from, to := pair(t, openHost(t, "ctun0", t.TempDir()), local, local)
				sent := make([]byte, c.size)
				rand.Read(sent)
				ok(t, from.Sockets()[0].Send(to.Local(), local, 0, sent, c.seg))
				got, lengths, runs := receiveAll(t, to.Sockets()[0], c.size)
				if !bytes.Equal(got, sent) {
					t.Error("other octets")
				}
				seg := c.seg
				if seg == 0 {
					seg = c.size
				}
				if diff := cmp.Diff(cut(c.size, seg), lengths); diff != "" {
					t.Error(diff)
				}
				if runs != c.runs {
					t.Errorf("%d runs, want %d", runs, c.runs)
				}
				if n := from.Sockets()[0].Fallbacks(); n != 0 {
					t.Errorf("%d fallbacks", n)
				}
			})
		}
	}
}

func TestReceiveAllTakesWhatIsThere(t *testing.T) {
	enterNamespace(t)
	local := netip.MustParseAddr("127.0.0.1")
	from, to := pair(t, openHost(t, "ctun0", t.TempDir()), local, local)
	runs := [][]byte{bytes.Repeat([]byte{1}, 3000), {2}, bytes.Repeat([]byte{3}, 2500), {4, 4}, {5}}
	for _, b := range runs {
		ok(t, from.Sockets()[0].Send(to.Local(), local, 0x02, b, 1000))
	}
	bufs, out := buffers(3), make([]Datagrams, MaxReceives)
	var got [][]byte
	for _, want := range []int{3, 2} {
		n, err := to.Sockets()[0].ReceiveAll(bufs, out)
		ok(t, err)
		if n != want {
			t.Fatalf("%d runs, want %d", n, want)
		}
		for i, d := range out[:n] {
			got = append(got, bytes.Clone(bufs[i][:d.N]))
			if d.SegSize != min(1000, d.N) || d.From != from.Local() || d.Local != local || d.TOS != 0x02 {
				t.Errorf("run %d: %+v", i, d)
			}
		}
	}
	if diff := cmp.Diff(runs, got); diff != "" {
		t.Error(diff)
	}
	if _, err := to.Sockets()[0].ReceiveAll([][]byte{make([]byte, 100)}, out); err == nil {
		t.Error("a buffer of 100 octets was taken")
	}
}

// The kernel refuses to segment for a socket that sends no checksums, as it does (with other
// error numbers) where a device or a route can't: the same octets arrive, one by one.
func TestFallbackSendsTheSameOctets(t *testing.T) {
	for addr, noChecksum := range map[string]option{
		"127.0.0.1": {unix.SOL_SOCKET, unix.SO_NO_CHECK, 1, "SO_NO_CHECK"},
		"::1":       {unix.SOL_UDP, unix.UDP_NO_CHECK6_TX, 1, "UDP_NO_CHECK6_TX"},
	} {
		t.Run(addr, func(t *testing.T) {
			enterNamespace(t)
			local := netip.MustParseAddr(addr)
			from, to := pair(t, openHost(t, "ctun0", t.TempDir()), local, local)
			receive := option{unix.SOL_UDP, unix.UDP_NO_CHECK6_RX, 1, "UDP_NO_CHECK6_RX"}
			s := from.Sockets()[0]
			ok(t, s.out.conn.control(func(fd int) error { return setOptions(fd, []option{noChecksum}) }))
			ok(t, to.Sockets()[0].out.conn.control(func(fd int) error { return setOptions(fd, []option{receive}) }))
			const size = 100*1400 + 9
			sent := make([]byte, size)
			rand.Read(sent)
			ok(t, s.Send(to.Local(), local, 0, sent, 1400))
			got, lengths, _ := receiveAll(t, to.Sockets()[0], size)
			if !bytes.Equal(got, sent) {
				t.Error("other octets")
			}
			if diff := cmp.Diff(cut(size, 1400), lengths); diff != "" {
				t.Error(diff)
			}
			if n := s.Fallbacks(); n != 3 {
				t.Errorf("%d fallbacks, want one for each of 3 runs", n)
			}
			if got, want := from.Offloads(), "gso, gro, 3 runs sent one by one"; got != want {
				t.Errorf("offloads %q, want %q", got, want)
			}
		})
	}
}

// A kernel without UDP_SEGMENT or UDP_GRO is known from the start: the same octets, and nothing is tried in vain.
func TestWithoutOffloads(t *testing.T) {
	enterNamespace(t)
	local := netip.MustParseAddr("127.0.0.1")
	from, to := pair(t, openHost(t, "ctun0", t.TempDir()), local, local)
	s, r := from.Sockets()[0], to.Sockets()[0]
	from.gso, s.out.gso, from.gro = false, false, false
	ok(t, r.out.conn.control(func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 0) }))
	const size = 100*1400 + 9
	sent := make([]byte, size)
	rand.Read(sent)
	ok(t, s.Send(to.Local(), local, 0, sent, 1400))
	got, lengths, runs := receiveAll(t, r, size)
	if !bytes.Equal(got, sent) || runs != 101 {
		t.Errorf("other octets, or %d runs for 101 datagrams", runs)
	}
	if diff := cmp.Diff(cut(size, 1400), lengths); diff != "" {
		t.Error(diff)
	}
	if got := from.Offloads(); got != "none" || s.Fallbacks() != 0 {
		t.Errorf("offloads %q, %d fallbacks", got, s.Fallbacks())
	}
}

// EIO speaks of the device: for a while nothing else is tried.
func TestFallbackAfterEIORests(t *testing.T) {
	enterNamespace(t)
	local := netip.MustParseAddr("127.0.0.1")
	from, to := pair(t, openHost(t, "ctun0", t.TempDir()), local, local)
	s := from.Sockets()[0]
	s.out.rest = 1
	sent := bytes.Repeat([]byte("coati"), 400)
	for _, want := range []int{2, 1} { // runs received: singly, then merged again
		ok(t, s.Send(to.Local(), local, 0, sent, 1000))
		got, _, runs := receiveAll(t, to.Sockets()[0], len(sent))
		if !bytes.Equal(got, sent) || runs != want {
			t.Errorf("%d runs, want %d", runs, want)
		}
	}
}

func TestPathMTU(t *testing.T) {
	for _, c := range []struct{ here, there netip.Addr }{{here4, there4}, {here6, there6}} {
		t.Run(familyName(c.here.Is6()), func(t *testing.T) {
			n := enterNamespace(t)
			o := n.another(t)
			n.connect(t, o)
			h := openHost(t, "ctun0", t.TempDir())
			from, err := h.OpenUDP(UDPConfig{Local: netip.AddrPortFrom(c.here, 500)})
			ok(t, err)
			var to *UDP
			n.in(t, o, func() {
				to, err = openHost(t, "ctun0", t.TempDir()).OpenUDP(UDPConfig{Local: netip.AddrPortFrom(c.there, 500)})
				ok(t, err)
			})
			s, r := from.Sockets()[0], to.Sockets()[0]
			up, err := h.RouteTo(c.there)
			ok(t, err)
			if up.Name != "up0" || up.Src != c.here || up.MTU != 1500 {
				t.Errorf("route: %+v", up)
			}

			big := bytes.Repeat([]byte("0123456789"), 451) // 4,510 octets
			if err := s.Send(to.Local(), c.here, 0, big[:2000], 0); err != ErrTooBig {
				t.Errorf("one too big: %v", err)
			}
			if err := s.Send(to.Local(), c.here, 0, big, 2000); err != ErrTooBig {
				t.Errorf("a run too big: %v", err)
			}
			if got, _, _ := receiveAll(t, r, 510); !bytes.Equal(got, big[4000:]) {
				t.Errorf("got %d octets, want the run's last, the only one that fits", len(got))
			}
			ok(t, s.SendMessage(to.Local(), c.here, 0, big))
			if got, _, _ := receiveAll(t, r, len(big)); !bytes.Equal(got, big) {
				t.Errorf("a fragmented message has %d octets or others", len(got))
			}
			if err := s.Send(to.Local(), c.here, 0, big[:2000], 0); err != ErrTooBig {
				t.Errorf("after the message: %v, want DF as before", err)
			}
		})
	}
}

func TestAddressesAndTOS(t *testing.T) {
	for _, c := range []struct{ any, from, to string }{
		{"0.0.0.0", "127.0.0.2", "127.0.0.3"},
		{"::", "2001:db8::1", "2001:db8::3"},
	} {
		t.Run(c.any, func(t *testing.T) {
			n := enterNamespace(t)
			n.connect(t, n.another(t))
			h := openHost(t, "ctun0", t.TempDir())
			if c.any == "::" {
				d, err := h.OpenDevice(DeviceConfig{Queues: 1, MTU: 1400})
				ok(t, err)
				ok(t, d.AddAddress(netip.MustParsePrefix("2001:db8::3/128")))
				awaitLocal(t, netip.MustParseAddr("2001:db8::3"))
			}
			a, b := pair(t, h, netip.MustParseAddr(c.any), netip.MustParseAddr(c.any))
			from, to := netip.MustParseAddr(c.from), netip.MustParseAddr(c.to)
			const tos = 0xb9 // EF, ECT(1)
			ok(t, a.Sockets()[0].Send(netip.AddrPortFrom(to, b.Local().Port()), from, tos, []byte("hello"), 0))
			got, err := b.Sockets()[0].Receive(make([]byte, 1<<16))
			ok(t, err)
			want := Datagrams{N: 5, SegSize: 5, From: netip.AddrPortFrom(from, a.Local().Port()), Local: to, TOS: tos}
			if diff := cmp.Diff(want, got, cmpAddr, cmpAddrPort); diff != "" {
				t.Error(diff)
			}
			if err := a.Sockets()[0].Send(netip.MustParseAddrPort("127.0.0.1:1"), there6, 0, []byte("x"), 0); err == nil {
				t.Error("two families in one send were taken")
			}
		})
	}
}

// Whoever overlaps with a living socket is refused, and told by whom.
func TestPortInUse(t *testing.T) {
	const (
		free    = ""
		coati   = "another coati (pid "
		program = "another program: look with ss -ulnp"
	)
	plain := func(t *testing.T, a string, reuse bool) {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) {
				if reuse {
					unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
				}
			})
		}}
		network := "udp4"
		if a[0] == '[' {
			network = "udp6"
		}
		c, err := lc.ListenPacket(context.Background(), network, a)
		ok(t, err)
		t.Cleanup(func() { c.Close() })
	}
	for _, c := range []struct{ who, first, second, want string }{
		{"coati", "127.0.0.1:500", "127.0.0.1:500", coati},
		{"coati", "127.0.0.1:500", "127.0.0.2:500", free},
		{"coati", "127.0.0.1:500", "127.0.0.1:4500", free},
		{"coati", "0.0.0.0:500", "127.0.0.1:500", coati},
		{"coati", "127.0.0.1:500", "0.0.0.0:500", coati},
		{"coati", "0.0.0.0:500", "0.0.0.0:500", coati},
		{"coati", "0.0.0.0:500", "[::]:500", free},
		{"coati", "[::]:500", "[::]:500", coati},
		{"coati", "[::]:500", "[::1]:500", coati},
		{"coati", "[::1]:500", "[::]:500", coati},
		{"coati", "[::1]:500", "[::1]:500", coati},
		{"coati", "[::1]:500", "127.0.0.1:500", free},
		{"program", "127.0.0.1:500", "127.0.0.1:500", program},
		{"program", "0.0.0.0:500", "127.0.0.1:500", program},
		{"program", "127.0.0.1:500", "0.0.0.0:500", program},
		{"program with SO_REUSEPORT", "127.0.0.1:500", "127.0.0.1:500", program},
		{"program with SO_REUSEPORT", "127.0.0.1:500", "0.0.0.0:500", program},
		{"program with SO_REUSEPORT", "[::]:500", "[::1]:500", program},
	} {
		t.Run(c.who+" "+c.first+" "+c.second, func(t *testing.T) {
			enterNamespace(t)
			dir := t.TempDir()
			if c.who == "coati" {
				_, err := openHost(t, "ctun0", dir).OpenUDP(UDPConfig{Local: netip.MustParseAddrPort(c.first), Sockets: 2})
				ok(t, err)
			} else {
				plain(t, c.first, c.who != "program")
			}
			_, err := openHost(t, "ctun1", dir).OpenUDP(UDPConfig{Local: netip.MustParseAddrPort(c.second), Sockets: 2})
			switch {
			case c.want == free && err != nil:
				t.Error(err)
			case c.want != free && (err == nil || !strings.Contains(err.Error(), "is in use by "+c.want)):
				t.Errorf("got %v, want in use by %s", err, c.want)
			case c.want == coati && !strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", os.Getpid())):
				t.Errorf("got %v, want our pid", err)
			}
		})
	}
}

func TestPortIsFreeAfterKill(t *testing.T) {
	enterNamespace(t)
	dir, port := t.TempDir(), netip.MustParseAddrPort("0.0.0.0:4500")
	d := startDaemon(t, daemonConfig{Name: "ctun0", Dir: dir, UDP: port})
	h := openHost(t, "ctun1", dir)
	_, err := h.OpenUDP(UDPConfig{Local: port})
	want := fmt.Sprintf("udp 4500 on 0.0.0.0 is in use by another coati (pid %d)", d.cmd.Process.Pid)
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	d.kill()
	_, err = h.OpenUDP(UDPConfig{Local: port})
	ok(t, err)
}

func TestBindErrorsAreForPeople(t *testing.T) {
	enterNamespace(t)
	h := openHost(t, "ctun0", t.TempDir())
	_, err := h.OpenUDP(UDPConfig{Local: netip.MustParseAddrPort("198.51.100.9:500")})
	if err == nil || err.Error() != "udp 500 on 198.51.100.9: no interface has this address" {
		t.Error(err)
	}
}

func TestCloseEndsReceive(t *testing.T) {
	enterNamespace(t)
	h := openHost(t, "ctun0", t.TempDir())
	u, err := h.OpenUDP(UDPConfig{Local: netip.MustParseAddrPort("127.0.0.1:500"), Sockets: 3})
	ok(t, err)
	raw, err := h.OpenRawESP(RawESPConfig{Local: netip.IPv4Unspecified()})
	ok(t, err)
	errs := make(chan error, 4)
	var started sync.WaitGroup
	started.Add(4)
	for _, s := range u.Sockets() {
		go func() {
			started.Done()
			_, err := s.Receive(make([]byte, 1<<16))
			errs <- err
		}()
	}
	go func() {
		started.Done()
		_, err := raw.Receive([][]byte{make([]byte, 1<<16)}, make([]Packet, 1))
		errs <- err
	}()
	started.Wait()
	ok(t, u.Close())
	ok(t, raw.Close())
	for range 4 {
		if err := <-errs; !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	}
	if err := u.Sockets()[0].Send(netip.MustParseAddrPort("127.0.0.1:1"), netip.Addr{}, 0, []byte("x"), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a send after Close: %v", err)
	}
}

func TestDatagramsAllocateNothing(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "::1"} {
		t.Run(addr, func(t *testing.T) {
			enterNamespace(t)
			local := netip.MustParseAddr(addr)
			a, b := pair(t, openHost(t, "ctun0", t.TempDir()), local, local)
			sent, buf := make([]byte, 20_000), make([]byte, 1<<16)
			for _, rest := range []int{0, 1 << 30} { // with UDP_SEGMENT and without
				a.Sockets()[0].out.rest = rest
				allocs := testing.AllocsPerRun(100, func() {
					ok(t, a.Sockets()[0].Send(b.Local(), local, 0, sent, 1000))
					for n := 0; n < len(sent); {
						d, err := b.Sockets()[0].Receive(buf)
						ok(t, err)
						n += d.N
					}
				})
				if allocs != 0 {
					t.Errorf("%v allocations a run, rest %d", allocs, rest)
				}
			}
		})
	}
}

// What finds no room in a buffer is counted to the last datagram.
func TestFullBuffersAreCounted(t *testing.T) {
	enterNamespace(t)
	h := openHost(t, "ctun0", t.TempDir())
	u, err := h.OpenUDP(UDPConfig{Local: netip.MustParseAddrPort("127.0.0.1:0"), Sockets: 1})
	ok(t, err)
	raw, err := h.OpenRawESP(RawESPConfig{Local: netip.MustParseAddr("127.0.0.1")})
	ok(t, err)
	device, err := h.OpenDevice(DeviceConfig{Queues: 1, MTU: 1400})
	ok(t, err)
	ok(t, device.AddAddress(netip.MustParsePrefix("10.9.0.1/24")))
	app := appSocket(t, netip.MustParseAddrPort("10.9.0.1:0"))
	if u.Lost() != 0 || raw.Lost() != 0 || device.Lost() != 0 {
		t.Fatal("something is lost before anything was sent")
	}
	big := make([]byte, 60000)
	for name, c := range map[string]struct {
		send    func() error
		lost    func() uint64
		receive func() int
	}{
		"udp": {
			func() error { return u.Sockets()[0].Send(u.Local(), netip.Addr{}, 0, big, 0) },
			u.Lost,
			func() int {
				r, err := u.Sockets()[0].Receive(make([]byte, 1<<16))
				ok(t, err)
				return min(1, r.N)
			},
		},
		"raw esp": {
			func() error { return raw.Send(netip.MustParseAddr("127.0.0.1"), netip.Addr{}, 0, big, 0) },
			raw.Lost,
			func() int {
				n, err := raw.Receive(buffers(1), make([]Packet, 1))
				ok(t, err)
				return n
			},
		},
		"tun": {
			func() error {
				_, err := app.WriteToUDPAddrPort([]byte{1}, netip.MustParseAddrPort("10.9.0.2:9"))
				return err
			},
			device.Lost,
			func() int {
				_, err := device.Queues()[0].ReadFrame(make([]byte, FrameSize), nil)
				ok(t, err)
				return 1
			},
		},
	} {
		sent := 0
		for ; c.lost() < 5; sent++ {
			if sent > 100_000 {
				t.Fatalf("%s: nothing is lost of %d", name, sent)
			}
			ok(t, c.send())
		}
		received := 0
		for want := sent - int(c.lost()); received < want; {
			received += c.receive()
		}
		if got := received + int(c.lost()); got != sent {
			t.Errorf("%s: %d sent, %d received and lost", name, sent, got)
		}
	}
}
