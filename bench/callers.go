package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"coati/ike"
	"coati/policy"
)

// Callers are initiators of IKE, Coati's own engine for whoever answers: each has an address, an identity and a network of
// its own, and goes without a word once its tunnel is up. They share two sockets, on the ports of IKE.

const (
	callersAtOnce = 8
	callLimit     = 30 * time.Second // for one handshake, its repeated requests included
)

var (
	// callerNet is routed to the callers' host, whose kernel takes all of it for its own addresses.
	callerNet = netip.MustParsePrefix("10.64.0.0/10")
	// callerLANs is where the callers' networks are, one address each.
	callerLANs = netip.MustParsePrefix("172.16.0.0/12")
	// elsewhere is no network of theirs, and the responder refuses it.
	elsewhere = netip.MustParsePrefix("198.18.0.0/24")
)

// nth address of a network.
func nth(p netip.Prefix, n int) netip.Addr {
	a := p.Masked().Addr().As4()
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(a[:])+uint32(n))
	return netip.AddrFrom4(b)
}

// call is what all callers of one turn want.
type call struct {
	method string
	// refused: the responder is asked for a network it does not have, and makes an IKE SA without a child.
	refused bool
	// psk of the n-th caller.
	psk func(n int) string
	// ca issues the callers' certificates; nil: they use the PSK.
	ca *authority
}

// tunnel of the n-th caller to the responder at remote, whose LAN is given.
func (c call) tunnel(n int, remote netip.Addr, lan netip.Prefix) (policy.PeerTunnel, error) {
	proposal, err := policy.ParseProposal(policy.ProtocolIKE, "aes128gcm16-prfsha256-"+c.method)
	if err != nil {
		return policy.PeerTunnel{}, err
	}
	esp, err := policy.ParseProposal(policy.ProtocolESP, "aes128gcm16")
	if err != nil {
		return policy.PeerTunnel{}, err
	}
	if c.refused {
		lan = elsewhere
	}
	ours, err1 := policy.ParseSelector(nth(callerLANs, n).String())
	theirs, err2 := policy.ParseSelector(lan.Masked().String())
	t := policy.PeerTunnel{
		Name: "t", Version: 2, Remote: remote, PSK: policy.NewSecret([]byte(c.psk(n))), IKE: []policy.Proposal{proposal}, Start: policy.StartListen,
		Children: []policy.Child{{
			Name: "lan", Local: []policy.Selector{ours}, Remote: []policy.Selector{theirs}, ESP: []policy.Proposal{esp}, ReplayWindow: 4096,
			ReqID: 1, OutPolicy: 1, InPolicy: 2,
		}},
	}
	if c.ca != nil {
		err = c.ca.certify(&t, n)
	}
	return t, errors.Join(err, err1, err2)
}

// newCaller makes the n-th caller, who has not said anything yet.
func (c call) newCaller(n int, remote netip.Addr, lan netip.Prefix) (*party, error) {
	t, err := c.tunnel(n, remote, lan)
	if err != nil {
		return nil, err
	}
	p := &party{addr: nth(callerNet, n), spi: 4096}
	p.boot(nil)
	p.inbox = append(p.inbox, ike.Configure{Tunnels: []policy.PeerTunnel{t}}, ike.Command{ID: 1, Verb: ike.Up, Tunnel: "t"})
	return p, nil
}

// done says that the caller has what it wants, or why it does not.
func (c call) done(p *party) (bool, error) {
	if !p.replied || c.refused && p.failure != nil {
		return p.replied, nil
	}
	return true, p.failure
}

// crowd is the callers on one host.
type crowd struct {
	to    *host
	conns map[uint16]*net.UDPConn // by port
	heard chan heard
	next  int // number of the next caller: none is used twice
	live  map[netip.Addr]*party
	since map[*party]time.Time
}

type heard struct {
	path  policy.Path
	bytes []byte
}

// newCrowd opens the sockets on one host, for a responder on the other.
func newCrowd(from, to *host) (*crowd, error) {
	c := &crowd{
		to: to, conns: map[uint16]*net.UDPConn{}, heard: make(chan heard, 4*callersAtOnce), next: 1,
		live: map[netip.Addr]*party{}, since: map[*party]time.Time{},
	}
	if err := from.each(fmt.Sprintf("ip route add local %s dev lo", callerNet)); err != nil {
		return nil, err
	}
	if err := to.each(fmt.Sprintf("ip route add %s via %s", callerNet, from.outer)); err != nil {
		return nil, err
	}
	return c, from.inside(func() error {
		for _, port := range []uint16{500, 4500} {
			conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: int(port)})
			if err != nil {
				return err
			}
			from.ground.later(func() { _ = conn.Close() })
			// What the kernel refuses to give of it is not needed either.
			_ = conn.SetReadBuffer(4 << 20)
			if err := toldDestination(conn); err != nil {
				return err
			}
			c.conns[port] = conn
			go c.listen(port, conn)
		}
		return nil
	})
}

// toldDestination has the kernel say to which of its addresses each datagram came.
func toldDestination(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1) })
	return errors.Join(err, failed)
}

// destination is the address that a control message names; invalid if none does.
func destination(control []byte) netip.Addr {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return netip.Addr{}
	}
	for _, m := range messages {
		// struct in_pktinfo: interface, our address, the header's destination (ip(7)).
		if m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo {
			return netip.AddrFrom4([4]byte(m.Data[8:12]))
		}
	}
	return netip.Addr{}
}

// listen ends when the socket is closed.
func (c *crowd) listen(port uint16, conn *net.UDPConn) {
	control := make([]byte, 128)
	for {
		b := make([]byte, 4096)
		n, m, _, from, err := conn.ReadMsgUDPAddrPort(b, control)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		b = b[:n]
		if port == 4500 {
			// ESP and keepalives are not for callers, who have gone (RFC 3948, section 2.2).
			if len(b) < 4 || binary.BigEndian.Uint32(b) != 0 {
				continue
			}
			b = b[4:]
		}
		local := destination(control[:m])
		if !local.IsValid() {
			continue
		}
		select {
		case c.heard <- heard{policy.Path{Local: netip.AddrPortFrom(local, port), Remote: from}.Unmap(), b}:
		default: // they ask again
		}
	}
}

func (c *crowd) send(s ike.Send) {
	port := s.Path.Local.Port()
	b := s.Bytes
	if port == 4500 {
		b = append(make([]byte, 4, 4+len(b)), b...)
	}
	from := unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: s.Path.Local.Addr().As4()})
	// What does not leave is asked again.
	_, _, _ = c.conns[port].WriteMsgUDPAddrPort(b, from, s.Path.Remote)
}

// call has n callers make their handshakes, a few at once.
func (c *crowd) call(ctx context.Context, n int, what call) error {
	_, err := c.callFor(ctx, n, what, never)
	return err
}

// never is further than any run goes.
const never = 24 * time.Hour

// callFor is call with as many of the callers as begin before the time is up.
func (c *crowd) callFor(ctx context.Context, n int, what call, limit time.Duration) (made int, err error) {
	clear(c.live)
	clear(c.since)
	begin := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for made < n || len(c.live) > 0 {
		for ; made < n && len(c.live) < callersAtOnce; made++ {
			if time.Since(begin) > limit {
				n = made
				break
			}
			p, err := what.newCaller(c.next, c.to.outer, c.to.lanNet)
			if err != nil {
				return 0, err
			}
			c.next++
			c.live[p.addr], c.since[p] = p, time.Now()
			if err := c.drive(p, what); err != nil {
				return 0, err
			}
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case h := <-c.heard:
			if p := c.live[h.path.Local.Addr()]; p != nil {
				p.inbox = append(p.inbox, ike.Datagram{Path: h.path, Bytes: h.bytes})
				if err := c.drive(p, what); err != nil {
					return 0, err
				}
			}
		case now := <-tick.C:
			if err := c.tick(now, what); err != nil {
				return 0, err
			}
		}
	}
	return made, nil
}

// drive has a caller work, and forgets it when it has done.
func (c *crowd) drive(p *party, what call) error {
	if err := p.work(time.Now(), c.send); err != nil {
		return err
	}
	done, err := what.done(p)
	if err != nil {
		return fmt.Errorf("caller %s: %w", p.addr, err)
	}
	if done {
		delete(c.live, p.addr)
		delete(c.since, p)
	}
	return nil
}

// tick has the callers ask again who got no answer.
func (c *crowd) tick(now time.Time, what call) error {
	for _, p := range c.live {
		if now.Sub(c.since[p]) > callLimit {
			return fmt.Errorf("caller %s: no handshake in %v", p.addr, callLimit)
		}
		if d := p.engine.Deadline(); !d.IsZero() && !d.After(now) {
			p.inbox = append(p.inbox, ike.Timer{})
			if err := c.drive(p, what); err != nil {
				return err
			}
		}
	}
	return nil
}
