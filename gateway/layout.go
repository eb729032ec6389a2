package gateway

import (
	"cmp"
	"net"
	"net/netip"
	"slices"

	"coati/esp"
	"coati/policy"
	"coati/tun"
)

// What a configuration means for this machine: numbers for children, entries of the SPD, routes with their MTU and source,
// and which uplinks need a loose reverse-path filter. Nothing here changes anything; machine.go does.

const (
	// defaultMTU is taken for a path nobody knows yet, octets.
	defaultMTU = 1500
	// leastMTU keeps IPv6 alive on the device (RFC 8200, section 5), octets.
	leastMTU = 1280
)

// numbers gives children their numbers, and keeps them as long as the child is the same: what has its old numbers is not
// disturbed by a reload.
type numbers struct {
	reqID  uint32
	policy policy.PolicyID
	given  map[string]numbered // by tunnel/child
}

type numbered struct {
	child   policy.Child // without numbers
	reqID   uint32
	out, in policy.PolicyID
}

// assign returns copies of the tunnels, with numbers. It does not remember them: keep does.
func (n *numbers) assign(tunnels []policy.PeerTunnel) []policy.PeerTunnel {
	out := slices.Clone(tunnels)
	for i := range out {
		t := &out[i]
		t.Children = slices.Clone(t.Children)
		for j := range t.Children {
			c := &t.Children[j]
			g, known := n.given[t.Name+"/"+c.Name]
			if !known || !g.child.SameSA(c) {
				n.reqID++
				n.policy += 2
				g = numbered{reqID: n.reqID, out: n.policy - 1, in: n.policy}
			}
			c.ReqID, c.OutPolicy, c.InPolicy = g.reqID, g.out, g.in
		}
	}
	return out
}

// keep remembers the numbers of what is configured from now on.
func (n *numbers) keep(tunnels []policy.PeerTunnel) {
	n.given = make(map[string]numbered)
	for _, t := range tunnels {
		for _, c := range t.Children {
			g := numbered{child: c, reqID: c.ReqID, out: c.OutPolicy, in: c.InPolicy}
			g.child.ReqID, g.child.OutPolicy, g.child.InPolicy = 0, 0, 0
			n.given[t.Name+"/"+c.Name] = g
		}
	}
}

// world is what a layout must know of the machine.
type world struct {
	addresses []ownAddress
	uplink    func(netip.Addr) (tun.Uplink, error)
}

type ownAddress struct {
	device string
	prefix netip.Prefix
}

// look finds the addresses of the network namespace of this thread.
func look(uplink func(netip.Addr) (tun.Uplink, error)) (world, error) {
	w := world{uplink: uplink}
	devices, err := net.Interfaces()
	if err != nil {
		return w, err
	}
	for _, d := range devices {
		addrs, err := d.Addrs()
		if err != nil {
			// It went away meanwhile.
			continue
		}
		for _, a := range addrs {
			ipn, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			ip, ok := netip.AddrFromSlice(ipn.IP)
			if !ok {
				continue
			}
			ones, _ := ipn.Mask.Size()
			w.addresses = append(w.addresses, ownAddress{d.Name, netip.PrefixFrom(ip.Unmap(), ones)})
		}
	}
	return w, nil
}

// view is the part of the world a layout depends on, to be compared with a later one.
type view struct {
	addresses []ownAddress
	uplinks   map[netip.Addr]tun.Uplink // by peer
}

func (w world) view(tunnels []policy.PeerTunnel) view {
	v := view{addresses: w.addresses, uplinks: map[netip.Addr]tun.Uplink{}}
	peers := slices.Clone(somewhere[:])
	for i := range tunnels {
		if tunnels[i].Remote.IsValid() {
			peers = append(peers, tunnels[i].Remote)
		}
	}
	for _, p := range peers {
		if u, err := w.uplink(p); err == nil {
			v.uplinks[p] = u
		}
	}
	return v
}

// layout is everything the machine must hold for a configuration.
type layout struct {
	tunnels  []policy.PeerTunnel
	policies []policy.Policy
	routes   []tun.Route
	mtu      int                      // of the device, octets
	sizes    map[uint32]*policy.Child // children with a word about packet sizes, by reqid
	strict   []string                 // uplinks whose reverse-path filter must not be strict
	kernel   bool                     // the kernel moves ESP
}

// somewhere stands for a peer whose address nobody knows: documentation addresses (RFC 5737, RFC 3849) that only a
// default route leads to.
var somewhere = [2]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}

// lay works out the layout of numbered tunnels.
func lay(tunnels []policy.PeerTunnel, w world) layout {
	l := layout{tunnels: tunnels, mtu: leastMTU, sizes: map[uint32]*policy.Child{}}
	byPrefix := map[netip.Prefix]int{} // index in routes
	for i := range tunnels {
		t := &tunnels[i]
		for j := range t.Children {
			c := &t.Children[j]
			l.policies = append(l.policies, entries(t.Name, c)...)
			if c.FragmentAfter || c.MSS != 0 || c.ICMPErrors != 0 || c.DummyInterval != 0 {
				l.sizes[c.ReqID] = c
			}
			mtu := childMTU(t, c, w)
			l.mtu = max(l.mtu, mtu)
			for _, p := range remotePrefixes(c) {
				r := tun.Route{Dst: p, Src: source(c.Local, p, w.addresses), MTU: mtu}
				if p.Addr().Is6() {
					r.MTU = max(r.MTU, leastMTU)
				}
				at, known := byPrefix[p]
				if !known {
					byPrefix[p] = len(l.routes)
					l.routes = append(l.routes, r)
					continue
				}
				l.routes[at].MTU = min(l.routes[at].MTU, r.MTU)
				if !l.routes[at].Src.IsValid() {
					l.routes[at].Src = r.Src
				}
			}
		}
	}
	l.strict = ambiguous(tunnels, l.routes, w)
	return l
}

// entries are a child's two entries in the SPD.
func entries(tunnel string, c *policy.Child) []policy.Policy {
	out := policy.Policy{
		ID: c.OutPolicy, Name: tunnel + "/" + c.Name, Direction: policy.Outbound, Priority: c.Priority, Action: policy.Protect, Level: c.Level,
		Local: c.Local, Remote: c.Remote, ReqID: c.ReqID, Mode: c.Mode,
	}
	in := out
	in.ID, in.Direction = c.InPolicy, policy.Inbound
	return []policy.Policy{out, in}
}

func remotePrefixes(c *policy.Child) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range c.Remote {
		for _, p := range s.Prefixes() {
			if !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	return out
}

// childMTU is the largest inner packet that fits the path to the peer, whichever of the proposed algorithms is agreed
// upon, and in UDP unless that was ruled out.
func childMTU(t *policy.PeerTunnel, c *policy.Child, w world) int {
	outer, v6 := defaultMTU, t.Local.Is6() || t.Remote.Is6()
	peers := []netip.Addr{t.Remote}
	if !t.Remote.IsValid() {
		peers = somewhere[:]
	}
	for _, p := range peers {
		if u, err := w.uplink(p); err == nil && u.MTU > 0 {
			outer = u.MTU
			break
		}
	}
	if t.RemoteHost != "" && !t.Local.IsValid() {
		// A name may mean either family.
		v6 = true
	}
	best := 0
	for _, p := range c.ESP {
		integs := p.Of(policy.TransformINTEG)
		if len(integs) == 0 {
			integs = []policy.Transform{{}}
		}
		for _, enc := range p.Of(policy.TransformENCR) {
			for _, integ := range integs {
				if a := enc.Algorithm(); a != nil && a.AEAD {
					integ = policy.Transform{}
				}
				if m := esp.InnerMTU(outer, v6, t.Encap != policy.EncapForceESP, c.Mode, enc, integ); m > 0 && (best == 0 || m < best) {
					best = m
				}
			}
		}
	}
	if best == 0 {
		return leastMTU
	}
	return best
}

// source is an address of ours that the child's policy takes as a local end; invalid where the policy takes any, and the
// kernel's choice is as good.
func source(local []policy.Selector, dst netip.Prefix, own []ownAddress) netip.Addr {
	for _, s := range local {
		if s.Start.BitLen() != dst.Addr().BitLen() {
			continue
		}
		if p, ok := s.Prefix(); ok && p.Bits() == 0 {
			return netip.Addr{}
		}
		for _, a := range own {
			ip := a.prefix.Addr()
			if ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.BitLen() != dst.Addr().BitLen() {
				continue
			}
			if !ip.Less(s.Start) && !s.End.Less(ip) {
				return ip
			}
		}
	}
	return netip.Addr{}
}

// ambiguous lists the uplinks on which a strict reverse-path filter would drop what we need: our routes cover the peer, or
// its neighbours on the link, so that the way back seems to lead into the TUN. Only IPv4 has the filter.
func ambiguous(tunnels []policy.PeerTunnel, routes []tun.Route, w world) []string {
	covered := overlap(routes)
	var out []string
	for i := range tunnels {
		t := &tunnels[i]
		if t.Remote.Is6() || t.Local.Is6() {
			continue
		}
		peer := cmp.Or(t.Remote, somewhere[0])
		u, err := w.uplink(peer)
		if err != nil || u.Name == "" || u.Name == "lo" || slices.Contains(out, u.Name) {
			continue
		}
		need := covered(netip.PrefixFrom(peer, peer.BitLen()))
		for _, a := range w.addresses {
			need = need || a.device == u.Name && a.prefix.Addr().Is4() && covered(a.prefix.Masked())
		}
		if need {
			out = append(out, u.Name)
		}
	}
	return out
}

// overlap returns a function that says whether a prefix overlaps any route's: two prefixes do so only if one is within the
// other.
func overlap(routes []tun.Route) func(netip.Prefix) bool {
	all := make(map[netip.Prefix]bool, len(routes))
	first := make([]netip.Addr, 0, len(routes))
	for _, r := range routes {
		dst := r.Dst.Masked()
		all[dst] = true
		first = append(first, dst.Addr())
	}
	slices.SortFunc(first, netip.Addr.Compare)
	return func(p netip.Prefix) bool {
		p = p.Masked()
		for bits := range p.Bits() + 1 {
			if wider, err := p.Addr().Prefix(bits); err == nil && all[wider] {
				return true
			}
		}
		// What is left is narrower.
		i, _ := slices.BinarySearchFunc(first, p.Addr(), netip.Addr.Compare)
		return i < len(first) && p.Contains(first[i])
	}
}
