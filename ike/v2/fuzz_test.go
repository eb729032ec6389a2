package v2_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"coati/ike"
	"coati/ike/wire"
	"coati/lab/pki"
	"coati/policy"
)

// chunks cuts fuzzed octets into messages: a control octet, a length of two octets, the content.
func chunks(data []byte, most int) (out [][]byte) {
	for len(data) > 3 && len(out) < most {
		n := min(int(binary.BigEndian.Uint16(data[1:])), len(data)-3)
		out = append(out, append([]byte{data[0]}, data[3:3+n]...))
		data = data[3+n:]
	}
	return out
}

func chunk(control byte, content []byte) []byte {
	return append([]byte{control, byte(len(content) >> 8), byte(len(content))}, content...)
}

// Octets of anybody, into an engine with a live SA, a half-open one, and a negotiation of its own: no panic, no fault, no
// end; and the live SA is as it was.
func FuzzEngine(f *testing.F) {
	seed := newBench(f, nil, tunnel())
	p := newPuppet(seed)
	first := p.first(p.keyExchange())
	f.Add(chunk(0, first))
	f.Add(slices.Concat(chunk(1, first), chunk(0, first), chunk(2, first[28:])))
	f.Add(chunk(4, p.clear(wire.Header{Flags: wire.FlagResponse, ResponderSPI: 5}, ikeSA(), p.keyExchange(), &wire.Nonce{Data: make([]byte, 32)})))
	f.Add(chunk(4, p.clear(wire.Header{Flags: wire.FlagResponse}, &wire.Notify{Type: wire.NotifyCookie, Data: []byte("x")})))
	f.Add(chunk(4, p.clear(wire.Header{Flags: wire.FlagResponse}, &wire.Notify{Type: wire.NotifyInvalidKEPayload, Data: []byte{0, 14}})))
	f.Add(chunk(3, []byte{46, 0x20, 37, 0, 0, 0, 0, 2, 0, 0, 0, 33, 0, 0, 0, 5, 1}))
	f.Add(chunk(0x80, nil))
	good := func(spi uint64, sa *wire.SA) []byte {
		return p.clear(wire.Header{Flags: wire.FlagResponse, ResponderSPI: spi}, sa, p.keyExchange(), &wire.Nonce{Data: make([]byte, 32)})
	}
	foreign := ikeSA()
	foreign.Proposals[0].Transforms[0] = wire.NewTransform(1, 3, 0)
	f.Add(slices.Concat(chunk(4, good(5, ikeSA())), chunk(4|8, good(5, foreign)), chunk(0xbf, nil), chunk(0xbf, nil)))
	f.Fuzz(func(t *testing.T, data []byte) {
		l := func(l *ike.Limits) { l.HalfOpenCookie, l.HalfOpenMax, l.HalfOpenPerAddressMax = 4, 8, 6 }
		b := newBench(t, l, tunnel(), tunnel(func(tt *policy.PeerTunnel) {
			tt.Name, tt.Remote, tt.Start = "own", netip.MustParseAddr("192.0.2.3"), policy.StartNow
			tt.Children = slices.Clone(tt.Children)
			tt.Children[0].OutPolicy = 9
		}))
		live := up(b)
		half := newPuppet(b)
		half.spiI, half.path.Remote = 77, netip.MustParseAddrPort("192.0.2.2:999")
		half.begin()
		own := uint64(0)
		for _, s := range b.eng.Status() {
			if s.Name == "own" && len(s.SAs) == 1 {
				own = s.SAs[0].LocalSPI
			}
		}
		for _, c := range chunks(data, 32) {
			d, path := slices.Clone(c[1:]), live.path
			spis := func(i, r uint64) {
				if len(d) < 28 {
					d = append(make([]byte, 16), d...)
				}
				if len(d) >= 28 {
					binary.BigEndian.PutUint64(d, i)
					binary.BigEndian.PutUint64(d[8:], r)
				}
			}
			switch c[0] & 7 {
			case 1:
				path.Remote = netip.MustParseAddrPort("198.51.100.1:500")
			case 2:
				spis(half.spiI, half.spiR)
				path = half.path
			case 3:
				spis(live.spiI, live.spiR)
			case 4:
				if spis(own, 5); len(d) > 15 {
					d[15] = c[0] >> 3 & 1
				}
				path.Remote = netip.MustParseAddrPort("192.0.2.3:500")
			}
			if c[0]&0x40 == 0 && len(d) >= 28 {
				binary.BigEndian.PutUint32(d[24:], uint32(len(d)))
			}
			for _, s := range b.event(ike.Datagram{Path: path, Bytes: d}) {
				m, err := wire.Parse(s.Bytes)
				if err == nil && m.Exchange == wire.ExchangeIKESAInit && m.Flags&wire.FlagResponse != 0 && len(s.Bytes) > len(d) && wire.FindNotify(m.Payloads, wire.NotifyCookie) == nil {
					t.Errorf("%d octets are answered with %d", len(d), len(s.Bytes))
				}
			}
			if c[0]&0x80 != 0 {
				b.wait(time.Duration(c[0]&0x3f) * 50 * time.Millisecond)
			}
		}
		if got := live.ask(wire.ExchangeInformational); got == nil {
			t.Error("the live SA does not answer any more")
		}
		for _, s := range b.eng.Status() {
			if s.Name == "t" && (len(s.SAs) != 1 || len(s.SAs[0].Children) != 1) {
				t.Errorf("the live tunnel has %d IKE SAs", len(s.SAs))
			}
		}
		if b.fault != nil {
			t.Error(b.fault)
		}
		b.event(ike.Shutdown{})
		b.wait(5 * time.Minute)
		if !b.eng.Idle() || len(b.sas) != 0 || len(b.larval) != 0 {
			t.Errorf("left behind: %d SAs, %d SPIs", len(b.sas), len(b.larval))
		}
	})
}

// A peer that holds the keys sends anything, in any exchange, as requests and as answers to ours.
func FuzzAuthenticated(f *testing.F) {
	b := newBench(f, nil, tunnel())
	p := newPuppet(b)
	inner := func(control byte, payloads ...wire.Payload) []byte {
		first, plain, err := wire.AppendPayloads(nil, payloads)
		if err != nil {
			f.Fatal(err)
		}
		return chunk(control, append([]byte{byte(first)}, plain...))
	}
	nonce := &wire.Nonce{Data: make([]byte, 32)}
	f.Add(inner(36, espSA(9), nonce, ts(false, "10.2.0.0/16"), ts(true, "10.1.0.0/16")), byte(0))
	f.Add(inner(36, &wire.Notify{Protocol: wire.ProtocolESP, SPI: wire.SPI4(p.spi), Type: wire.NotifyRekeySA}, espSA(9), nonce, ts(false, "10.2.0.0/16"), ts(true, "10.1.0.0/16")), byte(1))
	f.Add(inner(36, rekeySA(5), nonce, p.keyExchange()), byte(2))
	f.Add(slices.Concat(inner(37, &wire.Delete{Protocol: wire.ProtocolESP, SPIs: []uint32{p.spi}}), inner(37, &wire.Delete{Protocol: wire.ProtocolIKE})), byte(1))
	f.Add(inner(36|0x80, rekeySA(6), nonce, p.keyExchange()), byte(2))
	f.Add(inner(36|0x80, &wire.Notify{Type: wire.NotifyTemporaryFailure}), byte(1))
	f.Add(inner(36|0x80, espSA(3), nonce, ts(false, "10.1.0.0/16"), ts(true, "10.2.0.0/16")), byte(1))
	f.Add(inner(35, p.idPayload(), espSA(3), ts(false, "10.1.0.0/16"), ts(true, "10.2.0.0/16")), byte(4))
	f.Add(inner(37|0x40, &wire.Notify{Type: wire.NotifyAuthLifetime, Data: []byte{0, 0, 0, 1}}), byte(3))
	// Before authentication by certificates.
	ca := pki.New(f, "root", pki.P256)
	signed := certified(f, ca, pki.P256, "a.example", "b.example")
	name := &wire.ID{Type: wire.IDFQDN, Data: []byte("b.example")}
	leaf := ca.Issue(f, "b.example", pki.NewKey(f, pki.P256).Public())
	sig := &wire.Auth{Method: wire.AuthECDSA256, Data: make([]byte, 64)}
	f.Add(inner(35, name, &wire.Cert{Encoding: wire.CertX509Signature, Data: leaf.Raw}, &wire.CertReq{Encoding: wire.CertX509Signature}, sig, espSA(3), ts(false, "10.2.0.0/16"), ts(true, "10.1.0.0/16")), byte(12))
	// Additional key exchanges, in IKE_INTERMEDIATE and in IKE_FOLLOWUP_KE.
	f.Add(inner(43, &wire.KE{Method: policy.KEMLKEM768, Data: make([]byte, 1184)}), byte(32|4))
	f.Add(slices.Concat(inner(36, pqESP(9), nonce, p.keyExchange(), ts(false, "10.2.0.0/16"), ts(true, "10.1.0.0/16")),
		inner(44, &wire.KE{Method: policy.KEMLKEM512, Data: make([]byte, 800)}, &wire.Notify{Type: wire.NotifyAdditionalKeyExchange, Data: make([]byte, 8)})), byte(16))
	f.Add(inner(36|0x80, pqESP(9), nonce, p.keyExchange(), ts(false, "10.1.0.0/16"), ts(true, "10.2.0.0/16"), &wire.Notify{Type: wire.NotifyAdditionalKeyExchange, Data: []byte("x")}), byte(16|1))
	f.Fuzz(func(t *testing.T, data []byte, state byte) {
		limits := func(l *ike.Limits) { l.ChildrenPerSA, l.SAsPerPeer = 8, 4 }
		b := newBench(t, limits, tunnel(func(tt *policy.PeerTunnel) {
			if tt.Reauth, tt.Lifetime = time.Hour, 2*time.Hour; state&8 != 0 {
				signed(tt)
			}
			if state&16 != 0 {
				pqChild(tt)
			}
			if state&32 != 0 {
				pq(tt)
			}
		}))
		var p *puppet
		var asked []ike.Send
		if state&32 != 0 {
			h := newHybrid(b) // before additional key exchanges
			h.begin()
			p = h.puppet
		} else if state&12 != 0 {
			p = newPuppet(b).begin() // before authentication
		} else {
			p = up(b)
		}
		switch state & 3 { // what we have asked when the peer begins
		case 1:
			asked = b.event(ike.Command{ID: 1, Verb: ike.Rekey, Tunnel: "t", Child: "lan"})
		case 2:
			asked = b.event(ike.Command{ID: 1, Verb: ike.Rekey, Tunnel: "t"})
		case 3:
			asked = b.event(ike.Command{ID: 1, Verb: ike.Down, Tunnel: "t"})
		}
		for _, c := range chunks(data, 24) {
			control, content := c[0], c[1:]
			first := wire.PayloadType(0)
			if len(content) > 0 {
				first, content = wire.PayloadType(content[0]), content[1:]
			}
			if len(content) > 60000 || first == 0 && len(content) > 0 && control&0x20 == 0 {
				continue
			}
			h := p.header(wire.ExchangeType(control&0x3f), control&0x80 != 0, p.next)
			if h.Flags&wire.FlagResponse != 0 {
				if len(asked) == 0 {
					continue
				}
				m := p.parse(asked[len(asked)-1].Bytes)
				if m.Flags&wire.FlagResponse != 0 || m.ResponderSPI != p.spiR {
					continue
				}
				h.MessageID, h.Exchange = m.MessageID, m.Exchange
			}
			sends := p.give(p.sealRaw(h, first, content))
			if h.Flags&wire.FlagResponse == 0 && len(sends) > 0 {
				p.next++
			}
			asked = append(asked, sends...)
			if control&0x40 != 0 {
				asked = append(asked, b.wait(time.Second)...)
			}
		}
		if b.fault != nil {
			t.Error(b.fault)
		}
		for what := range b.v2.Strayed {
			t.Error("a transition the table does not allow:", what)
		}
		if sas, children := b.established(); sas > 5 || children > 16*sas || len(b.sas) > 200 {
			t.Errorf("%d IKE SAs, %d children, %d SAs", sas, children, len(b.sas))
		}
		b.event(ike.Shutdown{})
		b.wait(10 * time.Minute)
		if !b.eng.Idle() || len(b.sas) != 0 || len(b.larval) != 0 {
			t.Errorf("left behind: idle %v, %d SAs, %d SPIs", b.eng.Idle(), len(b.sas), len(b.larval))
		}
		if b.fault != nil {
			t.Error(b.fault)
		}
	})
}
