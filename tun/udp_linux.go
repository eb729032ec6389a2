package tun

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"coati/packet"
)

// UDP sockets for IKE and ESP-in-UDP (RFC 3948). All sockets of one local address and port form
// one SO_REUSEPORT group: the kernel's hash gives each peer's 4-tuple to one of them.
//
// The path MTU. The sockets set DF and send what fits the link (IP_PMTUDISC_PROBE): UDP_SEGMENT needs
// packets that fit anyway, and an ESP packet that does not fit is better answered by a smaller inner MTU
// than by fragments. What fits the path is not left to the kernel, which believes any ICMP error that
// quotes the right ports; see [UnreachableSocket]. An IKE message has no such choice before both ends
// agreed on IKE fragmentation (RFC 7383): SendMessage lets the kernel fragment a long one. ICMP errors are
// not asked for (no IP_RECVERR): anyone can forge them, and they end no SA.

// MaxReceives is how many runs of datagrams one ReceiveAll gives at most.
const MaxReceives = 8

// UDPConfig says where to listen.
type UDPConfig struct {
	Local   netip.AddrPort // address may be unspecified, of either family; port 0 takes any
	Sockets int            // at least 1; one per queue
	// Prepare is called with each socket before it is bound; nil: nothing is to be done.
	Prepare func(fd int, v6 bool) error
	// NoReceiveOffload has every datagram come by itself.
	NoReceiveOffload bool
}

// UDP is a group of sockets of one local address and port.
type UDP struct {
	local   netip.AddrPort
	sockets []*UDPSocket
	gso     bool
	gro     bool
	lock    *lock
	change  *Change
}

// UDPSocket is one of the group: one receiver and any number of senders at a time.
type UDPSocket struct {
	out sender

	mu    sync.Mutex // guards what follows
	names [MaxReceives]sockaddr
	ctls  [MaxReceives][receiveControlSize]byte
	msgs  [MaxReceives]unix.Mmsghdr
	iovs  [MaxReceives]unix.Iovec
	want  int
	n     int
	errno syscall.Errno
	one   [1]Datagrams
	buf   [1][]byte

	recvmmsg func(fd uintptr) bool // made once: a closure per call would be an allocation
}

// Datagrams describes what one Receive put into the buffer: N octets in datagrams of SegSize
// octets each, of which only the last may be shorter. One datagram has SegSize == N.
type Datagrams struct {
	N       int
	SegSize int
	From    netip.AddrPort // an IPv6 link-local address has the interface's number as its zone
	Local   netip.Addr
	TOS     byte // type of service or traffic class, with the ECN bits
	// Front lies in the buffer behind the datagrams. Without its Octets they came right behind their IP header.
	Front packet.Front
}

// OpenUDP opens the group. A port that another daemon or program has, also if only one of the two
// has the unspecified address, is an error that names it.
func (h *Host) OpenUDP(c UDPConfig) (*UDP, error) {
	c.Local = netip.AddrPortFrom(c.Local.Addr().Unmap(), c.Local.Port())
	if !c.Local.IsValid() {
		return nil, errors.New("no local address to listen on")
	}
	u := &UDP{local: c.Local}
	err := underStartLock(func() error {
		if err := u.claim(); err != nil {
			return err
		}
		for range max(1, c.Sockets) {
			s, err := h.openUDPSocket(u, &c)
			if err != nil {
				return explainBind(u.local, err)
			}
			u.sockets = append(u.sockets, s)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, u.close())
	}
	u.change = h.ledger.Record("udp "+u.local.String(), u.close)
	return u, nil
}

// claim binds once without SO_REUSEPORT. That fails whenever a socket overlaps with ours, with
// that option or without; the lock afterwards only gives the next one a process to name. Port 0
// becomes a port here: with SO_REUSEPORT the kernel might choose one that another socket has.
func (u *UDP) claim() error {
	fd, err := unix.Socket(family(u.local.Addr().Is6()), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return explainBind(u.local, err)
	}
	defer unix.Close(fd)
	if u.local.Addr().Is6() {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return explainBind(u.local, err)
		}
	}
	if err := unix.Bind(fd, unixSockaddr(u.local)); err != nil {
		return explainBind(u.local, err)
	}
	port, err := boundPort(fd)
	if err != nil {
		return explainBind(u.local, err)
	}
	u.local = netip.AddrPortFrom(u.local.Addr(), port)
	if u.lock, err = takeLock(udpLock(u.local)); err != nil {
		return explainBind(u.local, err)
	}
	return nil
}

func udpLock(a netip.AddrPort) string { return lockPrefix + "udp/" + a.String() }

func explainBind(a netip.AddrPort, err error) error {
	where := fmt.Sprintf("udp %d on %v", a.Port(), a.Addr())
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		holder := "another program: look with ss -ulnp"
		suffix := fmt.Sprintf(":%d", a.Port())
		for _, name := range locksNamed(lockPrefix + "udp/") {
			other, perr := netip.ParseAddrPort(strings.TrimPrefix(name, lockPrefix+"udp/"))
			if perr == nil && strings.HasSuffix(name, suffix) && overlap(a.Addr(), other.Addr()) {
				holder = lockHolder(name)
				break
			}
		}
		return fmt.Errorf("%s is in use by %s", where, holder)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("%s: no interface has this address", where)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%s: ports below 1024 need root or CAP_NET_BIND_SERVICE", where)
	case errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("%s: this machine has no %s", where, familyName(a.Addr().Is6()))
	}
	return fmt.Errorf("%s: %w", where, err)
}

func overlap(a, b netip.Addr) bool {
	return a.Is4() == b.Is4() && (a == b || a.IsUnspecified() || b.IsUnspecified())
}

func familyName(v6 bool) string {
	if v6 {
		return "ipv6"
	}
	return "ipv4"
}

func (h *Host) openUDPSocket(u *UDP, c *UDPConfig) (*UDPSocket, error) {
	v6 := u.local.Addr().Is6()
	fd, err := unix.Socket(family(v6), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	opts := append(addressOptions(v6), frontOptions(v6)...)
	if v6 {
		opts = append(opts, option{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1, "IPV6_V6ONLY"})
	}
	opts = append(opts,
		option{unix.SOL_SOCKET, unix.SO_REUSEPORT, 1, "SO_REUSEPORT"},
		option{unix.SOL_SOCKET, unix.SO_MARK, int(h.mark), "SO_MARK"})
	if err := setOptions(fd, opts); err != nil {
		unix.Close(fd)
		return nil, err
	}
	if c.Prepare != nil {
		if err := c.Prepare(fd, v6); err != nil {
			unix.Close(fd)
			return nil, err
		}
	}
	enlarge(fd)
	u.gro = !c.NoReceiveOffload && unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1) == nil
	u.gso = unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, 0) == nil
	if err := unix.Bind(fd, unixSockaddr(u.local)); err != nil {
		unix.Close(fd)
		return nil, err
	}
	pc, err := newConn(fd, "udp "+u.local.String())
	if err != nil {
		return nil, err
	}
	s := &UDPSocket{}
	s.out.init(pc, v6, u.gso)
	for i := range s.msgs {
		m := &s.msgs[i].Hdr
		m.Name = &s.names[i][0]
		m.Iov = &s.iovs[i]
		m.SetIovlen(1)
		m.Control = &s.ctls[i][0]
	}
	s.recvmmsg = func(fd uintptr) bool {
		for i := range s.want {
			s.msgs[i].Hdr.Namelen = uint32(len(s.names[i]))
			s.msgs[i].Hdr.SetControllen(len(s.ctls[i]))
		}
		for {
			var n uintptr
			// What is there, but at least one: without MSG_WAITFORONE a non-blocking socket does the same.
			n, _, s.errno = unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&s.msgs[0])), uintptr(s.want), 0, 0, 0)
			s.n = int(n)
			if s.errno != unix.EINTR {
				return s.errno != unix.EAGAIN
			}
		}
	}
	return s, nil
}

func boundPort(fd int) (uint16, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return 0, err
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return uint16(sa.Port), nil
	case *unix.SockaddrInet6:
		return uint16(sa.Port), nil
	}
	return 0, unix.EAFNOSUPPORT
}

// Local is the address and port the group is bound to.
func (u *UDP) Local() netip.AddrPort { return u.local }

// Sockets are the sockets of the group.
func (u *UDP) Sockets() []*UDPSocket { return u.sockets }

// Offloads says what was achieved, for people: "gso, gro", or "none", and what was asked for in vain.
func (u *UDP) Offloads() string {
	var parts []string
	if u.gso {
		parts = append(parts, "gso")
	}
	if u.gro {
		parts = append(parts, "gro")
	}
	if len(parts) == 0 {
		parts = append(parts, "none")
	}
	var fallbacks uint64
	for _, s := range u.sockets {
		fallbacks += s.Fallbacks()
	}
	if fallbacks > 0 {
		parts = append(parts, fmt.Sprintf("%d runs sent one by one", fallbacks))
	}
	return strings.Join(parts, ", ")
}

// Lost counts the datagrams that found no room in the buffers of the group's sockets.
func (u *UDP) Lost() (n uint64) {
	for _, s := range u.sockets {
		n += s.out.conn.lost()
	}
	return n
}

// Close ends the group; blocked receives and sends return os.ErrClosed.
func (u *UDP) Close() error { return u.change.Undo() }

func (u *UDP) close() error {
	var errs []error
	for _, s := range u.sockets {
		errs = append(errs, s.out.conn.close())
	}
	if u.lock != nil {
		errs = append(errs, u.lock.release())
		u.lock = nil
	}
	return errors.Join(errs...)
}

// Receive waits for a datagram, or a run of datagrams of one peer that the kernel merged. buf
// holds 65,535 octets at least. One receiver at a time.
func (s *UDPSocket) Receive(buf []byte) (Datagrams, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf[0] = buf
	_, err := s.receive(s.buf[:], s.one[:])
	s.buf[0] = nil
	return s.one[0], err
}

// ReceiveAll waits for at least one run of datagrams, and returns what is there: at most MaxReceives,
// len(bufs) or len(out) of them. Each lies in its own buffer, which holds 65,535 octets at least.
func (s *UDPSocket) ReceiveAll(bufs [][]byte, out []Datagrams) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.receive(bufs, out)
}

func (s *UDPSocket) receive(bufs [][]byte, out []Datagrams) (int, error) {
	s.want = min(len(bufs), len(out), MaxReceives)
	if s.want == 0 {
		return 0, errShortBuffer
	}
	for i := range s.want {
		if len(bufs[i]) < 65535 {
			return 0, errShortBuffer
		}
		s.iovs[i].Base = &bufs[i][0]
		s.iovs[i].SetLen(len(bufs[i]))
	}
	err := s.out.conn.raw.Read(s.recvmmsg)
	clear(s.iovs[:s.want])
	switch {
	case err != nil:
		return 0, os.ErrClosed
	case s.errno != 0:
		return 0, s.errno
	}
	for i := range s.n {
		m := &s.msgs[i]
		n := int(m.Len)
		info := parseControl(s.ctls[i][:min(int(m.Hdr.Controllen), len(s.ctls[i]))], bufs[i][n:], m.Hdr.Flags&unix.MSG_CTRUNC != 0)
		packet.Unrecord(info.front.Octets, info.local)
		out[i] = Datagrams{N: n, SegSize: n, From: s.names[i].get(), Local: info.local, TOS: info.tos, Front: info.front}
		if info.segSize > 0 && info.segSize < n {
			out[i].SegSize = info.segSize
		}
	}
	return s.n, nil
}

// Send sends buf as datagrams of segSize octets each, the last one possibly shorter; a segSize of
// 0, or of len(buf) and more, is one datagram. from is the source address, invalid for the
// route's choice. Any length goes: more than 64 datagrams or 65,507 octets take more than one
// system call. Where the kernel won't segment, the same octets leave one by one, in order.
// ErrTooBig says that at least one did not fit the path; the others left.
func (s *UDPSocket) Send(to netip.AddrPort, from netip.Addr, tos byte, buf []byte, segSize int) error {
	return s.out.send(to, from, tos, buf, segSize)
}

// SendMessage sends one datagram and, unlike Send, lets the kernel fragment it: for IKE.
func (s *UDPSocket) SendMessage(to netip.AddrPort, from netip.Addr, tos byte, buf []byte) error {
	if len(buf) <= safeMessage {
		return s.out.send(to, from, tos, buf, 0)
	}
	return s.out.sendFragmented(to, from, tos, buf)
}

const (
	leastMTUv6 = 1280 // octets, of every IPv6 path (RFC 8200, section 5)
	// safeMessage fits that with all headers, octets.
	safeMessage = leastMTUv6 - 40 - 8
)

// SendInFragments is Send, one by one, for datagrams that may be fragmented on their way.
func (s *UDPSocket) SendInFragments(to netip.AddrPort, from netip.Addr, tos byte, buf []byte, segSize int) error {
	return s.out.eachInFragments(to, from, tos, buf, segSize)
}

func (s *sender) eachInFragments(to netip.AddrPort, from netip.Addr, tos byte, buf []byte, segSize int) error {
	for part := range slices.Chunk(buf, max(segSize, 1)) {
		if err := s.sendFragmented(to, from, tos, part); err != nil {
			return err
		}
	}
	return nil
}

// Fallbacks counts the runs that the kernel refused to segment and that left one by one.
func (s *UDPSocket) Fallbacks() uint64 { return s.out.fallbacks.Load() }

// sendFragmented allows fragments for one message. The option is the socket's, and there is no
// control message for it in IPv4; other senders wait on the lock meanwhile.
func (s *sender) sendFragmented(to netip.AddrPort, from netip.Addr, tos byte, buf []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.address(to, from, tos); err != nil {
		return err
	}
	level, name, allow, deny := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT, unix.IP_PMTUDISC_PROBE
	if s.v6 {
		level, name, allow, deny = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT, unix.IPV6_PMTUDISC_PROBE
	}
	set := func(value int) error {
		return s.conn.control(func(fd int) error { return unix.SetsockoptInt(fd, level, name, value) })
	}
	if err := set(allow); err != nil {
		return err
	}
	err := s.one(buf, 0)
	return errors.Join(err, set(deny))
}
