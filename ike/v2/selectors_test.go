package v2

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"coati/ike/wire"
	"coati/policy"
)

// Selectors of every kind are on the wire what RFC 7296, section 3.13.1, says, and come back as they were.
func TestSelectorsOfEveryKindRoundTrip(t *testing.T) {
	t.Parallel()
	var sels []policy.Selector
	for _, w := range []string{
		"10.1.0.0/16", "10.1.0.5-10.1.0.77", "2001:db8::/32", "10.1.0.0/16[tcp/80]", "10.1.0.0/16[udp/5000-5010]", "10.1.0.0/16[icmp/8/0]", "10.1.0.0/16[icmp/3]",
		"2001:db8::/32[icmp6/128-129]", "2001:db8::/32[mh/5]", "2001:db8::/32[mh/opaque]", "10.1.0.0/16[udp/opaque]", "10.1.0.7[gre]",
	} {
		s, err := policy.ParseSelector(w)
		if err != nil {
			t.Fatal(err)
		}
		sels = append(sels, s)
	}
	sent := tsPayload(true, sels)
	b, err := wire.Append(nil, wire.Header{InitiatorSPI: 1, ResponderSPI: 2, Version: wire.Version2, Exchange: wire.ExchangeCreateChildSA}, []wire.Payload{sent})
	if err != nil {
		t.Fatal(err)
	}
	got, err := wire.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	ts, ok := got.Payloads[0].(*wire.TS)
	if !ok {
		t.Fatalf("a %T came back", got.Payloads[0])
	}
	if diff := cmp.Diff(sels, policySelectors(ts), cmp.Comparer(func(a, b policy.Selector) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}
