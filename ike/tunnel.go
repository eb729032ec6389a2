package ike

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"coati/policy"
)

// tunnel supervises one configured peer: it knows which of its children are wanted and why, begins negotiations,
// tries again, and decides what remains when two IKE SAs with the same peer live.
type tunnel struct {
	cfg     *policy.PeerTunnel
	entries []*entry
	slot    slot // when to try again
	// wanted children, in the order they were asked for. What waits at the plane for one is answered when it fails.
	wanted   []string
	acquired map[string]waitingPackets
	asking   AskID
	looks    map[AskID]*entry // as looking, for SAs of a tunnel with several peers
	looking  AskID            // whether the path of what lives is still the same
	noPath   string           // why there is none any more; empty: there is
	moving   netip.Addr       // our address from which the SA that renews is negotiated, if that is why
	begun    *entry           // the SA we are negotiating as initiator
	// renewing is the SA that is to be replaced by authenticating anew; it goes when all wanted children are on the new one.
	renewing   *entry
	dup        slot // when to look for idle duplicates
	failures   int
	flaps      int  // IKE SAs in a row that soon ended
	refusals   int  // of children, in a row
	restarting bool // by OnDead or OnClose, until it is up
	cleared    bool // ended, and to stay so until a command or the peer begins
	lastErr    error
	refused    Refusal // the latest, until all children are up with a peer at its address; zero: none
	waiters    []waiter
}

func newTunnel(cfg *policy.PeerTunnel) *tunnel {
	t := &tunnel{cfg: cfg, acquired: map[string]waitingPackets{}, looks: map[AskID]*entry{}}
	t.slot = slot{index: -1, tunnel: t}
	t.dup = slot{index: -1, tunnel: t, prune: true}
	return t
}

// TunnelStatus is what people may know of a tunnel. A configured tunnel always has one.
type TunnelStatus struct {
	Name      string
	Config    *policy.PeerTunnel
	SAs       []Info
	Failures  int // in a row
	LastError string
	RetryAt   time.Time
	NoPath    string  // why packets cannot reach the peer any more; empty: nothing is known of that
	Refused   Refusal // the latest attempt of a peer that was refused; zero: none
}

// Status lists all tunnels in the configuration's order.
func (e *Engine) Status() []TunnelStatus {
	out := make([]TunnelStatus, 0, len(e.order))
	for _, name := range e.order {
		t := e.tunnels[name]
		st := TunnelStatus{Name: name, Config: t.cfg, Failures: t.failures, RetryAt: t.slot.deadline, Refused: t.refused, NoPath: t.noPath}
		if t.lastErr != nil {
			st.LastError = t.lastErr.Error()
		}
		for _, en := range t.entries {
			st.SAs = append(st.SAs, en.sa.Info())
		}
		out = append(out, st)
	}
	return out
}

func (t *tunnel) detach(en *entry) {
	t.entries = slices.DeleteFunc(t.entries, func(x *entry) bool { return x == en })
	if t.begun == en {
		t.begun = nil
	}
}

func (t *tunnel) want(child string) {
	if !slices.Contains(t.wanted, child) {
		t.wanted = append(t.wanted, child)
	}
}

func (t *tunnel) wantAll() {
	for i := range t.cfg.Children {
		t.want(t.cfg.Children[i].Name)
	}
}

// anyPeer says that peers at any address share the tunnel. Then none of its SAs stands for the tunnel, unless it is alone.
func (t *tunnel) anyPeer() bool { return !t.cfg.Remote.IsValid() && t.cfg.RemoteHost == "" }

// live is the established SA that new children go to: the youngest. Of a tunnel for any peer it is nil when several peers
// have one.
func (t *tunnel) live() *entry {
	var best *entry
	var since time.Time
	for _, en := range t.entries {
		i := en.sa.Brief()
		if i.State != Established {
			continue
		}
		if best != nil && t.anyPeer() && en.peer != best.peer {
			return nil
		}
		if best == nil || !i.EstablishedAt.Before(since) {
			best, since = en, i.EstablishedAt
		}
	}
	return best
}

// hasChild says whether a child of this name carries traffic on any SA.
func (t *tunnel) hasChild(name string) bool {
	for _, en := range t.entries {
		if en.sa.Brief().State != Established {
			continue
		}
		for _, c := range en.sa.Info().Children {
			if c.Name == name && c.State == ChildUp {
				return true
			}
		}
	}
	return false
}

// start opens what is wanted: on the live SA, or by a negotiation of its own.
func (t *tunnel) start(e *Engine, now time.Time, out *Out) error {
	if len(t.wanted) == 0 || t.begun != nil || t.asking != 0 || e.leaving {
		return nil
	}
	if en := t.live(); en != nil && t.renewing == nil {
		return t.open(e, now, en, out)
	}
	e.schedule(&t.slot, time.Time{})
	if !t.cfg.Remote.IsValid() && t.cfg.RemoteHost == "" {
		return t.failed(e, now, fmt.Errorf("tunnel %s has no peer address: it can only be opened by the peer", t.cfg.Name), out)
	}
	t.asking = e.env.NextAsk()
	e.askOwner[t.asking] = t
	out.Asks = append(out.Asks, Ask{t.asking, AskPath{Host: t.cfg.RemoteHost, Remote: t.cfg.Remote, Local: t.cfg.Local}})
	return nil
}

// open has an SA open what is wanted.
func (t *tunnel) open(e *Engine, now time.Time, en *entry, out *Out) error {
	for _, c := range slices.Clone(t.wanted) {
		if err := e.run(now, en, Command{Verb: Up, Tunnel: t.cfg.Name, Child: c, Flow: t.acquired[c].flow}, out); err != nil {
			return err
		}
	}
	return nil
}

func (t *tunnel) answer(e *Engine, now time.Time, ev Answer, out *Out) error {
	if en := t.looks[ev.ID]; en != nil {
		delete(t.looks, ev.ID)
		return t.lookedFor(e, now, en, ev, out)
	}
	if ev.ID == t.looking {
		return t.looked(e, now, ev, out)
	}
	t.asking = 0
	if e.tunnels[t.cfg.Name] != t || len(t.wanted) == 0 {
		return nil
	}
	if t.live() != nil && t.renewing == nil {
		return t.start(e, now, out)
	}
	if ev.Err != nil {
		return t.failed(e, now, ev.Err, out)
	}
	p, ok := ev.Value.(PathAnswer)
	if !ok || !p.Local.IsValid() || p.Local.BitLen() != p.Remote.BitLen() {
		return fmt.Errorf("ike: bad answer %v to a question for a path", ev.Value)
	}
	path := policy.Path{Local: netip.AddrPortFrom(p.Local, e.env.IKEPort), Remote: netip.AddrPortFrom(p.Remote, 500)}.Unmap()
	proto := e.protocols[t.cfg.Version]
	if proto == nil {
		return t.failed(e, now, fmt.Errorf("IKE version %d is not built in", t.cfg.Version), out)
	}
	m := markOf(out)
	sa, err := proto.Initiate(&e.env, now, t.cfg, path, slices.Clone(t.wanted), t.acquired[t.wanted[0]].flow, out)
	if err != nil {
		return t.failed(e, now, err, out)
	}
	en := e.add(sa, now)
	t.begun = en
	if err := e.after(now, en, m, out); err != nil || t.renewing == nil {
		return err
	}
	return e.run(now, en, Renew{}, out)
}

// failed ends an attempt: whoever waits is told, and start = now is tried again after a pause.
func (t *tunnel) failed(e *Engine, now time.Time, err error, out *Out) error {
	t.lastErr = err
	t.failures++
	t.failWaiters(out, err)
	t.failAcquires(e, out)
	t.wanted = t.wanted[:0]
	attrs := []slog.Attr{slog.String("tunnel", t.cfg.Name), slog.String("reason", err.Error())}
	if t.renewing != nil {
		// The SA that was to be replaced asks again, or we look again.
		t.renewing = nil
		if t.moving.IsValid() {
			t.moving = netip.Addr{}
			e.schedule(&t.slot, now.Add(t.pause(e, t.failures)))
		}
		out.Record(slog.LevelWarn, "authenticating anew fails; the old SA stays", attrs...)
		return nil
	}
	if (t.cfg.Start == policy.StartNow || t.restarting) && !e.leaving && e.tunnels[t.cfg.Name] == t {
		t.wantAll()
		pause := t.pause(e, t.failures)
		e.schedule(&t.slot, now.Add(pause))
		attrs = append(attrs, slog.Duration("retry", pause.Round(time.Millisecond)))
	}
	out.Record(slog.LevelError, "tunnel does not come up", attrs...)
	return nil
}

// pause before the nth attempt in a row.
func (t *tunnel) pause(e *Engine, n int) time.Duration {
	pause := min(e.env.Limits.RetryFirst<<min(max(n-1, 0), 16), e.env.Limits.RetryMax)
	return pause + e.env.Jitter(pause/10)
}
