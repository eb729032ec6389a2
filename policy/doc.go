// Package policy holds the nouns of RFC 4301 that every other part of Coati speaks in: algorithms and
// proposals, traffic selectors, identities, the entries of the SPD, the SAD and the PAD, lifetimes, and
// the interface Plane behind which packets are moved. It decides nothing that takes time and does no I/O.
//
//	algorithm.go  one table of algorithms; every number, keyword and size is a row of it
//	proposal.go   proposals: keywords in strongSwan's spelling, selection, what differed
//	selector.go   traffic selectors and their narrowing (RFC 7296, section 2.9)
//	identity.go   who somebody says to be (RFC 7296, section 3.5)
//	secret.go     keys that cannot be printed
//	path.go       addresses and encapsulation of one IKE or ESP conversation
//	sad.go        one security association (RFC 4301, section 4.4.2)
//	spd.go        one policy (RFC 4301, section 4.4.1)
//	pad.go        tunnels and children as configured (RFC 4301, section 4.4.3)
//	plane.go      the contract of whoever carries the packets
package policy
