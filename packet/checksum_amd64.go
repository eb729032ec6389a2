package packet

import "golang.org/x/sys/cpu"

const (
	// wideFrom is from how many octets on vectors pay, wideMost how many their lanes bear.
	wideFrom = 128
	wideMost = 1 << 16
)

var wide = cpu.X86.HasAVX2

//go:noescape
func copySumAVX2(dst, src *byte, n int) uint64

//go:noescape
func sumAVX2(src *byte, n int) uint64

// sumWide sums b, and returns how many octets of it that were: all but an odd last one; 0 without vectors.
func sumWide(b []byte) (s uint64, n int) {
	if !wide || len(b) < wideFrom {
		return 0, 0
	}
	n = min(len(b), wideMost) &^ 1
	return sumAVX2(&b[0], n), n
}

// copySumWide is sumWide that copies on the way; dst is at least as long as src.
func copySumWide(dst, src []byte) (s uint64, n int) {
	if !wide || len(src) < wideFrom {
		return 0, 0
	}
	n = min(len(src), wideMost) &^ 1
	_ = dst[n-1]
	return copySumAVX2(&dst[0], &src[0], n), n
}
