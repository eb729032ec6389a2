package lab

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestCoatiToCoati(t *testing.T) {
	NeedRoot(t)
	for _, c := range carriages() {
		t.Run(strings.NewReplacer(" ", "-", ",", "").Replace(c.String()), func(t *testing.T) {
			t.Parallel()
			results.Fill(t, peerCoati, roleBoth, c.String())
			// Without ESN, which tshark cannot authenticate.
			betweenCoatis(t, c, "aes128gcm16-noesn")
		})
	}
	t.Run("ESN", func(t *testing.T) {
		t.Parallel()
		results.Fill(t, peerCoati, roleBoth, caseESN)
		betweenCoatis(t, carriage{"IPv4", "IPv4", "esp"}, "aes128gcm16-esn", WithESN())
	})
}

// betweenCoatis lets the first ping bring a tunnel up, sends a stream each way, and has all of it
// opened by tshark with the key log of the initiator.
func betweenCoatis(t *testing.T, c carriage, esp string, options ...JudgeOption) {
	t.Helper()
	pair := NewPair(t)
	a, b := pair.A, pair.B
	fromA, netA := lan(a, c.inner)
	fromB, netB := lan(b, c.inner)
	tunnel := Between(a, b)
	tunnel.Local, tunnel.Remote = outer(a, c.outer), outer(b, c.outer)
	tunnel.LocalTS, tunnel.RemoteTS = []netip.Prefix{netA}, []netip.Prefix{netB}
	tunnel.Encap, tunnel.ESP, tunnel.IKE = c.encap, esp, usualIKE
	right := StartCoati(t, b, tunnel.Reversed())
	left := StartCoati(t, a, tunnel)
	capture := a.Capture(t)
	if lost := a.Ping(t, fromA, fromB, 3); lost != 0 {
		t.Fatalf("%d of 3 pings lost", lost)
	}
	for _, way := range []struct {
		from, to         *Host
		fromAddr, toAddr netip.Addr
	}{{a, b, fromA, fromB}, {b, a, fromB, fromA}} {
		stream := StartStream(t, way.from, way.fromAddr, way.to, way.toAddr, 500, 1200)
		WaitFor(t, 10*time.Second, "250 datagrams", func() bool { return stream.Received() >= 250 })
		report := stream.Stop()
		report.Undisturbed(t)
		if report.Reordered != 0 {
			t.Errorf("%d datagrams reordered", report.Reordered)
		}
	}
	for _, end := range []*Coati{left, right} {
		if pairs := end.Pairs(t); len(pairs) != 1 || pairs[0].Encap != c.encap {
			t.Errorf("pairs of SAs on %s: %+v, want one with encap %s", end.Host.Name, pairs, c.encap)
		}
	}
	left.Do(t, "down", "peer")
	right.WaitPairs(t, 5*time.Second, 0)
	capture.Stop(t)
	Judge(t, capture.File, left.Keys, options...).Check(t, 506)
	left.Alive(t)
	right.Alive(t)
}
