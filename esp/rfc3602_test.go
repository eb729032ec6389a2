package esp

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"testing"

	"coati/esp/batch"
	"coati/packet"
	"coati/policy"
)

// The whole packets of RFC 3602, section 4, cases 5 to 8. They have no checksum, which ours must: it is computed apart.
func TestPacketsOfRFC3602(t *testing.T) {
	octets := func(s string) []byte { return must(hex.DecodeString(s)) }
	for _, c := range []struct {
		number                   int
		key, head, cipher, plain string // head: SPI, sequence number and IV; plain: with its padding and next header
	}{
		{
			5, "90d382b410eeba7ad938c46cec1a82bf", "0000432100000001e96e8c08ab465763fd098d45dd3ff893",
			"f663c25d325c18c6a9453e194e120849a4870b66cc6b9965330013b4898dc856a4699e523a55db080b59ec3a8e4b7e52775b07d1db34ed9c538ab50c551b874aa269add047ad2d5913ac19b7cfbad4a6",
			"08000ebda70a00008e9c083db95b070008090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f30313233343536370102030405060708090a0b0c0d0e0e01",
		},
		{
			6, "90d382b410eeba7ad938c46cec1a82bf", "000043210000000869d08df7d203329db093fc4924e5bd80",
			"f51995881ec4e0c4488987ce742e8109689bb379d2d750c0d915dca346a89f75",
			"0800b5e8a80a0500a69c083d0b660e0077777777777777777777777701020201",
		},
		{
			7, "0123456789abcdef0123456789abcdef", "0000876500000002f4e765244f6407adf13dc1380f673f37",
			"773b5241a4c449225e4f3ce5ed611b0c237ca96cf74a93013c1b0ea1a0cf70f8e4ecaec78ac53aad7a0f022b859243c647752e94a859352b8a4d4d2decd136e5c177f132ad3fbfb2201ac9904c74ee0a109e0ca1e4dfe9d5a100b842f1c22f0d",
			"45000054090400004001f988c0a87b03c0a87bc808009f76a90a0100b49c083d02a2040008090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f30313233343536370102030405060708090a0a04",
		},
		{
			8, "0123456789abcdef0123456789abcdef", "000087650000000585d47224b5f3dd5d2101d4ea8dffab22",
			"15b92683819596a8047232cc00f7048fe45318e11f8a0f62ede3c3fc61203bb50f980a08c9843fd3a1b06d5c07ff9639b7eb7dfb3512e5de435e7207ed971ef3d2726d9b5ef6affc6d17a0decbb13892",
			"45000044090c00004001f990c0a87b03c0a87bc80800d63caa0a0200c69c083da3de0300ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff0102030405060708090a0a04",
		},
	} {
		mac := bytes.Repeat([]byte{byte(c.number)}, 32)
		tr, err := newTransform(&policy.SA{
			Encryption: policy.LookupKeyword("aes128").Transform(), EncryptionKey: policy.NewSecret(octets(c.key)),
			Integrity: policy.LookupKeyword("sha256").Transform(), IntegrityKey: policy.NewSecret(mac),
		})
		if err != nil {
			t.Fatal(err)
		}
		whole, plain := octets(c.head+c.cipher), octets(c.plain)
		h := hmac.New(sha256.New, mac)
		h.Write(whole)
		whole = append(whole, h.Sum(nil)[:16]...)
		seq := uint64(binary.BigEndian.Uint32(whole[4:]))
		p, n := bytes.Clone(whole), len(whole)-packet.ESPLen-tr.ivLen-tr.icvLen
		var jobs [1]batch.Job
		tr.job(&jobs[0], p, n, false, seq)
		if tr.key.Open(jobs[:]); !jobs[0].OK || !bytes.Equal(tr.text(&jobs[0]), plain) {
			t.Errorf("case %d opens to %x", c.number, tr.text(&jobs[0]))
			continue
		}
		if _, ok := stripPadding(tr.text(&jobs[0])); !ok {
			t.Errorf("case %d: padding", c.number)
		}
		clear(p[len(p)-tr.icvLen:])
		tr.job(&jobs[0], p, n, false, seq)
		if tr.key.Seal(jobs[:]); !bytes.Equal(p, whole) {
			t.Errorf("case %d sealed again\n%x, it was\n%x", c.number, p, whole)
		}
	}
}
