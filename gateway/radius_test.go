package gateway

import (
	"context"
	"crypto/hmac"
	"crypto/md5"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"coati/ike"
	"coati/policy"
)

var (
	radiusOne, radiusTwo = netip.MustParseAddrPort("192.0.2.9:1812"), netip.MustParseAddrPort("192.0.2.10:1812")
	radiusSecret         = policy.NewSecret([]byte("between us"))
)

// radiusPacket is a server's answer to a request, of attributes behind a Message-Authenticator.
func radiusPacket(request []byte, code byte, attrs ...byte) []byte {
	b := append([]byte{code, request[1], 0, 0}, request[4:20]...)
	b = append(append(append(b, 80, 18), make([]byte, 16)...), attrs...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	h := hmac.New(md5.New, radiusSecret.Reveal())
	h.Write(b)
	copy(b[22:], h.Sum(nil))
	return radiusSign(request, b)
}

func radiusSign(request, b []byte) []byte {
	h := md5.New()
	h.Write(b[:4])
	h.Write(request[4:20])
	h.Write(b[20:])
	h.Write(radiusSecret.Reveal())
	copy(b[4:], h.Sum(nil))
	return b
}

// radiusServers are servers in memory: each answers the nth request it gets with some datagrams. Who is not there refuses.
type radiusServers map[netip.AddrPort]func(n int, request []byte) [][]byte

// tally counts requests, from any goroutine.
type tally struct {
	mu sync.Mutex
	n  map[netip.AddrPort]int
}

func newTally() *tally { return &tally{n: map[netip.AddrPort]int{}} }

func (c *tally) add(to netip.AddrPort) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n[to]++
	return c.n[to]
}

func (c *tally) of(to netip.AddrPort) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[to]
}

func (c *tally) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Sprint(c.n)
}

func (s radiusServers) client(asked *tally) *radiusClient {
	c := newRADIUSClient()
	c.dial = func(_ context.Context, to netip.AddrPort) (net.Conn, error) {
		answers := s[to]
		if answers == nil {
			return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
		}
		here, there := net.Pipe()
		go func() {
			b := make([]byte, 4096)
			for {
				n, err := there.Read(b)
				if err != nil {
					return
				}
				for _, answer := range answers(asked.add(to), b[:n]) {
					if _, err := there.Write(answer); err != nil {
						return
					}
				}
			}
		}()
		return here, nil
	}
	return c
}

func silentServer(int, []byte) [][]byte { return nil }

func goodServer(_ int, request []byte) [][]byte {
	return [][]byte{radiusPacket(request, 11, 79, 7, 1, 1, 0, 5, 1, 24, 4, 'x', 'y')}
}

func radiusQuestion() ike.AskRADIUS {
	return ike.AskRADIUS{Servers: []netip.AddrPort{radiusOne, radiusTwo}, Secret: radiusSecret, User: "alice", EAP: []byte{2, 0, 0, 10, 1, 'a', 'l', 'i', 'c', 'e'}}
}

func TestARADIUSServerAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked := newTally()
		got, err := radiusServers{radiusOne: goodServer, radiusTwo: goodServer}.client(asked).answer(t.Context(), radiusQuestion())
		if err != nil || got.Server != 0 || got.Code != ike.RADIUSChallenge || string(got.State) != "xy" || len(got.EAP) != 5 {
			t.Errorf("%+v %v", got, err)
		}
		if asked.of(radiusOne) != 1 || asked.of(radiusTwo) != 0 {
			t.Errorf("asked %v", asked)
		}
	})
}

// A request is repeated, octet by octet, until it is answered.
func TestALostRADIUSRequestIsRepeated(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked := newTally()
		var first string
		got, err := radiusServers{radiusOne: func(n int, request []byte) [][]byte {
			if n == 1 {
				first = string(request)
			}
			if n < radiusTries {
				return nil
			}
			if string(request) != first {
				t.Error("the repetition is another request")
			}
			return goodServer(n, request)
		}}.client(asked).answer(t.Context(), radiusQuestion())
		if err != nil || got.Server != 0 || asked.of(radiusOne) != radiusTries {
			t.Errorf("%+v %v, asked %v", got, err, asked)
		}
	})
}

// When the first server is silent, or refuses, the second is asked; for a while it is then the first.
func TestTheSecondRADIUSServerTakesOver(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]func(int, []byte) [][]byte{"silent": silentServer, "refuses": nil} {
		synctest.Test(t, func(t *testing.T) {
			asked := newTally()
			servers := radiusServers{radiusOne: first, radiusTwo: goodServer}
			c := servers.client(asked)
			for range 2 {
				if got, err := c.answer(t.Context(), radiusQuestion()); err != nil || got.Server != 1 {
					t.Errorf("%s: %+v %v", name, got, err)
				}
			}
			if asked.of(radiusOne) > radiusTries || asked.of(radiusTwo) != 2 {
				t.Errorf("%s: asked %v", name, asked)
			}
			servers[radiusOne] = goodServer
			time.Sleep(radiusAvoided)
			if got, err := c.answer(t.Context(), radiusQuestion()); err != nil || got.Server != 0 {
				t.Errorf("%s: after a while %+v %v", name, got, err)
			}
		})
	}
}

// What a server asked is answered to it alone: another knows nothing of it.
func TestAConversationStaysWithItsRADIUSServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked := newTally()
		c := radiusServers{radiusOne: goodServer, radiusTwo: silentServer}.client(asked)
		q := radiusQuestion()
		q.State, q.Server = []byte("xy"), 1
		_, err := c.answer(t.Context(), q)
		if err == nil || !strings.Contains(err.Error(), "the RADIUS server 192.0.2.10:1812 does not answer: asked 3 times") || asked.of(radiusOne) != 0 {
			t.Errorf("%v, asked %v", err, asked)
		}
	})
}

// A liar's answers are dropped, and said if no better one comes; a genuine one behind them counts.
func TestALyingRADIUSServerIsNotBelieved(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		lie  func(request []byte) []byte
		says string
	}{
		"wrong response authenticator": {func(r []byte) []byte { b := radiusPacket(r, 2); b[4]++; return b }, "somebody who does not know the secret: see radius-secret-file"},
		"wrong message authenticator":  {func(r []byte) []byte { b := radiusPacket(r, 2); b[23]++; return radiusSign(r, b) }, "somebody who does not know the secret"},
		"no message authenticator": {func(r []byte) []byte {
			return radiusSign(r, append([]byte{2, r[1], 0, 20}, make([]byte, 16)...))
		}, "without Message-Authenticator"},
		"truncated attribute": {func(r []byte) []byte { return radiusPacket(r, 2, 79, 200, 3) }, "a malformed RADIUS packet"},
		"garbage":             {func([]byte) []byte { return []byte("hello") }, "a malformed RADIUS packet"},
		"another's":           {func(r []byte) []byte { b := radiusPacket(r, 2); b[1]++; return b }, "answers another request"},
	} {
		synctest.Test(t, func(t *testing.T) {
			q := radiusQuestion()
			q.Servers = q.Servers[:1]
			_, err := radiusServers{radiusOne: func(_ int, r []byte) [][]byte { return [][]byte{c.lie(r)} }}.client(newTally()).answer(t.Context(), q)
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "the RADIUS server 192.0.2.9:1812 gives no answer that can be believed") {
				t.Errorf("%s: %v", name, err)
			}
			got, err := radiusServers{radiusOne: func(n int, r []byte) [][]byte { return append([][]byte{c.lie(r)}, goodServer(n, r)...) }}.client(newTally()).answer(t.Context(), q)
			if err != nil || got.Code != ike.RADIUSChallenge {
				t.Errorf("%s, and then the truth: %+v %v", name, got, err)
			}
		})
	}
}

// Nothing is waited for when the gateway ends, and no more than so many questions wait at a time.
func TestQuestionsToRADIUSAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := radiusServers{radiusOne: silentServer, radiusTwo: silentServer}.client(newTally())
		c.dial = func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, maxRADIUS)
		for range maxRADIUS {
			go func() {
				_, err := c.answer(ctx, radiusQuestion())
				done <- err
			}()
		}
		synctest.Wait()
		if _, err := c.answer(ctx, radiusQuestion()); err == nil || !strings.Contains(err.Error(), "64 questions wait") {
			t.Errorf("one more: %v", err)
		}
		cancel()
		for range maxRADIUS {
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
	})
}
