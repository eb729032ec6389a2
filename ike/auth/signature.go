package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha1" // of method 1
	_ "crypto/sha256"
	_ "crypto/sha512"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"

	"coati/ike/wire"
	"coati/policy"
)

// Signatures, RFC 7296, section 2.15: the classic methods, whose hash is fixed, and RFC 7427's, which says in front of the
// signature how it was made. When both ends announced their hashes the second kind is the rule (RFC 7427, section 3).

// Hash is a hash algorithm that a party can verify signatures with (RFC 7427, section 4).
type Hash uint16

// The hash algorithms.
const (
	HashSHA1     Hash = 1 // never announced, never accepted in RFC 7427's method (RFC 8247, section 3.2)
	HashSHA256   Hash = 2
	HashSHA384   Hash = 3
	HashSHA512   Hash = 4
	HashIdentity Hash = 5 // the octets themselves: EdDSA (RFC 8420)
)

func (h Hash) String() string {
	switch h {
	case HashSHA1:
		return "SHA-1"
	case HashSHA256:
		return "SHA2-256"
	case HashSHA384:
		return "SHA2-384"
	case HashSHA512:
		return "SHA2-512"
	case HashIdentity:
		return "identity"
	}
	return fmt.Sprintf("hash %d", uint16(h))
}

var cryptoHash = map[Hash]crypto.Hash{HashSHA256: crypto.SHA256, HashSHA384: crypto.SHA384, HashSHA512: crypto.SHA512}

// ownHashes are those we verify with.
var ownHashes = []Hash{HashSHA256, HashSHA384, HashSHA512, HashIdentity}

// AnnounceHashes is the data of our SIGNATURE_HASH_ALGORITHMS.
func AnnounceHashes() []byte {
	var out []byte
	for _, h := range ownHashes {
		out = binary.BigEndian.AppendUint16(out, uint16(h))
	}
	return out
}

// maxHashes is how many the peer may announce; the registry has fewer than ten.
const maxHashes = 64

// ParseHashes reads the data of a peer's SIGNATURE_HASH_ALGORITHMS; those beyond maxHashes are left out.
func ParseHashes(data []byte) []Hash {
	var out []Hash
	for ; len(data) >= 2 && len(out) < maxHashes; data = data[2:] {
		out = append(out, Hash(binary.BigEndian.Uint16(data)))
	}
	return out
}

// The algorithm identifiers of RFC 7427, appendix A, and RFC 8420.
var (
	oidSHA256RSA   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}
	oidSHA384RSA   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 12}
	oidSHA512RSA   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 13}
	oidPSS         = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}
	oidMGF1        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 8}
	oidSHA256ECDSA = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidSHA384ECDSA = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}
	oidSHA512ECDSA = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}
	oidEd25519     = asn1.ObjectIdentifier{1, 3, 101, 112}

	oidSHA256 = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidSHA384 = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}
	oidSHA512 = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}
)

type keyKind uint8

const (
	keyRSA keyKind = iota
	keyECDSA
	keyEd25519
)

// algorithm is how one signature is made.
type algorithm struct {
	key  keyKind
	hash Hash
	pss  bool
	salt int // octets, of PSS
}

var fixedAlgorithms = []struct {
	oid asn1.ObjectIdentifier
	algorithm
}{
	{oidSHA256RSA, algorithm{key: keyRSA, hash: HashSHA256}},
	{oidSHA384RSA, algorithm{key: keyRSA, hash: HashSHA384}},
	{oidSHA512RSA, algorithm{key: keyRSA, hash: HashSHA512}},
	{oidSHA256ECDSA, algorithm{key: keyECDSA, hash: HashSHA256}},
	{oidSHA384ECDSA, algorithm{key: keyECDSA, hash: HashSHA384}},
	{oidSHA512ECDSA, algorithm{key: keyECDSA, hash: HashSHA512}},
	{oidEd25519, algorithm{key: keyEd25519, hash: HashIdentity}},
}

var hashOIDs = map[Hash]asn1.ObjectIdentifier{HashSHA256: oidSHA256, HashSHA384: oidSHA384, HashSHA512: oidSHA512}

type algorithmIdentifier struct {
	Algorithm  asn1.ObjectIdentifier
	Parameters asn1.RawValue `asn1:"optional"`
}

// pssParameters are RFC 8017, appendix A.2.3's. What is left out means SHA-1, which is refused.
type pssParameters struct {
	Hash    algorithmIdentifier `asn1:"explicit,tag:0"`
	MGF     algorithmIdentifier `asn1:"explicit,tag:1"`
	Salt    int                 `asn1:"explicit,tag:2"`
	Trailer int                 `asn1:"optional,explicit,tag:3,default:1"`
}

var null = asn1.RawValue{Tag: asn1.TagNull}

// identifier is the AlgorithmIdentifier in DER.
func (a algorithm) identifier() ([]byte, error) {
	id := algorithmIdentifier{}
	if a.pss {
		hash := algorithmIdentifier{hashOIDs[a.hash], null}
		inner, err := asn1.Marshal(hash)
		if err != nil {
			return nil, err
		}
		params, err := asn1.Marshal(pssParameters{Hash: hash, MGF: algorithmIdentifier{oidMGF1, asn1.RawValue{FullBytes: inner}}, Salt: a.salt, Trailer: 1})
		if err != nil {
			return nil, err
		}
		return asn1.Marshal(algorithmIdentifier{oidPSS, asn1.RawValue{FullBytes: params}})
	}
	for _, f := range fixedAlgorithms {
		if f.algorithm == a {
			if id.Algorithm = f.oid; a.key == keyRSA {
				id.Parameters = null
			}
			return asn1.Marshal(id)
		}
	}
	return nil, fmt.Errorf("ike/auth: no identifier for %+v", a)
}

// parseSignature splits the data of RFC 7427's method into how the signature was made and the signature.
func parseSignature(data []byte) (algorithm, []byte, error) {
	if len(data) < 1 || int(data[0]) > len(data)-1 {
		return algorithm{}, nil, errors.New("the signature is shorter than it says")
	}
	der, sig := data[1:1+int(data[0])], data[1+int(data[0]):]
	var id algorithmIdentifier
	if rest, err := asn1.Unmarshal(der, &id); err != nil || len(rest) > 0 {
		return algorithm{}, nil, errors.New("the signature's algorithm identifier is malformed")
	}
	if id.Algorithm.Equal(oidPSS) {
		a, err := parsePSS(id.Parameters.FullBytes)
		return a, sig, err
	}
	for _, f := range fixedAlgorithms {
		if !f.oid.Equal(id.Algorithm) {
			continue
		}
		if p := id.Parameters; len(p.FullBytes) > 0 && (p.Class != asn1.ClassUniversal || p.Tag != asn1.TagNull || len(p.Bytes) > 0) {
			return algorithm{}, nil, errors.New("the signature's algorithm has parameters it must not have")
		}
		return f.algorithm, sig, nil
	}
	return algorithm{}, nil, fmt.Errorf("the signature algorithm %s is not accepted", id.Algorithm)
}

func parsePSS(der []byte) (algorithm, error) {
	var p pssParameters
	var mgfHash algorithmIdentifier
	if rest, err := asn1.Unmarshal(der, &p); err != nil || len(rest) > 0 || p.Trailer != 1 || !p.MGF.Algorithm.Equal(oidMGF1) {
		return algorithm{}, errors.New("the RSASSA-PSS parameters are malformed, or mean SHA-1, which is not accepted")
	}
	if rest, err := asn1.Unmarshal(p.MGF.Parameters.FullBytes, &mgfHash); err != nil || len(rest) > 0 {
		return algorithm{}, errors.New("the RSASSA-PSS parameters are malformed")
	}
	for h, oid := range hashOIDs {
		if oid.Equal(p.Hash.Algorithm) && oid.Equal(mgfHash.Algorithm) && p.Salt == cryptoHash[h].Size() {
			return algorithm{key: keyRSA, hash: h, pss: true, salt: p.Salt}, nil
		}
	}
	return algorithm{}, errors.New("the RSASSA-PSS parameters are not accepted: want one hash of SHA-2 for all, and a salt as long as it")
}

// Verify checks a peer's signature over octets. announced says that both ends announced their hashes. The error is a
// sentence for people.
func Verify(key crypto.PublicKey, method wire.AuthMethod, data, octets []byte, announced bool) error {
	a, sig := algorithm{}, data
	switch method {
	case wire.AuthDigitalSignature:
		if !announced {
			return errors.New("the peer signs by RFC 7427, which was not agreed upon")
		}
		var err error
		if a, sig, err = parseSignature(data); err != nil {
			return err
		}
	case wire.AuthRSASignature:
		if announced {
			return errors.New("the peer signs with SHA-1, though both ends can do better")
		}
		a = algorithm{key: keyRSA, hash: HashSHA1}
	case wire.AuthECDSA256, wire.AuthECDSA384, wire.AuthECDSA512:
		return verifyFixedECDSA(key, method, data, octets)
	default:
		return fmt.Errorf("the peer authenticates by %s, which is no signature we verify", method)
	}
	return a.verify(key, sig, octets)
}

var errSignature = errors.New("the signature is not that of the certificate's key")

func (a algorithm) verify(key crypto.PublicKey, sig, octets []byte) error {
	ok := false
	switch k := key.(type) {
	case *rsa.PublicKey:
		if a.key != keyRSA {
			return errors.New("the signature is not of the kind of the key, which is for RSA")
		}
		h := crypto.SHA1
		if a.hash != HashSHA1 {
			h = cryptoHash[a.hash]
		}
		if a.pss {
			ok = rsa.VerifyPSS(k, h, digest(h, octets), sig, &rsa.PSSOptions{SaltLength: a.salt}) == nil
		} else {
			ok = rsa.VerifyPKCS1v15(k, h, digest(h, octets), sig) == nil
		}
	case *ecdsa.PublicKey:
		if a.key != keyECDSA {
			return errors.New("the signature is not of the kind of the key, which is for ECDSA")
		}
		ok = ecdsa.VerifyASN1(k, digest(cryptoHash[a.hash], octets), sig)
	case ed25519.PublicKey:
		if a.key != keyEd25519 {
			return errors.New("the signature is not of the kind of the key, which is for Ed25519")
		}
		ok = len(k) == ed25519.PublicKeySize && ed25519.Verify(k, octets, sig)
	default:
		return fmt.Errorf("the key is of a kind that is not accepted")
	}
	if !ok {
		return errSignature
	}
	return nil
}

func digest(h crypto.Hash, octets []byte) []byte {
	d := h.New()
	d.Write(octets)
	return d.Sum(nil)
}

// classicECDSA are RFC 4754's methods: r and s, each as long as the curve's order.
var classicECDSA = map[wire.AuthMethod]struct {
	curve elliptic.Curve
	hash  crypto.Hash
	size  int // octets of r, and of s
}{
	wire.AuthECDSA256: {elliptic.P256(), crypto.SHA256, 32},
	wire.AuthECDSA384: {elliptic.P384(), crypto.SHA384, 48},
	wire.AuthECDSA512: {elliptic.P521(), crypto.SHA512, 66},
}

type ecdsaSignature struct{ R, S *big.Int }

func verifyFixedECDSA(key crypto.PublicKey, method wire.AuthMethod, sig, octets []byte) error {
	c := classicECDSA[method]
	k, ok := key.(*ecdsa.PublicKey)
	if !ok || k.Curve != c.curve {
		return fmt.Errorf("the peer signs by %s, and its key is not of that kind", method)
	}
	return verifyHalves(k, c.size, sig, digest(c.hash, octets))
}

// verifyHalves checks a signature that is its two integers, of size octets each.
func verifyHalves(key *ecdsa.PublicKey, size int, sig, digest []byte) error {
	if len(sig) != 2*size {
		return errSignature
	}
	der, err := asn1.Marshal(ecdsaSignature{new(big.Int).SetBytes(sig[:size]), new(big.Int).SetBytes(sig[size:])})
	if err != nil || !ecdsa.VerifyASN1(key, digest, der) {
		return errSignature
	}
	return nil
}

// signHalves makes such a signature.
func signHalves(signer crypto.Signer, size int, seed [32]byte, digest []byte, hash crypto.Hash) ([]byte, error) {
	der, err := signWith(signer, seed, digest, hash)
	if err != nil {
		return nil, fmt.Errorf("our key cannot sign: %w", err)
	}
	var s ecdsaSignature
	if _, err := asn1.Unmarshal(der, &s); err != nil {
		return nil, fmt.Errorf("our key cannot sign: %w", err)
	}
	return append(s.R.FillBytes(make([]byte, size)), s.S.FillBytes(make([]byte, size))...), nil
}

// Sign makes the AUTH payload of a signature over octets. peer are the hashes that the peer announced; none: it knows the
// classic methods only. The seed, from the injected source, is for what a signature needs of chance. It is slow: run it as
// a job.
func Sign(c *policy.Credential, peer []Hash, seed [32]byte, octets []byte) (*wire.Auth, error) {
	signer := c.Key.Signer()
	if signer == nil {
		return nil, errors.New("no key is configured to sign with")
	}
	if len(peer) == 0 {
		return signClassic(signer, seed, octets)
	}
	a, err := choose(signer.Public(), peer, !c.PKCS1)
	if err != nil {
		return nil, err
	}
	id, err := a.identifier()
	if err != nil {
		return nil, err
	}
	message, opts := octets, crypto.SignerOpts(crypto.Hash(0))
	if a.key != keyEd25519 {
		h := cryptoHash[a.hash]
		if message, opts = digest(h, octets), h; a.pss {
			opts = &rsa.PSSOptions{SaltLength: a.salt, Hash: h}
		}
	}
	sig, err := signWith(signer, seed, message, opts)
	if err != nil {
		return nil, fmt.Errorf("our key cannot sign: %w", err)
	}
	return &wire.Auth{Method: wire.AuthDigitalSignature, Data: slices.Concat([]byte{byte(len(id))}, id, sig)}, nil
}

// signWith signs. ECDSA with a key at hand is deterministic (RFC 6979).
func signWith(signer crypto.Signer, seed [32]byte, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	if _, ours := signer.(*ecdsa.PrivateKey); ours {
		return signer.Sign(nil, message, opts)
	}
	return signer.Sign(rand.NewChaCha8(seed), message, opts)
}

// choose picks how a key signs for a peer that verifies with these hashes.
func choose(key crypto.PublicKey, peer []Hash, pss bool) (algorithm, error) {
	var kind keyKind
	likes := []Hash{HashSHA256, HashSHA512, HashSHA384}
	switch k := key.(type) {
	case *rsa.PublicKey:
		kind = keyRSA
	case *ecdsa.PublicKey:
		kind = keyECDSA
		switch k.Curve {
		case elliptic.P384():
			likes = []Hash{HashSHA384, HashSHA512, HashSHA256}
		case elliptic.P521():
			likes = []Hash{HashSHA512, HashSHA384, HashSHA256}
		}
	case ed25519.PublicKey:
		kind, likes = keyEd25519, []Hash{HashIdentity}
	default:
		return algorithm{}, errors.New("our key is of a kind that does not sign for IKE")
	}
	for _, h := range likes {
		if slices.Contains(peer, h) {
			a := algorithm{key: kind, hash: h}
			if kind == keyRSA && pss {
				a.pss, a.salt = true, cryptoHash[h].Size()
			}
			return a, nil
		}
	}
	return algorithm{}, fmt.Errorf("no hash in common for signatures: our key signs with %s, the peer verifies with %s", list(likes), list(peer))
}

func list(hs []Hash) string {
	words := make([]string, len(hs))
	for i, h := range hs {
		words[i] = h.String()
	}
	return strings.Join(words, ", ")
}

// signClassic signs for a peer that does not know RFC 7427.
func signClassic(signer crypto.Signer, seed [32]byte, octets []byte) (*wire.Auth, error) {
	switch k := signer.Public().(type) {
	case *rsa.PublicKey:
		sig, err := signWith(signer, seed, digest(crypto.SHA1, octets), crypto.SHA1)
		if err != nil {
			return nil, fmt.Errorf("our key cannot sign: %w", err)
		}
		return &wire.Auth{Method: wire.AuthRSASignature, Data: sig}, nil
	case *ecdsa.PublicKey:
		for _, method := range []wire.AuthMethod{wire.AuthECDSA256, wire.AuthECDSA384, wire.AuthECDSA512} {
			c := classicECDSA[method]
			if k.Curve != c.curve {
				continue
			}
			data, err := signHalves(signer, c.size, seed, digest(c.hash, octets), c.hash)
			return &wire.Auth{Method: method, Data: data}, err
		}
	}
	return nil, errors.New("the peer does not announce signature hashes (RFC 7427), which our kind of key needs")
}
