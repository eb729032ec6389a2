package esp

import (
	"bytes"
	"net/netip"
	"testing"

	"coati/packet"
	"coati/policy"
)

// fronted is a good packet of a link with a front of somebody's choice.
func fronted(t testing.TB, l link, front packet.Front) Datagrams {
	t.Helper()
	inner, next := segment{v6: l.v6, udp: true, sport: 1, dst: 1, payload: filled(30, 1)}.frame()[packet.VirtioLen:], byte(packet.ProtoUDP)
	switch {
	case l.transport && l.v6:
		inner = inner[packet.IPv6Len:]
	case l.transport:
		inner = inner[packet.IPv4Len:]
	case l.v6:
		next = packet.ProtoIPv6
	default:
		next = packet.ProtoIPv4
	}
	path := l.path()
	return Datagrams{
		Buf: forge(t, l, 1, trailer(inner, next)), From: netip.AddrPortFrom(path.Local.Addr(), 0), Local: netip.AddrPortFrom(path.Remote.Addr(), 0),
		Encap: policy.EncapRaw, Front: front,
	}
}

// What a header cannot hold, what does not end where it says, and what is not done with is counted and not handed on. Of a
// tunnel it is discarded with the outer header (RFC 4303, section 3.1.2).
func TestBadHeadersInFrontOfESP(t *testing.T) {
	long := append([]byte{packet.ProtoESP, 255, 0x3e, 255}, make([]byte, 2044)...)
	for _, c := range []struct {
		name  string
		v6    bool
		front packet.Front
	}{
		{"options of 44 octets", false, packet.Front{Octets: bytes.Repeat([]byte{1}, 44)}},
		{"options of 3 octets", false, packet.Front{Octets: []byte{1, 1, 1}}},
		{"an option past the end", false, packet.Front{Octets: []byte{0x94, 5, 0, 0}}},
		{"options that were cut off", false, packet.Front{Octets: []byte{0x94, 4, 0, 0}, Cut: true}},
		{"options of which nothing is left", false, packet.Front{Cut: true}},
		{"a header past the end", true, packet.Front{Octets: []byte{packet.ProtoESP, 1, 1, 4, 0, 0, 0, 0}}},
		{"half a header", true, packet.Front{Octets: []byte{packet.ProtoESP, 0, 1, 0}}},
		{"a source route with a stop to come", true, packet.Front{Octets: []byte{packet.ProtoESP, 0, 4, 1, 0, 0, 0, 0}, First: packet.ProtoRouting}},
		{"a fragment header", true, packet.Front{Octets: make([]byte, 8), First: packet.ProtoFragment}},
		{"headers that were cut off", true, packet.Front{Octets: long, First: packet.ProtoDestOpts, Cut: true}},
	} {
		for _, transport := range []bool{true, false} {
			l := link{enc: "aes128gcm16", transport: transport, v6: c.v6, raw: true}
			b := newHost(nil)
			b.mustApply(t, policy.Tx{AddSAs: []policy.SA{l.inbound()}})
			b.in.Receive([]Datagrams{fronted(t, l, c.front)})
			delivered, counted := len(b.tap.take()), b.drops(DropFront)
			if transport && (delivered != 0 || counted != 1) || !transport && (delivered != 1 || counted != 0) {
				t.Errorf("%s, transport mode %t: %d delivered, drops %v", c.name, transport, delivered, b.Counters().Drops)
			}
		}
	}
}

// A packet with all that its front allows has up to 65,535 octets, and not one more.
func TestTheLargestPacketWithHeadersInFront(t *testing.T) {
	front := packet.Front{Octets: append([]byte{packet.ProtoESP, 255, 0x3e, 255}, make([]byte, 2044)...), First: packet.ProtoDestOpts}
	front.Octets[2+257], front.Octets[2+258] = 1, 0
	l := link{enc: "null", integ: "sha256", transport: true, v6: true, raw: true}
	for _, more := range []int{0, 1} {
		payload := make([]byte, packet.MaxIPPacket-packet.IPv6Len-len(front.Octets)+more)
		d := fronted(t, l, front)
		d.Buf = forge(t, l, 1, trailer(payload, 253))
		b := newHost(nil)
		in := l.inbound()
		b.mustApply(t, policy.Tx{AddSAs: []policy.SA{in}})
		b.in.Receive([]Datagrams{d})
		got := b.tap.take()
		if more == 0 && (len(got) != 1 || len(got[0]) != packet.VirtioLen+packet.MaxIPPacket) || more == 1 && (len(got) != 0 || b.drops(DropInner) != 1) {
			t.Errorf("%d more: %d frames, drops %v", more, len(got), b.Counters().Drops)
		}
	}
}

// A packet that waited for its SA has its options still, whatever the socket's buffer holds by then.
func TestEarlyPacketsKeepWhatStoodInFrontOfThem(t *testing.T) {
	l := link{enc: "aes128gcm16", transport: true, raw: true}
	b := newHost(nil)
	in := l.inbound()
	b.larval.reserve(in.SPI)
	alert := []byte{0x94, 4, 0, 0}
	front := packet.Front{Octets: bytes.Clone(alert)}
	b.in.Receive([]Datagrams{fronted(t, l, front)})
	clear(front.Octets)
	b.mustApply(t, policy.Tx{AddSAs: []policy.SA{in}})
	got := b.tap.take()
	if len(got) != 1 || !bytes.Equal(got[0][packet.VirtioLen+packet.IPv4Len:][:4], alert) {
		t.Errorf("%x, drops %v", got, b.Counters().Drops)
	}
}

// FuzzFronts: whatever stands in front of a good packet, it is delivered as one that parses, with its payload, or counted.
func FuzzFronts(f *testing.F) {
	f.Add([]byte{0x94, 4, 0, 0}, byte(0), false)
	f.Add([]byte{50, 0, 1, 4, 0, 0, 0, 0}, byte(60), true)
	f.Add([]byte{60, 0, 5, 2, 0, 0, 1, 0, 43, 0, 1, 4, 0, 0, 0, 0, 50, 0, 4, 0, 0, 0, 0, 0}, byte(0), true)
	f.Fuzz(func(t *testing.T, octets []byte, first byte, v6 bool) {
		if len(octets) > 4096 {
			return
		}
		l := link{enc: "aes128gcm16", transport: true, v6: v6, raw: true}
		b := newHost(nil)
		b.mustApply(t, policy.Tx{AddSAs: []policy.SA{l.inbound()}})
		b.in.Receive([]Datagrams{fronted(t, l, packet.Front{Octets: bytes.Clone(octets), First: first})})
		frames := b.tap.take()
		if len(frames) == 0 {
			if b.drops(DropFront) != 1 {
				t.Errorf("not delivered, but drops %v", b.Counters().Drops)
			}
			return
		}
		var i packet.Info
		pkt := frames[0][packet.VirtioLen:]
		if err := packet.Parse(pkt, &i); err != nil || i.Length != len(pkt) || i.Protocol != packet.ProtoUDP || !v6 && !packet.IPv4(pkt).ChecksumOK() {
			t.Fatalf("%v: %x", err, pkt)
		}
		if x := pkt[i.Transport:]; packet.Sum(x, packet.PseudoSum(pkt, i.Protocol, len(x))) != 0xffff || !bytes.Equal(x[packet.UDPLen:], filled(30, 1)) {
			t.Errorf("another payload: %x", x)
		}
	})
}
