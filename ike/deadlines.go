package ike

import (
	"container/heap"
	"fmt"
	"time"
)

// The deadlines of all machines and tunnels, in one heap.

// slot is a place in the heap of deadlines, of an entry or a tunnel.
type slot struct {
	deadline time.Time
	index    int // in the heap; -1: not there
	entry    *entry
	tunnel   *tunnel
	prune    bool // of a tunnel: look for idle duplicates
}

// Deadline is the earliest of all machines and tunnels.
func (e *Engine) Deadline() time.Time {
	if len(e.deadlines) == 0 {
		return time.Time{}
	}
	return e.deadlines[0].deadline
}

// Earlier is the earlier of two deadlines, of which zero means never.
func Earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func (e *Engine) timer(now time.Time, out *Out) error {
	for len(e.deadlines) > 0 && !e.deadlines[0].deadline.After(now) {
		sl := e.deadlines[0]
		if sl.tunnel != nil {
			e.schedule(sl, time.Time{})
			do := sl.tunnel.tryAgain
			if sl.prune {
				do = sl.tunnel.pruneIdle
			}
			if err := do(e, now, out); err != nil {
				return err
			}
			continue
		}
		if err := e.run(now, sl.entry, Timer{}, out); err != nil {
			return err
		}
		if sl.index >= 0 && !sl.deadline.After(now) {
			return fmt.Errorf("ike: a machine of tunnel %q does not move its deadline %v", sl.entry.tunnel, sl.deadline)
		}
	}
	return nil
}

// schedule sets a deadline; zero takes it away.
func (e *Engine) schedule(sl *slot, d time.Time) {
	sl.deadline = d
	switch {
	case d.IsZero() && sl.index >= 0:
		heap.Remove(&e.deadlines, sl.index)
	case !d.IsZero() && sl.index < 0:
		heap.Push(&e.deadlines, sl)
	case !d.IsZero():
		heap.Fix(&e.deadlines, sl.index)
	}
}

// deadlineHeap orders slots by deadline.
type deadlineHeap []*slot

func (h deadlineHeap) Len() int           { return len(h) }
func (h deadlineHeap) Less(i, j int) bool { return h[i].deadline.Before(h[j].deadline) }
func (h deadlineHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *deadlineHeap) Push(x any) {
	sl := x.(*slot)
	sl.index = len(*h)
	*h = append(*h, sl)
}

func (h *deadlineHeap) Pop() any {
	old := *h
	sl := old[len(old)-1]
	*h = old[:len(old)-1]
	sl.index = -1
	return sl
}
