package v2

import (
	"coati/ike/wire"
)

// An IKE SA without a first child, RFC 6023: a responder that knows this says CHILDLESS_IKEV2_SUPPORTED in IKE_SA_INIT, and an
// initiator may then leave out what asks for a child.
//
//	HDR, SK {IDi, [IDr,] AUTH}  -->
//	                            <--  HDR, SK {IDr, AUTH}
//
// Every child is then opened by CREATE_CHILD_SA, the first one too, with a key exchange of its own where esp has one.

// childlessNotify announces it in an answer of so many octets to a request, if the answer stays no larger.
func (s *sa) childlessNotify(answer []byte) []wire.Payload {
	const octets = wire.PayloadHeaderLen + 4
	if len(answer)+octets > len(s.start.request) {
		return nil
	}
	return []wire.Payload{notify(wire.NotifyChildlessIKEv2Supported, nil)}
}

// childlessRequested authenticates a peer that asks for no child.
func (s *sa) childlessRequested(m *message) {
	if sa1.in(m) || tsi.in(m) || tsr.in(m) {
		s.authIncomplete(m)
		return
	}
	s.authRequested(m)
}

// childlessAnswered takes an answer without a child, if we asked for none.
func (s *sa) childlessAnswered(m *message) {
	if !s.start.additional.childless || sa1.in(m) || tsi.in(m) || tsr.in(m) {
		s.authNonsense(m)
		return
	}
	s.authAnswered(m)
}

// openFirst opens the children that were wanted when the IKE SA began, of which there is none yet.
func (s *sa) openFirst() {
	w := s.wanted
	s.wanted = nil
	for _, name := range w {
		s.open(name, s.flow)
	}
}
