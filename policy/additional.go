package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Additional key exchanges, RFC 9370: up to seven after the first, each with transforms of its own type. As strongSwan
// spells them: "ke1_mlkem768" to "ke7_...", and "ke1_none" beside others for "or none".

const noMethod = "none"

// cutAdditional takes the prefix "ke1_" to "ke7_" off a keyword. The transform is the zero one if there is no prefix.
func cutAdditional(word string) (Transform, string, error) {
	lower := strings.ToLower(word)
	if len(lower) < 4 || lower[:2] != "ke" || lower[3] != '_' || lower[2] < '1' || lower[2] > '7' {
		return Transform{}, word, nil
	}
	t, method := Transform{Type: TransformADDKE1 + TransformType(lower[2]-'1')}, lower[4:]
	if method == noMethod {
		// The keyword of any method: the caller looks it up only to see that there is one.
		return t, "x25519", nil
	}
	a := LookupKeyword(method)
	if a == nil || a.Type != TransformKE {
		hint := ""
		if n := NearestKeyword(method); n != "" && LookupKeyword(n).Type == TransformKE {
			hint = fmt.Sprintf(": did you mean %q", lower[:4]+n)
		}
		return Transform{}, "", fmt.Errorf("%q is no key exchange%s", word, hint)
	}
	t.ID = a.ID
	return t, method, nil
}

// additional is the keyword of an additional key exchange.
func (t Transform) additional() string {
	name := noMethod
	if t.ID != KENone {
		name = Transform{Type: TransformKE, ID: t.ID}.String()
	}
	return fmt.Sprintf("ke%d_%s", t.Type-TransformADDKE1+1, name)
}

// mayBeNone says whether a transform of this type with number 0 stands for "none" (RFC 7296, section 3.3.6; RFC 9370,
// section 2.2.2).
func (t TransformType) mayBeNone() bool {
	return t == TransformINTEG || t == TransformKE || t.Additional()
}

// AdditionalKeyExchanges are the methods of a proposal that was agreed on, in the order in which they are done.
func (p Proposal) AdditionalKeyExchanges() []uint16 {
	var out []uint16
	for t := TransformADDKE1; t <= TransformADDKE7; t++ {
		if id := p.First(t).ID; id != KENone {
			out = append(out, id)
		}
	}
	return out
}

// repeats says whether a chosen proposal does one method twice, which may not be (RFC 9370, section 2.2.2).
func (p Proposal) repeats() bool {
	seen := []uint16{p.First(TransformKE).ID}
	for _, id := range p.AdditionalKeyExchanges() {
		if slices.Contains(seen, id) {
			return true
		}
		seen = append(seen, id)
	}
	return false
}

// checkAdditional refuses what cannot be negotiated.
func (p *Proposal) checkAdditional() error {
	first := p.Of(TransformKE)
	more := false
	for t := TransformADDKE1; t <= TransformADDKE7; t++ {
		methods := p.Of(t)
		more = more || len(methods) > 0
		for _, m := range methods {
			if slices.Contains(first, Transform{Type: TransformKE, ID: m.ID}) {
				return fmt.Errorf("does the key exchange %s twice: the additional ones must be others (RFC 9370, section 2.2.2)", m)
			}
		}
	}
	if more && len(first) == 0 {
		return errors.New("has additional key exchanges and no first one: add one such as x25519")
	}
	for _, m := range first {
		if p.Protocol == ProtocolIKE && slices.Contains([]uint16{KEMLKEM512, KEMLKEM768, KEMLKEM1024}, m.ID) {
			return fmt.Errorf("begins with %s, which is too long for the first message: write x25519-ke1_%s", m, m)
		}
	}
	return nil
}
