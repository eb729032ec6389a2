package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// daemon answers with what it was asked.
type daemon struct{ block chan struct{} }

var moment = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func (d daemon) Status(context.Context) (Status, error) {
	return Status{
		Version: d.Version(),
		Gateway: Gateway{PID: 7, Started: moment, TUN: "coati0", Queues: 2, Drops: map[string]uint64{"no policy": 3}},
		Tunnels: []Tunnel{{
			Name: "b", State: StateUp, IKE: []IKE{{State: "established", LocalSPI: "00", Established: &moment}},
			Children: []Child{{Name: "lan", State: StateUp, LocalTS: []string{"10.1.0.0/16"}, SAs: []Pair{{In: SA{SPI: "0x1", Packets: 1 << 40}, Established: moment}}}},
		}},
	}, nil
}

func (d daemon) Up(ctx context.Context, t Target) (Done, error) {
	if d.block != nil {
		select {
		case <-d.block:
		case <-ctx.Done():
			return Done{}, ctx.Err()
		}
	}
	return Done{Text: "up " + t.Tunnel + " " + t.Child}, nil
}

func (d daemon) Down(_ context.Context, t Target) (Done, error) {
	return Done{}, fmt.Errorf("no such tunnel: %q is not configured", t.Tunnel)
}
func (d daemon) Rekey(_ context.Context, t Target) (Done, error) { return Done{Text: "rekey"}, nil }
func (d daemon) Reload(context.Context) (Reloaded, error) {
	return Reloaded{Faults: []string{"a.toml:3: unknown key"}, Failed: true}, nil
}

func (d daemon) Script(_ context.Context, r Script) (ScriptDone, error) {
	if r.Text == "" {
		return ScriptDone{Faults: []string{r.File + ":1: nothing"}}, nil
	}
	return ScriptDone{Output: fmt.Sprintf("%s %d octets, root %t, all %t", r.File, len(r.Text), r.Root, r.All)}, nil
}

func (d daemon) Version() Version { return Version{Version: "v1", Go: "go1"} }

// serve runs a server until the test ends.
func serve(t *testing.T, path string, h Handler) *Server {
	t.Helper()
	s, err := Listen(path, "", h)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestEveryCallGoesThereAndBack(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "run", "c.sock")
	serve(t, path, daemon{})
	c := NewClient(path)
	ctx := t.Context()
	want, _ := daemon{}.Status(ctx)
	got, err := c.Status(ctx)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if d, err := c.Up(ctx, Target{Tunnel: "b", Child: "lan"}); err != nil || d.Text != "up b lan" {
		t.Errorf("up: %v, %v", d, err)
	}
	if _, err := c.Down(ctx, Target{Tunnel: "x"}); err == nil || err.Error() != `no such tunnel: "x" is not configured` {
		t.Errorf("the daemon's error arrives as %v", err)
	}
	if d, err := c.Rekey(ctx, Target{Tunnel: "b"}); err != nil || d.Text != "rekey" {
		t.Errorf("rekey: %v, %v", d, err)
	}
	if r, err := c.Reload(ctx); err != nil || !r.Failed || len(r.Faults) != 1 {
		t.Errorf("reload: %v, %v", r, err)
	}
	if v, err := c.Version(ctx); err != nil || v != (daemon{}).Version() {
		t.Errorf("version: %v, %v", v, err)
	}
}

func TestOnlyTheOwnerMayUseTheSocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "run", "c.sock")
	s := serve(t, path, daemon{})
	mode := func(p string) os.FileMode {
		st, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		return st.Mode().Perm()
	}
	if m := mode(path); m != 0o600 {
		t.Errorf("socket %v", m)
	}
	if m := mode(filepath.Dir(path)); m&0o007 != 0 {
		t.Errorf("folder %v", m)
	}
	if os.Geteuid() == 0 {
		if err := s.SetGroup("root"); err != nil || mode(path) != 0o660 {
			t.Errorf("with a group: %v, %v", mode(path), err)
		}
	}
	if err := s.SetGroup("no-such-group-here"); err == nil || !strings.Contains(err.Error(), "no such group") {
		t.Errorf("unknown group: %v", err)
	}
}

func TestStaleSocketIsReplacedAndLivingOneRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false) // as after SIGKILL
	l.Close()
	serve(t, stale, daemon{})
	if _, err := NewClient(stale).Version(t.Context()); err != nil {
		t.Errorf("a stale socket is in the way: %v", err)
	}
	if _, err := Listen(stale, "", daemon{}); !errors.Is(err, ErrInUse) {
		t.Errorf("a living daemon's socket: %v", err)
	}
	if _, err := NewClient(stale).Version(t.Context()); err != nil {
		t.Errorf("the refused one broke it: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file, "", daemon{}); err == nil {
		t.Error("a file was replaced")
	}
}

func TestNothingIsLeftAfterClose(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "c.sock")
	s, err := Listen(path, "", daemon{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Abandon(); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(path + "*"); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

// A client that hangs must not keep the daemon from ending.
func TestCloseDoesNotWaitForClients(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "c.sock")
	d := daemon{block: make(chan struct{})}
	s, err := Listen(path, "", d)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	asked := make(chan error, 1)
	go func() {
		_, err := NewClient(path).Up(t.Context(), Target{Tunnel: "b"})
		asked <- err
	}()
	silent, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if err := <-asked; err == nil {
		t.Error("a command that was cut off succeeded")
	}
}

func TestBadRequestsAreRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "c.sock")
	serve(t, path, daemon{})
	c := NewClient(path)
	for _, q := range []struct {
		name, method, path, body string
		code                     int
	}{
		{"no json", "POST", "/v1/up", "up!", http.StatusBadRequest},
		{"unknown field", "POST", "/v1/up", `{"tunnel":"b","force":true}`, http.StatusBadRequest},
		{"no tunnel", "POST", "/v1/up", `{}`, http.StatusBadRequest},
		{"two values", "POST", "/v1/up", `{"tunnel":"b"}{"tunnel":"c"}`, http.StatusBadRequest},
		{"too large", "POST", "/v1/up", `{"tunnel":"` + strings.Repeat("b", maxRequest) + `"}`, http.StatusBadRequest},
		{"unknown command", "POST", "/v1/explode", `{}`, http.StatusNotFound},
		{"wrong method", "GET", "/v1/up", ``, http.StatusNotFound},
	} {
		req, err := http.NewRequestWithContext(t.Context(), q.method, "http://coati"+q.path, strings.NewReader(q.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.http.Do(req)
		if err != nil {
			t.Errorf("%s: %v", q.name, err)
			continue
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != q.code || !strings.Contains(string(b), `"error"`) {
			t.Errorf("%s: %s %s", q.name, resp.Status, b)
		}
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, c := range []struct{ path, want string }{
		{filepath.Join(dir, "none.sock"), "start it with coati run"},
		{filepath.Join(dir, strings.Repeat("x", 120)), "too long"},
	} {
		if _, err := NewClient(c.path).Status(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.path, err)
		}
	}
}

// Only the kernel says who is root: nothing in the request does.
func TestScriptsKnowWhoAsks(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "c.sock")
	serve(t, path, daemon{})
	c := NewClient(path)
	got, err := c.Script(t.Context(), Script{File: "f", Text: "dump;", All: true, Root: os.Geteuid() != 0})
	if want := fmt.Sprintf("f 5 octets, root %t, all true", os.Geteuid() == 0); err != nil || got.Output != want {
		t.Errorf("got %v %v, want %s", got, err, want)
	}
	if got, err := c.Script(t.Context(), Script{File: "f"}); err != nil || len(got.Faults) != 1 {
		t.Errorf("got %v %v", got, err)
	}
	if _, err := c.Script(t.Context(), Script{Text: strings.Repeat("#", maxScript)}); err == nil {
		t.Error("a script of any size is taken")
	}
	if err := c.call(t.Context(), http.MethodPost, "script", map[string]any{"file": "f", "text": "dump;", "Root": true}, &got); err == nil {
		t.Error("the request may say who asks")
	}
	// A connection that is none of a unix socket is nobody's.
	end, other := net.Pipe()
	defer end.Close()
	defer other.Close()
	if isRoot(end) {
		t.Error("a pipe is root")
	}
}
