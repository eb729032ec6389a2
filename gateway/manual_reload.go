package gateway

import (
	"fmt"
	"net/netip"

	"coati/policy"
	"coati/policy/config"
	"coati/policy/legacy"
)

// tryManual finds what would keep reloadManual from its work.
func (g *Gateway) tryManual(s *legacy.Script) []config.Fault {
	next, _, lines, faults := g.manual.merge(s)
	if faults != nil || len(lines) == 0 {
		return faults
	}
	p, faults := g.plan(next)
	if p != nil {
		p.abandon()
	}
	return faults
}

// reloadManual goes from what the configuration's scripts said to what they say now. What was added by hand stays.
func (g *Gateway) reloadManual(s *legacy.Script) ([]string, []config.Fault) {
	next, file, lines, faults := g.manual.merge(s)
	if faults != nil || len(lines) == 0 {
		return nil, faults
	}
	if faults = g.become(next); faults != nil {
		return nil, faults
	}
	g.manual.file = file
	return lines, nil
}

// merge works out what there is after a reload, what of it is the configuration's, and one line for each difference.
func (m *manual) merge(s *legacy.Script) (next, file *legacy.Database, lines []string, faults []config.Fault) {
	wanted, faults := (*legacy.Database)(nil).Evaluate(s, legacy.World{})
	if faults != nil {
		return nil, nil, nil, faults
	}
	next, file = &legacy.Database{}, &legacy.Database{}
	old := map[*legacy.Association]bool{}
	for _, a := range m.file.SAs {
		old[a] = true
	}
	type name struct {
		dst netip.Addr
		spi policy.SPI
	}
	asked, stays := map[name]*legacy.Association{}, map[name]bool{}
	for _, a := range wanted.SAs {
		asked[name{a.Dst, a.SPI}] = a
	}
	for _, a := range m.db.SAs {
		n := name{a.Dst, a.SPI}
		switch w := asked[n]; {
		case w != nil && w.Same(a): // as it was, whoever wanted it
			next.SAs, file.SAs = append(next.SAs, a), append(file.SAs, a)
			delete(asked, n)
		case old[a]:
			lines = append(lines, "- "+sayAssociation(a))
		default:
			next.SAs = append(next.SAs, a)
			stays[n] = true
		}
	}
	for _, a := range wanted.SAs {
		n := name{a.Dst, a.SPI}
		if asked[n] == nil {
			continue
		}
		lines = append(lines, "+ "+sayAssociation(a))
		if stays[n] {
			faults = append(faults, config.Fault{File: a.File, Line: a.Line, Severity: config.Error, Message: fmt.Sprintf("add: spi %s for %s is taken by one that was added by hand", a.SPI, a.Dst)})
		}
		next.SAs, file.SAs = append(next.SAs, a), append(file.SAs, a)
	}
	return next, file, append(lines, m.mergePolicies(wanted, next, file)...), faults
}

// mergePolicies fills next and file with policies, and says what differs.
func (m *manual) mergePolicies(wanted, next, file *legacy.Database) (lines []string) {
	bySelection := map[legacy.Selection]*legacy.Entry{}
	for _, e := range wanted.Policies {
		bySelection[e.Selection] = e
	}
	old := map[*legacy.Entry]bool{}
	for _, e := range m.file.Policies {
		old[e] = true
	}
	for _, e := range m.db.Policies {
		w := bySelection[e.Selection]
		delete(bySelection, e.Selection)
		switch {
		case w != nil && w.Same(e):
			next.Policies, file.Policies = append(next.Policies, e), append(file.Policies, e)
		case w != nil:
			next.Policies, file.Policies = append(next.Policies, w), append(file.Policies, w)
			lines = append(lines, "~ "+sayEntry(w))
		case old[e]:
			lines = append(lines, "- "+sayEntry(e))
		default:
			next.Policies = append(next.Policies, e)
		}
	}
	for _, w := range wanted.Policies {
		if bySelection[w.Selection] == w {
			next.Policies, file.Policies = append(next.Policies, w), append(file.Policies, w)
			lines = append(lines, "+ "+sayEntry(w))
		}
	}
	return lines
}

func sayAssociation(a *legacy.Association) string {
	return fmt.Sprintf("association %s to %s, spi %s", a.Src, a.Dst, a.SPI)
}

func sayEntry(e *legacy.Entry) string {
	return fmt.Sprintf("policy %s %s to %s", e.Direction, e.Src, e.Dst)
}
