package gateway

import (
	"cmp"
	"slices"

	"coati/packet"
	"coati/policy"
	"coati/tun"
)

// guardRules are what the inbound policies say of packets that come in clear (RFC 4301, section 5.2, step 3): one of an
// SA's, and one that is discarded in any case, must not; one that is bypassed, or protected only where there is an SA,
// may.
func guardRules(policies []policy.Policy) []tun.GuardRule {
	var in []policy.Policy
	for _, p := range policies {
		if p.Direction == policy.Inbound {
			in = append(in, p)
		}
	}
	slices.SortStableFunc(in, func(a, b policy.Policy) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.ID, b.ID))
	})
	var rules []tun.GuardRule
	for _, p := range in {
		pass := p.Action == policy.Bypass || p.Action == policy.Protect && p.Level == policy.LevelUse
		for _, remote := range p.Remote {
			for _, local := range p.Local {
				if r, ok := guardRule(remote, local); ok {
					r.Pass = pass
					rules = append(rules, r)
				}
			}
		}
	}
	return rules
}

// guardRule is one selector for each end; false where no packet can match both.
func guardRule(remote, local policy.Selector) (tun.GuardRule, bool) {
	r := tun.GuardRule{Src: tun.AddrRange{First: remote.Start, Last: remote.End}, Dst: tun.AddrRange{First: local.Start, Last: local.End}}
	if remote.Start.BitLen() != local.Start.BitLen() || remote.Protocol != 0 && local.Protocol != 0 && remote.Protocol != local.Protocol {
		return r, false
	}
	r.Protocol = max(remote.Protocol, local.Protocol)
	from, ok1 := guardPorts(remote, r.Protocol, false)
	to, ok2 := guardPorts(local, r.Protocol, true)
	r.SrcPort, r.DstPort = from, to
	return r, ok1 && ok2
}

// guardPorts are a selector's ports. OPAQUE means what has none: of a protocol with ports these are fragments whose
// first one another rule must drop. At the end that receives a type it means nothing (RFC 4301, section 4.4.1.3).
func guardPorts(s policy.Selector, proto uint8, receives bool) (tun.PortRange, bool) {
	switch {
	case s.Protocol == 0 || s.StartPort == 0 && s.EndPort == 65535:
		return tun.AnyPort, true
	case s.StartPort > s.EndPort:
		return tun.AnyPort, !packet.HasPorts(proto) || receives && policy.HasTypes(proto)
	}
	return tun.PortRange{First: s.StartPort, Last: s.EndPort}, packet.HasPorts(proto)
}
