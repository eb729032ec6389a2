package v2

import (
	"errors"
	"fmt"
	"time"

	"coati/ike"
	"coati/ike/auth"
	"coati/ike/eap"
	"coati/ike/wire"
	"coati/policy"
)

// The initiator authenticates by EAP, RFC 7296, section 2.16; RFC 5998:
//
//	HDR, SK {IDi, [CERTREQ,] [IDr,] SAi2, TSi, TSr, [N(EAP_ONLY_AUTHENTICATION)]}  -->
//	                      <--  HDR, SK {IDr, [CERT,] [AUTH,] EAP}
//	HDR, SK {EAP}  -->    <--  HDR, SK {EAP}      again and again
//	HDR, SK {EAP}  -->    <--  HDR, SK {EAP (success)}
//	HDR, SK {AUTH}  -->   <--  HDR, SK {AUTH, SAr2, TSi, TSr}
//
// The last AUTH payloads are made with the key of the EAP method, or SK_pi and SK_pr if it makes none. What the first request
// asks for (the child, configuration) is answered last: authAccepted gets the first message. The responder's time for half-open
// SAs runs all the while.

// eapMachine is either end of EAP.
type eapMachine interface {
	Handle(now time.Time, packet []byte) eap.Step
	Slow() bool
	MSK() policy.Secret
	Close()
}

// eapState is what lasts as long as EAP.
type eapState struct {
	machine eapMachine
	busy    bool // a job has the machine
	radius  *passThrough
	first   *message // responder: the first request
	tunnel  *policy.PeerTunnel
	idi     *wire.ID
	idr     *wire.ID
}

// close forgets what EAP made. A machine that a job has is closed when it comes back (see Late).
func (e *eapState) close() {
	switch {
	case e == nil || e.busy:
	case e.machine != nil:
		e.machine.Close()
	case e.radius != nil:
		e.radius.msk.Wipe()
	}
}

// Late takes back the machine of EAP from a job that ends after the SA did.
func (s *sa) Late(ike.JobDone) {
	if e := s.eap; e != nil && e.busy {
		e.busy = false
		e.close()
	}
}

func (s *sa) closeEAP() {
	s.eap.close()
	if s.eap != nil && !s.eap.busy {
		s.eap = nil
	}
}

// eapKey is the key of the last AUTH payloads.
func (s *sa) eapKey(byInitiator bool) policy.Secret {
	var msk policy.Secret
	if s.eap.radius != nil {
		msk = s.eap.radius.msk
	} else {
		msk = s.eap.machine.MSK()
	}
	switch {
	case msk.Len() > 0:
		return msk
	case byInitiator:
		return s.keys.Pi
	}
	return s.keys.Pr
}

// eapProof is the AUTH payload of one end.
func (s *sa) eapProof(byInitiator bool) []byte {
	id := s.eap.idr
	if byInitiator {
		id = s.eap.idi
	}
	return auth.PSK(s.prf, s.eapKey(byInitiator), s.signed(byInitiator, id))
}

// eapProves checks the other end's.
func (s *sa) eapProves(m *message) bool {
	proof, _ := wire.Find[*wire.Auth](m.payloads, wire.PayloadAUTH)
	id := s.eap.idi
	if s.initiator {
		id = s.eap.idr
	}
	return proof.Method == wire.AuthSharedKey && auth.VerifyPSK(s.prf, s.eapKey(!s.initiator), s.signed(!s.initiator, id), proof.Data)
}

// eapRun gives a packet to the machine; slow steps are jobs.
func (s *sa) eapRun(packet []byte, then func(eap.Step)) {
	e, now := s.eap, s.now
	if !e.machine.Slow() {
		then(e.machine.Handle(now, packet))
		return
	}
	id := s.env.NextJob()
	done := func(ev ike.JobDone) {
		e.busy = false
		step, _ := ev.Result.(eap.Step)
		if ev.Err != nil {
			step = eap.Step{Err: ev.Err}
		}
		then(step)
	}
	e.busy = true
	if s.initiator {
		s.start.job, s.start.then = id, done
	} else {
		s.serving = &served{job: id, then: done}
	}
	s.out.Jobs = append(s.out.Jobs, ike.Job{ID: id, Run: func() (any, error) { return e.machine.Handle(now, packet), nil }})
}

func eapPacket(m *message) []byte {
	p, _ := wire.Find[*wire.EAP](m.payloads, wire.PayloadEAP)
	return p.Message
}

// The initiator.

// eapOnly says in the first request that the responder need not authenticate before EAP (RFC 5998, section 3).
func (s *sa) eapOnly() []wire.Payload {
	if s.tunnel.LocalAuth == policy.ByEAP && s.tunnel.RemoteAuth == policy.ByEAP {
		return []wire.Payload{notify(wire.NotifyEAPOnlyAuthentication, nil)}
	}
	return nil
}

// eapOffered checks who the responder is, and begins EAP.
func (s *sa) eapOffered(m *message) {
	_, proved := wire.Find[*wire.Auth](m.payloads, wire.PayloadAUTH)
	alone := s.tunnel.RemoteAuth == policy.ByEAP
	switch {
	case s.tunnel.LocalAuth != policy.ByEAP:
		s.eapBegun(m, fmt.Errorf("the peer wants us to authenticate by EAP: tunnel %s does so by %s: see auth", s.tunnel.Name, s.tunnel.LocalAuth))
	case !proved && !alone:
		s.eapBegun(m, fmt.Errorf("the peer begins EAP and does not prove who it is: tunnel %s expects %s: see remote-auth", s.tunnel.Name, expected(s.tunnel.RemoteAuth)))
	case alone:
		s.remoteID = policyIdentity(idOf(m))
		var err error
		if proved {
			err = errors.New("the peer does not authenticate by EAP alone, as it was offered (RFC 5998): see remote-auth")
		} else if want := ike.RemoteIdentity(s.tunnel, s.path); !want.Matches(s.remoteID) {
			err = fmt.Errorf("the peer says it is %s, tunnel %s expects %s: see remote-id", s.remoteID, s.tunnel.Name, want)
		}
		s.eapBegun(m, err)
	default:
		s.checkResponder(m, func(err error) { s.eapBegun(m, err) })
	}
}

func idOf(m *message) *wire.ID {
	idr, _ := wire.Find[*wire.ID](m.payloads, wire.PayloadIDr)
	return idr
}

// eapBegun follows the responder: nobody else can be meant any more, or with EAP alone will be asked.
func (s *sa) eapBegun(m *message, err error) {
	if err != nil {
		s.sendRequest(wire.ExchangeInformational, 0, notify(wire.NotifyAuthenticationFailed, nil))
		s.spoiled(err)
		return
	}
	s.dropBranches()
	s.eap = &eapState{machine: eap.NewPeer(s.tunnel.EAP, [32]byte(s.env.Bytes(32))), idi: idPayload(false, s.localID), idr: idOf(m)}
	s.phase = phaseEAP
	s.eapAsked(m)
}

// eapAsked answers a packet of the server.
func (s *sa) eapAsked(m *message) {
	s.eapRun(eapPacket(m), func(step eap.Step) {
		switch {
		case step.Err != nil:
			s.eapLeave(step.Err)
		case step.Done:
			s.phase = phaseEAPAuth
			s.sendRequest(wire.ExchangeIKEAuth, 0, &wire.Auth{Method: wire.AuthSharedKey, Data: s.eapProof(true)})
		default:
			s.sendRequest(wire.ExchangeIKEAuth, 0, &wire.EAP{Message: step.Send})
		}
	})
}

// eapLeave tells a responder that we do not go on (section 2.21.2), and ends.
func (s *sa) eapLeave(err error) {
	s.sendRequest(wire.ExchangeInformational, 0, notify(wire.NotifyAuthenticationFailed, nil))
	s.fail(err, ike.ClosedFailed)
}

func (s *sa) eapRefused(m *message) {
	err := fmt.Errorf("the peer refuses: %s", m.errorNotify().Type)
	if m.errorNotify().Type == wire.NotifyAuthenticationFailed {
		err = fmt.Errorf("the peer %s refuses our identity %s or %s", s.path.Remote.Addr(), s.localID, ourProof(s.tunnel))
	}
	s.fail(err, ike.ClosedFailed)
}

// eapAnswered checks that the responder of the exchange and the server of EAP are one, and takes the child.
func (s *sa) eapAnswered(m *message) {
	if !s.eapProves(m) {
		s.eapLeave(errors.New("the peer's AUTH does not fit the key that EAP made: somebody stands between it and the server"))
		return
	}
	s.answerChecked(m, nil)
}

// The responder.

// eapRequested chooses the tunnel by what the peer says it is, proves who we are, and begins EAP.
func (s *sa) eapRequested(m *message) {
	idi, _ := wire.Find[*wire.ID](m.payloads, wire.PayloadIDi)
	s.remoteID = policyIdentity(idi)
	t, err := s.chooseEAP(m)
	if err != nil {
		s.authFailed(err)
		return
	}
	id := idPayload(true, ike.LocalIdentity(t, s.path))
	s.eap = &eapState{first: m, tunnel: t, idi: idi, idr: id}
	if t.LocalAuth == policy.ByEAP {
		s.eapServe([]wire.Payload{id})
		return
	}
	s.prove(t, id, func(proof []wire.Payload, err error) {
		if err == nil && s.phase == phaseAuthCheck {
			s.eap.tunnel, err = s.unchanged(t)
		}
		if err != nil {
			s.authFailed(err)
			return
		}
		s.eapServe(append([]wire.Payload{id}, proof...))
	})
}

// chooseEAP finds the tunnel whose peer authenticates by EAP (compare choosePeer).
func (s *sa) chooseEAP(m *message) (*policy.PeerTunnel, error) {
	idr, hasIDr := wire.Find[*wire.ID](m.payloads, wire.PayloadIDr)
	var near nearest
	s.candidates = s.env.Candidates(s.start.path)
	for _, t := range s.candidates {
		if t.Version != 2 {
			continue
		}
		want, mine := ike.RemoteIdentity(t, s.path), ike.LocalIdentity(t, s.path)
		switch {
		case !want.Matches(s.remoteID):
			near.miss(t, 0, fmt.Errorf("the peer says it is %s, tunnel %s expects %s: see remote-id", s.remoteID, t.Name, want))
		case hasIDr && !mine.Matches(policyIdentity(idr)):
			near.miss(t, 1, fmt.Errorf("the peer looks for %s, tunnel %s is %s: see local-id", policyIdentity(idr), t.Name, mine))
		case !agrees(t, s.proposal):
			near.miss(t, 2, fmt.Errorf("tunnel %s does not accept %s: see ike", t.Name, s.proposal))
		case t.RemoteAuth != policy.ByEAP || !t.EAP.Serves():
			near.miss(t, 3, fmt.Errorf("the peer wants to authenticate by EAP, tunnel %s expects %s: see remote-auth", t.Name, expected(t.RemoteAuth)))
		case t.LocalAuth == policy.ByEAP && m.notify(wire.NotifyEAPOnlyAuthentication) == nil:
			near.miss(t, 4, fmt.Errorf("the peer wants us to prove who we are before EAP, tunnel %s does so by EAP alone (RFC 5998): see auth", t.Name))
		default:
			return t, nil
		}
	}
	if near.why == nil {
		near.why = fmt.Errorf("no tunnel is configured for %s", s.remoteID)
	}
	s.blame(near.tunnel)
	return nil, near.why
}

// eapServe answers the first request: with who we are, and the first packet of EAP.
func (s *sa) eapServe(payloads []wire.Payload) {
	e := s.eap
	s.blame(e.tunnel)
	var first []byte
	if cfg := e.tunnel.EAP; len(cfg.RADIUS.Servers) > 0 {
		e.radius = &passThrough{}
		first = e.radius.begin()
	} else {
		server := eap.NewServer(cfg, e.tunnel.Name, [32]byte(s.env.Bytes(32)))
		e.machine, first = server, server.Begin()
	}
	s.phase = phaseEAP
	s.respond(0, append(payloads, &wire.EAP{Message: first})...)
}

// eapReceived takes a packet of the client.
func (s *sa) eapReceived(m *message) {
	if s.eap.radius != nil {
		s.askRADIUS(eapPacket(m))
		return
	}
	s.eapRun(eapPacket(m), s.eapStepped)
}

// eapStepped answers it.
func (s *sa) eapStepped(step eap.Step) {
	if step.Err != nil {
		s.refused("peer is not who it must be", step.Err)
		if step.Send != nil {
			s.respond(0, &wire.EAP{Message: step.Send})
		} else {
			s.refuse(wire.NotifyAuthenticationFailed, nil)
		}
		s.fail(fmt.Errorf("authentication failed: %w", step.Err), ike.ClosedFailed)
		return
	}
	if step.Done {
		s.phase = phaseEAPAuth
	}
	s.respond(0, &wire.EAP{Message: step.Send})
}

// eapLeft: the client does not believe us, or has heard that it is refused and does not wait for the end.
func (s *sa) eapLeft(*message) {
	err := errors.New("the peer leaves EAP: what it heard does not convince it, or it has nothing more to say")
	if server, ok := s.eap.machine.(*eap.Server); ok && server.Refused() != nil {
		err = server.Refused()
	}
	s.refused("peer is not who it must be", err)
	s.respond(0)
	s.fail(fmt.Errorf("authentication failed: %w", err), ike.ClosedFailed)
}

// eapUser is whom the client proved to be.
func (s *sa) eapUser() string {
	if s.eap.radius != nil {
		return s.eap.radius.user
	}
	return s.eap.machine.(*eap.Server).User()
}

// eapAuthenticated checks that the initiator of the exchange is the client of EAP, and accepts it.
func (s *sa) eapAuthenticated(m *message) {
	if !s.eapProves(m) {
		s.authFailed(errors.New("the peer's AUTH does not fit the key that EAP made: somebody stands between it and us"))
		return
	}
	e := s.eap
	t, err := s.unchanged(e.tunnel)
	if err != nil {
		s.authFailed(err)
		return
	}
	s.remoteID = policy.Identity{Type: policy.IDUser, Data: []byte(s.eapUser())}
	proof := &wire.Auth{Method: wire.AuthSharedKey, Data: s.eapProof(false)}
	s.authAccepted(e.first, t, []wire.Payload{proof})
}
