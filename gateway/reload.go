package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"coati/gateway/control"
	"coati/ike"
	"coati/policy/config"
	"coati/policy/legacy"
)

// Reload reads the configuration again and changes only what differs. With a fault in it nothing changes at all. What
// came of it is logged, and returned.
func (g *Gateway) Reload(ctx context.Context) (control.Reloaded, error) {
	var r control.Reloaded
	if g.config.Load == nil && g.config.LoadManual == nil {
		return r, errors.New("this gateway was not started from files: there is nothing to read again")
	}
	g.reloading.Lock()
	defer g.reloading.Unlock()
	next, script, faults := g.load()
	faults = append(faults, g.kernelMisses(next)...)
	if script != nil && !config.Failed(faults) {
		var more []config.Fault
		if err := g.loop.call(ctx, func() { more = g.tryManual(script) }); err != nil {
			return r, err
		}
		faults = append(faults, more...)
	}
	for _, f := range faults {
		r.Faults = append(r.Faults, f.String())
		level := slog.LevelError
		if f.Severity != config.Error {
			level = slog.LevelWarn
		}
		g.log.Log(ctx, level, "fault in the configuration", slog.String(keyFault, f.String()))
	}
	if config.Failed(faults) || next == nil {
		r.Failed = true
		g.log.Error("reload refused: what runs is not touched", slog.Int(keyCount, len(faults)))
		return r, nil
	}
	plan, err := g.apply(ctx, next)
	if err != nil {
		return r, err
	}
	r.Plan = plan
	if script == nil {
		return r, nil
	}
	var more []string
	if err = g.loop.call(ctx, func() { more, faults = g.reloadManual(script) }); err != nil {
		return r, err
	}
	for _, f := range faults {
		r.Faults = append(r.Faults, f.String())
		g.log.Error("fault in the configuration", slog.String(keyFault, f.String()))
	}
	for _, line := range more {
		g.log.Info("reloaded", slog.String(keyChange, line))
	}
	r.Failed = len(faults) > 0
	r.Plan = append(r.Plan, more...)
	return r, nil
}

// load reads everything again.
func (g *Gateway) load() (next *config.Config, script *legacy.Script, faults []config.Fault) {
	next = g.settings
	if g.config.Load != nil {
		next, faults = g.config.Load()
	}
	if g.config.LoadManual != nil {
		var more []config.Fault
		script, more = g.config.LoadManual()
		faults = append(faults, more...)
	}
	return next, script, faults
}

// Apply is Reload with a configuration at hand. The result is one line for each change.
func (g *Gateway) Apply(ctx context.Context, next *config.Config) ([]string, error) {
	g.reloading.Lock()
	defer g.reloading.Unlock()
	return g.apply(ctx, next)
}

func (g *Gateway) apply(ctx context.Context, next *config.Config) (lines []string, err error) {
	cerr := g.loop.call(ctx, func() { lines, err = g.change(next) })
	return lines, errors.Join(cerr, err)
}

// change goes from one configuration to another, on the loop's goroutine. What can fail comes first.
func (g *Gateway) change(next *config.Config) ([]string, error) {
	plan := config.Diff(g.settings, next)
	if plan.Empty() {
		g.log.Info("reloaded: nothing to change")
		return nil, nil
	}
	lines := strings.Split(strings.TrimSuffix(plan.String(), "\n"), "\n")
	keys := g.loop.keys
	if next.Gateway.KeyLog != g.settings.Gateway.KeyLog {
		keys = nil
		if next.Gateway.KeyLog != "" {
			var err error
			if keys, err = openKeyLog(next.Gateway.KeyLog); err != nil {
				return nil, fmt.Errorf("nothing was changed: %w", err)
			}
		}
	}
	if g.control != nil && next.Gateway.ControlGroup != g.settings.Gateway.ControlGroup {
		if err := g.control.SetGroup(next.Gateway.ControlGroup); err != nil {
			return nil, errors.Join(fmt.Errorf("nothing was changed: %w", err), discard(keys, g.loop.keys))
		}
	}
	tunnels := g.numbers.assign(next.Tunnels)
	known, err := g.openLeases(tunnels)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("nothing was changed: %w", err), discard(keys, g.loop.keys))
	}
	if err := g.machine.install(tunnels); err != nil {
		return nil, errors.Join(fmt.Errorf("nothing was changed: %w", err), discard(keys, g.loop.keys))
	}
	g.numbers.keep(tunnels)
	if keys != g.loop.keys {
		if err := g.loop.keys.close(); err != nil {
			g.log.Warn("the key log cannot be closed", slog.String(keyReason, err.Error()))
		}
		g.loop.keys, g.loop.keysFailed = keys, false
		if keys != nil {
			g.warnKeyLog()
		}
	}
	g.engine.Leased(known)
	g.loop.handle(ike.Configure{Tunnels: g.machine.layout.tunnels})
	if err := g.machine.retire(); err != nil {
		g.log.Error("old policies cannot be deleted", slog.String(keyReason, err.Error()))
	}
	if g.machine.listeners.anyLeaving() {
		time.AfterFunc(parting, g.part)
	}
	if next.Gateway.OnExit != g.settings.Gateway.OnExit {
		g.log.Warn("on-exit takes effect at the next start")
	}
	g.settings = running(g.settings, next)
	for _, line := range lines {
		g.log.Info("reloaded", slog.String(keyChange, line))
	}
	return lines, nil
}

// part closes sockets whose last tunnel has had time to say goodbye; nothing, if the gateway has ended meanwhile.
func (g *Gateway) part() {
	_ = g.loop.call(context.Background(), func() {
		if err := g.machine.listeners.part(); err != nil {
			g.log.Warn("a socket cannot be closed", slog.String(keyReason, err.Error()))
		}
	})
}

func discard(keys, unless *keyLog) error {
	if keys == unless {
		return nil
	}
	return keys.close()
}

// running is the new configuration, except for what takes a restart: the next reload says it again.
func running(old, next *config.Config) *config.Config {
	c := *next
	g := &c.Gateway
	g.Leases = old.Gateway.Leases
	g.TUN, g.Control, g.IKEPort, g.NATTPort = old.Gateway.TUN, old.Gateway.Control, old.Gateway.IKEPort, old.Gateway.NATTPort
	g.Queues, g.NDBypass, g.OnExit, g.Guard, g.Plane = old.Gateway.Queues, old.Gateway.NDBypass, old.Gateway.OnExit, old.Gateway.Guard, old.Gateway.Plane
	g.MTUFloor, g.MTUAging, g.ICMPAccept = old.Gateway.MTUFloor, old.Gateway.MTUAging, old.Gateway.ICMPAccept
	return &c
}
