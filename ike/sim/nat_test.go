package sim

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"coati/ike"
	"coati/policy"
)

// everywhere is a tunnel of a server for whoever has the key.
func everywhere(t *policy.PeerTunnel) {
	t.Remote, t.RemoteID, t.Start = netip.Addr{}, policy.Identity{Type: policy.IDAnyOne}, policy.StartListen
}

func TestBothEndsBehindNATs(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		w := NewWorld(seed)
		w.Net.Jitter = 8 * time.Millisecond
		a, b := w.AddHost("a", "192.168.1.5"), w.AddHost("b", "10.0.0.7")
		natA := w.AddNAT(a.Addr, netip.MustParseAddr("203.0.113.9"))
		natB := w.AddNAT(b.Addr, netip.MustParseAddr("198.51.100.4"))
		natB.Forward(b.Addr)
		a.Configure(tunnelTo("198.51.100.4", "10.1.0.0/16", "10.2.0.0/16", ids("a.example", "b.example")))
		b.Configure(tunnelTo("203.0.113.9", "10.2.0.0/16", "10.1.0.0/16", ids("b.example", "a.example"), func(t *policy.PeerTunnel) { t.Remote, t.Start = netip.Addr{}, policy.StartListen }))
		a.Say(1, "t", "lan")
		w.Run(time.Second)
		b.Say(2, "t", "lan")
		w.Run(time.Second)
		for _, h := range []*Host{a, b} {
			if i := h.Engine.Status()[0].SAs; len(i) != 1 || !i[0].NATLocal || !i[0].NATRemote || i[0].Path.Encap != policy.EncapUDP {
				t.Fatalf("%s knows %+v: %q", h.Name, i, h.Log)
			}
		}
		if !slices.Equal(b.Plane.Received, []uint64{1}) || !slices.Equal(a.Plane.Received, []uint64{2}) {
			t.Errorf("seed %d: received %v and %v", seed, a.Plane.Received, b.Plane.Received)
		}
		// Both NATs forget. Who can be reached, and is no initiator, follows; rekeys go on from either end.
		natA.Rebind()
		natB.Rebind()
		a.Say(3, "t", "lan")
		w.Run(time.Second)
		for _, h := range []*Host{a, b} {
			for _, child := range []string{"lan", ""} {
				id := h.Command(ike.Rekey, "t", child)
				w.Run(2 * time.Second)
				if err, ok := h.Replies[id]; !ok || err != nil {
					t.Errorf("seed %d: %s rekeys %q: %v %v", seed, h.Name, child, ok, err)
				}
			}
		}
		b.Say(4, "t", "lan")
		w.Run(time.Minute)
		if !slices.Equal(b.Plane.Received, []uint64{1, 3}) || !slices.Equal(a.Plane.Received, []uint64{2, 4}) {
			t.Errorf("seed %d: received %v and %v", seed, a.Plane.Received, b.Plane.Received)
		}
		noFaults(t, w)
	}
}

// The NAT forgets at each moment of a rekey, by either end: of the child, of the IKE SA, and of both ends at once.
func TestANATRebindsInTheMiddleOfARekey(t *testing.T) {
	t.Parallel()
	for moment := range time.Duration(60) {
		for i, child := range []string{"lan", ""} {
			w := NewWorld(uint64(moment))
			a, b := w.AddHost("a", "192.168.1.5"), w.AddHost("b", "192.0.2.2")
			nat := w.AddNAT(a.Addr, netip.MustParseAddr("203.0.113.9"))
			a.Configure(tunnelTo("192.0.2.2", "10.1.0.0/16", "10.2.0.0/16", ids("a.example", "")))
			b.Configure(tunnelTo("192.0.2.1", "10.2.0.0/16", "10.1.0.0/16", ids("", "a.example"), everywhere))
			a.Command(ike.Up, "t", "")
			w.Run(time.Second)
			var rekeys []ike.CommandID
			who := []*Host{[]*Host{a, b}[i], []*Host{a, b}[int(moment)%2]}
			for _, h := range who {
				rekeys = append(rekeys, h.Command(ike.Rekey, "t", child))
			}
			w.After(moment*time.Millisecond, nat.Rebind)
			sent := chat(w, a, b, "lan", 2*time.Second)
			if got := uint64(len(b.Plane.Received)); got != sent {
				t.Errorf("%q after %d ms: %d of %d packets arrived, %d dropped", child, moment, got, sent, len(b.Plane.Dropped))
			}
			// To the forgotten mapping packets go until one comes from the new one: a round trip.
			if got := uint64(len(a.Plane.Received)); got > sent || sent-got > 12 {
				t.Errorf("%q after %d ms: %d of %d packets came back", child, moment, got, sent)
			}
			w.Run(time.Minute)
			for i, id := range rekeys {
				if _, ok := who[i].Replies[id]; !ok {
					t.Errorf("%q after %d ms: %s never replies", child, moment, who[i].Name)
				}
			}
			for _, h := range []*Host{a, b} {
				if s, c := h.Established("t"); s != 1 || c != 1 {
					t.Errorf("%q after %d ms: %s has %d IKE SAs with %d children", child, moment, h.Name, s, c)
				}
			}
			noFaults(t, w)
		}
	}
}

// Two peers behind one NAT have the same private network: the server keeps them apart by identity, takes what both send,
// and neither's rekey, rebinding or end touches the other.
func TestTwoPeersBehindOneNATWithTheSameInnerAddresses(t *testing.T) {
	t.Parallel()
	w := NewWorld(47)
	w.Net.Jitter = 8 * time.Millisecond
	server := w.AddHost("server", "192.0.2.2")
	server.Configure(tunnelTo("192.0.2.1", "10.2.0.0/16", "10.1.0.0/16", everywhere))
	one, two := w.AddHost("one", "192.168.1.5"), w.AddHost("two", "192.168.1.6")
	nat := w.AddNAT(one.Addr, netip.MustParseAddr("203.0.113.9"))
	w.Join(nat, two.Addr)
	one.Configure(tunnelTo("192.0.2.2", "10.1.1.0/24", "10.2.0.0/16", ids("one.example", "")))
	two.Configure(tunnelTo("192.0.2.2", "10.1.1.0/24", "10.2.0.0/16", ids("two.example", "")))
	one.Say(1, "t", "lan")
	two.Say(2, "t", "lan")
	w.Run(2 * time.Second)
	both := func(when string, want int) {
		t.Helper()
		if s, n := server.Established("t"); s != want || n != want {
			t.Errorf("%s: %d IKE SAs, %d children: %q", when, s, n, server.Log)
		}
	}
	both("at first", 2)
	n := uint64(10)
	for _, act := range []func(){
		func() { one.Command(ike.Rekey, "t", "lan"); two.Command(ike.Rekey, "t", "lan") },
		func() { one.Command(ike.Rekey, "t", ""); two.Command(ike.Rekey, "t", "") },
		func() { server.Command(ike.Rekey, "t", "lan") },
		func() { server.Command(ike.Rekey, "t", "") },
		func() { nat.Rebind() },
	} {
		act()
		w.Run(3 * time.Second)
		before := len(server.Plane.Received)
		one.Say(n, "t", "lan")
		two.Say(n+1, "t", "lan")
		n += 2
		w.Run(time.Second)
		if got := len(server.Plane.Received) - before; got != 2 {
			t.Errorf("%d of 2 packets arrive", got)
		}
		both("later", 2)
	}
	// One restarts: INITIAL_CONTACT is about its own identity.
	one.Crash()
	one.Restart()
	one.Say(100, "t", "lan")
	w.Run(2 * time.Second)
	both("after a restart", 2)
	two.Command(ike.Down, "t", "")
	w.Run(10 * time.Second)
	both("after one left", 1)
	one.Say(101, "t", "lan")
	w.Run(time.Second)
	if !slices.Contains(server.Plane.Received, 101) {
		t.Error("the other's packet does not arrive")
	}
	w.Run(time.Minute)
	noFaults(t, w)
}
