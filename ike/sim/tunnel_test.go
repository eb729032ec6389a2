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

func packet(src, dst string, port uint16) policy.Flow {
	return policy.Flow{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Protocol: 6, SrcPort: 40000, DstPort: port, HasPorts: true}
}

func TestWhatFollowsADeadPeer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name           string
		start          policy.Start
		act            policy.LossAction
		again, traffic bool // up again by itself; by a packet
	}{
		{"by start = now", policy.StartNow, policy.LossByStart, true, true},
		{"by start = on-demand", policy.StartOnDemand, policy.LossByStart, false, true},
		{"restart", policy.StartOnDemand, policy.LossRestart, true, true},
		{"trap", policy.StartNow, policy.LossTrap, false, true},
		{"clear", policy.StartNow, policy.LossClear, false, false},
	} {
		for _, closed := range []bool{false, true} { // the peer dies, or deletes the SA
			w, a, b := pair(t, 31, func(t *policy.PeerTunnel) {
				t.Start, t.DPD, t.OnDead, t.OnClose = c.start, 10*time.Second, c.act, c.act
			}, nil)
			a.Command(ike.Up, "t", "")
			w.Run(5 * time.Second)
			if !a.Up("t") {
				t.Fatalf("%s: not up: %q", c.name, a.Log)
			}
			if closed {
				b.Command(ike.Down, "t", "")
			} else {
				b.Crash()
				w.Run(90 * time.Second)
				if s, _ := a.Established("t"); s != 0 {
					t.Errorf("%s: the dead peer is not noticed", c.name)
				}
				b.Restart()
			}
			w.Run(70 * time.Second)
			if a.Up("t") != c.again {
				t.Errorf("%s, closed %v: up again %v: %q", c.name, closed, a.Up("t"), a.Log)
			}
			a.Say(1, "t", "lan")
			w.Run(5 * time.Second)
			if got := slices.Equal(b.Plane.Received, []uint64{1}); got != c.traffic {
				t.Errorf("%s, closed %v: a packet arrives %v: %q", c.name, closed, got, a.Log)
			}
			id := a.Command(ike.Up, "t", "")
			w.Run(5 * time.Second)
			if err, ok := a.Replies[id]; !ok || err != nil {
				t.Errorf("%s, closed %v: up answers %v %v", c.name, closed, ok, err)
			}
			noFaults(t, w)
		}
	}
}

func TestTwoGatewaysThatCloseAndRestartDoNotRace(t *testing.T) {
	t.Parallel()
	now := func(t *policy.PeerTunnel) { t.Start = policy.StartNow }
	w, a, b := pair(t, 32, now, now)
	w.Run(5 * time.Second)
	first := a.V2.Taken["peer authenticated us"] + b.V2.Taken["peer authenticated us"]
	for range 20 {
		a.Command(ike.Down, "t", "")
		w.Run(time.Second)
	}
	if n := a.V2.Taken["peer authenticated us"] + b.V2.Taken["peer authenticated us"] - first; n > 8 {
		t.Errorf("negotiated %d times in 20 s", n)
	}
	w.Run(2 * time.Minute)
	if !a.Up("t") || !b.Up("t") {
		t.Error("not up at last")
	}
	noFaults(t, w)
}

// newcomer is a second gateway with the identity of the first.
func newcomer(t *testing.T, unique policy.Unique) (*World, *Host, *Host) {
	t.Helper()
	w := NewWorld(33)
	a, b, c := w.AddHost("a", "192.0.2.1"), w.AddHost("b", "192.0.2.2"), w.AddHost("c", "192.0.2.3")
	same := func(t *policy.PeerTunnel) { ids("client.example", "")(t); t.RemoteID = policy.AddrIdentity(b.Addr) }
	a.Configure(tunnelTo("192.0.2.2", "10.1.0.0/16", "10.2.0.0/16", same))
	c.Configure(tunnelTo("192.0.2.2", "10.1.0.0/16", "10.2.0.0/16", same))
	b.Configure(tunnelTo("192.0.2.1", "10.2.0.0/16", "10.1.0.0/16", func(t *policy.PeerTunnel) {
		ids("", "client.example")(t)
		t.Remote, t.Start, t.Unique = netip.Addr{}, policy.StartListen, unique
		t.LocalID = policy.AddrIdentity(b.Addr)
	}))
	a.Say(1, "t", "lan")
	w.Run(time.Second)
	return w, b, c
}

func TestASecondSAOfOneIdentity(t *testing.T) {
	t.Parallel()
	for unique, want := range map[policy.Unique]int{policy.UniqueByContact: 1, policy.UniqueReplace: 1, policy.UniqueNever: 2} {
		w, b, c := newcomer(t, unique)
		id := c.Command(ike.Up, "t", "")
		w.Run(2 * time.Second)
		if err := c.Replies[id]; err != nil {
			t.Errorf("%v: %v", unique, err)
		}
		if s, _ := b.Established("t"); s != want {
			t.Errorf("%v: %d IKE SAs", unique, s)
		}
	}
}

// A peer that authenticates anew deletes its old IKE SA, and may forget the inbound ESP SAs the moment we answer.
func TestTheAnswerToADeleteFollowsOurLastPackets(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*policy.PeerTunnel)
		act    func(w *World, a *Host)
		flight bool
	}{
		"beside another SA":  {func(t *policy.PeerTunnel) { t.Reauth = 20 * time.Second }, func(w *World, _ *Host) { w.Run(30 * time.Second) }, true},
		"the last SA":        {nil, func(w *World, a *Host) { a.Command(ike.Down, "t", ""); w.Run(time.Second) }, false},
		"after an IKE rekey": {nil, func(w *World, a *Host) { a.Command(ike.Rekey, "t", ""); w.Run(time.Second) }, false},
	} {
		w, a, b := pair(t, 74, c.change, nil)
		a.Command(ike.Up, "t", "")
		w.Run(time.Second)
		var asked, answered time.Duration
		w.Trace = func(e Entry) {
			switch {
			case e.Kind == "got" && e.To == "b" && strings.HasPrefix(e.Text, "INFORMATIONAL request"):
				asked = e.At
			case e.Kind == "sent" && e.From == "b" && strings.HasPrefix(e.Text, "INFORMATIONAL response"):
				answered = e.At
			}
		}
		c.act(w, a)
		want := time.Duration(0)
		if c.flight {
			want = b.Limits.FlightTime
		}
		if asked == 0 || answered-asked != want {
			t.Errorf("%s: asked at %v, answered at %v, want %v later", name, asked, answered, want)
		}
		noFaults(t, w)
	}
}

func TestTwoClientsOfOneTunnelAreNotMixedUp(t *testing.T) {
	t.Parallel()
	w := NewWorld(34)
	server := w.AddHost("server", "192.0.2.1")
	server.Configure(tunnelTo("192.0.2.2", "10.1.0.0/16", "10.2.0.0/16", func(t *policy.PeerTunnel) {
		t.Remote, t.RemoteID, t.Start = netip.Addr{}, policy.Identity{Type: policy.IDAnyOne}, policy.StartListen
	}))
	var clients []*Host
	for i, addr := range []string{"192.0.2.11", "192.0.2.12", "192.0.2.13"} {
		c := w.AddHost("c"+string(rune('1'+i)), addr)
		c.Configure(tunnelTo("192.0.2.1", "10.2."+string(rune('1'+i))+".0/24", "10.1.0.0/16", func(t *policy.PeerTunnel) { t.Start = policy.StartNow }))
		clients = append(clients, c)
	}
	w.Run(5 * time.Second)
	if s, n := server.Established("t"); s != 3 || n != 3 {
		t.Fatalf("%d IKE SAs, %d children: %q", s, n, server.Log)
	}
	id := server.Command(ike.Rekey, "t", "lan")
	w.Run(10 * time.Second)
	if err, ok := server.Replies[id]; !ok || err != nil {
		t.Errorf("rekey: %v %v", ok, err)
	}
	if s, n := server.Established("t"); s != 3 || n != 3 {
		t.Errorf("after the rekey: %d IKE SAs, %d children", s, n)
	}
	clients[0].Command(ike.Down, "t", "")
	w.Run(10 * time.Second)
	if s, n := server.Established("t"); s != 2 || n != 2 {
		t.Errorf("after one left: %d IKE SAs, %d children", s, n)
	}
	server.Event(ike.Acquire{Policy: 1, Flow: packet("10.1.0.1", "10.2.1.1", 80)})
	w.Run(time.Second)
	if s, n := server.Established("t"); s != 2 || n != 2 {
		t.Errorf("a packet for who left made %d IKE SAs, %d children", s, n)
	}
	down := server.Command(ike.Down, "t", "")
	w.Run(10 * time.Second)
	if err, ok := server.Replies[down]; !ok || err != nil {
		t.Errorf("down: %v %v", ok, err)
	}
	w.Run(time.Minute)
	noFaults(t, w)
}

func TestAHostNameIsAskedAgainAfterAFailure(t *testing.T) {
	t.Parallel()
	w, a, b := pair(t, 35, func(t *policy.PeerTunnel) {
		t.Remote, t.RemoteHost, t.Start, t.DPD = netip.Addr{}, "b.example", policy.StartNow, 10*time.Second
		t.RemoteID = policy.AddrIdentity(netip.MustParseAddr("192.0.2.2"))
	}, nil)
	w.Run(time.Second)
	a.Names = map[string]netip.Addr{"b.example": b.Addr}
	w.Run(time.Minute)
	if !a.Up("t") {
		t.Fatalf("not up: %q", a.Log)
	}
	b.Crash()
	moved := w.AddHost("moved", "192.0.2.22")
	moved.Configure(tunnelTo("192.0.2.1", "10.2.0.0/16", "10.1.0.0/16", func(t *policy.PeerTunnel) { t.LocalID = policy.AddrIdentity(b.Addr) }))
	a.Names["b.example"] = moved.Addr
	w.Run(3 * time.Minute)
	if !a.Up("t") || !moved.Up("t") {
		t.Errorf("the tunnel does not follow the name: %q", a.Log)
	}
}

func TestAPacketOutsideTheNarrowedChildOpensAnother(t *testing.T) {
	t.Parallel()
	// b answers with one net only, the first that fits; the packet is for the other.
	w, a, b := pair(t, 36, func(t *policy.PeerTunnel) { t.Children[0].Remote = []policy.Selector{sel("10.2.0.0/15")} }, func(t *policy.PeerTunnel) {
		t.Children = append(t.Children, t.Children[0])
		t.Children[1].Name, t.Children[1].Local = "other", []policy.Selector{sel("10.3.0.0/16")}
	})
	a.Event(ike.Acquire{Policy: 1, Flow: packet("10.1.0.1", "10.2.0.1", 80)})
	w.Run(time.Second)
	if _, n := a.Established("t"); n != 1 {
		t.Fatalf("%d children: %q", n, a.Log)
	}
	a.Event(ike.Acquire{Policy: 1, Flow: packet("10.1.0.1", "10.3.0.1", 80)})
	w.Run(time.Second)
	covered := false
	for _, st := range a.Engine.Status() {
		for _, c := range st.SAs[0].Children {
			covered = covered || policy.MatchFlow(c.Local, c.Remote, packet("10.1.0.1", "10.3.0.1", 443), true)
		}
	}
	if _, n := a.Established("t"); n != 2 || !covered {
		t.Errorf("%d children, the packet's net covered: %v", n, covered)
	}
	// Asked again for what is covered, nothing new is opened.
	a.Event(ike.Acquire{Policy: 1, Flow: packet("10.1.0.9", "10.3.0.9", 80)})
	w.Run(time.Second)
	if _, n := a.Established("t"); n != 2 {
		t.Errorf("%d children", n)
	}
	if _, n := b.Established("t"); n != 2 {
		t.Errorf("%d children at b", n)
	}
	noFaults(t, w)
}

func TestNarrowing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ aRemote, bLocal, want string }{
		{"10.2.0.0/16", "10.2.0.0/16", "[10.2.0.0/16]"},
		{"10.0.0.0/8", "10.2.0.0/16", "[10.2.0.0/16]"},
		{"10.2.3.0/24", "10.2.0.0/16", "[10.2.3.0/24]"},
		{"0.0.0.0/0", "10.2.0.0/16[udp/53]", "[10.2.0.0/16[udp/53]]"},
		{"10.2.0.5-10.2.0.9", "10.2.0.7-10.2.0.20", "[10.2.0.7-10.2.0.9]"},
	} {
		w, a, b := pair(t, 37, nets("", c.aRemote), nets(c.bLocal, ""))
		a.Command(ike.Up, "t", "")
		w.Run(time.Second)
		for i, h := range []*Host{a, b} {
			st := h.Engine.Status()[0].SAs
			if len(st) != 1 || len(st[0].Children) != 1 {
				t.Errorf("%s and %s: not up: %q", c.aRemote, c.bLocal, h.Log)
				continue
			}
			ch := st[0].Children[0]
			if got := [][]policy.Selector{ch.Remote, ch.Local}[i]; strings.TrimSpace(policySelectors(got)) != c.want {
				t.Errorf("%s and %s: %s has %v", c.aRemote, c.bLocal, h.Name, got)
			}
		}
		noFaults(t, w)
	}
}

func policySelectors(s []policy.Selector) string {
	var words []string
	for _, x := range s {
		words = append(words, x.String())
	}
	return "[" + strings.Join(words, " ") + "]"
}

func TestIdentitiesOfEachType(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"fqdn:Gate.Example", "email:who@example.org", "keyid:0x00ff10", "ipv4:203.0.113.77", "ipv6:2001:db8::7"} {
		w, a, b := pair(t, 38, ids(id, ""), ids("", strings.ToLower(id)))
		n := a.Command(ike.Up, "t", "")
		w.Run(time.Second)
		if err, ok := a.Replies[n]; !ok || err != nil {
			t.Errorf("%s: %v %v %q", id, ok, err, b.Log)
		}
		// The same octets of another type, and other octets of the same type, are somebody else.
		for _, other := range []string{"keyid:Gate.Example", id + "7"} {
			if strings.HasPrefix(id, "ipv") {
				other = "ipv4:203.0.113.78"
			}
			w, a, _ := pair(t, 38, ids(other, ""), ids("", id))
			n := a.Command(ike.Up, "t", "")
			w.Run(10 * time.Second)
			if a.Replies[n] == nil {
				t.Errorf("%s passes for %s", other, id)
			}
		}
		noFaults(t, w)
	}
}

func TestAChildThatReachedItsHardLifetimeComesBack(t *testing.T) {
	t.Parallel()
	for start, again := range map[policy.Start]bool{policy.StartNow: true, policy.StartOnDemand: false} {
		w, a, b := pair(t, 39, func(t *policy.PeerTunnel) {
			t.Start = start
			t.Children[0].Lifetime.HardTime = 20 * time.Second
		}, nil)
		a.Command(ike.Up, "t", "")
		w.Run(30 * time.Second)
		if _, n := a.Established("t"); (n == 1) != again {
			t.Errorf("start = %v: %d children", start, n)
		}
		a.Say(1, "t", "lan")
		w.Run(2 * time.Second)
		if !slices.Equal(b.Plane.Received, []uint64{1}) {
			t.Errorf("start = %v: b received %v, %q", start, b.Plane.Received, a.Log)
		}
	}
}

func TestLifetimesInPackets(t *testing.T) {
	t.Parallel()
	w, a, b := pair(t, 40, func(t *policy.PeerTunnel) {
		t.Children[0].Lifetime = policy.Lifetime{SoftPackets: 50, HardPackets: 1000}
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
}

func TestSeveralChildrenOfOneTunnel(t *testing.T) {
	t.Parallel()
	three := func(local, remote string) func(*policy.PeerTunnel) {
		return func(t *policy.PeerTunnel) {
			one := t.Children[0]
			t.Children = nil
			for i, name := range []string{"one", "two", "three"} {
				c := one
				c.Name, c.Local, c.Remote = name, []policy.Selector{sel(local + string(rune('1'+i)) + ".0/24")}, []policy.Selector{sel(remote + string(rune('1'+i)) + ".0/24")}
				t.Children = append(t.Children, c)
			}
		}
	}
	// All at once by command.
	w, a, b := pair(t, 41, three("10.1.", "10.2."), three("10.2.", "10.1."))
	id := a.Command(ike.Up, "t", "")
	w.Run(3 * time.Second)
	if _, n := b.Established("t"); n != 3 || a.Replies[id] != nil {
		t.Errorf("%d children, %v, %q", n, a.Replies[id], b.Log)
	}
	// One by one by their packets, the second while the first is being negotiated.
	w, a, b = pair(t, 42, three("10.1.", "10.2."), three("10.2.", "10.1."))
	a.Say(1, "t", "two")
	w.Run(5 * time.Millisecond)
	a.Say(2, "t", "three")
	w.Run(3 * time.Second)
	if _, n := b.Established("t"); n != 2 || len(b.Plane.Received) != 2 {
		t.Errorf("%d children, %v arrived", n, b.Plane.Received)
	}
	a.Command(ike.Down, "t", "two")
	w.Run(10 * time.Second)
	if _, n := b.Established("t"); n != 1 {
		t.Errorf("%d children after one was taken down", n)
	}
	noFaults(t, w)
}

func TestDownWhileARekeyIsUnderWay(t *testing.T) {
	t.Parallel()
	for _, child := range []string{"", "lan"} {
		for wait := range 40 {
			w, a, b := pair(t, uint64(50+wait), esp1("aes128gcm16-x25519"), esp1("aes128gcm16-x25519"))
			a.Command(ike.Up, "t", "")
			w.Run(time.Second)
			rekey := []*Host{a, b}[wait%2].Command(ike.Rekey, "t", child)
			w.Run(time.Duration(wait) * time.Millisecond)
			down := a.Command(ike.Down, "t", "")
			w.Run(20 * time.Second)
			if err, ok := a.Replies[down]; !ok || err != nil {
				t.Errorf("%q after %d ms: down answers %v %v", child, wait, ok, err)
			}
			if _, ok := []*Host{a, b}[wait%2].Replies[rekey]; !ok {
				t.Errorf("%q after %d ms: the rekey is never answered", child, wait)
			}
			if len(a.Plane.SAs)+len(b.Plane.SAs) != 0 {
				t.Errorf("%q after %d ms: SAs are left: %d %d", child, wait, len(a.Plane.SAs), len(b.Plane.SAs))
			}
			noFaults(t, w)
		}
	}
}

func TestDownWhileTheFirstExchangesAreUnderWayLeavesNothing(t *testing.T) {
	t.Parallel()
	for wait := range 60 {
		w, a, b := pair(t, 60, nil, nil)
		up := a.Command(ike.Up, "t", "")
		w.Run(time.Duration(wait) * time.Millisecond)
		a.Command(ike.Down, "t", "")
		w.Run(45 * time.Second)
		if _, ok := a.Replies[up]; !ok {
			t.Errorf("after %d ms: up is never answered", wait)
		}
		if s, _ := b.Established("t"); s != 0 || len(a.Plane.SAs)+len(b.Plane.SAs) != 0 {
			t.Errorf("after %d ms: b keeps %d IKE SAs, %d SAs", wait, s, len(b.Plane.SAs))
		}
		noFaults(t, w)
	}
}

func TestKeepalivesFromBehindANAT(t *testing.T) {
	t.Parallel()
	w := NewWorld(43)
	a, b := w.AddHost("a", "192.168.1.5"), w.AddHost("b", "192.0.2.2")
	w.AddNAT(a.Addr, netip.MustParseAddr("203.0.113.9"))
	a.Configure(tunnelTo("192.0.2.2", "10.1.0.0/16", "10.2.0.0/16", ids("a.example", ""), func(t *policy.PeerTunnel) { t.DPD = 0 }))
	b.Configure(tunnelTo("192.0.2.1", "10.2.0.0/16", "10.1.0.0/16", ids("", "a.example"), func(t *policy.PeerTunnel) { t.Remote, t.Start, t.DPD = netip.Addr{}, policy.StartListen, 0 }))
	a.Command(ike.Up, "t", "")
	w.Run(time.Second)
	began := a.Keepalives
	w.Run(205 * time.Second)
	if n := a.Keepalives - began; n != 10 || b.Keepalives != 0 {
		t.Errorf("%d keepalives in 205 s by who is behind the NAT, %d by the other", n, b.Keepalives)
	}
	noFaults(t, w)
}

func TestSmallPacketsOnly(t *testing.T) {
	t.Parallel()
	// No IKE message of an X25519 negotiation needs more than IPv4's minimum.
	one := func(t *policy.PeerTunnel) { ike1("aes128gcm16-prfsha256-x25519")(t) }
	w, a, b := pair(t, 44, one, one)
	w.Net.MTU = 576
	a.Say(1, "t", "lan")
	w.Run(time.Second)
	if len(b.Plane.Received) != 1 {
		t.Errorf("not up over an MTU of 576: %q", a.Log)
	}
	noFaults(t, w)
}

func TestTwoPeersBehindOneNAT(t *testing.T) {
	t.Parallel()
	w := NewWorld(45)
	server := w.AddHost("server", "192.0.2.2")
	anybody := func(t *policy.PeerTunnel) {
		t.Remote, t.RemoteID, t.Start = netip.Addr{}, policy.Identity{Type: policy.IDAnyOne}, policy.StartListen
	}
	server.Configure(tunnelTo("192.0.2.1", "10.2.0.0/16", "10.1.0.0/16", anybody))
	one, two := w.AddHost("one", "192.168.1.5"), w.AddHost("two", "192.168.1.6")
	nat := w.AddNAT(one.Addr, netip.MustParseAddr("203.0.113.9"))
	w.Join(nat, two.Addr)
	one.Configure(tunnelTo("192.0.2.2", "10.1.1.0/24", "10.2.0.0/16", ids("one.example", "")))
	two.Configure(tunnelTo("192.0.2.2", "10.1.2.0/24", "10.2.0.0/16", ids("two.example", "")))
	one.Say(1, "t", "lan")
	two.Say(2, "t", "lan")
	w.Run(2 * time.Second)
	if s, n := server.Established("t"); s != 2 || n != 2 || len(server.Plane.Received) != 2 {
		t.Fatalf("%d IKE SAs, %d children, %v arrived: %q", s, n, server.Plane.Received, server.Log)
	}
	noFaults(t, w)
	// The NAT forgets: the server follows both, one by ESP and one by IKE.
	nat.Rebind()
	one.Say(3, "t", "lan")
	w.Run(2 * time.Minute)
	paths := map[string]bool{}
	for _, i := range server.Engine.Status()[0].SAs {
		if nat.back[i.Path.Remote.Port()].Addr().IsValid() {
			paths[i.Path.Remote.String()] = true
		}
	}
	if len(paths) != 2 {
		t.Errorf("the server knows %d living mappings of 2", len(paths))
	}
	noFaults(t, w)
}

func TestNobodyIsAskedForLifeWhileTrafficFlows(t *testing.T) {
	t.Parallel()
	dpd := func(t *policy.PeerTunnel) { t.DPD = 5 * time.Second }
	w, a, b := pair(t, 46, dpd, dpd)
	var talk func()
	talk = func() {
		a.Say(1, "t", "lan")
		b.Say(1, "t", "lan")
		w.After(time.Second, talk)
	}
	w.After(time.Second, talk)
	w.Run(2 * time.Minute)
	if n := a.V2.Taken["peer informs or asks whether we live"] + b.V2.Taken["peer informs or asks whether we live"]; n > 1 {
		t.Errorf("asked %d times", n)
	}
	// One direction alone proves nothing to its sender.
	w, a, b = pair(t, 46, dpd, dpd)
	a.Command(ike.Up, "t", "")
	talk = func() {
		a.Say(1, "t", "lan")
		w.After(time.Second, talk)
	}
	w.After(time.Second, talk)
	w.Run(time.Minute)
	if b.V2.Taken["peer informs or asks whether we live"] < 9 || a.V2.Taken["peer informs or asks whether we live"] > 1 {
		t.Errorf("b was asked %d times, a %d", b.V2.Taken["peer informs or asks whether we live"], a.V2.Taken["peer informs or asks whether we live"])
	}
}
