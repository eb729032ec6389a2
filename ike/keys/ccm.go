package keys

import (
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"errors"
)

// ccm is AES-CCM (RFC 3610) as IKE uses it (RFC 5282, section 5): nonces of 11 octets, so that a length has 4; tags of 8, 12 or
// 16 octets. IKE's messages are short and few, so it is written for clarity.
type ccm struct {
	block  cipher.Block
	tagLen int
}

const (
	ccmNonce  = 11
	ccmLength = 15 - ccmNonce // octets of the message's length
)

var errCCM = errors.New("message authentication failed")

func (c ccm) NonceSize() int { return ccmNonce }
func (c ccm) Overhead() int  { return c.tagLen }

// tag is the CBC-MAC over the first block, the associated data and the plaintext.
func (c ccm) tag(nonce, plain, extra []byte) (x [16]byte) {
	first := [16]byte{0: byte((c.tagLen-2)/2<<3 | (ccmLength - 1))}
	if len(extra) > 0 {
		first[0] |= 1 << 6
	}
	copy(first[1:], nonce)
	binary.BigEndian.PutUint32(first[1+ccmNonce:], uint32(len(plain)))
	c.absorb(&x, first[:])
	if len(extra) > 0 { // below 65280 octets: IKE messages are below 65536, and what is outside SK is a header
		c.absorb(&x, append(binary.BigEndian.AppendUint16(nil, uint16(len(extra))), extra...))
	}
	c.absorb(&x, plain)
	return x
}

// absorb adds whole blocks, the last padded with zeros.
func (c ccm) absorb(x *[16]byte, p []byte) {
	for len(p) > 0 {
		n := subtle.XORBytes(x[:], x[:], p[:min(len(p), len(x))])
		c.block.Encrypt(x[:], x[:])
		p = p[n:]
	}
}

// stream is the counter mode from block 1 on; block 0 encrypts the tag.
func (c ccm) stream(nonce []byte) (s cipher.Stream, zero [16]byte) {
	a := [16]byte{0: ccmLength - 1}
	copy(a[1:], nonce)
	c.block.Encrypt(zero[:], a[:])
	a[15] = 1
	return cipher.NewCTR(c.block, a[:]), zero
}

const maxCCMExtra = 0xfeff // octets of associated data whose length has two

func (c ccm) Seal(dst, nonce, plain, extra []byte) []byte {
	if len(nonce) != ccmNonce || len(extra) > maxCCMExtra {
		panic("ccm: bad nonce or associated data")
	}
	tag := c.tag(nonce, plain, extra)
	s, zero := c.stream(nonce)
	subtle.XORBytes(tag[:], tag[:], zero[:])
	out := append(dst, plain...)
	s.XORKeyStream(out[len(dst):], out[len(dst):])
	return append(out, tag[:c.tagLen]...)
}

func (c ccm) Open(dst, nonce, sealed, extra []byte) ([]byte, error) {
	if len(nonce) != ccmNonce || len(sealed) < c.tagLen || len(extra) > maxCCMExtra {
		return nil, errCCM
	}
	text, got := sealed[:len(sealed)-c.tagLen], sealed[len(sealed)-c.tagLen:]
	s, zero := c.stream(nonce)
	plain := make([]byte, len(text))
	s.XORKeyStream(plain, text)
	tag := c.tag(nonce, plain, extra)
	subtle.XORBytes(tag[:], tag[:], zero[:])
	if subtle.ConstantTimeCompare(tag[:c.tagLen], got) != 1 {
		clear(plain)
		return nil, errCCM
	}
	return append(dst, plain...), nil
}
