package batch

import (
	"crypto/subtle"
	"encoding/binary"
	"math/bits"
	"unsafe"

	"golang.org/x/sys/cpu"
)

const (
	chachaBlocks = 16 // of a group: as many go through ChaCha20 side by side
	chachaGroups = 8  // in one call
	chachaJobs   = 32 // in work at a time
	polyPackets  = 8  // as many go through Poly1305 side by side; fewer jobs are as fast one after another
)

// chachaGroup is 16 blocks of any packets, for chacha20x16: it knows all offsets. A block's octets are those that its mask has a
// bit for; a mask of 0 is no block.
type chachaGroup struct {
	counter [chachaBlocks]uint32
	nonce   [3][chachaBlocks]uint32
	text    [chachaBlocks]unsafe.Pointer
	mask    [chachaBlocks]uint64
}

// polyLanes is eight packets that poly1305x8 hashes, in limbs of 44, 44 and 42 bits: it knows all offsets.
type polyLanes struct {
	text [polyPackets]unsafe.Pointer
	h, r [3][polyPackets]uint64
	s    [2][polyPackets]uint64 // 20 times r's upper limbs
}

var (
	_ [64]struct{}  = [unsafe.Offsetof(chachaGroup{}.nonce)]struct{}{}
	_ [256]struct{} = [unsafe.Offsetof(chachaGroup{}.text)]struct{}{}
	_ [384]struct{} = [unsafe.Offsetof(chachaGroup{}.mask)]struct{}{}
	_ [512]struct{} = [unsafe.Sizeof(chachaGroup{})]struct{}{}
	_ [64]struct{}  = [unsafe.Offsetof(polyLanes{}.h)]struct{}{}
	_ [256]struct{} = [unsafe.Offsetof(polyLanes{}.r)]struct{}{}
	_ [448]struct{} = [unsafe.Offsetof(polyLanes{}.s)]struct{}{}
)

// polyWork is where a lane is: at the padded head, at the text's whole blocks, or at its rest with the lengths.
type polyWork struct {
	job   *Job
	key   *[64]byte
	stage int
	left  int // blocks of the stage
	head  [64]byte
	end   [32]byte
}

// chachaWork is what one goroutine works with at a time. Between batches it has no keys and no jobs in it.
type chachaWork struct {
	keys   [chachaJobs][64]byte // each packet's first block of key stream: Poly1305's key, and a rest of no use
	groups [chachaGroups]chachaGroup
	blocks int // in groups
	lanes  polyLanes
	work   [polyPackets]polyWork
}

// wideChaCha makes the key streams of all packets of a batch together, and hashes eight packets side by side. A few jobs, and
// those that it does not know, are left to slow.
type wideChaCha struct {
	key  [32]byte
	slow *chacha
	idle idle[chachaWork]
}

func newWideChaCha(kernel string, key []byte, slow *chacha) Key {
	if kernel != VAES512 || !cpu.X86.HasAVX512IFMA {
		return nil
	}
	return &wideChaCha{key: [32]byte(key), slow: slow, idle: idle[chachaWork]{fresh: func() (*chachaWork, error) { return new(chachaWork), nil }}}
}

// put clears what must not stay: one-time keys, and pointers to jobs.
func (w *wideChaCha) put(k *chachaWork, jobs int) {
	clear(k.keys[:jobs])
	k.lanes = polyLanes{}
	for i := range k.groups {
		clear(k.groups[i].text[:])
	}
	w.idle.put(k)
}

func (w *wideChaCha) TagLen() int { return w.slow.TagLen() }

// run is how many jobs from the first on the lanes can do. It panics as slicing does if one has no room for its tag.
func (w *wideChaCha) run(jobs []Job) int {
	for i := range jobs {
		j := &jobs[i]
		_ = j.Text[:len(j.Text)+gcmTagLen]
		if len(j.Head) > len(polyWork{}.head) || len(j.Text) > wideTextMax || i == chachaJobs {
			return i
		}
	}
	return len(jobs)
}

func (w *wideChaCha) Seal(jobs []Job) {
	for len(jobs) > 0 {
		n := w.run(jobs)
		if n >= polyPackets {
			w.seal(jobs[:n])
		} else {
			n = max(n, 1)
			w.slow.Seal(jobs[:n])
		}
		jobs = jobs[n:]
	}
}

func (w *wideChaCha) Open(jobs []Job) {
	for len(jobs) > 0 {
		n := w.run(jobs)
		if n >= polyPackets {
			w.open(jobs[:n])
		} else {
			n = max(n, 1)
			w.slow.Open(jobs[:n])
		}
		jobs = jobs[n:]
	}
}

func (w *wideChaCha) seal(jobs []Job) {
	k := w.idle.get()
	for i := range jobs {
		w.add(k, &jobs[i], k.keys[i][:], 0)
		w.add(k, &jobs[i], jobs[i].Text, 1)
	}
	w.flush(k)
	k.tags(jobs, false)
	w.put(k, len(jobs))
}

func (w *wideChaCha) open(jobs []Job) {
	k := w.idle.get()
	for i := range jobs {
		w.add(k, &jobs[i], k.keys[i][:], 0)
	}
	w.flush(k)
	k.tags(jobs, true)
	for i := range jobs {
		if jobs[i].OK {
			w.add(k, &jobs[i], jobs[i].Text, 1)
		} else {
			clear(jobs[i].Text)
		}
	}
	w.flush(k)
	w.put(k, len(jobs))
}

// add lets key stream from the given block on be added to text.
func (w *wideChaCha) add(k *chachaWork, j *Job, text []byte, counter uint32) {
	n0, n1, n2 := binary.LittleEndian.Uint32(j.IV[0:]), binary.LittleEndian.Uint32(j.IV[4:]), binary.LittleEndian.Uint32(j.IV[8:])
	for len(text) > 0 {
		g, from := &k.groups[k.blocks/chachaBlocks], k.blocks%chachaBlocks
		to := min(from+(len(text)+63)/64, chachaBlocks)
		for i := from; i < to; i++ {
			g.counter[i], g.nonce[0][i], g.nonce[1][i], g.nonce[2][i] = counter, n0, n1, n2
			g.text[i], g.mask[i] = unsafe.Pointer(&text[0]), ^uint64(0)
			counter++
			if len(text) < 64 {
				g.mask[i] >>= 64 - len(text)
				text = nil
				break
			}
			text = text[64:]
		}
		if k.blocks += to - from; k.blocks == chachaGroups*chachaBlocks {
			w.flush(k)
		}
	}
}

func (w *wideChaCha) flush(k *chachaWork) {
	if k.blocks == 0 {
		return
	}
	n := (k.blocks + chachaBlocks - 1) / chachaBlocks
	for i := k.blocks; i < n*chachaBlocks; i++ {
		g := &k.groups[n-1]
		g.text[i%chachaBlocks], g.mask[i%chachaBlocks] = unsafe.Pointer(&k.keys), 0
	}
	chacha20x16(&w.key[0], (*byte)(unsafe.Pointer(&k.groups)), n)
	k.blocks = 0
}

// tags writes the tags of all jobs, or compares them. A lane for which there is no job reads another one's text.
func (k *chachaWork) tags(jobs []Job, open bool) {
	next := 0
	for {
		busy, least := -1, 0
		for i := range k.work {
			l := &k.work[i]
			if l.job == nil {
				if next == len(jobs) {
					continue
				}
				k.begin(i, &jobs[next], &k.keys[next])
				next++
			}
			if busy < 0 || l.left < least {
				busy, least = i, l.left
			}
		}
		if busy < 0 {
			return
		}
		for i := range k.work {
			if k.work[i].job == nil {
				k.lanes.text[i] = k.lanes.text[busy]
			}
		}
		poly1305x8((*byte)(unsafe.Pointer(&k.lanes)), least)
		for i := range k.work {
			if l := &k.work[i]; l.job != nil {
				if l.left -= least; l.left > 0 {
					k.lanes.text[i] = unsafe.Add(k.lanes.text[i], 16*least)
				} else {
					k.next(i, open)
				}
			}
		}
	}
}

const ones44, ones42 = 1<<44 - 1, 1<<42 - 1

// begin sets a lane to a packet: r, clamped (RFC 8439, section 2.5), and the head with its padding (section 2.8).
func (k *chachaWork) begin(i int, j *Job, key *[64]byte) {
	lo, hi := binary.LittleEndian.Uint64(key[0:])&0x0ffffffc0fffffff, binary.LittleEndian.Uint64(key[8:])&0x0ffffffc0ffffffc
	r1, r2 := (lo>>44|hi<<20)&ones44, hi>>24
	k.lanes.r[0][i], k.lanes.r[1][i], k.lanes.r[2][i] = lo&ones44, r1, r2
	k.lanes.s[0][i], k.lanes.s[1][i] = 20*r1, 20*r2
	k.lanes.h[0][i], k.lanes.h[1][i], k.lanes.h[2][i] = 0, 0, 0
	l := &k.work[i]
	l.job, l.key, l.stage = j, key, 0
	clear(l.head[copy(l.head[:], j.Head):])
	if l.left = (len(j.Head) + 15) / 16; l.left == 0 {
		k.next(i, false)
		return
	}
	k.lanes.text[i] = unsafe.Pointer(&l.head)
}

// next sets a lane that has come to the end of its stage to what follows, and ends a job that has all.
func (k *chachaWork) next(i int, open bool) {
	l := &k.work[i]
	j := l.job
	n := len(j.Text)
	l.stage++
	if l.stage == 1 && n < 16 {
		l.stage++
	}
	switch l.stage {
	case 1:
		k.lanes.text[i], l.left = unsafe.Pointer(&j.Text[0]), n/16
	case 2:
		clear(l.end[:])
		l.left = 1
		if copy(l.end[:], j.Text[n&^15:]) > 0 {
			l.left = 2
		}
		lengths := l.end[16*(l.left-1):]
		binary.LittleEndian.PutUint64(lengths, uint64(len(j.Head)))
		binary.LittleEndian.PutUint64(lengths[8:], uint64(n))
		k.lanes.text[i] = unsafe.Pointer(&l.end)
	case 3:
		var tag [gcmTagLen]byte
		k.sum(i, &tag)
		if open {
			j.OK = subtle.ConstantTimeCompare(tag[:], j.Text[n:n+gcmTagLen]) == 1
		} else {
			copy(j.Text[n:n+gcmTagLen], tag[:])
		}
		l.job, l.key = nil, nil
	}
}

// sum is h modulo 2^130-5, plus the key's second half modulo 2^128.
func (k *chachaWork) sum(i int, tag *[gcmTagLen]byte) {
	h0, h1, h2 := k.lanes.h[0][i], k.lanes.h[1][i], k.lanes.h[2][i]
	for range 2 { // a carry out of the last limb is 5 in the first
		h1 += h0 >> 44
		h0 &= ones44
		h2 += h1 >> 44
		h1 &= ones44
		h0 += 5 * (h2 >> 42)
		h2 &= ones42
	}
	h1 += h0 >> 44
	h0 &= ones44
	// h+5-2^130, and which of the two it is, without a branch.
	g0 := h0 + 5
	g1 := h1 + g0>>44
	g2 := h2 + g1>>44 - 1<<42
	less := -(g2 >> 63) // all ones if h is below 2^130-5
	h0 = h0&less | g0&ones44&^less
	h1 = h1&less | g1&ones44&^less
	h2 = h2&less | g2&^less
	key := k.work[i].key
	lo, carry := bits.Add64(h0|h1<<44, binary.LittleEndian.Uint64(key[16:]), 0)
	hi, _ := bits.Add64(h1>>20|h2<<24, binary.LittleEndian.Uint64(key[24:]), carry)
	binary.LittleEndian.PutUint64(tag[0:], lo)
	binary.LittleEndian.PutUint64(tag[8:], hi)
}
