package lab

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// behindNAT is the tunnel of host A, whose address nobody outside knows, and B's for it: from anywhere, known by name.
func behindNAT(n *NAT) (client, server Tunnel) {
	client = Between(n.A, n.B)
	client.IKE, client.ESP = usualIKE, usualESP
	client.ExtraTunnel = "local-id = \"fqdn:a.example.org\"\nremote-id = \"fqdn:b.example.org\"\nkeepalive = \"2s\"\n"
	server = client.Reversed()
	server.AnyRemote = true
	server.ExtraTunnel = "local-id = \"fqdn:b.example.org\"\nremote-id = \"fqdn:a.example.org\"\n"
	return client, server
}

// remote is where Coati believes its only peer to be.
func (c *Coati) remote(t *testing.T) netip.AddrPort {
	t.Helper()
	tunnel := c.Status(t).Tunnels[0]
	if len(tunnel.IKE) != 1 {
		t.Fatalf("%d IKE SAs, want 1", len(tunnel.IKE))
	}
	return netip.MustParseAddrPort(tunnel.IKE[0].Remote)
}

// TestNAT: a Coati behind a NAT reaches another one. The negotiation moves to port 4500, ESP travels in UDP, keepalives
// hold the mapping, and when the router gives the peer another port the other end follows.
func TestNAT(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	results.Fill(t, peerCoati, roleBoth, caseNAT)
	n := NewNAT(t, 5)
	client, server := behindNAT(n)
	b := StartCoati(t, n.B, server)
	a := StartCoati(t, n.A, client)
	capture := n.B.Capture(t)
	NoLoss(t, n.A, n.B, 3)
	ike := a.Status(t).Tunnels[0].IKE[0]
	if !ike.NATLocal || ike.NATRemote || !strings.HasSuffix(ike.Local, ":4500") || !strings.HasSuffix(ike.Remote, ":4500") {
		t.Errorf("behind the NAT: %+v", ike)
	}
	if pair := a.Pairs(t)[0]; pair.Encap != "udp" {
		t.Errorf("encap %s, want udp", pair.Encap)
	}
	seen := b.remote(t)
	if seen.Addr() != n.Router.Outer4 || seen.Port() < 20000 || seen.Port() > 20099 {
		t.Errorf("B believes its peer at %s", seen)
	}
	// Idle for longer than the router remembers: B can still reach A, at the same port.
	idle := time.Now()
	Within(12*time.Second, func() bool { return time.Since(idle) > 11*time.Second })
	NoLoss(t, n.B, n.A, 3)
	if now := b.remote(t); now != seen {
		t.Errorf("the mapping was not held: B's peer moved from %s to %s", seen, now)
	}

	// The router forgets, and chooses other ports. What A sends next comes from there, and B answers there.
	stream := StartStream(t, n.A, n.A.LAN4, n.B, n.B.LAN4, 100, 200)
	back := StartStream(t, n.B, n.B.LAN4, n.A, n.A.LAN4, 100, 200)
	WaitFor(t, 10*time.Second, "both streams to flow", func() bool { return stream.Received() > 10 && back.Received() > 10 })
	n.Masquerade(t, 30000)
	WaitFor(t, 10*time.Second, "B to follow the new port", func() bool {
		p := b.remote(t).Port()
		return p >= 30000 && p <= 30099
	})
	mark := back.Received()
	WaitFor(t, 10*time.Second, "the stream to A to go on", func() bool { return back.Received() > mark+20 })
	// Only what was on its way to the old port may be lost, and nothing that A sent.
	stream.Stop().Undisturbed(t)
	if report := back.Stop(); report.Lost > report.Sent/4 {
		t.Errorf("stream to A: %s", report)
	}
	for _, rekey := range []*Coati{a, b} {
		rekey.Do(t, "rekey", "peer/lan")
		NoLoss(t, n.B, n.A, 3)
	}
	capture.Stop(t)
	for _, line := range Judge(t, capture.File, b.Keys).Clear {
		t.Errorf("neither IKE nor ESP: %s", line)
	}
	a.Alive(t)
	b.Alive(t)
}

// TestNATForgetsWithoutKeepalives shows that the mapping in TestNAT needs holding.
func TestNATForgetsWithoutKeepalives(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	n := NewNAT(t, 3)
	client, server := behindNAT(n)
	client.ExtraTunnel = strings.Replace(client.ExtraTunnel, "2s", "1h", 1)
	client.DPD, server.DPD = "1h", "1h"
	StartCoati(t, n.B, server)
	StartCoati(t, n.A, client)
	NoLoss(t, n.A, n.B, 3)
	idle := time.Now()
	Within(7*time.Second, func() bool { return time.Since(idle) > 6*time.Second })
	if lost := n.B.Ping(t, n.B.LAN4, n.A.LAN4, 1); lost != 1 {
		t.Error("the router did not forget the mapping: the test of keepalives proves nothing")
	}
}

// TestNATWithStrongSwan: Coati behind the NAT, and strongSwan behind it.
func TestNATWithStrongSwan(t *testing.T) {
	NeedRoot(t)
	for _, role := range bothRoles {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			results.Fill(t, peerStrongSwan, role, caseNAT)
			n := NewNAT(t, 5)
			client, server := behindNAT(n)
			var coati *Coati
			var charon *Charon
			if role == roleInitiator {
				client.DPD = "2s"
				peer := toSwan(client)
				peer.remote, peer.localID, peer.remoteID = "%any", "fqdn:b.example.org", "fqdn:a.example.org"
				peer.more = "mobike = no"
				charon = StartCharon(t, n.B, false)
				charon.LoadAll(t, peer.conf())
				coati = StartCoati(t, n.A, client)
			} else {
				peer := toSwan(server)
				peer.local, peer.remote = n.A.Outer4.String(), n.B.Outer4.String()
				peer.localID, peer.remoteID = "fqdn:a.example.org", "fqdn:b.example.org"
				peer.more = "mobike = no\n  dpd_delay = 2s"
				coati = StartCoati(t, n.B, server)
				charon = StartCharon(t, n.A, false, "keep_alive = 2s")
				charon.LoadAll(t, peer.conf())
				if err := charon.Initiate("lan"); err != nil {
					t.Fatal(err)
				}
			}
			NoLoss(t, n.A, n.B, 3)
			idle := time.Now()
			Within(8*time.Second, func() bool { return time.Since(idle) > 7*time.Second })
			NoLoss(t, n.B, n.A, 3)
			n.Masquerade(t, 30000)
			WaitFor(t, 20*time.Second, "both ends to follow the new port", func() bool {
				return Reachable(t, n.A, n.B) && Reachable(t, n.B, n.A)
			})
			if role == roleResponder {
				if p := coati.remote(t).Port(); p < 30000 {
					t.Errorf("the peer's port is %d, want one from 30000 on", p)
				}
			}
			NoLoss(t, n.A, n.B, 3)
			coati.Alive(t)
		})
	}
}
