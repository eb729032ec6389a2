package wire

import "net/netip"

// The other payloads of IKEv1: RFC 2408, sections 3.7 to 3.16, RFC 2407, section 4.6, and RFC 3947, sections 3.2 and 5.2.

// V1Opaque is a payload of octets without a structure: KE, HASH, SIG, NONCE, VID, NAT-D.
type V1Opaque struct {
	Type PayloadType
	Data []byte // at least 1 octet; a nonce: 8 to 256
}

// PayloadType returns Type.
func (p *V1Opaque) PayloadType() PayloadType { return p.Type }

func (p *V1Opaque) fields(c *coder) {
	at := c.pos()
	c.rest(&p.Data, 1, "data")
	if n := len(p.Data); c.err == nil && p.Type == PayloadV1Nonce && (n < 8 || n > MaxNonce) {
		c.failAt(ErrLength, "nonce data", at) // RFC 2409, section 5
	}
}

// v1Opaque says which types V1Opaque is for.
func v1Opaque(t PayloadType) bool {
	switch t {
	case PayloadV1KE, PayloadV1Hash, PayloadV1Sig, PayloadV1Nonce, PayloadV1VendorID, PayloadV1NATD, PayloadV1NATDDraft:
		return true
	}
	return false
}

// V1ID is the Identification payload: who a peer is (phase 1), or one end of what a phase 2 SA carries.
type V1ID struct {
	Type     V1IDType
	Protocol uint8  // 0: any; phase 1: 0 or 17
	Port     uint16 // 0: any; phase 1: 0 or 500
	Data     []byte
}

// PayloadType returns PayloadV1ID.
func (p *V1ID) PayloadType() PayloadType { return PayloadV1ID }

func (p *V1ID) fields(c *coder) {
	u8(c, &p.Type, "id type")
	u8(c, &p.Protocol, "protocol id")
	u16(c, &p.Port, "port")
	at := c.pos()
	c.rest(&p.Data, 0, "identification data")
	if n, fixed := v1IDLen[p.Type]; c.err == nil && fixed && n != len(p.Data) {
		c.failAt(ErrLength, "identification data", at)
	}
}

// V1Cert is the Certificate payload, or the Certificate Request payload if Request is set.
type V1Cert struct {
	Request  bool
	Encoding CertEncoding
	Data     []byte // of a request: the authority's name, may be empty
}

// PayloadType returns PayloadV1Cert or PayloadV1CertReq.
func (p *V1Cert) PayloadType() PayloadType {
	if p.Request {
		return PayloadV1CertReq
	}
	return PayloadV1Cert
}

func (p *V1Cert) fields(c *coder) {
	u8(c, &p.Encoding, "cert encoding")
	minimum := 1
	if p.Request {
		minimum = 0
	}
	c.rest(&p.Data, minimum, "certificate data")
}

// V1Notify is the Notification payload.
type V1Notify struct {
	DOI      uint32
	Protocol ProtocolID
	SPI      []byte // at most 16 octets
	Type     V1NotifyType
	Data     []byte
}

// PayloadType returns PayloadV1Notify.
func (p *V1Notify) PayloadType() PayloadType { return PayloadV1Notify }

func (p *V1Notify) fields(c *coder) {
	c.u32(&p.DOI, "domain of interpretation")
	u8(c, &p.Protocol, "protocol id")
	size := c.octets(&p.SPI, 16, "spi size")
	u16(c, &p.Type, "notify message type")
	c.value(&p.SPI, size, "spi")
	c.rest(&p.Data, 0, "notification data")
}

// V1Delete is the Delete payload: SPIs of one protocol, all of one size.
type V1Delete struct {
	DOI      uint32
	Protocol ProtocolID
	Size     uint8    // octets: 4 for AH and ESP, 2 or 4 for IPComp, 16 for ISAKMP (both cookies)
	SPIs     [][]byte // 1 to MaxSPIs
}

// PayloadType returns PayloadV1Delete.
func (p *V1Delete) PayloadType() PayloadType { return PayloadV1Delete }

func (p *V1Delete) fields(c *coder) {
	c.u32(&p.DOI, "domain of interpretation")
	u8(c, &p.Protocol, "protocol id")
	at := c.pos()
	u8(c, &p.Size, "spi size")
	if c.err == nil && (p.Size == 0 || int(p.Size) > p.Protocol.v1MaxSPI()) {
		c.failAt(ErrValue, "spi size", at)
		return
	}
	n := count(c, &p.SPIs, 2, MaxSPIs, max(int(p.Size), 1), "spis")
	for i := 0; ; i++ {
		v := element(c, &p.SPIs, i, MaxSPIs, "spis")
		if v == nil {
			break
		}
		if c.appending && len(*v) != int(p.Size) {
			c.fail(ErrLength, "spi")
		}
		c.value(v, int(p.Size), "spi")
	}
	c.counted(n, len(p.SPIs), "spis")
}

// V1NATOA is the NAT Original Address payload.
type V1NATOA struct {
	Draft bool // with the number of the drafts
	Addr  netip.Addr
}

// PayloadType returns PayloadV1NATOA, or the drafts' number.
func (p *V1NATOA) PayloadType() PayloadType {
	if p.Draft {
		return PayloadV1NATOADraft
	}
	return PayloadV1NATOA
}

func (p *V1NATOA) fields(c *coder) {
	at := c.pos()
	kind, data := IDV1IPv4, p.Addr.AsSlice()
	if p.Addr.Is6() {
		kind = IDV1IPv6
	}
	u8(c, &kind, "id type")
	c.reserved(3)
	c.rest(&data, 0, "address")
	if c.err != nil {
		return
	}
	n := v1IDLen[kind]
	if kind != IDV1IPv4 && kind != IDV1IPv6 {
		c.failAt(ErrValue, "id type", at)
	} else if len(data) != n {
		c.failAt(ErrLength, "address", at)
	} else if !c.appending {
		p.Addr, _ = netip.AddrFromSlice(data)
	}
}
