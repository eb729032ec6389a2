package tun

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// machine lists all rules and routes of this namespace outside the tables local and main, with who
// owns them by protocol.
func machine(t *testing.T) (out []string) {
	t.Helper()
	for _, fam := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := netlink.RuleList(fam)
		ok(t, err)
		for _, r := range rules {
			if r.Table > 255 {
				out = append(out, fmt.Sprintf("v%d proto %d rule %d: not %v %#x to %x", 4+fam/unix.AF_INET6*2, r.Protocol, r.Priority, r.Invert, r.Mark, r.Table))
			}
		}
		routes, err := netlink.RouteListFiltered(fam, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		ok(t, err)
		for _, r := range routes {
			if r.Table > 255 {
				out = append(out, fmt.Sprintf("proto %d route %v type %d in %x", r.Protocol, r.Dst, r.Type, r.Table))
			}
		}
	}
	slices.Sort(out)
	return out
}

// ours is what machine says of a daemon's rules.
func ours(name string) []string {
	return []string{
		fmt.Sprintf("v4 proto 167 rule 3200: not true 0x2000 to %x", tableOf(name)),
		fmt.Sprintf("v6 proto 167 rule 3200: not true 0x2000 to %x", tableOf(name)),
	}
}

func want(t *testing.T, when string, lines ...[]string) {
	t.Helper()
	all := slices.Concat(lines...)
	slices.Sort(all)
	if diff := cmp.Diff(all, machine(t)); diff != "" {
		t.Errorf("%s:\n%s", when, diff)
	}
}

// way says where an unmarked packet to addr goes.
func way(t *testing.T, addr string) string {
	t.Helper()
	routes, err := netlink.RouteGet(netip.MustParseAddr(addr).AsSlice())
	switch {
	case errors.Is(err, unix.EACCES):
		return "prohibited"
	case errors.Is(err, unix.ENETUNREACH):
		return "unreachable"
	case err != nil:
		t.Fatal(err)
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	ok(t, err)
	if mtu := routes[0].MTU; mtu != 0 {
		return fmt.Sprintf("%s mtu %d src %v", link.Attrs().Name, mtu, routes[0].Src)
	}
	return link.Attrs().Name
}

func openRoutes(t *testing.T, name, dir string, block bool) (*Host, *Routes) {
	t.Helper()
	h := openHost(t, name, dir)
	d, err := h.OpenDevice(DeviceConfig{Queues: 1, MTU: 1400})
	ok(t, err)
	r, err := h.OpenRoutes(d, RoutesConfig{Block: block})
	ok(t, err)
	return h, r
}

func TestRoutes(t *testing.T) {
	n := enterNamespace(t)
	n.connect(t, n.another(t))
	_, r := openRoutes(t, "ctun0", t.TempDir(), false)

	ok(t, r.Add(Route{Dst: netip.MustParsePrefix("10.2.0.0/16")}))
	ok(t, r.Add(Route{Dst: netip.MustParsePrefix("10.2.0.0/16"), Src: here4, MTU: 1300}))
	ok(t, r.Add(Route{Dst: netip.MustParsePrefix("10.2.0.0/16"), Src: here4, MTU: 1300}))
	ok(t, r.Add(Route{Dst: netip.MustParsePrefix("2001:db8:2::/48"), Src: here6, MTU: 1300}))
	ok(t, r.Add(Route{Dst: netip.MustParsePrefix("0.0.0.0/0")}))
	for addr, want := range map[string]string{
		"10.2.3.4":      "ctun0 mtu 1300 src 192.0.2.1",
		"2001:db8:2::9": "ctun0 mtu 1300 src 2001:db8::1",
		"203.0.113.1":   "ctun0",
		"192.0.2.1":     "lo", // our own addresses stay ours
		"2001:db8::2":   "up0",
	} {
		if got := way(t, addr); got != want {
			t.Errorf("%s goes by %s, want %s", addr, got, want)
		}
	}

	t.Log("a route that can't be is refused, and the former ones stay")
	before := machine(t)
	err := r.Replace([]Route{
		{Dst: netip.MustParsePrefix("10.3.0.0/16")},
		{Dst: netip.MustParsePrefix("10.2.0.0/16"), MTU: 1200},
		{Dst: netip.MustParsePrefix("10.4.0.0/16"), Src: netip.MustParseAddr("198.51.100.1")},
	})
	if err == nil || !strings.Contains(err.Error(), "is the source an address of this machine?") {
		t.Errorf("a strange source: %v", err)
	}
	if diff := cmp.Diff(before, machine(t)); diff != "" {
		t.Error(diff)
	}
	if got, want := way(t, "10.2.3.4"), "ctun0 mtu 1300 src 192.0.2.1"; got != want {
		t.Errorf("after the refusal: %s, want %s", got, want)
	}

	ok(t, r.Replace([]Route{{Dst: netip.MustParsePrefix("10.3.0.0/16")}}))
	if diff := cmp.Diff([]Route{{Dst: netip.MustParsePrefix("10.3.0.0/16")}}, r.List(), cmpAddr, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if got := way(t, "10.2.3.4"); got != "unreachable" {
		t.Errorf("a route taken away leads to %s", got)
	}
	ok(t, r.Remove(netip.MustParsePrefix("10.3.0.0/16")))
	ok(t, r.Remove(netip.MustParsePrefix("10.3.0.0/16")))
	want(t, "without routes", ours("ctun0"))
	ok(t, r.Close())
	want(t, "after Close")
}

// foreign makes a rule and a route that look like ours but have another protocol, and returns what
// machine says of them.
func foreign(t *testing.T, name string) []string {
	t.Helper()
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Table, rule.Mark, rule.Invert, rule.Protocol = unix.AF_INET, RulePriority, int(tableOf(name)), DefaultMark, true, 99
	ok(t, netlink.RuleAdd(rule))
	lo, err := netlink.LinkByName("lo")
	ok(t, err)
	ok(t, netlink.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("10.99.0.0/16")), LinkIndex: lo.Attrs().Index, Table: int(tableOf(name)), Protocol: 99}))
	return []string{
		fmt.Sprintf("v4 proto 99 rule 3200: not true 0x2000 to %x", tableOf(name)),
		fmt.Sprintf("proto 99 route 10.99.0.0/16 type 1 in %x", tableOf(name)),
	}
}

func TestKilledDaemonLeavesNothingForLong(t *testing.T) {
	for _, next := range []string{"ctun0", "ctun1"} {
		t.Run("then "+next, func(t *testing.T) {
			enterNamespace(t)
			dir := t.TempDir()
			others := foreign(t, "ctun0")
			d := startDaemon(t, daemonConfig{Name: "ctun0", Dir: dir, Routes: prefixes("10.2.0.0/16", "2001:db8:2::/48")})
			d.kill()
			if next == "ctun0" {
				want(t, "killed", others, ours("ctun0"))
			}
			h, err := Open(Config{Name: next, StateDir: dir})
			ok(t, err)
			// Another's table that is not empty is not ours to judge; ours is.
			dev, err := h.OpenDevice(DeviceConfig{Queues: 1, MTU: 1400})
			ok(t, err)
			_, err = h.OpenRoutes(dev, RoutesConfig{})
			ok(t, err)
			want(t, "started again", others, ours(next))
			ok(t, h.Close())
			want(t, "closed", others)
		})
	}
}

func TestTwoDaemonsSideBySide(t *testing.T) {
	enterNamespace(t)
	dir := t.TempDir()
	first := startDaemon(t, daemonConfig{Name: "ctun0", Dir: dir, Routes: prefixes("10.2.0.0/16")})
	_, r := openRoutes(t, "ctun1", dir, false)
	ok(t, r.Add(Route{Dst: netip.MustParsePrefix("10.3.0.0/16")}))
	check := func(when, to2, to3 string) {
		t.Helper()
		if a, b := way(t, "10.2.0.1"), way(t, "10.3.0.1"); a != to2 || b != to3 {
			t.Errorf("%s: %s and %s, want %s and %s", when, a, b, to2, to3)
		}
	}
	check("both", "ctun0", "ctun1")
	first.kill()
	first = startDaemon(t, daemonConfig{Name: "ctun0", Dir: dir, Routes: prefixes("10.2.0.0/16")})
	check("one killed and started again", "ctun0", "ctun1")
	first.stop()
	check("one stopped", "unreachable", "ctun1")
	third := startDaemon(t, daemonConfig{Name: "ctun2", Dir: dir, Routes: prefixes("10.2.0.0/16")})
	check("a third", "ctun2", "ctun1")
	third.stop()
	ok(t, r.Close())
	want(t, "all gone")
}

func TestBlockOutlivesTheDaemon(t *testing.T) {
	enterNamespace(t)
	dir := t.TempDir()
	c := daemonConfig{Name: "ctun0", Dir: dir, Block: true, Routes: prefixes("10.2.0.0/16", "2001:db8:2::/48", "0.0.0.0/0")}
	check := func(when, want string) {
		t.Helper()
		for _, a := range []string{"10.2.0.1", "2001:db8:2::1", "203.0.113.1"} {
			if got := way(t, a); got != want {
				t.Errorf("%s: %s goes by %s, want %s", when, a, got, want)
			}
		}
	}
	d := startDaemon(t, c)
	check("running", "ctun0")
	d.stop()
	check("stopped", "prohibited")
	d = startDaemon(t, c)
	check("running again", "ctun0")
	d.kill()
	check("killed", "prohibited")

	t.Log("another daemon's start does not open it")
	_, r := openRoutes(t, "ctun1", dir, false)
	check("another started", "prohibited")
	ok(t, r.Close())

	t.Log("a start with fewer routes keeps the others shut until it knows its routes")
	h, r := openRoutes(t, "ctun0", dir, true)
	check("started", "prohibited")
	if err := r.Replace([]Route{{Dst: netip.MustParsePrefix("10.2.0.0/16")}, {Dst: netip.MustParsePrefix("10.4.0.0/16"), Src: there4}}); err == nil {
		t.Error("a strange source was taken")
	}
	check("after a failed Replace", "prohibited")
	ok(t, r.Replace([]Route{{Dst: netip.MustParsePrefix("10.2.0.0/16")}}))
	if a, b := way(t, "10.2.0.1"), way(t, "203.0.113.1"); a != "ctun0" || b != "unreachable" {
		t.Errorf("after Replace: %s and %s", a, b)
	}
	ok(t, h.Close())
	if got := way(t, "10.2.0.1"); got != "prohibited" {
		t.Errorf("closed: %s", got)
	}

	t.Log("a start without block removes it")
	h, _ = openRoutes(t, "ctun0", dir, false)
	want(t, "restored", ours("ctun0"))
	ok(t, h.Close())
	want(t, "closed")
}

func TestWithoutIPv6(t *testing.T) {
	enterNamespace(t)
	writeSysctl(t, "net/ipv6/conf/all/disable_ipv6", 1)
	writeSysctl(t, "net/ipv6/conf/default/disable_ipv6", 1)
	_, r := openRoutes(t, "ctun0", t.TempDir(), false)
	ok(t, r.Add(Route{Dst: netip.MustParsePrefix("10.2.0.0/16")}))
	if err := r.Add(Route{Dst: netip.MustParsePrefix("2001:db8::/32")}); err == nil || !strings.Contains(err.Error(), "ipv6 is off on this device") {
		t.Errorf("an IPv6 route without IPv6: %v", err)
	}
}
