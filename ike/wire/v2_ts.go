package wire

import "net/netip"

// The Traffic Selector payloads, RFC 7296, section 3.13.

// TS is the payload TSi, or TSr if Responder is set.
type TS struct {
	Responder bool
	Selectors []Selector // 1 to MaxSelectors
}

// Selector is one traffic selector. Types other than the two address ranges are kept unread: Protocol is then the second octet,
// Other what follows the Selector Length, and the rest is zero.
type Selector struct {
	Type      TSType
	Protocol  uint8  // 0: any
	StartPort uint16 // 0 and 65535: any; 65535 and 0: OPAQUE; ICMP: type << 8 | code
	EndPort   uint16
	Start     netip.Addr // inclusive, not above End
	End       netip.Addr // inclusive
	Other     []byte
}

// NewSelector returns a selector for a range of IPv4 or IPv6 addresses, both inclusive, of the family of start.
func NewSelector(protocol uint8, start, end netip.Addr, startPort, endPort uint16) Selector {
	s := Selector{
		Type: TSIPv6AddrRange, Protocol: protocol,
		StartPort: startPort, EndPort: endPort, Start: start, End: end,
	}
	if start.Is4() {
		s.Type = TSIPv4AddrRange
	}
	return s
}

// PayloadType returns PayloadTSi or PayloadTSr.
func (p *TS) PayloadType() PayloadType {
	if p.Responder {
		return PayloadTSr
	}
	return PayloadTSi
}

const minSelector = 4 // octets of a selector's type, protocol and length

func (p *TS) fields(c *coder) {
	n := count(c, &p.Selectors, 1, MaxSelectors, minSelector, "number of tss")
	c.reserved(3)
	for i := 0; ; i++ {
		v := element(c, &p.Selectors, i, MaxSelectors, "traffic selectors")
		if v == nil {
			break
		}
		v.fields(c)
	}
	c.counted(n, len(p.Selectors), "number of tss")
}

func (s *Selector) fields(c *coder) {
	start := c.pos()
	u8(c, &s.Type, "ts type")
	u8(c, &s.Protocol, "ip protocol id")
	f := c.length(start, "selector length")
	if s.Type == TSIPv4AddrRange || s.Type == TSIPv6AddrRange {
		u16(c, &s.StartPort, "start port")
		u16(c, &s.EndPort, "end port")
		at := c.pos()
		s.address(c, &s.Start, "starting address")
		s.address(c, &s.End, "ending address")
		if c.err == nil && s.End.Less(s.Start) {
			c.failAt(ErrValue, "starting address", at)
		}
	} else {
		c.rest(&s.Other, 0, "selector")
	}
	c.close(f)
}

func (s *Selector) address(c *coder, a *netip.Addr, field string) {
	v4 := s.Type == TSIPv4AddrRange
	switch {
	case c.appending && (v4 && !a.Is4() || !v4 && !a.Is6() || a.Zone() != ""):
		c.fail(ErrValue, field)
	case c.appending:
		c.buf = append(c.buf, a.AsSlice()...)
	case v4:
		if b, ok := c.take(4, field); ok {
			*a = netip.AddrFrom4([4]byte(b))
		}
	default:
		if b, ok := c.take(16, field); ok {
			*a = netip.AddrFrom16([16]byte(b))
		}
	}
}
