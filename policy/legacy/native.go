package legacy

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"coati/policy"
	"coati/policy/config"
)

// Converted is what files of racoon or pluto say, in the words of Coati's own file.
type Converted struct {
	config.Foreign
	// KeyFrom says where each of Secrets and Files stands, as file:line, by the name of its file.
	KeyFrom map[string]string
	// Script is what setkey's scripts say beyond that; nil where there are none.
	Script *Script
}

// native writes a native file whose every line knows where it came from.
type native struct {
	buf     bytes.Buffer
	origin  []config.Place
	secrets map[string]policy.Secret
	files   map[string]policy.Secret
	from    map[string]string
	names   map[string]bool // of tunnels
}

func newNative() *native {
	return &native{secrets: map[string]policy.Secret{}, files: map[string]policy.Secret{}, from: map[string]string{}, names: map[string]bool{}}
}

func (n *native) converted(file string) *Converted {
	return &Converted{Foreign: config.Foreign{File: file, Text: n.buf.Bytes(), Origin: n.origin, Secrets: n.secrets, Files: n.files}, KeyFrom: n.from}
}

func (n *native) line(at config.Place, format string, args ...any) {
	fmt.Fprintf(&n.buf, format+"\n", args...)
	n.origin = append(n.origin, at)
}

func (n *native) header(at config.Place, title string) {
	if n.buf.Len() > 0 {
		n.line(at, "")
	}
	n.line(at, "%s", title)
}

func (n *native) text(at config.Place, key, value string) {
	n.line(at, "%s = %s", key, quoteTOML(value))
}

func (n *native) array(at config.Place, key string, values []string) {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = quoteTOML(v)
	}
	n.line(at, "%s = [%s]", key, strings.Join(quoted, ", "))
}

func (n *native) duration(at config.Place, key string, d time.Duration) {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	n.text(at, key, s)
}

// secretFile names the file of a tunnel's pre-shared key, whose octets travel beside the text.
func (n *native) secretFile(at config.Place, tunnel string, s policy.Secret, from config.Place) {
	name := tunnel + ".psk"
	n.secrets[name], n.from[name] = s, place(from.File, from.Line)
	n.text(at, "psk-file", name)
}

// memoryFile names a file of a key, whose octets travel beside the text.
func (n *native) memoryFile(at config.Place, key, name string, data []byte, from config.Place) {
	n.files[name], n.from[name] = policy.NewSecret(data), place(from.File, from.Line)
	n.text(at, key, name)
}

// tunnelName is a name for a tunnel that no other has, made of what it is to say.
func (n *native) tunnelName(s string) string {
	name := unique(n.names, s)
	n.names[name] = true
	return name
}

func unique(taken map[string]bool, s string) string {
	base := safeName(s)
	name := base
	for i := 2; taken[name]; i++ {
		name = fmt.Sprintf("%s-%d", base, i)
	}
	return name
}

// safeName has only what names of tunnels and children may have.
func safeName(s string) string {
	b := []byte(s)
	for i, c := range b {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.') {
			b[i] = '-'
		}
	}
	b = b[:min(len(b), 50)]
	if len(b) == 0 {
		return "tunnel"
	}
	return string(b)
}

// quoteTOML makes a basic string. What is not UTF-8 becomes a sign that the reader of the native file refuses.
func quoteTOML(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range strings.ToValidUTF8(s, "\ufffd") {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, "\\u%04x", c)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// prefixName is a selector as a part of a name.
func prefixName(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// say adds a fault of a directive. Nothing of a message may be a secret.
func (f *faults) say(s config.Severity, at config.Place, format string, args ...any) {
	if len(f.list) >= maxFaults {
		f.more++
		return
	}
	message := fmt.Sprintf(format, args...)
	if at.Directive != "" {
		message = at.Directive + ": " + message
	}
	f.list = append(f.list, config.Fault{File: at.File, Line: at.Line, Severity: s, Message: tidy(message)})
}

func (f *faults) fault(at config.Place, format string, args ...any) {
	f.say(config.Error, at, format, args...)
}

func (f *faults) warn(at config.Place, format string, args ...any) {
	f.say(config.Warning, at, format, args...)
}

func (f *faults) lost(at config.Place, format string, args ...any) {
	f.say(config.Lost, at, format, args...)
}

// tidy keeps a message short, and what a file says from a terminal.
func tidy(s string) string {
	const most = 500
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || c >= 0x80 && c < 0xa0 {
			return '\ufffd'
		}
		return c
	}, strings.ToValidUTF8(s, "\ufffd"))
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

// status says what becomes of a directive of another program.
type status uint8

const (
	supported status = iota
	lost             // said in a diagnostic, and the rest is used
	refused          // a fault
)

func (s status) String() string { return [...]string{"supported", "lost", "refused"}[s] }

// row is one directive of another program's file, and what becomes of it: a row of the tables in docs too.
type row struct {
	section, name string
	status        status
	note          string
}

func findRow(rows []row, section, name string) *row {
	i := slices.IndexFunc(rows, func(r row) bool { return r.section == section && r.name == name })
	if i < 0 {
		return nil
	}
	return &rows[i]
}

// markdown is the table of rows as it stands in docs.
func markdown(rows []row) string {
	var b strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | `%s` | %s | %s |\n", r.section, r.name, r.status, r.note)
	}
	return b.String()
}
