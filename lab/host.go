package lab

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	prefix  = "clab"           // of every namespace we make, followed by our pid
	netnsAt = "/run/netns/"    // where iproute2 mounts named namespaces
	oneRun  = 60 * time.Second // a program that should end by itself is killed after this
)

// A Host is a network namespace with one veth interface, eth0, and a LAN address of either
// family on its loopback interface.
type Host struct {
	Name                       string // of the namespace
	Outer4, Outer6, LAN4, LAN6 netip.Addr
	LANNet4, LANNet6           netip.Prefix
	dir                        string
	label                      string
	t                          testing.TB
	captures                   int
}

// A Pair is two hosts on one link.
type Pair struct {
	A, B *Host
	dir  string
}

var sequence atomic.Int32

// NeedRoot skips the test, saying so, where namespaces cannot be made.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("the lab makes network namespaces: run as root")
	}
}

// NewPair makes two hosts: A has 10.9.0.1 and fd09::1 outside, 10.1.0.1/24 and fd00:1::1/64
// inside; B the same with 2. The pair is removed when the test ends.
func NewPair(t testing.TB) *Pair {
	t.Helper()
	p, name := newNetwork(t)
	p.A = newHost(t, p.dir, name+"a", "a", 1)
	p.B = newHost(t, p.dir, name+"b", "b", 2)
	link(t, p.A, "eth0", p.B, "eth0")
	ready(t, p.A, p.B)
	return p
}

// newNetwork makes the folder of a network, and the first part of its namespaces' names.
func newNetwork(t testing.TB) (*Pair, string) {
	t.Helper()
	NeedRoot(t)
	n := sequence.Add(1)
	// Short, because unix socket paths below it may have 107 octets.
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-%d-", prefix, os.Getpid(), n))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keepOrRemove(t, dir) })
	return &Pair{dir: dir}, fmt.Sprintf("%s%d-%d", prefix, os.Getpid(), n)
}

// link joins two hosts by a veth pair.
func link(t testing.TB, a *Host, deviceA string, b *Host, deviceB string) {
	t.Helper()
	mustRun(t, "ip", "-n", a.Name, "link", "add", deviceA, "type", "veth", "peer", "name", deviceB, "netns", b.Name)
}

// ready brings hosts up, and waits until they can speak on eth0.
func ready(t testing.TB, hosts ...*Host) {
	t.Helper()
	for _, h := range hosts {
		h.bringUp(t)
	}
	for _, h := range hosts {
		// The kernel makes the link-local address some time after the other end came up.
		WaitFor(t, 10*time.Second, "eth0 to be ready", func() bool {
			text := h.Must(t, "ip", "-6", "addr", "show", "dev", "eth0", "scope", "link")
			return strings.Contains(text, "fe80:") && strings.Contains(text, "state UP") && !strings.Contains(text, "tentative")
		})
	}
}

func newHost(t testing.TB, dir, name, label string, number byte) *Host {
	t.Helper()
	h := &Host{
		Name:    name,
		Outer4:  netip.AddrFrom4([4]byte{10, 9, 0, number}),
		Outer6:  netip.MustParseAddr(fmt.Sprintf("fd09::%d", number)),
		LAN4:    netip.AddrFrom4([4]byte{10, number, 0, 1}),
		LAN6:    netip.MustParseAddr(fmt.Sprintf("fd00:%d::1", number)),
		LANNet4: netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/24", number)),
		LANNet6: netip.MustParsePrefix(fmt.Sprintf("fd00:%d::/64", number)),
		dir:     filepath.Join(dir, label),
		label:   label,
		t:       t,
	}
	if err := os.Mkdir(h.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "ip", "netns", "add", name)
	t.Cleanup(func() { removeNamespace(name) })
	return h
}

func (h *Host) bringUp(t testing.TB) {
	t.Helper()
	h.Sysctl(t, "net.ipv4.ip_forward", "1")
	h.Sysctl(t, "net.ipv6.conf.all.forwarding", "1")
	// Router solicitations would come at random times into captures and snapshots.
	h.Sysctl(t, "net.ipv6.conf.eth0.router_solicitations", "0")
	h.Sysctl(t, "net.ipv6.conf.all.accept_dad", "0")
	h.Sysctl(t, "net.ipv6.conf.eth0.accept_dad", "0")
	mustRun(t, "ip", "-n", h.Name, "link", "set", "lo", "up")
	mustRun(t, "ip", "-n", h.Name, "link", "set", "eth0", "up")
	h.AddAddress(t, "eth0", netip.PrefixFrom(h.Outer4, 24))
	h.AddAddress(t, "eth0", netip.PrefixFrom(h.Outer6, 64))
	h.AddAddress(t, "lo", netip.PrefixFrom(h.LAN4, 24))
	h.AddAddress(t, "lo", netip.PrefixFrom(h.LAN6, 64))
	// A capture must show datagrams as they would be on a wire, not the kernel's 64 KiB runs.
	h.Must(t, "ethtool", "-K", "eth0", "tx-udp-segmentation", "off", "tso", "off", "gso", "off")
}

// AddAddress gives the interface an address, usable at once.
func (h *Host) AddAddress(t testing.TB, device string, address netip.Prefix) {
	t.Helper()
	args := []string{"-n", h.Name, "addr", "add", address.String(), "dev", device}
	if address.Addr().Is6() {
		args = append(args, "nodad")
	} else if device != "lo" {
		args = append(args, "broadcast", "+")
	}
	mustRun(t, "ip", args...)
}

// Sysctl sets a kernel variable of this host.
func (h *Host) Sysctl(t testing.TB, name, value string) {
	t.Helper()
	h.Must(t, "sysctl", "-qw", name+"="+value)
}

// Path names a file in this host's folder.
func (h *Host) Path(name string) string { return filepath.Join(h.dir, name) }

// Write puts a file, readable by us alone, into this host's folder and returns its path.
func (h *Host) Write(t testing.TB, name, text string) string {
	t.Helper()
	path := h.Path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Run runs a program on the host to its end and returns what it wrote to both outputs.
func (h *Host) Run(args ...string) (string, error) {
	return run("ip", append([]string{"netns", "exec", h.Name}, args...)...)
}

// Must is Run for what has to succeed.
func (h *Host) Must(t testing.TB, args ...string) string {
	t.Helper()
	return mustRun(t, "ip", append([]string{"netns", "exec", h.Name}, args...)...)
}

// Inside calls f on a thread that is in the host's namespace. Sockets that f opens stay there.
func (h *Host) Inside(f func() error) error {
	result := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine instead of being used again.
		runtime.LockOSThread()
		fd, err := unix.Open(netnsAt+h.Name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			result <- fmt.Errorf("open namespace %s: %w", h.Name, err)
			return
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("enter namespace %s: %w", h.Name, err)
			return
		}
		result <- f()
	}()
	return <-result
}

func run(program string, args ...string) (string, error) { return runFor(oneRun, program, args...) }

func runFor(limit time.Duration, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", program, strings.Join(args, " "), err, output.String())
	}
	return output.String(), err
}

func mustRun(t testing.TB, program string, args ...string) string {
	t.Helper()
	output, err := run(program, args...)
	if err != nil {
		t.Fatal(err)
	}
	return output
}

// WaitFor polls until the condition holds, and fails the test when it does not in time.
func WaitFor(t testing.TB, limit time.Duration, what string, condition func() bool) {
	t.Helper()
	if !Within(limit, condition) {
		t.Fatalf("not within %v: %s", limit, what)
	}
}

// Within polls until the condition holds; false means it did not in time.
func Within(limit time.Duration, condition func() bool) bool {
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		if time.Now().After(deadline) {
			return false
		}
		<-tick.C
	}
	return true
}

// removeNamespace kills what still runs in a namespace, then removes it; the kernel removes the
// links of both ends with it.
func removeNamespace(name string) {
	pids, _ := run("ip", "netns", "pids", name)
	for _, field := range strings.Fields(pids) {
		if pid, err := strconv.Atoi(field); err == nil && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	_, _ = run("ip", "netns", "del", name)
}

var ours = regexp.MustCompile(`^` + prefix + `(\d+)-`)

// RemoveStale removes the namespaces and folders of test binaries that are dead.
func RemoveStale() {
	namespaces, _ := filepath.Glob(netnsAt + prefix + "*")
	folders, _ := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	for _, path := range append(namespaces, folders...) {
		name := filepath.Base(path)
		match := ours.FindStringSubmatch(name)
		if match == nil {
			continue
		}
		pid, err := strconv.Atoi(match[1])
		if err != nil || syscall.Kill(pid, 0) == nil {
			continue
		}
		if strings.HasPrefix(path, netnsAt) {
			removeNamespace(name)
		} else if _, err := os.Stat(filepath.Join(path, keptMark)); err != nil {
			_ = os.RemoveAll(path)
		}
	}
}

// keptMark in a folder says that its test failed, and that people may want to read it.
const keptMark = "failed"

func keepOrRemove(t testing.TB, dir string) {
	if !t.Failed() {
		_ = os.RemoveAll(dir)
		return
	}
	_ = os.WriteFile(filepath.Join(dir, keptMark), []byte(t.Name()+"\n"), 0o600)
	t.Logf("kept in %s", dir)
	_ = filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".log") {
			t.Logf("--- end of %s\n%s", strings.TrimPrefix(path, dir+"/"), tail(path, 40))
		}
		return nil
	})
}

func tail(path string, lines int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
