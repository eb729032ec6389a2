package batch

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
)

// hexOctets is a hexadecimal string of Wycheproof's files.
type hexOctets []byte

func (h *hexOctets) UnmarshalText(s []byte) (err error) {
	*h, err = hex.DecodeString(string(s))
	return err
}

func TestWycheproofGCM(t *testing.T) { testWycheproof(t, "aes_gcm_test.json", NewGCMFor) }

func TestWycheproofChaCha(t *testing.T) {
	testWycheproof(t, "chacha20_poly1305_test.json", NewChaCha20Poly1305For)
}

// testWycheproof tries Project Wycheproof's vectors, those with nonces of 12 octets and tags of 16.
func testWycheproof(t *testing.T, file string, newKey func(kernel string, key []byte) (Key, error)) {
	raw, err := os.ReadFile("testdata/wycheproof/" + file)
	if err != nil {
		t.Fatal(err)
	}
	var vectors struct {
		TestGroups []struct {
			IVSize, TagSize int
			Tests           []struct {
				ID                    int `json:"tcId"`
				Key, IV, AAD, Msg, CT hexOctets
				Tag                   hexOctets
				Result                string
			}
		}
	}
	if err := json.Unmarshal(raw, &vectors); err != nil {
		t.Fatal(err)
	}
	forEachKernel(t, func(t *testing.T, kernel string) {
		done := 0
		for _, g := range vectors.TestGroups {
			if g.IVSize != 96 || g.TagSize != 128 {
				continue
			}
			for _, c := range g.Tests {
				done++
				k, err := newKey(kernel, c.Key)
				if err != nil {
					t.Fatal(err)
				}
				good := c.Result == "valid"
				sealed := append(c.CT[:len(c.CT):len(c.CT)], c.Tag...)
				for _, n := range []int{1, 9} { // some kernels take few jobs another way than many
					seals, opens := make([]Job, n), make([]Job, n)
					for i := range n {
						seals[i], opens[i] = job(c.AAD, c.Msg, gcmTagLen), job(c.AAD, c.CT, gcmTagLen)
						copy(seals[i].IV[:], c.IV)
						copy(opens[i].IV[:], c.IV)
						copy(opens[i].Text[len(c.CT):len(c.CT)+gcmTagLen], c.Tag)
					}
					k.Seal(seals)
					k.Open(opens)
					for i := range n {
						if same := bytes.Equal(seals[i].Text[:len(c.Msg)+gcmTagLen], sealed); same != good {
							t.Errorf("test %d, %s, job %d of %d: sealing gives its ciphertext and tag: %v", c.ID, c.Result, i, n, same)
						}
						if opens[i].OK != good || good && !bytes.Equal(opens[i].Text, c.Msg) {
							t.Errorf("test %d, %s, job %d of %d: OK is %v", c.ID, c.Result, i, n, opens[i].OK)
						}
					}
				}
			}
		}
		if done < 100 {
			t.Errorf("only %d vectors were tried", done)
		}
		t.Logf("%d vectors", done)
	})
}
