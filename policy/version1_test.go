package policy

import "testing"

func TestNumbersOfIKEv1GoBothWays(t *testing.T) {
	t.Parallel()
	known := 0
	for i := range Algorithms {
		a := &Algorithms[i]
		for _, p := range []Protocol{ProtocolIKE, ProtocolESP} {
			n, ok := a.Transform().V1Number(p)
			if !ok {
				continue
			}
			known++
			if id, ok := FromV1(p, a.Type, n); !ok || id != a.ID {
				t.Errorf("%s in %s is %d, which is %d", a.Keyword, p, n, id)
			}
		}
	}
	if known < 40 {
		t.Errorf("only %d algorithms have a number", known)
	}
	for _, word := range []string{"prfsha256", "aescmac", "chacha20poly1305"} {
		if n, ok := LookupKeyword(word).Transform().V1Number(ProtocolESP); ok {
			t.Errorf("%s has number %d", word, n)
		}
	}
}

func TestSuitesOfIKEv1(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		protocol Protocol
		group    uint16
		in       string
		want     []string
	}{
		{ProtocolIKE, 0, "aes128-aes256-sha256-modp2048", []string{"aes128-prfsha256-sha256-modp2048", "aes256-prfsha256-sha256-modp2048"}},
		{ProtocolIKE, 0, "aes128-sha256-sha384-ecp256", []string{"aes128-prfsha256-sha256-ecp256", "aes128-prfsha384-sha384-ecp256"}},
		{ProtocolIKE, 0, "aes128gcm16-prfsha256-modp2048", nil},
		{ProtocolIKE, 0, "aes128-sha256-prfsha384-modp2048", nil},
		{ProtocolESP, 0, "aes128gcm16", []string{"aes128gcm16-noesn"}},
		{ProtocolESP, 0, "aes128-sha1-sha256", []string{"aes128-sha1-noesn", "aes128-sha256-noesn"}},
		{ProtocolESP, KEModp2048, "aes128-sha1-modp2048-ecp256", []string{"aes128-sha1-modp2048-noesn"}},
		{ProtocolESP, 0, "aes128-sha256-esn", nil},
		{ProtocolESP, 0, "chacha20poly1305", nil},
	} {
		var got []string
		for _, q := range V1Suites([]Proposal{MustProposal(c.protocol, c.in)}, c.group) {
			got = append(got, q.String())
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: %q, want %q", c.in, got, c.want)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%s: %q, want %q", c.in, got, c.want)
			}
		}
	}
}
