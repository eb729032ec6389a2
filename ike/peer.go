package ike

import (
	"bytes"
	"slices"
	"time"

	"coati/policy"
)

// What one peer may have: one IKE SA, or a few.

// onlyOne keeps one IKE SA per peer. A peer that says INITIAL_CONTACT has forgotten what was there before it began. When
// both ends began at once, two Coatis close the SA with the lowest of the four nonces, by its creator, as RFC 7296,
// section 2.8.1 does it for rekeys; with other peers both stay until one is idle.
func (t *tunnel) onlyOne(e *Engine, now time.Time, en *entry, initialContact bool, out *Out) error {
	info := en.sa.Brief()
	others := false
	for _, other := range slices.Clone(e.byPeer[en.peer]) {
		o := other.sa.Brief()
		if other == en || en.gone || other.gone || o.State != Established || en.sa.Brief().State != Established {
			continue
		}
		if other == t.renewing && info.Initiator {
			continue // it goes when its children are up on this one
		}
		var err error
		switch {
		case initialContact && !info.Initiator && t.cfg.Unique != policy.UniqueNever && !other.up.After(en.born):
			err = e.run(now, other, Close{Quiet: true, Reason: ClosedReplaced}, out)
		case t.cfg.Unique == policy.UniqueReplace && !info.Renews && !other.up.After(en.born):
			err = e.run(now, other, Close{Reason: ClosedReplaced}, out)
		case info.PeerIsCoati && info.Initiator != o.Initiator && e.crossed(en, other, info, o):
			loser, li := en, info
			if bytes.Compare(o.LowNonce, info.LowNonce) < 0 {
				loser, li = other, o
			}
			if li.Initiator {
				err = e.run(now, loser, Close{Reason: ClosedReplaced}, out)
			}
		default:
			others = others || t.cfg.Unique != policy.UniqueNever
		}
		if err != nil {
			return err
		}
	}
	if others && t.dup.index < 0 {
		e.schedule(&t.dup, now.Add(e.env.Limits.IdleDuplicate))
	}
	return t.notTooMany(e, now, en, out)
}

// crossed says whether two SAs compete. One that renews another competes only with one of its own time that does too.
func (e *Engine) crossed(a, b *entry, ai, bi Info) bool {
	return ai.Renews == bi.Renews && (!ai.Renews || a.up.Sub(b.up).Abs() < e.env.Limits.HalfOpenLife)
}

// notTooMany bounds what one identity may have: the oldest is deleted, and those whose deletion is not answered are
// forgotten beyond as many again.
func (t *tunnel) notTooMany(e *Engine, now time.Time, en *entry, out *Out) error {
	var live, closing []*entry
	for _, x := range e.byPeer[en.peer] {
		if x.sa.Brief().State == Established {
			live = append(live, x)
		} else {
			closing = append(closing, x)
		}
	}
	limit := e.env.Limits.SAsPerPeer
	if len(live) > limit {
		if err := e.run(now, live[0], Close{Reason: ClosedReplaced}, out); err != nil {
			return err
		}
	}
	if len(closing) > limit {
		return e.run(now, closing[0], Close{Quiet: true, Reason: ClosedReplaced}, out)
	}
	return nil
}

// pruneIdle deletes what we began and nobody uses, beside another SA with the same peer that has the same children.
func (t *tunnel) pruneIdle(e *Engine, now time.Time, out *Out) error {
	again := false
	for _, en := range slices.Clone(t.entries) {
		info := en.sa.Info()
		if en.gone || info.State != Established || !e.peerHas(t.cfg.Name, info.RemoteID, en.sa) {
			continue
		}
		again = true
		if !info.Initiator || en == t.renewing || !e.idle(now, info) || !t.covered(e, en, info) {
			continue
		}
		if err := e.run(now, en, Close{Reason: ClosedReplaced}, out); err != nil {
			return err
		}
	}
	if again {
		e.schedule(&t.dup, now.Add(e.env.Limits.IdleDuplicate))
	}
	return nil
}

func (e *Engine) idle(now time.Time, info Info) bool {
	since := now.Add(-e.env.Limits.IdleDuplicate)
	for _, c := range info.Children {
		in, err1 := e.env.SAState(c.In)
		o, err2 := e.env.SAState(c.Out)
		if err1 == nil && in.LastAuthenticated.After(since) || err2 == nil && o.LastUsed.After(since) || c.EstablishedAt.After(since) {
			return false
		}
	}
	return true
}

// covered says whether another SA with the same peer has all children of this one.
func (t *tunnel) covered(e *Engine, en *entry, info Info) bool {
	return slices.ContainsFunc(e.byPeer[en.peer], func(other *entry) bool {
		o := other.sa.Info()
		return other != en && o.State == Established && !slices.ContainsFunc(info.Children, func(c ChildInfo) bool {
			return !slices.ContainsFunc(o.Children, func(d ChildInfo) bool { return d.Name == c.Name })
		})
	})
}

// takeOver follows the end of one of a peer's IKE SAs, whose changes are in out since m. Children that another one has on
// standby carry the traffic from now on, if nothing else does: those of the youngest, and before the old pair goes, so that
// no packet finds none.
func (e *Engine) takeOver(now time.Time, peer string, m mark, out *Out) error {
	rest := e.byPeer[peer]
	if len(rest) == 0 {
		return nil
	}
	first := len(out.Changes)
	var carried []ChildInfo
	var ready []*entry
	for _, en := range rest {
		ready = append(ready, en)
		for _, c := range en.sa.Info().Children {
			if !c.Standby {
				carried = append(carried, c)
			}
		}
	}
	slices.SortStableFunc(ready, func(a, b *entry) int { return b.up.Compare(a.up) })
	for _, en := range ready {
		for _, c := range en.sa.Info().Children {
			if !c.Standby || slices.ContainsFunc(carried, c.sameTraffic) {
				continue
			}
			carried = append(carried, c)
			if err := e.run(now, en, Activate{c.In}, out); err != nil {
				return err
			}
		}
	}
	added := slices.Clone(out.Changes[first:])
	out.Changes = slices.Insert(out.Changes[:first], m.changes, added...)
	return nil
}

// sameTraffic says whether two pairs are of one child and carry the same packets.
func (c ChildInfo) sameTraffic(d ChildInfo) bool {
	return c.Name == d.Name && slices.Equal(c.Local, d.Local) && slices.Equal(c.Remote, d.Remote)
}
