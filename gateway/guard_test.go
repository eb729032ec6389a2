package gateway

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"coati/policy"
	"coati/tun"
)

// What the guard is told follows the inbound policies in the order in which they are asked.
func TestGuardRules(t *testing.T) {
	t.Parallel()
	all := tun.AnyPort
	span := func(first, last string) tun.AddrRange {
		return tun.AddrRange{First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)}
	}
	lanA, lanB := span("10.1.0.0", "10.1.0.255"), span("10.2.0.0", "10.2.0.255")
	for _, c := range []struct {
		name     string
		policies []policy.Policy
		want     []tun.GuardRule
	}{
		{"one child", []policy.Policy{
			{Direction: policy.Outbound, Local: selectors(t, "10.9.0.0/16"), Remote: selectors(t, "10.8.0.0/16")},
			{Direction: policy.Inbound, Local: selectors(t, "10.1.0.0/24"), Remote: selectors(t, "10.2.0.0/24")},
		}, []tun.GuardRule{{Src: lanB, Dst: lanA, SrcPort: all, DstPort: all}}},
		{"by priority, and what may be clear", []policy.Policy{
			{ID: 1, Priority: 9, Direction: policy.Inbound, Local: selectors(t, "10.1.0.0/24"), Remote: selectors(t, "10.2.0.0/24")},
			{ID: 3, Priority: 5, Level: policy.LevelUse, Direction: policy.Inbound, Local: selectors(t, "10.1.0.1"), Remote: selectors(t, "10.2.0.0/24")},
			{ID: 2, Priority: 5, Action: policy.Bypass, Direction: policy.Inbound, Local: selectors(t, "10.1.0.0/24"), Remote: selectors(t, "10.2.0.7")},
			{ID: 4, Priority: 7, Action: policy.Discard, Direction: policy.Inbound, Local: selectors(t, "10.1.0.0/24"), Remote: selectors(t, "10.2.0.8")},
		}, []tun.GuardRule{
			{Src: span("10.2.0.7", "10.2.0.7"), Dst: lanA, SrcPort: all, DstPort: all, Pass: true},
			{Src: lanB, Dst: span("10.1.0.1", "10.1.0.1"), SrcPort: all, DstPort: all, Pass: true},
			{Src: span("10.2.0.8", "10.2.0.8"), Dst: lanA, SrcPort: all, DstPort: all},
			{Src: lanB, Dst: lanA, SrcPort: all, DstPort: all},
		}},
		{"families, protocols and ports", []policy.Policy{{
			Direction: policy.Inbound, Local: selectors(t, "10.1.0.0/24[tcp/80-81]", "fd00::/16", "10.1.0.0/24[udp]"), Remote: selectors(t, "10.2.0.0/24[tcp]"),
		}}, []tun.GuardRule{{Src: lanB, Dst: lanA, Protocol: 6, SrcPort: all, DstPort: tun.PortRange{First: 80, Last: 81}}}},
		{
			"icmp types",
			[]policy.Policy{{Direction: policy.Inbound, Local: selectors(t, "10.1.0.0/24[icmp/0/0]"), Remote: selectors(t, "10.2.0.0/24")}},
			[]tun.GuardRule{{Src: lanB, Dst: lanA, Protocol: 1, SrcPort: all, DstPort: tun.PortRange{}}},
		},
		{
			"opaque ports",
			[]policy.Policy{{Direction: policy.Inbound, Local: selectors(t, "10.1.0.0/24[udp/opaque]", "10.1.0.0/24[gre/opaque]"), Remote: selectors(t, "10.2.0.0/24")}},
			[]tun.GuardRule{{Src: lanB, Dst: lanA, Protocol: 47, SrcPort: all, DstPort: all}},
		},
	} {
		if diff := cmp.Diff(c.want, guardRules(c.policies), comparable); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}
