package wire

// Messages and payload chains of IKEv1, RFC 2408, sections 3.1 and 3.2.

// V1Message is a datagram as ParseV1 returns it.
type V1Message struct {
	Header
	Payloads []Payload // in clear; nil if the message is encrypted
	Sealed   []byte    // ciphertext, if the flag E is set; aliases the input
	Raw      []byte    // the datagram
}

// ParseV1 reads a message of IKEv1. Errors are of type *Error; unknown payloads are none. What is encrypted is left as it is: at
// least 1 octet.
func ParseV1(b []byte) (*V1Message, error) {
	m := &V1Message{Raw: b}
	c := &coder{buf: b, end: len(b)}
	m.Header.fields(c)
	m.check(c)
	if c.err == nil && m.Version.Major() != 1 {
		c.failAt(ErrValue, "major version", offVersion)
	}
	if c.err == nil && m.Flags&V1Encryption != 0 {
		c.rest(&m.Sealed, 1, "encrypted payloads")
		return m, c.result()
	}
	m.Payloads = c.v1Chain(m.NextPayload)
	if c.more1(); c.err != nil {
		return nil, c.err
	}
	return m, nil
}

// more1 fails if octets are left after the last payload.
func (c *coder) more1() {
	c.payload = PayloadNone
	if c.err == nil && c.left() > 0 {
		c.fail(ErrLength, "next payload")
	}
}

// ParseV1Payloads reads what was encrypted: payloads, the first of type first, and n, the octets they take. What follows is
// padding, of any length and contents (RFC 2408, section 3.1; RFC 2409, appendix B).
func ParseV1Payloads(first PayloadType, b []byte) (payloads []Payload, n int, err error) {
	c := &coder{buf: b, end: len(b)}
	payloads = c.v1Chain(first)
	if c.err != nil {
		return nil, 0, c.err
	}
	return payloads, c.off, nil
}

// v1Chain consumes payloads up to one that says that none follows.
func (c *coder) v1Chain(first PayloadType) (payloads []Payload) {
	for first != PayloadNone && c.err == nil {
		if len(payloads) == MaxPayloads {
			c.fail(ErrTooMany, "payloads")
			break
		}
		r, f := c.open(first)
		p := newV1Payload(r.Type)
		payloads = append(payloads, p)
		p.fields(c)
		c.close(f)
		first = r.Next
	}
	if c.err != nil {
		return nil
	}
	return payloads
}

// newV1Payload returns the empty struct for a type.
func newV1Payload(t PayloadType) Payload {
	switch {
	case v1Opaque(t):
		return &V1Opaque{Type: t}
	case t == PayloadV1SA:
		return new(V1SA)
	case t == PayloadV1ID:
		return new(V1ID)
	case t == PayloadV1Cert, t == PayloadV1CertReq:
		return &V1Cert{Request: t == PayloadV1CertReq}
	case t == PayloadV1Notify:
		return new(V1Notify)
	case t == PayloadV1Delete:
		return new(V1Delete)
	case t == PayloadV1Attributes:
		return new(V1Config)
	case t == PayloadV1NATOA, t == PayloadV1NATOADraft:
		return &V1NATOA{Draft: t == PayloadV1NATOADraft}
	}
	return &Unknown{Type: t}
}

// AppendV1 appends a message of IKEv1 in clear. The header's NextPayload and Length are computed. On error dst is returned as
// it was.
func AppendV1(dst []byte, h Header, payloads []Payload) ([]byte, error) {
	c := &coder{buf: dst, appending: true, base: len(dst)}
	h.appendV1(c, firstOf(payloads))
	c.appendV1Chain(payloads)
	return c.finish(dst, 0)
}

// AppendV1Payloads appends a chain without padding, to be encrypted, and returns the type of its first payload. On error dst is
// returned as it was.
func AppendV1Payloads(dst []byte, payloads []Payload) (first PayloadType, out []byte, err error) {
	c := &coder{buf: dst, appending: true, base: len(dst)}
	c.appendV1Chain(payloads)
	if c.err != nil {
		return PayloadNone, dst, c.err
	}
	return firstOf(payloads), c.buf, nil
}

// AppendV1Sealed appends a message whose payloads, the first of type first, are encrypted already.
func AppendV1Sealed(dst []byte, h Header, first PayloadType, sealed []byte) ([]byte, error) {
	c := &coder{buf: dst, appending: true, base: len(dst)}
	h.Flags |= V1Encryption
	h.appendV1(c, first)
	c.rest(&sealed, 1, "encrypted payloads")
	return c.finish(dst, 0)
}

func (h *Header) appendV1(c *coder, first PayloadType) {
	if h.Version.Major() != 1 {
		c.failAt(ErrValue, "major version", c.base+offVersion)
		return
	}
	h.NextPayload, h.Length = first, 0
	h.fields(c)
}

func (c *coder) appendV1Chain(payloads []Payload) {
	if len(payloads) > MaxPayloads {
		c.fail(ErrTooMany, "payloads")
	}
	for i, p := range payloads {
		if c.err != nil {
			return
		}
		c.payload = PayloadNone
		if p == nil || p.PayloadType() == PayloadNone {
			c.fail(ErrValue, "payload type")
			return
		}
		c.payload = p.PayloadType()
		_, opaque := p.(*V1Opaque)
		_, unknown := p.(*Unknown)
		if _, free := newV1Payload(c.payload).(*Unknown); opaque != v1Opaque(c.payload) || unknown != free {
			c.fail(ErrValue, "payload type") // what has a struct is checked by it
			return
		}
		next := firstOf(payloads[i+1:])
		start := c.pos()
		u8(c, &next, "next payload")
		c.reserved(1)
		f := c.length(start, "payload length")
		p.fields(c)
		c.close(f)
	}
}

// V1Body is the first payload of a type as the chain carries it, without its generic header: what the hashes of RFC 2409 cover as
// SAi_b and IDii_b. It is nil if there is none.
func V1Body(first PayloadType, chain []byte, t PayloadType) []byte {
	c := &coder{buf: chain, end: len(chain)}
	for first != PayloadNone {
		r, f := c.open(first)
		if c.err != nil {
			return nil
		}
		if r.Type == t {
			return c.buf[c.off:c.end:c.end]
		}
		c.off = c.end
		c.close(f)
		first = r.Next
	}
	return nil
}
