package v2

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"slices"

	"coati/ike"
	"coati/ike/keys"
	"coati/ike/wire"
	"coati/policy"
)

// CREATE_CHILD_SA for the IKE SA itself, RFC 7296, sections 1.3.2 and 2.18:
//
//	HDR, SK {SA, Ni, KEi}  -->
//	                       <--  HDR, SK {SA, Nr, KEr}
//
// The successor is a machine of its own, which inherits all children. Who began the rekey deletes the old SA. When both
// begin at once, both successors are made; the one with the lowest of the four nonces is deleted by who began it, and
// the children go to the other (section 2.8.2).

// ikeRekey is what a rekey of the IKE SA has brought so far.
type ikeRekey struct {
	theirs *sa // the successor the peer began
}

// rekeyIKETask replaces the IKE SA.
type rekeyIKETask struct {
	command ike.CommandID
	begun   *keys.Initiator
	offer   []byte
	spi     uint64
	ni      []byte
	jobID   ike.JobID
	answer  *message
	chosen  policy.Proposal
	sent    bool
	tried   []uint16
	follow  *follow // additional key exchanges
}

func (t *rekeyIKETask) name() string { return "rekeying the IKE SA" }

func (t *rekeyIKETask) begin(s *sa) bool {
	if s.successor != nil || s.rekey != nil {
		s.reply(t.command, errors.New("the IKE SA is being replaced already"))
		return false
	}
	t.spi, t.ni = s.env.NewSPI(), s.env.Bytes(nonceLen)
	return t.exchange(s, s.proposal.First(policy.TransformKE).ID)
}

func (t *rekeyIKETask) exchange(s *sa, method uint16) bool {
	begun, err := keys.NewInitiator(method, s.env.Rand)
	if err != nil {
		t.failed(s, err)
		return false
	}
	t.begun, t.jobID = begun, s.env.NextJob()
	s.out.Jobs = append(s.out.Jobs, ike.Job{ID: t.jobID, Run: func() (any, error) { return begun.Offer() }})
	return true
}

func (t *rekeyIKETask) job(s *sa, ev ike.JobDone) {
	if t.follow.job(s, ev) {
		return
	}
	if t.jobID == 0 || ev.ID != t.jobID {
		return
	}
	t.jobID = 0
	switch {
	case ev.Err != nil:
		t.failed(s, ev.Err)
		s.finish()
	case t.answer == nil && s.peerReplaces(nil):
		t.failed(s, errors.New("the peer is replacing it"))
		s.finish()
	case t.answer == nil:
		t.offer = ev.Result.([]byte)
		t.sent = true
		s.sendRequest(wire.ExchangeCreateChildSA, 0, saPayload(s.tunnel.IKE, wire.SPI8(t.spi)), &wire.Nonce{Data: t.ni}, &wire.KE{Method: t.begun.Method(), Data: t.offer})
	default:
		t.goOn(s, ev.Result.(policy.Secret))
	}
}

// goOn does the additional key exchanges that the answer chose, and completes.
func (t *rekeyIKETask) goOn(s *sa, shared policy.Secret) {
	failed := func(err error) {
		t.failed(s, err)
		s.finish()
	}
	f, err := s.followUp(t.answer, t.chosen, shared)
	switch t.follow = f; {
	case err != nil:
		failed(err)
	case f == nil:
		t.complete(s, shared)
	default:
		f.refused, f.failed = func(no *wire.Notify) { t.refused(s, no) }, failed
		f.finished = func(more []policy.Secret) { t.complete(s, shared, more...) }
		f.next(s)
	}
}

func (t *rekeyIKETask) response(s *sa, m *message) {
	if t.follow != nil {
		t.follow.response(s, m)
		return
	}
	if no := m.errorNotify(); no != nil {
		t.refused(s, no)
		return
	}
	sa, ok1 := wire.Find[*wire.SA](m.payloads, wire.PayloadSA)
	_, ok2 := wire.Find[*wire.Nonce](m.payloads, wire.PayloadNonce)
	kr, ok3 := wire.Find[*wire.KE](m.payloads, wire.PayloadKE)
	if !ok1 || !ok2 || !ok3 || len(sa.Proposals) != 1 || sa.Proposals[0].SPI.Size != 8 || sa.Proposals[0].SPI.Value == 0 || kr.Method != t.begun.Method() {
		t.failed(s, errors.New("the peer's answer to the rekey is incomplete"))
		s.finish()
		return
	}
	t.chosen = policyProposal(sa.Proposals[0])
	if _, err := policy.Agreed(s.tunnel.IKE, t.chosen); err != nil || t.chosen.First(policy.TransformKE).ID != kr.Method {
		t.failed(s, errors.New("the peer's answer to the rekey chooses what was not offered"))
		s.finish()
		return
	}
	t.answer, t.jobID = m, s.env.NextJob()
	begun, data := t.begun, kr.Data
	s.out.Jobs = append(s.out.Jobs, ike.Job{ID: t.jobID, Run: func() (any, error) { return begun.Finish(data) }})
}

func (t *rekeyIKETask) complete(s *sa, shared policy.Secret, more ...policy.Secret) {
	sa, _ := wire.Find[*wire.SA](t.answer.payloads, wire.PayloadSA)
	nr, _ := wire.Find[*wire.Nonce](t.answer.payloads, wire.PayloadNonce)
	n, err := s.heir(true, t.spi, sa.Proposals[0].SPI.Value, t.chosen, t.ni, nr.Data, shared, more...)
	shared.Wipe()
	t.begun.Wipe()
	if err != nil {
		t.failed(s, err)
		s.finish()
		return
	}
	s.reply(t.command, nil)
	if r := s.rekey; r != nil && r.theirs != nil && s.proto.loses(n.lowNonce, r.theirs.lowNonce) {
		// Ours has the lowest nonce: it goes, at our request; the peer deletes the old SA.
		s.adopt(r.theirs)
		n.reason = ike.ClosedReplaced
		n.tasks = []task{&deleteIKETask{}}
		s.linger()
		s.register(n)
		s.finish()
		return
	}
	theirs := s.rekey
	s.adopt(n)
	if theirs != nil && theirs.theirs != nil {
		// The peer deletes the successor it began.
		theirs.theirs.now = s.now
		theirs.theirs.linger()
		s.register(theirs.theirs)
	}
	s.doing = nil
	s.reason = ike.ClosedReplaced
	s.lingerUntil = s.now.Add(s.env.Limits.HalfOpenLife)
	s.tasks = []task{&deleteIKETask{}}
	s.advance()
}

func (t *rekeyIKETask) refused(s *sa, no *wire.Notify) {
	if no.Type == wire.NotifyInvalidKEPayload && len(no.Data) == 2 && t.follow == nil {
		want := binary.BigEndian.Uint16(no.Data)
		mine := slices.ContainsFunc(s.tunnel.IKE, func(p policy.Proposal) bool {
			return slices.Contains(p.Of(policy.TransformKE), policy.Transform{Type: policy.TransformKE, ID: want})
		})
		if mine && want != t.begun.Method() && !slices.Contains(t.tried, want) {
			t.tried = append(t.tried, t.begun.Method())
			t.begun.Wipe()
			if !t.exchange(s, want) {
				s.finish()
			}
			return
		}
	}
	if r := s.rekey; r != nil && r.theirs != nil {
		s.reply(t.command, nil)
		s.adopt(r.theirs)
		s.linger()
		s.finish()
		return
	}
	if no.Type == wire.NotifyNoAdditionalSAs {
		if s.tunnel.Lifetime > 0 || s.worn {
			s.rekeyAt = s.now.Add(s.env.Limits.RetryMax)
		}
		s.replaceWhole(t.command)
		s.finish()
		return
	}
	t.failed(s, errors.New("the peer refuses to rekey the IKE SA: "+no.Type.String()))
	s.finish()
}

// failed puts the rekey off; the hard lifetime still ends the SA.
func (t *rekeyIKETask) failed(s *sa, err error) {
	s.reply(t.command, err)
	s.warn("the IKE SA cannot be rekeyed", err)
	if s.tunnel.Lifetime > 0 || s.worn {
		s.rekeyAt = s.now.Add(s.env.Limits.TemporaryRetry + s.env.Jitter(s.env.Limits.TemporaryRetry))
	}
}

// abandon: the IKE SA ends first. If a successor took over, whoever made it, the command has what it wanted.
func (t *rekeyIKETask) abandon(s *sa, err error) {
	if s.successor != nil {
		err = nil
	}
	s.reply(t.command, err)
}

// ikeBusy says whether the IKE SA itself is being replaced, so that nothing new is made of it (section 2.25.2).
func (s *sa) ikeBusy() bool {
	t, ok := s.doing.(*rekeyIKETask)
	return ok && t.sent || s.peerReplaces(nil) || s.rekey != nil || s.successor != nil || s.closing
}

// childBusy says whether a child is being made, rekeyed or deleted at our request.
func (s *sa) childBusy() bool {
	switch s.doing.(type) {
	case *childTask, *deleteTask:
		return true
	}
	return false
}

// ikeRekeyRequested makes the successor the peer wants.
func (s *sa) ikeRekeyRequested(m *message) {
	sa, _ := wire.Find[*wire.SA](m.payloads, wire.PayloadSA)
	ni, _ := wire.Find[*wire.Nonce](m.payloads, wire.PayloadNonce)
	ki, _ := wire.Find[*wire.KE](m.payloads, wire.PayloadKE)
	if s.env.Limits.InitialOnly {
		s.refuse(wire.NotifyNoAdditionalSAs, nil)
		return
	}
	crossing, ours := s.doing.(*rekeyIKETask)
	if s.rekey != nil || s.successor != nil || s.closing || s.childBusy() || ours && crossing.sent && followed(s.tunnel.IKE) {
		// A child on its way, or on its way out, would be lost with the old SA (section 2.25.2).
		s.refuse(wire.NotifyTemporaryFailure, nil)
		return
	}
	chosen, i, err := policy.Select(s.tunnel.IKE, policyProposals(sa))
	if err != nil {
		s.refused("the peer's rekey is refused", err)
		s.refuse(wire.NotifyNoProposalChosen, nil)
		return
	}
	spi := sa.Proposals[i].SPI
	if spi.Size != 8 || spi.Value == 0 {
		s.refuse(wire.NotifyNoProposalChosen, nil)
		return
	}
	method := chosen.First(policy.TransformKE).ID
	if ki.Method != method && offers(chosen, policyProposal(sa.Proposals[i]), s.tunnel.IKE, ki.Method) {
		chosen, method = withKE(chosen, ki.Method), ki.Method
	}
	if ki.Method != method {
		s.refuse(wire.NotifyInvalidKEPayload, binary.BigEndian.AppendUint16(nil, method))
		return
	}
	r, err := keys.NewResponder(method, s.env.Rand)
	if err != nil {
		s.refuse(wire.NotifyNoProposalChosen, nil)
		return
	}
	mine, nr, number, offer := s.env.NewSPI(), s.env.Bytes(nonceLen), sa.Proposals[i].Number, ki.Data
	sv := &served{job: s.env.NextJob()}
	sv.then = func(ev ike.JobDone) {
		if ev.Err != nil {
			s.warn("the peer's key exchange fails", ev.Err)
			s.refuse(wire.NotifyInvalidSyntax, nil)
			return
		}
		ka := ev.Result.(keyAnswer)
		defer ka.shared.Wipe()
		succeed := func(answer []wire.Payload, shared policy.Secret, more ...policy.Secret) {
			n, err := s.heir(false, spi.Value, mine, chosen, ni.Data, nr, shared, more...)
			if err != nil {
				s.refuse(wire.NotifyNoProposalChosen, nil)
				return
			}
			s.respond(0, answer...)
			s.succeeded(n)
		}
		answer := []wire.Payload{&wire.SA{Proposals: []wire.Proposal{wireProposal(chosen, number, wire.SPI8(mine))}}, &wire.Nonce{Data: nr}, &wire.KE{Method: method, Data: ka.answer}}
		todo := chosen.AdditionalKeyExchanges()
		if len(todo) == 0 {
			succeed(answer, ka.shared)
			return
		}
		s.unfinish(&unfinished{ikeSA: true, todo: todo, finish: func(secrets []policy.Secret, kr *wire.KE) {
			if s.successor != nil || s.closing {
				s.refuse(wire.NotifyTemporaryFailure, nil)
				return
			}
			succeed([]wire.Payload{kr}, secrets[0], secrets[1:]...)
		}}, ka.shared, answer...)
	}
	s.serving = sv
	s.out.Jobs = append(s.out.Jobs, ike.Job{ID: sv.job, Run: func() (any, error) {
		defer r.Wipe()
		answer, shared, err := r.Answer(offer)
		return keyAnswer{answer, shared}, err
	}})
}

// succeeded goes on with the successor that the peer began.
func (s *sa) succeeded(n *sa) {
	if t, ok := s.doing.(*rekeyIKETask); ok && t.sent {
		s.rekey = &ikeRekey{theirs: n}
		return
	}
	s.adopt(n)
	s.linger()
}

// heir makes the machine of the new SA, without children yet.
func (s *sa) heir(initiator bool, spiI, spiR uint64, chosen policy.Proposal, ni, nr []byte, shared policy.Secret, more ...policy.Secret) (*sa, error) {
	prf, err := keys.NewPRF(chosen.First(policy.TransformPRF))
	if err != nil {
		return nil, err
	}
	n := &sa{
		env: s.env, proto: s.proto, phase: phaseEstablished, now: s.now, out: s.out, tunnel: s.tunnel, initiator: initiator, spiI: spiI, spiR: spiR,
		path: s.path, answerPath: s.path, nat: s.nat, ni: ni, nr: nr, proposal: chosen, prf: prf, localID: s.localID, remoteID: s.remoteID,
		mobility: s.mobility, config: s.config, frag: fragmenting{agreed: s.frag.agreed, most: s.frag.most}, peerIsCoati: s.peerIsCoati, establishedAt: s.now, lastReceived: s.now, changes: map[ike.ChangeID]*child{},
	}
	// The PRF of the old SA makes the seed; the new one's makes the keys (section 2.18).
	if err := n.makeKeys(keys.RekeySKEYSEED(s.prf, s.keys.D, shared, ni, nr, more...)); err != nil {
		return nil, err
	}
	n.began, n.firstNonce = s.began, s.firstNonce
	n.startLifetime()
	n.startKeepalive()
	return n, nil
}

// adopt moves all children, and what is still to be done with them, to the successor.
func (s *sa) adopt(n *sa) {
	s.rekey = nil
	s.dropUnfinished()
	s.successor = n
	n.now, n.out = s.now, s.out
	n.children, s.children = s.children, nil
	n.reaps, s.reaps = s.reaps, nil
	if t, ok := s.doing.(*rekeyIKETask); ok && !t.sent {
		s.doing = nil
	}
	for _, t := range s.tasks {
		switch t := t.(type) {
		case *childTask, *deleteTask, *updateTask, *announceTask, *routableTask:
			n.tasks = append(n.tasks, t)
		case *rekeyIKETask:
			s.reply(t.command, nil)
		}
	}
	s.tasks = nil
	n.later, s.later = s.later, nil
	n.reauthAt, n.demandedAt, s.reauthAt = s.reauthAt, s.demandedAt, zeroTime
	if n.tunnel != s.tunnel {
		n.reconfigure(s.tunnel)
	}
	n.renews = s.renews
	if s.closing {
		// We were told to close while the rekey was under way.
		n.closing, n.reason, n.lingerUntil = true, s.reason, s.now.Add(s.env.Limits.DeleteGrace)
		n.closeNext()
	}
	s.rekeyAt, s.expireAt, s.keepaliveAt = zeroTime, zeroTime, zeroTime
	s.out.Record(slog.LevelInfo, "IKE SA rekeyed", append(n.attrs(), slog.String("ciphers", n.proposal.String()))...)
	s.register(n)
}

// register hands a machine to the engine. Its first task, if any, begins with it.
func (s *sa) register(n *sa) {
	n.now, n.out = s.now, s.out
	n.advance()
	n.out = nil
	sig := ike.Signal{Kind: ike.SignalSuccessor, Successor: n}
	for _, c := range n.children {
		sig.SAs = append(sig.SAs, c.in, c.outID)
	}
	for _, r := range n.reaps {
		sig.SAs = append(sig.SAs, r.id)
	}
	s.out.Signal(sig)
}

// linger waits for the peer to delete an SA that is of no more use.
func (s *sa) linger() {
	s.reason = ike.ClosedReplaced
	s.lingerUntil = s.now.Add(s.env.Limits.HalfOpenLife)
}

// startLifetime sets the timers of a new SA.
func (s *sa) startLifetime() {
	s.setLifetime()
	s.setReauth()
}
