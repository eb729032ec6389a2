package wire

import "bytes"

// Data attributes, RFC 7296, section 3.3.5 and RFC 2408, section 3.3.

// AttributeType is the type of a data attribute, 15 bits.
type AttributeType uint16

// AttributeKeyLength is the only attribute of IKEv2's transforms: the key's length in bits.
const AttributeKeyLength AttributeType = 14

const attributeFixed = 1 << 15 // the bit AF: type/value, not type/length/value

// Attribute is a type and either a 16-bit value (TV) or octets (TLV).
type Attribute struct {
	Type  AttributeType
	TLV   bool   // Data counts, else Value
	Value uint16 // TV
	Data  []byte // TLV, at most 65,531 octets; aliases the input
}

func (a *Attribute) fields(c *coder) {
	if c.appending && a.Type >= attributeFixed {
		c.fail(ErrValue, "attribute type")
		return
	}
	word := uint16(a.Type)
	if !a.TLV {
		word |= attributeFixed
	}
	u16(c, &word, "attribute type")
	if c.consuming() {
		a.Type, a.TLV = AttributeType(word&^attributeFixed), word&attributeFixed == 0
	}
	if a.TLV {
		c.sized(&a.Data, "attribute value")
	} else {
		u16(c, &a.Value, "attribute value")
	}
}

// Equal says whether two attributes are the same.
func (a Attribute) Equal(o Attribute) bool {
	if a.Type != o.Type || a.TLV != o.TLV {
		return false
	}
	if a.TLV {
		return bytes.Equal(a.Data, o.Data)
	}
	return a.Value == o.Value
}
