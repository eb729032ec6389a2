package esp

import (
	"coati/packet"
)

// syn says whether the loaded frame opens a TCP connection.
func (o *Outbound) syn() bool {
	return o.info.Protocol == packet.ProtoTCP && o.info.HasPorts && packet.TCP(o.plan.pkt[o.info.Transport:]).Flags()&packet.TCPSyn != 0
}

// clampMSS lowers a SYN's MSS so that segments of the answer fit the tunnel, whose MTU may be unknown (0), or to fixed.
// With a negative one nothing is changed.
func clampMSS(pkt []byte, info *packet.Info, mtu, fixed int) {
	headers := packet.IPv4Len + packet.TCPLen
	if info.Version == 6 {
		headers = packet.IPv6Len + packet.TCPLen
	}
	mss := fixed
	if fixed == 0 {
		mss = mtu - headers
	}
	if mss > 0 {
		packet.TCP(pkt[info.Transport:]).ClampMSS(uint16(min(mss, 65535)))
	}
}

// tooBig is for packets that do not fit the tunnel (RFC 4301, section 8.2.1): IPv4 without DF is fragmented, before it is
// encrypted or after, as the SA says (in transport mode after: section 4.1); everything else is answered. An IPv6 host need not send less than 1280 octets, so what
// is not larger goes in fragments, too (RFC 8200, section 5), and what its sender had fragmented.
func (o *Outbound) tooBig(sa *outSA, mtu int) {
	s := &o.plan
	switch {
	case s.v4 && !packet.IPv4(s.pkt).DF():
		if sa.config.FragmentAfter || sa.tr.transport {
			o.departInFragments(sa)
		} else {
			o.fragmentAll(sa, mtu)
		}
	case !s.v4 && (s.length() <= packet.MinMTUv6 || o.assembled):
		o.departInFragments(sa)
	default:
		o.drop(sa, DropTooBig, s.count)
		o.answerTooBig(mtu)
	}
}

// departInFragments lets the loaded packets leave as they are, to be fragmented outside.
func (o *Outbound) departInFragments(sa *outSA) {
	o.Flush()
	o.plane.count.fragmented.Add(uint64(o.plan.count))
	o.ready.fragments = true
	o.depart(sa)
	o.Flush()
	o.ready.fragments = false
}

// fragmentAll fragments each packet of the loaded frame that is too large.
func (o *Outbound) fragmentAll(sa *outSA, mtu int) {
	if o.plan.kind == packet.GSONone {
		o.fragment(sa, mtu)
		return
	}
	run := o.plan
	if o.whole == nil {
		o.whole = make([]byte, packet.MaxIPPacket)
	}
	for i := range run.count {
		n := run.build(i, o.whole)
		o.plan = plan{pkt: o.whole[:n], v4: true, size: n, count: 1}
		if n > mtu {
			o.fragment(sa, mtu)
		} else {
			o.depart(sa)
		}
	}
}

// fragment sends the loaded IPv4 packet as fragments of at most mtu octets (RFC 791, section 3.2).
func (o *Outbound) fragment(sa *outSA, mtu int) {
	whole := o.plan.pkt
	ip := packet.IPv4(whole)
	header, offset, last := ip.HeaderLen(), ip.FragmentOffset(), !ip.MoreFragments()
	room := (mtu - header) / 8 * 8
	if room <= 0 {
		o.drop(sa, DropTooBig, 1)
		return
	}
	if o.piece == nil {
		o.piece = make([]byte, packet.MaxIPPacket)
	}
	o.plane.count.fragmented.Add(1)
	for data := whole[header:]; len(data) > 0; {
		n := min(room, len(data))
		piece := o.piece[:header+n]
		copy(piece, whole[:header])
		copy(piece[header:], data[:n])
		data = data[n:]
		p := packet.IPv4(piece)
		p.SetTotalLen(len(piece))
		p.SetFragment(offset, !last || len(data) > 0)
		if offset > 0 {
			blankOptions(piece[packet.IPv4Len:header])
		}
		p.FillChecksum()
		offset += n
		o.plan = plan{pkt: piece, v4: true, size: len(piece), count: 1}
		o.depart(sa)
	}
}

// blankOptions turns the options that fragments after the first do not carry into no-operations (RFC 791, section 3.1).
func blankOptions(opts []byte) {
	for i := 0; i < len(opts); {
		n := 1
		if opts[i] > 1 {
			if i+1 >= len(opts) || opts[i+1] < 2 || i+int(opts[i+1]) > len(opts) {
				return
			}
			n = int(opts[i+1])
		}
		if opts[i]&0x80 == 0 && opts[i] > 1 {
			for j := i; j < i+n; j++ {
				opts[j] = 1
			}
		}
		i += n
	}
}

// answerTooBig tells the sender of the loaded frame what fits.
func (o *Outbound) answerTooBig(mtu int) {
	if o.info.Version == 6 {
		mtu = max(mtu, packet.MinMTUv6)
	}
	b, ok := packet.AppendTooBig(o.icmp[:packet.VirtioLen], o.plan.pkt, &o.info, o.info.DstAddr(), mtu)
	o.answer(b, ok)
}

// answerProhibited answers pkt, which o.info describes, where no SA came up (RFC 4301, section 6).
func (o *Outbound) answerProhibited(pkt []byte) {
	b, ok := packet.AppendProhibited(o.icmp[:packet.VirtioLen], pkt, &o.info, o.info.DstAddr())
	o.answer(b, ok)
}

// answer writes an ICMP error to the TUN. Its source is the packet's destination: an address that is certain to be
// routed to the TUN, so that no reverse-path filter minds.
func (o *Outbound) answer(b []byte, ok bool) {
	if !ok || o.writer == nil {
		return
	}
	packet.Virtio(b).Set(0, packet.GSONone, 0, 0, 0, 0)
	o.iov[0] = b
	if o.writer.WriteFrame(o.iov[:]) != nil {
		o.plane.count.drops.add(DropWriteFailed, 1)
		return
	}
	o.plane.count.icmpAnswers.Add(1)
}
