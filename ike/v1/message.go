package v1

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"coati/ike"
	"coati/ike/keys"
	"coati/ike/wire"
	"coati/policy"
)

// message is one of the peer's. If it came encrypted its payloads are authentic once they are here.
type message struct {
	wire.V1Message
	path   policy.Path
	digest [32]byte
	plain  []byte // the decrypted chain without padding, or nil
	iv     []byte // for the next message of the exchange
}

func (m *message) find(t wire.PayloadType) wire.Payload {
	for _, p := range m.Payloads {
		if p.PayloadType() == t {
			return p
		}
	}
	return nil
}

func (m *message) has(t wire.PayloadType) bool { return m.find(t) != nil }

func (m *message) octets(t wire.PayloadType) []byte {
	if p, ok := m.find(t).(*wire.V1Opaque); ok {
		return p.Data
	}
	return nil
}

func (m *message) all(t wire.PayloadType) (out []wire.Payload) {
	for _, p := range m.Payloads {
		if p.PayloadType() == t {
			out = append(out, p)
		}
	}
	return out
}

// twice says whether a payload stands there more often than it may: quick mode has two identities.
func (m *message) twice() bool {
	for _, t := range []wire.PayloadType{wire.PayloadV1SA, wire.PayloadV1KE, wire.PayloadV1Hash, wire.PayloadV1Sig, wire.PayloadV1Nonce} {
		if len(m.all(t)) > 1 {
			return true
		}
	}
	n := 1
	if m.Exchange == wire.ExchangeV1Quick {
		n = 2
	}
	return len(m.all(wire.PayloadV1ID)) > n
}

// body is a payload as the proofs cover it.
func (m *message) body(t wire.PayloadType) []byte {
	if m.plain != nil {
		return wire.V1Body(m.NextPayload, m.plain, t)
	}
	return wire.V1Body(m.NextPayload, m.Raw[wire.HeaderLen:], t)
}

// exchange is phase 1, or one quick mode. Its IV chain and its latest messages are kept: what the peer repeats is answered with
// the same octets, and what it must answer is repeated by timer.
type exchange struct {
	kind     wire.ExchangeType
	id       uint32
	step     step
	iv       []byte
	lastIn   [32]byte // digest of the latest message of the peer
	lastOut  []byte   // our latest
	answers  bool     // lastOut answers lastIn
	tries    int
	gap      time.Duration
	next     time.Time // when lastOut is repeated; zero: by request only
	begun    time.Time
	forgetAt time.Time
	pair     *pair
	config   *transaction
}

// awaits says whether our latest message is repeated by timer.
func (x *exchange) awaits() bool { return !x.next.IsZero() }

// say sends the exchange's next message. repeat: by timer until it is answered.
func (s *sa) say(x *exchange, b []byte, after ike.ChangeID, repeat bool) {
	x.lastOut, x.answers = b, true
	x.tries, x.next = 0, zeroTime
	s.out.Sends = append(s.out.Sends, ike.Send{Path: s.path, Bytes: append([]byte(nil), b...), After: after})
	if repeat {
		x.answers = false
		x.gap = s.env.Limits.RetransmitFirst
		s.later(x)
	}
}

func (s *sa) later(x *exchange) {
	x.next = s.now.Add(x.gap + s.env.Jitter(x.gap/10))
	x.gap = time.Duration(float64(x.gap) * s.env.Limits.RetransmitFactor)
}

// retransmitAll repeats what is due, or gives it up.
func (s *sa) retransmitAll() {
	if due(s.p1.next, s.now) {
		s.retransmit(&s.p1)
	}
	for _, x := range s.inOrder() {
		if s.state >= stateDraining {
			return
		}
		if due(x.forgetAt, s.now) {
			s.forget(x)
		} else if due(x.next, s.now) {
			s.retransmit(x)
		}
	}
}

func (s *sa) retransmit(x *exchange) {
	if x.tries >= s.env.Limits.RetransmitTries || x == &s.p1 && s.refusal != nil && x.tries-s.refusedAt >= 2 {
		x.next = zeroTime
		s.unanswered(x)
		return
	}
	x.tries++
	if x != &s.p1 {
		s.repeatProof()
	}
	s.out.Sends = append(s.out.Sends, ike.Send{Path: s.path, Bytes: append([]byte(nil), x.lastOut...)})
	s.later(x)
}

func (s *sa) header(x wire.ExchangeType, id uint32) wire.Header {
	return wire.Header{InitiatorSPI: s.cookieI, ResponderSPI: s.cookieR, Version: wire.Version1, Exchange: x, MessageID: id}
}

// newID draws a message ID for an exchange of ours.
func (s *sa) newID() uint32 {
	for {
		id := binary.BigEndian.Uint32(s.env.Bytes(4))
		if id != 0 && s.exchanges[id] == nil && !s.seen[id] {
			return id
		}
	}
}

// seal encrypts payloads as the next message of a chain.
func (s *sa) seal(kind wire.ExchangeType, id uint32, iv []byte, first wire.PayloadType, plain []byte) (b, next []byte, err error) {
	sealed, next := s.cipher.Seal(iv, plain)
	b, err = wire.AppendV1Sealed(nil, s.header(kind, id), first, sealed)
	return b, next, err
}

// sealHashed puts a HASH of what follows it in front, and encrypts.
func (s *sa) sealHashed(kind wire.ExchangeType, id uint32, iv []byte, hash func(rest []byte) []byte, payloads ...wire.Payload) (b, next []byte, err error) {
	h := &wire.V1Opaque{Type: wire.PayloadV1Hash, Data: make([]byte, s.prf.Size())}
	first, plain, err := wire.AppendV1Payloads(nil, append([]wire.Payload{h}, payloads...))
	if err != nil {
		return nil, nil, err
	}
	n := wire.PayloadHeaderLen + len(h.Data)
	copy(plain[wire.PayloadHeaderLen:n], hash(plain[n:]))
	return s.seal(kind, id, iv, first, plain)
}

// datagram takes a message of this SA. What is malformed, has other cookies, or does not authenticate ends here, counted and
// unanswered.
func (s *sa) datagram(d ike.Datagram) {
	raw := append([]byte(nil), d.Bytes...)
	w, err := wire.ParseV1(raw)
	if err != nil {
		s.drops.malformed++
		return
	}
	if w.InitiatorSPI != s.cookieI || w.ResponderSPI != s.cookieR && !(s.initiator && (s.p1.step == stepSASent || s.p1.step == stepAggressiveSent)) && !(!s.initiator && w.ResponderSPI == 0) {
		s.drops.foreign++
		return
	}
	m := &message{V1Message: *w, path: d.Path, digest: sha256.Sum256(raw)}
	switch w.Exchange {
	case s.p1.kind:
		s.phaseOne(m)
	case wire.ExchangeV1Quick:
		s.phaseTwo(m)
	case wire.ExchangeV1Transaction:
		s.transaction(m)
	case wire.ExchangeV1Informational:
		s.informational(m)
	case wire.ExchangeV1NewGroup:
		s.newGroup(m)
	default:
		s.drops.unfit++
	}
}

// repeated answers the peer's latest message once more with the same octets. They were authentic the first time, if they had to be; the
// address they come from now may be another: before the peer has proved one, and if the answer is larger, it goes where the first went.
func (s *sa) repeated(x *exchange, m *message) bool {
	if x.lastIn != m.digest || x.step == stepStart {
		return false
	}
	if x.lastOut != nil && (x.answers || x.awaits()) {
		s.out.Sends = append(s.out.Sends, ike.Send{Path: s.path, Bytes: append([]byte(nil), x.lastOut...)})
	}
	return true
}

// phaseOne takes a message of main or aggressive mode.
func (s *sa) phaseOne(m *message) {
	x := &s.p1
	if s.repeated(x, m) {
		return
	}
	if m.MessageID != 0 || s.state != stateConnecting {
		s.drops.unfit++
		return
	}
	sealed := m.Sealed != nil
	if sealed && !s.openProof(m) {
		return
	}
	before := x.step
	if !s.dispatch(x, m, sealed) || s.state >= stateDraining {
		s.drops.unfit++
		return
	}
	if x.step != before {
		x.lastIn = m.digest
	}
}

// phaseTwo takes a message of quick mode.
func (s *sa) phaseTwo(m *message) {
	if s.state != stateEstablished || m.Sealed == nil || m.MessageID == 0 {
		s.drops.unfit++
		return
	}
	x := s.exchanges[m.MessageID]
	if x != nil && (x.kind != m.Exchange || s.repeated(x, m)) {
		return
	}
	fresh := x == nil
	if fresh {
		if s.seen[m.MessageID] || len(s.seen) >= maxSeen || len(s.exchanges) >= maxExchanges {
			s.drops.unfit++
			return
		}
		x = &exchange{kind: wire.ExchangeV1Quick, id: m.MessageID, iv: s.cipher.PhaseTwoIV(s.p1.iv, m.MessageID)}
	}
	var want func(covered []byte) []byte
	switch x.step {
	case stepStart:
		want = func(b []byte) []byte { return keys.V1Hash1(s.prf, s.keys.A, x.id, b) }
	case stepQuickSent:
		want = func(b []byte) []byte { return keys.V1Hash2(s.prf, s.keys.A, x.id, x.pair.ni, b) }
	case stepQuickAnswered:
		want = func([]byte) []byte { return keys.V1Hash3(s.prf, s.keys.A, x.id, x.pair.ni, x.pair.nr) }
	default:
		s.drops.unfit++
		return
	}
	if !s.openHashed(m, x.iv, want) {
		return
	}
	if fresh {
		s.seen[m.MessageID] = true
		s.exchanges[x.id] = x
		x.begun = s.now
		x.forgetAt = s.now.Add(s.env.Limits.HalfOpenLife)
	}
	s.authentic(m)
	before := x.iv
	x.iv = m.iv
	if !s.dispatch(x, m, true) {
		x.iv = before
		s.drops.unfit++
		if fresh {
			s.forget(x)
		}
		return
	}
	x.lastIn = m.digest
	s.advance()
}

// Bounds on what one ISAKMP SA keeps: quick modes at one time, and message IDs of the peer in all. Beyond, it is replaced.
const (
	maxExchanges = 256
	maxSeen      = 1 << 16
)

// openHashed decrypts a message whose first payload is a HASH of the rest, and checks that.
func (s *sa) openHashed(m *message, iv []byte, want func(covered []byte) []byte) bool {
	plain, next, err := s.cipher.Open(iv, m.Sealed)
	if err != nil || m.NextPayload != wire.PayloadV1Hash {
		s.drops.unauthenticated++
		return false
	}
	payloads, n, err := wire.ParseV1Payloads(m.NextPayload, plain)
	if err != nil {
		s.drops.unauthenticated++
		return false
	}
	h, ok := payloads[0].(*wire.V1Opaque)
	if !ok || !hmac.Equal(h.Data, want(plain[wire.PayloadHeaderLen+len(h.Data):n])) {
		s.drops.unauthenticated++
		return false
	}
	m.Payloads, m.plain, m.iv = payloads, plain[:n], next
	return true
}

// authentic notes that the peer made a message just now, and where it is.
func (s *sa) authentic(m *message) {
	if s.unheard {
		s.unheard, s.p1.next = false, zeroTime
	}
	s.lastReceived = s.now
	s.dpd.asked = 0
	s.moved(m.path)
}

// unanswered ends what the peer does not answer.
func (s *sa) unanswered(x *exchange) {
	switch {
	case x == &s.p1 && s.refusal != nil:
		s.end(ike.ClosedFailed, s.refusal)
	case x == &s.p1:
		s.end(ike.ClosedFailed, s.silence())
	case x.kind == wire.ExchangeV1Transaction:
		s.transactionFailed(x, fmt.Errorf("no answer from %s to %d repetitions of a transaction", s.path.Remote, x.tries+1))
	case s.lastReceived.Before(x.begun) && x.step == stepQuickSent:
		s.finish(ike.ClosedDead, fmt.Errorf("no answer from %s to %d repetitions of quick mode", s.path.Remote, x.tries+1))
	case x.step == stepQuickSent:
		s.pairFailed(x, fmt.Errorf("the peer lives and does not answer for the child: compare local-ts, remote-ts and esp with its configuration"))
	default:
		s.forget(x)
	}
}

// silence says how often we asked for what, on which path, and what came back instead.
func (s *sa) silence() error {
	said := "no ICMP error came back"
	if s.icmp > 0 {
		said = "ICMP says " + s.icmpWhat
	}
	if s.p1.step == stepAuthSent {
		return fmt.Errorf("no answer from %s that authenticates: asked %d times from %s, %s; the peer drops what it cannot decrypt: compare psk-file and the identities",
			s.path.Remote, s.p1.tries+1, s.path.Local, said)
	}
	return fmt.Errorf("no answer from %s: asked %d times for %s from %s, %s; is the peer running, and does a firewall pass UDP %d",
		s.path.Remote, s.p1.tries+1, s.p1.kind, s.path.Local, said, s.path.Remote.Port())
}
