package config

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"coati/lab/pki"
)

const manual = "../../docs/coati.toml.5"

// roff turns the escapes the manual page uses into what they print.
var roff = strings.NewReplacer(`\-`, "-", `\e`, `\`)

func readManual(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	return roff.Replace(string(b))
}

func TestEveryExampleOfTheManualLoads(t *testing.T) {
	t.Parallel()
	examples := regexp.MustCompile(`(?s)\n\.EX\n(.*?)\n\.EE\n`).FindAllStringSubmatch(readManual(t), -1)
	if len(examples) == 0 {
		t.Fatal("no example found")
	}
	for _, e := range examples {
		dir := t.TempDir()
		for _, psk := range regexp.MustCompile(`psk-file = "(.*)"`).FindAllStringSubmatch(e[1], -1) {
			if err := os.WriteFile(filepath.Join(dir, psk[1]), []byte("open sesame\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if strings.Contains(e[1], "\ncert-file") {
			ca, key := pki.New(t, "ca", pki.P256), pki.NewKey(t, pki.P256)
			place(t, dir, "ca.pem", pki.CertPEM(ca.Cert))
			place(t, dir, "a.pem", pki.CertPEM(ca.Issue(t, "a.example.org", key.Public())))
			place(t, dir, "a.key", pki.KeyPEM(t, key))
			place(t, dir, "gw.pem", pki.CertPEM(ca.Issue(t, "gw.example.org", key.Public())))
			place(t, dir, "gw.key", pki.KeyPEM(t, key))
		}
		if strings.Contains(e[1], `"eap"`) {
			place(t, dir, "ca.pem", pki.CertPEM(pki.New(t, "ca", pki.P256).Cert))
			place(t, dir, "users", "alice correct horse\n")
			place(t, dir, "alice.password", "correct horse\n")
		}
		if c, faults := Parse(filepath.Join(dir, "coati.toml"), []byte(e[1])); c == nil || len(faults) > 0 {
			t.Errorf("%s\n%s", lines(faults), e[1])
		}
	}
}

// The manual describes each key of each table, and no other.
func TestManualDescribesEveryKey(t *testing.T) {
	t.Parallel()
	_, text, _ := strings.Cut(readManual(t), ".SH THE TABLE [gateway]")
	gateway, text, _ := strings.Cut(text, ".SH THE TABLES [tunnel.NAME]")
	tunnel, child, found := strings.Cut(text, ".SH THE TABLES [[tunnel.NAME.child]]")
	if !found {
		t.Fatal("a section is missing")
	}
	described := func(section string) []string {
		var keys []string
		for _, tag := range regexp.MustCompile(`\n\.TP\n\.BR? (.*)\n`).FindAllStringSubmatch(section, -1) {
			// .BR one ", " two " = type" or .B one
			words := regexp.MustCompile(`" = .*"$|", "`).ReplaceAllString(tag[1], " ")
			keys = append(keys, strings.Fields(words)...)
		}
		slices.Sort(keys)
		return keys
	}
	check := func(table string, got, want []string) {
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: described %v, read %v", table, got, want)
		}
	}
	check("gateway", described(gateway), names(gatewayKeys))
	short := names(childKeys)
	own := slices.DeleteFunc(names(tunnelKeys), func(k string) bool { return k != "lifetime" && slices.Contains(short, k) })
	check("tunnel", described(tunnel), own)
	check("child", described(child), short)

	_, shared, _ := strings.Cut(tunnel, "one child only, the keys\n.BR ")
	shared, _, _ = strings.Cut(shared, "\n")
	words := strings.Fields(strings.NewReplacer(`"`, " ", ",", " ", " and ", " ").Replace(shared))
	slices.Sort(words)
	check("an only child", words, slices.DeleteFunc(names(tunnelKeys), func(k string) bool { return slices.Contains(own, k) }))
}

// What the schema lets an only child say in its tunnel's table, a child's own table lets it say, too.
func TestShortKeysAreChildKeys(t *testing.T) {
	t.Parallel()
	for _, k := range tunnelKeys {
		d := &draft{}
		k.set(newLoader(), d, setting{k.name, position{}, &value{kind: kindFloat}})
		if len(d.short) > 0 && !slices.Contains(names(childKeys), k.name) {
			t.Errorf("%s is no key of a child", k.name)
		}
	}
}
