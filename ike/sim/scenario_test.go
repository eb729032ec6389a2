package sim

import (
	"bytes"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestScenarios(t *testing.T) {
	t.Parallel()
	for _, s := range Scenarios() {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(everySeeds) {
				for _, err := range s.Run(seed).Faults {
					t.Errorf("seed %d: %v; see -sim.replay", seed, err)
				}
			}
		})
	}
}

// TestReplay runs one seed of one scenario once more, and keeps what happened:
//
//	go test ./ike/sim -run TestReplay -sim.replay=crossing -sim.first=21 -sim.out=/tmp/crossing
//
// writes /tmp/crossing.jsonl, the trace, and /tmp/crossing.txt, its picture.
func TestReplay(t *testing.T) {
	if *replayFlag == "" {
		t.Skip("no scenario was named: see -sim.replay")
	}
	for _, s := range Scenarios() {
		if s.Name != *replayFlag {
			continue
		}
		var rec *Recorder
		for _, err := range s.Run(*firstFlag, func(w *World) { rec = w.Record() }).Faults {
			t.Error(err)
		}
		if *outFlag == "" {
			t.Log(rec.Diagram(len(rec.Entries)))
			return
		}
		f, err := os.Create(*outFlag + ".jsonl")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := rec.WriteTo(f); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(*outFlag+".txt", []byte(rec.Diagram(len(rec.Entries))), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("no scenario is called %q", *replayFlag)
}

// The picture of an undisturbed negotiation, and of one whose first datagram is lost.
func TestATraceIsDrawn(t *testing.T) {
	t.Parallel()
	w, a, _ := pair(t, 3, nil, nil)
	rec := w.Record()
	lost := 0
	w.Net.Parted = func(netip.Addr, netip.Addr) bool { lost++; return lost == 1 }
	a.Say(7, "t", "lan")
	w.Run(time.Second)
	quiet := &Recorder{}
	for _, e := range rec.Entries {
		if e.Kind == "log" {
			e.Text, _, _ = strings.Cut(strings.TrimPrefix(e.Text, "INFO "), " tunnel=")
		}
		quiet.Entries = append(quiet.Entries, e)
	}
	got := quiet.Diagram(100)
	if *update {
		if err := os.WriteFile("testdata/diagram.txt", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/diagram.txt")
	if err != nil || string(want) != got {
		t.Errorf("%v\n%s", err, got)
	}
}

func TestASeedAndAScenarioAreAWholeRun(t *testing.T) {
	t.Parallel()
	for _, s := range Scenarios() {
		var traces [2]bytes.Buffer
		for i := range traces {
			var rec *Recorder
			s.Run(7, func(w *World) { rec = w.Record() })
			if _, err := rec.WriteTo(&traces[i]); err != nil {
				t.Fatal(err)
			}
			again, err := ReadTrace(bytes.NewReader(traces[i].Bytes()))
			if err != nil || !slices.Equal(again.Entries, rec.Entries) {
				t.Errorf("%s: the trace reads back as something else: %v", s.Name, err)
			}
		}
		if traces[0].Len() == 0 || !bytes.Equal(traces[0].Bytes(), traces[1].Bytes()) {
			t.Errorf("%s: two runs with one seed differ", s.Name)
		}
	}
}

// Both ends authenticate anew, each on its own clock, and the SA of the one may be what the other replaces. It is no rival of the new
// one: if it were taken for one, both would go.
func TestReauthenticationFromBothEndsLeavesAnSAAtEveryMoment(t *testing.T) {
	t.Parallel()
	for _, s := range Scenarios() {
		if s.Name != "reauth" {
			continue
		}
		for seed := range uint64(12) {
			w := s.Run(seed).World
			for end := w.Now.Add(5 * time.Minute); w.Now.Before(end); {
				w.Run(50 * time.Millisecond)
				for _, h := range w.Hosts {
					if !h.Up("t") {
						t.Fatalf("seed %d: at %v %s has no child: %q", seed, w.Now.Sub(Epoch), h.Name, h.Log)
					}
				}
			}
		}
	}
}
