package sim

import (
	"testing"
	"time"

	"coati/ike"
	"coati/policy"
)

// forWeb leaves of a tunnel's child what goes to one port.
func forWeb(local, remote string) func(*policy.PeerTunnel) {
	return func(t *policy.PeerTunnel) {
		c := &t.Children[0]
		for _, end := range []struct {
			set  []policy.Selector
			port string
		}{{c.Local, local}, {c.Remote, remote}} {
			for i := range end.set {
				if end.port == "" {
					continue
				}
				s, err := policy.ParseSelector(end.set[i].String() + end.port)
				if err != nil {
					panic(err)
				}
				end.set[i] = s
			}
		}
	}
}

// RFC 7296, section 1.3.1: fragments after the first travel on a child for certain ports only if both ends say so, in the first
// exchange, in later ones and when it is rekeyed.
func TestLaterFragmentsAreAgreedOnForPortsAlone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name         string
		aPort, bPort string // of b's net, as either end has it
		aNot, bNot   bool
		want         bool
	}{
		{"both ends name a port", "[tcp/443]", "[tcp/443]", false, false, true},
		{"any port", "", "", false, false, false},
		{"any port of a protocol", "[tcp]", "[tcp]", false, false, false},
		{"only the initiator names a port", "[tcp/443]", "", false, false, true},
		{"the initiator asks for any and is narrowed", "", "[tcp/443]", false, false, false},
		{"the responder cannot check them", "[tcp/443]", "[tcp/443]", false, true, false},
		{"the initiator cannot check them", "[tcp/443]", "[tcp/443]", true, false, false},
	} {
		w, a, b := pair(t, 51, forWeb("", c.aPort), forWeb(c.bPort, ""))
		a.Limits.NoLaterFragments, b.Limits.NoLaterFragments = c.aNot, c.bNot
		a.Restart()
		b.Restart()
		a.Command(ike.Up, "t", "")
		w.Run(5 * time.Second)
		for _, rekey := range []bool{false, true} {
			for _, h := range []*Host{a, b} {
				in, out := sas(t, h)
				if in.LaterFragments != c.want || out.LaterFragments != c.want {
					t.Errorf("%s, rekeyed %t: %s has %t and %t, want %t", c.name, rekey, h.Name, in.LaterFragments, out.LaterFragments, c.want)
				}
			}
			a.Command(ike.Rekey, "t", "lan")
			w.Run(10 * time.Second)
		}
		noFaults(t, w)
	}
}
