package v2_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"coati/ike"
	"coati/ike/auth"
	"coati/ike/keys"
	v2 "coati/ike/v2"
	"coati/ike/wire"
	"coati/policy"
)

// hybrid is a puppet that does additional key exchanges, written from RFC 9242 and RFC 9370.
type hybrid struct {
	*puppet
	methods      []uint16
	authI, authR []byte // IntAuth_i, IntAuth_r
	done         uint32
	forgets      bool // IntAuth, in AUTH
	silent       bool // about IKE_INTERMEDIATE
}

func pq(tt *policy.PeerTunnel) {
	tt.IKE = []policy.Proposal{policy.MustProposal(policy.ProtocolIKE, "aes128gcm16-prfsha256-x25519-ke1_mlkem768-ke3_ecp256")}
	tt.Children[0].ESP = []policy.Proposal{policy.MustProposal(policy.ProtocolESP, "aes128gcm16-noesn-x25519-ke1_mlkem512-ke2_mlkem768")}
}

func newHybrid(b *bench) *hybrid {
	return &hybrid{puppet: newPuppet(b), methods: []uint16{policy.KEMLKEM768, policy.KEECP256}}
}

func (h *hybrid) ikeSA() *wire.SA {
	sa := ikeSA()
	p := &sa.Proposals[0]
	p.Transforms = append(p.Transforms, wire.NewTransform(wire.TransformADDKE1, h.methods[0], 0), wire.NewTransform(wire.TransformADDKE3, h.methods[1], 0))
	return sa
}

func (h *hybrid) announced() []wire.Payload {
	if h.silent {
		return nil
	}
	return append(slices.Clone(h.extra), &wire.Notify{Type: wire.NotifyIntermediateExchangeSupported})
}

// begin is IKE_SA_INIT as initiator; false: it was refused.
func (h *hybrid) begin() bool {
	h.t.Helper()
	h.initiator = true
	mine, err := keys.NewInitiator(policy.KEX25519, random{h.b.rng})
	if err != nil {
		h.t.Fatal(err)
	}
	public, _ := mine.Offer()
	h.request = h.clear(wire.Header{Flags: wire.FlagInitiator}, append(h.announced(), h.ikeSA(), &wire.KE{Method: policy.KEX25519, Data: public}, &wire.Nonce{Data: h.ni}, &wire.VendorID{Data: make([]byte, 64)})...)
	h.response = h.give(h.request)[0].Bytes
	m := h.parse(h.response)
	ke, ok := wire.Find[*wire.KE](m.Payloads, wire.PayloadKE)
	if !ok {
		return false
	}
	if !has(m.Payloads, wire.NotifyIntermediateExchangeSupported) {
		h.t.Error("the responder does not announce IKE_INTERMEDIATE")
	}
	nonce, _ := wire.Find[*wire.Nonce](m.Payloads, wire.PayloadNonce)
	h.spiR, h.nr = m.ResponderSPI, nonce.Data
	shared, err := mine.Finish(ke.Data)
	if err != nil {
		h.t.Fatal(err)
	}
	h.derive(shared)
	h.next = 1
	return true
}

// answers is IKE_SA_INIT as responder.
func (h *hybrid) answers(request []byte) []ike.Send {
	h.t.Helper()
	m := h.parse(request)
	ke, _ := wire.Find[*wire.KE](m.Payloads, wire.PayloadKE)
	nonce, _ := wire.Find[*wire.Nonce](m.Payloads, wire.PayloadNonce)
	if !has(m.Payloads, wire.NotifyIntermediateExchangeSupported) {
		h.t.Error("the initiator does not announce IKE_INTERMEDIATE")
	}
	h.request, h.spiI, h.ni, h.nr = request, m.InitiatorSPI, nonce.Data, slices.Repeat([]byte{9}, 32)
	if h.spiR == 0 {
		h.spiR = 0x2222222222222222
	}
	mine, err := keys.NewResponder(ke.Method, random{h.b.rng})
	if err != nil {
		h.t.Fatal(err)
	}
	public, shared, err := mine.Answer(ke.Data)
	if err != nil {
		h.t.Fatal(err)
	}
	h.response = h.clear(wire.Header{Flags: wire.FlagResponse, ResponderSPI: h.spiR}, append(h.announced(), h.ikeSA(), &wire.KE{Method: ke.Method, Data: public}, &wire.Nonce{Data: h.nr})...)
	h.derive(shared)
	return h.give(h.response)
}

// intAuth is IntAuth_[i/r]A | IntAuth_[i/r]P of a message (RFC 9242, section 3.3.2), from its octets.
func (h *hybrid) intAuth(b []byte, c *keys.Cipher) []byte {
	h.t.Helper()
	m := h.parse(b)
	body := len(b) - len(m.SK.Body)
	plain, err := c.Open(b, body)
	if err != nil {
		h.t.Fatal(err)
	}
	a := bytes.Clone(b[:body])
	binary.BigEndian.PutUint32(a[24:], uint32(body+len(plain)))
	binary.BigEndian.PutUint16(a[body-2:], uint16(4+len(plain)))
	return append(a, plain...)
}

// covered takes both messages of an exchange into IntAuth, and the shared secret into the keys.
func (h *hybrid) covered(request, response []byte, shared policy.Secret) {
	h.t.Helper()
	i, r := h.in, h.out // the keys of the two directions open what either end sealed
	if h.initiator {
		i, r = h.out, h.in
	}
	h.renew(h.intAuth(request, i), h.intAuth(response, r), shared)
}

// renew is covered, of what the two messages are for IntAuth.
func (h *hybrid) renew(request, response []byte, shared policy.Secret) {
	h.t.Helper()
	h.authI = h.prf.Sum(h.keys.Pi.Reveal(), h.authI, request)
	h.authR = h.prf.Sum(h.keys.Pr.Reveal(), h.authR, response)
	h.done++
	gcm := policy.LookupKeyword("aes128gcm16").Transform()
	seed := policy.NewSecret(h.prf.Sum(h.keys.D.Reveal(), shared.Reveal(), h.ni, h.nr))
	var err error
	if h.keys, err = keys.DeriveIKE(h.prf, gcm, policy.Transform{}, seed, h.ni, h.nr, h.spiI, h.spiR); err != nil {
		h.t.Fatal(err)
	}
	ci, _ := keys.NewCipher(gcm, policy.Transform{}, h.keys.Ei, policy.Secret{})
	cr, _ := keys.NewCipher(gcm, policy.Transform{}, h.keys.Er, policy.Secret{})
	if h.out, h.in = cr, ci; h.initiator {
		h.out, h.in = ci, cr
	}
}

// add does an additional key exchange as initiator.
func (h *hybrid) add(method uint16) {
	h.t.Helper()
	mine, err := keys.NewInitiator(method, random{h.b.rng})
	if err != nil {
		h.t.Fatal(err)
	}
	public, _ := mine.Offer()
	request := h.next1(wire.ExchangeIKEIntermediate, &wire.KE{Method: method, Data: public})
	response := h.give(request)[0].Bytes
	if again := h.give(request); len(again) != 1 || !bytes.Equal(again[0].Bytes, response) {
		h.t.Error("a repeated request is not answered with the same octets, though the keys have changed")
	}
	_, inner := h.open(response)
	ke, ok := wire.Find[*wire.KE](inner, wire.PayloadKE)
	if !ok {
		h.t.Fatalf("key exchange %d is answered with %d payloads; %q", method, len(inner), h.b.log)
	}
	shared, err := mine.Finish(ke.Data)
	if err != nil {
		h.t.Fatal(err)
	}
	h.covered(request, response, shared)
}

// addAnswer answers the engine's; it returns what the engine sends then.
func (h *hybrid) addAnswer(request []byte) []ike.Send {
	h.t.Helper()
	m, inner := h.open(request)
	ke, ok := wire.Find[*wire.KE](inner, wire.PayloadKE)
	if !ok || m.Exchange != wire.ExchangeIKEIntermediate {
		h.t.Fatalf("%s with %d payloads is no key exchange", m.Exchange, len(inner))
	}
	r, err := keys.NewResponder(ke.Method, random{h.b.rng})
	if err != nil {
		h.t.Fatal(err)
	}
	answer, shared, err := r.Answer(ke.Data)
	if err != nil {
		h.t.Fatal(err)
	}
	response := h.seal(h.header(m.Exchange, true, m.MessageID), &wire.KE{Method: ke.Method, Data: answer})
	h.covered(request, response, shared)
	return h.give(response)
}

func (h *hybrid) signed(byInitiator bool, id *wire.ID) []byte {
	var out []byte
	if byInitiator {
		out = auth.SignedOctets(h.prf, h.request, h.nr, h.keys.Pi, id.Body())
	} else {
		out = auth.SignedOctets(h.prf, h.response, h.ni, h.keys.Pr, id.Body())
	}
	if h.forgets {
		return out
	}
	return binary.BigEndian.AppendUint32(slices.Concat(out, h.authI, h.authR), 1+h.done)
}

func (h *hybrid) proof(id *wire.ID) *wire.Auth {
	return &wire.Auth{Method: wire.AuthSharedKey, Data: auth.PSK(h.prf, policy.NewSecret([]byte(h.psk)), h.signed(h.initiator, id))}
}

// authenticate is IKE_AUTH as initiator. It checks the engine's AUTH, and says whether both believe.
func (h *hybrid) authenticate() bool {
	h.t.Helper()
	id := h.idPayload()
	got := h.ask(wire.ExchangeIKEAuth, id, h.proof(id), espSA(h.spi), ts(false, "10.2.0.0/16"), ts(true, "10.1.0.0/16"))
	idr, ok := wire.Find[*wire.ID](got, wire.PayloadIDr)
	proof, ok2 := wire.Find[*wire.Auth](got, wire.PayloadAUTH)
	return ok && ok2 && auth.VerifyPSK(h.prf, policy.NewSecret([]byte(h.psk)), h.signed(false, idr), proof.Data)
}

func TestAnInitiatorAddsKeyExchangesAndAuthenticatesOverThem(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel(pq))
	h := newHybrid(b)
	if !h.begin() {
		t.Fatalf("refused: %q", b.log)
	}
	for _, m := range h.methods {
		h.add(m)
	}
	if !h.authenticate() {
		t.Errorf("one does not believe the other: %q", b.log)
	}
	if sas, children := b.established(); sas != 1 || children != 1 {
		t.Errorf("%d IKE SAs with %d children", sas, children)
	}
	b.sound()
}

func TestAResponderAddsKeyExchangesAndAuthenticatesOverThem(t *testing.T) {
	t.Parallel()
	b, first := opening(t, pq)
	h := newHybrid(b)
	sends := h.answers(first)
	for range h.methods {
		sends = h.addAnswer(sends[0].Bytes)
	}
	m, inner := h.open(sends[0].Bytes)
	idi, ok := wire.Find[*wire.ID](inner, wire.PayloadIDi)
	proof, ok2 := wire.Find[*wire.Auth](inner, wire.PayloadAUTH)
	if !ok || !ok2 || m.MessageID != 3 || !auth.VerifyPSK(h.prf, policy.NewSecret([]byte(h.psk)), h.signed(true, idi), proof.Data) {
		t.Fatalf("IKE_AUTH does not cover what was exchanged: message %d", m.MessageID)
	}
	id := h.idPayload()
	h.reply(sends[0].Bytes, id, h.proof(id), espSA(h.spi), ts(false, "10.1.0.0/16"), ts(true, "10.2.0.0/16"))
	if sas, children := b.established(); sas != 1 || children != 1 {
		t.Errorf("%d IKE SAs with %d children: %q", sas, children, b.log)
	}
	b.sound()
}

// whole is a message for IntAuth as if it had not been sent in fragments.
func (h *hybrid) whole(header wire.Header, payloads ...wire.Payload) []byte {
	h.t.Helper()
	first, plain, err := wire.AppendPayloads(nil, payloads)
	if err != nil {
		h.t.Fatal(err)
	}
	b, err := wire.AppendEncryptedHeader(nil, header, first, len(plain))
	if err != nil {
		h.t.Fatal(err)
	}
	return append(b, plain...)
}

// The engine has other keys once it has answered. A question repeated in fragments, and the answer cut smaller for it, still have
// those of the question; AUTH covers both as if they had not been cut.
func TestAKeyExchangeInFragmentsIsRepeatedUnderItsOwnKeys(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel(pq))
	h := newHybrid(b)
	h.extra = []wire.Payload{knowsFragments}
	h.begin()
	mine, err := keys.NewInitiator(h.methods[0], random{b.rng})
	if err != nil {
		t.Fatal(err)
	}
	public, _ := mine.Offer()
	question, offer := h.header(wire.ExchangeIKEIntermediate, false, h.next), &wire.KE{Method: h.methods[0], Data: public}
	h.next++
	parts := h.fragments(question, 1190, offer)
	answer := h.giveAll(parts)
	before, total := h.gather(answer, 1280)
	for range 6 {
		again := h.give(parts[0])
		if len(again) < total {
			t.Fatalf("a question repeated is answered with %d datagrams, not %d", len(again), total)
		}
		inner, n := h.gather(again, 1280)
		if ke, ok := wire.Find[*wire.KE](inner, wire.PayloadKE); !ok || !bytes.Equal(ke.Data, before[0].(*wire.KE).Data) {
			t.Fatal("another answer")
		}
		total = max(total, n)
	}
	if total < 3 {
		t.Errorf("the answer is not cut smaller: %d fragments", total)
	}
	ke := before[0].(*wire.KE)
	shared, err := mine.Finish(ke.Data)
	if err != nil {
		t.Fatal(err)
	}
	response := h.header(wire.ExchangeIKEIntermediate, true, question.MessageID)
	response.Flags = wire.FlagResponse
	h.renew(h.whole(question, offer), h.whole(response, ke), shared)
	h.add(h.methods[1])
	if !h.authenticate() {
		t.Errorf("one does not believe the other: %q", b.log)
	}
	if sas, _ := b.established(); sas != 1 {
		t.Errorf("not established: %q", b.log)
	}
	b.sound()
}

// Each rule of the two RFCs that a peer may break: what it does, and what a machine without the rule would do.
func TestAPeerThatBreaksARuleOfAdditionalKeyExchangesIsRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		play    func(h *hybrid) bool // whether both believe
		says    string
		without func(*v2.Protocol)
	}{
		"AUTH does not cover the exchanges": {
			func(h *hybrid) bool {
				h.forgets = true
				h.begin()
				h.add(h.methods[0])
				h.add(h.methods[1])
				return h.authenticate()
			}, "another pre-shared key", func(p *v2.Protocol) { p.Mutate(v2.Uncovered) },
		},
		"the second exchange is left out": {
			func(h *hybrid) bool { h.begin(); h.add(h.methods[0]); return h.authenticate() },
			"leaves out a key exchange that was agreed on", func(p *v2.Protocol) { p.Mutate(v2.Optional) },
		},
		"IKE_INTERMEDIATE is not announced": {
			func(h *hybrid) bool { h.silent = true; return h.begin() }, "needs the exchange IKE_INTERMEDIATE", nil,
		},
		"another exchange than agreed on": {
			func(h *hybrid) bool {
				h.begin()
				return !has(h.ask(wire.ExchangeIKEIntermediate, &wire.KE{Method: policy.KEMLKEM1024, Data: make([]byte, 1568)}), wire.NotifyInvalidSyntax)
			}, "key exchange mlkem1024 is not the one agreed on", nil,
		},
		"an exchange too many": {
			func(h *hybrid) bool {
				h.begin()
				h.add(h.methods[0])
				h.add(h.methods[1])
				return !has(h.ask(wire.ExchangeIKEIntermediate, &wire.KE{Method: policy.KEX25519, Data: make([]byte, 32)}), wire.NotifyInvalidSyntax)
			}, "is not the one agreed on", nil,
		},
		"no encapsulation key": {
			func(h *hybrid) bool {
				h.begin()
				return !has(h.ask(wire.ExchangeIKEIntermediate, &wire.KE{Method: h.methods[0], Data: slices.Repeat([]byte{0xff}, 1184)}), wire.NotifyInvalidSyntax)
			}, "invalid key exchange data", nil,
		},
		"one method twice": {
			func(h *hybrid) bool { h.methods[1] = h.methods[0]; return h.begin() }, "no IKE proposal fits", nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, nil, tunnel(pq))
			if c.play(newHybrid(b)) {
				t.Error("it is believed")
			}
			if sas, _ := b.established(); sas != 0 || !b.said(c.says) {
				t.Errorf("%d IKE SAs; the log lacks %q: %q", sas, c.says, b.log)
			}
			b.sound()
			if c.without == nil {
				return
			}
			b = newBench(t, nil, tunnel(pq))
			c.without(b.v2)
			c.play(newHybrid(b))
			if sas, _ := b.established(); sas != 1 {
				t.Errorf("a machine without the rule refuses too: %q", b.log)
			}
		})
	}
}

// spoiltKeyExchanges are the ways in which a responder's answer to an additional key exchange ends its branch: alone, with another answer that
// was kept, and with another branch that was followed before.
func spoiltKeyExchanges(t *testing.T, count func(*bench)) {
	b := newBench(t, nil, tunnel(pq))
	h := newHybrid(b)
	h.begin()
	h.ask(wire.ExchangeIKEIntermediate, &wire.KE{Method: policy.KEX25519, Data: make([]byte, 32)})
	count(b)
	for _, spoil := range []func(h *hybrid, request []byte){
		func(h *hybrid, request []byte) {
			h.reply(request, &wire.KE{Method: policy.KEX25519, Data: make([]byte, 32)})
		},
		func(h *hybrid, request []byte) { h.reply(request, &wire.Notify{Type: wire.NotifyNoProposalChosen}) },
		func(h *hybrid, request []byte) { h.reply(request) },
		func(h *hybrid, request []byte) {
			h.reply(request, &wire.KE{Method: policy.KEMLKEM768, Data: make([]byte, 7)})
		},
	} {
		for _, others := range []int{0, 1, 2} {
			b, first := opening(t, pq)
			answer := func(spi uint64) (*hybrid, []ike.Send) {
				h := newHybrid(b)
				h.spiR = spi
				return h, h.answers(first)
			}
			h, sends := answer(61)
			request := to(sends, 61)
			if others > 0 {
				other, _ := answer(62)
				if others > 1 {
					h, request = other, to(b.wait(700*time.Millisecond), 62)
				}
			}
			if request == nil {
				t.Fatal("an answer is not followed")
			}
			spoil(h, request)
			count(b)
		}
	}
}
