package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"coati/ike"
	"coati/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// journal is an engine, a plane and the world around a loop. It writes down what happens to it, in order.
type journal struct {
	lines    []string
	wishes   func(ike.Event, *ike.Out)            // what the engine wants of each event
	repairs  func(ike.ChangeFailed, *ike.Out)     // of each failed change
	refuse   map[policy.PolicyID]error            // what the plane refuses
	deadline func() time.Time                     // of the engine
	events   chan policy.PlaneEvent               // of the plane
	idle     atomic.Bool                          // the engine has said goodbye
	seen     func(ev ike.Event)                   // called for each event
	answer   func(context.Context, ike.Ask) error // how asks end
}

func (j *journal) note(format string, args ...any) {
	j.lines = append(j.lines, fmt.Sprintf(format, args...))
}

func (j *journal) Handle(_ time.Time, ev ike.Event, out *ike.Out) error {
	if j.seen != nil {
		j.seen(ev)
	}
	if j.wishes != nil {
		j.wishes(ev, out)
	}
	return nil
}

func (j *journal) Failed(_ time.Time, ev ike.ChangeFailed, out *ike.Out) error {
	j.note("engine learns that change %d failed: %v", ev.ID, ev.Err)
	if j.repairs != nil {
		j.repairs(ev, out)
	}
	return nil
}

func (j *journal) Deadline() time.Time {
	if j.deadline == nil {
		return time.Time{}
	}
	return j.deadline()
}
func (j *journal) Idle() bool                 { return j.idle.Load() }
func (j *journal) Status() []ike.TunnelStatus { return nil }

func (j *journal) AllocSPI(policy.Protocol) (policy.SPI, error) { return 0, nil }
func (j *journal) FreeSPI(policy.Protocol, policy.SPI)          {}
func (j *journal) State(policy.SAID) (policy.State, error)      { return policy.State{}, policy.ErrNoSA }
func (j *journal) Events() <-chan policy.PlaneEvent             { return j.events }
func (j *journal) Capabilities() policy.Caps                    { return policy.Caps{} }
func (j *journal) Apply(tx policy.Tx) error {
	id := tx.DeletePolicies[0]
	j.note("apply %d", id)
	return j.refuse[id]
}

// records makes a journal a log's handler too.
type records struct{ note func(string, ...any) }

func (r records) Handle(_ context.Context, rec slog.Record) error {
	r.note("log %s", rec.Message)
	return nil
}
func (r records) Enabled(context.Context, slog.Level) bool { return true }
func (r records) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r records) WithGroup(string) slog.Handler            { return r }

func (j *journal) loop() *loop {
	l := newLoop(slog.New(records{j.note}))
	l.engine, l.plane = j, j
	l.transmit = func(s ike.Send) error { j.note("send %s", s.Bytes); return nil }
	l.submit = func(q ike.Job) { j.note("job %d", q.ID) }
	l.complete = func([]policy.SA) {}
	l.ask = func(ctx context.Context, q ike.Ask) ike.Answer { return ike.Answer{ID: q.ID, Err: j.answer(ctx, q)} }
	return l
}

// change is a recognisable change.
func change(id ike.ChangeID) ike.Change {
	return ike.Change{ID: id, Tx: policy.Tx{DeletePolicies: []policy.PolicyID{policy.PolicyID(id)}}}
}

func send(text string, after ike.ChangeID) ike.Send {
	return ike.Send{Bytes: []byte(text), After: after}
}

func TestWishesAreFulfilledInTheContractsOrder(t *testing.T) {
	t.Parallel()
	j := &journal{wishes: func(_ ike.Event, out *ike.Out) {
		out.Jobs = []ike.Job{{ID: 7}}
		out.Record(slog.LevelInfo, "up")
		out.Sends = []ike.Send{send("hello", 1), send("again", 0)}
		out.Changes = []ike.Change{change(1), change(2)}
	}}
	j.loop().handle(ike.Timer{})
	want := []string{"apply 1", "apply 2", "send hello", "send again", "log up", "job 7"}
	if diff := cmp.Diff(want, j.lines); diff != "" {
		t.Error(diff)
	}
}

// The peer is never told of an SA that the plane refused; what the engine does about it comes before later changes.
func TestRefusedChangeKeepsItsSendBack(t *testing.T) {
	t.Parallel()
	j := &journal{
		refuse: map[policy.PolicyID]error{1: errors.New("no room")},
		wishes: func(_ ike.Event, out *ike.Out) {
			out.Changes = []ike.Change{change(1), change(2)}
			out.Sends = []ike.Send{send("child is up", 1), send("other child is up", 2)}
			out.Replies = []ike.Reply{{ID: 1, After: 1}, {ID: 2, After: 2}}
		},
		repairs: func(_ ike.ChangeFailed, out *ike.Out) {
			out.Changes = []ike.Change{change(3)}
			out.Sends = []ike.Send{send("no child", 3)}
		},
	}
	l := j.loop()
	first, second := make(chan ike.Reply, 1), make(chan ike.Reply, 1)
	l.waiters[1], l.waiters[2] = first, second
	l.handle(ike.Timer{})
	want := []string{
		"apply 1", "log the plane refuses a change", "engine learns that change 1 failed: no room", "apply 3", "apply 2", "send other child is up", "send no child",
	}
	if diff := cmp.Diff(want, j.lines); diff != "" {
		t.Error(diff)
	}
	if r := <-first; r.Err == nil || r.Err.Error() != "no room" {
		t.Errorf("the command that rests on the refused change ends with %v", r.Err)
	}
	if r := <-second; r.Err != nil {
		t.Errorf("the other command ends with %v", r.Err)
	}
}

// An engine whose repair fails for ever must not hold the loop.
func TestRepairsAreBounded(t *testing.T) {
	t.Parallel()
	j := &journal{
		refuse:  map[policy.PolicyID]error{1: errors.New("never")},
		wishes:  func(_ ike.Event, out *ike.Out) { out.Changes = []ike.Change{change(1)} },
		repairs: func(_ ike.ChangeFailed, out *ike.Out) { out.Changes = []ike.Change{change(1)} },
	}
	j.loop().handle(ike.Timer{})
	n := 0
	for _, l := range j.lines {
		if l == "apply 1" {
			n++
		}
	}
	if n != maxRepairs+1 {
		t.Errorf("applied %d times, want %d", n, maxRepairs+1)
	}
}

func TestFullQueueDropsTheNewestDatagram(t *testing.T) {
	t.Parallel()
	l := (&journal{}).loop()
	buf := []byte("datagram 0000")
	for i := range maxDatagrams + 3 {
		copy(buf[9:], fmt.Sprintf("%04d", i))
		l.datagram(policy.Path{}, buf)
	}
	if got := l.overflow.Load(); got != 3 {
		t.Errorf("%d dropped, want 3", got)
	}
	copy(buf, "overwritten!!")
	if got := string((<-l.datagrams).Bytes); got != "datagram 0000" {
		t.Errorf("the oldest is %q: dropped, or not a copy of the receive buffer", got)
	}
	l.datagram(policy.Path{}, make([]byte, maxDatagram+1))
	if got := l.overflow.Load(); got != 4 {
		t.Error("an oversized datagram was taken")
	}
}

func TestTimerComesAtTheDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		due := begin.Add(7 * time.Second)
		var at time.Duration
		j := &journal{deadline: func() time.Time { return due }, events: make(chan policy.PlaneEvent)}
		ctx, cancel := context.WithCancel(t.Context())
		j.seen = func(ev ike.Event) {
			// The timer's first tick is the loop's own; the engine ignores what comes early.
			if _, ok := ev.(ike.Timer); ok && !time.Now().Before(due) {
				at = time.Since(begin)
				due = time.Time{}
				j.idle.Store(true)
				cancel()
			}
		}
		j.loop().run(ctx)
		if at != 7*time.Second {
			t.Errorf("timer after %v", at)
		}
	})
}

func TestGoodbyeWaitsTwoSecondsAtTheMost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := &journal{events: make(chan policy.PlaneEvent)}
		var told bool
		j.seen = func(ev ike.Event) {
			if _, ok := ev.(ike.Shutdown); ok {
				told = true
			}
		}
		l := j.loop()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		begin := time.Now()
		l.run(ctx)
		if d := time.Since(begin); !told || d != goodbye {
			t.Errorf("shutdown handled: %v, ended after %v", told, d)
		}
		if _, err := l.command(t.Context(), ike.Command{}); !errors.Is(err, errEnding) {
			t.Errorf("a command after the end: %v", err)
		}
	})
}

func TestGoodbyeEndsOnceAllPeersHaveAnswered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := &journal{events: make(chan policy.PlaneEvent)}
		l := j.loop()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		j.seen = func(ev ike.Event) {
			switch ev.(type) {
			case ike.Shutdown:
				go func() {
					time.Sleep(300 * time.Millisecond)
					l.datagram(policy.Path{}, []byte("bye"))
				}()
			case ike.Datagram:
				j.idle.Store(true)
			}
		}
		begin := time.Now()
		l.run(ctx)
		if d := time.Since(begin); d != 300*time.Millisecond {
			t.Errorf("ended after %v", d)
		}
	})
}

func TestCommandWaitsForItsReply(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := &journal{events: make(chan policy.PlaneEvent)}
		var ids []ike.CommandID
		j.wishes = func(ev ike.Event, out *ike.Out) {
			switch ev := ev.(type) {
			case ike.Command:
				ids = append(ids, ev.ID)
				if ev.Tunnel == "wrong" {
					out.Replies = append(out.Replies, ike.Reply{ID: ev.ID, Err: errors.New("no such tunnel")})
				}
			case ike.Datagram:
				out.Replies = append(out.Replies, ike.Reply{ID: ids[0], Text: "at last"})
			case ike.Shutdown:
				j.idle.Store(true)
			}
		}
		l := j.loop()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); l.run(ctx) }()
		go func() {
			time.Sleep(time.Minute)
			l.datagram(policy.Path{}, []byte("from the peer"))
		}()
		if r, err := l.command(ctx, ike.Command{Verb: ike.Up, Tunnel: "a"}); err != nil || r.Text != "at last" {
			t.Errorf("reply %v, %v", r, err)
		}
		if _, err := l.command(ctx, ike.Command{Verb: ike.Up, Tunnel: "wrong"}); err == nil {
			t.Error("the engine's refusal was lost")
		}
		short, stop := context.WithTimeout(ctx, time.Second)
		defer stop()
		if _, err := l.command(short, ike.Command{Verb: ike.Up, Tunnel: "b"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a command nobody answers: %v", err)
		}
		if len(l.waiters) != 0 {
			t.Errorf("%d waiters are left", len(l.waiters))
		}
		cancel()
		<-ended
	})
}

func TestEventsOfThePlaneReachTheEngine(t *testing.T) {
	t.Parallel()
	remote := netip.MustParseAddrPort("192.0.2.7:4500")
	flow := policy.Flow{Protocol: 6}
	for _, c := range []struct {
		from policy.PlaneEvent
		to   ike.Event
	}{
		{policy.PlaneEvent{Kind: policy.PlaneAcquire, Policy: 3, Flow: flow}, ike.Acquire{Policy: 3, Flow: flow}},
		{policy.PlaneEvent{Kind: policy.PlaneExpireSoft, SA: 4}, ike.Expire{SA: 4}},
		{policy.PlaneEvent{Kind: policy.PlaneExpireHard, SA: 4}, ike.Expire{SA: 4, Hard: true}},
		{policy.PlaneEvent{Kind: policy.PlaneMapping, SA: 5, Remote: remote}, ike.Mapping{SA: 5, Remote: remote}},
		{policy.PlaneEvent{Kind: policy.PlaneUsed, SA: 6}, ike.SAUsed{SA: 6}},
	} {
		if diff := cmp.Diff(c.to, planeEvent(c.from), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%s: %s", c.from.Kind, diff)
		}
	}
}

// An open question ends with the loop, and does not keep it.
func TestAsksEndWithTheLoop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked, ended bool
		j := &journal{events: make(chan policy.PlaneEvent)}
		j.answer = func(ctx context.Context, _ ike.Ask) error {
			asked = true
			<-ctx.Done()
			ended = true
			return ctx.Err()
		}
		l := j.loop()
		ctx, cancel := context.WithCancel(t.Context())
		j.wishes = func(ev ike.Event, out *ike.Out) {
			switch ev.(type) {
			case ike.Datagram:
				out.Asks = []ike.Ask{{ID: 1, What: ike.AskPath{Host: "slow.example"}}}
				cancel()
			case ike.Shutdown:
				j.idle.Store(true)
			}
		}
		l.datagram(policy.Path{}, []byte("begin"))
		l.run(ctx)
		if asked != ended {
			t.Errorf("asked %v, ended %v", asked, ended)
		}
	})
}

func TestPanicOfAJobIsItsError(t *testing.T) {
	t.Parallel()
	results := make(chan ike.JobDone, 2)
	p := newPool(2, func(r ike.JobDone) { results <- r })
	p.submit(ike.Job{ID: 1, Run: func() (any, error) { panic("bad numbers") }})
	p.submit(ike.Job{ID: 2, Run: func() (any, error) { return "fine", nil }})
	got := map[ike.JobID]ike.JobDone{}
	for range 2 {
		r := <-results
		got[r.ID] = r
	}
	if got[1].Err == nil || got[2].Result != "fine" {
		t.Errorf("results %v", got)
	}
	p.close()
}
