package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Limits on what a client may do to the daemon.
const (
	maxRequest    = 16 << 10         // octets of a request's body
	maxHeader     = 16 << 10         // octets of its header
	readTimeout   = 10 * time.Second // for a whole request
	answerTimeout = 2 * time.Minute  // for a command, which may wait for a peer
	dialTimeout   = 2 * time.Second
	maxOpen       = 64 // connections at a time
)

// ErrInUse: a living daemon answers on the socket.
var ErrInUse = errors.New("in use")

// Server is the daemon's end.
type Server struct {
	path     string
	inode    os.FileInfo
	listener net.Listener
	http     http.Server
	done     chan struct{}
}

// Listen opens the socket, with mode 0600, or 0660 and the group if one is named. The folder is made if it is missing. The
// socket of a daemon that died is replaced.
func Listen(path, group string, h Handler) (*Server, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("folder of the control socket: %w", err)
	}
	if err := mayReplace(path); err != nil {
		return nil, err
	}
	// Under a name of its own until its permissions are right; the rename also replaces a stale socket.
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", explain(path, err))
	}
	l.SetUnlinkOnClose(false)
	if err = permit(fresh, group); err != nil {
		return nil, errors.Join(err, l.Close(), ignoreMissing(os.Remove(fresh)))
	}
	err = os.Rename(fresh, path)
	var inode os.FileInfo
	if err == nil {
		inode, err = os.Lstat(path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("control socket: %w", err), l.Close(), ignoreMissing(os.Remove(fresh)))
	}
	s := &Server{path: path, inode: inode, listener: bounded(l), done: make(chan struct{})}
	s.http = http.Server{
		Handler: routes(h), ReadTimeout: readTimeout, ReadHeaderTimeout: readTimeout, MaxHeaderBytes: maxHeader,
		WriteTimeout: answerTimeout + readTimeout, ConnContext: notePeer,
	}
	s.http.SetKeepAlivesEnabled(false)
	return s, nil
}

// Serve answers until Close.
func (s *Server) Serve() error {
	defer close(s.done)
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

// Close ends Serve and all connections, and removes the socket if it is still ours. Serve must have been called.
func (s *Server) Close() error {
	// Whoever waits for an answer gets it if it is ready; nobody else is waited for.
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.http.Close()
	}
	<-s.done
	if now, serr := os.Lstat(s.path); serr == nil && os.SameFile(now, s.inode) {
		err = errors.Join(err, ignoreMissing(os.Remove(s.path)))
	}
	return err
}

// SetGroup lets another group use the socket; empty: nobody but its owner.
func (s *Server) SetGroup(group string) error { return permit(s.path, group) }

// Abandon undoes Listen where Serve was never called.
func (s *Server) Abandon() error {
	close(s.done)
	return errors.Join(s.listener.Close(), s.Close())
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// mayReplace refuses a socket that somebody answers on, and what is no socket.
func mayReplace(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	if st.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("control socket %s: there is a file of this name that is no socket", path)
	}
	c, err := net.DialTimeout("unix", path, dialTimeout)
	switch {
	case err == nil:
		c.Close()
		return fmt.Errorf("control socket %s is %w by another coati: name another one with --control or control = in [gateway]", path, ErrInUse)
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return fmt.Errorf("control socket %s: cannot tell whether it is in use: %w", path, err)
}

func permit(path, group string) error {
	mode, gid := os.FileMode(0o600), -1
	if group != "" {
		g, err := user.LookupGroup(group)
		if err != nil {
			return fmt.Errorf("control-group %q: no such group", group)
		}
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return fmt.Errorf("control-group %q: %w", group, err)
		}
		mode = 0o660
	}
	if err := errors.Join(os.Chown(path, -1, gid), os.Chmod(path, mode)); err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

// bounded admits maxOpen connections at a time; the others wait in the kernel's queue.
func bounded(l net.Listener) net.Listener {
	return &boundedListener{Listener: l, slots: make(chan struct{}, maxOpen), closed: make(chan struct{})}
}

type boundedListener struct {
	net.Listener
	slots  chan struct{}
	closed chan struct{}
}

func (b *boundedListener) Accept() (net.Conn, error) {
	select {
	case b.slots <- struct{}{}:
	case <-b.closed:
		return nil, net.ErrClosed
	}
	c, err := b.Listener.Accept()
	if err != nil {
		<-b.slots
		return nil, err
	}
	return &boundedConn{Conn: c, free: b.slots}, nil
}

func (b *boundedListener) Close() error {
	select {
	case <-b.closed:
		return nil
	default:
		close(b.closed)
	}
	return b.Listener.Close()
}

type boundedConn struct {
	net.Conn
	free chan struct{}
}

func (c *boundedConn) Close() error {
	err := c.Conn.Close()
	if !errors.Is(err, net.ErrClosed) {
		<-c.free
	}
	return err
}

func routes(h Handler) http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
		defer cancel()
		v, err := h.Status(ctx)
		answer(w, v, err)
	})
	m.HandleFunc("GET /v1/version", func(w http.ResponseWriter, r *http.Request) { answer(w, h.Version(), nil) })
	for name, do := range map[string]func(context.Context, Target) (Done, error){"up": h.Up, "down": h.Down, "rekey": h.Rekey} {
		m.HandleFunc("POST /v1/"+name, func(w http.ResponseWriter, r *http.Request) {
			t, err := readTarget(w, r)
			if err != nil {
				reply(w, http.StatusBadRequest, Failure{"bad request: " + err.Error()})
				return
			}
			ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
			defer cancel()
			v, err := do(ctx, t)
			answer(w, v, err)
		})
	}
	m.HandleFunc("POST /v1/reload", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
		defer cancel()
		v, err := h.Reload(ctx)
		answer(w, v, err)
	})
	m.HandleFunc("POST /v1/script", serveScript(h))
	m.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		reply(w, http.StatusNotFound, Failure{"this daemon does not know that command: is it of another version?"})
	})
	return m
}

func readTarget(w http.ResponseWriter, r *http.Request) (Target, error) {
	var t Target
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	d.DisallowUnknownFields()
	if err := d.Decode(&t); err != nil {
		return t, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return t, errors.New("more than one value")
	}
	if t.Tunnel == "" {
		return t, errors.New("no tunnel is named")
	}
	return t, nil
}

func answer(w http.ResponseWriter, v any, err error) {
	if err != nil {
		reply(w, http.StatusConflict, Failure{err.Error()})
		return
	}
	reply(w, http.StatusOK, v)
}

func reply(w http.ResponseWriter, code int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		code, b = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be written as json"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	// A client that went away does not want the answer.
	_, _ = w.Write(append(b, '\n'))
}
