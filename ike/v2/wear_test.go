package v2_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"coati/ike"
	"coati/ike/v2"
	"coati/ike/wire"
	"coati/policy"
)

// RFC 7296, section 2.2: message IDs do not start again. The IKE SA is rekeyed while some are left, in either direction.
func TestMessageIDsAreNeverUsedTwice(t *testing.T) {
	t.Parallel()
	rekeys := func(p *puppet, sends []ike.Send) bool {
		return slices.ContainsFunc(sends, func(s ike.Send) bool {
			m, inner := p.open(s.Bytes)
			sa, ok := wire.Find[*wire.SA](inner, wire.PayloadSA)
			return m.Exchange == wire.ExchangeCreateChildSA && ok && sa.Proposals[0].Protocol == wire.ProtocolIKE
		})
	}
	// The peer has used nearly all of its own.
	b := newBench(t, nil, tunnel())
	p := up(b)
	v2.SetMessageIDs(b.machines[0], 1, math.MaxUint32-1<<16-1)
	p.next = math.MaxUint32 - 1<<16 - 1
	p.ask(wire.ExchangeInformational)
	if rekeys(p, b.wait(3*time.Second)) {
		t.Error("rekeyed before it must be")
	}
	p.ask(wire.ExchangeInformational)
	if !rekeys(p, b.wait(3*time.Second)) {
		t.Error("not rekeyed for want of the peer's message IDs")
	}
	b.sound()
	// It goes on to the end: the last one is served, and nothing after it.
	b = newBench(t, nil, tunnel())
	p = up(b)
	v2.SetMessageIDs(b.machines[0], 1, math.MaxUint32-1)
	p.next = math.MaxUint32 - 1
	for range 2 {
		if p.ask(wire.ExchangeInformational) == nil {
			t.Error("a request is not answered")
		}
	}
	if p.next != 0 {
		t.Fatal("the puppet does not wrap")
	}
	if got := p.ask(wire.ExchangeInformational, &wire.Delete{Protocol: wire.ProtocolIKE}); got != nil {
		t.Errorf("message ID 0 is served a second time: %v", got)
	}
	if sas, _ := b.established(); sas != 1 {
		t.Errorf("%d IKE SAs", sas)
	}
	b.sound()
	// Ours: rekeyed in time, and if the peer refuses for ever closed before one is used again.
	b = newBench(t, nil, tunnel(func(tt *policy.PeerTunnel) { tt.DPD = 5 * time.Second }))
	p = up(b)
	v2.SetMessageIDs(b.machines[0], math.MaxUint32-1<<16, 2)
	sends := b.wait(6 * time.Second)
	p.reply(sends[0].Bytes)
	if !rekeys(p, b.wait(3*time.Second)) {
		t.Error("not rekeyed for want of our message IDs")
	}
	b.sound()
	b = newBench(t, nil, tunnel(func(tt *policy.PeerTunnel) { tt.DPD = 5 * time.Second }))
	p = up(b)
	v2.SetMessageIDs(b.machines[0], math.MaxUint32-3, 2)
	for range 10 {
		for _, s := range b.wait(6 * time.Second) {
			m, inner := p.open(s.Bytes)
			if m.MessageID < math.MaxUint32-3 {
				t.Fatalf("message ID %d is used", m.MessageID)
			}
			var answer []wire.Payload
			if len(inner) > 0 {
				answer = append(answer, &wire.Notify{Type: wire.NotifyTemporaryFailure})
			}
			p.reply(s.Bytes, answer...)
		}
	}
	if sas, _ := b.established(); sas != 0 || !b.said("no message ID left") {
		t.Errorf("%d IKE SAs without message IDs: %q", sas, b.log)
	}
	b.sound()
}

// The packet that asks for a tunnel stands first in both selectors' lists (section 2.9); what a peer answers that has the
// whole nets is the whole nets.
func TestThePacketComesFirstInTheSelectors(t *testing.T) {
	t.Parallel()
	web := policy.Flow{Src: here, Dst: there, Protocol: 6, SrcPort: 40000, DstPort: 443, HasPorts: true}
	web.Src, web.Dst = selectors("10.1.2.3")[0].Start, selectors("10.2.3.4")[0].Start
	ping := policy.Flow{Src: web.Src, Dst: web.Dst, Protocol: 1, SrcPort: 8 << 8, DstPort: 8 << 8, HasPorts: true}
	stray := web
	stray.Dst = there // not the child's
	for name, c := range map[string]struct {
		flow          policy.Flow
		local, remote []policy.Selector
	}{
		"tcp":         {web, selectors("10.1.2.3[tcp/40000]", "10.1.0.0/16"), selectors("10.2.3.4[tcp/443]", "10.2.0.0/16")},
		"icmp":        {ping, selectors("10.1.2.3[icmp]", "10.1.0.0/16"), selectors("10.2.3.4[icmp]", "10.2.0.0/16")},
		"another net": {stray, selectors("10.1.0.0/16"), selectors("10.2.0.0/16")},
		"no packet":   {policy.Flow{}, selectors("10.1.0.0/16"), selectors("10.2.0.0/16")},
	} {
		for _, answers := range []string{"nets", "both", "packet"} {
			b := newBench(t, nil, tunnel(func(tt *policy.PeerTunnel) { tt.Start = policy.StartOnDemand }))
			first := b.event(ike.Acquire{Policy: 1, Flow: c.flow})
			p := newPuppet(b)
			auth := p.answerFirst(first[0].Bytes)
			_, inner := p.open(auth[0].Bytes)
			ti, _ := wire.Find[*wire.TS](inner, wire.PayloadTSi)
			tr, _ := wire.Find[*wire.TS](inner, wire.PayloadTSr)
			if got := fromWire(ti); !slices.Equal(got, c.local) {
				t.Errorf("%s: TSi %v, want %v", name, got, c.local)
			}
			if got := fromWire(tr); !slices.Equal(got, c.remote) {
				t.Errorf("%s: TSr %v, want %v", name, got, c.remote)
			}
			id, n := p.idPayload(), len(ti.Selectors)
			from := map[string]int{"nets": n - 1, "both": 0, "packet": 0}[answers]
			to := map[string]int{"nets": n, "both": n, "packet": 1}[answers]
			p.reply(auth[0].Bytes, id, p.proof(id), espSA(p.spi), &wire.TS{Selectors: ti.Selectors[from:to]}, &wire.TS{Responder: true, Selectors: tr.Selectors[from:to]})
			st := b.eng.Status()[0].SAs
			if len(st) != 1 || len(st[0].Children) != 1 {
				t.Errorf("%s, %s: not up: %q", name, answers, b.log)
				continue
			}
			wantL, wantR := c.local[n-1:], c.remote[n-1:]
			if answers == "packet" {
				wantL, wantR = c.local[:1], c.remote[:1]
			}
			if ch := st[0].Children[0]; !slices.Equal(ch.Local, wantL) || !slices.Equal(ch.Remote, wantR) {
				t.Errorf("%s: the peer answers %s, the child has %v <-> %v", name, answers, ch.Local, ch.Remote)
			}
			// A rekey is about all that is configured.
			sends := b.event(ike.Command{ID: 9, Verb: ike.Rekey, Tunnel: "t", Child: "lan"})
			_, inner = p.open(sends[0].Bytes)
			if ti, _ = wire.Find[*wire.TS](inner, wire.PayloadTSi); !slices.Equal(fromWire(ti), selectors("10.1.0.0/16")) {
				t.Errorf("%s: rekeyed with %v", name, fromWire(ti))
			}
			b.sound()
		}
	}
	// As responder, we answer with the nets.
	b := newBench(t, nil, tunnel())
	p := newPuppet(b).begin()
	id := p.idPayload()
	got := p.ask(wire.ExchangeIKEAuth, id, p.proof(id), espSA(1), ts(false, "10.2.3.4[tcp/40000]", "10.2.0.0/16"), ts(true, "10.1.2.3[tcp/22]", "10.1.0.0/16"))
	ti, ok1 := wire.Find[*wire.TS](got, wire.PayloadTSi)
	tr, ok2 := wire.Find[*wire.TS](got, wire.PayloadTSr)
	if !ok1 || !ok2 || !slices.Equal(fromWire(ti), selectors("10.2.0.0/16")) || !slices.Equal(fromWire(tr), selectors("10.1.0.0/16")) {
		t.Errorf("answered with %v", got)
	}
	b.sound()
}

func fromWire(ts *wire.TS) []policy.Selector {
	var out []policy.Selector
	for _, s := range ts.Selectors {
		out = append(out, policy.Selector{Protocol: s.Protocol, StartPort: s.StartPort, EndPort: s.EndPort, Start: s.Start, End: s.End})
	}
	return out
}
