package v2_test

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"coati/ike"
	"coati/ike/wire"
	"coati/policy"
)

var (
	mobikeSupported = &wire.Notify{Type: wire.NotifyMOBIKESupported}
	updateAddresses = &wire.Notify{Type: wire.NotifyUpdateSAAddresses}
)

func cookie2(s string) *wire.Notify { return &wire.Notify{Type: wire.NotifyCookie2, Data: []byte(s)} }

// at puts the puppet elsewhere.
func (p *puppet) at(addr string) { p.path.Remote = netip.MustParseAddrPort(addr) }

// roamer is an initiator that agreed on MOBIKE with the engine.
func roamer(b *bench) *puppet {
	b.t.Helper()
	p := newPuppet(b).begin()
	if got := p.authenticate(mobikeSupported); !has(got, wire.NotifyMOBIKESupported) {
		b.t.Fatalf("MOBIKE is not agreed on: %q", b.log)
	}
	return p
}

func movable(tt *policy.PeerTunnel) { tt.MOBIKE, tt.DPD = true, 0 }

// What the initiator says counts, and nothing else: an authenticated message from elsewhere moves nothing (RFC 4555, section 3.8).
func TestOnlyAnUpdateMovesTheSAs(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel(movable))
	p := roamer(b)
	p.at("198.51.100.7:500")
	if got := p.ask(wire.ExchangeInformational, cookie2("a path that is tested")); !has(got, wire.NotifyCookie2) || string(wire.FindNotify(got, wire.NotifyCookie2).Data) != "a path that is tested" {
		t.Errorf("COOKIE2 does not come back: %v", got)
	}
	info := func() ike.Info { return b.eng.Status()[0].SAs[0] }
	if at := info().Path.Remote; at.Addr() != there {
		t.Errorf("a test of a path moves the SA to %v", at)
	}
	if got := p.ask(wire.ExchangeInformational, updateAddresses, cookie2("0123456789")); got == nil || !has(got, wire.NotifyCookie2) {
		t.Fatalf("an update is answered with %v", got)
	}
	if at := info().Path.Remote; at != p.path.Remote {
		t.Errorf("after an update the SA is at %v", at)
	}
	b.sound()
}

// Who was asked and has answered may not decide where the SAs are.
func TestAResponderCannotMoveTheSAs(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel(movable))
	first := b.event(ike.Command{ID: 1, Verb: ike.Up, Tunnel: "t"})
	p := newPuppet(b)
	auth := p.answerFirst(first[0].Bytes)
	if _, inner := p.open(auth[0].Bytes); !has(inner, wire.NotifyMOBIKESupported) || !has(inner, wire.NotifyNoNATsAllowed) {
		t.Error("IKE_AUTH does not offer MOBIKE, without a NAT as the peer knows none")
	}
	id := p.idPayload()
	p.reply(auth[0].Bytes, id, p.proof(id), espSA(p.spi), ts(false, "10.1.0.0/16"), ts(true, "10.2.0.0/16"), mobikeSupported)
	p.at("198.51.100.7:500")
	p.ask(wire.ExchangeInformational, updateAddresses)
	if at := b.eng.Status()[0].SAs[0].Path.Remote; at.Addr() != there {
		t.Errorf("the responder moves the SA to %v", at)
	}
	// That it has no other address any more is another matter: then it is where it speaks from.
	p.ask(wire.ExchangeInformational, &wire.Notify{Type: wire.NotifyAdditionalIP4Address, Data: there.AsSlice()})
	if at := b.eng.Status()[0].SAs[0].Path.Remote; at.Addr() != there {
		t.Errorf("a responder that is still there as well is followed to %v", at)
	}
	sends := b.event(ike.Datagram{Path: p.path, Bytes: p.next1(wire.ExchangeInformational, &wire.Notify{Type: wire.NotifyNoAdditionalAddresses})})
	if at := b.eng.Status()[0].SAs[0].Path.Remote; at != p.path.Remote {
		t.Errorf("a responder that has moved is not followed: %v", at)
	}
	_, inner := p.open(sends[len(sends)-1].Bytes)
	if !has(inner, wire.NotifyUpdateSAAddresses) || !has(inner, wire.NotifyCookie2) {
		t.Fatalf("it is told nothing")
	}
	// It answers with another cookie: somebody else is there (section 3.7).
	p.reply(sends[len(sends)-1].Bytes, cookie2("another one"))
	if sas, _ := b.established(); sas != 0 || !b.said("COOKIE2") {
		t.Errorf("the IKE SA stays with who does not return its cookie: %q", b.log)
	}
	b.sound()
}

// NO_NATS_ALLOWED names other addresses than the packet has: the update is refused, and nothing moves (section 3.9).
func TestAnUnexpectedNAT(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel(movable))
	p := roamer(b)
	p.at("198.51.100.7:500")
	as := func(port byte) *wire.Notify {
		return &wire.Notify{Type: wire.NotifyNoNATsAllowed, Data: []byte{198, 51, 100, 7, 192, 0, 2, 1, 1, port, 1, 244}}
	}
	if got := p.ask(wire.ExchangeInformational, updateAddresses, as(7)); !has(got, wire.NotifyUnexpectedNATDetected) {
		t.Errorf("answered with %v", got)
	}
	if at := b.eng.Status()[0].SAs[0].Path.Remote.Addr(); at != there {
		t.Errorf("the SA moves to %v", at)
	}
	if got := p.ask(wire.ExchangeInformational, updateAddresses, as(244)); has(got, wire.NotifyUnexpectedNATDetected) {
		t.Error("an update without a NAT is refused")
	}
	if at := b.eng.Status()[0].SAs[0].Path.Remote; at != p.path.Remote {
		t.Errorf("the SA is at %v", at)
	}
	b.sound()

	b = newBench(t, nil, tunnel(movable))
	if got := newPuppet(b).begin().authenticate(mobikeSupported, as(244)); !has(got, wire.NotifyUnexpectedNATDetected) {
		t.Errorf("IKE_AUTH through a NAT is answered with %v", got)
	}
	b.wait(time.Minute)
	b.sound()
}

func TestMobikeIsNotForTransportModeOrForThoseWhoDoNotSaySo(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*policy.PeerTunnel){
		"not configured": func(tt *policy.PeerTunnel) { tt.MOBIKE = false },
		"transport mode": func(tt *policy.PeerTunnel) {
			tt.Children = append(tt.Children, tt.Children[0])
			tt.Children[1].Name, tt.Children[1].Mode = "hosts", policy.Transport
		},
	} {
		b := newBench(t, nil, tunnel(movable, change))
		p := newPuppet(b).begin()
		if got := p.authenticate(mobikeSupported); has(got, wire.NotifyMOBIKESupported) {
			t.Errorf("%s: MOBIKE is agreed on", name)
		}
		p.at("198.51.100.7:500")
		if got := p.ask(wire.ExchangeInformational, updateAddresses, cookie2("0123456789")); got == nil || has(got, wire.NotifyCookie2) {
			t.Errorf("%s: an update is answered with %v", name, got)
		}
		if at := b.eng.Status()[0].SAs[0].Path.Remote.Addr(); at != there {
			t.Errorf("%s: the SA moves to %v", name, at)
		}
		b.sound()
	}
}

// Notifications of MOBIKE with any content, from a peer that holds the keys.
func FuzzMobike(f *testing.F) {
	f.Add([]byte{0, 16, 0, 0, 0, 0, 0}, uint8(0))
	f.Add(bytes.Repeat([]byte{3, 4, 1, 2, 3, 4, 5, 6}, 5), uint8(1))
	types := []wire.NotifyType{
		wire.NotifyUpdateSAAddresses, wire.NotifyCookie2, wire.NotifyNoNATsAllowed, wire.NotifyAdditionalIP4Address, wire.NotifyAdditionalIP6Address,
		wire.NotifyNoAdditionalAddresses, wire.NotifyNATDetectionSourceIP, wire.NotifyNATDetectionDestinationIP, wire.NotifyUnexpectedNATDetected,
		wire.NotifyUnacceptableAddresses, wire.NotifyMOBIKESupported,
	}
	f.Fuzz(func(t *testing.T, data []byte, moves uint8) {
		b := newBench(t, nil, tunnel(movable))
		p := roamer(b)
		for n := 0; len(data) > 2 && n < 40; n++ {
			control, size := data[0], min(int(data[1])%70, len(data)-2)
			no := &wire.Notify{Type: types[int(control&15)%len(types)], Data: data[2 : 2+size]}
			data = data[2+size:]
			if control&16 != 0 {
				p.at("198.51.100." + string('1'+rune(moves%9)) + ":4500")
			}
			payloads := []wire.Payload{no}
			if control&32 != 0 {
				payloads = append(payloads, updateAddresses)
			}
			for _, s := range p.give(p.next1(wire.ExchangeInformational, payloads...)) {
				if m, _ := p.open(s.Bytes); m.Flags&wire.FlagResponse == 0 && control&64 != 0 {
					p.reply(s.Bytes, no)
				}
			}
			if control&128 != 0 {
				b.wait(10 * time.Second)
			}
		}
		b.event(ike.Shutdown{})
		b.wait(10 * time.Minute)
		b.sound()
		if !b.eng.Idle() || len(b.sas) != 0 || len(b.larval) != 0 {
			t.Errorf("left behind: %d SAs, %d SPIs", len(b.sas), len(b.larval))
		}
	})
}
