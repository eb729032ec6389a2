package wire

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestMessagesOfStrongSwan reads recorded messages of a real peer, says what is in them, and appends them again octet by
// octet.
func TestMessagesOfStrongSwan(t *testing.T) {
	t.Parallel()
	recorded := vectors(t, "strongswan-5.9.8.txt")
	told := make(map[string]string)
	for name, b := range recorded {
		if outer, ok := strings.CutSuffix(name, " inside"); ok {
			first := PayloadType(b[0])
			payloads, err := ParsePayloads(first, b[1:])
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			told[outer] = "SK{" + tell(payloads) + "}"
			again, out, err := AppendPayloads(nil, payloads)
			if err != nil || again != first || !bytes.Equal(out, b[1:]) {
				t.Errorf("%s: appended %v %x, %v\nwant %v %x", name, again, out, err, first, b[1:])
			}
			continue
		}
		m, err := Parse(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if m.SK == nil {
			told[name] = tell(m.Payloads)
		}
		out, err := Append(nil, m.Header, m.all())
		if err != nil || !bytes.Equal(out, b) {
			t.Errorf("%s: appended %x, %v\nwant %x", name, out, err, b)
		}
	}
	var story []string
	for _, name := range slices.Sorted(maps.Keys(told)) {
		story = append(story, name+": "+told[name])
	}
	if diff := cmp.Diff(storyOfStrongSwan, story); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTheProbeOfIKEScan(t *testing.T) {
	t.Parallel()
	m, err := Parse(vectors(t, "ike-scan-1.9.5.txt")["IKE_SA_INIT request"])
	if err != nil {
		t.Fatal(err)
	}
	if got, want := tell(m.Payloads), "SA, KE, Nonce"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	out, err := Append(nil, m.Header, m.Payloads)
	if err != nil || !bytes.Equal(out, m.Raw) {
		t.Errorf("appended %x, %v\nwant %x", out, err, m.Raw)
	}
}

// tell is a chain in the RFC's notation.
func tell(payloads []Payload) string {
	var words []string
	for _, p := range payloads {
		word := p.PayloadType().String()
		switch p := p.(type) {
		case *Notify:
			word += "(" + p.Type.String() + ")"
		case *Delete:
			word += "(" + p.Protocol.String() + ")"
		case *Config:
			word += "(" + p.Type.String() + ")"
		case *Unknown:
			word = "unknown " + word
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

var storyOfStrongSwan = []string{
	"07 IKE_SA_INIT request: SA, KE, Nonce, N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP), N(IKEV2_FRAGMENTATION_SUPPORTED), N(SIGNATURE_HASH_ALGORITHMS), N(REDIRECT_SUPPORTED)",
	"08 IKE_SA_INIT response: SA, KE, Nonce, N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP), N(IKEV2_FRAGMENTATION_SUPPORTED), N(SIGNATURE_HASH_ALGORITHMS), N(CHILDLESS_IKEV2_SUPPORTED), N(MULTIPLE_AUTH_SUPPORTED)",
	"09 IKE_AUTH request: SK{IDi, N(INITIAL_CONTACT), IDr, AUTH, CP(CFG_REQUEST), SA, TSi, TSr, N(MOBIKE_SUPPORTED), N(NO_ADDITIONAL_ADDRESSES), N(MULTIPLE_AUTH_SUPPORTED), N(EAP_ONLY_AUTHENTICATION), N(IKEV2_MESSAGE_ID_SYNC_SUPPORTED)}",
	"10 IKE_AUTH response: SK{IDr, AUTH, CP(CFG_REPLY), SA, TSi, TSr, N(MOBIKE_SUPPORTED), N(NO_ADDITIONAL_ADDRESSES)}",
	"13 INFORMATIONAL request: SK{N(NO_ADDITIONAL_ADDRESSES)}",
	"14 INFORMATIONAL response: SK{}",
	"19 CREATE_CHILD_SA request: SK{N(REKEY_SA), SA, Nonce, KE, TSi, TSr}",
	"20 CREATE_CHILD_SA response: SK{SA, Nonce, KE, TSi, TSr}",
	"21 INFORMATIONAL request: SK{D(ESP)}",
	"22 INFORMATIONAL response: SK{D(ESP)}",
	"25 CREATE_CHILD_SA request: SK{SA, Nonce, KE}",
	"26 CREATE_CHILD_SA response: SK{SA, Nonce, KE}",
	"29 INFORMATIONAL request: SK{D(ESP)}",
	"30 INFORMATIONAL response: SK{D(ESP)}",
	"31 INFORMATIONAL request: SK{D(IKE)}",
	"32 INFORMATIONAL response: SK{}",
}
