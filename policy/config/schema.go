package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// key is one row of a table's schema: a name and what its value means.
type key[T any] struct {
	name string
	set  func(l *loader, dst *T, k setting)
}

func (k setting) errorf(l *loader, format string, args ...any) {
	l.errorf(k.at, k.name+": "+format, args...)
}

// decode gives every key of a table to its row, and reports the keys that have none.
func decode[T any](l *loader, t *value, what string, keys []key[T], dst *T) {
	for _, f := range t.fields {
		i := slices.IndexFunc(keys, func(k key[T]) bool { return k.name == f.name })
		if i < 0 {
			l.unknown(f.at, f.name, what, names(keys))
			continue
		}
		keys[i].set(l, dst, f)
	}
}

func names[T any](keys []key[T]) []string {
	out := make([]string, len(keys))
	for i := range keys {
		out[i] = keys[i].name
	}
	return out
}

// unknown reports a key nobody reads, with what was probably meant.
func (l *loader) unknown(at position, name, what string, known []string) {
	if hint, ok := notHere[name]; ok && !slices.Contains(known, name) {
		l.errorf(at, "unknown key %q in %s: %s", name, what, hint)
		return
	}
	if l.full() {
		l.errorf(at, "unknown key")
		return
	}
	if n := nearest(name, known); n != "" {
		l.errorf(at, "unknown key %q in %s: did you mean %q", name, what, n)
		return
	}
	l.errorf(at, "unknown key %q in %s: it knows %s", name, what, strings.Join(known, ", "))
}

// notHere explains keys that people bring along from elsewhere.
var notHere = map[string]string{
	"psk":           "a key never stands in this file: write it to a file of its own and name that with psk-file",
	"secret":        "a key never stands in this file: write it to a file of its own and name that with psk-file",
	"password":      "a key never stands in this file: write it to a file of its own and name that with psk-file",
	"cert":          `did you mean "cert-file"`,
	"key":           `did you mean "key-file"`,
	"ca":            `did you mean "ca-file"`,
	"cacerts":       `did you mean "ca-file"`,
	"certs":         `did you mean "cert-file"`,
	"leftcert":      `did you mean "cert-file"`,
	"eap":           `did you mean auth = "eap" or remote-auth = "eap"`,
	"metrics":       "metrics are not built in yet: coati status --json has all counters",
	"left":          `did you mean "local"`,
	"leftid":        `did you mean "local-id"`,
	"leftsubnet":    `did you mean "local-ts"`,
	"right":         `did you mean "remote"`,
	"rightid":       `did you mean "remote-id"`,
	"rightsubnet":   `did you mean "remote-ts"`,
	"local_addrs":   `did you mean "local"`,
	"remote_addrs":  `did you mean "remote"`,
	"proposals":     `did you mean "ike"`,
	"esp_proposals": `did you mean "esp"`,
	"children":      `did you mean [[tunnel.NAME.child]]`,
	"auto":          `did you mean "start"`,
	"start_action":  `did you mean "start"`,
}

// wants reports a value of the wrong type.
func (k setting) wants(l *loader, want string) {
	k.errorf(l, "wants %s, not %s", want, k.v.kind)
}

// maxText is the longest path the kernel takes; nothing else is as long.
const maxText = 4096

func (k setting) text(l *loader, example string) (string, bool) {
	if k.v.kind != kindString {
		k.wants(l, fmt.Sprintf("a string such as %q", example))
		return "", false
	}
	if k.v.text == "" {
		k.errorf(l, "is empty: want something such as %q, or leave the key out", example)
		return "", false
	}
	if len(k.v.text) > maxText {
		k.errorf(l, "is too long: want at most %d octets", maxText)
		return "", false
	}
	if i := strings.IndexFunc(k.v.text, func(c rune) bool { return c < ' ' || c == 0x7f }); i >= 0 {
		k.errorf(l, "has a control character in it: %q", k.v.text)
		return "", false
	}
	return k.v.text, true
}

// choice is one of a few words.
func (k setting) choice(l *loader, words ...string) (int, bool) {
	if k.v.kind != kindString {
		k.wants(l, oneOf(words))
		return 0, false
	}
	i := slices.Index(words, k.v.text)
	if i < 0 {
		hint := ""
		if n := nearest(k.v.text, words); n != "" {
			hint = fmt.Sprintf(": did you mean %q", n)
		}
		k.errorf(l, "unknown choice %q, want %s%s", k.v.text, oneOf(words), hint)
	}
	return i, i >= 0
}

func oneOf(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = strconv.Quote(w)
	}
	if n := len(quoted); n > 1 {
		return strings.Join(quoted[:n-1], ", ") + " or " + quoted[n-1]
	}
	return quoted[0]
}

func (k setting) boolean(l *loader) (bool, bool) {
	if k.v.kind != kindBool {
		k.wants(l, "true or false")
		return false, false
	}
	return k.v.text == "true", true
}

func (k setting) integer(l *loader, low, high int64) (int64, bool) {
	want := fmt.Sprintf("a whole number from %d to %d", low, high)
	if k.v.kind != kindInteger {
		k.wants(l, want)
		return 0, false
	}
	n, err := k.v.integer()
	if err != nil || n < low || n > high {
		k.errorf(l, "%s is out of range: want %s", k.v.text, want)
		return 0, false
	}
	return n, true
}

// maxDuration is far beyond every sensible lifetime and far below what arithmetic on durations can hold.
const maxDuration = 10 * 365 * 24 * time.Hour

// duration reads Go's durations, and days in front of them: "30s", "1h30m", "1d", "1d12h". Zero means never.
func (k setting) duration(l *loader) (time.Duration, bool) {
	if k.v.kind != kindString {
		hint := ""
		if k.v.kind == kindInteger {
			hint = fmt.Sprintf(": write \"%ss\" for seconds", k.v.text)
		}
		k.errorf(l, "wants a duration such as \"30s\", not %s%s", k.v.kind, hint)
		return 0, false
	}
	d, err := parseDuration(k.v.text)
	switch {
	case err != nil:
		k.errorf(l, "%q is no duration: want something such as \"30s\", \"15m\", \"4h\" or \"1d\"", k.v.text)
	case d != 0 && d < time.Second:
		k.errorf(l, "%q is too short: want at least \"1s\", or \"0s\" for never", k.v.text)
	case d > maxDuration:
		k.errorf(l, "%q is too long: want at most \"3650d\", or \"0s\" for never", k.v.text)
	default:
		return d, true
	}
	return 0, false
}

func parseDuration(s string) (time.Duration, error) {
	days, rest, found := strings.Cut(s, "d")
	if !found {
		return time.ParseDuration(s)
	}
	n, err := strconv.ParseUint(days, 10, 16)
	if err != nil {
		return 0, err
	}
	d := time.Duration(n) * 24 * time.Hour
	if rest == "" {
		return d, nil
	}
	more, err := time.ParseDuration(rest)
	if err != nil || more < 0 {
		return 0, fmt.Errorf("bad duration %q", s)
	}
	return d + more, nil
}

// texts is a list of strings, each with the line it stands on.
func (k setting) texts(l *loader, example string) ([]setting, bool) {
	want := fmt.Sprintf("a list such as [%q]", example)
	switch {
	case k.v.kind == kindString:
		k.errorf(l, "wants a list, not a string: write [%q]", k.v.text)
		return nil, false
	case k.v.kind != kindArray:
		k.wants(l, want)
		return nil, false
	case len(k.v.list) == 0:
		k.errorf(l, "is an empty list: want one such as [%q], or leave the key out", example)
		return nil, false
	}
	ok := true
	out := make([]setting, 0, len(k.v.list))
	for _, v := range k.v.list {
		e := setting{k.name, v.at, v}
		if _, good := e.text(l, example); !good {
			ok = false
			continue
		}
		out = append(out, e)
	}
	return out, ok
}
