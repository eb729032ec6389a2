package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// AES-GCM for processors with VAES and VPCLMULQDQ in 256 bits, and without AVX-512: gcm.go's way with 8 blocks at a time in
// four registers, round keys from memory, and a scratch of 32 octets for what masks do there.
//
//	Y0-Y3    AES states                      Y11-Y13  for the moment
//	Y4-Y7    blocks to be hashed             Y14      counters, low word first
//	Y8-Y10   sums of products                Y15      octet reversal of each block
type kernel256 struct {
	bits, rounds int
	open         bool
}

// chunk256 groups of 8 blocks are as many blocks as gcm.go's chunk.
const chunk256 = 2 * chunk

var (
	ymm     = []VecPhysical{Y0, Y1, Y2, Y3, Y4, Y5, Y6, Y7, Y8, Y9, Y10, Y11, Y12, Y13, Y14, Y15}
	scratch Mem
	twoData Mem
)

func roundKey256(r int) Mem { return Mem{Base: key, Disp: keyRounds + keyStride*r} }

func (k kernel256) generate() {
	if twoData.Base == nil {
		twoData = GLOBL("two", RODATA|NOPTR)
		for i := range 2 {
			DATA(16*i, U64(2))
			DATA(16*i+8, U64(0))
		}
	}
	name, doc := "gcmSeal", "encrypts n jobs and writes their tags."
	if k.open {
		name, doc = "gcmOpen", "decrypts n jobs and sets their OK."
	}
	name = fmt.Sprintf("%s%dY", name, k.bits)
	TEXT(name, NOSPLIT, "func(key, jobs *byte, n int)")
	Pragma("noescape")
	Doc(name + " " + doc + " Heads have at most 32 octets, and behind every Text is room for a tag.")
	scratch = AllocLocal(32)
	Load(Param("key"), key)
	Load(Param("jobs"), jobs)
	Load(Param("n"), count)
	VBROADCASTI128(reverseData, Y15)
	Label("job")
	TESTQ(count, count)
	JE(LabelRef("done"))
	k.begin()
	if k.open {
		k.openText()
	} else {
		k.sealText()
	}
	k.finish()
	ADDQ(Imm(jobSize), jobs)
	DECQ(count)
	JMP(LabelRef("job"))
	Label("done")
	VPXOR(Y0, Y0, Y0)
	VMOVDQU(Y0, scratch)
	VZEROALL()
	RET()
}

func (k kernel256) begin() {
	MOVQ(Mem{Base: jobs, Disp: jobHead}, text)
	MOVQ(Mem{Base: jobs, Disp: jobHeadLen}, left)
	intoScratch("head", Y0)
	VPSHUFB(Y15, Y0, Y0)
	LEAQ(Mem{Base: left, Disp: 15}, blocks)
	SHRQ(Imm(4), blocks)

	MOVQ(Mem{Base: jobs, Disp: jobText}, text)
	MOVQ(Mem{Base: jobs, Disp: jobTextLen}, left)
	LEAQ(Mem{Base: left, Disp: 15}, unhashed)
	SHRQ(Imm(4), unhashed)
	VMOVDQU(Mem{Base: jobs, Disp: jobIV}, X14)
	VPSHUFB(X15, X14, X14)
	XORL(tmp.As32(), tmp.As32())
	VPINSRD(Imm(0), tmp.As32(), X14, X14)
	VINSERTI128(Imm(1), X14, Y14, Y14)
	VPADDD(firstData, Y14, Y14)
	k.plan("head")
}

// plan and replan are gcm.go's.
func (k kernel256) plan(label string) {
	LEAQ(Mem{Base: blocks, Index: unhashed, Scale: 1, Disp: 1}, size)
	MOVQ(I32(-1), groups)
	CMPQ(size, Imm(powers))
	JBE(LabelRef(label + "Fits"))
	LEAQ(Mem{Base: blocks, Disp: 8 * chunk256}, size)
	MOVQ(U32(chunk256), groups)
	Label(label + "Fits")
	SHLQ(Imm(4), size)
	LEAQ(Mem{Base: key, Disp: keyPowers + 16*powers}, power)
	SUBQ(size, power)
	SHLQ(Imm(4), blocks)
	VMOVDQU(Mem{Base: power}, Y11)
	VPCLMULQDQ(Imm(0x00), Y11, Y0, Y8)
	VPCLMULQDQ(Imm(0x11), Y11, Y0, Y10)
	VPCLMULQDQ(Imm(0x01), Y11, Y0, Y9)
	VPCLMULQDQ(Imm(0x10), Y11, Y0, Y12)
	VPXOR(Y12, Y9, Y9)
	ADDQ(blocks, power)
}

func (k kernel256) replan(label string) {
	SUBQ(Imm(8), unhashed)
	DECQ(groups)
	JNE(LabelRef(label + "Goes"))
	reduce256()
	VMOVDQA(Y10, Y0)
	XORL(blocks.As32(), blocks.As32())
	k.plan(label)
	Label(label + "Goes")
}

func (k kernel256) sealText() {
	CMPQ(left, U32(128))
	JBE(LabelRef("short"))
	interleave(k.aes(4), nil)
	k.sealFull()
	Label("loop")
	CMPQ(left, U32(128))
	JBE(LabelRef("long"))
	interleave(k.aes(4), hash256(4))
	k.sealFull()
	k.replan("next")
	JMP(LabelRef("loop"))
	Label("long")
	interleave(hash256(4), nil)
	Label("short")
	k.tails(func(n int) {
		interleave(k.aes(n), nil)
		for i := range n {
			k.tailText(i, n, Y11)
			VPXOR(roundKey256(k.rounds), Y11, Y11)
			VAESENCLAST(Y11, ymm[i], ymm[i])
			k.storeTail(i, n)
			if i == n-1 {
				intoScratch(fmt.Sprintf("again%d", n), ymm[i])
			}
			VPSHUFB(Y15, ymm[i], ymm[4+i])
		}
		interleave(hash256(n), nil)
	})
}

func (k kernel256) openText() {
	Label("loop")
	CMPQ(left, U32(128))
	JBE(LabelRef("short"))
	for i := range 4 {
		VMOVDQU(Mem{Base: text, Disp: 32 * i}, ymm[4+i])
		VPSHUFB(Y15, ymm[4+i], ymm[4+i])
	}
	interleave(k.aes(4), hash256(4))
	for i := range 4 {
		k.lastRound(i)
		VMOVDQU(ymm[i], Mem{Base: text, Disp: 32 * i})
	}
	ADDQ(U32(128), text)
	SUBQ(U32(128), left)
	k.replan("next")
	JMP(LabelRef("loop"))
	Label("short")
	k.tails(func(n int) {
		interleave(k.aes(n), nil)
		for i := range n {
			k.tailText(i, n, Y11)
			VPSHUFB(Y15, Y11, ymm[4+i])
			VPXOR(roundKey256(k.rounds), Y11, Y11)
			VAESENCLAST(Y11, ymm[i], ymm[i])
			k.storeTail(i, n)
		}
		interleave(hash256(n), nil)
	})
}

// tails branches by how many registers the rest of the text fills. In the code for n, text is where the last one begins,
// and left is what it has, 1 to 32 octets.
func (k kernel256) tails(code func(n int)) {
	for n := 4; n > 0; n-- {
		next := LabelRef(fmt.Sprintf("tail%d", n-1))
		if n == 1 {
			TESTQ(left, left)
		} else {
			CMPQ(left, U32(32*(n-1)))
		}
		JBE(next)
		if n > 1 {
			ADDQ(U32(32*(n-1)), text)
			SUBQ(U32(32*(n-1)), left)
		}
		code(n)
		if n > 1 {
			JMP(LabelRef("tail0"))
		}
		Label(fmt.Sprintf("tail%d", n-1))
	}
}

func (k kernel256) tailText(i, n int, to VecPhysical) {
	if i == n-1 {
		intoScratch(fmt.Sprintf("text%d", n), to)
	} else {
		VMOVDQU(Mem{Base: text, Disp: 32 * (i - n + 1)}, to)
	}
}

func (k kernel256) storeTail(i, n int) {
	if i == n-1 {
		VMOVDQU(ymm[i], scratch)
		copyOctets(fmt.Sprintf("out%d", n), scratch, Mem{Base: text})
	} else {
		VMOVDQU(ymm[i], Mem{Base: text, Disp: 32 * (i - n + 1)})
	}
}

// intoScratch loads left octets, 0 to 32, from text, and zeros behind them.
func intoScratch(label string, to VecPhysical) {
	VPXOR(Y13, Y13, Y13)
	VMOVDQU(Y13, scratch)
	copyOctets(label, Mem{Base: text}, scratch)
	VMOVDQU(scratch, to)
}

// copyOctets copies left octets, 0 to 32, in pieces of the powers of two.
func copyOctets(label string, from, to Mem) {
	at := func(m Mem) Mem {
		m.Index, m.Scale = blocks, 1
		return m
	}
	XORL(blocks.As32(), blocks.As32())
	for _, n := range []uint64{32, 16, 8, 4, 2, 1} {
		skip := fmt.Sprintf("%sNo%d", label, n)
		TESTQ(U32(n), left)
		JE(LabelRef(skip))
		switch n {
		case 32:
			VMOVDQU(at(from), Y13)
			VMOVDQU(Y13, at(to))
		case 16:
			VMOVDQU(at(from), X13)
			VMOVDQU(X13, at(to))
		case 8:
			MOVQ(at(from), tmp)
			MOVQ(tmp, at(to))
		case 4:
			MOVL(at(from), tmp.As32())
			MOVL(tmp.As32(), at(to))
		case 2:
			MOVW(at(from), tmp.As16())
			MOVW(tmp.As16(), at(to))
		case 1:
			MOVB(at(from), tmp.As8())
			MOVB(tmp.As8(), at(to))
		}
		ADDQ(Imm(n), blocks)
		Label(skip)
	}
}

func (k kernel256) sealFull() {
	for i := range 4 {
		k.lastRound(i)
		VMOVDQU(ymm[i], Mem{Base: text, Disp: 32 * i})
		VPSHUFB(Y15, ymm[i], ymm[4+i])
	}
	ADDQ(U32(128), text)
	SUBQ(U32(128), left)
}

func (k kernel256) aes(n int) (s []func()) {
	for i := range n {
		s = append(s,
			func() { VPSHUFB(Y15, Y14, ymm[i]) },
			func() { VPADDD(twoData, Y14, Y14) })
	}
	for i := range n {
		s = append(s, func() { VPXOR(roundKey256(0), ymm[i], ymm[i]) })
	}
	for r := 1; r < k.rounds; r++ {
		for i := range n {
			s = append(s, func() { VAESENC(roundKey256(r), ymm[i], ymm[i]) })
		}
	}
	return s
}

func (k kernel256) lastRound(i int) {
	t := ymm[11+i%3]
	VMOVDQU(Mem{Base: text, Disp: 32 * i}, t)
	VPXOR(roundKey256(k.rounds), t, t)
	VAESENCLAST(t, ymm[i], ymm[i])
}

func hash256(n int) (s []func()) {
	for i := range n {
		d := ymm[4+i]
		s = append(s,
			func() { VMOVDQU(Mem{Base: power, Disp: 32 * i}, Y11) },
			func() { VPCLMULQDQ(Imm(0x00), Y11, d, Y12) },
			func() { VPCLMULQDQ(Imm(0x11), Y11, d, Y13) },
			func() { VPXOR(Y12, Y8, Y8) },
			func() { VPXOR(Y13, Y10, Y10) },
			func() { VPCLMULQDQ(Imm(0x01), Y11, d, Y12) },
			func() { VPCLMULQDQ(Imm(0x10), Y11, d, Y13) },
			func() { VPXOR(Y12, Y9, Y9) },
			func() { VPXOR(Y13, Y9, Y9) })
	}
	if n == 4 {
		s = append(s, func() { ADDQ(U32(128), power) })
	}
	return s
}

func reduce256() {
	for _, sum := range []VecPhysical{Y9, Y10} {
		low := Y8
		if sum == Y10 {
			low = Y9
		}
		VPCLMULQDQ(Imm(0x10), polyData, low, Y11)
		VPSHUFD(Imm(0x4e), low, low)
		VPXOR(Y11, sum, sum)
		VPXOR(low, sum, sum)
	}
	VEXTRACTI128(Imm(1), Y10, X11)
	VPXOR(X11, X10, X10)
}

// finish also encrypts J0: no register was free for it before.
func (k kernel256) finish() {
	MOVQ(Mem{Base: jobs, Disp: jobTextLen}, left)
	MOVQ(Mem{Base: jobs, Disp: jobHeadLen}, blocks)
	MOVQ(Mem{Base: jobs, Disp: jobText}, text)
	ADDQ(left, text)
	SHLQ(Imm(3), left)
	SHLQ(Imm(3), blocks)
	VMOVQ(left, X0)
	VPINSRQ(Imm(1), blocks, X0, X0)
	VMOVDQU(Mem{Base: jobs, Disp: jobIV}, X1)
	MOVL(U32(0x01000000), tmp.As32())
	VPINSRD(Imm(3), tmp.As32(), X1, X1)
	VPXOR(roundKey256(0), X1, X1)
	for r := 1; r < k.rounds; r++ {
		VAESENC(roundKey256(r), X1, X1)
	}
	VAESENCLAST(roundKey256(k.rounds), X1, X1)
	VMOVDQU(Mem{Base: key, Disp: keyPowers + 16*(powers-1)}, X11)
	for _, p := range []struct {
		half uint64
		sum  VecPhysical
	}{{0x00, Y8}, {0x11, Y10}, {0x01, Y9}, {0x10, Y9}} {
		VPCLMULQDQ(Imm(p.half), X11, X0, X12)
		VPXOR(Y12, p.sum, p.sum)
	}
	reduce256()
	VPSHUFB(X15, X10, X10)
	VPXOR(X1, X10, X10)
	if k.open {
		VPXOR(Mem{Base: text}, X10, X10)
		VPTEST(X10, X10)
		SETEQ(Mem{Base: jobs, Disp: jobOK})
	} else {
		VMOVDQU(X10, Mem{Base: text})
	}
}
