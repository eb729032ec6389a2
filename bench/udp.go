package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	sinkPort    = 5202
	headers     = 28 // IPv4 and UDP
	socketRoom  = 16 << 20
	lossAllowed = 0.01
	// searchEnd is how close a rate that is carried and one that is not must come.
	searchEnd    = 1.04
	searchTrials = 16
	// A try in which the generator was kept from its rate says nothing; so many in a row, and it can do no more.
	searchVoid = 4
	// equipment is the nice value of generator and sink: they stand for other machines, and must not wait for the gateways.
	equipment = -10
	// A generator that fell behind this far forgets it, rather than send a burst.
	pacingDebt = 2 * time.Millisecond
	drainQuiet = 40 * time.Millisecond
	drainLimit = 400 * time.Millisecond
)

// A burst is count packets of one size, handed to the kernel in one call: as one datagram to be cut (UDP_SEGMENT), or as
// many (sendmmsg).
type burst struct {
	size, count int
	many        bool
}

// A load is what a generator sends, again and again: all bursts from one socket, then all from the next.
type load struct {
	bursts []burst
	flows  int
}

func (l load) packets() (n int) {
	for _, b := range l.bursts {
		n += b.count
	}
	return n
}

// octets of the bursts' IP packets.
func (l load) octets() (n int) {
	for _, b := range l.bursts {
		n += b.count * b.size
	}
	return n
}

var (
	udp64      = load{[]burst{{size: 64, count: 64}}, 1}
	udp512     = load{[]burst{{size: 512, count: 64}}, 1}
	udp1400    = load{[]burst{{size: 1400, count: 44}}, 1}
	imix       = load{[]burst{{size: 64, count: 28}, {size: 576, count: 16}, {size: 1400, count: 4}}, 1} // 7:4:1
	udp64Flows = load{[]burst{{size: 64, count: 4, many: true}}, 16}
)

// generate sends the load at so many packets a second and says how many it sent, in which time.
func (h *host) generate(ctx context.Context, to netip.Addr, l load, rate float64, duration time.Duration) (sent int, took time.Duration, err error) {
	err = h.inside(func() error {
		_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), equipment)
		fds, err := h.senders(to, l.flows)
		defer func() {
			for _, fd := range fds {
				unix.Close(fd)
			}
		}()
		if err != nil {
			return err
		}
		begin := time.Now()
		paced := begin
		due := 0.0 // packets sent since paced began to count
		for turn := 0; ctx.Err() == nil; turn++ {
			now := time.Now()
			if took = now.Sub(begin); took >= duration {
				return nil
			}
			if ahead := time.Duration(due/rate*float64(time.Second)) - now.Sub(paced); ahead > 0 {
				pause := unix.NsecToTimespec(int64(min(ahead, duration-took)))
				_ = unix.Nanosleep(&pause, nil)
				continue
			} else if ahead < -pacingDebt {
				paced, due = now, 0
			}
			for _, b := range l.bursts {
				n, err := b.send(fds[turn%len(fds)])
				if err != nil {
					return err
				}
				sent += n
				due += float64(n)
			}
		}
		return ctx.Err()
	})
	return sent, took, err
}

// senders opens connected sockets, one for each flow.
func (h *host) senders(to netip.Addr, flows int) (fds []int, err error) {
	for range flows {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fds, err
		}
		fds = append(fds, fd)
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketRoom)
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: h.lan.As4()}); err != nil {
			return fds, err
		}
		if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.As4(), Port: sinkPort}); err != nil {
			return fds, err
		}
	}
	return fds, nil
}

var zeros [1 << 16]byte

// send returns how many packets the kernel took.
func (b burst) send(fd int) (n int, err error) {
	for {
		if b.many {
			n, err = b.sendMany(fd)
		} else {
			n, err = b.count, b.sendCut(fd)
		}
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECONNREFUSED): // an earlier packet's; these were not sent
			continue
		}
		return 0, fmt.Errorf("sending %d packets of %d octets: %w", b.count, b.size, err)
	}
}

func (b burst) sendCut(fd int) error {
	var control [64]byte
	header := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	header.Level, header.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	header.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(control[unix.CmsgLen(0):], uint16(b.size-headers))
	_, err := unix.SendmsgN(fd, zeros[:(b.size-headers)*b.count], control[:unix.CmsgSpace(2)], nil, 0)
	return err
}

// mmsghdr is the kernel's struct mmsghdr.
type mmsghdr struct {
	header unix.Msghdr
	_      uint32
	_      [4]byte
}

func (b burst) sendMany(fd int) (int, error) {
	iov := unix.Iovec{Base: &zeros[0]}
	iov.SetLen(b.size - headers)
	var messages [64]mmsghdr
	for i := range messages[:b.count] {
		messages[i].header.Iov, messages[i].header.Iovlen = &iov, 1
	}
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&messages[0])), uintptr(b.count), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// A sink counts the datagrams that arrive on a host.
type sink struct {
	count atomic.Int64
	fd    int
	done  chan struct{}
}

func (h *host) newSink() (*sink, error) {
	s := &sink{fd: -1, done: make(chan struct{})}
	err := h.inside(func() (err error) {
		s.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketRoom)
		_ = unix.SetsockoptInt(s.fd, unix.SOL_UDP, unix.UDP_GRO, 1)
		// So that close is noticed.
		_ = unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100000})
		return unix.Bind(s.fd, &unix.SockaddrInet4{Addr: h.lan.As4(), Port: sinkPort})
	})
	if err != nil {
		if s.fd >= 0 {
			unix.Close(s.fd)
		}
		return nil, fmt.Errorf("sink: %w", err)
	}
	go s.run()
	return s, nil
}

func (s *sink) run() {
	defer close(s.done)
	// Never unlocked: the thread, with its priority, ends with the goroutine.
	runtime.LockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), equipment)
	buf := make([]byte, 1<<16)
	control := make([]byte, 64)
	for {
		n, controlLen, _, _, err := unix.Recvmsg(s.fd, buf, control, 0)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			if s.count.Load() < 0 {
				return
			}
			continue
		case err != nil:
			return
		}
		segments := 1
		if size := groSize(control[:controlLen]); size > 0 {
			segments = (n + size - 1) / size
		}
		if s.count.Add(int64(segments)) < 0 {
			return
		}
	}
}

// groSize is the size of the segments the kernel merged (UDP_GRO); 0: it did not.
func groSize(control []byte) int {
	if len(control) < unix.CmsgLen(4) {
		return 0
	}
	header := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	if header.Level != unix.SOL_UDP || header.Type != unix.UDP_GRO {
		return 0
	}
	return int(binary.NativeEndian.Uint32(control[unix.CmsgLen(0):]))
}

func (s *sink) close() {
	s.count.Store(math.MinInt64 / 2)
	<-s.done
	unix.Close(s.fd)
}

// settle waits until nothing arrives any more and returns the count.
func (s *sink) settle() int {
	last, end := s.count.Load(), time.Now().Add(drainLimit)
	for {
		time.Sleep(drainQuiet)
		now := s.count.Load()
		if now == last || time.Now().After(end) {
			return int(now)
		}
		last = now
	}
}

// trial is one try at one rate.
type trial struct {
	offered, carried float64 // packets a second
	loss             float64
	cost             float64 // microseconds of the gateways' processor time a packet carried
}

func (c *contender) try(ctx context.Context, s *sink, l load, rate float64, duration time.Duration) (t trial, err error) {
	s.settle()
	s.count.Store(0)
	before, err := c.spent()
	if err != nil {
		return t, err
	}
	sent, took, err := c.a.generate(ctx, c.b.lan, l, rate, duration)
	if err != nil {
		return t, err
	}
	received := s.settle()
	after, err := c.spent()
	if err != nil {
		return t, err
	}
	if sent == 0 {
		return t, errors.New("the generator sent nothing")
	}
	t.offered, t.carried = float64(sent)/took.Seconds(), float64(received)/took.Seconds()
	t.loss = 1 - float64(received)/float64(sent)
	if received > 0 {
		t.cost = float64((after - before).Microseconds()) / float64(received)
	}
	return t, nil
}

// udp finds the highest rate that loses less than one packet in a hundred.
func (c *contender) udp(ctx context.Context, measure string, l load, duration time.Duration) (sample, error) {
	s, err := c.b.newSink()
	if err != nil {
		return nil, err
	}
	defer s.close()
	best, err := search(c.rates[measure], func(rate float64) (trial, error) { return c.try(ctx, s, l, rate, duration) })
	if err != nil {
		return nil, err
	}
	c.rates[measure] = best.carried
	out := sample{
		packetRate: best.carried / 1000,
		throughput: best.carried * float64(l.octets()) / float64(l.packets()) * 8 / 1e9,
	}
	if len(c.gateways) > 0 {
		out[costPerPacket] = best.cost
	}
	return out, nil
}

// search finds the highest rate that is carried, from a guess; zero: from a flood. A rate that failed is tried once more,
// because a machine that was busy for a moment must not decide.
func search(guess float64, try func(rate float64) (trial, error)) (best trial, err error) {
	step := 1.1
	if guess == 0 {
		flood, err := try(1e9)
		if err != nil {
			return best, err
		}
		guess, step = max(flood.carried, 1000), 1.5
	}
	low, high, rate := 0.0, math.Inf(1), guess
	again, void := false, 0
	for n := 0; n < searchTrials && high > low*searchEnd; n++ {
		t, err := try(rate)
		if err != nil {
			return best, err
		}
		carried, held := t.loss < lossAllowed, t.offered < 0.9*rate
		if carried && t.carried > best.carried && (!held || low > 0) {
			best = t
		}
		if held {
			if void++; void == searchVoid {
				break
			}
			continue
		}
		void = 0
		if !carried && !again {
			again = true
			continue
		}
		again = false
		if carried {
			low = rate
		} else {
			high = rate
		}
		switch {
		case math.IsInf(high, 1):
			rate *= step
		case low == 0:
			rate /= step
			step = 1.5
		default:
			rate = math.Sqrt(low * high)
		}
	}
	if best.carried == 0 {
		if void == searchVoid {
			return best, errors.New("the machine was too busy: the generator was kept from its rate")
		}
		return best, errors.New("no rate was found that loses less than 1 %")
	}
	return best, nil
}
