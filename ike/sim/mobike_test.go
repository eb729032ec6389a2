package sim

import (
	"net/netip"
	"testing"
	"time"

	"coati/ike"
	"coati/policy"
)

func moves(t *policy.PeerTunnel) { t.MOBIKE = true }

// roaming is a gateway whose address changes, and one at which it is a peer with any address.
func roaming(t *testing.T, seed uint64, forB func(*policy.PeerTunnel)) (*World, *Host, *Host) {
	t.Helper()
	w := NewWorld(seed)
	a, b := w.AddHost("a", "192.0.2.1"), w.AddHost("b", "192.0.2.2")
	a.Configure(tunnelTo("192.0.2.2", "10.1.0.0/16", "10.2.0.0/16", ids("a.example", "b.example"), moves))
	b.Configure(tunnelTo("192.0.2.1", "10.2.0.0/16", "10.1.0.0/16", ids("b.example", "a.example"), func(t *policy.PeerTunnel) { t.Remote, t.Start = netip.Addr{}, policy.StartListen }, forB))
	a.Command(ike.Up, "t", "")
	w.Run(time.Second)
	if !a.Up("t") {
		t.Fatalf("not up: %q %q", a.Log, b.Log)
	}
	return w, a, b
}

func theSA(t *testing.T, h *Host) ike.Info {
	t.Helper()
	for _, i := range h.Engine.Status()[0].SAs {
		if i.State == ike.Established {
			return i
		}
	}
	t.Fatalf("%s has no IKE SA: %q", h.Name, h.Log)
	return ike.Info{}
}

// The SAs go along when the initiator's address changes, also in the middle of a rekey and again at once: none is made anew. While the old
// address stays nothing is lost; without it only what was on its way.
func TestTheSAsGoAlongWithTheInitiator(t *testing.T) {
	t.Parallel()
	for seed := range uint64(30) {
		keep := seed%2 == 0
		w, a, b := roaming(t, seed, moves)
		w.Net.Jitter = 8 * time.Millisecond
		first := theSA(t, a).EstablishedAt
		lowest := string(theSA(t, a).LowNonce)
		if seed%3 > 0 {
			w.After(400*time.Millisecond-time.Duration(3*seed)*time.Millisecond, func() { []*Host{a, b}[seed%2].Command(ike.Rekey, "t", []string{"", "lan"}[seed/2%2]) })
		}
		w.After(400*time.Millisecond, func() { a.Move(netip.MustParseAddr("192.0.2.77"), keep) })
		if seed%5 == 0 {
			w.After(410*time.Millisecond, func() { a.Move(netip.MustParseAddr("192.0.2.78"), keep) })
		}
		sent := chat(w, a, b, "lan", time.Second)
		w.Run(5 * time.Second)
		lostA, lostB := sent-uint64(len(b.Plane.Received)), sent-uint64(len(a.Plane.Received))
		if keep && lostA+lostB != 0 || lostA+lostB > 40 {
			t.Errorf("seed %d, old address stays %t: %d and %d of %d packets are lost", seed, keep, lostA, lostB, sent)
		}
		for _, h := range []*Host{a, b} {
			if s, c := h.Established("t"); s != 1 || c != 1 {
				t.Errorf("seed %d: %s has %d IKE SAs with %d children: %q", seed, h.Name, s, c, h.Log)
			}
			if i := theSA(t, h); string(i.LowNonce) != lowest || !i.Mobile {
				t.Errorf("seed %d: %s has another IKE SA than at %v", seed, h.Name, first)
			}
		}
		if at := theSA(t, b).Path.Remote.Addr(); at != a.Addr {
			t.Errorf("seed %d: b talks to %v, a is at %v", seed, at, a.Addr)
		}
		w.Run(time.Minute)
		noFaults(t, w)
	}
}

// The responder's address changes: it says so from the new one, and the initiator follows.
func TestTheSAsGoAlongWithTheResponder(t *testing.T) {
	t.Parallel()
	for seed := range uint64(10) {
		w, a, b := roaming(t, seed, moves)
		lowest := string(theSA(t, a).LowNonce)
		to := netip.MustParseAddr("192.0.2.99")
		w.After(400*time.Millisecond, func() { b.Move(to, false) })
		sent := chat(w, a, b, "lan", time.Second)
		w.Run(5 * time.Second)
		if lost := 2*sent - uint64(len(b.Plane.Received)+len(a.Plane.Received)); lost > 40 {
			t.Errorf("seed %d: %d of %d packets are lost", seed, lost, 2*sent)
		}
		if i := theSA(t, a); string(i.LowNonce) != lowest || i.Path.Remote.Addr() != to || theSA(t, b).Path.Local.Addr() != to {
			t.Errorf("seed %d: a talks to %v", seed, i.Path.Remote)
		}
		a.Say(1<<30, "t", "lan")
		before := len(b.Plane.Received)
		w.Run(time.Second)
		if len(b.Plane.Received) != before+1 {
			t.Errorf("seed %d: a packet does not arrive", seed)
		}
		w.Run(time.Minute)
		noFaults(t, w)
	}
}

// A NAT appears and vanishes: encapsulation follows it, at both ends.
func TestANATAppearsAndVanishes(t *testing.T) {
	t.Parallel()
	w, a, b := roaming(t, 5, moves)
	lowest := string(theSA(t, a).LowNonce)
	w.AddNAT(netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("203.0.113.9"))
	for _, step := range []struct {
		at    string
		seen  string
		encap policy.Encap
	}{{"10.0.0.5", "203.0.113.9", policy.EncapUDP}, {"192.0.2.70", "192.0.2.70", policy.EncapRaw}, {"10.0.0.5", "203.0.113.9", policy.EncapUDP}} {
		a.Move(netip.MustParseAddr(step.at), false)
		w.Run(3 * time.Second)
		for _, h := range []*Host{a, b} {
			i := theSA(t, h)
			if string(i.LowNonce) != lowest {
				t.Fatalf("%s: %s has another IKE SA", step.at, h.Name)
			}
			if i.Path.Encap != step.encap || (i.NATLocal || i.NATRemote) != (step.encap == policy.EncapUDP) {
				t.Errorf("%s: %s has encapsulation %v, NATs %t and %t", step.at, h.Name, i.Path.Encap, i.NATLocal, i.NATRemote)
			}
			for _, sa := range h.Plane.SAs {
				if sa.Path.Encap != step.encap && sa.Lonely.IsZero() {
					t.Errorf("%s: an SA of %s has encapsulation %v", step.at, h.Name, sa.Path.Encap)
				}
			}
		}
		if got := theSA(t, b).Path.Remote.Addr().String(); got != step.seen {
			t.Errorf("b sees a at %s, want %s", got, step.seen)
		}
		before := len(a.Plane.Received) + len(b.Plane.Received)
		a.Say(1, "t", "lan")
		b.Say(2, "t", "lan")
		w.Run(time.Second)
		if got := len(a.Plane.Received) + len(b.Plane.Received); got != before+2 {
			t.Errorf("%s: %d of 2 packets arrive", step.at, got-before)
		}
	}
	noFaults(t, w)
}

// Behind a NAT that forgets: who says nothing but what keeps the SA alive hears that it is seen elsewhere, and tells the peer.
func TestALivenessAnswerShowsANewMapping(t *testing.T) {
	t.Parallel()
	w := NewWorld(6)
	n := w.AddNAT(netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("203.0.113.9"))
	a, b := w.AddHost("a", "10.0.0.5"), w.AddHost("b", "192.0.2.2")
	quiet := func(t *policy.PeerTunnel) { t.Keepalive = 0 }
	a.Configure(tunnelTo("192.0.2.2", "10.1.0.0/16", "10.2.0.0/16", ids("a.example", "b.example"), moves, quiet))
	b.Configure(tunnelTo("192.0.2.1", "10.2.0.0/16", "10.1.0.0/16", ids("b.example", "a.example"), moves, func(t *policy.PeerTunnel) { t.Remote, t.Start, t.DPD = netip.Addr{}, policy.StartListen, 0 }))
	a.Command(ike.Up, "t", "")
	w.Run(time.Minute)
	before := theSA(t, b).Path.Remote
	n.Rebind()
	w.Run(time.Minute)
	if now := theSA(t, b).Path.Remote; now == before {
		t.Errorf("b still talks to %v", before)
	}
	b.Say(7, "t", "lan")
	w.Run(time.Second)
	if len(a.Plane.Received) != 1 {
		t.Error("a packet to a does not arrive")
	}
	noFaults(t, w)
}

// A peer that does not know MOBIKE, or whose tunnel has not got it, is met anew, as before.
func TestWithoutMobikeTheTunnelIsEstablishedAnew(t *testing.T) {
	t.Parallel()
	w, a, b := roaming(t, 7, func(*policy.PeerTunnel) {})
	lowest := string(theSA(t, a).LowNonce)
	a.Move(netip.MustParseAddr("192.0.2.77"), false)
	w.Run(10 * time.Second)
	if i := theSA(t, b); string(i.LowNonce) == lowest || i.Mobile || i.Path.Remote.Addr() != a.Addr {
		t.Errorf("b has the same IKE SA, at %v", i.Path.Remote)
	}
	w.Run(time.Minute)
	noFaults(t, w)
}

// A hub at which several are: each hears of its new address.
func TestAHubMovesWithAllItsClients(t *testing.T) {
	t.Parallel()
	h := newHub(t, 11, moves, "10.9.0.1-10.9.0.9")
	var clients []*Host
	var had []string
	for n, id := range []string{"a", "b", "c"} {
		clients = append(clients, h.client(n, id, moves))
	}
	h.w.Run(3 * time.Second)
	for _, c := range clients {
		had = append(had, h.has(c)+string(theSA(t, c).LowNonce))
	}
	h.Move(netip.MustParseAddr("192.0.2.200"), false)
	h.w.Run(5 * time.Second)
	for n, c := range clients {
		if got := h.has(c) + string(theSA(t, c).LowNonce); got != had[n] || theSA(t, c).Path.Remote.Addr() != h.Addr {
			t.Errorf("%s did not go along", c.Name)
		}
		got := len(h.Plane.Received)
		c.Say(uint64(n), "t", "lan")
		h.w.Run(time.Second)
		if len(h.Plane.Received) != got+1 {
			t.Errorf("a packet of %s does not arrive", c.Name)
		}
	}
	h.sound()
}
