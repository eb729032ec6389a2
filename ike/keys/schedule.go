package keys

import (
	"encoding/binary"
	"fmt"
	"slices"

	"coati/policy"
)

// IKEKeys are the seven keys of an IKE SA (RFC 7296, section 2.14). The i and r are the SA's original initiator and
// responder. Ai and Ar are empty with a combined-mode cipher; Ei and Er end with the salt, if the cipher has one.
type IKEKeys struct{ D, Ai, Ar, Ei, Er, Pi, Pr policy.Secret }

// Wipe overwrites all of them.
func (k IKEKeys) Wipe() {
	for _, s := range []policy.Secret{k.D, k.Ai, k.Ar, k.Ei, k.Er, k.Pi, k.Pr} {
		s.Wipe()
	}
}

// ChildKeys are the keys of a pair of Child SAs (RFC 7296, section 2.17). The I and R are the initiator and responder of
// the exchange that made the pair, whoever began the IKE SA: EncrI and IntegI protect what its initiator sends.
type ChildKeys struct{ EncrI, IntegI, EncrR, IntegR policy.Secret }

// Wipe overwrites all of them.
func (k ChildKeys) Wipe() {
	for _, s := range []policy.Secret{k.EncrI, k.IntegI, k.EncrR, k.IntegR} {
		s.Wipe()
	}
}

// SKEYSEED is prf(Ni | Nr, g^ir) of the initial exchange (RFC 7296, section 2.14).
func SKEYSEED(prf PRF, ni, nr []byte, shared policy.Secret) policy.Secret {
	key := slices.Concat(prf.ofNonce(ni), prf.ofNonce(nr))
	return policy.NewSecret(prf.Sum(key, shared.Reveal()))
}

// RekeySKEYSEED is prf(SK_d, g^ir | Ni | Nr) with prf and SK_d of the old IKE SA, the rest of the rekeying exchange
// (RFC 7296, section 2.18). The new SA's keys then come from DeriveIKE with the new SA's PRF. The secrets of additional key
// exchanges follow (RFC 9370, section 2.2.4). With the nonces of IKE_SA_INIT it is also SKEYSEED(n), after an additional key
// exchange before the IKE SA is established (section 2.2.2 there).
func RekeySKEYSEED(prf PRF, skd policy.Secret, shared policy.Secret, ni, nr []byte, more ...policy.Secret) policy.Secret {
	return policy.NewSecret(prf.Sum(skd.Reveal(), append([][]byte{shared.Reveal(), ni, nr}, reveal(more)...)...))
}

// WithPPK passes SK_d, SK_pi and SK_pr through a post-quantum pre-shared key: prf+(PPK, SK_d') and so on (RFC 8784, section 3).
// The other keys are those given.
func WithPPK(prf PRF, ppk policy.Secret, k IKEKeys) (IKEKeys, error) {
	for _, s := range []*policy.Secret{&k.D, &k.Pi, &k.Pr} {
		b, err := prf.Plus(ppk.Reveal(), s.Len(), s.Reveal())
		if err != nil {
			return IKEKeys{}, err
		}
		*s = policy.NewSecret(b)
	}
	return k, nil
}

func reveal(secrets []policy.Secret) [][]byte {
	out := make([][]byte, len(secrets))
	for i, s := range secrets {
		out[i] = s.Reveal()
	}
	return out
}

// DeriveIKE makes the keys of an IKE SA (RFC 7296, section 2.14). For a combined-mode cipher integ is the zero Transform
// or policy.IntegNone.
func DeriveIKE(prf PRF, encr, integ policy.Transform, skeyseed policy.Secret, ni, nr []byte, spii, spir uint64) (IKEKeys, error) {
	e, a, err := keyLens(encr, integ)
	if err != nil {
		return IKEKeys{}, err
	}
	spis := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, spii), spir)
	d := prf.Size()
	stream, err := prf.Plus(skeyseed.Reveal(), 3*d+2*a+2*e, ni, nr, spis)
	if err != nil {
		return IKEKeys{}, err
	}
	s := cut(stream, d, a, a, e, e, d, d)
	return IKEKeys{D: s[0], Ai: s[1], Ar: s[2], Ei: s[3], Er: s[4], Pi: s[5], Pr: s[6]}, nil
}

// DeriveChild makes KEYMAT (RFC 7296, section 2.17): prf+(SK_d, [g^ir |] Ni | Nr). The shared secret has length 0 without a
// key exchange of its own; the nonces are those of the exchange that makes the pair, IKE_SA_INIT's for the first. The secrets
// of additional key exchanges follow (RFC 9370, section 2.2.4).
func DeriveChild(prf PRF, encr, integ policy.Transform, skd, shared policy.Secret, ni, nr []byte, more ...policy.Secret) (ChildKeys, error) {
	e, a, err := keyLens(encr, integ)
	if err != nil {
		return ChildKeys{}, err
	}
	stream, err := prf.Plus(skd.Reveal(), 2*e+2*a, append([][]byte{shared.Reveal(), ni, nr}, reveal(more)...)...)
	if err != nil {
		return ChildKeys{}, err
	}
	s := cut(stream, e, a, e, a)
	return ChildKeys{EncrI: s[0], IntegI: s[1], EncrR: s[2], IntegR: s[3]}, nil
}

// keyLens are the octets that the two algorithms of a proposal draw; integ 0 for a combined-mode cipher.
func keyLens(encr, integ policy.Transform) (e, a int, err error) {
	ea, ia, err := algorithms(encr, integ)
	if err != nil {
		return 0, 0, err
	}
	if ia != nil {
		a = ia.KeyLen
	}
	return ea.KeyLen, a, nil
}

// algorithms looks both up; the second is nil exactly if the first is a combined-mode cipher.
func algorithms(encr, integ policy.Transform) (*policy.Algorithm, *policy.Algorithm, error) {
	ea := encr.Algorithm()
	if ea == nil || ea.Type != policy.TransformENCR {
		return nil, nil, fmt.Errorf("no encryption algorithm %s here", encr)
	}
	none := integ == policy.Transform{} || integ == policy.Transform{Type: policy.TransformINTEG, ID: policy.IntegNone}
	if ea.AEAD {
		if !none {
			return nil, nil, fmt.Errorf("%s needs no integrity algorithm, %s given", ea.Keyword, integ)
		}
		return ea, nil, nil
	}
	if none {
		return nil, nil, fmt.Errorf("%s needs an integrity algorithm", ea.Keyword)
	}
	ia := integ.Algorithm()
	if ia == nil || ia.Type != policy.TransformINTEG {
		return nil, nil, fmt.Errorf("no integrity algorithm %s here", integ)
	}
	return ea, ia, nil
}

// cut splits the stream into secrets, each with octets of its own so that wiping one leaves the others.
func cut(stream []byte, lens ...int) []policy.Secret {
	out := make([]policy.Secret, len(lens))
	for i, n := range lens {
		out[i] = policy.NewSecret(stream[:n:n])
		stream = stream[n:]
	}
	return out
}
