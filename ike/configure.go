package ike

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"coati/policy"
)

// The configured tunnels: what they accept from whom, and from one configuration to the next.

func (e *Engine) candidates(p policy.Path) []*policy.PeerTunnel {
	var out []*policy.PeerTunnel
	local := func(t *policy.PeerTunnel) bool { return !t.Local.IsValid() || t.Local == p.Local.Addr() }
	for _, set := range [][]*policy.PeerTunnel{e.byRemote[p.Remote.Addr()], e.anyRemote} {
		for _, t := range set {
			if local(t) {
				out = append(out, t)
			}
		}
	}
	return out
}

// acceptedBy names a set of proposals: those of tunnels for any address, at one of ours.
type acceptedBy struct {
	local   netip.Addr
	version uint8
}

func (e *Engine) proposals(p policy.Path, version uint8) []policy.Proposal {
	seen := map[string]bool{}
	collect := func(out []policy.Proposal, tunnels []*policy.PeerTunnel) []policy.Proposal {
		for _, t := range tunnels {
			if t.Version != version || t.Local.IsValid() && t.Local != p.Local.Addr() {
				continue
			}
			for _, x := range t.IKE {
				if k := x.String(); !seen[k] {
					seen[k] = true
					out = append(out, x)
				}
			}
		}
		return out
	}
	key := acceptedBy{p.Local.Addr(), version}
	common, ok := e.accepted[key]
	if !ok {
		common = collect(nil, e.anyRemote)
		clear(seen)
		if len(e.accepted) < 64 {
			e.accepted[key] = common
		}
	}
	own := collect(nil, e.byRemote[p.Remote.Addr()])
	if len(own) == 0 {
		return common
	}
	return append(own, common...)
}

// hasOther also counts what the same address has begun and not finished: it may turn out to be the same peer, and then
// INITIAL_CONTACT would end what is just being made.
func (e *Engine) hasOther(name string, than SA) bool {
	t := e.tunnels[name]
	if t == nil {
		return false
	}
	if e.halfOpen[than.Brief().Path.Remote.Addr()] > 0 {
		return true
	}
	for _, en := range t.entries {
		if en.sa != than && en.sa.Brief().State <= Established {
			return true
		}
	}
	return false
}

func (e *Engine) configure(now time.Time, ev Configure, out *Out) error {
	old := e.tunnels
	e.tunnels = make(map[string]*tunnel, len(ev.Tunnels))
	e.order = e.order[:0]
	clear(e.byRemote)
	clear(e.byPolicy)
	e.anyRemote, e.accepted = nil, map[acceptedBy][]policy.Proposal{}
	var fresh, adapted []*tunnel
	before := map[*tunnel]*policy.PeerTunnel{}
	for i := range ev.Tunnels {
		cfg := &ev.Tunnels[i]
		t := old[cfg.Name]
		switch {
		case t != nil && reflect.DeepEqual(t.cfg, cfg):
			delete(old, cfg.Name)
		case t != nil && t.adapts(cfg):
			delete(old, cfg.Name)
			adapted = append(adapted, t)
			before[t], t.cfg = t.cfg, cfg
		default:
			t = newTunnel(cfg)
			fresh = append(fresh, t)
		}
		e.tunnels[cfg.Name] = t
		e.order = append(e.order, cfg.Name)
		switch {
		case t.cfg.Remote.IsValid():
			e.byRemote[t.cfg.Remote] = append(e.byRemote[t.cfg.Remote], t.cfg)
		default:
			// A host name may have any address until the peer says who it is.
			e.anyRemote = append(e.anyRemote, t.cfg)
		}
		for j := range t.cfg.Children {
			e.byPolicy[t.cfg.Children[j].OutPolicy] = childRef{cfg.Name, t.cfg.Children[j].Name}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		t := old[name]
		t.failWaiters(out, fmt.Errorf("tunnel %s was taken out of the configuration", t.cfg.Name))
		e.schedule(&t.slot, time.Time{})
		e.schedule(&t.dup, time.Time{})
		for _, en := range slices.Clone(t.entries) {
			en.orphan, en.tunnel = true, ""
			if err := e.run(now, en, Close{Reason: ClosedByUs}, out); err != nil {
				return err
			}
		}
	}
	for _, t := range adapted {
		if err := t.adapt(e, now, before[t], out); err != nil {
			return err
		}
	}
	for _, t := range fresh {
		if t.cfg.Start == policy.StartNow {
			t.wantAll()
			if err := t.start(e, now, out); err != nil {
				return err
			}
		}
	}
	out.Record(slog.LevelInfo, "configured", slog.Int("tunnels", len(ev.Tunnels)), slog.Int("new", len(fresh)), slog.Int("adapted", len(adapted)), slog.Int("closed", len(old)))
	return nil
}

// adapts says whether what lives of a tunnel can be brought in line with a new configuration. Children can only be exchanged
// while none is being negotiated together with the IKE SA.
func (t *tunnel) adapts(cfg *policy.PeerTunnel) bool {
	if !t.cfg.SamePeer(cfg) {
		return false
	}
	return t.begun == nil && t.renewing == nil || len(changedChildren(t.cfg, cfg)) == 0 && len(t.cfg.Children) == len(cfg.Children)
}

// changedChildren are those of one configuration whose SAs do not serve the other, by name.
func changedChildren(old, new *policy.PeerTunnel) []string {
	var out []string
	for i := range old.Children {
		if c := &old.Children[i]; Serving(new, c) == nil {
			out = append(out, c.Name)
		}
	}
	return out
}

// Serving is the child of a tunnel that SAs made for a child of the same name serve; nil if they serve none.
func Serving(t *policy.PeerTunnel, c *policy.Child) *policy.Child {
	for i := range t.Children {
		n := &t.Children[i]
		if n.SameSA(c) && n.ReqID == c.ReqID && n.OutPolicy == c.OutPolicy && n.InPolicy == c.InPolicy {
			return n
		}
	}
	return nil
}

// adapt brings the tunnel in line with its new configuration.
func (t *tunnel) adapt(e *Engine, now time.Time, old *policy.PeerTunnel, out *Out) error {
	has := func(name string) bool {
		return name == "" || slices.ContainsFunc(t.cfg.Children, func(c policy.Child) bool { return c.Name == name })
	}
	t.wanted = slices.DeleteFunc(t.wanted, func(c string) bool { return !has(c) })
	t.waiters = slices.DeleteFunc(t.waiters, func(w waiter) bool {
		if has(w.child) {
			return false
		}
		out.Replies = append(out.Replies, Reply{ID: w.id, Err: fmt.Errorf("child %s was taken out of the configuration", w.child)})
		return true
	})
	for _, c := range changedChildren(old, t.cfg) {
		delete(t.acquired, c) // its policy goes, and with it what waits
	}
	for _, en := range slices.Clone(t.entries) {
		if err := e.run(now, en, Reconfigure{t.cfg}, out); err != nil {
			return err
		}
	}
	switch {
	case t.cfg.Start == policy.StartNow:
		t.cleared = false
		for i := range t.cfg.Children {
			if !t.hasChild(t.cfg.Children[i].Name) {
				t.want(t.cfg.Children[i].Name)
			}
		}
	case old.Start == policy.StartNow && t.live() == nil && t.begun == nil && len(t.waiters)+len(t.acquired) == 0:
		t.wanted, t.restarting = t.wanted[:0], false
		e.schedule(&t.slot, time.Time{})
	}
	return t.start(e, now, out)
}
