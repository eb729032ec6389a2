package v2

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"coati/ike"
	"coati/ike/wire"
	"coati/policy"
)

// vendorID tells another Coati that both ends settle crossing initial exchanges by the lowest nonce.
var vendorID = []byte("coati-1")

// renewID, inside IKE_AUTH, tells another Coati that the SA replaces one that is still good, so that the two do not compete.
var renewID = []byte("coati-1 renews")

// Protocol makes machines of IKEv2. One per engine.
type Protocol struct {
	cookies cookieJar
	lines   int // warnings since
	since   time.Time
	mutant  mutant
	// collecting counts the octets of fragments from peers that are not authenticated.
	collecting int
	// Taken counts how often each row of the transition table was taken.
	Taken map[string]uint64
	// Arrows counts each transition by where it led: "row -> phase", or "phase -> phase" for one of our own.
	Arrows map[string]uint64
	// Strayed counts transitions that the table does not allow: faults of the machine.
	Strayed map[string]uint64
	// Observe, if set, is told the name of each row as it is taken.
	Observe func(row string)
	// Unsaid counts the warnings left out because peers caused too many (ike.Limits.LogLines).
	Unsaid uint64
	// Refused counts first requests that made no machine, by reason.
	Refused map[string]uint64
}

// New makes the protocol for one engine.
func New() *Protocol {
	return &Protocol{Taken: map[string]uint64{}, Arrows: map[string]uint64{}, Strayed: map[string]uint64{}, Refused: map[string]uint64{}}
}

var _ ike.Protocol = (*Protocol)(nil)

// Version is 2.
func (pr *Protocol) Version() uint8 { return 2 }

// Initiate begins as initiator.
func (pr *Protocol) Initiate(env *ike.Env, now time.Time, t *policy.PeerTunnel, path policy.Path, children []string, flow policy.Flow, out *ike.Out) (ike.SA, error) {
	if t.RemoteAuth == policy.ByEAP && t.EAP.Serves() {
		return nil, fmt.Errorf("tunnel %s lets its peer authenticate by EAP: only the peer can begin", t.Name)
	}
	s := &sa{env: env, proto: pr, tunnel: t, initiator: true, began: true, path: path, answerPath: path, wanted: children, flow: flow, spiI: env.NewSPI(), changes: map[ike.ChangeID]*child{}}
	s.now, s.out = now, out
	defer func() { s.out = nil }()
	s.localID = ike.LocalIdentity(t, path)
	s.lastReceived = now
	return s, s.beginInit(0)
}

// Respond handles a first request. It answers without keeping state where it can: with a cookie, another group, or a
// refusal. None of these answers is larger than the request.
func (pr *Protocol) Respond(env *ike.Env, now time.Time, d ike.Datagram, out *ike.Out) (ike.SA, error) {
	h, err := wire.ParseHeader(d.Bytes)
	if err != nil {
		pr.Refused["malformed"]++
		return nil, nil
	}
	if h.Version.Major() > 2 {
		pr.answer(h, d, out, notify(wire.NotifyInvalidMajorVersion, []byte{byte(wire.Version2)}))
		return nil, nil
	}
	if h.Exchange != wire.ExchangeIKESAInit || h.Flags&wire.FlagResponse != 0 || h.Flags&wire.FlagInitiator == 0 || h.ResponderSPI != 0 || h.MessageID != 0 {
		pr.Refused["not a first request"]++
		return nil, nil
	}
	raw := slices.Clone(d.Bytes)
	w, err := wire.Parse(raw)
	if err != nil || w.SK != nil || w.SKF != nil {
		pr.Refused["malformed"]++
		return nil, nil
	}
	m := &message{Header: w.Header, payloads: w.Payloads, raw: raw, path: d.Path}
	if t := twice(m); t != 0 || !sa1.in(m) || !ke.in(m) || !nonce.in(m) {
		pr.Refused["malformed"]++
		return nil, nil
	}
	if critical, ok := wire.CheckCritical(m.payloads).(wire.UnsupportedCritical); ok {
		pr.answer(h, d, out, notify(wire.NotifyUnsupportedCriticalPayload, []byte{byte(critical)}))
		return nil, nil
	}
	proven := pr.cookies.verify(env, now, m)
	if all, from := env.HalfOpen(d.Path); !proven && (all >= env.Limits.HalfOpenCookie || from >= env.Limits.HalfOpenPerAddress) {
		pr.demandCookie(env, now, m, out)
		return nil, nil
	}
	s := &sa{env: env, proto: pr, path: d.Path, answerPath: d.Path, spiI: h.InitiatorSPI, changes: map[ike.ChangeID]*child{}}
	s.now, s.out = now, out
	defer func() { s.out = nil }()
	s.lastReceived = now
	if !s.initRequested(m, proven) {
		return nil, nil
	}
	s.moves(phaseIdle)
	return s, nil
}

func (pr *Protocol) demandCookie(env *ike.Env, now time.Time, m *message, out *ike.Out) {
	pr.Refused["cookie demanded"]++
	pr.answer(m.Header, ike.Datagram{Path: m.path, Bytes: m.raw}, out, notify(wire.NotifyCookie, pr.cookies.bake(env, now, m)))
}

// answer sends one notification in clear to a first request, if it is a request and the answer is no larger
// (a cookie may be: RFC 7296, section 2.6).
func (pr *Protocol) answer(h wire.Header, d ike.Datagram, out *ike.Out, no *wire.Notify) {
	pr.Refused[no.Type.String()]++
	if h.Flags&wire.FlagResponse != 0 {
		return
	}
	r := wire.Header{InitiatorSPI: h.InitiatorSPI, ResponderSPI: h.ResponderSPI, Version: wire.Version2, Exchange: h.Exchange, Flags: wire.FlagResponse, MessageID: h.MessageID}
	b, err := wire.Append(nil, r, []wire.Payload{no})
	if err != nil || len(b) > len(d.Bytes) && no.Type != wire.NotifyCookie {
		return
	}
	out.Sends = append(out.Sends, ike.Send{Path: d.Path, Bytes: b})
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

// mutant takes one rule out of the machine. Tests set it, to see that the simulations notice.
type mutant uint8

const (
	whole          mutant = iota
	noNonceRule           // the loser of a collision is not chosen by the nonces
	noCache               // a repeated request is not answered again
	breakBeforeNew        // a rekey deletes the old pair first
	noAdditional          // a peer may leave out an additional key exchange
	noIntAuth             // AUTH does not cover IKE_INTERMEDIATE
	noPPKRequired         // a PPK that is required is optional
)

// loses says whether what was made with the first nonce gives way to what was made with the second (section 2.8.1).
func (pr *Protocol) loses(mine, theirs []byte) bool {
	return pr.mutant != noNonceRule && bytes.Compare(mine, theirs) < 0
}
