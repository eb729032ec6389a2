package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Protocol is the security protocol identifier of RFC 7296, section 3.3.1.
type Protocol uint8

const (
	ProtocolIKE Protocol = 1
	ProtocolESP Protocol = 3
)

func (p Protocol) String() string {
	switch p {
	case ProtocolIKE:
		return "ike"
	case ProtocolESP:
		return "esp"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// Proposal is a set of alternatives: one transform of each type present must be agreed on (RFC 7296, section 2.7).
type Proposal struct {
	Protocol   Protocol
	Transforms []Transform
}

// ParseProposal reads keywords joined by '-', as strongSwan spells them: "aes128gcm16-prfsha256-x25519",
// "aes256-sha384-ecp384", "aes128gcm16-prfsha256-x25519-ke1_mlkem768". Several keywords of one type are alternatives. For IKE a missing PRF is the one that belongs
// to the integrity algorithm. For ESP a missing esn/noesn means both, extended first; a key exchange asks for PFS.
func ParseProposal(proto Protocol, s string) (Proposal, error) {
	p := Proposal{Protocol: proto}
	need := UseIKE | UseIKEv1
	if proto == ProtocolESP {
		need = UseESP
	}
	for word := range strings.SplitSeq(s, "-") {
		t, plain, err := cutAdditional(word)
		if err != nil {
			return Proposal{}, fmt.Errorf("%w in proposal %q", err, s)
		}
		a := LookupKeyword(plain)
		if a == nil {
			hint := ""
			if n := NearestKeyword(word); n != "" {
				hint = fmt.Sprintf(": did you mean %q", n)
			}
			return Proposal{}, fmt.Errorf("unknown algorithm %q in proposal %q%s", word, s, hint)
		}
		if a.Use&need == 0 {
			return Proposal{}, fmt.Errorf("algorithm %q in proposal %q is not for %s", word, s, proto)
		}
		if t.Type == 0 {
			t = a.Transform()
		}
		if !slices.Contains(p.Transforms, t) {
			p.Transforms = append(p.Transforms, t)
		}
	}
	if err := p.complete(); err != nil {
		return Proposal{}, fmt.Errorf("proposal %q %w", s, err)
	}
	return p, nil
}

// complete adds what a person leaves out and refuses what cannot work.
func (p *Proposal) complete() error {
	aead, plain := 0, 0
	for _, t := range p.Of(TransformENCR) {
		if t.Algorithm().AEAD {
			aead++
		} else {
			plain++
		}
	}
	integ := p.Of(TransformINTEG)
	switch {
	case aead+plain == 0:
		return fmt.Errorf("has no encryption algorithm")
	case aead > 0 && plain > 0:
		return fmt.Errorf("mixes combined-mode ciphers with others: write two proposals (RFC 7296, section 3.3)")
	case plain > 0 && len(integ) == 0:
		return fmt.Errorf("has no integrity algorithm: add one such as sha256")
	}
	if p.Protocol == ProtocolIKE {
		if len(p.Of(TransformPRF)) == 0 {
			for _, t := range integ {
				p.Transforms = append(p.Transforms, LookupKeyword(t.Algorithm().Implied).Transform())
			}
		}
		if len(p.Of(TransformPRF)) == 0 {
			return fmt.Errorf("has no prf: add one such as prfsha256")
		}
		if len(p.Of(TransformKE)) == 0 {
			return fmt.Errorf("has no key exchange: add one such as x25519")
		}
	} else if len(p.Of(TransformESN)) == 0 {
		p.Transforms = append(p.Transforms, Transform{Type: TransformESN, ID: ESNYes}, Transform{Type: TransformESN, ID: ESNNo})
	}
	if err := p.checkAdditional(); err != nil {
		return err
	}
	if aead > 0 {
		// As a sole cipher of a combined mode, integrity keywords serve only to imply the PRF.
		p.Transforms = slices.DeleteFunc(p.Transforms, func(t Transform) bool { return t.Type == TransformINTEG })
	}
	slices.SortStableFunc(p.Transforms, func(a, b Transform) int { return int(a.Type) - int(b.Type) })
	return nil
}

// MustProposal is ParseProposal for constants; it panics on a fault of the programmer.
func MustProposal(proto Protocol, s string) Proposal {
	p, err := ParseProposal(proto, s)
	if err != nil {
		panic(err)
	}
	return p
}

// DefaultIKE is offered and accepted where a configuration names nothing: RFC 8247's MUST and SHOULD.
func DefaultIKE() []Proposal {
	return []Proposal{
		MustProposal(ProtocolIKE, "aes128gcm16-aes256gcm16-prfsha256-prfsha384-x25519-ecp256-ecp384-modp2048"),
		MustProposal(ProtocolIKE, "aes128-aes256-sha256-sha384-x25519-ecp256-ecp384-modp2048"),
	}
}

// DefaultESP is offered and accepted where a configuration names nothing.
func DefaultESP() []Proposal {
	return []Proposal{
		MustProposal(ProtocolESP, "aes128gcm16-aes256gcm16"),
		MustProposal(ProtocolESP, "aes128-aes256-sha256"),
	}
}

// Of lists the transforms of one type, in order.
func (p Proposal) Of(t TransformType) []Transform {
	var out []Transform
	for _, x := range p.Transforms {
		if x.Type == t {
			out = append(out, x)
		}
	}
	return out
}

// First is the first transform of a type, or the zero Transform.
func (p Proposal) First(t TransformType) Transform {
	for _, x := range p.Transforms {
		if x.Type == t {
			return x
		}
	}
	return Transform{}
}

// Insecure lists the keywords of its insecure algorithms.
func (p Proposal) Insecure() []string {
	var out []string
	for _, t := range p.Transforms {
		if a := t.Algorithm(); a != nil && a.Insecure {
			out = append(out, a.Keyword)
		}
	}
	return out
}

// Without is the proposal with all transforms of one type left out, and with key exchanges all additional ones.
func (p Proposal) Without(t TransformType) Proposal {
	q := Proposal{Protocol: p.Protocol}
	for _, x := range p.Transforms {
		if x.Type != t && (t != TransformKE || !x.Type.Additional()) {
			q.Transforms = append(q.Transforms, x)
		}
	}
	return q
}

// String is the form ParseProposal reads.
func (p Proposal) String() string {
	words := make([]string, len(p.Transforms))
	for i, t := range p.Transforms {
		words[i] = t.String()
	}
	return strings.Join(words, "-")
}

// transformTypes in the order they are compared and reported.
var transformTypes = []TransformType{TransformENCR, TransformPRF, TransformINTEG, TransformKE, TransformESN, 6, 7, 8, 9, 10, 11, TransformADDKE7}

// Select chooses for a responder: the first of own that agrees with one of offered, and within it the first of own's
// transforms of each type that the peer offers. It returns the choice and the index into offered. The error is a
// *NoProposal, which says what differed.
func Select(own, offered []Proposal) (Proposal, int, error) {
	for _, o := range own {
		for i, f := range offered {
			if p, _ := agree(o, f); p.Transforms != nil {
				return p, i, nil
			}
		}
	}
	return Proposal{}, -1, explain(own, offered)
}

// agree intersects two proposals; on failure it returns the types on which nothing was common.
func agree(own, offered Proposal) (Proposal, []TransformType) {
	if own.Protocol != offered.Protocol {
		return Proposal{}, transformTypes
	}
	p := Proposal{Protocol: own.Protocol}
	var differ []TransformType
	for _, tt := range transformTypes {
		mine, theirs := own.Of(tt), offered.Of(tt)
		// "none" among the offered is the same as offering nothing (RFC 7296, section 3.3.6).
		none := Transform{Type: tt}
		optional := len(theirs) == 0 || tt.mayBeNone() && slices.Contains(theirs, none)
		if len(theirs) == 0 && tt.Additional() && slices.Contains(mine, none) {
			continue
		}
		if len(mine) == 0 {
			if !optional {
				differ = append(differ, tt)
			}
			continue
		}
		if len(theirs) == 0 && tt == TransformESN {
			theirs = []Transform{{Type: TransformESN, ID: ESNNo}}
		}
		i := slices.IndexFunc(mine, func(t Transform) bool { return slices.Contains(theirs, t) })
		if i < 0 {
			differ = append(differ, tt)
			continue
		}
		p.Transforms = append(p.Transforms, mine[i])
	}
	if differ == nil && p.repeats() {
		differ = append(differ, TransformADDKE1)
	}
	for _, t := range offered.Transforms {
		// A type we do not know cannot be agreed on (RFC 7296, section 3.3.6).
		if !slices.Contains(transformTypes, t.Type) && t.ID != 0 && !slices.Contains(differ, t.Type) {
			differ = append(differ, t.Type)
		}
	}
	if differ != nil {
		return Proposal{}, differ
	}
	return p, nil
}

// NoProposal says in plain words why nothing could be agreed on.
type NoProposal struct {
	Own, Offered []Proposal
	Nearest      [2]Proposal     // ours and theirs that came closest
	Differ       []TransformType // types on which the nearest pair has nothing in common
}

func explain(own, offered []Proposal) *NoProposal {
	e := &NoProposal{Own: own, Offered: offered}
	for _, o := range own {
		for _, f := range offered {
			if _, d := agree(o, f); e.Differ == nil || len(d) < len(e.Differ) {
				e.Differ, e.Nearest = d, [2]Proposal{o, f}
			}
		}
	}
	return e
}

func (e *NoProposal) Error() string {
	if len(e.Offered) == 0 {
		return "the peer offered no proposal"
	}
	var parts []string
	for _, tt := range e.Differ {
		parts = append(parts, fmt.Sprintf("%s: the peer offers %s, we accept %s", tt, words(e.Nearest[1].Of(tt)), words(e.Nearest[0].Of(tt))))
	}
	return "no proposal in common; nearest differ in " + strings.Join(parts, "; ")
}

func words(ts []Transform) string {
	if len(ts) == 0 {
		return "none"
	}
	w := make([]string, len(ts))
	for i, t := range ts {
		w[i] = t.String()
	}
	return strings.Join(w, " or ")
}

// Agreed checks, as initiator, that an answer is one of ours with exactly one transform of each type we offered
// (RFC 7296, section 3.3.6). It returns the index of our proposal.
func Agreed(own []Proposal, answer Proposal) (int, error) {
	for i, o := range own {
		p, differ := agree(o, answer)
		if differ == nil && len(answer.Transforms) <= len(p.Transforms)+noneCount(answer) && onePerType(answer) {
			return i, nil
		}
	}
	return -1, fmt.Errorf("the peer chose %s, which we did not offer", answer)
}

func noneCount(p Proposal) int {
	n := 0
	for _, t := range p.Transforms {
		if t.Type.mayBeNone() && t.ID == 0 {
			n++
		}
	}
	return n
}

func onePerType(p Proposal) bool {
	seen := map[TransformType]bool{}
	for _, t := range p.Transforms {
		if seen[t.Type] {
			return false
		}
		seen[t.Type] = true
	}
	return true
}
