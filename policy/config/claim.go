package config

import (
	"cmp"
	"slices"

	"coati/policy"
)

// Which child a packet belongs to is decided by priority, the lowest number first, and among equals by the order in the
// file. A child without a priority of its own gets one from its selectors, so that the more specific comes first:
// longer remote prefixes, then longer local prefixes, then selectors with a port, then with a protocol. Of a list the
// least specific member counts. These priorities lie between 50,000 and 100,000.
const leastPriority = 100_000

// autoPriority is the priority of a child that names none.
func autoPriority(local, remote []policy.Selector) int32 {
	l, lp := leastSpecific(local)
	r, rp := leastSpecific(remote)
	return leastPriority - int32((r*129+l)*3+max(lp, rp))
}

func leastSpecific(set []policy.Selector) (bits, ports int) {
	bits, ports = 128, 2
	for _, s := range set {
		bits, ports = min(bits, commonBits(s)), min(ports, portDepth(s))
	}
	return bits, ports
}

// commonBits is the length of the shortest prefix that holds the whole range.
func commonBits(s policy.Selector) int {
	n := s.Start.BitLen()
	a, b := s.Start.As16(), s.End.As16()
	skip := (128 - n) / 8 // IPv4 is the end of the 16 octets
	for i := range n {
		if (a[skip+i/8]^b[skip+i/8])&(0x80>>(i%8)) != 0 {
			return i
		}
	}
	return n
}

func portDepth(s policy.Selector) int {
	switch {
	case s.Protocol == 0:
		return 0
	case s.StartPort == 0 && s.EndPort == 65535:
		return 1
	}
	return 2
}

// pairSelectors leaves in both lists what has a counterpart in the other one: a packet is of one family and one
// protocol at both its ends. Local selectors nobody wrote are everything.
func (l *loader) pairSelectors(c *childDraft) {
	localAt, written := c.keys["local-ts"]
	if !written {
		for _, s := range policy.AnySelectors() {
			c.local = append(c.local, sited{s, c.at})
		}
	}
	if len(c.remote) == 0 || len(c.local) == 0 {
		return // reported already
	}
	local, remote := paired(c.local, c.remote), paired(c.remote, c.local)
	if len(local) == 0 {
		l.errorf(localAt, "impossible selector: local-ts %v and remote-ts %v have no address family and protocol in common", selectors(c.local), selectors(c.remote))
		return
	}
	if written {
		l.warnUnpaired("local-ts", "remote-ts", c.local, local)
	}
	l.warnUnpaired("remote-ts", "local-ts", c.remote, remote)
	c.local, c.remote = local, remote
}

func paired(set, with []sited) []sited {
	var out []sited
	for _, s := range set {
		if slices.ContainsFunc(with, func(w sited) bool {
			return s.Start.BitLen() == w.Start.BitLen() && (s.Protocol == 0 || w.Protocol == 0 || s.Protocol == w.Protocol)
		}) {
			out = append(out, s)
		}
	}
	return out
}

func (l *loader) warnUnpaired(name, other string, all, kept []sited) {
	for _, s := range all {
		if !slices.Contains(kept, s) {
			l.warnf(s.at, "%s: %s never matches: %s has nothing of its address family and protocol", name, s.Selector, other)
		}
	}
}

func selectors(set []sited) []policy.Selector {
	out := make([]policy.Selector, len(set))
	for i := range set {
		out[i] = set[i].Selector
	}
	return out
}

// claim is one pair of selectors of one child.
type claim struct {
	local, remote policy.Selector
	child         *childDraft
	at            position // of the remote selector
}

// Limits on the search for overlaps, so that no file can keep us busy.
const (
	maxClaims      = 1 << 20
	maxComparisons = 1 << 20
	maxOverlaps    = 100 // reported
)

// checkClaims finds children that claim the same traffic (a fault), and those that claim some of the same without one
// being plainly the more specific (a warning).
func (l *loader) checkClaims() {
	l.checkPeers()
	claims, complete := l.claims()
	claims, disputed := l.identicalClaims(claims)
	overlaps, ok := sweep(claims, disputed, func(c *claim) *policy.Selector { return &c.remote })
	if !ok {
		overlaps, ok = sweep(claims, disputed, func(c *claim) *policy.Selector { return &c.local })
	}
	if !ok || !complete {
		l.warnf(position{}, "too many selectors overlap: not all pairs of children were compared")
	}
	for i, o := range overlaps {
		if i == maxOverlaps {
			l.warnf(position{}, "more children claim some of the same traffic: only %d pairs are shown", maxOverlaps)
			break
		}
		l.warnOverlap(o[0], o[1])
	}
}

// checkPeers finds tunnels a responder cannot tell apart.
func (l *loader) checkPeers() {
	seen := make(map[string]*draft, len(l.drafts))
	for _, d := range l.drafts {
		t := &d.tunnel
		if !t.Remote.IsValid() && t.RemoteHost == "" && !d.anyPeer {
			continue // reported already
		}
		k := t.Local.String() + "|" + t.Remote.String() + "|" + t.RemoteHost + "|" + t.LocalID.String() + "|" + t.RemoteID.String()
		if first, twice := seen[k]; twice {
			l.warnf(d.at, "[tunnel.%s] has the same peer and identities as [tunnel.%s] at %s: make them children of one tunnel, or give them remote-id", t.Name, first.tunnel.Name, first.at)
			continue
		}
		seen[k] = d
	}
}

func (l *loader) claims() ([]*claim, bool) {
	var out []*claim
	for _, d := range l.drafts {
		for _, c := range d.children {
			if len(out)+len(c.local)*len(c.remote) > maxClaims {
				return out, false
			}
			for _, r := range c.remote {
				for _, s := range c.local {
					if s.Start.BitLen() == r.Start.BitLen() {
						out = append(out, &claim{s.Selector, r.Selector, c, r.at})
					}
				}
			}
		}
	}
	return out, true
}

// childPair is two children in the order of the files.
type childPair [2]*childDraft

// identicalClaims reports what is claimed twice, once for a pair of children. It returns the other claims, and the pairs.
func (l *loader) identicalClaims(claims []*claim) ([]*claim, map[childPair]bool) {
	first := make(map[[2]policy.Selector]*claim, len(claims))
	disputed := map[childPair]bool{}
	out := make([]*claim, 0, len(claims))
	for _, c := range claims {
		k := [2]policy.Selector{c.local, c.remote}
		f, twice := first[k]
		if !twice {
			first[k] = c
			out = append(out, c)
			continue
		}
		if p := (childPair{f.child, c.child}); f.child != c.child && !disputed[p] {
			disputed[p] = true
			l.errorf(c.at, "%s claims the same traffic as %s at %s: %s to %s", c.child, f.child, f.at, c.local, c.remote)
		}
	}
	return out, disputed
}

// sweep goes through the claims in the order of one end's first addresses and compares each with those before it that
// reach it. It lists one overlap for a pair of children, at most one more than is reported; false if it gave up.
func sweep(claims []*claim, disputed map[childPair]bool, end func(*claim) *policy.Selector) ([][2]*claim, bool) {
	sorted := slices.Clone(claims)
	slices.SortStableFunc(sorted, func(a, b *claim) int {
		s, t := end(a), end(b)
		return cmp.Or(cmp.Compare(s.Start.BitLen(), t.Start.BitLen()), s.Start.Compare(t.Start))
	})
	seen := map[childPair]bool{}
	var out [][2]*claim
	var open []*claim
	comparisons := 0
	for _, c := range sorted {
		start := end(c).Start
		open = slices.DeleteFunc(open, func(o *claim) bool {
			return end(o).Start.BitLen() != start.BitLen() || end(o).End.Less(start)
		})
		if comparisons += len(open); comparisons > maxComparisons {
			return nil, false
		}
		for _, o := range open {
			if o.child == c.child || !overlap(o, c) {
				continue
			}
			p := childPair{o.child, c.child}
			q := childPair{c.child, o.child}
			if disputed[p] || disputed[q] || seen[p] || seen[q] || settled(o, c) {
				continue
			}
			seen[p] = true
			if out = append(out, [2]*claim{o, c}); len(out) > maxOverlaps {
				return out, true
			}
		}
		open = append(open, c)
	}
	return out, true
}

func overlap(a, b *claim) bool {
	_, l := a.local.Intersect(b.local)
	_, r := a.remote.Intersect(b.remote)
	return l && r
}

// settled says that one claim lies within the other and is asked first, or that a person ordered them.
func settled(a, b *claim) bool {
	if a.child.priority && b.child.priority && a.child.child.Priority != b.child.child.Priority {
		return true
	}
	if within(b, a) {
		a, b = b, a
	}
	return within(a, b) && a.child.child.Priority < b.child.child.Priority
}

func within(a, b *claim) bool { return b.local.Covers(a.local) && b.remote.Covers(a.remote) }

// warnOverlap stands at the child that loses.
func (l *loader) warnOverlap(a, b *claim) {
	lose, win := b, a
	pa, pb := a.child.child.Priority, b.child.child.Priority
	if pb < pa || pb == pa && l.earlier(b.child, a.child) {
		lose, win = a, b
	}
	loc, _ := a.local.Intersect(b.local)
	rem, _ := a.remote.Intersect(b.remote)
	l.warnf(lose.at, "%s and %s at %s both claim %s to %s, and the latter is asked first: set priority to decide", lose.child, win.child, win.at, loc, rem)
}

func (l *loader) earlier(a, b *childDraft) bool {
	return cmp.Or(cmp.Compare(l.order[a.at.file], l.order[b.at.file]), cmp.Compare(a.at.line, b.at.line)) < 0
}
