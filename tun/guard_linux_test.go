package tun

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// border is a host with networks behind it (10.1.0.0/24, fd00:1::/64) and a neighbour that claims to be anybody.
type border struct {
	t         *testing.T
	n, o      namespace
	received  net.PacketConn // on port 7000 of every address
	neighbour map[netip.Addr]bool
}

func newBorder(t *testing.T) *border {
	b := &border{t: t, n: enterNamespace(t), neighbour: map[netip.Addr]bool{}}
	b.o = b.n.another(t)
	b.n.connect(t, b.o)
	lo, err := netlink.LinkByName("lo")
	ok(t, err)
	for _, p := range prefixes("10.1.0.1/24", "fd00:1::1/64") {
		ok(t, netlink.AddrAdd(lo, &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NODAD}))
		awaitLocal(t, p.Addr())
	}
	ok(t, writeRPFilter("up0", 0))
	ok(t, writeRPFilter("all", 0))
	b.n.in(t, b.o, func() {
		peer, err := netlink.LinkByName("peer0")
		ok(t, err)
		ok(t, netlink.RouteAdd(&netlink.Route{LinkIndex: peer.Attrs().Index, Dst: ipNet(prefixes("10.1.0.0/16")[0]), Gw: here4.AsSlice()}))
		ok(t, netlink.RouteAdd(&netlink.Route{LinkIndex: peer.Attrs().Index, Dst: ipNet(prefixes("fd00:1::/64")[0]), Gw: here6.AsSlice()}))
	})
	b.received, err = net.ListenPacket("udp", "[::]:7000")
	ok(t, err)
	t.Cleanup(func() { b.received.Close() })
	b.acquaint()
	return b
}

// acquaint returns when both ends have found each other on the link, in both families: the first packets may be lost.
func (b *border) acquaint() {
	b.t.Helper()
	for _, to := range []netip.Addr{here4, here6} {
		s, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 7001)))
		ok(b.t, err)
		for deadline := time.Now().Add(20 * time.Second); ; {
			b.n.in(b.t, b.o, func() {
				c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 7001)))
				ok(b.t, err)
				_, _ = c.Write([]byte("hello"))
				c.Close()
			})
			ok(b.t, s.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
			if _, _, err := s.ReadFrom(make([]byte, 16)); err == nil {
				break
			}
			if time.Now().After(deadline) {
				b.t.Fatalf("the neighbour does not reach %v", to)
			}
		}
		s.Close()
	}
}

// forge sends text from an address and port the neighbour need not have, to a port of ours.
func (b *border) forge(from netip.Addr, to netip.AddrPort, text string) {
	b.t.Helper()
	b.n.in(b.t, b.o, func() {
		if !b.neighbour[from] {
			lo, err := netlink.LinkByName("lo")
			ok(b.t, err)
			ok(b.t, netlink.AddrAdd(lo, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(from, from.BitLen())), Flags: unix.IFA_F_NODAD}))
			awaitLocal(b.t, from)
			b.neighbour[from] = true
		}
		c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 9000)), net.UDPAddrFromAddrPort(to))
		ok(b.t, err)
		defer c.Close()
		_, err = c.Write([]byte(text))
		ok(b.t, err)
	})
}

// delivered is what has arrived; the neighbour's own address is behind no policy here, so its word comes last.
func (b *border) delivered() []string {
	b.t.Helper()
	end := fmt.Sprint("end ", time.Now().UnixNano())
	b.n.in(b.t, b.o, func() {
		for _, to := range []netip.Addr{here4, here6} {
			c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 7000)))
			ok(b.t, err)
			_, err = c.Write([]byte(end))
			ok(b.t, err)
			c.Close()
		}
	})
	var out []string
	buf := make([]byte, 2048)
	ok(b.t, b.received.SetReadDeadline(time.Now().Add(10*time.Second)))
	for ends := 0; ends < 2; {
		n, _, err := b.received.ReadFrom(buf)
		ok(b.t, err)
		if text := string(buf[:n]); text == end {
			ends++
		} else {
			out = append(out, text)
		}
	}
	slices.Sort(out) // the first packets of IPv6 wait for neighbour discovery
	return out
}

func guard(t *testing.T, h *Host) *Guard {
	t.Helper()
	g, err := h.OpenGuard(GuardConfig{UDPPorts: []uint16{500, 4500}})
	ok(t, err)
	return g
}

func whole(prefix string) AddrRange {
	p := netip.MustParsePrefix(prefix)
	last := p.Addr().AsSlice()
	for i := p.Bits(); i < len(last)*8; i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	end, _ := netip.AddrFromSlice(last)
	return AddrRange{p.Addr(), end}
}

func protect(src, dst string) GuardRule { return GuardRule{Src: whole(src), Dst: whole(dst)} }

// What claims to come from behind the peer and came by the uplink is dropped and counted; everything else is delivered.
func TestGuardDropsForgedPackets(t *testing.T) {
	b := newBorder(t)
	h := openHost(t, "coatiguard", t.TempDir())
	_, err := h.OpenDevice(DeviceConfig{Queues: 1, MTU: 1400})
	ok(t, err)
	g := guard(t, h)
	in4, in6 := netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("fd00:1::1")
	port := func(a netip.Addr, p uint16) netip.AddrPort { return netip.AddrPortFrom(a, p) }
	knock := func() {
		b.forge(netip.MustParseAddr("10.2.0.1"), port(in4, 7000), "4 forged")
		b.forge(netip.MustParseAddr("fd00:2::1"), port(in6, 7000), "6 forged")
		b.forge(netip.MustParseAddr("10.3.0.1"), port(in4, 7000), "4 of somebody else")
		b.forge(netip.MustParseAddr("fd00:3::1"), port(in6, 7000), "6 of somebody else")
	}
	expect := func(when string, dropped uint64, want ...string) {
		t.Helper()
		before, err := g.Count()
		ok(t, err)
		knock()
		if got := b.delivered(); !slices.Equal(got, want) {
			t.Errorf("%s: delivered %q, want %q", when, got, want)
		}
		after, err := g.Count()
		ok(t, err)
		if n := after.Packets - before.Packets; n != dropped {
			t.Errorf("%s: %d packets counted, want %d", when, n, dropped)
		}
	}
	all := []string{"4 forged", "4 of somebody else", "6 forged", "6 of somebody else"}
	expect("without rules", 0, all...)
	ok(t, g.Replace([]GuardRule{protect("10.2.0.0/16", "10.1.0.0/24"), protect("fd00:2::/64", "fd00:1::/64")}))
	expect("with a policy for each family", 2, "4 of somebody else", "6 of somebody else")
	ok(t, g.Replace([]GuardRule{protect("10.3.0.0/16", "10.1.0.0/24")}))
	expect("with another policy", 1, "4 forged", "6 forged", "6 of somebody else")
	// In fragments: the first of them is dropped, and in IPv4 the whole, and nothing arrives.
	ok(t, g.Replace([]GuardRule{protect("10.2.0.0/16", "10.1.0.0/24"), protect("fd00:2::/64", "fd00:1::/64")}))
	before, err := g.Count()
	ok(t, err)
	b.forge(netip.MustParseAddr("10.2.0.1"), port(in4, 7000), strings.Repeat("4", 2000))
	b.forge(netip.MustParseAddr("fd00:2::1"), port(in6, 7000), strings.Repeat("6", 2000))
	b.forge(netip.MustParseAddr("fd00:3::1"), port(in6, 7000), strings.Repeat("3", 2000))
	if got := b.delivered(); !slices.Equal(got, []string{strings.Repeat("3", 2000)}) {
		t.Errorf("of what came in fragments, %d were delivered, want one", len(got))
	}
	if after, err := g.Count(); err != nil || after.Packets-before.Packets != 2 {
		t.Errorf("%d packets counted (%v), want 2", after.Packets-before.Packets, err)
	}
	r := protect("0.0.0.0/1", "0.0.0.0/0")
	use := protect("10.2.0.0/24", "10.1.0.1/32")
	use.Pass = true
	ok(t, g.Replace([]GuardRule{use, r}))
	expect("with an exception in front", 1, "4 forged", "6 forged", "6 of somebody else")
	ports := protect("10.0.0.0/8", "10.1.0.0/16")
	ports.Protocol, ports.SrcPort, ports.DstPort = 17, AnyPort, PortRange{7000, 7000}
	other := protect("fd00::/16", "fd00::/16")
	other.Protocol, other.SrcPort, other.DstPort = 17, PortRange{1, 8999}, AnyPort
	ok(t, g.Replace([]GuardRule{ports, other}))
	expect("with ports", 2, "6 forged", "6 of somebody else")
	ok(t, g.Replace(nil))
	expect("without rules again", 0, all...)
}

// A policy may cover the peer's own address: IKE and ESP, in UDP or not, and errors about them, are not what it means.
func TestGuardLeavesOuterTraffic(t *testing.T) {
	b := newBorder(t)
	h := openHost(t, "coatiguard", t.TempDir())
	_, err := h.OpenDevice(DeviceConfig{Queues: 1, MTU: 1400})
	ok(t, err)
	g := guard(t, h)
	in4, in6 := netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("fd00:1::1")
	ok(t, g.Replace([]GuardRule{protect("10.2.0.0/16", "0.0.0.0/0"), protect("fd00:2::/64", "::/0")}))
	for _, p := range []int{500, 4500} {
		for _, c := range []struct{ from, to netip.Addr }{{netip.MustParseAddr("10.2.0.1"), in4}, {netip.MustParseAddr("fd00:2::1"), in6}} {
			s, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(c.to, uint16(p))))
			ok(t, err)
			for _, text := range []string{"outer", strings.Repeat("outer, in fragments", 200)} {
				b.forge(c.from, netip.AddrPortFrom(c.to, uint16(p)), text)
				ok(t, s.SetReadDeadline(time.Now().Add(10*time.Second)))
				if n, _, err := s.ReadFrom(make([]byte, 5000)); n != len(text) {
					t.Errorf("port %d of %v, %d octets: %v", p, c.to, len(text), err)
				}
			}
			s.Close()
		}
	}
	for _, c := range []struct {
		from, to netip.Addr
		proto    int
		text     []byte
		passes   bool
	}{
		{netip.MustParseAddr("10.2.0.1"), in4, unix.IPPROTO_ESP, make([]byte, 40), true},
		{netip.MustParseAddr("fd00:2::1"), in6, unix.IPPROTO_ESP, make([]byte, 40), true},
		{netip.MustParseAddr("10.2.0.1"), in4, unix.IPPROTO_ICMP, quote4(3, 4, unix.IPPROTO_ESP, 0), true},
		{netip.MustParseAddr("10.2.0.1"), in4, unix.IPPROTO_ICMP, quote4(3, 4, unix.IPPROTO_UDP, 4500), true},
		{netip.MustParseAddr("10.2.0.1"), in4, unix.IPPROTO_ICMP, quote4(3, 4, unix.IPPROTO_UDP, 7000), false},
		{netip.MustParseAddr("10.2.0.1"), in4, unix.IPPROTO_ICMP, quote4(3, 4, unix.IPPROTO_TCP, 4500), false},
		{netip.MustParseAddr("10.2.0.1"), in4, unix.IPPROTO_ICMP, quote4(8, 0, unix.IPPROTO_ESP, 0), false},
	} {
		before, err := g.Count()
		ok(t, err)
		b.raw(c.from, c.to, c.proto, c.text)
		b.delivered()
		after, err := g.Count()
		ok(t, err)
		if passes := after == before; passes != c.passes {
			t.Errorf("protocol %d %x from %v passes: %t, want %t", c.proto, c.text[:min(10, len(c.text))], c.from, passes, c.passes)
		}
	}
}

// quote4 is an ICMP error about an IPv4 packet with a source port.
func quote4(typ, code, proto byte, port uint16) []byte {
	m := make([]byte, 8+20+8)
	m[0], m[1] = typ, code
	m[8], m[8+9] = 0x45, proto
	m[8+20], m[8+21] = byte(port>>8), byte(port)
	var sum uint32
	for i := 0; i < len(m); i += 2 {
		sum += uint32(m[i])<<8 | uint32(m[i+1])
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	m[2], m[3] = byte(^sum>>8), byte(^sum)
	return m
}

// raw sends a payload of any protocol; the source is an address forge has brought, or brings now.
func (b *border) raw(from, to netip.Addr, proto int, payload []byte) {
	b.t.Helper()
	b.n.in(b.t, b.o, func() {
		fd, err := unix.Socket(family(from.Is6()), unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto)
		ok(b.t, err)
		defer unix.Close(fd)
		ok(b.t, unix.Bind(fd, unixSockaddr(netip.AddrPortFrom(from, 0))))
		ok(b.t, unix.Sendto(fd, payload, 0, unixSockaddr(netip.AddrPortFrom(to, 0))))
	})
}

func nftTables(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("nft", "list", "tables").CombinedOutput()
	if err != nil {
		t.Skipf("needs nft: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// The table goes with Close; a killed daemon's goes with the next start of anybody, and a living one's stays.
func TestGuardTablesOfTheDead(t *testing.T) {
	enterNamespace(t)
	dir := t.TempDir()
	h := openHost(t, "one", dir)
	guard(t, h)
	dead := startDaemon(t, daemonConfig{Name: "two", Dir: dir, Guard: true})
	if got := nftTables(t); got != "table inet coati-one\ntable inet coati-two" {
		t.Errorf("with two daemons: %q", got)
	}
	dead.kill()
	if got := nftTables(t); !strings.Contains(got, "coati-two") {
		t.Errorf("after kill -9: %q; the test proves nothing", got)
	}
	third := openHost(t, "three", dir)
	if got := nftTables(t); got != "table inet coati-one" {
		t.Errorf("after the start of a third: %q", got)
	}
	ok(t, third.Close())
	ok(t, h.Close())
	if got := nftTables(t); got != "" {
		t.Errorf("after the end: %q", got)
	}
}

// Ten thousand policies are one lookup, and are replaced in one step.
func TestGuardTakesManyPolicies(t *testing.T) {
	b := newBorder(t)
	h := openHost(t, "coatiguard", t.TempDir())
	g := guard(t, h)
	rules := make([]GuardRule, 10000)
	for i := range rules {
		src := netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 8), byte(i), 0}), 24)
		rules[i] = protect(src.String(), fmt.Sprintf("10.1.0.%d/32", i%3))
		if i%2 == 1 {
			rules[i] = protect(fmt.Sprintf("fd01:%x::/64", i), fmt.Sprintf("fd00:1::%x/128", i%3))
		}
	}
	start := time.Now()
	ok(t, g.Replace(rules))
	t.Logf("10,000 policies: %v", time.Since(start))
	forge := func() {
		b.forge(netip.MustParseAddr("11.0.4.9"), netip.MustParseAddrPort("10.1.0.1:7000"), "4")            // 4 % 3 = 1
		b.forge(netip.MustParseAddr("11.0.6.9"), netip.MustParseAddrPort("10.1.0.1:7000"), "4 elsewhere")  // 6 % 3 = 0
		b.forge(netip.MustParseAddr("fd01:7::9"), netip.MustParseAddrPort("[fd00:1::1]:7000"), "6")        // 7 % 3 = 1
		b.forge(netip.MustParseAddr("fd01:9::9"), netip.MustParseAddrPort("[fd00:1::1]:7000"), "6 beside") // 9 % 3 = 0
	}
	forge()
	if got, want := b.delivered(), []string{"4 elsewhere", "6 beside"}; !slices.Equal(got, want) {
		t.Errorf("delivered %q, want %q", got, want)
	}
	start = time.Now()
	ok(t, g.Replace(rules[:len(rules)-1]))
	t.Logf("replaced: %v", time.Since(start))
	forge()
	if got, want := b.delivered(), []string{"4 elsewhere", "6 beside"}; !slices.Equal(got, want) {
		t.Errorf("after a change: delivered %q, want %q", got, want)
	}
	if n, err := g.Count(); err != nil || n.Packets != 4 {
		t.Errorf("%d packets counted over both, want 4: %v", n.Packets, err)
	}
}

func TestGuardExplainsItself(t *testing.T) {
	t.Parallel()
	err := explainGuard(syscall.EOPNOTSUPP)
	if !strings.Contains(err.Error(), "nftables") || !strings.Contains(err.Error(), "guard = false") {
		t.Errorf("%v", err)
	}
}
