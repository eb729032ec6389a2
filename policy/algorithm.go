package policy

import (
	"fmt"
	"slices"
	"strings"
)

// TransformType is the transform type of RFC 7296, section 3.3.2.
type TransformType uint8

const (
	TransformENCR  TransformType = 1
	TransformPRF   TransformType = 2
	TransformINTEG TransformType = 3
	TransformKE    TransformType = 4 // key exchange method, "Diffie-Hellman group" before RFC 9370
	TransformESN   TransformType = 5

	TransformADDKE1 TransformType = 6 // additional key exchanges up to TransformADDKE7 (RFC 9370, section 4)
	TransformADDKE7 TransformType = 12
)

// Additional says whether the type is one of the seven additional key exchanges.
func (t TransformType) Additional() bool { return t >= TransformADDKE1 && t <= TransformADDKE7 }

func (t TransformType) String() string {
	switch t {
	case TransformENCR:
		return "encryption"
	case TransformPRF:
		return "prf"
	case TransformINTEG:
		return "integrity"
	case TransformKE:
		return "key exchange"
	case TransformESN:
		return "sequence numbers"
	}
	if t.Additional() {
		return fmt.Sprintf("additional key exchange %d", t-TransformADDKE1+1)
	}
	return fmt.Sprintf("transform type %d", uint8(t))
}

// Transform numbers of IANA's registry "Internet Key Exchange Version 2 (IKEv2) Parameters".
const (
	ENCRInsecureDES      uint16 = 2
	ENCRInsecure3DES     uint16 = 3
	ENCRInsecureCAST     uint16 = 6
	ENCRInsecureBlowfish uint16 = 7
	ENCRInsecureCamellia uint16 = 23

	ENCRNull        uint16 = 11
	ENCRAESCBC      uint16 = 12
	ENCRAESCTR      uint16 = 13
	ENCRAESCCM8     uint16 = 14
	ENCRAESCCM12    uint16 = 15
	ENCRAESCCM16    uint16 = 16
	ENCRAESGCM8     uint16 = 18
	ENCRAESGCM12    uint16 = 19
	ENCRAESGCM16    uint16 = 20
	ENCRAESGMAC     uint16 = 21 // authenticates and does not encrypt (RFC 4543)
	ENCRChaCha20    uint16 = 28 // with Poly1305
	ENCRAESCCM8IIV  uint16 = 29 // implicit IV (RFC 8750), these three
	ENCRAESGCM16IIV uint16 = 30
	ENCRChaCha20IIV uint16 = 31

	PRFInsecureHMACMD5 uint16 = 1

	PRFHMACSHA1   uint16 = 2
	PRFHMACSHA256 uint16 = 5
	PRFHMACSHA384 uint16 = 6
	PRFHMACSHA512 uint16 = 7
	PRFAESXCBC    uint16 = 4 // RFC 4434
	PRFAESCMAC    uint16 = 8 // RFC 4615
	IntegNone     uint16 = 0

	IntegInsecureMD5 uint16 = 1 // AUTH_HMAC_MD5_96

	IntegSHA1    uint16 = 2  // AUTH_HMAC_SHA1_96
	IntegAESXCBC uint16 = 5  // AUTH_AES_XCBC_96
	IntegAESCMAC uint16 = 8  // AUTH_AES_CMAC_96
	IntegSHA256  uint16 = 12 // AUTH_HMAC_SHA2_256_128
	IntegSHA384  uint16 = 13 // AUTH_HMAC_SHA2_384_192
	IntegSHA512  uint16 = 14 // AUTH_HMAC_SHA2_512_256
	KENone       uint16 = 0
	KEModp2048   uint16 = 14
	KEModp3072   uint16 = 15
	KEModp4096   uint16 = 16
	KEModp6144   uint16 = 17
	KEModp8192   uint16 = 18
	KEECP256     uint16 = 19
	KEECP384     uint16 = 20
	KEECP521     uint16 = 21
	KEX25519     uint16 = 31
	KEMLKEM512   uint16 = 35 // draft-ietf-ipsecme-ikev2-mlkem, these three
	KEMLKEM768   uint16 = 36
	KEMLKEM1024  uint16 = 37

	KEInsecureModp768      uint16 = 1
	KEInsecureModp1024     uint16 = 2
	KEInsecureModp1536     uint16 = 5
	KEInsecureModp1024s160 uint16 = 22 // RFC 5114, these three
	KEInsecureModp2048s224 uint16 = 23
	KEInsecureModp2048s256 uint16 = 24

	ESNNo  uint16 = 0
	ESNYes uint16 = 1
)

// Use says in which protocols an algorithm is implemented here.
type Use uint8

const (
	UseIKE Use = 1 << iota
	UseESP
	UseIKEv1 // IKEv1 alone, beside what UseIKE says
)

// Algorithm is one row of the table. Sizes are octets unless they say bits.
type Algorithm struct {
	Type     TransformType
	ID       uint16 // IKEv2 transform number
	KeyBits  uint16 // value of the key-length attribute; 0: the transform carries none
	Keyword  string // canonical keyword, strongSwan's spelling
	Aliases  []string
	Name     string // name in IANA's registry
	XFRM     string // name in the kernel's crypto API
	KeyLen   int    // key material drawn from KEYMAT, salt included (RFC 4106, section 8.1; PRF: preferred key)
	SaltLen  int    // the last SaltLen octets of the key material
	IVLen    int    // explicit IV in each packet
	ICVLen   int    // integrity check value
	BlockLen int    // padding alignment of the cipher
	AEAD     bool
	Counter  bool   // a repeated IV is fatal: the IV is the packet counter
	Insecure bool   // never offered or accepted unless a configuration names it
	Use      Use    // where it works here
	Status   string // RFC 8221 and RFC 8247: MUST, SHOULD, MAY
	Implied  string // INTEG: the PRF a proposal without one gets
}

// Algorithms is the table, in order of preference within a type.
var Algorithms = []Algorithm{
	{Type: TransformENCR, ID: ENCRAESGCM16, KeyBits: 256, Keyword: "aes256gcm16", Aliases: []string{"aes256gcm128", "aes256gcm"}, Name: "ENCR_AES_GCM_16", XFRM: "rfc4106(gcm(aes))", KeyLen: 36, SaltLen: 4, IVLen: 8, ICVLen: 16, BlockLen: 1, AEAD: true, Counter: true, Use: UseIKE | UseESP, Status: "MUST"},
	{Type: TransformENCR, ID: ENCRAESGCM16, KeyBits: 128, Keyword: "aes128gcm16", Aliases: []string{"aes128gcm128", "aes128gcm"}, Name: "ENCR_AES_GCM_16", XFRM: "rfc4106(gcm(aes))", KeyLen: 20, SaltLen: 4, IVLen: 8, ICVLen: 16, BlockLen: 1, AEAD: true, Counter: true, Use: UseIKE | UseESP, Status: "MUST"},
	{Type: TransformENCR, ID: ENCRAESGCM16, KeyBits: 192, Keyword: "aes192gcm16", Aliases: []string{"aes192gcm128", "aes192gcm"}, Name: "ENCR_AES_GCM_16", XFRM: "rfc4106(gcm(aes))", KeyLen: 28, SaltLen: 4, IVLen: 8, ICVLen: 16, BlockLen: 1, AEAD: true, Counter: true, Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRChaCha20, Keyword: "chacha20poly1305", Name: "ENCR_CHACHA20_POLY1305", XFRM: "rfc7539esp(chacha20,poly1305)", KeyLen: 36, SaltLen: 4, IVLen: 8, ICVLen: 16, BlockLen: 1, AEAD: true, Counter: true, Use: UseIKE | UseESP, Status: "SHOULD"},
	{Type: TransformENCR, ID: ENCRAESGCM12, KeyBits: 256, Keyword: "aes256gcm12", Aliases: []string{"aes256gcm96"}, Name: "ENCR_AES_GCM_12", XFRM: "rfc4106(gcm(aes))", KeyLen: 36, SaltLen: 4, IVLen: 8, ICVLen: 12, BlockLen: 1, AEAD: true, Counter: true, Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRAESGCM12, KeyBits: 128, Keyword: "aes128gcm12", Aliases: []string{"aes128gcm96"}, Name: "ENCR_AES_GCM_12", XFRM: "rfc4106(gcm(aes))", KeyLen: 20, SaltLen: 4, IVLen: 8, ICVLen: 12, BlockLen: 1, AEAD: true, Counter: true, Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRAESGCM12, KeyBits: 192, Keyword: "aes192gcm12", Aliases: []string{"aes192gcm96"}, Name: "ENCR_AES_GCM_12", XFRM: "rfc4106(gcm(aes))", KeyLen: 28, SaltLen: 4, IVLen: 8, ICVLen: 12, BlockLen: 1, AEAD: true, Counter: true, Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRAESGCM8, KeyBits: 256, Keyword: "aes256gcm8", Aliases: []string{"aes256gcm64"}, Name: "ENCR_AES_GCM_8", XFRM: "rfc4106(gcm(aes))", KeyLen: 36, SaltLen: 4, IVLen: 8, ICVLen: 8, BlockLen: 1, AEAD: true, Counter: true, Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRAESGCM8, KeyBits: 128, Keyword: "aes128gcm8", Aliases: []string{"aes128gcm64"}, Name: "ENCR_AES_GCM_8", XFRM: "rfc4106(gcm(aes))", KeyLen: 20, SaltLen: 4, IVLen: 8, ICVLen: 8, BlockLen: 1, AEAD: true, Counter: true, Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRAESGCM8, KeyBits: 192, Keyword: "aes192gcm8", Aliases: []string{"aes192gcm64"}, Name: "ENCR_AES_GCM_8", XFRM: "rfc4106(gcm(aes))", KeyLen: 28, SaltLen: 4, IVLen: 8, ICVLen: 8, BlockLen: 1, AEAD: true, Counter: true, Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRAESCBC, KeyBits: 256, Keyword: "aes256", Aliases: []string{"aes256cbc"}, Name: "ENCR_AES_CBC", XFRM: "cbc(aes)", KeyLen: 32, IVLen: 16, BlockLen: 16, Use: UseIKE | UseESP, Status: "MUST"},
	{Type: TransformENCR, ID: ENCRAESCBC, KeyBits: 128, Keyword: "aes128", Aliases: []string{"aes", "aes128cbc"}, Name: "ENCR_AES_CBC", XFRM: "cbc(aes)", KeyLen: 16, IVLen: 16, BlockLen: 16, Use: UseIKE | UseESP, Status: "MUST"},
	{Type: TransformENCR, ID: ENCRAESCBC, KeyBits: 192, Keyword: "aes192", Aliases: []string{"aes192cbc"}, Name: "ENCR_AES_CBC", XFRM: "cbc(aes)", KeyLen: 24, IVLen: 16, BlockLen: 16, Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRAESCTR, KeyBits: 256, Keyword: "aes256ctr", Name: "ENCR_AES_CTR", XFRM: "rfc3686(ctr(aes))", KeyLen: 36, SaltLen: 4, IVLen: 8, BlockLen: 1, Counter: true, Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRAESCTR, KeyBits: 128, Keyword: "aes128ctr", Name: "ENCR_AES_CTR", XFRM: "rfc3686(ctr(aes))", KeyLen: 20, SaltLen: 4, IVLen: 8, BlockLen: 1, Counter: true, Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRAESCTR, KeyBits: 192, Keyword: "aes192ctr", Name: "ENCR_AES_CTR", XFRM: "rfc3686(ctr(aes))", KeyLen: 28, SaltLen: 4, IVLen: 8, BlockLen: 1, Counter: true, Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRAESCCM16, KeyBits: 256, Keyword: "aes256ccm16", Aliases: []string{"aes256ccm128"}, Name: "ENCR_AES_CCM_16", XFRM: "rfc4309(ccm(aes))", KeyLen: 35, SaltLen: 3, IVLen: 8, ICVLen: 16, BlockLen: 1, AEAD: true, Counter: true, Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRAESCCM16, KeyBits: 128, Keyword: "aes128ccm16", Aliases: []string{"aes128ccm128"}, Name: "ENCR_AES_CCM_16", XFRM: "rfc4309(ccm(aes))", KeyLen: 19, SaltLen: 3, IVLen: 8, ICVLen: 16, BlockLen: 1, AEAD: true, Counter: true, Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRAESCCM16, KeyBits: 192, Keyword: "aes192ccm16", Aliases: []string{"aes192ccm128"}, Name: "ENCR_AES_CCM_16", XFRM: "rfc4309(ccm(aes))", KeyLen: 27, SaltLen: 3, IVLen: 8, ICVLen: 16, BlockLen: 1, AEAD: true, Counter: true, Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRAESCCM12, KeyBits: 256, Keyword: "aes256ccm12", Aliases: []string{"aes256ccm96"}, Name: "ENCR_AES_CCM_12", XFRM: "rfc4309(ccm(aes))", KeyLen: 35, SaltLen: 3, IVLen: 8, ICVLen: 12, BlockLen: 1, AEAD: true, Counter: true, Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRAESCCM12, KeyBits: 128, Keyword: "aes128ccm12", Aliases: []string{"aes128ccm96"}, Name: "ENCR_AES_CCM_12", XFRM: "rfc4309(ccm(aes))", KeyLen: 19, SaltLen: 3, IVLen: 8, ICVLen: 12, BlockLen: 1, AEAD: true, Counter: true, Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRAESCCM12, KeyBits: 192, Keyword: "aes192ccm12", Aliases: []string{"aes192ccm96"}, Name: "ENCR_AES_CCM_12", XFRM: "rfc4309(ccm(aes))", KeyLen: 27, SaltLen: 3, IVLen: 8, ICVLen: 12, BlockLen: 1, AEAD: true, Counter: true, Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRAESCCM8, KeyBits: 256, Keyword: "aes256ccm8", Aliases: []string{"aes256ccm64"}, Name: "ENCR_AES_CCM_8", XFRM: "rfc4309(ccm(aes))", KeyLen: 35, SaltLen: 3, IVLen: 8, ICVLen: 8, BlockLen: 1, AEAD: true, Counter: true, Use: UseIKE | UseESP, Status: "SHOULD"},
	{Type: TransformENCR, ID: ENCRAESCCM8, KeyBits: 128, Keyword: "aes128ccm8", Aliases: []string{"aes128ccm64"}, Name: "ENCR_AES_CCM_8", XFRM: "rfc4309(ccm(aes))", KeyLen: 19, SaltLen: 3, IVLen: 8, ICVLen: 8, BlockLen: 1, AEAD: true, Counter: true, Use: UseIKE | UseESP, Status: "SHOULD"},
	{Type: TransformENCR, ID: ENCRAESCCM8, KeyBits: 192, Keyword: "aes192ccm8", Aliases: []string{"aes192ccm64"}, Name: "ENCR_AES_CCM_8", XFRM: "rfc4309(ccm(aes))", KeyLen: 27, SaltLen: 3, IVLen: 8, ICVLen: 8, BlockLen: 1, AEAD: true, Counter: true, Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRAESGCM16IIV, KeyBits: 256, Keyword: "aes256gcm16iiv", Name: "ENCR_AES_GCM_16_IIV", KeyLen: 36, SaltLen: 4, ICVLen: 16, BlockLen: 1, AEAD: true, Counter: true, Use: UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRAESGCM16IIV, KeyBits: 128, Keyword: "aes128gcm16iiv", Name: "ENCR_AES_GCM_16_IIV", KeyLen: 20, SaltLen: 4, ICVLen: 16, BlockLen: 1, AEAD: true, Counter: true, Use: UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRAESGCM16IIV, KeyBits: 192, Keyword: "aes192gcm16iiv", Name: "ENCR_AES_GCM_16_IIV", KeyLen: 28, SaltLen: 4, ICVLen: 16, BlockLen: 1, AEAD: true, Counter: true, Use: UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRChaCha20IIV, Keyword: "chacha20poly1305iiv", Name: "ENCR_CHACHA20_POLY1305_IIV", KeyLen: 36, SaltLen: 4, ICVLen: 16, BlockLen: 1, AEAD: true, Counter: true, Use: UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRAESCCM8IIV, KeyBits: 256, Keyword: "aes256ccm8iiv", Name: "ENCR_AES_CCM_8_IIV", KeyLen: 35, SaltLen: 3, ICVLen: 8, BlockLen: 1, AEAD: true, Counter: true, Use: UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRAESCCM8IIV, KeyBits: 128, Keyword: "aes128ccm8iiv", Name: "ENCR_AES_CCM_8_IIV", KeyLen: 19, SaltLen: 3, ICVLen: 8, BlockLen: 1, AEAD: true, Counter: true, Use: UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRAESCCM8IIV, KeyBits: 192, Keyword: "aes192ccm8iiv", Name: "ENCR_AES_CCM_8_IIV", KeyLen: 27, SaltLen: 3, ICVLen: 8, BlockLen: 1, AEAD: true, Counter: true, Use: UseESP, Status: "MAY"},

	// Authenticated and in clear.
	{Type: TransformENCR, ID: ENCRAESGMAC, KeyBits: 256, Keyword: "aes256gmac", Name: "ENCR_NULL_AUTH_AES_GMAC", XFRM: "rfc4543(gcm(aes))", KeyLen: 36, SaltLen: 4, IVLen: 8, ICVLen: 16, BlockLen: 1, AEAD: true, Counter: true, Use: UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRAESGMAC, KeyBits: 128, Keyword: "aes128gmac", Name: "ENCR_NULL_AUTH_AES_GMAC", XFRM: "rfc4543(gcm(aes))", KeyLen: 20, SaltLen: 4, IVLen: 8, ICVLen: 16, BlockLen: 1, AEAD: true, Counter: true, Use: UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRAESGMAC, KeyBits: 192, Keyword: "aes192gmac", Name: "ENCR_NULL_AUTH_AES_GMAC", XFRM: "rfc4543(gcm(aes))", KeyLen: 28, SaltLen: 4, IVLen: 8, ICVLen: 16, BlockLen: 1, AEAD: true, Counter: true, Use: UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRNull, Keyword: "null", Name: "ENCR_NULL", XFRM: "ecb(cipher_null)", BlockLen: 1, Use: UseESP, Status: "MUST"},

	{Type: TransformENCR, ID: ENCRInsecure3DES, Keyword: "3des", Name: "ENCR_3DES", XFRM: "cbc(des3_ede)", KeyLen: 24, IVLen: 8, BlockLen: 8, Insecure: true, Use: UseIKE | UseESP, Status: "SHOULD NOT"},
	{Type: TransformENCR, ID: ENCRInsecureBlowfish, KeyBits: 128, Keyword: "blowfish128", Aliases: []string{"blowfish"}, Name: "ENCR_BLOWFISH", XFRM: "cbc(blowfish)", KeyLen: 16, IVLen: 8, BlockLen: 8, Insecure: true, Use: UseESP | UseIKEv1, Status: "MUST NOT"},
	{Type: TransformENCR, ID: ENCRInsecureBlowfish, KeyBits: 192, Keyword: "blowfish192", Name: "ENCR_BLOWFISH", XFRM: "cbc(blowfish)", KeyLen: 24, IVLen: 8, BlockLen: 8, Insecure: true, Use: UseESP | UseIKEv1, Status: "MUST NOT"},
	{Type: TransformENCR, ID: ENCRInsecureBlowfish, KeyBits: 256, Keyword: "blowfish256", Name: "ENCR_BLOWFISH", XFRM: "cbc(blowfish)", KeyLen: 32, IVLen: 8, BlockLen: 8, Insecure: true, Use: UseESP | UseIKEv1, Status: "MUST NOT"},
	{Type: TransformENCR, ID: ENCRInsecureBlowfish, KeyBits: 320, Keyword: "blowfish320", Name: "ENCR_BLOWFISH", XFRM: "cbc(blowfish)", KeyLen: 40, IVLen: 8, BlockLen: 8, Insecure: true, Use: UseESP | UseIKEv1, Status: "MUST NOT"},
	{Type: TransformENCR, ID: ENCRInsecureBlowfish, KeyBits: 384, Keyword: "blowfish384", Name: "ENCR_BLOWFISH", XFRM: "cbc(blowfish)", KeyLen: 48, IVLen: 8, BlockLen: 8, Insecure: true, Use: UseESP | UseIKEv1, Status: "MUST NOT"},
	{Type: TransformENCR, ID: ENCRInsecureBlowfish, KeyBits: 448, Keyword: "blowfish448", Name: "ENCR_BLOWFISH", XFRM: "cbc(blowfish)", KeyLen: 56, IVLen: 8, BlockLen: 8, Insecure: true, Use: UseESP | UseIKEv1, Status: "MUST NOT"},
	{Type: TransformENCR, ID: ENCRInsecureCAST, KeyBits: 128, Keyword: "cast128", Name: "ENCR_CAST", XFRM: "cbc(cast5)", KeyLen: 16, IVLen: 8, BlockLen: 8, Insecure: true, Use: UseESP | UseIKEv1, Status: "MUST NOT"},
	{Type: TransformENCR, ID: ENCRInsecureDES, Keyword: "des", Name: "ENCR_DES", XFRM: "cbc(des)", KeyLen: 8, IVLen: 8, BlockLen: 8, Insecure: true, Use: UseESP | UseIKEv1, Status: "MUST NOT"},
	{Type: TransformENCR, ID: ENCRInsecureCamellia, KeyBits: 256, Keyword: "camellia256", Name: "ENCR_CAMELLIA_CBC", XFRM: "cbc(camellia)", KeyLen: 32, IVLen: 16, BlockLen: 16, Insecure: true, Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRInsecureCamellia, KeyBits: 128, Keyword: "camellia128", Aliases: []string{"camellia"}, Name: "ENCR_CAMELLIA_CBC", XFRM: "cbc(camellia)", KeyLen: 16, IVLen: 16, BlockLen: 16, Insecure: true, Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformENCR, ID: ENCRInsecureCamellia, KeyBits: 192, Keyword: "camellia192", Name: "ENCR_CAMELLIA_CBC", XFRM: "cbc(camellia)", KeyLen: 24, IVLen: 16, BlockLen: 16, Insecure: true, Use: UseIKE | UseESP, Status: "MAY"},

	{Type: TransformPRF, ID: PRFHMACSHA256, Keyword: "prfsha256", Name: "PRF_HMAC_SHA2_256", KeyLen: 32, Use: UseIKE, Status: "MUST"},
	{Type: TransformPRF, ID: PRFHMACSHA384, Keyword: "prfsha384", Name: "PRF_HMAC_SHA2_384", KeyLen: 48, Use: UseIKE, Status: "SHOULD"},
	{Type: TransformPRF, ID: PRFHMACSHA512, Keyword: "prfsha512", Name: "PRF_HMAC_SHA2_512", KeyLen: 64, Use: UseIKE, Status: "SHOULD+"},

	{Type: TransformPRF, ID: PRFHMACSHA1, Keyword: "prfsha1", Name: "PRF_HMAC_SHA1", KeyLen: 20, Use: UseIKE, Status: "MUST-"},
	{Type: TransformPRF, ID: PRFAESXCBC, Keyword: "prfaesxcbc", Name: "PRF_AES128_XCBC", KeyLen: 16, Use: UseIKE, Status: "SHOULD"},
	{Type: TransformPRF, ID: PRFAESCMAC, Keyword: "prfaescmac", Name: "PRF_AES128_CMAC", KeyLen: 16, Use: UseIKE, Status: "MAY"},
	{Type: TransformPRF, ID: PRFInsecureHMACMD5, Keyword: "prfmd5", Name: "PRF_HMAC_MD5", KeyLen: 16, Insecure: true, Use: UseIKE, Status: "MUST NOT"},

	{Type: TransformINTEG, ID: IntegSHA256, Keyword: "sha256", Aliases: []string{"sha2_256", "sha2"}, Name: "AUTH_HMAC_SHA2_256_128", XFRM: "hmac(sha256)", KeyLen: 32, ICVLen: 16, Use: UseIKE | UseESP, Status: "MUST", Implied: "prfsha256"},
	{Type: TransformINTEG, ID: IntegSHA384, Keyword: "sha384", Aliases: []string{"sha2_384"}, Name: "AUTH_HMAC_SHA2_384_192", XFRM: "hmac(sha384)", KeyLen: 48, ICVLen: 24, Use: UseIKE | UseESP, Status: "MAY", Implied: "prfsha384"},
	{Type: TransformINTEG, ID: IntegSHA512, Keyword: "sha512", Aliases: []string{"sha2_512"}, Name: "AUTH_HMAC_SHA2_512_256", XFRM: "hmac(sha512)", KeyLen: 64, ICVLen: 32, Use: UseIKE | UseESP, Status: "SHOULD", Implied: "prfsha512"},

	{Type: TransformINTEG, ID: IntegSHA1, Keyword: "sha1", Aliases: []string{"sha"}, Name: "AUTH_HMAC_SHA1_96", XFRM: "hmac(sha1)", KeyLen: 20, ICVLen: 12, Use: UseIKE | UseESP, Status: "MUST-", Implied: "prfsha1"},
	{Type: TransformINTEG, ID: IntegAESXCBC, Keyword: "aesxcbc", Name: "AUTH_AES_XCBC_96", XFRM: "xcbc(aes)", KeyLen: 16, ICVLen: 12, Use: UseIKE | UseESP, Status: "SHOULD", Implied: "prfaesxcbc"},
	{Type: TransformINTEG, ID: IntegAESCMAC, Keyword: "aescmac", Name: "AUTH_AES_CMAC_96", XFRM: "cmac(aes)", KeyLen: 16, ICVLen: 12, Use: UseIKE | UseESP, Status: "MAY", Implied: "prfaescmac"},
	{Type: TransformINTEG, ID: IntegInsecureMD5, Keyword: "md5", Name: "AUTH_HMAC_MD5_96", XFRM: "hmac(md5)", KeyLen: 16, ICVLen: 12, Insecure: true, Use: UseIKE | UseESP, Status: "MUST NOT", Implied: "prfmd5"},

	{Type: TransformKE, ID: KEX25519, Keyword: "x25519", Aliases: []string{"curve25519", "ecp_x25519"}, Name: "Curve25519", Use: UseIKE | UseESP, Status: "SHOULD"},
	{Type: TransformKE, ID: KEECP256, Keyword: "ecp256", Name: "256-bit random ECP group", Use: UseIKE | UseESP, Status: "SHOULD"},
	{Type: TransformKE, ID: KEECP384, Keyword: "ecp384", Name: "384-bit random ECP group", Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformKE, ID: KEECP521, Keyword: "ecp521", Name: "521-bit random ECP group", Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformKE, ID: KEModp2048, Keyword: "modp2048", Name: "2048-bit MODP Group", Use: UseIKE | UseESP, Status: "MUST"},
	{Type: TransformKE, ID: KEModp3072, Keyword: "modp3072", Name: "3072-bit MODP Group", Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformKE, ID: KEModp4096, Keyword: "modp4096", Name: "4096-bit MODP Group", Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformKE, ID: KEModp6144, Keyword: "modp6144", Name: "6144-bit MODP Group", Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformKE, ID: KEModp8192, Keyword: "modp8192", Name: "8192-bit MODP Group", Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformKE, ID: KEInsecureModp1536, Keyword: "modp1536", Name: "1536-bit MODP Group", Insecure: true, Use: UseIKE | UseESP, Status: "SHOULD NOT"},
	{Type: TransformKE, ID: KEInsecureModp1024, Keyword: "modp1024", Name: "1024-bit MODP Group", Insecure: true, Use: UseIKE | UseESP, Status: "SHOULD NOT"},
	{Type: TransformKE, ID: KEInsecureModp768, Keyword: "modp768", Name: "768-bit MODP Group", Insecure: true, Use: UseIKE | UseESP, Status: "MUST NOT"},
	{Type: TransformKE, ID: KEInsecureModp2048s256, Keyword: "modp2048s256", Name: "2048-bit MODP Group with 256-bit Prime Order Subgroup", Insecure: true, Use: UseIKE | UseESP, Status: "SHOULD NOT"},
	{Type: TransformKE, ID: KEInsecureModp2048s224, Keyword: "modp2048s224", Name: "2048-bit MODP Group with 224-bit Prime Order Subgroup", Insecure: true, Use: UseIKE | UseESP, Status: "SHOULD NOT"},
	{Type: TransformKE, ID: KEInsecureModp1024s160, Keyword: "modp1024s160", Name: "1024-bit MODP Group with 160-bit Prime Order Subgroup", Insecure: true, Use: UseIKE | UseESP, Status: "MUST NOT"},
	{Type: TransformKE, ID: KEMLKEM768, Keyword: "mlkem768", Name: "ML-KEM-768", Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformKE, ID: KEMLKEM1024, Keyword: "mlkem1024", Name: "ML-KEM-1024", Use: UseIKE | UseESP, Status: "MAY"},
	{Type: TransformKE, ID: KEMLKEM512, Keyword: "mlkem512", Name: "ML-KEM-512", Use: UseIKE | UseESP, Status: "MAY"},

	{Type: TransformESN, ID: ESNYes, Keyword: "esn", Name: "Extended Sequence Numbers", Use: UseESP, Status: "MUST"},
	{Type: TransformESN, ID: ESNNo, Keyword: "noesn", Name: "No Extended Sequence Numbers", Use: UseESP, Status: "MUST"},
}

// Transform names one algorithm on the wire: type, number, and key length in bits (0: no attribute).
type Transform struct {
	Type    TransformType
	ID      uint16
	KeyBits uint16
}

// Transform is the row's name on the wire.
func (a *Algorithm) Transform() Transform { return Transform{a.Type, a.ID, a.KeyBits} }

// Algorithm looks the transform up in the table; nil if Coati does not have it. An additional key exchange is done by a
// method of the first.
func (t Transform) Algorithm() *Algorithm {
	if t.Type.Additional() {
		t.Type = TransformKE
	}
	for i := range Algorithms {
		if a := &Algorithms[i]; a.Type == t.Type && a.ID == t.ID && a.KeyBits == t.KeyBits {
			return a
		}
	}
	return nil
}

// String is the keyword, or type and numbers for an algorithm the table does not have.
func (t Transform) String() string {
	if t.Type.Additional() {
		return t.additional()
	}
	if a := t.Algorithm(); a != nil {
		return a.Keyword
	}
	if n, ok := foreign[[2]uint16{uint16(t.Type), t.ID}]; ok {
		if t.KeyBits != 0 {
			return fmt.Sprintf("%s-%d", n, t.KeyBits)
		}
		return n
	}
	if t.KeyBits != 0 {
		return fmt.Sprintf("%s %d (%d bits)", t.Type, t.ID, t.KeyBits)
	}
	return fmt.Sprintf("%s %d", t.Type, t.ID)
}

// foreign names what a peer may offer and Coati does not have, for people reading the explanation.
var foreign = map[[2]uint16]string{
	{1, 2}: "des", {1, 3}: "3des", {1, 7}: "blowfish", {1, 11}: "null", {1, 13}: "aesctr", {1, 14}: "aesccm8", {1, 15}: "aesccm12", {1, 16}: "aesccm16",
	{1, 18}: "aesgcm8", {1, 19}: "aesgcm12", {1, 23}: "camellia", {1, 28}: "chacha20poly1305",
	{3, 0}: "no integrity", {3, 1}: "md5", {3, 5}: "aesxcbc", {3, 8}: "aescmac",
	{4, 0}:  "no key exchange",
	{4, 25}: "ecp192", {4, 26}: "ecp224", {4, 27}: "ecp224bp", {4, 28}: "ecp256bp", {4, 29}: "ecp384bp", {4, 30}: "ecp512bp", {4, 32}: "x448",
}

// LookupKeyword finds an algorithm by keyword or alias; nil if there is none.
func LookupKeyword(word string) *Algorithm {
	word = strings.ToLower(word)
	for i := range Algorithms {
		if a := &Algorithms[i]; a.Keyword == word || slices.Contains(a.Aliases, word) {
			return a
		}
	}
	return nil
}

// NearestKeyword is the known keyword with the smallest edit distance, for a hint; empty if none is near.
func NearestKeyword(word string) string {
	best, bestDist := "", 1+len(word)/2
	for i := range Algorithms {
		for _, k := range append([]string{Algorithms[i].Keyword}, Algorithms[i].Aliases...) {
			if d := editDistance(strings.ToLower(word), k); d < bestDist {
				best, bestDist = Algorithms[i].Keyword, d
			}
		}
	}
	return best
}

func editDistance(a, b string) int {
	prev := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := range a {
		diag := prev[0]
		prev[0] = i + 1
		for j := range b {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diag, prev[j+1] = prev[j+1], min(prev[j+1]+1, prev[j]+1, diag+cost)
		}
	}
	return prev[len(b)]
}
