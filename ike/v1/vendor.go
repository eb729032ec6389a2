package v1

import (
	"bytes"
	"slices"

	"coati/ike/wire"
	"coati/policy"
)

func vendor(id []byte) wire.Payload {
	return &wire.V1Opaque{Type: wire.PayloadV1VendorID, Data: id}
}

func (m *message) says(id []byte) bool {
	return slices.ContainsFunc(m.all(wire.PayloadV1VendorID), func(p wire.Payload) bool { return bytes.Equal(p.(*wire.V1Opaque).Data, id) })
}

// vendors notes what the peer can do.
func (s *sa) vendors(m *message) {
	s.nat.dialect = dialectOf(m)
	s.peerIsCoati = m.says(vendorCoati)
	s.renews = s.renews || !s.initiator && m.says(vendorRenew)
	s.peerDPD = slices.ContainsFunc(m.all(wire.PayloadV1VendorID), func(p wire.Payload) bool {
		d := p.(*wire.V1Opaque).Data
		return len(d) == len(vendorDPD) && bytes.HasPrefix(d, vendorDPD[:14])
	})
}

// ourVendors are those of our first message.
func (s *sa) ourVendors() (out []wire.Payload) {
	for _, d := range dialects {
		out = append(out, vendor(d.vendor))
	}
	out = append(out, vendor(vendorDPD), vendor(vendorCoati))
	if s.tunnel.V1.XAuth != policy.XAuthNone {
		out = append(out, vendor(vendorXAuth), vendor(vendorUnity))
	}
	if s.renews && s.initiator && s.p1.kind == wire.ExchangeV1Aggressive {
		out = append(out, vendor(vendorRenew))
	}
	return out
}

// echoVendors are those of our answer: what the peer said and we can, too.
func (s *sa) echoVendors(m *message) (out []wire.Payload) {
	if d := s.nat.dialect; d != nil {
		out = append(out, vendor(d.vendor))
	}
	if w := s.suite.auth; w == wire.AuthV1XAuthInitPSK || w == wire.AuthV1XAuthInitRSA || w == wire.AuthV1HybridInitRSA {
		for _, v := range [][]byte{vendorXAuth, vendorUnity} {
			if m.says(v) {
				out = append(out, vendor(v))
			}
		}
	}
	for _, v := range [][]byte{vendorDPD, vendorCoati} {
		if m.says(v) {
			out = append(out, vendor(v))
		}
	}
	return out
}
