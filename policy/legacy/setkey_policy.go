package legacy

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"

	"coati/policy"
)

// Protocol numbers that have a meaning here (IANA "Protocol Numbers").
const (
	protoICMP     = 1
	protoGRE      = 47
	protoICMPv6   = 58
	protoMobility = 135
)

// protocolNames are those of /etc/protocols that people write; the first of a number is printed.
var protocolNames = []struct {
	name   string
	number uint8
}{
	{"any", AnyProtocol},
	{"icmp", protoICMP},
	{"igmp", 2},
	{"ipencap", 4},
	{"ip4", 4},
	{"tcp", 6},
	{"udp", 17},
	{"dccp", 33},
	{"ipv6", 41},
	{"gre", protoGRE},
	{"esp", 50},
	{"ah", 51},
	{"ipv6-icmp", protoICMPv6},
	{"icmp6", protoICMPv6},
	{"icmpv6", protoICMPv6},
	{"ospf", 89},
	{"pim", 103},
	{"vrrp", 112},
	{"l2tp", 115},
	{"sctp", 132},
	{"mobility-header", protoMobility},
	{"udplite", 136},
}

// entry reads spdadd, spdupdate and spddelete; whole says that a policy follows the direction.
func (c *cursor) entry(whole bool) (*Entry, error) {
	if c.accept("tagged") {
		return nil, errors.New("policies by the tags of a packet filter are not carried")
	}
	e := &Entry{}
	bits, err := c.family()
	if err != nil {
		return nil, err
	}
	for _, end := range []struct {
		what   string
		prefix *netip.Prefix
		port   *uint16
	}{{"the source range", &e.Src, &e.SrcPort}, {"the destination range", &e.Dst, &e.DstPort}} {
		if *end.prefix, err = c.prefix(end.what, bits); err != nil {
			return nil, err
		}
		if *end.port, err = c.port(); err != nil {
			return nil, err
		}
	}
	if e.Src.Addr().BitLen() != e.Dst.Addr().BitLen() {
		return nil, fmt.Errorf("%s and %s are not of one family", e.Src, e.Dst)
	}
	if err := c.upper(e); err != nil {
		return nil, err
	}
	if !c.accept("-P") {
		if t, more := c.peek(); more {
			c.at++
			return nil, fmt.Errorf("want -P and a direction, not %s", c.say(t))
		}
		return nil, errors.New("ends where -P and a direction are expected")
	}
	return e, c.policy(e, whole)
}

func (c *cursor) prefix(what string, bits int) (netip.Prefix, error) {
	a, err := c.address(what, bits)
	if err != nil {
		return netip.Prefix{}, err
	}
	n := a.BitLen()
	if c.accept("/") {
		w, err := c.word("the length of a prefix")
		if err != nil {
			return netip.Prefix{}, err
		}
		if n, err = strconv.Atoi(w); err != nil || n < 0 || n > a.BitLen() {
			return netip.Prefix{}, fmt.Errorf("%s: the length of its prefix is 0 to %d, not %s", a, a.BitLen(), c.say(token{word, w, 0}))
		}
	}
	return netip.PrefixFrom(a, n).Masked(), nil
}

// upper reads the upper-layer protocol, and type and code of ICMP.
func (c *cursor) upper(e *Entry) error {
	w, err := c.word("the upper-layer protocol")
	if err != nil {
		return err
	}
	name, detail, has := strings.Cut(w, ",") // "icmp6,135,0" as well as "icmp6 135,0"
	if e.Protocol, err = upperProtocol(name); err != nil {
		return err
	}
	if t, ok := c.peek(); ok && !has && t.kind == word && !strings.HasPrefix(t.text, "-") {
		c.at++
		detail, has = t.text, true
	}
	ports := e.SrcPort != 0 || e.DstPort != 0
	switch e.Protocol {
	case protoICMP, protoICMPv6:
		if ports {
			return fmt.Errorf("%s has no ports: write type,code after it", name)
		}
		if has {
			return e.icmp(detail)
		}
		return nil
	case AnyProtocol:
		if ports {
			return errors.New("a port needs a protocol that has ports: write tcp or udp instead of any")
		}
	}
	if has {
		return fmt.Errorf("nothing is told apart within %s but ports, which stand in brackets behind the addresses", name)
	}
	return nil
}

func upperProtocol(name string) (uint8, error) {
	for _, p := range protocolNames {
		if p.name == name {
			return p.number, nil
		}
	}
	n, err := strconv.ParseUint(name, 10, 8)
	if err != nil {
		return 0, fmt.Errorf("%q is no upper-layer protocol: want any, tcp, udp, icmp, icmp6 or a number up to 255", clip(name))
	}
	if n == 0 {
		n = AnyProtocol // as in PF_KEY of Linux, where an SPD dump says either
	}
	return uint8(n), nil
}

// clip keeps a message short.
func clip(s string) string {
	if len(s) > 20 {
		return s[:20] + "..."
	}
	return s
}

func (e *Entry) icmp(detail string) error {
	kind, code, both := strings.Cut(detail, ",")
	t, err1 := strconv.ParseUint(kind, 10, 8)
	n, err2 := strconv.ParseUint(code, 10, 8)
	switch {
	case !both || err1 != nil || err2 != nil:
		return fmt.Errorf("want type,code of icmp, both from 0 to 255, not %q", clip(detail))
	case t == 0 && n != 0:
		return errors.New("an icmp type of 0 means any, and any type has no code of its own: write 0,0")
	}
	e.SrcPort, e.DstPort = uint16(t), uint16(n)
	return nil
}

func protocolName(n uint8) string {
	// setkey prints any as 255: the number has no name in /etc/protocols.
	for _, p := range protocolNames[1:] {
		if p.number == n {
			return p.name
		}
	}
	return strconv.Itoa(int(n))
}

// policy reads what follows -P.
func (c *cursor) policy(e *Entry, whole bool) error {
	w, err := c.word("a direction")
	if err != nil {
		return err
	}
	directions := map[string]Direction{"in": In, "out": Out, "fwd": Forward}
	d, ok := directions[w]
	if !ok {
		return fmt.Errorf("want the direction in, out or fwd, not %s", c.say(token{word, w, 0}))
	}
	e.Direction = d
	if !whole {
		c.at = len(c.tokens) // setkey ignores the rest as well
		return nil
	}
	if err := c.priority(e); err != nil {
		return err
	}
	if w, err = c.word("discard, none or ipsec"); err != nil {
		return err
	}
	switch w {
	case "discard":
		e.Action = policy.Discard
		return nil
	case "none":
		e.Action = policy.Bypass
		return nil
	case "ipsec":
		e.Action = policy.Protect
		return c.request(e)
	case "entrust", "bypass":
		return fmt.Errorf("%s is for policies of single sockets, which are not carried", w)
	}
	return fmt.Errorf("want discard, none or ipsec, not %s", c.say(token{word, w, 0}))
}

// bases of priorities, in the numbers of policy.Policy: a higher priority is a lower number.
var bases = map[string]int64{"low": 1 << 30, "def": 0, "high": -1 << 30}

const priorityForms = "want prio OFFSET, or low, def or high, with + or - and an offset if you like"

// priority reads "prio def + 5" and its other forms.
func (c *cursor) priority(e *Entry) error {
	if !c.accept("prio") && !c.accept("priority") {
		return nil
	}
	var text strings.Builder
	for {
		t, ok := c.peek()
		if !ok || t.kind != word || t.text == "ipsec" || t.text == "none" || t.text == "discard" {
			break
		}
		c.at++
		if text.Len() > 32 {
			return errors.New(priorityForms)
		}
		text.WriteString(t.text)
	}
	s := text.String()
	cut := strings.IndexAny(s, "+-")
	base, offset := s, "0"
	if cut >= 0 {
		base, offset = s[:cut], s[cut:]
	} else if _, known := bases[s]; !known {
		base, offset = "", s
	}
	from, ok := bases[base]
	n, err := strconv.ParseInt(offset, 10, 64)
	if base == "" {
		ok = !strings.HasPrefix(offset, "+") // setkey takes a bare number or a minus
	}
	v := from - n
	if !ok || err != nil || v < math.MinInt32 || v > math.MaxInt32 {
		return errors.New(priorityForms)
	}
	e.Priority = int32(v)
	return nil
}

// request reads protocol/mode/src-dst/level.
func (c *cursor) request(e *Entry) error {
	w, err := c.word("esp/mode/src-dst/level")
	if err != nil {
		return err
	}
	switch {
	case w == "ah" || w == "ipcomp":
		return errors.New(refusedProtocols[w])
	case w != "esp" || !c.accept("/"):
		return fmt.Errorf("want esp/mode/src-dst/level after ipsec, not %s", c.say(token{word, w, 0}))
	}
	if w, err = c.word("tunnel or transport"); err != nil {
		return err
	}
	r := &e.Request
	switch w {
	case "tunnel":
	case "transport":
		r.Mode = policy.Transport
	default:
		return fmt.Errorf("want esp/tunnel or esp/transport, not esp/%s", clip(w))
	}
	if c.accept("/") {
		if err := c.endpoints(r); err != nil {
			return err
		}
		if c.accept("/") {
			if err := c.level(r); err != nil {
				return err
			}
		}
	}
	if t, ok := c.peek(); ok {
		c.at++
		if t.kind == word && (t.text == "esp" || t.text == "ah" || t.text == "ipcomp") {
			return errors.New("more than one rule: bundles of security associations are not carried")
		}
		return fmt.Errorf("want the end of the policy, not %s", c.say(t))
	}
	if r.Mode == policy.Tunnel && !r.Src.IsValid() {
		return errors.New("a tunnel needs the addresses of its ends: esp/tunnel/src-dst/level")
	}
	return nil
}

// endpoints reads src-dst, which may be left out: each address with a port in brackets, of ESP in UDP.
func (c *cursor) endpoints(r *Request) error {
	t, ok := c.peek()
	if !ok || t.kind != word {
		return nil
	}
	c.at++
	src, dst, both := strings.Cut(t.text, "-")
	if src == "me" || src == "any" {
		return errors.New("me and any are for policies of single sockets: write addresses")
	}
	if !both {
		var err error
		if r.SrcPort, err = c.port(); err != nil {
			return err
		}
		next, ok := c.peek()
		if !ok || next.kind != word || !strings.HasPrefix(next.text, "-") {
			return fmt.Errorf("want both ends of the tunnel as src-dst, not %q", clip(t.text))
		}
		c.at++
		dst = next.text[1:]
	}
	var err1, err2, err3 error
	r.Src, err1 = netip.ParseAddr(src)
	r.Dst, err2 = netip.ParseAddr(dst)
	r.DstPort, err3 = c.port()
	switch {
	case err1 != nil || err2 != nil:
		return fmt.Errorf("want both ends of the tunnel as addresses, src-dst, not %q: names are not resolved", clip(t.text))
	case err3 != nil:
		return err3
	case r.Src.Zone() != "" || r.Dst.Zone() != "" || r.Src.Is4In6() || r.Dst.Is4In6():
		return fmt.Errorf("want plain addresses as the ends of the tunnel, not %q", clip(t.text))
	case r.Src.BitLen() != r.Dst.BitLen():
		return fmt.Errorf("%s and %s are not of one family", r.Src, r.Dst)
	}
	return nil
}

func (c *cursor) level(r *Request) error {
	t, ok := c.peek()
	if !ok || t.kind != word {
		r.Level = policy.LevelDefault
		return nil
	}
	c.at++
	name, number, has := strings.Cut(t.text, ":")
	levels := map[string]policy.Level{"default": policy.LevelDefault, "use": policy.LevelUse, "require": policy.LevelRequire, "unique": policy.LevelUnique}
	l, known := levels[name]
	if !known || has && l != policy.LevelUnique {
		return fmt.Errorf("want the level default, use, require, unique or unique:NUMBER, not %q", clip(t.text))
	}
	r.Level = l
	if has {
		n, err := strconv.ParseUint(number, 10, 31)
		if err != nil || n == 0 {
			return fmt.Errorf("want unique: and a number from 1 to %d, that of -u, not %q", math.MaxInt32, clip(t.text))
		}
		r.ReqID = uint32(n)
	}
	return nil
}
