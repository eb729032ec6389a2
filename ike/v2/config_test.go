package v2_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"coati/ike"
	"coati/ike/wire"
	"coati/policy"
)

func asks(tt *policy.PeerTunnel) {
	tt.VirtualIP = []netip.Addr{netip.IPv4Unspecified()}
	tt.Children[0].Local = selectors("0.0.0.0/0")
}

func attribute(t wire.ConfigAttributeType, value ...byte) wire.ConfigAttribute {
	return wire.ConfigAttribute{Type: t, Value: value}
}

// answeredWith is an engine that asks for an address, and a responder that answers IKE_AUTH with these attributes.
func answeredWith(t *testing.T, tsi *wire.TS, as ...wire.ConfigAttribute) *bench {
	b := newBench(t, nil, tunnel(asks))
	first := b.event(ike.Command{ID: 1, Verb: ike.Up, Tunnel: "t"})
	p := newPuppet(b)
	auth := p.answerFirst(first[0].Bytes)
	m, inner := p.open(auth[0].Bytes)
	cp, ok := wire.Find[*wire.Config](inner, wire.PayloadCP)
	if !ok || cp.Type != wire.ConfigRequest || m.Exchange != wire.ExchangeIKEAuth {
		t.Fatal("IKE_AUTH does not ask for an address")
	}
	id := p.idPayload()
	p.reply(auth[0].Bytes, id, p.proof(id), &wire.Config{Type: wire.ConfigReply, Attributes: as}, espSA(p.spi), tsi, ts(true, "10.2.0.0/16"))
	b.wait(time.Millisecond)
	return b
}

// What a responder gives us goes onto a device and before people: only an address of a host is taken, and names that are names.
func TestWhatAPeerGivesUsIsChecked(t *testing.T) {
	t.Parallel()
	good := attribute(wire.ConfigInternalIP4Address, 10, 9, 0, 1)
	for _, c := range []struct {
		name string
		as   []wire.ConfigAttribute
		says string // empty: it is up
	}{
		{"an address", []wire.ConfigAttribute{good}, ""},
		{"nothing", nil, "gives us no address of a family"},
		{"IPv6 alone", []wire.ConfigAttribute{attribute(wire.ConfigInternalIP6Address, append(netip.MustParseAddr("2001:db8::1").AsSlice(), 64)...)}, "gives us no address of a family"},
		{"multicast", []wire.ConfigAttribute{attribute(wire.ConfigInternalIP4Address, 224, 0, 0, 1)}, "no address of a host"},
		{"loopback", []wire.ConfigAttribute{attribute(wire.ConfigInternalIP4Address, 127, 0, 0, 1)}, "no address of a host"},
		{"unspecified", []wire.ConfigAttribute{attribute(wire.ConfigInternalIP4Address, 0, 0, 0, 0)}, "no address of a host"},
		{"broadcast", []wire.ConfigAttribute{attribute(wire.ConfigInternalIP4Address, 255, 255, 255, 255)}, "no address of a host"},
		{"3 octets", []wire.ConfigAttribute{attribute(wire.ConfigInternalIP4Address, 10, 9, 0)}, "no address of a host"},
		{"bad names beside it", []wire.ConfigAttribute{
			good, attribute(wire.ConfigInternalDNSDomain, []byte("evil\nnameserver 6.6.6.6")...), attribute(wire.ConfigInternalDNSDomain, []byte("corp.example")...),
			attribute(wire.ConfigInternalIP4DNS, 1, 2, 3), attribute(wire.ConfigInternalIP4DNS, 10, 1, 0, 53),
		}, ""},
	} {
		b := answeredWith(t, ts(false, "10.9.0.1/32"), c.as...)
		if _, children := b.established(); (children == 1) != (c.says == "") || c.says != "" && !b.said(c.says) {
			t.Errorf("%s: %d children: %q", c.name, children, b.log)
		}
		for _, l := range b.log {
			if strings.Contains(l, "6.6.6.6") || strings.Contains(l, "evil") {
				t.Errorf("%s: what the peer wrote is in the log: %q", c.name, l)
			}
		}
		b.wait(5 * time.Minute)
		b.sound()
	}
}

func TestSelectorsWithoutTheAddressAreOfNoUse(t *testing.T) {
	t.Parallel()
	b := answeredWith(t, ts(false, "10.9.0.2/32"), attribute(wire.ConfigInternalIP4Address, 10, 9, 0, 1))
	if _, children := b.established(); children != 0 || !b.said("and no selector for it") {
		t.Errorf("%d children: %q", children, b.log)
	}
	b.wait(5 * time.Minute)
	b.sound()
}

// A client's selectors are those of its lease, whatever it asks for, in IKE_AUTH and later.
func TestAClientHasNoSelectorsButItsLease(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, tunnel(func(tt *policy.PeerTunnel) {
		tt.Pool = selectors("10.2.0.5-10.2.0.9")
		tt.Children[0].Remote = selectors("10.2.0.0/16")
	}))
	p := newPuppet(b).begin()
	request := &wire.Config{Type: wire.ConfigRequest, Attributes: []wire.ConfigAttribute{attribute(wire.ConfigInternalIP4Address), attribute(wire.ConfigInternalIP4Address)}}
	got := p.authenticate(request)
	reply, ok := wire.Find[*wire.Config](got, wire.PayloadCP)
	if !ok || len(reply.Attributes) != 1 || string(reply.Attributes[0].Value) != "\x0a\x02\x00\x05" {
		t.Fatalf("the reply is %+v", reply)
	}
	narrow := func(payloads []wire.Payload) string {
		tsi, ok := wire.Find[*wire.TS](payloads, wire.PayloadTSi)
		if !ok || len(tsi.Selectors) != 1 {
			return "nothing"
		}
		return tsi.Selectors[0].Start.String() + "-" + tsi.Selectors[0].End.String()
	}
	if n := narrow(got); n != "10.2.0.5-10.2.0.5" {
		t.Errorf("the first child has %s", n)
	}
	nonce := &wire.Nonce{Data: make([]byte, 32)}
	if n := narrow(p.ask(wire.ExchangeCreateChildSA, espSA(77), nonce, ts(false, "10.2.0.0/16"), ts(true, "10.1.0.0/16"))); n != "10.2.0.5-10.2.0.5" {
		t.Errorf("the second child has %s", n)
	}
	if got := p.ask(wire.ExchangeCreateChildSA, espSA(78), nonce, ts(false, "10.2.0.6/32"), ts(true, "10.1.0.0/16")); !has(got, wire.NotifyTSUnacceptable) {
		t.Error("a child for another's address is not refused")
	}
	b.sound()
}

// Configuration payloads of any kind, from a peer that holds the keys, to either end.
func FuzzConfiguration(f *testing.F) {
	add := func(cp *wire.Config, initiator bool) {
		_, plain, err := wire.AppendPayloads(nil, []wire.Payload{cp})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(plain, initiator)
	}
	add(&wire.Config{Type: wire.ConfigRequest, Attributes: []wire.ConfigAttribute{attribute(wire.ConfigInternalIP4Address), attribute(wire.ConfigInternalIP6Address, make([]byte, 17)...)}}, false)
	add(&wire.Config{Type: wire.ConfigReply, Attributes: []wire.ConfigAttribute{attribute(wire.ConfigInternalIP4Address, 10, 9, 0, 1), attribute(wire.ConfigInternalDNSDomain, 'a')}}, true)
	f.Fuzz(func(t *testing.T, plain []byte, initiator bool) {
		payloads, err := wire.ParsePayloads(wire.PayloadCP, plain)
		if err != nil {
			return
		}
		cp, ok := payloads[0].(*wire.Config)
		if !ok {
			return
		}
		b := newBench(t, nil, tunnel(func(tt *policy.PeerTunnel) {
			if initiator {
				asks(tt)
			} else {
				tt.Pool = selectors("10.2.0.5-10.2.0.6", "2001:db8::/120")
				tt.Children[0].Remote = selectors("10.2.0.0/16")
			}
		}))
		p := newPuppet(b)
		if initiator {
			auth := p.answerFirst(b.event(ike.Command{ID: 1, Verb: ike.Up, Tunnel: "t"})[0].Bytes)
			id := p.idPayload()
			p.reply(auth[0].Bytes, id, p.proof(id), cp, espSA(p.spi), ts(false, "10.1.0.0/16"), ts(true, "10.2.0.0/16"))
		} else {
			p.begin().authenticate(cp)
		}
		b.wait(time.Minute)
		b.event(ike.Shutdown{})
		b.wait(10 * time.Minute)
		b.sound()
		if !b.eng.Idle() || len(b.sas) != 0 || len(b.larval) != 0 {
			t.Errorf("left behind: %d SAs, %d SPIs", len(b.sas), len(b.larval))
		}
	})
}
