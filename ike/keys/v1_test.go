package keys

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"testing"

	"coati/policy"
)

func v1PRF(t testing.TB, word string) PRF {
	t.Helper()
	p, err := NewV1PRF(keyword(t, word))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func same(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s\n is %s\nnot %s", what, hex.EncodeToString(got), hex.EncodeToString(want))
	}
}

func TestKeysOfIKEv1AsNISTHasThem(t *testing.T) {
	t.Parallel()
	for _, r := range readRecords(t, "nist-ikev1.txt") {
		prf := v1PRF(t, r.kind)
		ni, nr, shared := r.octets(t, "ni"), r.octets(t, "nr"), r.secret(t, "shared")
		id := V1Signature(prf, ni, nr, shared)
		if psk := r.secret(t, "psk"); psk.Len() > 0 {
			id = V1PSK(prf, psk, ni, nr)
		}
		same(t, "SKEYID", id.Reveal(), r.octets(t, "skeyid"))
		k, err := DeriveV1(prf, keyword(t, "aes128"), id, shared, binary.BigEndian.Uint64(r.octets(t, "cky_i")), binary.BigEndian.Uint64(r.octets(t, "cky_r")))
		if err != nil {
			t.Fatal(err)
		}
		same(t, "SKEYID_d", k.D.Reveal(), r.octets(t, "skeyid_d"))
		same(t, "SKEYID_a", k.A.Reveal(), r.octets(t, "skeyid_a"))
		same(t, "SKEYID_e", k.E.Reveal(), r.octets(t, "skeyid_e"))
		same(t, "the cipher's key", k.Cipher.Reveal(), k.E.Reveal()[:16])
	}
}

func TestTheV1CipherChainsItsIVs(t *testing.T) {
	t.Parallel()
	for _, word := range []string{"aes128", "aes256", "3des", "des", "blowfish128", "blowfish448", "cast128", "camellia128", "camellia256"} {
		encr := keyword(t, word)
		n, err := v1KeyLen(encr)
		if err != nil {
			t.Fatal(err)
		}
		c, err := NewV1Cipher(v1PRF(t, "sha1"), encr, policy.NewSecret([]byte("abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")[:n]))
		if err != nil {
			t.Fatal(err)
		}
		iv := c.FirstIV([]byte("x"), []byte("y"))
		size := encr.Algorithm().BlockLen
		if len(iv) != size || len(c.PhaseTwoIV(iv, 7)) != size || bytes.Equal(c.PhaseTwoIV(iv, 7), c.PhaseTwoIV(iv, 8)) {
			t.Errorf("%s: IVs of %d octets", word, len(iv))
		}
		one, next := c.Seal(iv, []byte("first message of more than one block"))
		two, _ := c.Seal(next, []byte("second"))
		same(t, "the next IV", next, one[len(one)-size:])
		plain, after, err := c.Open(iv, one)
		if err != nil || !bytes.HasPrefix(plain, []byte("first message")) || len(plain)%size != 0 {
			t.Errorf("%s: %q, %v", word, plain, err)
		}
		if plain, _, err = c.Open(after, two); err != nil || !bytes.HasPrefix(plain, append([]byte("second"), 0)) {
			t.Errorf("%s: %q, %v", word, plain, err)
		}
		for _, bad := range [][]byte{nil, one[:1], one[:size+1]} {
			if _, _, err := c.Open(iv, bad); err == nil {
				t.Errorf("%s: %d octets are opened", word, len(bad))
			}
		}
	}
	for _, word := range []string{"aes128gcm16", "aes128ctr"} {
		if _, err := v1KeyLen(keyword(t, word)); err == nil {
			t.Errorf("%s protects IKEv1", word)
		}
	}
}
