package esp

import (
	"encoding/binary"
	"sync"
	"time"

	"coati/packet"
	"coati/policy"
)

// Fragments and ports (RFC 4301, section 7). Only the first fragment of a packet shows its ports, types and codes.
//
//   - What selects any port carries all fragments (7.1), and what selects OPAQUE ports those after the first alone (7.2).
//   - What selects certain ports carries no fragment after the first in ESP: that would need the peer's consent (7.3).
//   - What is bypassed or discarded by its ports takes its later fragments along (7.4): the first one says which entry of
//     the SPD that is. The later ones of a packet whose first is protected never leave in clear.
//
// What is remembered of first fragments has a fixed size; a newer one may push an older one out, whose later fragments are
// then asked for by what they show.

const (
	// fragmentSlots is how many packets are remembered, a power of two.
	fragmentSlots = 1024
	// fragmentPatience is how long: a host waits no longer for the last fragment (RFC 8200, section 4.5).
	fragmentPatience = 60 * time.Second
)

// fragmentKey is what all fragments of a packet have in common (RFC 791, section 3.2; RFC 8200, section 4.5).
type fragmentKey struct {
	src, dst       [16]byte
	id             uint32
	version, proto uint8
}

type fragmentSlot struct {
	key        fragmentKey
	entry      *spdEntry
	generation uint64
	at         int64 // unix nanoseconds
}

type fragments struct {
	mu    sync.Mutex
	slots [fragmentSlots]fragmentSlot
}

// later says whether a packet is a fragment after the first.
func later(pkt []byte, i *packet.Info) bool {
	if !i.Fragment {
		return false
	}
	if i.Version == 4 {
		return packet.IPv4(pkt).FragmentOffset() > 0
	}
	offset, _, ok := fragmentHeader(pkt)
	return ok && offset > 0
}

func fragmentKeyOf(pkt []byte, i *packet.Info) (fragmentKey, bool) {
	k := fragmentKey{src: i.Src, dst: i.Dst, version: i.Version}
	if i.Version == 4 {
		k.id, k.proto = uint32(packet.IPv4(pkt).ID()), i.Protocol
		return k, true
	}
	// In IPv6 the protocol may stand behind headers that only the first fragment has: the ID alone must do.
	_, id, ok := fragmentHeader(pkt)
	k.id = id
	return k, ok
}

// fragmentHeader finds the fragment header of an IPv6 packet that packet.Parse has taken.
func fragmentHeader(pkt []byte) (offset int, id uint32, ok bool) {
	next, at := pkt[6], packet.IPv6Len
	for at+8 <= len(pkt) {
		switch next {
		case packet.ProtoFragment:
			return int(binary.BigEndian.Uint16(pkt[at+2:]) &^ 7), binary.BigEndian.Uint32(pkt[at+4:]), true
		case packet.ProtoHopByHop, packet.ProtoRouting, packet.ProtoDestOpts:
			next, at = pkt[at], at+8+8*int(pkt[at+1])
		case packet.ProtoAH:
			next, at = pkt[at], at+8+4*int(pkt[at+1])
		default:
			return 0, 0, false
		}
	}
	return 0, 0, false
}

func (f *fragments) slot(k *fragmentKey) *fragmentSlot {
	h := k.id*0x9e3779b1 ^ binary.LittleEndian.Uint32(k.src[:])*0x85ebca6b ^ binary.LittleEndian.Uint32(k.dst[:])
	for i := 4; i < 16; i += 4 {
		h = h*0xc2b2ae35 ^ binary.LittleEndian.Uint32(k.src[i:]) ^ binary.LittleEndian.Uint32(k.dst[i:])
	}
	return &f.slots[(h^h>>15)%fragmentSlots]
}

func (f *fragments) note(k fragmentKey, e *spdEntry, generation uint64, now int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	*f.slot(&k) = fragmentSlot{k, e, generation, now}
}

func (f *fragments) find(k fragmentKey, generation uint64, now int64) *spdEntry {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.slot(&k); s.key == k && s.generation == generation && now-s.at < int64(fragmentPatience) {
		return s.entry
	}
	return nil
}

// classifyFragment is classify for a fragment. The flow cache is of no use here: fragments of different flows look alike.
func (o *Outbound) classifyFragment() (*spdEntry, *outSA) {
	p, pkt := o.plane, o.plan.pkt
	generation, now := p.generation.Load(), p.clock.Load()
	flow := flowOf(&o.info)
	e := p.spd.Load().lookup(&flow)
	key, ok := fragmentKeyOf(pkt, &o.info)
	switch {
	case !ok:
	case !later(pkt, &o.info):
		p.fragments.note(key, e, generation, now)
	default:
		first := p.fragments.find(key, generation, now)
		switch {
		case first == nil:
		case first.config.Action != policy.Protect:
			e = first
		case e != nil && e.config.Action == policy.Bypass:
			e = nil
		}
	}
	if e == nil || e.config.Action != policy.Protect {
		return e, nil
	}
	return e, e.bundle.pick(&flow)
}

// overwrites says whether a fragment may change the ports its packet was judged by (RFC 1858, section 4): no host makes one
// that begins 8 octets into TCP.
func overwrites(pkt []byte, i *packet.Info) bool {
	return i.Fragment && i.Version == 4 && i.Protocol == packet.ProtoTCP && packet.IPv4(pkt).FragmentOffset() == 8
}
