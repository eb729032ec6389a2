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
//   - What selects certain ports carries fragments after the first in ESP only if the peer agreed to it (7.3): they go where
//     their first one went. How they are checked on arrival is in fragment_inbound.go.
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

// beginning is what a first fragment showed.
type beginning struct {
	srcPort, dstPort uint16
	proto            uint8
	hasPorts         bool
	end              int // octets of payload it has: where the second one begins
}

// of is the flow of the whole packet, of which a later fragment showed only part.
func (b *beginning) of(f policy.Flow) policy.Flow {
	f.Protocol, f.SrcPort, f.DstPort, f.HasPorts = b.proto, b.srcPort, b.dstPort, b.hasPorts
	return f
}

type fragmentSlot struct {
	key fragmentKey
	beginning
	at int64 // unix nanoseconds
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
	at, ok := fragmentHeaderAt(pkt)
	if !ok {
		return 0, 0, false
	}
	return int(binary.BigEndian.Uint16(pkt[at+2:]) &^ 7), binary.BigEndian.Uint32(pkt[at+4:]), true
}

func fragmentHeaderAt(pkt []byte) (at int, ok bool) {
	next, at := pkt[6], packet.IPv6Len
	for at+8 <= len(pkt) {
		switch next {
		case packet.ProtoFragment:
			return at, true
		case packet.ProtoHopByHop, packet.ProtoRouting, packet.ProtoDestOpts:
			next, at = pkt[at], at+8+8*int(pkt[at+1])
		case packet.ProtoAH:
			next, at = pkt[at], at+8+4*int(pkt[at+1])
		default:
			return 0, false
		}
	}
	return 0, false
}

// part is what a fragment has of its packet's payload.
type part struct {
	offset, length int // octets
	more           bool
}

func (p part) end() int { return p.offset + p.length }

// fragmentPart reads a fragment that packet.Parse has taken; false if no packet has such a part.
func fragmentPart(pkt []byte) (p part, ok bool) {
	if pkt[0]>>4 == 4 {
		ip := packet.IPv4(pkt)
		head := ip.HeaderLen()
		p = part{ip.FragmentOffset(), ip.TotalLen() - head, ip.MoreFragments()}
		return p, p.sound(head)
	}
	at, ok := fragmentHeaderAt(pkt)
	if !ok {
		return p, false
	}
	word := binary.BigEndian.Uint16(pkt[at+2:])
	end := packet.IPv6Len + packet.IPv6(pkt).PayloadLen()
	p = part{int(word &^ 7), end - at - fragmentUnit, word&1 != 0}
	return p, p.sound(at)
}

// sound says that all but the last part are whole units, and that the packet is none that no header could describe.
func (p part) sound(head int) bool {
	return p.length > 0 && (!p.more || p.length%fragmentUnit == 0) && head+p.end() <= packet.MaxIPPacket
}

func (f *fragments) slot(k *fragmentKey) *fragmentSlot {
	h := k.id*0x9e3779b1 ^ binary.LittleEndian.Uint32(k.src[:])*0x85ebca6b ^ binary.LittleEndian.Uint32(k.dst[:])
	for i := 4; i < 16; i += 4 {
		h = h*0xc2b2ae35 ^ binary.LittleEndian.Uint32(k.src[i:]) ^ binary.LittleEndian.Uint32(k.dst[i:])
	}
	return &f.slots[(h^h>>15)%fragmentSlots]
}

func (f *fragments) note(k fragmentKey, b beginning, now int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	*f.slot(&k) = fragmentSlot{k, b, now}
}

func (f *fragments) find(k fragmentKey, now int64) (beginning, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.slot(&k); s.at != 0 && s.key == k && now-s.at < int64(fragmentPatience) {
		return s.beginning, true
	}
	return beginning{}, false
}

// beginning recalls the first fragment of the packet that the loaded fragment is a later one of. If it is the first itself,
// it is remembered. torn says that the loaded one would lie over it (RFC 1858, section 4; RFC 5722, section 4).
func (o *Outbound) beginning() (b beginning, known, torn bool) {
	f, now, pkt := &o.plane.fragments, o.plane.clock.Load(), o.plan.pkt
	key, ok := fragmentKeyOf(pkt, &o.info)
	if !ok {
		return b, false, false
	}
	part, ok := fragmentPart(pkt)
	if !ok {
		return b, false, false
	}
	if part.offset == 0 {
		i := &o.info
		f.note(key, beginning{i.SrcPort, i.DstPort, i.Protocol, i.HasPorts, part.end()}, now)
		return b, false, false
	}
	b, known = f.find(key, now)
	return b, known, known && part.offset < b.end
}

// classifyFragment is classify for a fragment. The flow cache is of no use here: fragments of different flows look alike.
func (o *Outbound) classifyFragment() (*spdEntry, *outSA) {
	table, flow := o.plane.spd.Load(), flowOf(&o.info)
	e := table.lookup(&flow)
	b, known, torn := o.beginning()
	if known {
		whole := b.of(flow)
		switch first := table.lookup(&whole); {
		case first == nil || first == e:
		case torn:
			return nil, nil
		case first.config.Action != policy.Protect:
			return first, nil
		default:
			sa, _, refused := o.pick(first)
			if !refused {
				return first, sa
			}
			if e != nil && e.config.Action == policy.Bypass {
				e = nil
			}
		}
	}
	if e == nil || e.config.Action != policy.Protect {
		return e, nil
	}
	sa, _, refused := o.pick(e)
	if refused {
		return nil, nil
	}
	return e, sa
}

// pick is the SA of a policy for the loaded packet, and the flow it was asked for by. refused says that the packet may not travel by
// it, or by any that may come: a fragment that lies over the first one, or about which the peer did not agree.
func (o *Outbound) pick(e *spdEntry) (sa *outSA, flow policy.Flow, refused bool) {
	flow = flowOf(&o.info)
	if !o.info.Fragment {
		return e.bundle.pick(&flow), flow, false
	}
	plain := policy.MatchFlow(e.config.Local, e.config.Remote, flow, true)
	if plain {
		if sa = e.bundle.pick(&flow); sa != nil {
			return sa, flow, false
		}
	}
	b, known, torn := o.beginning()
	if !known {
		return nil, flow, false
	}
	flow = b.of(flow)
	sa = e.bundle.pick(&flow)
	if sa != nil && sa.tr.transport || e.config.Mode == policy.Transport {
		return sa, flow, false // reassemble.go makes a packet of them again
	}
	if torn && !plain || sa != nil && !sa.config.LaterFragments {
		return nil, flow, true
	}
	return sa, flow, false
}

// consented says whether the loaded packet may travel by an SA that takes the flow it belongs to: it shows what the policy asks for, or
// the peer agreed.
func (o *Outbound) consented(e *spdEntry, sa *outSA) bool {
	if !o.info.Fragment || sa.tr.transport || sa.config.LaterFragments {
		return true
	}
	flow := flowOf(&o.info)
	return policy.MatchFlow(e.config.Local, e.config.Remote, flow, true)
}

// overwrites says whether a fragment may change the ports its packet was judged by (RFC 1858, section 4): no host makes one
// that begins 8 octets into TCP.
func overwrites(pkt []byte, i *packet.Info) bool {
	return i.Fragment && i.Version == 4 && i.Protocol == packet.ProtoTCP && packet.IPv4(pkt).FragmentOffset() == 8
}
