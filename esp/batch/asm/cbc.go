package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Where things are in batch.cbcLane: a pointer, what is left, and the IV.
const (
	laneText = 0
	laneIV   = 16
	laneSize = 32
	lanes    = 8
)

// cbcSeal encrypts blocks of eight texts side by side: each block of CBC waits for the one before, so one text alone
// leaves the AES unit idle for most of the time.
func cbcSeal() {
	TEXT("cbcSeal", NOSPLIT, "func(keys *byte, rounds int, lanes *byte, blocks int)")
	Pragma("noescape")
	Doc("cbcSeal encrypts as many blocks of eight texts, and leaves the last blocks as IVs. Two lanes may be the same.")
	ptr := []GPPhysical{R8, R9, R10, R11, R12, R13, R14, R15}
	keys, rounds, lane, blocks, at := RAX, RBX, RDI, RCX, RDX
	Load(Param("keys"), keys)
	Load(Param("rounds"), rounds)
	Load(Param("lanes"), lane)
	Load(Param("blocks"), blocks)
	SHLQ(Imm(4), rounds)
	for i := range lanes {
		MOVQ(Mem{Base: lane, Disp: laneSize*i + laneText}, ptr[i])
		VMOVDQU(Mem{Base: lane, Disp: laneSize*i + laneIV}, xmm[i])
	}
	XORL(at.As32(), at.As32())
	Label("block")
	VMOVDQU(Mem{Base: keys}, X8)
	for i := range lanes {
		VPXOR(Mem{Base: ptr[i], Index: at, Scale: 1}, xmm[i], xmm[i])
	}
	for i := range lanes {
		VPXOR(X8, xmm[i], xmm[i])
	}
	allRounds("", keys, rounds, lanes, VAESENC, VAESENCLAST)
	for i := range lanes {
		VMOVDQU(xmm[i], Mem{Base: ptr[i], Index: at, Scale: 1})
	}
	ADDQ(Imm(16), at)
	DECQ(blocks)
	JNE(LabelRef("block"))
	for i := range lanes {
		VMOVDQU(xmm[i], Mem{Base: lane, Disp: laneSize*i + laneIV})
	}
	VZEROALL()
	RET()
}

// cbcSealWide is cbcSeal for 16 texts, a block of four of them in each of Z0-Z3. Z16-Z29 hold the round keys but the last, which is in
// Z30; Z4-Z7 are the blocks that come in.
func cbcSealWide() {
	TEXT("cbcSealWide", NOSPLIT, "func(keys *byte, rounds int, lanes *byte, blocks int)")
	Pragma("noescape")
	Doc("cbcSealWide encrypts as many blocks of 16 texts, and leaves the last blocks as IVs. Two lanes may be the same.")
	const wide = 16
	ptr := []GPPhysical{R8, R9, R10, R11}
	keys, rounds, lane, blocks, at := RAX, RBX, RDI, RCX, RDX
	Load(Param("keys"), keys)
	Load(Param("rounds"), rounds)
	Load(Param("lanes"), lane)
	Load(Param("blocks"), blocks)
	for r := range 14 {
		VBROADCASTI32X4(Mem{Base: keys, Disp: 16 * r}, zmm[16+r])
	}
	SHLQ(Imm(4), rounds)
	VBROADCASTI32X4(Mem{Base: keys, Index: rounds, Scale: 1}, Z30)
	quarter := func(i int) (part uint64, z VecPhysical) { return uint64(i % 4), zmm[i/4] }
	for i := range wide {
		iv := Mem{Base: lane, Disp: laneSize*i + laneIV}
		if part, z := quarter(i); part == 0 {
			VMOVDQU(iv, xmm[i/4])
		} else {
			VINSERTI32X4(Imm(part), iv, z, z)
		}
	}
	XORL(at.As32(), at.As32())
	Label("block")
	for i := range wide {
		part, _ := quarter(i)
		MOVQ(Mem{Base: lane, Disp: laneSize*i + laneText}, ptr[part])
		if block := (Mem{Base: ptr[part], Index: at, Scale: 1}); part == 0 {
			VMOVDQU(block, xmm[4+i/4])
		} else {
			VINSERTI32X4(Imm(part), block, zmm[4+i/4], zmm[4+i/4])
		}
	}
	for i := range 4 {
		VPTERNLOGD(Imm(0x96), zmm[4+i], Z16, zmm[i]) // all three
	}
	for r := 1; r < 14; r++ {
		if r == 10 || r == 12 {
			CMPQ(rounds, Imm(uint64(16*r)))
			JE(LabelRef("last"))
		}
		for i := range 4 {
			VAESENC(zmm[16+r], zmm[i], zmm[i])
		}
	}
	Label("last")
	for i := range 4 {
		VAESENCLAST(Z30, zmm[i], zmm[i])
	}
	for i := range wide {
		part, z := quarter(i)
		MOVQ(Mem{Base: lane, Disp: laneSize*i + laneText}, ptr[part])
		if block := (Mem{Base: ptr[part], Index: at, Scale: 1}); part == 0 {
			VMOVDQU(xmm[i/4], block)
		} else {
			VEXTRACTI32X4(Imm(part), z, block)
		}
	}
	ADDQ(Imm(16), at)
	DECQ(blocks)
	JNE(LabelRef("block"))
	for i := range wide {
		iv := Mem{Base: lane, Disp: laneSize*i + laneIV}
		if part, z := quarter(i); part == 0 {
			VMOVDQU(xmm[i/4], iv)
		} else {
			VEXTRACTI32X4(Imm(part), z, iv)
		}
	}
	wipe()
	RET()
}

// allRounds runs the rounds behind the first key on Z0 and its n-1 followers. rounds is 16 times their number.
func allRounds(label string, keys, rounds GPPhysical, n int, round, last func(a, b, c Op)) {
	for r := 1; r < 14; r++ {
		if r == 10 || r == 12 {
			CMPQ(rounds, Imm(uint64(16*r)))
			JE(LabelRef("last" + label))
		}
		VMOVDQU(Mem{Base: keys, Disp: 16 * r}, xmm[10+r%2])
		for i := range n {
			round(xmm[10+r%2], xmm[i], xmm[i])
		}
	}
	Label("last" + label)
	VMOVDQU(Mem{Base: keys, Index: rounds, Scale: 1}, X10)
	for i := range n {
		last(X10, xmm[i], xmm[i])
	}
}

func cbcOpen() {
	TEXT("cbcOpen", NOSPLIT, "func(keys *byte, rounds int, text *byte, blocks int, iv *byte)")
	Pragma("noescape")
	Doc("cbcOpen decrypts blocks of one text, eight at a time. The keys are those of the equivalent inverse cipher.")
	keys, rounds, text, blocks := RAX, RBX, RDX, RCX
	Load(Param("keys"), keys)
	Load(Param("rounds"), rounds)
	Load(Param("text"), text)
	Load(Param("blocks"), blocks)
	Load(Param("iv"), RSI)
	SHLQ(Imm(4), rounds)
	VMOVDQU(Mem{Base: RSI}, X9)
	for _, n := range []int{8, 4, 1} {
		l := fmt.Sprint(n)
		Label("by" + l)
		CMPQ(blocks, Imm(uint64(n)))
		JB(LabelRef("below" + l))
		VMOVDQU(Mem{Base: keys}, X8)
		for i := range n {
			VPXOR(Mem{Base: text, Disp: 16 * i}, X8, xmm[i])
		}
		allRounds(l, keys, rounds, n, VAESDEC, VAESDECLAST)
		VPXOR(X9, X0, X0)
		for i := 1; i < n; i++ {
			VPXOR(Mem{Base: text, Disp: 16 * (i - 1)}, xmm[i], xmm[i])
		}
		VMOVDQU(Mem{Base: text, Disp: 16 * (n - 1)}, X9)
		for i := range n {
			VMOVDQU(xmm[i], Mem{Base: text, Disp: 16 * i})
		}
		ADDQ(U32(16*n), text)
		SUBQ(Imm(uint64(n)), blocks)
		JMP(LabelRef("by" + l))
		Label("below" + l)
	}
	VZEROALL()
	RET()
}

func inverseKey() {
	TEXT("aesInverseKey", NOSPLIT, "func(key *byte)")
	Pragma("noescape")
	Doc("aesInverseKey is InvMixColumns of FIPS 197, section 5.3.5, on one round key.")
	Load(Param("key"), RAX)
	VMOVDQU(Mem{Base: RAX}, X0)
	VAESIMC(X0, X0)
	VMOVDQU(X0, Mem{Base: RAX})
	VZEROALL()
	RET()
}
