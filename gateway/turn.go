package gateway

import (
	"fmt"
	"runtime/debug"
	"slices"

	"coati/ike"
	"coati/policy"
)

// Waking a goroutine, where other processors idle, wakes one of them too: it looks for work, finds the goroutine already
// gone, and sleeps again, which costs more than most messages do. So whoever brings a datagram or a job's result has the
// engine handle it at once, if nobody else is at it and nothing waits. What finds somebody at it goes to the loop's
// goroutine by its channels, as does all that may take long, and what came among packets of ESP.
//
// A light job, for the last datagram that waited on the port of IKE alone, is run by who received it. The engine is free
// meanwhile, and the socket waits no longer than the job takes. Where datagrams come faster than that the pool has their jobs.

// turn says whether the engine is ours now: nobody is at it, and it takes datagrams. If so release must follow.
func (l *loop) turn() bool {
	if !l.mu.TryLock() {
		return false
	}
	if !l.running {
		l.mu.Unlock()
		return false
	}
	return true
}

// release ends a turn. A panic of the engine's becomes one of the loop's goroutine, whose end gives the machine back.
func (l *loop) release() {
	if p := recover(); p != nil {
		l.running = false
		l.broken <- fmt.Sprintf("%v\n\n%s", p, debug.Stack())
	}
	l.mu.Unlock()
}

// message takes an IKE message from who received it. last: nothing waits behind it, and a light job may be done at once.
func (l *loop) message(path policy.Path, b []byte, last bool) {
	if len(b) > maxDatagram || len(l.datagrams) > 0 || !l.turn() {
		l.datagram(path, b)
		return
	}
	for _, j := range l.handleHere(ike.Datagram{Path: path, Bytes: slices.Clone(b)}, last) {
		l.jobDone(run(j))
	}
}

// handleHere ends a turn, and returns the jobs that its caller must run.
func (l *loop) handleHere(ev ike.Event, keepLight bool) (light []ike.Job) {
	defer l.release()
	l.keepLight = keepLight
	l.handle(ev)
	l.keepLight = false
	l.arm()
	if len(l.light) > 0 {
		light = slices.Clone(l.light)
		clear(l.light)
		l.light = l.light[:0]
	}
	return light
}

// jobDone takes a job's result.
func (l *loop) jobDone(r ike.JobDone) {
	if len(l.results) > 0 || !l.turn() {
		select {
		case l.results <- r:
		case <-l.ended:
		}
		return
	}
	l.handleHere(r, false)
}
