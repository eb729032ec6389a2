package batch

import (
	"math/rand/v2"
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

// A kernel that reads or writes one octet before or behind a head, a text and its tag dies here.
func TestGCMStaysInItsBuffers(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		texts, heads := guarded(t, 3), guarded(t, 1)
		for _, p := range newPairs(t, kernel, rand.NewChaCha8([32]byte{4})) {
			for size := 0; size <= 2200; size += stride() {
				size := size
				if size > 2100 {
					size = 2100 + 69*(size-2100) // to 9,000
				}
				for _, atEnd := range []bool{false, true} {
					n := []int{8, 12, size % 81}[size%3]
					head, text := heads[:n], texts[:size+gcmTagLen]
					if atEnd {
						head, text = heads[len(heads)-n:], texts[len(texts)-size-gcmTagLen:]
					}
					clear(texts)
					jobs := []Job{{Head: head, Text: text[:size]}}
					p.ours.Seal(jobs)
					p.ours.Open(jobs)
					if !jobs[0].OK {
						t.Fatalf("%d octets sealed do not open", size)
					}
				}
			}
		}
	})
}

// As many packets as are hashed side by side, each between pages of its own.
func TestCBCStaysInItsBuffers(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		var mem [16][]byte
		for i := range mem {
			mem[i] = guarded(t, 1)
		}
		for name, h := range cbcHashes {
			k, err := NewCBCFor(kernel, make([]byte, 16), make([]byte, 20), h, 12)
			if err != nil {
				t.Fatal(err)
			}
			for size := 0; size <= 2048; size += 16 * stride() {
				for _, n := range []int{1, len(mem)} {
					for _, atEnd := range []bool{false, true} {
						jobs := make([]Job, n)
						for i := range jobs {
							packet := mem[i][:24+size+12]
							if atEnd {
								packet = mem[i][len(mem[i])-len(packet):]
							}
							jobs[i] = Job{Head: packet[:24], Text: packet[24 : 24+size]}
						}
						k.Seal(jobs)
						k.Open(jobs)
						if !jobs[0].OK || !jobs[n-1].OK {
							t.Fatalf("%s: %d octets sealed do not open", name, size)
						}
					}
				}
			}
		}
	})
}

// Texts of any length, as many packets as are hashed side by side, each between pages of its own.
func TestHMACStaysInItsBuffers(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		var mem [16][]byte
		for i := range mem {
			mem[i] = guarded(t, 1)
		}
		for name, h := range cbcHashes {
			const tagLen = 12
			k := fatal[Key](t)(NewEncryptThenMACFor(kernel, NoCipher(), HMAC(h, make([]byte, 20)), tagLen))
			for size := 0; size <= 2100; size += stride() {
				if size > 300 {
					size += 16 // 17 at a time: at every place in a block there comes an end
				}
				for _, atEnd := range []bool{false, true} {
					jobs := make([]Job, len(mem))
					for i := range jobs {
						packet := mem[i][:8+size+tagLen]
						if atEnd {
							packet = mem[i][len(mem[i])-len(packet):]
						}
						jobs[i] = Job{Head: packet[:8], Text: packet[8 : 8+size]}
					}
					k.Seal(jobs)
					k.Open(jobs)
					for i := range jobs {
						if !jobs[i].OK {
							t.Fatalf("%s: %d octets sealed do not open", name, size)
						}
					}
				}
			}
		}
	})
}

// As many packets as are hashed side by side and one more, each between pages of its own.
func TestChaChaStaysInItsBuffers(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		var texts, heads [9][]byte
		for i := range texts {
			texts[i], heads[i] = guarded(t, 1), guarded(t, 1)
		}
		p := newChaChaPair(t, kernel, rand.NewChaCha8([32]byte{15}))
		for size := 0; size <= 2100; size += stride() {
			for _, atEnd := range []bool{false, true} {
				jobs := make([]Job, len(texts))
				for i := range jobs {
					n := (size + i) % 65
					jobs[i].Head, jobs[i].Text = heads[i][:n], texts[i][:size]
					if atEnd {
						at := len(texts[i]) - size - gcmTagLen
						jobs[i].Head, jobs[i].Text = heads[i][len(heads[i])-n:], texts[i][at:at+size]
					}
				}
				p.ours.Seal(jobs)
				p.ours.Open(jobs)
				for i := range jobs {
					if !jobs[i].OK {
						t.Fatalf("%d octets sealed do not open", size)
					}
				}
			}
		}
	})
}
