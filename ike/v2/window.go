package v2

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"coati/ike"
	"coati/ike/keys"
	"coati/ike/wire"
	"coati/policy"
)

// Requests and responses, RFC 7296, sections 2.1 to 2.3. Our window is one in both directions: we send one request at a
// time, and never announce a larger window to the peer.

// idReserve is how many message IDs are left in either direction when the IKE SA is rekeyed for want of them.
const idReserve = 1 << 16

// request is ours, waiting for its response. The same octets are sent each time.
type request struct {
	id       uint32
	exchange wire.ExchangeType
	msg      *sealed
	tries    int
	gap      time.Duration
	next     time.Time
	after    ike.ChangeID
}

// cached is the peer's latest request and our response to it. The response is nil while it is being computed.
type cached struct {
	id       uint32
	digest   [32]byte
	valid    bool
	exchange wire.ExchangeType
	cipher   *keys.Cipher // that the request came under: an additional key exchange changes the SA's
	response *sealed
	repeats  int // how often the peer asked again
}

// task is an exchange we want to begin. Tasks run one after the other.
type task interface {
	// name is what status shows.
	name() string
	// begin runs when the window is free: it sends a request, or starts a job and sends later. False: nothing to do.
	begin(s *sa) bool
	// job continues after a job of this task.
	job(s *sa, ev ike.JobDone)
	// response handles the authenticated response to the task's request.
	response(s *sa, m *message)
}

// enqueue adds a task and begins it if nothing else is under way.
func (s *sa) enqueue(t task) {
	s.tasks = append(s.tasks, t)
	s.advance()
}

// advance begins the next task if the window is free.
func (s *sa) advance() {
	for s.phase == phaseEstablished && s.doing == nil && s.pending == nil && len(s.tasks) > 0 {
		t := s.tasks[0]
		s.tasks = s.tasks[1:]
		s.doing = t
		if !t.begin(s) {
			s.doing = nil
		}
	}
}

// finish ends the task under way.
func (s *sa) finish() {
	s.doing = nil
	s.advance()
}

// sendRequest seals payloads as the next request and keeps it until it is answered.
func (s *sa) sendRequest(ex wire.ExchangeType, after ike.ChangeID, payloads ...wire.Payload) {
	b, err := s.seal(ex, 0, s.nextID, payloads)
	if err != nil {
		s.fail(err, ike.ClosedFailed)
		return
	}
	s.startRequest(ex, b, after)
}

func (s *sa) startRequest(ex wire.ExchangeType, m *sealed, after ike.ChangeID) {
	if s.nextID == math.MaxUint32 {
		// Message IDs do not start again (section 2.2); a rekey long before is the rule.
		s.fail(errors.New("the IKE SA has no message ID left"), ike.ClosedExpired)
		return
	}
	l := &s.env.Limits
	s.pending = &request{id: s.nextID, exchange: ex, msg: m, gap: l.RetransmitFirst, after: after}
	s.nextID++
	s.wear()
	s.transmit(s.pending)
}

func (s *sa) transmit(r *request) {
	s.sendAll(s.path, r.msg, r.after)
	r.after = 0
	r.next = s.now.Add(r.gap + s.env.Jitter(r.gap/10))
	r.gap = time.Duration(float64(r.gap) * s.env.Limits.RetransmitFactor)
}

// retransmit repeats the pending request, or gives the peer up (section 2.4).
func (s *sa) retransmit() {
	r := s.pending
	if r == nil || r.next.After(s.now) {
		return
	}
	if r.tries >= s.env.Limits.RetransmitTries && len(s.start.branches) > 0 && s.phase == phaseAuthSent {
		s.spoiled(s.silence())
		return
	}
	if r.tries >= s.env.Limits.RetransmitTries || s.refusal != nil && r.tries-s.refusedAt >= 2 {
		s.unanswered()
		return
	}
	if !s.turn() {
		s.repeat()
	}
}

func (s *sa) repeat() {
	if r := s.pending; r.tries >= probeTries && s.recut(r.msg) {
		// Perhaps it is too large for the path: the timers start over (RFC 7383, section 2.5.2).
		r.tries, r.gap = 0, s.env.Limits.RetransmitFirst
	} else {
		r.tries++
	}
	s.transmit(s.pending)
}

// sendAll sends the datagrams of a message.
func (s *sa) sendAll(to policy.Path, m *sealed, after ike.ChangeID) {
	for _, b := range m.parts {
		s.out.Sends = append(s.out.Sends, ike.Send{Path: to, Bytes: slices.Clone(b), After: after})
	}
}

// inClear is a message of IKE_SA_INIT.
func inClear(b []byte) *sealed { return &sealed{parts: [][]byte{b}} }

// repeated says whether the datagram is the peer's latest request once more. If so the cached response is sent again,
// once it exists. Equal octets were authenticated the first time, but the address they come from now was not: it gets no
// more than it sent.
func (s *sa) repeated(m *wire.Message, from policy.Path) bool {
	if !s.cache.valid || m.MessageID != s.cache.id || m.Exchange != s.cache.exchange {
		return false
	}
	repeated, answer := s.repeatedFragment(m)
	if !repeated && sha256.Sum256(m.Raw) != s.cache.digest {
		return false
	}
	if r := s.cache.response; r != nil && (answer || !repeated) && s.proto.mutant != noCache {
		if s.cache.repeats++; s.cache.repeats%probeTries == 0 {
			s.recut(r) // perhaps the answer is what does not arrive
		}
		to := s.answerPath
		if r.octets() <= len(m.Raw) {
			to = from
		}
		s.sendAll(to, r, 0)
	}
	return true
}

// remember opens the cache for the request being served.
func (s *sa) remember(m *message) {
	s.cache = cached{id: m.MessageID, digest: sha256.Sum256(m.raw), valid: true, exchange: m.Exchange, cipher: s.inCipher}
	s.expectID = m.MessageID + 1
	s.exhausted = m.MessageID == math.MaxUint32
	s.wear()
}

// wear has the IKE SA rekeyed long before message IDs would start again (section 2.2).
func (s *sa) wear() {
	if s.phase == phaseEstablished && !s.worn && max(s.nextID, s.expectID) > math.MaxUint32-idReserve {
		s.worn = true
		s.rekeyAt = ike.Earlier(s.rekeyAt, s.now.Add(s.env.Limits.TemporaryRetry))
	}
}

// respond seals the response to the latest request, caches and sends it.
func (s *sa) respond(after ike.ChangeID, payloads ...wire.Payload) {
	if s.prepare(payloads...) {
		s.sendAll(s.answerPath, s.cache.response, after)
	}
}

// prepare seals an answer and keeps it; false if the SA ended over it.
func (s *sa) prepare(payloads ...wire.Payload) bool {
	b, err := s.seal(s.cache.exchange, wire.FlagResponse, s.cache.id, payloads)
	if err != nil {
		s.fail(err, ike.ClosedFailed)
		return false
	}
	s.cache.response = b
	return true
}

// refuse answers the latest request with an error notification (section 2.21).
func (s *sa) refuse(t wire.NotifyType, data []byte) {
	s.warn("request refused", fmt.Errorf("%s is answered with %s", s.cache.exchange, t))
	s.respond(0, notify(t, data))
}
