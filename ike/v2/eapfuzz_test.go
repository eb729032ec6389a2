package v2_test

import (
	"testing"
	"time"

	"coati/ike"
	"coati/ike/eap"
	"coati/ike/wire"
	"coati/policy"
)

// Packets of EAP of anybody who has not authenticated, as client and as server, and what RADIUS answers: no panic, no fault, no
// SA, and nothing is held.
func FuzzEAPExchange(f *testing.F) {
	challenge := append([]byte{1, 1, 0, 21, 16}, make([]byte, 16)...)
	f.Add(uint8(0), chunk(0, eap.Packet{Code: eap.Response, Type: eap.TypeIdentity, Data: []byte("alice")}.Bytes()))
	f.Add(uint8(0), append(chunk(0, eap.Packet{Code: eap.Response, Type: eap.TypeIdentity, Data: []byte("alice")}.Bytes()), chunk(0, []byte{2, 1, 0, 6, 3, 4})...))
	f.Add(uint8(1), chunk(0, eap.Packet{Code: eap.Request, ID: 1, Type: eap.TypeMSCHAPv2, Data: challenge}.Bytes()))
	f.Add(uint8(1), chunk(0, []byte{3, 0, 0, 4}))
	f.Add(uint8(2), chunk(0, eap.Packet{Code: eap.Response, Type: eap.TypeIdentity, Data: []byte("alice")}.Bytes()))
	f.Add(uint8(0), chunk(1, nil))
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		m := []policy.EAPMethod{policy.EAPMSCHAPv2, policy.EAPMD5}
		var b *bench
		var ask func(packet []byte)
		var p *puppet
		switch kind % 3 {
		case 1: // the engine is the client
			b = newBench(t, nil, tunnel(uses(policy.EAPMSCHAPv2), func(tt *policy.PeerTunnel) { tt.Start = policy.StartOnDemand }))
			first := b.event(ike.Command{ID: 1, Verb: ike.Up, Tunnel: "t"})
			p = newPuppet(b)
			sends := p.answerFirst(first[0].Bytes)
			id := p.idPayload()
			more := []wire.Payload{id, p.proof(id)}
			ask = func(packet []byte) {
				if len(sends) == 1 {
					sends, more = p.reply(sends[0].Bytes, append(more, &wire.EAP{Message: packet})...), nil
				}
			}
		default:
			if b = newBench(t, nil, tunnel(serves(m...))); kind%3 == 2 {
				b = newBench(t, nil, tunnel(asksRADIUS))
				b.radius = func(ike.AskRADIUS) ike.RADIUSAnswer {
					n := min(len(data), 64)
					return ike.RADIUSAnswer{Code: ike.RADIUSChallenge, EAP: data[:n], State: data[:n]}
				}
			}
			p = newPuppet(b).begin()
			p.wantEAP()
			ask = func(packet []byte) { p.ask(wire.ExchangeIKEAuth, &wire.EAP{Message: packet}) }
		}
		for _, c := range chunks(data, 16) {
			if len(c) < 5 || int(c[3])<<8|int(c[4]) != len(c)-1 {
				continue // the payload's own check refuses it
			}
			if c[0]&1 == 1 && p.initiator {
				p.ask(wire.ExchangeIKEAuth, p.proof(p.idPayload()))
			}
			ask(c[1:])
		}
		if sas, _ := b.established(); sas != 0 {
			t.Fatal("somebody was let in")
		}
		b.wait(5 * time.Minute)
		b.event(ike.Shutdown{})
		b.wait(5 * time.Minute)
		if b.sound(); !b.eng.Idle() || len(b.larval) != 0 || len(b.sas) != 0 {
			t.Errorf("left behind: idle %v, %d SPIs, %d SAs", b.eng.Idle(), len(b.larval), len(b.sas))
		}
	})
}
