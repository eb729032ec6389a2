package keys

import (
	"crypto/rand"
	"testing"

	"coati/policy"
)

// One side's whole work for one exchange: drawing, its own public value, the shared secret.
func BenchmarkKeyExchange(b *testing.B) {
	for _, a := range policy.Algorithms {
		if a.Type != policy.TransformKE {
			continue
		}
		b.Run(a.Keyword, func(b *testing.B) {
			peer, err := NewInitiator(a.ID, rand.Reader)
			if err != nil {
				b.Fatal(err)
			}
			offer, err := peer.Offer()
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				r, err := NewResponder(a.ID, rand.Reader)
				if err != nil {
					b.Fatal(err)
				}
				if _, _, err := r.Answer(offer); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Drawing alone, which happens inside the state machine.
func BenchmarkDraw(b *testing.B) {
	for _, a := range policy.Algorithms {
		if a.Type != policy.TransformKE {
			continue
		}
		b.Run(a.Keyword, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := NewInitiator(a.ID, rand.Reader); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
