package gateway

import (
	"fmt"
	"strings"
	"testing"

	"coati/gateway/control"
)

// Keys are shown to root alone, of what runs and of what the same script adds.
func TestKeysAreShownToRootAlone(t *testing.T) {
	a, _ := twoHosts(t)
	first, err := a.start(t, manualConfig(t, t.TempDir(), "a", keysThere+fmt.Sprintf(rules, "out", "in", "require")))
	if err != nil {
		t.Fatal(err)
	}
	defer first.stop()
	for _, root := range []bool{true, false} {
		done, err := first.Script(t.Context(), control.Script{File: "by-hand", Text: keysBack + "dump; delete 198.51.100.2 198.51.100.1 esp 0x1002;", Root: root})
		if err != nil || len(done.Faults) > 0 {
			t.Fatal(err, done.Faults)
		}
		const there, back = "61206b65 79206f66 20313620 6f637465", "00010203 04050607"
		if shown := strings.Contains(done.Output, there) && strings.Contains(done.Output, back); shown != root {
			t.Errorf("root %t: both keys are shown: %t", root, shown)
		}
		if !root && (strings.Contains(done.Output, there) || strings.Contains(done.Output, back) || strings.Count(done.Output, "[redacted]") != 4) {
			t.Errorf("not root sees\n%s", done.Output)
		}
	}
	first.end(t)
}
