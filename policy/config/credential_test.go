package config

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"coati/lab/pki"
	"coati/policy"
)

func place(t testing.TB, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// papers are the files of a tunnel with certificates, good ones, which a test may spoil.
type papers struct {
	dir  string
	ca   *pki.Authority
	key  crypto.Signer
	leaf *x509.Certificate
}

func newPapers(t testing.TB, change ...func(*x509.Certificate)) *papers {
	t.Helper()
	p := &papers{dir: folder(t), ca: pki.New(t, "ca", pki.P256), key: pki.NewKey(t, pki.P256)}
	p.leaf = p.ca.Issue(t, "a.example", p.key.Public(), change...)
	place(t, p.dir, "a.pem", pki.CertPEM(p.leaf))
	place(t, p.dir, "a.key", pki.KeyPEM(t, p.key))
	place(t, p.dir, "ca.pem", pki.CertPEM(p.ca.Cert))
	return p
}

const certTunnel = `[tunnel.b]
remote = "203.0.113.7"
auth = "cert"
cert-file = "a.pem"
key-file = "a.key"
ca-file = "ca.pem"
local-id = "fqdn:a.example"
remote-id = "fqdn:b.example"
remote-ts = ["10.2.0.0/16"]
`

func TestATunnelWithCertificatesHasItsFilesInIt(t *testing.T) {
	t.Parallel()
	p := newPapers(t)
	sub := p.ca.Intermediate(t, "sub", pki.P384)
	leaf := sub.Issue(t, "a.example", p.key.Public())
	place(t, p.dir, "a.pem", pki.CertPEM(leaf, sub.Cert))
	place(t, p.dir, "ca.crl", pki.ListPEM(p.ca.Revoke(t, pki.From, pki.To)))
	c := mustParse(t, p.dir, certTunnel+"crl-file = \"ca.crl\"\nrsa-signature = \"pkcs1\"\ncert-usage = \"any\"\n")
	got := c.Tunnels[0]
	want := &policy.Credential{Key: policy.NewPrivateKey(p.key), Chain: []*x509.Certificate{leaf, sub.Cert}, PKCS1: true}
	if got.LocalAuth != policy.ByCert || got.RemoteAuth != policy.ByCert || !got.Credential.Equal(want) {
		t.Errorf("auth %s, remote-auth %s, %d certificates", got.LocalAuth, got.RemoteAuth, len(got.Credential.Chain))
	}
	if tr := got.Trust; len(tr.Authorities) != 1 || !tr.Authorities[0].Equal(p.ca.Cert) || len(tr.Lists) != 1 || tr.Revocation != policy.RevocationIfAvailable || !tr.AnyUsage {
		t.Errorf("trust %+v", tr)
	}
	text, err := Format(c)
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, p.dir, c, text)
}

func TestKeysAreReadInAllTheirForms(t *testing.T) {
	t.Parallel()
	sec1, err := x509.MarshalECPrivateKey(pki.NewKey(t, pki.P256).(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	pkcs1 := x509.MarshalPKCS1PrivateKey(pki.NewKey(t, pki.RSA2048).(*rsa.PrivateKey))
	pkcs8, err := x509.MarshalPKCS8PrivateKey(pki.NewKey(t, pki.Ed25519))
	if err != nil {
		t.Fatal(err)
	}
	text := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	for name, data := range map[string][]byte{
		"SEC 1, DER": sec1, "SEC 1, PEM": append(text("EC PARAMETERS", []byte{6, 0}), text("EC PRIVATE KEY", sec1)...),
		"PKCS 1, DER": pkcs1, "PKCS 1, PEM": text("RSA PRIVATE KEY", pkcs1), "PKCS 8, DER": pkcs8, "PKCS 8, PEM": text("PRIVATE KEY", pkcs8),
	} {
		if _, err := decodeKey(append([]byte(nil), data...), 2048); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"encrypted":       {text("ENCRYPTED PRIVATE KEY", pkcs8), "is encrypted"},
		"two":             {append(text("PRIVATE KEY", pkcs8), text("PRIVATE KEY", pkcs8)...), "several keys"},
		"no key":          {text("CERTIFICATE", pkcs8), "has no part BEGIN PRIVATE KEY"},
		"nonsense":        {[]byte("0xdeadbeef"), "no private key that can be read"},
		"a key too short": {shortKey1024(t), "1024 bits: want 2048 at least"},
	} {
		if _, err := decodeKey(c.data, 2048); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "deadbeef") {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

func shortKey1024(t *testing.T) []byte {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	return x509.MarshalPKCS1PrivateKey(k)
}

func TestEachFaultOfCertificatesIsNamed(t *testing.T) {
	t.Parallel()
	long := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		change  func(*x509.Certificate)
		spoil   func(*papers)
		text    func(string) string
		want    string
		warning bool
	}{
		"another key": {
			spoil: func(p *papers) { place(t, p.dir, "a.key", pki.KeyPEM(t, pki.NewKey(t, pki.P256))) },
			want:  "coati.toml:5: key-file DIR/a.key: is not the key of the certificate C=CH, O=Lab, CN=a.example in DIR/a.pem",
		},
		"a key others may read": {
			spoil: func(p *papers) { _ = os.Chmod(filepath.Join(p.dir, "a.key"), 0o640) },
			want:  "coati.toml:5: key-file DIR/a.key: others may use it (mode 0640): run chmod 600",
		},
		"expired": {
			change: pki.Valid(pki.From, long), warning: true,
			want: "coati.toml:4: warning: cert-file DIR/a.pem: the certificate C=CH, O=Lab, CN=a.example expired on 2001-01-01 00:00:00: the peer will refuse it",
		},
		"not yet valid":  {change: pki.Valid(pki.To, pki.To), warning: true, want: "is not valid before 2100-01-01"},
		"for encryption": {change: func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }, warning: true, want: "leaves digitalSignature out"},
		"another local-id": {
			change: func(c *x509.Certificate) { c.DNSNames = []string{"x.example"} },
			want:   "coati.toml:7: local-id: the certificate in DIR/a.pem is not for fqdn:a.example: it is for dn:C=CH, O=Lab, CN=a.example, fqdn:x.example",
		},
		"no authority": {spoil: func(p *papers) { place(t, p.dir, "ca.pem", pki.CertPEM(p.leaf)) }, warning: true, want: "is no certification authority: it stands for itself only"},
		"a lost file":  {spoil: func(p *papers) { _ = os.Remove(filepath.Join(p.dir, "a.pem")) }, want: "coati.toml:4: cert-file DIR/a.pem: no such file"},
		"a wrong file": {spoil: func(p *papers) { place(t, p.dir, "ca.pem", pki.KeyPEM(t, p.key)) }, want: "coati.toml:6: ca-file DIR/ca.pem: has no part BEGIN CERTIFICATE"},
		"no remote-id": {text: func(s string) string { return strings.ReplaceAll(s, "remote-id = \"fqdn:b.example\"\n", "") }, want: "coati.toml:1: [tunnel.b] has no remote-id: say whom the peer's certificate must be for"},
		"a key-id":     {text: func(s string) string { return strings.ReplaceAll(s, "fqdn:b.example", "keyid:b") }, want: "coati.toml:8: remote-id: a certificate cannot prove keyid:b"},
		"a psk":        {text: func(s string) string { return s + "psk-file = \"psk\"\n" }, want: "coati.toml:10: psk-file: nobody authenticates by a pre-shared key here: leave the key out"},
		"no key": {
			text: func(s string) string { return strings.ReplaceAll(s, "key-file = \"a.key\"\n", "") },
			want: `coati.toml:1: [tunnel.b] has no key-file, which auth = "cert" or "pubkey" needs`,
		},
		"no use":  {text: func(s string) string { return s + "remote-key-file = \"x\"\n" }, want: `coati.toml:10: remote-key-file: is for remote-auth = "pubkey" only: leave the key out`},
		"no list": {text: func(s string) string { return s + "revocation = \"required\"\n" }, want: `coati.toml:10: revocation: "required" needs crl-file`},
		"an old list": {
			spoil: func(p *papers) { place(t, p.dir, "ca.crl", pki.ListPEM(p.ca.Revoke(t, pki.From, long))) }, text: func(s string) string { return s + "crl-file = \"ca.crl\"\n" }, warning: true,
			want: "expired on 2001-01-01",
		},
		"a stranger in the chain": {
			spoil: func(p *papers) { place(t, p.dir, "a.pem", pki.CertPEM(p.leaf, pki.New(t, "other", pki.P256).Cert)) }, warning: true,
			want: "the certificate C=CH, O=Lab, CN=other has issued none of those before it",
		},
		"nobody with a name": {
			text: func(string) string {
				return "[tunnel.b]\nremote = \"any\"\nremote-auth = \"null\"\nremote-id = \"fqdn:b\"\npsk-file = \"psk\"\nremote-ts = [\"10.2.0.0/16\"]\n"
			},
			want: `coati.toml:4: remote-id: nothing proves it with remote-auth = "null": leave the key out`,
		},
		"nobody": {
			text: func(string) string {
				return "[tunnel.b]\nremote = \"any\"\nauth = \"null\"\nremote-ts = [\"10.2.0.0/16\"]\n"
			},
			want: `coati.toml:3: warning: remote-auth = "null": everybody who asks is let in`, warning: true,
		},
		"nobody, unique": {
			text: func(string) string {
				return "[tunnel.b]\nremote = \"any\"\nauth = \"null\"\nunique = \"replace\"\nremote-ts = [\"10.2.0.0/16\"]\n"
			},
			want: `coati.toml:4: unique: peers without identity cannot be told apart`,
		},
		"no certificate at all": {text: func(string) string {
			return "[tunnel.b]\nremote = \"any\"\nauth = \"cert\"\nremote-ts = [\"10.2.0.0/16\"]\n"
		}, want: `[tunnel.b] has no cert-file, which auth = "cert" needs`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPapers(t)
			if c.change != nil {
				p.leaf = p.ca.Issue(t, "a.example", p.key.Public(), c.change)
				place(t, p.dir, "a.pem", pki.CertPEM(p.leaf))
			}
			text := certTunnel
			if c.spoil != nil {
				c.spoil(p)
			}
			if c.text != nil {
				text = c.text(text)
			}
			_, faults := Parse(filepath.Join(p.dir, "coati.toml"), []byte(text))
			got := strings.ReplaceAll(lines(faults), p.dir, "DIR")
			if !strings.Contains(got, c.want) || Failed(faults) == c.warning {
				t.Errorf("faults:\n%s\nwant %s", got, c.want)
			}
		})
	}
}

func TestAChangedCertificateIsNegotiatedAnew(t *testing.T) {
	t.Parallel()
	p := newPapers(t)
	old := mustParse(t, p.dir, certTunnel)
	if same := mustParse(t, p.dir, certTunnel); !old.Tunnels[0].SamePeer(&same.Tunnels[0]) {
		t.Error("the same files read twice are another peer")
	}
	for name, change := range map[string]func(){
		"cert-file": func() { place(t, p.dir, "a.pem", pki.CertPEM(p.ca.Issue(t, "a.example", p.key.Public()))) },
		"ca-file":   func() { place(t, p.dir, "ca.pem", pki.CertPEM(pki.New(t, "ca", pki.P256).Cert, p.ca.Cert)) },
	} {
		change()
		now := mustParse(t, p.dir, certTunnel)
		plan := Diff(old, now)
		if len(plan.Changed) != 1 || !plan.Changed[0].renegotiated || len(plan.Changed[0].Settings) != 1 || plan.Changed[0].Settings[0].Key != name {
			t.Errorf("%s: %s", name, plan)
		}
		if old.Tunnels[0].SamePeer(&now.Tunnels[0]) {
			t.Errorf("%s: the IKE SA is taken for that of the new peer", name)
		}
		old = now
	}
}

// Nobody sees a private key by printing what holds it.
func TestPrivateKeysAreNotPrinted(t *testing.T) {
	t.Parallel()
	p := newPapers(t)
	c := mustParse(t, p.dir, certTunnel)
	raw, err := p.key.(*ecdsa.PrivateKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	d, decimal := fmt.Sprintf("%x", raw), new(big.Int).SetBytes(raw).String()
	cred := c.Tunnels[0].Credential
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		for _, x := range []any{cred, *cred, cred.Key, c.Tunnels[0], c} {
			if s := fmt.Sprintf(verb, x); strings.Contains(s, d) || strings.Contains(s, decimal) {
				t.Errorf("%s of %T prints the key", verb, x)
			}
		}
	}
	if j, err := json.Marshal(cred); err != nil || string(j) != `"[redacted]"` {
		t.Errorf("JSON: %s, %v", j, err)
	}
	if diff := cmp.Diff("[redacted]", cred.LogValue().String()); diff != "" {
		t.Error(diff)
	}
}

// A pinned certificate stands for its key, whoever signed it and however long ago.
func TestAPinnedCertificateStandsForItsKey(t *testing.T) {
	t.Parallel()
	ca, key := pki.New(t, "nobody", pki.P256), pki.NewKey(t, pki.RSA2048)
	old := ca.Issue(t, "a.example", key.Public(), pki.Valid(time.Unix(0, 0), time.Unix(1, 0)))
	data := []byte(pki.CertPEM(old))
	keys, err := decodePublicKeys(data, 2048)
	if err != nil || len(keys) != 1 || !policy.EqualKeys(keys[0], key.Public()) {
		t.Errorf("%v, %v", keys, err)
	}
	if _, err := decodePublicKeys(data, 3072); err == nil {
		t.Error("a key shorter than the least is taken")
	}
}
