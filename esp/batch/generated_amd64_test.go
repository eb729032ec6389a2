package batch

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The assembly in the tree is what the program in asm writes.
func TestAssemblyIsWhatItsGeneratorWrites(t *testing.T) {
	// Read here, so that go test runs this again when one has changed.
	sources, err := filepath.Glob("asm/*")
	if err != nil || len(sources) < 5 {
		t.Fatalf("%d files in asm: %v", len(sources), err)
	}
	for _, name := range sources {
		if _, err := os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	inASM := func(args ...string) ([]byte, error) {
		cmd := exec.Command("go", args...)
		cmd.Dir = "asm"
		cmd.Env = append(os.Environ(), "GOOS=", "GOARCH=", "GOFLAGS=", "GOWORK=off")
		return cmd.CombinedOutput()
	}
	if out, err := inASM("mod", "download"); err != nil {
		t.Skipf("skipped: the generator's modules are not to be had: %v: %s", err, out)
	}
	dir := t.TempDir()
	want := []string{"kernels_amd64.s", "kernels_amd64.go"}
	if out, err := inASM("run", ".", "-out", filepath.Join(dir, want[0]), "-stubs", filepath.Join(dir, want[1]), "-pkg", "batch"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	body := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(b), "\n") // the first line is the command, with its paths
		return rest
	}
	for _, name := range want {
		if body(name) != body(filepath.Join(dir, name)) {
			t.Errorf("%s is not what esp/batch/asm writes: run its command (see asm/main.go)", name)
		}
	}
}
