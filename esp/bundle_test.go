package esp

import (
	"slices"
	"testing"
)

// Who reads a bundle sees it as it was, whatever is added, removed and put first meanwhile; the latest is the first.
func TestABundleIsReadAsItWas(t *testing.T) {
	t.Parallel()
	var b bundle
	if b.live() || b.first() != nil {
		t.Fatal("an empty bundle has an SA")
	}
	sas := make([]*outSA, 20)
	type look struct{ seen, want []*outSA }
	var looks []look
	var want []*outSA
	step := func(add, remove *outSA) {
		b.replace(add, remove)
		want = slices.DeleteFunc(slices.Clone(want), func(s *outSA) bool { return s == add || s == remove })
		if add != nil {
			want = append(want, add)
		}
		looks = append(looks, look{b.all(), slices.Clone(want)})
		if len(want) > 0 && b.first() != want[len(want)-1] {
			t.Error("the latest is not the first")
		}
	}
	for i := range sas {
		sas[i] = &outSA{}
		step(sas[i], nil)
		if i%3 == 2 {
			step(nil, sas[i]) // the end becomes free, and is written again
			step(sas[i-1], nil)
			step(sas[i], sas[i-2])
		}
	}
	for i, l := range looks {
		if !slices.Equal(l.seen, l.want) {
			t.Errorf("what was read after step %d has changed", i)
		}
	}
}
