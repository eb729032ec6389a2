package v1

import (
	"errors"
	"fmt"

	"coati/ike"
	"coati/ike/keys"
	"coati/ike/wire"
	"coati/policy"
)

// Transaction exchanges: draft-dukes-ike-mode-cfg-02, section 3. Each is a question and its answer, or something that is set and
// acknowledged, with a message ID and an IV chain of its own:
//
//	HDR*, HASH, ATTR  -->
//	                  <--  HDR*, HASH, ATTR
//
// Between phase 1 and the first quick mode they carry XAUTH, which a server begins, and then mode config.

// transaction is one exchange's own state.
type transaction struct {
	identifier uint16
	then       func(*wire.V1Config)
}

// stage is what follows phase 1.
type stage uint8

const (
	stageNone   stage = iota
	stageUser         // XAUTH: a name and a password
	stageStatus       // server: the client is told what came of it
	stageConfig       // mode config
)

func (p stage) String() string {
	return [...]string{"none", "xauth", "xauth status", "mode config"}[p]
}

type authorizing struct {
	phase   stage
	contact bool // the peer has no other SA with us
	user    string
}

// authorize begins what follows phase 1; false: nothing does.
func (s *sa) authorize(contact bool) bool {
	client := s.tunnel.V1.XAuth == policy.XAuthClient
	server := s.tunnel.V1.XAuth == policy.XAuthServer
	s.authorizing = authorizing{contact: contact}
	switch {
	case client && s.initiator, server && !s.initiator:
		s.authorizing.phase = stageUser
	case s.wantsConfig():
		s.authorizing.phase = stageConfig
	default:
		return false
	}
	s.state, s.refusal = stateAuthorizing, nil
	s.halfOpenUntil = s.now.Add(2 * s.env.Limits.HalfOpenLife) // people type
	if s.unheard {
		// The server may wait for message 3, and we for the server.
		s.p1.gap = s.env.Limits.RetransmitFirst
		s.later(&s.p1)
	}
	switch {
	case s.authorizing.phase == stageConfig:
		s.beginConfig()
	case server:
		s.askUser()
	}
	return true
}

// authorized goes on with what follows, or with life.
func (s *sa) authorized() {
	if s.authorizing.phase != stageConfig && s.wantsConfig() {
		s.authorizing.phase = stageConfig
		s.beginConfig()
		return
	}
	s.authorizing.phase = stageNone
	s.established(s.authorizing.contact)
}

// unauthorized ends an SA that did not come as far as being one.
func (s *sa) unauthorized(err error) {
	s.sayDelete(wire.ProtocolV1ISAKMP, s.cookies())
	s.end(ike.ClosedFailed, err)
}

// transact begins a transaction of ours; then is told of the answer.
func (s *sa) transact(kind wire.V1ConfigType, attributes []wire.Attribute, then func(*wire.V1Config)) {
	x := &exchange{kind: wire.ExchangeV1Transaction, id: s.newID(), begun: s.now, step: stepConfigSent}
	x.config = &transaction{identifier: uint16(s.newID()), then: then}
	x.iv = s.cipher.PhaseTwoIV(s.p1.iv, x.id)
	b, err := s.sealTransaction(x, &wire.V1Config{Type: kind, Identifier: x.config.identifier, Attributes: attributes})
	if err != nil {
		s.end(ike.ClosedFailed, err)
		return
	}
	s.exchanges[x.id] = x
	s.say(x, b, 0, true)
}

func (s *sa) sealTransaction(x *exchange, p *wire.V1Config) ([]byte, error) {
	b, next, err := s.sealHashed(x.kind, x.id, x.iv, func(rest []byte) []byte { return keys.V1Hash1(s.prf, s.keys.A, x.id, rest) }, p)
	x.iv = next
	return b, err
}

// transaction takes a message of the exchange.
func (s *sa) transaction(m *message) {
	if s.state != stateEstablished && s.state != stateAuthorizing || m.Sealed == nil || m.MessageID == 0 {
		s.drops.unfit++
		return
	}
	x := s.exchanges[m.MessageID]
	if x != nil && (x.kind != m.Exchange || s.repeated(x, m)) {
		return
	}
	fresh := x == nil
	if fresh {
		if s.state == stateAuthorizing && !s.initiator {
			// Ours comes first: the peer's is repeated.
			s.drops.unfit++
			return
		}
		if s.seen[m.MessageID] || len(s.seen) >= maxSeen || len(s.exchanges) >= maxExchanges {
			s.drops.unfit++
			return
		}
		x = &exchange{kind: m.Exchange, id: m.MessageID, iv: s.cipher.PhaseTwoIV(s.p1.iv, m.MessageID)}
	}
	if x.step == stepDone {
		s.drops.unfit++
		return
	}
	if !s.openHashed(m, x.iv, func(b []byte) []byte { return keys.V1Hash1(s.prf, s.keys.A, x.id, b) }) {
		return
	}
	if fresh {
		s.seen[m.MessageID] = true
		s.exchanges[x.id] = x
		x.begun = s.now
		x.forgetAt = s.now.Add(s.env.Limits.HalfOpenLife)
	}
	s.authentic(m)
	x.iv, x.lastIn = m.iv, m.digest
	if !s.dispatch(x, m, true) {
		s.drops.unfit++
	}
}

// isClient says whether we are whom a server may tell what came of XAUTH.
func (s *sa) isClient() bool { return s.initiator && s.tunnel.V1.XAuth == policy.XAuthClient }

func configOf(m *message) *wire.V1Config {
	return m.find(wire.PayloadV1Attributes).(*wire.V1Config)
}

// transactionCame takes what the peer asks or sets.
func (s *sa) transactionCame(x *exchange, m *message) {
	x.step = stepDone
	c := configOf(m)
	answer := &wire.V1Config{Type: wire.ConfigV1Reply, Identifier: c.Identifier}
	var then func()
	switch {
	case c.Type == wire.ConfigV1Set && s.isClient() && s.authorizing.phase == stageUser:
		answer.Attributes, then = s.statusSet(c)
	case c.Type == wire.ConfigV1Request && s.isClient() && find(c, wire.ConfigXAuthUser, wire.ConfigXAuthPassword):
		answer.Attributes = s.giveUser(c)
	case c.Type == wire.ConfigV1Request && s.state == stateEstablished:
		answer.Attributes = s.configure(c)
	case c.Type == wire.ConfigV1Set && s.initiator && s.authorizing.phase == stageConfig:
		answer.Attributes, then = s.configSet(c)
	}
	if c.Type == wire.ConfigV1Set {
		answer.Type = wire.ConfigV1Ack
	}
	b, err := s.sealTransaction(x, answer)
	if err != nil {
		s.warn("a message cannot be sent", err)
		return
	}
	s.say(x, b, 0, false)
	if then != nil {
		then()
	}
}

// transactionAnswered takes the answer to ours.
func (s *sa) transactionAnswered(x *exchange, m *message) {
	c := configOf(m)
	x.step, x.next, x.lastOut = stepDone, zeroTime, nil
	x.forgetAt = s.now.Add(s.env.Limits.HalfOpenLife)
	if c.Type != wire.ConfigV1Reply && c.Type != wire.ConfigV1Ack {
		s.transactionFailed(x, fmt.Errorf("the peer answers a transaction with a message of type %d", c.Type))
		return
	}
	x.config.then(c)
}

// transactionFailed ends an SA that cannot go on.
func (s *sa) transactionFailed(x *exchange, err error) {
	s.forget(x)
	if s.state == stateAuthorizing {
		s.unauthorized(err)
		return
	}
	s.warn("a transaction failed", err)
}

// find says whether one of the attributes is there.
func find(c *wire.V1Config, types ...wire.AttributeType) bool {
	for i := range c.Attributes {
		for _, t := range types {
			if c.Attributes[i].Type == t {
				return true
			}
		}
	}
	return false
}

// value is an attribute's octets; nil: it is not there, or is a number.
func value(c *wire.V1Config, t wire.AttributeType) []byte {
	for i := range c.Attributes {
		if a := &c.Attributes[i]; a.Type == t && a.TLV {
			return a.Data
		}
	}
	return nil
}

func octetsOf(t wire.AttributeType, data []byte) wire.Attribute {
	return wire.Attribute{Type: t, TLV: true, Data: data}
}

var errNoConfig = errors.New("the peer gives us no address: it has no pool for us, or does not know mode config")
