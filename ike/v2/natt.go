package v2

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"net/netip"
	"time"

	"coati/ike"
	"coati/ike/wire"
	"coati/policy"
)

// NAT traversal, RFC 7296, section 2.23, and RFC 3948.

// natState says who is behind a NAT, as far as detection went.
type natState struct {
	supported     bool // the peer sent both notifications
	local, remote bool
}

const nattPort = 4500

// natHash is SHA-1(SPIs | IP | port); SHA-1 is what the RFC fixes, and nothing secret rests on it.
func natHash(spiI, spiR uint64, a netip.AddrPort) []byte {
	b := binary.BigEndian.AppendUint64(nil, spiI)
	b = binary.BigEndian.AppendUint64(b, spiR)
	b = append(b, a.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, a.Port())
	h := sha1.Sum(b)
	return h[:]
}

// natNotifies makes both notifications. encap = "udp" pretends a NAT in front of us: no address has this hash.
func (s *sa) natNotifies(path policy.Path, spiR uint64, pretend bool) []wire.Payload {
	src := natHash(s.spiI, spiR, path.Local)
	if pretend {
		src = make([]byte, sha1.Size)
	}
	return []wire.Payload{
		notify(wire.NotifyNATDetectionSourceIP, src),
		notify(wire.NotifyNATDetectionDestinationIP, natHash(s.spiI, spiR, path.Remote)),
	}
}

// detectNAT compares the peer's notifications with what we see. Several sources are alternatives.
func detectNAT(m *message, spiR uint64) natState {
	var st natState
	src, dst := false, false
	src0 := natHash(m.InitiatorSPI, spiR, m.path.Remote)
	dst0 := natHash(m.InitiatorSPI, spiR, m.path.Local)
	srcMatch, dstMatch := false, false
	for _, q := range m.payloads {
		no, ok := q.(*wire.Notify)
		switch {
		case !ok:
		case no.Type == wire.NotifyNATDetectionSourceIP:
			src, srcMatch = true, srcMatch || bytes.Equal(no.Data, src0)
		case no.Type == wire.NotifyNATDetectionDestinationIP:
			dst, dstMatch = true, dstMatch || bytes.Equal(no.Data, dst0)
		}
	}
	st.supported = src && dst
	st.remote, st.local = st.supported && !srcMatch, st.supported && !dstMatch
	return st
}

// floats says whether IKE moves to port 4500 and ESP into UDP.
func (s *sa) floats(mode policy.EncapMode) bool {
	switch mode {
	case policy.EncapForceUDP:
		return true
	case policy.EncapForceESP:
		return false
	}
	return s.nat.local || s.nat.remote
}

// float moves the initiator to port 4500 on both ends.
func (s *sa) float() {
	s.path.Encap = policy.EncapRaw
	if s.nat.local || s.nat.remote || s.tunnel.Encap == policy.EncapForceUDP || mobile(s.tunnel) && s.nat.supported {
		s.path.Local = netip.AddrPortFrom(s.path.Local.Addr(), s.env.NATTPort)
		s.path.Remote = netip.AddrPortFrom(s.path.Remote.Addr(), nattPort)
	}
	if s.floats(s.tunnel.Encap) {
		s.path.Encap = policy.EncapUDP
	}
	s.answerPath = s.path
}

// moved follows a peer behind a NAT whose mapping changed: an authenticated message came from elsewhere. Only who is
// not behind a NAT itself may do so (section 2.23).
func (s *sa) moved(m *message) {
	at := m.path
	if at.Remote == s.path.Remote && at.Local == s.path.Local {
		return
	}
	if s.phase == phaseEstablished && (!s.nat.remote || s.nat.local && s.initiator || s.mobility.agreed) {
		return
	}
	if s.initiator && s.phase != phaseEstablished {
		return
	}
	at.Encap = s.path.Encap
	s.follow(at)
}

// mapping is the same learned from an ESP packet.
func (s *sa) mapping(ev ike.Mapping) {
	if s.phase != phaseEstablished || !s.nat.remote || s.path.Encap != policy.EncapUDP || ev.Remote.Port() == 0 || s.path.Remote == ev.Remote {
		return
	}
	at := s.path
	at.Remote = ev.Remote
	s.follow(at)
}

func (s *sa) follow(at policy.Path) {
	s.path = at
	var in, out policy.Tx
	for _, c := range s.children {
		to := at
		in.UpdateSAs = append(in.UpdateSAs, policy.SAUpdate{ID: c.in, Path: &to})
		out.UpdateSAs = append(out.UpdateSAs, policy.SAUpdate{ID: c.outID, Path: &to})
	}
	s.change(in)
	s.following = s.change(out)
}

// leftBehind: the plane cannot move living outbound SAs, so that new ones take their place, which know the new path.
func (s *sa) leftBehind() {
	for _, c := range s.children {
		s.refresh(c)
	}
}

// startKeepalive begins the keepalives of who sits behind a NAT (RFC 3948, section 4).
func (s *sa) startKeepalive() {
	if s.nat.local && s.path.Encap == policy.EncapUDP && s.tunnel.Keepalive > 0 {
		s.keepaliveAt = s.now.Add(s.tunnel.Keepalive)
	}
}

func (s *sa) keepalive() {
	if due(s.keepaliveAt, s.now) && s.phase == phaseEstablished {
		s.out.Sends = append(s.out.Sends, ike.Send{Path: s.path, Keepalive: true})
		s.keepaliveAt = s.now.Add(s.tunnel.Keepalive)
	} else if due(s.keepaliveAt, s.now) {
		s.keepaliveAt = time.Time{}
	}
}
