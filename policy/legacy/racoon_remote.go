package legacy

import (
	"encoding/hex"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"coati/policy/config"
)

// racoonRemote is what is negotiated with one peer in phase 1, or with those that no other remote is for.
type racoonRemote struct {
	at        config.Place
	name      string // address, name, or "anonymous"
	anonymous bool
	addr      netip.Addr

	modes          []string
	modesAt        config.Place
	mine           racoonID
	theirs         []racoonID
	verify         bool
	cert, key      string
	certAt         config.Place
	ca, pinned     string
	caAt, pinnedAt config.Place
	plainKey       []byte // PEM, of certificate_type plain_rsa
	plainPeer      []byte // PEM, of peers_certfile plain_rsa
	lifetime       racoonTime
	passive        bool
	passiveAt      config.Place
	nat            string
	natAt          config.Place
	dpd            racoonTime
	ph1id          uint64
	group          string
	check          string // proposal_check
	checkAt        config.Place
	proposals      []*racoonProposal
}

// racoonID is an identity in the words of Coati's file; empty: the address, or the certificate's subject.
type racoonID struct {
	kind, text string
	at         config.Place
}

type racoonProposal struct {
	at                          config.Place
	encryption, hash, by, group string
	lifetime                    racoonTime
	encryptionAt                config.Place
}

// defaultRacoonLife is what a lifetime is that nobody says (RFC 2407, section 4.5).
const defaultRacoonLife = 8 * time.Hour

func (r *racoonReader) readRemote(d *directive, w *words) {
	t, _ := w.peek()
	name, ok := w.next()
	if !ok {
		r.wrong(d, w, "want an address, anonymous or a name")
		return
	}
	m := &racoonRemote{name: name, at: d.at(), anonymous: t.kind == word && name == "anonymous", check: "strict", checkAt: d.at()}
	if t.kind == word && !m.anonymous {
		a, err := netip.ParseAddr(name)
		if err != nil || a.Zone() != "" {
			r.wrong(d, w, "want an address, anonymous, or a name in quotation marks")
			return
		}
		m.addr = a
		m.name = a.String()
	}
	if port, any, has := r.bracketed(d, w); has && !any && port != 500 {
		r.lost(d.at(), "the peer is asked at port 500, and where a NAT is found at 4500")
	}
	if w.accept("inherit") {
		m = r.inherit(d, w, m)
	}
	if w.failed {
		return
	}
	r.remote = m
	inherited := len(m.proposals)
	r.section("remote", d.block)
	if len(m.proposals) > inherited {
		m.proposals = m.proposals[inherited:]
	}
	r.remote = nil
	if first := slices.IndexFunc(r.remotes, func(o *racoonRemote) bool {
		return o.name == m.name && o.anonymous == m.anonymous && o.ph1id == m.ph1id
	}); first >= 0 {
		r.fault(d.at(), "the same remote is at %s", place(r.remotes[first].at.File, r.remotes[first].at.Line))
		return
	}
	if m.proposals == nil {
		r.fault(d.at(), "has no proposal")
		return
	}
	r.remotes = append(r.remotes, m)
}

// inherit begins a remote as its parent is.
func (r *racoonReader) inherit(d *directive, w *words, m *racoonRemote) *racoonRemote {
	parent, ok := w.next()
	r.bracketed(d, w)
	if a, err := netip.ParseAddr(parent); err == nil {
		parent = a.String()
	}
	i := slices.IndexFunc(r.remotes, func(o *racoonRemote) bool { return o.name == parent })
	if !ok || i < 0 {
		r.wrong(d, w, "inherit: no remote of that name or address stands before it")
		return m
	}
	out := *r.remotes[i]
	out.at, out.name, out.anonymous, out.addr = m.at, m.name, m.anonymous, m.addr
	out.theirs, out.modes, out.proposals = slices.Clone(out.theirs), slices.Clone(out.modes), slices.Clone(out.proposals)
	return &out
}

var remoteHandlers = map[string]racoonHandler{
	"remote_address": func(r *racoonReader, d *directive, w *words) {
		if r.remote.addr = r.address(d, w); r.remote.addr.IsValid() {
			if port, any, has := r.bracketed(d, w); has && !any && port != 500 {
				r.lost(d.at(), "the peer is asked at port 500, and where a NAT is found at 4500")
			}
		}
	},
	"exchange_mode": (*racoonReader).exchangeMode,
	"proposal_check": func(r *racoonReader, d *directive, w *words) {
		r.remote.check, r.remote.checkAt = r.choice(d, w, "obey", "strict", "claim", "exact"), d.at()
	},
	"doi":           func(r *racoonReader, d *directive, w *words) { r.choice(d, w, "ipsec_doi") },
	"situation":     func(r *racoonReader, d *directive, w *words) { r.choice(d, w, "identity_only") },
	"my_identifier": func(r *racoonReader, d *directive, w *words) { r.remote.mine = r.identifier(d, w) },
	"peers_identifier": func(r *racoonReader, d *directive, w *words) {
		r.remote.theirs = append(r.remote.theirs, r.identifier(d, w))
	},
	"verify_identifier": func(r *racoonReader, d *directive, w *words) { r.remote.verify = r.onOff(d, w) },
	"certificate_type":  (*racoonReader).certificate,
	"ca_type": func(r *racoonReader, d *directive, w *words) {
		r.choice(d, w, "x509")
		r.remote.ca, r.remote.caAt = r.file1(d, w), d.at()
	},
	"peers_certfile": (*racoonReader).peersCertificate,
	"mode_cfg": func(r *racoonReader, d *directive, w *words) {
		if r.onOff(d, w) {
			r.wrong(d, w, "on: nothing is asked by mode config yet")
		}
	},
	"send_cert":       lostIf("off", "our certificate is sent where it is asked for"),
	"send_cr":         lostIf("off", "the peer's certificate is asked for where it is needed"),
	"initial_contact": lostIf("off", "a first contact is told"),
	"verify_cert": func(r *racoonReader, d *directive, w *words) {
		if !r.onOff(d, w) && !w.failed {
			r.wrong(d, w, "off: a certificate that is not for the peer proves nothing")
		}
	},
	"lifetime": func(r *racoonReader, d *directive, w *words) { r.remote.lifetime = r.lifetime(d, w) },
	"passive": func(r *racoonReader, d *directive, w *words) {
		r.remote.passive, r.remote.passiveAt = r.onOff(d, w), d.at()
	},
	"generate_policy": func(r *racoonReader, d *directive, w *words) {
		if c := r.choice(d, w, "on", "off", "require", "unique"); c != "off" && c != "" {
			r.lost(d.at(), "no policy is made of what a peer asks for: say with spdadd what is protected")
		}
	},
	"nat_traversal": func(r *racoonReader, d *directive, w *words) {
		r.remote.nat, r.remote.natAt = r.choice(d, w, "on", "off", "force"), d.at()
	},
	"dpd_delay": func(r *racoonReader, d *directive, w *words) {
		r.remote.dpd = racoonTime{time.Duration(r.number(d, w, maxSeconds)) * time.Second, d.at()}
	},
	"rekey": func(r *racoonReader, d *directive, w *words) {
		if r.choice(d, w, "on", "off", "force") == "off" {
			r.lost(d.at(), "off: what expires is negotiated anew")
		}
	},
	"ph1id": func(r *racoonReader, d *directive, w *words) { r.remote.ph1id = r.number(d, w, 1<<32-1) },
	"proposal": func(r *racoonReader, d *directive, w *words) {
		if !d.braces {
			r.wrong(d, w, "wants a block in braces")
			return
		}
		r.proposal = &racoonProposal{at: d.at()}
		before := len(r.list)
		r.section("proposal", d.block)
		p := r.proposal
		if len(r.list) == before && (p.encryption == "" || p.hash == "" || p.by == "" || p.group == "" && r.remote.group == "") {
			r.fault(d.at(), "needs encryption_algorithm, hash_algorithm, authentication_method and dh_group")
		}
		r.remote.proposals = append(r.remote.proposals, p)
	},
	"dh_group": func(r *racoonReader, d *directive, w *words) { r.remote.group = r.dhGroup(d, w) },
}

// lostIf is a directive of on and off, one of which is not carried.
func lostIf(what, why string) racoonHandler {
	return func(r *racoonReader, d *directive, w *words) {
		if r.choice(d, w, "on", "off") == what {
			r.lost(d.at(), "%s: %s", what, why)
		}
	}
}

func (r *racoonReader) exchangeMode(d *directive, w *words) {
	r.remote.modes, r.remote.modesAt = nil, d.at()
	for {
		m := r.choice(d, w, "main", "aggressive", "base")
		if w.failed {
			return
		}
		if m == "base" {
			r.wrong(d, w, "base mode is not carried: want main or aggressive")
			return
		}
		r.remote.modes = append(r.remote.modes, m)
		if !w.accept(",") {
			return
		}
	}
}

func (r *racoonReader) identifier(d *directive, w *words) racoonID {
	id := racoonID{at: d.at()}
	kind := r.choice(d, w, "address", "fqdn", "user_fqdn", "keyid", "asn1dn")
	if w.failed {
		return id
	}
	from := ""
	if kind == "keyid" && (w.accept("file") || w.accept("tag")) {
		from = w.tokens[w.at-1].text
	}
	text, has := w.next()
	switch {
	case !has && (kind == "address" || kind == "asn1dn"):
		return id
	case !has || text == "":
		r.wrong(d, w, "want %s and a name in quotation marks", kind)
	case kind == "address":
		a, err := netip.ParseAddr(text)
		if err != nil {
			r.wrong(d, w, "want an address in numbers")
			return id
		}
		r.bracketed(d, w)
		id.kind, id.text = kind, a.String()
	case kind == "keyid" && from != "tag":
		data, err := r.shelf.read(r.certPath(text), false)
		if err != nil || len(data) == 0 || len(data) > 1024 {
			r.wrong(d, w, "%s: want a file of 1 to 1024 octets that can be read", clip(text))
			return id
		}
		id.kind, id.text = kind, "keyid:0x"+hex.EncodeToString(data)
	case kind == "asn1dn" && strings.Contains(text, "*"):
		r.wrong(d, w, "a name with * in it is not carried: name one peer")
	default:
		id.kind = kind
		id.text = map[string]string{"fqdn": "fqdn:", "user_fqdn": "email:", "keyid": "keyid:", "asn1dn": "dn:"}[kind] + text
		if kind == "keyid" && strings.HasPrefix(text, "0x") {
			id.text = "keyid:0x" + hex.EncodeToString([]byte(text))
		}
	}
	return id
}

func (r *racoonReader) certPath(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	dir := r.certDir
	if dir == "" {
		dir = filepath.Dir(r.file)
	}
	return filepath.Join(dir, name)
}

func (r *racoonReader) file1(d *directive, w *words) string {
	s, ok := w.next()
	if !ok || s == "" {
		r.wrong(d, w, "want the name of a file in quotation marks")
		return ""
	}
	return r.certPath(s)
}

func (r *racoonReader) certificate(d *directive, w *words) {
	r.remote.certAt, r.remote.plainKey = d.at(), nil
	if w.accept("plain_rsa") {
		r.remote.plainKey = r.plainRSA(d, w, true, plainPrivate)
		return
	}
	r.choice(d, w, "x509")
	r.remote.cert = r.file1(d, w)
	r.remote.key = r.file1(d, w)
}

func (r *racoonReader) peersCertificate(d *directive, w *words) {
	r.remote.pinnedAt, r.remote.plainPeer = d.at(), nil
	if w.accept("dnssec") {
		r.wrong(d, w, "dnssec: nobody's key is looked up: name the file of a certificate")
		return
	}
	if w.accept("plain_rsa") {
		r.remote.plainPeer = r.plainRSA(d, w, false, plainPublic)
		return
	}
	w.accept("x509")
	r.remote.pinned = r.file1(d, w)
}

// plainRSA reads the file of a key without certificate, into PEM.
func (r *racoonReader) plainRSA(d *directive, w *words, secret bool, decode func([]byte) ([]byte, error)) []byte {
	name := r.file1(d, w)
	if w.failed {
		return nil
	}
	data, err := r.shelf.read(name, secret)
	var key []byte
	if err == nil {
		key, err = decode(data)
	}
	if err != nil {
		r.wrong(d, w, "plain_rsa: %s: %s", name, err)
	}
	return key
}

// lifetime reads "time NUMBER UNIT".
func (r *racoonReader) lifetime(d *directive, w *words) racoonTime {
	if w.accept("byte") {
		r.wrong(d, w, "an amount of octets ends no phase 1 here: say time")
		return racoonTime{}
	}
	r.choice(d, w, "time")
	t := racoonTime{r.timed(d, w), d.at()}
	if t.d <= 0 {
		r.wrong(d, w, "want a time that is longer than nothing")
	}
	return t
}

var proposalHandlers = map[string]racoonHandler{
	"encryption_algorithm": func(r *racoonReader, d *directive, w *words) {
		r.proposal.encryption, r.proposal.encryptionAt = r.cipher(d, w), d.at()
	},
	"hash_algorithm": func(r *racoonReader, d *directive, w *words) {
		r.proposal.hash = r.choice(d, w, slices.Sorted(maps.Keys(racoonHashes))...)
	},
	"authentication_method": func(r *racoonReader, d *directive, w *words) {
		switch by, _ := w.next(); by {
		case "pre_shared_key", "rsasig":
			r.proposal.by = by
		case "dsssig", "rsaenc", "gssapi_krb", "gssapi", "hybrid_rsa_server", "hybrid_rsa_client", "hybrid_dss_server", "hybrid_dss_client",
			"xauth_rsa_server", "xauth_rsa_client", "xauth_psk_server", "xauth_psk_client":
			r.wrong(d, w, "%s is not carried yet: want pre_shared_key or rsasig", by)
		default:
			r.wrong(d, w, "want pre_shared_key or rsasig")
		}
	},
	"dh_group": func(r *racoonReader, d *directive, w *words) { r.proposal.group = r.dhGroup(d, w) },
	"lifetime": func(r *racoonReader, d *directive, w *words) { r.proposal.lifetime = r.lifetime(d, w) },
}

var racoonHashes = map[string]string{"md5": "md5", "sha1": "sha1", "sha256": "sha256", "sha384": "sha384", "sha512": "sha512"}

// racoonCiphers: the keyword in policy's table, and the length of the key where none is said; 0: it has one length.
var racoonCiphers = map[string]struct {
	keyword string
	bits    string
}{
	"des": {"des", ""}, "3des": {"3des", ""}, "aes": {"aes", "128"}, "rijndael": {"aes", "128"}, "cast128": {"cast", "128"},
	"blowfish": {"blowfish", "448"}, "camellia": {"camellia", "128"}, "null_enc": {"null", ""},
}

// cipher reads a name and the length of its key in bits, into a keyword.
func (r *racoonReader) cipher(d *directive, w *words) string {
	name, _ := w.next()
	c, known := racoonCiphers[name]
	if !known {
		if !isName(name) {
			name = "this"
		}
		r.wrong(d, w, "%s is not carried: want one of %s", name, strings.Join(slices.Sorted(maps.Keys(racoonCiphers)), ", "))
		return ""
	}
	bits := c.bits
	if t, ok := w.peek(); ok && t.kind == word && strings.Trim(t.text, "0123456789") == "" && len(t.text) <= 4 {
		w.at++
		if bits == "" && t.text != map[string]string{"des": "64", "3des": "192"}[name] {
			r.wrong(d, w, "%s has keys of one length: leave it out", name)
		}
		if bits != "" {
			bits = t.text
		}
	}
	return c.keyword + bits
}

// racoonGroups are the names and numbers of racoon's groups.
var racoonGroups = map[string]string{
	"1": "modp768", "2": "modp1024", "5": "modp1536", "14": "modp2048", "15": "modp3072", "16": "modp4096", "17": "modp6144", "18": "modp8192",
}

func (r *racoonReader) dhGroup(d *directive, w *words) string {
	s, _ := w.next()
	if g, ok := racoonGroups[s]; ok {
		return g
	}
	if slices.Contains(slices.Collect(maps.Values(racoonGroups)), s) {
		return s
	}
	r.wrong(d, w, "want a group: modp768, modp1024, modp1536, modp2048, modp3072, modp4096, modp6144, modp8192, or its number")
	return ""
}
