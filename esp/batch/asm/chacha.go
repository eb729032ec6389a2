package main

// ChaCha20 of 16 blocks at a time, of any packets, and Poly1305 of eight packets at a time (RFC 8439, sections 2.3 and 2.5).

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Where things are in batch.chachaGroup and batch.polyLanes.
const (
	groupCounter = 0
	groupNonce   = 64
	groupText    = 256
	groupMask    = 384
	groupSize    = 512

	polyText = 0
	polyH    = 64
	polyR    = 256
	polyS    = 448
)

// chacha20 keeps one word of 16 blocks in each of Z0-Z15. At the end they are turned, so that registers are blocks.
func chacha20() {
	sigma := GLOBL("chachaSigma", RODATA|NOPTR)
	for i, v := range []uint32{0x61707865, 0x3320646e, 0x79622d32, 0x6b206574} {
		DATA(4*i, U32(v))
	}
	TEXT("chacha20x16", NOSPLIT, "func(key, groups *byte, n int)")
	Pragma("noescape")
	Doc("chacha20x16 adds the key stream to 16 blocks of each of n groups.")
	key, group, count, rounds, text, mask := RDI, RSI, RCX, RBX, RAX, RDX
	Load(Param("key"), key)
	Load(Param("groups"), group)
	Load(Param("n"), count)
	words := zmm[:16]
	start := func(i int) Mem {
		if i < 4 {
			return sigma.Offset(4 * i)
		}
		return Mem{Base: key, Disp: 4 * (i - 4)}
	}
	Label("group")
	for i := range 12 {
		VPBROADCASTD(start(i), words[i])
	}
	for i := 12; i < 16; i++ {
		VMOVDQU32(Mem{Base: group, Disp: groupCounter + 64*(i-12)}, words[i])
	}
	MOVQ(U32(10), rounds)
	Label("rounds")
	for diagonal := range 2 {
		var quarter [4][4]VecPhysical
		for i := range quarter {
			for k := range 4 {
				quarter[i][k] = words[4*k+(i+k*diagonal)%4]
			}
		}
		for _, step := range []struct{ to, from, by, turn int }{{0, 1, 3, 16}, {2, 3, 1, 12}, {0, 1, 3, 8}, {2, 3, 1, 7}} {
			for _, q := range quarter {
				VPADDD(q[step.from], q[step.to], q[step.to])
			}
			for _, q := range quarter {
				VPXORD(q[step.to], q[step.by], q[step.by])
			}
			for _, q := range quarter {
				VPROLD(Imm(uint64(step.turn)), q[step.by], q[step.by])
			}
		}
	}
	DECQ(rounds)
	JNE(LabelRef("rounds"))
	for i := range 12 {
		VPADDD_BCST(start(i), words[i], words[i])
	}
	for i := 12; i < 16; i++ {
		VPADDD(Mem{Base: group, Disp: groupCounter + 64*(i-12)}, words[i], words[i])
	}
	turn()
	for i, block := range words {
		MOVQ(Mem{Base: group, Disp: groupText + 8*i}, text)
		MOVQ(Mem{Base: group, Disp: groupMask + 8*i}, mask)
		CMPQ(mask, I8(-1))
		JNE(LabelRef(fmt.Sprint("part", i)))
		VPXORD(Mem{Base: text}, block, block)
		VMOVDQU32(block, Mem{Base: text})
		Label(fmt.Sprint("next", i))
	}
	ADDQ(U32(groupSize), group)
	DECQ(count)
	JNE(LabelRef("group"))
	wipe()
	RET()
	for i, block := range words {
		Label(fmt.Sprint("part", i))
		KMOVQ(mask, K1)
		VMOVDQU8_Z(Mem{Base: text}, K1, Z16)
		VPXORD(Z16, block, block)
		VMOVDQU8(block, K1, Mem{Base: text})
		JMP(LabelRef(fmt.Sprint("next", i)))
	}
}

// poly1305 keeps numbers in limbs of 44, 44 and 42 bits, one packet in each quarter of 64 bits of a register.
//
//	Z0-Z2   the sum h         Z8, Z9  44 and 42 ones       Z11-Z15  the block
//	Z3-Z5   r                 Z10     2^128, in its limb   Z16-Z21  products: low and high 52 bits for each limb
//	Z6, Z7  20 r1 and 20 r2, because 2^132 is 20 modulo 2^130-5
func poly1305() {
	TEXT("poly1305x8", NOSPLIT, "func(lanes *byte, blocks int)")
	Pragma("noescape")
	Doc("poly1305x8 adds blocks of eight packets, each of 16 octets, to their sums.")
	ptr := []GPPhysical{R8, R9, R10, R11, R12, R13, R14, R15}
	lane, blocks, at := RDI, RCX, RDX
	Load(Param("lanes"), lane)
	Load(Param("blocks"), blocks)
	for i, p := range ptr {
		MOVQ(Mem{Base: lane, Disp: polyText + 8*i}, p)
	}
	h, r, s := zmm[0:3], zmm[3:6], zmm[6:8]
	for i := range 3 {
		VMOVDQU64(Mem{Base: lane, Disp: polyH + 64*i}, h[i])
		VMOVDQU64(Mem{Base: lane, Disp: polyR + 64*i}, r[i])
	}
	for i := range 2 {
		VMOVDQU64(Mem{Base: lane, Disp: polyS + 64*i}, s[i])
	}
	for i, v := range []uint64{1<<44 - 1, 1<<42 - 1, 1 << 40} {
		MOVQ(U64(v), RAX)
		VPBROADCASTQ(RAX, zmm[8+i])
	}
	ones44, ones42, top := Z8, Z9, Z10
	XORL(at.As32(), at.As32())
	Label("block")
	// Even packets in Z11, odd ones in Z12, so that their halves come out in order.
	for odd, to := range []VecPhysical{Z11, Z12} {
		VMOVDQU(Mem{Base: ptr[odd], Index: at, Scale: 1}, xmm[11+odd])
		for i := 1; i < 4; i++ {
			VINSERTI64X2(Imm(uint64(i)), Mem{Base: ptr[2*i+odd], Index: at, Scale: 1}, to, to)
		}
	}
	VPUNPCKLQDQ(Z12, Z11, Z13)
	VPUNPCKHQDQ(Z12, Z11, Z14)
	VPANDQ(ones44, Z13, Z11)
	VPADDQ(Z11, h[0], h[0])
	VPSRLQ(Imm(44), Z13, Z12)
	VPSLLQ(Imm(20), Z14, Z15)
	VPTERNLOGQ(Imm(0xa8), ones44, Z15, Z12) // either, and the ones
	VPADDQ(Z12, h[1], h[1])
	VPSRLQ(Imm(24), Z14, Z14)
	VPORQ(top, Z14, Z14)
	VPADDQ(Z14, h[2], h[2])
	d := zmm[16:22]
	for _, x := range d {
		VPXORQ(x, x, x)
	}
	for i, by := range [][]VecPhysical{{r[0], r[1], r[2]}, {s[1], r[0], r[1]}, {s[0], s[1], r[0]}} {
		for limb := range 3 {
			VPMADD52LUQ(by[limb], h[i], d[2*limb])
			VPMADD52HUQ(by[limb], h[i], d[2*limb+1])
		}
	}
	// A high half is 2^52 of its limb: 2^8 of the next one, or behind the last limb 5 times 2^10 of the first.
	VPSRLQ(Imm(44), d[0], Z11)
	VPANDQ(ones44, d[0], h[0])
	VPSLLQ(Imm(8), d[1], d[1])
	VPADDQ(Z11, d[1], d[1])
	VPADDQ(d[1], d[2], d[2])
	VPSRLQ(Imm(44), d[2], Z11)
	VPANDQ(ones44, d[2], h[1])
	VPSLLQ(Imm(8), d[3], d[3])
	VPADDQ(Z11, d[3], d[3])
	VPADDQ(d[3], d[4], d[4])
	VPSRLQ(Imm(42), d[4], Z11)
	VPANDQ(ones42, d[4], h[2])
	VPSLLQ(Imm(10), d[5], d[5])
	VPADDQ(Z11, d[5], d[5])
	VPSLLQ(Imm(2), d[5], Z12)
	VPADDQ(Z12, d[5], d[5])
	VPADDQ(d[5], h[0], h[0])
	VPSRLQ(Imm(44), h[0], Z11)
	VPANDQ(ones44, h[0], h[0])
	VPADDQ(Z11, h[1], h[1])
	ADDQ(Imm(16), at)
	DECQ(blocks)
	JNE(LabelRef("block"))
	for i := range 3 {
		VMOVDQU64(h[i], Mem{Base: lane, Disp: polyH + 64*i})
	}
	wipe()
	RET()
}
