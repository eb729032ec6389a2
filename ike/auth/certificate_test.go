package auth

import (
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"coati/lab/pki"
	"coati/policy"
)

var noon = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

// world is an authority with an intermediate, and a peer's key.
type world struct {
	root, sub *pki.Authority
	trust     *policy.Trust
}

func newWorld(t testing.TB) *world {
	w := &world{root: pki.New(t, "root", pki.P256)}
	w.sub = w.root.Intermediate(t, "sub", pki.P256)
	w.trust = &policy.Trust{Authorities: []*x509.Certificate{w.root.Cert}}
	return w
}

func TestGoodChainsAreBelieved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := pki.NewKey(t, pki.P256).Public()
	for name, chain := range map[string][]*x509.Certificate{
		"direct":                    {w.root.Issue(t, "gw", key)},
		"through an intermediate":   {w.sub.Issue(t, "gw", key), w.sub.Cert},
		"with the root in it":       {w.sub.Issue(t, "gw", key), w.root.Cert, w.sub.Cert},
		"for IKE only":              {w.root.Issue(t, "gw", key, pki.IKEOnly)},
		"without any key usage":     {w.root.Issue(t, "gw", key, func(c *x509.Certificate) { c.KeyUsage = 0 })},
		"with nonRepudiation alone": {w.root.Issue(t, "gw", key, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageContentCommitment })},
	} {
		if err := VerifyChain(chain, w.trust, noon); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	server := []*x509.Certificate{w.root.Issue(t, "gw", key, pki.ServerOnly)}
	if err := VerifyChain(server, &policy.Trust{Authorities: w.trust.Authorities, AnyUsage: true}, noon); err != nil {
		t.Errorf("a server's, with cert-usage any: %v", err)
	}
	self := w.root.Issue(t, "gw", key)
	if err := VerifyChain([]*x509.Certificate{self}, &policy.Trust{Authorities: []*x509.Certificate{self}}, noon); err != nil {
		t.Errorf("a certificate that is itself configured: %v", err)
	}
}

// Every bad certificate ends in a sentence that says what is bad about it.
func TestBadChainsAreExplained(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := pki.NewKey(t, pki.P256)
	early, late := pki.Valid(pki.From, noon.Add(-time.Hour)), pki.Valid(noon.Add(time.Hour), pki.To)
	self := pki.New(t, "self", pki.P256)
	namesake := pki.New(t, "root", pki.P256)
	other := pki.New(t, "other", pki.P256)
	for name, c := range map[string]struct {
		chain []*x509.Certificate
		want  string
	}{
		"expired":                            {[]*x509.Certificate{w.root.Issue(t, "gw", key.Public(), early)}, "the peer's certificate C=CH, O=Lab, CN=gw expired on 2030-01-01 11:00:00"},
		"not yet valid":                      {[]*x509.Certificate{w.root.Issue(t, "gw", key.Public(), late)}, "the peer's certificate C=CH, O=Lab, CN=gw is not valid before 2030-01-01 13:00:00"},
		"self-signed":                        {[]*x509.Certificate{self.Cert}, "the peer's certificate C=CH, O=Lab, CN=self is not for signatures"},
		"self-signed, for signatures":        {[]*x509.Certificate{selfSigned(t)}, "the peer's certificate C=CH, O=Lab, CN=lone is self-signed, and not in ca-file"},
		"unknown authority":                  {[]*x509.Certificate{other.Issue(t, "gw", key.Public())}, "the peer's certificate C=CH, O=Lab, CN=gw is from an unknown authority: ca-file does not have C=CH, O=Lab, CN=other"},
		"intermediate missing":               {[]*x509.Certificate{w.sub.Issue(t, "gw", key.Public())}, "unknown authority: ca-file does not have C=CH, O=Lab, CN=sub"},
		"another authority of the same name": {[]*x509.Certificate{namesake.Issue(t, "gw", key.Public())}, "is not signed by the authority in ca-file, though it has its name C=CH, O=Lab, CN=root"},
		"for servers":                        {[]*x509.Certificate{w.root.Issue(t, "gw", key.Public(), pki.ServerOnly)}, "is not for IKE: its extended key usage leaves ipsecIKE out"},
		"for encryption":                     {[]*x509.Certificate{w.root.Issue(t, "gw", key.Public(), func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })}, "is not for signatures: its key usage leaves digitalSignature out"},
		"signed by no authority":             {[]*x509.Certificate{(&pki.Authority{Cert: w.root.Issue(t, "leaf", key.Public()), Key: key}).Issue(t, "gw", key.Public()), w.root.Issue(t, "leaf", key.Public())}, "the peer's certificate C=CH, O=Lab, CN=gw is"},
	} {
		if err := VerifyChain(c.chain, w.trust, noon); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v\nwant %s", name, err, c.want)
		}
	}
	if err := VerifyChain([]*x509.Certificate{self.Cert}, &policy.Trust{}, noon); err == nil || !strings.Contains(err.Error(), "see ca-file") {
		t.Errorf("no authority: %v", err)
	}
	// The authority's own time counts, too.
	old := *w.trust
	leaf := w.root.Issue(t, "gw", key.Public(), pki.Valid(pki.From, pki.To.AddDate(100, 0, 0)))
	if err := VerifyChain([]*x509.Certificate{leaf}, &old, pki.To.AddDate(1, 0, 0)); err == nil || !strings.Contains(err.Error(), "CN=root expired on 2100-01-01") {
		t.Errorf("an authority that expired: %v", err)
	}
}

func selfSigned(t *testing.T) *x509.Certificate {
	key := pki.NewKey(t, pki.P256)
	return (&pki.Authority{Cert: &x509.Certificate{Subject: pki.Subject("lone"), PublicKey: key.Public()}, Key: key}).Issue(t, "lone", key.Public())
}

func TestWhatAPeerSendsIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := pki.NewKey(t, pki.P256)
	deep := []*x509.Certificate{}
	ca := w.root
	for i := range 100 {
		ca = ca.Intermediate(t, fmt.Sprint("level ", i), pki.P256)
		deep = append([]*x509.Certificate{ca.Cert}, deep...)
	}
	deep = append([]*x509.Certificate{ca.Issue(t, "gw", key.Public())}, deep...)
	var ders [][]byte
	for _, c := range deep {
		ders = append(ders, c.Raw)
	}
	big := w.root.Issue(t, "gw", key.Public(), func(c *x509.Certificate) {
		for i := range 2000 {
			c.DNSNames = append(c.DNSNames, fmt.Sprintf("name-%d.example.org", i))
		}
	})
	sixteen := w.root.Issue(t, "gw", key.Public(), func(c *x509.Certificate) {
		for i := range 700 {
			c.DNSNames = append(c.DNSNames, fmt.Sprintf("name-%d.example.org", i))
		}
	})
	for name, c := range map[string]struct {
		ders [][]byte
		want string
	}{
		"a chain of 101":           {ders, "the peer sends 101 certificates, at most 16 are taken"},
		"one of 40,000 octets":     {[][]byte{big.Raw}, "octets, at most 32768 are taken"},
		"none":                     {nil, "the peer sends no certificate"},
		"no certificate":           {[][]byte{[]byte("nonsense")}, "certificate 1 of the peer's cannot be read"},
		"a good one and a bad one": {[][]byte{deep[0].Raw, {0x30}}, "certificate 2 of the peer's cannot be read"},
		"one of 16,000 octets":     {[][]byte{sixteen.Raw}, ""},
	} {
		_, err := ParseChain(c.ders)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	if err := VerifyChain([]*x509.Certificate{sixteen}, w.trust, noon); err != nil {
		t.Errorf("one of %d octets: %v", len(sixteen.Raw), err)
	}
	// A path that is short enough to be read, and too long to be followed.
	leaf := w.root
	path := []*x509.Certificate{}
	for i := range maxPath - 1 {
		leaf = leaf.Intermediate(t, fmt.Sprint("step ", i), pki.P256)
		path = append([]*x509.Certificate{leaf.Cert}, path...)
	}
	path = append([]*x509.Certificate{leaf.Issue(t, "gw", key.Public())}, path...)
	if err := VerifyChain(path, w.trust, noon); err == nil || !strings.Contains(err.Error(), "is longer than 10") {
		t.Errorf("a path of %d: %v", len(path)+1, err)
	}
}

func TestACertificateProvesTheIdentitiesInItAndNoOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.root.Issue(t, "gw.example", pki.NewKey(t, pki.P256).Public(), pki.Addresses("192.0.2.1", "2001:db8::1"), func(c *x509.Certificate) { c.EmailAddresses = []string{"gw@example.org"} })
	for id, want := range map[string]bool{
		"fqdn:gw.example": true, "fqdn:GW.Example": true, "fqdn:example": false, "fqdn:x.gw.example": false,
		"email:gw@example.org": true, "email:other@example.org": false,
		"192.0.2.1": true, "192.0.2.2": false, "2001:db8::1": true, "2001:db8::2": false,
		"dn:C=CH, O=Lab, CN=gw.example": true, "dn:C=CH, O=Lab, CN=other": false, "dn:CN=gw.example": false,
		"keyid:gw.example": false,
	} {
		parsed, err := policy.ParseIdentity(id)
		if err != nil {
			t.Fatal(err)
		}
		if err := MatchIdentity(c, parsed); (err == nil) != want {
			t.Errorf("%s: %v", id, err)
		}
	}
	// A name in the subject alone proves no host name (RFC 4945, section 3.1.2).
	bare := w.root.Issue(t, "gw.example", pki.NewKey(t, pki.P256).Public(), func(c *x509.Certificate) { c.DNSNames = nil; c.IPAddresses = []net.IP{{1, 2, 3, 4}} })
	err := MatchIdentity(bare, policy.Identity{Type: policy.IDFQDN, Data: []byte("gw.example")})
	if err == nil || err.Error() != "the certificate C=CH, O=Lab, CN=gw.example does not have the identity fqdn:gw.example in its alternative names" {
		t.Errorf("a common name: %v", err)
	}
}

func TestRevokedCertificatesAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := pki.NewKey(t, pki.P256).Public()
	good, bad := w.sub.Issue(t, "good", key), w.sub.Issue(t, "bad", key)
	fresh := func(a *pki.Authority, certs ...*x509.Certificate) *x509.RevocationList {
		return a.Revoke(t, noon.Add(-time.Hour), noon.Add(time.Hour), certs...)
	}
	stale := func(a *pki.Authority, certs ...*x509.Certificate) *x509.RevocationList {
		return a.Revoke(t, noon.Add(-2*time.Hour), noon.Add(-time.Hour), certs...)
	}
	forged := pki.New(t, "sub", pki.P256)
	lists := func(l ...*x509.RevocationList) []*x509.RevocationList { return l }
	const unknown = "is unknown: crl-file has no current list of C=CH, O=Lab, CN=sub"
	for name, c := range map[string]struct {
		leaf   *x509.Certificate
		lists  []*x509.RevocationList
		policy policy.Revocation
		want   string
	}{
		"named":                   {bad, lists(fresh(w.sub, bad), fresh(w.root)), policy.RevocationIfAvailable, "the certificate C=CH, O=Lab, CN=bad was revoked on 2030-01-01 11:00:00"},
		"named, required":         {bad, lists(fresh(w.sub, bad), fresh(w.root)), policy.RevocationRequired, "CN=bad was revoked"},
		"named by an old list":    {bad, lists(stale(w.sub, bad)), policy.RevocationIfAvailable, "CN=bad was revoked"},
		"named, lists off":        {bad, lists(fresh(w.sub, bad)), policy.RevocationOff, ""},
		"not named":               {good, lists(fresh(w.sub, bad), fresh(w.root)), policy.RevocationRequired, ""},
		"the intermediate named":  {good, lists(fresh(w.sub), fresh(w.root, w.sub.Cert)), policy.RevocationIfAvailable, "CN=sub was revoked"},
		"no list":                 {good, nil, policy.RevocationIfAvailable, ""},
		"no list, required":       {good, nil, policy.RevocationRequired, unknown},
		"an old list, required":   {good, lists(stale(w.sub, bad), fresh(w.root)), policy.RevocationRequired, unknown},
		"no list of the root's":   {good, lists(fresh(w.sub)), policy.RevocationRequired, "no current list of C=CH, O=Lab, CN=root"},
		"a forged list, required": {good, lists(fresh(forged), fresh(w.root)), policy.RevocationRequired, unknown},
		"named by a forged list":  {good, lists(fresh(forged, good)), policy.RevocationIfAvailable, ""},
	} {
		tr := &policy.Trust{Authorities: w.trust.Authorities, Lists: c.lists, Revocation: c.policy}
		err := VerifyChain([]*x509.Certificate{c.leaf, w.sub.Cert}, tr, noon)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v\nwant %s", name, err, c.want)
		}
	}
}

func TestAuthoritiesAreAskedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tunnel := func(cs ...*x509.Certificate) *policy.PeerTunnel {
		return &policy.PeerTunnel{RemoteAuth: policy.ByCert, Trust: &policy.Trust{Authorities: cs}}
	}
	if _, asked := AskFor([]*policy.PeerTunnel{{}, {RemoteAuth: policy.ByPublicKey, Trust: &policy.Trust{}}}); asked {
		t.Error("asked for certificates that no tunnel wants")
	}
	got, asked := AskFor([]*policy.PeerTunnel{tunnel(w.root.Cert), tunnel(w.root.Cert, w.sub.Cert)})
	if want := string(AuthorityHash(w.root.Cert)) + string(AuthorityHash(w.sub.Cert)); !asked || string(got) != want {
		t.Errorf("asked for %x, want %x", got, want)
	}
	var many []*x509.Certificate
	for range maxAsked + 1 {
		many = append(many, w.root.Intermediate(t, "x", pki.P256).Cert)
	}
	if got, asked := AskFor([]*policy.PeerTunnel{tunnel(many...)}); !asked || got != nil {
		t.Errorf("of %d authorities %d octets are named", len(many), len(got))
	}
}

func FuzzChain(f *testing.F) {
	// The same keys in every process that fuzzes.
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pki.Subject("root"), NotBefore: pki.From, NotAfter: pki.To, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		f.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		f.Fatal(err)
	}
	leaf := (&pki.Authority{Cert: root, Key: key}).Issue(f, "gw", key.Public())
	trust := &policy.Trust{Authorities: []*x509.Certificate{root}}
	if err := VerifyChain([]*x509.Certificate{leaf}, trust, noon); err != nil {
		f.Fatal(err)
	}
	f.Add(leaf.Raw, root.Raw)
	f.Add(root.Raw, []byte{0x30, 0})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		chain, err := ParseChain([][]byte{a, b})
		if err == nil && VerifyChain(chain, trust, noon) == nil && !chain[0].Equal(leaf) && !chain[0].Equal(root) {
			t.Fatalf("%x is believed", a)
		}
		if err == nil {
			_ = MatchIdentity(chain[0], policy.Identity{Type: policy.IDDN, Data: b})
		}
		_, _ = KnownKeys([][]byte{b}, &policy.Trust{Keys: []crypto.PublicKey{leaf.PublicKey}})
	})
}
