package v2

import (
	"crypto/sha256"
	"slices"

	"coati/ike"
	"coati/ike/keys"
	"coati/ike/wire"
	"coati/policy"
)

// Several answers to our first request, RFC 7296, section 2.4: anybody on the path can forge one, so none is the answer
// until its sender has proved who it is. Each is followed as far as IKE_AUTH in a branch of its own; the first branch
// that authenticates becomes the SA, and a branch that fails is only dropped.
//
// One branch at a time is loaded into the SA's fields. The others are kept here: with their keys, ciphers and the sealed
// IKE_AUTH request, because sealing another one would repeat an IV. They take turns at each retransmission.

// branch is one answer and what became of it. Without ciphers it was not followed yet.
type branch struct {
	m                   *message
	offer               *offer
	path                policy.Path
	spiR                uint64
	nr, lowNonce        []byte
	proposal            policy.Proposal
	prf                 keys.PRF
	nat                 natState
	frag                fragmenting
	peerIsCoati         bool
	keys                keys.IKEKeys
	inCipher, outCipher *keys.Cipher
	children            []*child
	pending             *request
	nextID              uint32
	additional          additional
}

const (
	maxBranches = 8  // kept at one time
	maxAnswers  = 64 // looked at in all
)

// rival takes an answer that comes while another is being followed, or was and failed.
func (s *sa) rival(m *message) {
	if len(s.start.branches) >= maxBranches || !sa1.in(m) || !ke.in(m) || !nonce.in(m) || !s.start.fresh(m) {
		s.drops.window++
		return
	}
	s.start.branches = append(s.start.branches, &branch{m: m})
}

// fresh says whether an answer was not looked at before.
func (st *initState) fresh(m *message) bool {
	d := sha256.Sum256(m.raw)
	if st.seen[d] || len(st.seen) >= maxAnswers {
		return false
	}
	if st.seen == nil {
		st.seen = map[[32]byte]bool{}
	}
	st.seen[d] = true
	return true
}

// park takes the branch out of the SA's fields.
func (s *sa) park() *branch {
	b := &branch{
		offer: s.start.current, path: s.path, spiR: s.spiR, nr: s.nr, lowNonce: s.lowNonce, proposal: s.proposal, prf: s.prf, nat: s.nat, frag: s.frag, peerIsCoati: s.peerIsCoati,
		keys: s.keys, inCipher: s.inCipher, outCipher: s.outCipher, children: s.children, pending: s.pending, nextID: s.nextID, m: s.start.answered, additional: s.start.additional,
	}
	s.start.additional = additional{} // its private value is the branch's
	s.unload()
	return b
}

// unload leaves the SA as it was when its first request had left.
func (s *sa) unload() {
	s.spiR, s.nr, s.lowNonce, s.nat, s.frag, s.peerIsCoati = 0, nil, nil, natState{}, fragmenting{}, false
	s.keys, s.inCipher, s.outCipher = keys.IKEKeys{}, nil, nil
	s.children, s.pending, s.start.answered = nil, nil, nil
	s.start.additional.wipe()
	s.nextID, s.expectID, s.cache = 1, 0, cached{}
	s.path = s.start.path
	s.answerPath = s.path
	s.phase = phaseInitSent
}

// follow goes on with a branch.
func (s *sa) followBranch(b *branch) {
	if b.inCipher == nil {
		s.initAnswered(b.m)
		return
	}
	s.start.current, s.path, s.answerPath, s.spiR, s.nr, s.lowNonce = b.offer, b.path, b.path, b.spiR, b.nr, b.lowNonce
	s.proposal, s.prf, s.nat, s.frag, s.peerIsCoati, s.keys, s.inCipher, s.outCipher = b.proposal, b.prf, b.nat, b.frag, b.peerIsCoati, b.keys, b.inCipher, b.outCipher
	s.children, s.pending, s.nextID, s.start.answered = b.children, b.pending, b.nextID, b.m
	s.start.additional = b.additional
	s.phase = phaseAuthSent
}

// take removes the first branch from the kept ones; nil if there is none.
func (st *initState) take() *branch {
	if len(st.branches) == 0 {
		return nil
	}
	b := st.branches[0]
	st.branches = st.branches[1:]
	return b
}

// turn gives another branch its turn when this one's request is due again. False: there is no other.
func (s *sa) turn() bool {
	if s.phase != phaseAuthSent || len(s.start.branches) == 0 {
		return false
	}
	s.start.branches = append(s.start.branches, s.park())
	s.next(nil)
	return true
}

// recall loads the branch that a datagram is for, if it is a kept one.
func (s *sa) recall(h *wire.Header) {
	if !s.initiator || s.phase != phaseAuthSent && s.phase != phaseInitSent || h.Exchange == wire.ExchangeIKESAInit || h.ResponderSPI == s.spiR || h.InitiatorSPI != s.spiI {
		return
	}
	i := slices.IndexFunc(s.start.branches, func(b *branch) bool { return b.inCipher != nil && b.spiR == h.ResponderSPI })
	if i < 0 {
		return
	}
	b := s.start.branches[i]
	s.start.branches = slices.Delete(s.start.branches, i, i+1)
	if s.phase == phaseAuthSent {
		s.start.branches = append(s.start.branches, s.park())
	}
	s.followBranch(b)
}

// spoiled drops the branch under way. The SA ends only if no other answer comes within AnswerGrace.
func (s *sa) spoiled(err error) {
	s.freeChildren(s.children)
	s.keys.Wipe()
	s.unload()
	s.next(err)
}

// next follows the next branch that can be followed. Without one we wait: for AnswerGrace after a failure.
func (s *sa) next(err error) {
	for b := s.start.take(); b != nil; b = s.start.take() {
		if s.followBranch(b); s.phase == phaseInitKeys {
			return
		} else if s.phase == phaseAuthSent {
			s.refusal = nil
			if due(s.pending.next, s.now) {
				s.repeat()
			}
			return
		}
	}
	if err != nil {
		s.refusal = err
	}
	s.pending = &request{id: 0, exchange: wire.ExchangeIKESAInit, msg: inClear(s.start.current.request), tries: s.env.Limits.RetransmitTries, next: s.now.Add(s.env.Limits.AnswerGrace)}
}

func (s *sa) freeChildren(cs []*child) {
	for _, c := range cs {
		s.env.FreeSPI(policy.ProtocolESP, c.inSPI)
	}
}

// dropBranches forgets all kept branches.
func (s *sa) dropBranches() {
	for _, b := range s.start.branches {
		s.freeChildren(b.children)
		b.keys.Wipe()
		b.additional.wipe()
	}
	s.start.branches = nil
}

// noteUnreachable remembers what ICMP said, for the sentence that explains a missing answer.
func (s *sa) noteUnreachable(ev ike.Unreachable) {
	if s.pending != nil && len(ev.What) < 64 {
		s.icmp++
		s.icmpWhat = ev.What
	}
}

// icmpSaid is that part of the sentence.
func (s *sa) icmpSaid() string {
	if s.icmp == 0 {
		return "no ICMP error came back"
	}
	return "ICMP says " + s.icmpWhat
}
