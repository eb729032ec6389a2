package v1

import (
	"flag"
	"os"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files")

func TestThePictureOfTheTable(t *testing.T) {
	t.Parallel()
	const golden = "testdata/states.txt"
	got := Picture()
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || string(want) != got {
		t.Errorf("%v: the table is\n%s", err, got)
	}
}

// Every step but the first is where some row leads, or what follows from a job of a step that one leads to.
func TestEveryStepIsReached(t *testing.T) {
	t.Parallel()
	after := map[step][]step{stepStart: {stepSASent, stepQuickKeys, stepConfigSent}, stepOffer: {stepKESent, stepAggressiveSent}, stepKeys: {stepKEAnswered, stepAuthSent, stepAggressiveAnswered}, stepQuickKeys: {stepQuickSent, stepQuickAnswered, stepDone}}
	reached := map[step]bool{stepStart: true}
	for range 8 {
		for from, tos := range after {
			for _, to := range tos {
				reached[to] = reached[to] || reached[from]
			}
		}
		for _, r := range table {
			for _, to := range r.to {
				reached[to] = reached[to] || reached[r.from]
			}
		}
	}
	for s := stepStart; s <= stepDone; s++ {
		if !reached[s] {
			t.Errorf("nothing leads to %s", s)
		}
	}
}
