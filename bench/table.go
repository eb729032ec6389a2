package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// sheet is a table that can be shown to a person and written as Markdown.
type sheet struct {
	title  string
	header []string
	rows   [][]string
}

func (s *sheet) add(cells ...string) { s.rows = append(s.rows, cells) }

// widths of the columns, in characters.
func (s *sheet) widths() []int {
	w := make([]int, len(s.header))
	for _, r := range append([][]string{s.header}, s.rows...) {
		for i, c := range r {
			w[i] = max(w[i], utf8.RuneCountInString(c))
		}
	}
	return w
}

func (s *sheet) write(w io.Writer) error {
	widths := s.widths()
	rule := make([]string, len(widths))
	for i, n := range widths {
		rule[i] = strings.Repeat("-", n)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s\n", s.title)
	for _, r := range append([][]string{s.header, rule}, s.rows...) {
		var line strings.Builder
		for i, c := range r {
			line.WriteString(c + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c)+2))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteTables writes the report for people.
func (r *Report) WriteTables(w io.Writer) error {
	m := r.Machine
	if _, err := fmt.Fprintf(w, "%s, %d cores, %.0f MHz; %s; %s; ciphers by %s\n", m.CPU, m.Cores, m.MHz, m.Kernel, m.Go, m.Ciphers); err != nil {
		return err
	}
	for _, s := range r.sheets() {
		if err := s.write(w); err != nil {
			return err
		}
	}
	for _, n := range r.Notes {
		if _, err := fmt.Fprintf(w, "\nnote: %s", n); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(w)
	return err
}

// sheets of all that is in the report, ratios first.
func (r *Report) sheets() []*sheet {
	var out []*sheet
	for _, s := range []*sheet{
		r.ratioSheet(), r.seriesSheet("Throughput of TCP, and what it costs both gateways", throughput, costPerGigabit, "tcp-"),
		r.seriesSheet("Packets of UDP under 1 % loss, and what they cost both gateways", packetRate, costPerPacket, "udp-"),
		r.latencySheet(), r.stageSheet(), r.ikeCostSheet(), r.ikeSheet(), r.cryptoSheet(), r.contenderSheet(),
	} {
		if len(s.rows) > 0 {
			out = append(out, s)
		}
	}
	return out
}

func (r *Report) ratioSheet() *sheet {
	s := &sheet{title: "Ratios", header: []string{"measure", "of", "to", "ratio", "95 % interval", "aim", "", "medians"}}
	for _, x := range r.Ratios {
		aim, verdict := "", ""
		switch {
		case x.AtLeast > 0:
			aim = fmt.Sprintf("at least %.2f", x.AtLeast)
		case x.AtMost > 0:
			aim = fmt.Sprintf("at most %.2f", x.AtMost)
		}
		switch {
		case aim == "":
		case x.Met():
			verdict = "met"
		default:
			verdict = "missed"
		}
		if x.Noisy {
			verdict = strings.TrimSpace(verdict + " (noisy)")
		}
		s.add(x.Title, x.Of, x.To, fmt.Sprintf("%.2f", x.Ratio), fmt.Sprintf("%.2f to %.2f", x.Low, x.High), aim, verdict,
			fmt.Sprintf("%s and %s %s", number(x.OfMedian), number(x.ToMedian), x.Unit))
	}
	return s
}

// number shows three digits that matter.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func (r *Report) seriesSheet(title, metric, cost, measures string) *sheet {
	s := &sheet{title: title, header: []string{"measure", "contender", "median, " + units[metric], "spread", "range", cost + ", " + units[cost], "turns"}}
	for _, x := range r.Series {
		if x.Metric != metric || !strings.HasPrefix(x.Measure, measures) {
			continue
		}
		paid := "-"
		if c := r.find(x.Measure, cost, x.Contender); c != nil {
			paid = number(c.Median)
		}
		s.add(x.Title, x.Contender, number(x.Median), fmt.Sprintf("%.0f %%", x.Spread*100),
			number(slices.Min(x.Values))+" to "+number(slices.Max(x.Values)), paid, fmt.Sprint(len(x.Values)))
	}
	s.byMeasure()
	return s
}

func (r *Report) latencySheet() *sheet {
	s := &sheet{title: "Round trips of 56 octets of UDP, µs", header: []string{"measure", "contender", "p50", "p99", "p99.9", "round trips", "lost"}}
	for _, d := range r.Distributions {
		title, lost := d.Measure, 0.0
		if x := r.find(d.Measure, lostPings, d.Contender); x != nil {
			title = x.Title
			for _, v := range x.Values {
				lost += v
			}
		}
		s.add(title, d.Contender, number(d.P50), number(d.P99), number(d.P999), fmt.Sprint(d.Count), fmt.Sprintf("%.0f", lost))
	}
	s.byMeasure()
	return s
}

func (r *Report) stageSheet() *sheet {
	s := &sheet{title: "Where the processor time of both gateways goes: one TCP stream, ESP in UDP", header: []string{"stage", "share", "ms per gigabit", "samples"}}
	for _, x := range r.Stages {
		s.add(x.Stage, fmt.Sprintf("%.1f %%", x.Share*100), number(x.PerGigabit), fmt.Sprint(x.Samples))
	}
	return s
}

// byMeasure brings rows of one measure together, measures in the order in which they were first seen.
func (s *sheet) byMeasure() {
	var order []string
	for _, r := range s.rows {
		if !slices.Contains(order, r[0]) {
			order = append(order, r[0])
		}
	}
	slices.SortStableFunc(s.rows, func(a, b []string) int { return slices.Index(order, a[0]) - slices.Index(order, b[0]) })
}

func (r *Report) ikeCostSheet() *sheet {
	s := &sheet{title: "IKE: what it costs the daemon that answers", header: []string{"measure", "contender", "median", "spread", "range", "turns"}}
	for _, x := range r.Series {
		if strings.HasPrefix(x.Measure, "ike-") {
			s.add(x.Title, x.Contender, number(x.Median)+" "+x.Unit, fmt.Sprintf("%.0f %%", x.Spread*100),
				number(slices.Min(x.Values))+" to "+number(slices.Max(x.Values)), fmt.Sprint(len(x.Values)))
		}
	}
	s.byMeasure()
	return s
}

func (r *Report) ikeSheet() *sheet {
	s := &sheet{title: "Handshakes: IKE_SA_INIT and IKE_AUTH with one child, both ends on one core, no network", header: []string{
		"key exchange", "handshakes/s", "spread", "responder, µs", "initiator, µs", "handshakes",
	}}
	for _, x := range r.IKE {
		s.add(x.Method, number(x.PerSecond), fmt.Sprintf("%.0f %%", x.Spread*100), number(x.Responder), number(x.Initiator), fmt.Sprint(x.Count))
	}
	return s
}

// cryptoSheet has a column for each side that took part anywhere.
func (r *Report) cryptoSheet() *sheet {
	s := &sheet{title: "Ciphers on one core: GB/s, and cycles an octet", header: []string{"transform", "", "octets", "batch"}}
	var sides []string
	for _, x := range r.Crypto {
		for _, side := range x.Sides {
			if !slices.Contains(sides, side.Name) {
				sides = append(sides, side.Name)
			}
		}
	}
	s.header = append(append(s.header, sides...), "best to Go's calls", "95 % interval")
	for _, x := range r.Crypto {
		cells := []string{x.Transform, x.Direction, fmt.Sprint(x.Size), fmt.Sprint(x.Batch)}
		for _, name := range sides {
			if side := x.side(name); side != nil {
				cells = append(cells, fmt.Sprintf("%.2f, %.2f", side.Median/1e9, side.Cycles(r.Machine.MHz)))
			} else {
				cells = append(cells, "-")
			}
		}
		s.add(append(cells, fmt.Sprintf("%.2f", x.Ratio), fmt.Sprintf("%.2f to %.2f", x.Low, x.High))...)
	}
	return s
}

func (r *Report) contenderSheet() *sheet {
	s := &sheet{title: "Contenders", header: []string{"name", "version", "command", "cipher", "carrier", "MTU", "offloads", "idle memory, MB"}}
	for _, c := range r.Contenders {
		memory, mtu := "-", "-"
		if c.IdleMemory > 0 {
			memory = fmt.Sprintf("%.1f", float64(c.IdleMemory)/1e6)
		}
		if c.MTU > 0 {
			mtu = fmt.Sprint(c.MTU)
		}
		s.add(c.Name, c.Version, c.Command, c.Cipher, c.Carrier, mtu, strings.Join(c.Offloads, ", "), memory)
	}
	return s
}
