package esp

import (
	"bytes"
	"slices"
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

// queue is what waits for an SA of one policy. Nothing is sent while mu is held: what sends may find that its SA has ended,
// and come back here. Who needs more than one lock takes Plane.mu, Plane.ownMu, mu in this order.
type queue struct {
	waiting atomic.Int32 // frames here and on their way from here, for who does not hold mu

	mu      sync.Mutex // guards what follows
	frames  []waiting
	octets  int
	leaving int   // were taken from frames by who holds Plane.ownMu, and have not left yet
	asked   int64 // when an Acquire was taken, unix nanoseconds; 0: none is pending
	gone    bool  // the policy is deleted
}

type waiting struct {
	frame []byte
	flow  policy.Flow
	since int64 // unix nanoseconds
}

// hold lets the loaded frame wait that found no SA, or found others waiting before it. If that changed meanwhile it goes
// its way: whoever comes first after the SA lets the waiting go, then itself.
func (o *Outbound) hold(e *spdEntry, frame []byte) {
	_, flow, refused := o.pick(e)
	if refused {
		o.plane.count.drops.add(DropNoPolicy, 1)
		return
	}
	for {
		sa, first := e.queue.enter(o.plane, e, frame, &flow)
		switch {
		case sa == nil:
			return
		case first:
			o.protect(sa)
			return
		}
		o.plane.drainQueue(e)
	}
}

// enter lets a frame wait, unless an SA takes it: then first says that nothing before it has to leave.
func (q *queue) enter(p *Plane, e *spdEntry, frame []byte, flow *policy.Flow) (sa *outSA, first bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if sa = e.bundle.pick(flow); sa != nil {
		return sa, q.leaving == 0 && !q.ready(e.bundle)
	}
	limit, room := e.config.QueuePackets, e.config.QueueOctets
	if limit <= 0 {
		limit = policy.DefaultQueuePackets
	}
	if room <= 0 {
		room = policy.DefaultQueueOctets
	}
	switch {
	case q.gone:
		p.count.drops.add(DropNoPolicy, 1)
		return nil, false
	case len(q.frames)+q.leaving >= limit || q.octets+len(frame) > room:
		p.count.drops.add(DropQueueFull, 1)
	default:
		q.frames = append(q.frames, waiting{bytes.Clone(frame), *flow, p.clock.Load()})
		q.count()
	}
	p.acquire(e, flow)
	return nil, false
}

// ready says whether something waits that an SA takes now.
func (q *queue) ready(b *bundle) bool {
	return slices.ContainsFunc(q.frames, func(w waiting) bool { return b.pick(&w.flow) != nil })
}

// count follows a change of frames or leaving.
func (q *queue) count() {
	q.octets = 0
	for _, w := range q.frames {
		q.octets += len(w.frame)
	}
	q.waiting.Store(int32(len(q.frames) + q.leaving))
}

// acquire asks for an SA, once; the queue is locked.
func (p *Plane) acquire(e *spdEntry, flow *policy.Flow) {
	now := p.clock.Load()
	if e.queue.asked == 0 && p.emit(policy.PlaneEvent{Kind: policy.PlaneAcquire, Policy: e.config.ID, Flow: *flow}) {
		e.queue.asked = now
	}
}

// drainQueue sends what waits and has an SA now, in order. The rest needs another SA than the one that came. Later packets
// wait for it to end.
func (p *Plane) drainQueue(e *spdEntry) {
	p.ownMu.Lock()
	defer p.ownMu.Unlock()
	var back []waiting
	for {
		out, gone := e.queue.takeReady(p, e, back)
		if gone {
			p.refuse(back, DropNoPolicy)
		}
		if len(out) == 0 {
			return
		}
		back = p.release(e, out)
	}
}

// takeReady puts back in front what could not leave, and takes what has an SA now; gone says that it is too late for that.
// Plane.ownMu is locked.
func (q *queue) takeReady(p *Plane, e *spdEntry, back []waiting) (out []waiting, gone bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.gone {
		q.leaving = 0
		q.count()
		return nil, true
	}
	var rest []waiting
	for _, w := range slices.Concat(back, q.frames) {
		if e.bundle.pick(&w.flow) != nil {
			out = append(out, w)
		} else {
			rest = append(rest, w)
		}
	}
	q.frames, q.leaving = rest, len(out)
	q.count()
	if len(out) > 0 {
		return out, false
	}
	q.asked = 0
	if len(rest) > 0 {
		p.acquire(e, &rest[0].flow)
	}
	return nil, false
}

// release sends frames one by one until an SA ends, and returns what did not leave. Plane.ownMu is locked.
func (p *Plane) release(e *spdEntry, out []waiting) (back []waiting) {
	o := p.own
	for i := range out {
		w := &out[i]
		sa := e.bundle.pick(&w.flow)
		if sa == nil {
			return out[i:]
		}
		o.ready.loaded = false
		if !o.load(w.frame) {
			continue
		}
		if !o.consented(e, sa) {
			p.count.drops.add(DropNoPolicy, 1)
			continue
		}
		o.protect(sa)
		o.Flush()
		if len(o.returned) == 0 {
			continue
		}
		for _, f := range o.returned {
			back = append(back, waiting{f, w.flow, w.since})
		}
		o.returned = nil
		return append(back, out[i+1:]...)
	}
	return nil
}

// failQueue answers what waits and forgets it; the next packet asks again, unless the policy is gone.
func (p *Plane) failQueue(e *spdEntry, why Reason) {
	frames := e.queue.empty(why == DropNoPolicy)
	if len(frames) == 0 {
		return
	}
	p.ownMu.Lock()
	defer p.ownMu.Unlock()
	p.refuse(frames, why)
}

// empty takes everything out, for good if the policy is gone.
func (q *queue) empty(gone bool) []waiting {
	q.mu.Lock()
	defer q.mu.Unlock()
	frames := q.frames
	q.frames, q.asked, q.gone = nil, 0, q.gone || gone
	q.count()
	return frames
}

// refuse answers what cannot leave. Plane.ownMu is locked.
func (p *Plane) refuse(frames []waiting, why Reason) {
	for _, w := range frames {
		p.count.drops.add(why, 1)
		if packet.Parse(w.frame[packet.VirtioLen:], &p.own.info) == nil {
			p.own.answerProhibited(w.frame[packet.VirtioLen:])
		}
	}
}

// tickQueue repeats an Acquire, and ends a wait that nobody ends.
func (p *Plane) tickQueue(e *spdEntry, now int64) {
	q := e.queue
	if q.waiting.Load() == 0 {
		return
	}
	if q.tick(p, e, now) {
		p.failQueue(e, DropNoSA)
	}
}

func (q *queue) tick(p *Plane, e *spdEntry, now int64) (late bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.frames) == 0 {
		return false
	}
	if now-q.frames[0].since > int64(acquirePatience) {
		return true
	}
	if now-q.asked > int64(acquireRepeat) {
		q.asked = 0
		p.acquire(e, &q.frames[0].flow)
	}
	return false
}
