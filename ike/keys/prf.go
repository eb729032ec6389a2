package keys

import (
	"crypto/hmac"
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
	hash func() hash.Hash
}

// All rows are HMACs (RFC 4868, section 2.1.2): keys of any length, so the nonces enter SKEYSEED whole. A PRF with a
// fixed key length would take only the first 64 bits of each nonce there (RFC 7296, section 2.14).
var prfs = []PRF{
	{policy.PRFHMACSHA256, sha256.Size, sha256.New},
	{policy.PRFHMACSHA384, sha512.Size384, sha512.New384},
	{policy.PRFHMACSHA1, sha1.Size, sha1.New},
	{policy.PRFHMACSHA512, sha512.Size, sha512.New},
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

// Sum is prf(key, parts[0] | parts[1] | ...), Size octets.
func (p PRF) Sum(key []byte, parts ...[]byte) []byte {
	h := hmac.New(p.hash, key)
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
	h := hmac.New(p.hash, key)
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

// hmacs are the integrity algorithms' hashes (RFC 4868, section 2.1.1); key and ICV lengths are in policy's table.
var hmacs = map[uint16]func() hash.Hash{
	policy.IntegSHA1:   sha1.New,
	policy.IntegSHA256: sha256.New,
	policy.IntegSHA384: sha512.New384,
	policy.IntegSHA512: sha512.New,
}
