package batch

import "golang.org/x/sys/cpu"

// vaesBits are VAES and VPCLMULQDQ in leaf 7's ECX: x/sys tells of them only beside AVX-512.
const vaesBits = 1<<9 | 1<<10

func kernels() []string {
	x := &cpu.X86
	var names []string
	if x.HasAVX512F && x.HasAVX512BW && x.HasAVX512VL && x.HasAVX512DQ && x.HasAVX512VAES && x.HasAVX512VPCLMULQDQ && x.HasBMI2 && x.HasAES {
		names = append(names, VAES512)
	}
	if x.HasAVX2 && x.HasAES && x.HasPCLMULQDQ && leaf7ecx()&vaesBits == vaesBits {
		names = append(names, VAES256)
	}
	if x.HasAES && x.HasPCLMULQDQ {
		names = append(names, AESNI)
	}
	return append(names, Generic)
}

func leaf7ecx() uint32 {
	_, ecx := cpuidLeaf7()
	return ecx
}

func leaf7ebx() uint32 {
	ebx, _ := cpuidLeaf7()
	return ebx
}
