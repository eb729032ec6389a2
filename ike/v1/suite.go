package v1

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"coati/ike/wire"
	"coati/policy"
)

// IKEv1 names a whole suite of algorithms by one transform, and has numbers of its own. Here each of its transforms becomes a
// policy.Proposal with one algorithm of each type, so that policy selects and explains as for IKEv2.

// number is IKEv1's for the one algorithm of a type.
func number(q policy.Proposal, t policy.TransformType) uint16 {
	n, _ := q.First(t).V1Number(q.Protocol)
	return n
}

func life(kind, duration wire.AttributeType, d time.Duration) []wire.Attribute {
	seconds := uint32(min(d/time.Second, 1<<31))
	return []wire.Attribute{{Type: kind, Value: wire.LifeV1Seconds}, {Type: duration, TLV: true, Data: binary.BigEndian.AppendUint32(nil, seconds)}}
}

// phase1Payload offers suites, in that order, with each of the ways to authenticate.
func phase1Payload(suites []policy.Proposal, ways []uint16, lifetime time.Duration) *wire.V1SA {
	p := wire.V1Proposal{Number: 1, Protocol: wire.ProtocolV1ISAKMP}
	for i := range len(suites) * len(ways) {
		q, way := suites[i/len(ways)], ways[i%len(ways)]
		encr := q.First(policy.TransformENCR)
		t := wire.V1Transform{Number: uint8(i + 1), ID: wire.TransformV1KeyIKE, Attributes: []wire.Attribute{{Type: wire.AttrV1Encryption, Value: number(q, policy.TransformENCR)}}}
		if encr.KeyBits != 0 {
			t.Attributes = append(t.Attributes, wire.Attribute{Type: wire.AttrV1KeyLength, Value: encr.KeyBits})
		}
		t.Attributes = append(t.Attributes, wire.Attribute{Type: wire.AttrV1Hash, Value: number(q, policy.TransformINTEG)},
			wire.Attribute{Type: wire.AttrV1Group, Value: q.First(policy.TransformKE).ID}, wire.Attribute{Type: wire.AttrV1AuthMethod, Value: way})
		if lifetime > 0 {
			t.Attributes = append(t.Attributes, life(wire.AttrV1LifeType, wire.AttrV1LifeDuration, lifetime)...)
		}
		p.Transforms = append(p.Transforms, t)
	}
	return &wire.V1SA{Proposals: []wire.V1Proposal{p}}
}

// usualKeyLength is what a cipher of several key lengths has where the peer names none (RFC 2451, section 2.2).
func usualKeyLength(encr policy.Transform) policy.Transform {
	if encr.KeyBits == 0 && (encr.ID == policy.ENCRInsecureCAST || encr.ID == policy.ENCRInsecureBlowfish) {
		encr.KeyBits = 128
	}
	return encr
}

var errNotUnderstood = errors.New("the peer's transform has an attribute that is not understood")

// A suite is one transform as it was received.
type suite struct {
	proposal policy.Proposal
	lifetime time.Duration // 0: none said
	octets   uint64        // the same in octets; phase 2
	auth     uint16        // phase 1
	mode     uint16        // phase 2
}

// readLife notes a pair of life type and duration.
func (u *suite) readLife(kind uint64, v uint64) {
	switch {
	case kind == uint64(wire.LifeV1Seconds) && v > 0 && v < 1<<31:
		u.lifetime = time.Duration(v) * time.Second
	case kind == uint64(wire.LifeV1Kilobytes) && v > 0 && v < 1<<48:
		u.octets = v << 10
	}
}

// readPhase1 reads a transform of phase 1.
func readPhase1(t *wire.V1Transform) (u suite, err error) {
	if t.ID != wire.TransformV1KeyIKE {
		return u, errNotUnderstood
	}
	encr, integ, ke := policy.Transform{Type: policy.TransformENCR}, policy.Transform{Type: policy.TransformINTEG}, policy.Transform{Type: policy.TransformKE}
	var lifeKind uint64
	for i := range t.Attributes {
		a := &t.Attributes[i]
		v, ok := a.Number()
		if !ok || v > 1<<16-1 && a.Type != wire.AttrV1LifeDuration {
			return u, errNotUnderstood
		}
		known := true
		switch a.Type {
		case wire.AttrV1Encryption:
			encr.ID, known = policy.FromV1(policy.ProtocolIKE, encr.Type, uint16(v))
		case wire.AttrV1KeyLength:
			encr.KeyBits = uint16(v)
		case wire.AttrV1Hash:
			integ.ID, known = policy.FromV1(policy.ProtocolIKE, integ.Type, uint16(v))
		case wire.AttrV1AuthMethod:
			u.auth = uint16(v)
		case wire.AttrV1Group:
			ke.ID, known = policy.FromV1(policy.ProtocolIKE, ke.Type, uint16(v))
		case wire.AttrV1LifeType:
			lifeKind = v
		case wire.AttrV1LifeDuration:
			u.readLife(lifeKind, v)
		default:
			known = false
		}
		if !known {
			return u, errNotUnderstood
		}
	}
	u.proposal = policy.V1Suite(policy.ProtocolIKE, usualKeyLength(encr), integ, ke)
	return u, nil
}

// phase2Payload offers suites of phase 2 for an inbound SPI.
func phase2Payload(suites []policy.Proposal, spi policy.SPI, mode uint16, lifetime policy.Lifetime) *wire.V1SA {
	p := wire.V1Proposal{Number: 1, Protocol: wire.ProtocolESP, SPI: spiOctets(spi)}
	for i, q := range suites {
		encr, integ, ke := q.First(policy.TransformENCR), q.First(policy.TransformINTEG), q.First(policy.TransformKE)
		t := wire.V1Transform{Number: uint8(i + 1), ID: uint8(number(q, policy.TransformENCR)), Attributes: []wire.Attribute{{Type: wire.AttrV1SAMode, Value: mode}}}
		if encr.KeyBits != 0 {
			t.Attributes = append(t.Attributes, wire.Attribute{Type: wire.AttrV1SAKeyLength, Value: encr.KeyBits})
		}
		if integ.Type != 0 {
			t.Attributes = append(t.Attributes, wire.Attribute{Type: wire.AttrV1SAAuth, Value: number(q, policy.TransformINTEG)})
		}
		if ke.ID != 0 {
			t.Attributes = append(t.Attributes, wire.Attribute{Type: wire.AttrV1SAGroup, Value: ke.ID})
		}
		if d := lifetime.HardTime; d > 0 {
			t.Attributes = append(t.Attributes, life(wire.AttrV1SALifeType, wire.AttrV1SALifeDuration, d)...)
		}
		if kilobytes := min(lifetime.HardOctets>>10, 1<<32-1); kilobytes > 0 {
			t.Attributes = append(t.Attributes, wire.Attribute{Type: wire.AttrV1SALifeType, Value: wire.LifeV1Kilobytes},
				wire.Attribute{Type: wire.AttrV1SALifeDuration, TLV: true, Data: binary.BigEndian.AppendUint32(nil, uint32(kilobytes))})
		}
		p.Transforms = append(p.Transforms, t)
	}
	return &wire.V1SA{Proposals: []wire.V1Proposal{p}}
}

func spiOctets(spi policy.SPI) []byte { return binary.BigEndian.AppendUint32(nil, uint32(spi)) }

// readPhase2 reads a transform of an ESP proposal.
func readPhase2(t *wire.V1Transform) (u suite, err error) {
	id, ok := policy.FromV1(policy.ProtocolESP, policy.TransformENCR, uint16(t.ID))
	if !ok {
		return u, errNotUnderstood
	}
	encr, integ, ke := policy.Transform{Type: policy.TransformENCR, ID: id}, policy.Transform{Type: policy.TransformINTEG}, policy.Transform{Type: policy.TransformKE}
	var lifeKind uint64
	for i := range t.Attributes {
		a := &t.Attributes[i]
		v, ok := a.Number()
		if !ok || v > 1<<16-1 && a.Type != wire.AttrV1SALifeDuration {
			return u, errNotUnderstood
		}
		known := true
		switch a.Type {
		case wire.AttrV1SAMode:
			u.mode = uint16(v)
		case wire.AttrV1SAAuth:
			integ.ID, known = policy.FromV1(policy.ProtocolESP, integ.Type, uint16(v))
		case wire.AttrV1SAKeyLength:
			encr.KeyBits = uint16(v)
		case wire.AttrV1SAGroup:
			ke.ID, known = policy.FromV1(policy.ProtocolIKE, ke.Type, uint16(v))
		case wire.AttrV1SALifeType:
			lifeKind = v
		case wire.AttrV1SALifeDuration:
			u.readLife(lifeKind, v)
		default:
			known = false
		}
		if !known {
			return u, errNotUnderstood
		}
	}
	u.proposal = policy.V1Suite(policy.ProtocolESP, usualKeyLength(encr), integ, ke)
	return u, nil
}

// identity is a phase 1 identity for the wire (RFC 2407, section 4.6.2). Its numbers are those of IKEv2.
func identity(id policy.Identity) *wire.V1ID {
	return &wire.V1ID{Type: wire.V1IDType(id.Type), Data: id.Data}
}

func policyIdentity(p *wire.V1ID) policy.Identity {
	return policy.Identity{Type: policy.IDType(p.Type), Data: p.Data}
}

// clientID says one end of a pair (RFC 2407, section 4.6.2). IKEv1 has one port or all of them.
func clientID(s policy.Selector) (*wire.V1ID, error) {
	id := &wire.V1ID{Protocol: s.Protocol}
	switch {
	case s.StartPort == 0 && s.EndPort == 65535:
	case s.StartPort == s.EndPort && s.StartPort != 0 && !policy.HasTypes(s.Protocol):
		id.Port = s.StartPort
	default:
		return nil, fmt.Errorf("IKEv1 has one port or all, and cannot say %s", s)
	}
	pick := func(v4, v6 wire.V1IDType) wire.V1IDType {
		if s.Start.Is4() {
			return v4
		}
		return v6
	}
	if s.Start == s.End {
		id.Type, id.Data = pick(wire.IDV1IPv4, wire.IDV1IPv6), s.Start.AsSlice()
	} else if p, ok := s.Prefix(); ok {
		mask := make([]byte, p.Addr().BitLen()/8)
		for i := range p.Bits() {
			mask[i/8] |= 0x80 >> (i % 8)
		}
		id.Type, id.Data = pick(wire.IDV1IPv4Subnet, wire.IDV1IPv6Subnet), append(s.Start.AsSlice(), mask...)
	} else {
		id.Type, id.Data = pick(wire.IDV1IPv4Range, wire.IDV1IPv6Range), append(s.Start.AsSlice(), s.End.AsSlice()...)
	}
	return id, nil
}

// clientSelector reads one end of a pair.
func clientSelector(id *wire.V1ID) (policy.Selector, error) {
	s := policy.Selector{Protocol: id.Protocol, EndPort: 65535}
	if id.Port != 0 {
		s.StartPort, s.EndPort = id.Port, id.Port
	}
	half := len(id.Data) / 2
	bad := fmt.Errorf("the peer's identity of type %d is no end of a pair", id.Type)
	switch id.Type {
	case wire.IDV1IPv4, wire.IDV1IPv6:
		s.Start, _ = netip.AddrFromSlice(id.Data)
		s.End = s.Start
	case wire.IDV1IPv4Subnet, wire.IDV1IPv6Subnet:
		a, _ := netip.AddrFromSlice(id.Data[:half])
		bits := 0
		for bits < half*8 && id.Data[half+bits/8]&(0x80>>(bits%8)) != 0 {
			bits++
		}
		for i := bits; i < half*8; i++ {
			if id.Data[half+i/8]&(0x80>>(i%8)) != 0 {
				return s, errors.New("the peer's subnet has a mask with holes")
			}
		}
		p, err := a.Prefix(bits)
		if err != nil {
			return s, bad
		}
		n := policy.PrefixSelector(p)
		s.Start, s.End = n.Start, n.End
	case wire.IDV1IPv4Range, wire.IDV1IPv6Range:
		s.Start, _ = netip.AddrFromSlice(id.Data[:half])
		s.End, _ = netip.AddrFromSlice(id.Data[half:])
		if s.End.Less(s.Start) {
			return s, errors.New("the peer's range ends before it begins")
		}
	default:
		return s, bad
	}
	return s, nil
}
