// Package gateway joins the parts into a running gateway. It alone knows everybody, and owns what the others must not have:
// goroutines, the clock, the disk and the DNS. Other Go programs embed it with New and Run.
//
//	gateway.go     Gateway: New, Run, and what its users may ask of it
//	loop.go        the goroutine that owns the engine, and the order in which its wishes are fulfilled
//	turn.go        the engine without that goroutine, where nobody else is at it
//	jobs.go        slow arithmetic on a pool of workers
//	ask.go         questions about names and routes
//	machine.go     the device, sockets, routes and rules: opened, laid out, given back
//	advise.go      what a run would do to this machine
//	guard.go       what the policies mean for packets that come in clear
//	leases.go      the file of the addresses that peers were given
//	given.go       addresses that peers gave us
//	layout.go      what a configuration means for the machine; decides, changes nothing
//	plane.go       who moves ESP: we, or the kernel
//	sockets.go     the sockets by local address, and the data path's way out
//	datapath.go    one goroutine for each queue and socket
//	reload.go      from one configuration to another
//	keylog.go      keys for a capture's reader
//	manual*.go     associations and policies that scripts of setkey's made, and the counters of their keys
//	status.go      what there is to see
//	drops.go       why packets were not delivered, outside the plane
//	vocabulary.go  the keys of the log
//
// # Goroutines
//
// Run's own goroutine is the engine's loop; all of the machine is changed from it and from New, which must be called on the
// same thread where network namespaces differ by thread. Who receives a message may have the engine handle it (turn.go): that
// uses the sockets and the plane, which know their namespace. Beside it: one goroutine for each TUN queue (read, seal, send)
// and each socket (receive, open, write), the workers, one for each open question, the plane's clock, the watcher of
// addresses and routes, and the control socket's. All have ended when Run returns.
package gateway

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"coati/esp"
	"coati/esp/batch"
	"coati/gateway/control"
	"coati/ike"
	v1 "coati/ike/v1"
	v2 "coati/ike/v2"
	"coati/policy"
	"coati/policy/config"
	"coati/policy/legacy"
	"coati/tun/xfrm"
)

// Config is what a gateway is built from.
type Config struct {
	// Settings is the configuration to begin with. The gateway does not change it.
	Settings *config.Config
	// Load reads the configuration again, for Reload; nil: Reload is refused.
	Load func() (*config.Config, []config.Fault)
	// Manual is a script of setkey's to begin with; nil: none.
	Manual *legacy.Script
	// LoadManual reads it again, for Reload; nil: it stays as it is.
	LoadManual func() (*legacy.Script, []config.Fault)
	// NoIKE says that nothing is ever negotiated: IKE messages are not answered.
	NoIKE bool
	// AllowStaticCounterMode takes fixed keys with counter modes. Their sequence numbers are reserved in CounterDir before
	// they are used; empty: /var/lib/coati/counters, which a restart of the machine must not clear.
	AllowStaticCounterMode bool
	CounterDir             string
	// Control is the path of the control socket and outranks the one in Settings; "none": there is no socket.
	Control string
	// StateDir is the folder for what a crash must not lose, which a restart of the machine may; empty: /run/coati.
	StateDir string
	// Log; nil: nothing is logged.
	Log *slog.Logger
	// Protocols are the versions of IKE; nil: all.
	Protocols []ike.Protocol
	// Limits of the engine; zero: ike.DefaultLimits.
	Limits ike.Limits
	// InsecureNullCipher leaves the cipher out of every SA, at both ends or nothing is carried: for measuring what the rest
	// of the data path costs, never for traffic.
	InsecureNullCipher bool
}

// NoControl is the value of Config.Control for a gateway without a control socket.
const NoControl = "none"

const defaultStateDir = "/run/coati"

// Gateway is a gateway. Its methods are safe for concurrent use.
type Gateway struct {
	config  Config
	log     *slog.Logger
	started time.Time

	machine *machine
	carrier policy.Plane // who moves ESP: plane, or the kernel
	plane   *esp.Plane   // in userspace; where the kernel moves ESP it only sorts IKE's messages out
	kernel  *xfrm.Plane  // nil: not used
	engine  *ike.Engine
	loop    *loop
	control *control.Server // nil: none

	nextSAID atomic.Uint64
	workers  sync.WaitGroup // all goroutines that end with the machine

	reloading sync.Mutex // one reload at a time
	// What follows belongs to the loop's goroutine.
	settings *config.Config
	numbers  numbers
	leases   *leaseFile // nil: nobody is given an address
	manual   *manual
}

// New claims everything the gateway needs of this machine, and lays out policies and routes. An error says in one line what
// is missing. Nothing is negotiated before Run; Run, or Close without it, gives everything back.
func New(c Config) (*Gateway, error) {
	g := &Gateway{config: c, log: c.Log, started: time.Now(), settings: c.Settings}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	if g.config.StateDir == "" {
		g.config.StateDir = defaultStateDir
	}
	g.loop = newLoop(g.log)
	g.manual = newManual(nil)
	if c.AllowStaticCounterMode {
		g.manual.store = &counterStore{dir: cmp.Or(c.CounterDir, defaultCounterDir)}
	}
	if err := g.assemble(); err != nil {
		return nil, errors.Join(err, g.giveBack(), g.settleCounters())
	}
	return g, nil
}

func (g *Gateway) assemble() error {
	s := g.settings.Gateway
	g.numbers.given = map[string]numbered{}
	tunnels := g.numbers.assign(g.settings.Tunnels)
	manual, err := g.startingManual()
	if err != nil {
		return err
	}
	kernel, err := g.useKernel(s.Plane)
	if err != nil {
		return err
	}
	peers := peersOf(manual)
	if g.machine, err = openMachine(g.log, g.config.StateDir, s, slices.Concat(tunnels, peers), kernel); err != nil {
		return err
	}
	g.machine.manual.peers = peers
	g.plane = esp.New(esp.Config{
		Egress: g.machine.egress, Frames: g.machine.frames(), IKE: g.takers().among, USO: g.machine.device.USO(), NeighbourPolicies: !s.NDBypass,
		MTUFloor: s.MTUFloor, MTUAging: s.MTUAging,
		IgnoreNeeded:       s.ICMPAccept == config.ICMPAcceptTooBig || s.ICMPAccept == config.ICMPAcceptNone,
		IgnoreTooBig:       s.ICMPAccept == config.ICMPAcceptNeeded || s.ICMPAccept == config.ICMPAcceptNone,
		InsecureNullCipher: g.config.InsecureNullCipher,
	})
	g.carrier = g.plane
	if kernel {
		if err := g.openKernel(s); err != nil {
			return err
		}
	}
	g.machine.plane, g.machine.pathMTU = g.carrier, g.plane.SetPathMTU
	if s.KeyLog != "" {
		if g.loop.keys, err = openKeyLog(s.KeyLog); err != nil {
			return err
		}
	}
	known, err := g.openLeases(tunnels)
	if err != nil {
		return err
	}
	protocols := g.config.Protocols
	if protocols == nil {
		protocols = []ike.Protocol{v2.New(), v1.New()}
	}
	g.engine = ike.NewEngine(ike.Config{
		Rand: rand.Reader, AllocSPI: g.carrier.AllocSPI, FreeSPI: g.carrier.FreeSPI,
		NewSAID: func() policy.SAID { return policy.SAID(g.nextSAID.Add(1)) },
		SAState: g.carrier.State,
		Logs:    func(l slog.Level) bool { return g.log.Enabled(context.Background(), l) },
		// Records are made in any case, so that a reload can begin to log keys; without a log they are dropped.
		KeyLog:  true,
		IKEPort: s.IKEPort, NATTPort: s.NATTPort, Limits: g.limits(), Protocols: protocols, Leases: known,
	})
	g.loop.leased, g.loop.given = g.leased, g.given
	g.loop.engine, g.loop.plane, g.loop.transmit = g.engine, g.carrier, g.machine.listeners.send
	g.loop.complete, g.loop.expired = g.machine.complete, g.expired
	g.loop.ask = newAsker(g.machine.source, g.machine.owns, g.machine.listeners.bound).answer
	if err := g.machine.install(tunnels); err != nil {
		return err
	}
	g.numbers.keep(tunnels)
	if err := g.beginManual(manual); err != nil {
		return err
	}
	return g.openControl()
}

func (g *Gateway) openControl() error {
	path := g.config.Control
	if path == "" {
		path = g.settings.Gateway.Control
	}
	if path == NoControl {
		return nil
	}
	var err error
	g.control, err = control.Listen(path, g.settings.Gateway.ControlGroup, g)
	return err
}

// Run is the gateway, until ctx ends. Then it tells the peers, waits two seconds for them at the most, and gives everything
// back. It is called once.
func (g *Gateway) Run(ctx context.Context) error {
	alive, die := context.WithCancel(context.Background())
	defer die()
	whole := false
	defer func() {
		if !whole {
			// A panic: nothing is waited for, but the machine is left as it was.
			_ = g.machine.close()
		}
	}()
	jobs := newPool(runtime.GOMAXPROCS(0), g.loop.jobDone)
	g.loop.submit = jobs.submit
	g.machine.start(g.takers().direct, g.plane, &g.workers)
	g.workers.Go(func() { g.tick(alive) })
	for _, s := range g.machine.unreachable {
		g.workers.Go(func() { g.explain(alive, s) })
	}
	g.watch(alive)
	if g.control != nil {
		g.workers.Go(func() {
			if err := g.control.Serve(); err != nil {
				g.log.Error("the control socket fails", slog.String(keyReason, err.Error()))
			}
		})
	}
	g.greet()
	g.loop.handle(ike.Configure{Tunnels: g.machine.layout.tunnels})
	g.loop.run(ctx)

	die()
	var errs []error
	if g.control != nil {
		errs = append(errs, g.control.Close())
		g.control = nil
	}
	jobs.close()
	errs = append(errs, g.giveBack())
	g.workers.Wait()
	errs = append(errs, g.settleCounters())
	whole = true
	err := errors.Join(errs...)
	if err != nil {
		g.log.Error("not everything could be given back", slog.String(keyReason, err.Error()))
	} else {
		g.log.Info("ended")
	}
	return err
}

func (g *Gateway) greet() {
	s := g.settings.Gateway
	g.log.Info("ready", slog.String(keyVersion, BuildVersion().Version), slog.String(keyPlane, g.carrier.Capabilities().Name), slog.String(keyDevice, s.TUN), slog.Int(keyMTU, g.machine.layout.mtu),
		slog.String(keyOffload, g.machine.device.Offloads()))
	if _, err := batch.Kernel(); err != nil {
		g.log.Warn("COATI_CPU is not followed", slog.String(keyReason, err.Error()))
	}
	for _, l := range g.machine.listeners.table.Load().all {
		for _, text := range l.describe() {
			g.log.Debug("listening", slog.String(keyLocal, text))
		}
	}
	if g.loop.keys != nil {
		g.warnKeyLog()
	}
	if g.config.InsecureNullCipher {
		g.log.Error("the cipher is left out: nothing is encrypted and nobody is authenticated; whoever is on the way reads and forges all traffic")
	}
}

func (g *Gateway) warnKeyLog() {
	g.log.Warn("keys are being logged: whoever reads them reads all traffic", slog.String(keyFolder, g.loop.keys.folder))
}

// Close gives everything back where Run was not called.
func (g *Gateway) Close() error { return errors.Join(g.giveBack(), g.settleCounters()) }

func (g *Gateway) giveBack() error {
	var errs []error
	if g.control != nil {
		errs = append(errs, g.control.Abandon())
	}
	if g.kernel != nil {
		errs = append(errs, g.kernel.Close())
	}
	if g.machine != nil {
		errs = append(errs, g.machine.close())
	}
	errs = append(errs, g.loop.keys.close(), g.leases.close())
	g.leases = nil
	return errors.Join(errs...)
}

// settle is how long a change of addresses and routes is left alone, as they come in groups.
const settle = 500 * time.Millisecond

// watch tells the loop of changes of addresses and routes.
func (g *Gateway) watch(ctx context.Context) {
	changes, err := g.machine.host.Watch(ctx)
	if err != nil {
		g.log.Warn("changes of addresses and routes will not be noticed", slog.String(keyReason, err.Error()))
		return
	}
	tell := make(chan struct{}, 1)
	g.loop.changed, g.loop.look = tell, g.machine.lookAgain
	g.workers.Go(func() {
		for range changes {
			t := time.NewTimer(settle)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				continue
			}
			select {
			case <-changes: // merged by the watcher
			default:
			}
			select {
			case tell <- struct{}{}:
			default:
			}
		}
	})
}

// tick moves the plane's clock.
func (g *Gateway) tick(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case now := <-t.C:
			g.plane.Tick(now)
			if g.manual.store != nil {
				_ = g.loop.call(ctx, g.refill)
			}
		case <-ctx.Done():
			return
		}
	}
}

// Up brings a tunnel or child up and waits until it is, or cannot be.
func (g *Gateway) Up(ctx context.Context, t control.Target) (control.Done, error) {
	return g.do(ctx, ike.Up, t)
}

// Down takes a tunnel or child down. The next packet for it brings it up again.
func (g *Gateway) Down(ctx context.Context, t control.Target) (control.Done, error) {
	return g.do(ctx, ike.Down, t)
}

// Rekey gives a tunnel or child new keys.
func (g *Gateway) Rekey(ctx context.Context, t control.Target) (control.Done, error) {
	return g.do(ctx, ike.Rekey, t)
}

func (g *Gateway) do(ctx context.Context, v ike.Verb, t control.Target) (control.Done, error) {
	r, err := g.loop.command(ctx, ike.Command{Verb: v, Tunnel: t.Tunnel, Child: t.Child})
	if errors.Is(err, context.DeadlineExceeded) {
		err = errors.New("it is not done yet: look at it with coati status")
	}
	return control.Done{Text: r.Text}, err
}

// Version is what this program was built from.
func (g *Gateway) Version() control.Version { return BuildVersion() }

// BuildVersion reads what the Go tool wrote into the program.
func BuildVersion() control.Version {
	v := control.Version{Version: "unknown", Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	modified := false
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.modified":
			modified = s.Value == "true"
		}
	}
	if modified && v.Commit != "" {
		v.Commit += " with changes"
	}
	return v
}
