package eap

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"coati/policy"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// RFC 2759, section 9.2, and RFC 3079, section 3.5.3.
func TestMSCHAPv2GivesTheExamplesOfTheRFCs(t *testing.T) {
	t.Parallel()
	server, peer := unhex(t, "5B 5D 7C 7D 7B 3F 2F 3E 3C 2C 60 21 32 26 26 28"), unhex(t, "21 40 23 24 25 5E 26 2A 28 29 5F 2B 3A 33 7C 7E")
	hash := ntHash(policy.NewSecret([]byte("clientPass")))
	response := ntResponse(server, peer, "User", hash)
	msk := mschapv2MSK(hash, response)
	for what, c := range map[string]struct {
		got  []byte
		want string
	}{
		"Challenge":        {challengeHash(peer, server, "User"), "D0 2E 43 86 BC E9 12 26"},
		"PasswordHash":     {hash, "44 EB BA 8D 53 12 B8 D6 11 47 44 11 F5 69 89 AE"},
		"PasswordHashHash": {md4Sum(hash), "41 C0 0C 58 4B D2 D9 1C 40 17 A2 A1 2F A5 9F 3F"},
		"NT-Response":      {response, "82 30 9E CD 8D 70 8B 5E A0 8F AA 39 81 CD 83 54 42 33 11 4A 3D 85 D6 DF"},
		"SendStartKey128":  {msk.Reveal()[16:32], "8B 7C DC 14 9B 99 3A 1B A1 18 CB 15 3F 56 DC CB"},
		"zeros":            {msk.Reveal()[32:], strings.Repeat("00", 32)},
	} {
		if !bytes.Equal(c.got, unhex(t, c.want)) {
			t.Errorf("%s is %X, want %s", what, c.got, c.want)
		}
	}
	if got := authenticatorResponse(hash, response, peer, server, "User"); got != "S=407A5589115FD0D6209F510FE9C04566932CDA56" {
		t.Errorf("AuthenticatorResponse is %s", got)
	}
	if !bytes.Equal(response, ntResponse(server, peer, `DOMAIN\User`, hash)) {
		t.Error("the domain counts")
	}
}

// RFC 2759, section 9.3: the key of "MyPw" before its parity bits are set.
func TestADESKeyIsSpreadOverEightOctets(t *testing.T) {
	t.Parallel()
	hash := ntHash(policy.NewSecret([]byte("MyPw")))
	if want := unhex(t, "FC156AF7EDCD6C0EDDE3337D427F4EAC"); !bytes.Equal(hash, want) {
		t.Fatalf("the hash is %X", hash)
	}
	want := unhex(t, "FD 0B 5B 5E 7F 6E 34 D9")
	for i, c := range desKey(hash[:7]) {
		if c&0xfe != want[i]&0xfe {
			t.Errorf("octet %d is %02X, want %02X but for the parity", i, c, want[i])
		}
	}
}
