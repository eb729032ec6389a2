package wire

// The Configuration payload, RFC 7296, section 3.15.

// Config is the Configuration payload.
type Config struct {
	Type       ConfigType
	Attributes []ConfigAttribute // at most MaxConfigAttributes
}

// ConfigAttribute is one configuration attribute. Whoever uses a value checks its length: the registry grows, and peers differ.
type ConfigAttribute struct {
	Type  ConfigAttributeType // 15 bits
	Value []byte
}

// PayloadType returns PayloadCP.
func (p *Config) PayloadType() PayloadType { return PayloadCP }

func (p *Config) fields(c *coder) {
	u8(c, &p.Type, "cfg type")
	c.reserved(3)
	for i := 0; ; i++ {
		v := element(c, &p.Attributes, i, MaxConfigAttributes, "configuration attributes")
		if v == nil {
			break
		}
		v.fields(c)
	}
}

const configReserved = 1 << 15 // the bit R

func (a *ConfigAttribute) fields(c *coder) {
	if c.appending && a.Type >= configReserved {
		c.fail(ErrValue, "attribute type")
	}
	u16(c, &a.Type, "attribute type")
	if c.consuming() {
		a.Type &^= configReserved
	}
	c.sized(&a.Value, "value")
}
