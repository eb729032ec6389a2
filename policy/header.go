package policy

// TunnelHeader says how the outer header of a tunnel packet is made (RFC 4301, section 5.1.2.1). The zero value is the default:
// DF set, DSCP copied, hop limit and flow label the machine's own. The ECN field follows RFC 6040, always.
type TunnelHeader struct {
	DF            DF // IPv4
	FixedDSCP     bool
	DSCP          uint8 // with FixedDSCP: 0 to 63
	HopLimit      uint8 // 0: the machine's
	CopyFlowLabel bool  // of IPv6 in IPv6
}

// DF says what becomes of "don't fragment" in the outer header.
type DF uint8

const (
	DFSet   DF = iota // always set: what does not fit is answered or cut before encryption
	DFCopy            // as the inner packet has it; set for IPv6
	DFClear           // never set
)

func (d DF) String() string { return [...]string{"set", "copy", "clear", "set"}[d&3] }

// TFCToMTU is the TFC of an SA whose packets are all as long as its MTU lets them be.
const TFCToMTU = -1
