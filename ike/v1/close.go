package v1

import (
	"log/slog"

	"coati/ike"
	"coati/ike/wire"
	"coati/policy"
)

// How an ISAKMP SA ends. Its pairs of SAs stay if the peer has another one.

// close ends the SA on the engine's order.
func (s *sa) close(ev ike.Close) {
	switch {
	case ev.Quiet || s.state != stateEstablished:
		s.end(ev.Reason, nil)
	case ev.Reason == ike.ClosedReplaced:
		// The peer may not know its successor yet: the message that tells it can be on its way, or lost.
		if s.closeAt.IsZero() {
			s.closeAt = s.now.Add(2 * s.env.Limits.RetransmitFirst)
			s.yield()
		}
	default:
		s.finish(ev.Reason, nil)
	}
}

// finish ends an established SA and tells the peer, unless it was the peer that ended it. Nobody answers, so it is told more
// than once.
func (s *sa) finish(reason ike.CloseReason, err error) {
	if s.state != stateEstablished {
		s.end(reason, err)
		return
	}
	if reason != ike.ClosedByPeer && reason != ike.ClosedDead {
		if len(s.peer.sas) <= 1 {
			for _, c := range s.peer.children {
				s.sayDelete(wire.ProtocolESP, spiOctets(c.inSPI))
			}
		}
		s.sayDelete(wire.ProtocolV1ISAKMP, s.cookies())
	}
	s.end(reason, err)
}

// end leaves nothing behind but farewells.
func (s *sa) end(reason ike.CloseReason, err error) {
	if s.state >= stateDraining {
		return
	}
	established := !s.establishedAt.IsZero()
	s.reason = reason
	for _, x := range s.inOrder() {
		if x.pair != nil && x.pair.task != nil {
			s.reply(x.pair.task.command, orClosed(err))
		}
		s.forget(x)
	}
	for _, t := range s.tasks {
		s.reply(t.command, orClosed(err))
	}
	s.tasks, s.doing = nil, nil
	last := s.leave()
	orphans := last && reason == ike.ClosedByPeer && len(s.peer.children) > 0
	switch {
	case orphans:
		s.proto.peers[s.peerKey()] = s.peer
	case last:
		s.dropAll()
		// Nobody else is left to say what the peer must know of its pairs.
		s.farewells = append(s.farewells, s.peer.farewells...)
		s.peer = &peer{}
	default:
		s.peer = &peer{}
	}
	if b := s.start.begun; b != nil && len(s.jobs) == 0 {
		b.Wipe()
	}
	s.start.wipe(nil)
	clear(s.jobs)
	s.p1.next = zeroTime
	s.halfOpenUntil, s.keepaliveAt, s.rekeyAt, s.expireAt, s.reauthAt, s.resumeAt, s.closeAt = zeroTime, zeroTime, zeroTime, zeroTime, zeroTime, zeroTime, zeroTime
	if established || err != nil && s.proto.may(s.env, s.now) {
		level, attrs, why := slog.LevelInfo, s.attrs(), reason.String()
		if err != nil {
			level, attrs, why = slog.LevelWarn, append(attrs, slog.String("end", why)), err.Error()
		}
		s.out.Record(level, "IKE SA closed", append(attrs, slog.String("reason", why))...)
	}
	s.state = stateDraining
	if len(s.farewells) == 0 && !orphans {
		s.gone(err)
		return
	}
	s.lingerUntil = s.now.Add(s.env.Limits.DeleteGrace)
	if orphans {
		// The peer ended the ISAKMP SA and not its pairs: each end may have closed the one that the other wanted to keep. Another
		// ISAKMP SA can take them over for a while.
		s.lingerUntil = s.now.Add(s.env.Limits.HalfOpenLife)
	}
	s.out.Signal(ike.Signal{Kind: ike.SignalClosed, Reason: reason, Err: err, Draining: true})
}

func orClosed(err error) error {
	if err == nil {
		return errClosed
	}
	return err
}

// dropAll deletes the pairs of a peer that is gone.
func (s *sa) dropAll() {
	var tx policy.Tx
	for _, c := range s.peer.children {
		tx.DeleteSAs = append(tx.DeleteSAs, c.in, c.outID)
	}
	for _, r := range s.peer.reaps {
		tx.DeleteSAs = append(tx.DeleteSAs, r.id)
	}
	s.peer.children, s.peer.reaps = nil, nil
	s.change(tx)
}

// drained says farewell again, until it is over, and keeps what pairs were left until another ISAKMP SA takes them.
func (s *sa) drained(ev ike.Event) {
	switch ev := ev.(type) {
	case ike.Timer:
		s.farewells = s.again(s.farewells, func(p wire.Payload) { s.inform(p) })
		if len(s.farewells) == 0 && len(s.peer.children) == 0 || len(s.peer.sas) > 0 || due(s.lingerUntil, s.now) {
			s.gone(nil)
		}
	case ike.Expire:
		if ev.Hard {
			s.gone(nil)
		}
	case ike.Close:
		s.gone(nil)
	}
}

func (s *sa) gone(err error) {
	if len(s.peer.sas) == 0 {
		if s.tunnel != nil && s.proto.peers[s.peerKey()] == s.peer {
			delete(s.proto.peers, s.peerKey())
		}
		s.dropAll()
	}
	s.state, s.farewells = stateClosed, nil
	s.keys.Wipe()
	s.out.Signal(ike.Signal{Kind: ike.SignalClosed, Reason: s.reason, Err: err})
}
