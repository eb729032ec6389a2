package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Severity of a fault.
type Severity uint8

const (
	Error   Severity = iota // the configuration cannot be used
	Warning                 // it can, but probably does not do what was meant
	Lost                    // another program's file says something that was not carried over
)

// Fault is one thing that is wrong, for people: lower case, no period, with a hint.
type Fault struct {
	File     string
	Line     int // from 1; 0: the file as a whole
	Severity Severity
	Message  string
}

// String is file:line: message.
func (f Fault) String() string {
	s := position{f.File, f.Line}.String()
	if s != "" {
		s += ": "
	}
	switch f.Severity {
	case Warning:
		s += "warning: "
	case Lost:
		s += "lost: "
	}
	return s + f.Message
}

// Failed says whether one of the faults is an error.
func Failed(faults []Fault) bool {
	return slices.ContainsFunc(faults, func(f Fault) bool { return f.Severity == Error })
}

// Bounds on what is kept of a file in which everything is wrong, and of what is quoted from it.
const (
	maxFaults  = 1000
	maxMessage = 800 // octets
)

// report collects the faults of one load.
type report struct {
	order  map[string]int // files in the order they were named
	faults []Fault
	errors int // including those not kept
	more   int // not kept
}

func (r *report) errorf(at position, format string, args ...any) {
	r.errors++
	r.add(at, Error, format, args...)
}

func (r *report) warnf(at position, format string, args ...any) {
	r.add(at, Warning, format, args...)
}

func (r *report) add(at position, s Severity, format string, args ...any) {
	if r.full() {
		r.more++
		return
	}
	message := strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return unicode.ReplacementChar // what a file says must not reach a terminal as a command
		}
		return c
	}, fmt.Sprintf(format, args...))
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "") + "..."
	}
	r.faults = append(r.faults, Fault{at.file, at.line, s, message})
}

// full says that further faults are only counted, so that nobody need look for a hint.
func (r *report) full() bool { return len(r.faults) >= maxFaults }

// sorted lists the faults by file and line, and says how many more there are.
func (r *report) sorted() []Fault {
	slices.SortStableFunc(r.faults, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(r.order[a.File], r.order[b.File]), cmp.Compare(a.Line, b.Line))
	})
	if r.more > 0 {
		s := Warning
		if r.errors > 0 {
			s = Error
		}
		r.faults = append(r.faults, Fault{Severity: s, Message: fmt.Sprintf("%d more faults are not shown", r.more)})
		r.more = 0
	}
	return r.faults
}
