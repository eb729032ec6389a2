package eap

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"strings"
	"time"

	"coati/policy"
)

// TLS inside EAP. crypto/tls wants a connection that blocks; here it runs as a coroutine that is resumed with each message of
// the other end and suspended where it would wait for the next. What it does there (the handshake, and what follows in the tunnel)
// is its script. All of it happens within Handle, on whatever goroutine that is.

// session is a TLS connection without network.
type session struct {
	now     time.Time
	conn    *tls.Conn
	in, out bytes.Buffer
	resume  func() (struct{}, bool)
	stop    func()
	closed  bool
	ended   bool  // the script has returned
	err     error // what it returned
	through bool  // the script says that the other end has proved all it must
	key     policy.Secret
}

var errClosed = errors.New("closed")

// newSession begins one. The script runs with the first message, or with none for a client.
func newSession(now time.Time, cfg *tls.Config, client bool, script func(*session) error) *session {
	s := &session{now: now}
	cfg.Time = func() time.Time { return s.now }
	cfg.MinVersion, cfg.SessionTicketsDisabled = tls.VersionTLS12, true
	var yield func(struct{}) bool
	pipe := &wire{s: s, wait: func() bool { return yield(struct{}{}) }}
	if client {
		s.conn = tls.Client(pipe, cfg)
	} else {
		s.conn = tls.Server(pipe, cfg)
	}
	s.resume, s.stop = iter.Pull(func(y func(struct{}) bool) {
		yield = y
		s.err = script(s)
		s.ended = true
	})
	return s
}

// take gives the script a message and returns what it sends in answer. An error of the script may have an alert beside it.
func (s *session) take(message []byte) ([]byte, error) {
	s.in.Write(message)
	if !s.ended {
		s.resume()
	}
	out := bytes.Clone(s.out.Bytes())
	s.out.Reset()
	return out, s.err
}

func (s *session) close() {
	s.stop()
	s.key.Wipe()
}

// export makes the key of EAP: by one label before TLS 1.3, by another since.
func (s *session) export(old, label string, t Type) error {
	state := s.conn.ConnectionState()
	var context []byte
	if state.Version >= tls.VersionTLS13 {
		old, context = label, []byte{byte(t)}
	}
	b, err := state.ExportKeyingMaterial(old, context, 128)
	if err != nil {
		return fmt.Errorf("TLS makes no key: %w", err)
	}
	defer clear(b[64:])
	s.key = policy.NewSecret(b[:64:64])
	return nil
}

// wire is the session's connection: two buffers.
type wire struct {
	s    *session
	wait func() bool
}

func (w *wire) Read(b []byte) (int, error) {
	for w.s.in.Len() == 0 {
		if w.s.closed || !w.wait() {
			w.s.closed = true
			return 0, errClosed
		}
	}
	return w.s.in.Read(b)
}

func (w *wire) Write(b []byte) (int, error)    { return w.s.out.Write(b) }
func (*wire) Close() error                     { return nil }
func (*wire) LocalAddr() net.Addr              { return nil }
func (*wire) RemoteAddr() net.Addr             { return nil }
func (*wire) SetDeadline(time.Time) error      { return nil }
func (*wire) SetReadDeadline(time.Time) error  { return nil }
func (*wire) SetWriteDeadline(time.Time) error { return nil }

// Fragments, RFC 5216, section 3.1, the same in EAP-TTLS (RFC 5281, section 9.1): flags, the length of the whole with the first,
// a part. An empty packet asks for the next part.

const (
	flagLength = 0x80
	flagMore   = 0x40
	flagStart  = 0x20

	maxFragment = 1024     // octets of TLS in a packet of ours
	maxMessage  = 48 << 10 // octets of a message of the other end: what MaxRounds of common fragments carry
)

// fragments cuts messages and puts them together.
type fragments struct {
	in, out []byte
	total   int  // of the message that comes; 0: not said
	coming  bool // parts of a message are here, and more will follow
	sent    int  // of out
}

// take adds a part. whole: the message is there, maybe empty; else an empty packet asks for more.
func (f *fragments) take(data []byte) (message []byte, whole bool, err error) {
	if len(data) < 1 {
		return nil, false, errMalformed
	}
	flags, part := data[0], data[1:]
	if flags&flagLength != 0 {
		if len(part) < 4 {
			return nil, false, errMalformed
		}
		n := int(part[0])<<24 | int(part[1])<<16 | int(part[2])<<8 | int(part[3])
		if n > maxMessage || f.coming && n != f.total {
			return nil, false, fmt.Errorf("a TLS message of %d octets, or of two lengths", n)
		}
		f.total, part = n, part[4:]
	}
	more := flags&flagMore != 0
	f.in = append(f.in, part...)
	switch {
	case len(f.in) > maxMessage || f.total != 0 && len(f.in) > f.total:
		return nil, false, errors.New("the fragments of a TLS message are longer than it")
	case more && len(part) == 0:
		return nil, false, errors.New("an empty fragment of a TLS message")
	case more:
		f.coming = true
		return nil, false, nil
	case f.total != 0 && len(f.in) != f.total:
		return nil, false, errors.New("the fragments of a TLS message are shorter than it")
	}
	message = f.in
	f.in, f.total, f.coming = nil, 0, false
	return message, true, nil
}

// send begins to send a message.
func (f *fragments) send(message []byte) { f.out, f.sent = message, 0 }

// pending says whether parts are left to send.
func (f *fragments) pending() bool { return f.sent < len(f.out) }

// next is the next part, or an empty packet.
func (f *fragments) next() []byte {
	n := min(len(f.out)-f.sent, maxFragment)
	var out []byte
	switch flags := byte(0); {
	case n <= 0:
		return []byte{0}
	default:
		if f.sent+n < len(f.out) {
			flags |= flagMore
		}
		if f.sent == 0 && flags&flagMore != 0 {
			flags |= flagLength
		}
		out = []byte{flags}
		if flags&flagLength != 0 {
			l := len(f.out)
			out = append(out, byte(l>>24), byte(l>>16), byte(l>>8), byte(l))
		}
	}
	out = append(out, f.out[f.sent:f.sent+n]...)
	f.sent += n
	return out
}

// tlsClient is EAP-TLS or EAP-TTLS.
type tlsClient struct {
	*session
	fragments
	started bool
}

func (c *tlsClient) slow() bool       { return true }
func (c *tlsClient) at(now time.Time) { c.now = now }

func (c *tlsClient) done() (policy.Secret, bool) { return c.key, c.through }

func (c *tlsClient) respond(_ uint8, data []byte) ([]byte, error) {
	if len(data) < 1 {
		return nil, errMalformed
	}
	if start := data[0]&flagStart != 0; start == c.started {
		return nil, errMalformed
	} else if start {
		c.started = true
		return c.feed(nil)
	}
	if c.pending() {
		if len(data) != 1 {
			return nil, errors.New("the server sends before it has all of our TLS message")
		}
		return c.next(), nil
	}
	message, whole, err := c.take(data)
	if err != nil || !whole {
		return []byte{0}, err
	}
	return c.feed(message)
}

func (c *tlsClient) take(data []byte) ([]byte, bool, error) { return c.fragments.take(data) }

func (c *tlsClient) feed(message []byte) ([]byte, error) {
	out, err := c.session.take(message)
	if err != nil {
		return nil, tlsWords(err, "the server")
	}
	c.send(out)
	return c.next(), nil
}

// tlsServer is the other end.
type tlsServer struct {
	*session
	fragments
	user   string // whom the client proved to be
	failed error  // said to the client by an alert, which it has to answer
}

func (s *tlsServer) slow() bool         { return true }
func (s *tlsServer) at(now time.Time)   { s.now = now }
func (s *tlsServer) begin(uint8) []byte { return []byte{flagStart} }
func (s *tlsServer) msk() policy.Secret { return s.key }
func (s *tlsServer) innerUser() string  { return s.user }
func (s *tlsServer) refused() error     { return s.failed }

func (s *tlsServer) receive(_ uint8, data []byte) ([]byte, error) {
	if s.pending() {
		if len(data) != 1 || data[0] != 0 {
			return nil, errors.New("the client sends before it has all of our TLS message")
		}
		return s.next(), nil
	}
	if s.failed != nil {
		return nil, s.failed
	}
	message, whole, err := s.fragments.take(data)
	if err != nil {
		return nil, err
	}
	if !whole {
		return []byte{0}, nil
	}
	if len(message) == 0 && s.through {
		return nil, nil
	}
	out, err := s.session.take(message)
	switch {
	case err != nil && len(out) > 0:
		s.failed = tlsWords(err, "the client")
	case err != nil:
		return nil, tlsWords(err, "the client")
	case len(out) == 0 && s.through:
		return nil, nil
	case len(out) == 0 && len(message) == 0:
		return nil, errors.New("the client has nothing to say")
	}
	s.send(out)
	return s.next(), nil
}

// tlsWords says what is wrong with TLS, for people: of the certificate of the other end first.
func tlsWords(err error, who string) error {
	if c, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		name := "it"
		if c.Cert != nil {
			name = c.Cert.Subject.String()
		}
		return fmt.Errorf("the certificate of %s in TLS, %s, is from an unknown authority: see eap-ca-file", who, name)
	}
	if c, ok := errors.AsType[x509.HostnameError](err); ok {
		return fmt.Errorf("the certificate of %s in TLS is for %s, not for %s: see eap-server-id", who, strings.Join(c.Certificate.DNSNames, ", "), c.Host)
	}
	if c, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		return fmt.Errorf("the certificate of %s in TLS is not valid: %w", who, c)
	}
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%s closes TLS", who)
	}
	return fmt.Errorf("TLS with %s fails: %w", who, err)
}
