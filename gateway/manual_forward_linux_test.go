package gateway

import (
	"fmt"
	"strings"
	"testing"
)

// A policy of direction fwd says what may come, as one of direction in does: it lets a tunnel's packets in, discards them, and without
// it they are not let in.
func TestForwardPoliciesSayWhatMayCome(t *testing.T) {
	a, b := twoHosts(t)
	dir := t.TempDir()
	first, err := a.start(t, manualConfig(t, dir, "a", keysThere+keysBack+fmt.Sprintf(rules, "out", "in", "require")))
	if err != nil {
		t.Fatal(err)
	}
	defer first.stop()
	second, err := b.start(t, manualConfig(t, dir, "b", keysThere+keysBack+fmt.Sprintf(rules, "fwd", "out", "require")))
	if err != nil {
		t.Fatal(err)
	}
	defer second.stop()
	a.ping(t, b.inner)
	if text := second.mustSetkey(t, "spddump;"); !strings.Contains(text, "\n\tfwd prio def ipsec\n") {
		t.Errorf("spddump has no fwd:\n%s", text)
	}
	refused := func() uint64 { return second.plane.Counters().Drops["outside the selectors"] }
	for _, what := range []string{"spdupdate 10.1.0.1 10.2.0.1 any -P fwd discard;", "spddelete 10.1.0.1 10.2.0.1 any -P fwd;"} {
		second.mustSetkey(t, what)
		before := refused()
		if !lost(a, b.inner) || refused() != before+1 {
			t.Errorf("%s: it came, and %d packets are refused", what, refused()-before)
		}
	}
	second.mustSetkey(t, "spdadd 10.1.0.1 10.2.0.1 any -P fwd ipsec esp/tunnel/198.51.100.1-198.51.100.2/require;")
	a.ping(t, b.inner)
	first.end(t)
	second.end(t)
}
