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

// halves cuts a packet in two.
func halves(whole []byte, id uint16) (first, last []byte) {
	const header, header6, cut = 20, 40, 1400
	if whole[0]>>4 == 6 {
		part := func(data []byte, word uint16) []byte {
			p := append([]byte(nil), whole[:header6]...)
			p = append(p, whole[6], 0, byte(word>>8), byte(word), 0, 0, byte(id>>8), byte(id))
			p[6] = 44 // RFC 8200, section 4.5
			p = append(p, data...)
			binary.BigEndian.PutUint16(p[4:], uint16(len(p)-header6))
			return p
		}
		return part(whole[header6:header6+cut], 1), part(whole[header6+cut:], cut)
	}
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
func (h *Host) fragmentMemory(t testing.TB, family string) (n int) {
	t.Helper()
	file, name := "/proc/thread-self/net/sockstat", "FRAG:"
	if family == "IPv6" {
		file, name = file+"6", "FRAG6:"
	}
	err := h.Inside(func() error {
		b, err := os.ReadFile(file)
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) == 5 && f[0] == name {
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
	for _, family := range families {
		for _, encap := range []string{"esp", "udp"} {
			t.Run(family+"-"+encap, func(t *testing.T) {
				t.Parallel()
				outerFragments(t, family, encap)
			})
		}
	}
}

func outerFragments(t *testing.T, family, encap string) {
	const limit = 256 << 10
	pair := NewPair(t)
	a, b := pair.A, pair.B
	setting, stranger, bits := "net.ipv4.ipfrag_", netip.MustParseAddr("10.9.0.66"), 24
	if family == "IPv6" {
		setting, stranger, bits = "net.ipv6.ip6frag_", netip.MustParseAddr("fd09::66"), 64
	}
	to, from := outer(a, family), outer(b, family)
	a.Sysctl(t, setting+"low_thresh", strconv.Itoa(limit/2))
	a.Sysctl(t, setting+"high_thresh", strconv.Itoa(limit))
	a.Sysctl(t, setting+"time", "3")
	tunnel := Between(a, b)
	tunnel.Local, tunnel.Remote, tunnel.Encap = to, from, encap
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
		return halves(brokenESP(encap == "udp", spi, 1<<20+uint32(id)).packet(from, to), id)
	}
	const reason = "authentication failed"
	for n := range 10 {
		first, last := fragments(from)
		shots := [][]byte{first, last}
		if n%2 == 1 {
			shots[0], shots[1] = last, first
		}
		b.FirePackets(t, to, shots)
	}
	WaitFor(t, 10*time.Second, "ten packets in fragments to be opened", func() bool { return target.dropped(t, reason) == 10 })

	b.AddAddress(t, "eth0", netip.PrefixFrom(stranger, bits))
	stream := StartStream(t, a, a.LAN4, b, b.LAN4, 500, 400)
	most := 0
	for n := range 40 {
		sender := stranger
		if n%2 == 0 {
			sender = from
		}
		var shots [][]byte
		for range 50 {
			first, _ := fragments(sender)
			shots = append(shots, first)
		}
		b.FirePackets(t, to, shots)
		mark := stream.Received()
		WaitFor(t, 10*time.Second, "the stream to go on", func() bool { return stream.Received() > mark })
		// One packet more may be taken in by each processor that looks at the limit.
		most = max(most, a.fragmentMemory(t, family))
	}
	if most < limit/2 || most > limit+64<<10 {
		t.Errorf("%d octets of fragments were kept, of %d that may be", most, limit)
	}
	stream.Stop().Undisturbed(t)
	WaitFor(t, 20*time.Second, "packets in fragments to be opened again", func() bool {
		first, last := fragments(from)
		b.FirePackets(t, to, [][]byte{first, last})
		return target.dropped(t, reason) > 10
	})
	NoLoss(t, b, a, 3)
	target.Alive(t)
	peer.Alive(t)
}
