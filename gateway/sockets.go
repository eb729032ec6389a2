package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"coati/esp"
	"coati/ike"
	"coati/packet"
	"coati/policy"
	"coati/tun"
)

// listeners are the sockets of the gateway: for each local address a group on the IKE port, a group on the NAT traversal
// port, and a raw socket for protocol 50. Where every tunnel names its local address we listen on those alone, so that
// another daemon can have the others.
type listeners struct {
	host      *tun.Host
	ike, natt uint16 // ports
	perGroup  int
	kernel    bool // the kernel moves ESP: the sockets are IKE's alone
	seed      maphash.Seed
	table     atomic.Pointer[socketTable] // read by the data path; replaced as a whole
	started   func(*listener)             // called for each one opened, once set
}

// listener is one local address.
type listener struct {
	addr      netip.Addr
	ike, natt *tun.UDP
	raw       *tun.RawESP
	// No tunnel has this address any more: it stays until the goodbyes of those that had are answered.
	leaving bool
}

// parting is how long a socket outlives the last tunnel that had its address: some repetitions of a goodbye.
const parting = 10 * time.Second

type socketTable struct {
	all  []*listener
	udp  map[netip.AddrPort]*tun.UDP
	raw  map[netip.Addr]*tun.RawESP
	wild bool
}

func newListeners(h *tun.Host, ikePort, nattPort uint16, perGroup int, kernel bool) *listeners {
	s := &listeners{host: h, ike: ikePort, natt: nattPort, perGroup: perGroup, kernel: kernel, seed: maphash.MakeSeed()}
	if kernel {
		s.perGroup = 1
	}
	s.table.Store(&socketTable{})
	return s
}

// localAddresses are where tunnels want to be reached; the unspecified addresses if one of them does not say.
func localAddresses(tunnels []policy.PeerTunnel) []netip.Addr {
	var out []netip.Addr
	for i := range tunnels {
		a := tunnels[i].Local
		if !a.IsValid() {
			out = nil
			break
		}
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	if len(out) > 0 {
		return out
	}
	out = []netip.Addr{netip.IPv4Unspecified()}
	// The file is missing where the kernel has no IPv6.
	if _, err := os.Stat("/proc/thread-self/net/if_inet6"); err == nil {
		out = append(out, netip.IPv6Unspecified())
	}
	return out
}

// set makes addrs the ones we listen on. Sockets that stay are not disturbed; those of other addresses stay until part, if
// they are in nobody's way. On an error those that were open are open again, as far as they can be.
func (s *listeners) set(addrs []netip.Addr) error {
	before := s.table.Load().all
	var next []*listener
	for _, l := range before {
		// What is in the way must go first: an unspecified address and another one exclude each other.
		l.leaving = !slices.Contains(addrs, l.addr)
		if !l.leaving || !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a == unspecified(l.addr) || l.addr == unspecified(a) }) {
			next = append(next, l)
		}
	}
	s.publish(next)
	var errs []error
	for _, l := range before {
		if !slices.Contains(next, l) {
			errs = append(errs, l.close())
		}
	}
	for _, a := range addrs {
		if slices.ContainsFunc(next, func(l *listener) bool { return l.addr == a }) {
			continue
		}
		l, err := s.open(a)
		if err != nil {
			return errors.Join(append(errs, err, s.reopen(before, next))...)
		}
		next = append(next, l)
		s.publish(next)
		if s.started != nil {
			s.started(l)
		}
	}
	return errors.Join(errs...)
}

// anyLeaving says whether there is something for part to close.
func (s *listeners) anyLeaving() bool {
	return slices.ContainsFunc(s.table.Load().all, func(l *listener) bool { return l.leaving })
}

// part closes the sockets of addresses that no tunnel has.
func (s *listeners) part() error {
	var next []*listener
	var errs []error
	all := s.table.Load().all
	for _, l := range all {
		if !l.leaving {
			next = append(next, l)
		}
	}
	s.publish(next)
	for _, l := range all {
		if l.leaving {
			errs = append(errs, l.close())
		}
	}
	return errors.Join(errs...)
}

// reopen goes back from a half-made change.
func (s *listeners) reopen(before, now []*listener) error {
	var errs []error
	keep := func(l *listener) bool {
		return slices.ContainsFunc(before, func(o *listener) bool { return o.addr == l.addr })
	}
	var next []*listener
	for _, l := range now {
		if keep(l) {
			next = append(next, l)
		} else {
			errs = append(errs, l.close())
		}
	}
	for _, o := range before {
		if slices.ContainsFunc(next, func(l *listener) bool { return l.addr == o.addr }) {
			continue
		}
		l, err := s.open(o.addr)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		next = append(next, l)
		if s.started != nil {
			s.started(l)
		}
	}
	s.publish(next)
	return errors.Join(errs...)
}

func (s *listeners) open(a netip.Addr) (*listener, error) {
	l := &listener{addr: a}
	var err error
	if l.ike, err = s.host.OpenUDP(s.udp(a, s.ike, 1)); err != nil {
		return nil, err
	}
	if l.natt, err = s.host.OpenUDP(s.udp(a, s.natt, s.perGroup)); err != nil {
		return nil, errors.Join(err, l.close())
	}
	if s.kernel {
		return l, nil
	}
	if l.raw, err = s.host.OpenRawESP(tun.RawESPConfig{Local: a}); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

// udp is how a socket for one of our ports is opened.
func (s *listeners) udp(a netip.Addr, port uint16, sockets int) tun.UDPConfig {
	c := tun.UDPConfig{Local: netip.AddrPortFrom(a, port), Sockets: sockets}
	if s.kernel {
		c.NoReceiveOffload, c.Prepare = true, prepareForKernel(port == s.natt)
	}
	return c
}

func (l *listener) close() error {
	var errs []error
	if l.ike != nil {
		errs = append(errs, l.ike.Close())
	}
	if l.natt != nil {
		errs = append(errs, l.natt.Close())
	}
	if l.raw != nil {
		errs = append(errs, l.raw.Close())
	}
	return errors.Join(errs...)
}

func (s *listeners) publish(all []*listener) {
	t := &socketTable{all: slices.Clone(all), udp: map[netip.AddrPort]*tun.UDP{}, raw: map[netip.Addr]*tun.RawESP{}}
	for _, l := range all {
		t.udp[l.ike.Local()] = l.ike
		t.udp[l.natt.Local()] = l.natt
		if l.raw != nil {
			t.raw[l.addr] = l.raw
		}
		t.wild = t.wild || l.addr.IsUnspecified()
	}
	s.table.Store(t)
}

// bound says whether we listen on an address of ours.
func (s *listeners) bound(a netip.Addr) bool {
	t := s.table.Load()
	return t.group(netip.AddrPortFrom(a, s.ike)) != nil
}

func unspecified(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func (t *socketTable) group(local netip.AddrPort) *tun.UDP {
	if u := t.udp[local]; u != nil {
		return u
	}
	return t.udp[netip.AddrPortFrom(unspecified(local.Addr()), local.Port())]
}

func (t *socketTable) rawFor(local netip.Addr) *tun.RawESP {
	if r := t.raw[local]; r != nil {
		return r
	}
	return t.raw[unspecified(local)]
}

// errNoSocket: a path starts where we do not listen (any more).
var errNoSocket = errors.New("we do not listen on the path's local address")

// nonESPMarker tells IKE from ESP on the NAT traversal port (RFC 3948, section 2.2).
var nonESPMarker = [4]byte{}

// keepalive is the one octet of RFC 3948, section 2.3.
var keepalive = []byte{0xff}

// send puts an IKE message on the network.
func (s *listeners) send(m ike.Send) error {
	u := s.table.Load().group(m.Path.Local)
	if u == nil {
		return fmt.Errorf("%w %v", errNoSocket, m.Path.Local)
	}
	b := m.Bytes
	switch {
	case m.Keepalive:
		b = keepalive
	case m.Path.Local.Port() == s.natt:
		b = append(nonESPMarker[:4:4], m.Bytes...)
	}
	return s.of(u, &m.Path).SendMessage(m.Path.Remote, m.Path.Local.Addr(), 0, b)
}

// of picks the one socket of a group that all packets to a peer leave from, so that they stay in order.
func (s *listeners) of(u *tun.UDP, path *policy.Path) *tun.UDPSocket {
	sockets := u.Sockets()
	if len(sockets) == 1 {
		return sockets[0]
	}
	return sockets[maphash.Comparable(s.seed, path.Remote)%uint64(len(sockets))]
}

// egress is the data path's way to the network.
type egress struct {
	*listeners
	clear *tun.Clear
}

var (
	_ esp.Egress     = (*egress)(nil)
	_ esp.PathMTUer  = (*egress)(nil)
	_ esp.Fragmenter = (*egress)(nil)
)

// SendESP sends sealed packets in UDP or as protocol 50.
func (e *egress) SendESP(path *policy.Path, tos byte, buf []byte, stride int) error {
	t := e.table.Load()
	var err error
	if path.Encap == policy.EncapUDP {
		u := t.group(path.Local)
		if u == nil {
			return errNoSocket
		}
		err = e.of(u, path).Send(path.Remote, path.Local.Addr(), tos, buf, stride)
	} else {
		r := t.rawFor(path.Local.Addr())
		if r == nil {
			return errNoSocket
		}
		err = r.Send(path.Remote.Addr(), path.Local.Addr(), tos, buf, stride)
	}
	if err == tun.ErrTooBig {
		return esp.ErrTooBig
	}
	return err
}

// SendESPInFragments sends sealed packets without DF.
func (e *egress) SendESPInFragments(path *policy.Path, tos byte, buf []byte, stride int) error {
	t := e.table.Load()
	if path.Encap == policy.EncapUDP {
		if u := t.group(path.Local); u != nil {
			return e.of(u, path).SendInFragments(path.Remote, path.Local.Addr(), tos, buf, stride)
		}
		return errNoSocket
	}
	if path.Remote.Addr().Is6() {
		for esp := range slices.Chunk(buf, stride) {
			if err := e.clear.SendInFragments(path.Local.Addr(), path.Remote.Addr(), tos, packet.ProtoESP, esp); err != nil {
				return err
			}
		}
		return nil
	}
	if r := t.rawFor(path.Local.Addr()); r != nil {
		return r.SendInFragments(path.Remote.Addr(), path.Local.Addr(), tos, buf, stride)
	}
	return errNoSocket
}

// SendClear sends a whole IP packet past our own routes.
func (e *egress) SendClear(pkt []byte) error {
	err := e.clear.Send(pkt)
	if err == tun.ErrTooBig {
		return esp.ErrTooBig
	}
	return err
}

// PathMTU is the MTU of the first hop.
func (e *egress) PathMTU(path *policy.Path) int {
	u, err := e.host.RouteTo(path.Remote.Addr())
	if err != nil {
		return 0
	}
	return u.MTU
}

// offloads of all sockets, for people.
func (l *listener) describe() []string {
	return []string{
		fmt.Sprintf("udp %v (%s)", l.ike.Local(), cmp.Or(l.ike.Offloads(), "none")),
		fmt.Sprintf("udp %v (%s)", l.natt.Local(), cmp.Or(l.natt.Offloads(), "none")),
		fmt.Sprintf("esp %v (%s)", l.addr, l.carrier()),
	}
}

// carrier says who takes protocol 50.
func (l *listener) carrier() string {
	if l.raw == nil {
		return "by the kernel"
	}
	return "none"
}

// lost counts what found no room in the sockets' buffers.
func (l *listener) lost() uint64 {
	n := l.ike.Lost() + l.natt.Lost()
	if l.raw != nil {
		n += l.raw.Lost()
	}
	return n
}
