package v1

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"coati/ike"
	"coati/ike/keys"
	"coati/policy"
)

// state is how far the ISAKMP SA has come.
type state uint8

const (
	stateConnecting  state = iota
	stateAuthorizing       // phase 1 is done, XAUTH or mode config is not
	stateEstablished
	stateDraining // closed, but for deletes that are said again
	stateClosed
)

var zeroTime time.Time

// sa is the machine of one ISAKMP SA.
type sa struct {
	env   *ike.Env
	proto *Protocol
	state state

	// Valid during Handle only.
	now time.Time
	out *ike.Out

	tunnel           *policy.PeerTunnel // responder: nil until the peer has said who it is
	candidates       []*policy.PeerTunnel
	initiator        bool
	cookieI, cookieR uint64
	path             policy.Path
	nat              natState

	p1                exchange
	start             start // until it is established
	suite             suite
	prf               keys.PRF
	keys              keys.V1Keys
	cipher            *keys.V1Cipher
	localID, remoteID policy.Identity
	lowNonce          []byte
	authorizing       authorizing
	config            configured
	peerIsCoati       bool
	peerDPD           bool
	claimed           bool // the responder told of a lifetime of its own
	unheard           bool // aggressive mode, initiator: nothing shows that message 3 has arrived
	renews            bool
	establishedAt     time.Time
	lastReceived      time.Time
	exchanges         map[uint32]*exchange // quick modes, by message ID
	seen              map[uint32]bool      // message IDs of the peer that were authentic: none is taken twice
	tasks             []*pairTask
	doing             *exchange // the quick mode of ours that is under way
	jobs              map[ike.JobID]func(ike.JobDone)
	peer              *peer
	wanted            []string
	flow              policy.Flow
	changes           map[ike.ChangeID]*child
	following         ike.ChangeID
	farewells         []farewell
	dpd               dpdState
	halfOpenUntil     time.Time
	keepaliveAt       time.Time
	rekeyAt, expireAt time.Time
	reauthAt          time.Time
	lingerUntil       time.Time
	resumeAt          time.Time
	opensAt           time.Time // no quick mode of ours before
	closeAt           time.Time // replaced: closed then
	reason            ike.CloseReason
	refusal           error // what an unauthenticated refusal said
	refusedAt         int
	icmp              int
	icmpWhat          string
	drops             struct{ malformed, foreign, unauthenticated, unfit uint64 }
}

// reap is an SA of the plane that is deleted when packets on their way have arrived.
type reap struct {
	id policy.SAID
	at time.Time
}

// LocalSPI is our cookie.
func (s *sa) LocalSPI() uint64 {
	if s.initiator {
		return s.cookieI
	}
	return s.cookieR
}

func (s *sa) peerCookie() uint64 {
	if s.initiator {
		return s.cookieR
	}
	return s.cookieI
}

// Handle advances the machine (see ike.Machine).
func (s *sa) Handle(now time.Time, ev ike.Event, out *ike.Out) error {
	s.now, s.out = now, out
	defer func() { s.out = nil }()
	switch s.state {
	case stateClosed:
		return nil
	case stateDraining:
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
		if then := s.jobs[ev.ID]; then != nil {
			delete(s.jobs, ev.ID)
			then(ev)
		}
	case ike.ChangeFailed:
		s.changeFailed(ev)
	case ike.Expire:
		s.expire(ev)
	case ike.SAUsed:
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
		if s.p1.awaits() && len(ev.What) < 64 {
			s.icmp++
			s.icmpWhat = ev.What
		}
	case ike.Relocate:
		s.path.Local = netip.AddrPortFrom(ev.Local, s.path.Local.Port())
	default:
		return fmt.Errorf("ike/v1: unknown event %T", ev)
	}
	return nil
}

// Deadline is the earliest of everything this SA waits for.
func (s *sa) Deadline() time.Time {
	if s.state == stateClosed {
		return zeroTime
	}
	if s.state == stateDraining {
		d := s.lingerUntil
		for i := range s.farewells {
			d = ike.Earlier(d, s.farewells[i].at)
		}
		return d
	}
	d := s.p1.next
	for _, t := range []time.Time{s.halfOpenUntil, s.keepaliveAt, s.rekeyAt, s.expireAt, s.reauthAt, s.lingerUntil, s.resumeAt, s.closeAt, s.dpdAt()} {
		d = ike.Earlier(d, t)
	}
	for _, x := range s.exchanges {
		d = ike.Earlier(ike.Earlier(d, x.next), x.forgetAt)
	}
	for i := range s.peer.reaps {
		d = ike.Earlier(d, s.peer.reaps[i].at)
	}
	for _, set := range [][]farewell{s.farewells, s.peer.farewells} {
		for i := range set {
			d = ike.Earlier(d, set[i].at)
		}
	}
	for _, c := range s.peer.children {
		for _, t := range []time.Time{c.retryAt, c.retireAt, c.activateAt, c.tidyAt, c.pause.probeAt, c.pause.until} {
			d = ike.Earlier(d, t)
		}
	}
	return d
}

func due(t, now time.Time) bool { return !t.IsZero() && !t.After(now) }

func (s *sa) timer() {
	s.reap()
	s.sayFarewells()
	switch {
	case due(s.halfOpenUntil, s.now):
		s.halfOpenUntil = zeroTime
		err := errors.New("the peer began and did not authenticate in time")
		if s.refusal != nil {
			err = s.refusal
		}
		s.end(ike.ClosedFailed, err)
		return
	case due(s.closeAt, s.now):
		if s.closeAt = zeroTime; s.peer.other(s) {
			s.finish(ike.ClosedReplaced, nil)
			return
		}
	case due(s.expireAt, s.now):
		s.expireAt = zeroTime
		s.finish(ike.ClosedExpired, errors.New("the IKE SA reached its lifetime before it was replaced"))
		return
	}
	s.retransmitAll()
	if s.state >= stateDraining {
		return
	}
	s.keepalive()
	if due(s.rekeyAt, s.now) {
		// Once more, should the replacement fail.
		s.rekeyAt = s.now.Add(s.env.Limits.RetryMax)
		s.renew()
	}
	if due(s.reauthAt, s.now) {
		s.reauthAt = s.now.Add(s.env.Limits.RetryMax)
		s.renew()
	}
	s.tendChildren()
	if due(s.resumeAt, s.now) {
		s.resumeAt = zeroTime
		s.advance()
	}
	s.liveness()
}

// renew asks the engine for another phase 1 beside this one. IKEv1 has no other way to new keys.
func (s *sa) renew() {
	if s.state == stateEstablished && s.closeAt.IsZero() {
		s.out.Signal(ike.Signal{Kind: ike.SignalReauth})
	}
}

func (s *sa) reap() {
	keep := s.peer.reaps[:0]
	var tx policy.Tx
	for _, r := range s.peer.reaps {
		if r.at.After(s.now) {
			keep = append(keep, r)
		} else {
			tx.DeleteSAs = append(tx.DeleteSAs, r.id)
		}
	}
	s.peer.reaps = keep
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

// job has something computed.
func (s *sa) job(run func() (any, error), then func(ike.JobDone)) {
	id := s.env.NextJob()
	s.jobs[id] = then
	s.out.Jobs = append(s.out.Jobs, ike.Job{ID: id, Run: run})
}

// command serves up, down and rekey.
func (s *sa) command(ev ike.Command) {
	switch ev.Verb {
	case ike.Up:
		s.open(ev.Child, ev.Flow)
	case ike.Down:
		for _, c := range s.childrenNamed(ev.Child) {
			s.removeChild(c, ike.ClosedByUs, true)
		}
	case ike.Rekey:
		if ev.Child == "" {
			s.reply(ev.ID, nil)
			s.renew()
			return
		}
		if c := s.newest(ev.Child); c != nil && s.state == stateEstablished {
			s.enqueue(&pairTask{cfg: c.cfg, replaces: c, command: ev.ID})
			return
		}
		s.reply(ev.ID, fmt.Errorf("child %s is not up", ev.Child))
	}
}

func (s *sa) reply(id ike.CommandID, err error) {
	if id != 0 {
		s.out.Replies = append(s.out.Replies, ike.Reply{ID: id, Err: err})
	}
}

// Brief is Info without what must be allocated (see ike.SA).
func (s *sa) Brief() ike.Info {
	i := ike.Info{
		Version: 1, Initiator: s.initiator, LocalSPI: s.LocalSPI(), PeerSPI: s.peerCookie(), Path: s.path, LocalID: s.localID, RemoteID: s.remoteID,
		EstablishedAt: s.establishedAt, LastReceived: s.lastReceived, NATLocal: s.nat.local, NATRemote: s.nat.remote,
		Leased: s.config.leased, Given: s.config.given, PeerIsCoati: s.peerIsCoati, LowNonce: s.lowNonce, Renews: s.renews,
	}
	if s.tunnel != nil {
		i.Tunnel = s.tunnel.Name
	}
	switch s.state {
	case stateEstablished:
		i.State = ike.Established
		if !s.closeAt.IsZero() {
			i.State = ike.Closing
		}
	case stateDraining, stateClosed:
		i.State = ike.Closed
	}
	return i
}

// Info is a snapshot for people and the engine.
func (s *sa) Info() ike.Info {
	i := s.Brief()
	i.Proposal = s.suite.proposal
	switch {
	case s.state == stateAuthorizing:
		i.Doing = "transaction: " + s.authorizing.phase.String()
	case s.state == stateConnecting:
		i.Doing = s.p1.kind.String() + ": " + s.p1.step.String()
	case s.doing != nil:
		i.Doing = "quick mode"
	}
	if s == s.peer.home() {
		for _, c := range s.peer.children {
			i.Children = append(i.Children, c.info())
		}
	}
	return i
}
