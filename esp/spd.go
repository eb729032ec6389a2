package esp

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"

	"coati/policy"
)

// Each direction of the SPD (RFC 4301, section 4.4.1): first match in order of priority, then of ID. It is decorrelated by
// address: a map of remote prefixes, and where several policies have one, a map of their local prefixes, then the policies
// for exactly that pair in order. A packet looks at the prefixes that cover it and nothing else, so 100,000 policies
// cost what 10 do. A snapshot is never changed, and shares what is not new with its predecessor.

// wideProduct is how many prefix pairs a policy may take before it goes to the list that every lookup walks: an address
// range can need 254 prefixes.
const wideProduct = 256

// spdEntry is one policy in a snapshot.
type spdEntry struct {
	config policy.Policy
	bundle *bundle
	queue  *queue
}

func (e *spdEntry) before(o *spdEntry) int {
	return cmp.Or(cmp.Compare(e.config.Priority, o.config.Priority), cmp.Compare(e.config.ID, o.config.ID))
}

type (
	ordered []*spdEntry
	spd     struct {
		families [2]*prefixMap // IPv4, IPv6: by remote prefix
		wide     ordered
	}
)

func newSPD() *spd {
	s := new(spd)
	for i := range s.families {
		// The seed keeps whoever chooses addresses from choosing where they lie.
		s.families[i] = newPrefixMap(rand.Uint64())
	}
	return s
}

func (o ordered) with(e *spdEntry) ordered {
	i, _ := slices.BinarySearchFunc(o, e, (*spdEntry).before)
	return slices.Insert(slices.Clip(slices.Clone(o)), i, e)
}

func (o ordered) without(e *spdEntry) ordered {
	return slices.DeleteFunc(slices.Clone(o), func(x *spdEntry) bool { return x == e })
}

// pairs calls f for each pair of prefixes, or returns false if there are too many.
func pairs(c *policy.Policy, f func(remote, local netip.Prefix)) bool {
	remote, local := prefixes(c.Remote), prefixes(c.Local)
	if len(remote)*len(local) > wideProduct {
		return false
	}
	for _, r := range remote {
		for _, l := range local {
			if r.Addr().BitLen() == l.Addr().BitLen() {
				f(r, l)
			}
		}
	}
	return true
}

func prefixes(sels []policy.Selector) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range sels {
		for _, p := range s.Prefixes() {
			if !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	return out
}

// lookupInbound is the policy for a flow that comes in; nil if there is none.
func (s *spd) lookupInbound(f policy.Flow) *spdEntry {
	f.Src, f.Dst, f.SrcPort, f.DstPort = f.Dst, f.Src, f.DstPort, f.SrcPort
	return s.lookup(&f)
}

// lookup is the policy for an outbound flow; nil if there is none.
func (s *spd) lookup(f *policy.Flow) *spdEntry {
	best := s.wide.first(f, nil)
	if !f.Dst.IsValid() || f.Src.BitLen() != f.Dst.BitLen() {
		return best
	}
	return s.families[familyOf(f.Dst)].first(bitsOf(f.Dst), bitsOf(f.Src), f, best)
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// first is the first match that comes before best.
func (o ordered) first(f *policy.Flow, best *spdEntry) *spdEntry {
	for _, e := range o {
		if best != nil && best.before(e) <= 0 {
			break
		}
		if policy.MatchFlow(e.config.Local, e.config.Remote, *f, true) {
			return e
		}
	}
	return best
}

// first is the policy itself if it matches and comes before best. One of which only the addresses count is known to match.
func (e *spdEntry) first(plain bool, f *policy.Flow, best *spdEntry) *spdEntry {
	if best != nil && best.before(e) <= 0 || !plain && !policy.MatchFlow(e.config.Local, e.config.Remote, *f, true) {
		return best
	}
	return e
}

// plain says that a policy selects whatever has its addresses.
func (e *spdEntry) plain() bool {
	special := func(s policy.Selector) bool { return s.Protocol != 0 || s.Start.Zone() != "" || s.End.Zone() != "" }
	return !slices.ContainsFunc(e.config.Local, special) && !slices.ContainsFunc(e.config.Remote, special)
}

// manyPolicies is from how many on a change copies the maps once instead of a page of them for each.
const manyPolicies = 64

// change is the snapshot without some policies and with others.
func (s *spd) change(remove, add []*spdEntry) *spd {
	if len(remove)+len(add) == 0 {
		return s
	}
	c := spdChange{spd: *s, whole: len(remove)+len(add) >= manyPolicies, ours: make(map[*prefixMap]bool)}
	for _, e := range remove {
		if !pairs(&e.config, func(remote, local netip.Prefix) { c.remove(e, remote, local) }) {
			c.wide = c.wide.without(e)
		}
	}
	for _, e := range add {
		plain := e.plain()
		if !pairs(&e.config, func(remote, local netip.Prefix) { c.add(e, plain, remote, local) }) {
			c.wide = c.wide.with(e)
		}
	}
	return &c.spd
}

// spdChange is a snapshot being made.
type spdChange struct {
	spd
	whole bool                // the pages of maps that change are copied all at once
	ours  map[*prefixMap]bool // nobody reads these yet
}

// own makes a map that nobody else reads.
func (c *spdChange) own(m *prefixMap) *prefixMap {
	if c.ours[m] {
		return m
	}
	m = m.successor(c.whole)
	c.ours[m] = true
	return m
}

func (c *spdChange) family(p netip.Prefix) *prefixMap {
	m := &c.families[familyOf(p.Addr())]
	*m = c.own(*m)
	return *m
}

func (c *spdChange) add(e *spdEntry, plain bool, remote, local netip.Prefix) {
	m := c.family(remote)
	s := m.put(bitsOf(remote.Addr()), uint8(remote.Bits()), c.whole)
	other, length := bitsOf(local.Addr()), uint8(local.Bits())
	if s.entry == nil && s.others == nil {
		s.entry, s.plain, s.other, s.otherLen = e, plain, other, length
		return
	}
	if s.others == nil {
		before := *s
		s.entry, s.plain, s.other, s.otherLen = nil, false, addrBits{}, 0
		s.others = newPrefixMap(m.seed)
		c.ours[s.others] = true
		first := s.others.put(before.other, before.otherLen, true)
		first.entry, first.plain = before.entry, before.plain
	}
	s.others = c.own(s.others)
	o := s.others.put(other, length, c.whole)
	switch {
	case o.list != nil:
		list := o.list.with(e)
		o.list = &list
	case o.entry != nil:
		list := ordered{o.entry}.with(e)
		o.list, o.entry, o.plain = &list, nil, false
	default:
		o.entry, o.plain = e, plain
	}
}

func (c *spdChange) remove(e *spdEntry, remote, local netip.Prefix) {
	m := c.family(remote)
	key, length := bitsOf(remote.Addr()), uint8(remote.Bits())
	if m.find(key, length) == nil {
		return
	}
	s := m.put(key, length, c.whole)
	if s.others != nil {
		s.others = c.own(s.others)
		other, otherLen := bitsOf(local.Addr()), uint8(local.Bits())
		o := s.others.put(other, otherLen, c.whole)
		if o.list != nil {
			list := o.list.without(e)
			o.list = &list
		}
		if o.entry == e || o.list != nil && len(*o.list) == 0 {
			s.others.remove(other, otherLen, c.whole)
		}
		if s.others.count > 0 {
			return
		}
	}
	m.remove(key, length, c.whole)
}
