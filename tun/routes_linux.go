package tun

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Tunnel routes stand in a table of our own, which a rule asks before the main table: what has no
// route in ours goes on to main. The table local precedes both, so our own addresses stay ours.
//
// With Block each route has a twin of type prohibit and of lower preference. The twins and the rule
// outlive us, however we end, and are taken over by the next start with Block, or removed by
// the next start without.

const (
	// RulePriority is after local (0) and before main (32766). All daemons share it: a packet that
	// finds no route in one's table goes on to the next.
	RulePriority = 3200

	routeMetric    = 100
	prohibitMetric = 1 << 30
)

// RoutesConfig says what becomes of traffic when we are gone.
type RoutesConfig struct {
	Block bool // on-exit = "block": refuse it; otherwise it takes whatever other routes there are
}

// Route leads one prefix into the TUN.
type Route struct {
	Dst netip.Prefix
	Src netip.Addr // preferred source, an address of this machine; invalid for the kernel's choice
	MTU int        // octets of inner packet; 0 for the device's
}

// Routes is our routing table and the rules that lead to it. It is safe for concurrent use.
type Routes struct {
	host   *Host
	dev    *Device
	block  bool
	noIPv6 error
	change *Change

	mu   sync.Mutex
	have map[netip.Prefix]Route
	held map[netip.Prefix]bool // prohibit twins
}

// OpenRoutes removes what a daemon of our name left in our table, and adds the rules. Where the
// machine has no IPv6, only adding an IPv6 route is an error.
func (h *Host) OpenRoutes(d *Device, c RoutesConfig) (*Routes, error) {
	r := &Routes{host: h, dev: d, block: c.Block, have: map[netip.Prefix]Route{}, held: map[netip.Prefix]bool{}}
	for _, fam := range []int{unix.AF_INET, unix.AF_INET6} {
		err := r.open(fam)
		if err == nil {
			continue
		}
		if fam == unix.AF_INET6 && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)) {
			r.noIPv6 = errors.New("this machine has no ipv6")
			continue
		}
		return nil, errors.Join(err, r.close())
	}
	r.change = h.ledger.Record(fmt.Sprintf("rules and routes of table %d", h.table), r.close)
	return r, nil
}

func (r *Routes) open(fam int) error {
	if !r.block {
		if err := r.host.flush(fam, true); err != nil {
			return err
		}
	} else if err := r.adopt(fam); err != nil {
		return err
	}
	want := r.host.rule(fam)
	if err := r.host.nl.RuleAdd(want); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("rule to table %d: %w", r.host.table, err)
	}
	// A former start may have had another mark.
	return r.host.deleteRules(fam, func(o netlink.Rule) bool {
		return o.Table == want.Table && (o.Mark != want.Mark || o.Priority != want.Priority)
	})
}

// adopt takes over the prohibit routes of a former start, so that there is no moment without them.
func (r *Routes) adopt(fam int) error {
	routes, err := r.host.tableRoutes(fam, int(r.host.table))
	if err != nil {
		return err
	}
	for _, o := range routes {
		p, ok := prefixOf(o.Dst)
		if ok && o.Type == unix.RTN_PROHIBIT && o.Priority == prohibitMetric {
			r.held[p] = true
		}
	}
	return nil
}

func (h *Host) rule(fam int) *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family = fam
	rule.Priority = RulePriority
	rule.Table = int(h.table)
	rule.Mark = h.mark
	mask := h.mark
	rule.Mask = &mask
	rule.Invert = true
	rule.Protocol = RouteProtocol
	return rule
}

// deleteRules deletes those of our rules that match.
func (h *Host) deleteRules(fam int, match func(netlink.Rule) bool) error {
	rules, err := h.ownRules(fam)
	if err != nil {
		return err
	}
	for _, rule := range rules {
		if !match(rule) {
			continue
		}
		rule.Family = fam
		if err := h.nl.RuleDel(&rule); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete rule to table %d: %w", rule.Table, err)
		}
	}
	return nil
}

// ownRules lists the rules of all Coatis of this host: our protocol, a table of our range.
func (h *Host) ownRules(fam int) ([]netlink.Rule, error) {
	rules, err := h.nl.RuleList(fam)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	return slices.DeleteFunc(rules, func(r netlink.Rule) bool {
		return r.Protocol != RouteProtocol || uint32(r.Table)&tableMask != tableBase
	}), nil
}

// tableRoutes lists our routes of one table.
func (h *Host) tableRoutes(fam, table int) ([]netlink.Route, error) {
	routes, err := h.nl.RouteListFiltered(fam, &netlink.Route{Table: table, Protocol: RouteProtocol}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list routes of table %d: %w", table, err)
	}
	return routes, nil
}

// flush deletes our rules to our table, and our routes in it.
func (h *Host) flush(fam int, rules bool) error {
	if rules {
		if err := h.deleteRules(fam, func(o netlink.Rule) bool { return uint32(o.Table) == h.table }); err != nil {
			return err
		}
	}
	routes, err := h.tableRoutes(fam, int(h.table))
	if err != nil {
		return err
	}
	for _, o := range routes {
		p, ok := prefixOf(o.Dst)
		if !ok {
			continue
		}
		if err := h.deleteRoute(p, o.Type, o.Priority); err != nil {
			return err
		}
	}
	return nil
}

// cleanStaleRules deletes rules that lead to the empty table of a daemon that lives no more. Where
// routes are left they are prohibit routes, left on purpose, and that daemon's next start cares for
// them. The caller holds startLock.
func (h *Host) cleanStaleRules() error {
	for _, fam := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := h.ownRules(fam)
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			continue
		}
		if err != nil {
			return err
		}
		for _, rule := range rules {
			table := uint32(rule.Table)
			if table != h.table && lockHeld(tableLock(table)) {
				continue
			}
			routes, err := h.tableRoutes(fam, rule.Table)
			if err != nil {
				return err
			}
			if len(routes) > 0 {
				continue
			}
			rule.Family = fam
			if err := h.nl.RuleDel(&rule); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("delete stale rule to table %d: %w", table, err)
			}
		}
	}
	return nil
}

// Add adds a route or changes the one of the same prefix.
func (r *Routes) Add(n Route) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.add(n)
}

func (r *Routes) add(n Route) error {
	if !n.Dst.IsValid() || n.Dst != n.Dst.Masked() {
		return fmt.Errorf("route %v: not a prefix", n.Dst)
	}
	if n.Dst.Addr().Is6() && r.noIPv6 != nil {
		return fmt.Errorf("route %v: %w", n.Dst, r.noIPv6)
	}
	// The twin first: no moment in which the prefix is neither ours nor refused.
	if r.block {
		if err := r.addTwin(n.Dst); err != nil {
			return err
		}
	}
	if r.have[n.Dst] == n {
		return nil
	}
	route := r.host.route(n.Dst, unix.RTN_UNICAST, routeMetric)
	route.LinkIndex = r.dev.Index()
	route.MTU = n.MTU
	if n.Dst.Addr().Is4() {
		route.Scope = netlink.SCOPE_LINK
	}
	if n.Src.IsValid() {
		route.Src = n.Src.AsSlice()
	}
	if err := r.host.nl.RouteReplace(route); err != nil {
		return explainRoute(n, r.dev.Name(), err)
	}
	r.have[n.Dst] = n
	return nil
}

func explainRoute(n Route, dev string, err error) error {
	switch {
	case errors.Is(err, unix.EINVAL) && n.Src.IsValid():
		return fmt.Errorf("route %v dev %s src %v: %w: is the source an address of this machine?", n.Dst, dev, n.Src, err)
	case errors.Is(err, unix.EACCES) && n.Dst.Addr().Is6():
		return fmt.Errorf("route %v dev %s: ipv6 is off on this device: set net.ipv6.conf.default.disable_ipv6=0", n.Dst, dev)
	}
	return fmt.Errorf("route %v dev %s: %w", n.Dst, dev, err)
}

// Remove removes the route to a prefix, and its prohibit twin; it is no error if there is none.
func (r *Routes) Remove(p netip.Prefix) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.remove(p)
}

func (r *Routes) remove(p netip.Prefix) error {
	return errors.Join(r.removeRoute(p), r.removeTwin(p))
}

func (r *Routes) removeRoute(p netip.Prefix) error {
	if _, ok := r.have[p]; !ok {
		return nil
	}
	if err := r.host.deleteRoute(p, unix.RTN_UNICAST, routeMetric); err != nil {
		return err
	}
	delete(r.have, p)
	return nil
}

func (r *Routes) addTwin(p netip.Prefix) error {
	if r.held[p] {
		return nil
	}
	if err := r.host.nl.RouteReplace(r.host.route(p, unix.RTN_PROHIBIT, prohibitMetric)); err != nil {
		return fmt.Errorf("prohibit route %v: %w", p, err)
	}
	r.held[p] = true
	return nil
}

func (r *Routes) removeTwin(p netip.Prefix) error {
	if !r.held[p] {
		return nil
	}
	if err := r.host.deleteRoute(p, unix.RTN_PROHIBIT, prohibitMetric); err != nil {
		return err
	}
	delete(r.held, p)
	return nil
}

// Replace makes want the only routes. On an error the former routes are put back, as far as the
// kernel lets us, and the error says what failed.
func (r *Routes) Replace(want []Route) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	have, held := maps.Clone(r.have), maps.Clone(r.held)
	err := r.replace(want)
	if err == nil {
		return nil
	}
	for p := range held {
		err = errors.Join(err, r.addTwin(p))
	}
	for _, o := range have {
		err = errors.Join(err, r.add(o))
	}
	for _, p := range r.prefixes() {
		if _, ok := have[p]; !ok {
			err = errors.Join(err, r.removeRoute(p))
		}
		if !held[p] {
			err = errors.Join(err, r.removeTwin(p))
		}
	}
	return err
}

// replace adds before it removes.
func (r *Routes) replace(want []Route) error {
	keep := make(map[netip.Prefix]bool, len(want))
	for _, n := range want {
		keep[n.Dst] = true
		if err := r.add(n); err != nil {
			return err
		}
	}
	for _, p := range r.prefixes() {
		if keep[p] {
			continue
		}
		if err := r.remove(p); err != nil {
			return err
		}
	}
	return nil
}

// prefixes lists every prefix that has a route or a twin.
func (r *Routes) prefixes() []netip.Prefix {
	var out []netip.Prefix
	for p := range r.have {
		out = append(out, p)
	}
	for p := range r.held {
		if _, ok := r.have[p]; !ok {
			out = append(out, p)
		}
	}
	return out
}

// List returns the routes there are, in no order.
func (r *Routes) List() []Route {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Route
	for _, o := range r.have {
		out = append(out, o)
	}
	return out
}

// IPv6 says why there is no IPv6, or nil.
func (r *Routes) IPv6() error { return r.noIPv6 }

// Close removes routes and rules; with Block only the routes into the TUN.
func (r *Routes) Close() error { return r.change.Undo() }

func (r *Routes) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.block {
		err := r.host.flush(unix.AF_INET, true)
		if r.noIPv6 == nil {
			err = errors.Join(err, r.host.flush(unix.AF_INET6, true))
		}
		return err
	}
	var err error
	for p := range r.have {
		err = errors.Join(err, r.host.deleteRoute(p, unix.RTN_UNICAST, routeMetric))
	}
	return err
}

func (h *Host) route(p netip.Prefix, typ, metric int) *netlink.Route {
	fam := unix.AF_INET
	if p.Addr().Is6() {
		fam = unix.AF_INET6
	}
	return &netlink.Route{Family: fam, Dst: ipNet(p), Table: int(h.table), Protocol: RouteProtocol, Type: typ, Priority: metric}
}

func (h *Host) deleteRoute(p netip.Prefix, typ, metric int) error {
	route := h.route(p, typ, metric)
	route.Scope = netlink.SCOPE_NOWHERE // any
	err := h.nl.RouteDel(route)
	if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete route %v: %w", p, err)
	}
	return nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits == 0 {
		return netip.Prefix{}, false
	}
	if bits == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, ones), true
}

// Uplink is how our own sockets reach an address.
type Uplink struct {
	Src   netip.Addr // what the kernel would take as source
	Index int        // of the interface
	Name  string
	MTU   int // octets: the route's where it has one, else the interface's; not what an ICMP error says of the path
}

// RouteTo asks the kernel how a packet with our mark reaches dst.
func (h *Host) RouteTo(dst netip.Addr) (Uplink, error) { return h.Look()(dst) }

// Look is RouteTo for many addresses at one moment: each address, and each interface, is asked for once.
func (h *Host) Look() func(dst netip.Addr) (Uplink, error) {
	type answer struct {
		Uplink
		err error
	}
	answers, links := map[netip.Addr]answer{}, map[int]link{}
	return func(dst netip.Addr) (Uplink, error) {
		a, known := answers[dst]
		if !known {
			a.Uplink, a.err = h.routeTo(dst, links)
			answers[dst] = a
		}
		return a.Uplink, a.err
	}
}

func (h *Host) routeTo(dst netip.Addr, links map[int]link) (Uplink, error) {
	r, err := h.lookup.route(dst, h.mark, false)
	if err != nil {
		return Uplink{}, fmt.Errorf("no route to %v: %w", dst, err)
	}
	u := Uplink{Index: r.index, Src: r.src}
	// The route itself, not the kernel's cached copy of it, which holds what anybody's ICMP error said.
	if r.mtu != 0 {
		if configured, err := h.lookup.route(dst, h.mark, true); err == nil {
			u.MTU = configured.mtu
		}
	}
	l, known := links[u.Index]
	if !known {
		if l, err = h.lookup.link(u.Index); err != nil {
			return Uplink{}, fmt.Errorf("interface %d on the route to %v: %w", u.Index, dst, err)
		}
		links[u.Index] = l
	}
	if u.Name = l.name; u.MTU == 0 {
		u.MTU = l.mtu
	}
	return u, nil
}
