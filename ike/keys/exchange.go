package keys

import (
	"errors"
	"fmt"
	"io"

	"coati/policy"
)

// ErrPublicValue is wrapped by every error that the peer's public value caused: wrong length, outside the group, not
// on the curve, or of an order that makes the secret predictable (RFC 6989, section 2). The remedy is to drop the message.
var ErrPublicValue = errors.New("invalid key exchange data")

// exchange is one method: a Diffie-Hellman group, or a key encapsulation mechanism, whose two sides do different things.
// Values and secrets are octet strings as the method's standard writes them.
type exchange interface {
	// draw and drawAnswer make the private value of the initiator and of the responder; fast.
	draw(rand io.Reader) ([]byte, error)
	drawAnswer(rand io.Reader) ([]byte, error)
	// public is the initiator's offer, agree its shared secret of the answer; answer makes that and the shared secret of the
	// offer. All are slow.
	public(private []byte) ([]byte, error)
	agree(private, answer []byte) ([]byte, error)
	answer(private, offer []byte) (answer, shared []byte, err error)
	// offerLen and answerLen are what the two send, in octets; every other length is refused.
	offerLen() int
	answerLen() int
}

// diffieHellman is one group.
type diffieHellman interface {
	draw(rand io.Reader) ([]byte, error)
	public(private []byte) ([]byte, error)
	agree(private, peer []byte) ([]byte, error)
	answer(private, peer []byte) (public, shared []byte, err error)
	publicLen() int
}

// symmetric is a group as a method: both sides send a public value.
type symmetric struct{ diffieHellman }

func (g symmetric) drawAnswer(rand io.Reader) ([]byte, error) { return g.draw(rand) }
func (g symmetric) offerLen() int                             { return g.publicLen() }
func (g symmetric) answerLen() int                            { return g.publicLen() }

// methods are the rows of IANA's "Transform Type 4 - Key Exchange Method Transform IDs" that work here.
var methods = map[uint16]exchange{
	policy.KEX25519:   symmetric{x25519Group{}},
	policy.KEECP256:   symmetric{ecp256},
	policy.KEECP384:   symmetric{ecp384},
	policy.KEECP521:   symmetric{ecp521},
	policy.KEModp2048: symmetric{modp2048},
	policy.KEModp3072: symmetric{modp3072},
	policy.KEModp4096: symmetric{modp4096},
	policy.KEModp6144: symmetric{modp6144},
	policy.KEModp8192: symmetric{modp8192},

	policy.KEInsecureModp768:      symmetric{insecureMODP768},
	policy.KEInsecureModp1024:     symmetric{insecureMODP1024},
	policy.KEInsecureModp1536:     symmetric{insecureMODP1536},
	policy.KEInsecureModp1024s160: symmetric{insecureMODP1024s160},
	policy.KEInsecureModp2048s224: symmetric{insecureMODP2048s224},
	policy.KEInsecureModp2048s256: symmetric{insecureMODP2048s256},

	policy.KEMLKEM512:  mlkem512{},
	policy.KEMLKEM768:  mlkem768{},
	policy.KEMLKEM1024: mlkem1024{},
}

func lookup(method uint16) (exchange, error) {
	if g, ok := methods[method]; ok {
		return g, nil
	}
	return nil, fmt.Errorf("no key exchange method %s here", policy.Transform{Type: policy.TransformKE, ID: method})
}

// OfferLen is the length of a valid offer in octets; 0 if the method is not one of ours.
func OfferLen(method uint16) int {
	if g, ok := methods[method]; ok {
		return g.offerLen()
	}
	return 0
}

// AnswerLen is the length of a valid answer in octets; 0 if the method is not one of ours.
func AnswerLen(method uint16) int {
	if g, ok := methods[method]; ok {
		return g.answerLen()
	}
	return 0
}

// Light says whether the arithmetic of a method takes a tenth of a millisecond, as opposed to many.
func Light(method uint16) bool { return method == policy.KEX25519 || method == policy.KEECP256 }

// party is what both roles of an exchange have.
type party struct {
	method  uint16
	group   exchange
	private policy.Secret
}

func newParty(method uint16, rand io.Reader, draw func(exchange, io.Reader) ([]byte, error)) (party, error) {
	g, err := lookup(method)
	if err != nil {
		return party{}, err
	}
	private, err := draw(g, rand)
	if err != nil {
		return party{}, fmt.Errorf("private value for %s: %w", policy.Transform{Type: policy.TransformKE, ID: method}, err)
	}
	return party{method, g, policy.NewSecret(private)}, nil
}

// check refuses a peer's value of the wrong length.
func (p *party) check(peer []byte, want int) error {
	if len(peer) != want {
		return fmt.Errorf("%w: %d octets where %s has %d", ErrPublicValue, len(peer), policy.Transform{Type: policy.TransformKE, ID: p.method}, want)
	}
	return nil
}

// Initiator is the side that offers first. Its methods after NewInitiator change nothing, so they may run on any
// goroutine; Wipe must wait until they are done.
type Initiator struct{ party }

// NewInitiator draws the private value and does no slow arithmetic.
func NewInitiator(method uint16, rand io.Reader) (*Initiator, error) {
	p, err := newParty(method, rand, exchange.draw)
	if err != nil {
		return nil, err
	}
	return &Initiator{p}, nil
}

// Method is the transform number.
func (i *Initiator) Method() uint16 { return i.method }

// Offer is the data of the KE payload, the same at every call. Slow.
func (i *Initiator) Offer() ([]byte, error) { return i.group.public(i.private.Reveal()) }

// Finish makes the shared secret of the responder's KE payload data, a group's padded to its length. Slow. An error
// about the peer's value wraps ErrPublicValue. A KEM ciphertext that the offer does not fit makes a secret nobody else has.
func (i *Initiator) Finish(answer []byte) (policy.Secret, error) {
	if err := i.check(answer, i.group.answerLen()); err != nil {
		return policy.Secret{}, err
	}
	shared, err := i.group.agree(i.private.Reveal(), answer)
	if err != nil {
		return policy.Secret{}, err
	}
	return policy.NewSecret(shared), nil
}

// Wipe forgets the private value; the Initiator is useless afterwards.
func (i *Initiator) Wipe() { i.private.Wipe() }

// Responder answers one offer. The rules of Initiator apply.
type Responder struct{ party }

// NewResponder draws the private value and does no slow arithmetic.
func NewResponder(method uint16, rand io.Reader) (*Responder, error) {
	p, err := newParty(method, rand, exchange.drawAnswer)
	if err != nil {
		return nil, err
	}
	return &Responder{p}, nil
}

// Method is the transform number.
func (r *Responder) Method() uint16 { return r.method }

// Answer makes our KE payload data and the shared secret from the initiator's. Slow. An error about the peer's value
// wraps ErrPublicValue.
func (r *Responder) Answer(offer []byte) (answer []byte, shared policy.Secret, err error) {
	if err := r.check(offer, r.group.offerLen()); err != nil {
		return nil, policy.Secret{}, err
	}
	answer, secret, err := r.group.answer(r.private.Reveal(), offer)
	if err != nil {
		return nil, policy.Secret{}, err
	}
	return answer, policy.NewSecret(secret), nil
}

// Wipe forgets the private value; the Responder is useless afterwards.
func (r *Responder) Wipe() { r.private.Wipe() }
