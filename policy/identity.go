package policy

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// IDType is the identification type of RFC 7296, section 3.5.
type IDType uint8

const (
	IDNone   IDType = 0 // not configured: the address stands for it
	IDIPv4   IDType = 1
	IDFQDN   IDType = 2
	IDEmail  IDType = 3 // ID_RFC822_ADDR
	IDIPv6   IDType = 5
	IDDN     IDType = 9 // ID_DER_ASN1_DN
	IDKeyID  IDType = 11
	IDNull   IDType = 13  // RFC 7619: nobody; no octets
	IDUser   IDType = 254 // the identity that EAP proved; never on the wire
	IDAnyOne IDType = 255 // matches every identity; never on the wire
)

// Identity is a type and its octets exactly as they stand in an ID payload.
type Identity struct {
	Type IDType
	Data []byte
}

// ParseIdentity reads fqdn:NAME, email:NAME, keyid:TEXT, keyid:0xHEX, ipv4:ADDR, ipv6:ADDR, dn:NAME (see ParseDN), "any",
// and the bare forms: an address, a name with @ inside (email), @name or a plain name (fqdn).
func ParseIdentity(s string) (Identity, error) {
	kind, rest, found := strings.Cut(s, ":")
	if _, err := netip.ParseAddr(s); err == nil || !found {
		return bareIdentity(s)
	}
	if rest == "" {
		return Identity{}, fmt.Errorf("identity %q is empty after the colon", s)
	}
	switch strings.ToLower(kind) {
	case "fqdn":
		return Identity{IDFQDN, []byte(rest)}, nil
	case "email":
		if !strings.Contains(rest, "@") {
			return Identity{}, fmt.Errorf("identity %q is no mail address: it has no @", s)
		}
		return Identity{IDEmail, []byte(rest)}, nil
	case "keyid":
		if h, ok := strings.CutPrefix(rest, "0x"); ok {
			b, err := hex.DecodeString(h)
			if err != nil || len(b) == 0 {
				return Identity{}, fmt.Errorf("identity %q: bad hexadecimal key-id", s)
			}
			return Identity{IDKeyID, b}, nil
		}
		return Identity{IDKeyID, []byte(rest)}, nil
	case "dn":
		der, err := ParseDN(rest)
		return Identity{IDDN, der}, err
	case "ipv4", "ipv6":
		a, err := netip.ParseAddr(rest)
		if err != nil || a.Is4() != (strings.ToLower(kind) == "ipv4") || a.Zone() != "" {
			return Identity{}, fmt.Errorf("identity %q is no %s address", s, kind)
		}
		return AddrIdentity(a), nil
	}
	return Identity{}, fmt.Errorf("identity %q has an unknown kind %q: want fqdn, email, dn, keyid, ipv4 or ipv6", s, kind)
}

func bareIdentity(s string) (Identity, error) {
	if s == "" {
		return Identity{}, fmt.Errorf("identity is empty")
	}
	if s == "any" || s == "%any" {
		return Identity{Type: IDAnyOne}, nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" {
			return Identity{}, fmt.Errorf("identity %q: an address with a zone names nobody", s)
		}
		return AddrIdentity(a), nil
	}
	if name, ok := strings.CutPrefix(s, "@"); ok && name != "" {
		return Identity{IDFQDN, []byte(name)}, nil
	}
	if strings.Contains(s, "@") {
		return Identity{IDEmail, []byte(s)}, nil
	}
	return Identity{IDFQDN, []byte(s)}, nil
}

// AddrIdentity is the identity of an address.
func AddrIdentity(a netip.Addr) Identity {
	a = a.Unmap()
	if a.Is4() {
		return Identity{IDIPv4, a.AsSlice()}
	}
	return Identity{IDIPv6, a.AsSlice()}
}

// unmapped gives an address its own family.
func (id Identity) unmapped() Identity {
	if a, ok := netip.AddrFromSlice(id.Data); ok {
		return AddrIdentity(a)
	}
	return id
}

// IsZero says that no identity was configured.
func (id Identity) IsZero() bool { return id.Type == IDNone }

// Matches says whether the identity a peer presented is the configured one. Names compare without case
// (RFC 4945, section 3.1.2), distinguished names part by part, everything else octet by octet.
func (id Identity) Matches(presented Identity) bool {
	if id.Type == IDAnyOne {
		return true
	}
	if id.Type != presented.Type {
		return false
	}
	switch id.Type {
	case IDFQDN, IDEmail:
		return strings.EqualFold(string(id.Data), string(presented.Data))
	case IDDN:
		return equalDN(id.Data, presented.Data)
	}
	return bytes.Equal(id.Data, presented.Data)
}

// Equal compares type and octets.
func (id Identity) Equal(o Identity) bool {
	return id.Type == o.Type && bytes.Equal(id.Data, o.Data)
}

// String is the form ParseIdentity reads. Octets that do not print are shown in hexadecimal.
func (id Identity) String() string {
	switch id.Type {
	case IDNone:
		return "none"
	case IDAnyOne:
		return "any"
	case IDIPv4, IDIPv6:
		if a, ok := netip.AddrFromSlice(id.Data); ok && a.Is4() == (id.Type == IDIPv4) {
			return a.String()
		}
	case IDFQDN:
		if printable(id.Data) {
			return "fqdn:" + string(id.Data)
		}
	case IDEmail:
		if printable(id.Data) {
			return "email:" + string(id.Data)
		}
	case IDDN:
		if s, err := FormatDN(id.Data); err == nil && s != "" {
			return "dn:" + s
		}
	case IDNull:
		return "nobody"
	case IDUser:
		if printable(id.Data) {
			return "eap:" + string(id.Data)
		}
		return "eap:0x" + hex.EncodeToString(id.Data)
	case IDKeyID:
		if printable(id.Data) && !bytes.HasPrefix(id.Data, []byte("0x")) {
			return "keyid:" + string(id.Data)
		}
		return "keyid:0x" + hex.EncodeToString(id.Data)
	}
	return fmt.Sprintf("id-type-%d:0x%s", id.Type, hex.EncodeToString(id.Data))
}

func printable(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return len(b) > 0
}
