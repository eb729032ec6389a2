package v1

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"coati/ike/wire"
	"coati/policy"
)

// Lifetimes are not negotiated: an initiator says one, and a responder takes it, refuses it, or tells of its own (RFC 2407, section 4.6.3.1).

// lifetimeNotify is the data of RESPONDER-LIFETIME.
func lifetimeNotify(protocol wire.ProtocolID, spi []byte, d time.Duration) *wire.V1Notify {
	seconds := uint32(min(d/time.Second, 1<<31))
	data := binary.BigEndian.AppendUint32([]byte{0x80, 1, 0, 1, 0, 2, 0, 4}, seconds)
	return &wire.V1Notify{DOI: wire.DOIIPsec, Protocol: protocol, SPI: spi, Type: wire.NotifyV1ResponderLifetime, Data: data}
}

// claimLifetime tells the peer of our lifetime for a pair if it asked for a longer one.
func (s *sa) claimLifetime(p *pair) []wire.Payload {
	ours := p.child.cfg.Lifetime.HardTime
	if s.tunnel.V1.Check != policy.CheckClaim || ours <= 0 || p.child.lifetime <= ours {
		return nil
	}
	return []wire.Payload{lifetimeNotify(wire.ProtocolESP, spiOctets(p.child.inSPI), ours)}
}

// claimOwn is the same for phase 1.
func (s *sa) claimOwn() []wire.Payload {
	if s.tunnel.V1.Check != policy.CheckClaim || s.tunnel.Lifetime <= 0 || s.suite.lifetime <= s.tunnel.Lifetime {
		return nil
	}
	return []wire.Payload{lifetimeNotify(wire.ProtocolV1ISAKMP, s.cookies(), s.tunnel.Lifetime)}
}

// claimed is the lifetime that a responder tells of; 0: none.
func claimed(m *message, protocol wire.ProtocolID) time.Duration {
	for _, q := range m.all(wire.PayloadV1Notify) {
		no := q.(*wire.V1Notify)
		if no.Type != wire.NotifyV1ResponderLifetime || no.Protocol != protocol || len(no.Data) < 8 {
			continue
		}
		if kind, d := binary.BigEndian.Uint32(no.Data), no.Data[4:]; kind == 0x80010001 {
			switch {
			case len(d) == 4 && d[0] == 0x80 && d[1] == 2:
				return time.Duration(binary.BigEndian.Uint16(d[2:])) * time.Second
			case len(d) == 8 && binary.BigEndian.Uint32(d) == 0x00020004:
				return min(time.Duration(binary.BigEndian.Uint32(d[4:])), 1<<31) * time.Second
			}
		}
	}
	return 0
}

// anyGroup leaves the group of PFS to the peer.
func anyGroup(ps []policy.Proposal) []policy.Proposal {
	out := make([]policy.Proposal, len(ps))
	for i, p := range ps {
		out[i] = p.Without(policy.TransformKE)
	}
	return out
}

// takesGroup says whether a group that the peer names is one for us: a weak one must be named by our configuration.
func (s *sa) takesGroup(cfg *policy.Child, group policy.Transform) error {
	named := func(ps []policy.Proposal) bool {
		return slices.ContainsFunc(ps, func(p policy.Proposal) bool { return slices.Contains(p.Transforms, group) })
	}
	if a := group.Algorithm(); group.ID == policy.KENone || a != nil && !a.Insecure || named(cfg.ESP) || named(s.tunnel.IKE) {
		return nil
	}
	return fmt.Errorf("the peer asks for %s, which is not configured", group)
}
