package ike

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"coati/policy"
)

// What machines tell about themselves, and what it means for their tunnel.

// signal acts on what a machine told about itself, in the event whose outcome began at m.
func (e *Engine) signal(now time.Time, en *entry, m mark, s Signal, out *Out) error {
	t := e.tunnels[en.tunnel]
	switch s.Kind {
	case SignalMoved:
		to := e.entries[s.Successor.LocalSPI()]
		if to == nil {
			return nil
		}
		for _, id := range s.SAs {
			e.saOwner[id] = to
		}
		e.schedule(&to.slot, to.sa.Deadline())
		return nil
	case SignalSuccessor:
		next := e.add(s.Successor, now)
		next.born, next.up, next.orphan = en.born, en.up, en.orphan
		if t != nil && t.renewing == en {
			t.renewing = next
		}
		for _, id := range s.SAs {
			e.saOwner[id] = next
		}
		if err := e.after(now, next, markOf(out), out); err != nil {
			return err
		}
		e.known(next)
		if next.orphan {
			return e.run(now, next, Close{Reason: ClosedByUs}, out)
		}
		if t := e.tunnels[next.tunnel]; t != nil {
			// The SA it replaces could not be compared while it was being replaced.
			return t.onlyOne(e, now, next, false, out)
		}
		return nil
	case SignalClosed:
		begun, before, peer := t != nil && t.begun == en, en.drains, en.peer
		if s.Draining {
			en.drains = true
			e.draining++
			e.forget(en)
		} else {
			e.remove(en)
		}
		if t == nil || before {
			return nil
		}
		if err := e.takeOver(now, peer, m, out); err != nil {
			return err
		}
		return t.closed(e, now, en, begun, s, out)
	}
	if t == nil {
		return nil
	}
	switch s.Kind {
	case SignalEstablished:
		t.begunDone(en)
		en.up = now
		if b := t.begun; b != nil && t.renewing == nil && !t.anyPeer() && b.sa.Brief().PeerSPI == 0 {
			// The peer came first, and has not answered us: one is enough.
			if err := e.run(now, b, Close{Quiet: true, Reason: ClosedReplaced}, out); err != nil {
				return err
			}
		}
		e.known(en)
		t.failures, t.lastErr, t.cleared, t.restarting = 0, nil, false, false
		if t.refusals == 0 {
			e.schedule(&t.slot, time.Time{})
		}
		if err := t.onlyOne(e, now, en, s.InitialContact, out); err != nil {
			return err
		}
	case SignalChildUp:
		t.wanted = slices.DeleteFunc(t.wanted, func(c string) bool { return c == s.Child })
		delete(t.acquired, s.Child)
		t.refusals = 0
		if t.refused.Peer.Addr() == en.sa.Brief().Path.Remote.Addr() && t.isUp("") {
			t.refused = Refusal{}
		}
		t.satisfy(out)
		return t.renewed(e, now, out)
	case SignalChildFailed:
		t.childFailed(e, now, s, out)
		return t.renewed(e, now, out)
	case SignalChildDown:
		t.satisfy(out)
		t.childDown(e, now, s)
	case SignalReauth:
		return t.renew(e, now, en, out)
	}
	return nil
}

func (t *tunnel) begunDone(en *entry) {
	if t.begun == en {
		t.begun = nil
	}
}

func (t *tunnel) childFailed(e *Engine, now time.Time, s Signal, out *Out) {
	t.lastErr = s.Err
	t.wanted = slices.DeleteFunc(t.wanted, func(c string) bool { return c == s.Child })
	t.waiters = slices.DeleteFunc(t.waiters, func(w waiter) bool {
		hit := w.verb == Up && (w.child == s.Child || w.child == "")
		if hit {
			out.Replies = append(out.Replies, Reply{ID: w.id, Err: s.Err})
		}
		return hit
	})
	if w, ok := t.acquired[s.Child]; ok {
		delete(t.acquired, s.Child)
		out.Changes = append(out.Changes, Change{e.env.NextChange(), policy.Tx{FailAcquires: []policy.PolicyID{w.policy}}})
	}
	if t.cfg.Start == policy.StartNow && t.renewing == nil && !e.leaving {
		t.want(s.Child)
		t.refusals++
		e.schedule(&t.slot, now.Add(t.pause(e, t.refusals)))
	}
}

// closed decides what follows the end of an IKE SA.
func (t *tunnel) closed(e *Engine, now time.Time, en *entry, begun bool, s Signal, out *Out) error {
	defer t.satisfy(out)
	if t.renewing == en {
		t.renewing, t.moving = nil, netip.Addr{}
	}
	if t.live() == nil {
		t.noPath = ""
	}
	err := s.Err
	if err == nil {
		err = errors.New(s.Reason.String())
	}
	if begun {
		if t.renewing != nil {
			return t.failed(e, now, err, out)
		}
		if t.live() != nil {
			// The peer's own negotiation came through meanwhile; what is still wanted goes there.
			return t.start(e, now, out)
		}
		if s.Reason == ClosedByUs {
			t.failWaitersUp(out, errors.New("taken down"))
			t.failAcquires(e, out)
			return nil
		}
		return t.failed(e, now, err, out)
	}
	if s.Err != nil && !en.up.IsZero() {
		t.lastErr = s.Err
	}
	if e.leaving || en.up.IsZero() || s.Reason == ClosedByUs || s.Reason == ClosedReplaced || t.anyPeer() || t.live() != nil {
		if len(t.wanted) > 0 && t.slot.index < 0 {
			return t.start(e, now, out)
		}
		return nil
	}
	return t.lost(e, now, en, s.Reason, err, out)
}
