// Package keys holds the keyed arithmetic of IKE: pseudorandom functions, key exchange, the schedules that
// turn their results into keys, and the protection of the Encrypted payload.
//
//	prf.go       prf and prf+ (RFC 7296, section 2.13)
//	exchange.go  key exchange, shaped as a KEM: offer, answer, shared secret
//	ecp.go       NIST curves (RFC 5903) and Curve25519 (RFC 8031)
//	modp.go      MODP groups (RFC 3526)
//	schedule.go  SKEYSEED, SK_*, KEYMAT (RFC 7296, sections 2.14, 2.17, 2.18)
//	v1_*.go      the schedule and the cipher of IKEv1 (RFC 2409, sections 4, 5 and appendix B)
//	sk.go        the Encrypted payload's protection (RFC 7296, section 3.14; RFC 5282)
//
// Everything here is pure: no clock, no goroutine, no global state, and randomness only from the reader that the
// caller hands in. In the key exchange drawing the private value (fast, deterministic for a given reader) is
// separate from the arithmetic (slow, a function of its receiver and arguments alone), so that the latter can run
// on any goroutine while a simulation still replays from its seed.
package keys
