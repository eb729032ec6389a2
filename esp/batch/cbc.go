package batch

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/subtle"
	"errors"
	"fmt"
	"hash"
	"slices"
)

// cbcMode is what crypto/cipher's CBC modes of AES can do beyond the interface: begin anew without an allocation.
type cbcMode interface {
	cipher.BlockMode
	SetIV([]byte)
}

// cbcState is what one goroutine works with at a time.
type cbcState struct {
	enc, dec cbcMode
	mac      hash.Hash
	sum      [64]byte
}

type cbc struct {
	block  cipher.Block
	macKey []byte
	hash   func() hash.Hash
	tagLen int
	states *idle[cbcState]
}

// NewCBC makes a key for AES-CBC with HMAC over Head, the ciphertext and Tail, cut to tagLen octets. Text must be whole
// blocks of 16 octets; IVs must be unpredictable.
func NewCBC(key, macKey []byte, h func() hash.Hash, tagLen int) (Key, error) {
	return NewCBCFor(chosen, key, macKey, h, tagLen)
}

// NewCBCFor is NewCBC for one of Kernels.
func NewCBCFor(kernel string, key, macKey []byte, h func() hash.Hash, tagLen int) (Key, error) {
	if !slices.Contains(available, kernel) {
		return nil, fmt.Errorf("this machine has no kernel %q", kernel)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("aes-cbc key of %d octets: use 16, 24 or 32", len(key))
	}
	if size := h().Size(); tagLen < 1 || tagLen > size {
		return nil, fmt.Errorf("tag of %d octets from a hash of %d", tagLen, size)
	}
	c := &cbc{block: block, macKey: append([]byte(nil), macKey...), hash: h, tagLen: tagLen}
	if c.states, err = seeded(c.newState); err != nil {
		return nil, err
	}
	if wide := newWideCBC(kernel, key, macKey, h, c); wide != nil {
		return wide, nil
	}
	return c, nil
}

var errNoSetIV = errors.New("crypto/cipher's cbc mode has no SetIV: built with another go release")

func (c *cbc) newState() (*cbcState, error) {
	var zero [aes.BlockSize]byte
	enc, ok1 := cipher.NewCBCEncrypter(c.block, zero[:]).(cbcMode)
	dec, ok2 := cipher.NewCBCDecrypter(c.block, zero[:]).(cbcMode)
	if !ok1 || !ok2 {
		return nil, errNoSetIV
	}
	s := &cbcState{enc: enc, dec: dec, mac: hmac.New(c.hash, c.macKey)}
	s.mac.Reset()
	return s, nil
}

func (c *cbc) TagLen() int { return c.tagLen }

func (c *cbc) Seal(jobs []Job) {
	s := c.states.get()
	for i := range jobs {
		j := &jobs[i]
		s.enc.SetIV(j.IV[:])
		s.enc.CryptBlocks(j.Text, j.Text)
		copy(j.Text[len(j.Text):len(j.Text)+c.tagLen], s.tag(j))
	}
	c.states.put(s)
}

func (c *cbc) Open(jobs []Job) {
	s := c.states.get()
	for i := range jobs {
		j := &jobs[i]
		tag := j.Text[len(j.Text) : len(j.Text)+c.tagLen]
		j.OK = len(j.Text)%aes.BlockSize == 0 && subtle.ConstantTimeCompare(tag, s.tag(j)[:c.tagLen]) == 1
		if j.OK {
			s.dec.SetIV(j.IV[:])
			s.dec.CryptBlocks(j.Text, j.Text)
		}
	}
	c.states.put(s)
}

func (s *cbcState) tag(j *Job) []byte {
	s.mac.Reset()
	s.mac.Write(j.Head)
	s.mac.Write(j.Text)
	s.mac.Write(j.Tail)
	return s.mac.Sum(s.sum[:0])
}
