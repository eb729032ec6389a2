package legacy

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"

	"coati/policy/config"
)

// param is one key of a section.
type param struct {
	key, value string
	at         config.Place
}

// ipsecSection is a "config setup", a "conn" or a "ca" with its parameters.
type ipsecSection struct {
	kind, name string
	at         config.Place
	params     []param
}

// ipsecParser cuts files into sections; what they include takes the place of the line.
type ipsecParser struct {
	*faults
	shelf    *shelf
	open     []string
	sections []*ipsecSection
	current  *ipsecSection // nil: before the first, or in one that cannot be used
	skipping bool          // what follows belongs to a section of which something was said already
	version  bool          // a "version" line was seen
	params   int
}

func (p *ipsecParser) parse(file string, data []byte) {
	if slices.Contains(p.open, file) {
		p.fault(config.Place{File: file}, "includes itself, by way of %d files", len(p.open))
		return
	}
	p.open = append(p.open, file)
	defer func() { p.open = p.open[:len(p.open)-1] }()
	for i, line := range bytes.Split(data, []byte("\n")) {
		at := config.Place{File: file, Line: i + 1}
		switch text, wrong := ipsecLine(line); {
		case wrong != "":
			p.fault(at, "%s", wrong)
		case strings.TrimSpace(text) == "":
		default:
			p.line(at, text)
		}
	}
}

// ipsecLine is a line without its comment; and what is wrong with it.
func ipsecLine(line []byte) (text, wrong string) {
	if len(line) > maxWord {
		return "", "the line is longer than 4096 octets"
	}
	quote := byte(0)
	for i, c := range line {
		switch {
		case c == 0:
			return "", "there is an octet 0x00 in the line"
		case c < ' ' && c != '\t' && c != '\r':
			return "", "there is a control character in the line"
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"':
			quote = c
		case c == '#' && (i == 0 || line[i-1] == ' ' || line[i-1] == '\t'):
			return strings.TrimRight(string(line[:i]), " \t\r"), ""
		}
	}
	if quote != 0 {
		return "", "a quotation mark is never closed"
	}
	return strings.TrimRight(string(line), " \t\r"), ""
}

func (p *ipsecParser) line(at config.Place, text string) {
	body := strings.TrimLeft(text, " \t")
	word, rest, _ := strings.Cut(strings.ReplaceAll(body, "\t", " "), " ")
	rest = strings.TrimSpace(rest)
	switch {
	case word == "include" && !strings.HasPrefix(rest, "="):
		at.Directive = word
		p.include(at, rest)
	case strings.Contains(word, "=") || strings.HasPrefix(rest, "="):
		p.param(at, body)
	case body != text:
		p.fault(at, "want a parameter as key=value")
	default:
		p.section(at, word, rest)
	}
}

func (p *ipsecParser) section(at config.Place, kind, name string) {
	p.current, p.skipping = nil, true
	switch {
	case kind == "version":
		p.version = true
		return
	case kind == "config" && name == "setup":
	case (kind == "conn" || kind == "ca") && name != "" && !strings.ContainsAny(name, " \"="):
	case kind == "conn" || kind == "ca":
		at.Directive = kind
		p.fault(at, "want one name")
		return
	default:
		p.fault(at, "want config setup, conn NAME, ca NAME, include FILE or version, and a parameter begins with white space")
		return
	}
	at.Directive = kind
	p.current, p.skipping = &ipsecSection{kind: kind, name: name, at: at}, false
	p.sections = append(p.sections, p.current)
}

func (p *ipsecParser) param(at config.Place, body string) {
	key, value, _ := strings.Cut(body, "=")
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	if isName(strings.ToLower(key)) {
		at.Directive = key
	}
	switch {
	case p.current == nil:
		if !p.skipping {
			p.fault(at, "stands before the first section")
		}
		return
	case at.Directive == "":
		p.fault(at, "want a parameter as key=value")
		return
	case p.params == maxStatements:
		p.fault(at, "there are more than %d parameters", maxStatements)
	}
	if p.params++; p.params > maxStatements {
		return
	}
	if strings.HasPrefix(value, `"`) {
		inner, ok := strings.CutSuffix(value[1:], `"`)
		if !ok || strings.Contains(inner, `"`) {
			p.fault(at, "nothing may follow the closing quotation mark")
			return
		}
		value = inner
	}
	p.current.params = append(p.current.params, param{key, value, at})
}

func (p *ipsecParser) include(at config.Place, pattern string) {
	pattern = strings.Trim(pattern, `"`)
	if pattern == "" || strings.Contains(pattern, " ") {
		p.fault(at, "want one file or pattern")
		return
	}
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(filepath.Dir(at.File), pattern)
	}
	if len(p.open) >= maxIncludeDepth {
		p.fault(at, "files within files are too deep: at most %d", maxIncludeDepth)
		return
	}
	names, err := p.shelf.Glob(pattern)
	if err != nil {
		p.fault(at, "the pattern cannot be used")
		return
	}
	if len(names) == 0 && !strings.ContainsAny(pattern, "*?[") {
		p.fault(at, "%s: no such file", pattern)
	}
	for _, name := range names {
		data, err := p.shelf.read(name, false)
		if err != nil {
			p.fault(at, "%s: %s", name, err)
			if p.shelf.files > maxFiles || p.shelf.octets > maxOctets {
				return
			}
			continue
		}
		p.current, p.skipping = nil, false
		p.parse(name, data)
	}
	p.current, p.skipping = nil, false
}
