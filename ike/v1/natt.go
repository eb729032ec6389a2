package v1

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"

	"coati/ike"
	"coati/ike/wire"
	"coati/policy"
)

// NAT traversal, RFC 3947, and as its drafts had it.

// dialect is one way to speak of NATs. Of those that both ends know the first counts.
type dialect struct {
	vendor []byte
	draft  bool // the drafts' payload types and encapsulation modes
}

func octets(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err) // a constant of this package
	}
	return b
}

// dialects are RFC 3947, and draft-ietf-ipsec-nat-t-ike 03, 02 with a newline that slipped in, and 02. Each vendor ID is a hash of its name.
var dialects = []*dialect{
	{octets("4a131c81070358455c5728f20e95452f"), false},
	{octets("7d9419a65310ca6f2c179d9215529d56"), true},
	{octets("90cb80913ebb696e086381b5ec427b1f"), true},
	{octets("cd60464335df21f87cfdb2fc68b6a448"), true},
}

func dialectOf(m *message) *dialect {
	for _, d := range dialects {
		if m.says(d.vendor) {
			return d
		}
	}
	return nil
}

// natState says what is spoken, and who is behind a NAT, as far as detection went.
type natState struct {
	dialect       *dialect
	local, remote bool
}

func (n *natState) speaks() bool { return n.dialect != nil }

func (n *natState) draft() bool { return n.dialect != nil && n.dialect.draft }

// detection is the payload type of NAT-D.
func (n *natState) detection() wire.PayloadType {
	if n.draft() {
		return wire.PayloadV1NATDDraft
	}
	return wire.PayloadV1NATD
}

const nattPort = 4500

// natHash is HASH(CKY-I | CKY-R | IP | port) with the negotiated hash (RFC 3947, section 3.2).
func (s *sa) natHash(a netip.AddrPort) []byte {
	b := binary.BigEndian.AppendUint64(nil, s.cookieI)
	b = binary.BigEndian.AppendUint64(b, s.cookieR)
	b = append(b, a.Addr().AsSlice()...)
	return s.prf.Digest(binary.BigEndian.AppendUint16(b, a.Port()))
}

// natPayloads: the peer's address first, then ours. encap = "udp" pretends a NAT in front of us: no address has that hash.
func (s *sa) natPayloads() []wire.Payload {
	src := s.natHash(s.path.Local)
	tunnels := s.candidates
	if s.tunnel != nil {
		tunnels = []*policy.PeerTunnel{s.tunnel}
	}
	for _, t := range tunnels {
		if t.Encap == policy.EncapForceUDP {
			src = make([]byte, len(src))
		}
	}
	t := s.nat.detection()
	return []wire.Payload{&wire.V1Opaque{Type: t, Data: s.natHash(s.path.Remote)}, &wire.V1Opaque{Type: t, Data: src}}
}

// detectNAT compares what the peer sees with what we see. Its first payload is about us; several for itself are alternatives.
func (s *sa) detectNAT(m *message) {
	all := m.all(s.nat.detection())
	if !s.nat.speaks() || len(all) < 2 {
		return
	}
	is := func(p wire.Payload, a netip.AddrPort) bool { return bytes.Equal(p.(*wire.V1Opaque).Data, s.natHash(a)) }
	s.nat.local, s.nat.remote = !is(all[0], m.path.Local), true
	for _, p := range all[1:] {
		if is(p, m.path.Remote) {
			s.nat.remote = false
		}
	}
}

// settleEncap sets how ESP travels.
func (s *sa) settleEncap() {
	s.path.Encap = policy.EncapRaw
	if s.tunnel.Encap == policy.EncapForceUDP || s.tunnel.Encap == policy.EncapAuto && (s.nat.local || s.nat.remote) {
		s.path.Encap = policy.EncapUDP
	}
}

// float moves the initiator to port 4500 on both ends (RFC 3947, section 4).
func (s *sa) float() {
	if s.nat.local || s.nat.remote || s.nat.speaks() && s.tunnel.Encap == policy.EncapForceUDP {
		s.path.Local, s.path.Remote = at(s.path.Local, s.env.NATTPort), at(s.path.Remote, nattPort)
	}
	s.settleEncap()
}

// moved follows a peer behind a NAT whose mapping changed: an authentic message came from elsewhere. Replays are not authentic: no
// message ID is taken twice.
func (s *sa) moved(to policy.Path) {
	if to.Remote == s.path.Remote && to.Local == s.path.Local || !s.nat.remote {
		return
	}
	to.Encap = s.path.Encap
	s.follow(to)
}

// mapping is the same learned from an ESP packet.
func (s *sa) mapping(ev ike.Mapping) {
	if s.state != stateEstablished || !s.nat.remote || s.path.Encap != policy.EncapUDP || ev.Remote.Port() == 0 || s.path.Remote == ev.Remote {
		return
	}
	to := s.path
	to.Remote = ev.Remote
	s.follow(to)
}

func (s *sa) follow(to policy.Path) {
	s.path = to
	var in, out policy.Tx
	for _, c := range s.peer.children {
		at := to
		if at.Encap = c.encap; at == c.path {
			continue
		}
		c.path = at
		in.UpdateSAs = append(in.UpdateSAs, policy.SAUpdate{ID: c.in, Path: &at})
		out.UpdateSAs = append(out.UpdateSAs, policy.SAUpdate{ID: c.outID, Path: &at})
	}
	s.change(in)
	s.following = s.change(out)
}

// startKeepalive begins the keepalives of who sits behind a NAT (RFC 3948, section 4).
func (s *sa) startKeepalive() {
	s.keepaliveAt = zeroTime
	if s.nat.local && s.path.Encap == policy.EncapUDP && s.tunnel.Keepalive > 0 {
		s.keepaliveAt = s.now.Add(s.tunnel.Keepalive)
	}
}

func (s *sa) keepalive() {
	if due(s.keepaliveAt, s.now) {
		s.out.Sends = append(s.out.Sends, ike.Send{Path: s.path, Keepalive: true})
		s.keepaliveAt = s.now.Add(s.tunnel.Keepalive)
	}
}
