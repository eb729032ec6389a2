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

// diffieHellman is one group. Private and public values and secrets are octet strings as the group's RFC writes them.
type diffieHellman interface {
	// draw makes a private value; fast.
	draw(rand io.Reader) ([]byte, error)
	// public and agree are slow; answer is both, and does once what they share.
	public(private []byte) ([]byte, error)
	agree(private, peer []byte) ([]byte, error)
	answer(private, peer []byte) (public, shared []byte, err error)
	// publicLen is the length of a public value in octets; every other length is refused.
	publicLen() int
}

// methods are the rows of IANA's "Transform Type 4 - Key Exchange Method Transform IDs" that work here.
var methods = map[uint16]diffieHellman{
	policy.KEX25519:   x25519Group{},
	policy.KEECP256:   ecp256,
	policy.KEECP384:   ecp384,
	policy.KEECP521:   ecp521,
	policy.KEModp2048: modp2048,
	policy.KEModp3072: modp3072,
	policy.KEModp4096: modp4096,
	policy.KEModp6144: modp6144,
	policy.KEModp8192: modp8192,

	policy.KEInsecureModp768:      insecureMODP768,
	policy.KEInsecureModp1024:     insecureMODP1024,
	policy.KEInsecureModp1536:     insecureMODP1536,
	policy.KEInsecureModp1024s160: insecureMODP1024s160,
	policy.KEInsecureModp2048s224: insecureMODP2048s224,
	policy.KEInsecureModp2048s256: insecureMODP2048s256,
}

func lookup(method uint16) (diffieHellman, error) {
	if g, ok := methods[method]; ok {
		return g, nil
	}
	return nil, fmt.Errorf("no key exchange method %s here", policy.Transform{Type: policy.TransformKE, ID: method})
}

// OfferLen is the length of a valid offer in octets; 0 if the method is not one of ours.
func OfferLen(method uint16) int {
	if g, ok := methods[method]; ok {
		return g.publicLen()
	}
	return 0
}

// party is what both roles of a Diffie-Hellman exchange have.
type party struct {
	method  uint16
	group   diffieHellman
	private policy.Secret
}

func newParty(method uint16, rand io.Reader) (party, error) {
	g, err := lookup(method)
	if err != nil {
		return party{}, err
	}
	private, err := g.draw(rand)
	if err != nil {
		return party{}, fmt.Errorf("private value for %s: %w", policy.Transform{Type: policy.TransformKE, ID: method}, err)
	}
	return party{method, g, policy.NewSecret(private)}, nil
}

// check refuses a peer's public value of the wrong length.
func (p *party) check(peer []byte) error {
	if want := p.group.publicLen(); len(peer) != want {
		return fmt.Errorf("%w: %d octets where %s has %d", ErrPublicValue, len(peer), policy.Transform{Type: policy.TransformKE, ID: p.method}, want)
	}
	return nil
}

func (p *party) agree(peer []byte) (policy.Secret, error) {
	if err := p.check(peer); err != nil {
		return policy.Secret{}, err
	}
	shared, err := p.group.agree(p.private.Reveal(), peer)
	if err != nil {
		return policy.Secret{}, err
	}
	return policy.NewSecret(shared), nil
}

// Initiator is the side that offers first. Its methods after NewInitiator change nothing, so they may run on any
// goroutine; Wipe must wait until they are done.
type Initiator struct{ party }

// NewInitiator draws the private value and does no slow arithmetic.
func NewInitiator(method uint16, rand io.Reader) (*Initiator, error) {
	p, err := newParty(method, rand)
	if err != nil {
		return nil, err
	}
	return &Initiator{p}, nil
}

// Method is the transform number.
func (i *Initiator) Method() uint16 { return i.method }

// Offer is the data of the KE payload, the same at every call. Slow.
func (i *Initiator) Offer() ([]byte, error) { return i.group.public(i.private.Reveal()) }

// Finish makes the shared secret of the responder's KE payload data, padded to the group's length. Slow. An error
// about the peer's value wraps ErrPublicValue.
func (i *Initiator) Finish(answer []byte) (policy.Secret, error) { return i.agree(answer) }

// Wipe forgets the private value; the Initiator is useless afterwards.
func (i *Initiator) Wipe() { i.private.Wipe() }

// Responder answers one offer. The rules of Initiator apply.
type Responder struct{ party }

// NewResponder draws the private value and does no slow arithmetic.
func NewResponder(method uint16, rand io.Reader) (*Responder, error) {
	p, err := newParty(method, rand)
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
	if err := r.check(offer); err != nil {
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
