package tun

import (
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Ledger records every change made to the machine, so that it can be undone in reverse order.
// The zero value is ready for use.
type Ledger struct {
	mu      sync.Mutex
	changes []*Change
}

// Change is one recorded change. A nil *Change is one already undone.
type Change struct {
	ledger *Ledger
	what   string
	once   sync.Once
	undo   func() error
	err    error
}

// Record notes a change and how to undo it. undo runs at most once.
func (l *Ledger) Record(what string, undo func() error) *Change {
	c := &Change{ledger: l, what: what, undo: undo}
	l.mu.Lock()
	l.changes = append(l.changes, c)
	l.mu.Unlock()
	return c
}

// Entries says what stands in the ledger, oldest first.
func (l *Ledger) Entries() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]string, len(l.changes))
	for i, c := range l.changes {
		out[i] = c.what
	}
	return out
}

// Close undoes what is left, newest first. One failure does not keep the others from being
// undone; all are reported.
func (l *Ledger) Close() error {
	var errs []error
	for {
		l.mu.Lock()
		if len(l.changes) == 0 {
			l.mu.Unlock()
			return errors.Join(errs...)
		}
		c := l.changes[len(l.changes)-1]
		l.mu.Unlock()
		if err := c.Undo(); err != nil {
			errs = append(errs, err)
		}
	}
}

// Undo undoes this change alone and takes it off the ledger. Later calls return the first
// call's result.
func (c *Change) Undo() error {
	if c == nil {
		return nil
	}
	c.once.Do(func() {
		if err := c.undo(); err != nil {
			c.err = fmt.Errorf("undo %s: %w", c.what, err)
		}
		c.ledger.mu.Lock()
		c.ledger.changes = slices.DeleteFunc(c.ledger.changes, func(o *Change) bool { return o == c })
		c.ledger.mu.Unlock()
	})
	return c.err
}
