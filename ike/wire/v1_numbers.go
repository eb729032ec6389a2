package wire

// Numbers of IKEv1, from the registries "Internet Key Exchange (IKE) Attributes" and "Internet Security Association and Key
// Management Protocol (ISAKMP) Identifiers".

// The payload types of IKEv1, RFC 2408, section 3.1, RFC 3947, section 3.2, and the numbers its drafts 00 to 03 used.
const (
	PayloadV1SA         PayloadType = 1
	PayloadV1Proposal   PayloadType = 2 // inside an SA payload alone
	PayloadV1Transform  PayloadType = 3 // inside a proposal alone
	PayloadV1KE         PayloadType = 4
	PayloadV1ID         PayloadType = 5
	PayloadV1Cert       PayloadType = 6
	PayloadV1CertReq    PayloadType = 7
	PayloadV1Hash       PayloadType = 8
	PayloadV1Sig        PayloadType = 9
	PayloadV1Nonce      PayloadType = 10
	PayloadV1Notify     PayloadType = 11
	PayloadV1Delete     PayloadType = 12
	PayloadV1VendorID   PayloadType = 13
	PayloadV1Attributes PayloadType = 14 // draft-ietf-ipsec-isakmp-mode-cfg
	PayloadV1NATD       PayloadType = 20
	PayloadV1NATOA      PayloadType = 21
	PayloadV1NATDDraft  PayloadType = 130
	PayloadV1NATOADraft PayloadType = 131
)

var v1PayloadNames = map[PayloadType]string{
	PayloadV1SA: "SA", PayloadV1Proposal: "P", PayloadV1Transform: "T", PayloadV1KE: "KE", PayloadV1ID: "ID", PayloadV1Cert: "CERT",
	PayloadV1CertReq: "CR", PayloadV1Hash: "HASH", PayloadV1Sig: "SIG", PayloadV1Nonce: "NONCE", PayloadV1Notify: "N",
	PayloadV1Delete: "D", PayloadV1VendorID: "VID", PayloadV1Attributes: "ATTR", PayloadV1NATD: "NAT-D", PayloadV1NATOA: "NAT-OA",
	PayloadV1NATDDraft: "NAT-D(draft)", PayloadV1NATOADraft: "NAT-OA(draft)",
}

// The exchanges of IKEv1.
const (
	ExchangeV1Main          ExchangeType = 2 // identity protection
	ExchangeV1Aggressive    ExchangeType = 4
	ExchangeV1Informational ExchangeType = 5
	ExchangeV1Transaction   ExchangeType = 6
	ExchangeV1Quick         ExchangeType = 32
	ExchangeV1NewGroup      ExchangeType = 33
)

var v1ExchangeNames = map[ExchangeType]string{
	ExchangeV1Main: "main mode", ExchangeV1Aggressive: "aggressive mode", ExchangeV1Informational: "informational",
	ExchangeV1Transaction: "transaction", ExchangeV1Quick: "quick mode", ExchangeV1NewGroup: "new group mode",
}

// The domain of interpretation and the only situation that is understood here (RFC 2407, sections 4.2 and 4.6.1).
const (
	DOIISAKMP       uint32 = 0
	DOIIPsec        uint32 = 1
	SitIdentityOnly uint32 = 1
)

// The protocols of proposals, notifications and deletes (RFC 2407, section 4.4.1). The first three are IKEv2's numbers.
const (
	ProtocolV1ISAKMP ProtocolID = 1
	ProtocolV1IPComp ProtocolID = 4
)

// The transform of phase 1 (RFC 2407, section 4.4.2).
const TransformV1KeyIKE uint8 = 1

// The attributes of phase 1 (RFC 2409, appendix A).
const (
	AttrV1Encryption   AttributeType = 1
	AttrV1Hash         AttributeType = 2
	AttrV1AuthMethod   AttributeType = 3
	AttrV1Group        AttributeType = 4
	AttrV1LifeType     AttributeType = 11
	AttrV1LifeDuration AttributeType = 12
	AttrV1PRF          AttributeType = 13
	AttrV1KeyLength    AttributeType = 14
)

// The attributes of phase 2 (RFC 2407, section 4.5; RFC 4304).
const (
	AttrV1SALifeType     AttributeType = 1
	AttrV1SALifeDuration AttributeType = 2
	AttrV1SAGroup        AttributeType = 3
	AttrV1SAMode         AttributeType = 4
	AttrV1SAAuth         AttributeType = 5
	AttrV1SAKeyLength    AttributeType = 6
	AttrV1SAESN          AttributeType = 11
)

// What a life duration counts, in both phases.
const (
	LifeV1Seconds   uint16 = 1
	LifeV1Kilobytes uint16 = 2
)

// Encapsulation modes (RFC 2407, section 4.5; RFC 3947, section 5.1; its drafts).
const (
	ModeV1Tunnel            uint16 = 1
	ModeV1Transport         uint16 = 2
	ModeV1UDPTunnel         uint16 = 3
	ModeV1UDPTransport      uint16 = 4
	ModeV1UDPTunnelDraft    uint16 = 61443
	ModeV1UDPTransportDraft uint16 = 61444
)

// Ways to authenticate in phase 1 (RFC 2409, appendix A; RFC 4754; draft-ietf-ipsec-isakmp-xauth-06, section 7.2;
// draft-zegman-ike-hybrid-auth-01, section 3.2.1). The private ones say which end is authenticated by XAUTH.
const (
	AuthV1PSK           uint16 = 1
	AuthV1RSA           uint16 = 3
	AuthV1ECDSA256      uint16 = 9
	AuthV1ECDSA384      uint16 = 10
	AuthV1ECDSA521      uint16 = 11
	AuthV1HybridInitRSA uint16 = 64221
	AuthV1HybridRespRSA uint16 = 64222
	AuthV1XAuthInitPSK  uint16 = 65001
	AuthV1XAuthRespPSK  uint16 = 65002
	AuthV1XAuthInitRSA  uint16 = 65005
	AuthV1XAuthRespRSA  uint16 = 65006
)

// V1IDType is the kind of an identity or of an end of a phase 2 SA (RFC 2407, section 4.6.2.1).
type V1IDType uint8

// The kinds of identity. Where both have a number, it is IKEv2's.
const (
	IDV1IPv4       V1IDType = 1
	IDV1FQDN       V1IDType = 2
	IDV1UserFQDN   V1IDType = 3
	IDV1IPv4Subnet V1IDType = 4
	IDV1IPv6       V1IDType = 5
	IDV1IPv6Subnet V1IDType = 6
	IDV1IPv4Range  V1IDType = 7
	IDV1IPv6Range  V1IDType = 8
	IDV1DN         V1IDType = 9
	IDV1GN         V1IDType = 10
	IDV1KeyID      V1IDType = 11
)

// v1IDLen is the length of the data of the kinds that have a fixed one, octets.
var v1IDLen = map[V1IDType]int{
	IDV1IPv4: 4, IDV1IPv4Subnet: 8, IDV1IPv4Range: 8, IDV1IPv6: 16, IDV1IPv6Subnet: 32, IDV1IPv6Range: 32,
}

// V1NotifyType is the type of a notification of IKEv1 (RFC 2408, section 3.14.1; RFC 2407, section 4.6.3; RFC 3706).
type V1NotifyType uint16

// The notifications that are sent or understood here.
const (
	NotifyV1InvalidPayloadType     V1NotifyType = 1
	NotifyV1DOINotSupported        V1NotifyType = 2
	NotifyV1SituationNotSupported  V1NotifyType = 3
	NotifyV1InvalidCookie          V1NotifyType = 4
	NotifyV1InvalidMajorVersion    V1NotifyType = 5
	NotifyV1InvalidExchangeType    V1NotifyType = 7
	NotifyV1InvalidFlags           V1NotifyType = 8
	NotifyV1InvalidMessageID       V1NotifyType = 9
	NotifyV1InvalidProtocolID      V1NotifyType = 10
	NotifyV1InvalidSPI             V1NotifyType = 11
	NotifyV1InvalidTransformID     V1NotifyType = 12
	NotifyV1AttributesNotSupported V1NotifyType = 13
	NotifyV1NoProposalChosen       V1NotifyType = 14
	NotifyV1BadProposalSyntax      V1NotifyType = 15
	NotifyV1PayloadMalformed       V1NotifyType = 16
	NotifyV1InvalidKeyInformation  V1NotifyType = 17
	NotifyV1InvalidIDInformation   V1NotifyType = 18
	NotifyV1InvalidHashInformation V1NotifyType = 23
	NotifyV1AuthenticationFailed   V1NotifyType = 24
	NotifyV1InvalidSignature       V1NotifyType = 25
	NotifyV1Connected              V1NotifyType = 16384
	NotifyV1ResponderLifetime      V1NotifyType = 24576
	NotifyV1ReplayStatus           V1NotifyType = 24577
	NotifyV1InitialContact         V1NotifyType = 24578
	NotifyV1RUThere                V1NotifyType = 36136
	NotifyV1RUThereAck             V1NotifyType = 36137
)

var v1NotifyNames = map[V1NotifyType]string{
	NotifyV1InvalidPayloadType: "INVALID-PAYLOAD-TYPE", NotifyV1DOINotSupported: "DOI-NOT-SUPPORTED",
	NotifyV1SituationNotSupported: "SITUATION-NOT-SUPPORTED", NotifyV1InvalidCookie: "INVALID-COOKIE",
	NotifyV1InvalidMajorVersion: "INVALID-MAJOR-VERSION", NotifyV1InvalidExchangeType: "INVALID-EXCHANGE-TYPE",
	NotifyV1InvalidFlags: "INVALID-FLAGS", NotifyV1InvalidMessageID: "INVALID-MESSAGE-ID",
	NotifyV1InvalidProtocolID: "INVALID-PROTOCOL-ID", NotifyV1InvalidSPI: "INVALID-SPI",
	NotifyV1InvalidTransformID: "INVALID-TRANSFORM-ID", NotifyV1AttributesNotSupported: "ATTRIBUTES-NOT-SUPPORTED",
	NotifyV1NoProposalChosen: "NO-PROPOSAL-CHOSEN", NotifyV1BadProposalSyntax: "BAD-PROPOSAL-SYNTAX",
	NotifyV1PayloadMalformed: "PAYLOAD-MALFORMED", NotifyV1InvalidKeyInformation: "INVALID-KEY-INFORMATION",
	NotifyV1InvalidIDInformation: "INVALID-ID-INFORMATION", NotifyV1InvalidHashInformation: "INVALID-HASH-INFORMATION",
	NotifyV1AuthenticationFailed: "AUTHENTICATION-FAILED", NotifyV1InvalidSignature: "INVALID-SIGNATURE",
	NotifyV1Connected: "CONNECTED", NotifyV1ResponderLifetime: "RESPONDER-LIFETIME", NotifyV1ReplayStatus: "REPLAY-STATUS",
	NotifyV1InitialContact: "INITIAL-CONTACT", NotifyV1RUThere: "R-U-THERE", NotifyV1RUThereAck: "R-U-THERE-ACK",
}

func (t V1NotifyType) String() string { return nameOf(v1NotifyNames, t) }

// IsError says whether the notification reports an error (RFC 2408, section 3.14.1).
func (t V1NotifyType) IsError() bool { return t < 16384 }
