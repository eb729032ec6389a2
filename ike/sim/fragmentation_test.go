package sim

import (
	"testing"
	"time"

	"coati/ike"
	"coati/policy"
)

// long gives a tunnel of certificates a chain of so many octets: the same certificate again and again.
func long(octets int, second bool) func(*policy.PeerTunnel) {
	return func(t *policy.PeerTunnel) {
		certified(t, second)
		t.IKE = policy.DefaultIKE()[:1]
		leaf := t.Credential.Chain[0]
		for n := len(leaf.Raw); n < octets && len(t.Credential.Chain) < 10; n += len(leaf.Raw) {
			t.Credential.Chain = append(t.Credential.Chain, leaf)
		}
	}
}

// Over a hop that passes no more than MTU octets two gateways find the size that passes, and nobody waits longer than it takes to try the others.
func TestFragmentsFindTheSizeThatPasses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mtu, size int
		largest   int // IP datagram that arrives
		up        bool
	}{
		{1500, 0, 1280, true},
		{1500, 1400, 1400, true},
		{1000, 0, 576, true},
		{600, 4000, 576, true},
		{1500, 576, 576, true},
		{1000, -1, 0, false}, // without fragments it does not arrive at all
	} {
		size := func(second bool) func(*policy.PeerTunnel) {
			return func(t *policy.PeerTunnel) { long(2500, second)(t); t.FragmentSize = c.size }
		}
		w, a, b := pair(t, 3, size(false), size(true))
		w.Net.MTU = c.mtu
		largest, fragments, total := 0, 0, byte(0)
		w.Net.Tap = func(d Datagram) bool {
			if isFragment(d.Bytes) {
				if fragments++; d.Bytes[35] > total {
					total, largest = d.Bytes[35], 0 // cut smaller
				}
				if len(d.Bytes)+ipUDP <= c.mtu {
					largest = max(largest, len(d.Bytes)+ipUDP)
				}
			}
			return true
		}
		a.Command(ike.Up, "t", "")
		w.Run(8 * time.Second)
		if up := a.Up("t") && b.Up("t"); up != c.up || (fragments > 0) != c.up {
			t.Errorf("fragment-size %d over %d octets: up is %t after %d fragments, want %t: %q %q", c.size, c.mtu, up, fragments, c.up, a.Log, b.Log)
		}
		if largest > c.largest || c.up && largest < c.largest-100 {
			t.Errorf("fragment-size %d over %d octets: the largest datagram that arrives has %d octets, want nearly %d", c.size, c.mtu, largest, c.largest)
		}
		// The next IKE SA knows the size, and so does the one after it.
		a.Command(ike.Rekey, "t", "")
		w.Run(2 * time.Second)
		noFaults(t, w)
	}
}

// Who drops one fragment of a message each time it is sent keeps it from arriving, as who drops the message does; and who forges fragments
// to every genuine one changes nothing.
func TestForgedFragmentsDelayNothing(t *testing.T) {
	t.Parallel()
	w, a, b := pair(t, 4, long(4000, false), long(4000, true))
	w.Attacker = &Attacker{Fragment: 1, Replay: 0.5, Mutate: 0.5, Reflect: 0.3}
	began := w.Now
	a.Command(ike.Up, "t", "")
	if !w.RunUntil(10*time.Second, func() bool { return a.Up("t") && b.Up("t") }) {
		t.Fatalf("not up: %q %q", a.Log, b.Log)
	}
	if took := w.Now.Sub(began); took > 400*time.Millisecond || w.Attacker.Forged == 0 {
		t.Errorf("up after %v, with %d forged datagrams: somebody waited for a repetition", took, w.Attacker.Forged)
	}
	w.Attacker = nil
	noFaults(t, w)
}
