package keys

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"coati/policy"
)

// suite is one way to protect an IKE SA.
type suite struct {
	encr, integ policy.Transform
}

func (s suite) String() string {
	if s.integ == (policy.Transform{}) {
		return s.encr.String()
	}
	return s.encr.String() + "-" + s.integ.String()
}

// suites are all pairs that the algorithm table allows for IKE.
func suites() []suite {
	var out []suite
	for _, e := range policy.Algorithms {
		if e.Type != policy.TransformENCR || e.Use&policy.UseIKE == 0 {
			continue
		}
		if e.AEAD {
			out = append(out, suite{encr: e.Transform()})
			continue
		}
		for _, a := range policy.Algorithms {
			if a.Type == policy.TransformINTEG && a.Use&policy.UseIKE != 0 {
				out = append(out, suite{e.Transform(), a.Transform()})
			}
		}
	}
	return out
}

// ciphers are the two ends of one direction.
func (s suite) ciphers(t testing.TB) (sender, receiver *Cipher) {
	t.Helper()
	e, a, err := keyLens(s.encr, s.integ)
	if err != nil {
		t.Fatal(err)
	}
	ek, ak := make([]byte, e), make([]byte, a)
	for i := range ek {
		ek[i] = byte(i)
	}
	for i := range ak {
		ak[i] = byte(0x80 + i)
	}
	both := [2]*Cipher{}
	for i := range both {
		if both[i], err = NewCipher(s.encr, s.integ, policy.NewSecret(ek), policy.NewSecret(ak)); err != nil {
			t.Fatal(err)
		}
	}
	return both[0], both[1]
}

// header is an IKE header and a generic SK header whose lengths count the sealed octets.
func header(c *Cipher, plain int) []byte {
	sk := 4 + c.SealedLen(plain)
	h := make([]byte, 32)
	copy(h, "initiat.respond.")
	h[16], h[17], h[18], h[19] = 46, 0x20, 37, 0x08
	binary.BigEndian.PutUint32(h[24:], uint32(28+sk))
	h[28] = 41
	binary.BigEndian.PutUint16(h[30:], uint16(sk))
	return h
}

func TestSealedOpens(t *testing.T) {
	t.Parallel()
	for _, s := range suites() {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			sender, receiver := s.ciphers(t)
			for n := range 100 {
				plain := bytes.Repeat([]byte{byte(n + 1)}, n)
				prefix := header(sender, n)
				prefixWas, plainWas := bytes.Clone(prefix), bytes.Clone(plain)
				msg, err := sender.Seal(rand.Reader, prefix, plain)
				if err != nil {
					t.Fatal(err)
				}
				if len(msg) != len(prefix)+sender.SealedLen(n) || int(binary.BigEndian.Uint32(msg[24:])) != len(msg) || !bytes.HasPrefix(msg, prefix) {
					t.Fatalf("%d octets of message where SealedLen(%d) is %d", len(msg), n, sender.SealedLen(n))
				}
				if n >= 16 && bytes.Contains(msg, plain[:16]) {
					t.Fatal("the plaintext is in the message")
				}
				msgWas := bytes.Clone(msg)
				got, err := receiver.Open(msg, len(prefix))
				if err != nil || !bytes.Equal(got, plain) {
					t.Fatalf("%d octets: %x (%v)", n, got, err)
				}
				if !bytes.Equal(prefix, prefixWas) || !bytes.Equal(plain, plainWas) || !bytes.Equal(msg, msgWas) {
					t.Fatal("an argument was written to")
				}
				if again, err := receiver.Open(msg, len(prefix)); err != nil || !bytes.Equal(again, plain) {
					t.Fatalf("a retransmission does not open: %v", err)
				}
			}
		})
	}
}

// Every message of the recordings opens to what strongSwan put in, under keys that strongSwan logged.
func TestOpenAgainstStrongSwan(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"strongswan-gcm.txt", "strongswan-cbc.txt"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var from map[string]*Cipher
			opened := 0
			for _, r := range readRecords(t, name) {
				switch r.kind {
				case "ike", "ike-rekey":
					from = map[string]*Cipher{}
					for who, k := range map[string][2]string{"initiator": {"sk_ei", "sk_ai"}, "responder": {"sk_er", "sk_ar"}} {
						c, err := NewCipher(r.transform(t, "encr"), r.transform(t, "integ"), r.secret(t, k[0]), r.secret(t, k[1]))
						if err != nil {
							t.Fatal(err)
						}
						from[who] = c
					}
				case "message":
					c, msg, want := from[r.text(t, "from")], r.octets(t, "message"), r.octets(t, "plain")
					got, err := c.Open(msg, 32)
					if err != nil || !bytes.Equal(got, want) {
						t.Errorf("message %d: %x (%v)", opened, got, err)
					}
					if n := 32 + c.SealedLen(len(want)); n != len(msg) {
						t.Errorf("message %d: we would make %d octets, strongSwan made %d", opened, n, len(msg))
					}
					opened++
				}
			}
			if opened != 12 {
				t.Errorf("%d messages opened, want 12", opened)
			}
		})
	}
}

// With strongSwan's IV and padding we make strongSwan's octets.
func TestSealAgainstStrongSwan(t *testing.T) {
	t.Parallel()
	sealed := 0
	for _, name := range []string{"strongswan-gcm.txt", "strongswan-cbc.txt"} {
		var ike record
		for _, r := range readRecords(t, name) {
			switch r.kind {
			case "ike", "ike-rekey":
				ike = r
				continue
			case "child":
				continue
			}
			keys := [2]string{"sk_ei", "sk_ai"}
			if r.text(t, "from") == "responder" {
				keys = [2]string{"sk_er", "sk_ar"}
			}
			c, err := NewCipher(ike.transform(t, "encr"), ike.transform(t, "integ"), ike.secret(t, keys[0]), ike.secret(t, keys[1]))
			if err != nil {
				t.Fatal(err)
			}
			msg, plain := r.octets(t, "message"), r.octets(t, "plain")
			if c.aead == nil {
				// strongSwan pads with random octets: compare the IV, and the whole blocks of payloads.
				got, err := c.Seal(bytes.NewReader(msg[32:48]), msg[:32], plain)
				same := 48 + len(plain)/16*16
				if err != nil || len(got) != len(msg) || !bytes.Equal(got[:same], msg[:same]) {
					t.Errorf("%s: our message differs (%v)", name, err)
				}
				sealed++
				continue
			}
			c.sealed = binary.BigEndian.Uint64(msg[32:])
			got, err := c.Seal(nil, msg[:32], plain)
			if err != nil || !bytes.Equal(got, msg) {
				t.Errorf("%s: our message differs (%v)", name, err)
			}
			sealed++
		}
	}
	if sealed != 24 {
		t.Errorf("%d messages sealed, want 24", sealed)
	}
}

func TestEveryChangedBitIsNoticed(t *testing.T) {
	t.Parallel()
	for _, s := range suites() {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			sender, receiver := s.ciphers(t)
			prefix := header(sender, 21)
			msg, err := sender.Seal(rand.Reader, prefix, []byte("twenty-one octets now"))
			if err != nil {
				t.Fatal(err)
			}
			for bit := range len(msg) * 8 {
				bad := bytes.Clone(msg)
				bad[bit/8] ^= 1 << (bit % 8)
				if got, err := receiver.Open(bad, len(prefix)); !errors.Is(err, ErrUnauthenticated) || got != nil {
					t.Fatalf("bit %d of octet %d of %d changed: %v", bit%8, bit/8, len(msg), err)
				}
			}
			for n := range msg {
				if _, err := receiver.Open(msg[:n], min(n, len(prefix))); !errors.Is(err, ErrUnauthenticated) {
					t.Fatalf("the first %d of %d octets: %v", n, len(msg), err)
				}
			}
			if _, err := receiver.Open(append(bytes.Clone(msg), 0), len(prefix)); !errors.Is(err, ErrUnauthenticated) {
				t.Errorf("an octet appended: %v", err)
			}
			for body := -2; body < len(msg)+2; body++ {
				if body == len(prefix) {
					continue
				}
				// In CBC the MAC covers all that is in front of it, wherever the IV is thought to begin.
				if _, err := receiver.Open(msg, body); err == nil && receiver.aead != nil {
					t.Errorf("opens with the IV thought to be at %d", body)
				}
			}
			if wrong, _ := s.ciphers(t); wrong.aead != nil {
				wrong.salt[0] ^= 1
				if _, err := wrong.Open(msg, len(prefix)); !errors.Is(err, ErrUnauthenticated) {
					t.Errorf("opens with another salt: %v", err)
				}
			}
		})
	}
}

func TestOpenSurvivesEveryLength(t *testing.T) {
	t.Parallel()
	for _, s := range suites() {
		_, c := s.ciphers(t)
		for n := range 201 {
			msg := make([]byte, n)
			if _, err := rand.Read(msg); err != nil {
				t.Fatal(err)
			}
			for _, body := range []int{math.MinInt, -1, 0, 28, 32, 36, n - 1, n, n + 1, math.MaxInt} {
				if got, err := c.Open(msg, body); !errors.Is(err, ErrUnauthenticated) || got != nil {
					t.Fatalf("%s: %d random octets, IV at %d: %v", s, n, body, err)
				}
			}
		}
	}
}

// sealRaw protects octets as they are, padding and pad length included: what a broken but honest peer could send.
func sealRaw(t testing.TB, c *Cipher, prefix, text []byte) []byte {
	t.Helper()
	iv := bytes.Repeat([]byte{7}, c.ivLen)
	msg := slices.Concat(prefix, iv, text)
	if c.aead != nil {
		return c.aead.Seal(msg[:len(prefix)+len(iv)], c.nonce(iv), text, prefix)
	}
	if c.counter {
		part := msg[len(prefix)+len(iv):]
		c.stream(iv).XORKeyStream(part, part)
		return append(msg, c.icv(msg)...)
	}
	if whole := len(text) / c.blockLen * c.blockLen; whole > 0 {
		part := msg[len(prefix)+len(iv):][:whole]
		cipher.NewCBCEncrypter(c.block, iv).CryptBlocks(part, part)
	}
	return append(msg, c.icv(msg)...)
}

func TestPaddingOfOthers(t *testing.T) {
	t.Parallel()
	prefix := []byte("prefix of any length")
	text := func(payloads, padding int, padLen byte) []byte {
		return slices.Concat(bytes.Repeat([]byte{'p'}, payloads), bytes.Repeat([]byte{0xee}, padding), []byte{padLen})
	}
	for _, s := range suites() {
		_, c := s.ciphers(t)
		for _, ok := range []struct{ payloads, padding int }{{0, 15}, {10, 5}, {10, 21}, {16, 255}, {0, 255}, {31, 0}, {1, 254}} {
			msg := sealRaw(t, c, prefix, text(ok.payloads, ok.padding, byte(ok.padding)))
			got, err := c.Open(msg, len(prefix))
			if err != nil || len(got) != ok.payloads || len(bytes.Trim(got, "p")) != 0 {
				t.Errorf("%s: %d octets and %d of padding: %x (%v)", s, ok.payloads, ok.padding, got, err)
			}
		}
		for _, bad := range [][]byte{text(0, 15, 16), text(0, 15, 255), text(10, 5, 16), text(20, 11, 32)} {
			if got, err := c.Open(sealRaw(t, c, prefix, bad), len(prefix)); !errors.Is(err, ErrPadding) || got != nil {
				t.Errorf("%s: a pad length of %d in %d octets: %v", s, bad[len(bad)-1], len(bad), err)
			}
		}
		if c.aead == nil && !c.counter {
			if _, err := c.Open(sealRaw(t, c, prefix, text(3, 13, 13)), len(prefix)); !errors.Is(err, ErrPadding) {
				t.Errorf("%s: an authentic message of no whole blocks: %v", s, err)
			}
			// Nothing but IV and ICV: authentic, and nothing to take a pad length from.
			if _, err := c.Open(sealRaw(t, c, prefix, nil), len(prefix)); err == nil {
				t.Errorf("%s: opens without a pad length", s)
			}
		} else if _, err := c.Open(sealRaw(t, c, prefix, nil), len(prefix)); err == nil {
			t.Errorf("%s: opens without a pad length", s)
		}
	}
}

func TestCounterIVsNeverRepeatAndEnd(t *testing.T) {
	t.Parallel()
	for _, s := range suites() {
		c, receiver := s.ciphers(t)
		if !c.counter {
			continue
		}
		seen := map[string]bool{}
		for i := range 2000 {
			msg, err := c.Seal(nil, nil, []byte("x"))
			if err != nil {
				t.Fatal(err)
			}
			iv := string(msg[:c.ivLen])
			if seen[iv] {
				t.Fatalf("%s: message %d repeats an IV", s, i)
			}
			seen[iv] = true
		}
		c.sealed = math.MaxUint64 - 2
		for range 2 {
			msg, err := c.Seal(nil, nil, []byte("x"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := receiver.Open(msg, 0); err != nil {
				t.Errorf("%s: one of the last messages: %v", s, err)
			}
		}
		for range 3 {
			if msg, err := c.Seal(nil, nil, []byte("x")); !errors.Is(err, ErrExhausted) || msg != nil {
				t.Fatalf("%s: sealed after the last IV: %v", s, err)
			}
		}
	}
}

func TestCBCIVsAreTheReaders(t *testing.T) {
	t.Parallel()
	for _, s := range suites() {
		c, _ := s.ciphers(t)
		if c.counter {
			continue
		}
		iv := []byte("sixteen octets!!")[:c.ivLen]
		msg, err := c.Seal(bytes.NewReader(iv), []byte("head"), []byte("text"))
		if err != nil || !bytes.Equal(msg[4:4+len(iv)], iv) {
			t.Errorf("%s: IV %x (%v)", s, msg[4:4+len(iv)], err)
		}
		if msg, err := c.Seal(bytes.NewReader(iv[1:]), nil, []byte("text")); err == nil || msg != nil {
			t.Errorf("%s: sealed with an octet of randomness too few", s)
		}
	}
}

func TestNewCipherWantsItsKeys(t *testing.T) {
	t.Parallel()
	key := func(n int) policy.Secret { return policy.NewSecret(make([]byte, n)) }
	for _, c := range []struct {
		name        string
		encr, integ policy.Transform
		ek, ak      int
		ok          bool
	}{
		{"GCM", keyword(t, "aes256gcm16"), policy.Transform{}, 36, 0, true},
		{"GCM without salt", keyword(t, "aes256gcm16"), policy.Transform{}, 32, 0, false},
		{"GCM with a key of another length", keyword(t, "aes256gcm16"), policy.Transform{}, 20, 0, false},
		{"GCM with an integrity key", keyword(t, "aes256gcm16"), policy.Transform{}, 36, 32, false},
		{"GCM with an integrity algorithm", keyword(t, "aes256gcm16"), keyword(t, "sha256"), 36, 32, false},
		{"CBC", keyword(t, "aes128"), keyword(t, "sha384"), 16, 48, true},
		{"CBC with a short integrity key", keyword(t, "aes128"), keyword(t, "sha384"), 16, 32, false},
		{"CBC without integrity key", keyword(t, "aes128"), keyword(t, "sha384"), 16, 0, false},
		{"CBC without integrity", keyword(t, "aes128"), policy.Transform{}, 16, 0, false},
		{"no keys", keyword(t, "aes128"), keyword(t, "sha256"), 0, 0, false},
		{"3DES", keyword(t, "3des"), keyword(t, "md5"), 24, 16, true},
		{"CCM", keyword(t, "aes256ccm8"), policy.Transform{}, 35, 0, true},
		{"CCM with GCM's salt", keyword(t, "aes256ccm8"), policy.Transform{}, 36, 0, false},
		{"Blowfish, which IKEv2 has not here", keyword(t, "blowfish128"), keyword(t, "sha256"), 16, 32, false},
	} {
		if _, err := NewCipher(c.encr, c.integ, key(c.ek), key(c.ak)); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	// The keys are copied: wiping them, as their owner does when the SA goes, does not turn the cipher into one with a known key.
	for _, s := range []suite{{encr: keyword(t, "aes128gcm16")}, {keyword(t, "aes128"), keyword(t, "sha256")}} {
		e, a, err := keyLens(s.encr, s.integ)
		if err != nil {
			t.Fatal(err)
		}
		ek, ak := policy.NewSecret(bytes.Repeat([]byte{1}, e)), policy.NewSecret(bytes.Repeat([]byte{2}, a))
		c, err := NewCipher(s.encr, s.integ, ek, ak)
		if err != nil {
			t.Fatal(err)
		}
		msg, err := c.Seal(rand.Reader, nil, []byte("text"))
		if err != nil {
			t.Fatal(err)
		}
		ek.Wipe()
		ak.Wipe()
		if got, err := c.Open(msg, 0); err != nil || string(got) != "text" {
			t.Errorf("%s: after a wipe of the keys given: %v", s, err)
		}
	}
}

// Whatever arrives: no panic; what opens is something our peer sealed.
func FuzzOpen(f *testing.F) {
	all := suites()
	receivers := make([]*Cipher, len(all))
	for i, s := range all {
		sender, receiver := s.ciphers(f)
		receivers[i] = receiver
		msg, err := sender.Seal(constant(0x33), header(sender, 12), []byte("twelve octet"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), msg, 32)
		f.Add(uint8(i), msg[:32], 32) // an SK payload of 4 octets
		f.Add(uint8(i), msg, 28)
		f.Add(uint8(i), sealRaw(f, receiver, msg[:32], bytes.Repeat([]byte{0xff}, 32)), 32)
	}
	f.Fuzz(func(t *testing.T, which uint8, msg []byte, body int) {
		c := receivers[int(which)%len(receivers)]
		was := bytes.Clone(msg)
		got, err := c.Open(msg, body)
		if !bytes.Equal(msg, was) {
			t.Fatal("Open wrote to the message")
		}
		if err != nil {
			if got != nil || !(errors.Is(err, ErrUnauthenticated) || errors.Is(err, ErrPadding)) {
				t.Fatalf("%x with %v", got, err)
			}
			return
		}
		if body+c.SealedLen(len(got)) > len(msg) {
			t.Fatalf("%d octets out of %d", len(got), len(msg)-body)
		}
	})
}

// Whatever is sealed opens again, and a change of any one octet is noticed.
func FuzzSealOpen(f *testing.F) {
	all := suites()
	for i := range all {
		f.Add(uint8(i), []byte("prefix"), []byte("payloads"), uint16(3))
	}
	f.Add(uint8(0), []byte{}, []byte{}, uint16(0))
	f.Fuzz(func(t *testing.T, which uint8, prefix, plain []byte, at uint16) {
		sender, receiver := all[int(which)%len(all)].ciphers(t)
		msg, err := sender.Seal(constant(0x33), prefix, plain)
		if err != nil || len(msg) != len(prefix)+sender.SealedLen(len(plain)) {
			t.Fatalf("%d octets (%v)", len(msg), err)
		}
		if got, err := receiver.Open(msg, len(prefix)); err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%x (%v)", got, err)
		}
		msg[int(at)%len(msg)] ^= 0x10
		if _, err := receiver.Open(msg, len(prefix)); !errors.Is(err, ErrUnauthenticated) {
			t.Fatalf("changed at %d of %d: %v", int(at)%len(msg), len(msg), err)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	for _, s := range []suite{{encr: keyword(b, "aes256gcm16")}, {keyword(b, "aes256"), keyword(b, "sha256")}} {
		for _, n := range []int{80, 1200} {
			b.Run(fmt.Sprintf("%s/%d", s, n), func(b *testing.B) {
				c, _ := s.ciphers(b)
				prefix, plain := header(c, n), make([]byte, n)
				b.SetBytes(int64(n))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := c.Seal(rand.Reader, prefix, plain); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, s := range []suite{{encr: keyword(b, "aes256gcm16")}, {keyword(b, "aes256"), keyword(b, "sha256")}} {
		for _, n := range []int{80, 1200} {
			b.Run(fmt.Sprintf("%s/%d", s, n), func(b *testing.B) {
				sender, c := s.ciphers(b)
				msg, err := sender.Seal(rand.Reader, header(sender, n), make([]byte, n))
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(n))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := c.Open(msg, 32); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
