package v2

import (
	"slices"

	"coati/ike/wire"
	"coati/policy"
)

// Fragments after the first show no ports. On a child for certain ports they travel only if both ends say so by
// NON_FIRST_FRAGMENTS_ALSO (section 1.3.1; RFC 4301, section 7.3), and are checked on arrival.

// asksFragments says whether a child of ours asks for it: its configuration names ports.
func (s *sa) asksFragments(c *child) bool {
	return s.takesFragments(c.cfg.Mode, c.cfg.Local, c.cfg.Remote)
}

func (s *sa) takesFragments(mode policy.Mode, local, remote []policy.Selector) bool {
	return mode == policy.Tunnel && !s.env.Limits.NoLaterFragments &&
		(slices.ContainsFunc(local, policy.Selector.NamesPorts) || slices.ContainsFunc(remote, policy.Selector.NamesPorts))
}

func (s *sa) offerFragments(c *child) []wire.Payload {
	if !s.asksFragments(c) {
		return nil
	}
	return []wire.Payload{notify(wire.NotifyNonFirstFragmentsAlso, nil)}
}

// answerFragments agrees to what the peer asks for.
func (s *sa) answerFragments(c *child, m *message) []wire.Payload {
	if m.notify(wire.NotifyNonFirstFragmentsAlso) == nil || !s.takesFragments(c.mode, c.local, c.remote) {
		return nil
	}
	c.laterFragments = true
	return []wire.Payload{notify(wire.NotifyNonFirstFragmentsAlso, nil)}
}
