package config

import (
	"bytes"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2/unstable"
)

// kind is the type of a value, in the words a person reads.
type kind string

const (
	kindString  kind = "a string"
	kindBool    kind = "true or false"
	kindInteger kind = "a whole number"
	kindFloat   kind = "a number with a fraction"
	kindTime    kind = "a date or time"
	kindArray   kind = "a list"
	kindTable   kind = "a table"
)

// origin says how a table came to be, which decides what may still be added to it (TOML 1.0, "Table").
type origin uint8

const (
	fromParent origin = iota // as a step of a longer header
	fromHeader               // by a header of its own
	fromKey                  // by a dotted key
	fromInline               // by braces: complete
)

// value is one node of the tree, with the place it came from.
type value struct {
	kind kind
	at   position
	text string // string: its content; bool and numbers: as written
	list []*value
	// tables of an array written as [[name]]; only those can be added to by headers
	headers bool

	origin origin
	fields []setting
	index  map[string]int // of fields, once there are many
}

// setting is one key of a table, where the key stands, and its value.
type setting struct {
	name string
	at   position
	v    *value
}

// indexFrom is the number of fields from which on a table is looked up by map.
const indexFrom = 12

func (t *value) get(name string) *value {
	if t.index != nil {
		if i, ok := t.index[name]; ok {
			return t.fields[i].v
		}
		return nil
	}
	for i := range t.fields {
		if t.fields[i].name == name {
			return t.fields[i].v
		}
	}
	return nil
}

func (t *value) put(name string, at position, v *value) {
	t.fields = append(t.fields, setting{name, at, v})
	if t.index == nil && len(t.fields) >= indexFrom {
		t.index = make(map[string]int, 2*len(t.fields))
		for i := range t.fields {
			t.index[t.fields[i].name] = i
		}
	}
	if t.index != nil {
		t.index[name] = len(t.fields) - 1
	}
}

// document turns the octets of one file into its tree.
type document struct {
	file     string
	parser   unstable.Parser
	newlines []int // offsets
	data     []byte
	root     *value
	report   *report
}

// parse reads one file. It reports the first violation of TOML's grammar and gives up there, but goes on after keys
// that are set twice. The result is nil if the grammar was violated.
func parse(file string, data []byte, r *report) *value {
	d := &document{file: file, data: data, report: r, root: &value{kind: kindTable, origin: fromHeader}}
	if i := invalidUTF8(data); i >= 0 {
		d.index()
		r.errorf(d.at(i), "not text: octet 0x%02x is not UTF-8", data[i])
		return nil
	}
	d.index()
	d.parser.Reset(data)
	table := d.root
	for d.parser.NextExpression() {
		switch e := d.parser.Expression(); e.Kind {
		case unstable.Table:
			table = d.header(e, false)
		case unstable.ArrayTable:
			table = d.header(e, true)
		case unstable.KeyValue:
			d.keyValue(table, e)
		}
	}
	if err := d.parser.Error(); err != nil {
		at := position{file, 0}
		var perr *unstable.ParserError
		if errors.As(err, &perr) && len(data) > 0 {
			at = d.at(int(d.parser.Range(perr.Highlight).Offset))
		}
		hint := ""
		if m := err.Error(); strings.HasPrefix(m, "expected keyword") || strings.HasSuffix(m, "at start of value") {
			hint = ": put quotes around words and addresses"
		}
		r.errorf(at, "not TOML: %s%s", err, hint)
		return nil
	}
	return d.root
}

func invalidUTF8(data []byte) int {
	for i := 0; i < len(data); {
		if data[i] < utf8.RuneSelf {
			i++
			continue
		}
		c, n := utf8.DecodeRune(data[i:])
		if c == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

func (d *document) index() {
	for off := 0; ; {
		i := bytes.IndexByte(d.data[off:], '\n')
		if i < 0 {
			return
		}
		d.newlines = append(d.newlines, off+i)
		off += i + 1
	}
}

func (d *document) at(offset int) position {
	return position{d.file, 1 + sort.SearchInts(d.newlines, offset)}
}

// header finds or makes the table of [a.b] or [[a.b]]. What cannot be there is reported, and the keys below it go into
// a table of their own that nobody reads.
func (d *document) header(e *unstable.Node, array bool) *value {
	t := d.root
	var path []string
	for it := e.Key(); it.Next(); {
		k := it.Node()
		name, at := string(k.Data), d.at(int(k.Raw.Offset))
		path = append(path, name)
		next := t.get(name)
		switch {
		case !it.IsLast():
			t = d.step(t, next, name, at)
		case array:
			t = d.element(t, next, name, at)
		case next == nil:
			next = &value{kind: kindTable, at: at, origin: fromHeader}
			t.put(name, at, next)
			t = next
		case next.kind == kindTable && next.origin == fromParent:
			next.origin, next.at = fromHeader, at
			t = next
		default:
			d.report.errorf(at, "[%s] is defined twice: it is also at line %d", strings.Join(path, "."), next.at.line)
			t = nil
		}
		if t == nil {
			return &value{kind: kindTable}
		}
	}
	return t
}

// step goes through a table on the way to the one a header names.
func (d *document) step(t, next *value, name string, at position) *value {
	switch {
	case next == nil:
		next = &value{kind: kindTable, at: at}
		t.put(name, at, next)
		return next
	case next.kind == kindTable && next.origin != fromInline:
		return next
	case next.headers:
		return next.list[len(next.list)-1]
	}
	d.report.errorf(at, "%s is %s at line %d and cannot have parts", name, next.kind, next.at.line)
	return nil
}

func (d *document) element(t, next *value, name string, at position) *value {
	if next == nil {
		next = &value{kind: kindArray, at: at, headers: true}
		t.put(name, at, next)
	}
	if !next.headers {
		d.report.errorf(at, "%s is %s at line %d: nothing can be added to it with [[...]]", name, next.kind, next.at.line)
		return nil
	}
	elem := &value{kind: kindTable, at: at, origin: fromHeader}
	next.list = append(next.list, elem)
	return elem
}

// keyValue adds a.b = v to a table. A key that is there already is reported and left as it was.
func (d *document) keyValue(t *value, e *unstable.Node) {
	for it := e.Key(); it.Next(); {
		k := it.Node()
		name, at := string(k.Data), d.at(int(k.Raw.Offset))
		next := t.get(name)
		switch {
		case it.IsLast() && next == nil:
			t.put(name, at, d.value(e.Value(), at))
			return
		case it.IsLast():
			d.report.errorf(at, "%s is set twice: it is also at line %d", name, next.at.line)
			return
		case next == nil:
			next = &value{kind: kindTable, at: at, origin: fromKey}
			t.put(name, at, next)
		case next.kind != kindTable || next.origin != fromKey:
			d.report.errorf(at, "%s is set at line %d and cannot be added to here", name, next.at.line)
			return
		}
		t = next
	}
}

func (d *document) value(n *unstable.Node, at position) *value {
	v := &value{at: at}
	if n.Raw.Length > 0 {
		v.at = d.at(int(n.Raw.Offset))
	}
	switch n.Kind {
	case unstable.String:
		v.kind, v.text = kindString, string(n.Data)
	case unstable.Bool:
		v.kind, v.text = kindBool, string(n.Data)
	case unstable.Integer:
		v.kind, v.text = kindInteger, string(n.Data)
	case unstable.Float:
		v.kind, v.text = kindFloat, string(n.Data)
	case unstable.Array:
		v.kind = kindArray
		for it := n.Children(); it.Next(); {
			if c := it.Node(); c.Kind != unstable.Comment {
				v.list = append(v.list, d.value(c, v.at))
			}
		}
	case unstable.InlineTable:
		v.kind, v.origin = kindTable, fromInline
		for it := n.Children(); it.Next(); {
			if c := it.Node(); c.Kind == unstable.KeyValue {
				d.keyValue(v, c)
			}
		}
		v.close()
	default:
		v.kind = kindTime
	}
	return v
}

// close makes the tables dotted keys left inside braces as complete as the braces themselves.
func (t *value) close() {
	for _, f := range t.fields {
		if f.v.kind == kindTable && f.v.origin == fromKey {
			f.v.origin = fromInline
			f.v.close()
		}
	}
}

// integer is the number a whole-number value holds.
func (v *value) integer() (int64, error) {
	s := v.text
	digits := strings.TrimLeft(s, "+-")
	if len(digits) > 1 && digits[0] == '0' && strings.Trim(digits[1:2], "xob") != "" {
		return 0, fmt.Errorf("%s has a leading zero", s)
	}
	return strconv.ParseInt(s, 0, 64)
}
