package v2

import (
	"fmt"
	"slices"
	"strings"

	"coati/ike"
	"coati/ike/wire"
)

// row is one transition: a message the RFC draws, when it may come, and what it does. A message is matched against the
// rows of its exchange and direction in order; the first row whose phase fits and whose required payloads are all
// there is taken. Payloads that a row does not name are ignored, except what appears twice and may not.
type row struct {
	name     string
	section  string // of RFC 7296, or with the name of another
	from     phase
	exchange wire.ExchangeType
	response bool
	required []need
	optional []need
	action   func(*sa, *message)
	to       []phase // where the machine may be afterwards
}

// need is a payload, or a notification of one type.
type need struct {
	payload  wire.PayloadType
	notify   wire.NotifyType
	anyError bool
}

func p(t wire.PayloadType) need { return need{payload: t} }
func n(t wire.NotifyType) need  { return need{payload: wire.PayloadNotify, notify: t} }

// where is the section of an RFC that has the row.
func (r *row) where() string {
	rfc, section, other := strings.Cut(r.section, ", ")
	if !other {
		rfc, section = "RFC 7296", r.section
	}
	return rfc + ", section " + section
}

var nError = need{payload: wire.PayloadNotify, anyError: true}

func (x need) String() string {
	switch {
	case x.anyError:
		return "N(error)"
	case x.payload == wire.PayloadNotify:
		return fmt.Sprintf("N(%s)", x.notify)
	}
	return x.payload.String()
}

func (x need) in(m *message) bool {
	if x.anyError {
		return m.errorNotify() != nil
	}
	if x.payload == wire.PayloadNotify {
		return m.notify(x.notify) != nil
	}
	return slices.ContainsFunc(m.payloads, func(q wire.Payload) bool { return q.PayloadType() == x.payload })
}

var (
	sa1   = p(wire.PayloadSA)
	ke    = p(wire.PayloadKE)
	nonce = p(wire.PayloadNonce)
	idi   = p(wire.PayloadIDi)
	idr   = p(wire.PayloadIDr)
	authP = p(wire.PayloadAUTH)
	tsi   = p(wire.PayloadTSi)
	tsr   = p(wire.PayloadTSr)
	cert  = p(wire.PayloadCERT)
	creq  = p(wire.PayloadCERTREQ)
	del   = p(wire.PayloadDelete)
	cp    = p(wire.PayloadCP)
	eapP  = p(wire.PayloadEAP)
)

type ownArrow struct {
	from phase
	why  string
	to   []phase
}

// own lists the transitions without a message of an SA in a phase: our own wishes, jobs, timers, and the first request,
// which has no SA yet. They are drawn and checked like the rows.
var own = []ownArrow{
	{phaseIdle, "the offer is computed, or we are told to end", []phase{phaseInitSent, phaseClosed}},
	{phaseIdle, "IKE_SA_INIT came from a peer", []phase{phaseInitKeys}},
	{phaseInitKeys, "the shared secret is there, as initiator", []phase{phaseAuthSent, phaseInitSent}},
	{phaseInitKeys, "the shared secret is there, as responder", []phase{phaseInitAnswered, phaseClosed}},
	{phaseInitSent, "no answer", []phase{phaseClosed}},
	{phaseInitAnswered, "the peer did not authenticate in time", []phase{phaseClosed}},
	{phaseAuthSent, "no answer, or another one's turn", []phase{phaseInitSent, phaseInitKeys, phaseClosed}},
	{phaseAuthCheck, "signatures are checked and made", []phase{phaseEstablished, phaseInitSent, phaseInitKeys, phaseAuthSent, phaseEAP, phaseClosed}},
	{phaseEAP, "a packet of EAP is made, by us or RADIUS, or nobody answers in time", []phase{phaseEAPAuth, phaseClosed}},
	{phaseEAPAuth, "no answer in time", []phase{phaseClosed}},
	{phaseEstablished, "we delete", []phase{phaseDeleting}},
	{phaseEstablished, "no answer, or the lifetime ended", []phase{phaseClosed}},
	{phaseDeleting, "no answer", []phase{phaseClosed}},
	{phaseDraining, "nothing is on its way any more", []phase{phaseClosed}},
}

// table holds every transition that a message causes. Its own tests draw it, check that every phase can be reached, and
// compare the drawing with docs.
var table []row

// The rows name methods that dispatch, so the table cannot be a composite literal of a package variable.
func init() {
	table = []row{
		{"offer answered", "1.2", phaseInitSent, wire.ExchangeIKESAInit, true, []need{sa1, ke, nonce}, []need{creq}, (*sa).initAnswered, []phase{phaseInitKeys, phaseInitSent}},
		{"cookie demanded", "2.6", phaseInitSent, wire.ExchangeIKESAInit, true, []need{n(wire.NotifyCookie)}, nil, (*sa).cookieDemanded, []phase{phaseInitSent}},
		{"other group demanded", "1.3", phaseInitSent, wire.ExchangeIKESAInit, true, []need{n(wire.NotifyInvalidKEPayload)}, nil, (*sa).groupDemanded, []phase{phaseInitSent, phaseIdle}},
		{"offer refused in clear", "2.21.1", phaseInitSent, wire.ExchangeIKESAInit, true, []need{nError}, nil, (*sa).refusedInClear, []phase{phaseInitSent}},

		{"peer adds a key exchange", "RFC 9370, 2.2.2", phaseInitAnswered, wire.ExchangeIKEIntermediate, false, []need{ke}, nil, (*sa).keyExchangeRequested, []phase{phaseInitAnswered, phaseClosed}},
		{"key exchange added", "RFC 9370, 2.2.2", phaseAuthSent, wire.ExchangeIKEIntermediate, true, []need{ke}, nil, (*sa).keyExchangeAdded, []phase{phaseInitKeys, phaseInitSent, phaseAuthSent}},
		{"key exchange refused", "RFC 9370, 2.2.2", phaseAuthSent, wire.ExchangeIKEIntermediate, true, nil, nil, (*sa).keyExchangeRefused, []phase{phaseInitSent, phaseInitKeys, phaseAuthSent}},

		{"peer authenticates", "1.2", phaseInitAnswered, wire.ExchangeIKEAuth, false, []need{idi, authP, sa1, tsi, tsr}, []need{idr, cert, creq, cp}, (*sa).authRequested, []phase{phaseEstablished, phaseAuthCheck, phaseClosed}},
		{"peer wants EAP", "2.16", phaseInitAnswered, wire.ExchangeIKEAuth, false, []need{idi, sa1, tsi, tsr}, []need{idr, creq, cp}, (*sa).eapRequested, []phase{phaseEAP, phaseAuthCheck, phaseClosed}},
		{"peer authenticates, childless", "RFC 6023, 3", phaseInitAnswered, wire.ExchangeIKEAuth, false, []need{idi, authP}, []need{idr, cert, creq, cp}, (*sa).childlessRequested, []phase{phaseEstablished, phaseAuthCheck, phaseClosed}},
		{"peer authenticates without a child", "1.2", phaseInitAnswered, wire.ExchangeIKEAuth, false, nil, nil, (*sa).authIncomplete, []phase{phaseClosed}},
		{"peer authenticated us", "1.2", phaseAuthSent, wire.ExchangeIKEAuth, true, []need{idr, authP, sa1, tsi, tsr}, []need{cert, cp}, (*sa).authAnswered, []phase{phaseEstablished, phaseAuthCheck, phaseInitSent, phaseInitKeys, phaseAuthSent}},
		{"peer authenticated us, no child", "1.2", phaseAuthSent, wire.ExchangeIKEAuth, true, []need{idr, authP, nError}, []need{cert, cp}, (*sa).authAnswered, []phase{phaseEstablished, phaseAuthCheck, phaseInitSent, phaseInitKeys, phaseAuthSent}},
		{"peer wants us to use EAP", "2.16", phaseAuthSent, wire.ExchangeIKEAuth, true, []need{idr, eapP}, []need{cert, authP}, (*sa).eapOffered, []phase{phaseEAP, phaseAuthCheck, phaseInitSent, phaseInitKeys, phaseAuthSent, phaseClosed}},
		{"peer authenticated us, childless", "RFC 6023, 3", phaseAuthSent, wire.ExchangeIKEAuth, true, []need{idr, authP}, []need{cert, cp}, (*sa).childlessAnswered, []phase{phaseEstablished, phaseAuthCheck, phaseInitSent, phaseInitKeys, phaseAuthSent}},
		{"authentication refused", "2.21.2", phaseAuthSent, wire.ExchangeIKEAuth, true, []need{nError}, nil, (*sa).authRefused, []phase{phaseInitSent, phaseInitKeys, phaseAuthSent}},
		{"authentication answered badly", "2.21.2", phaseAuthSent, wire.ExchangeIKEAuth, true, nil, nil, (*sa).authNonsense, []phase{phaseInitSent, phaseInitKeys, phaseAuthSent}},

		{"peer's packet of EAP", "2.16", phaseEAP, wire.ExchangeIKEAuth, false, []need{eapP}, nil, (*sa).eapReceived, []phase{phaseEAP, phaseEAPAuth, phaseClosed}},
		{"peer leaves EAP", "2.21.2", phaseEAP, wire.ExchangeInformational, false, []need{n(wire.NotifyAuthenticationFailed)}, nil, (*sa).eapLeft, []phase{phaseClosed}},
		{"peer proves that EAP was its own", "2.16", phaseEAPAuth, wire.ExchangeIKEAuth, false, []need{authP}, nil, (*sa).eapAuthenticated, []phase{phaseEstablished, phaseClosed}},
		{"EAP goes on, or ends", "2.16", phaseEAP, wire.ExchangeIKEAuth, true, []need{eapP}, nil, (*sa).eapAsked, []phase{phaseEAP, phaseEAPAuth, phaseClosed}},
		{"EAP refused", "2.16", phaseEAP, wire.ExchangeIKEAuth, true, []need{nError}, nil, (*sa).eapRefused, []phase{phaseClosed}},
		{"peer proves that EAP was with it", "2.16", phaseEAPAuth, wire.ExchangeIKEAuth, true, []need{authP, sa1, tsi, tsr}, []need{cp}, (*sa).eapAnswered, []phase{phaseEstablished, phaseClosed}},
		{"peer proves that EAP was with it, no child", "2.16", phaseEAPAuth, wire.ExchangeIKEAuth, true, []need{authP, nError}, []need{cp}, (*sa).eapAnswered, []phase{phaseEstablished, phaseClosed}},
		{"authentication after EAP refused", "2.16", phaseEAPAuth, wire.ExchangeIKEAuth, true, []need{nError}, nil, (*sa).eapRefused, []phase{phaseClosed}},

		{"peer rekeys a child", "1.3.3", phaseEstablished, wire.ExchangeCreateChildSA, false, []need{n(wire.NotifyRekeySA), sa1, nonce, tsi, tsr}, []need{ke}, (*sa).childRekeyRequested, []phase{phaseEstablished}},
		{"peer opens a child", "1.3.1", phaseEstablished, wire.ExchangeCreateChildSA, false, []need{sa1, nonce, tsi, tsr}, []need{ke}, (*sa).childRequested, []phase{phaseEstablished}},
		{"peer rekeys the IKE SA", "1.3.2", phaseEstablished, wire.ExchangeCreateChildSA, false, []need{sa1, nonce, ke}, nil, (*sa).ikeRekeyRequested, []phase{phaseEstablished}},
		{"malformed CREATE_CHILD_SA", "2.21.3", phaseEstablished, wire.ExchangeCreateChildSA, false, nil, nil, (*sa).badRequest, []phase{phaseClosed}},
		{"our CREATE_CHILD_SA answered", "1.3", phaseEstablished, wire.ExchangeCreateChildSA, true, nil, []need{sa1, nonce, ke, tsi, tsr}, (*sa).taskAnswered, []phase{phaseEstablished, phaseDeleting, phaseClosed}},
		{"peer goes on with a key exchange", "RFC 9370, 2.2.4", phaseEstablished, wire.ExchangeIKEFollowupKE, false, []need{ke, n(wire.NotifyAdditionalKeyExchange)}, nil, (*sa).followUpRequested, []phase{phaseEstablished}},
		{"our IKE_FOLLOWUP_KE answered", "RFC 9370, 2.2.4", phaseEstablished, wire.ExchangeIKEFollowupKE, true, nil, []need{ke}, (*sa).taskAnswered, []phase{phaseEstablished, phaseDeleting}},

		{"peer deletes", "1.4.1", phaseEstablished, wire.ExchangeInformational, false, []need{del}, []need{cp}, (*sa).deleteRequested, []phase{phaseEstablished, phaseDraining}},
		{"peer moves", "1.4; RFC 4555, section 3.5", phaseEstablished, wire.ExchangeInformational, false, []need{n(wire.NotifyUpdateSAAddresses)}, nil, (*sa).peerMoves, []phase{phaseEstablished}},
		{"peer informs or asks whether we live", "1.4", phaseEstablished, wire.ExchangeInformational, false, nil, []need{cp}, (*sa).informed, []phase{phaseEstablished, phaseClosed}},
		{"our INFORMATIONAL answered", "1.4", phaseEstablished, wire.ExchangeInformational, true, nil, []need{del, cp}, (*sa).taskAnswered, []phase{phaseEstablished, phaseDeleting, phaseClosed}},

		{"peer deletes what we delete", "1.4.1", phaseDeleting, wire.ExchangeInformational, false, nil, []need{del}, (*sa).informedWhileDeleting, []phase{phaseDeleting, phaseDraining}},
		{"peer asks while we delete", "2.25.2", phaseDeleting, wire.ExchangeCreateChildSA, false, nil, nil, (*sa).temporaryFailure, []phase{phaseDeleting}},
		{"peer goes on while we delete", "2.25.2", phaseDeleting, wire.ExchangeIKEFollowupKE, false, nil, nil, (*sa).temporaryFailure, []phase{phaseDeleting}},
		{"our delete answered", "1.4.1", phaseDeleting, wire.ExchangeInformational, true, nil, []need{del}, (*sa).deleteAnswered, []phase{phaseDraining, phaseClosed}},
	}
}

// dispatch takes the first row that fits. A request that fits none is refused; a response that fits none is dropped in
// IKE_SA_INIT, which anybody can forge, and a fault of the peer elsewhere.
func (s *sa) dispatch(m *message, response bool) {
	if t := twice(m); t != 0 {
		if m.Exchange == wire.ExchangeIKESAInit {
			s.drops.malformed++
			return
		}
		s.badMessage(response, fmt.Errorf("%s appears twice in %s", t, m.Exchange))
		return
	}
	if err := s.skipsKeyExchange(m); err != nil {
		s.badMessage(response, err)
		return
	}
	for i := range table {
		r := &table[i]
		if r.from != s.phase || r.exchange != m.Exchange || r.response != response {
			continue
		}
		if slices.ContainsFunc(r.required, func(x need) bool { return !x.in(m) }) {
			continue
		}
		s.proto.Taken[r.name]++
		if s.proto.Observe != nil {
			s.proto.Observe(r.name)
		}
		r.action(s, m)
		s.arrow(r.name, s.phase, slices.Contains(r.to, s.phase))
		s.told = true
		return
	}
	if m.Exchange == wire.ExchangeIKESAInit {
		s.drops.malformed++
		return
	}
	s.badMessage(response, fmt.Errorf("%s does not fit the state %s", m.Exchange, s.phase))
}

func (s *sa) arrow(from string, to phase, allowed bool) {
	name := from + " -> " + to.String()
	s.proto.Arrows[name]++
	if !allowed {
		s.proto.Strayed[name]++
	}
}

// moves checks a transition that no row made.
func (s *sa) moves(from phase) {
	if s.told || s.phase == from {
		return
	}
	s.arrow(from.String(), s.phase, slices.ContainsFunc(own, func(o ownArrow) bool { return o.from == from && slices.Contains(o.to, s.phase) }))
}

// twice names a payload that stands more than once and may not.
func twice(m *message) wire.PayloadType {
	var seen [256]bool
	for _, q := range m.payloads {
		t := q.PayloadType()
		switch t {
		case wire.PayloadNotify, wire.PayloadVendorID, wire.PayloadCERT, wire.PayloadCERTREQ, wire.PayloadDelete, wire.PayloadCP:
			continue
		}
		if _, unknown := q.(*wire.Unknown); unknown {
			continue
		}
		if seen[t] {
			return t
		}
		seen[t] = true
	}
	return 0
}

// badMessage answers an authenticated message that makes no sense, and ends the SA (section 2.21.3).
func (s *sa) badMessage(response bool, err error) {
	if !response {
		s.refuse(wire.NotifyInvalidSyntax, nil)
	}
	s.warn("an authenticated peer sent nonsense", err)
	s.giveUp(err)
}

// giveUp ends the SA, or as an initiator that has not authenticated its peer the branch.
func (s *sa) giveUp(err error) {
	if s.phase == phaseAuthSent {
		s.spoiled(err)
		return
	}
	s.fail(err, ike.ClosedFailed)
}

func (s *sa) badRequest(m *message) {
	s.badMessage(false, fmt.Errorf("%s lacks payloads it must have: it has %s", m.Exchange, payloadNames(m)))
}

func (s *sa) taskAnswered(m *message) {
	if s.doing == nil {
		s.drops.window++
		return
	}
	s.doing.response(s, m)
}

func payloadNames(m *message) string {
	var names []string
	for _, q := range m.payloads {
		if no, ok := q.(*wire.Notify); ok {
			names = append(names, fmt.Sprintf("N(%s)", no.Type))
		} else {
			names = append(names, q.PayloadType().String())
		}
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, ", ")
}

// Picture draws the table, one line per row.
func Picture() string {
	var b strings.Builder
	for _, r := range table {
		dir := "request "
		if r.response {
			dir = "response"
		}
		var req, opt []string
		for _, x := range r.required {
			req = append(req, x.String())
		}
		for _, x := range r.optional {
			opt = append(opt, "["+x.String()+"]")
		}
		var to []string
		for _, q := range r.to {
			to = append(to, q.String())
		}
		fmt.Fprintf(&b, "%-13s %-16s %s HDR, %s -> %s  %q (%s)\n", r.from, r.exchange, dir, strings.Join(append(req, opt...), ", "), strings.Join(to, " | "), r.name, r.where())
	}
	for _, o := range own {
		var to []string
		for _, q := range o.to {
			to = append(to, q.String())
		}
		fmt.Fprintf(&b, "%-13s %-16s -> %s  %q\n", o.from, "-", strings.Join(to, " | "), o.why)
	}
	return b.String()
}
