package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"coati/esp/batch"
)

// ChoiceError says that something was chosen that there is not.
type ChoiceError struct{ Kind, Value, Want string }

func (e *ChoiceError) Error() string {
	return fmt.Sprintf("%s %q cannot be chosen: want %s", e.Kind, e.Value, e.Want)
}

func unknown(kind, value string, among []string) error {
	return &ChoiceError{kind, value, "one of " + strings.Join(among, ", ")}
}

// Report is what a run found out.
type Report struct {
	Time          time.Time      `json:"time"`
	Machine       Machine        `json:"machine"`
	Contenders    []Contender    `json:"contenders,omitempty"`
	Ratios        []Ratio        `json:"ratios,omitempty"`
	Series        []*Series      `json:"series,omitempty"`
	Distributions []Distribution `json:"distributions,omitempty"`
	Crypto        []CryptoRow    `json:"crypto,omitempty"`
	IKE           []IKERow       `json:"ike,omitempty"`
	Stages        []StageCost    `json:"stages,omitempty"`
	Failures      []string       `json:"failures,omitempty"` // turns that failed, each with its reason
	Notes         []string       `json:"notes,omitempty"`
}

// Machine is where it ran.
type Machine struct {
	CPU    string  `json:"cpu"`
	Cores  int     `json:"cores"`
	MHz    float64 `json:"mhz"`
	Kernel string  `json:"kernel"`
	Go     string  `json:"go"`
	// Load is the load average of the minute before; Stolen the share of time the hypervisor gave to others.
	Load   float64 `json:"load"`
	Stolen float64 `json:"stolen"`
	// Ciphers is the kernel of esp/batch: by what instructions Coati seals and opens.
	Ciphers string `json:"ciphers"`
	// Nice is the priority of the run and of all it started; 0 is usual.
	Nice int `json:"nice"`
}

// Series is one metric of one contender in one measure, a value for each round.
type Series struct {
	Measure   string    `json:"measure"`
	Title     string    `json:"title"`
	Metric    string    `json:"metric"`
	Unit      string    `json:"unit"`
	Contender string    `json:"contender"`
	Rounds    []int     `json:"rounds"` // the round of each value: a turn that failed has none
	Values    []float64 `json:"values"`
	Median    float64   `json:"median"`
	Spread    float64   `json:"spread"` // between the quartiles, as a part of the median
}

func (s *Series) add(round int, v float64) {
	s.Rounds, s.Values = append(s.Rounds, round), append(s.Values, v)
	s.Median, s.Spread = median(s.Values), spread(s.Values)
}

// paired returns the values of the rounds in which both have one.
func (s *Series) paired(t *Series) (of, to []float64) {
	for i, round := range s.Rounds {
		if k := slices.Index(t.Rounds, round); k >= 0 {
			of, to = append(of, s.Values[i]), append(to, t.Values[k])
		}
	}
	return of, to
}

// Distribution is all round trips of a contender in a measure, in microseconds, at even steps of their order.
type Distribution struct {
	Measure   string    `json:"measure"`
	Contender string    `json:"contender"`
	Count     int       `json:"count"`
	P50       float64   `json:"p50"`
	P99       float64   `json:"p99"`
	P999      float64   `json:"p99_9"`
	Quantiles []float64 `json:"quantiles"`

	all []float64
}

// Ratio compares a contender with another in the same run.
type Ratio struct {
	Title    string  `json:"title"`
	Of       string  `json:"of"`
	To       string  `json:"to"`
	Ratio    float64 `json:"ratio"`
	Low      float64 `json:"low"` // of the 95 % interval
	High     float64 `json:"high"`
	Rounds   int     `json:"rounds"`
	OfMedian float64 `json:"of_median"`
	ToMedian float64 `json:"to_median"`
	Unit     string  `json:"unit"`
	AtLeast  float64 `json:"at_least,omitempty"` // what we want
	AtMost   float64 `json:"at_most,omitempty"`
	Noisy    bool    `json:"noisy"`
}

// Met says that the ratio is what we want it to be.
func (r Ratio) Met() bool {
	return r.AtMost > 0 && r.Ratio <= r.AtMost || r.AtLeast > 0 && r.Ratio >= r.AtLeast
}

// wanted are the ratios that matter, and what they should be; zero: no aim.
var wanted = []struct {
	title, measure, metric, of, to string
	atLeast, atMost                float64
}{
	{"TCP, one stream", "tcp-1", throughput, Coati, WireGuard, 1.5, 0},
	{"TCP, 4 streams", "tcp-4", throughput, Coati, WireGuard, 1.5, 0},
	{"TCP, 16 streams", "tcp-16", throughput, Coati, WireGuard, 0, 0},
	{"TCP, one stream each way", "tcp-both", throughput, Coati, WireGuard, 0, 0},
	{"TCP, one stream, cipher left out", "tcp-1", throughput, CoatiNull, WireGuard, 2.2, 0},
	{"TCP, one stream, same cipher", "tcp-1", throughput, Coati, StrongSwan, 8, 0},
	{"TCP, one stream, protocol 50 beside UDP", "tcp-1", throughput, CoatiRaw, Coati, 0.35, 0},
	{"UDP, 64 octets, packets under 1 % loss", "udp-64", packetRate, Coati, WireGuard, 1.3, 0},
	{"UDP, 64 octets, 16 flows, one by one", "udp-64-flows", packetRate, Coati, WireGuard, 0, 0},
	{"UDP, 512 octets, packets under 1 % loss", "udp-512", packetRate, Coati, WireGuard, 0, 0},
	{"UDP, 1,400 octets, packets under 1 % loss", "udp-1400", packetRate, Coati, WireGuard, 0, 0},
	{"UDP, IMIX, packets under 1 % loss", "udp-imix", packetRate, Coati, WireGuard, 0, 0},
	{"processor time per gigabit of TCP", "tcp-1", costPerGigabit, Coati, WireGuard, 0, 0.6},
	{"processor time per 64-octet packet", "udp-64", costPerPacket, Coati, WireGuard, 0, 0.8},
	{"processor time per 64-octet packet, one by one", "udp-64-flows", costPerPacket, Coati, WireGuard, 0, 0},
	{"round trip, idle link, p50", "ping-idle", p50, Coati, WireGuard, 0, 1.05},
	{"round trip, idle link, p99", "ping-idle", p99, Coati, WireGuard, 0, 1.25},
	{"round trip beside a TCP stream, p50", "ping-loaded", p50, Coati, WireGuard, 0, 0},
	{"round trip beside a TCP stream, p99", "ping-loaded", p99, Coati, WireGuard, 0, 0},
	{"handshake with PSK, X25519: the responder's processor time", "ike-x25519", costPerHandshake, Coati, StrongSwan, 0, 0.5},
	{"the same, beside IKE alone", "ike-x25519", costPerHandshake, Coati, StrongSwanIKE, 0, 0},
	{"the same, beside a kernel that does nothing", "ike-x25519", costPerHandshake, Coati, StrongSwanNoKernel, 0, 0.5},
	{"handshake with PSK, MODP-2048: the responder's processor time", "ike-modp2048", costPerHandshake, Coati, StrongSwan, 0, 0.5},
	{"the same, beside IKE alone", "ike-modp2048", costPerHandshake, Coati, StrongSwanIKE, 0, 0},
	{"the same, beside a kernel that does nothing", "ike-modp2048", costPerHandshake, Coati, StrongSwanNoKernel, 0, 0.5},
	{"handshake with ECDSA certificates on P-256, X25519: the responder's processor time", "ike-x25519-ecdsa", costPerHandshake, Coati, StrongSwan, 0, 0},
	{"the same, beside IKE alone", "ike-x25519-ecdsa", costPerHandshake, Coati, StrongSwanIKE, 0, 0},
	{"the same, beside a kernel that does nothing", "ike-x25519-ecdsa", costPerHandshake, Coati, StrongSwanNoKernel, 0, 0.4},
	{"handshake with RSA certificates of 2048 bits, X25519: the responder's processor time", "ike-x25519-rsa", costPerHandshake, Coati, StrongSwan, 0, 0},
	{"the same, beside IKE alone", "ike-x25519-rsa", costPerHandshake, Coati, StrongSwanIKE, 0, 0},
	{"the same, beside a kernel that does nothing", "ike-x25519-rsa", costPerHandshake, Coati, StrongSwanNoKernel, 0, 1.1},
	{"heap per IKE SA with child, beside resident memory", "ike-memory", memoryPerSA, Coati, StrongSwan, 0, 0.6},
	{"the same, beside IKE alone", "ike-memory", memoryPerSA, Coati, StrongSwanIKE, 0, 0},
	{"the same, beside a kernel that does nothing", "ike-memory", memoryPerSA, Coati, StrongSwanNoKernel, 0, 0.6},
	{"resident memory per IKE SA with child and ESP", "ike-memory", memoryPerSA, CoatiDaemon, StrongSwan, 0, 0},
	{"load of many tunnels", "ike-load", loadTime, Coati, StrongSwan, 0, 0.1},
	{"reload of the same tunnels", "ike-reload", loadTime, Coati, StrongSwan, 0, 0.1},
}

// NewReport describes the machine.
func NewReport() *Report {
	m := Machine{Cores: runtime.NumCPU(), Go: runtime.Version(), Load: loadAverage()}
	text, _ := os.ReadFile("/proc/cpuinfo")
	m.CPU, m.MHz = parseCPUInfo(string(text))
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Machine[:])
	}
	m.Ciphers, _ = batch.Kernel()
	// The system call says 20 less nice.
	if p, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err == nil {
		m.Nice = 20 - p
	}
	r := &Report{Time: time.Now().UTC(), Machine: m}
	if m.Nice != 0 {
		r.note("the run and all its contenders had nice value %d", m.Nice)
	}
	if m.Load > 0.3*float64(m.Cores) {
		r.note("the machine was busy before the run: load average %.2f on %d cores", m.Load, m.Cores)
	}
	return r
}

func parseCPUInfo(text string) (model string, mhz float64) {
	for line := range strings.SplitSeq(text, "\n") {
		key, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(key) {
		case "model name":
			model = strings.TrimSpace(value)
		case "cpu MHz":
			mhz, _ = strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return model, mhz
}

func (r *Report) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

func (r *Report) find(measure, metric, contender string) *Series {
	for _, s := range r.Series {
		if s.Measure == measure && s.Metric == metric && s.Contender == contender {
			return s
		}
	}
	return nil
}

func (r *Report) series(measure, title, metric, contender string) *Series {
	s := r.find(measure, metric, contender)
	if s == nil {
		s = &Series{Measure: measure, Title: title, Metric: metric, Unit: units[metric], Contender: contender}
		r.Series = append(r.Series, s)
	}
	return s
}

func (r *Report) distribution(measure, contender string, rtts []float64) {
	at := slices.IndexFunc(r.Distributions, func(d Distribution) bool { return d.Measure == measure && d.Contender == contender })
	if at < 0 {
		at = len(r.Distributions)
		r.Distributions = append(r.Distributions, Distribution{Measure: measure, Contender: contender})
	}
	r.Distributions[at].all = append(r.Distributions[at].all, rtts...)
}

// quantileSteps of a distribution are kept: 0, 0.1 %, ... 100 %.
const quantileSteps = 1000

// Finish computes what depends on all samples.
func (r *Report) Finish() {
	for i := range r.Distributions {
		d := &r.Distributions[i]
		slices.Sort(d.all)
		d.Count, d.P50, d.P99, d.P999 = len(d.all), sortedQuantile(d.all, 0.5), sortedQuantile(d.all, 0.99), sortedQuantile(d.all, 0.999)
		d.Quantiles = d.Quantiles[:0]
		for step := range quantileSteps + 1 {
			d.Quantiles = append(d.Quantiles, sortedQuantile(d.all, float64(step)/quantileSteps))
		}
	}
	r.Ratios = r.Ratios[:0]
	for _, w := range wanted {
		of, to := r.find(w.measure, w.metric, w.of), r.find(w.measure, w.metric, w.to)
		if of == nil || to == nil {
			continue
		}
		a, b := of.paired(to)
		if len(a) == 0 {
			continue
		}
		x := Ratio{
			Title: w.title, Of: w.of, To: w.to, Rounds: len(a), OfMedian: of.Median, ToMedian: to.Median,
			Unit: of.Unit, AtLeast: w.atLeast, AtMost: w.atMost,
		}
		x.Ratio, x.Low, x.High = ratioOf(a, b)
		x.Noisy = x.Rounds < fewRounds || (x.High-x.Low)/x.Ratio > noisyInterval || max(of.Spread, to.Spread) > noisySpread
		r.Ratios = append(r.Ratios, x)
	}
	r.Ratios = append(r.Ratios, r.cipherRatios()...)
	noisy := 0
	for _, x := range r.Ratios {
		if x.Noisy {
			noisy++
		}
	}
	if noisy > 0 {
		r.note("noisy: %d of %d ratios spread more than %.0f %%, have an interval wider than %.0f %%, or come from fewer than %d rounds; run again on a quiet machine, or with more rounds",
			noisy, len(r.Ratios), noisySpread*100, noisyInterval*100, fewRounds)
	}
	if r.Machine.Stolen > 0.02 {
		r.note("noisy: the hypervisor gave %.1f %% of the processors' time to others", r.Machine.Stolen*100)
	}
}

// Empty says that nothing was measured.
func (r *Report) Empty() bool { return len(r.Series)+len(r.Crypto)+len(r.IKE) == 0 }

// WriteJSON writes the report for machines.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}
