package wire

import (
	"bytes"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/chacha20poly1305"
)

// all returns the payloads of a message: the clear ones and the encrypted one.
func (m *Message) all() []Payload {
	p := slices.Clone(m.Payloads)
	if m.SK != nil {
		p = append(p, m.SK)
	}
	if m.SKF != nil {
		p = append(p, m.SKF)
	}
	return p
}

func TestEachPayloadSurvivesTheRoundTrip(t *testing.T) {
	t.Parallel()
	every := maps.Clone(samples)
	maps.Copy(every, sealed)
	for name, p := range every {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := mustAppend(t, p)
			m, err := Parse(b)
			if err != nil {
				t.Fatalf("parse %x: %v", b, err)
			}
			if diff := cmp.Diff([]Payload{p}, m.all(), equal); diff != "" {
				t.Errorf("appended and parsed (-want +got):\n%s", diff)
			}
			if got := m.all()[0].PayloadType(); got != m.NextPayload {
				t.Errorf("payload type %v under a header that says %v", got, m.NextPayload)
			}
			want := sampleHeader
			want.NextPayload, want.Length = p.PayloadType(), uint32(len(b))
			if diff := cmp.Diff(want, m.Header); diff != "" {
				t.Errorf("header (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAChainOfAllPayloadsSurvivesTheRoundTrip(t *testing.T) {
	t.Parallel()
	var chain []Payload
	for _, name := range slices.Sorted(maps.Keys(samples)) {
		chain = append(chain, samples[name])
	}
	first, b, err := AppendPayloads([]byte("before"), chain)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParsePayloads(first, bytes.TrimPrefix(b, []byte("before")))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(chain, got, equal); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNoProperPrefixParses(t *testing.T) {
	t.Parallel()
	every := maps.Clone(samples)
	maps.Copy(every, sealed)
	for name, p := range every {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			chain := []Payload{samples["N with SPI"], samples["V"], p}
			b := mustAppend(t, chain...)
			for n := range b {
				if m, err := Parse(b[:n]); err == nil {
					t.Errorf("%d of %d octets parse: %+v", n, len(b), m)
				}
				// Nor does a prefix whose header tells the truth about its length.
				if n >= HeaderLen {
					cut := bytes.Clone(b[:n])
					cut[26], cut[27] = byte(n>>8), byte(n)
					if m, err := Parse(cut); err == nil {
						t.Errorf("%d of %d octets with their own length parse: %+v", n, len(b), m)
					}
				}
			}
			if _, err := Parse(append(bytes.Clone(b), 0)); err == nil {
				t.Error("parses with an octet left over")
			}
			if _, isSample := samples[name]; !isSample {
				return
			}
			first, inner, err := AppendPayloads(nil, chain)
			if err != nil {
				t.Fatal(err)
			}
			for n := range inner {
				if got, err := ParsePayloads(first, inner[:n]); err == nil {
					t.Errorf("%d of %d octets of the chain parse: %v", n, len(inner), got)
				}
			}
		})
	}
}

func TestTheMessageOfRFC7634(t *testing.T) {
	t.Parallel()
	v := vectors(t, "rfc7634-appendix-b.txt")
	m, err := Parse(v["message"])
	if err != nil {
		t.Fatal(err)
	}
	want := Header{
		InitiatorSPI: 0xc0c1c2c3c4c5c6c7, ResponderSPI: 0xd0d1d2d3d4d5d6d7, NextPayload: PayloadSK,
		Version: Version2, Exchange: ExchangeInformational, MessageID: 9, Length: 69,
	}
	if diff := cmp.Diff(want, m.Header); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
	if m.SK == nil || m.SK.First != PayloadNotify {
		t.Fatalf("no SK with a notification first: %+v", m.SK)
	}
	if !bytes.Equal(m.AAD(), v["aad"]) {
		t.Errorf("associated data %x, want %x", m.AAD(), v["aad"])
	}

	// It opens with the RFC's key, so AAD and Body are cut in the right place.
	var key []byte
	for b := byte(0x80); b <= 0x9f; b++ {
		key = append(key, b)
	}
	aead, err := chacha20poly1305.New(key)
	if err != nil {
		t.Fatal(err)
	}
	iv, sealed := m.SK.Body[:8], m.SK.Body[8:]
	nonce := append([]byte{0xa0, 0xa1, 0xa2, 0xa3}, iv...)
	plain, err := aead.Open(nil, nonce, sealed, m.AAD())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(plain, v["plaintext"]) {
		t.Errorf("plaintext %x, want %x", plain, v["plaintext"])
	}
	chain := plain[:len(plain)-1] // without the pad length
	inner, err := ParsePayloads(m.SK.First, chain)
	if err != nil {
		t.Fatal(err)
	}
	notify := []Payload{&Notify{Type: NotifySetWindowSize, Data: []byte{0, 0, 0, 10}}}
	if diff := cmp.Diff(notify, inner); diff != "" {
		t.Errorf("inside (-want +got):\n%s", diff)
	}

	// And back.
	first, b, err := AppendPayloads(nil, notify)
	if err != nil || first != PayloadNotify || !bytes.Equal(b, chain) {
		t.Errorf("AppendPayloads = %v, %x, %v; want %x", first, b, err, chain)
	}
	head, err := AppendEncryptedHeader(nil, m.Header, first, len(m.SK.Body))
	if err != nil || !bytes.Equal(head, v["aad"]) {
		t.Errorf("AppendEncryptedHeader = %x, %v; want %x", head, err, v["aad"])
	}
	if b := append(head, m.SK.Body...); !bytes.Equal(b, v["message"]) {
		t.Errorf("message %x, want %x", b, v["message"])
	}
	b, err = Append(nil, m.Header, m.all())
	if err != nil || !bytes.Equal(b, v["message"]) {
		t.Errorf("Append = %x, %v; want %x", b, err, v["message"])
	}
}

func TestAFragmentsHeaderIsItsAssociatedData(t *testing.T) {
	t.Parallel()
	for _, p := range []*EncryptedFragment{
		{First: PayloadIDi, Number: 1, Total: 3, Body: key},
		{Number: 3, Total: 3, Body: key},
	} {
		whole := mustAppend(t, p)
		head, err := AppendFragmentHeader([]byte("before"), sampleHeader, p.First, p.Number, p.Total, len(p.Body))
		if err != nil {
			t.Fatal(err)
		}
		head = bytes.TrimPrefix(head, []byte("before"))
		m, err := Parse(append(head, p.Body...))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(m.Raw, whole) || !bytes.Equal(m.AAD(), head) {
			t.Errorf("message %x with associated data %x, want %x", m.Raw, m.AAD(), whole)
		}
	}
}

func TestReservedBitsAreIgnoredAndSentAsZero(t *testing.T) {
	t.Parallel()
	clean := mustAppend(t, samples["TSi"], samples["KE"], samples["AUTH"], samples["CP"], samples["SA for ESP and AH"])
	dirty := bytes.Clone(clean)
	dirty[19] |= 0xd7 // header: V and the X bits
	at := HeaderLen
	for r, err := range Walk(PayloadTSi, clean[HeaderLen:]) {
		if err != nil {
			t.Fatal(err)
		}
		dirty[at+1] = 0xff // generic header: critical, on a type we know, and reserved
		switch r.Type {
		case PayloadTSi, PayloadAUTH, PayloadCP:
			copy(dirty[at+5:at+8], "\xff\xff\xff")
			if r.Type == PayloadCP {
				dirty[at+8] |= 0x80 // R
			}
		case PayloadKE:
			copy(dirty[at+6:at+8], "\xff\xff")
		case PayloadSA:
			dirty[at+4+1] = 0xff     // proposal
			dirty[at+4+12+1] = 0xff  // transform
			dirty[at+4+12+5] |= 0xff // transform, before the number
		}
		at += PayloadHeaderLen + len(r.Body)
	}
	m, err := Parse(dirty)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Append(nil, m.Header, m.Payloads)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, clean) {
		t.Errorf("appended %x\nwant     %x", b, clean)
	}
}

func TestAnIdentitysBodyIsWhatAUTHCovers(t *testing.T) {
	t.Parallel()
	b := mustAppend(t, samples["IDr address"])
	for _, reserved := range []byte{0, 0xff} {
		b[len(b)-5] = reserved
		m, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		id, _ := Find[*ID](m.Payloads, PayloadIDr)
		if want := b[HeaderLen+PayloadHeaderLen:]; !bytes.Equal(id.Body(), want) {
			t.Errorf("%x, want %x", id.Body(), want)
		}
	}
}

func TestANotificationWithoutSPIHasNoProtocol(t *testing.T) {
	t.Parallel()
	// RFC 7296, section 3.10: ignored on receipt. Some peers put the IKE SA's protocol there.
	b := mustAppend(t, samples["N empty"])
	b[HeaderLen+PayloadHeaderLen] = byte(ProtocolIKE)
	m, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Payload{samples["N empty"]}, m.Payloads); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestHeaderOfBothVersions(t *testing.T) {
	t.Parallel()
	// A main mode message of IKEv1 with the encryption flag: nothing follows.
	b := []byte{1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 9, 5, 0x10, 2, 0x81, 0, 0, 0, 0, 0, 0, 0, 28}
	h, err := ParseHeader(b)
	want := Header{
		InitiatorSPI: 0x0102030405060708, ResponderSPI: 9, NextPayload: 5,
		Version: Version1, Exchange: 2, Flags: V1Encryption, Length: 28,
	}
	if diff := cmp.Diff(want, h); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	b[17], b[19] = 0x25, 0x28
	h, err = ParseHeader(b)
	if err != nil || h.Version.String() != "2.5" || h.Flags.String() != "I|R" {
		t.Errorf("version %v, flags %v, %v; want 2.5, I|R", h.Version, h.Flags, err)
	}
}

func TestCriticalPayloads(t *testing.T) {
	t.Parallel()
	skip := &Unknown{Type: 201}
	if err := CheckCritical([]Payload{samples["V"], skip}); err != nil {
		t.Errorf("a payload to be skipped is an error: %v", err)
	}
	err := CheckCritical([]Payload{skip, samples["unknown"]})
	if want := UnsupportedCritical(200); err != want {
		t.Errorf("error %v, want %v", err, want)
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	ps := []Payload{samples["IDi"], samples["IDr address"], samples["N empty"], samples["N with SPI"], &Unknown{Type: PayloadSA}}
	if id, ok := Find[*ID](ps, PayloadIDr); !ok || id != samples["IDr address"] {
		t.Errorf("IDr: %v, %v", id, ok)
	}
	if sa, ok := Find[*SA](ps, PayloadSA); ok || sa != nil {
		t.Errorf("an SA where there is none: %v", sa)
	}
	if n := FindNotify(ps, NotifyRekeySA); n != samples["N with SPI"] {
		t.Errorf("REKEY_SA: %v", n)
	}
	if n := FindNotify(ps, NotifyCookie); n != nil {
		t.Errorf("a cookie where there is none: %v", n)
	}
}

func TestKeyLength(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		attributes []Attribute
		bits       uint16
		ok         bool
	}{
		"none":         {nil, 0, true},
		"128":          {[]Attribute{{Type: AttributeKeyLength, Value: 128}}, 128, true},
		"twice":        {[]Attribute{{Type: AttributeKeyLength, Value: 128}, {Type: AttributeKeyLength, Value: 256}}, 0, false},
		"wrong format": {[]Attribute{{Type: AttributeKeyLength, TLV: true, Data: []byte{0, 128}}}, 0, false},
		"another":      {[]Attribute{{Type: 15, Value: 128}}, 0, false},
	} {
		x := Transform{Type: TransformENCR, Attributes: tc.attributes}
		if bits, ok := x.KeyLength(); bits != tc.bits || ok != tc.ok {
			t.Errorf("%s: %d, %v; want %d, %v", name, bits, ok, tc.bits, tc.ok)
		}
	}
}

func TestTransformsAreEqualWithTheirAttributes(t *testing.T) {
	t.Parallel()
	a := NewTransform(TransformENCR, 20, 256)
	for name, tc := range map[string]struct {
		other Transform
		want  bool
	}{
		"same":         {NewTransform(TransformENCR, 20, 256), true},
		"other key":    {NewTransform(TransformENCR, 20, 128), false},
		"no key":       {NewTransform(TransformENCR, 20, 0), false},
		"other number": {NewTransform(TransformENCR, 19, 256), false},
		"other type":   {NewTransform(TransformPRF, 20, 256), false},
		"other format": {Transform{Type: TransformENCR, ID: 20, Attributes: []Attribute{{Type: 14, TLV: true, Data: []byte{1, 0}}}}, false},
	} {
		if got := a.Equal(&tc.other); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
