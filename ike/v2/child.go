package v2

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"coati/ike"
	"coati/ike/keys"
	"coati/ike/wire"
	"coati/policy"
)

var zeroTime time.Time

// childState is how far a child SA has come.
type childState uint8

const (
	childLarval   childState = iota // an inbound SPI is reserved
	childUp                         // both SAs carry traffic
	childReplaced                   // a newer pair took over; a delete is on its way
)

func (c childState) String() string { return [...]string{"larval", ike.ChildUp, "replaced"}[c] }

// child is a pair of SAs.
type child struct {
	name           string
	cfg            *policy.Child
	mode           policy.Mode
	natural        natural
	laterFragments bool // agreed on: see fragments.go
	noTFC          bool // the peer cannot take padding beyond a packet (section 1.3.1)
	initiator      bool // we began the exchange that made it
	in, outID      policy.SAID
	inSPI, outSPI  policy.SPI
	local, remote  []policy.Selector
	offered        []policy.Proposal
	proposal       policy.Proposal
	nonceI, nonceR []byte // of the exchange that made it
	state          childState
	since          time.Time
	retryAt        time.Time   // a rekey was put off
	losing         bool        // of two that both ends made at once, this one is deleted
	standby        bool        // the outbound SA waits for the peer to use the inbound one
	activateAt     time.Time   // on standby: at the latest
	replaces       *child      // until the peer uses this one
	lostTo         *child      // on standby: lost a collision to this one, and carries traffic only if that goes first
	rekeyed        *child      // the pair this one was made from
	pair           []policy.SA // the inbound and the outbound one, until they are the plane's
	answer         []wire.Payload
	authReply      []wire.Payload // of IKE_AUTH, should the plane refuse the child
}

// low is the lower nonce of the exchange that made the child (section 2.8.1).
func (c *child) low() []byte { return lowest(c.nonceI, c.nonceR) }

func (c *child) info(s *sa) ike.ChildInfo {
	return ike.ChildInfo{
		Name: c.name, In: c.in, Out: c.outID, InSPI: c.inSPI, OutSPI: c.outSPI, Proposal: c.proposal, Mode: c.mode,
		Local: c.local, Remote: c.remote, EstablishedAt: c.since, State: c.state.String(), Standby: c.standby, Encap: s.path.Encap,
	}
}

func (s *sa) newChild(cfg *policy.Child, initiator bool) (*child, error) {
	spi, err := s.env.AllocSPI(policy.ProtocolESP)
	if err != nil {
		return nil, fmt.Errorf("no SPI to be had: %w", err)
	}
	return &child{name: cfg.Name, cfg: cfg, initiator: initiator, inSPI: spi, in: s.env.NewSAID(), outID: s.env.NewSAID()}, nil
}

// rejection says why a peer's child is refused: to the peer by a notification, to people in words.
type rejection struct {
	notify wire.NotifyType
	err    error
}

func (r *rejection) Error() string { return r.err.Error() }

// acceptChild chooses configuration, proposal and selectors for a child the peer asks for, and derives its keys. of is
// the child it rekeys, nil for a new one. With inAuth, key exchange transforms are ignored (section 1.2).
func (s *sa) acceptChild(m *message, sa *wire.SA, ni, nr []byte, shared policy.Secret, of *child, inAuth bool) (*child, *rejection) {
	c, _, reject := s.selectChild(m, sa, of, inAuth)
	if reject != nil {
		return nil, reject
	}
	c.nonceI, c.nonceR = ni, nr
	if err := s.deriveChild(c, shared); err != nil {
		s.env.FreeSPI(policy.ProtocolESP, c.inSPI)
		return nil, &rejection{wire.NotifyNoProposalChosen, err}
	}
	return c, nil
}

// selectChild is acceptChild up to the keys. It returns the method of the key exchange to be done, zero for none.
func (s *sa) selectChild(m *message, sa *wire.SA, of *child, inAuth bool) (*child, uint16, *rejection) {
	limit := s.env.Limits.ChildrenPerSA
	if of != nil {
		limit *= 2 // both generations are there for a while
	}
	if len(s.children)+len(s.reaps) >= 2*limit || len(s.children) >= limit {
		return nil, 0, &rejection{wire.NotifyNoAdditionalSAs, fmt.Errorf("the peer has %d children already", len(s.children))}
	}
	ti, _ := wire.Find[*wire.TS](m.payloads, wire.PayloadTSi)
	tr, _ := wire.Find[*wire.TS](m.payloads, wire.PayloadTSr)
	cfg, local, remote, seen := s.matchMode(m, s.ourEnd(policySelectors(tr)), s.theirEnd(policySelectors(ti)), of)
	if cfg == nil {
		if other, _, _ := s.matchChild(policySelectors(tr), policySelectors(ti), of, policy.Transport); other != nil {
			return nil, 0, &rejection{wire.NotifyTSUnacceptable, fmt.Errorf("the peer asks for tunnel mode, and child %s of tunnel %s has transport mode: see mode", other.Name, s.tunnel.Name)}
		}
		return nil, 0, &rejection{wire.NotifyTSUnacceptable, fmt.Errorf("the peer wants %v <-> %v, which no child of tunnel %s covers: see local-ts and remote-ts", policySelectors(tr), policySelectors(ti), s.tunnel.Name)}
	}
	offered, own := policyProposals(sa), cfg.ESP
	if inAuth {
		for i := range offered {
			offered[i] = offered[i].Without(policy.TransformKE)
		}
		own = without(own, policy.TransformKE)
	}
	chosen, i, err := policy.Select(own, offered)
	if err != nil {
		return nil, 0, &rejection{wire.NotifyNoProposalChosen, fmt.Errorf("child %s of tunnel %s: %w: see esp", cfg.Name, s.tunnel.Name, err)}
	}
	spi := sa.Proposals[i].SPI
	if spi.Size != 4 || spi.Value == 0 {
		return nil, 0, &rejection{wire.NotifyNoProposalChosen, errors.New("the peer's proposal has no SPI")}
	}
	method := chosen.First(policy.TransformKE).ID
	if k, ok := wire.Find[*wire.KE](m.payloads, wire.PayloadKE); ok && method != k.Method && offers(chosen, offered[i], own, k.Method) {
		chosen, method = withKE(chosen, k.Method), k.Method
	}
	c, err := s.newChild(cfg, false)
	if err != nil {
		return nil, 0, &rejection{wire.NotifyNoAdditionalSAs, err}
	}
	c.outSPI = policy.SPI(spi.Value)
	c.proposal, c.local, c.remote = chosen, local, remote
	c.mode, c.natural, c.noTFC = cfg.Mode, seen, m.notify(wire.NotifyESPTFCPaddingNotSupported) != nil
	c.answer = []wire.Payload{
		&wire.SA{Proposals: []wire.Proposal{wireProposal(chosen, sa.Proposals[i].Number, wire.SPI4(uint32(c.inSPI)))}},
		tsPayload(false, remote), tsPayload(true, local),
	}
	if c.mode == policy.Transport {
		c.answer = append(c.answer, notify(wire.NotifyUseTransportMode, nil))
	}
	c.answer = append(c.answer, s.answerFragments(c, m)...)
	return c, method, nil
}

// matchChild narrows what the peer wants to a configured child of a mode (section 2.9): the one that a rekeyed child had, else one
// that covers the peer's first selectors, which may be those of the packet that asked, else the first that overlaps.
func (s *sa) matchChild(local, remote []policy.Selector, of *child, mode policy.Mode) (*policy.Child, []policy.Selector, []policy.Selector) {
	var best *policy.Child
	var bl, br []policy.Selector
	for i := range s.tunnel.Children {
		cfg := &s.tunnel.Children[i]
		if cfg.Mode != mode || of != nil && cfg.Name != of.name {
			continue
		}
		l, r := sameFamilies(outermost(policy.Narrow(local, cfg.Local)), outermost(policy.Narrow(remote, cfg.Remote)))
		if len(l) == 0 || len(r) == 0 {
			continue
		}
		// Narrowing may leave out what is too much (section 2.9).
		n := s.env.Limits.SelectorsPerChild
		l, r = l[:min(len(l), n)], r[:min(len(r), n)]
		if policy.Subset(local[:1], cfg.Local) && policy.Subset(remote[:1], cfg.Remote) {
			return cfg, l, r
		}
		if best == nil {
			best, bl, br = cfg, l, r
		}
	}
	return best, bl, br
}

// outermost drops selectors that another one of the set covers: a packet's, where its net is there too.
func outermost(set []policy.Selector) []policy.Selector {
	var out []policy.Selector
	for i, s := range set {
		if !slices.ContainsFunc(set[i+1:], func(o policy.Selector) bool { return o.Covers(s) }) && !slices.ContainsFunc(out, func(o policy.Selector) bool { return o.Covers(s) }) {
			out = append(out, s)
		}
	}
	return out
}

// sameFamilies drops selectors whose family the other end does not have.
func sameFamilies(a, b []policy.Selector) ([]policy.Selector, []policy.Selector) {
	has := func(set []policy.Selector, bits int) bool {
		return slices.ContainsFunc(set, func(s policy.Selector) bool { return s.Start.BitLen() == bits })
	}
	keep := func(set, other []policy.Selector) []policy.Selector {
		return slices.DeleteFunc(slices.Clone(set), func(s policy.Selector) bool { return !has(other, s.Start.BitLen()) })
	}
	return keep(a, b), keep(b, a)
}

// takeAnswer checks the responder's choice for a child of ours and derives its keys.
func (s *sa) takeAnswer(c *child, m *message, shared policy.Secret, more ...policy.Secret) error {
	sa, ok := wire.Find[*wire.SA](m.payloads, wire.PayloadSA)
	ti, ok1 := wire.Find[*wire.TS](m.payloads, wire.PayloadTSi)
	tr, ok2 := wire.Find[*wire.TS](m.payloads, wire.PayloadTSr)
	if !ok || !ok1 || !ok2 || len(sa.Proposals) != 1 {
		return errors.New("the peer's answer for the child is incomplete")
	}
	c.proposal = policyProposal(sa.Proposals[0])
	if _, err := policy.Agreed(c.offered, c.proposal); err != nil {
		return err
	}
	if spi := sa.Proposals[0].SPI; spi.Size == 4 && spi.Value != 0 {
		c.outSPI = policy.SPI(spi.Value)
	} else {
		return errors.New("the peer's answer for the child has no SPI")
	}
	local, remote, err := s.answeredMode(c, m, policySelectors(ti), policySelectors(tr))
	if err != nil {
		return err
	}
	c.noTFC = m.notify(wire.NotifyESPTFCPaddingNotSupported) != nil
	c.laterFragments = s.asksFragments(c) && m.notify(wire.NotifyNonFirstFragmentsAlso) != nil
	if len(local) == 0 || len(remote) == 0 || !policy.Subset(local, c.local) || !policy.Subset(remote, c.remote) {
		return fmt.Errorf("the peer answered with selectors %v <-> %v that we did not offer", local, remote)
	}
	if local = s.ourEnd(local); len(local) == 0 {
		return fmt.Errorf("the peer gives us %v, and no selector for it", s.config.given.Addresses)
	}
	c.local, c.remote = outermost(local), outermost(remote)
	return s.deriveChild(c, shared, more...)
}

// deriveChild makes the pair of SAs with their keys (section 2.17).
func (s *sa) deriveChild(c *child, shared policy.Secret, more ...policy.Secret) error {
	encr, integ := c.proposal.First(policy.TransformENCR), c.proposal.First(policy.TransformINTEG)
	k, err := keys.DeriveChild(s.prf, encr, integ, s.keys.D, shared, c.nonceI, c.nonceR, more...)
	if err != nil {
		return err
	}
	outE, outA, inE, inA := k.EncrI, k.IntegI, k.EncrR, k.IntegR
	if !c.initiator {
		outE, outA, inE, inA = inE, inA, outE, outA
	}
	life := c.cfg.Lifetime
	// Up to a tenth earlier, so that both ends, and the children of a busy gateway, do not rekey at once (section 2.8).
	life.SoftTime -= s.env.Jitter(life.SoftTime / 10)
	life.SoftPackets -= uint64(s.env.Jitter(time.Duration(life.SoftPackets / 10)))
	life.SoftOctets -= uint64(s.env.Jitter(time.Duration(life.SoftOctets / 10)))
	base := policy.SA{
		Protocol: policy.ProtocolESP, Mode: c.mode, Path: s.path, Local: c.local, Remote: c.remote, Encryption: encr, Integrity: integ,
		ESN: c.proposal.First(policy.TransformESN).ID == policy.ESNYes, ReqID: c.cfg.ReqID, Lifetime: life, Added: s.now,
		Label: s.tunnel.Name + "/" + c.name,
		ICV96: c.cfg.ICV96 && integ.ID == policy.IntegSHA256, Header: c.cfg.Header, OriginalLocal: c.natural.local, OriginalRemote: c.natural.remote,
		LaterFragments: c.laterFragments,
	}
	if !s.remoteID.IsZero() && s.remoteID.Type != policy.IDNull {
		base.Peer = s.remoteID.String()
	}
	in, out := base, base
	if !c.noTFC {
		out.TFC = c.cfg.TFC
	}
	in.ID, in.Pair, in.Direction, in.SPI, in.EncryptionKey, in.IntegrityKey = c.in, c.outID, policy.Inbound, c.inSPI, inE, inA
	in.ReplayWindow = c.cfg.ReplayWindow
	out.ID, out.Pair, out.Direction, out.SPI, out.EncryptionKey, out.IntegrityKey = c.outID, c.in, policy.Outbound, c.outSPI, outE, outA
	c.pair = []policy.SA{in, out}
	return nil
}

// installed hands the pair to the plane. The keys are its own from then on.
func (s *sa) installed(c *child) ike.ChangeID {
	c.state, c.since = childUp, s.now
	c.pair[1].Standby = c.standby
	id := s.change(policy.Tx{AddSAs: c.pair})
	c.pair = nil
	if !slices.Contains(s.children, c) {
		s.children = append(s.children, c)
	}
	if cfg := ike.Serving(s.tunnel, c.cfg); cfg != nil {
		c.cfg = cfg
	} else {
		// The configuration changed while it was negotiated.
		c.state = childReplaced
		s.tasks = append(s.tasks, &deleteTask{child: c, reason: ike.ClosedByUs})
	}
	return id
}

func (s *sa) childUp(c *child) {
	if c.state != childUp {
		return
	}
	if s.env.Told(slog.LevelInfo) {
		s.out.Record(slog.LevelInfo, "child SA up", append(s.attrs(), slog.String("child", c.name), slog.String("spi-in", c.inSPI.String()), slog.String("spi-out", c.outSPI.String()),
			slog.String("ciphers", c.proposal.String()), slog.String("local-ts", fmt.Sprint(c.local)), slog.String("remote-ts", fmt.Sprint(c.remote)), slog.String("encap", s.path.Encap.String()))...)
	}
	s.out.Signal(ike.Signal{Kind: ike.SignalChildUp, Child: c.name})
}

// dropChild gives up a child that never came up.
func (s *sa) dropChild(c *child, err error) {
	s.children = slices.DeleteFunc(s.children, func(x *child) bool { return x == c })
	s.env.FreeSPI(policy.ProtocolESP, c.inSPI)
	s.warn("child SA "+c.name+" does not come up", err)
	s.out.Signal(ike.Signal{Kind: ike.SignalChildFailed, Child: c.name, Err: err})
}

// removeChild takes a child down: the outbound SA at once, the inbound one after a grace for packets on their way.
func (s *sa) removeChild(c *child, reason ike.CloseReason) {
	if !slices.Contains(s.children, c) {
		return
	}
	s.children = slices.DeleteFunc(s.children, func(x *child) bool { return x == c })
	var tx policy.Tx
	for _, n := range s.children {
		if n.standby && (n.replaces == c || n.lostTo == c) {
			n.standby, n.losing, n.replaces, n.lostTo, n.activateAt = false, false, nil, nil, zeroTime
			tx.UpdateSAs = append(tx.UpdateSAs, policy.SAUpdate{ID: n.outID, Activate: true})
		}
	}
	tx.DeleteSAs = []policy.SAID{c.outID}
	if s.proto.mutant == breakBeforeNew {
		tx.DeleteSAs = append(tx.DeleteSAs, c.in)
		s.change(tx)
		return
	}
	s.change(tx)
	s.reaps = append(s.reaps, reap{c.in, s.now.Add(s.env.Limits.DeleteGrace)})
	if c.state == childUp && reason != ike.ClosedReplaced {
		s.out.Record(slog.LevelInfo, "child SA down", append(s.attrs(), slog.String("child", c.name), slog.String("reason", reason.String()))...)
		s.out.Signal(ike.Signal{Kind: ike.SignalChildDown, Child: c.name, Reason: reason})
	}
}

// childRefusal explains a responder's refusal.
func childRefusal(t wire.NotifyType, c *child) error {
	if err := lacksAddress(t); err != nil {
		return err
	}
	switch t {
	case wire.NotifyTSUnacceptable:
		return fmt.Errorf("the peer accepts none of our traffic selectors %v <-> %v: compare local-ts and remote-ts with its configuration", c.cfg.Local, c.cfg.Remote)
	case wire.NotifyNoProposalChosen:
		return fmt.Errorf("the peer accepts none of our ESP proposals (%s): compare esp with its configuration", proposalList(c.offered))
	}
	return fmt.Errorf("the peer refuses the child: %s", t)
}

// changeFailed: the plane does not have the pair we were about to tell the peer of.
func (s *sa) changeFailed(ev ike.ChangeFailed) {
	if ev.ID == s.following {
		s.leftBehind()
		return
	}
	c := s.changes[ev.ID]
	delete(s.changes, ev.ID)
	if c == nil || !slices.Contains(s.children, c) {
		return
	}
	s.children = slices.DeleteFunc(s.children, func(x *child) bool { return x == c })
	s.env.FreeSPI(policy.ProtocolESP, c.inSPI)
	err := fmt.Errorf("the data path refuses the child: %w", ev.Err)
	s.warn("child SA "+c.name+" does not come up", err)
	if old := c.rekeyed; old != nil && slices.Contains(s.children, old) {
		// The old pair carries on, and is rekeyed again later.
		old.state, old.retryAt = childUp, s.now.Add(s.env.Limits.RetryMax)
		s.tasks = slices.DeleteFunc(s.tasks, func(t task) bool {
			dt, ok := t.(*deleteTask)
			return ok && dt.child == old && dt.reason == ike.ClosedReplaced
		})
		if t, ok := s.doing.(*childTask); ok && t.rival == c {
			t.rival = nil
		}
	} else {
		s.out.Signal(ike.Signal{Kind: ike.SignalChildFailed, Child: c.name, Err: err})
	}
	if c.initiator {
		s.enqueue(&deleteTask{spi: c.inSPI})
		return
	}
	// The response in the cache never left: it is replaced.
	s.respond(0, append(slices.Clone(c.authReply), notify(wire.NotifyNoAdditionalSAs, nil))...)
}

// used: the peer sends on a new pair, so it is ready for ours (section 2.8).
func (s *sa) used(id policy.SAID) {
	for _, c := range s.children {
		if c.in == id {
			s.activate(c)
		}
	}
}

func (s *sa) activate(c *child) {
	c.activateAt = zeroTime
	if c.standby && !c.losing {
		c.standby, c.replaces = false, nil
		s.change(policy.Tx{UpdateSAs: []policy.SAUpdate{{ID: c.outID, Activate: true}}})
	}
}
