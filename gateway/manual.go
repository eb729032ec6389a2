package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"coati/policy"
	"coati/policy/config"
	"coati/policy/legacy"
)

// Security associations and policies that nobody negotiates: setkey's. What scripts have made is a legacy.Database; this
// file says what it means for the plane and the machine, and goes from one to another, all or nothing.
//
// An association belongs to the policies that ask for its ends, its mode and, where they are unique, its number: together
// they are a group, and a group is a ReqID of the plane. Numbers that people give with -u are only their own.

// firstGroup keeps the ReqIDs of groups apart from those of children. The kernel plane has 20 bits for them.
const (
	firstGroup         = 1 << 31
	firstGroupInKernel = 1 << 19
)

// rebuilt is how many sequence numbers are left out where an outbound association is made anew under its old key: more than
// can be sent while that happens.
const rebuilt = 1 << 20

// manual is what scripts have made. It belongs to the loop's goroutine.
type manual struct {
	db     *legacy.Database
	file   *legacy.Database // the part of it that the configuration made
	sas    map[*legacy.Association]*manualSA
	byID   map[policy.SAID]*legacy.Association
	rules  map[legacy.Selection]manualRule
	groups map[group]uint32
	first  uint32                           // ReqID of a group
	rest   map[netip.Prefix]policy.PolicyID // what no policy selects on routes of ours
	dead   []legacy.LiveAssociation         // the latest that ended by their lifetime
	store  *counterStore                    // nil: fixed keys of counter modes are refused
}

// maxDead is how many associations are remembered after their end.
const maxDead = 64

// manualSA is what an association is in the plane.
type manualSA struct {
	id      policy.SAID
	made    resolved
	count   *counter // nil: no counter mode, or inbound
	ceiling uint64   // the last of its numbers the plane may use
}

// resolved is what an association means on this host.
type resolved struct {
	direction policy.Direction
	mode      policy.Mode
	reqID     uint32
}

type manualRule struct {
	id      policy.PolicyID
	reqID   uint32
	created time.Time
}

// group is what joins associations and policies. In transport mode the ends are the packet's own.
type group struct {
	mode          policy.Mode
	local, remote netip.Addr
	number        uint32
}

func newManual(store *counterStore) *manual {
	return &manual{
		db: &legacy.Database{}, file: &legacy.Database{}, sas: map[*legacy.Association]*manualSA{}, byID: map[policy.SAID]*legacy.Association{},
		rules: map[legacy.Selection]manualRule{}, groups: map[group]uint32{}, first: firstGroup, rest: map[netip.Prefix]policy.PolicyID{}, store: store,
	}
}

func groupOf(r *legacy.Request, d legacy.Direction) group {
	g := group{mode: r.Mode, number: r.ReqID}
	if r.Mode == policy.Tunnel {
		g.local, g.remote = r.Src, r.Dst
		if d != legacy.Out {
			g.local, g.remote = r.Dst, r.Src
		}
	}
	return g
}

func (m *manual) reqID(g group) uint32 {
	n, known := m.groups[g]
	if !known {
		n = m.first + uint32(len(m.groups))
		m.groups[g] = n
	}
	return n
}

// resolve says what an association means here. asked are the groups that policies ask for.
func (m *manual) resolve(a *legacy.Association, asked map[group]bool, own func(netip.Addr) bool) (resolved, error) {
	from, to := own(a.Src), own(a.Dst)
	local, remote := a.Src, a.Dst
	r := resolved{mode: a.Mode}
	switch {
	case from && to:
		return r, fmt.Errorf("both %s and %s are addresses of this host", a.Src, a.Dst)
	case !from && !to:
		return r, fmt.Errorf("neither %s nor %s is an address of this host", a.Src, a.Dst)
	case to:
		r.direction, local, remote = policy.Inbound, a.Dst, a.Src
	}
	tunnel := group{mode: policy.Tunnel, local: local, remote: remote}
	if r.mode == legacy.AnyMode {
		r.mode = policy.Transport
		if numbered := (group{policy.Tunnel, local, remote, a.ReqID}); asked[tunnel] || asked[numbered] {
			r.mode = policy.Tunnel
		}
	}
	g := group{mode: policy.Transport}
	if r.mode == policy.Tunnel {
		g = tunnel
	}
	// An association with a number is for the policy that asks for it by number, else for any.
	if numbered := (group{g.mode, g.local, g.remote, a.ReqID}); asked[numbered] {
		g = numbered
	}
	r.reqID = m.reqID(g)
	return r, nil
}

// startingManual is what the configuration's scripts say, before there is a machine.
func (g *Gateway) startingManual() (*legacy.Database, error) {
	if g.config.Manual == nil {
		return &legacy.Database{}, nil
	}
	d, faults := (*legacy.Database)(nil).Evaluate(g.config.Manual, legacy.World{})
	if faults != nil {
		return nil, joined(faults)
	}
	for i, a := range d.SAs {
		// Its keys are wiped in their time; those of the configuration are not ours.
		own := *a
		own.EncryptionKey, own.IntegrityKey = a.EncryptionKey.Clone(), a.IntegrityKey.Clone()
		d.SAs[i] = &own
	}
	return d, nil
}

// beginManual is the first become.
func (g *Gateway) beginManual(d *legacy.Database) error {
	if len(d.SAs)+len(d.Policies) == 0 {
		return nil
	}
	if err := joined(g.become(d)); err != nil {
		return err
	}
	g.manual.file = d
	return nil
}

func joined(faults []config.Fault) error {
	var errs []error
	for _, f := range faults {
		errs = append(errs, errors.New(f.String()))
	}
	return errors.Join(errs...)
}

// takers are where IKE messages go: those that came among packets of ESP, and those that did not.
type takers struct {
	among  func(policy.Path, []byte)
	direct func(path policy.Path, b []byte, last bool)
}

func (g *Gateway) takers() takers {
	if g.config.NoIKE {
		return takers{func(policy.Path, []byte) {}, func(policy.Path, []byte, bool) {}}
	}
	return takers{g.loop.datagram, g.loop.message}
}

// become carries a database out, on the loop's goroutine. On an error nothing has changed.
func (g *Gateway) become(next *legacy.Database) []config.Fault {
	p, faults := g.plan(next)
	if faults != nil {
		return faults
	}
	m := g.manual
	for _, tx := range []*policy.Tx{&p.first, &p.last} {
		g.machine.complete(tx.AddSAs)
		for i := range tx.AddSAs {
			if g.loop.keys != nil {
				g.loop.keyLogged(g.loop.keys.writeESP(&tx.AddSAs[i]))
			}
		}
	}
	if err := g.machine.changeManual(p.layout, p.first, p.last); err != nil {
		p.abandon()
		return []config.Fault{{Severity: config.Error, Message: err.Error()}}
	}
	for a := range m.sas {
		if p.sas[a] == nil {
			a.EncryptionKey.Wipe()
			a.IntegrityKey.Wipe()
		}
	}
	for _, c := range p.retired {
		if err := c.close(); err != nil {
			g.log.Warn("a counter cannot be given back", slog.String(keyReason, err.Error()))
		}
	}
	m.db, m.sas, m.rules, m.rest = next, p.sas, p.rules, p.rest
	m.byID = make(map[policy.SAID]*legacy.Association, len(m.sas))
	for a, n := range m.sas {
		m.byID[n.id] = a
	}
	m.prune()
	if g.machine.listeners.anyLeaving() {
		time.AfterFunc(parting, g.part)
	}
	return nil
}

// prune forgets groups that nothing belongs to.
func (m *manual) prune() {
	if len(m.sas)+len(m.rules) == 0 {
		clear(m.groups)
	}
}

// expired takes the end of an association's lifetime; false if it is not ours.
func (g *Gateway) expired(ev policy.PlaneEvent) bool {
	a := g.manual.byID[ev.SA]
	if a == nil || ev.SA == 0 {
		return false
	}
	spi := slog.String(keySPI, a.SPI.String())
	switch ev.Kind {
	case policy.PlaneExpireSoft:
		g.log.Warn("a manual key is at its soft lifetime: it needs a successor", spi)
	case policy.PlaneExpireHard:
		g.log.Warn("a manual key has ended: its lifetime is over or its sequence numbers are used up", spi)
		for _, e := range g.entries(false) {
			if e.SA.ID == ev.SA {
				l := g.liveAssociation(a, &e)
				l.State, l.Hidden = legacy.Dead, true
				g.manual.dead = append(g.manual.dead, l)
			}
		}
		if n := len(g.manual.dead) - maxDead; n > 0 {
			g.manual.dead = slices.Delete(g.manual.dead, 0, n)
		}
		without := func(d *legacy.Database) *legacy.Database {
			return &legacy.Database{SAs: slices.DeleteFunc(slices.Clone(d.SAs), func(o *legacy.Association) bool { return o == a }), Policies: d.Policies}
		}
		for _, f := range g.become(without(g.manual.db)) {
			g.log.Error("an ended manual key cannot be removed", slog.String(keyReason, f.String()))
		}
	}
	return true
}

// refill reserves more numbers for counters that are running out of them. It is called once a second.
func (g *Gateway) refill() {
	for a, n := range g.manual.sas {
		if n.count == nil || n.ceiling == lastNumber {
			continue
		}
		st, err := g.carrier.State(n.id)
		if err != nil || n.ceiling-min(n.ceiling, st.Sequence) > reservation/2 {
			continue
		}
		if err = n.count.reserve(n.count.reserved + reservation); err == nil {
			n.ceiling = n.count.reserved
			err = g.carrier.Apply(policy.Tx{UpdateSAs: []policy.SAUpdate{{ID: n.id, Ceiling: n.ceiling}}})
		}
		if err != nil {
			g.log.Error("no more sequence numbers can be reserved for a manual key", slog.String(keySPI, a.SPI.String()), slog.String(keyReason, err.Error()))
		}
	}
}

// settleCounters gives back what was reserved and not used. The data path has ended.
func (g *Gateway) settleCounters() error {
	var errs []error
	for _, n := range g.manual.sas {
		if n.count == nil {
			continue
		}
		if st, err := g.carrier.State(n.id); err == nil {
			errs = append(errs, n.count.settle(st.Sequence))
		}
		errs = append(errs, n.count.close())
	}
	return errors.Join(errs...)
}

// peersOf are the ends that associations name, as far as the addresses of this host tell them apart.
func peersOf(d *legacy.Database) []policy.PeerTunnel {
	w, err := look(nil)
	if err != nil {
		return nil
	}
	var out []policy.PeerTunnel
	for _, a := range d.SAs {
		for _, o := range w.addresses {
			switch o.prefix.Addr() {
			case a.Src:
				out = append(out, policy.PeerTunnel{Local: a.Src, Remote: a.Dst})
			case a.Dst:
				out = append(out, policy.PeerTunnel{Local: a.Dst, Remote: a.Src})
			}
		}
	}
	slices.SortFunc(out, func(a, b policy.PeerTunnel) int {
		return cmp.Or(a.Local.Compare(b.Local), a.Remote.Compare(b.Remote))
	})
	return slices.CompactFunc(out, func(a, b policy.PeerTunnel) bool { return a.Local == b.Local && a.Remote == b.Remote })
}
