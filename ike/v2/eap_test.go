package v2_test

import (
	"bytes"
	"crypto/x509"
	"net/netip"
	"slices"
	"testing"
	"time"

	"coati/ike"
	"coati/ike/eap"
	"coati/ike/wire"
	"coati/lab/pki"
	"coati/policy"
)

var correct = policy.NewSecret([]byte("correct horse"))

// byEAP makes the engine's tunnel one whose peer authenticates by EAP, or which does so itself; the other end proves itself
// by a shared key.
func serves(methods ...policy.EAPMethod) func(*policy.PeerTunnel) {
	return func(t *policy.PeerTunnel) {
		t.RemoteAuth = policy.ByEAP
		t.EAP = &policy.EAP{Methods: methods, Users: map[string]policy.Secret{"alice": correct}}
	}
}

func uses(methods ...policy.EAPMethod) func(*policy.PeerTunnel) {
	return func(t *policy.PeerTunnel) {
		t.LocalAuth = policy.ByEAP
		t.EAP = &policy.EAP{Methods: methods, Identity: "alice", Password: correct}
	}
}

func asksRADIUS(t *policy.PeerTunnel) {
	t.RemoteAuth = policy.ByEAP
	t.EAP = &policy.EAP{RADIUS: policy.RADIUS{Servers: nil}}
	t.EAP.RADIUS.Servers = append(t.EAP.RADIUS.Servers, netip.AddrPortFrom(there, 1812))
}

func eapOf(payloads []wire.Payload) []byte {
	if p, ok := wire.Find[*wire.EAP](payloads, wire.PayloadEAP); ok {
		return p.Message
	}
	return nil
}

// wantEAP is the first request of a puppet that authenticates by EAP.
func (p *puppet) wantEAP(extra ...wire.Payload) []wire.Payload {
	p.t.Helper()
	return p.ask(wire.ExchangeIKEAuth, append([]wire.Payload{p.idPayload(), espSA(p.spi), ts(false, "10.2.0.0/16"), ts(true, "10.1.0.0/16")}, extra...)...)
}

// play answers the engine's packets of EAP until it ends; it returns the last answer.
func (p *puppet) play(peer *eap.Peer, got []wire.Payload) []wire.Payload {
	p.t.Helper()
	for range 3 * eap.MaxRounds {
		step := peer.Handle(p.b.now, eapOf(got))
		if step.Send == nil {
			return got
		}
		got = p.ask(wire.ExchangeIKEAuth, &wire.EAP{Message: step.Send})
	}
	p.t.Fatal("EAP does not end")
	return nil
}

func alice(methods ...policy.EAPMethod) *eap.Peer {
	return eap.NewPeer(&policy.EAP{Methods: methods, Identity: "alice", Password: correct}, [32]byte{1})
}

// serve answers the engine's request with AUTH and packets of EAP until it is through, and returns the request with AUTH.
func (p *puppet) serve(server *eap.Server, auth []byte) []byte {
	p.t.Helper()
	id := p.idPayload()
	sends := p.reply(auth, id, p.proof(id), &wire.EAP{Message: server.Begin()})
	for range eap.MaxRounds {
		if len(sends) != 1 {
			p.t.Fatalf("%d datagrams: %q", len(sends), p.b.log)
		}
		_, inner := p.open(sends[0].Bytes)
		packet := eapOf(inner)
		if packet == nil {
			return sends[0].Bytes
		}
		step := server.Handle(p.b.now, packet)
		if step.Err != nil {
			p.t.Fatal(step.Err)
		}
		sends = p.reply(sends[0].Bytes, &wire.EAP{Message: step.Send})
	}
	p.t.Fatal("EAP does not end")
	return nil
}

func checker(methods ...policy.EAPMethod) *eap.Server {
	return eap.NewServer(&policy.EAP{Methods: methods, Users: map[string]policy.Secret{"alice": correct}}, "puppet", [32]byte{2})
}

func TestAPuppetIsLetInByEAP(t *testing.T) {
	t.Parallel()
	for _, m := range []policy.EAPMethod{policy.EAPMSCHAPv2, policy.EAPMD5, policy.EAPGTC} {
		b := newBench(t, nil, tunnel(serves(m)))
		p := newPuppet(b).begin()
		first := p.wantEAP()
		if id, ok := wire.Find[*wire.Auth](first, wire.PayloadAUTH); !ok || !bytes.Equal(id.Data, p.engineProof(first)) {
			t.Errorf("%s: the engine does not prove who it is before EAP", m)
		}
		peer := alice(m)
		p.play(peer, first)
		p.psk = p.eapKey(peer.MSK())
		got := p.ask(wire.ExchangeIKEAuth, p.proof(p.idPayload()))
		if _, ok := wire.Find[*wire.SA](got, wire.PayloadSA); !ok {
			t.Fatalf("%s: the last answer has no SA: %q", m, b.log)
		}
		if sas, children := b.established(); sas != 1 || children != 1 {
			t.Errorf("%s: %d IKE SAs, %d children", m, sas, children)
		}
		if live := b.eng.Status()[0].SAs[0]; live.RemoteID.String() != "eap:alice" {
			t.Errorf("%s: the peer is %s", m, live.RemoteID)
		}
		b.sound()
	}
}

// engineProof is what the engine's AUTH payload must hold.
func (p *puppet) engineProof(payloads []wire.Payload) []byte {
	id, _ := wire.Find[*wire.ID](payloads, wire.PayloadIDr)
	p.initiator = false
	defer func() { p.initiator = true }()
	return p.proof(id).Data
}

// eapKey is what the last AUTH is made with.
func (p *puppet) eapKey(msk policy.Secret) string {
	switch {
	case msk.Len() > 0:
		return string(msk.Reveal())
	case p.initiator:
		return string(p.keys.Pi.Reveal())
	}
	return string(p.keys.Pr.Reveal())
}

// Without the key of EAP nobody is let in after it: who carried the packets of another's conversation has none.
func TestAUTHAfterEAPMustFitItsKey(t *testing.T) {
	t.Parallel()
	for _, m := range []policy.EAPMethod{policy.EAPMSCHAPv2, policy.EAPMD5} {
		b := newBench(t, nil, tunnel(serves(m)))
		p := newPuppet(b).begin()
		p.play(alice(m), p.wantEAP())
		p.psk = "another key"
		if got := p.ask(wire.ExchangeIKEAuth, p.proof(p.idPayload())); !has(got, wire.NotifyAuthenticationFailed) {
			t.Errorf("%s: AUTH by another key is answered with %v", m, got)
		}
		if sas, _ := b.established(); sas != 0 || !b.said("does not fit the key that EAP made") {
			t.Errorf("%s: %d IKE SAs, %q", m, sas, b.log)
		}
		b.sound()
	}
}

// AUTH in the middle of EAP, EAP after its end, and a second first request end the SA.
func TestEAPIsInOrder(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]func(p *puppet) []wire.Payload{
		"AUTH before success": func(p *puppet) []wire.Payload {
			p.wantEAP()
			return p.ask(wire.ExchangeIKEAuth, p.proof(p.idPayload()))
		},
		"EAP after success": func(p *puppet) []wire.Payload {
			p.play(alice(policy.EAPMD5), p.wantEAP())
			return p.ask(wire.ExchangeIKEAuth, &wire.EAP{Message: []byte{2, 0, 0, 5, 1}})
		},
		"a child before AUTH": func(p *puppet) []wire.Payload {
			p.wantEAP()
			return p.ask(wire.ExchangeCreateChildSA, espSA(7), &wire.Nonce{Data: make([]byte, 32)}, ts(false, "10.2.0.0/16"), ts(true, "10.1.0.0/16"))
		},
		"again from the start": func(p *puppet) []wire.Payload {
			p.wantEAP()
			return p.wantEAP()
		},
	} {
		b := newBench(t, nil, tunnel(serves(policy.EAPMD5)))
		if got := ask(newPuppet(b).begin()); !has(got, wire.NotifyInvalidSyntax) {
			t.Errorf("%s is answered with %v", name, got)
		}
		if sas, _ := b.established(); sas != 0 || !b.eng.Idle() || len(b.larval) != 0 {
			t.Errorf("%s: %d IKE SAs, idle %v", name, sas, b.eng.Idle())
		}
		b.sound()
	}
}

// A repeated packet of EAP is answered from the cache: the server's machine sees it once.
func TestARepeatedPacketOfEAPIsAnsweredAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel(serves(policy.EAPMD5)))
	p := newPuppet(b).begin()
	step := alice(policy.EAPMD5).Handle(b.now, eapOf(p.wantEAP()))
	request := p.next1(wire.ExchangeIKEAuth, &wire.EAP{Message: step.Send})
	first, second := p.give(request), p.give(request)
	if len(first) != 1 || len(second) != 1 || !bytes.Equal(first[0].Bytes, second[0].Bytes) {
		t.Errorf("%d and %d answers", len(first), len(second))
	}
	if b.v2.Taken["peer's packet of EAP"] != 1 {
		t.Errorf("it was handled %d times", b.v2.Taken["peer's packet of EAP"])
	}
}

// While RADIUS is asked, repetitions are not; a late answer finds nobody.
func TestRADIUSIsAskedOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel(asksRADIUS))
	p := newPuppet(b).begin()
	step := alice(policy.EAPMD5).Handle(b.now, eapOf(p.wantEAP()))
	request := p.next1(wire.ExchangeIKEAuth, &wire.EAP{Message: step.Send})
	for range 3 {
		if sends := p.give(request); len(sends) != 0 {
			t.Errorf("%d answers before RADIUS answered", len(sends))
		}
	}
	if len(b.asked) != 1 {
		t.Fatalf("RADIUS is asked %d times", len(b.asked))
	}
	b.wait(ike.DefaultLimits().HalfOpenLife + time.Second)
	if !b.eng.Idle() {
		t.Error("the SA is held")
	}
	if sends := b.event(ike.Answer{ID: b.asked[0], Value: ike.RADIUSAnswer{Code: ike.RADIUSAccept}}); len(sends) != 0 || b.fault != nil {
		t.Errorf("a late answer: %d datagrams, %v", len(sends), b.fault)
	}
}

// eapArrows takes every transition of EAP that no scenario takes.
func eapArrows(t *testing.T, count func(*bench)) {
	const m = policy.EAPMSCHAPv2
	// The engine as client. A responder that proves nothing, with other answers at hand, is left for them.
	spoiltBy(t, count, map[string]func(p *puppet, auth []byte){
		"EAP without AUTH": func(p *puppet, auth []byte) {
			p.reply(auth, p.idPayload(), &wire.EAP{Message: []byte{1, 0, 0, 5, 1}})
		},
	}, uses(m))
	opens := func(change ...func(*policy.PeerTunnel)) (*bench, *puppet, []byte) {
		b, first := opening(t, change...)
		p, sends := responder(b, 61, first)
		return b, p, to(sends, 61)
	}
	b, p, auth := opens(uses(m), func(tt *policy.PeerTunnel) { tt.RemoteAuth = policy.ByCert })
	p.reply(auth, p.idPayload(), &wire.Auth{Method: wire.AuthECDSA256, Data: make([]byte, 64)}, &wire.EAP{Message: []byte{1, 0, 0, 5, 1}})
	count(b)
	b, p, auth = opens(uses(m))
	p.reply(auth, p.idPayload(), p.proof(p.idPayload()), &wire.EAP{Message: []byte{3, 0, 0, 4}}) // success at once
	count(b)
	identity := func() (*bench, *puppet, []byte) {
		b, p, auth := opens(uses(m))
		sends := p.reply(auth, p.idPayload(), p.proof(p.idPayload()), &wire.EAP{Message: []byte{1, 0, 0, 5, 1}})
		return b, p, sends[0].Bytes
	}
	b, p, auth = identity()
	p.reply(auth, &wire.Notify{Type: wire.NotifyAuthenticationFailed})
	count(b)
	b, p, auth = identity()
	p.reply(auth, &wire.EAP{Message: []byte{4, 0, 0, 4}})
	count(b)
	b, _, _ = identity()
	b.wait(5 * time.Minute) // nobody answers
	count(b)
	for _, end := range []func(p *puppet, auth []byte){
		func(p *puppet, auth []byte) { p.reply(auth, &wire.Notify{Type: wire.NotifyAuthenticationFailed}) },
		func(p *puppet, auth []byte) {
			p.reply(auth, p.proof(p.idPayload()), espSA(p.spi), ts(false, "10.1.0.0/16"), ts(true, "10.2.0.0/16"))
		},
		func(p *puppet, auth []byte) {
			p.reply(auth, p.proof(p.idPayload()), &wire.Notify{Type: wire.NotifyTSUnacceptable})
		},
		func(p *puppet, _ []byte) { p.b.wait(5 * time.Minute) },
	} {
		for _, knows := range []bool{true, false} {
			b, p, auth = opens(uses(m))
			server := checker(m)
			last := p.serve(server, auth)
			if p.psk = "another key"; knows {
				p.psk = p.eapKey(server.MSK())
			}
			end(p, last)
			count(b)
		}
	}

	// The engine as server.
	b = newBench(t, nil, tunnel())
	if got := newPuppet(b).begin().wantEAP(); !has(got, wire.NotifyAuthenticationFailed) {
		t.Errorf("EAP is answered with %v where no tunnel offers it", got)
	}
	count(b)
	b = newBench(t, nil, tunnel(serves(m)))
	p = newPuppet(b).begin()
	p.wantEAP()
	p.ask(wire.ExchangeIKEAuth, &wire.EAP{Message: []byte{2, 9, 0, 5, 1}})
	count(b)
	b = newBench(t, nil, tunnel(serves(m)))
	p = newPuppet(b).begin()
	p.wantEAP()
	b.wait(time.Minute)
	count(b)
	b = newBench(t, nil, tunnel(serves(m)))
	p = newPuppet(b).begin()
	p.wantEAP()
	if got := p.ask(wire.ExchangeInformational, &wire.Notify{Type: wire.NotifyAuthenticationFailed}); got == nil || len(got) != 0 || !b.said("the peer leaves EAP") {
		t.Errorf("who leaves is answered with %v: %q", got, b.log)
	}
	count(b)
	b = newBench(t, nil, tunnel(serves(m)))
	p = newPuppet(b).begin()
	p.play(alice(m), p.wantEAP())
	b.wait(time.Minute)
	count(b)
	b = newBench(t, nil, tunnel(serves(m)))
	p = newPuppet(b).begin()
	p.play(alice(m), p.wantEAP())
	p.ask(wire.ExchangeIKEAuth, p.proof(p.idPayload()))
	count(b)
	// It proves itself by a certificate, and then by RADIUS lets somebody in.
	ca := pki.New(t, "root", pki.P256)
	key := pki.NewKey(t, pki.P256)
	b = newBench(t, nil, tunnel(asksRADIUS, func(tt *policy.PeerTunnel) {
		tt.LocalAuth = policy.ByCert
		tt.Credential = &policy.Credential{Key: policy.NewPrivateKey(key), Chain: []*x509.Certificate{ca.Issue(t, "gw.example", key.Public())}}
	}))
	server := checker(m)
	server.Begin()
	b.radius = func(q ike.AskRADIUS) ike.RADIUSAnswer {
		step := server.Handle(b.now, q.EAP)
		if step.Done {
			return ike.RADIUSAnswer{Code: ike.RADIUSAccept, EAP: step.Send, MSK: server.MSK().Clone()}
		}
		return ike.RADIUSAnswer{Code: ike.RADIUSChallenge, EAP: step.Send, State: []byte{1}}
	}
	p = newPuppet(b).begin()
	peer := alice(m)
	p.play(peer, p.wantEAP())
	p.psk = p.eapKey(peer.MSK())
	if got := p.ask(wire.ExchangeIKEAuth, p.proof(p.idPayload())); !slices.ContainsFunc(got, func(q wire.Payload) bool { return q.PayloadType() == wire.PayloadSA }) {
		t.Errorf("RADIUS lets nobody in: %q", b.log)
	}
	count(b)
}
