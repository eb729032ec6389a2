package xfrm

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"coati/policy"
)

// Config of a plane.
type Config struct {
	// Name tells the planes of one machine apart: the TUN's name. It makes the tag of all that is ours in the kernel.
	Name string
	// Mark is set on the ESP packets of outbound SAs, in the bits of Mask; no mask: no mark. Routing may depend on it.
	Mark, Mask uint32
	// NeighbourPolicies turns off the built-in bypass of neighbour and router discovery: its packets then match the
	// policies like others.
	NeighbourPolicies bool
}

// Plane is the kernel as policy.Plane. It belongs to the network namespace of the thread that opened it.
type Plane struct {
	config Config
	tag    uint32
	conn   *conn
	listen *listener
	events chan policy.PlaneEvent

	mu       sync.Mutex // guards what follows
	closed   bool
	larval   map[policy.SPI]bool
	sas      map[policy.SAID]*sa
	byState  map[stateID]*sa
	policies map[policy.PolicyID]*policy.Policy
	spd      spd                  // as the kernel has it
	indexes  map[slot]uint32      // of what is ours there
	slots    map[uint32]slot      // by index
	rounds   map[uint32]uint16    // by reqid: negotiations that failed
	refused  map[uint32]time.Time // by reqid: packets are refused, since a negotiation has failed
	order    uint64               // of activations
}

// sa is an SA of ours.
type sa struct {
	config    policy.SA
	id        stateID
	installed bool   // standby SAs are not
	order     uint64 // outbound: the last activated of a reqid says where its policies lead
	used      bool   // inbound: PlaneUsed was told
	added     time.Time
	dying     bool // its soft lifetime is over
	gone      bool // the kernel ended it: its hard lifetime is over
	packets   uint64
	bytes     uint64    // of one that is gone
	lastMoved time.Time // when packets was last seen to have grown
}

var _ policy.Plane = (*Plane)(nil)

// The tag of reqids and policy indexes: the highest bit, and eleven of the name's hash. Below it are 20 bits.
const (
	tagBit  = 1 << 31
	tagMask = 0xfff << 20
	ownMask = ^uint32(tagMask)
)

func tagOf(name string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return tagBit | h.Sum32()&(tagMask>>1)&tagMask
}

var errClosed = errors.New("the kernel plane is closed")

// Open removes what a former plane of that name left in the kernel, and listens to the kernel's events. An error of
// Probe's kind says that this kernel cannot do ESP.
func Open(c Config) (*Plane, error) {
	p := &Plane{
		config: c, tag: tagOf(c.Name), events: make(chan policy.PlaneEvent, eventBuffer),
		larval: map[policy.SPI]bool{}, sas: map[policy.SAID]*sa{}, byState: map[stateID]*sa{}, policies: map[policy.PolicyID]*policy.Policy{},
		spd: spd{}, indexes: map[slot]uint32{}, slots: map[uint32]slot{}, rounds: map[uint32]uint16{}, refused: map[uint32]time.Time{},
	}
	var err error
	if p.conn, err = dial(); err != nil {
		return nil, explain(err)
	}
	if err = probe(p.conn); err == nil {
		err = p.clean()
	}
	if err == nil {
		if next := p.desired(p.policies); len(next) > 0 {
			_, err = p.reconcile(next)
		}
	}
	if err == nil {
		p.listen, err = p.startListening()
	}
	if err != nil {
		_ = p.clean()
		p.conn.close()
		return nil, err
	}
	return p, nil
}

// Close deletes all of the plane's states and policies.
func (p *Plane) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	for _, s := range p.sas {
		s.wipe()
	}
	p.mu.Unlock()
	p.listen.close()
	err := p.clean()
	p.conn.close()
	return err
}

// clean deletes what carries our tag.
func (p *Plane) clean() error {
	// Policies first: what they protect must not leave by a state that is another's.
	slots, err := p.conn.policies(func(r *readPolicy) bool { return r.index&tagMask == p.tag })
	errs := []error{err}
	for _, k := range slots {
		errs = append(errs, p.conn.removePolicy(k))
	}
	ids, err := p.conn.states(func(r *readState) bool { return r.reqID&tagMask == p.tag && r.id.SPI != 0 })
	errs = append(errs, err)
	for _, id := range ids {
		errs = append(errs, p.conn.remove(id))
	}
	for spi := range p.larval {
		errs = append(errs, p.conn.remove(larva(spi)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cleaning the kernel's ipsec tables: %w", err)
	}
	return nil
}

// Capabilities of the kernel.
func (p *Plane) Capabilities() policy.Caps {
	return policy.Caps{Name: "kernel", ESN: true, Transport: true, RawESP: true, MaxReplayWindow: maxWindow}
}

// Events has one reader.
func (p *Plane) Events() <-chan policy.PlaneEvent { return p.events }

// larva is a reserved SPI. We do not know at which address it will be used, so it stands at none: a number for everybody.
func larva(spi policy.SPI) stateID {
	return stateID{Dst: netip.IPv4Unspecified(), SPI: uint32(spi), Proto: protoESP}
}

// AllocSPI draws a random SPI of 256 or more (RFC 4303, section 2.1) and has the kernel reserve it: a larval state, which
// other users of the kernel see. The kernel's reservation ends after 30 seconds, ours does not.
func (p *Plane) AllocSPI(proto policy.Protocol) (policy.SPI, error) {
	if proto != policy.ProtocolESP {
		return 0, errors.New("the kernel plane carries esp only")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for range 1000 {
		var b [4]byte
		_, _ = rand.Read(b[:]) // it never fails: crypto/rand ends the program instead
		spi := policy.SPI(binary.BigEndian.Uint32(b[:]))
		if spi < 256 || p.larval[spi] || p.inbound(spi) != nil {
			continue
		}
		m, body := newMessage(msgAllocSPI, flagsRequest, sizeSPIRange)
		putAddr(body[56:], netip.IPv4Unspecified())
		body[76] = protoESP
		native.PutUint32(body[208:], p.tag)
		native.PutUint16(body[212:], familyIPv4)
		body[214] = modeTunnel
		native.PutUint32(body[sizeState:], uint32(spi))
		native.PutUint32(body[sizeState+4:], uint32(spi))
		err := p.conn.do(m, nil)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EEXIST) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("reserving an spi: %w", err)
		}
		p.larval[spi] = true
		return spi, nil
	}
	return 0, errors.New("no free spi found")
}

// inbound is the inbound SA that has the SPI; nil: none has.
func (p *Plane) inbound(spi policy.SPI) *sa {
	for _, s := range p.sas {
		if s.config.Direction == policy.Inbound && s.config.SPI == spi {
			return s
		}
	}
	return nil
}

// FreeSPI gives back an SPI no SA took.
func (p *Plane) FreeSPI(_ policy.Protocol, spi policy.SPI) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free(spi)
}

func (p *Plane) free(spi policy.SPI) {
	if p.larval[spi] {
		delete(p.larval, spi)
		_ = p.conn.remove(larva(spi)) // it ends by itself
	}
}

// reqID is the kernel's number for one of ours.
func (p *Plane) reqID(ours uint32) uint32 { return p.tag | ours&ownMask }

// State of an SA, as the kernel counts. Octets of an outbound SA are with the outer header.
func (p *Plane) State(id policy.SAID) (policy.State, error) {
	p.mu.Lock()
	s := p.sas[id]
	if s == nil || s.gone {
		p.mu.Unlock()
		return policy.State{}, policy.ErrNoSA
	}
	installed, at := s.installed, s.id
	p.mu.Unlock()
	if !installed {
		return policy.State{}, nil
	}
	r, err := p.conn.get(at)
	if err != nil {
		return policy.State{}, policy.ErrNoSA
	}
	p.mu.Lock()
	p.seen(s, &r, time.Now())
	moved := s.lastMoved
	p.mu.Unlock()
	return r.state(s.config.Direction, moved), nil
}

// state is what the kernel counted of an SA that last carried something when moved says.
func (r *readState) state(dir policy.Direction, moved time.Time) policy.State {
	st := policy.State{Packets: r.packets, Octets: r.bytes, Sequence: r.outbound, LastUsed: moved}
	if r.lastUsed != 0 {
		st.LastUsed = time.Unix(int64(r.lastUsed), 0)
	}
	if dir == policy.Inbound {
		st.Sequence = r.inbound
		if r.packets > 0 {
			st.LastAuthenticated = moved
		}
		st.Drops = map[string]uint64{}
		for name, n := range map[string]uint32{"replayed or too old": r.late + r.replays, "authentication failed": r.failed} {
			if n > 0 {
				st.Drops[name] = uint64(n)
			}
		}
	}
	return st
}

// seen notes that an SA carried something since we last looked; the kernel does not say when. The lock is held.
func (p *Plane) seen(s *sa, r *readState, now time.Time) {
	if r.packets > s.packets {
		s.packets, s.lastMoved = r.packets, now
	}
}

func (s *sa) wipe() {
	s.config.EncryptionKey.Wipe()
	s.config.IntegrityKey.Wipe()
}
