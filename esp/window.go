package esp

import (
	"math"
	"math/bits"
)

// Replay window (RFC 4303, section 3.4.3) as a ring of 64-bit words (RFC 6479), with the inference of the high half of
// extended sequence numbers (RFC 4303, appendix A2).

// Window sizes in packets.
const (
	MinReplayWindow     = 32
	MaxReplayWindow     = 65536
	DefaultReplayWindow = 4096
)

type window struct {
	size uint64 // 0: no replay check
	esn  bool
	top  uint64 // highest authenticated sequence number
	ring []uint64
	mask uint64 // of word numbers
}

// newWindow takes a size within the limits, or 0. One word more than the size needs is never part of the window: it is
// the one being cleared while the window moves through it.
func newWindow(size uint32, esn bool) window {
	w := window{size: uint64(size), esn: esn}
	if size > 0 {
		words := uint64(1) << bits.Len64((w.size+63)/64)
		w.ring, w.mask = make([]uint64, words), words-1
	}
	return w
}

// infer makes the whole sequence number of the half that is on the wire (RFC 4303, appendix A2.2).
func (w *window) infer(low uint32) uint64 {
	if !w.esn {
		return uint64(low)
	}
	tl, th := uint32(w.top), uint32(w.top>>32)
	size := uint32(max(w.size, MinReplayWindow))
	bottom := tl - size + 1 // modulo 2^32
	switch {
	case tl >= size-1: // the window lies within one subspace
		if low < bottom && th < math.MaxUint32 {
			th++
		}
	case low >= bottom && th > 0: // it spans two, and low is in the earlier
		th--
	}
	return uint64(th)<<32 | uint64(low)
}

// fresh says whether seq may still be accepted.
func (w *window) fresh(seq uint64) bool {
	switch {
	case w.size == 0:
		return true
	case seq == 0:
		return false // the first packet has 1 (RFC 4303, section 3.3.3)
	case seq > w.top:
		return true
	case w.top-seq >= w.size:
		return false
	}
	return w.ring[seq/64&w.mask]&(1<<(seq%64)) == 0
}

// accept is fresh and, if so, marks seq as seen. Only authenticated packets may get here.
func (w *window) accept(seq uint64) bool {
	if !w.fresh(seq) {
		return false
	}
	if w.size == 0 {
		w.top = max(w.top, seq)
		return true
	}
	if seq > w.top {
		from, to := w.top/64, seq/64
		for n := min(to-from, w.mask+1); n > 0; n-- {
			w.ring[to&w.mask] = 0
			to--
		}
		w.top = seq
	}
	w.ring[seq/64&w.mask] |= 1 << (seq % 64)
	return true
}
