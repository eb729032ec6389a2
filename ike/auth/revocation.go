package auth

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"slices"
	"time"

	"coati/policy"
)

// Certificate revocation lists (RFC 5280, section 6.3), those that are configured.

// checkRevocation looks up every certificate of a path, except its last, which is trusted by configuration.
func checkRevocation(path []*x509.Certificate, t *policy.Trust, now time.Time) error {
	for i, c := range path[:len(path)-1] {
		known, err := lookUp(c, path[i+1], t.Lists, now)
		if err != nil {
			return err
		}
		if !known && t.Revocation == policy.RevocationRequired {
			return fmt.Errorf("whether the certificate %s is revoked is unknown: crl-file has no current list of %s", name(c), name(path[i+1]))
		}
	}
	return nil
}

// lookUp says whether a current list of the issuer is there. The error: one of its lists, current or not, names the certificate.
func lookUp(c, issuer *x509.Certificate, lists []*x509.RevocationList, now time.Time) (known bool, err error) {
	for _, l := range lists {
		if !bytes.Equal(l.RawIssuer, issuer.RawSubject) || l.CheckSignatureFrom(issuer) != nil {
			continue
		}
		for i := range l.RevokedCertificateEntries {
			if e := &l.RevokedCertificateEntries[i]; e.SerialNumber.Cmp(c.SerialNumber) == 0 {
				return true, fmt.Errorf("the certificate %s was revoked on %s", name(c), e.RevocationTime.UTC().Format(time.DateTime))
			}
		}
		if complete(l) && !now.Before(l.ThisUpdate) && !l.NextUpdate.IsZero() && !now.After(l.NextUpdate) {
			known = true
		}
	}
	return known, nil
}

// complete says that a list is for all certificates of its issuer: it has no critical extension, as a delta or the list of
// one distribution point has. Another can only tell who is revoked.
func complete(l *x509.RevocationList) bool {
	return !slices.ContainsFunc(l.Extensions, func(e pkix.Extension) bool { return e.Critical })
}
