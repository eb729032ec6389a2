package wire

// Who the peers are: the payloads ID, CERT, CERTREQ, AUTH and EAP, RFC 7296, sections 3.5 to 3.8 and 3.16.

// ID is the Identification payload: IDi, or IDr if Responder is set.
type ID struct {
	Responder bool
	Type      IDType
	Reserved  [3]byte // zero when sending; kept as received, since AUTH covers it
	Data      []byte  // 4 or 16 octets for an address, none for ID_NULL
}

// PayloadType returns PayloadIDi or PayloadIDr.
func (p *ID) PayloadType() PayloadType {
	if p.Responder {
		return PayloadIDr
	}
	return PayloadIDi
}

func (p *ID) fields(c *coder) {
	u8(c, &p.Type, "id type")
	for i := range p.Reserved {
		u8(c, &p.Reserved[i], "reserved")
	}
	at := c.pos()
	c.rest(&p.Data, 0, "identification data")
	if c.err != nil {
		return
	}
	n := len(p.Data)
	if p.Type == IDIPv4Addr && n != 4 || p.Type == IDIPv6Addr && n != 16 || p.Type == IDNull && n != 0 {
		c.failAt(ErrLength, "identification data", at)
	}
}

// Body returns the payload's octets after the generic header: what AUTH covers as RestOfInitIDPayload or RestOfRespIDPayload
// (RFC 7296, section 2.15).
func (p *ID) Body() []byte {
	return append([]byte{byte(p.Type), p.Reserved[0], p.Reserved[1], p.Reserved[2]}, p.Data...)
}

// Cert is the Certificate payload.
type Cert struct {
	Encoding CertEncoding
	Data     []byte // at least 1 octet
}

// PayloadType returns PayloadCERT.
func (p *Cert) PayloadType() PayloadType { return PayloadCERT }

func (p *Cert) fields(c *coder) {
	u8(c, &p.Encoding, "cert encoding")
	c.rest(&p.Data, 1, "certificate data")
}

// CertReq is the Certificate Request payload. For X.509 the authorities are SHA-1 hashes of public keys, 20 octets each,
// concatenated; there may be none.
type CertReq struct {
	Encoding    CertEncoding
	Authorities []byte
}

// PayloadType returns PayloadCERTREQ.
func (p *CertReq) PayloadType() PayloadType { return PayloadCERTREQ }

func (p *CertReq) fields(c *coder) {
	u8(c, &p.Encoding, "cert encoding")
	at := c.pos()
	c.rest(&p.Authorities, 0, "certification authority")
	switch p.Encoding {
	case CertX509Signature, CertHashAndURL, CertHashAndURLBundle:
		if c.err == nil && len(p.Authorities)%20 != 0 {
			c.failAt(ErrLength, "certification authority", at)
		}
	}
}

// Auth is the Authentication payload.
type Auth struct {
	Method AuthMethod
	Data   []byte // at least 1 octet
}

// PayloadType returns PayloadAUTH.
func (p *Auth) PayloadType() PayloadType { return PayloadAUTH }

func (p *Auth) fields(c *coder) {
	u8(c, &p.Method, "auth method")
	c.reserved(3)
	c.rest(&p.Data, 1, "authentication data")
}

// EAP is the Extensible Authentication payload: one EAP message of RFC 3748, section 4, whose own length is checked.
type EAP struct {
	Message []byte // at least 4 octets
}

// PayloadType returns PayloadEAP.
func (p *EAP) PayloadType() PayloadType { return PayloadEAP }

func (p *EAP) fields(c *coder) {
	at := c.pos()
	c.rest(&p.Message, 4, "eap message")
	if m := p.Message; c.err == nil && int(m[2])<<8|int(m[3]) != len(m) {
		c.failAt(ErrLength, "eap length", at+2)
	}
}
