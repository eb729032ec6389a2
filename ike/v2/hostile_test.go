package v2_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"coati/ike"
	"coati/ike/keys"
	"coati/ike/wire"
	"coati/policy"
)

func (p *puppet) keyExchange() *wire.KE {
	k, err := keys.NewInitiator(policy.KEX25519, random{p.b.rng})
	if err != nil {
		p.t.Fatal(err)
	}
	public, _ := k.Offer()
	return &wire.KE{Method: policy.KEX25519, Data: public}
}

func rekeySA(spi uint64) *wire.SA {
	sa := ikeSA()
	sa.Proposals[0].SPI = wire.SPI8(spi)
	return sa
}

func TestAnswersToAnUnprovenAddressAreNoLargerThanTheQuestion(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel(), tunnel(func(tt *policy.PeerTunnel) { tt.Name, tt.Remote = "any", netip.Addr{} }))
	p := newPuppet(b)
	small, large := 0, 0
	for i := range 6000 {
		p.spiI = b.rng.Uint64() | 1
		p.ni = make([]byte, 16+b.rng.IntN(241))
		var extra []wire.Payload
		for range b.rng.IntN(3) {
			extra = append(extra, &wire.VendorID{Data: make([]byte, b.rng.IntN(80))})
		}
		ke := p.keyExchange()
		switch b.rng.IntN(4) {
		case 0:
			ke = &wire.KE{Method: uint16(b.rng.IntN(40)), Data: make([]byte, 1+b.rng.IntN(64))}
		case 1:
			extra = append(extra, &wire.Unknown{Type: wire.PayloadType(200), Critical: true, Body: []byte{1}})
		}
		d := p.first(ke, extra...)
		switch b.rng.IntN(4) {
		case 0:
			d[17] = byte(b.rng.IntN(256)) // version
		case 1:
			d[b.rng.IntN(len(d))] ^= 1 << b.rng.IntN(8)
		}
		path := p.path
		path.Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 500)
		for _, s := range b.event(ike.Datagram{Path: path, Bytes: d}) {
			m, err := wire.Parse(s.Bytes)
			isCookie := err == nil && wire.FindNotify(m.Payloads, wire.NotifyCookie) != nil
			if len(s.Bytes) > len(d) && !isCookie {
				t.Fatalf("%d octets are answered with %d", len(d), len(s.Bytes))
			}
			if isCookie {
				large++
			} else {
				small++
			}
		}
	}
	if small == 0 || large == 0 {
		t.Errorf("the property was not exercised: %d answers, %d cookies", small, large)
	}
	b.sound()
}

func TestUnknownPayloads(t *testing.T) {
	t.Parallel()
	for _, critical := range []bool{false, true} {
		unknown := &wire.Unknown{Type: wire.PayloadType(222), Critical: critical, Body: []byte("from the future")}

		b := newBench(t, nil, tunnel())
		p := newPuppet(b)
		sends := p.give(p.first(p.keyExchange(), unknown, &wire.VendorID{Data: make([]byte, 64)}))
		no := wire.FindNotify(p.parse(sends[0].Bytes).Payloads, wire.NotifyUnsupportedCriticalPayload)
		if critical != (no != nil) || no != nil && !bytes.Equal(no.Data, []byte{222}) {
			t.Errorf("IKE_SA_INIT, critical %v: %+v", critical, no)
		}

		b = newBench(t, nil, tunnel())
		p = up(b)
		got := p.ask(wire.ExchangeInformational, unknown)
		if critical != has(got, wire.NotifyUnsupportedCriticalPayload) {
			t.Errorf("INFORMATIONAL, critical %v: %v", critical, got)
		}
		if sas, children := b.established(); sas != 1 || children != 1 {
			t.Errorf("critical %v: %d IKE SAs and %d children", critical, sas, children)
		}

		b = newBench(t, nil, tunnel())
		p = newPuppet(b).begin()
		got = p.authenticate(unknown)
		if sas, _ := b.established(); critical != has(got, wire.NotifyUnsupportedCriticalPayload) || critical == (sas == 1) {
			t.Errorf("IKE_AUTH, critical %v: %d IKE SAs", critical, sas)
		}
		b.sound()
	}
}

func TestVersionsAndReservedBits(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel())
	p := newPuppet(b)
	first := p.first(p.keyExchange(), &wire.VendorID{Data: make([]byte, 64)})
	future := slices.Clone(first)
	future[17] = 0x30
	sends := p.give(future)
	if len(sends) != 1 || !has(p.parse(sends[0].Bytes).Payloads, wire.NotifyInvalidMajorVersion) || sends[0].Bytes[17] != 0x20 {
		t.Errorf("major version 3: %d answers", len(sends))
	}
	if len(sends[0].Bytes) > len(future) {
		t.Error("the answer is larger than the question")
	}
	future[19] |= 0x20 // a response: two gateways must not answer each other for ever
	if sends := p.give(future); len(sends) != 0 {
		t.Error("a response of version 3 is answered")
	}
	minor := slices.Clone(first)
	minor[17], minor[19] = 0x2f, minor[19]|0xd7&^0x20 // a later minor version, all reserved flags
	if sends := p.give(minor); len(sends) != 1 || p.parse(sends[0].Bytes).ResponderSPI == 0 || sends[0].Bytes[17] != 0x20 || sends[0].Bytes[19] != 0x20 {
		t.Errorf("minor version 15 with reserved bits: %d answers", len(sends))
	}
	b.sound()
}

func TestForgeriesWithLiveSPIsAreNeitherAnsweredNorBelieved(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel())
	p := up(b)
	for ex := wire.ExchangeType(30); ex < 50; ex++ {
		for id := range uint32(4) {
			for _, response := range []bool{false, true} {
				for _, body := range [][]byte{nil, {0, 0, 0, 4}, {0, 0, 0, 0}, {0, 0, 0, 5, 1}, append([]byte{41, 0, 0, 60}, make([]byte, 56)...), bytes.Repeat([]byte{0xff}, 40)} {
					for _, next := range []byte{0, 33, 41, 46, 53, 255} {
						h := p.header(ex, response, id)
						d := make([]byte, 28, 28+len(body))
						binary.BigEndian.PutUint64(d, h.InitiatorSPI)
						binary.BigEndian.PutUint64(d[8:], h.ResponderSPI)
						d[16], d[17], d[18], d[19] = next, 0x20, byte(ex), byte(h.Flags)
						binary.BigEndian.PutUint32(d[20:], id)
						d = append(d, body...)
						binary.BigEndian.PutUint32(d[24:], uint32(len(d)))
						if sends := p.give(d); len(sends) != 0 {
							t.Fatalf("exchange %d, ID %d, payload %d: %d answers", ex, id, next, len(sends))
						}
					}
				}
			}
		}
	}
	if sas, children := b.established(); sas != 1 || children != 1 {
		t.Errorf("%d IKE SAs, %d children: %q", sas, children, b.log)
	}
	if p.ask(wire.ExchangeInformational) == nil {
		t.Error("the genuine request is not answered any more")
	}
	b.sound()
}

func TestAReflectedMessageIsNotTaken(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel())
	p := up(b)
	sends := b.event(ike.Command{ID: 1, Verb: ike.Rekey, Tunnel: "t"})
	if back := p.give(sends[0].Bytes); len(back) != 0 {
		t.Error("our own request, reflected, is answered")
	}
	if sas, _ := b.established(); sas != 1 {
		t.Errorf("%d IKE SAs", sas)
	}
	b.sound()
}

// RFC 7296, section 2.4: an initiator goes on listening.
func TestAForgedFirstAnswerDoesNotKeepTheGenuineOneOut(t *testing.T) {
	t.Parallel()
	begin := func() (*bench, *puppet, []byte) {
		b := newBench(t, nil, tunnel(func(tt *policy.PeerTunnel) { tt.Start = policy.StartOnDemand }))
		first := b.event(ike.Command{ID: 1, Verb: ike.Up, Tunnel: "t"})
		p := newPuppet(b)
		p.spiI = p.parse(first[0].Bytes).InitiatorSPI
		return b, p, first[0].Bytes
	}
	answer := func(p *puppet, spi uint64, data []byte) []byte {
		return p.clear(wire.Header{Flags: wire.FlagResponse, ResponderSPI: spi}, ikeSA(), &wire.KE{Method: policy.KEX25519, Data: data}, &wire.Nonce{Data: make([]byte, 32)})
	}
	zero := make([]byte, 32) // a point of low order
	for name, forge := range map[string]func(b *bench, p *puppet, first []byte){
		"garbage as key exchange":  func(_ *bench, p *puppet, _ []byte) { p.give(answer(p, 66, zero)) },
		"a key exchange too short": func(_ *bench, p *puppet, _ []byte) { p.give(answer(p, 66, zero[:31])) },
		"a good key exchange":      func(_ *bench, p *puppet, _ []byte) { p.give(answer(p, 66, p.keyExchange().Data)) },
		"many good key exchanges": func(_ *bench, p *puppet, _ []byte) {
			for i := range 5 {
				p.give(answer(p, uint64(66+i), p.keyExchange().Data))
			}
		},
		"a refusal": func(_ *bench, p *puppet, _ []byte) {
			p.give(p.clear(wire.Header{Flags: wire.FlagResponse}, &wire.Notify{Type: wire.NotifyNoProposalChosen}))
		},
		"a demand for no known group": func(_ *bench, p *puppet, _ []byte) {
			p.give(p.clear(wire.Header{Flags: wire.FlagResponse}, &wire.Notify{Type: wire.NotifyInvalidKEPayload, Data: []byte{0, 1}}))
		},
		"a foreign transform": func(_ *bench, p *puppet, _ []byte) {
			sa := ikeSA()
			sa.Proposals[0].Transforms[0] = wire.NewTransform(1, 3, 0)
			p.give(p.clear(wire.Header{Flags: wire.FlagResponse, ResponderSPI: 66}, sa, p.keyExchange(), &wire.Nonce{Data: make([]byte, 32)}))
		},
		"a good key exchange, then answers of all kinds": func(b *bench, p *puppet, first []byte) {
			p.give(answer(p, 66, p.keyExchange().Data))
			sa := ikeSA()
			sa.Proposals[0].Transforms[0] = wire.NewTransform(1, 3, 0)
			p.give(p.clear(wire.Header{Flags: wire.FlagResponse, ResponderSPI: 67}, sa, p.keyExchange(), &wire.Nonce{Data: make([]byte, 32)}))
			p.give(answer(p, 68, zero))
			p.give(answer(p, 69, zero[:31]))
			p.give(answer(p, 0, p.keyExchange().Data))
			p.give(p.clear(wire.Header{Flags: wire.FlagResponse}, &wire.Notify{Type: wire.NotifyCookie, Data: []byte("late")}))
		},
		"a whole forged responder with another key": func(b *bench, p *puppet, first []byte) {
			evil := newPuppet(b)
			evil.psk, evil.spiR = "guessed", 666
			auth := evil.answerFirst(first)
			evil.answerAuth(auth[0].Bytes)
		},
		"a forged responder that refuses": func(b *bench, p *puppet, first []byte) {
			evil := newPuppet(b)
			evil.spiR = 666
			auth := evil.answerFirst(first)
			evil.reply(auth[0].Bytes, &wire.Notify{Type: wire.NotifyAuthenticationFailed})
		},
		"a forged responder that sends a request": func(b *bench, p *puppet, first []byte) {
			evil := newPuppet(b)
			evil.spiR = 666
			evil.answerFirst(first)
			evil.give(evil.seal(evil.header(wire.ExchangeInformational, false, 0), &wire.Delete{Protocol: wire.ProtocolIKE}))
		},
	} {
		b, p, first := begin()
		forge(b, p, first)
		genuine := newPuppet(b)
		sends := genuine.answerFirst(first)
		for range 30 {
			if len(sends) > 0 {
				if h, err := wire.ParseHeader(sends[len(sends)-1].Bytes); err == nil && h.ResponderSPI == genuine.spiR && h.Exchange == wire.ExchangeIKEAuth {
					break
				}
			}
			sends = b.wait(200 * time.Millisecond)
		}
		if len(sends) == 0 {
			t.Errorf("%s: the genuine answer is not followed: %q", name, b.log)
			continue
		}
		genuine.answerAuth(sends[len(sends)-1].Bytes)
		if err, ok := b.replies[1]; !ok || err != nil {
			t.Errorf("%s: %v %v: %q", name, ok, err, b.log)
		}
		b.sound()
		b.event(ike.Shutdown{})
		b.wait(time.Minute)
		if len(b.larval) != 0 || len(b.sas) != 0 {
			t.Errorf("%s: %d SPIs and %d SAs are left", name, len(b.larval), len(b.sas))
		}
	}
}

func TestARefusedChangeIsNotSpokenOf(t *testing.T) {
	t.Parallel()
	// As responder, in IKE_AUTH.
	b := newBench(t, nil, tunnel())
	p := newPuppet(b).begin()
	b.refuse = true
	if got := p.authenticate(); !has(got, wire.NotifyNoAdditionalSAs) {
		t.Errorf("IKE_AUTH is answered with %v", got)
	}
	// In CREATE_CHILD_SA.
	b.refuse = true
	if got := p.ask(wire.ExchangeCreateChildSA, espSA(9), &wire.Nonce{Data: make([]byte, 16)}, ts(false, "10.2.0.0/16"), ts(true, "10.1.0.0/16")); !has(got, wire.NotifyNoAdditionalSAs) {
		t.Errorf("CREATE_CHILD_SA is answered with %v", got)
	}
	// In a rekey, the old child stays.
	got := p.ask(wire.ExchangeCreateChildSA, espSA(10), &wire.Nonce{Data: make([]byte, 16)}, ts(false, "10.2.0.0/16"), ts(true, "10.1.0.0/16"))
	if len(got) == 0 {
		t.Fatal("no child")
	}
	b.refuse = true
	got = p.ask(wire.ExchangeCreateChildSA, &wire.Notify{Protocol: wire.ProtocolESP, SPI: wire.SPI4(10), Type: wire.NotifyRekeySA}, espSA(11), &wire.Nonce{Data: make([]byte, 16)}, ts(false, "10.2.0.0/16"), ts(true, "10.1.0.0/16"))
	if _, children := b.established(); !has(got, wire.NotifyNoAdditionalSAs) || children != 1 {
		t.Errorf("the rekey is answered with %v, %d children", got, children)
	}
	// As initiator of a rekey: the pair the peer believes in is deleted, the old one stays.
	b.refuse = true
	sends := b.event(ike.Command{ID: 5, Verb: ike.Rekey, Tunnel: "t", Child: "lan"})
	sends = append(p.reply(sends[0].Bytes, espSA(12), &wire.Nonce{Data: make([]byte, 16)}, ts(false, "10.1.0.0/16"), ts(true, "10.2.0.0/16")), b.wait(time.Second)...)
	deletes := 0
	for _, s := range sends {
		_, inner := p.open(s.Bytes)
		if d, ok := wire.Find[*wire.Delete](inner, wire.PayloadDelete); ok {
			deletes++
			for _, sa := range b.sas {
				if sa.Direction == policy.Inbound && uint32(sa.SPI) == d.SPIs[0] {
					t.Error("the living child is deleted")
				}
			}
		}
	}
	if _, children := b.established(); deletes == 0 || children != 1 {
		t.Errorf("%d deletes, %d children", deletes, children)
	}
	b.sound()
}

func TestAHostilePeerThatIsAuthenticatedIsBounded(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(l *ike.Limits) { l.ChildrenPerSA, l.SelectorsPerChild, l.SAsPerPeer = 8, 4, 3 }, tunnel())
	p := up(b)
	refused := 0
	for i := range 40 {
		got := p.ask(wire.ExchangeCreateChildSA, espSA(uint32(100+i)), &wire.Nonce{Data: make([]byte, 16)}, ts(false, "10.2.0.0/16"), ts(true, "10.1.0.0/16"))
		if has(got, wire.NotifyNoAdditionalSAs) {
			refused++
		}
	}
	if _, children := b.established(); children != 8 || refused != 33 {
		t.Errorf("%d children, %d refused", children, refused)
	}
	// Children that come and go: what lingers is bounded too.
	for i := range 200 {
		p.ask(wire.ExchangeInformational, &wire.Delete{Protocol: wire.ProtocolESP, SPIs: []uint32{uint32(100 + i)}})
		p.ask(wire.ExchangeCreateChildSA, espSA(uint32(101+i)), &wire.Nonce{Data: make([]byte, 16)}, ts(false, "10.2.0.0/16"), ts(true, "10.1.0.0/16"))
	}
	if len(b.sas) > 4*8 {
		t.Errorf("%d SAs at the plane", len(b.sas))
	}
	// Hundreds of selectors.
	b = newBench(t, func(l *ike.Limits) { l.SelectorsPerChild = 4 }, tunnel())
	p = newPuppet(b).begin()
	var many []string
	for i := range 255 {
		many = append(many, fmt.Sprintf("10.2.%d.1", i))
	}
	id := p.idPayload()
	got := p.ask(wire.ExchangeIKEAuth, id, p.proof(id), espSA(1), ts(false, many...), ts(true, "10.1.0.0/16"))
	answered, ok := wire.Find[*wire.TS](got, wire.PayloadTSi)
	if !ok || len(answered.Selectors) != 4 {
		t.Errorf("%v", got)
	}
	for _, sa := range b.sas {
		if len(sa.Remote) != 4 {
			t.Errorf("%d selectors at the plane, 4 were answered", len(sa.Remote))
		}
	}
	// Notifications without end make a bounded log.
	for range 500 {
		p.ask(wire.ExchangeInformational, &wire.Notify{Type: wire.NotifyType(40)})
	}
	if len(b.log) > ike.DefaultLimits().LogLines+50 || b.v2.Unsaid == 0 {
		t.Errorf("%d lines of log, %d left out", len(b.log), b.v2.Unsaid)
	}
	// One identity, SA after SA.
	b = newBench(t, func(l *ike.Limits) { l.SAsPerPeer = 3 }, tunnel())
	for i := range 20 {
		p := newPuppet(b)
		p.spiI, p.ni[0], p.spi = uint64(i+1), byte(i), uint32(i+1)
		p.begin().authenticate()
	}
	if sas, _ := b.established(); sas > 3 {
		t.Errorf("%d IKE SAs of one identity", sas)
	}
	b.sound()
}

// Crossing initial exchanges with a peer that is no Coati: both SAs stay until ours has been idle, the peer's is left alone.
func TestAnIdleDuplicateOfOursIsDeleted(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel(func(tt *policy.PeerTunnel) { tt.Start, tt.DPD = policy.StartOnDemand, 0 }))
	first := b.event(ike.Command{ID: 1, Verb: ike.Up, Tunnel: "t"})
	ours := newPuppet(b)
	auth := ours.answerFirst(first[0].Bytes)
	theirs := newPuppet(b).begin()
	ours.answerAuth(auth[0].Bytes)
	theirs.authenticate()
	if sas, _ := b.established(); sas != 2 {
		t.Fatalf("%d IKE SAs: %q", sas, b.log)
	}
	var deleted []uint64
	for _, s := range b.wait(3 * time.Minute) {
		m := theirs.parse(s.Bytes)
		if m.Exchange == wire.ExchangeInformational && !slices.Contains(deleted, m.InitiatorSPI) {
			deleted = append(deleted, m.InitiatorSPI)
		}
	}
	if len(deleted) != 1 || deleted[0] != ours.spiI {
		t.Errorf("deletes on %x, ours is %x", deleted, ours.spiI)
	}
	b.sound()
}

func TestAPeerMayDemandAuthenticationAnew(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel(func(tt *policy.PeerTunnel) { tt.Start, tt.DPD = policy.StartOnDemand, 0 }))
	first := b.event(ike.Command{ID: 1, Verb: ike.Up, Tunnel: "t"})
	p := newPuppet(b)
	auth := p.answerFirst(first[0].Bytes)
	id := p.idPayload()
	p.reply(auth[0].Bytes, id, p.proof(id), espSA(p.spi), ts(false, "10.1.0.0/16"), ts(true, "10.2.0.0/16"), &wire.Notify{Type: wire.NotifyAuthLifetime, Data: []byte{0, 0, 0, 100}})
	if sends := b.wait(79 * time.Second); len(sends) != 0 {
		t.Errorf("%d datagrams before the time", len(sends))
	}
	sends := b.wait(21 * time.Second)
	if len(sends) == 0 || p.parse(sends[0].Bytes).Exchange != wire.ExchangeIKESAInit {
		t.Fatalf("nothing is negotiated anew: %q", b.log)
	}
	if sas, children := b.established(); sas != 1 || children != 1 {
		t.Errorf("%d IKE SAs and %d children meanwhile", sas, children)
	}
	// The new SA takes over, then the old one is deleted.
	n := newPuppet(b)
	n.spiR, n.spi = 0x5555555555555555, 0xabc0002
	auth = n.answerFirst(sends[0].Bytes)
	after := n.answerAuth(auth[0].Bytes)
	if len(after) != 1 || p.parse(after[0].Bytes).InitiatorSPI != p.spiI {
		t.Errorf("%d datagrams, want the delete of the old SA", len(after))
	}
	if sas, children := b.established(); sas != 1 || children != 1 {
		t.Errorf("%d IKE SAs and %d children at the end", sas, children)
	}
	b.sound()
}

func TestUniqueKeepRefusesTheSecond(t *testing.T) {
	t.Parallel()
	for unique, want := range map[policy.Unique]int{policy.UniqueKeep: 1, policy.UniqueByContact: 2, policy.UniqueReplace: 1, policy.UniqueNever: 2} {
		b := newBench(t, nil, tunnel(func(tt *policy.PeerTunnel) { tt.Unique = unique }))
		up(b)
		p := newPuppet(b)
		p.spiI, p.ni[0], p.spi = 5, 1, 5
		got := p.begin().authenticate()
		if sas, _ := b.established(); sas != want || has(got, wire.NotifyAuthenticationFailed) != (unique == policy.UniqueKeep) {
			t.Errorf("%v: %d IKE SAs", unique, sas)
		}
		if unique == policy.UniqueKeep && !b.said("keeps the first: see unique") {
			t.Errorf("nobody is told why: %q", b.log)
		}
		b.sound()
	}
}
