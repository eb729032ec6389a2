package esp

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"coati/packet"
	"coati/policy"
)

// spiOf an ESP packet.
func spiOf(b []byte) policy.SPI { return policy.SPI(packet.ESP(b).SPI()) }

// complaint is the ICMP error (in a frame) with which somebody speaks to whoever sent the packet in a frame.
func complaint(from, to string, about []byte, quoted int) []byte {
	q := about[packet.VirtioLen:]
	q = q[:min(quoted, len(q))]
	src, dst := netip.MustParseAddr(from), netip.MustParseAddr(to)
	proto, kind, code := byte(packet.ProtoICMP), byte(3), byte(1)
	if src.Is6() {
		proto, kind, code = packet.ProtoICMPv6, 1, 3
	}
	f := appendHeader(make([]byte, packet.VirtioLen), src, dst, 0, proto, packet.ICMPLen+len(q))
	if src.Is4() {
		packet.IPv4(f[packet.VirtioLen:]).FillChecksum()
	}
	icmp := make([]byte, packet.ICMPLen)
	icmp[0], icmp[1] = kind, code
	return append(append(f, icmp...), q...)
}

// answer is a packet from b's net to a's, from port 5001.
func answer(v6 bool) []byte {
	f := segment{v6: v6, udp: true, sport: 7, dst: 1, payload: filled(100, 1)}.frame()
	p := f[packet.VirtioLen:]
	at := packet.IPv4Len
	if v6 {
		copy(p[8:], netip.MustParseAddr("fd02::1").AsSlice())
		copy(p[24:], netip.MustParseAddr("fd01::1").AsSlice())
		at = packet.IPv6Len
	} else {
		copy(p[12:], []byte{10, 2, 0, 1, 10, 1, 0, 1})
		packet.IPv4(p).FillChecksum()
	}
	binary.BigEndian.PutUint16(p[at:], 5001)
	binary.BigEndian.PutUint16(p[at+2:], 7)
	return f
}

// RFC 4301, section 6.2, outbound: an error that no policy selects goes by the SA that carries the answers to the packet it is about.
func TestAnErrorFromBehindUsGoesWhereItsPacketCameFrom(t *testing.T) {
	to, router := map[bool]string{false: "10.2.0.1", true: "fd02::1"}, map[bool]string{false: "172.16.0.1", true: "fd99::1"}
	for _, v6 := range []bool{false, true} {
		other := answer(v6)
		other[len(other)-100-8+1]++ // it came from another port than the policy has
		for _, c := range []struct {
			name  string
			frame []byte
			mode  policy.ICMPErrors
			want  bool
		}{
			{"about a packet of the tunnel", complaint(router[v6], to[v6], answer(v6), 1000), policy.ICMPByEither, true},
			{"with eight octets of it", complaint(router[v6], to[v6], answer(v6), len(answer(v6))-100-packet.VirtioLen), policy.ICMPByQuote, true},
			{"without its ports", complaint(router[v6], to[v6], answer(v6), len(answer(v6))-100-8-packet.VirtioLen), policy.ICMPByEither, false},
			{"about another port", complaint(router[v6], to[v6], other, 1000), policy.ICMPByEither, false},
			{"with nothing of it", complaint(router[v6], to[v6], answer(v6), 3), policy.ICMPByEither, false},
			{"where headers alone count", complaint(router[v6], to[v6], answer(v6), 1000), policy.ICMPByHeader, false},
			{"where none may pass", complaint(router[v6], to[v6], answer(v6), 1000), policy.ICMPNone, false},
		} {
			a, _ := connectByPort(t, false, func(out, _ *policy.SA) { out.ICMPErrors = c.mode })
			a.out.Process(c.frame)
			if n := len(a.net.packets()); (n == 1) != c.want || a.drops(DropNoPolicy) == 0 != c.want {
				t.Errorf("%s, IPv6 %t: %d packets left, drops %v", c.name, v6, n, a.Counters().Drops)
			}
			a.noEvent(t)
		}
		// Where no SA is up, none is asked for.
		a := newHost(nil)
		out, _ := byPort(false, nil)
		a.mustApply(t, policy.Tx{PutPolicies: []policy.Policy{portPolicy(out)}})
		a.out.Process(complaint(router[v6], to[v6], answer(v6), 1000))
		if n, _ := a.Waiting(1); n != 0 || a.drops(DropNoPolicy) != 1 {
			t.Errorf("%d wait, drops %v", n, a.Counters().Drops)
		}
		a.noEvent(t)
	}
}

// RFC 4301, section 6.2, inbound: an error outside the selectors counts if the packet it quotes was the tunnel's, and a child may ask
// for more or for less than that.
func TestWhichErrorsComeOutOfATunnel(t *testing.T) {
	inside, router, us := map[bool]string{false: "10.1.0.9", true: "fd01::9"}, map[bool]string{false: "172.16.0.1", true: "fd99::1"}, map[bool]string{false: "10.2.0.1", true: "fd02::1"}
	const either, header, quoted, none = policy.ICMPByEither, policy.ICMPByHeader, policy.ICMPByQuote, policy.ICMPNone
	for _, v6 := range []bool{false, true} {
		foreign := answer(v6)
		foreign[packet.VirtioLen+map[bool]int{false: 17, true: 25}[v6]] ^= 0x40 // to somebody else than who is behind the peer
		for _, c := range []struct {
			name string
			pkt  []byte
			want map[policy.ICMPErrors]bool
		}{
			{"a router, about a packet of ours", complaint(router[v6], us[v6], answer(v6), 1000), map[policy.ICMPErrors]bool{either: true, quoted: true}},
			{"a router, about a packet of another conversation", complaint(router[v6], us[v6], foreign, 1000), nil},
			{"a host of the peer's, about a packet of ours", complaint(inside[v6], us[v6], answer(v6), 1000), map[policy.ICMPErrors]bool{either: true, header: true, quoted: true}},
			{"a host of the peer's, about a packet of another conversation", complaint(inside[v6], us[v6], foreign, 1000), map[policy.ICMPErrors]bool{either: true, header: true}},
			{"a router that quotes nothing", complaint(router[v6], us[v6], answer(v6), 0), nil},
		} {
			for mode := either; mode <= none; mode++ {
				b := newHost(nil)
				in := gcm128.inbound()
				in.ICMPErrors = mode
				b.mustApply(t, policy.Tx{AddSAs: []policy.SA{in}})
				// Twice: what an error was let through for must not let the next one through.
				b.receive(sealed(t, c.pkt, c.pkt)...)
				if n := len(b.tap.take()); (n == 2) != c.want[mode] || n%2 != 0 || (b.drops(DropICMPError) == 2) == c.want[mode] {
					t.Errorf("%s, %q, IPv6 %t: %d delivered, drops %v", c.name, mode, v6, n, b.Counters().Drops)
				}
			}
		}
	}
}

// Neither an echo nor a fragment of one is an error, and the first fragment of an error is.
func TestWhatAnErrorIs(t *testing.T) {
	for _, c := range []struct {
		proto byte
		kind  byte
		part  bool
		want  bool
	}{
		{packet.ProtoICMP, 0, false, false},
		{packet.ProtoICMP, 8, false, false},
		{packet.ProtoICMP, 3, false, true},
		{packet.ProtoICMP, 4, false, true},
		{packet.ProtoICMP, 5, false, true},
		{packet.ProtoICMP, 11, false, true},
		{packet.ProtoICMP, 12, true, true},
		{packet.ProtoICMP, 13, false, false},
		{packet.ProtoICMPv6, 1, false, true},
		{packet.ProtoICMPv6, 127, true, true},
		{packet.ProtoICMPv6, 128, false, false},
		{packet.ProtoICMPv6, 137, false, false},
		{packet.ProtoUDP, 3, false, false},
	} {
		i := packet.Info{Fragment: c.part}
		i.Protocol, i.SrcPort, i.HasPorts = c.proto, uint16(c.kind)<<8, true
		if isError(&i) != c.want {
			t.Errorf("protocol %d, type %d: %t", c.proto, c.kind, !c.want)
		}
	}
}

// Whatever an error quotes is read without a fault, and says the same however much follows it.
func FuzzQuotedPackets(f *testing.F) {
	for _, v6 := range []bool{false, true} {
		f.Add(complaint(map[bool]string{false: "172.16.0.1", true: "fd99::1"}[v6], map[bool]string{false: "10.2.0.1", true: "fd02::1"}[v6], answer(v6), 60)[packet.VirtioLen:])
	}
	f.Fuzz(func(t *testing.T, pkt []byte) {
		var i packet.Info
		if packet.Parse(pkt, &i) != nil || !isError(&i) {
			return
		}
		flow, ok := answered(pkt[:i.Length], &i)
		if ok && (flow.Src.BitLen() != flow.Dst.BitLen() || flow.Src.Is4() != (i.Version == 4)) {
			t.Fatalf("%+v", flow)
		}
		longer, _ := answered(append(pkt[:i.Length:i.Length], 0, 0, 0, 0, 0, 0, 0, 0), &i)
		if ok && flow.HasPorts && longer != flow {
			t.Fatalf("%+v, and with more of it %+v", flow, longer)
		}
	})
}
