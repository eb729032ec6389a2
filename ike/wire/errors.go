package wire

import (
	"errors"
	"strconv"
)

// The kinds of fault a message can have; an *Error unwraps to one of them.
var (
	// ErrTruncated says that the octets end before the fields do.
	ErrTruncated = errors.New("cut short")
	// ErrLength says that a length or count contradicts what it covers, or that something does not fit its length.
	ErrLength = errors.New("length does not match the contents")
	// ErrValue says that a field has a value the RFC forbids.
	ErrValue = errors.New("value not allowed")
	// ErrTooMany says that a list is longer than a limit of this package.
	ErrTooMany = errors.New("more elements than the limit")
)

// An Error says which field of which payload is at fault. It holds no contents of the message.
type Error struct {
	Kind    error       // ErrTruncated, ErrLength, ErrValue or ErrTooMany
	Payload PayloadType // the payload; PayloadNone for the IKE header and the chain itself
	Field   string      // the RFC's name of the field, lower case
	Offset  int         // octets from the start of what is parsed, or of what is appended
}

func (e *Error) Error() string {
	where := "ike header"
	if e.Payload != PayloadNone {
		where = "ike payload " + e.Payload.String()
	}
	return where + ": " + e.Field + " at octet " + strconv.Itoa(e.Offset) + ": " + e.Kind.Error()
}

// Unwrap returns the kind.
func (e *Error) Unwrap() error { return e.Kind }

// UnsupportedCritical is the type of a payload that is not understood and has the critical bit set. It is the one octet of data
// of the notification UNSUPPORTED_CRITICAL_PAYLOAD (RFC 7296, section 2.5).
type UnsupportedCritical PayloadType

func (t UnsupportedCritical) Error() string {
	return "ike payload " + PayloadType(t).String() + " is critical and not supported"
}

// CheckCritical returns an UnsupportedCritical for the first unknown payload with the critical bit set, else nil.
func CheckCritical(payloads []Payload) error {
	for _, p := range payloads {
		if u, ok := p.(*Unknown); ok && u.Critical {
			return UnsupportedCritical(u.Type)
		}
	}
	return nil
}
