package auth

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"time"

	"coati/ike/wire"
	"coati/policy"
)

// Claim is what a peer says to prove who it is by a signature.
type Claim struct {
	Identity  policy.Identity
	Method    wire.AuthMethod
	Data      []byte   // of its AUTH payload
	Octets    []byte   // what it must have signed
	V1        bool     // the signature is one of IKEv1, of Octets as they are; Method and Announced say nothing
	Announced bool     // both ends announced their signature hashes
	Certs     [][]byte // X.509 certificates, its own first
	RawKeys   [][]byte // raw public keys
	Now       time.Time

	chain []*x509.Certificate
}

// Accept is the first of the tunnels that believes the claim, or why the last of them does not, as a sentence for people.
// It is slow: run it as a job. There is at least one tunnel, and each expects a signature.
func (c *Claim) Accept(tunnels []*policy.PeerTunnel) (*policy.PeerTunnel, error) {
	var err error
	for _, t := range tunnels {
		if err = c.believe(t); err == nil {
			return t, nil
		}
	}
	return nil, err
}

func (c *Claim) believe(t *policy.PeerTunnel) error {
	if t.RemoteAuth == policy.ByPublicKey {
		return c.byKey(t)
	}
	if c.chain == nil {
		var err error
		if c.chain, err = ParseChain(c.Certs); err != nil {
			return err
		}
	}
	if err := VerifyChain(c.chain, t.Trust, c.Now); err != nil {
		return err
	}
	if err := MatchIdentity(c.chain[0], c.Identity); err != nil {
		return err
	}
	return c.signedBy(c.chain[0].PublicKey)
}

func (c *Claim) byKey(t *policy.PeerTunnel) error {
	keys, err := KnownKeys(c.RawKeys, t.Trust)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if err = c.signedBy(k); err == nil {
			return nil
		}
	}
	return err
}

func (c *Claim) signedBy(key crypto.PublicKey) error {
	err := error(nil)
	if c.V1 {
		err = verifyV1(key, c.Data, c.Octets)
	} else {
		err = Verify(key, c.Method, c.Data, c.Octets, c.Announced)
	}
	if err != nil {
		return fmt.Errorf("the peer %s is not believed: %w", short(c.Identity.String()), err)
	}
	return nil
}
