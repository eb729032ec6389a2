package sim

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"slices"
	"testing"
	"time"

	"coati/ike"
	"coati/policy"
)

func TestV1TransportModeIsAgreedOnAndRekeyed(t *testing.T) {
	t.Parallel()
	w := NewWorld(41)
	a, b := w.AddHost("a", "192.0.2.1"), w.AddHost("b", "192.0.2.2")
	a.Configure(tunnelTo("192.0.2.2", "192.0.2.1", "192.0.2.2", v1Of(transport)))
	b.Configure(tunnelTo("192.0.2.1", "0.0.0.0/0", "192.0.2.1", v1Of(transport)))
	a.Say(1, "t", "lan")
	w.Run(time.Second)
	for range 2 {
		for _, h := range []*Host{a, b} {
			in, out := sas(t, h)
			for _, sa := range []policy.SA{in, out} {
				if sa.Mode != policy.Transport || only(t, sa.Local) != h.Addr {
					t.Errorf("%s: %s, %v <-> %v", h.Name, sa.Mode, sa.Local, sa.Remote)
				}
			}
		}
		id := b.Command(ike.Rekey, "t", "lan")
		w.Run(10 * time.Second)
		if err := b.Replies[id]; err != nil {
			t.Errorf("rekey: %v", err)
		}
	}
	if !slices.Equal(b.Plane.Received, []uint64{1}) {
		t.Errorf("received %v", b.Plane.Received)
	}
	noFaults(t, w)
}

// RFC 3947, section 5.2: through two NATs each end's SAs have the addresses it sees, and it knows those that the other one sees. Its drafts
// said the same with other numbers.
func TestV1TransportModeThroughTwoNATs(t *testing.T) {
	t.Parallel()
	vendors := []string{"4a131c81070358455c5728f20e95452f", "7d9419a65310ca6f2c179d9215529d56", "90cb80913ebb696e086381b5ec427b1f", "cd60464335df21f87cfdb2fc68b6a448"}
	for known := range vendors {
		for mode, set := range v1Modes {
			w := NewWorld(42)
			w.Net.Tap = func(d Datagram) bool {
				for _, v := range vendors[:known] { // the peer has not heard of these
					id, _ := hex.DecodeString(v)
					if i := bytes.Index(d.Bytes, id); i >= 0 {
						clear(d.Bytes[i : i+len(id)])
					}
				}
				return true
			}
			ip1, ipn1, ipn2, ip2 := netip.MustParseAddr("192.168.1.5"), netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("198.51.100.4"), netip.MustParseAddr("10.0.0.7")
			a, b := w.AddHost("a", ip1.String()), w.AddHost("b", ip2.String())
			w.AddNAT(a.Addr, ipn1)
			w.AddNAT(b.Addr, ipn2).Forward(b.Addr)
			a.Configure(tunnelTo(ipn2.String(), ip1.String(), ipn2.String(), ids("a.example", "b.example"), v1Of(transport, set)))
			b.Configure(tunnelTo(ipn1.String(), ip2.String(), ipn1.String(), everywhere, ids("b.example", "a.example"), v1Of(transport, set)))
			a.Say(1, "t", "lan")
			w.Run(2 * time.Second)
			for _, rekey := range []*Host{nil, a, b} {
				if rekey != nil {
					id := rekey.Command(ike.Rekey, "t", "lan")
					w.Run(20 * time.Second)
					if err, ok := rekey.Replies[id]; !ok || err != nil {
						t.Errorf("%s, %d: rekey: %v %v", mode, known, ok, err)
					}
				}
				for _, c := range []struct {
					h                                    *Host
					local, remote, seenLocal, seenRemote netip.Addr
				}{{a, ip1, ipn2, ipn1, ip2}, {b, ip2, ipn1, ipn2, ip1}} {
					in, _ := sas(t, c.h)
					if in.Mode != policy.Transport || only(t, in.Local) != c.local || only(t, in.Remote) != c.remote || in.Path.Encap != policy.EncapUDP {
						t.Errorf("%s, %d, %s: %s %v <-> %v in %v", mode, known, c.h.Name, in.Mode, in.Local, in.Remote, in.Path.Encap)
					}
					if in.OriginalLocal != c.seenLocal || in.OriginalRemote != c.seenRemote {
						t.Errorf("%s, %d, %s: the peer sees %v <-> %v, want %v <-> %v", mode, known, c.h.Name, in.OriginalLocal, in.OriginalRemote, c.seenLocal, c.seenRemote)
					}
				}
			}
			if !slices.Equal(b.Plane.Received, []uint64{1}) {
				t.Errorf("%s, %d: received %v: %q %q", mode, known, b.Plane.Received, a.Log, b.Log)
			}
			noFaults(t, w)
		}
	}
}

func TestV1EndsOfEveryKind(t *testing.T) {
	t.Parallel()
	for _, c := range [][2]string{
		{"10.1.0.1", "10.2.0.1"},
		{"10.1.0.0/16", "10.2.0.5-10.2.0.9"},
		{"10.1.0.0/16[tcp]", "10.2.0.0/16[tcp/443]"},
		{"10.1.0.7[udp/53]", "10.2.0.0/16[udp]"},
		{"0.0.0.0/0", "10.2.0.0/16"},
		{"fd00:1::/64", "fd00:2::1"},
		{"fd00:1::1-fd00:1::9", "fd00:2::/64[udp]"},
	} {
		ends := func(local, remote string) func(*policy.PeerTunnel) {
			return func(t *policy.PeerTunnel) {
				t.Children[0].Local, t.Children[0].Remote = []policy.Selector{sel(local)}, []policy.Selector{sel(remote)}
			}
		}
		w, a, b := pair(t, 1, v1Of(ends(c[0], c[1])), v1Of(ends(c[1], c[0])))
		a.Command(ike.Up, "t", "lan")
		w.Run(2 * time.Second)
		if !a.Up("t") || !b.Up("t") {
			t.Fatalf("%v: %q %q", c, a.Log, b.Log)
		}
		in, _ := sas(t, b)
		if !slices.Equal(in.Local, []policy.Selector{sel(c[1])}) || !slices.Equal(in.Remote, []policy.Selector{sel(c[0])}) {
			t.Errorf("%v: %v <-> %v", c, in.Remote, in.Local)
		}
		noFaults(t, w)
	}
}

// What a responder does with a lifetime that differs from its own.
func TestV1ProposalCheck(t *testing.T) {
	t.Parallel()
	const ours = time.Hour
	for _, c := range []struct {
		check       policy.ProposalCheck
		asked       time.Duration
		taken, used time.Duration // at the responder and at the initiator; 0: refused
	}{
		{policy.CheckClaim, 2 * ours, ours, ours},
		{policy.CheckClaim, ours / 2, ours / 2, ours / 2},
		{policy.CheckObey, 2 * ours, 2 * ours, 2 * ours},
		{policy.CheckObey, ours / 2, ours / 2, ours / 2},
		{policy.CheckStrict, 2 * ours, 0, 0},
		{policy.CheckStrict, ours / 2, ours / 2, ours / 2},
		{policy.CheckExact, ours / 2, 0, 0},
		{policy.CheckExact, ours, ours, ours},
	} {
		life := func(d time.Duration) func(*policy.PeerTunnel) {
			return func(t *policy.PeerTunnel) {
				t.V1.Check = c.check
				t.Children[0].Lifetime = policy.Lifetime{HardTime: d, SoftTime: d - d/10}
			}
		}
		w, a, b := pair(t, 1, v1Of(life(c.asked)), v1Of(life(ours)))
		a.Command(ike.Up, "t", "lan")
		w.Run(5 * time.Second)
		if c.taken == 0 {
			if a.Up("t") || !b.Said("proposal-check is \""+c.check.String()+"\"") {
				t.Errorf("%s, %s: %q", c.check, c.asked, b.Log)
			}
			continue
		}
		if !a.Up("t") {
			t.Fatalf("%s, %s: %q %q", c.check, c.asked, a.Log, b.Log)
		}
		for h, want := range map[*Host]time.Duration{a: c.used, b: c.taken} {
			if in, _ := sas(t, h); in.Lifetime.HardTime != want || in.Lifetime.SoftTime >= want {
				t.Errorf("%s, %s: %s has %s, %s, want %s", c.check, c.asked, h.Name, in.Lifetime.HardTime, in.Lifetime.SoftTime, want)
			}
		}
		noFaults(t, w)
	}
}

// With obey the group of PFS is the peer's choice, too, but for a weak one that nobody named.
func TestV1ProposalCheckObeysTheGroup(t *testing.T) {
	t.Parallel()
	obey := func(t *policy.PeerTunnel) { t.V1.Check = policy.CheckObey }
	for esp, up := range map[string]bool{"aes128-sha256-ecp256": true, "aes128-sha256": true, "aes128-sha256-modp1024": false} {
		w, a, b := pair(t, 1, v1Of(esp1(esp)), v1Of(esp1("aes128-sha256-modp2048"), obey))
		a.Command(ike.Up, "t", "lan")
		w.Run(5 * time.Second)
		if a.Up("t") != up {
			t.Errorf("%s: %q %q", esp, a.Log, b.Log)
		}
		noFaults(t, w)
	}
}

func TestV1LifetimesInKilobytes(t *testing.T) {
	t.Parallel()
	octets := func(n uint64) func(*policy.PeerTunnel) {
		return func(t *policy.PeerTunnel) {
			t.Children[0].Lifetime = policy.Lifetime{HardOctets: n, SoftOctets: n / 10 * 9}
		}
	}
	w, a, b := pair(t, 1, v1Of(octets(10<<20)), v1Of(octets(1<<30)))
	a.Command(ike.Up, "t", "lan")
	w.Run(5 * time.Second)
	in, _ := sas(t, b)
	if in.Lifetime.HardOctets != 10<<20 || in.Lifetime.SoftOctets >= 10<<20 || in.Lifetime.SoftOctets == 0 {
		t.Errorf("%+v", in.Lifetime)
	}
	noFaults(t, w)
}
