package v1

import (
	"bytes"
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

func vendor(id []byte) wire.Payload {
	return &wire.V1Opaque{Type: wire.PayloadV1VendorID, Data: id}
}

func (m *message) says(id []byte) bool {
	return slices.ContainsFunc(m.all(wire.PayloadV1VendorID), func(p wire.Payload) bool { return bytes.Equal(p.(*wire.V1Opaque).Data, id) })
}

// vendors notes what the peer can do.
func (s *sa) vendors(m *message) {
	s.start.vendorNATT = m.says(vendorNATT)
	s.peerIsCoati = m.says(vendorCoati)
	s.renews = s.renews || !s.initiator && m.says(vendorRenew)
	s.peerDPD = slices.ContainsFunc(m.all(wire.PayloadV1VendorID), func(p wire.Payload) bool {
		d := p.(*wire.V1Opaque).Data
		return len(d) == len(vendorDPD) && bytes.HasPrefix(d, vendorDPD[:14])
	})
}

// begin sends message 1.
func (s *sa) begin() error {
	if !speaks(s.tunnel) {
		return fmt.Errorf("tunnel %s has no pre-shared key, and nothing else authenticates in IKEv1 here", s.tunnel.Name)
	}
	s.start.suites = policy.V1Suites(s.tunnel.IKE, 0)
	if len(s.start.suites) == 0 {
		return fmt.Errorf("tunnel %s has no IKE proposal that IKEv1 can say: it has no combined modes and no x25519; write one such as aes256-sha256-modp2048", s.tunnel.Name)
	}
	offer := phase1Payload(s.start.suites, s.tunnel.Lifetime)
	payloads := []wire.Payload{offer, vendor(vendorNATT), vendor(vendorDPD), vendor(vendorCoati)}
	b, err := wire.AppendV1(nil, s.header(wire.ExchangeV1Main, 0), payloads)
	if err != nil {
		return err
	}
	s.start.sa = wire.V1Body(wire.PayloadV1SA, b[wire.HeaderLen:], wire.PayloadV1SA)
	s.p1.step = stepSASent
	s.say(&s.p1, b, 0, true)
	return nil
}

// speaks says whether a tunnel is one of IKEv1 whose ends both prove themselves by a pre-shared key. An empty key proves nothing.
func speaks(t *policy.PeerTunnel) bool {
	return t.Version == 1 && t.LocalAuth == policy.ByPSK && t.RemoteAuth == policy.ByPSK && t.PSK.Len() > 0
}

// proposed chooses from the peer's proposals: message 1, as responder.
func (s *sa) proposed(x *exchange, m *message) {
	own := policy.V1Suites(s.env.Proposals(m.path, 1), 0)
	s.candidates = slices.DeleteFunc(slices.Clone(s.env.Candidates(m.path)), func(t *policy.PeerTunnel) bool { return !speaks(t) })
	if len(s.candidates) == 0 {
		// IKEv1 is there for who configures it: nobody else is answered.
		s.refused("no tunnel is configured for this peer", fmt.Errorf("the peer speaks IKEv1, and no tunnel with version = 1 is configured for %s", m.path.Remote.Addr()))
		s.proto.Refused["no tunnel"]++
		return
	}
	offer := m.find(wire.PayloadV1SA).(*wire.V1SA)
	p, t, u, err := selectPhase1(own, offer)
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
	for _, v := range [][]byte{vendorNATT, vendorDPD, vendorCoati} {
		if m.says(v) {
			payloads = append(payloads, vendor(v))
		}
	}
	b, err := wire.AppendV1(nil, s.header(wire.ExchangeV1Main, 0), payloads)
	if err != nil || len(b) > len(m.Raw) {
		s.proto.Refused["answer larger than the question"]++
		return
	}
	x.step = stepSAAnswered
	s.halfOpenUntil = s.now.Add(s.env.Limits.HalfOpenLife)
	s.say(x, b, 0, false)
}

// selectPhase1 is policy.Select over transforms.
func selectPhase1(own []policy.Proposal, offer *wire.V1SA) (*wire.V1Proposal, *wire.V1Transform, suite, error) {
	type place struct {
		p *wire.V1Proposal
		t *wire.V1Transform
		u suite
	}
	var places []place
	var offered []policy.Proposal
	other := false
	for i := range offer.Proposals {
		p := &offer.Proposals[i]
		for j := range p.Transforms {
			u, err := readPhase1(&p.Transforms[j])
			if err != nil || p.Protocol != wire.ProtocolV1ISAKMP {
				continue
			}
			if u.auth != wire.AuthV1PSK {
				other = true
				continue
			}
			places, offered = append(places, place{p, &p.Transforms[j], u}), append(offered, u.proposal)
		}
	}
	if len(places) == 0 && other {
		return nil, nil, suite{}, errors.New("the peer wants to authenticate otherwise than by a pre-shared key")
	}
	_, i, err := policy.Select(own, offered)
	if err != nil {
		return nil, nil, suite{}, err
	}
	return places[i].p, places[i].t, places[i].u, nil
}

// chosen takes message 2, as initiator, and has our public value computed. It came in clear, so what is wrong is only noted.
func (s *sa) chosen(x *exchange, m *message) {
	answer := m.find(wire.PayloadV1SA).(*wire.V1SA)
	if len(answer.Proposals) != 1 || len(answer.Proposals[0].Transforms) != 1 || m.ResponderSPI == 0 {
		s.noteRefusal(errors.New("the answer to the first message is malformed"))
		return
	}
	u, err := readPhase1(&answer.Proposals[0].Transforms[0])
	if err == nil {
		_, err = policy.Agreed(s.start.suites, u.proposal)
	}
	if err == nil && u.auth != wire.AuthV1PSK {
		err = errors.New("the peer chose another way to authenticate than a pre-shared key")
	}
	var prf keys.PRF
	if err == nil {
		prf, err = keys.NewV1PRF(u.proposal.First(policy.TransformINTEG))
	}
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
	if s.start.vendorNATT {
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
	if s.start.vendorNATT {
		s.detectNAT(m)
	}
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
	if s.start.vendorNATT {
		s.detectNAT(m)
	}
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

// sendProof sends message 5.
func (s *sa) sendProof(x *exchange) {
	x.iv = s.cipher.FirstIV(s.start.publicI, s.start.publicR)
	var more []wire.Payload
	if !s.env.HasOther(s.tunnel.Name, s) && !s.proto.remembers(s.tunnel.Name) {
		more = append(more, s.ourNotify(wire.NotifyV1InitialContact, nil))
	}
	b, err := s.sealProof(x, more...)
	if err != nil {
		s.end(ike.ClosedFailed, err)
		return
	}
	x.step = stepAuthSent
	s.say(x, b, 0, true)
}

// sealProof makes message 5 or 6.
func (s *sa) sealProof(x *exchange, more ...wire.Payload) ([]byte, error) {
	id := identity(s.localID)
	_, body, err := wire.AppendV1Payloads(nil, []wire.Payload{id})
	if err != nil {
		return nil, err
	}
	k := keySet{keys: s.keys}
	hash := &wire.V1Opaque{Type: wire.PayloadV1Hash, Data: s.proof(&k, s.initiator, body[wire.PayloadHeaderLen:])}
	first, plain, err := wire.AppendV1Payloads(nil, append([]wire.Payload{id, hash}, more...))
	if err != nil {
		return nil, err
	}
	b, next, err := s.seal(x.kind, 0, x.iv, first, plain)
	x.iv = next
	return b, err
}

// initiatorProved takes message 5, as responder: who the peer is, and its proof of that, which openProof has checked.
func (s *sa) initiatorProved(x *exchange, m *message) {
	s.remoteID = policyIdentity(m.find(wire.PayloadV1ID).(*wire.V1ID))
	t, err := s.choosePeer(s.remoteID)
	if err != nil {
		s.refused("peer is not who it must be", err)
		s.end(ike.ClosedFailed, fmt.Errorf("authentication failed: %w", err))
		return
	}
	s.tunnel = t
	contact := m.notify(wire.NotifyV1InitialContact)
	if s.env.PeerHas(t.Name, s.remoteID, s) && !contact && !s.renews && t.Unique == policy.UniqueKeep {
		err := fmt.Errorf("%s has an IKE SA with tunnel %s, which keeps the first: see unique", s.remoteID, t.Name)
		s.refused("peer is there already", err)
		s.end(ike.ClosedFailed, err)
		return
	}
	s.lastReceived = s.now
	s.localID = ike.LocalIdentity(t, s.path)
	s.path = m.path
	s.settleEncap()
	x.iv = m.iv
	b, err := s.sealProof(x)
	if err != nil {
		s.end(ike.ClosedFailed, err)
		return
	}
	x.step = stepDone
	s.say(x, b, 0, false)
	s.established(contact)
}

// responderProved takes message 6, as initiator.
func (s *sa) responderProved(x *exchange, m *message) {
	s.remoteID = policyIdentity(m.find(wire.PayloadV1ID).(*wire.V1ID))
	if want := ike.RemoteIdentity(s.tunnel, s.path); !want.Matches(s.remoteID) {
		s.state = stateEstablished // it is, in the peer's eyes: it is told
		s.p1.iv = m.iv
		s.finish(ike.ClosedFailed, fmt.Errorf("the peer says it is %s, tunnel %s expects %s: see remote-id", s.remoteID, s.tunnel.Name, want))
		return
	}
	s.lastReceived = s.now
	x.iv, x.step, x.next = m.iv, stepDone, zeroTime
	s.established(m.notify(wire.NotifyV1InitialContact))
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
