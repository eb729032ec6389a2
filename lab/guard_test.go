package lab

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestGuard: host B's network is behind a tunnel, and somebody on the link between claims to be from there. What he sends in
// clear is counted and not delivered; what comes through the tunnel is, and what nobody would protect, too. With the guard
// taken out it all arrives, so it is the guard that keeps it away.
func TestGuard(t *testing.T) {
	NeedRoot(t)
	for _, family := range families {
		for _, encap := range []string{"esp", "udp"} {
			t.Run(family+"/"+encap, func(t *testing.T) {
				t.Parallel()
				results.Fill(t, peerHostile, roleHost, caseGuard)
				underGuard(t, family, encap)
			})
		}
	}
}

func underGuard(t *testing.T, family, encap string) {
	pair := NewPair(t)
	a, b := pair.A, pair.B
	tunnel := Between(a, b)
	tunnel.Encap = encap
	tunnel.Local, tunnel.Remote = outer(a, family), outer(b, family)
	addrA, netA := lan(a, family)
	addrB, netB := lan(b, family)
	tunnel.LocalTS, tunnel.RemoteTS = []netip.Prefix{netA}, []netip.Prefix{netB}
	coati := StartCoati(t, a, tunnel)
	peer := StartCoati(t, b, tunnel.Reversed())
	if lost := a.Ping(t, addrA, addrB, 3); lost != 0 {
		t.Fatalf("%d of 3 pings lost", lost)
	}
	f := forger{t: t, from: b, to: a, target: netip.AddrPortFrom(addrA, 7070)}
	// An address of the peer's network that is not the peer's own, past the tunnel of its host.
	stranger := netB.Masked().Addr()
	for range 9 {
		stranger = stranger.Next()
	}
	f.prepare(stranger, outer(a, family))
	before := guarded(t, coati)
	if n := f.send(stranger, 20); n != 0 {
		t.Errorf("%d of 20 forged packets were delivered", n)
	}
	if n := guarded(t, coati) - before; n != 20 {
		t.Errorf("%d packets counted, want 20", n)
	}
	if text := coati.Do(t, "status"); !strings.Contains(text, fmt.Sprintf("guard: %d packets", before+20)) {
		t.Errorf("coati status does not say so:\n%s", text)
	}
	// Not from behind the peer: nobody would protect it.
	if n := f.send(outer(b, family), 5); n != 5 {
		t.Errorf("%d of 5 packets that no policy covers were delivered", n)
	}
	// While it holds off, the tunnel carries.
	if lost := a.Ping(t, addrA, addrB, 3); lost != 0 {
		t.Errorf("%d of 3 pings lost", lost)
	}
	// Without the rules the forged packets arrive: otherwise this test proves nothing.
	a.Must(t, "nft", "flush", "chain", "inet", "coati-coati0", "input")
	if n := f.send(stranger, 5); n != 5 {
		t.Errorf("without the guard %d of 5 forged packets were delivered: something else kept them away", n)
	}
	coati.Alive(t)
	peer.Alive(t)
}

// guarded is how many packets the guard has dropped.
func guarded(t *testing.T, c *Coati) int {
	t.Helper()
	g := c.Status(t).Gateway.Guard
	if g == nil {
		t.Fatal("there is no guard")
	}
	return int(g.Packets)
}

// A forger sends datagrams to a host past every tunnel.
type forger struct {
	t        *testing.T
	from, to *Host
	target   netip.AddrPort
	conn     *net.UDPConn
}

// prepare gives the forger's host the address, and a route past its own tunnel: rule 3000 comes before Coati's.
func (f *forger) prepare(source, gateway netip.Addr) {
	f.t.Helper()
	f.from.AddAddress(f.t, "lo", netip.PrefixFrom(source, source.BitLen()))
	family := "-4"
	if source.Is6() {
		family = "-6"
	}
	f.from.Must(f.t, "ip", family, "route", "add", "default", "via", gateway.String(), "dev", "eth0", "table", "77")
	f.from.Must(f.t, "ip", family, "rule", "add", "to", f.target.Addr().String(), "ipproto", "udp", "dport", "7070", "lookup", "77", "priority", "3000")
	err := f.to.Inside(func() (err error) {
		f.conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(f.target))
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { f.conn.Close() })
}

// send sends datagrams and says how many arrived: those the guard drops are counted at once, so what has not come when a
// datagram from the forger's own address has will not come.
func (f *forger) send(source netip.Addr, count int) (arrived int) {
	f.t.Helper()
	dial := func(source netip.Addr) (conn *net.UDPConn) {
		err := f.from.Inside(func() (err error) {
			conn, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(source, 0)), net.UDPAddrFromAddrPort(f.target))
			return err
		})
		if err != nil {
			f.t.Fatal(err)
		}
		return conn
	}
	conn := dial(source)
	defer conn.Close()
	for range count {
		if _, err := conn.Write([]byte("forged")); err != nil {
			f.t.Fatal(err)
		}
	}
	own := f.from.Outer4
	if source.Is6() {
		own = f.from.Outer6
	}
	last := dial(own)
	defer last.Close()
	if _, err := last.Write([]byte("end")); err != nil {
		f.t.Fatal(err)
	}
	buffer := make([]byte, 100)
	_ = f.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		n, err := f.conn.Read(buffer)
		if err != nil {
			f.t.Fatalf("the last datagram does not arrive: %v", err)
		}
		if string(buffer[:n]) == "end" {
			return arrived
		}
		arrived++
	}
}

// TestGuardFollowsTheConfiguration: with level "use" clear packets are as welcome as protected ones, a reload changes the
// rules under way and keeps the count, and without a guard there is nothing of it.
func TestGuardFollowsTheConfiguration(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	results.Fill(t, peerCoati, roleHost, caseGuardReload)
	pair := NewPair(t)
	a, b := pair.A, pair.B
	before := a.Machine(t)
	tunnel := Between(a, b)
	coati := StartCoati(t, a, tunnel)
	f := forger{t: t, from: b, to: a, target: netip.AddrPortFrom(a.LAN4, 7070)}
	f.prepare(netip.MustParseAddr("10.2.0.9"), a.Outer4)
	expect := func(when string, arrive, count int) {
		t.Helper()
		if n := f.send(netip.MustParseAddr("10.2.0.9"), 4); n != arrive {
			t.Errorf("%s: %d of 4 packets delivered, want %d", when, n, arrive)
		}
		if n := guarded(t, coati); n != count {
			t.Errorf("%s: %d packets counted, want %d", when, n, count)
		}
	}
	expect("protected", 0, 4)
	use := tunnel
	use.ExtraChild = "level = \"use\"\n"
	coati.Configure(t, use)
	coati.Do(t, "reload")
	expect("level use", 4, 4)
	elsewhere := tunnel
	elsewhere.RemoteTS = []netip.Prefix{netip.MustParsePrefix("10.77.0.0/16")}
	coati.Configure(t, elsewhere)
	coati.Do(t, "reload")
	expect("another network", 4, 4)
	port := tunnel
	port.More = "[[tunnel.peer.child]]\nname = \"port\"\nlocal-ts = [\"10.1.0.0/24\"]\nremote-ts = [\"10.2.0.0/24[udp/53]\"]\n"
	port.RemoteTS = elsewhere.RemoteTS
	coati.Configure(t, port)
	coati.Do(t, "reload")
	expect("another port", 4, 4)
	coati.Configure(t, tunnel)
	coati.Do(t, "reload")
	expect("protected again", 0, 8)

	// A daemon that was killed leaves its guard, and the next start takes it away, also when it wants none.
	coati.Kill()
	if text := a.Must(t, "nft", "list", "tables"); !strings.Contains(text, "coati-coati0") {
		t.Errorf("kill -9 took the table along, so this proves nothing: %q", text)
	}
	off := tunnel
	off.ExtraGateway = "guard = false\n"
	coati.Configure(t, off)
	coati.Start(t)
	if text := a.Must(t, "nft", "list", "tables"); text != "" {
		t.Errorf("without a guard there is %q", text)
	}
	if n := f.send(netip.MustParseAddr("10.2.0.9"), 4); n != 4 {
		t.Errorf("without a guard %d of 4 packets are delivered", n)
	}
	if text := coati.Do(t, "status"); !strings.Contains(text, "guard: off") {
		t.Errorf("coati status does not say that there is no guard:\n%s", text)
	}
	coati.Terminate(t)
	f.conn.Close()
	if diff := cmp.Diff(before, a.Machine(t)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
}
