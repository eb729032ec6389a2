package keys

import (
	"encoding/hex"
	"fmt"
	"strings"

	"filippo.io/bigmod"
)

// subgroup is a group of integers modulo a prime that is not safe: a generator of prime order, RFC 5114.
type subgroup struct {
	modpGroup
	generator, order []byte
}

func newSubgroup(prime, generator, order string) subgroup {
	octets := func(s string) []byte {
		b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
		if err != nil {
			panic(err) // a constant of this package
		}
		return b
	}
	return subgroup{modpGroup{octets(prime), len(octets(order))}, octets(generator), octets(order)}
}

func (g subgroup) public(private []byte) ([]byte, error) {
	p, err := bigmod.NewModulus(g.prime)
	if err != nil {
		return nil, err
	}
	base, err := bigmod.NewNat().SetBytes(g.generator, p)
	if err != nil {
		return nil, err
	}
	return bigmod.NewNat().Exp(base, private, p).Bytes(p), nil
}

// agree checks 1 < y < p-1 and that y is of the subgroup (RFC 6989, section 2.2).
func (g subgroup) agree(private, peer []byte) ([]byte, error) {
	p, err := bigmod.NewModulus(g.prime)
	if err != nil {
		return nil, err
	}
	y, err := bigmod.NewNat().SetBytes(peer, p)
	if err != nil || y.IsZero()|y.IsOne()|y.IsMinusOne(p) == 1 {
		return nil, fmt.Errorf("%w: not between 1 and the prime less 1", ErrPublicValue)
	}
	if bigmod.NewNat().Exp(y, g.order, p).IsOne() != 1 {
		return nil, fmt.Errorf("%w: outside of the group's subgroup", ErrPublicValue)
	}
	return bigmod.NewNat().Exp(y, private, p).Bytes(p), nil
}

func (g subgroup) answer(private, peer []byte) (public, shared []byte, err error) {
	if shared, err = g.agree(private, peer); err != nil {
		return nil, nil, err
	}
	public, err = g.public(private)
	return public, shared, err
}
