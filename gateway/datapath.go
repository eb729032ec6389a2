package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"coati/esp"
	"coati/ike"
	"coati/policy"
	"coati/tun"
)

const (
	// receiveBuffer is the room for one receive of a UDP socket, octets.
	receiveBuffer = 1 << 16
	// udpBatch is how many runs of datagrams are taken from a UDP socket at a time, if so many are there: segments of one
	// flow are joined across them.
	udpBatch = 4
	// rawBatch packets are taken from a raw socket at a time, each of at most rawBuffer octets.
	rawBatch  = 64
	rawBuffer = 1 << 16
	// pauseAfterError keeps a queue that only fails from burning a processor.
	pauseAfterError = 100 * time.Millisecond
)

// queue is a queue of the TUN that counts its frames.
type queue struct {
	*tun.Queue
	read, written atomic.Uint64
}

func (q *queue) ReadFrame(buf []byte, idle func()) (int, error) {
	n, err := q.Queue.ReadFrame(buf, idle)
	if err == nil {
		q.read.Add(1)
	}
	return n, err
}

func (q *queue) WriteFrame(iov [][]byte) error {
	err := q.Queue.WriteFrame(iov)
	if err == nil {
		q.written.Add(1)
	}
	return err
}

// datapath runs the queues and sockets of a machine.
type datapath struct {
	plane   *esp.Plane
	queues  []*queue
	natt    uint16
	message func(path policy.Path, b []byte, last bool)
	log     *slog.Logger
	workers *sync.WaitGroup
}

// outbound starts the way from the TUN's queues to the network.
func (d *datapath) outbound() {
	for _, q := range d.queues {
		d.workers.Go(func() {
			o := d.plane.NewOutbound(q)
			d.repeat("reading from the tun fails", func() error { return o.Run(q) })
		})
	}
}

// listen starts the way from one local address to the TUN. All that comes from one peer comes by one socket: each socket
// writes to all queues.
func (d *datapath) listen(l *listener) {
	var writers []esp.FrameWriter
	for _, q := range d.queues {
		writers = append(writers, q)
	}
	for _, s := range l.ike.Sockets() {
		d.workers.Go(func() { d.receiveIKE(s, l.ike.Local().Port()) })
	}
	for _, s := range l.natt.Sockets() {
		d.workers.Go(func() { d.receiveUDP(s, l.natt.Local().Port(), writers) })
	}
	if l.raw != nil {
		d.workers.Go(func() { d.receiveRaw(l.raw, writers) })
	}
}

// repeat runs f until what it reads from is closed. Other errors come and go with the machine's links.
func (d *datapath) repeat(what string, f func() error) {
	var said error
	for {
		err := f()
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if said == nil || said.Error() != err.Error() {
			said = err
			d.log.Warn(what, slog.String(keyReason, err.Error()))
		}
		time.Sleep(pauseAfterError)
	}
}

// receiveIKE takes what comes to port 500: IKE without a marker.
func (d *datapath) receiveIKE(s *tun.UDPSocket, port uint16) {
	bufs := buffers(udpBatch, receiveBuffer)
	got := make([]tun.Datagrams, udpBatch)
	d.repeat("receiving ike messages fails", func() error {
		for {
			n, err := s.ReceiveAll(bufs, got)
			if err != nil {
				return err
			}
			for i, r := range got[:n] {
				path := policy.Path{Local: netip.AddrPortFrom(r.Local, port), Remote: r.From}
				for b := bufs[i][:r.N]; len(b) > 0; {
					size := min(max(r.SegSize, 1), len(b))
					d.message(path, b[:size], i == n-1 && n < udpBatch && size == len(b))
					b = b[size:]
				}
			}
		}
	})
}

// receiveUDP takes what comes to port 4500: ESP, IKE behind a marker, keepalives.
func (d *datapath) receiveUDP(s *tun.UDPSocket, port uint16, w []esp.FrameWriter) {
	d.receive("receiving esp in udp fails", w, func() esp.Receive {
		bufs := buffers(udpBatch, receiveBuffer)
		got := make([]tun.Datagrams, udpBatch)
		runs := make([]esp.Datagrams, 0, udpBatch)
		return func() ([]esp.Datagrams, bool, error) {
			n, err := s.ReceiveAll(bufs, got)
			runs = runs[:0]
			ikeAlone := true
			for i, r := range got[:n] {
				ikeAlone = ikeAlone && isIKE(bufs[i], &got[i])
				runs = append(runs, esp.Datagrams{
					Buf: bufs[i][:r.N], SegSize: r.SegSize, From: r.From, Local: netip.AddrPortFrom(r.Local, port), TOS: r.TOS, Encap: policy.EncapUDP, Front: r.Front,
				})
			}
			if ikeAlone {
				for i := range runs {
					// Never the last: a job done here would keep ESP waiting.
					d.message(policy.Path{Local: runs[i].Local, Remote: runs[i].From, Encap: policy.EncapUDP}, runs[i].Buf[len(nonESPMarker):], false)
				}
				runs = runs[:0]
			}
			return runs, n == udpBatch, err
		}
	})
}

// isIKE says whether one IKE message, and nothing for the plane to sort, was received (RFC 3948, section 2.2).
func isIKE(buf []byte, r *tun.Datagrams) bool {
	return r.SegSize >= r.N && r.N >= len(nonESPMarker) && [len(nonESPMarker)]byte(buf) == nonESPMarker
}

// relayProcessors is how many processors it takes for a second goroutine to a socket to pay: with two, those that send and
// those that receive have one each.
const relayProcessors = 3

// receive carries what comes by one socket; each call of open gives the same socket with other buffers.
func (d *datapath) receive(what string, w []esp.FrameWriter, open func() esp.Receive) {
	in, receive := d.plane.NewInbound(w...), open()
	if runtime.GOMAXPROCS(0) < relayProcessors {
		d.repeat(what, func() error {
			for {
				runs, _, err := receive()
				if err != nil {
					return err
				}
				in.Receive(runs)
			}
		})
		return
	}
	relay := esp.NewRelay()
	defer relay.Close()
	d.workers.Go(func() { relay.Help(d.plane.NewInbound(w...), open()) })
	d.repeat(what, func() error { return relay.Lead(in, receive) })
}

// buffers cuts one piece of memory, of which only what is used becomes resident.
func buffers(n, size int) [][]byte {
	whole := make([]byte, n*size)
	bufs := make([][]byte, n)
	for i := range bufs {
		bufs[i] = whole[i*size : (i+1)*size : (i+1)*size]
	}
	return bufs
}

// receiveRaw takes protocol 50.
func (d *datapath) receiveRaw(s *tun.RawESP, w []esp.FrameWriter) {
	d.receive("receiving raw esp fails", w, func() esp.Receive {
		bufs := buffers(rawBatch, rawBuffer)
		packets := make([]tun.Packet, rawBatch)
		runs := make([]esp.Datagrams, 0, rawBatch)
		return func() ([]esp.Datagrams, bool, error) {
			n, err := s.Receive(bufs, packets)
			runs = runs[:0]
			for _, p := range packets[:n] {
				runs = append(runs, esp.Datagrams{Buf: p.Data, From: netip.AddrPortFrom(p.From, 0), Local: netip.AddrPortFrom(p.Local, 0), TOS: p.TOS, Encap: policy.EncapRaw, Front: p.Front})
			}
			return runs, n == rawBatch, err
		}
	})
}

// unreachablePause bounds how many ICMP errors are looked at: a hundred in a second for each family.
const unreachablePause = 10 * time.Millisecond

// explain hands ICMP errors about IKE messages to the engine, which may tell people; they decide nothing. Those about the
// size of ESP packets go to the plane, which weighs them.
func (g *Gateway) explain(ctx context.Context, s *tun.UnreachableSocket) {
	ours := func(port uint16) bool { return port == g.machine.listeners.ike || port == g.machine.listeners.natt }
	for {
		u, big, err := s.Receive()
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err == nil && ours(u.Local.Port()) {
			select {
			case g.loop.unreached <- ike.Unreachable{Path: policy.Path{Local: u.Local, Remote: u.Remote}, What: u.What}:
			case <-ctx.Done():
				return
			}
		}
		if err == nil && big.Remote.IsValid() {
			g.weigh(big)
		}
		time.Sleep(unreachablePause)
	}
}

// weigh asks the plane what an error about a packet's size is worth.
func (g *Gateway) weigh(t tun.TooBig) {
	path := policy.Path{Local: t.Local, Remote: t.Remote}
	if t.UDP {
		path.Encap = policy.EncapUDP
	}
	verdict := g.plane.PathTooBig(esp.TooBig{Path: path, SPI: policy.SPI(t.SPI), Sequence: t.Sequence, MTU: t.MTU})
	g.log.Debug("a router says that a packet is too big", slog.String(keyPeer, t.Remote.Addr().String()), slog.Int(keyMTU, t.MTU), slog.String(keyVerdict, verdict.String()))
}
