package wire

// The Notify, Delete and Vendor ID payloads, RFC 7296, sections 3.10 to 3.12.

// Notify is the Notify payload. Protocol is 0 if and only if there is no SPI; what the peer says there without an SPI is ignored.
type Notify struct {
	Protocol ProtocolID
	SPI      SPI // none, or of the SA that is meant
	Type     NotifyType
	Data     []byte
}

// PayloadType returns PayloadNotify.
func (p *Notify) PayloadType() PayloadType { return PayloadNotify }

func (p *Notify) fields(c *coder) {
	if c.appending && p.Protocol != ProtocolNone && p.SPI.Size == 0 {
		c.fail(ErrValue, "protocol id")
	}
	u8(c, &p.Protocol, "protocol id")
	u8(c, &p.SPI.Size, "spi size")
	if c.consuming() && p.SPI.Size == 0 {
		p.Protocol = ProtocolNone
	}
	u16(c, &p.Type, "notify message type")
	p.SPI.value(c)
	c.rest(&p.Data, 0, "notification data")
}

// ParseNotify reads the body of a Notify payload, as Walk yields it, and allocates nothing.
func ParseNotify(body []byte) (Notify, error) {
	var p Notify
	c := coder{buf: body, end: len(body), payload: PayloadNotify}
	p.fields(&c)
	return p, c.result()
}

// Delete is the Delete payload: the sender's inbound SPIs of AH or ESP. For ProtocolIKE there are none, and the IKE SA
// itself is meant.
type Delete struct {
	Protocol ProtocolID
	SPIs     []uint32 // AH, ESP: 1 to MaxSPIs
}

// PayloadType returns PayloadDelete.
func (p *Delete) PayloadType() PayloadType { return PayloadDelete }

func (p *Delete) fields(c *coder) {
	at := c.pos()
	u8(c, &p.Protocol, "protocol id")
	want := p.Protocol.deletes()
	size := want
	u8(c, &size, "spi size")
	switch {
	case c.err != nil:
		return
	case p.Protocol == ProtocolNone:
		c.failAt(ErrValue, "protocol id", at)
		return
	case size != want:
		c.failAt(ErrValue, "spi size", at+1)
		return
	}
	n := count(c, &p.SPIs, 2, MaxSPIs, 4, "spis")
	for i := 0; ; i++ {
		v := element(c, &p.SPIs, i, MaxSPIs, "spis")
		if v == nil {
			break
		}
		c.u32(v, "spi")
	}
	if p.Protocol != ProtocolIKE {
		c.counted(n, len(p.SPIs), "spis")
	} else if c.err == nil && (n != 0 || len(p.SPIs) != 0) {
		c.fail(ErrLength, "spis")
	}
}

// deletes is the size of an SPI in a Delete payload, octets.
func (p ProtocolID) deletes() uint8 {
	if p == ProtocolIKE {
		return 0
	}
	return 4
}

// VendorID is the Vendor ID payload.
type VendorID struct {
	Data []byte
}

// PayloadType returns PayloadVendorID.
func (p *VendorID) PayloadType() PayloadType { return PayloadVendorID }

func (p *VendorID) fields(c *coder) { c.rest(&p.Data, 0, "vendor id") }
