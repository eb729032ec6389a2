package esp

import (
	"crypto/rand"
	"errors"

	"coati/packet"
)

// Packets that carry nothing (RFC 4303, section 2.6): to announce an SA that takes over, to probe the size of a path, and, if a
// child says so, to hide that nothing is said.

// dummySize is how large a dummy is whose size says nothing, octets.
const dummySize = 32

func (p *Plane) sendDummy(sa *outSA) { _, _ = p.dummy(sa, dummySize) }

// sendPadded sends a dummy of the size that the SA pads its packets to.
func (p *Plane) sendPadded(sa *outSA) {
	size := max(sa.tfcLen(), dummySize)
	if sa.tr.sealedLen(size) > maxRunOctets {
		size = dummySize
	}
	_, _ = p.dummy(sa, size)
}

// fellSilent says whether a periodic dummy is due on an SA: it is the one in use, and nothing left on it for the interval.
func (p *Plane) fellSilent(sa *outSA, now int64) bool {
	b := p.bundles[sa.config.ReqID]
	if b == nil || b.first() != sa || sa.usage.expired.Load() {
		return false
	}
	last := max(sa.usage.lastUsed.Load(), sa.dummyAt)
	if last == 0 {
		sa.dummyAt = now // it begins to be silent
		return false
	}
	if now-last < int64(sa.config.DummyInterval) {
		return false
	}
	sa.dummyAt = now
	return true
}

// dummy sends a packet that carries nothing in so many octets; ok says that it left.
func (p *Plane) dummy(sa *outSA, size int) (seq uint64, ok bool) {
	p.ownMu.Lock()
	defer p.ownMu.Unlock()
	o := p.own
	o.Flush()
	first, got := o.number(sa)
	if got == 0 {
		return 0, false
	}
	if sa.tr.randomIV() {
		_, _ = rand.Read(o.ivs[:16])
	}
	clear(o.out[packet.ESPLen+sa.tr.ivLen:][:size])
	o.encapsulate(sa, &o.jobs[0], o.out[:], size, packet.ProtoNoNext, first, 0)
	sa.tr.key.Seal(o.jobs[:1])
	sa.turn.wait(first - 1)
	err := p.config.Egress.SendESP(sa.path.Load(), 0, o.out[:sa.tr.sealedLen(size)], sa.tr.sealedLen(size))
	sa.turn.pass(first)
	switch {
	case errors.Is(err, ErrTooBig): // a probe that the first hop does not take
		o.drop(sa, DropTooBig, 1)
		return first, false
	case err != nil:
		o.drop(sa, DropSendFailed, 1)
		return first, false
	}
	p.count.packetsOut.Add(1)
	return first, true
}
