package auth

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"coati/ike/keys"
	"coati/policy"
)

// signer is one side of a recording: how it proved who it is.
type signer struct {
	name   string
	values map[string]string
}

// readSigners reads "[who]" blocks of "name = value" lines; an indented line continues the value above it.
func readSigners(t *testing.T, name string) []signer {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var out []signer
	last := ""
	for line := range strings.SplitSeq(string(text), "\n") {
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			out = append(out, signer{strings.Trim(line, "[]"), map[string]string{}})
		case line[0] == ' ':
			out[len(out)-1].values[last] += strings.TrimSpace(line)
		default:
			k, v, _ := strings.Cut(line, "=")
			last = strings.TrimSpace(k)
			out[len(out)-1].values[last] = strings.TrimSpace(v)
		}
	}
	if len(out) != 2 {
		t.Fatalf("%s has %d signers, want both sides", name, len(out))
	}
	return out
}

func (s signer) octets(t *testing.T, key string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s.values[key])
	if err != nil || len(b) == 0 {
		t.Fatalf("[%s] has no %q (%v)", s.name, key, err)
	}
	return b
}

func (s signer) prf(t *testing.T) keys.PRF {
	t.Helper()
	return mustPRF(t, s.values["prf"])
}

func mustPRF(t testing.TB, word string) keys.PRF {
	t.Helper()
	a := policy.LookupKeyword(word)
	if a == nil {
		t.Fatalf("no algorithm %q", word)
	}
	p, err := keys.NewPRF(a.Transform())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Both sides of two strongSwan negotiations: the octets signed and the AUTH data.
func TestPSKAgainstStrongSwan(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"strongswan-gcm.txt", "strongswan-cbc.txt"} {
		for _, s := range readSigners(t, name) {
			p := s.prf(t)
			skp, psk := policy.NewSecret(s.octets(t, "sk_p")), policy.NewSecret(s.octets(t, "psk"))
			signed := SignedOctets(p, s.octets(t, "message"), s.octets(t, "nonce"), skp, s.octets(t, "id"))
			if !bytes.Equal(signed, s.octets(t, "octets")) {
				t.Errorf("%s, %s: other octets are signed", name, s.name)
			}
			want := s.octets(t, "auth")
			if got := PSK(p, psk, signed); !bytes.Equal(got, want) {
				t.Errorf("%s, %s: AUTH is %x", name, s.name, got)
			}
			if !VerifyPSK(p, psk, signed, want) {
				t.Errorf("%s, %s: strongSwan's AUTH is refused", name, s.name)
			}
		}
	}
}

func TestVerifyPSKRefusesEverythingElse(t *testing.T) {
	t.Parallel()
	for _, word := range []string{"prfsha256", "prfsha384", "prfsha512"} {
		p := mustPRF(t, word)
		psk, skp := policy.NewSecret([]byte("a shared key")), policy.NewSecret(bytes.Repeat([]byte{9}, p.Size()))
		message, nonce, id := []byte("IKE_SA_INIT"), []byte("nonce of the other side"), []byte{2, 0, 0, 0, 'm', 'e'}
		signed := SignedOctets(p, message, nonce, skp, id)
		auth := PSK(p, psk, signed)
		if !VerifyPSK(p, psk, signed, auth) || len(auth) != p.Size() {
			t.Fatalf("%s: our own AUTH is refused", word)
		}
		for bit := range len(auth) * 8 {
			bad := bytes.Clone(auth)
			bad[bit/8] ^= 1 << (bit % 8)
			if VerifyPSK(p, psk, signed, bad) {
				t.Fatalf("%s: bit %d changed and accepted", word, bit)
			}
		}
		for n := range auth {
			if VerifyPSK(p, psk, signed, auth[:n]) {
				t.Errorf("%s: the first %d octets are accepted", word, n)
			}
		}
		if VerifyPSK(p, psk, signed, append(bytes.Clone(auth), 0)) {
			t.Errorf("%s: an octet too many is accepted", word)
		}
		if VerifyPSK(p, policy.NewSecret([]byte("a shared kez")), signed, auth) {
			t.Errorf("%s: another key is accepted", word)
		}
		flip := func(b []byte) []byte { c := bytes.Clone(b); c[len(c)-1] ^= 1; return c }
		for what, other := range map[string][]byte{
			"message":  SignedOctets(p, flip(message), nonce, skp, id),
			"nonce":    SignedOctets(p, message, flip(nonce), skp, id),
			"identity": SignedOctets(p, message, nonce, skp, flip(id)),
			"SK_p":     SignedOctets(p, message, nonce, policy.NewSecret(flip(skp.Reveal())), id),
		} {
			if VerifyPSK(p, psk, other, auth) {
				t.Errorf("%s: accepted over another %s", word, what)
			}
		}
	}
}

// The message is the caller's datagram: signing must not write behind it.
func TestSignedOctetsAreFresh(t *testing.T) {
	t.Parallel()
	p := mustPRF(t, "prfsha256")
	datagram := []byte("message|behind it")
	was := bytes.Clone(datagram)
	SignedOctets(p, datagram[:7], []byte("nonce"), policy.NewSecret([]byte("key")), []byte{1, 0, 0, 0})
	if !bytes.Equal(datagram, was) {
		t.Error("the caller's octets were written to")
	}
}
