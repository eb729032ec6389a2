package esp

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
)

// streamFrom makes n packets with numbers from first+1 on.
func streamFrom(t *testing.T, l link, first uint64, n int) [][]byte {
	t.Helper()
	a, _ := connect(t, l, nil)
	sa := a.Plane.out[1]
	sa.reserved.Store(first)
	sa.turn.passed.Store(first)
	for range n {
		a.out.Process(segment{sport: 1, dst: 1, payload: filled(10, 1)}.frame())
	}
	return a.net.packets()
}

// A captured stream is sent to its receiver again: in whole, where the receiver missed every other packet, and where the top
// of its window stands so that the stream begins just inside, at the edge of and outside the window. Exactly the right
// packets pass, also across the end of the 32-bit numbers.
func TestReplayedStreams(t *testing.T) {
	const n = 200
	for _, window := range []uint32{32, 64, 100} {
		for _, l := range []link{{enc: "aes128gcm16"}, {enc: "aes128", integ: "sha256"}, {enc: "aes128gcm16iiv"}} {
			for _, first := range []uint64{0, 1<<32 - 100, 7<<32 - 50} {
				l := l // each runs when the loop is over
				l.window, l.esn = window, first > 0
				t.Run(fmt.Sprintf("%v window %d from %#x", l, window, first), func(t *testing.T) {
					t.Parallel()
					pkts := streamFrom(t, l, first, n)
					for shift := -1; shift <= 1; shift++ {
						// The receiver has seen every other packet of the first half, and one so far ahead that the half's last is
						// at the window's edge, give or take one.
						_, b := connect(t, l, nil)
						sa := b.inbound.find(0x1000)
						sa.window.top = first
						seen := map[int]bool{}
						send := func(i int) bool {
							b.in.Receive([]Datagrams{{Buf: bytes.Clone(pkts[i])}})
							return len(b.tap.take()) == 1
						}
						top := n/2 + int(window) + shift - 1
						top = min(top, n-1)
						for i := 0; i < n/2; i += 2 {
							seen[i] = true
							if !send(i) {
								t.Fatalf("packet %d, new, does not pass", i)
							}
						}
						seen[top] = true
						if !send(top) {
							t.Fatalf("packet %d, ahead, does not pass", top)
						}
						var got, want []int
						for round := range 2 {
							for i := range pkts {
								fresh := !seen[i] && (i > top || top-i < int(window))
								if fresh {
									seen[i] = true
									top = max(top, i)
								}
								if send(i) {
									got = append(got, round*n+i)
								}
								if fresh {
									want = append(want, round*n+i)
								}
							}
						}
						if !slices.Equal(got, want) {
							t.Errorf("shift %d: passed %v, want %v", shift, got, want)
						}
					}
				})
			}
		}
	}
}
