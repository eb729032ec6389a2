// Package radius is the wire format of a RADIUS client that carries EAP: RFC 2865, 3579 (EAP-Message and
// Message-Authenticator) and 2548 (the keys). Octets to structs and back; who sends them is another's business.
package radius

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"coati/policy"
)

// Code of a packet (RFC 2865, section 3).
type Code uint8

const (
	AccessRequest   Code = 1
	AccessAccept    Code = 2
	AccessReject    Code = 3
	AccessChallenge Code = 11
)

// Attributes (RFC 2865, section 5; RFC 3579, section 3; RFC 3162).
const (
	attrUserName             = 1
	attrNASIPAddress         = 4
	attrServiceType          = 6
	attrFramedMTU            = 12
	attrState                = 24
	attrVendorSpecific       = 26
	attrCallingStationID     = 31
	attrNASIdentifier        = 32
	attrNASPortType          = 61
	attrEAPMessage           = 79
	attrMessageAuthenticator = 80
	attrNASIPv6Address       = 95

	vendorMicrosoft = 311 // RFC 2548
	mppeSendKey     = 16
	mppeRecvKey     = 17
)

const (
	headerLen = 20
	maxPacket = 4096 // octets (RFC 2865, section 3)
	maxValue  = 253  // octets of one attribute
	maxEAP    = 3500 // octets; with it and all else a request stays below maxPacket
	framedMTU = 1400 // octets of EAP that the server should put into one packet (RFC 3579, section 2.4)
)

// Request is one packet of EAP for a server.
type Request struct {
	User           string
	EAP, State     []byte // State: nil at first
	CallingStation string
	NASIdentifier  string
	NASAddress     netip.Addr
}

// Authenticator is the 16 random octets of a request, which its answer is bound to.
type Authenticator [16]byte

// Append encodes an Access-Request.
func (r Request) Append(id uint8, a Authenticator, secret policy.Secret) ([]byte, error) {
	if len(r.EAP) > maxEAP || len(r.User) > maxValue || len(r.State) > maxValue {
		return nil, errors.New("the EAP packet is too long for RADIUS")
	}
	b := append([]byte{byte(AccessRequest), id, 0, 0}, a[:]...)
	// First, so that nobody can put anything before it.
	b = append(b, attrMessageAuthenticator, 18)
	at := len(b)
	b = append(b, make([]byte, md5.Size)...)
	b = attribute(b, attrUserName, []byte(r.User))
	if r.NASAddress.Is4() {
		b = attribute(b, attrNASIPAddress, r.NASAddress.AsSlice())
	} else if r.NASAddress.IsValid() {
		b = attribute(b, attrNASIPv6Address, r.NASAddress.AsSlice())
	}
	b = attribute(b, attrNASIdentifier, cut(r.NASIdentifier))
	b = attribute(b, attrCallingStationID, cut(r.CallingStation))
	b = attribute(b, attrServiceType, []byte{0, 0, 0, 2}) // Framed
	b = attribute(b, attrNASPortType, []byte{0, 0, 0, 5}) // Virtual
	b = attribute(b, attrFramedMTU, binary.BigEndian.AppendUint32(nil, framedMTU))
	for rest := r.EAP; len(rest) > 0; {
		n := min(len(rest), maxValue)
		b = attribute(b, attrEAPMessage, rest[:n])
		rest = rest[n:]
	}
	if r.State != nil {
		b = attribute(b, attrState, r.State)
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[at:], messageAuthenticator(b, secret))
	return b, nil
}

func attribute(b []byte, t byte, value []byte) []byte {
	if len(value) == 0 {
		return b
	}
	return append(append(b, t, byte(2+len(value))), value...)
}

func cut(s string) []byte { return []byte(s[:min(len(s), maxValue)]) }

// messageAuthenticator is the HMAC of a packet whose own field is zero (RFC 3579, section 3.2).
func messageAuthenticator(b []byte, secret policy.Secret) []byte {
	h := hmac.New(md5.New, secret.Reveal())
	h.Write(b)
	return h.Sum(nil)
}

// Response is what a server answers.
type Response struct {
	Code       Code
	EAP, State []byte        // nil: there is none
	MSK        policy.Secret // of the method; empty: there is none
}

// What may be wrong with a response. Anybody can send one: it is dropped, and the genuine one waited for.
var (
	ErrMalformed     = errors.New("a malformed RADIUS packet")
	ErrOther         = errors.New("a RADIUS packet that answers another request")
	ErrAuthenticator = errors.New("a RADIUS packet of somebody who does not know the secret: see radius-secret-file")
	ErrUnprotected   = errors.New("a RADIUS packet without Message-Authenticator: the server must send it (RFC 3579)")
)

// ParseResponse checks and reads the answer to a request. Nothing of it is believed before both authenticators are right.
func ParseResponse(b []byte, id uint8, a Authenticator, secret policy.Secret) (Response, error) {
	if len(b) < headerLen || len(b) > maxPacket {
		return Response{}, ErrMalformed
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	if n < headerLen || n > len(b) {
		return Response{}, ErrMalformed
	}
	b = b[:n] // octets behind it are padding (RFC 2865, section 3)
	r := Response{Code: Code(b[0])}
	if b[1] != id || r.Code != AccessAccept && r.Code != AccessReject && r.Code != AccessChallenge {
		return Response{}, ErrOther
	}
	if !hmac.Equal(b[4:headerLen], responseAuthenticator(b, a, secret)) {
		return Response{}, ErrAuthenticator
	}
	at, err := findAuthenticator(b)
	if err != nil {
		return Response{}, err
	}
	signed := bytes.Clone(b)
	copy(signed[4:], a[:])
	clear(signed[at : at+md5.Size])
	if !hmac.Equal(b[at:at+md5.Size], messageAuthenticator(signed, secret)) {
		return Response{}, ErrAuthenticator
	}
	return r, r.read(b[headerLen:], a, secret)
}

// responseAuthenticator is MD5 of the packet with the request's authenticator, and the secret (RFC 2865, section 3).
func responseAuthenticator(b []byte, a Authenticator, secret policy.Secret) []byte {
	h := md5.New()
	h.Write(b[:4])
	h.Write(a[:])
	h.Write(b[headerLen:])
	h.Write(secret.Reveal())
	return h.Sum(nil)
}

// next cuts off the first attribute.
func next(b []byte) (t byte, value, rest []byte, err error) {
	if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
		return 0, nil, nil, ErrMalformed
	}
	return b[0], b[2:b[1]], b[b[1]:], nil
}

// findAuthenticator says where the value of the Message-Authenticator begins.
func findAuthenticator(b []byte) (int, error) {
	at := 0
	for rest := b[headerLen:]; len(rest) > 0; {
		t, value, more, err := next(rest)
		if err != nil {
			return 0, err
		}
		if t == attrMessageAuthenticator {
			if at != 0 || len(value) != md5.Size {
				return 0, ErrMalformed
			}
			at = len(b) - len(rest) + 2
		}
		rest = more
	}
	if at == 0 {
		return 0, ErrUnprotected
	}
	return at, nil
}

func (r *Response) read(rest []byte, a Authenticator, secret policy.Secret) error {
	var send, recv []byte
	for len(rest) > 0 {
		t, value, more, err := next(rest)
		if err != nil {
			return err
		}
		rest = more
		switch t {
		case attrEAPMessage:
			r.EAP = append(r.EAP, value...)
		case attrState:
			if r.State != nil {
				return ErrMalformed
			}
			r.State = append([]byte{}, value...)
		case attrVendorSpecific:
			if len(value) < 6 || binary.BigEndian.Uint32(value) != vendorMicrosoft {
				continue
			}
			if err := microsoft(value[4:], a, secret, &send, &recv); err != nil {
				return err
			}
		}
	}
	if (send == nil) != (recv == nil) {
		return fmt.Errorf("%w: one of two keys", ErrMalformed)
	}
	if send != nil && r.Code == AccessAccept {
		// Both ends of EAP call it MSK: the server's receive key first (RFC 3748, section 7.10; RFC 2548, section 2.4).
		msk := append(append([]byte{}, recv...), send...)
		if len(msk) < 64 {
			msk = append(msk, make([]byte, 64-len(msk))...)
		}
		r.MSK = policy.NewSecret(msk)
	}
	clear(send)
	clear(recv)
	return nil
}

// microsoft reads the vendor's attributes that hold keys.
func microsoft(b []byte, a Authenticator, secret policy.Secret, send, recv *[]byte) error {
	for len(b) > 0 {
		t, value, more, err := next(b)
		if err != nil {
			return err
		}
		b = more
		into := send
		switch t {
		case mppeRecvKey:
			into = recv
		case mppeSendKey:
		default:
			continue
		}
		key, err := mppeKey(value, a, secret)
		if err != nil || *into != nil {
			return fmt.Errorf("%w: a key that cannot be read", ErrMalformed)
		}
		*into = key
	}
	return nil
}

// mppeKey decrypts a key (RFC 2548, section 2.4.2): a salt, then a length, the key and padding, in blocks of 16 octets.
func mppeKey(value []byte, a Authenticator, secret policy.Secret) ([]byte, error) {
	if len(value) < 2+md5.Size || (len(value)-2)%md5.Size != 0 || value[0]&0x80 == 0 {
		return nil, ErrMalformed
	}
	salt, cipher := value[:2], value[2:]
	plain := make([]byte, 0, len(cipher))
	defer func() { clear(plain) }()
	before := append(a[:len(a):len(a)], salt...)
	for ; len(cipher) > 0; cipher = cipher[md5.Size:] {
		h := md5.New()
		h.Write(secret.Reveal())
		h.Write(before)
		before = cipher[:md5.Size]
		for i, k := range h.Sum(nil) {
			plain = append(plain, cipher[i]^k)
		}
	}
	if n := int(plain[0]); n == 0 || n > 64 || n > len(plain)-1 {
		return nil, ErrMalformed
	}
	return bytes.Clone(plain[1 : 1+int(plain[0])]), nil
}
