package v1

import (
	"fmt"
	"net/netip"

	"coati/ike/wire"
	"coati/policy"
)

// Transport mode: its ends are those of the conversation, one address each. A NAT changes them on the way, so each end puts the addresses
// it sees in their place, and learns from NAT-OA those that the peer sees, which its checksums count (RFC 3947, section 5.2).

// natural are the addresses of a pair in transport mode as the peer sees them; zero: not known.
type natural struct{ local, remote netip.Addr }

func bare(a netip.AddrPort) netip.Addr { return a.Addr().Unmap().WithZone("") }

// atEnds leaves of selectors what lies at the two ends of the path.
func (s *sa) atEnds(local, remote policy.Selector) (l, r policy.Selector, err error) {
	at := func(x policy.Selector, a netip.AddrPort) []policy.Selector {
		return policy.Narrow([]policy.Selector{x}, []policy.Selector{policy.AddrSelector(bare(a))})
	}
	ls, rs := at(local, s.path.Local), at(remote, s.path.Remote)
	if len(ls) == 0 || len(rs) == 0 {
		return l, r, fmt.Errorf("transport mode is between %s and %s, which %s <-> %s leave out: see local-ts and remote-ts", s.path.Local.Addr(), s.path.Remote.Addr(), local, remote)
	}
	return ls[0], rs[0], nil
}

func udpTransport(mode uint16) bool {
	return mode == wire.ModeV1UDPTransport || mode == wire.ModeV1UDPTransportDraft
}

// originalsOf are the addresses that we see of both ends, the initiator's of the quick mode first; as responder it is the peer.
func (s *sa) originalsOf(mode uint16, initiator bool) []wire.Payload {
	if !udpTransport(mode) {
		return nil
	}
	i, r := bare(s.path.Local), bare(s.path.Remote)
	if !initiator {
		i, r = r, i
	}
	return []wire.Payload{&wire.V1NATOA{Draft: s.nat.draft(), Addr: i}, &wire.V1NATOA{Draft: s.nat.draft(), Addr: r}}
}

// peerSees reads what the peer sees of both ends.
func (s *sa) peerSees(mode uint16, m *message, byPeer bool) natural {
	t := wire.PayloadV1NATOA
	if s.nat.draft() {
		t = wire.PayloadV1NATOADraft
	}
	oa := m.all(t)
	if !udpTransport(mode) || len(oa) != 2 {
		return natural{}
	}
	n := natural{oa[0].(*wire.V1NATOA).Addr, oa[1].(*wire.V1NATOA).Addr}
	if byPeer {
		n.local, n.remote = n.remote, n.local
	}
	return n
}

// matchMode is the child that the peer's ends are for. In transport mode the addresses of our path stand for those that a NAT changed.
func (s *sa) matchMode(m *message, local, remote policy.Selector) (cfg *policy.Child, l, r policy.Selector) {
	if s.asksTransport(m) {
		put := func(x policy.Selector, a netip.AddrPort, changed bool) policy.Selector {
			if changed && x.Start == x.End {
				x.Start, x.End = bare(a), bare(a)
			}
			return x
		}
		l, r = put(local, s.path.Local, s.nat.local), put(remote, s.path.Remote, s.nat.remote)
		if cfg := s.matchChild(l, r, policy.Transport); cfg != nil {
			if _, _, err := s.atEnds(l, r); err == nil && l.Start == l.End && r.Start == r.End {
				return cfg, l, r
			}
		}
	}
	return s.matchChild(local, remote, policy.Tunnel), local, remote
}

// asksTransport says whether some transform of ESP is for transport mode.
func (s *sa) asksTransport(m *message) bool {
	for _, p := range m.find(wire.PayloadV1SA).(*wire.V1SA).Proposals {
		for j := range p.Transforms {
			if u, err := readPhase2(&p.Transforms[j]); p.Protocol == wire.ProtocolESP && err == nil && fitsMode(u.mode, policy.Transport) {
				return true
			}
		}
	}
	return false
}
