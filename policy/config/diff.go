package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"coati/policy"
)

// Plan is what a reload changes: the way from one configuration to another.
type Plan struct {
	Added, Removed []string // tunnels, in the order of the new and of the old configuration
	Changed        []TunnelChange
	Unchanged      []string
	// Gateway are settings of [gateway] that differ and take effect at once, Restart those that need a new start.
	Gateway, Restart []Change
}

// TunnelChange is a tunnel that both configurations have, differently.
type TunnelChange struct {
	Name string
	// Settings of the tunnel itself that differ; empty if only children do.
	Settings                       []Change
	ChildrenAdded, ChildrenRemoved []string
	ChildrenChanged                []ChildChange
	ChildrenUnchanged              []string
	renegotiated                   bool
}

// Renegotiated says that the IKE SA was made from settings that are no longer true (peer, identities, secret,
// proposals, encapsulation). Other changes, of timers and of when to start, apply to the living SA; those of children to
// their SAs alone.
func (t TunnelChange) Renegotiated() bool { return t.renegotiated }

// ChildChange is a child that both configurations of a tunnel have, differently.
type ChildChange struct {
	Name         string
	Settings     []Change
	renegotiated bool
}

// Renegotiated says that the child was made from settings that are no longer true. Its lifetimes are no such setting:
// they count from its next rekey on.
func (c ChildChange) Renegotiated() bool { return c.renegotiated }

// Change is one key of the file with its old and new value, as the file would say them. Secrets are redacted.
type Change struct{ Key, Old, New string }

func (c Change) String() string { return fmt.Sprintf("%s: %s -> %s", c.Key, c.Old, c.New) }

// Empty says that nothing differs.
func (p Plan) Empty() bool {
	return len(p.Added)+len(p.Removed)+len(p.Changed)+len(p.Gateway)+len(p.Restart) == 0
}

// String is the plan for people, one line for each change.
func (p Plan) String() string {
	var b strings.Builder
	for _, c := range p.Gateway {
		fmt.Fprintf(&b, "~ gateway: %s\n", c)
	}
	for _, c := range p.Restart {
		fmt.Fprintf(&b, "! gateway: %s (needs a restart)\n", c)
	}
	for _, n := range p.Removed {
		fmt.Fprintf(&b, "- %s\n", n)
	}
	for _, n := range p.Added {
		fmt.Fprintf(&b, "+ %s\n", n)
	}
	for _, t := range p.Changed {
		for _, c := range t.Settings {
			fmt.Fprintf(&b, "~ %s: %s\n", t.Name, c)
		}
		if t.renegotiated {
			fmt.Fprintf(&b, "! %s: is negotiated anew\n", t.Name)
		}
		for _, n := range t.ChildrenRemoved {
			fmt.Fprintf(&b, "- %s/%s\n", t.Name, n)
		}
		for _, n := range t.ChildrenAdded {
			fmt.Fprintf(&b, "+ %s/%s\n", t.Name, n)
		}
		for _, ch := range t.ChildrenChanged {
			for _, c := range ch.Settings {
				fmt.Fprintf(&b, "~ %s/%s: %s\n", t.Name, ch.Name, c)
			}
			if ch.renegotiated && !t.renegotiated {
				fmt.Fprintf(&b, "! %s/%s: is negotiated anew\n", t.Name, ch.Name)
			}
		}
	}
	if b.Len() == 0 {
		return "nothing changes\n"
	}
	return b.String()
}

// Diff is the plan that leads from one configuration to the other.
func Diff(old, new *Config) Plan {
	var p Plan
	p.Gateway, p.Restart = diffGateway(old.Gateway, new.Gateway)
	before := make(map[string]*policy.PeerTunnel, len(old.Tunnels))
	for i := range old.Tunnels {
		before[old.Tunnels[i].Name] = &old.Tunnels[i]
	}
	for i := range new.Tunnels {
		n := &new.Tunnels[i]
		o, known := before[n.Name]
		if !known {
			p.Added = append(p.Added, n.Name)
			continue
		}
		delete(before, n.Name)
		if c := diffTunnel(o, n); len(c.Settings)+len(c.ChildrenAdded)+len(c.ChildrenRemoved)+len(c.ChildrenChanged) > 0 {
			p.Changed = append(p.Changed, c)
		} else {
			p.Unchanged = append(p.Unchanged, n.Name)
		}
	}
	for i := range old.Tunnels {
		if _, gone := before[old.Tunnels[i].Name]; gone {
			p.Removed = append(p.Removed, old.Tunnels[i].Name)
		}
	}
	return p
}

// said is a setting in the words of the file.
type said struct{ key, value string }

func compare(old, new []said) []Change {
	var out []Change
	for i := range old {
		if old[i].value != new[i].value {
			out = append(out, Change{old[i].key, old[i].value, new[i].value})
		}
	}
	return out
}

func diffGateway(old, new Gateway) (live, restart []Change) {
	sayings := func(g Gateway) (live, restart []said) {
		live = []said{
			{"secrets-permissions", g.SecretsPermissions.String()},
			{"on-exit", g.OnExit.String()},
			{"log-level", sayLevel(g.LogLevel)},
		}
		restart = []said{
			{"tun", g.TUN},
			{"control", g.Control},
			{"control-group", g.ControlGroup},
			{"keylog", g.KeyLog},
			{"leases", g.Leases},
			{"ike-port", strconv.Itoa(int(g.IKEPort))},
			{"natt-port", strconv.Itoa(int(g.NATTPort))},
			{"queues", strconv.Itoa(g.Queues)},
			{"plane", g.Plane.String()},
			{"nd-bypass", strconv.FormatBool(g.NDBypass)},
			{"guard", strconv.FormatBool(g.Guard)},
			{"mtu-floor", strconv.Itoa(g.MTUFloor)},
			{"mtu-aging", sayDuration(g.MTUAging)},
			{"icmp-accept", g.ICMPAccept.String()},
		}
		return live, restart
	}
	ol, or := sayings(old)
	nl, nr := sayings(new)
	return compare(ol, nl), compare(or, nr)
}

// peerSettings are what an IKE SA was negotiated from, timerSettings what it does later.
func peerSettings(t *policy.PeerTunnel) []said {
	return []said{
		{"version", strconv.Itoa(int(t.Version))},
		{"aggressive", strconv.FormatBool(t.V1.Aggressive)},
		{"proposal-check", t.V1.Check.String()},
		{"xauth", t.V1.XAuth.String()},
		{"xauth-user", t.V1.User},
		{"mode-config", strconv.FormatBool(t.V1.Push)},
		{"banner", t.V1.Banner},
		{"split-include", fmt.Sprint(t.V1.SplitInclude)},
		{"local", sayLocal(t)},
		{"remote", sayRemote(t)},
		{"local-id", t.LocalID.String()},
		{"remote-id", t.RemoteID.String()},
		{"auth", t.LocalAuth.String()},
		{"remote-auth", t.RemoteAuth.String()},
		{"ppk-id", t.PPKID},
		{"ppk-required", strconv.FormatBool(t.PPKRequired)},
		{"ike", sayList(t.IKE)},
		{"childless", strconv.FormatBool(t.Childless)},
		{"encap", t.Encap.String()},
		{"fragment-size", sayFragmentSize(t)},
		{"mobike", strconv.FormatBool(t.MOBIKE)},
		{"virtual-ip", strings.Join(words(t.VirtualIP), ", ")},
	}
}

func timerSettings(t *policy.PeerTunnel) []said {
	return []said{
		{"start", t.Start.String()},
		{"pool", sayList(t.Pool)},
		{"dns", strings.Join(words(t.DNS), ", ")},
		{"dns-domains", strings.Join(t.Domains, ", ")},
		{"dpd", sayDuration(t.DPD)},
		{"keepalive", sayDuration(t.Keepalive)},
		{"lifetime", sayDuration(t.Lifetime)},
		{"reauth", sayDuration(t.Reauth)},
		{"unique", t.Unique.String()},
		{"on-dead", t.OnDead.String()},
		{"on-close", t.OnClose.String()},
	}
}

func childSettings(c *policy.Child) []said {
	return []said{
		{"mode", c.Mode.String()},
		{"local-ts", sayList(c.Local)},
		{"remote-ts", sayList(c.Remote)},
		{"esp", sayList(c.ESP)},
		{"lifetime", sayLifetime(c.Lifetime)},
		{"lifetime-packets", strconv.FormatUint(c.Lifetime.HardPackets, 10)},
		{"lifetime-octets", strconv.FormatUint(c.Lifetime.HardOctets, 10)},
		{"replay-window", strconv.Itoa(int(c.ReplayWindow))},
		{"priority", strconv.Itoa(int(c.Priority))},
		{"level", c.Level.String()},
		{"sha256-96", strconv.FormatBool(c.ICV96)},
		{"df", c.Header.DF.String()},
		{"dscp", sayDSCP(&c.Header)},
		{"hop-limit", strconv.Itoa(int(c.Header.HopLimit))},
		{"flow-label", sayFlowLabel(&c.Header)},
		{"tfc", sayTFC(c.TFC)},
		{"fragment", sayFragment(c.FragmentAfter)},
		{"mss", sayMSS(c.MSS)},
		{"icmp-errors", c.ICMPErrors.String()},
		{"dummy-interval", sayDuration(c.DummyInterval)},
	}
}

func diffTunnel(old, new *policy.PeerTunnel) TunnelChange {
	t := TunnelChange{Name: new.Name, Settings: compare(peerSettings(old), peerSettings(new))}
	if !old.PSK.Equal(new.PSK) {
		t.Settings = append(t.Settings, Change{"psk-file", old.PSK.String(), new.PSK.String() + " (another key)"})
	}
	if a, b := old.V1, new.V1; !a.Password.Equal(b.Password) || !slices.EqualFunc(a.Users, b.Users, func(x, y policy.XAuthUser) bool { return x.Name == y.Name && x.Password.Equal(y.Password) }) {
		t.Settings = append(t.Settings, Change{"xauth", old.V1.XAuth.String(), new.V1.XAuth.String() + " (other users or passwords)"})
	}
	if !old.PPK.Equal(new.PPK) {
		t.Settings = append(t.Settings, Change{"ppk-file", old.PPK.String(), new.PPK.String() + " (another key)"})
	}
	t.Settings = append(t.Settings, diffCredentials(old, new)...)
	t.renegotiated = len(t.Settings) > 0
	t.Settings = append(t.Settings, compare(timerSettings(old), timerSettings(new))...)

	before := make(map[string]*policy.Child, len(old.Children))
	for i := range old.Children {
		before[old.Children[i].Name] = &old.Children[i]
	}
	for i := range new.Children {
		n := &new.Children[i]
		o, known := before[n.Name]
		if !known {
			t.ChildrenAdded = append(t.ChildrenAdded, n.Name)
			continue
		}
		delete(before, n.Name)
		if c := compare(childSettings(o), childSettings(n)); len(c) > 0 {
			t.ChildrenChanged = append(t.ChildrenChanged, ChildChange{n.Name, c, !o.SameSA(n)})
		} else {
			t.ChildrenUnchanged = append(t.ChildrenUnchanged, n.Name)
		}
	}
	for i := range old.Children {
		if _, gone := before[old.Children[i].Name]; gone {
			t.ChildrenRemoved = append(t.ChildrenRemoved, old.Children[i].Name)
		}
	}
	return t
}

func sayLocal(t *policy.PeerTunnel) string {
	if t.Local.IsValid() {
		return t.Local.String()
	}
	return "the route's"
}

func sayRemote(t *policy.PeerTunnel) string {
	switch {
	case t.Remote.IsValid():
		return t.Remote.String()
	case t.RemoteHost != "":
		return t.RemoteHost
	}
	return "any"
}

func sayList[T fmt.Stringer](list []T) string {
	words := make([]string, len(list))
	for i := range list {
		words[i] = list[i].String()
	}
	return strings.Join(words, " ")
}

// sayLifetime tells all the limits apart, also those the file has no key for.
func sayLifetime(l policy.Lifetime) string {
	if l == childLifetime(l.HardTime, l.HardPackets, l.HardOctets) {
		return sayDuration(l.HardTime)
	}
	return fmt.Sprintf("time %s/%s packets %d/%d octets %d/%d", sayDuration(l.SoftTime), sayDuration(l.HardTime), l.SoftPackets, l.HardPackets, l.SoftOctets, l.HardOctets)
}

// sayDuration is the shortest form the file reads: "1h", not "1h0m0s".
func sayDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func sayDSCP(h *policy.TunnelHeader) string {
	if h.FixedDSCP {
		return strconv.Itoa(int(h.DSCP))
	}
	return "copy"
}

func sayFlowLabel(h *policy.TunnelHeader) string {
	if h.CopyFlowLabel {
		return "copy"
	}
	return "system"
}

func sayTFC(tfc int) string {
	if tfc == policy.TFCToMTU {
		return "mtu"
	}
	return strconv.Itoa(tfc)
}
