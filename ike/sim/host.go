package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"coati/ike"
	"coati/ike/v1"
	"coati/ike/v2"
	"coati/policy"
)

// Host is one gateway.
type Host struct {
	Name   string
	Addr   netip.Addr
	Engine *ike.Engine
	V2     *v2.Protocol
	V1     *v1.Protocol
	Plane  *Plane
	Limits ike.Limits
	// Replies to commands, by number.
	Replies map[ike.CommandID]error
	// Log holds the lines of level warn and above.
	Log []string
	// Keepalives counts those that left.
	Keepalives int
	// Also are addresses it has beside Addr: those it had before, if they still work.
	Also []netip.Addr
	// NoRoute, if set, is why it has no way to anybody.
	NoRoute string
	// Names are the addresses of host names.
	Names map[string]netip.Addr
	// RADIUS answers the questions to RADIUS servers; nil: none does.
	RADIUS func(ike.AskRADIUS) (ike.RADIUSAnswer, error)
	// Leases outlive its restarts; Given is the latest that a peer gave each tunnel.
	Leases []ike.Lease
	Given  map[string]ike.Given
	// JobDelay is how long a job takes. One is computed at a time, in the order they came.
	JobDelay time.Duration
	// Err is the first error of the machines themselves.
	Err error

	world   *World
	alive   bool
	wakeAt  time.Time // a happening is in the world's queue for it
	busy    time.Time // until when jobs are computed
	rows    [3]string // the latest transitions
	life    uint64    // counts restarts, so that jobs of a former life are dropped
	said    uint64
	command ike.CommandID
	tunnels []policy.PeerTunnel
	numbers map[string]policy.Child // by tunnel/child
	number  uint64                  // the latest given
}

// AddHost makes a gateway without tunnels.
func (w *World) AddHost(name, addr string) *Host {
	h := &Host{Name: name, Addr: netip.MustParseAddr(addr), world: w, Limits: ike.DefaultLimits(), JobDelay: time.Millisecond, Replies: map[ike.CommandID]error{}}
	w.Hosts = append(w.Hosts, h)
	w.byAddr[h.Addr] = h
	h.boot()
	return h
}

// Move gives the host another address, from which new paths leave. The old one is gone, or stays for what it was used for.
func (h *Host) Move(to netip.Addr, keep bool) {
	w := h.world
	if keep {
		h.Also = append(h.Also, h.Addr)
	} else {
		h.Also = nil
		for a, x := range w.byAddr {
			if x == h {
				delete(w.byAddr, a)
			}
		}
	}
	h.Addr = to
	w.byAddr[to] = h
	w.traceLine(h, "moves to "+to.String())
	h.handle(ike.AddressChanged{})
}

// transmit puts a datagram on the network, if the host has the address it comes from.
func (h *Host) transmit(d Datagram) {
	if h.NoRoute != "" || d.From.Addr() != h.Addr && !slices.Contains(h.Also, d.From.Addr()) {
		h.world.traceDatagram("lost", d)
		return
	}
	h.world.send(d)
}

// source is randomness from the world's seed.
type source struct{ w *World }

func (s source) Read(b []byte) (int, error) {
	for i := 0; i < len(b); i += 8 {
		var x [8]byte
		binary.LittleEndian.PutUint64(x[:], s.w.Rand.Uint64())
		copy(b[i:], x[:])
	}
	return len(b), nil
}

func (h *Host) boot() {
	h.alive = true
	h.life++
	h.Plane = newPlane(h)
	h.V2, h.V1 = v2.New(), v1.New()
	h.rows = [3]string{}
	h.wakeAt, h.busy = time.Time{}, time.Time{}
	h.Given = map[string]ike.Given{}
	if h.world.OnBoot != nil {
		h.world.OnBoot(h)
	}
	h.V2.Observe = func(row string) {
		h.rows = [3]string{h.rows[1], h.rows[2], row}
		h.world.Sequences[h.rows]++
	}
	h.Engine = ike.NewEngine(ike.Config{
		Rand: source{h.world}, AllocSPI: h.Plane.AllocSPI, FreeSPI: h.Plane.FreeSPI, SAState: h.Plane.State,
		NewSAID: func() policy.SAID { h.said++; return policy.SAID(h.said) },
		Limits:  h.Limits, Protocols: []ike.Protocol{h.V2, h.V1}, Leases: h.Leases,
	})
}

// Configure sets the tunnels. Policies are installed as the gateway does it: a child keeps its numbers as long as its SAs
// serve it.
func (h *Host) Configure(tunnels ...policy.PeerTunnel) {
	given := map[string]policy.Child{}
	var tx policy.Tx
	for i := range tunnels {
		for j := range tunnels[i].Children {
			c := &tunnels[i].Children[j]
			name := tunnels[i].Name + "/" + c.Name
			if old, ok := h.numbers[name]; ok && old.SameSA(c) {
				c.ReqID, c.OutPolicy, c.InPolicy = old.ReqID, old.OutPolicy, old.InPolicy
			} else {
				h.number++
				c.ReqID, c.OutPolicy, c.InPolicy = uint32(h.number), policy.PolicyID(h.number), policy.PolicyID(1000000+h.number)
			}
			given[name] = *c
			tx.PutPolicies = append(tx.PutPolicies, policy.Policy{ID: c.OutPolicy, ReqID: c.ReqID, Local: c.Local, Remote: c.Remote})
		}
	}
	h.tunnels, h.numbers = tunnels, given
	if err := h.Plane.Apply(tx); err != nil {
		panic(err)
	}
	h.handle(ike.Configure{Tunnels: tunnels})
}

// Crash takes the host off the network without a word; Restart brings it back with nothing but its configuration.
func (h *Host) Crash() {
	h.alive = false
	h.world.traceLine(h, "crash")
}

// Restart boots and configures again.
func (h *Host) Restart() {
	h.boot()
	h.Configure(h.tunnels...)
}

// Command gives an order; its outcome will be in Replies.
func (h *Host) Command(v ike.Verb, tunnel, child string) ike.CommandID {
	h.command++
	h.handle(ike.Command{ID: h.command, Verb: v, Tunnel: tunnel, Child: child})
	return h.command
}

// Event gives the engine any event.
func (h *Host) Event(ev ike.Event) { h.handle(ev) }

// Say sends a numbered packet of a child.
func (h *Host) Say(number uint64, tunnel, child string) { h.SayTo(number, tunnel, child, netip.Addr{}) }

// SayTo sends one for an address, which only an SA that covers it carries.
func (h *Host) SayTo(number uint64, tunnel, child string, to netip.Addr) {
	for i := range h.tunnels {
		for _, c := range h.tunnels[i].Children {
			if h.tunnels[i].Name == tunnel && c.Name == child {
				h.Plane.Send(c.OutPolicy, number, to)
			}
		}
	}
}

// sleep has the host woken at its deadline.
func (h *Host) sleep() {
	d := h.Engine.Deadline()
	if !h.alive || d.IsZero() || !h.wakeAt.IsZero() && !d.Before(h.wakeAt) {
		return
	}
	h.wakeAt = d
	life := h.life
	h.world.After(max(0, d.Sub(h.world.Now)), func() {
		if h.life != life || !h.wakeAt.Equal(d) {
			return
		}
		h.wakeAt = time.Time{}
		if h.alive && !h.Engine.Deadline().IsZero() && !h.Engine.Deadline().After(h.world.Now) {
			h.handle(ike.Timer{})
		} else if h.alive {
			h.sleep()
		}
	})
}

func (h *Host) acquire(id policy.PolicyID, f policy.Flow) { h.later(ike.Acquire{Policy: id, Flow: f}) }

func (h *Host) expire(id policy.SAID, hard bool) { h.later(ike.Expire{SA: id, Hard: hard}) }
func (h *Host) used(id policy.SAID)              { h.later(ike.SAUsed{SA: id}) }
func (h *Host) mapping(id policy.SAID, remote netip.AddrPort) {
	h.later(ike.Mapping{SA: id, Remote: remote})
}

// later hands an event over after the current one, as the gateway's queue does.
func (h *Host) later(ev ike.Event) {
	life := h.life
	h.world.After(0, func() {
		if h.alive && h.life == life {
			h.handle(ev)
		}
	})
}

func (h *Host) receive(d Datagram) {
	if d.ESP != nil {
		h.Plane.receive(d)
		return
	}
	h.handle(ike.Datagram{Path: policy.Path{Local: d.To, Remote: d.From}, Bytes: d.Bytes})
}

// handle is the caller's half of the contract.
func (h *Host) handle(ev ike.Event) {
	if !h.alive {
		return
	}
	var out ike.Out
	if err := h.Engine.Handle(h.world.Now, ev, &out); err != nil {
		h.fault(err)
	}
	h.perform(&out)
	h.sleep()
}

func (h *Host) fault(err error) {
	if h.Err == nil {
		h.Err = fmt.Errorf("%s at %v: %w", h.Name, h.world.Now.Sub(Epoch), err)
	}
}

func (h *Host) perform(out *ike.Out) {
	failed := map[ike.ChangeID]error{}
	h.Leases = append(h.Leases, out.Leases...)
	for _, g := range out.Given {
		h.Given[g.Tunnel] = g
	}
	var more []*ike.Out
	for _, c := range out.Changes {
		err := h.Plane.Apply(c.Tx)
		if err == nil {
			continue
		}
		if err != errFail && err != policy.ErrRekey {
			h.fault(fmt.Errorf("change refused: %w", err))
		}
		failed[c.ID] = err
		next := new(ike.Out)
		if err := h.Engine.Failed(h.world.Now, ike.ChangeFailed{ID: c.ID, Err: err}, next); err != nil {
			h.fault(err)
		}
		more = append(more, next)
	}
	for _, s := range out.Sends {
		if s.Keepalive {
			h.Keepalives++
		}
		if s.Keepalive || failed[s.After] != nil {
			continue
		}
		d := Datagram{From: s.Path.Local, To: s.Path.Remote, Bytes: s.Bytes}
		h.world.traceDatagram("sent", d)
		h.transmit(d)
	}
	for _, r := range out.Log {
		line := r.Msg
		for _, a := range r.Attrs {
			line += " " + a.String()
		}
		h.world.traceLine(h, r.Level.String()+" "+line)
		if r.Level >= slog.LevelWarn {
			h.Log = append(h.Log, line)
		}
	}
	for _, r := range out.Replies {
		h.Replies[r.ID] = r.Err
		if r.Err == nil {
			h.Replies[r.ID] = failed[r.After]
		}
	}
	life := h.life
	for _, j := range out.Jobs {
		v, err := j.Run()
		if h.busy.Before(h.world.Now) {
			h.busy = h.world.Now
		}
		h.busy = h.busy.Add(h.JobDelay)
		h.world.After(h.busy.Sub(h.world.Now), func() {
			if h.alive && h.life == life {
				h.handle(ike.JobDone{ID: j.ID, Result: v, Err: err})
			}
		})
	}
	for _, a := range out.Asks {
		if q, ok := a.What.(ike.AskRADIUS); ok {
			h.askRADIUS(a.ID, q)
			continue
		}
		ask := a.What.(ike.AskPath)
		remote := ask.Remote
		if h.NoRoute != "" {
			h.later(ike.Answer{ID: a.ID, Err: errors.New(h.NoRoute)})
			continue
		}
		if ask.Host != "" {
			var known bool
			if remote, known = h.Names[ask.Host]; !known {
				h.later(ike.Answer{ID: a.ID, Err: fmt.Errorf("the name %s is not known", ask.Host)})
				continue
			}
		}
		h.later(ike.Answer{ID: a.ID, Value: ike.PathAnswer{Local: h.Addr, Remote: remote}})
	}
	for _, m := range more {
		h.perform(m)
	}
}

// radiusDelay is how long a RADIUS server takes to answer, radiusPatience how long nobody does.
const (
	radiusDelay    = 20 * time.Millisecond
	radiusPatience = 14 * time.Second
)

func (h *Host) askRADIUS(id ike.AskID, q ike.AskRADIUS) {
	answer, delay := ike.Answer{ID: id, Err: errors.New("no RADIUS server answers")}, radiusPatience
	if h.RADIUS != nil {
		v, err := h.RADIUS(q)
		answer, delay = ike.Answer{ID: id, Value: v, Err: err}, radiusDelay
	}
	life := h.life
	h.world.After(delay, func() {
		if h.alive && h.life == life {
			h.handle(answer)
		}
	})
}

// Said reports whether a line of the log contains all the words.
func (h *Host) Said(words ...string) bool {
	for _, l := range h.Log {
		all := true
		for _, w := range words {
			all = all && strings.Contains(l, w)
		}
		if all {
			return true
		}
	}
	return false
}

// Established counts the tunnel's IKE SAs that live, and the children on them.
func (h *Host) Established(tunnel string) (sas, children int) {
	for _, t := range h.Engine.Status() {
		if t.Name != tunnel {
			continue
		}
		for _, i := range t.SAs {
			if i.State == ike.Established {
				sas++
				children += len(i.Children)
			}
		}
	}
	return sas, children
}

// Up says whether the tunnel has an IKE SA and a child.
func (h *Host) Up(tunnel string) bool {
	s, c := h.Established(tunnel)
	return s > 0 && c > 0
}
