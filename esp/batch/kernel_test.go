package batch

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestKernelIsTheBestUnlessToldOtherwise(t *testing.T) {
	wide, plain := []string{VAES512, VAES256, AESNI, Generic}, []string{Generic}
	for _, c := range []struct {
		wish string
		has  []string
		want string
		err  string
	}{
		{"", wide, VAES512, ""},
		{"", plain, Generic, ""},
		{"generic", wide, Generic, ""},
		{"aesni", wide, AESNI, ""},
		{"vaes256", wide, VAES256, ""},
		{"vaes256", plain, Generic, "no vaes256"},
		{"vaes512", wide, VAES512, ""},
		{"vaes512", plain, Generic, "no vaes512"},
		{"fast", wide, VAES512, `"fast" is unknown`},
	} {
		got, err := choose(c.wish, c.has)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("COATI_CPU=%q of %v: %s, %v", c.wish, c.has, got, err)
		}
	}
}

func TestKernelsOfThisMachine(t *testing.T) {
	has := Kernels()
	if got, _ := Kernel(); !slices.Contains(has, got) || has[len(has)-1] != Generic {
		t.Errorf("%s of %v", got, has)
	}
	if _, err := NewGCMFor("fast", make([]byte, 16)); err == nil {
		t.Error("a key for a kernel that does not exist")
	}
	for _, k := range has {
		for n := range 40 {
			if _, err := NewGCMFor(k, make([]byte, n)); (err == nil) != (n == 16 || n == 24 || n == 32) {
				t.Errorf("%s: key of %d octets: %v", k, n, err)
			}
		}
	}
}

// All functions but vaes512's own also run on processors without AVX-512, where its instructions and registers are faults.
func TestOnlyVAES512NeedsAVX512(t *testing.T) {
	source, err := os.ReadFile("kernels_amd64.s")
	if err != nil {
		t.Fatal(err)
	}
	wide := regexp.MustCompile(`\b[ZK][0-9]+\b|\b[XY](1[6-9]|2[0-9]|3[01])\b|\bVPTERNLOG|\bVPXOR[DQ]|\bVMOVDQ[AU](8|16|32|64)|\bV(EXTRACT|INSERT|BROADCAST|SHUF)I(32|64)|_BCST|\.Z\b`)
	own := regexp.MustCompile(`^(gcm(Seal|Open)(128|192|256)|sha1x16|sha256x16|cbcSealWide|sha512x8|chacha20x16|poly1305x8)\(`)
	found := map[bool]int{}
	for _, f := range strings.Split(string(source), "\nTEXT ·")[1:] {
		name, _, _ := strings.Cut(f, "(")
		hit := wide.FindString(f)
		if !own.MatchString(f) && hit != "" {
			t.Errorf("%s uses %s", name, hit)
		}
		found[hit != ""]++
	}
	if found[true] != 12 || found[false] < 10 {
		t.Errorf("%d functions with AVX-512, %d without: the pattern or the file is not what it was", found[true], found[false])
	}
}
