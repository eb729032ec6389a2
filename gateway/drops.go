package gateway

import (
	"maps"
	"slices"

	"coati/esp"
	"coati/gateway/control"
)

// ownReason says why a packet or message was not delivered, where the plane never saw it.
type ownReason uint8

const (
	dropClear ownReason = iota
	dropSocketFull
	dropTUNFull
	dropIKEFull
	dropIKEMalformed
	dropIKESPI
	dropIKEVersion
	dropIKEHalfOpen
	numOwnReasons
)

// ownReasons are the second table of docs/drops.md.
var ownReasons = [numOwnReasons]struct{ name, xfrm, when string }{
	dropClear:        {"clear packet where a policy protects", "XfrmInTmplMismatch", "the guard dropped it (RFC 4301, section 5.2, step 3a)"},
	dropSocketFull:   {"socket buffer full", "XfrmInBufferError", "ESP or IKE came faster than it was read"},
	dropTUNFull:      {"tun queue full", "XfrmOutError", "packets for the TUN came faster than they were read"},
	dropIKEFull:      {"ike queue full", "", "IKE messages came faster than they were handled"},
	dropIKEMalformed: {"malformed ike message", "", "no message of RFC 7296, section 3"},
	dropIKESPI:       {"unknown ike spi", "", "no IKE SA has the SPIs (RFC 7296, section 2.21.4)"},
	dropIKEVersion:   {"wrong ike version", "", "a version we do not speak (RFC 7296, section 2.5)"},
	dropIKEHalfOpen:  {"too many half-open ike sas", "", "more peers began than may be unproven at a time (RFC 7296, section 2.6)"},
}

// dropCounts puts the counters in the order of their names.
func dropCounts(drops map[string]uint64) []control.Drop {
	xfrm := esp.XFRMNames()
	for _, r := range ownReasons {
		xfrm[r.name] = r.xfrm
	}
	out := make([]control.Drop, 0, len(drops))
	for _, name := range slices.Sorted(maps.Keys(drops)) {
		out = append(out, control.Drop{Reason: name, XFRM: xfrm[name], Packets: drops[name]})
	}
	return out
}
