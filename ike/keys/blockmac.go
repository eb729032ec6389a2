package keys

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"hash"
)

// AES-XCBC-MAC (RFC 3566) and AES-CMAC (RFC 4493), whole: 16 octets. Both chain blocks, and mix one of two more subkeys into
// the last: the first if it is whole, the second after padding with a one and zeros.

type blockMAC struct {
	block cipher.Block
	k     [2][aes.BlockSize]byte
	state [aes.BlockSize]byte
	buf   [aes.BlockSize]byte // the last block so far, whole or in part
	n     int
}

// newXCBC takes a key of 16 octets: three subkeys are encryptions of constants.
func newXCBC(key []byte) hash.Hash {
	kdf := mustAES(key)
	sub := func(c byte) (out [aes.BlockSize]byte) {
		for i := range out {
			out[i] = c
		}
		kdf.Encrypt(out[:], out[:])
		return out
	}
	k1 := sub(1)
	return &blockMAC{block: mustAES(k1[:]), k: [2][aes.BlockSize]byte{sub(2), sub(3)}}
}

// newCMAC takes a key of 16 octets: two subkeys are a doubled encryption of zero.
func newCMAC(key []byte) hash.Hash {
	m := &blockMAC{block: mustAES(key)}
	var l [aes.BlockSize]byte
	m.block.Encrypt(l[:], l[:])
	m.k[0] = double(l)
	m.k[1] = double(m.k[0])
	return m
}

// double multiplies by x in GF(2^128).
func double(b [aes.BlockSize]byte) (out [aes.BlockSize]byte) {
	carry := byte(0)
	for i := len(b) - 1; i >= 0; i-- {
		out[i] = b[i]<<1 | carry
		carry = b[i] >> 7
	}
	out[len(out)-1] ^= 0x87 & -carry
	return out
}

// mustAES is for keys whose length the caller knows to be right.
func mustAES(key []byte) cipher.Block {
	b, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	return b
}

func (m *blockMAC) Write(p []byte) (int, error) {
	written := len(p)
	for len(p) > 0 {
		if m.n == len(m.buf) { // it was not the last
			subtle.XORBytes(m.state[:], m.state[:], m.buf[:])
			m.block.Encrypt(m.state[:], m.state[:])
			m.n = 0
		}
		k := copy(m.buf[m.n:], p)
		m.n, p = m.n+k, p[k:]
	}
	return written, nil
}

func (m *blockMAC) Sum(b []byte) []byte {
	last, k := m.buf, &m.k[0]
	if m.n < len(last) {
		clear(last[m.n:])
		last[m.n] = 0x80
		k = &m.k[1]
	}
	subtle.XORBytes(last[:], last[:], k[:])
	subtle.XORBytes(last[:], last[:], m.state[:])
	m.block.Encrypt(last[:], last[:])
	return append(b, last[:]...)
}

func (m *blockMAC) Reset()         { m.state, m.n = [aes.BlockSize]byte{}, 0 }
func (m *blockMAC) Size() int      { return aes.BlockSize }
func (m *blockMAC) BlockSize() int { return aes.BlockSize }

// prfXCBC and prfCMAC take keys of any length (RFC 4434, section 2; RFC 4615, section 3).
func prfXCBC(key []byte) hash.Hash {
	switch {
	case len(key) > aes.BlockSize:
		m := newXCBC(make([]byte, aes.BlockSize))
		_, _ = m.Write(key) // never fails
		key = m.Sum(nil)
	case len(key) < aes.BlockSize:
		key = append(append(make([]byte, 0, aes.BlockSize), key...), make([]byte, aes.BlockSize-len(key))...)
	}
	return newXCBC(key)
}

func prfCMAC(key []byte) hash.Hash {
	if len(key) != aes.BlockSize {
		m := newCMAC(make([]byte, aes.BlockSize))
		_, _ = m.Write(key) // never fails
		key = m.Sum(nil)
	}
	return newCMAC(key)
}
