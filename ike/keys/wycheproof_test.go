package keys

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"os"
	"testing"

	"coati/policy"
)

type mlkemVector struct {
	TcID                   int
	Comment, Result        string
	Seed, Ek, M, C, K      string
	ciphertext, shared, ek []byte
}

// Project Wycheproof's vectors of ML-KEM, among them FIPS 203's, through both roles.
func TestWycheproofMLKEM(t *testing.T) {
	t.Parallel()
	for name, method := range map[string]uint16{"512": policy.KEMLKEM512, "768": policy.KEMLKEM768, "1024": policy.KEMLKEM1024} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tried := map[string]int{}
			for _, v := range mlkemVectors(t, "mlkem_"+name) {
				tried["initiator "+v.Result]++
				if good := initiates(t, method, v); good != (v.Result == "valid") {
					t.Errorf("initiator %d, %s: %s", v.TcID, v.Comment, v.Result)
				}
			}
			for _, v := range mlkemVectors(t, "mlkem_"+name+"_encaps") {
				tried["responder "+v.Result]++
				r, err := NewResponder(method, bytes.NewReader(unhex(t, v.M)))
				if err != nil {
					t.Fatal(err)
				}
				answer, shared, err := r.Answer(v.ek)
				if good := err == nil && bytes.Equal(answer, v.ciphertext) && bytes.Equal(shared.Reveal(), v.shared); good != (v.Result == "valid") {
					t.Errorf("responder %d, %s: %s, and we say %v", v.TcID, v.Comment, v.Result, err)
				}
			}
			for _, k := range []string{"initiator valid", "initiator invalid", "responder valid", "responder invalid"} {
				if tried[k] == 0 {
					t.Errorf("no vector for %s: %v", k, tried)
				}
			}
		})
	}
}

// initiates says whether an initiator with the vector's seed offers its key and makes its secret of its ciphertext.
func initiates(t *testing.T, method uint16, v mlkemVector) bool {
	i, err := NewInitiator(method, bytes.NewReader(unhex(t, v.Seed)))
	if err != nil {
		return false
	}
	offer, err := i.Offer()
	if err != nil || len(v.ek) > 0 && !bytes.Equal(offer, v.ek) {
		return false
	}
	shared, err := i.Finish(v.ciphertext)
	return err == nil && bytes.Equal(shared.Reveal(), v.shared)
}

func mlkemVectors(t *testing.T, name string) []mlkemVector {
	t.Helper()
	f, err := os.Open("testdata/wycheproof/" + name + "_test.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		TestGroups []struct{ Tests []mlkemVector }
	}
	if err := json.NewDecoder(z).Decode(&file); err != nil {
		t.Fatal(err)
	}
	var out []mlkemVector
	for _, g := range file.TestGroups {
		for _, v := range g.Tests {
			v.ciphertext, v.shared, v.ek = unhex(t, v.C), unhex(t, v.K), unhex(t, v.Ek)
			out = append(out, v)
		}
	}
	return out
}
