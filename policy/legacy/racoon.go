package legacy

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"coati/policy/config"
)

// The language of racoon.conf(5), of KAME, the BSDs and ipsec-tools.
//
//	racoon_lexer.go    octets -> directives, with what they include
//	racoon.go          the file as a whole; directives of every section by name
//	racoon_remote.go   remote and its proposals
//	racoon_sainfo.go   sainfo
//	racoon_psk.go      psk.txt
//	racoon_convert.go  remotes, sainfos and the policies of setkey's scripts -> tunnels of version 1
//	racoon_rows.go     what becomes of each directive

// Racoon is what a racoon.conf says, with all that it includes.
type Racoon struct {
	file      string
	pskFile   string
	pskAt     config.Place
	certDir   string
	remotes   []*racoonRemote
	sainfos   []*sainfo
	ports     [2]racoonPort // ike-port and natt-port
	keepalive *racoonTime
	logLevel  string
	logAt     config.Place
}

type racoonPort struct {
	number uint16
	at     config.Place
}

type racoonTime struct {
	d  time.Duration
	at config.Place
}

// LooksLikeRacoon says whether a file is of racoon's language: its first word is one of racoon's directives, and what follows is
// no assignment.
func LooksLikeRacoon(data []byte) bool {
	l := &racoonLexer{data: data[:min(len(data), 1<<16)], line: 1, faults: &faults{}}
	first, ok := l.next()
	if !ok || first.kind != word || findRow(racoonRows, "file", first.text) == nil {
		return false
	}
	second, ok := l.next()
	if !ok || second.kind == word && strings.HasPrefix(second.text, "=") {
		return false
	}
	if first.text != "include" {
		return true
	}
	third, ok := l.next()
	return ok && third.text == ";"
}

// ParseRacoon reads a racoon.conf and what it includes. With an error among the faults there is nothing else.
func ParseRacoon(file string, data []byte, disk Disk) (*Racoon, []config.Fault) {
	f := &faults{}
	if len(data) > MaxScript {
		f.fault(config.Place{File: file}, "is larger than %d MiB: split it", MaxScript>>20)
		return nil, f.all()
	}
	p := &racoonParser{faults: f, shelf: &shelf{Disk: disk}}
	directives := p.parse(file, data)
	r := &racoonReader{Racoon: &Racoon{file: file}, faults: f, shelf: p.shelf}
	if !config.Failed(f.list) { // what is cut wrongly is not looked at
		r.section("file", directives)
	}
	all := f.all()
	if config.Failed(all) {
		return nil, all
	}
	return r.Racoon, all
}

type racoonReader struct {
	*Racoon
	*faults
	shelf    *shelf
	remote   *racoonRemote   // that is being read
	proposal *racoonProposal // that is being read
	sainfo   *sainfo         // that is being read
}

type racoonHandler func(r *racoonReader, d *directive, w *words)

var racoonHandlers map[string]map[string]racoonHandler

func init() {
	racoonHandlers = map[string]map[string]racoonHandler{
		"file": {
			"path": (*racoonReader).path, "timer": inSection("timer"), "listen": inSection("listen"), "remote": (*racoonReader).readRemote,
			"sainfo": (*racoonReader).readSainfo, "log": (*racoonReader).log, "padding": inSection("padding"), "mode_cfg": inSection("mode_cfg"),
			"ldapcfg": inSection("ldapcfg"), "radiuscfg": inSection("radiuscfg"),
		},
		"timer":    {"natt_keepalive": (*racoonReader).natKeepalive},
		"listen":   {"isakmp": listenOn(0), "isakmp_natt": listenOn(1), "strict_address": nothing},
		"remote":   remoteHandlers,
		"proposal": proposalHandlers,
		"sainfo":   sainfoHandlers,
	}
}

// nothing is a directive that says what is so in any case.
func nothing(*racoonReader, *directive, *words) {}

func inSection(name string) racoonHandler {
	return func(r *racoonReader, d *directive, w *words) {
		if !d.braces {
			r.fault(d.at(), "wants a block in braces")
			return
		}
		r.section(name, d.block)
	}
}

// section gives each directive to its handler, or says what becomes of it.
func (r *racoonReader) section(name string, list []directive) {
	for i := range list {
		d := &list[i]
		what := findRow(racoonRows, name, d.name())
		if what == nil || len(d.tokens) > 0 && d.tokens[0].kind != word {
			r.unknown(name, d)
			continue
		}
		switch what.status {
		case lost:
			r.lost(d.at(), "%s", what.note)
			continue
		case refused:
			r.fault(d.at(), "%s", what.note)
			continue
		}
		h := racoonHandlers[name][d.name()]
		w := &words{tokens: d.tokens[1:]}
		h(r, d, w)
		if _, more := w.peek(); more && !w.failed {
			r.fault(d.at(), "nothing is expected after what was said, but there is more") // which may be a key
		}
	}
}

func (r *racoonReader) unknown(section string, d *directive) {
	var known []string
	for _, x := range racoonRows {
		if x.section == section {
			known = append(known, x.name)
		}
	}
	where := "in " + section
	if section == "file" {
		where = "outside of blocks"
	}
	at := d.at()
	at.Directive = ""
	if len(d.tokens) == 0 {
		r.fault(at, "a block without a name")
		return
	}
	name := " "
	// What stands where a directive is expected may be a key, where keys stand.
	if t := d.tokens[0]; t.kind == word && isName(t.text) && section != "radiuscfg" && section != "ldapcfg" {
		name = " " + strconv.Quote(t.text) + " "
	}
	r.fault(at, "unknown directive%s%s: want one of %s", name, where, strings.Join(known, ", "))
}

// words walks over what follows the name of a directive.
type words struct {
	tokens []token
	at     int
	failed bool
}

func (w *words) peek() (token, bool) {
	if w.at >= len(w.tokens) {
		return token{}, false
	}
	return w.tokens[w.at], true
}

// next is the next word or quoted text.
func (w *words) next() (string, bool) {
	t, ok := w.peek()
	if !ok || t.kind == punctuation {
		return "", false
	}
	w.at++
	return t.text, true
}

func (w *words) accept(text string) bool {
	if t, ok := w.peek(); ok && t.kind != quoted && t.text == text {
		w.at++
		return true
	}
	return false
}

// wrong says what is wrong with a directive, once.
func (r *racoonReader) wrong(d *directive, w *words, format string, args ...any) {
	if !w.failed {
		r.fault(d.at(), format, args...)
	}
	w.failed = true
}

// choice takes one of a few words.
func (r *racoonReader) choice(d *directive, w *words, choices ...string) string {
	s, ok := w.next()
	if !ok || !slices.Contains(choices, s) {
		r.wrong(d, w, "want one of %s", strings.Join(choices, ", "))
		return ""
	}
	return s
}

func (r *racoonReader) onOff(d *directive, w *words) bool { return r.choice(d, w, "on", "off") == "on" }

// number is decimal, or 0x and hexadecimal digits.
func (r *racoonReader) number(d *directive, w *words, most uint64) uint64 {
	s, _ := w.next()
	n, err := strconv.ParseUint(s, 10, 64)
	if h, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		n, err = strconv.ParseUint(h, 16, 64)
	}
	if err != nil || n > most {
		r.wrong(d, w, "want a number up to %d", most)
		return 0
	}
	return n
}

// maxSeconds is ten years.
const maxSeconds = 10 * 365 * 24 * 3600

var racoonUnits = map[string]time.Duration{
	"sec": time.Second, "secs": time.Second, "second": time.Second, "seconds": time.Second,
	"min": time.Minute, "mins": time.Minute, "minute": time.Minute, "minutes": time.Minute,
	"hour": time.Hour, "hours": time.Hour,
}

// timed reads a number and its unit.
func (r *racoonReader) timed(d *directive, w *words) time.Duration {
	n := r.number(d, w, maxSeconds)
	unit, ok := w.next()
	u, known := racoonUnits[unit]
	if !ok || !known {
		r.wrong(d, w, "want a number and its unit: sec, min or hour")
		return 0
	}
	if n > uint64(maxSeconds*time.Second/u) {
		r.wrong(d, w, "is longer than ten years")
		return 0
	}
	return time.Duration(n) * u
}

// bracketed reads [port], which may be left out.
func (r *racoonReader) bracketed(d *directive, w *words) (port uint16, any, has bool) {
	if !w.accept("[") {
		return 0, false, false
	}
	if w.accept("any") {
		any = true
	} else {
		port = uint16(r.number(d, w, 65535))
	}
	if !w.accept("]") {
		r.wrong(d, w, "a ']' is missing behind the port")
	}
	return port, any, true
}

func (r *racoonReader) address(d *directive, w *words) netip.Addr {
	s, _ := w.next()
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		r.wrong(d, w, "want an address: names and links are not looked up")
		return netip.Addr{}
	}
	return a
}

func (r *racoonReader) path(d *directive, w *words) {
	kind, _ := w.next()
	what := findRow(racoonRows, "path", kind)
	if what == nil {
		r.wrong(d, w, "want include, pre_shared_key, certificate or another path of racoon's")
		return
	}
	name, ok := w.next()
	if !ok {
		r.wrong(d, w, "%s: want a path in quotation marks", kind)
		return
	}
	if what.status == lost {
		r.lost(d.at(), "%s: %s", kind, what.note)
		return
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(filepath.Dir(r.file), name)
	}
	switch kind {
	case "pre_shared_key":
		r.pskFile, r.pskAt = name, d.at()
	case "certificate":
		r.certDir = name
	}
}

func (r *racoonReader) natKeepalive(d *directive, w *words) {
	r.keepalive = &racoonTime{r.timed(d, w), d.at()}
}

func listenOn(which int) racoonHandler {
	return func(r *racoonReader, d *directive, w *words) {
		r.address(d, w)
		port, any, has := r.bracketed(d, w)
		switch p := &r.ports[which]; {
		case w.failed || !has:
		case any || port == 0:
			r.wrong(d, w, "want a port from 1 to 65535")
		case p.number != 0 && p.number != port:
			r.wrong(d, w, "port %d differs from %d at %s: coati has one for all addresses", port, p.number, place(p.at.File, p.at.Line))
		default:
			*p = racoonPort{port, d.at()}
		}
	}
}

func (r *racoonReader) log(d *directive, w *words) {
	levels := map[string]string{"error": "error", "warning": "warn", "notify": "info", "info": "info", "debug": "debug", "debug2": "debug"}
	r.logLevel, r.logAt = levels[r.choice(d, w, "error", "warning", "notify", "info", "debug", "debug2")], d.at()
}
