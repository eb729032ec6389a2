package legacy

import (
	"bytes"
	"fmt"
	"strings"

	"coati/policy/config"
)

// Limits on a script.
const (
	maxTokens = 256     // of one statement
	maxWord   = 1 << 12 // octets of one token
	maxFaults = 100     // told; the rest is counted
)

type tokenKind uint8

const (
	word tokenKind = iota
	quoted
	punctuation // one of / [ ]
)

type token struct {
	kind tokenKind
	text string
	line int
}

// statement is what stands before a semicolon.
type statement struct {
	tokens []token
	line   int // of the first token
}

// scanner cuts a script into statements. Comments begin with '#' outside quotes and end with the line.
type scanner struct {
	file string
	data []byte
	at   int
	line int
	faults
}

// faults of one script.
type faults struct {
	list []config.Fault
	more int
}

func (f *faults) add(file string, line int, format string, args ...any) {
	if len(f.list) >= maxFaults {
		f.more++
		return
	}
	f.list = append(f.list, config.Fault{File: file, Line: line, Severity: config.Error, Message: fmt.Sprintf(format, args...)})
}

func (f *faults) all() []config.Fault {
	if f.more > 0 {
		f.list = append(f.list, config.Fault{Severity: config.Error, Message: fmt.Sprintf("%d more faults are not shown", f.more)})
		f.more = 0
	}
	return f.list
}

// next is the next statement; false at the end. A statement that cannot be cut into tokens is a fault and left out.
func (s *scanner) next() (statement, bool) {
	for {
		st, wrong, more := s.cut()
		if !more {
			return statement{}, false
		}
		if wrong == "" && len(st.tokens) > 0 {
			return st, true
		}
		if wrong != "" {
			s.add(s.file, st.line, "%s", wrong)
		}
	}
}

// cut reads up to the next semicolon. What is wrong with the statement is said once, with the line in st.line.
func (s *scanner) cut() (st statement, wrong string, more bool) {
	blame := func(line int, format string, args ...any) {
		if wrong == "" {
			wrong, st.line = fmt.Sprintf(format, args...), line
		}
	}
	for s.at < len(s.data) {
		c := s.data[s.at]
		switch {
		case c == '\n':
			s.line++
			s.at++
		case c == ' ' || c == '\t' || c == '\r':
			s.at++
		case c == '#':
			end := bytes.IndexByte(s.data[s.at:], '\n')
			if end < 0 {
				end = len(s.data) - s.at
			}
			s.at += end
		case c == ';':
			s.at++
			return st, wrong, true
		default:
			line := s.line
			if len(st.tokens) == 0 && wrong == "" {
				st.line = line
			}
			t, complaint := s.token()
			if complaint != "" {
				blame(line, "%s", complaint)
			}
			if len(st.tokens) == maxTokens {
				blame(line, "%sthe statement has more than %d words: is a ';' missing", st.directive(), maxTokens)
			} else {
				st.tokens = append(st.tokens, t)
			}
		}
	}
	if len(st.tokens) == 0 && wrong == "" {
		return st, "", false
	}
	blame(st.line, "%sthe file ends before the statement does: a ';' is missing", st.directive())
	return st, wrong, true
}

// directive is the verb of a statement for a message, if it is one.
func (st *statement) directive() string {
	if len(st.tokens) > 0 && known(st.tokens[0]) {
		return st.tokens[0].text + ": "
	}
	return ""
}

func (s *scanner) token() (token, string) {
	start, line := s.at, s.line
	switch c := s.data[start]; {
	case c == '"':
		end := bytes.IndexByte(s.data[start+1:], '"')
		if end < 0 {
			s.at = len(s.data)
			return token{quoted, "", line}, "a quotation mark is never closed"
		}
		text := s.data[start+1 : start+1+end]
		s.at = start + end + 2
		s.line += bytes.Count(text, []byte{'\n'})
		if len(text) > maxWord {
			return token{quoted, "", line}, fmt.Sprintf("what is quoted has more than %d octets", maxWord)
		}
		return token{quoted, string(text), line}, ""
	case c == '/' || c == '[' || c == ']':
		s.at++
		return token{punctuation, string(c), line}, ""
	case c < '!' || c > '~':
		for s.at < len(s.data) && (s.data[s.at] < '!' || s.data[s.at] > '~') && !strings.ContainsRune(" \t\r\n", rune(s.data[s.at])) {
			s.at++
		}
		return token{word, "", line}, fmt.Sprintf("there is an octet 0x%02x, which no setkey script has outside quotes", c)
	}
	for s.at < len(s.data) && wordOctet(s.data[s.at]) {
		s.at++
	}
	if s.at-start > maxWord {
		return token{word, "", line}, fmt.Sprintf("a word has more than %d octets", maxWord)
	}
	return token{word, string(s.data[start:s.at]), line}, ""
}

func wordOctet(c byte) bool {
	return c > ' ' && c <= '~' && strings.IndexByte(`;#"/[]`, c) < 0
}
