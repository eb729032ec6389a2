package packet

import (
	"encoding/binary"
	"net/netip"
)

// ICMPErrorLen is the most octets an ICMP error built here has: 576 for IPv4 (RFC 1812, section 4.3.2.3), 1280 for IPv6
// (RFC 4443, section 2.4).
const ICMPErrorLen = MinMTUv6

const (
	icmpMaxV4         = 576
	icmpUnreachable   = 3
	icmpFragNeeded    = 4
	icmpProhibited    = 13
	icmp6Unreachable  = 1
	icmp6TooBig       = 2
	icmp6Prohibited   = 1
	icmpErrorHopLimit = 64
)

// AppendProhibited appends to b the ICMP error "communication administratively prohibited" about the packet offending,
// (RFC 1812, section 5.2.7.1: type 3 code 13; RFC 4443, section 3.1: type 1 code 1) from the address src, which is
// of the packet's family. ok is false, and b unchanged, where no error may be sent.
func AppendProhibited(b, offending []byte, p *Info, src netip.Addr) (_ []byte, ok bool) {
	if p.Version == 4 {
		return appendICMPError(b, offending, p, src, icmpUnreachable, icmpProhibited, 0)
	}
	return appendICMPError(b, offending, p, src, icmp6Unreachable, icmp6Prohibited, 0)
}

// AppendTooBig appends "fragmentation needed" (RFC 1191, section 4) or "packet too big" (RFC 4443, section 3.2); mtu in
// octets.
func AppendTooBig(b, offending []byte, p *Info, src netip.Addr, mtu int) (_ []byte, ok bool) {
	if p.Version == 4 {
		return appendICMPError(b, offending, p, src, icmpUnreachable, icmpFragNeeded, uint32(min(mtu, 65535)))
	}
	return appendICMPError(b, offending, p, src, icmp6TooBig, 0, uint32(mtu))
}

// mayAnswer keeps ICMP errors from multiplying (RFC 1812, section 4.3.2.7; RFC 4443, section 2.4 e).
func mayAnswer(b []byte, p *Info, tooBig bool) bool {
	src, dst := p.SrcAddr(), p.DstAddr()
	if src.IsUnspecified() || src.IsMulticast() {
		return false
	}
	if dst.IsMulticast() && (p.Version == 4 || !tooBig) {
		return false
	}
	if p.Version == 4 {
		if src.IsLoopback() || src == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}) ||
			IPv4(b).FragmentOffset() != 0 {
			return false
		}
		if p.Protocol == ProtoICMP {
			t := p.SrcPort >> 8
			return p.HasPorts && (t == 0 || t == 8 || t >= 13 && t <= 18)
		}
		return true
	}
	if p.Protocol == ProtoICMPv6 {
		return p.HasPorts && p.SrcPort>>8 >= 128
	}
	return true
}

func appendICMPError(b, offending []byte, p *Info, src netip.Addr, typ, code byte, rest uint32) ([]byte, bool) {
	tooBig := rest != 0
	if !mayAnswer(offending, p, tooBig) || src.Is4() != (p.Version == 4) {
		return b, false
	}
	offending = offending[:p.Length]
	start := len(b)
	var icmp int
	if p.Version == 4 {
		offending = offending[:min(len(offending), icmpMaxV4-IPv4Len-ICMPLen)]
		b = append(b, make([]byte, IPv4Len+ICMPLen)...)
		b = append(b, offending...)
		ip := IPv4(b[start:])
		ip[0], ip[8], ip[9] = 0x45, icmpErrorHopLimit, ProtoICMP
		ip[1] = 0xc0 // internetwork control (RFC 1812, section 4.3.2.5)
		ip.SetTotalLen(len(ip))
		s, d := src.As4(), p.Src
		copy(ip[12:16], s[:])
		copy(ip[16:20], d[:4])
		ip.FillChecksum()
		icmp = start + IPv4Len
	} else {
		offending = offending[:min(len(offending), MinMTUv6-IPv6Len-ICMPLen)]
		b = append(b, make([]byte, IPv6Len+ICMPLen)...)
		b = append(b, offending...)
		ip := IPv6(b[start:])
		ip[0], ip[6], ip[7] = 0x60, ProtoICMPv6, icmpErrorHopLimit
		ip.SetPayloadLen(len(ip) - IPv6Len)
		s := src.As16()
		copy(ip[8:24], s[:])
		copy(ip[24:40], p.Src[:])
		icmp = start + IPv6Len
	}
	m := b[icmp:]
	m[0], m[1] = typ, code
	binary.BigEndian.PutUint32(m[4:], rest)
	var sum uint16
	if p.Version == 6 {
		sum = PseudoSum(b[start:], ProtoICMPv6, len(m))
	}
	binary.BigEndian.PutUint16(m[2:], ^Sum(m, sum))
	return b, true
}
