package sim

import (
	"slices"
	"testing"
	"time"

	"coati/ike"
	"coati/policy"
)

func aggressive(t *policy.PeerTunnel) { t.V1.Aggressive = true }

func TestV1AggressiveModeBringsTheTunnelUp(t *testing.T) {
	t.Parallel()
	w, a, b := pair(t, 1, v1Of(aggressive), v1Of(aggressive))
	a.Say(1, "t", "lan")
	w.Run(time.Second)
	b.Say(2, "t", "lan")
	w.Run(time.Second)
	if len(b.Plane.Received) != 1 || len(a.Plane.Received) != 1 || !a.Up("t") || !b.Up("t") {
		t.Fatalf("received %v and %v; %q %q", a.Plane.Received, b.Plane.Received, a.Log, b.Log)
	}
	noFaults(t, w)
	for h, row := range map[*Host]string{a: "peer answers, with its proof", b: "initiator confirms"} {
		if h.V1.Taken[row] != 1 || h.V1.Taken["peer chooses"]+h.V1.Taken["peer proposes"] != 0 {
			t.Errorf("%s took %v", h.Name, h.V1.Taken)
		}
	}
}

// The key is found by the identity, where main mode must find it by the address.
func TestV1AggressiveModeFindsTheKeyByIdentity(t *testing.T) {
	t.Parallel()
	id := policy.Identity{Type: policy.IDKeyID, Data: []byte("group")}
	w, a, b := pair(t, 1, v1Of(aggressive, func(t *policy.PeerTunnel) { t.LocalID = id }), v1Of(aggressive, func(t *policy.PeerTunnel) { t.RemoteID = id }))
	other := b.tunnels[0]
	other.Name, other.PSK = "other", policy.NewSecret([]byte("another"))
	other.RemoteID = policy.Identity{Type: policy.IDKeyID, Data: []byte("other")}
	other.Children = slices.Clone(other.Children)
	b.Configure(append([]policy.PeerTunnel{other}, b.tunnels...)...)
	a.Say(1, "t", "lan")
	w.Run(time.Second)
	if len(b.Plane.Received) != 1 || !b.Up("t") || b.Up("other") {
		t.Errorf("%q %q", a.Log, b.Log)
	}
	noFaults(t, w)
}

func TestV1AggressiveModeIsOffUnlessConfigured(t *testing.T) {
	t.Parallel()
	w, a, b := pair(t, 1, v1Of(aggressive), v1Of())
	answered := 0
	w.Net.Tap = func(d Datagram) bool {
		if d.From.Addr() == b.Addr {
			answered++
		}
		return true
	}
	a.Command(ike.Up, "t", "lan")
	w.Run(time.Minute)
	if sas, _ := b.Established("t"); sas != 0 || answered != 0 || !b.Said("no tunnel with version = 1 and aggressive = true") {
		t.Errorf("%d IKE SAs, %d answers: %q", sas, answered, b.Log)
	}
	noFaults(t, w)
	// Who accepts aggressive mode accepts main mode as well.
	w, a, b = pair(t, 1, v1Of(), v1Of(aggressive))
	a.Say(1, "t", "lan")
	w.Run(time.Second)
	if len(b.Plane.Received) != 1 {
		t.Errorf("%q %q", a.Log, b.Log)
	}
	noFaults(t, w)
}

func TestV1AggressiveModeSaysWhatDiffers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		forB     func(*policy.PeerTunnel)
		atA, atB string
	}{
		"pre-shared keys": {func(t *policy.PeerTunnel) { t.PSK = policy.NewSecret([]byte("another")) }, "does not authenticate with the pre-shared key of tunnel t: see psk-file", ""},
		"identities":      {func(t *policy.PeerTunnel) { t.RemoteID = policy.Identity{Type: policy.IDFQDN, Data: []byte("x")} }, "", "the peer says it is 192.0.2.1, tunnel t expects fqdn:x: see remote-id"},
		"IKE proposals":   {ike1("aes256-sha256-modp2048"), "the peer accepts none of our IKE proposals", "encryption: the peer offers aes128, we accept aes256"},
	} {
		w, a, b := pair(t, 1, v1Of(aggressive), v1Of(aggressive, c.forB))
		a.Command(ike.Up, "t", "lan")
		w.Run(2 * time.Minute)
		if c.atA != "" && !a.Said(c.atA) || c.atB != "" && !b.Said(c.atB) {
			t.Errorf("%s: %q and %q", name, a.Log, b.Log)
		}
		if sas, _ := a.Established("t"); sas != 0 {
			t.Errorf("%s: %d IKE SAs", name, sas)
		}
		noFaults(t, w)
	}
}

// Nobody answers message 3: it is said again with what follows it.
func TestV1AggressiveModeSurvivesEachLoss(t *testing.T) {
	t.Parallel()
	for lost := range 6 {
		w, a, b := pair(t, 1, v1Of(aggressive), v1Of(aggressive))
		n := 0
		w.Net.Tap = func(Datagram) bool {
			n++
			return n-1 != lost
		}
		a.Say(1, "t", "lan")
		w.Run(20 * time.Second)
		if !a.Up("t") || !b.Up("t") || lost < 5 && len(b.Plane.Received) != 1 {
			t.Errorf("datagram %d lost: %q %q", lost, a.Log, b.Log)
		}
		noFaults(t, w)
	}
}

// The answer is larger than the question by what the RFC's figure wants, and never twice as large; nothing leaves on a timer.
func TestV1AggressiveAnswersAreBounded(t *testing.T) {
	t.Parallel()
	w, a, b := pair(t, 1, v1Of(aggressive), v1Of(aggressive))
	asked, answered := 0, 0
	w.Net.Tap = func(d Datagram) bool {
		if d.From.Addr() == a.Addr {
			asked += len(d.Bytes)
			return true
		}
		answered += len(d.Bytes)
		return false
	}
	a.Command(ike.Up, "t", "")
	w.Run(10 * time.Second)
	if answered == 0 || answered > 2*asked {
		t.Errorf("%d octets asked, %d answered", asked, answered)
	}
	a.Crash()
	w.Run(time.Second)
	answered = 0
	if w.Run(time.Minute); answered > 0 {
		t.Errorf("%d octets without a question", answered)
	}
	if sas, _ := b.Established("t"); sas != 0 {
		t.Errorf("%d IKE SAs", sas)
	}
}

func TestV1AggressiveBothBeginAtOnceAndOneSAStays(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		w, a, b := pair(t, seed, v1Of(aggressive), v1Of(aggressive))
		a.Say(1, "t", "lan")
		b.Say(1, "t", "lan")
		w.Run(2 * time.Minute)
		for _, h := range []*Host{a, b} {
			if sas, children := h.Established("t"); sas != 1 || children != 1 || len(h.Plane.Received) != 1 {
				t.Errorf("seed %d: %s has %d IKE SAs, %d children, received %v: %q", seed, h.Name, sas, children, h.Plane.Received, h.Log)
			}
		}
		noFaults(t, w)
	}
}
