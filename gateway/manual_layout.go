package gateway

import (
	"errors"
	"net/netip"
	"slices"

	"coati/esp"
	"coati/policy"
	"coati/tun"
)

// What manual policies and associations mean for the machine.

// manualLayout is what the machine must hold for them.
type manualLayout struct {
	policies []policy.Policy
	routes   []manualRoute
	peers    []policy.PeerTunnel // only their addresses count
}

// manualRoute leads what an outbound policy selects to us.
type manualRoute struct {
	dst     netip.Prefix
	local   []policy.Selector
	carried []policy.SA // what may carry it: algorithms and path
	tunnel  bool        // it is protected in tunnel mode
}

// withPeers are the tunnels and, as tunnels that negotiate nothing, the ends of manual associations.
func (m *machine) withPeers(tunnels []policy.PeerTunnel) []policy.PeerTunnel {
	return slices.Concat(tunnels, m.manual.peers)
}

// addManual adds to a layout what manual policies need: their entries in the SPD, routes, MTU and loose filters.
func (l *layout) addManual(m manualLayout, w world) {
	if len(m.policies)+len(m.peers) == 0 {
		return
	}
	l.policies = append(l.policies, m.policies...)
	at := make(map[netip.Prefix]int, len(l.routes))
	for i, r := range l.routes {
		at[r.Dst] = i
	}
	for _, r := range m.routes {
		if l.kernel && !r.tunnel {
			continue // the kernel's policies see it wherever it goes, and in transport mode ESP goes the same way
		}
		mtu := r.mtu(w)
		l.mtu = max(l.mtu, mtu)
		if r.dst.Addr().Is6() {
			mtu = max(mtu, leastMTU)
		}
		route := tun.Route{Dst: r.dst, Src: source(r.local, r.dst, w.addresses), MTU: mtu}
		i, known := at[r.dst]
		if !known {
			at[r.dst] = len(l.routes)
			l.routes = append(l.routes, route)
			continue
		}
		l.routes[i].MTU = min(l.routes[i].MTU, route.MTU)
		if !l.routes[i].Src.IsValid() {
			l.routes[i].Src = route.Src
		}
	}
	l.strict = ambiguous(slices.Concat(l.tunnels, m.peers), l.routes, w)
}

// mtu is the largest inner packet that fits all that may carry it.
func (r *manualRoute) mtu(w world) int {
	best := 0
	for i := range r.carried {
		sa := &r.carried[i]
		remote, outer := sa.Path.Remote.Addr(), defaultMTU
		if u, err := w.uplink(remote); err == nil && u.MTU > 0 {
			outer = u.MTU
		}
		if m := esp.InnerMTU(outer, remote.Is6(), sa.Path.Encap == policy.EncapUDP, sa.Mode, sa.Encryption, sa.Integrity); m > 0 && (best == 0 || m < best) {
			best = m
		}
	}
	if best == 0 {
		return leastMTU
	}
	return best
}

// changeManual goes from one layout to another. Old and new live side by side until all that can fail has been done: on an
// error the old one is as it was, and nothing of first and last stays.
func (m *machine) changeManual(next manualLayout, first, last policy.Tx) error {
	before := m.manual
	m.manual = next
	err := m.listeners.set(localAddresses(m.withPeers(m.layout.tunnels)))
	if err == nil {
		m.adding = first.AddSAs
		err = m.relay(m.layout.tunnels)
		m.adding = nil
	}
	if err == nil {
		err = m.plane.Apply(last)
	}
	if err == nil {
		return m.retire()
	}
	m.manual = before
	var undo policy.Tx
	for _, sa := range first.AddSAs {
		if _, gone := m.plane.State(sa.ID); gone == nil {
			undo.DeleteSAs = append(undo.DeleteSAs, sa.ID)
		}
	}
	return errors.Join(err, m.plane.Apply(undo), m.listeners.set(localAddresses(m.withPeers(m.layout.tunnels))), m.relay(m.layout.tunnels), m.retire())
}
