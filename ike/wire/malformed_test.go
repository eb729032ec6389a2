package wire

import (
	"bytes"
	"errors"
	"math"
	"net/netip"
	"testing"
)

// one is a chain of a single payload with the given octets after the generic header.
func one(body ...byte) []byte {
	n := PayloadHeaderLen + len(body)
	return append([]byte{0, 0, byte(n >> 8), byte(n)}, body...)
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func zeros(n int) []byte { return make([]byte, n) }

var (
	transform = []byte{0, 0, 0, 8, 1, 0, 0, 12}
	// An ESP proposal of one transform, 20 octets.
	proposal = join([]byte{0, 0, 0, 20, 1, 3, 4, 1, 0xde, 0xad, 0xbe, 0xef}, transform)
)

// with returns b with the octet at i replaced.
func with(b []byte, i int, v byte) []byte {
	b = bytes.Clone(b)
	b[i] = v
	return b
}

func TestMalformedChains(t *testing.T) {
	t.Parallel()
	many := func(n int, element []byte) []byte { return bytes.Repeat(element, n) }
	for name, tc := range map[string]struct {
		first PayloadType
		b     []byte
		want  Error
	}{
		"nothing where a payload is announced": {PayloadNonce, nil, Error{ErrTruncated, PayloadNonce, "next payload", 0}},
		"octets where none are announced":      {PayloadNone, []byte{0}, Error{ErrLength, PayloadNone, "next payload", 0}},
		"a chain that goes on":                 {PayloadVendorID, []byte{40, 0, 0, 4}, Error{ErrTruncated, PayloadNonce, "next payload", 4}},
		"octets after the last payload":        {PayloadVendorID, []byte{0, 0, 0, 4, 9}, Error{ErrLength, PayloadNone, "next payload", 4}},
		"payload length below its header":      {PayloadVendorID, []byte{0, 0, 0, 3}, Error{ErrLength, PayloadVendorID, "payload length", 2}},
		"payload length zero":                  {PayloadVendorID, []byte{0, 0, 0, 0}, Error{ErrLength, PayloadVendorID, "payload length", 2}},
		"payload longer than the chain":        {PayloadVendorID, []byte{0, 0, 0, 5}, Error{ErrTruncated, PayloadVendorID, "payload length", 2}},
		"too many payloads": {
			PayloadVendorID, join(many(MaxPayloads, []byte{43, 0, 0, 4}), one()),
			Error{ErrTooMany, PayloadNone, "payloads", 4 * MaxPayloads},
		},
		"SK inside SK":  {PayloadSK, one(1, 2, 3), Error{ErrValue, PayloadSK, "payload inside an encrypted one", 0}},
		"SKF inside SK": {PayloadSKF, one(0, 1, 0, 1, 9), Error{ErrValue, PayloadSKF, "payload inside an encrypted one", 0}},

		"SA without proposals": {PayloadSA, one(), Error{ErrLength, PayloadSA, "proposals", 4}},
		"proposal length below its header": {
			PayloadSA, one(with(proposal, 3, 3)...), Error{ErrLength, PayloadSA, "proposal length", 6},
		},
		"proposal longer than the SA": {
			PayloadSA, join([]byte{43, 0, 0, 24}, with(proposal, 3, 21), one()),
			Error{ErrLength, PayloadSA, "proposal length", 6},
		},
		"proposal shorter than its transforms": {
			PayloadSA, one(with(proposal, 3, 19)...), Error{ErrLength, PayloadSA, "last substruc", 4},
		},
		"last substruc of a proposal neither 0 nor 2": {
			PayloadSA, one(with(proposal, 0, 3)...), Error{ErrValue, PayloadSA, "last substruc", 4},
		},
		"more proposals announced than there are": {
			PayloadSA, one(with(proposal, 0, 2)...), Error{ErrTruncated, PayloadSA, "last substruc", 4},
		},
		"a proposal after the last": {
			PayloadSA, one(join(proposal, proposal)...), Error{ErrLength, PayloadSA, "last substruc", 4},
		},
		"SPI of 5 octets":              {PayloadSA, one(with(proposal, 6, 5)...), Error{ErrValue, PayloadSA, "spi size", 10}},
		"SPI of 8 octets for ESP":      {PayloadSA, one(with(proposal, 6, 8)...), Error{ErrValue, PayloadSA, "spi size", 10}},
		"SPI of 4 octets for IKE":      {PayloadSA, one(with(proposal, 5, 1)...), Error{ErrValue, PayloadSA, "spi size", 10}},
		"more transforms than counted": {PayloadSA, one(with(proposal, 7, 0)...), Error{ErrLength, PayloadSA, "transforms", 24}},
		"less transforms than counted": {PayloadSA, one(with(proposal, 7, 2)...), Error{ErrLength, PayloadSA, "transforms", 24}},
		"transforms over the limit": {
			PayloadSA, one(with(proposal, 7, MaxTransforms+1)...), Error{ErrTooMany, PayloadSA, "transforms", 11},
		},
		"proposal without transforms": {
			PayloadSA, one(0, 0, 0, 12, 1, 3, 4, 0, 1, 2, 3, 4), Error{ErrLength, PayloadSA, "transforms", 16},
		},
		"proposals over the limit": {
			PayloadSA, one(join(many(MaxProposals, with(proposal, 0, 2)), proposal)...),
			Error{ErrTooMany, PayloadSA, "proposals", 4 + 20*MaxProposals},
		},
		"last substruc of a transform neither 0 nor 3": {
			PayloadSA, one(with(proposal, 12, 2)...), Error{ErrValue, PayloadSA, "last substruc", 16},
		},
		"transform longer than its proposal": {
			PayloadSA, join([]byte{43, 0, 0, 24}, with(proposal, 15, 9), one()), Error{ErrLength, PayloadSA, "transform length", 18},
		},
		"transform length below its header": {
			PayloadSA, one(with(proposal, 15, 7)...), Error{ErrLength, PayloadSA, "last substruc", 16},
		},
		"attribute cut short": {
			PayloadSA, one(0, 0, 0, 23, 1, 3, 4, 1, 1, 2, 3, 4, 0, 0, 0, 11, 1, 0, 0, 12, 0x80, 14, 1),
			Error{ErrTruncated, PayloadSA, "attribute value", 26},
		},
		"attribute longer than its transform": {
			PayloadSA, join([]byte{43, 0, 0, 28}, []byte{0, 0, 0, 24, 1, 3, 4, 1, 1, 2, 3, 4, 0, 0, 0, 12, 1, 0, 0, 12, 0, 14, 0, 1}, one()),
			Error{ErrLength, PayloadSA, "attribute value", 26},
		},
		"attributes over the limit": {
			PayloadSA, one(join([]byte{0, 0, 0, 56, 1, 3, 4, 1, 1, 2, 3, 4, 0, 0, 0, 44, 1, 0, 0, 12}, many(MaxAttributes+1, []byte{0x80, 14, 0, 128}))...),
			Error{ErrTooMany, PayloadSA, "attributes", 24 + 4*MaxAttributes},
		},

		"KE without data":         {PayloadKE, one(0, 19, 0, 0), Error{ErrTruncated, PayloadKE, "key exchange data", 8}},
		"KE of three octets":      {PayloadKE, one(0, 19, 0), Error{ErrTruncated, PayloadKE, "reserved", 6}},
		"nonce of 15 octets":      {PayloadNonce, one(zeros(MinNonce - 1)...), Error{ErrLength, PayloadNonce, "nonce data", 4}},
		"nonce of 257 octets":     {PayloadNonce, one(zeros(MaxNonce + 1)...), Error{ErrLength, PayloadNonce, "nonce data", 4}},
		"IPv4 identity too short": {PayloadIDi, one(1, 0, 0, 0, 1, 2, 3), Error{ErrLength, PayloadIDi, "identification data", 8}},
		"IPv6 identity too short": {PayloadIDr, one(5, 0, 0, 0, 1, 2, 3, 4), Error{ErrLength, PayloadIDr, "identification data", 8}},
		"null identity with data": {PayloadIDi, one(13, 0, 0, 0, 1), Error{ErrLength, PayloadIDi, "identification data", 8}},
		"CERT without data":       {PayloadCERT, one(4), Error{ErrTruncated, PayloadCERT, "certificate data", 5}},
		"CERTREQ of half a hash":  {PayloadCERTREQ, one(join([]byte{4}, zeros(10))...), Error{ErrLength, PayloadCERTREQ, "certification authority", 5}},
		"AUTH without data":       {PayloadAUTH, one(2, 0, 0, 0), Error{ErrTruncated, PayloadAUTH, "authentication data", 8}},
		"EAP of three octets":     {PayloadEAP, one(3, 0, 0), Error{ErrTruncated, PayloadEAP, "eap message", 4}},
		"EAP length too long":     {PayloadEAP, one(3, 0, 0, 5), Error{ErrLength, PayloadEAP, "eap length", 6}},
		"EAP length too short":    {PayloadEAP, one(1, 0, 0, 4, 1), Error{ErrLength, PayloadEAP, "eap length", 6}},

		"N of three octets":    {PayloadNotify, one(0, 0, 64), Error{ErrTruncated, PayloadNotify, "notify message type", 6}},
		"N with half an SPI":   {PayloadNotify, one(3, 4, 64, 9, 1, 2), Error{ErrTruncated, PayloadNotify, "spi", 8}},
		"N with SPI of 2":      {PayloadNotify, one(3, 2, 64, 9, 1, 2), Error{ErrValue, PayloadNotify, "spi size", 8}},
		"D of nothing":         {PayloadDelete, one(0, 0, 0, 0), Error{ErrValue, PayloadDelete, "protocol id", 4}},
		"D of IKE with SPIs":   {PayloadDelete, one(1, 8, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8), Error{ErrValue, PayloadDelete, "spi size", 5}},
		"D of IKE with count":  {PayloadDelete, one(1, 0, 0, 1), Error{ErrLength, PayloadDelete, "spis", 8}},
		"D of ESP without SPI": {PayloadDelete, one(3, 4, 0, 0), Error{ErrLength, PayloadDelete, "spis", 8}},
		"D of ESP, size 8":     {PayloadDelete, one(3, 8, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8), Error{ErrValue, PayloadDelete, "spi size", 5}},
		"D with less SPIs":     {PayloadDelete, one(3, 4, 0, 2, 1, 2, 3, 4), Error{ErrLength, PayloadDelete, "spis", 12}},
		"D with more SPIs":     {PayloadDelete, one(3, 4, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8), Error{ErrLength, PayloadDelete, "spis", 16}},
		"D with half an SPI":   {PayloadDelete, one(3, 4, 0, 1, 1, 2), Error{ErrTruncated, PayloadDelete, "spi", 8}},
		"D over the limit": {
			PayloadDelete, one(3, 4, (MaxSPIs+1)>>8, (MaxSPIs+1)&255), Error{ErrTooMany, PayloadDelete, "spis", 6},
		},

		"TS without selectors":       {PayloadTSi, one(0, 0, 0, 0), Error{ErrLength, PayloadTSi, "number of tss", 8}},
		"TS with less selectors":     {PayloadTSi, one(2, 0, 0, 0, 99, 0, 0, 4), Error{ErrLength, PayloadTSi, "number of tss", 12}},
		"TS with more selectors":     {PayloadTSr, one(0, 0, 0, 0, 99, 0, 0, 4), Error{ErrLength, PayloadTSr, "number of tss", 12}},
		"selector below its header":  {PayloadTSi, one(1, 0, 0, 0, 99, 0, 0, 3), Error{ErrLength, PayloadTSi, "selector length", 10}},
		"selector longer than TS":    {PayloadTSi, join([]byte{43, 0, 0, 12}, []byte{1, 0, 0, 0, 99, 0, 0, 5}, one()), Error{ErrLength, PayloadTSi, "selector length", 10}},
		"IPv4 selector of 15 octets": {PayloadTSi, one(join([]byte{1, 0, 0, 0, 7, 0, 0, 15}, zeros(11))...), Error{ErrTruncated, PayloadTSi, "ending address", 20}},
		"IPv4 selector of 17 octets": {PayloadTSi, one(join([]byte{1, 0, 0, 0, 7, 0, 0, 17}, zeros(13))...), Error{ErrLength, PayloadTSi, "selector length", 24}},
		"IPv6 selector of 16 octets": {PayloadTSi, one(join([]byte{1, 0, 0, 0, 8, 0, 0, 16}, zeros(12))...), Error{ErrTruncated, PayloadTSi, "starting address", 16}},
		"range upside down": {
			PayloadTSi, one(1, 0, 0, 0, 7, 0, 0, 16, 0, 0, 255, 255, 10, 0, 0, 2, 10, 0, 0, 1),
			Error{ErrValue, PayloadTSi, "starting address", 16},
		},

		"CP of three octets":       {PayloadCP, one(1, 0, 0), Error{ErrTruncated, PayloadCP, "reserved", 5}},
		"CP attribute cut short":   {PayloadCP, one(1, 0, 0, 0, 0, 1, 0), Error{ErrTruncated, PayloadCP, "value", 10}},
		"CP attribute too long":    {PayloadCP, join([]byte{43, 0, 0, 12}, []byte{1, 0, 0, 0, 0, 1, 0, 4}, one()), Error{ErrLength, PayloadCP, "value", 10}},
		"CP attributes over limit": {PayloadCP, one(join([]byte{1, 0, 0, 0}, many(MaxConfigAttributes+1, []byte{0, 1, 0, 0}))...), Error{ErrTooMany, PayloadCP, "configuration attributes", 8 + 4*MaxConfigAttributes}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ParsePayloads(tc.first, tc.b)
			check(t, err, &tc.want)
			if got != nil {
				t.Errorf("payloads in spite of the error: %v", got)
			}
		})
	}
}

func check(t *testing.T, err error, want *Error) {
	t.Helper()
	var got *Error
	if !errors.As(err, &got) {
		t.Fatalf("error %v, want %v", err, want)
	}
	if *got != *want {
		t.Errorf("error %+v, want %+v", *got, *want)
	}
	if !errors.Is(err, want.Kind) {
		t.Errorf("%v is not a %v", err, want.Kind)
	}
}

func TestMalformedMessages(t *testing.T) {
	t.Parallel()
	good := mustAppend(t, samples["V"])
	afterSK := mustAppend(t, sealed["SK"])
	afterSK = append(afterSK, one()...)
	afterSK[27] += 4
	for name, tc := range map[string]struct {
		b    []byte
		want Error
	}{
		"nothing":                 {nil, Error{ErrTruncated, PayloadNone, "initiator spi", 0}},
		"27 octets":               {good[:27], Error{ErrTruncated, PayloadNone, "length", 24}},
		"longer than the header":  {append(bytes.Clone(good), 0), Error{ErrLength, PayloadNone, "length", 24}},
		"shorter than the header": {good[:len(good)-1], Error{ErrTruncated, PayloadNone, "length", 24}},
		"length below the header": {with(good[:HeaderLen], 27, 27), Error{ErrLength, PayloadNone, "length", 24}},
		"length of 2^31 octets":   {with(good, 24, 0x80), Error{ErrLength, PayloadNone, "length", 24}},
		"version 1":               {with(good, 17, 0x10), Error{ErrValue, PayloadNone, "major version", 17}},
		"version 3":               {with(good, 17, 0x30), Error{ErrValue, PayloadNone, "major version", 17}},
		"a payload after SK":      {afterSK, Error{ErrLength, PayloadSK, "payload length", len(afterSK) - 4}},
		"empty SK":                {message(PayloadSK, one()), Error{ErrTruncated, PayloadSK, "encrypted payloads", 32}},
		"empty SKF":               {message(PayloadSKF, one(0, 1, 0, 1)), Error{ErrTruncated, PayloadSKF, "encrypted content", 36}},
		"SKF of three octets":     {message(PayloadSKF, one(0, 1, 0)), Error{ErrTruncated, PayloadSKF, "total fragments", 34}},
		"fragment 0":              {message(PayloadSKF, one(0, 0, 0, 1, 9)), Error{ErrValue, PayloadSKF, "fragment number", 32}},
		"fragment 2 of 1":         {message(PayloadSKF, one(0, 2, 0, 1, 9)), Error{ErrValue, PayloadSKF, "fragment number", 32}},
		"fragment 0 of 0":         {message(PayloadSKF, one(0, 0, 0, 0, 9)), Error{ErrValue, PayloadSKF, "fragment number", 32}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, err := Parse(tc.b)
			check(t, err, &tc.want)
			if m != nil {
				t.Errorf("a message in spite of the error: %+v", m)
			}
		})
	}
}

// message is a header of IKEv2 before a chain.
func message(first PayloadType, chain []byte) []byte {
	n := HeaderLen + len(chain)
	b := append(zeros(16), byte(first), 0x20, 37, 8, 0, 0, 0, 0, 0, 0, byte(n>>8), byte(n))
	return append(b, chain...)
}

func TestWhatDoesNotFitIsNotAppended(t *testing.T) {
	t.Parallel()
	long := zeros(math.MaxUint16 - 3)
	esp := func(p Proposal) Payload {
		p.Protocol, p.SPI.Size = ProtocolESP, 4
		return &SA{Proposals: []Proposal{p}}
	}
	few := []Transform{NewTransform(TransformESN, 0, 0)}
	any4 := NewSelector(0, v4("0.0.0.0"), v4("255.255.255.255"), 0, 65535)
	for name, tc := range map[string]struct {
		p    Payload
		kind error
	}{
		"nil":                      {nil, ErrValue},
		"payload type 0":           {&Unknown{}, ErrValue},
		"a known type as unknown":  {&Unknown{Type: PayloadNonce}, ErrValue},
		"payload too long":         {&VendorID{Data: zeros(math.MaxUint16 - 3)}, ErrLength},
		"empty SA":                 {&SA{}, ErrLength},
		"too many proposals":       {&SA{Proposals: make([]Proposal, MaxProposals+1)}, ErrTooMany},
		"no transforms":            {esp(Proposal{}), ErrLength},
		"too many transforms":      {esp(Proposal{Transforms: make([]Transform, MaxTransforms+1)}), ErrTooMany},
		"256 transforms":           {esp(Proposal{Transforms: make([]Transform, 256)}), ErrTooMany},
		"too many attributes":      {esp(Proposal{Transforms: []Transform{{Attributes: make([]Attribute, MaxAttributes+1)}}}), ErrTooMany},
		"attribute type of 16 bit": {esp(Proposal{Transforms: []Transform{{Attributes: []Attribute{{Type: 1 << 15}}}}}), ErrValue},
		"attribute too long":       {esp(Proposal{Transforms: []Transform{{Attributes: []Attribute{{TLV: true, Data: long}}}}}), ErrLength},
		"SPI of ESP too large":     {esp(Proposal{SPI: SPI{Value: 1 << 32}, Transforms: few}), ErrLength},
		"SPI of ESP missing":       {&SA{Proposals: []Proposal{{Protocol: ProtocolESP, Transforms: few}}}, ErrValue},
		"SPI of IKE with 4 octets": {&SA{Proposals: []Proposal{{Protocol: ProtocolIKE, SPI: SPI4(1), Transforms: few}}}, ErrValue},
		"KE without data":          {&KE{Method: 19}, ErrLength},
		"short nonce":              {&Nonce{Data: zeros(15)}, ErrLength},
		"long nonce":               {&Nonce{Data: zeros(257)}, ErrLength},
		"IPv4 identity of 5":       {&ID{Type: IDIPv4Addr, Data: zeros(5)}, ErrLength},
		"CERT without data":        {&Cert{}, ErrLength},
		"CERTREQ of half a hash":   {&CertReq{Encoding: CertHashAndURLBundle, Authorities: zeros(10)}, ErrLength},
		"AUTH without data":        {&Auth{}, ErrLength},
		"EAP without length":       {&EAP{Message: []byte{1, 2}}, ErrLength},
		"EAP with another length":  {&EAP{Message: []byte{1, 2, 0, 5}}, ErrLength},
		"N with SPI of 3":          {&Notify{Protocol: ProtocolESP, SPI: SPI{Size: 3}}, ErrValue},
		"N with SPI without size":  {&Notify{SPI: SPI{Value: 1}}, ErrLength},
		"N with lone protocol":     {&Notify{Protocol: ProtocolIKE}, ErrValue},
		"D of nothing":             {&Delete{}, ErrValue},
		"D of IKE with SPI":        {&Delete{Protocol: ProtocolIKE, SPIs: []uint32{1}}, ErrLength},
		"D of ESP without":         {&Delete{Protocol: ProtocolESP}, ErrLength},
		"D with too many":          {&Delete{Protocol: ProtocolESP, SPIs: make([]uint32, MaxSPIs+1)}, ErrTooMany},
		"no selectors":             {&TS{}, ErrLength},
		"too many selectors":       {&TS{Selectors: make([]Selector, MaxSelectors+1)}, ErrTooMany},
		"selector without address": {&TS{Selectors: []Selector{{Type: TSIPv4AddrRange}}}, ErrValue},
		"selector of two families": {&TS{Selectors: []Selector{NewSelector(0, v4("10.0.0.1"), v4("::1"), 0, 0)}}, ErrValue},
		"selector upside down":     {&TS{Selectors: []Selector{any4, NewSelector(0, v4("::2"), v4("::1"), 0, 0)}}, ErrValue},
		"selector with a zone":     {&TS{Selectors: []Selector{NewSelector(0, v4("fe80::1%eth0"), v4("fe80::2"), 0, 0)}}, ErrValue},
		"selector too long":        {&TS{Selectors: []Selector{{Type: 99, Other: long}}}, ErrLength},
		"CP with too many":         {&Config{Attributes: make([]ConfigAttribute, MaxConfigAttributes+1)}, ErrTooMany},
		"CP attribute of 16 bit":   {&Config{Attributes: []ConfigAttribute{{Type: 1 << 15}}}, ErrValue},
		"CP attribute too long":    {&Config{Attributes: []ConfigAttribute{{Value: zeros(math.MaxUint16 + 1)}}}, ErrLength},
		"empty SK":                 {&Encrypted{}, ErrLength},
		"fragment 0":               {&EncryptedFragment{Total: 1, Body: key}, ErrValue},
		"fragment 2 of 1":          {&EncryptedFragment{Number: 2, Total: 1, Body: key}, ErrValue},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dst := []byte("before")
			b, err := Append(dst, sampleHeader, []Payload{samples["V"], tc.p})
			if !errors.Is(err, tc.kind) || !bytes.Equal(b, dst) {
				t.Errorf("Append = %d octets, %v; want dst and %v", len(b), err, tc.kind)
			}
			var e *Error
			if errors.As(err, &e) && (e.Offset < 0 || e.Offset > MaxMessage+HeaderLen+100) {
				t.Errorf("offset %d is not in the message", e.Offset)
			}
			first, b, err := AppendPayloads(dst, []Payload{tc.p})
			if err == nil || first != PayloadNone || !bytes.Equal(b, dst) {
				t.Errorf("AppendPayloads = %v, %d octets, %v; want none, dst, error", first, len(b), err)
			}
		})
	}
}

func TestWhatIsNoMessageIsNotAppended(t *testing.T) {
	t.Parallel()
	dst := []byte("before")
	fragment := func(number, total uint16, n int) ([]byte, error) {
		return AppendFragmentHeader(dst, sampleHeader, PayloadIDi, number, total, n)
	}
	h1 := sampleHeader
	h1.Version = Version1
	big := &VendorID{Data: zeros(MaxMessage / 2)}
	for name, tc := range map[string]struct {
		build func() ([]byte, error)
		want  error
	}{
		"too many payloads": {func() ([]byte, error) { return Append(dst, sampleHeader, make([]Payload, MaxPayloads+1)) }, ErrTooMany},
		"message too long":  {func() ([]byte, error) { return Append(dst, sampleHeader, []Payload{big, big}) }, ErrLength},
		"SK not last":       {func() ([]byte, error) { return Append(dst, sampleHeader, []Payload{sealed["SK"], big}) }, ErrValue},
		"SKF not last":      {func() ([]byte, error) { return Append(dst, sampleHeader, []Payload{sealed["SKF 1"], big}) }, ErrValue},
		"SK inside SK": {func() ([]byte, error) {
			_, b, err := AppendPayloads(dst, []Payload{sealed["SK"]})
			return b, err
		}, ErrValue},
		"header of IKEv1":        {func() ([]byte, error) { return Append(dst, h1, nil) }, ErrValue},
		"SK header of IKEv1":     {func() ([]byte, error) { return AppendEncryptedHeader(dst, h1, 0, 9) }, ErrValue},
		"SK without body":        {func() ([]byte, error) { return AppendEncryptedHeader(dst, sampleHeader, 0, 0) }, ErrLength},
		"SK of negative length":  {func() ([]byte, error) { return AppendEncryptedHeader(dst, sampleHeader, 0, -1) }, ErrLength},
		"SK too long":            {func() ([]byte, error) { return AppendEncryptedHeader(dst, sampleHeader, 0, MaxMessage-31) }, ErrLength},
		"SK of huge length":      {func() ([]byte, error) { return AppendEncryptedHeader(dst, sampleHeader, 0, math.MaxInt) }, ErrLength},
		"SKF without body":       {func() ([]byte, error) { return fragment(1, 1, 0) }, ErrLength},
		"SKF too long":           {func() ([]byte, error) { return fragment(1, 1, MaxMessage-35) }, ErrLength},
		"SKF numbered 0":         {func() ([]byte, error) { return fragment(0, 1, 9) }, ErrValue},
		"SKF numbered too large": {func() ([]byte, error) { return fragment(3, 2, 9) }, ErrValue},
	} {
		if b, err := tc.build(); !errors.Is(err, tc.want) || !bytes.Equal(b, dst) {
			t.Errorf("%s: %d octets, %v; want dst and %v", name, len(b), err, tc.want)
		}
	}
	// The longest ones do fit.
	if b, err := AppendEncryptedHeader(dst, sampleHeader, 0, MaxMessage-32); err != nil || len(b) != len(dst)+32 {
		t.Errorf("longest SK: %d octets, %v", len(b), err)
	}
	if b, err := fragment(1, 1, MaxMessage-36); err != nil || len(b) != len(dst)+36 {
		t.Errorf("longest SKF: %d octets, %v", len(b), err)
	}
}

func TestErrorsSpeakToPeople(t *testing.T) {
	t.Parallel()
	_, err := ParsePayloads(PayloadNonce, one(1, 2, 3))
	if got, want := err.Error(), "ike payload Nonce: nonce data at octet 4: length does not match the contents"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	_, err = Parse(nil)
	if got, want := err.Error(), "ike header: initiator spi at octet 0: cut short"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := UnsupportedCritical(200).Error(), "ike payload UNKNOWN(200) is critical and not supported"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestParsedSlicesCannotGrowIntoTheInput(t *testing.T) {
	t.Parallel()
	b := mustAppend(t, samples["KE"], samples["V"])
	was := bytes.Clone(b)
	m, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	ke, _ := Find[*KE](m.Payloads, PayloadKE)
	_ = append(ke.Data, 0xff)
	if !bytes.Equal(b, was) {
		t.Error("appending to a parsed field overwrote the datagram")
	}
}

func TestSelectorsTakeTheFamilyOfTheirAddress(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		address netip.Addr
		want    TSType
	}{{v4("10.0.0.1"), TSIPv4AddrRange}, {v4("2001:db8::1"), TSIPv6AddrRange}} {
		if got := NewSelector(0, tc.address, tc.address, 0, 65535).Type; got != tc.want {
			t.Errorf("%v: %v, want %v", tc.address, got, tc.want)
		}
	}
}
