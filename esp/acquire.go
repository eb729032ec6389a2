package esp

import (
	"sync"
	"sync/atomic"
	"time"

	"coati/packet"
	"coati/policy"
)

// A packet that a PROTECT policy selects and no SA carries waits, in order, and leaves before every later packet of its
// policy. One Acquire event asks for the SA.

const (
	// acquireRepeat is after how long an Acquire is repeated while packets wait.
	acquireRepeat = 10 * time.Second
	// acquirePatience is the longest a packet waits for an SA nobody announces or gives up: longer than all
	// retransmissions of an IKE exchange.
	acquirePatience = 3 * time.Minute
)

type queue struct {
	waiting atomic.Int32 // len(frames), for who does not hold mu

	mu     sync.Mutex // guards what follows, and the order of packets while some wait
	frames [][]byte
	octets int
	asked  int64 // when an Acquire was taken, unix nanoseconds; 0: none is pending
	since  int64 // when the first of frames came
}

// hold lets a packet wait that found no SA, or found others waiting before it. If that changed meanwhile the packet goes
// its way: o sends it.
func (o *Outbound) hold(e *spdEntry, frame []byte) {
	q, p := e.queue, o.plane
	q.mu.Lock()
	defer q.mu.Unlock()
	flow := flowOf(&o.info)
	if sa := e.bundle.pick(&flow); sa != nil {
		// Whoever comes first after the SA lets the waiting go, then itself.
		p.drainLocked(e)
		o.protect(sa)
		return
	}
	limit, room := e.config.QueuePackets, e.config.QueueOctets
	if limit <= 0 {
		limit = policy.DefaultQueuePackets
	}
	if room <= 0 {
		room = policy.DefaultQueueOctets
	}
	if len(q.frames) >= limit || q.octets+len(frame) > room {
		p.count.drops.add(DropQueueFull, 1)
	} else {
		if len(q.frames) == 0 {
			q.since = p.clock.Load()
		}
		q.frames = append(q.frames, append([]byte(nil), frame...))
		q.octets += len(frame)
		q.waiting.Store(int32(len(q.frames)))
	}
	p.acquire(e, &flow)
}

// acquire asks for an SA, once; the queue is locked.
func (p *Plane) acquire(e *spdEntry, flow *policy.Flow) {
	now := p.clock.Load()
	if e.queue.asked == 0 && p.emit(policy.PlaneEvent{Kind: policy.PlaneAcquire, Policy: e.config.ID, Flow: *flow}) {
		e.queue.asked = now
	}
}

func (p *Plane) drainQueue(e *spdEntry) {
	e.queue.mu.Lock()
	defer e.queue.mu.Unlock()
	p.drainLocked(e)
}

// drainLocked sends what waits and has an SA now, in order. The rest needs another SA than the one that came.
func (p *Plane) drainLocked(e *spdEntry) {
	q := e.queue
	if len(q.frames) == 0 {
		q.asked = 0
		return
	}
	p.ownMu.Lock()
	defer p.ownMu.Unlock()
	o := p.own
	rest := q.frames[:0]
	var first policy.Flow
	q.octets = 0
	for _, frame := range q.frames {
		o.ready.loaded = false
		if !o.load(frame) {
			continue
		}
		flow := flowOf(&o.info)
		if sa := e.bundle.pick(&flow); sa != nil {
			o.protect(sa)
			continue
		}
		if len(rest) == 0 {
			first = flow
		}
		rest = append(rest, frame)
		q.octets += len(frame)
	}
	o.Flush()
	clear(q.frames[len(rest):])
	q.frames = rest
	q.waiting.Store(int32(len(rest)))
	q.asked = 0
	if len(rest) > 0 {
		p.acquire(e, &first)
	} else {
		q.frames = nil
	}
}

// failQueue answers what waits and forgets it; the next packet asks again.
func (p *Plane) failQueue(e *spdEntry, why Reason) {
	q := e.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	frames := q.frames
	q.frames, q.octets, q.asked = nil, 0, 0
	q.waiting.Store(0)
	if len(frames) == 0 {
		return
	}
	p.ownMu.Lock()
	defer p.ownMu.Unlock()
	for _, frame := range frames {
		p.count.drops.add(why, 1)
		if packet.Parse(frame[packet.VirtioLen:], &p.own.info) == nil {
			p.own.answerProhibited(frame[packet.VirtioLen:])
		}
	}
}

// tickQueue repeats an Acquire, and ends a wait that nobody ends.
func (p *Plane) tickQueue(e *spdEntry, now int64) {
	q := e.queue
	if q.waiting.Load() == 0 {
		return
	}
	q.mu.Lock()
	if len(q.frames) == 0 {
		q.mu.Unlock()
		return
	}
	if now-q.since > int64(acquirePatience) {
		q.mu.Unlock()
		p.failQueue(e, DropNoSA)
		return
	}
	if now-q.asked > int64(acquireRepeat) {
		var info packet.Info
		if packet.Parse(q.frames[0][packet.VirtioLen:], &info) == nil {
			q.asked = 0
			flow := flowOf(&info)
			p.acquire(e, &flow)
		}
	}
	q.mu.Unlock()
}
