package keys

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"coati/policy"
)

func TestScheduleAgainstNIST(t *testing.T) {
	t.Parallel()
	for _, r := range readRecords(t, "nist-kdf.txt") {
		prf := mustPRF(t, r.kind)
		ni, nr := r.octets(t, "ni"), r.octets(t, "nr")
		seed := SKEYSEED(prf, ni, nr, r.secret(t, "shared"))
		if !seed.Equal(r.secret(t, "skeyseed")) {
			t.Fatal("SKEYSEED differs")
		}
		dkm := r.octets(t, "dkm")
		k, err := DeriveIKE(prf, keyword(t, "aes256"), keyword(t, "sha256"), seed, ni, nr, number(t, r, "spii"), number(t, r, "spir"))
		if err != nil {
			t.Fatal(err)
		}
		if got := join(k.D, k.Ai, k.Ar, k.Ei, k.Er, k.Pi, k.Pr); !bytes.Equal(got, dkm[:len(got)]) {
			t.Error("the seven keys are not the beginning of DKM")
		}
		for _, c := range []struct{ shared, want string }{{"", "dkm_child"}, {"shared_new", "dkm_child_dh"}} {
			var shared policy.Secret
			if c.shared != "" {
				shared = r.secret(t, c.shared)
			}
			ck, err := DeriveChild(prf, keyword(t, "aes256"), keyword(t, "sha512"), k.D, shared, ni, nr)
			if err != nil {
				t.Fatal(err)
			}
			if got := join(ck.EncrI, ck.IntegI, ck.EncrR, ck.IntegR); !bytes.Equal(got, r.octets(t, c.want)[:len(got)]) {
				t.Errorf("KEYMAT is not the beginning of %s", c.want)
			}
		}
		if got := RekeySKEYSEED(prf, k.D, r.secret(t, "shared_new"), ni, nr); !got.Equal(r.secret(t, "skeyseed_rekey")) {
			t.Error("SKEYSEED of a rekeying differs")
		}
	}
}

// Two strongSwans negotiated, rekeyed the child, then the IKE SA: we come to the same keys from nonces, SPIs and secrets.
func TestScheduleAgainstStrongSwan(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"strongswan-gcm.txt", "strongswan-cbc.txt"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var cur IKEKeys
			seen := map[string]int{}
			for _, r := range readRecords(t, name) {
				seen[r.kind]++
				switch r.kind {
				case "ike", "ike-rekey":
					cur = checkIKE(t, r, cur)
				case "child":
					checkChild(t, r, cur.D)
				}
			}
			if seen["ike"] != 1 || seen["ike-rekey"] != 1 || seen["child"] != 2 {
				t.Errorf("the recording is not whole: %v", seen)
			}
		})
	}
}

func checkIKE(t *testing.T, r record, old IKEKeys) IKEKeys {
	t.Helper()
	p, err := NewPRF(r.transform(t, "prf"))
	if err != nil {
		t.Fatal(err)
	}
	ni, nr := r.octets(t, "ni"), r.octets(t, "nr")
	var seed policy.Secret
	if r.kind == "ike" {
		seed = SKEYSEED(p, ni, nr, r.secret(t, "shared"))
	} else {
		seed = RekeySKEYSEED(p, old.D, r.secret(t, "shared"), ni, nr)
	}
	if !seed.Equal(r.secret(t, "skeyseed")) {
		t.Fatalf("[%s]: SKEYSEED differs", r.kind)
	}
	k, err := DeriveIKE(p, r.transform(t, "encr"), r.transform(t, "integ"), seed, ni, nr, number(t, r, "spii"), number(t, r, "spir"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		got  policy.Secret
	}{{"sk_d", k.D}, {"sk_ai", k.Ai}, {"sk_ar", k.Ar}, {"sk_ei", k.Ei}, {"sk_er", k.Er}, {"sk_pi", k.Pi}, {"sk_pr", k.Pr}} {
		if !c.got.Equal(r.secret(t, c.name)) {
			t.Errorf("[%s]: %s differs", r.kind, c.name)
		}
	}
	return k
}

func checkChild(t *testing.T, r record, skd policy.Secret) {
	t.Helper()
	p := mustPRF(t, map[int]string{32: "prfsha256", 48: "prfsha384"}[skd.Len()])
	k, err := DeriveChild(p, r.transform(t, "encr"), r.transform(t, "integ"), skd, r.secret(t, "shared"), r.octets(t, "ni"), r.octets(t, "nr"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		got  policy.Secret
	}{{"encr_i", k.EncrI}, {"integ_i", k.IntegI}, {"encr_r", k.EncrR}, {"integ_r", k.IntegR}} {
		if !c.got.Equal(r.secret(t, c.name)) {
			t.Errorf("[child]: %s differs", c.name)
		}
	}
}

func TestDeriveRefusesImpossiblePairs(t *testing.T) {
	t.Parallel()
	p := mustPRF(t, "prfsha256")
	key := policy.NewSecret(make([]byte, 32))
	none := policy.Transform{Type: policy.TransformINTEG, ID: policy.IntegNone}
	for _, c := range []struct {
		name        string
		encr, integ policy.Transform
		ok          bool
	}{
		{"combined mode, integrity not mentioned", keyword(t, "aes128gcm16"), policy.Transform{}, true},
		{"combined mode, integrity NONE", keyword(t, "aes128gcm16"), none, true},
		{"combined mode with integrity", keyword(t, "aes128gcm16"), keyword(t, "sha256"), false},
		{"CBC with integrity", keyword(t, "aes128"), keyword(t, "sha256"), true},
		{"CBC alone", keyword(t, "aes128"), policy.Transform{}, false},
		{"CBC with NONE", keyword(t, "aes128"), none, false},
		{"the two exchanged", keyword(t, "sha256"), keyword(t, "aes128"), false},
		{"unknown cipher", policy.Transform{Type: policy.TransformENCR, ID: 99}, keyword(t, "sha256"), false},
		{"unknown key length", policy.Transform{Type: policy.TransformENCR, ID: policy.ENCRAESCBC, KeyBits: 129}, keyword(t, "sha256"), false},
		{"unknown integrity", keyword(t, "aes128"), policy.Transform{Type: policy.TransformINTEG, ID: 99}, false},
	} {
		if _, err := DeriveIKE(p, c.encr, c.integ, key, nil, nil, 1, 2); (err == nil) != c.ok {
			t.Errorf("IKE, %s: %v", c.name, err)
		}
		if _, err := DeriveChild(p, c.encr, c.integ, key, policy.Secret{}, nil, nil); (err == nil) != c.ok {
			t.Errorf("child, %s: %v", c.name, err)
		}
	}
}

// A key that is wiped when its job is done must not take the others with it, and Wipe must take them all.
func TestKeysHaveTheirOwnOctets(t *testing.T) {
	t.Parallel()
	p := mustPRF(t, "prfsha256")
	skd := policy.NewSecret([]byte("0123456789abcdef0123456789abcdef"))
	k, err := DeriveIKE(p, keyword(t, "aes128"), keyword(t, "sha256"), skd, []byte("ni"), []byte("nr"), 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	all := []policy.Secret{k.D, k.Ai, k.Ar, k.Ei, k.Er, k.Pi, k.Pr}
	for i, s := range all {
		before := s.Clone()
		for j, other := range all {
			if i != j {
				other.Wipe()
			}
		}
		if !s.Equal(before) {
			t.Fatalf("key %d shares octets with another", i)
		}
		if k, err = DeriveIKE(p, keyword(t, "aes128"), keyword(t, "sha256"), skd, []byte("ni"), []byte("nr"), 1, 2); err != nil {
			t.Fatal(err)
		}
		all = []policy.Secret{k.D, k.Ai, k.Ar, k.Ei, k.Er, k.Pi, k.Pr}
	}
	k.Wipe()
	c, err := DeriveChild(p, keyword(t, "aes128"), keyword(t, "sha256"), skd, policy.Secret{}, []byte("ni"), []byte("nr"))
	if err != nil {
		t.Fatal(err)
	}
	c.Wipe()
	for i, s := range append(all, c.EncrI, c.IntegI, c.EncrR, c.IntegR) {
		if slices.ContainsFunc(s.Reveal(), func(b byte) bool { return b != 0 }) {
			t.Errorf("key %d survives Wipe", i)
		}
	}
}

func number(t *testing.T, r record, key string) uint64 {
	t.Helper()
	b := r.octets(t, key)
	if len(b) != 8 {
		t.Fatalf("%s has %d octets", key, len(b))
	}
	return binary.BigEndian.Uint64(b)
}

func join(secrets ...policy.Secret) []byte {
	var out []byte
	for _, s := range secrets {
		out = append(out, s.Reveal()...)
	}
	return out
}
