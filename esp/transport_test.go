package esp

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"coati/packet"
	"coati/policy"
)

// plain leaves out of packets what an IPv4 header loses in transport mode: the kernel writes it anew, with DF.
func plain(pkts [][]byte) [][]byte {
	for _, p := range pkts {
		if p[0]>>4 == 4 {
			copy(p[4:8], make([]byte, 4))
			p[10], p[11] = 0, 0
		}
	}
	return pkts
}

// What goes into one host comes out of the other in transport mode, too: raw and in UDP, in both families, also cut and joined.
func TestTransportModeCarries(t *testing.T) {
	for _, l := range []link{
		{enc: "aes128gcm16"},
		{enc: "aes128", integ: "sha256", esn: true},
		{enc: "null", integ: "sha1", raw: true},
		{enc: "chacha20poly1305iiv"},
		{enc: "aes256gcm16", v6: true},
		{enc: "aes128", integ: "sha512", v6: true, raw: true},
	} {
		l.transport = true
		t.Run(l.String(), func(t *testing.T) {
			t.Parallel()
			a, b := connect(t, l, nil)
			rapid.Check(t, func(rt *rapid.T) {
				var want [][]byte
				for range rapid.IntRange(1, 6).Draw(rt, "frames") {
					s := drawSegment(rt)
					s.v6 = l.v6
					f := s.frame()
					want = append(want, plain(unfold(t, f))...)
					a.out.Add(f)
				}
				a.out.Flush()
				carry(a, b)
				got := plain(unfoldAll(t, b.tap.take()))
				if d := cmp.Diff(byFlow(t, want), byFlow(t, got)); d != "" {
					rt.Fatalf("packets changed on the way (-sent +received):\n%.2000s", d)
				}
			})
			for _, h := range []*host{a, b} {
				if d := h.Counters().Drops; len(d) > 0 {
					t.Errorf("drops: %v", d)
				}
			}
		})
	}
}

// In front of ESP stands the packet's own header, and ESP's next header is the packet's protocol (RFC 4303, section 2.6).
func TestTransportModeSavesTheInnerHeader(t *testing.T) {
	var sizes []int
	for _, transport := range []bool{true, false} {
		a, _ := connect(t, link{enc: "null", integ: "sha256", transport: transport}, nil)
		a.out.Process(segment{sport: 1, dst: 1, udp: true, payload: filled(98, 1)}.frame())
		p := a.net.packets()[0]
		next := byte(packet.ProtoUDP)
		if !transport {
			next = packet.ProtoIPv4
		}
		if got := p[len(p)-17]; got != next {
			t.Errorf("transport %v: next header %d", transport, got)
		}
		sizes = append(sizes, len(p))
	}
	if sizes[1]-sizes[0] != packet.IPv4Len {
		t.Errorf("sizes %v", sizes)
	}
}

// socketGives makes what a receiver's socket gives of a whole packet.
func socketGives(t *testing.T, pkt []byte) []Datagrams {
	t.Helper()
	var i packet.Info
	if err := packet.Parse(pkt, &i); err != nil || i.Length != len(pkt) {
		t.Fatalf("%v: length %d of %d", err, i.Length, len(pkt))
	}
	d := Datagrams{Buf: pkt[i.Transport:], From: netip.AddrPortFrom(i.SrcAddr(), 4500), Local: netip.AddrPortFrom(i.DstAddr(), 4500), TOS: i.TOS, Encap: policy.EncapRaw}
	if i.Version == 4 {
		d.Front.Octets = pkt[packet.IPv4Len:i.Transport]
	} else {
		d.Front.Octets, d.Front.First = pkt[packet.IPv6Len:i.Transport], pkt[6]
	}
	if i.Version == 4 && !packet.IPv4(pkt).ChecksumOK() {
		t.Error("header checksum")
	}
	if i.Protocol == packet.ProtoUDP {
		u := packet.UDP(d.Buf)
		if u.Checksum() != 0 && packet.Sum(u, packet.PseudoSum(pkt, packet.ProtoUDP, len(u))) != 0xffff {
			t.Error("udp checksum")
		}
		d.Buf, d.Encap = d.Buf[packet.UDPLen:], policy.EncapUDP
	} else if i.Protocol != packet.ProtoESP {
		t.Fatalf("protocol %d", i.Protocol)
	}
	return []Datagrams{d}
}

// IPv4 options and extension headers for nodes on the way stay in front of ESP; destination options for the end are behind it
// (RFC 4303, section 3.1.1). A small hop limit is kept. At the other end the packet is whole again.
func TestWhatStaysInFrontOfESP(t *testing.T) {
	udp := func(v6 bool) []byte {
		return segment{v6: v6, udp: true, sport: 1, dst: 1, payload: filled(50, 1)}.frame()
	}
	extended := func(headers ...byte) []byte {
		f := udp(true)
		next := byte(packet.ProtoUDP)
		var chain []byte
		for _, h := range slices.Backward(headers) {
			header := []byte{next, 0, 1, 4, 0, 0, 0, 0} // padding
			if h == packet.ProtoRouting {
				header = []byte{next, 0, 4, 0, 0, 0, 0, 0} // no segments left
			}
			chain = append(header, chain...)
			next = h
		}
		f = slices.Insert(f, packet.VirtioLen+packet.IPv6Len, chain...)
		p := packet.IPv6(f[packet.VirtioLen:])
		p[6] = next
		p.SetPayloadLen(len(p) - packet.IPv6Len)
		return f
	}
	withOptions := func() []byte {
		f := slices.Insert(udp(false), packet.VirtioLen+packet.IPv4Len, 0x94, 4, 0, 0) // router alert (RFC 2113)
		p := packet.IPv4(f[packet.VirtioLen:])
		p[0] = 0x46
		p.SetTotalLen(len(p))
		p.FillChecksum()
		return f
	}
	for name, c := range map[string]struct {
		frame         []byte
		front, behind []byte // protocol numbers
		hop           byte
	}{
		"options":                    {frame: withOptions(), behind: []byte{17}},
		"hop limit":                  {frame: segment{udp: true, sport: 1, dst: 1, ttl: 3, payload: filled(9, 1)}.frame(), behind: []byte{17}, hop: 3},
		"hop-by-hop":                 {frame: extended(0), front: []byte{0}, behind: []byte{17}},
		"routing":                    {frame: extended(43), front: []byte{43}, behind: []byte{17}},
		"destination before routing": {frame: extended(60, 43), front: []byte{60, 43}, behind: []byte{17}},
		"all":                        {frame: extended(0, 60, 43, 60), front: []byte{0, 60, 43}, behind: []byte{60}},
	} {
		for _, raw := range []bool{true, false} {
			pkt := bytes.Clone(c.frame[packet.VirtioLen:])
			l := link{enc: "null", integ: "sha256", transport: true, v6: pkt[0]>>4 == 6, raw: raw}
			a, b := connect(t, l, nil)
			a.out.Process(bytes.Clone(c.frame))
			if len(a.net.clear) != 1 {
				t.Fatalf("%s: %d packets left with a header of ours, drops %v", name, len(a.net.clear), a.Counters().Drops)
			}
			out := a.net.clear[0]
			carrier := byte(packet.ProtoUDP)
			if raw {
				carrier = packet.ProtoESP
			}
			if l.v6 {
				at, off := 6, packet.IPv6Len
				for _, want := range append(slices.Clone(c.front), carrier) {
					if out[at] != want {
						t.Errorf("%s: %d where %d should be", name, out[at], want)
					}
					at, off = off, off+8
				}
			} else if out[9] != carrier || packet.IPv4(out).HeaderLen() != packet.IPv4(pkt).HeaderLen() || !bytes.Equal(out[12:packet.IPv4(pkt).HeaderLen()], pkt[12:packet.IPv4(pkt).HeaderLen()]) {
				t.Errorf("%s: header %x", name, out[:24])
			}
			if c.hop != 0 && out[8] != c.hop {
				t.Errorf("%s: hop limit %d", name, out[8])
			}
			d := socketGives(t, out)
			if got := d[0].Buf[len(d[0].Buf)-17]; got != c.behind[0] {
				t.Errorf("%s: next header %d behind ESP, want %d", name, got, c.behind[0])
			}
			b.in.Receive(d)
			got := plain(unfoldAll(t, b.tap.take()))
			want := plain([][]byte{bytes.Clone(pkt)})
			for _, p := range slices.Concat(got, want) { // it loses one at each router
				if l.v6 {
					p[7] = 0
				} else {
					p[8] = 0
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: drops %v, -sent +received:\n%s", name, b.Counters().Drops, diff)
			}
		}
	}
}

// A NAT changed the address the peer computed its checksum with (RFC 3948, section 3.1.2): corrected by the difference where
// the original is known, else computed anew. Without a checksum it stays so.
func TestChecksumsBehindNAT(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, udp := range []bool{false, true} {
			for _, known := range []bool{false, true} {
				l := link{enc: "aes128gcm16", transport: true, v6: v6}
				a, _ := connect(t, l, nil)
				a.out.Process(segment{v6: v6, udp: udp, sport: 1, dst: 1, payload: filled(51, 1)}.frame())
				in := l.inbound()
				public := netip.MustParseAddr("203.0.113.9")
				if v6 {
					public = netip.MustParseAddr("2001:db8::9")
				}
				if known {
					in.OriginalRemote, in.OriginalLocal = in.Path.Remote.Addr(), in.Path.Local.Addr()
				}
				in.Remote = []policy.Selector{policy.AddrSelector(public)}
				in.Path.Remote = netip.AddrPortFrom(public, 20000)
				b := newHost(nil)
				b.mustApply(t, policy.Tx{AddSAs: []policy.SA{in}})
				b.in.Receive([]Datagrams{{Buf: a.net.packets()[0], From: in.Path.Remote, Local: in.Path.Local, Encap: policy.EncapUDP}})
				frames := b.tap.take()
				if len(frames) != 1 {
					t.Fatalf("v6 %v udp %v known %v: %v", v6, udp, known, b.Counters().Drops)
				}
				p := frames[0][packet.VirtioLen:]
				var i packet.Info
				if err := packet.Parse(p, &i); err != nil || i.SrcAddr() != public {
					t.Fatalf("%v, source %v", err, i.SrcAddr())
				}
				if x := p[i.Transport:]; packet.Sum(x, packet.PseudoSum(p, i.Protocol, len(x))) != 0xffff {
					t.Errorf("v6 %v udp %v known %v: wrong checksum", v6, udp, known)
				}
			}
		}
	}
}

// A damaged checksum stays damaged where the difference is known; ESP's integrity begins at the sender's IP layer.
func TestADamagedChecksumIsNotRepaired(t *testing.T) {
	l := link{enc: "aes128gcm16", transport: true}
	in := l.inbound()
	in.OriginalRemote, in.OriginalLocal = netip.MustParseAddr("192.168.1.1"), in.Path.Local.Addr()
	pkt := segment{udp: true, sport: 1, dst: 1, payload: filled(20, 1)}.frame()[packet.VirtioLen:]
	pkt[packet.IPv4Len+packet.UDPLen] ^= 1
	var i packet.Info
	if err := packet.Parse(pkt, &i); err != nil {
		t.Fatal(err)
	}
	before := binary.BigEndian.Uint16(pkt[packet.IPv4Len+6:])
	fixChecksum(&in, pkt, &i)
	if x := pkt[i.Transport:]; packet.Sum(x, packet.PseudoSum(pkt, i.Protocol, len(x))) == 0xffff || before == binary.BigEndian.Uint16(x[6:]) {
		t.Error("repaired, or untouched")
	}
}

// Packets whose SA ended before they left are made whole again and take its successor.
func TestTransportModeReroutes(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		l := link{enc: "aes128gcm16", transport: true, v6: v6}
		a, _ := connect(t, l, nil)
		f := segment{v6: v6, udp: true, sport: 1, dst: 1, df: true, payload: filled(40, 1)}.frame()
		want := bytes.Clone(f[packet.VirtioLen:])
		a.out.Add(f)
		next := l
		next.id = 1
		a.mustApply(t, policy.Tx{AddSAs: []policy.SA{next.outbound()}, DeleteSAs: []policy.SAID{1}})
		a.net.take()
		a.out.Flush()
		b := newHost(nil)
		b.mustApply(t, policyTx(next))
		carry(a, b)
		if got := plain(unfoldAll(t, b.tap.take())); len(got) != 1 || !bytes.Equal(got[0], plain([][]byte{want})[0]) {
			t.Errorf("v6 %v: %x, drops %v %v", v6, got, a.Counters().Drops, b.Counters().Drops)
		}
	}
}

func TestTransportModeMTU(t *testing.T) {
	gcm := policy.LookupKeyword("aes128gcm16").Transform()
	for _, v6 := range []bool{false, true} {
		for _, raw := range []bool{false, true} {
			l := link{enc: "aes128gcm16", transport: true, v6: v6, raw: raw, mtu: 1400}
			inner, headers := InnerMTU(1400, v6, !raw, policy.Transport, gcm, policy.Transform{}), packet.IPv4Len
			if v6 {
				headers = packet.IPv6Len
			}
			a, _ := connect(t, l, nil)
			a.out.Process(segment{v6: v6, udp: true, df: true, sport: 1, dst: 1, payload: filled(inner-headers-8, 1)}.frame())
			p := a.net.packets()
			if len(p) != 1 {
				t.Fatalf("the largest that fits does not leave: %v", a.Counters().Drops)
			}
			if !raw {
				headers += packet.UDPLen
			}
			if all := len(p[0]) + headers; all > 1400 || all < 1397 {
				t.Errorf("v6 %v raw %v: %d octets", v6, raw, all)
			}
			a.out.Process(segment{v6: v6, udp: true, df: true, sport: 1, dst: 1, payload: filled(inner, 1)}.frame())
			if a.drops(DropTooBig) != 1 || len(a.tap.take()) != 1 {
				t.Errorf("v6 %v raw %v: one too large: %v", v6, raw, a.Counters().Drops)
			}
		}
	}
}

// RFC 3948, section 5.2: of two hosts behind one NAT the second gets no SA for traffic of the first, so that nothing is sent to the
// wrong one; and it gets one as soon as the first has gone, for other ports, in tunnel mode, and if it is the first itself.
func TestTwoHostsBehindOneNATInTransportMode(t *testing.T) {
	client := func(n uint64, port uint16, inside string, ports string) policy.SA {
		sa := link{enc: "aes128gcm16", transport: true, id: n}.outbound()
		sa.Path.Remote = netip.AddrPortFrom(netip.MustParseAddr("203.0.113.9"), port)
		sa.Local, sa.Remote = selectors("10.1.0.1"+ports), selectors("203.0.113.9")
		sa.OriginalRemote, sa.OriginalLocal = netip.MustParseAddr(inside), netip.MustParseAddr("10.1.0.1")
		return sa
	}
	first := client(0, 61000, "192.168.1.2", "")
	for _, c := range []struct {
		name    string
		second  policy.SA
		change  func(tx *policy.Tx)
		refused bool
	}{
		{"another host", client(1, 62000, "192.168.1.3", ""), nil, true},
		{"another host, of whose traffic the first has more", client(1, 62000, "192.168.1.3", "[udp/1701]"), nil, true},
		{"its own rekey", client(1, 61000, "192.168.1.2", ""), nil, false},
		{"the same host by another port", client(1, 62000, "192.168.1.2", ""), nil, false},
		{"another host in place of the first", client(1, 62000, "192.168.1.3", ""), func(tx *policy.Tx) { tx.DeleteSAs = []policy.SAID{first.ID} }, false},
		{"another host behind another NAT", client(1, 62000, "192.168.1.3", ""), func(tx *policy.Tx) {
			tx.AddSAs[0].Path.Remote = netip.MustParseAddrPort("203.0.113.10:62000")
		}, false},
		{"another host in tunnel mode", client(1, 62000, "192.168.1.3", ""), func(tx *policy.Tx) { tx.AddSAs[0].Mode = policy.Tunnel }, false},
	} {
		a := newHost(nil)
		a.mustApply(t, policy.Tx{AddSAs: []policy.SA{first}})
		tx := policy.Tx{AddSAs: []policy.SA{c.second}}
		if c.change != nil {
			c.change(&tx)
		}
		err := a.Apply(tx)
		if (err != nil) != c.refused || err != nil && (!strings.Contains(err.Error(), "192.168.1.2") || !strings.Contains(err.Error(), "tunnel mode")) {
			t.Errorf("%s: %v", c.name, err)
		}
		if _, there := a.Plane.out[c.second.ID]; there == c.refused {
			t.Errorf("%s: the SA is there: %t", c.name, there)
		}
	}
	// What selects other ports is told apart by them.
	a := newHost(nil)
	a.mustApply(t, policy.Tx{AddSAs: []policy.SA{client(0, 61000, "192.168.1.2", "[udp/1701]"), client(1, 62000, "192.168.1.3", "[udp/1702]")}})
}
