package ike

import (
	"fmt"
	"net/netip"
	"slices"

	"coati/policy"
)

// Addresses that a tunnel gives its peers (RFC 7296, section 2.19). An identity gets the address it had before, as long as nobody
// else needed it: a lease outlives its SAs and a restart. When all addresses have had an owner, the one that nobody has used
// for the longest time goes to whoever asks; when all are in use, the pool is dry.

// Lease is an address and whose it is.
type Lease struct {
	Tunnel  string
	ID      policy.Identity
	Address netip.Addr
}

type leaseKey struct {
	tunnel string
	addr   netip.Addr
}

type lease struct {
	Lease
	used bool
	// freed numbers the moment it was given back, later ones higher.
	freed uint64
}

// leases are those of all tunnels.
type leases struct {
	byAddr map[leaseKey]*lease
	byPeer map[string][]*lease     // by peerKey
	next   map[leaseKey]netip.Addr // where the search for an address nobody had begins, by the first of a range
	clock  uint64
}

func newLeases(known []Lease) *leases {
	l := &leases{byAddr: map[leaseKey]*lease{}, byPeer: map[string][]*lease{}, next: map[leaseKey]netip.Addr{}}
	for _, k := range known {
		if k.Address.IsValid() {
			l.clock++
			l.put(k).freed = l.clock
		}
	}
	return l
}

// Leased tells the engine of leases that former lives gave out, before there was a pool.
func (e *Engine) Leased(known []Lease) {
	if len(known) > 0 {
		e.leases = newLeases(known)
	}
}

// put makes somebody the owner of an address.
func (l *leases) put(k Lease) *lease {
	at := leaseKey{k.Tunnel, k.Address}
	if old := l.byAddr[at]; old != nil {
		key := peerKey(old.Tunnel, old.ID)
		if rest := slices.DeleteFunc(l.byPeer[key], func(x *lease) bool { return x == old }); len(rest) > 0 {
			l.byPeer[key] = rest
		} else {
			delete(l.byPeer, key)
		}
	}
	x := &lease{Lease: k}
	l.byAddr[at] = x
	key := peerKey(k.Tunnel, k.ID)
	l.byPeer[key] = append(l.byPeer[key], x)
	return x
}

// LeaseWish is what a peer asks for.
type LeaseWish struct {
	ID    policy.Identity
	IPv6  bool
	Wants netip.Addr // it would like this one; invalid: any
	// Alone: not an address that another SA of the same identity uses.
	Alone bool
}

func inPool(t *policy.PeerTunnel, a netip.Addr) bool {
	return slices.ContainsFunc(t.Pool, func(s policy.Selector) bool {
		return a.BitLen() == s.Start.BitLen() && !a.Less(s.Start) && !s.End.Less(a)
	})
}

// take gives out an address. It says whether the owner is new, so that it must be written down.
func (l *leases) take(t *policy.PeerTunnel, w LeaseWish) (x *lease, fresh bool, err error) {
	fits := func(a netip.Addr) bool { return a.Is6() == w.IPv6 && inPool(t, a) }
	var own *lease
	for _, o := range l.byPeer[peerKey(t.Name, w.ID)] {
		if fits(o.Address) && !(w.Alone && o.used) && (own == nil || o.Address == w.Wants) {
			own = o
		}
	}
	if own != nil {
		own.used = true
		return own, false, nil
	}
	free := func(a netip.Addr) bool { return l.byAddr[leaseKey{t.Name, a}] == nil }
	a := netip.Addr{}
	if w.Wants.IsValid() && fits(w.Wants) && free(w.Wants) {
		a = w.Wants
	} else {
		a = l.unowned(t, w.IPv6)
	}
	if !a.IsValid() {
		if old := l.oldest(t, w.IPv6); old != nil {
			a = old.Address
		}
	}
	if !a.IsValid() {
		return nil, false, fmt.Errorf("the pool of tunnel %s is dry: no %s is left of %s", t.Name, familyName(w.IPv6), poolNames(t, w.IPv6))
	}
	x = l.put(Lease{t.Name, w.ID, a})
	x.used = true
	return x, true, nil
}

func familyName(v6 bool) string {
	if v6 {
		return "IPv6 address"
	}
	return "IPv4 address"
}

func poolNames(t *policy.PeerTunnel, v6 bool) string {
	out := ""
	for _, s := range t.Pool {
		if s.Start.Is6() == v6 {
			if out != "" {
				out += ", "
			}
			out += s.Start.String() + "-" + s.End.String()
		}
	}
	if out == "" {
		return "none: see pool"
	}
	return out
}

// unowned finds an address that nobody ever had; invalid: there is none.
func (l *leases) unowned(t *policy.PeerTunnel, v6 bool) netip.Addr {
	for _, s := range t.Pool {
		if s.Start.Is6() != v6 {
			continue
		}
		cursor := leaseKey{t.Name, s.Start}
		a, ok := l.next[cursor]
		if !ok || a.Less(s.Start) {
			a = s.Start
		}
		for ; a.IsValid() && !s.End.Less(a); a = a.Next() {
			if l.byAddr[leaseKey{t.Name, a}] == nil {
				l.next[cursor] = a.Next()
				return a
			}
		}
		l.next[cursor] = s.End.Next()
	}
	return netip.Addr{}
}

// oldest is the lease of which nothing was seen for the longest time; nil: all are in use.
func (l *leases) oldest(t *policy.PeerTunnel, v6 bool) (best *lease) {
	for _, x := range l.byAddr {
		if x.Tunnel == t.Name && !x.used && x.Address.Is6() == v6 && inPool(t, x.Address) && (best == nil || x.freed < best.freed) {
			best = x
		}
	}
	return best
}

// giveBack says that nobody uses an address any more. Its owner has the first claim on it.
func (l *leases) giveBack(tunnel string, a netip.Addr) {
	if x := l.byAddr[leaseKey{tunnel, a}]; x != nil && x.used {
		l.clock++
		x.used, x.freed = false, l.clock
	}
}

// lease serves Env.Lease.
func (e *Engine) lease(t *policy.PeerTunnel, w LeaseWish, out *Out) (netip.Addr, error) {
	x, fresh, err := e.leases.take(t, w)
	if err != nil {
		return netip.Addr{}, err
	}
	if fresh {
		out.Leases = append(out.Leases, x.Lease)
	}
	return x.Address, nil
}

// giveBack returns what an SA has that no other of its peer has, too.
func (e *Engine) giveBack(en *entry) {
	for _, a := range en.leased {
		if !slices.ContainsFunc(e.byPeer[en.peer], func(o *entry) bool { return o != en && slices.Contains(o.leased, a) }) {
			e.leases.giveBack(en.tunnel, a)
		}
	}
	en.leased = nil
}
