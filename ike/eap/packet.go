// Package eap is the Extensible Authentication Protocol (RFC 3748), as machines: a packet in, a packet out. There is no
// clock here, and nothing is repeated: IKE carries each packet reliably.
//
//	packet.go    the packet
//	peer.go      who authenticates: answers requests
//	server.go    who checks: asks, and knows users
//	mschapv2.go  the arithmetic of MS-CHAP-V2 (RFC 2759) and its keys (RFC 3079)
//	chap.go      the methods EAP-MSCHAPv2, MD5-Challenge and Generic Token Card
//	tunnel.go    TLS without network, and its fragments
//	tls.go       the method EAP-TLS (RFC 5216, 9190)
//	ttls.go      the method EAP-TTLS (RFC 5281)
package eap

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Code says what a packet is (RFC 3748, section 4).
type Code uint8

const (
	Request  Code = 1
	Response Code = 2
	Success  Code = 3
	Failure  Code = 4
)

// Type of a request or response (RFC 3748, section 5).
type Type uint8

const (
	TypeIdentity     Type = 1
	TypeNotification Type = 2
	TypeNak          Type = 3
	TypeMD5          Type = 4
	TypeGTC          Type = 6
	TypeTLS          Type = 13
	TypeTTLS         Type = 21
	TypeMSCHAPv2     Type = 26
	TypeExpanded     Type = 254
)

func (t Type) String() string {
	switch t {
	case TypeIdentity:
		return "Identity"
	case TypeNotification:
		return "Notification"
	case TypeNak:
		return "Nak"
	case TypeMD5:
		return "MD5"
	case TypeGTC:
		return "GTC"
	case TypeTLS:
		return "TLS"
	case TypeTTLS:
		return "TTLS"
	case TypeMSCHAPv2:
		return "MSCHAPv2"
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Packet is one EAP packet. Type and Data are of requests and responses only.
type Packet struct {
	Code Code
	ID   uint8
	Type Type
	Data []byte
}

// MaxPacket is the longest packet that is taken or made, in octets. Methods with more to say cut it into fragments.
const MaxPacket = 4096

var errMalformed = errors.New("a malformed EAP packet")

// Parse reads a packet. Data points into b.
func Parse(b []byte) (Packet, error) {
	if len(b) < 4 || len(b) > MaxPacket || int(binary.BigEndian.Uint16(b[2:])) != len(b) {
		return Packet{}, errMalformed
	}
	p := Packet{Code: Code(b[0]), ID: b[1]}
	switch p.Code {
	case Request, Response:
		if len(b) < 5 {
			return Packet{}, errMalformed
		}
		p.Type, p.Data = Type(b[4]), b[5:]
	case Success, Failure:
		if len(b) != 4 {
			return Packet{}, errMalformed
		}
	default:
		return Packet{}, errMalformed
	}
	return p, nil
}

// Bytes is the packet as it is sent.
func (p Packet) Bytes() []byte {
	b := []byte{byte(p.Code), p.ID, 0, 4}
	if p.Code == Request || p.Code == Response {
		b = append(append(b, byte(p.Type)), p.Data...)
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	}
	return b
}

// Step is what a packet led to.
type Step struct {
	Send []byte // the packet to send; nil: none
	Done bool   // authentication succeeded
	Err  error  // it failed, in words for people; a server may have a packet to send nevertheless
}

// MaxRounds is how many packets of the other end are taken: enough for long chains of certificates in small fragments.
const MaxRounds = 64

// MaxIdentity is the longest identity taken, in octets: RADIUS takes no longer User-Name (RFC 2865, section 5.1).
const MaxIdentity = 253

var errRounds = fmt.Errorf("EAP did not end after %d rounds", MaxRounds)
