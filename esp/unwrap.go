package esp

import (
	"coati/packet"
	"coati/policy"
)

// unwrap turns decrypted text into an inner packet and hands it on; the result is its length, 0 if it was dropped.
func (in *Inbound) unwrap(sa *inSA, text []byte, run *Datagrams) int {
	if sa.tr.transport {
		return in.restore(sa, text, run)
	}
	outerTOS := run.TOS
	next := text[len(text)-1]
	inner, ok := stripPadding(text)
	if !ok {
		in.drop(sa, DropPadding, 1)
		return 0
	}
	switch next {
	case packet.ProtoNoNext:
		in.drop(sa, DropDummy, 1) // RFC 4303, section 2.6: without a word
		return 0
	case packet.ProtoIPv4, packet.ProtoIPv6:
	default:
		in.drop(sa, DropInner, 1)
		return 0
	}
	i := &in.info
	// Octets behind the packet's own length are traffic-flow padding (RFC 4303, section 2.7).
	if packet.Parse(inner, i) != nil || (i.Version == 4) != (next == packet.ProtoIPv4) {
		in.drop(sa, DropInner, 1)
		return 0
	}
	pkt := inner[:i.Length]
	if i.Version == 4 && !packet.IPv4(pkt).ChecksumOK() {
		in.drop(sa, DropInner, 1)
		return 0
	}
	if overwrites(pkt, i) {
		in.drop(sa, DropInner, 1)
		return 0
	}
	if i.Fragment && sa.stateful {
		return in.takeFragment(sa, pkt, outerTOS)
	}
	if why, ok := in.permitted(sa, pkt); !ok {
		in.drop(sa, why, 1)
		return 0
	}
	if !applyECN(pkt, i.TOS, outerTOS) {
		in.drop(sa, DropECN, 1)
		return 0
	}
	if outerTOS&packet.ECNMask != 0 {
		i.TOS = tosOf(pkt)
	}
	if i.Protocol == packet.ProtoTCP && i.HasPorts && packet.TCP(pkt[i.Transport:]).Flags()&packet.TCPSyn != 0 {
		clampMSS(pkt, i, int(sa.mtu.Load()), sa.config.MSS)
	}
	in.join.add(pkt, i)
	return i.Length
}

func tosOf(pkt []byte) byte {
	if pkt[0]>>4 == 4 {
		return packet.IPv4(pkt).TOS()
	}
	return packet.IPv6(pkt).TrafficClass()
}

// stripPadding takes the ESP trailer off, and checks the padding: 1, 2, 3, ... (RFC 4303, section 2.4).
func stripPadding(text []byte) ([]byte, bool) {
	end := len(text) - espTrailer
	pad := int(text[end])
	if pad > end {
		return nil, false
	}
	for i, b := range text[end-pad : end] {
		if b != byte(i+1) {
			return nil, false
		}
	}
	return text[:end-pad], true
}

// selected says whether the SA may carry the packet that in.info describes (RFC 4301, section 5.2, step 4).
func (in *Inbound) selected(sa *inSA) bool {
	if in.lastSA == sa && in.lastKey == in.info.FlowKey && !sa.config.ByPolicy {
		return true
	}
	if !in.mayCarry(sa, flowOf(&in.info)) {
		return false
	}
	in.lastSA, in.lastKey = sa, in.info.FlowKey
	return true
}

// mayCarry is selected for any flow.
func (in *Inbound) mayCarry(sa *inSA, flow policy.Flow) bool {
	return policy.MatchFlow(sa.config.Local, sa.config.Remote, flow, false) && (!sa.config.ByPolicy || in.admitted(sa, flow))
}

// admitted says whether the first inbound policy that selects the flow asks for this SA. What no policy selects may come in
// transport mode, where the SA's own addresses say enough, but not out of a tunnel.
func (in *Inbound) admitted(sa *inSA, flow policy.Flow) bool {
	e := in.plane.spdIn.Load().lookupInbound(flow)
	if e == nil {
		return sa.config.Mode == policy.Transport
	}
	return e.config.Action == policy.Protect && e.config.ReqID == sa.config.ReqID
}
