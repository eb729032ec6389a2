package v1

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"coati/ike"
	"coati/ike/keys"
	"coati/ike/wire"
	"coati/policy"
)

// Informational exchanges, section 5.7: one message, not answered, with a message ID and an IV chain of its own. Nothing that is not
// authenticated is believed; of an open negotiation it explains a missing answer.

// farewell is a Delete that is said again: nobody answers it, and without it the peer sends to nowhere.
type farewell struct {
	payload wire.Payload
	at      time.Time
	left    int
}

const farewells = 2 // repetitions

// inform sends an authenticated message of the exchange.
func (s *sa) inform(payloads ...wire.Payload) {
	if s.cipher == nil {
		return
	}
	id := s.newID()
	b, _, err := s.sealHashed(wire.ExchangeV1Informational, id, s.cipher.PhaseTwoIV(s.p1.iv, id), func(rest []byte) []byte { return keys.V1Hash1(s.prf, s.keys.A, id, rest) }, payloads...)
	if err != nil {
		s.warn("a message cannot be sent", err)
		return
	}
	s.out.Sends = append(s.out.Sends, ike.Send{Path: s.path, Bytes: b})
}

// sayDelete tells the peer that SAs of ours with these SPIs are gone, and tells it again later.
func (s *sa) sayDelete(protocol wire.ProtocolID, spi []byte) {
	d := &wire.V1Delete{DOI: wire.DOIIPsec, Protocol: protocol, Size: uint8(len(spi)), SPIs: [][]byte{spi}}
	f := farewell{d, s.now.Add(s.env.Limits.RetransmitFirst), farewells}
	if protocol == wire.ProtocolV1ISAKMP {
		s.inform(d)
		s.farewells = append(s.farewells, f)
		return
	}
	s.speak(func(h *sa) { h.inform(d) })
	s.peer.farewells = append(s.peer.farewells, f)
}

func (s *sa) sayFarewells() {
	s.farewells = s.again(s.farewells, func(p wire.Payload) { s.inform(p) })
	s.peer.farewells = s.again(s.peer.farewells, func(p wire.Payload) { s.speak(func(h *sa) { h.inform(p) }) })
}

func (s *sa) again(all []farewell, say func(wire.Payload)) []farewell {
	keep := all[:0]
	for _, f := range all {
		if due(f.at, s.now) {
			say(f.payload)
			f.left--
			f.at = s.now.Add(2 * s.env.Limits.RetransmitFirst)
		}
		if f.left > 0 {
			keep = append(keep, f)
		}
	}
	return keep
}

func (s *sa) cookies() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, s.cookieI), s.cookieR)
}

// ourNotify is a notification about this ISAKMP SA.
func (s *sa) ourNotify(t wire.V1NotifyType, data []byte) *wire.V1Notify {
	return &wire.V1Notify{DOI: wire.DOIIPsec, Protocol: wire.ProtocolV1ISAKMP, SPI: s.cookies(), Type: t, Data: data}
}

// informational takes a message of the exchange.
func (s *sa) informational(m *message) {
	if m.Sealed == nil {
		s.inClear(m)
		return
	}
	if s.state != stateEstablished && s.state != stateAuthorizing || m.MessageID == 0 || s.seen[m.MessageID] || !s.mayCommit(m.MessageID) || len(s.seen) >= maxSeen {
		s.drops.unfit++
		return
	}
	if !s.openHashed(m, s.cipher.PhaseTwoIV(s.p1.iv, m.MessageID), func(b []byte) []byte { return keys.V1Hash1(s.prf, s.keys.A, m.MessageID, b) }) {
		return
	}
	s.seen[m.MessageID] = true
	if len(s.seen) == maxSeen-1<<12 {
		s.renew()
	}
	s.authentic(m)
	for _, q := range m.Payloads {
		if s.state != stateEstablished && s.state != stateAuthorizing {
			return
		}
		switch q := q.(type) {
		case *wire.V1Delete:
			s.deleted(q)
		case *wire.V1Notify:
			s.notified(q)
		}
	}
	s.advance()
}

// inClear notes what anybody may have written.
func (s *sa) inClear(m *message) {
	no, ok := m.find(wire.PayloadV1Notify).(*wire.V1Notify)
	if !ok || !no.Type.IsError() || !s.p1.awaits() {
		s.drops.unauthenticated++
		return
	}
	switch {
	case no.Type == wire.NotifyV1NoProposalChosen && (s.p1.step == stepSASent || s.p1.step == stepAggressiveSent):
		s.noteRefusal(fmt.Errorf("the peer accepts none of our IKE proposals (%s): compare ike with the peer's configuration", proposalList(s.start.suites)))
	case s.p1.step == stepAuthSent:
		s.noteRefusal(fmt.Errorf("the peer %s refuses our proof (%s): compare psk-file and the identities with its configuration", s.path.Remote.Addr(), no.Type))
	default:
		s.noteRefusal(fmt.Errorf("the peer refuses to go on: %s", no.Type))
	}
}

func proposalList(ps []policy.Proposal) string {
	out := ""
	for i, p := range ps {
		if i == 4 {
			return fmt.Sprintf("%s and %d more", out, len(ps)-i)
		}
		if i > 0 {
			out += ", "
		}
		out += p.String()
	}
	return out
}

// deleted takes down what the peer names.
func (s *sa) deleted(d *wire.V1Delete) {
	switch d.Protocol {
	case wire.ProtocolV1ISAKMP:
		if slices.ContainsFunc(d.SPIs, func(spi []byte) bool { return slices.Equal(spi, s.cookies()) }) {
			s.finish(ike.ClosedByPeer, nil)
		}
	case wire.ProtocolESP:
		for _, spi := range d.SPIs {
			if c := s.byOutSPI(spi); c != nil {
				s.removeChild(c, ike.ClosedByPeer, false)
			}
		}
	}
}

// notified acts on a notification.
func (s *sa) notified(no *wire.V1Notify) {
	switch {
	case no.Type == wire.NotifyV1RUThere:
		s.answerLife(no)
	case no.Type == wire.NotifyV1RUThereAck:
		s.lives(no)
	case no.Type == wire.NotifyV1Connected:
		for _, c := range s.peer.children {
			s.release(c)
		}
	case no.Type == wire.NotifyV1InitialContact && s.state == stateAuthorizing:
		s.authorizing.contact = true
	case no.Type == wire.NotifyV1InitialContact:
		// Some say it here instead of in phase 1, and only then; the engine counts it for an SA that has just begun.
		if !s.initiator && s.now.Sub(s.establishedAt) < s.env.Limits.DeleteGrace {
			s.begunAnew()
		}
	case no.Type.IsError() && s.doing != nil && s.doing.step == stepQuickSent:
		c := s.doing.pair.child
		err := fmt.Errorf("the peer refuses the child: %s", no.Type)
		switch no.Type {
		case wire.NotifyV1NoProposalChosen:
			err = fmt.Errorf("the peer accepts none of our ESP proposals (%s): compare esp with its configuration", proposalList(s.doing.pair.suites))
		case wire.NotifyV1InvalidIDInformation:
			err = fmt.Errorf("the peer does not accept %s <-> %s: compare local-ts and remote-ts with its configuration", c.local, c.remote)
		}
		s.pairFailed(s.doing, err)
	case no.Type.IsError():
		s.warn("notification", fmt.Errorf("the peer reports %s", no.Type))
	}
}

// begunAnew leaves to the other ISAKMP SAs with the peer what it has forgotten, and has the engine close them.
func (s *sa) begunAnew() {
	old := s.peer
	if len(old.sas) <= 1 || s.tunnel.Unique == policy.UniqueNever {
		return
	}
	fresh := &peer{sas: []*sa{s}}
	mine := func(c *child) bool { return !c.since.Before(s.establishedAt) }
	for _, c := range old.children {
		if mine(c) {
			fresh.children = append(fresh.children, c)
		}
	}
	old.children = slices.DeleteFunc(old.children, mine)
	old.sas = slices.DeleteFunc(old.sas, func(x *sa) bool { return x == s })
	s.peer, s.proto.peers[s.peerKey()] = fresh, fresh
	if ids := old.ids(); len(ids) > 0 {
		s.out.Signal(ike.Signal{Kind: ike.SignalMoved, Successor: old.home(), SAs: ids})
	}
	s.out.Signal(ike.Signal{Kind: ike.SignalEstablished, InitialContact: true})
}
