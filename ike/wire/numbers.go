package wire

import "strconv"

// Numbers of the fixed header. IANA keeps those of the two versions apart, so one type serves both.

// nameOf returns a number's name, or UNKNOWN with the number.
func nameOf[T ~uint8 | ~uint16](names map[T]string, v T) string {
	if s, ok := names[v]; ok {
		return s
	}
	return "UNKNOWN(" + strconv.Itoa(int(v)) + ")"
}

// PayloadType is the type of a payload, as in Next Payload.
type PayloadType uint8

// The payload types of IKEv2, named by the notation of RFC 7296, section 3.2.
const (
	PayloadNone     PayloadType = 0
	PayloadSA       PayloadType = 33
	PayloadKE       PayloadType = 34
	PayloadIDi      PayloadType = 35
	PayloadIDr      PayloadType = 36
	PayloadCERT     PayloadType = 37
	PayloadCERTREQ  PayloadType = 38
	PayloadAUTH     PayloadType = 39
	PayloadNonce    PayloadType = 40
	PayloadNotify   PayloadType = 41
	PayloadDelete   PayloadType = 42
	PayloadVendorID PayloadType = 43
	PayloadTSi      PayloadType = 44
	PayloadTSr      PayloadType = 45
	PayloadSK       PayloadType = 46
	PayloadCP       PayloadType = 47
	PayloadEAP      PayloadType = 48
	PayloadGSPM     PayloadType = 49 // RFC 6467
	PayloadIDg      PayloadType = 50 // group key management, as 51 and 52
	PayloadGSA      PayloadType = 51
	PayloadKD       PayloadType = 52
	PayloadSKF      PayloadType = 53 // RFC 7383
	PayloadPS       PayloadType = 54 // RFC 8019
)

var payloadNames = map[PayloadType]string{
	PayloadNone: "none", PayloadSA: "SA", PayloadKE: "KE", PayloadIDi: "IDi", PayloadIDr: "IDr", PayloadCERT: "CERT",
	PayloadCERTREQ: "CERTREQ", PayloadAUTH: "AUTH", PayloadNonce: "Nonce", PayloadNotify: "N", PayloadDelete: "D",
	PayloadVendorID: "V", PayloadTSi: "TSi", PayloadTSr: "TSr", PayloadSK: "SK", PayloadCP: "CP", PayloadEAP: "EAP",
	PayloadGSPM: "GSPM", PayloadIDg: "IDg", PayloadGSA: "GSA", PayloadKD: "KD", PayloadSKF: "SKF", PayloadPS: "PS",
}

func (t PayloadType) String() string {
	if s, ok := v1PayloadNames[t]; ok {
		return s
	}
	return nameOf(payloadNames, t)
}

// ExchangeType is the exchange a message belongs to.
type ExchangeType uint8

// The exchanges of IKEv2.
const (
	ExchangeIKESAInit        ExchangeType = 34
	ExchangeIKEAuth          ExchangeType = 35
	ExchangeCreateChildSA    ExchangeType = 36
	ExchangeInformational    ExchangeType = 37
	ExchangeIKESessionResume ExchangeType = 38 // RFC 5723
	ExchangeGSAAuth          ExchangeType = 39 // group key management, as 40 to 42
	ExchangeGSARegistration  ExchangeType = 40
	ExchangeGSARekey         ExchangeType = 41
	ExchangeGSAInbandRekey   ExchangeType = 42
	ExchangeIKEIntermediate  ExchangeType = 43 // RFC 9242
	ExchangeIKEFollowupKE    ExchangeType = 44 // RFC 9370
)

var exchangeNames = map[ExchangeType]string{
	ExchangeIKESAInit: "IKE_SA_INIT", ExchangeIKEAuth: "IKE_AUTH", ExchangeCreateChildSA: "CREATE_CHILD_SA",
	ExchangeInformational: "INFORMATIONAL", ExchangeIKESessionResume: "IKE_SESSION_RESUME", ExchangeGSAAuth: "GSA_AUTH",
	ExchangeGSARegistration: "GSA_REGISTRATION", ExchangeGSARekey: "GSA_REKEY",
	ExchangeGSAInbandRekey: "GSA_INBAND_REKEY", ExchangeIKEIntermediate: "IKE_INTERMEDIATE",
	ExchangeIKEFollowupKE: "IKE_FOLLOWUP_KE",
}

func (t ExchangeType) String() string {
	if s, ok := v1ExchangeNames[t]; ok {
		return s
	}
	return nameOf(exchangeNames, t)
}

// String is the version as RFCs write it: 2.0.
func (v Version) String() string { return strconv.Itoa(v.Major()) + "." + strconv.Itoa(v.Minor()) }

// String lists the flags set, joined by a bar: I|R.
func (f Flags) String() string {
	names := [8]string{"E", "C", "A", "I", "V", "R", "0x40", "0x80"}
	s := ""
	for i, name := range names {
		if f&(1<<i) != 0 {
			if s != "" {
				s += "|"
			}
			s += name
		}
	}
	return s
}
