package tun

import (
	"net/netip"
	"testing"
)

// unreachable4 is a port unreachable from 192.0.2.2 about our datagram to its port 500.
var unreachable4 = []byte{
	0x45, 0, 0, 56, 0, 0, 0, 0, 64, 1, 0, 0, 192, 0, 2, 2, 192, 0, 2, 1,
	3, 3, 0, 0, 0, 0, 0, 0,
	0x45, 0, 0, 200, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
	1, 0xf4, 1, 0xf4, 0, 180, 0, 0,
}

// unreachable6 is the same without its outer header, as raw IPv6 sockets give it.
var unreachable6 = append([]byte{
	1, 3, 0, 0, 0, 0, 0, 0,
	0x60, 0, 0, 0, 0, 180, 17, 64,
	0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
	0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2,
}, 0x11, 0x94, 0x11, 0x94, 0, 180, 0, 0)

func TestUnreachableNamesTheDatagram(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		b    []byte
		v6   bool
		want Unreachable
	}{
		{unreachable4, false, Unreachable{netip.MustParseAddrPort("192.0.2.1:500"), netip.MustParseAddrPort("192.0.2.2:500"), "port unreachable"}},
		{unreachable6, true, Unreachable{netip.MustParseAddrPort("[2001:db8::1]:4500"), netip.MustParseAddrPort("[2001:db8::2]:4500"), "host unreachable"}},
	} {
		if got, ok := parseUnreachable(c.b, c.v6); !ok || got != c.want {
			t.Errorf("%v, %v, want %v", got, ok, c.want)
		}
		for n := range len(c.b) {
			if _, ok := parseUnreachable(c.b[:n], c.v6); ok {
				t.Errorf("the first %d of %d octets were enough", n, len(c.b))
			}
		}
	}
	if u, ok := parseUnreachable(tooBig4udp, false); ok {
		t.Errorf("fragmentation needed is taken for %v", u)
	}
}

// Errors about the size of an ESP packet, in UDP and not, in IPv4 and IPv6.
var (
	tooBig4 = append([]byte{
		0x45, 0, 0, 56, 0, 0, 0, 0, 64, 1, 0, 0, 198, 51, 100, 7, 192, 0, 2, 1,
		3, 4, 0, 0, 0, 0, 1300 >> 8, 1300 & 0xff,
		0x45, 0, 5, 200, 0, 0, 0x40, 0, 64, 50, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
	}, 0xc0, 1, 2, 3, 0, 0, 1, 0)
	tooBig4udp = append([]byte{
		0x45, 0, 0, 56, 0, 0, 0, 0, 64, 1, 0, 0, 198, 51, 100, 7, 192, 0, 2, 1,
		3, 4, 0, 0, 0, 0, 1300 >> 8, 1300 & 0xff,
		0x45, 0, 5, 200, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
		0x11, 0x94, 0x11, 0x95, 0, 180, 0, 0,
	}, 0xc0, 1, 2, 3, 0, 0, 1, 0)
	quoted6 = func(proto byte) []byte {
		return []byte{
			2, 0, 0, 0, 0, 0, 1300 >> 8, 1300 & 0xff,
			0x60, 0, 0, 0, 5, 180, proto, 64,
			0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
			0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2,
		}
	}
	tooBig6    = append(quoted6(50), 0xc0, 1, 2, 3, 0, 0, 1, 0)
	tooBig6udp = append(quoted6(17), 0x11, 0x94, 0x11, 0x95, 0, 180, 0, 0, 0xc0, 1, 2, 3, 0, 0, 1, 0)
)

func TestTooBigNamesThePacket(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		b    []byte
		v6   bool
		want TooBig
	}{
		{tooBig4, false, TooBig{netip.MustParseAddrPort("192.0.2.1:0"), netip.MustParseAddrPort("192.0.2.2:0"), false, 0xc0010203, 256, 1300}},
		{tooBig4udp, false, TooBig{netip.MustParseAddrPort("192.0.2.1:4500"), netip.MustParseAddrPort("192.0.2.2:4501"), true, 0xc0010203, 256, 1300}},
		{tooBig6, true, TooBig{netip.MustParseAddrPort("[2001:db8::1]:0"), netip.MustParseAddrPort("[2001:db8::2]:0"), false, 0xc0010203, 256, 1300}},
		{tooBig6udp, true, TooBig{netip.MustParseAddrPort("[2001:db8::1]:4500"), netip.MustParseAddrPort("[2001:db8::2]:4501"), true, 0xc0010203, 256, 1300}},
	} {
		if got, ok := parseTooBig(c.b, c.v6); !ok || got != c.want {
			t.Errorf("%+v, %v, want %+v", got, ok, c.want)
		}
		for n := range len(c.b) {
			if _, ok := parseTooBig(c.b[:n], c.v6); ok {
				t.Errorf("the first %d of %d octets were enough", n, len(c.b))
			}
		}
		// IKE has a marker of zeros in the place of an SPI (RFC 3948, section 2.2).
		ike := append([]byte(nil), c.b...)
		clear(ike[len(ike)-8 : len(ike)-4])
		if _, ok := parseTooBig(ike, c.v6); ok {
			t.Error("an IKE message is taken for ESP")
		}
	}
	later := append([]byte(nil), tooBig4...)
	later[28+7] = 9
	if _, ok := parseTooBig(later, false); ok {
		t.Error("a fragment after the first is taken for one that shows its SPI")
	}
}

func FuzzParseTooBig(f *testing.F) {
	for _, b := range [][]byte{tooBig4, tooBig4udp, unreachable4} {
		f.Add(b, false)
	}
	for _, b := range [][]byte{tooBig6, tooBig6udp, unreachable6} {
		f.Add(b, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, v6 bool) {
		got, ok := parseTooBig(b, v6)
		if ok && (got.SPI == 0 || got.MTU < 0 || got.Local.Addr().Is6() != v6 || got.Remote.Addr().Is6() != v6) {
			t.Errorf("%+v", got)
		}
		if _, both := parseUnreachable(b, v6); ok && both {
			t.Error("one error is taken for two")
		}
	})
}

func FuzzParseUnreachable(f *testing.F) {
	f.Add(unreachable4, false)
	f.Add(unreachable6, true)
	f.Fuzz(func(t *testing.T, b []byte, v6 bool) {
		if u, ok := parseUnreachable(b, v6); ok && (u.What == "" || !u.Local.IsValid() || u.Local.Addr().Is6() != v6) {
			t.Errorf("%v", u)
		}
	})
}
