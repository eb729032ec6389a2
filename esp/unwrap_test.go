package esp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"coati/esp/batch"
	"coati/packet"
	"coati/policy"
)

// forge seals any text, trailer included, with the key of SA 0x1000.
func forge(t testing.TB, l link, seq uint64, text []byte) []byte {
	t.Helper()
	sa := l.outbound()
	tr, err := newTransform(&sa)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, packet.ESPLen+tr.ivLen+len(text)+tr.icvLen)
	packet.ESP(b).SetSPI(uint32(sa.SPI))
	packet.ESP(b).SetSequence(uint32(seq))
	head := packet.ESPLen + tr.ivLen
	copy(b[head:], text)
	j := batch.Job{Head: b[:head], Text: b[head : head+len(text)]}
	if tr.counter {
		binary.BigEndian.PutUint64(b[8:], seq)
		copy(j.IV[:], tr.salt[:])
		copy(j.IV[4:], b[8:16])
		j.Head = b[:8]
	}
	jobs := []batch.Job{j}
	tr.key.Seal(jobs)
	return b
}

// trailer appends padding up to a multiple of 4 and the next header.
func trailer(inner []byte, next byte) []byte {
	b := bytes.Clone(inner)
	n := byte(0)
	for (len(b)+2)%4 != 0 {
		n++
		b = append(b, n)
	}
	return append(b, n, next)
}

func TestUnwrap(t *testing.T) {
	good := func(change func([]byte)) []byte {
		p := segment{sport: 1, dst: 1, payload: filled(20, 1)}.frame()[packet.VirtioLen:]
		if change != nil {
			change(p)
			packet.IPv4(p).FillChecksum()
		}
		return p
	}
	six := segment{v6: true, sport: 1, dst: 1}.frame()[packet.VirtioLen:]
	padded := append(bytes.Clone(good(nil)), make([]byte, 100)...)
	for _, c := range []struct {
		name string
		text []byte
		want []byte
		why  Reason
	}{
		{"ipv4", trailer(good(nil), 4), good(nil), 0},
		{"ipv6", trailer(six, 41), six, 0},
		{"traffic-flow padding", trailer(padded, 4), good(nil), 0},
		{"padding that does not count", append(bytes.Clone(good(nil)), 9, 2, 2, 4), nil, DropPadding},
		{"padding longer than the text", append(make([]byte, 2), 200, 4), nil, DropPadding},
		{"dummy", trailer(make([]byte, 40), 59), nil, DropDummy},
		{"dummy of nothing", []byte{1, 2, 2, 59}, nil, DropDummy},
		{"another next header", trailer(good(nil), 17), nil, DropInner},
		{"ipv6 announced as ipv4", trailer(six, 4), nil, DropInner},
		{"ipv4 announced as ipv6", trailer(good(nil), 41), nil, DropInner},
		{"header checksum", trailer(func() []byte { p := good(nil); p[10] ^= 1; return p }(), 4), nil, DropInner},
		{"length beyond the packet", trailer(good(func(p []byte) { p[2] = 9 }), 4), nil, DropInner},
		{"empty", []byte{1, 2, 2, 4}, nil, DropInner},
		{"source outside the selectors", trailer(good(func(p []byte) { p[13] = 9 }), 4), nil, DropSelectors},
		{"destination outside the selectors", trailer(good(func(p []byte) { p[17] = 9 }), 4), nil, DropSelectors},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newHost(nil)
			if err := b.Apply(policyTx(gcm128)); err != nil {
				t.Fatal(err)
			}
			b.in.Receive([]Datagrams{{Buf: forge(t, gcm128, 1, c.text)}})
			got := unfoldAll(t, b.tap.take())
			if c.want != nil {
				if d := cmp.Diff([][]byte{c.want}, got); d != "" {
					t.Errorf("delivered (-want +got):\n%s", d)
				}
				return
			}
			if len(got) != 0 || b.drops(c.why) != 1 {
				t.Errorf("%d delivered, drops %v, want %q", len(got), b.Counters().Drops, c.why)
			}
			if st, _ := b.State(1); st.Drops[c.why.String()] != 1 {
				t.Errorf("the SA counts %v", st.Drops)
			}
		})
	}
}

// RFC 4301, section 5.2: an SA for one port carries no other, and no fragment whose port cannot be seen.
func TestSelectorsWithPorts(t *testing.T) {
	b := newHost(nil)
	sa := gcm128.inbound()
	sa.Local, sa.Remote = selectors("10.2.0.0/16[tcp/5001]"), selectors("10.1.0.0/16[tcp]")
	if err := b.Apply(policy.Tx{AddSAs: []policy.SA{sa}}); err != nil {
		t.Fatal(err)
	}
	send := func(seq uint64, p []byte) int {
		packet.IPv4(p).FillChecksum()
		b.in.Receive([]Datagrams{{Buf: forge(t, gcm128, seq, trailer(p, 4))}})
		return len(b.tap.take())
	}
	pkt := func() []byte { return segment{sport: 1, dst: 1, payload: filled(32, 1)}.frame()[packet.VirtioLen:] }
	if send(1, pkt()) != 1 {
		t.Error("the selected port is dropped")
	}
	other := pkt()
	other[23]++
	if send(2, other) != 0 {
		t.Error("another port is delivered")
	}
	fragment := pkt()
	packet.IPv4(fragment).SetFragment(800, false)
	if send(3, fragment) != 0 {
		t.Error("a fragment without ports is delivered")
	}
}

// RFC 6040, figure 4.
func TestECNAtTheEnd(t *testing.T) {
	const drop = 0xff
	want := [4][4]byte{ // [inner][outer]
		packet.ECNNotECT: {0, 0, 0, drop},
		packet.ECNECT1:   {1, 1, 1, 3},
		packet.ECNECT0:   {2, 1, 2, 3},
		packet.ECNCE:     {3, 3, 3, 3},
	}
	for _, v6 := range []bool{false, true} {
		for inner := range byte(4) {
			for outer := range byte(4) {
				a, b := connect(t, gcm128, nil)
				a.out.Process(segment{v6: v6, tos: 0xb8 | inner, sport: 1}.frame())
				s := a.net.take()[0]
				if s.tos != 0xb8|inner {
					t.Errorf("outer field %#x at the start, inner %#x", s.tos, 0xb8|inner)
				}
				b.in.Receive([]Datagrams{{Buf: s.buf, TOS: 0xb8 | outer}})
				pkts := unfoldAll(t, b.tap.take())
				if want[inner][outer] == drop {
					if len(pkts) != 0 || b.drops(DropECN) != 1 {
						t.Errorf("inner %d outer %d: delivered", inner, outer)
					}
					continue
				}
				if len(pkts) != 1 {
					t.Fatalf("inner %d outer %d: dropped", inner, outer)
				}
				if got := tosOf(pkts[0]); got != 0xb8|want[inner][outer] {
					t.Errorf("inner %d outer %d: %#x", inner, outer, got)
				}
				if !v6 && !packet.IPv4(pkts[0]).ChecksumOK() {
					t.Error("header checksum not adjusted")
				}
			}
		}
	}
}

// IKE, keepalives and ESP share a port and may share a run (RFC 3948, section 2).
func TestRunOfAllThatSharesThePort(t *testing.T) {
	type message struct {
		Path string
		Data string
	}
	var ike []message
	b := newHost(func(c *Config) {
		c.IKE = func(p policy.Path, m []byte) {
			ike = append(ike, message{p.String() + " " + p.Encap.String(), string(m)})
		}
	})
	if err := b.Apply(policyTx(gcm128)); err != nil {
		t.Fatal(err)
	}
	esp := forge(t, gcm128, 1, trailer(segment{sport: 1, dst: 1}.frame()[packet.VirtioLen:], 4))
	msg := append(make([]byte, 4), bytes.Repeat([]byte("i"), len(esp)-4)...)
	run := bytes.Join([][]byte{msg, esp, msg, {0xff}}, nil)
	from, local := netip.MustParseAddrPort("192.0.2.1:4500"), netip.MustParseAddrPort("192.0.2.2:4500")
	b.in.Receive([]Datagrams{{Buf: run, SegSize: len(esp), From: from, Local: local, Encap: policy.EncapUDP}})
	want := message{"192.0.2.2:4500 -> 192.0.2.1:4500 udp", string(msg[4:])}
	if d := cmp.Diff([]message{want, want}, ike); d != "" {
		t.Errorf("ike:\n%s", d)
	}
	if len(b.tap.take()) != 1 || b.Counters().Keepalives != 1 || len(b.Counters().Drops) != 0 {
		t.Errorf("%+v", b.Counters())
	}
}

func TestWhatIsNoESPIsCounted(t *testing.T) {
	b := newHost(nil)
	if err := b.Apply(policyTx(gcm128)); err != nil {
		t.Fatal(err)
	}
	good := forge(t, gcm128, 1, trailer(segment{sport: 1, dst: 1}.frame()[packet.VirtioLen:], 4))
	changed := bytes.Clone(good)
	changed[20] ^= 1
	for _, c := range []struct {
		name string
		b    []byte
		why  Reason
	}{
		{"7 octets", good[:7], DropShort},
		{"no room for a tag", good[:30], DropShort},
		{"not a multiple of 4", good[:len(good)-1], DropShort},
		{"another spi", append([]byte{1, 2, 3, 4}, good[4:]...), DropUnknownSPI},
		{"number 0", append([]byte{0, 0, 0x10, 0, 0, 0, 0, 0}, good[8:]...), DropReplay},
		{"changed", changed, DropAuthentication},
	} {
		before := b.drops(c.why)
		b.in.Receive([]Datagrams{{Buf: bytes.Clone(c.b)}})
		if b.drops(c.why) != before+1 {
			t.Errorf("%s: drops %v, want %q", c.name, b.Counters().Drops, c.why)
		}
	}
	b.in.Receive([]Datagrams{{Buf: good}})
	if len(b.tap.take()) != 1 {
		t.Error("the packet itself does not arrive any more")
	}
	if st, _ := b.State(1); st.Sequence != 1 {
		t.Errorf("a forged packet moved the window to %d", st.Sequence)
	}
}

// A packet of McGrew's and Viega's test vectors for AES-GCM in ESP (test case 1): an answer of a name server.
func TestGCMPacketVector(t *testing.T) {
	unhex := func(s string) []byte { return must(hex.DecodeString(s)) }
	plain := unhex("45000048699a000080114db7c0a80102c0a801010a9bf15638d3010000010000" +
		"00000000045f736970045f756470037369700963796265726369747902646b00" +
		"0021000101020201")
	sealed := unhex("000043218765432100000000" + "fecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34" +
		"cfa2436f14a3f3cf65925bf1f4a13c5d15b21e1884f5ff6247aeabb786b93bce61bc17d768fd9732459018148f6cbe722fd04796562dfdb4")
	sa := gcm128.inbound()
	sa.SPI, sa.ESN = 0x4321, true
	sa.EncryptionKey = policy.NewSecret(unhex("4c80cdefbb5d10da906ac73c3613a634" + "2e443b68"))
	sa.Local, sa.Remote = selectors("192.168.1.1"), selectors("192.168.1.2")
	b := newHost(nil)
	if err := b.Apply(policy.Tx{AddSAs: []policy.SA{sa}}); err != nil {
		t.Fatal(err)
	}
	// The extended number is 87654321 00000000; its next header, 1, belongs to no tunnel: only opening is compared.
	pkt := append(unhex("0000432100000000"+"4956ed7e3b244cfe"), sealed[12:]...)
	in := b.inbound.find(0x4321)
	in.window.top = 0x87654320_ffffffff
	b.in.arrivals = append(b.in.arrivals, arrival{sa: in, esp: pkt})
	if n := b.in.screen(in, 0, 1, 0); n != 1 {
		t.Fatal("refused before it was opened")
	}
	in.tr.key.Open(b.in.jobs[:1])
	if !b.in.jobs[0].OK || !bytes.Equal(b.in.jobs[0].Text, plain) {
		t.Errorf("ok %v, opened to %x", b.in.jobs[0].OK, b.in.jobs[0].Text)
	}
}
