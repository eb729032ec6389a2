package v1

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"coati/ike"
	"coati/ike/keys"
	"coati/ike/wire"
	"coati/policy"
)

type childState uint8

const (
	childLarval   childState = iota // an inbound SPI is reserved
	childUp                         // both SAs carry traffic
	childReplaced                   // a newer pair took over
)

func (c childState) String() string { return [...]string{"larval", ike.ChildUp, "replaced"}[c] }

// child is a pair of SAs. It may outlive the ISAKMP SA that made it (adopt.go).
type child struct {
	name          string
	tunnel        string
	cfg           *policy.Child
	initiator     bool // we began the quick mode that made it
	in, outID     policy.SAID
	inSPI, outSPI policy.SPI
	local, remote policy.Selector
	proposal      policy.Proposal
	encap         policy.Encap
	path          policy.Path
	lifetime      time.Duration // what the peer said; 0: nothing
	octets        uint64        // the same in octets
	obeys         bool          // the peer's lifetime counts, even if it is longer than ours
	natural       natural
	state         childState
	since         time.Time
	begun, upAt   time.Time // its quick mode began, and had its effect here: two that overlap cross
	standby       bool      // the outbound SA waits for the peer's confirmation
	replaces      *child
	low           []byte    // the lower nonce
	activateAt    time.Time // on standby: given up then
	retryAt       time.Time // a rekey was put off
	retireAt      time.Time // replaced by a pair we began: deleted then
	tidyAt        time.Time // beside a newer one: deleted if it is ours and idle then
	pause         pause
}

func (c *child) info() ike.ChildInfo {
	return ike.ChildInfo{
		Name: c.name, In: c.in, Out: c.outID, InSPI: c.inSPI, OutSPI: c.outSPI, Proposal: c.proposal, Mode: c.cfg.Mode,
		Local: []policy.Selector{c.local}, Remote: []policy.Selector{c.remote}, EstablishedAt: c.since, State: c.state.String(), Encap: c.encap,
	}
}

// sameTraffic says whether two pairs carry the same.
func (c *child) sameTraffic(o *child) bool {
	return c.name == o.name && c.local == o.local && c.remote == o.remote
}

func (s *sa) newChild(cfg *policy.Child, initiator bool) (*child, error) {
	spi, err := s.env.AllocSPI(policy.ProtocolESP)
	if err != nil {
		return nil, fmt.Errorf("no SPI to be had: %w", err)
	}
	return &child{name: cfg.Name, tunnel: s.tunnel.Name, cfg: cfg, initiator: initiator, inSPI: spi, in: s.env.NewSAID(), outID: s.env.NewSAID()}, nil
}

func (s *sa) childrenNamed(name string) (out []*child) {
	for _, c := range s.peer.children {
		if c.name == name && c.state != childLarval {
			out = append(out, c)
		}
	}
	return out
}

// newest is the latest pair of a child that carries traffic and is to stay.
func (s *sa) newest(name string) (best *child) {
	for _, c := range s.peer.children {
		if c.name != name || c.state == childLarval || c.standby || !c.retireAt.IsZero() {
			continue
		}
		if c.state == childUp || best == nil || best.state != childUp {
			best = c
		}
	}
	return best
}

// encapMode is the encapsulation mode that we offer (RFC 3947, section 5.1; its drafts had numbers of their own).
func (s *sa) encapMode(cfg *policy.Child) uint16 {
	udp := s.path.Encap == policy.EncapUDP
	switch {
	case !udp && cfg.Mode == policy.Transport:
		return wire.ModeV1Transport
	case !udp:
		return wire.ModeV1Tunnel
	case s.nat.draft() && cfg.Mode == policy.Transport:
		return wire.ModeV1UDPTransportDraft
	case s.nat.draft():
		return wire.ModeV1UDPTunnelDraft
	case cfg.Mode == policy.Transport:
		return wire.ModeV1UDPTransport
	}
	return wire.ModeV1UDPTunnel
}

// derive makes the pair of SAs with their keys (section 5.5).
func (s *sa) derive(c *child, shared policy.Secret, ni, nr []byte) ([]policy.SA, error) {
	encr, integ := c.proposal.First(policy.TransformENCR), c.proposal.First(policy.TransformINTEG)
	life := c.cfg.Lifetime
	if c.lifetime > 0 && (life.HardTime <= 0 || c.lifetime < life.HardTime || c.obeys) {
		life.HardTime = c.lifetime
		if soft := c.lifetime - c.lifetime/10; life.SoftTime <= 0 || soft < life.SoftTime || c.obeys {
			life.SoftTime = soft
		}
	}
	if c.octets > 0 && (life.HardOctets == 0 || c.octets < life.HardOctets || c.obeys) {
		life.HardOctets, life.SoftOctets = c.octets, c.octets-c.octets/10
	}
	// Up to a tenth earlier, so that both ends do not rekey at once.
	life.SoftTime -= s.env.Jitter(life.SoftTime / 10)
	path := s.path
	path.Encap = c.encap
	c.path = path
	base := policy.SA{
		Protocol: policy.ProtocolESP, Mode: c.cfg.Mode, Path: path, Local: []policy.Selector{c.local}, Remote: []policy.Selector{c.remote}, Encryption: encr, Integrity: integ,
		ReqID: c.cfg.ReqID, Lifetime: life, Added: s.now, Label: c.tunnel + "/" + c.name,
		ICV96: c.cfg.ICV96 && integ.ID == policy.IntegSHA256, Header: c.cfg.Header, FragmentAfter: c.cfg.FragmentAfter, MSS: c.cfg.MSS,
		OriginalLocal: c.natural.local, OriginalRemote: c.natural.remote,
	}
	in, out := base, base
	var err error
	if in.EncryptionKey, in.IntegrityKey, err = keys.V1Child(s.prf, encr, integ, s.keys.D, shared, policy.ProtocolESP, c.inSPI, ni, nr); err != nil {
		return nil, err
	}
	if out.EncryptionKey, out.IntegrityKey, err = keys.V1Child(s.prf, encr, integ, s.keys.D, shared, policy.ProtocolESP, c.outSPI, ni, nr); err != nil {
		return nil, err
	}
	in.ID, in.Pair, in.Direction, in.SPI, in.ReplayWindow = c.in, c.outID, policy.Inbound, c.inSPI, c.cfg.ReplayWindow
	out.ID, out.Pair, out.Direction, out.SPI, out.TFC = c.outID, c.in, policy.Outbound, c.outSPI, c.cfg.TFC
	out.Standby = c.standby || c.pause.on
	c.low = ni
	if bytes.Compare(nr, ni) < 0 {
		c.low = nr
	}
	return []policy.SA{in, out}, nil
}

// install hands the pair to the plane.
func (s *sa) install(c *child, pair []policy.SA) ike.ChangeID {
	c.state, c.since = childUp, s.now
	pair[1].First = !slices.ContainsFunc(s.peer.children, func(x *child) bool { return x.name == c.name }) && !s.env.PeerHas(s.tunnel.Name, s.remoteID, s)
	id := s.change(policy.Tx{AddSAs: pair})
	s.peer.children = append(s.peer.children, c)
	s.changes[id] = c
	if h := s.peer.home(); h != s {
		s.out.Signal(ike.Signal{Kind: ike.SignalMoved, Successor: h, SAs: []policy.SAID{c.in, c.outID}})
	}
	return id
}

// childUp tells that a pair carries traffic, and settles what becomes of others with the same traffic. Only who began a pair lets
// it, or what it was made to replace, go: so two ends that began at once never delete both. Of two such pairs the one with the lowest
// nonce goes. What nobody deletes is taken until its hard lifetime.
func (s *sa) childUp(c *child) {
	attrs := append(s.attrs(), slog.String("child", c.name), slog.String("spi-in", c.inSPI.String()), slog.String("spi-out", c.outSPI.String()),
		slog.String("ciphers", c.proposal.String()))
	again, lost := false, false
	for _, old := range s.peer.children {
		if old == c || !old.sameTraffic(c) || old.state == childLarval || old.standby || !old.retireAt.IsZero() {
			continue
		}
		again = true
		old.tidyAt, c.tidyAt = s.now.Add(s.env.Limits.HalfOpenLife), s.now.Add(s.env.Limits.HalfOpenLife)
		switch {
		case c.initiator && c.replaces == old:
		case old.initiator != c.initiator && !old.begun.After(c.upAt) && !c.begun.After(old.upAt):
			loser := c
			if bytes.Compare(old.low, c.low) < 0 {
				loser = old
			}
			loser.state = childReplaced
			if loser.initiator {
				s.retire(loser)
			}
			lost = lost || loser == c
		case !c.initiator:
			old.state = childReplaced
		}
	}
	if old := c.replaces; c.initiator && old != nil && !lost && slices.Contains(s.peer.children, old) {
		s.retire(old)
	}
	if again {
		s.out.Record(slog.LevelInfo, "child SA rekeyed", attrs...)
	} else {
		s.out.Record(slog.LevelInfo, "child SA up", append(attrs, slog.String("local-ts", c.local.String()), slog.String("remote-ts", c.remote.String()), slog.String("encap", c.encap.String()))...)
	}
	s.out.Signal(ike.Signal{Kind: ike.SignalChildUp, Child: c.name})
}

// retire deletes a pair after a while, when the peer surely uses its successor.
func (s *sa) retire(c *child) {
	c.state = childReplaced
	if c.retireAt.IsZero() {
		c.retireAt = s.now.Add(s.env.Limits.DeleteGrace)
	}
}

// tendChildren does what is due for pairs.
func (s *sa) tendChildren() {
	for _, c := range slices.Clone(s.peer.children) {
		switch {
		case due(c.retireAt, s.now):
			c.retireAt = zeroTime
			s.removeChild(c, ike.ClosedReplaced, true)
		case due(c.activateAt, s.now):
			// The peer never confirmed it.
			c.activateAt = zeroTime
			s.removeChild(c, ike.ClosedReplaced, true)
		case due(c.tidyAt, s.now):
			s.tidy(c)
		case due(c.pause.probeAt, s.now):
			s.probe(c)
		case due(c.pause.until, s.now):
			s.release(c)
		case due(c.retryAt, s.now):
			c.retryAt = zeroTime
			s.refresh(c)
		}
	}
}

// tidy deletes a pair that we began, beside a newer one, if nothing uses it any more. The rules of childUp leave one only where both
// ends saw messages in another order.
func (s *sa) tidy(c *child) {
	c.tidyAt = zeroTime
	if !c.initiator || !c.retireAt.IsZero() || s.newest(c.name) == c {
		return
	}
	since := s.now.Add(-s.env.Limits.HalfOpenLife)
	in, err1 := s.env.SAState(c.in)
	out, err2 := s.env.SAState(c.outID)
	if err1 == nil && in.LastAuthenticated.After(since) || err2 == nil && out.LastUsed.After(since) {
		c.tidyAt = s.now.Add(s.env.Limits.HalfOpenLife)
		return
	}
	c.state = childReplaced
	s.removeChild(c, ike.ClosedReplaced, true)
}

// expire rekeys at the soft lifetime and removes at the hard one.
func (s *sa) expire(ev ike.Expire) {
	for _, c := range s.peer.children {
		if c.in != ev.SA && c.outID != ev.SA {
			continue
		}
		if ev.Hard {
			s.removeChild(c, ike.ClosedExpired, true)
		} else {
			s.refresh(c)
		}
		return
	}
}

// refresh rekeys the newest pair of a child.
func (s *sa) refresh(c *child) {
	if s.state != stateEstablished || c.standby || s.newest(c.name) != c || !c.retryAt.IsZero() || s.rekeying(c) {
		return
	}
	s.enqueue(&pairTask{cfg: c.cfg, replaces: c})
}

func (s *sa) rekeying(c *child) bool {
	return s.doing != nil && s.doing.pair.task.replaces == c || slices.ContainsFunc(s.tasks, func(t *pairTask) bool { return t.replaces == c })
}

// used: a packet came on a new pair, so the peer has it.
func (s *sa) used(id policy.SAID) {
	for _, c := range s.peer.children {
		if c.in == id {
			s.activate(c)
			s.release(c)
			return
		}
	}
}

// activate lets a pair of the peer's carry our packets, too.
func (s *sa) activate(c *child) {
	if !c.standby || !slices.Contains(s.peer.children, c) {
		return
	}
	c.standby, c.activateAt, c.upAt = false, zeroTime, s.now
	s.change(policy.Tx{UpdateSAs: []policy.SAUpdate{{ID: c.outID, Activate: true}}})
	s.childUp(c)
}

// removeChild takes a pair down: the outbound SA at once, the inbound one after a grace for packets on their way. tell: the peer
// does not know.
func (s *sa) removeChild(c *child, reason ike.CloseReason, tell bool) {
	i := slices.Index(s.peer.children, c)
	if i < 0 {
		return
	}
	s.peer.children = slices.Delete(s.peer.children, i, i+1)
	s.change(policy.Tx{DeleteSAs: []policy.SAID{c.outID}})
	s.peer.reaps = append(s.peer.reaps, reap{c.in, s.now.Add(s.env.Limits.DeleteGrace)})
	if tell {
		s.sayDelete(wire.ProtocolESP, spiOctets(c.inSPI))
	}
	if c.standby || !c.retireAt.IsZero() || s.newest(c.name) != nil {
		return
	}
	if reason == ike.ClosedReplaced {
		reason = ike.ClosedByPeer
	}
	s.out.Record(slog.LevelInfo, "child SA down", append(s.attrs(), slog.String("child", c.name), slog.String("reason", reason.String()))...)
	s.out.Signal(ike.Signal{Kind: ike.SignalChildDown, Child: c.name, Reason: reason})
}

// changeFailed: the plane does not have the pair we were about to tell the peer of.
func (s *sa) changeFailed(ev ike.ChangeFailed) {
	if ev.ID == s.following && ev.ID != 0 {
		for _, c := range slices.Clone(s.peer.children) {
			s.refresh(c)
		}
		return
	}
	c := s.changes[ev.ID]
	delete(s.changes, ev.ID)
	i := slices.Index(s.peer.children, c)
	if c == nil || i < 0 {
		return
	}
	s.peer.children = slices.Delete(s.peer.children, i, i+1)
	s.env.FreeSPI(policy.ProtocolESP, c.inSPI)
	err := fmt.Errorf("the data path refuses the child: %w", ev.Err)
	s.warn("child SA "+c.name+" does not come up", err)
	if c.initiator {
		s.sayDelete(wire.ProtocolESP, spiOctets(c.inSPI))
	}
	if old := c.replaces; old != nil && slices.Contains(s.peer.children, old) {
		old.state, old.retireAt, old.retryAt = childUp, zeroTime, s.now.Add(s.env.Limits.RetryMax)
		return
	}
	for _, x := range s.inOrder() {
		if x.pair != nil && x.pair.child == c {
			s.forget(x)
		}
	}
	s.out.Signal(ike.Signal{Kind: ike.SignalChildFailed, Child: c.name, Err: err})
}

func (s *sa) byOutSPI(spi []byte) *child {
	if len(spi) != 4 {
		return nil
	}
	for _, c := range s.peer.children {
		if c.outSPI == policy.SPI(binary.BigEndian.Uint32(spi)) {
			return c
		}
	}
	return nil
}

var errClosed = errors.New("the IKE SA was closed")

// reconfigure takes another configuration. Pairs that do not serve it any more are deleted.
func (s *sa) reconfigure(t *policy.PeerTunnel) {
	old := s.tunnel
	s.tunnel = t
	s.wanted = slices.DeleteFunc(s.wanted, func(w string) bool { return ike.ChildOf(t, w) == nil })
	s.tasks = slices.DeleteFunc(s.tasks, func(x *pairTask) bool {
		cfg := ike.Serving(t, x.cfg)
		if cfg == nil {
			s.reply(x.command, errReconfigured)
			return true
		}
		x.cfg = cfg
		return false
	})
	for _, c := range slices.Clone(s.peer.children) {
		if cfg := ike.Serving(t, c.cfg); cfg != nil {
			c.cfg = cfg
		} else {
			c.state = childReplaced
			s.removeChild(c, ike.ClosedByUs, true)
		}
	}
	if s.doing != nil {
		if cfg := ike.Serving(t, s.doing.pair.task.cfg); cfg != nil {
			s.doing.pair.task.cfg = cfg
		} else {
			s.pairFailed(s.doing, errReconfigured)
		}
	}
	if s.state == stateEstablished && (old.Lifetime != t.Lifetime || old.Reauth != t.Reauth) {
		s.setLifetime()
	}
	if s.state == stateEstablished && old.Keepalive != t.Keepalive {
		s.startKeepalive()
	}
	s.advance()
}

var errReconfigured = errors.New("the configuration of the child changed")
