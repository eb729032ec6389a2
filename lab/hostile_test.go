package lab

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestIKEScan(t *testing.T) {
	NeedRoot(t)
	results.Fill(t, peerIKEScan, roleResponder, caseHandshake)
	pair := NewPair(t)
	tunnel := Between(pair.A, pair.B)
	// All that ike-scan offers and we have: AES-CBC and SHA-1.
	tunnel.IKE = "aes128-sha1-modp2048"
	coati := StartCoati(t, pair.A, tunnel)
	output, handshakes := pair.B.IKEScan(t, pair.A.Outer4.String())
	if handshakes != 1 {
		t.Errorf("%d handshakes, want 1:\n%s", handshakes, output)
	}
	coati.Alive(t)
}

// TestHostileDatagrams shoots at a live tunnel, from its peer's own address and ports as well as
// from a stranger's: no panic, and not one datagram of the tunnel's stream lost.
func TestHostileDatagrams(t *testing.T) {
	NeedRoot(t)
	for _, c := range []struct {
		name string
		make func(rng *rand.Rand, recorded []Datagram) []Datagram
	}{
		{caseRandom, func(rng *rand.Rand, _ []Datagram) []Datagram { return Random(rng, 1000) }},
		{caseMutated, func(rng *rand.Rand, recorded []Datagram) []Datagram { return Mutated(rng, recorded, 1000) }},
	} {
		for _, way := range []struct{ family, encap string }{{"IPv4", "esp"}, {"IPv4", "udp"}, {"IPv6", "esp"}, {"IPv6", "udp"}} {
			t.Run(c.name+"/"+way.family+"/"+way.encap, func(t *testing.T) {
				t.Parallel()
				results.Fill(t, peerHostile, roleResponder, c.name+", "+way.family)
				pair := NewPair(t)
				a, b := pair.A, pair.B
				tunnel := Between(a, b)
				tunnel.Encap = way.encap
				tunnel.Local, tunnel.Remote = outer(a, way.family), outer(b, way.family)
				capture := a.Capture(t)
				target := StartCoati(t, a, tunnel)
				peer := StartCoati(t, b, tunnel.Reversed())
				NoLoss(t, b, a, 3)
				peer.Do(t, "rekey", "peer/lan")
				NoLoss(t, b, a, 3)
				before := target.Pairs(t)
				capture.Stop(t)
				recorded := Datagrams(t, capture.File, tunnel.Local)
				if len(recorded) < 10 {
					t.Fatalf("%d datagrams recorded, want 10 at least", len(recorded))
				}

				stream := StartStream(t, a, a.LAN4, b, b.LAN4, 500, 400)
				seed := uint64(time.Now().UnixNano())
				t.Logf("seed %d", seed)
				shots := c.make(rand.New(rand.NewPCG(seed, 0)), recorded)
				stranger := map[string]netip.Addr{"IPv4": netip.MustParseAddr("10.9.0.66"), "IPv6": netip.MustParseAddr("fd09::66")}[way.family]
				b.AddAddress(t, "eth0", netip.PrefixFrom(stranger, map[string]int{"IPv4": 24, "IPv6": 64}[way.family]))
				for i := 0; i < len(shots); i += 20 {
					from := tunnel.Remote
					if i%40 == 0 {
						from = stranger
					}
					b.Fire(t, from, tunnel.Local, shots[i:min(i+20, len(shots))])
					// Between salvos the stream must get through.
					mark := stream.Received()
					WaitFor(t, 10*time.Second, "the stream to go on", func() bool { return stream.Received() > mark })
				}
				stream.Stop().Undisturbed(t)
				NoLoss(t, b, a, 3)
				after := target.Pairs(t)
				if len(after) != 1 || len(before) != 1 || after[0].In.SPI != before[0].In.SPI {
					t.Errorf("SAs before %+v and after %+v", before, after)
				}
				target.Alive(t)
				peer.Alive(t)
			})
		}
	}
}

// TestNoAmplification: whoever has not shown that he receives at his address gets no more octets
// than he sent, unless it is a cookie; and nothing is sent to him again on a timer.
func TestNoAmplification(t *testing.T) {
	NeedRoot(t)
	for _, family := range families {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			results.Fill(t, peerHostile, roleResponder, caseAmplification+", "+family)
			noAmplification(t, family)
		})
	}
}

func noAmplification(t *testing.T, family string) {
	pair := NewPair(t)
	a, b := pair.A, pair.B
	tunnel := Between(a, b)
	tunnel.Local, tunnel.Remote = outer(a, family), outer(b, family)
	coati := StartCoati(t, a, tunnel)
	peer := StartCoati(t, b, tunnel.Reversed())
	capture := a.Capture(t)
	NoLoss(t, b, a, 1)
	peer.Terminate(t)
	capture.Stop(t)
	// The real first message of the exchange, with another SPI each time; whole, and cut to what
	// it cannot do without, which makes a small question.
	var request []byte
	for _, d := range Datagrams(t, capture.File, tunnel.Local) {
		if d.DstPort == portIKE && len(d.Payload) > 28 && d.Payload[18] == 34 {
			request = d.Payload
			break
		}
	}
	if request == nil {
		t.Fatal("no IKE_SA_INIT request was captured")
	}
	var questions [][]byte
	for i := range 20 {
		q := append([]byte(nil), request...)
		binary.BigEndian.PutUint64(q, 0x1122334455660000+uint64(i))
		questions = append(questions, q)
	}
	questions = append(questions, withoutNotifies(request))
	rng := rand.New(rand.NewPCG(1, 2))
	for _, d := range append(Random(rng, 100), Mutated(rng, []Datagram{{Protocol: protoUDP, Payload: request}}, 100)...) {
		questions = append(questions, d.Payload)
	}

	var conn *net.UDPConn
	err := b.Inside(func() (err error) {
		conn, err = net.DialUDP("udp", &net.UDPAddr{IP: tunnel.Remote.AsSlice()}, &net.UDPAddr{IP: tunnel.Local.AsSlice(), Port: portIKE})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// By the SPI of the one who asks, because an answer may come late.
	asked, got := map[uint64]int{}, map[uint64]int{}
	for _, q := range questions {
		if _, err := conn.Write(q); err != nil {
			t.Fatal(err)
		}
		if len(q) >= 8 {
			asked[binary.BigEndian.Uint64(q)] += len(q)
		}
		listen(t, conn, 100*time.Millisecond, got)
	}
	listen(t, conn, 400*time.Millisecond, got)
	if len(got) == 0 {
		t.Error("no question was answered at all: this proves nothing")
	}
	for spi, octets := range got {
		if octets > asked[spi] {
			t.Errorf("questions of %d octets with SPI %x got %d", asked[spi], spi, octets)
		}
	}
	// Retransmission timers begin at a second or less (RFC 7296, section 2.4).
	late := map[uint64]int{}
	listen(t, conn, 4*time.Second, late)
	for spi, octets := range late {
		t.Errorf("%d octets came unasked for SPI %x", octets, spi)
	}
	coati.Alive(t)
}

// listen adds up what arrives that is no cookie, by initiator SPI.
func listen(t *testing.T, conn *net.UDPConn, limit time.Duration, octets map[uint64]int) {
	t.Helper()
	buffer := make([]byte, 65536)
	if err := conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		// A Notify as first payload whose type is COOKIE (16390).
		if n >= 36 && buffer[16] == 41 && binary.BigEndian.Uint16(buffer[34:]) == 16390 {
			continue
		}
		octets[binary.BigEndian.Uint64(append(buffer[:n:n], make([]byte, 8)...))] += n
	}
}

// withoutNotifies cuts the payloads after SA, KE and Nonce off an IKE_SA_INIT request.
func withoutNotifies(request []byte) []byte {
	q := append([]byte(nil), request...)
	next, at, last := q[16], 28, 16
	for next == 33 || next == 34 || next == 40 {
		last = at
		next = q[at]
		at += int(binary.BigEndian.Uint16(q[at+2:]))
	}
	q = q[:at]
	q[last] = 0
	binary.BigEndian.PutUint32(q[24:], uint32(len(q)))
	q[0] ^= 0xff
	return q
}
