package config

import (
	"net/netip"
	"strings"

	"coati/policy"
)

// Addresses that are given to peers or asked of them: pool, dns, dns-domains, virtual-ip (RFC 7296, section 2.19).

const (
	maxPools     = 16
	maxDNS       = 8
	maxDomains   = 16
	maxDomainLen = 253 // octets, RFC 1035, section 2.3.4
)

// readPool takes prefixes and ranges. Of an IPv4 prefix the first and the last address are left out, of an IPv6 prefix the first one
// (RFC 4291, section 2.6.1): some hosts do not take them for addresses.
func (l *loader) readPool(d *draft, k setting) {
	words, _ := k.texts(l, "10.9.0.0/24")
	if len(words) > maxPools {
		k.errorf(l, "has %d ranges: want at most %d", len(words), maxPools)
		return
	}
	for _, w := range words {
		s, err := policy.ParseSelector(w.v.text)
		switch {
		case err != nil:
			w.errorf(l, "impossible range: %s", err)
			continue
		case s.Protocol != 0 || s.StartPort != 0 || s.EndPort != 65535 || s.Start.Is4In6():
			w.errorf(l, "%q is no range of addresses: want one such as \"10.9.0.0/24\" or \"10.9.0.10-10.9.0.99\"", w.v.text)
			continue
		}
		if strings.Contains(w.v.text, "/") && s.Start != s.End && s.Start.Next() != s.End {
			if s.Start = s.Start.Next(); s.Start.Is4() {
				s.End = s.End.Prev()
			}
		}
		for _, o := range d.tunnel.Pool {
			if _, both := s.Intersect(o); both {
				w.errorf(l, "%s and %s overlap", s, o)
			}
		}
		d.tunnel.Pool = append(d.tunnel.Pool, s)
	}
}

func (k setting) addresses(l *loader, example string, most int) (out []netip.Addr) {
	words, _ := k.texts(l, example)
	if len(words) > most {
		k.errorf(l, "has %d addresses: want at most %d", len(words), most)
		return nil
	}
	for _, w := range words {
		a, err := netip.ParseAddr(w.v.text)
		if err != nil || a.Zone() != "" || a.Is4In6() || a.IsMulticast() {
			w.errorf(l, "%q is no address", w.v.text)
			continue
		}
		out = append(out, a)
	}
	return out
}

func (l *loader) readDomains(d *draft, k setting) {
	words, _ := k.texts(l, "corp.example.org")
	if len(words) > maxDomains {
		k.errorf(l, "has %d domains: want at most %d", len(words), maxDomains)
		return
	}
	for _, w := range words {
		if len(w.v.text) > maxDomainLen || !hostName(w.v.text+".x") {
			w.errorf(l, "%q is no domain", w.v.text)
			continue
		}
		d.tunnel.Domains = append(d.tunnel.Domains, w.v.text)
	}
}

// finishAddresses checks what the keys mean together, before the children are read: a peer's address stands for remote-ts.
func (l *loader) finishAddresses(d *draft) {
	t := &d.tunnel
	if len(t.Pool) > 0 && len(t.VirtualIP) > 0 {
		l.errorf(d.keys["virtual-ip"], "virtual-ip: a tunnel that gives addresses to its peers does not ask them for one: leave out pool or virtual-ip")
	}
	for _, name := range []string{"dns", "dns-domains"} {
		if at, set := d.keys[name]; set && len(t.Pool) == 0 {
			l.errorf(at, "%s: is told to peers with their addresses: add pool", name)
		}
	}
	if at, set := d.keys["dns-domains"]; set && len(t.DNS) == 0 {
		l.errorf(at, "dns-domains: nobody can be asked about them: add dns (RFC 8598, section 3.1)")
	}
	families := map[bool]int{}
	for _, a := range t.VirtualIP {
		if families[a.Is4()]++; families[a.Is4()] > 1 {
			l.errorf(d.keys["virtual-ip"], "virtual-ip: one address of each family is asked for, not more")
		}
	}
	if _, set := d.keys["unique"]; !set && len(t.Pool) > 0 {
		t.Unique = policy.UniqueReplace
	}
}

// poolSites are the remote selectors of a child of a tunnel with a pool that names none.
func (d *draft) poolSites(at position) (out []sited) {
	for _, s := range d.tunnel.Pool {
		out = append(out, sited{s, at})
	}
	return out
}

func usualUnique(t *policy.PeerTunnel) policy.Unique {
	if len(t.Pool) > 0 {
		return policy.UniqueReplace
	}
	return policy.UniqueByContact
}

func (w *writer) addresses(t *policy.PeerTunnel) {
	if len(t.Pool) > 0 {
		ranges := make([]string, len(t.Pool))
		for i, s := range t.Pool {
			ranges[i] = s.Start.String() + "-" + s.End.String()
		}
		w.list("pool", ranges)
	}
	if len(t.DNS) > 0 {
		w.list("dns", words(t.DNS))
	}
	if len(t.Domains) > 0 {
		w.list("dns-domains", t.Domains)
	}
	if len(t.VirtualIP) > 0 {
		w.list("virtual-ip", words(t.VirtualIP))
	}
}

func words(as []netip.Addr) []string {
	out := make([]string, len(as))
	for i, a := range as {
		out[i] = a.String()
	}
	return out
}
