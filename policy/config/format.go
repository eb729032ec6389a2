package config

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"coati/policy"
)

// Format writes the canonical native file: the least that means the same, in the order of the schema. Secrets are not
// in it; psk-file names the file the key came from. It fails if the configuration holds something the file cannot say.
func Format(c *Config) ([]byte, error) {
	var w writer
	w.gateway(c.Gateway)
	for i := range c.Tunnels {
		w.tunnel(&c.Tunnels[i], c.PSKFiles[c.Tunnels[i].Name], c.CredentialFiles[c.Tunnels[i].Name])
	}
	if w.err != nil {
		return nil, w.err
	}
	return w.Bytes(), nil
}

type writer struct {
	bytes.Buffer
	err      error
	defaults defaults
}

func (w *writer) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("the native file cannot say this: "+format, args...)
	}
}

func (w *writer) table(header string) {
	if w.Len() > 0 {
		w.WriteByte('\n')
	}
	fmt.Fprintf(w, "%s\n", header)
}

// text writes a string unless it is what is meant without it.
func (w *writer) text(key, value, unless string) {
	if value != unless {
		fmt.Fprintf(w, "%s = %s\n", key, quote(value))
	}
}

func (w *writer) number(key string, value, unless int) {
	if value != unless {
		fmt.Fprintf(w, "%s = %d\n", key, value)
	}
}

func (w *writer) list(key string, values []string) {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = quote(v)
	}
	fmt.Fprintf(w, "%s = [%s]\n", key, strings.Join(quoted, ", "))
}

// quote makes a TOML basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, "\\u%04x", c)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// name writes a part of a header, bare where TOML lets it.
func name(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == "" {
		return s
	}
	return quote(s)
}

func (w *writer) gateway(g Gateway) {
	d := DefaultGateway()
	if g == d {
		return
	}
	w.table("[gateway]")
	w.text("tun", g.TUN, d.TUN)
	w.text("control", g.Control, d.Control)
	w.text("control-group", g.ControlGroup, d.ControlGroup)
	w.text("keylog", g.KeyLog, d.KeyLog)
	w.text("leases", g.Leases, d.Leases)
	w.text("secrets-permissions", g.SecretsPermissions.String(), d.SecretsPermissions.String())
	w.number("ike-port", int(g.IKEPort), int(d.IKEPort))
	w.number("natt-port", int(g.NATTPort), int(d.NATTPort))
	w.number("queues", g.Queues, d.Queues)
	if g.NDBypass != d.NDBypass {
		fmt.Fprintf(w, "nd-bypass = %t\n", g.NDBypass)
	}
	w.text("on-exit", g.OnExit.String(), d.OnExit.String())
	if g.Guard != d.Guard {
		fmt.Fprintf(w, "guard = %t\n", g.Guard)
	}
	w.text("plane", g.Plane.String(), d.Plane.String())
	w.number("mtu-floor", g.MTUFloor, d.MTUFloor)
	w.text("mtu-aging", sayDuration(g.MTUAging), sayDuration(d.MTUAging))
	w.text("icmp-accept", g.ICMPAccept.String(), d.ICMPAccept.String())
	w.text("log-level", sayLevel(g.LogLevel), sayLevel(d.LogLevel))
}

// sayLevel is the word for a level of slog; levels between two words take the quieter one's.
func sayLevel(level slog.Level) string {
	i := (int(level-slog.LevelDebug) + 3) / 4
	return logLevels[min(max(i, 0), len(logLevels)-1)]
}

func (w *writer) tunnel(t *policy.PeerTunnel, pskFile string, files CredentialFiles) {
	if t.Version != 1 && t.Version != 2 {
		w.fail("tunnel %s has ike version %d", t.Name, t.Version)
	}
	if psk := t.LocalAuth == policy.ByPSK || t.RemoteAuth == policy.ByPSK; psk && pskFile == "" {
		w.fail("tunnel %s has no psk-file", t.Name)
	}
	w.table("[tunnel." + name(t.Name) + "]")
	w.number("version", int(t.Version), 2)
	w.defaults = defaultsOf(t.Version)
	w.flag("aggressive", t.V1.Aggressive)
	w.xauth(t, files.XAuth)
	w.text("proposal-check", t.V1.Check.String(), policy.CheckClaim.String())
	if t.Local.IsValid() {
		w.text("local", t.Local.String(), "")
	}
	w.text("remote", sayRemote(t), "")
	w.identity("local-id", t.LocalID)
	start := policy.StartOnDemand
	if sayRemote(t) == "any" || t.RemoteAuth == policy.ByEAP && t.LocalAuth != policy.ByEAP && t.EAP.Serves() {
		start = policy.StartListen
	}
	if sayRemote(t) != "any" || t.RemoteID.Type != policy.IDAnyOne {
		w.identity("remote-id", t.RemoteID)
	}
	w.text("auth", t.LocalAuth.String(), policy.ByPSK.String())
	unless := t.LocalAuth.String()
	if t.LocalAuth == policy.ByEAP {
		unless = "" // it is said always
	}
	w.text("remote-auth", t.RemoteAuth.String(), unless)
	w.text("psk-file", pskFile, "")
	w.credentials(t, files)
	w.eap(t, files.EAP)
	w.proposals("ike", t.IKE, w.defaults.ike)
	w.flag("childless", t.Childless)
	w.text("start", t.Start.String(), start.String())
	w.text("encap", t.Encap.String(), policy.EncapAuto.String())
	w.addresses(t)
	w.flag("mobike", t.MOBIKE)
	w.fragmentSize(t)
	w.text("dpd", sayDuration(t.DPD), sayDuration(DefaultDPD))
	w.text("keepalive", sayDuration(t.Keepalive), sayDuration(DefaultKeepalive))
	w.text("lifetime", sayDuration(t.Lifetime), sayDuration(DefaultLifetime))
	w.text("reauth", sayDuration(t.Reauth), sayDuration(0))
	w.text("unique", t.Unique.String(), usualUnique(t).String())
	w.text("on-dead", t.OnDead.String(), policy.LossByStart.String())
	w.text("on-close", t.OnClose.String(), policy.LossByStart.String())
	if len(t.Children) == 0 {
		w.fail("tunnel %s has no child", t.Name)
	}
	if len(t.Children) == 1 && t.Children[0].Name == t.Name && t.Children[0].Lifetime.HardTime == DefaultChildLifetime {
		w.child(t.Name, &t.Children[0])
		return
	}
	for i := range t.Children {
		c := &t.Children[i]
		w.table("[[tunnel." + name(t.Name) + ".child]]")
		w.text("name", c.Name, "")
		w.child(t.Name, c)
		w.text("lifetime", sayDuration(c.Lifetime.HardTime), sayDuration(DefaultChildLifetime))
	}
}

// child writes the keys a child and its tunnel's own table have in common.
func (w *writer) child(tunnel string, c *policy.Child) {
	w.text("mode", c.Mode.String(), policy.Tunnel.String())
	if !slices.Equal(c.Local, everything(c.Remote)) {
		w.selectors("local-ts", c.Local)
	}
	w.selectors("remote-ts", c.Remote)
	w.proposals("esp", c.ESP, w.defaults.esp)
	life := c.Lifetime
	if life != childLifetime(life.HardTime, life.HardPackets, life.HardOctets) || int64(life.HardPackets) < 0 || int64(life.HardOctets) < 0 {
		w.fail("child %s/%s has soft lifetimes other than %d %% of the hard ones", tunnel, c.Name, softPercent)
	}
	w.number("lifetime-packets", int(life.HardPackets), 0)
	w.number("lifetime-octets", int(life.HardOctets), 0)
	w.number("replay-window", int(c.ReplayWindow), DefaultReplayWindow)
	w.number("priority", int(c.Priority), int(autoPriority(c.Local, c.Remote)))
	w.text("level", c.Level.String(), policy.LevelRequire.String())
	w.flag("sha256-96", c.ICV96)
	w.header(&c.Header)
	if c.TFC == policy.TFCToMTU {
		w.text("tfc", "mtu", "")
	} else {
		w.number("tfc", c.TFC, 0)
	}
	w.text("fragment", sayFragment(c.FragmentAfter), sayFragment(false))
	if c.MSS > 0 {
		w.number("mss", c.MSS, 0)
	} else {
		w.text("mss", sayMSS(c.MSS), sayMSS(0))
	}
	w.text("icmp-errors", c.ICMPErrors.String(), policy.ICMPByEither.String())
	w.text("dummy-interval", sayDuration(c.DummyInterval), sayDuration(0))
}

// flag writes a boolean that is false unless the file says otherwise.
func (w *writer) flag(key string, value bool) {
	if value {
		fmt.Fprintf(w, "%s = true\n", key)
	}
}

func (w *writer) header(h *policy.TunnelHeader) {
	w.text("df", h.DF.String(), policy.DFSet.String())
	if h.FixedDSCP {
		w.number("dscp", int(h.DSCP), -1)
	}
	w.number("hop-limit", int(h.HopLimit), 0)
	if h.CopyFlowLabel {
		w.text("flow-label", "copy", "")
	}
}

func sayFragment(after bool) string {
	if after {
		return "after"
	}
	return "before"
}

func sayMSS(mss int) string {
	switch {
	case mss > 0:
		return strconv.Itoa(mss)
	case mss < 0:
		return "off"
	}
	return "auto"
}

// everything is what a child's local selectors are if the file names none.
func everything(remote []policy.Selector) []policy.Selector {
	return slices.DeleteFunc(policy.AnySelectors(), func(s policy.Selector) bool {
		return !slices.ContainsFunc(remote, func(r policy.Selector) bool { return r.Start.BitLen() == s.Start.BitLen() })
	})
}

func (w *writer) identity(key string, id policy.Identity) {
	if id.IsZero() {
		return
	}
	s := id.String()
	if again, err := policy.ParseIdentity(s); err != nil || !again.Equal(id) {
		w.fail("%s %s", key, s)
	}
	w.text(key, s, "")
}

func (w *writer) selectors(key string, set []policy.Selector) {
	words := make([]string, len(set))
	for i, s := range set {
		words[i] = s.String()
		if again, err := policy.ParseSelector(words[i]); err != nil || again != s {
			w.fail("selector %s", words[i])
		}
	}
	w.list(key, words)
}

func (w *writer) proposals(key string, ps, unless []policy.Proposal) {
	if sayList(ps) == sayList(unless) {
		return
	}
	words := make([]string, len(ps))
	for i, p := range ps {
		words[i] = p.String()
		if again, err := policy.ParseProposal(p.Protocol, words[i]); err != nil || again.String() != words[i] {
			w.fail("proposal %s", strconv.Quote(words[i]))
		}
	}
	w.list(key, words)
}
