package lab

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A mistake is a configuration that cannot work, and the sentence that must say why.
type mistake struct {
	name string
	// What differs from a tunnel that works, at Coati's end and at strongSwan's.
	ours  func(n *Tunnel)
	peers func(s *swan)
	setUp func(t *testing.T, v *versus)
	says  string
}

const (
	here, there = "10.9.0.1", "10.9.0.2"
	elsewhere   = "192.0.2.0/24"
)

// asInitiator: Coati begins, and `coati up` and `coati status` say the sentence.
var asInitiator = []mistake{
	{
		name:  "pre-shared keys differ",
		peers: func(s *swan) { s.psk = "another secret" },
		says:  "the peer 10.9.0.2 refuses our identity 10.9.0.1 or our pre-shared key: compare local-id and psk-file with its configuration",
	},
	{
		name:  "our identity is not the one the peer expects",
		peers: func(s *swan) { s.remoteID = "fqdn:a.example.org" },
		says:  "the peer 10.9.0.2 refuses our identity 10.9.0.1 or our pre-shared key: compare local-id and psk-file with its configuration",
	},
	{
		name: "the peer's identity is not the one we expect",
		ours: func(n *Tunnel) { n.ExtraTunnel = "remote-id = \"fqdn:b.example.org\"\n" },
		says: "the peer 10.9.0.2 refuses our identity 10.9.0.1 or our pre-shared key: compare local-id and psk-file with its configuration",
	},
	{
		name:  "the peer says to be another",
		peers: func(s *swan) { s.localID = "fqdn:c.example.org" },
		says:  "the peer says it is fqdn:c.example.org, tunnel peer expects 10.9.0.2: see remote-id",
	},
	{
		name:  "no IKE proposal in common",
		ours:  func(n *Tunnel) { n.IKE = "aes256gcm16-prfsha384-ecp384" },
		peers: func(s *swan) { s.ike = "aes128-sha256-modp2048" },
		says:  "the peer accepts none of our IKE proposals (aes256gcm16-prfsha384-ecp384): compare ike with the peer's configuration",
	},
	{
		name:  "no IKE key exchange in common",
		ours:  func(n *Tunnel) { n.IKE = "aes128gcm16-prfsha256-ecp256" },
		peers: func(s *swan) { s.ike = "aes128gcm16-prfsha256-x25519" },
		says:  "the peer accepts none of our IKE proposals (aes128gcm16-prfsha256-ecp256): compare ike with the peer's configuration",
	},
	{
		name:  "no ESP proposal in common",
		ours:  func(n *Tunnel) { n.ESP = "aes256gcm16" },
		peers: func(s *swan) { s.esp = "aes128-sha256" },
		says:  "the peer accepts none of our ESP proposals (aes256gcm16-esn-noesn): compare esp with its configuration",
	},
	{
		name:  "no traffic selector in common",
		ours:  func(n *Tunnel) { n.RemoteTS = []netip.Prefix{netip.MustParsePrefix(elsewhere)} },
		peers: func(s *swan) { s.localTS = "10.2.0.0/24" },
		says:  "the peer accepts none of our traffic selectors [10.1.0.0/24] <-> [192.0.2.0/24]: compare local-ts and remote-ts with its configuration",
	},
	{
		name:  "the peer has no connection for our address",
		peers: func(s *swan) { s.remote = "10.9.0.99" },
		says:  "the peer accepts none of our IKE proposals (aes128gcm16-prfsha256-x25519): compare ike with the peer's configuration",
	},
	{
		name:  "nobody is at the address",
		ours:  func(n *Tunnel) { n.Remote = netip.MustParseAddr("10.9.0.77") },
		peers: func(*swan) {},
		says:  "no answer from 10.9.0.77:500: asked 8 times for IKE_SA_INIT from 10.9.0.1:500, ICMP says host unreachable; is the peer running, and does a firewall pass UDP 500",
	},
	{
		name:  "the peer is not running",
		setUp: func(_ *testing.T, v *versus) { v.charon.Kill() },
		says:  "no answer from 10.9.0.2:500: asked 8 times for IKE_SA_INIT from 10.9.0.1:500, ICMP says port unreachable; is the peer running, and does a firewall pass UDP 500",
	},
	{
		name:  "a firewall drops UDP 500",
		setUp: func(t *testing.T, v *versus) { v.B.drop(t, "udp dport 500") },
		says:  "no answer from 10.9.0.2:500: asked 8 times for IKE_SA_INIT from 10.9.0.1:500, no ICMP error came back; is the peer running, and does a firewall pass UDP 500",
	},
	{
		name:  "a firewall drops UDP 4500",
		setUp: func(t *testing.T, v *versus) { v.B.drop(t, "udp dport 4500") },
		says:  "no answer from 10.9.0.2:4500: asked 8 times for IKE_AUTH from 10.9.0.1:4500, no ICMP error came back; is the peer running, and does a firewall pass UDP 4500",
	},
	{
		name: "there is no route to the peer",
		ours: func(n *Tunnel) { n.Remote, n.NoLocal = netip.MustParseAddr("198.51.100.7"), true },
		says: "no route to 198.51.100.7: network is unreachable",
	},
	{
		name: "a tunnel that only listens",
		ours: func(n *Tunnel) { n.AnyRemote = true; n.Start = "" },
		says: "tunnel peer has no peer address: it can only be opened by the peer",
	},
}

// asResponder: strongSwan begins, and Coati's log says the sentence.
var asResponder = []mistake{
	{
		name:  "pre-shared keys differ",
		peers: func(s *swan) { s.psk = "another secret" },
		says:  "the peer 10.9.0.2 has another pre-shared key than tunnel peer: see psk-file",
	},
	{
		name:  "the peer's identity is not the one we expect",
		peers: func(s *swan) { s.localID = "fqdn:b.example.org" },
		says:  "the peer says it is fqdn:b.example.org, tunnel peer expects 10.9.0.2: see remote-id",
	},
	{
		name:  "the peer looks for another",
		peers: func(s *swan) { s.remoteID = "fqdn:a.example.org" },
		says:  "the peer looks for fqdn:a.example.org, tunnel peer is 10.9.0.1: see local-id",
	},
	{
		name:  "no IKE proposal in common",
		peers: func(s *swan) { s.ike = "aes256-sha512-modp2048" },
		says: "no proposal in common; nearest differ in encryption: the peer offers aes256, we accept aes128gcm16; prf: the peer offers prfsha512, " +
			"we accept prfsha256; integrity: the peer offers sha512, we accept none; key exchange: the peer offers modp2048, we accept x25519: see ike",
	},
	{
		name:  "no ESP proposal in common",
		peers: func(s *swan) { s.esp = "aes256gcm16" },
		says:  "child lan of tunnel peer: no proposal in common; nearest differ in encryption: the peer offers aes256gcm16, we accept aes128gcm16: see esp",
	},
	{
		name:  "no traffic selector in common",
		peers: func(s *swan) { s.localTS = elsewhere },
		says:  "the peer wants [10.1.0.0/24] <-> [192.0.2.0/24], which no child of tunnel peer covers: see local-ts and remote-ts",
	},
	{
		name:  "no tunnel for the peer's address",
		ours:  func(n *Tunnel) { n.Remote = netip.MustParseAddr("10.9.0.77") },
		peers: func(s *swan) { s.local = there },
		says:  "add a tunnel with remote = \"10.9.0.2\"",
	},
	{
		name:  "no IKE key exchange in common",
		peers: func(s *swan) { s.ike = "aes128gcm16-prfsha256-ecp384" },
		says:  "no proposal in common; nearest differ in key exchange: the peer offers ecp384, we accept x25519: see ike",
	},
}

// drop has the host's firewall drop what matches, on its way in.
func (h *Host) drop(t *testing.T, match string) {
	t.Helper()
	h.Must(t, "nft", "add table inet shut")
	h.Must(t, "nft", "add chain inet shut in { type filter hook input priority 0; }")
	h.Must(t, "nft", "add rule inet shut in "+match+" drop")
}

// wrong starts both ends with the mistake.
func (m mistake) wrong(t *testing.T, role string) *versus {
	t.Helper()
	pair := NewPair(t)
	tunnel := Between(pair.A, pair.B)
	tunnel.IKE, tunnel.ESP = usualIKE, usualESP
	peer := toSwan(tunnel)
	if role == roleResponder {
		tunnel.Start = "listen"
	}
	if m.ours != nil {
		m.ours(&tunnel)
	}
	if m.peers != nil {
		m.peers(&peer)
	}
	v := start(t, pair, role, tunnel, peer)
	if m.setUp != nil {
		m.setUp(t, v)
	}
	return v
}

func TestMisconfigurationsAreExplained(t *testing.T) {
	NeedRoot(t)
	for _, m := range asInitiator {
		t.Run("initiator/"+m.name, func(t *testing.T) {
			t.Parallel()
			results.Fill(t, peerStrongSwan, roleInitiator, caseExplained)
			v := m.wrong(t, roleInitiator)
			output, err := v.coati.Patiently("up", "peer")
			if err == nil {
				t.Fatalf("the tunnel came up: %s", output)
			}
			if diff := cmp.Diff("coati: "+m.says+"\n", output); diff != "" {
				t.Errorf("coati up (-want +got):\n%s", diff)
			}
			if got := v.coati.Status(t).Tunnels[0].LastError; got != m.says {
				t.Errorf("coati status says %q, want %q", got, m.says)
			}
			if text := v.coati.Do(t, "status"); !strings.Contains(text, "because "+m.says) {
				t.Errorf("coati status does not say %q:\n%s", m.says, text)
			}
			v.inLog(t, m.says)
			v.coati.Alive(t)
		})
	}
	for _, m := range asResponder {
		t.Run("responder/"+m.name, func(t *testing.T) {
			t.Parallel()
			results.Fill(t, peerStrongSwan, roleResponder, caseExplained)
			v := m.wrong(t, roleResponder)
			if err := v.charon.Initiate("lan"); err == nil {
				t.Fatal("the tunnel came up")
			}
			v.inLog(t, m.says)
			status := v.coati.Status(t)
			refused := status.Tunnels[0].LastRefused
			if refused == nil {
				refused = status.Gateway.LastRefused
			}
			if refused == nil || refused.Reason != m.says || !strings.HasPrefix(refused.Peer, there+":") {
				t.Errorf("coati status has %+v, want %q", refused, m.says)
			}
			if text := v.coati.Do(t, "status"); !strings.Contains(text, "  "+m.says) {
				t.Errorf("coati status does not say %q:\n%s", m.says, text)
			}
			v.coati.Alive(t)
		})
	}
}

// inLog fails the test unless Coati's log has the sentence as a reason.
func (v *versus) inLog(t *testing.T, sentence string) {
	t.Helper()
	want := fmt.Sprintf("reason=%q", sentence)
	if !Within(2*time.Second, func() bool { return strings.Contains(v.coati.Log(), want) }) {
		var reasons []string
		for line := range strings.Lines(v.coati.Log()) {
			if strings.Contains(line, "reason=") {
				reasons = append(reasons, line)
			}
		}
		t.Errorf("the log does not say %s, but\n%s", want, strings.Join(reasons, ""))
	}
}
