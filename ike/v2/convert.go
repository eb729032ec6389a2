package v2

import (
	"coati/ike/wire"
	"coati/policy"
)

// saPayload makes an SA payload; the proposals are numbered from 1 (RFC 7296, section 3.3.1).
func saPayload(ps []policy.Proposal, spi wire.SPI) *wire.SA {
	out := &wire.SA{}
	for i, p := range ps {
		out.Proposals = append(out.Proposals, wireProposal(p, uint8(i+1), spi))
	}
	return out
}

func wireProposal(p policy.Proposal, number uint8, spi wire.SPI) wire.Proposal {
	w := wire.Proposal{Number: number, Protocol: wire.ProtocolID(p.Protocol), SPI: spi}
	for _, t := range p.Transforms {
		w.Transforms = append(w.Transforms, wire.NewTransform(wire.TransformType(t.Type), t.ID, t.KeyBits))
	}
	return w
}

// policyProposal leaves out transforms whose attributes are not understood (RFC 7296, section 3.3.6).
func policyProposal(w wire.Proposal) policy.Proposal {
	p := policy.Proposal{Protocol: policy.Protocol(w.Protocol)}
	for i := range w.Transforms {
		t := &w.Transforms[i]
		if bits, ok := t.KeyLength(); ok {
			p.Transforms = append(p.Transforms, policy.Transform{Type: policy.TransformType(t.Type), ID: t.ID, KeyBits: bits})
		}
	}
	return p
}

func policyProposals(sa *wire.SA) []policy.Proposal {
	out := make([]policy.Proposal, len(sa.Proposals))
	for i, w := range sa.Proposals {
		out[i] = policyProposal(w)
	}
	return out
}

// without takes a transform type out of each proposal, and proposals that become equal to an earlier one.
func without(ps []policy.Proposal, t policy.TransformType) []policy.Proposal {
	var out []policy.Proposal
	seen := map[string]bool{}
	for _, p := range ps {
		q := p.Without(t)
		if k := q.String(); !seen[k] {
			seen[k] = true
			out = append(out, q)
		}
	}
	return out
}

func tsPayload(responder bool, sels []policy.Selector) *wire.TS {
	out := &wire.TS{Responder: responder}
	for _, s := range sels[:min(len(sels), wire.MaxSelectors)] {
		out.Selectors = append(out.Selectors, wire.NewSelector(s.Protocol, s.Start, s.End, s.StartPort, s.EndPort))
	}
	return out
}

// policySelectors leaves out selectors of types Coati does not know (RFC 7296, section 2.9: narrowing may drop them).
func policySelectors(ts *wire.TS) []policy.Selector {
	var out []policy.Selector
	for _, w := range ts.Selectors {
		if w.Type == wire.TSIPv4AddrRange || w.Type == wire.TSIPv6AddrRange {
			out = append(out, policy.Selector{Protocol: w.Protocol, StartPort: w.StartPort, EndPort: w.EndPort, Start: w.Start, End: w.End})
		}
	}
	return out
}

func idPayload(responder bool, id policy.Identity) *wire.ID {
	return &wire.ID{Responder: responder, Type: wire.IDType(id.Type), Data: id.Data}
}

func policyIdentity(p *wire.ID) policy.Identity {
	return policy.Identity{Type: policy.IDType(p.Type), Data: p.Data}
}

func notify(t wire.NotifyType, data []byte) *wire.Notify { return &wire.Notify{Type: t, Data: data} }
