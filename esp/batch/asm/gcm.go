package main

// AES-GCM for processors with VAES and VPCLMULQDQ in 512 bits. 16 blocks go through AES at a time, in four registers; GHASH of 16
// others runs between the rounds; products with up to 96 powers of H are added up before they are reduced once.
//
// Registers, for the whole of a call:
//
//	Z0-Z3    AES states                      Z14      counters, low word first
//	Z4-Z7    blocks to be hashed             Z15      octet reversal of each block
//	Z8-Z10   sums of products: low, middle,  Z16      4 in each counter; J0's state in a tail
//	         high                            Z17-Z31  round keys
//	Z11-Z13  for the moment

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Where things are in batch.Job and batch.gcmTable; both are compared with the Go types when batch is compiled.
const (
	jobHead    = 0
	jobHeadLen = 8
	jobText    = 24
	jobTextLen = 32
	jobIV      = 72
	jobOK      = 88
	jobSize    = 112

	keyRounds = 0
	keyStride = 32 // every round key is there twice
	keyPowers = 512
	powers    = 96 // H^96 first, H^1 last

	// chunk is how many groups of 16 blocks are hashed before a sum is reduced, if what is left needs over 96 powers. With
	// 4, a chunk never reaches into the tail: over 91 blocks are left, and at most 32 of them belong to the tail.
	chunk = 4
)

var (
	zmm = []VecPhysical{
		Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z10, Z11, Z12, Z13, Z14, Z15,
		Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z24, Z25, Z26, Z27, Z28, Z29, Z30, Z31,
	}
	xmm = []VecPhysical{
		X0, X1, X2, X3, X4, X5, X6, X7, X8, X9, X10, X11, X12, X13, X14, X15,
		X16, X17, X18, X19, X20, X21, X22, X23, X24, X25, X26, X27, X28, X29, X30, X31,
	}

	key, jobs, count = RDI, RSI, RCX
	text, left       = RDX, R8 // what of the text is still to be encrypted
	power            = R9      // the power of H that the next block to be hashed is multiplied by
	unhashed         = R10     // blocks of text
	tmp, blocks      = R11, R12
	groups           = R13 // to hash until the sum is reduced
	size             = RBX

	low, middle, high = Z8, Z9, Z10
	counter, reverse  = Z14, Z15
	four, j0          = Z16, X16
	mask              = K1

	reverseData, firstData, fourData, polyData Mem
)

func data() {
	reverseData = GLOBL("reverse", RODATA|NOPTR)
	DATA(0, U64(0x08090a0b0c0d0e0f))
	DATA(8, U64(0x0001020304050607))
	firstData = GLOBL("first", RODATA|NOPTR) // the counters of a packet's first four blocks
	for i := range 4 {
		DATA(16*i, U64(2+i))
		DATA(16*i+8, U64(0))
	}
	fourData = GLOBL("four", RODATA|NOPTR)
	DATA(0, U64(4))
	DATA(8, U64(0))
	polyData = GLOBL("poly", RODATA|NOPTR) // x^127+x^126+x^121, as the reduction wants it, above 1
	for i := range 4 {
		DATA(16*i, U64(1))
		DATA(16*i+8, U64(0xc200000000000000))
	}
}

// kernel is one function: a key size and a direction.
type kernel struct {
	bits, rounds int
	open         bool
}

func (k kernel) roundKey(r int) VecPhysical { return zmm[17+r] }

func (k kernel) generate() {
	name, doc := "gcmSeal", "encrypts n jobs and writes their tags."
	if k.open {
		name, doc = "gcmOpen", "decrypts n jobs and sets their OK."
	}
	name = fmt.Sprintf("%s%d", name, k.bits)
	TEXT(name, NOSPLIT, "func(key, jobs *byte, n int)")
	Pragma("noescape")
	Doc(name + " " + doc + " Heads have at most 64 octets, and behind every Text is room for a tag.")
	Load(Param("key"), key)
	Load(Param("jobs"), jobs)
	Load(Param("n"), count)
	for r := range k.rounds + 1 {
		VBROADCASTI32X4(Mem{Base: key, Disp: keyRounds + keyStride*r}, k.roundKey(r))
	}
	VBROADCASTI32X4(reverseData, reverse)
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
	wipe()
	RET()
}

// begin sets up the counters and hashes the head.
func (k kernel) begin() {
	MOVQ(Mem{Base: jobs, Disp: jobText}, text)
	MOVQ(Mem{Base: jobs, Disp: jobTextLen}, left)
	VMOVDQU(Mem{Base: jobs, Disp: jobIV}, X14)
	VPSHUFB(X15, X14, X14)
	XORL(tmp.As32(), tmp.As32())
	VPINSRD(Imm(0), tmp.As32(), X14, X14)
	VSHUFI32X4(Imm(0), counter, counter, counter)
	VPADDD(firstData, counter, counter)
	VBROADCASTI32X4(fourData, four)

	MOVQ(Mem{Base: jobs, Disp: jobHead}, size)
	MOVQ(Mem{Base: jobs, Disp: jobHeadLen}, blocks)
	MOVQ(I32(-1), tmp)
	BZHIQ(blocks, tmp, tmp)
	KMOVQ(tmp, mask)
	VMOVDQU8_Z(Mem{Base: size}, mask, Z0)
	VPSHUFB(reverse, Z0, Z0)
	ADDQ(Imm(15), blocks)
	SHRQ(Imm(4), blocks)
	LEAQ(Mem{Base: left, Disp: 15}, unhashed)
	SHRQ(Imm(4), unhashed)
	k.plan("head")
}

// plan starts a sum with the reversed blocks in Z0, of which there are as many as blocks says: it picks the power of H for
// the first of them, and says in groups when the sum must be reduced.
func (k kernel) plan(label string) {
	LEAQ(Mem{Base: blocks, Index: unhashed, Scale: 1, Disp: 1}, size)
	MOVQ(I32(-1), groups)
	CMPQ(size, Imm(powers))
	JBE(LabelRef(label + "Fits"))
	LEAQ(Mem{Base: blocks, Disp: 16 * chunk}, size)
	MOVQ(U32(chunk), groups)
	Label(label + "Fits")
	// power = key + keyPowers + 16*(powers-size)
	SHLQ(Imm(4), size)
	LEAQ(Mem{Base: key, Disp: keyPowers + 16*powers}, power)
	SUBQ(size, power)
	SHLQ(Imm(4), blocks)
	VMOVDQU64(Mem{Base: power}, Z11)
	VPCLMULQDQ(Imm(0x00), Z11, Z0, low)
	VPCLMULQDQ(Imm(0x11), Z11, Z0, high)
	VPCLMULQDQ(Imm(0x01), Z11, Z0, middle)
	VPCLMULQDQ(Imm(0x10), Z11, Z0, Z12)
	VPXORQ(Z12, middle, middle)
	ADDQ(blocks, power)
}

// replan reduces the sum when its powers are used up. The result is to be multiplied by the power of the block behind it: it
// goes on as a head of no blocks.
func (k kernel) replan(label string) {
	SUBQ(Imm(16), unhashed)
	DECQ(groups)
	JNE(LabelRef(label + "Goes"))
	reduce()
	VMOVDQA64(Z10, Z0)
	XORL(blocks.As32(), blocks.As32())
	k.plan(label)
	Label(label + "Goes")
}

func (k kernel) sealText() {
	CMPQ(left, U32(256))
	JBE(LabelRef("short"))
	interleave(k.aes(4, false), nil)
	k.sealFull()
	Label("loop")
	CMPQ(left, U32(256))
	JBE(LabelRef("long"))
	interleave(k.aes(4, false), hash(4))
	k.sealFull()
	k.replan("next")
	JMP(LabelRef("loop"))

	Label("long")
	for n := 4; n > 0; n-- {
		if n > 1 {
			CMPQ(left, U32(64*(n-1)))
			JBE(LabelRef(fmt.Sprintf("long%d", n-1)))
		}
		k.tailMask(n)
		interleave(k.aes(n, true), hash(4))
		k.sealTail(n)
		JMP(LabelRef("finish"))
		if n > 1 {
			Label(fmt.Sprintf("long%d", n-1))
		}
	}
	Label("short")
	for n := 4; n >= 0; n-- {
		if n > 0 {
			if n > 1 {
				CMPQ(left, U32(64*(n-1)))
			} else {
				TESTQ(left, left)
			}
			JBE(LabelRef(fmt.Sprintf("short%d", n-1)))
			k.tailMask(n)
		}
		interleave(k.aes(n, true), nil)
		k.sealTail(n)
		if n > 0 {
			JMP(LabelRef("finish"))
			Label(fmt.Sprintf("short%d", n-1))
		}
	}
	Label("finish")
}

func (k kernel) openText() {
	Label("loop")
	CMPQ(left, U32(256))
	JBE(LabelRef("tail"))
	for i := range 4 {
		VMOVDQU64(Mem{Base: text, Disp: 64 * i}, zmm[4+i])
		VPSHUFB(reverse, zmm[4+i], zmm[4+i])
	}
	interleave(k.aes(4, false), hash(4))
	for i := range 4 {
		k.lastRound(i)
		VMOVDQU64(zmm[i], Mem{Base: text, Disp: 64 * i})
	}
	ADDQ(U32(256), text)
	SUBQ(U32(256), left)
	k.replan("next")
	JMP(LabelRef("loop"))

	Label("tail")
	for n := 4; n >= 0; n-- {
		if n > 0 {
			if n > 1 {
				CMPQ(left, U32(64*(n-1)))
			} else {
				TESTQ(left, left)
			}
			JBE(LabelRef(fmt.Sprintf("tail%d", n-1)))
			k.tailMask(n)
		}
		for i := range n {
			loadText(i, n, zmm[4+i])
			VPSHUFB(reverse, zmm[4+i], zmm[4+i])
		}
		interleave(k.aes(n, true), hash(n))
		for i := range n {
			k.lastTailRound(i, n)
			storeText(i, n)
		}
		if n > 0 {
			JMP(LabelRef("finish"))
			Label(fmt.Sprintf("tail%d", n-1))
		}
	}
	Label("finish")
}

// tailMask covers those octets of the last register that belong to the text.
func (k kernel) tailMask(n int) {
	MOVQ(I32(-1), tmp)
	if n > 1 {
		SUBQ(U32(64*(n-1)), left)
	}
	BZHIQ(left, tmp, tmp)
	KMOVQ(tmp, mask)
}

// sealFull encrypts 256 octets with the key stream of Z0-Z3, and leaves the reversed blocks in Z4-Z7.
func (k kernel) sealFull() {
	for i := range 4 {
		k.lastRound(i)
		VMOVDQU64(zmm[i], Mem{Base: text, Disp: 64 * i})
		VPSHUFB(reverse, zmm[i], zmm[4+i])
	}
	ADDQ(U32(256), text)
	SUBQ(U32(256), left)
}

// sealTail is sealFull for n registers, the last of them masked. It hashes them, too.
func (k kernel) sealTail(n int) {
	for i := range n {
		k.lastTailRound(i, n)
		storeText(i, n)
		if i == n-1 {
			VMOVDQU8_Z(zmm[i], mask, zmm[i])
		}
		VPSHUFB(reverse, zmm[i], zmm[4+i])
	}
	interleave(hash(n), nil)
}

func loadText(i, n int, to VecPhysical) {
	if i == n-1 {
		VMOVDQU8_Z(Mem{Base: text, Disp: 64 * i}, mask, to)
	} else {
		VMOVDQU64(Mem{Base: text, Disp: 64 * i}, to)
	}
}

func storeText(i, n int) {
	if i == n-1 {
		VMOVDQU8(zmm[i], mask, Mem{Base: text, Disp: 64 * i})
	} else {
		VMOVDQU64(zmm[i], Mem{Base: text, Disp: 64 * i})
	}
}

// aes is all rounds but the last for the next n registers of counters. In a tail it also encrypts the counter block that
// masks the tag (SP 800-38D, section 7.1, steps 2 and 6), whose state takes the register of the counters' step.
func (k kernel) aes(n int, tail bool) (s []func()) {
	for i := range n {
		s = append(s, func() { VPSHUFB(reverse, counter, zmm[i]) })
		if i < n-1 || !tail {
			s = append(s, func() { VPADDD(four, counter, counter) })
		}
	}
	if tail {
		s = append(s,
			func() { VMOVDQU64(Mem{Base: jobs, Disp: jobIV}, j0) },
			func() { MOVL(U32(0x01000000), tmp.As32()) },
			func() { VPINSRD(Imm(3), tmp.As32(), j0, j0) },
			func() { VPXORQ(xmm[17], j0, j0) })
	}
	for i := range n {
		s = append(s, func() { VPXORQ(k.roundKey(0), zmm[i], zmm[i]) })
	}
	for r := 1; r < k.rounds; r++ {
		for i := range n {
			s = append(s, func() { VAESENC(k.roundKey(r), zmm[i], zmm[i]) })
		}
		if tail {
			s = append(s, func() { VAESENC(xmm[17+r], j0, j0) })
		}
	}
	if tail {
		s = append(s, func() { VAESENCLAST(xmm[17+k.rounds], j0, j0) })
	}
	return s
}

// lastRound turns the state i into key stream and adds it to the text in one instruction.
func (k kernel) lastRound(i int) {
	t := zmm[11+i%3]
	VPXORQ(Mem{Base: text, Disp: 64 * i}, k.roundKey(k.rounds), t)
	VAESENCLAST(t, zmm[i], zmm[i])
}

func (k kernel) lastTailRound(i, n int) {
	t := zmm[11+i%3]
	loadText(i, n, t)
	VPXORQ(k.roundKey(k.rounds), t, t)
	VAESENCLAST(t, zmm[i], zmm[i])
}

// hash adds the products of the blocks in Z4 and its n-1 followers with their powers of H to the sums.
func hash(n int) (s []func()) {
	for i := range n {
		d := zmm[4+i]
		s = append(s,
			func() { VMOVDQU64(Mem{Base: power, Disp: 64 * i}, Z11) },
			func() { VPCLMULQDQ(Imm(0x00), Z11, d, Z12) },
			func() { VPCLMULQDQ(Imm(0x11), Z11, d, Z13) },
			func() { VPXORQ(Z12, low, low) },
			func() { VPXORQ(Z13, high, high) },
			func() { VPCLMULQDQ(Imm(0x01), Z11, d, Z12) },
			func() { VPCLMULQDQ(Imm(0x10), Z11, d, Z13) },
			func() { VPTERNLOGQ(Imm(0x96), Z12, Z13, middle) })
	}
	if n == 4 {
		s = append(s, func() { ADDQ(U32(256), power) })
	}
	return s
}

// interleave writes two streams of instructions so that both end together.
func interleave(a, b []func()) {
	for i, j := 0, 0; i < len(a) || j < len(b); {
		if j >= len(b) || i < len(a) && i*len(b) <= j*len(a) {
			a[i]()
			i++
		} else {
			b[j]()
			j++
		}
	}
}

// reduce turns the sums into one block, reversed, in X10, and clears the rest of Z10. Each lane is reduced alone: two
// multiplications with the high half of the polynomial fold the low 128 bits into the high ones.
func reduce() {
	VPCLMULQDQ(Imm(0x10), polyData, low, Z11)
	VPSHUFD(Imm(0x4e), low, low)
	VPTERNLOGQ(Imm(0x96), Z11, low, middle)
	VPCLMULQDQ(Imm(0x10), polyData, middle, Z11)
	VPSHUFD(Imm(0x4e), middle, middle)
	VPTERNLOGQ(Imm(0x96), Z11, middle, high)
	VEXTRACTI64X4(Imm(1), Z10, Y11)
	VPXOR(Y11, Y10, Y10)
	VEXTRACTI128(Imm(1), Y10, X11)
	VPXOR(X11, X10, X10)
}

// finish hashes the lengths, and writes or compares the tag.
func (k kernel) finish() {
	MOVQ(Mem{Base: jobs, Disp: jobTextLen}, left)
	MOVQ(Mem{Base: jobs, Disp: jobHeadLen}, blocks)
	MOVQ(Mem{Base: jobs, Disp: jobText}, text)
	ADDQ(left, text)
	SHLQ(Imm(3), left)
	SHLQ(Imm(3), blocks)
	VMOVQ(left, X0)
	VPINSRQ(Imm(1), blocks, X0, X0)
	VMOVDQU(Mem{Base: key, Disp: keyPowers + 16*(powers-1)}, X11)
	VPCLMULQDQ(Imm(0x00), X11, X0, X12)
	VPCLMULQDQ(Imm(0x11), X11, X0, X13)
	VPXORQ(Z12, low, low)
	VPXORQ(Z13, high, high)
	VPCLMULQDQ(Imm(0x01), X11, X0, X12)
	VPCLMULQDQ(Imm(0x10), X11, X0, X13)
	VPTERNLOGQ(Imm(0x96), Z12, Z13, middle)
	reduce()
	VPSHUFB(X15, X10, X10)
	VPXORQ(j0, X10, X10)
	if k.open {
		VPXOR(Mem{Base: text}, X10, X10)
		VPTEST(X10, X10)
		SETEQ(Mem{Base: jobs, Disp: jobOK})
	} else {
		VMOVDQU(X10, Mem{Base: text})
	}
}

// wipe clears every vector register: round keys, key stream and powers of H were in them.
func wipe() {
	VZEROALL()
	for _, z := range zmm[16:] {
		VPXORQ(z, z, z)
	}
}

func subWord() {
	TEXT("aesSubWord", NOSPLIT, "func(w uint32) uint32")
	Doc("aesSubWord is SubWord of FIPS 197, section 5.2, without a table.")
	Load(Param("w"), RAX.As32())
	MOVD(RAX.As32(), X0)
	PSHUFD(Imm(0), X0, X0)
	AESKEYGENASSIST(Imm(0), X0, X0)
	MOVD(X0, RAX.As32())
	PXOR(X0, X0)
	Store(RAX.As32(), ReturnIndex(0))
	RET()
}

func powerTable() {
	TEXT("gcmPowers", NOSPLIT, "func(h, table *byte)")
	Pragma("noescape")
	Doc("gcmPowers writes h^96 to h^1, 16 octets each. h is the hash key as kernels want it.")
	Load(Param("h"), RAX)
	Load(Param("table"), RBX)
	MOVQ(U32(powers), RCX)
	VMOVDQU(Mem{Base: RAX}, X0)
	VMOVDQA(X0, X10)
	LEAQ(Mem{Base: RBX, Disp: 16 * (powers - 1)}, RBX)
	Label("next")
	VMOVDQU(X10, Mem{Base: RBX})
	VPCLMULQDQ(Imm(0x00), X0, X10, X8)
	VPCLMULQDQ(Imm(0x01), X0, X10, X9)
	VPCLMULQDQ(Imm(0x10), X0, X10, X11)
	VPXOR(X11, X9, X9)
	VPCLMULQDQ(Imm(0x11), X0, X10, X10)
	reduce256()
	SUBQ(Imm(16), RBX)
	DECQ(RCX)
	JNE(LabelRef("next"))
	VZEROALL()
	RET()
}
