package bench

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

//go:embed ipsecmb/harness.c
var harness []byte

// multiBuffer is Intel's multi-buffer library in a process of its own, compiled for the run: what it does is counted there, in
// its own processor time, in turns with ours. A nil one knows nothing.
type multiBuffer struct {
	dir string
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// startMultiBuffer builds and starts the harness. It fails where the library's header, the library or gcc is missing.
func startMultiBuffer(ctx context.Context) (*multiBuffer, error) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		return nil, errors.New("gcc is not installed")
	}
	dir, err := os.MkdirTemp("", "coati-ipsec-mb-")
	if err != nil {
		return nil, err
	}
	m := &multiBuffer{dir: dir}
	source, program := filepath.Join(dir, "harness.c"), filepath.Join(dir, "harness")
	if err := os.WriteFile(source, harness, 0o600); err != nil {
		m.stop()
		return nil, err
	}
	if out, err := exec.CommandContext(ctx, gcc, "-O2", source, "-o", program, "-lIPSec_MB").CombinedOutput(); err != nil {
		m.stop()
		if strings.Contains(string(out), "intel-ipsec-mb.h") {
			return nil, errors.New("its header is not installed (Debian: libipsec-mb-dev)")
		}
		return nil, fmt.Errorf("it does not compile: %w: %.300s", err, out)
	}
	m.cmd = exec.CommandContext(ctx, program)
	m.cmd.Stderr = os.Stderr
	in, err := m.cmd.StdinPipe()
	if err != nil {
		m.stop()
		return nil, err
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		m.stop()
		return nil, err
	}
	m.in, m.out = in, bufio.NewScanner(out)
	if err := m.cmd.Start(); err != nil {
		m.cmd = nil
		m.stop()
		return nil, err
	}
	return m, nil
}

func (m *multiBuffer) stop() {
	if m.cmd != nil {
		m.in.Close() // its loop ends with its input
		_ = m.cmd.Wait()
	}
	os.RemoveAll(m.dir)
}

// rate is octets of text a second in one turn; known says whether the library has the transform.
func (m *multiBuffer) rate(transform string, open bool, size, batch, count int, turn time.Duration) (rate float64, known bool, err error) {
	if m == nil {
		return 0, false, nil
	}
	direction := 0
	if open {
		direction = 1
	}
	if _, err := fmt.Fprintf(m.in, "%s %d %d %d %d %d\n", transform, direction, size, batch, count, turn.Nanoseconds()); err != nil {
		return 0, false, fmt.Errorf("libipsec-mb's harness: %w", err)
	}
	if !m.out.Scan() {
		return 0, false, fmt.Errorf("libipsec-mb's harness ended: %w", errors.Join(m.out.Err(), io.ErrUnexpectedEOF))
	}
	if m.out.Text() == "no" {
		return 0, false, nil
	}
	var octets, took float64
	if _, err := fmt.Sscan(m.out.Text(), &octets, &took); err != nil || took <= 0 {
		return 0, false, fmt.Errorf("libipsec-mb's harness says %q", m.out.Text())
	}
	return octets / took * 1e9, true, nil
}
