package config

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"coati/policy"
)

// draft is a tunnel while it is read: its settings, and which key stands where.
type draft struct {
	tunnel  policy.PeerTunnel
	at      position
	dir     string // psk-file is relative to it
	keys    map[string]position
	pskFile string
	files   CredentialFiles
	eap     policy.EAP

	revocation policy.Revocation
	anyUsage   bool
	anyPeer    bool
	children   []*childDraft
	// short are the keys of an only child, written in the tunnel's own table.
	short []setting
}

// childDraft is a child while it is read.
type childDraft struct {
	tunnel, name  string
	at            position
	keys          map[string]position
	local, remote []sited // selectors
	child         policy.Child
	priority      bool // set by the file
}

// sited is a selector and the line it stands on.
type sited struct {
	policy.Selector
	at position
}

// String is TUNNEL/CHILD, or TUNNEL for the only child its own table describes.
func (c *childDraft) String() string {
	if c.name == c.tunnel {
		return c.tunnel
	}
	return c.tunnel + "/" + c.name
}

// tunnelKeys are the keys of [tunnel.NAME] besides those of an only child.
var tunnelKeys = slices.Concat([]key[draft]{
	{"version", func(l *loader, d *draft, k setting) {
		n, _ := k.integer(l, 1, 2)
		d.tunnel.Version = uint8(n)
	}},
	{"aggressive", func(l *loader, d *draft, k setting) { d.tunnel.V1.Aggressive, _ = k.boolean(l) }},
	{"proposal-check", func(l *loader, d *draft, k setting) {
		i, _ := k.choice(l, policy.CheckClaim.String(), policy.CheckObey.String(), policy.CheckStrict.String(), policy.CheckExact.String())
		d.tunnel.V1.Check = policy.ProposalCheck(max(i, 0))
	}},
	{"local", func(l *loader, d *draft, k setting) {
		s, ok := k.text(l, "198.51.100.1")
		if !ok {
			return
		}
		a, err := netip.ParseAddr(s)
		if err != nil {
			k.errorf(l, "%q is no address", s)
			return
		}
		d.tunnel.Local = k.endpoint(l, a)
	}},
	{"remote", (*loader).readRemote},
	{"local-id", func(l *loader, d *draft, k setting) {
		d.tunnel.LocalID = k.identity(l)
		if d.tunnel.LocalID.Type == policy.IDAnyOne {
			k.errorf(l, "we cannot be anybody: name an identity, or leave the key out for the address")
		}
	}},
	{"remote-id", func(l *loader, d *draft, k setting) { d.tunnel.RemoteID = k.identity(l) }},
	{"auth", func(l *loader, d *draft, k setting) { d.tunnel.LocalAuth = k.authBy(l) }},
	{"remote-auth", func(l *loader, d *draft, k setting) { d.tunnel.RemoteAuth = k.authBy(l) }},
	{"psk-file", func(l *loader, d *draft, k setting) { d.pskFile = k.file(l, d, "site-b.psk") }},
	{"ppk-file", func(l *loader, d *draft, k setting) { d.files.PPK = k.file(l, d, "site-b.ppk") }},
	{"ppk-id", func(l *loader, d *draft, k setting) { d.tunnel.PPKID, _ = k.text(l, "site-b") }},
	{"ppk-required", func(l *loader, d *draft, k setting) { d.tunnel.PPKRequired, _ = k.boolean(l) }},
	{"cert-file", func(l *loader, d *draft, k setting) { d.files.Cert = k.file(l, d, "gw.pem") }},
	{"key-file", func(l *loader, d *draft, k setting) { d.files.Key = k.file(l, d, "gw.key") }},
	{"rsa-signature", func(l *loader, d *draft, k setting) {
		i, _ := k.choice(l, "pss", "pkcs1")
		d.files.PKCS1 = i == 1
	}},
	{"ca-file", func(l *loader, d *draft, k setting) { d.files.CA = k.file(l, d, "ca.pem") }},
	{"crl-file", func(l *loader, d *draft, k setting) { d.files.CRL = k.file(l, d, "ca.crl") }},
	{"revocation", func(l *loader, d *draft, k setting) {
		i, _ := k.choice(l, policy.RevocationOff.String(), policy.RevocationIfAvailable.String(), policy.RevocationRequired.String())
		d.revocation = policy.Revocation(max(i, 0))
	}},
	{"cert-usage", func(l *loader, d *draft, k setting) {
		i, _ := k.choice(l, "ike", "any")
		d.anyUsage = i == 1
	}},
	{"remote-key-file", func(l *loader, d *draft, k setting) { d.files.RemoteKey = k.file(l, d, "site-b.pub") }},
	{"ike", func(l *loader, d *draft, k setting) {
		d.tunnel.IKE = k.proposals(l, policy.ProtocolIKE, "aes256gcm16-prfsha384-ecp384")
	}},
	{"childless", func(l *loader, d *draft, k setting) { d.tunnel.Childless, _ = k.boolean(l) }},
	{"start", func(l *loader, d *draft, k setting) {
		if i, ok := k.choice(l, policy.StartOnDemand.String(), policy.StartNow.String(), policy.StartListen.String()); ok {
			d.tunnel.Start = policy.Start(i)
		}
	}},
	{"encap", func(l *loader, d *draft, k setting) {
		if i, ok := k.choice(l, policy.EncapAuto.String(), policy.EncapForceUDP.String(), policy.EncapForceESP.String()); ok {
			d.tunnel.Encap = policy.EncapMode(i)
		}
	}},
	{"pool", (*loader).readPool},
	{"dns", func(l *loader, d *draft, k setting) { d.tunnel.DNS = k.addresses(l, "10.1.0.53", maxDNS) }},
	{"dns-domains", (*loader).readDomains},
	{"virtual-ip", func(l *loader, d *draft, k setting) { d.tunnel.VirtualIP = k.addresses(l, "0.0.0.0", 2) }},
	{"mobike", func(l *loader, d *draft, k setting) { d.tunnel.MOBIKE, _ = k.boolean(l) }},
	{"fragment-size", (*loader).readFragmentSize},
	{"dpd", func(l *loader, d *draft, k setting) { d.tunnel.DPD, _ = k.duration(l) }},
	{"keepalive", func(l *loader, d *draft, k setting) { d.tunnel.Keepalive, _ = k.duration(l) }},
	{"lifetime", func(l *loader, d *draft, k setting) { d.tunnel.Lifetime, _ = k.duration(l) }},
	{"reauth", func(l *loader, d *draft, k setting) { d.tunnel.Reauth, _ = k.duration(l) }},
	{"unique", func(l *loader, d *draft, k setting) {
		i, _ := k.choice(l, policy.UniqueByContact.String(), policy.UniqueReplace.String(), policy.UniqueKeep.String(), policy.UniqueNever.String())
		d.tunnel.Unique = policy.Unique(max(i, 0))
	}},
	{"on-dead", func(l *loader, d *draft, k setting) { d.tunnel.OnDead = k.lossAction(l) }},
	{"on-close", func(l *loader, d *draft, k setting) { d.tunnel.OnClose = k.lossAction(l) }},
	{"child", (*loader).readChildren},
	{"mode", shortKey},
	{"local-ts", shortKey},
	{"remote-ts", shortKey},
	{"esp", shortKey},
	{"lifetime-packets", shortKey},
	{"lifetime-octets", shortKey},
	{"replay-window", shortKey},
	{"priority", shortKey},
	{"level", shortKey},
	{"sha256-96", shortKey},
	{"df", shortKey},
	{"dscp", shortKey},
	{"hop-limit", shortKey},
	{"flow-label", shortKey},
	{"tfc", shortKey},
	{"fragment", shortKey},
	{"mss", shortKey},
	{"icmp-errors", shortKey},
	{"dummy-interval", shortKey},
}, eapKeys, xauthKeys)

// lossAction is one of the words for policy.LossAction; what start says is the default and has none.
func (k setting) lossAction(l *loader) policy.LossAction {
	i, ok := k.choice(l, policy.LossClear.String(), policy.LossTrap.String(), policy.LossRestart.String())
	if !ok {
		return policy.LossByStart
	}
	return policy.LossClear + policy.LossAction(i)
}

func shortKey(_ *loader, d *draft, k setting) { d.short = append(d.short, k) }

// childKeys are the keys of [[tunnel.NAME.child]]. Those of tunnelKeys that are a shortKey are among them.
var childKeys = []key[childDraft]{
	{"name", func(l *loader, c *childDraft, k setting) {
		if s, ok := k.text(l, "lan"); ok {
			checkName(l, k.at, s)
			c.name = s
		}
	}},
	{"mode", func(l *loader, c *childDraft, k setting) {
		if i, ok := k.choice(l, "tunnel", "transport", "beet"); ok && i > 1 {
			k.errorf(l, "%q is not built in yet: leave the key out or say \"tunnel\" or \"transport\"", k.v.text)
		} else if ok {
			c.child.Mode = policy.Mode(i)
		}
	}},
	{"local-ts", func(l *loader, c *childDraft, k setting) { c.local = k.selectors(l) }},
	{"remote-ts", func(l *loader, c *childDraft, k setting) { c.remote = k.selectors(l) }},
	{"esp", func(l *loader, c *childDraft, k setting) {
		c.child.ESP = k.proposals(l, policy.ProtocolESP, "aes128gcm16-ecp256")
	}},
	{"lifetime", func(l *loader, c *childDraft, k setting) {
		life := &c.child.Lifetime
		life.HardTime, _ = k.duration(l)
		*life = childLifetime(life.HardTime, life.HardPackets, life.HardOctets)
	}},
	{"lifetime-packets", func(l *loader, c *childDraft, k setting) {
		n, _ := k.integer(l, 1000, math.MaxInt64)
		c.child.Lifetime = childLifetime(c.child.Lifetime.HardTime, uint64(n), c.child.Lifetime.HardOctets)
	}},
	{"lifetime-octets", func(l *loader, c *childDraft, k setting) {
		n, _ := k.integer(l, 100_000, math.MaxInt64)
		c.child.Lifetime = childLifetime(c.child.Lifetime.HardTime, c.child.Lifetime.HardPackets, uint64(n))
	}},
	{"replay-window", func(l *loader, c *childDraft, k setting) {
		// RFC 4303, section 3.4.3: 32 is the least an implementation must do.
		n, _ := k.integer(l, 32, 65536)
		c.child.ReplayWindow = uint32(n)
	}},
	{"priority", func(l *loader, c *childDraft, k setting) {
		n, ok := k.integer(l, 1, 1_000_000)
		c.child.Priority, c.priority = int32(n), ok
	}},
	{"level", func(l *loader, c *childDraft, k setting) {
		i, _ := k.choice(l, policy.LevelRequire.String(), policy.LevelUse.String())
		c.child.Level = policy.Level(max(i, 0))
	}},
	{"sha256-96", func(l *loader, c *childDraft, k setting) { c.child.ICV96, _ = k.boolean(l) }},
	{"df", func(l *loader, c *childDraft, k setting) {
		i, _ := k.choice(l, policy.DFSet.String(), policy.DFCopy.String(), policy.DFClear.String())
		c.child.Header.DF = policy.DF(max(i, 0))
	}},
	{"dscp", func(l *loader, c *childDraft, k setting) {
		if k.v.kind == kindInteger {
			n, ok := k.integer(l, 0, 63)
			c.child.Header.FixedDSCP, c.child.Header.DSCP = ok, uint8(n)
			return
		}
		k.choice(l, "copy")
	}},
	{"hop-limit", func(l *loader, c *childDraft, k setting) {
		n, _ := k.integer(l, 1, 255)
		c.child.Header.HopLimit = uint8(n)
	}},
	{"flow-label", func(l *loader, c *childDraft, k setting) {
		i, _ := k.choice(l, "system", "copy")
		c.child.Header.CopyFlowLabel = i == 1
	}},
	{"tfc", func(l *loader, c *childDraft, k setting) {
		if k.v.kind == kindInteger {
			n, _ := k.integer(l, 0, 65535)
			c.child.TFC = int(n)
		} else if _, ok := k.choice(l, "mtu"); ok {
			c.child.TFC = policy.TFCToMTU
		}
	}},
	{"fragment", func(l *loader, c *childDraft, k setting) {
		i, _ := k.choice(l, sayFragment(false), sayFragment(true))
		c.child.FragmentAfter = i == 1
	}},
	{"mss", func(l *loader, c *childDraft, k setting) {
		if k.v.kind == kindInteger {
			n, _ := k.integer(l, 88, 65535) // what 128 octets leave in IPv4
			c.child.MSS = int(n)
			return
		}
		if i, ok := k.choice(l, "auto", "off"); ok {
			c.child.MSS = -i
		}
	}},
	{"icmp-errors", func(l *loader, c *childDraft, k setting) {
		i, _ := k.choice(l, policy.ICMPByEither.String(), policy.ICMPByHeader.String(), policy.ICMPByQuote.String(), policy.ICMPNone.String())
		c.child.ICMPErrors = policy.ICMPErrors(max(i, 0))
	}},
	{"dummy-interval", func(l *loader, c *childDraft, k setting) { c.child.DummyInterval, _ = k.duration(l) }},
}

// childLifetime is the soft and hard limits a lifetime in time, packets and octets stands for; 0: no limit.
func childLifetime(hard time.Duration, packets, octets uint64) policy.Lifetime {
	return policy.Lifetime{
		SoftTime: hard / 100 * softPercent, HardTime: hard,
		SoftPackets: packets / 100 * softPercent, HardPackets: packets,
		SoftOctets: octets / 100 * softPercent, HardOctets: octets,
	}
}

// readTunnels takes the table of tunnels of one file.
func (l *loader) readTunnels(k setting, dir string) {
	if k.v.kind != kindTable {
		k.errorf(l, "wants a table for each tunnel, not %s: write [tunnel.NAME]", k.v.kind)
		return
	}
	for _, f := range k.v.fields {
		if f.v.kind != kindTable {
			l.errorf(f.at, "tunnel.%s: wants a table, not %s: write [tunnel.NAME] in front of a tunnel's keys", f.name, f.v.kind)
			continue
		}
		if first, twice := l.byName[f.name]; twice {
			l.errorf(f.v.at, "[tunnel.%s] is defined twice: it is also at %s", f.name, first.at)
			continue
		}
		checkName(l, f.v.at, f.name)
		d := &draft{at: f.v.at, dir: dir, keys: positions(f.v), tunnel: policy.PeerTunnel{
			Name: f.name, Version: 2, DPD: DefaultDPD, Keepalive: DefaultKeepalive, Lifetime: DefaultLifetime,
		}}
		decode(l, f.v, "[tunnel."+f.name+"]", tunnelKeys, d)
		l.byName[f.name] = d
		l.drafts = append(l.drafts, d)
	}
}

func positions(t *value) map[string]position {
	m := make(map[string]position, len(t.fields))
	for _, f := range t.fields {
		m[f.name] = f.at
	}
	return m
}

// checkName holds names of tunnels and children to what commands and logs can say: TUNNEL/CHILD is one word.
func checkName(l *loader, at position, name string) {
	bad := func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("-_.", c))
	}
	if name == "" || len(name) > 64 || strings.ContainsFunc(name, bad) {
		l.errorf(at, "name %q cannot be used: want up to 64 letters, digits, '-', '_' and '.'", name)
	}
}

func (l *loader) readRemote(d *draft, k setting) {
	s, ok := k.text(l, "203.0.113.7")
	if !ok {
		return
	}
	if s == "any" || s == "%any" {
		d.anyPeer = true
		return
	}
	if a, err := netip.ParseAddr(s); err == nil {
		d.tunnel.Remote = k.endpoint(l, a)
		return
	}
	if !hostName(s) {
		k.errorf(l, "%q is neither an address, a host name nor \"any\"", s)
		return
	}
	d.tunnel.RemoteHost = s
}

// hostName is the rule of RFC 1123, section 2.1; a last label of digits would be a misspelt address.
func hostName(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if len(s) > 253 {
		return false
	}
	digits := false
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		digits = strings.Trim(label, "0123456789") == ""
		for _, c := range []byte(label) {
			if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
	}
	return !digits
}

// endpoint is an address one gateway can have.
func (k setting) endpoint(l *loader, a netip.Addr) netip.Addr {
	a = a.Unmap()
	switch {
	case a.Zone() != "":
		k.errorf(l, "%s has a zone: addresses of one link are not built in yet", a)
	case a.IsUnspecified() && k.name == "remote":
		k.errorf(l, "%s is no peer: say \"any\" for every address", a)
	case a.IsUnspecified():
		k.errorf(l, "%s is no address: leave the key out to take what the route to the peer uses", a)
	case a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		k.errorf(l, "%s is no address of one gateway", a)
	default:
		return a
	}
	return netip.Addr{}
}

func (k setting) identity(l *loader) policy.Identity {
	s, ok := k.text(l, "fqdn:a.example.org")
	if !ok {
		return policy.Identity{}
	}
	id, err := policy.ParseIdentity(s)
	if err != nil {
		k.errorf(l, "%s", err)
		return policy.Identity{}
	}
	if again, err := policy.ParseIdentity(id.String()); err != nil || !again.Equal(id) {
		k.errorf(l, "identity %q has blanks or other characters in it: say keyid:0xHEX for octets of any kind", s)
		return policy.Identity{}
	}
	return id
}

// maxProposals is far beyond what anybody offers and keeps the first message within one datagram's reach.
const maxProposals = 32

func (k setting) proposals(l *loader, proto policy.Protocol, example string) []policy.Proposal {
	words, _ := k.texts(l, example)
	if len(words) > maxProposals {
		k.errorf(l, "has %d proposals: want at most %d", len(words), maxProposals)
		return nil
	}
	out := make([]policy.Proposal, 0, len(words))
	for _, w := range words {
		p, err := policy.ParseProposal(proto, w.v.text)
		if err != nil {
			w.errorf(l, "%s", err)
			continue
		}
		if weak := p.Insecure(); len(weak) > 0 {
			l.warnf(w.at, "%s: %s is insecure: it protects from nobody who means harm", k.name, strings.Join(weak, " and "))
		}
		out = append(out, p)
	}
	return out
}

// maxSelectors is what the count in a TS payload can say (RFC 7296, section 3.13).
const maxSelectors = 255

func (k setting) selectors(l *loader) []sited {
	words, _ := k.texts(l, "10.2.0.0/16")
	if len(words) > maxSelectors {
		k.errorf(l, "has %d selectors: want at most %d", len(words), maxSelectors)
		return nil
	}
	out := make([]sited, 0, len(words))
	seen := make(map[policy.Selector]bool, len(words))
	for _, w := range words {
		s, err := policy.ParseSelector(w.v.text)
		switch {
		case err != nil:
			w.errorf(l, "impossible selector: %s", err)
		case s.Start.Is4In6() || s.End.Is4In6():
			w.errorf(l, "impossible selector: %q is an IPv4 address in IPv6 clothes: write it as IPv4", w.v.text)
		case seen[s]:
			l.warnf(w.at, "%s: %s stands in the list twice", k.name, s)
		default:
			seen[s] = true
			out = append(out, sited{s, w.at})
		}
	}
	return out
}

func (l *loader) readChildren(d *draft, k setting) {
	if k.v.kind != kindArray {
		k.errorf(l, "wants a table for each child, not %s: write [[tunnel.%s.child]] with two brackets", k.v.kind, d.tunnel.Name)
		return
	}
	names := map[string]position{}
	for _, v := range k.v.list {
		if v.kind != kindTable {
			l.errorf(v.at, "child: wants a table, not %s: write [[tunnel.%s.child]]", v.kind, d.tunnel.Name)
			continue
		}
		c := l.readChild(d, v, "[[tunnel."+d.tunnel.Name+".child]]")
		if _, named := c.keys["name"]; !named {
			l.errorf(v.at, "child has no name: add name = \"...\"")
			continue
		}
		if first, twice := names[c.name]; twice {
			l.errorf(v.at, "child %q is defined twice: it is also at %s", c.name, first)
			continue
		}
		names[c.name] = v.at
	}
}

func (l *loader) readChild(d *draft, v *value, what string) *childDraft {
	c := &childDraft{tunnel: d.tunnel.Name, name: d.tunnel.Name, at: v.at, keys: positions(v), child: policy.Child{
		Mode: policy.Tunnel, Lifetime: defaultChildLifetime, ReplayWindow: DefaultReplayWindow,
	}}
	decode(l, v, what, childKeys, c)
	d.children = append(d.children, c)
	return c
}

// finishTunnel sets the defaults, reads the secret and checks what keys mean together.
func (l *loader) finishTunnel(d *draft) {
	t := &d.tunnel
	l.config.where[t.Name] = d.at
	l.finishPeer(d)
	l.finishAddresses(d)
	if _, set := d.keys["remote-auth"]; !set {
		t.RemoteAuth = t.LocalAuth
	}
	l.finishPSK(d)
	l.finishPPK(d)
	l.finishChildless(d)
	l.finishCredentials(d)
	if _, set := d.keys["ike"]; !set {
		t.IKE = defaultIKE
	}
	_, tables := d.keys["child"]
	for _, f := range d.short {
		if tables {
			l.errorf(f.at, "%s: belongs into [[tunnel.%s.child]], as this tunnel has such tables", f.name, t.Name)
		}
	}
	if !tables {
		if _, set := d.keys["remote-ts"]; !set && len(t.Pool) == 0 {
			l.errorf(d.at, "[tunnel.%s] has no remote-ts: say what lies behind the peer, as in remote-ts = [\"10.2.0.0/16\"]", t.Name)
		}
		l.readChild(d, &value{kind: kindTable, at: d.at, fields: d.short}, "[tunnel."+t.Name+"]")
	}
	for _, c := range d.children {
		if _, set := c.keys["remote-ts"]; !set && len(t.Pool) > 0 {
			c.remote = d.poolSites(c.at)
		} else if !set && tables {
			l.errorf(c.at, "child %q has no remote-ts: say what lies behind the peer, as in remote-ts = [\"10.2.0.0/16\"]", c.name)
		}
		l.finishChild(c)
		t.Children = append(t.Children, c.child)
	}
	l.finishVersion1(d)
}

func (l *loader) finishPeer(d *draft) {
	t := &d.tunnel
	at, named := d.keys["remote"]
	if !named {
		l.errorf(d.at, "[tunnel.%s] has no remote: name the peer's address, its host name, or \"any\"", t.Name)
	}
	if t.Local.IsValid() && t.Remote.IsValid() {
		if t.Local.Is4() != t.Remote.Is4() {
			l.errorf(at, "remote %s and local %s are not of one family", t.Remote, t.Local)
		}
		if t.Local == t.Remote {
			l.errorf(at, "remote and local are both %s", t.Remote)
		}
	}
	if at, set := d.keys["reauth"]; set && t.Reauth > 0 && (t.Start == policy.StartListen || d.anyPeer) {
		l.errorf(at, "reauth: the peer begins this tunnel, so only the peer can authenticate anew: leave the key out")
	}
	if !d.anyPeer {
		return
	}
	for _, k := range []struct {
		name string
		act  policy.LossAction
	}{{"on-dead", t.OnDead}, {"on-close", t.OnClose}} {
		if k.act > policy.LossClear {
			l.errorf(d.keys[k.name], "%s: %q needs a peer to call, and remote is \"any\": leave the key out", k.name, k.act)
		}
	}
	if start, set := d.keys["start"]; !set {
		t.Start = policy.StartListen
	} else if t.Start != policy.StartListen {
		l.errorf(start, "start: %q needs a peer to call, and remote is \"any\": say \"listen\", or name the peer", t.Start)
	}
	if t.RemoteID.IsZero() {
		t.RemoteID = policy.Identity{Type: policy.IDAnyOne}
	}
}

func (l *loader) finishPSK(d *draft) {
	at, named := d.keys["psk-file"]
	if used := d.tunnel.LocalAuth == policy.ByPSK || d.tunnel.RemoteAuth == policy.ByPSK; !used {
		if named {
			l.errorf(at, "psk-file: nobody authenticates by a pre-shared key here: leave the key out")
		}
		return
	}
	if !named {
		l.errorf(d.at, "[tunnel.%s] has no psk-file: name the file that holds the pre-shared key, or say auth = \"cert\"", d.tunnel.Name)
	}
	if d.pskFile == "" {
		return
	}
	p := l.psk(d.pskFile)
	if p.err != nil {
		l.errorf(at, "psk-file %s: %s", d.pskFile, p.err)
		return
	}
	if p.warning != "" {
		l.warnf(at, "psk-file %s: %s", d.pskFile, p.warning)
	}
	// A clone: whoever wipes one tunnel's key must not wipe another's.
	d.tunnel.PSK = p.secret.Clone()
	l.config.PSKFiles[d.tunnel.Name] = d.pskFile
}

// The default proposals are shared by all tunnels; nobody writes into a proposal once it is made.
var (
	defaultIKE = policy.DefaultIKE()
	defaultESP = policy.DefaultESP()

	defaultChildLifetime = childLifetime(DefaultChildLifetime, 0, 0)
)

func (l *loader) finishChild(c *childDraft) {
	c.child.Name = c.name
	l.config.where[fmt.Sprintf("%s/%s", c.tunnel, c.name)] = c.at
	if _, set := c.keys["esp"]; !set {
		c.child.ESP = defaultESP
	}
	l.pairSelectors(c)
	for _, s := range c.local {
		c.child.Local = append(c.child.Local, s.Selector)
	}
	for _, s := range c.remote {
		c.child.Remote = append(c.child.Remote, s.Selector)
	}
	if !c.priority {
		c.child.Priority = autoPriority(c.child.Local, c.child.Remote)
	}
}
