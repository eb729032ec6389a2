package v1

import (
	"crypto/hmac"
	"errors"
	"fmt"
	"slices"

	"coati/ike"
	"coati/ike/keys"
	"coati/ike/wire"
	"coati/policy"
)

// Aggressive mode with a pre-shared key, section 5.4:
//
//	HDR, SA, KE, Ni, IDii, [VID]           -->
//	                                       <--  HDR, SA, KE, Nr, IDir, HASH_R, [VID], [NAT-D, NAT-D]
//	HDR*, HASH_I, [NAT-D, NAT-D]           -->
//
// The identity comes first and in clear, so the key is found by it. The answer has a hash of the key in it: whoever asks can guess the
// key off-line. It is larger than the question by what the figure wants: a proof, and what finds NATs. With signatures (section 5.1) SIG
// stands for HASH, and certificates before it.

// An answer may be this many times as long as its question, with a hash and with a signature and certificates: the peer's certificates
// come only after ours.
const (
	maxAggressiveAnswer = 2
	maxAggressiveSigned = 8
)

// oneGroup leaves out what has another group than the first suite: here the group is not negotiated (section 5.4).
func oneGroup(suites []policy.Proposal) []policy.Proposal {
	group := suites[0].First(policy.TransformKE)
	return slices.DeleteFunc(slices.Clone(suites), func(q policy.Proposal) bool { return q.First(policy.TransformKE) != group })
}

// beginAggressive makes and sends message 1.
func (s *sa) beginAggressive() error {
	x := &s.p1
	s.start.suites = oneGroup(s.start.suites)
	begun, err := keys.NewInitiator(s.start.suites[0].First(policy.TransformKE).ID, s.env.Rand)
	if err != nil {
		return err
	}
	s.start.begun = begun
	x.step = stepOffer
	s.job(func() (any, error) { return begun.Offer() }, func(ev ike.JobDone) {
		err := ev.Err
		var b []byte
		if err == nil {
			s.start.publicI, s.start.ni = ev.Result.([]byte), s.env.Bytes(nonceLen)
			id := identity(s.localID)
			if s.start.idI, err = idBody(id); err == nil {
				payloads := []wire.Payload{
					phase1Payload(s.start.suites, ways(s.tunnel, true), s.tunnel.Lifetime), &wire.V1Opaque{Type: wire.PayloadV1KE, Data: s.start.publicI},
					&wire.V1Opaque{Type: wire.PayloadV1Nonce, Data: s.start.ni}, id,
				}
				b, err = wire.AppendV1(nil, s.header(x.kind, 0), append(payloads, append(requests([]*policy.PeerTunnel{s.tunnel}), s.ourVendors()...)...))
			}
		}
		if err != nil {
			s.end(ike.ClosedFailed, err)
			return
		}
		s.start.sa = wire.V1Body(wire.PayloadV1SA, b[wire.HeaderLen:], wire.PayloadV1SA)
		x.step = stepAggressiveSent
		s.say(x, b, 0, true)
	})
	return nil
}

// proposedAggressively takes message 1, as responder.
func (s *sa) proposedAggressively(x *exchange, m *message) {
	s.remoteID = policyIdentity(m.find(wire.PayloadV1ID).(*wire.V1ID))
	s.candidates = slices.DeleteFunc(slices.Clone(s.env.Candidates(m.path)), func(t *policy.PeerTunnel) bool { return !speaks(t) || !t.V1.Aggressive })
	if len(s.candidates) == 0 {
		s.refused("no tunnel is configured for this peer", fmt.Errorf("the peer speaks IKEv1 in aggressive mode, and no tunnel with version = 1 and aggressive = true is configured for %s", m.path.Remote.Addr()))
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
	s.suite = u
	fit, err := s.choosePeers(s.remoteID)
	if err != nil {
		s.refused("peer is not who it must be", err)
		s.proto.Refused["no tunnel"]++
		return
	}
	if s.byKey() {
		fit = fit[:1]
	}
	tunnel := fit[0]
	s.candidates = fit
	group := u.proposal.First(policy.TransformKE).ID
	publicI := m.octets(wire.PayloadV1KE)
	if len(publicI) != keys.OfferLen(group) {
		s.proto.Refused["malformed"]++
		return
	}
	if s.prf, err = keys.NewV1PRF(u.proposal.First(policy.TransformINTEG)); err != nil {
		s.warn("the first message cannot be answered", err)
		return
	}
	r, err := keys.NewResponder(group, s.env.Rand)
	if err != nil {
		s.warn("the first message cannot be answered", err)
		return
	}
	s.vendors(m)
	s.cookieR = s.env.NewSPI()
	s.start.sa, s.start.idI = m.body(wire.PayloadV1SA), m.body(wire.PayloadV1ID)
	s.start.publicI, s.start.ni, s.start.nr = publicI, m.octets(wire.PayloadV1Nonce), s.env.Bytes(nonceLen)
	s.renews = m.says(vendorRenew)
	x.step = stepKeys
	s.halfOpenUntil = s.now.Add(s.env.Limits.HalfOpenLife)
	chosen := &wire.V1SA{Proposals: []wire.V1Proposal{{Number: p.Number, Protocol: p.Protocol, SPI: p.SPI, Transforms: []wire.V1Transform{*t}}}}
	s.job(func() (any, error) {
		defer r.Wipe()
		public, shared, err := r.Answer(publicI)
		return keyAnswer{public, shared}, err
	}, func(ev ike.JobDone) {
		if ev.Err != nil {
			s.end(ike.ClosedFailed, ev.Err)
			return
		}
		a := ev.Result.(keyAnswer)
		s.start.publicR = a.public
		err := s.stillThere(tunnel)
		if err == nil {
			err = s.makeSets(s.candidates, a.shared)
		}
		a.shared.Wipe()
		if err == nil {
			s.answerAggressively(x, m, chosen)
		} else {
			s.end(ike.ClosedFailed, err)
		}
	})
}

// stillThere says whether a tunnel is as it was: a job took time.
func (s *sa) stillThere(t *policy.PeerTunnel) error {
	if slices.ContainsFunc(s.env.Candidates(s.path), func(c *policy.PeerTunnel) bool { return c.Name == t.Name && c.SamePeer(t) }) {
		return nil
	}
	return errors.New("the tunnel was changed meanwhile")
}

// answerAggressively sends message 2.
func (s *sa) answerAggressively(x *exchange, m *message, chosen wire.Payload) {
	t := s.candidates[0]
	id := identity(localIdentity(t, s.path))
	body, err := idBody(id)
	if err != nil {
		s.end(ike.ClosedFailed, err)
		return
	}
	s.prove(t, &s.start.sets[0], body, func(proof []wire.Payload, err error) {
		var b []byte
		if err == nil {
			payloads := append([]wire.Payload{chosen, &wire.V1Opaque{Type: wire.PayloadV1KE, Data: s.start.publicR}, &wire.V1Opaque{Type: wire.PayloadV1Nonce, Data: s.start.nr}, id}, proof...)
			payloads = append(append(payloads, s.requests(s.candidates)...), s.echoVendors(m)...)
			if s.nat.speaks() {
				payloads = append(payloads, s.natPayloads()...)
			}
			b, err = wire.AppendV1(nil, s.header(x.kind, 0), payloads)
		}
		limit := maxAggressiveAnswer
		if s.signs(false) {
			limit = maxAggressiveSigned
		}
		if err == nil && len(b) > limit*len(m.Raw) {
			s.proto.Refused["answer larger than the question"]++
			err = fmt.Errorf("the answer would be more than %d times as long as the question", limit)
		}
		if err != nil {
			s.end(ike.ClosedFailed, err)
			return
		}
		x.step = stepAggressiveAnswered
		s.say(x, b, 0, false)
	})
}

// answeredAggressively takes message 2, as initiator. It came in clear: what is wrong is only noted, and a better one may come.
func (s *sa) answeredAggressively(x *exchange, m *message) {
	u, prf, err := s.takeChoice(m)
	group := s.start.suites[0].First(policy.TransformKE).ID
	if err == nil && len(m.octets(wire.PayloadV1KE)) != keys.OfferLen(group) {
		err = errors.New("the peer's key exchange does not fit the group")
	}
	if err != nil {
		s.noteRefusal(err)
		return
	}
	s.suite, s.prf, s.cookieR = u, prf, m.ResponderSPI
	s.vendors(m)
	s.remoteID = policyIdentity(m.find(wire.PayloadV1ID).(*wire.V1ID))
	s.start.publicR, s.start.nr = m.octets(wire.PayloadV1KE), m.octets(wire.PayloadV1Nonce)
	x.step, x.next = stepKeys, zeroTime
	begun, answer := s.start.begun, s.start.publicR
	s.job(func() (any, error) { return begun.Finish(answer) }, func(ev ike.JobDone) {
		if ev.Err != nil {
			s.waitOn(x, ev.Err)
			return
		}
		shared := ev.Result.(policy.Secret)
		s.start.sets = nil
		err := s.makeSets([]*policy.PeerTunnel{s.tunnel}, shared)
		shared.Wipe()
		if err != nil {
			s.end(ike.ClosedFailed, err)
			return
		}
		s.checkProof(&s.start.sets[0], m, m.body(wire.PayloadV1ID), []*policy.PeerTunnel{s.tunnel}, func(_ *policy.PeerTunnel, err error) {
			if err != nil {
				s.waitOn(x, err)
				return
			}
			s.confirmAggressively(x, m)
		})
	})
}

// waitOn goes on waiting for a good answer.
func (s *sa) waitOn(x *exchange, err error) {
	for i := range s.start.sets {
		s.start.sets[i].keys.Wipe()
	}
	s.start.sets, s.cookieR = nil, 0
	x.step, x.lastIn = stepAggressiveSent, [32]byte{}
	s.refusal = nil
	s.noteRefusal(err)
	s.later(x)
}

// confirmAggressively sends message 3.
func (s *sa) confirmAggressively(x *exchange, m *message) {
	s.use(&s.start.sets[0])
	x.iv = s.cipher.FirstIV(s.start.publicI, s.start.publicR)
	if want := ike.RemoteIdentity(s.tunnel, s.path); !want.Matches(s.remoteID) {
		s.end(ike.ClosedFailed, s.otherIdentity(want))
		return
	}
	s.detectNAT(m)
	s.float()
	s.prove(s.tunnel, &s.start.sets[0], s.start.idI, func(proof []wire.Payload, err error) {
		var b []byte
		if err == nil {
			if s.nat.speaks() {
				proof = append(proof, s.natPayloads()...)
			}
			proof = append(proof, s.firstContact()...)
			var first wire.PayloadType
			var plain []byte
			if first, plain, err = wire.AppendV1Payloads(nil, proof); err == nil {
				b, x.iv, err = s.seal(x.kind, 0, x.iv, first, plain)
			}
		}
		if err != nil {
			s.end(ike.ClosedFailed, err)
			return
		}
		s.lastReceived = s.now
		x.step = stepDone
		s.start.begun.Wipe()
		s.say(x, b, 0, false)
		s.unheard = true
		if !s.peerIsCoati {
			// Some peers serve messages on several threads, and drop a quick mode that overtakes message 3.
			s.opensAt = s.now.Add(probeDelay)
		}
		s.established(m.notify(wire.NotifyV1InitialContact))
	})
}

// confirmedAggressively takes message 3 in clear, as responder. Encrypted ones were checked by openProof.
func (s *sa) confirmedAggressively(x *exchange, m *message) {
	k := &s.start.sets[0]
	if h := m.octets(wire.PayloadV1Hash); h == nil || !hmac.Equal(h, s.proof(k, true, s.start.idI)) {
		s.drops.unauthenticated++
		s.refusal = s.wrongKey()
		return
	}
	s.use(k)
	m.iv = s.cipher.FirstIV(s.start.publicI, s.start.publicR)
	s.admitAggressively(x, m)
}

// admitAggressively ends the exchange, as responder: the peer is who it says.
func (s *sa) admitAggressively(x *exchange, m *message) {
	contact, ok := s.admit(m)
	if !ok {
		return
	}
	s.detectNAT(m)
	s.path = m.path
	s.settleEncap()
	x.iv, x.step, x.lastOut = m.iv, stepDone, nil
	s.established(contact)
}

// repeatProof says message 3 again with what follows it, as long as nothing shows that it has arrived: nobody answers it.
func (s *sa) repeatProof() {
	if s.unheard && s.p1.lastOut != nil {
		s.out.Sends = append(s.out.Sends, ike.Send{Path: s.path, Bytes: slices.Clone(s.p1.lastOut)})
	}
}

// signedAggressively takes message 3 with a signature, as responder.
func (s *sa) signedAggressively(x *exchange, m *message) {
	x.step, x.answers = stepVerify, false
	s.checkProof(&s.start.sets[0], m, s.start.idI, s.candidates, func(t *policy.PeerTunnel, err error) {
		if err == nil {
			err = s.stillThere(t)
		}
		if err != nil {
			s.drops.unauthenticated++
			s.refused("peer is not who it must be", err)
			x.step, x.lastIn, s.refusal = stepAggressiveAnswered, [32]byte{}, err
			return
		}
		s.candidates = []*policy.PeerTunnel{t}
		s.admitAggressively(x, m)
	})
}
