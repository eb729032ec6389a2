package v2

import (
	"errors"
	"fmt"
	"net/netip"

	"coati/ike/wire"
	"coati/policy"
)

// Transport mode (RFC 7296, section 1.3.1): asked for and agreed to by USE_TRANSPORT_MODE. Its selectors are the two ends of the
// conversation, one address each. A NAT changes them on the way, so each end puts the addresses it sees in their place, and
// remembers those the peer sees, which its checksums count (section 2.23.1).

// natural are the addresses of a child in transport mode as the peer sees them.
type natural struct{ local, remote netip.Addr }

var errNoTransport = errors.New(`the peer does not agree to transport mode: allow it there, or say mode = "tunnel" here`)

// ends leaves of selectors what lies at the two ends of the path.
func (s *sa) ends(local, remote []policy.Selector) ([]policy.Selector, []policy.Selector) {
	at := func(set []policy.Selector, a netip.Addr) []policy.Selector {
		return policy.Narrow(set, []policy.Selector{policy.AddrSelector(a.Unmap().WithZone(""))})
	}
	return at(local, s.path.Local.Addr()), at(remote, s.path.Remote.Addr())
}

// offerMode narrows a child of ours to its mode, and returns what asks for it.
func (s *sa) offerMode(c *child) ([]wire.Payload, error) {
	if c.cfg.Mode != policy.Transport {
		return s.offerFragments(c), nil
	}
	local, remote := s.ends(c.local, c.remote)
	if len(local) == 0 || len(remote) == 0 {
		return nil, fmt.Errorf("transport mode is between %s and %s, which %v <-> %v leave out: see local-ts and remote-ts", s.path.Local.Addr(), s.path.Remote.Addr(), c.local, c.remote)
	}
	c.local, c.remote, c.mode = local, remote, policy.Transport
	return []wire.Payload{notify(wire.NotifyUseTransportMode, nil)}, nil
}

// substitute puts the addresses of our path in the place of those a NAT changed (section 2.23.1).
func (s *sa) substitute(local, remote []policy.Selector) (l, r []policy.Selector, seen natural) {
	put := func(set []policy.Selector, a netip.Addr, changed bool) ([]policy.Selector, netip.Addr) {
		var out []policy.Selector
		var was netip.Addr
		for _, x := range set {
			if x.Start != x.End || was.IsValid() && was != x.Start || x.Start.BitLen() != a.BitLen() {
				return nil, netip.Addr{}
			}
			was = x.Start
			if changed {
				x.Start, x.End = a, a
			}
			out = append(out, x)
		}
		return out, was
	}
	l, seen.local = put(local, s.path.Local.Addr().Unmap().WithZone(""), s.nat.local)
	r, seen.remote = put(remote, s.path.Remote.Addr().Unmap().WithZone(""), s.nat.remote)
	return l, r, seen
}

// matchMode is matchChild for the mode the peer asks for. A peer that asks for transport mode where a child has tunnel mode
// only gets that.
func (s *sa) matchMode(m *message, local, remote []policy.Selector, of *child) (cfg *policy.Child, l, r []policy.Selector, seen natural) {
	if m.notify(wire.NotifyUseTransportMode) != nil {
		sl, sr, seen := s.substitute(local, remote)
		if sl, sr = s.ends(sl, sr); len(sl) > 0 && len(sr) > 0 {
			if cfg, l, r := s.matchChild(sl, sr, of, policy.Transport); cfg != nil {
				return cfg, l, r, seen
			}
		}
	}
	cfg, l, r = s.matchChild(local, remote, of, policy.Tunnel)
	return cfg, l, r, natural{}
}

// answeredMode checks the mode of the peer's answer, and returns its selectors as we see them.
func (s *sa) answeredMode(c *child, m *message, local, remote []policy.Selector) ([]policy.Selector, []policy.Selector, error) {
	if c.mode != policy.Transport {
		return local, remote, nil
	}
	if m.notify(wire.NotifyUseTransportMode) == nil {
		return nil, nil, errNoTransport
	}
	local, remote, c.natural = s.substitute(local, remote)
	return local, remote, nil
}
