package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// PathOptions chooses what a path run measures. Empty lists mean the usual.
type PathOptions struct {
	Contenders []string
	Measures   []string
	Rounds     int // every contender's turns
	Seconds    int // of one TCP stream or row of pings
	Quick      bool
}

const (
	usualRounds  = 7
	quickRounds  = 5
	usualSeconds = 2
	udpTrial     = 300 * time.Millisecond
)

// Metrics of a sample.
const (
	throughput     = "throughput"
	packetRate     = "packet rate"
	costPerGigabit = "cost per gigabit"
	costPerPacket  = "cost per packet"
	p50            = "p50"
	p99            = "p99"
	p999           = "p99.9"
	lostPings      = "lost pings"
)

var units = map[string]string{
	throughput: "Gbit/s", packetRate: "1000/s", costPerGigabit: "ms", costPerPacket: "µs", p50: "µs", p99: "µs", p999: "µs", lostPings: "",
	costPerHandshake: "µs", memoryPerSA: "KiB", loadTime: "s",
}

// sample is one turn of one contender in one measure.
type sample map[string]float64

// measure is one thing to find out about every contender.
type measure struct {
	name, title string
	metric      string // the one that matters most
	contenders  []string
	quick       bool
	take        func(ctx context.Context, c *contender, seconds int) (sample, []float64, error)
}

var allContenders = []string{Coati, WireGuard, StrongSwan, CoatiNull, CoatiRaw, Bare}

func tcpMeasure(name, title string, streams int, both, quick bool, contenders ...string) measure {
	return measure{
		name: name, title: title, metric: throughput, contenders: contenders, quick: quick,
		take: func(ctx context.Context, c *contender, seconds int) (sample, []float64, error) {
			s, err := c.tcp(ctx, seconds, streams, both)
			return s, nil, err
		},
	}
}

func udpMeasure(name, title string, l load, quick bool, contenders ...string) measure {
	return measure{
		name: name, title: title, metric: packetRate, contenders: contenders, quick: quick,
		take: func(ctx context.Context, c *contender, _ int) (sample, []float64, error) {
			s, err := c.udp(ctx, name, l, udpTrial)
			return s, nil, err
		},
	}
}

func latencyMeasure(name, title string, loaded, quick bool, contenders ...string) measure {
	return measure{
		name: name, title: title, metric: p50, contenders: contenders, quick: quick,
		take: func(ctx context.Context, c *contender, seconds int) (sample, []float64, error) {
			return c.latency(ctx, seconds, loaded)
		},
	}
}

var allMeasures = []measure{
	tcpMeasure("tcp-1", "TCP, one stream", 1, false, true, Coati, WireGuard, StrongSwan, CoatiNull, CoatiRaw, Bare),
	tcpMeasure("tcp-4", "TCP, 4 streams", 4, false, false, Coati, WireGuard, StrongSwan, CoatiNull),
	tcpMeasure("tcp-16", "TCP, 16 streams", 16, false, false, Coati, WireGuard),
	tcpMeasure("tcp-both", "TCP, one stream each way", 1, true, false, Coati, WireGuard),
	udpMeasure("udp-64", "UDP, 64 octets", udp64, true, Coati, WireGuard, StrongSwan, CoatiNull),
	udpMeasure("udp-64-flows", "UDP, 64 octets, 16 flows, packets one by one", udp64Flows, false, Coati, WireGuard),
	udpMeasure("udp-512", "UDP, 512 octets", udp512, false, Coati, WireGuard),
	udpMeasure("udp-1400", "UDP, 1,400 octets", udp1400, false, Coati, WireGuard),
	udpMeasure("udp-imix", "UDP, IMIX 7:4:1 of 64, 576, 1,400", imix, false, Coati, WireGuard),
	latencyMeasure("ping-idle", "round trip, idle link", false, true, Coati, WireGuard, StrongSwan, Bare),
	latencyMeasure("ping-loaded", "round trip beside a TCP stream", true, false, Coati, WireGuard),
}

// MeasureNames and ContenderNames are what may be chosen.
func MeasureNames() (names []string) {
	for _, m := range allMeasures {
		names = append(names, m.name)
	}
	return names
}

// ContenderNames lists all contenders.
func ContenderNames() []string { return slices.Clone(allContenders) }

// chosen measures, each with the contenders that take part.
func (o PathOptions) chosen() ([]measure, error) {
	for _, name := range o.Contenders {
		if !slices.Contains(allContenders, name) {
			return nil, unknown("contender", name, allContenders)
		}
	}
	for _, name := range o.Measures {
		if !slices.Contains(MeasureNames(), name) {
			return nil, unknown("measure", name, MeasureNames())
		}
	}
	var out []measure
	for _, m := range allMeasures {
		switch {
		case len(o.Measures) > 0 && !slices.Contains(o.Measures, m.name), len(o.Measures) == 0 && o.Quick && !m.quick:
			continue
		case len(o.Contenders) > 0 && len(o.Measures) > 0:
			m.contenders = o.Contenders // both were named: so every pair is wanted
		case len(o.Contenders) > 0:
			m.contenders = intersection(m.contenders, o.Contenders)
		case o.Quick:
			m.contenders = intersection(m.contenders, []string{Coati, WireGuard, StrongSwan})
		}
		if len(m.contenders) > 0 {
			out = append(out, m)
		}
	}
	return out, nil
}

func intersection(a, b []string) (out []string) {
	for _, s := range a {
		if slices.Contains(b, s) {
			out = append(out, s)
		}
	}
	return out
}

// Path runs the measures over a path between two gateways. It needs root. What was measured before an error or the end
// of ctx is in the report.
func Path(ctx context.Context, o PathOptions, p *Progress, r *Report) error {
	measures, err := o.chosen()
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("bench path makes network namespaces: run it as root")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return errors.New("bench path needs /dev/net/tun: modprobe tun, or give the container --device /dev/net/tun")
	}
	if err := needIperf(); err != nil {
		return err
	}
	if o.Rounds <= 0 {
		o.Rounds = usualRounds
		if o.Quick {
			o.Rounds = quickRounds
		}
	}
	if o.Seconds <= 0 {
		o.Seconds = usualSeconds
		if o.Quick {
			o.Seconds = 1
		}
	}
	g, err := newGround()
	if err != nil {
		return err
	}
	defer g.close()
	up, err := startAll(ctx, g, measures, p, r)
	if err != nil {
		return err
	}
	begin := readMachineTime()
	defer func() { r.Machine.Stolen = begin.stolen(readMachineTime()) }()
	if err := takeTurns(ctx, o, measures, up, p, r); err != nil {
		return err
	}
	if up[Coati] == nil || !slices.ContainsFunc(measures, func(m measure) bool { return m.name == "tcp-1" }) {
		return nil
	}
	p.say("where the time goes: one stream, and profiles of both gateways")
	if err := takeStages(ctx, g, o.Seconds, r); err != nil {
		r.note("no cost by stage: %v", err)
	}
	return ctx.Err()
}

// startAll brings up all contenders that take part. A peer that is not installed is left out, and that is noted.
func startAll(ctx context.Context, g *ground, measures []measure, p *Progress, r *Report) (map[string]*contender, error) {
	up := map[string]*contender{}
	for _, name := range allContenders {
		if !slices.ContainsFunc(measures, func(m measure) bool { return slices.Contains(m.contenders, name) }) {
			continue
		}
		p.say("bringing up %s", name)
		c, err := startContender(ctx, g, name)
		if errors.Is(err, errMissing) {
			r.note("left out: %v", err)
			p.say("left out: %v", err)
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := c.serveTCP(ctx); err != nil {
			return nil, err
		}
		if len(c.gateways) == 2 {
			p.say("%s is up: its gateways are processes %d and %d", name, c.gateways[0].pid, c.gateways[1].pid)
		}
		up[name] = c
		r.Contenders = append(r.Contenders, c.Contender)
	}
	return up, nil
}

func takeTurns(ctx context.Context, o PathOptions, measures []measure, up map[string]*contender, p *Progress, r *Report) error {
	turns := 0
	for _, m := range measures {
		turns += len(m.contenders) * o.Rounds
	}
	p.begin("path", turns)
	defer p.end()
	defer func() {
		if n := len(r.Failures); n > 0 {
			r.note("%d of %d turns failed, and have no value; the last: %s", n, turns, r.Failures[n-1])
		}
	}()
	for round := range o.Rounds {
		for _, m := range measures {
			for _, name := range m.contenders {
				c := up[name]
				if c == nil {
					p.step("")
					continue
				}
				s, rtts, err := m.take(ctx, c, o.Seconds)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err != nil {
					// One turn that failed is a hole in the table; it is not the end of the others.
					r.Failures = append(r.Failures, fmt.Sprintf("%s, %s, round %d: %v", m.title, name, round+1, err))
					p.step(fmt.Sprintf("round %d  %-12s %-13s failed: %v", round+1, m.name, name, err))
					continue
				}
				for metric, value := range s {
					r.series(m.name, m.title, metric, name).add(round, value)
				}
				if rtts != nil {
					r.distribution(m.name, name, rtts)
				}
				p.step(fmt.Sprintf("round %d  %-12s %-13s %8.2f %s", round+1, m.name, name, s[m.metric], units[m.metric]))
			}
		}
	}
	return nil
}
