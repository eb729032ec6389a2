package esp

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"coati/packet"
	"coati/policy"
)

// usage is what both directions of an SA count, and the lifetimes those counts end.
type usage struct {
	packets, octets atomic.Uint64
	lastUsed        atomic.Int64 // unix nanoseconds, as coarse as Tick
	drops           drops
	expired         atomic.Bool // carries nothing any more
	// What has been told; set only once the event was taken.
	toldSoft, toldHard atomic.Bool
}

// outSA is an outbound SA. config is immutable; what updates change is atomic.
type outSA struct {
	config policy.SA
	tr     transform
	path   atomic.Pointer[policy.Path]
	mtu    atomic.Int32 // of inner packets, octets; 0: unknown
	outer  atomic.Int32 // path MTU, octets; 0: unknown
	usage  usage

	reserved atomic.Uint64 // the last sequence number given out
	ceiling  atomic.Uint64 // the last there is until an update raises it
	limit    uint64        // the last there is
	soft     uint64        // the one at which a successor should be asked for, whatever the lifetimes say
	turn     turnstile
	dummyAt  int64 // when the last periodic dummy left, unix nanoseconds; Plane.mu guards it
}

// inSA is an inbound SA.
type inSA struct {
	config policy.SA
	tr     transform
	path   atomic.Pointer[policy.Path]
	mtu    atomic.Int32
	usage  usage

	authenticated atomic.Int64 // when, unix nanoseconds; 0: never
	toldUsed      atomic.Bool
	// moved is the last address a Mapping event told of.
	moved atomic.Pointer[policy.Path]

	mu     sync.Mutex // guards window
	window window

	stateful bool // checksFragments
	checks   fragmentChecks
}

func newOutSA(sa policy.SA, tr transform) *outSA {
	s := &outSA{config: sa, tr: tr, limit: math.MaxUint32}
	if sa.ESN {
		s.limit = math.MaxUint64
	}
	// At a million packets a second the last sixteenth of 2^32 lasts four minutes: time for a rekey.
	s.soft = s.limit - s.limit/16
	s.reserved.Store(sa.Sequence)
	s.setCeiling(sa.Ceiling)
	s.turn.init(sa.Sequence)
	s.setPath(sa.Path.Unmap())
	s.setOuterMTU(sa.TunnelMTU)
	return s
}

func newInSA(sa policy.SA, tr transform) *inSA {
	s := &inSA{config: sa, tr: tr, window: newWindow(sa.ReplayWindow, sa.ESN), stateful: checksFragments(&sa)}
	path := sa.Path.Unmap()
	s.path.Store(&path)
	s.setOuterMTU(sa.TunnelMTU)
	return s
}

func (s *inSA) setOuterMTU(mtu int) {
	inner := 0
	if mtu > 0 {
		path := s.path.Load()
		inner = s.tr.innerMTU(mtu, path.Remote.Addr().Is6(), path.Encap == policy.EncapUDP)
	}
	s.mtu.Store(int32(inner))
}

// setCeiling never lowers what was promised.
func (s *outSA) setCeiling(last uint64) {
	if last == 0 || last > s.limit {
		last = s.limit
	}
	s.ceiling.Store(max(last, s.ceiling.Load()))
}

func (s *outSA) setPath(path policy.Path) {
	s.path.Store(&path)
	s.setOuterMTU(int(s.outer.Load()))
}

func (s *outSA) setOuterMTU(mtu int) {
	s.outer.Store(int32(mtu))
	inner := 0
	if mtu > 0 {
		path := s.path.Load()
		// An MTU that leaves no room is somebody's mistake or trick; 576 inner octets always may try.
		inner = max(576, s.tr.innerMTU(mtu, path.Remote.Addr().Is6(), path.Encap == policy.EncapUDP))
	}
	s.mtu.Store(int32(inner))
}

// reserve takes up to n sequence numbers, first to first+got-1. They are this run's alone, sent or not. got < n says
// that the SA's numbers are used up (RFC 4303, section 3.3.3), for good if it has reached its limit.
func (s *outSA) reserve(n int) (first uint64, got int) {
	for {
		last := s.reserved.Load()
		got = int(min(uint64(n), s.ceiling.Load()-last))
		if got == 0 || s.reserved.CompareAndSwap(last, last+uint64(got)) {
			return last + 1, got
		}
	}
}

func (u *usage) count(packets, octets int, now int64) {
	u.packets.Add(uint64(packets))
	u.octets.Add(uint64(octets))
	u.lastUsed.Store(now)
}

func over(n, limit uint64) bool { return limit > 0 && n >= limit }

// checkLifetime emits what is due; it is called after every run of packets and by Tick.
func (p *Plane) checkLifetime(u *usage, sa *policy.SA, now int64) {
	if u.toldHard.Load() {
		return
	}
	l := &sa.Lifetime
	packets, octets := u.packets.Load(), u.octets.Load()
	var age time.Duration
	if !sa.Added.IsZero() {
		age = time.Duration(now - sa.Added.UnixNano())
	}
	hard := over(packets, l.HardPackets) || over(octets, l.HardOctets) || l.HardTime > 0 && age >= l.HardTime
	if hard || u.expired.Load() {
		u.expired.Store(true)
		if u.toldHard.CompareAndSwap(false, true) && !p.emit(policy.PlaneEvent{Kind: policy.PlaneExpireHard, SA: sa.ID}) {
			u.toldHard.Store(false)
		}
		return
	}
	if over(packets, l.SoftPackets) || over(octets, l.SoftOctets) || l.SoftTime > 0 && age >= l.SoftTime {
		p.tellSoft(u, sa)
	}
}

func (p *Plane) tellSoft(u *usage, sa *policy.SA) {
	if u.toldSoft.CompareAndSwap(false, true) && !p.emit(policy.PlaneEvent{Kind: policy.PlaneExpireSoft, SA: sa.ID}) {
		u.toldSoft.Store(false)
	}
}

// bundle is the outbound SAs that share a reqid, the one to use first at the end.
type bundle struct {
	sas atomic.Pointer[[]*outSA]
	// policies that use it; guarded by Plane.mu.
	policies map[policy.PolicyID]*spdEntry
}

// all of them, as they were at one moment. Nobody changes what is returned.
func (b *bundle) all() []*outSA {
	if sas := b.sas.Load(); sas != nil {
		return *sas
	}
	return nil
}

// first is the one to use first; nil: none.
func (b *bundle) first() *outSA {
	if sas := b.all(); len(sas) > 0 {
		return sas[len(sas)-1]
	}
	return nil
}

// pick is the first SA whose selectors take the packet: a peer may have narrowed it (RFC 7296, section 2.9).
func (b *bundle) pick(f *policy.Flow) *outSA {
	for _, s := range slices.Backward(b.all()) {
		if !s.usage.expired.Load() && policy.MatchFlow(s.config.Local, s.config.Remote, *f, true) {
			return s
		}
	}
	return nil
}

// replace makes add the first, and takes remove out; either may be nil. Thousands of peers may share a reqid, so one more of
// them is written behind the end of what others read, and nothing is copied.
func (b *bundle) replace(add, remove *outSA) {
	next := b.all()
	if remove != nil || slices.Contains(next, add) {
		next = slices.DeleteFunc(slices.Clone(next), func(s *outSA) bool { return s == remove || s == add })
	}
	if add != nil {
		next = append(next, add)
	}
	b.sas.Store(&next)
}

func (b *bundle) live() bool { return len(b.all()) > 0 }

// inTable finds inbound SAs by SPI without a lock: immutable chains in a snapshot that is replaced by one of twice the
// size when there are as many SAs as chains. So a chain has one or two, however many there are.
type inTable struct {
	buckets atomic.Pointer[[]inBucket] // a power of two
	count   int                        // of SAs; guarded by Plane.mu, as all changes are
}

type inBucket struct{ first atomic.Pointer[inEntry] }

// inEntry has the SPI beside the pointer: an SA is looked into when it is the right one.
type inEntry struct {
	spi  uint32
	sa   *inSA
	next *inEntry
}

// leastBuckets an inTable has, from the first SA on.
const leastBuckets = 64

func bucketOf(buckets []inBucket, spi uint32) *inBucket {
	return &buckets[(spi^spi>>12^spi>>24)&uint32(len(buckets)-1)]
}

func (t *inTable) find(spi uint32) *inSA {
	buckets := t.buckets.Load()
	if buckets == nil {
		return nil
	}
	for e := bucketOf(*buckets, spi).first.Load(); e != nil; e = e.next {
		if e.spi == spi {
			return e.sa
		}
	}
	return nil
}

func (t *inTable) replace(spi uint32, add, remove *inSA) {
	buckets := t.buckets.Load()
	if buckets == nil || add != nil && t.count >= len(*buckets) {
		buckets = t.grow(buckets)
	}
	b := bucketOf(*buckets, spi)
	var next *inEntry
	for e := b.first.Load(); e != nil; e = e.next {
		if remove == nil || e.sa != remove {
			next = &inEntry{e.spi, e.sa, next}
		} else {
			t.count--
		}
	}
	if add != nil {
		next = &inEntry{spi, add, next}
		t.count++
	}
	b.first.Store(next)
}

func (t *inTable) grow(old *[]inBucket) *[]inBucket {
	next := make([]inBucket, leastBuckets)
	if old != nil {
		next = make([]inBucket, 2*len(*old))
		for i := range *old {
			for e := (*old)[i].first.Load(); e != nil; e = e.next {
				b := bucketOf(next, e.spi)
				b.first.Store(&inEntry{e.spi, e.sa, b.first.Load()})
			}
		}
	}
	t.buckets.Store(&next)
	return &next
}

// flowOf is the flow as selectors see it.
func flowOf(i *packet.Info) policy.Flow {
	return policy.Flow{
		Src: i.SrcAddr(), Dst: i.DstAddr(), Protocol: i.Protocol,
		SrcPort: i.SrcPort, DstPort: i.DstPort, HasPorts: i.HasPorts,
	}
}
