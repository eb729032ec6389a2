package v2

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"slices"

	"coati/ike"
	"coati/ike/keys"
	"coati/ike/wire"
	"coati/policy"
)

// CREATE_CHILD_SA for children, RFC 7296, sections 1.3.1 and 1.3.3:
//
//	HDR, SK {[N(REKEY_SA),] SA, Ni, [KEi,] TSi, TSr}  -->
//	                        <--  HDR, SK {SA, Nr, [KEr,] TSi, TSr}
//
// A rekey is make before break. Its initiator uses the new pair at once and deletes the old one; its responder sends
// on the old pair until the peer uses the new one or deletes the old one (section 2.8). When both ends rekey one child
// at once, the pair made with the lowest of the four nonces is deleted by who began it (section 2.8.1). Two Coatis that
// open the same child at once do the same.

// childTask opens a child, or rekeys one.
type childTask struct {
	cfg     *policy.Child
	rekeys  *child // nil: a new child
	command ike.CommandID

	flow policy.Flow // a new child: the packet it is for; zero: none
	more bool        // a new child beside one of its name that does not cover the packet

	c      *child
	mode   []wire.Payload // asks for transport mode
	begun  *keys.Initiator
	offer  []byte
	tried  []uint16
	jobID  ike.JobID
	answer *message // waits for the shared secret
	follow *follow  // additional key exchanges
	sent   bool
	again  int    // so often the peer was busy
	rival  *child // the pair the peer made of the same child meanwhile
}

const maxTemporary = 5

func (t *childTask) name() string {
	if t.rekeys != nil {
		return "rekeying child " + t.cfg.Name
	}
	return "opening child " + t.cfg.Name
}

func (t *childTask) begin(s *sa) bool {
	if t.rekeys != nil && (t.rekeys.state != childUp || !slices.Contains(s.children, t.rekeys)) || s.replacing(t.rekeys) != nil {
		s.reply(t.command, errors.New("the child is being replaced already"))
		return false
	}
	if t.rekeys != nil && s.proto.mutant == breakBeforeNew {
		s.tasks = append([]task{&deleteTask{child: t.rekeys, reason: ike.ClosedReplaced}, &childTask{cfg: t.cfg, command: t.command}}, s.tasks...)
		return false
	}
	if t.rekeys == nil && !t.more && s.isUp(t.cfg.Name) {
		s.reply(t.command, nil)
		s.out.Signal(ike.Signal{Kind: ike.SignalChildUp, Child: t.cfg.Name})
		return false
	}
	c, err := s.newChild(t.cfg, true)
	if err != nil {
		t.failed(s, err)
		return false
	}
	c.offered, c.nonceI = t.cfg.ESP, s.env.Bytes(nonceLen)
	c.local, c.remote = selectorsFor(t.cfg, t.flow)
	c.local, c.remote = s.ourEnd(c.local), s.theirEnd(c.remote)
	t.c = c
	if len(c.local) == 0 || len(c.remote) == 0 {
		t.abandonLarval(s)
		t.failed(s, errors.New("the child has nothing to do with the addresses that were given: compare them with local-ts and remote-ts"))
		return false
	}
	if t.mode, err = s.offerMode(c); err != nil {
		t.abandonLarval(s)
		t.failed(s, err)
		return false
	}
	if method := t.cfg.ESP[0].First(policy.TransformKE).ID; method != policy.KENone {
		return t.exchange(s, method)
	}
	t.send(s)
	return true
}

// selectorsFor is what we offer for a child: first the packet that asks for it, so that a peer who narrows knows what it must
// leave in, then all that is configured (section 2.9).
func selectorsFor(cfg *policy.Child, f policy.Flow) (local, remote []policy.Selector) {
	if !f.Src.IsValid() {
		return cfg.Local, cfg.Remote
	}
	return append([]policy.Selector{packetSelector(f.Src, f.SrcPort, f)}, cfg.Local...), append([]policy.Selector{packetSelector(f.Dst, f.DstPort, f)}, cfg.Remote...)
}

// packetSelector is one end of a packet.
func packetSelector(a netip.Addr, port uint16, f policy.Flow) policy.Selector {
	s := policy.AddrSelector(a)
	s.Protocol = f.Protocol
	if f.HasPorts && f.Protocol != protocolICMP && f.Protocol != protocolICMPv6 {
		s.StartPort, s.EndPort = port, port
	}
	return s
}

// Of these the "ports" are a type and a code, which an answer does not share.
const (
	protocolICMP   = 1
	protocolICMPv6 = 58
)

// replacing is the pair that replaces c; nil if there is none.
func (s *sa) replacing(c *child) *child {
	for _, n := range s.children {
		if c != nil && n.replaces == c {
			return n
		}
	}
	return nil
}

func (t *childTask) exchange(s *sa, method uint16) bool {
	begun, err := keys.NewInitiator(method, s.env.Rand)
	if err != nil {
		t.abandonLarval(s)
		t.failed(s, err)
		return false
	}
	t.begun, t.jobID = begun, s.env.NextJob()
	s.out.Jobs = append(s.out.Jobs, ike.Job{ID: t.jobID, Run: func() (any, error) { return begun.Offer() }})
	return true
}

func (t *childTask) job(s *sa, ev ike.JobDone) {
	if t.follow.job(s, ev) {
		return
	}
	if t.jobID == 0 || ev.ID != t.jobID {
		return
	}
	t.jobID = 0
	switch {
	case t.answer == nil && ev.Err != nil:
		t.abandonLarval(s)
		t.failed(s, ev.Err)
		s.finish()
	case t.answer == nil:
		t.offer = ev.Result.([]byte)
		t.send(s)
	case ev.Err != nil:
		t.bad(s, ev.Err)
	default:
		shared := ev.Result.(policy.Secret)
		t.goOn(s, t.answer, shared)
	}
}

// goOn does the additional key exchanges that the answer chose, and completes.
func (t *childTask) goOn(s *sa, m *message, shared policy.Secret) {
	sa, ok := wire.Find[*wire.SA](m.payloads, wire.PayloadSA)
	if !ok || len(sa.Proposals) != 1 {
		t.bad(s, errors.New("the peer's answer for the child is incomplete"))
		return
	}
	chosen := policyProposal(sa.Proposals[0])
	_, err := policy.Agreed(t.c.offered, chosen)
	if err == nil {
		t.follow, err = s.followUp(m, chosen, shared)
	}
	switch f := t.follow; {
	case err != nil:
		t.bad(s, err)
	case f == nil:
		t.complete(s, m, shared)
		shared.Wipe()
	default:
		f.refused = func(no *wire.Notify) { t.refused(s, no) }
		f.failed = func(err error) { t.bad(s, err) }
		f.finished = func(more []policy.Secret) { t.complete(s, m, shared, more...) }
		f.next(s)
	}
}

func (t *childTask) send(s *sa) {
	if t.rekeys != nil && s.peerReplaces(t.rekeys) {
		t.postpone(s)
		return
	}
	var payloads []wire.Payload
	if t.rekeys != nil {
		payloads = append(payloads, &wire.Notify{Protocol: wire.ProtocolESP, SPI: wire.SPI4(uint32(t.rekeys.inSPI)), Type: wire.NotifyRekeySA})
	}
	payloads = append(payloads, saPayload(t.c.offered, wire.SPI4(uint32(t.c.inSPI))), &wire.Nonce{Data: t.c.nonceI})
	if t.begun != nil {
		payloads = append(payloads, &wire.KE{Method: t.begun.Method(), Data: t.offer})
	}
	payloads = append(payloads, tsPayload(false, t.c.local), tsPayload(true, t.c.remote))
	payloads = append(payloads, t.mode...)
	t.sent = true
	s.sendRequest(wire.ExchangeCreateChildSA, 0, payloads...)
}

// overtaken: the peer rekeys the same child before our request left; ours is dropped.
func (t *childTask) overtaken(s *sa) {
	t.abandonLarval(s)
	t.jobID = 0
	s.reply(t.command, nil)
	s.finish()
}

func (t *childTask) response(s *sa, m *message) {
	if t.follow != nil {
		t.follow.response(s, m)
		return
	}
	if no := m.errorNotify(); no != nil {
		t.refused(s, no)
		return
	}
	nr, ok := wire.Find[*wire.Nonce](m.payloads, wire.PayloadNonce)
	if !ok {
		t.bad(s, errors.New("the peer's answer for the child has no nonce"))
		return
	}
	t.c.nonceR = nr.Data
	if t.begun == nil {
		t.goOn(s, m, policy.Secret{})
		return
	}
	kr, ok := wire.Find[*wire.KE](m.payloads, wire.PayloadKE)
	if !ok || kr.Method != t.begun.Method() {
		t.bad(s, errors.New("the peer's answer for the child lacks the key exchange"))
		return
	}
	t.answer, t.jobID = m, s.env.NextJob()
	begun, data := t.begun, kr.Data
	s.out.Jobs = append(s.out.Jobs, ike.Job{ID: t.jobID, Run: func() (any, error) { return begun.Finish(data) }})
}

func (t *childTask) complete(s *sa, m *message, shared policy.Secret, more ...policy.Secret) {
	if err := s.takeAnswer(t.c, m, shared, more...); err != nil {
		t.bad(s, err)
		return
	}
	if t.begun != nil && t.c.proposal.First(policy.TransformKE).ID != t.begun.Method() {
		t.bad(s, errors.New("the peer chose another key exchange than the one done"))
		return
	}
	t.c.rekeyed = t.rekeys
	loses := t.rival != nil && slices.Contains(s.children, t.rival)
	if t.rekeys != nil {
		loses = t.rival != nil && s.proto.loses(t.c.low(), t.rival.low())
	} else if loses {
		loses = s.redundant(t.c, t.rival)
	}
	// A pair that is to be deleted at once carries nothing: the peer may drop it long before we hear its answer.
	t.c.losing, t.c.standby = loses, loses
	s.changes[s.installed(t.c)] = t.c
	s.reply(t.command, nil)
	// What follows from a rekey leaves after the plane has accepted the pair.
	s.doing = nil
	s.resumeAt = s.now
	switch {
	case t.rekeys == nil:
		s.childUp(t.c)
		if loses {
			s.tasks = append(s.tasks, &deleteTask{child: t.c, reason: ike.ClosedReplaced})
		}
	case loses:
		// Both ends rekeyed, and ours has the lowest nonce: it goes; the peer deletes the old one.
		s.tasks = append(s.tasks, &deleteTask{child: t.c, reason: ike.ClosedReplaced})
	default:
		s.rekeyed(t.rekeys, t.c)
		if r := t.rival; r != nil && r.standby && slices.Contains(s.children, r) {
			// The peer deletes it, and may not even have it yet: its answer can be on its way.
			r.losing, r.replaces, r.lostTo = true, nil, t.c
		}
		if slices.Contains(s.children, t.rekeys) {
			t.rekeys.state = childReplaced
			s.tasks = append(s.tasks, &deleteTask{child: t.rekeys, reason: ike.ClosedReplaced})
		}
	}
}

func (s *sa) rekeyed(old, c *child) {
	s.out.Record(slog.LevelInfo, "child SA rekeyed", append(s.attrs(), slog.String("child", c.name), slog.String("old-spi-in", old.inSPI.String()),
		slog.String("spi-in", c.inSPI.String()), slog.String("spi-out", c.outSPI.String()), slog.String("ciphers", c.proposal.String()))...)
}

// refused acts on an error in the response (sections 1.3, 2.25).
func (t *childTask) refused(s *sa, no *wire.Notify) {
	switch {
	case no.Type == wire.NotifyInvalidKEPayload && len(no.Data) == 2 && t.begun != nil && t.follow == nil:
		want := binary.BigEndian.Uint16(no.Data)
		mine := slices.ContainsFunc(t.c.offered, func(p policy.Proposal) bool {
			return slices.Contains(p.Of(policy.TransformKE), policy.Transform{Type: policy.TransformKE, ID: want})
		})
		if mine && !slices.Contains(t.tried, want) && want != t.begun.Method() {
			t.tried = append(t.tried, t.begun.Method())
			t.begun.Wipe()
			t.sent = false
			t.exchange(s, want)
			return
		}
	case (no.Type == wire.NotifyTemporaryFailure || no.Type == wire.NotifyStateNotFound) && t.rekeys != nil:
		t.postpone(s)
		return
	case no.Type == wire.NotifyNoAdditionalSAs && t.rekeys != nil && t.rival == nil:
		t.rekeys.retryAt = s.now.Add(s.env.Limits.RetryMax)
		t.abandonLarval(s)
		s.replaceWhole(t.command)
		s.finish()
		return
	case no.Type == wire.NotifyTemporaryFailure && t.again < maxTemporary:
		// The IKE SA is being replaced or a child deleted: again, here or on the successor (section 2.25).
		t.abandonLarval(s)
		s.later = append(s.later, delayed{s.now.Add(s.env.Limits.TemporaryRetry + s.env.Jitter(s.env.Limits.TemporaryRetry)), &childTask{cfg: t.cfg, command: t.command, flow: t.flow, more: t.more, again: t.again + 1}})
		s.finish()
		return
	case no.Type == wire.NotifyChildSANotFound && t.rekeys != nil:
		// The peer has lost or deleted it (section 2.25.1).
		t.abandonLarval(s)
		s.removeChild(t.rekeys, ike.ClosedReplaced)
		if t.rival == nil {
			s.tasks = append(s.tasks, &childTask{cfg: t.cfg, command: t.command})
		} else {
			s.reply(t.command, nil) // the peer has rekeyed it
		}
		s.finish()
		return
	}
	err := childRefusal(no.Type, t.c)
	t.abandonLarval(s)
	t.failed(s, err)
	s.finish()
}

// postpone: the peer is busy with the same SA: again, unless its own rekey makes it unnecessary.
func (t *childTask) postpone(s *sa) {
	t.rekeys.retryAt = s.now.Add(s.env.Limits.TemporaryRetry + s.env.Jitter(s.env.Limits.TemporaryRetry))
	t.abandonLarval(s)
	s.reply(t.command, errors.New("the peer is busy: trying again"))
	s.finish()
}

// replaceWhole follows NO_ADDITIONAL_SAS in answer to a rekey: the peer has no room, or makes no SAs but by an initial
// exchange (sections 1.3 and 4). Then the IKE SA is replaced by another with all its children, and deleted.
func (s *sa) replaceWhole(id ike.CommandID) {
	s.out.Record(slog.LevelInfo, "the peer takes no further SAs: the IKE SA is negotiated anew", s.attrs()...)
	if id != 0 {
		s.out.Replies = append(s.out.Replies, ike.Reply{ID: id, Text: "the peer takes no further SAs: the tunnel is negotiated anew"})
	}
	s.out.Signal(ike.Signal{Kind: ike.SignalReauth})
}

// bad gives up on an authenticated answer that cannot be used. The peer believes in the pair, so it is deleted.
func (t *childTask) bad(s *sa, err error) {
	spi := t.c.inSPI
	t.abandonLarval(s)
	t.failed(s, err)
	s.tasks = append(s.tasks, &deleteTask{spi: spi})
	s.finish()
}

func (t *childTask) failed(s *sa, err error) {
	s.reply(t.command, err)
	if t.rekeys != nil {
		s.warn("child "+t.cfg.Name+" cannot be rekeyed", err)
		t.rekeys.retryAt = s.now.Add(s.env.Limits.RetryMax)
		return
	}
	s.warn("child SA "+t.cfg.Name+" does not come up", err)
	s.out.Signal(ike.Signal{Kind: ike.SignalChildFailed, Child: t.cfg.Name, Err: err})
}

func (t *childTask) abandonLarval(s *sa) {
	if t.c != nil {
		s.env.FreeSPI(policy.ProtocolESP, t.c.inSPI)
		t.c = nil
	}
	if t.begun != nil && t.jobID == 0 {
		t.begun.Wipe()
	}
	t.follow.wipe()
}

// abandon: the IKE SA ends first.
func (t *childTask) abandon(s *sa, err error) {
	if t.c != nil && t.c.state == childLarval {
		t.abandonLarval(s)
	}
	s.reply(t.command, err)
}

// retryChildren tries postponed rekeys again.
func (s *sa) retryChildren() {
	s.later = slices.DeleteFunc(s.later, func(d delayed) bool {
		if due(d.at, s.now) {
			s.tasks = append(s.tasks, d.t)
			s.resumeAt = s.now
			return true
		}
		return false
	})
	for _, c := range slices.Clone(s.children) {
		if due(c.retryAt, s.now) {
			c.retryAt = zeroTime
			if c.state == childUp {
				s.enqueue(&childTask{cfg: c.cfg, rekeys: c})
			}
		}
	}
}

// expire rekeys at the soft lifetime and removes at the hard one.
func (s *sa) expire(ev ike.Expire) {
	for _, c := range s.children {
		if c.in != ev.SA && c.outID != ev.SA {
			continue
		}
		if ev.Hard && !s.deleting(c) {
			s.enqueue(&deleteTask{child: c, reason: ike.ClosedExpired})
			return
		}
		if !ev.Hard {
			s.refresh(c)
		}
		return
	}
}

// refresh rekeys a child unless that is under way, or must wait.
func (s *sa) refresh(c *child) {
	if c.state == childUp && s.replacing(c) == nil && !s.rekeying(c) && c.retryAt.IsZero() && s.phase == phaseEstablished {
		s.enqueue(&childTask{cfg: c.cfg, rekeys: c})
	}
}

func (s *sa) rekeying(c *child) bool {
	return slices.ContainsFunc(append([]task{s.doing}, s.tasks...), func(t task) bool {
		ct, ok := t.(*childTask)
		return ok && ct.rekeys == c
	})
}

// served is a request of the peer that waits for a job.
type served struct {
	job     ike.JobID
	then    func(ike.JobDone)
	abandon func()
}

// childRequested opens a child for the peer.
func (s *sa) childRequested(m *message) { s.serveChild(m, nil) }

// childRekeyRequested rekeys a child for the peer.
func (s *sa) childRekeyRequested(m *message) {
	no := m.notify(wire.NotifyRekeySA)
	old := s.byOutSPI(policy.SPI(no.SPI.Value))
	if no.Protocol != wire.ProtocolESP || no.SPI.Size != 4 || old == nil {
		s.respond(0, &wire.Notify{Protocol: no.Protocol, SPI: no.SPI, Type: wire.NotifyChildSANotFound})
		return
	}
	crossing, ours := s.doing.(*childTask)
	if old.state != childUp || s.deleting(old) || s.replacing(old) != nil || ours && crossing.rekeys == old && crossing.sent && followed(crossing.cfg.ESP) {
		s.refuse(wire.NotifyTemporaryFailure, nil)
		return
	}
	s.serveChild(m, old)
}

func (s *sa) byOutSPI(spi policy.SPI) *child {
	for _, c := range s.children {
		if c.outSPI == spi && c.state != childLarval {
			return c
		}
	}
	return nil
}

func (s *sa) serveChild(m *message, old *child) {
	if s.env.Limits.InitialOnly {
		s.refuse(wire.NotifyNoAdditionalSAs, nil)
		return
	}
	if s.ikeBusy() {
		s.refuse(wire.NotifyTemporaryFailure, nil)
		return
	}
	sa, _ := wire.Find[*wire.SA](m.payloads, wire.PayloadSA)
	ni, _ := wire.Find[*wire.Nonce](m.payloads, wire.PayloadNonce)
	c, method, reject := s.selectChild(m, sa, old, false)
	if reject != nil {
		s.refused("the peer's child is refused", reject)
		s.refuse(reject.notify, nil)
		return
	}
	c.nonceI, c.nonceR = ni.Data, s.env.Bytes(nonceLen)
	if method == policy.KENone {
		s.serveDerived(c, old, policy.Secret{}, nil)
		return
	}
	ki, ok := wire.Find[*wire.KE](m.payloads, wire.PayloadKE)
	if !ok || ki.Method != method {
		s.env.FreeSPI(policy.ProtocolESP, c.inSPI)
		s.refuse(wire.NotifyInvalidKEPayload, binary.BigEndian.AppendUint16(nil, method))
		return
	}
	r, err := keys.NewResponder(method, s.env.Rand)
	if err != nil {
		s.env.FreeSPI(policy.ProtocolESP, c.inSPI)
		s.refuse(wire.NotifyNoProposalChosen, nil)
		return
	}
	offer := ki.Data
	sv := &served{job: s.env.NextJob(), abandon: func() { s.env.FreeSPI(policy.ProtocolESP, c.inSPI) }}
	sv.then = func(ev ike.JobDone) {
		if ev.Err != nil {
			s.env.FreeSPI(policy.ProtocolESP, c.inSPI)
			s.warn("the peer's key exchange fails", ev.Err)
			s.refuse(wire.NotifyInvalidSyntax, nil)
			return
		}
		ka := ev.Result.(keyAnswer)
		s.serveDerived(c, old, ka.shared, &wire.KE{Method: method, Data: ka.answer})
		ka.shared.Wipe()
	}
	s.serving = sv
	s.out.Jobs = append(s.out.Jobs, ike.Job{ID: sv.job, Run: func() (any, error) {
		defer r.Wipe()
		answer, shared, err := r.Answer(offer)
		return keyAnswer{answer, shared}, err
	}})
}

// serveDerived answers, and installs the peer's child unless additional key exchanges follow.
func (s *sa) serveDerived(c, old *child, shared policy.Secret, kr *wire.KE) {
	payloads := []wire.Payload{c.answer[0], &wire.Nonce{Data: c.nonceR}}
	if kr != nil {
		payloads = append(payloads, kr)
	}
	payloads = append(payloads, c.answer[1:]...)
	todo := c.proposal.AdditionalKeyExchanges()
	if len(todo) == 0 {
		s.serveInstalled(c, old, payloads, shared)
		return
	}
	u := &unfinished{old: old, todo: todo, abandon: func() { s.env.FreeSPI(policy.ProtocolESP, c.inSPI) }}
	u.finish = func(secrets []policy.Secret, kr *wire.KE) {
		if old != nil && (old.state != childUp || s.replacing(old) != nil) && slices.Contains(s.children, old) {
			s.env.FreeSPI(policy.ProtocolESP, c.inSPI)
			s.refuse(wire.NotifyTemporaryFailure, nil)
			return
		}
		s.serveInstalled(c, old, []wire.Payload{kr}, secrets[0], secrets[1:]...)
	}
	s.unfinish(u, shared, payloads...)
}

// serveInstalled installs the peer's child and answers.
func (s *sa) serveInstalled(c, old *child, answer []wire.Payload, shared policy.Secret, more ...policy.Secret) {
	if old != nil && !slices.Contains(s.children, old) {
		s.env.FreeSPI(policy.ProtocolESP, c.inSPI)
		s.refuse(wire.NotifyChildSANotFound, nil)
		return
	}
	c.standby, c.replaces, c.rekeyed = old != nil, old, old
	if err := s.deriveChild(c, shared, more...); err != nil {
		s.env.FreeSPI(policy.ProtocolESP, c.inSPI)
		s.warn("the peer's child is refused", err)
		s.refuse(wire.NotifyNoProposalChosen, nil)
		return
	}
	change := s.installed(c)
	s.changes[change] = c
	s.respond(change, answer...)
	if old == nil {
		s.childUp(c)
		s.openedByBoth(c)
		return
	}
	s.rekeyed(old, c)
	old.retryAt = zeroTime
	if t, ok := s.doing.(*childTask); ok && t.rekeys == old {
		if t.sent {
			t.rival = c
		} else {
			t.overtaken(s)
		}
	}
}

func (s *sa) deleting(c *child) bool {
	return slices.ContainsFunc(append([]task{s.doing}, s.tasks...), func(t task) bool {
		dt, ok := t.(*deleteTask)
		return ok && dt.child == c
	})
}

func (s *sa) isUp(name string) bool {
	return slices.ContainsFunc(s.children, func(c *child) bool { return c.name == name && c.state == childUp })
}

// openedByBoth: the peer opened a child that we are opening too, or have just opened.
func (s *sa) openedByBoth(c *child) {
	if t, ok := s.doing.(*childTask); ok && t.rekeys == nil && t.cfg.Name == c.name && !t.more {
		if t.sent {
			t.rival = c
		} else {
			t.overtaken(s)
		}
		return
	}
	for _, x := range s.children {
		if x != c && x.initiator && x.rekeyed == nil && x.state == childUp && s.now.Sub(x.since) < s.env.Limits.HalfOpenLife && s.redundant(x, c) {
			s.enqueue(&deleteTask{child: x, reason: ike.ClosedReplaced})
			return
		}
	}
}

// redundant says whether our child gives way to the peer's, which is the same.
func (s *sa) redundant(mine, theirs *child) bool {
	return s.peerIsCoati && mine.name == theirs.name && slices.Equal(mine.local, theirs.local) && slices.Equal(mine.remote, theirs.remote) &&
		s.proto.loses(mine.low(), theirs.low())
}
