package esp

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"coati/packet"
	"coati/policy"
)

// FrameReader is a queue of a TUN device. ReadFrame blocks for one frame: a virtio_net_hdr of 10 octets (little-endian)
// and an IP packet of up to 65,535, which may be a run of one flow's packets. buf holds FrameSize. If no frame is there
// it calls idle before it waits for one.
type FrameReader interface {
	ReadFrame(buf []byte, idle func()) (n int, err error)
}

// FrameWriter takes a frame as the concatenation of iov, at most 256 slices, and keeps none of them. It is used by many
// goroutines.
type FrameWriter interface {
	WriteFrame(iov [][]byte) error
}

// Egress is the way to the network. It is used by many goroutines, and keeps no argument. Its methods must not call the
// plane: Apply sends what waited while it holds its lock.
type Egress interface {
	// SendESP sends the ESP packets in buf, each stride octets, the last one possibly shorter: at most 64 packets and
	// 65,507 octets. path says how: in UDP or raw. tos is the outer type of service or traffic class. An error for
	// which errors.Is(err, ErrTooBig) says that packets did not fit the path MTU.
	SendESP(path *policy.Path, tos byte, buf []byte, stride int) error
	// SendClear sends a whole IP packet with complete checksums as it is. Its errors are like SendESP's.
	SendClear(pkt []byte) error
}

// PathMTUer is an Egress that knows the MTU, in octets, of a path after it said ErrTooBig; 0 if it does not.
type PathMTUer interface {
	PathMTU(path *policy.Path) int
}

// Fragmenter is an Egress that can leave packets to the kernel to be fragmented (RFC 4301, section 8.2.1).
type Fragmenter interface {
	SendESPInFragments(path *policy.Path, tos byte, buf []byte, stride int) error
}

// ErrTooBig is what an Egress returns for packets larger than the path MTU.
var ErrTooBig = errors.New("esp packet is larger than the path mtu")

// FrameSize is the room a frame needs, octets.
const FrameSize = packet.VirtioLen + packet.MaxIPPacket

// Config of a plane.
type Config struct {
	Egress Egress
	// Frames is where the plane itself writes: ICMP answers to packets that waited in vain.
	Frames FrameWriter
	// IKE takes the IKE messages that share port 4500 with ESP, without the non-ESP marker (RFC 3948, section 2.2). It is
	// called from the inbound queues and must copy what it keeps.
	IKE func(path policy.Path, message []byte)
	// USO says that the TUN takes frames of UDP segments.
	USO bool
	// NeighbourPolicies turns off the built-in bypass of neighbour and listener discovery: its packets then match the
	// policies like others.
	NeighbourPolicies bool
	// InsecureNullCipher leaves the cipher out of every SA: for measuring, never for traffic.
	InsecureNullCipher bool
	// MTUFloor is the least path MTU that is believed, octets; MTUAging how long one is kept. Zero: DefaultMTUFloor,
	// DefaultMTUAging.
	MTUFloor int
	MTUAging time.Duration
	// IgnoreNeeded and IgnoreTooBig: nothing is believed of IPv4's "fragmentation needed", of IPv6's "packet too big"
	// (RFC 4301, section 6.1.1).
	IgnoreNeeded, IgnoreTooBig bool
	// Now is where the clock stands; Tick moves it. Zero: the time of day.
	Now time.Time
}

// Plane is the userspace policy.Plane.
type Plane struct {
	config Config
	events chan policy.PlaneEvent
	clock  atomic.Int64 // unix nanoseconds
	count  planeCounters

	// What the data path reads.
	spd        atomic.Pointer[spd] // outbound
	spdIn      atomic.Pointer[spd] // asked for SAs nobody negotiated
	generation atomic.Uint64       // of SPD and SAD; a flow cache entry of another one is stale
	inbound    inTable
	fragments  fragments
	larval     larvae // has a lock of its own, because the data path comes there

	weighing sync.Mutex // held while an ICMP error is weighed; taken before mu

	mu       sync.Mutex // guards what follows, and all changes of the above
	policies map[policy.PolicyID]*spdEntry
	bundles  map[uint32]*bundle
	out      map[policy.SAID]*outSA
	outSPI   map[policy.SPI][]*outSA
	in       map[policy.SAID]*inSA
	learned  map[netip.Addr]*learned // path MTUs by peer

	// The plane's own outbound queue, for packets that waited and for dummies.
	ownMu sync.Mutex
	own   *Outbound
}

var _ policy.Plane = (*Plane)(nil)

// New makes a plane without policies: it carries nothing yet.
func New(c Config) *Plane {
	if c.Now.IsZero() {
		c.Now = time.Now()
	}
	p := &Plane{
		config:   c,
		events:   make(chan policy.PlaneEvent, eventBuffer),
		policies: make(map[policy.PolicyID]*spdEntry),
		bundles:  make(map[uint32]*bundle),
		out:      make(map[policy.SAID]*outSA),
		outSPI:   make(map[policy.SPI][]*outSA),
		in:       make(map[policy.SAID]*inSA),
		learned:  make(map[netip.Addr]*learned),
		larval:   larvae{spis: make(map[policy.SPI]*larva)},
	}
	p.clock.Store(c.Now.UnixNano())
	p.spd.Store(newSPD())
	p.spdIn.Store(newSPD())
	p.generation.Store(1)
	p.own = p.NewOutbound(c.Frames)
	return p
}

// Capabilities of the userspace plane.
func (p *Plane) Capabilities() policy.Caps {
	return policy.Caps{Name: "userspace", ESN: true, RawESP: true, Transport: true, LaterFragments: true, MaxReplayWindow: MaxReplayWindow}
}

var (
	errProtocol = errors.New("the userspace plane carries esp only")
	errSPIs     = errors.New("no free spi found")
)

// AllocSPI draws a random SPI of 256 or more (RFC 4303, section 2.1). Packets that come for it before its SA does wait: at
// most 64 or 256 KiB, for 30 seconds.
func (p *Plane) AllocSPI(proto policy.Protocol) (policy.SPI, error) {
	if proto != policy.ProtocolESP {
		return 0, errProtocol
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for range 1000 {
		var b [4]byte
		_, _ = rand.Read(b[:]) // it never fails: crypto/rand ends the program instead
		spi := policy.SPI(binary.BigEndian.Uint32(b[:]))
		if spi >= 256 && p.inbound.find(uint32(spi)) == nil && p.larval.reserve(spi) {
			return spi, nil
		}
	}
	return 0, errSPIs
}

// FreeSPI gives back an SPI no SA took. What waits for it is dropped.
func (p *Plane) FreeSPI(_ policy.Protocol, spi policy.SPI) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.freeLarva(spi)
}

// State of an SA.
func (p *Plane) State(id policy.SAID) (policy.State, error) {
	p.mu.Lock()
	out, in := p.out[id], p.in[id]
	p.mu.Unlock()
	switch {
	case out != nil:
		s := out.usage.state()
		s.Sequence = out.reserved.Load()
		return s, nil
	case in != nil:
		s := in.usage.state()
		s.LastAuthenticated = instant(in.authenticated.Load())
		in.mu.Lock()
		s.Sequence = in.window.top
		in.mu.Unlock()
		return s, nil
	}
	return policy.State{}, policy.ErrNoSA
}

func (u *usage) state() policy.State {
	return policy.State{Packets: u.packets.Load(), Octets: u.octets.Load(), LastUsed: instant(u.lastUsed.Load()), Drops: u.drops.byName()}
}

func instant(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}

// Waiting is how many frames wait for an SA of the policy, and their octets.
func (p *Plane) Waiting(id policy.PolicyID) (frames, octets int) {
	p.mu.Lock()
	e := p.policies[id]
	p.mu.Unlock()
	if e == nil {
		return 0, 0
	}
	e.queue.mu.Lock()
	defer e.queue.mu.Unlock()
	return len(e.queue.frames), e.queue.octets
}

// Tick moves the clock and performs what depends on it: lifetimes in time, events to be repeated, packets that waited
// too long, dummies. Once a second is enough.
func (p *Plane) Tick(now time.Time) {
	ns := now.UnixNano()
	p.clock.Store(ns)
	for _, s := range p.tick(ns) {
		p.sendPadded(s)
	}
}

// tick is Tick up to the dummies, which the result is to send.
func (p *Plane) tick(ns int64) (silent []*outSA) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.out {
		p.checkLifetime(&s.usage, &s.config, ns)
		if s.config.DummyInterval > 0 && p.fellSilent(s, ns) {
			silent = append(silent, s)
		}
	}
	for _, s := range p.in {
		p.checkLifetime(&s.usage, &s.config, ns)
		if s.authenticated.Load() != 0 {
			p.tellUsed(s)
		}
		if s.stateful {
			p.tickFragments(s, ns)
		}
	}
	for _, e := range p.policies {
		p.tickQueue(e, ns)
	}
	p.tickLarvae(ns)
	p.tickMTU(ns)
	return silent
}

func (p *Plane) newTransform(sa *policy.SA) (transform, error) {
	if p.config.InsecureNullCipher {
		return newInsecureNull(), nil
	}
	return newTransform(sa)
}

func saError(sa *policy.SA, format string, args ...any) error {
	return fmt.Errorf("sa %d (%s, spi %s): %w", sa.ID, sa.Direction, sa.SPI, fmt.Errorf(format, args...))
}
