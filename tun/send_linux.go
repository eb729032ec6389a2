package tun

import (
	"errors"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// maxSegments is the kernel's UDP_MAX_SEGMENTS before Linux 6.9, when it became 128.
	maxSegments = 64
	// maxUDPPayload fits an IPv4 packet of 65,535 octets: 65535 - 20 - 8.
	maxUDPPayload = 65507
	// segmentRest is how many sends go without UDP_SEGMENT after the kernel said that the device
	// of this route can't do it. Then it is tried again: routes change.
	segmentRest = 1024
	// socketBuffer is asked for in each direction, in octets. A run of 64 KiB is one entry, and a
	// receiver that is off the CPU for 10 ms at 5 Gbit/s needs this much.
	socketBuffer = 8 << 20
)

// ErrTooBig says that a packet was larger than the link's MTU and did not leave. It carries DF,
// so the kernel neither fragments it nor keeps silent.
var ErrTooBig = errors.New("packet is larger than the path mtu")

var (
	errFamily  = errors.New("address family is not the socket's")
	errNoBytes = errors.New("nothing to send")
)

// conn is a non-blocking socket in the runtime's poller: blocked calls end with Close.
type conn struct {
	file *os.File
	raw  syscall.RawConn
}

func newConn(fd int, name string) (conn, error) {
	c := conn{file: os.NewFile(uintptr(fd), name)}
	var err error
	if c.raw, err = c.file.SyscallConn(); err != nil {
		c.file.Close()
		return conn{}, err
	}
	return c, nil
}

func (c conn) close() error {
	if c.file == nil {
		return nil
	}
	return plainError(c.file.Close())
}

// control runs f on the descriptor.
func (c conn) control(f func(fd int) error) error {
	var err error
	if cerr := c.raw.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return os.ErrClosed
	}
	return err
}

// sender sends packets of equal size to one destination: one sendmsg with UDP_SEGMENT where
// possible, else one sendmmsg. Whatever way they take, the octets are the caller's, so a packet
// sealed once is never sealed again.
type sender struct {
	conn conn
	v6   bool
	gso  bool // UDP only

	fallbacks atomic.Uint64

	mu    sync.Mutex // guards what follows: one run leaves at a time
	rest  int        // sends to go before UDP_SEGMENT is tried again
	name  sockaddr
	ctl   sendControl
	msgs  [maxSegments]unix.Mmsghdr
	iovs  [maxSegments]unix.Iovec
	first int // of msgs, what goes out next
	count int // of msgs, how many are prepared
	sent  int
	errno syscall.Errno

	// Made once: a closure per call would be an allocation.
	sendmsg, sendmmsg func(fd uintptr) bool
}

func (s *sender) init(c conn, v6, gso bool) {
	s.conn, s.v6, s.gso = c, v6, gso
	s.ctl.init(v6)
	for i := range s.msgs {
		h := &s.msgs[i].Hdr
		h.Name = &s.name[0]
		h.Iov = &s.iovs[i]
		h.SetIovlen(1)
		h.Control = &s.ctl.buf[0]
	}
	s.sendmsg = func(fd uintptr) bool {
		for {
			_, _, s.errno = unix.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&s.msgs[0].Hdr)), unix.MSG_NOSIGNAL)
			if s.errno != unix.EINTR {
				return s.errno != unix.EAGAIN
			}
		}
	}
	s.sendmmsg = func(fd uintptr) bool {
		for {
			var n uintptr
			n, _, s.errno = unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&s.msgs[s.first])), uintptr(s.count-s.first), unix.MSG_NOSIGNAL, 0, 0)
			if s.errno == 0 {
				s.sent = int(n)
			}
			if s.errno != unix.EINTR {
				return s.errno != unix.EAGAIN
			}
		}
	}
}

// send sends buf as packets of segSize octets, the last one possibly shorter; segSize of 0 or of
// len(buf) and more means one packet.
func (s *sender) send(to netip.AddrPort, from netip.Addr, tos byte, buf []byte, segSize int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.address(to, from, tos); err != nil {
		return err
	}
	if len(buf) == 0 {
		return errNoBytes
	}
	if segSize <= 0 || segSize >= len(buf) {
		return s.one(buf, 0)
	}
	if !s.gso || segSize > maxUDPPayload {
		return s.each(buf, segSize)
	}
	run := min(maxSegments, maxUDPPayload/segSize) * segSize
	var failed error
	for len(buf) > 0 {
		part := buf[:min(run, len(buf))]
		buf = buf[len(part):]
		if err := s.run(part, segSize); err != nil {
			if err != ErrTooBig {
				return err
			}
			failed = err
		}
	}
	return failed
}

// run sends up to maxSegments packets at once, and one by one where the kernel won't: EIO when
// the device can't checksum, EINVAL or EMSGSIZE when a packet does not fit the route's MTU.
func (s *sender) run(part []byte, segSize int) error {
	if len(part) <= segSize {
		return s.one(part, 0)
	}
	if s.rest > 0 {
		s.rest--
		return s.each(part, segSize)
	}
	switch err := s.one(part, segSize); err {
	case unix.EIO:
		s.rest = segmentRest
	case unix.EINVAL, ErrTooBig:
	default:
		return err
	}
	s.fallbacks.Add(1)
	return s.each(part, segSize)
}

func (s *sender) address(to netip.AddrPort, from netip.Addr, tos byte) error {
	if to.Addr().Is6() != s.v6 || from.IsValid() && from.Is6() != s.v6 || !to.IsValid() {
		return errFamily
	}
	n := s.name.put(s.v6, to)
	s.ctl.set(s.v6, from, tos)
	for i := range s.msgs {
		s.msgs[i].Hdr.Namelen = n
	}
	return nil
}

func (s *sender) prepare(i int, b []byte, control int) {
	s.iovs[i].Base = &b[0]
	s.iovs[i].SetLen(len(b))
	s.msgs[i].Hdr.SetControllen(control)
}

// one sends one message; segSize 0 leaves UDP_SEGMENT away.
func (s *sender) one(b []byte, segSize int) error {
	control := s.ctl.plainLen
	if segSize > 0 {
		s.ctl.setSegment(segSize)
		control = s.ctl.fullLen
	}
	s.prepare(0, b, control)
	err := s.conn.raw.Write(s.sendmsg)
	s.iovs[0].Base = nil
	return s.result(err)
}

// each sends packet by packet. One that is too big does not hold up the others, among which the
// last may be smaller.
func (s *sender) each(buf []byte, segSize int) error {
	var failed error
	for len(buf) > 0 {
		s.count = 0
		for len(buf) > 0 && s.count < maxSegments {
			b := buf[:min(segSize, len(buf))]
			buf = buf[len(b):]
			s.prepare(s.count, b, s.ctl.plainLen)
			s.count++
		}
		for s.first = 0; s.first < s.count; {
			s.sent = 0
			switch err := s.result(s.conn.raw.Write(s.sendmmsg)); {
			case err == nil && s.sent > 0:
				s.first += s.sent
			case err == ErrTooBig:
				failed = err
				s.first++
			case err == nil:
				return unix.EIO
			default:
				return err
			}
		}
	}
	return failed
}

func (s *sender) result(err error) error {
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

// enlarge sets both socket buffers, past the sysctl limits where we may.
func enlarge(fd int) {
	for _, o := range [...]struct{ force, plain int }{
		{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF},
		{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF},
	} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o.force, socketBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o.plain, socketBuffer)
		}
	}
}

// lost counts what came for the socket and found no room in its buffer, since it was opened; 0 after Close.
func (c conn) lost() uint64 {
	const drops = 8 // SK_MEMINFO_DROPS, the last of nine numbers
	var info [drops + 1]uint32
	size := uint32(unsafe.Sizeof(info))
	var errno syscall.Errno
	if err := c.control(func(fd int) error {
		_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		return nil
	}); err != nil || errno != 0 {
		return 0
	}
	return uint64(info[drops])
}

// option is one setsockopt with an int.
type option struct {
	level, name, value int
	what               string
}

func setOptions(fd int, opts []option) error {
	for _, o := range opts {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			if errors.Is(err, unix.EPERM) {
				return errNoCapability
			}
			return errors.New("socket option " + o.what + ": " + err.Error())
		}
	}
	return nil
}

// addressOptions make the kernel say the local address and TOS of what arrives, and keep it from
// fragmenting what leaves. DF is set and the kernel's path MTU is not asked (IP_PMTUDISC_PROBE): the kernel believes any
// ICMP error that has the right ports. A packet larger than the link's MTU is ErrTooBig.
func addressOptions(v6 bool) []option {
	if v6 {
		return []option{
			{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1, "IPV6_RECVPKTINFO"},
			{unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1, "IPV6_RECVTCLASS"},
			{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE, "IPV6_MTU_DISCOVER"},
		}
	}
	return []option{
		{unix.IPPROTO_IP, unix.IP_PKTINFO, 1, "IP_PKTINFO"},
		{unix.IPPROTO_IP, unix.IP_RECVTOS, 1, "IP_RECVTOS"},
		{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE, "IP_MTU_DISCOVER"},
	}
}

// frontOptions make the kernel say what stood between the IP header and what arrives; it says nothing where nothing did.
func frontOptions(v6 bool) []option {
	if v6 {
		return []option{
			{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPOPTS, 1, "IPV6_RECVHOPOPTS"},
			{unix.IPPROTO_IPV6, unix.IPV6_RECVRTHDR, 1, "IPV6_RECVRTHDR"},
			{unix.IPPROTO_IPV6, unix.IPV6_RECVDSTOPTS, 1, "IPV6_RECVDSTOPTS"},
		}
	}
	return []option{{unix.IPPROTO_IP, unix.IP_RECVOPTS, 1, "IP_RECVOPTS"}}
}

func family(v6 bool) int {
	if v6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func unixSockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	sa := &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	return sa
}
