package esp

import (
	"encoding/binary"
	"net/netip"

	"coati/packet"
	"coati/policy"
)

// ICMP errors inside a tunnel (RFC 4301, section 6.2). A router on the way speaks from an address of its own, so an error may be
// outside the selectors though it is about a packet that they selected. It belongs to the SA that carries the answers
// to that packet: what it quotes, turned around, is asked for in place of its header.

// isError says whether a packet, or the first fragment of one, is an ICMP error (RFC 1122, section 3.2.2; RFC 4443, section 2.1).
func isError(i *packet.Info) bool {
	if !i.HasPorts {
		return false
	}
	switch t := i.SrcPort >> 8; i.Protocol {
	case packet.ProtoICMP:
		return t == 3 || t == 4 || t == 5 || t == 11 || t == 12
	case packet.ProtoICMPv6:
		return t < 128
	}
	return false
}

// answered is the flow that the answer to the packet quoted in an ICMP error would have; false if the quotation does not say.
func answered(pkt []byte, i *packet.Info) (f policy.Flow, ok bool) {
	if i.Transport+packet.ICMPLen > len(pkt) {
		return f, false
	}
	q := pkt[i.Transport+packet.ICMPLen:]
	var rest []byte
	switch {
	case i.Version == 4 && len(q) >= packet.IPv4Len && q[0]>>4 == 4:
		ip := packet.IPv4(q)
		head := ip.HeaderLen()
		if head < packet.IPv4Len || head > len(q) {
			return f, false
		}
		f.Src, f.Dst, f.Protocol = netip.AddrFrom4([4]byte(q[16:20])), netip.AddrFrom4([4]byte(q[12:16])), q[9]
		if ip.FragmentOffset() == 0 {
			rest = q[head:]
		}
	case i.Version == 6 && len(q) >= packet.IPv6Len && q[0]>>4 == 6:
		f.Src, f.Dst = netip.AddrFrom16([16]byte(q[24:40])), netip.AddrFrom16([16]byte(q[8:24]))
		f.Protocol, rest = quotedPayload(q)
	default:
		return f, false
	}
	f.SrcPort, f.DstPort, f.HasPorts = quotedPorts(f.Protocol, rest)
	return f, true
}

// maxQuotedHeaders is how many extension headers of a quoted packet are looked at.
const maxQuotedHeaders = 8

// quotedPayload walks the extension headers of a quoted IPv6 packet as far as they are quoted. rest is empty if the packet
// shows no ports there.
func quotedPayload(q []byte) (proto byte, rest []byte) {
	next, at := q[6], packet.IPv6Len
	for range maxQuotedHeaders {
		size := 0
		switch next {
		case packet.ProtoHopByHop, packet.ProtoRouting, packet.ProtoDestOpts:
			size = 8
			if at+2 <= len(q) {
				size += 8 * int(q[at+1])
			}
		case packet.ProtoFragment:
			if size = 8; at+size <= len(q) && binary.BigEndian.Uint16(q[at+2:])&^7 != 0 {
				return q[at], nil
			}
		default:
			return next, q[min(at, len(q)):]
		}
		if at+size > len(q) {
			break
		}
		next, at = q[at], at+size
	}
	return next, nil
}

// quotedPorts turns around what a quoted packet shows of its ports, if it does.
func quotedPorts(proto byte, rest []byte) (src, dst uint16, ok bool) {
	if !packet.HasPorts(proto) || len(rest) < 4 {
		return 0, 0, false
	}
	switch proto {
	case packet.ProtoMobility:
		return uint16(rest[2]) << 8, uint16(rest[2]) << 8, true
	case packet.ProtoICMP, packet.ProtoICMPv6:
		t := binary.BigEndian.Uint16(rest)
		return t, t, true
	}
	return binary.BigEndian.Uint16(rest[2:]), binary.BigEndian.Uint16(rest), true
}

// permitted says whether an SA may carry the packet that in.info describes, and if not, why.
func (in *Inbound) permitted(sa *inSA, pkt []byte) (why Reason, ok bool) {
	if isError(&in.info) {
		return DropICMPError, in.takesError(sa, pkt)
	}
	return DropSelectors, in.selected(sa)
}

// takesError says whether an inbound SA may carry the ICMP error that in.info describes.
func (in *Inbound) takesError(sa *inSA, pkt []byte) bool {
	switch sa.config.ICMPErrors {
	case policy.ICMPNone:
		return false
	case policy.ICMPByHeader:
		return in.selected(sa)
	case policy.ICMPByEither:
		if in.selected(sa) {
			return true
		}
	}
	flow, ok := answered(pkt, &in.info)
	return ok && in.mayCarry(sa, flow)
}

// sendError sends the loaded frame, which no policy selects, if it is an ICMP error about a packet whose answers an SA carries.
// None is asked for.
func (o *Outbound) sendError() bool {
	if !isError(&o.info) {
		return false
	}
	flow, ok := answered(o.plan.pkt, &o.info)
	if !ok {
		return false
	}
	e := o.plane.spd.Load().lookup(&flow)
	if e == nil || e.config.Action != policy.Protect {
		return false
	}
	sa := e.bundle.pick(&flow)
	if sa == nil || sa.tr.transport || sa.config.ICMPErrors == policy.ICMPByHeader || sa.config.ICMPErrors == policy.ICMPNone {
		return false
	}
	o.protect(sa)
	return true
}
