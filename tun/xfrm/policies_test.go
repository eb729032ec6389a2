package xfrm

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"coati/policy"
)

func sel(t testing.TB, words ...string) []policy.Selector {
	t.Helper()
	var out []policy.Selector
	for _, w := range words {
		s, err := policy.ParseSelector(w)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

func (s selector) words() string {
	w := fmt.Sprintf("%v > %v", s.Src, s.Dst)
	if s.Proto != 0 {
		w += fmt.Sprintf(" proto %d", s.Proto)
	}
	if s.SrcMask != 0 {
		w += fmt.Sprintf(" sport %d/%x", s.SrcPort, s.SrcMask)
	}
	if s.DstMask != 0 {
		w += fmt.Sprintf(" dport %d/%x", s.DstPort, s.DstMask)
	}
	return w
}

func TestSelectorsOfTheKernel(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name          string
		local, remote []string
		inbound       bool
		want          []string
	}{
		{"prefixes", []string{"10.1.0.0/16"}, []string{"10.2.0.0/16"}, false, []string{"10.1.0.0/16 > 10.2.0.0/16"}},
		{"inbound is the other way round", []string{"10.1.0.0/16"}, []string{"10.2.0.0/16"}, true, []string{"10.2.0.0/16 > 10.1.0.0/16"}},
		{"a range is the fewest prefixes", []string{"10.1.0.0/16"}, []string{"10.2.0.1-10.2.0.3"}, false, []string{"10.1.0.0/16 > 10.2.0.1/32", "10.1.0.0/16 > 10.2.0.2/31"}},
		{"families do not mix", []string{"10.1.0.0/16", "fd01::/64"}, []string{"10.2.0.0/16", "fd02::/64"}, false, []string{"10.1.0.0/16 > 10.2.0.0/16", "fd01::/64 > fd02::/64"}},
		{"one end's protocol is enough", []string{"10.1.0.0/16"}, []string{"10.2.0.1[tcp/80]"}, false, []string{"10.1.0.0/16 > 10.2.0.1/32 proto 6 dport 80/ffff"}},
		{"ports turn round too", []string{"10.1.0.0/16"}, []string{"10.2.0.1[tcp/80]"}, true, []string{"10.2.0.1/32 > 10.1.0.0/16 proto 6 sport 80/ffff"}},
		{"two protocols are nothing", []string{"10.1.0.0/16[udp]"}, []string{"10.2.0.1[tcp/80]"}, false, nil},
		{"a range of ports is runs a mask can say", []string{"10.1.0.0/16"}, []string{"10.2.0.1[udp/1023-1026]"}, false, []string{
			"10.1.0.0/16 > 10.2.0.1/32 proto 17 dport 1023/ffff", "10.1.0.0/16 > 10.2.0.1/32 proto 17 dport 1024/fffe", "10.1.0.0/16 > 10.2.0.1/32 proto 17 dport 1026/ffff",
		}},
		{"echo requests", []string{"10.1.0.0/16[icmp/8/0]"}, []string{"10.2.0.1[icmp/8/0]"}, true, []string{"10.2.0.1/32 > 10.1.0.0/16 proto 1 sport 8/ffff dport 0/ffff"}},
		{"a type with any code", []string{"fd01::/64[icmp6/1]"}, []string{"fd02::/64[icmp6]"}, false, []string{"fd01::/64 > fd02::/64 proto 58 sport 1/ffff"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := selectors(sel(t, c.local...), sel(t, c.remote...), !c.inbound)
			if err != nil {
				t.Fatal(err)
			}
			var words []string
			for _, s := range got {
				words = append(words, s.words())
			}
			if diff := cmp.Diff(c.want, words); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestSelectorsTheKernelHasNot(t *testing.T) {
	t.Parallel()
	opaque := sel(t, "10.1.0.0/16[tcp]")
	opaque[0].StartPort, opaque[0].EndPort = 65535, 0
	for name, local := range map[string][]policy.Selector{"opaque ports": opaque, "some types of icmp": sel(t, "10.1.0.0/16[icmp/8-16]")} {
		if got, err := selectors(local, sel(t, "10.2.0.0/16"), true); err == nil {
			t.Errorf("%s: %v, want an error", name, got)
		}
	}
}

// portMasks must select exactly the range, whatever it is.
func TestPortMasksCoverTheRange(t *testing.T) {
	t.Parallel()
	for _, r := range [][2]uint16{{0, 0}, {0, 65535}, {1, 65535}, {0, 65534}, {1, 65534}, {80, 80}, {32767, 32768}, {1000, 2000}, {65535, 65535}} {
		runs, err := portMasks(policy.Selector{Protocol: 6, StartPort: r[0], EndPort: r[1]})
		if err != nil {
			t.Fatal(err)
		}
		for port := range 1 << 16 {
			p := uint16(port)
			n := 0
			for _, m := range runs {
				if p&m.mask == m.port {
					n++
				}
			}
			want := 0
			if r[0] <= p && p <= r[1] {
				want = 1
			}
			if n != want {
				t.Fatalf("range %v: port %d is in %d runs, want %d", r, p, n, want)
			}
		}
	}
}

func planned(t *testing.T, id policy.PolicyID, dir policy.Direction, priority int32, reqID uint32) *policy.Policy {
	t.Helper()
	return &policy.Policy{
		ID: id, Direction: dir, Priority: priority, ReqID: reqID, Local: sel(t, "10.1.0.0/16"), Remote: sel(t, "10.2.0.0/16"),
	}
}

func TestTheFirstPolicyStands(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		put  []*policy.Policy
		want policy.PolicyID
	}{
		{"the lower priority", []*policy.Policy{planned(t, 1, policy.Outbound, 5, 1), planned(t, 2, policy.Outbound, -5, 2)}, 2},
		{"then the lower id", []*policy.Policy{planned(t, 4, policy.Outbound, 0, 1), planned(t, 3, policy.Outbound, 0, 2)}, 3},
	} {
		for _, reversed := range []bool{false, true} {
			put := slices.Clone(c.put)
			if reversed {
				slices.Reverse(put)
			}
			all := spd{}
			for _, p := range put {
				s, err := slots(p, waiting(0), p.ReqID)
				if err != nil {
					t.Fatal(err)
				}
				all.merge(s)
			}
			for k, e := range all {
				if e.owner != c.want {
					t.Errorf("%s, reversed %v: policy %d stands in %v, want %d", c.name, reversed, e.owner, k, c.want)
				}
			}
		}
	}
}

func TestPoliciesInBothDirections(t *testing.T) {
	t.Parallel()
	to := target{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
	describe := func(p *policy.Policy) []string {
		s, err := slots(p, to, 7)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for k, e := range s {
			out = append(out, fmt.Sprintf("dir %d %s action %d tmpl %v-%v mode %d optional %v", k.dir, k.selector.words(), e.action, e.tmpl.src, e.tmpl.dst, e.tmpl.mode, e.tmpl.optional))
		}
		slices.Sort(out)
		return out
	}
	out, in := planned(t, 1, policy.Outbound, 0, 7), planned(t, 2, policy.Inbound, 0, 7)
	use, transport, discard := planned(t, 3, policy.Outbound, 0, 7), planned(t, 4, policy.Inbound, 0, 7), planned(t, 5, policy.Outbound, 0, 7)
	use.Level, transport.Mode, discard.Action = policy.LevelUse, policy.Transport, policy.Discard
	got := map[string][]string{"out": describe(out), "in": describe(in), "use": describe(use), "transport": describe(transport), "discard": describe(discard)}
	want := map[string][]string{
		"out": {"dir 1 10.1.0.0/16 > 10.2.0.0/16 action 0 tmpl 192.0.2.1-192.0.2.2 mode 1 optional false"},
		"in": {
			"dir 0 10.2.0.0/16 > 10.1.0.0/16 action 0 tmpl invalid IP-invalid IP mode 1 optional false",
			"dir 2 10.2.0.0/16 > 10.1.0.0/16 action 0 tmpl invalid IP-invalid IP mode 1 optional false",
		},
		"use":       {"dir 1 10.1.0.0/16 > 10.2.0.0/16 action 0 tmpl 192.0.2.1-192.0.2.2 mode 1 optional true"},
		"transport": {"dir 0 10.2.0.0/16 > 10.1.0.0/16 action 0 tmpl invalid IP-invalid IP mode 0 optional false"},
		"discard":   {"dir 1 10.1.0.0/16 > 10.2.0.0/16 action 1 tmpl invalid IP-invalid IP mode 0 optional false"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestStepsLeadFromOneSPDToAnother(t *testing.T) {
	t.Parallel()
	one := slot{dirOut, selector{Proto: 1}}
	two := slot{dirOut, selector{Proto: 2}}
	three := slot{dirOut, selector{Proto: 3}}
	from := spd{one: {owner: 1, priority: 1}, two: {owner: 1, priority: 1}}
	to := spd{two: {owner: 9, priority: 1}, three: {owner: 1, priority: 1}}
	var got []string
	for _, s := range from.steps(to) {
		got = append(got, fmt.Sprintf("put %v proto %d", s.put, s.slot.selector.Proto))
	}
	if diff := cmp.Diff([]string{"put true proto 3", "put false proto 1"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPrioritiesKeepTheirOrder(t *testing.T) {
	t.Parallel()
	all := []int32{-1 << 31, -1<<31 + 1, -1, 0, 1, 1<<31 - 1}
	for i, p := range all {
		if got := priority(p); got == 0 || i > 1 && got <= priority(all[i-1]) {
			t.Errorf("priority %d is %d", p, got)
		}
	}
}

func TestTagsAndReqIDsDoNotMeet(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"coati0", "coati1", "", strings.Repeat("x", 15)} {
		tag := tagOf(name)
		if tag&ownMask != 0 || tag&tagBit == 0 {
			t.Errorf("tag of %q: %#x", name, tag)
		}
	}
	if tagOf("coati0") == tagOf("coati1") {
		t.Error("two names share a tag")
	}
}

// Level use goes in clear where there is no SA and never where there is one; others refuse for a moment after a failure.
func TestPoliciesWithAndWithoutAnSA(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		level       policy.Level
		mode        policy.Mode
		sa, refused bool
		want        uint8 // the action
		tmpl, opt   bool
	}{
		{policy.LevelRequire, policy.Tunnel, false, false, actionAllow, true, false},
		{policy.LevelRequire, policy.Tunnel, false, true, actionBlock, false, false},
		{policy.LevelRequire, policy.Tunnel, true, true, actionAllow, true, false},
		{policy.LevelUse, policy.Tunnel, false, false, actionAllow, false, false},
		{policy.LevelUse, policy.Tunnel, false, true, actionAllow, false, false},
		{policy.LevelUse, policy.Tunnel, true, false, actionAllow, true, false},
		{policy.LevelUse, policy.Transport, false, false, actionAllow, true, true},
	} {
		p := planned(t, 1, policy.Outbound, 0, 7)
		p.Level, p.Mode = c.level, c.mode
		all, err := slots(forNow(p, c.sa, c.refused), waiting(0), 7)
		if err != nil || len(all) != 1 {
			t.Fatal(all, err)
		}
		for _, e := range all {
			if e.action != c.want || e.tmpl.family != 0 != c.tmpl || e.tmpl.optional != c.opt {
				t.Errorf("%+v: %+v", c, e)
			}
		}
	}
}

// What we write of a policy is what the kernel shows, and what it took otherwise is named.
func TestPoliciesReadBack(t *testing.T) {
	t.Parallel()
	p := planned(t, 1, policy.Outbound, 5, 7)
	for name, change := range map[string]func(*policy.Policy){
		"tunnel": func(*policy.Policy) {}, "transport": func(p *policy.Policy) { p.Mode = policy.Transport }, "inbound": func(p *policy.Policy) { p.Direction = policy.Inbound },
		"level use": func(p *policy.Policy) { p.Level = policy.LevelUse }, "discard": func(p *policy.Policy) { p.Action = policy.Discard }, "bypass": func(p *policy.Policy) { p.Action = policy.Bypass },
	} {
		c := *p
		change(&c)
		all, err := slots(&c, target{netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")}, 7)
		if err != nil {
			t.Fatal(err)
		}
		for k, e := range all {
			r, err := parsePolicy(policyMessage(msgUpdPolicy, k, &e, 8, 0).seal(0)[sizeMessage:])
			if err == nil {
				err = r.differs(k, &e, 8)
			}
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			for what, other := range map[string]func() error{
				"direction": func() error { k := k; k.dir ^= 1; return r.differs(k, &e, 8) },
				"selector":  func() error { k := k; k.selector.Proto = 99; return r.differs(k, &e, 8) },
				"index":     func() error { return r.differs(k, &e, 9) },
				"priority":  func() error { e := e; e.priority++; return r.differs(k, &e, 8) },
				"action":    func() error { e := e; e.action ^= 1; return r.differs(k, &e, 8) },
				"template":  func() error { e := e; e.tmpl.mode ^= 1; return r.differs(k, &e, 8) },
				"number":    func() error { r := r; r.tmpls++; return r.differs(k, &e, 8) },
			} {
				if err := other(); err == nil || !strings.Contains(err.Error(), what) {
					t.Errorf("%s: another %s: %v", name, what, err)
				}
			}
		}
	}
}
