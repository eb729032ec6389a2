package packet

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// Faults Parse finds. They are values, so that a bad packet costs no allocation.
var (
	ErrShort   = errors.New("packet is shorter than its headers")
	ErrVersion = errors.New("neither ipv4 nor ipv6")
	ErrLength  = errors.New("ip length does not fit the packet")
	ErrHeaders = errors.New("too many ipv6 extension headers")
)

// maxExtensionHeaders bounds the walk; real packets have one or two.
const maxExtensionHeaders = 8

// FlowKey identifies a flow. It is comparable; IPv4 addresses lie in the first four octets.
type FlowKey struct {
	Src, Dst [16]byte
	// Ports, or ICMP's type*256+code, or the mobility header's type*256, in both; valid with HasPorts.
	SrcPort, DstPort uint16
	Protocol         uint8
	Version          uint8
	HasPorts         bool
}

// SrcAddr is the source address.
func (k *FlowKey) SrcAddr() netip.Addr { return k.addr(&k.Src) }

// DstAddr is the destination address.
func (k *FlowKey) DstAddr() netip.Addr { return k.addr(&k.Dst) }

func (k *FlowKey) addr(a *[16]byte) netip.Addr {
	if k.Version == 4 {
		return netip.AddrFrom4([4]byte(a[:4]))
	}
	return netip.AddrFrom16(*a)
}

// Is says whether both are the same flow, as == does, which takes a call for so many octets.
func (k *FlowKey) Is(o *FlowKey) bool {
	word := binary.LittleEndian.Uint64
	return word(k.Src[:]) == word(o.Src[:]) && word(k.Dst[:]) == word(o.Dst[:]) &&
		k.SrcPort == o.SrcPort && k.DstPort == o.DstPort && k.Protocol == o.Protocol && k.Version == o.Version && k.HasPorts == o.HasPorts &&
		word(k.Src[8:]) == word(o.Src[8:]) && word(k.Dst[8:]) == word(o.Dst[8:])
}

// Hash spreads flows over a table. It is no defence against somebody who chooses addresses to collide; what uses it
// must only become slower by that.
func (k *FlowKey) Hash() uint32 {
	h := uint64(k.SrcPort)<<48 | uint64(k.DstPort)<<32 | uint64(k.Protocol)<<8 | uint64(k.Version)
	const m = 0x9e3779b97f4a7c15
	h = (h ^ binary.LittleEndian.Uint64(k.Src[:])) * m
	h = (h ^ h>>29 ^ binary.LittleEndian.Uint64(k.Dst[:])) * m
	if k.Version == 6 {
		h = (h ^ h>>31 ^ binary.LittleEndian.Uint64(k.Src[8:])) * m
		h = (h ^ h>>29 ^ binary.LittleEndian.Uint64(k.Dst[8:])) * m
	}
	return uint32(h >> 32)
}

// Info is what Parse learns of a packet.
type Info struct {
	FlowKey
	Length    int  // of the IP packet as its header says, octets; what follows is padding
	Transport int  // offset of the transport header; of the payload for a fragment after the first
	Fragment  bool // a fragment, the first or another
	Options   bool // IPv4 options or IPv6 extension headers
	TOS       byte // type of service or traffic class
	HopLimit  byte
}

// Parse reads an IP packet. It checks that the IP header, its options and extension headers and the fixed part of a TCP,
// UDP or ICMP header lie within b, and that b holds the length the header says; more is left to Length. A transport
// header that is cut short leaves HasPorts false.
func Parse(b []byte, p *Info) error {
	if len(b) < IPv4Len {
		return ErrShort
	}
	switch b[0] >> 4 {
	case 4:
		return parse4(b, p)
	case 6:
		return parse6(b, p)
	}
	return ErrVersion
}

func parse4(b []byte, p *Info) error {
	ip := IPv4(b)
	hl, total := ip.HeaderLen(), ip.TotalLen()
	switch {
	case hl < IPv4Len || hl > len(b):
		return ErrShort
	case total < hl || total > len(b):
		return ErrLength
	}
	*p = Info{}
	p.Length, p.Transport, p.Options, p.TOS, p.HopLimit = total, hl, hl > IPv4Len, b[1], b[8]
	p.Version, p.Protocol = 4, b[9]
	// Written in the words that [FlowKey.Is] reads, the processor need not wait until they are in the cache.
	binary.LittleEndian.PutUint64(p.Src[:], uint64(binary.LittleEndian.Uint32(b[12:])))
	binary.LittleEndian.PutUint64(p.Dst[:], uint64(binary.LittleEndian.Uint32(b[16:])))
	frag := binary.BigEndian.Uint16(b[6:]) & 0x3fff
	p.Fragment = frag != 0
	if frag&0x1fff == 0 {
		p.ports(b[hl:total])
	}
	return nil
}

func parse6(b []byte, p *Info) error {
	if len(b) < IPv6Len {
		return ErrShort
	}
	ip := IPv6(b)
	total := IPv6Len + ip.PayloadLen()
	if total > len(b) {
		return ErrLength
	}
	*p = Info{Length: total, TOS: ip.TrafficClass(), HopLimit: b[7]}
	p.Version = 6
	copy(p.Src[:], b[8:24])
	copy(p.Dst[:], b[24:40])
	next, off := b[6], IPv6Len
	for range maxExtensionHeaders {
		switch next {
		case ProtoHopByHop, ProtoRouting, ProtoDestOpts:
			if off+8 > total {
				return ErrShort
			}
			n := 8 + 8*int(b[off+1])
			if off+n > total {
				return ErrShort
			}
			next, off = b[off], off+n
		case ProtoAH:
			if off+8 > total {
				return ErrShort
			}
			n := 8 + 4*int(b[off+1])
			if off+n > total {
				return ErrShort
			}
			next, off = b[off], off+n
		case ProtoFragment:
			if off+8 > total {
				return ErrShort
			}
			frag := binary.BigEndian.Uint16(b[off+2:])
			p.Options = true
			p.Fragment = p.Fragment || frag&0xfff9 != 0
			next, off = b[off], off+8
			if frag&0xfff8 != 0 {
				p.Protocol, p.Transport = next, off
				return nil
			}
			continue
		default:
			p.Protocol, p.Transport = next, off
			p.ports(b[off:total])
			return nil
		}
		p.Options = true
	}
	return ErrHeaders
}

// HasPorts says whether packets of a protocol have ports, or what selectors take for ports.
func HasPorts(proto uint8) bool {
	switch proto {
	case ProtoICMP, ProtoTCP, ProtoUDP, protoDCCP, ProtoICMPv6, protoSCTP, ProtoMobility, protoUDPLite:
		return true
	}
	return false
}

// Protocols with ports in the place of TCP's and UDP's.
const (
	protoDCCP    = 33
	protoSCTP    = 132
	protoUDPLite = 136
)

func (p *Info) ports(t []byte) {
	switch p.Protocol {
	case ProtoTCP:
		if len(t) < TCPLen || int(t[12]>>4)*4 < TCPLen || int(t[12]>>4)*4 > len(t) {
			return
		}
	case ProtoUDP:
		if len(t) < UDPLen {
			return
		}
	case protoDCCP, protoSCTP, protoUDPLite:
		if len(t) < 8 {
			return
		}
	case ProtoICMP, ProtoICMPv6:
		if len(t) < 4 || (p.Protocol == ProtoICMP) != (p.Version == 4) {
			return
		}
		p.SrcPort = uint16(t[0])<<8 | uint16(t[1])
		p.DstPort = p.SrcPort
		p.HasPorts = true
		return
	case ProtoMobility: // RFC 6275, section 6.1.1: its type is a selector (RFC 4301, section 4.4.1.1)
		if len(t) < 8 || p.Version != 6 {
			return
		}
		p.SrcPort = uint16(t[2]) << 8
		p.DstPort = p.SrcPort
		p.HasPorts = true
		return
	default:
		return
	}
	p.SrcPort = binary.BigEndian.Uint16(t)
	p.DstPort = binary.BigEndian.Uint16(t[2:])
	p.HasPorts = true
}
