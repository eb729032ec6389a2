package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"errors"
	"fmt"

	"coati/policy"
)

// Signatures of IKEv1: by RSA of the hash as it is, without saying which hash made it (RFC 2409, section 5.1); by ECDSA as in IKEv2
// (RFC 4754).

// SignV1 is the data of a SIG payload over a hash. It is slow: run it as a job.
func SignV1(c *policy.Credential, seed [32]byte, hash []byte) ([]byte, error) {
	if c == nil || c.Key.Signer() == nil {
		return nil, errors.New("no key is configured to sign with")
	}
	signer := c.Key.Signer()
	switch signer.Public().(type) {
	case *rsa.PublicKey:
		sig, err := signWith(signer, seed, hash, crypto.Hash(0))
		if err != nil {
			return nil, fmt.Errorf("our key cannot sign: %w", err)
		}
		return sig, nil
	case *ecdsa.PublicKey:
		a, err := signClassic(signer, seed, hash)
		if err != nil {
			return nil, err
		}
		return a.Data, nil
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
		for method, c := range classicECDSA {
			if k.Curve == c.curve {
				return verifyFixedECDSA(k, method, sig, hash)
			}
		}
	}
	return errors.New("the key is of a kind that IKEv1 does not take")
}
