package eap

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"coati/lab/pki"
	"coati/policy"
)

// papers makes what both ends of EAP-TLS or EAP-TTLS need; alice's certificate is for alice@example.org.
type papers struct{ ca, other *pki.Authority }

func newPapers(t testing.TB) papers {
	return papers{pki.New(t, "root", pki.P256), pki.New(t, "other", pki.P256)}
}

func credential(key crypto.Signer, chain ...*x509.Certificate) *policy.Credential {
	return &policy.Credential{Key: policy.NewPrivateKey(key), Chain: chain}
}

func trust(a *pki.Authority) *policy.Trust {
	return &policy.Trust{Authorities: []*x509.Certificate{a.Cert}}
}

func (p papers) client(t testing.TB, m policy.EAPMethod, inner ...policy.EAPMethod) *policy.EAP {
	c := alice(m)
	c.Inner, c.Trust, c.ServerID = inner, trust(p.ca), policy.Identity{Type: policy.IDFQDN, Data: []byte("radius.example")}
	if m == policy.EAPTLS {
		key := pki.NewKey(t, pki.P256)
		c.Identity, c.Password = "alice@example.org", policy.Secret{}
		c.Credential = credential(key, p.ca.Issue(t, "alice", key.Public(), func(x *x509.Certificate) { x.EmailAddresses = []string{c.Identity} }))
	}
	return c
}

func (p papers) server(t testing.TB, m policy.EAPMethod, inner ...policy.EAPMethod) *policy.EAP {
	s := users(m)
	key := pki.NewKey(t, pki.P256)
	s.Inner, s.Trust, s.Credential = inner, trust(p.ca), credential(key, p.ca.Issue(t, "radius.example", key.Public()))
	return s
}

var inners = []policy.EAPMethod{policy.InnerPAP, policy.InnerMSCHAPv2, policy.EAPMSCHAPv2, policy.EAPMD5, policy.EAPGTC}

func within(o outcome) string { return o.s.User() }

func TestEAPTLSProvesBothEnds(t *testing.T) {
	t.Parallel()
	p := newPapers(t)
	for name, version := range map[string]uint16{"1.2": 0x303, "1.3": 0x304} {
		c := p.client(t, policy.EAPTLS)
		o := outcome{p: NewPeer(c, [32]byte{1}), s: NewServer(p.server(t, policy.EAPTLS), "gw", [32]byte{2})}
		o.s.maxTLS = version
		o.converse(t)
		o.good(t, policy.EAPTLS)
		if within(o) != c.Identity {
			t.Errorf("TLS %s: the user is %q", name, within(o))
		}
		if v := o.p.method.(*tlsClient).conn.ConnectionState().Version; v != version {
			t.Errorf("TLS %s: version %x", name, v)
		}
	}
}

func TestEAPTTLSProvesThePasswordInside(t *testing.T) {
	t.Parallel()
	p := newPapers(t)
	for _, m := range inners {
		o := converse(t, p.client(t, policy.EAPTTLS, m), p.server(t, policy.EAPTTLS, inners...))
		o.good(t, policy.EAPTTLS)
		if within(o) != "alice" {
			t.Errorf("%s: the user is %q", m, within(o))
		}
		wrong := p.client(t, policy.EAPTTLS, m)
		wrong.Password = password("guess")
		o = converse(t, wrong, p.server(t, policy.EAPTTLS, inners...))
		if o.peer.Done || o.server.Done || o.server.Err == nil || !strings.Contains(o.server.Err.Error(), `the user "alice" gives another password`) {
			t.Errorf("%s, another password: peer %+v, server %v", m, o.peer, o.server.Err)
		}
		unknown := p.client(t, policy.EAPTTLS, m)
		unknown.Identity, unknown.Password = "mallory", policy.Secret{}
		if o = converse(t, unknown, p.server(t, policy.EAPTTLS, inners...)); o.server.Done || o.server.Err == nil || !strings.Contains(o.server.Err.Error(), `there is no user "mallory"`) {
			t.Errorf("%s, unknown user: server %v", m, o.server.Err)
		}
		if o = converse(t, p.client(t, policy.EAPTTLS, m), p.server(t, policy.EAPTTLS)); o.server.Done || o.server.Err == nil || !strings.Contains(o.server.Err.Error(), "in no way that eap-inner has") {
			t.Errorf("%s where nothing is allowed: server %v", m, o.server.Err)
		}
	}
}

// What is wrong with a certificate is said in a sentence; nobody is let in, and no password is sent to a wrong server.
func TestBadCertificatesInTLSAreExplained(t *testing.T) {
	t.Parallel()
	p := newPapers(t)
	key := pki.NewKey(t, pki.P256)
	from := func(a *pki.Authority, name string, change ...func(*x509.Certificate)) *policy.Credential {
		return credential(key, a.Issue(t, name, key.Public(), change...))
	}
	old := pki.Valid(pki.From, pki.From.Add(time.Hour))
	for name, c := range map[string]struct {
		change       func(client, server *policy.EAP)
		peer, server string
	}{
		"the server's from elsewhere": {func(_, s *policy.EAP) { s.Credential = from(p.other, "radius.example") }, "the certificate of the server in TLS, CN=radius.example,O=Lab,C=CH, is from an unknown authority: see eap-ca-file", ""},
		"the server is another":       {func(_, s *policy.EAP) { s.Credential = from(p.ca, "x.example") }, "the certificate of the server in TLS is for x.example, not for radius.example: see eap-server-id", ""},
		"the server's expired":        {func(_, s *policy.EAP) { s.Credential = from(p.ca, "radius.example", old) }, "the certificate of the server in TLS is not valid", ""},
		"the client's from elsewhere": {func(c, _ *policy.EAP) { c.Credential = from(p.other, "alice@example.org") }, "", "the certificate of the client in TLS, CN=alice@example.org,O=Lab,C=CH, is from an unknown authority: see eap-ca-file"},
		"the client is another":       {func(c, _ *policy.EAP) { c.Identity = "bob@example.org" }, "", `the client says it is "bob@example.org" and has a certificate for "alice"`},
		"the client's expired":        {func(c, _ *policy.EAP) { c.Credential = from(p.ca, "alice@example.org", old) }, "", "the certificate of the client in TLS is not valid"},
		"the client has none":         {func(c, _ *policy.EAP) { c.Credential = nil }, "we have no certificate: see eap-cert-file", ""},
	} {
		for _, m := range []policy.EAPMethod{policy.EAPTLS, policy.EAPTTLS} {
			if m == policy.EAPTTLS && strings.Contains(name, "client") {
				continue
			}
			client, server := p.client(t, m, policy.InnerPAP), p.server(t, m, policy.InnerPAP)
			c.change(client, server)
			o := converse(t, client, server)
			if o.peer.Done || o.server.Done {
				t.Fatalf("%s, %s: somebody was let in", m, name)
			}
			if c.peer != "" && (o.peer.Err == nil || !strings.Contains(o.peer.Err.Error(), c.peer)) {
				t.Errorf("%s, %s: the peer says %v", m, name, o.peer.Err)
			}
			if o.server.Err == nil {
				o.server.Err = o.s.Refused() // the client left before it heard the end
			}
			if c.server != "" && (o.server.Err == nil || !strings.Contains(o.server.Err.Error(), c.server)) {
				t.Errorf("%s, %s: the server says %v", m, name, o.server.Err)
			}
		}
	}
}

// Messages longer than a packet come in fragments, and long chains of certificates arrive.
func TestLongMessagesOfTLSAreCut(t *testing.T) {
	t.Parallel()
	p := newPapers(t)
	server := p.server(t, policy.EAPTLS)
	for range 8 {
		server.Credential.Chain = append(server.Credential.Chain, server.Credential.Chain[0])
	}
	o := converse(t, p.client(t, policy.EAPTLS), server)
	o.good(t, policy.EAPTLS)
	if o.rounds < 10 {
		t.Errorf("only %d rounds: nothing was cut", o.rounds)
	}
}

func TestFragmentsArePutTogether(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, maxFragment - 1, maxFragment, maxFragment + 1, 3 * maxFragment, 20000} {
		message := bytes.Repeat([]byte{7}, n)
		var a, b fragments
		for a.send(message); ; {
			part := a.next()
			if len(part) > maxFragment+5 {
				t.Fatalf("a fragment of %d octets", len(part))
			}
			got, whole, err := b.take(part)
			if err != nil {
				t.Fatal(err)
			}
			if whole {
				if !bytes.Equal(got, message) || a.pending() {
					t.Errorf("%d octets come of %d, more to come %v", len(got), n, a.pending())
				}
				break
			}
		}
	}
}

// Lengths that lie, fragments without end or content: each ends the conversation, and no more is kept than a message may have.
func TestLyingFragmentsAreRefused(t *testing.T) {
	t.Parallel()
	part := func(flags byte, total int, n int) []byte {
		out := []byte{flags}
		if flags&flagLength != 0 {
			out = append(out, byte(total>>24), byte(total>>16), byte(total>>8), byte(total))
		}
		return append(out, make([]byte, n)...)
	}
	for name, parts := range map[string][][]byte{
		"nothing":                {{}},
		"no room for the length": {{flagLength, 0, 0, 1}},
		"too much is announced":  {part(flagLength|flagMore, maxMessage+1, 10)},
		"2 GB are announced":     {part(flagLength|flagMore, -1, 10)},
		"longer than announced":  {part(flagLength|flagMore, 100, 90), part(0, 0, 11)},
		"shorter than announced": {part(flagLength|flagMore, 100, 90), part(0, 0, 9)},
		"two lengths":            {part(flagLength|flagMore, 100, 90), part(flagLength, 99, 9)},
		"empty, and more":        {part(flagMore, 0, 0)},
	} {
		var f fragments
		var err error
		for _, p := range parts {
			if _, _, err = f.take(p); err != nil {
				break
			}
		}
		if err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	var f fragments
	for range 1000 {
		if _, _, err := f.take(part(flagMore, 0, 1000)); err != nil {
			if len(f.in) > maxMessage+1000 {
				t.Errorf("%d octets are kept", len(f.in))
			}
			return
		}
	}
	t.Error("a message without end is taken")
}

func TestAVPsAreReadBack(t *testing.T) {
	t.Parallel()
	var b []byte
	want := []avp{{1, 0, []byte("alice")}, {25, 311, []byte("0123456789")}, {79, 0, nil}, {2, 0, make([]byte, 16)}}
	for _, a := range want {
		b = appendAVP(b, a)
	}
	got, err := parseAVPs(b)
	if err != nil || len(got) != len(want) || len(b)%4 != 0 {
		t.Fatalf("%v %v", got, err)
	}
	for i := range got {
		if got[i].code != want[i].code || got[i].vendor != want[i].vendor || !bytes.Equal(got[i].data, want[i].data) {
			t.Errorf("%d: %v, want %v", i, got[i], want[i])
		}
	}
	for _, bad := range [][]byte{{0, 0, 0, 1, 0, 0, 0, 7}, {0, 0, 0, 1, 0x80, 0, 0, 11, 0, 0, 1, 55}, {0, 0, 0, 1, 0, 0xff, 0xff, 0xff}} {
		if _, err := parseAVPs(bad); err == nil || err == errShort {
			t.Errorf("%x: %v", bad, err)
		}
	}
}

// A machine that is left in the middle of TLS leaves nothing running.
func TestWhatIsLeftInTheMiddleOfTLSEnds(t *testing.T) {
	t.Parallel()
	p := newPapers(t)
	peer, server := NewPeer(p.client(t, policy.EAPTLS), [32]byte{1}), NewServer(p.server(t, policy.EAPTLS), "gw", [32]byte{2})
	step := peer.Handle(clock, server.Begin())
	for range 3 {
		step = peer.Handle(clock, server.Handle(clock, step.Send).Send)
	}
	a, b := peer.method.(*tlsClient), server.method.(*tlsServer)
	peer.Close()
	server.Close()
	if !a.ended || !b.ended {
		t.Errorf("ended: %v %v", a.ended, b.ended)
	}
}

// Octets of anybody in the place of TLS, at any time: no panic, and no success.
func FuzzTLS(f *testing.F) {
	p := newPapers(f)
	for _, m := range []policy.EAPMethod{policy.EAPTLS, policy.EAPTTLS} {
		f.Add(uint8(m), uint8(2), []byte{flagLength, 0, 0, 0, 5, 22, 3, 3, 0, 0})
		f.Add(uint8(m), uint8(5), []byte{0, 21, 3, 3, 0, 2, 2, 40})
		f.Add(uint8(m), uint8(9), []byte{flagMore, 1})
	}
	clients, servers := map[policy.EAPMethod]*policy.EAP{}, map[policy.EAPMethod]*policy.EAP{}
	for _, m := range []policy.EAPMethod{policy.EAPTLS, policy.EAPTTLS} {
		clients[m], servers[m] = p.client(f, m, policy.InnerPAP), p.server(f, m, inners...)
	}
	f.Fuzz(func(t *testing.T, method, at uint8, data []byte) {
		m := policy.EAPTLS + policy.EAPMethod(method%2)
		peer, server := NewPeer(clients[m], [32]byte{1}), NewServer(servers[m], "gw", [32]byte{2})
		defer peer.Close()
		defer server.Close()
		request := server.Begin()
		for i := range 2 * MaxRounds {
			if i == int(at%16) && len(request) > 5 && len(data) < 4000 {
				request = Packet{Request, request[1], Type(request[4]), data}.Bytes()
			}
			step := peer.Handle(clock, request)
			if step.Send == nil {
				return
			}
			if i == int(at%16)-16 && len(data) < 4000 {
				step.Send = Packet{Response, step.Send[1], typeOf(m), data}.Bytes()
			}
			if request = server.Handle(clock, step.Send).Send; request == nil {
				return
			}
		}
	})
}

// FuzzAVPs: what is read is within what came.
func FuzzAVPs(f *testing.F) {
	f.Add(appendAVP(appendAVP(nil, avp{1, 0, []byte("alice")}), avp{25, 311, []byte("0123456789")}))
	f.Fuzz(func(t *testing.T, data []byte) {
		avps, err := parseAVPs(data)
		n := 0
		for _, a := range avps {
			n += len(a.data)
		}
		if err == nil && n > len(data) {
			t.Errorf("%d octets of %d", n, len(data))
		}
	})
}
