package lab

import (
	"cmp"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"coati/lab/pki"

	gocmp "github.com/google/go-cmp/cmp"
)

// Certificates: Coati is a.example, strongSwan b.example, and both ends have files that this test makes.

const (
	nameA, nameB = "a.example", "b.example"

	caseCertChain   = "certificates, RSA-2048 below an intermediate, in IP fragments"
	caseCertLong    = "certificates, 16 KB below an intermediate, in IKE fragments"
	caseCertDN      = "certificates, by distinguished names"
	caseCertRaw     = "raw public keys, Ed25519"
	caseCertRefused = "bad certificates explained"
	caseCertPair    = "certificates, Ed25519 here, RSA-2048 there"
)

// A signing is a kind of key and a way to sign with it.
type signing struct {
	name, kind string
	pss        bool
	says       string // in strongSwan's log, of either end
}

func signings() []signing {
	return []signing{
		{"RSA-2048, PKCS#1", pki.RSA2048, false, "RSA_EMSA_PKCS1_SHA2_256"},
		{"RSA-2048, PSS", pki.RSA2048, true, "RSA_EMSA_PSS_SHA2_256"},
		{"ECDSA P-256", pki.P256, false, "ECDSA_WITH_SHA256_DER"},
		{"ECDSA P-384", pki.P384, false, "ECDSA_WITH_SHA384_DER"},
		{"Ed25519", pki.Ed25519, false, "ED25519"},
	}
}

func (s signing) String() string { return "certificates, " + s.name }

func certCells() []Cell {
	cells := []Cell{{peerCoati, roleBoth, caseCertPair}}
	for _, role := range bothRoles {
		for _, s := range signings() {
			cells = append(cells, Cell{peerStrongSwan, role, s.String()})
		}
		for _, what := range []string{caseCertChain, caseCertLong, caseCertDN, caseCertRaw, caseCertRefused} {
			cells = append(cells, Cell{peerStrongSwan, role, what})
		}
	}
	return cells
}

// A holder is one end's key and certificates.
type holder struct {
	key   crypto.Signer
	chain []*x509.Certificate
	ca    *pki.Authority // that it believes
}

func newHolder(t testing.TB, name, kind string, by, believes *pki.Authority, change ...func(*x509.Certificate)) holder {
	t.Helper()
	key := pki.NewKey(t, kind)
	return holder{key, []*x509.Certificate{by.Issue(t, name, key.Public(), change...)}, believes}
}

// ours writes Coati's files and returns the lines of its tunnel.
func (o holder) ours(t testing.TB, h *Host, local, remote string) string {
	t.Helper()
	return fmt.Sprintf("auth = \"cert\"\ncert-file = %q\nkey-file = %q\nca-file = %q\nlocal-id = \"fqdn:%s\"\nremote-id = \"fqdn:%s\"\n",
		h.Write(t, "cert.pem", pki.CertPEM(o.chain...)), h.Write(t, "cert.key", pki.KeyPEM(t, o.key)), h.Write(t, "ca.pem", pki.CertPEM(o.ca.Cert)), local, remote)
}

// theirs writes strongSwan's files and returns its swanctl.conf.
func (o holder) theirs(t testing.TB, h *Host, s swan) string {
	t.Helper()
	h.Write(t, "charon/swanctl/private/b.pem", pki.KeyPEM(t, o.key))
	h.Write(t, "charon/swanctl/x509/b.pem", pki.CertPEM(o.chain[0]))
	for i, c := range o.chain[1:] {
		h.Write(t, fmt.Sprintf("charon/swanctl/x509ca/between-%d.pem", i), pki.CertPEM(c))
	}
	h.Write(t, "charon/swanctl/x509ca/root.pem", pki.CertPEM(o.ca.Cert))
	return s.signed("certs = b.pem", "")
}

// signed is the connection with signatures instead of the shared key.
func (s swan) signed(local, remote string) string {
	return fmt.Sprintf(`connections { t { version = 2
  local_addrs = %s
  remote_addrs = %s
  proposals = %s
  local { auth = pubkey
    %s
    id = %s }
  remote { auth = pubkey
    %s
    id = %s }
  children { lan { local_ts = %s
      remote_ts = %s
      esp_proposals = %s } } } }
`, s.local, s.remote, usualIKE, local, cmp.Or(s.localID, nameB), remote, cmp.Or(s.remoteID, nameA), s.localTS, s.remoteTS, usualESP)
}

// certified starts Coati and strongSwan with these papers.
func certified(t *testing.T, role string, a, b holder, more string, settings ...string) *versus {
	t.Helper()
	pair := NewPair(t)
	tunnel := signedTunnel(pair, role)
	tunnel.ExtraTunnel = a.ours(t, pair.A, nameA, nameB) + more
	conf := b.theirs(t, pair.B, toSwan(tunnel))
	return startSigned(t, pair, role, tunnel, conf, settings...)
}

func signedTunnel(pair *Pair, role string) Tunnel {
	tunnel := Between(pair.A, pair.B)
	tunnel.NoPSK, tunnel.IKE, tunnel.ESP, tunnel.Start = true, usualIKE, usualESP, "listen"
	if role == roleInitiator {
		tunnel.Start = "on-demand"
	}
	return tunnel
}

func startSigned(t *testing.T, pair *Pair, role string, tunnel Tunnel, conf string, settings ...string) *versus {
	t.Helper()
	v := &versus{Pair: pair, role: role}
	v.coati = NewCoati(t, pair.A, tunnel)
	v.charon = StartCharon(t, pair.B, false, settings...)
	v.charon.LoadAll(t, conf)
	v.coati.Start(t)
	return v
}

// bothSigned fails the test unless strongSwan says that both ends signed that way.
func (v *versus) bothSigned(t *testing.T, how, a, b string) {
	t.Helper()
	for _, line := range []string{"authentication of '" + a + "' with " + how, "authentication of '" + b + "' (myself) with " + how} {
		if !strings.Contains(v.charon.Log(), line) {
			t.Errorf("strongSwan's log does not say %q:\n%s", line, grep(v.charon.Log(), "authentication"))
		}
	}
}

func grep(text, word string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			out.WriteString(line)
		}
	}
	return out.String()
}

func TestStrongSwanByCertificates(t *testing.T) {
	NeedRoot(t)
	for _, role := range bothRoles {
		for _, s := range signings() {
			t.Run(role+"/"+s.name, func(t *testing.T) {
				t.Parallel()
				results.Fill(t, peerStrongSwan, role, s.String())
				ca := pki.New(t, "root", s.kind)
				more, settings := "", []string{}
				if s.kind == pki.RSA2048 && !s.pss {
					more = "rsa-signature = \"pkcs1\"\n"
				}
				if s.pss {
					settings = append(settings, "rsa_pss = yes")
				}
				v := certified(t, role, newHolder(t, nameA, s.kind, ca, ca), newHolder(t, nameB, s.kind, ca, ca), more, settings...)
				v.judged(t)
				v.bothSigned(t, s.says, nameA, nameB)
			})
		}
		t.Run(role+"/intermediate", func(t *testing.T) {
			t.Parallel()
			results.Fill(t, peerStrongSwan, role, caseCertChain)
			ca := pki.New(t, "root", pki.RSA2048)
			sub, sub2 := ca.Intermediate(t, "sub", pki.RSA2048), ca.Intermediate(t, "sub 2", pki.P384)
			a, b := newHolder(t, nameA, pki.RSA2048, sub, ca), newHolder(t, nameB, pki.RSA2048, sub2, ca)
			a.chain, b.chain = append(a.chain, sub.Cert), append(b.chain, sub2.Cert)
			v := certified(t, role, a, b, "fragment-size = \"off\"\n")
			v.connect(t) // not judged: the judge knows no fragments
			NoLoss(t, v.B, v.A, 3)
			for _, h := range []*Host{v.A, v.B} {
				if h.ipCounter(t, "FragCreates") == 0 || h.ipCounter(t, "ReasmOKs") == 0 {
					t.Errorf("no IKE message of %s was fragmented: the certificates are too small for what is to be tried", h.Name)
				}
			}
			v.coati.Alive(t)
		})
		t.Run(role+"/16 KB", func(t *testing.T) {
			t.Parallel()
			results.Fill(t, peerStrongSwan, role, caseCertLong)
			ca := pki.New(t, "root", pki.P256)
			sub, sub2 := ca.Intermediate(t, "sub", pki.P256), ca.Intermediate(t, "sub 2", pki.P256)
			a, b := newHolder(t, nameA, pki.P256, sub, ca, padded(16<<10)), newHolder(t, nameB, pki.P256, sub2, ca, padded(16<<10))
			a.chain, b.chain = append(a.chain, sub.Cert), append(b.chain, sub2.Cert)
			v := certified(t, role, a, b, "", "max_packet = 40000")
			v.judged(t)
			for _, h := range []*Host{v.A, v.B} {
				if n := h.ipCounter(t, "FragCreates"); n != 0 {
					t.Errorf("%s sent %d IP fragments", h.Name, n)
				}
			}
			if !strings.Contains(v.charon.Log(), "EF(1/1") {
				t.Errorf("strongSwan's log has no message in ten or more fragments:\n%s", grep(v.charon.Log(), "parsed IKE_AUTH"))
			}
		})
		t.Run(role+"/distinguished names", func(t *testing.T) {
			t.Parallel()
			results.Fill(t, peerStrongSwan, role, caseCertDN)
			pair, ca := NewPair(t), pki.New(t, "root", pki.P256)
			tunnel := signedTunnel(pair, role)
			lines := newHolder(t, nameA, pki.P256, ca, ca).ours(t, pair.A, nameA, nameB)
			lines = strings.Replace(lines, "local-id = \"fqdn:"+nameA+"\"\n", "", 1) // the certificate's subject
			tunnel.ExtraTunnel = strings.Replace(lines, "fqdn:"+nameB, "dn:C=CH, O=Lab, CN="+nameB, 1)
			peer := toSwan(tunnel)
			peer.localID, peer.remoteID = `"C=CH, O=Lab, CN=`+nameB+`"`, `"C=CH, O=Lab, CN=`+nameA+`"`
			v := startSigned(t, pair, role, tunnel, newHolder(t, nameB, pki.P256, ca, ca).theirs(t, pair.B, peer))
			v.connect(t)
			v.bothSigned(t, "ECDSA_WITH_SHA256_DER", "C=CH, O=Lab, CN="+nameA, "C=CH, O=Lab, CN="+nameB)
			v.coati.Alive(t)
		})
		t.Run(role+"/raw public keys", func(t *testing.T) {
			t.Parallel()
			results.Fill(t, peerStrongSwan, role, caseCertRaw)
			v := rawKeys(t, role)
			v.connect(t) // not judged: tshark 4.0 takes a raw public key for a broken certificate
			NoLoss(t, v.B, v.A, 3)
			v.bothSigned(t, "ED25519", nameA, nameB)
			v.coati.Alive(t)
		})
	}
}

// padded adds an extension of so many octets that nobody knows.
func padded(octets int) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Value: append([]byte{4, 0x82, byte(octets >> 8), byte(octets)}, make([]byte, octets)...)})
	}
}

// ipCounter is one of the kernel's counters of IPv4 (RFC 4293).
func (h *Host) ipCounter(t *testing.T, name string) int {
	t.Helper()
	var header []string
	for line := range strings.Lines(h.Must(t, "cat", "/proc/net/snmp")) {
		words := strings.Fields(line)
		switch {
		case words[0] != "Ip:":
		case header == nil:
			header = words
		default:
			n, err := strconv.Atoi(words[slices.Index(header, name)])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no counter %s", name)
	return 0
}

func rawKeys(t *testing.T, role string) *versus {
	pair := NewPair(t)
	tunnel := signedTunnel(pair, role)
	a, b := pki.NewKey(t, pki.Ed25519), pki.NewKey(t, pki.Ed25519)
	tunnel.ExtraTunnel = fmt.Sprintf("auth = \"pubkey\"\nkey-file = %q\nremote-key-file = %q\nlocal-id = \"fqdn:%s\"\nremote-id = \"fqdn:%s\"\n",
		pair.A.Write(t, "a.key", pki.KeyPEM(t, a)), pair.A.Write(t, "b.pub", pki.PublicPEM(t, b.Public())), nameA, nameB)
	pair.B.Write(t, "charon/swanctl/private/b.pem", pki.KeyPEM(t, b))
	pair.B.Write(t, "charon/swanctl/pubkey/b.pub", pki.PublicPEM(t, b.Public()))
	pair.B.Write(t, "charon/swanctl/pubkey/a.pub", pki.PublicPEM(t, a.Public()))
	return startSigned(t, pair, role, tunnel, toSwan(tunnel).signed("pubkeys = b.pub", "pubkeys = a.pub"))
}

// A badPaper is what is wrong with strongSwan's certificate, and the sentence that must say so.
type badPaper struct{ name, says string }

func badPapers() []badPaper {
	return []badPaper{
		{"expired", "the peer's certificate C=CH, O=Lab, CN=b.example expired on 2001-01-01 00:00:00"},
		{"wrong identity", "the certificate C=CH, O=Lab, CN=b.example does not have the identity fqdn:b.example in its alternative names"},
		{"unknown authority", "the peer's certificate C=CH, O=Lab, CN=b.example is from an unknown authority: ca-file does not have C=CH, O=Lab, CN=other"},
		{"wrong usage", "the peer's certificate C=CH, O=Lab, CN=b.example is not for IKE: its extended key usage leaves ipsecIKE out (see cert-usage)"},
		{"revoked", "the certificate C=CH, O=Lab, CN=b.example was revoked on 2000-01-01 00:00:00"},
	}
}

// papers makes both ends' papers with that fault, and more lines for Coati's tunnel.
func (bad badPaper) papers(t *testing.T, pair *Pair) (a, b holder, more string) {
	ca, other := pki.New(t, "root", pki.P256), pki.New(t, "other", pki.P256)
	a = newHolder(t, nameA, pki.P256, ca, ca)
	switch bad.name {
	case "expired":
		b = newHolder(t, nameB, pki.P256, ca, ca, pki.Valid(pki.From, pki.From.AddDate(1, 0, 1).Add(-24*time.Hour)))
	case "unknown authority":
		b = newHolder(t, nameB, pki.P256, other, ca)
	case "wrong usage":
		b = newHolder(t, nameB, pki.P256, ca, ca, pki.ServerOnly)
	case "wrong identity":
		b = newHolder(t, nameB, pki.P256, ca, ca, func(c *x509.Certificate) { c.DNSNames = []string{"x.example"} })
	default:
		b = newHolder(t, nameB, pki.P256, ca, ca)
	}
	if bad.name == "revoked" {
		more = fmt.Sprintf("crl-file = %q\n", pair.A.Write(t, "ca.crl", pki.ListPEM(ca.Revoke(t, pki.From, pki.To, b.chain[0]))))
	}
	return a, b, more
}

func TestBadCertificatesAreExplained(t *testing.T) {
	NeedRoot(t)
	for _, role := range bothRoles {
		for _, bad := range badPapers() {
			t.Run(role+"/"+bad.name, func(t *testing.T) {
				t.Parallel()
				results.Fill(t, peerStrongSwan, role, caseCertRefused)
				pair := NewPair(t)
				a, b, more := bad.papers(t, pair)
				tunnel := signedTunnel(pair, role)
				tunnel.ExtraTunnel = a.ours(t, pair.A, nameA, nameB) + more
				v := startSigned(t, pair, role, tunnel, b.theirs(t, pair.B, toSwan(tunnel)))
				v.refuses(t, bad.says)
			})
		}
	}
}

// refuses fails the test unless Coati refuses the peer with this sentence.
func (v *versus) refuses(t *testing.T, says string) {
	t.Helper()
	if v.role == roleInitiator {
		output, err := v.coati.Patiently("up", "peer")
		if err == nil {
			t.Fatalf("the tunnel came up: %s", output)
		}
		if diff := gocmp.Diff("coati: "+says+"\n", output); diff != "" {
			t.Errorf("coati up (-want +got):\n%s", diff)
		}
	} else {
		if err := v.charon.Initiate("lan"); err == nil {
			t.Fatal("the tunnel came up")
		}
		if refused := v.coati.Status(t).Tunnels[0].LastRefused; refused == nil || refused.Reason != says {
			t.Errorf("coati status has %+v, want %q", refused, says)
		}
	}
	v.inLog(t, says)
	if n := len(v.coati.Pairs(t)); n != 0 {
		t.Errorf("%d pairs of ESP SAs", n)
	}
	v.coati.Alive(t)
}

// Two Coatis, each with its own kind of key; the key file is in nobody's log.
func TestCoatiByCertificates(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	results.Fill(t, peerCoati, roleBoth, caseCertPair)
	pair := NewPair(t)
	ca := pki.New(t, "root", pki.P256)
	a, b := newHolder(t, nameA, pki.Ed25519, ca, ca), newHolder(t, nameB, pki.RSA2048, ca, ca)
	there := signedTunnel(pair, roleResponder).Reversed()
	there.ESP = "aes128gcm16-noesn" // what tshark can open
	there.ExtraTunnel = b.ours(t, pair.B, nameB, nameA)
	here := signedTunnel(pair, roleInitiator)
	here.ExtraTunnel = a.ours(t, pair.A, nameA, nameB)
	left, right := StartCoati(t, pair.A, here), StartCoati(t, pair.B, there)
	capture := pair.A.Capture(t)
	NoLoss(t, pair.A, pair.B, 3)
	left.Do(t, "rekey", "peer")
	NoLoss(t, pair.B, pair.A, 3)
	left.Do(t, "down", "peer")
	capture.Stop(t)
	Judge(t, capture.File, left.Keys).Check(t, 12)
	left.Alive(t)
	right.Alive(t)
}
