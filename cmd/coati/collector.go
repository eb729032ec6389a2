package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// A gateway with few tunnels has a heap of a few MiB, which a hundred handshakes double: collecting each time, as Go does by
// itself, costs a tenth of a handshake. The pages that more garbage takes cost their first use, so much more pays no more.

// leastGrowth is how far the heap may grow between two collections at the least, octets.
const leastGrowth = 16 << 20

// collectionPercent is debug.SetGCPercent's argument for a heap of which so many octets are in use: at least 100, as Go has it.
func collectionPercent(live uint64) int {
	return max(100, int(leastGrowth*100/max(live, 4<<20)))
}

// followHeap keeps the collector at that until ctx ends. Where GOGC is set it is the user's choice.
func followHeap(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	now := collectionPercent(0)
	before := debug.SetGCPercent(now)
	defer debug.SetGCPercent(before)
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		metrics.Read(sample)
		// Each change stops all goroutines for a moment.
		if p := collectionPercent(sample[0].Value.Uint64()); p < now || p > now+now/4 {
			debug.SetGCPercent(p)
			now = p
		}
	}
}
