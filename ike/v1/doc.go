// Package v1 is IKEv1, RFC 2407 to 2409: the machine of one ISAKMP SA and the pairs of SAs it made.
//
//	protocol.go       where machines come from: a first message, or our own wish
//	table.go          the transitions: one row per message of the RFC's figures
//	sa.go             the state of one ISAKMP SA; events in, deadlines out
//	close.go          how it ends
//	message.go        from octets to an authenticated message, and back; IV chains, repetitions
//	suite.go          between policy's nouns and IKEv1's transforms and identities
//	phaseone.go       keys and proofs of phase 1 (section 5)
//	proof.go          who is who: by hash or by signature (sections 5.1 and 5.4)
//	main.go           main mode (section 5.4)
//	aggressive.go     aggressive mode (section 5.4)
//	transaction.go    what follows phase 1 (draft-dukes-ike-mode-cfg)
//	xauth.go          a user's name and password (draft-beaulieu-ike-xauth)
//	config.go         addresses, name servers, and Cisco's attributes
//	vendor.go         what vendor IDs say
//	quick.go          quick mode, what we begin (section 5.5)
//	serve.go          quick mode, what the peer begins
//	child.go          a pair of SAs
//	pause.go          a pair of ours carries when the peer has it
//	peer.go           pairs that outlive their ISAKMP SA
//	informational.go  deletes and notifications (section 5.7)
//	dpd.go            is the peer alive (RFC 3706)
//	lifetime.go       how long, when the ends differ (RFC 2407, section 4.6.3.1)
//	transport.go      transport mode, through NATs as well (RFC 3947, section 5.2)
//	newgroup.go       new group mode is refused (section 5.6)
//	natt.go           NAT traversal (RFC 3947)
//
// Section numbers without an RFC are those of RFC 2409. Nothing that is not authenticated is believed inside an SA, and
// before it has proved its address a peer is sent nothing but one answer to each of its messages.
package v1
