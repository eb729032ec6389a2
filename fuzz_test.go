package coati_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestFuzzScript: the end of the time is no finding, and a finding is never taken for it. A go that plays its
// part stands in for the real one: its answers to "go test -fuzz", one a call, are files in a folder.
func TestFuzzScript(t *testing.T) {
	t.Parallel()
	const (
		pass     = "PASS\nok  \tcoati/x\t3.052s\n"
		deadline = "--- FAIL: FuzzX (3.08s)\n    context deadline exceeded\nFAIL\n"
		finding  = "--- FAIL: FuzzX (0.08s)\n    x_test.go:9: wrong\n    Failing input written to testdata/fuzz/FuzzX/771e\nFAIL\n"
		hang     = "--- FAIL: FuzzX (3.08s)\n    fuzzing process hung or terminated unexpectedly: context deadline exceeded\nFAIL\n"
		both     = "--- FAIL: FuzzX (3.08s)\n    panic: oh\n    context deadline exceeded\nFAIL\n"
	)
	for _, test := range []struct {
		name    string
		answers []string
		fails   bool
		runs    int
	}{
		{"a pass", []string{pass}, false, 1},
		{"the time is up", []string{deadline, pass}, false, 2},
		{"the time is up twice", []string{deadline, deadline}, true, 2},
		{"a finding", []string{finding, pass}, true, 1},
		{"a hang", []string{hang, pass}, true, 1},
		{"a panic at the end of the time", []string{both, pass}, true, 1},
		{"a finding after the time was up", []string{deadline, finding}, true, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for i, answer := range test.answers {
				write(t, filepath.Join(dir, "answer"+string(rune('1'+i))), answer, 0o600)
			}
			write(t, filepath.Join(dir, "go"), `#!/bin/bash
case "$*" in
list*) echo coati/x; exit ;;
*-list*) echo FuzzX; exit ;;
esac
echo >>"`+dir+`/runs"
answer="`+dir+`/answer$(wc -l <"`+dir+`/runs")"
cat "$answer"
! grep -q FAIL "$answer"
`, 0o700)
			script := exec.Command(".ci/fuzz", "3s")
			script.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
			out, err := script.CombinedOutput()
			if (err != nil) != test.fails {
				t.Errorf("failed: %v, want %v:\n%s", err, test.fails, out)
			}
			ran, err := os.ReadFile(filepath.Join(dir, "runs"))
			if n := strings.Count(string(ran), "\n"); err != nil || n != test.runs {
				t.Errorf("%d runs (%v), want %d:\n%s", n, err, test.runs, out)
			}
		})
	}
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}
