package gateway

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"coati/ike"
	"coati/policy"
)

// The key log is Wireshark's own: a folder with two of its tables ("UATs"), to which a line is appended before the keys
// are used. `WIRESHARK_CONFIG_DIR=FOLDER tshark -r FILE` decrypts with it. The spellings of the algorithms are those
// of Wireshark's value lists and must be met octet by octet.

// The tables' file names are Wireshark's.
const (
	ikeTable = "ikev2_decryption_table"
	v1Table  = "ikev1_decryption_table"
	espTable = "esp_sa"
)

// algorithm is a transform without its key length.
type algorithm struct {
	kind policy.TransformType
	id   uint16
}

// ikeNames and espNames spell algorithms as packet-isakmp.c and packet-ipsec.c list them; # stands for the key's bits.
// What is in neither list (ChaCha20-Poly1305, CCM and GMAC in ESP, implicit IVs) has a line of use to other readers.
var (
	ikeNames = map[algorithm]string{
		{}: "NONE [RFC4306]",
		{policy.TransformENCR, policy.ENCRAESGCM8}:      "AES-GCM-# with 8 octet ICV [RFC5282]",
		{policy.TransformENCR, policy.ENCRAESGCM12}:     "AES-GCM-# with 12 octet ICV [RFC5282]",
		{policy.TransformENCR, policy.ENCRAESGCM16}:     "AES-GCM-# with 16 octet ICV [RFC5282]",
		{policy.TransformENCR, policy.ENCRAESCBC}:       "AES-CBC-# [RFC3602]",
		{policy.TransformENCR, policy.ENCRAESCTR}:       "AES-CTR-# [RFC5930]",
		{policy.TransformENCR, policy.ENCRChaCha20}:     "ChaCha20-Poly1305 [RFC7634]",
		{policy.TransformENCR, policy.ENCRAESCCM8}:      "AES-CCM-# with 8 octet ICV [RFC5282]",
		{policy.TransformENCR, policy.ENCRAESCCM12}:     "AES-CCM-# with 12 octet ICV [RFC5282]",
		{policy.TransformENCR, policy.ENCRAESCCM16}:     "AES-CCM-# with 16 octet ICV [RFC5282]",
		{policy.TransformENCR, policy.ENCRInsecure3DES}: "3DES [RFC2451]",
		// Wireshark does not have these.
		{policy.TransformENCR, policy.ENCRInsecureCamellia}: "CAMELLIA-CBC-# [RFC5529]",
		{policy.TransformINTEG, policy.IntegAESXCBC}:        "AES_XCBC_96 [RFC3566]",
		{policy.TransformINTEG, policy.IntegAESCMAC}:        "AES_CMAC_96 [RFC4494]",
		{policy.TransformINTEG, policy.IntegInsecureMD5}:    "HMAC_MD5_96 [RFC2403]",
		{policy.TransformINTEG, policy.IntegSHA1}:           "HMAC_SHA1_96 [RFC2404]",
		{policy.TransformINTEG, policy.IntegSHA256}:         "HMAC_SHA2_256_128 [RFC4868]",
		{policy.TransformINTEG, policy.IntegSHA384}:         "HMAC_SHA2_384_192 [RFC4868]",
		{policy.TransformINTEG, policy.IntegSHA512}:         "HMAC_SHA2_512_256 [RFC4868]",
	}
	espNames = map[algorithm]string{
		{}: "NULL",
		{policy.TransformENCR, policy.ENCRAESGCM8}:  "AES-GCM with 8 octet ICV [RFC4106]",
		{policy.TransformENCR, policy.ENCRAESGCM12}: "AES-GCM with 12 octet ICV [RFC4106]",
		{policy.TransformENCR, policy.ENCRAESGCM16}: "AES-GCM with 16 octet ICV [RFC4106]",
		{policy.TransformENCR, policy.ENCRAESCBC}:   "AES-CBC [RFC3602]",
		{policy.TransformENCR, policy.ENCRAESCTR}:   "AES-CTR [RFC3686]",
		{policy.TransformENCR, policy.ENCRChaCha20}: "ChaCha20-Poly1305 [RFC7634]",
		{policy.TransformENCR, policy.ENCRNull}:     "NULL",

		{policy.TransformENCR, policy.ENCRAESCCM8}:          "AES-CCM with 8 octet ICV [RFC4309]",
		{policy.TransformENCR, policy.ENCRAESCCM12}:         "AES-CCM with 12 octet ICV [RFC4309]",
		{policy.TransformENCR, policy.ENCRAESCCM16}:         "AES-CCM with 16 octet ICV [RFC4309]",
		{policy.TransformENCR, policy.ENCRAESGMAC}:          "AES-GMAC [RFC4543]",
		{policy.TransformENCR, policy.ENCRAESCCM8IIV}:       "AES-CCM with 8 octet ICV and implicit IV [RFC8750]",
		{policy.TransformENCR, policy.ENCRAESGCM16IIV}:      "AES-GCM with 16 octet ICV and implicit IV [RFC8750]",
		{policy.TransformENCR, policy.ENCRChaCha20IIV}:      "ChaCha20-Poly1305 with implicit IV [RFC8750]",
		{policy.TransformENCR, policy.ENCRInsecure3DES}:     "TripleDES-CBC [RFC2451]",
		{policy.TransformENCR, policy.ENCRInsecureDES}:      "DES-CBC [RFC2405]",
		{policy.TransformENCR, policy.ENCRInsecureBlowfish}: "BLOWFISH-CBC [RFC2451]",
		{policy.TransformENCR, policy.ENCRInsecureCAST}:     "CAST5-CBC [RFC2144]",
		// Wireshark does not have it.
		{policy.TransformENCR, policy.ENCRInsecureCamellia}: "CAMELLIA-CBC [RFC4312]",

		{policy.TransformINTEG, policy.IntegInsecureMD5}: "HMAC-MD5-96 [RFC2403]",
		// Wireshark has neither: it takes the length.
		{policy.TransformINTEG, policy.IntegAESXCBC}: "ANY 96 bit authentication [no checking]",
		{policy.TransformINTEG, policy.IntegAESCMAC}: "ANY 96 bit authentication [no checking]",

		{policy.TransformINTEG, policy.IntegSHA1}:   "HMAC-SHA-1-96 [RFC2404]",
		{policy.TransformINTEG, policy.IntegSHA256}: "HMAC-SHA-256-128 [RFC4868]",
		{policy.TransformINTEG, policy.IntegSHA384}: "HMAC-SHA-384-192 [RFC4868]",
		{policy.TransformINTEG, policy.IntegSHA512}: "HMAC-SHA-512-256 [RFC4868]",
	}
)

// keyLog appends to the tables. It belongs to the engine's goroutine.
type keyLog struct {
	folder       string
	ike, v1, esp *os.File // v1 is nil until the first key of IKEv1
}

// openKeyLog makes the folder (0700) and the files (0600). A folder that others may read is refused.
func openKeyLog(folder string) (*keyLog, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("keylog: %w", err)
	}
	st, err := os.Stat(folder)
	if err != nil {
		return nil, fmt.Errorf("keylog: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("keylog folder %s may be entered by others: chmod 700 %s", folder, folder)
	}
	k := &keyLog{folder: folder}
	if k.ike, err = openTable(folder, ikeTable); err != nil {
		return nil, err
	}
	if k.esp, err = openTable(folder, espTable); err != nil {
		return nil, errors.Join(err, k.ike.Close())
	}
	return k, nil
}

func openTable(folder, name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(folder, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("keylog: %w", err)
	}
	// It may have been there with other permissions.
	if err := f.Chmod(0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("keylog: %w", err), f.Close())
	}
	return f, nil
}

func (k *keyLog) close() error {
	if k == nil {
		return nil
	}
	var v1 error
	if k.v1 != nil {
		v1 = k.v1.Close()
	}
	return errors.Join(k.ike.Close(), v1, k.esp.Close())
}

// writeIKE logs the keys of an IKE SA. Each line is one write, so that a reader never sees half of one.
func (k *keyLog) writeIKE(r ike.KeyRecord) error {
	if r.Version == 1 {
		return k.writeV1(r)
	}
	line := ikeLine(r)
	if line == "" {
		return nil
	}
	_, err := k.ike.WriteString(line)
	return err
}

// writeV1 logs the key of an ISAKMP SA of IKEv1: both directions have one, found by the initiator's cookie.
func (k *keyLog) writeV1(r ike.KeyRecord) (err error) {
	if k.v1 == nil {
		if k.v1, err = openTable(k.folder, v1Table); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(k.v1, "%016x,%s\n", r.InitiatorSPI, uatHex(r.SKei))
	return err
}

// writeESP logs the keys of a security association.
func (k *keyLog) writeESP(sa *policy.SA) error {
	_, err := k.esp.WriteString(espLine(sa))
	return err
}

// ikeLine is empty for versions that have another table.
func ikeLine(r ike.KeyRecord) string {
	if r.Version != 2 {
		return ""
	}
	return fmt.Sprintf("%016x,%016x,%s,%s,\"%s\",%s,%s,\"%s\"\n", r.InitiatorSPI, r.ResponderSPI,
		uatHex(r.SKei), uatHex(r.SKer), name(ikeNames, r.Encryption), uatHex(r.SKai), uatHex(r.SKar), name(ikeNames, r.Integrity))
}

func espLine(sa *policy.SA) string {
	src, dst := sa.Path.Local.Addr(), sa.Path.Remote.Addr()
	if sa.Direction == policy.Inbound {
		src, dst = dst, src
	}
	family := "IPv4"
	if src.Is6() {
		family = "IPv6"
	}
	integ := name(espNames, sa.Integrity)
	if sa.ICV96 {
		integ = sha256Cut
	}
	return fmt.Sprintf("\"%s\",\"%s\",\"%s\",\"0x%08x\",\"%s\",\"0x%s\",\"%s\",\"%s\"\n", family, src.WithZone(""), dst.WithZone(""), uint32(sa.SPI),
		name(espNames, sa.Encryption), hex.EncodeToString(sa.EncryptionKey.Reveal()), integ, uatKey(sa.IntegrityKey))
}

// sha256Cut is HMAC-SHA2-256 cut to 96 bits.
const sha256Cut = "HMAC-SHA-256-96 [draft-ietf-ipsec-ciph-sha-256-00]"

// name falls back to ours, which Wireshark does not know.
func name(names map[algorithm]string, t policy.Transform) string {
	n, ok := names[algorithm{t.Type, t.ID}]
	if !ok {
		return t.String()
	}
	return strings.Replace(n, "#", strconv.Itoa(int(t.KeyBits)), 1)
}

func uatHex(s policy.Secret) string {
	if s.Len() == 0 {
		return `""`
	}
	return hex.EncodeToString(s.Reveal())
}

// uatKey is a key in esp_sa's form; none is an empty text.
func uatKey(s policy.Secret) string {
	if s.Len() == 0 {
		return ""
	}
	return "0x" + hex.EncodeToString(s.Reveal())
}
