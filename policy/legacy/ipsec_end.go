package legacy

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"

	"coati/policy"
	"coati/policy/config"
)

// ends are left and right of a conn, and which of them is us.
type ipsecEnd struct {
	side string // left or right
	host string // as it was written
	at   config.Place
	addr netip.Addr // invalid: a name, %any or %defaultroute
}

func (e *ipsecEnd) any() bool { return e.host == "%any" || e.host == "%any6" || e.host == "%any4" }

func (e *ipsecEnd) routed() bool { return strings.HasPrefix(e.host, "%defaultroute") }

// theEnds tells us from the peer.
func (c *connReader) theEnds() (us, them ipsecEnd, ok bool) {
	both := [2]ipsecEnd{{side: "left"}, {side: "right"}}
	for i := range both {
		e := &both[i]
		p, set := c.params[e.side]
		e.host, e.at = p.value, p.at
		if !set {
			e.host, e.at = "%any", c.at
			if c.pluto && i == 1 {
				c.once(config.Error, c.at, "%s says no %s", clip(c.name), e.side)
				return us, them, false
			}
		}
		if a, err := netip.ParseAddr(e.host); err == nil && a.Zone() == "" {
			e.addr = a.Unmap()
			continue
		}
		switch {
		case e.any() || e.routed():
		case strings.HasPrefix(e.host, "%") || e.host == "" || strings.ContainsAny(e.host, ",/ "):
			c.once(config.Error, e.at, "want one address or host name, %%any or %%defaultroute")
			return us, them, false
		}
	}
	l, r := &both[0], &both[1]
	own := func(e *ipsecEnd) bool { return e.addr.IsValid() && c.host.Own(e.addr) }
	switch {
	case own(l) && own(r):
		c.once(config.Error, c.at, "%s: left and right are both addresses of this host", clip(c.name))
		return us, them, false
	case own(l):
		return *l, *r, true
	case own(r):
		return *r, *l, true
	case l.routed():
		return *l, *r, true
	case r.routed():
		return *r, *l, true
	case !l.any():
		c.once(config.Warning, c.at, "neither left nor right is an address of this host: left is taken for it")
	}
	return *l, *r, true
}

// identity is an end's identity in the words of the native file; empty: what the end is without any.
func (c *connReader) identity(e *ipsecEnd) (string, config.Place) {
	p, set := c.params[e.side+"id"]
	if !set || p.value == "" || p.value == "%fromcert" {
		return "", e.at
	}
	if p.value == "%myid" || strings.HasPrefix(p.value, "%") && p.value != "%any" {
		c.once(config.Error, p.at, "want an identity, %%any or %%fromcert")
		return "", p.at
	}
	return ipsecIdentity(p.value), p.at
}

// ipsecIdentity reads pluto's and strongSwan's forms of identities.
func ipsecIdentity(s string) string {
	s = strings.TrimSpace(s)
	kind, rest, typed := strings.Cut(s, ":")
	switch a, err := netip.ParseAddr(s); {
	case err == nil:
		return a.String()
	case s == "%any" || s == "%any6" || s == "0.0.0.0":
		return "any"
	case strings.HasPrefix(s, "@#"):
		return "keyid:0x" + strings.TrimPrefix(s[2:], "0x")
	case strings.HasPrefix(s, "@["):
		return "keyid:0x" + hex.EncodeToString([]byte(strings.TrimSuffix(s[2:], "]")))
	case strings.HasPrefix(s, "@@"):
		return "email:" + s[2:]
	case strings.HasPrefix(s, "@~"):
		return "dn:" + s[2:]
	case strings.HasPrefix(s, "@"):
		return "fqdn:" + s[1:]
	case typed && slices.Contains([]string{"fqdn", "dns"}, kind):
		return "fqdn:" + rest
	case typed && slices.Contains([]string{"email", "rfc822", "userfqdn"}, kind):
		return "email:" + rest
	case typed && kind == "keyid":
		return "keyid:" + rest
	case typed && kind == "asn1dn":
		return "dn:" + strings.TrimPrefix(rest, "#")
	case typed && (kind == "ipv4" || kind == "ipv6"):
		return rest
	case strings.HasPrefix(s, "/"):
		return "dn:" + strings.ReplaceAll(strings.Trim(s, "/"), "/", ", ")
	case strings.Contains(s, "="):
		return "dn:" + s
	case strings.Contains(s, "@"):
		return "email:" + s
	}
	return "fqdn:" + s
}

// subnets are what lies behind an end, as selectors; and whether they came from leftsubnets.
func (c *connReader) subnets(e *ipsecEnd, self netip.Addr) (out []string, at config.Place, pairs bool) {
	at = e.at
	list := ""
	if p, set := c.params[e.side+"subnets"]; set {
		list, at, pairs = strings.Trim(p.value, "{} "), p.at, true
	} else if p, set := c.params[e.side+"subnet"]; set {
		list, at = p.value, p.at
	}
	suffix := c.protoport(e)
	if list == "" || list == "%dynamic" {
		if !self.IsValid() {
			return nil, at, pairs
		}
		return []string{self.String() + suffix}, at, pairs
	}
	for _, s := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }) {
		if strings.HasPrefix(s, "vhost:") || strings.HasPrefix(s, "vnet:") || strings.HasPrefix(s, "%") {
			c.once(config.Error, at, "want prefixes: what a peer may choose for itself is not carried")
			return nil, at, pairs
		}
		if s == "0/0" {
			s = "0.0.0.0/0"
		}
		s = strings.ReplaceAll(strings.ReplaceAll(s, "%any", "any"), "/any]", "]")
		if !strings.Contains(s, "[") {
			s += suffix
		}
		if _, err := policy.ParseSelector(s); err != nil {
			c.once(config.Error, at, "%s", err)
			continue
		}
		out = append(out, s)
	}
	return out, at, pairs
}

// protoport is leftprotoport as the end of a selector.
func (c *connReader) protoport(e *ipsecEnd) string {
	p, set := c.params[e.side+"protoport"]
	if !set || p.value == "" {
		return ""
	}
	proto, port, _ := strings.Cut(p.value, "/")
	if proto == "0" || proto == "%any" || proto == "any" {
		return ""
	}
	n, err := upperProtocol(proto)
	if err != nil {
		c.once(config.Error, p.at, "want a protocol by name or number, and a port by number or %%any, as in udp/1701")
		return ""
	}
	name := "[" + protocolName(n)
	if n == protoICMPv6 {
		name = "[icmp6"
	}
	if port == "" || port == "%any" || port == "any" || port == "0" {
		return name + "]"
	}
	return name + "/" + port + "]"
}
