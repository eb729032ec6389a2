package gateway

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"coati/policy"
	"coati/tun"
)

var comparable = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func selectors(t *testing.T, texts ...string) []policy.Selector {
	t.Helper()
	var out []policy.Selector
	for _, s := range texts {
		sel, err := policy.ParseSelector(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, sel)
	}
	return out
}

// uplinks answers route lookups: what is not listed has no route.
func uplinks(m map[string]tun.Uplink) func(netip.Addr) (tun.Uplink, error) {
	return func(a netip.Addr) (tun.Uplink, error) {
		if u, ok := m[a.String()]; ok {
			return u, nil
		}
		return tun.Uplink{}, errors.New("no route")
	}
}

func addresses(pairs ...string) []ownAddress {
	var out []ownAddress
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, ownAddress{pairs[i], netip.MustParsePrefix(pairs[i+1])})
	}
	return out
}

func TestLayoutOfOneTunnel(t *testing.T) {
	t.Parallel()
	tunnel := policy.PeerTunnel{
		Name: "b", Remote: netip.MustParseAddr("203.0.113.7"), Children: []policy.Child{{
			Name: "lan", Local: selectors(t, "10.1.0.0/16"), Remote: selectors(t, "10.2.0.0/16", "10.3.0.5-10.3.0.6"), ESP: policy.DefaultESP(),
			Priority: 7, ReqID: 1, OutPolicy: 1, InPolicy: 2,
		}},
	}
	w := world{
		addresses: addresses("lo", "127.0.0.1/8", "eth0", "198.51.100.1/24", "eth1", "10.1.0.1/16"),
		uplink:    uplinks(map[string]tun.Uplink{"203.0.113.7": {Name: "eth0", MTU: 1500}}),
	}
	got := lay([]policy.PeerTunnel{tunnel}, w)
	src := netip.MustParseAddr("10.1.0.1")
	// 1500 - IPv4 20 - UDP 8 - ESP 8, IV 8, ICV 16 and trailer of AES-GCM, the least of what may be agreed upon.
	mtu := got.mtu
	want := []tun.Route{
		{Dst: netip.MustParsePrefix("10.2.0.0/16"), Src: src, MTU: mtu},
		{Dst: netip.MustParsePrefix("10.3.0.5/32"), Src: src, MTU: mtu},
		{Dst: netip.MustParsePrefix("10.3.0.6/32"), Src: src, MTU: mtu},
	}
	if diff := cmp.Diff(want, got.routes, comparable); diff != "" {
		t.Error(diff)
	}
	if mtu < 1380 || mtu > 1438 {
		t.Errorf("mtu %d for ESP in UDP over 1500", mtu)
	}
	if len(got.policies) != 2 || got.policies[0].Direction != policy.Outbound || got.policies[1].Direction != policy.Inbound || got.policies[0].ReqID != got.policies[1].ReqID {
		t.Errorf("policies %v", got.policies)
	}
	if len(got.strict) != 0 {
		t.Errorf("reverse-path filter of %v would be touched without need", got.strict)
	}
}

func TestRouteThatCoversThePeerNeedsALooseFilter(t *testing.T) {
	t.Parallel()
	w := world{
		addresses: addresses("eth0", "198.51.100.1/24"),
		uplink:    uplinks(map[string]tun.Uplink{"203.0.113.7": {Name: "eth0", MTU: 1500}, "192.0.2.1": {Name: "eth0", MTU: 1500}}),
	}
	for _, c := range []struct {
		name, remote, ts string
		want             []string
	}{
		{"everything through the tunnel", "203.0.113.7", "0.0.0.0/0", []string{"eth0"}},
		{"the peer's network", "203.0.113.7", "203.0.113.0/24", []string{"eth0"}},
		{"our own link's neighbours", "203.0.113.7", "198.51.100.128/25", []string{"eth0"}},
		{"another network", "203.0.113.7", "10.0.0.0/8", nil},
		{"any peer, everything", "", "0.0.0.0/0", []string{"eth0"}},
		{"any peer, another network", "", "10.0.0.0/8", nil},
	} {
		tunnel := policy.PeerTunnel{Name: "b", Children: []policy.Child{{Local: policy.AnySelectors(), Remote: selectors(t, c.ts), ESP: policy.DefaultESP()}}}
		if c.remote != "" {
			tunnel.Remote = netip.MustParseAddr(c.remote)
		}
		if diff := cmp.Diff(c.want, lay([]policy.PeerTunnel{tunnel}, w).strict); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestSourceIsInsideThePolicy(t *testing.T) {
	t.Parallel()
	own := addresses("lo", "127.0.0.1/8", "lo", "::1/128", "eth0", "fe80::1/64", "eth0", "198.51.100.1/24", "eth1", "10.1.9.9/16", "eth1", "2001:db8:1::9/64")
	for _, c := range []struct{ local, dst, want string }{
		{"10.1.0.0/16", "10.2.0.0/16", "10.1.9.9"},
		{"2001:db8:1::/64", "2001:db8:2::/64", "2001:db8:1::9"},
		{"10.9.0.0/16", "10.2.0.0/16", "invalid IP"}, // a router for somebody else's network
		{"0.0.0.0/0", "10.2.0.0/16", "invalid IP"},   // any will do: the kernel's choice
		{"10.1.0.0/16", "2001:db8:2::/64", "invalid IP"},
		{"127.0.0.0/8", "10.2.0.0/16", "invalid IP"},
	} {
		if got := source(selectors(t, c.local), netip.MustParsePrefix(c.dst), own); got.String() != c.want {
			t.Errorf("local %s, to %s: %v, want %s", c.local, c.dst, got, c.want)
		}
	}
}

func TestSharedPrefixTakesTheSmallerMTU(t *testing.T) {
	t.Parallel()
	child := policy.Child{Local: selectors(t, "10.1.0.0/16[tcp/80]"), Remote: selectors(t, "10.2.0.0/16"), ESP: policy.DefaultESP()}
	far, near := netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("203.0.113.8")
	w := world{uplink: uplinks(map[string]tun.Uplink{"203.0.113.7": {Name: "eth0", MTU: 1400}, "203.0.113.8": {Name: "eth0", MTU: 9000}})}
	l := lay([]policy.PeerTunnel{{Name: "a", Remote: near, Children: []policy.Child{child}}, {Name: "b", Remote: far, Children: []policy.Child{child}}}, w)
	if len(l.routes) != 1 {
		t.Fatalf("routes %v", l.routes)
	}
	if l.mtu < 8000 || l.routes[0].MTU > 1400 || l.routes[0].MTU < 1280 {
		t.Errorf("device %d, route %d", l.mtu, l.routes[0].MTU)
	}
}

func TestIPv6RouteNeverGoesBelowItsLeastMTU(t *testing.T) {
	t.Parallel()
	w := world{uplink: uplinks(map[string]tun.Uplink{"2001:db8::7": {Name: "eth0", MTU: 1280}})}
	l := lay([]policy.PeerTunnel{{
		Name: "a", Remote: netip.MustParseAddr("2001:db8::7"),
		Children: []policy.Child{{Local: selectors(t, "::/0", "0.0.0.0/0"), Remote: selectors(t, "2001:db8:2::/64", "10.2.0.0/16"), ESP: policy.DefaultESP()}},
	}}, w)
	if l.mtu != 1280 || l.routes[0].MTU != 1280 || l.routes[1].MTU >= 1280 {
		t.Errorf("device %d, routes %v", l.mtu, l.routes)
	}
}

// A reload must not touch what stays the same, whatever else changes around it.
func TestNumbersStayWithUnchangedChildren(t *testing.T) {
	t.Parallel()
	lan := policy.Child{Name: "lan", Remote: selectors(t, "10.2.0.0/16")}
	dmz := policy.Child{Name: "dmz", Remote: selectors(t, "10.3.0.0/16")}
	configured := []policy.PeerTunnel{{Name: "b", Children: []policy.Child{lan, dmz}}}
	var n numbers
	first := n.assign(configured)
	n.keep(first)
	if configured[0].Children[0].ReqID != 0 {
		t.Error("the configuration itself was changed")
	}
	shorter := lan
	shorter.Lifetime = policy.Lifetime{HardTime: time.Minute}
	if again := n.assign([]policy.PeerTunnel{{Name: "b", Children: []policy.Child{shorter}}})[0].Children[0]; again.ReqID != first[0].Children[0].ReqID || again.Lifetime != shorter.Lifetime {
		t.Errorf("a child with another lifetime: %+v", again)
	}
	wider := dmz
	wider.Remote = selectors(t, "10.2.0.0/15")
	second := n.assign([]policy.PeerTunnel{{Name: "a", Children: []policy.Child{lan}}, {Name: "b", Children: []policy.Child{wider, lan}}})
	if diff := cmp.Diff(first[0].Children[0], second[1].Children[1], comparable); diff != "" {
		t.Errorf("the unchanged child: %s", diff)
	}
	seen := map[uint32]bool{first[0].Children[0].ReqID: true, first[0].Children[1].ReqID: true}
	for _, c := range []policy.Child{second[0].Children[0], second[1].Children[0]} {
		if seen[c.ReqID] || c.ReqID == 0 || c.OutPolicy == c.InPolicy {
			t.Errorf("child %s: reqid %d policies %d %d", c.Name, c.ReqID, c.OutPolicy, c.InPolicy)
		}
		seen[c.ReqID] = true
	}
}

func TestListenOnlyWhereTunnelsSay(t *testing.T) {
	t.Parallel()
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	if diff := cmp.Diff([]netip.Addr{a, b}, localAddresses([]policy.PeerTunnel{{Local: a}, {Local: b}, {Local: a}}), comparable); diff != "" {
		t.Error(diff)
	}
	for _, tunnels := range [][]policy.PeerTunnel{nil, {{Local: a}, {}}} {
		if got := localAddresses(tunnels); len(got) == 0 || !got[0].IsUnspecified() {
			t.Errorf("%v: %v", tunnels, got)
		}
	}
}

func TestOverlap(t *testing.T) {
	t.Parallel()
	var routes []tun.Route
	for _, p := range []string{"10.0.0.0/8", "192.0.2.128/25", "203.0.113.7/32", "fd00::/8"} {
		routes = append(routes, tun.Route{Dst: netip.MustParsePrefix(p)})
	}
	covered := overlap(routes)
	for _, p := range []string{
		"10.0.0.0/8", "10.1.2.3/32", "10.0.0.0/7", "11.0.0.0/8", "9.0.0.0/8", "192.0.2.0/24", "192.0.2.127/32", "192.0.2.255/32", "203.0.113.0/29",
		"203.0.113.6/32", "0.0.0.0/0", "::/0", "fd12::1/128", "fc00::/7", "fe80::/64", "192.0.2.0/25",
	} {
		p := netip.MustParsePrefix(p)
		want := slices.ContainsFunc(routes, func(r tun.Route) bool { return r.Dst.Overlaps(p) })
		if got := covered(p); got != want {
			t.Errorf("%v: %t, want %t", p, got, want)
		}
	}
	if overlap(nil)(netip.MustParsePrefix("0.0.0.0/0")) {
		t.Error("no routes overlap")
	}
}
