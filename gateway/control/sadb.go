package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
)

// What setkey asks. A script is performed as a whole or not at all; what it asks to see comes back as setkey prints it.
// Whoever may open the socket may change associations and policies. Keys are shown to root alone: the kernel says who is at
// the other end (SO_PEERCRED).

// maxScript bounds a script's request, octets: 16 MiB of script, quoted.
const maxScript = 40 << 20

// Script is a script in setkey's language.
type Script struct {
	File  string `json:"file"` // for messages
	Text  string `json:"text"`
	All   bool   `json:"all,omitempty"`   // show associations that have ended too
	Ports bool   `json:"ports,omitempty"` // show ports
	// Root says that the keys may be shown. It is never on the wire: the server knows.
	Root bool `json:"-"`
}

// ScriptDone is what a script printed, or the faults that kept it from doing anything.
type ScriptDone struct {
	Output string   `json:"output,omitempty"`
	Faults []string `json:"faults,omitempty"` // file:line: directive: message
}

// Script performs a script.
func (c *Client) Script(ctx context.Context, s Script) (d ScriptDone, err error) {
	return d, c.call(ctx, http.MethodPost, "script", s, &d)
}

// peerKey finds in a request's context whether root asks.
type peerKey struct{}

// notePeer remembers who opened a connection.
func notePeer(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, peerKey{}, isRoot(c))
}

// isRoot asks the kernel for the user at the other end; in doubt it is nobody.
func isRoot(c net.Conn) bool {
	if b, ok := c.(*boundedConn); ok {
		c = b.Conn
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return false
	}
	root := false
	err = raw.Control(func(fd uintptr) {
		cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
		root = err == nil && cred.Uid == 0
	})
	return err == nil && root
}

func serveScript(h Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var s Script
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxScript))
		d.DisallowUnknownFields()
		err := d.Decode(&s)
		if err == nil {
			if _, more := d.Token(); !errors.Is(more, io.EOF) {
				err = errors.New("more than one value")
			}
		}
		if err != nil {
			reply(w, http.StatusBadRequest, Failure{"bad request: it cannot be read as a script"})
			return
		}
		s.Root, _ = r.Context().Value(peerKey{}).(bool)
		ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
		defer cancel()
		v, err := h.Script(ctx, s)
		answer(w, v, err)
	}
}
