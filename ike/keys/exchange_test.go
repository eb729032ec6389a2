package keys

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"math/big"
	"slices"
	"sync"
	"testing"

	"coati/policy"
)

// groups are all key exchange methods of the algorithm table.
func groups() []policy.Algorithm {
	return slices.DeleteFunc(slices.Clone(policy.Algorithms), func(a policy.Algorithm) bool { return a.Type != policy.TransformKE })
}

// group is a method that is a Diffie-Hellman group; nil: it is none.
func group(method uint16) diffieHellman {
	if s, ok := methods[method].(symmetric); ok {
		return s.diffieHellman
	}
	return nil
}

func initiator(t testing.TB, method uint16, rand io.Reader) (*Initiator, []byte) {
	t.Helper()
	i, err := NewInitiator(method, rand)
	if err != nil {
		t.Fatal(err)
	}
	offer, err := i.Offer()
	if err != nil {
		t.Fatal(err)
	}
	return i, offer
}

func TestBothSidesAgreeInEveryGroup(t *testing.T) {
	t.Parallel()
	for _, a := range groups() {
		t.Run(a.Keyword, func(t *testing.T) {
			t.Parallel()
			i, offer := initiator(t, a.ID, rand.Reader)
			r, err := NewResponder(a.ID, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			answer, sr, err := r.Answer(offer)
			if err != nil {
				t.Fatal(err)
			}
			si, err := i.Finish(answer)
			if err != nil {
				t.Fatal(err)
			}
			if i.Method() != a.ID || r.Method() != a.ID {
				t.Errorf("methods %d and %d", i.Method(), r.Method())
			}
			if !si.Equal(sr) || si.Len() == 0 {
				t.Error("the two sides have different secrets")
			}
			if len(offer) != OfferLen(a.ID) || len(answer) != AnswerLen(a.ID) {
				t.Errorf("%d and %d octets, OfferLen and AnswerLen say %d and %d", len(offer), len(answer), OfferLen(a.ID), AnswerLen(a.ID))
			}
			if again, err := i.Offer(); err != nil || !bytes.Equal(again, offer) {
				t.Error("a second Offer, as for a cookie, differs")
			}
			other, _ := initiator(t, a.ID, rand.Reader)
			if s, err := other.Finish(answer); err != nil || s.Equal(si) {
				t.Error("somebody else's private value makes the same secret")
			}
		})
	}
}

// RFC 5903, section 8: the private values of the RFC, drawn from a reader that yields them.
func TestECPAgainstRFC5903(t *testing.T) {
	t.Parallel()
	for _, v := range readRecords(t, "rfc5903.txt") {
		method := keyword(t, v.kind).ID
		offer := append(v.octets(t, "gix"), v.octets(t, "giy")...)
		answer := append(v.octets(t, "grx"), v.octets(t, "gry")...)

		i, got := initiator(t, method, bytes.NewReader(v.octets(t, "i")))
		if !bytes.Equal(got, offer) {
			t.Errorf("%s: initiator's public value is %x", v.kind, got)
		}
		if s, err := i.Finish(answer); err != nil || !s.Equal(v.secret(t, "girx")) {
			t.Errorf("%s: initiator's secret differs (%v)", v.kind, err)
		}
		r, err := NewResponder(method, bytes.NewReader(v.octets(t, "r")))
		if err != nil {
			t.Fatal(err)
		}
		got, s, err := r.Answer(offer)
		if err != nil || !bytes.Equal(got, answer) || !s.Equal(v.secret(t, "girx")) {
			t.Errorf("%s: responder's answer or secret differs (%v)", v.kind, err)
		}
	}
}

// RFC 7748, sections 5.2 and 6.1.
func TestX25519AgainstRFC7748(t *testing.T) {
	t.Parallel()
	i, offer := initiator(t, policy.KEX25519, bytes.NewReader(unhex(t, "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")))
	if want := unhex(t, "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"); !bytes.Equal(offer, want) {
		t.Errorf("offer %x", offer)
	}
	r, err := NewResponder(policy.KEX25519, bytes.NewReader(unhex(t, "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")))
	if err != nil {
		t.Fatal(err)
	}
	answer, sr, err := r.Answer(offer)
	if want := unhex(t, "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"); err != nil || !bytes.Equal(answer, want) {
		t.Errorf("answer %x (%v)", answer, err)
	}
	want := policy.NewSecret(unhex(t, "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"))
	if si, err := i.Finish(answer); err != nil || !si.Equal(want) || !sr.Equal(want) {
		t.Errorf("secrets differ from the RFC's (%v)", err)
	}

	for _, v := range []struct{ scalar, u, out string }{
		{"a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4", "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c", "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"},
		// The top bit of this u is set; a receiver ignores it.
		{"4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d", "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493", "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957"},
	} {
		i, err := NewInitiator(policy.KEX25519, bytes.NewReader(unhex(t, v.scalar)))
		if err != nil {
			t.Fatal(err)
		}
		if s, err := i.Finish(unhex(t, v.u)); err != nil || !bytes.Equal(s.Reveal(), unhex(t, v.out)) {
			t.Errorf("X25519(%s, %s) differs (%v)", v.scalar, v.u, err)
		}
	}

	// RFC 8031, section 3.2: a value that is not reduced is accepted; p + 9 is the base point, its secret our public value.
	if s, err := i.Finish(unhex(t, "f6ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")); err != nil || !bytes.Equal(s.Reveal(), offer) {
		t.Errorf("p + 9 as a public value: %v", err)
	}

	k := unhex(t, "0900000000000000000000000000000000000000000000000000000000000000")
	u := k
	for range 1000 {
		s, err := x25519Group{}.agree(k, u)
		if err != nil {
			t.Fatal(err)
		}
		k, u = s, k
	}
	if want := unhex(t, "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"); !bytes.Equal(k, want) {
		t.Errorf("after 1,000 iterations %x", k)
	}
}

// The primes are the RFC's formulas, with pi computed here, and they are safe primes.
func TestMODPPrimesAgainstRFC3526(t *testing.T) {
	t.Parallel()
	pi := piTimesTwoTo(8192)
	one := big.NewInt(1)
	for _, c := range []struct {
		group modpGroup
		bits  uint
		add   int64
	}{
		{modp2048, 2048, 124476},
		{modp3072, 3072, 1690314},
		{modp4096, 4096, 240904},
		{modp6144, 6144, 929484},
		{modp8192, 8192, 4743158},
	} {
		// 2^n - 2^(n-64) - 1 + 2^64 * ( [2^(n-130) pi] + add )
		want := new(big.Int).Lsh(one, c.bits)
		want.Sub(want, new(big.Int).Lsh(one, c.bits-64))
		want.Sub(want, one)
		middle := new(big.Int).Rsh(pi, 8192-(c.bits-130))
		middle.Add(middle, big.NewInt(c.add))
		want.Add(want, middle.Lsh(middle, 64))
		p := new(big.Int).SetBytes(c.group.prime)
		if p.Cmp(want) != 0 || len(c.group.prime)*8 != int(c.bits) {
			t.Errorf("the prime of %d bits is not the formula's", c.bits)
		}
		if !p.ProbablyPrime(0) || !new(big.Int).Rsh(p, 1).ProbablyPrime(0) {
			t.Errorf("the prime of %d bits is no safe prime", c.bits)
		}
	}
}

// piTimesTwoTo is [pi * 2^n] by Machin's formula, 16 atan(1/5) - 4 atan(1/239), with 64 guard bits.
func piTimesTwoTo(n uint) *big.Int {
	const guard = 64
	atanInverse := func(x int64) *big.Int {
		term := new(big.Int).Lsh(big.NewInt(1), n+guard)
		term.Quo(term, big.NewInt(x))
		sum := new(big.Int).Set(term)
		square := big.NewInt(x * x)
		for k := int64(3); term.Sign() != 0; k += 2 {
			term.Quo(term, square)
			part := new(big.Int).Quo(term, big.NewInt(k))
			if k%4 == 3 {
				sum.Sub(sum, part)
			} else {
				sum.Add(sum, part)
			}
		}
		return sum
	}
	pi := new(big.Int).Mul(big.NewInt(16), atanInverse(5))
	pi.Sub(pi, new(big.Int).Mul(big.NewInt(4), atanInverse(239)))
	return pi.Rsh(pi, guard)
}

// math/big computes the same public values and secrets, and both are padded to the prime's length.
func TestMODPAgainstBigInt(t *testing.T) {
	t.Parallel()
	for _, a := range groups() {
		g, ok := group(a.ID).(modpGroup)
		if !ok {
			continue
		}
		t.Run(a.Keyword, func(t *testing.T) {
			t.Parallel()
			p := new(big.Int).SetBytes(g.prime)
			x := make([]byte, g.exponent)
			if _, err := rand.Read(x); err != nil {
				t.Fatal(err)
			}
			i, offer := initiator(t, a.ID, bytes.NewReader(x))
			exp := func(base *big.Int) []byte {
				return new(big.Int).Exp(base, new(big.Int).SetBytes(x), p).FillBytes(make([]byte, len(g.prime)))
			}
			if !bytes.Equal(offer, exp(big.NewInt(2))) {
				t.Error("public value differs")
			}
			y, err := rand.Int(rand.Reader, new(big.Int).Sub(p, big.NewInt(4)))
			if err != nil {
				t.Fatal(err)
			}
			y.Add(y, big.NewInt(2))
			s, err := i.Finish(y.FillBytes(make([]byte, len(g.prime))))
			if err != nil || !bytes.Equal(s.Reveal(), exp(y)) {
				t.Errorf("secret differs (%v)", err)
			}
			// The legal values next to the illegal ones: the secret of 2 is our own public value, p-2 differs by a sign at most.
			if s, err := i.Finish(big.NewInt(2).FillBytes(make([]byte, len(g.prime)))); err != nil || !bytes.Equal(s.Reveal(), offer) {
				t.Errorf("2 is a legal value, and its secret our own public value (%v)", err)
			}
			if _, err := i.Finish(new(big.Int).Sub(p, big.NewInt(2)).Bytes()); err != nil {
				t.Errorf("p-2 is a legal value: %v", err)
			}
		})
	}
}

// RFC 3526, section 8: exponents of at least twice the larger estimate of the strength.
func TestMODPExponentLengths(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		group    modpGroup
		strength int
	}{{modp2048, 160}, {modp3072, 210}, {modp4096, 240}, {modp6144, 270}, {modp8192, 310}} {
		if bits := c.group.exponent * 8; bits < 2*c.strength || bits >= 2*c.strength+8 {
			t.Errorf("%d-bit group: exponents of %d bits, want %d", len(c.group.prime)*8, bits, 2*c.strength)
		}
	}
}

// invalidValues are public values that RFC 6989, RFC 8031 and RFC 7748 want refused, by what is wrong with them.
func invalidValues(t *testing.T, a policy.Algorithm) map[string][]byte {
	n := OfferLen(a.ID)
	_, good := initiator(t, a.ID, rand.Reader)
	bad := map[string][]byte{
		"empty":           {},
		"one octet short": good[1:],
		"one octet long":  append(bytes.Clone(good), 0),
		"leading zero":    append([]byte{0}, good...),
	}
	pad := func(x *big.Int) []byte { return x.FillBytes(make([]byte, n)) }
	switch g := group(a.ID).(type) {
	case modpGroup:
		p := new(big.Int).SetBytes(g.prime)
		bad["0"] = pad(big.NewInt(0))
		bad["1"] = pad(big.NewInt(1))
		bad["p-1"] = pad(new(big.Int).Sub(p, big.NewInt(1)))
		bad["p"] = pad(p)
		bad["p+1"] = pad(new(big.Int).Add(p, big.NewInt(1)))
		bad["all ones"] = bytes.Repeat([]byte{0xff}, n)
	case subgroup:
		p := new(big.Int).SetBytes(g.prime)
		bad["1"] = pad(big.NewInt(1))
		bad["p-1"] = pad(new(big.Int).Sub(p, big.NewInt(1)))
		bad["p"] = pad(p)
		// The whole group has twice its elements and more: 2 is outside of each of these subgroups, and so is minus a good value.
		bad["2"] = pad(big.NewInt(2))
		bad["minus a good value"] = pad(new(big.Int).Sub(p, new(big.Int).SetBytes(good)))
	case ecpGroup:
		flipped := bytes.Clone(good)
		flipped[n-1] ^= 1
		swapped := append(bytes.Clone(good[n/2:]), good[:n/2]...)
		bad["off the curve"] = flipped
		bad["x and y exchanged"] = swapped
		bad["(0, 0)"] = make([]byte, n)
		bad["coordinates above the prime"] = bytes.Repeat([]byte{0xff}, n)
		bad["with the 0x04 of SEC 1"] = append([]byte{4}, good...)
		bad["compressed"] = append([]byte{2}, good[:n/2]...)
		bad["point at infinity"] = []byte{0}
	case nil: // ML-KEM
		bad["coefficients above the prime"] = bytes.Repeat([]byte{0xff}, n)
	case x25519Group:
		// All points of small order, and their encodings that are not reduced.
		for _, s := range []string{
			"0000000000000000000000000000000000000000000000000000000000000000",
			"0100000000000000000000000000000000000000000000000000000000000000",
			"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
			"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
			"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
			"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
			"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
			"0000000000000000000000000000000000000000000000000000000000000080",
		} {
			bad["small order "+s] = unhex(t, s)
		}
	default:
		t.Fatalf("no invalid values known for %s", a.Keyword)
	}
	return bad
}

func TestInvalidPublicValuesAreRefused(t *testing.T) {
	t.Parallel()
	for _, a := range groups() {
		t.Run(a.Keyword, func(t *testing.T) {
			t.Parallel()
			i, err := NewInitiator(a.ID, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			r, err := NewResponder(a.ID, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			for what, value := range invalidValues(t, a) {
				// A KEM's ciphertext of the right length is never invalid.
				anything := group(a.ID) == nil && len(value) == AnswerLen(a.ID)
				if s, err := i.Finish(value); !anything && (!errors.Is(err, ErrPublicValue) || s.Len() != 0) {
					t.Errorf("initiator, %s: %v", what, err)
				}
				if answer, s, err := r.Answer(value); !errors.Is(err, ErrPublicValue) || s.Len() != 0 || answer != nil {
					t.Errorf("responder, %s: %v", what, err)
				}
			}
		})
	}
}

func TestUnknownMethods(t *testing.T) {
	t.Parallel()
	for _, m := range []uint16{0, 3, 6, 13, 25, 28, 32, 34, 38, 65535} {
		if _, err := NewInitiator(m, rand.Reader); err == nil {
			t.Errorf("an initiator for method %d", m)
		}
		if _, err := NewResponder(m, rand.Reader); err == nil {
			t.Errorf("a responder for method %d", m)
		}
		if OfferLen(m) != 0 {
			t.Errorf("method %d has a length", m)
		}
	}
}

// constant yields one octet forever.
type constant byte

func (c constant) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(c)
	}
	return len(b), nil
}

// A simulation replays from its seed: the private value is a function of the reader, which is read only while drawing.
func TestPrivateValuesComeFromTheReaderAlone(t *testing.T) {
	t.Parallel()
	for _, a := range groups() {
		_, one := initiator(t, a.ID, constant(0x5a))
		_, two := initiator(t, a.ID, constant(0x5a))
		_, other := initiator(t, a.ID, constant(0x5b))
		if !bytes.Equal(one, two) || bytes.Equal(one, other) {
			t.Errorf("%s: the offer is not a function of the reader", a.Keyword)
		}
		if _, err := NewInitiator(a.ID, bytes.NewReader(make([]byte, 7))); err == nil {
			t.Errorf("%s: a private value of 7 octets", a.Keyword)
		}
	}
}

// Values of a curve's group order and above are drawn again, and a reader that never yields a good one is an error rather
// than an endless loop.
func TestECPDrawsByRejection(t *testing.T) {
	t.Parallel()
	for _, g := range []ecpGroup{ecp256, ecp384, ecp521} {
		zero := make([]byte, len(g.order))
		last := bytes.Clone(g.order)
		last[len(last)-1]--
		d, err := g.draw(bytes.NewReader(slices.Concat(g.order, zero, bytes.Repeat([]byte{0xff}, len(g.order)), last)))
		if err != nil || !bytes.Equal(d, last) {
			t.Errorf("%s: %x (%v), want the order less 1", g.curve, d, err)
		}
		if _, err := g.public(last); err != nil {
			t.Errorf("%s: crypto/ecdh refuses what was drawn: %v", g.curve, err)
		}
		for _, c := range []constant{0, 0xff} {
			if _, err := g.draw(c); err == nil {
				t.Errorf("%s: a value from a reader of %#x only", g.curve, byte(c))
			}
		}
	}
	if _, err := modp2048.draw(constant(0)); err == nil {
		t.Error("a MODP exponent of zero")
	}
}

// The slow half is a job for any goroutine: under -race this shows that it only reads.
func TestSlowHalfChangesNothing(t *testing.T) {
	t.Parallel()
	for _, a := range groups() {
		if OfferLen(a.ID) > 256 {
			continue
		}
		i, offer := initiator(t, a.ID, rand.Reader)
		r, err := NewResponder(a.ID, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		_, want, err := r.Answer(offer)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if again, err := i.Offer(); err != nil || !bytes.Equal(again, offer) {
					t.Errorf("%s: another offer (%v)", a.Keyword, err)
				}
				if _, s, err := r.Answer(offer); err != nil || !s.Equal(want) {
					t.Errorf("%s: another secret (%v)", a.Keyword, err)
				}
			})
		}
		wg.Wait()
		i.Wipe()
		r.Wipe()
		if slices.ContainsFunc(append(bytes.Clone(i.private.Reveal()), r.private.Reveal()...), func(b byte) bool { return b != 0 }) {
			t.Errorf("%s: a private value survives Wipe", a.Keyword)
		}
	}
}

// Whatever a peer sends as key exchange data: no panic, and an error says that it is the peer's.
func FuzzAnswer(f *testing.F) {
	type side struct {
		method uint16
		r      *Responder
	}
	var sides []side
	for _, m := range []uint16{policy.KEX25519, policy.KEECP256, policy.KEECP384, policy.KEModp2048, policy.KEMLKEM768, policy.KEMLKEM512} {
		r, err := NewResponder(m, constant(0x17))
		if err != nil {
			f.Fatal(err)
		}
		sides = append(sides, side{m, r})
		_, offer := initiator(f, m, constant(0x42))
		f.Add(uint8(len(sides)-1), offer)
		f.Add(uint8(len(sides)-1), offer[:len(offer)-1])
		f.Add(uint8(len(sides)-1), make([]byte, len(offer)))
	}
	f.Fuzz(func(t *testing.T, which uint8, offer []byte) {
		s := sides[int(which)%len(sides)]
		answer, shared, err := s.r.Answer(offer)
		if err != nil {
			if !errors.Is(err, ErrPublicValue) || answer != nil || shared.Len() != 0 {
				t.Fatalf("method %d: %v", s.method, err)
			}
			return
		}
		if len(offer) != OfferLen(s.method) || len(answer) != AnswerLen(s.method) || shared.Len() == 0 {
			t.Fatalf("method %d: an offer of %d octets was answered with %d", s.method, len(offer), len(answer))
		}
	})
}
