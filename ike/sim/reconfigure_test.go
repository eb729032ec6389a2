package sim

import (
	"slices"
	"testing"
	"time"

	"coati/ike"
	"coati/policy"
)

// pairsOf are the inbound SPIs of a tunnel's children by name, and its IKE SAs' own SPIs.
func pairsOf(h *Host, tunnel string) (ikeSPIs []uint64, children map[string][]policy.SPI) {
	children = map[string][]policy.SPI{}
	for _, t := range h.Engine.Status() {
		if t.Name != tunnel {
			continue
		}
		for _, i := range t.SAs {
			ikeSPIs = append(ikeSPIs, i.LocalSPI)
			for _, c := range i.Children {
				children[c.Name] = append(children[c.Name], c.InSPI)
			}
		}
	}
	return ikeSPIs, children
}

// chat has both ends talk every few milliseconds until the world has gone on for d; it says how many packets each sent.
func chat(w *World, a, b *Host, child string, d time.Duration) uint64 {
	n, end := uint64(0), w.Now.Add(d)
	var talk func()
	talk = func() {
		if w.Now.After(end) {
			return
		}
		a.Say(n, "t", child)
		b.Say(n, "t", child)
		n++
		w.After(5*time.Millisecond, talk)
	}
	talk()
	w.Run(d + time.Second)
	return n
}

func TestTimersChangeUnderALivingSA(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*policy.PeerTunnel){
		"dpd":       func(t *policy.PeerTunnel) { t.DPD = 3 * time.Second },
		"keepalive": func(t *policy.PeerTunnel) { t.Keepalive = 7 * time.Second },
		"lifetime":  func(t *policy.PeerTunnel) { t.Lifetime = 2 * time.Hour },
		"reauth":    func(t *policy.PeerTunnel) { t.Reauth = time.Hour },
		"unique":    func(t *policy.PeerTunnel) { t.Unique = policy.UniqueReplace },
		"start":     func(t *policy.PeerTunnel) { t.Start = policy.StartNow },
		"on-dead":   func(t *policy.PeerTunnel) { t.OnDead = policy.LossClear },
		"on-close":  func(t *policy.PeerTunnel) { t.OnClose = policy.LossRestart },
		"a child's lifetime": func(t *policy.PeerTunnel) {
			t.Children[0].Lifetime = policy.Lifetime{SoftTime: 50 * time.Minute, HardTime: time.Hour}
		},
	} {
		w, a, b := pair(t, 71, nil, nil)
		a.Command(ike.Up, "t", "")
		w.Run(time.Second)
		ikes, children := pairsOf(a, "t")
		w.After(500*time.Millisecond, func() { a.Configure(tunnelTo("192.0.2.2", "10.1.0.0/16", "10.2.0.0/16", change)) })
		sent := chat(w, a, b, "lan", time.Second)
		again, after := pairsOf(a, "t")
		if len(ikes) != 1 || !slices.Equal(ikes, again) || !slices.Equal(children["lan"], after["lan"]) {
			t.Errorf("%s: the SAs were %x %v and are %x %v", name, ikes, children, again, after)
		}
		if uint64(len(a.Plane.Received)) != sent || uint64(len(b.Plane.Received)) != sent {
			t.Errorf("%s: %d and %d of %d packets arrived", name, len(a.Plane.Received), len(b.Plane.Received), sent)
		}
		noFaults(t, w)
	}
	// What negotiated the SA does replace it.
	w, a, _ := pair(t, 71, nil, nil)
	a.Command(ike.Up, "t", "")
	w.Run(time.Second)
	ikes, _ := pairsOf(a, "t")
	a.Configure(tunnelTo("192.0.2.2", "10.1.0.0/16", "10.2.0.0/16", ike1("aes256gcm16-prfsha384-x25519"), func(t *policy.PeerTunnel) { t.Start = policy.StartNow }))
	w.Run(10 * time.Second)
	if again, _ := pairsOf(a, "t"); len(again) != 1 || slices.Equal(ikes, again) {
		t.Errorf("another proposal: the SA was %x and is %x: %q", ikes, again, a.Log)
	}
}

func TestNewTimersTakeEffect(t *testing.T) {
	t.Parallel()
	again := func(change func(*policy.PeerTunnel)) (*World, *Host, *Host) {
		w, a, b := pair(t, 72, func(t *policy.PeerTunnel) { t.DPD = time.Hour }, func(t *policy.PeerTunnel) { t.DPD = time.Hour })
		a.Command(ike.Up, "t", "")
		w.Run(time.Minute)
		a.Configure(tunnelTo("192.0.2.2", "10.1.0.0/16", "10.2.0.0/16", func(t *policy.PeerTunnel) { t.DPD = time.Hour; change(t) }))
		return w, a, b
	}
	w, a, b := again(func(t *policy.PeerTunnel) { t.DPD = 5 * time.Second })
	b.Crash()
	w.Run(5*time.Second + RetransmissionLimit(a.Limits))
	if s, _ := a.Established("t"); s != 0 {
		t.Error("the new dpd does not notice a dead peer")
	}
	// A lifetime that is over already leaves time for a rekey.
	for _, life := range []time.Duration{10 * time.Second, 2 * time.Minute} {
		w, a, b = again(func(t *policy.PeerTunnel) { t.Lifetime = life })
		w.Run(time.Minute + time.Second)
		if n := b.V2.Taken["peer rekeys the IKE SA"]; n == 0 || !a.Up("t") {
			t.Errorf("lifetime %v: %d rekeys, up %v: %q", life, n, a.Up("t"), a.Log)
		}
	}
	w, a, b = again(func(t *policy.PeerTunnel) { t.Reauth = 20 * time.Second })
	w.Run(21 * time.Second)
	if n := b.V2.Taken["peer authenticates"]; n != 2 || !a.Up("t") {
		t.Errorf("reauth: authenticated %d times: %q", n, a.Log)
	}
	w, a, _ = again(func(t *policy.PeerTunnel) { t.Lifetime, t.Reauth = 0, 0 })
	w.Run(10 * time.Hour)
	if !a.Up("t") {
		t.Error("a lifetime of for ever ends")
	}
	noFaults(t, w)
}

func TestStartChanges(t *testing.T) {
	t.Parallel()
	w, a, b := pair(t, 73, nil, nil)
	configure := func(s policy.Start) {
		a.Configure(tunnelTo("192.0.2.2", "10.1.0.0/16", "10.2.0.0/16", func(t *policy.PeerTunnel) { t.Start = s }))
	}
	configure(policy.StartNow)
	w.Run(2 * time.Second)
	if !a.Up("t") {
		t.Fatalf("start = now does not start: %q", a.Log)
	}
	b.Crash()
	w.Run(5 * time.Minute)
	configure(policy.StartOnDemand)
	tried := 0
	w.Net.Tap = func(d Datagram) bool { tried++; return true }
	w.Run(2 * time.Minute)
	if tried > int(8) { // the attempt under way ends as it began
		t.Errorf("%d datagrams of a tunnel on demand", tried)
	}
	w.Net.Tap = nil
	b.Restart()
	configure(policy.StartNow)
	w.Run(2 * time.Second)
	if !a.Up("t") {
		t.Errorf("start = now does not start again: %q", a.Log)
	}
}

// One child of two changes: the IKE SA and the other child stay, and nothing is lost but what the peer still sends through
// the old child after its delete, which waits at the peer.
func TestOneChildChanges(t *testing.T) {
	t.Parallel()
	two := func(local, remote string, change ...func(*policy.PeerTunnel)) func(*policy.PeerTunnel) {
		return func(t *policy.PeerTunnel) {
			t.Children = append(t.Children, t.Children[0])
			t.Children[1].Name, t.Children[1].Local, t.Children[1].Remote = "dmz", []policy.Selector{sel(local)}, []policy.Selector{sel(remote)}
			for _, f := range change {
				f(t)
			}
		}
	}
	stronger := func(t *policy.PeerTunnel) { esp1("aes256gcm16")(t) }
	without := func(t *policy.PeerTunnel) { t.Children = t.Children[1:] }
	for wait := range 30 { // while a rekey of either child or of the IKE SA is under way, or just over
		for i, child := range []string{"lan", "dmz", ""} {
			change := stronger
			if wait%5 == 4 {
				change = without
			}
			w, a, b := pair(t, uint64(74+wait), two("10.5.0.0/16", "10.6.0.0/16"), two("10.6.0.0/16", "10.5.0.0/16"))
			a.Command(ike.Up, "t", "")
			w.Run(time.Second)
			[]*Host{a, b}[(wait+i)%2].Command(ike.Rekey, "t", child)
			w.Run(time.Duration(2*wait) * time.Millisecond)
			_, before := pairsOf(a, "t")
			rekeys := a.V2.Taken["our CREATE_CHILD_SA answered"] + b.V2.Taken["our CREATE_CHILD_SA answered"]
			auths := b.V2.Taken["peer authenticates"]
			a.Configure(tunnelTo("192.0.2.2", "10.1.0.0/16", "10.2.0.0/16", two("10.5.0.0/16", "10.6.0.0/16", change)))
			sent := chat(w, a, b, "dmz", time.Second)
			if uint64(len(a.Plane.Received)) != sent || uint64(len(b.Plane.Received)) != sent {
				t.Errorf("%q after %d ms: %d and %d of %d packets of the child that stays arrived", child, 2*wait, len(a.Plane.Received), len(b.Plane.Received), sent)
			}
			a.Command(ike.Up, "t", "")
			w.Run(time.Minute)
			if s, _ := a.Established("t"); s != 1 || b.V2.Taken["peer authenticates"] != auths {
				t.Errorf("%q after %d ms: %d IKE SAs, authenticated again: %q %q", child, 2*wait, s, a.Log, b.Log)
			}
			_, after := pairsOf(a, "t")
			if wait > 10 && child == "lan" && !slices.Equal(before["dmz"], after["dmz"]) {
				t.Errorf("%q after %d ms (%d exchanges): the other child was %v and is %v", child, 2*wait, rekeys, before["dmz"], after["dmz"])
			}
			if wait%5 == 4 {
				if len(after["lan"]) != 0 || len(after["dmz"]) != 1 {
					t.Errorf("%q after %d ms: %v: a removed child stays", child, 2*wait, after)
				}
				noFaults(t, w)
				continue
			}
			strong := 0
			for _, i := range a.Engine.Status()[0].SAs {
				for _, c := range i.Children {
					if c.Name == "lan" && c.Proposal.First(policy.TransformENCR).KeyBits == 256 {
						strong++
					}
				}
			}
			if len(after["lan"]) != 1 || len(after["dmz"]) != 1 || strong != 1 {
				t.Errorf("%q after %d ms: %v, %d of the new kind: %q %q", child, 2*wait, after, strong, a.Log, b.Log)
			}
			noFaults(t, w)
		}
	}
}
