package esp

import (
	"crypto/aes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"

	"coati/esp/batch"
	"coati/policy"
)

// What the rows of policy.Algorithms mean to esp/batch. Keys come without their salt.

// ccmNonceLen is 3 octets of salt and 8 of IV (RFC 4309, section 4).
const ccmNonceLen = 11

// newCombined makes the key of a combined-mode cipher. With an implicit IV (RFC 8750) it is the same key.
func newCombined(e *policy.Algorithm, key []byte) (batch.Key, error) {
	switch e.ID {
	case policy.ENCRAESGCM16, policy.ENCRAESGCM16IIV:
		return batch.NewGCM(key)
	case policy.ENCRAESGCM12, policy.ENCRAESGCM8:
		return batch.NewGCMCut(key, e.ICVLen)
	case policy.ENCRAESCCM16, policy.ENCRAESCCM12, policy.ENCRAESCCM8, policy.ENCRAESCCM8IIV:
		return batch.NewCCM(key, e.ICVLen, ccmNonceLen)
	case policy.ENCRAESGMAC:
		return batch.NewGMAC(key)
	case policy.ENCRChaCha20, policy.ENCRChaCha20IIV:
		return batch.NewChaCha20Poly1305(key)
	}
	return nil, fmt.Errorf("esp cannot encrypt with %s", e.Keyword)
}

var integrityHashes = map[uint16]func() hash.Hash{
	policy.IntegInsecureMD5: md5.New,
	policy.IntegSHA1:        sha1.New,
	policy.IntegSHA256:      sha256.New,
	policy.IntegSHA384:      sha512.New384,
	policy.IntegSHA512:      sha512.New,
}

// newSeparate makes the key of a cipher beside an integrity algorithm. AES-CBC with HMAC has a faster way of its own.
func newSeparate(e, i *policy.Algorithm, key, macKey []byte, icvLen int) (batch.Key, error) {
	if h := integrityHashes[i.ID]; h != nil && e.ID == policy.ENCRAESCBC {
		return batch.NewCBC(key, macKey, h, icvLen)
	}
	c, err := newCipher(e, key)
	if err != nil {
		return nil, err
	}
	m, err := newMAC(i, macKey)
	if err != nil {
		return nil, err
	}
	return batch.NewEncryptThenMAC(c, m, icvLen)
}

func newCipher(e *policy.Algorithm, key []byte) (batch.Cipher, error) {
	switch e.ID {
	case policy.ENCRNull:
		return batch.NoCipher(), nil
	case policy.ENCRAESCTR:
		return batch.CTRCipher(key)
	case policy.ENCRAESCBC:
		b, err := aes.NewCipher(key)
		if err != nil {
			return batch.Cipher{}, err
		}
		return batch.CBCCipher(b), nil
	case policy.ENCRInsecure3DES:
		return batch.Insecure3DES(key)
	case policy.ENCRInsecureDES:
		return batch.InsecureDES(key)
	case policy.ENCRInsecureBlowfish:
		return batch.InsecureBlowfish(key)
	case policy.ENCRInsecureCAST:
		return batch.InsecureCAST(key)
	case policy.ENCRInsecureCamellia:
		return batch.InsecureCamellia(key)
	}
	return batch.Cipher{}, fmt.Errorf("esp cannot encrypt with %s", e.Keyword)
}

func newMAC(i *policy.Algorithm, key []byte) (batch.MAC, error) {
	switch i.ID {
	case policy.IntegAESXCBC:
		return batch.XCBC(key)
	case policy.IntegAESCMAC:
		return batch.CMAC(key)
	}
	if h := integrityHashes[i.ID]; h != nil {
		return batch.HMAC(h, key), nil
	}
	return batch.MAC{}, fmt.Errorf("esp has no integrity algorithm %s", i.Keyword)
}
