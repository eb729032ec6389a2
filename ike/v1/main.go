package v1

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"coati/ike"
	"coati/ike/keys"
	"coati/ike/wire"
	"coati/policy"
)

// Main mode with a pre-shared key, section 5.4:
//
//	HDR, SA, [VID]               -->
//	                             <--  HDR, SA, [VID]
//	HDR, KE, Ni, [NAT-D, NAT-D]  -->
//	                             <--  HDR, KE, Nr, [NAT-D, NAT-D]
//	HDR*, IDii, HASH_I           -->
//	                             <--  HDR*, IDir, HASH_R

func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// begin sends message 1.
func (s *sa) begin() error {
	if !speaks(s.tunnel) {
		return fmt.Errorf("tunnel %s authenticates in a way that IKEv1 does not have here", s.tunnel.Name)
	}
	s.start.suites = policy.V1Suites(s.tunnel.IKE, 0)
	if len(s.start.suites) == 0 {
		return fmt.Errorf("tunnel %s has no IKE proposal that IKEv1 can say: it has no combined modes and no x25519; write one such as aes256-sha256-modp2048", s.tunnel.Name)
	}
	if s.p1.kind == wire.ExchangeV1Aggressive {
		return s.beginAggressive()
	}
	offer := phase1Payload(s.start.suites, ways(s.tunnel, true), s.tunnel.Lifetime)
	b, err := wire.AppendV1(nil, s.header(wire.ExchangeV1Main, 0), append([]wire.Payload{offer}, s.ourVendors()...))
	if err != nil {
		return err
	}
	s.start.sa = wire.V1Body(wire.PayloadV1SA, b[wire.HeaderLen:], wire.PayloadV1SA)
	s.p1.step = stepSASent
	s.say(&s.p1, b, 0, true)
	return nil
}

// proposed chooses from the peer's proposals: message 1, as responder.
func (s *sa) proposed(x *exchange, m *message) {
	s.candidates = slices.DeleteFunc(slices.Clone(s.env.Candidates(m.path)), func(t *policy.PeerTunnel) bool { return !speaks(t) })
	if len(s.candidates) == 0 {
		// IKEv1 is there for who configures it: nobody else is answered.
		s.refused("no tunnel is configured for this peer", fmt.Errorf("the peer speaks IKEv1, and no tunnel with version = 1 is configured for %s", m.path.Remote.Addr()))
		s.proto.Refused["no tunnel"]++
		return
	}
	offer := m.find(wire.PayloadV1SA).(*wire.V1SA)
	p, t, u, err := s.selectPhase1(offer)
	if err != nil {
		s.refused("no IKE proposal fits", fmt.Errorf("%w: see ike", err))
		s.proto.refuseClear(s, m, wire.NotifyV1NoProposalChosen)
		return
	}
	if s.prf, err = keys.NewV1PRF(u.proposal.First(policy.TransformINTEG)); err != nil {
		s.warn("the first message cannot be answered", err)
		return
	}
	s.suite = u
	s.vendors(m)
	s.cookieR = s.env.NewSPI()
	s.start.sa = m.body(wire.PayloadV1SA)
	// What is answered is part of what was asked, so it is no larger.
	payloads := []wire.Payload{&wire.V1SA{Proposals: []wire.V1Proposal{{Number: p.Number, Protocol: p.Protocol, SPI: p.SPI, Transforms: []wire.V1Transform{*t}}}}}
	payloads = append(payloads, s.echoVendors(m)...)
	b, err := wire.AppendV1(nil, s.header(wire.ExchangeV1Main, 0), payloads)
	if err != nil || len(b) > len(m.Raw) {
		s.proto.Refused["answer larger than the question"]++
		return
	}
	x.step = stepSAAnswered
	s.halfOpenUntil = s.now.Add(s.env.Limits.HalfOpenLife)
	s.say(x, b, 0, false)
}

// selectPhase1 is policy.Select over transforms, for the candidates.
func (s *sa) selectPhase1(offer *wire.V1SA) (*wire.V1Proposal, *wire.V1Transform, suite, error) {
	type place struct {
		p *wire.V1Proposal
		t *wire.V1Transform
		u suite
	}
	var accepted []uint16
	own := policy.V1Suites(s.env.Proposals(s.path, 1), 0)
	for _, t := range s.candidates {
		accepted = append(accepted, ways(t, false)...)
	}
	var places []place
	var offered []policy.Proposal
	other := uint16(0)
	for i := range offer.Proposals {
		p := &offer.Proposals[i]
		for j := range p.Transforms {
			u, err := readPhase1(&p.Transforms[j])
			if err != nil || p.Protocol != wire.ProtocolV1ISAKMP {
				continue
			}
			if !slices.Contains(accepted, u.auth) {
				other = u.auth
				continue
			}
			places, offered = append(places, place{p, &p.Transforms[j], u}), append(offered, u.proposal)
		}
	}
	if len(places) == 0 && other != 0 {
		return nil, nil, suite{}, fmt.Errorf("the peer wants to authenticate by %s, and we by %s: see auth", sayWay(other), sayWays(accepted))
	}
	_, i, err := policy.Select(own, offered)
	if err != nil {
		return nil, nil, suite{}, err
	}
	return places[i].p, places[i].t, places[i].u, nil
}

// takeChoice reads the transform that the peer chose of ours: it came in clear.
func (s *sa) takeChoice(m *message) (u suite, prf keys.PRF, err error) {
	answer := m.find(wire.PayloadV1SA).(*wire.V1SA)
	if len(answer.Proposals) != 1 || len(answer.Proposals[0].Transforms) != 1 || m.ResponderSPI == 0 {
		return u, prf, errors.New("the answer to the first message is malformed")
	}
	u, err = readPhase1(&answer.Proposals[0].Transforms[0])
	if err == nil {
		_, err = policy.Agreed(s.start.suites, u.proposal)
	}
	if err == nil && !slices.Contains(ways(s.tunnel, true), u.auth) {
		err = fmt.Errorf("the peer chose to authenticate by %s, which we did not offer", sayWay(u.auth))
	}
	if err == nil {
		prf, err = keys.NewV1PRF(u.proposal.First(policy.TransformINTEG))
	}
	return u, prf, err
}

// chosen takes message 2, as initiator, and has our public value computed. It came in clear, so what is wrong is only noted.
func (s *sa) chosen(x *exchange, m *message) {
	u, prf, err := s.takeChoice(m)
	var begun *keys.Initiator
	if err == nil {
		begun, err = keys.NewInitiator(u.proposal.First(policy.TransformKE).ID, s.env.Rand)
	}
	if err != nil {
		s.noteRefusal(err)
		return
	}
	s.suite, s.prf, s.cookieR, s.start.begun, s.refusal = u, prf, m.ResponderSPI, begun, nil
	s.vendors(m)
	x.step, x.next = stepOffer, zeroTime
	s.job(func() (any, error) { return begun.Offer() }, func(ev ike.JobDone) {
		if ev.Err != nil {
			s.end(ike.ClosedFailed, ev.Err)
			return
		}
		s.start.publicI, s.start.ni = ev.Result.([]byte), s.env.Bytes(nonceLen)
		b, err := wire.AppendV1(nil, s.header(wire.ExchangeV1Main, 0), s.publicPayloads(s.start.publicI, s.start.ni))
		if err != nil {
			s.end(ike.ClosedFailed, err)
			return
		}
		x.step = stepKESent
		s.say(x, b, 0, true)
	})
}

// publicPayloads are those of messages 3 and 4.
func (s *sa) publicPayloads(public, nonce []byte) []wire.Payload {
	out := []wire.Payload{&wire.V1Opaque{Type: wire.PayloadV1KE, Data: public}, &wire.V1Opaque{Type: wire.PayloadV1Nonce, Data: nonce}}
	if s.renews && s.initiator {
		out = append(out, vendor(vendorRenew))
	}
	if s.initiator {
		out = append(out, s.requests([]*policy.PeerTunnel{s.tunnel})...)
	} else {
		out = append(out, s.requests(s.candidates)...)
	}
	if s.nat.speaks() {
		out = append(out, s.natPayloads()...)
	}
	return out
}

// keyAnswer is what a responder's key exchange job returns.
type keyAnswer struct {
	public []byte
	shared policy.Secret
}

// publicCame takes message 3, as responder, and has our public value and the shared secret computed.
func (s *sa) publicCame(x *exchange, m *message) {
	group := s.suite.proposal.First(policy.TransformKE).ID
	offer := m.octets(wire.PayloadV1KE)
	if len(offer) != keys.OfferLen(group) {
		s.drops.malformed++
		return
	}
	r, err := keys.NewResponder(group, s.env.Rand)
	if err != nil {
		s.end(ike.ClosedFailed, err)
		return
	}
	s.start.publicI, s.start.ni, s.start.nr = offer, m.octets(wire.PayloadV1Nonce), s.env.Bytes(nonceLen)
	s.renews = m.says(vendorRenew)
	s.detectNAT(m)
	x.step, x.lastOut = stepKeys, nil
	s.job(func() (any, error) {
		defer r.Wipe()
		public, shared, err := r.Answer(offer)
		return keyAnswer{public, shared}, err
	}, func(ev ike.JobDone) {
		if ev.Err != nil {
			s.end(ike.ClosedFailed, ev.Err)
			return
		}
		a := ev.Result.(keyAnswer)
		s.start.publicR = a.public
		// The configuration may have changed since message 1.
		s.candidates = slices.DeleteFunc(slices.Clone(s.env.Candidates(s.path)), func(t *policy.PeerTunnel) bool { return !speaks(t) })
		err := s.makeSets(s.candidates, a.shared)
		a.shared.Wipe()
		if err == nil && len(s.start.sets) == 0 {
			err = errors.New("the tunnel left the configuration")
		}
		b, err2 := wire.AppendV1(nil, s.header(wire.ExchangeV1Main, 0), s.publicPayloads(a.public, s.start.nr))
		if err = errors.Join(err, err2); err != nil {
			s.end(ike.ClosedFailed, err)
			return
		}
		x.step = stepKEAnswered
		s.say(x, b, 0, false)
	})
}

// publicAnswered takes message 4, as initiator.
func (s *sa) publicAnswered(x *exchange, m *message) {
	answer := m.octets(wire.PayloadV1KE)
	if len(answer) != keys.OfferLen(s.start.begun.Method()) {
		s.drops.malformed++
		return
	}
	s.start.publicR, s.start.nr = answer, m.octets(wire.PayloadV1Nonce)
	s.detectNAT(m)
	x.step, x.next = stepKeys, zeroTime
	begun := s.start.begun
	s.job(func() (any, error) {
		defer begun.Wipe()
		return begun.Finish(answer)
	}, func(ev ike.JobDone) {
		if ev.Err != nil {
			s.end(ike.ClosedFailed, ev.Err)
			return
		}
		shared := ev.Result.(policy.Secret)
		err := s.makeSets([]*policy.PeerTunnel{s.tunnel}, shared)
		shared.Wipe()
		if err != nil {
			s.end(ike.ClosedFailed, err)
			return
		}
		s.use(&s.start.sets[0])
		s.float()
		s.sendProof(x)
	})
}

// firstContact tells the peer that it has no other SA with us, if so.
func (s *sa) firstContact() []wire.Payload {
	if s.env.HasOther(s.tunnel.Name, s) || s.proto.remembers(s.tunnel.Name) {
		return nil
	}
	return []wire.Payload{s.ourNotify(wire.NotifyV1InitialContact, nil)}
}

// sendProof sends message 5.
func (s *sa) sendProof(x *exchange) {
	x.iv = s.cipher.FirstIV(s.start.publicI, s.start.publicR)
	s.sealProof(x, s.firstContact(), func(b []byte) {
		x.step = stepAuthSent
		s.say(x, b, 0, true)
	})
}

// sealProof makes message 5 or 6.
func (s *sa) sealProof(x *exchange, more []wire.Payload, then func([]byte)) {
	id := identity(s.localID)
	body, err := idBody(id)
	if err != nil {
		s.end(ike.ClosedFailed, err)
		return
	}
	s.prove(s.tunnel, &keySet{keys: s.keys}, body, func(proof []wire.Payload, err error) {
		var b, plain []byte
		var first wire.PayloadType
		if err == nil {
			first, plain, err = wire.AppendV1Payloads(nil, append(append([]wire.Payload{id}, proof...), more...))
		}
		if err == nil {
			b, x.iv, err = s.seal(x.kind, 0, x.iv, first, plain)
		}
		if err != nil {
			s.end(ike.ClosedFailed, err)
			return
		}
		then(b)
	})
}

// initiatorProved takes message 5, as responder: who the peer is, and its proof of that, which openProof has checked if it is a hash.
func (s *sa) initiatorProved(x *exchange, m *message) {
	s.remoteID = policyIdentity(m.find(wire.PayloadV1ID).(*wire.V1ID))
	x.step, x.answers = stepVerify, false
	s.believe(x, m, stepKEAnswered, func() {
		contact, ok := s.admit(m)
		if !ok {
			return
		}
		s.path = m.path
		s.settleEncap()
		x.iv = m.iv
		s.sealProof(x, s.claimOwn(), func(b []byte) {
			x.step = stepDone
			s.say(x, b, 0, false)
			s.established(contact)
		})
	})
}

// believe chooses the tunnel whose peer this is. A proof that is not good may be forged: the step is as it was, and a good one can come.
func (s *sa) believe(x *exchange, m *message, back step, then func()) {
	fit, err := s.choosePeers(s.remoteID)
	if err != nil {
		s.refused("peer is not who it must be", err)
		if !s.signs(!s.initiator) {
			s.end(ike.ClosedFailed, fmt.Errorf("authentication failed: %w", err))
			return
		}
		x.step, x.lastIn, s.refusal = back, [32]byte{}, err
		return
	}
	if !s.signs(!s.initiator) {
		s.candidates = fit[:1]
		then()
		return
	}
	s.checkProof(&s.start.sets[0], m, m.body(wire.PayloadV1ID), fit, func(t *policy.PeerTunnel, err error) {
		if err == nil && !s.initiator {
			err = s.stillThere(t)
		}
		if err != nil {
			s.drops.unauthenticated++
			s.refused("peer is not who it must be", err)
			x.step, x.lastIn, s.refusal = back, [32]byte{}, err
			return
		}
		s.candidates = []*policy.PeerTunnel{t}
		then()
	})
}

// admit takes the peer in, as responder, and says whether it has forgotten older SAs with us.
func (s *sa) admit(m *message) (contact, ok bool) {
	t := s.candidates[0]
	s.tunnel = t
	contact = m.notify(wire.NotifyV1InitialContact)
	if s.env.PeerHas(t.Name, s.remoteID, s) && !contact && !s.renews && t.Unique == policy.UniqueKeep {
		err := fmt.Errorf("%s has an IKE SA with tunnel %s, which keeps the first: see unique", s.remoteID, t.Name)
		s.refused("peer is there already", err)
		s.end(ike.ClosedFailed, err)
		return false, false
	}
	s.lastReceived = s.now
	s.localID = localIdentity(t, s.path)
	return contact, true
}

// responderProved takes message 6, as initiator.
func (s *sa) responderProved(x *exchange, m *message) {
	s.remoteID = policyIdentity(m.find(wire.PayloadV1ID).(*wire.V1ID))
	done := func() {
		s.lastReceived = s.now
		if d := claimed(m, wire.ProtocolV1ISAKMP); d > 0 {
			s.suite.lifetime, s.claimed = d, true
		}
		x.iv, x.step, x.next = m.iv, stepDone, zeroTime
		s.established(m.notify(wire.NotifyV1InitialContact))
	}
	if want := ike.RemoteIdentity(s.tunnel, s.path); !want.Matches(s.remoteID) {
		s.state = stateEstablished // it is, in the peer's eyes: it is told
		s.p1.iv = m.iv
		s.finish(ike.ClosedFailed, s.otherIdentity(want))
		return
	}
	if !s.signs(false) {
		done()
		return
	}
	x.step = stepVerify
	s.checkProof(&s.start.sets[0], m, m.body(wire.PayloadV1ID), []*policy.PeerTunnel{s.tunnel}, func(_ *policy.PeerTunnel, err error) {
		if err != nil {
			// It is encrypted with a key that only who answered our message 3 has: no better one will come.
			s.state = stateEstablished
			s.p1.iv = m.iv
			s.finish(ike.ClosedFailed, err)
			return
		}
		done()
	})
}

// notify says whether a notification is there.
func (m *message) notify(t wire.V1NotifyType) bool {
	return slices.ContainsFunc(m.all(wire.PayloadV1Notify), func(p wire.Payload) bool { return p.(*wire.V1Notify).Type == t })
}

// noteRefusal remembers what anybody may have written. We go on asking for a while; a real answer still wins.
func (s *sa) noteRefusal(err error) {
	if s.refusal == nil {
		s.warn("the negotiation was refused, in clear", err)
		s.refusedAt = s.p1.tries
	}
	s.refusal = err
}
