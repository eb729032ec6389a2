package v1

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"coati/ike"
	"coati/ike/keys"
	"coati/ike/wire"
	"coati/policy"
)

// Quick mode that we begin, section 5.5:
//
//	HDR*, HASH(1), SA, Ni, [KE,] IDci, IDcr  -->
//	                                         <--  HDR*, HASH(2), SA, Nr, [KE,] IDci, IDcr
//	HDR*, HASH(3)                            -->
//
// We begin one at a time. A pair is rekeyed by another quick mode; the old pair goes when the peer surely uses the new one.

// pairTask opens a pair of SAs for a child, or replaces one.
type pairTask struct {
	cfg      *policy.Child
	replaces *child
	command  ike.CommandID
	flow     policy.Flow
}

// pair is a quick mode's own state, in either role.
type pair struct {
	task           *pairTask // nil: the peer began
	child          *child
	suites         []policy.Proposal
	mode           uint16
	group          uint16
	ni, nr         []byte
	begun          *keys.Initiator
	local, remote  *wire.V1ID
	larval, failed bool
	commit         bool // the peer says when it has the pair: CONNECTED (RFC 2408, section 3.1)
}

// enqueue adds a task and begins it if nothing else of ours is under way.
func (s *sa) enqueue(t *pairTask) {
	s.tasks = append(s.tasks, t)
	s.advance()
}

func (s *sa) advance() {
	if s.state == stateEstablished && s.now.Before(s.opensAt) {
		s.resumeAt = s.opensAt
		return
	}
	for s.state == stateEstablished && s.doing == nil && len(s.tasks) > 0 {
		t := s.tasks[0]
		s.tasks = s.tasks[1:]
		s.beginPair(t)
	}
}

// open begins a child unless it is there or on its way.
func (s *sa) open(name string, flow policy.Flow) {
	if s.state == stateEstablished {
		s.openChild(name, flow)
	} else if !slices.Contains(s.wanted, name) {
		s.wanted = append(s.wanted, name)
	}
}

func (s *sa) openChild(name string, flow policy.Flow) {
	cfg := ike.ChildOf(s.tunnel, name)
	if cfg == nil {
		return
	}
	if flow.Src.IsValid() && s.config.given != nil && !slices.Contains(s.config.given.Addresses, flow.Src) {
		flow = policy.Flow{} // no child of ours will ever carry it
	}
	for _, c := range s.childrenNamed(name) {
		if !c.retireAt.IsZero() || flow.Src.IsValid() && !policy.MatchFlow([]policy.Selector{c.local}, []policy.Selector{c.remote}, flow, true) {
			continue
		}
		if !c.standby {
			s.out.Signal(ike.Signal{Kind: ike.SignalChildUp, Child: name})
		}
		return
	}
	if s.doing != nil && s.doing.pair.task.cfg.Name == name || slices.ContainsFunc(s.tasks, func(t *pairTask) bool { return t.cfg.Name == name }) {
		return
	}
	s.enqueue(&pairTask{cfg: cfg, flow: flow})
}

// ends are the selectors for a task: those of the pair it replaces, those that cover the waiting packet, else the first.
func (t *pairTask) ends() (local, remote policy.Selector) {
	if t.replaces != nil {
		return t.replaces.local, t.replaces.remote
	}
	pick := func(set []policy.Selector, a netip.Addr, port uint16) policy.Selector {
		for _, x := range set {
			if a.IsValid() && x.Contains(a, t.flow.Protocol, port, t.flow.HasPorts) {
				return x
			}
		}
		return set[0]
	}
	return pick(t.cfg.Local, t.flow.Src, t.flow.SrcPort), pick(t.cfg.Remote, t.flow.Dst, t.flow.DstPort)
}

// beginPair makes ready for message 1.
func (s *sa) beginPair(t *pairTask) {
	fail := func(err error) { s.taskFailed(t, err) }
	if t.replaces != nil && (!slices.Contains(s.peer.children, t.replaces) || !t.replaces.retireAt.IsZero() || s.newest(t.cfg.Name) != t.replaces) {
		s.reply(t.command, nil) // a newer pair is there
		return
	}
	if t.replaces != nil && s.coming(t.replaces) {
		// The peer's own rekey is under way; should nothing come of it, ours is due again.
		t.replaces.retryAt = s.now.Add(s.env.Limits.TemporaryRetry)
		s.reply(t.command, nil)
		return
	}
	p := &pair{task: t, group: t.cfg.ESP[0].First(policy.TransformKE).ID, ni: s.env.Bytes(nonceLen), mode: s.encapMode(t.cfg)}
	if p.suites = policy.V1Suites(t.cfg.ESP, p.group); len(p.suites) == 0 {
		fail(fmt.Errorf("child %s has no ESP proposal that IKEv1 can say: write one such as aes256-sha256", t.cfg.Name))
		return
	}
	local, remote := t.ends()
	if t.replaces == nil {
		ls, rs := s.ourEnd([]policy.Selector{local}), s.theirEnd([]policy.Selector{remote})
		if len(ls) == 0 || len(rs) == 0 {
			fail(errors.New("the child has nothing to do with the addresses that were given: compare them with local-ts and remote-ts"))
			return
		}
		local, remote = ls[0], rs[0]
	}
	var err, err2 error
	if t.cfg.Mode == policy.Transport {
		if local, remote, err = s.atEnds(local, remote); err != nil {
			fail(err)
			return
		}
	}
	p.local, err = clientID(local)
	p.remote, err2 = clientID(remote)
	if err = errors.Join(err, err2); err != nil {
		fail(err)
		return
	}
	if p.child, err = s.newChild(t.cfg, true); err != nil {
		fail(err)
		return
	}
	p.larval, p.child.begun = true, s.now
	p.child.local, p.child.remote, p.child.replaces, p.child.encap = local, remote, t.replaces, s.path.Encap
	x := &exchange{kind: wire.ExchangeV1Quick, id: s.newID(), pair: p, begun: s.now, step: stepQuickKeys}
	x.iv = s.cipher.PhaseTwoIV(s.p1.iv, x.id)
	s.exchanges[x.id] = x
	s.doing = x
	if p.group == policy.KENone {
		s.sendPair(x, nil)
		return
	}
	begun, err := keys.NewInitiator(p.group, s.env.Rand)
	if err != nil {
		s.pairFailed(x, err)
		return
	}
	p.begun = begun
	s.job(func() (any, error) { return begun.Offer() }, func(ev ike.JobDone) {
		switch {
		case p.failed:
			begun.Wipe()
		case ev.Err != nil:
			s.pairFailed(x, ev.Err)
		default:
			s.sendPair(x, ev.Result.([]byte))
		}
	})
}

// coming says whether the peer has begun a pair with the same traffic and has not confirmed it.
func (s *sa) coming(c *child) bool {
	return slices.ContainsFunc(s.peer.children, func(x *child) bool { return x != c && x.standby && x.sameTraffic(c) })
}

// sendPair sends message 1.
func (s *sa) sendPair(x *exchange, public []byte) {
	p := x.pair
	payloads := []wire.Payload{phase2Payload(p.suites, p.child.inSPI, p.mode, p.task.cfg.Lifetime), &wire.V1Opaque{Type: wire.PayloadV1Nonce, Data: p.ni}}
	if public != nil {
		payloads = append(payloads, &wire.V1Opaque{Type: wire.PayloadV1KE, Data: public})
	}
	payloads = append(payloads, p.local, p.remote)
	payloads = append(payloads, s.originalsOf(p.mode, true)...)
	b, next, err := s.sealHashed(x.kind, x.id, x.iv, func(rest []byte) []byte { return keys.V1Hash1(s.prf, s.keys.A, x.id, rest) }, payloads...)
	if err != nil {
		s.pairFailed(x, err)
		return
	}
	x.iv, x.step = next, stepQuickSent
	s.say(x, b, 0, true)
}

// pairAnswered takes message 2.
func (s *sa) pairAnswered(x *exchange, m *message) {
	p := x.pair
	x.next = zeroTime
	bad := func(err error) {
		// The peer believes in the pair.
		x.step = stepDone
		spi := spiOctets(p.child.inSPI)
		s.pairFailed(x, err)
		s.sayDelete(wire.ProtocolESP, spi)
	}
	sa := m.find(wire.PayloadV1SA).(*wire.V1SA)
	if len(sa.Proposals) != 1 || len(sa.Proposals[0].Transforms) != 1 || sa.Proposals[0].Protocol != wire.ProtocolESP || len(sa.Proposals[0].SPI) != 4 {
		bad(errors.New("the peer's answer for the child is not one transform of ESP"))
		return
	}
	u, err := readPhase2(&sa.Proposals[0].Transforms[0])
	if err == nil {
		_, err = policy.Agreed(p.suites, u.proposal)
	}
	if err == nil && u.mode != p.mode {
		err = fmt.Errorf("the peer chose encapsulation mode %d, we offered %d", u.mode, p.mode)
	}
	if err == nil {
		err = p.sameEnds(m)
	}
	p.child.outSPI = policy.SPI(uint32(sa.Proposals[0].SPI[0])<<24 | uint32(sa.Proposals[0].SPI[1])<<16 | uint32(sa.Proposals[0].SPI[2])<<8 | uint32(sa.Proposals[0].SPI[3]))
	if err == nil && p.child.outSPI < 256 {
		err = errors.New("the peer's answer for the child has a reserved SPI")
	}
	if err != nil {
		bad(err)
		return
	}
	p.child.proposal, p.child.lifetime, p.child.octets, p.nr = u.proposal, s.responderLifetime(m, u.lifetime), u.octets, m.octets(wire.PayloadV1Nonce)
	p.child.natural = s.peerSees(p.mode, m, false)
	p.commit = m.Flags&wire.V1Commit != 0
	if p.begun == nil {
		s.completePair(x, policy.Secret{})
		return
	}
	answer := m.octets(wire.PayloadV1KE)
	if len(answer) != keys.OfferLen(p.group) {
		bad(errors.New("the peer's answer for the child lacks the key exchange"))
		return
	}
	x.step = stepQuickKeys
	begun := p.begun
	s.job(func() (any, error) {
		defer begun.Wipe()
		return begun.Finish(answer)
	}, func(ev ike.JobDone) {
		switch {
		case p.failed:
		case ev.Err != nil:
			bad(ev.Err)
		default:
			shared := ev.Result.(policy.Secret)
			s.completePair(x, shared)
			shared.Wipe()
		}
	})
}

// sameEnds checks the identities of message 2: a responder returns them as they are. Without any, the peer's addresses are meant.
func (p *pair) sameEnds(m *message) error {
	ids := m.all(wire.PayloadV1ID)
	if len(ids) == 0 {
		return nil
	}
	if len(ids) == 2 {
		l, err1 := clientSelector(ids[0].(*wire.V1ID))
		r, err2 := clientSelector(ids[1].(*wire.V1ID))
		if err1 == nil && err2 == nil && l == p.child.local && r == p.child.remote {
			return nil
		}
		return fmt.Errorf("the peer answered with %s <-> %s, we asked for %s <-> %s", l, r, p.child.local, p.child.remote)
	}
	return errors.New("the peer answered with one identity instead of two")
}

// completePair installs the pair, and confirms it: message 3.
func (s *sa) completePair(x *exchange, shared policy.Secret) {
	p := x.pair
	s.hold(p.child, p.commit)
	sas, err := s.derive(p.child, shared, p.ni, p.nr)
	if err != nil {
		spi := spiOctets(p.child.inSPI)
		x.step = stepDone
		s.pairFailed(x, err)
		s.sayDelete(wire.ProtocolESP, spi)
		return
	}
	p.larval = false
	after := s.install(p.child, sas)
	b, next, err := s.sealHashed(x.kind, x.id, x.iv, func([]byte) []byte { return keys.V1Hash3(s.prf, s.keys.A, x.id, p.ni, p.nr) })
	if err != nil {
		s.end(ike.ClosedFailed, err)
		return
	}
	x.iv, x.step = next, stepDone
	x.forgetAt = s.now.Add(s.env.Limits.HalfOpenLife)
	s.say(x, b, after, false)
	s.reply(p.task.command, nil)
	s.doing = nil
	p.child.upAt = s.now
	s.childUp(p.child)
	// What follows leaves after the plane has accepted the pair.
	s.resumeAt = s.now
}

// pairFailed gives up a quick mode of ours.
func (s *sa) pairFailed(x *exchange, err error) {
	s.forget(x)
	if x.pair.task != nil {
		s.taskFailed(x.pair.task, err)
	}
	if s.doing == x {
		s.doing = nil
		s.resumeAt = s.now
	}
}

func (s *sa) taskFailed(t *pairTask, err error) {
	s.reply(t.command, err)
	if t.replaces != nil {
		s.warn("child "+t.cfg.Name+" cannot be rekeyed", err)
		t.replaces.retryAt = s.now.Add(s.env.Limits.RetryMax)
		return
	}
	s.warn("child SA "+t.cfg.Name+" does not come up", err)
	s.out.Signal(ike.Signal{Kind: ike.SignalChildFailed, Child: t.cfg.Name, Err: err})
}

// forget drops an exchange, with an SPI that nothing came of.
func (s *sa) forget(x *exchange) {
	delete(s.exchanges, x.id)
	if p := x.pair; p != nil {
		p.failed = true
		if p.larval {
			p.larval = false
			s.env.FreeSPI(policy.ProtocolESP, p.child.inSPI)
		}
	}
}

// inOrder lists the exchanges in an order that does not depend on the map's.
func (s *sa) inOrder() []*exchange {
	if len(s.exchanges) == 0 {
		return nil
	}
	out := make([]*exchange, 0, len(s.exchanges))
	for _, x := range s.exchanges {
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b *exchange) int { return int(int64(a.id) - int64(b.id)) })
	return out
}
