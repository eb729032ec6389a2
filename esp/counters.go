package esp

import "sync/atomic"

// Reason says why a packet was not delivered. Each has a name in the terms of RFC 4301 and RFC 4303, and the counter of
// /proc/net/xfrm_stat in which the kernel's own IPsec counts the same; docs/drops.md lists them, held by a test.
type Reason uint8

const (
	DropMalformed Reason = iota // outbound
	DropNoPolicy
	DropDiscard
	DropNeighbour
	DropQueueFull
	DropNoSA
	DropExhausted
	DropExpired
	DropTooBig
	DropNotBetween
	DropFragment
	DropSendFailed
	DropShort // inbound from here on
	DropUnknownSPI
	DropEarly
	DropEarlyFull
	DropExpiredIn
	DropReplay
	DropAuthentication
	DropPadding
	DropInner
	DropFront
	DropSelectors
	DropInnerFragment
	DropICMPError
	DropECN
	DropDummy
	DropWriteFailed
	numReasons
)

// reasons are the rows of docs/drops.md: name, the kernel's counter, what happened and where that is specified.
var reasons = [numReasons]struct{ name, xfrm, when string }{
	DropMalformed:  {"malformed packet", "XfrmOutError", "a frame of the TUN is no IP packet, or its virtio header contradicts it"},
	DropNoPolicy:   {"no policy", "XfrmOutPolBlock", "no entry of the SPD matches (RFC 4301, section 5.1)"},
	DropDiscard:    {"discard policy", "XfrmOutPolBlock", "the entry that matches says discard (RFC 4301, section 4.4.1)"},
	DropNeighbour:  {"neighbour discovery stays on its link", "XfrmOutPolBlock", "built in; nd-bypass = false turns it off"},
	DropQueueFull:  {"waiting queue full", "XfrmOutNoStates", "too many packets wait while an SA is negotiated"},
	DropNoSA:       {"negotiation failed", "XfrmOutNoStates", "no SA came for what waited; answered with ICMP (RFC 4301, section 6)"},
	DropExhausted:  {"sequence numbers used up", "XfrmOutStateSeqError", "the counter would repeat (RFC 4303, section 3.3.3)"},
	DropExpired:    {"lifetime over", "XfrmOutStateExpired", "an outbound SA ended and had no successor (RFC 4301, section 4.4.2.1)"},
	DropTooBig:     {"larger than the path mtu", "XfrmOutStateModeError", "it may not be fragmented; answered with ICMP (RFC 4301, section 8.2)"},
	DropNotBetween: {"not between the ends of transport mode", "XfrmOutStateModeError", "transport mode keeps the packet's addresses, which are not the path's (RFC 4303, section 3.1.1)"},
	DropFragment:   {"fragment in transport mode", "XfrmOutStateModeError", "transport mode protects whole packets (RFC 4303, section 3.1.1), and these fragments do not make one"},
	DropSendFailed: {"send failed", "XfrmOutError", "the kernel took no packet from our socket"},

	DropShort:          {"too short for esp", "XfrmInHdrError", "no room for header, trailer and ICV, or no whole cipher block (RFC 4303, section 2)"},
	DropUnknownSPI:     {"unknown spi", "XfrmInNoStates", "no SA has the SPI (RFC 4303, section 3.4.2)"},
	DropEarly:          {"no sa came for a reserved spi", "XfrmAcquireError", "it came before its SA, which never came"},
	DropEarlyFull:      {"too many for a reserved spi", "XfrmAcquireError", "too many came before their SA"},
	DropExpiredIn:      {"lifetime over, inbound", "XfrmInStateExpired", "an inbound SA ended (RFC 4301, section 4.4.2.1)"},
	DropReplay:         {"replayed or too old", "XfrmInStateSeqError", "the window has seen the number or moved past it (RFC 4303, section 3.4.3)"},
	DropAuthentication: {"authentication failed", "XfrmInStateProtoError", "the ICV is wrong (RFC 4303, section 3.4.4)"},
	DropPadding:        {"bad padding", "XfrmInStateProtoError", "padding is not 1, 2, 3 and so on (RFC 4303, section 2.4)"},
	DropInner:          {"bad inner packet", "XfrmInStateModeError", "what the SA carried is no packet of its mode (RFC 4303, section 2.6)"},
	DropFront:          {"bad headers in front of esp", "XfrmInHdrError", "transport mode would hand on IPv4 options or IPv6 extension headers that are malformed, too long, or not done with (RFC 4303, section 3.1.1)"},
	DropSelectors:      {"outside the selectors", "XfrmInStateMismatch", "the SA may not carry this packet (RFC 4301, section 5.2, step 4)"},
	DropInnerFragment:  {"fragment without its first one", "XfrmInStateMismatch", "the SA is for certain ports, and the first fragment did not come by it or overlaps this one (RFC 4301, section 7.3; RFC 5722)"},
	DropICMPError:      {"icmp error outside the selectors", "XfrmInStateMismatch", "neither its header nor the packet it quotes is the SA's, or icmp-errors refuses it (RFC 4301, section 6.2)"},
	DropECN:            {"congestion mark on a packet that cannot carry it", "XfrmInStateModeError", "RFC 6040, section 4.2"},
	DropDummy:          {"dummy", "XfrmInStateProtoError", "next header 59: traffic-flow confidentiality (RFC 4303, section 2.6)"},
	DropWriteFailed:    {"write to the tun failed", "XfrmInError", "the kernel took no packet from us"},
}

func (r Reason) String() string { return reasons[r].name }

// XFRM is the counter of /proc/net/xfrm_stat for the same.
func (r Reason) XFRM() string { return reasons[r].xfrm }

// XFRMNames are the kernel's counters by the names of reasons.
func XFRMNames() map[string]string {
	m := make(map[string]string, numReasons)
	for r := range numReasons {
		m[r.String()] = r.XFRM()
	}
	return m
}

type drops [numReasons]atomic.Uint64

func (d *drops) add(r Reason, n int) { d[r].Add(uint64(n)) }

// byName leaves zeros out.
func (d *drops) byName() map[string]uint64 {
	m := make(map[string]uint64)
	for r := range d {
		if n := d[r].Load(); n > 0 {
			m[Reason(r).String()] = n
		}
	}
	return m
}

// Counters of a whole plane.
type Counters struct {
	Drops       map[string]uint64 // by reason, all SAs and what belongs to none
	Keepalives  uint64            // NAT keepalives received (RFC 3948, section 2.3)
	Bypassed    uint64            // packets that left in clear
	FramesIn    uint64            // frames written to the TUN
	FramesOut   uint64            // frames read from the TUN
	PacketsIn   uint64            // inner packets that came in ESP and were handed on
	PacketsOut  uint64            // ESP packets that left, dummies among them
	EventsLost  uint64            // events that found the channel full and will be, or need not be, repeated
	Fragmented  uint64            // packets cut up before encryption, or left to be after it
	ICMPAnswers uint64            // ICMP errors written to the TUN
}

type planeCounters struct {
	drops                                           drops
	keepalives, bypassed, framesIn, framesOut, lost atomic.Uint64
	fragmented, icmpAnswers, packetsIn, packetsOut  atomic.Uint64
}

// Counters of the plane so far.
func (p *Plane) Counters() Counters {
	c := &p.count
	return Counters{
		Drops: c.drops.byName(), Keepalives: c.keepalives.Load(), Bypassed: c.bypassed.Load(), FramesIn: c.framesIn.Load(),
		FramesOut: c.framesOut.Load(), EventsLost: c.lost.Load(), Fragmented: c.fragmented.Load(), ICMPAnswers: c.icmpAnswers.Load(),
		PacketsIn: c.packetsIn.Load(), PacketsOut: c.packetsOut.Load(),
	}
}
