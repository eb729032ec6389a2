package esp

import (
	"testing"
	"time"

	"coati/policy"
)

// quiet is a gateway whose SA sends a dummy after 10 s of silence, and its peer.
func quiet(t *testing.T, l link, change func(sa *policy.SA)) (a, b *host) {
	t.Helper()
	a, b = newHost(nil), newHost(nil)
	out := l.outbound()
	out.DummyInterval = 10 * time.Second
	if change != nil {
		change(&out)
	}
	a.mustApply(t, policy.Tx{PutPolicies: []policy.Policy{protectPolicy()}, AddSAs: []policy.SA{out}})
	b.mustApply(t, policyTx(l))
	return a, b
}

// RFC 4303, section 2.6: after each interval in which nothing else left, one dummy leaves, and the peer drops it without a word.
func TestADummyBreaksTheSilence(t *testing.T) {
	for _, l := range []link{gcm128, {enc: "aes128", integ: "sha256"}, inTransport} {
		a, b := quiet(t, l, nil)
		said := map[int]bool{25: true, 26: true, 33: true} // seconds at which somebody speaks
		var dummies []int
		for s := range 61 {
			now := start.Add(time.Duration(s) * time.Second)
			if said[s] {
				a.Tick(now)
				a.net.take()
				a.out.Process(segment{dst: 1, sport: 1}.frame())
				carry(a, b)
			}
			a.Tick(now)
			if n := len(a.net.esp); n > 0 {
				dummies = append(dummies, s)
			}
			carry(a, b)
		}
		want := []int{10, 20, 43, 53}
		if len(dummies) != len(want) || dummies[0] != want[0] || dummies[1] != want[1] || dummies[2] != want[2] || dummies[3] != want[3] {
			t.Errorf("%s: dummies at %v, want %v", l.enc, dummies, want)
		}
		if n := len(b.tap.take()); b.drops(DropDummy) != 4 || n == 0 || n > 3 {
			t.Errorf("%s: %d frames delivered, drops %v", l.enc, n, b.Counters().Drops)
		}
	}
}

// A dummy looks like a packet: it is as large as the padded ones.
func TestADummyIsAsLargeAsAPaddedPacket(t *testing.T) {
	for _, tfc := range []int{1000, policy.TFCToMTU} {
		a, _ := quiet(t, link{enc: "aes128gcm16", mtu: 1500, tfc: tfc}, nil)
		a.out.Process(segment{sport: 1}.frame())
		packet := len(a.net.packets()[0])
		a.Tick(start.Add(10 * time.Second))
		if p := a.net.packets(); len(p) != 1 || len(p[0]) != packet {
			t.Errorf("tfc %d: %d dummies, and a packet has %d octets", tfc, len(p), packet)
		}
	}
	// However large the padding is to be, the buffer holds the dummy.
	a, _ := quiet(t, link{enc: "aes128gcm16", tfc: 65535}, nil)
	a.Tick(start.Add(time.Second))
	a.Tick(start.Add(20 * time.Second))
	if n := len(a.net.packets()); n != 1 {
		t.Errorf("%d dummies", n)
	}
}

func TestWhereNoDummyLeaves(t *testing.T) {
	for name, change := range map[string]func(sa *policy.SA){
		"not asked for": func(sa *policy.SA) { sa.DummyInterval = 0 },
		"on standby":    func(sa *policy.SA) { sa.Standby = true },
		"expired":       func(sa *policy.SA) { sa.Lifetime.HardTime = 5 * time.Second },
	} {
		a, _ := quiet(t, gcm128, change)
		for s := range 60 {
			a.Tick(start.Add(time.Duration(s) * time.Second))
		}
		if n := len(a.net.packets()); n != 0 {
			t.Errorf("%s: %d dummies", name, n)
		}
	}
}

// Of two generations of an SA only the one in use breaks the silence.
func TestTheSuccessorSendsTheDummies(t *testing.T) {
	a, _ := quiet(t, gcm128, nil)
	next := link{enc: "aes128gcm16", id: 5}.outbound()
	next.DummyInterval, next.First = 10*time.Second, true
	a.mustApply(t, policy.Tx{AddSAs: []policy.SA{next}})
	for s := range 11 {
		a.Tick(start.Add(time.Duration(s) * time.Second))
	}
	if p := a.net.packets(); len(p) != 1 || spiOf(p[0]) != next.SPI {
		t.Errorf("%d dummies", len(p))
	}
}
