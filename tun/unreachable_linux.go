package tun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// ICMP errors about our outer packets: about UDP datagrams, for the sentence that explains a missing answer; and about
// the size of ESP packets. They are read from raw ICMP sockets rather than with IP_RECVERR: that would let anybody's
// forged error fail a send of the data path.

// Unreachable says that a datagram did not arrive (RFC 792; RFC 4443, section 3.1). Anybody can forge it.
type Unreachable struct {
	Local, Remote netip.AddrPort // of the datagram
	What          string         // "port unreachable", "host unreachable", ...
}

// TooBig says that an ESP packet did not fit a link on its way (RFC 1191, section 4; RFC 4443, section 3.2). Anybody can
// forge it.
type TooBig struct {
	Local, Remote netip.AddrPort // of the packet; without ports where it was not in UDP
	UDP           bool
	SPI, Sequence uint32
	MTU           int // octets, as told
}

// UnreachableSocket receives both, for one family: one receiver at a time.
type UnreachableSocket struct {
	conn   conn
	v6     bool
	change *Change
}

// Filters of raw ICMP sockets, from linux/icmp.h and linux/icmpv6.h.
const (
	icmpFilter  = 1 // ICMP_FILTER and ICMPV6_FILTER
	icmp4Type   = 3
	icmp6Type   = 1
	icmp6TooBig = 2
	espProtocol = 50
	udpProtocol = 17

	icmp4TooBig = 4 // a code
)

// OpenUnreachable opens the socket of one family.
func (h *Host) OpenUnreachable(v6 bool) (*UnreachableSocket, error) {
	what, proto := "icmp errors", unix.IPPROTO_ICMP
	if v6 {
		what, proto = "icmpv6 errors", unix.IPPROTO_ICMPV6
	}
	fd, err := unix.Socket(family(v6), unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, explainRaw(what, v6, err)
	}
	if v6 {
		// A set bit keeps a type out.
		var keep [32]byte
		for i := range keep {
			keep[i] = 0xff
		}
		keep[icmp6Type/8] &^= 1<<(icmp6Type%8) | 1<<(icmp6TooBig%8)
		err = unix.SetsockoptString(fd, unix.IPPROTO_ICMPV6, icmpFilter, string(keep[:]))
	} else {
		err = unix.SetsockoptInt(fd, unix.SOL_RAW, icmpFilter, ^(1 << icmp4Type))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: filter: %w", what, err), unix.Close(fd))
	}
	c, err := newConn(fd, what)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	s := &UnreachableSocket{conn: c, v6: v6}
	s.change = h.ledger.Record(what, c.close)
	return s, nil
}

// Close ends Receive with os.ErrClosed.
func (s *UnreachableSocket) Close() error { return s.change.Undo() }

// Receive waits for the next error about a UDP datagram, or about the size of an ESP packet: the one that has no
// addresses is not meant.
func (s *UnreachableSocket) Receive() (Unreachable, TooBig, error) {
	buf := make([]byte, 2048)
	for {
		var n int
		var rerr error
		err := s.conn.raw.Read(func(fd uintptr) bool {
			n, _, rerr = unix.Recvfrom(int(fd), buf, 0)
			return !errors.Is(rerr, unix.EAGAIN)
		})
		if err != nil {
			return Unreachable{}, TooBig{}, os.ErrClosed
		}
		if rerr != nil && !errors.Is(rerr, unix.EINTR) {
			return Unreachable{}, TooBig{}, rerr
		}
		if rerr != nil {
			continue
		}
		if u, ok := parseUnreachable(buf[:n], s.v6); ok {
			return u, TooBig{}, nil
		}
		if t, ok := parseTooBig(buf[:n], s.v6); ok {
			return Unreachable{}, t, nil
		}
	}
}

// parseTooBig reads what a raw socket gives, like parseUnreachable. Routers that quote 64 bits of a UDP datagram (RFC 792)
// quote no SPI: they are not believed.
func parseTooBig(b []byte, v6 bool) (TooBig, bool) {
	var t TooBig
	var src, dst netip.Addr
	var proto byte
	if v6 {
		if len(b) < 8+40 || b[0] != icmp6TooBig || b[8]>>4 != 6 {
			return t, false
		}
		t.MTU = int(min(binary.BigEndian.Uint32(b[4:]), 1<<17))
		src, dst, proto, b = netip.AddrFrom16([16]byte(b[16:32])), netip.AddrFrom16([16]byte(b[32:48])), b[8+6], b[8+40:]
	} else {
		m, ok := pastIPv4(b)
		if !ok || len(m) < 8 || m[0] != icmp4Type || m[1] != icmp4TooBig {
			return t, false
		}
		t.MTU = int(binary.BigEndian.Uint16(m[6:]))
		q := m[8:]
		if b, ok = pastIPv4(q); !ok || binary.BigEndian.Uint16(q[6:])&0x1fff != 0 {
			return t, false
		}
		src, dst, proto = netip.AddrFrom4([4]byte(q[12:16])), netip.AddrFrom4([4]byte(q[16:20])), q[9]
	}
	t.Local, t.Remote = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)
	if proto == udpProtocol {
		if len(b) < 8 {
			return t, false
		}
		t.UDP = true
		t.Local, t.Remote = netip.AddrPortFrom(src, binary.BigEndian.Uint16(b)), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[2:]))
		b = b[8:]
	} else if proto != espProtocol {
		return t, false
	}
	if len(b) < 8 {
		return t, false
	}
	t.SPI, t.Sequence = binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	return t, t.SPI != 0
}

// parseUnreachable reads what a raw socket gives: for IPv4 with the IP header, for IPv6 from the ICMPv6 header on.
func parseUnreachable(b []byte, v6 bool) (Unreachable, bool) {
	what := ""
	if v6 {
		if len(b) < 8 || b[0] != icmp6Type {
			return Unreachable{}, false
		}
		what, b = codes6(b[1]), b[8:]
		// Extension headers before UDP do not occur in what we send.
		if len(b) < 48 || b[0]>>4 != 6 || b[6] != udpProtocol {
			return Unreachable{}, false
		}
		return unreachable(what, netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), b[40:]), what != ""
	}
	b, ok := pastIPv4(b)
	if !ok || len(b) < 8 || b[0] != icmp4Type {
		return Unreachable{}, false
	}
	what, b = codes4(b[1]), b[8:]
	udp, ok := pastIPv4(b)
	if !ok || len(udp) < 8 || b[9] != udpProtocol || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
		return Unreachable{}, false
	}
	return unreachable(what, netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), udp), what != ""
}

func pastIPv4(b []byte) ([]byte, bool) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return nil, false
	}
	n := int(b[0]&0xf) * 4
	if n < 20 || n > len(b) {
		return nil, false
	}
	return b[n:], true
}

func unreachable(what string, src, dst netip.Addr, udp []byte) Unreachable {
	return Unreachable{
		Local: netip.AddrPortFrom(src, binary.BigEndian.Uint16(udp)), Remote: netip.AddrPortFrom(dst, binary.BigEndian.Uint16(udp[2:])), What: what,
	}
}

// codes4 leaves out "fragmentation needed", which the kernel acts upon.
func codes4(code byte) string {
	switch code {
	case 0, 5, 6, 11:
		return "network unreachable"
	case 1, 7, 8, 12:
		return "host unreachable"
	case 2:
		return "protocol unreachable"
	case 3:
		return "port unreachable"
	case 9, 10, 13:
		return "administratively prohibited"
	}
	return ""
}

func codes6(code byte) string {
	switch code {
	case 0:
		return "network unreachable"
	case 1, 5:
		return "administratively prohibited"
	case 2, 3:
		return "host unreachable"
	case 4:
		return "port unreachable"
	case 6:
		return "route rejected"
	}
	return ""
}
