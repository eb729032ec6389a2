package camellia

import (
	"bytes"
	"crypto/cipher"
	"encoding/hex"
	"fmt"
	"os/exec"
	"testing"

	"pgregory.net/rapid"
)

// RFC 3713, appendix A.
func TestCamelliaVectors(t *testing.T) {
	plain := unhex(t, "0123456789abcdeffedcba9876543210")
	for _, c := range []struct{ key, want string }{
		{"0123456789abcdeffedcba9876543210", "67673138549669730857065648eabe43"},
		{"0123456789abcdeffedcba98765432100011223344556677", "b4993401b3e996f84ee5cee7d79b09b9"},
		{"0123456789abcdeffedcba987654321000112233445566778899aabbccddeeff", "9acc237dff16d76c20ef7c919e3a7509"},
	} {
		b, err := InsecureNew(unhex(t, c.key))
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, camelliaBlock)
		if b.Encrypt(got, plain); hex.EncodeToString(got) != c.want {
			t.Errorf("%d octets of key: %x, want %s", len(c.key)/2, got, c.want)
		}
		if b.Decrypt(got, got); !bytes.Equal(got, plain) {
			t.Errorf("%d octets of key: back to %x", len(c.key)/2, got)
		}
	}
	for _, n := range []int{0, 15, 17, 33} {
		if _, err := InsecureNew(make([]byte, n)); err == nil {
			t.Errorf("a key of %d octets is taken", n)
		}
	}
}

// OpenSSL, which has the cipher from elsewhere, encrypts everything to the same.
func TestCamelliaLikeOpenSSL(t *testing.T) {
	probe := exec.Command("openssl", "enc", "-camellia-128-cbc", "-nopad", "-K", hex.EncodeToString(make([]byte, 16)), "-iv", hex.EncodeToString(make([]byte, 16)))
	if probe.Run() != nil {
		t.Skip("no openssl with camellia: install openssl")
	}
	rapid.Check(t, func(r *rapid.T) {
		octets := func(n int, what string) []byte { return rapid.SliceOfN(rapid.Byte(), n, n).Draw(r, what) }
		key, iv := octets(8*rapid.IntRange(2, 4).Draw(r, "words"), "key"), octets(camelliaBlock, "iv")
		plain := octets(camelliaBlock*rapid.IntRange(1, 20).Draw(r, "blocks"), "text")
		cmd := exec.Command("openssl", "enc", fmt.Sprintf("-camellia-%d-cbc", 8*len(key)), "-nopad", "-K", hex.EncodeToString(key), "-iv", hex.EncodeToString(iv))
		cmd.Stdin = bytes.NewReader(plain)
		want, err := cmd.Output()
		if err != nil {
			r.Fatal(err)
		}
		b, err := InsecureNew(key)
		if err != nil {
			r.Fatal(err)
		}
		got := make([]byte, len(plain))
		cipher.NewCBCEncrypter(b, iv).CryptBlocks(got, plain)
		if !bytes.Equal(got, want) {
			r.Fatalf("%d octets of key: %x, openssl has %x", len(key), got, want)
		}
		cipher.NewCBCDecrypter(b, iv).CryptBlocks(got, got)
		if !bytes.Equal(got, plain) {
			r.Fatal("it does not decrypt what it encrypted")
		}
	})
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
