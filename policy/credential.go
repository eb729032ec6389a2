package policy

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"reflect"
	"slices"
	"strings"
)

// AuthBy says how a party proves who it is (RFC 7296, section 2.15).
type AuthBy uint8

const (
	ByPSK       AuthBy = iota // a pre-shared key
	ByCert                    // a signature, with an X.509 certificate for its key
	ByPublicKey               // a signature by a key that is known, without certificate (RFC 7670)
	ByNobody                  // not at all (RFC 7619)
	ByEAP                     // by EAP (RFC 7296, section 2.16): the initiator; the responder too if it is by EAP alone (RFC 5998)
)

func (b AuthBy) String() string { return [...]string{"psk", "cert", "pubkey", "null", "eap"}[b] }

// Signs says whether it is by signature.
func (b AuthBy) Signs() bool { return b == ByCert || b == ByPublicKey }

// Revocation says what becomes of a peer whose authorities' revocation lists are not at hand.
type Revocation uint8

const (
	RevocationOff         Revocation = iota // lists are not looked at
	RevocationIfAvailable                   // a certificate is good unless a current list names it
	RevocationRequired                      // it is good only if a current list of its issuer does not name it
)

func (r Revocation) String() string { return [...]string{"off", "if-available", "required", ""}[r&3] }

// PrivateKey signs for us. It prints as [redacted] under every verb.
type PrivateKey struct{ signer crypto.Signer }

// NewPrivateKey wraps a key, which may live in hardware.
func NewPrivateKey(s crypto.Signer) PrivateKey { return PrivateKey{s} }

// Signer is the key, for who signs with it; nil if there is none.
func (k PrivateKey) Signer() crypto.Signer { return k.signer }

func (k PrivateKey) String() string                { return redacted }
func (k PrivateKey) GoString() string              { return redacted }
func (k PrivateKey) Format(f fmt.State, verb rune) { _, _ = io.WriteString(f, redacted) }
func (k PrivateKey) MarshalText() ([]byte, error)  { return []byte(redacted), nil }
func (k PrivateKey) LogValue() slog.Value          { return slog.StringValue(redacted) }

// Credential is what we prove ourselves with by signature. It is never changed once made.
type Credential struct {
	Key PrivateKey
	// Chain is our certificate and those between it and the authority; empty for a raw public key.
	Chain []*x509.Certificate
	// PKCS1 has an RSA key sign by RSASSA-PKCS1-v1_5 where it could by RSASSA-PSS.
	PKCS1 bool
}

func (c Credential) String() string                { return redacted }
func (c Credential) GoString() string              { return redacted }
func (c Credential) Format(f fmt.State, verb rune) { _, _ = io.WriteString(f, redacted) }
func (c Credential) MarshalText() ([]byte, error)  { return []byte(redacted), nil }
func (c Credential) LogValue() slog.Value          { return slog.StringValue(redacted) }

// Identity is what a certificate says we are: its subject, or the first of its alternative names if that is empty.
func (c *Credential) Identity() Identity {
	if c == nil || len(c.Chain) == 0 {
		return Identity{}
	}
	switch leaf := c.Chain[0]; {
	case len(leaf.Subject.Names) > 0:
		return Identity{IDDN, leaf.RawSubject}
	case len(leaf.DNSNames) > 0:
		return Identity{IDFQDN, []byte(leaf.DNSNames[0])}
	case len(leaf.EmailAddresses) > 0:
		return Identity{IDEmail, []byte(leaf.EmailAddresses[0])}
	case len(leaf.IPAddresses) > 0:
		return Identity{IDIPv6, leaf.IPAddresses[0]}.unmapped()
	}
	return Identity{}
}

// Equal says whether both prove the same: key and certificates. Either may be nil.
func (c *Credential) Equal(o *Credential) bool {
	if c == nil || o == nil {
		return c == o
	}
	return c.PKCS1 == o.PKCS1 && EqualKeys(c.Key.Public(), o.Key.Public()) && slices.EqualFunc(c.Chain, o.Chain, (*x509.Certificate).Equal)
}

// Public is the public key; nil if there is none.
func (k PrivateKey) Public() crypto.PublicKey {
	if k.signer == nil {
		return nil
	}
	return k.signer.Public()
}

// EqualKeys compares public keys of any kind.
func EqualKeys(a, b crypto.PublicKey) bool {
	x, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	if !ok {
		return a == nil && b == nil
	}
	return b != nil && x.Equal(b)
}

// Trust is by what a peer's signature is believed. It is never changed once made.
type Trust struct {
	Authorities []*x509.Certificate
	Lists       []*x509.RevocationList
	Revocation  Revocation
	// AnyUsage accepts certificates whose extended key usage leaves IKE out (against RFC 4945, section 5.1.3.12).
	AnyUsage bool
	// Keys are the peer's, for ByPublicKey.
	Keys []crypto.PublicKey
}

// Equal says whether both believe the same. Either may be nil.
func (t *Trust) Equal(o *Trust) bool {
	if t == nil || o == nil {
		return t == o
	}
	return t.Revocation == o.Revocation && t.AnyUsage == o.AnyUsage &&
		slices.EqualFunc(t.Authorities, o.Authorities, (*x509.Certificate).Equal) &&
		slices.EqualFunc(t.Keys, o.Keys, EqualKeys) &&
		slices.EqualFunc(t.Lists, o.Lists, func(a, b *x509.RevocationList) bool { return reflect.DeepEqual(a.Raw, b.Raw) })
}

// Certifiable says whether a certificate can prove an identity of this type (RFC 4945, section 3.1).
func Certifiable(t IDType) bool {
	return slices.Contains([]IDType{IDDN, IDFQDN, IDEmail, IDIPv4, IDIPv6}, t)
}

// In says whether a certificate has the identity: a distinguished name as its subject, others as alternative names. Names in
// the subject do not stand for addresses or host names.
func (id Identity) In(c *x509.Certificate) bool {
	switch id.Type {
	case IDDN:
		return equalDN(id.Data, c.RawSubject)
	case IDFQDN:
		return slices.ContainsFunc(c.DNSNames, func(s string) bool { return strings.EqualFold(s, string(id.Data)) })
	case IDEmail:
		return slices.ContainsFunc(c.EmailAddresses, func(s string) bool { return strings.EqualFold(s, string(id.Data)) })
	case IDIPv4, IDIPv6:
		return slices.ContainsFunc(c.IPAddresses, net.IP(id.Data).Equal)
	}
	return false
}
