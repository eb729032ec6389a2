package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Where things are in batch.wideLanes: 16 pointers, then the words of the states, each of all lanes.
const (
	wideLanes = 16
	wideText  = 0
	wideState = 8 * wideLanes
	wideRow   = 4 * wideLanes
)

// sha1Wide is FIPS 180-4, section 6.1.2, for 16 messages: each register has the same word of all of them. A block of each is
// loaded, turned so that registers are words, and hashed with plain arithmetic: where one message leaves the SHA unit waiting,
// 16 fill the vector units.
//
// Registers: Z0-Z15 the messages' last 16 words; Z16-Z20 the state; Z24-Z26 for the moment. While rows are turned, Z16-Z31 are
// their other half.
func sha1Wide() {
	k := GLOBL("sha1K", RODATA|NOPTR)
	for i, v := range []uint32{0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6} {
		DATA(4*i, U32(v))
	}
	TEXT("sha1x16", NOSPLIT, "func(lanes *byte, blocks int)")
	Pragma("noescape")
	Doc("sha1x16 hashes blocks of 16 messages.")
	lane, blocks, at, row := RDI, RCX, RDX, RAX
	Load(Param("lanes"), lane)
	Load(Param("blocks"), blocks)
	XORL(at.As32(), at.As32())
	Label("block")
	VBROADCASTI32X4(swapWords, Z16)
	for i := range wideLanes {
		MOVQ(Mem{Base: lane, Disp: wideText + 8*i}, row)
		VMOVDQU32(Mem{Base: row, Index: at, Scale: 1}, zmm[i])
		VPSHUFB(Z16, zmm[i], zmm[i])
	}
	turn()
	state := zmm[16:21]
	for i, s := range state {
		VMOVDQU32(Mem{Base: lane, Disp: wideState + wideRow*i}, s)
	}
	f := []uint64{0xca, 0x96, 0xe8, 0x96} // choice, parity, majority, parity
	for i := range 80 {
		a, b, c, d, e := state[0], state[1], state[2], state[3], state[4]
		w := zmm[i%16]
		if i >= 16 {
			VPTERNLOGD(Imm(0x96), zmm[(i+2)%16], zmm[(i+8)%16], w)
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
	for i, s := range state {
		VPADDD(Mem{Base: lane, Disp: wideState + wideRow*i}, s, s)
		VMOVDQU32(s, Mem{Base: lane, Disp: wideState + wideRow*i})
	}
	ADDQ(Imm(64), at)
	DECQ(blocks)
	JNE(LabelRef("block"))
	wipe()
	RET()
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
