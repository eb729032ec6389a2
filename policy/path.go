package policy

import (
	"fmt"
	"net/netip"
)

// Encap says how ESP travels between two gateways.
type Encap uint8

const (
	EncapRaw Encap = iota // IP protocol 50 (RFC 4303)
	EncapUDP              // in UDP (RFC 3948)
)

func (e Encap) String() string {
	switch e {
	case EncapRaw:
		return "esp"
	case EncapUDP:
		return "udp"
	}
	return fmt.Sprintf("encap(%d)", uint8(e))
}

// Path is one conversation between two gateways: both addresses with their UDP ports, and how ESP is
// carried. IKE messages use the ports; raw ESP ignores them.
type Path struct {
	Local, Remote netip.AddrPort
	Encap         Encap
}

func (p Path) String() string {
	return fmt.Sprintf("%s -> %s", p.Local, p.Remote)
}

// Unmap removes the IPv4-in-IPv6 form from both addresses, so that paths can be compared.
func (p Path) Unmap() Path {
	p.Local = netip.AddrPortFrom(p.Local.Addr().Unmap(), p.Local.Port())
	p.Remote = netip.AddrPortFrom(p.Remote.Addr().Unmap(), p.Remote.Port())
	return p
}
