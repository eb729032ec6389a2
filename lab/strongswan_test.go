package lab

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// A swan is what the lab varies in a connection of swanctl.conf, named t, as seen from strongSwan's
// host. What is empty is left out, or has the usual value.
type swan struct {
	local, remote     string // addresses
	localID, remoteID string // the addresses, if empty
	localTS, remoteTS string
	ike, esp          string
	more, child       string // more lines of the connection, and of its child lan
	children          string // more children
	psk               string
	secrets           string // more secrets
}

// toSwan is the connection that answers a tunnel of Coati's.
func toSwan(n Tunnel) swan {
	return swan{
		local: n.Remote.String(), remote: n.Local.String(), localTS: n.RemoteTS[0].String(), remoteTS: n.LocalTS[0].String(),
		ike: n.IKE, esp: n.ESP,
	}
}

func (s swan) conf() string {
	return fmt.Sprintf(`connections { t { version = 2
  local_addrs = %s
  remote_addrs = %s
  proposals = %s
  %s
  local { auth = psk
    id = %s }
  remote { auth = psk
    id = %s }
  children {
    lan { local_ts = %s
      remote_ts = %s
      esp_proposals = %s
      %s }
    %s } } }
secrets { ike-1 { secret = "%s" }
  %s }
`, s.local, s.remote, cmp.Or(s.ike, usualIKE), s.more, cmp.Or(s.localID, s.local), cmp.Or(s.remoteID, s.remote),
		s.localTS, s.remoteTS, cmp.Or(s.esp, usualESP), s.child, s.children, cmp.Or(s.psk, psk), s.secrets)
}

// swanctlConf is such a connection with nothing special.
func swanctlConf(local, remote netip.Addr, localTS, remoteTS netip.Prefix, ike, esp, more string) string {
	return swan{
		local: local.String(), remote: remote.String(), localTS: localTS.String(), remoteTS: remoteTS.String(),
		ike: ike, esp: esp, more: more,
	}.conf()
}

const (
	usualIKE = "aes128gcm16-prfsha256-x25519"
	usualESP = "aes128gcm16"
)

// versus is Coati on host A and strongSwan on host B, not yet connected.
type versus struct {
	*Pair
	coati  *Coati
	charon *Charon
	role   string
}

// setUp starts both. As initiator Coati waits for the first packet, else for the peer.
func setUp(t *testing.T, role, family string, c cipherCase, dpd string) *versus {
	t.Helper()
	pair := NewPair(t)
	tunnel := Between(pair.A, pair.B)
	tunnel.Local, tunnel.Remote = outer(pair.A, family), outer(pair.B, family)
	tunnel.IKE, tunnel.ESP, tunnel.DPD = c.ike, c.esp, dpd
	tunnel.Start = "listen"
	if role == roleInitiator {
		tunnel.Start = "on-demand"
	}
	return start(t, pair, role, tunnel, toSwan(tunnel))
}

// start starts both with what they are given.
func start(t *testing.T, pair *Pair, role string, tunnel Tunnel, peer swan, settings ...string) *versus {
	t.Helper()
	return startBeside(t, pair, role, tunnel, peer, func() *Charon { return StartCharon(t, pair.B, false, settings...) })
}

// startBeside starts both, the peer by a function.
func startBeside(t *testing.T, pair *Pair, role string, tunnel Tunnel, peer swan, charon func() *Charon) *versus {
	t.Helper()
	v := &versus{Pair: pair, role: role}
	v.coati = NewCoati(t, pair.A, tunnel) // skips where there is no program, before anything runs
	v.charon = charon()
	v.charon.LoadAll(t, peer.conf())
	v.coati.Start(t)
	return v
}

// connect brings the tunnel up from the side whose turn it is. A first packet of ours waits for the
// negotiation, so no ping may be lost.
func (v *versus) connect(t *testing.T) {
	t.Helper()
	if v.role == roleResponder {
		if err := v.charon.Initiate("lan"); err != nil {
			t.Fatal(err)
		}
	}
	NoLoss(t, v.A, v.B, 3)
	if n := v.charon.Established(t, "lan"); n != 1 {
		t.Errorf("strongSwan has %d children, want 1", n)
	}
	v.coati.WaitPairs(t, 5*time.Second, 1)
	// Our request names the first packet; both ends have the whole networks nevertheless.
	for _, c := range v.coati.Status(t).Tunnels[0].Children {
		for _, p := range c.SAs {
			if !slices.Equal(c.LocalTS, p.LocalTS) || !slices.Equal(c.RemoteTS, p.RemoteTS) {
				t.Errorf("the child is for %v - %v, negotiated were %v - %v", c.LocalTS, c.RemoteTS, p.LocalTS, p.RemoteTS)
			}
		}
	}
}

// judged connects under a capture, sends traffic both ways and has tshark open all of it.
func (v *versus) judged(t *testing.T) {
	t.Helper()
	capture := v.A.Capture(t)
	v.connect(t)
	NoLoss(t, v.B, v.A, 3)
	v.coati.Do(t, "down", "peer")
	capture.Stop(t)
	Judge(t, capture.File, v.coati.Keys).Check(t, 12)
	v.coati.Alive(t)
}

func TestStrongSwan(t *testing.T) {
	NeedRoot(t)
	for _, role := range bothRoles {
		for _, family := range families {
			t.Run(role+"/"+family, func(t *testing.T) {
				t.Parallel()
				results.Fill(t, peerStrongSwan, role, family+" outside")
				setUp(t, role, family, cipherCase{usualIKE, usualESP}, "").judged(t)
			})
		}
		for _, c := range cipherCases() {
			t.Run(role+"/"+c.ike+"_"+c.esp, func(t *testing.T) {
				t.Parallel()
				results.Fill(t, peerStrongSwan, role, c.String())
				setUp(t, role, "IPv4", c, "").judged(t)
			})
		}
		t.Run(role+"/DeletedByCoati", func(t *testing.T) {
			t.Parallel()
			results.Fill(t, peerStrongSwan, role, caseDeleteByCoati)
			v := setUp(t, role, "IPv4", cipherCase{usualIKE, usualESP}, "")
			v.connect(t)
			v.coati.Do(t, "down", "peer")
			WaitFor(t, 5*time.Second, "strongSwan to have no SA", func() bool { return len(v.charon.SAs(t)) == 0 })
			v.coati.WaitPairs(t, 5*time.Second, 0)
			v.connect(t)
		})
		t.Run(role+"/DeletedByPeer", func(t *testing.T) {
			t.Parallel()
			results.Fill(t, peerStrongSwan, role, caseDeleteByPeer)
			v := setUp(t, role, "IPv4", cipherCase{usualIKE, usualESP}, "")
			v.connect(t)
			// First the child alone, then the IKE SA with it; each time the next packet, or
			// the peer, brings it up again.
			if err := v.charon.Terminate("--child", "lan"); err != nil {
				t.Fatal(err)
			}
			v.coati.WaitPairs(t, 5*time.Second, 0)
			v.connect(t)
			if err := v.charon.Terminate("--ike", "t"); err != nil {
				t.Fatal(err)
			}
			v.coati.WaitPairs(t, 5*time.Second, 0)
			WaitFor(t, 5*time.Second, "coati to have no IKE SA", func() bool { return v.coati.IKESAs(t) == 0 })
			v.connect(t)
		})
		t.Run(role+"/Killed", func(t *testing.T) {
			t.Parallel()
			results.Fill(t, peerStrongSwan, role, casePeerKilled)
			v := setUp(t, role, "IPv4", cipherCase{usualIKE, usualESP}, "2s")
			v.connect(t)
			before := v.coati.Pairs(t)[0].In.SPI
			v.charon.Kill()
			// Nothing is said by the dead: liveness checks alone can notice it.
			gone := func() bool {
				pairs := v.coati.Pairs(t)
				return len(pairs) == 0 || pairs[0].In.SPI != before
			}
			WaitFor(t, 90*time.Second, "liveness to notice the dead peer", gone)
			v.charon.Restart(t)
			if role == roleResponder {
				if err := v.charon.Initiate("lan"); err != nil {
					t.Fatal(err)
				}
			}
			WaitFor(t, 60*time.Second, "the tunnel to come back", func() bool { return Reachable(t, v.A, v.B) })
			NoLoss(t, v.A, v.B, 3)
			v.coati.Alive(t)
		})
	}
}
