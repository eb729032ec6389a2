package v1

import (
	"encoding/binary"
	"slices"
	"time"

	"coati/ike/wire"
	"coati/policy"
)

// A responder may install a pair when our message 3 confirms it, and nothing says when it has. A packet that comes before is lost. So
// what we send waits: until a packet comes on the new pair, until the peer answers a question for life that was asked after message
// 3, or for a while. Another Coati installs the pair before it answers, and is not waited for.

// pause is the wait of one pair's outbound SA.
type pause struct {
	on      bool
	number  uint32 // of the question
	probeAt time.Time
	until   time.Time
}

const (
	// probeDelay lets message 3 be at work before the question comes: some peers serve messages on several threads.
	probeDelay = 20 * time.Millisecond
	// blindPause is how long is waited for a peer that cannot be asked.
	blindPause = 100 * time.Millisecond
)

// hold has what we send on a new pair of ours wait; on a rekey it goes by the old one.
func (s *sa) hold(c *child, commit bool) {
	if s.peerIsCoati && !commit {
		return
	}
	c.pause = pause{on: true, until: s.now.Add(blindPause)}
	if commit {
		c.pause.until = s.now.Add(s.env.Limits.RetransmitFirst)
	}
	if s.peerDPD {
		c.pause.probeAt, c.pause.until = s.now.Add(probeDelay), s.now.Add(s.env.Limits.RetransmitFirst)
	}
	if c.replaces != nil {
		c.pause.until = s.now.Add(s.env.Limits.DeleteGrace / 2)
	}
}

// probe asks whether the peer lives, to learn that it is past message 3.
func (s *sa) probe(c *child) {
	c.pause.probeAt = zeroTime
	s.count()
	c.pause.number = s.dpd.number
	s.inform(s.ourNotify(wire.NotifyV1RUThere, binary.BigEndian.AppendUint32(nil, s.dpd.number)))
}

// mayCommit says whether an informational exchange may have this message ID: that of a quick mode comes with the commit bit's CONNECTED.
func (s *sa) mayCommit(id uint32) bool {
	x := s.exchanges[id]
	return x == nil || x.step == stepDone && x.pair != nil && x.pair.commit
}

// release lets the pair carry.
func (s *sa) release(c *child) {
	if !c.pause.on || !slices.Contains(s.peer.children, c) {
		return
	}
	c.pause = pause{}
	s.change(policy.Tx{UpdateSAs: []policy.SAUpdate{{ID: c.outID, Activate: true}}})
}
