package tun

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"coati/packet"
)

// Raw sockets of protocol 50 (RFC 4303). Every raw socket gets a copy of every ESP packet of its
// namespace, so there is one per family, not one per queue; two daemons see each other's packets,
// and their SPIs tell them apart. While one is open the kernel does not answer ESP with
// "protocol unreachable".

// receiveBatch is the most packets one Receive returns.
const receiveBatch = 64

// RawESPConfig says which ESP packets to receive.
type RawESPConfig struct {
	Local netip.Addr // unspecified for all of its family
}

// RawESP is a raw ESP socket: one receiver and any number of senders at a time.
type RawESP struct {
	out    sender
	v6     bool
	change *Change

	mu      sync.Mutex // guards what follows
	names   [receiveBatch]sockaddr
	ctls    [receiveBatch][receiveControlSize]byte
	msgs    [receiveBatch]unix.Mmsghdr
	iovs    [receiveBatch]unix.Iovec
	want    int
	n       int
	errno   syscall.Errno
	receive func(fd uintptr) bool // made once: a closure per call would be an allocation
}

// Packet is one ESP packet: Data begins with the SPI and lies in the buffer given to Receive.
type Packet struct {
	Data  []byte
	From  netip.Addr // an IPv6 link-local address has the interface's number as its zone
	Local netip.Addr
	TOS   byte // type of service or traffic class, with the ECN bits
	// Front lies in the same buffer as Data. Without its Octets the packet came right behind its IP header.
	Front packet.Front
}

// OpenRawESP opens the raw socket of Local's family.
func (h *Host) OpenRawESP(c RawESPConfig) (*RawESP, error) {
	local := c.Local.Unmap()
	if !local.IsValid() {
		return nil, errors.New("no local address to listen on")
	}
	v6 := local.Is6()
	what := "raw esp on " + local.String()
	fd, err := unix.Socket(family(v6), unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ESP)
	if err != nil {
		return nil, explainRaw(what, v6, err)
	}
	opts := []option{{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE, "IP_MTU_DISCOVER"}}
	if v6 {
		opts = append(addressOptions(v6), frontOptions(v6)...)
	}
	opts = append(opts, option{unix.SOL_SOCKET, unix.SO_MARK, int(h.mark), "SO_MARK"})
	if err := setOptions(fd, opts); err != nil {
		unix.Close(fd)
		return nil, err
	}
	enlarge(fd)
	if !local.IsUnspecified() {
		if err := unix.Bind(fd, unixSockaddr(netip.AddrPortFrom(local, 0))); err != nil {
			unix.Close(fd)
			return nil, explainRaw(what, v6, err)
		}
	}
	conn, err := newConn(fd, what)
	if err != nil {
		return nil, err
	}
	r := &RawESP{v6: v6}
	r.out.init(conn, v6, false)
	for i := range r.msgs {
		m := &r.msgs[i].Hdr
		m.Iov = &r.iovs[i]
		m.SetIovlen(1)
		if v6 {
			m.Name, m.Control = &r.names[i][0], &r.ctls[i][0]
		}
	}
	r.receive = func(fd uintptr) bool {
		if v6 {
			for i := range r.want {
				r.msgs[i].Hdr.Namelen = uint32(len(r.names[i]))
				r.msgs[i].Hdr.SetControllen(len(r.ctls[i]))
			}
		}
		for {
			var n uintptr
			// MSG_WAITFORONE: what is there, but at least one.
			n, _, r.errno = unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.msgs[0])), uintptr(r.want), unix.MSG_WAITFORONE, 0, 0)
			r.n = int(n)
			if r.errno != unix.EINTR {
				return r.errno != unix.EAGAIN
			}
		}
	}
	r.change = h.ledger.Record(what, conn.close)
	return r, nil
}

func explainRaw(what string, v6 bool, err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return errNoCapability
	case errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("%s: this machine has no %s", what, familyName(v6))
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("%s: no interface has this address", what)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Close ends the socket; blocked calls return os.ErrClosed.
func (r *RawESP) Close() error { return r.change.Undo() }

// Lost counts the packets that found no room in the socket's buffer.
func (r *RawESP) Lost() uint64 { return r.out.conn.lost() }

// Receive waits for at least one ESP packet and returns what is there, at most 64, len(bufs) or
// len(out). Each lies in its own buffer; one that was longer than its buffer is left out, so
// buffers should hold the largest packet expected with its IPv4 header, 65,535 octets to be safe.
// n may be 0 without an error. One receiver at a time.
func (r *RawESP) Receive(bufs [][]byte, out []Packet) (n int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.want = min(len(bufs), len(out), receiveBatch)
	if r.want == 0 {
		return 0, errShortBuffer
	}
	for i := range r.want {
		if len(bufs[i]) == 0 {
			return 0, errShortBuffer
		}
		r.iovs[i].Base = &bufs[i][0]
		r.iovs[i].SetLen(len(bufs[i]))
	}
	rerr := r.out.conn.raw.Read(r.receive)
	clear(r.iovs[:r.want])
	if rerr != nil {
		return 0, os.ErrClosed
	}
	if r.errno != 0 {
		return 0, r.errno
	}
	for i := range r.n {
		m := &r.msgs[i]
		if m.Hdr.Flags&unix.MSG_TRUNC != 0 {
			continue
		}
		p, ok := r.packet(i, bufs[i], min(int(m.Len), len(bufs[i])))
		if ok {
			out[n] = p
			n++
		}
	}
	return n, nil
}

// packet strips the IPv4 header, which raw IPv4 sockets deliver and raw IPv6 sockets don't. All we want to know is in
// it, so only IPv6 needs the sender's address and control messages, which cost time for each packet.
func (r *RawESP) packet(i int, buf []byte, n int) (Packet, bool) {
	b := buf[:n]
	if r.v6 {
		from, h := r.names[i].get().Addr(), &r.msgs[i].Hdr
		info := parseControl(r.ctls[i][:min(int(h.Controllen), len(r.ctls[i]))], buf[n:], h.Flags&unix.MSG_CTRUNC != 0)
		return Packet{Data: b, From: from, Local: info.local, TOS: info.tos, Front: info.front}, info.hasLocal
	}
	if len(b) < 20 || b[0]>>4 != 4 {
		return Packet{}, false
	}
	header := int(b[0]&0xf) * 4
	if header < 20 || header > len(b) {
		return Packet{}, false
	}
	p := Packet{Data: b[header:], From: netip.AddrFrom4([4]byte(b[12:16])), Local: netip.AddrFrom4([4]byte(b[16:20])), TOS: b[1]}
	if header > 20 {
		p.Front.Octets = b[20:header]
		packet.Unrecord(p.Front.Octets, p.Local)
	}
	return p, true
}

// Send sends buf as ESP packets of segSize octets each, the last one possibly shorter, with one
// sendmmsg per 64; segSize of 0, or of len(buf) and more, is one packet. from is the source
// address, invalid for the route's choice. ErrTooBig says that at least one did not fit the
// path; the others left.
func (r *RawESP) Send(to, from netip.Addr, tos byte, buf []byte, segSize int) error {
	return r.out.send(netip.AddrPortFrom(to, 0), from, tos, buf, segSize)
}

// SendInFragments is Send, one by one, for IPv4 packets that may be fragmented on their way; for IPv6 see
// [Clear.SendInFragments].
func (r *RawESP) SendInFragments(to, from netip.Addr, tos byte, buf []byte, segSize int) error {
	return r.out.eachInFragments(netip.AddrPortFrom(to, 0), from, tos, buf, segSize)
}
