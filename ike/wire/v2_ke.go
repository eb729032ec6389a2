package wire

// The Key Exchange and Nonce payloads, RFC 7296, sections 3.4 and 3.9.

// KE is the Key Exchange payload. Method is the number of the key exchange method (RFC 9370; in RFC 7296 the Diffie-Hellman group).
type KE struct {
	Method uint16
	Data   []byte // public value or KEM message, at least 1 octet
}

// PayloadType returns PayloadKE.
func (p *KE) PayloadType() PayloadType { return PayloadKE }

func (p *KE) fields(c *coder) {
	u16(c, &p.Method, "key exchange method")
	c.reserved(2)
	c.rest(&p.Data, 1, "key exchange data")
}

// Nonce is the payload Ni or Nr.
type Nonce struct {
	Data []byte // MinNonce to MaxNonce octets
}

// PayloadType returns PayloadNonce.
func (p *Nonce) PayloadType() PayloadType { return PayloadNonce }

func (p *Nonce) fields(c *coder) {
	at := c.pos()
	c.rest(&p.Data, 0, "nonce data")
	if n := len(p.Data); c.err == nil && (n < MinNonce || n > MaxNonce) {
		c.failAt(ErrLength, "nonce data", at)
	}
}
