package tun

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// GuardRule says what becomes of clear packets. Of a list the first rule that matches a packet decides; what none
// matches passes.
type GuardRule struct {
	Src, Dst AddrRange // of one family
	Protocol uint8     // 0: any
	// Ports, where Protocol is not 0; for ICMP both hold type*256+code, for the mobility header type*256.
	SrcPort, DstPort PortRange
	Pass             bool // clear packets are as good as protected ones
}

// AddrRange is all addresses from First to Last, both among them.
type AddrRange struct{ First, Last netip.Addr }

// PortRange is all numbers from First to Last, both among them.
type PortRange struct{ First, Last uint16 }

// AnyPort is every port, and packets that have none.
var AnyPort = PortRange{0, 65535}

// The rules are decorrelated (RFC 4301, appendix B), so that the kernel finds the verdict of a packet with one lookup,
// whether there are ten rules or ten thousand: rectangles of source times destination, no two of which overlap. What
// depends on protocol or ports becomes a chain of conditions, shared by all rectangles that have the same.

// maxGuardCells bounds the rectangles, and with them what rules that overlap in thousands of ways may cost.
const maxGuardCells = 1 << 17

var errGuardCells = errors.New("the policies overlap in too many ways for the guard: use fewer, or guard = false in [gateway]")

// guardCell is one rectangle.
type guardCell struct {
	src, dst AddrRange
	chain    int // index of chains; dropAll: no condition
}

const dropAll = -1

// condition is a rule without addresses.
type condition struct {
	proto            uint8
	srcPort, dstPort PortRange
	pass             bool
}

// guardMap is the rules of one family, decorrelated.
type guardMap struct {
	cells  []guardCell
	chains [][]condition
	ids    map[string]int // of chains, by their text
	work   int
}

func buildGuardMap(rules []GuardRule) (*guardMap, error) {
	m := &guardMap{ids: map[string]int{}}
	src := func(i int) AddrRange { return rules[i].Src }
	all := make([]int, len(rules))
	for i, r := range rules {
		all[i] = i
		if !r.Src.valid() || !r.Dst.valid() || r.Src.First.BitLen() != r.Dst.First.BitLen() {
			return nil, fmt.Errorf("guard rule %v -> %v: impossible addresses", r.Src, r.Dst)
		}
	}
	var last []guardCell // the row before, to be joined with an equal neighbour
	err := m.sweep(all, src, func(s AddrRange, active []int) error {
		row, err := m.row(rules, s, active)
		if err != nil {
			return err
		}
		if len(last) > 0 && last[0].src.Last.Next() == s.First && sameRow(last, row) {
			at := len(m.cells) - len(last)
			for i := range last {
				m.cells[at+i].src.Last = s.Last
			}
			last = m.cells[at:]
			return nil
		}
		m.cells = append(m.cells, row...)
		if len(m.cells) > maxGuardCells {
			return errGuardCells
		}
		last = m.cells[len(m.cells)-len(row):]
		return nil
	})
	return m, err
}

func (r AddrRange) valid() bool {
	return r.First.IsValid() && r.First.BitLen() == r.Last.BitLen() && !r.Last.Less(r.First)
}

func sameRow(a, b []guardCell) bool {
	return slices.EqualFunc(a, b, func(x, y guardCell) bool { return x.dst == y.dst && x.chain == y.chain })
}

// sweep calls f for each stretch of addresses on which the same rules, in their order, are active.
func (m *guardMap) sweep(rules []int, side func(int) AddrRange, f func(AddrRange, []int) error) error {
	type edge struct {
		at   netip.Addr
		rule int
		end  bool
	}
	edges := make([]edge, 0, 2*len(rules))
	for _, i := range rules {
		r := side(i)
		edges = append(edges, edge{r.First, i, false})
		if next := r.Last.Next(); next.IsValid() {
			edges = append(edges, edge{next, i, true})
		}
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.rule, b.rule)) })
	var active []int
	for n := 0; n < len(edges); {
		at := edges[n].at
		for ; n < len(edges) && edges[n].at == at; n++ {
			i, found := slices.BinarySearch(active, edges[n].rule)
			switch {
			case edges[n].end && found:
				active = slices.Delete(active, i, i+1)
			case !edges[n].end && !found:
				active = slices.Insert(active, i, edges[n].rule)
			}
		}
		if len(active) == 0 {
			continue
		}
		end := lastAddress(at)
		if n < len(edges) {
			end = edges[n].at.Prev()
		}
		if m.work += len(active); m.work > 256*maxGuardCells {
			return errGuardCells
		}
		if err := f(AddrRange{at, end}, active); err != nil {
			return err
		}
	}
	return nil
}

// lastAddress of the family.
func lastAddress(a netip.Addr) netip.Addr {
	b := a.AsSlice()
	for i := range b {
		b[i] = 0xff
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}

// row is the rectangles of one stretch of sources.
func (m *guardMap) row(rules []GuardRule, src AddrRange, active []int) ([]guardCell, error) {
	var row []guardCell
	err := m.sweep(active, func(i int) AddrRange { return rules[i].Dst }, func(dst AddrRange, active []int) error {
		chain, drops := m.verdict(rules, active)
		if !drops {
			return nil
		}
		if n := len(row); n > 0 && row[n-1].chain == chain && row[n-1].dst.Last.Next() == dst.First {
			row[n-1].dst.Last = dst.Last
			return nil
		}
		row = append(row, guardCell{src, dst, chain})
		return nil
	})
	return row, err
}

// verdict is what the active rules say, in order, up to the one that takes every packet; false if they drop nothing.
func (m *guardMap) verdict(rules []GuardRule, active []int) (chain int, drops bool) {
	var list []condition
	drops = false
	for _, i := range active {
		r := rules[i]
		c := condition{r.Protocol, r.SrcPort, r.DstPort, r.Pass}
		if c.proto == 0 {
			c.srcPort, c.dstPort = AnyPort, AnyPort
		}
		if !slices.Contains(list, c) {
			list = append(list, c)
			drops = drops || !c.pass
		}
		if c.proto == 0 {
			break
		}
	}
	if !drops {
		return 0, false
	}
	for list[len(list)-1].pass {
		list = list[:len(list)-1] // nothing behind them is dropped
	}
	if len(list) == 1 && list[0].proto == 0 {
		return dropAll, true
	}
	var text strings.Builder
	for _, c := range list {
		fmt.Fprintln(&text, c)
	}
	id, known := m.ids[text.String()]
	if !known {
		id = len(m.chains)
		m.ids[text.String()] = id
		m.chains = append(m.chains, list)
	}
	return id, true
}
