package batch

import (
	"crypto/subtle"
	"fmt"
)

// AES-GCM whose tag is cut to fewer than 16 octets (NIST SP 800-38D, appendix C), and GMAC. Both work in a buffer of their
// own: behind a text there is room for a cut tag only, and what GMAC authenticates must lie in one piece.

// roomFor is what a buffer holds at first, octets: an IP packet with its tag.
const roomFor = 2048

// buffered is the pool of buffers, one for each goroutine that is at work.
type buffered struct{ idle[buffer] }

type buffer struct {
	octets []byte
	jobs   [1]Job
}

func newBuffer() (*buffer, error) { return &buffer{octets: make([]byte, roomFor)}, nil }

// put forgets what the buffer was used for.
func (b *buffered) put(s *buffer) {
	s.jobs[0] = Job{}
	b.idle.put(s)
}

// room for n octets and a whole tag behind them.
func (s *buffer) room(n int) []byte {
	if len(s.octets) < n+gcmTagLen {
		s.octets = make([]byte, 2*n+gcmTagLen)
	}
	return s.octets[:n]
}

type gcmCut struct {
	whole  Key
	tagLen int
	pool   buffered
}

// NewGCMCut is NewGCM with a tag of 4 to 15 octets.
func NewGCMCut(key []byte, tagLen int) (Key, error) {
	if tagLen < 4 || tagLen >= gcmTagLen {
		return nil, fmt.Errorf("aes-gcm has no cut tags of %d octets", tagLen)
	}
	whole, err := NewGCM(key)
	if err != nil {
		return nil, err
	}
	return &gcmCut{whole: whole, tagLen: tagLen, pool: buffered{idle[buffer]{fresh: newBuffer}}}, nil
}

func (g *gcmCut) TagLen() int { return g.tagLen }

// seal encrypts a copy of text for the job, into the buffer, with the whole tag behind it.
func (s *buffer) seal(k Key, j *Job, head, text []byte) []byte {
	c := &s.jobs[0]
	c.Head, c.Text, c.IV = head, s.room(len(text)), j.IV
	copy(c.Text, text)
	k.Seal(s.jobs[:])
	return s.octets[:len(text)+gcmTagLen]
}

func (g *gcmCut) Seal(jobs []Job) {
	s := g.pool.get()
	for i := range jobs {
		j := &jobs[i]
		copy(j.Text[:len(j.Text)+g.tagLen], s.seal(g.whole, j, j.Head, j.Text))
	}
	g.pool.put(s)
}

// Open decrypts by encrypting again: what is added to a text is the same key stream both ways. Encrypting what comes out
// gives the tag to compare with.
func (g *gcmCut) Open(jobs []Job) {
	s := g.pool.get()
	for i := range jobs {
		j := &jobs[i]
		n := len(j.Text)
		tag := j.Text[n : n+g.tagLen]
		copy(j.Text, s.seal(g.whole, j, j.Head, j.Text)[:n])
		want := s.seal(g.whole, j, j.Head, j.Text)[n : n+g.tagLen]
		j.OK = subtle.ConstantTimeCompare(tag, want) == 1
		if !j.OK {
			clear(j.Text)
		}
	}
	g.pool.put(s)
}

type gmac struct {
	whole Key
	pool  buffered
}

// NewGMAC makes a key that authenticates Head and Text by AES-GMAC, with a tag of 16 octets, and encrypts nothing. An IV,
// of 12 octets, must never be used twice.
func NewGMAC(key []byte) (Key, error) {
	whole, err := NewGCM(key)
	if err != nil {
		return nil, err
	}
	return &gmac{whole: whole, pool: buffered{idle[buffer]{fresh: newBuffer}}}, nil
}

func (g *gmac) TagLen() int { return gcmTagLen }

// tag of a job, valid until the buffer is used again.
func (g *gmac) tag(s *buffer, j *Job) []byte {
	n := len(j.Head) + len(j.Text)
	all := s.room(n)
	copy(all[copy(all, j.Head):], j.Text)
	c := &s.jobs[0]
	c.Head, c.Text, c.IV = all, s.octets[n:n], j.IV
	g.whole.Seal(s.jobs[:])
	return s.octets[n : n+gcmTagLen]
}

func (g *gmac) Seal(jobs []Job) {
	s := g.pool.get()
	for i := range jobs {
		j := &jobs[i]
		copy(j.Text[len(j.Text):len(j.Text)+gcmTagLen], g.tag(s, j))
	}
	g.pool.put(s)
}

func (g *gmac) Open(jobs []Job) {
	s := g.pool.get()
	for i := range jobs {
		j := &jobs[i]
		j.OK = subtle.ConstantTimeCompare(g.tag(s, j), j.Text[len(j.Text):len(j.Text)+gcmTagLen]) == 1
	}
	g.pool.put(s)
}
