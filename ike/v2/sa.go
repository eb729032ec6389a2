package v2

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"coati/ike"
	"coati/ike/keys"
	"coati/policy"
)

// phase is the state of the transition table.
type phase uint8

const (
	phaseIdle         phase = iota // responder: before the first request; initiator: before the first offer is made
	phaseInitSent                  // initiator: IKE_SA_INIT is out
	phaseInitKeys                  // the shared secret is being computed
	phaseInitAnswered              // responder: waiting for IKE_INTERMEDIATE or IKE_AUTH
	phaseAuthSent                  // initiator: IKE_INTERMEDIATE or IKE_AUTH is out
	phaseAuthCheck                 // signatures of IKE_AUTH are being checked or made
	phaseEAP                       // EAP runs
	phaseEAPAuth                   // EAP succeeded; initiator: AUTH is out; responder: waiting for it
	phaseEstablished
	phaseDeleting // we told the peer; waiting for its answer
	phaseDraining // closed, but for packets and repeated requests on their way
	phaseClosed
)

func (p phase) String() string {
	return [...]string{"idle", "init-sent", "init-keys", "init-answered", "auth-sent", "auth-check", "eap", "eap-auth", "established", "deleting", "draining", "closed"}[p]
}

// sa is the machine of one IKE SA.
type sa struct {
	env   *ike.Env
	proto *Protocol
	phase phase

	// Valid during Handle only.
	now  time.Time
	out  *ike.Out
	told bool // a row of the table was taken

	tunnel     *policy.PeerTunnel // responder: nil until the peer has said who it is
	candidates []*policy.PeerTunnel
	initiator  bool // we are the original initiator of this IKE SA
	spiI, spiR uint64
	path       policy.Path // where our requests go
	answerPath policy.Path // where the request being served came from
	nat        natState
	frag       fragmenting
	config     configured
	mobility   mobility

	start    initState // until the SA is established
	eap      *eapState // while EAP runs
	ni, nr   []byte
	lowNonce []byte // of the exchange that made this IKE SA
	// began and firstNonce are of the initial exchange and outlive rekeys: crossing initial exchanges are settled by them.
	began               bool
	firstNonce          []byte
	proposal            policy.Proposal
	prf                 keys.PRF
	keys                keys.IKEKeys
	inCipher, outCipher *keys.Cipher

	localID, remoteID policy.Identity
	peerIsCoati       bool
	establishedAt     time.Time
	lastReceived      time.Time

	nextID, expectID uint32
	worn, exhausted  bool // message IDs: few are left in a direction; the peer has used all of its
	pending          *request
	cache            cached
	tasks            []task
	doing            task
	serving          *served // the peer's request that waits for a job
	held             *message
	heldJob          *ike.JobDone

	children  []*child
	wanted    []string    // children to open once established
	flow      policy.Flow // the packet that waits for the first of them
	reaps     []reap
	changes   map[ike.ChangeID]*child
	following ike.ChangeID // the change that moved outbound SAs to another path
	successor *sa
	rekey     *ikeRekey // under way, ours or the peer's
	// unfinished is what of the peer's waits for additional key exchanges.
	unfinished *unfinished

	halfOpenUntil, keepaliveAt, rekeyAt, expireAt, lingerUntil, reauthAt, resumeAt time.Time
	answerAt                                                                       time.Time // when the answer to the peer's delete leaves
	demandedAt                                                                     time.Time // by when the peer wants us to authenticate anew
	later                                                                          []delayed // tasks to begin again

	closing  bool // on the engine's order: what comes of exchanges under way is closed too
	renews   bool // the initial exchange replaced a good SA
	icmp     int
	icmpWhat string

	refusal   error // what an unauthenticated refusal of IKE_SA_INIT said
	refusedAt int
	reason    ike.CloseReason
	drops     struct{ malformed, foreign, unauthenticated, window, fragments uint64 }
}

// delayed is a task that begins at its time.
type delayed struct {
	at time.Time
	t  task
}

// reap is an SA of the plane that is deleted when packets on their way have arrived.
type reap struct {
	id policy.SAID
	at time.Time
}

// LocalSPI is our half of the SPIs.
func (s *sa) LocalSPI() uint64 {
	if s.initiator {
		return s.spiI
	}
	return s.spiR
}

func (s *sa) peerSPI() uint64 {
	if s.initiator {
		return s.spiR
	}
	return s.spiI
}

// Handle advances the machine (see ike.Machine).
func (s *sa) Handle(now time.Time, ev ike.Event, out *ike.Out) error {
	s.now, s.out = now, out
	before := s.phase
	s.told = false
	defer func() {
		s.out = nil
		s.moves(before)
	}()
	switch s.phase {
	case phaseClosed:
		return nil
	case phaseDraining:
		s.drained(ev)
		return nil
	}
	if _, failed := ev.(ike.ChangeFailed); !failed {
		clear(s.changes) // a failure would have come first
		s.following = 0
	}
	switch ev := ev.(type) {
	case ike.Datagram:
		s.datagram(ev)
	case ike.Timer:
		s.timer()
	case ike.JobDone:
		s.jobDone(ev)
	case ike.Answer:
		s.answered(ev)
	case ike.ChangeFailed:
		s.changeFailed(ev)
	case ike.Expire:
		s.expire(ev)
	case ike.SAUsed:
		s.used(ev.SA)
	case ike.Activate:
		s.used(ev.SA)
	case ike.Mapping:
		s.mapping(ev)
	case ike.Command:
		s.command(ev)
	case ike.Close:
		s.close(ev)
	case ike.Renew:
		s.renews = true
	case ike.Reconfigure:
		s.reconfigure(ev.Tunnel)
	case ike.Unreachable:
		s.noteUnreachable(ev)
	case ike.Move:
		s.move(ev.Local)
	case ike.Relocate:
		s.path.Local = netip.AddrPortFrom(ev.Local, s.path.Local.Port())
	default:
		return fmt.Errorf("ike/v2: unknown event %T", ev)
	}
	return nil
}

// Deadline is the earliest of everything this SA waits for.
func (s *sa) Deadline() time.Time {
	if s.phase == phaseClosed {
		return time.Time{}
	}
	var d time.Time
	if s.pending != nil {
		d = s.pending.next
	}
	for _, t := range []time.Time{s.halfOpenUntil, s.keepaliveAt, s.rekeyAt, s.expireAt, s.lingerUntil, s.answerAt, s.reauthAt, s.resumeAt, s.livenessAt(), s.frag.stale(), s.unfinishedUntil()} {
		d = ike.Earlier(d, t)
	}
	for i := range s.reaps {
		d = ike.Earlier(d, s.reaps[i].at)
	}
	for _, c := range s.children {
		d = ike.Earlier(ike.Earlier(d, c.retryAt), c.activateAt)
	}
	for i := range s.later {
		d = ike.Earlier(d, s.later[i].at)
	}
	return d
}

func due(t, now time.Time) bool { return !t.IsZero() && !t.After(now) }

func (s *sa) timer() {
	s.reap()
	switch {
	case due(s.halfOpenUntil, s.now):
		s.halfOpenUntil = time.Time{}
		s.fail(errors.New("the peer began and did not authenticate in time"), ike.ClosedFailed)
		return
	case due(s.lingerUntil, s.now):
		s.end(s.reason, nil)
		return
	case due(s.expireAt, s.now):
		s.expireAt = time.Time{}
		s.fail(errors.New("the IKE SA reached its lifetime before a rekey succeeded"), ike.ClosedExpired)
		return
	}
	s.forgetStale()
	if due(s.unfinishedUntil(), s.now) {
		s.dropUnfinished()
	}
	s.retransmit()
	if s.phase >= phaseDraining {
		return
	}
	s.keepalive()
	if due(s.rekeyAt, s.now) {
		s.rekeyAt = time.Time{}
		s.enqueue(&rekeyIKETask{})
	}
	if due(s.reauthAt, s.now) {
		// Once more, should the replacement fail.
		s.reauthAt = s.now.Add(s.env.Limits.RetryMax)
		s.out.Signal(ike.Signal{Kind: ike.SignalReauth})
	}
	for _, c := range s.children {
		if due(c.activateAt, s.now) {
			s.activate(c)
		}
	}
	s.retryChildren()
	if due(s.resumeAt, s.now) {
		s.resumeAt = time.Time{}
		s.advance()
	}
	s.liveness()
}

func (s *sa) reap() {
	keep := s.reaps[:0]
	var tx policy.Tx
	for _, r := range s.reaps {
		if r.at.After(s.now) {
			keep = append(keep, r)
		} else {
			tx.DeleteSAs = append(tx.DeleteSAs, r.id)
		}
	}
	s.reaps = keep
	s.change(tx)
}

// change asks the plane for a transaction.
func (s *sa) change(tx policy.Tx) ike.ChangeID {
	if tx.Empty() {
		return 0
	}
	id := s.env.NextChange()
	s.out.Changes = append(s.out.Changes, ike.Change{ID: id, Tx: tx})
	return id
}

func (s *sa) jobDone(ev ike.JobDone) {
	switch {
	case s.start.job != 0 && ev.ID == s.start.job:
		s.start.job = 0
		s.initJob(ev)
	case s.serving != nil && ev.ID == s.serving.job:
		sv := s.serving
		s.serving = nil
		sv.then(ev)
		s.release()
		s.advance()
	case s.doing != nil && s.serving != nil:
		s.heldJob = &ev
	case s.doing != nil:
		s.doing.job(s, ev)
	}
}

// release goes on with what came while a request of the peer was being served. Until then it is kept, one of each: a
// collision is only seen by who knows both exchanges when one of them ends.
func (s *sa) release() {
	job, m := s.heldJob, s.held
	s.heldJob, s.held = nil, nil
	if job != nil && s.doing != nil {
		s.doing.job(s, *job)
	}
	if m != nil && s.pending != nil && s.pending.id == m.MessageID && s.phase < phaseDraining {
		s.authentic(m, true, nil)
	}
}

// command serves up, down and rekey for one child or all.
func (s *sa) command(ev ike.Command) {
	switch ev.Verb {
	case ike.Up:
		s.open(ev.Child, ev.Flow)
	case ike.Down:
		for _, c := range s.children {
			if c.name == ev.Child {
				s.enqueue(&deleteTask{child: c, reason: ike.ClosedByUs})
			}
		}
	case ike.Rekey:
		if ev.Child == "" {
			s.enqueue(&rekeyIKETask{command: ev.ID})
			return
		}
		for _, c := range s.children {
			if c.name == ev.Child && c.state == childUp {
				s.enqueue(&childTask{cfg: c.cfg, rekeys: c, command: ev.ID})
				return
			}
		}
		s.reply(ev.ID, fmt.Errorf("child %s is not up", ev.Child))
	}
}

func (s *sa) reply(id ike.CommandID, err error) {
	if id != 0 {
		s.out.Replies = append(s.out.Replies, ike.Reply{ID: id, Err: err})
	}
}

// open begins a child unless it is there or on its way.
func (s *sa) open(name string, flow policy.Flow) {
	cfg := ike.ChildOf(s.tunnel, name)
	if cfg == nil {
		return
	}
	if s.phase != phaseEstablished {
		for _, w := range s.wanted {
			if w == name {
				return
			}
		}
		s.wanted = append(s.wanted, name)
		return
	}
	if flow.Src.IsValid() && s.config.given != nil && !slices.Contains(s.config.given.Addresses, flow.Src) {
		flow = policy.Flow{} // no child of ours will ever carry it
	}
	for _, t := range append([]task{s.doing}, s.tasks...) {
		if ct, ok := t.(*childTask); ok && ct.cfg.Name == name {
			return
		}
	}
	for _, d := range s.later {
		if ct, ok := d.t.(*childTask); ok && ct.cfg.Name == name {
			return
		}
	}
	for _, c := range s.children {
		if c.name == name && c.state == childUp && (!flow.Src.IsValid() || policy.MatchFlow(c.local, c.remote, flow, true)) {
			s.activate(c)
			s.out.Signal(ike.Signal{Kind: ike.SignalChildUp, Child: name})
			return
		}
	}
	// If a child of this name is up, it was narrowed so that it does not cover the packet.
	flow = packetOf(cfg, flow)
	s.enqueue(&childTask{cfg: cfg, flow: flow, more: flow.Src.IsValid() && s.isUp(name)})
}

// packetOf is the flow, if the child is meant to carry it.
func packetOf(cfg *policy.Child, flow policy.Flow) policy.Flow {
	if !flow.Src.IsValid() || !policy.MatchFlow(cfg.Local, cfg.Remote, flow, true) {
		return policy.Flow{}
	}
	return flow
}

// attrs identify the SA in the log.
func (s *sa) attrs() []slog.Attr {
	a := []slog.Attr{slog.String("peer", s.path.Remote.String())}
	if s.tunnel != nil {
		a = append([]slog.Attr{slog.String("tunnel", s.tunnel.Name)}, a...)
	}
	return append(a, slog.String("ike-spi", fmt.Sprintf("%016x_%016x", s.spiI, s.spiR)))
}

// Brief is Info without what must be allocated (see ike.SA).
func (s *sa) Brief() ike.Info {
	i := ike.Info{
		Version: 2, Initiator: s.began, LocalSPI: s.LocalSPI(), PeerSPI: s.peerSPI(), Path: s.path, LocalID: s.localID, RemoteID: s.remoteID,
		EstablishedAt: s.establishedAt, LastReceived: s.lastReceived, NATLocal: s.nat.local, NATRemote: s.nat.remote,
		Mobile: s.mobility.agreed, Leased: s.config.leased, Given: s.config.given, PeerIsCoati: s.peerIsCoati, LowNonce: s.firstNonce, Renews: s.renews,
	}
	if s.tunnel != nil {
		i.Tunnel = s.tunnel.Name
	}
	switch s.phase {
	case phaseEstablished:
		i.State = ike.Established
		if s.successor != nil || s.closing || !s.lingerUntil.IsZero() {
			i.State = ike.Closing
		}
	case phaseDeleting:
		i.State = ike.Closing
	case phaseClosed, phaseDraining:
		i.State = ike.Closed
	}
	return i
}

// Info is a snapshot for people and the engine.
func (s *sa) Info() ike.Info {
	i := s.Brief()
	i.Proposal = s.proposal
	if s.doing != nil {
		i.Doing = s.doing.name()
	} else if s.phase < phaseEstablished {
		i.Doing = s.phase.String()
	}
	for _, c := range s.children {
		i.Children = append(i.Children, c.info(s))
	}
	return i
}

// lowest is the lower of two nonces as RFC 7296, section 2.8.1 compares them: octet by octet.
func lowest(a, b []byte) []byte {
	if bytes.Compare(a, b) < 0 {
		return a
	}
	return b
}
