package packet

import (
	"syscall"
	"testing"
)

// guarded is memory between two pages that can't be touched.
func guarded(t *testing.T, pages int) []byte {
	t.Helper()
	page := syscall.Getpagesize()
	mem, err := syscall.Mmap(-1, 0, (pages+2)*page, syscall.PROT_NONE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Munmap(mem); err != nil {
			t.Error(err)
		}
	})
	inside := mem[page : (pages+1)*page]
	if err := syscall.Mprotect(inside, syscall.PROT_READ|syscall.PROT_WRITE); err != nil {
		t.Fatal(err)
	}
	return inside
}

// A sum that reads, or a copy that writes, one octet before or behind its buffers dies here.
func TestSumStaysInItsBuffers(t *testing.T) {
	src, dst := guarded(t, 1), guarded(t, 1)
	for i := range src {
		src[i] = byte(7*i + 1)
	}
	for size := range 2101 {
		for _, s := range [][]byte{src[:size], src[len(src)-size:]} {
			for _, d := range [][]byte{dst[:size], dst[len(dst)-size:]} {
				want := naiveSum(s)
				if got := Sum(s, 0); !same(got, want) {
					t.Fatalf("the sum of %d octets is %#x, not %#x", size, got, want)
				}
				if got := CopySum(d, s, 0); !same(got, want) || string(d) != string(s) {
					t.Fatalf("copied, the sum of %d octets is %#x, not %#x", size, got, want)
				}
			}
		}
	}
}
