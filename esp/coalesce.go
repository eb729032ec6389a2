package esp

import (
	"bytes"
	"encoding/binary"

	"coati/packet"
)

// Neighbouring segments of a TCP connection, or equal UDP datagrams, become one frame again, by the rules of the
// kernel's own generic receive offload: cut up again, it gives the very same packets. Nothing is copied: a frame is the
// first packet with its headers rewritten, then every other payload where it was decrypted. A packet is held only
// within one Receive; packets of one flow stay in order.

const (
	// openFrames is how many flows are joined at a time. With more, the oldest frame is written out.
	openFrames = 8
	// maxPieces stays below the kernel's limit of 64 segments to a UDP frame.
	maxPieces = 64
)

// joint is a frame being put together.
type joint struct {
	key     packet.FlowKey
	proto   byte
	network int // offset of the transport header
	header  int // length of all headers
	size    int // payload octets of every piece but the last
	total   int // octets of the frame's packet
	next    uint32
	lastID  uint16
	idStep  uint16 // 1, or 0 for DF packets that all have one ID; known from the second on
	pieces  int
	closed  bool // the last piece was shorter, or ended the run
	iov     [1 + maxPieces][]byte
	virtio  [packet.VirtioLen]byte
}

type joiner struct {
	plane *Plane
	// writers are the TUN's queues. A flow is always written to the same one: it stays in order, and the kernel, which
	// gives the flow's answers to the queue that last wrote it, spreads them.
	writers []FrameWriter
	uso     bool
	open    [openFrames]joint
	order   []*joint // those in use, oldest first
	free    []*joint
	zero    [packet.VirtioLen]byte
	single  [2][]byte
}

func (c *joiner) init(p *Plane, w []FrameWriter) {
	c.plane, c.writers, c.uso = p, w, p.config.USO
	c.order = make([]*joint, 0, openFrames)
	c.free = make([]*joint, 0, openFrames)
	for i := range c.open {
		c.free = append(c.free, &c.open[i])
	}
}

// add takes a packet of exactly its own length.
func (c *joiner) add(pkt []byte, i *packet.Info) {
	var found *joint
	at := 0
	for n, j := range c.order {
		if j.key.Is(&i.FlowKey) {
			found, at = j, n
			break
		}
	}
	header, ok := c.joinable(pkt, i)
	if found != nil {
		if ok && found.append(pkt, header) {
			if found.closed {
				c.flush(at)
			}
			return
		}
		c.flush(at)
	} else if i.Fragment {
		// A fragment has no ports to find its flow by, and must not overtake it.
		c.flushAll()
	}
	if !ok {
		c.write(pkt, &i.FlowKey)
		return
	}
	if len(c.free) == 0 {
		c.flush(0)
	}
	j := c.free[len(c.free)-1]
	c.free = c.free[:len(c.free)-1]
	j.start(pkt, i, header)
	c.order = append(c.order, j)
	if j.closed {
		c.flush(len(c.order) - 1)
	}
}

// joinable says whether the packet may be part of a joined frame, and how long its headers are. Its checksum is verified
// here: joined frames are passed on as correct.
func (c *joiner) joinable(pkt []byte, i *packet.Info) (header int, ok bool) {
	if !i.HasPorts || i.Fragment || i.Options {
		return 0, false
	}
	t := pkt[i.Transport:]
	switch i.Protocol {
	case packet.ProtoTCP:
		tcp := packet.TCP(t)
		header = i.Transport + tcp.HeaderLen()
		const no = packet.TCPSyn | packet.TCPRst | packet.TCPUrg
		if tcp.Flags()&no != 0 || tcp.Flags()&packet.TCPAck == 0 || len(pkt) == header {
			return 0, false
		}
	case packet.ProtoUDP:
		udp := packet.UDP(t)
		header = i.Transport + packet.UDPLen
		if !c.uso || udp.Checksum() == 0 || udp.Length() != len(t) || len(pkt) == header {
			return 0, false
		}
	default:
		return 0, false
	}
	return header, packet.Sum(t, packet.PseudoSum(pkt, i.Protocol, len(t))) == 0xffff
}

func (j *joint) start(pkt []byte, i *packet.Info, header int) {
	j.key, j.proto, j.network, j.header = i.FlowKey, i.Protocol, i.Transport, header
	j.size, j.total, j.pieces, j.closed = len(pkt)-header, len(pkt), 1, false
	j.iov[1] = pkt
	if j.proto == packet.ProtoTCP {
		tcp := packet.TCP(pkt[j.network:])
		j.next = tcp.Seq() + uint32(j.size)
		j.closed = tcp.Flags()&(packet.TCPPsh|packet.TCPFin) != 0
	}
	if i.Version == 4 {
		j.lastID = packet.IPv4(pkt).ID()
	}
}

// append adds a packet of the same flow if it continues the frame.
func (j *joint) append(pkt []byte, header int) bool {
	payload := len(pkt) - header
	first := j.iov[1]
	if header != j.header || payload > j.size || j.pieces == maxPieces || j.total+payload > packet.MaxIPPacket || !j.sameIP(first, pkt) {
		return false
	}
	if j.proto == packet.ProtoTCP {
		if !j.sameTCP(packet.TCP(first[j.network:]), packet.TCP(pkt[j.network:])) {
			return false
		}
		j.next += uint32(payload)
		flags := packet.TCP(pkt[j.network:]).Flags() & (packet.TCPPsh | packet.TCPFin)
		f := packet.TCP(first[j.network:])
		f.SetFlags(f.Flags() | flags)
		j.closed = flags != 0
	}
	if first[0]>>4 == 4 {
		j.idStep = packet.IPv4(pkt).ID() - j.lastID
		j.lastID = packet.IPv4(pkt).ID()
	}
	j.pieces++
	j.total += payload
	j.iov[j.pieces] = pkt[header:]
	j.closed = j.closed || payload < j.size
	return true
}

// sameIP compares what segmentation will copy from the first header.
func (j *joint) sameIP(first, pkt []byte) bool {
	if first[0]>>4 == 6 {
		// Version, traffic class and flow label; hop limit.
		return binary.BigEndian.Uint32(first) == binary.BigEndian.Uint32(pkt) && first[7] == pkt[7]
	}
	a, b := packet.IPv4(first), packet.IPv4(pkt)
	if a.TOS() != b.TOS() || a.TTL() != b.TTL() || a.DF() != b.DF() {
		return false
	}
	// IDs count up, or with DF, where they mean nothing (RFC 6864, section 4.1), may be all the same.
	step := b.ID() - j.lastID
	if j.pieces > 1 {
		return step == j.idStep
	}
	return step == 1 || step == 0 && a.DF()
}

func (j *joint) sameTCP(a, b packet.TCP) bool {
	const may = packet.TCPPsh | packet.TCPFin | packet.TCPCwr
	return b.Seq() == j.next && a.Ack() == b.Ack() && a.Window() == b.Window() && a[12] == b[12] &&
		(a.Flags()^b.Flags())&^may == 0 && b.Flags()&packet.TCPCwr == 0 &&
		bytes.Equal(a[packet.TCPLen:a.HeaderLen()], b[packet.TCPLen:b.HeaderLen()])
}

func (c *joiner) flushAll() {
	for len(c.order) > 0 {
		c.flush(0)
	}
}

// flush writes out the frame at an index of order.
func (c *joiner) flush(at int) {
	j := c.order[at]
	c.order = append(c.order[:at], c.order[at+1:]...)
	c.free = append(c.free, j)
	if j.pieces == 1 {
		c.write(j.iov[1], &j.key)
	} else {
		j.finish()
		c.send(j.iov[:1+j.pieces], &j.key)
	}
	clear(j.iov[:1+j.pieces])
}

// finish makes the first header say what the whole frame is. The checksum field gets the pseudo-header's sum: the
// kernel, or the device it leaves by, computes the rest per segment if anyone needs it.
func (j *joint) finish() {
	first := j.iov[1]
	length := j.total - j.network
	gso := byte(packet.GSOTCPv6)
	if first[0]>>4 == 4 {
		ip := packet.IPv4(first)
		ip.SetTotalLen(j.total)
		ip.FillChecksum()
		gso = packet.GSOTCPv4
	} else {
		packet.IPv6(first).SetPayloadLen(j.total - packet.IPv6Len)
	}
	sum := packet.PseudoSum(first, j.proto, length)
	offset := packet.TCPChecksumOffset
	if j.proto == packet.ProtoTCP {
		tcp := packet.TCP(first[j.network:])
		tcp.SetChecksum(sum)
		if tcp.Flags()&packet.TCPCwr != 0 {
			gso |= packet.GSOECN
		}
	} else {
		gso, offset = packet.GSOUDP, packet.UDPChecksumOffset
		udp := packet.UDP(first[j.network:])
		udp.SetLength(length)
		udp.SetChecksum(sum)
	}
	packet.Virtio(j.virtio[:]).Set(packet.VirtioNeedsChecksum, gso, j.header, j.size, j.network, offset)
	j.iov[0] = j.virtio[:]
}

// write passes one packet on as it is.
func (c *joiner) write(pkt []byte, key *packet.FlowKey) {
	c.single[0], c.single[1] = c.zero[:], pkt
	c.send(c.single[:], key)
	c.single[1] = nil
}

func (c *joiner) send(iov [][]byte, key *packet.FlowKey) {
	w := c.writers[0]
	if n := uint64(len(c.writers)); n > 1 {
		w = c.writers[uint64(lane(key))%n]
	}
	if w.WriteFrame(iov) != nil {
		c.plane.count.drops.add(DropWriteFailed, 1)
		return
	}
	c.plane.count.framesIn.Add(1)
}

// lane spreads flows over queues so that none is overtaken by itself: fragments after the first have no ports, so outside
// TCP, which does not fragment, ports don't count.
func lane(key *packet.FlowKey) uint32 {
	if key.Protocol == packet.ProtoTCP {
		return key.Hash()
	}
	k := *key
	k.SrcPort, k.DstPort = 0, 0
	return k.Hash()
}
