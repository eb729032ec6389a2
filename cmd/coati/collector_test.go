package main

import "testing"

func TestAHeapGrowsBySixteenMiBOrDoubles(t *testing.T) {
	t.Parallel()
	for live, want := range map[uint64]int{0: 400, 1 << 20: 400, 4 << 20: 400, 8 << 20: 200, 16 << 20: 100, 1 << 30: 100} {
		if got := collectionPercent(live); got != want {
			t.Errorf("%d octets in use: %d %%, want %d", live, got, want)
		}
	}
}
