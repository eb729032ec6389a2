package auth

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"coati/policy"
)

// X.509 certificates, as RFC 7296, section 3.6, and RFC 4945 use them.

// Limits on what a peer sends. A path longer than x509's own limit on signature checks is refused by it, too.
const (
	MaxCertificates   = 16       // CERT payloads with certificates
	MaxCertificateLen = 32 << 10 // octets of one
	maxPath           = 10       // certificates from the peer's to the authority's
	minRSABits        = 2048     // RFC 8247, section 3.1.1
	maxRSABits        = 8192     // verification takes time with the square of it
)

// ParseChain reads the certificates of CERT payloads. The first is the peer's own. The error is a sentence for people.
func ParseChain(ders [][]byte) ([]*x509.Certificate, error) {
	if len(ders) == 0 {
		return nil, errors.New("the peer sends no certificate")
	}
	if len(ders) > MaxCertificates {
		return nil, fmt.Errorf("the peer sends %d certificates, at most %d are taken", len(ders), MaxCertificates)
	}
	out := make([]*x509.Certificate, len(ders))
	for i, der := range ders {
		if len(der) > MaxCertificateLen {
			return nil, fmt.Errorf("the peer sends a certificate of %d octets, at most %d are taken", len(der), MaxCertificateLen)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of the peer's cannot be read: %s", i+1, short(err.Error()))
		}
		out[i] = c
	}
	return out, nil
}

// VerifyChain checks that the first certificate is good for IKE, and leads to an authority over the others. The error is a
// sentence for people. It is slow: run it as a job.
func VerifyChain(chain []*x509.Certificate, t *policy.Trust, now time.Time) error {
	if t == nil || len(t.Authorities) == 0 {
		return errors.New("no authority is configured for the peer's certificate: see ca-file")
	}
	for _, c := range chain {
		if err := checkKey(c); err != nil {
			return err
		}
	}
	leaf := chain[0]
	if err := checkValidity("the peer's certificate", leaf, now); err != nil {
		return err
	}
	if err := checkUsage(leaf, t.AnyUsage); err != nil {
		return err
	}
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, c := range t.Authorities {
		opts.Roots.AddCert(c)
	}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	paths, err := leaf.Verify(opts)
	if err != nil {
		return explain(chain, t, now, err)
	}
	paths = slices.DeleteFunc(paths, func(p []*x509.Certificate) bool { return len(p) > maxPath })
	if len(paths) == 0 {
		return fmt.Errorf("the path from the peer's certificate %s to an authority is longer than %d", name(leaf), maxPath)
	}
	if t.Revocation == policy.RevocationOff {
		return nil
	}
	for _, p := range paths {
		if err = checkRevocation(p, t, now); err == nil {
			return nil
		}
	}
	return err
}

// name is a certificate's subject for people, or its first alternative name.
func name(c *x509.Certificate) string {
	id := (&policy.Credential{Chain: []*x509.Certificate{c}}).Identity()
	s := id.String()
	if id.IsZero() {
		s = "without a name"
	}
	return short(strings.TrimPrefix(s, "dn:"))
}

// short bounds what a peer can have us say.
func short(s string) string {
	if len(s) > 200 {
		return strings.ToValidUTF8(s[:200], "") + "..."
	}
	return s
}

func checkKey(c *x509.Certificate) error {
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSABits || n > maxRSABits {
			return fmt.Errorf("the certificate %s has an RSA key of %d bits: from %d to %d are taken", name(c), n, minRSABits, maxRSABits)
		}
		return nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() || k.Curve == elliptic.P521() {
			return nil
		}
	case ed25519.PublicKey:
		return nil
	}
	return fmt.Errorf("the certificate %s has a key of a kind that is not taken: want RSA, ECDSA on P-256, P-384 or P-521, or Ed25519", name(c))
}

func checkValidity(what string, c *x509.Certificate, now time.Time) error {
	switch {
	case now.Before(c.NotBefore):
		return fmt.Errorf("%s %s is not valid before %s", what, name(c), c.NotBefore.UTC().Format(time.DateTime))
	case now.After(c.NotAfter):
		return fmt.Errorf("%s %s expired on %s", what, name(c), c.NotAfter.UTC().Format(time.DateTime))
	}
	return nil
}

var oidIPsecIKE = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 17}

// checkUsage is RFC 4945, sections 5.1.3.2 and 5.1.3.12.
func checkUsage(c *x509.Certificate, any bool) error {
	if c.KeyUsage != 0 && c.KeyUsage&(x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment) == 0 {
		return fmt.Errorf("the peer's certificate %s is not for signatures: its key usage leaves digitalSignature out", name(c))
	}
	none := len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0
	if any || none || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) || slices.ContainsFunc(c.UnknownExtKeyUsage, oidIPsecIKE.Equal) {
		return nil
	}
	return fmt.Errorf("the peer's certificate %s is not for IKE: its extended key usage leaves ipsecIKE out (see cert-usage)", name(c))
}

// explain turns x509's error into a sentence that says what to look at.
func explain(chain []*x509.Certificate, t *policy.Trust, now time.Time, err error) error {
	leaf := chain[0]
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return checkValidity("the certificate", invalid.Cert, now)
	case errors.As(err, &invalid):
		return fmt.Errorf("the peer's certificate %s: %s", name(leaf), short(err.Error()))
	case !errors.As(err, &unknown):
		return fmt.Errorf("the peer's certificate %s is not accepted: %s", name(leaf), short(err.Error()))
	}
	for _, c := range slices.Concat(chain[1:], t.Authorities) {
		if late := checkValidity("the authority", c, now); late != nil && issued(c, chain) {
			return late
		}
	}
	if bytes.Equal(leaf.RawIssuer, leaf.RawSubject) {
		return fmt.Errorf("the peer's certificate %s is self-signed, and not in ca-file", name(leaf))
	}
	last := leaf
	for range chain {
		i := slices.IndexFunc(chain, func(c *x509.Certificate) bool { return c != last && bytes.Equal(c.RawSubject, last.RawIssuer) })
		if i < 0 {
			break
		}
		last = chain[i]
	}
	if i := slices.IndexFunc(t.Authorities, func(c *x509.Certificate) bool { return bytes.Equal(c.RawSubject, last.RawIssuer) }); i >= 0 {
		return fmt.Errorf("the peer's certificate %s is not signed by the authority in ca-file, though it has its name %s", name(leaf), name(t.Authorities[i]))
	}
	issuer, dnErr := policy.FormatDN(last.RawIssuer)
	if dnErr != nil {
		issuer = "without a readable name"
	}
	return fmt.Errorf("the peer's certificate %s is from an unknown authority: ca-file does not have %s", name(leaf), short(issuer))
}

func issued(by *x509.Certificate, chain []*x509.Certificate) bool {
	return slices.ContainsFunc(chain, func(c *x509.Certificate) bool { return c != by && bytes.Equal(c.RawIssuer, by.RawSubject) })
}

// MatchIdentity checks that a certificate says what its owner says it is (RFC 4945, section 3.1). Names in the subject do
// not stand for addresses or host names.
func MatchIdentity(c *x509.Certificate, id policy.Identity) error {
	if !policy.Certifiable(id.Type) {
		return fmt.Errorf("a certificate cannot prove the identity %s: want a name, an address, a mail address or a distinguished name", short(id.String()))
	}
	if !id.In(c) {
		return fmt.Errorf("the certificate %s does not have the identity %s in its %s", name(c), short(id.String()), where(id.Type))
	}
	return nil
}

func where(t policy.IDType) string {
	if t == policy.IDDN {
		return "subject"
	}
	return "alternative names"
}

// AuthorityHash is what a CERTREQ names an authority by: SHA-1 of its SubjectPublicKeyInfo (RFC 7296, section 3.7).
func AuthorityHash(c *x509.Certificate) []byte {
	h := sha1.Sum(c.RawSubjectPublicKeyInfo)
	return h[:]
}

// maxAsked is how many authorities a request names. Where there are more it names none, and means any.
const maxAsked = 16

// AskFor is the Certification Authority field of a CERTREQ for these tunnels' peers; false if none of them has to send a
// certificate.
func AskFor(tunnels []*policy.PeerTunnel) ([]byte, bool) {
	var out []byte
	asked := false
	seen := map[*x509.Certificate]bool{} // tunnels share what one file holds
	for _, t := range tunnels {
		if t.RemoteAuth != policy.ByCert || t.Trust == nil {
			continue
		}
		asked = true
		for _, c := range t.Trust.Authorities {
			if seen[c] {
				continue
			}
			if seen[c] = true; len(seen) > maxAsked {
				return nil, true
			}
			out = append(out, AuthorityHash(c)...)
		}
	}
	return out, asked
}
