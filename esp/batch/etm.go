package batch

import (
	"crypto/subtle"
	"fmt"
	"hash"
	"slices"
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

// MAC makes what one goroutine authenticates with.
type MAC struct {
	make func() (hash.Hash, error) // its Sum is the tag, and its Reset keeps the key
	// lanes makes what computes tags of tagLen octets side by side, nil if there is nothing.
	lanes func(kernel string, tagLen int) tagger
}

// tagger computes tags of many jobs side by side.
type tagger interface {
	// knows says whether it can do a job.
	knows(j *Job) bool
	// few is from how many jobs on it is faster than one after another.
	few() int
	// tags writes the tags of jobs that it knows, or with open compares them and sets OK.
	tags(jobs []Job, open bool)
}

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
	lanes  tagger // may be nil
}

// NewEncryptThenMAC makes a key of a cipher and a MAC over Head, the ciphertext and Tail, cut to tagLen octets.
func NewEncryptThenMAC(c Cipher, m MAC, tagLen int) (Key, error) {
	return NewEncryptThenMACFor(chosen, c, m, tagLen)
}

// NewEncryptThenMACFor is NewEncryptThenMAC for one of Kernels.
func NewEncryptThenMACFor(kernel string, c Cipher, m MAC, tagLen int) (Key, error) {
	if !slices.Contains(available, kernel) {
		return nil, fmt.Errorf("this machine has no kernel %q", kernel)
	}
	e := &etm{cipher: c, mac: m, tagLen: tagLen}
	states, err := seeded(e.newState)
	if err != nil {
		return nil, err
	}
	if size := states.free[0].mac.Size(); tagLen < 1 || tagLen > size {
		return nil, fmt.Errorf("tag of %d octets from a mac of %d", tagLen, size)
	}
	e.states = states
	if m.lanes != nil {
		e.lanes = m.lanes(kernel, tagLen)
	}
	return e, nil
}

func (e *etm) newState() (*etmState, error) {
	c, err := e.cipher.make()
	if err != nil {
		return nil, err
	}
	m, err := e.mac.make()
	if err != nil {
		return nil, err
	}
	m.Reset()
	return &etmState{crypter: c, mac: m}, nil
}

func (e *etm) TagLen() int { return e.tagLen }

// run is how many jobs from the first on have their tags made side by side. Zero: the first one goes alone.
func (e *etm) run(jobs []Job) int {
	if e.lanes == nil || len(jobs) < e.lanes.few() {
		return 0
	}
	n := 0
	for n < len(jobs) && e.lanes.knows(&jobs[n]) {
		n++
	}
	if n < e.lanes.few() {
		return 0
	}
	return n
}

func (e *etm) Seal(jobs []Job) {
	s := e.states.get()
	for len(jobs) > 0 {
		n := e.run(jobs)
		for i := range max(n, 1) {
			s.crypter.seal(&jobs[i].IV, jobs[i].Text)
		}
		if n > 0 {
			e.lanes.tags(jobs[:n], false)
		} else {
			j := &jobs[0]
			copy(j.Text[len(j.Text):len(j.Text)+e.tagLen], s.tag(j))
		}
		jobs = jobs[max(n, 1):]
	}
	e.states.put(s)
}

func (e *etm) Open(jobs []Job) {
	s := e.states.get()
	for len(jobs) > 0 {
		n := e.run(jobs)
		if n > 0 {
			e.lanes.tags(jobs[:n], true)
		} else {
			j := &jobs[0]
			j.OK = subtle.ConstantTimeCompare(j.Text[len(j.Text):len(j.Text)+e.tagLen], s.tag(j)[:e.tagLen]) == 1
		}
		for i := range max(n, 1) {
			j := &jobs[i]
			if j.OK = j.OK && len(j.Text)%e.cipher.block == 0; j.OK {
				s.crypter.open(&j.IV, j.Text)
			}
		}
		jobs = jobs[max(n, 1):]
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
