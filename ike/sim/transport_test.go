package sim

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"coati/ike"
	"coati/policy"
)

func transport(t *policy.PeerTunnel) { t.Children[0].Mode = policy.Transport }

// sas are the SAs of the only child: inbound, outbound.
func sas(t *testing.T, h *Host) (in, out policy.SA) {
	t.Helper()
	c := h.Engine.Status()[0].SAs
	if len(c) != 1 || len(c[0].Children) != 1 {
		t.Fatalf("%s: %d SAs: %q", h.Name, len(c), h.Log)
	}
	x := c[0].Children[0]
	return h.Plane.SAs[x.In].SA, h.Plane.SAs[x.Out].SA
}

func only(t *testing.T, set []policy.Selector) netip.Addr {
	t.Helper()
	for _, s := range set {
		if s.Start != s.End || s.Start != set[0].Start {
			t.Errorf("selectors %v are not one address", set)
		}
	}
	return set[0].Start
}

func TestTransportModeIsAgreedOnAndRekeyed(t *testing.T) {
	t.Parallel()
	// One end says its address, the other leaves it to the path.
	w := NewWorld(41)
	a, b := w.AddHost("a", "192.0.2.1"), w.AddHost("b", "192.0.2.2")
	a.Configure(tunnelTo("192.0.2.2", "192.0.2.1", "192.0.2.2", transport))
	b.Configure(tunnelTo("192.0.2.1", "0.0.0.0/0", "192.0.2.1", transport))
	a.Say(1, "t", "lan")
	w.Run(time.Second)
	for range 2 {
		for _, h := range []*Host{a, b} {
			in, out := sas(t, h)
			for _, sa := range []policy.SA{in, out} {
				if sa.Mode != policy.Transport || only(t, sa.Local) != h.Addr || len(sa.Local) == 0 {
					t.Errorf("%s: %s, %v <-> %v", h.Name, sa.Mode, sa.Local, sa.Remote)
				}
			}
			if m := h.Engine.Status()[0].SAs[0].Children[0].Mode; m != policy.Transport {
				t.Errorf("%s: status says %s", h.Name, m)
			}
		}
		id := b.Command(ike.Rekey, "t", "lan")
		w.Run(5 * time.Second)
		if err := b.Replies[id]; err != nil {
			t.Errorf("rekey: %v", err)
		}
	}
	if !slices.Equal(b.Plane.Received, []uint64{1}) {
		t.Errorf("received %v", b.Plane.Received)
	}
	noFaults(t, w)
}

// RFC 7296, section 2.23.1: IP1 behind NAT A, which shows IPN1; the server's NAT B shows IPN2 for IP2. Each end's SAs have the
// addresses it sees, and it knows those the other one sees.
func TestTransportModeThroughTwoNATs(t *testing.T) {
	t.Parallel()
	w := NewWorld(42)
	ip1, ipn1, ipn2, ip2 := netip.MustParseAddr("192.168.1.5"), netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("198.51.100.4"), netip.MustParseAddr("10.0.0.7")
	a, b := w.AddHost("a", ip1.String()), w.AddHost("b", ip2.String())
	w.AddNAT(a.Addr, ipn1)
	w.AddNAT(b.Addr, ipn2).Forward(b.Addr)
	a.Configure(tunnelTo(ipn2.String(), ip1.String(), ipn2.String(), ids("a.example", "b.example"), transport))
	b.Configure(tunnelTo(ipn1.String(), ip2.String(), ipn1.String(), ids("b.example", "a.example"), everywhere, ids("b.example", "a.example"), transport))
	a.Say(1, "t", "lan")
	w.Run(2 * time.Second)
	for _, rekey := range []*Host{nil, a, b} {
		if rekey != nil {
			id := rekey.Command(ike.Rekey, "t", "lan")
			w.Run(5 * time.Second)
			if err, ok := rekey.Replies[id]; !ok || err != nil {
				t.Errorf("rekey: %v %v", ok, err)
			}
		}
		for _, c := range []struct {
			h                     *Host
			local, remote         netip.Addr
			seenLocal, seenRemote netip.Addr
		}{{a, ip1, ipn2, ipn1, ip2}, {b, ip2, ipn1, ipn2, ip1}} {
			in, _ := sas(t, c.h)
			if in.Mode != policy.Transport || only(t, in.Local) != c.local || only(t, in.Remote) != c.remote {
				t.Errorf("%s: %s %v <-> %v", c.h.Name, in.Mode, in.Local, in.Remote)
			}
			if in.OriginalLocal != c.seenLocal || in.OriginalRemote != c.seenRemote {
				t.Errorf("%s: the peer sees %v <-> %v, want %v <-> %v", c.h.Name, in.OriginalLocal, in.OriginalRemote, c.seenLocal, c.seenRemote)
			}
		}
	}
	if !slices.Equal(b.Plane.Received, []uint64{1}) {
		t.Errorf("received %v: %q %q", b.Plane.Received, a.Log, b.Log)
	}
	noFaults(t, w)
}

// Where the ends disagree each says so in plain words.
func TestModesThatDiffer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b  func(*policy.PeerTunnel)
		end   int
		words string
	}{
		{transport, nil, 0, "does not agree to transport mode"},
		{nil, transport, 1, "the peer asks for tunnel mode, and child lan of tunnel t has transport mode"},
	} {
		w := NewWorld(43)
		a, b := w.AddHost("a", "192.0.2.1"), w.AddHost("b", "192.0.2.2")
		nop := func(*policy.PeerTunnel) {}
		if c.a == nil {
			c.a = nop
		}
		if c.b == nil {
			c.b = nop
		}
		a.Configure(tunnelTo("192.0.2.2", "192.0.2.1", "192.0.2.2", c.a))
		b.Configure(tunnelTo("192.0.2.1", "192.0.2.2", "192.0.2.1", c.b))
		a.Command(ike.Up, "t", "")
		w.Run(5 * time.Second)
		said := strings.Join([]*Host{a, b}[c.end].Log, "\n")
		if !strings.Contains(said, c.words) {
			t.Errorf("nobody says %q:\n%s", c.words, said)
		}
		if in := a.Up("t"); in {
			t.Error("up all the same")
		}
		noFaults(t, w)
	}
}

func TestChildOptionsReachTheSAs(t *testing.T) {
	t.Parallel()
	opts := func(t *policy.PeerTunnel) {
		c := &t.Children[0]
		c.ESP = []policy.Proposal{policy.MustProposal(policy.ProtocolESP, "aes128-sha256")}
		c.ICV96, c.TFC, c.Header = true, 1000, policy.TunnelHeader{FixedDSCP: true, DSCP: 5}
	}
	w, a, _ := pair(t, 44, opts, opts)
	a.Command(ike.Up, "t", "")
	w.Run(5 * time.Second)
	in, out := sas(t, a)
	if !in.ICV96 || !out.ICV96 || out.TFC != 1000 || out.Header.DSCP != 5 || in.Mode != policy.Tunnel {
		t.Errorf("%+v", out.Header)
	}
	noFaults(t, w)
}
