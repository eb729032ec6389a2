package v2

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"coati/ike"
	"coati/ike/keys"
	"coati/ike/wire"
	"coati/policy"
)

// IKE fragmentation, RFC 7383. If both ends say IKEV2_FRAGMENTATION_SUPPORTED in IKE_SA_INIT, a protected message that would not
// fit a datagram of the threshold leaves as several, each sealed and authenticated for itself. The threshold is the tunnel's
// fragment-size at first; it falls by steps, for this IKE SA and its successors, when a message goes unanswered
// (section 2.5.2), when the peer repeats a question as if it had not seen our answer, and to what the peer itself uses.

const (
	smallFragments = 576  // octets of an IP datagram: the least we cut to, RFC 7383, section 2.5.1
	usualFragments = 1280 // octets of an IP datagram: where we begin, IPv6's least MTU
	// probeTries is how often a message is repeated before it is cut smaller.
	probeTries = 2
	// overhead is what stands before the encrypted content of a fragment, in octets: UDP, the non-ESP marker, IKE's header and SKF's.
	overhead = 8 + 4 + wire.HeaderLen + wire.FragmentHeaderLen
)

// fragmenting is what an IKE SA knows of fragments.
type fragmenting struct {
	agreed bool // both ends know fragments
	most   int  // octets of an IP datagram, learned from the path; 0: nothing learned
	// partial are the messages of which fragments have come: the peer's request and its response.
	partial [2]*partial
}

// sealed is a protected message as it travels: one datagram, or its fragments.
type sealed struct {
	header wire.Header
	first  wire.PayloadType
	plain  []byte   // kept, so that it can be cut smaller; nil: it cannot
	parts  [][]byte // each sealed once
	cipher *keys.Cipher
}

func (m *sealed) octets() (n int) {
	for _, p := range m.parts {
		n += len(p)
	}
	return n
}

// fragmentNotify announces that we take fragments, if one of the tunnels does.
func fragmentNotify(tunnels ...*policy.PeerTunnel) []wire.Payload {
	if !slices.ContainsFunc(tunnels, func(t *policy.PeerTunnel) bool { return t.FragmentSize >= 0 }) {
		return nil
	}
	return []wire.Payload{notify(wire.NotifyIKEv2FragmentationSupported, nil)}
}

// agreesOnFragments says whether the peer takes fragments, and we do.
func agreesOnFragments(m *message, tunnels ...*policy.PeerTunnel) bool {
	return m.notify(wire.NotifyIKEv2FragmentationSupported) != nil && fragmentNotify(tunnels...) != nil
}

// threshold is the largest IP datagram we send unfragmented, in octets.
func (s *sa) threshold() int {
	size := usualFragments
	t := s.tunnel
	if t == nil && len(s.candidates) > 0 {
		t = s.candidates[0]
	}
	if t != nil && t.FragmentSize > 0 {
		size = t.FragmentSize
	}
	if s.frag.most > 0 {
		size = min(size, s.frag.most)
	}
	return max(size, smallFragments)
}

// smaller is the next threshold below size, or 0.
func smaller(size int) int {
	for _, next := range []int{usualFragments, smallFragments} {
		if next < size {
			return next
		}
	}
	return 0
}

// seal protects a message, and cuts it as the threshold says.
func (s *sa) seal(ex wire.ExchangeType, flags wire.Flags, id uint32, payloads []wire.Payload) (*sealed, error) {
	first, plain, err := wire.AppendPayloads(nil, payloads)
	if err != nil {
		return nil, err
	}
	m := &sealed{header: s.header(ex, flags, id), first: first, plain: plain, cipher: s.outCipher}
	return m, s.cut(m, s.threshold())
}

// cut seals the datagrams of a message anew.
func (s *sa) cut(m *sealed, size int) error {
	chunk := s.chunk(m, size)
	if chunk == 0 {
		prefix, err := wire.AppendEncryptedHeader(nil, m.header, m.first, m.cipher.SealedLen(len(m.plain)))
		if err != nil {
			return err
		}
		b, err := m.cipher.Seal(s.env.Rand, prefix, m.plain)
		m.parts = [][]byte{b}
		return err
	}
	chunks := slices.Collect(slices.Chunk(m.plain, chunk))
	parts, first := make([][]byte, 0, len(chunks)), m.first
	for i, c := range chunks {
		prefix, err := wire.AppendFragmentHeader(nil, m.header, first, uint16(i+1), uint16(len(chunks)), m.cipher.SealedLen(len(c)))
		if err != nil {
			return err
		}
		b, err := m.cipher.Seal(s.env.Rand, prefix, c)
		if err != nil {
			return err
		}
		parts, first = append(parts, b), wire.PayloadNone
	}
	m.parts = parts
	return nil
}

// chunk is how much of a message's content goes into each datagram of that size; 0: all of it into one message.
func (s *sa) chunk(m *sealed, size int) int {
	room := size - s.overhead()
	if !s.frag.agreed || wire.HeaderLen+wire.PayloadHeaderLen+m.cipher.SealedLen(len(m.plain)) <= room+wire.HeaderLen+wire.FragmentHeaderLen {
		return 0
	}
	n := room - m.cipher.SealedLen(0)
	for n > 0 && m.cipher.SealedLen(n) > room {
		n--
	}
	return max(n, 1)
}

// overhead is what a fragment's datagram has beside the encrypted content, in octets.
func (s *sa) overhead() int {
	if s.path.Remote.Addr().Unmap().Is4() {
		return 20 + overhead
	}
	return 40 + overhead
}

// recut cuts a message smaller, if that makes more fragments of it. False: it stays.
func (s *sa) recut(m *sealed) bool {
	if m == nil || m.plain == nil || m.cipher == nil {
		return false
	}
	for size := smaller(s.threshold()); size > 0; size = smaller(size) {
		chunk := s.chunk(m, size)
		if chunk == 0 || (len(m.plain)+chunk-1)/chunk <= len(m.parts) {
			continue
		}
		if s.cut(m, size) != nil {
			return false // what was sealed before is still there
		}
		s.frag.most = size
		return true
	}
	return false
}

// partial is a message of which some fragments have come.
type partial struct {
	id       uint32
	exchange wire.ExchangeType
	first    wire.PayloadType
	parts    [][]byte // content by number; nil: has not come
	have     int
	octets   int         // of content
	largest  int         // octets of the largest datagram
	path     policy.Path // where they came from; where the SA is, if from several places
	until    time.Time
	counted  int // octets in Protocol.collecting
}

func which(response bool) int {
	if response {
		return 1
	}
	return 0
}

var errFragments = errors.New("the peer sends a message in more fragments than any message has")

// collect takes a fragment of the message that is awaited. It returns the whole once it is there: the type of its first
// payload and its content. Nothing is kept that is not authentic.
func (s *sa) collect(w *wire.Message, from policy.Path, response bool) (m *content, err error) {
	k, f := which(response), w.SKF
	p := s.frag.partial[k]
	if p != nil && (p.id != w.MessageID || p.exchange != w.Exchange) {
		s.forget(k)
		p = nil
	}
	if !s.frag.agreed || p != nil && (int(f.Total) < len(p.parts) || int(f.Total) == len(p.parts) && p.parts[f.Number-1] != nil) {
		s.drops.fragments++
		return nil, nil
	}
	plain, err := s.inCipher.Open(w.Raw, len(w.Raw)-len(f.Body))
	if errors.Is(err, keys.ErrUnauthenticated) {
		s.drops.unauthenticated++
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	l := &s.env.Limits
	if int(f.Total) > l.Fragments {
		s.forget(k)
		return nil, fmt.Errorf("%w: %d, and we take %d", errFragments, f.Total, l.Fragments)
	}
	if p != nil && int(f.Total) > len(p.parts) {
		s.forget(k) // cut smaller: another set (section 2.6)
		p = nil
	}
	if p == nil {
		p = &partial{id: w.MessageID, exchange: w.Exchange, parts: make([][]byte, f.Total), path: from, until: s.now.Add(l.HalfOpenLife)}
		s.frag.partial[k] = p
	}
	if p.octets+len(plain) > l.FragmentOctets {
		s.forget(k)
		return nil, fmt.Errorf("%w: more than %d octets", errFragments, l.FragmentOctets)
	}
	if s.phase < phaseEstablished && !s.initiator {
		if s.proto.collecting+len(plain) > l.FragmentOctetsHalfOpen {
			s.drops.fragments++ // others who are not authenticated hold too much
			return nil, nil
		}
		s.proto.collecting += len(plain)
		p.counted += len(plain)
	}
	if p.path != from {
		p.path = s.path // whoever repeats one of them from elsewhere does not move the SA
	}
	p.octets += len(plain)
	p.have++
	p.largest = max(p.largest, len(w.Raw))
	if p.parts[f.Number-1] = plain; plain == nil {
		p.parts[f.Number-1] = []byte{}
	}
	if f.Number == 1 {
		p.first = f.First
	}
	if p.have < len(p.parts) {
		return nil, nil
	}
	s.forget(k)
	s.frag.most = s.notAbove(p.largest)
	return &content{p.first, slices.Concat(p.parts...), p.path}, nil
}

// content is what is inside of a message put together.
type content struct {
	first wire.PayloadType
	plain []byte
	path  policy.Path
}

// notAbove is the threshold learned from a peer's fragments of so many octets: it may know the path better.
func (s *sa) notAbove(octets int) int {
	ip := max(octets+s.overhead()-wire.HeaderLen-wire.FragmentHeaderLen, smallFragments)
	if s.frag.most > 0 {
		return min(ip, s.frag.most)
	}
	return ip
}

// forget drops what was collected.
func (s *sa) forget(k int) {
	if p := s.frag.partial[k]; p != nil {
		s.proto.collecting -= p.counted
	}
	s.frag.partial[k] = nil
}

func (s *sa) forgetFragments() {
	s.forget(0)
	s.forget(1)
}

// stale is when the first of the collected fragments is too old.
func (f *fragmenting) stale() (at time.Time) {
	for _, p := range f.partial {
		if p != nil {
			at = ike.Earlier(at, p.until)
		}
	}
	return at
}

func (s *sa) forgetStale() {
	for k, p := range s.frag.partial {
		if p != nil && due(p.until, s.now) {
			s.forget(k)
		}
	}
}

// repeatedFragment says whether a fragment is of the peer's latest request once more. Only the first one asks for the answer again, and
// only if it is authentic: the peer may have cut it anew (section 2.6.1).
func (s *sa) repeatedFragment(w *wire.Message) (repeated, answer bool) {
	if w.SKF == nil || s.cache.cipher == nil {
		return false, false
	}
	if w.SKF.Number != 1 || s.cache.response == nil {
		return true, false
	}
	if _, err := s.cache.cipher.Open(w.Raw, len(w.Raw)-len(w.SKF.Body)); err != nil {
		s.drops.unauthenticated++
		return true, false
	}
	return true, true
}
