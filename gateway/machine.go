package gateway

import (
	"errors"
	"log/slog"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"time"

	"coati/esp"
	"coati/ike"
	"coati/policy"
	"coati/policy/config"
	"coati/tun"
)

// machine is what the gateway has of this host. The tun.Host's ledger knows how to undo all of it.
type machine struct {
	log         *slog.Logger
	host        *tun.Host
	device      *tun.Device
	queues      []*queue
	routes      *tun.Routes
	listeners   *listeners
	egress      *egress
	plane       policy.Plane
	beside      policy.Plane // where the kernel moves ESP: it has the policies too, for what comes to the TUN; else nil
	pathMTU     func(remote netip.Addr, mtu int)
	layout      layout
	unreachable []*tun.UnreachableSocket
	policies    map[policy.PolicyID]policy.Policy // what the plane has
	view        view                              // what the layout was made from
	loosened    map[string]*tun.Change            // by uplink
	guard       *tun.Guard                        // nil: clear packets pass
	guarded     []tun.GuardRule                   // what the guard has
	// recent is a look at the machine that was begun at lookedAt.
	recent   func(netip.Addr) (tun.Uplink, error)
	lookedAt time.Time
	manual   manualLayout
	given    map[string]ike.Given // by tunnel
	worn     map[netip.Addr]bool  // addresses of the device that peers gave us
	adding   []policy.SA          // with the next relay's policies, or not at all
}

// queueCount is the number of TUN queues and of sockets for each local address.
func queueCount(configured int) int {
	if configured > 0 {
		return configured
	}
	return min(max(runtime.NumCPU(), 2), 4)
}

// openMachine claims name, ports and device. The ports come before the device: they are what two daemons most often both
// want, and nothing of ours is in the way of others until all are ours.
func openMachine(log *slog.Logger, stateDir string, s config.Gateway, tunnels []policy.PeerTunnel, kernel bool) (*machine, error) {
	host, err := tun.Open(tun.Config{Name: s.TUN, StateDir: stateDir})
	if err != nil {
		return nil, err
	}
	m := &machine{log: log, host: host, policies: map[policy.PolicyID]policy.Policy{}, loosened: map[string]*tun.Change{}, given: map[string]ike.Given{}, worn: map[netip.Addr]bool{}}
	queues := queueCount(s.Queues)
	m.listeners = newListeners(host, s.IKEPort, s.NATTPort, queues, kernel)
	err = m.listeners.set(localAddresses(tunnels))
	if err == nil {
		m.egress = &egress{listeners: m.listeners}
		m.egress.clear, err = host.OpenClear()
	}
	if err == nil {
		m.device, err = host.OpenDevice(tun.DeviceConfig{Queues: queues, MTU: leastMTU})
	}
	if err == nil {
		for _, q := range m.device.Queues() {
			m.queues = append(m.queues, &queue{Queue: q})
		}
		m.routes, err = host.OpenRoutes(m.device, tun.RoutesConfig{Block: s.OnExit == config.ExitBlock})
	}
	// The kernel's own policies refuse clear packets where it moves ESP, and those it has opened do not come by our TUN.
	if err == nil && s.Guard && !kernel {
		m.guard, err = host.OpenGuard(tun.GuardConfig{UDPPorts: []uint16{s.IKEPort, s.NATTPort}})
	}
	if err != nil {
		return nil, errors.Join(err, host.Close())
	}
	for _, v6 := range []bool{false, true} {
		// They only explain: what cannot be had is done without.
		if s, err := host.OpenUnreachable(v6); err == nil {
			m.unreachable = append(m.unreachable, s)
		}
	}
	return m, nil
}

func (m *machine) close() error { return m.host.Close() }

func (m *machine) frames() esp.FrameWriter { return m.queues[0] }

// start runs the data path; it ends with close.
func (m *machine) start(message func(policy.Path, []byte, bool), plane *esp.Plane, workers *sync.WaitGroup) {
	d := &datapath{plane: plane, queues: m.queues, natt: m.listeners.natt, message: message, log: m.log, workers: workers}
	d.outbound()
	for _, l := range m.listeners.table.Load().all {
		d.listen(l)
	}
	m.listeners.started = d.listen
}

// source is our address on the way to a peer.
func (m *machine) source(to netip.Addr) (netip.Addr, error) {
	u, err := m.host.RouteTo(to)
	if err == nil && u.Name == "lo" {
		// An address of ours. For one that shares its network with an older one the kernel names the older one.
		return to, nil
	}
	return u.Src, err
}

// owns says whether an address is one of this machine: the way to it leads nowhere else.
func (m *machine) owns(a netip.Addr) bool {
	u, err := m.host.RouteTo(a)
	return err == nil && u.Name == "lo"
}

// complete tells new SAs the MTU of their path, and what their child says of sizes. What the machine said less than a
// second ago still holds: when hundreds of peers come at once, most of the work would be asking.
func (m *machine) complete(sas []policy.SA) {
	if now := time.Now(); now.Sub(m.lookedAt) > time.Second {
		m.recent, m.lookedAt = m.host.Look(), now
	}
	for i := range sas {
		if u, err := m.recent(sas[i].Path.Remote.Addr()); err == nil {
			sas[i].TunnelMTU = u.MTU
		}
		if c := m.layout.sizes[sas[i].ReqID]; c != nil {
			sas[i].FragmentAfter, sas[i].MSS, sas[i].ICMPErrors, sas[i].DummyInterval = c.FragmentAfter, c.MSS, c.ICMPErrors, c.DummyInterval
		}
	}
}

// install makes the layout of these tunnels true. Policies of before that are not part of it stay until retire: old and new
// live side by side meanwhile, so that traffic both cover is not disturbed. On an error what was laid out before is again.
func (m *machine) install(tunnels []policy.PeerTunnel) error {
	before := m.layout
	err := m.listeners.set(localAddresses(m.withPeers(tunnels)))
	if err == nil {
		err = m.relay(tunnels)
	}
	if err == nil || before.tunnels == nil {
		return err
	}
	return errors.Join(err, m.listeners.set(localAddresses(m.withPeers(before.tunnels))), m.relay(before.tunnels), m.retire())
}

// relay lays out tunnels on sockets that are there.
func (m *machine) relay(plain []policy.PeerTunnel) error {
	if err := m.settleGiven(plain); err != nil {
		return err
	}
	tunnels := m.withGiven(plain)
	w, err := look(m.host.Look())
	if err != nil {
		return err
	}
	next := lay(tunnels, w)
	if m.listeners.kernel {
		next.kernel, next.routes = true, lay(inTunnelMode(tunnels), w).routes
	}
	next.addManual(m.manual, w)
	tx := policy.Tx{AddSAs: m.adding}
	m.adding = nil
	for _, p := range next.policies {
		if old, ok := m.policies[p.ID]; !ok || !reflect.DeepEqual(old, p) {
			tx.PutPolicies = append(tx.PutPolicies, p)
		}
	}
	if err := m.plane.Apply(tx); err != nil {
		return err
	}
	if err := m.applyBeside(policy.Tx{PutPolicies: tx.PutPolicies}); err != nil {
		return err
	}
	for _, p := range tx.PutPolicies {
		m.policies[p.ID] = p
	}
	if err := m.watchOver(next.policies); err != nil {
		return err
	}
	// A route's MTU is bounded by the device's, so the device grows first and shrinks last.
	if next.mtu > m.layout.mtu {
		if err := m.device.SetMTU(next.mtu); err != nil {
			return err
		}
	}
	m.loosen(next.strict)
	if err := m.routes.Replace(next.routes); err != nil {
		return err
	}
	if next.mtu < m.layout.mtu {
		if err := m.device.SetMTU(next.mtu); err != nil {
			return err
		}
	}
	next.tunnels = plain
	m.layout = next
	m.view = w.view(m.withPeers(tunnels))
	return nil
}

// applyBeside tells the plane that takes what comes to the TUN, if another one moves ESP.
func (m *machine) applyBeside(tx policy.Tx) error {
	if m.beside == nil || tx.Empty() {
		return nil
	}
	return m.beside.Apply(tx)
}

// watchOver lets the guard follow the policies.
func (m *machine) watchOver(policies []policy.Policy) error {
	rules := guardRules(policies)
	if m.guard == nil || slices.Equal(rules, m.guarded) {
		return nil
	}
	if err := m.guard.Replace(rules); err != nil {
		return err
	}
	m.guarded = rules
	return nil
}

// retire deletes the policies that are not part of the layout.
func (m *machine) retire() error {
	keep := make(map[policy.PolicyID]bool, len(m.layout.policies))
	for _, p := range m.layout.policies {
		keep[p.ID] = true
	}
	var tx policy.Tx
	for id := range m.policies {
		if !keep[id] {
			tx.DeletePolicies = append(tx.DeletePolicies, id)
			delete(m.policies, id)
		}
	}
	slices.Sort(tx.DeletePolicies)
	return errors.Join(m.plane.Apply(tx), m.applyBeside(policy.Tx{DeletePolicies: tx.DeletePolicies}))
}

// lookAgain lays everything out anew if addresses or routes that matter have changed, and says whether they have.
func (m *machine) lookAgain() bool {
	w, err := look(m.host.Look())
	if err != nil {
		m.log.Warn("addresses cannot be listed", slog.String(keyReason, err.Error()))
		return false
	}
	now := w.view(m.withPeers(m.layout.tunnels))
	if reflect.DeepEqual(now, m.view) {
		return false
	}
	for peer, u := range now.uplinks {
		if old, ok := m.view.uplinks[peer]; ok && old.MTU != u.MTU {
			m.pathMTU(peer, u.MTU)
		}
	}
	m.view = now
	if err := m.relay(m.layout.tunnels); err != nil {
		m.log.Error("routes cannot follow a change of the machine", slog.String(keyReason, err.Error()))
	}
	return true
}

// loosen makes these uplinks' reverse-path filters loose, and only these. Without it a tunnel may still work.
func (m *machine) loosen(uplinks []string) {
	for name, c := range m.loosened {
		if !slices.Contains(uplinks, name) {
			if err := c.Undo(); err != nil {
				m.log.Warn("the reverse-path filter cannot be restored", slog.String(keyUplink, name), slog.String(keyReason, err.Error()))
			}
			delete(m.loosened, name)
		}
	}
	for _, name := range uplinks {
		if m.loosened[name] != nil {
			continue
		}
		c, err := m.host.LoosenRPFilter(name)
		switch {
		case err != nil:
			m.log.Warn("a strict reverse-path filter will drop what peers send", slog.String(keyUplink, name), slog.String(keyReason, err.Error()))
		case c != nil:
			m.loosened[name] = c
			m.log.Info("the reverse-path filter is loose while we run", slog.String(keyUplink, name))
		}
	}
}
