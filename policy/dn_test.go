package policy

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"strings"
	"testing"
)

// A name written as people write it is the subject that crypto/x509 puts into a certificate.
func TestADistinguishedNameIsWhatCertificatesHave(t *testing.T) {
	t.Parallel()
	want, err := asn1.Marshal(pkix.Name{Country: []string{"CH"}, Organization: []string{"Bär, Söhne"}, CommonName: "gw.example.org"}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	id, err := ParseIdentity(`dn:C=CH, O=Bär\, Söhne, CN=gw.example.org`)
	if err != nil || id.Type != IDDN || string(id.Data) != string(want) {
		t.Errorf("%v: %x, want %x", err, id.Data, want)
	}
	if s := id.String(); s != `dn:C=CH, O=Bär\, Söhne, CN=gw.example.org` {
		t.Errorf("String is %s", s)
	}
}

func TestDistinguishedNamesCompareByMeaning(t *testing.T) {
	t.Parallel()
	parse := func(s string) Identity {
		id, err := ParseIdentity("dn:" + s)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	utf8 := Identity{IDDN, append([]byte{0x30, 15, 0x31, 13, 0x30, 11, 6, 3, 0x55, 4, 3, 12, 4}, "Gw 1"...)} // CN as UTF8String
	for _, c := range []struct {
		a, b Identity
		want bool
	}{
		{parse("C=CH, CN=gw"), parse("c=ch,cn=GW"), true},
		{parse("CN=gw 1"), utf8, true},
		{parse("CN=gw  1"), parse("CN=gw 1"), true},
		{parse("CN=gw1"), utf8, false},
		{parse("C=CH, CN=gw"), parse("CN=gw, C=CH"), false},
		{parse("C=CH, CN=gw"), parse("CN=gw"), false},
		{parse("CN=gw"), parse("CN=gw, CN=gw"), false},
		{parse("O=gw"), parse("CN=gw"), false},
		{parse("CN=gw"), parse("CN=gw2"), false},
		{parse("CN=a + O=b"), parse("O=b+CN=a"), true}, // a set has no order
		{parse("CN=a + O=b"), parse("CN=a, O=b"), false},
		{parse("E=A@b.c"), parse("emailAddress=a@B.c"), true},
		{parse("1.2.3.4=#0402aabb"), parse("1.2.3.4=#0402aabb"), true},
		{parse("1.2.3.4=#0402aabb"), parse("1.2.3.4=#0402aabc"), false},
		{parse("CN=gw"), Identity{IDDN, []byte("nonsense")}, false},
		{Identity{IDDN, []byte("nonsense")}, Identity{IDDN, []byte("nonsense")}, false},
		{parse("CN=gw"), Identity{IDFQDN, []byte("gw")}, false},
	} {
		if got := c.a.Matches(c.b); got != c.want {
			t.Errorf("%s matches %s: %v", c.a, c.b, got)
		}
	}
}

func TestBadDistinguishedNamesAreRefused(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"gw": "want parts such as CN=gw", "CN=": "want parts", "CN=a,,O=b": "want parts", "XY=a": "unknown attribute", "9.9=a": "no object identifier",
		`CN=a\`: "escapes nothing", "CN=#zz": "hexadecimal", "CN=#0c05aa": "not one value", `CN=\ff`: "not UTF-8", "CN=a" + strings.Repeat(",CN=a", 64): "65 parts",
		"CN=" + strings.Repeat("a", 5000): "too long",
	} {
		if _, err := ParseIdentity("dn:" + s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v, want %s", s, err, want)
		}
	}
}

// What a peer calls itself cannot move a terminal's cursor, and is never taken for a separator.
func TestWhatAPeerCallsItselfIsPrintedSafely(t *testing.T) {
	t.Parallel()
	id := Identity{IDDN, append([]byte{0x30, 18, 0x31, 16, 0x30, 14, 6, 3, 0x55, 4, 3, 12, 7}, "a,\x1b[2J "...)}
	if s := id.String(); s != `dn:CN=a\,\1b[2J\20` {
		t.Errorf("%q", s)
	}
}

func FuzzDN(f *testing.F) {
	for _, s := range []string{"C=CH, O=Lab, CN=gw", `CN=a\,b + O=c`, "1.2.3.4=#0402aabb", "E=a@b.c, DC=org", `CN=\20a\20`} {
		der, err := ParseDN(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	bmp, _ := hex.DecodeString("300f310d300b06035504031e0400610062")
	f.Add(bmp)
	f.Fuzz(func(t *testing.T, der []byte) {
		s, err := FormatDN(der)
		if err != nil || s == "" {
			return
		}
		again, err := ParseDN(s)
		if err != nil {
			if len(s) > maxDN/2 { // hexadecimal may be longer than what is taken
				return
			}
			t.Fatalf("%s of %x does not parse: %v", s, der, err)
		}
		if s2, err := FormatDN(again); err != nil || len(s2) != len(s) {
			t.Fatalf("%x is %s, which is %s (%v)", der, s, s2, err)
		}
		Identity{IDDN, der}.Matches(Identity{IDDN, again})
	})
}
