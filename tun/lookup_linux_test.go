package tun

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What the library for netlink reads of the same answers is what we read: source, interface and MTU of routes, and why there
// is none.
func TestALookUpAgreesWithTheNetlinkLibrary(t *testing.T) {
	here := enterNamespace(t)
	here.connect(t, here.another(t))
	link, err := netlink.LinkByName("up0")
	ok(t, err)
	ok(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("198.51.100.0/24")), MTU: 1380, Gw: there4.AsSlice()}))
	ok(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("2001:db8:1::/64")), MTU: 1400, Gw: there6.AsSlice()}))
	ok(t, netlink.RouteAdd(&netlink.Route{Type: unix.RTN_PROHIBIT, Dst: ipNet(netip.MustParsePrefix("203.0.113.0/24"))}))
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	ok(t, err)
	defer nl.Close()
	l, err := openLookup()
	ok(t, err)
	defer func() { ok(t, l.close()) }()
	for _, to := range []string{"192.0.2.2", "192.0.2.1", "198.51.100.9", "203.0.113.1", "2001:db8::2", "2001:db8:1::7", "100.64.0.1", "::ffff:198.51.100.9"} {
		for _, configured := range []bool{false, true} {
			dst := netip.MustParseAddr(to)
			got, gotErr := l.route(dst, DefaultMark, configured)
			theirs, wantErr := nl.RouteGetWithOptions(dst.AsSlice(), &netlink.RouteGetOptions{Mark: DefaultMark, FIBMatch: configured})
			if gotErr != nil || wantErr != nil {
				if gotErr != wantErr {
					t.Errorf("%s, configured %v: %v, the library says %v", to, configured, gotErr, wantErr)
				}
				continue
			}
			src, _ := netip.AddrFromSlice(theirs[0].Src)
			if want := (route{src.Unmap(), theirs[0].LinkIndex, theirs[0].MTU}); got != want {
				t.Errorf("%s, configured %v: %+v, the library says %+v", to, configured, got, want)
			}
		}
	}
	if got, err := l.link(link.Attrs().Index); err != nil || got.name != "up0" || got.mtu != link.Attrs().MTU {
		t.Errorf("up0 is %+v, %v", got, err)
	}
	if got, err := l.link(4711); err == nil {
		t.Errorf("interface 4711 is %+v", got)
	}
}

// A message that was cut, or is of another kind, is an error or not ours, and never read past its end.
func TestACutAnswerIsNotRead(t *testing.T) {
	t.Parallel()
	e := binary.NativeEndian
	b := e.AppendUint32(nil, 0)
	b = e.AppendUint16(b, unix.RTM_NEWROUTE)
	b = append(b, make([]byte, 10+rtmsgLen)...)
	e.PutUint32(b[8:], 7)
	for _, a := range [][]byte{{8, 0, unix.RTA_OIF, 0, 3, 0, 0, 0}, {8, 0, unix.RTA_PREFSRC, 0, 192, 0, 2, 1}, {12, 0, unix.RTA_METRICS, 0, 8, 0, unix.RTAX_MTU, 0, 100, 5, 0, 0}} {
		b = append(b, a...)
	}
	e.PutUint32(b, uint32(len(b)))
	if r, ours, err := parseRoute(b, 7); !ours || err != nil || r != (route{netip.MustParseAddr("192.0.2.1"), 3, 1380}) {
		t.Fatalf("%+v %v %v", r, ours, err)
	}
	if _, ours, _ := parseRoute(b, 8); ours {
		t.Error("the answer to another question is taken")
	}
	for n := range b {
		if _, ours, err := parseRoute(b[:n:n], 7); ours && err == nil {
			t.Errorf("%d of %d octets are an answer", n, len(b))
		}
		cut := append([]byte(nil), b[:n]...)
		if n >= unix.SizeofNlMsghdr {
			e.PutUint32(cut, uint32(n))
		}
		_, _, _ = parseRoute(cut[:n:n], 7) // whatever it says, it does not panic
		for _, length := range []byte{0, 1, 3, 255} {
			odd := append([]byte(nil), b...)
			odd[n] = length
			_, _, _ = parseRoute(odd, e.Uint32(odd[8:]))
		}
	}
}
