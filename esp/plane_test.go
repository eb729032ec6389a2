package esp

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"coati/packet"
	"coati/policy"
	"coati/policy/planetest"
)

func TestConformance(t *testing.T) {
	planetest.Run(t, func(testing.TB) policy.Plane { return New(Config{Egress: sink{}, Frames: sink{}}) })
}

func TestLifetimes(t *testing.T) {
	for name, c := range map[string]struct {
		life policy.Lifetime
		soft int // packets sent until the event
		hard int
	}{
		"packets": {policy.Lifetime{SoftPackets: 3, HardPackets: 5}, 3, 5},
		"octets":  {policy.Lifetime{SoftOctets: 400, HardOctets: 800}, 4, 8},
	} {
		t.Run(name, func(t *testing.T) {
			l := gcm128
			l.lifetime = c.life
			a, b := connect(t, l, nil)
			for n := 1; n <= c.hard+2; n++ {
				a.out.Process(segment{sport: 1, payload: filled(60, 1)}.frame())
				switch n {
				case c.soft:
					if ev := a.event(t); ev.Kind != policy.PlaneExpireSoft || ev.SA != 1 {
						t.Errorf("packet %d: %v", n, ev.Kind)
					}
				case c.hard:
					if ev := a.event(t); ev.Kind != policy.PlaneExpireHard {
						t.Errorf("packet %d: %v", n, ev.Kind)
					}
				case c.hard + 1:
					if ev := a.event(t); ev.Kind != policy.PlaneAcquire {
						t.Errorf("packet %d, after the end: %v", n, ev.Kind)
					}
				}
				a.noEvent(t)
			}
			if sent := len(a.net.packets()); sent != c.hard {
				t.Errorf("%d packets left, want %d", sent, c.hard)
			}
			_ = b
		})
	}
	t.Run("time", func(t *testing.T) {
		l := gcm128
		l.lifetime = policy.Lifetime{SoftTime: time.Minute, HardTime: time.Hour}
		a, _ := connect(t, l, nil)
		a.Tick(start.Add(59 * time.Second))
		a.noEvent(t)
		a.Tick(start.Add(60 * time.Second))
		if ev := a.event(t); ev.Kind != policy.PlaneExpireSoft {
			t.Error(ev.Kind)
		}
		a.Tick(start.Add(61 * time.Second))
		a.noEvent(t)
		a.Tick(start.Add(time.Hour))
		if ev := a.event(t); ev.Kind != policy.PlaneExpireHard {
			t.Error(ev.Kind)
		}
	})
}

// Without extended numbers the last is 2^32-1, with them 2^64-1. None is used twice.
func TestSequenceNumbersEnd(t *testing.T) {
	for _, esn := range []bool{false, true} {
		a, _ := connect(t, link{enc: "aes128gcm16", esn: esn}, nil)
		sa := a.Plane.out[1]
		sa.reserved.Store(sa.limit - 3)
		sa.turn.passed.Store(sa.limit - 3)
		a.out.Process(segment{payload: filled(7000, 1), gso: 1400}.frame())
		pkts := a.net.packets()
		if len(pkts) != 3 || packet.ESP(pkts[2]).Sequence() != 0xffffffff {
			t.Errorf("esn %v: %d packets left, want the last 3 numbers", esn, len(pkts))
		}
		if a.drops(DropExhausted) != 2 {
			t.Errorf("esn %v: drops %v", esn, a.Counters().Drops)
		}
		if ev := a.event(t); ev.Kind != policy.PlaneExpireSoft {
			t.Errorf("esn %v: event %v", esn, ev.Kind)
		}
		if ev := a.event(t); ev.Kind != policy.PlaneExpireHard {
			t.Errorf("esn %v: event %v", esn, ev.Kind)
		}
		a.out.Process(numbered(1))
		if len(a.net.packets()) != 0 {
			t.Errorf("esn %v: a number beyond the last", esn)
		}
	}
}

// Long before that a successor is asked for, once, also without any lifetime.
func TestSuccessorIsAskedForBeforeNumbersEnd(t *testing.T) {
	a, _ := connect(t, gcm128, nil)
	sa := a.Plane.out[1]
	const almost = 1<<32 - 1<<28 - 3
	sa.reserved.Store(almost)
	sa.turn.passed.Store(almost)
	a.out.Process(numbered(1))
	a.noEvent(t)
	for range 5 {
		a.out.Process(numbered(1))
	}
	if ev := a.event(t); ev.Kind != policy.PlaneExpireSoft || ev.SA != 1 {
		t.Errorf("event %v", ev.Kind)
	}
	a.noEvent(t)
}

func TestStandbyCarriesNothingUntilActivated(t *testing.T) {
	a, _ := connect(t, gcm128, nil)
	next := link{enc: "aes128gcm16", id: 1, standby: true}
	if err := a.Apply(policy.Tx{AddSAs: []policy.SA{next.outbound()}}); err != nil {
		t.Fatal(err)
	}
	spi := func() uint32 {
		a.out.Process(numbered(1))
		return packet.ESP(a.net.packets()[0]).SPI()
	}
	if got := spi(); got != 0x1000 {
		t.Errorf("sent on %#x before activation", got)
	}
	if err := a.Apply(policy.Tx{UpdateSAs: []policy.SAUpdate{{ID: 2, Activate: true}}}); err != nil {
		t.Fatal(err)
	}
	if got := spi(); got != 0x1001 {
		t.Errorf("sent on %#x after activation", got)
	}
	if err := a.Apply(policy.Tx{DeleteSAs: []policy.SAID{2}}); err != nil {
		t.Fatal(err)
	}
	if got := spi(); got != 0x1000 {
		t.Errorf("sent on %#x after its successor went", got)
	}
}

// A rekey's initiator shows the responder that the new SA works, if no packet does.
func TestNewSAIsShownWithADummy(t *testing.T) {
	for _, l := range []link{{enc: "aes128gcm16", id: 1}, {enc: "aes256", integ: "sha256", id: 1, esn: true}} {
		a, b := connect(t, gcm128, nil)
		if err := b.Apply(policyTx(l)); err != nil {
			t.Fatal(err)
		}
		if err := a.Apply(policy.Tx{AddSAs: []policy.SA{l.outbound()}}); err != nil {
			t.Fatal(err)
		}
		carry(a, b)
		if ev := b.event(t); ev.Kind != policy.PlaneUsed || ev.SA != 2 {
			t.Errorf("event %v, sa %d", ev.Kind, ev.SA)
		}
		if b.drops(DropDummy) != 1 || len(b.tap.take()) != 0 {
			t.Errorf("drops %v", b.Counters().Drops)
		}
	}
}

func TestMappingIsToldAfterAuthentication(t *testing.T) {
	a, b := connect(t, gcm128, nil)
	elsewhere := netip.MustParseAddrPort("198.51.100.9:1024")
	b.in.Receive([]Datagrams{{Buf: append([]byte{0, 0, 0x10, 0, 0, 0, 0, 1}, make([]byte, 40)...), From: elsewhere, Encap: policy.EncapUDP}})
	b.noEvent(t)
	for range 3 {
		a.out.Process(numbered(1))
	}
	for _, p := range a.net.packets() {
		b.in.Receive([]Datagrams{{Buf: p, From: elsewhere, Encap: policy.EncapUDP}})
	}
	if ev := b.event(t); ev.Kind != policy.PlaneUsed {
		t.Errorf("event %v", ev.Kind)
	}
	if ev := b.event(t); ev.Kind != policy.PlaneMapping || ev.Remote != elsewhere || ev.SA != 1 {
		t.Errorf("event %v %v", ev.Kind, ev.Remote)
	}
	b.noEvent(t)
}

// If the reader of events sleeps, what matters is told later.
func TestLostEventsAreRepeated(t *testing.T) {
	l := gcm128
	l.lifetime = policy.Lifetime{SoftPackets: 1}
	a, _ := connect(t, l, nil)
	for range eventBuffer {
		a.emit(policy.PlaneEvent{Kind: policy.PlaneUsed})
	}
	a.out.Process(numbered(1))
	for range eventBuffer {
		a.event(t)
	}
	a.noEvent(t)
	a.Tick(start.Add(time.Second))
	if ev := a.event(t); ev.Kind != policy.PlaneExpireSoft {
		t.Errorf("event %v", ev.Kind)
	}
	if a.Counters().EventsLost != 1 {
		t.Errorf("%d events lost", a.Counters().EventsLost)
	}
}

func TestStateCounts(t *testing.T) {
	a, b := connect(t, gcm128, nil)
	a.Tick(start.Add(10 * time.Second))
	b.Tick(start.Add(20 * time.Second))
	a.out.Process(segment{payload: filled(2800, 1), gso: 1400}.frame())
	carry(a, b)
	out, _ := a.State(1)
	in, _ := b.State(1)
	if out.Packets != 2 || out.Octets != 2880 || out.Sequence != 2 || !out.LastUsed.Equal(start.Add(10*time.Second)) {
		t.Errorf("outbound %+v", out)
	}
	if in.Packets != 2 || in.Octets != 2880 || in.Sequence != 2 || !in.LastAuthenticated.Equal(start.Add(20*time.Second)) {
		t.Errorf("inbound %+v", in)
	}
}

func TestApplyRefusesWithAReason(t *testing.T) {
	sa := func(change func(*policy.SA)) policy.Tx {
		s := gcm128.inbound()
		s.ID, s.SPI = 50, 0x5000
		change(&s)
		return policy.Tx{AddSAs: []policy.SA{s}}
	}
	for name, tx := range map[string]policy.Tx{
		"tfc below -1":       sa(func(s *policy.SA) { s.TFC = -2 }),
		"reserved spi":       sa(func(s *policy.SA) { s.SPI = 255 }),
		"small window":       sa(func(s *policy.SA) { s.ReplayWindow = 31 }),
		"large window":       sa(func(s *policy.SA) { s.ReplayWindow = 65537 }),
		"esn without window": sa(func(s *policy.SA) { s.ReplayWindow, s.ESN = 0, true }),
		"short key":          sa(func(s *policy.SA) { s.EncryptionKey = key(16, 1) }),
		"two integrities":    sa(func(s *policy.SA) { s.Integrity = policy.LookupKeyword("sha256").Transform() }),
		"cbc alone":          sa(func(s *policy.SA) { s.Encryption = policy.LookupKeyword("aes128").Transform() }),
		"unknown cipher":     sa(func(s *policy.SA) { s.Encryption.ID = 999 }),
		"no selectors":       sa(func(s *policy.SA) { s.Local = nil }),
		"policy without end": {PutPolicies: []policy.Policy{{ID: 9, Local: netA}}},
		"unknown update":     {UpdateSAs: []policy.SAUpdate{{ID: 77}}},
	} {
		b := newHost(nil)
		if err := b.Apply(tx); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// The policy that comes first decides, however the table is laid out.
func TestLookupAgreesWithAListInOrder(t *testing.T) {
	addrs := []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3", "0.0.0.0/0", "10.1.0.5-10.1.7.9", "fd00::/8", "::/0", "fd01::1-fd01::ffff:3"}
	rapid.Check(t, func(t *rapid.T) {
		var all []*spdEntry
		table := newSPD()
		draw := func(name string) []policy.Selector {
			var out []policy.Selector
			for range rapid.IntRange(1, 2).Draw(t, name+"s") {
				s := selectors(rapid.SampledFrom(addrs).Draw(t, name))[0]
				if rapid.Bool().Draw(t, "ports") {
					s.Protocol, s.StartPort, s.EndPort = 6, 80, 90
				}
				out = append(out, s)
			}
			return out
		}
		for id := range rapid.IntRange(1, 90).Draw(t, "policies") {
			e := &spdEntry{config: policy.Policy{ID: policy.PolicyID(id), Priority: rapid.Int32Range(0, 3).Draw(t, "priority"), Local: draw("local"), Remote: draw("remote")}}
			all = append(all, e)
		}
		for rest := all; len(rest) > 0; {
			n := min(len(rest), rapid.SampledFrom([]int{1, 5, manyPolicies}).Draw(t, "at once"))
			table, rest = table.change(nil, rest[:n]), rest[n:]
		}
		before, had := table, slices.Clone(all)
		if n := rapid.IntRange(0, len(all)).Draw(t, "remove"); n > 0 {
			gone := rapid.Permutation(all).Draw(t, "gone")[:n]
			fresh := all[:0:0]
			for _, e := range gone[:n/2] {
				fresh = append(fresh, &spdEntry{config: e.config})
			}
			table = table.change(gone, fresh)
			all = append(slices.DeleteFunc(all, func(e *spdEntry) bool { return slices.Contains(gone, e) }), fresh...)
		}
		for range 20 {
			a := []string{"10.1.2.3", "10.1.0.6", "10.9.9.9", "192.0.2.1", "fd01::1", "fd02::1"}
			f := policy.Flow{
				Src: netip.MustParseAddr(rapid.SampledFrom(a).Draw(t, "src")), Dst: netip.MustParseAddr(rapid.SampledFrom(a).Draw(t, "dst")),
				Protocol: 6, SrcPort: rapid.Uint16Range(79, 91).Draw(t, "port"), DstPort: 85, HasPorts: true,
			}
			if f.Src.Is4() != f.Dst.Is4() {
				continue
			}
			if got, want := table.lookup(&f), firstOf(all, f); got != want {
				t.Fatalf("%v: got %v, want %v", f, got, want)
			}
			if got, want := before.lookup(&f), firstOf(had, f); got != want {
				t.Fatalf("%v: the snapshot before the change: got %v, want %v", f, got, want)
			}
		}
	})
}

// firstOf asks policy by policy.
func firstOf(all []*spdEntry, f policy.Flow) (first *spdEntry) {
	for _, e := range all {
		if policy.MatchFlow(e.config.Local, e.config.Remote, f, true) && (first == nil || e.before(first) < 0) {
			first = e
		}
	}
	return first
}

func hostPolicies(n int) []policy.Policy {
	out := make([]policy.Policy, n)
	for i := range out {
		remote := netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
		out[i] = policy.Policy{
			ID: policy.PolicyID(i + 10), Direction: policy.Outbound, Action: policy.Protect, ReqID: uint32(i + 10),
			Local: netA[:1], Remote: []policy.Selector{policy.PrefixSelector(remote)},
		}
	}
	return out
}

func BenchmarkPutPolicies(b *testing.B) {
	all := hostPolicies(100000)
	for b.Loop() {
		if err := New(Config{Egress: sink{}}).Apply(policy.Tx{PutPolicies: all}); err != nil {
			b.Fatal(err)
		}
	}
}

func TestSPIsAreFreshAndOutOfTheReservedRange(t *testing.T) {
	p := New(Config{Egress: sink{}})
	seen := map[policy.SPI]bool{}
	for range 2000 {
		spi, err := p.AllocSPI(policy.ProtocolESP)
		if err != nil || spi < 256 || seen[spi] {
			t.Fatal(spi, err)
		}
		seen[spi] = true
	}
	if _, err := p.AllocSPI(policy.ProtocolIKE); !errors.Is(err, errProtocol) {
		t.Error(err)
	}
}
