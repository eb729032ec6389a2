package v1

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"coati/ike"
	"coati/ike/keys"
	"coati/ike/wire"
	"coati/policy"
)

// Quick mode that the peer begins. The pair is installed with message 2; our packets take it when the peer has confirmed it, by
// message 3 or by a packet: until then message 1 may be a replay. Message 2 is repeated by timer, as message 3 may be lost.

// refusal says why a peer's pair is refused: to the peer by a notification, to people in words.
type refusal struct {
	notify wire.V1NotifyType
	err    error
}

// pairRequested takes message 1.
func (s *sa) pairRequested(x *exchange, m *message) {
	x.pair = &pair{ni: m.octets(wire.PayloadV1Nonce), nr: s.env.Bytes(nonceLen)}
	p := x.pair
	sa, refused := s.selectPair(p, m)
	if refused != nil {
		s.refused("the peer's child is refused", refused.err)
		x.step, x.forgetAt = stepDone, s.now
		var spi []byte
		if offer := m.find(wire.PayloadV1SA).(*wire.V1SA); len(offer.Proposals[0].SPI) == 4 {
			spi = offer.Proposals[0].SPI
		}
		s.inform(&wire.V1Notify{DOI: wire.DOIIPsec, Protocol: wire.ProtocolESP, SPI: spi, Type: refused.notify})
		return
	}
	answer := func(public []byte, shared policy.Secret) {
		out := []wire.Payload{sa, &wire.V1Opaque{Type: wire.PayloadV1Nonce, Data: p.nr}}
		if public != nil {
			out = append(out, &wire.V1Opaque{Type: wire.PayloadV1KE, Data: public})
		}
		out = append(append(out, m.all(wire.PayloadV1ID)...), s.originalsOf(p.mode, false)...)
		s.answerPair(x, shared, append(out, s.claimLifetime(p)...))
	}
	if p.group == policy.KENone {
		answer(nil, policy.Secret{})
		return
	}
	offer := m.octets(wire.PayloadV1KE)
	r, err := keys.NewResponder(p.group, s.env.Rand)
	if err != nil {
		s.dropPair(x, err)
		return
	}
	x.step = stepQuickKeys
	s.job(func() (any, error) {
		defer r.Wipe()
		public, shared, err := r.Answer(offer)
		return keyAnswer{public, shared}, err
	}, func(ev ike.JobDone) {
		switch {
		case p.failed:
		case ev.Err != nil:
			s.dropPair(x, ev.Err)
		default:
			a := ev.Result.(keyAnswer)
			answer(a.public, a.shared)
			a.shared.Wipe()
		}
	})
}

// dropPair gives up a pair of the peer's for a fault of its own.
func (s *sa) dropPair(x *exchange, err error) {
	s.warn("the peer's child is dropped", err)
	x.step = stepDone
	s.forget(x)
}

// selectPair chooses configuration and transform, and reserves the SPI. It returns the SA payload of the answer.
func (s *sa) selectPair(p *pair, m *message) (*wire.V1SA, *refusal) {
	if len(s.peer.children)+len(s.peer.reaps) >= 2*s.env.Limits.ChildrenPerSA {
		return nil, &refusal{wire.NotifyV1NoProposalChosen, fmt.Errorf("the peer has %d children already", len(s.peer.children))}
	}
	local, remote, err := s.peerEnds(m)
	if err != nil {
		return nil, &refusal{wire.NotifyV1InvalidIDInformation, err}
	}
	cfg, local, remote := s.matchMode(m, local, remote)
	if cfg == nil {
		return nil, &refusal{wire.NotifyV1InvalidIDInformation, fmt.Errorf("the peer wants %s <-> %s, which no child of tunnel %s covers: see local-ts and remote-ts", local, remote, s.tunnel.Name)}
	}
	if len(s.tunnel.Pool) > 0 && !policy.Subset([]policy.Selector{remote}, ike.Selectors(s.config.leased)) {
		return nil, &refusal{wire.NotifyV1InvalidIDInformation, fmt.Errorf("the peer wants %s, and was given %v: see pool", remote, s.config.leased)}
	}
	place, err := s.selectPhase2(cfg, m)
	if err != nil {
		return nil, &refusal{wire.NotifyV1NoProposalChosen, fmt.Errorf("child %s of tunnel %s: %w: see esp", cfg.Name, s.tunnel.Name, err)}
	}
	p.group = place.u.proposal.First(policy.TransformKE).ID
	if n := len(m.octets(wire.PayloadV1KE)); p.group != policy.KENone && n != keys.OfferLen(p.group) || p.group == policy.KENone && n > 0 {
		return nil, &refusal{wire.NotifyV1InvalidKeyInformation, fmt.Errorf("child %s: the peer's key exchange does not fit the group it proposes", cfg.Name)}
	}
	c, err := s.newChild(cfg, false)
	if err != nil {
		return nil, &refusal{wire.NotifyV1NoProposalChosen, err}
	}
	c.local, c.remote, c.proposal, c.lifetime, c.octets = local, remote, place.u.proposal, place.u.lifetime, place.u.octets
	c.obeys = s.tunnel.V1.Check == policy.CheckObey
	p.mode = place.u.mode
	c.natural = s.peerSees(p.mode, m, true)
	c.outSPI = policy.SPI(binary.BigEndian.Uint32(place.p.SPI))
	c.encap = policy.EncapRaw
	if m := place.u.mode; m != wire.ModeV1Tunnel && m != wire.ModeV1Transport {
		c.encap = policy.EncapUDP
	}
	c.standby, c.begun = true, s.now
	p.child, p.larval = c, true
	return &wire.V1SA{Proposals: []wire.V1Proposal{{Number: place.p.Number, Protocol: wire.ProtocolESP, SPI: spiOctets(c.inSPI), Transforms: []wire.V1Transform{*place.t}}}}, nil
}

// peerEnds are the ends of a pair the peer wants; without identities the two addresses (section 5.5).
func (s *sa) peerEnds(m *message) (local, remote policy.Selector, err error) {
	ids := m.all(wire.PayloadV1ID)
	switch len(ids) {
	case 0:
		return policy.AddrSelector(s.path.Local.Addr().WithZone("")), policy.AddrSelector(s.path.Remote.Addr().WithZone("")), nil
	case 2:
		var err1, err2 error
		remote, err1 = clientSelector(ids[0].(*wire.V1ID))
		local, err2 = clientSelector(ids[1].(*wire.V1ID))
		return local, remote, errors.Join(err1, err2)
	}
	return local, remote, errors.New("the peer names one end of the pair and not the other")
}

// matchChild is the child that carries exactly what the peer wants, else one that covers it: IKEv1 does not narrow.
func (s *sa) matchChild(local, remote policy.Selector, mode policy.Mode) (best *policy.Child) {
	for i := range s.tunnel.Children {
		cfg := &s.tunnel.Children[i]
		if cfg.Mode != mode {
			continue
		}
		l, r := []policy.Selector{local}, []policy.Selector{remote}
		if !policy.Subset(l, cfg.Local) || !policy.Subset(r, cfg.Remote) {
			continue
		}
		if policy.Subset(cfg.Local, l) && policy.Subset(cfg.Remote, r) {
			return cfg
		}
		if best == nil {
			best = cfg
		}
	}
	return best
}

// place is one transform of an offer.
type place struct {
	p *wire.V1Proposal
	t *wire.V1Transform
	u suite
}

// selectPhase2 is policy.Select over transforms of ESP with a fitting encapsulation mode. Proposals that belong together with
// another one, as a bundle with IPComp, are left out.
func (s *sa) selectPhase2(cfg *policy.Child, m *message) (place, error) {
	offer := m.find(wire.PayloadV1SA).(*wire.V1SA)
	number := map[uint8]int{}
	for i := range offer.Proposals {
		number[offer.Proposals[i].Number]++
	}
	var places []place
	var offered []policy.Proposal
	var late error
	mode, check := false, s.tunnel.V1.Check
	for i := range offer.Proposals {
		p := &offer.Proposals[i]
		if p.Protocol != wire.ProtocolESP || len(p.SPI) != 4 || binary.BigEndian.Uint32(p.SPI) < 256 || number[p.Number] > 1 {
			continue
		}
		for j := range p.Transforms {
			u, err := readPhase2(&p.Transforms[j])
			if err != nil {
				continue
			}
			if !fitsMode(u.mode, cfg.Mode) {
				mode = true
				continue
			}
			if ours := cfg.Lifetime.HardTime; !check.Allows(u.lifetime, ours) {
				late = fmt.Errorf("the peer asks for a lifetime of %s, ours is %s, and proposal-check is %q", u.lifetime, ours, check)
				continue
			}
			places, offered = append(places, place{p, &p.Transforms[j], u}), append(offered, u.proposal)
		}
	}
	if len(places) == 0 && mode {
		return place{}, fmt.Errorf("the peer asks for another mode than %s: see mode", cfg.Mode)
	}
	if len(places) == 0 && late != nil {
		return place{}, late
	}
	own := cfg.ESP
	if check == policy.CheckObey {
		own, offered = anyGroup(own), anyGroup(offered)
	}
	_, i, err := policy.Select(own, offered)
	if err == nil && check == policy.CheckObey {
		err = s.takesGroup(cfg, places[i].u.proposal.First(policy.TransformKE))
	}
	if err != nil {
		return place{}, err
	}
	return places[i], nil
}

// fitsMode says whether an encapsulation mode is that of a child. Without a NAT found, a peer may still want UDP, or with one plain ESP.
func fitsMode(mode uint16, want policy.Mode) bool {
	if want == policy.Transport {
		return mode == wire.ModeV1Transport || mode == wire.ModeV1UDPTransport || mode == wire.ModeV1UDPTransportDraft
	}
	return mode == wire.ModeV1Tunnel || mode == wire.ModeV1UDPTunnel || mode == wire.ModeV1UDPTunnelDraft
}

// answerPair installs the pair and sends message 2.
func (s *sa) answerPair(x *exchange, shared policy.Secret, payloads []wire.Payload) {
	p := x.pair
	sas, err := s.derive(p.child, shared, p.ni, p.nr)
	if err != nil {
		s.dropPair(x, err)
		return
	}
	b, next, err := s.sealHashed(x.kind, x.id, x.iv, func(rest []byte) []byte { return keys.V1Hash2(s.prf, s.keys.A, x.id, p.ni, rest) }, payloads...)
	if err != nil {
		s.dropPair(x, err)
		return
	}
	p.larval = false
	after := s.install(p.child, sas)
	life := s.env.Limits.HalfOpenLife
	p.child.activateAt = s.now.Add(2 * life)
	x.iv, x.step, x.forgetAt = next, stepQuickAnswered, s.now.Add(3*life)
	s.say(x, b, after, true)
}

// pairConfirmed takes message 3.
func (s *sa) pairConfirmed(x *exchange, _ *message) {
	x.step, x.next, x.lastOut = stepDone, zeroTime, nil
	x.forgetAt = s.now.Add(s.env.Limits.HalfOpenLife)
	s.activate(x.pair.child)
}

// responderLifetime is the lifetime a responder asks us to keep, else the one of its transform.
func (s *sa) responderLifetime(m *message, said time.Duration) time.Duration {
	if d := claimed(m, wire.ProtocolESP); d > 0 {
		return d
	}
	return said
}
