package batch

import (
	"bytes"
	"crypto/aes"
	"crypto/des"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"pgregory.net/rapid"
)

func fatal[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// genericKeys is one of each kind of key that has no kernel.
func genericKeys(t testing.TB) map[string]Key {
	key := fatal[Key](t)
	cipher, mac := fatal[Cipher](t), fatal[MAC](t)
	triple, err := des.NewTripleDESCipher(filledKey(24))
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(filledKey(16))
	if err != nil {
		t.Fatal(err)
	}
	hmac := HMAC(sha256.New, filledKey(32))
	return map[string]Key{
		"none and hmac":   key(NewEncryptThenMAC(NoCipher(), hmac, 16)),
		"ctr and xcbc":    key(NewEncryptThenMAC(cipher(CTRCipher(filledKey(32))), mac(XCBC(filledKey(16))), 12)),
		"cbc and cmac":    key(NewEncryptThenMAC(CBCCipher(block), mac(CMAC(filledKey(16))), 12)),
		"3des and hmac":   key(NewEncryptThenMAC(CBCCipher(triple), hmac, 12)),
		"ccm with 8":      key(NewCCM(filledKey(16), 8, 11)),
		"ccm with 16":     key(NewCCM(filledKey(32), 16, 11)),
		"gcm cut to 12":   key(NewGCMCut(filledKey(16), 12)),
		"gcm cut to 8":    key(NewGCMCut(filledKey(24), 8)),
		"gmac":            key(NewGMAC(filledKey(16))),
		"chacha20poly130": key(NewChaCha20Poly1305(filledKey(32))),
	}
}

func filledKey(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*37 + 11)
	}
	return b
}

func wycheproof[T any](t *testing.T, name string) []T {
	t.Helper()
	raw, err := os.ReadFile("testdata/wycheproof/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ TestGroups []T }
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	return file.TestGroups
}

// Project Wycheproof's vectors for AES-CCM, all nonces and tags that CCM has.
func TestWycheproofCCM(t *testing.T) {
	done := 0
	for _, g := range wycheproof[struct {
		IVSize, TagSize int
		Tests           []struct {
			ID                         int `json:"tcId"`
			Key, IV, AAD, Msg, CT, Tag hexOctets
			Result                     string
		}
	}](t, "aes_ccm_test.json") {
		for _, c := range g.Tests {
			k, err := NewCCM(c.Key, g.TagSize/8, g.IVSize/8)
			if err != nil {
				if c.Result == "valid" {
					t.Errorf("test %d: %v", c.ID, err)
				}
				continue
			}
			done++
			jobs := []Job{job(c.AAD, c.Msg, len(c.Tag)), job(c.AAD, c.CT, len(c.Tag))}
			for i := range jobs {
				copy(jobs[i].IV[:], c.IV)
			}
			copy(jobs[1].Text[len(c.CT):len(c.CT)+len(c.Tag)], c.Tag)
			k.Seal(jobs[:1])
			k.Open(jobs[1:])
			good := c.Result == "valid"
			if same := bytes.Equal(jobs[0].Text[:len(c.Msg)+len(c.Tag)], append(c.CT[:len(c.CT):len(c.CT)], c.Tag...)); same != good {
				t.Errorf("test %d, %s: sealing gives its ciphertext and tag: %v", c.ID, c.Result, same)
			}
			if jobs[1].OK != good || good && !bytes.Equal(jobs[1].Text, c.Msg) {
				t.Errorf("test %d, %s: OK is %v", c.ID, c.Result, jobs[1].OK)
			}
		}
	}
	if done < 400 {
		t.Errorf("only %d vectors were tried", done)
	}
}

// Project Wycheproof's vectors for AES-GMAC, those with nonces of 12 octets. What is authenticated is split between head
// and text, wherever.
func TestWycheproofGMAC(t *testing.T) {
	done := 0
	for _, g := range wycheproof[struct {
		IVSize, TagSize int
		Tests           []struct {
			ID                int `json:"tcId"`
			Key, IV, Msg, Tag hexOctets
			Result            string
		}
	}](t, "aes_gmac_test.json") {
		if g.IVSize != 96 || g.TagSize != 128 {
			continue
		}
		for _, c := range g.Tests {
			done++
			k, err := NewGMAC(c.Key)
			if err != nil {
				t.Fatal(err)
			}
			at := min(c.ID%16, len(c.Msg))
			jobs := []Job{job(c.Msg[:at], c.Msg[at:], 16)}
			copy(jobs[0].IV[:], c.IV)
			k.Seal(jobs)
			tag := jobs[0].Text[len(jobs[0].Text) : len(jobs[0].Text)+16]
			good := c.Result == "valid"
			if bytes.Equal(tag, c.Tag) != good {
				t.Errorf("test %d, %s: tag %x", c.ID, c.Result, tag)
			}
			copy(tag, c.Tag)
			k.Open(jobs)
			if jobs[0].OK != good || !bytes.Equal(jobs[0].Text, c.Msg[at:]) {
				t.Errorf("test %d, %s: OK is %v", c.ID, c.Result, jobs[0].OK)
			}
		}
	}
	if done < 100 {
		t.Errorf("only %d vectors were tried", done)
	}
}

// Project Wycheproof's vectors for AES-CMAC with keys of 16 octets, written in pieces.
func TestWycheproofCMAC(t *testing.T) {
	done := 0
	for _, g := range wycheproof[struct {
		KeySize, TagSize int
		Tests            []struct {
			ID            int `json:"tcId"`
			Key, Msg, Tag hexOctets
			Result        string
		}
	}](t, "aes_cmac_test.json") {
		if g.KeySize != 128 {
			continue
		}
		for _, c := range g.Tests {
			done++
			m, err := CMAC(c.Key)
			if err != nil {
				t.Fatal(err)
			}
			if got := macInPieces(t, m, c.Msg, c.ID%20+1); bytes.Equal(got[:len(c.Tag)], c.Tag) != (c.Result == "valid") {
				t.Errorf("test %d, %s: tag %x", c.ID, c.Result, got)
			}
		}
	}
	if done < 50 {
		t.Errorf("only %d vectors were tried", done)
	}
}

func macInPieces(t *testing.T, m MAC, msg []byte, piece int) []byte {
	t.Helper()
	h, err := m.make()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time after a Reset
		h.Reset()
		for b := msg; len(b) > 0; {
			n := min(piece, len(b))
			h.Write(b[:n])
			b = b[n:]
		}
	}
	return h.Sum(nil)
}

// RFC 3566, section 4.6.
func TestXCBCVectors(t *testing.T) {
	counting := make([]byte, 32)
	for i := range counting {
		counting[i] = byte(i)
	}
	for _, c := range []struct {
		msg []byte
		mac string
	}{
		{nil, "75f0251d528ac01c4573dfd584d79f29"},
		{counting[:3], "5b376580ae2f19afe7219ceef172756f"},
		{counting[:16], "d2a246fa349b68a79998a4394ff7a263"},
		{counting[:20], "47f51b4564966215b8985c63055ed308"},
		{counting[:32], "f54f0ec8d2b9f3d36807734bd5283fd4"},
		{append(append([]byte{}, counting...), 0x20, 0x21)[:34], "becbb3bccdb518a30677d5481fb6b4d8"},
		{make([]byte, 1000), "f0dafee895db30253761103b5d84528f"},
	} {
		m, err := XCBC(counting[:16])
		if err != nil {
			t.Fatal(err)
		}
		for _, piece := range []int{1, 7, 16, 1000} {
			if got := hex.EncodeToString(macInPieces(t, m, c.msg, piece)); got != c.mac {
				t.Errorf("%d octets in pieces of %d: %s", len(c.msg), piece, got)
			}
		}
	}
}

// RFC 3686, section 6: keys, nonces with IVs, plaintexts, ciphertexts.
func TestCTRVectors(t *testing.T) {
	const counting = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223"
	single := hex.EncodeToString([]byte("Single block msg"))
	for i, c := range [][4]string{
		{"ae6852f8121067cc4bf7a5765577f39e", "000000300000000000000000", single, "e4095d4fb7a7b3792d6175a3261311b8"},
		{"7e24067817fae0d743d6ce1f32539163", "006cb6dbc0543b59da48d90b", counting[:64], "5104a106168a72d9790d41ee8edad388eb2e1efc46da57c8fce630df9141be28"},
		{"7691be035e5020a8ac6e618529f9a0dc", "00e0017b27777f3f4a1786f0", counting, "c1cf48a89f2ffdd9cf4652e9efdb72d74540a42bde6d7836d59a5ceaaef3105325b2072f"},
		{"16af5b145fc9f579c175f93e3bfb0eed863d06ccfdb78515", "0000004836733c147d6d93cb", single, "4b55384fe259c9c84e7935a003cbe928"},
		{"7c5cb2401b3dc33c19e7340819e0f69c678c3db8e6f6a91a", "0096b03b020c6eadc2cb500d", counting[:64], "453243fc609b23327edfaafa7131cd9f8490701c5ad4a79cfc1fe0ff42f4fb00"},
		{"02bf391ee8ecb159b959617b0965279bf59b60a786d3e0fe", "0007bdfd5cbd60278dcc0912", counting, "96893fc55e5c722f540b7dd1ddf7e758d288bc95c69165884536c811662f2188abee0935"},
		{"776beff2851db06f4c8a0542c8696f6c6a81af1eec96b4d37fc1d689e6c1c104", "00000060db5672c97aa8f0b2", single, "145ad01dbf824ec7560863dc71e3e0c0"},
		{"f6d66d6bd52d59bb0796365879eff886c66dd51a5b6a99744b50590c87a23884", "00faac24c1585ef15a43d875", counting[:64], "f05e231b3894612c49ee000b804eb2a9b8306b508f839d6a5530831d9344af1c"},
		{"ff7a617ce69148e4f1726e2f43581de2aa62d9f805532edff1eed687fb54153d", "001cc5b751a51d70a1c11148", counting, "eb6c52821d0bbbf7ce7594462aca4faab407df866569fd07f48cc0b583d6071f1ec0e6b8"},
	} {
		cipher, err := CTRCipher(unhex(t, c[0]))
		if err != nil {
			t.Fatal(err)
		}
		k, err := NewEncryptThenMAC(cipher, HMAC(sha256.New, nil), 16)
		if err != nil {
			t.Fatal(err)
		}
		jobs := []Job{job(nil, unhex(t, c[2]), 16)}
		copy(jobs[0].IV[:], unhex(t, c[1]))
		k.Seal(jobs)
		if got := hex.EncodeToString(jobs[0].Text); got != c[3] {
			t.Errorf("vector %d: %s", i+1, got)
		}
	}
}

// What is sealed opens, whatever its size; one changed bit of head, text or tag is refused.
func TestGenericKeysOpenWhatTheySeal(t *testing.T) {
	for name, k := range genericKeys(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				n := rapid.IntRange(0, 600).Draw(t, "blocks") * 16
				head := rapid.SliceOfN(rapid.Byte(), 8, 24).Draw(t, "head")
				text := bytes.Repeat([]byte{1, 2, 3, 5, 7, 11, 13, 17}, n/8)
				j := job(head, text, k.TagLen())
				copy(j.IV[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "iv"))
				jobs := []Job{j, j}
				k.Seal(jobs[:1])
				all := j.Text[:n+k.TagLen()]
				sealed := bytes.Clone(all)
				k.Open(jobs[:1])
				if !jobs[0].OK || !bytes.Equal(j.Text, text) {
					t.Fatal("what was sealed does not open")
				}
				copy(all, sealed)
				bit := rapid.IntRange(0, 8*(len(head)+len(all))-1).Draw(t, "bit")
				if b := bit / 8; b < len(head) {
					j.Head[b] ^= 1 << (bit % 8)
				} else {
					all[b-len(head)] ^= 1 << (bit % 8)
				}
				k.Open(jobs[1:])
				if jobs[1].OK {
					t.Fatalf("bit %d was changed, and it opens", bit)
				}
			})
		})
	}
}

func TestGenericKeysDoNotAllocate(t *testing.T) {
	for name, k := range genericKeys(t) {
		jobs := make([]Job, 8)
		for i := range jobs {
			jobs[i] = job(make([]byte, 24), make([]byte, 1408), k.TagLen())
			jobs[i].Tail = make([]byte, 4)
		}
		k.Seal(jobs)
		if n := testing.AllocsPerRun(50, func() { k.Seal(jobs); k.Open(jobs) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// Two jobs of one batch do not touch each other: the room behind a text is its tag's alone.
func TestGenericKeysWriteNothingBehindTheTag(t *testing.T) {
	for name, k := range genericKeys(t) {
		all := bytes.Repeat([]byte{0xee}, 3*(64+k.TagLen()))
		want := bytes.Clone(all[:len(all)/3])
		jobs := []Job{{Text: all[len(all)/3:][:64]}}
		k.Seal(jobs)
		k.Open(jobs)
		if !bytes.Equal(all[:len(all)/3], want) || !bytes.Equal(all[2*len(all)/3:], want) {
			t.Errorf("%s writes outside text and tag", name)
		}
	}
}

func TestKeysOfImpossibleSizesAreRefused(t *testing.T) {
	_, ctr := CTRCipher(make([]byte, 15))
	_, cmac := CMAC(make([]byte, 32))
	_, xcbc := XCBC(make([]byte, 24))
	_, ccm := NewCCM(make([]byte, 8), 8, 11)
	_, odd := NewCCM(make([]byte, 16), 7, 11)
	_, nonce := NewCCM(make([]byte, 16), 8, 14)
	_, gmac := NewGMAC(make([]byte, 17))
	_, cut := NewGCMCut(make([]byte, 16), 16)
	_, cutKey := NewGCMCut(make([]byte, 5), 8)
	_, tag := NewEncryptThenMAC(NoCipher(), HMAC(sha256.New, nil), 33)
	for i, err := range []error{ctr, cmac, xcbc, ccm, odd, nonce, gmac, cut, cutKey, tag} {
		if err == nil {
			t.Error(fmt.Sprint("made: number ", i))
		}
	}
}
