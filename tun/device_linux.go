package tun

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The device is opened by plain ioctls rather than through wireguard/tun: that package wants a
// queue it can split into packets and its own netlink listener, and we want neither; frames stay
// whole, and [Host.Watch] listens once for the whole gateway.

const (
	tunPath = "/dev/net/tun"

	// HeaderSize is the virtio_net_hdr in front of each frame, in octets (VIRTIO 1.2, section
	// 5.1.6, without num_buffers). Its fields are little-endian on every machine (TUNSETVNETLE).
	HeaderSize = 10

	// FrameSize is the least buffer ReadFrame takes: header and the largest IP packet.
	FrameSize = HeaderSize + 65535

	// maxFrameSlices bounds the slices of one WriteFrame: header, headers, 64 payloads and spare.
	maxFrameSlices = 256
)

// The kernel ends a killed process's descriptors one by one; our lock may be free a moment
// before the device is gone.
const (
	deviceBusyWait = time.Second
	deviceBusyPoll = 20 * time.Millisecond
)

// DeviceConfig describes the TUN device.
type DeviceConfig struct {
	Queues int // at least 1
	MTU    int // octets of IP packet
}

// Device is a TUN device with one or more queues.
type Device struct {
	host   *Host
	link   netlink.Link
	queues []*Queue
	tso    bool
	uso    bool
	steers bool // which queue a packet comes by is our choice
	change *Change
}

// Queue is one queue of a Device: one reader and any number of writers at a time.
type Queue struct {
	file *os.File
	raw  syscall.RawConn

	in      []byte // of the one reader
	inLen   int
	inErrno syscall.Errno
	idle    func()
	read    func(fd uintptr) bool // made once, as written

	mu      sync.Mutex // guards what follows: one frame leaves at a time
	iov     [maxFrameSlices]unix.Iovec
	n       int
	errno   syscall.Errno
	written func(fd uintptr) bool // made once: a closure per call would be an allocation
}

// OpenDevice makes the TUN device and sets it up. It is an error if a device of this name exists.
func (h *Host) OpenDevice(c DeviceConfig) (*Device, error) {
	d := &Device{host: h}
	for i := range max(1, c.Queues) {
		flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE)
		if i == 0 {
			// Without it we would become one more queue of somebody else's device, and take
			// every other of its packets.
			flags |= unix.IFF_TUN_EXCL
		}
		q, err := h.openQueue(flags)
		if err != nil {
			return nil, errors.Join(err, d.close())
		}
		d.queues = append(d.queues, q)
		if i == 0 {
			if err := d.setOffloads(); err != nil {
				return nil, errors.Join(err, d.close())
			}
		}
	}
	d.steers = d.steer()
	if err := d.configure(c.MTU); err != nil {
		return nil, errors.Join(err, d.close())
	}
	d.change = h.ledger.Record("device "+h.name, d.close)
	return d, nil
}

func (h *Host) openQueue(flags uint16) (*Queue, error) {
	fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, explainTUN(err)
	}
	ifr, err := unix.NewIfreq(h.name)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("tun name %q: %w", h.name, err)
	}
	give := time.Now().Add(deviceBusyWait)
	for {
		ifr.SetUint16(flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(give) {
			break
		}
		time.Sleep(deviceBusyPoll)
	}
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, HeaderSize)
	}
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TUNSETVNETLE, 1)
	}
	if err != nil {
		unix.Close(fd)
		switch {
		case errors.Is(err, unix.EBUSY):
			return nil, fmt.Errorf("tun %s exists already and belongs to another program: name another one with tun = in [gateway], or remove it with ip link del %s", h.name, h.name)
		case errors.Is(err, unix.EPERM):
			return nil, errNoCapability
		case errors.Is(err, unix.EINVAL):
			return nil, fmt.Errorf("tun %s: the kernel refuses this name or multi-queue with virtio headers: %w", h.name, err)
		}
		return nil, fmt.Errorf("tun %s: %w", h.name, err)
	}
	// The poller takes the descriptor only now: before TUNSETIFF it reports an error state.
	q := &Queue{file: os.NewFile(uintptr(fd), tunPath)}
	if q.raw, err = q.file.SyscallConn(); err != nil {
		q.file.Close()
		return nil, fmt.Errorf("tun %s: %w", h.name, err)
	}
	q.read = func(fd uintptr) bool {
		for {
			var n uintptr
			n, _, q.inErrno = unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&q.in[0])), uintptr(len(q.in)))
			q.inLen = int(n)
			switch {
			case q.inErrno == unix.EINTR:
			case q.inErrno != unix.EAGAIN:
				return true
			case q.idle == nil:
				return false
			default:
				q.idle()
				q.idle = nil // it is told once
				return false
			}
		}
	}
	q.written = func(fd uintptr) bool {
		for {
			_, _, q.errno = unix.RawSyscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&q.iov[0])), uintptr(q.n))
			if q.errno != unix.EINTR {
				return q.errno != unix.EAGAIN
			}
		}
	}
	return q, nil
}

// setOffloads asks for what the kernel takes, best first. The offloads belong to the device, not
// to the queue. With none at all frames still carry a virtio header, of type none.
func (d *Device) setOffloads() error {
	const tso = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	const uso = unix.TUN_F_USO4 | unix.TUN_F_USO6 // Linux 6.2
	set := func(flags uintptr) error {
		var errno syscall.Errno
		if err := d.queues[0].raw.Control(func(fd uintptr) {
			_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, unix.TUNSETOFFLOAD, flags)
		}); err != nil {
			return err
		}
		if errno != 0 {
			return errno
		}
		return nil
	}
	switch {
	case set(tso|uso) == nil:
		d.tso, d.uso = true, true
	case set(tso) == nil:
		d.tso = true
	default:
		if err := set(0); err != nil {
			return fmt.Errorf("tun %s: offloads: %w", d.host.name, err)
		}
	}
	return nil
}

func (d *Device) configure(mtu int) error {
	var err error
	if d.link, err = d.host.nl.LinkByName(d.host.name); err != nil {
		return fmt.Errorf("tun %s: %w", d.host.name, err)
	}
	// No link-local address: the kernel would send router solicitations through the tunnel.
	// Where IPv6 is off this fails, and is not needed.
	const addrGenNone = 1
	_ = d.host.nl.LinkSetIP6AddrGenMode(d.link, addrGenNone)
	if err := d.SetMTU(mtu); err != nil {
		return err
	}
	// Where it cannot be set another Coati's guard would not know what comes from here.
	_ = d.host.nl.LinkSetGroup(d.link, deviceGroup)
	if err := d.host.nl.LinkSetUp(d.link); err != nil {
		return fmt.Errorf("tun %s: set up: %w", d.host.name, err)
	}
	return nil
}

// Name is the device's name.
func (d *Device) Name() string { return d.host.name }

// Index is the device's interface index.
func (d *Device) Index() int { return d.link.Attrs().Index }

// Queues are the device's queues. A TCP connection comes by one of them, and so does everything else between two
// addresses, fragments included.
func (d *Device) Queues() []*Queue { return d.queues }

// TSO says whether frames may be TCP runs of up to 64 KiB, and carry partial checksums.
func (d *Device) TSO() bool { return d.tso }

// USO says the same of UDP.
func (d *Device) USO() bool { return d.uso }

// Offloads says what was achieved, for people: "vnet-hdr, tso, uso, 2 queues". Where the kernel does not let us choose
// the queue of a packet, fragments may come by another one than the rest of their flow, and it says "not steered".
func (d *Device) Offloads() string {
	parts := []string{"vnet-hdr"}
	if d.tso {
		parts = append(parts, "tso")
	}
	if d.uso {
		parts = append(parts, "uso")
	}
	if len(d.queues) == 1 {
		parts = append(parts, "1 queue")
	} else {
		parts = append(parts, fmt.Sprintf("%d queues", len(d.queues)))
		if !d.steers {
			parts = append(parts, "not steered")
		}
	}
	return strings.Join(parts, ", ")
}

// SetMTU sets the device's MTU, in octets: the largest of its routes' MTUs.
func (d *Device) SetMTU(mtu int) error {
	if err := d.host.nl.LinkSetMTU(d.link, mtu); err != nil {
		return fmt.Errorf("tun %s: mtu %d: %w", d.host.name, mtu, err)
	}
	return nil
}

// Lost counts the frames that found no room in a queue; 0 if the kernel does not say.
func (d *Device) Lost() uint64 {
	link, err := d.host.nl.LinkByIndex(d.Index())
	if err != nil || link.Attrs().Statistics == nil {
		return 0
	}
	return link.Attrs().Statistics.TxDropped
}

// AddAddress gives the device an address; it goes with the device.
func (d *Device) AddAddress(p netip.Prefix) error {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := d.host.nl.AddrReplace(d.link, a); err != nil {
		return fmt.Errorf("tun %s: address %v: %w", d.host.name, p, err)
	}
	return nil
}

// RemoveAddress takes an address off the device.
func (d *Device) RemoveAddress(p netip.Prefix) error {
	err := d.host.nl.AddrDel(d.link, &netlink.Addr{IPNet: ipNet(p)})
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("tun %s: address %v: %w", d.host.name, p, err)
	}
	return nil
}

// Close ends all queues; the kernel removes the device with the last of them. Blocked reads
// return os.ErrClosed.
func (d *Device) Close() error { return d.change.Undo() }

func (d *Device) close() error {
	var errs []error
	for _, q := range d.queues {
		errs = append(errs, q.file.Close())
	}
	return errors.Join(errs...)
}

// ReadFrame waits for one frame: HeaderSize octets of virtio header and one IP packet of up to
// 65,535 octets (or a run of one flow's packets, as the header says). buf holds FrameSize octets
// at least. If no frame is there it calls idle, which may be nil, before it waits for one. One reader
// at a time.
func (q *Queue) ReadFrame(buf []byte, idle func()) (int, error) {
	if len(buf) < FrameSize {
		return 0, errShortBuffer
	}
	q.in, q.idle = buf, idle
	err := q.raw.Read(q.read)
	q.in, q.idle = nil, nil
	if err != nil {
		return 0, os.ErrClosed
	}
	if q.inErrno != 0 {
		return 0, q.inErrno
	}
	return q.inLen, nil
}

// WriteFrame hands the kernel one frame, the concatenation of at most 256 slices, the first of
// which begins with the virtio header. Nothing is copied on the way. The slices are the caller's
// again on return.
func (q *Queue) WriteFrame(iov [][]byte) error {
	if len(iov) > maxFrameSlices {
		return unix.EINVAL
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.n = 0
	for _, b := range iov {
		if len(b) == 0 {
			continue
		}
		q.iov[q.n].Base = &b[0]
		q.iov[q.n].SetLen(len(b))
		q.n++
	}
	err := q.raw.Write(q.written)
	clear(q.iov[:q.n])
	if err != nil {
		return os.ErrClosed
	}
	if q.errno != 0 {
		return q.errno
	}
	return nil
}

var errShortBuffer = errors.New("buffer is too short for the largest packet")

// plainError takes the path off an error of package os, and gives closing one name.
func plainError(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return os.ErrClosed
	}
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

func explainTUN(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%s is missing: load the tun module (modprobe tun), or add --device %s to the container", tunPath, tunPath)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s may not be opened: run as root, or allow the device in the container", tunPath)
	}
	return fmt.Errorf("%s: %w", tunPath, err)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
