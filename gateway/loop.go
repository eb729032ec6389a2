package gateway

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"coati/ike"
	"coati/policy"
)

const (
	// maxDatagrams wait for the engine; the newest beyond them are dropped and counted.
	maxDatagrams = 1024
	// maxResults of jobs wait for the engine; the workers wait with more.
	maxResults = 64
	// maxDatagram is the largest IKE message that is taken, octets: certificates fit, a run of junk does not.
	maxDatagram = 64 << 10
	// goodbye is how long the peers have to answer our deletes at the end.
	goodbye = 2 * time.Second
	// maxRepairs bounds how often the engine may answer a failed change with another one that fails.
	maxRepairs = 8
)

// negotiator is the part of ike.Engine the loop drives.
type negotiator interface {
	ike.Machine
	Failed(now time.Time, ev ike.ChangeFailed, out *ike.Out) error
	Idle() bool
	Status() []ike.TunnelStatus
}

// loop owns the engine. Everything reaches its goroutine through channels, or is handled where it came if nobody else is at
// it (turn.go); everything the engine wants done is done from here, in the order that ike/contract.go states.
type loop struct {
	engine   negotiator
	plane    policy.Plane
	beside   <-chan policy.PlaneEvent     // of the plane that takes what the kernel leaves; nil: there is none
	keys     *keyLog                      // nil: no key log
	complete func([]policy.SA)            // adds to new SAs what only the machine knows
	expired  func(policy.PlaneEvent) bool // takes what is of no concern to the engine; nil: nothing is
	leased   func([]ike.Lease)            // writes new owners of addresses down
	given    func(ike.Given)              // puts addresses that a peer gave us onto the machine
	transmit func(ike.Send) error
	submit   func(ike.Job)
	ask      func(context.Context, ike.Ask) ike.Answer
	log      *slog.Logger

	datagrams chan ike.Datagram
	overflow  atomic.Uint64 // datagrams that found the queue full
	results   chan ike.JobDone
	answers   chan ike.Answer
	unreached chan ike.Unreachable
	calls     chan func()
	changed   <-chan struct{} // addresses or routes of this machine may have changed
	look      func() bool     // follows such changes; false if nothing that matters did
	asks      sync.WaitGroup
	ended     chan struct{} // closed when the loop takes no more calls

	// asking ends when nobody waits for answers any more.
	asking     context.Context
	stopAsking context.CancelFunc

	broken chan string // a panic on another goroutine than the loop's

	mu         sync.Mutex // whoever holds it is at the engine; guards what follows
	running    bool       // others than the loop's goroutine may be at it
	out        ike.Out
	keepLight  bool      // light jobs go to light
	light      []ike.Job // for who handles the event
	timer      *time.Timer
	armed      time.Time // when the timer fires; zero: it does not
	commands   ike.CommandID
	waiters    map[ike.CommandID]chan<- ike.Reply
	sendFailed map[string]time.Time // by reason, when it was last logged
	keysFailed bool
}

func newLoop(log *slog.Logger) *loop {
	l := &loop{
		log:       log,
		datagrams: make(chan ike.Datagram, maxDatagrams), answers: make(chan ike.Answer), calls: make(chan func()),
		unreached: make(chan ike.Unreachable), ended: make(chan struct{}), waiters: map[ike.CommandID]chan<- ike.Reply{}, sendFailed: map[string]time.Time{},
		results: make(chan ike.JobDone, maxResults), broken: make(chan string, 1), timer: time.NewTimer(time.Hour),
	}
	l.timer.Stop()
	l.asking, l.stopAsking = context.WithCancel(context.Background())
	return l
}

// errEnding answers what is asked of a gateway that ends.
var errEnding = errors.New("the gateway is ending")

// datagram takes an IKE message from the network. It copies the octets, never waits, and drops what finds the queue full.
func (l *loop) datagram(path policy.Path, b []byte) {
	if len(b) > maxDatagram || len(l.datagrams) == cap(l.datagrams) {
		l.overflow.Add(1)
		return
	}
	select {
	case l.datagrams <- ike.Datagram{Path: path, Bytes: append([]byte(nil), b...)}:
	default:
		l.overflow.Add(1)
	}
}

// run works until ctx ends, then says goodbye to the peers.
func (l *loop) run(ctx context.Context) {
	defer l.asks.Wait()
	defer l.stopAsking()
	defer close(l.ended)
	defer l.timer.Stop()
	l.mu.Lock()
	l.running = true
	l.arm()
	l.mu.Unlock()
	var giveUp <-chan time.Time
	leave := ctx.Done()
	for {
		var f func() // nil: ev
		var ev ike.Event
		select {
		case d := <-l.datagrams:
			ev = d
		case p := <-l.plane.Events():
			f = func() { l.planeSays(p) }
		case p := <-l.beside:
			f = func() {
				if p.Kind == policy.PlaneAcquire {
					l.handle(planeEvent(p))
				}
			}
		case r := <-l.results:
			ev = r
		case a := <-l.answers:
			ev = a
		case u := <-l.unreached:
			ev = u
		case f = <-l.calls:
		case <-l.changed:
			f = func() {
				if l.look() {
					l.handle(ike.AddressChanged{})
				}
			}
		case <-l.timer.C:
			f = func() {
				l.armed = time.Time{}
				l.handle(ike.Timer{})
			}
		case <-leave:
			leave = nil
			t := time.NewTimer(goodbye)
			defer t.Stop()
			giveUp = t.C
			ev = ike.Shutdown{}
		case <-giveUp:
			l.log.Warn("peers did not answer our goodbye in time")
			giveUp = nil
			f = l.stop
		case text := <-l.broken:
			panic(text)
		}
		if l.step(f, ev, leave == nil) {
			return
		}
	}
}

// step handles what came to the loop's goroutine, and says whether that was the end. Once we are leaving it ends when the
// engine has nothing left to do.
func (l *loop) step(f func(), ev ike.Event, leaving bool) (ended bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f != nil {
		f()
	} else {
		l.handle(ev)
	}
	l.arm()
	if leaving && l.engine.Idle() {
		l.stop()
	}
	return leaving && !l.running
}

// stop ends what waits. Nothing is handled any more.
func (l *loop) stop() {
	l.running = false
	l.dismiss()
}

// planeSays handles an event of the plane that moves ESP.
func (l *loop) planeSays(ev policy.PlaneEvent) {
	if l.expired == nil || !l.expired(ev) {
		l.handle(planeEvent(ev))
	}
}

func (l *loop) arm() {
	d := l.engine.Deadline()
	if d.Equal(l.armed) {
		return
	}
	if l.armed = d; d.IsZero() {
		l.timer.Stop()
		return
	}
	l.timer.Reset(max(0, time.Until(d)))
}

// call runs f on the loop's goroutine and waits for it.
func (l *loop) call(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case l.calls <- func() { defer close(done); f() }:
	case <-l.ended:
		return errEnding
	case <-ctx.Done():
		return ctx.Err()
	}
	<-done
	return nil
}

// command hands a command to the engine and waits for its end.
func (l *loop) command(ctx context.Context, c ike.Command) (ike.Reply, error) {
	answer := make(chan ike.Reply, 1)
	err := l.call(ctx, func() {
		l.commands++
		c.ID = l.commands
		l.waiters[c.ID] = answer
		l.handle(c)
	})
	if err != nil {
		return ike.Reply{}, err
	}
	select {
	case r := <-answer:
		return r, r.Err
	case <-l.ended:
		return ike.Reply{}, errEnding
	case <-ctx.Done():
		// The engine may still answer; nobody listens then.
		_ = l.call(context.Background(), func() { delete(l.waiters, c.ID) })
		return ike.Reply{}, ctx.Err()
	}
}

// dismiss ends the commands that wait.
func (l *loop) dismiss() {
	for id, w := range l.waiters {
		w <- ike.Reply{ID: id, Err: errEnding}
		delete(l.waiters, id)
	}
}

func planeEvent(ev policy.PlaneEvent) ike.Event {
	switch ev.Kind {
	case policy.PlaneExpireSoft:
		return ike.Expire{SA: ev.SA}
	case policy.PlaneExpireHard:
		return ike.Expire{SA: ev.SA, Hard: true}
	case policy.PlaneMapping:
		return ike.Mapping{SA: ev.SA, Remote: ev.Remote}
	case policy.PlaneUsed:
		return ike.SAUsed{SA: ev.SA}
	}
	return ike.Acquire{Policy: ev.Policy, Flow: ev.Flow}
}

// handle lets the engine decide, and does what it wants.
func (l *loop) handle(ev ike.Event) {
	l.out.Reset()
	now := time.Now()
	if err := l.engine.Handle(now, ev, &l.out); err != nil {
		l.log.Error("a state machine is at fault", slog.String(keyEvent, eventName(ev)), slog.String(keyReason, err.Error()))
	}
	l.perform(now, &l.out)
}

// perform does what an Out wants, in the contract's order.
func (l *loop) perform(now time.Time, out *ike.Out) {
	failed := map[ike.ChangeID]error{}
	if len(out.Leases) > 0 {
		l.leased(out.Leases)
	}
	for _, g := range out.Given {
		l.given(g)
	}
	l.apply(now, out, failed, 0)
	for _, k := range out.KeyLog {
		if l.keys != nil {
			l.keyLogged(l.keys.writeIKE(k))
		}
		k.Wipe()
	}
	for _, s := range out.Sends {
		if s.After != 0 && failed[s.After] != nil {
			continue
		}
		if err := l.transmit(s); err != nil {
			l.notSent(now, s, err)
		}
	}
	for _, r := range out.Log {
		l.log.LogAttrs(context.Background(), r.Level, r.Msg, r.Attrs...)
	}
	for _, r := range out.Replies {
		if err := failed[r.After]; err != nil && r.After != 0 && r.Err == nil {
			r.Err = err
		}
		if w := l.waiters[r.ID]; w != nil {
			w <- r
			delete(l.waiters, r.ID)
		}
	}
	for _, j := range out.Jobs {
		if j.Light && l.keepLight {
			l.light = append(l.light, j)
			continue
		}
		l.submit(j)
	}
	for _, q := range out.Asks {
		l.asks.Go(func() {
			a := l.ask(l.asking, q)
			select {
			case l.answers <- a:
			case <-l.ended:
			}
		})
	}
}

// apply performs the changes of an Out. What the engine wants because one failed is done before the next, and joins the
// rest of the Out.
func (l *loop) apply(now time.Time, out *ike.Out, failed map[ike.ChangeID]error, depth int) {
	for i := range out.Changes {
		c := &out.Changes[i]
		err := l.change(&c.Tx)
		if err == nil {
			continue
		}
		l.log.Error("the plane refuses a change", slog.String(keyReason, err.Error()))
		failed[c.ID] = err
		if depth == maxRepairs {
			continue
		}
		var more ike.Out
		if err := l.engine.Failed(now, ike.ChangeFailed{ID: c.ID, Err: err}, &more); err != nil {
			l.log.Error("a state machine is at fault", slog.String(keyEvent, "change failed"), slog.String(keyReason, err.Error()))
		}
		l.apply(now, &more, failed, depth+1)
		out.KeyLog = append(out.KeyLog, more.KeyLog...)
		out.Sends = append(out.Sends, more.Sends...)
		out.Log = append(out.Log, more.Log...)
		out.Replies = append(out.Replies, more.Replies...)
		out.Jobs = append(out.Jobs, more.Jobs...)
		out.Asks = append(out.Asks, more.Asks...)
	}
}

// change logs the keys of new SAs before the plane may use them: waiting packets leave from within Apply.
func (l *loop) change(tx *policy.Tx) error {
	if len(tx.AddSAs) > 0 {
		l.complete(tx.AddSAs)
	}
	for i := range tx.AddSAs {
		if l.keys != nil {
			l.keyLogged(l.keys.writeESP(&tx.AddSAs[i]))
		}
	}
	return l.plane.Apply(*tx)
}

// keyLogged says once that keys cannot be logged; tunnels matter more than their captures.
func (l *loop) keyLogged(err error) {
	if err != nil && !l.keysFailed {
		l.keysFailed = true
		l.log.Error("keys cannot be logged", slog.String(keyReason, err.Error()))
	}
}

// notSent logs a failure once a minute for each reason. The engine repeats what matters.
func (l *loop) notSent(now time.Time, s ike.Send, err error) {
	reason := err.Error()
	if last, ok := l.sendFailed[reason]; ok && now.Sub(last) < time.Minute {
		return
	}
	if len(l.sendFailed) > 100 {
		clear(l.sendFailed)
	}
	l.sendFailed[reason] = now
	l.log.Warn("a message cannot be sent", slog.String(keyPeer, s.Path.Remote.String()), slog.String(keyLocal, s.Path.Local.String()), slog.String(keyReason, reason))
}

func eventName(ev ike.Event) string {
	switch ev.(type) {
	case ike.Datagram:
		return "datagram"
	case ike.Timer:
		return "timer"
	case ike.JobDone:
		return "job done"
	case ike.Answer:
		return "answer"
	case ike.Command:
		return "command"
	case ike.Configure:
		return "configure"
	case ike.Shutdown:
		return "shutdown"
	case ike.Acquire:
		return "acquire"
	case ike.Expire:
		return "expire"
	case ike.Mapping:
		return "mapping"
	case ike.SAUsed:
		return "sa used"
	}
	return "event"
}
