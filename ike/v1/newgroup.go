package v1

import (
	"errors"

	"coati/ike/keys"
	"coati/ike/wire"
)

// newGroup refuses new group mode, section 5.6: a group that a peer makes up could be one that only it can break.
func (s *sa) newGroup(m *message) {
	if s.state != stateEstablished || m.Sealed == nil || m.MessageID == 0 || s.seen[m.MessageID] || s.exchanges[m.MessageID] != nil || len(s.seen) >= maxSeen {
		s.drops.unfit++
		return
	}
	if !s.openHashed(m, s.cipher.PhaseTwoIV(s.p1.iv, m.MessageID), func(b []byte) []byte { return keys.V1Hash1(s.prf, s.keys.A, m.MessageID, b) }) {
		return
	}
	s.seen[m.MessageID] = true
	s.authentic(m)
	s.warn("new group mode is refused", errors.New("the peer wants to agree on a group of its own"))
	s.inform(s.ourNotify(wire.NotifyV1AttributesNotSupported, nil))
}
