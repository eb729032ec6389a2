package esp

import (
	"net/netip"

	"coati/packet"
	"coati/policy"
)

// Transport mode (RFC 4303, section 3.1.1): the packet's own header stays in front of ESP, which carries what follows it.
// On the way out the kernel writes that header anew from the path; a packet with more in it than that (options, extension
// headers for the way, a small hop limit) leaves with a header of ours (header.go). On the way in the header is made from
// the addresses the packet came by, and options and extension headers stand in it again as they came.

// leastHopLimit is below which a packet's hop limit must be kept: somebody counts hops.
const leastHopLimit = 32

// outside says how many octets of a packet stay in front of ESP, where among them the number of what follows stands, and
// that number. IPv4 options and IPv6 headers for nodes on the way stay; destination options that no routing header follows are
// for the end, and protected (RFC 4303, section 3.1.1).
func outside(pkt []byte) (n, at int, next byte) {
	if pkt[0]>>4 == 4 {
		return packet.IPv4(pkt).HeaderLen(), 9, pkt[9]
	}
	n, at, next = packet.IPv6Len, 6, pkt[6]
	end, where, proto := n, at, next
	for proto == packet.ProtoHopByHop || proto == packet.ProtoRouting || proto == packet.ProtoDestOpts {
		if end+8 > len(pkt) {
			break
		}
		size := 8 + 8*int(pkt[end+1])
		if end+size > len(pkt) {
			break
		}
		onWay := proto != packet.ProtoDestOpts
		where, proto, end = end, pkt[end], end+size
		if onWay {
			n, at, next = end, where, proto
		}
	}
	return n, at, next
}

// strip prepares the loaded packets for transport mode; false, and counted, if the SA cannot carry them: they are not between
// its two ends.
func (o *Outbound) strip(sa *outSA) bool {
	s, path := &o.plan, sa.path.Load()
	if o.info.DstAddr() != path.Remote.Addr().WithZone("") || path.Local.IsValid() && !path.Local.Addr().IsUnspecified() && o.info.SrcAddr() != path.Local.Addr().WithZone("") {
		o.drop(sa, DropNotBetween, s.count)
		return false
	}
	o.bare, o.nextAt, o.bareNext = outside(s.pkt)
	return true
}

// sharedNAT is an error if another host behind the NAT of this SA's peer has some of its traffic.
func (p *Plane) sharedNAT(sa *policy.SA, gone map[policy.SAID]bool) error {
	if sa.Mode != policy.Transport || sa.Direction != policy.Outbound {
		return nil
	}
	for id, o := range p.out {
		if gone[id] || o.usage.expired.Load() {
			continue
		}
		if err := policy.BehindOneNAT(sa, &o.config, o.path.Load()); err != nil {
			return err
		}
	}
	return nil
}

// bareLen moves a packet that was built at dst so that what ESP carries of it begins there, and returns its length.
func (o *Outbound) bareLen(dst []byte, length int) int {
	return copy(dst, dst[o.bare:length])
}

// reheader makes a packet again of what a transport mode SA was to carry.
func reheader(frame []byte, path *policy.Path, tos, next byte, payload []byte) []byte {
	at := len(frame)
	src, dst := path.Local.Addr(), path.Remote.Addr()
	frame = appendHeader(frame, src, dst, tos, next, len(payload))
	frame = append(frame, payload...)
	if src.Is4() {
		packet.IPv4(frame[at:]).FillChecksum()
	}
	return frame
}

// appendHeader appends an IP header whose IPv4 checksum is missing.
func appendHeader(b []byte, src, dst netip.Addr, tos, next byte, payload int) []byte {
	at := len(b)
	if src.Is4() {
		b = append(b, make([]byte, packet.IPv4Len)...)
		ip := packet.IPv4(b[at:])
		// The header has DF, so that its ID means nothing (RFC 6864, section 4.1).
		ip[0], ip[1], ip[6], ip[8], ip[9] = 0x45, tos, 0x40, defaultHopLimit, next
		ip.SetTotalLen(packet.IPv4Len + payload)
		s, d := src.As4(), dst.As4()
		copy(ip[12:], s[:])
		copy(ip[16:], d[:])
		return b
	}
	b = append(b, make([]byte, packet.IPv6Len)...)
	ip := packet.IPv6(b[at:])
	ip.SetTrafficClass(tos)
	ip.SetPayloadLen(payload)
	ip[6], ip[7] = next, defaultHopLimit
	s, d := src.As16(), dst.As16()
	copy(ip[8:], s[:])
	copy(ip[24:], d[:])
	return b
}

// appendFront appends what stood in front of ESP to the header at the beginning of b.
func appendFront(b []byte, f *packet.Front) ([]byte, bool) {
	n := len(f.Octets)
	if b[0]>>4 == 4 {
		if !f.Fits4() {
			return b, false
		}
		ip := packet.IPv4(b)
		ip[0] += byte(n / 4)
		ip.SetTotalLen(ip.TotalLen() + n)
		return append(b, f.Octets...), true
	}
	last, ok := f.Fits6()
	if !ok {
		return b, false
	}
	ip := packet.IPv6(b)
	ip.SetPayloadLen(ip.PayloadLen() + n)
	next := ip[6]
	ip[6] = f.First
	b = append(b, f.Octets...)
	b[packet.IPv6Len+last] = next
	return b, true
}

const defaultHopLimit = 64

// restoreRoom is where restored packets lie until they are written: a Receive's worth, more or less.
const restoreRoom = 1 << 18

// restore makes a packet of what a transport mode SA carried, and hands it on; the result is its length, 0 if it was dropped.
func (in *Inbound) restore(sa *inSA, text []byte, run *Datagrams) int {
	next := text[len(text)-1]
	payload, ok := stripPadding(text)
	switch {
	case !ok:
		in.drop(sa, DropPadding, 1)
		return 0
	case next == packet.ProtoNoNext:
		in.drop(sa, DropDummy, 1) // RFC 4303, section 2.6: without a word
		return 0
	}
	path := sa.path.Load()
	src, dst := path.Remote.Addr(), path.Local.Addr()
	if run.From.IsValid() && run.Local.IsValid() {
		src, dst = run.From.Addr(), run.Local.Addr()
	}
	src, dst = src.Unmap().WithZone(""), dst.Unmap().WithZone("")
	i := &in.info
	front := &run.Front
	if src.BitLen() != dst.BitLen() || len(payload)+packet.IPv6Len+len(front.Octets) > packet.MaxIPPacket {
		in.drop(sa, DropInner, 1)
		return 0
	}
	pkt := in.room(packet.IPv6Len + len(front.Octets) + len(payload))[:0]
	pkt = appendHeader(pkt, src, dst, run.TOS, next, len(payload))
	if len(front.Octets) > 0 || front.Cut {
		if pkt, ok = appendFront(pkt, front); !ok {
			in.drop(sa, DropFront, 1)
			return 0
		}
	}
	pkt = append(pkt, payload...)
	if src.Is4() {
		packet.IPv4(pkt).FillChecksum()
	}
	if packet.Parse(pkt, i) != nil || i.Fragment {
		in.drop(sa, DropInner, 1)
		return 0
	}
	if path.Encap == policy.EncapUDP {
		fixChecksum(&sa.config, pkt, i)
	}
	if why, ok := in.permitted(sa, pkt); !ok {
		in.drop(sa, why, 1)
		return 0
	}
	if i.Protocol == packet.ProtoTCP && i.HasPorts && packet.TCP(pkt[i.Transport:]).Flags()&packet.TCPSyn != 0 {
		clampMSS(pkt, i, int(sa.mtu.Load()), sa.config.MSS)
	}
	in.used += len(pkt)
	in.join.add(pkt, i)
	return i.Length
}

// room is n octets that nothing in the joiner refers to.
func (in *Inbound) room(n int) []byte {
	if len(in.join.order) == 0 {
		in.used = 0
	}
	if in.restored == nil {
		in.restored = make([]byte, restoreRoom)
	}
	if in.used+n > len(in.restored) {
		in.join.flushAll()
		in.used = 0
	}
	return in.restored[in.used:][:n:n]
}

// fixChecksum corrects a TCP or UDP checksum that was computed with the addresses the peer sees, of which a NAT changed some
// (RFC 3948, section 3.1.2): by the difference where they are known (RFC 7296, section 2.23.1), else anew, as the packet
// was authenticated.
func fixChecksum(sa *policy.SA, pkt []byte, i *packet.Info) {
	offset := packet.TCPChecksumOffset
	switch {
	case !i.HasPorts:
		return
	case i.Protocol == packet.ProtoUDP:
		offset = packet.UDPChecksumOffset
	case i.Protocol != packet.ProtoTCP:
		return
	}
	t := pkt[i.Transport:]
	field := t[offset : offset+2]
	sum := uint16(field[0])<<8 | uint16(field[1])
	if sum == 0 && i.Protocol == packet.ProtoUDP && i.Version == 4 {
		return
	}
	if from, to := sa.OriginalRemote, sa.OriginalLocal; from.IsValid() && to.IsValid() && from.BitLen() == i.SrcAddr().BitLen() && to.BitLen() == from.BitLen() {
		sum = ^packet.AddSum(packet.AddSum(packet.AddSum(^sum, ^addressSum(from, to)), addressSum(i.SrcAddr(), i.DstAddr())), 0)
	} else {
		field[0], field[1] = 0, 0
		sum = ^packet.Sum(t, packet.PseudoSum(pkt, i.Protocol, len(t)))
	}
	if sum == 0 && i.Protocol == packet.ProtoUDP {
		sum = 0xffff // zero means none (RFC 768)
	}
	field[0], field[1] = byte(sum>>8), byte(sum)
}

func addressSum(a, b netip.Addr) uint16 {
	if a.Is4() {
		x, y := a.As4(), b.As4()
		return packet.Sum(y[:], packet.Sum(x[:], 0))
	}
	x, y := a.As16(), b.As16()
	return packet.Sum(y[:], packet.Sum(x[:], 0))
}
