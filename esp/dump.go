package esp

import (
	"cmp"
	"slices"

	"coati/policy"
)

// Entries lists all SAs as they stand, in the order of their IDs. With keys, each has a copy of its keys, the caller's to
// wipe; else it has none.
func (p *Plane) Entries(keys bool) []policy.SAEntry {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]policy.SAEntry, 0, len(p.out)+len(p.in))
	entry := func(c *policy.SA, u *usage, path *policy.Path) *policy.SAEntry {
		e := policy.SAEntry{SA: *c, State: u.state(), Dying: u.toldSoft.Load(), Dead: u.expired.Load()}
		e.SA.Path = *path
		e.SA.EncryptionKey, e.SA.IntegrityKey = policy.Secret{}, policy.Secret{}
		if keys {
			e.SA.EncryptionKey, e.SA.IntegrityKey = c.EncryptionKey.Clone(), c.IntegrityKey.Clone()
		}
		list = append(list, e)
		return &list[len(list)-1]
	}
	for _, s := range p.out {
		entry(&s.config, &s.usage, s.path.Load()).State.Sequence = s.reserved.Load()
	}
	for _, s := range p.in {
		e := entry(&s.config, &s.usage, s.path.Load())
		e.State.LastAuthenticated = instant(s.authenticated.Load())
		s.mu.Lock()
		e.State.Sequence = s.window.top
		s.mu.Unlock()
	}
	slices.SortFunc(list, func(a, b policy.SAEntry) int { return cmp.Compare(a.SA.ID, b.SA.ID) })
	return list
}
