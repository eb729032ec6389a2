package batch

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"
)

// newChaChaPair is newPair for ChaCha20-Poly1305; its reference is x/crypto's.
func newChaChaPair(t testing.TB, kernel string, r *rand.ChaCha8) pair {
	t.Helper()
	key := make([]byte, chacha20poly1305.KeySize)
	_, _ = r.Read(key)
	ours, err := NewChaCha20Poly1305For(kernel, key)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := chacha20poly1305.New(key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{ours, ref}
}

// Batches of 9, one more than are hashed side by side, each an octet longer than the one before.
func TestChaChaAllLengths(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		r := rand.NewChaCha8([32]byte{11})
		p := newChaChaPair(t, kernel, r)
		b := newTable(r)
		for first := 0; first <= 2100; first += stride() {
			for _, head := range []int{8, 12, first % 81} {
				b.clear()
				for i := range 9 {
					b.add(p, (first+i)%64, head, first+i, first+i, uint64(first))
				}
				b.seal(t, p)
				b.open(t, p)
			}
		}
	})
}

func TestChaChaAllAlignmentsAndHeads(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		r := rand.NewChaCha8([32]byte{12})
		p := newChaChaPair(t, kernel, r)
		b := newTable(r)
		for at := 0; at <= 80; at += stride() {
			for _, size := range []int{0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 1024, 1408} {
				for _, n := range []int{1, 8, 9} {
					b.clear()
					for i := range n {
						b.add(p, (at+i)%64, (at+i)%81, size, at, 7)
					}
					b.seal(t, p)
					b.open(t, p)
				}
			}
		}
	})
}

func TestChaChaEveryWrongBit(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		r := rand.NewChaCha8([32]byte{13})
		p := newChaChaPair(t, kernel, r)
		b := newTable(r)
		for _, size := range []int{0, 16, 64, 100, 300, 1408} {
			for bit := 0; bit < 8*(gcmTagLen+size+8+gcmNonceLen); bit += stride() {
				if size > 300 && bit > 8*gcmTagLen && bit%7 != 0 {
					continue
				}
				b.clear()
				for i := range 8 {
					b.add(p, 0, 8, size, i, uint64(i))
				}
				b.seal(t, p)
				b.spoil(bit%8, bit)
				b.open(t, p)
			}
		}
	})
}

// Sums at the edge of the modulus: with r as the clamp leaves it of ones, and texts of ones and zeros, h comes near 2^130-5 as often as it can.
func TestPolyAtTheEdges(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		r := rand.NewChaCha8([32]byte{14})
		p := newChaChaPair(t, kernel, r)
		b := newTable(r)
		for _, fill := range []byte{0x00, 0xff, 0xfb, 0x80, 0x7f} {
			for i := range b.pool {
				b.pool[i] = fill
			}
			for size := range 200 {
				b.clear()
				for i := range 8 {
					b.add(p, i, 8, size+i, 1, uint64(size))
				}
				b.seal(t, p)
				b.open(t, p)
			}
		}
	})
}

// TestChaChaAtRandom is the counted run.
func TestChaChaAtRandom(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		if kernel != VAES512 {
			t.Skip("x/crypto beside itself")
		}
		atRandom(t, kernel, func(src *rand.ChaCha8) []pair { return []pair{newChaChaPair(t, kernel, src)} })
	})
}

func FuzzChaCha(f *testing.F) {
	f.Add(uint64(1), uint8(8), uint8(9), uint16(0), uint16(1408), []byte("text"))
	f.Add(uint64(2), uint8(12), uint8(32), uint16(3), uint16(64), bytes.Repeat([]byte{0x5a}, 1500))
	f.Add(uint64(3), uint8(77), uint8(1), uint16(9), uint16(8999), bytes.Repeat([]byte{0xff}, 257))
	f.Fuzz(func(t *testing.T, s uint64, head, n uint8, bit, second uint16, text []byte) {
		if len(text) > 9000 {
			return
		}
		src := rand.NewChaCha8([32]byte{byte(s), byte(s >> 8), byte(s >> 16), byte(s >> 24), 2})
		p := newChaChaPair(t, Kernels()[int(n>>6)%len(Kernels())], src)
		b := newTable(src)
		copy(b.pool, text)
		n = n%40 + 1
		for i := range int(n) {
			size := []int{len(text), int(second) % 9001, len(text) / 2}[i%3]
			b.add(p, int(s>>(8*(i%8)))%64, (int(head)+i)%81, size, i, s+uint64(i))
		}
		b.seal(t, p)
		b.spoil(int(bit)%int(n), int(bit))
		b.open(t, p)
	})
}
