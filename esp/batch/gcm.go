package batch

import (
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"slices"
)

const (
	gcmTagLen   = 16
	gcmNonceLen = 12
)

// gcm is AES-GCM by crypto/cipher, one job after another.
type gcm struct{ aead cipher.AEAD }

// NewGCM makes an AES-GCM key of 16, 24 or 32 octets, with a tag of 16, for the kernel that Kernel names. An IV must never
// be used twice. When a tag is wrong, Open clears the job's Text.
func NewGCM(key []byte) (Key, error) { return NewGCMFor(chosen, key) }

// NewGCMFor is NewGCM for one of Kernels.
func NewGCMFor(kernel string, key []byte) (Key, error) {
	if !slices.Contains(available, kernel) {
		return nil, fmt.Errorf("this machine has no kernel %q", kernel)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("aes-gcm key of %d octets: use 16, 24 or 32", len(key))
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	g := &gcm{aead}
	if wide := newWideGCM(kernel, key, g); wide != nil {
		return wide, nil
	}
	return g, nil
}

func (g *gcm) TagLen() int { return gcmTagLen }

func (g *gcm) Seal(jobs []Job) {
	for i := range jobs {
		j := &jobs[i]
		g.aead.Seal(j.Text[:0], j.IV[:gcmNonceLen], j.Text, j.Head)
	}
}

func (g *gcm) Open(jobs []Job) {
	for i := range jobs {
		j := &jobs[i]
		_, err := g.aead.Open(j.Text[:0], j.IV[:gcmNonceLen], j.Text[:len(j.Text)+gcmTagLen], j.Head)
		j.OK = err == nil
	}
}
