package tun

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// guarded asks the rules as they are written: the first that matches decides.
func guarded(rules []GuardRule, src, dst netip.Addr, proto uint8, sport, dport uint16) bool {
	for _, r := range rules {
		in := func(a AddrRange, x netip.Addr) bool { return !x.Less(a.First) && !a.Last.Less(x) }
		port := func(p PortRange, x uint16) bool { return p.First <= x && x <= p.Last }
		if in(r.Src, src) && in(r.Dst, dst) && (r.Protocol == 0 || r.Protocol == proto && port(r.SrcPort, sport) && port(r.DstPort, dport)) {
			return !r.Pass
		}
	}
	return false
}

// ask does what the kernel does with the map.
func (m *guardMap) ask(t *rapid.T, src, dst netip.Addr, proto uint8, sport, dport uint16) bool {
	found := -1
	for i, c := range m.cells {
		if src.Less(c.src.First) || c.src.Last.Less(src) || dst.Less(c.dst.First) || c.dst.Last.Less(dst) {
			continue
		}
		if found >= 0 {
			t.Fatalf("cells %v and %v overlap", m.cells[found], c)
		}
		found = i
	}
	if found < 0 {
		return false
	}
	if m.cells[found].chain == dropAll {
		return true
	}
	for _, c := range m.chains[m.cells[found].chain] {
		port := func(p PortRange, x uint16) bool { return p.First <= x && x <= p.Last }
		if c.proto == 0 || c.proto == proto && port(c.srcPort, sport) && port(c.dstPort, dport) {
			return !c.pass
		}
	}
	return false
}

// A decorrelated map says of every packet what the rules say in their order, and its rectangles never overlap.
func TestGuardMapMeansTheRules(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v6 := rapid.Bool().Draw(t, "v6")
		// Few addresses at both ends of the space, so that ranges touch, nest and cross.
		addr := rapid.Custom(func(t *rapid.T) netip.Addr {
			low, b := rapid.ByteRange(0, 9).Draw(t, "octet"), byte(0)
			if rapid.Bool().Draw(t, "high") {
				low, b = 255-low, 255
			}
			if v6 {
				return netip.AddrFrom16([16]byte{b, b, b, b, b, b, b, b, b, b, b, b, b, b, b, low})
			}
			return netip.AddrFrom4([4]byte{b, b, b, low})
		})
		between := rapid.Custom(func(t *rapid.T) AddrRange {
			a, b := addr.Draw(t, "first"), addr.Draw(t, "last")
			if b.Less(a) {
				a, b = b, a
			}
			return AddrRange{a, b}
		})
		ports := rapid.SampledFrom([]PortRange{AnyPort, {0, 0}, {1, 1}, {1, 2}, {2, 3}})
		rules := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) GuardRule {
			r := GuardRule{Src: between.Draw(t, "src"), Dst: between.Draw(t, "dst"), Pass: rapid.Bool().Draw(t, "pass")}
			if rapid.Bool().Draw(t, "with protocol") {
				r.Protocol = rapid.SampledFrom([]uint8{6, 17}).Draw(t, "protocol")
				r.SrcPort, r.DstPort = ports.Draw(t, "sport"), ports.Draw(t, "dport")
			}
			return r
		}), 0, 8).Draw(t, "rules")
		m, err := buildGuardMap(rules)
		if err != nil {
			t.Fatal(err)
		}
		for range 40 {
			src, dst := addr.Draw(t, "packet from"), addr.Draw(t, "packet to")
			proto := rapid.SampledFrom([]uint8{1, 6, 17}).Draw(t, "packet's protocol")
			sport, dport := rapid.Uint16Range(0, 4).Draw(t, "from port"), rapid.Uint16Range(0, 4).Draw(t, "to port")
			if got, want := m.ask(t, src, dst, proto, sport, dport), guarded(rules, src, dst, proto, sport, dport); got != want {
				t.Fatalf("%v:%d -> %v:%d protocol %d dropped: %t, want %t\nrules %+v\nmap %+v", src, sport, dst, dport, proto, got, want, rules, m)
			}
		}
	})
}

func between(from, to string) AddrRange {
	return AddrRange{netip.MustParseAddr(from), netip.MustParseAddr(to)}
}

// Whoever has ten thousand networks behind peers pays for ten thousand rectangles and no condition, and neighbours that
// mean the same are one.
func TestGuardMapStaysSmall(t *testing.T) {
	t.Parallel()
	var many, close []GuardRule
	for i := range 10000 {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 7), byte(i << 1), 0})
		many = append(many, GuardRule{Src: AddrRange{a, a}, Dst: between("10.255.0.0", "10.255.255.255")})
		close = append(close, GuardRule{Src: AddrRange{a, netip.AddrFrom4([4]byte{10, byte(i >> 7), byte(i<<1) + 1, 255})}, Dst: between("0.0.0.0", "255.255.255.255")})
	}
	for _, c := range []struct {
		rules []GuardRule
		want  int
	}{{many, 10000}, {close, 1}} {
		m, err := buildGuardMap(c.rules)
		if err != nil || len(m.cells) != c.want || len(m.chains) != 0 {
			t.Errorf("%d rules became %d cells and %d chains, want %d and none: %v", len(c.rules), len(m.cells), len(m.chains), c.want, err)
		}
	}
	// Ports make chains, and equal ones are shared.
	for i := range many {
		many[i].Protocol, many[i].SrcPort, many[i].DstPort = 6, AnyPort, PortRange{443, 443}
	}
	if m, err := buildGuardMap(many); err != nil || len(m.chains) != 1 {
		t.Errorf("%d chains, want 1: %v", len(m.chains), err)
	}
}

func TestGuardMapRefusesWhatWouldExplode(t *testing.T) {
	t.Parallel()
	var rules []GuardRule
	for i := range 2000 {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		b := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		rules = append(rules, GuardRule{Src: AddrRange{a, b}, Dst: AddrRange{a, a}, Protocol: uint8(i%200 + 1), SrcPort: AnyPort, DstPort: AnyPort})
	}
	if _, err := buildGuardMap(rules); !errors.Is(err, errGuardCells) {
		t.Errorf("2000 crossing rules: %v", err)
	}
	if _, err := buildGuardMap([]GuardRule{{Src: between("10.0.0.0", "10.0.0.1"), Dst: between("::1", "::2")}}); err == nil {
		t.Error("a rule from IPv4 to IPv6 was taken")
	}
	slices.Reverse(rules[:2]) // order is no reason to refuse
	if _, err := buildGuardMap(rules[:2]); err != nil {
		t.Error(err)
	}
}
