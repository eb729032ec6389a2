package v2_test

import (
	"testing"
	"time"

	"coati/ike"
	"coati/ike/wire"
	"coati/policy"
)

var knowsChildless = &wire.Notify{Type: wire.NotifyChildlessIKEv2Supported}

func childless(tt *policy.PeerTunnel) { tt.Childless = true }

// childlessPuppet answers the first request and says that it takes IKE SAs without a child.
func childlessPuppet(b *bench, spi uint64, first []byte) (*puppet, []ike.Send) {
	p := newPuppet(b)
	p.spiR, p.extra = spi, []wire.Payload{knowsChildless}
	return p, p.answerFirst(first)
}

func TestAPeerAuthenticatesWithoutAChildAndOpensOneLater(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel())
	p := newPuppet(b).begin()
	if !has(p.parse(p.response).Payloads, wire.NotifyChildlessIKEv2Supported) {
		t.Error("the responder does not say that it takes this")
	}
	id := p.idPayload()
	got := p.ask(wire.ExchangeIKEAuth, id, p.proof(id))
	if _, ok := wire.Find[*wire.Auth](got, wire.PayloadAUTH); !ok || len(got) != 2 {
		t.Errorf("answered with %d payloads: %q", len(got), b.log)
	}
	if sas, children := b.established(); sas != 1 || children != 0 {
		t.Errorf("%d IKE SAs with %d children", sas, children)
	}
	p.ask(wire.ExchangeCreateChildSA, espSA(7), &wire.Nonce{Data: make([]byte, 32)}, ts(false, "10.2.0.0/16"), ts(true, "10.1.0.0/16"))
	if _, children := b.established(); children != 1 {
		t.Errorf("%d children: %q", children, b.log)
	}
	b.sound()
}

// The announcement must not make an answer larger than the question.
func TestChildlessIsNotAnnouncedWhereItDoesNotFit(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel())
	p := newPuppet(b)
	first := p.first(p.keyExchange())
	sends := p.give(first)
	if m := p.parse(sends[0].Bytes); len(sends[0].Bytes) > len(first) || has(m.Payloads, wire.NotifyChildlessIKEv2Supported) || has(m.Payloads, wire.NotifyCookie) {
		t.Errorf("%d octets are answered with %d", len(first), len(sends[0].Bytes))
	}
}

func TestWeAskForNoChildIfThePeerTakesThat(t *testing.T) {
	t.Parallel()
	b, first := opening(t, childless)
	p, sends := childlessPuppet(b, 61, first)
	m, inner := p.open(sends[0].Bytes)
	if _, asks := wire.Find[*wire.SA](inner, wire.PayloadSA); asks || m.Exchange != wire.ExchangeIKEAuth {
		t.Error("IKE_AUTH asks for a child")
	}
	id := p.idPayload()
	sends = p.reply(sends[0].Bytes, id, p.proof(id))
	m, inner = p.open(sends[0].Bytes)
	if _, asks := wire.Find[*wire.SA](inner, wire.PayloadSA); !asks || m.Exchange != wire.ExchangeCreateChildSA {
		t.Errorf("%s does not open the child that is wanted", m.Exchange)
	}
	if sas, children := b.established(); sas != 1 || children != 0 {
		t.Errorf("%d IKE SAs with %d children", sas, children)
	}
	b.sound()

	// A peer that does not say so gets the usual request.
	b, first = opening(t, childless)
	p, sends = responder(b, 61, first)
	_, inner = p.open(sends[0].Bytes)
	if _, asks := wire.Find[*wire.SA](inner, wire.PayloadSA); !asks {
		t.Error("a peer that does not know this is asked for no child")
	}
	// And an answer without a child where one was asked for is none.
	id = p.idPayload()
	p.reply(sends[0].Bytes, id, p.proof(id))
	if sas, _ := b.established(); sas != 0 {
		t.Error("an answer without the child is taken")
	}
	b.sound()
}

// childlessArrows are the ways on of IKE_AUTH without a child.
func childlessArrows(t *testing.T, count func(*bench)) {
	signed := &wire.Auth{Method: wire.AuthECDSA256, Data: make([]byte, 64)}
	byCert := func(tt *policy.PeerTunnel) { tt.RemoteAuth = policy.ByCert }
	for _, c := range []struct {
		change func(*policy.PeerTunnel)
		psk    string
		proof  *wire.Auth
	}{{childless, "secret", nil}, {childless, "guessed", nil}, {byCert, "", signed}} {
		b := newBench(t, nil, tunnel(c.change))
		p := newPuppet(b).begin()
		id, proof := p.idPayload(), c.proof
		p.psk = c.psk
		if proof == nil {
			proof = p.proof(id)
		}
		b.hold = true
		p.give(p.next1(wire.ExchangeIKEAuth, id, proof))
		b.release()
		count(b)
	}
	for _, others := range []int{0, 1, 2} {
		for _, by := range []string{"the right key", "another key", "a certificate"} {
			change := []func(*policy.PeerTunnel){childless}
			if by == "a certificate" {
				change = append(change, byCert)
			}
			b, first := opening(t, change...)
			p, sends := childlessPuppet(b, 61, first)
			auth := to(sends, 61)
			if others > 0 {
				other, _ := childlessPuppet(b, 62, first)
				if others > 1 {
					p, auth = other, to(b.wait(700*time.Millisecond), 62)
				}
			}
			if by == "another key" {
				p.psk = "guessed"
			}
			id := p.idPayload()
			proof := p.proof(id)
			if by == "a certificate" {
				proof = signed
			}
			p.reply(auth, id, proof)
			count(b)
		}
	}
}
