// Package v2 is IKEv2, RFC 7296: the machine of one IKE SA and its child SAs.
//
//	protocol.go       where machines come from: a first request, or our own wish
//	table.go          the transitions: one row per message of the RFC's figures
//	sa.go             the state of one IKE SA; events in, deadlines out
//	close.go          how it ends, and what stays for a while
//	message.go        from octets to an authenticated message, and back
//	window.go         requests, retransmission, the response cache (sections 2.1 to 2.3)
//	init.go           IKE_SA_INIT (section 1.2)
//	answers.go        more than one answer to our first request (section 2.4)
//	cookie.go         cookies (section 2.6)
//	natt.go           NAT detection, port 4500, keepalives (section 2.23)
//	intermediate.go   additional key exchanges between the two (RFC 9370, RFC 9242)
//	ppk.go            post-quantum pre-shared keys (RFC 8784)
//	auth.go           IKE_AUTH (section 1.2), identities and shared keys (section 2.15)
//	childless.go      an IKE SA without a first child (RFC 6023)
//	child.go          a child SA: selection, narrowing, keys (sections 2.7, 2.9, 2.17)
//	createchild.go    CREATE_CHILD_SA for children: new and rekeyed (sections 1.3.1, 1.3.3, 2.8)
//	rekeyike.go       CREATE_CHILD_SA for the IKE SA itself (sections 1.3.2, 2.18)
//	followup.go       additional key exchanges after both (RFC 9370)
//	informational.go  INFORMATIONAL: deletes and liveness (sections 1.4, 2.4)
//	reconfigure.go    another configuration for a living SA
//	convert.go        between policy's nouns and wire's structs
//
// Nothing that is not authenticated is believed or answered inside an SA. Slow arithmetic is a Job; while one is open
// for a request of the peer, its repetitions are ignored until the answer is in the cache, and what ends an exchange of
// ours is kept until then: one response or one job.
package v2
