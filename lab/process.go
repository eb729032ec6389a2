package lab

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A Process runs on a host until it ends, is stopped, or the test ends.
type Process struct {
	Log  string // path of what it wrote to both outputs
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended; cmd.ProcessState is valid then
}

// The parent-death signal means the death of the thread that forked, and Inside ends threads. So
// one thread, which never ends, starts all processes.
var spawner = sync.OnceValue(func() chan<- func() {
	calls := make(chan func())
	go func() {
		runtime.LockOSThread()
		for call := range calls {
			call()
		}
	}()
	return calls
})

func onSpawner(start func() error) error {
	result := make(chan error)
	spawner() <- func() { result <- start() }
	return <-result
}

// Start starts a program on the host. Its output goes to LABEL.log in the host's folder, where a
// second process of the same label appends.
func (h *Host) Start(t testing.TB, label string, env []string, args ...string) *Process {
	t.Helper()
	p := &Process{Log: h.Path(label + ".log"), done: make(chan struct{})}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p.cmd = exec.Command("ip", append([]string{"netns", "exec", h.Name}, args...)...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// `ip netns exec` becomes the program, so the signal reaches it; also when we are killed.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := onSpawner(p.cmd.Start); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() { p.End(syscall.SIGTERM) })
	return p
}

// Running says that the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// End sends the signal, waits up to ten seconds for the end, then kills. It returns the exit
// code, -1 if a signal ended the process; and no error if it ended by itself or by that signal.
func (p *Process) End(signal syscall.Signal) (int, error) {
	if p.Running() {
		_ = p.cmd.Process.Signal(signal)
	}
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
		return -1, fmt.Errorf("%s did not end on %v", p.cmd.Args, signal)
	}
}

// Text is what the process has written so far.
func (p *Process) Text() string {
	text, _ := os.ReadFile(p.Log)
	return string(text)
}

// WaitText waits until the output contains the words; the test fails if the process ends first.
func (p *Process) WaitText(t testing.TB, limit time.Duration, words string) {
	t.Helper()
	found := func() bool { return strings.Contains(p.Text(), words) }
	Within(limit, func() bool { return found() || !p.Running() })
	if !found() {
		t.Fatalf("%q is not in the output of %s:\n%s", words, p.cmd.Args, tail(p.Log, 20))
	}
}
