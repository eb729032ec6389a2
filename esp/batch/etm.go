package batch

import (
	"crypto/subtle"
	"fmt"
	"hash"
)

// Encrypt-then-MAC of any cipher and any MAC, one job after another: the generic way for what has no kernel of its own.

// crypter encrypts and decrypts texts in place. It belongs to one goroutine at a time.
type crypter interface {
	seal(iv *[16]byte, text []byte)
	open(iv *[16]byte, text []byte)
}

// Cipher makes what one goroutine encrypts with.
type Cipher struct {
	make  func() (crypter, error)
	block int // texts are whole blocks of so many octets
}

// MAC makes what one goroutine authenticates with: a hash.Hash whose Sum is the tag, and whose Reset keeps its key.
type MAC func() (hash.Hash, error)

type etmState struct {
	crypter crypter
	mac     hash.Hash
	sum     [64]byte
}

type etm struct {
	cipher Cipher
	mac    MAC
	tagLen int
	states *idle[etmState]
}

// NewEncryptThenMAC makes a key of a cipher and a MAC over Head, the ciphertext and Tail, cut to tagLen octets.
func NewEncryptThenMAC(c Cipher, m MAC, tagLen int) (Key, error) {
	e := &etm{cipher: c, mac: m, tagLen: tagLen}
	states, err := seeded(e.newState)
	if err != nil {
		return nil, err
	}
	if size := states.free[0].mac.Size(); tagLen < 1 || tagLen > size {
		return nil, fmt.Errorf("tag of %d octets from a mac of %d", tagLen, size)
	}
	e.states = states
	return e, nil
}

func (e *etm) newState() (*etmState, error) {
	c, err := e.cipher.make()
	if err != nil {
		return nil, err
	}
	m, err := e.mac()
	if err != nil {
		return nil, err
	}
	m.Reset()
	return &etmState{crypter: c, mac: m}, nil
}

func (e *etm) TagLen() int { return e.tagLen }

func (e *etm) Seal(jobs []Job) {
	s := e.states.get()
	for i := range jobs {
		j := &jobs[i]
		s.crypter.seal(&j.IV, j.Text)
		copy(j.Text[len(j.Text):len(j.Text)+e.tagLen], s.tag(j))
	}
	e.states.put(s)
}

func (e *etm) Open(jobs []Job) {
	s := e.states.get()
	for i := range jobs {
		j := &jobs[i]
		tag := j.Text[len(j.Text) : len(j.Text)+e.tagLen]
		j.OK = len(j.Text)%e.cipher.block == 0 && subtle.ConstantTimeCompare(tag, s.tag(j)[:e.tagLen]) == 1
		if j.OK {
			s.crypter.open(&j.IV, j.Text)
		}
	}
	e.states.put(s)
}

func (s *etmState) tag(j *Job) []byte {
	s.mac.Reset()
	s.mac.Write(j.Head)
	s.mac.Write(j.Text)
	s.mac.Write(j.Tail)
	return s.mac.Sum(s.sum[:0])
}
