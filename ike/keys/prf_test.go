package keys

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"coati/policy"
)

func TestPRFAgainstRFC4231(t *testing.T) {
	t.Parallel()
	cases := readRecords(t, "rfc4231.txt")
	if len(cases) != 7 {
		t.Fatalf("%d cases, want the RFC's 7", len(cases))
	}
	for _, c := range cases {
		for _, word := range []string{"prfsha256", "prfsha384", "prfsha512"} {
			p, want := mustPRF(t, word), c.octets(t, word)
			key, data := c.octets(t, "key"), c.octets(t, "data")
			got := p.Sum(key, data)
			if len(got) != p.Size() || !bytes.HasPrefix(got, want) {
				t.Errorf("case %s, %s: %x, want %x", c.kind, word, got, want)
			}
			if split := p.Sum(key, data[:3], nil, data[3:]); !bytes.Equal(split, got) {
				t.Errorf("case %s, %s: the result depends on where the parts are cut", c.kind, word)
			}
		}
	}
}

func TestPRFSHA1AgainstRFC2202(t *testing.T) {
	t.Parallel()
	p := mustPRF(t, "prfsha1")
	for _, c := range []struct{ key, data, want string }{
		{strings.Repeat("\x0b", 20), "Hi There", "b617318655057264e28bc0b6fb378c8ef146be00"},
		{"Jefe", "what do ya want for nothing?", "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"},
		{strings.Repeat("\xaa", 20), strings.Repeat("\xdd", 50), "125d7342b9ac11cd91a39af48aa17b4f63f175d3"},
		{strings.Repeat("\xaa", 80), "Test Using Larger Than Block-Size Key - Hash Key First", "aa4ae5e15272d00e95705637ce8a3b55ed402112"},
	} {
		if got := hex.EncodeToString(p.Sum([]byte(c.key), []byte(c.data))); got != c.want {
			t.Errorf("%q: %s, want %s", c.data, got, c.want)
		}
	}
}

// RFC 7296, section 2.13, written down once more in the plainest way.
func TestPlusIsTheChainOfThePRF(t *testing.T) {
	t.Parallel()
	for _, word := range []string{"prfsha256", "prfsha384", "prfsha512"} {
		p := mustPRF(t, word)
		key, seed := []byte("key"), []byte("seed of some length")
		var want, last []byte
		for i := 1; i <= 255; i++ {
			last = p.Sum(key, last, seed, []byte{byte(i)})
			want = append(want, last...)
		}
		for _, n := range []int{0, 1, p.Size() - 1, p.Size(), p.Size() + 1, 3*p.Size() + 7, 255*p.Size() - 1, 255 * p.Size()} {
			got, err := p.Plus(key, n, seed[:4], seed[4:])
			if err != nil || !bytes.Equal(got, want[:n]) {
				t.Errorf("%s: %d octets are not the first of the chain (%v)", word, n, err)
			}
		}
		for _, n := range []int{-1, 255*p.Size() + 1, 1 << 30} {
			if _, err := p.Plus(key, n, seed); err == nil {
				t.Errorf("%s: %d octets were made, the counter is one octet", word, n)
			}
		}
	}
}

func TestNewPRFRefusesWhatItDoesNotHave(t *testing.T) {
	t.Parallel()
	for _, tr := range []policy.Transform{
		{},
		{Type: policy.TransformPRF, ID: 3},
		{Type: policy.TransformPRF, ID: 9},
		{Type: policy.TransformPRF, ID: policy.PRFHMACSHA256, KeyBits: 256},
		{Type: policy.TransformINTEG, ID: policy.PRFHMACSHA256},
	} {
		if _, err := NewPRF(tr); err == nil {
			t.Errorf("a PRF for %s", tr)
		}
	}
	for _, a := range policy.Algorithms {
		if a.Type != policy.TransformPRF || a.Use&policy.UseIKE == 0 {
			continue
		}
		if p, err := NewPRF(a.Transform()); err != nil || p.Size() != a.KeyLen {
			t.Errorf("%s: size %d, want %d (%v)", a.Keyword, p.Size(), a.KeyLen, err)
		}
	}
}
