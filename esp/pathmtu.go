package esp

import (
	"net/netip"
	"time"

	"coati/packet"
	"coati/policy"
)

// What routers say of the size of our ESP packets (RFC 4301, sections 6.1.1 and 8.2). Anybody can write an ICMP error, so
// one counts only if
//
//   - it quotes the SPI, the addresses and, in UDP, the ports of a living outbound SA, and a sequence number that was sent
//     lately: whoever does not see our packets would have to guess 32 bits and more;
//   - the MTU it tells is smaller than the one we had, and not below the floor.
//
// Then it is believed at once, and a probe leaves: a dummy packet of the former size. Only whoever sees it can quote its
// number, so an error about the probe confirms; without one the former size comes back. What is confirmed ages
// (RFC 1191, section 6.3): the first hop's size is tried again, and if the path is still small, it says so again.

const (
	// DefaultMTUFloor is what every IPv4 path carries, octets (RFC 1191, section 3; for IPv6 it is 1280).
	DefaultMTUFloor = 576
	// DefaultMTUAging is how long a confirmed path MTU is kept.
	DefaultMTUAging = 10 * time.Minute

	// probePatience is how long a router may take to answer a probe.
	probePatience = 5 * time.Second
	// probeRun is how many packets back an error may look.
	probeRun = 1 << 16
)

// TooBig is an ICMP error "fragmentation needed" or "packet too big" about an ESP packet of ours: what it quotes, and the
// MTU it tells, octets.
type TooBig struct {
	Path     policy.Path // ports are meant only in UDP
	SPI      policy.SPI
	Sequence uint32
	MTU      int
}

// TooBigVerdict is what became of it.
type TooBigVerdict uint8

const (
	TooBigUnknown   TooBigVerdict = iota // it quotes no living SA
	TooBigStale                          // it quotes no number sent lately
	TooBigFloor                          // the MTU is below the floor
	TooBigKnown                          // the MTU is not smaller than the one we have
	TooBigTentative                      // believed, and being probed
	TooBigConfirmed                      // it is about the probe
	TooBigIgnored                        // such errors are not to be acted upon
)

func (v TooBigVerdict) String() string {
	return [...]string{"no such sa", "number not sent lately", "below the floor", "nothing new", "believed and being probed", "confirmed", "ignored as configured"}[v]
}

// learned is the MTU of the way to one peer. Plane.mu guards it.
type learned struct {
	mtu       int
	former    int   // the first hop's, octets; 0: unknown
	at        int64 // unix nanoseconds
	confirmed bool
	sa        policy.SAID // that carried the probe
	probe     uint32      // its sequence number
}

// PathTooBig weighs an ICMP error, and lowers the MTU of the peer's SAs if it counts. Errors are weighed one after the other: an
// answer to a probe finds that it was sent.
func (p *Plane) PathTooBig(t TooBig) TooBigVerdict {
	p.weighing.Lock()
	defer p.weighing.Unlock()
	verdict, probe := p.weigh(&t)
	if probe == nil {
		return verdict
	}
	seq, ok := p.dummy(probe.by, probe.size)
	p.mu.Lock()
	defer p.mu.Unlock()
	// Whether it left or not cannot be told apart from a lost answer.
	probe.of.probe, probe.of.confirmed = uint32(seq), !ok
	return verdict
}

// probe is a dummy packet that is to be sent: of so many octets, about what was learned.
type probe struct {
	by   *outSA
	of   *learned
	size int
}

// weigh is PathTooBig up to the probe, nil if none is needed.
func (p *Plane) weigh(t *TooBig) (TooBigVerdict, *probe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if v6 := t.Path.Remote.Addr().Unmap().Is6(); v6 && p.config.IgnoreTooBig || !v6 && p.config.IgnoreNeeded {
		return TooBigIgnored, nil
	}
	sa := p.quoted(t)
	if sa == nil {
		return TooBigUnknown, nil
	}
	if uint32(sa.reserved.Load())-t.Sequence >= probeRun {
		return TooBigStale, nil
	}
	remote := sa.path.Load().Remote.Addr()
	if t.MTU < p.mtuFloor(remote) {
		return TooBigFloor, nil
	}
	l := p.learned[remote]
	if l != nil && !l.confirmed && l.sa == sa.config.ID && l.probe == t.Sequence {
		l.confirmed, l.at, l.mtu = true, p.clock.Load(), min(l.mtu, t.MTU)
		p.setPathMTU(remote, l.mtu)
		return TooBigConfirmed, nil
	}
	former := int(sa.outer.Load())
	if former > 0 && t.MTU >= former {
		return TooBigKnown, nil
	}
	next := &learned{mtu: t.MTU, former: former, at: p.clock.Load(), sa: sa.config.ID}
	if l != nil {
		next.former = l.former // a second hop that is smaller yet
	}
	p.learned[remote] = next
	p.setPathMTU(remote, t.MTU)
	return TooBigTentative, probeFor(sa, next, former)
}

// quoted is the outbound SA of a packet. Two peers may have chosen one SPI.
func (p *Plane) quoted(t *TooBig) *outSA {
	path := t.Path.Unmap()
	for _, s := range p.outSPI[t.SPI] {
		o := s.path.Load()
		if o.Encap != path.Encap || o.Remote.Addr() != path.Remote.Addr() || o.Local.Addr() != path.Local.Addr() {
			continue
		}
		if o.Encap != policy.EncapUDP || o.Remote.Port() == path.Remote.Port() && o.Local.Port() == path.Local.Port() {
			return s
		}
	}
	return nil
}

func (p *Plane) mtuFloor(remote netip.Addr) int {
	floor := p.config.MTUFloor
	if floor == 0 {
		floor = DefaultMTUFloor
	}
	if remote.Is6() {
		floor = max(floor, packet.MinMTUv6)
	}
	return floor
}

// probeFor is a packet of the former size. If none can be larger than what is believed now, there is nothing to confirm.
func probeFor(sa *outSA, l *learned, former int) *probe {
	if former == 0 {
		former = 1500 // an Ethernet is before most paths
	}
	path := sa.path.Load()
	fits := func(mtu int) int { return sa.tr.innerMTU(mtu, path.Remote.Addr().Is6(), path.Encap == policy.EncapUDP) }
	if fits(former) <= fits(l.mtu) {
		l.confirmed = true
		return nil
	}
	return &probe{sa, l, fits(former)}
}

// setPathMTU sets the MTU of all SAs with a peer.
func (p *Plane) setPathMTU(remote netip.Addr, mtu int) {
	for _, s := range p.out {
		if s.path.Load().Remote.Addr() == remote {
			s.setOuterMTU(mtu)
		}
	}
	for _, s := range p.in {
		if s.path.Load().Remote.Addr() == remote {
			s.setOuterMTU(mtu)
		}
	}
}

// SetPathMTU tells the MTU of the first hop to remote, octets. What a router said counts on if it is smaller.
func (p *Plane) SetPathMTU(remote netip.Addr, mtu int) {
	remote = remote.Unmap()
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.learned[remote]; l != nil {
		if l.mtu < mtu {
			l.former = mtu
			return
		}
		delete(p.learned, remote)
	}
	p.setPathMTU(remote, mtu)
}

// inheritMTU lets new SAs know what routers said before.
func (p *Plane) inheritMTU(remote netip.Addr) {
	if l := p.learned[remote]; l != nil {
		p.setPathMTU(remote, l.mtu)
	}
}

// tickMTU takes back what no probe confirmed, and what is old.
func (p *Plane) tickMTU(now int64) {
	aging := p.config.MTUAging
	if aging == 0 {
		aging = DefaultMTUAging
	}
	for remote, l := range p.learned {
		limit := probePatience
		if l.confirmed {
			limit = aging
		}
		if now-l.at >= int64(limit) {
			delete(p.learned, remote)
			p.setPathMTU(remote, l.former)
		}
	}
}
