package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"errors"
	"fmt"

	"coati/policy"
)

// Signatures of IKEv1 are of HASH_I or HASH_R as it is: by RSA without saying which hash made it (RFC 2409, section 5.1), by ECDSA in the
// form of RFC 4754, and without hashing it once more, as strongSwan does it.

// SignV1 is the data of a SIG payload over a hash. It is slow: run it as a job.
func SignV1(c *policy.Credential, seed [32]byte, hash []byte) ([]byte, error) {
	if c == nil || c.Key.Signer() == nil {
		return nil, errors.New("no key is configured to sign with")
	}
	signer := c.Key.Signer()
	switch k := signer.Public().(type) {
	case *rsa.PublicKey:
		sig, err := signWith(signer, seed, hash, crypto.Hash(0))
		if err != nil {
			return nil, fmt.Errorf("our key cannot sign: %w", err)
		}
		return sig, nil
	case *ecdsa.PublicKey:
		if by, ok := hashOfSize[len(hash)]; ok && sizeOfV1(k) > 0 {
			return signHalves(signer, sizeOfV1(k), seed, hash, by)
		}
	}
	return nil, errors.New("IKEv1 signs with RSA and ECDSA keys alone")
}

// verifyV1 checks a peer's signature over a hash.
func verifyV1(key crypto.PublicKey, sig, hash []byte) error {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if rsa.VerifyPKCS1v15(k, 0, hash, sig) != nil {
			return errSignature
		}
		return nil
	case *ecdsa.PublicKey:
		if size := sizeOfV1(k); size > 0 {
			return verifyHalves(k, size, sig, hash)
		}
	}
	return errors.New("the key is of a kind that IKEv1 does not take")
}

// hashOfSize names a hash of so many octets: what a signature's own chance is drawn by.
var hashOfSize = map[int]crypto.Hash{16: crypto.MD5, 20: crypto.SHA1, 32: crypto.SHA256, 48: crypto.SHA384, 64: crypto.SHA512}

// sizeOfV1 is the size of a signature's halves for a key's curve, octets; 0: IKEv1 has no such curve.
func sizeOfV1(k *ecdsa.PublicKey) int {
	for _, c := range classicECDSA {
		if k.Curve == c.curve {
			return c.size
		}
	}
	return 0
}
