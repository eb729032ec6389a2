package v2

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"coati/ike"
	"coati/ike/wire"
	"coati/policy"
)

// The Configuration payload, RFC 7296, sections 2.19 and 3.15, in IKE_AUTH:
//
//	HDR, SK {IDi, ... CP(CFG_REQUEST), SAi2, TSi, TSr}  -->
//	          <--  HDR, SK {IDr, ... CP(CFG_REPLY), SAr2, TSi, TSr}
//
// A responder with a pool gives the peer addresses, and traffic selectors for nothing but these. An initiator that wants a virtual
// address takes what it is given, and narrows its own end to that.

// configured is what an IKE SA has of it; a rekey hands it on.
type configured struct {
	leased []netip.Addr // that we gave the peer
	given  *ike.Given   // that the peer gave us
}

// Bounds on what a peer may give us.
const (
	maxGiven   = 16
	maxDomains = 32
)

// ourEnd narrows our end of a child to the addresses we were given, theirEnd the peer's to those it was given.
func (s *sa) ourEnd(set []policy.Selector) []policy.Selector {
	if s.config.given == nil {
		return set
	}
	return policy.Narrow(set, ike.Selectors(s.config.given.Addresses))
}

func (s *sa) theirEnd(set []policy.Selector) []policy.Selector {
	if len(s.tunnel.Pool) == 0 {
		return set
	}
	return policy.Narrow(set, ike.Selectors(s.config.leased))
}

// configRequest asks for what the tunnel wants.
func configRequest(t *policy.PeerTunnel) []wire.Payload {
	if len(t.VirtualIP) == 0 {
		return nil
	}
	cp := &wire.Config{Type: wire.ConfigRequest}
	ask := func(at wire.ConfigAttributeType, value []byte) {
		cp.Attributes = append(cp.Attributes, wire.ConfigAttribute{Type: at, Value: value})
	}
	for _, a := range t.VirtualIP {
		var wish []byte
		if !a.IsUnspecified() {
			wish = a.AsSlice()
		}
		if a.Is4() {
			ask(wire.ConfigInternalIP4Address, wish)
			ask(wire.ConfigInternalIP4DNS, nil)
			continue
		}
		if wish != nil {
			wish = append(wish, 128)
		}
		ask(wire.ConfigInternalIP6Address, wish)
		ask(wire.ConfigInternalIP6DNS, nil)
	}
	ask(wire.ConfigInternalDNSDomain, nil)
	return []wire.Payload{cp}
}

func findConfig(m *message, t wire.ConfigType) *wire.Config {
	for _, q := range m.payloads {
		if c, ok := q.(*wire.Config); ok && c.Type == t {
			return c
		}
	}
	return nil
}

// configure gives the peer what it asks for. A peer of a tunnel with a pool must ask for an address.
func (s *sa) configure(m *message) ([]wire.Payload, *rejection) {
	if len(s.tunnel.Pool) == 0 {
		return nil, nil
	}
	cp := findConfig(m, wire.ConfigRequest)
	if cp == nil {
		return nil, &rejection{wire.NotifyFailedCPRequired, fmt.Errorf("the peer %s does not ask for an address, and tunnel %s is for peers that get one: see pool", s.remoteID, s.tunnel.Name)}
	}
	reply := &wire.Config{Type: wire.ConfigReply}
	add := func(t wire.ConfigAttributeType, value []byte) {
		reply.Attributes = append(reply.Attributes, wire.ConfigAttribute{Type: t, Value: value})
	}
	var dry error
	asked := map[wire.ConfigAttributeType]bool{}
	for _, a := range cp.Attributes {
		if asked[a.Type] {
			continue // one of each
		}
		asked[a.Type] = true
		switch a.Type {
		case wire.ConfigInternalIP4Address, wire.ConfigInternalIP6Address:
			v6 := a.Type == wire.ConfigInternalIP6Address
			if !slices.ContainsFunc(s.tunnel.Pool, func(p policy.Selector) bool { return p.Start.Is6() == v6 }) {
				continue
			}
			got, err := s.env.Lease(s.tunnel, ike.LeaseWish{ID: s.remoteID, IPv6: v6, Wants: wished(a.Value, v6), Alone: s.tunnel.Unique == policy.UniqueNever || s.remoteID.Type == policy.IDNull}, s.out)
			if err != nil {
				dry = err
				continue
			}
			s.config.leased = append(s.config.leased, got)
			if add(a.Type, got.AsSlice()); v6 {
				v := &reply.Attributes[len(reply.Attributes)-1].Value
				*v = append(*v, 128)
			}
		}
	}
	if len(s.config.leased) == 0 {
		if dry == nil {
			dry = fmt.Errorf("the peer %s asks for no address of a family that tunnel %s has: see pool", s.remoteID, s.tunnel.Name)
		}
		return nil, &rejection{wire.NotifyInternalAddressFailure, dry}
	}
	if dry != nil {
		s.warn("one address is missing", dry)
	}
	s.tellDNS(asked, add)
	return []wire.Payload{reply}, nil
}

// tellDNS adds the servers of the families that were asked for, and with any of them the domains (RFC 8598, section 3.1).
func (s *sa) tellDNS(asked map[wire.ConfigAttributeType]bool, add func(wire.ConfigAttributeType, []byte)) {
	any := false
	for _, a := range s.tunnel.DNS {
		t := wire.ConfigInternalIP4DNS
		if a.Is6() {
			t = wire.ConfigInternalIP6DNS
		}
		if asked[t] {
			any = true
			add(t, a.AsSlice())
		}
	}
	if !any || !asked[wire.ConfigInternalDNSDomain] {
		return
	}
	for _, d := range s.tunnel.Domains {
		add(wire.ConfigInternalDNSDomain, []byte(d))
	}
}

// wished is the address that a request names; invalid: none.
func wished(value []byte, v6 bool) netip.Addr {
	a := address(value, v6)
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

// address reads an attribute's value: 4 octets, or 16 and perhaps a prefix length.
func address(value []byte, v6 bool) netip.Addr {
	switch {
	case !v6 && len(value) == 4, v6 && len(value) == 16:
	case v6 && len(value) == 17:
		value = value[:16]
	default:
		return netip.Addr{}
	}
	a, _ := netip.AddrFromSlice(value)
	return a
}

// takeGiven checks and keeps what the responder gives us. Nothing it did not have to give is believed.
func (s *sa) takeGiven(m *message) error {
	if len(s.tunnel.VirtualIP) == 0 {
		return nil
	}
	cp := findConfig(m, wire.ConfigReply)
	if cp == nil {
		return errors.New("the peer gives us no address: it has no pool for us, or does not know configuration payloads")
	}
	g := &ike.Given{Tunnel: s.tunnel.Name}
	for _, a := range cp.Attributes {
		switch a.Type {
		case wire.ConfigInternalIP4Address, wire.ConfigInternalIP6Address:
			v6 := a.Type == wire.ConfigInternalIP6Address
			x := address(a.Value, v6)
			if !ike.IsHostAddress(x) {
				return fmt.Errorf("the peer gives us %x, which is no address of a host", a.Value)
			}
			if !s.wants(v6) || len(g.Addresses) >= maxGiven || slices.Contains(g.Addresses, x) {
				continue
			}
			g.Addresses = append(g.Addresses, x)
		case wire.ConfigInternalIP4DNS, wire.ConfigInternalIP6DNS:
			if x := address(a.Value, a.Type == wire.ConfigInternalIP6DNS); ike.IsHostAddress(x) && len(g.DNS) < maxGiven && !slices.Contains(g.DNS, x) {
				g.DNS = append(g.DNS, x)
			}
		case wire.ConfigInternalDNSDomain:
			if d := string(a.Value); ike.IsDomainName(d) && len(g.Domains) < maxDomains && !slices.Contains(g.Domains, d) {
				g.Domains = append(g.Domains, d)
			}
		}
	}
	if len(g.Addresses) == 0 {
		return errors.New("the peer gives us no address of a family that we asked for: see virtual-ip")
	}
	s.config.given = g
	s.out.Given = append(s.out.Given, *g)
	s.out.Record(slog.LevelInfo, "the peer gives us addresses", append(s.attrs(), slog.String("addresses", fmt.Sprint(g.Addresses)), slog.String("dns", fmt.Sprint(g.DNS)), slog.String("domains", strings.Join(g.Domains, " ")))...)
	return nil
}

func (s *sa) wants(v6 bool) bool {
	return slices.ContainsFunc(s.tunnel.VirtualIP, func(a netip.Addr) bool { return a.Is6() == v6 })
}

// unconfigured ends an IKE SA whose responder has no address for us: without one there is nothing to do on it.
func (s *sa) unconfigured(c *child, err error) {
	s.dropChild(c, err)
	s.reason, s.closing = ike.ClosedFailed, true
	s.lingerUntil = s.now.Add(s.env.Limits.DeleteGrace)
	s.closeNext()
	s.resumeAt = s.now
}

// lacksAddress explains the refusals that are about configuration; nil: it is another one.
func lacksAddress(t wire.NotifyType) error {
	switch t {
	case wire.NotifyInternalAddressFailure:
		return errors.New("the peer has no address for us: its pool is dry, or has none of this family")
	case wire.NotifyFailedCPRequired:
		return errors.New("the peer wants us to ask for an address: see virtual-ip")
	}
	return nil
}
