package batch

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/subtle"
	"fmt"
	"hash"
)

// The MACs of encrypt-then-MAC: HMAC (RFC 2104) with any hash, and two of AES's CBC-MAC.

// HMAC with a hash and a key.
func HMAC(h func() hash.Hash, key []byte) MAC {
	key = append([]byte(nil), key...)
	return MAC{
		make:  func() (hash.Hash, error) { return hmac.New(h, key), nil },
		lanes: func(kernel string, tagLen int) tagger { return newTagger(kernel, key, h, tagLen) },
	}
}

// CMAC is AES-CMAC with a key of 16 octets (RFC 4493).
func CMAC(key []byte) (MAC, error) {
	b, err := macBlock(key)
	if err != nil {
		return MAC{}, err
	}
	var whole, partial [aes.BlockSize]byte
	b.Encrypt(whole[:], whole[:])
	doubled(&whole)
	partial = whole
	doubled(&partial)
	return cbcMAC(b, whole, partial), nil
}

// doubled multiplies by x in GF(2^128), most significant bit first (RFC 4493, section 2.3).
func doubled(k *[aes.BlockSize]byte) {
	carry := byte(0)
	for i := len(k) - 1; i >= 0; i-- {
		k[i], carry = k[i]<<1|carry, k[i]>>7
	}
	k[len(k)-1] ^= 0x87 & -carry
}

// XCBC is AES-XCBC-MAC with a key of 16 octets (RFC 3566).
func XCBC(key []byte) (MAC, error) {
	b, err := macBlock(key)
	if err != nil {
		return MAC{}, err
	}
	var k [3][aes.BlockSize]byte
	for i := range k {
		for j := range k[i] {
			k[i][j] = byte(i + 1)
		}
		b.Encrypt(k[i][:], k[i][:])
	}
	if b, err = macBlock(k[0][:]); err != nil {
		return MAC{}, err
	}
	return cbcMAC(b, k[1], k[2]), nil
}

func macBlock(key []byte) (cipher.Block, error) {
	if len(key) != 16 {
		return nil, fmt.Errorf("aes mac key of %d octets: use 16", len(key))
	}
	return aes.NewCipher(key)
}

// chain is a CBC-MAC whose last block is masked: by whole if it is a whole block, by partial if it had to be padded.
type chain struct {
	enc            cbcMode
	whole, partial [aes.BlockSize]byte
	last           [aes.BlockSize]byte // what of the message is not in state yet: at least an octet once there was one
	n              int                 // octets in last
	scratch        [32 * aes.BlockSize]byte
}

var zeroBlock [aes.BlockSize]byte

func cbcMAC(b cipher.Block, whole, partial [aes.BlockSize]byte) MAC {
	return MAC{make: func() (hash.Hash, error) {
		enc, _, err := cbcModes(b)
		return &chain{enc: enc, whole: whole, partial: partial}, err
	}}
}

func (c *chain) Size() int      { return aes.BlockSize }
func (c *chain) BlockSize() int { return aes.BlockSize }

func (c *chain) Reset() {
	c.enc.SetIV(zeroBlock[:])
	c.n = 0
}

// Write never fails.
func (c *chain) Write(p []byte) (int, error) {
	size := len(p)
	k := copy(c.last[c.n:], p)
	c.n += k
	if p = p[k:]; len(p) == 0 {
		return size, nil
	}
	// More follows, so the block is not the last one; nor are those before the last octet.
	c.enc.CryptBlocks(c.last[:], c.last[:])
	for blocks := (len(p) - 1) / aes.BlockSize * aes.BlockSize; blocks > 0; {
		n := min(blocks, len(c.scratch))
		c.enc.CryptBlocks(c.scratch[:n], p[:n])
		p, blocks = p[n:], blocks-n
	}
	c.n = copy(c.last[:], p)
	return size, nil
}

// Sum ends the message: Reset must follow before more is written.
func (c *chain) Sum(b []byte) []byte {
	mask := &c.whole
	if c.n < aes.BlockSize {
		mask = &c.partial
		c.last[c.n] = 0x80
		clear(c.last[c.n+1:])
	}
	subtle.XORBytes(c.last[:], c.last[:], mask[:])
	c.enc.CryptBlocks(c.last[:], c.last[:])
	return append(b, c.last[:]...)
}
