package v1

import (
	"slices"
	"strings"

	"coati/ike"
	"coati/policy"
)

// Pairs of SAs outlive the ISAKMP SA that made them: they belong to the peer. All ISAKMP SAs with a peer share them, and the youngest
// has their events, rekeys them and asks whether the peer lives. That is how phase 1 is rekeyed: another one is negotiated, and
// the old one is deleted without its pairs.

// peer is what the established ISAKMP SAs with one peer have in common.
type peer struct {
	sas      []*sa // the youngest last
	children []*child
	reaps    []reap
	// farewells about pairs go by the youngest ISAKMP SA there is when they are due: the peer may have closed the others.
	farewells []farewell
}

// speak has the youngest ISAKMP SA with the peer send something, from within the Handle of another one.
func (s *sa) speak(say func(*sa)) {
	h := s.peer.home()
	if h == nil || h == s {
		say(s)
		return
	}
	now, out := h.now, h.out
	h.now, h.out = s.now, s.out
	say(h)
	h.now, h.out = now, out
}

// home is the youngest ISAKMP SA; nil before there is one.
func (p *peer) home() *sa {
	if len(p.sas) == 0 {
		return nil
	}
	return p.sas[len(p.sas)-1]
}

// ids are all SAs of the plane.
func (p *peer) ids() (out []policy.SAID) {
	for _, c := range p.children {
		out = append(out, c.in, c.outID)
	}
	for _, r := range p.reaps {
		out = append(out, r.id)
	}
	return out
}

func (s *sa) peerKey() string { return s.tunnel.Name + "\x00" + s.remoteID.String() }

// join makes this SA the peer's youngest. A peer that has forgotten everything begins anew: its old ISAKMP SAs keep the old pairs until
// the engine closes them.
func (s *sa) join(forgotten bool) {
	key := s.peerKey()
	p := s.proto.peers[key]
	if p == nil || forgotten {
		p = s.peer
		s.proto.peers[key] = p
	}
	if h := p.home(); h != nil && len(s.config.leased) == 0 && s.config.given == nil {
		s.config = h.config // what was given belongs to the peer
	}
	s.peer = p
	p.sas = append(p.sas, s)
	if ids := p.ids(); len(ids) > 0 {
		s.out.Signal(ike.Signal{Kind: ike.SignalMoved, Successor: s, SAs: ids})
		for _, c := range p.children {
			if cfg := ike.Serving(s.tunnel, c.cfg); cfg != nil {
				c.cfg = cfg
			}
		}
		s.follow(s.path)
	}
}

// remembers says whether pairs with some peer of a tunnel are there: then its first contact with us is not now.
func (pr *Protocol) remembers(tunnel string) bool {
	for key := range pr.peers {
		if strings.HasPrefix(key, tunnel+"\x00") {
			return true
		}
	}
	return false
}

// yield makes this SA the last to be home: it is to be closed.
func (s *sa) yield() {
	p := s.peer
	was := p.home()
	p.sas = append([]*sa{s}, slices.DeleteFunc(p.sas, func(x *sa) bool { return x == s })...)
	if h := p.home(); h != was && len(p.ids()) > 0 {
		s.out.Signal(ike.Signal{Kind: ike.SignalMoved, Successor: h, SAs: p.ids()})
	}
}

// other says whether another SA stays. The one that was to replace an SA may have been closed by the peer meanwhile.
func (p *peer) other(than *sa) bool {
	return slices.ContainsFunc(p.sas, func(x *sa) bool { return x != than && x.closeAt.IsZero() })
}

// leave takes this SA out of the peer's; true: it was the last, and what is left is to be deleted.
func (s *sa) leave() (last bool) {
	p := s.peer
	if s.establishedAt.IsZero() || !slices.Contains(p.sas, s) {
		return true
	}
	p.sas = slices.DeleteFunc(p.sas, func(x *sa) bool { return x == s })
	if len(p.sas) > 0 {
		if ids := p.ids(); len(ids) > 0 {
			s.out.Signal(ike.Signal{Kind: ike.SignalMoved, Successor: p.home(), SAs: ids})
		}
		return false
	}
	if key := s.peerKey(); s.proto.peers[key] == p {
		delete(s.proto.peers, key)
	}
	return true
}
