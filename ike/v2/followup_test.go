package v2_test

import (
	"slices"
	"testing"
	"time"

	"coati/ike"
	"coati/ike/keys"
	"coati/ike/wire"
	"coati/policy"
)

// pqChild is a tunnel whose children alone have additional key exchanges.
func pqChild(tt *policy.PeerTunnel) {
	tt.Children[0].ESP = []policy.Proposal{policy.MustProposal(policy.ProtocolESP, "aes128gcm16-noesn-x25519-ke1_mlkem512-ke2_mlkem768")}
}

func pqESP(spi uint32) *wire.SA {
	sa := espSA(spi)
	p := &sa.Proposals[0]
	p.Transforms = slices.Insert(p.Transforms, 1, wire.NewTransform(wire.TransformKE, policy.KEX25519, 0))
	p.Transforms = append(p.Transforms, wire.NewTransform(wire.TransformADDKE1, policy.KEMLKEM512, 0), wire.NewTransform(wire.TransformADDKE2, policy.KEMLKEM768, 0))
	return sa
}

func link(payloads []wire.Payload) *wire.Notify {
	return wire.FindNotify(payloads, wire.NotifyAdditionalKeyExchange)
}

// exchange is a key exchange as initiator: what is asked with it, and the shared secret.
func (p *puppet) exchange(method uint16, ex wire.ExchangeType, payloads ...wire.Payload) ([]wire.Payload, policy.Secret) {
	p.t.Helper()
	mine, err := keys.NewInitiator(method, random{p.b.rng})
	if err != nil {
		p.t.Fatal(err)
	}
	public, _ := mine.Offer()
	got := p.ask(ex, append(payloads, &wire.KE{Method: method, Data: public})...)
	ke, ok := wire.Find[*wire.KE](got, wire.PayloadKE)
	if !ok {
		return got, policy.Secret{}
	}
	shared, err := mine.Finish(ke.Data)
	if err != nil {
		p.t.Fatal(err)
	}
	return got, shared
}

// asksForChild is CREATE_CHILD_SA for a child with two additional key exchanges.
func (p *puppet) asksForChild(spi uint32, extra ...wire.Payload) ([]wire.Payload, policy.Secret) {
	p.t.Helper()
	return p.exchange(policy.KEX25519, wire.ExchangeCreateChildSA, append(extra, pqESP(spi), &wire.Nonce{Data: slices.Repeat([]byte{5}, 32)}, ts(false, "10.2.0.0/16"), ts(true, "10.1.0.0/16"))...)
}

// A scripted peer opens a child with two additional key exchanges; KEYMAT is of all three secrets, in order.
func TestAPeerOpensAChildWithAdditionalKeyExchanges(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel(pqChild))
	p := up(b)
	got, first := p.asksForChild(0xabc0002)
	nr, ok := wire.Find[*wire.Nonce](got, wire.PayloadNonce)
	if !ok || link(got) == nil || len(b.sas) != 2 {
		t.Fatalf("%d payloads, %d SAs: %q", len(got), len(b.sas), b.log)
	}
	got, second := p.exchange(policy.KEMLKEM512, wire.ExchangeIKEFollowupKE, link(got))
	if link(got) == nil || len(b.sas) != 2 {
		t.Fatalf("after the first additional one: %d payloads, %d SAs", len(got), len(b.sas))
	}
	got, third := p.exchange(policy.KEMLKEM768, wire.ExchangeIKEFollowupKE, link(got))
	if link(got) != nil || len(b.sas) != 4 {
		t.Fatalf("after the last one: %d payloads, %d SAs: %q", len(got), len(b.sas), b.log)
	}
	keymat, err := p.prf.Plus(p.keys.D.Reveal(), 40, first.Reveal(), slices.Repeat([]byte{5}, 32), nr.Data, second.Reveal(), third.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, sa := range b.sas {
		if sa.SPI == 0xabc0002 {
			found = slices.Equal(sa.EncryptionKey.Reveal(), keymat[20:])
		}
	}
	if !found {
		t.Error("the child's keys are not prf+(SK_d, SK(0) | Ni | Nr | SK(1) | SK(2))")
	}
	b.sound()
}

func TestWhatAPeerDoesNotFinishIsGivenUp(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel(pqChild))
	p := up(b)
	larval := len(b.larval)
	got, _ := p.asksForChild(0xabc0002)
	stale := link(got)
	got, _ = p.asksForChild(0xabc0003)
	if len(b.larval) != larval+1 {
		t.Errorf("%d SPIs are reserved for two children that are not finished", len(b.larval)-larval)
	}
	if answer, _ := p.exchange(policy.KEMLKEM512, wire.ExchangeIKEFollowupKE, stale); !has(answer, wire.NotifyStateNotFound) {
		t.Errorf("the first child goes on: %v", answer)
	}
	b.wait(ike.DefaultLimits().HalfOpenLife + time.Second)
	if len(b.larval) != larval {
		t.Error("an SPI stays reserved for a child that is never finished")
	}
	if answer, _ := p.exchange(policy.KEMLKEM512, wire.ExchangeIKEFollowupKE, link(got)); !has(answer, wire.NotifyStateNotFound) {
		t.Errorf("a child that was given up goes on: %v", answer)
	}
	got, _ = p.asksForChild(0xabc0004)
	if answer, _ := p.exchange(policy.KEMLKEM768, wire.ExchangeIKEFollowupKE, link(got)); !has(answer, wire.NotifyInvalidSyntax) || len(b.larval) != larval {
		t.Errorf("another key exchange than agreed on: %v", answer)
	}
	if sas, children := b.established(); sas != 1 || children != 1 {
		t.Errorf("%d IKE SAs with %d children", sas, children)
	}
	b.sound()
}

// Of a rekey that both ends begin, each refuses the other's for now, and nothing is lost.
func TestARekeyWithAdditionalKeyExchangesIsNotBegunTwice(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel(pqChild))
	p := up(b)
	sends := b.event(ike.Command{ID: 1, Verb: ike.Rekey, Tunnel: "t", Child: "lan"})
	rekey := &wire.Notify{Protocol: wire.ProtocolESP, SPI: wire.SPI4(p.spi), Type: wire.NotifyRekeySA}
	if got, _ := p.asksForChild(0xabc0002, rekey); !has(got, wire.NotifyTemporaryFailure) {
		t.Errorf("a crossing rekey is answered with %v", got)
	}
	p.reply(sends[0].Bytes, &wire.Notify{Type: wire.NotifyTemporaryFailure})
	got, _ := p.asksForChild(0xabc0003, rekey)
	if link(got) == nil {
		t.Fatalf("the peer's rekey is refused afterwards: %v", got)
	}
	// Ours falls due again while the peer's is not finished.
	if again := b.event(ike.Command{ID: 2, Verb: ike.Rekey, Tunnel: "t", Child: "lan"}); len(again) != 0 || b.replies[2] == nil {
		t.Errorf("a child that the peer is replacing is rekeyed: %d datagrams", len(again))
	}
	got, _ = p.exchange(policy.KEMLKEM512, wire.ExchangeIKEFollowupKE, link(got))
	got, _ = p.exchange(policy.KEMLKEM768, wire.ExchangeIKEFollowupKE, link(got))
	if _, ok := wire.Find[*wire.KE](got, wire.PayloadKE); !ok || len(b.sas) != 4 {
		t.Errorf("the peer's rekey does not end: %v, %d SAs", got, len(b.sas))
	}
	b.sound()
}

// followUps are the arrows of additional key exchanges that no Coati makes another take.
func followUps(t *testing.T, count func(*bench)) {
	for _, answer := range [][]wire.Payload{
		{&wire.Notify{Type: wire.NotifyStateNotFound}}, {&wire.KE{Method: policy.KEX25519, Data: make([]byte, 32)}}, {},
	} {
		b := newBench(t, nil, tunnel(pqChild))
		p := up(b)
		sends := b.event(ike.Command{ID: 1, Verb: ike.Rekey, Tunnel: "t", Child: "lan"})
		m, inner := p.open(sends[0].Bytes)
		ke, _ := wire.Find[*wire.KE](inner, wire.PayloadKE)
		r, err := keys.NewResponder(ke.Method, random{b.rng})
		if err != nil {
			t.Fatal(err)
		}
		public, _, err := r.Answer(ke.Data)
		if err != nil {
			t.Fatal(err)
		}
		sends = p.give(p.seal(p.header(m.Exchange, true, m.MessageID), pqESP(0xabc0009), &wire.Nonce{Data: make([]byte, 32)}, &wire.KE{Method: ke.Method, Data: public},
			ts(false, "10.1.0.0/16"), ts(true, "10.2.0.0/16"), &wire.Notify{Type: wire.NotifyAdditionalKeyExchange, Data: []byte("link")}))
		if m, inner := p.open(sends[0].Bytes); m.Exchange != wire.ExchangeIKEFollowupKE || link(inner) == nil || string(link(inner).Data) != "link" {
			t.Errorf("%s without the link", m.Exchange)
		}
		b.event(ike.Command{ID: 2, Verb: ike.Down, Tunnel: "t"})
		sends = p.reply(sends[0].Bytes, answer...)
		if got, _ := p.exchange(policy.KEMLKEM512, wire.ExchangeIKEFollowupKE, &wire.Notify{Type: wire.NotifyAdditionalKeyExchange, Data: []byte("x")}); !has(got, wire.NotifyTemporaryFailure) {
			t.Errorf("a key exchange while we delete is answered with %v", got)
		}
		p.reply(sends[0].Bytes)
		b.wait(10 * time.Second)
		count(b)
	}
}
