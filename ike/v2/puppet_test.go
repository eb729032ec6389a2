package v2_test

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"coati/ike"
	"coati/ike/auth"
	"coati/ike/keys"
	v2 "coati/ike/v2"
	"coati/ike/wire"
	"coati/policy"
)

// bench is one engine whose caller is the test: jobs run at once unless they are held back, and changes succeed unless
// one is to be refused.
type bench struct {
	t        testing.TB
	eng      *ike.Engine
	v2       *v2.Protocol
	machines []ike.SA // without those that rekeys make
	now      time.Time
	rng      *rand.Rand
	hold     bool // keep jobs in held
	held     []ike.Job
	refuse   bool // the next change that adds SAs fails
	larval   map[policy.SPI]bool
	sas      map[policy.SAID]policy.SA
	log      []string
	reads    func(slog.Level) bool // the log; nil: all of it
	replies  map[ike.CommandID]error
	fault    error
	radius   func(ike.AskRADIUS) ike.RADIUSAnswer // nil: none answers
	asked    []ike.AskID                          // of RADIUS
}

var (
	here  = netip.MustParseAddr("192.0.2.1")
	there = netip.MustParseAddr("192.0.2.2")
)

func selectors(words ...string) []policy.Selector {
	var out []policy.Selector
	for _, w := range words {
		s, err := policy.ParseSelector(w)
		if err != nil {
			panic(err)
		}
		out = append(out, s)
	}
	return out
}

// tunnel is "t" between here and there with the child "lan", and one proposal for each protocol.
func tunnel(change ...func(*policy.PeerTunnel)) policy.PeerTunnel {
	t := policy.PeerTunnel{
		Name: "t", Version: 2, Remote: there, PSK: policy.NewSecret([]byte("secret")), Start: policy.StartListen, DPD: 30 * time.Second,
		IKE: []policy.Proposal{policy.MustProposal(policy.ProtocolIKE, "aes128gcm16-prfsha256-x25519")},
		Children: []policy.Child{{
			Name: "lan", Local: selectors("10.1.0.0/16"), Remote: selectors("10.2.0.0/16"), ReplayWindow: 64, ReqID: 1, OutPolicy: 1, InPolicy: 2,
			ESP: []policy.Proposal{policy.MustProposal(policy.ProtocolESP, "aes128gcm16-noesn")},
		}},
	}
	for _, f := range change {
		f(&t)
	}
	return t
}

func newBench(t testing.TB, limits func(*ike.Limits), tunnels ...policy.PeerTunnel) *bench {
	b := &bench{
		t: t, now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), rng: rand.New(rand.NewPCG(1, 2)), larval: map[policy.SPI]bool{}, sas: map[policy.SAID]policy.SA{},
		replies: map[ike.CommandID]error{}, v2: v2.New(),
	}
	l := ike.DefaultLimits()
	if limits != nil {
		limits(&l)
	}
	var spi policy.SPI = 1000
	var id policy.SAID
	b.eng = ike.NewEngine(ike.Config{
		Rand:     random{b.rng},
		AllocSPI: func(policy.Protocol) (policy.SPI, error) { spi++; b.larval[spi] = true; return spi, nil },
		FreeSPI: func(_ policy.Protocol, s policy.SPI) {
			if !b.larval[s] {
				b.fault = fmt.Errorf("SPI %v is freed that was not reserved", s)
			}
			delete(b.larval, s)
		},
		SAState: func(policy.SAID) (policy.State, error) { return policy.State{}, policy.ErrNoSA },
		NewSAID: func() policy.SAID { id++; return id },
		Logs:    func(l slog.Level) bool { return b.reads == nil || b.reads(l) },
		Limits:  l, Protocols: []ike.Protocol{keeper{b.v2, b}},
	})
	b.event(ike.Configure{Tunnels: tunnels})
	return b
}

// keeper keeps the machines that the protocol makes at hand.
type keeper struct {
	*v2.Protocol
	b *bench
}

func (k keeper) Initiate(env *ike.Env, now time.Time, t *policy.PeerTunnel, path policy.Path, children []string, flow policy.Flow, out *ike.Out) (ike.SA, error) {
	sa, err := k.Protocol.Initiate(env, now, t, path, children, flow, out)
	k.b.machines = append(k.b.machines, sa)
	return sa, err
}

func (k keeper) Respond(env *ike.Env, now time.Time, d ike.Datagram, out *ike.Out) (ike.SA, error) {
	sa, err := k.Protocol.Respond(env, now, d, out)
	if sa != nil {
		k.b.machines = append(k.b.machines, sa)
	}
	return sa, err
}

type random struct{ r *rand.Rand }

func (r random) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r.r.Uint32())
	}
	return len(p), nil
}

// event is the caller's half of the contract for one event and all that follows at once.
func (b *bench) event(ev ike.Event) []ike.Send {
	var out ike.Out
	if err := b.eng.Handle(b.now, ev, &out); err != nil {
		b.fault = errors.Join(b.fault, err)
	}
	return b.perform(&out)
}

func (b *bench) perform(out *ike.Out) []ike.Send {
	var sends []ike.Send
	refused := map[ike.ChangeID]bool{}
	for _, c := range out.Changes {
		if b.refuse && len(c.Tx.AddSAs) > 0 {
			b.refuse = false
			refused[c.ID] = true
			var next ike.Out
			if err := b.eng.Failed(b.now, ike.ChangeFailed{ID: c.ID, Err: errors.New("no room")}, &next); err != nil {
				b.fault = errors.Join(b.fault, err)
			}
			sends = append(sends, b.perform(&next)...)
			continue
		}
		for _, sa := range c.Tx.AddSAs {
			b.sas[sa.ID] = sa
		}
		for _, id := range c.Tx.DeleteSAs {
			if _, ok := b.sas[id]; !ok {
				b.fault = errors.Join(b.fault, fmt.Errorf("SA %d is deleted and was not there", id))
			}
			delete(b.larval, b.sas[id].SPI)
			delete(b.sas, id)
		}
	}
	for _, s := range out.Sends {
		if !refused[s.After] {
			sends = append(sends, s)
		}
	}
	for _, r := range out.Log {
		line := r.Msg
		for _, a := range r.Attrs {
			line += " " + a.String()
		}
		b.log = append(b.log, line)
	}
	for _, r := range out.Replies {
		b.replies[r.ID] = r.Err
	}
	for _, a := range out.Asks {
		if q, ok := a.What.(ike.AskRADIUS); ok {
			b.asked = append(b.asked, a.ID)
			if b.radius != nil {
				sends = append(sends, b.event(ike.Answer{ID: a.ID, Value: b.radius(q)})...)
			}
			continue
		}
		sends = append(sends, b.event(ike.Answer{ID: a.ID, Value: ike.PathAnswer{Local: here, Remote: there}})...)
	}
	if b.hold {
		b.held = append(b.held, out.Jobs...)
		return sends
	}
	for _, j := range out.Jobs {
		v, err := j.Run()
		sends = append(sends, b.event(ike.JobDone{ID: j.ID, Result: v, Err: err})...)
	}
	return sends
}

// release runs the jobs held back.
func (b *bench) release() []ike.Send {
	b.hold = false
	var sends []ike.Send
	jobs := b.held
	b.held = nil
	for _, j := range jobs {
		v, err := j.Run()
		sends = append(sends, b.event(ike.JobDone{ID: j.ID, Result: v, Err: err})...)
	}
	return sends
}

// wait lets time pass, timers firing as they fall due.
func (b *bench) wait(d time.Duration) []ike.Send {
	var sends []ike.Send
	end := b.now.Add(d)
	for range 10000 {
		at := b.eng.Deadline()
		if at.IsZero() || at.After(end) {
			b.now = end
			return sends
		}
		if at.After(b.now) {
			b.now = at
		}
		sends = append(sends, b.event(ike.Timer{})...)
	}
	b.t.Fatal("the engine wants timers without end")
	return nil
}

func (b *bench) said(words string) bool {
	return slices.ContainsFunc(b.log, func(l string) bool { return strings.Contains(l, words) })
}

func (b *bench) sound() {
	b.t.Helper()
	if b.fault != nil {
		b.t.Error(b.fault)
	}
	for what := range b.v2.Strayed {
		b.t.Error("a transition the table does not allow:", what)
	}
}

// established counts the tunnel's IKE SAs and children.
func (b *bench) established() (sas, children int) {
	for _, t := range b.eng.Status() {
		for _, i := range t.SAs {
			if i.State == ike.Established {
				sas++
				children += len(i.Children)
			}
		}
	}
	return sas, children
}

// puppet is a peer at there that the test moves by hand. It has all keys and no state machine.
type puppet struct {
	t                 testing.TB
	b                 *bench
	initiator         bool
	path              policy.Path // as the engine sees it
	spiI, spiR        uint64
	ni, nr            []byte
	request, response []byte
	prf               keys.PRF
	keys              keys.IKEKeys
	in, out           *keys.Cipher
	id                policy.Identity
	psk               string
	next              uint32         // message ID of our next request
	extra             []wire.Payload // in our first message
	spi               uint32
}

func newPuppet(b *bench) *puppet {
	prf, err := keys.NewPRF(policy.LookupKeyword("prfsha256").Transform())
	if err != nil {
		b.t.Fatal(err)
	}
	return &puppet{
		t: b.t, b: b, path: policy.Path{Local: netip.AddrPortFrom(here, 500), Remote: netip.AddrPortFrom(there, 500)}, prf: prf, id: policy.AddrIdentity(there), psk: "secret",
		spiI: 0x1111111111111111, ni: slices.Repeat([]byte{7}, 32), spi: 0xabc0001,
	}
}

func ikeSA() *wire.SA {
	return &wire.SA{Proposals: []wire.Proposal{{Number: 1, Protocol: wire.ProtocolIKE, Transforms: []wire.Transform{
		wire.NewTransform(1, policy.ENCRAESGCM16, 128), wire.NewTransform(2, policy.PRFHMACSHA256, 0), wire.NewTransform(4, policy.KEX25519, 0),
	}}}}
}

func espSA(spi uint32) *wire.SA {
	return &wire.SA{Proposals: []wire.Proposal{{Number: 1, Protocol: wire.ProtocolESP, SPI: wire.SPI4(spi), Transforms: []wire.Transform{
		wire.NewTransform(1, policy.ENCRAESGCM16, 128), wire.NewTransform(5, policy.ESNNo, 0),
	}}}}
}

func ts(responder bool, words ...string) *wire.TS {
	out := &wire.TS{Responder: responder}
	for _, s := range selectors(words...) {
		out.Selectors = append(out.Selectors, wire.NewSelector(s.Protocol, s.Start, s.End, s.StartPort, s.EndPort))
	}
	return out
}

// give hands octets to the engine and returns what it sends.
func (p *puppet) give(b []byte) []ike.Send {
	return p.b.event(ike.Datagram{Path: p.path, Bytes: b})
}

func (p *puppet) clear(h wire.Header, payloads ...wire.Payload) []byte {
	h.InitiatorSPI, h.Version, h.Exchange = p.spiI, wire.Version2, wire.ExchangeIKESAInit
	b, err := wire.Append(nil, h, payloads)
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

// first is an IKE_SA_INIT request; extra payloads come first.
func (p *puppet) first(ke *wire.KE, extra ...wire.Payload) []byte {
	return p.clear(wire.Header{Flags: wire.FlagInitiator}, append(extra, ikeSA(), ke, &wire.Nonce{Data: p.ni})...)
}

func (p *puppet) derive(shared policy.Secret) {
	gcm := policy.LookupKeyword("aes128gcm16").Transform()
	var err error
	if p.keys, err = keys.DeriveIKE(p.prf, gcm, policy.Transform{}, keys.SKEYSEED(p.prf, p.ni, p.nr, shared), p.ni, p.nr, p.spiI, p.spiR); err != nil {
		p.t.Fatal(err)
	}
	ci, err1 := keys.NewCipher(gcm, policy.Transform{}, p.keys.Ei, policy.Secret{})
	cr, err2 := keys.NewCipher(gcm, policy.Transform{}, p.keys.Er, policy.Secret{})
	if err1 != nil || err2 != nil {
		p.t.Fatal(err1, err2)
	}
	if p.out, p.in = cr, ci; p.initiator {
		p.out, p.in = ci, cr
	}
}

// begin is IKE_SA_INIT as initiator.
func (p *puppet) begin() *puppet {
	p.t.Helper()
	p.initiator = true
	mine, err := keys.NewInitiator(policy.KEX25519, random{p.b.rng})
	if err != nil {
		p.t.Fatal(err)
	}
	public, _ := mine.Offer()
	p.request = p.first(&wire.KE{Method: policy.KEX25519, Data: public}, append(p.extra, &wire.VendorID{Data: make([]byte, 64)})...)
	sends := p.give(p.request)
	if len(sends) != 1 {
		p.t.Fatalf("IKE_SA_INIT is answered with %d datagrams: %q", len(sends), p.b.log)
	}
	p.response = sends[0].Bytes
	m := p.parse(p.response)
	ke, ok1 := wire.Find[*wire.KE](m.Payloads, wire.PayloadKE)
	nonce, ok2 := wire.Find[*wire.Nonce](m.Payloads, wire.PayloadNonce)
	if !ok1 || !ok2 {
		p.t.Fatalf("the answer to IKE_SA_INIT has %d payloads", len(m.Payloads))
	}
	p.spiR, p.nr = m.ResponderSPI, nonce.Data
	shared, err := mine.Finish(ke.Data)
	if err != nil {
		p.t.Fatal(err)
	}
	p.derive(shared)
	p.next = 1
	return p
}

func (p *puppet) parse(b []byte) *wire.Message {
	p.t.Helper()
	m, err := wire.Parse(b)
	if err != nil {
		p.t.Fatalf("the engine sent what does not parse: %v", err)
	}
	return m
}

// proof is our AUTH payload for an identity.
func (p *puppet) proof(id *wire.ID) *wire.Auth {
	first, nonce, skp := p.response, p.ni, p.keys.Pr
	if p.initiator {
		first, nonce, skp = p.request, p.nr, p.keys.Pi
	}
	signed := auth.SignedOctets(p.prf, first, nonce, skp, id.Body())
	return &wire.Auth{Method: wire.AuthSharedKey, Data: auth.PSK(p.prf, policy.NewSecret([]byte(p.psk)), signed)}
}

func (p *puppet) idPayload() *wire.ID {
	return &wire.ID{Responder: !p.initiator, Type: wire.IDType(p.id.Type), Data: p.id.Data}
}

// authenticate is IKE_AUTH as initiator with the usual payloads; it returns what the engine answers inside.
func (p *puppet) authenticate(extra ...wire.Payload) []wire.Payload {
	p.t.Helper()
	id := p.idPayload()
	return p.ask(wire.ExchangeIKEAuth, append([]wire.Payload{id, p.proof(id), espSA(p.spi), ts(false, "10.2.0.0/16"), ts(true, "10.1.0.0/16")}, extra...)...)
}

func (p *puppet) header(ex wire.ExchangeType, response bool, id uint32) wire.Header {
	h := wire.Header{InitiatorSPI: p.spiI, ResponderSPI: p.spiR, Version: wire.Version2, Exchange: ex, MessageID: id}
	if p.initiator {
		h.Flags |= wire.FlagInitiator
	}
	if response {
		h.Flags |= wire.FlagResponse
	}
	return h
}

func (p *puppet) seal(h wire.Header, payloads ...wire.Payload) []byte {
	p.t.Helper()
	first, plain, err := wire.AppendPayloads(nil, payloads)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.sealRaw(h, first, plain)
}

func (p *puppet) sealRaw(h wire.Header, first wire.PayloadType, plain []byte) []byte {
	p.t.Helper()
	prefix, err := wire.AppendEncryptedHeader(nil, h, first, p.out.SealedLen(len(plain)))
	if err != nil {
		p.t.Fatal(err)
	}
	b, err := p.out.Seal(random{p.b.rng}, prefix, plain)
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

// request seals our next request.
func (p *puppet) next1(ex wire.ExchangeType, payloads ...wire.Payload) []byte {
	b := p.seal(p.header(ex, false, p.next), payloads...)
	p.next++
	return b
}

// ask sends our next request and opens the answer; nil if there is none.
func (p *puppet) ask(ex wire.ExchangeType, payloads ...wire.Payload) []wire.Payload {
	p.t.Helper()
	for _, s := range p.give(p.next1(ex, payloads...)) {
		if m, inner := p.open(s.Bytes); m.Flags&wire.FlagResponse != 0 {
			if inner == nil {
				inner = []wire.Payload{}
			}
			return inner
		}
	}
	return nil
}

func (p *puppet) open(b []byte) (*wire.Message, []wire.Payload) {
	p.t.Helper()
	m := p.parse(b)
	if m.SK == nil {
		return m, m.Payloads
	}
	plain, err := p.in.Open(b, len(b)-len(m.SK.Body))
	if err != nil {
		p.t.Fatalf("the engine's message does not open: %v", err)
	}
	inner, err := wire.ParsePayloads(m.SK.First, plain)
	if err != nil {
		p.t.Fatalf("the engine's message does not parse: %v", err)
	}
	return m, inner
}

// reply answers a request of the engine.
func (p *puppet) reply(request []byte, payloads ...wire.Payload) []ike.Send {
	m := p.parse(request)
	return p.give(p.seal(p.header(m.Exchange, true, m.MessageID), payloads...))
}

// up makes a puppet with an established SA and a child.
func up(b *bench) *puppet {
	b.t.Helper()
	p := newPuppet(b).begin()
	if got := p.authenticate(); wire.FindNotify(got, wire.NotifyAuthenticationFailed) != nil || len(got) < 5 {
		b.t.Fatalf("not authenticated: %q", b.log)
	}
	return p
}

// answer is IKE_SA_INIT and IKE_AUTH as responder: it takes the engine's first request.
func (p *puppet) answerFirst(request []byte) []ike.Send {
	p.t.Helper()
	m := p.parse(request)
	ke, _ := wire.Find[*wire.KE](m.Payloads, wire.PayloadKE)
	nonce, _ := wire.Find[*wire.Nonce](m.Payloads, wire.PayloadNonce)
	p.request, p.spiI, p.ni = request, m.InitiatorSPI, nonce.Data
	if p.spiR == 0 {
		p.spiR = 0x2222222222222222
	}
	p.nr = slices.Repeat([]byte{9}, 32)
	mine, err := keys.NewResponder(ke.Method, random{p.b.rng})
	if err != nil {
		p.t.Fatal(err)
	}
	public, shared, err := mine.Answer(ke.Data)
	if err != nil {
		p.t.Fatal(err)
	}
	p.response = p.clear(wire.Header{Flags: wire.FlagResponse, ResponderSPI: p.spiR}, append([]wire.Payload{ikeSA(), &wire.KE{Method: ke.Method, Data: public}, &wire.Nonce{Data: p.nr}}, p.extra...)...)
	p.derive(shared)
	return p.give(p.response)
}

// answerAuth answers the engine's IKE_AUTH request.
func (p *puppet) answerAuth(request []byte) []ike.Send {
	p.t.Helper()
	id := p.idPayload()
	return p.reply(request, id, p.proof(id), espSA(p.spi), ts(false, "10.1.0.0/16"), ts(true, "10.2.0.0/16"))
}

func has(payloads []wire.Payload, t wire.NotifyType) bool { return wire.FindNotify(payloads, t) != nil }
