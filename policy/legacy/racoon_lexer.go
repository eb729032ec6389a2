package legacy

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"

	"coati/policy/config"
)

// Bounds on one file of racoon's.
const (
	maxBlocks     = 8       // blocks within blocks
	maxStatements = 200_000 // of all files
)

// directive is a statement of racoon.conf: words up to a semicolon, or up to a block of directives.
type directive struct {
	tokens []token
	block  []directive
	braces bool
	file   string
	line   int
}

func (d *directive) name() string {
	if len(d.tokens) == 0 {
		return ""
	}
	return d.tokens[0].text
}

func (d *directive) at() config.Place {
	name := ""
	if len(d.tokens) > 0 && d.tokens[0].kind == word && isName(d.name()) {
		name = d.name()
	}
	return config.Place{File: d.file, Line: d.line, Directive: name}
}

// racoonParser reads files of racoon's language; what they include takes the place of the directive.
type racoonParser struct {
	*faults
	shelf      *shelf
	include    string // folder of "path include"
	open       []string
	statements int
}

// parse reads one file whole.
func (p *racoonParser) parse(file string, data []byte) []directive {
	if slices.Contains(p.open, file) {
		p.fault(config.Place{File: file}, "includes itself, by way of %d files", len(p.open))
		return nil
	}
	p.open = append(p.open, file)
	defer func() { p.open = p.open[:len(p.open)-1] }()
	l := &racoonLexer{file: file, data: data, line: 1, faults: p.faults}
	return p.block(l, 0)
}

// block reads directives up to the end of the file, or up to the brace that closes them.
func (p *racoonParser) block(l *racoonLexer, depth int) []directive {
	var out []directive
	d := directive{file: l.file}
	for !l.broken {
		t, more := l.next()
		if len(d.tokens) == 0 {
			d.line = t.line
		}
		switch {
		case !more && l.broken:
			return out
		case !more:
			if len(d.tokens) > 0 {
				p.fault(d.at(), "the file ends before the directive does: a ';' is missing")
			}
			if depth > 0 {
				p.fault(config.Place{File: l.file, Line: t.line}, "the file ends within a block: a '}' is missing")
			}
			return out
		case t.kind == punctuation && t.text == ";":
			if len(d.tokens) > 0 {
				out = p.take(out, d, l)
			}
			d = directive{file: l.file}
		case t.kind == punctuation && t.text == "{":
			if depth == maxBlocks {
				p.fault(d.at(), "blocks within blocks are too deep")
				l.broken = true
				return out
			}
			d.braces, d.block = true, p.block(l, depth+1)
			out = p.take(out, d, l)
			d = directive{file: l.file}
		case t.kind == punctuation && t.text == "}":
			if len(d.tokens) > 0 {
				p.fault(d.at(), "a ';' is missing before the '}'")
			}
			if depth > 0 {
				return out
			}
			p.fault(config.Place{File: l.file, Line: t.line}, "there is a '}' that closes nothing")
			d = directive{file: l.file}
		case len(d.tokens) == maxTokens:
			p.fault(d.at(), "has more than %d words: is a ';' missing", maxTokens)
			l.broken = true
		default:
			d.tokens = append(d.tokens, t)
		}
	}
	return out
}

func (p *racoonParser) take(out []directive, d directive, l *racoonLexer) []directive {
	if p.statements++; p.statements > maxStatements {
		p.fault(config.Place{File: d.file, Line: d.line}, "there are more than %d directives", maxStatements)
		l.broken = true
		return out
	}
	if d.name() == "path" && len(d.tokens) == 3 && d.tokens[1].text == "include" {
		p.include = d.tokens[2].text
	}
	if d.name() != "include" || d.braces {
		return append(out, d)
	}
	if len(d.tokens) != 2 {
		p.fault(d.at(), "wants one file, in quotation marks")
		return out
	}
	name := d.tokens[1].text
	if !filepath.IsAbs(name) {
		dir := p.include
		if dir == "" || !filepath.IsAbs(dir) {
			dir = filepath.Join(filepath.Dir(p.open[0]), dir)
		}
		name = filepath.Join(dir, name)
	}
	if len(p.open) >= maxIncludeDepth {
		p.fault(d.at(), "files within files are too deep: at most %d", maxIncludeDepth)
		return out
	}
	data, err := p.shelf.read(name, false)
	if err != nil {
		p.fault(d.at(), "%s: %s", name, err)
		return out
	}
	return append(out, p.parse(name, data)...)
}

// racoonLexer cuts a file into words, what is quoted, and the marks { } ; , [ ].
type racoonLexer struct {
	file   string
	data   []byte
	at     int
	line   int
	broken bool // nothing more can be made of the file
	*faults
}

const racoonMarks = "{};,[]"

func (l *racoonLexer) next() (token, bool) {
	for l.at < len(l.data) && !l.broken {
		c := l.data[l.at]
		switch {
		case c == '\n':
			l.line++
			l.at++
		case c == ' ' || c == '\t' || c == '\r':
			l.at++
		case c == '#':
			end := bytes.IndexByte(l.data[l.at:], '\n')
			if end < 0 {
				end = len(l.data) - l.at
			}
			l.at += end
		case strings.IndexByte(racoonMarks, c) >= 0:
			l.at++
			return token{punctuation, string(c), l.line}, true
		case c == '"':
			return l.quoted()
		case c < '!' || c > '~':
			l.fault(config.Place{File: l.file, Line: l.line}, "there is an octet 0x%02x, which no racoon.conf has outside quotes", c)
			l.broken = true
		default:
			start := l.at
			for l.at < len(l.data) && l.data[l.at] > ' ' && l.data[l.at] <= '~' && strings.IndexByte(racoonMarks+`"#`, l.data[l.at]) < 0 {
				l.at++
			}
			if l.at-start > maxWord {
				l.fault(config.Place{File: l.file, Line: l.line}, "a word has more than %d octets", maxWord)
				l.broken = true
				break
			}
			return token{word, string(l.data[start:l.at]), l.line}, true
		}
	}
	return token{line: l.line}, false
}

func (l *racoonLexer) quoted() (token, bool) {
	line := l.line
	end := bytes.IndexByte(l.data[l.at+1:], '"')
	if end < 0 || end > maxWord {
		if end < 0 {
			l.fault(config.Place{File: l.file, Line: line}, "a quotation mark is never closed")
		} else {
			l.fault(config.Place{File: l.file, Line: line}, "what is quoted has more than %d octets", maxWord)
		}
		l.broken = true
		return token{line: line}, false
	}
	text := l.data[l.at+1 : l.at+1+end]
	l.at += end + 2
	l.line += bytes.Count(text, []byte{'\n'})
	if bytes.IndexByte(text, 0) >= 0 {
		l.fault(config.Place{File: l.file, Line: line}, "there is an octet 0x00 in what is quoted")
		l.broken = true
		return token{line: line}, false
	}
	return token{quoted, string(text), line}, true
}

// isName says whether a word looks like a directive's, and can be repeated in a message.
func isName(s string) bool {
	return len(s) <= 40 && s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz_0123456789-") == "" && (s[0] < '0' || s[0] > '9')
}
