package batch

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"hash"
	"math"
	"slices"
	"unsafe"

	"golang.org/x/sys/cpu"
)

// hasSHA says whether the processor has the SHA instructions: bit 29, which x/sys does not tell. AVX2 implies that there
// is such a leaf.
var hasSHA = cpu.X86.HasAVX2 && cpu.X86.HasSSSE3 && cpu.X86.HasSSE41 && leaf7ebx()>>29&1 == 1

const (
	macLanes = 16 // as many messages are hashed side by side at most
	macPair  = 2
)

// macLane is one of the messages that are hashed side by side. sha1x2 and sha256x2 know text's and state's offsets, and the
// size. The rest is in macWork.
type macLane struct {
	text  unsafe.Pointer
	left  int // blocks
	state [8]uint32
}

// macWork is where a lane is: at the packet's whole blocks, at the rest of it with the padding, or at HMAC's outer hash.
type macWork struct {
	job   *Job
	stage int
	end   [192]byte // what is left of the packet, Tail, the padding
	ends  int       // blocks of end
}

// wideLanes is what sha1x16 reads and writes of 16 macLanes: the states word by word.
type wideLanes struct {
	text  [macLanes]unsafe.Pointer
	state [5][macLanes]uint32
}

var (
	_ [48]struct{}  = [unsafe.Sizeof(macLane{})]struct{}{}
	_ [16]struct{}  = [unsafe.Offsetof(macLane{}.state)]struct{}{}
	_ [128]struct{} = [unsafe.Offsetof(wideLanes{}.state)]struct{}{}
)

// sha is what the lanes must know of a hash of 64-octet blocks.
type sha struct {
	start [8]uint32 // in the order of the SHA instructions, as every state here
	order [8]uint8  // where the words of the digest are in a state
	words int       // of the digest
	many  int       // from how many messages on sha1x16 is faster than pairs; 0: it does not know the hash
}

func (s *sha) blocks(lanes *[macPair]macLane, n int) {
	if s == &sha1Lanes {
		sha1x2((*byte)(unsafe.Pointer(lanes)), n)
	} else {
		sha256x2((*byte)(unsafe.Pointer(lanes)), n)
	}
}

// put and get move the state of one lane.
func (s *sha) put(lanes *wideLanes, i int, state *[8]uint32) {
	for word := range s.words {
		lanes.state[word][i&15] = state[s.order[word&7]&7]
	}
}

func (s *sha) get(lanes *wideLanes, i int, state *[8]uint32) {
	for word := range s.words {
		state[s.order[word&7]&7] = lanes.state[word][i&15]
	}
}

var (
	// Words F, E, B, A, H, G, D, C.
	sha256Lanes = sha{
		start: [8]uint32{0x9b05688c, 0x510e527f, 0xbb67ae85, 0x6a09e667, 0x5be0cd19, 0x1f83d9ab, 0xa54ff53a, 0x3c6ef372},
		order: [8]uint8{3, 2, 7, 6, 1, 0, 5, 4},
		words: 8,
	}
	// Words D, C, B, A, and E at the end.
	sha1Lanes = sha{
		start: [8]uint32{0x10325476, 0x98badcfe, 0xefcdab89, 0x67452301, 0, 0, 0, 0xc3d2e1f0},
		order: [8]uint8{3, 2, 1, 0, 7},
		words: 5,
		many:  7,
	}
)

// lanesFor finds the lanes of a hash, nil if there are none.
func lanesFor(h func() hash.Hash) *sha {
	if !hasSHA {
		return nil
	}
	empty := h().Sum(nil)
	if want := sha256.Sum256(nil); slices.Equal(empty, want[:]) {
		return &sha256Lanes
	}
	if want := sha1.Sum(nil); slices.Equal(empty, want[:]) {
		return &sha1Lanes
	}
	return nil
}

// keyed hashes HMAC's first blocks, the key with two paddings.
func (s *sha) keyed(macKey []byte, h func() hash.Hash) (inner, outer [8]uint32) {
	var block [2][64]byte
	if len(macKey) > 64 {
		d := h()
		d.Write(macKey)
		macKey = d.Sum(nil)
		defer clear(macKey)
	}
	var lanes [macPair]macLane
	for i, pad := range []byte{0x36, 0x5c} {
		copy(block[i][:], macKey)
		for j := range block[i] {
			block[i][j] ^= pad
		}
		lanes[i] = macLane{text: unsafe.Pointer(&block[i]), state: s.start}
	}
	s.blocks(&lanes, 1)
	clear(block[0][:])
	clear(block[1][:])
	inner, outer = lanes[0].state, lanes[1].state
	clear(lanes[:])
	return inner, outer
}

// macs writes the tags of all jobs, or compares them. Lanes take one job after another; with many, all go on together, else
// two at a time. Only when no jobs are left do lanes fall idle, so what has once become too few stays it.
func (w *wideCBC) macs(jobs []Job, open bool) {
	var lanes [macLanes]macLane
	var work [macLanes]macWork
	var wide wideLanes
	width, many := macPair, false
	if w.many && len(jobs) >= w.sha.many {
		width, many = macLanes, true
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
		if many && busy < w.sha.many {
			many = false
			for i := range width {
				w.sha.get(&wide, i, &lanes[i].state)
			}
		}
		if !many {
			pair := [macPair]macLane{lanes[first], lanes[second]} // the same twice if there is but one
			least = min(pair[0].left, pair[1].left)
			w.sha.blocks(&pair, least)
			lanes[first].state, lanes[second].state = pair[0].state, pair[1].state
		} else {
			for i := range width {
				wide.text[i] = lanes[i].text
				if work[i].job == nil {
					wide.text[i] = lanes[first].text
				}
			}
			sha1x16((*byte)(unsafe.Pointer(&wide)), least)
		}
		for i := range width {
			if work[i].job == nil || !many && i != first && i != second {
				continue
			}
			if lanes[i].left -= least; lanes[i].left > 0 {
				lanes[i].text = unsafe.Add(lanes[i].text, 64*least)
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

// Stages after the first leave a lane's text nil for macs to fill in: set through a pointer, here or in macs, it would put work
// on the heap.

// begin sets a lane to the whole blocks of Head and Text, which lie behind each other, and writes their rest.
func (w *wideCBC) begin(l *macLane, k *macWork, j *Job) {
	n := len(j.Head) + len(j.Text)
	whole := n / 64
	first := unsafe.SliceData(j.Text)
	if len(j.Head) > 0 {
		first = &j.Head[0]
	}
	clear(k.end[:])
	at := whole * 64
	m := copy(k.end[:], j.Head[min(at, len(j.Head)):])
	m += copy(k.end[m:], j.Text[max(0, at-len(j.Head)):])
	m += copy(k.end[m:], j.Tail)
	k.end[m] = 0x80
	k.ends = (m + 1 + 8 + 63) / 64
	binary.BigEndian.PutUint64(k.end[k.ends*64-8:], uint64(64+n+len(j.Tail))*8)
	k.job, k.stage = j, 0
	l.state = w.inner
	l.text, l.left = unsafe.Pointer(first), whole
	if whole == 0 {
		k.stage, l.text, l.left = 1, nil, k.ends
	}
}

// next sets a lane that has come to the end of its text to what follows, and ends a job that has all.
func (w *wideCBC) next(l *macLane, k *macWork, open bool) {
	var sum [32]byte
	if k.stage > 0 {
		for i := range w.sha.words {
			binary.BigEndian.PutUint32(sum[4*(i&7):], l.state[w.sha.order[i&7]&7])
		}
	}
	switch k.stage++; k.stage {
	case 1:
		l.text, l.left = nil, k.ends
	case 2:
		size := 4 * w.sha.words
		clear(k.end[:64])
		copy(k.end[:], sum[:size])
		k.end[size] = 0x80
		binary.BigEndian.PutUint16(k.end[62:], uint16(64+size)*8)
		l.state, l.text, l.left = w.outer, nil, 1
	case 3:
		j, n := k.job, w.slow.tagLen
		tag := j.Text[len(j.Text) : len(j.Text)+n]
		if open {
			j.OK = subtle.ConstantTimeCompare(tag, sum[:n]) == 1
		} else {
			copy(tag, sum[:n])
		}
		k.job = nil
	}
}
