package lab

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// TestPathMTU: hosts behind the gateways, with interfaces of 1500 octets and no trick with the MSS. A packet that cannot
// be fragmented and is too large is answered with the size that fits; that size passes; and TCP finds it out by itself.
func TestPathMTU(t *testing.T) {
	NeedRoot(t)
	for _, family := range families {
		for _, way := range []struct{ outer, encap string }{{"IPv4", "esp"}, {"IPv4", "udp"}, {"IPv6", "esp"}, {"IPv6", "udp"}} {
			t.Run(fmt.Sprintf("%s in %s %s", family, way.outer, way.encap), func(t *testing.T) {
				t.Parallel()
				results.Fill(t, peerCoati, roleHost, caseMTU)
				pathMTU(t, family, way.outer, way.encap)
			})
		}
	}
}

var ofFour = regexp.MustCompile(`4 packets transmitted, (\d) received`)

var mtuSaid = regexp.MustCompile(`(?i)mtu ?= ?(\d+)`)

func pathMTU(t *testing.T, family, outside, encap string) {
	pair := NewPair(t)
	a, b := pair.A, pair.B
	clientA, clientB := a.Behind(t), b.Behind(t)
	tunnel := Between(a, b)
	tunnel.Local, tunnel.Remote, tunnel.Encap = outer(a, outside), outer(b, outside), encap
	_, netA := lan(a, family)
	_, netB := lan(b, family)
	tunnel.LocalTS, tunnel.RemoteTS = []netip.Prefix{netA}, []netip.Prefix{netB}
	left := StartCoati(t, a, tunnel)
	right := StartCoati(t, b, tunnel.Reversed())
	from, _ := lan(clientA, family)
	to, _ := lan(clientB, family)
	if lost := clientA.Ping(t, from, to, 3); lost != 0 {
		t.Fatalf("%d of 3 pings lost", lost)
	}
	headers := 28
	if family == "IPv6" {
		headers = 48
	}
	ping := func(size int) (string, error) {
		return clientA.Run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", "-M", "do", "-s", strconv.Itoa(size-headers), to.String())
	}
	output, err := ping(1500)
	said := mtuSaid.FindStringSubmatch(output)
	if err == nil || said == nil {
		t.Fatalf("a packet of 1500 octets: %v\n%s", err, output)
	}
	mtu, _ := strconv.Atoi(said[1])
	// ESP's and the outer headers are 50 to 90 octets; less would waste some of each packet.
	if mtu < 1500-94 || mtu > 1500-50 {
		t.Errorf("the path's MTU is said to be %d", mtu)
	}
	if output, err := ping(mtu); err != nil {
		t.Errorf("a packet of %d octets, which was said to fit: %v\n%s", mtu, err, output)
	}
	mustRun(t, "ip", "-n", clientA.Name, "route", "flush", "cache")
	mustRun(t, "ip", "-n", clientA.Name, "-6", "route", "flush", "cache")
	capture := a.Capture(t)
	transfer(t, clientA, from, clientB, to, 16<<20)
	transfer(t, clientB, to, clientA, from, 16<<20)
	capture.Stop(t)
	if n := counted(t, capture, "ip[6:2] & 0x3fff != 0 or ip6[6] = 44"); n != 0 {
		t.Errorf("%d fragments on the wire", n)
	}
	left.Alive(t)
	right.Alive(t)
}

// TestBlackHole: a router between the gateways passes on 1,280 octets and no more, which neither gateway can know. TCP gets
// through both ways at once; a packet that may not be fragmented is answered with a size that fits; one that may be is
// fragmented, before or after encryption; and IPv6 packets of 1,280 octets, which every path must carry, arrive. Nothing hangs.
func TestBlackHole(t *testing.T) {
	NeedRoot(t)
	for _, outside := range families {
		for _, encap := range []string{"esp", "udp"} {
			t.Run(outside+" "+encap, func(t *testing.T) {
				t.Parallel()
				results.Fill(t, peerCoati, roleHost, caseBlackHole)
				blackHole(t, outside, encap)
			})
		}
	}
}

// narrow is a pair with a router between, whose links carry 1,500 octets at both ends, and in the middle only 1,280.
func narrow(t *testing.T) (*Pair, *Host) {
	t.Helper()
	p, name := newNetwork(t)
	router := newHost(t, p.dir, name+"r", "r", 99)
	p.A = newHost(t, p.dir, name+"a", "a", 1)
	p.B = newHost(t, p.dir, name+"b", "b", 2)
	p.A.Outer4, p.A.Outer6 = netip.MustParseAddr("192.168.7.2"), netip.MustParseAddr("fd07::2")
	link(t, router, "eth0", p.B, "eth0")
	link(t, router, "eth1", p.A, "eth0")
	mustRun(t, "ip", "-n", router.Name, "link", "set", "eth1", "up")
	ready(t, router, p.A, p.B)
	router.AddAddress(t, "eth1", netip.MustParsePrefix("192.168.7.1/24"))
	router.AddAddress(t, "eth1", netip.MustParsePrefix("fd07::1/64"))
	mustRun(t, "ip", "-n", p.A.Name, "route", "add", "10.9.0.0/24", "via", "192.168.7.1")
	mustRun(t, "ip", "-n", p.A.Name, "-6", "route", "add", "fd09::/64", "via", "fd07::1")
	mustRun(t, "ip", "-n", p.B.Name, "route", "add", "192.168.7.0/24", "via", "10.9.0.99")
	mustRun(t, "ip", "-n", p.B.Name, "-6", "route", "add", "fd07::/64", "via", "fd09::99")
	// A locked MTU is what the router goes by when it passes packets on.
	for _, to := range []struct{ h, dev, v4, v6 string }{{"B", "eth0", "10.9.0.2/32", "fd09::2/128"}, {"A", "eth1", "192.168.7.2/32", "fd07::2/128"}} {
		mustRun(t, "ip", "-n", router.Name, "route", "add", to.v4, "dev", to.dev, "mtu", "lock", "1280")
		mustRun(t, "ip", "-n", router.Name, "-6", "route", "add", to.v6, "dev", to.dev, "mtu", "lock", "1280")
	}
	return p, router
}

func blackHole(t *testing.T, outside, encap string) {
	pair, _ := narrow(t)
	a, b := pair.A, pair.B
	clientA, clientB := a.Behind(t), b.Behind(t)
	tunnel := Between(a, b)
	tunnel.Local, tunnel.Remote, tunnel.Encap = outer(a, outside), outer(b, outside), encap
	both := func(n Tunnel, local, remote netip.Prefix) Tunnel {
		// No help by the MSS; and half of the cases fragment after encryption.
		n.ExtraChild = "mss = \"off\"\n"
		if encap == "udp" {
			n.ExtraChild += "fragment = \"after\"\n"
		}
		n.More = fmt.Sprintf("[[tunnel.peer.child]]\nname = \"lan6\"\nlocal-ts = [%q]\nremote-ts = [%q]\nmss = \"off\"\n", local, remote)
		return n
	}
	left := StartCoati(t, a, both(tunnel, a.LANNet6, b.LANNet6))
	right := StartCoati(t, b, both(tunnel.Reversed(), b.LANNet6, a.LANNet6))
	for _, family := range families {
		from, _ := lan(clientA, family)
		to, _ := lan(clientB, family)
		if lost := clientA.Ping(t, from, to, 3); lost != 0 {
			t.Fatalf("%s: %d of 3 pings lost", family, lost)
		}
		transfer(t, clientA, from, clientB, to, 4<<20)
		transfer(t, clientB, to, clientA, from, 4<<20)
		headers := 28
		if family == "IPv6" {
			headers = 48
		}
		ping := func(df string, size int) (string, error) {
			return clientA.Run("ping", "-n", "-c", "4", "-i", "0.3", "-W", "2", "-M", df, "-s", strconv.Itoa(size-headers), to.String())
		}
		mustRun(t, "ip", "-n", clientA.Name, "route", "flush", "cache")
		mustRun(t, "ip", "-n", clientA.Name, "-6", "route", "flush", "cache")
		output, _ := ping("do", 1400)
		said := mtuSaid.FindStringSubmatch(output)
		if said == nil {
			t.Fatalf("%s: a packet of 1400 octets is not answered:\n%s", family, output)
		}
		mtu, _ := strconv.Atoi(said[1])
		if family == "IPv4" && (mtu < 1280-94 || mtu > 1280-50) || family == "IPv6" && mtu != 1280 {
			t.Errorf("%s: the path's MTU is said to be %d", family, mtu)
		}
		for _, c := range []struct {
			df   string
			size int
		}{{"do", mtu}, {"dont", 1400}, {"dont", 3000}} {
			// The first reply may have DF, whatever the request had, and then its sender is told what fits.
			output, err := ping(c.df, c.size)
			if n := ofFour.FindStringSubmatch(output); err != nil || n == nil || n[1] < "3" {
				t.Errorf("%s: packets of %d octets, df %s: %v\n%s", family, c.size, c.df, err, output)
			}
		}
	}
	left.Alive(t)
	right.Alive(t)
}

// transfer sends that many random octets over TCP and compares what arrives.
func transfer(t *testing.T, from *Host, fromAddr netip.Addr, to *Host, toAddr netip.Addr, size int) {
	t.Helper()
	data := make([]byte, size)
	_, _ = rand.Read(data) // never fails
	var listener net.Listener
	err := to.Inside(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(toAddr, 5001).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	got := make(chan []byte, 1)
	go func() {
		defer close(got)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		received, _ := io.ReadAll(conn)
		got <- received
	}()
	var conn net.Conn
	err = from.Inside(func() (err error) {
		dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(fromAddr, 0)), Timeout: 10 * time.Second}
		conn, err = dialer.Dial("tcp", listener.Addr().String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := conn.Write(data); err != nil {
		t.Error(err)
	}
	conn.Close()
	if received := <-got; !bytes.Equal(received, data) {
		t.Errorf("%d octets sent, %d received, or not the same", len(data), len(received))
	}
}

// TestForgedPathMTU: errors about the size of our packets, written by somebody who knows addresses and ports, as anybody can.
// With another SPI, or a size no path has, they are nothing. With the SPI and a number just sent they are believed for as long
// as a probe takes, and no longer.
func TestForgedPathMTU(t *testing.T) {
	NeedRoot(t)
	for _, outside := range families {
		for _, encap := range []string{"esp", "udp"} {
			t.Run(outside+" "+encap, func(t *testing.T) {
				t.Parallel()
				results.Fill(t, peerHostile, roleHost, caseForgedMTU)
				forgedPathMTU(t, outside, encap)
			})
		}
	}
}

func forgedPathMTU(t *testing.T, outside, encap string) {
	pair := NewPair(t)
	a, b := pair.A, pair.B
	tunnel := Between(a, b)
	tunnel.Local, tunnel.Remote, tunnel.Encap = outer(a, outside), outer(b, outside), encap
	left := StartCoati(t, a, tunnel)
	right := StartCoati(t, b, tunnel.Reversed())
	NoLoss(t, a, b, 3)
	mtu := left.Status(t).Gateway.MTU
	full := func() bool {
		mustRun(t, "ip", "-n", a.Name, "route", "flush", "cache")
		output, err := a.Run("ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-I", a.LAN4.String(), "-s", strconv.Itoa(mtu-28), b.LAN4.String())
		return err == nil && !mtuSaid.MatchString(output)
	}
	if !full() {
		t.Fatalf("a packet of %d octets does not pass", mtu)
	}
	var spi uint32
	if _, err := fmt.Sscanf(left.Pairs(t)[0].Out.SPI, "0x%x", &spi); err != nil {
		t.Fatal(err)
	}
	weighed := func(verdict string) int {
		return strings.Count(left.Log(), verdict)
	}
	try := func(verdict string, spi uint32, size int) {
		t.Helper()
		before := weighed(verdict)
		tooBig(t, b, tunnel.Remote, tunnel.Local, encap == "udp", spi, uint32(left.Pairs(t)[0].Out.Sequence), size)
		WaitFor(t, 10*time.Second, "the verdict "+verdict, func() bool { return weighed(verdict) > before })
	}
	below := 500
	if outside == "IPv6" {
		below = 1279
	}
	try("no such sa", spi+1, 1300)
	try("below the floor", spi, below)
	if !full() {
		t.Error("what should count for nothing made packets smaller")
	}
	try("believed and being probed", spi, 1300)
	if full() {
		t.Error("an error that quotes what was sent is not believed")
	}
	WaitFor(t, 20*time.Second, "full packets to pass again, as nobody confirmed the probe", full)
	left.Alive(t)
	right.Alive(t)
}

// tooBig sends an ICMP error from one address to another, about an ESP packet that went the other way.
func tooBig(t *testing.T, from *Host, source, target netip.Addr, udp bool, spi, sequence uint32, mtu int) {
	t.Helper()
	quoted := make([]byte, 20)
	proto, at := byte(protoESP), 9
	if target.Is6() {
		quoted, at = make([]byte, 40), 6
		quoted[0] = 0x60
		copy(quoted[8:], target.AsSlice())
		copy(quoted[24:], source.AsSlice())
	} else {
		quoted[0], quoted[6] = 0x45, 0x40
		copy(quoted[12:], target.AsSlice())
		copy(quoted[16:], source.AsSlice())
	}
	if udp {
		proto = protoUDP
		quoted = binary.BigEndian.AppendUint16(quoted, portNATT)
		quoted = binary.BigEndian.AppendUint16(quoted, portNATT)
		quoted = binary.BigEndian.AppendUint32(quoted, 1400<<16)
	}
	quoted[at] = proto
	quoted = binary.BigEndian.AppendUint32(quoted, spi)
	quoted = binary.BigEndian.AppendUint32(quoted, sequence)
	quoted = append(quoted, make([]byte, 64)...)
	network, m := "ip4:icmp", icmp.Message{Type: ipv4.ICMPTypeDestinationUnreachable, Code: 4, Body: &icmp.RawBody{
		Data: append(binary.BigEndian.AppendUint32(nil, uint32(mtu)), quoted...),
	}}
	if target.Is6() {
		network, m = "ip6:ipv6-icmp", icmp.Message{Type: ipv6.ICMPTypePacketTooBig, Body: &icmp.PacketTooBig{MTU: mtu, Data: quoted}}
	}
	octets, err := m.Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	err = from.Inside(func() error {
		conn, err := net.ListenPacket(network, source.String())
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.WriteTo(octets, &net.IPAddr{IP: target.AsSlice()})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
