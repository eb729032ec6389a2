package tun

import (
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"coati/packet"
)

// Two Coatis on one host: what the other's tunnel brings is protected, and what its sockets speak is outer traffic, though
// the policies of the first cover all of it. With the mark or the group taken away it is dropped.
func TestGuardKnowsTheOtherCoatis(t *testing.T) {
	b := newBorder(t)
	dir := t.TempDir()
	one, two := openHost(t, "one", dir), openHost(t, "two", dir)
	g := guard(t, one)
	ok(t, g.Replace([]GuardRule{protect("10.2.0.0/16", "0.0.0.0/0"), protect("fd00:2::/64", "::/0")}))
	device, err := two.OpenDevice(DeviceConfig{Queues: 1, MTU: 1400})
	ok(t, err)
	writeSysctl(t, "net/ipv4/conf/two/rp_filter", 0)
	in4 := netip.MustParseAddr("10.1.0.1")
	dropped := func(n uint64, when string) {
		t.Helper()
		c, err := g.Count()
		ok(t, err)
		if c.Packets != n {
			t.Errorf("%s: %d packets dropped, want %d", when, c.Packets, n)
		}
	}
	through := func(text string) {
		frame := make([]byte, HeaderSize)
		ok(t, device.Queues()[0].WriteFrame([][]byte{frame, datagram(netip.MustParseAddr("10.2.0.1"), in4, 7000, text)}))
	}
	through("by the other tunnel")
	if got := b.delivered(); !slices.Equal(got, []string{"by the other tunnel"}) {
		t.Errorf("delivered %q", got)
	}
	dropped(0, "by the other tunnel")

	if !g.sockets {
		t.Log("this kernel cannot match sockets: the other's ports are not tried")
	} else {
		u, err := two.OpenUDP(UDPConfig{Local: netip.AddrPortFrom(in4, 1500)})
		ok(t, err)
		b.forge(netip.MustParseAddr("10.2.0.1"), u.Local(), "ike")
		buf := make([]byte, 1<<16)
		r, err := u.Sockets()[0].Receive(buf)
		if err != nil || string(buf[:r.N]) != "ike" {
			t.Errorf("the other's socket received %q: %v", buf[:r.N], err)
		}
		before, err := g.Count()
		ok(t, err)
		quoted := datagram(in4, netip.MustParseAddr("10.2.0.9"), 9, "x")
		quoted[20], quoted[21] = 1500>>8, 1500&0xff
		about := append([]byte{3, 4, 0, 0, 0, 0, 0, 0}, quoted[:28]...)
		sum := checksum(about)
		about[2], about[3] = byte(sum>>8), byte(sum)
		b.raw(netip.MustParseAddr("10.2.0.1"), in4, packet.ProtoICMP, about)
		b.delivered()
		dropped(before.Packets, "an error about what it sent")
		// Nobody's socket has the mark there.
		plain, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(in4, 1600)))
		ok(t, err)
		defer plain.Close()
		b.forge(netip.MustParseAddr("10.2.0.1"), netip.AddrPortFrom(in4, 1600), "forged")
		b.delivered()
		dropped(before.Packets+1, "to a program of somebody else's")
	}

	before, err := g.Count()
	ok(t, err)
	ok(t, two.nl.LinkSetGroup(device.link, 0))
	through("by a device of somebody else's")
	if got := b.delivered(); len(got) != 0 {
		t.Errorf("delivered %q", got)
	}
	dropped(before.Packets+1, "by a device of somebody else's")
}

// datagram is an IPv4 packet with a UDP datagram to a port.
func datagram(from, to netip.Addr, port uint16, text string) []byte {
	p := make([]byte, 28, 28+len(text))
	p[0], p[3], p[8], p[9] = 0x45, byte(28+len(text)), 64, packet.ProtoUDP
	copy(p[12:], from.AsSlice())
	copy(p[16:], to.AsSlice())
	p[20], p[22], p[23], p[25] = 0x23, byte(port>>8), byte(port), byte(8+len(text))
	sum := checksum(p[:20])
	p[10], p[11] = byte(sum>>8), byte(sum)
	return append(p, text...)
}

// checksum is the Internet's (RFC 1071) of an even number of octets.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// A change that fails half way leaves nothing for the next one: neither messages nor the error.
func TestGuardAfterAFailedChange(t *testing.T) {
	b := newBorder(t)
	h := openHost(t, "coatiguard", t.TempDir())
	g := guard(t, h)
	to := netip.AddrPortFrom(netip.MustParseAddr("10.1.0.1"), 7000)
	knock := func() []string {
		b.forge(netip.MustParseAddr("10.2.0.1"), to, "two")
		b.forge(netip.MustParseAddr("10.3.0.1"), to, "three")
		return b.delivered()
	}
	ok(t, g.Replace([]GuardRule{protect("10.2.0.0/16", "10.1.0.0/24")}))
	table := g.table
	for what, fail := range map[string]func() (restore func()){
		// No attribute of netlink is that long: it fails before anything is sent, with messages waiting.
		"it cannot be written": func() func() {
			n := *table
			n.Name = strings.Repeat("x", 1<<16)
			g.table = &n
			return func() { g.table = table }
		},
		"the kernel refuses it": func() func() {
			was := g.chains
			missing := *g.input
			missing.Name = "missing"
			g.chains = append(slices.Clone(was), &missing)
			return func() { g.chains = was }
		},
	} {
		restore := fail()
		if err := g.Replace([]GuardRule{protect("10.3.0.0/16", "10.1.0.0/24")}); err == nil {
			t.Fatalf("%s: it succeeded; the test proves nothing", what)
		}
		restore()
		if got := knock(); !slices.Equal(got, []string{"three"}) {
			t.Errorf("%s: delivered %q: the former rules do not stand", what, got)
		}
		if _, err := g.Count(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		ok(t, g.Replace([]GuardRule{protect("10.3.0.0/16", "10.1.0.0/24")}))
		if got := knock(); !slices.Equal(got, []string{"two"}) {
			t.Errorf("%s: delivered %q: the next rules do not stand", what, got)
		}
		ok(t, g.Replace([]GuardRule{protect("10.2.0.0/16", "10.1.0.0/24")}))
	}
	start := time.Now()
	ok(t, g.Close())
	t.Logf("closed in %v", time.Since(start))
}

// What is passed on to a network behind us is held back as what is for ourselves: the kernel asks its forward policies there.
func TestGuardHoldsBackWhatIsForwarded(t *testing.T) {
	b := newBorder(t)
	for _, command := range []string{
		"link add fa type veth peer name fb", "link set fa addrgenmode none up", "link set fb addrgenmode none up", "addr add 10.5.0.1/24 dev fa",
		"neigh add 10.5.0.9 lladdr 02:00:00:00:00:09 dev fa nud permanent",
	} {
		if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", command, err, out)
		}
	}
	writeSysctl(t, "net/ipv4/ip_forward", 1)
	b.n.in(t, b.o, func() {
		peer, err := netlink.LinkByName("peer0")
		ok(t, err)
		ok(t, netlink.RouteAdd(&netlink.Route{LinkIndex: peer.Attrs().Index, Dst: ipNet(prefixes("10.5.0.0/24")[0]), Gw: here4.AsSlice()}))
	})
	g := guard(t, openHost(t, "coatiguard", t.TempDir()))
	passed := func() uint64 {
		l, err := netlink.LinkByName("fa")
		ok(t, err)
		return l.Attrs().Statistics.TxPackets
	}
	try := func(when string, rules []GuardRule, pass bool) {
		t.Helper()
		ok(t, g.Replace(rules))
		was := passed()
		before, err := g.Count()
		ok(t, err)
		for range 5 {
			b.forge(netip.MustParseAddr("10.2.0.1"), netip.MustParseAddrPort("10.5.0.9:7000"), "forged")
		}
		b.delivered() // what was sent before it has been seen
		after, err := g.Count()
		ok(t, err)
		want := [2]uint64{5, 0}
		if !pass {
			want = [2]uint64{0, 5}
		}
		if got := [2]uint64{passed() - was, after.Packets - before.Packets}; got != want {
			t.Errorf("%s: %v passed on and counted, want %v", when, got, want)
		}
	}
	try("without rules", nil, true)
	try("with a policy", []GuardRule{protect("10.2.0.0/16", "10.5.0.0/24")}, false)
	try("with one for others", []GuardRule{protect("10.2.0.0/16", "10.1.0.0/24")}, true)
}
