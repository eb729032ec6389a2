package tun

import (
	"context"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestWatch(t *testing.T) {
	enterNamespace(t)
	// IPv6 makes and changes routes whenever it likes.
	writeSysctl(t, "net/ipv6/conf/all/disable_ipv6", 1)
	writeSysctl(t, "net/ipv6/conf/default/disable_ipv6", 1)
	up := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0"}, PeerName: "peer0"}
	ok(t, netlink.LinkAdd(up))
	ok(t, netlink.LinkSetUp(up))
	ok(t, netlink.AddrAdd(up, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(here4, 24))}))
	h := openHost(t, "ctun0", t.TempDir())
	dev, err := h.OpenDevice(DeviceConfig{Queues: 1, MTU: 1400})
	ok(t, err)
	r, err := h.OpenRoutes(dev, RoutesConfig{})
	ok(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	changes, err := h.Watch(ctx)
	ok(t, err)
	until := func(c Changed) (all Changed) {
		for all&c == 0 {
			all |= <-changes
		}
		return all
	}

	t.Log("our own routes are no news")
	ok(t, r.Add(Route{Dst: netip.MustParsePrefix("10.2.0.0/16")}))
	ok(t, netlink.LinkSetAlias(up, "a link event"))
	if got := until(ChangedLink); got != ChangedLink {
		t.Errorf("changed: %v", got)
	}

	ok(t, netlink.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("10.3.0.0/16")), LinkIndex: up.Attrs().Index}))
	if got := until(ChangedRoute); got != ChangedRoute {
		t.Errorf("changed: %v", got)
	}
	ok(t, netlink.AddrAdd(up, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("192.0.2.9/32"))}))
	if got := until(ChangedAddress); got&ChangedLink != 0 {
		t.Errorf("changed: %v", got)
	}

	cancel()
	for range changes {
	}
}

func TestChangedHasAName(t *testing.T) {
	t.Parallel()
	if got, want := (ChangedLink | ChangedRoute).String(), "link, route"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func FuzzParseChanges(f *testing.F) {
	message := func(typ uint16, protocol byte, size int) []byte {
		b := make([]byte, size)
		binary.NativeEndian.PutUint32(b, uint32(size))
		binary.NativeEndian.PutUint16(b[4:], typ)
		if size > 21 {
			b[21] = protocol
		}
		return b
	}
	f.Add([]byte{})
	f.Add(message(unix.RTM_NEWLINK, 0, 32))
	f.Add(append(message(unix.RTM_NEWROUTE, RouteProtocol, 28), message(unix.RTM_DELADDR, 0, 17)...))
	f.Add(message(unix.RTM_DELROUTE, 0, 16))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c := parseChanges(b); c&^(ChangedLink|ChangedAddress|ChangedRoute) != 0 {
			t.Errorf("%b", c)
		}
	})
}
