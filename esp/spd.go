package esp

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"coati/policy"
)

// Each direction of the SPD (RFC 4301, section 4.4.1): first match in order of priority, then of ID. It is decorrelated by
// address: a table of remote prefixes, in each a table of local prefixes, in each the policies for exactly that pair in
// order. A packet looks at the prefixes that cover it and nothing else, so 100,000 policies cost what 10 do. Tables
// share what did not change with their predecessors: a snapshot is never changed.

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
	ordered    []*spdEntry
	localTable = bart.Table[ordered]
	spd        struct {
		remote *bart.Table[*localTable]
		wide   ordered
	}
)

func newSPD() *spd { return &spd{remote: new(bart.Table[*localTable])} }

func (o ordered) with(e *spdEntry) ordered {
	i, _ := slices.BinarySearchFunc(o, e, (*spdEntry).before)
	return slices.Insert(slices.Clip(slices.Clone(o)), i, e)
}

func (o ordered) without(id policy.PolicyID) ordered {
	return slices.DeleteFunc(slices.Clone(o), func(e *spdEntry) bool { return e.config.ID == id })
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

// with is the snapshot that has e too.
func (s *spd) with(e *spdEntry) *spd {
	next := *s
	ok := pairs(&e.config, func(remote, local netip.Prefix) {
		next.remote = next.remote.ModifyPersist(remote, func(t *localTable, found bool) (*localTable, bool) {
			if !found {
				t = new(localTable)
			}
			return t.ModifyPersist(local, func(o ordered, _ bool) (ordered, bool) { return o.with(e), false }), false
		})
	})
	if !ok {
		next.wide = s.wide.with(e)
	}
	return &next
}

// manyPolicies is from how many on withAll copies the table once instead of a path of it for each.
const manyPolicies = 64

// withAll is the snapshot that has all of add too.
func (s *spd) withAll(add []*spdEntry) *spd {
	if len(add) < manyPolicies {
		for _, e := range add {
			s = s.with(e)
		}
		return s
	}
	next := &spd{remote: s.remote.Clone(), wide: s.wide}
	ours := make(map[*localTable]bool)
	for _, e := range add {
		ok := pairs(&e.config, func(remote, local netip.Prefix) {
			next.remote.Modify(remote, func(t *localTable, found bool) (*localTable, bool) {
				switch {
				case !found:
					t = new(localTable)
					ours[t] = true
				case !ours[t]:
					t = t.Clone()
					ours[t] = true
				}
				t.Modify(local, func(o ordered, _ bool) (ordered, bool) { return o.with(e), false })
				return t, false
			})
		})
		if !ok {
			next.wide = next.wide.with(e)
		}
	}
	return next
}

// without is the snapshot that does not have e.
func (s *spd) without(e *spdEntry) *spd {
	next := *s
	ok := pairs(&e.config, func(remote, local netip.Prefix) {
		next.remote = next.remote.ModifyPersist(remote, func(t *localTable, found bool) (*localTable, bool) {
			if !found {
				return nil, true
			}
			t = t.ModifyPersist(local, func(o ordered, _ bool) (ordered, bool) {
				o = o.without(e.config.ID)
				return o, len(o) == 0
			})
			return t, t.Size() == 0
		})
	})
	if !ok {
		next.wide = s.wide.without(e.config.ID)
	}
	return &next
}

// lookupInbound is the policy for a flow that comes in; nil if there is none.
func (s *spd) lookupInbound(f policy.Flow) *spdEntry {
	f.Src, f.Dst, f.SrcPort, f.DstPort = f.Dst, f.Src, f.DstPort, f.SrcPort
	return s.lookup(&f)
}

// lookup is the policy for an outbound flow; nil if there is none.
func (s *spd) lookup(f *policy.Flow) *spdEntry {
	best := s.wide.first(f, nil)
	remote := netip.PrefixFrom(f.Dst, f.Dst.BitLen())
	local := netip.PrefixFrom(f.Src, f.Src.BitLen())
	for _, t := range s.remote.Supernets(remote) {
		for _, o := range t.Supernets(local) {
			best = o.first(f, best)
		}
	}
	return best
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
