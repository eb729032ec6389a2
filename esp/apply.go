package esp

import (
	"fmt"
	"math"
	"slices"

	"coati/packet"
	"coati/policy"
)

// staged is a transaction that was checked as a whole: committing it cannot fail.
type staged struct {
	out []*outSA
	in  []*inSA
}

// Apply performs all of the transaction or none of it.
func (p *Plane) Apply(tx policy.Tx) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	st, err := p.check(&tx)
	if err != nil {
		return err
	}
	p.putPolicies(tx.PutPolicies)
	heirs := p.addSAs(st)
	p.updateSAs(tx.UpdateSAs)
	p.generation.Add(1)
	p.drainQueues(&tx)
	for _, s := range heirs {
		// The peer, having answered the rekey, sends on the old SA until it sees the new one used (RFC 7296, section 2.8).
		if s.usage.packets.Load() == 0 {
			p.sendDummy(s)
		}
	}
	p.deleteSAs(tx.DeleteSAs)
	p.deletePolicies(tx.DeletePolicies)
	p.generation.Add(1)
	for _, id := range tx.FailAcquires {
		if e := p.policies[id]; e != nil {
			p.failQueue(e, DropNoSA)
		}
	}
	return nil
}

// check finds every reason to refuse, and makes the new SAs.
func (p *Plane) check(tx *policy.Tx) (staged, error) {
	var st staged
	for i := range tx.PutPolicies {
		if err := checkPolicy(&tx.PutPolicies[i]); err != nil {
			return st, err
		}
	}
	gone := make(map[policy.SAID]bool, len(tx.DeleteSAs))
	for _, id := range tx.DeleteSAs {
		gone[id] = true
	}
	ids := make(map[policy.SAID]bool, len(tx.AddSAs))
	spis := make(map[policy.SPI]bool, len(tx.AddSAs))
	for i := range tx.AddSAs {
		sa := &tx.AddSAs[i]
		if err := p.checkSA(sa, ids, spis, gone); err != nil {
			return st, err
		}
		if err := p.sharedNAT(sa, gone); err != nil {
			return st, saError(sa, "%w", err)
		}
		tr, err := p.newTransform(sa)
		if err != nil {
			return st, saError(sa, "%w", err)
		}
		if sa.Direction == policy.Outbound {
			st.out = append(st.out, newOutSA(*sa, tr))
		} else {
			st.in = append(st.in, newInSA(*sa, tr))
		}
	}
	known := func(id policy.SAID) bool { return ids[id] || p.out[id] != nil || p.in[id] != nil }
	for _, u := range tx.UpdateSAs {
		if !known(u.ID) {
			return st, fmt.Errorf("update of sa %d: %w", u.ID, policy.ErrNoSA)
		}
		if u.Path != nil && !u.Path.Remote.IsValid() {
			return st, fmt.Errorf("update of sa %d: the new path has no remote address", u.ID)
		}
	}
	for _, id := range tx.DeleteSAs {
		if !known(id) {
			return st, fmt.Errorf("delete of sa %d: %w", id, policy.ErrNoSA)
		}
	}
	return st, nil
}

func checkPolicy(c *policy.Policy) error {
	if len(c.Local) == 0 || len(c.Remote) == 0 {
		return fmt.Errorf("policy %d (%s) selects nothing: it needs local and remote selectors", c.ID, c.Name)
	}
	for _, sels := range [][]policy.Selector{c.Local, c.Remote} {
		for _, s := range sels {
			if !s.Start.IsValid() || s.Start.BitLen() != s.End.BitLen() || s.End.Less(s.Start) {
				return fmt.Errorf("policy %d (%s): impossible selector %v", c.ID, c.Name, s)
			}
		}
	}
	return nil
}

func (p *Plane) checkSA(sa *policy.SA, ids map[policy.SAID]bool, spis map[policy.SPI]bool, gone map[policy.SAID]bool) error {
	switch {
	case ids[sa.ID] || p.out[sa.ID] != nil || p.in[sa.ID] != nil:
		return saError(sa, "the id is taken")
	case sa.Protocol != policy.ProtocolESP:
		return saError(sa, "%w", errProtocol)
	case sa.TFC < policy.TFCToMTU || sa.TFC > packet.MaxIPPacket:
		return saError(sa, "packets cannot be padded to %d octets", sa.TFC)
	case sa.SPI < 256:
		return saError(sa, "spis below 256 are reserved")
	case !sa.Path.Remote.IsValid():
		return saError(sa, "the path has no remote address")
	case sa.Sequence > math.MaxUint32 && !sa.ESN, sa.Ceiling != 0 && sa.Ceiling < sa.Sequence:
		return saError(sa, "its sequence numbers are used up: it needs another key (RFC 4303, section 3.3.3)")
	case len(sa.Local) == 0 || len(sa.Remote) == 0:
		return saError(sa, "no selectors: it would carry nothing")
	}
	ids[sa.ID] = true
	if sa.Direction == policy.Outbound {
		return nil
	}
	taken := p.inbound.find(uint32(sa.SPI))
	switch w := sa.ReplayWindow; {
	case spis[sa.SPI] || taken != nil && !gone[taken.config.ID]: // one that goes gives its SPI to its successor
		return saError(sa, "the spi is taken")
	case w != 0 && w < MinReplayWindow || w > MaxReplayWindow:
		return saError(sa, "a replay window of %d: use %d to %d, or 0 for none", w, MinReplayWindow, MaxReplayWindow)
	case w == 0 && sa.ESN:
		return saError(sa, "extended sequence numbers need a replay window (RFC 4303, section 3.4.3)")
	}
	spis[sa.SPI] = true
	return nil
}

func (p *Plane) bundle(reqID uint32) *bundle {
	b := p.bundles[reqID]
	if b == nil {
		b = &bundle{policies: make(map[policy.PolicyID]*spdEntry)}
		p.bundles[reqID] = b
	}
	return b
}

// forget takes a policy out of its bundle. The bundle stays while something may look for it.
func (p *Plane) forget(e *spdEntry) {
	delete(e.bundle.policies, e.config.ID)
	p.dropBundle(e.config.ReqID, e.bundle)
}

func (p *Plane) dropBundle(reqID uint32, b *bundle) {
	if len(b.policies) == 0 && !b.live() {
		delete(p.bundles, reqID)
	}
}

func (p *Plane) putPolicies(configs []policy.Policy) {
	var remove, add [2][]*spdEntry // by direction
	fresh := make(map[*spdEntry]bool, len(configs))
	for _, c := range configs {
		e := &spdEntry{config: c, queue: new(queue)}
		if old := p.policies[c.ID]; old != nil {
			e.queue = old.queue
			p.forget(old)
			d := old.config.Direction
			if fresh[old] {
				add[d] = slices.DeleteFunc(add[d], func(e *spdEntry) bool { return e == old })
			} else {
				remove[d] = append(remove[d], old)
			}
		}
		p.policies[c.ID] = e
		e.bundle = p.bundle(c.ReqID)
		e.bundle.policies[c.ID] = e
		add[c.Direction] = append(add[c.Direction], e)
		fresh[e] = true
	}
	p.changePolicies(remove, add)
}

func (p *Plane) changePolicies(remove, add [2][]*spdEntry) {
	p.spd.Store(p.spd.Load().change(remove[policy.Outbound], add[policy.Outbound]))
	p.spdIn.Store(p.spdIn.Load().change(remove[policy.Inbound], add[policy.Inbound]))
}

// addSAs returns the outbound ones that take over from another.
func (p *Plane) addSAs(st staged) []*outSA {
	var heirs []*outSA
	for _, s := range st.out {
		p.out[s.config.ID] = s
		p.outSPI[s.config.SPI] = append(p.outSPI[s.config.SPI], s)
		if s.config.Standby {
			continue
		}
		b := p.bundle(s.config.ReqID)
		if b.live() && !s.config.First && !s.config.ByPolicy {
			heirs = append(heirs, s)
		}
		b.replace(s, nil)
		p.inheritMTU(s.path.Load().Remote.Addr())
	}
	// After the outbound ones, so that answers to what waited find them.
	for _, s := range st.in {
		p.in[s.config.ID] = s
		p.hatch(s)
	}
	return heirs
}

func (p *Plane) updateSAs(updates []policy.SAUpdate) {
	for _, u := range updates {
		if out := p.out[u.ID]; out != nil {
			if u.Path != nil {
				out.setPath(u.Path.Unmap())
			}
			if u.Ceiling != 0 {
				out.setCeiling(u.Ceiling)
			}
			if u.Activate {
				p.bundle(out.config.ReqID).replace(out, nil)
			}
		}
		if in := p.in[u.ID]; in != nil && u.Path != nil {
			path := u.Path.Unmap()
			in.path.Store(&path)
			in.moved.Store(nil)
		}
	}
}

// drainQueues lets go what waited for what the transaction brought.
func (p *Plane) drainQueues(tx *policy.Tx) {
	drain := func(reqID uint32) {
		if b := p.bundles[reqID]; b != nil && b.live() {
			for _, e := range b.policies {
				p.drainQueue(e)
			}
		}
	}
	for i := range tx.PutPolicies {
		drain(tx.PutPolicies[i].ReqID)
	}
	for i := range tx.AddSAs {
		if tx.AddSAs[i].Direction == policy.Outbound {
			drain(tx.AddSAs[i].ReqID)
		}
	}
	for _, u := range tx.UpdateSAs {
		if s := p.out[u.ID]; s != nil && u.Activate {
			drain(s.config.ReqID)
		}
	}
}

// deleteSAs wipes the key material. The expanded keys inside crypto/aes cannot be reached and go with the garbage.
func (p *Plane) deleteSAs(ids []policy.SAID) {
	for _, id := range ids {
		if s := p.out[id]; s != nil {
			s.usage.expired.Store(true)
			s.usage.toldHard.Store(true)
			b := p.bundle(s.config.ReqID)
			b.replace(nil, s)
			p.dropBundle(s.config.ReqID, b)
			delete(p.out, id)
			p.forgetSPI(s)
			s.config.EncryptionKey.Wipe()
			s.config.IntegrityKey.Wipe()
		}
		if s := p.in[id]; s != nil {
			// Nobody finds it any more. What a queue has in its hands came before the delete, and is still opened.
			s.usage.toldHard.Store(true)
			p.inbound.replace(uint32(s.config.SPI), nil, s)
			delete(p.in, id)
			s.config.EncryptionKey.Wipe()
			s.config.IntegrityKey.Wipe()
		}
	}
}

func (p *Plane) forgetSPI(s *outSA) {
	spi := s.config.SPI
	if p.outSPI[spi] = slices.DeleteFunc(p.outSPI[spi], func(o *outSA) bool { return o == s }); len(p.outSPI[spi]) == 0 {
		delete(p.outSPI, spi)
	}
}

func (p *Plane) deletePolicies(ids []policy.PolicyID) {
	var remove [2][]*spdEntry // by direction
	for _, id := range ids {
		e := p.policies[id]
		if e == nil {
			continue
		}
		remove[e.config.Direction] = append(remove[e.config.Direction], e)
		p.failQueue(e, DropNoPolicy)
		delete(p.policies, id)
		p.forget(e)
	}
	p.changePolicies(remove, [2][]*spdEntry{})
}
