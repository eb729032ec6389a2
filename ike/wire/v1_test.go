package wire

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var v1Equal = cmp.Options{cmpopts.EquateComparable(netip.Addr{}), cmpopts.IgnoreFields(V1Message{}, "Raw")}

var v1Header = Header{InitiatorSPI: 0xc0c1c2c3c4c5c6c7, ResponderSPI: 0xd0d1d2d3d4d5d6d7, Version: Version1, Exchange: ExchangeV1Main}

// v1Samples has each payload of IKEv1 in each of its forms.
var v1Samples = []Payload{
	&V1SA{Proposals: []V1Proposal{{Number: 1, Protocol: ProtocolV1ISAKMP, Transforms: []V1Transform{
		{Number: 1, ID: TransformV1KeyIKE, Attributes: []Attribute{
			{Type: AttrV1Encryption, Value: 7},
			{Type: AttrV1KeyLength, Value: 128},
			{Type: AttrV1Hash, Value: 2},
			{Type: AttrV1Group, Value: 14},
			{Type: AttrV1AuthMethod, Value: AuthV1PSK},
			{Type: AttrV1LifeType, Value: LifeV1Seconds},
			{Type: AttrV1LifeDuration, TLV: true, Data: []byte{0, 0, 0x70, 0x80}},
		}},
		{Number: 2, ID: TransformV1KeyIKE},
	}}}},
	&V1SA{Proposals: []V1Proposal{
		{Number: 1, Protocol: ProtocolESP, SPI: []byte{1, 2, 3, 4}, Transforms: []V1Transform{{Number: 1, ID: 12, Attributes: []Attribute{{Type: AttrV1SAMode, Value: ModeV1Tunnel}}}}},
		{Number: 1, Protocol: ProtocolV1IPComp, SPI: []byte{1, 2}, Transforms: []V1Transform{{Number: 1, ID: 2}}},
		{Number: 2, Protocol: ProtocolV1ISAKMP, SPI: bytes.Repeat([]byte{7}, 16), Transforms: []V1Transform{{Number: 1, ID: 1}}},
	}},
	&V1Opaque{Type: PayloadV1KE, Data: key},
	&V1ID{Type: IDV1IPv4, Protocol: 17, Port: 500, Data: []byte{192, 0, 2, 1}},
	&V1ID{Type: IDV1FQDN, Data: []byte("a.example.org")},
	&V1ID{Type: IDV1IPv4Subnet, Data: []byte{10, 1, 0, 0, 255, 255, 0, 0}},
	&V1ID{Type: IDV1IPv6Range, Data: make([]byte, 32)},
	&V1Cert{Encoding: CertX509Signature, Data: key},
	&V1Cert{Request: true, Encoding: CertX509Signature},
	&V1Opaque{Type: PayloadV1Hash, Data: key},
	&V1Opaque{Type: PayloadV1Sig, Data: key},
	&V1Opaque{Type: PayloadV1Nonce, Data: key},
	&V1Notify{DOI: DOIIPsec, Protocol: ProtocolV1ISAKMP, SPI: make([]byte, 16), Type: NotifyV1RUThere, Data: []byte{0, 0, 0, 1}},
	&V1Notify{Type: NotifyV1NoProposalChosen},
	&V1Delete{DOI: DOIIPsec, Protocol: ProtocolESP, Size: 4, SPIs: [][]byte{{1, 2, 3, 4}, {5, 6, 7, 8}}},
	&V1Delete{DOI: DOIIPsec, Protocol: ProtocolV1ISAKMP, Size: 16, SPIs: [][]byte{make([]byte, 16)}},
	&V1Opaque{Type: PayloadV1VendorID, Data: []byte("coati-1")},
	&V1Opaque{Type: PayloadV1NATD, Data: key[:20]},
	&V1Opaque{Type: PayloadV1NATDDraft, Data: key[:20]},
	&V1NATOA{Addr: netip.MustParseAddr("192.0.2.1")},
	&V1NATOA{Draft: true, Addr: netip.MustParseAddr("2001:db8::1")},
	&Unknown{Type: 200, Body: []byte{1}},
	&V1Config{Type: ConfigV1Request, Identifier: 7, Attributes: []Attribute{{Type: ConfigXAuthType}, {Type: ConfigXAuthUser, TLV: true, Data: []byte("alice")}}},
	&V1Config{Type: ConfigV1Ack},
}

func v1Message(t testing.TB, payloads ...Payload) []byte {
	t.Helper()
	b, err := AppendV1(nil, v1Header, payloads)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEachPayloadOfIKEv1SurvivesTheRoundTrip(t *testing.T) {
	t.Parallel()
	for i, p := range append(v1Samples, nil) {
		set := v1Samples
		if p != nil {
			set = v1Samples[i : i+1]
		}
		b := v1Message(t, set...)
		m, err := ParseV1(b)
		if err != nil {
			t.Fatalf("%d %v: %v", i, set[0].PayloadType(), err)
		}
		if diff := cmp.Diff(set, m.Payloads, v1Equal); diff != "" {
			t.Errorf("%d (-appended +parsed):\n%s", i, diff)
		}
		first, chain, err := AppendV1Payloads(nil, set)
		if err != nil || !bytes.Equal(chain, b[HeaderLen:]) {
			t.Fatalf("%d: the chain alone is %x, %v", i, chain, err)
		}
		again, n, err := ParseV1Payloads(first, append(bytes.Clone(chain), 9, 9, 9))
		if err != nil || n != len(chain) {
			t.Fatalf("%d: with padding %d octets of %d are read, %v", i, n, len(chain), err)
		}
		if diff := cmp.Diff(set, again, v1Equal); diff != "" {
			t.Errorf("%d with padding (-appended +parsed):\n%s", i, diff)
		}
		if got := V1Body(first, chain, set[0].PayloadType()); !bytes.Equal(got, b[HeaderLen+PayloadHeaderLen:HeaderLen+PayloadHeaderLen+len(got)]) || got == nil {
			t.Errorf("%d: body %x", i, got)
		}
	}
}

func TestNoProperPrefixOfIKEv1Parses(t *testing.T) {
	t.Parallel()
	b := v1Message(t, v1Samples...)
	for n := range b {
		if _, err := ParseV1(b[:n]); err == nil {
			t.Fatalf("%d of %d octets parse", n, len(b))
		}
	}
	first, chain, _ := AppendV1Payloads(nil, v1Samples)
	for n := range chain {
		if _, _, err := ParseV1Payloads(first, chain[:n]); err == nil {
			t.Fatalf("%d of %d octets of a chain parse", n, len(chain))
		}
	}
	if _, err := ParseV1(append(b, 0)); !errors.Is(err, ErrLength) {
		t.Errorf("a message with an octet too many: %v", err)
	}
}

func TestWhatIKEv1Forbids(t *testing.T) {
	t.Parallel()
	sa := v1Message(t, v1Samples[0])
	with := func(b []byte, at int, v ...byte) []byte {
		b = bytes.Clone(b)
		copy(b[at:], v)
		return b
	}
	const body = HeaderLen + PayloadHeaderLen
	for name, c := range map[string]struct {
		b    []byte
		kind error
	}{
		"another domain of interpretation":      {with(sa, body, 0, 0, 0, 2), ErrValue},
		"a situation with secrecy":              {with(sa, body+4, 0, 0, 0, 3), ErrValue},
		"an SPI size beyond its limit":          {with(sa, body+8+6, 17), ErrValue},
		"more transforms than announced":        {with(sa, body+8+7, 1), ErrLength},
		"fewer transforms than announced":       {with(sa, body+8+7, 3), ErrLength},
		"a version that is not 1":               {with(sa, 17, 0x20), ErrValue},
		"an address of five octets":             {with(v1Message(t, &V1ID{Type: IDV1FQDN, Data: []byte("abcde")}), body, 1), ErrLength},
		"an SPI of no octets in a delete":       {with(v1Message(t, v1Samples[14]), body+5, 0), ErrValue},
		"fewer SPIs than announced":             {with(v1Message(t, v1Samples[14]), body+6, 0, 3), ErrLength},
		"an original address of no family":      {with(v1Message(t, v1Samples[19]), body, 2), ErrValue},
		"an encrypted message without anything": {with(v1Message(t), 19, byte(V1Encryption)), ErrTruncated},
	} {
		if _, err := ParseV1(c.b); !errors.Is(err, c.kind) {
			t.Errorf("%s: %v, want %v", name, err, c.kind)
		}
	}
	for name, p := range map[string]Payload{
		"a short nonce":            &V1Opaque{Type: PayloadV1Nonce, Data: key[:7]},
		"no SA inside":             &V1SA{},
		"a known type as unknown":  &Unknown{Type: PayloadV1Nonce, Body: key},
		"a payload that has rules": &V1Opaque{Type: PayloadV1SA, Data: key},
		"SPIs of other sizes":      &V1Delete{Protocol: ProtocolESP, Size: 4, SPIs: [][]byte{{1}}},
	} {
		if b, err := AppendV1(nil, v1Header, []Payload{p}); err == nil || b != nil {
			t.Errorf("%s is appended as %x", name, b)
		}
	}
}

func TestNumbersInAttributesOfAnyLength(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a    Attribute
		want uint64
		ok   bool
	}{
		{Attribute{Value: 3600}, 3600, true},
		{Attribute{TLV: true, Data: []byte{0, 1, 0x51, 0x80}}, 86400, true},
		{Attribute{TLV: true}, 0, false},
		{Attribute{TLV: true, Data: make([]byte, 9)}, 0, false},
	} {
		if v, ok := c.a.Number(); v != c.want || ok != c.ok {
			t.Errorf("%+v is %d, %v", c.a, v, ok)
		}
	}
}

func TestEncryptedMessagesOfIKEv1KeepTheirOctets(t *testing.T) {
	t.Parallel()
	b, err := AppendV1Sealed(nil, v1Header, PayloadV1Hash, key)
	if err != nil {
		t.Fatal(err)
	}
	m, err := ParseV1(b)
	if err != nil || m.Flags != V1Encryption || m.NextPayload != PayloadV1Hash || !bytes.Equal(m.Sealed, key) || m.Payloads != nil {
		t.Errorf("%+v, %v", m, err)
	}
}

func FuzzParseV1(f *testing.F) {
	for _, p := range v1Samples {
		f.Add(v1Message(f, p))
	}
	f.Add(v1Message(f, v1Samples...))
	f.Fuzz(func(t *testing.T, b []byte) {
		was := bytes.Clone(b)
		m, err := ParseV1(b)
		if !bytes.Equal(b, was) {
			t.Fatal("parsing changed the input")
		}
		if len(b) > HeaderLen {
			first := PayloadType(b[16])
			ps, n, err := ParseV1Payloads(first, b[HeaderLen:])
			if err == nil && (n < 0 || n > len(b)-HeaderLen || len(ps) == 0 && n != 0) {
				t.Fatalf("%d payloads in %d octets", len(ps), n)
			}
			V1Body(first, b[HeaderLen:], PayloadV1ID)
		}
		if err != nil {
			if e, ok := err.(*Error); !ok || e.Offset < 0 || e.Offset > len(b) {
				t.Fatalf("error %#v for %d octets", err, len(b))
			}
			return
		}
		if m.Sealed != nil {
			return
		}
		again, err := AppendV1(nil, m.Header, m.Payloads)
		if err != nil || len(again) != len(b) {
			t.Fatalf("what parses appends to %d octets of %d: %v", len(again), len(b), err)
		}
		m2, err := ParseV1(again)
		if err != nil {
			t.Fatalf("what was appended does not parse: %v", err)
		}
		if diff := cmp.Diff(m, m2, v1Equal); diff != "" {
			t.Fatalf("parsed again (-first +second):\n%s", diff)
		}
	})
}

func TestNamesOfIKEv1(t *testing.T) {
	t.Parallel()
	got := fmt.Sprint(PayloadV1SA, PayloadV1NATOADraft, ExchangeV1Main, ExchangeV1Quick, NotifyV1RUThereAck, V1NotifyType(99))
	if want := "SA NAT-OA(draft) main mode quick mode R-U-THERE-ACK UNKNOWN(99)"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if !NotifyV1InvalidSignature.IsError() || NotifyV1Connected.IsError() {
		t.Error("errors are the types below 16384")
	}
}
