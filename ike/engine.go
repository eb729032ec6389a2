package ike

import (
	"cmp"
	"container/heap"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"coati/policy"
)

// Engine runs the machines of one gateway. It is itself a Machine.
//
// It owns the table of machines by our SPI, their deadlines in a heap, and the ownership of jobs, asks, changes and
// SAs, so that an event finds the machine it is for. What a machine decides about itself it tells by signals; what
// that means for the tunnel is decided in tunnel.go.
type Engine struct {
	env       Env
	protocols map[uint8]Protocol
	entries   map[uint64]*entry   // by our SPI
	initial   map[[16]byte]*entry // half-open responders by peer and request, for repeated requests
	halfOpen  map[netip.Addr]int  // by source address
	halfAll   int
	draining  int // entries that are closed
	deadlines deadlineHeap
	halfJobs  int                 // open jobs of half-open responders
	byPeer    map[string][]*entry // established, by tunnel and identity
	jobOwner  map[JobID]jobRef
	askOwner  map[AskID]*tunnel
	askedBy   map[AskID]*entry // asks of machines
	saOwner   map[policy.SAID]*entry
	changes   []changeOwner // of the latest Handle
	tunnels   map[string]*tunnel
	order     []string // tunnels in the configuration's order
	byRemote  map[netip.Addr][]*policy.PeerTunnel
	anyRemote []*policy.PeerTunnel
	accepted  map[acceptedBy][]policy.Proposal // by the tunnels of anyRemote; made when asked for
	byPolicy  map[policy.PolicyID]childRef
	leases    *leases
	leaving   bool
	refused   Refusal // the latest that no tunnel is known for

	Stats Stats
}

// Stats counts what reached the engine and went no further.
type Stats struct {
	Malformed, UnknownSPI, WrongVersion, NoProtocol, WrongPeerSPI uint64
	// First requests dropped because of too many half-open SAs: in all, from one address, or waiting to be computed.
	HalfOpenFull, AddressFull, JobsFull uint64
}

type changeOwner struct {
	id   ChangeID
	e    *entry
	adds []policy.SAID
}

// jobRef keeps its entry until the job comes back, also when the SA has gone meanwhile: only then is the work done.
type jobRef struct {
	e    *entry
	half bool // counted in halfJobs
}

type childRef struct{ tunnel, child string }

type entry struct {
	sa      SA
	tunnel  string
	slot    slot
	half    netip.Addr // counted as half-open under this address; invalid: not counted
	initial [16]byte
	peer    string    // key in byPeer; empty until established
	born    time.Time // its initial exchange began; outlives rekeys, as up does
	leased  []netip.Addr
	up      time.Time // its initial exchange ended
	drains  bool      // closed, and kept for what is on its way
	orphan  bool      // its tunnel left the configuration
	gone    bool
}

// NewEngine makes an engine without tunnels; Configure brings them.
func NewEngine(c Config) *Engine {
	if c.Limits == (Limits{}) {
		c.Limits = DefaultLimits()
	}
	if c.IKEPort == 0 {
		c.IKEPort = 500
	}
	if c.NATTPort == 0 {
		c.NATTPort = 4500
	}
	e := &Engine{
		protocols: map[uint8]Protocol{}, entries: map[uint64]*entry{}, initial: map[[16]byte]*entry{}, halfOpen: map[netip.Addr]int{},
		byPeer: map[string][]*entry{}, jobOwner: map[JobID]jobRef{}, askOwner: map[AskID]*tunnel{}, askedBy: map[AskID]*entry{}, saOwner: map[policy.SAID]*entry{},
		tunnels: map[string]*tunnel{}, byRemote: map[netip.Addr][]*policy.PeerTunnel{}, byPolicy: map[policy.PolicyID]childRef{}, accepted: map[acceptedBy][]policy.Proposal{},
	}
	for _, p := range c.Protocols {
		e.protocols[p.Version()] = p
	}
	e.env = Env{Config: c}
	e.env.inUse = func(spi uint64) bool { return e.entries[spi] != nil }
	e.env.Candidates = e.candidates
	e.env.HalfOpen = func(p policy.Path) (int, int) { return e.halfAll, e.halfOpen[p.Remote.Addr()] }
	e.env.Proposals = e.proposals
	e.env.HasOther = e.hasOther
	e.env.PeerHas = e.peerHas
	e.leases, e.env.Lease = newLeases(c.Leases), e.lease
	e.env.Leases = nil
	return e
}

// Handle advances the engine (see Machine).
func (e *Engine) Handle(now time.Time, ev Event, out *Out) error {
	err := e.handle(now, ev, out)
	for _, r := range out.refusals {
		if t := e.tunnels[r.Tunnel]; t != nil {
			t.refused = r
		} else {
			e.refused = r
		}
	}
	out.refusals = out.refusals[:0]
	return err
}

// Refused is the latest attempt of a peer that was refused before anybody knew which tunnel it was for; zero: none.
func (e *Engine) Refused() Refusal { return e.refused }

func (e *Engine) handle(now time.Time, ev Event, out *Out) error {
	e.changes = e.changes[:0]
	switch ev := ev.(type) {
	case Datagram:
		ev.Path = ev.Path.Unmap()
		return e.datagram(now, ev, out)
	case Timer:
		return e.timer(now, out)
	case JobDone:
		if ref, ok := e.jobOwner[ev.ID]; ok {
			delete(e.jobOwner, ev.ID)
			if ref.half {
				e.halfJobs--
			}
			if late, ok := ref.e.sa.(interface{ Late(JobDone) }); ok && ref.e.gone {
				late.Late(ev)
			}
			return e.run(now, ref.e, ev, out)
		}
	case Answer:
		if t := e.askOwner[ev.ID]; t != nil {
			delete(e.askOwner, ev.ID)
			return t.answer(e, now, ev, out)
		}
		if en := e.askedBy[ev.ID]; en != nil {
			delete(e.askedBy, ev.ID)
			return e.run(now, en, ev, out)
		}
	case ChangeFailed:
		// The caller reports a failure before it handles anything else, so only the latest owners are kept.
		return fmt.Errorf("ike: change %d failed after another event was handled", ev.ID)
	case Expire:
		return e.runSA(now, ev.SA, ev, out)
	case Mapping:
		return e.runSA(now, ev.SA, ev, out)
	case SAUsed:
		return e.runSA(now, ev.SA, ev, out)
	case Acquire:
		return e.acquire(now, ev, out)
	case Command:
		return e.command(now, ev, out)
	case Configure:
		return e.configure(now, ev, out)
	case Unreachable:
		ev.Path = ev.Path.Unmap()
		for _, en := range e.entries { // in any order: nothing comes out
			if en.sa.Brief().Path.Remote == ev.Path.Remote {
				if err := e.run(now, en, ev, out); err != nil {
					return err
				}
			}
		}
	case AddressChanged:
		for _, name := range e.order {
			if err := e.tunnels[name].lookAtPath(e, now, out); err != nil {
				return err
			}
		}
	case Shutdown:
		e.leaving = true
		for _, en := range e.all() {
			if err := e.run(now, en, Close{Reason: ClosedByUs}, out); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("ike: the engine does not know the event %T", ev)
	}
	return nil
}

// Failed handles a ChangeFailed for a change of the Out just returned. It must come before any other event.
func (e *Engine) Failed(now time.Time, ev ChangeFailed, out *Out) error {
	for _, c := range e.changes {
		if c.id == ev.ID {
			for _, id := range c.adds {
				delete(e.saOwner, id)
			}
			if c.e == nil || c.e.gone {
				return nil
			}
			return e.run(now, c.e, ev, out)
		}
	}
	return nil
}

// Idle says that no machine lives: after Shutdown, that every peer was told or given up.
func (e *Engine) Idle() bool { return len(e.entries) == e.draining }

// all lists the machines in an order that does not depend on the map's.
func (e *Engine) all() []*entry {
	out := make([]*entry, 0, len(e.entries))
	for _, en := range e.entries {
		out = append(out, en)
	}
	slices.SortFunc(out, func(a, b *entry) int { return cmp.Compare(a.sa.LocalSPI(), b.sa.LocalSPI()) })
	return out
}

func (e *Engine) add(sa SA, now time.Time) *entry {
	en := &entry{sa: sa, born: now}
	en.slot = slot{index: -1, entry: en}
	e.entries[sa.LocalSPI()] = en
	return en
}

// mark remembers how much of an Out is there already, so that what a machine adds can be told apart.
type mark struct{ jobs, changes, asks int }

func markOf(out *Out) mark { return mark{len(out.Jobs), len(out.Changes), len(out.Asks)} }

func (e *Engine) runSA(now time.Time, id policy.SAID, ev Event, out *Out) error {
	if en := e.saOwner[id]; en != nil {
		return e.run(now, en, ev, out)
	}
	return nil
}

func (e *Engine) run(now time.Time, en *entry, ev Event, out *Out) error {
	if en.gone {
		return nil
	}
	m := markOf(out)
	if err := en.sa.Handle(now, ev, out); err != nil {
		return err
	}
	return e.after(now, en, m, out)
}

// after books what a machine put into out since m, and acts on its signals.
func (e *Engine) after(now time.Time, en *entry, m mark, out *Out) error {
	for _, j := range out.Jobs[m.jobs:] {
		ref := jobRef{en, en.half.IsValid()}
		e.jobOwner[j.ID] = ref
		if ref.half {
			e.halfJobs++
		}
	}
	for _, a := range out.Asks[m.asks:] {
		if e.askOwner[a.ID] == nil {
			e.askedBy[a.ID] = en
		}
	}
	for _, c := range out.Changes[m.changes:] {
		owner := changeOwner{id: c.ID, e: en}
		for i := range c.Tx.AddSAs {
			e.saOwner[c.Tx.AddSAs[i].ID] = en
			owner.adds = append(owner.adds, c.Tx.AddSAs[i].ID)
		}
		e.changes = append(e.changes, owner)
		for _, id := range c.Tx.DeleteSAs {
			delete(e.saOwner, id)
		}
	}
	info := en.sa.Brief()
	if info.Tunnel != "" && en.tunnel != info.Tunnel && !en.orphan {
		e.attach(en, info.Tunnel)
	}
	if info.State != Connecting {
		e.settled(en)
	}
	if !en.gone {
		e.schedule(&en.slot, en.sa.Deadline())
	}
	signals := append([]Signal(nil), out.signals...)
	out.signals = out.signals[:0]
	for _, s := range signals {
		if err := e.signal(now, en, m, s, out); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) attach(en *entry, name string) {
	if t := e.tunnels[en.tunnel]; t != nil {
		t.detach(en)
	}
	en.tunnel = name
	if t := e.tunnels[name]; t != nil {
		t.entries = append(t.entries, en)
	}
}

func (e *Engine) remove(en *entry) {
	if en.gone = true; en.drains {
		e.draining--
	}
	e.forget(en)
	delete(e.entries, en.sa.LocalSPI())
	if en.slot.index >= 0 {
		heap.Remove(&e.deadlines, en.slot.index)
	}
}

// forget takes a closed SA out of everything but the demultiplexing.
func (e *Engine) forget(en *entry) {
	e.settled(en)
	if t := e.tunnels[en.tunnel]; t != nil {
		t.detach(en)
	}
	en.orphan = true
	if e.giveBack(en); en.peer != "" {
		rest := slices.DeleteFunc(e.byPeer[en.peer], func(x *entry) bool { return x == en })
		if e.byPeer[en.peer] = rest; len(rest) == 0 {
			delete(e.byPeer, en.peer)
		}
		en.peer = ""
	}
}

func peerKey(tunnel string, id policy.Identity) string {
	return tunnel + "\x00" + string([]byte{byte(id.Type)}) + string(id.Data)
}

// known files an established SA under its peer.
func (e *Engine) known(en *entry) {
	if en.peer == "" && en.tunnel != "" && !en.gone {
		i := en.sa.Brief()
		en.peer, en.leased = peerKey(en.tunnel, i.RemoteID), i.Leased
		e.byPeer[en.peer] = append(e.byPeer[en.peer], en)
	}
}

func (e *Engine) peerHas(tunnel string, id policy.Identity, than SA) bool {
	return slices.ContainsFunc(e.byPeer[peerKey(tunnel, id)], func(en *entry) bool {
		return en.sa != than && en.sa.Brief().State == Established
	})
}
