package keys

import (
	"crypto/ecdh"
	"crypto/elliptic"
	"errors"
	"fmt"
	"io"

	"filippo.io/bigmod"
)

// ecpGroup is a NIST curve. On the wire a point is x | y without the 0x04 of SEC 1, and the shared secret is the x
// coordinate alone (RFC 5903, section 7).
type ecpGroup struct {
	curve   ecdh.Curve
	order   []byte // big endian; its length is that of a private value and of a coordinate
	topMask byte   // bits of the first octet that a private value can have
}

var (
	ecp256 = newECP(ecdh.P256(), elliptic.P256())
	ecp384 = newECP(ecdh.P384(), elliptic.P384())
	ecp521 = newECP(ecdh.P521(), elliptic.P521())
)

func newECP(curve ecdh.Curve, params elliptic.Curve) ecpGroup {
	g := ecpGroup{curve: curve, order: params.Params().N.Bytes(), topMask: 0xff}
	if spare := len(g.order)*8 - params.Params().N.BitLen(); spare > 0 {
		g.topMask >>= spare
	}
	return g
}

func (g ecpGroup) publicLen() int { return 2 * len(g.order) }

// draw takes a uniform scalar in [1, order-1] by rejection. crypto/ecdh's own GenerateKey ignores the reader it is
// given, and its NewPrivateKey multiplies, which is too slow here. A draw fails with probability below 2^-31 but for
// P-521 (2^-260), so 16 failures mean a broken reader.
func (g ecpGroup) draw(rand io.Reader) ([]byte, error) {
	n, err := bigmod.NewModulus(g.order)
	if err != nil {
		return nil, err
	}
	d := make([]byte, len(g.order))
	for range 16 {
		if _, err := io.ReadFull(rand, d); err != nil {
			return nil, err
		}
		d[0] &= g.topMask
		if x, err := bigmod.NewNat().SetBytes(d, n); err == nil && x.IsZero() == 0 {
			return d, nil
		}
	}
	return nil, errors.New("the source of randomness is broken")
}

func (g ecpGroup) public(private []byte) ([]byte, error) {
	k, err := g.curve.NewPrivateKey(private)
	if err != nil {
		return nil, err
	}
	return k.PublicKey().Bytes()[1:], nil
}

// agree leaves the checks of RFC 6989, section 2.3, to crypto/ecdh: coordinates below the prime, point on the curve.
func (g ecpGroup) agree(private, peer []byte) ([]byte, error) {
	_, shared, err := g.answer(private, peer)
	return shared, err
}

// answer makes the key once: crypto/ecdh multiplies for the public value when it does.
func (g ecpGroup) answer(private, peer []byte) (public, shared []byte, err error) {
	k, err := g.curve.NewPrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	point := append(make([]byte, 0, 1+len(peer)), 4)
	pub, err := g.curve.NewPublicKey(append(point, peer...))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: not a point of the curve", ErrPublicValue)
	}
	shared, err = k.ECDH(pub)
	return k.PublicKey().Bytes()[1:], shared, err
}

// x25519Group is Curve25519 (RFC 8031): values are the 32 octets of RFC 7748, section 6.1. Clamping the private value, masking
// the top bit of the peer's and accepting one that is not reduced (section 3.2) are crypto/ecdh's business.
type x25519Group struct{}

func (x25519Group) publicLen() int { return 32 }

func (x25519Group) draw(rand io.Reader) ([]byte, error) {
	d := make([]byte, 32)
	if _, err := io.ReadFull(rand, d); err != nil {
		return nil, err
	}
	return d, nil
}

func (x25519Group) public(private []byte) ([]byte, error) {
	k, err := ecdh.X25519().NewPrivateKey(private)
	if err != nil {
		return nil, err
	}
	return k.PublicKey().Bytes(), nil
}

// agree refuses a peer's point of small order, whose secret is all zeros whatever we do; crypto/ecdh checks that
// (RFC 7748, section 6.1).
func (g x25519Group) agree(private, peer []byte) ([]byte, error) {
	_, shared, err := g.answer(private, peer)
	return shared, err
}

func (x25519Group) answer(private, peer []byte) (public, shared []byte, err error) {
	k, err := ecdh.X25519().NewPrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	pub, err := ecdh.X25519().NewPublicKey(peer)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: not a point of the curve", ErrPublicValue)
	}
	if shared, err = k.ECDH(pub); err != nil {
		return nil, nil, fmt.Errorf("%w: a point of small order", ErrPublicValue)
	}
	return k.PublicKey().Bytes(), shared, nil
}
