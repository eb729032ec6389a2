package config

import (
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write what was found into the golden files")

// TestGolden loads the *.toml files of each archive in testdata, in their order, and compares the faults with the
// archive's part "faults" and, if there is no error, the canonical file with its part "canonical". Other parts are
// files beside them, mode 0600; a line "mode 0644 NAME" in front of the parts gives another one.
func TestGolden(t *testing.T) {
	t.Parallel()
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, name := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			a := parseArchive(string(data))
			dir := t.TempDir()
			files := unpack(t, dir, a)
			config, faults := Load(files)
			got := map[string]string{"faults": relative(dir, lines(faults))}
			if Failed(faults) != (config == nil) {
				t.Errorf("a configuration with errors, or none without: %v", faults)
			}
			if config != nil {
				b, err := Format(config)
				if err != nil {
					t.Fatalf("Format: %v", err)
				}
				got["canonical"] = relative(dir, string(b))
				roundTrip(t, dir, config, b)
			}
			want := map[string]string{}
			inputs := archive{comment: a.comment}
			for _, f := range a.parts {
				if f.expected() {
					want[f.name] = f.content
				} else {
					inputs.parts = append(inputs.parts, f)
				}
			}
			if *update {
				for _, name := range []string{"faults", "canonical"} {
					if s, ok := got[name]; ok {
						inputs.parts = append(inputs.parts, part{name, s})
					}
				}
				if err := os.WriteFile(name, []byte(inputs.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s (-want +got):\n%s", name, d)
			}
		})
	}
}

// archive is a text of several parts in the form of Go's txtar, each after a line "-- NAME --".
type archive struct {
	comment string
	parts   []part
}

type part struct{ name, content string }

func (p part) expected() bool { return p.name == "faults" || p.name == "canonical" }

func parseArchive(s string) archive {
	var a archive
	into := &a.comment
	for line := range strings.Lines(s) {
		if name, ok := strings.CutPrefix(line, "-- "); ok && strings.HasSuffix(name, " --\n") {
			a.parts = append(a.parts, part{name: strings.TrimSuffix(name, " --\n")})
			into = &a.parts[len(a.parts)-1].content
			continue
		}
		*into += line
	}
	return a
}

func (a archive) String() string {
	s := a.comment
	for _, p := range a.parts {
		s += "-- " + p.name + " --\n" + p.content
	}
	return s
}

// unpack writes the archive's files and lists those that are configuration.
func unpack(t *testing.T, dir string, a archive) []string {
	t.Helper()
	modes := map[string]os.FileMode{}
	for line := range strings.Lines(a.comment) {
		if w := strings.Fields(line); len(w) == 3 && w[0] == "mode" {
			m, err := strconv.ParseUint(w[1], 8, 32)
			if err != nil {
				t.Fatal(err)
			}
			modes[w[2]] = os.FileMode(m)
		}
	}
	var files []string
	for _, f := range a.parts {
		if f.expected() {
			continue
		}
		path := filepath.Join(dir, f.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(f.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if m, ok := modes[f.name]; ok {
			if err := os.Chmod(path, m); err != nil {
				t.Fatal(err)
			}
		}
		if strings.HasSuffix(f.name, ".toml") {
			files = append(files, path)
		}
	}
	return files
}

func lines(faults []Fault) string {
	var b strings.Builder
	for _, f := range faults {
		b.WriteString(f.String() + "\n")
	}
	return b.String()
}

func relative(dir, s string) string { return strings.ReplaceAll(s, dir+"/", "/DIR/") }

// roundTrip holds Load(Format(c)) == c.
func roundTrip(t *testing.T, dir string, c *Config, canonical []byte) {
	t.Helper()
	again, faults := Parse(filepath.Join(dir, "elsewhere", "again.toml"), canonical)
	if Failed(faults) {
		t.Fatalf("the canonical file is refused:\n%s\n%s", lines(faults), canonical)
	}
	if d := cmp.Diff(c, again, equal); d != "" {
		t.Errorf("the canonical file means something else (-first +again):\n%s", d)
	}
}
