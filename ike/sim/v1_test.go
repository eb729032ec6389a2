package sim

import (
	"flag"
	"fmt"
	"regexp"
	"slices"
	"strings"
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
		{"des-md5-modp768", "des-md5-modp768"},
		{"3des-sha1-modp1024", "3des-sha1-modp1024"},
		{"blowfish448-sha1-modp1536", "blowfish256-sha1-modp1536"},
		{"cast128-md5-modp1024s160", "cast128-md5-modp1024s160"},
		{"camellia256-sha512-modp2048s224", "camellia128-sha384-modp2048s224"},
		{"camellia192-sha256-modp2048s256", "camellia192-sha256-modp2048s256"},
		{"aes256-sha512-x25519", "aes256-sha512-x25519"},
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
	for seed := range uint64(40) {
		w, a, b := pair(t, seed, v1Of(), v1Of())
		if seed >= 20 {
			w = NewWorld(seed)
			a, b = w.AddHost("a", "2001:db8::1"), w.AddHost("b", "2001:db8::2")
			a.Configure(tunnelTo("2001:db8::2", "fd00:1::/64", "fd00:2::/64", v1Of()))
			b.Configure(tunnelTo("2001:db8::1", "fd00:2::/64", "fd00:1::/64", v1Of()))
		}
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

var v1Seeds = flag.Uint64("sim.v1seeds", 12, "seeds for each scenario of IKEv1")

// v1Scenarios are those of IKEv2 that make sense for IKEv1.
func v1Scenarios() []Scenario {
	var out []Scenario
	for _, s := range Scenarios() {
		switch s.Name {
		case "loss", "crossing", "retransmission", "lifetimes", "attacker", "partition":
		default:
			continue
		}
		inner := s.Tunnel
		s.Tunnel = func(t *policy.PeerTunnel, second bool) {
			v1Of()(t)
			if !s.Lossless {
				// Nobody answers a Delete: a pair whose Deletes are all lost lives until its hard lifetime.
				t.Children[0].Lifetime = policy.Lifetime{SoftTime: 40 * time.Second, HardTime: 50 * time.Second}
			}
			if inner != nil {
				inner(t, second)
			}
		}
		out = append(out, s)
	}
	return out
}

// v1Leaves says whether a fault is one that IKEv1 cannot avoid on a network that loses its messages: nobody answers a Delete, so what all
// of its repetitions were lost of stays at one end until its hard lifetime. There must still be an IKE SA and a child, and packets
// must arrive.
func v1Leaves(s Scenario, err error) bool {
	if s.Network.Loss+s.Network.LossIKE == 0 && s.Name != "partition" {
		return false
	}
	return strings.HasSuffix(err.Error(), "is unknown to its peer") || moreThanOne.MatchString(err.Error())
}

var moreThanOne = regexp.MustCompile(`has [1-9]\d* IKE SAs with [1-9]\d* children$`)

func TestV1Scenarios(t *testing.T) {
	t.Parallel()
	for _, s := range v1Scenarios() {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			for seed := range *v1Seeds {
				for _, err := range s.Run(seed).Faults {
					if v1Leaves(s, err) {
						continue
					}
					t.Errorf("seed %d: %v", seed, err)
				}
			}
		})
	}
}

func TestV1ForgeriesChangeNothing(t *testing.T) {
	t.Parallel()
	w, a, b := pair(t, 13, v1Of(), v1Of())
	var wire []Datagram
	w.Net.Tap = func(d Datagram) bool {
		if d.ESP == nil {
			wire = append(wire, d)
		}
		return true
	}
	a.Say(1, "t", "lan")
	w.Run(time.Second)
	w.Net.Tap = nil
	before := fmt.Sprint(len(a.Plane.SAs), len(b.Plane.SAs))
	for i := range 5000 {
		d := wire[w.Rand.IntN(len(wire))]
		d.Bytes = slices.Clone(d.Bytes)
		for range i % 4 {
			d.Bytes[w.Rand.IntN(len(d.Bytes))] ^= byte(1 << w.Rand.IntN(8))
		}
		if i%3 == 0 { // the live cookies, and a clear Delete or notification
			d.Bytes = append(d.Bytes[:28:28], 0, 0, 0, 28, 0, 0, 0, 1, 1, 16, 0, 1)
			d.Bytes = append(d.Bytes, d.Bytes[:16]...)
			d.Bytes[16], d.Bytes[18], d.Bytes[19], d.Bytes[27] = byte(11+i%2), 5, byte(i/3%2), 56
		}
		w.Inject(d)
	}
	w.Run(time.Minute)
	if got := fmt.Sprint(len(a.Plane.SAs), len(b.Plane.SAs)); got != before {
		t.Errorf("SAs were %s and are %s", before, got)
	}
	a.Say(2, "t", "lan")
	w.Run(time.Second)
	if !slices.Equal(b.Plane.Received, []uint64{1, 2}) {
		t.Errorf("b received %v", b.Plane.Received)
	}
	noFaults(t, w)
}

// Before the peer's address is proven a responder says nothing of itself: it repeats its answer to a repeated message, and the answer is
// no larger than that.
func TestV1AResponderOnlyRepeatsItsAnswer(t *testing.T) {
	t.Parallel()
	for lost := range 3 { // the answers to message 1, 3, 5 do not arrive
		w, a, b := pair(t, 1, v1Of(), v1Of())
		asked, answered, fresh := 0, 0, 0
		w.Net.Tap = func(d Datagram) bool {
			if d.From.Addr() == a.Addr {
				asked += len(d.Bytes)
				return true
			}
			if answered += len(d.Bytes); answered > asked {
				t.Errorf("answer %d lost: %d octets were asked, %d answered", lost+1, asked, answered)
			}
			fresh++
			return fresh <= lost
		}
		a.Command(ike.Up, "t", "")
		w.Run(10 * time.Second)
		if fresh < 4 {
			t.Errorf("answer %d lost: only %d answers", lost+1, fresh)
		}
		// Nobody asks any more.
		a.Crash()
		w.Run(time.Second)
		if fresh, answered = 0, 0; lost < 2 {
			if w.Run(40 * time.Second); answered > 0 {
				t.Errorf("answer %d lost: %d octets without a question", lost+1, answered)
			}
		}
		if sas, _ := b.Established("t"); lost < 2 && sas != 0 {
			t.Errorf("answer %d lost: %d IKE SAs", lost+1, sas)
		}
	}
}
