package wire

// Numbers of IKEv2's payloads, from the registry "Internet Key Exchange Version 2 (IKEv2) Parameters". Those of
// algorithms are rows of package policy.

// ProtocolID says whose SA is meant, RFC 7296, section 3.3.1.
type ProtocolID uint8

// The security protocols.
const (
	ProtocolNone  ProtocolID = 0
	ProtocolIKE   ProtocolID = 1
	ProtocolAH    ProtocolID = 2
	ProtocolESP   ProtocolID = 3
	ProtocolFCESP ProtocolID = 4 // RFC 4595
	ProtocolFCAH  ProtocolID = 5 // RFC 4595
)

var protocolNames = map[ProtocolID]string{
	ProtocolNone: "none", ProtocolIKE: "IKE", ProtocolAH: "AH", ProtocolESP: "ESP",
	ProtocolFCESP: "FC_ESP", ProtocolFCAH: "FC_AH",
}

func (p ProtocolID) String() string { return nameOf(protocolNames, p) }

// TransformType is the kind of algorithm, RFC 7296, section 3.3.2.
type TransformType uint8

// The transform types.
const (
	TransformENCR   TransformType = 1
	TransformPRF    TransformType = 2
	TransformINTEG  TransformType = 3
	TransformKE     TransformType = 4 // D-H in RFC 7296, Key Exchange Method in RFC 9370
	TransformESN    TransformType = 5
	TransformADDKE1 TransformType = 6 // RFC 9370, as up to 12
	TransformADDKE2 TransformType = 7
	TransformADDKE3 TransformType = 8
	TransformADDKE4 TransformType = 9
	TransformADDKE5 TransformType = 10
	TransformADDKE6 TransformType = 11
	TransformADDKE7 TransformType = 12
)

var transformNames = map[TransformType]string{
	TransformENCR: "ENCR", TransformPRF: "PRF", TransformINTEG: "INTEG", TransformKE: "KE", TransformESN: "ESN",
	TransformADDKE1: "ADDKE1", TransformADDKE2: "ADDKE2", TransformADDKE3: "ADDKE3", TransformADDKE4: "ADDKE4",
	TransformADDKE5: "ADDKE5", TransformADDKE6: "ADDKE6", TransformADDKE7: "ADDKE7",
}

func (t TransformType) String() string { return nameOf(transformNames, t) }

// IDType is the kind of an identity, RFC 7296, section 3.5.
type IDType uint8

// The kinds of identity.
const (
	IDIPv4Addr   IDType = 1
	IDFQDN       IDType = 2
	IDRFC822Addr IDType = 3
	IDIPv6Addr   IDType = 5
	IDDERASN1DN  IDType = 9
	IDDERASN1GN  IDType = 10
	IDKeyID      IDType = 11
	IDFCName     IDType = 12 // RFC 4595
	IDNull       IDType = 13 // RFC 7619
)

var idNames = map[IDType]string{
	IDIPv4Addr: "ID_IPV4_ADDR", IDFQDN: "ID_FQDN", IDRFC822Addr: "ID_RFC822_ADDR", IDIPv6Addr: "ID_IPV6_ADDR",
	IDDERASN1DN: "ID_DER_ASN1_DN", IDDERASN1GN: "ID_DER_ASN1_GN", IDKeyID: "ID_KEY_ID", IDFCName: "ID_FC_NAME",
	IDNull: "ID_NULL",
}

func (t IDType) String() string { return nameOf(idNames, t) }

// CertEncoding is what a CERT or CERTREQ carries, RFC 7296, section 3.6.
type CertEncoding uint8

// The certificate encodings.
const (
	CertPKCS7            CertEncoding = 1
	CertPGP              CertEncoding = 2
	CertDNSSignedKey     CertEncoding = 3
	CertX509Signature    CertEncoding = 4
	CertKerberosToken    CertEncoding = 6
	CertCRL              CertEncoding = 7
	CertARL              CertEncoding = 8
	CertSPKI             CertEncoding = 9
	CertX509Attribute    CertEncoding = 10
	CertRawRSAKey        CertEncoding = 11 // deprecated
	CertHashAndURL       CertEncoding = 12
	CertHashAndURLBundle CertEncoding = 13
	CertOCSPContent      CertEncoding = 14 // RFC 4806
	CertRawPublicKey     CertEncoding = 15 // RFC 7670
)

var certNames = map[CertEncoding]string{
	CertPKCS7: "PKCS #7 wrapped X.509 certificate", CertPGP: "PGP Certificate", CertDNSSignedKey: "DNS Signed Key",
	CertX509Signature: "X.509 Certificate - Signature", CertKerberosToken: "Kerberos Token",
	CertCRL: "Certificate Revocation List (CRL)", CertARL: "Authority Revocation List (ARL)", CertSPKI: "SPKI Certificate",
	CertX509Attribute: "X.509 Certificate - Attribute", CertRawRSAKey: "Raw RSA Key",
	CertHashAndURL: "Hash and URL of X.509 certificate", CertHashAndURLBundle: "Hash and URL of X.509 bundle",
	CertOCSPContent: "OCSP Content", CertRawPublicKey: "Raw Public Key",
}

func (e CertEncoding) String() string { return nameOf(certNames, e) }

// AuthMethod is the method of an AUTH payload, RFC 7296, section 3.8.
type AuthMethod uint8

// The authentication methods.
const (
	AuthRSASignature     AuthMethod = 1
	AuthSharedKey        AuthMethod = 2
	AuthDSSSignature     AuthMethod = 3
	AuthECDSA256         AuthMethod = 9  // RFC 4754
	AuthECDSA384         AuthMethod = 10 // RFC 4754
	AuthECDSA512         AuthMethod = 11 // RFC 4754
	AuthSecurePassword   AuthMethod = 12 // RFC 6467
	AuthNull             AuthMethod = 13 // RFC 7619
	AuthDigitalSignature AuthMethod = 14 // RFC 7427
)

var authNames = map[AuthMethod]string{
	AuthRSASignature: "RSA Digital Signature", AuthSharedKey: "Shared Key Message Integrity Code",
	AuthDSSSignature: "DSS Digital Signature", AuthECDSA256: "ECDSA with SHA-256 on the P-256 curve",
	AuthECDSA384: "ECDSA with SHA-384 on the P-384 curve", AuthECDSA512: "ECDSA with SHA-512 on the P-521 curve",
	AuthSecurePassword: "Generic Secure Password Authentication Method", AuthNull: "NULL Authentication",
	AuthDigitalSignature: "Digital Signature",
}

func (m AuthMethod) String() string { return nameOf(authNames, m) }

// TSType is the kind of a traffic selector, RFC 7296, section 3.13.1.
type TSType uint8

// The kinds of traffic selector.
const (
	TSIPv4AddrRange TSType = 7
	TSIPv6AddrRange TSType = 8
	TSFCAddrRange   TSType = 9  // RFC 4595
	TSSecLabel      TSType = 10 // RFC 9478
)

var tsNames = map[TSType]string{
	TSIPv4AddrRange: "TS_IPV4_ADDR_RANGE", TSIPv6AddrRange: "TS_IPV6_ADDR_RANGE", TSFCAddrRange: "TS_FC_ADDR_RANGE",
	TSSecLabel: "TS_SECLABEL",
}

func (t TSType) String() string { return nameOf(tsNames, t) }

// ConfigType is the CFG Type, RFC 7296, section 3.15.
type ConfigType uint8

// The CFG types.
const (
	ConfigRequest ConfigType = 1
	ConfigReply   ConfigType = 2
	ConfigSet     ConfigType = 3
	ConfigAck     ConfigType = 4
)

var configNames = map[ConfigType]string{
	ConfigRequest: "CFG_REQUEST", ConfigReply: "CFG_REPLY", ConfigSet: "CFG_SET", ConfigAck: "CFG_ACK",
}

func (t ConfigType) String() string { return nameOf(configNames, t) }

// ConfigAttributeType is the type of a configuration attribute, RFC 7296, section 3.15.1; 15 bits.
type ConfigAttributeType uint16

// The configuration attributes.
const (
	ConfigInternalIP4Address            ConfigAttributeType = 1
	ConfigInternalIP4Netmask            ConfigAttributeType = 2
	ConfigInternalIP4DNS                ConfigAttributeType = 3
	ConfigInternalIP4NBNS               ConfigAttributeType = 4
	ConfigInternalIP4DHCP               ConfigAttributeType = 6
	ConfigApplicationVersion            ConfigAttributeType = 7
	ConfigInternalIP6Address            ConfigAttributeType = 8
	ConfigInternalIP6DNS                ConfigAttributeType = 10
	ConfigInternalIP6DHCP               ConfigAttributeType = 12
	ConfigInternalIP4Subnet             ConfigAttributeType = 13
	ConfigSupportedAttributes           ConfigAttributeType = 14
	ConfigInternalIP6Subnet             ConfigAttributeType = 15
	ConfigMIP6HomePrefix                ConfigAttributeType = 16 // RFC 5026
	ConfigInternalIP6Link               ConfigAttributeType = 17 // RFC 5739
	ConfigInternalIP6Prefix             ConfigAttributeType = 18 // RFC 5739
	ConfigHomeAgentAddress              ConfigAttributeType = 19
	ConfigPCSCFIP4Address               ConfigAttributeType = 20 // RFC 7651
	ConfigPCSCFIP6Address               ConfigAttributeType = 21 // RFC 7651
	ConfigFTTKAT                        ConfigAttributeType = 22
	ConfigExternalSourceIP4NATInfo      ConfigAttributeType = 23
	ConfigTimeoutPeriodForLivenessCheck ConfigAttributeType = 24
	ConfigInternalDNSDomain             ConfigAttributeType = 25 // RFC 8598
	ConfigInternalDNSSECTA              ConfigAttributeType = 26 // RFC 8598
	ConfigENCDNSIP4                     ConfigAttributeType = 27 // RFC 9464
	ConfigENCDNSIP6                     ConfigAttributeType = 28 // RFC 9464
	ConfigENCDNSDigestInfo              ConfigAttributeType = 29 // RFC 9464
)

var configAttributeNames = map[ConfigAttributeType]string{
	ConfigInternalIP4Address: "INTERNAL_IP4_ADDRESS", ConfigInternalIP4Netmask: "INTERNAL_IP4_NETMASK",
	ConfigInternalIP4DNS: "INTERNAL_IP4_DNS", ConfigInternalIP4NBNS: "INTERNAL_IP4_NBNS",
	ConfigInternalIP4DHCP: "INTERNAL_IP4_DHCP", ConfigApplicationVersion: "APPLICATION_VERSION",
	ConfigInternalIP6Address: "INTERNAL_IP6_ADDRESS", ConfigInternalIP6DNS: "INTERNAL_IP6_DNS",
	ConfigInternalIP6DHCP: "INTERNAL_IP6_DHCP", ConfigInternalIP4Subnet: "INTERNAL_IP4_SUBNET",
	ConfigSupportedAttributes: "SUPPORTED_ATTRIBUTES", ConfigInternalIP6Subnet: "INTERNAL_IP6_SUBNET",
	ConfigMIP6HomePrefix: "MIP6_HOME_PREFIX", ConfigInternalIP6Link: "INTERNAL_IP6_LINK",
	ConfigInternalIP6Prefix: "INTERNAL_IP6_PREFIX", ConfigHomeAgentAddress: "HOME_AGENT_ADDRESS",
	ConfigPCSCFIP4Address: "P_CSCF_IP4_ADDRESS", ConfigPCSCFIP6Address: "P_CSCF_IP6_ADDRESS", ConfigFTTKAT: "FTT_KAT",
	ConfigExternalSourceIP4NATInfo:      "EXTERNAL_SOURCE_IP4_NAT_INFO",
	ConfigTimeoutPeriodForLivenessCheck: "TIMEOUT_PERIOD_FOR_LIVENESS_CHECK",
	ConfigInternalDNSDomain:             "INTERNAL_DNS_DOMAIN", ConfigInternalDNSSECTA: "INTERNAL_DNSSEC_TA",
	ConfigENCDNSIP4: "ENCDNS_IP4", ConfigENCDNSIP6: "ENCDNS_IP6", ConfigENCDNSDigestInfo: "ENCDNS_DIGEST_INFO",
}

func (t ConfigAttributeType) String() string { return nameOf(configAttributeNames, t) }
