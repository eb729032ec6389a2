package wire

import (
	"bytes"
	"runtime"
	"testing"
)

// What parsing allocates: the message and its coder, the slice of payloads, a struct per payload, and per SA the proposals, transforms
// and attributes. Byte slices alias the input. Walk and ParseNotify allocate nothing.

func TestReadingANotifyAllocatesNothing(t *testing.T) {
	body := mustAppend(t, samples["N with SPI"])[HeaderLen+PayloadHeaderLen:]
	var n Notify
	var err error
	allocs := testing.AllocsPerRun(100, func() { n, err = ParseNotify(body) })
	if err != nil || n.Type != NotifyRekeySA || n.SPI != SPI4(0xdeadbeef) {
		t.Fatalf("%+v, %v", n, err)
	}
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func TestWalkingAllocatesNothing(t *testing.T) {
	b := mustAppend(t, samples["SA for an IKE SA"], samples["KE"], samples["N without SPI"])
	n := 0
	allocs := testing.AllocsPerRun(100, func() {
		n = 0
		for r, err := range Walk(PayloadSA, b[HeaderLen:]) {
			if err == nil && len(r.Body) > 0 {
				n++
			}
		}
	})
	if n != 3 {
		t.Fatalf("%d payloads", n)
	}
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func TestReadingAHeaderAllocatesNothing(t *testing.T) {
	b := mustAppend(t, samples["KE"])
	if allocs := testing.AllocsPerRun(100, func() { _, _ = ParseHeader(b) }); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// The worst message for memory is made of the smallest elements.
func TestMemoryIsBoundedByTheInput(t *testing.T) {
	proposals := bytes.Repeat(with(proposal, 0, 2), MaxProposals-1)
	for name, tc := range map[string]struct {
		first PayloadType
		b     []byte
	}{
		"proposals": {PayloadSA, one(append(proposals, proposal...)...)},
		"selectors": {PayloadTSi, one(append([]byte{255, 0, 0, 0}, bytes.Repeat([]byte{99, 0, 0, 4}, 255)...)...)},
		"config":    {PayloadCP, one(append([]byte{1, 0, 0, 0}, bytes.Repeat([]byte{0, 1, 0, 0}, MaxConfigAttributes)...)...)},
		"payloads":  {PayloadVendorID, append(bytes.Repeat([]byte{43, 0, 0, 4}, MaxPayloads-1), one()...)},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		payloads, err := ParsePayloads(tc.first, tc.b)
		runtime.ReadMemStats(&after)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		used := after.TotalAlloc - before.TotalAlloc
		if limit := uint64(4096 + 40*len(tc.b)); used > limit {
			t.Errorf("%s: %d octets of input took %d of memory, want at most %d", name, len(tc.b), used, limit)
		}
		runtime.KeepAlive(payloads)
	}
}

func BenchmarkParseNotify(b *testing.B) {
	body := mustAppend(b, samples["N with SPI"])[HeaderLen+PayloadHeaderLen:]
	for b.Loop() {
		if _, err := ParseNotify(body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseIKESAInit(b *testing.B) {
	msg := mustAppend(b, samples["SA for an IKE SA"], samples["KE"], samples["Nonce"], samples["N without SPI"], samples["N without SPI"])
	b.ReportAllocs()
	b.SetBytes(int64(len(msg)))
	for b.Loop() {
		if _, err := Parse(msg); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendIKESAInit(b *testing.B) {
	chain := []Payload{samples["SA for an IKE SA"], samples["KE"], samples["Nonce"], samples["N without SPI"], samples["N without SPI"]}
	dst := make([]byte, 0, 2048)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Append(dst, sampleHeader, chain); err != nil {
			b.Fatal(err)
		}
	}
}
