package keys

import (
	"crypto/cipher"
	"crypto/subtle"
	"errors"
)

// shortGCM is AES-GCM with an ICV of 8 octets (RFC 5282, section 3.2), which the standard library does not make: the first
// 8 octets of the full one. To open a message it is decrypted in counter mode and sealed again for comparison.
type shortGCM struct {
	cipher.AEAD
	block cipher.Block
}

const shortTag = 8

var errShortTag = errors.New("integrity check failed")

func (g shortGCM) Overhead() int { return shortTag }

// Seal is cipher.AEAD's; the full tag is cut.
func (g shortGCM) Seal(dst, nonce, plain, aad []byte) []byte {
	out := g.AEAD.Seal(nil, nonce, plain, aad)
	return append(dst, out[:len(plain)+shortTag]...)
}

// Open is cipher.AEAD's. Nothing of an unauthentic message is returned.
func (g shortGCM) Open(dst, nonce, sealed, aad []byte) ([]byte, error) {
	if len(sealed) < shortTag {
		return nil, errShortTag
	}
	text, tag := sealed[:len(sealed)-shortTag], sealed[len(sealed)-shortTag:]
	plain := make([]byte, len(text))
	// NIST SP 800-38D, section 7.1: with a nonce of 96 bits the text begins at counter 2.
	cipher.NewCTR(g.block, append(append(make([]byte, 0, 16), nonce...), 0, 0, 0, 2)).XORKeyStream(plain, text)
	again := g.AEAD.Seal(nil, nonce, plain, aad)
	if subtle.ConstantTimeCompare(again[len(plain):len(plain)+shortTag], tag) != 1 {
		clear(plain)
		return nil, errShortTag
	}
	return append(dst, plain...), nil
}
