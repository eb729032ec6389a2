package xfrm

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	ackPatience = 5 * time.Second
	// answerSize is the room for one datagram from the kernel, octets.
	answerSize = 1 << 17
)

// conn is a socket for requests: one at a time. It belongs to the network namespace of the thread that opened it.
type conn struct {
	mu       sync.Mutex
	fd       int
	closed   bool
	sequence uint32
	answer   []byte
}

func dial() (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_XFRM)
	if err != nil {
		return nil, err
	}
	c := &conn{fd: fd, answer: make([]byte, answerSize)}
	patience := unix.NsecToTimeval(int64(ackPatience))
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
	// Without these errors have no words, and answers do not repeat the request, with its keys; both are luxuries.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return c, nil
}

func (c *conn) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closed = true
		unix.Close(c.fd)
	}
}

// refusal is the kernel's answer to a request.
type refusal struct {
	errno unix.Errno
	text  string
}

func (r *refusal) Error() string {
	if r.text == "" {
		return r.errno.Error()
	}
	return fmt.Sprintf("%s (%s)", r.errno.Error(), r.text)
}

func (r *refusal) Unwrap() error { return r.errno }

// do sends a request and waits for its end. each gets the messages of the answer, and must not keep them. The request and
// the answer are wiped.
func (c *conn) do(m *message, each func(kind uint16, body []byte)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer m.wipe()
	if c.closed {
		return errClosed
	}
	c.sequence++
	if err := unix.Sendto(c.fd, m.seal(c.sequence), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for {
		n, _, err := unix.Recvfrom(c.fd, c.answer, unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return errors.New("the kernel does not answer")
		case err != nil:
			return err
		case n > len(c.answer):
			return errMessage
		}
		done, err := c.read(c.answer[:n], each)
		clear(c.answer[:n])
		if done || err != nil {
			return err
		}
	}
}

// read goes through one datagram; true at the answer's end.
func (c *conn) read(b []byte, each func(uint16, []byte)) (done bool, err error) {
	broken := messages(b, func(kind, flags uint16, sequence uint32, body []byte) bool {
		if sequence != c.sequence {
			return false // the rest of an answer nobody waited for
		}
		switch kind {
		case unix.NLMSG_ERROR:
			done, err = true, refused(flags, body)
			return true
		case unix.NLMSG_DONE:
			done = true
			return true
		}
		if each != nil {
			each(kind, body)
		}
		return false
	})
	if broken != nil {
		return true, broken
	}
	return done, err
}

// refused reads nlmsgerr; nil is an acknowledgement.
func refused(flags uint16, body []byte) error {
	if len(body) < 4+sizeMessage {
		return errMessage
	}
	errno := int32(native.Uint32(body))
	if errno == 0 {
		return nil
	}
	r := &refusal{errno: unix.Errno(-errno)}
	rest := body[4+sizeMessage:]
	if flags&unix.NLM_F_CAPPED == 0 {
		rest = rest[min(len(rest), max(0, int(native.Uint32(body[4:]))-sizeMessage)):]
	}
	if flags&unix.NLM_F_ACK_TLVS != 0 {
		_ = attributes(rest, func(kind uint16, v []byte) {
			if kind == unix.NLMSGERR_ATTR_MSG && len(v) > 1 {
				r.text = string(v[:len(v)-1])
			}
		})
	}
	return r
}

const (
	flagsRequest = unix.NLM_F_REQUEST | unix.NLM_F_ACK
	flagsCreate  = flagsRequest | unix.NLM_F_CREATE | unix.NLM_F_EXCL
	flagsDump    = unix.NLM_F_REQUEST | unix.NLM_F_DUMP
)

// get asks for one state.
func (c *conn) get(id stateID) (readState, error) {
	m, b := newMessage(msgGetSA, flagsRequest, sizeStateID)
	id.put(b)
	var s readState
	err := errors.New("the kernel shows no state")
	answered := c.do(m, func(kind uint16, body []byte) {
		if kind == msgNewSA {
			s, err = parseState(body)
		}
	})
	return s, errors.Join(answered, err)
}

// remove deletes one state; one that is gone already is no error.
func (c *conn) remove(id stateID) error {
	m, b := newMessage(msgDelSA, flagsRequest, sizeStateID)
	id.put(b)
	if err := c.do(m, nil); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// states lists what match wants of all states.
func (c *conn) states(match func(*readState) bool) ([]stateID, error) {
	m, _ := newMessage(msgGetSA, flagsDump, 0)
	var out []stateID
	var bad error
	err := c.do(m, func(kind uint16, body []byte) {
		if kind != msgNewSA {
			return
		}
		s, err := parseState(body)
		if err != nil {
			bad = err
		} else if match(&s) {
			out = append(out, s.id)
		}
	})
	return out, errors.Join(err, bad)
}

// policies lists what match wants of all policies.
func (c *conn) policies(match func(*readPolicy) bool) ([]slot, error) {
	m, _ := newMessage(msgGetPolicy, flagsDump, 0)
	var out []slot
	var bad error
	err := c.do(m, func(kind uint16, body []byte) {
		if kind != msgNewPolicy {
			return
		}
		p, err := parsePolicy(body)
		if err != nil {
			bad = err
		} else if match(&p) {
			out = append(out, slot{p.dir, p.selector})
		}
	})
	return out, errors.Join(err, bad)
}

// policy asks for one policy.
func (c *conn) policy(k slot) (readPolicy, error) {
	m, b := newMessage(msgGetPolicy, flagsRequest, sizePolicyID)
	k.selector.put(b)
	b[60] = k.dir
	var p readPolicy
	err := errors.New("the kernel shows no policy")
	answered := c.do(m, func(kind uint16, body []byte) {
		if kind == msgNewPolicy {
			p, err = parsePolicy(body)
		}
	})
	return p, errors.Join(answered, err)
}

// removePolicy deletes one policy; one that is gone already is no error.
func (c *conn) removePolicy(k slot) error {
	if err := c.do(deletePolicyMessage(k, flagsRequest), nil); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}
