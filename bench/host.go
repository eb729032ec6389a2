package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	prefix  = "cbn"         // of every namespace and folder we make, followed by our pid
	netnsAt = "/run/netns/" // where iproute2 mounts named namespaces
	// endLimit is how long a process may take to end before it is killed.
	endLimit = 5 * time.Second
)

// A host is a network namespace with one veth interface, eth0, and a LAN address on its loopback interface.
type host struct {
	name       string
	outer, lan netip.Addr
	lanNet     netip.Prefix
	dir        string
	ground     *ground
}

// A ground is what a run has made of the machine, to be removed in reverse order.
type ground struct {
	dir   string
	pairs int
	mu    sync.Mutex
	undo  []func()
}

// newGround removes what runs that were killed have left, and makes a folder.
func newGround() (*ground, error) {
	removeStale()
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", prefix, os.Getpid()))
	if err != nil {
		return nil, err
	}
	g := &ground{dir: dir}
	g.later(func() { _ = os.RemoveAll(dir) })
	return g, nil
}

func (g *ground) later(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.undo = append(g.undo, f)
}

// close removes everything.
func (g *ground) close() {
	g.mu.Lock()
	undo := g.undo
	g.undo = nil
	g.mu.Unlock()
	for i := len(undo) - 1; i >= 0; i-- {
		undo[i]()
	}
}

// newPair makes two hosts on one link: 10.9.0.1 and 10.9.0.2 outside, 10.1.0.1 and 10.2.0.1 inside. Offloads of the link
// stay as the kernel made them.
func (g *ground) newPair(label string) (a, b *host, err error) {
	g.pairs++
	for i, h := range []**host{&a, &b} {
		n := byte(i + 1)
		*h = &host{
			name:  fmt.Sprintf("%s%d-%d%c", prefix, os.Getpid(), g.pairs, 'a'+i),
			outer: netip.AddrFrom4([4]byte{10, 9, 0, n}), lan: netip.AddrFrom4([4]byte{10, n, 0, 1}),
			lanNet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, n, 0, 0}), 24),
			dir:    filepath.Join(g.dir, fmt.Sprintf("%s-%c", label, 'a'+i)), ground: g,
		}
		if err := os.Mkdir((*h).dir, 0o700); err != nil {
			return nil, nil, err
		}
		if _, err := run("ip", "netns", "add", (*h).name); err != nil {
			return nil, nil, fmt.Errorf("cannot make a network namespace: %w", err)
		}
		g.later(func() { removeNamespace((*h).name) })
	}
	if _, err := run("ip", "-n", a.name, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", b.name); err != nil {
		return nil, nil, err
	}
	return a, b, errors.Join(a.bringUp(), b.bringUp())
}

func (h *host) bringUp() error {
	return h.each(
		"sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv4.ip_forward=1",
		"ip link set lo up",
		"ip link set eth0 up",
		fmt.Sprintf("ip addr add %s/24 dev eth0", h.outer),
		fmt.Sprintf("ip addr add %s/24 dev lo", h.lan),
	)
}

// each runs commands on the host until one fails.
func (h *host) each(commands ...string) error {
	for _, c := range commands {
		if _, err := h.run(strings.Fields(c)...); err != nil {
			return err
		}
	}
	return nil
}

// run runs a program on the host to its end and returns what it wrote.
func (h *host) run(args ...string) (string, error) {
	return run("ip", append([]string{"netns", "exec", h.name}, args...)...)
}

func run(program string, args ...string) (string, error) {
	return runUntil(context.Background(), program, args...)
}

// runUntil kills the program when ctx ends, and after a minute.
func runUntil(ctx context.Context, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	// A person's Ctrl-C is for us alone; we end the others.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return output.String(), fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, lastLines(output.String(), 3))
	}
	return output.String(), nil
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], " / ")
}

// inside calls f on a thread that is in the host's namespace. Sockets that f opens stay there.
func (h *host) inside(f func() error) error {
	result := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine instead of being used again.
		runtime.LockOSThread()
		fd, err := unix.Open(netnsAt+h.name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			result <- fmt.Errorf("open namespace %s: %w", h.name, err)
			return
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("enter namespace %s: %w", h.name, err)
			return
		}
		result <- f()
	}()
	return <-result
}

// A process runs on a host until the ground is closed.
type process struct {
	pid  int
	log  string
	cmd  *exec.Cmd
	done chan struct{}
}

// The parent-death signal means the death of the thread that forked, and inside ends threads. So one thread, which never
// ends, starts all processes.
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

// start starts a program on the host; what it writes goes to a file named after label.
func (h *host) start(label string, env []string, stdin string, args ...string) (*process, error) {
	p := &process{log: filepath.Join(h.dir, label+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd = exec.Command("ip", append([]string{"netns", "exec", h.name}, args...)...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if stdin != "" {
		p.cmd.Stdin = strings.NewReader(stdin)
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	result := make(chan error)
	spawner() <- func() { result <- p.cmd.Start() }
	if err := <-result; err != nil {
		return nil, err
	}
	// `ip netns exec` becomes the program, so this is the program's own pid.
	p.pid = p.cmd.Process.Pid
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	h.ground.later(p.end)
	return p, nil
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (p *process) end() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(endLimit):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

func (p *process) text() string {
	text, _ := os.ReadFile(p.log)
	return string(text)
}

// await polls until the condition holds. It fails when ctx or the process ends, or after the limit.
func (p *process) await(ctx context.Context, limit time.Duration, what string, condition func() bool) error {
	deadline := time.Now().Add(limit)
	for !condition() {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case !p.running():
			return fmt.Errorf("%s: it has ended: %s", what, lastLines(p.text(), 3))
		case time.Now().After(deadline):
			return fmt.Errorf("%s: not within %v: %s", what, limit, lastLines(p.text(), 3))
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}

func removeNamespace(name string) {
	pids, _ := run("ip", "netns", "pids", name)
	for field := range strings.FieldsSeq(pids) {
		if pid, err := strconv.Atoi(field); err == nil && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	_, _ = run("ip", "netns", "del", name)
}

var ours = regexp.MustCompile(`^` + prefix + `(\d+)-`)

// removeStale removes namespaces and folders of runs that are dead.
func removeStale() {
	namespaces, _ := filepath.Glob(netnsAt + prefix + "*")
	folders, _ := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	for _, path := range append(namespaces, folders...) {
		pid, ok := owner(filepath.Base(path))
		if !ok || syscall.Kill(pid, 0) == nil {
			continue
		}
		if strings.HasPrefix(path, netnsAt) {
			removeNamespace(filepath.Base(path))
		} else {
			_ = os.RemoveAll(path)
		}
	}
}

// owner is the process that made the namespace or folder of this name.
func owner(name string) (pid int, ok bool) {
	match := ours.FindStringSubmatch(name)
	if match == nil {
		return 0, false
	}
	pid, err := strconv.Atoi(match[1])
	return pid, err == nil
}
