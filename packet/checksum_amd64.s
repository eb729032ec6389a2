#include "textflag.h"

// Both sum 32-bit words into 64-bit lanes, where 64 KiB cannot overflow: 2^32 is 1 modulo 2^16-1, so the lanes may be
// added up in any order (RFC 1071, section 2).

// func copySumAVX2(dst, src *byte, n int) uint64
// n is a positive multiple of 64, at most 64 KiB.
TEXT ·copySumAVX2(SB), NOSPLIT, $0-32
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX
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
// n is a positive multiple of 64, at most 64 KiB.
TEXT ·sumAVX2(SB), NOSPLIT, $0-24
	MOVQ src+0(FP), SI
	MOVQ n+8(FP), CX
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
