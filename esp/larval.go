package esp

import (
	"bytes"
	"sync"
	"sync/atomic"
	"time"

	"coati/policy"
)

// A peer may use an SA as soon as it has sent its half of the negotiation (RFC 7296, section 2.8), and its first packets
// may overtake the message that lets us add ours. They wait with the SPI we reserved, and are opened, in order and
// before all later ones, when the SA is added.

const (
	larvalPackets = 64      // of one SPI
	larvalOctets  = 1 << 18 // of one SPI
	larvalTotal   = 1 << 20 // octets of all SPIs
	// larvalLeast is what a packet counts at least, octets: it costs memory beside its own.
	larvalLeast = 256
	// larvalPatience is the longest a packet waits.
	larvalPatience = 30 * time.Second
)

// larvae are the SPIs that were reserved and have no SA yet.
type larvae struct {
	reserved atomic.Int32 // len(spis), for who does not hold mu

	mu     sync.Mutex // guards what follows; Plane.mu may be held
	spis   map[policy.SPI]*larva
	octets int // that count, of all SPIs
}

// larva is one reserved SPI.
type larva struct {
	early   []early
	octets  int
	writers []FrameWriter // of the queue the packets came by
}

// early is an ESP packet before its SA: one datagram.
type early struct {
	run Datagrams
	at  int64 // unix nanoseconds
}

func (e *early) weight() int { return max(larvalLeast, len(e.run.Buf)+len(e.run.Front.Octets)) }

// reserve is false if the SPI is reserved already.
func (l *larvae) reserve(spi policy.SPI) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.spis[spi] != nil {
		return false
	}
	l.spis[spi] = new(larva)
	l.reserved.Store(int32(len(l.spis)))
	return true
}

// remove forgets an SPI; the lock is held.
func (l *larvae) remove(spi policy.SPI) {
	if lv := l.spis[spi]; lv != nil {
		l.octets -= lv.octets
		delete(l.spis, spi)
		l.reserved.Store(int32(len(l.spis)))
	}
}

// keep lets an ESP packet wait whose SPI no SA has. False says that the SPI is not reserved, or not any more: an SA may
// have come meanwhile.
func (in *Inbound) keep(spi policy.SPI, b []byte, run *Datagrams) bool {
	p := in.plane
	l := &p.larval
	if l.reserved.Load() == 0 {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	lv := l.spis[spi]
	if lv == nil {
		return false
	}
	e := early{run: *run, at: p.clock.Load()}
	e.run.Buf, e.run.SegSize = b, len(b)
	n := e.weight()
	if len(lv.early) >= larvalPackets || lv.octets+n > larvalOctets || l.octets+n > larvalTotal {
		p.count.drops.add(DropEarlyFull, 1)
		return true
	}
	e.run.Buf, e.run.Front.Octets = bytes.Clone(b), bytes.Clone(run.Front.Octets)
	lv.early = append(lv.early, e)
	lv.octets += n
	l.octets += n
	lv.writers = in.join.writers
	return true
}

// hatch opens what waited for the SA, and lets everybody find it. Who looks for the SPI meanwhile waits: later packets
// stay behind the early ones.
func (p *Plane) hatch(sa *inSA) {
	l := &p.larval
	l.mu.Lock()
	defer l.mu.Unlock()
	if lv := l.spis[sa.config.SPI]; lv != nil {
		if len(lv.early) > 0 {
			in := p.NewInbound(lv.writers...)
			for i := range lv.early {
				run := &lv.early[i].run
				in.arrive(sa, run.Buf, run)
			}
			in.flush()
			in.join.flushAll()
		}
		l.remove(sa.config.SPI)
	}
	p.inbound.replace(uint32(sa.config.SPI), sa, nil)
}

// freeLarva drops what waits with an SPI that gets no SA.
func (p *Plane) freeLarva(spi policy.SPI) {
	l := &p.larval
	l.mu.Lock()
	defer l.mu.Unlock()
	if lv := l.spis[spi]; lv != nil {
		p.count.drops.add(DropEarly, len(lv.early))
		l.remove(spi)
	}
}

// tickLarvae drops what waited too long.
func (p *Plane) tickLarvae(now int64) {
	l := &p.larval
	if l.reserved.Load() == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, lv := range l.spis {
		for len(lv.early) > 0 && now-lv.early[0].at > int64(larvalPatience) {
			n := lv.early[0].weight()
			lv.early[0] = early{}
			lv.early = lv.early[1:]
			lv.octets -= n
			l.octets -= n
			p.count.drops.add(DropEarly, 1)
		}
	}
}
