package v2

import (
	"errors"
	"log/slog"
	"slices"
	"time"

	"coati/ike"
	"coati/policy"
)

// Another configuration for a living SA. What the peer was not told takes effect at once: liveness, keepalives, the IKE SA's
// lifetime and authentication anew. A child's lifetimes count from its next rekey on. Children whose SAs serve the new
// configuration no more are deleted; who wants their successors opens them.

var errReconfigured = errors.New("the configuration of the child changed")

func (s *sa) reconfigure(t *policy.PeerTunnel) {
	old := s.tunnel
	s.tunnel = t
	s.wanted = slices.DeleteFunc(s.wanted, func(w string) bool { return ike.ChildOf(t, w) == nil })
	if ct, ok := s.doing.(*childTask); ok {
		ct.adapt(t) // if it cannot, the pair is deleted once it is there
	}
	s.tasks = slices.DeleteFunc(s.tasks, func(x task) bool { return s.outdated(x) })
	s.later = slices.DeleteFunc(s.later, func(d delayed) bool { return s.outdated(d.t) })
	for _, c := range s.children {
		if cfg := ike.Serving(t, c.cfg); cfg != nil {
			c.cfg = cfg
		} else if c.state == childUp {
			c.state = childReplaced
			s.out.Record(slog.LevelInfo, "child SA ends, as its configuration changed", append(s.attrs(), slog.String("child", c.name))...)
			if !s.deleting(c) {
				s.tasks = append(s.tasks, &deleteTask{child: c, reason: ike.ClosedByUs})
			}
		}
	}
	if s.phase == phaseEstablished && s.successor == nil && !s.closing && s.lingerUntil.IsZero() {
		s.retime(old)
	}
	s.advance()
}

// adapt gives a task the new configuration of its child; false: there is none that its pair would serve.
func (t *childTask) adapt(to *policy.PeerTunnel) bool {
	cfg := ike.Serving(to, t.cfg)
	if cfg == nil {
		return false
	}
	t.cfg = cfg
	if t.c != nil {
		t.c.cfg = cfg
	}
	return true
}

// outdated says whether a task that has not begun is not to begin any more.
func (s *sa) outdated(x task) bool {
	t, ok := x.(*childTask)
	if !ok || t.adapt(s.tunnel) {
		return false
	}
	t.abandon(s, errReconfigured)
	return true
}

// retime sets the timers whose settings differ from those of before.
func (s *sa) retime(old *policy.PeerTunnel) {
	if s.tunnel.Lifetime != old.Lifetime {
		s.setLifetime()
	}
	if s.tunnel.Reauth != old.Reauth || s.tunnel.Start != old.Start {
		s.reauthAt = zeroTime
		s.setReauth()
	}
	if s.tunnel.Keepalive != old.Keepalive {
		s.keepaliveAt = zeroTime
		s.startKeepalive()
	}
}

// setLifetime sets when the IKE SA is rekeyed and when it ends: some time before its configured lifetime, and at it. If that
// is over already, there is still time to rekey.
func (s *sa) setLifetime() {
	s.rekeyAt, s.expireAt = zeroTime, zeroTime
	l := s.tunnel.Lifetime
	if l <= 0 {
		return
	}
	s.rekeyAt = later(s.establishedAt.Add(l-l/10-s.env.Jitter(l/10)), s.now)
	s.expireAt = s.establishedAt.Add(l)
	if s.rekeyAt.Equal(s.now) {
		s.expireAt = later(s.expireAt, s.now.Add(s.env.Limits.HalfOpenLife))
	}
}

// setReauth sets when we authenticate anew, counted from now, unless the peer demands it before.
func (s *sa) setReauth() {
	s.reauthAt = s.demandedAt
	if r := s.tunnel.Reauth; r > 0 && s.tunnel.Start != policy.StartListen {
		s.reauthAt = ike.Earlier(s.reauthAt, s.now.Add(r-s.env.Jitter(r/10)))
	}
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
