package ike

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"coati/policy"
)

// What people and packets want of a tunnel, and how they get their answers.

// waitingPackets wait at the plane for a child; flow is that of the first.
type waitingPackets struct {
	policy policy.PolicyID
	flow   policy.Flow
}

// waiter is a command that has not been answered.
type waiter struct {
	id    CommandID
	verb  Verb
	child string // empty: all
}

func (t *tunnel) failAcquires(e *Engine, out *Out) {
	var tx policy.Tx
	for _, c := range t.cfg.Children {
		if w, ok := t.acquired[c.Name]; ok {
			tx.FailAcquires = append(tx.FailAcquires, w.policy)
			delete(t.acquired, c.Name)
		}
	}
	if !tx.Empty() {
		out.Changes = append(out.Changes, Change{e.env.NextChange(), tx})
	}
}

func (t *tunnel) failWaiters(out *Out, err error) {
	for _, w := range t.waiters {
		out.Replies = append(out.Replies, Reply{ID: w.id, Err: err})
	}
	t.waiters = nil
}

// satisfy answers the commands that have what they wanted.
func (t *tunnel) satisfy(out *Out) {
	t.waiters = slices.DeleteFunc(t.waiters, func(w waiter) bool {
		done := false
		switch w.verb {
		case Up:
			done = t.isUp(w.child)
		case Down:
			done = w.child == "" && len(t.entries) == 0 || w.child != "" && !t.hasChild(w.child)
		}
		if done {
			out.Replies = append(out.Replies, Reply{ID: w.id, After: latestChange(out)})
		}
		return done
	})
}

// latestChange is the change a success of this moment rests on.
func latestChange(out *Out) ChangeID {
	if n := len(out.Changes); n > 0 {
		return out.Changes[n-1].ID
	}
	return 0
}

func (t *tunnel) isUp(child string) bool {
	if child != "" {
		return t.hasChild(child)
	}
	for i := range t.cfg.Children {
		if !t.hasChild(t.cfg.Children[i].Name) {
			return false
		}
	}
	return true
}

func (e *Engine) acquire(now time.Time, ev Acquire, out *Out) error {
	ref, ok := e.byPolicy[ev.Policy]
	if !ok {
		return nil
	}
	t := e.tunnels[ref.tunnel]
	t.acquired[ref.child] = waitingPackets{ev.Policy, ev.Flow}
	if t.live() == nil && (t.cfg.Start == policy.StartListen || t.cleared || t.anyPeer()) {
		// Nobody here may begin: what waits is answered at once.
		t.failAcquires(e, out)
		return nil
	}
	out.Record(slog.LevelInfo, "traffic asks for a tunnel", slog.String("tunnel", ref.tunnel), slog.String("child", ref.child), slog.String("packet", ev.Flow.String()))
	t.want(ref.child)
	if en := t.live(); t.renewing != nil && en != nil {
		return e.run(now, en, Command{Verb: Up, Tunnel: ref.tunnel, Child: ref.child, Flow: ev.Flow}, out)
	}
	if t.begun != nil {
		return e.run(now, t.begun, Command{Verb: Up, Tunnel: ref.tunnel, Child: ref.child, Flow: ev.Flow}, out)
	}
	return t.start(e, now, out)
}

// ErrUnknownTunnel: no tunnel or child of that name is configured.
var ErrUnknownTunnel = errors.New("no such tunnel")

func (e *Engine) command(now time.Time, ev Command, out *Out) error {
	t := e.tunnels[ev.Tunnel]
	refuse := func(err error) error {
		out.Replies = append(out.Replies, Reply{ID: ev.ID, Err: err})
		return nil
	}
	if t == nil {
		return refuse(fmt.Errorf("%w: %q is not configured", ErrUnknownTunnel, ev.Tunnel))
	}
	if ev.Child != "" && !slices.ContainsFunc(t.cfg.Children, func(c policy.Child) bool { return c.Name == ev.Child }) {
		return refuse(fmt.Errorf("%w: tunnel %s has no child %q", ErrUnknownTunnel, ev.Tunnel, ev.Child))
	}
	switch ev.Verb {
	case Up:
		return t.up(e, now, ev, out)
	case Down:
		return t.down(e, now, ev, out)
	case Rekey:
		return t.rekey(e, now, ev, out)
	}
	return refuse(fmt.Errorf("unknown command"))
}

// rekey asks the live SA; of a tunnel for any peer all of them, the first of which answers the command.
func (t *tunnel) rekey(e *Engine, now time.Time, ev Command, out *Out) error {
	do := []*entry{t.live()}
	if t.anyPeer() {
		do = slices.DeleteFunc(slices.Clone(t.entries), func(en *entry) bool { return en.sa.Brief().State != Established })
	}
	if len(do) == 0 || do[0] == nil {
		out.Replies = append(out.Replies, Reply{ID: ev.ID, Err: fmt.Errorf("tunnel %s is not up", ev.Tunnel)})
		return nil
	}
	for _, en := range do {
		if err := e.run(now, en, ev, out); err != nil {
			return err
		}
		ev.ID = 0
	}
	return nil
}

func (t *tunnel) up(e *Engine, now time.Time, ev Command, out *Out) error {
	t.cleared = false
	t.waiters = append(t.waiters, waiter{ev.ID, Up, ev.Child})
	if t.isUp(ev.Child) {
		t.satisfy(out)
		return nil
	}
	if ev.Child != "" {
		t.want(ev.Child)
	} else {
		for i := range t.cfg.Children {
			if !t.hasChild(t.cfg.Children[i].Name) {
				t.want(t.cfg.Children[i].Name)
			}
		}
	}
	if t.begun != nil {
		for _, c := range slices.Clone(t.wanted) {
			if err := e.run(now, t.begun, Command{Verb: Up, Tunnel: ev.Tunnel, Child: c}, out); err != nil {
				return err
			}
		}
		return nil
	}
	return t.start(e, now, out)
}

func (t *tunnel) down(e *Engine, now time.Time, ev Command, out *Out) error {
	if ev.Child == "" {
		t.failWaitersUp(out, errors.New("taken down"))
	}
	t.waiters = append(t.waiters, waiter{ev.ID, Down, ev.Child})
	if ev.Child == "" {
		t.wanted = t.wanted[:0]
		t.renewing, t.restarting, t.moving = nil, false, netip.Addr{}
		e.schedule(&t.slot, time.Time{})
		if t.asking != 0 {
			delete(e.askOwner, t.asking)
			t.asking = 0
		}
		t.failAcquires(e, out)
	}
	for _, en := range slices.Clone(t.entries) {
		var do Event = ev
		if ev.Child == "" {
			do = Close{Reason: ClosedByUs}
		}
		if err := e.run(now, en, do, out); err != nil {
			return err
		}
	}
	t.satisfy(out)
	return nil
}

func (t *tunnel) failWaitersUp(out *Out, err error) {
	t.waiters = slices.DeleteFunc(t.waiters, func(w waiter) bool {
		if w.verb == Up {
			out.Replies = append(out.Replies, Reply{ID: w.id, Err: err})
		}
		return w.verb == Up
	})
}
