package xfrm

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"coati/policy"
)

// A transaction: everything that can be refused without the kernel is; then its steps are made, each leaving a way back;
// an error takes the way back of all. What only deletes comes last and does not fail.

// undo is the way back, newest step last.
type undo []func()

func (u undo) run() {
	for _, back := range slices.Backward(u) {
		back()
	}
}

// Apply performs all of the transaction or none of it.
func (p *Plane) Apply(tx policy.Tx) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errClosed
	}
	if err := p.check(&tx); err != nil {
		return err
	}
	var back undo
	err := p.perform(&tx, &back)
	if err != nil {
		back.run()
		return err
	}
	p.deleteSAs(tx.DeleteSAs)
	for _, id := range tx.FailAcquires {
		if pol := p.policies[id]; pol != nil {
			p.rounds[pol.ReqID]++
			p.refused[pol.ReqID] = time.Now()
		}
	}
	rest := maps.Clone(p.policies)
	for _, id := range tx.DeletePolicies {
		delete(rest, id)
	}
	if _, err := p.reconcile(p.desired(rest)); err != nil {
		return fmt.Errorf("the kernel's policies: %w", err)
	}
	p.policies = rest
	return nil
}

// check finds every reason to refuse that we know ourselves.
func (p *Plane) check(tx *policy.Tx) error {
	for i := range tx.PutPolicies {
		c := &tx.PutPolicies[i]
		if c.ReqID > ownMask {
			return fmt.Errorf("policy %d (%s): the kernel plane has reqids up to %d", c.ID, c.Name, ownMask)
		}
		if _, err := slots(c, waiting(0), 0); err != nil {
			return err
		}
	}
	ids, places, gone := map[policy.SAID]bool{}, map[stateID]bool{}, map[policy.SAID]bool{}
	spis := map[policy.SPI]bool{}
	for _, id := range tx.DeleteSAs {
		gone[id] = true
	}
	// One that goes gives its place to its successor.
	taken := func(s *sa) bool { return s != nil && !gone[s.config.ID] }
	for i := range tx.AddSAs {
		c := &tx.AddSAs[i]
		err := checkSA(c)
		at := identity(c)
		switch {
		case err != nil:
		case ids[c.ID] || p.sas[c.ID] != nil:
			err = errors.New("the id is taken")
		case c.ReqID > ownMask:
			err = fmt.Errorf("the kernel plane has reqids up to %d", ownMask)
		case places[at] || taken(p.byState[at]), c.Direction == policy.Inbound && (spis[c.SPI] || taken(p.inbound(c.SPI))):
			err = errors.New("the spi is taken")
		}
		if err == nil {
			err = p.sharedNAT(c, gone)
		}
		if err != nil {
			return saError(c, err)
		}
		ids[c.ID], places[at] = true, true
		if c.Direction == policy.Inbound {
			spis[c.SPI] = true
		}
	}
	known := func(id policy.SAID) bool { return ids[id] || p.sas[id] != nil }
	for _, u := range tx.UpdateSAs {
		if !known(u.ID) {
			return fmt.Errorf("update of sa %d: %w", u.ID, policy.ErrNoSA)
		}
		if u.Path != nil && !u.Path.Remote.IsValid() {
			return fmt.Errorf("update of sa %d: the new path has no remote address", u.ID)
		}
		if s := p.sas[u.ID]; u.Path != nil && s != nil && s.installed && u.Path.Unmap() != s.config.Path && ownsNonces(&s.config) {
			return fmt.Errorf("update of sa %d: %w: installed anew, the kernel would draw its nonces anew", u.ID, policy.ErrRekey)
		}
	}
	for _, id := range tx.DeleteSAs {
		if !known(id) {
			return fmt.Errorf("delete of sa %d: %w", id, policy.ErrNoSA)
		}
	}
	return nil
}

// sharedNAT is an error if another host behind the NAT of this SA's peer has some of its traffic.
func (p *Plane) sharedNAT(c *policy.SA, gone map[policy.SAID]bool) error {
	for id, s := range p.sas {
		if gone[id] || s.gone {
			continue
		}
		if err := policy.BehindOneNAT(c, &s.config, &s.config.Path); err != nil {
			return err
		}
	}
	return nil
}

// ownsNonces says whether the kernel makes nonces for an SA that must never repeat: a key of a counter mode has one such
// generator in its life.
func ownsNonces(sa *policy.SA) bool {
	enc := sa.Encryption.Algorithm()
	return sa.Direction == policy.Outbound && enc != nil && enc.Counter
}

func saError(c *policy.SA, err error) error {
	return fmt.Errorf("sa %d (%s, spi %s): %w", c.ID, c.Direction, c.SPI, err)
}

// perform makes the steps that may fail. Policies come with the states they lead to: one that leads to a state not yet
// there would ask for it.
func (p *Plane) perform(tx *policy.Tx, back *undo) error {
	before := p.policies
	*back = append(*back, func() { p.policies = before })
	p.policies = maps.Clone(before)
	for i := range tx.PutPolicies {
		c := tx.PutPolicies[i]
		p.policies[c.ID] = &c
	}
	for i := range tx.AddSAs {
		if err := p.add(&tx.AddSAs[i], back); err != nil {
			return saError(&tx.AddSAs[i], err)
		}
	}
	for _, u := range tx.UpdateSAs {
		if err := p.update(p.sas[u.ID], u, back); err != nil {
			return saError(&p.sas[u.ID].config, err)
		}
	}
	revert, err := p.reconcile(p.desired(p.policies))
	*back = append(*back, revert...)
	if err != nil {
		return fmt.Errorf("the kernel's policies: %w", err)
	}
	return nil
}

func (p *Plane) add(c *policy.SA, back *undo) error {
	s := &sa{config: *c, id: identity(c), added: time.Now()}
	p.giveWay(s.id, back)
	if !c.Standby {
		if err := p.install(s, c.Sequence); err != nil {
			return err
		}
	}
	p.sas[c.ID], p.byState[s.id] = s, s
	held := c.Direction == policy.Inbound && p.larval[c.SPI]
	if held {
		p.free(c.SPI)
	}
	*back = append(*back, func() {
		// The caller keeps the keys of what was not applied, and its SPI.
		p.remove(s)
		delete(p.sas, c.ID)
		delete(p.byState, s.id)
		if held {
			p.larval[c.SPI] = true
		}
	})
	return nil
}

// giveWay makes room for the successor of an SA that the transaction deletes: the kernel knows both by the same name.
func (p *Plane) giveWay(at stateID, back *undo) {
	old := p.byState[at]
	if old == nil {
		return
	}
	var r readState
	var err error
	was := old.installed
	if was {
		r, err = p.conn.get(at)
	}
	p.remove(old)
	delete(p.byState, at)
	*back = append(*back, func() {
		p.byState[at] = old
		if was && err == nil && p.reinstall(old, &r) != nil {
			old.gone = true
		}
	})
}

// install puts an SA into the kernel and reads it back.
func (p *Plane) install(s *sa, sent uint64) error {
	reqID := p.reqID(s.config.ReqID)
	if err := p.conn.do(stateMessage(&s.config, flagsCreate, reqID, sent, marking{p.config.Mark, p.config.Mask}), nil); err != nil {
		return err
	}
	r, err := p.conn.get(s.id)
	if err == nil {
		err = r.differs(&s.config, reqID)
	}
	if err != nil {
		return errors.Join(err, p.conn.remove(s.id))
	}
	s.installed = true
	if s.config.Direction == policy.Outbound {
		p.order++
		s.order = p.order
	}
	return nil
}

func (p *Plane) remove(s *sa) {
	if s.installed {
		_ = p.conn.remove(s.id) // one that cannot be deleted is found by its tag at the next start
		s.installed = false
	}
}

func (p *Plane) update(s *sa, u policy.SAUpdate, back *undo) error {
	if u.Path != nil {
		if err := p.move(s, u.Path.Unmap(), back); err != nil {
			return err
		}
	}
	if u.Activate && s.config.Standby {
		if err := p.install(s, 0); err != nil {
			return err
		}
		s.config.Standby = false
		*back = append(*back, func() { p.remove(s); s.config.Standby = true })
	}
	return nil
}

// move installs an SA anew on another path: the addresses are what the kernel knows it by. An inbound one keeps its
// replay window's upper end, so that what was received before is not taken again.
func (p *Plane) move(s *sa, path policy.Path, back *undo) error {
	old := s.config.Path
	if path == old {
		return nil
	}
	was := s.installed
	var r readState
	if was {
		var err error
		if r, err = p.conn.get(s.id); err != nil {
			return err
		}
	}
	place := func(to policy.Path) error {
		p.remove(s)
		delete(p.byState, s.id)
		s.config.Path = to
		s.id = identity(&s.config)
		p.byState[s.id] = s
		if !was {
			return nil
		}
		return p.reinstall(s, &r)
	}
	*back = append(*back, func() { _ = place(old) })
	return place(path)
}

func (p *Plane) reinstall(s *sa, r *readState) error {
	if s.config.Direction == policy.Outbound {
		r.outbound += leap
		if !s.config.ESN && r.outbound >= 1<<32 {
			return errors.New("its sequence numbers are used up")
		}
		return p.install(s, r.outbound)
	}
	return p.install(s, r.inbound)
}

func (p *Plane) deleteSAs(ids []policy.SAID) {
	for _, id := range ids {
		s := p.sas[id]
		if s == nil {
			continue
		}
		p.remove(s)
		delete(p.sas, id)
		if p.byState[s.id] == s {
			delete(p.byState, s.id)
		}
		s.wipe()
	}
}

// targets are where the outbound SAs lead, by reqid.
func (p *Plane) targets() map[uint32]target {
	newest := map[uint32]uint64{}
	out := map[uint32]target{}
	for _, s := range p.sas {
		if c := &s.config; c.Direction == policy.Outbound && s.installed && s.order > newest[c.ReqID] {
			newest[c.ReqID] = s.order
			out[c.ReqID] = target{c.Path.Local.Addr().Unmap(), c.Path.Remote.Addr().Unmap()}
		}
	}
	return out
}

// desired is what the kernel's SPD must be for these policies.
func (p *Plane) desired(policies map[policy.PolicyID]*policy.Policy) spd {
	next := spd{}
	if !p.config.NeighbourPolicies {
		next = builtin()
	}
	targets := p.targets()
	for _, c := range policies {
		to, ok := targets[c.ReqID]
		if !ok {
			to = waiting(p.rounds[c.ReqID])
		}
		_, refused := p.refused[c.ReqID]
		s, err := slots(forNow(c, ok, refused), to, p.reqID(c.ReqID))
		if err != nil {
			continue // check has refused it
		}
		next.merge(s)
	}
	return next
}

// reconcile makes the kernel's SPD the desired one, and returns the way back also where it fails.
func (p *Plane) reconcile(next spd) (undo, error) {
	var back undo
	before := p.spd
	done := maps.Clone(before)
	p.spd = done
	back = append(back, func() { p.spd = before })
	for _, st := range before.steps(next) {
		old, had := before[st.slot]
		// The way back comes first: a policy that does not read back is there, too.
		back = append(back, func() {
			if had {
				_ = p.step(step{st.slot, old, true})
			} else {
				_ = p.step(step{st.slot, old, false})
			}
		})
		if err := p.step(st); err != nil {
			return back, err
		}
		if st.put {
			done[st.slot] = st.entry
		} else {
			delete(done, st.slot)
		}
	}
	// Owners may have changed where nothing else has.
	maps.Copy(done, next)
	return back, nil
}

func (p *Plane) step(st step) error {
	if !st.put {
		if _, ours := p.indexes[st.slot]; !ours {
			return nil
		}
		err := p.conn.removePolicy(st.slot)
		delete(p.slots, p.indexes[st.slot])
		delete(p.indexes, st.slot)
		return err
	}
	kind := uint16(msgUpdPolicy)
	index, ok := p.indexes[st.slot]
	if !ok {
		kind = msgNewPolicy // never in the place of somebody else's
		var err error
		if index, err = p.newIndex(st.slot.dir); err != nil {
			return err
		}
	}
	err := p.conn.do(policyMessage(kind, st.slot, &st.entry, index, flagsRequest), nil)
	if errors.Is(err, unix.EEXIST) {
		return p.standsAlready(st)
	}
	if err != nil {
		return err
	}
	p.indexes[st.slot], p.slots[index] = index, st.slot
	r, err := p.conn.policy(st.slot)
	if err == nil {
		err = r.differs(st.slot, &st.entry, index)
	}
	return err
}

// standsAlready: somebody else has a policy in our place. The bypass of neighbour discovery is as good when it is another's.
func (p *Plane) standsAlready(st step) error {
	r, err := p.conn.policy(st.slot)
	if err != nil {
		return err
	}
	if st.entry.owner == 0 && r.action == actionAllow && r.tmpls == 0 {
		return nil
	}
	s := &st.slot.selector
	return fmt.Errorf("the kernel has a policy of somebody else's for the same traffic, %v to %v: see ip xfrm policy", s.Src, s.Dst)
}

// heal puts back built-in policies that went with whoever had them first.
func (p *Plane) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, e := range p.spd {
		if p.closed || e.owner != 0 || p.indexes[k] != 0 {
			continue
		}
		if _, err := p.conn.policy(k); errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
			_ = p.step(step{k, e, true}) // in vain: the next look finds it again
		}
	}
}

// newIndex finds a free policy index with our tag; the lowest three bits are the direction.
func (p *Plane) newIndex(dir uint8) (uint32, error) {
	for n := uint32(1); n <= ownMask>>3; n++ {
		index := p.tag | (uint32(len(p.slots))+n)<<3&ownMask | uint32(dir)
		if _, taken := p.slots[index]; !taken {
			return index, nil
		}
	}
	return 0, errors.New("too many policies for the kernel plane")
}
