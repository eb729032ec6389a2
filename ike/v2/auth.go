package v2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"coati/ike"
	"coati/ike/auth"
	"coati/ike/wire"
	"coati/policy"
)

// IKE_AUTH, RFC 7296, sections 1.2 and 2.15 (for certificates see certs.go):
//
//	HDR, SK {IDi, [IDr,] AUTH, SAi2, TSi, TSr, [N(INITIAL_CONTACT)]}  -->
//	                     <--  HDR, SK {IDr, AUTH, SAr2, TSi, TSr}

// signed is what the initiator (or the responder) of this SA signs.
func (s *sa) signed(byInitiator bool, id *wire.ID) []byte {
	if byInitiator {
		return append(auth.SignedOctets(s.prf, s.initRequest(), s.nr, s.keys.Pi, id.Body()), s.intAuth()...)
	}
	return append(auth.SignedOctets(s.prf, s.initResponse(), s.ni, s.keys.Pr, id.Body()), s.intAuth()...)
}

func (s *sa) initRequest() []byte {
	if s.initiator {
		return s.start.current.request
	}
	return s.start.request
}

func (s *sa) initResponse() []byte {
	if s.initiator {
		return s.start.answered.raw
	}
	return s.start.answer
}

// sendAuth proves who we are, and goes on when that is done.
func (s *sa) sendAuth() {
	id := idPayload(false, s.localID)
	if s.tunnel.LocalAuth == policy.ByEAP {
		s.sendProof(id, nil)
		return
	}
	s.proveWithPPK(id, func(proof []wire.Payload, err error) {
		if err != nil {
			s.spoiled(err)
			return
		}
		s.sendProof(id, proof)
	})
}

// sendProof says who we are and asks for the first child. Without proof we ask for EAP.
func (s *sa) sendProof(id *wire.ID, proof []wire.Payload) {
	more := max(len(proof)-1, 0)
	payloads := append([]wire.Payload{id}, proof[:more]...)
	payloads = append(payloads, certRequest(s.tunnel)...)
	if want := s.tunnel.RemoteID; !want.IsZero() && want.Type != policy.IDAnyOne {
		payloads = append(payloads, idPayload(true, want))
	}
	payloads = slices.Concat(payloads, proof[more:], s.eapOnly(), s.start.additional.ppk.says)
	if s.renews && s.peerIsCoati {
		payloads = append(payloads, &wire.VendorID{Data: renewID})
	}
	if !s.env.HasOther(s.tunnel.Name, s) {
		payloads = append(payloads, notify(wire.NotifyInitialContact, nil))
	}
	if s.start.additional.childless {
		s.phase = phaseAuthSent
		s.sendRequest(wire.ExchangeIKEAuth, 0, append(payloads, s.offerMobike()...)...)
		return
	}
	cfg := s.firstWanted()
	if cfg == nil {
		s.fail(errors.New("nothing to negotiate: the tunnel has no children"), ike.ClosedFailed)
		return
	}
	c, err := s.newChild(cfg, true)
	if err != nil {
		s.fail(err, ike.ClosedFailed)
		return
	}
	s.children = []*child{c}
	c.offered = without(cfg.ESP, policy.TransformKE)
	c.nonceI, c.nonceR = s.ni, s.nr
	flow := packetOf(cfg, s.flow)
	if len(s.tunnel.VirtualIP) > 0 {
		flow = policy.Flow{} // it has not the address yet that we will be given
	}
	c.local, c.remote = selectorsFor(cfg, flow)
	mode, err := s.offerMode(c)
	if err != nil {
		s.fail(err, ike.ClosedFailed)
		return
	}
	payloads = append(payloads, configRequest(s.tunnel)...)
	payloads = append(payloads, saPayload(c.offered, wire.SPI4(uint32(c.inSPI))), tsPayload(false, c.local), tsPayload(true, c.remote))
	payloads = append(payloads, mode...)
	payloads = append(payloads, s.offerMobike()...)
	s.phase = phaseAuthSent
	s.sendRequest(wire.ExchangeIKEAuth, 0, payloads...)
}

// firstWanted is the first of the wanted children; it stays wanted until the SA is established.
func (s *sa) firstWanted() *policy.Child {
	for len(s.wanted) > 0 {
		if cfg := ike.ChildOf(s.tunnel, s.wanted[0]); cfg != nil {
			return cfg
		}
		s.wanted = s.wanted[1:]
	}
	return nil
}

// authRequested checks who the peer is, and answers with who we are and the first child.
func (s *sa) authRequested(m *message) {
	idi, _ := wire.Find[*wire.ID](m.payloads, wire.PayloadIDi)
	s.remoteID = policyIdentity(idi)
	if err := s.ppkNamed(m); err != nil {
		s.authFailed(err)
		return
	}
	s.choosePeer(m, idi, func(t *policy.PeerTunnel, err error) {
		if err != nil {
			s.authFailed(err)
			return
		}
		id := idPayload(true, ike.LocalIdentity(t, s.path))
		s.prove(t, id, func(proof []wire.Payload, err error) {
			if err == nil && s.phase == phaseAuthCheck {
				t, err = s.unchanged(t)
			}
			if err != nil {
				s.authFailed(err)
				return
			}
			s.authAccepted(m, t, slices.Concat([]wire.Payload{id}, proof, s.ppkUsed()))
		})
	})
}

func (s *sa) authFailed(err error) {
	s.refused("peer is not who it must be", err)
	s.refuse(wire.NotifyAuthenticationFailed, nil)
	s.fail(fmt.Errorf("authentication failed: %w", err), ike.ClosedFailed)
}

// authAccepted answers a peer of tunnel t with the proof of who we are, and the first child.
func (s *sa) authAccepted(m *message, t *policy.PeerTunnel, payloads []wire.Payload) {
	nobody := t.RemoteAuth == policy.ByNobody
	if nobody {
		s.remoteID = policy.Identity{Type: policy.IDNull} // what it says to be is not believed (RFC 7619, section 2.2)
	}
	s.tunnel = t
	s.renews = slices.ContainsFunc(m.payloads, func(q wire.Payload) bool {
		v, ok := q.(*wire.VendorID)
		return ok && string(v.Data) == string(renewID)
	})
	contact := m.notify(wire.NotifyInitialContact) != nil && !nobody // nobody cannot end another's SA (section 2.3)
	other := !nobody && s.env.PeerHas(t.Name, s.remoteID, s)
	if other && !contact && !s.renews && t.Unique == policy.UniqueKeep {
		s.refused("peer is there already", fmt.Errorf("%s has an IKE SA with tunnel %s, which keeps the first: see unique", s.remoteID, t.Name))
		s.refuse(wire.NotifyAuthenticationFailed, nil)
		s.fail(errors.New("the peer has an IKE SA already"), ike.ClosedFailed)
		return
	}
	s.localID = ike.LocalIdentity(t, s.path)
	s.path.Encap = policy.EncapRaw
	if s.floats(t.Encap) {
		s.path.Encap = policy.EncapUDP
	}
	s.answerPath.Encap = s.path.Encap
	sa, _ := wire.Find[*wire.SA](m.payloads, wire.PayloadSA)
	if changedOnTheWay(m) {
		s.refused("the peer's address was changed on the way, which it does not allow", fmt.Errorf("it comes from %s", m.path.Remote))
		s.refuse(wire.NotifyUnexpectedNATDetected, nil)
		s.fail(errors.New("a NAT stands where none is allowed"), ike.ClosedFailed)
		return
	}
	payloads = append(payloads, s.agreeMobike(m)...)
	if !sa1.in(m) {
		s.established(contact)
		s.respond(0, payloads...)
		s.openWanted()
		return
	}
	reply, reject := s.configure(m)
	var c *child
	if reject == nil {
		c, reject = s.acceptChild(m, sa, s.ni, s.nr, policy.Secret{}, nil, true)
	}
	payloads = append(payloads, reply...)
	s.established(contact)
	if reject != nil {
		// The IKE SA stands without a child (section 1.2).
		s.refused("no child SA", reject)
		s.respond(0, append(payloads, notify(reject.notify, nil))...)
		return
	}
	if other && !contact {
		// The peer may have the child on another SA; it gets our answer first, so it uses the new pair first.
		c.standby = true
		c.activateAt = s.now.Add(s.env.Limits.DeleteGrace)
	}
	c.pair[1].First = !other
	change := s.installed(c)
	s.changes[change] = c
	c.authReply = payloads
	s.respond(change, append(payloads, c.answer...)...)
	s.childUp(c)
	s.openWanted()
}

// authIncomplete refuses what lacks payloads: childless initiation is not offered here.
func (s *sa) authIncomplete(m *message) {
	err := fmt.Errorf("IKE_AUTH lacks payloads it must have: it has %s", payloadNames(m))
	if !authP.in(m) && idi.in(m) {
		err = errors.New("the peer wants to authenticate by EAP without a child, which no tunnel here offers")
		s.refused("peer is not who it must be", err)
		s.refuse(wire.NotifyAuthenticationFailed, nil)
	} else {
		s.refuse(wire.NotifyInvalidSyntax, nil)
	}
	s.fail(err, ike.ClosedFailed)
}

// choosePeer finds the tunnel whose peer this is, and checks the proof. The error says in plain words what did not fit with
// the tunnel that came nearest; if that is the one whose peer it says it is, it is the only candidate left.
func (s *sa) choosePeer(m *message, idi *wire.ID, then func(*policy.PeerTunnel, error)) {
	idr, hasIDr := wire.Find[*wire.ID](m.payloads, wire.PayloadIDr)
	proof, _ := wire.Find[*wire.Auth](m.payloads, wire.PayloadAUTH)
	signed := s.signed(true, idi)
	var near nearest
	var claimed []*policy.PeerTunnel
	// The configuration may have changed since the first request.
	s.candidates = s.env.Candidates(s.start.path)
	for _, t := range s.candidates {
		if t.Version != 2 {
			continue
		}
		want, mine := ike.RemoteIdentity(t, s.path), ike.LocalIdentity(t, s.path)
		method := rightMethod(t, proof.Method)
		switch {
		case !want.Matches(s.remoteID):
			near.miss(t, 0, fmt.Errorf("the peer says it is %s, tunnel %s expects %s: see remote-id", s.remoteID, t.Name, want))
		case hasIDr && !mine.Matches(policyIdentity(idr)):
			near.miss(t, 1, fmt.Errorf("the peer looks for %s, tunnel %s is %s: see local-id", policyIdentity(idr), t.Name, mine))
		case !agrees(t, s.proposal):
			near.miss(t, 2, fmt.Errorf("tunnel %s does not accept %s: see ike", t.Name, s.proposal))
		case method != nil:
			near.miss(t, 3, method)
		case s.otherPPK(t) != nil:
			near.miss(t, 3, s.otherPPK(t))
		case t.RemoteAuth.Signs():
			claimed = append(claimed, t)
		case !s.knowsKey(t, proof, signed):
			near.miss(t, 4, fmt.Errorf("the peer %s has another pre-shared key than tunnel %s: see psk-file", s.remoteID, t.Name))
		default:
			then(t, nil)
			return
		}
	}
	if len(claimed) > 0 {
		s.believe(s.claim(m, idi, proof), claimed, func(t *policy.PeerTunnel, err error) {
			if err != nil {
				near.miss(claimed[len(claimed)-1], 4, err)
				err = near.why
				s.blame(near.tunnel)
			}
			then(t, err)
		})
		return
	}
	if near.why == nil {
		near.why = fmt.Errorf("no tunnel is configured for %s", s.remoteID)
	}
	s.blame(near.tunnel)
	then(nil, near.why)
}

// blame leaves one tunnel as the only candidate, if it is known which the peer means.
func (s *sa) blame(t *policy.PeerTunnel) {
	if t != nil {
		s.candidates = []*policy.PeerTunnel{t}
	}
}

// nearest is which of several tunnels fitted longest, and what did not fit then.
type nearest struct {
	tunnel *policy.PeerTunnel // nil: not even the identity fits
	far    int
	why    error
}

func (n *nearest) miss(t *policy.PeerTunnel, far int, err error) {
	if n.why != nil && far <= n.far {
		return
	}
	if n.far, n.why, n.tunnel = far, err, t; far == 0 {
		n.tunnel = nil
	}
}

func agrees(t *policy.PeerTunnel, p policy.Proposal) bool {
	_, err := policy.Agreed(t.IKE, p)
	return err == nil
}

// authAnswered checks who the peer is, and takes the child it answered with.
func (s *sa) authAnswered(m *message) {
	s.checkResponder(m, func(err error) {
		if err == nil && s.tunnel.LocalAuth == policy.ByEAP {
			err = errors.New("the peer lets us in without EAP: compare auth with its configuration")
		}
		s.answerChecked(m, err)
	})
}

// checkResponder checks who the peer is.
func (s *sa) checkResponder(m *message, then func(error)) {
	idr, _ := wire.Find[*wire.ID](m.payloads, wire.PayloadIDr)
	proof, _ := wire.Find[*wire.Auth](m.payloads, wire.PayloadAUTH)
	s.remoteID = policyIdentity(idr)
	want := ike.RemoteIdentity(s.tunnel, s.path)
	err := errors.Join(rightMethod(s.tunnel, proof.Method), s.ppkAnswered(m))
	switch {
	case err != nil:
	case s.tunnel.RemoteAuth == policy.ByNobody:
		s.remoteID = policy.Identity{Type: policy.IDNull}
		if !s.knowsKey(s.tunnel, proof, s.signed(false, idr)) {
			err = errors.New("the peer's AUTH does not belong to this exchange")
		}
	case !want.Matches(s.remoteID):
		err = fmt.Errorf("the peer says it is %s, tunnel %s expects %s: see remote-id", s.remoteID, s.tunnel.Name, want)
	case s.tunnel.RemoteAuth.Signs():
		s.phase = phaseAuthCheck
		s.believe(s.claim(m, idr, proof), []*policy.PeerTunnel{s.tunnel}, func(_ *policy.PeerTunnel, err error) { then(err) })
		return
	case !s.knowsKey(s.tunnel, proof, s.signed(false, idr)):
		err = fmt.Errorf("the peer %s has another pre-shared key than tunnel %s: see psk-file", s.remoteID, s.tunnel.Name)
	}
	then(err)
}

// answerChecked takes the child of an answer whose sender is who it says, or else tells it so.
func (s *sa) answerChecked(m *message, err error) {
	if err != nil {
		// The peer believes that the SA stands; it is told (section 2.21.2).
		s.sendRequest(wire.ExchangeInformational, 0, notify(wire.NotifyAuthenticationFailed, nil))
		s.spoiled(err)
		return
	}
	s.authLifetime(m)
	s.mobikeAnswered(m)
	if len(s.children) == 0 {
		s.established(false)
		s.openFirst()
		return
	}
	c := s.children[0]
	s.wanted = slices.DeleteFunc(s.wanted, func(w string) bool { return w == c.name })
	s.established(false)
	if no := m.errorNotify(); no != nil {
		if err := lacksAddress(no.Type); err != nil {
			s.unconfigured(c, err)
			return
		}
		s.dropChild(c, childRefusal(no.Type, c))
		s.openWanted()
		return
	}
	if err := s.takeGiven(m); err != nil {
		s.unconfigured(c, err)
		return
	}
	if err := s.takeAnswer(c, m, policy.Secret{}); err != nil {
		s.dropChild(c, err)
		s.enqueue(&deleteTask{spi: c.inSPI})
		return
	}
	change := s.installed(c)
	s.changes[change] = c
	s.childUp(c)
	s.openWanted()
}

func (s *sa) authRefused(m *message) {
	no := m.errorNotify()
	err := fmt.Errorf("the peer refuses: %s", no.Type)
	if no.Type == wire.NotifyAuthenticationFailed {
		err = fmt.Errorf("the peer %s refuses our identity %s or %s", s.path.Remote.Addr(), s.localID, ourProof(s.tunnel))
	}
	s.spoiled(err)
}

func (s *sa) authNonsense(m *message) {
	s.spoiled(fmt.Errorf("the answer to IKE_AUTH lacks payloads it must have: it has %s", payloadNames(m)))
}

// established begins the life of the SA.
func (s *sa) established(initialContact bool) {
	s.forgetFragments()
	s.phase = phaseEstablished
	s.establishedAt = s.now
	s.firstNonce = s.lowNonce
	if s.closing {
		s.closeNext()
		s.resumeAt = s.now
	}
	s.halfOpenUntil = zeroTime
	s.dropBranches()
	s.closeEAP()
	s.start.wipe()
	s.startKeepalive()
	s.startLifetime()
	if s.env.Told(slog.LevelInfo) {
		s.out.Record(slog.LevelInfo, "IKE SA established", append(s.attrs(), slog.String("local-id", s.localID.String()), slog.String("remote-id", s.remoteID.String()), slog.String("ciphers", s.proposal.String()))...)
	}
	s.out.Signal(ike.Signal{Kind: ike.SignalEstablished, InitialContact: initialContact})
}

// openWanted opens the children that IKE_AUTH had no room for.
func (s *sa) openWanted() {
	w := s.wanted
	s.wanted = nil
	for _, name := range w {
		s.open(name, policy.Flow{})
	}
}

// authLifetime: the peer wants us to authenticate anew before so many seconds have passed (RFC 4478).
func (s *sa) authLifetime(m *message) {
	no := m.notify(wire.NotifyAuthLifetime)
	if no == nil || len(no.Data) != 4 {
		return
	}
	d := time.Duration(binary.BigEndian.Uint32(no.Data)) * time.Second
	d -= d/10 + s.env.Jitter(d/10)
	s.demandedAt = s.now.Add(max(d, s.env.Limits.RetryFirst))
	s.reauthAt = ike.Earlier(s.reauthAt, s.demandedAt)
}
