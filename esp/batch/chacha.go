package batch

import (
	"crypto/cipher"
	"fmt"
	"slices"

	"golang.org/x/crypto/chacha20poly1305"
)

// chacha is ChaCha20-Poly1305 by x/crypto, one job after another.
type chacha struct{ aead cipher.AEAD }

// NewChaCha20Poly1305 makes a key of 32 octets for ChaCha20-Poly1305 (RFC 8439, section 2.8) with nonces of 12 octets and
// a tag of 16, for the kernel that Kernel names. An IV must never be used twice. When a tag is wrong, Open clears the job's Text.
func NewChaCha20Poly1305(key []byte) (Key, error) { return NewChaCha20Poly1305For(chosen, key) }

// NewChaCha20Poly1305For is NewChaCha20Poly1305 for one of Kernels.
func NewChaCha20Poly1305For(kernel string, key []byte) (Key, error) {
	if !slices.Contains(available, kernel) {
		return nil, fmt.Errorf("this machine has no kernel %q", kernel)
	}
	aead, err := chacha20poly1305.New(key)
	if err != nil {
		return nil, fmt.Errorf("chacha20-poly1305 key of %d octets: use 32", len(key))
	}
	c := &chacha{aead}
	if wide := newWideChaCha(kernel, key, c); wide != nil {
		return wide, nil
	}
	return c, nil
}

func (c *chacha) TagLen() int { return chacha20poly1305.Overhead }

func (c *chacha) Seal(jobs []Job) {
	for i := range jobs {
		j := &jobs[i]
		c.aead.Seal(j.Text[:0], j.IV[:chacha20poly1305.NonceSize], j.Text, j.Head)
	}
}

func (c *chacha) Open(jobs []Job) {
	for i := range jobs {
		j := &jobs[i]
		_, err := c.aead.Open(j.Text[:0], j.IV[:chacha20poly1305.NonceSize], j.Text[:len(j.Text)+chacha20poly1305.Overhead], j.Head)
		j.OK = err == nil
	}
}
