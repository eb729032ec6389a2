package batch

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
)

// AES-CCM (NIST SP 800-38C, RFC 3610), one job after another: a CBC-MAC over the plaintext, then counter mode over it and
// the tag.

type ccm struct {
	block            cipher.Block
	tagLen, nonceLen int
	states           *idle[ccmState]
}

// ccmState is what one goroutine works with at a time.
type ccmState struct {
	block  cipher.Block
	enc    cbcMode
	mac    [aes.BlockSize]byte
	count  [aes.BlockSize]byte
	first  [aes.BlockSize]byte // key stream of the tag
	buf    [32 * aes.BlockSize]byte
	n      int // octets in buf that wait for more
	stream [8 * aes.BlockSize]byte
}

// NewCCM makes an AES-CCM key of 16, 24 or 32 octets with tags of 4 to 16 octets, an even number, and nonces of 7 to 13.
// Texts are shorter than 2^(8*(15-nonceLen)) octets, heads than 65,280. An IV must never be used twice. When a tag is wrong,
// Open clears the job's Text.
func NewCCM(key []byte, tagLen, nonceLen int) (Key, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("aes-ccm key of %d octets: use 16, 24 or 32", len(key))
	}
	if tagLen < 4 || tagLen > 16 || tagLen%2 != 0 || nonceLen < 7 || nonceLen > 13 {
		return nil, fmt.Errorf("aes-ccm has no tags of %d octets with nonces of %d", tagLen, nonceLen)
	}
	c := &ccm{block: b, tagLen: tagLen, nonceLen: nonceLen}
	if c.states, err = seeded(c.newState); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *ccm) newState() (*ccmState, error) {
	enc, _, err := cbcModes(c.block)
	return &ccmState{block: c.block, enc: enc}, err
}

func (c *ccm) TagLen() int { return c.tagLen }

func (c *ccm) Seal(jobs []Job) {
	s := c.states.get()
	for i := range jobs {
		j := &jobs[i]
		s.authenticate(j, c.tagLen, c.nonceLen)
		s.crypt(j, c.nonceLen)
		subtle.XORBytes(j.Text[len(j.Text):len(j.Text)+c.tagLen], s.mac[:c.tagLen], s.first[:])
	}
	c.states.put(s)
}

func (c *ccm) Open(jobs []Job) {
	s := c.states.get()
	for i := range jobs {
		j := &jobs[i]
		s.crypt(j, c.nonceLen)
		s.authenticate(j, c.tagLen, c.nonceLen)
		subtle.XORBytes(s.mac[:], s.mac[:], s.first[:])
		j.OK = subtle.ConstantTimeCompare(s.mac[:c.tagLen], j.Text[len(j.Text):len(j.Text)+c.tagLen]) == 1
		if !j.OK {
			clear(j.Text)
		}
	}
	c.states.put(s)
}

// authenticate computes the CBC-MAC of a job (RFC 3610, section 2.2).
func (s *ccmState) authenticate(j *Job, tagLen, nonceLen int) {
	s.enc.SetIV(zeroBlock[:])
	s.n = aes.BlockSize
	b0 := s.buf[:aes.BlockSize]
	// Up to 8 octets for the length, of which the first 15-nonceLen-1 may be those of the nonce.
	binary.BigEndian.PutUint64(b0[8:], uint64(len(j.Text)))
	b0[0] = byte((tagLen-2)/2<<3 | (14 - nonceLen))
	if len(j.Head) > 0 {
		b0[0] |= 0x40
	}
	copy(b0[1:], j.IV[:nonceLen])
	if len(j.Head) > 0 {
		s.buf[s.n], s.buf[s.n+1] = byte(len(j.Head)>>8), byte(len(j.Head))
		s.n += 2
		s.write(j.Head)
		s.pad()
	}
	s.write(j.Text)
	s.pad()
	s.flush()
}

func (s *ccmState) write(p []byte) {
	for len(p) > 0 {
		if s.n == len(s.buf) {
			s.flush()
		}
		k := copy(s.buf[s.n:], p)
		s.n += k
		p = p[k:]
	}
}

// pad fills the block with zeros.
func (s *ccmState) pad() {
	end := (s.n + aes.BlockSize - 1) / aes.BlockSize * aes.BlockSize
	clear(s.buf[s.n:end])
	s.n = end
}

// flush takes the whole blocks of buf into the MAC; there are no others when it is called.
func (s *ccmState) flush() {
	if s.n == 0 {
		return
	}
	s.enc.CryptBlocks(s.buf[:s.n], s.buf[:s.n])
	copy(s.mac[:], s.buf[s.n-aes.BlockSize:s.n])
	s.n = 0
}

// crypt is counter mode with counters from 1 on; the key stream at 0 is for the tag (RFC 3610, section 2.3).
func (s *ccmState) crypt(j *Job, nonceLen int) {
	clear(s.count[:])
	s.count[0] = byte(14 - nonceLen)
	copy(s.count[1:], j.IV[:nonceLen])
	s.block.Encrypt(s.first[:], s.count[:])
	low := binary.BigEndian.Uint64(s.count[8:])
	for text := j.Text; len(text) > 0; {
		for at := 0; at < len(s.stream) && at < len(text); at += aes.BlockSize {
			low++
			binary.BigEndian.PutUint64(s.count[8:], low)
			s.block.Encrypt(s.stream[at:], s.count[:])
		}
		text = text[subtle.XORBytes(text, text, s.stream[:]):]
	}
}
