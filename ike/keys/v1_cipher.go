package keys

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"encoding/binary"
	"errors"
	"fmt"

	//lint:ignore SA1019 old peers have nothing else
	"golang.org/x/crypto/blowfish"
	//lint:ignore SA1019 old peers have nothing else
	"golang.org/x/crypto/cast5"

	"coati/esp/batch/camellia"
	"coati/policy"
)

// V1Cipher is the block cipher of an ISAKMP SA of IKEv1, in CBC mode. Both directions use one key, and each message's last block
// is the next one's IV (RFC 2409, section 5 and appendix B); the caller keeps the chains. It authenticates nothing: that is what the
// payload HASH is for.
type V1Cipher struct {
	block cipher.Block
	prf   PRF
}

// ErrV1Length is Open's error for what is not whole blocks.
var ErrV1Length = errors.New("ciphertext is not whole blocks")

// v1Blocks are the ciphers of phase 1 (RFC 2409, appendix A), by their number in IKEv2.
var v1Blocks = map[uint16]func([]byte) (cipher.Block, error){
	policy.ENCRAESCBC:           aes.NewCipher,
	policy.ENCRInsecure3DES:     des.NewTripleDESCipher,
	policy.ENCRInsecureDES:      des.NewCipher,
	policy.ENCRInsecureBlowfish: func(key []byte) (cipher.Block, error) { return blowfish.NewCipher(key) },
	policy.ENCRInsecureCAST:     func(key []byte) (cipher.Block, error) { return cast5.NewCipher(key) },
	policy.ENCRInsecureCamellia: camellia.InsecureNew,
}

// v1KeyLen is the length of a cipher's key in octets.
func v1KeyLen(encr policy.Transform) (int, error) {
	a := encr.Algorithm()
	if a != nil && a.Type == policy.TransformENCR && v1Blocks[a.ID] != nil {
		return a.KeyLen, nil
	}
	return 0, fmt.Errorf("%s does not protect IKEv1 here", encr)
}

// NewV1Cipher takes the cipher's key, of which it keeps no reference.
func NewV1Cipher(prf PRF, encr policy.Transform, key policy.Secret) (*V1Cipher, error) {
	n, err := v1KeyLen(encr)
	if err != nil {
		return nil, err
	}
	if key.Len() != n {
		return nil, fmt.Errorf("a key of %d octets where %s wants %d", key.Len(), encr, n)
	}
	block, err := v1Blocks[encr.ID](key.Reveal())
	return &V1Cipher{block, prf}, err
}

// FirstIV is the IV of phase 1's first encrypted message: of hash(g^xi | g^xr) as many octets as a block has.
func (c *V1Cipher) FirstIV(publicI, publicR []byte) []byte {
	return c.prf.Digest(publicI, publicR)[:c.block.BlockSize()]
}

// PhaseTwoIV is the IV of the first message of a later exchange: hash(last block of phase 1 | M-ID).
func (c *V1Cipher) PhaseTwoIV(last []byte, id uint32) []byte {
	return c.prf.Digest(last, binary.BigEndian.AppendUint32(nil, id))[:c.block.BlockSize()]
}

// Seal pads with zeros and encrypts. The next message's IV is the result's last block.
func (c *V1Cipher) Seal(iv, plain []byte) (sealed, next []byte) {
	n := c.block.BlockSize()
	out := make([]byte, (len(plain)+n-1)/n*n)
	copy(out, plain)
	cipher.NewCBCEncrypter(c.block, iv).CryptBlocks(out, out)
	return out, append([]byte(nil), out[len(out)-n:]...)
}

// Open decrypts; the padding stays. Whoever finds the result not authentic must not use next.
func (c *V1Cipher) Open(iv, sealed []byte) (plain, next []byte, err error) {
	n := c.block.BlockSize()
	if len(sealed) == 0 || len(sealed)%n != 0 {
		return nil, nil, ErrV1Length
	}
	plain = make([]byte, len(sealed))
	cipher.NewCBCDecrypter(c.block, iv).CryptBlocks(plain, sealed)
	return plain, append([]byte(nil), sealed[len(sealed)-n:]...), nil
}
