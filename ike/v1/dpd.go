package v1

import (
	"encoding/binary"
	"fmt"
	"time"

	"coati/ike"
	"coati/ike/wire"
)

// Is the peer alive: RFC 3706. Each question has a number, one more than the one before, and the answer repeats it.

type dpdState struct {
	number uint32 // of the latest question
	first  uint32 // of the latest series
	asked  int    // without an answer of any kind
	next   time.Time
	gap    time.Duration
}

// dpdAt is when the peer is to be asked, or asked again.
func (s *sa) dpdAt() time.Time {
	if s.state != stateEstablished || s != s.peer.home() || s.tunnel.DPD <= 0 || !s.peerDPD {
		return zeroTime
	}
	if s.dpd.asked > 0 {
		return s.dpd.next
	}
	return s.lastReceived.Add(s.tunnel.DPD)
}

// liveness asks a peer that has been silent, on IKE and on all its pairs.
func (s *sa) liveness() {
	if !due(s.dpdAt(), s.now) {
		return
	}
	for _, c := range s.peer.children {
		if st, err := s.env.SAState(c.in); err == nil && st.LastAuthenticated.After(s.lastReceived) {
			s.lastReceived, s.dpd.asked = st.LastAuthenticated, 0
		}
	}
	if !due(s.dpdAt(), s.now) {
		return
	}
	d := &s.dpd
	if d.asked > s.env.Limits.RetransmitTries {
		s.end(ike.ClosedDead, fmt.Errorf("no answer from %s to %d questions whether it lives", s.path.Remote, d.asked))
		return
	}
	s.count()
	if d.asked == 0 {
		d.first, d.gap = d.number, s.env.Limits.RetransmitFirst
	}
	d.asked++
	s.repeatProof()
	s.inform(s.ourNotify(wire.NotifyV1RUThere, binary.BigEndian.AppendUint32(nil, d.number)))
	d.next = s.now.Add(d.gap + s.env.Jitter(d.gap/10))
	d.gap = time.Duration(float64(d.gap) * s.env.Limits.RetransmitFactor)
}

// count numbers the next question.
func (s *sa) count() {
	if s.dpd.number == 0 {
		s.dpd.number = binary.BigEndian.Uint32(s.env.Bytes(4)) >> 1 // section 7: room to count
	}
	s.dpd.number++
}

// aboutUs checks that a question or answer names this SA and has a number.
func (s *sa) aboutUs(no *wire.V1Notify) bool {
	return string(no.SPI) == string(s.cookies()) && len(no.Data) == 4
}

// answerLife answers the peer's question.
func (s *sa) answerLife(no *wire.V1Notify) {
	if s.aboutUs(no) {
		s.inform(s.ourNotify(wire.NotifyV1RUThereAck, no.Data))
	}
}

// lives: any authentic message shows that the peer lives, so an answer needs no more than to be one.
func (s *sa) lives(no *wire.V1Notify) {
	if !s.aboutUs(no) {
		s.drops.unfit++
		return
	}
	for _, c := range s.peer.children {
		if c.pause.number != 0 && c.pause.number == binary.BigEndian.Uint32(no.Data) {
			s.release(c)
		}
	}
}
