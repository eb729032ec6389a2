package batch

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
)

// The ciphers of encrypt-then-MAC: none, any block cipher in CBC, AES in counter mode.

// NoCipher leaves texts as they are.
func NoCipher() Cipher {
	return Cipher{make: func() (crypter, error) { return noCipher{}, nil }, block: 1}
}

type noCipher struct{}

func (noCipher) seal(*[16]byte, []byte) {}
func (noCipher) open(*[16]byte, []byte) {}

// CBCCipher is a block cipher in CBC. Its IV is the first block of a job's; IVs must be unpredictable.
func CBCCipher(b cipher.Block) Cipher {
	return Cipher{block: b.BlockSize(), make: func() (crypter, error) {
		enc, dec, err := cbcModes(b)
		return &cbcCipher{enc, dec, b.BlockSize()}, err
	}}
}

type cbcCipher struct {
	enc, dec cbcMode
	block    int
}

func cbcModes(b cipher.Block) (enc, dec cbcMode, err error) {
	zero := make([]byte, b.BlockSize())
	enc, ok1 := cipher.NewCBCEncrypter(b, zero).(cbcMode)
	dec, ok2 := cipher.NewCBCDecrypter(b, zero).(cbcMode)
	if !ok1 || !ok2 {
		return nil, nil, errNoSetIV
	}
	return enc, dec, nil
}

func (c *cbcCipher) seal(iv *[16]byte, text []byte) {
	c.enc.SetIV(iv[:c.block])
	c.enc.CryptBlocks(text, text)
}

func (c *cbcCipher) open(iv *[16]byte, text []byte) {
	c.dec.SetIV(iv[:c.block])
	c.dec.CryptBlocks(text, text)
}

// CTRCipher is AES in counter mode with a key of 16, 24 or 32 octets: a counter block is the 12 octets of a job's IV and
// 32 bits that count from 1 (RFC 3686, section 4). An IV must never be used twice.
func CTRCipher(key []byte) (Cipher, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return Cipher{}, fmt.Errorf("aes-ctr key of %d octets: use 16, 24 or 32", len(key))
	}
	return Cipher{block: 1, make: func() (crypter, error) { return &ctrCipher{block: b}, nil }}, nil
}

type ctrCipher struct {
	block  cipher.Block
	count  [aes.BlockSize]byte
	stream [8 * aes.BlockSize]byte
}

func (c *ctrCipher) seal(iv *[16]byte, text []byte) {
	copy(c.count[:12], iv[:12])
	n := uint32(1)
	for len(text) > 0 {
		for at := 0; at < len(c.stream) && at < len(text); at += aes.BlockSize {
			binary.BigEndian.PutUint32(c.count[12:], n)
			n++
			c.block.Encrypt(c.stream[at:], c.count[:])
		}
		text = text[subtle.XORBytes(text, text, c.stream[:]):]
	}
}

func (c *ctrCipher) open(iv *[16]byte, text []byte) { c.seal(iv, text) }
