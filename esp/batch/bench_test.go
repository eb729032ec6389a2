package batch

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"hash"
	"testing"
)

// packets are n jobs as ESP makes them, sealed with k.
func packets(k Key, n, head, size int) []Job {
	jobs := make([]Job, n)
	for i := range jobs {
		jobs[i] = job(make([]byte, head), make([]byte, size), k.TagLen())
		jobs[i].IV[0] = byte(i)
	}
	k.Seal(jobs)
	return jobs
}

// BenchmarkGCM measures every kernel of the machine; generic and aesni are Go's own cipher, one packet after another.
func BenchmarkGCM(b *testing.B) {
	for _, kernel := range Kernels() {
		for _, bits := range []int{128, 256} {
			k, err := NewGCMFor(kernel, make([]byte, bits/8))
			if err != nil {
				b.Fatal(err)
			}
			for _, size := range []int{64, 256, 576, 1408, 8960} {
				for _, n := range []int{1, 8, 32} {
					jobs := packets(k, n, 8, size)
					b.Run(fmt.Sprintf("seal/%s/%d/%d/x%d", kernel, bits, size, n), func(b *testing.B) {
						b.SetBytes(int64(n * size))
						for b.Loop() {
							k.Seal(jobs)
						}
					})
					b.Run(fmt.Sprintf("open/%s/%d/%d/x%d", kernel, bits, size, n), func(b *testing.B) {
						tags := bothTags(b, k, jobs)
						b.SetBytes(int64(n * size))
						for i := 0; b.Loop(); i++ {
							for j := range jobs {
								copy(jobs[j].Text[size:size+gcmTagLen], tags[i&1][j][:])
							}
							k.Open(jobs)
						}
						if !jobs[0].OK {
							b.Fatal("a good tag was refused")
						}
					})
				}
			}
		}
	}
}

// bothTags are the tags of the jobs' texts as they are, and of the texts that opening makes of them: opened again, those
// become what they were.
func bothTags(b testing.TB, k Key, jobs []Job) (tags [2][][gcmTagLen]byte) {
	b.Helper()
	for turn := range 4 {
		k.Seal(jobs) // changes the texts and writes the tags of the new ones
		if turn < 2 {
			continue
		}
		for i := range jobs {
			tags[turn&1] = append(tags[turn&1], [gcmTagLen]byte(jobs[i].Text[len(jobs[i].Text):len(jobs[i].Text)+gcmTagLen]))
		}
	}
	tags[0], tags[1] = tags[1], tags[0] // the last sealing is the one to open first
	return tags
}

// BenchmarkCBC measures what NewCBC gives, and Go's own code.
func BenchmarkCBC(b *testing.B) {
	for name, h := range map[string]func() hash.Hash{"sha1": sha1.New, "sha256": sha256.New} {
		k, err := NewCBC(make([]byte, 16), make([]byte, 32), h, 12)
		if err != nil {
			b.Fatal(err)
		}
		for _, size := range []int{64, 1408, 8960} {
			for _, n := range []int{1, 8, 32} {
				jobs := packets(k, n, 24, size)
				b.Run(fmt.Sprintf("seal/%s/%d/x%d", name, size, n), func(b *testing.B) {
					b.SetBytes(int64(n * size))
					for b.Loop() {
						k.Seal(jobs)
					}
				})
			}
			b.Run(fmt.Sprintf("seal/%s/%d/go", name, size), func(b *testing.B) {
				block, err := aes.NewCipher(make([]byte, 16))
				if err != nil {
					b.Fatal(err)
				}
				j, mac, sum := packets(k, 1, 24, size)[0], hmac.New(h, make([]byte, 32)), make([]byte, 0, 32)
				b.SetBytes(int64(size))
				for b.Loop() {
					cipher.NewCBCEncrypter(block, j.IV[:]).CryptBlocks(j.Text, j.Text)
					mac.Reset()
					mac.Write(j.Head)
					mac.Write(j.Text)
					copy(j.Text[size:size+12], mac.Sum(sum))
				}
			})
		}
	}
}
