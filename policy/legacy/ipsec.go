package legacy

import (
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"coati/policy/config"
)

// ipsec.conf(5) and ipsec.secrets(5) of FreeS/WAN's descendants: Openswan, Libreswan, strongSwan.
//
//	ipsec_lexer.go     octets -> sections with parameters, with what they include
//	ipsec.go           sections -> what each conn says, with what it takes from others
//	ipsec_conn.go      parameters of a conn, one by one
//	ipsec_end.go       left and right, and which of them is us
//	ipsec_proposal.go  both spellings of ike= and esp=
//	ipsec_secrets.go   ipsec.secrets
//	ipsec_convert.go   conns -> tunnels
//	ipsec_rows.go      what becomes of each parameter

// Host is what a conn has to know of the machine.
type Host struct {
	// Own says whether an address is this host's.
	Own func(netip.Addr) bool
	// Source is the address from which this host speaks to another; invalid: it cannot be told.
	Source func(netip.Addr) netip.Addr
}

// IPsecFiles are an ipsec.conf with what it includes, and its secrets.
type IPsecFiles struct {
	file    string
	conns   []*conn
	setup   map[string]param
	cacerts []param
	secrets []ipsecSecret
	pluto   bool // the dialect is Openswan's or Libreswan's
}

// conn is what a conn says, in the end.
type conn struct {
	name   string
	at     config.Place
	params map[string]param
}

// LooksLikeIPsec says whether a file is an ipsec.conf: its first line begins a section, or includes a file.
func LooksLikeIPsec(data []byte) bool {
	for line := range strings.Lines(string(data[:min(len(data), 1<<16)])) {
		f := strings.Fields(line)
		switch {
		case len(f) == 0 || strings.HasPrefix(f[0], "#"):
			continue
		case len(f) == 1 || strings.HasPrefix(f[1], "="):
			return false
		case f[0] == "include":
			return len(f) == 2 && !strings.Contains(f[1], ";")
		case f[0] == "config":
			return f[1] == "setup"
		}
		return f[0] == "conn" || f[0] == "ca" || f[0] == "version"
	}
	return false
}

// ParseIPsec reads an ipsec.conf and what it includes, and the secrets: those files, or if there are none, the ipsec.secrets in the
// folder of ipsec.conf. With an error among the faults there is nothing else.
func ParseIPsec(file string, data []byte, secrets []string, disk Disk) (*IPsecFiles, []config.Fault) {
	f := &faults{}
	if len(data) > MaxScript {
		f.fault(config.Place{File: file}, "is larger than %d MiB: split it", MaxScript>>20)
		return nil, f.all()
	}
	shelf := &shelf{Disk: disk}
	p := &ipsecParser{faults: f, shelf: shelf}
	p.parse(file, data)
	out := &IPsecFiles{file: file, pluto: p.version}
	r := &ipsecReader{IPsecFiles: out, faults: f, sections: p.sections, said: map[config.Fault]bool{}}
	r.read()
	out.secrets = readSecrets(file, secrets, f, shelf)
	all := f.all()
	if config.Failed(all) {
		return nil, all
	}
	return out, all
}

func readSecrets(file string, names []string, f *faults, shelf *shelf) []ipsecSecret {
	p := &secretsParser{faults: f, shelf: shelf}
	if len(names) == 0 {
		name := filepath.Join(filepath.Dir(file), "ipsec.secrets")
		found, _ := shelf.Glob(name)
		if len(found) == 0 {
			return nil
		}
		names = []string{name}
	}
	for _, name := range names {
		data, err := shelf.read(name, true)
		if err != nil {
			f.fault(config.Place{File: name}, "%s", err)
			continue
		}
		p.parse(name, data)
		clear(data)
	}
	return p.out
}

type ipsecReader struct {
	*IPsecFiles
	*faults
	sections []*ipsecSection
	said     map[config.Fault]bool // what conns have in common is said once
}

// plutoWords are parameters that only Openswan and Libreswan have.
var plutoWords = []string{
	"phase2alg", "phase2", "pfs", "pfsgroup", "ikev2", "protostack", "nat_traversal", "virtual_private", "virtual-private", "plutodebug", "klipsdebug", "oe", "salifetime", "connaddrfamily",
	"hostaddrfamily", "aggrmode", "leftrsasigkey", "rightrsasigkey", "leftsubnets", "rightsubnets", "leftnexthop", "rightnexthop", "leftxauthclient", "leftxauthserver", "dumpdir", "sha2-truncbug", "sha2_truncbug",
}

func (r *ipsecReader) read() {
	def := map[string]param{}
	byName := map[string]*ipsecSection{}
	r.setup = map[string]param{}
	for _, s := range r.sections {
		switch first := byName[s.kind+" "+s.name]; {
		case first != nil && s.kind != "config" && s.name != "%default":
			r.fault(s.at, "the same %s is at %s", s.kind, place(first.at.File, first.at.Line))
			continue
		case first == nil:
			byName[s.kind+" "+s.name] = s
		}
		for _, p := range s.params {
			r.pluto = r.pluto || slices.Contains(plutoWords, p.key)
		}
		switch {
		case s.kind == "config":
			maps.Copy(r.setup, r.own(s))
		case s.kind == "conn" && s.name == "%default":
			maps.Copy(def, r.own(s))
		}
	}
	for _, s := range r.sections {
		switch {
		case byName[s.kind+" "+s.name] != s || s.name == "%default":
		case s.kind == "conn" && strings.HasPrefix(s.name, "%"):
			r.lost(s.at, "%s: a conn that is built in elsewhere is not here", clip(s.name))
		case s.kind == "conn":
			c := &conn{name: s.name, at: s.at, params: r.whole(s, byName)}
			// A conn without auto of its own is there to be named by also, unless %default says otherwise.
			for k, p := range def {
				if _, set := c.params[k]; !set {
					c.params[k] = p
				}
			}
			r.conns = append(r.conns, c)
		case s.kind == "ca":
			all := r.whole(s, byName)
			if p, ok := all["cacert"]; ok && all["auto"].value != "ignore" {
				r.cacerts = append(r.cacerts, p)
			}
		}
	}
	r.setupRows()
}

// own are a section's parameters; the last of several with one name counts.
func (r *ipsecReader) own(s *ipsecSection) map[string]param {
	out := map[string]param{}
	for _, p := range s.params {
		if p.key == "also" {
			continue
		}
		if first, twice := out[p.key]; twice {
			r.warn(p.at, "is also at %s: the last one counts", place(first.at.File, first.at.Line))
		}
		out[p.key] = p
	}
	return out
}

// whole are a section's parameters and those of the sections that it names with also. What is nearer counts.
func (r *ipsecReader) whole(s *ipsecSection, byName map[string]*ipsecSection) map[string]param {
	out := r.own(s)
	r.gather(s, byName, []*ipsecSection{s}, map[*ipsecSection]bool{s: true}, out)
	return out
}

// gather adds what others say. Each is looked at once, however many name it.
func (r *ipsecReader) gather(s *ipsecSection, byName map[string]*ipsecSection, open []*ipsecSection, seen map[*ipsecSection]bool, out map[string]param) {
	for _, p := range s.params {
		if p.key != "also" {
			continue
		}
		for _, name := range strings.FieldsFunc(p.value, func(c rune) bool { return c == ' ' || c == ',' || c == '\t' }) {
			other := byName[s.kind+" "+name]
			switch {
			case other == nil:
				r.once(config.Error, p.at, "there is no %s of that name", s.kind)
				continue
			case slices.Contains(open, other):
				r.once(config.Error, p.at, "leads back to where it began")
				continue
			case len(open) > maxIncludeDepth:
				r.once(config.Error, p.at, "is more than %d deep", maxIncludeDepth)
				continue
			case seen[other]:
				continue
			}
			seen[other] = true
			for _, q := range other.params {
				if _, set := out[q.key]; !set && q.key != "also" {
					out[q.key] = q
				}
			}
			r.gather(other, byName, append(open, other), seen, out)
		}
	}
}

// once says what several conns would say alike.
func (r *ipsecReader) once(s config.Severity, at config.Place, format string, args ...any) {
	once(r.faults, r.said, s, at, format, args...)
}

func once(f *faults, said map[config.Fault]bool, s config.Severity, at config.Place, format string, args ...any) {
	n := len(f.list)
	f.say(s, at, format, args...)
	if len(f.list) == n {
		return
	}
	if last := f.list[n]; said[last] {
		f.list = f.list[:n]
	} else {
		said[last] = true
	}
}

func (r *ipsecReader) setupRows() {
	for _, k := range slices.Sorted(maps.Keys(r.setup)) {
		r.lostOrUnknown("config setup", r.setup[k])
	}
	for _, s := range r.sections {
		for _, p := range s.params {
			if s.kind == "ca" {
				r.lostOrUnknown("ca", p)
			}
		}
	}
}

// lostOrUnknown says what becomes of a parameter of these sections; supported ones are read where they are used.
func (r *ipsecReader) lostOrUnknown(section string, p param) {
	row := findRow(ipsecRows, section, p.key)
	switch {
	case strings.HasPrefix(p.key, "x-") || strings.HasPrefix(p.key, "x_"):
	case row == nil:
		r.once(config.Error, p.at, "unknown parameter of %s", section)
	case row.status == lost && !slices.Contains(saysNothing[p.key], p.value):
		r.once(config.Lost, p.at, "%s", row.note)
	}
}
