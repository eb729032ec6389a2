package sim

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"coati/policy"
)

// Plane records SAs and carries numbered packets between hosts. It implements policy.Plane.
type Plane struct {
	host     *Host
	larval   map[policy.SPI]bool
	SAs      map[policy.SAID]*SA
	order    []policy.SAID // outbound, oldest first
	policies map[policy.PolicyID]policy.Policy
	acquired map[policy.PolicyID]bool
	// FailNext makes the next transaction with SAs fail.
	FailNext bool
	// Fixed outbound SAs keep their path: policy.ErrRekey.
	Fixed bool
	// Received lists the numbers of the packets that arrived, in order; Dropped those that no SA took.
	Received []uint64
	Dropped  []uint64
	// Early counts packets that came before their SA. We keep them; another peer would not.
	Early   int
	waiting map[policy.PolicyID][]waiting
	Refused []uint64                  // waited, and the negotiation failed
	Unready int                       // packets that found no SA
	early   map[policy.SPI][]Datagram // came before their SA
}

// SA is a living SA of a simulated plane.
type SA struct {
	policy.SA
	State policy.State
	// Lonely is since when its outbound half is gone: it takes packets on their way for a while.
	Lonely time.Time
	used   bool
	soft   bool
	hard   bool
}

// packetOctets is the size of every packet of the simulation.
const packetOctets = 1000

type espPacket struct {
	spi    policy.SPI
	key    string // stands for encryption: who has another key drops it
	number uint64
}

func newPlane(h *Host) *Plane {
	return &Plane{
		host: h, larval: map[policy.SPI]bool{}, SAs: map[policy.SAID]*SA{}, policies: map[policy.PolicyID]policy.Policy{},
		acquired: map[policy.PolicyID]bool{}, waiting: map[policy.PolicyID][]waiting{}, early: map[policy.SPI][]Datagram{},
	}
}

var _ policy.Plane = (*Plane)(nil)

// AllocSPI reserves an SPI that no other SA has.
func (p *Plane) AllocSPI(policy.Protocol) (policy.SPI, error) {
	for {
		spi := policy.SPI(p.host.world.Rand.Uint32())
		if spi > 255 && !p.larval[spi] {
			p.larval[spi] = true
			return spi, nil
		}
	}
}

// FreeSPI gives an SPI back.
func (p *Plane) FreeSPI(_ policy.Protocol, spi policy.SPI) {
	if !p.larval[spi] {
		panic("sim: an SPI is freed that was not reserved")
	}
	for _, d := range p.early[spi] {
		p.Dropped = append(p.Dropped, d.ESP.number)
	}
	delete(p.early, spi)
	delete(p.larval, spi)
}

var errFail = errors.New("the simulation wants this to fail")

// Apply performs a transaction, strictly: whatever a real plane might forgive is a fault here.
func (p *Plane) Apply(tx policy.Tx) error {
	if p.FailNext && len(tx.AddSAs) > 0 {
		p.FailNext = false
		return errFail
	}
	for _, sa := range tx.AddSAs {
		if p.SAs[sa.ID] != nil || sa.ID == 0 {
			return fmt.Errorf("SA %d is there already", sa.ID)
		}
		if sa.Direction == policy.Inbound && !p.larval[sa.SPI] {
			return fmt.Errorf("SPI %v was not reserved", sa.SPI)
		}
	}
	for _, id := range tx.DeleteSAs {
		if p.SAs[id] == nil && !slices.ContainsFunc(tx.AddSAs, func(s policy.SA) bool { return s.ID == id }) {
			return fmt.Errorf("SA %d is to be deleted and is not there", id)
		}
	}
	for _, u := range tx.UpdateSAs {
		if p.SAs[u.ID] == nil {
			return fmt.Errorf("SA %d is to be updated and is not there", u.ID)
		}
		if p.Fixed && u.Path != nil && p.SAs[u.ID].Direction == policy.Outbound {
			return policy.ErrRekey
		}
	}
	for _, pol := range tx.PutPolicies {
		p.policies[pol.ID] = pol
	}
	for _, sa := range tx.AddSAs {
		sa.EncryptionKey = sa.EncryptionKey.Clone()
		p.SAs[sa.ID] = &SA{SA: sa}
		p.clock(p.SAs[sa.ID])
		if sa.Direction == policy.Inbound {
			for _, d := range p.early[sa.SPI] {
				p.receive(d)
			}
			delete(p.early, sa.SPI)
		}
		if sa.Direction == policy.Outbound {
			p.order = append(p.order, sa.ID)
			if !sa.Standby {
				p.flush(sa.ReqID)
			}
		}
	}
	for _, u := range tx.UpdateSAs {
		sa := p.SAs[u.ID]
		if u.Path != nil {
			sa.Path = *u.Path
		}
		if u.Activate {
			sa.Standby = false
			p.order = append(slices.DeleteFunc(p.order, func(id policy.SAID) bool { return id == u.ID }), u.ID)
			p.flush(sa.ReqID)
		}
	}
	for _, id := range tx.DeleteSAs {
		if pair := p.SAs[p.SAs[id].Pair]; pair != nil && p.SAs[id].Direction == policy.Outbound {
			pair.Lonely = p.host.world.Now
		}
		if p.SAs[id].Direction == policy.Inbound {
			delete(p.larval, p.SAs[id].SPI)
		}
		delete(p.SAs, id)
		p.order = slices.DeleteFunc(p.order, func(x policy.SAID) bool { return x == id })
	}
	for _, id := range tx.FailAcquires {
		for _, w := range p.waiting[id] {
			p.Refused = append(p.Refused, w.number)
		}
		delete(p.waiting, id)
		delete(p.acquired, id)
	}
	return nil
}

// State reports counters.
func (p *Plane) State(id policy.SAID) (policy.State, error) {
	if sa := p.SAs[id]; sa != nil {
		return sa.State, nil
	}
	return policy.State{}, policy.ErrNoSA
}

// Events is not used: the plane calls its host.
func (p *Plane) Events() <-chan policy.PlaneEvent { return nil }

// Capabilities of the simulation.
func (p *Plane) Capabilities() policy.Caps {
	return policy.Caps{Name: "simulated", ESN: true, RawESP: true}
}

// waiting is a packet without an SA. A zero flow stands for one that every SA of the policy takes.
type waiting struct {
	number uint64
	flow   policy.Flow
}

// outbound is the SA that carries a packet of a child: the latest activated of those that take it.
func (p *Plane) outbound(reqID uint32, f policy.Flow) *SA {
	for _, id := range slices.Backward(p.order) {
		if sa := p.SAs[id]; sa.ReqID == reqID && !sa.Standby && (!f.Src.IsValid() || policy.MatchFlow(sa.Local, sa.Remote, f, true)) {
			return sa
		}
	}
	return nil
}

// Send carries a numbered packet of a policy, or has it wait for an SA. to, where valid, is the address it is for.
func (p *Plane) Send(id policy.PolicyID, number uint64, to netip.Addr) {
	pol := p.policies[id]
	w, f := waiting{number: number}, flowOf(pol)
	if to.IsValid() {
		f.Dst = to
		w.flow = f
	}
	if sa := p.outbound(pol.ReqID, w.flow); sa != nil {
		p.carry(sa, number)
		return
	}
	p.Unready++
	p.waiting[id] = append(p.waiting[id], w)
	if !p.acquired[id] {
		p.acquired[id] = true
		p.host.acquire(id, f)
	}
}

// flowOf is a packet of a policy.
func flowOf(pol policy.Policy) policy.Flow {
	l, r := pol.Local[0], pol.Remote[0]
	f := policy.Flow{Src: l.End, Dst: r.End, Protocol: l.Protocol}
	if f.Protocol == 0 {
		f.Protocol, f.SrcPort, f.DstPort, f.HasPorts = 17, 40000, 53, true
	}
	return f
}

func (p *Plane) flush(reqID uint32) {
	for id, queue := range p.waiting {
		if p.policies[id].ReqID != reqID {
			continue
		}
		delete(p.waiting, id)
		for _, w := range queue {
			if sa := p.outbound(reqID, w.flow); sa != nil {
				p.carry(sa, w.number)
			} else {
				p.waiting[id] = append(p.waiting[id], w)
			}
		}
	}
	for id := range p.acquired {
		if p.policies[id].ReqID == reqID {
			delete(p.acquired, id)
		}
	}
}

func (p *Plane) carry(sa *SA, number uint64) {
	sa.State.Packets++
	sa.State.Octets += packetOctets
	sa.State.LastUsed = p.host.world.Now
	p.lifetime(sa)
	from, to := sa.Path.Local, sa.Path.Remote
	if sa.Path.Encap == policy.EncapRaw {
		from, to = netip.AddrPortFrom(from.Addr(), 0), netip.AddrPortFrom(to.Addr(), 0)
	}
	p.host.transmit(Datagram{From: from, To: to, ESP: &espPacket{sa.SPI, string(sa.EncryptionKey.Reveal()), number}})
}

// clock has an SA expire at its time.
func (p *Plane) clock(sa *SA) {
	life := p.host.life
	at := func(d time.Duration, hard bool) {
		if d <= 0 {
			return
		}
		p.host.world.After(d, func() {
			if p.host.alive && p.host.life == life && p.SAs[sa.ID] == sa {
				p.host.expire(sa.ID, hard)
			}
		})
	}
	at(sa.Lifetime.SoftTime, false)
	at(sa.Lifetime.HardTime, true)
}

func (p *Plane) lifetime(sa *SA) {
	reached := func(packets, octets uint64) bool {
		return packets > 0 && sa.State.Packets >= packets || octets > 0 && sa.State.Octets >= octets
	}
	if reached(sa.Lifetime.HardPackets, sa.Lifetime.HardOctets) && !sa.hard {
		sa.hard = true
		p.host.expire(sa.ID, true)
	}
	if reached(sa.Lifetime.SoftPackets, sa.Lifetime.SoftOctets) && !sa.soft {
		sa.soft = true
		p.host.expire(sa.ID, false)
	}
}

// receive opens a packet.
func (p *Plane) receive(d Datagram) {
	for _, sa := range p.SAs {
		if sa.Direction != policy.Inbound || sa.SPI != d.ESP.spi {
			continue
		}
		if string(sa.EncryptionKey.Reveal()) != d.ESP.key {
			break
		}
		sa.State.LastAuthenticated = p.host.world.Now
		sa.State.Packets++
		p.Received = append(p.Received, d.ESP.number)
		if !sa.used {
			sa.used = true
			p.host.used(sa.ID)
		}
		if sa.Path.Encap == policy.EncapUDP && d.From != sa.Path.Remote {
			p.host.mapping(sa.ID, d.From)
		}
		return
	}
	if p.larval[d.ESP.spi] {
		p.early[d.ESP.spi] = append(p.early[d.ESP.spi], d)
		p.Early++
		return
	}
	p.host.world.traceLine(p.host, fmt.Sprintf("drops packet %d of SA %v", d.ESP.number, d.ESP.spi))
	p.Dropped = append(p.Dropped, d.ESP.number)
}
