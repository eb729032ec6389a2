package tun

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// appSocket is a program's own UDP socket, without our mark, opened on this thread.
func appSocket(t *testing.T, local netip.AddrPort) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(local))
	ok(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func TestFramesGoRound(t *testing.T) {
	enterNamespace(t)
	h := openHost(t, "ctun0", t.TempDir())
	d, err := h.OpenDevice(DeviceConfig{Queues: 2, MTU: 1400})
	ok(t, err)
	if got, want := d.Offloads(), "vnet-hdr, tso, uso, 2 queues"; got != want {
		t.Errorf("offloads %q, want %q", got, want)
	}
	us, peer := netip.MustParseAddrPort("10.9.0.1:7"), netip.MustParseAddrPort("10.9.0.2:9")
	ok(t, d.AddAddress(netip.MustParsePrefix("10.9.0.1/24")))
	app := appSocket(t, us)

	type read struct {
		frame []byte
		err   error
	}
	reads := make(chan read)
	var readers sync.WaitGroup
	for _, q := range d.Queues() {
		readers.Go(func() {
			for {
				buf := make([]byte, FrameSize)
				n, err := q.ReadFrame(buf, nil)
				reads <- read{buf[:n], err}
				if err != nil {
					return
				}
			}
		})
	}

	_, err = app.WriteToUDPAddrPort([]byte("out"), peer)
	ok(t, err)
	r := <-reads
	ok(t, r.err)
	ip := r.frame[HeaderSize:]
	if len(ip) != 20+8+3 || ip[0]>>4 != 4 || string(ip[28:]) != "out" || netip.AddrFrom4([4]byte(ip[16:20])) != peer.Addr() {
		t.Fatalf("frame %x", r.frame)
	}

	// The same octets back, in several slices; an IPv4 UDP checksum of zero is none.
	answer := bytes.Clone(ip[:28])
	copy(answer[12:16], ip[16:20])
	copy(answer[16:20], ip[12:16])
	copy(answer[20:22], ip[22:24])
	copy(answer[22:24], ip[20:22])
	clear(answer[26:28])
	ok(t, d.Queues()[1].WriteFrame([][]byte{make([]byte, HeaderSize), answer, nil, []byte("o"), []byte("ut")}))
	buf := make([]byte, 10)
	n, from, err := app.ReadFromUDPAddrPort(buf)
	ok(t, err)
	if string(buf[:n]) != "out" || from != peer {
		t.Errorf("the program got %q from %v", buf[:n], from)
	}

	ok(t, d.Close())
	for range d.Queues() {
		if r := <-reads; !errors.Is(r.err, os.ErrClosed) {
			t.Errorf("a read after Close: %x, %v", r.frame, r.err)
		}
	}
	readers.Wait()
	if err := d.Queues()[0].WriteFrame([][]byte{make([]byte, 50)}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a write after Close: %v", err)
	}
	if _, err := netlink.LinkByName("ctun0"); err == nil {
		t.Error("the device is still there")
	}
}

// Two hosts whose TUNs are joined frame by frame: what TCP and UDP hand over in runs crosses in runs.
func TestRunsCrossUnsplit(t *testing.T) {
	n := enterNamespace(t)
	o := n.another(t)
	open := func(addr string) *Device {
		h := openHost(t, "ctun0", t.TempDir())
		d, err := h.OpenDevice(DeviceConfig{Queues: 2, MTU: 1400})
		ok(t, err)
		ok(t, d.AddAddress(netip.MustParsePrefix(addr)))
		return d
	}
	left := open("10.9.0.1/24")
	var right *Device
	var server net.Listener
	var udpServer *net.UDPConn
	n.in(t, o, func() {
		right = open("10.9.0.2/24")
		var err error
		server, err = net.Listen("tcp", "10.9.0.2:80")
		ok(t, err)
		udpServer = appSocket(t, netip.MustParseAddrPort("10.9.0.2:80"))
	})
	defer server.Close()

	var largest [2]atomic.Int64 // TCP, UDP
	var wires sync.WaitGroup
	wire := func(from, to *Device) {
		for i := range from.Queues() {
			wires.Go(func() {
				buf := make([]byte, FrameSize)
				for {
					n, err := from.Queues()[i].ReadFrame(buf, nil)
					if err != nil {
						return
					}
					kind := &largest[0]
					if buf[HeaderSize+9] == unix.IPPROTO_UDP {
						kind = &largest[1]
					}
					kind.Store(max(kind.Load(), int64(n)))
					if err := to.Queues()[i].WriteFrame([][]byte{buf[:HeaderSize], buf[HeaderSize:n]}); err != nil {
						return
					}
				}
			})
		}
	}
	wire(left, right)
	wire(right, left)

	sent := make([]byte, 4<<20)
	rand.Read(sent)
	var got []byte
	var rest sync.WaitGroup
	rest.Go(func() {
		c, err := server.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		got, _ = io.ReadAll(c)
	})
	client, err := net.Dial("tcp", "10.9.0.2:80")
	ok(t, err)
	_, err = client.Write(sent)
	ok(t, err)
	ok(t, client.Close())
	rest.Wait()
	if !bytes.Equal(got, sent) {
		t.Errorf("sent %d octets, got %d, or others", len(sent), len(got))
	}

	app := appSocket(t, netip.MustParseAddrPort("10.9.0.1:7"))
	raw, err := app.SyscallConn()
	ok(t, err)
	ok(t, raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, 1000) }))
	ok(t, err)
	_, err = app.WriteToUDPAddrPort(sent[:20_500], netip.MustParseAddrPort("10.9.0.2:80"))
	ok(t, err)
	buf := make([]byte, 2000)
	for want := sent[:20_500]; len(want) > 0; {
		n, err := udpServer.Read(buf)
		ok(t, err)
		if !bytes.Equal(buf[:n], want[:min(1000, len(want))]) {
			t.Fatalf("datagram of %d octets is not the next one", n)
		}
		want = want[n:]
	}
	if l := largest[0].Load(); l < 10_000 {
		t.Errorf("largest TCP frame has %d octets: no TSO", l)
	}
	if l := largest[1].Load(); l < 20_000 {
		t.Errorf("largest UDP frame has %d octets: no USO", l)
	}
	ok(t, left.Close())
	ok(t, right.Close())
	wires.Wait()
}

func TestDeviceNameTaken(t *testing.T) {
	enterNamespace(t)
	dir := t.TempDir()

	t.Log("by another program, also one with multi-queue")
	other := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "ctun0"}, Mode: netlink.TUNTAP_MODE_TUN, Queues: 1, Flags: netlink.TUNTAP_MULTI_QUEUE_DEFAULTS | netlink.TUNTAP_VNET_HDR}
	ok(t, netlink.LinkAdd(other))
	h := openHost(t, "ctun0", dir)
	if _, err := h.OpenDevice(DeviceConfig{Queues: 1, MTU: 1400}); err == nil || !strings.Contains(err.Error(), "belongs to another program") {
		t.Errorf("device of another program: %v", err)
	}
	ok(t, netlink.LinkDel(other))
	for _, f := range other.Fds {
		f.Close()
	}

	t.Log("by another coati")
	d := startDaemon(t, daemonConfig{Name: "ctun1", Dir: dir})
	_, err := Open(Config{Name: "ctun1", StateDir: dir})
	want := "tun ctun1 is in use by another coati (pid " // and the number
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("second of the same name: %v", err)
	}
	d.kill()
	again, err := Open(Config{Name: "ctun1", StateDir: dir})
	ok(t, err)
	_, err = again.OpenDevice(DeviceConfig{Queues: 1, MTU: 1400})
	ok(t, err)
	ok(t, again.Close())
}

func TestOpenRefusesBadNames(t *testing.T) {
	for _, c := range []Config{{}, {Name: "sixteen-octets--"}, {Name: "ctun0", Mark: 3}} {
		if h, err := Open(c); err == nil {
			h.Close()
			t.Errorf("%+v was taken", c)
		}
	}
}

// The reader hears once that no frame is there, before it waits for one.
func TestIdleBeforeWaiting(t *testing.T) {
	enterNamespace(t)
	h := openHost(t, "ctun0", t.TempDir())
	d, err := h.OpenDevice(DeviceConfig{Queues: 1, MTU: 1400})
	ok(t, err)
	ok(t, d.AddAddress(netip.MustParsePrefix("10.9.0.1/24")))
	u, err := h.OpenUDP(UDPConfig{Local: netip.MustParseAddrPort("10.9.0.1:7"), Sockets: 1})
	ok(t, err)
	buf, idle := make([]byte, FrameSize), make(chan struct{}, 10)
	for range 3 {
		read := make(chan error)
		go func() {
			_, err := d.Queues()[0].ReadFrame(buf, func() { idle <- struct{}{} })
			read <- err
		}()
		<-idle
		ok(t, u.Sockets()[0].Send(netip.MustParseAddrPort("10.9.0.2:7"), u.Local().Addr(), 0, []byte("x"), 0))
		ok(t, <-read)
		if len(idle) > 0 {
			t.Error("told again")
		}
	}
}

func TestFramesAllocateNothing(t *testing.T) {
	enterNamespace(t)
	h := openHost(t, "ctun0", t.TempDir())
	d, err := h.OpenDevice(DeviceConfig{Queues: 1, MTU: 1400})
	ok(t, err)
	ok(t, d.AddAddress(netip.MustParsePrefix("10.9.0.1/24")))
	u, err := h.OpenUDP(UDPConfig{Local: netip.MustParseAddrPort("10.9.0.1:7"), Sockets: 1})
	ok(t, err)
	sock, peer := u.Sockets()[0], netip.MustParseAddrPort("10.9.0.2:7")
	q := d.Queues()[0]
	frame, buf, payload := make([]byte, FrameSize), make([]byte, 1<<16), []byte("payload")
	iov := make([][]byte, 2)
	idle := func() { t.Error("idle although a frame is there") }
	allocs := testing.AllocsPerRun(200, func() {
		ok(t, sock.Send(peer, u.Local().Addr(), 0, payload, 0))
		n, err := q.ReadFrame(frame, idle)
		ok(t, err)
		ip := frame[HeaderSize:n]
		src, dst := binary.BigEndian.Uint32(ip[12:]), binary.BigEndian.Uint32(ip[16:])
		binary.BigEndian.PutUint32(ip[12:], dst)
		binary.BigEndian.PutUint32(ip[16:], src)
		clear(ip[26:28])
		clear(frame[:HeaderSize])
		iov[0], iov[1] = frame[:HeaderSize], ip
		ok(t, q.WriteFrame(iov))
		got, err := sock.Receive(buf)
		ok(t, err)
		if got.N != len(payload) || got.From != peer {
			t.Fatalf("received %+v", got)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations a frame", allocs)
	}
}

func TestLedgerUndoesInReverse(t *testing.T) {
	t.Parallel()
	var l Ledger
	var undone []string
	add := func(what string, err error) *Change {
		return l.Record(what, func() error { undone = append(undone, what); return err })
	}
	add("device", nil)
	early := add("sysctl", nil)
	add("rule", errors.New("netlink says no"))
	add("route", nil)
	ok(t, early.Undo())
	ok(t, early.Undo())
	if diff := cmp.Diff([]string{"device", "rule", "route"}, l.Entries()); diff != "" {
		t.Error(diff)
	}
	if err := l.Close(); err == nil || err.Error() != "undo rule: netlink says no" {
		t.Errorf("Close: %v", err)
	}
	if diff := cmp.Diff([]string{"sysctl", "route", "rule", "device"}, undone); diff != "" {
		t.Error(diff)
	}
	ok(t, l.Close())
}
