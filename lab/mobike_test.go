package lab

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// MOBIKE (RFC 4555) against strongSwan: who began has two links to the other, and the one in use is taken down. The IKE SA and its child
// go along, and what is lost meanwhile is counted.

const caseMobike = "MOBIKE: of two links one is taken down"

func mobikeCells() []Cell {
	// As responder strongSwan begins to move by itself when the link goes, in ways that differ from run to run.
	return []Cell{{peerStrongSwan, roleResponder, caseMobike}}
}

func TestStrongSwanMobike(t *testing.T) {
	NeedRoot(t)
	for _, role := range []string{roleResponder} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			results.Fill(t, peerStrongSwan, role, caseMobike)
			pair := NewPair(t)
			a, b := pair.A, pair.B
			client, hub := a, b
			if role == roleResponder {
				client, hub = b, a
			}
			// The second link has networks of its own, and leads to the hub's one address, too.
			link(t, client, "eth7", hub, "eth7")
			for _, h := range []*Host{client, hub} {
				h.Must(t, "ip", "link", "set", "eth7", "up")
			}
			client.AddAddress(t, "eth7", netip.MustParsePrefix("10.7.0.1/24"))
			hub.AddAddress(t, "eth7", netip.MustParsePrefix("10.7.0.2/24"))
			// On a link of its own: strongSwan does not think of addresses of the loopback interface as reachable.
			hub.Must(t, "ip", "link", "add", "own0", "type", "veth", "peer", "name", "own1")
			hub.Must(t, "ip", "link", "set", "own0", "up")
			hub.Must(t, "ip", "link", "set", "own1", "up")
			hub.AddAddress(t, "own0", netip.MustParsePrefix("10.77.0.1/32"))
			client.Must(t, "ip", "route", "add", "10.77.0.1", "via", hub.Outer4.String(), "metric", "10")
			client.Must(t, "ip", "route", "add", "10.77.0.1", "via", "10.7.0.2", "metric", "20")

			tunnel := Between(a, b)
			tunnel.IKE, tunnel.ESP, tunnel.Start = usualIKE, usualESP, "listen"
			tunnel.ExtraTunnel = "mobike = true\nlocal-id = \"fqdn:a.example\"\nremote-id = \"fqdn:b.example\"\n"
			peer := toSwan(tunnel)
			peer.localID, peer.remoteID, peer.more = "b.example", "a.example", "mobike = yes\n  dpd_delay = 5s"
			if role == roleInitiator {
				tunnel.Start, tunnel.NoLocal, tunnel.Remote = "on-demand", true, netip.MustParseAddr("10.77.0.1")
				peer.local, peer.remote = "10.77.0.1", "%any"
			} else {
				tunnel.Local, tunnel.AnyRemote = netip.MustParseAddr("10.77.0.1"), true
				peer.local, peer.remote = "%any", "10.77.0.1"
			}
			v := start(t, pair, role, tunnel, peer)
			v.connect(t)
			if !strings.Contains(v.charon.Log(), "peer supports MOBIKE") {
				t.Fatalf("no MOBIKE:\n%s", grep(v.charon.Log(), "MOBIKE"))
			}
			first := v.coati.Status(t).Tunnels[0].IKE[0]
			at := func(address string) {
				t.Helper()
				WaitFor(t, 20*time.Second, "the SA at "+address, func() bool {
					sas := v.coati.Status(t).Tunnels[0].IKE
					here := func(s string) bool { return strings.HasPrefix(s, address+":") }
					return len(sas) == 1 && (here(sas[0].Local) || here(sas[0].Remote))
				})
			}
			out := StartStream(t, a, a.LAN4, b, b.LAN4, 200, 200)
			back := StartStreamTo(t, b, b.LAN4, a, netip.AddrPortFrom(a.LAN4, 7778), 200, 200)
			WaitFor(t, 10*time.Second, "both streams", func() bool { return out.Received() > 10 && back.Received() > 10 })
			client.Must(t, "ip", "link", "set", "eth0", "down")
			at("10.7.0.1")
			x, y := out.Received(), back.Received()
			WaitFor(t, 30*time.Second, "both streams to go on", func() bool { return out.Received() > x+50 && back.Received() > y+50 })
			t.Logf("the link went down: ours %s; theirs %s", out.Stop(), back.Stop())
			// strongSwan in userspace cannot move its SAs and makes new ones, perhaps more than once.
			WaitFor(t, 30*time.Second, "pings both ways", func() bool { return Reachable(t, a, b) && Reachable(t, b, a) })

			if now := v.coati.Status(t).Tunnels[0].IKE[0]; now.LocalSPI != first.LocalSPI || now.RemoteSPI != first.RemoteSPI {
				t.Errorf("it is another IKE SA: %s %s, was %s %s", now.LocalSPI, now.RemoteSPI, first.LocalSPI, first.RemoteSPI)
			}
			v.coati.Alive(t)
		})
	}
}
