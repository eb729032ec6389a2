package bench

import "testing"

// What an SA holds must not grow unseen: the bounds are a few times what it is.
func TestHeapOfAnSA(t *testing.T) {
	ikePart, espPart, err := responderHeap(t.Context(), 200, call{method: "x25519", psk: anyPSK})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.0f octets for IKE, %.0f for ESP", ikePart, espPart)
	if ikePart < 500 || ikePart > 16<<10 {
		t.Errorf("an IKE SA with a child holds %.0f octets", ikePart)
	}
	if espPart < 500 || espPart > 48<<10 {
		t.Errorf("the SAs of a child hold %.0f octets", espPart)
	}
}
