package tun

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

func writeSysctl(t *testing.T, name string, value int) {
	t.Helper()
	ok(t, os.WriteFile("/proc/sys/"+name, []byte(strconv.Itoa(value)), 0))
}

func rpFilter(t *testing.T, iface string) int {
	t.Helper()
	n, err := readRPFilter(iface)
	ok(t, err)
	return n
}

func noStateLeft(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	ok(t, err)
	if len(files) > 0 {
		t.Errorf("state left: %q", files)
	}
}

// A policy covers the peer's own address: its packets must reach our socket whatever the
// filter was, and the filter is as before when we are gone.
func TestReversePathFilter(t *testing.T) {
	for all := range 3 {
		for own := range 3 {
			t.Run(fmt.Sprintf("all %d, interface %d", all, own), func(t *testing.T) {
				n := enterNamespace(t)
				o := n.another(t)
				n.connect(t, o)
				writeSysctl(t, "net/ipv4/conf/all/rp_filter", all)
				writeSysctl(t, "net/ipv4/conf/up0/rp_filter", own)
				dir := t.TempDir()
				h, r := openRoutes(t, "ctun0", dir, false)
				ok(t, r.Add(Route{Dst: netip.MustParsePrefix("192.0.2.0/24")}))
				u, err := h.OpenUDP(UDPConfig{Local: netip.AddrPortFrom(here4, 500)})
				ok(t, err)

				change, err := h.LoosenRPFilter("up0")
				ok(t, err)
				strict := max(all, own) == 1
				if got := change != nil; got != strict {
					t.Errorf("changed: %v, want %v", got, strict)
				}
				wantOwn := own
				if strict {
					wantOwn = 2
				}
				if got := rpFilter(t, "up0"); got != wantOwn {
					t.Errorf("the interface has %d, want %d", got, wantOwn)
				}

				n.in(t, o, func() {
					peer := appSocket(t, netip.AddrPortFrom(there4, 500))
					_, err := peer.WriteToUDPAddrPort([]byte("hello"), u.Local())
					ok(t, err)
				})
				got, err := u.Sockets()[0].Receive(make([]byte, 1<<16))
				ok(t, err)
				if got.From.Addr() != there4 {
					t.Errorf("received %+v", got)
				}

				ok(t, h.Close())
				if got := rpFilter(t, "up0"); got != own {
					t.Errorf("restored to %d, want %d", got, own)
				}
				if got := rpFilter(t, "all"); got != all {
					t.Errorf("all is %d, was %d", got, all)
				}
				noStateLeft(t, dir)
			})
		}
	}
}

// What the strict filter drops, and that src_valid_mark is no remedy. The kernel counts it.
func TestStrictFilterDropsAndSrcValidMarkDoesNotHelp(t *testing.T) {
	n := enterNamespace(t)
	o := n.another(t)
	n.connect(t, o)
	writeSysctl(t, "net/ipv4/conf/up0/rp_filter", 1)
	writeSysctl(t, "net/ipv4/conf/up0/src_valid_mark", 1)
	h, r := openRoutes(t, "ctun0", t.TempDir(), false)
	u, err := h.OpenUDP(UDPConfig{Local: netip.AddrPortFrom(here4, 500)})
	ok(t, err)
	say := func(what string) {
		n.in(t, o, func() {
			peer := appSocket(t, netip.AddrPort{})
			_, err := peer.WriteToUDPAddrPort([]byte(what), u.Local())
			ok(t, err)
		})
	}
	say("arp is resolved") // before the route: later even that would be dropped
	buf := make([]byte, 1<<16)
	_, err = u.Sockets()[0].Receive(buf)
	ok(t, err)
	ok(t, r.Add(Route{Dst: netip.MustParsePrefix("192.0.2.0/24")}))
	say("dropped")
	_, err = h.LoosenRPFilter("up0")
	ok(t, err)
	say("received")
	d, err := u.Sockets()[0].Receive(buf)
	ok(t, err)
	if got := string(buf[:d.N]); got != "received" {
		t.Errorf("got %q first", got)
	}
}

func TestReversePathFilterAfterKill(t *testing.T) {
	n := enterNamespace(t)
	n.connect(t, n.another(t))
	writeSysctl(t, "net/ipv4/conf/up0/rp_filter", 1)
	dir := t.TempDir()
	check := func(when string, want int) {
		t.Helper()
		if got := rpFilter(t, "up0"); got != want {
			t.Errorf("%s: %d, want %d", when, got, want)
		}
	}

	t.Log("killed alone")
	startDaemon(t, daemonConfig{Name: "ctun0", Dir: dir, Loosen: "up0"}).kill()
	check("killed", 2)
	h := openHost(t, "ctun0", dir)
	check("started again", 1)
	noStateLeft(t, dir)
	_, err := h.LoosenRPFilter("up0")
	ok(t, err)
	check("loosened again", 2)
	ok(t, h.Close())
	check("closed", 1)

	t.Log("two share it, the last restores")
	first := startDaemon(t, daemonConfig{Name: "ctun0", Dir: dir, Loosen: "up0"})
	second := startDaemon(t, daemonConfig{Name: "ctun1", Dir: dir, Loosen: "up0"})
	first.stop()
	check("one left", 2)
	second.stop()
	check("both left", 1)

	t.Log("two share it, one is killed, the other restores")
	first = startDaemon(t, daemonConfig{Name: "ctun0", Dir: dir, Loosen: "up0"})
	second = startDaemon(t, daemonConfig{Name: "ctun1", Dir: dir, Loosen: "up0"})
	first.kill()
	third := openHost(t, "ctun2", dir)
	check("a third started", 2)
	second.stop()
	check("the other left", 1)
	ok(t, third.Close())

	t.Log("what somebody set meanwhile is not ours to undo")
	h = openHost(t, "ctun0", dir)
	_, err = h.LoosenRPFilter("up0")
	ok(t, err)
	writeSysctl(t, "net/ipv4/conf/up0/rp_filter", 0)
	ok(t, h.Close())
	check("set by the administrator", 0)
	noStateLeft(t, dir)
}

func TestBrokenStateIsNoObstacle(t *testing.T) {
	n := enterNamespace(t)
	n.connect(t, n.another(t))
	writeSysctl(t, "net/ipv4/conf/up0/rp_filter", 1)
	for _, content := range []string{"", "{", `{"Saved": 7}`, `{"Boot": "another", "Saved": 0, "Owners": [1]}`} {
		dir := t.TempDir()
		h := openHost(t, "ctun0", dir)
		path, err := h.rpFile("up0")
		ok(t, err)
		ok(t, os.WriteFile(path, []byte(content), 0o600))
		_, err = h.LoosenRPFilter("up0")
		ok(t, err)
		if got := rpFilter(t, "up0"); got != 2 {
			t.Errorf("%q: %d", content, got)
		}
		ok(t, h.Close())
		if got := rpFilter(t, "up0"); got != 1 {
			t.Errorf("%q: restored to %d", content, got)
		}
		noStateLeft(t, dir)
	}
}

func TestInterfaceGoneMeanwhile(t *testing.T) {
	n := enterNamespace(t)
	o := n.another(t)
	n.connect(t, o)
	writeSysctl(t, "net/ipv4/conf/up0/rp_filter", 1)
	dir := t.TempDir()
	h := openHost(t, "ctun0", dir)
	_, err := h.LoosenRPFilter("up0")
	ok(t, err)
	link, err := h.nl.LinkByName("up0")
	ok(t, err)
	ok(t, h.nl.LinkDel(link))
	ok(t, h.Close())
	noStateLeft(t, dir)
	if _, err := os.Stat(rpPath("up0")); !os.IsNotExist(err) {
		t.Fatal(err, unix.Gettid())
	}
}
