package sim

import (
	"testing"
	"time"

	"coati/ike"
	"coati/policy"
)

func TestLifetimesInOctets(t *testing.T) {
	t.Parallel()
	w, a, b := pair(t, 48, func(t *policy.PeerTunnel) {
		t.Children[0].Lifetime = policy.Lifetime{SoftOctets: 50 * packetOctets, HardOctets: 100 * packetOctets}
	}, nil)
	for n := range uint64(500) {
		w.After(time.Duration(n)*20*time.Millisecond, func() { a.Say(n, "t", "lan") })
	}
	w.Run(30 * time.Second)
	if rekeys := b.V2.Taken["peer rekeys a child"]; rekeys < 9 || rekeys > 12 {
		t.Errorf("rekeyed %d times in 500 packets", rekeys)
	}
	if len(b.Plane.Received) != 500 {
		t.Errorf("%d of 500 arrived", len(b.Plane.Received))
	}
	noFaults(t, w)
	// The hard limit ends a child that is not rekeyed.
	w, a, b = pair(t, 48, func(t *policy.PeerTunnel) { t.Children[0].Lifetime = policy.Lifetime{HardPackets: 10} }, nil)
	for n := range uint64(15) {
		w.After(time.Duration(n)*time.Second, func() { a.Say(n, "t", "lan") })
	}
	w.Run(12 * time.Second)
	if n := b.V2.Taken["peer deletes"]; n != 1 {
		t.Errorf("%d deletes after 10 packets", n)
	}
	w.Run(30 * time.Second)
	noFaults(t, w)
}

// Soft lifetimes differ from time to time, so that both ends and many children do not rekey at once.
func TestSoftLifetimesHaveJitter(t *testing.T) {
	t.Parallel()
	const life = 1000 * time.Second
	first := map[string][2]time.Duration{} // the earliest and the latest
	for seed := range uint64(40) {
		w, a, b := pair(t, seed, func(t *policy.PeerTunnel) {
			t.Lifetime = life
			t.Children[0].Lifetime = policy.Lifetime{SoftTime: life, HardTime: 2 * life}
		}, func(t *policy.PeerTunnel) { t.Lifetime = 0 })
		a.Command(ike.Up, "t", "")
		for _, row := range []string{"peer rekeys the IKE SA", "peer rekeys a child"} {
			w.RunUntil(2*life, func() bool { return b.V2.Taken[row] > 0 })
			at, seen := w.Now.Sub(Epoch), first[row]
			if seen[0] == 0 {
				seen = [2]time.Duration{at, at}
			}
			first[row] = [2]time.Duration{min(seen[0], at), max(seen[1], at)}
		}
	}
	for row, want := range map[string][2]time.Duration{"peer rekeys the IKE SA": {life * 8 / 10, life * 9 / 10}, "peer rekeys a child": {life * 9 / 10, life}} {
		got := first[row]
		if got[0] < want[0] || got[1] > want[1]+time.Second || got[1]-got[0] < life/20 {
			t.Errorf("%s between %v and %v, want all over %v to %v", row, got[0], got[1], want[0], want[1])
		}
	}
}

// start = now is tried for ever, with pauses that grow to RetryMax and no further.
func TestStartNowIsTriedForEver(t *testing.T) {
	t.Parallel()
	w, a, b := pair(t, 49, func(t *policy.PeerTunnel) { t.Start = policy.StartNow }, nil)
	b.Crash()
	var began []time.Duration
	known := map[string]bool{}
	w.Net.Tap = func(d Datagram) bool {
		if spi := string(d.Bytes[:8]); !known[spi] {
			known[spi] = true
			began = append(began, w.Now.Sub(Epoch))
		}
		return true
	}
	w.Run(24 * time.Hour)
	silence, l := RetransmissionLimit(a.Limits), a.Limits
	for i := 1; i < len(began); i++ {
		if pause := began[i] - began[i-1]; pause > silence+l.RetryMax+l.RetryMax/10 || i > 8 && pause < l.RetryMax {
			t.Errorf("attempt %d follows after %v", i, pause)
		}
	}
	if n := int(24 * time.Hour / (silence + l.RetryMax + l.RetryMax/10)); len(began) < n {
		t.Errorf("%d attempts in a day, want at least %d", len(began), n)
	}
	w.Net.Tap = nil
	b.Restart()
	w.Run(silence + 2*l.RetryMax)
	if !a.Up("t") {
		t.Error("not up once the peer is there")
	}
}
