package tun

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"coati/packet"
)

// Control messages (cmsg(3)) and socket addresses, read and written by hand: x/sys would
// allocate for each packet.

const (
	cmsgLenSize = int(unsafe.Sizeof(unix.Cmsghdr{}.Len))
	cmsgHeader  = unix.SizeofCmsghdr
	cmsgAlign   = int(unsafe.Sizeof(uintptr(0)))

	// controlSize holds every message we send, and all we have asked for but what stands in front of a packet.
	controlSize = 256
	// receiveControlSize has room for headers in front of a packet besides.
	receiveControlSize = 2048
)

// received is what the control messages of one receive say.
type received struct {
	local    netip.Addr
	tos      byte
	segSize  int // 0: one datagram
	hasLocal bool
	front    packet.Front
}

// parseControl reads the messages we enabled and skips others. Broken lengths end it. What stood in front of the packet is put
// together in room; cut says that the kernel had more to say than fitted.
func parseControl(b, room []byte, cut bool) received {
	var r received
	r.front.Cut = cut
	for len(b) >= cmsgHeader {
		size := cmsgLen(b)
		if size < uint64(cmsgHeader) || size > uint64(len(b)) {
			return r
		}
		level := int32(binary.NativeEndian.Uint32(b[cmsgLenSize:]))
		typ := int32(binary.NativeEndian.Uint32(b[cmsgLenSize+4:]))
		data := b[cmsgHeader:size]
		switch {
		case level == unix.IPPROTO_IP && typ == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			// ipi_spec_dst, which is ours also where the destination was a broadcast.
			r.local, r.hasLocal = netip.AddrFrom4([4]byte(data[4:8])), true
		case level == unix.IPPROTO_IPV6 && typ == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			r.local, r.hasLocal = netip.AddrFrom16([16]byte(data[:16])), true
		case level == unix.IPPROTO_IP && typ == unix.IP_TOS && len(data) >= 1:
			r.tos = data[0]
		case level == unix.IPPROTO_IPV6 && typ == unix.IPV6_TCLASS && len(data) >= 4:
			r.tos = byte(binary.NativeEndian.Uint32(data))
		case level == unix.SOL_UDP && typ == unix.UDP_GRO && len(data) >= 4:
			if n := int32(binary.NativeEndian.Uint32(data)); n > 0 {
				r.segSize = int(n)
			}
		case level == unix.IPPROTO_IP && typ == unix.IP_RECVOPTS:
			r.addFront(room, 0, data)
		case level == unix.IPPROTO_IPV6 && typ == unix.IPV6_HOPOPTS:
			r.addFront(room, packet.ProtoHopByHop, data)
		case level == unix.IPPROTO_IPV6 && typ == unix.IPV6_RTHDR:
			r.addFront(room, packet.ProtoRouting, data)
		case level == unix.IPPROTO_IPV6 && typ == unix.IPV6_DSTOPTS:
			r.addFront(room, packet.ProtoDestOpts, data)
		}
		next := (int(size) + cmsgAlign - 1) &^ (cmsgAlign - 1)
		if next >= len(b) {
			return r
		}
		b = b[next:]
	}
	return r
}

// addFront appends a header that stood in front of the packet, or its options.
func (r *received) addFront(room []byte, proto byte, data []byte) {
	f := &r.front
	if len(f.Octets) == 0 {
		f.First = proto
	}
	if len(f.Octets)+len(data) > len(room) {
		f.Cut = true
		return
	}
	f.Octets = append(room[:len(f.Octets)], data...)
}

func cmsgLen(b []byte) uint64 {
	if cmsgLenSize == 8 {
		return binary.NativeEndian.Uint64(b)
	}
	return uint64(binary.NativeEndian.Uint32(b))
}

// sendControl is the control data of one send: source address, TOS, and last, so that it can be
// cut off, the segment size.
type sendControl struct {
	buf      [controlSize]byte
	source   int // offsets of the values
	tos      int
	segment  int
	plainLen int // without the segment size
	fullLen  int
}

func (c *sendControl) init(v6 bool) {
	at := 0
	put := func(level, typ int32, size int) int {
		b := c.buf[at:]
		if n := unix.CmsgLen(size); cmsgLenSize == 8 {
			binary.NativeEndian.PutUint64(b, uint64(n))
		} else {
			binary.NativeEndian.PutUint32(b, uint32(n))
		}
		binary.NativeEndian.PutUint32(b[cmsgLenSize:], uint32(level))
		binary.NativeEndian.PutUint32(b[cmsgLenSize+4:], uint32(typ))
		data := at + unix.CmsgLen(0)
		at += unix.CmsgSpace(size)
		return data
	}
	if v6 {
		c.source = put(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
		c.tos = put(unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 4)
	} else {
		c.source = put(unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo) + 4
		c.tos = put(unix.IPPROTO_IP, unix.IP_TOS, 4)
	}
	c.plainLen = at
	c.segment = put(unix.SOL_UDP, unix.UDP_SEGMENT, 2)
	c.fullLen = at
}

// set takes an invalid from for "as the route says". The family has been checked.
func (c *sendControl) set(v6 bool, from netip.Addr, tos byte) {
	switch {
	case v6:
		var a [16]byte
		if from.IsValid() {
			a = from.As16()
		}
		copy(c.buf[c.source:], a[:])
	default:
		var a [4]byte
		if from.IsValid() {
			a = from.As4()
		}
		copy(c.buf[c.source:], a[:])
	}
	binary.NativeEndian.PutUint32(c.buf[c.tos:], uint32(tos))
}

func (c *sendControl) setSegment(size int) {
	binary.NativeEndian.PutUint16(c.buf[c.segment:], uint16(size))
}

// sockaddr is room for either family's socket address.
type sockaddr [unix.SizeofSockaddrInet6]byte

// put writes to and returns the address's length.
func (s *sockaddr) put(v6 bool, to netip.AddrPort) uint32 {
	binary.BigEndian.PutUint16(s[2:], to.Port())
	if !v6 {
		binary.NativeEndian.PutUint16(s[0:], unix.AF_INET)
		a := to.Addr().As4()
		copy(s[4:8], a[:])
		return unix.SizeofSockaddrInet4
	}
	binary.NativeEndian.PutUint16(s[0:], unix.AF_INET6)
	clear(s[4:8])
	a := to.Addr().As16()
	copy(s[8:24], a[:])
	// A zone is the interface number, as received gives it.
	var scope uint64
	if z := to.Addr().Zone(); z != "" {
		scope, _ = strconv.ParseUint(z, 10, 32)
	}
	binary.NativeEndian.PutUint32(s[24:28], uint32(scope))
	return unix.SizeofSockaddrInet6
}

// get reads what the kernel wrote.
func (s *sockaddr) get() netip.AddrPort {
	port := binary.BigEndian.Uint16(s[2:])
	switch binary.NativeEndian.Uint16(s[0:]) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(s[4:8])), port)
	case unix.AF_INET6:
		a := netip.AddrFrom16([16]byte(s[8:24]))
		if scope := binary.NativeEndian.Uint32(s[24:28]); scope != 0 && a.IsLinkLocalUnicast() {
			a = a.WithZone(strconv.FormatUint(uint64(scope), 10))
		}
		return netip.AddrPortFrom(a, port)
	}
	return netip.AddrPort{}
}
