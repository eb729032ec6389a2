package batch

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"math/rand/v2"
	"testing"
)

// cbcCase is one packet: memory as it must be after sealing, with what is around it.
type cbcCase struct {
	mem, want, plain []byte
	wrong            bool
}

// cbcPair is a key of ours and what Go's own code needs.
type cbcPair struct {
	ours   Key
	block  cipher.Block
	macKey []byte
	hash   func() hash.Hash
	tagLen int
}

func newCBCPair(t testing.TB, r *rand.Rand, kernel string, h func() hash.Hash) cbcPair {
	t.Helper()
	fill := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	p := cbcPair{macKey: fill(1 + r.IntN(150)), hash: h, tagLen: 1 + r.IntN(h().Size())}
	key := fill(16 + 8*r.IntN(3))
	var err error
	if p.ours, err = NewCBCFor(kernel, key, p.macKey, h, p.tagLen); err != nil {
		t.Fatal(err)
	}
	if p.block, err = aes.NewCipher(key); err != nil {
		t.Fatal(err)
	}
	return p
}

// seal is the reference: it encrypts text, and says what the tag is.
func (p cbcPair) seal(head, text, tail, iv []byte) (tag []byte) {
	cipher.NewCBCEncrypter(p.block, iv).CryptBlocks(text, text)
	m := hmac.New(p.hash, p.macKey)
	m.Write(head)
	m.Write(text)
	m.Write(tail)
	return m.Sum(nil)[:p.tagLen]
}

// tryCBC seals and opens one batch of jobs of which some are changed on the way.
func tryCBC(t testing.TB, r *rand.Rand, p cbcPair, pool []byte, n, maxBlocks int) {
	t.Helper()
	cases, jobs := make([]cbcCase, n), make([]Job, n)
	var story string
	for i := range jobs {
		c, j := &cases[i], &jobs[i]
		head, size, front := 8+r.IntN(2)*16, 16*r.IntN(maxBlocks+1), r.IntN(64)
		if r.IntN(4) == 0 {
			head = r.IntN(100)
		}
		if r.IntN(3) == 0 {
			size = 16 * r.IntN(min(maxBlocks, 10)+1)
		}
		story += fmt.Sprintf(" %d+%d", head, size)
		from := r.IntN(len(pool) - maxBlocks*16 - 400)
		c.mem = append([]byte(nil), pool[from:from+front+head+size+p.tagLen+32]...)
		c.want = append([]byte(nil), c.mem...)
		c.plain = append([]byte(nil), c.mem[front+head:][:size]...)
		j.Head, j.Text = c.mem[front:front+head], c.mem[front+head:front+head+size]
		copy(j.IV[:], pool[r.IntN(100):])
		switch r.IntN(8) {
		case 0:
			j.Tail = []byte{1, 2, 3, byte(i)}
		case 1:
			j.Tail = bytes.Repeat([]byte{byte(i)}, r.IntN(80))
		case 2:
			j.Head = append([]byte(nil), j.Head...) // somewhere else
		}
		tag := p.seal(c.want[front:front+head], c.want[front+head:front+head+size], j.Tail, j.IV[:])
		copy(c.want[front+head+size:], tag)
	}
	p.ours.Seal(jobs)
	for i, c := range cases {
		if !bytes.Equal(c.mem, c.want) {
			t.Fatalf("job %d of%s is sealed otherwise than by Go", i, story)
		}
		if whole := jobs[i].Text[:len(jobs[i].Text)+p.tagLen]; r.IntN(6) == 0 {
			bit := r.IntN(8 * len(whole))
			if r.IntN(2) == 0 {
				bit = 8*len(jobs[i].Text) + r.IntN(8*p.tagLen)
			}
			whole[bit/8] ^= 1 << (bit % 8)
			cases[i].wrong = true
		}
	}
	p.ours.Open(jobs)
	for i, c := range cases {
		if jobs[i].OK == c.wrong && (p.tagLen > 3 || !c.wrong) {
			t.Fatalf("job %d of%s: OK is %v", i, story, jobs[i].OK)
		}
		if !c.wrong && !bytes.Equal(jobs[i].Text, c.plain) {
			t.Fatalf("job %d of%s opens otherwise than by Go", i, story)
		}
	}
}

var cbcHashes = map[string]func() hash.Hash{"md5": md5.New, "sha1": sha1.New, "sha256": sha256.New, "sha384": sha512.New384, "sha512": sha512.New}

// TestCBCAtRandom is the counted run.
func TestCBCAtRandom(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		for name, h := range cbcHashes {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				src := rand.NewChaCha8([32]byte{byte(*seed), byte(*seed >> 8), 9})
				r := rand.New(src)
				pool := make([]byte, 1<<16)
				_, _ = src.Read(pool)
				var done int64
				for done < *executions/10/int64(stride()) {
					p := newCBCPair(t, r, kernel, h)
					for range 20 {
						n := 1 + r.IntN(64)
						blocks := []int{8, 40, 132, 600}[r.IntN(4)]
						tryCBC(t, r, p, pool, n, blocks)
						done += 2 * int64(n)
					}
				}
				t.Logf("%d executions, seed %d, no difference", done, *seed)
			})
		}
	})
}

// Batches of 17: one more than are hashed side by side, each one block longer than the one before.
func TestCBCAllLengths(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		r := rand.New(rand.NewPCG(5, 6))
		for _, h := range cbcHashes {
			p := newCBCPair(t, r, kernel, h)
			for first := 0; first <= 2100/16; first += stride() {
				for _, head := range []int{8, 24, first % 81} {
					jobs, want := make([]Job, 17), make([][]byte, 17)
					for i := range jobs {
						jobs[i] = job(bytes.Repeat([]byte{byte(i)}, head), bytes.Repeat([]byte{byte(first)}, 16*(first+i)), p.tagLen)
						jobs[i].IV[i%16] = byte(first)
						want[i] = bytes.Clone(jobs[i].Text)
						want[i] = append(want[i], p.seal(jobs[i].Head, want[i], nil, jobs[i].IV[:])...)
					}
					p.ours.Seal(jobs)
					for i, j := range jobs {
						if !bytes.Equal(j.Text[:cap(j.Text)], want[i]) {
							t.Fatalf("%d octets with a head of %d are sealed otherwise than by Go", len(j.Text), head)
						}
					}
				}
			}
		}
	})
}

func TestCBCEveryWrongBitOfTheTag(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		for name, h := range cbcHashes {
			tagLen := max(12, h().Size()/2)
			k, err := NewCBCFor(kernel, make([]byte, 16), make([]byte, 20), h, tagLen)
			if err != nil {
				t.Fatal(err)
			}
			for bit := range 8 * tagLen {
				jobs := packets(k, 20, 24, 96)
				bad := bit % len(jobs)
				jobs[bad].Text[:cap(jobs[bad].Text)][96+bit/8] ^= 1 << (bit % 8)
				k.Open(jobs)
				for i := range jobs {
					if jobs[i].OK == (i == bad) {
						t.Fatalf("%s: bit %d of tag %d changed: OK of %d is %v", name, bit, bad, i, jobs[i].OK)
					}
				}
			}
		}
	})
}

func FuzzCBC(f *testing.F) {
	f.Add(uint64(1), uint8(0), uint8(32), uint8(90))
	f.Add(uint64(2), uint8(1), uint8(1), uint8(255))
	f.Add(uint64(3), uint8(0), uint8(63), uint8(100))
	f.Fuzz(func(t *testing.T, s uint64, hashName, n, blocks uint8) {
		src := rand.NewChaCha8([32]byte{byte(s), byte(s >> 8), byte(s >> 16), byte(s >> 24), 1})
		r := rand.New(src)
		pool := make([]byte, 1<<14)
		_, _ = src.Read(pool)
		h := []func() hash.Hash{sha1.New, sha256.New, sha512.New}[hashName%3]
		tryCBC(t, r, newCBCPair(t, r, Kernels()[int(hashName>>4)%len(Kernels())], h), pool, 1+int(n%64), int(blocks))
	})
}

func TestCBCRefusesPartOfABlock(t *testing.T) {
	k, err := NewCBC(make([]byte, 16), make([]byte, 20), sha1.New, 12)
	if err != nil {
		t.Fatal(err)
	}
	for size := range 40 {
		j := job(make([]byte, 24), make([]byte, size), 12)
		m := hmac.New(sha1.New, make([]byte, 20))
		m.Write(j.Head)
		m.Write(j.Text)
		copy(j.Text[size:size+12], m.Sum(nil))
		jobs := []Job{j}
		k.Open(jobs)
		if jobs[0].OK != (size%16 == 0) {
			t.Errorf("%d octets with a good tag: OK is %v", size, jobs[0].OK)
		}
	}
}
