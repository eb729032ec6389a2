package batch

import (
	"crypto/aes"
	"crypto/subtle"
	"hash"
	"unsafe"

	"golang.org/x/sys/cpu"
)

const (
	cbcLanes = 16 // as many texts are encrypted side by side at most
	cbcHalf  = 8  // without 512-bit registers, and few
)

// cbcLane is one of the texts that cbcSeal and cbcSealWide encrypt. The assembly knows text's and iv's offsets, and the size.
type cbcLane struct {
	text unsafe.Pointer
	left int // blocks
	iv   [16]byte
}

var (
	_ [32]struct{} = [unsafe.Sizeof(cbcLane{})]struct{}{}
	_ [16]struct{} = [unsafe.Offsetof(cbcLane{}.iv)]struct{}{}
)

// wideCBC encrypts 16 or eight packets side by side, hashes as many as mac does, and decrypts eight blocks of one. What it does not know goes to
// slow: jobs that mac does not know, and where there is no mac or too few jobs for it, the tags.
type wideCBC struct {
	slow     *cbc
	enc, dec [16][16]byte // round keys
	rounds   int
	wide     bool     // cbcSealWide may be used
	mac      *wideMAC // nil: the hash has no lanes
}

func newWideCBC(kernel string, key, macKey []byte, h func() hash.Hash, slow *cbc) Key {
	if kernel == Generic || !cpu.X86.HasAES || !cpu.X86.HasAVX {
		return nil
	}
	w := &wideCBC{slow: slow, rounds: len(key)/4 + 6, wide: kernel == VAES512, mac: newWideMAC(kernel, macKey, h, slow.tagLen)}
	expand(key, &w.enc)
	for r := range w.rounds + 1 {
		w.dec[r] = w.enc[w.rounds-r]
		if r > 0 && r < w.rounds {
			aesInverseKey(&w.dec[r][0])
		}
	}
	return w
}

func (w *wideCBC) TagLen() int { return w.slow.tagLen }

// knows says whether the lanes can do a job, and panics as slicing does if there is no room for its tag.
func (w *wideCBC) knows(j *Job) bool {
	n := len(j.Text)
	_ = j.Text[:n+w.slow.tagLen]
	return n%aes.BlockSize == 0 && (w.mac == nil || w.mac.knows(j))
}

// behind says whether text begins where head ends.
func behind(head, text []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(head)))+uintptr(len(head)) == uintptr(unsafe.Pointer(unsafe.SliceData(text)))
}

// cbcShort is the text, octets, up to which a packet alone is not worth the lanes.
const cbcShort = 256

// run is how many jobs from the first on the lanes can do.
func (w *wideCBC) run(jobs []Job) int {
	if len(jobs) == 1 && len(jobs[0].Text) <= cbcShort {
		return 0
	}
	for i := range jobs {
		if !w.knows(&jobs[i]) {
			return i
		}
	}
	return len(jobs)
}

// tagsInLanes says whether mac makes the tags of so many jobs.
func (w *wideCBC) tagsInLanes(jobs int) bool {
	return w.mac != nil && (w.mac.sha.pairs || jobs >= w.mac.few())
}

func (w *wideCBC) Seal(jobs []Job) {
	for len(jobs) > 0 {
		n := w.run(jobs)
		if n > 0 {
			w.seal(jobs[:n])
		} else {
			n = 1
			w.slow.Seal(jobs[:1])
		}
		jobs = jobs[n:]
	}
}

func (w *wideCBC) seal(jobs []Job) {
	w.encrypt(jobs)
	if w.tagsInLanes(len(jobs)) {
		w.mac.tags(jobs, false)
		return
	}
	s := w.slow.states.get()
	for i := range jobs {
		j := &jobs[i]
		copy(j.Text[len(j.Text):len(j.Text)+w.slow.tagLen], s.tag(j))
	}
	w.slow.states.put(s)
}

func (w *wideCBC) Open(jobs []Job) {
	for len(jobs) > 0 {
		n := w.run(jobs)
		if n > 0 {
			w.open(jobs[:n])
		} else {
			n = 1
			w.slow.Open(jobs[:1])
		}
		jobs = jobs[n:]
	}
}

func (w *wideCBC) open(jobs []Job) {
	if w.tagsInLanes(len(jobs)) {
		w.mac.tags(jobs, true)
	} else {
		s := w.slow.states.get()
		for i := range jobs {
			j := &jobs[i]
			tag := j.Text[len(j.Text) : len(j.Text)+w.slow.tagLen]
			j.OK = subtle.ConstantTimeCompare(tag, s.tag(j)[:w.slow.tagLen]) == 1
		}
		w.slow.states.put(s)
	}
	for i := range jobs {
		if j := &jobs[i]; j.OK && len(j.Text) > 0 {
			cbcOpen(&w.dec[0][0], w.rounds, &j.Text[0], len(j.Text)/aes.BlockSize, &j.IV[0])
		}
	}
}

// encrypt keeps 16 or eight lanes busy. A lane for which there is no job does another one's work again: both read a block before
// either writes it, and write the same.
func (w *wideCBC) encrypt(jobs []Job) {
	var all [cbcLanes]cbcLane
	lanes := all[:cbcHalf]
	if w.wide && len(jobs) > cbcHalf {
		lanes = all[:]
	}
	for {
		busy, n := -1, 0
		for i := range lanes {
			l := &lanes[i]
			for l.left == 0 && len(jobs) > 0 {
				if j := &jobs[0]; len(j.Text) > 0 {
					*l = cbcLane{unsafe.Pointer(&j.Text[0]), len(j.Text) / aes.BlockSize, j.IV}
				}
				jobs = jobs[1:]
			}
			if l.left > 0 && (busy < 0 || l.left < n) {
				busy, n = i, l.left
			}
		}
		if busy < 0 {
			return
		}
		for i := range lanes {
			if lanes[i].left == 0 {
				lanes[i] = lanes[busy]
				lanes[i].left = 0
			}
		}
		if len(lanes) == cbcHalf {
			cbcSeal(&w.enc[0][0], w.rounds, (*byte)(unsafe.Pointer(&all)), n)
		} else {
			cbcSealWide(&w.enc[0][0], w.rounds, (*byte)(unsafe.Pointer(&all)), n)
		}
		for i := range lanes {
			if l := &lanes[i]; l.left > 0 {
				if l.left -= n; l.left > 0 {
					l.text = unsafe.Add(l.text, n*aes.BlockSize)
				}
			}
		}
	}
}
