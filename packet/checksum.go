package packet

import (
	"encoding/binary"
	"math/bits"
)

// The Internet checksum is a sum modulo 2^16-1, so it may be taken over wider words, in either octet order, and
// folded at the end (RFC 1071, section 2). Here: 64-bit little-endian words with the carry added back, as
// that is what the machines at hand load at once. On amd64 with AVX2 whole blocks go through vectors
// (checksum_amd64.s); the rest, and every other machine, through the same words one by one.

// Sum adds the ones' complement sum of b, as 16-bit big-endian words, to initial. The Internet checksum is its complement.
func Sum(b []byte, initial uint16) uint16 {
	s, n := sumWide(b)
	return foldTo(sumWords(b[n:], s), initial)
}

// CopySum copies src to dst, which is at least as long, and returns Sum(src, initial). One pass costs what the sum costs.
func CopySum(dst, src []byte, initial uint16) uint16 {
	dst = dst[:len(src)]
	s, n := copySumWide(dst, src)
	src, dst = src[n:], dst[n:]
	var c uint64
	for len(src) >= 64 && len(dst) >= 64 {
		w0 := binary.LittleEndian.Uint64(src)
		w1 := binary.LittleEndian.Uint64(src[8:])
		w2 := binary.LittleEndian.Uint64(src[16:])
		w3 := binary.LittleEndian.Uint64(src[24:])
		binary.LittleEndian.PutUint64(dst, w0)
		binary.LittleEndian.PutUint64(dst[8:], w1)
		binary.LittleEndian.PutUint64(dst[16:], w2)
		binary.LittleEndian.PutUint64(dst[24:], w3)
		s, c = bits.Add64(s, w0, 0)
		s, c = bits.Add64(s, w1, c)
		s, c = bits.Add64(s, w2, c)
		s, c = bits.Add64(s, w3, c)
		w0 = binary.LittleEndian.Uint64(src[32:])
		w1 = binary.LittleEndian.Uint64(src[40:])
		w2 = binary.LittleEndian.Uint64(src[48:])
		w3 = binary.LittleEndian.Uint64(src[56:])
		binary.LittleEndian.PutUint64(dst[32:], w0)
		binary.LittleEndian.PutUint64(dst[40:], w1)
		binary.LittleEndian.PutUint64(dst[48:], w2)
		binary.LittleEndian.PutUint64(dst[56:], w3)
		s, c = bits.Add64(s, w0, c)
		s, c = bits.Add64(s, w1, c)
		s, c = bits.Add64(s, w2, c)
		s, c = bits.Add64(s, w3, c)
		s, c = bits.Add64(s, 0, c)
		s += c
		src, dst = src[64:], dst[64:]
	}
	copy(dst, src)
	return foldTo(sumWords(src, s), initial)
}

func sumWords(b []byte, s uint64) uint64 {
	var c uint64
	for len(b) >= 64 {
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b), 0)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[8:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[16:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[24:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[32:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[40:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[48:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[56:]), c)
		s, c = bits.Add64(s, 0, c)
		s += c
		b = b[64:]
	}
	for len(b) >= 8 {
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b), 0)
		s += c
		b = b[8:]
	}
	if len(b) >= 4 {
		s, c = bits.Add64(s, uint64(binary.LittleEndian.Uint32(b)), 0)
		s += c
		b = b[4:]
	}
	if len(b) >= 2 {
		s, c = bits.Add64(s, uint64(binary.LittleEndian.Uint16(b)), 0)
		s += c
		b = b[2:]
	}
	if len(b) == 1 {
		s, c = bits.Add64(s, uint64(b[0]), 0)
		s += c
	}
	return s
}

func foldTo(s uint64, initial uint16) uint16 {
	return AddSum(bits.ReverseBytes16(fold(s)), initial)
}

// AddSum adds two sums.
func AddSum(a, b uint16) uint16 {
	s := uint32(a) + uint32(b)
	return uint16(s + s>>16)
}

// UpdateChecksum is the checksum after one 16-bit word changed (RFC 1624, equation 3).
func UpdateChecksum(sum, from, to uint16) uint16 {
	return ^AddSum(AddSum(^sum, ^from), to)
}

// PseudoSum is the sum of the pseudo-header of TCP, UDP or ICMPv6 for an IP packet ip whose transport part, header
// and data, is length octets (RFC 9293, section 3.1; RFC 8200, section 8.1). It is what the checksum field holds in
// a frame that says VirtioNeedsChecksum.
func PseudoSum(ip []byte, proto byte, length int) uint16 {
	s := uint64(proto) + uint64(uint32(length))
	if ip[0]>>4 == 4 {
		s += words4(ip, 12) + words4(ip, 16)
	} else {
		for at := 8; at < IPv6Len; at += 4 {
			s += words4(ip, at)
		}
	}
	return fold(s)
}

// words4 is a word of 32 bits: 2^16 is 1 modulo 2^16-1, so it counts for two of 16.
func words4(b []byte, at int) uint64 { return uint64(binary.BigEndian.Uint32(b[at:])) }

// fold adds up the 16-bit words of s until one is left.
func fold(s uint64) uint16 {
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s)
}
