package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Where things are in batch.wideLanes: 16 pointers, then the words of the states, each of all lanes.
const (
	wideText  = 0
	wideState = 8 * 16
	wideRow   = 64
)

// What VPTERNLOG does of three bits (FIPS 180-4, section 4.1).
const (
	choice   = 0xca
	parity   = 0x96
	majority = 0xe8
)

// wideHash writes a function that hashes blocks of as many messages as a register has words: each register has the same word of all of
// them. A block of each is loaded, turned so that registers are words, and hashed with plain arithmetic: where one message leaves the
// SHA unit waiting, 16 fill the vector units.
//
// Registers: Z0-Z15 the messages' last 16 words; Z16 and what follows the state; Z24-Z26 for the moment. While rows are turned, Z16-Z31
// are their other half.
func wideHash(name string, bits, words int, rounds func(state []VecPhysical) []VecPhysical) {
	lanes := 512 / bits
	TEXT(name, NOSPLIT, "func(lanes *byte, blocks int)")
	Pragma("noescape")
	Doc(fmt.Sprintf("%s hashes blocks of %d messages.", name, lanes))
	lane, blocks, at, row := RDI, RCX, RDX, RAX
	Load(Param("lanes"), lane)
	Load(Param("blocks"), blocks)
	XORL(at.As32(), at.As32())
	Label("block")
	if bits == 32 {
		VBROADCASTI32X4(swapWords, Z16)
	} else {
		VBROADCASTI32X4(swapLongs, Z16)
	}
	for i := range 16 { // half a block of each of eight messages, then the other, if words are long
		MOVQ(Mem{Base: lane, Disp: wideText + 8*(i%lanes)}, row)
		VMOVDQU32(Mem{Base: row, Index: at, Scale: 1, Disp: 64 * (i / lanes)}, zmm[i])
		VPSHUFB(Z16, zmm[i], zmm[i])
	}
	if bits == 32 {
		turn()
	} else {
		turnLongs(zmm[:8], zmm[16:24])
		turnLongs(zmm[8:16], zmm[16:24])
	}
	state := zmm[16 : 16+words]
	for i, s := range state {
		VMOVDQU32(Mem{Base: lane, Disp: wideState + wideRow*i}, s)
	}
	add := VPADDD
	if bits == 64 {
		add = VPADDQ
	}
	for i, s := range rounds(state) {
		add(Mem{Base: lane, Disp: wideState + wideRow*i}, s, s)
		VMOVDQU32(s, Mem{Base: lane, Disp: wideState + wideRow*i})
	}
	ADDQ(U32(2*bits), at)
	DECQ(blocks)
	JNE(LabelRef("block"))
	wipe()
	RET()
}

// sha1Wide is FIPS 180-4, section 6.1.2, for 16 messages.
func sha1Wide() {
	k := GLOBL("sha1K", RODATA|NOPTR)
	for i, v := range []uint32{0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6} {
		DATA(4*i, U32(v))
	}
	f := []uint64{choice, parity, majority, parity}
	wideHash("sha1x16", 32, 5, func(state []VecPhysical) []VecPhysical {
		for i := range 80 {
			a, b, c, d, e := state[0], state[1], state[2], state[3], state[4]
			w := zmm[i%16]
			if i >= 16 {
				VPTERNLOGD(Imm(parity), zmm[(i+2)%16], zmm[(i+8)%16], w)
				VPXORD(zmm[(i+13)%16], w, w)
				VPROLD(Imm(1), w, w)
			}
			if i%20 == 0 {
				VPBROADCASTD(k.Offset(i/20*4), Z26)
			}
			VPADDD(Z26, e, e)
			VPADDD(w, e, e)
			VMOVDQA32(b, Z24)
			VPTERNLOGD(Imm(f[i/20]), d, c, Z24)
			VPROLD(Imm(5), a, Z25)
			VPADDD(Z24, e, e)
			VPADDD(Z25, e, e)
			VPROLD(Imm(30), b, b)
			state = []VecPhysical{e, a, b, c, d}
		}
		return state
	})
}

// sha2 is what differs between SHA-256 and SHA-512 (FIPS 180-4, sections 4.1.2 and 4.1.3): the rounds, and by how much words are
// rotated. The last of schedule's are shifts.
type sha2 struct {
	rounds    int
	state     [2][3]uint64
	schedule  [2][3]uint64
	add       func(ops ...Op)
	addEvery  func(ops ...Op) // one number to all words of a register
	rotate    func(ops ...Op)
	shift     func(ops ...Op)
	logic     func(ops ...Op)
	constants Mem
	size      int // of a constant, octets
}

// mix adds to sum what three rotations of a word are together. The last is a shift if so told.
func (s *sha2) mix(by [3]uint64, shifted bool, word, sum VecPhysical) {
	last := s.rotate
	if shifted {
		last = s.shift
	}
	s.rotate(Imm(by[0]), word, Z24)
	s.rotate(Imm(by[1]), word, Z25)
	last(Imm(by[2]), word, Z26)
	s.logic(Imm(parity), Z26, Z25, Z24)
	s.add(Z24, sum, sum)
}

func (s *sha2) all(state []VecPhysical) []VecPhysical {
	for i := range s.rounds {
		a, b, c, d, e, f, g, h := state[0], state[1], state[2], state[3], state[4], state[5], state[6], state[7]
		w := zmm[i%16]
		if i >= 16 {
			s.add(zmm[(i+9)%16], w, w)
			s.mix(s.schedule[0], true, zmm[(i+1)%16], w)
			s.mix(s.schedule[1], true, zmm[(i+14)%16], w)
		}
		s.add(w, h, h)
		s.addEvery(s.constants.Offset(s.size*i), h, h)
		VMOVDQA32(e, Z27)
		s.logic(Imm(choice), g, f, Z27)
		s.add(Z27, h, h)
		s.mix(s.state[1], false, e, h)
		s.add(h, d, d)
		VMOVDQA32(a, Z27)
		s.logic(Imm(majority), c, b, Z27)
		s.add(Z27, h, h)
		s.mix(s.state[0], false, a, h)
		state = []VecPhysical{h, a, b, c, d, e, f, g}
	}
	return state
}

// sha256Wide is FIPS 180-4, section 6.2.2, for 16 messages.
func sha256Wide() {
	s := sha2{
		rounds: 64, state: [2][3]uint64{{2, 13, 22}, {6, 11, 25}}, schedule: [2][3]uint64{{7, 18, 3}, {17, 19, 10}},
		add: VPADDD, addEvery: VPADDD_BCST, rotate: VPRORD, shift: VPSRLD, logic: VPTERNLOGD, constants: sha256K, size: 4,
	}
	wideHash("sha256x16", 32, 8, s.all)
}

// sha512Wide is FIPS 180-4, section 6.4.2, for eight messages.
func sha512Wide() {
	k := GLOBL("sha512K", RODATA|NOPTR)
	for i, p := range primes(80) {
		DATA(8*i, U64(rootBits(p, 64)))
	}
	s := sha2{
		rounds: 80, state: [2][3]uint64{{28, 34, 39}, {14, 18, 41}}, schedule: [2][3]uint64{{1, 8, 7}, {19, 61, 6}},
		add: VPADDQ, addEvery: VPADDQ_BCST, rotate: VPRORQ, shift: VPSRLQ, logic: VPTERNLOGQ, constants: k, size: 8,
	}
	wideHash("sha512x8", 64, 8, s.all)
}

// turn makes 16 columns of words of the 16 rows in Z0-Z15.
func turn() {
	from, to := zmm[:16], zmm[16:]
	for i := 0; i < 16; i += 2 { // words of two rows
		VPUNPCKLDQ(from[i+1], from[i], to[i])
		VPUNPCKHDQ(from[i+1], from[i], to[i+1])
	}
	for i := 0; i < 16; i += 4 { // words of four rows: from[i+k] has the words k, k+4, k+8, k+12
		for k := range 2 {
			VPUNPCKLQDQ(to[i+2+k], to[i+k], from[i+2*k])
			VPUNPCKHQDQ(to[i+2+k], to[i+k], from[i+2*k+1])
		}
	}
	for k := range 4 { // even and odd quarters of eight rows
		for half := range 2 {
			VSHUFI32X4(Imm(0x88), from[8*half+4+k], from[8*half+k], to[4*k+2*half])
			VSHUFI32X4(Imm(0xdd), from[8*half+4+k], from[8*half+k], to[4*k+2*half+1])
		}
	}
	for k := range 4 {
		for odd := range 2 {
			VSHUFI32X4(Imm(0x88), to[4*k+2+odd], to[4*k+odd], from[4*odd+k])
			VSHUFI32X4(Imm(0xdd), to[4*k+2+odd], to[4*k+odd], from[4*odd+8+k])
		}
	}
}

// turnLongs makes eight columns of words of 64 bits of the eight rows in from. to is lost.
func turnLongs(from, to []VecPhysical) {
	for i := 0; i < 8; i += 2 { // to[i] has the words 0, 2, 4, 6 of two rows, to[i+1] the others
		VPUNPCKLQDQ(from[i+1], from[i], to[i])
		VPUNPCKHQDQ(from[i+1], from[i], to[i+1])
	}
	for odd := range 2 { // even and odd quarters of four rows
		for half := range 2 {
			VSHUFI32X4(Imm(0x88), to[4*half+2+odd], to[4*half+odd], from[4*odd+half])
			VSHUFI32X4(Imm(0xdd), to[4*half+2+odd], to[4*half+odd], from[4*odd+2+half])
		}
	}
	for odd := range 2 {
		for k := range 2 { // from[4*odd+2*k] and its follower: the words 2k+odd and 2k+odd+4 of four rows each
			VSHUFI32X4(Imm(0x88), from[4*odd+2*k+1], from[4*odd+2*k], to[2*k+odd])
			VSHUFI32X4(Imm(0xdd), from[4*odd+2*k+1], from[4*odd+2*k], to[2*k+odd+4])
		}
	}
	for i := range from {
		VMOVDQA32(to[i], from[i])
	}
}
