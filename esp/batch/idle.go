package batch

import "sync"

// idle keeps what goroutines work with that are not at work with a key just now. Unlike a sync.Pool it lets nothing go, so
// that sealing and opening make no garbage.
type idle[S any] struct {
	// fresh is for a goroutine that finds none. What cannot fail the second time has been made once, and put.
	fresh func() (*S, error)

	mu   sync.Mutex // guards free
	free []*S
}

// seeded is an idle with one S in it, or the reason why there can be none.
func seeded[S any](fresh func() (*S, error)) (*idle[S], error) {
	s, err := fresh()
	if err != nil {
		return nil, err
	}
	return &idle[S]{fresh: fresh, free: []*S{s}}, nil
}

func (p *idle[S]) get() *S {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		s := p.free[n-1]
		p.free = p.free[:n-1]
		return s
	}
	s, err := p.fresh()
	if err != nil {
		panic(err) // the first was made the same way
	}
	return s
}

func (p *idle[S]) put(s *S) {
	p.mu.Lock()
	p.free = append(p.free, s)
	p.mu.Unlock()
}
