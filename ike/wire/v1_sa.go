package wire

import "slices"

// The Security Association payload of IKEv1 with its Proposal and Transform payloads, RFC 2408, sections 3.4 to 3.6, and
// RFC 2407, section 4.6.1.

// MaxV1Attributes is the number of attributes of one transform: the RFCs know some twenty.
const MaxV1Attributes = 32

// V1SA is the Security Association payload, of the IPsec DOI and the situation SIT_IDENTITY_ONLY: all others are ErrValue.
type V1SA struct {
	Proposals []V1Proposal // 1 to MaxProposals
}

// V1Proposal is one protocol's transforms, of which one is to be chosen. Proposals of one number belong together.
type V1Proposal struct {
	Number     uint8
	Protocol   ProtocolID
	SPI        []byte        // AH, ESP: 4 octets; IPComp: 2 or 4; ISAKMP: up to 16 without a meaning
	Transforms []V1Transform // 1 to MaxTransforms
}

// V1Transform is one suite of algorithms. What its number and attributes mean depends on the protocol.
type V1Transform struct {
	Number     uint8
	ID         uint8
	Attributes []Attribute // at most MaxV1Attributes
}

// PayloadType returns PayloadV1SA.
func (p *V1SA) PayloadType() PayloadType { return PayloadV1SA }

func (p *V1SA) fields(c *coder) {
	at := c.pos()
	doi, situation := DOIIPsec, SitIdentityOnly
	c.u32(&doi, "domain of interpretation")
	if c.err == nil && doi != DOIIPsec {
		c.failAt(ErrValue, "domain of interpretation", at)
	}
	c.u32(&situation, "situation")
	if c.err == nil && situation != SitIdentityOnly {
		c.failAt(ErrValue, "situation", at+4)
	}
	for i := 0; ; i++ {
		v := element(c, &p.Proposals, i, MaxProposals, "proposals")
		if v == nil {
			break
		}
		v.fields(c, i+1 < len(p.Proposals))
	}
	if c.err == nil && len(p.Proposals) == 0 {
		c.fail(ErrLength, "proposals")
	}
}

func (p *V1Proposal) fields(c *coder, more bool) {
	f := c.substructure(moreProposals, more, "proposal length")
	u8(c, &p.Number, "proposal number")
	u8(c, &p.Protocol, "protocol id")
	size := c.octets(&p.SPI, p.Protocol.v1MaxSPI(), "spi size")
	n := count(c, &p.Transforms, 1, MaxTransforms, minTransform, "transforms")
	c.value(&p.SPI, size, "spi")
	for i := 0; ; i++ {
		v := element(c, &p.Transforms, i, MaxTransforms, "transforms")
		if v == nil {
			break
		}
		v.fields(c, i+1 < n)
	}
	c.counted(n, len(p.Transforms), "transforms")
	c.close(f)
}

// v1MaxSPI is the longest SPI of a protocol, octets: two cookies for ISAKMP (RFC 2408, section 3.5).
func (p ProtocolID) v1MaxSPI() int {
	if p == ProtocolAH || p == ProtocolESP || p == ProtocolV1IPComp {
		return 4
	}
	return 16
}

// octets is the one-octet size of a field whose octets follow later.
func (c *coder) octets(v *[]byte, limit int, field string) int {
	at, n := c.pos(), uint8(min(len(*v), 255))
	if c.appending && len(*v) > limit {
		c.fail(ErrLength, field)
		return 0
	}
	u8(c, &n, field)
	if c.err == nil && int(n) > limit {
		c.failAt(ErrValue, field, at)
	}
	return int(n)
}

// value is n octets whose size stood elsewhere. An empty slice is always nil.
func (c *coder) value(v *[]byte, n int, field string) {
	switch {
	case c.appending:
		c.buf = append(c.buf, *v...)
	case n > 0:
		*v, _ = c.take(n, field)
	}
}

func (t *V1Transform) fields(c *coder, more bool) {
	f := c.substructure(moreTransforms, more, "transform length")
	u8(c, &t.Number, "transform number")
	u8(c, &t.ID, "transform id")
	c.reserved(2)
	for i := 0; ; i++ {
		v := element(c, &t.Attributes, i, MaxV1Attributes, "attributes")
		if v == nil {
			break
		}
		v.fields(c)
	}
	c.close(f)
}

// Equal says whether two transforms are the same but for their number: a responder returns attributes unmodified
// (RFC 2408, section 4.2).
func (t *V1Transform) Equal(o *V1Transform) bool {
	return t.ID == o.ID && slices.EqualFunc(t.Attributes, o.Attributes, Attribute.Equal)
}

// Number is an attribute's value as a number, whether it is written in two octets or in up to eight.
func (a *Attribute) Number() (v uint64, ok bool) {
	if !a.TLV {
		return uint64(a.Value), true
	}
	if len(a.Data) == 0 || len(a.Data) > 8 {
		return 0, false
	}
	for _, b := range a.Data {
		v = v<<8 | uint64(b)
	}
	return v, true
}
