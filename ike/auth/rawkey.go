package auth

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"coati/policy"
)

// RawKey is the data of a CERT payload with a raw public key: SubjectPublicKeyInfo in DER (RFC 7670, section 3).
func RawKey(key crypto.PublicKey) ([]byte, error) { return x509.MarshalPKIXPublicKey(key) }

// KnownKeys are the keys that a peer may have signed with: that of its CERT payload if it is configured, or without one all
// that are. The error is a sentence for people.
func KnownKeys(ders [][]byte, t *policy.Trust) ([]crypto.PublicKey, error) {
	if t == nil || len(t.Keys) == 0 {
		return nil, errors.New("no public key of the peer is configured: see remote-key-file")
	}
	if len(ders) == 0 {
		return t.Keys, nil
	}
	key, err := x509.ParsePKIXPublicKey(ders[0])
	if err != nil {
		return nil, fmt.Errorf("the public key that the peer sends cannot be read: %w", err)
	}
	if !slices.ContainsFunc(t.Keys, func(k crypto.PublicKey) bool { return policy.EqualKeys(k, key) }) {
		return nil, errors.New("the public key that the peer sends is not in remote-key-file")
	}
	return []crypto.PublicKey{key}, nil
}
