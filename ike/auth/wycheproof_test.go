package auth

import (
	"compress/gzip"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"os"
	"slices"
	"testing"

	"coati/ike/wire"
)

// Project Wycheproof's vectors through the function that a peer's AUTH payload goes through.
func TestWycheproofSignatures(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		file   string
		method wire.AuthMethod
		how    algorithm // of AuthDigitalSignature
	}{
		{"ecdsa_secp256r1_sha256", wire.AuthDigitalSignature, algorithm{key: keyECDSA, hash: HashSHA256}},
		{"ecdsa_secp384r1_sha384", wire.AuthDigitalSignature, algorithm{key: keyECDSA, hash: HashSHA384}},
		{"ecdsa_secp521r1_sha512", wire.AuthDigitalSignature, algorithm{key: keyECDSA, hash: HashSHA512}},
		{"ecdsa_secp256r1_sha256_p1363", wire.AuthECDSA256, algorithm{}},
		{"ecdsa_secp384r1_sha384_p1363", wire.AuthECDSA384, algorithm{}},
		{"ecdsa_secp521r1_sha512_p1363", wire.AuthECDSA512, algorithm{}},
		{"ed25519", wire.AuthDigitalSignature, algorithm{key: keyEd25519, hash: HashIdentity}},
		{"rsa_signature_2048_sha256", wire.AuthDigitalSignature, algorithm{key: keyRSA, hash: HashSHA256}},
		{"rsa_pss_2048_sha256_mgf1_32", wire.AuthDigitalSignature, algorithm{key: keyRSA, hash: HashSHA256, pss: true, salt: 32}},
	} {
		t.Run(c.file, func(t *testing.T) {
			t.Parallel()
			var prefix []byte
			if c.method == wire.AuthDigitalSignature {
				id, err := c.how.identifier()
				if err != nil {
					t.Fatal(err)
				}
				prefix = append([]byte{byte(len(id))}, id...)
			}
			wycheproof(t, c.file, func(der, octets, sig []byte) error {
				key, err := x509.ParsePKIXPublicKey(der)
				if err != nil {
					t.Fatal(err)
				}
				return Verify(key, c.method, slices.Concat(prefix, sig), octets, true)
			})
		})
	}
}

func wycheproof(t *testing.T, name string, verify func(key, octets, sig []byte) error) {
	t.Helper()
	f, err := os.Open("testdata/wycheproof/" + name + "_test.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		TestGroups []struct {
			PublicKeyDer string
			Tests        []struct {
				TcID            int
				Comment, Result string
				Msg, Sig        string
			}
		}
	}
	if err := json.NewDecoder(z).Decode(&file); err != nil {
		t.Fatal(err)
	}
	tried := map[string]int{}
	for _, g := range file.TestGroups {
		for _, c := range g.Tests {
			err := verify(octetsOf(t, g.PublicKeyDer), octetsOf(t, c.Msg), octetsOf(t, c.Sig))
			tried[c.Result]++
			if c.Result == "valid" && err != nil || c.Result == "invalid" && err == nil {
				t.Errorf("%d, %s: %s, and we say %v", c.TcID, c.Comment, c.Result, err)
			}
		}
	}
	if tried["valid"] == 0 || tried["invalid"] == 0 {
		t.Errorf("tried only %v", tried)
	}
}

func octetsOf(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
