package lab

import (
	"net/netip"
	"testing"
	"time"
)

// TestTwoClients: one tunnel for peers at any address, and two strongSwans that know its key. Each gets an SA of its own,
// narrowed to its own LAN, and neither disturbs the other.
func TestTwoClients(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	results.Fill(t, peerStrongSwan, roleResponder, caseTwoClients)
	pair := NewPair(t)
	a, b, c := pair.A, pair.B, pair.Third(t)
	tunnel := Between(a, b)
	tunnel.IKE, tunnel.ESP = usualIKE, usualESP
	tunnel.AnyRemote, tunnel.NoLocal = true, true
	tunnel.ExtraTunnel = "local-id = \"fqdn:hub.example.org\"\n"
	tunnel.RemoteTS = []netip.Prefix{netip.MustParsePrefix("10.2.0.0/15")}
	coati := StartCoati(t, a, tunnel)
	var charons []*Charon
	for _, client := range []struct {
		h         *Host
		hub, name string
	}{{b, a.Outer4.String(), "fqdn:b.example.org"}, {c, "10.8.0.1", "fqdn:c.example.org"}} {
		s := swan{
			local: client.h.Outer4.String(), remote: client.hub, localID: client.name, remoteID: "fqdn:hub.example.org",
			localTS: client.h.LANNet4.Masked().String(), remoteTS: a.LANNet4.Masked().String(),
		}
		charon := StartCharon(t, client.h, false)
		charon.LoadAll(t, s.conf())
		if err := charon.Initiate("lan"); err != nil {
			t.Fatal(err)
		}
		charons = append(charons, charon)
	}
	coati.WaitPairs(t, 5*time.Second, 2)
	for _, client := range []*Host{b, c} {
		NoLoss(t, client, a, 3)
		NoLoss(t, a, client, 3)
	}
	// What happens to one leaves the other alone.
	out := StartStream(t, a, a.LAN4, c, c.LAN4, 200, 200)
	in := StartStream(t, c, c.LAN4, a, a.LAN4, 200, 200)
	if err := charons[0].Rekey("--child", "lan"); err != nil {
		t.Fatal(err)
	}
	NoLoss(t, b, a, 3)
	if err := charons[0].Terminate("--ike", "t"); err != nil {
		t.Fatal(err)
	}
	coati.WaitPairs(t, 10*time.Second, 1)
	if err := charons[0].Initiate("lan"); err != nil {
		t.Fatal(err)
	}
	NoLoss(t, a, b, 3)
	// The hub renews what both have.
	before, _ := coati.spis(t)
	coati.Do(t, "rekey", "peer/lan")
	WaitFor(t, 20*time.Second, "new pairs for both", func() bool {
		now, _ := coati.spis(t)
		for spi := range before {
			if now[spi] {
				return false
			}
		}
		return len(now) == 2
	})
	NoLoss(t, a, b, 3)
	for _, s := range []*Stream{out, in} {
		s.Stop().Undisturbed(t)
	}
	coati.Alive(t)
}
