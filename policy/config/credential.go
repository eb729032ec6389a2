package config

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"coati/policy"
)

// CredentialFiles names the files of a tunnel's keys and certificates; empty: none.
type CredentialFiles struct {
	Cert, Key          string
	CA, CRL, RemoteKey string
	PKCS1              bool // rsa-signature = "pkcs1"
	EAP                EAPFiles
	XAuth              XAuthFiles
	PPK                string
}

func (k setting) authBy(l *loader) policy.AuthBy {
	i, _ := k.choice(l, policy.ByPSK.String(), policy.ByCert.String(), policy.ByPublicKey.String(), policy.ByNobody.String(), policy.ByEAP.String())
	return policy.AuthBy(max(i, 0))
}

// file is the name of a file, made absolute.
func (k setting) file(l *loader, d *draft, example string) string {
	s, ok := k.text(l, example)
	if !ok {
		return ""
	}
	if !filepath.IsAbs(s) {
		s = filepath.Join(d.dir, s)
	}
	return filepath.Clean(s)
}

// finishCredentials reads what is needed to sign and to check signatures, and what contradicts.
func (l *loader) finishCredentials(d *draft) {
	t := &d.tunnel
	need := func(key string, needed bool, why string) bool {
		at, set := d.keys[key]
		switch {
		case needed && !set:
			l.errorf(d.at, "[tunnel.%s] has no %s, which %s needs", t.Name, key, why)
		case !needed && set:
			l.errorf(at, "%s: is for %s only: leave the key out", key, why)
		}
		return needed && set
	}
	ours, theirs := fmt.Sprintf("auth = %q", policy.ByCert), fmt.Sprintf("remote-auth = %q", policy.ByCert)
	hasCert := need("cert-file", t.LocalAuth == policy.ByCert, ours)
	hasKey := need("key-file", t.LocalAuth.Signs(), fmt.Sprintf("auth = %q or %q", policy.ByCert, policy.ByPublicKey))
	hasCA := need("ca-file", t.RemoteAuth == policy.ByCert, theirs)
	hasRemoteKey := need("remote-key-file", t.RemoteAuth == policy.ByPublicKey, fmt.Sprintf("remote-auth = %q", policy.ByPublicKey))
	for _, key := range []string{"crl-file", "revocation", "cert-usage"} {
		if _, set := d.keys[key]; set {
			need(key, t.RemoteAuth == policy.ByCert, theirs)
		}
	}
	if hasKey {
		l.readCredential(d, hasCert)
	}
	if hasCA || hasRemoteKey {
		l.readTrust(d, hasCA)
	}
	switch {
	case t.RemoteAuth.Signs():
		l.checkRemoteID(d)
	case t.RemoteAuth == policy.ByNobody && t.V1.XAuth != policy.XAuthServer:
		l.checkNobody(d)
	}
	l.finishEAP(d)
	if d.files != (CredentialFiles{}) {
		if l.config.CredentialFiles == nil {
			l.config.CredentialFiles = map[string]CredentialFiles{}
		}
		l.config.CredentialFiles[t.Name] = d.files
	}
}

// readCredential reads our key and certificates.
func (l *loader) readCredential(d *draft, withCert bool) {
	at := d.keys["key-file"]
	data, err := l.privateFile(d.files.Key)
	var key crypto.Signer
	if err == nil {
		key, err = decodeKey(data, leastRSA(d))
		clear(data)
	}
	if err != nil {
		l.errorf(at, "key-file %s: %s", d.files.Key, err)
	}
	c := &policy.Credential{PKCS1: d.files.PKCS1}
	if key != nil {
		c.Key = policy.NewPrivateKey(key)
	}
	if withCert {
		certAt := d.keys["cert-file"]
		if c.Chain, err = once(l.certs, d.files.Cert, readCertificates); err != nil {
			l.errorf(certAt, "cert-file %s: %s", d.files.Cert, err)
			return
		}
		leaf := c.Chain[0]
		if key != nil && !policy.EqualKeys(key.Public(), leaf.PublicKey) {
			l.errorf(at, "key-file %s: is not the key of the certificate %s in %s", d.files.Key, subject(leaf), d.files.Cert)
		}
		l.checkOwn(certAt, d, leaf)
		l.checkOrder(certAt, d, c.Chain)
	}
	d.tunnel.Credential = c
}

// checkOwn looks for what a peer would hold against our certificate.
func (l *loader) checkOwn(at position, d *draft, leaf *x509.Certificate) {
	file := d.files.Cert
	if why := outdated(leaf, l.now()); why != "" {
		l.warnf(at, "cert-file %s: the certificate %s %s: the peer will refuse it", file, subject(leaf), why)
	}
	if leaf.KeyUsage != 0 && leaf.KeyUsage&(x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment) == 0 {
		l.warnf(at, "cert-file %s: the key usage of the certificate %s leaves digitalSignature out: the peer may refuse it", file, subject(leaf))
	}
	id := d.tunnel.LocalID
	if id.IsZero() {
		if own := (&policy.Credential{Chain: []*x509.Certificate{leaf}}).Identity(); own.IsZero() {
			l.errorf(at, "cert-file %s: the certificate names nobody: it has neither a subject nor alternative names", file)
		}
		return
	}
	if !id.In(leaf) {
		l.errorf(d.keys["local-id"], "local-id: the certificate in %s is not for %s: it is for %s", file, id, strings.Join(identities(leaf), ", "))
	}
}

// checkOrder: each certificate that follows our own has signed an earlier one, else the peer has no use for it.
func (l *loader) checkOrder(at position, d *draft, chain []*x509.Certificate) {
	for i := 1; i < len(chain); i++ {
		if !slices.ContainsFunc(chain[:i], func(c *x509.Certificate) bool { return bytes.Equal(c.RawIssuer, chain[i].RawSubject) }) {
			l.warnf(at, "cert-file %s: the certificate %s has issued none of those before it", d.files.Cert, subject(chain[i]))
		}
	}
}

// identities are what a certificate can prove, in the words of local-id.
func identities(c *x509.Certificate) []string {
	var out []string
	if len(c.Subject.Names) > 0 {
		out = append(out, policy.Identity{Type: policy.IDDN, Data: c.RawSubject}.String())
	}
	for _, n := range c.DNSNames {
		out = append(out, policy.Identity{Type: policy.IDFQDN, Data: []byte(n)}.String())
	}
	for _, n := range c.EmailAddresses {
		out = append(out, policy.Identity{Type: policy.IDEmail, Data: []byte(n)}.String())
	}
	for _, a := range c.IPAddresses {
		out = append(out, a.String())
	}
	if out == nil {
		return []string{"nobody"}
	}
	return out
}

// readTrust reads by what the peer's signature is believed.
func (l *loader) readTrust(d *draft, byCert bool) {
	t := &policy.Trust{Revocation: d.revocation, AnyUsage: d.anyUsage}
	d.tunnel.Trust = t
	var err error
	if !byCert {
		data, err := l.publicFile(d.files.RemoteKey)
		if err == nil {
			t.Keys, err = decodePublicKeys(data, leastRSA(d))
		}
		if err != nil {
			l.errorf(d.keys["remote-key-file"], "remote-key-file %s: %s", d.files.RemoteKey, err)
		}
		return
	}
	at := d.keys["ca-file"]
	if t.Authorities, err = once(l.certs, d.files.CA, readCertificates); err != nil {
		l.errorf(at, "ca-file %s: %s", d.files.CA, err)
		return
	}
	for _, c := range t.Authorities {
		if why := outdated(c, l.now()); why != "" {
			l.warnf(at, "ca-file %s: the certificate %s %s: whom it signed is refused", d.files.CA, subject(c), why)
		}
		if !c.IsCA {
			l.warnf(at, "ca-file %s: %s is no certification authority: it stands for itself only", d.files.CA, subject(c))
		}
	}
	l.readLists(d, t)
}

func (l *loader) readLists(d *draft, t *policy.Trust) {
	at, set := d.keys["crl-file"]
	if _, said := d.keys["revocation"]; set && !said {
		t.Revocation = policy.RevocationIfAvailable
	}
	if !set {
		if t.Revocation != policy.RevocationOff {
			l.errorf(d.keys["revocation"], "revocation: %q needs crl-file", t.Revocation)
		}
		return
	}
	var err error
	if t.Lists, err = once(l.crls, d.files.CRL, readRevocationLists); err != nil {
		l.errorf(at, "crl-file %s: %s", d.files.CRL, err)
		return
	}
	for _, crl := range t.Lists {
		if !crl.NextUpdate.IsZero() && l.now().After(crl.NextUpdate) {
			l.warnf(at, "crl-file %s: the list of %s expired on %s", d.files.CRL, crl.Issuer, crl.NextUpdate.UTC().Format(time.DateTime))
		}
	}
}

// checkRemoteID: an authority certifies many, so it must be said who of them the peer is.
func (l *loader) checkRemoteID(d *draft) {
	t := &d.tunnel
	at, set := d.keys["remote-id"]
	switch {
	case t.RemoteAuth != policy.ByCert:
	case !set && !d.anyPeer:
		l.errorf(d.at, `[tunnel.%s] has no remote-id: say whom the peer's certificate must be for, as in remote-id = "fqdn:b.example.org", or "any" for everybody the authority knows`, t.Name)
	case set && t.RemoteID.Type != policy.IDAnyOne && !t.RemoteID.IsZero() && !policy.Certifiable(t.RemoteID.Type):
		l.errorf(at, "remote-id: a certificate cannot prove %s: want fqdn, email, dn or an address", t.RemoteID)
	}
}

// checkNobody: who does not authenticate has no identity, and cannot take another's place.
func (l *loader) checkNobody(d *draft) {
	if at, set := d.keys["remote-id"]; set {
		l.errorf(at, "remote-id: nothing proves it with remote-auth = %q: leave the key out", policy.ByNobody)
	}
	if at, set := d.keys["unique"]; set && d.tunnel.Unique != policy.UniqueNever {
		l.errorf(at, "unique: peers without identity cannot be told apart: leave the key out, or say %q", policy.UniqueNever)
	}
	at, set := d.keys["remote-auth"]
	if !set {
		at = d.keys["auth"]
	}
	l.warnf(at, "remote-auth = %q: everybody who asks is let in, and so is who stands between", policy.ByNobody)
}

func subject(c *x509.Certificate) string {
	if s, err := policy.FormatDN(c.RawSubject); err == nil && s != "" {
		return s
	}
	return identities(c)[0]
}

func outdated(c *x509.Certificate, now time.Time) string {
	switch {
	case now.Before(c.NotBefore):
		return "is not valid before " + c.NotBefore.UTC().Format(time.DateTime)
	case now.After(c.NotAfter):
		return "expired on " + c.NotAfter.UTC().Format(time.DateTime)
	}
	return ""
}

// readPublicFile reads a file that holds no secret.
func readPublicFile(path string) ([]byte, error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, errors.New("is no ordinary file")
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, plainError(err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, MaxCertFile+1))
	if err != nil {
		return nil, plainError(err)
	}
	if len(data) > MaxCertFile {
		return nil, fmt.Errorf("is larger than %d MiB", MaxCertFile>>20)
	}
	return data, nil
}

// blocks are the contents of a PEM file's parts of these types; or the whole file, if it is not PEM.
func blocks(data []byte, types ...string) ([][]byte, error) {
	if !bytes.Contains(data, []byte("-----BEGIN ")) {
		return [][]byte{data}, nil
	}
	var out [][]byte
	for b, rest := pem.Decode(data); b != nil; b, rest = pem.Decode(rest) {
		if b.Headers["Proc-Type"] != "" || b.Type == "ENCRYPTED PRIVATE KEY" {
			return nil, errors.New("is encrypted: coati asks nobody for a passphrase, so write the key without one")
		}
		if slices.Contains(types, b.Type) {
			out = append(out, b.Bytes)
		}
	}
	if out == nil {
		return nil, fmt.Errorf("has no part BEGIN %s", types[0])
	}
	return out, nil
}

func readParts[T any](path string, parse func([]byte) (T, error), what string, types ...string) ([]T, error) {
	data, err := readPublicFile(path)
	if err != nil {
		return nil, err
	}
	return decodeParts(data, parse, what, types...)
}

func decodeParts[T any](data []byte, parse func([]byte) (T, error), what string, types ...string) ([]T, error) {
	parts, err := blocks(data, types...)
	if err != nil {
		return nil, err
	}
	out := make([]T, len(parts))
	for i, p := range parts {
		if out[i], err = parse(p); err != nil {
			return nil, fmt.Errorf("holds no %s: %w", what, err)
		}
	}
	return out, nil
}

// parts is what a file held, read once, however many tunnels name it; they share it, and nobody changes it.
type parts[T any] struct {
	list []T
	err  error
}

// once reads a file the first time it is asked for.
func once[T any](cache map[string]parts[T], path string, read func(string) ([]T, error)) ([]T, error) {
	p, known := cache[path]
	if !known {
		p.list, p.err = read(path)
		cache[path] = p
	}
	return p.list, p.err
}

func readCertificates(path string) ([]*x509.Certificate, error) {
	return readParts(path, x509.ParseCertificate, "certificate", "CERTIFICATE")
}

func readRevocationLists(path string) ([]*x509.RevocationList, error) {
	return readParts(path, x509.ParseRevocationList, "revocation list", "X509 CRL")
}

// decodePublicKeys reads keys, as they are or in certificates, of which nothing else counts.
func decodePublicKeys(data []byte, leastRSA int) ([]crypto.PublicKey, error) {
	keys, err := decodeParts(data, func(der []byte) (any, error) {
		if c, err := x509.ParseCertificate(der); err == nil {
			return c.PublicKey, nil
		}
		return x509.ParsePKIXPublicKey(der)
	}, "public key", "PUBLIC KEY", "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	out := make([]crypto.PublicKey, len(keys))
	for i, k := range keys {
		if err := usable(k, leastRSA); err != nil {
			return nil, err
		}
		out[i] = k
	}
	return out, nil
}

// decodeKey reads a private key: PKCS #8, PKCS #1 or SEC 1, in PEM or DER. The errors of the parsers are not passed on: they
// might quote the key.
func decodeKey(data []byte, leastRSA int) (crypto.Signer, error) {
	parts, err := blocks(data, "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	if len(parts) > 1 {
		return nil, errors.New("holds several keys: want one")
	}
	defer clear(parts[0])
	if k, err := x509.ParsePKCS8PrivateKey(parts[0]); err == nil {
		if s, ok := k.(crypto.Signer); ok {
			return s, usable(s.Public(), leastRSA)
		}
	}
	if k, err := x509.ParsePKCS1PrivateKey(parts[0]); err == nil {
		return k, usable(k.Public(), leastRSA)
	}
	if k, err := x509.ParseECPrivateKey(parts[0]); err == nil {
		return k, usable(k.Public(), leastRSA)
	}
	return nil, errors.New("holds no private key that can be read: want RSA, ECDSA or Ed25519 in PKCS #8, PKCS #1 or SEC 1")
}

// leastRSA is the number of bits that an RSA key must have: old peers of IKEv1 have no more.
func leastRSA(d *draft) int {
	if d.tunnel.Version == 1 {
		return 1024
	}
	return 2048
}

// usable says whether a key can sign for IKE here, and is long enough (RFC 8247, section 3.1.1).
func usable(key crypto.PublicKey, leastRSA int) error {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < leastRSA {
			return fmt.Errorf("the RSA key has %d bits: want %d at least", n, leastRSA)
		}
		return nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() || k.Curve == elliptic.P521() {
			return nil
		}
	case ed25519.PublicKey:
		return nil
	}
	return errors.New("the key is of a kind that is not taken: want RSA, ECDSA on P-256, P-384 or P-521, or Ed25519")
}

// diffCredentials tells what of keys and certificates changed.
func diffCredentials(old, new *policy.PeerTunnel) []Change {
	var out []Change
	if a, b := old.Credential, new.Credential; !a.Equal(b) {
		out = append(out, Change{"cert-file", sayCredential(a), sayCredential(b) + " (another key, certificate or signature)"})
	}
	if a, b := old.Trust, new.Trust; !a.Equal(b) {
		out = append(out, Change{"ca-file", sayTrust(a), sayTrust(b) + " (other authorities, keys or lists)"})
	}
	if a, b := old.EAP, new.EAP; !a.Equal(b) {
		out = append(out, Change{"eap-methods", sayEAP(a), sayEAP(b) + " (other users, passwords or methods)"})
	}
	return out
}

func sayCredential(c *policy.Credential) string {
	switch {
	case c == nil:
		return "none"
	case len(c.Chain) == 0:
		return "a key"
	}
	return subject(c.Chain[0])
}

func sayTrust(t *policy.Trust) string {
	if t == nil {
		return "none"
	}
	var words []string
	for _, c := range t.Authorities {
		words = append(words, subject(c))
	}
	if len(t.Keys) > 0 {
		words = append(words, fmt.Sprintf("%d keys", len(t.Keys)))
	}
	return strings.Join(words, "; ")
}

// credentials writes the keys that name files, and what belongs to them.
func (w *writer) credentials(t *policy.PeerTunnel, f CredentialFiles) {
	w.text("ppk-file", f.PPK, "")
	w.text("ppk-id", t.PPKID, "")
	w.flag("ppk-required", t.PPKRequired)
	if (t.PPK.Len() > 0) != (f.PPK != "") {
		w.fail("tunnel %s has a ppk of no file", t.Name)
	}
	w.text("cert-file", f.Cert, "")
	w.text("key-file", f.Key, "")
	if f.PKCS1 {
		w.text("rsa-signature", "pkcs1", "")
	}
	w.text("ca-file", f.CA, "")
	w.text("crl-file", f.CRL, "")
	w.text("remote-key-file", f.RemoteKey, "")
	if t.LocalAuth.Signs() && f.Key == "" || t.RemoteAuth == policy.ByCert && f.CA == "" || t.RemoteAuth == policy.ByPublicKey && f.RemoteKey == "" {
		w.fail("tunnel %s has keys or certificates of no file", t.Name)
	}
	if t.Trust == nil || t.RemoteAuth != policy.ByCert {
		return
	}
	usual := policy.RevocationOff
	if f.CRL != "" {
		usual = policy.RevocationIfAvailable
	}
	w.text("revocation", t.Trust.Revocation.String(), usual.String())
	if t.Trust.AnyUsage {
		w.text("cert-usage", "any", "")
	}
}
