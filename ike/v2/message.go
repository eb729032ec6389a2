package v2

import (
	"crypto/sha256"
	"errors"
	"slices"

	"coati/ike"
	"coati/ike/keys"
	"coati/ike/wire"
	"coati/policy"
)

// message is one that may be believed as far as its exchange allows: IKE_SA_INIT's are in clear, all others were
// authenticated and decrypted.
type message struct {
	wire.Header
	payloads []wire.Payload
	raw      []byte // of fragments: the last that came
	path     policy.Path
	content  content // what was encrypted, whether it came in fragments or not
}

func (m *message) notify(t wire.NotifyType) *wire.Notify { return wire.FindNotify(m.payloads, t) }

// errorNotify is the first error notification; nil if there is none.
func (m *message) errorNotify() *wire.Notify {
	for _, p := range m.payloads {
		if n, ok := p.(*wire.Notify); ok && n.Type.IsError() {
			return n
		}
	}
	return nil
}

// header of a message we send.
func (s *sa) header(ex wire.ExchangeType, flags wire.Flags, id uint32) wire.Header {
	if s.initiator {
		flags |= wire.FlagInitiator
	}
	return wire.Header{InitiatorSPI: s.spiI, ResponderSPI: s.spiR, Version: wire.Version2, Exchange: ex, Flags: flags, MessageID: id}
}

// datagram takes a message of this SA. What is malformed in clear, has other SPIs, or does not authenticate ends here,
// counted and unanswered.
func (s *sa) datagram(d ike.Datagram) {
	raw := slices.Clone(d.Bytes)
	w, err := wire.Parse(raw)
	if err != nil {
		s.drops.malformed++
		return
	}
	s.recall(&w.Header)
	if !s.mine(&w.Header) {
		s.drops.foreign++
		return
	}
	m := &message{Header: w.Header, payloads: w.Payloads, raw: raw, path: d.Path}
	response := w.Flags&wire.FlagResponse != 0
	if w.Exchange == wire.ExchangeIKESAInit {
		s.clear(m, w, response)
		return
	}
	if s.inCipher == nil || w.SK == nil && w.SKF == nil {
		s.drops.unauthenticated++
		return
	}
	if response {
		if s.pending == nil || s.pending.id != w.MessageID || s.pending.exchange != w.Exchange {
			s.drops.window++
			return
		}
	} else {
		if s.initiator && s.phase < phaseEstablished {
			// The peer has authenticated us, its answer is late or lost, and it goes on: it will ask again.
			s.drops.window++
			return
		}
		if s.repeated(w, d.Path) {
			return
		}
		if w.MessageID != s.expectID || s.exhausted || s.serving != nil {
			s.drops.window++
			return
		}
	}
	inner, err := s.unseal(w, d.Path, response)
	if inner == nil && err == nil {
		return
	}
	if err == nil {
		m.content, m.path = *inner, inner.path
		m.payloads, err = wire.ParsePayloads(inner.first, inner.plain)
	}
	if response && err == nil && s.serving != nil {
		s.held = m
		return
	}
	s.authentic(m, response, err)
}

// unseal authenticates and decrypts. It returns nothing for what is not authentic, and for a fragment of what is not there yet.
func (s *sa) unseal(w *wire.Message, from policy.Path, response bool) (*content, error) {
	if w.SKF != nil {
		return s.collect(w, from, response)
	}
	plain, err := s.inCipher.Open(w.Raw, len(w.Raw)-len(w.SK.Body))
	if errors.Is(err, keys.ErrUnauthenticated) {
		s.drops.unauthenticated++
		return nil, nil
	}
	return &content{w.SK.First, plain, from}, err
}

// mine checks both SPIs and the flag that says who began (section 3.1).
func (s *sa) mine(h *wire.Header) bool {
	if (h.Flags&wire.FlagInitiator != 0) == s.initiator {
		return false
	}
	if s.initiator && (s.spiR == 0 || h.Exchange == wire.ExchangeIKESAInit && s.establishedAt.IsZero()) {
		return h.InitiatorSPI == s.spiI
	}
	if !s.initiator && h.Exchange == wire.ExchangeIKESAInit {
		return h.InitiatorSPI == s.spiI && h.ResponderSPI == 0
	}
	return h.InitiatorSPI == s.spiI && h.ResponderSPI == s.spiR
}

// clear handles IKE_SA_INIT, the only exchange that is not protected.
func (s *sa) clear(m *message, w *wire.Message, response bool) {
	if w.SK != nil || w.SKF != nil {
		s.drops.malformed++
		return
	}
	if !response {
		// A repeated first request; any other is not for this machine.
		if !s.initiator && !s.repeated(w, m.path) {
			s.drops.window++
		}
		return
	}
	if m.MessageID != 0 || s.start.current == nil {
		s.drops.window++
		return
	}
	if s.phase == phaseInitKeys || s.phase == phaseAuthSent || s.phase == phaseAuthCheck {
		s.rival(m)
		return
	}
	if s.phase != phaseInitSent || s.pending == nil || sa1.in(m) && s.start.seen[sha256.Sum256(m.raw)] {
		s.drops.window++
		return
	}
	s.dispatch(m, response)
}

// authentic handles a message that the peer made. A fault in it is the peer's: it is answered, and the SA ends
// (section 2.21.3).
func (s *sa) authentic(m *message, response bool, err error) {
	s.lastReceived = s.now
	s.moved(m)
	if response {
		s.pending = nil
	} else {
		s.answerPath = m.path
		s.answerPath.Encap = s.path.Encap
		s.remember(m)
	}
	if err != nil {
		s.badMessage(response, err)
		return
	}
	var critical wire.UnsupportedCritical
	if errors.As(wire.CheckCritical(m.payloads), &critical) {
		if !response {
			s.refuse(wire.NotifyUnsupportedCriticalPayload, []byte{byte(critical)})
			if s.phase < phaseEstablished {
				s.giveUp(critical)
			}
			return
		}
		s.giveUp(critical)
		return
	}
	s.dispatch(m, response)
}
