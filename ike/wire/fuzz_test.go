package wire

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func FuzzParse(f *testing.F) {
	for _, p := range samples {
		f.Add(mustAppend(f, p))
	}
	for _, p := range sealed {
		f.Add(mustAppend(f, samples["V"], p))
	}
	f.Add(vectors(f, "rfc7634-appendix-b.txt")["message"])
	f.Add(vectors(f, "ike-scan-1.9.5.txt")["IKE_SA_INIT request"])
	for name, b := range vectors(f, "strongswan-5.9.8.txt") {
		if !strings.HasSuffix(name, "inside") {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		was := bytes.Clone(b)
		m, err := Parse(b)
		if !bytes.Equal(b, was) {
			t.Fatal("parsing changed the input")
		}
		if err != nil {
			if e, ok := err.(*Error); !ok || e.Offset < 0 || e.Offset > len(b) {
				t.Fatalf("error %#v for %d octets", err, len(b))
			}
			return
		}
		if aad := m.AAD(); !bytes.HasPrefix(b, aad) {
			t.Fatalf("associated data %x", aad)
		}
		again, err := Append(nil, m.Header, m.all())
		if err != nil {
			t.Fatalf("what parses does not append: %v", err)
		}
		if len(again) != len(b) {
			t.Fatalf("%d octets become %d", len(b), len(again))
		}
		m2, err := Parse(again)
		if err != nil {
			t.Fatalf("what was appended does not parse: %v", err)
		}
		if diff := cmp.Diff(m, m2, equal); diff != "" {
			t.Fatalf("parsed again (-first +second):\n%s", diff)
		}
		third, err := Append(nil, m2.Header, m2.all())
		if err != nil || !bytes.Equal(third, again) {
			t.Fatalf("appended again %x, %v, want %x", third, err, again)
		}
	})
}

func FuzzParsePayloads(f *testing.F) {
	for _, p := range samples {
		first, b, err := AppendPayloads(nil, []Payload{p, samples["N with SPI"]})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(first), b)
	}
	for name, b := range vectors(f, "strongswan-5.9.8.txt") {
		if strings.HasSuffix(name, "inside") {
			f.Add(b[0], b[1:])
		}
	}
	f.Fuzz(func(t *testing.T, first byte, b []byte) {
		was := bytes.Clone(b)
		payloads, err := ParsePayloads(PayloadType(first), b)
		if !bytes.Equal(b, was) {
			t.Fatal("parsing changed the input")
		}
		if err != nil {
			if e, ok := err.(*Error); !ok || e.Offset < 0 || e.Offset > len(b) {
				t.Fatalf("error %#v for %d octets", err, len(b))
			}
			return
		}
		i := 0
		for r, err := range Walk(PayloadType(first), b) {
			if err != nil || i == len(payloads) || payloads[i].PayloadType() != r.Type {
				t.Fatalf("walking sees another payload %d: %v, %v", i, r.Type, err)
			}
			i++
		}
		if i != len(payloads) {
			t.Fatalf("walking sees %d payloads, parsing %d", i, len(payloads))
		}
		head, again, err := AppendPayloads(nil, payloads)
		if err != nil {
			t.Fatalf("what parses does not append: %v", err)
		}
		if head != PayloadType(first) || len(again) != len(b) {
			t.Fatalf("%d octets from a %v become %d from a %v", len(b), PayloadType(first), len(again), head)
		}
		second, err := ParsePayloads(head, again)
		if err != nil {
			t.Fatalf("what was appended does not parse: %v", err)
		}
		if diff := cmp.Diff(payloads, second, equal); diff != "" {
			t.Fatalf("parsed again (-first +second):\n%s", diff)
		}
	})
}
