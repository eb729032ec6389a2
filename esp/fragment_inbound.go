package esp

import (
	"bytes"
	"sync"

	"coati/packet"
	"coati/policy"
)

// Stateful fragment checking (RFC 4301, section 7.3): an SA whose selectors name ports carries fragments that show none, because
// both ends agreed to it. Each is held to what its packet's first fragment showed:
//
//   - the first one must be selected, as any packet must, and is remembered;
//   - a later one passes if the first of its packet came by this SA, and waits if it has not come yet;
//   - of a packet of which two fragments overlap nothing more passes (RFC 1858; RFC 5722, section 4): the host at the end
//     cannot put it together any more.
//
// All of it is bounded for each SA, and whoever makes it forget can be nobody but the peer itself. What is dropped is counted.

const (
	// checkedPackets is how many packets an SA remembers. The oldest goes when another needs its place.
	checkedPackets = 32
	// earlyFragments is how many fragments of one SA wait for their packet's first one, earlyOctets how large they may be together.
	earlyFragments = 64
	earlyOctets    = 128 << 10
)

// checked is a packet of which fragments came. Its map of what is there takes 1 KiB.
type checked struct {
	key   fragmentKey
	at    int64 // of the fragment that came first, unix nanoseconds; 0: the place is free
	known bool  // the first fragment was selected
	bad   bool  // nothing more of it passes
	parts partMap
	early [][]byte // what waits for the first fragment: copies
}

// fragmentChecks is what an inbound SA remembers.
type fragmentChecks struct {
	mu      sync.Mutex
	packets []checked // made when first needed
	early   int       // fragments that wait
	octets  int       // of those
}

// checksFragments says that the SA takes fragments that its selectors do not.
func checksFragments(sa *policy.SA) bool {
	if !sa.LaterFragments || sa.Mode != policy.Tunnel {
		return false
	}
	for _, set := range [][]policy.Selector{sa.Local, sa.Remote} {
		for _, s := range set {
			if s.NamesPorts() {
				return true
			}
		}
	}
	return false
}

// verdict on a fragment.
type verdict uint8

const (
	passes verdict = iota
	waits
	fails
)

// check judges a fragment, which is selected as it is or not. The result besides is what waited for it; dropped is how many fragments
// will never be delivered, itself among them if it fails.
func (c *fragmentChecks) check(key fragmentKey, p part, selected bool, pkt []byte, now int64) (v verdict, free [][]byte, dropped int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, dropped := c.find(key, now)
	switch {
	case e.bad:
		return fails, nil, dropped + 1
	case p.offset == 0 && !selected, !e.parts.add(p):
		e.bad = true
		return fails, nil, dropped + 1 + c.forgetEarly(e)
	case p.offset == 0:
		e.known = true
		free, e.early = e.early, nil
		c.early -= len(free)
		for _, f := range free {
			c.octets -= len(f)
		}
	case !selected && !e.known:
		if c.early == earlyFragments || c.octets+len(pkt) > earlyOctets {
			e.bad = true
			return fails, nil, dropped + 1 + c.forgetEarly(e)
		}
		e.early = append(e.early, bytes.Clone(pkt))
		c.early++
		c.octets += len(pkt)
		return waits, nil, dropped
	}
	if e.parts.complete() {
		*e = checked{} // another packet may have the same number soon
	}
	return passes, free, dropped
}

// find is the packet, or a place for it.
func (c *fragmentChecks) find(key fragmentKey, now int64) (e *checked, dropped int) {
	if c.packets == nil {
		c.packets = make([]checked, checkedPackets)
	}
	dropped = c.expire(now)
	oldest := &c.packets[0]
	for i := range c.packets {
		e := &c.packets[i]
		if e.at != 0 && e.key == key {
			return e, dropped
		}
		if e.at < oldest.at {
			oldest = e
		}
	}
	dropped += c.forgetEarly(oldest)
	*oldest = checked{key: key, at: now}
	return oldest, dropped
}

// expire forgets packets that no host waits for any more. It returns how many fragments waited in vain.
func (c *fragmentChecks) expire(now int64) (dropped int) {
	for i := range c.packets {
		if e := &c.packets[i]; e.at != 0 && now-e.at >= int64(fragmentPatience) {
			dropped += c.forgetEarly(e)
			*e = checked{}
		}
	}
	return dropped
}

func (c *fragmentChecks) forgetEarly(e *checked) int {
	n := len(e.early)
	c.early -= n
	for _, f := range e.early {
		c.octets -= len(f)
	}
	e.early = nil
	return n
}

// takeFragment handles a fragment of an SA that checks them; the result is the octets of what was handed on.
func (in *Inbound) takeFragment(sa *inSA, pkt []byte, outerTOS byte) int {
	key, ok := fragmentKeyOf(pkt, &in.info)
	p, sound := fragmentPart(pkt)
	if !ok || !sound {
		in.drop(sa, DropInner, 1)
		return 0
	}
	if !applyECN(pkt, in.info.TOS, outerTOS) {
		in.drop(sa, DropECN, 1)
		return 0
	}
	why, selected := in.permitted(sa, pkt)
	v, free, dropped := sa.checks.check(key, p, selected, pkt, in.plane.clock.Load())
	if p.offset == 0 && !selected {
		in.drop(sa, why, 1)
		dropped--
	}
	if dropped > 0 {
		in.drop(sa, DropInnerFragment, dropped)
	}
	if v != passes {
		return 0
	}
	length := in.info.Length
	in.info.TOS = tosOf(pkt)
	in.join.add(pkt, &in.info)
	for _, f := range free {
		if packet.Parse(f, &in.info) == nil { // as it was when it came
			in.join.add(f, &in.info)
			sa.usage.count(1, len(f), in.plane.clock.Load())
			in.plane.count.packetsIn.Add(1)
		}
	}
	return length
}

// tickFragments counts what waited in vain.
func (p *Plane) tickFragments(sa *inSA, now int64) {
	sa.checks.mu.Lock()
	n := sa.checks.expire(now)
	sa.checks.mu.Unlock()
	if n > 0 {
		sa.usage.drops.add(DropInnerFragment, n)
		p.count.drops.add(DropInnerFragment, n)
	}
}
