package esp

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"pgregory.net/rapid"

	"coati/policy"
)

// manyPeers makes n protect policies, each for a /24 of its own, and an inbound SA for each, without a key.
func manyPeers(tb testing.TB, n int) (p *Plane, flows []policy.Flow, spis []uint32) {
	tb.Helper()
	p = New(Config{Egress: sink{}})
	var tx policy.Tx
	for i := range n {
		net := 11<<24 + uint32(i)<<8
		tx.PutPolicies = append(tx.PutPolicies, policy.Policy{
			ID: policy.PolicyID(i + 1), Direction: policy.Outbound, Action: policy.Protect, ReqID: uint32(i + 1), Local: netA[:1],
			Remote: []policy.Selector{policy.PrefixSelector(netip.PrefixFrom(address(net), 24))},
		})
		flows = append(flows, policy.Flow{Src: address(10<<24 + 1<<16 + 1), Dst: address(net + 9), Protocol: 17, SrcPort: 1, DstPort: 2, HasPorts: true})
		spis = append(spis, spread(i))
		p.inbound.replace(spread(i), &inSA{}, nil)
	}
	if err := p.Apply(tx); err != nil {
		tb.Fatal(err)
	}
	return p, flows, spis
}

// spread makes SPIs that look random.
func spread(i int) uint32 { return 256 + uint32(i+1)*2654435761 }

func address(x uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, x)))
}

// What the look-ups of a policy and an SA need of memory, octets, beside the policy and the SA.
func BenchmarkLookupMemory(b *testing.B) {
	const n = 100_000
	entries := make([]*spdEntry, n)
	for i := range entries {
		remote := policy.PrefixSelector(netip.PrefixFrom(address(11<<24+uint32(i)<<8), 24))
		entries[i] = &spdEntry{config: policy.Policy{ID: policy.PolicyID(i + 1), Local: netA[:1], Remote: []policy.Selector{remote}}}
	}
	sas := make([]inSA, n)
	var s *spd
	var t *inTable
	for b.Loop() {
		before := heap()
		s = newSPD().change(nil, entries)
		b.ReportMetric(float64(heap()-before)/n, "octets/policy")
		before = heap()
		t = new(inTable)
		for i := range sas {
			t.replace(spread(i), &sas[i], nil)
		}
		b.ReportMetric(float64(heap()-before)/n, "octets/SA")
	}
	runtime.KeepAlive(s)
	runtime.KeepAlive(t)
	runtime.KeepAlive(entries)
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// However many SAs there are, a packet's is one of a few that share a bucket, and those before are found while the table
// grows.
func TestBucketsStayShort(t *testing.T) {
	t.Parallel()
	const n = 100_000
	var table inTable
	sas := make([]*inSA, n)
	for i := range sas {
		sas[i] = &inSA{}
		table.replace(spread(i), sas[i], nil)
		if back := i * 7919 % (i + 1); table.find(spread(back)) != sas[back] {
			t.Fatalf("with %d SAs the SA %d is not found", i+1, back)
		}
	}
	buckets := *table.buckets.Load()
	longest, steps := 0, 0
	for i := range buckets {
		k := 0
		for e := buckets[i].first.Load(); e != nil; e = e.next {
			k++
		}
		longest = max(longest, k)
		steps += k * (k + 1) / 2
	}
	if mean := float64(steps) / n; mean > 2 || longest > 16 {
		t.Errorf("an SA is found after %.1f steps, the longest bucket has %d", mean, longest)
	}
	for i := range sas {
		if i%2 == 0 {
			table.replace(spread(i), nil, sas[i])
		}
	}
	for i := range sas {
		want := sas[i]
		if i%2 == 0 {
			want = nil
		}
		if table.find(spread(i)) != want {
			t.Fatalf("SA %d after the removals: %p, want %p", i, table.find(spread(i)), want)
		}
	}
	if table.count != n/2 {
		t.Errorf("%d SAs are counted", table.count)
	}
}

// A look-up compares a flow with the policies of the prefixes it lies in, and with none of all the others: it reads as many
// slots among 100,000 policies as among 10, give or take a neighbour.
func TestLookupLooksAtFewPolicies(t *testing.T) {
	t.Parallel()
	for _, n := range []int{10, 100_000} {
		p, flows, _ := manyPeers(t, n)
		s := p.spd.Load()
		m := s.families[0]
		if m.count != n || m.lengths != [3]uint64{1 << 24} || len(s.wide) != 0 {
			t.Fatalf("%d prefixes, lengths %b, %d for every flow", m.count, m.lengths, len(s.wide))
		}
		steps := 0
		for i := range flows {
			found := m.find(bitsOf(flows[i].Dst).prefix(24), 24)
			if found == nil || found.entry == nil || found.entry.config.ID != policy.PolicyID(i+1) || !found.plain {
				t.Fatalf("%d policies: flow %d has the slot %+v", n, i, found)
			}
			page := m.pages[m.hash(found.key, 24)>>m.shift]
			at := int(m.hash(found.key, 24)) & (len(page) - 1)
			for steps++; &page[at] != found; at = (at + 1) & (len(page) - 1) {
				steps++
			}
			if e := s.lookup(&flows[i]); e != found.entry {
				t.Fatalf("%d policies: flow %d found %v", n, i, e)
			}
		}
		if mean := float64(steps) / float64(n); mean > 3 {
			t.Errorf("%d policies: a look-up reads %.1f slots", n, mean)
		}
	}
}

// A slot is a line of the processor's cache, and the pages are not much larger than what is in them.
func TestSlotsAreLines(t *testing.T) {
	t.Parallel()
	if n := unsafe.Sizeof(slot{}); n != 64 {
		t.Errorf("a slot has %d octets", n)
	}
	p, _, _ := manyPeers(t, 100_000)
	slots := 0
	for _, page := range p.spd.Load().families[0].pages {
		slots += len(page)
	}
	if slots > 3*100_000 {
		t.Errorf("%d slots for 100,000 prefixes", slots)
	}
}

// Among hundreds of prefixes that lie in each other, at both ends, the first policy in order is found, by whoever has the
// table after a change and by whoever has the one before.
func TestLookupAgreesWithAListAmongMany(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		remotes, locals := rapid.SampledFrom([]int{0, 3, 9}).Draw(t, "remote bits"), rapid.SampledFrom([]int{0, 3, 9}).Draw(t, "local bits")
		addr := func(v6 bool, spread int) netip.Addr {
			a := [16]byte{0: 0xfd, 7: byte(r.IntN(1 << min(spread, 8))), 12: byte(r.IntN(1 << max(spread-8, 0)))}
			if v6 {
				return netip.AddrFrom16(a)
			}
			return netip.AddrFrom4([4]byte{10, a[7], a[12], byte(r.IntN(2))})
		}
		end := func(v6 bool, spread int) []policy.Selector {
			a := addr(v6, spread)
			p, _ := a.Prefix(r.IntN(a.BitLen() + 1))
			s := policy.PrefixSelector(p)
			if r.IntN(4) == 0 {
				s.Protocol = 6
			}
			return []policy.Selector{s}
		}
		var all, before []*spdEntry
		table := newSPD()
		old := table
		id := policy.PolicyID(0)
		for range rapid.IntRange(1, 5).Draw(t, "changes") {
			old, before = table, slices.Clone(all)
			var remove, add []*spdEntry
			for range r.IntN(150) {
				id++
				v6 := r.IntN(2) == 0
				add = append(add, &spdEntry{config: policy.Policy{ID: id, Priority: int32(r.IntN(3)), Local: end(v6, locals), Remote: end(v6, remotes)}})
			}
			r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			n := r.IntN(len(all) + 1)
			remove, all = all[:n], append(slices.Clone(all[n:]), add...)
			table = table.change(remove, add)
			for range 20 {
				v6 := r.IntN(2) == 0
				f := policy.Flow{Src: addr(v6, locals), Dst: addr(v6, remotes), Protocol: byte(6 + r.IntN(2)), SrcPort: 1, DstPort: 2, HasPorts: true}
				if got, want := table.lookup(&f), firstOf(all, f); got != want {
					t.Fatalf("%v among %d: got %v, want %v", f, len(all), got, want)
				}
				if got, want := old.lookup(&f), firstOf(before, f); got != want {
					t.Fatalf("%v among %d, before the change: got %v, want %v", f, len(before), got, want)
				}
			}
		}
		if table = table.change(all, nil); table.families[0].count+table.families[1].count != 0 || table.families[0].lengths != [3]uint64{} {
			t.Fatalf("an empty table has %d and %d prefixes", table.families[0].count, table.families[1].count)
		}
	})
}
