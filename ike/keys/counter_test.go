package keys

import (
	"bytes"
	"testing"

	"coati/policy"
)

// RFC 7634, appendix B.
func TestTheMessageOfRFC7634Opens(t *testing.T) {
	t.Parallel()
	key := make([]byte, 0, 36)
	for i := range 32 {
		key = append(key, byte(0x80+i))
	}
	key = append(key, 0xa0, 0xa1, 0xa2, 0xa3)
	c, err := NewCipher(keyword(t, "chacha20poly1305"), policy.Transform{}, policy.NewSecret(key), policy.Secret{})
	if err != nil {
		t.Fatal(err)
	}
	msg := unhex(t, "c0c1c2c3c4c5c6c7d0d1d2d3d4d5d6d72e202500000000090000004529000029"+"1011121314151617"+"610394701f8d017f7c12924889"+"6b71bfe25236efd7cdc67066906315b2")
	got, err := c.Open(msg, 32)
	if err != nil || !bytes.Equal(got, unhex(t, "0000000c000040010000000a")) {
		t.Errorf("%x (%v)", got, err)
	}
	c.sealed = 0x1011121314151617
	if again, err := c.Seal(nil, msg[:32], got); err != nil || !bytes.Equal(again, msg) {
		t.Errorf("sealed again: %x (%v)", again, err)
	}
}

// RFC 3686, section 6, test vectors 1, 4 and 9: its counter block is RFC 5930's.
func TestCounterModeMakesTheKeyStreamOfRFC3686(t *testing.T) {
	t.Parallel()
	for _, v := range []struct{ word, key, nonce, iv, plain, cipher string }{
		{"aes128ctr", "ae6852f8121067cc4bf7a5765577f39e", "00000030", "0000000000000000", "53696e676c6520626c6f636b206d7367", "e4095d4fb7a7b3792d6175a3261311b8"},
		{"aes192ctr", "16af5b145fc9f579c175f93e3bfb0eed863d06ccfdb78515", "00000048", "36733c147d6d93cb", "53696e676c6520626c6f636b206d7367", "4b55384fe259c9c84e7935a003cbe928"},
		{"aes256ctr", "ff7a617ce69148e4f1726e2f43581de2aa62d9f805532edff1eed687fb54153d", "001cc5b7", "51a51d70a1c11148", "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223", "eb6c52821d0bbbf7ce7594462aca4faab407df866569fd07f48cc0b583d6071f1ec0e6b8"},
	} {
		c, err := NewCipher(keyword(t, v.word), keyword(t, "sha256"), policy.NewSecret(unhex(t, v.key+v.nonce)), policy.NewSecret(make([]byte, 32)))
		if err != nil {
			t.Fatal(err)
		}
		got := unhex(t, v.plain)
		c.stream(unhex(t, v.iv)).XORKeyStream(got, got)
		if !bytes.Equal(got, unhex(t, v.cipher)) {
			t.Errorf("%s: %x, want %s", v.word, got, v.cipher)
		}
	}
}

// An ICV of 8 or 12 octets is the beginning of the full one (RFC 5282, section 3.2).
func TestShortICVsAreTheBeginningOfTheFullOne(t *testing.T) {
	t.Parallel()
	for _, bits := range []string{"aes128", "aes192", "aes256"} {
		full, _ := suite{encr: keyword(t, bits+"gcm16")}.ciphers(t)
		want, err := full.Seal(nil, []byte("prefix"), []byte("the inner payloads"))
		if err != nil {
			t.Fatal(err)
		}
		for word, cut := range map[string]int{"gcm12": 4, "gcm8": 8} {
			c, _ := suite{encr: keyword(t, bits+word)}.ciphers(t)
			got, err := c.Seal(nil, []byte("prefix"), []byte("the inner payloads"))
			if err != nil || !bytes.Equal(got, want[:len(want)-cut]) {
				t.Errorf("%s%s: %x (%v), want the beginning of %x", bits, word, got, err, want)
			}
		}
	}
}
