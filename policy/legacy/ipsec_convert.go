package legacy

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"coati/policy/config"
)

// Convert makes tunnels of the conns that are to be there. Conns of the same two hosts that want the same of the tunnel are its
// children.
func (f *IPsecFiles) Convert(host Host, disk Disk) (*Converted, []config.Fault) {
	c := &ipsecConversion{IPsecFiles: f, faults: &faults{}, native: newNative(), host: host, disk: disk, said: map[config.Fault]bool{}, byKey: map[string]*ipsecTunnel{}}
	c.gateway()
	for _, x := range c.conns {
		c.conn(x)
	}
	if len(c.tunnels) == 0 && !config.Failed(c.list) {
		c.warn(config.Place{File: f.file}, "no conn is to be there: say auto=add, route or start")
	}
	for _, t := range c.tunnels {
		c.write(t)
	}
	all := c.all()
	if config.Failed(all) {
		return nil, all
	}
	return c.converted(f.file), all
}

type ipsecConversion struct {
	*IPsecFiles
	*faults
	*native
	host    Host
	disk    Disk
	said    map[config.Fault]bool
	tunnels []*ipsecTunnel
	byKey   map[string]*ipsecTunnel // by all that conns of one tunnel have in common
}

// ipsecTunnel is what conns have in common.
type ipsecTunnel struct {
	name     string
	at       config.Place
	settings []setting
	start    int
	startAt  config.Place
	secret   *ipsecSecret
	files    []ipsecFile
	children []ipsecChild
}

// ipsecFile is a key that travels beside the text, under a name that ends so.
type ipsecFile struct {
	key, ending string
	data        []byte
	at          config.Place
}

type ipsecChild struct {
	name     string
	at       config.Place
	settings []setting
}

func (c *ipsecConversion) gateway() {
	var out []setting
	for _, k := range []struct{ from, key string }{{"ikeport", "ike-port"}, {"nat-ikeport", "natt-port"}, {"nat_ikeport", "natt-port"}} {
		if p, set := c.setup[k.from]; set {
			if p.value == "" || strings.Trim(p.value, "0123456789") != "" || len(p.value) > 5 {
				c.fault(p.at, "want a port")
				continue
			}
			out = append(out, setting{k.key, strings.TrimLeft(p.value, "0"), p.at})
		}
	}
	if len(out) == 0 {
		return
	}
	c.header(out[0].at, "[gateway]")
	for _, s := range out {
		c.line(s.at, "%s = %s", s.key, s.value)
	}
}

func (c *ipsecConversion) conn(x *conn) {
	r := &connReader{IPsecFiles: c.IPsecFiles, faults: c.faults, conn: x, said: c.said, host: c.host}
	if !r.loaded() {
		return
	}
	us, them, ok := r.theEnds()
	if !ok {
		return
	}
	t := &ipsecTunnel{name: x.name, at: x.at, start: r.start, startAt: r.startAt}
	if r.ikeVersion(); r.version1 {
		r.set(&r.peer, x.at, "version", "1")
	}
	local := us.addr
	if !local.IsValid() && them.addr.IsValid() && c.host.Source != nil {
		local = c.host.Source(them.addr)
	}
	switch {
	case us.addr.IsValid():
		r.set(&r.peer, us.at, "local", quoteTOML(us.addr.String()))
	case !us.any() && !us.routed():
		r.once(config.Lost, us.at, "a host name of our own is not looked up: the address is the one from which this host speaks to the peer")
	}
	switch {
	case them.any():
		r.set(&r.peer, them.at, "remote", quoteTOML("any"))
		if r.start > 0 {
			r.once(config.Error, r.startAt, "the other end may be anybody, and cannot be called: want auto=add")
			return
		}
	case them.routed():
		r.once(config.Error, them.at, "%%defaultroute is no peer")
		return
	default:
		r.set(&r.peer, them.at, "remote", quoteTOML(them.host))
	}
	r.identities(&us, &them, t)
	r.read()
	r.natTraversal()
	r.unique()
	r.ike()
	t.settings = r.peer
	if !r.children(&us, &them, local, t) {
		return
	}
	c.join(t)
}

// identities writes who both are and by what they prove it.
func (c *connReader) identities(us, them *ipsecEnd, t *ipsecTunnel) {
	ourID, ourAt := c.identity(us)
	theirID, theirAt := c.identity(them)
	way := func(e *ipsecEnd) (string, config.Place) {
		for _, k := range []string{e.side + "auth", "authby"} {
			if p, set := c.params[k]; set {
				return c.authentication(p), p.at
			}
		}
		return "cert", c.at // as in both dialects
	}
	ours, oursAt := way(us)
	theirs, theirsAt := way(them)
	if ours == "" || theirs == "" {
		return
	}
	if ourID != "" && ourID != "any" {
		c.set(&c.peer, ourAt, "local-id", quoteTOML(ourID))
	}
	if theirID == "" && theirs == "cert" && them.addr.IsValid() {
		theirID, theirAt = them.addr.String(), them.at
	}
	if theirID != "" {
		c.set(&c.peer, theirAt, "remote-id", quoteTOML(theirID))
	}
	if p, set := c.params[them.side+"rsasigkey"]; theirs == "cert" && set && p.value != "%cert" && p.value != "" {
		theirs = "pubkey"
	} else if p, set := c.params[them.side+"cert"]; theirs == "cert" && set && p.value != "" {
		theirs = "pubkey" // the certificate stands for its key
	}
	if _, certified := c.params[us.side+"cert"]; ours == "cert" && !certified && slices.ContainsFunc(c.secrets, func(s ipsecSecret) bool { return s.pem != nil }) {
		ours = "pubkey"
	}
	if ours != "psk" {
		c.set(&c.peer, oursAt, "auth", quoteTOML(ours))
	}
	if theirs != ours || ours == "eap" {
		c.set(&c.peer, theirsAt, "remote-auth", quoteTOML(theirs))
	}
	if ours == "eap" {
		c.user(us, t)
	}
	if theirs == "eap" && ours != "eap" {
		if list := users(c.secrets); len(list) > 0 {
			t.files = append(t.files, ipsecFile{"eap-users-file", ".users", list, theirsAt})
		} else {
			c.once(config.Error, theirsAt, "no EAP in ipsec.secrets names a user")
		}
	}
	known := func(e *ipsecEnd, id string) []string {
		out := []string{id}
		if e.addr.IsValid() {
			out = append(out, e.addr.String())
		} else if !e.any() && !e.routed() {
			out = append(out, ipsecIdentity(e.host))
		}
		return slices.DeleteFunc(out, func(s string) bool { return s == "" || s == "any" })
	}
	mine, others := known(us, ourID), known(them, theirID)
	if ours == "psk" || theirs == "psk" {
		if t.secret = findSecret(c.secrets, []string{"PSK"}, mine, others); t.secret == nil {
			c.once(config.Error, c.at, "%s: no PSK in ipsec.secrets is for its ends", clip(c.name))
		}
	}
	if ours == "cert" || ours == "pubkey" {
		c.ourKey(us, mine, others, ours == "cert", t)
	}
	if theirs == "cert" || theirs == "pubkey" {
		c.theirKey(them, t)
	}
}

// user says who we are by EAP, and the password. Who authenticates by EAP begins the tunnel.
func (c *connReader) user(us *ipsecEnd, t *ipsecTunnel) {
	p := c.params["eap_identity"]
	if p.value == "" || strings.HasPrefix(p.value, "%") {
		p = c.params[us.side+"id"]
	}
	if p.value == "" {
		c.once(config.Error, c.at, "%s: EAP needs eap_identity: the user that we are", clip(c.name))
		return
	}
	s := findPassword(c.secrets, p.value)
	if s == nil {
		c.once(config.Error, p.at, "no EAP in ipsec.secrets is for this user")
		return
	}
	c.set(&c.peer, p.at, "eap-identity", quoteTOML(p.value))
	t.files = append(t.files, ipsecFile{"eap-password-file", ".password", s.secret.Reveal(), s.at})
	if t.start == 0 {
		t.start = 1
		c.once(config.Warning, c.startAt, "who authenticates by EAP begins the tunnel: it waits for traffic, or ipsec up")
	}
}

func (c *connReader) certPath(folder, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(c.file), "ipsec.d", folder, name)
}

// ourKey writes certificate and private key, or the key alone.
func (c *connReader) ourKey(us *ipsecEnd, mine, others []string, certified bool, t *ipsecTunnel) {
	p, set := c.params[us.side+"cert"]
	switch {
	case certified && (!set || p.value == ""):
		c.once(config.Error, c.at, "%s: rsasig needs %scert, or a key that is written out in ipsec.secrets", clip(c.name), us.side)
		return
	case certified:
		c.set(&c.peer, p.at, "cert-file", quoteTOML(c.certPath("certs", p.value)))
	default:
		p.at = c.at
	}
	list := slices.DeleteFunc(slices.Clone(c.secrets), func(s ipsecSecret) bool { return !certified && s.pem == nil })
	switch k := findSecret(list, []string{"RSA", "ECDSA", "PKCS8", "PRIVATE"}, mine, others); {
	case k == nil:
		c.once(config.Error, p.at, "no RSA or ECDSA in ipsec.secrets is our key")
	case k.pem != nil:
		t.files = append(t.files, ipsecFile{"key-file", ".key", k.pem, k.at})
	default:
		c.set(&c.peer, k.at, "key-file", quoteTOML(k.file))
	}
}

// theirKey writes by what the peer's signature is believed: a key, a certificate that stands for it, or an authority.
func (c *connReader) theirKey(them *ipsecEnd, t *ipsecTunnel) {
	if p, set := c.params[them.side+"rsasigkey"]; set && p.value != "%cert" && p.value != "" {
		key, err := publicPEM(p.value)
		if err != nil {
			c.once(config.Error, p.at, "%s", err)
			return
		}
		t.files = append(t.files, ipsecFile{"remote-key-file", ".pub", key, p.at})
		return
	}
	if p, set := c.params[them.side+"cert"]; set && p.value != "" {
		c.set(&c.peer, p.at, "remote-key-file", quoteTOML(c.certPath("certs", p.value)))
		return
	}
	switch len(c.cacerts) {
	case 1:
		c.set(&c.peer, c.cacerts[0].at, "ca-file", quoteTOML(c.certPath("cacerts", c.cacerts[0].value)))
	case 0:
		c.once(config.Error, c.at, "%s: rsasig needs a section ca with cacert, %scert or %[2]srsasigkey", clip(c.name), them.side)
	default:
		c.once(config.Error, c.cacerts[1].at, "there is more than one authority: put them into one file")
	}
}

func (c *connReader) natTraversal() {
	written := slices.ContainsFunc(c.peer, func(s setting) bool { return s.key == "encap" })
	if p, set := c.setup["nat_traversal"]; set && !written && !c.yes(p) {
		c.set(&c.peer, p.at, "encap", quoteTOML("esp"))
	}
	for _, k := range []string{"keep_alive", "keep-alive"} {
		if p, set := c.setup[k]; set {
			c.timed(&c.peer, "keepalive", p)
		}
	}
}

func (c *connReader) unique() {
	p, set := c.setup["uniqueids"]
	if !set || c.version1 {
		return
	}
	switch p.value {
	case "no":
	case "yes", "replace":
		c.set(&c.peer, p.at, "unique", quoteTOML("replace"))
	case "keep", "never":
		c.set(&c.peer, p.at, "unique", quoteTOML(p.value))
	default:
		c.once(config.Error, p.at, "want yes, no, never, replace or keep")
	}
}

// ike writes the proposals of phase 1. A list without a group has modp2048.
func (c *connReader) ike() {
	p, set := c.params["ike"]
	if !set {
		return
	}
	var out []string
	for _, words := range suites(p.value) {
		if !slices.ContainsFunc(words, isGroup) {
			c.once(config.Warning, p.at, "no group is named: modp2048 is used")
			words = append(words, "modp2048")
		}
		out = append(out, quoteTOML(strings.Join(words, "-")))
	}
	if len(out) == 0 {
		c.once(config.Error, p.at, "want proposals such as aes128-sha256-modp2048")
		return
	}
	c.set(&c.peer, p.at, "ike", "["+strings.Join(out, ", ")+"]")
}

// esp writes the proposals of phase 2. pluto asks for PFS with the group of phase 1 unless it is told otherwise.
func (c *connReader) esp() {
	p, set := c.params["esp"]
	if !set {
		p, set = c.params["phase2alg"]
	}
	group := ""
	if pfs, said := c.params["pfs"]; c.pluto && !said || said && c.yes(pfs) {
		group = groupIn(suites(c.params["ike"].value))
		if group == "" && c.version1 {
			group = "modp2048"
		}
		if g := suites(c.params["pfsgroup"].value); len(g) > 0 {
			group = groupIn(g)
		}
	}
	lists := suites(p.value)
	switch {
	case len(lists) > 0:
	case set:
		c.once(config.Error, p.at, "want proposals such as aes128-sha256")
		return
	case c.version1 && group != "":
		lists, p.at = [][]string{{"aes128", "aes256", "sha1", "sha256"}}, c.at
	default:
		return
	}
	var out []string
	for _, words := range lists {
		if group != "" && !slices.ContainsFunc(words, isGroup) {
			words = append(words, group)
		}
		if c.version1 && !slices.Contains(words, "noesn") && !slices.Contains(words, "esn") {
			words = append(words, "noesn")
		}
		out = append(out, quoteTOML(strings.Join(words, "-")))
	}
	c.set(&c.child, p.at, "esp", "["+strings.Join(out, ", ")+"]")
}

// children writes what is protected: with IKEv1, and with leftsubnets, a child for each pair.
func (c *connReader) children(us, them *ipsecEnd, local netip.Addr, t *ipsecTunnel) bool {
	c.esp()
	mine, mineAt, pairs1 := c.subnets(us, local)
	theirs, theirsAt, pairs2 := c.subnets(them, them.addr)
	switch {
	case len(mine) == 0:
		c.once(config.Error, mineAt, "our address cannot be told: name it, or %ssubnet", us.side)
		return false
	case len(theirs) == 0:
		c.once(config.Error, theirsAt, "the peer's address cannot be told: name %ssubnet", them.side)
		return false
	case len(mine)*len(theirs) > 1024:
		c.once(config.Error, theirsAt, "more than 1024 pairs of subnets")
		return false
	}
	add := func(name string, l, r []string) {
		s := slices.Clone(c.child)
		s = append(s, setting{"local-ts", tomlList(l), mineAt}, setting{"remote-ts", tomlList(r), theirsAt})
		t.children = append(t.children, ipsecChild{name, c.at, s})
	}
	if !c.version1 && !pairs1 && !pairs2 || len(mine) == 1 && len(theirs) == 1 {
		add(c.name, mine, theirs)
		return true
	}
	for i, l := range mine {
		for j, r := range theirs {
			add(fmt.Sprintf("%s-%dx%d", c.name, i+1, j+1), []string{l}, []string{r})
		}
	}
	return true
}

func tomlList(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = quoteTOML(w)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// join adds a tunnel, or its children to one that is the same.
func (c *ipsecConversion) join(t *ipsecTunnel) {
	var key strings.Builder
	for _, s := range t.settings {
		fmt.Fprintf(&key, "%s = %s\n", s.key, s.value)
	}
	if t.secret != nil {
		fmt.Fprintf(&key, "secret %s:%d\n", t.secret.at.File, t.secret.at.Line)
	}
	for _, f := range t.files {
		fmt.Fprintf(&key, "%s %s:%d\n", f.key, f.at.File, f.at.Line)
	}
	if o := c.byKey[key.String()]; o != nil {
		if o.start != t.start {
			c.warn(t.startAt, "conn %s is of the same tunnel, and has another auto: the sooner one counts for both", clip(o.name))
			if t.start > o.start {
				o.start, o.startAt = t.start, t.startAt
			}
		}
		o.children = append(o.children, t.children...)
		return
	}
	c.byKey[key.String()] = t
	c.tunnels = append(c.tunnels, t)
}

func (c *ipsecConversion) write(t *ipsecTunnel) {
	name := c.tunnelName(t.name)
	c.header(t.at, "[tunnel."+quoteTOML(name)+"]")
	for _, s := range t.settings {
		c.line(s.at, "%s = %s", s.key, s.value)
	}
	if t.secret != nil {
		c.secretFile(t.at, name, t.secret.secret.Clone(), t.secret.at)
	}
	for _, f := range t.files {
		c.memoryFile(t.at, f.key, name+f.ending, f.data, f.at)
	}
	c.text(t.startAt, "start", startWords[t.start])
	names := map[string]bool{}
	for _, x := range t.children {
		c.header(x.at, "[[tunnel."+quoteTOML(name)+".child]]")
		n := unique(names, x.name)
		names[n] = true
		c.text(x.at, "name", n)
		for _, s := range x.settings {
			c.line(s.at, "%s = %s", s.key, s.value)
		}
	}
}
