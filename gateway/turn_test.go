package gateway

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"coati/ike"
	"coati/policy"
)

// beside runs f while a loop works, and ends the loop. What f starts must have ended when it returns.
func (j *journal) beside(t *testing.T, f func(*loop)) {
	t.Helper()
	j.events = make(chan policy.PlaneEvent)
	l := j.loop()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); l.run(ctx) }()
	synctest.Wait()
	f(l)
	j.idle.Store(true)
	cancel()
	<-ended
}

// echo notes datagrams and results; a datagram wants the jobs that are named in it.
func (j *journal) echo(ev ike.Event, out *ike.Out) {
	switch ev := ev.(type) {
	case ike.Datagram:
		j.note("datagram %s", ev.Bytes)
		for i, c := range string(ev.Bytes) {
			j := ike.Job{ID: ike.JobID(i + 1), Light: c == 'l', Run: func() (any, error) { return string(c), nil }}
			if c == 'l' || c == 'h' {
				out.Jobs = append(out.Jobs, j)
			}
		}
	case ike.JobDone:
		j.note("result of job %d: %v", ev.ID, ev.Result)
	}
}

func TestWhoBringsAMessageHasItHandled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		j.wishes = j.echo
		j.beside(t, func(l *loop) {
			l.message(policy.Path{}, []byte("one"), false)
			if diff := cmp.Diff([]string{"datagram one"}, j.lines); diff != "" {
				t.Errorf("not handled on return: %s", diff)
			}
		})
	})
}

// The engine belongs to one goroutine at a time. Nobody who receives waits for it.
func TestAMessageThatFindsSomebodyAtTheEngineWaits(t *testing.T) {
	t.Parallel()
	j := &journal{events: make(chan policy.PlaneEvent)}
	j.wishes = j.echo
	arrived, goOn := make(chan struct{}), make(chan struct{})
	var at, most atomic.Int32
	handled := make(chan struct{}, 3)
	j.seen = func(ev ike.Event) {
		if _, ok := ev.(ike.Shutdown); ok {
			return
		}
		most.Store(max(most.Load(), at.Add(1)))
		if d, ok := ev.(ike.Datagram); ok && string(d.Bytes) == "one" {
			close(arrived)
			<-goOn
		}
		at.Add(-1)
		handled <- struct{}{}
	}
	l := j.loop()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); l.run(ctx) }()
	if err := l.call(ctx, func() {}); err != nil { // it runs
		t.Fatal(err)
	}
	go l.message(policy.Path{}, []byte("one"), false)
	<-arrived
	// Both return although the engine is taken.
	l.message(policy.Path{}, []byte("two"), false)
	l.jobDone(ike.JobDone{ID: 3})
	close(goOn)
	for range 3 {
		<-handled
	}
	j.idle.Store(true)
	cancel()
	<-ended
	if len(j.lines) != 3 || j.lines[0] != "datagram one" || most.Load() != 1 {
		t.Errorf("handled %q, %d at once", j.lines, most.Load())
	}
}

// What came before the configuration must find it.
func TestMessagesWaitForTheLoopToBegin(t *testing.T) {
	t.Parallel()
	j := &journal{}
	j.wishes = j.echo
	l := j.loop()
	l.message(policy.Path{}, []byte("early"), false)
	if len(j.lines) != 0 || len(l.datagrams) != 1 {
		t.Errorf("handled %q, %d wait", j.lines, len(l.datagrams))
	}
}

func TestAMessageDoesNotOvertakeThoseThatWait(t *testing.T) {
	t.Parallel()
	j := &journal{}
	j.wishes = j.echo
	l := j.loop()
	l.running = true
	l.datagram(policy.Path{}, []byte("one"))
	l.message(policy.Path{}, []byte("two"), true)
	if len(j.lines) != 0 || len(l.datagrams) != 2 {
		t.Errorf("handled %q, %d wait", j.lines, len(l.datagrams))
	}
}

func TestNothingIsHandledAfterTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		j.wishes = j.echo
		var over *loop
		j.beside(t, func(l *loop) { over = l })
		over.message(policy.Path{}, []byte("late"), true)
		over.jobDone(ike.JobDone{ID: 1})
		if len(j.lines) != 0 {
			t.Errorf("handled: %q", j.lines)
		}
	})
}

// Only who has nothing else to receive runs a job, and only a light one.
func TestALightJobOfTheLastMessageIsRunByItsReceiver(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		last bool
		want []string
	}{
		{"l", true, []string{"datagram l", "result of job 1: l"}},
		{"l", false, []string{"datagram l", "job 1"}},
		{"h", true, []string{"datagram h", "job 1"}},
		{"hl", true, []string{"datagram hl", "job 1", "result of job 2: l"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			j := &journal{}
			j.wishes = j.echo
			j.beside(t, func(l *loop) { l.message(policy.Path{}, []byte(c.text), c.last) })
			if diff := cmp.Diff(c.want, j.lines); diff != "" {
				t.Errorf("%q, last %v: %s", c.text, c.last, diff)
			}
		})
	}
}

// While a receiver runs a job, others have the engine.
func TestTheEngineIsFreeDuringALightJob(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		var working atomic.Bool
		j.wishes = func(ev ike.Event, out *ike.Out) {
			if d, ok := ev.(ike.Datagram); ok && string(d.Bytes) == "slow" {
				out.Jobs = []ike.Job{{ID: 1, Light: true, Run: func() (any, error) {
					working.Store(true)
					time.Sleep(time.Second)
					working.Store(false)
					return nil, nil
				}}}
				return
			}
			j.note("%T, working: %v", ev, working.Load())
		}
		j.beside(t, func(l *loop) {
			done := make(chan struct{})
			go func() { defer close(done); l.message(policy.Path{}, []byte("slow"), true) }()
			synctest.Wait()
			l.message(policy.Path{}, []byte("other"), true)
			<-done
		})
		want := []string{"ike.Datagram, working: true", "ike.JobDone, working: false"}
		if diff := cmp.Diff(want, j.lines[:min(2, len(j.lines))]); diff != "" {
			t.Error(diff)
		}
	})
}

// A receiver sets the timer for what its message brought.
func TestTheTimerFollowsWhatAReceiverHandled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var due time.Time
		j := &journal{deadline: func() time.Time { return due }}
		j.wishes = func(ev ike.Event, _ *ike.Out) {
			switch ev.(type) {
			case ike.Datagram:
				due = time.Now().Add(5 * time.Second)
			case ike.Timer:
				j.note("timer after %v", time.Since(begin))
				due = time.Time{}
			}
		}
		j.beside(t, func(l *loop) {
			l.message(policy.Path{}, []byte("one"), false)
			time.Sleep(time.Minute)
		})
		if diff := cmp.Diff([]string{"timer after 5s"}, j.lines); diff != "" {
			t.Error(diff)
		}
	})
}

// Run gives the machine back when its own goroutine panics: a receiver's panic must not end the process before.
func TestAPanicOfTheEngineIsTheLoops(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := &journal{events: make(chan policy.PlaneEvent)}
		j.wishes = func(ev ike.Event, _ *ike.Out) {
			if _, ok := ev.(ike.Datagram); ok {
				panic("a wrong turn")
			}
		}
		l := j.loop()
		said := make(chan any)
		go func() {
			defer func() { said <- recover() }()
			l.run(t.Context())
		}()
		synctest.Wait()
		l.message(policy.Path{}, []byte("one"), false)
		text, _ := (<-said).(string)
		if !strings.HasPrefix(text, "a wrong turn\n") || !strings.Contains(text, "turn_test.go") {
			t.Errorf("the loop ended with %q", text)
		}
		l.message(policy.Path{}, []byte("two"), false)
	})
}
