package lab

import (
	"encoding/binary"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The kernel puts the fragments of ESP packets together before Coati sees them (RFC 4303, section 3.4.1), within limits of its own.

// brokenESP is an ESP packet for an SA that will not authenticate: whoever counts it has seen all of it.
func brokenESP(udp bool, spi, sequence uint32) Datagram {
	d := Datagram{Protocol: protoESP, SrcPort: portNATT, DstPort: portNATT, Payload: make([]byte, 8+2400)}
	if udp {
		d.Protocol = protoUDP
	}
	binary.BigEndian.PutUint32(d.Payload, spi)
	binary.BigEndian.PutUint32(d.Payload[4:], sequence)
	return d
}

// halves cuts an IPv4 packet in two.
func halves(whole []byte, id uint16) (first, last []byte) {
	const header, cut = 20, 1400
	part := func(data []byte, word uint16) []byte {
		p := append(append([]byte(nil), whole[:header]...), data...)
		binary.BigEndian.PutUint16(p[4:], id)
		binary.BigEndian.PutUint16(p[6:], word)
		return p
	}
	return part(whole[header:header+cut], 0x2000), part(whole[header+cut:], cut/8)
}

// dropped is how many packets the gateway's SAs count under a reason.
func (c *Coati) dropped(t testing.TB, reason string) (n uint64) {
	for _, p := range c.Pairs(t) {
		n += p.In.Drops[reason]
	}
	return n
}

// fragmentMemory is what the host's kernel keeps of packets that are not complete, octets.
func (h *Host) fragmentMemory(t testing.TB) (n int) {
	t.Helper()
	err := h.Inside(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/sockstat")
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) == 5 && f[0] == "FRAG:" {
				n, err = strconv.Atoi(f[4])
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestOuterFragments: ESP in fragments, in order or not, arrives whole. Thousands of fragments without an end take no more memory than
// the kernel is told to give them, and a live tunnel loses nothing by them; when they are forgotten, fragments pass again.
func TestOuterFragments(t *testing.T) {
	NeedRoot(t)
	const limit = 256 << 10
	for _, encap := range []string{"esp", "udp"} {
		t.Run(encap, func(t *testing.T) {
			t.Parallel()
			pair := NewPair(t)
			a, b := pair.A, pair.B
			a.Sysctl(t, "net.ipv4.ipfrag_low_thresh", strconv.Itoa(limit/2))
			a.Sysctl(t, "net.ipv4.ipfrag_high_thresh", strconv.Itoa(limit))
			a.Sysctl(t, "net.ipv4.ipfrag_time", "3")
			tunnel := Between(a, b)
			tunnel.Encap = encap
			target := StartCoati(t, a, tunnel)
			peer := StartCoati(t, b, tunnel.Reversed())
			NoLoss(t, b, a, 3)
			number, err := strconv.ParseUint(target.Pairs(t)[0].In.SPI, 0, 32)
			if err != nil {
				t.Fatal(err)
			}
			spi := uint32(number)
			id := uint16(0)
			fragments := func(from netip.Addr) (first, last []byte) {
				id++
				return halves(brokenESP(encap == "udp", spi, 1<<20+uint32(id)).packet(from, a.Outer4), id)
			}
			const reason = "authentication failed"
			for n := range 10 {
				first, last := fragments(b.Outer4)
				shots := [][]byte{first, last}
				if n%2 == 1 {
					shots[0], shots[1] = last, first
				}
				b.FirePackets(t, a.Outer4, shots)
			}
			WaitFor(t, 10*time.Second, "ten packets in fragments to be opened", func() bool { return target.dropped(t, reason) == 10 })

			stranger := netip.MustParseAddr("10.9.0.66")
			b.AddAddress(t, "eth0", netip.PrefixFrom(stranger, 24))
			stream := StartStream(t, a, a.LAN4, b, b.LAN4, 500, 400)
			most := 0
			for n := range 40 {
				from := stranger
				if n%2 == 0 {
					from = b.Outer4
				}
				var shots [][]byte
				for range 50 {
					first, _ := fragments(from)
					shots = append(shots, first)
				}
				b.FirePackets(t, a.Outer4, shots)
				mark := stream.Received()
				WaitFor(t, 10*time.Second, "the stream to go on", func() bool { return stream.Received() > mark })
				// One packet more may be taken in by each processor that looks at the limit.
				most = max(most, a.fragmentMemory(t))
			}
			if most < limit/2 || most > limit+64<<10 {
				t.Errorf("%d octets of fragments were kept, of %d that may be", most, limit)
			}
			stream.Stop().Undisturbed(t)
			WaitFor(t, 20*time.Second, "packets in fragments to be opened again", func() bool {
				first, last := fragments(b.Outer4)
				b.FirePackets(t, a.Outer4, [][]byte{first, last})
				return target.dropped(t, reason) > 10
			})
			NoLoss(t, b, a, 3)
			target.Alive(t)
			peer.Alive(t)
		})
	}
}
