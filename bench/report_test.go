package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"coati/esp/batch"
)

// sampleReport is what a run of five rounds might find; wireguard-go's third turn failed.
func sampleReport() *Report {
	r := &Report{Machine: Machine{CPU: "a | b", Cores: 2, MHz: 1000, Kernel: "Linux", Go: "go1"}}
	for round := range 5 {
		for _, m := range []string{"tcp-1", "tcp-4"} {
			r.series(m, "TCP "+m, throughput, Coati).add(round, 6+float64(round))
			r.series(m, "TCP "+m, costPerGigabit, Coati).add(round, 250)
			if round != 2 {
				r.series(m, "TCP "+m, throughput, WireGuard).add(round, 3+float64(round)/2)
				r.series(m, "TCP "+m, costPerGigabit, WireGuard).add(round, 500)
			}
		}
		for _, m := range []string{"udp-64", "udp-1400"} {
			r.series(m, m, packetRate, Coati).add(round, 1000)
			r.series(m, m, throughput, Coati).add(round, 2)
			r.series(m, m, costPerPacket, Coati).add(round, 0.8)
		}
		r.series("ping-idle", "round trip", lostPings, Coati).add(round, 1)
		r.series("ike-x25519", "handshake", costPerHandshake, Coati).add(round, 200)
		r.series("ike-x25519", "handshake", costPerHandshake, StrongSwan).add(round, 500)
		r.series("ike-memory", "memory", memoryPerSA, Coati).add(round, 6)
		r.distribution("ping-idle", Coati, []float64{300, 100, 200, 400})
	}
	r.Contenders = []Contender{{Name: Coati, Version: "v0", MTU: 1438, Offloads: []string{"tso", "uso"}, IdleMemory: 12_000_000}}
	sides := func(ours, gos, mb float64) []CryptoSide {
		return []CryptoSide{{Name: "vaes512", Values: []float64{ours, ours, ours}, Median: ours}, {Name: goCalls, Values: []float64{gos, gos, gos}, Median: gos}, {Name: ipsecMB, Values: []float64{mb, mb, mb}, Median: mb}}
	}
	r.Crypto = []CryptoRow{
		{Transform: "aes128gcm16", Direction: "seal", Size: 64, Batch: 32, Sides: sides(2e9, 1e9, 2e9), Ratio: 2},
		{Transform: "aes128gcm16", Direction: "seal", Size: 1408, Batch: 32, Sides: sides(4e9, 2e9, 4e9), Ratio: 2},
	}
	r.Stages = []StageCost{{Stage: "tun read", Share: 0.6, PerGigabit: 60, Samples: 60}, {Stage: "seal", Share: 0.4, PerGigabit: 40, Samples: 40}}
	r.IKE = []IKERow{{Method: "x25519", PerSecond: 3000, Responder: 170, Initiator: 160, Count: 100}}
	r.Finish()
	return r
}

func TestRatiosAreOfTheSameRounds(t *testing.T) {
	t.Parallel()
	r := sampleReport()
	for _, x := range r.Ratios {
		if x.Title == "TCP, one stream" {
			// Both grow with the round, at the same pace: with the third one paired wrongly this would not be 2.
			if x.Ratio != 2 || x.Low != 2 || x.High != 2 || x.Rounds != 4 || !x.Met() || !x.Noisy {
				t.Errorf("%+v", x)
			}
			return
		}
	}
	t.Errorf("no ratio of TCP in %+v", r.Ratios)
}

func TestANoisyRunSaysSo(t *testing.T) {
	t.Parallel()
	r := sampleReport()
	r.Machine.Stolen = 0.1
	r.Notes = nil
	r.Finish()
	if text := strings.Join(r.Notes, "\n"); !strings.Contains(text, "spread more than") || !strings.Contains(text, "hypervisor gave 10.0 %") {
		t.Errorf("notes: %s", text)
	}
}

func TestAims(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		ratio Ratio
		want  bool
	}{
		{Ratio{Ratio: 1.5, AtLeast: 1.5}, true},
		{Ratio{Ratio: 1.4, AtLeast: 1.5}, false},
		{Ratio{Ratio: 0.6, AtMost: 0.6}, true},
		{Ratio{Ratio: 0.7, AtMost: 0.6}, false},
		{Ratio{Ratio: 9}, false},
	} {
		if got := c.ratio.Met(); got != c.want {
			t.Errorf("%+v met: %t", c.ratio, got)
		}
	}
}

func TestDistribution(t *testing.T) {
	t.Parallel()
	d := sampleReport().Distributions[0]
	if d.Count != 20 || d.P50 != 250 || d.P999 != 400 || len(d.Quantiles) != quantileSteps+1 || d.Quantiles[0] != 100 {
		t.Errorf("count %d, p50 %v, p99.9 %v, %d quantiles from %v", d.Count, d.P50, d.P999, len(d.Quantiles), d.Quantiles[0])
	}
}

func TestJSONComesBack(t *testing.T) {
	t.Parallel()
	r := sampleReport()
	var b bytes.Buffer
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(b.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	for i := range r.Distributions {
		r.Distributions[i].all = nil
	}
	if diff := cmp.Diff(r, &back, cmp.AllowUnexported(Distribution{})); diff != "" {
		t.Error(diff)
	}
}

func TestTables(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := sampleReport().WriteTables(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"TCP, one stream", "at least 1.50", "met (noisy)", "8.00 and 4.00 Gbit/s", "0.50", "60.0 %", "x25519", "12.0", "0.40", "at most 0.50", "6.00 KiB"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.String())
		}
	}
}

func TestPageAndPictures(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := sampleReport()
	if err := r.WriteMarkdown(filepath.Join(dir, "page.md")); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(dir, "page.md"))
	if err != nil {
		t.Fatal(err)
	}
	ratios, throughputs := strings.Index(string(page), "## Ratios"), strings.Index(string(page), "## Throughput")
	if ratios < 0 || throughputs < ratios {
		t.Errorf("ratios do not come first:\n%s", page)
	}
	for _, name := range []string{"tcp", "udp", "latency", "cost", "cost-packet", "ike", "stages", "crypto"} {
		picture := "bench-" + name + ".svg"
		text, err := os.ReadFile(filepath.Join(dir, picture))
		if err != nil || !bytes.Contains(text, []byte("<svg")) || !strings.Contains(string(page), "]("+picture+")") {
			t.Errorf("%s is not there, no picture, or not on the page: %v", picture, err)
		}
	}
	for name, magic := range map[string]string{"all.svg": "<?xml", "all.png": "\x89PNG"} {
		path := filepath.Join(dir, name)
		if err := r.WritePlot(path); err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(path); err != nil || !bytes.HasPrefix(text, []byte(magic)) {
			t.Errorf("%s does not begin with %q: %v", name, magic, err)
		}
	}
	if err := r.WritePlot(filepath.Join(dir, "all.gif")); err == nil {
		t.Error("a plot was written as gif")
	}
	if err := (&Report{}).WritePlot(filepath.Join(dir, "none.svg")); err == nil {
		t.Error("a picture of nothing was drawn")
	}
}

func TestEscape(t *testing.T) {
	t.Parallel()
	if got := escape("a|b\n<c>"); got != `a\|b &lt;c>` {
		t.Errorf("%q", got)
	}
}

func TestCryptoSmoke(t *testing.T) {
	t.Parallel()
	r := NewReport()
	o := CryptoOptions{Sizes: []int{64}, Batches: []int{2}, Rounds: 1, Turn: 1}
	if err := Crypto(t.Context(), o, &Progress{W: io.Discard}, r); err != nil {
		t.Fatal(err)
	}
	if want := 2 * len(TransformNames()); len(r.Crypto) != want {
		t.Errorf("%d rows, want %d", len(r.Crypto), want)
	}
	for _, bad := range []CryptoOptions{{Transforms: []string{"rot13"}}, {Sizes: []int{65}}, {Batches: []int{-1}}} {
		if err := Crypto(t.Context(), bad, &Progress{W: io.Discard}, r); err == nil {
			t.Errorf("%+v was measured", bad)
		}
	}
}

// All kernels and Go's calls must do the same work, or their ratios say nothing.
func TestAllSidesSealTheSame(t *testing.T) {
	t.Parallel()
	for _, tr := range transforms {
		gos, err := tr.goKey()
		if err != nil {
			t.Fatal(err)
		}
		for _, kernel := range batch.Kernels() {
			ours, err := tr.kernelKey(kernel)
			if err != nil {
				t.Fatal(err)
			}
			a, b := tr.newBatches(64, 2)[0], tr.newBatches(64, 2)[0]
			ours.Seal(a)
			gos.Seal(b)
			for i := range a {
				if diff := cmp.Diff(a[i].Text[:64+ours.TagLen()], b[i].Text[:64+gos.TagLen()]); diff != "" {
					t.Errorf("%s by %s, job %d:\n%s", tr.name, kernel, i, diff)
				}
			}
			ours.Open(b)
			gos.Open(a)
			if !a[0].OK || !a[1].OK || !b[0].OK || !b[1].OK {
				t.Errorf("%s by %s: what one side sealed the other does not open", tr.name, kernel)
			}
		}
	}
}

func TestCipherRatiosAreOfTheBestKernel(t *testing.T) {
	t.Parallel()
	var got []string
	for _, x := range sampleReport().cipherRatios() {
		got = append(got, fmt.Sprintf("%s: %s to %s %.1f, %v", x.Title, x.Of, x.To, x.Ratio, x.Met()))
	}
	want := []string{
		"aes128gcm16 seal, 1408 octets, batches of 32: vaes512 to libipsec-mb 1.0, true",
		"aes128gcm16 seal, 1408 octets, batches of 32: vaes512 to go 2.0, true",
		"aes128gcm16 seal, 64 octets, batches of 32: vaes512 to libipsec-mb 1.0, false",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestMultiBufferLibraryTakesTurns(t *testing.T) {
	t.Parallel()
	m, err := startMultiBuffer(t.Context())
	if err != nil {
		t.Skip("skipped: ", err)
	}
	defer m.stop()
	for _, tr := range transforms {
		for _, open := range []bool{false, true} {
			if v, known, err := m.rate(tr.name, open, 64, 2, 3, 1); err != nil || !known || v <= 0 {
				t.Errorf("%s: %v octets a second, known %v: %v", tr.name, v, known, err)
			}
		}
	}
	if _, known, err := m.rate("rot13", false, 64, 2, 3, 1); known || err != nil {
		t.Errorf("rot13 is known: %v, %v", known, err)
	}
}

func TestHandshakeComesUpAndGoes(t *testing.T) {
	t.Parallel()
	r := NewReport()
	if err := IKE(t.Context(), IKEOptions{Rounds: 2, Turn: 1}, &Progress{W: io.Discard}, r); err != nil {
		t.Fatal(err)
	}
	for _, row := range r.IKE {
		if row.Count < 2 || row.Responder <= 0 || row.Initiator <= 0 {
			t.Errorf("%+v", row)
		}
	}
	if err := IKE(t.Context(), IKEOptions{Methods: []string{"modp1"}}, &Progress{W: io.Discard}, r); err == nil {
		t.Error("an unknown key exchange was measured")
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	var plain bytes.Buffer
	p := &Progress{W: &plain}
	p.begin("path", 2)
	p.step("one")
	p.step("")
	p.end()
	if got := plain.String(); got != "path   1/2  one\n" {
		t.Errorf("%q", got)
	}
	var drawn bytes.Buffer
	p = &Progress{W: &drawn, Terminal: true}
	p.begin("path", 2)
	p.step("one")
	if !strings.Contains(drawn.String(), "[############------------] 1/2") {
		t.Errorf("%q", drawn.String())
	}
}
