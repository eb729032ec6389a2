package keys

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"coati/policy"
)

// record is one [kind] block of a file in testdata: "name = value" lines; an indented line continues the value above it.
type record struct {
	kind   string
	values map[string]string
}

func readRecords(t testing.TB, name string) []record {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var out []record
	last := ""
	for n, line := range strings.Split(string(text), "\n") {
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			out = append(out, record{strings.Trim(line, "[]"), map[string]string{}})
		case line[0] == ' ':
			out[len(out)-1].values[last] += strings.TrimSpace(line)
		default:
			k, v, ok := strings.Cut(line, "=")
			if !ok || len(out) == 0 {
				t.Fatalf("%s:%d: neither a block nor a value", name, n+1)
			}
			last = strings.TrimSpace(k)
			out[len(out)-1].values[last] = strings.TrimSpace(v)
		}
	}
	if len(out) == 0 {
		t.Fatalf("%s holds no vectors", name)
	}
	return out
}

func (r record) text(t testing.TB, key string) string {
	t.Helper()
	v, ok := r.values[key]
	if !ok {
		t.Fatalf("[%s] has no %q", r.kind, key)
	}
	return v
}

func (r record) octets(t testing.TB, key string) []byte {
	t.Helper()
	return unhex(t, r.text(t, key))
}

func (r record) secret(t testing.TB, key string) policy.Secret {
	t.Helper()
	return policy.NewSecret(r.octets(t, key))
}

// transform is the algorithm that the value's keyword names; the zero Transform for an empty value.
func (r record) transform(t testing.TB, key string) policy.Transform {
	t.Helper()
	word := r.text(t, key)
	if word == "" {
		return policy.Transform{}
	}
	return keyword(t, word)
}

func keyword(t testing.TB, word string) policy.Transform {
	t.Helper()
	a := policy.LookupKeyword(word)
	if a == nil {
		t.Fatalf("no algorithm %q", word)
	}
	return a.Transform()
}

func mustPRF(t testing.TB, word string) PRF {
	t.Helper()
	p, err := NewPRF(keyword(t, word))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
