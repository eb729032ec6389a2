package batch

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"encoding/json"
	"fmt"
	"hash"
	"math/rand/v2"
	"os"
	"testing"
)

// hmacPair is a key of ours for AES-CTR or no encryption with HMAC, and what Go's own code needs.
type hmacPair struct {
	ours   Key
	block  cipher.Block // nil: nothing is encrypted
	macKey []byte
	hash   func() hash.Hash
	tagLen int
}

func newHMACPair(t testing.TB, r *rand.Rand, kernel string, h func() hash.Hash, tagLen int) hmacPair {
	t.Helper()
	src := make([]byte, 200)
	for i := range src {
		src[i] = byte(r.Uint32())
	}
	p := hmacPair{macKey: src[:r.IntN(160)], hash: h, tagLen: tagLen}
	c := NoCipher()
	if r.IntN(3) == 0 {
		c = fatal[Cipher](t)(CTRCipher(src[:16]))
		p.block = fatal[cipher.Block](t)(aes.NewCipher(src[:16]))
	}
	p.ours = fatal[Key](t)(NewEncryptThenMACFor(kernel, c, HMAC(h, p.macKey), tagLen))
	return p
}

// seal is the reference: text and tag.
func (p hmacPair) seal(j *Job) []byte {
	text := bytes.Clone(j.Text)
	if p.block != nil {
		counter := append(bytes.Clone(j.IV[:12]), 0, 0, 0, 1)
		cipher.NewCTR(p.block, counter).XORKeyStream(text, text)
	}
	m := hmac.New(p.hash, p.macKey)
	m.Write(j.Head)
	m.Write(text)
	m.Write(j.Tail)
	return append(text, m.Sum(nil)[:p.tagLen]...)
}

// try seals and opens a batch, some packets of which are changed on the way, and compares everything with the reference. The octet
// behind each tag must stay what it was.
func (p hmacPair) try(t testing.TB, r *rand.Rand, jobs []Job) {
	t.Helper()
	want, plain, story := make([][]byte, len(jobs)), make([][]byte, len(jobs)), ""
	for i := range jobs {
		j := &jobs[i]
		story += fmt.Sprintf(" %d+%d", len(j.Head), len(j.Text))
		want[i], plain[i] = append(p.seal(j), 0xee), bytes.Clone(j.Text)
		j.Text[:len(want[i])][len(want[i])-1] = 0xee
	}
	p.ours.Seal(jobs)
	wrong := make([]bool, len(jobs))
	for i := range jobs {
		whole := jobs[i].Text[:len(want[i])]
		if !bytes.Equal(whole, want[i]) {
			t.Fatalf("job %d of%s is sealed otherwise than by Go", i, story)
		}
		if r.IntN(6) == 0 {
			bit := r.IntN(8 * (len(whole) - 1))
			whole[bit/8] ^= 1 << (bit % 8)
			wrong[i] = true
		}
	}
	p.ours.Open(jobs)
	for i := range jobs {
		if jobs[i].OK == wrong[i] {
			t.Fatalf("job %d of%s: OK is %v", i, story, jobs[i].OK)
		}
		if !wrong[i] && !bytes.Equal(jobs[i].Text, plain[i]) {
			t.Fatalf("job %d of%s opens otherwise than by Go", i, story)
		}
	}
}

// TestHMACAtRandom is the counted run of HMAC without a cipher, or with AES-CTR.
func TestHMACAtRandom(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		for name, h := range cbcHashes {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				src := rand.NewChaCha8([32]byte{byte(*seed), byte(*seed >> 8), 10})
				r := rand.New(src)
				pool := make([]byte, 1<<16)
				_, _ = src.Read(pool)
				var done int64
				for done < *executions/10/int64(stride()) {
					p := newHMACPair(t, r, kernel, h, 8+r.IntN(h().Size()-7))
					for range 20 {
						jobs := randomJobs(r, pool, p.tagLen, 1+r.IntN(64), []int{64, 300, 1500, 9000}[r.IntN(4)])
						p.try(t, r, jobs)
						done += 2 * int64(len(jobs))
					}
				}
				t.Logf("%d executions, seed %d, no difference", done, *seed)
			})
		}
	})
}

// randomJobs are n packets of up to size octets out of pool, with an octet behind their tags. Few have a tail, or their head elsewhere.
func randomJobs(r *rand.Rand, pool []byte, tagLen, n, size int) []Job {
	jobs := make([]Job, n)
	for i := range jobs {
		head := []int{8, 16, r.IntN(150)}[r.IntN(3)]
		text := pool[r.IntN(len(pool)-size):][:r.IntN(size+1)]
		jobs[i] = job(bytes.Repeat([]byte{byte(i)}, head), text, tagLen+1)
		jobs[i].IV[r.IntN(12)] = byte(i)
		switch r.IntN(8) {
		case 0:
			jobs[i].Tail = []byte{0, 0, 1, byte(i)}
		case 1:
			jobs[i].Tail = bytes.Repeat([]byte{byte(i)}, r.IntN(80))
		case 2:
			jobs[i].Head = bytes.Clone(jobs[i].Head)
		}
	}
	return jobs
}

// Batches of 17, one more than are hashed side by side at most: each packet is an octet longer than the one before.
func TestHMACAllLengths(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		r := rand.New(rand.NewPCG(7, 8))
		for _, h := range cbcHashes {
			p := newHMACPair(t, r, kernel, h, h().Size())
			for first := 0; first <= 2100; first += 17 * stride() {
				jobs := make([]Job, 17)
				for i := range jobs {
					jobs[i] = job(bytes.Repeat([]byte{byte(i)}, first%40), bytes.Repeat([]byte{byte(first)}, first+i), p.tagLen+1)
				}
				p.try(t, r, jobs)
			}
		}
	})
}

// Every bit of the whole digest, in every lane in turn: only that job is refused.
func TestHMACEveryWrongBitOfTheTag(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		for name, h := range cbcHashes {
			size := h().Size()
			k := fatal[Key](t)(NewEncryptThenMACFor(kernel, NoCipher(), HMAC(h, make([]byte, 32)), size))
			for bit := range 8 * size {
				jobs := packets(k, 19, 8, 100+bit)
				bad := bit % len(jobs)
				jobs[bad].Text[:cap(jobs[bad].Text)][100+bit+bit/8] ^= 1 << (bit % 8)
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

// Project Wycheproof's vectors for HMAC, alone and as batches that fill the lanes.
func TestWycheproofHMAC(t *testing.T) {
	for file, h := range map[string]string{"hmac_sha1": "sha1", "hmac_sha256": "sha256", "hmac_sha384": "sha384", "hmac_sha512": "sha512"} {
		raw, err := os.ReadFile("testdata/wycheproof/" + file + "_test.json")
		if err != nil {
			t.Fatal(err)
		}
		var vectors struct {
			TestGroups []struct {
				Tests []struct {
					ID            int `json:"tcId"`
					Key, Msg, Tag hexOctets
					Result        string
				}
			}
		}
		if err := json.Unmarshal(raw, &vectors); err != nil {
			t.Fatal(err)
		}
		forEachKernel(t, func(t *testing.T, kernel string) {
			done := 0
			for _, g := range vectors.TestGroups {
				for _, c := range g.Tests {
					done++
					k := fatal[Key](t)(NewEncryptThenMACFor(kernel, NoCipher(), HMAC(cbcHashes[h], c.Key), len(c.Tag)))
					for _, n := range []int{1, 2, 19} {
						jobs := make([]Job, n)
						for i := range jobs {
							at := min(i, len(c.Msg))
							jobs[i] = job(c.Msg[:at], c.Msg[at:], len(c.Tag))
						}
						k.Seal(jobs)
						good := c.Result == "valid"
						for i, j := range jobs {
							tag := j.Text[len(j.Text):cap(j.Text)]
							if bytes.Equal(tag, c.Tag) != good {
								t.Errorf("%s: test %d, %s, job %d of %d: tag %x", file, c.ID, c.Result, i, n, tag)
							}
							copy(tag, c.Tag)
						}
						k.Open(jobs)
						for i, j := range jobs {
							if j.OK != good {
								t.Errorf("%s: test %d, %s, job %d of %d: OK is %v", file, c.ID, c.Result, i, n, j.OK)
							}
						}
					}
				}
			}
			if done < 100 {
				t.Errorf("%s: only %d vectors were tried", file, done)
			}
			t.Logf("%s: %d vectors", file, done)
		})
	}
}

func FuzzHMAC(f *testing.F) {
	f.Add(uint64(1), uint8(0), uint8(32), uint16(1500))
	f.Add(uint64(2), uint8(1), uint8(9), uint16(64))
	f.Add(uint64(3), uint8(3), uint8(63), uint16(300))
	f.Fuzz(func(t *testing.T, s uint64, hashName, n uint8, size uint16) {
		src := rand.NewChaCha8([32]byte{byte(s), byte(s >> 8), byte(s >> 16), byte(s >> 24), 2})
		r := rand.New(src)
		pool := make([]byte, 1<<14)
		_, _ = src.Read(pool)
		h := cbcHashes[[]string{"sha1", "sha256", "sha384", "sha512"}[hashName%4]]
		p := newHMACPair(t, r, Kernels()[int(hashName>>4)%len(Kernels())], h, 8+r.IntN(h().Size()-7))
		p.try(t, r, randomJobs(r, pool, p.tagLen, 1+int(n%64), int(size%9001)))
	})
}
