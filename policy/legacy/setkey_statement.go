package legacy

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"coati/policy"
	"coati/policy/config"
)

// MaxScript is the largest script that is read, octets.
const MaxScript = config.MaxFile

// ParseSetkey reads a script whole. The name is for faults. With a fault there is no script.
func ParseSetkey(file string, data []byte) (*Script, []config.Fault) {
	s := &scanner{file: file, data: data, line: 1}
	if len(data) > MaxScript {
		s.add(file, 0, "is larger than %d MiB: split it", MaxScript>>20)
		return nil, s.all()
	}
	out := &Script{}
	for {
		st, more := s.next()
		if !more {
			break
		}
		c := &cursor{statement: st}
		op, err := c.operation()
		switch {
		case errors.Is(err, errExit):
			s.at = len(s.data)
		case err != nil:
			s.add(file, c.blamed(), "%s%s", st.directive(), err)
		default:
			op.File, op.Line = file, st.line
			if op.SA != nil {
				op.SA.File, op.SA.Line = file, st.line
			}
			if op.Policy != nil {
				op.Policy.File, op.Policy.Line = file, st.line
			}
			out.Operations = append(out.Operations, op)
		}
	}
	if len(s.list) > 0 {
		return nil, s.all()
	}
	return out, nil
}

// LooksLikeSetkey says whether a file is a setkey script rather than Coati's own: its first word is one of setkey's verbs.
func LooksLikeSetkey(data []byte) bool {
	s := &scanner{data: data[:min(len(data), MaxScript)], line: 1}
	for s.at < len(s.data) {
		switch c := s.data[s.at]; {
		case c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == ';':
			s.at++
		case c == '#':
			for s.at < len(s.data) && s.data[s.at] != '\n' {
				s.at++
			}
		default:
			t, wrong := s.token()
			return wrong == "" && known(t)
		}
	}
	return false
}

var verbs = map[string]Verb{
	"add": Add, "get": Get, "delete": Delete, "deleteall": DeleteAll, "flush": Flush, "dump": Dump,
	"spdadd": PolicyAdd, "spdupdate": PolicyUpdate, "spddelete": PolicyDelete, "spdflush": PolicyFlush, "spddump": PolicyDump,
}

// otherVerbs are setkey's too. What they say of themselves is why they are refused; nothing: the script ends there.
var otherVerbs = map[string]string{
	"getspi": "an spi without keys is for key daemons: use add", "update": "use delete and add, which take effect together",
	"exit": "", "quit": "", "bye": "",
}

func known(t token) bool {
	if t.kind != word {
		return false
	}
	_, ours := verbs[t.text]
	_, other := otherVerbs[t.text]
	return ours || other
}

var errExit = errors.New("exit")

// cursor walks over a statement.
type cursor struct {
	statement
	at     int
	secret bool // from here on a word may be a key, and is not repeated
}

// blamed is the line of the token that was looked at last.
func (c *cursor) blamed() int {
	if len(c.tokens) == 0 {
		return c.line
	}
	return c.tokens[min(max(c.at-1, 0), len(c.tokens)-1)].line
}

func (c *cursor) peek() (token, bool) {
	if c.at >= len(c.tokens) {
		return token{}, false
	}
	return c.tokens[c.at], true
}

func (c *cursor) take(what string) (token, error) {
	t, ok := c.peek()
	if !ok {
		return t, fmt.Errorf("ends where %s is expected", what)
	}
	c.at++
	return t, nil
}

// word takes a plain word.
func (c *cursor) word(what string) (string, error) {
	t, err := c.take(what)
	if err != nil {
		return "", err
	}
	if t.kind != word {
		return "", fmt.Errorf("want %s, not %s", what, c.say(t))
	}
	return t.text, nil
}

// accept takes a token if it is this punctuation or word.
func (c *cursor) accept(text string) bool {
	if t, ok := c.peek(); ok && t.kind != quoted && t.text == text {
		c.at++
		return true
	}
	return false
}

// say repeats a token in a message, unless it may be a key.
func (c *cursor) say(t token) string {
	switch {
	case t.kind == quoted:
		return "what is quoted"
	case t.kind == punctuation:
		return strconv.Quote(t.text)
	case known(t):
		return fmt.Sprintf("%q: is a ';' missing before it", t.text)
	case c.secret || len(t.text) > 40 || strings.HasPrefix(strings.ToLower(t.text), "0x") || len(t.text) > 7 && strings.Trim(strings.ToLower(t.text), "0123456789abcdef") == "":
		return "a word that may be a key"
	}
	return strconv.Quote(t.text)
}

func (c *cursor) end() error {
	if t, ok := c.peek(); ok {
		c.at++
		return fmt.Errorf("nothing is expected after what was said, but there is %s", c.say(t))
	}
	return nil
}

func (c *cursor) operation() (op Operation, err error) {
	first, _ := c.take("a word")
	if first.kind != word {
		return op, fmt.Errorf("a statement begins with a word, not with %s", c.say(first))
	}
	if why, other := otherVerbs[first.text]; other {
		if why == "" {
			return op, errExit
		}
		return op, errors.New(why)
	}
	v, ok := verbs[first.text]
	if !ok {
		return op, fmt.Errorf("unknown directive %s: want one of %s", c.say(first), strings.Join(verbNames[:], ", "))
	}
	op.Verb = v
	switch v {
	case Add:
		op.SA, err = c.association(true)
	case Get, Delete:
		op.SA, err = c.association(false)
	case DeleteAll:
		op.SA = &Association{}
		if err = c.ends(op.SA, false); err == nil {
			err = c.protocol(op.SA)
		}
	case Flush, Dump:
		if t, more := c.peek(); more && t.kind == word && t.text != "esp" {
			err = c.protocol(&Association{})
		} else if more {
			c.at++
		}
	case PolicyAdd, PolicyUpdate:
		op.Policy, err = c.entry(true)
	case PolicyDelete:
		op.Policy, err = c.entry(false)
	}
	if err == nil {
		err = c.end()
	}
	return op, err
}

// family reads -4, -6 and -n; 0: either. Names are never resolved, so that -n says nothing new.
func (c *cursor) family() (bits int, err error) {
	for {
		t, ok := c.peek()
		if !ok || t.kind != word || len(t.text) < 2 || t.text[0] != '-' || strings.Trim(t.text[1:], "n46") != "" {
			return bits, nil
		}
		c.at++
		for _, f := range t.text[1:] {
			want := map[rune]int{'4': 32, '6': 128}[f]
			if want != 0 && bits != 0 && bits != want {
				return 0, errors.New("-4 and -6 exclude each other")
			}
			bits = max(bits, want)
		}
	}
}

func (c *cursor) address(what string, bits int) (netip.Addr, error) {
	w, err := c.word(what)
	if err != nil {
		return netip.Addr{}, err
	}
	a, err := netip.ParseAddr(w)
	switch {
	case err != nil:
		return a, fmt.Errorf("want %s as a number, not %s: names are not resolved", what, c.say(token{word, w, 0}))
	case a.Zone() != "":
		return a, fmt.Errorf("%s %s: addresses of one link only are not carried", what, a)
	case a.Is4In6():
		return a, fmt.Errorf("%s %s: write it as the ipv4 address it is", what, a)
	case bits != 0 && a.BitLen() != bits:
		return a, fmt.Errorf("%s %s is not of the family that was asked for", what, a)
	}
	return a, nil
}

// port reads [N] or [any]; 0: any, or not said.
func (c *cursor) port() (uint16, error) {
	if !c.accept("[") {
		return 0, nil
	}
	w, err := c.word("a port")
	if err != nil {
		return 0, err
	}
	n := uint64(0)
	if w != "any" {
		if n, err = strconv.ParseUint(w, 10, 16); err != nil {
			return 0, fmt.Errorf("want a port from 1 to 65535, or any, not %s", c.say(token{word, w, 0}))
		}
	}
	if !c.accept("]") {
		return 0, errors.New("the bracket after the port is missing")
	}
	return uint16(n), nil
}

// ends reads source and destination.
func (c *cursor) ends(a *Association, ports bool) error {
	bits, err := c.family()
	if err != nil {
		return err
	}
	for _, end := range []struct {
		what string
		addr *netip.Addr
		port *uint16
	}{{"the source address", &a.Src, &a.SrcPort}, {"the destination address", &a.Dst, &a.DstPort}} {
		if *end.addr, err = c.address(end.what, bits); err != nil {
			return err
		}
		if ports {
			if *end.port, err = c.port(); err != nil {
				return err
			}
		}
	}
	if a.Src.BitLen() != a.Dst.BitLen() {
		return fmt.Errorf("%s and %s are not of one family", a.Src, a.Dst)
	}
	return nil
}

var refusedProtocols = map[string]string{
	"ah":     "ah is not carried: esp with -E null authenticates as well",
	"ah-old": "ah is not carried: esp with -E null authenticates as well", "esp-old": "esp of RFC 1827 has no integrity and no sequence numbers: use esp",
	"ipcomp": "ipcomp is not carried", "tcp": "tcp-md5 is not carried",
}

func (c *cursor) protocol(a *Association) error {
	w, err := c.word("the protocol esp")
	if err != nil {
		return err
	}
	switch w {
	case "esp":
		if a.SrcPort != 0 || a.DstPort != 0 {
			return errors.New("esp has no ports: did you mean esp-udp")
		}
		return nil
	case "esp-udp":
		a.Encap = policy.EncapUDP
		for _, p := range []*uint16{&a.SrcPort, &a.DstPort} {
			if *p == 0 {
				*p = 4500 // RFC 3948, section 2.1
			}
		}
		return nil
	}
	if why := refusedProtocols[w]; why != "" {
		return errors.New(why)
	}
	return fmt.Errorf("want the protocol esp or esp-udp, not %s", c.say(token{word, w, 0}))
}

// association reads add, or what get and delete name one by.
func (c *cursor) association(whole bool) (*Association, error) {
	a := &Association{Mode: AnyMode}
	if err := c.ends(a, true); err != nil {
		return nil, err
	}
	if err := c.protocol(a); err != nil {
		return nil, err
	}
	w, err := c.word("the spi")
	if err != nil {
		return nil, err
	}
	base := 10
	if len(w) > 2 && w[0] == '0' && (w[1] == 'x' || w[1] == 'X') {
		w, base = w[2:], 16
	}
	spi, err := strconv.ParseUint(w, base, 32)
	if err != nil {
		return nil, errors.New("want an spi as a decimal number, or 0x and hexadecimal digits, of 32 bits")
	}
	if spi < 256 {
		return nil, fmt.Errorf("spi %d is reserved: want 0x100 to 0xffffffff (RFC 4303, section 2.1)", spi)
	}
	a.SPI = policy.SPI(spi)
	if !whole {
		if c.accept("-m") { // obsolete there, says setkey
			c.at++
		}
		return a, nil
	}
	if err := c.options(a); err != nil {
		return nil, err
	}
	return a, a.check()
}

func (a *Association) check() error {
	e, l := a.Encryption.Algorithm(), &a.Lifetime
	switch {
	case e == nil:
		return errors.New("no encryption is named: want -E and an algorithm, which may be null")
	case e.AEAD && a.Integrity != (policy.Transform{}):
		return fmt.Errorf("%s authenticates by itself: leave -A out", algorithmName(encryptions, a.Encryption))
	case !e.AEAD && a.Integrity == (policy.Transform{}):
		return fmt.Errorf("%s alone does not keep anybody from changing packets (RFC 8221, section 4): add -A", algorithmName(encryptions, a.Encryption))
	case l.HardTime > 0 && l.SoftTime > l.HardTime, l.HardOctets > 0 && l.SoftOctets > l.HardOctets:
		return errors.New("the soft lifetime is longer than the hard one")
	}
	return nil
}

// options reads what may follow the spi of add.
func (c *cursor) options(a *Association) error {
	seen := map[string]bool{}
	for {
		t, ok := c.peek()
		if !ok {
			return nil
		}
		c.at++
		if t.kind != word || !strings.HasPrefix(t.text, "-") {
			return fmt.Errorf("want one of -m -u -r -lh -ls -bh -bs -f -E -A, not %s", c.say(t))
		}
		if seen[t.text] && t.text != "-f" {
			return fmt.Errorf("%s is given twice", c.say(t))
		}
		seen[t.text] = true
		if err := c.option(a, t); err != nil {
			return err
		}
	}
}

func (c *cursor) option(a *Association, t token) (err error) {
	switch t.text {
	case "-m":
		return c.mode(a)
	case "-u":
		var n uint64
		n, err = c.number("-u", "an identifier", 0, math.MaxInt32)
		a.ReqID = uint32(n)
	case "-r":
		var n uint64
		// The size of the bitmap in octets, as setkey(8) has it.
		if n, err = c.number("-r", "the octets of the replay window's bitmap", 0, 8192); err == nil && n > 0 && n < 4 {
			return errors.New("-r counts octets, of eight packets each: want 0, or 4 to 8192 (RFC 4303, section 3.4.3: 32 packets at least)")
		}
		a.Window = uint32(n) * 8
	case "-lh":
		a.Lifetime.HardTime, err = c.seconds("-lh")
	case "-ls":
		a.Lifetime.SoftTime, err = c.seconds("-ls")
	case "-bh":
		a.Lifetime.HardOctets, err = c.number("-bh", "octets", 0, math.MaxInt64)
	case "-bs":
		a.Lifetime.SoftOctets, err = c.number("-bs", "octets", 0, math.MaxInt64)
	case "-f":
		return c.extension()
	case "-E":
		c.secret = true
		a.Encryption, a.EncryptionKey, err = c.keyed("-E", "encryption", encryptions)
	case "-A":
		c.secret = true
		if c.accept("null") {
			return errors.New("-A null authenticates nobody and is refused (RFC 8221, section 4)")
		}
		if name, ok := c.peek(); ok {
			a.ICV96 = name.text == hmacSHA256Cut
		}
		a.Integrity, a.IntegrityKey, err = c.keyed("-A", "integrity", integrities)
	case "-C", "-R":
		return errors.New("-C is for ipcomp, which is not carried")
	case "-ctx":
		return errors.New("-ctx: security contexts are not carried")
	default:
		return fmt.Errorf("unknown option %s: want one of -m -u -r -lh -ls -bh -bs -f -E -A", c.say(t))
	}
	return err
}

func (c *cursor) mode(a *Association) error {
	w, err := c.word("a mode")
	if err != nil {
		return err
	}
	modes := map[string]policy.Mode{"tunnel": policy.Tunnel, "transport": policy.Transport, "any": AnyMode}
	m, ok := modes[w]
	if !ok {
		return fmt.Errorf("-m wants transport, tunnel or any, not %s", c.say(token{word, w, 0}))
	}
	a.Mode = m
	return nil
}

func (c *cursor) extension() error {
	w, err := c.word("what -f asks for")
	switch {
	case err != nil:
		return err
	case slices.Contains([]string{"seq-pad", "nocyclic-seq"}, w):
		return nil // as it always is
	case slices.Contains([]string{"zero-pad", "random-pad"}, w):
		return fmt.Errorf("-f %s: padding is 1, 2, 3 and so on, and is checked (RFC 4303, section 2.4)", w)
	}
	return fmt.Errorf("-f wants seq-pad or nocyclic-seq, not %s", c.say(token{word, w, 0}))
}

func (c *cursor) number(option, what string, least, most uint64) (uint64, error) {
	w, err := c.word(what)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(w, 10, 64)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%s wants %s, a number from %d to %d, not %s", option, what, least, most, c.say(token{word, w, 0}))
	}
	return n, nil
}

func (c *cursor) seconds(option string) (time.Duration, error) {
	n, err := c.number(option, "seconds", 0, uint64(math.MaxInt64/time.Second))
	return time.Duration(n) * time.Second, err
}

// keyed reads an algorithm and its key.
func (c *cursor) keyed(option, what string, table []algorithm) (policy.Transform, policy.Secret, error) {
	none := policy.Transform{}
	t, err := c.take("an " + what + " algorithm")
	if err != nil {
		return none, policy.Secret{}, fmt.Errorf("%s %w", option, err)
	}
	if t.kind != word {
		return none, policy.Secret{}, fmt.Errorf("%s wants the name of an algorithm in front of the key", option)
	}
	a, err := lookup(table, what, t.text)
	if err != nil {
		return none, policy.Secret{}, err
	}
	if a.keyless() {
		return a.rows()[0].Transform(), policy.Secret{}, nil
	}
	k, err := c.take("the key of " + a.names[0])
	if err != nil {
		return none, policy.Secret{}, err
	}
	secret, err := key(k)
	if err != nil {
		return none, policy.Secret{}, fmt.Errorf("%s: %w", a.names[0], err)
	}
	fit, err := a.fit(secret.Len())
	if err != nil {
		secret.Wipe()
		return none, policy.Secret{}, err
	}
	return fit, secret, nil
}
