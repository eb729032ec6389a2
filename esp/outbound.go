package esp

import (
	"errors"

	"coati/packet"
	"coati/policy"
)

// flowCacheSize is how many flows a queue remembers, a power of two. A flow that collides with another only looks its
// policy up again.
const flowCacheSize = 4096

type flowSlot struct {
	key        packet.FlowKey
	generation uint64
	entry      *spdEntry
	sa         *outSA
}

// Outbound is one queue from a TUN to the network. It belongs to one goroutine.
type Outbound struct {
	plane  *Plane
	writer FrameWriter
	loaded
	cache []flowSlot
	icmp  [packet.VirtioLen + packet.ICMPErrorLen]byte
	iov   [1][]byte
	// Made when first needed: for packets with headers of ours, and packets in transport mode of which fragments are here.
	headed     []byte
	assemblies []assembly
	// gathered says that the frame left packets in ready.
	gathered bool
	// rerouting is how many SAs have ended for which what is carried was gathered.
	rerouting int
	// returned is what was gathered for an SA that has ended, if this is the plane's own queue.
	returned [][]byte
	sealer
}

// loaded is the frame that is being carried.
type loaded struct {
	frame []byte
	info  packet.Info
	plan  plan
	// In transport mode: octets in front of ESP, where in them the number of what follows stands, and it.
	bare, nextAt int
	bareNext     byte
	// assembled says that it was put together from fragments.
	assembled bool
	// Made when first needed: for fragments, and for a packet to be fragmented.
	piece, whole []byte
}

// NewOutbound makes a queue. What it has to tell the sender of a packet, it writes to w.
func (p *Plane) NewOutbound(w FrameWriter) *Outbound {
	return &Outbound{plane: p, writer: w, cache: make([]flowSlot, flowCacheSize)}
}

// Run reads frames until r fails, and returns that error. What was sealed leaves when a run is full, when a packet does
// not fit it, and before r waits: packets travel in company if it is there, and none waits for it.
func (o *Outbound) Run(r FrameReader) error {
	buf, idle := make([]byte, FrameSize), o.Flush
	for {
		n, err := r.ReadFrame(buf, idle)
		if err != nil {
			o.Flush()
			return err
		}
		o.Add(buf[:n])
	}
}

// Process carries one frame: virtio header and IP packet. It may change the frame and does not keep it.
func (o *Outbound) Process(frame []byte) {
	o.Add(frame)
	o.Flush()
}

// Add is Process, but the frame's last packets may wait for the next one's, or for Flush.
func (o *Outbound) Add(frame []byte) {
	o.plane.count.framesOut.Add(1)
	o.gathered, o.ready.loaded = false, false
	o.carry(frame)
	if !o.gathered {
		// Frames that go nowhere must not hold up those before them.
		o.Flush()
	}
}

func (o *Outbound) carry(frame []byte) {
	p := o.plane
	if !o.load(frame) {
		return
	}
	if !p.config.NeighbourPolicies && linkLocalControl(o.plan.pkt, &o.info) {
		// The built-in policy says bypass, and the TUN is not the link it means.
		p.count.drops.add(DropNeighbour, 1)
		return
	}
	e, sa := o.classify()
	switch {
	case e == nil && o.sendError():
	case e == nil:
		p.count.drops.add(DropNoPolicy, o.plan.count)
	case e.config.Action == policy.Discard:
		p.count.drops.add(DropDiscard, o.plan.count)
	case e.config.Action == policy.Bypass:
		o.sendClear()
	case sa != nil && e.queue.waiting.Load() == 0:
		o.protect(sa)
	case sa == nil && e.config.Level == policy.LevelUse:
		flow := flowOf(&o.info)
		e.queue.mu.Lock()
		p.acquire(e, &flow)
		e.queue.mu.Unlock()
		o.sendClear()
	default:
		o.Flush() // what is before it, and may have to wait as well
		o.hold(e, frame)
	}
}

// load parses a frame; false, and counted, if there is nothing to carry in it.
func (o *Outbound) load(frame []byte) bool {
	if len(frame) <= packet.VirtioLen || packet.Parse(frame[packet.VirtioLen:], &o.info) != nil || !o.plan.init(frame, &o.info) {
		o.plane.count.drops.add(DropMalformed, 1)
		return false
	}
	o.frame = frame
	return true
}

// classify finds policy and SA of the loaded frame.
func (o *Outbound) classify() (*spdEntry, *outSA) {
	if o.info.Fragment {
		return o.classifyFragment()
	}
	generation := o.plane.generation.Load()
	slot := &o.cache[o.info.Hash()%flowCacheSize]
	if slot.generation == generation && slot.key == o.info.FlowKey {
		if slot.sa == nil || !slot.sa.usage.expired.Load() {
			return slot.entry, slot.sa
		}
	}
	flow := flowOf(&o.info)
	*slot = flowSlot{key: o.info.FlowKey, generation: generation, entry: o.plane.spd.Load().lookup(&flow)}
	if slot.entry != nil && slot.entry.config.Action == policy.Protect {
		slot.sa = slot.entry.bundle.pick(&flow)
	}
	return slot.entry, slot.sa
}

// linkLocalControl says whether a packet is neighbour discovery (RFC 4861: hop limit 255, and here link-local or
// multicast at one end) or listener discovery (RFC 2710, RFC 3810).
func linkLocalControl(pkt []byte, i *packet.Info) bool {
	if i.Version != 6 || i.Protocol != packet.ProtoICMPv6 || !i.HasPorts {
		return false
	}
	switch t := i.SrcPort >> 8; {
	case t >= packet.ICMPv6NDFirst && t <= packet.ICMPv6NDLast:
		src, dst := i.SrcAddr(), i.DstAddr()
		return i.HopLimit == 255 && (src.IsLinkLocalUnicast() || src.IsUnspecified() || dst.IsLinkLocalUnicast() || dst.IsLinkLocalMulticast())
	case t >= packet.ICMPv6MLDQuery && t <= packet.ICMPv6MLDDone, t == packet.ICMPv6MLDReport:
		return true
	}
	return false
}

// sendClear lets the loaded frame leave unprotected, packet by packet.
func (o *Outbound) sendClear() {
	o.Flush() // it needs the buffer
	for i := range o.plan.count {
		n := o.plan.build(i, o.out[:])
		switch err := o.plane.config.Egress.SendClear(o.out[:n]); {
		case errors.Is(err, ErrTooBig):
			o.plane.count.drops.add(DropTooBig, 1)
			continue
		case err != nil:
			o.plane.count.drops.add(DropSendFailed, 1)
			continue
		}
		o.plane.count.bypassed.Add(1)
	}
}

func (o *Outbound) drop(sa *outSA, why Reason, n int) {
	sa.usage.drops.add(why, n)
	o.plane.count.drops.add(why, n)
}
