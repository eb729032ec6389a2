package gateway

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"coati/gateway/control"
)

// docs/drops.md has the reasons of the gateway as the code has them, and no other.
func TestEveryReasonIsDocumented(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../docs/drops.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(b), "## Before and beside it")
	_, rows, _ := strings.Cut(text, "|---|---|---|\n")
	var want strings.Builder
	for _, r := range ownReasons {
		xfrm := "-"
		if r.xfrm != "" {
			xfrm = "`" + r.xfrm + "`"
		}
		want.WriteString("| " + r.name + " | " + xfrm + " | " + r.when + " |\n")
	}
	if strings.TrimSpace(rows) != strings.TrimSpace(want.String()) {
		t.Errorf("the table of docs/drops.md is not:\n%s", want.String())
	}
}

func TestDropsHaveBothNames(t *testing.T) {
	t.Parallel()
	got := dropCounts(map[string]uint64{"unknown spi": 2, "clear packet where a policy protects": 1, "ike queue full": 7})
	want := []control.Drop{
		{Reason: "clear packet where a policy protects", XFRM: "XfrmInTmplMismatch", Packets: 1},
		{Reason: "ike queue full", Packets: 7},
		{Reason: "unknown spi", XFRM: "XfrmInNoStates", Packets: 2},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
