package xfrm

import (
	"cmp"
	"slices"
	"time"

	"coati/policy"
)

// Entries lists the SAs, with copies of their keys if they are asked for. Each is a question to the kernel.
func (p *Plane) Entries(keys bool) []policy.SAEntry {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]policy.SAEntry, 0, len(p.sas))
	for _, s := range p.sas {
		e := policy.SAEntry{SA: s.config, Dying: s.dying, Dead: s.gone, State: policy.State{Packets: s.packets, Octets: s.bytes, LastUsed: s.lastMoved}}
		e.SA.EncryptionKey, e.SA.IntegrityKey = policy.Secret{}, policy.Secret{}
		if keys {
			e.SA.EncryptionKey, e.SA.IntegrityKey = s.config.EncryptionKey.Clone(), s.config.IntegrityKey.Clone()
		}
		if s.installed {
			if r, err := p.conn.get(s.id); err == nil {
				p.seen(s, &r, time.Now())
				e.State = r.state(s.config.Direction, s.lastMoved)
			}
		}
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b policy.SAEntry) int { return cmp.Compare(a.SA.ID, b.SA.ID) })
	return list
}
