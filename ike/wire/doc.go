// Package wire is the message formats of IKE: bytes <-> structs, nothing else. What a message means, which payloads an
// exchange needs and whether a value is acceptable is for the state machines to say.
//
// The fixed header (header.go) and the data attributes (attribute.go) are those of both major versions. The files
// whose names begin with v2_ hold IKEv2, RFC 7296, section 3, and the extensions of RFC 7383 (fragments); v1_ is IKEv1:
// RFC 2408, section 3, RFC 2407, section 4, and RFC 3947.
//
// A payload is declared once for both directions: its fields method walks the fields in the order of the RFC's
// picture, and the coder (coder.go) either appends them or consumes them. All lengths, counts and limits are checked
// there, therefore:
//
//   - No proper prefix of a message parses, and no message parses with octets left over.
//   - Reserved bits are ignored on receipt and sent as zero (ID keeps them, see there). What parses and is appended again parses to the same
//     structs, and appends to the same octets from then on.
//   - A field that does not fit its length is an error when appending, never a truncated message; dst is then
//     returned as it was.
//   - Memory is bounded by the input's length times a small constant, and by the limits of limits.go.
//
// Byte slices of parsed payloads alias the input and have no spare capacity: whoever keeps a payload longer than
// the datagram's buffer copies them. All other fields are values.
package wire
