package keys

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"fmt"

	"coati/policy"
)

// V1Keys are the keys of an ISAKMP SA of IKEv1 (RFC 2409, section 5, and appendix B for Cipher).
type V1Keys struct {
	ID     policy.Secret // SKEYID
	D      policy.Secret // SKEYID_d: keying material for other SAs
	A      policy.Secret // SKEYID_a: authenticates messages
	E      policy.Secret // SKEYID_e: the cipher's key is made from it
	Cipher policy.Secret
}

// Wipe overwrites all of them.
func (k V1Keys) Wipe() {
	for _, s := range []policy.Secret{k.ID, k.D, k.A, k.E, k.Cipher} {
		s.Wipe()
	}
}

// v1PRFs are the HMACs of the hash that phase 1 negotiates, by the integrity algorithm that names it (RFC 2409, section 4).
var v1PRFs = map[uint16]PRF{
	policy.IntegInsecureMD5: {size: md5.Size, hash: md5.New},
	policy.IntegSHA1:        {size: sha1.Size, hash: sha1.New},
	policy.IntegSHA256:      {size: sha256.Size, hash: sha256.New},
	policy.IntegSHA384:      {size: sha512.Size384, hash: sha512.New384},
	policy.IntegSHA512:      {size: sha512.Size, hash: sha512.New},
}

// NewV1PRF is the pseudorandom function of IKEv1 for a negotiated hash.
func NewV1PRF(hash policy.Transform) (PRF, error) {
	if p, ok := v1PRFs[hash.ID]; ok && hash.Type == policy.TransformINTEG && hash.KeyBits == 0 {
		return p, nil
	}
	return PRF{}, fmt.Errorf("no hash %s for IKEv1 here", hash)
}

// Digest is the hash below the HMAC, of parts[0] | parts[1] | ...
func (p PRF) Digest(parts ...[]byte) []byte {
	h := p.hash()
	for _, b := range parts {
		h.Write(b)
	}
	return h.Sum(nil)
}

// V1PSK is SKEYID for a pre-shared key: prf(psk, Ni_b | Nr_b).
func V1PSK(prf PRF, psk policy.Secret, ni, nr []byte) policy.Secret {
	return policy.NewSecret(prf.Sum(psk.Reveal(), ni, nr))
}

// V1Signature is SKEYID for signatures: prf(Ni_b | Nr_b, g^xy).
func V1Signature(prf PRF, ni, nr []byte, shared policy.Secret) policy.Secret {
	key := append(append(make([]byte, 0, len(ni)+len(nr)), ni...), nr...)
	return policy.NewSecret(prf.Sum(key, shared.Reveal()))
}

// DeriveV1 makes the keys that follow from SKEYID, which it takes over, and the cipher's key.
func DeriveV1(prf PRF, encr policy.Transform, skeyid, shared policy.Secret, cookieI, cookieR uint64) (V1Keys, error) {
	n, err := v1KeyLen(encr)
	if err != nil {
		return V1Keys{}, err
	}
	cookies := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, cookieI), cookieR)
	k := V1Keys{ID: skeyid}
	k.D = policy.NewSecret(prf.Sum(skeyid.Reveal(), shared.Reveal(), cookies, []byte{0}))
	k.A = policy.NewSecret(prf.Sum(skeyid.Reveal(), k.D.Reveal(), shared.Reveal(), cookies, []byte{1}))
	k.E = policy.NewSecret(prf.Sum(skeyid.Reveal(), k.A.Reveal(), shared.Reveal(), cookies, []byte{2}))
	k.Cipher = v1CipherKey(prf, k.E, n)
	return k, nil
}

// v1CipherKey is the first n octets of SKEYID_e, or if it is too short of K1 | K2 | ..., K1 = prf(SKEYID_e, 0),
// K2 = prf(SKEYID_e, K1) (RFC 2409, appendix B).
func v1CipherKey(prf PRF, e policy.Secret, n int) policy.Secret {
	if e.Len() >= n {
		return policy.NewSecret(append([]byte(nil), e.Reveal()[:n]...))
	}
	out := make([]byte, 0, n+prf.Size())
	last := []byte{0}
	for len(out) < n {
		last = prf.Sum(e.Reveal(), last)
		out = append(out, last...)
	}
	clear(out[n:])
	return policy.NewSecret(out[:n:n])
}

// V1Proof is HASH_I or HASH_R (RFC 2409, section 5): prf(SKEYID, mine | theirs | my cookie | their cookie | SAi_b | ID_b) of the public
// values and the ID payload's body of who sends it. sa is the body of the initiator's SA payload.
func V1Proof(prf PRF, skeyid policy.Secret, mine, theirs []byte, cookie, other uint64, sa, id []byte) []byte {
	cookies := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, cookie), other)
	return prf.Sum(skeyid.Reveal(), mine, theirs, cookies, sa, id)
}

// V1Hash1 is HASH(1), also that of an informational exchange: prf(SKEYID_a, M-ID | rest) (RFC 2409, sections 5.5 and 5.7).
func V1Hash1(prf PRF, a policy.Secret, id uint32, rest []byte) []byte {
	return prf.Sum(a.Reveal(), binary.BigEndian.AppendUint32(nil, id), rest)
}

// V1Hash2 is HASH(2): prf(SKEYID_a, M-ID | Ni_b | rest).
func V1Hash2(prf PRF, a policy.Secret, id uint32, ni, rest []byte) []byte {
	return prf.Sum(a.Reveal(), binary.BigEndian.AppendUint32(nil, id), ni, rest)
}

// V1Hash3 is HASH(3): prf(SKEYID_a, 0 | M-ID | Ni_b | Nr_b).
func V1Hash3(prf PRF, a policy.Secret, id uint32, ni, nr []byte) []byte {
	return prf.Sum(a.Reveal(), binary.BigEndian.AppendUint32([]byte{0}, id), ni, nr)
}

// V1Child is KEYMAT for one SA, cut into the cipher's and the integrity algorithm's key: K1 | K2 | ..., K1 = prf(SKEYID_d, seed),
// K2 = prf(SKEYID_d, K1 | seed), seed = [g(qm)^xy |] protocol | SPI | Ni_b | Nr_b (RFC 2409, section 5.5). The SPI is that of the
// SA's receiver. Without PFS the shared secret has length 0.
func V1Child(prf PRF, encr, integ policy.Transform, d, shared policy.Secret, protocol policy.Protocol, spi policy.SPI, ni, nr []byte) (e, a policy.Secret, err error) {
	ne, na, err := keyLens(encr, integ)
	if err != nil {
		return e, a, err
	}
	which := binary.BigEndian.AppendUint32([]byte{byte(protocol)}, uint32(spi))
	out := make([]byte, 0, ne+na+prf.Size())
	var last []byte
	for len(out) < ne+na {
		last = prf.Sum(d.Reveal(), last, shared.Reveal(), which, ni, nr)
		out = append(out, last...)
	}
	clear(out[ne+na:])
	s := cut(out, ne, na)
	return s[0], s[1], nil
}
