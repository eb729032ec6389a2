package batch

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

var executions = flag.Int64("gcm.executions", 200_000, "packets that TestGCMAtRandom and others seal or open beside Go's own code")

var seed = flag.Uint64("gcm.seed", 1, "where TestGCMAtRandom and others begin")

// forEachKernel runs a test for all kernels of this machine, and says which are missing.
func forEachKernel(t *testing.T, test func(t *testing.T, kernel string)) {
	for _, k := range Kernels() {
		t.Run(k, func(t *testing.T) { test(t, k) })
	}
	for _, k := range []string{VAES256, VAES512} {
		if !slices.Contains(Kernels(), k) {
			t.Run(k, func(t *testing.T) { t.Skip("skipped: no " + k) })
		}
	}
}

// stride is 1, or with -short how many cases of an exhaustive test are left out for each that is tried.
func stride() int {
	if testing.Short() {
		return 23
	}
	return 1
}

// pair is a key of ours, and Go's own.
type pair struct {
	ours Key
	ref  cipher.AEAD
}

func newPair(t testing.TB, kernel string, key []byte) pair {
	t.Helper()
	ours, err := NewGCMFor(kernel, key)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	return pair{ours, ref}
}

func newPairs(t testing.TB, kernel string, r *rand.ChaCha8) (p []pair) {
	for _, n := range []int{16, 24, 32} {
		key := make([]byte, n)
		_, _ = r.Read(key)
		p = append(p, newPair(t, kernel, key))
	}
	return p
}

// table lays jobs out in one piece of memory, with octets between them that nobody may change.
type table struct {
	mem, want []byte
	jobs      []Job
	plain     [][]byte
	sealed    [][]byte // as Go's own code says
	wrong     []bool
	heads     [64][80]byte
	pool      []byte
	used      int
}

func newTable(r *rand.ChaCha8) *table {
	b := &table{mem: make([]byte, 64*(9000+256)), want: make([]byte, 64*(9000+256)), pool: make([]byte, 1<<16)}
	_, _ = r.Read(b.pool)
	return b
}

func (b *table) clear() {
	b.jobs, b.plain, b.sealed, b.wrong, b.used = b.jobs[:0], b.plain[:0], b.sealed[:0], b.wrong[:0], 0
}

// add lays out one job whose text begins at the given place in a line of 64 octets.
func (b *table) add(p pair, align, head, size, from int, nonce uint64) {
	at := (b.used+63)&^63 + align
	text := b.mem[at : at+size]
	copy(text, b.pool[from:])
	plain := b.pool[from : from+size]
	j := Job{Head: b.heads[len(b.jobs)][:head], Text: text}
	copy(j.Head, b.pool[from/2:])
	for i := range 8 {
		j.IV[i] = byte(nonce >> (8 * i))
		j.IV[8+i] = 0xff // 8 to 11 belong to the nonce; what follows must be of no effect
	}
	end := at + size + gcmTagLen + 48
	gap := b.pool[from/3 : from/3+48]
	copy(b.mem[at+size+gcmTagLen:end], gap)
	copy(b.want[b.used:at], b.mem[b.used:at])
	p.ref.Seal(b.want[at:at], j.IV[:gcmNonceLen], plain, j.Head)
	copy(b.want[at+size+gcmTagLen:end], gap)
	b.used = end
	b.jobs = append(b.jobs, j)
	b.plain = append(b.plain, plain)
	b.sealed = append(b.sealed, b.want[at:at+size+gcmTagLen])
	b.wrong = append(b.wrong, false)
}

func (b *table) describe() (s string) {
	for i := range b.jobs {
		s += fmt.Sprintf(" %d+%d", len(b.jobs[i].Head), len(b.jobs[i].Text))
	}
	return s
}

// seal compares everything, also what lies between the packets.
func (b *table) seal(t testing.TB, p pair) {
	t.Helper()
	p.ours.Seal(b.jobs)
	if !bytes.Equal(b.mem[:b.used], b.want[:b.used]) {
		for i := range b.jobs {
			if n := len(b.jobs[i].Text); !bytes.Equal(b.jobs[i].Text[:n+gcmTagLen], b.sealed[i]) {
				t.Errorf("job %d, head %d, text %d is sealed otherwise than by Go", i, len(b.jobs[i].Head), n)
			}
		}
		t.Fatalf("after sealing%s, memory is not what it should be", b.describe())
	}
}

// spoil changes one bit of job i: of its tag, its text, its head or its nonce.
func (b *table) spoil(i, bit int) {
	j := &b.jobs[i]
	b.wrong[i] = true
	text := j.Text[:len(j.Text)+gcmTagLen]
	bit %= 8 * (len(text) + len(j.Head) + gcmNonceLen)
	at, mask := bit/8, byte(1)<<(bit%8)
	switch {
	case at < gcmTagLen:
		text[len(j.Text)+at] ^= mask
	case at < len(text):
		text[at-gcmTagLen] ^= mask
	case at < len(text)+len(j.Head):
		j.Head[at-len(text)] ^= mask
	default:
		j.IV[at-len(text)-len(j.Head)] ^= mask
	}
}

func (b *table) open(t testing.TB, p pair) {
	t.Helper()
	p.ours.Open(b.jobs)
	for i := range b.jobs {
		j := &b.jobs[i]
		n := len(j.Text)
		if j.OK == b.wrong[i] {
			t.Fatalf("job %d of%s: OK is %v", i, b.describe(), j.OK)
		}
		if j.OK && !bytes.Equal(j.Text, b.plain[i]) {
			t.Fatalf("job %d of%s opens otherwise than by Go", i, b.describe())
		}
		if !j.OK && bytes.ContainsFunc(j.Text, func(r rune) bool { return r != 0 }) {
			t.Fatalf("job %d of%s is wrong and leaves its text behind", i, b.describe())
		}
		copy(b.sealed[i][:n], j.Text)
		if b.wrong[i] {
			copy(b.sealed[i][n:], j.Text[n:n+gcmTagLen])
		}
	}
	if !bytes.Equal(b.mem[:b.used], b.want[:b.used]) {
		t.Fatalf("after opening%s, tags or what lies between packets have changed", b.describe())
	}
}

func TestGCMAllLengths(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		r := rand.NewChaCha8([32]byte{1})
		pairs := newPairs(t, kernel, r)
		b := newTable(r)
		for size := 0; size <= 2100; size += stride() {
			for i, head := range []int{8, 12, size % 81} {
				for _, p := range pairs {
					b.clear()
					b.add(p, (size+i)%64, head, size, size, uint64(size))
					b.seal(t, p)
					b.open(t, p)
				}
			}
		}
	})
}

func TestGCMAllAlignmentsAndHeads(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		r := rand.NewChaCha8([32]byte{2})
		b := newTable(r)
		for _, p := range newPairs(t, kernel, r) {
			for align := 0; align < 64; align += stride() {
				for _, size := range []int{0, 1, 15, 16, 17, 63, 64, 65, 255, 256, 257, 511, 1408, 1500, 1520, 1536, 2600, 8960} {
					b.clear()
					b.add(p, align, 8+4*(align&1), size, align, 7)
					b.seal(t, p)
					b.open(t, p)
				}
			}
			for head := 0; head <= 80; head += stride() {
				for _, size := range []int{0, 33, 64, 1408, 1440, 1456, 1457, 1472, 1488, 1504, 1520, 1536, 2464, 2480, 2496, 2512, 2528} {
					b.clear()
					b.add(p, 0, head, size, head, 7)
					b.seal(t, p)
					b.open(t, p)
				}
			}
		}
	})
}

func TestGCMEveryWrongBit(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		r := rand.NewChaCha8([32]byte{3})
		b := newTable(r)
		for _, p := range newPairs(t, kernel, r) {
			for _, size := range []int{0, 16, 64, 100, 300, 1408} {
				for bit := 0; bit < 8*(gcmTagLen+size+8+gcmNonceLen); bit += stride() {
					if size > 300 && bit > 8*gcmTagLen && bit%7 != 0 {
						continue
					}
					b.clear()
					for i := range 3 {
						b.add(p, 0, 8, size, i, uint64(i))
					}
					b.seal(t, p)
					b.spoil(1, bit)
					b.open(t, p)
				}
			}
		}
	})
}

// TestGCMAtRandom is the counted run: every packet sealed, and every packet opened, is one execution.
func TestGCMAtRandom(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		if kernel == AESNI || kernel == Generic {
			t.Skip("Go's own code beside itself")
		}
		atRandom(t, kernel, func(src *rand.ChaCha8) []pair { return newPairs(t, kernel, src) })
	})
}

// atRandom seals and opens batches of packets of all kinds until there are -gcm.executions, with new keys now and then.
func atRandom(t *testing.T, kernel string, newPairs func(src *rand.ChaCha8) []pair) {
	var s [32]byte
	for i := range 8 {
		s[i] = byte(*seed >> (8 * i))
	}
	src := rand.NewChaCha8(s)
	r := rand.New(src)
	b := newTable(src)
	var done int64
	for done < *executions {
		pairs := newPairs(src)
		for range 300 {
			p := pairs[r.IntN(len(pairs))]
			b.clear()
			for range 1 + r.IntN(64) {
				var size int
				switch c := r.IntN(100); {
				case c < 50:
					size = r.IntN(161)
				case c < 80:
					size = r.IntN(601)
				case c < 99:
					size = r.IntN(2101)
				default:
					size = r.IntN(9001)
				}
				head := 8 + 4*r.IntN(2)
				if r.IntN(8) == 0 {
					head = r.IntN(81)
				}
				b.add(p, r.IntN(64), head, size, r.IntN(len(b.pool)-9000), r.Uint64())
			}
			b.seal(t, p)
			for i := range b.jobs {
				if r.IntN(8) == 0 {
					b.spoil(i, r.IntN(1<<20))
				} else if r.IntN(8) == 0 {
					b.spoil(i, r.IntN(128))
				}
			}
			b.open(t, p)
			done += 2 * int64(len(b.jobs))
		}
	}
	t.Logf("%s: %d executions, seed %d, no difference", kernel, done, *seed)
}

func FuzzGCM(f *testing.F) {
	f.Add(uint64(1), uint8(0), uint8(8), uint16(0), uint16(1408), []byte("text"))
	f.Add(uint64(2), uint8(1), uint8(12), uint16(3), uint16(64), bytes.Repeat([]byte{0x5a}, 1500))
	f.Add(uint64(3), uint8(2), uint8(77), uint16(9), uint16(8999), bytes.Repeat([]byte{0xff}, 257))
	f.Fuzz(func(t *testing.T, s uint64, keySize, head uint8, bit, second uint16, text []byte) {
		if len(text) > 9000 {
			return
		}
		src := rand.NewChaCha8([32]byte{byte(s), byte(s >> 8), byte(s >> 16), byte(s >> 24)})
		p := newPairs(t, Kernels()[int(keySize>>4)%len(Kernels())], src)[keySize%3]
		b := newTable(src)
		copy(b.pool, text)
		b.add(p, int(s>>32)%64, int(head)%81, len(text), 0, s)
		b.add(p, int(s>>40)%64, int(head>>4), int(second)%9001, 1, s+1)
		b.add(p, int(s>>48)%64, int(head)%13, len(text)/2, 2, s+2)
		b.seal(t, p)
		b.spoil(int(bit)%3, int(bit))
		b.open(t, p)
	})
}
