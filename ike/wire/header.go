package wire

// The fixed header, RFC 7296, section 3.1 and RFC 2408, section 3.1. Both versions have the same fields, and the
// version is in the same place, so that one socket can serve both.

// Version is the octet of major and minor version.
type Version uint8

// The versions.
const (
	Version1 Version = 0x10
	Version2 Version = 0x20
)

// Major is the major version, 0 to 15.
func (v Version) Major() int { return int(v >> 4) }

// Minor is the minor version, 0 to 15; on receipt it is ignored (RFC 7296, section 3.1).
func (v Version) Minor() int { return int(v & 15) }

// Flags are the header's option bits. Those of the two versions don't overlap.
type Flags uint8

// The flags.
const (
	V1Encryption     Flags = 1 << 0 // RFC 2408: the payloads are encrypted
	V1Commit         Flags = 1 << 1 // RFC 2408: wait for the CONNECTED notification
	V1Authentication Flags = 1 << 2 // RFC 2408: authenticated, not encrypted
	FlagInitiator    Flags = 1 << 3 // I: from the original initiator of the IKE SA
	FlagResponse     Flags = 1 << 5 // R: answers the request of the same message ID
)

// known is the mask of the bits that have a meaning. IKEv2's bit V is to be cleared when sending and ignored on receipt,
// as the reserved ones are.
func (f Flags) known(v Version) Flags {
	switch v.Major() {
	case 1:
		return f & (V1Encryption | V1Commit | V1Authentication)
	case 2:
		return f & (FlagInitiator | FlagResponse)
	}
	return f
}

// Header is the fixed header, 28 octets.
type Header struct {
	InitiatorSPI uint64 // IKEv1: initiator cookie
	ResponderSPI uint64 // IKEv1: responder cookie; zero in the first message
	NextPayload  PayloadType
	Version      Version
	Exchange     ExchangeType
	Flags        Flags
	MessageID    uint32
	Length       uint32 // of the whole message, octets
}

func (h *Header) fields(c *coder) {
	c.u64(&h.InitiatorSPI, "initiator spi")
	c.u64(&h.ResponderSPI, "responder spi")
	u8(c, &h.NextPayload, "next payload")
	u8(c, &h.Version, "version")
	u8(c, &h.Exchange, "exchange type")
	flags := h.Flags.known(h.Version)
	u8(c, &flags, "flags")
	h.Flags = flags.known(h.Version)
	c.u32(&h.MessageID, "message id")
	c.u32(&h.Length, "length")
}

const offLength = 24 // of the Length field, octets

// ParseHeader reads the header of a message of any version, and checks that its Length is exactly the datagram's.
// It is an *Error of kind ErrTruncated if octets are missing, ErrLength if there are too many or more than MaxMessage.
func ParseHeader(b []byte) (Header, error) {
	var h Header
	c := coder{buf: b, end: len(b)}
	h.fields(&c)
	h.check(&c)
	return h, c.result()
}

func (h *Header) check(c *coder) {
	switch {
	case c.err != nil:
	case h.Length < HeaderLen, h.Length > MaxMessage, int(h.Length) < len(c.buf):
		c.failAt(ErrLength, "length", offLength)
	case int(h.Length) > len(c.buf):
		c.failAt(ErrTruncated, "length", offLength)
	}
}
