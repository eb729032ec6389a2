package v1

import (
	"fmt"
	"slices"
	"strings"

	"coati/ike/wire"
)

// step is how far one exchange has come.
type step uint8

const (
	stepStart              step = iota // nothing was sent
	stepSASent                         // main mode, initiator: message 1 is out
	stepSAAnswered                     // responder: message 2 is out
	stepOffer                          // initiator: our public value is being computed
	stepKESent                         // initiator: message 3 is out
	stepKeys                           // the shared secret is being computed
	stepKEAnswered                     // responder: message 4 is out
	stepAuthSent                       // initiator: message 5 is out
	stepVerify                         // a signature is being checked
	stepAggressiveSent                 // aggressive mode, initiator: message 1 is out
	stepAggressiveAnswered             // responder: message 2 is out
	stepConfigSent                     // transaction: our request, or what we set, is out
	stepQuickSent                      // quick mode: our message 1 is out
	stepQuickKeys                      // a public value or a shared secret is being computed
	stepQuickAnswered                  // our message 2 is out
	stepDone
)

func (s step) String() string {
	return [...]string{"start", "sa-sent", "sa-answered", "offer", "ke-sent", "keys", "ke-answered", "auth-sent", "verify", "aggressive-sent", "aggressive-answered", "config-sent", "quick-sent", "quick-keys", "quick-answered", "done"}[s]
}

// row is one transition: a message the RFC draws, when it may come, and what it does.
type row struct {
	name     string
	section  string // of RFC 2409, or the draft's name
	exchange wire.ExchangeType
	from     step
	sealed   bool // encrypted, and authenticated before it gets here
	required []wire.PayloadType
	action   func(*sa, *exchange, *message)
	to       []step
}

var table []row

// The rows name methods that dispatch, so the table cannot be a composite literal of a package variable.
func init() {
	p := func(t ...wire.PayloadType) []wire.PayloadType { return t }
	const (
		pSA, pKE, pID, pHash, pSig, pNonce   = wire.PayloadV1SA, wire.PayloadV1KE, wire.PayloadV1ID, wire.PayloadV1Hash, wire.PayloadV1Sig, wire.PayloadV1Nonce
		pConfig                              = wire.PayloadV1Attributes
		main, aggressive, transaction, quick = wire.ExchangeV1Main, wire.ExchangeV1Aggressive, wire.ExchangeV1Transaction, wire.ExchangeV1Quick
	)
	table = []row{
		{"peer proposes", "5.4", main, stepStart, false, p(pSA), (*sa).proposed, []step{stepSAAnswered, stepStart}},
		{"peer chooses", "5.4", main, stepSASent, false, p(pSA), (*sa).chosen, []step{stepOffer, stepSASent}},
		{"peer sends its public value", "5.4", main, stepSAAnswered, false, p(pKE, pNonce), (*sa).publicCame, []step{stepKeys, stepSAAnswered}},
		{"peer answers with its public value", "5.4", main, stepKESent, false, p(pKE, pNonce), (*sa).publicAnswered, []step{stepKeys, stepKESent}},
		{"initiator proves who it is", "5.4", main, stepKEAnswered, true, p(pID, pHash), (*sa).initiatorProved, []step{stepDone, stepKEAnswered, stepVerify}},
		{"initiator signs", "5.1", main, stepKEAnswered, true, p(pID, pSig), (*sa).initiatorProved, []step{stepVerify, stepKEAnswered}},
		{"responder proves who it is", "5.4", main, stepAuthSent, true, p(pID, pHash), (*sa).responderProved, []step{stepDone, stepAuthSent}},
		{"responder signs", "5.1", main, stepAuthSent, true, p(pID, pSig), (*sa).responderProved, []step{stepVerify, stepAuthSent}},

		{"peer proposes, with its public value", "5.4", aggressive, stepStart, false, p(pSA, pKE, pNonce, pID), (*sa).proposedAggressively, []step{stepKeys, stepStart}},
		{"peer answers, with its proof", "5.4", aggressive, stepAggressiveSent, false, p(pSA, pKE, pNonce, pID, pHash), (*sa).answeredAggressively, []step{stepKeys, stepAggressiveSent}},
		{"peer answers, signed", "5.1", aggressive, stepAggressiveSent, false, p(pSA, pKE, pNonce, pID, pSig), (*sa).answeredAggressively, []step{stepKeys, stepAggressiveSent}},
		{"initiator confirms", "5.4", aggressive, stepAggressiveAnswered, true, p(pHash), (*sa).admitAggressively, []step{stepDone}},
		{"initiator confirms, in clear", "5.4", aggressive, stepAggressiveAnswered, false, p(pHash), (*sa).confirmedAggressively, []step{stepDone, stepAggressiveAnswered}},
		{"initiator confirms, signed", "5.1", aggressive, stepAggressiveAnswered, true, p(pSig), (*sa).signedAggressively, []step{stepVerify}},

		{"peer asks, or sets", "mode config", transaction, stepStart, true, p(pHash, pConfig), (*sa).transactionCame, []step{stepDone}},
		{"peer answers our transaction", "mode config", transaction, stepConfigSent, true, p(pHash, pConfig), (*sa).transactionAnswered, []step{stepDone}},

		{"peer opens a pair", "5.5", quick, stepStart, true, p(pHash, pSA, pNonce), (*sa).pairRequested, []step{stepQuickKeys, stepQuickAnswered, stepDone}},
		{"peer answers for our pair", "5.5", quick, stepQuickSent, true, p(pHash, pSA, pNonce), (*sa).pairAnswered, []step{stepQuickKeys, stepDone}},
		{"peer confirms its pair", "5.5", quick, stepQuickAnswered, true, p(pHash), (*sa).pairConfirmed, []step{stepDone}},
	}
}

// dispatch takes the first row that fits; false if there is none.
func (s *sa) dispatch(x *exchange, m *message, sealed bool) bool {
	for i := range table {
		r := &table[i]
		if r.exchange != m.Exchange || r.from != x.step || r.sealed != sealed || slices.ContainsFunc(r.required, func(t wire.PayloadType) bool { return !m.has(t) }) || m.twice() {
			continue
		}
		s.proto.Taken[r.name]++
		if s.proto.Observe != nil {
			s.proto.Observe(r.name)
		}
		r.action(s, x, m)
		if s.state < stateDraining && !slices.Contains(r.to, x.step) {
			s.proto.Strayed[r.name+" -> "+x.step.String()]++
		}
		return true
	}
	return false
}

// Picture draws the table, one line per row.
func Picture() string {
	var b strings.Builder
	for _, r := range table {
		hdr := "HDR"
		if r.sealed {
			hdr = "HDR*"
		}
		where := "RFC 2409, section " + r.section
		if r.exchange == wire.ExchangeV1Transaction {
			where = r.section
		}
		var need, to []string
		for _, t := range r.required {
			need = append(need, t.String())
		}
		for _, t := range r.to {
			to = append(to, t.String())
		}
		fmt.Fprintf(&b, "%-14s %-10s %s, %s -> %s  %q (%s)\n", r.from, r.exchange, hdr, strings.Join(need, ", "), strings.Join(to, " | "), r.name, where)
	}
	return b.String()
}
