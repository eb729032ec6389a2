package keys

import (
	"crypto/aes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"

	"coati/policy"
)

// PRF is one pseudorandom function of RFC 7296, section 2.13. The zero value is not usable.
type PRF struct {
	id   uint16
	size int
	hash func() hash.Hash           // of an HMAC
	mac  func(key []byte) hash.Hash // of any other
}

// HMACs (RFC 4868, section 2.1.2) take keys of any length, so the nonces enter SKEYSEED whole. Of those on AES only the first 64 bits
// of each nonce do (RFC 7296, section 2.14).
var prfs = []PRF{
	{id: policy.PRFHMACSHA256, size: sha256.Size, hash: sha256.New},
	{id: policy.PRFHMACSHA384, size: sha512.Size384, hash: sha512.New384},
	{id: policy.PRFHMACSHA1, size: sha1.Size, hash: sha1.New},
	{id: policy.PRFHMACSHA512, size: sha512.Size, hash: sha512.New},
	{id: policy.PRFInsecureHMACMD5, size: md5.Size, hash: md5.New},
	{id: policy.PRFAESXCBC, size: aes.BlockSize, mac: prfXCBC},
	{id: policy.PRFAESCMAC, size: aes.BlockSize, mac: prfCMAC},
}

// NewPRF looks the PRF up; an error if Coati does not have it.
func NewPRF(t policy.Transform) (PRF, error) {
	if t.Type == policy.TransformPRF && t.KeyBits == 0 {
		for _, p := range prfs {
			if p.id == t.ID {
				return p, nil
			}
		}
	}
	return PRF{}, fmt.Errorf("no pseudorandom function %s here", t)
}

// Size is the output, and the preferred key, in octets.
func (p PRF) Size() int { return p.size }

// keyed is the function with a key.
func (p PRF) keyed(key []byte) hash.Hash {
	if p.mac != nil {
		return p.mac(key)
	}
	return hmac.New(p.hash, key)
}

// ofNonce is what of a nonce keys SKEYSEED.
func (p PRF) ofNonce(n []byte) []byte {
	if p.mac != nil {
		return n[:min(len(n), 8)]
	}
	return n
}

// Sum is prf(key, parts[0] | parts[1] | ...), Size octets.
func (p PRF) Sum(key []byte, parts ...[]byte) []byte {
	h := p.keyed(key)
	for _, b := range parts {
		h.Write(b)
	}
	return h.Sum(nil)
}

// Plus is the first n octets of prf+(key, parts[0] | parts[1] | ...) (RFC 7296, section 2.13). The counter is one
// octet, so more than 255 times Size is an error.
func (p PRF) Plus(key []byte, n int, parts ...[]byte) ([]byte, error) {
	if n < 0 || n > 255*p.size {
		return nil, fmt.Errorf("prf+ yields 0 to %d octets, not %d", 255*p.size, n)
	}
	h := p.keyed(key)
	out := make([]byte, 0, n+p.size)
	var last []byte
	for i := byte(1); len(out) < n; i++ {
		h.Reset()
		h.Write(last)
		for _, b := range parts {
			h.Write(b)
		}
		h.Write([]byte{i})
		out = h.Sum(out)
		last = out[len(out)-p.size:]
	}
	clear(out[n:])
	return out[:n:n], nil
}

// macs are the integrity algorithms (RFC 4868, section 2.1.1; RFC 3566; RFC 4494); key and ICV lengths are in policy's table.
var macs = map[uint16]func(key []byte) hash.Hash{
	policy.IntegSHA1:        hmacOf(sha1.New),
	policy.IntegSHA256:      hmacOf(sha256.New),
	policy.IntegSHA384:      hmacOf(sha512.New384),
	policy.IntegSHA512:      hmacOf(sha512.New),
	policy.IntegInsecureMD5: hmacOf(md5.New),
	policy.IntegAESXCBC:     newXCBC,
	policy.IntegAESCMAC:     newCMAC,
}

func hmacOf(h func() hash.Hash) func([]byte) hash.Hash {
	return func(key []byte) hash.Hash { return hmac.New(h, key) }
}
