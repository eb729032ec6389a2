package gateway

import (
	"fmt"
	"runtime/debug"
	"sync"

	"coati/ike"
)

// pool runs the engine's jobs on a fixed number of goroutines, in the order they came. Submitting never waits: how many
// jobs can be open is bounded by the engine's limits on half-open SAs.
type pool struct {
	done func(ike.JobDone) // takes the results, on any worker

	mu     sync.Mutex // guards what follows
	wake   *sync.Cond
	queue  []ike.Job
	closed bool

	workers sync.WaitGroup
}

// newPool starts n workers that end with close, once done takes what they have.
func newPool(n int, done func(ike.JobDone)) *pool {
	p := &pool{done: done}
	p.wake = sync.NewCond(&p.mu)
	for range n {
		p.workers.Go(p.work)
	}
	return p
}

func (p *pool) submit(j ike.Job) {
	p.mu.Lock()
	p.queue = append(p.queue, j)
	p.mu.Unlock()
	p.wake.Signal()
}

// close drops what waits, and returns when no worker runs.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.wake.Broadcast()
	p.workers.Wait()
}

func (p *pool) work() {
	for {
		p.mu.Lock()
		for len(p.queue) == 0 && !p.closed {
			p.wake.Wait()
		}
		if p.closed {
			p.mu.Unlock()
			return
		}
		j := p.queue[0]
		p.queue = p.queue[1:]
		p.mu.Unlock()
		p.done(run(j))
	}
}

// run is a job from its beginning to its result.
func run(j ike.Job) ike.JobDone {
	r := ike.JobDone{ID: j.ID}
	r.Result, r.Err = compute(j)
	return r
}

// compute turns a panic into the job's error: one peer's numbers must not end all tunnels.
func compute(j ike.Job) (result any, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("a computation failed: %v\n%s", r, debug.Stack())
		}
	}()
	return j.Run()
}
