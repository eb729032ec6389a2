package tun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lookups ask the kernel for routes and interfaces, on a socket of its own with a buffer of its own: each new SA needs an
// answer. None of what it asks takes the kernel's network configuration lock (RTNL), which may be held for seconds while
// namespaces come and go, as RTM_GETLINK would.
type lookups struct {
	mu  sync.Mutex // guards what follows
	fd  int
	seq uint32
	buf [4096]byte
}

// openLookup works in this thread's network namespace from then on.
func openLookup() (*lookups, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	// The answer is there when the question has been sent; a kernel that does not answer must not hold anybody.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}); err != nil {
		return nil, errors.Join(fmt.Errorf("netlink: %w", err), unix.Close(fd))
	}
	return &lookups{fd: fd}, nil
}

func (l *lookups) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	fd := l.fd
	l.fd = -1
	return unix.Close(fd)
}

// route is what RTM_GETROUTE answers (rtnetlink(7)).
type route struct {
	src   netip.Addr // invalid: none is preferred
	index int        // of the interface
	mtu   int        // octets; 0: the interface's
}

// route to dst for packets with a mark. configured: the route as it was written, without what ICMP errors said of the path.
func (l *lookups) route(dst netip.Addr, mark uint32, configured bool) (route, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	if err := l.ask(appendRouteRequest(l.buf[:0], dst.Unmap(), mark, l.seq, configured)); err != nil {
		return route{}, os.NewSyscallError("sendto", err)
	}
	for {
		n, err := l.answer()
		if err != nil {
			return route{}, os.NewSyscallError("recvfrom", err)
		}
		if r, ours, err := parseRoute(l.buf[:n], l.seq); ours {
			return r, err
		}
	}
}

// ask sends a question. The kernel answers it before the call returns, in microseconds: the Go runtime, which else prepares for
// calls that take long, is not told.
func (l *lookups) ask(question []byte) error {
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(l.fd), uintptr(unsafe.Pointer(&question[0])), uintptr(len(question)), 0, 0, 0)
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return errno
		}
	}
}

// answer is the next message, which is there already; else it waits.
func (l *lookups) answer() (n int, err error) {
	got, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(l.fd), uintptr(unsafe.Pointer(&l.buf[0])), uintptr(len(l.buf)), unix.MSG_DONTWAIT, 0, 0)
	if errno == 0 {
		return int(got), nil
	}
	for {
		n, _, err := unix.Recvfrom(l.fd, l.buf[:], 0)
		if err != unix.EINTR {
			return n, err
		}
	}
}

const (
	rtmsgLen    = unix.SizeofRtMsg
	rtaLen      = unix.SizeofRtAttr
	rtmFIBMatch = 0x2000 // RTM_F_FIB_MATCH of linux/rtnetlink.h
)

func appendRouteRequest(b []byte, dst netip.Addr, mark, seq uint32, configured bool) []byte {
	family, flags := byte(unix.AF_INET), uint32(0)
	if dst.Is6() {
		family = unix.AF_INET6
	}
	if configured {
		flags = rtmFIBMatch
	}
	attr := func(kind uint16, value []byte) {
		b = binary.NativeEndian.AppendUint16(b, uint16(rtaLen+len(value)))
		b = binary.NativeEndian.AppendUint16(b, kind)
		b = append(b, value...) // of 4 or 16 octets: aligned
	}
	e := binary.NativeEndian
	b = e.AppendUint32(b, 0)
	b = e.AppendUint16(b, unix.RTM_GETROUTE)
	b = e.AppendUint16(b, unix.NLM_F_REQUEST)
	b = e.AppendUint32(b, seq)
	b = e.AppendUint32(b, 0)
	b = append(b, family, byte(dst.BitLen()), 0, 0, 0, 0, 0, 0)
	b = e.AppendUint32(b, flags)
	attr(unix.RTA_DST, dst.AsSlice())
	attr(unix.RTA_MARK, e.AppendUint32(nil, mark))
	e.PutUint32(b, uint32(len(b)))
	return b
}

var errBadNetlink = errors.New("the kernel's answer cannot be read")

// parseRoute reads one message of the kernel's. ours: it answers the question of that number.
func parseRoute(b []byte, seq uint32) (r route, ours bool, err error) {
	e := binary.NativeEndian
	if len(b) < unix.SizeofNlMsghdr {
		return route{}, false, nil
	}
	size, kind := e.Uint32(b), e.Uint16(b[4:])
	if e.Uint32(b[8:]) != seq {
		return route{}, false, nil
	}
	if size < unix.SizeofNlMsghdr || uint64(size) > uint64(len(b)) {
		return route{}, true, errBadNetlink
	}
	b = b[unix.SizeofNlMsghdr:size]
	switch {
	case kind == unix.NLMSG_ERROR && len(b) >= 4:
		if n := int32(e.Uint32(b)); n < 0 {
			return route{}, true, unix.Errno(-n)
		}
		return route{}, true, errBadNetlink
	case kind != unix.RTM_NEWROUTE || len(b) < rtmsgLen:
		return route{}, true, errBadNetlink
	}
	err = eachAttribute(b[rtmsgLen:], func(kind uint16, v []byte) error {
		switch kind {
		case unix.RTA_OIF:
			if len(v) < 4 {
				return errBadNetlink
			}
			r.index = int(e.Uint32(v))
		case unix.RTA_PREFSRC:
			a, ok := netip.AddrFromSlice(v)
			if !ok {
				return errBadNetlink
			}
			r.src = a.Unmap()
		case unix.RTA_METRICS:
			return eachAttribute(v, func(kind uint16, v []byte) error {
				if kind == unix.RTAX_MTU && len(v) >= 4 {
					r.mtu = int(e.Uint32(v))
				}
				return nil
			})
		}
		return nil
	})
	return r, true, err
}

// eachAttribute walks a list of attributes, each of a length, a type and a value, aligned to four octets.
func eachAttribute(b []byte, f func(kind uint16, value []byte) error) error {
	for len(b) >= rtaLen {
		size := int(binary.NativeEndian.Uint16(b))
		if size < rtaLen || size > len(b) {
			return errBadNetlink
		}
		if err := f(binary.NativeEndian.Uint16(b[2:])&^(1<<15|1<<14), b[rtaLen:size]); err != nil {
			return err
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil
}

// link is an interface's name and MTU, octets.
type link struct {
	name string
	mtu  int
}

// link by its index (netdevice(7)).
func (l *lookups) link(index int) (link, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, err := unix.NewIfreq("")
	if err != nil {
		return link{}, err
	}
	r.SetUint32(uint32(index))
	if err := unix.IoctlIfreq(l.fd, unix.SIOCGIFNAME, r); err != nil {
		return link{}, os.NewSyscallError("SIOCGIFNAME", err)
	}
	name := r.Name()
	if r, err = unix.NewIfreq(name); err != nil {
		return link{}, err
	}
	if err := unix.IoctlIfreq(l.fd, unix.SIOCGIFMTU, r); err != nil {
		return link{}, os.NewSyscallError("SIOCGIFMTU", err)
	}
	return link{name, int(r.Uint32())}, nil
}
