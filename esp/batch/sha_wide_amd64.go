package batch

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"hash"
	"slices"
	"unsafe"

	"golang.org/x/sys/cpu"
)

// hasSHA says whether the processor has the SHA instructions: bit 29, which x/sys does not tell. AVX2 implies that there
// is such a leaf.
var hasSHA = cpu.X86.HasAVX2 && cpu.X86.HasSSSE3 && cpu.X86.HasSSE41 && leaf7ebx()>>29&1 == 1

// sha is what the lanes must know of a hash.
type sha struct {
	kind  shaKind
	start macState
	order [16]uint8 // where the words of the wide state are in a state, 32 bits each
	words int       // of a state, 32 bits each
	size  int       // of the digest, octets
	block int       // octets
	width int       // as many messages the wide function hashes
	pairs bool      // there is a function for two messages
	many  int       // from how many messages on the wide function is faster than pairs
	few   int       // from how many messages on lanes are faster than Go's own code
}

type shaKind int

const (
	isSHA1 shaKind = iota
	isSHA256
	isSHA512
)

var (
	// Words D, C, B, A, and E at the end.
	sha1Lanes = sha{
		kind:  isSHA1,
		start: macState{0x10325476, 0x98badcfe, 0xefcdab89, 0x67452301, 0, 0, 0, 0xc3d2e1f0},
		order: [16]uint8{3, 2, 1, 0, 7},
		words: 5, size: 20, block: 64, width: 16, pairs: true, many: 7, few: 2,
	}
	// Words F, E, B, A, H, G, D, C.
	sha256Lanes = sha{
		kind:  isSHA256,
		start: macState{0x9b05688c, 0x510e527f, 0xbb67ae85, 0x6a09e667, 0x5be0cd19, 0x1f83d9ab, 0xa54ff53a, 0x3c6ef372},
		order: [16]uint8{3, 2, 7, 6, 1, 0, 5, 4},
		words: 8, size: 32, block: 64, width: 16, pairs: true, many: 10, few: 2,
	}
	// Words as in the digest.
	sha512Lanes = sha{
		kind: isSHA512,
		start: macState{
			0x6a09e667, 0xf3bcc908, 0xbb67ae85, 0x84caa73b, 0x3c6ef372, 0xfe94f82b, 0xa54ff53a, 0x5f1d36f1,
			0x510e527f, 0xade682d1, 0x9b05688c, 0x2b3e6c1f, 0x1f83d9ab, 0xfb41bd6b, 0x5be0cd19, 0x137e2179,
		},
		order: [16]uint8{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
		words: 16, size: 64, block: 128, width: 8, few: 3,
	}
	sha384Lanes = sha{
		kind: isSHA512,
		start: macState{
			0xcbbb9d5d, 0xc1059ed8, 0x629a292a, 0x367cd507, 0x9159015a, 0x3070dd17, 0x152fecd8, 0xf70e5939,
			0x67332667, 0xffc00b31, 0x8eb44a87, 0x68581511, 0xdb0c2e0d, 0x64f98fa7, 0x47b5481d, 0xbefa4fa4,
		},
		order: sha512Lanes.order,
		words: 16, size: 48, block: 128, width: 8, few: 3,
	}
)

// lanesFor finds the lanes of a hash, nil if there are none.
func lanesFor(h func() hash.Hash) *sha {
	empty := h().Sum(nil)
	if want := sha512.Sum512(nil); slices.Equal(empty, want[:]) {
		return &sha512Lanes
	}
	if want := sha512.Sum384(nil); slices.Equal(empty, want[:]) {
		return &sha384Lanes
	}
	if !hasSHA {
		return nil
	}
	if want := sha256.Sum256(nil); slices.Equal(empty, want[:]) {
		return &sha256Lanes
	}
	if want := sha1.Sum(nil); slices.Equal(empty, want[:]) {
		return &sha1Lanes
	}
	return nil
}

func (s *sha) blocksOfPair(lanes *[macPair]macLane, n int) {
	if s.kind == isSHA1 {
		sha1x2((*byte)(unsafe.Pointer(lanes)), n)
	} else {
		sha256x2((*byte)(unsafe.Pointer(lanes)), n)
	}
}

func (s *sha) blocksOfMany(lanes *wideLanes, n int) {
	switch p := (*byte)(unsafe.Pointer(lanes)); s.kind {
	case isSHA1:
		sha1x16(p, n)
	case isSHA256:
		sha256x16(p, n)
	case isSHA512:
		sha512x8(p, n)
	}
}

// place is where a word of the state of one lane is. Of 64 bits, the low half comes first.
func (s *sha) place(lanes *wideLanes, lane, word int) *uint32 {
	if s.kind == isSHA512 {
		return &lanes.state[word/2&7][(2*lane+1-word&1)&15]
	}
	return &lanes.state[word&7][lane&15]
}

// put and get move the state of one lane.
func (s *sha) put(lanes *wideLanes, lane int, state *macState) {
	for word := range s.words {
		*s.place(lanes, lane, word) = state[s.order[word&15]&15]
	}
}

func (s *sha) get(lanes *wideLanes, lane int, state *macState) {
	for word := range s.words {
		state[s.order[word&15]&15] = *s.place(lanes, lane, word)
	}
}

// digest writes the digest of a state, and of SHA-384's the rest of it.
func (s *sha) digest(sum *[64]byte, state *macState) {
	for word := range s.words {
		binary.BigEndian.PutUint32(sum[4*(word&15):], state[s.order[word&15]&15])
	}
}

// keyed hashes HMAC's first blocks, the key with two paddings.
func (s *sha) keyed(macKey []byte, h func() hash.Hash) (inner, outer macState) {
	var block [2][128]byte
	if len(macKey) > s.block {
		d := h()
		d.Write(macKey)
		macKey = d.Sum(nil)
		defer clear(macKey)
	}
	var lanes [macPair]macLane
	for i, pad := range []byte{0x36, 0x5c} {
		copy(block[i][:], macKey)
		for j := range block[i] {
			block[i][j] ^= pad
		}
		lanes[i] = macLane{text: unsafe.Pointer(&block[i]), state: s.start}
	}
	if s.pairs {
		s.blocksOfPair(&lanes, 1)
	} else {
		var wide wideLanes
		for i := range macLanes {
			wide.text[i] = lanes[i%macPair].text
			if i < s.width {
				s.put(&wide, i, &s.start)
			}
		}
		s.blocksOfMany(&wide, 1)
		s.get(&wide, 0, &lanes[0].state)
		s.get(&wide, 1, &lanes[1].state)
		clear(wide.state[:])
	}
	clear(block[0][:])
	clear(block[1][:])
	inner, outer = lanes[0].state, lanes[1].state
	clear(lanes[:])
	return inner, outer
}
