package v1

import (
	"encoding/binary"
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

// Mode config: draft-dukes-ike-mode-cfg-02, with Cisco's attributes. A client asks and the server replies (pull), or the server sets and
// the client acknowledges (push).

// configured is what an SA has of it.
type configured struct {
	leased []netip.Addr // that we gave the peer
	given  *ike.Given   // that the peer gave us
}

const maxGiven = 16

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

// wantsConfig says whether no pair can be opened before mode config: we need an address, or are to say what the peer's is.
func (s *sa) wantsConfig() bool {
	return s.initiator && len(s.tunnel.VirtualIP) > 0 || !s.initiator && len(s.tunnel.Pool) > 0 && s.tunnel.V1.Push
}

// beginConfig asks, or sets, or waits for the peer to set.
func (s *sa) beginConfig() {
	push := s.tunnel.V1.Push
	switch {
	case s.initiator && !push:
		s.transact(wire.ConfigV1Request, s.wishes(), func(c *wire.V1Config) {
			if err := s.takeGiven(c); err != nil {
				s.unauthorized(err)
				return
			}
			s.authorized()
		})
	case !s.initiator:
		wishes := &wire.V1Config{}
		for _, t := range []wire.AttributeType{
			wire.ConfigV1IP4Address, wire.ConfigV1IP4Netmask, wire.ConfigV1IP4DNS, wire.ConfigV1IP6Address, wire.ConfigV1IP6DNS,
			wire.ConfigUnityBanner, wire.ConfigUnityDomain, wire.ConfigUnitySplitInclude,
		} {
			wishes.Attributes = append(wishes.Attributes, octetsOf(t, nil))
		}
		set := s.configure(wishes)
		if len(s.config.leased) == 0 {
			s.unauthorized(errors.New("there is no address for the peer: see pool"))
			return
		}
		s.transact(wire.ConfigV1Set, set, func(*wire.V1Config) { s.authorized() })
	}
}

// wishes is what we ask for.
func (s *sa) wishes() (out []wire.Attribute) {
	for _, a := range s.tunnel.VirtualIP {
		var wish []byte
		if !a.IsUnspecified() {
			wish = a.AsSlice()
		}
		if a.Is4() {
			out = append(out, octetsOf(wire.ConfigV1IP4Address, wish), octetsOf(wire.ConfigV1IP4DNS, nil))
		} else {
			out = append(out, octetsOf(wire.ConfigV1IP6Address, wish), octetsOf(wire.ConfigV1IP6DNS, nil))
		}
	}
	return append(out, octetsOf(wire.ConfigUnityDomain, nil), octetsOf(wire.ConfigUnityBanner, nil), octetsOf(wire.ConfigUnitySplitInclude, nil))
}

// configure answers what a client asks for, each attribute once.
func (s *sa) configure(c *wire.V1Config) (out []wire.Attribute) {
	if len(s.tunnel.Pool) == 0 {
		return nil
	}
	asked := map[wire.AttributeType]bool{}
	for i := range c.Attributes {
		a := &c.Attributes[i]
		if asked[a.Type] {
			continue
		}
		asked[a.Type] = true
		switch a.Type {
		case wire.ConfigV1IP4Address, wire.ConfigV1IP6Address:
			if got, ok := s.lease(a.Type == wire.ConfigV1IP6Address, a.Data); ok {
				out = append(out, octetsOf(a.Type, got.AsSlice()))
			}
		case wire.ConfigV1IP4Netmask:
			if asked[wire.ConfigV1IP4Address] {
				out = append(out, octetsOf(a.Type, []byte{255, 255, 255, 255}))
			}
		case wire.ConfigV1IP4DNS, wire.ConfigV1IP6DNS:
			for _, d := range s.tunnel.DNS {
				if d.Is6() == (a.Type == wire.ConfigV1IP6DNS) {
					out = append(out, octetsOf(a.Type, d.AsSlice()))
				}
			}
		case wire.ConfigUnityBanner:
			if b := s.tunnel.V1.Banner; b != "" {
				out = append(out, octetsOf(a.Type, []byte(b)))
			}
		case wire.ConfigUnityDomain:
			if len(s.tunnel.Domains) > 0 {
				out = append(out, octetsOf(a.Type, []byte(s.tunnel.Domains[0])))
			}
		case wire.ConfigUnitySplitInclude:
			if nets := splitInclude(s.tunnel.V1.SplitInclude); nets != nil {
				out = append(out, octetsOf(a.Type, nets))
			}
		}
	}
	return out
}

// splitInclude writes networks as Cisco has them: address, mask, protocol and two ports.
func splitInclude(nets []netip.Prefix) (out []byte) {
	for _, p := range nets {
		if p.Addr().Is4() {
			out = append(out, p.Masked().Addr().AsSlice()...)
			out = binary.BigEndian.AppendUint32(out, uint32(uint64(1<<32-1)<<(32-p.Bits())))
			out = append(out, make([]byte, 6)...)
		}
	}
	return out
}

// lease takes an address for the peer; the same one when it asks again.
func (s *sa) lease(v6 bool, wish []byte) (netip.Addr, bool) {
	for _, a := range s.config.leased {
		if a.Is6() == v6 {
			return a, true
		}
	}
	if !slices.ContainsFunc(s.tunnel.Pool, func(p policy.Selector) bool { return p.Start.Is6() == v6 }) {
		return netip.Addr{}, false
	}
	wants, _ := netip.AddrFromSlice(wish)
	if wants.IsUnspecified() || wants.Is6() != v6 {
		wants = netip.Addr{}
	}
	got, err := s.env.Lease(s.tunnel, ike.LeaseWish{ID: s.remoteID, IPv6: v6, Wants: wants, Alone: s.tunnel.Unique == policy.UniqueNever}, s.out)
	if err != nil {
		s.warn("there is no address for the peer", err)
		return netip.Addr{}, false
	}
	s.config.leased = append(s.config.leased, got)
	return got, true
}

// configSet takes what a server sets, as client.
func (s *sa) configSet(c *wire.V1Config) ([]wire.Attribute, func()) {
	err := s.takeGiven(c)
	var out []wire.Attribute
	for i := range c.Attributes {
		if len(out) < maxGiven {
			out = append(out, octetsOf(c.Attributes[i].Type, nil))
		}
	}
	return out, func() {
		if err != nil {
			s.unauthorized(err)
			return
		}
		s.authorized()
	}
}

// takeGiven checks and keeps what the server gives us.
func (s *sa) takeGiven(c *wire.V1Config) error {
	g := &ike.Given{Tunnel: s.tunnel.Name}
	var banner string
	for i := range c.Attributes {
		a := &c.Attributes[i]
		switch a.Type {
		case wire.ConfigV1IP4Address, wire.ConfigV1IP6Address:
			x, _ := netip.AddrFromSlice(a.Data)
			if !ike.IsHostAddress(x) || x.Is6() != (a.Type == wire.ConfigV1IP6Address) {
				return fmt.Errorf("the peer gives us %x, which is no address of a host", a.Data)
			}
			if s.wants(x.Is6()) && len(g.Addresses) < maxGiven && !slices.Contains(g.Addresses, x) {
				g.Addresses = append(g.Addresses, x)
			}
		case wire.ConfigV1IP4DNS, wire.ConfigV1IP6DNS:
			// Some put several into one attribute.
			n := 4
			if a.Type == wire.ConfigV1IP6DNS {
				n = 16
			}
			for d := a.Data; len(d) >= n && len(g.DNS) < maxGiven; d = d[n:] {
				if x, _ := netip.AddrFromSlice(d[:n]); ike.IsHostAddress(x) && !slices.Contains(g.DNS, x) {
					g.DNS = append(g.DNS, x)
				}
			}
		case wire.ConfigUnityDomain:
			if d := strings.TrimRight(string(a.Data), "\x00"); ike.IsDomainName(d) && len(g.Domains) < maxGiven {
				g.Domains = append(g.Domains, d)
			}
		case wire.ConfigUnityBanner:
			banner = clip(strings.ToValidUTF8(string(a.Data), ""))
		case wire.ConfigUnitySplitInclude:
			if !s.mayReach(a.Data) {
				s.warn("the peer includes networks that no child reaches", fmt.Errorf("split-include %x: see remote-ts", a.Data[:min(len(a.Data), 56)]))
			}
		}
	}
	if len(g.Addresses) == 0 {
		return errNoConfig
	}
	s.config.given = g
	s.out.Given = append(s.out.Given, *g)
	attrs := append(s.attrs(), slog.String("addresses", fmt.Sprint(g.Addresses)), slog.String("dns", fmt.Sprint(g.DNS)), slog.String("domains", strings.Join(g.Domains, " ")))
	if banner != "" {
		attrs = append(attrs, slog.String("banner", fmt.Sprintf("%q", banner)))
	}
	s.out.Record(slog.LevelInfo, "the peer gives us addresses", attrs...)
	return nil
}

// mayReach says whether our children reach all that a server includes. What we send through the tunnel is our configuration's choice.
func (s *sa) mayReach(include []byte) bool {
	for ; len(include) >= 14; include = include[14:] {
		a, _ := netip.AddrFromSlice(include[:4])
		mask := binary.BigEndian.Uint32(include[4:])
		bits := 0
		for mask&(1<<31) != 0 {
			mask, bits = mask<<1, bits+1
		}
		want := []policy.Selector{policy.PrefixSelector(netip.PrefixFrom(a, bits).Masked())}
		if !slices.ContainsFunc(s.tunnel.Children, func(c policy.Child) bool { return policy.Subset(want, c.Remote) }) {
			return false
		}
	}
	return true
}

func (s *sa) wants(v6 bool) bool {
	return slices.ContainsFunc(s.tunnel.VirtualIP, func(a netip.Addr) bool { return a.Is6() == v6 })
}
