package v2

import "coati/ike"

// Mutants are the machines with one rule taken out, by what is missing.
var Mutants = map[string]mutant{"the nonce rule": noNonceRule, "the response cache": noCache, "make before break": breakBeforeNew}

// Uncovered and Optional are mutants that two of their kind do not notice, but a scripted peer: AUTH does not cover
// IKE_INTERMEDIATE, and additional key exchanges may be left out.
const (
	Uncovered = noIntAuth
	Optional  = noAdditional
	// PPKOptional takes who does not use a PPK that is required.
	PPKOptional = noPPKRequired
)

// SetMessageIDs sets a machine's next message IDs: ours and the peer's.
func SetMessageIDs(machine ike.SA, ours, theirs uint32) {
	s := machine.(*sa)
	s.nextID, s.expectID, s.cache = ours, theirs, cached{}
}

// Collecting counts the octets of fragments kept for peers that are not authenticated.
func (pr *Protocol) Collecting() int { return pr.collecting }

// Mutate takes a rule out of all machines of a protocol.
func (pr *Protocol) Mutate(m mutant) { pr.mutant = m }

// Row is a transition as the tests see it; one without a message has no name.
type Row struct {
	Name, From string
	To         []string
}

// Rows lists the transition table.
func Rows() []Row {
	var out []Row
	for _, r := range table {
		x := Row{Name: r.name, From: r.from.String()}
		for _, p := range r.to {
			x.To = append(x.To, p.String())
		}
		out = append(out, x)
	}
	for _, o := range own {
		x := Row{From: o.from.String()}
		for _, p := range o.to {
			x.To = append(x.To, p.String())
		}
		out = append(out, x)
	}
	return out
}

// Phases lists all states.
func Phases() []string {
	var out []string
	for p := phaseIdle; p <= phaseClosed; p++ {
		out = append(out, p.String())
	}
	return out
}
