package tun

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Packets that the TUN gave us and policy leaves in clear (BYPASS, level use) go out through a
// raw socket that takes whole IP packets (IP_HDRINCL, IPV6_HDRINCL). Its mark keeps our rule from
// leading them into the TUN again.

var errNotIP = errors.New("not an ip packet")

// Clear sends whole IP packets past our own routes.
type Clear struct {
	v4, v6 *clearSocket // v6 is nil where the machine has no IPv6
	change *Change
}

type clearSocket struct {
	conn conn
	v6   bool

	mu    sync.Mutex // guards what follows
	name  sockaddr
	msg   unix.Msghdr
	iov   unix.Iovec
	errno syscall.Errno
	send  func(fd uintptr) bool // made once: a closure per call would be an allocation
}

// OpenClear opens the way out for both families.
func (h *Host) OpenClear() (*Clear, error) {
	c := &Clear{}
	var err error
	if c.v4, err = h.openClearSocket(false); err != nil {
		return nil, err
	}
	c.v6, err = h.openClearSocket(true)
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, errors.Join(err, c.v4.conn.close())
	}
	c.change = h.ledger.Record("raw socket for clear packets", c.close)
	return c, nil
}

func (h *Host) openClearSocket(v6 bool) (*clearSocket, error) {
	fd, err := unix.Socket(family(v6), unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW)
	if err != nil {
		if errors.Is(err, unix.EPERM) {
			err = errNoCapability
		}
		return nil, err
	}
	// A raw socket of protocol IPPROTO_RAW receives nothing and includes headers by default.
	opts := []option{{unix.SOL_SOCKET, unix.SO_MARK, int(h.mark), "SO_MARK"}}
	if v6 {
		opts = append(opts, option{unix.IPPROTO_IPV6, unix.IPV6_HDRINCL, 1, "IPV6_HDRINCL"})
	} else {
		opts = append(opts, option{unix.IPPROTO_IP, unix.IP_HDRINCL, 1, "IP_HDRINCL"})
	}
	if err := setOptions(fd, opts); err != nil {
		unix.Close(fd)
		return nil, err
	}
	enlarge(fd)
	conn, err := newConn(fd, "raw socket for clear packets")
	if err != nil {
		return nil, err
	}
	s := &clearSocket{conn: conn, v6: v6}
	s.msg.Name = &s.name[0]
	s.msg.Iov = &s.iov
	s.msg.SetIovlen(1)
	s.send = func(fd uintptr) bool {
		for {
			_, _, s.errno = unix.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&s.msg)), unix.MSG_NOSIGNAL)
			if s.errno != unix.EINTR {
				return s.errno != unix.EAGAIN
			}
		}
	}
	return s, nil
}

// Control calls f with each socket.
func (c *Clear) Control(f func(fd int, v6 bool) error) error {
	for _, s := range []*clearSocket{c.v4, c.v6} {
		if s == nil {
			continue
		}
		var err error
		if rawErr := s.conn.raw.Control(func(fd uintptr) { err = f(int(fd), s.v6) }); rawErr != nil || err != nil {
			return errors.Join(rawErr, err)
		}
	}
	return nil
}

// Send sends one whole IPv4 or IPv6 packet, its checksums complete, as the route to its
// destination says. The kernel neither fragments nor segments it: one that is larger than the
// link's MTU is ErrTooBig.
func (c *Clear) Send(packet []byte) error {
	s, to, err := c.route(packet)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.msg.Namelen = s.name.put(s.v6, netip.AddrPortFrom(to, 0))
	s.iov.Base = &packet[0]
	s.iov.SetLen(len(packet))
	err = s.conn.raw.Write(s.send)
	s.iov.Base = nil
	switch {
	case err != nil:
		return os.ErrClosed
	case s.errno == unix.EMSGSIZE:
		return ErrTooBig
	case s.errno != 0:
		return s.errno
	}
	return nil
}

// SendInFragments sends an IPv6 packet of so many octets of payload in fragments that every path carries (RFC 8200, sections
// 4.5 and 5). The kernel would do so for a raw socket only after it believed an ICMP error, which it reads for connected ones
// alone.
func (c *Clear) SendInFragments(from, to netip.Addr, tos, proto byte, payload []byte) error {
	const headers = 40 + 8
	id := rand.Uint32()
	for offset := 0; offset < len(payload); {
		n := min((leastMTUv6-headers)/8*8, len(payload)-offset)
		more := uint16(0)
		if offset+n < len(payload) {
			more = 1
		}
		b := make([]byte, headers, headers+n)
		b[0], b[1], b[6], b[7] = 0x60|tos>>4, tos<<4, unix.IPPROTO_FRAGMENT, 64
		binary.BigEndian.PutUint16(b[4:], uint16(8+n))
		src, dst := from.As16(), to.As16()
		copy(b[8:], src[:])
		copy(b[24:], dst[:])
		b[40] = proto
		binary.BigEndian.PutUint16(b[42:], uint16(offset)|more)
		binary.BigEndian.PutUint32(b[44:], id)
		if err := c.Send(append(b, payload[offset:offset+n]...)); err != nil {
			return err
		}
		offset += n
	}
	return nil
}

func (c *Clear) route(packet []byte) (*clearSocket, netip.Addr, error) {
	switch {
	case len(packet) >= 20 && packet[0]>>4 == 4 && int(binary.BigEndian.Uint16(packet[2:])) == len(packet):
		return c.v4, netip.AddrFrom4([4]byte(packet[16:20])), nil
	case len(packet) >= 40 && packet[0]>>4 == 6 && int(binary.BigEndian.Uint16(packet[4:]))+40 == len(packet):
		if c.v6 == nil {
			return nil, netip.Addr{}, unix.EAFNOSUPPORT
		}
		return c.v6, netip.AddrFrom16([16]byte(packet[24:40])), nil
	}
	return nil, netip.Addr{}, errNotIP
}

// Close ends both sockets.
func (c *Clear) Close() error { return c.change.Undo() }

func (c *Clear) close() error {
	err := c.v4.conn.close()
	if c.v6 != nil {
		err = errors.Join(err, c.v6.conn.close())
	}
	return err
}
