package esp

import (
	"crypto/rand"
	"encoding/binary"

	"coati/packet"
	"coati/policy"
)

// Headers of our own (RFC 4301, section 5.1.2; RFC 4303, section 3.1): mostly the kernel writes the outer header, and takes a
// run of packets at once. What its sockets cannot be told for one packet (DF, hop limit, flow label, options and
// extension headers) is written here, and packets leave one by one.

// ownHeader says whether the loaded packets need it on this SA.
func (o *Outbound) ownHeader(sa *outSA) bool {
	v4 := sa.path.Load().Remote.Addr().Is4()
	if sa.tr.transport {
		least := packet.IPv6Len
		if v4 {
			least = packet.IPv4Len
		}
		return o.bare > least || o.info.HopLimit < leastHopLimit
	}
	h := &sa.config.Header
	return h.HopLimit != 0 || !v4 && h.CopyFlowLabel && !o.plan.v4 || v4 && !outerDF(h, &o.plan)
}

// outerDF says whether the outer IPv4 header has DF.
func outerDF(h *policy.TunnelHeader, s *plan) bool {
	switch h.DF {
	case policy.DFCopy:
		return !s.v4 || packet.IPv4(s.pkt).DF()
	case policy.DFClear:
		return false
	}
	return true
}

// outerTOS is the outer type of service or traffic class of a packet with this inner one. The ECN field is copied: normal
// mode (RFC 6040, section 4.1).
func (sa *outSA) outerTOS(inner byte) byte {
	if h := &sa.config.Header; h.FixedDSCP && !sa.tr.transport {
		return h.DSCP<<2 | inner&packet.ECNMask
	}
	return inner
}

// tfcLen is the least length of what ESP carries (RFC 4303, section 2.7).
func (sa *outSA) tfcLen() int {
	switch tfc := sa.config.TFC; {
	case sa.tr.transport:
		return 0
	case tfc == policy.TFCToMTU:
		return int(sa.mtu.Load())
	case sa.mtu.Load() > 0:
		return min(tfc, int(sa.mtu.Load()))
	default:
		return tfc
	}
}

// sendHeaded sends the loaded packets one by one, each with a header of ours.
func (o *Outbound) sendHeaded(sa *outSA) {
	o.Flush() // what is before them
	if o.headed == nil {
		o.headed = make([]byte, 2*(packet.MaxIPPacket+maxOverhead))
	}
	half := len(o.headed) / 2
	for i := range o.plan.count {
		inner := o.headed[half:]
		inner = inner[:o.plan.build(i, inner)]
		first, got := o.number(sa)
		if got == 0 {
			o.drop(sa, DropExhausted, o.plan.count-i)
			return
		}
		pkt := o.enclose(sa, o.headed[:half], inner, first)
		sa.turn.wait(first - 1)
		err := o.plane.config.Egress.SendClear(pkt)
		sa.turn.pass(first)
		if err != nil {
			o.headedFailed(sa, err)
			continue
		}
		sa.usage.count(1, len(inner), o.plane.clock.Load())
		o.plane.count.packetsOut.Add(1)
	}
	if sa.config.Lifetime != (policy.Lifetime{}) {
		o.plane.checkLifetime(&sa.usage, &sa.config, o.plane.clock.Load())
	}
}

// maxOverhead is more than headers, trailer and ICV add to a packet, octets.
const maxOverhead = 512

// number takes one sequence number.
func (o *Outbound) number(sa *outSA) (first uint64, got int) {
	if first, got = sa.reserve(1); first >= sa.soft {
		o.plane.tellSoft(&sa.usage, &sa.config)
	}
	return first, got
}

func (o *Outbound) headedFailed(sa *outSA, err error) {
	o.ready.loaded = o.plan.count == 1
	o.sendFailed(sa, err, 1)
}

// enclose builds the whole packet with its outer header in buf.
func (o *Outbound) enclose(sa *outSA, buf, inner []byte, seq uint64) []byte {
	t, path := &sa.tr, sa.path.Load()
	at := o.outerHeader(sa, path, buf, inner)
	esp := at
	if path.Encap == policy.EncapUDP {
		esp += packet.UDPLen
	}
	payload, next := inner, byte(packet.ProtoIPv6)
	switch {
	case t.transport:
		payload, next = inner[o.bare:], o.bareNext
	case inner[0]>>4 == 4:
		next = packet.ProtoIPv4
	}
	n := len(payload)
	text := buf[esp+packet.ESPLen+t.ivLen:]
	copy(text, payload)
	if tfc := sa.tfcLen(); n < tfc {
		clear(text[n:tfc])
		n = tfc
	}
	if t.randomIV() {
		_, _ = rand.Read(o.ivs[:16])
	}
	o.encapsulate(sa, &o.jobs[0], buf[esp:], n, next, seq, 0)
	t.key.Seal(o.jobs[:1])
	pkt := buf[:esp+t.sealedLen(n)]
	proto := byte(packet.ProtoESP)
	if path.Encap == policy.EncapUDP {
		proto = packet.ProtoUDP
	}
	finishHeader(pkt, o.nextAt, proto)
	if proto == packet.ProtoUDP {
		finishUDP(pkt, at, path)
	}
	return pkt
}

// outerHeader writes the outer header up to where UDP or ESP begins, except for length, protocol and checksum.
func (o *Outbound) outerHeader(sa *outSA, path *policy.Path, buf, inner []byte) int {
	if sa.tr.transport {
		return copy(buf, inner[:o.bare])
	}
	h := &sa.config.Header
	head := appendHeader(buf[:0], path.Local.Addr(), path.Remote.Addr(), sa.outerTOS(o.info.TOS), 0, 0)
	if path.Remote.Addr().Is4() {
		o.nextAt = 9
		if !outerDF(h, &o.plan) {
			head[6] = 0
			binary.BigEndian.PutUint16(head[4:], uint16(rand4()))
		}
		if h.HopLimit != 0 {
			head[8] = h.HopLimit
		}
		return len(head)
	}
	o.nextAt = 6
	if h.HopLimit != 0 {
		head[7] = h.HopLimit
	}
	if h.CopyFlowLabel && !o.plan.v4 {
		label := packet.IPv6(inner).FlowLabel()
		head[1] |= byte(label >> 16)
		head[2], head[3] = byte(label>>8), byte(label)
	}
	return len(head)
}

// rand4 is for IDs of packets that may be fragmented on their way.
func rand4() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:])
	return binary.BigEndian.Uint32(b[:])
}

func finishHeader(pkt []byte, nextAt int, proto byte) {
	pkt[nextAt] = proto
	if pkt[0]>>4 == 4 {
		packet.IPv4(pkt).SetTotalLen(len(pkt))
		packet.IPv4(pkt).FillChecksum()
		return
	}
	packet.IPv6(pkt).SetPayloadLen(len(pkt) - packet.IPv6Len)
}

// finishUDP writes the UDP header at an offset. In IPv4 it has no checksum (RFC 3948, section 2.1), in IPv6 it must.
func finishUDP(pkt []byte, at int, path *policy.Path) {
	u := pkt[at:]
	binary.BigEndian.PutUint16(u, path.Local.Port())
	binary.BigEndian.PutUint16(u[2:], path.Remote.Port())
	packet.UDP(u).SetLength(len(u))
	packet.UDP(u).SetChecksum(0)
	if pkt[0]>>4 == 4 {
		return
	}
	sum := ^packet.Sum(u, packet.PseudoSum(pkt, packet.ProtoUDP, len(u)))
	if sum == 0 {
		sum = 0xffff
	}
	packet.UDP(u).SetChecksum(sum)
}
