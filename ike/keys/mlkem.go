package keys

import (
	"crypto/mlkem"
	"crypto/mlkem/mlkemtest"
	"fmt"
	"io"

	circl512 "github.com/cloudflare/circl/kem/mlkem/mlkem512"
)

// ML-KEM as a key exchange method (FIPS 203; draft-ietf-ipsecme-ikev2-mlkem, section 2): the initiator sends an encapsulation
// key, the responder a ciphertext. The private value is the seed d | z of the decapsulation key for the initiator, the
// message m for the responder. Both come from the caller's randomness, so encapsulation is the derandomized form, which the
// standard library has for known-answer tests alone: with m drawn anew for each exchange it is ML-KEM.Encaps. ML-KEM-512 is
// not in the standard library.

const (
	mlkemSeedLen    = 64 // d | z
	mlkemMessageLen = 32 // m
)

type mlkemDraw struct{}

func (mlkemDraw) draw(rand io.Reader) ([]byte, error) { return drawOctets(rand, mlkemSeedLen) }

func (mlkemDraw) drawAnswer(rand io.Reader) ([]byte, error) { return drawOctets(rand, mlkemMessageLen) }

func drawOctets(rand io.Reader, n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(rand, b)
	return b, err
}

// badKey wraps what the modulus check of FIPS 203, section 7.2, found.
func badKey(err error) error { return fmt.Errorf("%w: %w", ErrPublicValue, err) }

type mlkem768 struct{ mlkemDraw }

func (mlkem768) offerLen() int  { return mlkem.EncapsulationKeySize768 }
func (mlkem768) answerLen() int { return mlkem.CiphertextSize768 }

func (mlkem768) public(seed []byte) ([]byte, error) {
	k, err := mlkem.NewDecapsulationKey768(seed)
	if err != nil {
		return nil, err
	}
	return k.EncapsulationKey().Bytes(), nil
}

func (mlkem768) agree(seed, ciphertext []byte) ([]byte, error) {
	k, err := mlkem.NewDecapsulationKey768(seed)
	if err != nil {
		return nil, err
	}
	return k.Decapsulate(ciphertext)
}

func (mlkem768) answer(message, offer []byte) (ciphertext, shared []byte, err error) {
	k, err := mlkem.NewEncapsulationKey768(offer)
	if err != nil {
		return nil, nil, badKey(err)
	}
	shared, ciphertext, err = mlkemtest.Encapsulate768(k, message)
	return ciphertext, shared, err
}

type mlkem1024 struct{ mlkemDraw }

func (mlkem1024) offerLen() int  { return mlkem.EncapsulationKeySize1024 }
func (mlkem1024) answerLen() int { return mlkem.CiphertextSize1024 }

func (mlkem1024) public(seed []byte) ([]byte, error) {
	k, err := mlkem.NewDecapsulationKey1024(seed)
	if err != nil {
		return nil, err
	}
	return k.EncapsulationKey().Bytes(), nil
}

func (mlkem1024) agree(seed, ciphertext []byte) ([]byte, error) {
	k, err := mlkem.NewDecapsulationKey1024(seed)
	if err != nil {
		return nil, err
	}
	return k.Decapsulate(ciphertext)
}

func (mlkem1024) answer(message, offer []byte) (ciphertext, shared []byte, err error) {
	k, err := mlkem.NewEncapsulationKey1024(offer)
	if err != nil {
		return nil, nil, badKey(err)
	}
	shared, ciphertext, err = mlkemtest.Encapsulate1024(k, message)
	return ciphertext, shared, err
}

type mlkem512 struct{ mlkemDraw }

func (mlkem512) offerLen() int  { return circl512.PublicKeySize }
func (mlkem512) answerLen() int { return circl512.CiphertextSize }

func (mlkem512) public(seed []byte) ([]byte, error) {
	public, _ := circl512.NewKeyFromSeed(seed)
	return public.MarshalBinary()
}

func (mlkem512) agree(seed, ciphertext []byte) ([]byte, error) {
	_, private := circl512.NewKeyFromSeed(seed)
	shared := make([]byte, circl512.SharedKeySize)
	private.DecapsulateTo(shared, ciphertext)
	return shared, nil
}

func (mlkem512) answer(message, offer []byte) (ciphertext, shared []byte, err error) {
	var public circl512.PublicKey
	if err := public.Unpack(offer); err != nil {
		return nil, nil, badKey(err)
	}
	ciphertext, shared = make([]byte, circl512.CiphertextSize), make([]byte, circl512.SharedKeySize)
	public.EncapsulateTo(ciphertext, shared, message)
	return ciphertext, shared, nil
}
