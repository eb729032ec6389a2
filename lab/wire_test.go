package lab

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"
)

// A rogue has the keys of a peer's outbound SA, from the key log, and seals what it likes with them: AES-GCM-16, without
// extended sequence numbers.
type rogue struct {
	spi  uint32
	salt []byte
	aead cipher.AEAD
}

func newRogue(t *testing.T, keys string, from, to netip.Addr) *rogue {
	t.Helper()
	file, err := os.Open(filepath.Join(keys, "esp_sa"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	rows, err := csv.NewReader(file).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		if row[1] != from.String() || row[2] != to.String() {
			continue
		}
		spi, err := strconv.ParseUint(row[3], 0, 32)
		if err != nil {
			t.Fatal(err)
		}
		key, err := hex.DecodeString(strings.TrimPrefix(row[5], "0x"))
		if err != nil {
			t.Fatal(err)
		}
		block, err := aes.NewCipher(key[:len(key)-4])
		if err != nil {
			t.Fatal(err)
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		return &rogue{uint32(spi), key[len(key)-4:], aead}
	}
	t.Fatalf("no key from %s to %s in %v", from, to, rows)
	return nil
}

// seal makes an ESP packet (RFC 4303, section 2; RFC 4106).
func (r *rogue) seal(sequence uint32, inner []byte) Datagram {
	packet := binary.BigEndian.AppendUint32(nil, r.spi)
	packet = binary.BigEndian.AppendUint32(packet, sequence)
	iv := binary.BigEndian.AppendUint64(nil, uint64(sequence)|1<<40)
	plain := append([]byte(nil), inner...)
	pad := 0
	for (len(plain)+2)%4 != 0 {
		pad++
		plain = append(plain, byte(pad))
	}
	plain = append(plain, byte(pad), 4)
	nonce := append(append([]byte(nil), r.salt...), iv...)
	sealed := r.aead.Seal(nil, nonce, plain, packet)
	return Datagram{Protocol: protoESP, Payload: append(append(packet, iv...), sealed...)}
}

// udpPacket is a whole IPv4 packet to the port of a stream, with the number 1 in it.
func udpPacket(t *testing.T, from, to netip.Addr) []byte {
	t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
	udp := &layers.UDP{SrcPort: 5, DstPort: streamPort}
	if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	b := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(b, options, ip, udp, gopacket.Payload(binary.BigEndian.AppendUint64(nil, 1))); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestPacketOutsideTheSelectors: a peer that is who it must be, and sends what was not negotiated.
func TestPacketOutsideTheSelectors(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	results.Fill(t, peerHostile, roleResponder, caseSelectors)
	pair := NewPair(t)
	a, b := pair.A, pair.B
	tunnel := Between(a, b)
	tunnel.Encap, tunnel.ESP = "esp", "aes128gcm16-noesn"
	target := StartCoati(t, a, tunnel)
	peer := StartCoati(t, b, tunnel.Reversed())
	NoLoss(t, b, a, 3)
	bad := newRogue(t, peer.Keys, b.Outer4, a.Outer4)
	peer.Kill()

	var listener *net.UDPConn
	err := a.Inside(func() (err error) {
		listener, err = net.ListenUDP("udp4", &net.UDPAddr{Port: streamPort})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	arrives := func() bool {
		if err := listener.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		_, err := listener.Read(make([]byte, 100))
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		return err == nil
	}
	drops := func() uint64 { return target.Pairs(t)[0].In.Drops["outside the selectors"] }
	stranger := netip.MustParseAddr("10.77.0.1")
	sequence := uint32(1000)
	for _, c := range []struct {
		name     string
		from, to netip.Addr
		allowed  bool
	}{
		{"source outside", stranger, a.LAN4, false},
		{"destination outside", b.LAN4, a.Outer4, false},
		{"both outside", stranger, a.Outer4, false},
		{"the gateway's own address as source", a.LAN4, a.LAN4, false},
		{"as negotiated", b.LAN4, a.LAN4, true},
	} {
		before := drops()
		sequence++
		b.Fire(t, b.Outer4, a.Outer4, []Datagram{bad.seal(sequence, udpPacket(t, c.from, c.to))})
		if got := arrives(); got != c.allowed {
			t.Errorf("%s: arrives %t, want %t", c.name, got, c.allowed)
		}
		want := before + 1
		if c.allowed {
			want = before
		}
		if !Within(2*time.Second, func() bool { return drops() == want }) {
			t.Errorf("%s: %d dropped as outside the selectors, want %d", c.name, drops(), want)
		}
	}
	if text := target.Do(t, "status"); !strings.Contains(text, "in: 4 outside the selectors") {
		t.Errorf("coati status does not say what was dropped:\n%s", text)
	}
	// The same number again is a replay, and an altered packet is not authentic.
	again := bad.seal(sequence, udpPacket(t, b.LAN4, a.LAN4))
	altered := bad.seal(sequence+1, udpPacket(t, b.LAN4, a.LAN4))
	altered.Payload[20] ^= 1
	b.Fire(t, b.Outer4, a.Outer4, []Datagram{again, altered})
	WaitFor(t, 5*time.Second, "a replay and a forgery counted", func() bool {
		d := target.Pairs(t)[0].In.Drops
		return d["replayed or too old"] == 1 && d["authentication failed"] == 1
	})
	if arrives() {
		t.Error("a replayed or altered packet arrives")
	}
	target.Alive(t)
}

// counted counts the frames of a capture that tcpdump's filter takes.
func counted(t *testing.T, c *Capture, filter string) int {
	t.Helper()
	return strings.Count(mustRun(t, "tcpdump", "-n", "-r", c.File, filter), " IP")
}

// TestClearWhileThereIsNoSA: with level = "use" packets leave in clear through the marked socket until there is an SA,
// then protected.
func TestClearWhileThereIsNoSA(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	results.Fill(t, peerCoati, roleHost, caseBypass)
	for _, family := range families {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			pair := NewPair(t)
			a, b := pair.A, pair.B
			fromA, netA := lan(a, family)
			fromB, netB := lan(b, family)
			tunnel := Between(a, b)
			tunnel.LocalTS, tunnel.RemoteTS = []netip.Prefix{netA}, []netip.Prefix{netB}
			tunnel.Start, tunnel.ExtraChild = "listen", "level = \"use\"\n"
			// The way in clear, where the routing that is not ours leads.
			mustRun(t, "ip", "-n", a.Name, "route", "add", netB.Masked().String(), "via", outer(b, family).String())
			mustRun(t, "ip", "-n", b.Name, "route", "add", netA.Masked().String(), "via", outer(a, family).String())
			left := StartCoati(t, a, tunnel)
			right := StartCoati(t, b, tunnel.Reversed())
			clear := fmt.Sprintf("src %s and dst %s", fromA, fromB)
			capture := a.Capture(t)
			if lost := a.Ping(t, fromA, fromB, 3); lost != 0 {
				t.Errorf("%d of 3 pings in clear lost", lost)
			}
			capture.Stop(t)
			// Each is seen once: what left by the marked socket must not come back into the TUN.
			if n := counted(t, capture, clear); n != 3 {
				t.Errorf("%d echo requests in clear on the wire, want 3", n)
			}
			if n := counted(t, capture, "esp or udp port 500 or udp port 4500"); n != 0 {
				t.Errorf("%d frames of IKE or ESP, want none", n)
			}
			right.Do(t, "up", "peer")
			left.WaitPairs(t, 5*time.Second, 1)
			capture = a.Capture(t)
			if lost := a.Ping(t, fromA, fromB, 3); lost != 0 {
				t.Errorf("%d of 3 pings lost", lost)
			}
			capture.Stop(t)
			if n := counted(t, capture, clear); n != 0 {
				t.Errorf("%d echo requests in clear although there is an SA", n)
			}
			if n := counted(t, capture, "esp"); n != 6 {
				t.Errorf("%d ESP packets, want 6", n)
			}
		})
	}
}

// TestNeighbourDiscoveryStaysOutside: selectors that cover the link itself must not swallow the packets by which the
// peer's address is found, and what arrives of them at the TUN goes to no link.
func TestNeighbourDiscoveryStaysOutside(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	results.Fill(t, peerCoati, roleHost, caseNeighbours)
	pair := NewPair(t)
	a, b := pair.A, pair.B
	tunnel := Between(a, b)
	tunnel.Local, tunnel.Remote = a.Outer6, b.Outer6
	all := netip.MustParsePrefix("::/0")
	tunnel.LocalTS, tunnel.RemoteTS = []netip.Prefix{all}, []netip.Prefix{all}
	left := StartCoati(t, a, tunnel)
	right := StartCoati(t, b, tunnel.Reversed())
	mustRun(t, "ip", "-n", a.Name, "neigh", "flush", "dev", "eth0")
	mustRun(t, "ip", "-n", b.Name, "neigh", "flush", "dev", "eth0")
	capture := a.Capture(t)
	if lost := a.Ping(t, a.LAN6, b.LAN6, 3); lost != 0 {
		t.Errorf("%d of 3 pings lost", lost)
	}
	// The outer addresses are covered by the selectors too.
	if lost := a.Ping(t, a.Outer6, b.Outer6, 3); lost != 0 {
		t.Errorf("%d of 3 pings between the gateways' own addresses lost", lost)
	}
	drops := func() uint64 { return left.Status(t).Gateway.Drops["neighbour discovery stays on its link"] }
	before, dropped := left.Pairs(t)[0].Out.Packets, drops()
	// A neighbour solicitation (RFC 4861, section 4.3) that somebody puts into the TUN.
	target := netip.MustParseAddr("ff02::1:ff00:4711")
	ip := &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6, SrcIP: a.LAN6.AsSlice(), DstIP: target.AsSlice()}
	header := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborSolicitation, 0)}
	if err := header.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	packet := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(packet, options, ip, header, &layers.ICMPv6NeighborSolicitation{TargetAddress: b.LAN6.AsSlice()}); err != nil {
		t.Fatal(err)
	}
	err := a.Inside(func() error {
		device, err := net.InterfaceByName("coati0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		const ipv6 = 0xdd86 // ETH_P_IPV6 in network order
		return unix.Sendto(fd, packet.Bytes(), 0, &unix.SockaddrLinklayer{Protocol: ipv6, Ifindex: device.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	if !Within(5*time.Second, func() bool { return drops() > dropped }) {
		t.Errorf("the solicitation in the TUN is not counted: %v", left.Status(t).Gateway.Drops)
	}
	if after := left.Pairs(t)[0].Out.Packets; after != before {
		t.Errorf("%d packets went into the tunnel with the solicitation", after-before)
	}
	capture.Stop(t)
	if n := counted(t, capture, "dst ff02::1:ff00:4711"); n != 0 {
		t.Errorf("the solicitation in the TUN reached the link %d times", n)
	}
	if n := counted(t, capture, "icmp6 and (ip6[40] = 135 or ip6[40] = 136)"); n < 2 {
		t.Errorf("%d neighbour discovery packets on the link, want 2 at least", n)
	}
	if n := counted(t, capture, "icmp6 and (ip6[40] = 128 or ip6[40] = 129)"); n != 0 {
		t.Errorf("%d pings in clear", n)
	}
	left.Alive(t)
	right.Alive(t)
}

var sentByQueue = regexp.MustCompile(`(?m)^qdisc \S+ \S+ parent \S*:([0-9a-f]+).*\n Sent \d+ bytes (\d+) pkt`)

// TestBothQueuesCarry: the flows of several hosts are spread over the two queues of the TUN, and none loses or reorders anything.
// All datagrams between two hosts take one queue: they may be fragments, which show no ports.
func TestBothQueuesCarry(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	results.Fill(t, peerCoati, roleHost, caseQueues)
	pair := NewPair(t)
	a, b := pair.A, pair.B
	left := StartCoati(t, a, Between(a, b))
	StartCoati(t, b, Between(a, b).Reversed())
	NoLoss(t, a, b, 1)
	if text := left.Do(t, "status"); !strings.Contains(text, "  2 queues  ") {
		t.Errorf("coati status does not say 2 queues:\n%s", text)
	}
	var flows []*Stream
	source := a.LAN4
	for i := range 16 {
		source = source.Next()
		a.AddAddress(t, "lo", netip.PrefixFrom(source, 32))
		flows = append(flows, StartStreamTo(t, a, source, b, netip.AddrPortFrom(b.LAN4, uint16(9000+i)), 100, 600))
	}
	for _, f := range flows {
		WaitFor(t, 20*time.Second, "100 datagrams of each flow", func() bool { return f.Received() >= 100 })
	}
	for _, f := range flows {
		report := f.Stop()
		report.Undisturbed(t)
		if report.Reordered != 0 {
			t.Errorf("%s", report)
		}
	}
	// The kernel counts what it handed to each queue.
	text := a.Must(t, "tc", "-s", "qdisc", "show", "dev", "coati0")
	carried := 0
	for _, match := range sentByQueue.FindAllStringSubmatch(text, -1) {
		if n, _ := strconv.Atoi(match[2]); n >= 100 {
			carried++
		}
	}
	if carried != 2 {
		t.Errorf("%d queues carried 100 packets or more, want 2:\n%s", carried, text)
	}
	frames := left.Status(t).Gateway.QueueFrames
	if len(frames) != 2 || frames[0].Read < 100 || frames[1].Read < 100 {
		t.Errorf("coati status says that the queues carried %+v", frames)
	}
	if out := left.Pairs(t)[0].Out.Packets; out < 1600 {
		t.Errorf("%d packets on the SA, want 1600 at least", out)
	}
}

// TestPingNeedsNoOptions: a person on the gateway itself types ping and the peer's LAN address.
func TestPingNeedsNoOptions(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	results.Fill(t, peerCoati, roleHost, casePlainPing)
	pair := NewPair(t)
	tunnel := Between(pair.A, pair.B)
	tunnel.More = fmt.Sprintf("[[tunnel.peer.child]]\nname = \"lan6\"\nlocal-ts = [%q]\nremote-ts = [%q]\n", pair.A.LANNet6, pair.B.LANNet6)
	back := tunnel.Reversed()
	back.More = fmt.Sprintf("[[tunnel.peer.child]]\nname = \"lan6\"\nlocal-ts = [%q]\nremote-ts = [%q]\n", pair.B.LANNet6, pair.A.LANNet6)
	StartCoati(t, pair.A, tunnel)
	StartCoati(t, pair.B, back)
	for _, target := range []netip.Addr{pair.B.LAN4, pair.B.LAN6} {
		for range 3 {
			// One by one: ping waits two round trips for the last of several answers, and a busy machine needs longer.
			if output, err := pair.A.Run("ping", "-n", "-c", "1", "-W", "10", target.String()); err != nil {
				t.Errorf("ping %s: %v\n%s", target, err, output)
			}
		}
	}
}
