package legacy

import (
	"fmt"
	"net/netip"
	"slices"

	"coati/policy"
	"coati/policy/config"
)

// Database is what scripts have made: associations and policies in the order of their addition. Its members are never
// changed, so that databases may share them: what two have in common is the same pointer.
type Database struct {
	SAs      []*Association
	Policies []*Entry
}

// saKey is what one SA of a host is known by (RFC 4301, section 4.1). Inbound SPIs are one space here, whatever the address.
type saKey struct {
	dst netip.Addr
	spi policy.SPI
}

// World is what a script meets beside the database.
type World struct {
	// Show is called for get, dump and spddump with what there is at that point; nil: they do nothing.
	Show func(*Operation, *Database)
	// Negotiated says whether IKE made an association of these addresses and this SPI; nil: there is none.
	Negotiated func(src, dst netip.Addr, spi policy.SPI) bool
}

// Evaluate performs a script on a copy of the database, or on a copy of nothing if d is nil. With a fault nothing is
// performed.
func (d *Database) Evaluate(s *Script, w World) (*Database, []config.Fault) {
	e := newEvaluation(d)
	e.world = w
	for i := range s.Operations {
		e.perform(&s.Operations[i])
	}
	e.checkCounters()
	if len(e.list) > 0 {
		return nil, e.all()
	}
	return e.database(), nil
}

// evaluation is a database that is being changed. What is deleted leaves a hole.
type evaluation struct {
	sas      []*Association
	policies []*Entry
	bySPI    map[saKey]int
	bySel    map[Selection]int
	world    World
	faults
}

func newEvaluation(d *Database) *evaluation {
	e := &evaluation{bySPI: map[saKey]int{}, bySel: map[Selection]int{}}
	if d == nil {
		return e
	}
	e.sas, e.policies = slices.Clone(d.SAs), slices.Clone(d.Policies)
	for i, a := range e.sas {
		e.bySPI[saKey{a.Dst, a.SPI}] = i
	}
	for i, p := range e.policies {
		e.bySel[p.Selection] = i
	}
	return e
}

func (e *evaluation) database() *Database {
	return &Database{
		SAs:      slices.DeleteFunc(slices.Clone(e.sas), func(a *Association) bool { return a == nil }),
		Policies: slices.DeleteFunc(slices.Clone(e.policies), func(p *Entry) bool { return p == nil }),
	}
}

func (e *evaluation) fault(op *Operation, format string, args ...any) {
	e.add(op.File, op.Line, "%s: %s", op.Verb, fmt.Sprintf(format, args...))
}

func (e *evaluation) show(op *Operation) {
	if e.world.Show != nil {
		e.world.Show(op, e.database())
	}
}

func (e *evaluation) negotiated(a *Association) bool {
	return e.world.Negotiated != nil && e.world.Negotiated(a.Src, a.Dst, a.SPI)
}

func (e *evaluation) perform(op *Operation) {
	switch op.Verb {
	case Add:
		e.addSA(op)
	case Get, Delete:
		at, ok := e.bySPI[saKey{op.SA.Dst, op.SA.SPI}]
		ours := ok && e.sas[at].Src == op.SA.Src
		switch {
		case op.Verb == Get && (ours || e.negotiated(op.SA)):
			e.show(op)
		case ours:
			e.removeSA(at)
		case e.negotiated(op.SA):
			e.fault(op, "ike negotiated the association of %s to %s with spi %s: coati down ends it", op.SA.Src, op.SA.Dst, op.SA.SPI)
		default:
			e.fault(op, "there is no association of %s to %s with spi %s", op.SA.Src, op.SA.Dst, op.SA.SPI)
		}
	case DeleteAll:
		for at, a := range e.sas {
			if a != nil && a.Src == op.SA.Src && a.Dst == op.SA.Dst {
				e.removeSA(at)
			}
		}
	case Flush:
		e.sas, e.bySPI = nil, map[saKey]int{}
	case PolicyFlush:
		e.policies, e.bySel = nil, map[Selection]int{}
	case Dump, PolicyDump:
		e.show(op)
	default:
		e.changePolicy(op)
	}
}

func (e *evaluation) removeSA(at int) {
	a := e.sas[at]
	delete(e.bySPI, saKey{a.Dst, a.SPI})
	e.sas[at] = nil
}

func (e *evaluation) addSA(op *Operation) {
	k := saKey{op.SA.Dst, op.SA.SPI}
	if at, taken := e.bySPI[k]; taken {
		e.fault(op, "spi %s for %s is taken, at %s", k.spi, k.dst, place(e.sas[at].File, e.sas[at].Line))
		return
	}
	if e.negotiated(op.SA) {
		e.fault(op, "spi %s for %s is taken by an association that ike negotiated", k.spi, k.dst)
		return
	}
	e.bySPI[k] = len(e.sas)
	e.sas = append(e.sas, op.SA)
}

func (e *evaluation) changePolicy(op *Operation) {
	at, there := e.bySel[op.Policy.Selection]
	switch {
	case op.Verb == PolicyDelete && !there:
		e.fault(op, "there is no such policy")
	case op.Verb == PolicyDelete:
		delete(e.bySel, op.Policy.Selection)
		e.policies[at] = nil
	case op.Verb == PolicyAdd && there:
		e.fault(op, "the same traffic has a policy already, at %s: use spdupdate", place(e.policies[at].File, e.policies[at].Line))
	case there:
		e.policies[at] = op.Policy
	default:
		e.bySel[op.Policy.Selection] = len(e.policies)
		e.policies = append(e.policies, op.Policy)
	}
}

func place(file string, line int) string { return fmt.Sprintf("%s:%d", file, line) }

// checkCounters finds a key that two associations of a counter mode share: their packets would share nonces, which gives
// away the plaintext of both (RFC 3686, section 3; RFC 4106, section 3.1).
func (e *evaluation) checkCounters() {
	keys := map[string]*Association{}
	for _, a := range e.sas {
		if a == nil || !a.Counter() {
			continue
		}
		k := string(a.EncryptionKey.Reveal())
		if o := keys[k]; o != nil {
			e.add(a.File, a.Line, "add: %s has the key of %s: two associations of a counter mode would repeat nonces", algorithmName(encryptions, a.Encryption), place(o.File, o.Line))
			continue
		}
		keys[k] = a
	}
}

// StaticCounters lists, as faults, the associations whose fixed key may not be used with a counter mode, because a restart
// would repeat nonces (RFC 8221, section 3).
func (s *Script) StaticCounters() []config.Fault {
	var f faults
	for _, op := range s.Operations {
		if op.Verb == Add && op.SA.Counter() {
			f.add(op.File, op.Line, "add: %s with a fixed key repeats nonces after a restart (RFC 8221, section 3): use aes-cbc with hmac-sha256, ike, or --allow-static-counter-mode", algorithmName(encryptions, op.SA.Encryption))
		}
	}
	return f.all()
}
