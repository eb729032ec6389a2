#include "textflag.h"

// Both sum 32-bit words into 64-bit lanes, where 64 KiB cannot overflow: 2^32 is 1 modulo 2^16-1, so the lanes may be
// added up in any order (RFC 1071, section 2).
//
// What is left of the last block is taken with the octets before it, as the last 64: tail, read from an offset of as many octets as are
// left, blots out those that have been summed. An even number is left, so 16-bit words stay what they are.

DATA tail<>+0(SB)/8, $0
DATA tail<>+8(SB)/8, $0
DATA tail<>+16(SB)/8, $0
DATA tail<>+24(SB)/8, $0
DATA tail<>+32(SB)/8, $0
DATA tail<>+40(SB)/8, $0
DATA tail<>+48(SB)/8, $0
DATA tail<>+56(SB)/8, $0
DATA tail<>+64(SB)/8, $-1
DATA tail<>+72(SB)/8, $-1
DATA tail<>+80(SB)/8, $-1
DATA tail<>+88(SB)/8, $-1
DATA tail<>+96(SB)/8, $-1
DATA tail<>+104(SB)/8, $-1
DATA tail<>+112(SB)/8, $-1
DATA tail<>+120(SB)/8, $-1
GLOBL tail<>(SB), RODATA|NOPTR, $128

// func copySumAVX2(dst, src *byte, n int) uint64
// n is even, 64 to 64 KiB.
TEXT ·copySumAVX2(SB), NOSPLIT, $0-32
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX
	MOVQ CX, R8
	ANDQ $63, R8
	ANDQ $~63, CX
	VPXOR Y0, Y0, Y0
	VPXOR Y1, Y1, Y1
	VPXOR Y2, Y2, Y2
	VPXOR Y3, Y3, Y3
	VPCMPEQD Y7, Y7, Y7
	VPSRLQ $32, Y7, Y7

copyloop:
	VMOVDQU (SI), Y4
	VMOVDQU 32(SI), Y5
	VMOVDQU Y4, (DI)
	VMOVDQU Y5, 32(DI)
	VPAND Y7, Y4, Y6
	VPSRLQ $32, Y4, Y4
	VPADDQ Y6, Y0, Y0
	VPADDQ Y4, Y1, Y1
	VPAND Y7, Y5, Y6
	VPSRLQ $32, Y5, Y5
	VPADDQ Y6, Y2, Y2
	VPADDQ Y5, Y3, Y3
	ADDQ $64, SI
	ADDQ $64, DI
	SUBQ $64, CX
	JNZ copyloop

	TESTQ R8, R8
	JZ copydone
	LEAQ tail<>(SB), R9
	VMOVDQU -64(SI)(R8*1), Y4
	VMOVDQU -32(SI)(R8*1), Y5
	VMOVDQU Y4, -64(DI)(R8*1)
	VMOVDQU Y5, -32(DI)(R8*1)
	VPAND (R9)(R8*1), Y4, Y4
	VPAND 32(R9)(R8*1), Y5, Y5
	VPAND Y7, Y4, Y6
	VPSRLQ $32, Y4, Y4
	VPADDQ Y6, Y0, Y0
	VPADDQ Y4, Y1, Y1
	VPAND Y7, Y5, Y6
	VPSRLQ $32, Y5, Y5
	VPADDQ Y6, Y2, Y2
	VPADDQ Y5, Y3, Y3

copydone:
	VPADDQ Y1, Y0, Y0
	VPADDQ Y3, Y2, Y2
	VPADDQ Y2, Y0, Y0
	VEXTRACTI128 $1, Y0, X1
	VPADDQ X1, X0, X0
	VPEXTRQ $1, X0, AX
	VMOVQ X0, BX
	ADDQ BX, AX
	VZEROUPPER
	MOVQ AX, ret+24(FP)
	RET

// func sumAVX2(src *byte, n int) uint64
// n is even, 64 to 64 KiB.
TEXT ·sumAVX2(SB), NOSPLIT, $0-24
	MOVQ src+0(FP), SI
	MOVQ n+8(FP), CX
	MOVQ CX, R8
	ANDQ $63, R8
	ANDQ $~63, CX
	VPXOR Y0, Y0, Y0
	VPXOR Y1, Y1, Y1
	VPXOR Y2, Y2, Y2
	VPXOR Y3, Y3, Y3
	VPCMPEQD Y7, Y7, Y7
	VPSRLQ $32, Y7, Y7

sumloop:
	VMOVDQU (SI), Y4
	VMOVDQU 32(SI), Y5
	VPAND Y7, Y4, Y6
	VPSRLQ $32, Y4, Y4
	VPADDQ Y6, Y0, Y0
	VPADDQ Y4, Y1, Y1
	VPAND Y7, Y5, Y6
	VPSRLQ $32, Y5, Y5
	VPADDQ Y6, Y2, Y2
	VPADDQ Y5, Y3, Y3
	ADDQ $64, SI
	SUBQ $64, CX
	JNZ sumloop

	TESTQ R8, R8
	JZ sumdone
	LEAQ tail<>(SB), R9
	VMOVDQU -64(SI)(R8*1), Y4
	VMOVDQU -32(SI)(R8*1), Y5
	VPAND (R9)(R8*1), Y4, Y4
	VPAND 32(R9)(R8*1), Y5, Y5
	VPAND Y7, Y4, Y6
	VPSRLQ $32, Y4, Y4
	VPADDQ Y6, Y0, Y0
	VPADDQ Y4, Y1, Y1
	VPAND Y7, Y5, Y6
	VPSRLQ $32, Y5, Y5
	VPADDQ Y6, Y2, Y2
	VPADDQ Y5, Y3, Y3

sumdone:
	VPADDQ Y1, Y0, Y0
	VPADDQ Y3, Y2, Y2
	VPADDQ Y2, Y0, Y0
	VEXTRACTI128 $1, Y0, X1
	VPADDQ X1, X0, X0
	VPEXTRQ $1, X0, AX
	VMOVQ X0, BX
	ADDQ BX, AX
	VZEROUPPER
	MOVQ AX, ret+16(FP)
	RET
