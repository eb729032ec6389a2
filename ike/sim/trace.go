package sim

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"coati/ike/wire"
)

// Entry is one thing that happened. A seed and a scenario give the same entries every time.
type Entry struct {
	At   time.Duration `json:"at"`             // since Epoch
	Kind string        `json:"kind"`           // sent, got, lost, nobody, forged, or log
	Host string        `json:"host,omitempty"` // of a log line
	From string        `json:"from,omitempty"` // host, or address if it is none's
	To   string        `json:"to,omitempty"`
	Text string        `json:"text"`
}

func (e Entry) String() string {
	if e.Kind == "log" {
		return fmt.Sprintf("%10.3fs %-6s %s", e.At.Seconds(), e.Host, e.Text)
	}
	return fmt.Sprintf("%10.3fs %-6s %s -> %s %s", e.At.Seconds(), e.Kind, e.From, e.To, e.Text)
}

// Recorder keeps a trace.
type Recorder struct{ Entries []Entry }

// Record begins the recording of a world.
func (w *World) Record() *Recorder {
	r := &Recorder{}
	w.Trace = func(e Entry) { r.Entries = append(r.Entries, e) }
	return r
}

// WriteTo writes one line of JSON per entry.
func (r *Recorder) WriteTo(out io.Writer) (int64, error) {
	var n int64
	for _, e := range r.Entries {
		b, err := json.Marshal(e)
		if err != nil {
			return n, err
		}
		m, err := out.Write(append(b, '\n'))
		n += int64(m)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// ReadTrace reads what WriteTo wrote.
func ReadTrace(in io.Reader) (*Recorder, error) {
	r := &Recorder{}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e Entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("line %d: %w", len(r.Entries)+1, err)
		}
		r.Entries = append(r.Entries, e)
	}
	return r, lines.Err()
}

func (w *World) nameOf(a netip.AddrPort) string {
	if n := w.nats[a.Addr()]; n != nil && n.Outside == a.Addr() {
		a = n.back[a.Port()]
	}
	if h := w.byAddr[a.Addr()]; h != nil {
		return h.Name
	}
	return a.String()
}

func (w *World) traceDatagram(kind string, d Datagram) {
	if w.Trace != nil {
		w.Trace(Entry{At: w.Now.Sub(Epoch), Kind: kind, From: w.nameOf(d.From), To: w.nameOf(d.To), Text: describe(d)})
	}
}

func (w *World) traceLine(h *Host, line string) {
	if w.Trace != nil {
		w.Trace(Entry{At: w.Now.Sub(Epoch), Kind: "log", Host: h.Name, Text: line})
	}
}

// describe is a datagram as it looks from outside.
func describe(d Datagram) string {
	if d.ESP != nil {
		return fmt.Sprintf("ESP %v packet %d", d.ESP.spi, d.ESP.number)
	}
	h, err := wire.ParseHeader(d.Bytes)
	if err != nil {
		return fmt.Sprintf("%d octets of noise", len(d.Bytes))
	}
	what := "request"
	if h.Flags&wire.FlagResponse != 0 {
		what = "response"
	}
	return fmt.Sprintf("%s %s %d, %d octets", h.Exchange, what, h.MessageID, len(d.Bytes))
}

// Diagram draws the datagrams that left and what became of them, a column per host, the earliest entries first, at most
// max lines. Log lines stand beside their host.
func (r *Recorder) Diagram(max int) string {
	var hosts []string
	for _, e := range r.Entries {
		for _, n := range []string{e.Host, e.From, e.To} {
			if n = column(n); n != "" && !slices.Contains(hosts, n) {
				hosts = append(hosts, n)
			}
		}
	}
	slices.Sort(hosts)
	const wide = 48
	var b strings.Builder
	fmt.Fprintf(&b, "%10s", "")
	for _, h := range hosts {
		fmt.Fprintf(&b, "  %-*s", wide-2, h)
	}
	b.WriteByte('\n')
	lines := 0
	for _, e := range r.Entries {
		if e.Kind == "sent" {
			continue // it is drawn when it arrives or is lost
		}
		if lines++; lines > max {
			fmt.Fprintf(&b, "%10s  ... %d entries in all\n", "", len(r.Entries))
			break
		}
		row := []rune(strings.Repeat("|"+strings.Repeat(" ", wide-1), len(hosts)))
		if e.Kind == "log" {
			at := slices.Index(hosts, e.Host) * wide
			row = append(row[:at], []rune("* "+e.Text)...)
		} else {
			arrow(row, slices.Index(hosts, column(e.From))*wide, slices.Index(hosts, column(e.To))*wide, e)
		}
		fmt.Fprintf(&b, "%9.3fs  %s\n", e.At.Seconds(), strings.TrimRight(string(row), " "))
	}
	return b.String()
}

// column is a host's own; all addresses that are no host's share one.
func column(name string) string {
	if strings.Contains(name, ":") {
		return "elsewhere"
	}
	return name
}

// arrow draws from one column to another, with the text on it. A lost datagram ends in an x half way.
func arrow(row []rune, from, to int, e Entry) {
	lo, hi, head := from, to, '>'
	if to < from {
		lo, hi, head = to, from, '<'
	}
	for i := lo + 1; i < hi; i++ {
		row[i] = '-'
	}
	tip := hi - 1
	if head == '<' {
		tip = lo + 1
	}
	if tip <= lo || tip >= hi {
		return
	}
	switch e.Kind {
	case "lost", "nobody":
		head = 'x'
	case "forged":
		head = '!'
	}
	row[tip] = head
	for i, c := range []rune(" " + e.Text + " ") {
		if at := lo + 3 + i; at < hi-3 {
			row[at] = c
		}
	}
}
