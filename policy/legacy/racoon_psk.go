package legacy

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"

	"coati/policy"
	"coati/policy/config"
)

// sharedKey is a line of psk.txt.
type sharedKey struct {
	id     string // address, name, user@name, or *
	secret policy.Secret
	at     config.Place
}

// parsePSKs reads psk.txt. Nothing of a line is repeated: what is taken for a name may be a key.
func parsePSKs(file string, data []byte, f *faults) []sharedKey {
	out := []sharedKey{}
	seen := map[string]bool{}
	for i, line := range bytes.Split(data, []byte("\n")) {
		at := config.Place{File: file, Line: i + 1}
		line = bytes.TrimRight(line, "\r")
		trimmed := bytes.TrimLeft(line, " \t")
		if len(trimmed) == 0 || trimmed[0] == '#' {
			continue
		}
		id, rest, _ := strings.Cut(strings.Replace(string(trimmed), "\t", " ", 1), " ")
		rest = strings.TrimLeft(rest, " \t")
		switch {
		case bytes.IndexByte(line, 0) >= 0:
			f.fault(at, "there is an octet 0x00 in the line")
			continue
		case rest == "":
			f.fault(at, "want an identifier, white space and a key")
			continue
		case len(line) > maxWord:
			f.fault(at, "the line has more than %d octets", maxWord)
			continue
		case len(out) == maxStatements:
			f.fault(at, "there are more than %d keys", maxStatements)
			return out
		}
		if a, err := netip.ParseAddr(id); err == nil {
			id = a.String()
		}
		key := []byte(rest)
		if digits, ok := strings.CutPrefix(rest, "0x"); ok {
			var err error
			if key, err = hex.DecodeString(strings.TrimRight(digits, " \t")); err != nil || len(key) == 0 {
				f.fault(at, "after 0x, a key has hexadecimal digits only, two an octet")
				continue
			}
		}
		if seen[id] {
			f.warn(at, "the identifier has a key already: the first one counts")
			continue
		}
		seen[id] = true
		out = append(out, sharedKey{id, policy.NewSecret(key), at})
	}
	return out
}

// findPSK is the key for a peer: by its identity in aggressive mode, where that is known, else by its address
// (RFC 2409, section 5.4), else the one for all.
func findPSK(keys []sharedKey, identity string, peer netip.Addr) *sharedKey {
	_, name, _ := strings.Cut(identity, ":")
	for _, want := range []string{name, peer.String(), "*"} {
		for i := range keys {
			if want != "" && keys[i].id == want {
				return &keys[i]
			}
		}
	}
	return nil
}
