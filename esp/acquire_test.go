package esp

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"coati/packet"
	"coati/policy"
)

func numbered(n int) []byte { return segment{sport: 1, payload: []byte{byte(n >> 8), byte(n)}}.frame() }

// arrived lists the numbers of the packets that came out.
func arrived(t *testing.T, h *host) (out []int) {
	for _, p := range unfoldAll(t, h.tap.take()) {
		tail := p[len(p)-2:]
		out = append(out, int(tail[0])<<8|int(tail[1]))
	}
	return out
}

func upTo(from, n int) (out []int) {
	for i := from; i < n; i++ {
		out = append(out, i)
	}
	return out
}

func waitingHost(t *testing.T, change func(*policy.Policy)) *host {
	t.Helper()
	a := newHost(nil)
	p := protectPolicy()
	if change != nil {
		change(&p)
	}
	if err := a.Apply(policy.Tx{PutPolicies: []policy.Policy{p}}); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestFirstPacketsWaitAndLeaveInOrder(t *testing.T) {
	a, b := waitingHost(t, nil), newHost(nil)
	for n := range 64 {
		a.out.Process(numbered(n))
	}
	ev := a.event(t)
	if ev.Kind != policy.PlaneAcquire || ev.Policy != 1 || ev.Flow.String() != "tcp 10.1.0.1:1 -> 10.2.0.0:5001" {
		t.Errorf("event %v policy %d flow %v", ev.Kind, ev.Policy, ev.Flow)
	}
	a.noEvent(t)
	if frames, _ := a.Waiting(1); frames != 64 {
		t.Errorf("%d frames wait", frames)
	}
	a.out.Process(numbered(999))
	if a.drops(DropQueueFull) != 1 {
		t.Error("the 65th packet was not dropped")
	}
	if err := b.Apply(policyTx(gcm128)); err != nil {
		t.Fatal(err)
	}
	if err := a.Apply(policy.Tx{AddSAs: []policy.SA{gcm128.outbound()}}); err != nil {
		t.Fatal(err)
	}
	for n := 64; n < 70; n++ {
		a.out.Process(numbered(n))
	}
	carry(a, b)
	if d := cmp.Diff(upTo(0, 70), arrived(t, b)); d != "" {
		t.Errorf("order (-want +got):\n%s", d)
	}
	a.noEvent(t)
}

// While an SA is being installed other queues go on; none of their packets may leave before what waited.
func TestNoPacketOvertakesTheWaiting(t *testing.T) {
	for range 50 {
		a, b := waitingHost(t, nil), newHost(nil)
		for n := range 20 {
			a.out.Process(numbered(n))
		}
		if err := b.Apply(policyTx(gcm128)); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for n := 20; n < 60; n++ {
				a.out.Process(numbered(n))
			}
		}()
		if err := a.Apply(policy.Tx{AddSAs: []policy.SA{gcm128.outbound()}}); err != nil {
			t.Fatal(err)
		}
		<-done
		carry(a, b)
		if d := cmp.Diff(upTo(0, 60), arrived(t, b)); d != "" {
			t.Fatalf("order (-want +got):\n%s", d)
		}
	}
}

// A packet may see the SA before Apply gets to what waits: it must let it go first.
func TestFirstToSeeTheSALetsTheWaitingGo(t *testing.T) {
	a, b := waitingHost(t, nil), newHost(nil)
	for n := range 3 {
		a.out.Process(numbered(n))
	}
	if err := b.Apply(policyTx(gcm128)); err != nil {
		t.Fatal(err)
	}
	sa := gcm128.outbound()
	a.bundles[7].replace(newOutSA(sa, must(newTransform(&sa))), nil)
	a.generation.Add(1)
	a.out.Process(numbered(3))
	carry(a, b)
	if d := cmp.Diff(upTo(0, 4), arrived(t, b)); d != "" {
		t.Errorf("order (-want +got):\n%s", d)
	}
}

func TestWaitingOctetsAreBounded(t *testing.T) {
	a := waitingHost(t, nil)
	for range 6 {
		a.out.Process(segment{payload: filled(60000, 1), gso: 1400}.frame())
	}
	if frames, octets := a.Waiting(1); frames != 4 || octets > policy.DefaultQueueOctets {
		t.Errorf("%d frames, %d octets wait", frames, octets)
	}
	a = waitingHost(t, func(p *policy.Policy) { p.QueuePackets = 2 })
	for n := range 6 {
		a.out.Process(numbered(n))
	}
	if frames, _ := a.Waiting(1); frames != 2 {
		t.Errorf("%d frames wait, 2 allowed", frames)
	}
}

func TestFailedNegotiationIsAnswered(t *testing.T) {
	a := waitingHost(t, nil)
	a.out.Process(numbered(1))
	a.out.Process(segment{v6: true, payload: filled(5000, 1), gso: 1400}.frame())
	a.event(t)
	if err := a.Apply(policy.Tx{FailAcquires: []policy.PolicyID{1}}); err != nil {
		t.Fatal(err)
	}
	frames := a.tap.take()
	if len(frames) != 2 {
		t.Fatalf("%d answers, want 2", len(frames))
	}
	if icmp := frames[0][packet.VirtioLen+20:]; icmp[0] != 3 || icmp[1] != 13 {
		t.Errorf("v4 answer has type %d code %d", icmp[0], icmp[1])
	}
	if icmp := frames[1][packet.VirtioLen+40:]; icmp[0] != 1 || icmp[1] != 1 {
		t.Errorf("v6 answer has type %d code %d", icmp[0], icmp[1])
	}
	if a.drops(DropNoSA) != 2 {
		t.Errorf("drops %v", a.Counters().Drops)
	}
	a.out.Process(numbered(2))
	if ev := a.event(t); ev.Kind != policy.PlaneAcquire {
		t.Errorf("the next packet made %v", ev.Kind)
	}
}

func TestAcquireIsRepeatedAndEnds(t *testing.T) {
	a := waitingHost(t, nil)
	a.out.Process(numbered(1))
	a.event(t)
	a.Tick(start.Add(time.Second))
	a.noEvent(t)
	a.Tick(start.Add(acquireRepeat + 2*time.Second))
	if ev := a.event(t); ev.Kind != policy.PlaneAcquire {
		t.Errorf("event %v", ev.Kind)
	}
	a.Tick(start.Add(acquirePatience + time.Second))
	if frames, _ := a.Waiting(1); frames != 0 || a.drops(DropNoSA) != 1 {
		t.Errorf("%d frames still wait", frames)
	}
}

// A peer may narrow an SA below the policy; packets outside it wait for an SA of their own.
func TestNarrowedSALetsOnlyItsOwnGo(t *testing.T) {
	a, b := waitingHost(t, nil), newHost(nil)
	in4 := numbered(1)
	in6 := segment{v6: true, sport: 1}.frame()
	a.out.Process(in4)
	a.out.Process(in6)
	a.event(t)
	sa, peer := gcm128.outbound(), gcm128.inbound()
	sa.Local, sa.Remote = selectors("10.1.0.0/16"), selectors("10.2.0.0/16")
	if err := a.Apply(policy.Tx{AddSAs: []policy.SA{sa}}); err != nil {
		t.Fatal(err)
	}
	if err := b.Apply(policy.Tx{AddSAs: []policy.SA{peer}}); err != nil {
		t.Fatal(err)
	}
	a.out.Process(numbered(2))
	carry(a, b)
	if d := cmp.Diff([]int{1, 2}, arrived(t, b)); d != "" {
		t.Errorf("arrived:\n%s", d)
	}
	if ev := a.event(t); ev.Kind != policy.PlaneAcquire || !ev.Flow.Src.Is6() {
		t.Errorf("event %v %v", ev.Kind, ev.Flow)
	}
	if frames, _ := a.Waiting(1); frames != 1 {
		t.Errorf("%d frames wait", frames)
	}
}

func TestLevelUsePassesInClearUntilThereIsAnSA(t *testing.T) {
	a := waitingHost(t, func(p *policy.Policy) { p.Level = policy.LevelUse })
	f := segment{payload: filled(3000, 1), gso: 1400, sport: 1}.frame()
	want := unfold(t, f)
	a.out.Process(f)
	a.out.Process(numbered(1))
	a.event(t)
	a.noEvent(t)
	if d := cmp.Diff(want, a.net.clear[:len(want)]); d != "" || len(a.net.clear) != len(want)+1 {
		t.Errorf("clear packets:\n%s", d)
	}
	if err := a.Apply(policy.Tx{AddSAs: []policy.SA{gcm128.outbound()}}); err != nil {
		t.Fatal(err)
	}
	a.out.Process(numbered(2))
	if len(a.net.packets()) != 1 {
		t.Error("not protected although there is an SA")
	}
}

func TestDeletedPolicyLetsNothingWait(t *testing.T) {
	a := waitingHost(t, nil)
	a.out.Process(numbered(1))
	if err := a.Apply(policy.Tx{DeletePolicies: []policy.PolicyID{1}}); err != nil {
		t.Fatal(err)
	}
	a.out.Process(numbered(2))
	if a.drops(DropNoPolicy) != 2 {
		t.Errorf("drops %v", a.Counters().Drops)
	}
}

// The SA ends while what waited leaves on it. The rest waits for the next SA, in order: nobody waits for himself.
func TestAnSAEndsWhileTheWaitingLeave(t *testing.T) {
	short := gcm128
	short.lifetime.HardPackets = 1
	next := link{enc: "aes128gcm16", id: 1}
	for name, c := range map[string]struct {
		first []byte // besides two datagrams of different sizes that wait
		bring func(a *host, sa policy.SA)
	}{
		"a transaction lets them go": {nil, func(a *host, sa policy.SA) { a.mustApply(t, policy.Tx{AddSAs: []policy.SA{sa}}) }},
		"a packet lets them go": {segment{sport: 1, udp: true, payload: filled(130*300, 5), gso: 300}.frame(), func(a *host, sa policy.SA) {
			a.bundles[sa.ReqID].replace(newOutSA(sa, must(newTransform(&sa))), nil)
			a.generation.Add(1)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := waitingHost(t, nil), newHost(nil)
			b.mustApply(t, policy.Tx{AddSAs: []policy.SA{short.inbound(), next.inbound()}})
			var want [][]byte
			add := func(f []byte) {
				want = append(want, unfold(t, f)...)
				a.out.Process(f)
			}
			for i := range 2 {
				add(segment{sport: 1, udp: true, payload: filled(100+i*100, byte(i))}.frame())
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				c.bring(a, short.outbound())
				if c.first != nil {
					add(c.first)
				}
			}()
			select {
			case <-done:
			case <-time.After(30 * time.Second):
				t.Fatal("whoever sends what waited waits for itself")
			}
			carry(a, b)
			if n, _ := a.Waiting(1); n == 0 {
				t.Error("nothing waits for a successor")
			}
			a.mustApply(t, policy.Tx{AddSAs: []policy.SA{next.outbound()}})
			add(segment{sport: 1, udp: true, payload: filled(50, 9)}.frame())
			carry(a, b)
			if d := cmp.Diff(byFlow(t, want), byFlow(t, unfoldAll(t, b.tap.take()))); d != "" {
				t.Errorf("packets changed on the way (-sent +received):\n%.2000s", d)
			}
			if n, _ := a.Waiting(1); n != 0 || len(a.Counters().Drops) > 0 {
				t.Errorf("%d wait, drops %v", n, a.Counters().Drops)
			}
		})
	}
}

// An SA that ends with the first run of a frame sent on it, while the frame's queue holds others back.
func TestAnSAEndsUnderAFrameThatWaited(t *testing.T) {
	short := gcm128
	short.lifetime.HardPackets = 1
	a := waitingHost(t, nil)
	f := segment{sport: 1, udp: true, payload: filled(130*300, 5), gso: 300}.frame()
	a.out.Process(f)
	a.mustApply(t, policy.Tx{AddSAs: []policy.SA{short.outbound()}})
	if n, _ := a.Waiting(1); n != 130-maxRun {
		t.Errorf("%d packets wait, want %d", n, 130-maxRun)
	}
	if n := len(a.net.packets()); n != maxRun {
		t.Errorf("%d packets left, want %d", n, maxRun)
	}
	a.mustApply(t, policy.Tx{DeletePolicies: []policy.PolicyID{1}})
	if n := a.drops(DropNoPolicy); n != 130-maxRun {
		t.Errorf("%d counted as dropped with their policy, want %d", n, 130-maxRun)
	}
}

// Whoever looked its policy up before it was deleted does not let a packet wait that nobody would count.
func TestNothingWaitsForADeletedPolicy(t *testing.T) {
	a := waitingHost(t, nil)
	e := a.policies[1]
	a.mustApply(t, policy.Tx{DeletePolicies: []policy.PolicyID{1}})
	frame := numbered(1)
	a.out.load(frame)
	a.out.hold(e, frame)
	if n := a.drops(DropNoPolicy); n != 1 || e.queue.waiting.Load() != 0 {
		t.Errorf("%d dropped, %d wait", n, e.queue.waiting.Load())
	}
}
