package v2_test

import (
	"math"
	"testing"
	"time"

	"coati/ike"
	"coati/ike/v2"
	"coati/ike/wire"
	"coati/policy"
)

// The arrows that only a strange peer, or nobody, makes us take, each by a script of its own.

// opening is an engine that has just sent its first request.
func opening(t *testing.T, change ...func(*policy.PeerTunnel)) (*bench, []byte) {
	t.Helper()
	b := newBench(t, nil, tunnel(append(change, func(tt *policy.PeerTunnel) { tt.Start = policy.StartOnDemand })...))
	first := b.event(ike.Command{ID: 1, Verb: ike.Up, Tunnel: "t"})
	return b, first[0].Bytes
}

// responder is a puppet that answers the first request; it returns what the engine says to that.
func responder(b *bench, spi uint64, first []byte) (*puppet, []ike.Send) {
	p := newPuppet(b)
	p.spiR = spi
	return p, p.answerFirst(first)
}

// to finds what was sent to the responder with this SPI.
func to(sends []ike.Send, spi uint64) []byte {
	for _, s := range sends {
		if h, err := wire.ParseHeader(s.Bytes); err == nil && h.ResponderSPI == spi {
			return s.Bytes
		}
	}
	return nil
}

// foreign is an answer to the first request with a transform nobody offered.
func foreign(p *puppet, spi uint64) []byte {
	sa := ikeSA()
	sa.Proposals[0].Transforms[0] = wire.NewTransform(1, 3, 0)
	return p.clear(wire.Header{Flags: wire.FlagResponse, ResponderSPI: spi}, sa, p.keyExchange(), &wire.Nonce{Data: make([]byte, 32)})
}

// spoilt are the ways in which a responder's IKE_AUTH answer ends its branch: alone, with another answer that was kept, and
// with another branch that was followed before.
func spoilt(t *testing.T, count func(*bench)) {
	spoiltBy(t, count, map[string]func(p *puppet, auth []byte){
		"refused":  func(p *puppet, auth []byte) { p.reply(auth, &wire.Notify{Type: wire.NotifyAuthenticationFailed}) },
		"nonsense": func(p *puppet, auth []byte) { p.reply(auth) },
		"another key": func(p *puppet, auth []byte) {
			p.psk = "guessed"
			p.answerAuth(auth)
		},
		"another key, no child": func(p *puppet, auth []byte) {
			p.psk = "guessed"
			id := p.idPayload()
			p.reply(auth, id, p.proof(id), &wire.Notify{Type: wire.NotifyTSUnacceptable})
		},
	})
	signed := func(p *puppet) (*wire.ID, *wire.Auth) {
		return p.idPayload(), &wire.Auth{Method: wire.AuthECDSA256, Data: make([]byte, 64)}
	}
	spoiltBy(t, count, map[string]func(p *puppet, auth []byte){
		"no certificate": func(p *puppet, auth []byte) {
			id, sig := signed(p)
			p.reply(auth, id, sig, espSA(p.spi), ts(false, "10.1.0.0/16"), ts(true, "10.2.0.0/16"))
		},
		"no certificate, no child": func(p *puppet, auth []byte) {
			id, sig := signed(p)
			p.reply(auth, id, sig, &wire.Notify{Type: wire.NotifyTSUnacceptable})
		},
	}, func(tt *policy.PeerTunnel) { tt.RemoteAuth = policy.ByCert })
}

func spoiltBy(t *testing.T, count func(*bench), ways map[string]func(p *puppet, auth []byte), change ...func(*policy.PeerTunnel)) {
	for name, spoil := range ways {
		b, first := opening(t, change...)
		p, sends := responder(b, 61, first)
		spoil(p, to(sends, 61))
		count(b)

		b, first = opening(t, change...)
		p, sends = responder(b, 61, first)
		responder(b, 62, first)
		spoil(p, to(sends, 61))
		count(b)

		b, first = opening(t, change...)
		responder(b, 61, first)
		p, _ = responder(b, 62, first)
		auth := to(b.wait(700*time.Millisecond), 62)
		if auth == nil {
			t.Fatalf("%s: the second answer is not followed", name)
		}
		spoil(p, auth)
		count(b)
	}
}

func strange(t *testing.T, count func(*bench)) {
	// Answers in clear that cannot be followed.
	for _, bad := range []func(*puppet) []byte{
		func(p *puppet) []byte { return foreign(p, 66) },
		func(p *puppet) []byte {
			return p.clear(wire.Header{Flags: wire.FlagResponse}, &wire.Notify{Type: wire.NotifyInvalidKEPayload, Data: []byte{0, 1}})
		},
		func(p *puppet) []byte {
			return p.clear(wire.Header{Flags: wire.FlagResponse, ResponderSPI: 66}, ikeSA(), &wire.KE{Method: policy.KEX25519, Data: make([]byte, 32)}, &wire.Nonce{Data: make([]byte, 32)})
		},
	} {
		b, first := opening(t)
		p := newPuppet(b)
		p.spiI = p.parse(first).InitiatorSPI
		p.give(bad(p))
		count(b)
	}
	// A first request whose key exchange is no point of the curve.
	b := newBench(t, nil, tunnel())
	p := newPuppet(b)
	p.give(p.first(&wire.KE{Method: policy.KEX25519, Data: make([]byte, 32)}, &wire.VendorID{Data: make([]byte, 64)}))
	count(b)
	// An initiator that signs, and has no certificate.
	b = newBench(t, nil, tunnel(func(tt *policy.PeerTunnel) { tt.RemoteAuth = policy.ByCert }))
	p = newPuppet(b).begin()
	if got := p.ask(wire.ExchangeIKEAuth, p.idPayload(), &wire.Auth{Method: wire.AuthECDSA256, Data: make([]byte, 64)}, espSA(p.spi), ts(false, "10.2.0.0/16"), ts(true, "10.1.0.0/16")); !has(got, wire.NotifyAuthenticationFailed) {
		t.Errorf("a signature without a certificate is answered with %v", got)
	}
	count(b)
	// Told to end before the first request is made.
	b = newBench(t, nil, tunnel(func(tt *policy.PeerTunnel) { tt.Start = policy.StartOnDemand }))
	b.hold = true
	b.event(ike.Command{ID: 1, Verb: ike.Up, Tunnel: "t"})
	b.event(ike.Command{ID: 2, Verb: ike.Down, Tunnel: "t"})
	b.release()
	count(b)
	// Nobody answers IKE_AUTH; an answer that cannot be followed comes just before we give up.
	for _, late := range []bool{false, true} {
		b, first := opening(t)
		p, sends := responder(b, 61, first)
		for n := len(sends); n <= ike.DefaultLimits().RetransmitTries; {
			n += len(b.wait(100 * time.Millisecond))
		}
		if late {
			p.give(foreign(p, 66))
		}
		b.wait(time.Minute)
		count(b)
	}
}

// living are an established SA's.
func living(t *testing.T, count func(*bench)) {
	quick := func() (*bench, *puppet) {
		b := newBench(t, nil, tunnel(func(tt *policy.PeerTunnel) { tt.DPD = 5 * time.Second }))
		return b, up(b)
	}
	down := ike.Command{ID: 8, Verb: ike.Down, Tunnel: "t"}
	rekey := ike.Command{ID: 9, Verb: ike.Rekey, Tunnel: "t", Child: "lan"}
	busy := &wire.Notify{Type: wire.NotifyTemporaryFailure}

	b, p := quick() // down while a rekey is under way
	sends := b.event(rekey)
	b.event(down)
	sends = p.reply(sends[0].Bytes, busy)
	p.ask(wire.ExchangeInformational) // while we delete
	p.reply(sends[0].Bytes)
	count(b)

	b, p = quick() // down while we ask whether the peer lives
	sends = b.wait(6 * time.Second)
	b.event(down)
	p.reply(sends[0].Bytes)
	count(b)

	b, p = quick()
	p.ask(wire.ExchangeInformational, &wire.Notify{Type: wire.NotifyAuthenticationFailed})
	count(b)

	// The last message ID is used, and there is more to ask.
	b, p = quick()
	v2.SetMessageIDs(b.machines[0], math.MaxUint32-1, 2)
	sends = b.event(rekey)
	p.reply(sends[0].Bytes, &wire.Notify{Type: wire.NotifyChildSANotFound})
	count(b)
	b, p = quick()
	v2.SetMessageIDs(b.machines[0], math.MaxUint32-1, 2)
	sends = b.wait(6 * time.Second)
	b.event(rekey)
	p.reply(sends[0].Bytes)
	count(b)
}
