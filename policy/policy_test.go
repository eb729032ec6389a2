package policy

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestASecretIsRedactedUnderEveryVerb(t *testing.T) {
	s := NewSecret([]byte("hunter2"))
	wrapped := struct{ PSK Secret }{s}
	var b strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%c", "%U", "%t"} {
		fmt.Fprintf(&b, verb+" "+verb+" ", s, wrapped)
	}
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "s", s, "w", wrapped, "p", &s)
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "s", s, "w", wrapped, "p", &s)
	j, err := json.Marshal(wrapped)
	if err != nil {
		t.Fatal(err)
	}
	b.Write(j)
	for _, leak := range []string{"hunter2", "68756e74", "68 75", "104 117", "0x68", "h u"} {
		if strings.Contains(strings.ToLower(b.String()), leak) {
			t.Errorf("output contains %q: %s", leak, b.String())
		}
	}
	if string(s.Reveal()) != "hunter2" {
		t.Error("Reveal does not open the secret")
	}
}

func TestProposalsAreReadAsPeopleWriteThem(t *testing.T) {
	for _, c := range []struct {
		proto     Protocol
		in, want  string
		wantError string
	}{
		{ProtocolIKE, "aes128gcm16-prfsha256-x25519", "aes128gcm16-prfsha256-x25519", ""},
		{ProtocolIKE, "aes128-sha256-modp2048", "aes128-prfsha256-sha256-modp2048", ""},
		{ProtocolIKE, "AES256GCM-PRFSHA384-curve25519", "aes256gcm16-prfsha384-x25519", ""},
		{ProtocolIKE, "aes256gcm16-sha384-ecp384", "aes256gcm16-prfsha384-ecp384", ""},
		{ProtocolIKE, "aes128gcm16-x25519", "", "has no prf"},
		{ProtocolIKE, "aes128-sha256", "", "has no key exchange"},
		{ProtocolIKE, "aes128-x25519", "", "has no integrity"},
		{ProtocolIKE, "aes128-aes128gcm16-sha256-x25519", "", "mixes combined-mode"},
		{ProtocolIKE, "x25519", "", "has no encryption"},
		{ProtocolIKE, "aes128gmc16-prfsha256-x25519", "", `did you mean "aes128gcm16"`},
		{ProtocolIKE, "aes128gcm16-esn-prfsha256-x25519", "", `"esn" in proposal`},
		{ProtocolESP, "aes128gcm16", "aes128gcm16-esn-noesn", ""},
		{ProtocolESP, "aes128gcm16-noesn-ecp256", "aes128gcm16-ecp256-noesn", ""},
		{ProtocolESP, "aes128gcm16-prfsha256", "", "is not for esp"},
		{ProtocolESP, "", "", "unknown algorithm"},
	} {
		p, err := ParseProposal(c.proto, c.in)
		switch {
		case c.wantError != "":
			if err == nil || !strings.Contains(err.Error(), c.wantError) {
				t.Errorf("%q: error %v, want %q", c.in, err, c.wantError)
			}
		case err != nil:
			t.Errorf("%q: %v", c.in, err)
		case p.String() != c.want:
			t.Errorf("%q: got %s, want %s", c.in, p, c.want)
		}
	}
}

func TestTheResponderChoosesAndSaysWhatDiffered(t *testing.T) {
	ike := func(s ...string) (out []Proposal) {
		for _, x := range s {
			out = append(out, MustProposal(ProtocolIKE, x))
		}
		return
	}
	got, i, err := Select(ike("aes256gcm16-prfsha384-ecp384", "aes128-sha256-modp2048"), ike("aes256-sha256-x25519", "aes256-aes128-sha256-x25519-modp2048"))
	if err != nil || i != 1 || got.String() != "aes128-prfsha256-sha256-modp2048" {
		t.Errorf("got %s, %d, %v", got, i, err)
	}
	_, _, err = Select(ike("aes256gcm16-prfsha384-ecp384"), ike("aes256gcm16-prfsha384-modp2048-x25519"))
	if want := "no proposal in common; nearest differ in key exchange: the peer offers x25519 or modp2048, we accept ecp384"; err == nil || !strings.HasPrefix(err.Error(), "no proposal in common; nearest differ in key exchange") {
		t.Errorf("got %v, want %s", err, want)
	}
	foreignOffer := []Proposal{{Protocol: ProtocolIKE, Transforms: []Transform{{1, 3, 0}, {2, 2, 0}, {3, 2, 0}, {4, 2, 0}}}}
	_, _, err = Select(ike("aes128-sha256-modp2048"), foreignOffer)
	if want := "no proposal in common; nearest differ in encryption: the peer offers 3des, we accept aes128; prf: the peer offers prfsha1, we accept prfsha256; integrity: the peer offers sha1, we accept sha256; key exchange: the peer offers modp1024, we accept modp2048"; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	unknownType := ike("aes128-sha256-modp2048")
	unknownType[0].Transforms = append(unknownType[0].Transforms, Transform{Type: 77, ID: 1})
	if _, _, err = Select(ike("aes128-sha256-modp2048"), unknownType); err == nil {
		t.Error("a proposal with an unknown transform type was accepted")
	}
}

func TestTheInitiatorAcceptsOnlyWhatItOffered(t *testing.T) {
	own := []Proposal{MustProposal(ProtocolESP, "aes128gcm16-aes256gcm16")}
	for answer, ok := range map[string]bool{"aes256gcm16-noesn": true, "aes128gcm16-esn": true, "aes128gcm16-aes256gcm16-noesn": false, "aes192gcm16-noesn": false, "aes128gcm16-noesn-x25519": false} {
		if _, err := Agreed(own, MustProposal(ProtocolESP, answer)); (err == nil) != ok {
			t.Errorf("%s: %v", answer, err)
		}
	}
	pfs := []Proposal{MustProposal(ProtocolESP, "aes128gcm16-x25519-noesn")}
	if _, err := Agreed(pfs, MustProposal(ProtocolESP, "aes128gcm16-noesn")); err == nil {
		t.Error("an answer that drops the key exchange was accepted")
	}
}

func TestSelectorsReadAndPrint(t *testing.T) {
	for in, want := range map[string]string{
		"10.1.0.0/16": "10.1.0.0/16", "10.1.0.1": "10.1.0.1", "fd00::/8[tcp/80]": "fd00::/8[tcp/80]", "10.0.0.1-10.0.0.9[udp]": "10.0.0.1-10.0.0.9[udp]",
		"0.0.0.0-255.255.255.255": "0.0.0.0/0", "10.0.0.0/8[tcp/1-1024]": "10.0.0.0/8[tcp/1-1024]", "10.0.0.0/8[any]": "10.0.0.0/8", "10.0.0.0/8[99]": "10.0.0.0/8[99]",
		"10.0.0.0/8[icmp/8]": "10.0.0.0/8[icmp/8]", "10.0.0.0/8[icmp/8/0]": "10.0.0.0/8[icmp/8/0]", "10.0.0.0/8[icmp/3/0-4]": "10.0.0.0/8[icmp/3/0-4]",
		"10.0.0.0/8[icmp/3/0-255]": "10.0.0.0/8[icmp/3]", "::/0[icmp6/128-129]": "::/0[icmp6/128-129]", "::/0[58/0-255]": "::/0[icmp6]", "::/0[mh/5]": "::/0[mh/5]",
		"::/0[135/1-6]": "::/0[mh/1-6]", "::/0[mh]": "::/0[mh]", "10.0.0.0/8[udp/opaque]": "10.0.0.0/8[udp/opaque]", "10.0.0.0/8[tcp/0]": "10.0.0.0/8[tcp/0]",
	} {
		s, err := ParseSelector(in)
		if err != nil || s.String() != want {
			t.Errorf("%q: got %v, %v", in, s, err)
		}
	}
	for _, in := range []string{
		"", "10.1.0.1/16", "10.0.0.9-10.0.0.1", "10.0.0.1-::1", "10.0.0.0/8[tcp", "10.0.0.0/8[any/80]", "10.0.0.0/8[tcp/9-1]", "10.0.0.0/33", "fe80::1%eth0", "x",
		"10.0.0.0/8[icmp/256]", "10.0.0.0/8[icmp/3/256]", "10.0.0.0/8[icmp/3-4/0]", "10.0.0.0/8[icmp/4-3]", "::/0[mh/5/0]", "10.0.0.0/8[any/opaque]", "10.0.0.0/8[tcp/80/0]",
	} {
		if s, err := ParseSelector(in); err == nil {
			t.Errorf("%q: accepted as %v", in, s)
		}
	}
}

func TestNarrowingKeepsOrderAndDropsWhatIsCovered(t *testing.T) {
	sel := func(ss ...string) (out []Selector) {
		for _, s := range ss {
			x, err := ParseSelector(s)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, x)
		}
		return
	}
	for _, c := range []struct{ offered, allowed, want []Selector }{
		{sel("10.1.2.3[tcp/80]", "10.0.0.0/8"), sel("10.1.0.0/16"), sel("10.1.2.3[tcp/80]", "10.1.0.0/16")},
		{sel("10.0.0.0/8"), sel("10.1.0.0/16", "10.1.2.0/24"), sel("10.1.0.0/16")},
		{sel("10.0.0.0/8"), sel("192.168.0.0/16"), nil},
		{AnySelectors(), sel("fd00::/8"), sel("fd00::/8")},
		{sel("10.0.0.0/8[tcp]"), sel("10.0.0.0/8[udp]"), nil},
		{sel("10.0.0.0/8[tcp/1-100]"), sel("10.0.0.0/8[tcp/80-200]"), sel("10.0.0.0/8[tcp/80-100]")},
	} {
		if d := cmp.Diff(c.want, Narrow(c.offered, c.allowed), cmp.Comparer(func(a, b Selector) bool { return a == b })); d != "" {
			t.Errorf("%v within %v: %s", c.offered, c.allowed, d)
		}
	}
}

// RFC 7296, section 3.13.1: what stands in the place of ports on the wire.
func TestTypesStandInThePlaceOfPorts(t *testing.T) {
	for in, want := range map[string][2]uint16{
		"0.0.0.0/0[icmp/8]": {0x0800, 0x08ff}, "0.0.0.0/0[icmp/3/4]": {0x0304, 0x0304}, "::/0[icmp6/1-4]": {0x0100, 0x04ff}, "::/0[mh/5]": {0x0500, 0x0500},
		"::/0[mh/1-6]": {0x0100, 0x0600}, "::/0[mh/opaque]": {65535, 0}, "::/0[icmp6]": {0, 65535},
	} {
		s, err := ParseSelector(in)
		if err != nil || s.StartPort != want[0] || s.EndPort != want[1] {
			t.Errorf("%s: %#x to %#x, want %#x: %v", in, s.StartPort, s.EndPort, want, err)
		}
	}
}

// RFC 4301, section 4.4.1.3, C and D: who has OPAQUE in the place of a type does not send it, and may receive it.
func TestATypeMayGoOneWay(t *testing.T) {
	sel := func(s string) []Selector {
		x, err := ParseSelector(s)
		if err != nil {
			t.Fatal(err)
		}
		return []Selector{x}
	}
	local, remote := sel("10.1.0.0/16[icmp/8]"), sel("10.2.0.0/16[icmp/opaque]")
	a, b := netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.2.0.1")
	echo := func(src, dst netip.Addr, typ uint16) Flow {
		return Flow{Src: src, Dst: dst, Protocol: 1, SrcPort: typ << 8, DstPort: typ << 8, HasPorts: true}
	}
	for _, c := range []struct {
		flow     Flow
		outbound bool
		want     bool
	}{
		{echo(a, b, 8), true, true},
		{echo(a, b, 0), true, false},
		{echo(b, a, 8), false, false},
		{echo(b, a, 0), false, false},
		{Flow{Src: b, Dst: a, Protocol: 1}, false, false},
	} {
		if got := MatchFlow(local, remote, c.flow, c.outbound); got != c.want {
			t.Errorf("%v, outbound %t: %t, want %t", c.flow, c.outbound, got, c.want)
		}
	}
	// Of ports it says what it always says: packets that have none.
	if MatchFlow(sel("10.1.0.0/16[udp/53]"), sel("10.2.0.0/16[udp/opaque]"), Flow{Src: a, Dst: b, Protocol: 17, SrcPort: 53, DstPort: 99, HasPorts: true}, true) {
		t.Error("a datagram with ports is taken where they should be opaque")
	}
}

func genSelector(t *rapid.T) Selector {
	a, b := rapid.Uint32Range(0, 600).Draw(t, "a"), rapid.Uint32Range(0, 600).Draw(t, "b")
	p, q := rapid.Uint16Range(0, 9).Draw(t, "p"), rapid.Uint16Range(0, 9).Draw(t, "q")
	addr := func(v uint32) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(v >> 16), byte(v >> 8), byte(v)}) }
	s := Selector{Start: addr(min(a, b)), End: addr(max(a, b)), EndPort: 65535}
	if s.Protocol = rapid.SampledFrom([]uint8{0, 6, 17}).Draw(t, "proto"); s.Protocol != 0 && rapid.Bool().Draw(t, "ports") {
		s.StartPort, s.EndPort = min(p, q), max(p, q)
	}
	return s
}

func TestIntersectionSelectsExactlyWhatBothSelect(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := genSelector(t), genSelector(t)
		v := rapid.Uint32Range(0, 600).Draw(t, "v")
		addr := netip.AddrFrom4([4]byte{10, byte(v >> 16), byte(v >> 8), byte(v)})
		proto, port := rapid.SampledFrom([]uint8{6, 17, 1}).Draw(t, "pp"), rapid.Uint16Range(0, 9).Draw(t, "port")
		r, ok := a.Intersect(b)
		both := a.Contains(addr, proto, port, true) && b.Contains(addr, proto, port, true)
		if got := ok && r.Contains(addr, proto, port, true); got != both {
			t.Fatalf("%v and %v: %v (%v) says %v for %v/%d/%d", a, b, r, ok, got, addr, proto, port)
		}
		n := 0
		for _, p := range a.Prefixes() {
			if p.Contains(addr) {
				n++
			}
		}
		if in := !addr.Less(a.Start) && !a.End.Less(addr); (n == 1) != in || n > 1 {
			t.Fatalf("%v in %d prefixes of %v", addr, n, a)
		}
	})
}

func TestIdentities(t *testing.T) {
	for in, want := range map[string]string{
		"a.example.org": "fqdn:a.example.org", "@a.example": "fqdn:a.example", "joe@example.org": "email:joe@example.org", "192.0.2.1": "192.0.2.1", "2001:db8::1": "2001:db8::1",
		"keyid:group1": "keyid:group1", "keyid:0x00ff": "keyid:0x00ff", "ipv4:192.0.2.1": "192.0.2.1", "any": "any", "fqdn:x": "fqdn:x",
	} {
		id, err := ParseIdentity(in)
		if err != nil || id.String() != want {
			t.Errorf("%q: got %v, %v", in, id, err)
		}
		if again, err := ParseIdentity(id.String()); err != nil || !again.Equal(id) {
			t.Errorf("%q does not read back: %v, %v", id, again, err)
		}
	}
	for _, in := range []string{"", "fqdn:", "ipv4:::1", "email:joe", "keyid:0xzz", "zzz:1", "fe80::1%eth0"} {
		if id, err := ParseIdentity(in); err == nil {
			t.Errorf("%q: accepted as %v", in, id)
		}
	}
	a, _ := ParseIdentity("fqdn:A.Example.org")
	b, _ := ParseIdentity("a.example.ORG")
	c, _ := ParseIdentity("keyid:a.example.org")
	if !a.Matches(b) || a.Matches(c) {
		t.Error("names compare without case, and only with names")
	}
}
