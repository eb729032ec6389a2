package esp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

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

// What a packet pays for the look-ups, by how many policies and SAs there are. "Hot" is traffic of ten peers, "all" of
// every one in turn: then caches of the processor are the larger part.
func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		p, flows, spis := manyPeers(b, n)
		for name, among := range map[string]int{"hot": 10, "all": n} {
			b.Run(fmt.Sprintf("spd/%s/%d", name, n), func(b *testing.B) {
				s, i := p.spd.Load(), 0
				for b.Loop() {
					i += 7919
					if s.lookup(&flows[i%among]) == nil {
						b.Fatal("no policy")
					}
				}
			})
			b.Run(fmt.Sprintf("sad/%s/%d", name, n), func(b *testing.B) {
				i := 0
				for b.Loop() {
					i += 7919
					if p.inbound.find(spis[i%among]) == nil {
						b.Fatal("no sa")
					}
				}
			})
		}
	}
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
		k := len(buckets[i].all())
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

// A look-up compares a flow with the policies of the prefixes it lies in, and with none of all the others.
func TestLookupLooksAtFewPolicies(t *testing.T) {
	t.Parallel()
	for _, n := range []int{10, 100_000} {
		p, flows, _ := manyPeers(t, n)
		s := p.spd.Load()
		for _, i := range []int{0, n / 2, n - 1} {
			at := 0
			for _, table := range s.remote.Supernets(netip.PrefixFrom(flows[i].Dst, 32)) {
				for _, o := range table.Supernets(netip.PrefixFrom(flows[i].Src, 32)) {
					at += len(o)
				}
			}
			if at != 1 || len(s.wide) != 0 {
				t.Errorf("%d policies: %d are candidates, and %d for every flow", n, at, len(s.wide))
			}
			if e := s.lookup(&flows[i]); e == nil || e.config.ID != policy.PolicyID(i+1) {
				t.Errorf("%d policies: flow %d found %v", n, i, e)
			}
		}
	}
}
