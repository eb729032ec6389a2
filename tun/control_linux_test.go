package tun

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzParseControl starts from what sendControl writes: both sides agree on the layout.
func FuzzParseControl(f *testing.F) {
	for _, from := range []netip.Addr{here4, here6} {
		var c sendControl
		c.init(from.Is6())
		c.set(from.Is6(), from, 0xb8)
		c.setSegment(1400)
		f.Add(c.buf[:c.fullLen])
		f.Add(c.buf[:c.plainLen-3])
	}
	huge := make([]byte, 32)
	binary.NativeEndian.PutUint64(huge, 1<<63)
	f.Add(huge)
	f.Fuzz(func(t *testing.T, b []byte) {
		room := make([]byte, 64)
		r := parseControl(b, room[:48], false)
		if r.segSize < 0 || r.hasLocal != r.local.IsValid() || len(r.front.Octets) > 48 || !bytes.Equal(room[48:], make([]byte, 16)) {
			t.Errorf("%+v", r)
		}
	})
}

func TestControlRoundTrip(t *testing.T) {
	t.Parallel()
	for _, from := range []netip.Addr{here4, here6} {
		var c sendControl
		c.init(from.Is6())
		c.set(from.Is6(), from, 0xb9)
		got := parseControl(c.buf[:c.plainLen], nil, false)
		if want := (received{local: from, tos: 0xb9, hasLocal: true}); !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

func TestSockaddrRoundTrip(t *testing.T) {
	t.Parallel()
	for _, a := range []string{"192.0.2.1:4500", "[2001:db8::1]:500", "[fe80::1%7]:500"} {
		var s sockaddr
		want := netip.MustParseAddrPort(a)
		s.put(want.Addr().Is6(), want)
		if got := s.get(); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	var unknown sockaddr
	binary.NativeEndian.PutUint16(unknown[:], unix.AF_UNIX)
	if got := unknown.get(); got.IsValid() {
		t.Errorf("an address of another family became %v", got)
	}
}
