package v2_test

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"coati/ike"
	"coati/ike/wire"
	"coati/policy"
)

var knowsFragments = &wire.Notify{Type: wire.NotifyIKEv2FragmentationSupported}

// fragmenter is a puppet that says it takes fragments.
func fragmenter(b *bench) *puppet {
	p := newPuppet(b)
	p.extra = []wire.Payload{knowsFragments}
	return p
}

// fragment seals one fragment of any content.
func (p *puppet) fragment(h wire.Header, first wire.PayloadType, number, total uint16, plain []byte) []byte {
	p.t.Helper()
	prefix, err := wire.AppendFragmentHeader(nil, h, first, number, total, p.out.SealedLen(len(plain)))
	if err != nil {
		p.t.Fatal(err)
	}
	b, err := p.out.Seal(random{p.b.rng}, prefix, plain)
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

// fragments seals a message in pieces of so many octets.
func (p *puppet) fragments(h wire.Header, size int, payloads ...wire.Payload) [][]byte {
	p.t.Helper()
	first, plain, err := wire.AppendPayloads(nil, payloads)
	if err != nil {
		p.t.Fatal(err)
	}
	var out [][]byte
	chunks := slices.Collect(slices.Chunk(plain, size))
	for i, c := range chunks {
		out = append(out, p.fragment(h, first, uint16(i+1), uint16(len(chunks)), c))
		first = 0
	}
	return out
}

func (p *puppet) giveAll(datagrams [][]byte) (sends []ike.Send) {
	for _, d := range datagrams {
		sends = append(sends, p.give(d)...)
	}
	return sends
}

// authPayloads are those of authenticate.
func (p *puppet) authPayloads() []wire.Payload {
	id := p.idPayload()
	return []wire.Payload{id, p.proof(id), espSA(p.spi), ts(false, "10.2.0.0/16"), ts(true, "10.1.0.0/16")}
}

// gather opens what the engine sent: one message, whole or in fragments, each no larger than an IP datagram of most octets.
func (p *puppet) gather(sends []ike.Send, most int) (payloads []wire.Payload, total int) {
	p.t.Helper()
	var first wire.PayloadType
	var plain []byte
	for i, s := range sends {
		m := p.parse(s.Bytes)
		if len(s.Bytes)+20+8+4 > most {
			p.t.Errorf("a datagram of %d octets where %d fit", len(s.Bytes)+32, most)
		}
		if m.SKF == nil {
			_, inner := p.open(s.Bytes)
			return inner, 1
		}
		if int(m.SKF.Number) != i+1 || int(m.SKF.Total) != len(sends) {
			p.t.Fatalf("fragment %d of %d stands at %d of %d", m.SKF.Number, m.SKF.Total, i+1, len(sends))
		}
		if (m.SKF.First == 0) != (i > 0) {
			p.t.Errorf("fragment %d names %v as its first payload (RFC 7383, section 2.5)", i+1, m.SKF.First)
		}
		if i == 0 {
			first = m.SKF.First
		}
		c, err := p.in.Open(s.Bytes, len(s.Bytes)-len(m.SKF.Body))
		if err != nil {
			p.t.Fatal(err)
		}
		plain = append(plain, c...)
	}
	payloads, err := wire.ParsePayloads(first, plain)
	if err != nil {
		p.t.Fatal(err)
	}
	return payloads, len(sends)
}

// forge changes one octet of a fragment and, where wanted, its number and total.
func forge(d []byte, number, total uint16) []byte {
	d = slices.Clone(d)
	d[len(d)-1] ^= 1
	binary.BigEndian.PutUint16(d[wire.HeaderLen+4:], number)
	binary.BigEndian.PutUint16(d[wire.HeaderLen+6:], total)
	return d
}

func TestFragmentsInAnyOrderAndForgedOnesBetween(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel())
	p := fragmenter(b).begin()
	if m := p.parse(p.response); wire.FindNotify(m.Payloads, wire.NotifyIKEv2FragmentationSupported) == nil {
		t.Fatal("the answer does not say that we take fragments")
	}
	parts := p.fragments(p.header(wire.ExchangeIKEAuth, false, 1), 40, p.authPayloads()...)
	slices.Reverse(parts)
	n := uint16(len(parts))
	for i, d := range parts[:n-1] {
		for _, f := range [][]byte{d, d, forge(d, n-uint16(i), n), forge(d, 1, n+1), forge(d, n, n), forge(d, 1, 1), forge(d, 1, n)} {
			if got := p.give(f); len(got) != 0 {
				t.Fatalf("fragment %d of %d is answered", i+1, n)
			}
		}
	}
	if got := p.give(parts[n-1]); len(got) != 1 {
		t.Fatalf("the whole is answered with %d datagrams: %q", len(got), b.log)
	}
	if sas, children := b.established(); sas != 1 || children != 1 || b.v2.Collecting() != 0 {
		t.Errorf("%d IKE SAs, %d children, %d octets kept", sas, children, b.v2.Collecting())
	}
	b.sound()
}

// RFC 7383, section 2.6: the receiver MUST discard what it has when it gets an authentic fragment of a greater total, and MUST discard those of a
// smaller one.
func TestAGreaterTotalReplacesWhatCameBefore(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel())
	p := fragmenter(b).begin()
	h := p.header(wire.ExchangeIKEAuth, false, 1)
	payloads := p.authPayloads()
	large, small := p.fragments(h, 60, payloads...), p.fragments(h, 30, payloads...)
	p.giveAll(large[:len(large)-1])
	p.give(small[0])
	if got := p.give(large[len(large)-1]); len(got) != 0 {
		t.Fatal("a set that was replaced is finished")
	}
	if got := p.giveAll(small[1:]); len(got) != 1 {
		t.Fatalf("the set that replaced it is answered with %d datagrams: %q", len(got), b.log)
	}
	b.sound()
}

// RFC 7383, section 2.6.1: only fragment 1 of a request that was served asks for its answer again; also if it was cut anew.
func TestOnlyTheFirstFragmentAsksForTheAnswerAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel())
	p := fragmenter(b).begin()
	h := p.header(wire.ExchangeIKEAuth, false, 1)
	payloads := p.authPayloads()
	parts, anew := p.fragments(h, 60, payloads...), p.fragments(h, 30, payloads...)
	answer := p.giveAll(parts)
	for _, set := range [][][]byte{parts, anew} {
		for i, d := range set {
			got := p.give(d)
			if (len(got) == 1) != (i == 0) {
				t.Errorf("fragment %d of %d is answered with %d datagrams", i+1, len(set), len(got))
			}
			if len(got) == 1 && !slices.Equal(got[0].Bytes, answer[0].Bytes) {
				t.Error("the answer is another one")
			}
		}
	}
	if got := p.give(forge(parts[0], 1, uint16(len(parts)))); len(got) != 0 {
		t.Error("a forged fragment 1 is answered")
	}
	b.sound()
}

func TestFragmentsAreNotTakenUnlessBothEndsSaySo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name        string
		peer, we    bool
		wantNotify  bool
		wantAnswers int
	}{{"both", true, true, true, 1}, {"the peer does not", false, true, false, 0}, {"we do not", true, false, false, 0}} {
		b := newBench(t, nil, tunnel(func(tt *policy.PeerTunnel) {
			if !c.we {
				tt.FragmentSize = -1
			}
		}))
		p := newPuppet(b)
		if c.peer {
			p = fragmenter(b)
		}
		p.begin()
		if m := p.parse(p.response); (wire.FindNotify(m.Payloads, wire.NotifyIKEv2FragmentationSupported) != nil) != c.wantNotify {
			t.Errorf("%s: our answer says otherwise", c.name)
		}
		if got := p.giveAll(p.fragments(p.header(wire.ExchangeIKEAuth, false, 1), 60, p.authPayloads()...)); len(got) != c.wantAnswers {
			t.Errorf("%s: fragments are answered with %d datagrams, want %d", c.name, len(got), c.wantAnswers)
		}
		b.sound()
	}
}

// A fragment bomb: what claims more fragments, or has more octets, than any message ends, and nothing stays; neither before nor after
// the peer has said who it is.
func TestAFragmentBomb(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name        string
		number      int
		total, size int
		live        bool
	}{
		{"too many fragments", 1, 65535, 100, false},
		{"too many octets", 60, 60, 1200, false},
		{"empty ones", 65535, 65535, 0, false},
		{"too many fragments, authenticated", 1, 65535, 100, true},
		{"too many octets, authenticated", 60, 60, 1200, true},
	} {
		b := newBench(t, nil, tunnel())
		p := fragmenter(b).begin()
		ex := wire.ExchangeIKEAuth
		if c.live {
			p.authenticate()
			ex = wire.ExchangeInformational
		}
		h := p.header(ex, false, p.next)
		for i := range c.number {
			p.give(p.fragment(h, wire.PayloadNotify, uint16(i+1), uint16(c.total), make([]byte, c.size)))
		}
		if sas, _ := b.established(); sas != 0 || b.v2.Collecting() != 0 || len(b.larval) != 0 {
			t.Errorf("%s: %d IKE SAs, %d octets and %d SPIs are left", c.name, sas, b.v2.Collecting(), len(b.larval))
		}
		if !b.said("in more fragments than any message has") {
			t.Errorf("%s: the log does not explain it: %q", c.name, b.log)
		}
		b.sound()
	}
}

// Peers that are not authenticated share one bound; what one holds is given back when it is given up.
func TestPeersNotAuthenticatedShareABound(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(l *ike.Limits) { l.FragmentOctetsHalfOpen = 5000 }, tunnel())
	for i := range 5 {
		p := fragmenter(b)
		p.spiI += uint64(i)
		p.begin()
		for k := range uint16(3) {
			p.give(p.fragment(p.header(wire.ExchangeIKEAuth, false, 1), wire.PayloadIDi, k+1, 9, make([]byte, 1000)))
		}
	}
	if n := b.v2.Collecting(); n != 5000 {
		t.Errorf("%d octets are kept, want 5000", n)
	}
	b.wait(time.Minute)
	if n := b.v2.Collecting(); n != 0 {
		t.Errorf("%d octets are kept for peers that were given up", n)
	}
	b.sound()
}

func TestAnUnfinishedMessageIsForgotten(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel(func(tt *policy.PeerTunnel) { tt.DPD = 0 }))
	p := fragmenter(b).begin()
	p.authenticate()
	parts := p.fragments(p.header(wire.ExchangeInformational, false, p.next), 20, &wire.Notify{Type: wire.NotifyAuthLifetime, Data: make([]byte, 80)})
	p.giveAll(parts[:len(parts)-1])
	b.wait(time.Minute)
	if got := p.give(parts[len(parts)-1]); len(got) != 0 {
		t.Error("fragments of a minute ago are still there")
	}
	if got := p.giveAll(parts[:len(parts)-1]); len(got) != 1 {
		t.Errorf("the message sent again is answered with %d datagrams", len(got))
	}
	b.sound()
}

// ours is an engine's large request: IKE_AUTH with a child of many selectors.
func ours(size int) func(*policy.PeerTunnel) {
	return func(tt *policy.PeerTunnel) {
		tt.Start, tt.FragmentSize = policy.StartNow, size
		tt.Children = slices.Clone(tt.Children)
		tt.Children[0].Local = nil
		for i := range 120 {
			tt.Children[0].Local = append(tt.Children[0].Local, selectors(fmt.Sprintf("10.1.0.%d/32", 2*i))...)
		}
	}
}

// RFC 7383, section 2.5.2: without an answer a message is cut smaller, so that its total grows, and the timers start over; the
// exchange still ends when nobody ever answers.
func TestAMessageWithoutAnswerIsCutSmaller(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		size   int
		totals []int
		most   []int
	}{
		{"by default", 0, []int{2, 5}, []int{1280, 576}},
		{"from 4000 on", 4000, []int{1, 2, 5}, []int{4000, 1280, 576}},
		{"from 576 on", 576, []int{5}, []int{576}},
	} {
		b := newBench(t, nil, tunnel(ours(c.size)))
		p := fragmenter(b)
		sends := p.answerFirst(b.wait(time.Second)[0].Bytes)
		t.Run(c.name, func(t *testing.T) {
			var totals []int
			for _, set := range sets(t, p, append(sends, b.wait(3*time.Minute)...)) {
				if len(totals) == 0 || totals[len(totals)-1] != len(set) {
					totals = append(totals, len(set))
				}
				p.gather(set, c.most[len(totals)-1])
			}
			if !slices.Equal(totals, c.totals) {
				t.Errorf("it is sent in %v fragments, want %v", totals, c.totals)
			}
			if !b.said("no answer") {
				t.Errorf("it is never given up: %q", b.log)
			}
			b.sound()
		})
	}
}

// sets divides the datagrams of IKE_AUTH requests into messages.
func sets(t *testing.T, p *puppet, sends []ike.Send) (out [][]ike.Send) {
	t.Helper()
	for _, s := range sends {
		m := p.parse(s.Bytes)
		if m.Exchange != wire.ExchangeIKEAuth {
			continue
		}
		if m.SKF == nil || m.SKF.Number == 1 {
			out = append(out, nil)
		}
		out[len(out)-1] = append(out[len(out)-1], s)
	}
	return out
}

// The answer may be what is too large for the path: a peer that asks again and again gets it in smaller pieces.
func TestAnAnswerAskedForAgainIsCutSmaller(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel(func(tt *policy.PeerTunnel) { ours(0)(tt); tt.Start = policy.StartListen }))
	p := fragmenter(b).begin()
	id := p.idPayload()
	ask := p.next1(wire.ExchangeIKEAuth, id, p.proof(id), espSA(p.spi), ts(false, "10.2.0.0/16"), ts(true, "10.1.0.0/16"))
	want, n := p.gather(p.give(ask), 1280)
	if n != 2 {
		t.Fatalf("the answer comes in %d fragments, want 2", n)
	}
	p.give(ask)
	got, n := p.gather(p.give(ask), 576)
	if n != 5 || len(got) != len(want) {
		t.Errorf("it comes in %d fragments with %d payloads, want 5 and %d", n, len(got), len(want))
	}
	b.sound()
}

// A peer that holds the keys, authenticated or not, sends fragments of any kind: bounded, no fault, and nothing stays.
func FuzzFragments(f *testing.F) {
	f.Add([]byte{0, 0, 1, 0, 2, 5, 1, 2, 3, 4, 5, 0, 0, 2, 0, 2, 0}, false)
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 200}, true)
	f.Add([]byte{3, 0, 1, 0, 3, 9, 41, 0, 0, 8, 0, 0, 0x40, 1, 7, 3, 0, 1, 0, 4, 9, 4, 2, 0, 2, 0, 3, 1}, true)
	f.Fuzz(func(t *testing.T, data []byte, live bool) {
		b := newBench(t, func(l *ike.Limits) { l.FragmentOctets, l.Fragments, l.FragmentOctetsHalfOpen = 2000, 20, 3000 }, tunnel())
		p := fragmenter(b).begin()
		ex := wire.ExchangeIKEAuth
		if live {
			p.authenticate()
			ex = wire.ExchangeInformational
		}
		for n := 0; len(data) >= 6 && n < 64; n++ {
			control, number, total, size := data[0], binary.BigEndian.Uint16(data[1:]), binary.BigEndian.Uint16(data[3:]), int(data[5])*4
			content := data[6:min(len(data), 6+size)]
			data = data[6+len(content):]
			if number == 0 || number > total {
				continue
			}
			h := p.header(ex, control&8 != 0, p.next+uint32(control>>4&1))
			d := p.fragment(h, wire.PayloadType(control&1)*wire.PayloadNotify, number, total, append(slices.Clone(content), make([]byte, size-len(content))...))
			if control&2 != 0 {
				d[len(d)-1] ^= 1
			}
			if got := p.give(d); len(got) > 0 && control&8 == 0 {
				p.next++
			}
			if control&4 != 0 {
				b.wait(time.Second)
			}
			if n := b.v2.Collecting(); n > 3000 || live && n != 0 {
				t.Fatalf("%d octets are kept", n)
			}
		}
		for what := range b.v2.Strayed {
			t.Error("a transition the table does not allow:", what)
		}
		b.event(ike.Shutdown{})
		b.wait(5 * time.Minute)
		if !b.eng.Idle() || len(b.sas) != 0 || len(b.larval) != 0 || b.v2.Collecting() != 0 || b.fault != nil {
			t.Errorf("left behind: %d SAs, %d SPIs, %d octets of fragments: %v", len(b.sas), len(b.larval), b.v2.Collecting(), b.fault)
		}
	})
}
