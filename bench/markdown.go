package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const preface = `# Benchmarks

` + "`make bench`" + ` writes this page from a real run; do not edit it. All contenders ran on one machine, both gateways and both ends of the
traffic on the same cores, each on a pair of hosts (network namespaces) of its own joined by a veth link, and took turns: A B A B. What a busy
machine does to one it does to the others, so the ratios come first, each with the 95 % bootstrap interval of its rounds.

- TCP is iperf3's payload after half a second of warm-up. UDP is the highest rate found that loses less than 1 % of the packets, from a generator that
  hands the kernel up to 64 packets of one flow in a call (UDP_SEGMENT); "one by one" means 16 flows without that. Sizes are of the inner IPv4 packet.
- Processor time is that of both gateways together, user and kernel.
- Round trips are of 56 octets of UDP, one each 2 ms.
- coati-null is Coati with the cipher left out, a ceiling and nothing else; coati-raw is Coati on protocol 50 without UDP; bare is the veth link without a tunnel.
- Time by stage is of one stream through a pair of gateways of its own, whose runtime samples their stacks, system calls included. For
  functions of the kernel, while one contender runs alone (the bench prints the numbers of the gateways' processes):
  ` + "`coati bench path --contender coati --measure tcp-1 --rounds 1 --seconds 30`" + ` and ` + "`perf record -F 999 -g -p PID,PID -- sleep 10`" + `.
- What IKE costs a daemon is measured beside strongSwan: both answer the same callers, initiators of Coati's engine on real sockets, each with an
  address and an identity of its own and ESP in userspace, in turns; the processor time, user and kernel, is that of the daemon alone. strongswan-ike
  refuses the child, so that its ESP and its kernel's part cost nothing. strongswan-no-kernel, where COATI_BENCH_CHARON names the charon of
  a strongSwan with the plugin load-tester, makes the child and has a kernel that does nothing, while ours does its whole work. Memory is of SAs that stay: of strongSwan what the resident memory grows by, of
  Coati the heap in use for IKE's part; coati-esp is the heap of the child's two ESP SAs, coati-daemon what the whole daemon grows by, with what the
  collector has not yet taken. Loading takes from the start of ` + "`coati run`" + `, or of ` + "`swanctl --load-all`" + ` with charon running, until all is there; each tunnel
  has its own secret.
- Ciphers, and handshakes without a network, are measured in processor time of one thread, so that other work on the machine does not count. Ciphers work on half a
  megabyte of packets, each with 8 octets of head (CBC: 24); "go" is Go's own cipher called packet by packet, generic and aesni are the same behind our interface
  (with AES instructions too: Go looks for them itself), libipsec-mb is Intel's multi-buffer library (GCM by single calls, the rest by its job interface; it
  opens without comparing tags). COATI_CPU leaves one kernel of ours. Their best kernel is what the ratios are of.
- Spread is the distance between the quartiles as a part of the median. Cycles are of the clock that /proc/cpuinfo names.
`

// WriteMarkdown writes the report as a page, and its pictures beside it as bench-NAME.svg.
func (r *Report) WriteMarkdown(path string) error {
	pictures, err := r.pictures()
	if err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString(preface)
	m := r.Machine
	fmt.Fprintf(&b, "\n%s; %s, %d cores, %.0f MHz; %s; %s; Coati's ciphers by %s. Load average before the run %.2f; %.1f %% of the time went to other machines.\n",
		r.Time.Format("2 January 2006, 15:04 UTC"), m.CPU, m.Cores, m.MHz, m.Kernel, m.Go, m.Ciphers, m.Load, m.Stolen*100)
	if len(r.Notes) > 0 {
		b.WriteString("\n")
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "- **Note:** %s\n", escape(n))
	}
	for i, s := range r.sheets() {
		s.markdown(&b)
		if i > 0 {
			continue
		}
		for _, p := range pictures {
			name := "bench-" + p.name + ".svg"
			if err := p.plot.Save(plotWidth, plotHeight, filepath.Join(filepath.Dir(path), name)); err != nil {
				return err
			}
			fmt.Fprintf(&b, "\n![%s](%s)\n", p.title, name)
		}
	}
	return os.WriteFile(path, []byte(b.String()), 0o644)
}

func (s *sheet) markdown(b *strings.Builder) {
	fmt.Fprintf(b, "\n## %s\n\n", s.title)
	line := func(cells []string) {
		for _, c := range cells {
			b.WriteString("| " + escape(c) + " ")
		}
		b.WriteString("|\n")
	}
	line(s.header)
	b.WriteString(strings.Repeat("|---", len(s.header)) + "|\n")
	for _, r := range s.rows {
		line(r)
	}
}

// escape keeps a text in its cell.
func escape(s string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ", "<", "&lt;").Replace(s)
}
