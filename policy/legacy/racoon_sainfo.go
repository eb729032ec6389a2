package legacy

import (
	"net/netip"
	"strings"

	"coati/policy/config"
)

// sainfo is what is negotiated in phase 2 for the traffic of some policies.
type sainfo struct {
	at            config.Place
	local, remote sainfoID
	from          *racoonID // of the peer
	remoteid      uint64
	group         string
	groupAt       config.Place
	lifetime      racoonTime
	octets        uint64
	ciphers       []string
	ciphersAt     config.Place
	hashes        []string
	hashesAt      config.Place
}

// sainfoID is an end of the traffic; anonymous: any.
type sainfoID struct {
	anonymous bool
	prefix    netip.Prefix
	port      uint16
	protocol  uint8 // AnyProtocol: any
	other     string
}

func (r *racoonReader) readSainfo(d *directive, w *words) {
	s := &sainfo{at: d.at(), lifetime: racoonTime{d: defaultRacoonLife, at: d.at()}}
	if w.accept("anonymous") {
		s.local.anonymous, s.remote.anonymous = true, true
		if t, ok := w.peek(); ok && t.text != "from" && t.text != "group" {
			s.remote = r.sainfoID(d, w)
		}
	} else {
		s.local = r.sainfoID(d, w)
		s.remote = r.sainfoID(d, w)
	}
	if w.accept("from") {
		id := r.identifier(d, w)
		s.from = &id
	}
	if w.accept("group") {
		w.next()
		r.lost(d.at(), "group: nobody is a member of groups without XAUTH")
	}
	if w.failed {
		return
	}
	if !d.braces {
		r.wrong(d, w, "wants a block in braces")
		return
	}
	r.sainfo = s
	before := len(r.list)
	r.section("sainfo", d.block)
	r.sainfo = nil
	if len(s.ciphers) == 0 || len(s.hashes) == 0 {
		if !config.Failed(r.list[before:]) {
			r.fault(d.at(), "needs encryption_algorithm and authentication_algorithm with something that coati has")
		}
		return
	}
	r.sainfos = append(r.sainfos, s)
}

// sainfoID reads one end: anonymous, clientaddr, address or subnet with port and protocol, or a name.
func (r *racoonReader) sainfoID(d *directive, w *words) (id sainfoID) {
	switch kind := r.choice(d, w, "anonymous", "clientaddr", "address", "subnet", "asn1dn", "fqdn", "user_fqdn"); kind {
	case "":
	case "anonymous":
		id.anonymous = true
	case "clientaddr":
		r.wrong(d, w, "clientaddr is for clients of mode config, which are not served yet")
	case "asn1dn", "fqdn", "user_fqdn":
		id.other, _ = w.next()
		r.lost(d.at(), "%s: traffic is told apart by addresses: no policy fits this sainfo", kind)
	default:
		text, _ := w.next()
		prefix, bits, has := strings.Cut(text, "/")
		a, err := netip.ParseAddr(prefix)
		if err != nil || a.Zone() != "" || a.Is4In6() {
			r.wrong(d, w, "want an address in numbers, or ADDRESS/LENGTH")
			return id
		}
		id.prefix = netip.PrefixFrom(a, a.BitLen())
		if has {
			if id.prefix, err = netip.ParsePrefix(prefix + "/" + bits); err != nil {
				r.wrong(d, w, "the length of a prefix of %s is 0 to %d", a, a.BitLen())
				return id
			}
			id.prefix = id.prefix.Masked()
		}
		id.port, _, _ = r.bracketed(d, w)
		name, ok := w.next()
		if !ok {
			r.wrong(d, w, "want the upper-layer protocol behind the address: any, tcp or another")
			return id
		}
		if id.protocol, err = upperProtocol(name); err != nil {
			r.wrong(d, w, "want an upper-layer protocol: any, tcp, udp, icmp, icmp6 or a number")
		}
	}
	return id
}

var sainfoHandlers = map[string]racoonHandler{
	"pfs_group": func(r *racoonReader, d *directive, w *words) {
		r.sainfo.group, r.sainfo.groupAt = r.dhGroup(d, w), d.at()
	},
	"lifetime": func(r *racoonReader, d *directive, w *words) {
		if !w.accept("byte") {
			r.sainfo.lifetime = r.lifetime(d, w)
			return
		}
		n := r.number(d, w, 1<<40)
		units := map[string]uint64{"B": 1, "Byte": 1, "Bytes": 1, "KB": 1 << 10, "KByte": 1 << 10, "KBytes": 1 << 10, "MB": 1 << 20, "MByte": 1 << 20, "MBytes": 1 << 20, "TB": 1 << 30, "TByte": 1 << 30, "TBytes": 1 << 30}
		unit, _ := w.next()
		if units[unit] == 0 || n == 0 || n > 1<<62/units[unit] {
			r.wrong(d, w, "want a number and its unit: B, KB, MB or TB")
			return
		}
		r.sainfo.octets = n * units[unit]
	},
	"remoteid": func(r *racoonReader, d *directive, w *words) { r.sainfo.remoteid = r.number(d, w, 1<<32-1) },
	"encryption_algorithm": func(r *racoonReader, d *directive, w *words) {
		r.sainfo.ciphersAt = d.at()
		for {
			if t, ok := w.peek(); ok && t.kind == word && oldCiphers[t.text] {
				w.at++
				r.lost(d.at(), "%s is not carried", t.text)
			} else if c := r.cipher(d, w); !w.failed {
				r.sainfo.ciphers = append(r.sainfo.ciphers, c)
			}
			if w.failed || !w.accept(",") {
				return
			}
		}
	},
	"authentication_algorithm": func(r *racoonReader, d *directive, w *words) {
		r.sainfo.hashesAt = d.at()
		for {
			name, _ := w.next()
			switch h, ok := strings.CutPrefix(name, "hmac_"); {
			case ok && racoonHashes[h] != "":
				r.sainfo.hashes = append(r.sainfo.hashes, h)
			case name == "non_auth" || name == "des" || name == "3des" || name == "des_iv64" || name == "des_iv32":
				r.lost(d.at(), "%s: an association that authenticates nothing is not made", name)
			default:
				r.wrong(d, w, "want hmac_md5, hmac_sha1, hmac_sha256, hmac_sha384 or hmac_sha512")
			}
			if w.failed || !w.accept(",") {
				return
			}
		}
	},
	"compression_algorithm": func(r *racoonReader, d *directive, w *words) { r.choice(d, w, "deflate") },
}

// oldCiphers are racoon's names of what no RFC that is in force has for ESP.
var oldCiphers = map[string]bool{"des_iv64": true, "des_iv32": true, "rc5": true, "rc4": true, "idea": true, "3idea": true, "twofish": true}

// fits says how closely a sainfo is for a policy's traffic: 0 is not at all, more is closer.
func (s *sainfo) fits(e *Selection) int {
	l, r := s.local.fits(e.Src, e.SrcPort, e.Protocol), s.remote.fits(e.Dst, e.DstPort, e.Protocol)
	if l == 0 || r == 0 {
		return 0
	}
	return l + r
}

func (id *sainfoID) fits(p netip.Prefix, port uint16, protocol uint8) int {
	switch {
	case id.other != "":
		return 0
	case id.anonymous:
		return 1
	case id.prefix.Addr().BitLen() != p.Addr().BitLen() || id.prefix.Bits() > p.Bits() || !id.prefix.Contains(p.Addr()):
		return 0
	case id.protocol != AnyProtocol && id.protocol != protocol, id.port != 0 && id.port != port:
		return 0
	}
	n := 2 + id.prefix.Bits()
	if id.protocol != AnyProtocol {
		n += 1000
	}
	if id.port != 0 {
		n += 1000
	}
	return n
}
