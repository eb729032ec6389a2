package gateway

import (
	"log/slog"
	"slices"

	"coati/policy"
	"coati/policy/config"
	"coati/tun/xfrm"
)

// Where the kernel moves ESP everything else is as ever: the TUN, its routes and their source addresses, the sockets of IKE.
// A packet follows the route to the TUN, meets a policy of the kernel's on its way, and goes elsewhere. What no policy
// takes ends in the TUN, which nobody reads: nothing leaves in clear because a policy is missing.

// useKernel says whether the kernel is to move ESP. Only a choice that leaves no other is an error.
func (g *Gateway) useKernel(choice config.PlaneChoice) (bool, error) {
	switch {
	case g.config.Manual != nil && choice == config.PlaneXFRM:
		return false, errManualInKernel
	case choice == config.PlaneUser, g.config.InsecureNullCipher, g.config.Manual != nil:
		return false, nil
	}
	err := xfrm.Probe()
	if err != nil && choice == config.PlaneXFRM {
		return false, err
	}
	if err != nil {
		g.log.Info("esp stays in userspace", slog.String(keyReason, err.Error()))
	}
	return err == nil, nil
}

// openKernel takes the kernel for the carrier.
func (g *Gateway) openKernel(s config.Gateway) error {
	mark := g.machine.host.Mark()
	var err error
	// Our mark lets ESP pass by the routes to the TUN, as it does for our own sockets.
	g.kernel, err = xfrm.Open(xfrm.Config{Name: s.TUN, Mark: mark, Mask: mark, NeighbourPolicies: !s.NDBypass})
	if err == nil {
		g.carrier = g.kernel
	}
	return err
}

// prepareForKernel makes a socket of IKE's independent of the kernel's policies; on the NAT traversal port the kernel takes
// the ESP out of what comes.
func prepareForKernel(natt bool) func(fd int, v6 bool) error {
	return func(fd int, v6 bool) error {
		if err := xfrm.BypassSocket(fd, v6); err != nil || !natt {
			return err
		}
		return xfrm.DecapsulateSocket(fd)
	}
}

// inTunnelMode leaves the other children out. In transport mode the kernel sends ESP by the packet's own route, which must
// not lead to the TUN.
func inTunnelMode(tunnels []policy.PeerTunnel) []policy.PeerTunnel {
	out := slices.Clone(tunnels)
	for i := range out {
		out[i].Children = slices.DeleteFunc(slices.Clone(out[i].Children), func(c policy.Child) bool { return c.Mode != policy.Tunnel })
	}
	return out
}
