package gateway

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"coati/policy"
	"coati/policy/legacy"
	"coati/tun"
)

// Who is asked for decides to whom an association belongs.
func TestAssociationsBelongToThePoliciesThatAskForThem(t *testing.T) {
	t.Parallel()
	addr := netip.MustParseAddr
	us, peer := addr("10.0.0.1"), addr("10.0.0.2")
	own := func(a netip.Addr) bool { return a == us || a == addr("10.0.0.9") }
	plain, five := group{mode: policy.Tunnel, local: us, remote: peer}, group{mode: policy.Tunnel, local: us, remote: peer, number: 5}
	transport := group{mode: policy.Transport}
	for _, c := range []struct {
		name     string
		src, dst netip.Addr
		mode     policy.Mode
		number   uint32
		asked    []group
		want     group
		inbound  bool
		err      string
	}{
		{name: "out", src: us, dst: peer, want: plain},
		{name: "in", src: peer, dst: us, want: plain, inbound: true},
		{name: "its number is asked for", src: us, dst: peer, number: 5, asked: []group{plain, five}, want: five},
		{name: "its number is not", src: us, dst: peer, number: 5, asked: []group{plain}, want: plain},
		{name: "no number, but one is asked for", src: us, dst: peer, asked: []group{five}, want: plain},
		{name: "any mode, no policy", src: us, dst: peer, mode: legacy.AnyMode, want: transport},
		{name: "any mode, a tunnel is asked for", src: us, dst: peer, mode: legacy.AnyMode, asked: []group{plain}, want: plain},
		{name: "any mode, its number in a tunnel", src: peer, dst: us, mode: legacy.AnyMode, number: 5, asked: []group{five}, want: five, inbound: true},
		{name: "transport", src: us, dst: peer, mode: policy.Transport, asked: []group{plain}, want: transport},
		{name: "both ours", src: us, dst: addr("10.0.0.9"), err: "both 10.0.0.1 and 10.0.0.9 are addresses of this host"},
		{name: "neither", src: peer, dst: addr("10.0.0.3"), err: "neither 10.0.0.2 nor 10.0.0.3 is an address of this host"},
	} {
		m := newManual(nil)
		asked := map[group]bool{}
		for _, g := range c.asked {
			asked[g] = true
		}
		r, err := m.resolve(&legacy.Association{Src: c.src, Dst: c.dst, Mode: c.mode, ReqID: c.number}, asked, own)
		if c.err != "" {
			if err == nil || err.Error() != c.err {
				t.Errorf("%s: %v, want %s", c.name, err, c.err)
			}
			continue
		}
		if err != nil || r.reqID != m.reqID(c.want) || r.mode != c.want.mode || (r.direction == policy.Inbound) != c.inbound {
			t.Errorf("%s: %+v %v, want %+v", c.name, r, err, c.want)
		}
	}
}

func TestLayoutOfManualPolicies(t *testing.T) {
	t.Parallel()
	w := world{
		addresses: addresses("lo", "127.0.0.1/8", "eth0", "10.0.0.1/24", "eth1", "10.1.0.1/16"),
		uplink:    uplinks(map[string]tun.Uplink{"10.0.0.2": {Name: "eth0", MTU: 1400}, "192.0.2.1": {Name: "eth0", MTU: 1500}}),
	}
	peer := policy.PeerTunnel{Local: netip.MustParseAddr("10.0.0.1"), Remote: netip.MustParseAddr("10.0.0.2")}
	gcm := policy.LookupKeyword("aes128gcm16").Transform()
	m := manualLayout{
		policies: []policy.Policy{{ID: 3}},
		peers:    []policy.PeerTunnel{peer},
		routes: []manualRoute{
			{dst: netip.MustParsePrefix("10.0.0.2/32"), local: selectors(t, "10.0.0.1"), carried: []policy.SA{{Encryption: gcm, Path: policy.Path{Remote: netip.MustParseAddrPort("10.0.0.2:0")}}}},
			{dst: netip.MustParsePrefix("10.9.0.0/16"), local: selectors(t, "10.1.0.0/16")}, // nothing carries it yet
		},
	}
	l := lay(nil, w)
	l.addManual(m, w)
	want := []tun.Route{
		{Dst: netip.MustParsePrefix("10.0.0.2/32"), Src: netip.MustParseAddr("10.0.0.1"), MTU: 1400 - 20 - 8 - 8 - 16 - 2},
		{Dst: netip.MustParsePrefix("10.9.0.0/16"), Src: netip.MustParseAddr("10.1.0.1"), MTU: leastMTU},
	}
	if diff := cmp.Diff(want, l.routes, comparable); diff != "" {
		t.Errorf("routes:\n%s", diff)
	}
	// The peer itself is behind us: a strict filter on its uplink would drop what it sends.
	if diff := cmp.Diff([]string{"eth0"}, l.strict); diff != "" {
		t.Errorf("strict:\n%s", diff)
	}
	if len(l.policies) != 1 || l.mtu != want[0].MTU {
		t.Errorf("%d policies, mtu %d", len(l.policies), l.mtu)
	}
}

// In transport mode the kernel sends ESP by the packet's own route: where that would lead to the TUN it is refused.
func TestWhatTheKernelCannotCarryOfManualKeys(t *testing.T) {
	t.Parallel()
	const transport = "spdadd 10.0.0.1 10.0.0.2 any -P out ipsec esp/transport//require;\n"
	for _, c := range []struct{ name, text, want string }{
		{"a peer beside the tunnel", transport + "spdadd 10.0.0.1 10.2.0.0/16 any -P out ipsec esp/tunnel/10.0.0.1-10.0.0.2/require;\n", ""},
		{"a peer within it", transport + "spdadd 10.0.0.1 10.0.0.0/8 any -P out ipsec esp/tunnel/10.0.0.1-10.0.0.2/require;\n", "test.setkey:1: spdadd: the kernel cannot carry transport mode to 10.0.0.2/32 beside a tunnel to 10.0.0.0/8"},
		{"what comes in has no route", transport + "spdadd 10.0.0.0/8 10.0.0.1 any -P in ipsec esp/tunnel/10.0.0.2-10.0.0.1/require;\n", ""},
		{"what is bypassed goes its own way", transport + "spdadd 10.0.0.0/8 10.0.0.0/8 any -P out none;\n", ""},
	} {
		db, faults := (*legacy.Database)(nil).Evaluate(script(t, c.text), legacy.World{})
		if faults != nil {
			t.Fatal(faults)
		}
		got := strings.Join(sayFaults(kernelFaults(db, nil)), "\n")
		if (c.want == "") != (got == "") || !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestLayoutOfManualPoliciesInTheKernel(t *testing.T) {
	t.Parallel()
	w := world{addresses: addresses("eth0", "10.0.0.1/24"), uplink: uplinks(map[string]tun.Uplink{"10.0.0.2": {Name: "eth0", MTU: 1400}})}
	m := manualLayout{policies: []policy.Policy{{ID: 3}}, routes: []manualRoute{
		{dst: netip.MustParsePrefix("10.0.0.2/32")}, {dst: netip.MustParsePrefix("10.9.0.0/16"), tunnel: true},
	}}
	l := layout{kernel: true}
	l.addManual(m, w)
	if len(l.routes) != 1 || l.routes[0].Dst != m.routes[1].dst {
		t.Errorf("routes %v, want the tunnel's alone", l.routes)
	}
}
