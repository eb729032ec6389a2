package legacy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"coati/policy"
	"coati/policy/config"
)

// Convert makes tunnels of version 1 of the policies in setkey's scripts: for each policy that goes out and needs an association
// the remote and the sainfo that fit it. What the scripts say beyond that is left in the result's Script.
func (r *Racoon) Convert(db *Database, disk Disk) (*Converted, []config.Fault) {
	c := &racoonConversion{Racoon: r, faults: &faults{}, native: newNative(), shelf: &shelf{Disk: disk}}
	if db == nil {
		db = &Database{}
	}
	c.gateway()
	rest, flows := c.split(db)
	c.readKeys(flows)
	for _, g := range group(flows) {
		c.tunnel(g)
	}
	if len(flows) == 0 {
		c.warn(config.Place{File: r.file}, "no policy needs what is negotiated here: name the setkey script that has spdadd too")
	}
	all := c.all()
	if config.Failed(all) {
		return nil, all
	}
	out := c.converted(r.file)
	out.Script = rest
	return out, all
}

type racoonConversion struct {
	*Racoon
	*faults
	*native
	shelf *shelf
	keys  []sharedKey
}

// flow is a policy that becomes a child, with what is negotiated for it.
type flow struct {
	entry       *Entry
	rank        int
	at          config.Place
	local, peer netip.Addr
	remote      *racoonRemote
	sainfo      *sainfo
	ordered     bool // its place among the policies counts
}

func (c *racoonConversion) gateway() {
	var lines []func()
	for i, key := range []string{"ike-port", "natt-port"} {
		if p := c.ports[i]; p.number != 0 && p.number != [2]uint16{500, 4500}[i] {
			lines = append(lines, func() { c.line(p.at, "%s = %d", key, p.number) })
		}
	}
	if c.logLevel != "" && c.logLevel != "info" {
		lines = append(lines, func() { c.text(c.logAt, "log-level", c.logLevel) })
	}
	if lines == nil {
		return
	}
	c.header(config.Place{File: c.file}, "[gateway]")
	for _, l := range lines {
		l()
	}
}

// split tells the policies that racoon serves from the others.
func (c *racoonConversion) split(db *Database) (*Script, []*flow) {
	ranked := slices.Clone(db.Policies)
	slices.SortStableFunc(ranked, func(a, b *Entry) int { return cmp.Compare(a.Priority, b.Priority) })
	var flows []*flow
	var rest []*Entry
	mirrors := map[Selection]bool{}
	manual, in := manualFor(db), map[Selection]bool{}
	var inbound []*Entry
	if len(ranked)*(len(c.sainfos)+1) > maxComparisons {
		c.fault(config.Place{File: c.file}, "there are too many policies and sainfos to be compared")
		return nil, nil
	}
	for i, e := range ranked {
		switch {
		case e.Action != policy.Protect || manual(e):
			rest = append(rest, e)
		case e.Direction != Out:
			inbound = append(inbound, e)
			in[e.Selection] = true
		default:
			if f := c.match(e); f != nil {
				f.rank = i
				flows = append(flows, f)
			}
			mirrors[mirror(e.Selection)] = true
		}
	}
	for _, e := range inbound {
		at := entryPlace(e)
		s := e.Selection
		s.Direction = In
		if !mirrors[s] {
			c.warn(at, "no out policy is the mirror of this %s policy, and a tunnel protects both directions: it is left out", e.Direction)
		} else if e.Request.Level == policy.LevelUse {
			c.lost(at, "use: what comes in must be protected, as if it said require")
		}
	}
	for _, f := range flows {
		if !in[mirror(f.entry.Selection)] {
			c.warn(f.at, "no in policy is the mirror of this out policy: what comes in must be protected all the same")
		}
	}
	return ordered(db, rest, flows), flows
}

func entryPlace(e *Entry) config.Place {
	return config.Place{File: e.File, Line: e.Line, Directive: PolicyAdd.String()}
}

func mirror(s Selection) Selection {
	s.Src, s.Dst, s.SrcPort, s.DstPort = s.Dst, s.Src, s.DstPort, s.SrcPort
	if s.Protocol == protoICMP || s.Protocol == protoICMPv6 {
		s.SrcPort, s.DstPort = s.DstPort, s.SrcPort // type and code are no ends
	}
	s.Direction = In
	return s
}

// ends are the addresses between which a policy's associations are; invalid if a transport policy is for more than two hosts.
func ends(e *Entry) (src, dst netip.Addr) {
	if e.Request.Src.IsValid() {
		return e.Request.Src, e.Request.Dst
	}
	if !e.Src.IsSingleIP() || !e.Dst.IsSingleIP() {
		return netip.Addr{}, netip.Addr{}
	}
	return e.Src.Addr(), e.Dst.Addr()
}

// manualFor tells for which policies a script has associations with manual keys.
func manualFor(db *Database) func(*Entry) bool {
	pairs := map[[2]netip.Addr]bool{}
	for _, a := range db.SAs {
		pairs[[2]netip.Addr{a.Src, a.Dst}] = true
	}
	return func(e *Entry) bool {
		src, dst := ends(e)
		if !src.IsValid() { // in transport mode, for more than two hosts
			return slices.ContainsFunc(db.SAs, func(a *Association) bool { return e.Src.Contains(a.Src) && e.Dst.Contains(a.Dst) })
		}
		return pairs[[2]netip.Addr{src, dst}]
	}
}

// maxComparisons of policies with sainfos, and of policies with each other.
const maxComparisons = 10_000_000

// match finds remote and sainfo for an out policy.
func (c *racoonConversion) match(e *Entry) *flow {
	f := &flow{entry: e, at: entryPlace(e)}
	if f.local, f.peer = ends(e); !f.peer.IsValid() {
		c.fault(f.at, "a transport policy for more than two hosts cannot be negotiated: write one for each pair")
		return nil
	}
	closest := 0
	for _, r := range c.remotes {
		score := 0
		switch {
		case r.addr == f.peer:
			score = 100_000
		case r.anonymous:
			score = 1
		default:
			continue
		}
		for _, s := range c.sainfos {
			fit := s.fits(&e.Selection)
			if s.remoteid != r.ph1id || fit == 0 || s.from != nil && !(len(r.theirs) > 0 && r.theirs[0].text == s.from.text) {
				continue
			}
			if s.from != nil {
				fit += 10_000
			}
			if score+fit > closest {
				closest, f.remote, f.sainfo = score+fit, r, s
			}
		}
	}
	if f.remote == nil {
		if !slices.ContainsFunc(c.remotes, func(r *racoonRemote) bool { return r.anonymous || r.addr == f.peer }) {
			c.fault(f.at, "no remote is for %s, and none is anonymous", f.peer)
		} else {
			c.fault(f.at, "no sainfo is for %s to %s, and none is anonymous", prefixName(e.Src), prefixName(e.Dst))
		}
		return nil
	}
	return f
}

// ordered is the script of what is left. Where a policy that stays and one that is negotiated select the same traffic, the one that
// the script asks first stays first: both get priorities in its order.
func ordered(db *Database, rest []*Entry, flows []*flow) *Script {
	if len(db.SAs)+len(rest) == 0 && len(flows) < 2 {
		return nil
	}
	out := &Script{}
	for _, a := range db.SAs {
		out.Operations = append(out.Operations, Operation{File: a.File, Line: a.Line, Verb: Add, SA: a})
	}
	crossing := len(flows)*(len(flows)+len(rest)) > maxComparisons
	meets := crossing
	for i, f := range flows {
		if crossing {
			f.ordered = true // too many to be compared: all keep their places
			continue
		}
		for _, g := range flows[:i] {
			if overlapping(&f.entry.Selection, &g.entry.Selection) {
				f.ordered, g.ordered = true, true
			}
		}
		for _, e := range rest {
			s := e.Selection
			if e.Direction != Out {
				s = mirror(s)
				s.Direction = Out
			}
			meets = meets || overlapping(&f.entry.Selection, &s)
		}
	}
	rank := map[*Entry]int{}
	if meets {
		rank = ranks(db)
		for _, f := range flows {
			f.ordered = true
		}
	}
	for _, e := range rest {
		entry := *e
		if meets {
			entry.Priority = int32(firstPriority + rank[e])
		}
		out.Operations = append(out.Operations, Operation{File: e.File, Line: e.Line, Verb: PolicyAdd, Policy: &entry})
	}
	if len(out.Operations) == 0 {
		return nil
	}
	return out
}

// firstPriority is that of the first policy, where the order of a script is kept.
const firstPriority = 1000

// ranks are the places of policies in the order in which they are asked.
func ranks(db *Database) map[*Entry]int {
	sorted := slices.Clone(db.Policies)
	slices.SortStableFunc(sorted, func(a, b *Entry) int { return cmp.Compare(a.Priority, b.Priority) })
	out := make(map[*Entry]int, len(sorted))
	for i, e := range sorted {
		out[e] = i
	}
	return out
}

func overlapping(a, b *Selection) bool {
	return a.Direction == b.Direction && a.Src.Overlaps(b.Src) && a.Dst.Overlaps(b.Dst) &&
		(a.Protocol == AnyProtocol || b.Protocol == AnyProtocol || a.Protocol == b.Protocol)
}

func (c *racoonConversion) readKeys(flows []*flow) {
	if !slices.ContainsFunc(flows, func(f *flow) bool { return f.remote.proposals[0].by == "pre_shared_key" }) {
		return
	}
	if c.pskFile == "" {
		c.fault(config.Place{File: c.file}, "no path pre_shared_key names the file of the keys")
		return
	}
	data, err := c.shelf.read(c.pskFile, true)
	if err != nil {
		c.fault(c.pskAt, "%s: %s", c.pskFile, err)
		return
	}
	c.keys = parsePSKs(c.pskFile, data, c.faults)
	clear(data)
}

// group joins the flows of one remote between the same two addresses.
func group(flows []*flow) [][]*flow {
	type ends struct {
		remote      *racoonRemote
		local, peer netip.Addr
	}
	var order []ends
	by := map[ends][]*flow{}
	for _, f := range flows {
		k := ends{f.remote, f.local, f.peer}
		if by[k] == nil {
			order = append(order, k)
		}
		by[k] = append(by[k], f)
	}
	out := make([][]*flow, len(order))
	for i, k := range order {
		out[i] = by[k]
	}
	return out
}

// tunnel writes one tunnel with its children.
func (c *racoonConversion) tunnel(flows []*flow) {
	r, f := flows[0].remote, flows[0]
	first := r.proposals[0]
	name := f.peer.String()
	if !r.anonymous && r.name != name {
		name = r.name
	}
	name = c.tunnelName(name)
	c.header(r.at, "[tunnel."+quoteTOML(name)+"]")
	c.line(r.at, "version = 1")
	c.text(f.at, "local", f.local.String())
	c.text(f.at, "remote", f.peer.String())
	if r.mine.text != "" {
		c.text(r.mine.at, "local-id", r.mine.text)
	}
	switch {
	case r.verify && len(r.theirs) > 0 && r.theirs[0].text != "":
		c.text(r.theirs[0].at, "remote-id", r.theirs[0].text)
		if len(r.theirs) > 1 {
			c.lost(r.theirs[1].at, "one identity is asked for: the first")
		}
	case !r.verify || len(r.theirs) == 0:
		c.text(r.at, "remote-id", "any")
	}
	c.mode(r)
	if first.by == "rsasig" {
		c.certificates(r, name)
	} else {
		c.sharedKey(r, name, f.peer)
	}
	c.text(r.checkAt, "proposal-check", r.check)
	c.phase1(r)
	if r.passive {
		c.text(r.passiveAt, "start", "listen")
	}
	switch r.nat {
	case "", "off":
		c.text(r.natPlace(), "encap", "esp")
	case "force":
		c.text(r.natAt, "encap", "udp")
	}
	c.duration(r.dpdPlace(), "dpd", r.dpd.d)
	if k := c.keepalive; k != nil {
		c.duration(k.at, "keepalive", k.d)
	}
	names := map[string]bool{}
	for _, f := range flows {
		c.child(name, f, names)
	}
}

func (r *racoonRemote) natPlace() config.Place {
	if r.nat == "" {
		return r.at
	}
	return r.natAt
}

func (r *racoonRemote) dpdPlace() config.Place {
	if r.dpd.at.File == "" {
		return r.at
	}
	return r.dpd.at
}

func (c *racoonConversion) mode(r *racoonRemote) {
	if len(r.modes) > 1 {
		c.lost(r.modesAt, "one mode is used, and answered: the first")
	}
	if len(r.modes) > 0 && r.modes[0] == "aggressive" {
		c.line(r.modesAt, "aggressive = true")
	}
}

// phase1 writes proposals and lifetime.
func (c *racoonConversion) phase1(r *racoonRemote) {
	life := racoonTime{defaultRacoonLife, r.at}
	if r.lifetime.d > 0 {
		life = r.lifetime
	}
	if l := r.proposals[0].lifetime; l.d > 0 {
		life = l
	}
	var words []string
	for i, p := range r.proposals {
		switch {
		case p.by != r.proposals[0].by:
			c.lost(p.at, "authentication_method %s: one way to authenticate is used: that of the first proposal", p.by)
			continue
		case i > 0 && p.lifetime.d > 0 && p.lifetime.d != life.d:
			c.lost(p.lifetime.at, "the first proposal's lifetime counts for all")
		}
		g := p.group
		if g == "" {
			g = r.group
		}
		words = append(words, fmt.Sprintf("%s-%s-%s", p.encryption, racoonHashes[p.hash], g))
	}
	c.array(r.proposals[0].at, "ike", words)
	c.duration(life.at, "lifetime", life.d)
}

func (c *racoonConversion) sharedKey(r *racoonRemote, name string, peer netip.Addr) {
	if c.keys == nil {
		return // said already
	}
	identity := ""
	if len(r.modes) > 0 && r.modes[0] == "aggressive" && len(r.theirs) > 0 {
		identity = r.theirs[0].text
	}
	k := findPSK(c.keys, identity, peer)
	if k == nil {
		c.fault(c.pskAt, "%s has no key for %s", c.pskFile, peer)
		return
	}
	c.secretFile(r.at, name, k.secret.Clone(), k.at)
}

func (c *racoonConversion) certificates(r *racoonRemote, name string) {
	at := r.proposals[0].at
	switch {
	case r.plainKey != nil:
		c.text(at, "auth", "pubkey")
		c.memoryFile(r.certAt, "key-file", name+".key", r.plainKey, r.certAt)
	case r.cert == "":
		c.fault(r.at, "rsasig needs certificate_type")
	default:
		c.text(at, "auth", "cert")
		c.text(r.certAt, "cert-file", r.cert)
		c.text(r.certAt, "key-file", r.key)
	}
	switch {
	case r.plainPeer != nil:
		c.text(r.pinnedAt, "remote-auth", "pubkey")
		c.memoryFile(r.pinnedAt, "remote-key-file", name+".pub", r.plainPeer, r.pinnedAt)
	case r.pinned != "":
		c.text(r.pinnedAt, "remote-auth", "pubkey")
		c.text(r.pinnedAt, "remote-key-file", r.pinned)
	case r.ca != "":
		c.text(r.caAt, "remote-auth", "cert")
		c.text(r.caAt, "ca-file", r.ca)
	default:
		c.fault(r.at, "rsasig needs ca_type or peers_certfile: folders of certificates are not searched")
	}
	if r.ca != "" && (r.plainPeer != nil || r.pinned != "") {
		c.lost(r.caAt, "the peer's key is named by peers_certfile: no authority is asked")
	}
}

// child writes what is negotiated for one policy.
func (c *racoonConversion) child(tunnel string, f *flow, names map[string]bool) {
	e, s := f.entry, f.sainfo
	src, dst := e.Selectors()
	name := unique(names, strings.NewReplacer("/", "-", ":", "-", "[", "-", "]", "").Replace(prefixName(e.Dst)+selectorSuffix(dst)))
	names[name] = true
	c.header(f.at, "[[tunnel."+quoteTOML(tunnel)+".child]]")
	c.text(f.at, "name", name)
	if e.Request.Mode == policy.Transport {
		c.text(f.at, "mode", "transport")
	}
	c.array(f.at, "local-ts", []string{src.String()})
	c.array(f.at, "remote-ts", []string{dst.String()})
	words := slices.Concat(s.ciphers, s.hashes)
	at := s.ciphersAt
	if s.group != "" {
		words, at = append(words, s.group), s.groupAt
	}
	c.array(at, "esp", []string{strings.Join(append(words, "noesn"), "-")})
	if slices.Contains(s.hashes, "sha256") {
		c.line(s.hashesAt, "sha256-96 = true")
	}
	c.duration(s.lifetime.at, "lifetime", s.lifetime.d)
	if s.octets > 0 {
		c.line(s.at, "lifetime-octets = %d", s.octets)
	}
	if f.ordered {
		c.line(f.at, "priority = %d", firstPriority+f.rank)
	}
	if e.Request.Level == policy.LevelUse {
		c.text(f.at, "level", "use")
	}
}

func selectorSuffix(s policy.Selector) string {
	if _, rest, ok := strings.Cut(s.String(), "["); ok {
		return "-" + rest
	}
	return ""
}
