package v2

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"coati/ike"
	"coati/ike/keys"
	"coati/ike/wire"
	"coati/policy"
)

// Additional key exchanges after CREATE_CHILD_SA, each in an IKE_FOLLOWUP_KE exchange (RFC 9370, section 2.2.4):
//
//	HDR, SK {KEi(n), N(ADDITIONAL_KEY_EXCHANGE)(link)}  -->
//	                  <--  HDR, SK {KEr(n), [N(ADDITIONAL_KEY_EXCHANGE)(link)]}
//
// The link is the responder's word for what goes on; its last answer has none. Neither end has the new SA before the last
// exchange is done. An SA has one such sequence under way in each direction, as its window is one. What is being replaced
// in one direction is not in the other: the second request is answered with TEMPORARY_FAILURE and comes again.

// follow is our half as initiator.
type follow struct {
	todo     []uint16
	link     []byte
	begun    *keys.Initiator
	jobID    ike.JobID
	sent     bool          // the offer is out
	first    policy.Secret // of CREATE_CHILD_SA
	secrets  []policy.Secret
	finished func([]policy.Secret)
	refused  func(*wire.Notify)
	failed   func(error)
}

// followUp begins what the answer to our CREATE_CHILD_SA makes necessary; nil if that is nothing.
func (s *sa) followUp(m *message, chosen policy.Proposal, first policy.Secret) (*follow, error) {
	f := &follow{todo: chosen.AdditionalKeyExchanges(), first: first}
	if len(f.todo) == 0 {
		return nil, nil
	}
	return f, f.take(m)
}

// take keeps the link for the next exchange.
func (f *follow) take(m *message) error {
	no := m.notify(wire.NotifyAdditionalKeyExchange)
	if no == nil || len(no.Data) == 0 {
		return errors.New("the peer chose additional key exchanges and does not say how to go on")
	}
	f.link = no.Data
	return nil
}

// next offers the next exchange, or is done.
func (f *follow) next(s *sa) {
	if len(f.todo) == 0 {
		f.finished(f.secrets)
		f.wipe()
		return
	}
	begun, err := keys.NewInitiator(f.todo[0], s.env.Rand)
	if err != nil {
		f.failed(err)
		return
	}
	f.begun, f.sent, f.jobID = begun, false, s.env.NextJob()
	s.out.Jobs = append(s.out.Jobs, ike.Job{ID: f.jobID, Run: func() (any, error) { return begun.Offer() }})
}

// job takes a job's result if it is one of these exchanges'.
func (f *follow) job(s *sa, ev ike.JobDone) bool {
	if f == nil || f.jobID == 0 || ev.ID != f.jobID {
		return false
	}
	f.jobID = 0
	switch {
	case ev.Err != nil:
		f.wipe()
		f.failed(ev.Err)
	case !f.sent:
		f.sent = true
		s.sendRequest(wire.ExchangeIKEFollowupKE, 0, &wire.KE{Method: f.begun.Method(), Data: ev.Result.([]byte)}, notify(wire.NotifyAdditionalKeyExchange, f.link))
	default:
		f.begun.Wipe()
		f.secrets = append(f.secrets, ev.Result.(policy.Secret))
		f.todo = f.todo[1:]
		f.next(s)
	}
	return true
}

func (f *follow) response(s *sa, m *message) {
	if no := m.errorNotify(); no != nil {
		f.wipe()
		f.refused(no)
		return
	}
	kr, ok := wire.Find[*wire.KE](m.payloads, wire.PayloadKE)
	err := error(nil)
	switch {
	case !ok || kr.Method != f.begun.Method():
		err = errors.New("the peer's answer lacks the additional key exchange")
	case len(f.todo) > 1:
		err = f.take(m)
	}
	if err != nil {
		f.wipe()
		f.failed(err)
		return
	}
	begun := f.begun
	f.jobID = s.env.NextJob()
	s.out.Jobs = append(s.out.Jobs, ike.Job{ID: f.jobID, Run: func() (any, error) { return begun.Finish(kr.Data) }})
}

// wipe forgets what was agreed on so far.
func (f *follow) wipe() {
	if f == nil {
		return
	}
	if f.begun != nil && f.jobID == 0 {
		f.begun.Wipe()
	}
	f.first.Wipe()
	for _, x := range f.secrets {
		x.Wipe()
	}
}

// unfinished is a CREATE_CHILD_SA of the peer that additional key exchanges follow.
type unfinished struct {
	ikeSA   bool   // it rekeys the IKE SA
	old     *child // or this child; nil: it is a new one
	link    []byte
	todo    []uint16
	secrets []policy.Secret // SK(0) first
	until   time.Time
	// finish makes the SA of all secrets and answers; abandon gives back what is reserved.
	finish  func(secrets []policy.Secret, kr *wire.KE)
	abandon func()
}

const linkLen = 8

// unfinish answers a CREATE_CHILD_SA as far as it goes, and keeps it for the exchanges that follow.
func (s *sa) unfinish(u *unfinished, shared policy.Secret, answer ...wire.Payload) {
	s.dropUnfinished()
	u.link, u.until, u.secrets = s.env.Bytes(linkLen), s.now.Add(s.env.Limits.HalfOpenLife), []policy.Secret{shared.Clone()}
	s.unfinished = u
	s.respond(0, append(answer, notify(wire.NotifyAdditionalKeyExchange, u.link))...)
}

// dropUnfinished gives up what the peer has not gone on with.
func (s *sa) dropUnfinished() {
	u := s.unfinished
	if u == nil {
		return
	}
	s.unfinished = nil
	u.wipe()
	if u.abandon != nil {
		u.abandon()
	}
}

func (u *unfinished) wipe() {
	for _, x := range u.secrets {
		x.Wipe()
	}
}

// unfinishedUntil is when that is given up; zero: there is none.
func (s *sa) unfinishedUntil() time.Time {
	if s.unfinished == nil {
		return zeroTime
	}
	return s.unfinished.until
}

// followUpRequested does the next exchange of what the peer began.
func (s *sa) followUpRequested(m *message) {
	u := s.unfinished
	if u == nil || !bytes.Equal(u.link, m.notify(wire.NotifyAdditionalKeyExchange).Data) {
		s.refuse(wire.NotifyStateNotFound, nil)
		return
	}
	ki, _ := wire.Find[*wire.KE](m.payloads, wire.PayloadKE)
	r, err := keys.NewResponder(u.todo[0], s.env.Rand)
	if err == nil && ki.Method != u.todo[0] {
		err = fmt.Errorf("key exchange %s is not the one agreed on", policy.Transform{Type: policy.TransformKE, ID: ki.Method})
	}
	if err != nil {
		s.warn("the peer's key exchange fails", err)
		s.dropUnfinished()
		s.refuse(wire.NotifyInvalidSyntax, nil)
		return
	}
	s.serving = &served{job: s.env.NextJob(), then: func(ev ike.JobDone) { s.followUpComputed(u, ki.Method, ev) }}
	s.out.Jobs = append(s.out.Jobs, ike.Job{ID: s.serving.job, Run: func() (any, error) {
		defer r.Wipe()
		answer, shared, err := r.Answer(ki.Data)
		return keyAnswer{answer, shared}, err
	}})
}

func (s *sa) followUpComputed(u *unfinished, method uint16, ev ike.JobDone) {
	if ev.Err != nil {
		s.warn("the peer's key exchange fails", ev.Err)
		s.dropUnfinished()
		s.refuse(wire.NotifyInvalidSyntax, nil)
		return
	}
	ka := ev.Result.(keyAnswer)
	if s.unfinished != u {
		// It waited too long, or what it would replace is gone.
		ka.shared.Wipe()
		s.refuse(wire.NotifyStateNotFound, nil)
		return
	}
	kr := &wire.KE{Method: method, Data: ka.answer}
	u.secrets, u.todo = append(u.secrets, ka.shared), u.todo[1:]
	if len(u.todo) > 0 {
		u.link, u.until = s.env.Bytes(linkLen), s.now.Add(s.env.Limits.HalfOpenLife)
		s.respond(0, kr, notify(wire.NotifyAdditionalKeyExchange, u.link))
		return
	}
	s.unfinished = nil
	u.finish(u.secrets, kr)
	u.wipe()
}

// peerReplaces says whether the peer is replacing the child, or with nil the IKE SA, and has not finished.
func (s *sa) peerReplaces(c *child) bool {
	u := s.unfinished
	return u != nil && (c != nil && u.old == c || c == nil && u.ikeSA)
}

// followed says whether additional key exchanges may be agreed on.
func followed(ps []policy.Proposal) bool {
	return slices.ContainsFunc(ps, func(p policy.Proposal) bool { return len(p.AdditionalKeyExchanges()) > 0 })
}
