package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const before = `
[tunnel.a]
remote = "203.0.113.7"
psk-file = "psk"
remote-ts = ["10.2.0.0/16"]

[tunnel.b]
remote = "203.0.113.8"
psk-file = "psk"
[[tunnel.b.child]]
name = "lan"
remote-ts = ["10.3.0.0/16"]
[[tunnel.b.child]]
name = "dmz"
remote-ts = ["10.4.0.0/16"]
`

func TestDiff(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name         string
		old, new     string // what is replaced in before
		want         string
		renegotiated []string
	}{
		{"nothing", "", "", "nothing changes\n", nil},
		{
			"the same said otherwise", `remote-ts = ["10.2.0.0/16"]`, "local-ts = [\"0.0.0.0/0\"]\nremote-ts = [\"10.2.0.0/16\"]\ndpd = \"30000ms\"",
			"nothing changes\n", nil,
		},
		{"a peer moved", "203.0.113.7", "203.0.113.9", "~ a: remote: 203.0.113.7 -> 203.0.113.9\n! a: is negotiated anew\n", []string{"a"}},
		{"a timer", "[[tunnel.b.child]]\nname = \"lan\"", "dpd = \"1m\"\n[[tunnel.b.child]]\nname = \"lan\"", "~ b: dpd: 30s -> 1m\n", nil},
		{
			"what follows the end", "remote-ts = [\"10.2.0.0/16\"]", "remote-ts = [\"10.2.0.0/16\"]\nreauth = \"8h\"\nunique = \"keep\"\non-dead = \"clear\"\non-close = \"restart\"",
			"~ a: reauth: 0s -> 8h\n~ a: unique: by-contact -> keep\n~ a: on-dead: by-start -> clear\n~ a: on-close: by-start -> restart\n", nil,
		},
		{
			"lifetimes of one child", "remote-ts = [\"10.3.0.0/16\"]", "remote-ts = [\"10.3.0.0/16\"]\nlifetime = \"30m\"\nlifetime-packets = 1000\nlifetime-octets = 200000",
			"~ b/lan: lifetime: 1h -> 30m\n~ b/lan: lifetime-packets: 0 -> 1000\n~ b/lan: lifetime-octets: 0 -> 200000\n", nil,
		},
		{
			"selectors of one child", "10.3.0.0/16", "10.3.0.0/24",
			"~ b/lan: remote-ts: 10.3.0.0/16 -> 10.3.0.0/24\n~ b/lan: priority: 93808 -> 90712\n! b/lan: is negotiated anew\n", nil,
		},
		{"a child renamed", `name = "dmz"`, `name = "dmz2"`, "- b/dmz\n+ b/dmz2\n", nil},
		{"a tunnel renamed", "[tunnel.a]", "[tunnel.c]", "- a\n+ c\n", nil},
		{"another key", `psk-file = "psk"` + "\nremote-ts", `psk-file = "psk2"` + "\nremote-ts", "~ a: psk-file: [redacted] -> [redacted] (another key)\n! a: is negotiated anew\n", []string{"a"}},
		{"the same key elsewhere", `psk-file = "psk"` + "\nremote-ts", `psk-file = "copy"` + "\nremote-ts", "nothing changes\n", nil},
		{
			"the gateway", "[tunnel.a]", "[gateway]\nlog-level = \"debug\"\ntun = \"coati1\"\n[tunnel.a]",
			"~ gateway: log-level: info -> debug\n! gateway: tun: coati0 -> coati1 (needs a restart)\n", nil,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := folder(t)
			for name, key := range map[string]string{"psk2": "another\n", "copy": "open sesame"} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(key), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if !strings.Contains(before, c.old) {
				t.Fatalf("%q is not in the file", c.old)
			}
			p := Diff(mustParse(t, dir, before), mustParse(t, dir, strings.Replace(before, c.old, c.new, 1)))
			if d := cmp.Diff(c.want, p.String()); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if p.Empty() != (c.want == "nothing changes\n") {
				t.Errorf("Empty: %t", p.Empty())
			}
			var again []string
			for _, ch := range p.Changed {
				if ch.Renegotiated() {
					again = append(again, ch.Name)
				}
			}
			if d := cmp.Diff(c.renegotiated, again); d != "" {
				t.Errorf("renegotiated (-want +got):\n%s", d)
			}
			if n := len(p.Unchanged) + len(p.Changed) + len(p.Added); n != 2 {
				t.Errorf("%d tunnels are accounted for", n)
			}
		})
	}
}

func TestUnchangedChildrenAreNamed(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	p := Diff(mustParse(t, dir, before), mustParse(t, dir, strings.Replace(before, "10.3.0.0/16", "10.3.0.0/24", 1)))
	if len(p.Changed) != 1 || !cmp.Equal(p.Changed[0].ChildrenUnchanged, []string{"dmz"}) || !cmp.Equal(p.Unchanged, []string{"a"}) {
		t.Errorf("%+v", p)
	}
}
