package sim

import (
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"

	"coati/policy"
)

// certified is a scenario's tunnel whose ends prove themselves by certificates of one authority, a.example and b.example.
// The keys are the same in every run, and their signatures, too.
func certified(t *policy.PeerTunnel, second bool) {
	key := func(n byte) ed25519.PrivateKey {
		seed := make([]byte, ed25519.SeedSize)
		seed[0] = n
		return ed25519.NewKeyFromSeed(seed)
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: Epoch.Add(-time.Hour), NotAfter: Epoch.Add(24 * 365 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	root = selfMade(root, root, key(0).Public(), key(0))
	names := []string{"a.example", "b.example"}
	mine := 0
	if second {
		mine = 1
	}
	leaf := selfMade(&x509.Certificate{
		SerialNumber: big.NewInt(int64(mine + 2)), Subject: pkix.Name{CommonName: names[mine]}, DNSNames: names[mine : mine+1], NotBefore: root.NotBefore, NotAfter: root.NotAfter,
	}, root, key(byte(mine+1)).Public(), key(0))
	t.PSK = policy.Secret{}
	t.LocalAuth, t.RemoteAuth = policy.ByCert, policy.ByCert
	t.Credential = &policy.Credential{Key: policy.NewPrivateKey(key(byte(mine + 1))), Chain: []*x509.Certificate{leaf}}
	t.Trust = &policy.Trust{Authorities: []*x509.Certificate{root}}
	t.LocalID = policy.Identity{Type: policy.IDFQDN, Data: []byte(names[mine])}
	t.RemoteID = policy.Identity{Type: policy.IDFQDN, Data: []byte(names[1-mine])}
}

func selfMade(template, parent *x509.Certificate, public crypto.PublicKey, by crypto.Signer) *x509.Certificate {
	der, err := x509.CreateCertificate(nil, template, parent, public, by)
	if err == nil {
		template, err = x509.ParseCertificate(der)
	}
	if err != nil {
		panic(fmt.Sprintf("sim: no certificate: %v", err))
	}
	return template
}
