package esp

import (
	"encoding/binary"

	"coati/packet"
)

// plan says how one frame becomes packets: as it is, or cut into segments the way the kernel's own segmentation does.
type plan struct {
	pkt     []byte // the IP packet, without padding
	kind    byte   // packet.GSONone, GSOTCPv4, GSOTCPv6 or GSOUDP
	v4      bool
	network int // offset of the transport header
	header  int // length of all headers, octets
	size    int // payload octets of each segment but the last
	count   int
	id      uint16 // of the first segment, IPv4
	seq     uint32 // of the first segment, TCP
	flags   byte   // TCP
	// Sums of what all segments share, so that none is added up again: the IPv4 header without length, ID and checksum;
	// pseudo-header and transport header without length, sequence number, flags and checksum.
	ipSum, sum uint16
}

// init checks the virtio header against the packet. Frames come from the local kernel, but a guest, a container or a
// bug may stand behind it: nothing is believed. A frame that wants one checksum gets it here, in place.
func (s *plan) init(frame []byte, info *packet.Info) bool {
	vh := packet.Virtio(frame)
	*s = plan{pkt: frame[packet.VirtioLen:][:info.Length], kind: vh.GSOType() &^ packet.GSOECN, v4: info.Version == 4, count: 1}
	if s.kind == packet.GSONone {
		s.size = len(s.pkt)
		return vh.Flags()&packet.VirtioNeedsChecksum == 0 || s.completeChecksum(vh)
	}
	s.network = info.Transport
	if !info.HasPorts || info.Fragment {
		return false
	}
	var proto byte
	switch {
	case s.kind == packet.GSOTCPv4 && s.v4, s.kind == packet.GSOTCPv6 && !s.v4:
		proto = packet.ProtoTCP
		tcp := packet.TCP(s.pkt[s.network:])
		if info.Protocol != proto {
			return false
		}
		s.header = s.network + tcp.HeaderLen()
		s.seq, s.flags = tcp.Seq(), tcp.Flags()
	case s.kind == packet.GSOUDP:
		proto = packet.ProtoUDP
		s.header = s.network + packet.UDPLen
	default:
		return false
	}
	if info.Protocol != proto || s.header > len(s.pkt) {
		return false
	}
	payload := len(s.pkt) - s.header
	s.size = vh.GSOSize()
	if s.size == 0 {
		return false
	}
	s.count = max(1, (payload+s.size-1)/s.size)
	s.shared(proto)
	return true
}

// shared takes the sums of the headers: a field is left out by taking its words away.
func (s *plan) shared(proto byte) {
	word := func(at int) uint16 { return ^binary.BigEndian.Uint16(s.pkt[at:]) }
	if s.v4 {
		s.id = packet.IPv4(s.pkt).ID()
		sum := packet.Sum(s.pkt[:s.network], 0)
		s.ipSum = packet.AddSum(packet.AddSum(packet.AddSum(sum, word(2)), word(4)), word(10))
	}
	sum := packet.Sum(s.pkt[s.network:s.header], packet.PseudoSum(s.pkt, proto, 0))
	if proto == packet.ProtoUDP {
		s.sum = packet.AddSum(packet.AddSum(sum, word(s.network+4)), word(s.network+packet.UDPChecksumOffset))
		return
	}
	sum = packet.AddSum(packet.AddSum(sum, word(s.network+4)), word(s.network+6))
	s.sum = packet.AddSum(packet.AddSum(sum, word(s.network+12)), word(s.network+packet.TCPChecksumOffset))
}

func (s *plan) completeChecksum(vh packet.Virtio) bool {
	start, at := vh.ChecksumStart(), vh.ChecksumStart()+vh.ChecksumOffset()
	if start < packet.IPv4Len || at+2 > len(s.pkt) {
		return false
	}
	sum := ^packet.Sum(s.pkt[start:], 0)
	if sum == 0 && vh.ChecksumOffset() == packet.UDPChecksumOffset {
		sum = 0xffff // zero means none (RFC 768)
	}
	binary.BigEndian.PutUint16(s.pkt[at:], sum)
	vh[0] &^= packet.VirtioNeedsChecksum // a frame that waits is loaded again
	return true
}

// length of the longest packet, octets.
func (s *plan) length() int {
	return min(len(s.pkt), s.header+s.size)
}

// lengthOf the packet i.
func (s *plan) lengthOf(i int) int {
	return min(len(s.pkt)-i*s.size, s.header+s.size)
}

// build writes packet i to dst, which has room for it, and returns its length.
func (s *plan) build(i int, dst []byte) int {
	if s.kind == packet.GSONone {
		return copy(dst, s.pkt)
	}
	n := s.lengthOf(i)
	dst = dst[:n]
	copy(dst, s.pkt[:s.header])
	at := s.header + i*s.size
	sum := packet.CopySum(dst[s.header:], s.pkt[at:at+n-s.header], s.sum)
	if s.v4 {
		ip, id := packet.IPv4(dst), s.id+uint16(i)
		ip.SetTotalLen(n)
		ip.SetID(id)
		ip.SetChecksum(^packet.AddSum(packet.AddSum(s.ipSum, uint16(n)), id))
	} else {
		packet.IPv6(dst).SetPayloadLen(n - packet.IPv6Len)
	}
	transport := dst[s.network:]
	sum = packet.AddSum(sum, uint16(len(transport)))
	if s.kind == packet.GSOUDP {
		udp := packet.UDP(transport)
		udp.SetLength(len(transport))
		if sum = ^packet.AddSum(sum, uint16(len(transport))); sum == 0 {
			sum = 0xffff
		}
		udp.SetChecksum(sum)
		return n
	}
	tcp := packet.TCP(transport)
	seq := s.seq + uint32(i*s.size)
	tcp.SetSeq(seq)
	flags := s.flags
	if i > 0 {
		flags &^= packet.TCPCwr // the first alone answers ECE (RFC 3168, section 6.1.2)
	}
	if i < s.count-1 {
		flags &^= packet.TCPFin | packet.TCPPsh
	}
	tcp.SetFlags(flags)
	sum = packet.AddSum(packet.AddSum(sum, uint16(seq>>16)), uint16(seq))
	tcp.SetChecksum(^packet.AddSum(sum, uint16(tcp[12])<<8|uint16(flags)))
	return n
}
