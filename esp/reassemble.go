package esp

import (
	"encoding/binary"
	"math/bits"

	"coati/packet"
)

// Transport mode protects whole packets (RFC 4303, section 3.1.1), and this machine's kernel has fragmented what is too large
// before it comes to the TUN. So the fragments become a packet again here, which is fragmented after encryption if need be.
// Nothing that overlaps is believed (RFC 5722, section 4). A queue keeps a few packets under way, and the oldest goes when
// another needs its place.

const (
	assemblySlots = 8
	// assemblyHead is room for a header, octets: of IPv4 with all options, of IPv6 with some extension headers.
	assemblyHead = 128
	fragmentUnit = 8 // octets
)

// assembly is a packet of which some fragments are here.
type assembly struct {
	key    fragmentKey
	reqID  uint32
	at     int64  // of its first fragment, unix nanoseconds
	pieces int    // 0: the place is free
	head   int    // octets of header; 0: the first fragment is missing
	frame  []byte // virtio header, room for the header, payload; made when first needed
	partMap
}

// partMap is what of a packet's payload is there.
type partMap struct {
	total int // octets; 0: the last fragment is missing
	units int // how many of them are there
	there [packet.MaxIPPacket/fragmentUnit/64 + 1]uint64
}

// add notes a fragment; false means that the packet is no good: it overlaps another one, or lies behind the last.
func (m *partMap) add(p part) bool {
	if m.total > 0 && (p.end() > m.total || !p.more) || !p.more && m.beyond(p.end()) {
		return false
	}
	for u := p.offset / fragmentUnit; u*fragmentUnit < p.end(); u++ {
		if m.there[u/64]&(1<<(u%64)) != 0 {
			return false
		}
		m.there[u/64] |= 1 << (u % 64)
		m.units++
	}
	if !p.more {
		m.total = p.end()
	}
	return true
}

func (m *partMap) complete() bool { return m.total > 0 && m.units*fragmentUnit >= m.total }

// reassemble takes the loaded fragment, and carries the packet it was the last of.
func (o *Outbound) reassemble(sa *outSA) {
	a, ok := o.assembling(sa)
	if !ok {
		o.drop(sa, DropFragment, 1)
		return
	}
	a.pieces++
	if !a.add(o.plan.pkt, o.info.Version) {
		o.drop(sa, DropFragment, a.pieces)
		a.pieces = 0
		return
	}
	if a.head == 0 || !a.complete() {
		return
	}
	a.pieces = 0
	if !o.load(a.whole()) {
		return
	}
	// Its fragments were all for SAs of this number, so it is: no policy is asked again.
	o.assembled = true
	o.protect(sa)
	o.assembled = false
}

// assembling finds the packet of the loaded fragment, or makes a place for it.
func (o *Outbound) assembling(sa *outSA) (*assembly, bool) {
	key, ok := fragmentKeyOf(o.plan.pkt, &o.info)
	if !ok || o.plan.kind != packet.GSONone {
		return nil, false
	}
	if o.assemblies == nil {
		o.assemblies = make([]assembly, assemblySlots)
	}
	now := o.plane.clock.Load()
	place := &o.assemblies[0]
	for i := range o.assemblies {
		a := &o.assemblies[i]
		if a.pieces > 0 && now-a.at >= int64(fragmentPatience) {
			o.drop(sa, DropFragment, a.pieces)
			a.pieces = 0
		}
		if a.pieces > 0 && a.key == key && a.reqID == sa.config.ReqID {
			return a, true
		}
		if a.pieces == 0 && place.pieces > 0 || a.pieces > 0 && place.pieces > 0 && a.at < place.at {
			place = a
		}
	}
	if place.pieces > 0 {
		o.drop(sa, DropFragment, place.pieces)
	}
	*place = assembly{key: key, reqID: sa.config.ReqID, at: now, frame: place.frame}
	if place.frame == nil {
		place.frame = make([]byte, packet.VirtioLen+assemblyHead+packet.MaxIPPacket)
	}
	return place, true
}

// add copies a fragment to its place; false means that the packet is no good.
func (a *assembly) add(pkt []byte, version byte) bool {
	head, offset, more := packet.IPv4(pkt).HeaderLen(), packet.IPv4(pkt).FragmentOffset(), packet.IPv4(pkt).MoreFragments()
	data := head
	if version == 6 {
		var ok bool
		if head, data, offset, more, ok = fragmentOf(pkt); !ok {
			return false
		}
	}
	payload := pkt[data:]
	p := part{offset, len(payload), more}
	if !p.sound(head) || head > assemblyHead || !a.partMap.add(p) {
		return false
	}
	copy(a.frame[packet.VirtioLen+assemblyHead+offset:], payload)
	if offset == 0 {
		a.head = head
		h := a.frame[packet.VirtioLen+assemblyHead-head:][:head]
		copy(h, pkt[:head])
		if version == 6 {
			// The fragment header goes: what it announced is announced by what stood before it.
			_, at := beforeFragment(pkt)
			h[at] = pkt[data-fragmentUnit]
		}
	}
	return true
}

// beyond says whether something is there behind what is said to be the end.
func (m *partMap) beyond(end int) bool {
	last := (end + fragmentUnit - 1) / fragmentUnit
	for w := range m.there {
		there := m.there[w]
		if there != 0 && w*64+bits.Len64(there) > last {
			return true
		}
	}
	return false
}

// whole makes a frame of what is complete.
func (a *assembly) whole() []byte {
	frame := a.frame[assemblyHead-a.head:][:packet.VirtioLen+a.head+a.total]
	clear(frame[:packet.VirtioLen])
	pkt := frame[packet.VirtioLen:]
	if pkt[0]>>4 == 4 {
		ip := packet.IPv4(pkt)
		ip.SetTotalLen(len(pkt))
		ip.SetFragment(0, false)
		ip.FillChecksum()
		return frame
	}
	packet.IPv6(pkt).SetPayloadLen(len(pkt) - packet.IPv6Len)
	return frame
}

// beforeFragment says where an IPv6 packet's fragment header is, and where the number stands that announces it; 0 if
// there is none.
func beforeFragment(pkt []byte) (header, at int) {
	next, where, pos := pkt[6], 6, packet.IPv6Len
	for pos+fragmentUnit <= len(pkt) {
		switch next {
		case packet.ProtoFragment:
			return pos, where
		case packet.ProtoHopByHop, packet.ProtoRouting, packet.ProtoDestOpts:
			next, where, pos = pkt[pos], pos, pos+8+8*int(pkt[pos+1])
		default:
			return 0, 0
		}
	}
	return 0, 0
}

// fragmentOf reads an IPv6 fragment (RFC 8200, section 4.5): octets in front of the fragment header, where its payload
// begins, what part of the packet that is.
func fragmentOf(pkt []byte) (head, data, offset int, more, ok bool) {
	head, _ = beforeFragment(pkt)
	if head == 0 {
		return 0, 0, 0, false, false
	}
	word := binary.BigEndian.Uint16(pkt[head+2:])
	return head, head + fragmentUnit, int(word &^ 7), word&1 != 0, true
}
