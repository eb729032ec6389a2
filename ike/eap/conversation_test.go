package eap

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"coati/policy"
)

var clock = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func password(s string) policy.Secret { return policy.NewSecret([]byte(s)) }

func alice(methods ...policy.EAPMethod) *policy.EAP {
	return &policy.EAP{Methods: methods, Identity: "alice", Password: password("correct horse")}
}

func users(methods ...policy.EAPMethod) *policy.EAP {
	return &policy.EAP{Methods: methods, Users: map[string]policy.Secret{"alice": password("correct horse"), "bob": password("x")}}
}

// outcome is how a conversation ended at both ends.
type outcome struct {
	peer, server Step
	rounds       int
	p            *Peer
	s            *Server
}

// converse has both talk until both have ended, or neither has anything to say.
func converse(t testing.TB, client, serves *policy.EAP) outcome {
	t.Helper()
	o := outcome{p: NewPeer(client, [32]byte{1}), s: NewServer(serves, "gw", [32]byte{2})}
	o.converse(t)
	return o
}

func (o *outcome) converse(t testing.TB) {
	t.Helper()
	t.Cleanup(o.p.Close)
	t.Cleanup(o.s.Close)
	for request := o.s.Begin(); request != nil; o.rounds++ {
		if o.rounds > 3*MaxRounds {
			t.Fatal("no end")
		}
		o.peer = o.p.Handle(clock, request)
		request = nil
		if o.peer.Send != nil && o.peer.Err == nil {
			o.server = o.s.Handle(clock, o.peer.Send)
			request = o.server.Send
		}
	}
}

func (o outcome) good(t *testing.T, method policy.EAPMethod) {
	t.Helper()
	if !o.peer.Done || !o.server.Done || o.peer.Err != nil || o.server.Err != nil {
		t.Fatalf("%s: peer %v, server %v", method, o.peer.Err, o.server.Err)
	}
	if a, b := o.p.MSK(), o.s.MSK(); !a.Equal(b) || method.Keys() != (a.Len() == 64) {
		t.Errorf("%s: keys of %d and %d octets, the same: %v", method, a.Len(), b.Len(), a.Equal(b))
	}
	if o.p.Method() != typeOf(method).String() {
		t.Errorf("%s ran, not %s", o.p.Method(), method)
	}
}

func TestEachMethodProvesWhoKnowsThePassword(t *testing.T) {
	t.Parallel()
	for _, m := range []policy.EAPMethod{policy.EAPMSCHAPv2, policy.EAPMD5, policy.EAPGTC} {
		o := converse(t, alice(m), users(m))
		o.good(t, m)
		if o.s.User() != "alice" {
			t.Errorf("%s: the user is %q", m, o.s.User())
		}
		wrong := alice(m)
		wrong.Password = password("incorrect horse")
		o = converse(t, wrong, users(m))
		if o.peer.Done || o.server.Done || o.server.Err == nil || !strings.Contains(o.server.Err.Error(), `the user "alice" gives another password`) {
			t.Errorf("%s, another password: peer %+v, server %+v", m, o.peer, o.server)
		}
		if o.peer.Err == nil || !strings.Contains(o.peer.Err.Error(), "eap-password-file") {
			t.Errorf("%s, another password: the peer says %v", m, o.peer.Err)
		}
		stranger := alice(m)
		stranger.Identity = "mallory"
		if o = converse(t, stranger, users(m)); o.server.Err == nil || !strings.Contains(o.server.Err.Error(), `there is no user "mallory"`) {
			t.Errorf("%s, unknown user: server %+v", m, o.server)
		}
	}
}

// Who has no account is asked as often as who has one, so that nobody learns names.
func TestAnUnknownUserIsAskedLikeAKnownOne(t *testing.T) {
	t.Parallel()
	for _, m := range []policy.EAPMethod{policy.EAPMSCHAPv2, policy.EAPMD5, policy.EAPGTC} {
		known, unknown := alice(m), alice(m)
		known.Password = password("wrong")
		unknown.Identity = "mallory"
		if a, b := converse(t, known, users(m)).rounds, converse(t, unknown, users(m)).rounds; a != b {
			t.Errorf("%s: %d rounds for who is known, %d for who is not", m, a, b)
		}
	}
}

// A user with no password in the server's map must not come in with an empty one.
func TestAnUnknownUserHasNoEmptyPassword(t *testing.T) {
	t.Parallel()
	for _, m := range []policy.EAPMethod{policy.EAPMSCHAPv2, policy.EAPMD5, policy.EAPGTC} {
		c := alice(m)
		c.Identity, c.Password = "mallory", policy.Secret{}
		if o := converse(t, c, users(m)); o.server.Done || o.peer.Done {
			t.Errorf("%s lets mallory in", m)
		}
	}
}

func TestADomainBeforeTheUsersNameDoesNotCount(t *testing.T) {
	t.Parallel()
	c := alice(policy.EAPMSCHAPv2)
	c.Identity = `OFFICE\alice`
	converse(t, c, users(policy.EAPMSCHAPv2)).good(t, policy.EAPMSCHAPv2)
}

func TestTheClientChoosesAmongTheServersMethods(t *testing.T) {
	t.Parallel()
	converse(t, alice(policy.EAPMD5), users(policy.EAPMSCHAPv2, policy.EAPGTC, policy.EAPMD5)).good(t, policy.EAPMD5)
	o := converse(t, alice(policy.EAPMD5), users(policy.EAPMSCHAPv2, policy.EAPGTC))
	if o.server.Err == nil || !strings.Contains(o.server.Err.Error(), "takes none of our EAP methods [mschapv2 gtc]: it wants MD5") {
		t.Errorf("no method in common: the server says %v", o.server.Err)
	}
	if o.peer.Err == nil || !strings.Contains(o.peer.Err.Error(), "wants an EAP method that eap-methods does not have") {
		t.Errorf("no method in common: the peer says %v", o.peer.Err)
	}
}

// A server of MSCHAPv2 proves that it knows the password; one that does not is left.
func TestAServerThatDoesNotKnowThePasswordIsLeft(t *testing.T) {
	t.Parallel()
	p := NewPeer(alice(policy.EAPMSCHAPv2), [32]byte{1})
	p.Handle(clock, Packet{Request, 1, TypeMSCHAPv2, mschapPacket(opChallenge, 1, []byte{16}, make([]byte, 16), []byte("gw"))}.Bytes())
	if s := p.Handle(clock, Packet{Code: Success, ID: 1}.Bytes()); s.Done || s.Err == nil {
		t.Errorf("success in the middle is believed: %+v", s)
	}
	p = NewPeer(alice(policy.EAPMSCHAPv2), [32]byte{1})
	p.Handle(clock, Packet{Request, 1, TypeMSCHAPv2, mschapPacket(opChallenge, 1, []byte{16}, make([]byte, 16), []byte("gw"))}.Bytes())
	forged := mschapPacket(opSuccess, 1, []byte("S="+strings.Repeat("0", 40)+" M=OK"))
	if s := p.Handle(clock, Packet{Request, 2, TypeMSCHAPv2, forged}.Bytes()); s.Err == nil || !strings.Contains(s.Err.Error(), "the server does not know our password") {
		t.Errorf("a forged proof is believed: %+v", s)
	}
}

func TestSuccessBeforeAnythingIsNotBelieved(t *testing.T) {
	t.Parallel()
	for _, m := range []policy.EAPMethod{policy.EAPMSCHAPv2, policy.EAPMD5, policy.EAPGTC} {
		p := NewPeer(alice(m), [32]byte{1})
		if s := p.Handle(clock, Packet{Code: Success, ID: 1}.Bytes()); s.Done || s.Err == nil {
			t.Errorf("%s: %+v", m, s)
		}
		p = NewPeer(alice(m), [32]byte{1})
		p.Handle(clock, Packet{Request, 1, TypeIdentity, nil}.Bytes())
		if s := p.Handle(clock, Packet{Code: Success, ID: 1}.Bytes()); s.Done || s.Err == nil {
			t.Errorf("%s, after the identity: %+v", m, s)
		}
	}
}

// Neither end can be kept busy for ever.
func TestEndlessRoundsEnd(t *testing.T) {
	t.Parallel()
	p := NewPeer(alice(policy.EAPGTC), [32]byte{1})
	var last Step
	for i := range MaxRounds + 1 {
		last = p.Handle(clock, Packet{Request, uint8(i), TypeNotification, []byte("hello")}.Bytes())
		if i < MaxRounds && last.Err != nil {
			t.Fatalf("round %d: %v", i, last.Err)
		}
	}
	if last.Err != errRounds {
		t.Errorf("after %d rounds: %v", MaxRounds+1, last.Err)
	}
	s := NewServer(users(policy.EAPGTC, policy.EAPMD5), "gw", [32]byte{2})
	s.Begin()
	s.Handle(clock, Packet{Response, 0, TypeIdentity, []byte("alice")}.Bytes())
	if step := s.Handle(clock, Packet{Response, 1, TypeNak, []byte{byte(TypeMD5)}}.Bytes()); step.Err != nil {
		t.Fatal(step.Err)
	}
	if step := s.Handle(clock, Packet{Response, 2, TypeNak, []byte{byte(TypeGTC)}}.Bytes()); step.Err == nil {
		t.Error("a method is asked for twice")
	}
}

// No prefix of a packet parses, nor one whose length says something else.
func TestAMalformedPacketIsRefused(t *testing.T) {
	t.Parallel()
	whole := Packet{Request, 7, TypeMD5, []byte{1, 2, 3}}.Bytes()
	for n := range len(whole) {
		if _, err := Parse(whole[:n]); err == nil {
			t.Errorf("%d of %d octets parse", n, len(whole))
		}
	}
	for _, bad := range [][]byte{
		append(bytes.Clone(whole), 0),
		{3, 1, 0, 5, 0},
		{1, 1, 0, 4},
		{5, 1, 0, 4},
		{0, 1, 0, 4},
		Packet{Request, 1, TypeMD5, make([]byte, MaxPacket)}.Bytes(),
	} {
		if _, err := Parse(bad); err == nil {
			t.Errorf("%x parses", bad[:min(len(bad), 8)])
		}
	}
	got, err := Parse(whole)
	if err != nil || got.Code != Request || got.ID != 7 || got.Type != TypeMD5 || !bytes.Equal(got.Data, []byte{1, 2, 3}) {
		t.Errorf("%+v %v", got, err)
	}
}

func TestMalformedMethodsDataEndsTheConversation(t *testing.T) {
	t.Parallel()
	for name, data := range map[string][]byte{
		"MD5 without value":         {0},
		"MD5 value longer":          {17, 1, 2},
		"MSCHAPv2 wrong length":     {opChallenge, 1, 0, 99, 16},
		"MSCHAPv2 short challenge":  mschapPacket(opChallenge, 1, []byte{16, 1, 2}),
		"MSCHAPv2 success first":    mschapPacket(opSuccess, 1, []byte("S=")),
		"MSCHAPv2 unknown op":       mschapPacket(9, 1, make([]byte, 40)),
		"MSCHAPv2 one octet":        {opChallenge},
		"MSCHAPv2 failure at first": mschapPacket(opFailure, 1, []byte("E=691")),
	} {
		typ := TypeMSCHAPv2
		if strings.HasPrefix(name, "MD5") {
			typ = TypeMD5
		}
		p := NewPeer(alice(policy.EAPMSCHAPv2, policy.EAPMD5), [32]byte{1})
		if s := p.Handle(clock, Packet{Request, 1, typ, data}.Bytes()); s.Err == nil {
			t.Errorf("%s: the client answers %x", name, s.Send)
		}
		s := NewServer(users(policy.EAPMSCHAPv2), "gw", [32]byte{2})
		if typ == TypeMD5 {
			s = NewServer(users(policy.EAPMD5), "gw", [32]byte{2})
		}
		s.Begin()
		s.Handle(clock, Packet{Response, 0, TypeIdentity, []byte("alice")}.Bytes())
		if step := s.Handle(clock, Packet{Response, 1, typ, data}.Bytes()); step.Err == nil || step.Done {
			t.Errorf("%s: the server answers %x", name, step.Send)
		}
	}
}

// What a peer says ends in our log in quotes, and no secret does.
func TestNoSecretIsInAnError(t *testing.T) {
	t.Parallel()
	for _, m := range []policy.EAPMethod{policy.EAPMSCHAPv2, policy.EAPMD5, policy.EAPGTC} {
		c := alice(m)
		c.Identity, c.Password = "mal\nlory", password("s3cret")
		o := converse(t, c, users(m))
		for _, err := range []error{o.peer.Err, o.server.Err} {
			if err == nil || strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "correct horse") || strings.ContainsAny(err.Error(), "\n") {
				t.Errorf("%s: %v", m, err)
			}
		}
	}
}

// Octets of anybody, as one end and the other: no panic, and no success without the password.
func FuzzEAP(f *testing.F) {
	for _, m := range []policy.EAPMethod{policy.EAPMSCHAPv2, policy.EAPMD5, policy.EAPGTC} {
		f.Add(true, uint8(m), Packet{Request, 1, typeOf(m), mschapPacket(opChallenge, 1, []byte{16}, make([]byte, 20))}.Bytes())
		f.Add(false, uint8(m), Packet{Response, 1, typeOf(m), mschapPacket(opResponse, 1, []byte{49}, make([]byte, 60))}.Bytes())
	}
	f.Add(true, uint8(0), Packet{Request, 1, TypeIdentity, nil}.Bytes())
	f.Add(false, uint8(0), Packet{Response, 1, TypeNak, []byte{4, 6}}.Bytes())
	f.Fuzz(func(t *testing.T, client bool, method uint8, data []byte) {
		m := policy.EAPMethod(method % 5)
		p := NewPeer(alice(m), [32]byte{1})
		s := NewServer(users(m), "gw", [32]byte{2})
		defer p.Close()
		defer s.Close()
		s.Begin()
		s.Handle(clock, Packet{Response, 0, TypeIdentity, []byte("alice")}.Bytes())
		for len(data) > 0 {
			n := min(1+int(data[0]), len(data))
			chunk := data[:n]
			data = data[n:]
			for _, whole := range [][]byte{chunk, Packet{Request, 1, typeOf(m), chunk}.Bytes(), Packet{Response, s.id, typeOf(m), chunk}.Bytes()} {
				if client {
					step := p.Handle(clock, whole)
					if step.Done && m == policy.EAPMSCHAPv2 {
						t.Fatal("the client believes who does not know the password")
					}
				} else if step := s.Handle(clock, whole); step.Done {
					t.Fatal("the server lets in who does not know the password")
				} else if step.Err != nil {
					return
				}
			}
		}
	})
}
