package ike

import (
	"net/netip"
	"strings"

	"coati/policy"
)

// Given is what a peer's configuration payload gave a tunnel of ours.
type Given struct {
	Tunnel    string
	Addresses []netip.Addr
	DNS       []netip.Addr
	Domains   []string // that are asked of DNS (RFC 8598); empty: all
}

// Selectors are those of these addresses, and of nothing else.
func Selectors(addrs []netip.Addr) []policy.Selector {
	out := make([]policy.Selector, len(addrs))
	for i, a := range addrs {
		out[i] = policy.AddrSelector(a)
	}
	return out
}

// IsHostAddress says whether a host can have an address: what a peer gives us goes onto a device.
func IsHostAddress(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.Is4In6() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// IsDomainName says whether a peer's string is one: it is shown to people and may end in files.
func IsDomainName(d string) bool {
	return d != "" && len(d) <= 253 && d[0] != '.' && d[0] != '-' &&
		strings.Trim(d, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == ""
}
