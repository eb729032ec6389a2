package policy

import (
	"maps"
	"net/netip"
	"slices"
)

// EAPMethod is a method of EAP, or what may run inside EAP-TTLS.
type EAPMethod uint8

const (
	EAPMSCHAPv2   EAPMethod = iota // draft-kamath-pppext-eap-mschapv2, RFC 2759
	EAPTLS                         // RFC 5216, 9190
	EAPTTLS                        // RFC 5281
	EAPMD5                         // RFC 3748, section 5.4: makes no key, proves nothing of the server
	EAPGTC                         // RFC 3748, section 5.6: the password itself; makes no key
	InnerPAP                       // RFC 5281, section 11.2.5: inside EAP-TTLS alone
	InnerMSCHAPv2                  // RFC 5281, section 11.2.4
)

var eapMethods = []string{"mschapv2", "tls", "ttls", "md5", "gtc"}

// EAPMethods are the words for methods, in the order of their numbers here.
func EAPMethods() []string { return slices.Clone(eapMethods) }

func (m EAPMethod) String() string {
	if m >= InnerPAP {
		return m.Inner()
	}
	return eapMethods[m]
}

// Inner is the word for what runs inside EAP-TTLS: methods of EAP have eap- in front of them.
func (m EAPMethod) Inner() string {
	switch m {
	case InnerPAP:
		return "pap"
	case InnerMSCHAPv2:
		return "mschapv2"
	}
	return "eap-" + eapMethods[m]
}

// Password says whether the method proves that one knows a password.
func (m EAPMethod) Password() bool { return m != EAPTLS }

// Keys says whether the method makes a key, without which who stands between is not found out (RFC 7296, section 2.16).
func (m EAPMethod) Keys() bool { return m == EAPMSCHAPv2 || m == EAPTLS || m == EAPTTLS }

// EAP is how a tunnel's initiator authenticates by EAP (RFC 7296, section 2.16). It is never changed once made.
type EAP struct {
	// Methods that are used, best first. A server that asks RADIUS needs none.
	Methods []EAPMethod
	// Inner is what may run inside EAP-TTLS, best first.
	Inner []EAPMethod
	// Identity and Password are the initiator's.
	Identity string
	Password Secret
	// Users are those a responder knows, with their passwords.
	Users map[string]Secret
	// RADIUS servers know the users of a responder that has none itself.
	RADIUS RADIUS
	// Credential is our certificate in TLS, Trust that by which the other end's is believed, ServerID whom a server's
	// certificate must be for.
	Credential *Credential
	Trust      *Trust
	ServerID   Identity
}

// RADIUS is whom a responder asks (RFC 2865, 3579).
type RADIUS struct {
	// Servers are asked in this order, the next when one is silent.
	Servers []netip.AddrPort
	Secret  Secret
}

// Serves says that the tunnel is a responder's: it checks others.
func (e *EAP) Serves() bool { return e != nil && (e.Users != nil || len(e.RADIUS.Servers) > 0) }

// Allows says whether a method may be used.
func (e *EAP) Allows(m EAPMethod) bool { return slices.Contains(e.Methods, m) }

// Equal says whether both are the same. Either may be nil.
func (e *EAP) Equal(o *EAP) bool {
	if e == nil || o == nil {
		return e == o
	}
	return slices.Equal(e.Methods, o.Methods) && slices.Equal(e.Inner, o.Inner) && e.Identity == o.Identity && e.Password.Equal(o.Password) &&
		(e.Users == nil) == (o.Users == nil) && maps.EqualFunc(e.Users, o.Users, Secret.Equal) &&
		slices.Equal(e.RADIUS.Servers, o.RADIUS.Servers) && e.RADIUS.Secret.Equal(o.RADIUS.Secret) &&
		e.Credential.Equal(o.Credential) && e.Trust.Equal(o.Trust) && e.ServerID.Equal(o.ServerID)
}
