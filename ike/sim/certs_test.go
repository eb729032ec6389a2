package sim

import (
	"crypto"
	"crypto/x509"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"coati/ike"
	"coati/lab/pki"
	"coati/policy"
)

// papers gives a tunnel a certificate of one authority, and makes it trust another; from zero each has its own key.
func papers(t *testing.T, ca *pki.Authority, kind, local, remote string, trusts *pki.Authority, change ...func(*x509.Certificate)) func(*policy.PeerTunnel) {
	t.Helper()
	key := pki.NewKey(t, kind)
	leaf := ca.Issue(t, local, key.Public(), change...)
	return func(tt *policy.PeerTunnel) {
		ids(local, remote)(tt)
		tt.PSK = policy.Secret{}
		tt.LocalAuth, tt.RemoteAuth = policy.ByCert, policy.ByCert
		tt.Credential = &policy.Credential{Key: policy.NewPrivateKey(key), Chain: []*x509.Certificate{leaf}}
		tt.Trust = &policy.Trust{Authorities: []*x509.Certificate{trusts.Cert}}
	}
}

func TestCertificatesOfEveryKindOfKeyAuthenticate(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{pki.RSA2048, pki.P256, pki.P384, pki.P521, pki.Ed25519} {
		ca := pki.New(t, "root", kind)
		w, a, b := pair(t, 7, papers(t, ca, kind, "a.example", "b.example", ca), papers(t, ca, kind, "b.example", "a.example", ca))
		a.Say(1, "t", "lan")
		w.Run(5 * time.Second)
		if len(b.Plane.Received) != 1 || !a.Up("t") || !b.Up("t") {
			t.Errorf("%s: received %v; %q %q", kind, b.Plane.Received, a.Log, b.Log)
		}
		noFaults(t, w)
	}
}

// One end may prove itself by a certificate and the other by a shared key.
func TestTheTwoEndsMayAuthenticateDifferently(t *testing.T) {
	t.Parallel()
	ca := pki.New(t, "root", pki.P256)
	for _, initiatorSigns := range []bool{true, false} {
		signs, checks := papers(t, ca, pki.P256, "a.example", "b.example", ca), papers(t, ca, pki.P256, "b.example", "a.example", ca)
		shared := func(tt *policy.PeerTunnel) { tt.PSK = policy.NewSecret([]byte("a shared key")) }
		first := func(tt *policy.PeerTunnel) { signs(tt); shared(tt); tt.RemoteAuth = policy.ByPSK }
		second := func(tt *policy.PeerTunnel) { checks(tt); shared(tt); tt.LocalAuth = policy.ByPSK }
		var w *World
		var a, b *Host
		if initiatorSigns {
			w, a, b = pair(t, 7, first, second)
		} else {
			w, a, b = pair(t, 7, func(tt *policy.PeerTunnel) { second(tt) }, func(tt *policy.PeerTunnel) { first(tt) })
		}
		a.Say(1, "t", "lan")
		w.Run(5 * time.Second)
		if len(b.Plane.Received) != 1 {
			t.Errorf("initiator signs %v: received %v; %q %q", initiatorSigns, b.Plane.Received, a.Log, b.Log)
		}
		noFaults(t, w)
	}
}

func TestRawPublicKeysAuthenticate(t *testing.T) {
	t.Parallel()
	keys := []*policy.Credential{}
	for range 2 {
		keys = append(keys, &policy.Credential{Key: policy.NewPrivateKey(pki.NewKey(t, pki.Ed25519))})
	}
	raw := func(mine, theirs int, local, remote string) func(*policy.PeerTunnel) {
		return func(tt *policy.PeerTunnel) {
			ids(local, remote)(tt)
			tt.LocalAuth, tt.RemoteAuth = policy.ByPublicKey, policy.ByPublicKey
			tt.Credential = keys[mine]
			tt.Trust = &policy.Trust{Keys: []crypto.PublicKey{keys[theirs].Key.Public()}}
		}
	}
	w, a, b := pair(t, 7, raw(0, 1, "a.example", "b.example"), raw(1, 0, "b.example", "a.example"))
	a.Say(1, "t", "lan")
	w.Run(5 * time.Second)
	if len(b.Plane.Received) != 1 {
		t.Errorf("received %v; %q %q", b.Plane.Received, a.Log, b.Log)
	}
	noFaults(t, w)
	w, a, b = pair(t, 7, raw(0, 1, "a.example", "b.example"), raw(1, 1, "b.example", "a.example"))
	a.Command(ike.Up, "t", "")
	w.Run(20 * time.Second)
	if a.Up("t") || !b.Said("the public key that the peer sends is not in remote-key-file") {
		t.Errorf("another key: up %v; %q", a.Up("t"), b.Log)
	}
}

// What is wrong with a certificate is said at both ends, by the one that refuses in a sentence of its own.
func TestWhatIsWrongWithACertificateIsSaid(t *testing.T) {
	t.Parallel()
	ca, other := pki.New(t, "root", pki.P256), pki.New(t, "other", pki.P256)
	good := func(local, remote string) func(*policy.PeerTunnel) { return papers(t, ca, pki.P256, local, remote, ca) }
	const refused = "refuses our identity fqdn:a.example or our certificate: compare local-id and cert-file"
	shared := func(tt *policy.PeerTunnel) { ids("a.example", "b.example")(tt) }
	expired := func(local, remote string) func(*policy.PeerTunnel) {
		return papers(t, ca, pki.P256, local, remote, ca, pki.Valid(pki.From, Epoch.Add(-time.Hour)))
	}
	for name, c := range map[string]struct {
		a, b         func(*policy.PeerTunnel)
		aSays, bSays string
	}{
		"expired": {expired("a.example", "b.example"), good("b.example", "a.example"), refused, "the peer's certificate C=CH, O=Lab, CN=a.example expired on 2029-12-31 23:00:00"},
		"not yet valid": {
			papers(t, ca, pki.P256, "a.example", "b.example", ca, pki.Valid(Epoch.Add(time.Hour), pki.To)), good("b.example", "a.example"),
			refused, "the peer's certificate C=CH, O=Lab, CN=a.example is not valid before 2030-01-01 01:00:00",
		},
		"unknown authority": {papers(t, other, pki.P256, "a.example", "b.example", ca), good("b.example", "a.example"), refused, "is from an unknown authority: ca-file does not have C=CH, O=Lab, CN=other"},
		"wrong usage":       {papers(t, ca, pki.P256, "a.example", "b.example", ca, pki.ServerOnly), good("b.example", "a.example"), refused, "is not for IKE: its extended key usage leaves ipsecIKE out"},
		"wrong identity": {
			papers(t, ca, pki.P256, "a.example", "b.example", ca, func(c *x509.Certificate) { c.DNSNames = []string{"x.example"} }), good("b.example", "a.example"),
			refused, "does not have the identity fqdn:a.example in its alternative names",
		},
		"another remote-id": {good("a.example", "b.example"), good("b.example", "z.example"), refused, "the peer says it is fqdn:a.example, tunnel t expects fqdn:z.example: see remote-id"},
		"100 certificates": {
			func(tt *policy.PeerTunnel) {
				good("a.example", "b.example")(tt)
				tt.Credential = &policy.Credential{Key: tt.Credential.Key, Chain: slices.Repeat(tt.Credential.Chain, 100)}
			},
			good("b.example", "a.example"), refused, "the peer sends 100 certificates, at most 16 are taken",
		},
		"a certificate of more than 32 KiB": {
			papers(t, ca, pki.P256, "a.example", "b.example", ca, func(c *x509.Certificate) {
				c.DNSNames = append(c.DNSNames, slices.Repeat([]string{strings.Repeat("x", 60)}, 600)...)
			}),
			good("b.example", "a.example"), refused, "octets, at most 32768 are taken",
		},
		"the responder is another of the same authority": {
			papers(t, ca, pki.P256, "a.example", "", ca), good("c.example", "a.example"), "the peer says it is fqdn:c.example, tunnel t expects 192.0.2.2: see remote-id", "",
		},
		"the responder's expired":   {good("a.example", "b.example"), expired("b.example", "a.example"), "the peer's certificate C=CH, O=Lab, CN=b.example expired on 2029-12-31 23:00:00", ""},
		"the responder's authority": {good("a.example", "b.example"), papers(t, other, pki.P256, "b.example", "a.example", ca), "ca-file does not have C=CH, O=Lab, CN=other", ""},
		"a shared key":              {shared, good("b.example", "a.example"), "our pre-shared key", "the peer authenticates by Shared Key Message Integrity Code, tunnel t expects a certificate: see remote-auth"},
		"another key": {
			func(tt *policy.PeerTunnel) {
				good("a.example", "b.example")(tt)
				tt.Credential = &policy.Credential{Key: policy.NewPrivateKey(pki.NewKey(t, pki.P256)), Chain: tt.Credential.Chain}
			},
			good("b.example", "a.example"), refused, "the peer fqdn:a.example is not believed: the signature is not that of the certificate's key",
		},
	} {
		w, a, b := pair(t, 5, c.a, c.b)
		id := a.Command(ike.Up, "t", "")
		w.Run(20 * time.Second)
		if err := a.Replies[id]; err == nil || !strings.Contains(err.Error(), c.aSays) {
			t.Errorf("%s: a replies %v\nwant %s", name, err, c.aSays)
		}
		if c.bSays != "" && !b.Said(c.bSays) {
			t.Errorf("%s: b says %q\nwant %s", name, b.Log, c.bSays)
		}
		if a.Up("t") || b.Up("t") {
			t.Errorf("%s: up %v %v", name, a.Up("t"), b.Up("t"))
		}
	}
}

// The responder finds the tunnel by what the certificate says, among several for peers at any address.
func TestTheCertificateChoosesTheTunnel(t *testing.T) {
	t.Parallel()
	one, two := pki.New(t, "one", pki.P256), pki.New(t, "two", pki.P256)
	w, a, b := pair(t, 8, papers(t, two, pki.P256, "a.example", "b.example", two), nil)
	var all []policy.PeerTunnel
	for name, ca := range map[string]*pki.Authority{"one": one, "two": two} {
		all = append(all, tunnelTo("192.0.2.1", "10.2.0.0/16", "10.1.0.0/16", papers(t, ca, pki.P256, "b.example", "", ca), func(tt *policy.PeerTunnel) {
			tt.Name, tt.Start = name, policy.StartListen
			tt.RemoteID = policy.Identity{Type: policy.IDAnyOne}
		}))
	}
	b.Configure(all...)
	a.Command(ike.Up, "t", "")
	w.Run(5 * time.Second)
	if !a.Up("t") || !b.Up("two") || b.Up("one") {
		t.Errorf("up: %v, two %v, one %v; %q %q", a.Up("t"), b.Up("two"), b.Up("one"), a.Log, b.Log)
	}
}

// A tunnel that is taken out of the configuration while its peer's signature is checked does not come up.
func TestATunnelRemovedDuringTheCheckDoesNotComeUp(t *testing.T) {
	t.Parallel()
	ca := pki.New(t, "root", pki.P256)
	w, a, b := pair(t, 9, papers(t, ca, pki.P256, "a.example", "b.example", ca), papers(t, ca, pki.P256, "b.example", "a.example", ca))
	b.JobDelay = 2 * time.Second
	a.Command(ike.Up, "t", "")
	if !w.RunUntil(time.Minute, func() bool { return b.V2.Taken["peer authenticates"] == 1 }) {
		t.Fatal("no signature is checked")
	}
	b.Configure(tunnelTo("192.0.2.99", "10.2.0.0/16", "10.9.0.0/16"))
	w.Run(30 * time.Second)
	if a.Up("t") || b.Up("t") || !b.Said("the tunnel was changed meanwhile") {
		t.Errorf("up %v %v; %q", a.Up("t"), b.Up("t"), b.Log)
	}
}

func null(local, remote policy.AuthBy, more ...func(*policy.PeerTunnel)) func(*policy.PeerTunnel) {
	return func(tt *policy.PeerTunnel) {
		for _, f := range more {
			f(tt)
		}
		if tt.LocalAuth = local; local == policy.ByNobody {
			tt.LocalID = policy.Identity{}
		}
		if tt.RemoteAuth = remote; remote == policy.ByNobody {
			tt.RemoteID = policy.Identity{}
		}
	}
}

// Neither end, or only one of them, need say who it is (RFC 7619), where the other allows that.
func TestWhoNeedNotAuthenticateIsNobody(t *testing.T) {
	t.Parallel()
	ca := pki.New(t, "root", pki.P256)
	client, server := papers(t, ca, pki.P256, "a.example", "b.example", ca), papers(t, ca, pki.P256, "b.example", "a.example", ca)
	for name, c := range map[string]struct{ a, b func(*policy.PeerTunnel) }{
		"neither":             {null(policy.ByNobody, policy.ByNobody), null(policy.ByNobody, policy.ByNobody)},
		"the responder signs": {null(policy.ByNobody, policy.ByCert, client), null(policy.ByCert, policy.ByNobody, server)},
		"the initiator signs": {null(policy.ByCert, policy.ByNobody, client), null(policy.ByNobody, policy.ByCert, server)},
	} {
		w, a, b := pair(t, 7, c.a, c.b)
		a.Say(1, "t", "lan")
		w.Run(5 * time.Second)
		if len(b.Plane.Received) != 1 {
			t.Errorf("%s: received %v; %q %q", name, b.Plane.Received, a.Log, b.Log)
		}
		for _, sa := range b.Engine.Status()[0].SAs {
			if nobody := sa.RemoteID.String() == "nobody"; nobody != (name != "the initiator signs") {
				t.Errorf("%s: the peer is %s", name, sa.RemoteID)
			}
		}
		noFaults(t, w)
	}
}

func TestNobodyIsNotLetInWhereAKeyIsExpected(t *testing.T) {
	t.Parallel()
	ca := pki.New(t, "root", pki.P256)
	for want, b := range map[string]func(*policy.PeerTunnel){
		"by NULL Authentication, tunnel t expects a pre-shared key: see remote-auth": nil,
		"by NULL Authentication, tunnel t expects a certificate: see remote-auth":    papers(t, ca, pki.P256, "b.example", "", ca),
	} {
		any := func(tt *policy.PeerTunnel) {
			if b != nil {
				b(tt)
			}
			tt.RemoteID = policy.Identity{Type: policy.IDAnyOne}
		}
		w, a, host := pair(t, 7, null(policy.ByNobody, policy.ByNobody), any)
		id := a.Command(ike.Up, "t", "")
		w.Run(20 * time.Second)
		if a.Up("t") || host.Up("t") || !host.Said(want) || a.Replies[id] == nil || !strings.Contains(a.Replies[id].Error(), "that we do not authenticate") {
			t.Errorf("up %v %v; %v; %q, want %s", a.Up("t"), host.Up("t"), a.Replies[id], host.Log, want)
		}
	}
}

// Peers without identity do not end each other's SAs by INITIAL_CONTACT (RFC 7619, section 2.3).
func TestNobodyDoesNotReplaceNobody(t *testing.T) {
	t.Parallel()
	w, a, b := pair(t, 7, null(policy.ByNobody, policy.ByNobody), null(policy.ByNobody, policy.ByNobody, func(tt *policy.PeerTunnel) {
		tt.Remote, tt.Start = netip.Addr{}, policy.StartListen
	}))
	c := w.AddHost("c", "192.0.2.3")
	c.Configure(tunnelTo("192.0.2.2", "10.1.0.0/16", "10.2.0.0/16", null(policy.ByNobody, policy.ByNobody)))
	a.Command(ike.Up, "t", "")
	w.Run(5 * time.Second)
	c.Command(ike.Up, "t", "")
	w.Run(5 * time.Second)
	if !a.Up("t") || !c.Up("t") {
		t.Fatalf("up %v %v; %q", a.Up("t"), c.Up("t"), b.Log)
	}
	if sas, _ := b.Established("t"); sas != 2 {
		t.Errorf("%d IKE SAs, want one for each peer", sas)
	}
}
