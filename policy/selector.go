package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Selector is one traffic selector of RFC 7296, section 3.13.1: an address range, a protocol and a port range.
// For ICMP and ICMPv6 a port is type*256 + code, for the mobility header type*256. Start and End are of one family, Start <= End.
type Selector struct {
	Protocol           uint8 // 0: any
	StartPort, EndPort uint16
	Start, End         netip.Addr
}

// OPAQUE ports (RFC 4301, section 4.4.1.1): StartPort 65535, EndPort 0.
func (s Selector) opaque() bool { return s.StartPort == 65535 && s.EndPort == 0 }

// NamesPorts says whether it selects by ports or types: what shows none is not selected (RFC 4301, section 7).
func (s Selector) NamesPorts() bool {
	return s.Protocol != 0 && !s.opaque() && (s.StartPort != 0 || s.EndPort != 65535)
}

// PrefixSelector covers a prefix, any protocol and port.
func PrefixSelector(p netip.Prefix) Selector {
	p = p.Masked()
	return Selector{EndPort: 65535, Start: p.Addr(), End: lastAddr(p)}
}

// AddrSelector covers one address, any protocol and port.
func AddrSelector(a netip.Addr) Selector {
	return PrefixSelector(netip.PrefixFrom(a, a.BitLen()))
}

// AnySelectors cover everything: all of IPv4 and all of IPv6.
func AnySelectors() []Selector {
	return []Selector{
		PrefixSelector(netip.PrefixFrom(netip.IPv4Unspecified(), 0)),
		PrefixSelector(netip.PrefixFrom(netip.IPv6Unspecified(), 0)),
	}
}

func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// ParseSelector reads ADDR, ADDR/BITS or ADDR-ADDR, optionally followed by [PROTO] or [PROTO/PORT] or
// [PROTO/PORT-PORT], as in "10.1.0.0/16[tcp/80]". For ICMP a type, or a type and a code, takes the place of the port:
// [icmp/8], [icmp/3/4], and for the mobility header its type: [mh/5]. Both may be ranges of types. OPAQUE ports, those of
// packets that show none, are [PROTO/opaque].
func ParseSelector(s string) (Selector, error) {
	addr, rest, bracket := strings.Cut(s, "[")
	sel, err := parseRange(addr)
	if err != nil {
		return Selector{}, err
	}
	if !bracket {
		return sel, nil
	}
	inner, ok := strings.CutSuffix(rest, "]")
	if !ok {
		return Selector{}, fmt.Errorf("selector %q has no closing bracket", s)
	}
	proto, ports, hasPorts := strings.Cut(inner, "/")
	if sel.Protocol, err = parseProtocol(proto); err != nil {
		return Selector{}, fmt.Errorf("selector %q: %w", s, err)
	}
	if !hasPorts || ports == "any" {
		return sel, nil
	}
	if sel.Protocol == 0 {
		return Selector{}, fmt.Errorf("selector %q has a port but no protocol", s)
	}
	if ports == "opaque" {
		sel.StartPort, sel.EndPort = 65535, 0
		return sel, nil
	}
	if sel.StartPort, sel.EndPort, err = parsePorts(sel.Protocol, ports); err != nil {
		return Selector{}, fmt.Errorf("selector %q: %w", s, err)
	}
	return sel, nil
}

// Protocols whose "port" is made from a type (RFC 4301, section 4.4.1.1).
const (
	protoICMP     = 1
	protoICMPv6   = 58
	protoMobility = 135
)

// HasTypes says whether selectors of a protocol have a type in the place of ports: ICMP, ICMPv6, the mobility header.
func HasTypes(proto uint8) bool {
	return proto == protoICMP || proto == protoICMPv6 || proto == protoMobility
}

// parsePorts reads a port, a range of ports, a type, a range of types, or for ICMP a type and a code or range of codes.
func parsePorts(proto uint8, s string) (from, to uint16, err error) {
	span := func(s string, bits int) (uint64, uint64, bool) {
		lo, hi, isRange := strings.Cut(s, "-")
		if !isRange {
			hi = lo
		}
		a, err1 := strconv.ParseUint(lo, 10, bits)
		b, err2 := strconv.ParseUint(hi, 10, bits)
		return a, b, err1 == nil && err2 == nil && a <= b
	}
	if !HasTypes(proto) {
		a, b, ok := span(s, 16)
		if !ok {
			return 0, 0, fmt.Errorf("bad port range %q", s)
		}
		return uint16(a), uint16(b), nil
	}
	typ, code, hasCode := strings.Cut(s, "/")
	a, b, ok := span(typ, 8)
	switch {
	case !ok:
		return 0, 0, fmt.Errorf("bad type %q: want a number from 0 to 255, or a range", typ)
	case hasCode && proto == protoMobility:
		return 0, 0, fmt.Errorf("%q: the mobility header has types without codes", s)
	case hasCode && a != b:
		return 0, 0, fmt.Errorf("%q: a code belongs to one type, not to a range", s)
	case !hasCode:
		return typePort(proto, a, 0), typePort(proto, b, 255), nil
	}
	c, d, ok := span(code, 8)
	if !ok {
		return 0, 0, fmt.Errorf("bad code %q: want a number from 0 to 255, or a range", code)
	}
	return uint16(a<<8 | c), uint16(a<<8 | d), nil
}

// typePort is a type in the place of a port: of the mobility header the low octet is zero (RFC 7296, section 3.13.1).
func typePort(proto uint8, typ, code uint64) uint16 {
	if proto == protoMobility {
		code = 0
	}
	return uint16(typ<<8 | code)
}

func parseRange(s string) (Selector, error) {
	if lo, hi, ok := strings.Cut(s, "-"); ok {
		a, err1 := netip.ParseAddr(lo)
		b, err2 := netip.ParseAddr(hi)
		if err1 != nil || err2 != nil || a.Zone() != "" || b.Zone() != "" {
			return Selector{}, fmt.Errorf("%q is no address range", s)
		}
		if a.BitLen() != b.BitLen() || b.Less(a) {
			return Selector{}, fmt.Errorf("%q is an impossible address range: the end is before the start or of another family", s)
		}
		return Selector{EndPort: 65535, Start: a, End: b}, nil
	}
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return Selector{}, fmt.Errorf("%q is no prefix", s)
		}
		if p.Masked() != p {
			return Selector{}, fmt.Errorf("%q has host bits set: did you mean %s", s, p.Masked())
		}
		return PrefixSelector(p), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return Selector{}, fmt.Errorf("%q is neither an address, a prefix nor a range", s)
	}
	return AddrSelector(a), nil
}

var protocolNames = map[string]uint8{"any": 0, "icmp": 1, "tcp": 6, "udp": 17, "gre": 47, "icmp6": 58, "ipv6-icmp": 58, "ospf": 89, "sctp": 132, "mh": 135}

func parseProtocol(s string) (uint8, error) {
	if p, ok := protocolNames[strings.ToLower(s)]; ok {
		return p, nil
	}
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil {
		return 0, fmt.Errorf("unknown protocol %q", s)
	}
	return uint8(n), nil
}

func protocolName(p uint8) string {
	switch p {
	case 1:
		return "icmp"
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 47:
		return "gre"
	case 58:
		return "icmp6"
	case 89:
		return "ospf"
	case 132:
		return "sctp"
	case protoMobility:
		return "mh"
	}
	return strconv.Itoa(int(p))
}

// String is the form ParseSelector reads.
func (s Selector) String() string {
	var b strings.Builder
	if p, ok := s.Prefix(); ok {
		if p.IsSingleIP() {
			b.WriteString(p.Addr().String())
		} else {
			b.WriteString(p.String())
		}
	} else {
		fmt.Fprintf(&b, "%s-%s", s.Start, s.End)
	}
	switch {
	case s.opaque():
		fmt.Fprintf(&b, "[%s/opaque]", protocolName(s.Protocol))
	case s.StartPort == 0 && s.EndPort == 65535:
		if s.Protocol != 0 {
			fmt.Fprintf(&b, "[%s]", protocolName(s.Protocol))
		}
	case HasTypes(s.Protocol) && s.sayTypes() != "":
		fmt.Fprintf(&b, "[%s/%s]", protocolName(s.Protocol), s.sayTypes())
	case s.StartPort == s.EndPort:
		fmt.Fprintf(&b, "[%s/%d]", protocolName(s.Protocol), s.StartPort)
	default:
		fmt.Fprintf(&b, "[%s/%d-%d]", protocolName(s.Protocol), s.StartPort, s.EndPort)
	}
	return b.String()
}

// sayTypes is the range of ports as parsePorts reads it; empty for a range a peer may ask for and the file cannot say.
func (s Selector) sayTypes() string {
	first, last, code, end := s.StartPort>>8, s.EndPort>>8, s.StartPort&0xff, s.EndPort&0xff
	span := func(a, b uint16) string {
		if a == b {
			return strconv.Itoa(int(a))
		}
		return fmt.Sprintf("%d-%d", a, b)
	}
	switch {
	case code == 0 && s.EndPort == typePort(s.Protocol, uint64(last), 255):
		return span(first, last)
	case first == last && s.Protocol != protoMobility:
		return span(first, first) + "/" + span(code, end)
	}
	return ""
}

// Prefix is the range as a single prefix, if it is one.
func (s Selector) Prefix() (netip.Prefix, bool) {
	if ps := s.Prefixes(); len(ps) == 1 {
		return ps[0], true
	}
	return netip.Prefix{}, false
}

// Prefixes splits the range into the fewest prefixes, in order: at most 2*bits-2 of them.
func (s Selector) Prefixes() []netip.Prefix {
	var out []netip.Prefix
	if !s.Start.IsValid() || s.Start.BitLen() != s.End.BitLen() {
		return nil
	}
	for a := s.Start; a.IsValid() && !s.End.Less(a); {
		bits := a.BitLen()
		for bits > 0 {
			wider := netip.PrefixFrom(a, bits-1)
			if wider.Masked().Addr() != a || s.End.Less(lastAddr(wider)) {
				break
			}
			bits--
		}
		p := netip.PrefixFrom(a, bits)
		out = append(out, p)
		a = lastAddr(p).Next()
	}
	return out
}

// Contains says whether a packet with this address, protocol and port (0, false if it has none to look at) is selected.
func (s Selector) Contains(a netip.Addr, proto uint8, port uint16, hasPort bool) bool {
	if a.BitLen() != s.Start.BitLen() || a.Less(s.Start) || s.End.Less(a) {
		return false
	}
	if s.Protocol == 0 {
		return true
	}
	if s.Protocol != proto {
		return false
	}
	if s.opaque() {
		return !hasPort
	}
	if s.StartPort == 0 && s.EndPort == 65535 {
		return true
	}
	return hasPort && s.StartPort <= port && port <= s.EndPort
}

// Intersect is what both select; false if nothing.
func (s Selector) Intersect(o Selector) (Selector, bool) {
	if s.Start.BitLen() != o.Start.BitLen() {
		return Selector{}, false
	}
	r := s
	if r.Start.Less(o.Start) {
		r.Start = o.Start
	}
	if o.End.Less(r.End) {
		r.End = o.End
	}
	if r.End.Less(r.Start) {
		return Selector{}, false
	}
	switch {
	case r.Protocol == 0:
		r.Protocol, r.StartPort, r.EndPort = o.Protocol, o.StartPort, o.EndPort
		return r, true
	case o.Protocol == 0:
		return r, true
	case r.Protocol != o.Protocol:
		return Selector{}, false
	}
	if s.opaque() || o.opaque() {
		all := func(x Selector) bool { return x.opaque() || (x.StartPort == 0 && x.EndPort == 65535) }
		if all(s) && all(o) {
			r.StartPort, r.EndPort = 65535, 0
			return r, true
		}
		return Selector{}, false
	}
	r.StartPort, r.EndPort = max(s.StartPort, o.StartPort), min(s.EndPort, o.EndPort)
	return r, r.StartPort <= r.EndPort
}

// Covers says whether everything o selects is selected by s.
func (s Selector) Covers(o Selector) bool {
	r, ok := s.Intersect(o)
	return ok && r == o
}

// Narrow is the part of offered that is allowed, in the order offered, without what another of its members covers
// (RFC 7296, section 2.9). It is empty when nothing is left: TS_UNACCEPTABLE.
func Narrow(offered, allowed []Selector) []Selector {
	var out []Selector
	for _, o := range offered {
		for _, a := range allowed {
			r, ok := o.Intersect(a)
			if !ok || coveredBy(r, out) {
				continue
			}
			out = append(out, r)
		}
	}
	return out
}

func coveredBy(s Selector, set []Selector) bool {
	for _, c := range set {
		if c.Covers(s) {
			return true
		}
	}
	return false
}

// Subset says whether every member of inner is covered by a member of outer.
func Subset(inner, outer []Selector) bool {
	for _, s := range inner {
		if !coveredBy(s, outer) {
			return false
		}
	}
	return true
}

// Flow is what a packet looks like to a selector.
type Flow struct {
	Src, Dst         netip.Addr
	Protocol         uint8
	SrcPort, DstPort uint16 // ICMP: type*256+code in both
	HasPorts         bool   // false for fragments after the first and for protocols without ports
}

func (f Flow) String() string {
	if f.HasPorts {
		return fmt.Sprintf("%s %s:%d -> %s:%d", protocolName(f.Protocol), f.Src, f.SrcPort, f.Dst, f.DstPort)
	}
	return fmt.Sprintf("%s %s -> %s", protocolName(f.Protocol), f.Src, f.Dst)
}

// MatchFlow says whether some member of local selects one end of the flow and some member of remote the other end:
// the source is local for outbound traffic.
func MatchFlow(local, remote []Selector, f Flow, outbound bool) bool {
	la, lp, ra, rp := f.Src, f.SrcPort, f.Dst, f.DstPort
	if !outbound {
		la, lp, ra, rp = ra, rp, la, lp
	}
	return anyContains(local, la, f.Protocol, lp, f.HasPorts, !outbound) && anyContains(remote, ra, f.Protocol, rp, f.HasPorts, outbound)
}

// anyContains asks for one end of a packet. A type is sent, not received: OPAQUE at the end that receives it says only
// that this end does not send any (RFC 4301, section 4.4.1.3).
func anyContains(set []Selector, a netip.Addr, proto uint8, port uint16, has, receives bool) bool {
	for i := range set {
		s := set[i]
		if receives && s.opaque() && HasTypes(s.Protocol) {
			s.StartPort, s.EndPort = 0, 65535
		}
		if s.Contains(a, proto, port, has) {
			return true
		}
	}
	return false
}
