package coati_test

import (
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"coati/policy/config"
)

// The documents are tested: every command in a block of shell has a proof in the table below, and every configuration in
// them loads. A command without a proof fails, so nobody can write down what was never run.

// proofs says how a command, without its comment, is known to work: a test "FOLDER TestName" that runs it or what it is
// an instance of, or a check made here.
var proofs = []struct {
	command *regexp.Regexp
	proof   string
	check   func(t *testing.T, command string)
}{
	{regexp.MustCompile(`^make demo$`), "lab TestDemo", madeBy},
	{regexp.MustCompile(`^make test$`), "", madeBy},
	{regexp.MustCompile(`^make (build|bench|race|fuzz|lint|arch|ci|man|matrix|soak|clean|help)$`), "", madeBy},
	{regexp.MustCompile(`^coati check \S+\.toml$`), "lab TestCommands", understood},
	{regexp.MustCompile(`^coati run --config \S+\.toml$`), "lab TestCoatiToCoati", understood},
	{regexp.MustCompile(`^coati (status|status --json|reload|version)$`), "lab TestCommands", understood},
	{regexp.MustCompile(`^coati (up|down|rekey) \S+$`), "lab TestCommands", understood},
	{regexp.MustCompile(`^coati bench (all|crypto|path|ike)( --quick)?$`), "", understood},
	{regexp.MustCompile(`^(bin/)?coati (help|man \S+)$`), "", understood},
	{regexp.MustCompile(`^man docs/coati\.toml\.5$`), "policy/config TestManualDescribesEveryKey", nil},
}

// madeBy: the Makefile has the target, and its recipe can be expanded.
func madeBy(t *testing.T, command string) {
	t.Helper()
	target := strings.Fields(command)[1]
	if output, err := exec.Command("make", "-n", target).CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", command, err, output)
	}
	help, err := exec.Command("make", "help").CombinedOutput()
	if err != nil || !regexp.MustCompile(`(?m)^  `+target+` `).Match(help) {
		t.Errorf("make help does not list %s: %v\n%s", target, err, help)
	}
}

// understood: the program knows the sub-command and all options, whatever else the command needs.
func understood(t *testing.T, command string) {
	t.Helper()
	fields := strings.Fields(command)
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	help, err := exec.Command(path, append([]string{"help"}, words(fields[1:])...)...).CombinedOutput()
	if err != nil || strings.Contains(string(help), "Unknown help topic") {
		t.Errorf("%s: %v\n%s", command, err, help)
	}
	for _, field := range fields {
		if strings.HasPrefix(field, "--") && !strings.Contains(string(help), field) {
			t.Errorf("%s: the command knows no %s:\n%s", command, field, help)
		}
	}
}

// program is coati, built once.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "coati-readme-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "coati")
	if output, err := exec.Command("go", "build", "-o", path, "./cmd/coati").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, output)
	}
	return path, nil
})

// words are those of a command line that name sub-commands.
func words(fields []string) []string {
	name := regexp.MustCompile(`^[a-z]+$`)
	for i, field := range fields {
		if !name.MatchString(field) {
			return fields[:i]
		}
	}
	return fields
}

// A block of a document is what stands between fences.
type block struct {
	file     string
	line     int
	language string
	lines    []string
}

func blocks(t *testing.T) []block {
	t.Helper()
	files, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	var out []block
	for _, file := range append([]string{"README.md"}, files...) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var open *block
		for i, line := range strings.Split(string(text), "\n") {
			language, fence := strings.CutPrefix(strings.TrimSpace(line), "```")
			switch {
			case fence && open == nil:
				open = &block{file, i + 1, language, nil}
			case fence:
				out = append(out, *open)
				open = nil
			case open != nil:
				open.lines = append(open.lines, line)
			}
		}
		if open != nil {
			t.Errorf("%s:%d: the block does not end", file, open.line)
		}
	}
	return out
}

func TestDocumentedCommands(t *testing.T) {
	t.Cleanup(func() {
		if path, err := program(); err == nil {
			_ = os.RemoveAll(filepath.Dir(path))
		}
	})
	found := 0
	for _, b := range blocks(t) {
		switch b.language {
		case "sh":
		case "bash", "console", "shell":
			t.Errorf("%s:%d: commands stand in blocks of \"sh\", so that they are tested", b.file, b.line)
			continue
		default:
			continue
		}
		for i, line := range b.lines {
			command, _, _ := strings.Cut(line, " #")
			command = strings.TrimSpace(command)
			if command == "" || strings.HasPrefix(command, "#") {
				continue
			}
			found++
			proven(t, fmt.Sprintf("%s:%d", b.file, b.line+1+i), command)
		}
	}
	if found < 5 {
		t.Errorf("only %d commands found: the test looks in the wrong place", found)
	}
}

func proven(t *testing.T, at, command string) {
	t.Helper()
	for _, p := range proofs {
		if !p.command.MatchString(command) {
			continue
		}
		if p.proof != "" && !testExists(t, p.proof) {
			t.Errorf("%s: %q is to be proven by %s, which does not exist", at, command, p.proof)
		}
		if p.check != nil {
			p.check(t, command)
		}
		return
	}
	t.Errorf("%s: nothing proves that %q works: give it a test, and name that in this file", at, command)
}

func testExists(t *testing.T, proof string) bool {
	t.Helper()
	folder, name, _ := strings.Cut(proof, " ")
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		a, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		if a.Scope.Lookup(name) != nil {
			return true
		}
	}
	return false
}

func TestDocumentedConfigurations(t *testing.T) {
	secret := regexp.MustCompile(`psk-file = "([^"/]+)"`)
	found := 0
	for _, b := range blocks(t) {
		if b.language != "toml" {
			continue
		}
		found++
		dir := t.TempDir()
		text := strings.Join(b.lines, "\n") + "\n"
		for _, name := range secret.FindAllStringSubmatch(text, -1) {
			if err := os.WriteFile(filepath.Join(dir, name[1]), []byte("a secret\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		file := filepath.Join(dir, "coati.toml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, faults := config.Load([]string{file})
		for _, f := range faults {
			t.Errorf("%s:%d: %s", b.file, b.line, f)
		}
		if c != nil && len(c.Tunnels) == 0 {
			t.Errorf("%s:%d: the configuration has no tunnel", b.file, b.line)
		}
	}
	if found == 0 {
		t.Error("no configuration found: the test looks in the wrong place")
	}
}

// TestDocumentedFiles: what documents name as a path of this repository exists.
func TestDocumentedFiles(t *testing.T) {
	path := regexp.MustCompile("`((?:docs|lab|ike|esp|tun|gateway|policy|packet|cmd|bench|deploy|testdata)/[\\w./-]+)`")
	files, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append([]string{"README.md"}, files...) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range path.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(strings.TrimSuffix(match[1], "/**")); err != nil {
				t.Errorf("%s names %s: %v", file, match[1], err)
			}
		}
	}
}
