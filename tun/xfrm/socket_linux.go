package xfrm

import (
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	udpEncap = 100 // UDP_ENCAP of linux/udp.h
	// optPolicy4 and optPolicy6 are IP_XFRM_POLICY and IPV6_XFRM_POLICY.
	optPolicy4, optPolicy6 = 17, 35
)

// BypassSocket lets a UDP socket of IKE's speak and hear in clear whatever the policies say: a policy of the socket's own
// goes before all others, and ends with it.
func BypassSocket(fd int, v6 bool) error {
	level, opt, family := unix.IPPROTO_IP, optPolicy4, uint16(familyIPv4)
	if v6 {
		level, opt, family = unix.IPPROTO_IPV6, optPolicy6, familyIPv6
	}
	for _, dir := range []uint8{dirIn, dirOut} {
		b := make([]byte, sizePolicy)
		(&selector{Family: family}).put(b)
		for i := range 4 {
			native.PutUint64(b[sizeSelector+8*i:], infinite)
		}
		b[160], b[161] = dir, actionAllow
		if err := unix.SetsockoptString(fd, level, opt, string(b)); err != nil {
			return fmt.Errorf("bypass of the ipsec policies for ike: %w", err)
		}
	}
	return nil
}

// DecapsulateSocket lets the kernel take ESP (RFC 3948) from what comes to a UDP socket. IKE messages, with their marker, and
// keepalives still reach the socket. Receive offload must be off: the kernel would take a run of packets for one.
func DecapsulateSocket(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_UDP, udpEncap, encapESPInUDP); err != nil {
		return fmt.Errorf("esp in udp by the kernel: %w", err)
	}
	return nil
}
