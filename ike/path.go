package ike

import (
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"coati/policy"
)

// Our own address changed, or the route to a peer did. An IKE SA moves if both ends know how (RFC 4555). Else it stays where it was made: so another one is made from where
// the path leaves now, at once and not only when the old one is found dead. As far as the old path still works nothing is
// lost. Who only listens, or has peers at any address, cannot begin; there the peer finds out.

// lookAtPath asks where the path to the peer leaves from now.
func (t *tunnel) lookAtPath(e *Engine, now time.Time, out *Out) error {
	if t.anyPeer() || e.leaving {
		t.lookForEach(e, out)
		return nil
	}
	en := t.begun
	if en == nil {
		en = t.live()
	}
	if en == nil {
		if len(t.wanted) > 0 && t.slot.index >= 0 {
			// There may be a way now.
			return t.start(e, now, out)
		}
		return nil
	}
	delete(e.askOwner, t.looking)
	t.looking = e.env.NextAsk()
	e.askOwner[t.looking] = t
	out.Asks = append(out.Asks, Ask{t.looking, AskPath{Remote: en.sa.Brief().Path.Remote.Addr(), Local: t.cfg.Local}})
	return nil
}

// lookForEach asks the same for each SA of a tunnel with several peers that may move.
func (t *tunnel) lookForEach(e *Engine, out *Out) {
	for id := range t.looks {
		delete(e.askOwner, id)
	}
	clear(t.looks)
	for _, en := range t.entries {
		i := en.sa.Brief()
		if e.leaving || !i.Mobile || i.State != Established {
			continue
		}
		id := e.env.NextAsk()
		t.looks[id], e.askOwner[id] = en, t
		out.Asks = append(out.Asks, Ask{id, AskPath{Remote: i.Path.Remote.Addr(), Local: t.cfg.Local}})
	}
}

// lookedFor moves one of them.
func (t *tunnel) lookedFor(e *Engine, now time.Time, en *entry, ev Answer, out *Out) error {
	p, ok := ev.Value.(PathAnswer)
	if ev.Err != nil || en.gone || e.tunnels[t.cfg.Name] != t {
		return nil
	}
	if !ok || !p.Local.IsValid() {
		return fmt.Errorf("ike: bad answer %v to a question for a path", ev.Value)
	}
	return e.run(now, en, Move{p.Local}, out)
}

// looked goes on with the answer.
func (t *tunnel) looked(e *Engine, now time.Time, ev Answer, out *Out) error {
	t.looking = 0
	if e.tunnels[t.cfg.Name] != t {
		return nil
	}
	attrs := []slog.Attr{slog.String("tunnel", t.cfg.Name)}
	if ev.Err != nil {
		// The SAs wait for the path to come back, as long as the peer is not found dead.
		t.noPath = ev.Err.Error()
		out.Record(slog.LevelWarn, "the path to the peer is gone", append(attrs, slog.String("reason", t.noPath))...)
		return nil
	}
	p, ok := ev.Value.(PathAnswer)
	if !ok || !p.Local.IsValid() {
		return fmt.Errorf("ike: bad answer %v to a question for a path", ev.Value)
	}
	t.noPath = ""
	if b := t.begun; b != nil && b.sa.Brief().Path.Local.Addr() != p.Local {
		// What is being negotiated begins again from there.
		t.begun = nil
		if err := e.run(now, b, Close{Quiet: true, Reason: ClosedReplaced}, out); err != nil {
			return err
		}
		return t.start(e, now, out)
	}
	en := t.live()
	if en == nil || en.sa.Brief().Path.Local.Addr() == p.Local {
		return nil
	}
	if en.sa.Brief().Mobile {
		return e.run(now, en, Move{p.Local}, out)
	}
	if !t.mayBegin(en) {
		return nil
	}
	out.Record(slog.LevelInfo, "our address changed: the tunnel is established anew", append(attrs, slog.String("local", p.Local.String()))...)
	t.moving = p.Local
	return t.renew(e, now, en, out)
}

// tryAgain follows a pause: what is wanted is opened; if nothing is, an SA could not be moved to our new address.
func (t *tunnel) tryAgain(e *Engine, now time.Time, out *Out) error {
	if len(t.wanted) == 0 {
		return t.lookAtPath(e, now, out)
	}
	return t.start(e, now, out)
}

// mayBegin says whether we may negotiate a successor of an SA.
func (t *tunnel) mayBegin(en *entry) bool {
	return !t.anyPeer() && (t.cfg.Start != policy.StartListen || en.sa.Brief().Initiator)
}

// moved has the old SA say its goodbye from our new address.
func (t *tunnel) moved(e *Engine, now time.Time, old *entry, out *Out) error {
	to := t.moving
	t.moving = netip.Addr{}
	if !to.IsValid() {
		return nil
	}
	return e.run(now, old, Relocate{to}, out)
}
