package v1

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"coati/ike"
	"coati/ike/wire"
	"coati/policy"
)

// What vendor IDs say: another Coati, which settles crossing negotiations by the lowest nonce, or which replaces an SA that is
// still good; dead peer detection, whose last two octets are a version (RFC 3706, section 5.1). For NAT traversal see natt.go.
var (
	vendorCoati = []byte("coati-1")
	vendorRenew = []byte("coati-1 renews")
	vendorXAuth = []byte{0x09, 0x00, 0x26, 0x89, 0xdf, 0xd6, 0xb7, 0x12}
	vendorUnity = []byte{0x12, 0xf5, 0xf2, 0x8c, 0x45, 0x71, 0x68, 0xa9, 0x70, 0x2d, 0x9f, 0xe2, 0x74, 0xcc, 0x01, 0x00}
	vendorDPD   = []byte{0xaf, 0xca, 0xd7, 0x13, 0x68, 0xa1, 0xf1, 0xc9, 0x6b, 0x86, 0x96, 0xfc, 0x77, 0x57, 0x01, 0x00}
)

// Protocol makes machines of IKEv1. One per engine.
type Protocol struct {
	lines int // warnings since
	since time.Time
	peers map[string]*peer // by tunnel and identity
	// Taken counts how often each row of the transition table was taken, Strayed steps that the table does not allow.
	Taken, Strayed map[string]uint64
	// Refused counts first messages that made no machine, by reason.
	Refused map[string]uint64
	// Unsaid counts the warnings left out because peers caused too many (ike.Limits.LogLines).
	Unsaid uint64
	// Observe, if set, is told the name of each row as it is taken.
	Observe func(row string)
}

// New makes the protocol for one engine.
func New() *Protocol {
	return &Protocol{peers: map[string]*peer{}, Taken: map[string]uint64{}, Strayed: map[string]uint64{}, Refused: map[string]uint64{}}
}

var _ ike.Protocol = (*Protocol)(nil)

// Version is 1.
func (pr *Protocol) Version() uint8 { return 1 }

func (pr *Protocol) newSA(env *ike.Env, now time.Time, path policy.Path, out *ike.Out) *sa {
	return &sa{
		env: env, proto: pr, peer: &peer{}, path: path, now: now, out: out, lastReceived: now,
		jobs: map[ike.JobID]func(ike.JobDone){}, exchanges: map[uint32]*exchange{}, seen: map[uint32]bool{}, changes: map[ike.ChangeID]*child{},
	}
}

// Initiate begins main mode as initiator.
func (pr *Protocol) Initiate(env *ike.Env, now time.Time, t *policy.PeerTunnel, path policy.Path, children []string, flow policy.Flow, out *ike.Out) (ike.SA, error) {
	s := pr.newSA(env, now, path, out)
	defer func() { s.out = nil }()
	s.tunnel, s.initiator, s.wanted, s.flow, s.cookieI = t, true, children, flow, env.NewSPI()
	s.localID = localIdentity(t, path)
	s.p1 = exchange{kind: wire.ExchangeV1Main}
	if t.V1.Aggressive {
		s.p1.kind = wire.ExchangeV1Aggressive
	}
	return s, s.begin()
}

// Respond handles a first message. What is refused is answered in clear, no larger than it was, and leaves no state.
func (pr *Protocol) Respond(env *ike.Env, now time.Time, d ike.Datagram, out *ike.Out) (ike.SA, error) {
	h, err := wire.ParseHeader(d.Bytes)
	if err != nil {
		pr.Refused["malformed"]++
		return nil, nil
	}
	if h.ResponderSPI != 0 || h.MessageID != 0 || h.Flags&wire.V1Encryption != 0 || h.Exchange != wire.ExchangeV1Main && h.Exchange != wire.ExchangeV1Aggressive {
		pr.Refused["not a first message"]++
		return nil, nil
	}
	raw := slices.Clone(d.Bytes)
	w, err := wire.ParseV1(raw)
	if err != nil {
		pr.Refused["malformed"]++
		return nil, nil
	}
	m := &message{V1Message: *w, path: d.Path, digest: sha256.Sum256(raw)}
	s := pr.newSA(env, now, d.Path, out)
	defer func() { s.out = nil }()
	s.cookieI = h.InitiatorSPI
	s.p1 = exchange{kind: h.Exchange}
	if !s.dispatch(&s.p1, m, false) {
		pr.Refused["malformed"]++
		return nil, nil
	}
	if s.p1.step == stepStart {
		return nil, nil
	}
	s.p1.lastIn = m.digest
	return s, nil
}

// refuseClear answers a first message with one notification, if the answer is no larger.
func (pr *Protocol) refuseClear(s *sa, m *message, t wire.V1NotifyType) {
	pr.Refused[t.String()]++
	h := wire.Header{InitiatorSPI: m.InitiatorSPI, ResponderSPI: s.env.NewSPI(), Version: wire.Version1, Exchange: wire.ExchangeV1Informational, MessageID: s.newID()}
	b, err := wire.AppendV1(nil, h, []wire.Payload{&wire.V1Notify{DOI: wire.DOIIPsec, Protocol: wire.ProtocolV1ISAKMP, Type: t}})
	if err == nil && len(b) <= len(m.Raw) {
		s.out.Sends = append(s.out.Sends, ike.Send{Path: m.path, Bytes: b})
	}
}

// refused is a warning that is kept for status, too, as the tunnel's latest refused attempt.
func (s *sa) refused(msg string, err error) {
	s.warn(msg, err)
	r := ike.Refusal{At: s.now, Peer: s.path.Remote, Reason: err.Error()}
	switch {
	case s.tunnel != nil:
		r.Tunnel = s.tunnel.Name
	case len(s.candidates) == 1:
		r.Tunnel = s.candidates[0].Name
	}
	s.out.Refuse(r)
}

// warn tells people what a peer did. Peers cannot fill the log: beyond a rate the lines are counted.
func (s *sa) warn(msg string, err error) {
	if s.proto.may(s.env, s.now) {
		s.out.Record(slog.LevelWarn, msg, append(s.attrs(), slog.String("reason", err.Error()))...)
	}
}

// may says whether another warning may be written.
func (pr *Protocol) may(env *ike.Env, now time.Time) bool {
	if now.Sub(pr.since) >= env.Limits.LogPeriod {
		pr.since, pr.lines = now, 0
	}
	if pr.lines++; pr.lines > env.Limits.LogLines {
		pr.Unsaid++
		return false
	}
	return true
}

// attrs identify the SA in the log.
func (s *sa) attrs() []slog.Attr {
	a := []slog.Attr{slog.String("peer", s.path.Remote.String())}
	if s.tunnel != nil {
		a = append([]slog.Attr{slog.String("tunnel", s.tunnel.Name)}, a...)
	}
	return append(a, slog.String("ike-spi", fmt.Sprintf("%016x_%016x", s.cookieI, s.cookieR)))
}

// at is a path's remote end with another port.
func at(p netip.AddrPort, port uint16) netip.AddrPort { return netip.AddrPortFrom(p.Addr(), port) }
