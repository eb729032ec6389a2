package eap

import (
	"bytes"
	"crypto/des"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf16"

	//lint:ignore SA1019 MS-CHAP-V2 is made of it
	"golang.org/x/crypto/md4"

	"coati/policy"
)

// MS-CHAP-V2, RFC 2759, section 8, and its keys, RFC 3079, section 3.4. What protects the password here is DES and MD4: who
// records one exchange can try passwords at leisure, so that it must run inside an authenticated tunnel, as IKEv2's is.

// ntHash is NtPasswordHash: MD4 of the password in UTF-16.
func ntHash(password policy.Secret) []byte {
	var wide []byte
	for _, u := range utf16.Encode([]rune(string(password.Reveal()))) {
		wide = append(wide, byte(u), byte(u>>8))
	}
	defer clear(wide)
	return md4Sum(wide)
}

func md4Sum(b []byte) []byte {
	h := md4.New()
	h.Write(b)
	return h.Sum(nil)
}

func sha1Sum(parts ...[]byte) []byte {
	h := sha1.New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// withoutDomain is the user's name without DOMAIN\ (RFC 2759, section 4).
func withoutDomain(name string) string {
	return name[strings.LastIndexByte(name, '\\')+1:]
}

// challengeHash is ChallengeHash (section 8.2).
func challengeHash(peer, server []byte, name string) []byte {
	return sha1Sum(peer, server, []byte(withoutDomain(name)))[:8]
}

// ntResponse is GenerateNTResponse (section 8.1): 24 octets.
func ntResponse(server, peer []byte, name string, hash []byte) []byte {
	challenge := challengeHash(peer, server, name)
	key := make([]byte, 21)
	copy(key, hash)
	out := make([]byte, 24)
	for i := range 3 {
		block, err := des.NewCipher(desKey(key[7*i : 7*i+7]))
		if err != nil {
			panic("eap: " + err.Error()) // the key has 8 octets
		}
		block.Encrypt(out[8*i:], challenge)
	}
	return out
}

// desKey spreads 56 bits over 8 octets; nobody looks at the parity bits (section 8.6).
func desKey(k []byte) []byte {
	var bits uint64
	for _, c := range k {
		bits = bits<<8 | uint64(c)
	}
	out := make([]byte, 8)
	for i := range out {
		out[i] = byte(bits>>(49-7*i)) << 1
	}
	return out
}

// authenticatorResponse is GenerateAuthenticatorResponse (section 8.7): "S=" and 40 digits.
func authenticatorResponse(hash, response, peer, server []byte, name string) string {
	digest := sha1Sum(md4Sum(hash), response, []byte("Magic server to client signing constant"))
	digest = sha1Sum(digest, challengeHash(peer, server, name), []byte("Pad to make it do more than one iteration"))
	return "S=" + strings.ToUpper(hex.EncodeToString(digest))
}

const (
	clientSends = "On the client side, this is the send key; on the server side, it is the receive key."
	serverSends = "On the client side, this is the receive key; on the server side, it is the send key."
)

// mschapv2MSK is the key of EAP-MSCHAPv2: the server's receive key, its send key, and zeros up to 64 octets.
func mschapv2MSK(hash, response []byte) policy.Secret {
	master := sha1Sum(md4Sum(hash), response, []byte("This is the MPPE Master Key"))[:16]
	defer clear(master)
	out := make([]byte, 64)
	for i, magic := range []string{clientSends, serverSends} {
		key := sha1Sum(master, make([]byte, 40), []byte(magic), bytes.Repeat([]byte{0xf2}, 40))
		copy(out[16*i:], key[:16])
		clear(key)
	}
	return policy.NewSecret(out)
}

// checkAuthenticator says whether a Success message begins with what only who knows the password can make.
func checkAuthenticator(message []byte, want string) bool {
	return len(message) >= len(want) && subtle.ConstantTimeCompare(bytes.ToUpper(message[:len(want)]), []byte(want)) == 1
}

// mschapFailure says in words what the message of a Failure packet tells (section 6).
func mschapFailure(message string) error {
	code, _, _ := strings.Cut(strings.TrimPrefix(message, "E="), " ")
	why := map[string]string{
		"646": "restricted logon hours", "647": "the account is disabled", "648": "the password has expired", "649": "no permission to dial in", "691": "wrong user name or password",
	}[code]
	if why == "" {
		why = fmt.Sprintf("error %.20q", code)
	}
	return fmt.Errorf("the server refuses our password: %s: see eap-identity and eap-password-file", why)
}
