package bench

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// What IKE costs a daemon, beside strongSwan: both answer the same callers on a link of their own, in turns.

const (
	costPerHandshake = "cost per handshake"
	memoryPerSA      = "memory per SA"
	loadTime         = "time to load"

	// StrongSwanIKE is strongSwan without its kernel's part: it refuses the child, and makes an IKE SA alone.
	StrongSwanIKE = "strongswan-ike"
	// StrongSwanNoKernel is the charon that COATI_BENCH_CHARON names. It has a kernel that does nothing: the child is
	// negotiated and accounted for, and installed nowhere.
	StrongSwanNoKernel = "strongswan-no-kernel"
	// CoatiESP is what the userspace plane adds to the heap for a child's two SAs, CoatiDaemon what all of a daemon's
	// resident memory grows by.
	CoatiESP    = "coati-esp"
	CoatiDaemon = "coati-daemon"

	loadLimit = time.Minute
)

// IKECostOptions chooses how much is measured. Zero means the usual.
type IKECostOptions struct {
	Parts      []string // of PartNames; none: all
	Methods    []string // of MethodNames, for handshakes; none: those with an aim
	Proofs     []string // of ProofNames, for handshakes; none: PSK
	Rounds     int      // of processor time; of memory and loading there are fewer
	Handshakes int      // of one daemon in one round
	SAs        int      // held at once
	Tunnels    int      // configured
	Quick      bool
}

func (o *IKECostOptions) fill() {
	usual := IKECostOptions{Rounds: usualRounds, Handshakes: 300, SAs: 10_000, Tunnels: 10_000}
	if o.Quick {
		usual = IKECostOptions{Rounds: quickRounds, Handshakes: 200, SAs: 2000, Tunnels: 1000}
	}
	for _, x := range []struct {
		v     *int
		usual int
	}{{&o.Rounds, usual.Rounds}, {&o.Handshakes, usual.Handshakes}, {&o.SAs, usual.SAs}, {&o.Tunnels, usual.Tunnels}} {
		if *x.v <= 0 {
			*x.v = x.usual
		}
	}
}

// warmHandshakes are made before any are measured.
const warmHandshakes = 50

// heavyRounds are of what takes strongSwan many seconds.
const heavyRounds = 3

// costMethods are what has an aim.
var costMethods = []string{"x25519", "modp2048"}

// costPart is what may be measured alone.
type costPart struct {
	name  string
	take  func(context.Context) error
	steps int
}

// PartNames lists what IKECost can be told to measure.
func PartNames() []string { return []string{"handshakes", "memory", "loading"} }

// rival is one side of the comparison, on a pair of hosts of its own.
type rival struct {
	name     string
	charon   *charon // nil: it is ours
	from, to *host
	crowd    *crowd
	r        *responder
}

// ikeCost is a run.
type ikeCost struct {
	o      IKECostOptions
	ground *ground
	p      *Progress
	report *Report
	coati  *rival
	swan   *rival // nil: it is not installed
	idle   *rival // with a kernel that does nothing; nil: none is named
	starts int
}

// entrant is a rival as one series of the report has it.
type entrant struct {
	*rival
	as      string
	refused bool // it is asked for a child that it refuses
}

// entrants take turns. Who is not there is left out.
func (c *ikeCost) entrants(coati string) []entrant {
	all := []entrant{{c.coati, coati, false}, {c.swan, StrongSwan, false}, {c.swan, StrongSwanIKE, true}, {c.idle, StrongSwanNoKernel, false}}
	return slices.DeleteFunc(all, func(e entrant) bool { return e.rival == nil })
}

// IKECost measures what handshakes, SAs and configured tunnels cost the daemon, and strongSwan's. It needs root. A part that
// fails is in the report with its reason, and the others go on; only the end of ctx ends all.
func IKECost(ctx context.Context, o IKECostOptions, p *Progress, r *Report) error {
	if os.Geteuid() != 0 {
		r.note("not root: IKE was not measured beside strongSwan")
		return nil
	}
	o.fill()
	if len(o.Methods) == 0 {
		o.Methods = costMethods
	}
	if len(o.Proofs) == 0 {
		o.Proofs = []string{proofPSK}
	}
	for _, x := range o.Proofs {
		if !slices.Contains(ProofNames(), x) {
			return unknown("proof", x, ProofNames())
		}
	}
	for _, x := range o.Parts {
		if !slices.Contains(PartNames(), x) {
			return unknown("part", x, PartNames())
		}
	}
	g, err := newGround()
	if err != nil {
		return err
	}
	defer g.close()
	c := &ikeCost{o: o, ground: g, p: p, report: r}
	if err := c.rivals(); err != nil {
		return err
	}
	parts := []costPart{
		{"handshakes", c.handshakes, o.Rounds * len(o.Methods) * len(o.Proofs) * len(c.entrants(Coati))},
		{"memory", c.memory, heavyRounds * (1 + len(c.entrants(Coati)))},
		{"loading", c.loading, heavyRounds * len(c.loaders())},
	}
	parts = slices.DeleteFunc(parts, func(x costPart) bool { return len(o.Parts) > 0 && !slices.Contains(o.Parts, x.name) })
	steps := 0
	for _, part := range parts {
		steps += part.steps
	}
	p.begin("ike cost", steps)
	defer p.end()
	for _, part := range parts {
		err := part.take(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			r.Failures = append(r.Failures, fmt.Sprintf("IKE, %s: %v", part.name, err))
			r.note("IKE beside strongSwan is not complete: %s: %v", part.name, err)
		}
	}
	return nil
}

func (c *ikeCost) rivals() error {
	about := func(name, version, command string) {
		c.report.Contenders = append(c.report.Contenders, Contender{
			Name: name, Version: strings.TrimSpace(version), Command: command, Cipher: "AES-128-GCM", Carrier: "IKE with PSK; ESP in UDP",
		})
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	version, err := run(program, "version")
	if err != nil {
		return err
	}
	if c.coati, err = c.newRival(Coati, nil); err != nil {
		return err
	}
	about(Coati+", ike", version, "coati run --config FILE; coati reload")
	if err := haveStrongSwan(); err != nil {
		c.report.note("IKE was not measured beside strongSwan: %v", err)
		return nil
	}
	for _, x := range []struct {
		name  string
		d     *charon
		rival **rival
	}{{StrongSwan, installedCharon, &c.swan}, {StrongSwanNoKernel, namedCharon(), &c.idle}} {
		if x.d == nil {
			continue
		}
		if version, err = run(x.d.program, "--version"); err != nil {
			return err
		}
		if *x.rival, err = c.newRival(x.name, x.d); err != nil {
			return err
		}
		about(x.name+", ike", version, x.d.about)
	}
	return nil
}

// newRival gives a daemon hosts and callers of its own. Without a charon it is ours.
func (c *ikeCost) newRival(name string, d *charon) (*rival, error) {
	from, to, err := c.ground.newPair("ike-" + name)
	if err != nil {
		return nil, err
	}
	v := &rival{name: name, charon: d, from: from, to: to}
	v.crowd, err = newCrowd(from, to)
	return v, err
}

// begin starts the rival's daemon anew, with one tunnel for all callers.
func (c *ikeCost) begin(ctx context.Context, v *rival, ca *authority) (err error) {
	c.starts++
	if ca != nil {
		if err := ca.equip(v.to); err != nil {
			return err
		}
	}
	label := fmt.Sprintf("daemon-%d", c.starts)
	if v.charon == nil {
		v.r, err = beginCoati(ctx, v.to, label, coatiAny(v.to, ca != nil), "")
		return err
	}
	if v.r, err = v.charon.begin(ctx, v.to, label); err != nil {
		return err
	}
	return v.r.load(swanAny(v.to, ca != nil), 1)
}

func (v *rival) end() {
	if v != nil && v.r != nil {
		v.r.p.end()
		v.r = nil
	}
}

// turn is one of handshakes, with a daemon that is fresh: what an SA costs must not depend on who had to keep more of them
// before. It returns what each handshake cost the daemon, in microseconds.
func (c *ikeCost) turn(ctx context.Context, v *rival, what call) (float64, error) {
	if err := c.begin(ctx, v, what.ca); err != nil {
		return 0, err
	}
	defer v.end()
	if err := v.warm(ctx, what); err != nil {
		return 0, err
	}
	before, err := v.r.spent()
	if err != nil {
		return 0, err
	}
	if err := v.crowd.call(ctx, c.o.Handshakes, what); err != nil {
		return 0, fmt.Errorf("%s: %w", v.name, err)
	}
	after, err := v.r.spent()
	return float64((after - before).Nanoseconds()) / 1000 / float64(c.o.Handshakes), err
}

// warm brings in what every daemon needs once.
func (v *rival) warm(ctx context.Context, what call) error {
	if err := v.crowd.call(ctx, warmHandshakes, what); err != nil {
		return fmt.Errorf("%s: %w", v.name, err)
	}
	return nil
}

func (c *ikeCost) handshakes(ctx context.Context) error {
	authorities := map[string]*authority{}
	for _, proof := range c.o.Proofs {
		ca, err := newAuthority(proof)
		if err != nil {
			return err
		}
		authorities[proof] = ca
	}
	for round := range c.o.Rounds {
		for _, method := range c.o.Methods {
			for _, proof := range c.o.Proofs {
				measure := handshakeMeasure(method, proof)
				for _, x := range c.entrants(Coati) {
					cost, err := c.turn(ctx, x.rival, call{method: method, refused: x.refused, psk: anyPSK, ca: authorities[proof]})
					if err != nil {
						return err
					}
					c.report.series("ike-"+measure, "processor time of a handshake, "+measure, costPerHandshake, x.as).add(round, cost)
					c.p.step(fmt.Sprintf("round %d  %-12s %-20s %5.0f µs a handshake", round+1, measure, x.as, cost))
				}
			}
		}
	}
	return nil
}

// handshakeMeasure names what was measured: by its key exchange, and by its proof if that is not a PSK.
func handshakeMeasure(method, proof string) string {
	if proof == proofPSK {
		return method
	}
	return method + "-" + proof
}

// memory has fresh daemons hold many SAs. Our daemon's resident memory holds what the collector has not yet taken, so the
// heap in use is measured apart, in this process.
func (c *ikeCost) memory(ctx context.Context) error {
	what := call{method: "x25519", psk: anyPSK}
	title := fmt.Sprintf("memory per IKE SA with child, %d of them or what came in %v", c.o.SAs, growLimit)
	add := func(round int, as string, octets float64) {
		c.report.series("ike-memory", title, memoryPerSA, as).add(round, octets/1024)
	}
	least := map[string]int{}
	for round := range heavyRounds {
		for _, x := range c.entrants(CoatiDaemon) {
			what := what
			what.refused = x.refused
			grown, n, err := c.grow(ctx, x.rival, what)
			if err != nil {
				return err
			}
			add(round, x.as, grown)
			if least[x.as] == 0 || n < least[x.as] {
				least[x.as] = n
			}
			c.p.step(fmt.Sprintf("round %d  %-20s %5.1f KiB resident for an SA, of %d", round+1, x.as, grown/1024, n))
		}
		ikePart, espPart, err := responderHeap(ctx, c.o.SAs, what)
		if err != nil {
			return err
		}
		add(round, Coati, ikePart)
		add(round, CoatiESP, espPart)
		c.p.step(fmt.Sprintf("round %d  %-20s %5.1f KiB of heap for an SA, and %.1f for ESP's part", round+1, Coati, ikePart/1024, espPart/1024))
	}
	for _, x := range c.entrants(CoatiDaemon) {
		as := x.as
		if n := least[as]; n > 0 && n < c.o.SAs {
			c.report.note("%s held %d SAs when the time to make them was up", as, n)
		}
	}
	return nil
}

// growLimit is how long SAs are made, however few come.
const growLimit = 12 * time.Second

// grow is the octets of resident memory that each SA takes, and how many there were.
func (c *ikeCost) grow(ctx context.Context, v *rival, what call) (octets float64, n int, err error) {
	if err := c.begin(ctx, v, what.ca); err != nil {
		return 0, 0, err
	}
	defer v.end()
	if err := v.warm(ctx, what); err != nil {
		return 0, 0, err
	}
	before, err := resident(v.r.p.pid)
	if err != nil {
		return 0, 0, err
	}
	if n, err = v.crowd.callFor(ctx, c.o.SAs, what, growLimit); err != nil {
		return 0, 0, fmt.Errorf("%s: %w", v.name, err)
	}
	after, err := resident(v.r.p.pid)
	return float64(after-before) / float64(n), n, err
}

// loaders are who can be given many tunnels: what the kernel does is no part of that.
func (c *ikeCost) loaders() []*rival {
	return slices.DeleteFunc([]*rival{c.coati, c.swan}, func(v *rival) bool { return v == nil })
}

// loading has fresh daemons read many tunnels, and the same again.
func (c *ikeCost) loading(ctx context.Context) error {
	defer c.coati.end()
	defer c.swan.end()
	for n := 1; n <= c.o.Tunnels; n++ {
		if err := c.coati.to.write(fmt.Sprintf("t%d.psk", n), peerPSK(n)+"\n"); err != nil {
			return err
		}
	}
	for round := range heavyRounds {
		for _, v := range c.loaders() {
			first, again, err := c.loadTwice(ctx, v)
			if err != nil {
				return err
			}
			c.report.series("ike-load", fmt.Sprintf("load %d tunnels", c.o.Tunnels), loadTime, v.name).add(round, first.Seconds())
			c.report.series("ike-reload", fmt.Sprintf("reload %d unchanged tunnels", c.o.Tunnels), loadTime, v.name).add(round, again.Seconds())
			c.p.step(fmt.Sprintf("round %d  %-12s %5.2f s to load %d tunnels, %.2f s to reload", round+1, v.name, first.Seconds(), c.o.Tunnels, again.Seconds()))
			v.end()
		}
	}
	return nil
}

// loadTwice loads and reloads. Ours begins with the start of the process; strongSwan runs already.
func (c *ikeCost) loadTwice(ctx context.Context, v *rival) (first, again time.Duration, err error) {
	c.starts++
	label := fmt.Sprintf("daemon-%d", c.starts)
	if v.charon == nil {
		conf := coatiMany(v.to, c.o.Tunnels)
		begin := time.Now()
		if v.r, err = beginCoati(ctx, v.to, label, conf, "msg=configured"); err != nil {
			return 0, 0, err
		}
		first = time.Since(begin)
		begin = time.Now()
		text, err := v.r.ask("reload")
		if err == nil && !strings.Contains(text, "nothing") {
			err = fmt.Errorf("coati reload: %s", lastLines(text, 2))
		}
		return first, time.Since(begin), err
	}
	if v.r, err = v.charon.begin(ctx, v.to, label); err != nil {
		return 0, 0, err
	}
	conf := swanMany(v.to, c.o.Tunnels)
	for _, took := range []*time.Duration{&first, &again} {
		begin := time.Now()
		if err := v.r.load(conf, c.o.Tunnels); err != nil {
			return 0, 0, err
		}
		*took = time.Since(begin)
	}
	return first, again, nil
}
