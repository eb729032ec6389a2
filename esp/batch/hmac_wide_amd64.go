package batch

import (
	"crypto/subtle"
	"encoding/binary"
	"hash"
	"math"
	"unsafe"
)

const (
	macLanes = 16 // as many messages are hashed side by side at most
	macPair  = 2
)

// macState is a hash's state in words of 32 bits: in the order of the SHA instructions where a hash has such, else as in the digest.
type macState [16]uint32

// macLane is one of the messages that are hashed side by side. sha1x2 and sha256x2 know text's and state's offsets, and the
// size. The rest is in macWork.
type macLane struct {
	text  unsafe.Pointer
	left  int // blocks
	state macState
}

// macWork is where a lane is: at the packet's whole blocks, at the rest of it with the padding, or at HMAC's outer hash.
type macWork struct {
	job   *Job
	stage int
	end   [256]byte // what is left of the packet, Tail, the padding
	ends  int       // blocks of end
}

// wideLanes is what sha1x16, sha256x16 and sha512x8 read and write of macLanes: the states word by word. A word of 64 bits takes
// two places, low half first.
type wideLanes struct {
	text  [macLanes]unsafe.Pointer
	state [8][macLanes]uint32
}

var (
	_ [80]struct{}  = [unsafe.Sizeof(macLane{})]struct{}{}
	_ [16]struct{}  = [unsafe.Offsetof(macLane{}.state)]struct{}{}
	_ [128]struct{} = [unsafe.Offsetof(wideLanes{}.state)]struct{}{}
)

// wideMAC computes HMACs (RFC 2104) of packets side by side. It knows packets of which Head lies in front of Text.
type wideMAC struct {
	sha          *sha
	many         bool // the wide function may be used
	tagLen       int
	inner, outer macState // behind the key's blocks
}

// newWideMAC makes one for a hash, nil where the kernel has no lanes for it.
func newWideMAC(kernel string, macKey []byte, h func() hash.Hash, tagLen int) *wideMAC {
	if kernel == Generic {
		return nil
	}
	s := lanesFor(h)
	if s == nil || !s.pairs && kernel != VAES512 {
		return nil
	}
	w := &wideMAC{sha: s, many: kernel == VAES512, tagLen: tagLen}
	w.inner, w.outer = s.keyed(macKey, h)
	return w
}

// newTagger is newWideMAC for those who know it only as an interface.
func newTagger(kernel string, macKey []byte, h func() hash.Hash, tagLen int) tagger {
	if w := newWideMAC(kernel, macKey, h, tagLen); w != nil {
		return w
	}
	return nil
}

// macTail is how long Tail may be, octets.
const macTail = 64

// knows says whether the lanes can do a job.
func (w *wideMAC) knows(j *Job) bool { return len(j.Tail) <= macTail && behind(j.Head, j.Text) }

// few is the number of jobs from which on the lanes are faster than Go's own code.
func (w *wideMAC) few() int { return w.sha.few }

// tags writes the tags of all jobs, or compares them. Lanes take one job after another; with many, all go on together, else
// two at a time. Only when no jobs are left do lanes fall idle, so what has once become too few stays it.
func (w *wideMAC) tags(jobs []Job, open bool) {
	var lanes [macLanes]macLane
	var work [macLanes]macWork
	var wide wideLanes
	width, many := macPair, false
	if w.many && (len(jobs) >= w.sha.many || !w.sha.pairs) {
		width, many = w.sha.width, true
	}
	for {
		busy, first, second, least := 0, 0, 0, math.MaxInt
		for i := range width {
			l, k := &lanes[i], &work[i]
			if k.job == nil {
				if len(jobs) == 0 {
					continue
				}
				w.begin(l, k, &jobs[0])
				jobs = jobs[1:]
				if many {
					w.sha.put(&wide, i, &l.state)
				}
			}
			if l.text == nil {
				lanes[i].text = unsafe.Pointer(&work[i].end)
			}
			switch busy++; busy {
			case 1:
				first, second = i, i
			case 2:
				second = i
			}
			least = min(least, l.left)
		}
		if busy == 0 {
			return
		}
		if many && busy < w.sha.many && w.sha.pairs {
			many = false
			for i := range width {
				w.sha.get(&wide, i, &lanes[i].state)
			}
		}
		if !many {
			pair := [macPair]macLane{lanes[first], lanes[second]} // the same twice if there is but one
			least = min(pair[0].left, pair[1].left)
			w.sha.blocksOfPair(&pair, least)
			lanes[first].state, lanes[second].state = pair[0].state, pair[1].state
		} else {
			for i := range width {
				wide.text[i] = lanes[i].text
				if work[i].job == nil {
					wide.text[i] = lanes[first].text
				}
			}
			w.sha.blocksOfMany(&wide, least)
		}
		for i := range width {
			if work[i].job == nil || !many && i != first && i != second {
				continue
			}
			if lanes[i].left -= least; lanes[i].left > 0 {
				lanes[i].text = unsafe.Add(lanes[i].text, w.sha.block*least)
				continue
			}
			if many && work[i].stage > 0 {
				w.sha.get(&wide, i, &lanes[i].state)
			}
			w.next(&lanes[i], &work[i], open)
			if many && work[i].stage == 2 {
				w.sha.put(&wide, i, &lanes[i].state)
			}
		}
	}
}

// Stages after the first leave a lane's text nil for tags to fill in: set through a pointer, here or in tags, it would put work
// on the heap.

// begin sets a lane to the whole blocks of Head and Text, which lie behind each other, and writes their rest.
func (w *wideMAC) begin(l *macLane, k *macWork, j *Job) {
	n, block := len(j.Head)+len(j.Text), w.sha.block
	whole := n / block
	first := unsafe.SliceData(j.Text)
	if len(j.Head) > 0 {
		first = &j.Head[0]
	}
	clear(k.end[:])
	at := whole * block
	m := copy(k.end[:], j.Head[min(at, len(j.Head)):])
	m += copy(k.end[m:], j.Text[max(0, at-len(j.Head)):])
	m += copy(k.end[m:], j.Tail)
	k.end[m] = 0x80
	k.ends = (m + 1 + block/8 + block - 1) / block // behind 0x80 a length of an eighth of a block
	binary.BigEndian.PutUint64(k.end[k.ends*block-8:], uint64(block+n+len(j.Tail))*8)
	k.job, k.stage = j, 0
	l.state = w.inner
	l.text, l.left = unsafe.Pointer(first), whole
	if whole == 0 {
		k.stage, l.text, l.left = 1, nil, k.ends
	}
}

// next sets a lane that has come to the end of its text to what follows, and ends a job that has all.
func (w *wideMAC) next(l *macLane, k *macWork, open bool) {
	var sum [64]byte
	if k.stage > 0 {
		w.sha.digest(&sum, &l.state)
	}
	switch k.stage++; k.stage {
	case 1:
		l.text, l.left = nil, k.ends
	case 2:
		size, block := w.sha.size, w.sha.block
		clear(k.end[:block])
		copy(k.end[:], sum[:size])
		k.end[size] = 0x80
		binary.BigEndian.PutUint16(k.end[block-2:], uint16(block+size)*8)
		l.state, l.text, l.left = w.outer, nil, 1
	case 3:
		j, n := k.job, w.tagLen
		tag := j.Text[len(j.Text) : len(j.Text)+n]
		if open {
			j.OK = subtle.ConstantTimeCompare(tag, sum[:n]) == 1
		} else {
			copy(tag, sum[:n])
		}
		k.job = nil
	}
}
