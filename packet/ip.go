package packet

import (
	"encoding/binary"
	"net/netip"
)

// IP protocol numbers.
const (
	ProtoHopByHop = 0
	ProtoICMP     = 1
	ProtoIPv4     = 4
	ProtoTCP      = 6
	ProtoUDP      = 17
	ProtoIPv6     = 41
	ProtoRouting  = 43
	ProtoFragment = 44
	ProtoESP      = 50
	ProtoAH       = 51
	ProtoICMPv6   = 58
	ProtoNoNext   = 59
	ProtoDestOpts = 60
	ProtoMobility = 135
)

// Sizes in octets.
const (
	IPv4Len     = 20 // without options
	IPv6Len     = 40
	MinMTUv6    = 1280
	MaxIPPacket = 65535
)

// IPv4 is a packet that begins with an IPv4 header of at least 20 octets.
type IPv4 []byte

func (p IPv4) HeaderLen() int      { return int(p[0]&0x0f) * 4 }
func (p IPv4) TOS() byte           { return p[1] }
func (p IPv4) TotalLen() int       { return int(binary.BigEndian.Uint16(p[2:])) }
func (p IPv4) ID() uint16          { return binary.BigEndian.Uint16(p[4:]) }
func (p IPv4) DF() bool            { return p[6]&0x40 != 0 }
func (p IPv4) MoreFragments() bool { return p[6]&0x20 != 0 }

// FragmentOffset is in octets.
func (p IPv4) FragmentOffset() int { return int(binary.BigEndian.Uint16(p[6:])&0x1fff) * 8 }
func (p IPv4) TTL() byte           { return p[8] }
func (p IPv4) Protocol() byte      { return p[9] }
func (p IPv4) Checksum() uint16    { return binary.BigEndian.Uint16(p[10:]) }
func (p IPv4) Src() netip.Addr     { return netip.AddrFrom4([4]byte(p[12:16])) }
func (p IPv4) Dst() netip.Addr     { return netip.AddrFrom4([4]byte(p[16:20])) }

func (p IPv4) SetTotalLen(n int)    { binary.BigEndian.PutUint16(p[2:], uint16(n)) }
func (p IPv4) SetID(id uint16)      { binary.BigEndian.PutUint16(p[4:], id) }
func (p IPv4) SetChecksum(c uint16) { binary.BigEndian.PutUint16(p[10:], c) }

// SetFragment writes the offset in octets, a multiple of 8, and the flag; DF is kept.
func (p IPv4) SetFragment(offset int, more bool) {
	v := binary.BigEndian.Uint16(p[6:])&0x4000 | uint16(offset/8)
	if more {
		v |= 0x2000
	}
	binary.BigEndian.PutUint16(p[6:], v)
}

// SetTOS changes the octet and adjusts the header checksum (RFC 1624).
func (p IPv4) SetTOS(tos byte) {
	old := binary.BigEndian.Uint16(p[0:])
	p[1] = tos
	binary.BigEndian.PutUint16(p[10:], UpdateChecksum(p.Checksum(), old, binary.BigEndian.Uint16(p[0:])))
}

// FillChecksum computes the header checksum.
func (p IPv4) FillChecksum() {
	p[10], p[11] = 0, 0
	binary.BigEndian.PutUint16(p[10:], ^Sum(p[:p.HeaderLen()], 0))
}

// ChecksumOK verifies the header checksum.
func (p IPv4) ChecksumOK() bool {
	if p[0]&0x0f != IPv4Len/4 {
		return Sum(p[:p.HeaderLen()], 0) == 0xffff
	}
	return fold(words4(p, 0)+words4(p, 4)+words4(p, 8)+words4(p, 12)+words4(p, 16)) == 0xffff
}

// IPv6 is a packet that begins with an IPv6 header, 40 octets.
type IPv6 []byte

func (p IPv6) TrafficClass() byte { return p[0]<<4 | p[1]>>4 }
func (p IPv6) FlowLabel() uint32  { return binary.BigEndian.Uint32(p) & 0xfffff }
func (p IPv6) PayloadLen() int    { return int(binary.BigEndian.Uint16(p[4:])) }
func (p IPv6) NextHeader() byte   { return p[6] }
func (p IPv6) HopLimit() byte     { return p[7] }
func (p IPv6) Src() netip.Addr    { return netip.AddrFrom16([16]byte(p[8:24])) }
func (p IPv6) Dst() netip.Addr    { return netip.AddrFrom16([16]byte(p[24:40])) }

func (p IPv6) SetPayloadLen(n int) { binary.BigEndian.PutUint16(p[4:], uint16(n)) }
func (p IPv6) SetTrafficClass(tc byte) {
	p[0] = 0x60 | tc>>4
	p[1] = p[1]&0x0f | tc<<4
}

// Explicit congestion notification, the low two bits of TOS and traffic class (RFC 3168, section 5).
const (
	ECNMask   = 0x03
	ECNNotECT = 0x00
	ECNECT1   = 0x01
	ECNECT0   = 0x02
	ECNCE     = 0x03
)
