package lab

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTerminateLeavesNothing(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	results.Fill(t, peerCoati, roleHost, caseTerminate)
	pair := NewPair(t)
	// Strict, so that the daemon has to change it and to put it back.
	pair.A.Sysctl(t, "net.ipv4.conf.all.rp_filter", "1")
	before := pair.A.Machine(t)
	coati := StartCoati(t, pair.A, Between(pair.A, pair.B))
	peer := StartCoati(t, pair.B, Between(pair.A, pair.B).Reversed())
	NoLoss(t, pair.A, pair.B, 3)
	if diff := cmp.Diff(before, pair.A.Machine(t)); diff == "" {
		t.Error("a running daemon changes nothing that the comparison sees: it proves nothing")
	}
	coati.Terminate(t)
	if diff := cmp.Diff(before, pair.A.Machine(t)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
	peer.WaitPairs(t, 2*time.Second, 0)
	if n := peer.IKESAs(t); n != 0 {
		t.Errorf("the peer still has %d IKE SAs", n)
	}
}

func TestKillLeavesNothingStale(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	results.Fill(t, peerCoati, roleHost, caseKill)
	pair := NewPair(t)
	pair.A.Sysctl(t, "net.ipv4.conf.all.rp_filter", "1")
	before := pair.A.Machine(t)
	coati := StartCoati(t, pair.A, Between(pair.A, pair.B))
	peer := StartCoati(t, pair.B, Between(pair.A, pair.B).Reversed())
	NoLoss(t, pair.A, pair.B, 3)
	running := pair.A.Machine(t)
	coati.Kill()
	coati.Start(t)
	NoLoss(t, pair.A, pair.B, 3)
	// The dead one's SAs must go at the peer too: the new one's first contact says so.
	peer.WaitPairs(t, 10*time.Second, 1)
	if diff := cmp.Diff(rough(running), rough(pair.A.Machine(t))); diff != "" {
		t.Errorf("not as with the first daemon (-first +second):\n%s", diff)
	}
	coati.Terminate(t)
	if diff := cmp.Diff(before, pair.A.Machine(t)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
}

// TestOnExit: there is another way to the peer's network, in clear. With on-exit = "block" it stays shut however the daemon
// ended, and the next start carries traffic again; "restore" opens it and leaves nothing.
func TestOnExit(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	results.Fill(t, peerCoati, roleHost, caseOnExit)
	pair := NewPair(t)
	a, b := pair.A, pair.B
	a.Must(t, "ip", "route", "add", b.LANNet4.String(), "via", b.Outer4.String())
	a.Must(t, "ip", "-6", "route", "add", b.LANNet6.String(), "via", b.Outer6.String())
	before := a.Machine(t)
	tunnel := Between(a, b)
	tunnel.More = fmt.Sprintf("[[tunnel.peer.child]]\nname = \"lan6\"\nlocal-ts = [%q]\nremote-ts = [%q]\n", a.LANNet6, b.LANNet6)
	back := tunnel.Reversed()
	back.More = fmt.Sprintf("[[tunnel.peer.child]]\nname = \"lan6\"\nlocal-ts = [%q]\nremote-ts = [%q]\n", b.LANNet6, a.LANNet6)
	block := tunnel
	block.ExtraGateway = "on-exit = \"block\"\n"
	way := func(to netip.Addr) string {
		output, err := a.Run("ip", "route", "get", to.String())
		switch {
		case err != nil && strings.Contains(output, "Permission denied"), strings.HasPrefix(output, "prohibit"):
			return "prohibited"
		case strings.Contains(output, "dev coati0"):
			return "tunnel"
		case strings.Contains(output, "via "):
			return "clear"
		}
		return output
	}
	expect := func(when, want string) {
		t.Helper()
		for _, to := range []netip.Addr{b.LAN4, b.LAN6} {
			if got := way(to); got != want {
				t.Errorf("%s: the way to %s is %s, want %s", when, to, got, want)
			}
		}
	}
	carries := func(when string) {
		t.Helper()
		expect(when, "tunnel")
		for _, way := range [][2]netip.Addr{{a.LAN4, b.LAN4}, {a.LAN6, b.LAN6}} {
			if lost := a.Ping(t, way[0], way[1], 2); lost != 0 {
				t.Errorf("%s: %d of 2 pings to %s lost", when, lost, way[1])
			}
		}
	}
	StartCoati(t, b, back)
	expect("at first", "clear")
	coati := StartCoati(t, a, block)
	carries("with a daemon")
	coati.Terminate(t)
	expect("terminated", "prohibited")
	coati.Start(t)
	carries("started again")
	coati.Kill()
	expect("killed", "prohibited")
	coati.Start(t)
	carries("started after kill -9")
	coati.Kill()
	coati.Configure(t, tunnel)
	coati.Start(t)
	carries("started to restore")
	coati.Terminate(t)
	expect("restored", "clear")
	if diff := cmp.Diff(before, a.Machine(t)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
}

// rough leaves out what differs between two devices of one name: interface numbers and
// link-local addresses.
func rough(m Machine) Machine {
	out := Machine{}
	for kind, text := range m {
		switch kind {
		case "links", "addresses":
			out[kind] = fmt.Sprint(strings.Count(text, "\n"), " lines")
		case "routes6":
			out[kind] = fmt.Sprint(strings.Count(text, "fe80"), " link-local")
		default:
			out[kind] = text
		}
	}
	return out
}

func TestReversePathFilter(t *testing.T) {
	NeedRoot(t)
	for _, value := range []string{"0", "1", "2"} {
		t.Run(value, func(t *testing.T) {
			t.Parallel()
			results.Fill(t, peerCoati, roleHost, caseRPFilter)
			pair := NewPair(t)
			for _, h := range []*Host{pair.A, pair.B} {
				h.Sysctl(t, "net.ipv4.conf.all.rp_filter", value)
				h.Sysctl(t, "net.ipv4.conf.eth0.rp_filter", value)
				// What a new device, our TUN, begins with.
				h.Sysctl(t, "net.ipv4.conf.default.rp_filter", value)
			}
			// Selectors that cover the peer's own address: our routes would lead our own packets
			// into the TUN, so they are marked, and a strict filter would drop every reply.
			tunnel := Between(pair.A, pair.B)
			all := netip.MustParsePrefix("0.0.0.0/0")
			tunnel.RemoteTS = []netip.Prefix{all}
			back := Between(pair.A, pair.B).Reversed()
			back.LocalTS = []netip.Prefix{all}
			StartCoati(t, pair.B, back)
			coati := NewCoati(t, pair.A, tunnel)
			text := coati.Do(t, "check", coati.config)
			if said := strings.Contains(text, "note: the reverse-path filter of eth0 is strict"); said != (value == "1") {
				t.Errorf("coati check says of the filter:\n%s", text)
			}
			coati.Start(t)
			NoLoss(t, pair.A, pair.B, 5)
		})
	}
}

func TestTwoDaemonsOnOneHost(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	results.Fill(t, peerCoati, roleHost, caseTwoDaemons)
	pair := NewPair(t)
	a, b := pair.A, pair.B
	first := Between(a, b)
	// The second pair of addresses and LANs of the same two hosts.
	second := first
	second.Local, second.Remote = netip.MustParseAddr("10.9.0.11"), netip.MustParseAddr("10.9.0.12")
	lanA, lanB := netip.MustParseAddr("10.11.0.1"), netip.MustParseAddr("10.12.0.1")
	second.LocalTS = []netip.Prefix{netip.PrefixFrom(lanA, 24).Masked()}
	second.RemoteTS = []netip.Prefix{netip.PrefixFrom(lanB, 24).Masked()}
	second.TUN, second.ControlLabel = "coati1", "2"
	a.AddAddress(t, "eth0", netip.PrefixFrom(second.Local, 24))
	b.AddAddress(t, "eth0", netip.PrefixFrom(second.Remote, 24))
	a.AddAddress(t, "lo", netip.PrefixFrom(lanA, 24))
	b.AddAddress(t, "lo", netip.PrefixFrom(lanB, 24))

	for _, end := range []*Host{a, b} {
		one, two := first, second
		if end == b {
			one, two = first.Reversed(), second.Reversed()
		}
		StartCoati(t, end, one)
		StartCoati(t, end, two)
	}
	stream := StartStream(t, a, a.LAN4, b, b.LAN4, 200, 200)
	WaitFor(t, 10*time.Second, "the first stream", func() bool { return stream.Received() > 10 })
	if lost := a.Ping(t, lanA, lanB, 3); lost != 0 {
		t.Errorf("%d of 3 pings of the second tunnel lost", lost)
	}
	// One that leaves must not take what belongs to the other.
	third := second
	third.Name, third.TUN, third.ControlLabel = "third", "coati2", "3"
	third.Local, third.Remote = netip.MustParseAddr("10.9.0.21"), netip.MustParseAddr("10.9.0.22")
	third.RemoteTS = []netip.Prefix{netip.MustParsePrefix("10.22.0.0/24")}
	a.AddAddress(t, "eth0", netip.PrefixFrom(third.Local, 24))
	StartCoati(t, a, third).Terminate(t)
	if lost := a.Ping(t, lanA, lanB, 3); lost != 0 {
		t.Errorf("%d of 3 pings of the second tunnel lost after the third left", lost)
	}
	stream.Stop().Undisturbed(t)
}

func TestSecondDaemonOnOnePortIsRefused(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	results.Fill(t, peerCoati, roleHost, casePortTaken)
	pair := NewPair(t)
	first := Between(pair.A, pair.B)
	second := first
	second.TUN, second.ControlLabel = "coati1", "2"
	second.RemoteTS = []netip.Prefix{netip.MustParsePrefix("10.77.0.0/24")}
	coati := StartCoati(t, pair.A, first)
	StartCoati(t, pair.B, first.Reversed())
	NoLoss(t, pair.A, pair.B, 1)
	before := pair.A.Machine(t)
	refused := NewCoati(t, pair.A, second).Launch(t)
	WaitFor(t, 10*time.Second, "the second daemon to end", func() bool { return !refused.Running() })
	if code, _ := refused.End(0); code != 2 {
		t.Errorf("exit code %d, want 2", code)
	}
	if text := refused.Text(); !strings.Contains(text, "500") {
		t.Errorf("the refusal does not name the port:\n%s", text)
	}
	if diff := cmp.Diff(before, pair.A.Machine(t)); diff != "" {
		t.Errorf("the refused daemon left (-before +after):\n%s", diff)
	}
	NoLoss(t, pair.A, pair.B, 3)
	coati.Alive(t)
}
