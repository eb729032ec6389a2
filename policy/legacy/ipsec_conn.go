package legacy

import (
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"coati/policy/config"
)

// connReader makes settings of one conn.
type connReader struct {
	*IPsecFiles
	*faults
	*conn
	said map[config.Fault]bool
	host Host

	version1 bool
	peer     []setting // of the tunnel
	child    []setting // of every child
	start    int       // listen, on-demand, now
	startAt  config.Place
}

// setting is one key of the native file with its value as TOML.
type setting struct {
	key, value string
	at         config.Place
}

func (c *connReader) once(s config.Severity, at config.Place, format string, args ...any) {
	once(c.faults, c.said, s, at, format, args...)
}

// set says a key, instead of what was said of it before.
func (c *connReader) set(list *[]setting, at config.Place, key, value string) {
	*list = slices.DeleteFunc(*list, func(s setting) bool { return s.key == key })
	*list = append(*list, setting{key, value, at})
}

// rowOf finds the row of a parameter of a conn: what is said of left is said of right.
func rowOf(key string) *row {
	if rest, ok := strings.CutPrefix(key, "right"); ok {
		key = "left" + rest
	}
	return findRow(ipsecRows, "conn", key)
}

var startWords = []string{"listen", "on-demand", "now"}

// loaded says whether a conn is there at all, and when it begins.
func (c *connReader) loaded() bool {
	p, set := c.params["auto"]
	c.startAt = p.at
	if !set {
		return false
	}
	switch p.value {
	case "ignore", "manual":
		return false
	case "add", "keep":
		c.start = 0
	case "route", "ondemand", "trap":
		c.start = 1
	case "start", "up":
		c.start = 2
	default:
		c.once(config.Error, p.at, "want ignore, add, route, ondemand, start, up or keep")
		return false
	}
	return true
}

// read gives every parameter to who knows it, in the order of their names.
func (c *connReader) read() {
	for _, k := range slices.Sorted(maps.Keys(c.params)) {
		p := c.params[k]
		r := rowOf(k)
		switch {
		case strings.HasPrefix(k, "x-") || strings.HasPrefix(k, "x_"):
		case r == nil:
			c.once(config.Error, p.at, "unknown parameter of a conn")
		case r.status == refused:
			c.once(config.Error, p.at, "%s", r.note)
		case r.status == lost:
			if !slices.Contains(saysNothing[r.name], p.value) {
				c.once(config.Lost, p.at, "%s", r.note)
			}
		default:
			if h := connHandlers[r.name]; h != nil {
				h(c, p)
			}
		}
	}
	c.dpd()
}

// ikeVersion decides between IKEv1 and IKEv2.
func (c *connReader) ikeVersion() {
	if p, set := c.params["keyexchange"]; set && p.value != "ike" {
		c.version1 = p.value == "ikev1"
		if p.value != "ikev1" && p.value != "ikev2" {
			c.once(config.Error, p.at, "want ike, ikev1 or ikev2")
		}
		return
	}
	p, set := c.params["ikev2"]
	switch {
	case !set && c.pluto:
		c.version1 = true
		c.once(config.Warning, c.at, "says neither ikev2 nor keyexchange: it is taken for IKEv1, as Openswan had it")
	case !set:
	case p.value == "no" || p.value == "never":
		c.version1 = true
	case !slices.Contains([]string{"yes", "propose", "permit", "insist"}, p.value):
		c.once(config.Error, p.at, "want no, never, permit, yes, propose or insist")
	}
}

// yes reads yes and no.
func (c *connReader) yes(p param) bool {
	switch strings.ToLower(p.value) {
	case "yes", "true", "on", "1":
		return true
	case "no", "false", "off", "0", "never":
		return false
	}
	c.once(config.Error, p.at, "want yes or no")
	return false
}

func yesIs(s config.Severity, why string) func(*connReader, param) {
	return func(c *connReader, p param) {
		if c.yes(p) {
			c.once(s, p.at, "yes: %s", why)
		}
	}
}

var connHandlers = map[string]func(*connReader, param){
	"type": func(c *connReader, p param) {
		switch p.value {
		case "tunnel":
		case "transport":
			c.set(&c.child, p.at, "mode", quoteTOML("transport"))
		case "passthrough", "drop", "reject", "pass", "transport_proxy":
			c.once(config.Error, p.at, "%s: write spdadd in a script of setkey's", p.value)
		default:
			c.once(config.Error, p.at, "want tunnel or transport")
		}
	},
	"phase2": func(c *connReader, p param) {
		if p.value != "esp" {
			c.once(config.Error, p.at, "want esp: AH is not carried")
		}
	},
	"ikelifetime": func(c *connReader, p param) { c.timed(&c.peer, "lifetime", p) },
	"keylife":     childLife, "lifetime": childLife, "salifetime": childLife, "ipsec-lifetime": childLife,
	"lifebytes": counted("lifetime-octets"), "ipsec-max-bytes": counted("lifetime-octets"),
	"lifepackets": counted("lifetime-packets"), "ipsec-max-packets": counted("lifetime-packets"),
	"replay_window": counted("replay-window"), "replay-window": counted("replay-window"),
	"rekey": func(c *connReader, p param) {
		if !c.yes(p) {
			c.once(config.Lost, p.at, "no: what expires is negotiated anew")
		}
	},
	"reauth": func(c *connReader, p param) {
		if c.yes(p) {
			c.once(config.Lost, p.at, "yes: an SA is given new keys and not made anew")
		}
	},
	"closeaction": func(c *connReader, p param) { c.lossAction("on-close", p) },
	"forceencaps": func(c *connReader, p param) {
		if c.yes(p) {
			c.set(&c.peer, p.at, "encap", quoteTOML("udp"))
		}
	},
	"encapsulation": func(c *connReader, p param) {
		switch p.value {
		case "auto":
		case "yes":
			c.set(&c.peer, p.at, "encap", quoteTOML("udp"))
		case "no":
			c.set(&c.peer, p.at, "encap", quoteTOML("esp"))
		default:
			c.once(config.Error, p.at, "want auto, yes or no")
		}
	},
	"sha2-truncbug": truncated, "sha2_truncbug": truncated,
	"aggressive": aggressive, "aggrmode": aggressive,
	"compress":          yesIs(config.Lost, "packets are never compressed, which every peer must take"),
	"leftxauthclient":   yesIs(config.Error, "XAUTH is not read yet"),
	"leftxauthserver":   yesIs(config.Error, "XAUTH is not read yet"),
	"leftmodecfgclient": yesIs(config.Error, "nothing is asked by mode config yet"),
	"leftmodecfgserver": yesIs(config.Error, "nothing is told by mode config yet"),
	"connaddrfamily":    family("left", "right"), "hostaddrfamily": family("left", "right"), "clientaddrfamily": family("leftsubnet", "rightsubnet"),
	"authby": func(c *connReader, p param) { c.authentication(p) }, "leftauth": func(c *connReader, p param) { c.authentication(p) },
	"esn": func(c *connReader, p param) {
		if !slices.Contains([]string{"yes", "no", "either"}, p.value) {
			c.once(config.Error, p.at, "want yes, no or either")
		}
	},
	"pfs": func(c *connReader, p param) { c.yes(p) },
}

func childLife(c *connReader, p param) { c.timed(&c.child, "lifetime", p) }

func truncated(c *connReader, p param) {
	if c.yes(p) {
		c.set(&c.child, p.at, "sha256-96", "true")
	}
}

func aggressive(c *connReader, p param) {
	if c.yes(p) {
		c.set(&c.peer, p.at, "aggressive", "true")
	}
}

func counted(key string) func(*connReader, param) {
	return func(c *connReader, p param) {
		n, err := strconv.ParseUint(p.value, 10, 64)
		switch {
		case err != nil || n > math.MaxInt64:
			c.once(config.Error, p.at, "want a number")
		case n == 0:
		default:
			c.set(&c.child, p.at, key, p.value)
		}
	}
}

// family holds addresses to a family.
func family(keys ...string) func(*connReader, param) {
	return func(c *connReader, p param) {
		if p.value != "ipv4" && p.value != "ipv6" {
			c.once(config.Error, p.at, "want ipv4 or ipv6")
			return
		}
		for _, k := range keys {
			for _, v := range strings.Split(c.params[k].value, ",") {
				v, _, _ = strings.Cut(v, "/")
				if a, err := netip.ParseAddr(strings.TrimSpace(v)); err == nil && a.Is4() != (p.value == "ipv4") {
					c.once(config.Error, c.params[k].at, "%s is not of %s, as the conn's addresses are said to be", a, p.value)
				}
			}
		}
	}
}

// ways to authenticate, and what they are in the native file.
var ways = map[string]string{"secret": "psk", "psk": "psk", "rsasig": "cert", "pubkey": "cert", "ecdsasig": "cert", "rsa-sha1": "cert", "rsa-sha2": "cert", "ecdsa": "cert", "rsa": "cert"}

// eapMethods are strongSwan's words, and their methods; eap is any that is built in.
var eapMethods = map[string]string{"eap": "", "eap-mschapv2": "mschapv2", "eap-md5": "md5", "eap-gtc": "gtc"}

func (c *connReader) authentication(p param) string {
	first := strings.TrimSpace(strings.Split(p.value, ",")[0])
	way, ok := ways[first]
	if method, eap := eapMethods[first]; eap && strings.HasSuffix(p.key, "auth") {
		way, ok = "eap", true
		if method != "" {
			c.set(&c.peer, p.at, "eap-methods", tomlList([]string{method}))
		}
	}
	if !ok {
		c.once(config.Error, p.at, "this way to authenticate is not carried yet: want secret (psk) or rsasig (pubkey)")
		return ""
	}
	if strings.ContainsAny(p.value, ",|") {
		c.once(config.Lost, p.at, "one way to authenticate is used: the first")
	}
	return way
}

// span reads 3600, 60m, 1h, 1d, 1w.
func span(s string) (time.Duration, bool) {
	unit := time.Second
	if n := len(s); n > 0 {
		if u, ok := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}[s[n-1]]; ok {
			s, unit = s[:n-1], u
		}
	}
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 32)
	if err != nil || n > uint64(maxSeconds*time.Second/unit) {
		return 0, false
	}
	return time.Duration(n) * unit, true
}

func (c *connReader) timed(list *[]setting, key string, p param) {
	d, ok := span(p.value)
	if !ok {
		c.once(config.Error, p.at, "want seconds, or a number with s, m, h or d, up to ten years")
		return
	}
	c.set(list, p.at, key, quoteTOML(d.String()))
}

func (c *connReader) lossAction(key string, p param) bool {
	action, ok := map[string]string{"clear": "clear", "none": "clear", "hold": "trap", "trap": "trap", "restart": "restart", "restart_by_peer": "restart", "start": "restart"}[p.value]
	if !ok {
		c.once(config.Error, p.at, "want clear, hold, trap, restart or none")
		return false
	}
	if c.params["right"].value == "%any" || c.params["left"].value == "%any" {
		return true // who may be anybody cannot be called
	}
	c.set(&c.peer, p.at, key, quoteTOML(action))
	return true
}

// dpd: neither pluto nor strongSwan asks whether a peer lives unless it is told to.
func (c *connReader) dpd() {
	action, acts := c.params["dpdaction"]
	delay, waits := c.params["dpddelay"]
	if acts && action.value == "none" || !acts && !waits {
		at := c.at
		if acts {
			at = action.at
		}
		c.set(&c.peer, at, "dpd", quoteTOML("0s"))
		return
	}
	if waits {
		c.timed(&c.peer, "dpd", delay)
	}
	if acts {
		c.lossAction("on-dead", action)
	}
}
