package v2_test

import (
	"bytes"
	"math"
	"slices"
	"testing"
	"time"

	"coati/ike"
	"coati/ike/wire"
	"coati/policy"
)

func TestARepeatedRequestGetsTheSameOctetsAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel())
	p := up(b)
	request := p.next1(wire.ExchangeInformational)
	first := p.give(request)
	for range 3 {
		again := p.give(request)
		if len(again) != 1 || !bytes.Equal(again[0].Bytes, first[0].Bytes) {
			t.Fatalf("repeated: %d answers", len(again))
		}
	}
	if taken := b.v2.Taken["peer informs or asks whether we live"]; taken != 1 {
		t.Errorf("the request was served %d times", taken)
	}
	b.sound()
}

func TestARepeatedFirstRequestAndAuthGetTheirAnswersAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel())
	p := newPuppet(b).begin()
	if again := p.give(p.request); len(again) != 1 || !bytes.Equal(again[0].Bytes, p.response) {
		t.Errorf("IKE_SA_INIT repeated: %d answers", len(again))
	}
	id := p.idPayload()
	auth := p.next1(wire.ExchangeIKEAuth, id, p.proof(id), espSA(p.spi), ts(false, "10.2.0.0/16"), ts(true, "10.1.0.0/16"))
	first := p.give(auth)
	if again := p.give(auth); len(again) != 1 || !bytes.Equal(again[0].Bytes, first[0].Bytes) {
		t.Errorf("IKE_AUTH repeated: %d answers", len(again))
	}
	if sas, children := b.established(); sas != 1 || children != 1 {
		t.Errorf("%d IKE SAs, %d children", sas, children)
	}
	b.sound()
}

func TestARepeatedRequestFromElsewhereGetsNoMoreThanItSent(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel())
	p := up(b)
	request := p.next1(wire.ExchangeInformational) // as small as its answer
	p.give(request)
	path := p.path
	path.Remote = path.Local // any other address
	small := b.event(ike.Datagram{Path: path, Bytes: request})
	if len(small) != 1 || len(small[0].Bytes) > len(request) {
		t.Errorf("%d answers", len(small))
	}
	large := p.next1(wire.ExchangeCreateChildSA, espSA(9), &wire.Nonce{Data: make([]byte, 16)}, ts(false, "10.2.0.0/16"), ts(true, "10.1.0.0/16"))
	p.give(large)
	for _, s := range b.event(ike.Datagram{Path: path, Bytes: large}) {
		if s.Path.Remote == path.Remote && len(s.Bytes) > len(large) {
			t.Errorf("an address that was not proven gets %d octets for %d", len(s.Bytes), len(large))
		}
	}
}

func TestOnlyTheNextMessageIDIsServed(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel())
	p := up(b) // 0 and 1 are over
	for _, id := range []uint32{0, 1, 3, 4, 100, math.MaxInt32, math.MaxUint32 - 1, math.MaxUint32} {
		if sends := p.give(p.seal(p.header(wire.ExchangeInformational, false, id))); len(sends) != 0 {
			t.Errorf("message ID %d is answered", id)
		}
	}
	// A response to nothing.
	for _, id := range []uint32{0, 1, 2, math.MaxUint32} {
		if sends := p.give(p.seal(p.header(wire.ExchangeInformational, true, id))); len(sends) != 0 {
			t.Errorf("a response with message ID %d is answered", id)
		}
	}
	if p.ask(wire.ExchangeInformational) == nil {
		t.Error("the next request is not answered")
	}
	b.sound()
}

func TestAnAnswerOfAnotherExchangeIsNotTaken(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel())
	p := up(b)
	sends := b.event(ike.Command{ID: 1, Verb: ike.Rekey, Tunnel: "t"})
	m := p.parse(sends[0].Bytes)
	p.give(p.seal(p.header(wire.ExchangeInformational, true, m.MessageID)))
	p.give(p.seal(p.header(wire.ExchangeCreateChildSA, true, m.MessageID+1)))
	if _, done := b.replies[1]; done {
		t.Error("an answer to something else ended the rekey")
	}
	if sas, _ := b.established(); sas != 1 {
		t.Errorf("%d IKE SAs", sas)
	}
	again := b.wait(time.Second)
	if len(again) == 0 || !bytes.Equal(again[0].Bytes, sends[0].Bytes) {
		t.Error("the request is not repeated as it was")
	}
	b.sound()
}

func TestRequestsAreRepeatedWithGrowingPausesAndGivenUp(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel())
	b.eng.Status()
	b.event(ike.Configure{Tunnels: []policy.PeerTunnel{tunnel(func(t *policy.PeerTunnel) { t.Start = policy.StartOnDemand })}})
	first := b.event(ike.Command{ID: 1, Verb: ike.Up, Tunnel: "t"})
	var at []time.Duration
	began := b.now
	for range 100 {
		d := b.eng.Deadline()
		if d.IsZero() {
			break
		}
		b.now = d
		for _, s := range b.event(ike.Timer{}) {
			if !bytes.Equal(s.Bytes, first[0].Bytes) {
				t.Fatal("the request changed")
			}
			at = append(at, b.now.Sub(began))
		}
	}
	if len(at) != 7 {
		t.Fatalf("repeated %d times", len(at))
	}
	gaps := []time.Duration{at[0]}
	for i := 1; i < len(at); i++ {
		gaps = append(gaps, at[i]-at[i-1])
	}
	if !slices.IsSorted(gaps) || gaps[0] < 500*time.Millisecond || gaps[6] < 12*time.Second || gaps[6] > 14*time.Second {
		t.Errorf("pauses %v", gaps)
	}
	if b.replies[1] == nil {
		t.Error("nobody was told")
	}
}

func TestWhatComesWhileAJobIsOpen(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel())
	p := up(b)
	// Our own rekey is out, and the peer's request needs a key exchange.
	ours := b.event(ike.Command{ID: 1, Verb: ike.Rekey, Tunnel: "t"})
	b.hold = true
	theirs := p.next1(wire.ExchangeCreateChildSA, rekeySA(0x3333333333333333), &wire.Nonce{Data: bytes.Repeat([]byte{0xff}, 32)}, p.keyExchange())
	if sends := p.give(theirs); len(sends) != 0 {
		t.Fatal("answered without the key exchange")
	}
	for range 3 {
		if sends := p.give(theirs); len(sends) != 0 {
			t.Fatal("a repeated request is answered before it was served")
		}
	}
	if len(b.held) != 1 {
		t.Fatalf("%d jobs for one request", len(b.held))
	}
	// The next request has to wait for the answer to this one.
	if sends := p.give(p.seal(p.header(wire.ExchangeInformational, false, p.next))); len(sends) != 0 {
		t.Error("a second request is served")
	}
	// The answer to ours is kept until the peer's request has been served.
	m := p.parse(ours[0].Bytes)
	p.give(p.seal(p.header(m.Exchange, true, m.MessageID), &wire.Notify{Type: wire.NotifyTemporaryFailure}))
	if _, done := b.replies[1]; done {
		t.Error("the answer was used while the peer's request was open")
	}
	sends := b.release()
	if len(sends) == 0 || p.parse(sends[0].Bytes).Flags&wire.FlagResponse == 0 {
		t.Fatal("the peer's request is not answered")
	}
	if _, done := b.replies[1]; !done {
		t.Error("the kept answer is lost")
	}
	if sas, children := b.established(); sas != 1 || children != 1 {
		t.Errorf("%d IKE SAs, %d children", sas, children)
	}
	b.sound()
}
