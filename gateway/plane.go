package gateway

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"coati/ike"
	"coati/policy"
	"coati/policy/config"
	"coati/policy/legacy"
	"coati/tun/xfrm"
)

// Where the kernel moves ESP everything else is as ever: the TUN, its routes and their source addresses, the sockets of IKE.
// A packet follows the route to the TUN, meets a policy of the kernel's on its way, and goes elsewhere. What no policy of the
// kernel's takes comes out of the TUN to the userspace plane, which has the same policies and no SAs: it passes on in clear what
// they let pass (manual bypasses, level use), and the rest ends there. Nothing leaves in clear because one of the kernel's is missing.

// entries are the SAs of whoever moves ESP.
func (g *Gateway) entries(keys bool) []policy.SAEntry {
	if g.kernel != nil {
		return g.kernel.Entries(keys)
	}
	return g.plane.Entries(keys)
}

// useKernel says whether the kernel is to move ESP. Only a choice that leaves no other is an error.
func (g *Gateway) useKernel(choice config.PlaneChoice) (bool, error) {
	switch {
	case choice == config.PlaneUser, g.config.InsecureNullCipher:
		return false, nil
	case choice == config.PlaneAuto && g.config.Manual != nil:
		g.log.Info("esp stays in userspace", slog.String(keyReason, "manual keys go to the kernel where plane = \"xfrm\" says so"))
		return false, nil
	}
	if what := g.settings.OnlyUserspace(); what != "" && choice == config.PlaneAuto {
		g.log.Info("esp stays in userspace", slog.String(keyReason, what+": the kernel's esp has no such choice"))
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

// kernelMisses is the fault of a new configuration that asks for what the kernel, which carries esp already, has not.
func (g *Gateway) kernelMisses(next *config.Config) []config.Fault {
	if g.kernel == nil || next == nil {
		return nil
	}
	what := next.OnlyUserspace()
	if what == "" {
		return nil
	}
	return []config.Fault{{Message: what + ": the kernel carries esp and has no such choice: leave the key out, or restart with plane = \"user\" in [gateway]"}}
}

// openKernel takes the kernel for the carrier.
func (g *Gateway) openKernel(s config.Gateway) error {
	mark := g.machine.host.Mark()
	var err error
	// Our mark lets ESP pass by the routes to the TUN, as it does for our own sockets.
	g.kernel, err = xfrm.Open(xfrm.Config{Name: s.TUN, Mark: mark, Mask: mark, NeighbourPolicies: !s.NDBypass})
	if err != nil {
		return err
	}
	if _, err := g.machine.host.HoldWithoutSA(); err != nil {
		g.log.Warn("packets without an sa are refused by the kernel, not kept", slog.String(keyReason, err.Error()))
	}
	g.carrier, g.manual.first = g.kernel, firstGroupInKernel
	g.machine.beside, g.loop.beside = g.plane, g.plane.Events()
	return g.machine.egress.clear.Control(xfrm.BypassSocket)
}

var errCounterInKernel = errors.New("a fixed key with a counter mode is carried in userspace only, where its numbers are reserved ahead: set plane = \"user\" in [gateway], or use aes-cbc with hmac-sha256")

// kernelFaults finds manual policies the kernel cannot carry as the machine is laid out: in transport mode ESP goes the
// packet's own way, which must not lead to the TUN.
func kernelFaults(db *legacy.Database, tunnels []policy.PeerTunnel) []config.Fault {
	var led []netip.Prefix
	for _, t := range inTunnelMode(tunnels) {
		for i := range t.Children {
			led = append(led, remotePrefixes(&t.Children[i])...)
		}
	}
	for _, e := range db.Policies {
		if e.Direction == legacy.Out && e.Action == policy.Protect && e.Request.Mode == policy.Tunnel {
			led = append(led, e.Dst)
		}
	}
	var faults []config.Fault
	for _, e := range db.Policies {
		if e.Direction != legacy.Out || e.Action != policy.Protect || e.Request.Mode == policy.Tunnel {
			continue
		}
		for _, p := range led {
			if p.Overlaps(e.Dst) {
				faults = append(faults, config.Fault{File: e.File, Line: e.Line, Severity: config.Error, Message: fmt.Sprintf(
					"spdadd: the kernel cannot carry transport mode to %s beside a tunnel to %s: set plane = \"user\" in [gateway]", e.Dst, p)})
				break
			}
		}
	}
	return faults
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

// limits of the engine with what its carrier cannot do.
func (g *Gateway) limits() ike.Limits {
	l := g.config.Limits
	if l == (ike.Limits{}) {
		l = ike.DefaultLimits()
	}
	l.NoLaterFragments = l.NoLaterFragments || !g.carrier.Capabilities().LaterFragments
	return l
}
