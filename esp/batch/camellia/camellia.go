// Package camellia is the block cipher of RFC 3713.
package camellia

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"math/bits"
)

// Camellia (RFC 3713) as the RFC writes it: tables of 256 octets, looked up by secret octets, so that whoever shares a cache with us can
// learn of the key. It is here to meet old peers.

const camelliaBlock = 16 // octets

// camellia has the subkeys of RFC 3713, section 2.2. kl are those of the layers FL, between each six rounds.
type camellia struct {
	kw     [4]uint64
	k      [24]uint64
	kl     [6]uint64
	rounds int // 18 or 24
}

// camelliaSigma are the constants of the key schedule (RFC 3713, section 2.2).
var camelliaSigma = [6]uint64{
	0xa09e667f3bcc908b, 0xb67ae8584caa73b2, 0xc6ef372fe94f82be, 0x54ff53a5f1d36f1c, 0x10e527fade682d1d, 0xb05688c2b3e6c1fd,
}

// camelliaS is SBOX1 of RFC 3713, section 2.4.1. The other three are this one with the octet turned on its way in or out.
var camelliaS = [256]byte{
	112, 130, 44, 236, 179, 39, 192, 229, 228, 133, 87, 53, 234, 12, 174, 65,
	35, 239, 107, 147, 69, 25, 165, 33, 237, 14, 79, 78, 29, 101, 146, 189,
	134, 184, 175, 143, 124, 235, 31, 206, 62, 48, 220, 95, 94, 197, 11, 26,
	166, 225, 57, 202, 213, 71, 93, 61, 217, 1, 90, 214, 81, 86, 108, 77,
	139, 13, 154, 102, 251, 204, 176, 45, 116, 18, 43, 32, 240, 177, 132, 153,
	223, 76, 203, 194, 52, 126, 118, 5, 109, 183, 169, 49, 209, 23, 4, 215,
	20, 88, 58, 97, 222, 27, 17, 28, 50, 15, 156, 22, 83, 24, 242, 34,
	254, 68, 207, 178, 195, 181, 122, 145, 36, 8, 232, 168, 96, 252, 105, 80,
	170, 208, 160, 125, 161, 137, 98, 151, 84, 91, 30, 149, 224, 255, 100, 210,
	16, 196, 0, 72, 163, 247, 117, 219, 138, 3, 230, 218, 9, 63, 221, 148,
	135, 92, 131, 2, 205, 74, 144, 51, 115, 103, 246, 243, 157, 127, 191, 226,
	82, 155, 216, 38, 200, 55, 198, 59, 129, 150, 111, 75, 19, 190, 99, 46,
	233, 121, 167, 140, 159, 110, 188, 142, 41, 245, 249, 182, 47, 253, 180, 89,
	120, 152, 6, 106, 231, 70, 113, 186, 212, 37, 171, 66, 136, 162, 141, 250,
	114, 7, 185, 85, 248, 238, 172, 10, 54, 73, 42, 104, 60, 56, 241, 164,
	64, 40, 211, 123, 187, 201, 67, 193, 21, 227, 173, 244, 119, 199, 128, 158,
}

// camelliaF is the function F (RFC 3713, section 2.4.1): eight substitutions, then P, which mixes the octets.
func camelliaF(in, key uint64) uint64 {
	x := in ^ key
	var t [8]byte
	for i := range t {
		t[i] = byte(x >> (56 - 8*i))
	}
	s := &camelliaS
	t1, t2 := s[t[0]], bits.RotateLeft8(s[t[1]], 1)
	t3, t4 := bits.RotateLeft8(s[t[2]], 7), s[bits.RotateLeft8(t[3], 1)]
	t5, t6 := bits.RotateLeft8(s[t[4]], 1), bits.RotateLeft8(s[t[5]], 7)
	t7, t8 := s[bits.RotateLeft8(t[6], 1)], s[t[7]]
	return uint64(t1^t3^t4^t6^t7^t8)<<56 | uint64(t1^t2^t4^t5^t7^t8)<<48 |
		uint64(t1^t2^t3^t5^t6^t8)<<40 | uint64(t2^t3^t4^t5^t6^t7)<<32 |
		uint64(t1^t2^t6^t7^t8)<<24 | uint64(t2^t3^t5^t7^t8)<<16 |
		uint64(t3^t4^t5^t6^t8)<<8 | uint64(t1^t4^t5^t6^t7)
}

// camelliaFL and camelliaFLInv are the functions of RFC 3713, sections 2.4.2 and 2.4.3.
func camelliaFL(in, key uint64) uint64 {
	x1, x2, k1, k2 := uint32(in>>32), uint32(in), uint32(key>>32), uint32(key)
	x2 ^= bits.RotateLeft32(x1&k1, 1)
	x1 ^= x2 | k2
	return uint64(x1)<<32 | uint64(x2)
}

func camelliaFLInv(in, key uint64) uint64 {
	y1, y2, k1, k2 := uint32(in>>32), uint32(in), uint32(key>>32), uint32(key)
	y1 ^= y2 | k2
	y2 ^= bits.RotateLeft32(y1&k1, 1)
	return uint64(y1)<<32 | uint64(y2)
}

// wide is one of the 128-bit values that subkeys are halves of.
type wide struct{ high, low uint64 }

// half is the high or low half of the value turned left by n bits, 0 to 127.
func (w wide) half(n int, low bool) uint64 {
	h, l := w.high, w.low
	if n >= 64 {
		h, l, n = l, h, n-64
	}
	if low {
		h, l = l, h
	}
	return h<<n | l>>(64-n)
}

// InsecureNew is the cipher with a key of 16, 24 or 32 octets.
func InsecureNew(key []byte) (cipher.Block, error) {
	var kl, kr wide
	switch len(key) {
	case 16, 24, 32:
		kl = wide{binary.BigEndian.Uint64(key), binary.BigEndian.Uint64(key[8:])}
	default:
		return nil, fmt.Errorf("camellia key of %d octets: use 16, 24 or 32", len(key))
	}
	switch len(key) {
	case 24:
		kr.high = binary.BigEndian.Uint64(key[16:])
		kr.low = ^kr.high
	case 32:
		kr = wide{binary.BigEndian.Uint64(key[16:]), binary.BigEndian.Uint64(key[24:])}
	}
	d1, d2 := kl.high^kr.high, kl.low^kr.low
	d2 ^= camelliaF(d1, camelliaSigma[0])
	d1 ^= camelliaF(d2, camelliaSigma[1])
	d1, d2 = d1^kl.high, d2^kl.low
	d2 ^= camelliaF(d1, camelliaSigma[2])
	d1 ^= camelliaF(d2, camelliaSigma[3])
	ka := wide{d1, d2}
	if len(key) == 16 {
		return camelliaShort(kl, ka), nil
	}
	d1, d2 = ka.high^kr.high, ka.low^kr.low
	d2 ^= camelliaF(d1, camelliaSigma[4])
	d1 ^= camelliaF(d2, camelliaSigma[5])
	return camelliaLong(kl, kr, ka, wide{d1, d2}), nil
}

// halves are subkeys in the order of RFC 3713, section 2.2: the high half and the low half of each value so turned.
type turned struct {
	value wide
	by    int
}

func halves(dst []uint64, of ...turned) {
	for i, t := range of {
		dst[2*i], dst[2*i+1] = t.value.half(t.by, false), t.value.half(t.by, true)
	}
}

// camelliaShort has the subkeys of a key of 16 octets.
func camelliaShort(kl, ka wide) *camellia {
	c := &camellia{rounds: 18}
	halves(c.kw[:], turned{kl, 0}, turned{ka, 111})
	halves(c.k[:], turned{ka, 0}, turned{kl, 15}, turned{ka, 15}, turned{kl, 45})
	c.k[8], c.k[9] = ka.half(45, false), kl.half(60, true)
	halves(c.k[10:], turned{ka, 60}, turned{kl, 94}, turned{ka, 94}, turned{kl, 111})
	halves(c.kl[:], turned{ka, 30}, turned{kl, 77})
	return c
}

// camelliaLong has those of a longer one.
func camelliaLong(kl, kr, ka, kb wide) *camellia {
	c := &camellia{rounds: 24}
	halves(c.kw[:], turned{kl, 0}, turned{kb, 111})
	halves(
		c.k[:], turned{kb, 0}, turned{kr, 15}, turned{ka, 15}, turned{kb, 30}, turned{kl, 45}, turned{ka, 45},
		turned{kr, 60}, turned{kb, 60}, turned{kl, 77}, turned{kr, 94}, turned{ka, 94}, turned{kl, 111},
	)
	halves(c.kl[:], turned{kr, 30}, turned{kl, 60}, turned{ka, 77})
	return c
}

func (c *camellia) BlockSize() int { return camelliaBlock }

// Encrypt is RFC 3713, section 2.3.
func (c *camellia) Encrypt(dst, src []byte) {
	d1, d2 := binary.BigEndian.Uint64(src)^c.kw[0], binary.BigEndian.Uint64(src[8:])^c.kw[1]
	for r := 0; r < c.rounds; r += 2 {
		if r > 0 && r%6 == 0 {
			d1, d2 = camelliaFL(d1, c.kl[r/3-2]), camelliaFLInv(d2, c.kl[r/3-1])
		}
		d2 ^= camelliaF(d1, c.k[r])
		d1 ^= camelliaF(d2, c.k[r+1])
	}
	binary.BigEndian.PutUint64(dst, d2^c.kw[2])
	binary.BigEndian.PutUint64(dst[8:], d1^c.kw[3])
}

// Decrypt is Encrypt with the subkeys in reverse order.
func (c *camellia) Decrypt(dst, src []byte) {
	d1, d2 := binary.BigEndian.Uint64(src)^c.kw[2], binary.BigEndian.Uint64(src[8:])^c.kw[3]
	for r := c.rounds; r > 0; r -= 2 {
		if r < c.rounds && r%6 == 0 {
			d1, d2 = camelliaFL(d1, c.kl[r/3-1]), camelliaFLInv(d2, c.kl[r/3-2])
		}
		d2 ^= camelliaF(d1, c.k[r-1])
		d1 ^= camelliaF(d2, c.k[r-2])
	}
	binary.BigEndian.PutUint64(dst, d2^c.kw[0])
	binary.BigEndian.PutUint64(dst[8:], d1^c.kw[1])
}
