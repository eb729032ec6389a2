package lab

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestMoves: the route to the peer leaves from another address of ours; then the link goes down and comes back with a third.
func TestMoves(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	results.Fill(t, peerCoati, roleHost, caseMoves)
	pair := NewPair(t)
	a, b := pair.A, pair.B
	atB := Between(a, b).Reversed()
	atB.AnyRemote, atB.ExtraTunnel = true, "remote-id = \"a.example\""
	right := StartCoati(t, b, atB)
	atA := Between(a, b)
	atA.NoLocal, atA.ExtraTunnel = true, "local-id = \"a.example\""
	left := StartCoati(t, a, atA)
	NoLoss(t, a, b, 1)
	// Long before a dead peer would be noticed, there is one IKE SA at either end, from the new address.
	at := func(address string) {
		t.Helper()
		WaitFor(t, 20*time.Second, "the tunnel at "+address, func() bool {
			ours, theirs := left.Status(t).Tunnels[0].IKE, right.Status(t).Tunnels[0].IKE
			return len(ours) == 1 && strings.HasPrefix(ours[0].Local, address+":") && len(theirs) == 1 && strings.HasPrefix(theirs[0].Remote, address+":")
		})
	}
	stream := StartStream(t, a, a.LAN4, b, b.LAN4, 300, 200)
	WaitFor(t, 10*time.Second, "the stream", func() bool { return stream.Received() > 10 })
	a.AddAddress(t, "eth0", netip.MustParsePrefix("10.9.0.33/24"))
	a.Must(t, "ip", "route", "add", b.Outer4.String(), "dev", "eth0", "src", "10.9.0.33")
	at("10.9.0.33")
	report := stream.Stop()
	t.Logf("the route moved: %s", report)
	report.Undisturbed(t)

	a.Must(t, "ip", "link", "set", "eth0", "down")
	a.Must(t, "ip", "addr", "flush", "dev", "eth0")
	WaitFor(t, 10*time.Second, "the status to say it", func() bool { return left.Status(t).Tunnels[0].NoPath != "" })
	if text := left.Do(t, "status"); !strings.Contains(text, "no path  no route to "+b.Outer4.String()) {
		t.Errorf("coati status does not say that there is no path:\n%s", text)
	}
	a.AddAddress(t, "eth0", netip.MustParsePrefix("10.9.0.44/24"))
	a.Must(t, "ip", "link", "set", "eth0", "up")
	at("10.9.0.44")
	NoLoss(t, a, b, 3)
	left.Alive(t)
	right.Alive(t)
}
