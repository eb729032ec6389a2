package v2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"coati/ike"
	"coati/ike/keys"
	"coati/ike/wire"
	"coati/policy"
)

// Additional key exchanges before the IKE SA is established (RFC 9370, section 2.2.2), each in an IKE_INTERMEDIATE exchange
// (RFC 9242) between IKE_SA_INIT and IKE_AUTH:
//
//	HDR, SK {KEi(n)}  -->
//	                  <--  HDR, SK {KEr(n)}
//
// Each is protected by the keys before it and makes new ones: SKEYSEED(n) = prf(SK_d(n-1), SK(n) | Ni | Nr). What was said
// there is covered by AUTH, through IntAuth (RFC 9242, section 3.3.2).

// additional is how far what is added to the keys of IKE_SA_INIT has come.
type additional struct {
	todo   []uint16 // methods still to come
	begun  *keys.Initiator
	done   uint32
	authI  []byte // IntAuth_iN and IntAuth_rN so far
	authR  []byte
	broken error // IntAuth could not be made
	ppk    usePPK
	// childless: we ask for no child in IKE_AUTH.
	childless bool
}

// wipe forgets a private value.
func (a *additional) wipe() {
	if a.begun != nil {
		a.begun.Wipe()
	}
	a.ppk.wipe()
	*a = additional{}
}

// intermediateNotify announces IKE_INTERMEDIATE where a proposal needs it.
func intermediateNotify(ps []policy.Proposal) []wire.Payload {
	if !followed(ps) {
		return nil
	}
	return []wire.Payload{notify(wire.NotifyIntermediateExchangeSupported, nil)}
}

// lacksIntermediate says that what was chosen needs IKE_INTERMEDIATE, which the peer's first message did not announce.
func lacksIntermediate(chosen policy.Proposal, m *message) error {
	if len(chosen.AdditionalKeyExchanges()) > 0 && m.notify(wire.NotifyIntermediateExchangeSupported) == nil {
		return fmt.Errorf("%s needs the exchange IKE_INTERMEDIATE, which the peer does not announce (RFC 9370, section 2.2.1)", chosen)
	}
	return nil
}

// authenticate is what the initiator does once the keys of IKE_SA_INIT are there.
func (s *sa) authenticate() {
	a := &s.start.additional
	if len(a.todo) == 0 {
		s.sendAuth()
		return
	}
	begun, err := keys.NewInitiator(a.todo[0], s.env.Rand)
	if err != nil {
		s.spoiled(err)
		return
	}
	a.begun = begun
	s.compute(func() (any, error) { return begun.Offer() }, func(ev ike.JobDone) {
		if ev.Err != nil {
			s.spoiled(ev.Err)
			return
		}
		s.phase = phaseAuthSent
		payload := &wire.KE{Method: begun.Method(), Data: ev.Result.([]byte)}
		s.coverOwn(s.nextID, 0, payload)
		s.sendRequest(wire.ExchangeIKEIntermediate, 0, payload)
	})
}

// keyExchangeAdded has the shared secret made of the responder's part.
func (s *sa) keyExchangeAdded(m *message) {
	a := &s.start.additional
	kr, _ := wire.Find[*wire.KE](m.payloads, wire.PayloadKE)
	if a.begun == nil || kr.Method != a.begun.Method() {
		s.spoiled(fmt.Errorf("the peer answered a key exchange with another one, %s", policy.Transform{Type: policy.TransformKE, ID: kr.Method}))
		return
	}
	s.cover(m)
	s.phase = phaseInitKeys
	begun := a.begun
	s.compute(func() (any, error) { return begun.Finish(kr.Data) }, func(ev ike.JobDone) {
		begun.Wipe()
		if ev.Err != nil {
			s.spoiled(ev.Err)
			return
		}
		a.begun = nil
		if err := s.addKeys(ev.Result.(policy.Secret)); err != nil {
			s.spoiled(err)
			return
		}
		s.authenticate()
	})
}

func (s *sa) keyExchangeRefused(m *message) {
	err := fmt.Errorf("the answer to an additional key exchange lacks it: it has %s", payloadNames(m))
	if no := m.errorNotify(); no != nil {
		err = fmt.Errorf("the peer refuses an additional key exchange: %s", no.Type)
	}
	s.spoiled(err)
}

// keyExchangeRequested does the responder's part. The answer still has the keys that the request had.
func (s *sa) keyExchangeRequested(m *message) {
	a := &s.start.additional
	ki, _ := wire.Find[*wire.KE](m.payloads, wire.PayloadKE)
	if len(a.todo) == 0 || ki.Method != a.todo[0] {
		s.badMessage(false, fmt.Errorf("key exchange %s is not the one agreed on", policy.Transform{Type: policy.TransformKE, ID: ki.Method}))
		return
	}
	r, err := keys.NewResponder(ki.Method, s.env.Rand)
	if err != nil {
		s.fail(err, ike.ClosedFailed)
		return
	}
	s.cover(m)
	s.serving = &served{job: s.env.NextJob(), then: func(ev ike.JobDone) {
		if ev.Err != nil {
			s.badMessage(false, ev.Err)
			return
		}
		ka := ev.Result.(keyAnswer)
		payload := &wire.KE{Method: ki.Method, Data: ka.answer}
		s.coverOwn(s.cache.id, wire.FlagResponse, payload)
		s.respond(0, payload)
		if s.phase == phaseInitAnswered {
			if err := s.addKeys(ka.shared); err != nil {
				s.fail(err, ike.ClosedFailed)
			}
		}
	}}
	s.out.Jobs = append(s.out.Jobs, ike.Job{ID: s.serving.job, Run: func() (any, error) {
		defer r.Wipe()
		answer, shared, err := r.Answer(ki.Data)
		return keyAnswer{answer, shared}, err
	}})
}

// addKeys replaces the keys of the IKE SA by those of the next generation (RFC 9370, section 2.2.2).
func (s *sa) addKeys(shared policy.Secret) error {
	defer shared.Wipe()
	a := &s.start.additional
	if a.broken != nil {
		return a.broken
	}
	a.todo = a.todo[1:]
	a.done++
	old := s.keys
	defer old.Wipe()
	return s.makeKeys(keys.RekeySKEYSEED(s.prf, old.D, shared, s.ni, s.nr))
}

// skipsKeyExchange says that a peer authenticates before all key exchanges agreed on are done.
func (s *sa) skipsKeyExchange(m *message) error {
	if s.phase == phaseInitAnswered && m.Exchange == wire.ExchangeIKEAuth && len(s.start.additional.todo) > 0 && s.proto.mutant != noAdditional {
		return errors.New("the peer leaves out a key exchange that was agreed on")
	}
	return nil
}

// cover adds a message of the peer's to IntAuth; coverOwn one of ours. A message is covered whole and unencrypted, as if it
// had not been sent in fragments: its octets up to the header of the Encrypted payload, with lengths that count neither IV,
// padding nor checksum, and the payloads inside (RFC 9242, section 3.3.2).
func (s *sa) cover(m *message) {
	prefix, err := m.prefix()
	s.coverOctets(!s.initiator, prefix, m.content.plain, err)
}

func (s *sa) coverOwn(id uint32, flags wire.Flags, payloads ...wire.Payload) {
	first, plain, err := wire.AppendPayloads(nil, payloads)
	var prefix []byte
	if err == nil {
		prefix, err = wire.AppendEncryptedHeader(nil, s.header(wire.ExchangeIKEIntermediate, flags, id), first, len(plain))
	}
	s.coverOctets(s.initiator, prefix, plain, err)
}

func (s *sa) coverOctets(byInitiator bool, prefix, plain []byte, err error) {
	a := &s.start.additional
	a.broken = errors.Join(a.broken, err)
	if byInitiator {
		a.authI = s.prf.Sum(s.keys.Pi.Reveal(), a.authI, prefix, plain)
	} else {
		a.authR = s.prf.Sum(s.keys.Pr.Reveal(), a.authR, prefix, plain)
	}
}

// prefix is what of a peer's message stands before the payloads inside, with adjusted lengths.
func (m *message) prefix() ([]byte, error) {
	w, err := wire.Parse(m.raw)
	if err != nil || w.SK == nil {
		return wire.AppendEncryptedHeader(nil, m.Header, m.content.first, len(m.content.plain))
	}
	p := slices.Clone(m.raw[:len(m.raw)-len(w.SK.Body)])
	binary.BigEndian.PutUint32(p[wire.HeaderLen-4:], uint32(len(p)+len(m.content.plain)))
	binary.BigEndian.PutUint16(p[len(p)-2:], uint16(wire.PayloadHeaderLen+len(m.content.plain)))
	return p, nil
}

// intAuth is what AUTH covers of all that (RFC 9242, section 3.3.2); nothing where there was nothing. The last part is
// the message ID of the first IKE_AUTH.
func (s *sa) intAuth() []byte {
	a := &s.start.additional
	if a.done == 0 || s.proto.mutant == noIntAuth {
		return nil
	}
	return binary.BigEndian.AppendUint32(slices.Concat(a.authI, a.authR), 1+a.done)
}
