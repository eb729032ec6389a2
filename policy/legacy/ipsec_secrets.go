package legacy

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"coati/policy"
	"coati/policy/config"
)

// ipsecSecret is an entry of ipsec.secrets(5): for whom, of what kind, and what.
type ipsecSecret struct {
	ids    []string // as identity gives them
	names  []string // as they stand there
	kind   string   // PSK, RSA, ECDSA, EAP
	secret policy.Secret
	file   string // of a private key
	pem    []byte // a private key that is written out
	at     config.Place
}

// secretsParser reads ipsec.secrets. Nothing of a line is repeated in what is said of it.
type secretsParser struct {
	*faults
	shelf *shelf
	open  []string
	out   []ipsecSecret
}

// LooksLikeSecrets says whether a file is an ipsec.secrets: its first entry has a colon and a kind of secret behind it.
func LooksLikeSecrets(data []byte) bool {
	for line := range bytes.Lines(data[:min(len(data), 1<<16)]) {
		words, _ := secretWords(strings.TrimSpace(string(line)))
		if len(words) == 0 {
			continue
		}
		i := colon(words)
		return i >= 0 && i+1 < len(words) && secretKinds[strings.ToUpper(words[i+1].text)] != "" && !words[i+1].quoted()
	}
	return false
}

func (t token) quoted() bool { return t.kind == quoted }

// secretKinds: what becomes of them; "read" is used.
var secretKinds = map[string]string{
	"PSK": "read", "RSA": "read", "ECDSA": "read", "PKCS8": "read", "PRIVATE": "read",
	"EAP": "read", "XAUTH": "XAUTH is not read yet", "NTLM": "a hash of a password is none: write EAP and the password", "PIN": "no smartcards are used",
	"P12": "PKCS #12 is not read: write key and certificate in PEM", "PKCS12": "PKCS #12 is not read: write key and certificate in PEM",
	"BLISS": "BLISS is not carried", "PPK": "postquantum keys are not read from this file", "PPKS": "postquantum keys are not read from this file",
}

// secretWords cuts an entry into words and what is quoted. False: a quotation mark is never closed.
func secretWords(s string) ([]token, bool) {
	var out []token
	for {
		s = strings.TrimLeft(s, " \t\r\n")
		if s == "" || s[0] == '#' {
			if i := strings.IndexByte(s, '\n'); i >= 0 {
				s = s[i:] // a comment within an entry
				continue
			}
			return out, true
		}
		if s[0] == '"' || s[0] == '\'' {
			end := strings.IndexByte(s[1:], s[0])
			if end < 0 || strings.Contains(s[1:1+end], "\n") {
				return out, false
			}
			out = append(out, token{kind: quoted, text: s[1 : 1+end]})
			s = s[end+2:]
			continue
		}
		end := strings.IndexAny(s, " \t\r\n")
		if end < 0 {
			end = len(s)
		}
		out = append(out, token{text: s[:end]})
		s = s[end:]
		if len(out) > maxTokens {
			return out, true
		}
	}
}

// colon is the place of the word ":" between identities and kind; -1: there is none.
func colon(words []token) int {
	return slices.IndexFunc(words, func(t token) bool { return t.kind != quoted && t.text == ":" })
}

func (p *secretsParser) parse(file string, data []byte) {
	if slices.Contains(p.open, file) || len(p.open) >= maxIncludeDepth {
		p.fault(config.Place{File: file}, "files within files are too deep, or one includes itself")
		return
	}
	p.open = append(p.open, file)
	defer func() { p.open = p.open[:len(p.open)-1] }()
	var entry strings.Builder
	begin := 0
	flush := func() {
		if entry.Len() > 0 {
			p.entry(config.Place{File: file, Line: begin}, entry.String())
		}
		entry.Reset()
	}
	for i, line := range bytes.Split(data, []byte("\n")) {
		text := strings.TrimRight(string(line), " \t\r")
		switch {
		case strings.ContainsRune(text, 0):
			p.fault(config.Place{File: file, Line: i + 1}, "there is an octet 0x00 in the line")
			return
		case strings.TrimSpace(text) == "" || strings.HasPrefix(strings.TrimSpace(text), "#"):
			continue
		case text[0] != ' ' && text[0] != '\t' && !strings.HasPrefix(text, "}"):
			flush()
			begin = i + 1
		}
		if entry.Len()+len(text) > 64<<10 {
			p.fault(config.Place{File: file, Line: i + 1}, "the entry is longer than 64 KiB")
			return
		}
		if begin == 0 {
			begin = i + 1
		}
		entry.WriteString(text + "\n")
	}
	flush()
}

func (p *secretsParser) entry(at config.Place, text string) {
	words, ok := secretWords(text)
	if !ok {
		p.fault(at, "a quotation mark is never closed")
		return
	}
	if len(words) == 2 && words[0].text == "include" && colon(words) < 0 {
		p.include(at, words[1].text)
		return
	}
	// "a b: PSK" has the colon at the last identity, unless that is an IPv6 address.
	for i, w := range words {
		id, cut := strings.CutSuffix(w.text, ":")
		if w.kind != quoted && cut && id != "" && colon(words[:i+1]) < 0 && i+1 < len(words) && secretKinds[strings.ToUpper(words[i+1].text)] != "" {
			words = slices.Insert(slices.Clone(words), i+1, token{text: ":"})
			words[i].text = id
			break
		}
	}
	i := colon(words)
	if i < 0 || i+1 >= len(words) {
		p.fault(at, "want identities, a colon, the kind of the secret, and the secret")
		return
	}
	kind := strings.ToUpper(words[i+1].text)
	what, value := secretKinds[kind], words[i+2:]
	switch {
	case what == "":
		p.fault(at, "the kind of the secret is unknown: want PSK, RSA, ECDSA, XAUTH or EAP")
		return
	case what != "read":
		p.lost(config.Place{File: at.File, Line: at.Line, Directive: kind}, "%s", what)
		return
	case len(value) == 0:
		p.fault(config.Place{File: at.File, Line: at.Line, Directive: kind}, "the secret is missing")
		return
	case len(p.out) >= maxStatements:
		p.fault(at, "there are more than %d secrets", maxStatements)
		return
	}
	e := ipsecSecret{kind: kind, at: at}
	for _, w := range words[:i] {
		e.ids, e.names = append(e.ids, ipsecIdentity(w.text)), append(e.names, w.text)
	}
	at.Directive = kind
	if kind == "PSK" || kind == "EAP" {
		p.psk(at, e, value)
	} else {
		p.privateKey(at, e, value)
	}
}

func (p *secretsParser) psk(at config.Place, e ipsecSecret, value []token) {
	var key []byte
	var err error
	digits := value[0].text
	switch {
	case len(value) > 1:
		p.fault(at, "a key is one word, or stands in quotation marks")
		return
	case value[0].kind == quoted:
		key = []byte(digits)
	case strings.HasPrefix(strings.ToLower(digits), "0x"):
		key, err = hex.DecodeString(strings.ReplaceAll(digits[2:], "_", ""))
	case strings.HasPrefix(strings.ToLower(digits), "0s"):
		key, err = base64.StdEncoding.DecodeString(digits[2:])
	case strings.HasPrefix(strings.ToLower(digits), "0t"):
		key = []byte(digits[2:])
	default:
		p.fault(at, "a key stands in quotation marks, or begins with 0x, 0s or 0t")
		return
	}
	if err != nil || len(key) == 0 {
		p.fault(at, "the key is empty, or its digits are not those of 0x (hexadecimal) or 0s (base64)")
		return
	}
	if e.kind == "EAP" && !plainUser(e.names, key) {
		p.fault(at, "a user has a name without blanks, and a password that neither begins nor ends with one")
		return
	}
	e.secret = policy.NewSecret(key)
	p.out = append(p.out, e)
}

func (p *secretsParser) privateKey(at config.Place, e ipsecSecret, value []token) {
	switch {
	case strings.HasPrefix(value[0].text, "{"):
		var err error
		if e.pem, err = privatePEM(value); err != nil {
			p.fault(at, "%s", err)
			return
		}
		p.out = append(p.out, e)
		return
	case len(value) > 1:
		p.lost(at, "keys with a passphrase are not read: write the key without one")
		return
	}
	e.file = value[0].text
	if !filepath.IsAbs(e.file) {
		e.file = filepath.Join(filepath.Dir(p.open[0]), "ipsec.d", "private", e.file)
	}
	p.out = append(p.out, e)
}

func (p *secretsParser) include(at config.Place, pattern string) {
	at.Directive = "include"
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(filepath.Dir(at.File), pattern)
	}
	names, err := p.shelf.Glob(pattern)
	if err != nil {
		p.fault(at, "the pattern cannot be used")
		return
	}
	for _, n := range names {
		data, err := p.shelf.read(n, true)
		if err != nil {
			p.fault(at, "%s: %s", n, err)
			continue
		}
		p.parse(n, data)
		clear(data)
	}
}

// findPassword is the entry of a user.
func findPassword(list []ipsecSecret, user string) *ipsecSecret {
	for i := range list {
		if list[i].kind == "EAP" && slices.Contains(list[i].names, user) {
			return &list[i]
		}
	}
	return nil
}

// plainUser says whether names and password can stand in one line of Coati's file of users.
func plainUser(names []string, password []byte) bool {
	return len(names) > 0 && bytes.Equal(bytes.TrimSpace(password), password) && !bytes.ContainsAny(password, "\r\n") &&
		!slices.ContainsFunc(names, func(n string) bool { return n == "" || strings.ContainsAny(n, " \t\r\n#%") })
}

// users are the names and passwords of EAP, a line for each.
func users(list []ipsecSecret) []byte {
	var b bytes.Buffer
	for _, s := range list {
		if s.kind != "EAP" {
			continue
		}
		for _, n := range s.names {
			fmt.Fprintf(&b, "%s %s\n", n, s.secret.Reveal())
		}
	}
	return b.Bytes()
}

// findSecret is the entry that is for two ends most closely: both are named, one is, or none. Each end is known by its identity and
// its address.
func findSecret(list []ipsecSecret, kinds, us, them []string) *ipsecSecret {
	best, score := (*ipsecSecret)(nil), 0
	for i := range list {
		e := &list[i]
		if !slices.Contains(kinds, e.kind) {
			continue
		}
		if n := e.fits(us, them); n > score {
			best, score = e, n
		}
	}
	return best
}

func (e *ipsecSecret) fits(us, them []string) int {
	named := func(end []string) bool {
		return slices.ContainsFunc(e.ids, func(id string) bool { return id != "" && slices.Contains(end, id) })
	}
	any := slices.Contains(e.ids, "any")
	switch mine, theirs := named(us), named(them); {
	case len(e.ids) == 0:
		return 1
	case mine && theirs:
		return 6
	case theirs && (any || len(e.ids) == 1):
		return 5
	case mine && any:
		return 4
	case mine && (len(e.ids) == 1 || e.kind != "PSK"):
		return 3
	case any && len(e.ids) <= 2 && !mine && !theirs && len(slices.DeleteFunc(slices.Clone(e.ids), func(s string) bool { return s == "any" })) == 0:
		return 2
	}
	return 0
}
