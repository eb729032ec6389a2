package v2_test

import (
	"net/netip"
	"testing"
	"time"

	"coati/ike"
	"coati/ike/wire"
	"coati/policy"
)

func always(l *ike.Limits) { l.HalfOpenCookie = 0 }

// cookie asks for one.
func (p *puppet) cookie(t *testing.T) []byte {
	t.Helper()
	sends := p.give(p.first(p.keyExchange()))
	if len(sends) != 1 {
		t.Fatalf("%d answers", len(sends))
	}
	no := wire.FindNotify(p.parse(sends[0].Bytes).Payloads, wire.NotifyCookie)
	if no == nil {
		t.Fatal("no cookie is demanded")
	}
	return no.Data
}

// accepted says whether a first request with this cookie makes an SA; otherwise another cookie must be demanded.
func (p *puppet) accepted(t *testing.T, cookie []byte) bool {
	t.Helper()
	sends := p.give(p.first(p.keyExchange(), &wire.Notify{Type: wire.NotifyCookie, Data: cookie}))
	if len(sends) != 1 {
		t.Fatalf("%d answers", len(sends))
	}
	m := p.parse(sends[0].Bytes)
	if wire.FindNotify(m.Payloads, wire.NotifyCookie) != nil {
		return false
	}
	return m.ResponderSPI != 0
}

func TestACookieProvesItsAddressForAWhile(t *testing.T) {
	t.Parallel()
	life := ike.DefaultLimits().CookieLife
	for _, c := range []struct {
		name string
		do   func(b *bench, p *puppet, cookie []byte) []byte
		want bool
	}{
		{"at once", func(_ *bench, _ *puppet, c []byte) []byte { return c }, true},
		{"after one rotation", func(b *bench, _ *puppet, c []byte) []byte { b.now = b.now.Add(life + time.Second); return c }, true},
		{"after two rotations", func(b *bench, p *puppet, c []byte) []byte {
			b.now = b.now.Add(life + time.Second)
			p.cookie(t)
			b.now = b.now.Add(life + time.Second)
			return c
		}, false},
		{"after a long pause", func(b *bench, _ *puppet, c []byte) []byte { b.now = b.now.Add(10 * life); return c }, false},
		{"one bit changed", func(_ *bench, _ *puppet, c []byte) []byte { c[9] ^= 1; return c }, false},
		{"another version", func(_ *bench, _ *puppet, c []byte) []byte { c[0]++; return c }, false},
		{"cut short", func(_ *bench, _ *puppet, c []byte) []byte { return c[:16] }, false},
		{"longer", func(_ *bench, _ *puppet, c []byte) []byte { return append(c, 0) }, false},
		{"from another address", func(_ *bench, p *puppet, c []byte) []byte {
			p.path.Remote = netip.MustParseAddrPort("192.0.2.77:500")
			return c
		}, false},
		{"from another port", func(_ *bench, p *puppet, c []byte) []byte {
			p.path.Remote = netip.AddrPortFrom(p.path.Remote.Addr(), 501)
			return c
		}, false},
		{"for another SPI", func(_ *bench, p *puppet, c []byte) []byte { p.spiI++; return c }, false},
		{"for another nonce", func(_ *bench, p *puppet, c []byte) []byte { p.ni[3]++; return c }, false},
	} {
		b := newBench(t, always, tunnel(), tunnel(func(tt *policy.PeerTunnel) { tt.Name, tt.Remote = "any", netip.Addr{} }))
		p := newPuppet(b)
		if got := p.accepted(t, c.do(b, p, p.cookie(t))); got != c.want {
			t.Errorf("%s: accepted %v", c.name, got)
		}
		b.sound()
	}
}

func TestAnEngineThatNeverBakedTakesNoCookie(t *testing.T) {
	t.Parallel()
	b := newBench(t, always, tunnel())
	if newPuppet(b).accepted(t, make([]byte, 17)) {
		t.Error("a cookie of zeros was taken")
	}
}
