package esp

import (
	"math"
	"testing"

	"coati/packet"
	"coati/policy"
)

// A key that was used before goes on where its numbers were reserved, and never beyond what is reserved now.
func TestNumbersBeginWhereTheyWereLeftAndStopAtTheCeiling(t *testing.T) {
	t.Parallel()
	a := newHost(nil)
	sa := gcm128.outbound()
	sa.Sequence, sa.Ceiling = 1000, 1002
	if err := a.Apply(policy.Tx{PutPolicies: []policy.Policy{protectPolicy()}, AddSAs: []policy.SA{sa}}); err != nil {
		t.Fatal(err)
	}
	send := func(want ...uint32) {
		t.Helper()
		for range 3 {
			a.out.Process(segment{udp: true, payload: filled(20, 1)}.frame())
		}
		got := a.net.packets()
		if len(got) != len(want) {
			t.Fatalf("%d packets left, want %d", len(got), len(want))
		}
		for i, p := range got {
			if n := packet.ESP(p).Sequence(); n != want[i] {
				t.Errorf("packet %d has number %d, want %d", i, n, want[i])
			}
		}
	}
	send(1001, 1002)
	if n := a.drops(DropExhausted); n != 1 {
		t.Errorf("%d packets were dropped for want of a number, want 1", n)
	}
	a.noEvent(t) // it only waits for more numbers
	if err := a.Apply(policy.Tx{UpdateSAs: []policy.SAUpdate{{ID: sa.ID, Ceiling: 1001}}}); err != nil {
		t.Fatal(err)
	}
	send() // a ceiling is never lowered, and not raised by this
	if err := a.Apply(policy.Tx{UpdateSAs: []policy.SAUpdate{{ID: sa.ID, Ceiling: 1010}}}); err != nil {
		t.Fatal(err)
	}
	send(1003, 1004, 1005)
	if err := a.Apply(policy.Tx{UpdateSAs: []policy.SAUpdate{{ID: sa.ID, Ceiling: math.MaxUint64}}}); err != nil {
		t.Fatal(err)
	}
	used := gcm128.outbound()
	used.ID, used.Sequence = 77, math.MaxUint32+1
	if err := a.Apply(policy.Tx{AddSAs: []policy.SA{used}}); err == nil {
		t.Error("an SA without numbers left was taken")
	}
	used.Sequence = math.MaxUint32 - 1
	if err := a.Apply(policy.Tx{AddSAs: []policy.SA{used}, DeleteSAs: []policy.SAID{sa.ID}}); err != nil {
		t.Fatal(err)
	}
	send(math.MaxUint32)
	if ev := a.event(t); ev.Kind == policy.PlaneExpireSoft {
		ev = a.event(t)
		if ev.Kind != policy.PlaneExpireHard {
			t.Errorf("the last number was used and nobody hears of it: %v", ev.Kind)
		}
	}
}

func TestAnSAGivesItsSPIToItsSuccessor(t *testing.T) {
	t.Parallel()
	a, b := connect(t, gcm128, nil)
	next := gcm128.inbound()
	next.ID = 50
	if err := b.Apply(policy.Tx{AddSAs: []policy.SA{next}}); err == nil {
		t.Fatal("an spi was taken twice")
	}
	next = gcm128.inbound()
	next.ID = 50
	if err := b.Apply(policy.Tx{AddSAs: []policy.SA{next}, DeleteSAs: []policy.SAID{gcm128.inbound().ID}}); err != nil {
		t.Fatal(err)
	}
	a.out.Process(segment{udp: true, payload: filled(20, 1)}.frame())
	carry(a, b)
	if s, err := b.State(50); err != nil || s.Packets != 1 {
		t.Errorf("the successor has %d packets, want 1 (%v)", s.Packets, err)
	}
}

// An SA nobody negotiated has no selectors worth the name: what it may carry, the inbound policies say.
func TestWhatComesByAManualSAMustHaveItsPolicy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		policies []policy.Policy
		want     int
	}{
		{"none", nil, 0},
		{"its own", []policy.Policy{{ID: 9, Direction: policy.Inbound, ReqID: 7, Local: selectors("10.2.0.0/24"), Remote: selectors("10.1.0.0/24[udp]")}}, 1},
		{"another protocol", []policy.Policy{{ID: 9, Direction: policy.Inbound, ReqID: 7, Local: selectors("10.2.0.0/24"), Remote: selectors("10.1.0.0/24[tcp]")}}, 0},
		{"another SA's", []policy.Policy{{ID: 9, Direction: policy.Inbound, ReqID: 8, Local: selectors("10.2.0.0/24"), Remote: selectors("10.1.0.0/24")}}, 0},
		{"discard comes first", []policy.Policy{
			{ID: 9, Direction: policy.Inbound, ReqID: 7, Local: selectors("10.2.0.0/24"), Remote: selectors("10.1.0.0/24")},
			{ID: 10, Direction: policy.Inbound, Action: policy.Discard, Priority: -1, Local: selectors("10.2.0.0/16"), Remote: selectors("10.1.0.0/16")},
		}, 0},
		{"bypass is not for it", []policy.Policy{{ID: 9, Direction: policy.Inbound, Action: policy.Bypass, ReqID: 7, Local: selectors("10.2.0.0/24"), Remote: selectors("10.1.0.0/24")}}, 0},
		{"the other way round", []policy.Policy{{ID: 9, Direction: policy.Inbound, ReqID: 7, Local: selectors("10.1.0.0/24"), Remote: selectors("10.2.0.0/24")}}, 0},
	} {
		a, b := connect(t, gcm128, nil)
		sa := gcm128.inbound()
		sa.ID, sa.ByPolicy, sa.Local, sa.Remote = 60, true, policy.AnySelectors(), policy.AnySelectors()
		if err := b.Apply(policy.Tx{PutPolicies: c.policies, AddSAs: []policy.SA{sa}, DeleteSAs: []policy.SAID{gcm128.inbound().ID}}); err != nil {
			t.Fatal(err)
		}
		send := func(want int) {
			t.Helper()
			dropped := b.drops(DropSelectors)
			a.out.Process(segment{udp: true, payload: filled(20, 1)}.frame())
			carry(a, b)
			if got := len(b.tap.take()); got != want || b.drops(DropSelectors)-dropped != uint64(1-want) {
				t.Errorf("%s: %d packets delivered, want %d; drops %v", c.name, got, want, b.Counters().Drops)
			}
		}
		send(c.want)
		send(c.want)
		// What was remembered of a flow ends with its policy.
		if len(c.policies) > 0 {
			if err := b.Apply(policy.Tx{DeletePolicies: []policy.PolicyID{9, 10}}); err != nil {
				t.Fatal(err)
			}
			send(0)
		}
	}
}

func TestEntriesShowWhatStands(t *testing.T) {
	t.Parallel()
	a, b := connect(t, link{enc: "aes128", integ: "sha256", lifetime: policy.Lifetime{SoftPackets: 1}}, nil)
	a.out.Process(segment{udp: true, payload: filled(20, 1)}.frame())
	carry(a, b)
	out, in := a.Entries(true), b.Entries(false)
	if len(out) != 1 || len(in) != 1 {
		t.Fatalf("%d and %d entries", len(out), len(in))
	}
	if o := out[0]; !o.Dying || o.Dead || o.State.Packets != 1 || o.State.Sequence != 1 || !o.SA.EncryptionKey.Equal(key(16, 0)) || o.SA.IntegrityKey.Len() != 32 {
		t.Errorf("outbound: %+v", o)
	}
	if i := in[0]; i.State.Packets != 1 || i.State.Sequence != 1 || i.State.LastAuthenticated.IsZero() || i.SA.EncryptionKey.Len()+i.SA.IntegrityKey.Len() != 0 {
		t.Errorf("inbound: %+v", i)
	}
	// The keys are copies: wiping them harms nothing.
	out[0].SA.EncryptionKey.Wipe()
	if !a.Entries(true)[0].SA.EncryptionKey.Equal(key(16, 0)) {
		t.Error("the plane's own key was given away")
	}
}

// Nobody waits to see that the successor of a manual key is used: it does not announce itself.
func TestSuccessorOfAManualKeyIsSilent(t *testing.T) {
	t.Parallel()
	a, _ := connect(t, gcm128, nil)
	next := link{enc: "aes128gcm16", id: 5}.outbound()
	next.ByPolicy = true
	if err := a.Apply(policy.Tx{AddSAs: []policy.SA{next}}); err != nil {
		t.Fatal(err)
	}
	if n := len(a.net.packets()); n != 0 {
		t.Errorf("%d packets left", n)
	}
	a.out.Process(segment{udp: true, payload: filled(20, 1)}.frame())
	if p := a.net.packets(); len(p) != 1 || packet.ESP(p[0]).SPI() != uint32(next.SPI) || packet.ESP(p[0]).Sequence() != 1 {
		t.Errorf("%d packets left by the successor", len(p))
	}
}
