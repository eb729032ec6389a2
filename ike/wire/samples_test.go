package wire

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// equal compares what was parsed; addresses by value, and a message without the octets it came from.
var equal = cmp.Options{cmpopts.EquateComparable(netip.Addr{}), cmpopts.IgnoreFields(Message{}, "Raw")}

var (
	v4  = netip.MustParseAddr
	key = bytes.Repeat([]byte{0xab}, 32)
)

var sampleHeader = Header{
	InitiatorSPI: 0xc0c1c2c3c4c5c6c7, ResponderSPI: 0xd0d1d2d3d4d5d6d7,
	Version: Version2, Exchange: ExchangeIKEAuth, Flags: FlagInitiator | FlagResponse, MessageID: 7,
}

// samples has each payload in each of its forms.
var samples = map[string]Payload{
	"SA for an IKE SA": &SA{Proposals: []Proposal{
		{Number: 1, Protocol: ProtocolIKE, Transforms: []Transform{
			NewTransform(TransformENCR, 20, 256), NewTransform(TransformENCR, 20, 128), NewTransform(TransformPRF, 5, 0),
			NewTransform(TransformKE, 19, 0), NewTransform(TransformADDKE1, 36, 0),
		}},
		{Number: 2, Protocol: ProtocolIKE, Transforms: []Transform{NewTransform(TransformENCR, 12, 128)}},
	}},
	"SA for an IKE rekey": &SA{Proposals: []Proposal{{
		Number: 1, Protocol: ProtocolIKE, SPI: SPI8(0x0102030405060708),
		Transforms: []Transform{NewTransform(TransformPRF, 5, 0)},
	}}},
	"SA for ESP and AH": &SA{Proposals: []Proposal{
		{Number: 1, Protocol: ProtocolESP, SPI: SPI4(0xdeadbeef), Transforms: []Transform{NewTransform(TransformESN, 0, 0)}},
		{Number: 2, Protocol: ProtocolAH, SPI: SPI4(1), Transforms: []Transform{NewTransform(TransformINTEG, 12, 0)}},
	}},
	"SA with attributes nobody knows": &SA{Proposals: []Proposal{{
		Number: 9, Protocol: 77, Transforms: []Transform{{Type: 250, ID: 65535, Attributes: []Attribute{
			{Type: 14, Value: 65535}, {Type: 32767, TLV: true, Data: []byte{1, 2, 3}}, {Type: 0, TLV: true},
		}}},
	}}},
	"KE":            &KE{Method: 31, Data: key},
	"IDi":           &ID{Type: IDFQDN, Data: []byte("a.example.org")},
	"IDr address":   &ID{Responder: true, Type: IDIPv4Addr, Data: []byte{192, 0, 2, 1}},
	"IDi null":      &ID{Type: IDNull},
	"CERT":          &Cert{Encoding: CertX509Signature, Data: []byte{0x30, 0x00}},
	"CERTREQ":       &CertReq{Encoding: CertX509Signature, Authorities: bytes.Repeat([]byte{1}, 40)},
	"CERTREQ empty": &CertReq{Encoding: CertHashAndURL},
	"AUTH":          &Auth{Method: AuthSharedKey, Data: key},
	"Nonce":         &Nonce{Data: key},
	"N without SPI": &Notify{Type: NotifyNATDetectionSourceIP, Data: bytes.Repeat([]byte{7}, 20)},
	"N empty":       &Notify{Type: NotifyInitialContact},
	"N with SPI":    &Notify{Protocol: ProtocolESP, SPI: SPI4(0xdeadbeef), Type: NotifyRekeySA},
	"N of an IKE SA": &Notify{
		Protocol: ProtocolIKE, SPI: SPI8(1 << 63), Type: 65000, Data: []byte{1},
	},
	"D of the IKE SA": &Delete{Protocol: ProtocolIKE},
	"D of ESP":        &Delete{Protocol: ProtocolESP, SPIs: []uint32{1, 0xffffffff}},
	"V":               &VendorID{Data: []byte("coati")},
	"V empty":         &VendorID{},
	"TSi": &TS{Selectors: []Selector{
		NewSelector(0, v4("10.1.0.0"), v4("10.1.255.255"), 0, 65535),
		NewSelector(17, v4("10.1.0.1"), v4("10.1.0.1"), 65535, 0),
		NewSelector(58, v4("2001:db8::"), v4("2001:db8::ffff"), 0x8000, 0x80ff),
		NewSelector(0, v4("::ffff:1.2.3.4"), v4("::ffff:1.2.3.5"), 0, 65535),
	}},
	"TSr with a label": &TS{Responder: true, Selectors: []Selector{
		{Type: TSSecLabel, Other: []byte("label")},
		{Type: 200, Protocol: 3},
		NewSelector(6, v4("0.0.0.0"), v4("255.255.255.255"), 22, 22),
	}},
	"CP": &Config{Type: ConfigRequest, Attributes: []ConfigAttribute{
		{Type: ConfigInternalIP4Address}, {Type: ConfigInternalIP4DNS, Value: []byte{9, 9, 9, 9}}, {Type: 32767},
	}},
	"CP empty": &Config{Type: ConfigAck},
	"EAP":      &EAP{Message: []byte{1, 2, 0, 6, 3, 4}},
	"unknown":  &Unknown{Type: 200, Critical: true, Body: []byte{1, 2, 3}},
	"IKEv1's":  &Unknown{Type: 13},
}

var sealed = map[string]Payload{
	"SK":       &Encrypted{First: PayloadIDi, Body: key},
	"SK empty": &Encrypted{First: PayloadNone, Body: key},
	"SKF 1":    &EncryptedFragment{First: PayloadIDi, Number: 1, Total: 2, Body: key},
	"SKF 2":    &EncryptedFragment{Number: 2, Total: 2, Body: key},
}

func mustAppend(t testing.TB, payloads ...Payload) []byte {
	t.Helper()
	b, err := Append(nil, sampleHeader, payloads)
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	return b
}

// vectors reads a file of "name: hex" lines.
func vectors(t testing.TB, name string) map[string][]byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string][]byte)
	for line := range strings.Lines(string(text)) {
		name, digits, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		b, err := hex.DecodeString(strings.ReplaceAll(digits, " ", ""))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out[name] = b
	}
	return out
}
