package batch

import (
	"crypto/aes"
	"encoding/binary"
	"unsafe"
)

// gcmPowersKept is how many powers of the hash key a key has: enough for a packet of 1,500 octets to be hashed with one
// reduction.
const gcmPowersKept = 96

// gcmTable is what the assembly reads, once per batch or block: it is made once per key.
type gcmTable struct {
	rounds [16][2][16]byte // round keys, as FIPS 197 numbers them, each twice; the last is not used
	// powers is H^96 to H^1, octets reversed and times x; zeros follow, because they are read four at a time.
	powers [gcmPowersKept + 4][16]byte
}

// The assembly knows these offsets.
var (
	_ [0]struct{}   = [unsafe.Offsetof(Job{}.Head)]struct{}{}
	_ [24]struct{}  = [unsafe.Offsetof(Job{}.Text)]struct{}{}
	_ [72]struct{}  = [unsafe.Offsetof(Job{}.IV)]struct{}{}
	_ [88]struct{}  = [unsafe.Offsetof(Job{}.OK)]struct{}{}
	_ [112]struct{} = [unsafe.Sizeof(Job{})]struct{}{}
	_ [512]struct{} = [unsafe.Offsetof(gcmTable{}.powers)]struct{}{}
)

const wideTextMax = 1 << 30 // far below what SP 800-38D, section 5.2.1.1 allows

// wideGCM seals and opens runs of jobs in assembly, and gives the few that it does not know to slow.
type wideGCM struct {
	table   *gcmTable
	keyLen  int
	vaes512 bool
	headMax int // one register
	slow    *gcm
}

func newWideGCM(kernel string, key []byte, slow *gcm) Key {
	w := &wideGCM{table: new(gcmTable), keyLen: len(key), slow: slow}
	switch kernel {
	case VAES512:
		w.vaes512, w.headMax = true, 64
	case VAES256:
		w.headMax = 32
	default:
		return nil
	}
	var rounds [16][16]byte
	expand(key, &rounds)
	for r := range rounds {
		w.table.rounds[r] = [2][16]byte{rounds[r], rounds[r]}
	}
	clear(rounds[:])
	var h [16]byte
	if block, err := aes.NewCipher(key); err == nil {
		block.Encrypt(h[:], h[:])
	}
	// x times H, in the order of bits that multiplies without carries: a shift to the left, and the polynomial for the
	// bit that falls out.
	hi, lo := binary.BigEndian.Uint64(h[:8]), binary.BigEndian.Uint64(h[8:])
	out := -(hi >> 63)
	hi = (hi<<1 | lo>>63) ^ out&(0xc2<<56)
	lo = lo<<1 ^ out&1
	binary.LittleEndian.PutUint64(h[:8], lo)
	binary.LittleEndian.PutUint64(h[8:], hi)
	gcmPowers(&h[0], &w.table.powers[0][0])
	clear(h[:])
	return w
}

// expand is the key expansion of FIPS 197, section 5.2.
func expand(key []byte, rounds *[16][16]byte) {
	n := len(key) / 4
	word := func(i int) []byte { return rounds[i/4][i%4*4:][:4] }
	rcon := byte(1)
	for i := range 4 * (n + 7) {
		if i < n {
			copy(word(i), key[4*i:])
			continue
		}
		t := binary.LittleEndian.Uint32(word(i - 1))
		switch {
		case i%n == 0:
			t = aesSubWord(t>>8|t<<24) ^ uint32(rcon)
			rcon = rcon<<1 ^ rcon>>7*0x1b
		case n > 6 && i%n == 4:
			t = aesSubWord(t)
		}
		binary.LittleEndian.PutUint32(word(i), t^binary.LittleEndian.Uint32(word(i-n)))
	}
}

func (w *wideGCM) TagLen() int { return gcmTagLen }

// run is how many jobs from the first on the assembly can do. It panics as slicing does if one has no room for its tag: the
// assembly trusts the lengths.
func (w *wideGCM) run(jobs []Job) int {
	for i := range jobs {
		j := &jobs[i]
		_ = j.Text[:len(j.Text)+gcmTagLen]
		if len(j.Head) > w.headMax || len(j.Text) > wideTextMax {
			return i
		}
	}
	return len(jobs)
}

func (w *wideGCM) Seal(jobs []Job) {
	for len(jobs) > 0 {
		n := w.run(jobs)
		if n > 0 {
			w.seal(&w.table.rounds[0][0][0], (*byte)(unsafe.Pointer(&jobs[0])), n)
		} else {
			n = 1
			w.slow.Seal(jobs[:1])
		}
		jobs = jobs[n:]
	}
}

func (w *wideGCM) Open(jobs []Job) {
	for len(jobs) > 0 {
		n := w.run(jobs)
		if n > 0 {
			w.open(&w.table.rounds[0][0][0], (*byte)(unsafe.Pointer(&jobs[0])), n)
			for i := range jobs[:n] {
				if !jobs[i].OK {
					clear(jobs[i].Text)
				}
			}
		} else {
			n = 1
			w.slow.Open(jobs[:1])
		}
		jobs = jobs[n:]
	}
}

func (w *wideGCM) seal(table, jobs *byte, n int) {
	switch {
	case w.vaes512 && w.keyLen == 16:
		gcmSeal128(table, jobs, n)
	case w.vaes512 && w.keyLen == 24:
		gcmSeal192(table, jobs, n)
	case w.vaes512:
		gcmSeal256(table, jobs, n)
	case w.keyLen == 16:
		gcmSeal128Y(table, jobs, n)
	case w.keyLen == 24:
		gcmSeal192Y(table, jobs, n)
	default:
		gcmSeal256Y(table, jobs, n)
	}
}

func (w *wideGCM) open(table, jobs *byte, n int) {
	switch {
	case w.vaes512 && w.keyLen == 16:
		gcmOpen128(table, jobs, n)
	case w.vaes512 && w.keyLen == 24:
		gcmOpen192(table, jobs, n)
	case w.vaes512:
		gcmOpen256(table, jobs, n)
	case w.keyLen == 16:
		gcmOpen128Y(table, jobs, n)
	case w.keyLen == 24:
		gcmOpen192Y(table, jobs, n)
	default:
		gcmOpen256Y(table, jobs, n)
	}
}
