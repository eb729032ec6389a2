package bench

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	"coati/policy"
)

// How both ends of a handshake prove who they are. With certificates each caller has one of its own, of one authority, as
// each peer of a gateway has: nothing of one handshake can be kept for the next.

const (
	proofPSK   = "psk"
	proofECDSA = "ecdsa" // P-256
	proofRSA   = "rsa"   // 2048 bits
)

// ProofNames lists what may be chosen.
func ProofNames() []string { return []string{proofPSK, proofECDSA, proofRSA} }

// responderName is in the certificate of the daemon that answers.
const responderName = "gateway.bench"

// authority issues the certificates of one kind. Its callers have one key together, which nobody can tell.
type authority struct {
	kind         string
	key, callers crypto.Signer
	cert         *x509.Certificate
	serial       int64
}

// newAuthority is nil for PSK.
func newAuthority(kind string) (*authority, error) {
	if kind == proofPSK {
		return nil, nil
	}
	a := &authority{kind: kind}
	var err, err2 error
	a.key, err = newSigner(kind)
	a.callers, err2 = newSigner(kind)
	if err := errors.Join(err, err2); err != nil {
		return nil, err
	}
	a.cert, err = a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "authority of the bench"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, nil, a.key.Public())
	return a, err
}

func newSigner(kind string) (crypto.Signer, error) {
	switch kind {
	case proofECDSA:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case proofRSA:
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	return nil, unknown("proof", kind, ProofNames())
}

// sign makes a certificate that is good for the run; parent nil: its own.
func (a *authority) sign(c, parent *x509.Certificate, key crypto.PublicKey) (*x509.Certificate, error) {
	a.serial++
	c.SerialNumber = big.NewInt(a.serial)
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(7*24*time.Hour)
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key, a.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// issue makes the certificate of one end.
func (a *authority) issue(name string, key crypto.PublicKey) (*x509.Certificate, error) {
	return a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, KeyUsage: x509.KeyUsageDigitalSignature}, a.cert, key)
}

// certify gives the n-th caller's tunnel its certificate in place of the PSK.
func (a *authority) certify(t *policy.PeerTunnel, n int) error {
	name := fmt.Sprintf("caller-%d.bench", n)
	cert, err := a.issue(name, a.callers.Public())
	t.PSK = policy.Secret{}
	t.LocalAuth, t.RemoteAuth = policy.ByCert, policy.ByCert
	t.LocalID = policy.Identity{Type: policy.IDFQDN, Data: []byte(name)}
	t.RemoteID = policy.Identity{Type: policy.IDFQDN, Data: []byte(responderName)}
	t.Credential = &policy.Credential{Key: policy.NewPrivateKey(a.callers), Chain: []*x509.Certificate{cert}}
	t.Trust = &policy.Trust{Authorities: []*x509.Certificate{a.cert}}
	return err
}

// The files of the daemon that answers, in its folder.
const (
	responderCert = "gateway.pem"
	responderKey  = "gateway.key"
	authorityCert = "ca.pem"
)

// equip writes them, for our daemon and where swanctl looks.
func (a *authority) equip(h *host) error {
	key, err := newSigner(a.kind)
	if err != nil {
		return err
	}
	cert, err := a.issue(responderName, key.Public())
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	armour := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	for _, f := range []struct{ ours, swan, text string }{
		{responderCert, "swanctl/x509/", armour("CERTIFICATE", cert.Raw)},
		{responderKey, "swanctl/private/", armour("PRIVATE KEY", der)},
		{authorityCert, "swanctl/x509ca/", armour("CERTIFICATE", a.cert.Raw)},
	} {
		if err := errors.Join(h.write(f.ours, f.text), h.write(f.swan+f.ours, f.text)); err != nil {
			return err
		}
	}
	return nil
}
