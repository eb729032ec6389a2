package main

import (
	"math"
	"math/big"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Where things are in batch.macLane: a pointer, what is left, and the state in the order of the SHA instructions.
const (
	macText  = 0
	macState = 16
	macSize  = 80
)

var swapWords, swapLongs, sha256K Mem // swap: octets of words of 32 and 64 bits

// shaLane is one of two messages that are hashed side by side, because an SHA instruction waits long for the one before.
type shaLane struct {
	text   GPPhysical
	a, b   VecPhysical // the state
	c      VecPhysical
	msg    [4]VecPhysical
	memory int // where the lane is
}

func shaStart(name, doc string, mask Mem) {
	TEXT(name, NOSPLIT, "func(lanes *byte, blocks int)")
	Pragma("noescape")
	Doc(doc)
	Load(Param("lanes"), RDI)
	Load(Param("blocks"), RCX)
	MOVQ(Mem{Base: RDI, Disp: macText}, R8)
	MOVQ(Mem{Base: RDI, Disp: macSize + macText}, R9)
	MOVOU(mask, X15)
	Label("block")
}

func shaEnd() {
	ADDQ(Imm(64), R8)
	ADDQ(Imm(64), R9)
	DECQ(RCX)
	JNE(LabelRef("block"))
	for _, x := range xmm[:16] {
		PXOR(x, x)
	}
	RET()
}

// sha256 is FIPS 180-4, section 6.2.2.
func sha256() {
	sha256K = GLOBL("sha256K", RODATA|NOPTR)
	for i, p := range primes(64) {
		DATA(4*i, U32(rootBits(p, 32)))
	}
	swapWords = GLOBL("swapWords", RODATA|NOPTR)
	DATA(0, U64(0x0405060700010203))
	DATA(8, U64(0x0c0d0e0f08090a0b))
	swapLongs = GLOBL("swapLongs", RODATA|NOPTR)
	DATA(0, U64(0x0001020304050607))
	DATA(8, U64(0x08090a0b0c0d0e0f))
	shaStart("sha256x2", "sha256x2 hashes blocks of two messages.", swapWords)
	ls := []shaLane{
		{text: R8, a: X1, b: X2, c: X13, msg: [4]VecPhysical{X5, X6, X7, X8}},
		{text: R9, a: X3, b: X4, c: X14, msg: [4]VecPhysical{X9, X10, X11, X12}, memory: macSize},
	}
	for _, l := range ls {
		MOVOU(Mem{Base: RDI, Disp: l.memory + macState}, l.a)
		MOVOU(Mem{Base: RDI, Disp: l.memory + macState + 16}, l.b)
	}
	for i := range 16 {
		for _, l := range ls {
			m := l.msg[i%4]
			if i < 4 {
				MOVOU(Mem{Base: l.text, Disp: 16 * i}, m)
				PSHUFB(X15, m)
			} else {
				last := l.msg[(i+3)%4]
				SHA256MSG1(l.msg[(i+1)%4], m)
				MOVOA(last, l.c)
				PALIGNR(Imm(4), l.msg[(i+2)%4], l.c)
				PADDD(l.c, m)
				SHA256MSG2(last, m)
			}
		}
		for _, l := range ls {
			MOVOU(sha256K.Offset(16*i), X0)
			PADDD(l.msg[i%4], X0)
			SHA256RNDS2(X0, l.a, l.b)
			PSHUFD(Imm(0x0e), X0, X0)
			SHA256RNDS2(X0, l.b, l.a)
		}
	}
	for _, l := range ls {
		for i, s := range []VecPhysical{l.a, l.b} {
			MOVOU(Mem{Base: RDI, Disp: l.memory + macState + 16*i}, X0)
			PADDD(X0, s)
			MOVOU(s, Mem{Base: RDI, Disp: l.memory + macState + 16*i})
		}
	}
	shaEnd()
}

// sha1 is FIPS 180-4, section 6.1.2.
func sha1() {
	shaStart("sha1x2", "sha1x2 hashes blocks of two messages.", reverseData)
	ls := []shaLane{
		{text: R8, a: X1, b: X2, c: X3, msg: [4]VecPhysical{X4, X5, X6, X7}},
		{text: R9, a: X8, b: X9, c: X10, msg: [4]VecPhysical{X11, X12, X13, X14}, memory: macSize},
	}
	for _, l := range ls {
		MOVOU(Mem{Base: RDI, Disp: l.memory + macState}, l.a)
		MOVOU(Mem{Base: RDI, Disp: l.memory + macState + 16}, l.b)
	}
	for i := range 20 {
		for n := range ls {
			l := &ls[n]
			m := l.msg[i%4]
			if i < 4 {
				MOVOU(Mem{Base: l.text, Disp: 16 * i}, m)
				PSHUFB(X15, m)
			} else {
				SHA1MSG1(l.msg[(i+1)%4], m)
				PXOR(l.msg[(i+2)%4], m)
				SHA1MSG2(l.msg[(i+3)%4], m)
			}
		}
		for n := range ls {
			l := &ls[n]
			if i == 0 {
				PADDD(l.msg[0], l.b)
			} else {
				SHA1NEXTE(l.msg[i%4], l.b)
			}
			MOVOA(l.a, l.c)
			SHA1RNDS4(Imm(uint64(i/5)), l.b, l.a)
			l.b, l.c = l.c, l.b
		}
	}
	for _, l := range ls {
		MOVOU(Mem{Base: RDI, Disp: l.memory + macState + 16}, X0)
		SHA1NEXTE(X0, l.b)
		MOVOU(l.b, Mem{Base: RDI, Disp: l.memory + macState + 16})
		MOVOU(Mem{Base: RDI, Disp: l.memory + macState}, X0)
		PADDD(X0, l.a)
		MOVOU(l.a, Mem{Base: RDI, Disp: l.memory + macState})
	}
	shaEnd()
}

func primes(n int) (p []int64) {
	for c := int64(2); len(p) < n; c++ {
		if big.NewInt(c).ProbablyPrime(20) {
			p = append(p, c)
		}
	}
	return p
}

// rootBits is the first bits of the fraction of a prime's cube root (FIPS 180-4, sections 4.2.2 and 4.2.3).
func rootBits(p int64, bits int) uint64 {
	cube := new(big.Int).Lsh(big.NewInt(p), uint(3*bits))
	root := new(big.Int) // floor(cbrt(p) * 2^bits), bit by bit: no prime here has a root of 8
	for i := bits + 2; i >= 0; i-- {
		if root.SetBit(root, i, 1); new(big.Int).Exp(root, big.NewInt(3), nil).Cmp(cube) > 0 {
			root.SetBit(root, i, 0)
		}
	}
	root.And(root, new(big.Int).SetUint64(math.MaxUint64>>(64-bits)))
	return root.Uint64()
}

func leaf7() {
	TEXT("cpuidLeaf7", NOSPLIT, "func() (ebx, ecx uint32)")
	Doc("cpuidLeaf7 asks the processor for its extended features.")
	MOVL(U32(7), EAX)
	XORL(ECX, ECX)
	CPUID()
	Store(EBX, ReturnIndex(0))
	Store(ECX, ReturnIndex(1))
	RET()
}
