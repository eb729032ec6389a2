package batch

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"sync"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// job lays head, text and room for a tag behind each other, as a packet does.
func job(head, text []byte, tagLen int) Job {
	b := make([]byte, len(head)+len(text)+tagLen)
	copy(b, head)
	copy(b[len(head):], text)
	return Job{Head: b[:len(head)], Text: b[len(head) : len(head)+len(text)]}
}

// The GCM specification's test cases 4, 10 and 16 (McGrew and Viega, appendix B).
func TestGCMVectors(t *testing.T) {
	text := "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
	for _, c := range []struct{ key, cipher, tag string }{
		{
			"feffe9928665731c6d6a8f9467308308",
			"42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091", "5bc94fbc3221a5db94fae95ae7121a47",
		},
		{
			"feffe9928665731c6d6a8f9467308308feffe9928665731c",
			"3980ca0b3c00e841eb06fac4872a2757859e1ceaa6efd984628593b40ca1e19c7d773d00c144c525ac619d18c84a3f4718e2448b2fe324d9ccda2710", "2519498e80f1478f37ba55bd6d27618c",
		},
		{
			"feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
			"522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662", "76fc6ece0f4e1768cddf8853bb2d551b",
		},
	} {
		k, err := NewGCM(unhex(t, c.key))
		if err != nil {
			t.Fatal(err)
		}
		j := job(unhex(t, "feedfacedeadbeeffeedfacedeadbeefabaddad2"), unhex(t, text), k.TagLen())
		copy(j.IV[:], unhex(t, "cafebabefacedbaddecaf888"))
		jobs := []Job{j}
		k.Seal(jobs)
		if got, want := hex.EncodeToString(j.Text[:len(j.Text)+16]), c.cipher+c.tag; got != want {
			t.Errorf("sealed\n got %s\nwant %s", got, want)
		}
		k.Open(jobs)
		if !jobs[0].OK || hex.EncodeToString(j.Text) != text {
			t.Error("what was sealed does not open")
		}
	}
}

// RFC 3602, section 4, case 2: AES-128-CBC of 32 octets; the tag is HMAC-SHA-256 computed apart.
func TestCBCVector(t *testing.T) {
	key, iv := unhex(t, "c286696d887c9aa0611bbb3e2025a45a"), unhex(t, "562e17996d093d28ddb3ba695a2e6f58")
	text := unhex(t, "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
	mac := bytes.Repeat([]byte{7}, 32)
	k, err := NewCBC(key, mac, sha256.New, 16)
	if err != nil {
		t.Fatal(err)
	}
	j := job(append([]byte("headhead"), iv...), text, 16)
	copy(j.IV[:], iv)
	j.Tail = []byte{0, 0, 0, 9}
	jobs := []Job{j}
	k.Seal(jobs)
	if got := hex.EncodeToString(j.Text); got != "d296cd94c2cccf8a3a863028b5e1dc0a7586602d253cfff91b8266bea6d61ab1" {
		t.Errorf("ciphertext %s", got)
	}
	h := hmac.New(sha256.New, mac)
	h.Write(j.Head)
	h.Write(j.Text)
	h.Write(j.Tail)
	if !bytes.Equal(j.Text[32:48], h.Sum(nil)[:16]) {
		t.Error("tag is not HMAC over head, ciphertext and tail")
	}
	k.Open(jobs)
	if !jobs[0].OK || !bytes.Equal(j.Text, text) {
		t.Error("what was sealed does not open")
	}
}

func keys(t testing.TB) map[string]Key {
	g, err := NewGCM(make([]byte, 16))
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCBC(make([]byte, 16), make([]byte, 32), sha256.New, 16)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewCBC(make([]byte, 16), make([]byte, 20), sha1.New, 12)
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewChaCha20Poly1305(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	return map[string]Key{"gcm": g, "cbc": c, "cbc-sha1": s, "chacha": p}
}

func TestOneChangedBitFailsItsJobAndNoOther(t *testing.T) {
	for name, k := range keys(t) {
		for _, where := range []string{"head", "text", "tag", "iv"} {
			jobs := make([]Job, 3)
			for i := range jobs {
				jobs[i] = job(make([]byte, 24), make([]byte, 64), k.TagLen())
				jobs[i].IV[0] = byte(i)
				jobs[i].Head[8] = byte(i)
			}
			k.Seal(jobs)
			switch where {
			case "head":
				jobs[1].Head[0] ^= 1
			case "text":
				jobs[1].Text[5] ^= 0x80
			case "tag":
				jobs[1].Text[:cap(jobs[1].Text)][64+k.TagLen()-1] ^= 1
			case "iv":
				if strings.HasPrefix(name, "cbc") {
					continue // the IV is authenticated as part of Head
				}
				jobs[1].IV[3] ^= 1
			}
			k.Open(jobs)
			if !jobs[0].OK || jobs[1].OK || !jobs[2].OK {
				t.Errorf("%s, %s changed: %v %v %v", name, where, jobs[0].OK, jobs[1].OK, jobs[2].OK)
			}
		}
	}
}

func TestKeysAreSharedByGoroutines(t *testing.T) {
	for name, k := range keys(t) {
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for n := range 200 {
					text := bytes.Repeat([]byte{byte(g), byte(n)}, 64)
					jobs := []Job{job(make([]byte, 24), text, k.TagLen())}
					jobs[0].IV[0], jobs[0].IV[1] = byte(g), byte(n)
					k.Seal(jobs)
					k.Open(jobs)
					if !jobs[0].OK || !bytes.Equal(jobs[0].Text, text) {
						t.Errorf("%s: goroutine %d round %d broken", name, g, n)
						return
					}
				}
			})
		}
		wg.Wait()
	}
}

func TestNoAllocations(t *testing.T) {
	for name, k := range keys(t) {
		jobs := make([]Job, 32)
		for i := range jobs {
			jobs[i] = job(make([]byte, 24), make([]byte, 1408), k.TagLen())
		}
		if n := testing.AllocsPerRun(100, func() { k.Seal(jobs); k.Open(jobs) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
