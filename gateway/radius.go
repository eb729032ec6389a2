package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"coati/ike"
	"coati/ike/eap/radius"
)

// The client of RADIUS servers (RFC 2865, section 2.4): one request, repeated a few times, then the next server. What anybody
// else sends meanwhile is dropped and the genuine answer waited for.

const (
	radiusFirst   = time.Second // to the first repetition; each later one waits as long again
	radiusTries   = 3           // requests to one server: 1 + 2 + 3 s
	radiusAvoided = time.Minute // a silent server is asked last for so long
	maxRADIUS     = 64          // questions worked on at a time
)

// radiusClient asks RADIUS servers.
type radiusClient struct {
	dial  func(context.Context, netip.AddrPort) (net.Conn, error)
	slots chan struct{}

	mu     sync.Mutex // guards what follows
	silent map[netip.AddrPort]time.Time
}

func newRADIUSClient() *radiusClient {
	return &radiusClient{
		dial: func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "udp", to.String())
		},
		slots: make(chan struct{}, maxRADIUS), silent: map[netip.AddrPort]time.Time{},
	}
}

// answer asks the servers in order. With State only the one that sent it knows what it is about.
func (c *radiusClient) answer(ctx context.Context, q ike.AskRADIUS) (ike.RADIUSAnswer, error) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	default:
		return ike.RADIUSAnswer{}, fmt.Errorf("%d questions wait for RADIUS servers already", maxRADIUS)
	}
	var err error
	for _, i := range c.order(q) {
		var answer ike.RADIUSAnswer
		if answer, err = c.one(ctx, q, i); err == nil {
			return answer, nil
		}
		if ctx.Err() != nil {
			return ike.RADIUSAnswer{}, ctx.Err()
		}
		c.note(q.Servers[i], true)
	}
	return ike.RADIUSAnswer{}, err
}

// order is which servers are asked: those that were silent lately last.
func (c *radiusClient) order(q ike.AskRADIUS) []int {
	if q.State != nil {
		return []int{q.Server}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var good, bad []int
	for i, s := range q.Servers {
		if since, ok := c.silent[s]; ok && time.Since(since) < radiusAvoided {
			bad = append(bad, i)
		} else {
			good = append(good, i)
		}
	}
	return append(good, bad...)
}

func (c *radiusClient) note(s netip.AddrPort, silent bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if silent {
		c.silent[s] = time.Now()
	} else {
		delete(c.silent, s)
	}
}

// one asks one server.
func (c *radiusClient) one(ctx context.Context, q ike.AskRADIUS, i int) (ike.RADIUSAnswer, error) {
	server := q.Servers[i]
	conn, err := c.dial(ctx, server)
	if err != nil {
		return ike.RADIUSAnswer{}, fmt.Errorf("the RADIUS server %s cannot be reached: %w", server, plainNet(err))
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	var random [17]byte
	if _, err := rand.Read(random[:]); err != nil {
		return ike.RADIUSAnswer{}, err
	}
	id, a := random[16], radius.Authenticator(random[:16])
	request, err := radius.Request{
		User: q.User, EAP: q.EAP, State: q.State, CallingStation: q.Peer.Addr().String(), NASIdentifier: q.NAS, NASAddress: q.Local,
	}.Append(id, a, q.Secret)
	if err != nil {
		return ike.RADIUSAnswer{}, err
	}
	var lied error // what came instead of an answer
	for try := 1; try <= radiusTries; try++ {
		deadline := time.Now().Add(time.Duration(try) * radiusFirst)
		if err := conn.SetDeadline(deadline); err != nil {
			return ike.RADIUSAnswer{}, err
		}
		if _, err := conn.Write(request); err != nil {
			lied = fmt.Errorf("cannot be reached: %w", plainNet(err))
			continue
		}
		r, err := receive(conn, id, a, q, &lied)
		if err == nil {
			c.note(server, false)
			return ike.RADIUSAnswer{Server: i, Code: ike.RADIUSCode(r.Code), EAP: r.EAP, State: r.State, MSK: r.MSK}, nil
		}
		if !errors.Is(err, errSilent) {
			lied = fmt.Errorf("cannot be reached: %w", plainNet(err))
			break
		}
	}
	if lied != nil {
		return ike.RADIUSAnswer{}, fmt.Errorf("the RADIUS server %s gives no answer that can be believed: %w", server, lied)
	}
	return ike.RADIUSAnswer{}, fmt.Errorf("the RADIUS server %s does not answer: asked %d times; does it know us as a client", server, radiusTries)
}

var errSilent = errors.New("no answer in time")

// receive waits for the answer until the deadline; what else comes is noted.
func receive(conn net.Conn, id uint8, a radius.Authenticator, q ike.AskRADIUS, lied *error) (radius.Response, error) {
	b := make([]byte, 4097)
	for {
		n, err := conn.Read(b)
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			return radius.Response{}, errSilent
		}
		if err != nil {
			return radius.Response{}, err
		}
		r, err := radius.ParseResponse(b[:n], id, a, q.Secret)
		if err == nil {
			return r, nil
		}
		*lied = err
	}
}

// plainNet leaves out what the reader knows: who was asked.
func plainNet(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}
