package v2_test

import (
	"testing"
	"time"

	"coati/ike/auth"
	"coati/ike/keys"
	v2 "coati/ike/v2"
	"coati/ike/wire"
	"coati/policy"
)

// ppk gives a tunnel a post-quantum pre-shared key.
func ppk(id, key string, required bool) func(*policy.PeerTunnel) {
	return func(tt *policy.PeerTunnel) {
		tt.PPKID, tt.PPK, tt.PPKRequired = id, policy.NewSecret([]byte(key)), required
	}
}

// passed are the puppet's keys after a PPK, by the formula of RFC 8784, section 3.
func (p *puppet) passed(key string) keys.IKEKeys {
	p.t.Helper()
	k := p.keys
	for _, s := range []*policy.Secret{&k.D, &k.Pi, &k.Pr} {
		*s = policy.NewSecret(p.prf.Sum([]byte(key), s.Reveal(), []byte{1}))
	}
	return k
}

// namesPPK is IKE_AUTH as initiator with a PPK; alone leaves NO_PPK_AUTH out.
func (p *puppet) namesPPK(id, key string, alone bool) []wire.Payload {
	p.t.Helper()
	me := p.idPayload()
	without := p.proof(me).Data
	p.keys = p.passed(key)
	payloads := append([]wire.Payload{me, p.proof(me), &wire.Notify{Type: wire.NotifyPPKIdentity, Data: append([]byte{2}, id...)}}, p.authPayloads()[2:]...)
	if !alone {
		payloads = append(payloads, &wire.Notify{Type: wire.NotifyNoPPKAuth, Data: without})
	}
	return p.ask(wire.ExchangeIKEAuth, payloads...)
}

var usePPK = &wire.Notify{Type: wire.NotifyUsePPK}

// Table 1 of RFC 8784, and what a responder without a rule would do.
func TestAResponderUsesAPPKAsTheTableSays(t *testing.T) {
	t.Parallel()
	type want struct {
		up, used bool
		says     string
	}
	for name, c := range map[string]struct {
		has         func(*policy.PeerTunnel)
		says, alone bool // USE_PPK; no NO_PPK_AUTH
		id, key     string
		want        want
		without     func(*v2.Protocol)
	}{
		"nobody has one":               {has: func(*policy.PeerTunnel) {}, want: want{up: true}},
		"the responder may use one":    {has: ppk("x", "key", false), want: want{up: true}},
		"the responder must use one":   {has: ppk("x", "key", true), want: want{says: "does not use the post-quantum pre-shared key that tunnel t requires"}, without: func(p *v2.Protocol) { p.Mutate(v2.PPKOptional) }},
		"both, the initiator must":     {has: ppk("x", "key", false), says: true, alone: true, id: "x", key: "key", want: want{up: true, used: true}},
		"both, both may":               {has: ppk("x", "key", false), says: true, id: "x", key: "key", want: want{up: true, used: true}},
		"both, the responder must":     {has: ppk("x", "key", true), says: true, id: "x", key: "key", want: want{up: true, used: true}},
		"another name, both may":       {has: ppk("x", "key", false), says: true, id: "y", key: "key", want: want{up: true}},
		"another name, initiator must": {has: ppk("x", "key", false), says: true, alone: true, id: "y", key: "key", want: want{says: "has the post-quantum pre-shared key that the peer requires"}},
		"another name, responder must": {has: ppk("x", "key", true), says: true, id: "y", key: "key", want: want{says: "requires: see ppk-required"}, without: func(p *v2.Protocol) { p.Mutate(v2.PPKOptional) }},
		"another key of that name":     {has: ppk("x", "key", false), says: true, id: "x", key: "wrong", want: want{says: "another pre-shared key"}},
		"USE_PPK, and then no name":    {has: ppk("x", "key", false), says: true, want: want{says: "does not name it"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			play := func(mutate func(*v2.Protocol)) (*bench, *puppet, []wire.Payload) {
				b := newBench(t, nil, tunnel(c.has))
				if mutate != nil {
					mutate(b.v2)
				}
				p := newPuppet(b)
				if c.says {
					p.extra = []wire.Payload{usePPK}
				}
				p.begin()
				if c.id == "" {
					return b, p, p.authenticate()
				}
				before := p.keys
				got := p.namesPPK(c.id, c.key, c.alone)
				if !has(got, wire.NotifyPPKIdentity) {
					p.keys = before
				}
				return b, p, got
			}
			b, p, got := play(nil)
			sas, _ := b.established()
			if up := sas == 1; up != c.want.up || has(got, wire.NotifyPPKIdentity) != c.want.used || c.want.says != "" && !b.said(c.want.says) {
				t.Errorf("up %v, PPK_IDENTITY %v; the log lacks %q: %q", up, has(got, wire.NotifyPPKIdentity), c.want.says, b.log)
			}
			if c.want.up {
				idr, _ := wire.Find[*wire.ID](got, wire.PayloadIDr)
				proof, _ := wire.Find[*wire.Auth](got, wire.PayloadAUTH)
				signed := auth.SignedOctets(p.prf, p.response, p.ni, p.keys.Pr, idr.Body())
				if !auth.VerifyPSK(p.prf, policy.NewSecret([]byte(p.psk)), signed, proof.Data) {
					t.Error("the responder's AUTH is not of the keys in use")
				}
				p.childKeysAreOf(b)
			}
			b.sound()
			if c.without != nil {
				b, _, _ := play(c.without)
				if sas, _ := b.established(); sas != 1 {
					t.Errorf("a machine without the rule refuses too: %q", b.log)
				}
			}
		})
	}
}

// childKeysAreOf checks that the first child's keys come of the puppet's SK_d.
func (p *puppet) childKeysAreOf(b *bench) {
	p.t.Helper()
	keymat, err := p.prf.Plus(p.keys.D.Reveal(), 40, p.ni, p.nr)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, sa := range b.sas {
		want := keymat[20:]
		if (sa.Direction == policy.Inbound) == p.initiator { // from the initiator
			want = keymat[:20]
		}
		if string(sa.EncryptionKey.Reveal()) != string(want) {
			p.t.Error("a child's keys are not of the SK_d in use")
		}
	}
	if len(b.sas) != 2 {
		p.t.Errorf("%d SAs", len(b.sas))
	}
}

// An initiator with a PPK, and responders that have it, do not have it, or do not know of such keys.
func TestAnInitiatorUsesAPPKOrGoesOnWithout(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		required, says, uses, up bool
		log                      string
	}{
		"optional, the responder has it":        {says: true, uses: true, up: true},
		"required, the responder has it":        {required: true, says: true, uses: true, up: true},
		"optional, the responder lacks it":      {says: true, up: true},
		"required, the responder lacks it":      {required: true, says: true, log: "which the tunnel requires: see ppk-required"},
		"optional, the responder knows nothing": {up: true},
		"required, the responder knows nothing": {required: true, log: "which the tunnel requires: see ppk-required"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, first := opening(t, ppk("x", "key", c.required))
			p := newPuppet(b)
			if !has(p.parse(first).Payloads, wire.NotifyUsePPK) {
				t.Error("no USE_PPK")
			}
			if c.says {
				p.extra = []wire.Payload{usePPK}
			}
			sends := p.answerFirst(first)
			if c.required && !c.says {
				if b.wait(20 * time.Second); !b.said(c.log) {
					t.Errorf("the log lacks %q: %q", c.log, b.log)
				}
				return
			}
			_, inner := p.open(sends[0].Bytes)
			named, without := wire.FindNotify(inner, wire.NotifyPPKIdentity), wire.FindNotify(inner, wire.NotifyNoPPKAuth)
			if (named != nil) != c.says || (without != nil) != (c.says && !c.required) || named != nil && string(named.Data) != "\x02x" {
				t.Fatalf("PPK_IDENTITY %v, NO_PPK_AUTH %v", named, without)
			}
			idi, _ := wire.Find[*wire.ID](inner, wire.PayloadIDi)
			proof, _ := wire.Find[*wire.Auth](inner, wire.PayloadAUTH)
			proves := func(k keys.IKEKeys, data []byte) bool {
				return auth.VerifyPSK(p.prf, policy.NewSecret([]byte(p.psk)), auth.SignedOctets(p.prf, p.request, p.nr, k.Pi, idi.Body()), data)
			}
			if k := p.passed("key"); c.says && !proves(k, proof.Data) || !c.says && !proves(p.keys, proof.Data) || without != nil && !proves(p.keys, without.Data) {
				t.Error("AUTH or NO_PPK_AUTH is of other keys")
			}
			var extra []wire.Payload
			if c.uses {
				p.keys = p.passed("key")
				extra = []wire.Payload{&wire.Notify{Type: wire.NotifyPPKIdentity}}
			}
			id := p.idPayload()
			p.reply(sends[0].Bytes, append(extra, id, p.proof(id), espSA(p.spi), ts(false, "10.1.0.0/16"), ts(true, "10.2.0.0/16"))...)
			b.wait(5 * time.Second)
			if sas, _ := b.established(); (sas == 1) != c.up || c.log != "" && !b.said(c.log) {
				t.Errorf("%d IKE SAs; the log lacks %q: %q", sas, c.log, b.log)
			}
			if c.up {
				p.childKeysAreOf(b)
			}
			b.sound()
		})
	}
}
