package config

import (
	"log/slog"
	"path/filepath"
	"strings"
)

// gatewayKeys are the keys of [gateway].
var gatewayKeys = []key[Gateway]{
	{"tun", func(l *loader, g *Gateway, k setting) {
		s, ok := k.text(l, "coati0")
		// The kernel's rule for names of devices; 15 octets is IFNAMSIZ without its zero.
		if ok && (len(s) > 15 || s == "." || s == ".." || strings.ContainsAny(s, "/: \t%")) {
			k.errorf(l, "%q is no name for a device: want at most 15 characters without blanks, '/', ':' and '%%'", s)
			return
		}
		g.TUN = s
	}},
	{"control", func(l *loader, g *Gateway, k setting) {
		s, ok := k.text(l, "/run/coati/coati.sock")
		switch {
		case !ok:
		case !filepath.IsAbs(s):
			k.errorf(l, "%q is no absolute path", s)
		case len(s) > 107: // sockaddr_un
			k.errorf(l, "%q is too long for a socket: want at most 107 octets", s)
		default:
			g.Control = filepath.Clean(s)
		}
	}},
	{"control-group", func(l *loader, g *Gateway, k setting) { g.ControlGroup, _ = k.text(l, "adm") }},
	{"keylog", func(l *loader, g *Gateway, k setting) {
		s, ok := k.text(l, "/var/log/coati/keys")
		if ok && !filepath.IsAbs(s) {
			k.errorf(l, "%q is no absolute path", s)
			return
		}
		if ok {
			g.KeyLog = filepath.Clean(s)
		}
	}},
	{"leases", func(l *loader, g *Gateway, k setting) {
		s, ok := k.text(l, "/var/lib/coati/leases")
		if ok && !filepath.IsAbs(s) {
			k.errorf(l, "%q is no absolute path", s)
		} else if ok {
			g.Leases = filepath.Clean(s)
		}
	}},
	{"secrets-permissions", func(l *loader, g *Gateway, k setting) {
		i, _ := k.choice(l, SecretsStrict.String(), SecretsAny.String())
		g.SecretsPermissions = SecretsPermissions(max(i, 0))
	}},
	{"ike-port", func(l *loader, g *Gateway, k setting) {
		n, _ := k.integer(l, 1, 65535)
		g.IKEPort = uint16(n)
	}},
	{"natt-port", func(l *loader, g *Gateway, k setting) {
		n, _ := k.integer(l, 1, 65535)
		g.NATTPort = uint16(n)
	}},
	{"queues", func(l *loader, g *Gateway, k setting) {
		n, _ := k.integer(l, 0, 256) // the kernel's MAX_TAP_QUEUES
		g.Queues = int(n)
	}},
	{"nd-bypass", func(l *loader, g *Gateway, k setting) { g.NDBypass, _ = k.boolean(l) }},
	{"on-exit", func(l *loader, g *Gateway, k setting) {
		i, _ := k.choice(l, ExitRestore.String(), ExitBlock.String())
		g.OnExit = OnExit(max(i, 0))
	}},
	{"guard", func(l *loader, g *Gateway, k setting) { g.Guard, _ = k.boolean(l) }},
	{"plane", func(l *loader, g *Gateway, k setting) {
		i, _ := k.choice(l, planeChoices...)
		g.Plane = PlaneChoice(max(i, 0))
	}},
	{"mtu-floor", func(l *loader, g *Gateway, k setting) {
		n, _ := k.integer(l, 68, 65535) // RFC 791, section 3.2
		g.MTUFloor = int(n)
	}},
	{"mtu-aging", func(l *loader, g *Gateway, k setting) {
		d, ok := k.duration(l)
		if ok && d == 0 {
			k.errorf(l, "never is too long: a path that has grown would not be noticed")
		}
		g.MTUAging = d
	}},
	{"icmp-accept", func(l *loader, g *Gateway, k setting) {
		i, _ := k.choice(l, icmpAccepts...)
		g.ICMPAccept = ICMPAccept(max(i, 0))
	}},
	{"log-level", func(l *loader, g *Gateway, k setting) {
		if i, ok := k.choice(l, logLevels...); ok {
			g.LogLevel = slog.LevelDebug + slog.Level(4*i)
		}
	}},
}

// logLevels from the most talkative; neighbours are four apart in slog.
var logLevels = []string{"debug", "info", "warn", "error"}

// readGateway takes the table [gateway] of one file. A key that another file has set is a fault.
func (l *loader) readGateway(k setting) {
	if k.v.kind != kindTable {
		k.errorf(l, "wants a table, not %s: write [gateway]", k.v.kind)
		return
	}
	for _, f := range k.v.fields {
		if first, twice := l.gatewayKeys[f.name]; twice {
			l.errorf(f.at, "%s is set twice: it is also at %s", f.name, first)
			continue
		}
		l.gatewayKeys[f.name] = f.at
	}
	decode(l, k.v, "[gateway]", gatewayKeys, &l.config.Gateway)
}

func (l *loader) checkGateway() {
	g := l.config.Gateway
	if g.IKEPort == g.NATTPort && g.IKEPort != 0 {
		at := l.gatewayKeys["natt-port"]
		if at.file == "" {
			at = l.gatewayKeys["ike-port"]
		}
		l.errorf(at, "ike-port and natt-port are both %d: they must differ (RFC 7296, section 2.23)", g.IKEPort)
	}
}
