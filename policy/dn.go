package policy

import (
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Distinguished names (X.501) as identities: ID_DER_ASN1_DN holds one in DER. As text the parts stand in the order of the
// certificate, as in "C=CH, O=Example, CN=gw", with RFC 4514's escapes.

// Limits on a distinguished name, far above what certificates hold.
const (
	maxDN    = 4096 // octets of DER
	maxParts = 64   // attributes
)

// attribute is one part of a name. The value is kept as it is encoded.
type attribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

// relativeSET is what "+" joins; encoding/asn1 takes the ending of the name for the type.
type relativeSET []attribute

var attributeNames = []struct {
	name string
	oid  asn1.ObjectIdentifier
}{
	{"CN", asn1.ObjectIdentifier{2, 5, 4, 3}},
	{"SN", asn1.ObjectIdentifier{2, 5, 4, 4}},
	{"serialNumber", asn1.ObjectIdentifier{2, 5, 4, 5}},
	{"C", asn1.ObjectIdentifier{2, 5, 4, 6}},
	{"L", asn1.ObjectIdentifier{2, 5, 4, 7}},
	{"ST", asn1.ObjectIdentifier{2, 5, 4, 8}},
	{"STREET", asn1.ObjectIdentifier{2, 5, 4, 9}},
	{"O", asn1.ObjectIdentifier{2, 5, 4, 10}},
	{"OU", asn1.ObjectIdentifier{2, 5, 4, 11}},
	{"T", asn1.ObjectIdentifier{2, 5, 4, 12}},
	{"postalCode", asn1.ObjectIdentifier{2, 5, 4, 17}},
	{"GN", asn1.ObjectIdentifier{2, 5, 4, 42}},
	{"UID", asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}},
	{"DC", asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}},
	{"E", asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}},
	{"emailAddress", asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}},
}

// ParseDN encodes a name written as text.
func ParseDN(s string) ([]byte, error) {
	var name []relativeSET
	count := 0
	for _, r := range splitDN(s, ',') {
		var set relativeSET
		for _, a := range splitDN(r, '+') {
			at, err := parseAttribute(strings.TrimSpace(a))
			if err != nil {
				return nil, fmt.Errorf("distinguished name %q: %w", s, err)
			}
			set = append(set, at)
			count++
		}
		name = append(name, set)
	}
	if count > maxParts {
		return nil, fmt.Errorf("distinguished name has %d parts, want at most %d", count, maxParts)
	}
	der, err := asn1.Marshal(name)
	if err != nil {
		return nil, fmt.Errorf("distinguished name %q: %w", s, err)
	}
	if len(der) > maxDN {
		return nil, fmt.Errorf("distinguished name is too long: want at most %d octets", maxDN)
	}
	return der, nil
}

// splitDN cuts at each separator that no backslash precedes.
func splitDN(s string, separator byte) []string {
	var out []string
	from := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case separator:
			out = append(out, s[from:i])
			from = i + 1
		}
	}
	return append(out, s[from:])
}

func parseAttribute(s string) (attribute, error) {
	name, value, found := strings.Cut(s, "=")
	name, value = strings.TrimSpace(name), strings.TrimLeft(value, " ")
	if !found || name == "" || value == "" {
		return attribute{}, fmt.Errorf("want parts such as CN=gw, not %q", s)
	}
	oid, err := attributeType(name)
	if err != nil {
		return attribute{}, err
	}
	if digits, ok := strings.CutPrefix(value, "#"); ok {
		der, err := hex.DecodeString(digits)
		if err != nil {
			return attribute{}, fmt.Errorf("%s: after # stand hexadecimal digits", name)
		}
		var v asn1.RawValue
		if rest, err := asn1.Unmarshal(der, &v); err != nil || len(rest) > 0 {
			return attribute{}, fmt.Errorf("%s: what follows # is not one value in DER", name)
		}
		return attribute{oid, v}, nil
	}
	text, err := unescapeDN(value)
	if err != nil {
		return attribute{}, fmt.Errorf("%s: %w", name, err)
	}
	return attribute{oid, encodeText(oid, text)}, nil
}

func attributeType(name string) (asn1.ObjectIdentifier, error) {
	for _, a := range attributeNames {
		if strings.EqualFold(a.name, name) {
			return a.oid, nil
		}
	}
	var oid asn1.ObjectIdentifier
	for part := range strings.SplitSeq(name, ".") {
		n, err := strconv.ParseUint(part, 10, 31)
		if err != nil {
			return nil, fmt.Errorf("unknown attribute %q: want C, ST, L, O, OU, CN, DC, UID, E, serialNumber or numbers with dots", name)
		}
		oid = append(oid, int(n))
	}
	if len(oid) < 2 || oid[0] > 2 || oid[0] < 2 && oid[1] > 39 {
		return nil, fmt.Errorf("%q is no object identifier", name)
	}
	return oid, nil
}

func unescapeDN(s string) (string, error) {
	var b []byte
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b = append(b, s[i])
			continue
		}
		if i++; i == len(s) {
			return "", errors.New("a backslash escapes nothing")
		}
		if i+1 < len(s) {
			if h, err := hex.DecodeString(s[i : i+2]); err == nil {
				b = append(b, h...)
				i++
				continue
			}
		}
		b = append(b, s[i])
	}
	if !utf8.Valid(b) {
		return "", errors.New("is not UTF-8")
	}
	return string(b), nil
}

// encodeText picks the type that certificates have: IA5String for mail addresses and domain components, otherwise
// PrintableString where it suffices, or UTF8String.
func encodeText(oid asn1.ObjectIdentifier, s string) asn1.RawValue {
	tag := asn1.TagUTF8String
	switch {
	case isIA5(oid) && strings.IndexFunc(s, func(c rune) bool { return c > 0x7f }) < 0:
		tag = asn1.TagIA5String
	case strings.IndexFunc(s, func(c rune) bool { return !printableString(c) }) < 0:
		tag = asn1.TagPrintableString
	}
	return asn1.RawValue{Tag: tag, Bytes: []byte(s)}
}

func isIA5(oid asn1.ObjectIdentifier) bool {
	return oid.Equal(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}) || oid.Equal(asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25})
}

// printableString is X.680's alphabet of that type.
func printableString(c rune) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune(" '()+,-./:=?", c)
}

// decodeDN reads a name in DER.
func decodeDN(der []byte) ([]relativeSET, error) {
	if len(der) > maxDN {
		return nil, fmt.Errorf("distinguished name of %d octets", len(der))
	}
	var name []relativeSET
	rest, err := asn1.Unmarshal(der, &name)
	if err != nil {
		return nil, fmt.Errorf("distinguished name: %w", err)
	}
	count := 0
	for _, set := range name {
		count += len(set)
		if len(set) == 0 {
			return nil, errors.New("distinguished name with an empty part")
		}
	}
	if len(rest) > 0 || count > maxParts {
		return nil, errors.New("distinguished name is malformed")
	}
	return name, nil
}

// FormatDN is the text of a name in DER, which ParseDN reads. What a peer says must not reach a terminal as a command, so
// characters that do not print are escaped.
func FormatDN(der []byte) (string, error) {
	name, err := decodeDN(der)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for i, set := range name {
		if i > 0 {
			b.WriteString(", ")
		}
		for j, a := range set {
			if j > 0 {
				b.WriteString(" + ")
			}
			b.WriteString(attributeName(a.Type) + "=" + attributeValue(a))
		}
	}
	return b.String(), nil
}

func attributeName(oid asn1.ObjectIdentifier) string {
	for _, a := range attributeNames {
		if a.oid.Equal(oid) {
			return a.name
		}
	}
	return oid.String()
}

func attributeValue(a attribute) string {
	s, ok := text(a.Value)
	if again := encodeText(a.Type, s); !ok || s == "" || again.Tag != a.Value.Tag {
		return "#" + hex.EncodeToString(a.Value.FullBytes)
	}
	var b strings.Builder
	for i, c := range s {
		switch {
		case c == ' ' && (i == 0 || i == len(s)-1):
			b.WriteString(`\20`)
		case strings.ContainsRune(`,+"\<>;=`, c) || i == 0 && c == '#':
			b.WriteByte('\\')
			b.WriteRune(c)
		case !unicode.IsPrint(c):
			for _, x := range []byte(string(c)) {
				fmt.Fprintf(&b, `\%02x`, x)
			}
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}

// text is the content of a value of a string type that UTF-8 holds.
func text(v asn1.RawValue) (string, bool) {
	if v.Class != asn1.ClassUniversal || v.IsCompound || !utf8.Valid(v.Bytes) {
		return "", false
	}
	switch v.Tag {
	case asn1.TagPrintableString, asn1.TagUTF8String, asn1.TagIA5String:
		return string(v.Bytes), true
	}
	return "", false
}

// equalDN compares as RFC 5280, section 7.1 does for names with plain letters: part by part, text whatever its string type,
// without case, and with runs of blanks as one.
func equalDN(a, b []byte) bool {
	x, err := decodeDN(a)
	if err != nil {
		return false
	}
	y, err := decodeDN(b)
	if err != nil {
		return false
	}
	return slices.EqualFunc(x, y, func(p, q relativeSET) bool { return slices.EqualFunc(p, q, equalAttribute) })
}

func equalAttribute(a, b attribute) bool {
	if !a.Type.Equal(b.Type) {
		return false
	}
	s, ok := text(a.Value)
	t, ok2 := text(b.Value)
	if !ok || !ok2 {
		return slices.Equal(a.Value.FullBytes, b.Value.FullBytes)
	}
	return strings.EqualFold(strings.Join(strings.Fields(s), " "), strings.Join(strings.Fields(t), " "))
}
