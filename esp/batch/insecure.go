package batch

import (
	"crypto/cipher"
	"crypto/des"

	//lint:ignore SA1019 old peers have nothing else
	"golang.org/x/crypto/blowfish"
	//lint:ignore SA1019 old peers have nothing else
	"golang.org/x/crypto/cast5"

	"coati/esp/batch/camellia"
)

// Ciphers whose blocks of 8 octets begin to repeat after 2^32 of them (RFC 8221, section 5), and whose tables tell of their
// keys to who can measure time. They are here to meet old peers.

// InsecureDES is DES-CBC with a key of 8 octets.
func InsecureDES(key []byte) (Cipher, error) { return insecureCBC(des.NewCipher(key)) }

// Insecure3DES is triple DES-CBC with a key of 24 octets.
func Insecure3DES(key []byte) (Cipher, error) { return insecureCBC(des.NewTripleDESCipher(key)) }

// InsecureBlowfish is Blowfish-CBC with a key of up to 56 octets.
func InsecureBlowfish(key []byte) (Cipher, error) {
	b, err := blowfish.NewCipher(key)
	return insecureCBC(b, err)
}

// InsecureCAST is CAST-128-CBC with a key of 16 octets.
func InsecureCAST(key []byte) (Cipher, error) {
	b, err := cast5.NewCipher(key)
	return insecureCBC(b, err)
}

// InsecureCamellia is Camellia-CBC with a key of 16, 24 or 32 octets (RFC 4312).
func InsecureCamellia(key []byte) (Cipher, error) { return insecureCBC(camellia.InsecureNew(key)) }

func insecureCBC(b cipher.Block, err error) (Cipher, error) {
	if err != nil {
		return Cipher{}, err
	}
	return CBCCipher(b), nil
}
