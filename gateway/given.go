package gateway

import (
	"log/slog"
	"maps"
	"net/netip"
	"slices"

	"coati/ike"
	"coati/policy"
)

// Addresses that peers give us stand on the TUN device. They stay when the tunnel is down: it asks for the same ones again, and
// what is sent meanwhile has the right source. Another address, or a configuration that asks for none, takes them away.

// give puts what a peer gave a tunnel onto the machine, and narrows the tunnel's policies and routes to it.
func (m *machine) give(g ike.Given) error {
	old := m.given[g.Tunnel]
	if slices.Equal(old.Addresses, g.Addresses) {
		m.given[g.Tunnel] = g
		return nil
	}
	m.given[g.Tunnel] = g
	return m.relay(m.layout.tunnels)
}

// settleGiven makes the addresses of the device those of the tunnels that ask for some.
func (m *machine) settleGiven(tunnels []policy.PeerTunnel) error {
	maps.DeleteFunc(m.given, func(name string, _ ike.Given) bool {
		return !slices.ContainsFunc(tunnels, func(t policy.PeerTunnel) bool { return t.Name == name && len(t.VirtualIP) > 0 })
	})
	want := map[netip.Addr]bool{}
	for _, g := range m.given {
		for _, a := range g.Addresses {
			want[a] = true
		}
	}
	for a := range want {
		if !m.worn[a] {
			if err := m.device.AddAddress(netip.PrefixFrom(a, a.BitLen())); err != nil {
				return err
			}
			m.worn[a] = true
		}
	}
	for a := range m.worn {
		if !want[a] {
			if err := m.device.RemoveAddress(netip.PrefixFrom(a, a.BitLen())); err != nil {
				m.log.Warn("an address cannot be taken off the device", slog.String(keyReason, err.Error()))
			}
			delete(m.worn, a)
		}
	}
	return nil
}

// withGiven narrows the local ends of tunnels to the addresses they were given.
func (m *machine) withGiven(tunnels []policy.PeerTunnel) []policy.PeerTunnel {
	if len(m.given) == 0 {
		return tunnels
	}
	out := slices.Clone(tunnels)
	for i := range out {
		g, ok := m.given[out[i].Name]
		if !ok {
			continue
		}
		var own []policy.Selector
		for _, a := range g.Addresses {
			own = append(own, policy.AddrSelector(a))
		}
		out[i].Children = slices.Clone(out[i].Children)
		for j := range out[i].Children {
			c := &out[i].Children[j]
			if local := policy.Narrow(c.Local, own); len(local) > 0 {
				c.Local = local
			}
		}
	}
	return out
}
