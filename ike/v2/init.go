package v2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"coati/ike"
	"coati/ike/auth"
	"coati/ike/keys"
	"coati/ike/wire"
	"coati/policy"
)

// IKE_SA_INIT, RFC 7296, section 1.2:
//
//	HDR, [N(COOKIE)], SAi1, KEi, Ni, N(NAT_DETECTION_*)  -->
//	                    <--  HDR, SAr1, KEr, Nr, N(NAT_DETECTION_*)
//
// The initiator makes its offer in one job and finishes the exchange in another; the responder does both in one.

// initState is what only the first two exchanges need.
type initState struct {
	job             ike.JobID
	then            func(ike.JobDone) // goes on after a job of IKE_AUTH
	hashes          []auth.Hash       // responder: that the peer announced, if we announced ours
	current         *offer            // initiator: the latest, or that of the answer under way
	offers          []*offer          // all of them: an answer to each may come
	cookie          []byte
	cookies         int
	request, answer []byte // responder: both IKE_SA_INIT messages, whole: AUTH covers them
	answered        *message
	branches        []*branch
	seen            map[[32]byte]bool // digests of answers
	path            policy.Path       // of IKE_SA_INIT
	additional      additional
	myProposals     []policy.Proposal
	number          uint8 // responder: of the proposal chosen
}

// offer is one key exchange we began.
type offer struct {
	begin   *keys.Initiator
	public  []byte
	request []byte // IKE_SA_INIT, whole: AUTH covers it
}

func (st *initState) wipe() {
	for _, o := range st.offers {
		if st.job == 0 || st.then != nil || o != st.current {
			o.begin.Wipe()
		}
	}
	st.additional.wipe()
	*st = initState{}
}

const (
	nonceLen   = 32
	maxCookies = 4 // answers with a cookie we follow before we wait for something better
	maxOffers  = 4 // likewise with another group
)

// beginInit draws the nonce and the private value, and has the offer computed. Method zero: what we like best.
func (s *sa) beginInit(method uint16) error {
	if s.ni == nil {
		s.ni = s.env.Bytes(nonceLen)
		s.start.myProposals = s.tunnel.IKE
		s.start.path = s.path
		method = s.start.myProposals[0].First(policy.TransformKE).ID
	}
	begin, err := keys.NewInitiator(method, s.env.Rand)
	if err != nil {
		return fmt.Errorf("ike/v2: %w", err)
	}
	s.start.current = &offer{begin: begin}
	s.start.offers = append(s.start.offers, s.start.current)
	s.phase = phaseIdle
	s.start.job = s.env.NextJob()
	s.out.Jobs = append(s.out.Jobs, ike.Job{ID: s.start.job, Run: func() (any, error) { return begin.Offer() }})
	return nil
}

// initJob continues after a job of the first exchange.
func (s *sa) initJob(ev ike.JobDone) {
	then := s.start.then
	s.start.then = nil
	switch {
	case then != nil:
		then(ev)
	case s.initiator && s.phase == phaseIdle:
		if ev.Err != nil {
			s.fail(ev.Err, ike.ClosedFailed)
			return
		}
		s.start.current.public = ev.Result.([]byte)
		s.sendInit()
	case s.initiator:
		s.initFinished(ev)
	default:
		s.initComputed(ev)
	}
}

// sendInit sends the offer; again with a cookie when one was demanded, all else being equal.
func (s *sa) sendInit() {
	var payloads []wire.Payload
	if s.start.cookie != nil {
		payloads = append(payloads, notify(wire.NotifyCookie, s.start.cookie))
	}
	payloads = append(payloads, saPayload(s.start.myProposals, wire.SPI{}), &wire.KE{Method: s.start.current.begin.Method(), Data: s.start.current.public}, &wire.Nonce{Data: s.ni})
	payloads = append(payloads, s.natNotifies(s.path, 0, s.tunnel.Encap == policy.EncapForceUDP)...)
	if signs(s.tunnel) {
		payloads = append(payloads, hashNotify())
	}
	payloads = append(payloads, fragmentNotify(s.tunnel)...)
	payloads = append(payloads, intermediateNotify(s.start.myProposals)...)
	payloads = append(payloads, ppkNotify(s.tunnel)...)
	payloads = append(payloads, &wire.VendorID{Data: vendorID})
	b, err := wire.Append(nil, s.header(wire.ExchangeIKESAInit, 0, 0), payloads)
	if err != nil {
		s.fail(err, ike.ClosedFailed)
		return
	}
	s.start.current.request = b
	s.phase = phaseInitSent
	s.nextID = 0
	s.refusal = nil
	s.startRequest(wire.ExchangeIKESAInit, inClear(b), 0)
}

// cookieDemanded repeats the request with the cookie (section 2.6).
func (s *sa) cookieDemanded(m *message) {
	data := m.notify(wire.NotifyCookie).Data
	if len(data) == 0 || len(data) > 64 || s.start.cookies >= maxCookies {
		s.drops.malformed++
		return
	}
	s.start.cookies++
	s.start.cookie = data
	s.sendInit()
}

// groupDemanded offers again with a key exchange the responder accepts, if it is one we proposed (section 1.3).
func (s *sa) groupDemanded(m *message) {
	data := m.notify(wire.NotifyInvalidKEPayload).Data
	if len(data) != 2 {
		s.drops.malformed++
		return
	}
	want := binary.BigEndian.Uint16(data)
	proposed := slices.ContainsFunc(s.start.myProposals, func(p policy.Proposal) bool {
		return slices.Contains(p.Of(policy.TransformKE), policy.Transform{Type: policy.TransformKE, ID: want})
	})
	t := policy.Transform{Type: policy.TransformKE, ID: want}
	if !proposed {
		s.refusedBy(fmt.Errorf("the peer demands key exchange %s, which the tunnel does not propose: add it to ike", t))
		return
	}
	if len(s.start.offers) >= maxOffers || slices.ContainsFunc(s.start.offers, func(o *offer) bool { return o.begin.Method() == want }) {
		// An answer to the earlier offer is still taken.
		s.drops.malformed++
		return
	}
	s.out.Record(slog.LevelInfo, "peer wants another key exchange", append(s.attrs(), slog.String("group", t.String()))...)
	s.pending = nil
	if err := s.beginInit(want); err != nil {
		s.fail(err, ike.ClosedFailed)
	}
}

// refusedInClear notes what anybody may have written. We go on asking for a while; a real answer still wins.
func (s *sa) refusedInClear(m *message) {
	no := m.errorNotify()
	if no.Type == wire.NotifyNoProposalChosen {
		s.refusedBy(fmt.Errorf("the peer accepts none of our IKE proposals (%s): compare ike with the peer's configuration", proposalList(s.start.myProposals)))
		return
	}
	s.refusedBy(fmt.Errorf("the peer refuses to begin: %s", no.Type))
}

func (s *sa) refusedBy(err error) {
	if s.refusal == nil {
		s.warn("the first request was refused, in clear", err)
		if s.refusedAt = 0; s.pending != nil { // nil: another answer that was kept
			s.refusedAt = s.pending.tries
		}
	}
	s.refusal = err
}

func proposalList(ps []policy.Proposal) string {
	out := ""
	for i, p := range ps {
		if i > 0 {
			out += ", "
		}
		out += p.String()
	}
	return out
}

// initAnswered checks the responder's choice, and has the shared secret computed.
func (s *sa) initAnswered(m *message) {
	sa, _ := wire.Find[*wire.SA](m.payloads, wire.PayloadSA)
	kr, _ := wire.Find[*wire.KE](m.payloads, wire.PayloadKE)
	nr, _ := wire.Find[*wire.Nonce](m.payloads, wire.PayloadNonce)
	bad := func(err error) {
		// In clear, so it is only noted; the genuine answer may still come.
		s.refusedBy(err)
	}
	if m.ResponderSPI == 0 || len(sa.Proposals) != 1 {
		bad(errors.New("the answer to the first request is malformed"))
		return
	}
	chosen := policyProposal(sa.Proposals[0])
	if _, err := policy.Agreed(s.start.myProposals, chosen); err != nil {
		bad(err)
		return
	}
	if err := errors.Join(lacksIntermediate(chosen, m), lacksPPK(s.tunnel, m)); err != nil {
		bad(err)
		return
	}
	i := slices.IndexFunc(s.start.offers, func(o *offer) bool { return o.begin.Method() == kr.Method && o.request != nil })
	if i < 0 || chosen.First(policy.TransformKE).ID != kr.Method {
		bad(errors.New("the answer's key exchange is not the one offered"))
		return
	}
	prf, err := keys.NewPRF(chosen.First(policy.TransformPRF))
	if err != nil {
		bad(err)
		return
	}
	s.proposal, s.prf, s.nr, s.spiR = chosen, prf, nr.Data, m.ResponderSPI
	s.nat = detectNAT(m, m.ResponderSPI)
	s.frag.agreed = agreesOnFragments(m, s.tunnel)
	s.peerIsCoati = saysCoati(m)
	s.nextID, s.refusal = 1, nil
	s.start.fresh(m)
	s.start.answered, s.start.current = m, s.start.offers[i]
	s.start.additional.todo, s.start.additional.ppk.agreed = chosen.AdditionalKeyExchanges(), agreesOnPPK(m, s.tunnel)
	s.start.additional.childless = s.tunnel.Childless && len(s.tunnel.VirtualIP) == 0 && m.notify(wire.NotifyChildlessIKEv2Supported) != nil
	s.phase = phaseInitKeys
	s.pending = nil
	begin, answer := s.start.current.begin, kr.Data
	s.start.job = s.env.NextJob()
	s.out.Jobs = append(s.out.Jobs, ike.Job{ID: s.start.job, Run: func() (any, error) { return begin.Finish(answer) }})
}

func saysCoati(m *message) bool {
	return slices.ContainsFunc(m.payloads, func(q wire.Payload) bool {
		v, ok := q.(*wire.VendorID)
		return ok && string(v.Data) == string(vendorID)
	})
}

// initFinished has the shared secret: keys, then IKE_AUTH.
func (s *sa) initFinished(ev ike.JobDone) {
	if ev.Err != nil {
		// The answer was forged or broken; it was not authenticated. Ask again and wait for a better one.
		s.warn("key exchange failed", ev.Err)
		s.unload()
		s.nextID = 0
		s.startRequest(wire.ExchangeIKESAInit, inClear(s.start.current.request), 0)
		if s.next(nil); s.phase == phaseInitSent {
			s.pending.tries, s.pending.gap, s.pending.next = 0, s.env.Limits.RetransmitFirst, s.now.Add(s.env.Limits.RetransmitFirst)
			s.refusedBy(ev.Err)
		}
		return
	}
	shared := ev.Result.(policy.Secret)
	if err := s.makeKeys(keys.SKEYSEED(s.prf, s.ni, s.nr, shared)); err != nil {
		s.spoiled(err)
		return
	}
	shared.Wipe()
	s.float()
	s.authenticate()
}

// initRequested serves the first request as responder. False: no machine is needed.
func (s *sa) initRequested(m *message, proven bool) bool {
	pr := s.proto
	sa, _ := wire.Find[*wire.SA](m.payloads, wire.PayloadSA)
	ki, _ := wire.Find[*wire.KE](m.payloads, wire.PayloadKE)
	ni, _ := wire.Find[*wire.Nonce](m.payloads, wire.PayloadNonce)
	d := ike.Datagram{Path: m.path, Bytes: m.raw}
	own := s.env.Proposals(m.path, 2)
	if len(own) == 0 {
		s.refused("no tunnel is configured for this peer", fmt.Errorf("add a tunnel with remote = %q", m.path.Remote.Addr()))
		pr.answer(m.Header, d, s.out, notify(wire.NotifyNoProposalChosen, nil))
		return false
	}
	chosen, i, err := policy.Select(own, policyProposals(sa))
	if err == nil {
		err = lacksIntermediate(chosen, m)
	}
	if err != nil {
		s.candidates = s.env.Candidates(m.path)
		s.refused("no IKE proposal fits", fmt.Errorf("%w: see ike", err))
		pr.answer(m.Header, d, s.out, notify(wire.NotifyNoProposalChosen, nil))
		return false
	}
	method := chosen.First(policy.TransformKE).ID
	if ki.Method != method && offers(chosen, policyProposal(sa.Proposals[i]), own, ki.Method) {
		// The peer guessed a group that we accept too: better than another round.
		chosen, method = withKE(chosen, ki.Method), ki.Method
	}
	if ki.Method != method {
		pr.answer(m.Header, d, s.out, notify(wire.NotifyInvalidKEPayload, binary.BigEndian.AppendUint16(nil, method)))
		return false
	}
	prf, err := keys.NewPRF(chosen.First(policy.TransformPRF))
	if err != nil {
		s.warn("no IKE proposal fits", err)
		return false
	}
	s.candidates = s.env.Candidates(m.path)
	s.proposal, s.prf = chosen, prf
	s.ni, s.nr = ni.Data, s.env.Bytes(nonceLen)
	s.spiR = s.env.NewSPI()
	s.nat = detectNAT(m, 0)
	s.frag.agreed = agreesOnFragments(m, s.candidates...)
	s.peerIsCoati = saysCoati(m)
	s.start.request, s.start.path = m.raw, m.path
	s.start.additional.todo, s.start.additional.ppk.agreed = chosen.AdditionalKeyExchanges(), agreesOnPPK(m, s.candidates...)
	if signs(s.candidates...) {
		s.start.hashes = hashesOf(m)
	}
	s.remember(m)
	answer, err := s.initAnswer(sa.Proposals[i].Number, make([]byte, keys.AnswerLen(method)))
	if err != nil {
		s.warn("the first request cannot be answered", err)
		return false
	}
	if len(answer) > len(m.raw) && !proven {
		// Never send an unproven address more than it sent us.
		pr.demandCookie(s.env, s.now, m, s.out)
		return false
	}
	responder, err := keys.NewResponder(method, s.env.Rand)
	if err != nil {
		s.warn("the first request cannot be answered", err)
		return false
	}
	s.phase = phaseInitKeys
	s.halfOpenUntil = s.now.Add(s.env.Limits.HalfOpenLife)
	s.start.number = sa.Proposals[i].Number
	s.start.job = s.env.NextJob()
	offer := ki.Data
	s.out.Jobs = append(s.out.Jobs, ike.Job{ID: s.start.job, Light: keys.Light(method), Run: func() (any, error) {
		defer responder.Wipe()
		answer, shared, err := responder.Answer(offer)
		return keyAnswer{answer, shared}, err
	}})
	return true
}

// keyAnswer is what a responder's key exchange job returns.
type keyAnswer struct {
	answer []byte
	shared policy.Secret
}

// offers says whether a key exchange method is proposed by the peer and accepted by the own proposal that was chosen.
func offers(chosen, offered policy.Proposal, own []policy.Proposal, method uint16) bool {
	t := policy.Transform{Type: policy.TransformKE, ID: method}
	if !slices.Contains(offered.Of(policy.TransformKE), t) {
		return false
	}
	try := withKE(chosen, method)
	return slices.ContainsFunc(own, func(o policy.Proposal) bool {
		return !slices.ContainsFunc(try.Transforms, func(x policy.Transform) bool { return !slices.Contains(o.Transforms, x) })
	})
}

func withKE(p policy.Proposal, method uint16) policy.Proposal {
	q := policy.Proposal{Protocol: p.Protocol, Transforms: slices.Clone(p.Transforms)}
	for i := range q.Transforms {
		if q.Transforms[i].Type == policy.TransformKE {
			q.Transforms[i].ID = method
		}
	}
	return q
}

func (s *sa) initAnswer(number uint8, public []byte) ([]byte, error) {
	sa := &wire.SA{Proposals: []wire.Proposal{wireProposal(s.proposal, number, wire.SPI{})}}
	payloads := []wire.Payload{sa, &wire.KE{Method: s.proposal.First(policy.TransformKE).ID, Data: public}, &wire.Nonce{Data: s.nr}}
	if s.nat.supported {
		pretend := slices.ContainsFunc(s.candidates, func(t *policy.PeerTunnel) bool { return t.Encap == policy.EncapForceUDP })
		payloads = append(payloads, s.natNotifies(s.answerPath, s.spiR, pretend)...)
	}
	payloads = append(payloads, s.signaturePayloads()...)
	if s.frag.agreed {
		payloads = append(payloads, fragmentNotify(s.candidates...)...)
	}
	payloads = append(payloads, intermediateNotify([]policy.Proposal{s.proposal})...)
	if s.start.additional.ppk.agreed {
		payloads = append(payloads, ppkNotify(s.candidates...)...)
	}
	if s.peerIsCoati {
		payloads = append(payloads, &wire.VendorID{Data: vendorID})
	}
	h := s.header(wire.ExchangeIKESAInit, wire.FlagResponse, 0)
	answer, err := wire.Append(nil, h, payloads)
	if more := s.childlessNotify(answer); err == nil && more != nil {
		return wire.Append(nil, h, append(payloads, more...))
	}
	return answer, err
}

// initComputed has the responder's half and the shared secret: answer, and wait for IKE_AUTH.
func (s *sa) initComputed(ev ike.JobDone) {
	if ev.Err != nil {
		s.fail(ev.Err, ike.ClosedFailed)
		return
	}
	r := ev.Result.(keyAnswer)
	b, err := s.initAnswer(s.start.number, r.answer)
	if err == nil {
		err = s.makeKeys(keys.SKEYSEED(s.prf, s.ni, s.nr, r.shared))
	}
	r.shared.Wipe()
	if err != nil {
		s.fail(err, ike.ClosedFailed)
		return
	}
	s.start.answer = b
	s.phase = phaseInitAnswered
	s.cache.response = inClear(b)
	s.sendAll(s.answerPath, s.cache.response, 0)
}

// makeKeys derives the SK_* and makes the ciphers of both directions (section 2.14).
func (s *sa) makeKeys(seed policy.Secret) error {
	defer seed.Wipe()
	encr, integ := s.proposal.First(policy.TransformENCR), s.proposal.First(policy.TransformINTEG)
	var err error
	if s.keys, err = keys.DeriveIKE(s.prf, encr, integ, seed, s.ni, s.nr, s.spiI, s.spiR); err != nil {
		return err
	}
	s.lowNonce = lowest(s.ni, s.nr)
	ci, err := keys.NewCipher(encr, integ, s.keys.Ei, s.keys.Ai)
	if err != nil {
		return err
	}
	cr, err := keys.NewCipher(encr, integ, s.keys.Er, s.keys.Ar)
	if err != nil {
		return err
	}
	s.outCipher, s.inCipher = ci, cr
	if !s.initiator {
		s.outCipher, s.inCipher = cr, ci
	}
	if s.env.KeyLog {
		s.out.KeyLog = append(s.out.KeyLog, ike.KeyRecord{
			Version: 2, InitiatorSPI: s.spiI, ResponderSPI: s.spiR, Encryption: encr, Integrity: integ,
			SKei: s.keys.Ei.Clone(), SKer: s.keys.Er.Clone(), SKai: s.keys.Ai.Clone(), SKar: s.keys.Ar.Clone(),
		})
	}
	return nil
}
