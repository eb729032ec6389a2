package sim

import (
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"coati/ike"
	"coati/policy"
)

var (
	seedsFlag  = flag.Uint64("sim.seeds", 0, "how many seeds TestSoak runs, spread over the scenarios; 0: none")
	firstFlag  = flag.Uint64("sim.first", 0, "the first seed of TestSoak, the seed of TestReplay")
	forFlag    = flag.Duration("sim.for", 0, "after how long TestSoak stops early and writes what it ran; 0: never")
	outFlag    = flag.String("sim.out", "", "where TestSoak or TestReplay writes its result; empty: nowhere")
	replayFlag = flag.String("sim.replay", "", "the scenario whose seed -sim.first TestReplay runs")
	pairsFlag  = flag.Int("sim.pairs", 0, "how many pairs of gateways TestThousandsOfGateways runs; 0: few")
)

// TestSoak runs seeds by the thousand and writes down what it ran:
//
//	go test ./ike/sim -run TestSoak -timeout 1h -sim.seeds=10000 -sim.out=$PWD/docs/soak.md
func TestSoak(t *testing.T) {
	if *seedsFlag == 0 {
		t.Skip("a soak was not asked for: see -sim.seeds")
	}
	began := time.Now()
	commit, err := exec.Command("git", "log", "-1", "--format=%h", "--", "..").Output()
	if err != nil {
		commit = []byte("unknown")
	}
	all := Scenarios()
	runs, failed, sequences := map[string]int{}, []string{}, map[[3]string]int{}
	var simulated time.Duration
	seed := *firstFlag
	for ; seed < *firstFlag+*seedsFlag && (*forFlag == 0 || time.Since(began) < *forFlag); seed++ {
		s := all[seed%uint64(len(all))]
		r := s.Run(seed)
		runs[s.Name]++
		simulated += r.World.Now.Sub(Epoch)
		for k, n := range r.World.Sequences {
			sequences[k] += n
		}
		for _, err := range r.Faults {
			line := fmt.Sprintf("%s, seed %d: %v", s.Name, seed, err)
			failed = append(failed, line)
			t.Error(line)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Soak of the IKE simulations\n\nWritten by `go test ./ike/sim -run TestSoak -sim.seeds=%d -sim.first=%d -sim.out=FILE`.\n\n", *seedsFlag, *firstFlag)
	fmt.Fprintf(&b, "| | |\n|---|---|\n| commit | %s |\n| seeds | %d to %d |\n| faults | %d |\n| simulated time | %v |\n| took | %v, %s, one goroutine |\n| sequences covered | %d chains of three transitions at one host |\n\n",
		strings.TrimSpace(string(commit)), *firstFlag, seed-1, len(failed), simulated.Round(time.Second), time.Since(began).Round(time.Second), runtime.Version(), len(sequences))
	b.WriteString("| scenario | runs | |\n|---|---|---|\n")
	for _, s := range all {
		fmt.Fprintf(&b, "| %s | %d | %s |\n", s.Name, runs[s.Name], s.About)
	}
	for _, f := range failed {
		fmt.Fprintf(&b, "\n- %s", f)
	}
	b.WriteString("\nThe sequences, and how often each was seen:\n\n```\n")
	keys := slices.SortedFunc(maps.Keys(sequences), func(x, y [3]string) int {
		return strings.Compare(strings.Join(x[:], "\x00"), strings.Join(y[:], "\x00"))
	})
	for _, k := range keys {
		fmt.Fprintf(&b, "%9d  %s\n", sequences[k], strings.Trim(strings.Join(k[:], " > "), " >"))
	}
	b.WriteString("```\n")
	if *outFlag != "" {
		if err := os.WriteFile(*outFlag, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Hundreds of pairs share one world and one clock; -sim.pairs=5000 makes it ten thousand gateways. The time is simulated.
func TestThousandsOfGateways(t *testing.T) {
	t.Parallel()
	s := Scenarios()[0]
	s.Name, s.Pairs, s.Chaos, s.Every = "many", 150, 3*time.Minute, 40*time.Second
	if *pairsFlag > 0 {
		s.Pairs, s.Chaos, s.Every = *pairsFlag, time.Hour, 10*time.Minute
	}
	s.Talk = 10 * time.Second
	r := s.Run(1)
	for _, err := range r.Faults {
		t.Error(err)
	}
	used := map[string]bool{}
	for _, p := range r.Pairs {
		for _, h := range []*Host{p.A, p.B} {
			for _, sa := range h.Plane.SAs {
				k := fmt.Sprint(sa.Direction, h.Addr, sa.SPI)
				if used[k] {
					t.Errorf("%s has two SAs %v", h.Name, sa.SPI)
				}
				used[k] = true
			}
		}
	}
}

// A flood of first requests from addresses that do not exist, ten thousand a second, leaves a live SA's rekey alone. With
// the bounds on unauthenticated work taken out it would wait behind the flood, which shows that the simulation sees it.
func TestAFloodDoesNotDelayALiveRekey(t *testing.T) {
	t.Parallel()
	for _, bounded := range []bool{true, false} {
		w, a, b := pair(t, 21, nil, nil)
		if !bounded {
			b.Limits.HalfOpenCookie, b.Limits.HalfOpenJobs, b.Limits.HalfOpenMax = 1<<30, 1<<30, 1<<30
			b.Restart()
		}
		var first Datagram
		w.Net.Tap = func(d Datagram) bool {
			if first.Bytes == nil && d.ESP == nil {
				first = d
			}
			return true
		}
		b.Configure(append(b.tunnels, tunnelTo("192.0.2.9", "10.2.0.0/16", "10.3.0.0/16", func(t *policy.PeerTunnel) { t.Name, t.Remote, t.Start = "anybody", netip.Addr{}, policy.StartListen }))...)
		a.Command(ike.Up, "t", "")
		w.Run(time.Second)
		if !a.Up("t") {
			t.Fatalf("not up: %q %q", a.Log, b.Log)
		}
		n := 100000
		if !bounded {
			n = 5000
		}
		w.After(0, func() { w.Flood(first, n, time.Duration(n)*100*time.Microsecond) })
		w.Run(time.Duration(n) * 50 * time.Microsecond)
		began := w.Now
		id := b.Command(ike.Rekey, "t", "")
		if w.RunUntil(time.Minute, func() bool { _, ok := b.Replies[id]; return ok }); b.Replies[id] != nil {
			t.Errorf("bounded %v: the rekey fails: %v", bounded, b.Replies[id])
		}
		took := w.Now.Sub(began)
		if bounded != (took < 300*time.Millisecond) {
			t.Errorf("bounded %v: the rekey took %v", bounded, took)
		}
		if st := b.Engine.Stats; bounded && len(b.Log) > 400 {
			t.Errorf("the flood made %d lines of log (%+v)", len(b.Log), st)
		}
		w.Run(time.Minute)
		noFaults(t, w)
	}
}
