package lab

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
	"golang.org/x/sys/unix"
)

const (
	portIKE  = 500
	portNATT = 4500
	protoUDP = 17
	protoESP = 50
)

// A Datagram is what was inside an IP packet: protocol 50, or UDP with its ports.
type Datagram struct {
	Protocol         byte
	SrcPort, DstPort uint16 // of UDP
	Payload          []byte
}

// Datagrams reads those of a capture that IKE or ESP sent to the address.
func Datagrams(t testing.TB, capture string, to netip.Addr) []Datagram {
	t.Helper()
	file, err := os.Open(capture)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	reader, err := pcapgo.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []Datagram
	for {
		frame, _, err := reader.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		packet := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.DecodeOptions{Lazy: true})
		ip := packet.NetworkLayer()
		if ip == nil || ip.NetworkFlow().Dst().String() != to.String() {
			continue
		}
		var protocol layers.IPProtocol
		switch ip := ip.(type) {
		case *layers.IPv4:
			protocol = ip.Protocol
		case *layers.IPv6:
			protocol = ip.NextHeader
		}
		payload := ip.LayerPayload()
		switch protocol {
		case protoESP:
			out = append(out, Datagram{Protocol: protoESP, Payload: payload})
		case protoUDP:
			if len(payload) < 8 {
				continue
			}
			d := Datagram{
				Protocol: protoUDP,
				SrcPort:  binary.BigEndian.Uint16(payload), DstPort: binary.BigEndian.Uint16(payload[2:]),
				Payload: payload[8:],
			}
			if d.DstPort == portIKE || d.DstPort == portNATT {
				out = append(out, d)
			}
		}
	}
}

// Random makes n datagrams of random octets and lengths for UDP 500, UDP 4500 and protocol 50.
// Every other one for UDP begins like IKEv2 (RFC 7296, section 3.1), to come further than the header.
func Random(rng *rand.Rand, n int) []Datagram {
	out := make([]Datagram, n)
	for i := range out {
		d := &out[i]
		d.Payload = make([]byte, rng.IntN(1400))
		for j := range d.Payload {
			d.Payload[j] = byte(rng.Uint32())
		}
		d.Protocol, d.SrcPort, d.DstPort = protoUDP, portIKE, portIKE
		header := d.Payload
		switch i % 3 {
		case 1:
			d.SrcPort, d.DstPort = portNATT, portNATT
			if len(header) > 4 && i%2 == 0 {
				copy(header, []byte{0, 0, 0, 0}) // the non-ESP marker (RFC 3948, section 2.2)
				header = header[4:]
			}
		case 2:
			d.Protocol = protoESP
			continue
		}
		if i%2 == 0 && len(header) >= 28 {
			header[16] = byte(33 + rng.IntN(21)) // next payload
			header[17] = 0x20                    // version 2.0
			header[18] = byte(34 + rng.IntN(4))  // exchange type
			header[19] = []byte{0x08, 0x20, 0x28, 0x00}[rng.IntN(4)]
			binary.BigEndian.PutUint32(header[24:], uint32(len(header)))
		}
	}
	return out
}

// Mutated makes n datagrams from recorded ones: bits turned, octets replaced, cut short, made
// longer, two joined.
func Mutated(rng *rand.Rand, recorded []Datagram, n int) []Datagram {
	out := make([]Datagram, n)
	for i := range out {
		d := recorded[rng.IntN(len(recorded))]
		d.Payload = slices.Clone(d.Payload)
		for range 1 + rng.IntN(4) {
			if len(d.Payload) == 0 {
				break
			}
			at := rng.IntN(len(d.Payload))
			switch rng.IntN(5) {
			case 0:
				d.Payload[at] ^= 1 << rng.IntN(8)
			case 1:
				d.Payload[at] = byte(rng.Uint32())
			case 2:
				d.Payload = d.Payload[:at]
			case 3:
				d.Payload = append(d.Payload, make([]byte, 1+rng.IntN(64))...)
			case 4:
				other := recorded[rng.IntN(len(recorded))].Payload
				d.Payload = append(d.Payload[:at], other[rng.IntN(len(other)+1):]...)
			}
		}
		// A mutation that undid another would be a replay of the real thing, which is allowed.
		d.Payload = d.Payload[:min(len(d.Payload), 1400)]
		out[i] = d
	}
	return out
}

// Fire sends datagrams from the host as if they came from the address, which may be another's.
func (h *Host) Fire(t testing.TB, from, to netip.Addr, datagrams []Datagram) {
	t.Helper()
	packets := make([][]byte, len(datagrams))
	for i, d := range datagrams {
		packets[i] = d.packet(from, to)
	}
	h.FirePackets(t, to, packets)
}

// FirePackets sends whole IP packets from the host.
func (h *Host) FirePackets(t testing.TB, to netip.Addr, packets [][]byte) {
	t.Helper()
	h.FirePacketsBound(t, netip.Addr{}, to, packets)
}

// FirePacketsBound is FirePackets by a socket of an own address, without which the kernel looks for a policy with whatever source
// address the route has.
func (h *Host) FirePacketsBound(t testing.TB, local, to netip.Addr, packets [][]byte) {
	t.Helper()
	address := func(a netip.Addr) (family int, _ unix.Sockaddr) {
		if a.Is6() {
			return unix.AF_INET6, &unix.SockaddrInet6{Addr: a.As16()}
		}
		return unix.AF_INET, &unix.SockaddrInet4{Addr: a.As4()}
	}
	family, target := address(to)
	err := h.Inside(func() error {
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if local.IsValid() {
			_, here := address(local)
			if err := unix.Bind(fd, here); err != nil {
				return err
			}
		}
		for _, p := range packets {
			if err := unix.Sendto(fd, p, 0, target); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// packet puts IP and UDP in front. What an IPv4 header lacks the kernel fills in; in IPv6 UDP must have a checksum (RFC
// 8200, section 8.1).
func (d Datagram) packet(from, to netip.Addr) []byte {
	var udp []byte
	if d.Protocol == protoUDP {
		udp = binary.BigEndian.AppendUint16(udp, d.SrcPort)
		udp = binary.BigEndian.AppendUint16(udp, d.DstPort)
		udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(d.Payload)))
		udp = append(udp, 0, 0)
	}
	payload := append(udp, d.Payload...)
	if to.Is6() {
		b := make([]byte, 40, 40+len(payload))
		b[0], b[6], b[7] = 0x60, d.Protocol, 64
		binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
		copy(b[8:], from.AsSlice())
		copy(b[24:], to.AsSlice())
		if d.Protocol == protoUDP {
			binary.BigEndian.PutUint16(payload[6:], checksum6(b, payload))
		}
		return append(b, payload...)
	}
	b := make([]byte, 20, 20+len(payload))
	b[0], b[8], b[9] = 0x45, 64, d.Protocol
	copy(b[12:], from.AsSlice())
	copy(b[16:], to.AsSlice())
	return append(b, payload...)
}

// checksum6 is UDP's over IPv6, with the pseudo-header (RFC 8200, section 8.1).
func checksum6(header, payload []byte) uint16 {
	sum := uint32(len(payload)) + protoUDP
	add := func(octets []byte) {
		for i, o := range octets {
			if i%2 == 0 {
				sum += uint32(o) << 8
			} else {
				sum += uint32(o)
			}
		}
	}
	add(header[8:40])
	add(payload)
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum == 0xffff {
		return 0xffff
	}
	return ^uint16(sum)
}
