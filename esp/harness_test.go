package esp

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"coati/packet"
	"coati/policy"
)

// sent is one call to an Egress.
type sent struct {
	path   policy.Path
	tos    byte
	buf    []byte
	stride int
}

// network is an Egress that keeps what it gets.
type network struct {
	mu    sync.Mutex
	esp   []sent
	clear [][]byte
	fail  error
	mtu   int
}

func (n *network) SendESP(path *policy.Path, tos byte, buf []byte, stride int) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fail != nil {
		return n.fail
	}
	n.esp = append(n.esp, sent{*path, tos, bytes.Clone(buf), stride})
	return nil
}

func (n *network) SendClear(pkt []byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.clear = append(n.clear, bytes.Clone(pkt))
	return nil
}

func (n *network) PathMTU(*policy.Path) int { return n.mtu }

func (n *network) take() []sent {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.esp
	n.esp = nil
	return s
}

// packets of all calls, in order.
func (n *network) packets() [][]byte {
	var out [][]byte
	for _, s := range n.take() {
		for b := s.buf; len(b) > 0; {
			k := min(s.stride, len(b))
			out = append(out, b[:k:k])
			b = b[k:]
		}
	}
	return out
}

// tap is a FrameWriter that keeps frames.
type tap struct {
	mu     sync.Mutex
	frames [][]byte
}

func (t *tap) WriteFrame(iov [][]byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.frames = append(t.frames, slices.Concat(iov...))
	return nil
}

func (t *tap) take() [][]byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.frames
	t.frames = nil
	return f
}

// host is a gateway without a machine: a plane, one queue each way.
type host struct {
	*Plane
	net *network
	tap *tap
	out *Outbound
	in  *Inbound
}

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newHost(change func(*Config)) *host {
	h := &host{net: &network{}, tap: &tap{}}
	c := Config{Egress: h.net, Frames: h.tap, USO: true, Now: start}
	if change != nil {
		change(&c)
	}
	h.Plane = New(c)
	h.out = h.NewOutbound(h.tap)
	h.in = h.NewInbound(h.tap)
	return h
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func selectors(s ...string) (out []policy.Selector) {
	for _, x := range s {
		out = append(out, must(policy.ParseSelector(x)))
	}
	return out
}

var (
	netA = selectors("10.1.0.0/16", "fd01::/16")
	netB = selectors("10.2.0.0/16", "fd02::/16")
)

// link describes a pair of SAs from one host to another.
type link struct {
	enc, integ string
	esn        bool
	window     uint32
	v6, raw    bool
	mtu        int
	lifetime   policy.Lifetime
	standby    bool
	icv96      bool
	transport  bool // between 10.1.0.1 and 10.2.0.1, or their IPv6 likes
	header     policy.TunnelHeader
	tfc        int
	id         uint64 // offset of IDs and SPI
}

var gcm128 = link{enc: "aes128gcm16"}

func (l link) path() policy.Path {
	p := policy.Path{Local: netip.MustParseAddrPort("192.0.2.1:4500"), Remote: netip.MustParseAddrPort("192.0.2.2:4500"), Encap: policy.EncapUDP}
	if l.v6 {
		p = policy.Path{Local: netip.MustParseAddrPort("[2001:db8::1]:4500"), Remote: netip.MustParseAddrPort("[2001:db8::2]:4500"), Encap: policy.EncapUDP}
	}
	if l.transport {
		p.Local, p.Remote = netip.MustParseAddrPort("10.1.0.1:4500"), netip.MustParseAddrPort("10.2.0.1:4500")
		if l.v6 {
			p.Local, p.Remote = netip.MustParseAddrPort("[fd01::1]:4500"), netip.MustParseAddrPort("[fd02::1]:4500")
		}
	}
	if l.raw {
		p.Encap = policy.EncapRaw
	}
	return p
}

func key(n int, seed byte) policy.Secret {
	b := make([]byte, n)
	for i := range b {
		b[i] = seed + byte(i)*7
	}
	return policy.NewSecret(b)
}

// outbound is the sending end's SA, inbound the receiving end's.
func (l link) outbound() policy.SA {
	enc := policy.LookupKeyword(l.enc)
	sa := policy.SA{
		ID: policy.SAID(1 + l.id), Direction: policy.Outbound, Protocol: policy.ProtocolESP, SPI: policy.SPI(0x1000 + l.id), Path: l.path(),
		Local: netA, Remote: netB, Encryption: enc.Transform(), EncryptionKey: key(enc.KeyLen, byte(l.id)), ESN: l.esn, ReqID: 7,
		Lifetime: l.lifetime, Added: start, Standby: l.standby, TunnelMTU: l.mtu, ICV96: l.icv96,
	}
	sa.Header, sa.TFC = l.header, l.tfc
	if l.transport {
		sa.Mode = policy.Transport
	}
	if l.integ != "" {
		i := policy.LookupKeyword(l.integ)
		sa.Integrity, sa.IntegrityKey = i.Transform(), key(i.KeyLen, 99)
	}
	return sa
}

func (l link) inbound() policy.SA {
	sa := l.outbound()
	sa.Direction, sa.Standby = policy.Inbound, false
	sa.Local, sa.Remote = sa.Remote, sa.Local
	sa.Path.Local, sa.Path.Remote = sa.Path.Remote, sa.Path.Local
	sa.ReplayWindow = l.window
	if l.window == 0 {
		sa.ReplayWindow = DefaultReplayWindow
	}
	return sa
}

func protectPolicy() policy.Policy {
	return policy.Policy{ID: 1, Name: "a/b", Direction: policy.Outbound, Action: policy.Protect, Local: netA, Remote: netB, ReqID: 7}
}

// connect makes two hosts with an SA from a to b.
func connect(t testing.TB, l link, change func(*Config)) (a, b *host) {
	t.Helper()
	a, b = newHost(change), newHost(change)
	if err := a.Apply(policy.Tx{PutPolicies: []policy.Policy{protectPolicy()}, AddSAs: []policy.SA{l.outbound()}}); err != nil {
		t.Fatal(err)
	}
	if err := b.Apply(policy.Tx{AddSAs: []policy.SA{l.inbound()}}); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// carry hands what a sent to b's receiving queue, as UDP_GRO would.
func carry(a, b *host) {
	for _, s := range a.net.take() {
		b.in.Receive([]Datagrams{{Buf: s.buf, SegSize: s.stride, From: s.path.Local, Local: s.path.Remote, TOS: s.tos, Encap: s.path.Encap}})
	}
}

func (h *host) drops(r Reason) uint64 { return h.Counters().Drops[r.String()] }

func (h *host) event(t testing.TB) policy.PlaneEvent {
	t.Helper()
	select {
	case ev := <-h.Events():
		return ev
	default:
		t.Fatal("no event")
	}
	return policy.PlaneEvent{}
}

func (h *host) noEvent(t testing.TB) {
	t.Helper()
	select {
	case ev := <-h.Events():
		t.Fatalf("unexpected event: %v sa %d", ev.Kind, ev.SA)
	default:
	}
}

// --- packets ---

// segment describes a packet or a run to be made.
type segment struct {
	v6, udp bool
	payload []byte
	seq     uint32
	flags   byte
	opts    []byte
	id      uint16
	df      bool
	tos     byte
	sport   uint16
	gso     int  // payload octets per packet; 0: one packet
	partial bool // checksum left to us
	dst     byte
	ttl     byte // 0: 64
	ack     uint32
	window  byte
}

// frame makes a virtio frame the way the kernel does.
func (s segment) frame() []byte {
	proto, th, offset := byte(packet.ProtoTCP), packet.TCPLen+len(s.opts), packet.TCPChecksumOffset
	if s.udp {
		proto, th, offset = packet.ProtoUDP, packet.UDPLen, packet.UDPChecksumOffset
	}
	ih := packet.IPv4Len
	if s.v6 {
		ih = packet.IPv6Len
	}
	f := make([]byte, packet.VirtioLen+ih+th+len(s.payload))
	p := f[packet.VirtioLen:]
	if s.v6 {
		p[0] = 0x60
		packet.IPv6(p).SetTrafficClass(s.tos)
		packet.IPv6(p).SetPayloadLen(len(p) - ih)
		p[6], p[7] = proto, 64
		copy(p[8:], netip.MustParseAddr("fd01::1").AsSlice())
		copy(p[24:], netip.MustParseAddr("fd02::1").AsSlice())
		p[39] = s.dst
	} else {
		p[0], p[1], p[8], p[9] = 0x45, s.tos, 64, proto
		packet.IPv4(p).SetTotalLen(len(p))
		packet.IPv4(p).SetID(s.id)
		if s.df {
			p[6] = 0x40
		}
		copy(p[12:], []byte{10, 1, 0, 1, 10, 2, 0, s.dst})
		packet.IPv4(p).FillChecksum()
	}
	if s.ttl != 0 {
		p[8-s.hopLimitAt()] = s.ttl
		if !s.v6 {
			packet.IPv4(p).FillChecksum()
		}
	}
	t := p[ih:]
	binary.BigEndian.PutUint16(t, s.sport)
	binary.BigEndian.PutUint16(t[2:], 5001)
	if s.udp {
		packet.UDP(t).SetLength(len(t))
	} else {
		packet.TCP(t).SetSeq(s.seq)
		binary.BigEndian.PutUint32(t[8:], s.ack)
		t[12], t[13], t[15] = byte(th/4)<<4, s.flags|packet.TCPAck, s.window
		copy(t[packet.TCPLen:], s.opts)
	}
	copy(t[th:], s.payload)
	pseudo := packet.PseudoSum(p, proto, len(t))
	at := t[offset:]
	vh := packet.Virtio(f)
	switch {
	case s.gso > 0:
		kind := byte(packet.GSOTCPv4)
		if s.v6 {
			kind = packet.GSOTCPv6
		}
		if s.udp {
			kind = packet.GSOUDP
		}
		vh.Set(packet.VirtioNeedsChecksum, kind, ih+th, s.gso, ih, offset)
		binary.BigEndian.PutUint16(at, pseudo)
	case s.partial:
		vh.Set(packet.VirtioNeedsChecksum, packet.GSONone, 0, 0, ih, offset)
		binary.BigEndian.PutUint16(at, pseudo)
	default:
		sum := ^naiveSum(p[ih:], uint32(pseudo))
		if sum == 0 && s.udp {
			sum = 0xffff
		}
		binary.BigEndian.PutUint16(at, sum)
	}
	return f
}

// hopLimitAt is how much earlier than the IPv4 TTL the hop limit lies.
func (s segment) hopLimitAt() int {
	if s.v6 {
		return 1
	}
	return 0
}

func naiveSum(b []byte, s uint32) uint16 {
	for i, x := range b {
		s += uint32(x) << (8 * (1 - uint(i)%2))
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// unfold cuts a frame into the packets it stands for, the slow and plain way, as a model of the kernel.
func unfold(t testing.TB, frame []byte) [][]byte {
	t.Helper()
	vh, p := packet.Virtio(frame), bytes.Clone(frame[packet.VirtioLen:])
	var i packet.Info
	if err := packet.Parse(p, &i); err != nil {
		t.Fatalf("frame holds no packet: %v", err)
	}
	p = p[:i.Length]
	checksum := func(q []byte, start, offset int) {
		t := q[start:]
		t[offset], t[offset+1] = 0, 0
		sum := ^naiveSum(t, uint32(packet.PseudoSum(q, i.Protocol, len(t))))
		if sum == 0 && i.Protocol == packet.ProtoUDP {
			sum = 0xffff
		}
		binary.BigEndian.PutUint16(t[offset:], sum)
	}
	if vh.GSOType() == packet.GSONone {
		if vh.Flags()&packet.VirtioNeedsChecksum != 0 {
			checksum(p, vh.ChecksumStart(), vh.ChecksumOffset())
		}
		return [][]byte{p}
	}
	head := i.Transport + packet.UDPLen
	if i.Protocol == packet.ProtoTCP {
		head = i.Transport + packet.TCP(p[i.Transport:]).HeaderLen()
	}
	if got := vh.HeaderLen(); got != head {
		t.Fatalf("virtio header length %d, want %d", got, head)
	}
	var out [][]byte
	for n, data := 0, p[head:]; len(data) > 0; n++ {
		k := min(vh.GSOSize(), len(data))
		q := append(bytes.Clone(p[:head]), data[:k]...)
		last := k == len(data)
		data = data[k:]
		if i.Version == 4 {
			binary.BigEndian.PutUint16(q[2:], uint16(len(q)))
			binary.BigEndian.PutUint16(q[4:], binary.BigEndian.Uint16(p[4:])+uint16(n))
			q[10], q[11] = 0, 0
			binary.BigEndian.PutUint16(q[10:], ^naiveSum(q[:i.Transport], 0))
		} else {
			binary.BigEndian.PutUint16(q[4:], uint16(len(q)-40))
		}
		x := q[i.Transport:]
		if i.Protocol == packet.ProtoTCP {
			binary.BigEndian.PutUint32(x[4:], binary.BigEndian.Uint32(x[4:])+uint32(n*vh.GSOSize()))
			if !last {
				x[13] &^= packet.TCPFin | packet.TCPPsh
			}
			if n > 0 {
				x[13] &^= packet.TCPCwr
			}
			checksum(q, i.Transport, packet.TCPChecksumOffset)
		} else {
			binary.BigEndian.PutUint16(x[4:], uint16(len(x)))
			checksum(q, i.Transport, packet.UDPChecksumOffset)
		}
		out = append(out, q)
	}
	return out
}

func unfoldAll(t testing.TB, frames [][]byte) (out [][]byte) {
	for _, f := range frames {
		out = append(out, unfold(t, f)...)
	}
	return out
}

// byFlow groups packets by flow, keeping their order: flows may overtake each other.
func byFlow(t testing.TB, pkts [][]byte) map[packet.FlowKey][]string {
	out := make(map[packet.FlowKey][]string)
	for _, p := range pkts {
		var i packet.Info
		if err := packet.Parse(p, &i); err != nil {
			t.Fatal(err)
		}
		out[i.FlowKey] = append(out[i.FlowKey], string(p))
	}
	return out
}

func filled(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = seed + byte(i*31>>3)
	}
	return b
}

// policyTx makes the receiving end.
func policyTx(l link) policy.Tx { return policy.Tx{AddSAs: []policy.SA{l.inbound()}} }

// straight is an Egress that is the other end's socket.
type straight struct {
	mu       sync.Mutex
	in       *Inbound
	last     uint32
	disorder int
}

func (s *straight) SendESP(_ *policy.Path, tos byte, buf []byte, stride int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seq := packet.ESP(buf).Sequence(); seq < s.last {
		s.disorder++
	} else {
		s.last = seq
	}
	s.in.Receive([]Datagrams{{Buf: bytes.Clone(buf), SegSize: stride, TOS: tos}})
	return nil
}

func (s *straight) SendClear([]byte) error { return nil }
