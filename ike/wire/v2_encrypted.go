package wire

// The Encrypted payload, RFC 7296, section 3.14, and the Encrypted Fragment payload, RFC 7383, section 2.5. What is in
// their bodies depends on the algorithms and is for package ike/keys to say.

// Encrypted is the payload SK.
type Encrypted struct {
	First PayloadType // of the first payload inside; PayloadNone if there is none
	Body  []byte      // initialization vector, ciphertext and checksum; at least 1 octet
}

// PayloadType returns PayloadSK.
func (p *Encrypted) PayloadType() PayloadType { return PayloadSK }

func (p *Encrypted) fields(c *coder) { c.rest(&p.Body, 1, "encrypted payloads") }

// EncryptedFragment is the payload SKF.
type EncryptedFragment struct {
	First  PayloadType // of the first payload inside the message; counts in fragment 1 alone
	Number uint16      // 1 to Total
	Total  uint16
	Body   []byte // initialization vector, ciphertext and checksum; at least 1 octet
}

// PayloadType returns PayloadSKF.
func (p *EncryptedFragment) PayloadType() PayloadType { return PayloadSKF }

func (p *EncryptedFragment) fields(c *coder) {
	p.position(c)
	c.rest(&p.Body, 1, "encrypted content")
}

func (p *EncryptedFragment) position(c *coder) {
	at := c.pos()
	u16(c, &p.Number, "fragment number")
	u16(c, &p.Total, "total fragments")
	if c.err == nil && (p.Number == 0 || p.Number > p.Total) {
		c.failAt(ErrValue, "fragment number", at)
	}
}
