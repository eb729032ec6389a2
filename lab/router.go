package lab

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
)

// A NAT is a pair with a router between: A has 192.168.7.2, and what it sends arrives at B from the router's address,
// 10.9.0.99, and a port the router chooses.
type NAT struct {
	*Pair
	Router *Host
}

// NewNAT makes such a pair. The router forgets a UDP mapping that was idle for so many seconds.
func NewNAT(t testing.TB, forget int) *NAT {
	t.Helper()
	p, name := newNetwork(t)
	n := &NAT{Pair: p, Router: newHost(t, p.dir, name+"n", "n", 99)}
	p.A = newHost(t, p.dir, name+"a", "a", 1)
	p.B = newHost(t, p.dir, name+"b", "b", 2)
	p.A.Outer4 = netip.MustParseAddr("192.168.7.2")
	link(t, n.Router, "eth0", p.B, "eth0")
	link(t, n.Router, "eth1", p.A, "eth0")
	mustRun(t, "ip", "-n", n.Router.Name, "link", "set", "eth1", "up")
	ready(t, n.Router, p.A, p.B)
	n.Router.AddAddress(t, "eth1", netip.MustParsePrefix("192.168.7.1/24"))
	mustRun(t, "ip", "-n", p.A.Name, "route", "add", "default", "via", "192.168.7.1")
	n.Masquerade(t, 20000)
	for _, name := range []string{"nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"} {
		n.Router.Sysctl(t, "net.netfilter."+name, fmt.Sprint(forget))
	}
	return n
}

// Masquerade gives new mappings ports from this one on, and forgets the old mappings.
func (n *NAT) Masquerade(t testing.TB, firstPort int) {
	t.Helper()
	n.Router.Write(t, "nat.nft", fmt.Sprintf(`table ip nat
delete table ip nat
table ip nat {
  chain out {
    type nat hook postrouting priority 100
    oifname "eth0" ip protocol udp masquerade to :%d-%d
    oifname "eth0" masquerade
  }
}
`, firstPort, firstPort+99))
	n.Router.Must(t, "nft", "-f", n.Router.Path("nat.nft"))
	n.Forget(t)
}

// Forget makes the router forget all mappings.
func (n *NAT) Forget(t testing.TB) {
	t.Helper()
	err := n.Router.Inside(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
	if err != nil {
		t.Fatal(err)
	}
}

// Behind makes a host in the LAN of this one, with the second address of its prefixes and a default route to it. The LAN
// addresses move from the loopback interface to the new link, so that this host forwards.
func (h *Host) Behind(t testing.TB) *Host {
	t.Helper()
	c := newHost(t, h.Path(""), h.Name+"c", h.label+"c", h.LAN4.As4()[1])
	c.LAN4, c.LAN6 = h.LAN4.Next(), h.LAN6.Next()
	link(t, h, "lan0", c, "eth0")
	for _, command := range [][]string{
		{"-n", h.Name, "addr", "del", h.LAN4.String() + "/24", "dev", "lo"},
		{"-n", h.Name, "addr", "del", h.LAN6.String() + "/64", "dev", "lo"},
		{"-n", h.Name, "link", "set", "lan0", "up"},
		{"-n", c.Name, "link", "set", "lo", "up"},
		{"-n", c.Name, "link", "set", "eth0", "up"},
	} {
		mustRun(t, "ip", command...)
	}
	h.AddAddress(t, "lan0", netip.PrefixFrom(h.LAN4, 24))
	h.AddAddress(t, "lan0", netip.PrefixFrom(h.LAN6, 64))
	c.AddAddress(t, "eth0", netip.PrefixFrom(c.LAN4, 24))
	c.AddAddress(t, "eth0", netip.PrefixFrom(c.LAN6, 64))
	mustRun(t, "ip", "-n", c.Name, "route", "add", "default", "via", h.LAN4.String())
	mustRun(t, "ip", "-n", c.Name, "-6", "route", "add", "default", "via", h.LAN6.String())
	return c
}

// Third joins another host to A, by a link of its own: C has 10.8.0.3 and, as LAN, 10.3.0.0/24; A has 10.8.0.1 there.
func (p *Pair) Third(t testing.TB) *Host {
	t.Helper()
	c := newHost(t, p.dir, p.A.Name+"c", "c", 3)
	c.Outer4 = netip.MustParseAddr("10.8.0.3")
	link(t, p.A, "eth1", c, "eth0")
	mustRun(t, "ip", "-n", p.A.Name, "link", "set", "eth1", "up")
	ready(t, c)
	p.A.AddAddress(t, "eth1", netip.MustParsePrefix("10.8.0.1/24"))
	return c
}
