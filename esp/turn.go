package esp

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// How long a run waits for its turn before its goroutine sleeps: sealing 64 packets takes some 20 microseconds, so the
// one before us is mostly about to be done; if its thread lost the CPU it is not.
const (
	turnSpins  = 64
	turnYields = 16
)

// turnstile lets runs of sequence numbers leave in order. A run that is never sent must pass all the same.
type turnstile struct {
	passed  atomic.Uint64 // the last sequence number that passed
	waiters atomic.Int32
	mu      sync.Mutex
	cond    sync.Cond // on mu
}

// init says that all numbers up to last have passed.
func (t *turnstile) init(last uint64) {
	t.cond.L = &t.mu
	t.passed.Store(last)
}

// wait returns when all numbers up to before have passed.
func (t *turnstile) wait(before uint64) {
	for range turnSpins {
		if t.passed.Load() == before {
			return
		}
	}
	for range turnYields {
		if t.passed.Load() == before {
			return
		}
		runtime.Gosched()
	}
	// The waiter is announced before it looks again, and pass looks for waiters after it stored: one sees the other.
	t.waiters.Add(1)
	t.mu.Lock()
	for t.passed.Load() != before {
		t.cond.Wait()
	}
	t.mu.Unlock()
	t.waiters.Add(-1)
}

func (t *turnstile) pass(last uint64) {
	t.passed.Store(last)
	if t.waiters.Load() > 0 {
		t.mu.Lock()
		t.cond.Broadcast()
		t.mu.Unlock()
	}
}
