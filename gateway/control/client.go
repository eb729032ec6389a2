package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"
)

// DefaultSocket is where the daemon listens unless it is told otherwise.
const DefaultSocket = "/run/coati/coati.sock"

// maxPath is the length of a socket's name in octets, with room for the one it has until its permissions are right.
const maxPath = 103

// maxAnswer bounds what is read of an answer, in octets: a status of a hundred thousand tunnels is smaller.
const maxAnswer = 256 << 20

// Client talks to the daemon at one socket.
type Client struct {
	path string
	http http.Client
}

// NewClient makes a client; nothing is opened before the first call.
func NewClient(path string) *Client {
	c := &Client{path: path}
	dialer := net.Dialer{Timeout: dialTimeout}
	c.http.Transport = &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		},
	}
	return c
}

// Status asks for everything there is to see.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.call(ctx, http.MethodGet, "status", nil, &s)
}

// Version asks what the daemon was built from.
func (c *Client) Version(ctx context.Context) (v Version, err error) {
	return v, c.call(ctx, http.MethodGet, "version", nil, &v)
}

// Up brings a tunnel or child up and waits for it.
func (c *Client) Up(ctx context.Context, t Target) (d Done, err error) {
	return d, c.call(ctx, http.MethodPost, "up", t, &d)
}

// Down takes a tunnel or child down.
func (c *Client) Down(ctx context.Context, t Target) (d Done, err error) {
	return d, c.call(ctx, http.MethodPost, "down", t, &d)
}

// Rekey gives a tunnel or child new keys.
func (c *Client) Rekey(ctx context.Context, t Target) (d Done, err error) {
	return d, c.call(ctx, http.MethodPost, "rekey", t, &d)
}

// Reload makes the daemon read its configuration again.
func (c *Client) Reload(ctx context.Context) (r Reloaded, err error) {
	return r, c.call(ctx, http.MethodPost, "reload", nil, &r)
}

func (c *Client) call(ctx context.Context, method, name string, body, answer any) error {
	var b []byte
	if body != nil {
		var err error
		if b, err = json.Marshal(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://coati/v1/"+name, bytes.NewReader(b))
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return explain(c.path, err)
	}
	defer resp.Body.Close()
	r := io.LimitReader(resp.Body, maxAnswer)
	if resp.StatusCode != http.StatusOK {
		var f Failure
		if err := json.NewDecoder(r).Decode(&f); err != nil || f.Error == "" {
			return fmt.Errorf("the daemon at %s answered %s", c.path, resp.Status)
		}
		return errors.New(f.Error)
	}
	if err := json.NewDecoder(r).Decode(answer); err != nil {
		return fmt.Errorf("the daemon at %s gave an answer that cannot be read: %w", c.path, err)
	}
	return nil
}

// explain says what a person can do about it.
func explain(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no daemon answers at %s: start it with coati run, or name its socket with --control or COATI_SOCKET", path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s may not be opened: run as root, or let your group in with control-group in [gateway]", path)
	case errors.Is(err, syscall.EINVAL) && len(path) > maxPath:
		return fmt.Errorf("%s is too long for the name of a socket: %d octets at the most", path, maxPath)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the daemon at %s does not answer in time", path)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("the daemon at %s ended before it answered", path)
	}
	return fmt.Errorf("the daemon at %s: %w", path, err)
}
