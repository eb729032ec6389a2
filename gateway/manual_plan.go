package gateway

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"coati/policy"
	"coati/policy/config"
	"coati/policy/legacy"
)

// manualPlan is the way from one database to another.
type manualPlan struct {
	layout manualLayout
	sas    map[*legacy.Association]*manualSA
	rules  map[legacy.Selection]manualRule
	rest   map[netip.Prefix]policy.PolicyID
	// carried are outbound associations by group.
	carried map[uint32][]policy.SA
	peers   map[policy.Path]bool
	// first adds what is new, last removes what is old and puts successors in its place.
	first, last policy.Tx
	opened      []*counter // for this plan
	retired     []*counter // not needed after it
}

// plan works out what a database means. It changes nothing but numbers that are never given twice, and reservations on disk.
func (g *Gateway) plan(next *legacy.Database) (*manualPlan, []config.Fault) {
	w, err := look(nil)
	if err != nil {
		return nil, []config.Fault{{Severity: config.Error, Message: err.Error()}}
	}
	own := func(a netip.Addr) bool {
		return slices.ContainsFunc(w.addresses, func(o ownAddress) bool { return o.prefix.Addr() == a })
	}
	p := &manualPlan{sas: map[*legacy.Association]*manualSA{}, rules: map[legacy.Selection]manualRule{}, rest: map[netip.Prefix]policy.PolicyID{}, carried: map[uint32][]policy.SA{}, peers: map[policy.Path]bool{}}
	asked := map[group]bool{}
	for _, e := range next.Policies {
		if e.Action == policy.Protect {
			asked[groupOf(&e.Request, e.Direction)] = true
		}
	}
	var faults []config.Fault
	for _, a := range next.SAs {
		if f := g.planSA(p, a, asked, own); f != nil {
			faults = append(faults, config.Fault{File: a.File, Line: a.Line, Severity: config.Error, Message: "add: " + f.Error()})
		}
	}
	if faults != nil {
		p.abandon()
		return nil, faults
	}
	g.planEnds(p)
	for _, e := range next.Policies {
		g.planRule(p, e)
	}
	if g.kernel != nil {
		faults = kernelFaults(next, g.machine.layout.tunnels)
	}
	if faults != nil {
		p.abandon()
		return nil, faults
	}
	return p, nil
}

func (g *Gateway) planSA(p *manualPlan, a *legacy.Association, asked map[group]bool, own func(netip.Addr) bool) error {
	m := g.manual
	r, err := m.resolve(a, asked, own)
	if err != nil {
		return err
	}
	if a.Counter() && g.kernel != nil {
		return errCounterInKernel
	}
	if a.Counter() && m.store == nil {
		return errors.New("a fixed key with a counter mode repeats nonces after a restart (RFC 8221, section 3): use aes-cbc with hmac-sha256, ike, or run with --allow-static-counter-mode")
	}
	if natt := g.settings.Gateway.NATTPort; a.Encap == policy.EncapUDP && (r.direction == policy.Outbound && a.SrcPort != natt || r.direction == policy.Inbound && a.DstPort != natt) {
		return fmt.Errorf("esp in udp comes and goes by our port %d", natt)
	}
	had := m.sas[a]
	if had != nil && had.made == r {
		p.sas[a] = had
	} else {
		n := &manualSA{id: policy.SAID(g.nextSAID.Add(1)), made: r}
		sa := newManualSA(n.id, a, r)
		if r.direction == policy.Outbound {
			if err := g.number(p, a, n, had, &sa); err != nil {
				return err
			}
		}
		p.sas[a] = n
		p.first.AddSAs = append(p.first.AddSAs, sa)
	}
	ends := policy.Path{Local: netip.AddrPortFrom(a.Src, 0), Remote: netip.AddrPortFrom(a.Dst, 0), Encap: a.Encap}
	if r.direction == policy.Inbound {
		ends.Local, ends.Remote = ends.Remote, ends.Local
	} else {
		p.carried[r.reqID] = append(p.carried[r.reqID], policy.SA{Mode: r.mode, Encryption: a.Encryption, Integrity: a.Integrity, Path: ends})
	}
	if !p.peers[ends] {
		p.peers[ends] = true
		p.layout.peers = append(p.layout.peers, policy.PeerTunnel{Local: ends.Local.Addr(), Remote: ends.Remote.Addr()})
	}
	return nil
}

// number says where an outbound association's sequence numbers begin, and where they end for now.
func (g *Gateway) number(p *manualPlan, a *legacy.Association, n, had *manualSA, sa *policy.SA) error {
	if !a.Counter() {
		if had != nil {
			if st, err := g.carrier.State(had.id); err == nil && st.Sequence > 0 {
				sa.Sequence = st.Sequence + rebuilt
			}
		}
		return nil
	}
	var err error
	if had != nil && had.count != nil {
		n.count = had.count // what it had reserved is burnt
	} else {
		if n.count, err = g.manual.store.open(a.Encryption, a.EncryptionKey); err != nil {
			return err
		}
		p.opened = append(p.opened, n.count)
	}
	sa.Sequence = n.count.reserved
	if err := n.count.reserve(sa.Sequence + reservation); err != nil {
		return err
	}
	sa.Ceiling = n.count.reserved
	n.ceiling = sa.Ceiling
	return nil
}

func newManualSA(id policy.SAID, a *legacy.Association, r resolved) policy.SA {
	sa := policy.SA{
		ID: id, Direction: r.direction, Protocol: policy.ProtocolESP, SPI: a.SPI, Mode: r.mode, Encryption: a.Encryption, Integrity: a.Integrity,
		EncryptionKey: a.EncryptionKey.Clone(), IntegrityKey: a.IntegrityKey.Clone(), ICV96: a.ICV96, ReqID: r.reqID, Lifetime: a.Lifetime, Added: time.Now(), Label: "manual", ByPolicy: true,
		Path: policy.Path{Local: netip.AddrPortFrom(a.Src, a.SrcPort), Remote: netip.AddrPortFrom(a.Dst, a.DstPort), Encap: a.Encap},
	}
	if r.direction == policy.Inbound {
		sa.Path.Local, sa.Path.Remote = sa.Path.Remote, sa.Path.Local
		sa.ReplayWindow = a.Window
	}
	sa.Local, sa.Remote = policy.AnySelectors(), policy.AnySelectors()
	if r.mode == policy.Transport {
		sa.Local = []policy.Selector{policy.AddrSelector(sa.Path.Local.Addr())}
		sa.Remote = []policy.Selector{policy.AddrSelector(sa.Path.Remote.Addr())}
	}
	return sa
}

// place is what only one association can have: an SPI of ours, and in the kernel a destination's too.
type place struct {
	dst netip.Addr // outbound
	spi policy.SPI
}

// planEnds lets go what is not there any more, and moves the successors of its SPIs behind it.
func (g *Gateway) planEnds(p *manualPlan) {
	ending := map[place]bool{}
	for a, had := range g.manual.sas {
		n := p.sas[a]
		if n == had {
			continue
		}
		p.last.DeleteSAs = append(p.last.DeleteSAs, had.id)
		if had.made.direction == policy.Inbound {
			ending[place{spi: a.SPI}] = true
		} else if g.kernel != nil {
			ending[place{a.Dst, a.SPI}] = true
		}
		if had.count != nil && (n == nil || n.count != had.count) {
			p.retired = append(p.retired, had.count)
		}
	}
	slices.Sort(p.last.DeleteSAs)
	p.first.AddSAs = slices.DeleteFunc(p.first.AddSAs, func(sa policy.SA) bool {
		at := place{spi: sa.SPI}
		if sa.Direction == policy.Outbound {
			at.dst = sa.Path.Remote.Addr()
		}
		if !ending[at] {
			return false
		}
		p.last.AddSAs = append(p.last.AddSAs, sa)
		return true
	})
}

// planRule makes a policy of the plane, and a route if it is one that keeps traffic from leaving in clear.
func (g *Gateway) planRule(p *manualPlan, e *legacy.Entry) {
	m := g.manual
	had, known := m.rules[e.Selection] // an update keeps its place
	if !known {
		g.numbers.policy++
		had = manualRule{id: g.numbers.policy, created: time.Now()}
	}
	src, dst := e.Selectors()
	c := policy.Policy{
		ID: had.id, Name: "manual", Direction: policy.Inbound, Priority: e.Priority, Action: e.Action,
		Local: []policy.Selector{dst}, Remote: []policy.Selector{src},
	}
	if e.Direction == legacy.Out {
		c.Direction, c.Local, c.Remote = policy.Outbound, c.Remote, c.Local
	}
	if e.Action == policy.Protect {
		c.Mode, c.Level, c.ReqID = e.Request.Mode, e.Request.Level, m.reqID(groupOf(&e.Request, e.Direction))
	}
	had.reqID = c.ReqID
	p.rules[e.Selection] = had
	p.layout.policies = append(p.layout.policies, c)
	if e.Direction != legacy.Out || e.Action == policy.Bypass {
		return
	}
	route := manualRoute{dst: e.Dst, local: c.Local, tunnel: e.Action == policy.Protect && e.Request.Mode == policy.Tunnel}
	if e.Action == policy.Protect {
		route.carried = p.carried[c.ReqID]
	}
	p.layout.routes = append(p.layout.routes, route)
	if _, done := p.rest[e.Dst]; !done {
		id, known := m.rest[e.Dst]
		if !known {
			g.numbers.policy++
			id = g.numbers.policy
		}
		p.rest[e.Dst] = id
		p.layout.policies = append(p.layout.policies, remainder(id, e.Dst))
	}
}

// remainder lets pass in clear what came to us because of a route and has no policy: setkey's policies are exceptions from
// that rule.
func remainder(id policy.PolicyID, dst netip.Prefix) policy.Policy {
	anywhere := policy.PrefixSelector(netip.PrefixFrom(unspecified(dst.Addr()), 0))
	return policy.Policy{
		ID: id, Name: "manual", Direction: policy.Outbound, Priority: 1<<31 - 1, Action: policy.Bypass,
		Local: []policy.Selector{anywhere}, Remote: []policy.Selector{policy.PrefixSelector(dst)},
	}
}

// abandon gives back what a plan took that is not carried out.
func (p *manualPlan) abandon() {
	for _, c := range p.opened {
		_ = c.close()
	}
	for _, txs := range []*policy.Tx{&p.first, &p.last} {
		for i := range txs.AddSAs {
			txs.AddSAs[i].EncryptionKey.Wipe()
			txs.AddSAs[i].IntegrityKey.Wipe()
		}
	}
}
