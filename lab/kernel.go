package lab

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Peers that need a kernel with ESP run in one of their own: run-in-kernel.sh boots User Mode Linux over a read-only view of
// this machine, and this very test binary runs in it as root. What it found comes back as a file of cells.

const (
	inKernelVariable = "COATI_IN_KERNEL"
	kernelVariable   = "COATI_KERNEL" // another one than UML: run-in-kernel.sh's -k
	cellsFile        = "cells.json"
)

// InKernel says that this process runs in the lab's own kernel.
func InKernel() bool { return os.Getenv(inKernelVariable) != "" }

// NeedKernel skips tests that run in the lab's own kernel, and are run there by TestKernel.
func NeedKernel(t testing.TB) {
	t.Helper()
	if !InKernel() {
		t.Skip("it runs in a kernel of its own: TestKernel")
	}
}

// A Boot is what the tests in the kernel left.
type Boot struct {
	Output string
	Folder string // of what they wrote
	Cells  []CellResult
}

// A CellResult is one filled cell.
type CellResult struct {
	Cell    Cell
	Outcome string
}

// BootTests boots a kernel and runs the tests of this binary there that match the pattern. It skips where that cannot be:
// without root, or not on Debian, whose kernel it is.
func BootTests(t testing.TB, pattern string, limit time.Duration, environment ...string) Boot {
	t.Helper()
	NeedRoot(t)
	if _, err := os.Stat("/etc/debian_version"); err != nil {
		t.Skip("the kernel with ESP is a package of Debian's, and this is not Debian")
	}
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	boot := Boot{Folder: t.TempDir()}
	args := []string{"./run-in-kernel.sh", "-t", seconds(limit), "-o", boot.Folder, "-e", inKernelVariable + "=1", "-e", "COATI_BIN=" + program(t), "-e", unpackedVariable + "=" + unpacked("")}
	for _, e := range environment {
		args = append(args, "-e", e)
	}
	if kind := os.Getenv(kernelVariable); kind != "" {
		args = append(args, "-k", kind)
	}
	args = append(args, "--", binary, "-test.v", "-test.run", pattern, "-test.timeout", limit.String())
	cmd := exec.Command(args[0], args[1:]...)
	output, err := cmd.CombinedOutput()
	boot.Output = string(output)
	var status *exec.ExitError
	switch {
	case errors.As(err, &status) && status.ExitCode() == 1: // tests failed: the cells say which
	case err != nil:
		t.Errorf("the kernel: %v", err)
	}
	text, readErr := os.ReadFile(filepath.Join(boot.Folder, cellsFile))
	if readErr == nil {
		readErr = json.Unmarshal(text, &boot.Cells)
	}
	if err != nil || readErr != nil {
		up, _ := os.ReadFile(filepath.Join(boot.Folder, ".kernel", "up"))
		t.Errorf("cells: %v; kernel: %s; what was said there:\n%s", readErr, strings.TrimSpace(string(up)), lastLines(boot.Output, 300))
	}
	return boot
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d.Seconds())) }

func lastLines(text string, n int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-n):], "\n")
}

// Outcome is what became of a cell; empty: nothing filled it.
func (b *Boot) Outcome(c Cell) string {
	for _, r := range b.Cells {
		if r.Cell == c {
			return r.Outcome
		}
	}
	return ""
}

// WriteCells leaves what was filled where BootTests finds it.
func (tb *Table) WriteCells() error {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	var all []CellResult
	for _, c := range tb.declared {
		if outcome := tb.result[c]; outcome != "" {
			all = append(all, CellResult{c, outcome})
		}
	}
	text, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(os.Getenv("LAB_OUT"), cellsFile), text, 0o600)
}
