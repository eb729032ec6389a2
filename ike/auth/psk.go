// Package auth proves and checks who is at the other end of an IKE SA.
//
//	psk.go          the octets that every method signs, and shared keys (RFC 7296, sections 2.15 and 2.16)
//	signature.go    signatures by RSA, ECDSA and EdDSA (RFC 7296, section 3.8; RFC 4754, 7427 and 8420)
//	v1.go           the signatures of IKEv1 (RFC 2409, section 5.1)
//	certificate.go  X.509 certificates and what they say of their owner (RFC 4945)
//	revocation.go   certificate revocation lists (RFC 5280)
//	rawkey.go       keys without certificates (RFC 7670)
package auth

import (
	"crypto/hmac"

	"coati/ike/keys"
	"coati/policy"
)

// keyPad keeps a stored prf(psk, keyPad) from being of use to other protocols (RFC 7296, section 2.15); no terminating zero.
const keyPad = "Key Pad for IKEv2"

// SignedOctets is what a party signs (RFC 7296, section 2.15): its own first IKE_SA_INIT message whole, from the IKE header's
// first octet; the other side's nonce without header; and prf(SK_p, ID payload body). The message is the one that led to
// this SA, with its cookie if it had one. skp is SK_pi for the original initiator's octets, SK_pr for the responder's.
// idBody is the ID payload without its generic header: type, three reserved octets, data.
func SignedOctets(prf keys.PRF, firstMessage, peerNonce []byte, skp policy.Secret, idBody []byte) []byte {
	out := make([]byte, 0, len(firstMessage)+len(peerNonce)+prf.Size())
	out = append(out, firstMessage...)
	out = append(out, peerNonce...)
	return append(out, prf.Sum(skp.Reveal(), idBody)...)
}

// PSK is the AUTH payload's data for a shared key: prf(prf(psk, "Key Pad for IKEv2"), signed), of the PRF's size. With EAP
// (RFC 7296, section 2.16) psk is the MSK, or for a method that makes none SK_pi or SK_pr.
func PSK(prf keys.PRF, psk policy.Secret, signed []byte) []byte {
	return prf.Sum(prf.Sum(psk.Reveal(), []byte(keyPad)), signed)
}

// VerifyPSK says in constant time whether got is that.
func VerifyPSK(prf keys.PRF, psk policy.Secret, signed, got []byte) bool {
	return hmac.Equal(PSK(prf, psk, signed), got)
}
