package v2_test

import (
	"testing"

	"coati/ike/wire"
)

// IPComp is not built in: a peer that offers it gets a child without (RFC 7296, section 2.22), in IKE_AUTH and later.
func TestIPCompIsNotAgreedOn(t *testing.T) {
	t.Parallel()
	offer := &wire.Notify{Type: wire.NotifyIPCompSupported, Data: []byte{0x12, 0x34, 2}}
	b := newBench(t, nil, tunnel())
	p := newPuppet(b).begin()
	for _, got := range [][]wire.Payload{
		p.authenticate(offer),
		p.ask(wire.ExchangeCreateChildSA, espSA(7), &wire.Nonce{Data: make([]byte, 32)}, ts(false, "10.2.0.0/16"), ts(true, "10.1.0.0/16"), offer),
	} {
		if _, ok := wire.Find[*wire.SA](got, wire.PayloadSA); !ok || has(got, wire.NotifyIPCompSupported) {
			t.Errorf("IPComp is agreed on, or there is no child: %d payloads", len(got))
		}
	}
	if _, children := b.established(); children != 2 {
		t.Errorf("%d children", children)
	}
	b.sound()
}

// A peer that cannot take padding beyond a packet gets none (RFC 7296, section 1.3.1).
func TestAPeerThatCannotTakePaddingGetsNone(t *testing.T) {
	t.Parallel()
	for _, says := range []bool{false, true} {
		var extra []wire.Payload
		if says {
			extra = append(extra, &wire.Notify{Type: wire.NotifyESPTFCPaddingNotSupported})
		}
		change := tunnel()
		change.Children[0].TFC = 100
		b := newBench(t, nil, change)
		p := newPuppet(b).begin()
		p.authenticate(extra...)
		pads := false
		for _, sa := range b.sas {
			pads = pads || sa.TFC != 0
		}
		if pads == says || len(b.sas) != 2 {
			t.Errorf("the peer cannot take it %v: we pad %v", says, pads)
		}
	}
}
