package wire

import "slices"

// The Security Association payload, RFC 7296, section 3.3.

// The values of Last Substruc when more substructures follow; they are IKEv1's payload types.
const (
	moreProposals  = 2
	moreTransforms = 3
)

const minTransform = 8 // octets of a transform without attributes

// SA is the Security Association payload: proposals, the most preferred first.
type SA struct {
	Proposals []Proposal // 1 to MaxProposals
}

// Proposal is one protocol's transforms: an OR within a transform type, an AND across types.
type Proposal struct {
	Number     uint8 // kept as received
	Protocol   ProtocolID
	SPI        SPI         // IKE: 0 or 8 octets; AH, ESP: 4
	Transforms []Transform // 1 to MaxTransforms
}

// Transform is one algorithm. Its numbers are those of package policy's tables.
type Transform struct {
	Type       TransformType
	ID         uint16
	Attributes []Attribute // at most MaxAttributes
}

// NewTransform returns a transform, with a Key Length attribute unless keyBits is 0.
func NewTransform(t TransformType, id, keyBits uint16) Transform {
	x := Transform{Type: t, ID: id}
	if keyBits != 0 {
		x.Attributes = []Attribute{{Type: AttributeKeyLength, Value: keyBits}}
	}
	return x
}

// KeyLength returns the Key Length attribute in bits, 0 if there is none. ok is false if the transform has any other
// attribute, or this one twice or in the wrong format: it is then not understood and so unacceptable (RFC 7296, section 3.3.6).
func (t *Transform) KeyLength() (bits uint16, ok bool) {
	switch len(t.Attributes) {
	case 0:
		return 0, true
	case 1:
		if a := &t.Attributes[0]; a.Type == AttributeKeyLength && !a.TLV {
			return a.Value, true
		}
	}
	return 0, false
}

// Equal says whether two transforms are the same, attributes included: a responder returns them unmodified.
func (t *Transform) Equal(o *Transform) bool {
	return t.Type == o.Type && t.ID == o.ID && slices.EqualFunc(t.Attributes, o.Attributes, Attribute.Equal)
}

// PayloadType returns PayloadSA.
func (p *SA) PayloadType() PayloadType { return PayloadSA }

func (p *SA) fields(c *coder) {
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

func (p *Proposal) fields(c *coder, more bool) {
	f := c.substructure(moreProposals, more, "proposal length")
	u8(c, &p.Number, "proposal number")
	u8(c, &p.Protocol, "protocol id")
	at := c.pos()
	u8(c, &p.SPI.Size, "spi size")
	if c.err == nil && !p.Protocol.proposes(p.SPI.Size) {
		c.failAt(ErrValue, "spi size", at)
	}
	n := count(c, &p.Transforms, 1, MaxTransforms, minTransform, "transforms")
	p.SPI.value(c)
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

// proposes says whether a proposal for this protocol may have an SPI of so many octets (RFC 7296, section 3.3.1).
func (p ProtocolID) proposes(size uint8) bool {
	switch p {
	case ProtocolIKE:
		return size == 0 || size == 8
	case ProtocolAH, ProtocolESP:
		return size == 4
	}
	return size == 0 || size == 4 || size == 8
}

func (t *Transform) fields(c *coder, more bool) {
	f := c.substructure(moreTransforms, more, "transform length")
	u8(c, &t.Type, "transform type")
	c.reserved(1)
	u16(c, &t.ID, "transform id")
	for i := 0; ; i++ {
		v := element(c, &t.Attributes, i, MaxAttributes, "attributes")
		if v == nil {
			break
		}
		v.fields(c)
	}
	c.close(f)
}

// substructure opens a proposal or a transform: Last Substruc, which is 0 or marker, a reserved octet and a length.
func (c *coder) substructure(marker uint8, more bool, field string) frame {
	start := c.pos()
	var last uint8
	if more {
		last = marker
	}
	u8(c, &last, "last substruc")
	c.reserved(1)
	f := c.length(start, field)
	if !c.consuming() {
		return f
	}
	switch {
	case last != 0 && last != marker:
		c.failAt(ErrValue, "last substruc", start)
	case last == 0 && c.end != f.outer:
		c.failAt(ErrLength, "last substruc", start) // says it is the last, and isn't
	case last == marker && c.end == f.outer:
		c.failAt(ErrTruncated, "last substruc", start) // says more follow, and none do
	}
	return f
}

// SPI is a security parameter index of 0 (none), 4 (AH, ESP) or 8 octets (IKE).
type SPI struct {
	Size  uint8 // octets
	Value uint64
}

// SPI4 is an SPI of AH or ESP.
func SPI4(v uint32) SPI { return SPI{Size: 4, Value: uint64(v)} }

// SPI8 is an SPI of IKE.
func SPI8(v uint64) SPI { return SPI{Size: 8, Value: v} }

// value is the SPI itself; its size stands elsewhere, before it.
func (s *SPI) value(c *coder) {
	switch s.Size {
	case 0:
		if s.Value != 0 {
			c.fail(ErrLength, "spi")
		}
	case 4:
		if s.Value > 1<<32-1 {
			c.fail(ErrLength, "spi")
		}
		v := uint32(s.Value)
		c.u32(&v, "spi")
		if c.consuming() {
			s.Value = uint64(v)
		}
	case 8:
		c.u64(&s.Value, "spi")
	default:
		c.fail(ErrValue, "spi size")
	}
}
