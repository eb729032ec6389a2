package eap

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"coati/policy"
)

// Peer is who authenticates.
type Peer struct {
	cfg      *policy.EAP
	random   *rand.ChaCha8
	identity string
	method   client
	typ      Type
	rounds   int
	nak      bool
}

// NewPeer makes the client's machine. All it draws at random comes of the seed.
func NewPeer(cfg *policy.EAP, seed [32]byte) *Peer {
	return &Peer{cfg: cfg, identity: cfg.Identity, random: rand.NewChaCha8(seed)}
}

func draw(r *rand.ChaCha8, n int) []byte {
	b := make([]byte, n)
	_, _ = r.Read(b) // it never fails
	return b
}

// Slow says that Handle will compute so much that others should not wait for it.
func (p *Peer) Slow() bool { return p.method != nil && p.method.slow() }

// Close forgets keys, and ends what is under way. Nothing may be handled afterwards.
func (p *Peer) Close() {
	if p.method != nil {
		p.method.close()
		p.method = nil
	}
}

// MSK is the key that a successful method made; empty: it makes none.
func (p *Peer) MSK() policy.Secret {
	if p.method == nil {
		return policy.Secret{}
	}
	msk, _ := p.method.done()
	return msk
}

// Method is which method ran, for people.
func (p *Peer) Method() string { return p.typ.String() }

// Handle answers a packet of the server.
func (p *Peer) Handle(now time.Time, b []byte) Step {
	q, err := Parse(b)
	if err != nil {
		return Step{Err: err}
	}
	if p.rounds++; p.rounds > MaxRounds {
		return Step{Err: errRounds}
	}
	switch q.Code {
	case Success:
		if p.method == nil {
			return Step{Err: errors.New("the server ends EAP with success before it asked for anything")}
		}
		if _, ok := p.method.done(); !ok {
			return Step{Err: fmt.Errorf("the server ends EAP with success in the middle of %s", p.typ)}
		}
		return Step{Done: true}
	case Failure:
		return Step{Err: p.refused()}
	case Request:
		return p.request(now, q)
	}
	return Step{Err: errMalformed}
}

// refused says why the server may have refused us.
func (p *Peer) refused() error {
	if m, ok := p.method.(interface{ said() error }); ok && m.said() != nil {
		return m.said()
	}
	switch {
	case p.nak:
		return fmt.Errorf("the server wants an EAP method that eap-methods does not have, and refuses those it has: %v", p.cfg.Methods)
	case p.method == nil:
		return fmt.Errorf("the server refuses our EAP identity %q: see eap-identity", p.identity)
	case p.typ == TypeTLS:
		return fmt.Errorf("the server refuses our EAP identity %q or our certificate: compare eap-identity and eap-cert-file with its configuration", p.identity)
	}
	return fmt.Errorf("the server refuses our EAP identity %q or its password: see eap-identity and eap-password-file", p.identity)
}

func (c *mschapClient) said() error { return c.why }

func (p *Peer) request(now time.Time, q Packet) Step {
	answer := func(t Type, data []byte) Step {
		return Step{Send: Packet{Response, q.ID, t, data}.Bytes()}
	}
	switch q.Type {
	case TypeIdentity:
		if p.method != nil {
			return Step{Err: errors.New("the server asks for our identity in the middle of a method")}
		}
		return answer(TypeIdentity, []byte(p.identity))
	case TypeNotification:
		return answer(TypeNotification, nil)
	case TypeNak:
		return Step{Err: errMalformed}
	}
	if p.method == nil {
		p.typ = q.Type
		if p.method = p.choose(now, q.Type); p.method == nil {
			p.nak = true
			return answer(TypeNak, p.wanted())
		}
		p.nak = false
	}
	if p.typ != q.Type {
		return Step{Err: fmt.Errorf("the server changes from %s to %s", p.typ, q.Type)}
	}
	if m, ok := p.method.(interface{ at(time.Time) }); ok {
		m.at(now)
	}
	data, err := p.method.respond(q.ID, q.Data)
	if err != nil {
		return Step{Err: err}
	}
	return answer(q.Type, data)
}

// choose begins the method that the server asks for; nil: it is not one of ours.
func (p *Peer) choose(now time.Time, t Type) client {
	m, ok := methodOf(t)
	if !ok || !p.cfg.Allows(m) {
		return nil
	}
	switch m {
	case policy.EAPMSCHAPv2:
		return &mschapClient{name: p.identity, password: p.cfg.Password, challenge: draw(p.random, challengeLen)}
	case policy.EAPMD5:
		return &md5Client{name: p.identity, password: p.cfg.Password}
	case policy.EAPGTC:
		return &gtcClient{password: p.cfg.Password}
	case policy.EAPTLS:
		return newTLSClient(now, p.cfg)
	case policy.EAPTTLS:
		return newTTLSClient(now, p.cfg, p.random)
	}
	return nil
}

// wanted are the types of our methods, best first (RFC 3748, section 5.3.1).
func (p *Peer) wanted() []byte {
	var out []byte
	for _, m := range p.cfg.Methods {
		out = append(out, byte(typeOf(m)))
	}
	return out
}

func typeOf(m policy.EAPMethod) Type {
	switch m {
	case policy.EAPMSCHAPv2:
		return TypeMSCHAPv2
	case policy.EAPTLS:
		return TypeTLS
	case policy.EAPTTLS:
		return TypeTTLS
	case policy.EAPMD5:
		return TypeMD5
	case policy.EAPGTC:
		return TypeGTC
	}
	return 0
}

func methodOf(t Type) (policy.EAPMethod, bool) {
	for m := policy.EAPMSCHAPv2; m <= policy.EAPGTC; m++ {
		if typeOf(m) == t {
			return m, true
		}
	}
	return 0, false
}
