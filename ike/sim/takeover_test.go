package sim

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"coati/policy"
)

// gatewayForAll is b, whose one tunnel is for any peer, and so many peers, that have tunnels to it.
func gatewayForAll(t *testing.T, seed uint64, peers int, change func(*policy.PeerTunnel)) (*World, *Host, []*Host) {
	t.Helper()
	w := NewWorld(seed)
	b := w.AddHost("b", "192.0.2.200")
	b.Configure(tunnelTo("192.0.2.1", "10.200.0.0/16", "10.0.0.0/9", func(t *policy.PeerTunnel) { t.Remote, t.Start = netip.Addr{}, policy.StartListen }))
	var out []*Host
	for n := 1; n <= peers; n++ {
		h := w.AddHost(fmt.Sprintf("a%d", n), fmt.Sprintf("192.0.2.%d", n))
		h.Configure(tunnelTo("192.0.2.200", fmt.Sprintf("10.%d.0.0/16", n), "10.200.0.0/16", func(t *policy.PeerTunnel) {
			if t.Start = policy.StartNow; n == 1 {
				change(t)
			}
		}))
		out = append(out, h)
	}
	w.Run(2 * time.Second)
	for _, h := range out {
		if !h.Up("t") {
			t.Fatalf("%s is not up: %q %q", h.Name, h.Log, b.Log)
		}
	}
	return w, b, out
}

// onStandby counts the children that wait for their peer.
func onStandby(h *Host) (n int) {
	for _, t := range h.Engine.Status() {
		for _, sa := range t.SAs {
			for _, c := range sa.Children {
				if c.Standby {
					n++
				}
			}
		}
	}
	return n
}

// A peer that authenticates anew makes its second IKE SA first and then deletes the old one. If nothing came on the new pair
// meanwhile, our half of that is still on standby. It carries our packets before the old one goes: of a tunnel for any peer
// nobody could negotiate for those that find none.
func TestAChildOnStandbyTakesOverWhenTheOtherSAGoes(t *testing.T) {
	t.Parallel()
	for _, peers := range []int{1, 2} {
		t.Run(fmt.Sprintf("peers %d", peers), func(t *testing.T) {
			t.Parallel()
			w, b, callers := gatewayForAll(t, 5, peers, func(t *policy.PeerTunnel) { t.Reauth = 10 * time.Second })
			a := callers[0]
			// a is heard on IKE alone.
			w.Net.Tap = func(d Datagram) bool { return d.ESP == nil || d.From.Addr() != a.Addr }
			waited, sent, end := 0, uint64(0), w.Now.Add(30*time.Second)
			var talk func()
			talk = func() {
				waited += onStandby(b)
				b.SayTo(sent, "t", "lan", netip.MustParseAddr("10.1.0.1"))
				if sent++; w.Now.Before(end) {
					w.After(time.Millisecond, talk)
				}
			}
			talk()
			w.Run(31 * time.Second)
			if waited == 0 || b.V2.Taken["peer authenticates"] < uint64(peers)+2 {
				t.Fatalf("b had a child on standby %d times, and was authenticated to %d times: %q", waited, b.V2.Taken["peer authenticates"], b.Log)
			}
			if b.Plane.Unready != 0 || len(b.Plane.Refused) != 0 {
				t.Errorf("%d packets found no SA, and %d were refused", b.Plane.Unready, len(b.Plane.Refused))
			}
			if got := uint64(len(a.Plane.Received)); got != sent || len(a.Plane.Dropped) != 0 {
				t.Errorf("%d of %d packets arrive, %d are dropped", got, sent, len(a.Plane.Dropped))
			}
			w.Net.Tap = nil
			w.Run(time.Minute)
			noFaults(t, w)
		})
	}
}
