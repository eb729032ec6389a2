package esp

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"coati/policy"
)

// newlyAgreed is two hosts of which a has its SA to b, and b has only reserved the SPI: tx is what b will apply.
func newlyAgreed(t *testing.T, l link) (a, b *host, tx policy.Tx) {
	t.Helper()
	a, b = newHost(nil), newHost(nil)
	spi, err := b.AllocSPI(policy.ProtocolESP)
	if err != nil {
		t.Fatal(err)
	}
	out, in := l.outbound(), l.inbound()
	out.SPI, in.SPI = spi, spi
	if err := a.Apply(policy.Tx{PutPolicies: []policy.Policy{protectPolicy()}, AddSAs: []policy.SA{out}}); err != nil {
		t.Fatal(err)
	}
	return a, b, policy.Tx{AddSAs: []policy.SA{in}}
}

func (h *host) mustApply(t testing.TB, tx policy.Tx) {
	t.Helper()
	if err := h.Apply(tx); err != nil {
		t.Fatal(err)
	}
}

// carryOver is carry with a receive buffer that is used again at once.
func carryOver(a, b *host) {
	for _, s := range a.net.take() {
		b.in.Receive([]Datagrams{{Buf: s.buf, SegSize: s.stride, From: s.path.Local, Local: s.path.Remote, TOS: s.tos, Encap: s.path.Encap}})
		for i := range s.buf {
			s.buf[i] = 0xaa
		}
	}
}

func TestPacketsBeforeTheirSAWait(t *testing.T) {
	for _, l := range links {
		t.Run(l.String(), func(t *testing.T) {
			a, b, tx := newlyAgreed(t, l)
			var want [][]byte
			send := func(s segment) {
				f := s.frame()
				want = append(want, unfold(t, f)...)
				a.out.Process(f)
				carryOver(a, b)
			}
			send(segment{seq: 1, flags: 2, sport: 7})
			send(segment{seq: 2, sport: 7, payload: filled(9000, 1), gso: 1398})
			send(segment{udp: true, sport: 8, payload: filled(30, 2)})
			if f := b.tap.take(); len(f) > 0 {
				t.Fatalf("%d frames came out of an SA that is not there", len(f))
			}
			if d := b.Counters().Drops; len(d) > 0 {
				t.Fatalf("drops %v", d)
			}
			b.mustApply(t, tx)
			if f := b.tap.take(); len(f) != 3 {
				t.Errorf("%d frames when the SA came, want 3: joined as if they had come now", len(f))
			} else {
				b.tap.frames = f
			}
			send(segment{seq: 9002, sport: 7, payload: filled(10, 3)})
			if d := cmp.Diff(byFlow(t, want), byFlow(t, unfoldAll(t, b.tap.take()))); d != "" {
				t.Errorf("packets changed on the way (-sent +received):\n%.2000s", d)
			}
			if ev := b.event(t); ev.Kind != policy.PlaneUsed {
				t.Errorf("event %v, want used", ev.Kind)
			}
			s, err := b.State(tx.AddSAs[0].ID)
			if err != nil || s.Packets != uint64(len(want)) || s.LastAuthenticated.IsZero() {
				t.Errorf("state %+v, %v: want %d packets", s, err, len(want))
			}
		})
	}
}

// The second of two equal early packets is a replay, and a forged one does not authenticate: they are judged when the SA
// comes, like any other.
func TestEarlyPacketsAreJudgedLikeOthers(t *testing.T) {
	a, b, tx := newlyAgreed(t, gcm128)
	a.out.Process(segment{sport: 1}.frame())
	p := a.net.packets()[0]
	forged := slices.Clone(p)
	forged[len(forged)-1] ^= 1
	for _, one := range [][]byte{forged, p, p} {
		b.in.Receive([]Datagrams{{Buf: slices.Clone(one), Encap: policy.EncapUDP}})
	}
	b.mustApply(t, tx)
	if n := len(b.tap.take()); n != 1 {
		t.Errorf("%d packets delivered, want 1", n)
	}
	if b.drops(DropAuthentication) != 1 || b.drops(DropReplay) != 1 {
		t.Errorf("drops %v", b.Counters().Drops)
	}
}

func TestEarlyPacketsAreBounded(t *testing.T) {
	early := func(h *host, spi policy.SPI, n, octets int) {
		p := make([]byte, octets)
		p[0], p[1], p[2], p[3] = byte(spi>>24), byte(spi>>16), byte(spi>>8), byte(spi)
		for range n {
			h.in.Receive([]Datagrams{{Buf: p, Encap: policy.EncapRaw}})
		}
	}
	reserve := func(h *host) policy.SPI { return must(h.AllocSPI(policy.ProtocolESP)) }
	full := func(t *testing.T, h *host, want uint64) {
		t.Helper()
		if got := h.drops(DropEarlyFull); got != want {
			t.Errorf("%d dropped because too many waited, want %d", got, want)
		}
	}
	t.Run("packets of one spi", func(t *testing.T) {
		h := newHost(nil)
		early(h, reserve(h), larvalPackets+5, 100)
		full(t, h, 5)
	})
	t.Run("octets of one spi", func(t *testing.T) {
		h := newHost(nil)
		early(h, reserve(h), 10, larvalOctets/8)
		full(t, h, 2)
	})
	t.Run("octets of all, and what is given back is free again", func(t *testing.T) {
		h := newHost(nil)
		var spis []policy.SPI
		for range larvalTotal / larvalOctets {
			spis = append(spis, reserve(h))
			early(h, spis[len(spis)-1], 8, larvalOctets/8)
		}
		full(t, h, 0)
		one := reserve(h)
		early(h, one, 1, 100)
		full(t, h, 1)
		h.FreeSPI(policy.ProtocolESP, spis[0])
		if got := h.drops(DropEarly); got != 8 {
			t.Errorf("%d dropped with the spi, want 8", got)
		}
		early(h, one, 8, 10000)
		full(t, h, 1)
		for _, spi := range append(spis, one) {
			h.FreeSPI(policy.ProtocolESP, spi)
		}
		if h.larval.octets != 0 || len(h.larval.spis) != 0 || h.larval.reserved.Load() != 0 {
			t.Errorf("something is left: %d octets, %d spis", h.larval.octets, len(h.larval.spis))
		}
		early(h, one, 3, 100)
		if got := h.drops(DropUnknownSPI); got != 3 {
			t.Errorf("%d unknown, want 3", got)
		}
	})
	t.Run("an spi nobody reserved", func(t *testing.T) {
		h := newHost(nil)
		spi := reserve(h)
		early(h, spi^1, 3, 100)
		if got := h.drops(DropUnknownSPI); got != 3 {
			t.Errorf("%d unknown, want 3", got)
		}
	})
	t.Run("time", func(t *testing.T) {
		h := newHost(nil)
		spi := reserve(h)
		early(h, spi, 2, 100)
		h.Tick(start.Add(larvalPatience))
		early(h, spi, 3, 100)
		h.Tick(start.Add(larvalPatience + 1))
		if got := h.drops(DropEarly); got != 2 {
			t.Errorf("%d dropped, want the 2 that waited too long", got)
		}
		h.FreeSPI(policy.ProtocolESP, spi)
		if got := h.drops(DropEarly); got != 5 {
			t.Errorf("%d dropped, want 5", got)
		}
	})
}

// The SA comes while its packets arrive: each is delivered, and in order, whether it waited or not.
func TestSAComesBetweenItsPackets(t *testing.T) {
	for round := range 50 {
		a, b, tx := newlyAgreed(t, gcm128)
		var want []string
		for n := range larvalPackets {
			f := segment{udp: true, sport: 5, payload: fmt.Appendf(nil, "%d", n)}.frame()
			want = append(want, string(unfold(t, f)[0]))
			a.out.Process(f)
		}
		arrived, applied := make(chan struct{}, larvalPackets), make(chan error)
		go func() {
			for range round {
				<-arrived
			}
			applied <- b.Apply(tx)
		}()
		for _, p := range a.net.packets() {
			b.in.Receive([]Datagrams{{Buf: p, Encap: policy.EncapUDP}})
			arrived <- struct{}{}
		}
		if err := <-applied; err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range unfoldAll(t, b.tap.take()) {
			got = append(got, string(p))
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("round %d (-sent +received):\n%.1000s\ndrops %v", round, d, b.Counters().Drops)
		}
	}
}
