package sim

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"coati/ike"
	"coati/policy"
)

// mobile is a gateway whose address changes, and one that knows it by name.
func mobile(t *testing.T, seed uint64, change ...func(*policy.PeerTunnel)) (*World, *Host, *Host) {
	t.Helper()
	w := NewWorld(seed)
	a, b := w.AddHost("a", "192.0.2.1"), w.AddHost("b", "192.0.2.2")
	a.Configure(tunnelTo("192.0.2.2", "10.1.0.0/16", "10.2.0.0/16", append(change, ids("a.example", ""))...))
	b.Configure(tunnelTo("192.0.2.1", "10.2.0.0/16", "10.1.0.0/16", ids("", "a.example"), func(t *policy.PeerTunnel) { t.Remote, t.Start = netip.Addr{}, policy.StartListen }))
	a.Command(ike.Up, "t", "")
	w.Run(time.Second)
	if !a.Up("t") {
		t.Fatalf("not up: %q %q", a.Log, b.Log)
	}
	return w, a, b
}

// Nobody waits for dead-peer detection: the tunnel is established from the new address at once, and the old SA deleted
// from there. Where the old address still works for a while, nothing is lost at all.
func TestAnAddressChangeIsFollowedAtOnce(t *testing.T) {
	t.Parallel()
	for _, keep := range []bool{true, false} {
		for seed := range uint64(20) {
			w, a, b := mobile(t, seed)
			w.Net.Jitter = 8 * time.Millisecond
			to := netip.MustParseAddr("192.0.2.77")
			// Also in the middle of a rekey.
			if seed%4 > 0 {
				w.After(400*time.Millisecond-time.Duration(5*seed)*time.Millisecond, func() { []*Host{a, b}[seed%2].Command(ike.Rekey, "t", []string{"", "lan"}[seed/2%2]) })
			}
			w.After(400*time.Millisecond, func() { a.Move(to, keep) })
			sent := chat(w, a, b, "lan", time.Second)
			if got := uint64(len(b.Plane.Received)); keep && got != sent {
				t.Errorf("seed %d: %d of %d packets arrive, %d dropped", seed, got, sent, len(b.Plane.Dropped))
			}
			if keep && uint64(len(a.Plane.Received)) != sent {
				t.Errorf("seed %d: %d of %d packets come back", seed, len(a.Plane.Received), sent)
			}
			// Without the old address what was sent from or to it is lost, until the new SA is there: 4 round trips or so.
			if got := uint64(len(b.Plane.Received)); !keep && (got > sent || sent-got > 60) {
				t.Errorf("seed %d: %d of %d packets arrive", seed, got, sent)
			}
			w.Run(5 * time.Second)
			for _, h := range []*Host{a, b} {
				if s, c := h.Established("t"); s != 1 || c != 1 {
					t.Errorf("seed %d, old address stays %v: %s has %d IKE SAs with %d children: %q", seed, keep, h.Name, s, c, h.Log)
				}
			}
			for _, i := range a.Engine.Status()[0].SAs {
				if at := i.Path.Local.Addr(); i.State == ike.Established && at != to {
					t.Errorf("seed %d: the SA is at %v", seed, at)
				}
			}
			w.Run(time.Minute)
			noFaults(t, w)
		}
	}
}

func TestAnAddressChangeWhileNegotiating(t *testing.T) {
	t.Parallel()
	for wait := range 45 {
		w := NewWorld(uint64(wait))
		a, b := w.AddHost("a", "192.0.2.1"), w.AddHost("b", "192.0.2.2")
		a.Configure(tunnelTo("192.0.2.2", "10.1.0.0/16", "10.2.0.0/16", ids("a.example", "")))
		b.Configure(tunnelTo("192.0.2.1", "10.2.0.0/16", "10.1.0.0/16", ids("", "a.example"), func(t *policy.PeerTunnel) { t.Remote, t.Start = netip.Addr{}, policy.StartListen }))
		id := a.Command(ike.Up, "t", "")
		w.Run(time.Duration(wait) * time.Millisecond)
		a.Move(netip.MustParseAddr("192.0.2.77"), false)
		w.Run(2 * time.Second)
		if err, ok := a.Replies[id]; !ok || err != nil || !a.Up("t") {
			t.Errorf("after %d ms: %v %v: %q", wait, ok, err, a.Log)
		}
		w.Run(2 * time.Minute)
		if s, _ := b.Established("t"); s != 1 {
			t.Errorf("after %d ms: b has %d IKE SAs", wait, s)
		}
		noFaults(t, w)
	}
}

func TestAnAddressThatIsGoneIsWaitedFor(t *testing.T) {
	t.Parallel()
	for _, to := range []string{"192.0.2.1", "192.0.2.77"} { // it comes back, or another one does
		w, a, b := mobile(t, 3)
		before, _ := pairsOf(a, "t")
		a.NoRoute = "no route to 192.0.2.2: network is unreachable"
		a.Event(ike.AddressChanged{})
		w.Run(10 * time.Second)
		if st := a.Engine.Status()[0]; st.NoPath != a.NoRoute || !a.Said("the path to the peer is gone", a.NoRoute) || !a.Up("t") {
			t.Errorf("status %+v; %q", st, a.Log)
		}
		a.NoRoute = ""
		a.Move(netip.MustParseAddr(to), false)
		w.Run(time.Second)
		a.Say(1, "t", "lan")
		w.Run(time.Second)
		if st := a.Engine.Status()[0]; st.NoPath != "" || !slices.Equal(b.Plane.Received, []uint64{1}) {
			t.Errorf("%s: status %+v, b received %v; %q", to, st, b.Plane.Received, a.Log)
		}
		if after, _ := pairsOf(a, "t"); slices.Equal(before, after) != (to == "192.0.2.1") {
			t.Errorf("%s: the IKE SA was %x and is %x", to, before, after)
		}
		w.Run(10 * time.Second)
		noFaults(t, w)
	}
	// A tunnel that is down and tried again does not wait out its pause.
	w := NewWorld(4)
	a, b := w.AddHost("a", "192.0.2.1"), w.AddHost("b", "192.0.2.2")
	a.NoRoute = "no route"
	a.Configure(tunnelTo("192.0.2.2", "10.1.0.0/16", "10.2.0.0/16", func(t *policy.PeerTunnel) { t.Start = policy.StartNow }))
	b.Configure(tunnelTo("192.0.2.1", "10.2.0.0/16", "10.1.0.0/16"))
	w.Run(10 * time.Minute)
	a.NoRoute = ""
	a.Event(ike.AddressChanged{})
	w.Run(time.Second)
	if !a.Up("t") {
		t.Errorf("not up once there is a route: %q", a.Log)
	}
	noFaults(t, w)
}

// Who may not begin leaves it to the peer.
func TestAListenerThatMovesWaitsForItsPeer(t *testing.T) {
	t.Parallel()
	w, _, b := mobile(t, 5)
	sends := 0
	w.Net.Tap = func(d Datagram) bool { sends++; return true }
	b.Move(netip.MustParseAddr("192.0.2.99"), true)
	w.Run(time.Second)
	if sends != 0 {
		t.Errorf("%d datagrams", sends)
	}
	noFaults(t, w)
}

// A name whose address changes under a living SA is asked for again once the peer at the old address is dead.
func TestANameThatMovesIsFollowedWhenTheOldAddressIsDead(t *testing.T) {
	t.Parallel()
	w := NewWorld(6)
	a, old := w.AddHost("a", "192.0.2.1"), w.AddHost("old", "192.0.2.2")
	a.Names = map[string]netip.Addr{"b.example": old.Addr}
	a.Configure(tunnelTo("192.0.2.2", "10.1.0.0/16", "10.2.0.0/16", ids("", "b.example"), func(t *policy.PeerTunnel) {
		t.Remote, t.RemoteHost, t.DPD, t.OnDead = netip.Addr{}, "b.example", 10*time.Second, policy.LossRestart
	}))
	old.Configure(tunnelTo("192.0.2.1", "10.2.0.0/16", "10.1.0.0/16", ids("b.example", "")))
	a.Say(1, "t", "lan")
	w.Run(time.Second)
	next := w.AddHost("next", "192.0.2.3")
	next.Configure(tunnelTo("192.0.2.1", "10.2.0.0/16", "10.1.0.0/16", ids("b.example", "")))
	a.Names["b.example"] = next.Addr
	w.Run(time.Minute)
	if !old.Up("t") || next.Up("t") {
		t.Error("a living peer is left because a name changed")
	}
	old.Crash()
	w.Run(RetransmissionLimit(a.Limits) + 15*time.Second)
	a.Say(2, "t", "lan")
	w.Run(time.Second)
	if !slices.Equal(next.Plane.Received, []uint64{2}) {
		t.Errorf("next received %v: %q", next.Plane.Received, a.Log)
	}
}

// A peer that answers every CREATE_CHILD_SA with NO_ADDITIONAL_SAS: what we cannot rekey is replaced by an initial exchange,
// and nothing is lost.
func TestAPeerWithoutCreateChildSA(t *testing.T) {
	t.Parallel()
	for _, child := range []string{"", "lan"} {
		for seed := range uint64(20) {
			w, a, b := pair(t, seed, nil, nil)
			b.Limits.InitialOnly = true
			b.Restart()
			w.Net.Jitter = 8 * time.Millisecond
			a.Command(ike.Up, "t", "")
			w.Run(time.Second)
			before, _ := pairsOf(a, "t")
			var id ike.CommandID
			w.After(300*time.Millisecond, func() { id = a.Command(ike.Rekey, "t", child) })
			sent := chat(w, a, b, "lan", time.Second)
			w.Run(10 * time.Second)
			if err, ok := a.Replies[id]; !ok || err != nil {
				t.Errorf("%q, seed %d: the command answers %v %v", child, seed, ok, err)
			}
			if uint64(len(a.Plane.Received)) != sent || uint64(len(b.Plane.Received)) != sent {
				t.Errorf("%q, seed %d: %d and %d of %d packets arrived", child, seed, len(a.Plane.Received), len(b.Plane.Received), sent)
			}
			after, _ := pairsOf(a, "t")
			if s, c := b.Established("t"); s != 1 || c != 1 || len(after) != 1 || slices.Equal(before, after) {
				t.Errorf("%q, seed %d: b has %d IKE SAs, %d children; ours were %x and are %x", child, seed, s, c, before, after)
			}
			noFaults(t, w)
		}
	}
	// By lifetimes, for hours.
	short := func(t *policy.PeerTunnel) {
		t.Start, t.Lifetime = policy.StartNow, 10*time.Minute
		t.Children[0].Lifetime = policy.Lifetime{SoftTime: 4 * time.Minute, HardTime: 5 * time.Minute}
	}
	w, a, b := pair(t, 99, short, nil)
	b.Limits.InitialOnly = true
	b.Restart()
	n := uint64(0)
	var talk func()
	talk = func() {
		a.Say(n, "t", "lan")
		b.Say(n, "t", "lan")
		n++
		w.After(300*time.Millisecond, talk)
	}
	w.After(5*time.Second, talk)
	w.Run(2 * time.Hour)
	if got := uint64(len(b.Plane.Received)); got < n-1 || uint64(len(a.Plane.Received)) < n-1 {
		t.Errorf("%d and %d of %d packets in two hours", len(a.Plane.Received), got, n)
	}
	if auths := b.V2.Taken["peer authenticates"]; auths < 20 {
		t.Errorf("negotiated %d times", auths)
	}
	if strings.Contains(strings.Join(a.Log, "\n"), ike.ClosedDead.String()) {
		t.Error("a living peer was given up")
	}
}
