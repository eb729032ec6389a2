package esp

import (
	"fmt"
	"math"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// What a packet pays for the look-ups, by how many policies and SAs there are. "Hot" is traffic of ten peers, "all" of
// every one in turn: then caches of the processor are the larger part. Times are of the processor, the least of many rounds: a busy
// machine does not change them much. "x" is how many times that of ten. "line" is what the same
// loop costs if in the place of a look-up it reads one cache line among as many, and "chased" if each says where the next is: what
// a processor can do with many at a time, and how long one takes.
func BenchmarkLookup(b *testing.B) {
	sizes := []int{10, 1000, 100_000}
	ten := make(map[string]float64)
	for _, n := range sizes {
		p, flows, spis := manyPeers(b, n)
		s, lines := p.spd.Load(), make([][8]uint64, n)
		for i := range lines {
			lines[i][0] = uint64(i + 40503)
		}
		for name, among := range map[string]int{"hot": 10, "all": n} {
			report := func(what string, look func(i int) bool) {
				b.Run(fmt.Sprintf("%s/%s/%d", what, name, n), func(b *testing.B) {
					least := leastTime(b, func(i int) bool { return look(i * 7919 % among) })
					line := leastTime(b, func(i int) bool { return lines[i*40503%among][1] == 0 })
					at := uint64(0)
					chased := leastTime(b, func(int) bool {
						at = lines[at%uint64(among)][0]
						return true
					})
					if n == 10 && name == "hot" {
						ten[what] = least
					}
					b.ReportMetric(least, "ns/look-up")
					b.ReportMetric(line, "ns/line")
					b.ReportMetric(chased, "ns/chased")
					b.ReportMetric(least/ten[what], "x")
					b.ReportMetric(0, "ns/op")
				})
			}
			report("spd", func(i int) bool { return s.lookup(&flows[i]) != nil })
			report("sad", func(i int) bool { return p.inbound.find(spis[i]) != nil })
		}
	}
}

// leastTime is what a call costs, nanoseconds of this thread: the least of many rounds.
func leastTime(tb testing.TB, f func(i int) bool) float64 {
	const rounds, calls = 60, 20_000
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	least, i := math.Inf(1), 0
	for range rounds {
		begin := threadTime(tb)
		for range calls {
			if i++; !f(i) {
				tb.Fatal("nothing found")
			}
		}
		least = min(least, float64(threadTime(tb)-begin)/calls)
	}
	return least
}

func threadTime(tb testing.TB) int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		tb.Fatal(err)
	}
	return t.Nano()
}
