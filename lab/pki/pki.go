// Package pki makes certification authorities and certificates for tests, good and bad ones.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"
)

// The kinds of key.
const (
	RSA2048 = "rsa2048"
	P256    = "ecp256"
	P384    = "ecp384"
	P521    = "ecp521"
	Ed25519 = "ed25519"
)

// NewKey makes a key of a kind.
func NewKey(t testing.TB, kind string) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch kind {
	case RSA2048:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case P256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case P384:
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case P521:
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case Ed25519:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		t.Fatalf("no keys of kind %q", kind)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// An Authority signs certificates.
type Authority struct {
	Cert   *x509.Certificate
	Key    crypto.Signer
	serial int64
}

// Validity of all certificates, unless they are to be bad.
var (
	From = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	To   = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
)

// Subject is the subject of all certificates: C=CH, O=Lab, and this common name.
func Subject(cn string) pkix.Name {
	return pkix.Name{Country: []string{"CH"}, Organization: []string{"Lab"}, CommonName: cn}
}

func authority(cn string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: Subject(cn), NotBefore: From, NotAfter: To, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

// New makes a root.
func New(t testing.TB, cn, kind string) *Authority {
	t.Helper()
	a := &Authority{Key: NewKey(t, kind), serial: 100}
	template := authority(cn)
	a.Cert = sign(t, template, template, a.Key.Public(), a.Key)
	return a
}

// Intermediate makes an authority below this one.
func (a *Authority) Intermediate(t testing.TB, cn, kind string) *Authority {
	t.Helper()
	sub := &Authority{Key: NewKey(t, kind), serial: 100}
	a.serial++
	template := authority(cn)
	template.SerialNumber = big.NewInt(a.serial)
	sub.Cert = sign(t, template, a.Cert, sub.Key.Public(), a.Key)
	return sub
}

// Issue makes a certificate for a key, with the name as subject and as alternative name. Change may spoil it.
func (a *Authority) Issue(t testing.TB, name string, key crypto.PublicKey, change ...func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	a.serial++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.serial), Subject: Subject(name), NotBefore: From, NotAfter: To, DNSNames: []string{name}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	for _, f := range change {
		f(template)
	}
	return sign(t, template, a.Cert, key, a.Key)
}

func sign(t testing.TB, template, parent *x509.Certificate, key crypto.PublicKey, by crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, by)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Revoke makes a list that names these certificates, current from one time to the other.
func (a *Authority) Revoke(t testing.TB, from, to time.Time, certs ...*x509.Certificate) *x509.RevocationList {
	t.Helper()
	template := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: from, NextUpdate: to}
	for _, c := range certs {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: from})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, a.Cert, a.Key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Addresses adds alternative names that are addresses.
func Addresses(ips ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		for _, s := range ips {
			c.IPAddresses = append(c.IPAddresses, net.ParseIP(s))
		}
	}
}

// Valid sets when a certificate is valid.
func Valid(from, to time.Time) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = from, to }
}

// ServerOnly limits a certificate to TLS servers.
func ServerOnly(c *x509.Certificate) {
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
}

// IKEOnly limits a certificate to IKE (RFC 4945, section 5.1.3.12).
func IKEOnly(c *x509.Certificate) {
	c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 17}}
}

// CertPEM is certificates as text.
func CertPEM(certs ...*x509.Certificate) string {
	s := ""
	for _, c := range certs {
		s += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return s
}

// KeyPEM is a private key as text, in PKCS #8.
func KeyPEM(t testing.TB, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// PublicPEM is a public key as text.
func PublicPEM(t testing.TB, key crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// ListPEM is a revocation list as text.
func ListPEM(l *x509.RevocationList) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: l.Raw}))
}
