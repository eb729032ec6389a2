package sim

import (
	"testing"
	"time"

	"coati/ike"
	"coati/policy"
)

// v1Of makes a tunnel one of IKEv1.
func v1Of(change ...func(*policy.PeerTunnel)) func(*policy.PeerTunnel) {
	return func(t *policy.PeerTunnel) {
		t.Version = 1
		ike1("aes128-sha256-modp2048")(t)
		esp1("aes128-sha256")(t)
		for _, f := range change {
			f(t)
		}
	}
}

func TestV1TheFirstPacketBringsTheTunnelUpAndIsNotLost(t *testing.T) {
	t.Parallel()
	w, a, b := pair(t, 1, v1Of(), v1Of())
	a.Say(1, "t", "lan")
	w.Run(time.Second)
	b.Say(2, "t", "lan")
	w.Run(time.Second)
	if len(b.Plane.Received) != 1 || len(a.Plane.Received) != 1 || !a.Up("t") || !b.Up("t") {
		t.Fatalf("received %v and %v; %q %q", a.Plane.Received, b.Plane.Received, a.Log, b.Log)
	}
	noFaults(t, w)
	for _, row := range []string{"peer chooses", "peer answers with its public value", "responder proves who it is", "peer answers for our pair"} {
		if a.V1.Taken[row] != 1 {
			t.Errorf("%q was taken %d times", row, a.V1.Taken[row])
		}
	}
}

func TestV1EveryCipherAndGroup(t *testing.T) {
	t.Parallel()
	for i, c := range [][2]string{
		{"aes128-sha1-modp2048", "aes128-sha1"},
		{"aes256-sha256-modp3072", "aes256-sha256"},
		{"aes256-sha384-ecp384", "aes256gcm16"},
		{"aes128-sha512-ecp256", "aes128-sha512"},
		{"aes192-sha256-ecp521", "aes128gcm16"},
		{"aes128-sha256-modp2048", "aes128-sha256-ecp256"},
		{"aes128-sha256-ecp256", "aes128-sha256-modp2048"},
	} {
		w, a, b := pair(t, uint64(i), v1Of(ike1(c[0]), esp1(c[1])), v1Of(ike1(c[0]), esp1(c[1])))
		a.Say(1, "t", "lan")
		w.Run(2 * time.Second)
		if len(b.Plane.Received) != 1 || !a.Up("t") || !b.Up("t") {
			t.Errorf("%v: %q %q", c, a.Log, b.Log)
		}
		noFaults(t, w)
	}
}

func TestV1WhatDiffersIsSaidInPlainWords(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		forA, forB   func(*policy.PeerTunnel)
		atA, atB     string
		neverUpAtAll bool
	}{
		"IKE proposals":   {v1Of(), v1Of(ike1("aes256-sha256-modp2048")), "the peer accepts none of our IKE proposals (aes128-prfsha256-sha256-modp2048)", "encryption: the peer offers aes128, we accept aes256", true},
		"pre-shared keys": {v1Of(), v1Of(func(t *policy.PeerTunnel) { t.PSK = policy.NewSecret([]byte("another")) }), "compare psk-file", "another pre-shared key than tunnel t: see psk-file", true},
		"identities":      {v1Of(), v1Of(func(t *policy.PeerTunnel) { t.RemoteID = policy.Identity{Type: policy.IDFQDN, Data: []byte("x")} }), "", "the peer says it is 192.0.2.1, tunnel t expects fqdn:x: see remote-id", true},
		"ESP proposals":   {v1Of(), v1Of(esp1("aes256-sha256")), "the peer accepts none of our ESP proposals", "encryption: the peer offers aes128, we accept aes256", false},
		"selectors":       {v1Of(), v1Of(func(t *policy.PeerTunnel) { t.Children[0].Local = []policy.Selector{sel("10.9.0.0/16")} }), "the peer does not accept 10.1.0.0/16 <-> 10.2.0.0/16", "which no child of tunnel t covers: see local-ts and remote-ts", false},
	} {
		w, a, b := pair(t, 1, c.forA, c.forB)
		a.Command(ike.Up, "t", "lan")
		w.Run(2 * time.Minute)
		if c.atA != "" && !a.Said(c.atA) {
			t.Errorf("%s: the initiator does not say %q: %q", name, c.atA, a.Log)
		}
		if !b.Said(c.atB) {
			t.Errorf("%s: the responder does not say %q: %q", name, c.atB, b.Log)
		}
		if sas, children := b.Established("t"); children != 0 || c.neverUpAtAll && sas != 0 {
			t.Errorf("%s: %d IKE SAs, %d children", name, sas, children)
		}
		noFaults(t, w)
	}
}

func TestV1DeleteFromEitherSide(t *testing.T) {
	t.Parallel()
	for who := range 2 {
		w, a, b := pair(t, 1, v1Of(), v1Of())
		a.Say(1, "t", "lan")
		w.Run(time.Second)
		[]*Host{a, b}[who].Command(ike.Down, "t", "")
		w.Run(20 * time.Second)
		for _, h := range []*Host{a, b} {
			if sas, _ := h.Established("t"); sas != 0 || len(h.Plane.SAs) != 0 {
				t.Errorf("%s keeps %d IKE SAs, %d SAs: %q", h.Name, sas, len(h.Plane.SAs), h.Log)
			}
		}
		noFaults(t, w)
	}
}

func TestV1ADeadPeerIsNoticedAndComesBack(t *testing.T) {
	t.Parallel()
	w, a, b := pair(t, 1, v1Of(func(t *policy.PeerTunnel) { t.DPD = 10 * time.Second }), v1Of())
	a.Say(1, "t", "lan")
	w.Run(time.Second)
	b.Crash()
	w.Run(3 * time.Minute)
	if sas, _ := a.Established("t"); sas != 0 || !a.Said("questions whether it lives") {
		t.Fatalf("%d IKE SAs; %q", sas, a.Log)
	}
	b.Restart()
	a.Say(2, "t", "lan")
	w.Run(2 * time.Second)
	if len(b.Plane.Received) != 1 {
		t.Errorf("received %v; %q", b.Plane.Received, a.Log)
	}
	noFaults(t, w)
}

func TestV1ARestartedPeerReplacesItsOldSA(t *testing.T) {
	t.Parallel()
	w, a, b := pair(t, 1, v1Of(), v1Of())
	a.Say(1, "t", "lan")
	w.Run(time.Second)
	a.Crash()
	a.Restart()
	a.Say(2, "t", "lan")
	w.Run(10 * time.Second)
	b.Say(3, "t", "lan")
	w.Run(10 * time.Second)
	if sas, children := b.Established("t"); sas != 1 || children != 1 || len(b.Plane.Received) != 2 || len(a.Plane.Received) != 1 {
		t.Errorf("%d IKE SAs, %d children, received %v, %v; %q", sas, children, b.Plane.Received, a.Plane.Received, b.Log)
	}
	noFaults(t, w)
}

func TestV1RekeysLoseNothing(t *testing.T) {
	t.Parallel()
	for _, child := range []string{"", "lan"} {
		w, a, b := pair(t, 1, v1Of(), v1Of())
		a.Say(0, "t", "lan")
		w.Run(time.Second)
		n := uint64(1)
		for i := range 400 {
			if i%100 == 50 {
				[]*Host{a, b}[i/100%2].Command(ike.Rekey, "t", child)
			}
			a.Say(n, "t", "lan")
			b.Say(n, "t", "lan")
			n++
			w.Run(100 * time.Millisecond)
		}
		w.Run(10 * time.Second)
		if len(b.Plane.Received) != int(n) || len(a.Plane.Received) != int(n)-1 {
			t.Errorf("%q: of %d packets %d and %d arrived; %q", child, n, len(a.Plane.Received), len(b.Plane.Received), a.Log)
		}
		for _, h := range []*Host{a, b} {
			if sas, children := h.Established("t"); sas != 1 || children != 1 || len(h.Plane.SAs) != 2 {
				t.Errorf("%q: %s has %d IKE SAs, %d children, %d SAs: %q", child, h.Name, sas, children, len(h.Plane.SAs), h.Log)
			}
		}
		noFaults(t, w)
	}
}

func TestV1BothBeginAtOnceAndOneSAStays(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		w, a, b := pair(t, seed, v1Of(), v1Of())
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

func TestV1ANATIsFound(t *testing.T) {
	t.Parallel()
	w, a, b := pair(t, 1, v1Of(func(t *policy.PeerTunnel) { t.Encap = policy.EncapForceUDP }), v1Of())
	a.Say(1, "t", "lan")
	w.Run(time.Second)
	if len(b.Plane.Received) != 1 || !a.Up("t") {
		t.Fatalf("%q %q", a.Log, b.Log)
	}
	for _, h := range []*Host{a, b} {
		for _, sa := range h.Plane.SAs {
			if sa.Path.Encap != policy.EncapUDP || sa.Path.Remote.Port() != 4500 {
				t.Errorf("%s: %v in %v", h.Name, sa.Path, sa.Path.Encap)
			}
		}
	}
	noFaults(t, w)
}
