package sim

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"coati/ike"
	"coati/policy"
)

// Network is what happens to datagrams. Probabilities are 0 to 1.
type Network struct {
	Delay     time.Duration
	Jitter    time.Duration // up to this much more, which reorders
	Loss      float64
	LossIKE   float64 // of IKE alone, on top
	Duplicate float64
	Cut       bool // nothing passes
	// Delays draws what is added to Delay; it replaces Jitter.
	Delays func(*rand.Rand) time.Duration
	// MTU is the largest packet with its IP header, in octets; a larger one is lost, since nobody fragments here. 0: any.
	MTU int
	// Parted says whether two addresses cannot reach each other.
	Parted func(from, to netip.Addr) bool
	// ICMP tells a sender of UDP that its receiver does not exist.
	ICMP bool
	// Tap sees each datagram before its fate is decided; false takes it off the wire.
	Tap func(d Datagram) bool
}

// Exponential delays: many short ones and a long tail, cut at ten times the mean.
func Exponential(mean time.Duration) func(*rand.Rand) time.Duration {
	return func(r *rand.Rand) time.Duration {
		return min(time.Duration(r.ExpFloat64()*float64(mean)), 10*mean)
	}
}

// TwoPaths delays a share of the datagrams by much more than the others.
func TwoPaths(short, long time.Duration, share float64) func(*rand.Rand) time.Duration {
	return func(r *rand.Rand) time.Duration {
		if r.Float64() < share {
			return long
		}
		return short
	}
}

// Datagram is UDP, or ESP as the simulated planes carry it.
type Datagram struct {
	From, To netip.AddrPort
	Bytes    []byte
	ESP      *espPacket // not nil: an ESP packet, Bytes is empty
}

// NAT hides one address behind another and changes the ports. Who is behind it cannot be reached first.
type NAT struct {
	Inside, Outside netip.Addr
	ports           map[netip.AddrPort]uint16 // inside to outside
	back            map[uint16]netip.AddrPort
	next            uint16
	fixed           []netip.AddrPort // forwarded
}

// AddNAT puts a host behind an outside address.
func (w *World) AddNAT(inside, outside netip.Addr) *NAT {
	n := &NAT{Inside: inside, Outside: outside, ports: map[netip.AddrPort]uint16{}, back: map[uint16]netip.AddrPort{}, next: 20000}
	w.nats[inside], w.nats[outside] = n, n
	return n
}

// Join puts another host behind the same NAT.
func (w *World) Join(n *NAT, inside netip.Addr) { w.nats[inside] = n }

// Forward has the NAT pass IKE and ESP from outside to one host behind it, as a router's owner sets it up for a server.
func (n *NAT) Forward(inside netip.Addr) {
	for _, port := range []uint16{500, 4500} {
		at := netip.AddrPortFrom(inside, port)
		n.fixed = append(n.fixed, at)
		n.ports[at], n.back[port] = port, at
	}
}

// Rebind forgets all mappings but the forwarded ones; the next packets get new ports.
func (n *NAT) Rebind() {
	n.ports, n.back = map[netip.AddrPort]uint16{}, map[uint16]netip.AddrPort{}
	for _, at := range n.fixed {
		n.ports[at], n.back[at.Port()] = at.Port(), at
	}
	n.next += 100
}

func (n *NAT) out(from netip.AddrPort) netip.AddrPort {
	p, ok := n.ports[from]
	if !ok {
		n.next++
		p = n.next
		n.ports[from], n.back[p] = p, from
	}
	return netip.AddrPortFrom(n.Outside, p)
}

// send gives a datagram to the network.
func (w *World) send(d Datagram) {
	d.Bytes = slices.Clone(d.Bytes)
	if w.Net.Tap != nil && !w.Net.Tap(d) {
		return
	}
	if w.Attacker != nil && w.Attacker.sees(w, d) {
		return
	}
	if n := w.nats[d.From.Addr()]; n != nil && n.Outside != d.From.Addr() {
		d.From = n.out(d.From)
	}
	times := 1
	if w.Rand.Float64() < w.Net.Duplicate {
		times = 2
	}
	for range times {
		if w.Net.Cut || w.Rand.Float64() < w.Net.Loss || d.ESP == nil && w.Net.LossIKE > 0 && w.Rand.Float64() < w.Net.LossIKE || w.tooLarge(d) || w.Net.Parted != nil && w.Net.Parted(d.From.Addr(), d.To.Addr()) {
			w.traceDatagram("lost", d)
			continue
		}
		delay := w.Net.Delay
		switch {
		case w.Net.Delays != nil:
			delay += w.Net.Delays(w.Rand)
		case w.Net.Jitter > 0:
			delay += time.Duration(w.Rand.Int64N(int64(w.Net.Jitter)))
		}
		w.After(delay, func() { w.deliver(d) })
	}
}

// Inject puts a datagram on the wire right before its receiver, as an attacker does.
func (w *World) Inject(d Datagram) { w.deliver(d) }

func (w *World) deliver(d Datagram) {
	if n := w.nats[d.To.Addr()]; n != nil && n.Outside == d.To.Addr() {
		inside, ok := n.back[d.To.Port()]
		if !ok {
			return
		}
		d.To = inside
	}
	if h := w.byAddr[d.To.Addr()]; h != nil && h.alive {
		w.traceDatagram("got", d)
		h.receive(d)
		return
	}
	w.traceDatagram("nobody", d)
	if from := w.byAddr[d.From.Addr()]; w.Net.ICMP && d.ESP == nil && from != nil && from.alive {
		w.After(w.Net.Delay, func() {
			from.handle(ike.Unreachable{Path: policy.Path{Local: d.From, Remote: d.To}, What: "host unreachable"})
		})
	}
}

const ipUDP = 28 // octets of IPv4 and UDP headers

func (w *World) tooLarge(d Datagram) bool {
	return w.Net.MTU > 0 && len(d.Bytes)+ipUDP > w.Net.MTU
}
