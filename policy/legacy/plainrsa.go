package legacy

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
)

// RSA keys without certificates, as FreeS/WAN has written them: a private key is "RSA {" with its numbers by name, a public key
// the octets of RFC 3110 in base64. racoon's plain_rsa and pluto's leftrsasigkey have both from there. No message has anything of a key.

const maxRSABits = 16384

// plainPrivate reads a file with one private key, into PEM.
func plainPrivate(data []byte) ([]byte, error) {
	words, ok := secretWords(string(data))
	if !ok {
		return nil, errors.New("a quotation mark is never closed")
	}
	for i, w := range words {
		if strings.EqualFold(w.text, "RSA") || strings.EqualFold(w.text, ":RSA") {
			return privatePEM(words[i+1:])
		}
	}
	return nil, errors.New("holds no private key: want RSA and its numbers in braces")
}

// privatePEM makes a key of what stands in braces behind RSA.
func privatePEM(words []token) ([]byte, error) {
	numbers := map[string]*big.Int{}
	for i := 0; i < len(words); i++ {
		name := strings.Trim(words[i].text, "{")
		if name == "}" {
			break
		}
		if !strings.HasSuffix(name, ":") || i+1 == len(words) {
			continue
		}
		i++
		digits, ok := strings.CutPrefix(strings.ToLower(strings.Trim(words[i].text, "}")), "0x")
		n, good := new(big.Int).SetString(digits, 16)
		if !ok || !good || n.BitLen() > maxRSABits {
			return nil, errors.New("the numbers of a key begin with 0x, and have hexadecimal digits and not more than 16384 bits")
		}
		numbers[strings.TrimSuffix(name, ":")] = n
	}
	for _, name := range []string{"Modulus", "PublicExponent", "PrivateExponent", "Prime1", "Prime2"} {
		if numbers[name] == nil || numbers[name].Sign() <= 0 {
			return nil, errors.New("a key has Modulus, PublicExponent, PrivateExponent, Prime1 and Prime2")
		}
	}
	pub, err := publicKey(numbers["Modulus"], numbers["PublicExponent"])
	if err != nil {
		return nil, err
	}
	// The private exponent is made anew: some programs have written one of another, longer form.
	p, q := numbers["Prime1"], numbers["Prime2"]
	if new(big.Int).Mul(p, q).Cmp(pub.N) != 0 {
		return nil, errors.New("the numbers are not those of one key")
	}
	one := big.NewInt(1)
	p1, q1 := new(big.Int).Sub(p, one), new(big.Int).Sub(q, one)
	if p1.Sign() == 0 || q1.Sign() == 0 {
		return nil, errors.New("the numbers are not those of one key")
	}
	least := new(big.Int).Div(new(big.Int).Mul(p1, q1), new(big.Int).GCD(nil, nil, p1, q1))
	d := new(big.Int).ModInverse(big.NewInt(int64(pub.E)), least)
	if d == nil {
		return nil, errors.New("the numbers are not those of one key")
	}
	key := &rsa.PrivateKey{PublicKey: *pub, D: d, Primes: []*big.Int{p, q}}
	if err := key.Validate(); err != nil {
		return nil, errors.New("the numbers are not those of one key")
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, errors.New("the numbers are not those of a key that can be used")
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func publicKey(n, e *big.Int) (*rsa.PublicKey, error) {
	if n.BitLen() < 512 || n.BitLen() > maxRSABits || e.BitLen() > 31 || e.Int64() < 3 || e.Bit(0) == 0 || n.Bit(0) == 0 {
		return nil, errors.New("the numbers are not those of a key that can be used")
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
}

// plainPublic reads a file with public keys, into PEM.
func plainPublic(data []byte) ([]byte, error) {
	words, ok := secretWords(string(data))
	if !ok {
		return nil, errors.New("a quotation mark is never closed")
	}
	var out []byte
	for i, w := range words {
		if strings.EqualFold(w.text, "PUB") && i+1 < len(words) {
			key, err := publicPEM(words[i+1].text)
			if err != nil {
				return nil, err
			}
			out = append(out, key...)
		}
	}
	if out == nil {
		return nil, errors.New("holds no public key: want PUB and a key that begins with 0s or 0x")
	}
	return out, nil
}

// publicPEM reads a public key as RFC 3110 has it: the length of the exponent, the exponent, the modulus.
func publicPEM(text string) ([]byte, error) {
	var data []byte
	var err error
	switch {
	case strings.HasPrefix(text, "0s"):
		data, err = base64.StdEncoding.DecodeString(text[2:])
	case strings.HasPrefix(text, "0x"):
		data, err = hex.DecodeString(text[2:])
	default:
		return nil, errors.New("a public key begins with 0s or 0x")
	}
	bad := errors.New("a public key is 0s and base64 of what RFC 3110 has")
	if err != nil || len(data) < 3 {
		return nil, bad
	}
	n, rest := int(data[0]), data[1:]
	if n == 0 {
		n, rest = int(data[1])<<8|int(data[2]), data[3:]
	}
	if n == 0 || n >= len(rest) {
		return nil, bad
	}
	pub, err := publicKey(new(big.Int).SetBytes(rest[n:]), new(big.Int).SetBytes(rest[:n]))
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, bad
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}
