package esp

import "coati/packet"

// decapsulateECN is the inner field after a tunnel packet with the outer field arrived (RFC 6040, section 4.2, figure
// 4). ok is false where the packet must be dropped. The way in is normal mode (section 4.1): the outer field is a copy.
func decapsulateECN(inner, outer byte) (_ byte, ok bool) {
	inner, outer = inner&packet.ECNMask, outer&packet.ECNMask
	switch {
	case outer == packet.ECNCE:
		return packet.ECNCE, inner != packet.ECNNotECT
	case inner == packet.ECNECT0 && outer == packet.ECNECT1:
		return packet.ECNECT1, true
	}
	return inner, true
}

// applyECN changes the inner packet's field; false: drop it.
func applyECN(pkt []byte, tos, outer byte) bool {
	ecn, ok := decapsulateECN(tos, outer)
	if !ok {
		return false
	}
	if ecn != tos&packet.ECNMask {
		tos = tos&^packet.ECNMask | ecn
		if pkt[0]>>4 == 4 {
			packet.IPv4(pkt).SetTOS(tos)
		} else {
			packet.IPv6(pkt).SetTrafficClass(tos)
		}
	}
	return true
}
