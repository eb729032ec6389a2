package radius

import (
	"bytes"
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"coati/policy"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.NewReplacer(" ", "", "\n", "").Replace(s))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var shared = policy.NewSecret([]byte("xyzzy5461"))

// RFC 2865, section 7.1: the request's authenticator and the answer to it.
func TestTheAuthenticatorOfAResponseIsThatOfTheRFC(t *testing.T) {
	t.Parallel()
	answer := unhex(t, "02 00 00 26 86 fe 22 0e 76 24 ba 2a 10 05 f6 bf 9b 55 e0 b2 06 06 00 00 00 01 0f 06 00 00 00 00 0e 06 c0 a8 01 03")
	a := Authenticator(unhex(t, "0f 40 3f 94 73 97 80 57 bd 83 d5 cb 98 f4 22 7a"))
	if got := responseAuthenticator(answer, a, shared); !bytes.Equal(got, answer[4:20]) {
		t.Errorf("%x, want %x", got, answer[4:20])
	}
	// It is genuine, and without Message-Authenticator it is not believed.
	if _, err := ParseResponse(answer, 0, a, shared); !errors.Is(err, ErrUnprotected) {
		t.Errorf("a response without Message-Authenticator: %v", err)
	}
}

// server makes responses as a RADIUS server does.
type server struct {
	secret policy.Secret
	id     uint8
	a      Authenticator
	code   Code
	attrs  []byte
	plain  bool // without Message-Authenticator
}

func (s server) bytes() []byte {
	b := append([]byte{byte(s.code), s.id, 0, 0}, s.a[:]...)
	at := len(b) + 2
	if !s.plain {
		b = append(b, attrMessageAuthenticator, 18)
		b = append(b, make([]byte, 16)...)
	}
	b = append(b, s.attrs...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	if !s.plain {
		copy(b[at:], messageAuthenticator(b, s.secret))
	}
	return s.resign(b)
}

func (s server) resign(b []byte) []byte {
	copy(b[4:], responseAuthenticator(b, s.a, s.secret))
	return b
}

// key encrypts one of Microsoft's keys (RFC 2548, section 2.4.2).
func (s server) key(t byte, key []byte) []byte {
	plain := append([]byte{byte(len(key))}, key...)
	for len(plain)%16 != 0 {
		plain = append(plain, 0)
	}
	salt := []byte{0x80 | t, 7}
	out := slices.Clone(salt)
	before := append(s.a[:len(s.a):len(s.a)], salt...)
	for ; len(plain) > 0; plain = plain[16:] {
		k := md5.Sum(append(append([]byte{}, s.secret.Reveal()...), before...))
		block := make([]byte, 16)
		for i := range block {
			block[i] = plain[i] ^ k[i]
		}
		out, before = append(out, block...), block
	}
	vendor := append([]byte{0, 0, 1, 55}, attribute(nil, t, out)...)
	return attribute(nil, attrVendorSpecific, vendor)
}

func accept() server {
	s := server{secret: shared, id: 9, a: Authenticator{1, 2, 3}, code: AccessAccept}
	s.attrs = slices.Concat(attribute(nil, attrEAPMessage, []byte{3, 1, 0, 4}), s.key(mppeRecvKey, bytes.Repeat([]byte{1}, 32)), s.key(mppeSendKey, bytes.Repeat([]byte{2}, 32)))
	return s
}

func TestAnAcceptBringsTheKey(t *testing.T) {
	t.Parallel()
	s := accept()
	r, err := ParseResponse(append(s.bytes(), 0, 0), 9, s.a, shared)
	want := append(bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)...)
	if err != nil || r.Code != AccessAccept || !bytes.Equal(r.EAP, []byte{3, 1, 0, 4}) || !bytes.Equal(r.MSK.Reveal(), want) {
		t.Fatalf("%+v %v", r, err)
	}
	s.attrs = slices.Concat(s.key(mppeRecvKey, bytes.Repeat([]byte{1}, 16)), s.key(mppeSendKey, bytes.Repeat([]byte{2}, 16)))
	r, err = ParseResponse(s.bytes(), 9, s.a, shared)
	want = slices.Concat(bytes.Repeat([]byte{1}, 16), bytes.Repeat([]byte{2}, 16), make([]byte, 32))
	if err != nil || !bytes.Equal(r.MSK.Reveal(), want) {
		t.Errorf("short keys: %d octets, %v", r.MSK.Len(), err)
	}
	s.code = AccessReject
	if r, err = ParseResponse(s.bytes(), 9, s.a, shared); err != nil || r.MSK.Len() != 0 {
		t.Errorf("a reject brings a key of %d octets, %v", r.MSK.Len(), err)
	}
}

// A challenge's long EAP packet is put together of its parts.
func TestAChallengeIsPutTogether(t *testing.T) {
	t.Parallel()
	s := accept()
	s.code = AccessChallenge
	packet := bytes.Repeat([]byte("0123456789"), 60)
	s.attrs = attribute(nil, attrState, []byte("state"))
	for rest := packet; len(rest) > 0; rest = rest[min(253, len(rest)):] {
		s.attrs = attribute(s.attrs, attrEAPMessage, rest[:min(253, len(rest))])
	}
	r, err := ParseResponse(s.bytes(), 9, s.a, shared)
	if err != nil || !bytes.Equal(r.EAP, packet) || string(r.State) != "state" {
		t.Errorf("%d octets, state %q, %v", len(r.EAP), r.State, err)
	}
}

// Whatever a liar sends is refused: each change of one rule alone.
func TestALiarIsNotBelieved(t *testing.T) {
	t.Parallel()
	good := accept()
	for name, c := range map[string]struct {
		change func(s *server, b []byte) []byte
		want   error
	}{
		"another secret": {func(s *server, _ []byte) []byte {
			s.secret = policy.NewSecret([]byte("guess"))
			return s.bytes()
		}, ErrAuthenticator},
		"wrong response authenticator": {func(_ *server, b []byte) []byte { b[5] ^= 1; return b }, ErrAuthenticator},
		"wrong message authenticator":  {func(s *server, b []byte) []byte { b[25] ^= 1; return s.resign(b) }, ErrAuthenticator},
		"no message authenticator":     {func(s *server, _ []byte) []byte { s.plain = true; return s.bytes() }, ErrUnprotected},
		"two message authenticators": {func(s *server, _ []byte) []byte {
			s.attrs = append(s.attrs, append([]byte{80, 18}, make([]byte, 16)...)...)
			return s.bytes()
		}, ErrMalformed},
		"another request's":               {func(_ *server, b []byte) []byte { b[1]++; return b }, ErrOther},
		"a request":                       {func(s *server, _ []byte) []byte { s.code = AccessRequest; return s.bytes() }, ErrOther},
		"another request authenticator":   {func(s *server, _ []byte) []byte { s.a[3]++; return s.bytes() }, ErrAuthenticator},
		"an attribute that says too much": {func(s *server, _ []byte) []byte { s.attrs = append(s.attrs, 79, 200, 1); return s.bytes() }, ErrMalformed},
		"an attribute without end":        {func(s *server, _ []byte) []byte { s.attrs = append(s.attrs, 79); return s.bytes() }, ErrMalformed},
		"an attribute of no length":       {func(s *server, _ []byte) []byte { s.attrs = append(s.attrs, 79, 0); return s.bytes() }, ErrMalformed},
		"one key of two":                  {func(s *server, _ []byte) []byte { s.attrs = s.key(mppeSendKey, make([]byte, 32)); return s.bytes() }, ErrMalformed},
		"a key in the clear": {func(s *server, _ []byte) []byte {
			s.attrs = attribute(nil, attrVendorSpecific, append([]byte{0, 0, 1, 55, mppeSendKey, 20, 0x80, 0}, make([]byte, 16)...))
			return s.bytes()
		}, ErrMalformed},
		"two states": {func(s *server, _ []byte) []byte { s.attrs = []byte{24, 3, 1, 24, 3, 2}; return s.bytes() }, ErrMalformed},
		"cut off":    {func(_ *server, b []byte) []byte { return b[:len(b)-1] }, ErrMalformed},
		"empty":      {func(_ *server, _ []byte) []byte { return nil }, ErrMalformed},
	} {
		s := good
		b := c.change(&s, s.bytes())
		if r, err := ParseResponse(b, 9, good.a, shared); !errors.Is(err, c.want) || r.MSK.Len() != 0 {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestARequestSaysWhatAServerMustKnow(t *testing.T) {
	t.Parallel()
	r := Request{User: "alice", EAP: bytes.Repeat([]byte{7}, 600), State: []byte("state"), CallingStation: "203.0.113.7", NASIdentifier: strings.Repeat("n", 300), NASAddress: netip.MustParseAddr("192.0.2.1")}
	b, err := r.Append(3, Authenticator{9}, shared)
	if err != nil || len(b) > maxPacket || int(binary.BigEndian.Uint16(b[2:])) != len(b) || b[0] != 1 || b[1] != 3 || b[4] != 9 {
		t.Fatalf("%x %v", b[:min(len(b), 8)], err)
	}
	if b[20] != attrMessageAuthenticator {
		t.Error("the Message-Authenticator is not first")
	}
	signed := bytes.Clone(b)
	clear(signed[22:38])
	if !bytes.Equal(messageAuthenticator(signed, shared), b[22:38]) {
		t.Error("the Message-Authenticator is wrong")
	}
	got := map[byte][]byte{}
	for rest := b[20:]; len(rest) > 0; {
		typ, value, more, err := next(rest)
		if err != nil {
			t.Fatal(err)
		}
		got[typ] = append(got[typ], value...)
		rest = more
	}
	if string(got[1]) != "alice" || !bytes.Equal(got[79], r.EAP) || string(got[24]) != "state" || !bytes.Equal(got[4], []byte{192, 0, 2, 1}) || string(got[31]) != "203.0.113.7" || len(got[32]) != 253 {
		t.Errorf("%q", got)
	}
	if _, err := (Request{EAP: make([]byte, 4000)}).Append(1, Authenticator{}, shared); err == nil {
		t.Error("a packet that RADIUS cannot carry is sent")
	}
}

// Octets of anybody: no panic, and nothing is believed without the secret.
func FuzzParseResponse(f *testing.F) {
	good := accept()
	f.Add(good.bytes(), false)
	f.Add(good.attrs, true)
	f.Add([]byte{79, 3, 1, 24, 2}, true)
	f.Fuzz(func(t *testing.T, data []byte, signed bool) {
		if signed { // what a server that knows the secret may send
			s := good
			if s.attrs = data; len(data) > 4000 {
				return
			}
			r, err := ParseResponse(s.bytes(), s.id, s.a, shared)
			if err == nil && (len(r.EAP) > len(data) || r.MSK.Len() > 128) {
				t.Errorf("%d octets of EAP, %d of a key from %d", len(r.EAP), r.MSK.Len(), len(data))
			}
			return
		}
		if _, err := ParseResponse(data, 9, Authenticator{42}, shared); err == nil {
			t.Error("believed")
		}
	})
}
