package keys

import (
	"bytes"
	"crypto/aes"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"coati/policy"
)

const counting = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f2021"

// RFC 3566, section 4.
func TestXCBCAgainstRFC3566(t *testing.T) {
	t.Parallel()
	key, data := unhex(t, counting[:32]), unhex(t, counting)
	for n, want := range map[int]string{
		0: "75f0251d528ac01c4573dfd584d79f29", 3: "5b376580ae2f19afe7219ceef172756f", 16: "d2a246fa349b68a79998a4394ff7a263",
		20: "47f51b4564966215b8985c63055ed308", 32: "f54f0ec8d2b9f3d36807734bd5283fd4", 34: "becbb3bccdb518a30677d5481fb6b4d8",
	} {
		for cut := range n + 1 { // the result must not depend on how it is written
			m := newXCBC(key)
			_, _ = m.Write([]byte("something else"))
			m.Reset()
			_, _ = m.Write(data[:cut])
			_, _ = m.Write(data[cut:n])
			if got := hex.EncodeToString(m.Sum(nil)); got != want {
				t.Errorf("%d octets, %d of them first: %s, want %s", n, cut, got, want)
			}
		}
	}
}

// RFC 4434, section 2.1, and RFC 4615, section 4.
func TestPRFsOnAES(t *testing.T) {
	t.Parallel()
	data := unhex(t, counting[:40])
	for _, c := range []struct{ prf, key, want string }{
		{"prfaesxcbc", counting[:32], "47f51b4564966215b8985c63055ed308"},
		{"prfaesxcbc", counting[:20], "0fa087af7d866e7653434e602fdde835"},
		{"prfaesxcbc", counting[:32] + "edcb", "8cd3c93ae598a9803006ffb67c40e9e4"},
		{"prfaescmac", counting[:32] + "edcb", "84a348a4a45d235babfffc0d2b4da09a"},
		{"prfaescmac", counting[:32], "980ae87b5f4c9c5214f5b6a8455e4c2d"},
		{"prfaescmac", counting[:20], "290d9e112edb09ee141fcf64c0b72f3d"},
	} {
		if got := hex.EncodeToString(mustPRF(t, c.prf).Sum(unhex(t, c.key), data[:7], data[7:])); got != c.want {
			t.Errorf("%s with %s: %s, want %s", c.prf, c.key, got, c.want)
		}
	}
}

// RFC 7296, section 2.14: of a nonce, 64 bits key a PRF whose keys have a fixed length.
func TestOnlyTheBeginningOfANonceKeysAPRFOnAES(t *testing.T) {
	t.Parallel()
	shared := policy.NewSecret([]byte("g^ir"))
	long, short := unhex(t, counting), unhex(t, counting[:16])
	for _, word := range []string{"prfaesxcbc", "prfaescmac"} {
		p := mustPRF(t, word)
		if got := SKEYSEED(p, long, long[1:], shared); !bytes.Equal(got.Reveal(), p.Sum(append(bytes.Clone(short), long[1:9]...), shared.Reveal())) {
			t.Errorf("%s: SKEYSEED is %x", word, got.Reveal())
		}
	}
	p := mustPRF(t, "prfsha256")
	if got := SKEYSEED(p, long, short, shared); !bytes.Equal(got.Reveal(), p.Sum(append(bytes.Clone(long), short...), shared.Reveal())) {
		t.Error("an HMAC does not take the whole nonces")
	}
}

type wycheproofGroup struct {
	IVSize, KeySize, TagSize int
	Tests                    []struct {
		TcID                               int
		Key, IV, AAD, Msg, CT, Tag, Result string
	}
}

func wycheproofGroups(t *testing.T, name string) []wycheproofGroup {
	t.Helper()
	raw, err := os.ReadFile("../../esp/batch/testdata/wycheproof/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ TestGroups []wycheproofGroup }
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	return file.TestGroups
}

func TestWycheproofCMAC(t *testing.T) {
	t.Parallel()
	tried := 0
	for _, g := range wycheproofGroups(t, "aes_cmac_test.json") {
		for _, v := range g.Tests {
			if g.KeySize != 128 {
				continue
			}
			tried++
			m := newCMAC(unhex(t, v.Key))
			_, _ = m.Write(unhex(t, v.Msg))
			if good := bytes.Equal(m.Sum(nil), unhex(t, v.Tag)); good != (v.Result == "valid") {
				t.Errorf("%d: %s, and we say %v", v.TcID, v.Result, good)
			}
		}
	}
	if tried < 50 {
		t.Errorf("only %d vectors", tried)
	}
}

// Those with IKE's nonces of 11 octets.
func TestWycheproofCCM(t *testing.T) {
	t.Parallel()
	tried := 0
	for _, g := range wycheproofGroups(t, "aes_ccm_test.json") {
		if g.IVSize != 8*ccmNonce {
			continue
		}
		for _, v := range g.Tests {
			tried++
			block, err := aes.NewCipher(unhex(t, v.Key))
			if err != nil {
				t.Fatal(err)
			}
			c := ccm{block, g.TagSize / 8}
			sealed := append(unhex(t, v.CT), unhex(t, v.Tag)...)
			plain, err := c.Open(nil, unhex(t, v.IV), sealed, unhex(t, v.AAD))
			if good := err == nil && bytes.Equal(plain, unhex(t, v.Msg)); good != (v.Result == "valid") {
				t.Errorf("%d: %s, and we say %v", v.TcID, v.Result, err)
			}
			if v.Result == "valid" && !bytes.Equal(c.Seal(nil, unhex(t, v.IV), unhex(t, v.Msg), unhex(t, v.AAD)), sealed) {
				t.Errorf("%d: sealed otherwise", v.TcID)
			}
		}
	}
	if tried < 18 {
		t.Errorf("only %d vectors", tried)
	}
}
