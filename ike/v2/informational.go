package v2

import (
	"fmt"
	"slices"
	"time"

	"coati/ike"
	"coati/ike/wire"
	"coati/policy"
)

// INFORMATIONAL, RFC 7296, section 1.4: deletes, notifications, and the empty request that asks whether a peer lives.

// deleteTask deletes one child, or only an SPI the peer believes in.
type deleteTask struct {
	child  *child
	spi    policy.SPI
	reason ike.CloseReason
}

func (t *deleteTask) name() string { return "deleting a child" }

func (t *deleteTask) begin(s *sa) bool {
	if t.child != nil {
		if !slices.Contains(s.children, t.child) {
			return false
		}
		t.spi = t.child.inSPI
	}
	s.sendRequest(wire.ExchangeInformational, 0, &wire.Delete{Protocol: wire.ProtocolESP, SPIs: []uint32{uint32(t.spi)}})
	return true
}

func (t *deleteTask) job(*sa, ike.JobDone) {}

func (t *deleteTask) response(s *sa, _ *message) {
	if t.child != nil {
		s.removeChild(t.child, t.reason)
	}
	s.finish()
}

// deleteIKETask deletes the IKE SA with all its children (section 1.4.1).
type deleteIKETask struct{}

func (t *deleteIKETask) name() string { return "closing" }

func (t *deleteIKETask) begin(s *sa) bool {
	s.sendRequest(wire.ExchangeInformational, 0, &wire.Delete{Protocol: wire.ProtocolIKE})
	if s.phase == phaseEstablished {
		s.phase = phaseDeleting
	}
	return true
}

func (t *deleteIKETask) job(*sa, ike.JobDone)   {}
func (t *deleteIKETask) response(*sa, *message) {}

// livenessTask asks whether the peer lives (section 2.4).
type livenessTask struct{}

func (t *livenessTask) name() string { return "asking whether the peer lives" }

func (t *livenessTask) begin(s *sa) bool {
	if s.asksMapping() {
		s.sendRequest(wire.ExchangeInformational, 0, s.natPayloads()...)
		return true
	}
	s.sendRequest(wire.ExchangeInformational, 0)
	return true
}

func (t *livenessTask) job(*sa, ike.JobDone) {}

func (t *livenessTask) response(s *sa, m *message) {
	s.mapped(m)
	s.finish()
}

// livenessAt is when the peer has been silent for long enough to be asked.
func (s *sa) livenessAt() time.Time {
	if s.phase != phaseEstablished || s.tunnel.DPD <= 0 || s.pending != nil || s.doing != nil {
		return zeroTime
	}
	return s.lastReceived.Add(s.tunnel.DPD)
}

// liveness asks a peer that has been silent, on IKE and on all its children.
func (s *sa) liveness() {
	if !due(s.livenessAt(), s.now) {
		return
	}
	for _, c := range s.children {
		if st, err := s.env.SAState(c.in); err == nil && st.LastAuthenticated.After(s.lastReceived) {
			s.lastReceived = st.LastAuthenticated
		}
	}
	if due(s.livenessAt(), s.now) {
		s.enqueue(&livenessTask{})
	}
}

// deleteRequested deletes what the peer names, and answers with our halves of it (section 1.4.1).
func (s *sa) deleteRequested(m *message) {
	var gone []uint32
	for _, q := range m.payloads {
		d, ok := q.(*wire.Delete)
		if !ok {
			continue
		}
		if d.Protocol == wire.ProtocolIKE {
			s.answerDelete()
			s.deletedByPeer()
			return
		}
		for _, spi := range d.SPIs {
			c := s.byOutSPI(policy.SPI(spi))
			if d.Protocol != wire.ProtocolESP || c == nil {
				continue
			}
			// If our own delete of it is on its way, the peer's answer will be empty, and so is ours.
			if !s.deletingNow(c) {
				gone = append(gone, uint32(c.inSPI))
			}
			reason := ike.ClosedByPeer
			if s.replacing(c) != nil || c.state == childReplaced || s.twin(c) {
				reason = ike.ClosedReplaced
			}
			s.removeChild(c, reason)
		}
	}
	if gone == nil {
		s.respond(0)
		return
	}
	s.respond(0, &wire.Delete{Protocol: wire.ProtocolESP, SPIs: gone})
}

// twin says whether another pair of the same child carries on: this one lost a collision.
func (s *sa) twin(c *child) bool {
	return slices.ContainsFunc(s.children, func(x *child) bool {
		return x != c && x.name == c.name && x.state == childUp && slices.Equal(x.local, c.local) && slices.Equal(x.remote, c.remote)
	})
}

func (s *sa) deletingNow(c *child) bool {
	dt, ok := s.doing.(*deleteTask)
	return ok && dt.child == c && s.pending != nil
}

// answerDelete answers the peer's delete of the IKE SA. With the answer the peer may forget its inbound SAs. If it has another
// IKE SA with us it expects to lose nothing, and the answer leaves a little later than our last packet on this one.
func (s *sa) answerDelete() {
	rekeyed := s.successor != nil || s.rekey != nil && s.rekey.theirs != nil
	if rekeyed || len(s.children) == 0 || !s.env.PeerHas(s.tunnel.Name, s.remoteID, s) {
		s.respond(0)
		return
	}
	if s.prepare() {
		s.answerAt = s.now.Add(s.env.Limits.FlightTime)
	}
}

// answer sends the answer that waits, if one does.
func (s *sa) answer() {
	if !s.answerAt.IsZero() {
		s.answerAt = zeroTime
		s.sendAll(s.answerPath, s.cache.response, 0)
	}
}

// deletedByPeer ends the SA; after a rekey that the peer finished, its children live on.
func (s *sa) deletedByPeer() {
	if s.rekey != nil && s.rekey.theirs != nil && s.successor == nil {
		s.adopt(s.rekey.theirs)
	}
	if s.successor != nil || s.reason == ike.ClosedReplaced {
		s.drain(ike.ClosedReplaced)
		return
	}
	s.drain(ike.ClosedByPeer)
}

// informed answers a question for life, and notes notifications.
func (s *sa) informed(m *message) {
	s.respond(0, s.echo(m)...)
	s.peerAddresses(m)
	if s.began {
		s.authLifetime(m)
	}
	if no := m.errorNotify(); no != nil {
		err := fmt.Errorf("the peer reports %s", no.Type)
		if no.Type == wire.NotifyAuthenticationFailed {
			s.fail(fmt.Errorf("the peer %s refuses our identity %s or our pre-shared key: compare local-id and psk-file with its configuration", s.path.Remote.Addr(), s.localID), ike.ClosedFailed)
			return
		}
		s.warn("notification", err)
	}
}

func (s *sa) informedWhileDeleting(m *message) {
	s.respond(0)
	for _, q := range m.payloads {
		if d, ok := q.(*wire.Delete); ok && d.Protocol == wire.ProtocolIKE {
			s.drain(s.reason)
			return
		}
	}
}

func (s *sa) temporaryFailure(*message) { s.refuse(wire.NotifyTemporaryFailure, nil) }

func (s *sa) deleteAnswered(*message) {
	if s.reason == ike.ClosedByUs {
		s.end(s.reason, nil)
		return
	}
	s.drain(s.reason)
}
