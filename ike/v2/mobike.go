package v2

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"coati/ike"
	"coati/ike/wire"
	"coati/policy"
)

// MOBIKE, RFC 4555: an IKE SA and its children go along when an end's address changes. Who began the IKE SA decides, and says so:
//
//	HDR, SK {N(UPDATE_SA_ADDRESSES), N(NAT_DETECTION_*), N(COOKIE2)}  -->
//	                              <--  HDR, SK {N(NAT_DETECTION_*), N(COOKIE2)}
//
// Both ends move the SAs at once, so that as little as possible is lost, and see afterwards whether the other end can be reached there
// (section 3.7). Who answered and must move says from its new address which ones it has (section 3.6), and the initiator follows.
// A NAT that appears or vanishes on the way turns encapsulation on or off.

// mobility is what an IKE SA knows of it; a rekey hands it on.
type mobility struct {
	agreed bool
	others []netip.Addr // where the peer can be reached, too
	moves  uint64       // how often we went elsewhere: who answers an older update is not listened to
	seenAs []byte       // the hash of our address as the peer sees it: NAT_DETECTION_DESTINATION_IP
}

const (
	cookie2Len    = 16 // octets; 8 to 64, section 4.2.5
	maxOthers     = 8  // addresses of a peer that are kept
	updateRetries = 3  // of an update that a NAT is said to have changed
)

// mobile says whether a tunnel moves. In transport mode the outer addresses are the inner ones, and cannot.
func mobile(t *policy.PeerTunnel) bool {
	return t.MOBIKE && !slices.ContainsFunc(t.Children, func(c policy.Child) bool { return c.Mode != policy.Tunnel })
}

// offerMobike asks for MOBIKE in IKE_AUTH. Where NAT traversal is not to be had, addresses must not change on the way (section 3.9).
func (s *sa) offerMobike() []wire.Payload {
	if !mobile(s.tunnel) {
		return nil
	}
	return append([]wire.Payload{notify(wire.NotifyMOBIKESupported, nil)}, s.noNATs()...)
}

// agreeMobike answers an offer.
func (s *sa) agreeMobike(m *message) []wire.Payload {
	if m.notify(wire.NotifyMOBIKESupported) == nil || !mobile(s.tunnel) {
		return nil
	}
	s.mobility.agreed = true
	s.noteAddresses(m)
	return []wire.Payload{notify(wire.NotifyMOBIKESupported, nil)}
}

// mobikeAnswered takes the answer to our offer.
func (s *sa) mobikeAnswered(m *message) {
	if mobile(s.tunnel) && m.notify(wire.NotifyMOBIKESupported) != nil {
		s.mobility.agreed = true
		s.noteAddresses(m)
	}
}

// noNATs is NO_NATS_ALLOWED: the addresses and ports as we send them (section 4.2.6).
func (s *sa) noNATs() []wire.Payload {
	if s.nat.supported {
		return nil
	}
	return []wire.Payload{notify(wire.NotifyNoNATsAllowed, unchanged(s.path.Local, s.path.Remote))}
}

func unchanged(from, to netip.AddrPort) []byte {
	b := append(from.Addr().AsSlice(), to.Addr().AsSlice()...)
	return append(b, byte(from.Port()>>8), byte(from.Port()), byte(to.Port()>>8), byte(to.Port()))
}

// changedOnTheWay says whether a message that allows no NAT came through one.
func changedOnTheWay(m *message) bool {
	no := m.notify(wire.NotifyNoNATsAllowed)
	return no != nil && !bytes.Equal(no.Data, unchanged(m.path.Remote, m.path.Local))
}

// noteAddresses keeps the further addresses a peer names. It reports whether the message says anything about them.
func (s *sa) noteAddresses(m *message) bool {
	var others []netip.Addr
	said := false
	for _, q := range m.payloads {
		no, ok := q.(*wire.Notify)
		if !ok {
			continue
		}
		switch no.Type {
		case wire.NotifyNoAdditionalAddresses:
			said = true
		case wire.NotifyAdditionalIP4Address, wire.NotifyAdditionalIP6Address:
			said = true
			if a := address(no.Data, no.Type == wire.NotifyAdditionalIP6Address); ike.IsHostAddress(a) && len(others) < maxOthers {
				others = append(others, a)
			}
		}
	}
	if said {
		s.mobility.others = others
	}
	return said
}

// move serves the engine: our address changed.
func (s *sa) move(to netip.Addr) {
	if s.phase != phaseEstablished || !s.mobility.agreed || s.closing || s.successor != nil || s.path.Local.Addr() == to || s.path.Remote.Addr().BitLen() != to.BitLen() {
		return
	}
	at := s.path
	at.Local = netip.AddrPortFrom(to, at.Local.Port())
	s.goTo(at)
}

// goTo moves the IKE SA and its children to another path of ours, and tells the peer.
func (s *sa) goTo(at policy.Path) {
	s.out.Record(slog.LevelInfo, "the IKE SA moves", append(s.attrs(), slog.String("local", at.Local.String()), slog.String("remote", at.Remote.String()))...)
	s.mobility.moves++
	s.mobility.seenAs = nil
	s.follow(at)
	s.answerPath = at
	if r := s.pending; r != nil {
		// What waits for an answer is asked from there (section 3.5).
		r.tries, r.gap = 0, s.env.Limits.RetransmitFirst
		s.transmit(r)
	}
	if s.began {
		s.tasks = append([]task{&updateTask{}}, s.tasks...)
	} else {
		s.tasks = append([]task{&announceTask{}}, s.tasks...)
	}
	s.advance()
}

// updateTask tells the responder where the SAs are now.
type updateTask struct {
	move   uint64
	cookie []byte
	tries  int
}

func (t *updateTask) name() string { return "telling the peer our new address" }

func (t *updateTask) begin(s *sa) bool {
	t.move, t.cookie = s.mobility.moves, s.env.Bytes(cookie2Len)
	payloads := append([]wire.Payload{notify(wire.NotifyUpdateSAAddresses, nil)}, s.natPayloads()...)
	payloads = append(payloads, notify(wire.NotifyCookie2, t.cookie))
	s.sendRequest(wire.ExchangeInformational, 0, append(payloads, s.noNATs()...)...)
	return true
}

// natPayloads are the notifications of where we are, with the SPIs of the living SA.
func (s *sa) natPayloads() []wire.Payload {
	if !s.nat.supported {
		return nil
	}
	return s.natNotifies(s.path, s.spiR, s.tunnel.Encap == policy.EncapForceUDP)
}

func (t *updateTask) job(*sa, ike.JobDone) {}

func (t *updateTask) response(s *sa, m *message) {
	if !s.cookieComesBack(m, t.cookie) {
		return
	}
	if t.move != s.mobility.moves {
		s.finish() // we have moved on, and say so next
		return
	}
	if no := m.errorNotify(); no != nil {
		err := fmt.Errorf("the peer answers %s", no.Type)
		if t.tries++; t.tries <= updateRetries && no.Type == wire.NotifyUnexpectedNATDetected {
			s.later = append(s.later, delayed{s.now.Add(s.env.Limits.TemporaryRetry), &updateTask{tries: t.tries}})
		} else {
			s.warn("the peer does not follow us: the tunnel is established anew", err)
			s.out.Signal(ike.Signal{Kind: ike.SignalReauth})
		}
		s.finish()
		return
	}
	s.seeNAT(m, s.path)
	s.noteSeenAs(m)
	s.finish()
}

// cookieComesBack checks the answer to COOKIE2. Another value ends the IKE SA (section 3.7).
func (s *sa) cookieComesBack(m *message, cookie []byte) bool {
	if no := m.notify(wire.NotifyCookie2); no != nil && bytes.Equal(no.Data, cookie) {
		return true
	}
	s.fail(errors.New("the peer does not return what it was sent (COOKIE2): somebody else may be at its address"), ike.ClosedFailed)
	return false
}

// seeNAT turns encapsulation on or off, as the path at now needs it.
func (s *sa) seeNAT(m *message, at policy.Path) {
	if nat := detectNAT(m, s.spiR); nat.supported {
		s.nat = nat
	}
	at.Encap = policy.EncapRaw
	if s.floats(s.tunnel.Encap) {
		at.Encap = policy.EncapUDP
	}
	if at != s.path {
		s.follow(at)
	}
	s.keepaliveAt = zeroTime
	s.startKeepalive()
}

// noteSeenAs keeps the peer's view of our address, and says whether it changed since the latest one.
func (s *sa) noteSeenAs(m *message) (changed bool) {
	no := m.notify(wire.NotifyNATDetectionDestinationIP)
	if no == nil {
		return false
	}
	changed = !bytes.Equal(no.Data, s.mobility.seenAs)
	s.mobility.seenAs = bytes.Clone(no.Data)
	return changed
}

// peerMoves follows an initiator to where its request came from.
func (s *sa) peerMoves(m *message) {
	if !s.mobility.agreed || s.began {
		s.informed(m) // only who began may say so
		return
	}
	if changedOnTheWay(m) {
		s.warn("the peer's address was changed on the way, which it does not allow", fmt.Errorf("it comes from %s", m.path.Remote))
		s.respond(0, append(s.echo(m), notify(wire.NotifyUnexpectedNATDetected, nil))...)
		return
	}
	s.noteAddresses(m)
	before := s.path
	s.seeNAT(m, policy.Path{Local: m.path.Local, Remote: m.path.Remote})
	s.answerPath = s.path
	s.respond(0, s.echo(m)...)
	if s.path.Remote != before.Remote || s.path.Local != before.Local {
		s.out.Record(slog.LevelInfo, "the peer moves", append(s.attrs(), slog.String("from", before.Remote.String()), slog.String("encap", s.path.Encap.String()))...)
		s.tasks = append([]task{&routableTask{}}, s.tasks...)
		s.advance()
	}
}

// echo is what the answer to an INFORMATIONAL request brings back: COOKIE2 as it is, and where we see each other.
func (s *sa) echo(m *message) (out []wire.Payload) {
	if !s.mobility.agreed {
		return nil
	}
	if no := m.notify(wire.NotifyCookie2); no != nil && len(no.Data) >= 8 && len(no.Data) <= 64 {
		out = append(out, notify(wire.NotifyCookie2, no.Data))
	}
	if m.notify(wire.NotifyNATDetectionSourceIP) != nil && s.nat.supported {
		out = append(out, s.natNotifies(s.answerPath, s.spiR, s.tunnel.Encap == policy.EncapForceUDP)...)
	}
	return out
}

// peerAddresses takes a list of the peer's addresses. A responder that is no longer where we talk to it is followed.
func (s *sa) peerAddresses(m *message) {
	if !s.mobility.agreed || changedOnTheWay(m) || !s.noteAddresses(m) || !s.began || s.closing || s.successor != nil {
		return
	}
	if from := m.path.Remote; from.Addr() != s.path.Remote.Addr() && !slices.Contains(s.mobility.others, s.path.Remote.Addr()) {
		at := s.path
		at.Local, at.Remote = m.path.Local, from
		s.goTo(at)
	}
}

// announceTask tells the initiator of our address, which is the one it comes from.
type announceTask struct{}

func (t *announceTask) name() string { return "telling the peer our new address" }

func (t *announceTask) begin(s *sa) bool {
	s.sendRequest(wire.ExchangeInformational, 0, append(s.noNATs(), notify(wire.NotifyNoAdditionalAddresses, nil))...)
	return true
}

func (t *announceTask) job(*sa, ike.JobDone) {}

func (t *announceTask) response(s *sa, _ *message) { s.finish() }

// routableTask asks whether the peer is where it says it is.
type routableTask struct {
	cookie []byte
	path   policy.Path
}

func (t *routableTask) name() string { return "asking whether the peer is where it says" }

func (t *routableTask) begin(s *sa) bool {
	t.cookie, t.path = s.env.Bytes(cookie2Len), s.path
	s.sendRequest(wire.ExchangeInformational, 0, notify(wire.NotifyCookie2, t.cookie))
	return true
}

func (t *routableTask) job(*sa, ike.JobDone) {}

func (t *routableTask) response(s *sa, m *message) {
	if s.cookieComesBack(m, t.cookie) {
		s.finish()
	}
}

// asksMapping says whether our liveness requests also ask how the peer sees us: only who is behind a NAT wants to know (section 3.8).
func (s *sa) asksMapping() bool {
	return s.mobility.agreed && s.began && s.nat.local && s.nat.supported
}

// mapped compares the answer with what was.
func (s *sa) mapped(m *message) {
	if s.asksMapping() && s.noteSeenAs(m) {
		s.tasks = append([]task{&updateTask{}}, s.tasks...)
	}
}
