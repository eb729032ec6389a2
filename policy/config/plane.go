package config

import (
	"fmt"
	"slices"

	"coati/policy"
)

// What the kernel's ESP has not. A setting that asks for it is refused with plane = "xfrm", and keeps plane = "auto" in userspace:
// it is never ignored.

// userspaceChildren are keys of children, and when they ask for something that only userspace has.
var userspaceChildren = []struct {
	key  string
	asks func(*policy.Child) bool
}{
	{"esp", func(c *policy.Child) bool { return slices.ContainsFunc(c.ESP, missesInKernel) }},
	{"replay-window", func(c *policy.Child) bool { return c.ReplayWindow > 4096 }}, // XFRMA_REPLAY_ESN_MAX
	{"df", func(c *policy.Child) bool { return c.Header.DF != policy.DFSet }},
	{"dscp", func(c *policy.Child) bool { return c.Header.FixedDSCP }},
	{"hop-limit", func(c *policy.Child) bool { return c.Header.HopLimit != 0 }},
	{"flow-label", func(c *policy.Child) bool { return c.Header.CopyFlowLabel }},
	{"tfc", func(c *policy.Child) bool { return c.TFC != 0 }},
	{"fragment", func(c *policy.Child) bool { return c.FragmentAfter }},
	{"mss", func(c *policy.Child) bool { return c.MSS != 0 }},
	{"icmp-errors", func(c *policy.Child) bool { return c.ICMPErrors != policy.ICMPByEither }},
	{"dummy-interval", func(c *policy.Child) bool { return c.DummyInterval != 0 }},
}

// userspaceGateway are keys of [gateway] alike: the kernel minds the MTU of its paths itself.
var userspaceGateway = []struct {
	key  string
	asks func(*Gateway) bool
}{
	{"mtu-floor", func(g *Gateway) bool { return g.MTUFloor != DefaultMTUFloor }},
	{"mtu-aging", func(g *Gateway) bool { return g.MTUAging != DefaultMTUAging }},
	{"icmp-accept", func(g *Gateway) bool { return g.ICMPAccept != 0 }},
}

// missesInKernel says whether the proposal may end in an algorithm that the kernel has no name for.
func missesInKernel(p policy.Proposal) bool {
	return slices.ContainsFunc(p.Transforms, func(t policy.Transform) bool {
		a := t.Algorithm()
		return a != nil && (t.Type == policy.TransformENCR || t.Type == policy.TransformINTEG && t.ID != policy.IntegNone) && a.XFRM == ""
	})
}

// OnlyUserspace says in a few words which setting the kernel's ESP could not follow; empty if there is none.
func (c *Config) OnlyUserspace() string {
	for _, k := range userspaceGateway {
		if k.asks(&c.Gateway) {
			return k.key + " in [gateway]"
		}
	}
	for i := range c.Tunnels {
		t := &c.Tunnels[i]
		for j := range t.Children {
			for _, k := range userspaceChildren {
				if k.asks(&t.Children[j]) {
					return fmt.Sprintf("%s of %s/%s", k.key, t.Name, t.Children[j].Name)
				}
			}
		}
	}
	return ""
}

const notInKernel = "%s: the kernel's esp has no such choice: leave the key out, or say plane = \"user\" in [gateway]"

func (l *loader) checkPlane() {
	if l.config.Gateway.Plane != PlaneXFRM {
		return
	}
	for _, k := range userspaceGateway {
		if k.asks(&l.config.Gateway) {
			l.errorf(l.gatewayKeys[k.key], notInKernel, k.key)
		}
	}
	for _, d := range l.drafts {
		for i, c := range d.children {
			if i >= len(d.tunnel.Children) {
				break
			}
			child := &d.tunnel.Children[i]
			for _, k := range userspaceChildren {
				if k.asks(child) {
					l.errorf(c.keys[k.key], notInKernel, k.key)
				}
			}
			if selectsPorts(child) {
				l.warnf(c.at, "the kernel knows the ports of a packet's first fragment only: later fragments of what %s/%s selects by port are dropped (RFC 4301, section 7.3)", d.tunnel.Name, c.name)
			}
		}
	}
}

// selectsPorts says whether fragments after the first do not tell if the child carries them.
func selectsPorts(c *policy.Child) bool {
	for _, list := range [][]policy.Selector{c.Local, c.Remote} {
		for i := range list {
			if list[i].NamesPorts() {
				return true
			}
		}
	}
	return false
}
