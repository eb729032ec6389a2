package v2

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"coati/ike"
	"coati/ike/wire"
	"coati/policy"
)

// How an IKE SA ends: on our order, by the peer, by silence; and what stays for a while.

// close ends the SA on the engine's order.
func (s *sa) close(ev ike.Close) {
	switch {
	case ev.Quiet:
		s.end(ev.Reason, nil)
		return
	case s.closing || s.phase == phaseDeleting:
		return
	}
	s.reason, s.closing = ev.Reason, true
	// The peer's window may be one: the delete follows the answer to the request under way. Neither is waited for long.
	s.lingerUntil = s.now.Add(s.env.Limits.DeleteGrace)
	switch {
	case s.phase == phaseEstablished:
		s.closeNext()
		s.advance()
	case s.phase == phaseAuthSent || (s.phase == phaseAuthCheck || s.phase == phaseEAPAuth) && s.initiator:
		// The peer may have established it already: the answer is waited for, then the SA deleted.
	default:
		s.end(ev.Reason, nil)
	}
}

// closeNext makes the delete the next task, and gives up all others.
func (s *sa) closeNext() {
	gone := s.tasks
	for _, d := range s.later {
		gone = append(gone, d.t)
	}
	s.tasks, s.later = []task{&deleteIKETask{}}, nil
	for _, t := range gone {
		if a, ok := t.(interface{ abandon(*sa, error) }); ok {
			a.abandon(s, errClosed)
		}
	}
}

var errClosed = errors.New("the IKE SA was closed")

// fail ends the SA because of err.
func (s *sa) fail(err error, reason ike.CloseReason) { s.end(reason, err) }

// unanswered ends the SA after the last repetition of a request.
func (s *sa) unanswered() {
	switch {
	case s.phase == phaseDeleting:
		s.end(s.reason, nil)
	case s.refusal != nil:
		s.end(ike.ClosedFailed, s.refusal)
	case s.phase == phaseInitSent || s.phase == phaseAuthSent || s.phase == phaseEAP || s.phase == phaseEAPAuth:
		s.end(ike.ClosedFailed, s.silence())
	default:
		s.end(ike.ClosedDead, fmt.Errorf("no answer from %s to %d requests", s.path.Remote, s.pending.tries+1))
	}
}

// silence says how often we asked for what, on which path, and what came back instead.
func (s *sa) silence() error {
	return fmt.Errorf("no answer from %s: asked %d times for %s from %s, %s; is the peer running, and does a firewall pass UDP %d",
		s.path.Remote, s.pending.tries+1, s.pending.exchange, s.path.Local, s.icmpSaid(), s.path.Remote.Port())
}

// drain ends the SA as the peer knows it. For a while inbound SAs take the packets on their way, and the answer to the
// peer's latest request is repeated, should it have been lost.
func (s *sa) drain(reason ike.CloseReason) {
	if s.phase >= phaseDraining {
		return
	}
	s.phase = phaseDraining
	s.forgetFragments()
	var tx policy.Tx
	until := s.now.Add(s.env.Limits.DeleteGrace)
	for _, c := range s.children {
		if c.state == childLarval {
			s.env.FreeSPI(policy.ProtocolESP, c.inSPI)
			continue
		}
		tx.DeleteSAs = append(tx.DeleteSAs, c.outID)
		s.reaps = append(s.reaps, reap{c.in, until})
	}
	s.children = nil
	s.change(tx)
	s.abandonTasks(nil)
	s.pending = nil
	s.keys.Wipe()
	s.halfOpenUntil, s.keepaliveAt, s.rekeyAt, s.expireAt, s.reauthAt, s.resumeAt = zeroTime, zeroTime, zeroTime, zeroTime, zeroTime, zeroTime
	s.lingerUntil = until
	s.out.Record(slog.LevelInfo, "IKE SA closed", append(s.attrs(), slog.String("reason", reason.String()))...)
	s.out.Signal(ike.Signal{Kind: ike.SignalClosed, Reason: reason, Draining: true})
}

// drained serves what remains of a closed SA.
func (s *sa) drained(ev ike.Event) {
	switch ev := ev.(type) {
	case ike.Datagram:
		if w, err := wire.Parse(slices.Clone(ev.Bytes)); err == nil && s.mine(&w.Header) && w.Flags&wire.FlagResponse == 0 {
			if s.repeated(w, ev.Path) {
				s.answerAt = zeroTime
			}
		}
	case ike.Timer:
		s.reap()
		if due(s.answerAt, s.now) {
			s.answer()
		}
		if due(s.lingerUntil, s.now) {
			s.gone()
		}
	case ike.Close:
		s.answer()
		s.gone()
	}
}

// gone is the end of what drained.
func (s *sa) gone() {
	s.phase = phaseClosed
	var tx policy.Tx
	for _, r := range s.reaps {
		tx.DeleteSAs = append(tx.DeleteSAs, r.id)
	}
	s.reaps = nil
	s.change(tx)
	s.out.Signal(ike.Signal{Kind: ike.SignalClosed, Reason: s.reason})
}

// end leaves nothing behind: SAs, SPIs, keys. The engine hears of it.
func (s *sa) end(reason ike.CloseReason, err error) {
	if s.phase >= phaseDraining {
		return
	}
	established := !s.establishedAt.IsZero()
	s.forgetFragments()
	s.phase = phaseClosed
	var tx policy.Tx
	for _, c := range s.children {
		if c.state == childLarval {
			s.env.FreeSPI(policy.ProtocolESP, c.inSPI)
			continue
		}
		tx.DeleteSAs = append(tx.DeleteSAs, c.in, c.outID)
	}
	for _, r := range s.reaps {
		tx.DeleteSAs = append(tx.DeleteSAs, r.id)
	}
	s.children, s.reaps = nil, nil
	s.change(tx)
	s.abandonTasks(err)
	s.pending = nil
	s.dropBranches()
	s.closeEAP()
	s.start.wipe()
	s.keys.Wipe()
	if established || err != nil && s.proto.may(s.env, s.now) {
		level, attrs, why := slog.LevelInfo, s.attrs(), reason.String()
		if err != nil {
			level, attrs, why = slog.LevelWarn, append(attrs, slog.String("end", why)), err.Error()
		}
		s.out.Record(level, "IKE SA closed", append(attrs, slog.String("reason", why))...)
	}
	s.out.Signal(ike.Signal{Kind: ike.SignalClosed, Reason: reason, Err: err})
}

// abandonTasks gives back what tasks hold.
func (s *sa) abandonTasks(err error) {
	if err == nil {
		err = errClosed
	}
	all := append([]task{s.doing}, s.tasks...)
	for _, d := range s.later {
		all = append(all, d.t)
	}
	for _, t := range all {
		if a, ok := t.(interface{ abandon(*sa, error) }); ok {
			a.abandon(s, err)
		}
	}
	s.dropUnfinished()
	if s.serving != nil && s.serving.abandon != nil {
		s.serving.abandon()
	}
	s.doing, s.tasks, s.serving, s.later = nil, nil, nil, nil
}
