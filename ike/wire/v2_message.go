package wire

import "iter"

// Messages and payload chains of IKEv2, RFC 7296, sections 3.1 and 3.2.

// Payload is one payload without its generic header. The pointers *SA, *KE, *ID, *Cert, *CertReq, *Auth, *Nonce, *Notify, *Delete,
// *VendorID, *TS, *Config, *EAP, *Encrypted, *EncryptedFragment and *Unknown implement it.
type Payload interface {
	PayloadType() PayloadType
	fields(c *coder)
}

// Message is a datagram as Parse returns it. Payloads are those in clear; if the last payload is encrypted, it is in SK or SKF.
type Message struct {
	Header
	Payloads []Payload
	SK       *Encrypted         // nil if there is none
	SKF      *EncryptedFragment // nil if there is none
	Raw      []byte             // the datagram: what the integrity check covers
}

// AAD is the message up to the initialization vector: the associated data of RFC 5282, section 5.1. For a fragment it includes
// the fragment's number and total. It is nil if nothing is encrypted.
func (m *Message) AAD() []byte {
	switch {
	case m.SK != nil:
		return m.Raw[:len(m.Raw)-len(m.SK.Body)]
	case m.SKF != nil:
		return m.Raw[:len(m.Raw)-len(m.SKF.Body)]
	}
	return nil
}

const criticalBit = 0x80

// Unknown is a payload this package has no struct for. The caller decides by its critical bit (RFC 7296, section 2.5; CheckCritical).
type Unknown struct {
	Type     PayloadType
	Critical bool
	Body     []byte
}

// PayloadType returns Type.
func (p *Unknown) PayloadType() PayloadType { return p.Type }

func (p *Unknown) fields(c *coder) { c.rest(&p.Body, 0, "body") }

// Raw is a payload as a chain carries it: the generic header's fields and the body.
type Raw struct {
	Type     PayloadType
	Critical bool
	Next     PayloadType // in an encrypted payload: the type of the first one inside
	Body     []byte      // aliases the input
}

// Walk steps through a payload chain without parsing the bodies and without allocating, as far as the first error, which comes with a
// zero Raw. An encrypted payload ends the chain. first is the type of the first payload; PayloadNone is an empty chain.
func Walk(first PayloadType, b []byte) iter.Seq2[Raw, error] {
	return func(yield func(Raw, error) bool) {
		c := coder{buf: b, end: len(b)}
		for c.more(&first) {
			r, f := c.open(first)
			if c.err != nil {
				break
			}
			r.Body = c.buf[c.off:c.end:c.end]
			c.off = c.end
			c.close(f)
			first = c.next(r)
			if !yield(r, nil) {
				return
			}
		}
		if c.err != nil {
			yield(Raw{}, c.err)
		}
	}
}

// more says whether the chain goes on with a payload of type next.
func (c *coder) more(next *PayloadType) bool {
	c.payload = PayloadNone
	switch {
	case c.err != nil:
		return false
	case *next != PayloadNone:
		return true
	case c.left() > 0:
		c.fail(ErrLength, "next payload")
	}
	return false
}

// open consumes the generic header of a payload of type t; the payload's body is then the open structure.
func (c *coder) open(t PayloadType) (Raw, frame) {
	c.payload = t
	r := Raw{Type: t}
	start := c.pos()
	u8(c, &r.Next, "next payload")
	var bits uint8
	u8(c, &bits, "critical")
	r.Critical = bits&criticalBit != 0
	f := c.length(start, "payload length")
	return r, f
}

// next is the type of the payload after r. Encrypted ones must be the last (RFC 7296, section 3.14).
func (c *coder) next(r Raw) PayloadType {
	if r.Type == PayloadSK || r.Type == PayloadSKF {
		if c.left() > 0 {
			c.fail(ErrLength, "payload length")
		}
		return PayloadNone
	}
	return r.Next
}

// Parse reads a message of IKEv2. The version's major number must be 2. Errors are of type *Error; unknown payloads
// are none.
func Parse(b []byte) (*Message, error) {
	m := &Message{Raw: b}
	c := &coder{buf: b, end: len(b)}
	m.Header.fields(c)
	m.check(c)
	if c.err == nil && m.Version.Major() != 2 {
		c.failAt(ErrValue, "major version", offVersion)
	}
	m.Payloads = c.chain(m.NextPayload, m)
	if c.err != nil {
		return nil, c.err
	}
	return m, nil
}

const offVersion = 17 // of the version, octets

// ParsePayloads reads the contents of an encrypted payload. first is the type of the first payload in it, PayloadNone if it is
// empty. An encrypted payload in it is ErrValue (RFC 7296, section 3.1). Offsets in errors count from the start of b.
func ParsePayloads(first PayloadType, b []byte) ([]Payload, error) {
	c := &coder{buf: b, end: len(b)}
	payloads := c.chain(first, nil)
	return payloads, c.result()
}

// chain consumes payloads to the end of the input; encrypted ones go to m, and without an m are a fault.
func (c *coder) chain(first PayloadType, m *Message) (payloads []Payload) {
	for c.more(&first) {
		if len(payloads) == MaxPayloads {
			c.fail(ErrTooMany, "payloads")
			break
		}
		at := c.pos()
		r, f := c.open(first)
		p := newPayload(r)
		switch sealed := r.Type == PayloadSK || r.Type == PayloadSKF; {
		case !sealed:
			payloads = append(payloads, p)
		case m == nil:
			c.failAt(ErrValue, "payload inside an encrypted one", at)
		default:
			m.SK, _ = p.(*Encrypted)
			m.SKF, _ = p.(*EncryptedFragment)
		}
		p.fields(c)
		c.close(f)
		first = c.next(r)
	}
	if c.err != nil {
		return nil
	}
	return payloads
}

// newPayload returns the empty struct for a generic header.
func newPayload(r Raw) Payload {
	switch r.Type {
	case PayloadSA:
		return new(SA)
	case PayloadKE:
		return new(KE)
	case PayloadIDi, PayloadIDr:
		return &ID{Responder: r.Type == PayloadIDr}
	case PayloadCERT:
		return new(Cert)
	case PayloadCERTREQ:
		return new(CertReq)
	case PayloadAUTH:
		return new(Auth)
	case PayloadNonce:
		return new(Nonce)
	case PayloadNotify:
		return new(Notify)
	case PayloadDelete:
		return new(Delete)
	case PayloadVendorID:
		return new(VendorID)
	case PayloadTSi, PayloadTSr:
		return &TS{Responder: r.Type == PayloadTSr}
	case PayloadSK:
		return &Encrypted{First: r.Next}
	case PayloadCP:
		return new(Config)
	case PayloadEAP:
		return new(EAP)
	case PayloadSKF:
		return &EncryptedFragment{First: r.Next}
	}
	return &Unknown{Type: r.Type, Critical: r.Critical}
}

// Append appends a message of IKEv2. The header's NextPayload and Length are computed. An encrypted payload, whole, may stand last.
// On error dst is returned as it was.
func Append(dst []byte, h Header, payloads []Payload) ([]byte, error) {
	c := &coder{buf: dst, appending: true, base: len(dst)}
	h.append(c, firstOf(payloads))
	c.appendChain(payloads, true)
	return c.finish(dst, 0)
}

// AppendPayloads appends a payload chain, the contents of an encrypted payload, and returns the type of its first payload:
// PayloadNone for an empty chain. On error dst is returned as it was.
func AppendPayloads(dst []byte, payloads []Payload) (first PayloadType, out []byte, err error) {
	c := &coder{buf: dst, appending: true, base: len(dst)}
	c.appendChain(payloads, false)
	if c.err != nil {
		return PayloadNone, dst, c.err
	}
	return firstOf(payloads), c.buf, nil
}

// AppendEncryptedHeader appends the IKE header and the generic header of an Encrypted payload whose body (IV, ciphertext, checksum)
// will be bodyLen octets: exactly the associated data of RFC 5282, section 5.1. first is the type of the first payload
// inside. On error dst is returned as it was.
func AppendEncryptedHeader(dst []byte, h Header, first PayloadType, bodyLen int) ([]byte, error) {
	c := &coder{buf: dst, appending: true, base: len(dst)}
	h.append(c, PayloadSK)
	c.appendSKHeader(PayloadSK, first, PayloadHeaderLen, bodyLen)
	return c.finish(dst, bodyLen)
}

// AppendFragmentHeader is AppendEncryptedHeader for an Encrypted Fragment payload (RFC 7383, section 2.5). first
// is PayloadNone in all fragments but number 1; 1 <= number <= total.
func AppendFragmentHeader(dst []byte, h Header, first PayloadType, number, total uint16, bodyLen int) ([]byte, error) {
	c := &coder{buf: dst, appending: true, base: len(dst)}
	h.append(c, PayloadSKF)
	c.appendSKHeader(PayloadSKF, first, FragmentHeaderLen, bodyLen)
	p := EncryptedFragment{Number: number, Total: total}
	p.position(c)
	return c.finish(dst, bodyLen)
}

func (c *coder) appendSKHeader(t, first PayloadType, headerLen, bodyLen int) {
	c.payload = t
	if bodyLen < 1 || bodyLen > MaxMessage-HeaderLen-headerLen {
		c.fail(ErrLength, "payload length")
		return
	}
	n := uint16(headerLen + bodyLen)
	u8(c, &first, "next payload")
	c.reserved(1)
	u16(c, &n, "payload length")
}

func (h *Header) append(c *coder, first PayloadType) {
	if h.Version.Major() != 2 {
		c.failAt(ErrValue, "major version", c.base+offVersion)
		return
	}
	h.NextPayload, h.Length = first, 0
	h.fields(c)
}

func firstOf(payloads []Payload) PayloadType {
	if len(payloads) == 0 || payloads[0] == nil {
		return PayloadNone
	}
	return payloads[0].PayloadType()
}

func (c *coder) appendChain(payloads []Payload, sealed bool) {
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
		next := firstOf(payloads[i+1:])
		var bits uint8
		switch p := p.(type) {
		case *Encrypted:
			next = p.First
		case *EncryptedFragment:
			next = p.First
		case *Unknown:
			if p.Critical {
				bits = criticalBit
			}
			if _, known := newPayload(Raw{Type: p.Type}).(*Unknown); !known {
				c.fail(ErrValue, "payload type") // what has a struct is checked by it
			}
		}
		if c.payload == PayloadSK || c.payload == PayloadSKF {
			if !sealed || i+1 < len(payloads) {
				c.fail(ErrValue, "encrypted payload that is not the last")
			}
		}
		start := c.pos()
		u8(c, &next, "next payload")
		u8(c, &bits, "critical")
		f := c.length(start, "payload length")
		p.fields(c)
		c.close(f)
	}
}

// finish writes the Length of a message to which extra octets will be added.
func (c *coder) finish(dst []byte, extra int) ([]byte, error) {
	n := len(c.buf) - c.base + extra
	if c.err == nil && n > MaxMessage {
		c.payload = PayloadNone
		c.failAt(ErrLength, "length", c.base+offLength)
	}
	if c.err != nil {
		return dst, c.err
	}
	patch := coder{buf: c.buf[:c.base+offLength], appending: true}
	length := uint32(n)
	patch.u32(&length, "length")
	return c.buf, nil
}

// Find returns the first payload of type t, whose struct is P: Find[*ID](payloads, PayloadIDr).
func Find[P Payload](payloads []Payload, t PayloadType) (p P, ok bool) {
	for _, x := range payloads {
		if x.PayloadType() == t {
			if p, ok = x.(P); ok {
				return p, true
			}
		}
	}
	return p, false
}

// FindNotify returns the first notification of type t, or nil.
func FindNotify(payloads []Payload, t NotifyType) *Notify {
	for _, x := range payloads {
		if n, ok := x.(*Notify); ok && n.Type == t {
			return n
		}
	}
	return nil
}
