package lab

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

func demo(arguments ...string) *exec.Cmd {
	cmd := exec.Command(arguments[0], arguments[1:]...)
	cmd.Dir = ".."
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

func demoNamespaces(t *testing.T) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(netnsAt)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "coati-demo-") {
			names = append(names, e.Name())
		}
	}
	return names
}

// TestDemo: the README's first command works, works again at once, also after it was killed in the middle, and removes
// what it made. Whoever may not run it is told so in one line.
func TestDemo(t *testing.T) {
	NeedRoot(t)
	program(t)
	results.Fill(t, peerCoati, roleHost, caseDemo)
	whole := func() {
		t.Helper()
		output, err := demo("lab/demo.sh").CombinedOutput()
		text := string(output)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		for _, part := range []string{" 0% packet loss", "the same; ", " Mbit/s", "anything else 0", "Site b: coati status"} {
			if !strings.Contains(squeeze(text), squeeze(part)) {
				t.Errorf("no %q in the demo's output:\n%s", part, text)
			}
		}
		if n := strings.Count(text, "gateway  coati0  pid "); n != 2 {
			t.Errorf("%d gateways show their status, want 2:\n%s", n, text)
		}
		if names := demoNamespaces(t); len(names) > 0 {
			t.Errorf("left behind: %v", names)
		}
	}
	whole()
	// Killed, with nothing to clean up after it, in the middle of the copy.
	cmd := demo("lab/demo.sh")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	for lines.Scan() && !strings.Contains(lines.Text(), "A file of 256 MiB") {
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if len(demoNamespaces(t)) == 0 {
		t.Error("the killed demo left nothing: this proves nothing")
	}
	whole()

	output, err := demo("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "bash", "lab/demo.sh").CombinedOutput()
	if text := string(output); err == nil || strings.Count(text, "\n") != 1 || !strings.HasPrefix(text, "make demo: needs root") {
		t.Errorf("not root: %v\n%s", err, text)
	}
	output, err = demo("unshare", "-m", "sh", "-c", "mount -t tmpfs tmpfs /dev/net && lab/demo.sh").CombinedOutput()
	if text := string(output); err == nil || strings.Count(text, "\n") != 1 || !strings.HasPrefix(text, "make demo: no /dev/net/tun") {
		t.Errorf("no /dev/net/tun: %v\n%s", err, text)
	}
}

func squeeze(text string) string { return strings.Join(strings.Fields(text), " ") }
