package policy

import (
	"net/netip"
	"time"
)

// XAuthRole says who we are in XAUTH.
type XAuthRole uint8

const (
	XAuthNone XAuthRole = iota
	XAuthClient
	XAuthServer
)

func (r XAuthRole) String() string { return [...]string{"none", "client", "server", ""}[r&3] }

// XAuthUser is one whom a server knows.
type XAuthUser struct {
	Name     string
	Password Secret
}

// The numbers of IKEv1 (RFC 2407, sections 4.4.4 and 4.5; RFC 2409, appendix A; RFC 4312, 4868 and 5903). Key exchange groups have those of
// IKEv2, and so have the ciphers of ESP but for one.

var (
	v1Ciphers = map[uint16]uint16{ENCRInsecureDES: 1, ENCRInsecureBlowfish: 3, ENCRInsecure3DES: 5, ENCRInsecureCAST: 6, ENCRAESCBC: 7, ENCRInsecureCamellia: 8}
	v1Hashes  = map[uint16]uint16{IntegInsecureMD5: 1, IntegSHA1: 2, IntegSHA256: 4, IntegSHA384: 5, IntegSHA512: 6}
	v1ESP     = map[uint16]uint16{
		ENCRInsecureDES: 2, ENCRInsecure3DES: 3, ENCRInsecureCAST: 6, ENCRInsecureBlowfish: 7, ENCRNull: 11, ENCRAESCBC: 12, ENCRAESCTR: 13,
		ENCRAESCCM8: 14, ENCRAESCCM12: 15, ENCRAESCCM16: 16, ENCRAESGCM8: 18, ENCRAESGCM12: 19, ENCRAESGCM16: 20, ENCRInsecureCamellia: 22, ENCRAESGMAC: 23,
	}
	v1ESPAuth = map[uint16]uint16{IntegInsecureMD5: 1, IntegSHA1: 2, IntegSHA256: 5, IntegSHA384: 6, IntegSHA512: 7, IntegAESXCBC: 9}
)

// v1Numbers is the table for a protocol and type; nil: the numbers are IKEv2's, as far as v1Group says.
func v1Numbers(p Protocol, tt TransformType) map[uint16]uint16 {
	switch {
	case tt == TransformENCR && p == ProtocolIKE:
		return v1Ciphers
	case tt == TransformENCR:
		return v1ESP
	case tt == TransformINTEG && p == ProtocolIKE:
		return v1Hashes
	case tt == TransformINTEG:
		return v1ESPAuth
	}
	return nil
}

// v1Group: 31 is strongSwan's private use of IKEv2's number.
func v1Group(id uint16) bool {
	return id == 1 || id == 2 || id == 5 || id >= 14 && id <= 24 || id == 31
}

// V1Number is the transform's number in IKEv1: phase 1's for ProtocolIKE, where an integrity algorithm names the hash, else phase 2's.
// False: IKEv1 cannot say it.
func (t Transform) V1Number(p Protocol) (uint16, bool) {
	if t.Type == TransformKE {
		return t.ID, v1Group(t.ID)
	}
	n, ok := v1Numbers(p, t.Type)[t.ID]
	return n, ok
}

// FromV1 is the IKEv2 number for one of IKEv1's.
func FromV1(p Protocol, tt TransformType, number uint16) (id uint16, ok bool) {
	if tt == TransformKE {
		return number, v1Group(number)
	}
	for id, n := range v1Numbers(p, tt) {
		if n == number {
			return id, true
		}
	}
	return 0, false
}

// Version1 are the settings of a tunnel that IKEv1 alone has.
type Version1 struct {
	// Aggressive: we begin in aggressive mode, and a peer may. With a pre-shared key whoever asks can guess it off-line.
	Aggressive bool
	// XAuth: after phase 1 the client proves a user's name by a password.
	XAuth    XAuthRole
	User     string
	Password Secret
	Users    []XAuthUser
	// Push: the end with a pool says what the other one gets, instead of being asked.
	Push bool
	// Banner and SplitInclude, networks that are reached through the tunnel, are told to clients (Cisco Unity).
	Banner       string
	SplitInclude []netip.Prefix
	// Check is what a responder makes of lifetimes, and of the group of PFS.
	Check ProposalCheck
}

// ProposalCheck says what a responder does with a lifetime that a peer asks for (racoon's proposal_check).
type ProposalCheck uint8

const (
	CheckClaim  ProposalCheck = iota // the shorter counts, and the peer is told of ours (RFC 2407, section 4.6.3.1)
	CheckObey                        // the peer's counts, and so does its group
	CheckStrict                      // one longer than ours is refused
	CheckExact                       // one other than ours is refused
)

func (c ProposalCheck) String() string { return [...]string{"claim", "obey", "strict", "exact"}[c&3] }

// Allows says whether a lifetime that a peer asks for is taken; 0: none.
func (c ProposalCheck) Allows(asked, ours time.Duration) bool {
	switch {
	case c == CheckExact:
		return asked == ours
	case c == CheckStrict:
		return ours == 0 || asked != 0 && asked <= ours
	}
	return true
}

// maxV1Suites are offered in one payload; a peer has 255 numbers for them and little patience.
const maxV1Suites = 64

// V1Suites are the combinations of proposals that IKEv1 can say, in order: it names a whole suite at once. Each has one algorithm of each
// type. For IKE that is a cipher, a hash with its PRF, and a group; for ESP a cipher, an integrity algorithm if the cipher needs one, and
// the given group, or none for zero.
func V1Suites(ps []Proposal, group uint16) (out []Proposal) {
	for _, p := range ps {
		groups, integs := []Transform{{Type: TransformKE, ID: group}}, p.Of(TransformINTEG)
		if p.Protocol == ProtocolIKE {
			groups = p.Of(TransformKE)
		} else if len(integs) == 0 {
			integs = []Transform{{Type: TransformINTEG}}
		}
		for _, ke := range groups {
			for _, encr := range p.Of(TransformENCR) {
				for _, integ := range integs {
					q := V1Suite(p.Protocol, encr, integ, ke)
					if _, err := Agreed([]Proposal{p}, q); err == nil && q.sayableInV1() && len(out) < maxV1Suites {
						out = append(out, q)
					}
				}
			}
		}
	}
	return out
}

func (p Proposal) sayableInV1() bool {
	for _, t := range p.Transforms {
		if _, ok := t.V1Number(p.Protocol); !ok && t.Type != TransformPRF && t.Type != TransformESN {
			return false
		}
	}
	return true
}

// V1Suite is one combination as a proposal. An integrity algorithm or group with number zero is none.
func V1Suite(protocol Protocol, encr, integ, ke Transform) Proposal {
	q := Proposal{Protocol: protocol, Transforms: []Transform{encr}}
	if a := integ.Algorithm(); protocol == ProtocolIKE && a != nil && a.Implied != "" {
		q.Transforms = append(q.Transforms, LookupKeyword(a.Implied).Transform())
	}
	if integ.ID != 0 {
		q.Transforms = append(q.Transforms, integ)
	}
	if ke.ID != 0 {
		q.Transforms = append(q.Transforms, ke)
	}
	if protocol == ProtocolESP {
		q.Transforms = append(q.Transforms, Transform{Type: TransformESN, ID: ESNNo})
	}
	return q
}

// DefaultV1IKE is offered and accepted by a tunnel of version 1 that names nothing.
func DefaultV1IKE() []Proposal {
	return []Proposal{MustProposal(ProtocolIKE, "aes128-aes256-sha256-ecp256-modp2048")}
}
