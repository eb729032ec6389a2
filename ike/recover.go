package ike

import (
	"time"

	"coati/policy"
)

// What follows the end of an SA, and what comes before it: authentication anew.

// childDown opens a child again that we did not close, if that is wanted. If the peer closed it there is a pause, so that
// two gateways do not fight over one child.
func (t *tunnel) childDown(e *Engine, now time.Time, s Signal) {
	act := t.cfg.OnClose
	if s.Reason == ClosedExpired {
		act = policy.LossByStart
	}
	restart := act == policy.LossRestart || act == policy.LossByStart && t.cfg.Start == policy.StartNow
	if !restart || s.Reason == ClosedByUs || s.Reason == ClosedReplaced || e.leaving || t.anyPeer() || t.hasChild(s.Child) {
		return
	}
	t.want(s.Child)
	at := now
	if s.Reason == ClosedByPeer {
		at = now.Add(t.pause(e, 1))
	}
	e.schedule(&t.slot, Earlier(at, t.slot.deadline))
}

// lost acts on the end of the last SA, which we did not end (see policy.LossAction). Who ends again and again soon after
// it began is given a longer pause each time.
func (t *tunnel) lost(e *Engine, now time.Time, en *entry, why CloseReason, err error, out *Out) error {
	act := t.cfg.OnDead
	if why == ClosedByPeer {
		act = t.cfg.OnClose
	}
	if act == policy.LossByStart {
		act = policy.LossTrap
		if t.cfg.Start == policy.StartNow {
			act = policy.LossRestart
		}
	}
	if now.Sub(en.up) < e.env.Limits.RetryMax {
		t.flaps++
	} else {
		t.flaps = 0
	}
	if act == policy.LossRestart {
		t.restarting = true
		t.wantAll()
		if why == ClosedByPeer || t.flaps > 0 {
			e.schedule(&t.slot, now.Add(t.pause(e, t.flaps)))
			return nil
		}
		return t.start(e, now, out)
	}
	t.cleared = act == policy.LossClear
	if len(t.wanted) == 0 {
		return nil
	}
	return t.failed(e, now, err, out)
}

// renew begins a negotiation beside a good SA, with all its children (make before break).
func (t *tunnel) renew(e *Engine, now time.Time, en *entry, out *Out) error {
	if t.begun != nil || t.asking != 0 || t.renewing != nil || !t.mayBegin(en) || e.leaving || en != t.live() {
		return nil // the SA asks again
	}
	t.renewing = en
	for _, c := range en.sa.Info().Children {
		t.want(c.Name)
	}
	if len(t.wanted) == 0 {
		t.wantAll()
	}
	return t.start(e, now, out)
}

// renewed closes the old SA once all its children are on the new one, or were refused there.
func (t *tunnel) renewed(e *Engine, now time.Time, out *Out) error {
	if t.renewing == nil || t.begun != nil || t.asking != 0 || len(t.wanted) > 0 {
		return nil
	}
	old := t.renewing
	t.renewing = nil
	if err := t.moved(e, now, old, out); err != nil {
		return err
	}
	return e.run(now, old, Close{Reason: ClosedReplaced}, out)
}
