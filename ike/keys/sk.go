package keys

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"

	"golang.org/x/crypto/chacha20poly1305"

	"coati/esp/batch/camellia"
	"coati/policy"
)

// The Encrypted payload after its generic header (RFC 7296, section 3.14; RFC 5282, section 3):
//
//	IV | E(inner payloads | padding | pad length) | ICV
//
// The prefix in front of it (IKE header, payloads outside, the SK header, or the SKF header with its two fragment numbers)
// is authenticated with it: as associated data of a combined-mode cipher (RFC 5282, section 5.1), or as the first part of
// what the MAC covers, up to the ICV.

var (
	// ErrUnauthenticated is wrapped by every error of Open that says nothing trustworthy about the peer: too short, or
	// the integrity check failed. Such a message is dropped and not answered.
	ErrUnauthenticated = errors.New("message is not authentic")
	// ErrPadding is Open's error for an authentic message whose pad length exceeds what there is.
	ErrPadding = errors.New("impossible padding in an authentic message")
	// ErrExhausted is Seal's error when the next IV would be a repeated one. The key must be replaced.
	ErrExhausted = errors.New("this key has no unused IV left: rekey")
)

// Cipher protects one direction of an IKE SA. It owns the direction's IV counter, so there must be one Cipher for a sending
// key, ever, and a sealed message is kept for retransmission rather than sealed again. Seal must not be called
// concurrently; Open may.
type Cipher struct {
	ivLen, icvLen, blockLen int

	// Combined mode: the nonce is salt | IV (RFC 5282, section 4), the IV is the count of sealed messages.
	aead   cipher.AEAD
	salt   []byte
	sealed uint64

	// Otherwise: CBC, or CTR with a salt, and a MAC cut to icvLen.
	block   cipher.Block
	counter bool
	mac     func() hash.Hash
}

// cbcs are the block ciphers beside AES.
var cbcs = map[uint16]func([]byte) (cipher.Block, error){
	policy.ENCRInsecure3DES:     des.NewTripleDESCipher,
	policy.ENCRInsecureCamellia: camellia.InsecureNew,
}

// NewCipher takes SK_e and SK_a of one direction, ak of length 0 for a combined-mode cipher. Their lengths must be those of
// policy's table. The keys are copied.
func NewCipher(encr, integ policy.Transform, ek, ak policy.Secret) (*Cipher, error) {
	ea, ia, err := algorithms(encr, integ)
	if err != nil {
		return nil, err
	}
	if ea.Use&policy.UseIKE == 0 {
		return nil, fmt.Errorf("%s does not protect IKE", ea.Keyword)
	}
	wantA := 0
	if ia != nil {
		wantA = ia.KeyLen
	}
	if ek.Len() != ea.KeyLen || ak.Len() != wantA {
		return nil, fmt.Errorf("keys of %d and %d octets where %s wants %d and %d", ek.Len(), ak.Len(), ea.Keyword, ea.KeyLen, wantA)
	}
	key := ek.Clone().Reveal()
	key, salt := key[:ea.KeyLen-ea.SaltLen], key[ea.KeyLen-ea.SaltLen:]
	c := &Cipher{ivLen: ea.IVLen, icvLen: ea.ICVLen, blockLen: ea.BlockLen, salt: salt, counter: ea.Counter}
	if ea.ID == policy.ENCRChaCha20 {
		c.aead, err = chacha20poly1305.New(key)
		return c, err
	}
	newBlock := cbcs[ea.ID]
	if newBlock == nil {
		newBlock = aes.NewCipher
	}
	block, err := newBlock(key)
	if err != nil {
		return nil, err
	}
	// GCM has a copy of the block cipher, whose key schedules are half of what an IKE SA's keys take.
	switch ea.ID {
	case policy.ENCRAESGCM16:
		c.aead, err = cipher.NewGCM(block)
		return c, err
	case policy.ENCRAESGCM12:
		c.aead, err = cipher.NewGCMWithTagSize(block, 12)
		return c, err
	case policy.ENCRAESGCM8:
		full, err := cipher.NewGCM(block)
		c.aead = shortGCM{full, block}
		return c, err
	case policy.ENCRAESCCM8, policy.ENCRAESCCM12, policy.ENCRAESCCM16:
		c.aead = ccm{block, ea.ICVLen}
		return c, nil
	case policy.ENCRAESCBC, policy.ENCRAESCTR, policy.ENCRInsecure3DES, policy.ENCRInsecureCamellia:
		c.block, c.icvLen = block, ia.ICVLen
		mac, macKey := macs[ia.ID], ak.Clone().Reveal()
		if mac == nil {
			return nil, fmt.Errorf("no integrity algorithm %s here", integ)
		}
		c.mac = func() hash.Hash { return mac(macKey) }
		return c, nil
	}
	return nil, fmt.Errorf("%s does not protect IKE", ea.Keyword)
}

// SealedLen is the number of octets of IV, ciphertext with padding, and ICV for plain octets of inner payloads.
func (c *Cipher) SealedLen(plain int) int {
	return c.ivLen + c.paddedLen(plain) + c.icvLen
}

// paddedLen is plain, the least padding, and the pad length octet.
func (c *Cipher) paddedLen(plain int) int {
	return (plain + 1 + c.blockLen - 1) / c.blockLen * c.blockLen
}

// Seal returns prefix | IV | ciphertext | ICV in fresh memory. The prefix is everything from the IKE header to the end of the
// SK or SKF header, with lengths that count SealedLen(len(plain)) already. Rand serves the IV of CBC, which must be
// unpredictable (RFC 3602, section 3); a counter mode counts instead (RFC 5282, section 3.1; RFC 5930, section 2) and never takes an IV twice.
func (c *Cipher) Seal(rand io.Reader, prefix, plain []byte) ([]byte, error) {
	body := len(prefix)
	inner := body + c.ivLen
	end := inner + c.paddedLen(len(plain))
	msg := make([]byte, end, end+c.icvLen)
	copy(msg, prefix)
	iv, text := msg[body:inner], msg[inner:end]
	copy(text, plain)
	text[len(text)-1] = byte(len(text) - 1 - len(plain))

	if c.counter {
		if c.sealed == math.MaxUint64 {
			return nil, ErrExhausted
		}
		binary.BigEndian.PutUint64(iv, c.sealed)
		c.sealed++
	}
	switch {
	case c.aead != nil:
		c.aead.Seal(text[:0], c.nonce(iv), text, msg[:body])
		return msg[:end+c.icvLen], nil
	case c.counter:
		c.stream(iv).XORKeyStream(text, text)
		return append(msg, c.icv(msg)...), nil
	}
	if _, err := io.ReadFull(rand, iv); err != nil {
		return nil, fmt.Errorf("initialization vector: %w", err)
	}
	cipher.NewCBCEncrypter(c.block, iv).CryptBlocks(text, text)
	return append(msg, c.icv(msg)...), nil
}

// Open checks and decrypts msg, a whole message whose octets from body on are IV | ciphertext | ICV, and returns the inner
// payloads without padding, in fresh memory. Any length of msg and any value of body are safe. An error is
// ErrUnauthenticated or ErrPadding.
func (c *Cipher) Open(msg []byte, body int) ([]byte, error) {
	if body < 0 || body > len(msg) || len(msg)-body < c.SealedLen(0) {
		return nil, fmt.Errorf("%w: too short for %d octets of IV, padding and ICV", ErrUnauthenticated, c.SealedLen(0))
	}
	inner, end := body+c.ivLen, len(msg)-c.icvLen
	iv, text := msg[body:inner], msg[inner:end]

	var plain []byte
	if c.aead != nil {
		var err error
		if plain, err = c.aead.Open(nil, c.nonce(iv), msg[inner:], msg[:body]); err != nil {
			return nil, fmt.Errorf("%w: integrity check failed", ErrUnauthenticated)
		}
	} else {
		// The MAC comes before everything that depends on the plaintext, so there is no padding oracle.
		if !hmac.Equal(c.icv(msg[:end]), msg[end:]) {
			return nil, fmt.Errorf("%w: integrity check failed", ErrUnauthenticated)
		}
		if len(text)%c.blockLen != 0 {
			return nil, fmt.Errorf("%w: %d octets are no whole blocks", ErrPadding, len(text))
		}
		plain = make([]byte, len(text))
		if c.counter {
			c.stream(iv).XORKeyStream(plain, text)
		} else {
			cipher.NewCBCDecrypter(c.block, iv).CryptBlocks(plain, text)
		}
	}
	// A sender may pad more than it must, with any octets (RFC 7296, section 3.14).
	pad := int(plain[len(plain)-1])
	if pad+1 > len(plain) {
		return nil, fmt.Errorf("%w: %d octets of padding in %d", ErrPadding, pad, len(plain))
	}
	return plain[:len(plain)-1-pad], nil
}

// stream is AES-CTR's key stream: its first counter block is nonce | IV | 1 (RFC 5930, section 2; RFC 3686, section 4).
func (c *Cipher) stream(iv []byte) cipher.Stream {
	return cipher.NewCTR(c.block, append(c.nonce(iv), 0, 0, 0, 1))
}

func (c *Cipher) nonce(iv []byte) []byte {
	return append(append(make([]byte, 0, len(c.salt)+len(iv)), c.salt...), iv...)
}

func (c *Cipher) icv(covered []byte) []byte {
	h := c.mac()
	h.Write(covered)
	return h.Sum(nil)[:c.icvLen]
}
