package esp

import (
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"coati/packet"
)

// slowWindow is RFC 4303, section 3.4.3 in plain words: a set of what was seen.
type slowWindow struct {
	size, top uint64
	seen      map[uint64]bool
}

func (w *slowWindow) accept(seq uint64) bool {
	if seq == 0 || seq+w.size <= w.top && w.top >= w.size || w.seen[seq] {
		return false
	}
	w.seen[seq] = true
	w.top = max(w.top, seq)
	return true
}

func TestWindowAgreesWithASlowOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom([]uint32{32, 33, 63, 64, 65, 128, 1000, 4096, 65536}).Draw(t, "size")
		w, slow := newWindow(size, true), &slowWindow{size: uint64(size), seen: map[uint64]bool{}}
		base := rapid.SampledFrom([]uint64{0, 60, math.MaxUint32 - 100, 1 << 40}).Draw(t, "base")
		if base > 0 {
			w.accept(base)
			slow.accept(base)
		}
		for range 300 {
			jump := rapid.OneOf(
				rapid.Int64Range(-5, 5), rapid.Int64Range(-70, 70), rapid.Int64Range(-int64(size)-2, -int64(size)+2),
				rapid.Int64Range(-70000, 140000), rapid.Just(int64(size)),
			).Draw(t, "jump")
			seq := int64(w.top) + jump
			if seq < 0 {
				seq = 0
			}
			before := w.fresh(uint64(seq))
			got, want := w.accept(uint64(seq)), slow.accept(uint64(seq))
			if got != want || before != got {
				t.Fatalf("seq %d, top %d: accepted %v (fresh %v), want %v", seq, slow.top, got, before, want)
			}
		}
	})
}

// A sender at most half the number space away is understood: whatever is within the window behind the top, or ahead of it by
// less than 2^31, is inferred whole from its low half (RFC 4303, appendix A2).
func TestExtendedNumbersAreInferred(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom([]uint32{32, 64, 4096, 65536}).Draw(t, "size")
		w := newWindow(size, true)
		edge := rapid.Uint64Range(0, 3).Draw(t, "subspace") << 32
		w.top = uint64(max(0, int64(edge)+rapid.Int64Range(-70000, 70000).Draw(t, "top")))
		delta := rapid.OneOf(rapid.Int64Range(-int64(size)+1, int64(size)), rapid.Int64Range(0, 1<<31)).Draw(t, "delta")
		seq := int64(w.top) + delta
		if seq < 1 {
			return
		}
		if got := w.infer(uint32(seq)); got != uint64(seq) {
			t.Fatalf("top %#x, window %d: low half of %#x inferred as %#x", w.top, size, seq, got)
		}
	})
}

func TestWindowWithoutESNTakesTheNumberAsItIs(t *testing.T) {
	w := newWindow(64, false)
	w.accept(1 << 31)
	if got := w.infer(5); got != 5 {
		t.Errorf("inferred %d", got)
	}
}

// The window slides over the end of a subspace, with packets out of order around it.
func TestPacketsAroundTheEndOfASubspace(t *testing.T) {
	for _, l := range []link{{enc: "aes128gcm16", esn: true, window: 64}, {enc: "aes128", integ: "sha256", esn: true, window: 64}} {
		a, b := connect(t, l, nil)
		const edge = 1<<32 - 20
		sa := a.Plane.out[1]
		sa.reserved.Store(edge)
		sa.turn.passed.Store(edge)
		b.inbound.find(0x1000).window.top = edge
		for range 40 {
			a.out.Process(segment{sport: 1, payload: filled(10, 1)}.frame())
		}
		pkts := a.net.packets()
		for i := 0; i+1 < len(pkts); i += 2 {
			pkts[i], pkts[i+1] = pkts[i+1], pkts[i]
		}
		for _, p := range pkts {
			again := append([]byte(nil), p...)
			b.in.Receive([]Datagrams{{Buf: p}})
			b.in.Receive([]Datagrams{{Buf: again}})
		}
		if got := len(unfoldAll(t, b.tap.take())); got != 40 {
			t.Errorf("%v: %d of 40 packets arrived", l, got)
		}
		if got := b.drops(DropReplay); got != 40 {
			t.Errorf("%v: %d replays seen, want 40", l, got)
		}
		if st, _ := b.State(1); st.Sequence != edge+40 {
			t.Errorf("%v: highest number %#x", l, st.Sequence)
		}
	}
}

// One packet, given to eight workers 10,000 times, is delivered once.
func TestOnePacketToEightWorkers(t *testing.T) {
	t.Parallel()
	a, b := connect(t, gcm128, nil)
	a.out.Process(segment{sport: 1, payload: filled(100, 1)}.frame())
	pkt := a.net.packets()[0]
	var given atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			in := b.NewInbound(b.tap)
			for given.Add(1) <= 10000 {
				in.Receive([]Datagrams{{Buf: append([]byte(nil), pkt...)}})
			}
		})
	}
	wg.Wait()
	if got := len(b.tap.take()); got != 1 {
		t.Errorf("delivered %d times", got)
	}
	if got := b.drops(DropReplay); got != 9999 {
		t.Errorf("%d replays counted, want 9999", got)
	}
}

// The same, step by step: two queues find the packet fresh, both open it, one may deliver it.
func TestOnePacketOpenedTwice(t *testing.T) {
	a, b := connect(t, gcm128, nil)
	a.out.Process(segment{sport: 1, payload: filled(100, 1)}.frame())
	pkt := a.net.packets()[0]
	sa := b.inbound.find(0x1000)
	queues := []*Inbound{b.NewInbound(b.tap), b.NewInbound(b.tap)}
	for _, in := range queues {
		in.arrivals = append(in.arrivals, arrival{sa: sa, esp: append([]byte(nil), pkt...)})
		if in.screen(sa, 0, 1, 0) != 1 {
			t.Fatal("not fresh")
		}
	}
	delivered := 0
	for _, in := range queues {
		sa.tr.key.Open(in.jobs[:1])
		in.admit(sa, 0, 1)
		if in.jobs[0].OK {
			delivered++
		}
	}
	if delivered != 1 {
		t.Errorf("delivered %d times", delivered)
	}
}

// A receiver may have a window of 32. Four queues sending on one SA at once must not cost it a packet.
func TestFourQueuesOneSAWindow32(t *testing.T) {
	t.Parallel()
	const queues, frames = 4, 300
	l := link{enc: "aes128gcm16", window: 32}
	b := newHost(nil)
	if err := b.Apply(policyTx(l)); err != nil {
		t.Fatal(err)
	}
	arrive := &straight{in: b.in}
	a, _ := connect(t, l, func(c *Config) { c.Egress = arrive })
	var wg sync.WaitGroup
	for q := range queues {
		wg.Go(func() {
			out := a.NewOutbound(a.tap)
			for n := range frames {
				size := 1 + (n*7919+q*104729)%60000
				out.Process(segment{sport: uint16(q), payload: filled(size, byte(n)), gso: 1408}.frame())
				if n%16 == q {
					runtime.Gosched()
				}
			}
		})
	}
	wg.Wait()
	if d := b.Counters().Drops; len(d) > 0 {
		t.Errorf("drops at the receiver: %v", d)
	}
	st, _ := b.State(1)
	if sent := a.Plane.out[1].reserved.Load(); st.Packets != sent || st.Sequence != sent {
		t.Errorf("%d packets of %d, up to %d", st.Packets, sent, st.Sequence)
	}
	if arrive.disorder > 0 {
		t.Errorf("%d runs left out of order", arrive.disorder)
	}
}

// A run whose send fails burns its numbers and does not hold up the others.
func TestFailedSendBurnsItsNumbers(t *testing.T) {
	a, b := connect(t, gcm128, nil)
	a.net.fail = errSPIs
	a.out.Process(segment{sport: 1}.frame())
	a.net.fail = nil
	a.out.Process(segment{sport: 1}.frame())
	pkts := a.net.packets()
	if len(pkts) != 1 || packet.ESP(pkts[0]).Sequence() != 2 {
		t.Fatalf("%d packets; the number of a failed send was used again", len(pkts))
	}
	if a.drops(DropSendFailed) != 1 {
		t.Errorf("drops: %v", a.Counters().Drops)
	}
	b.in.Receive([]Datagrams{{Buf: pkts[0]}})
	if len(b.tap.take()) != 1 {
		t.Error("the packet after the failure did not arrive")
	}
}
