// Package ike is the contract between IKE's state machines and the world, and the engine that runs many machines.
//
// Everything below this package is pure: time is an argument, randomness is injected, I/O is a return value. There is
// no clock, goroutine, channel or lock here. That is what lets one test run thousands of gateways through loss,
// reordering, restarts and crossing exchanges from one seed.
//
//	contract.go   Event, Out, Machine: what goes in, what comes out
//	engine.go     many machines: who owns which job, SA and change
//	demux.go      from a datagram to its machine; bounds on half-open ones
//	deadlines.go  when which machine or tunnel is next
//	configure.go  the configured tunnels, and from one configuration to the next
//	tunnel.go     one configured tunnel: when it is negotiated and tried again
//	command.go    what people and packets want of it
//	outcome.go    what its machines tell about themselves
//	path.go       what follows a change of our own addresses and routes
//	lease.go      the addresses peers are given
//	given.go      the addresses peers give us, and what is believed of them
//	recover.go    what follows the end of its SAs; authenticating anew
//	peer.go       how many IKE SAs one peer may have, and which of them stay
//	limits.go     every tunable with its unit
//
// The caller's order of work for one Out, which is the contract's other half:
//
//  1. Leases are written down, so that a restart knows what a peer was told. Given is put onto the machine.
//  2. Changes, in order. If one fails, the Sends that name it are dropped and a ChangeFailed event is handled.
//  3. KeyLog, so that a capture can be read from its first packet.
//  4. Sends.
//  5. Log, Replies, Jobs, Asks in any order.
package ike

import (
	"log/slog"
	"net/netip"
	"time"

	"coati/policy"
)

// Machine is one side of one negotiation, or the engine that holds many.
type Machine interface {
	// Handle advances the machine. It never blocks, never reads a clock, and never keeps ev's bytes. An error means
	// that the machine itself is at fault; a peer's faults end in out.Log.
	Handle(now time.Time, ev Event, out *Out) error
	// Deadline says when it next wants a Timer event; zero means never.
	Deadline() time.Time
}

// Event is what happened.
type Event interface{ isEvent() }

type (
	// Datagram came from the network, without the non-ESP marker (RFC 3948, section 2.2).
	Datagram struct {
		Path  policy.Path
		Bytes []byte
	}
	// Timer says that Deadline has passed.
	Timer struct{}
	// JobDone brings back what a Job computed.
	JobDone struct {
		ID     JobID
		Result any
		Err    error
	}
	// Answer brings back what an Ask wanted to know.
	Answer struct {
		ID    AskID
		Value any
		Err   error
	}
	// Command comes from a person: up, down, rekey.
	Command struct {
		ID            CommandID
		Verb          Verb
		Tunnel, Child string      // an empty child means all of the tunnel
		Flow          policy.Flow // Up: the packet that waits for the child; zero: none
	}
	// Configure replaces the configured tunnels. Tunnels equal to what runs are not disturbed; those that differ in timers
	// or in children keep their IKE SAs, and the children that are the same.
	Configure struct{ Tunnels []policy.PeerTunnel }
	// Shutdown tells all peers that we leave.
	Shutdown struct{}
	// Acquire: a packet waits for an SA of this policy.
	Acquire struct {
		Policy policy.PolicyID
		Flow   policy.Flow
	}
	// Expire: an SA reached its soft or hard lifetime.
	Expire struct {
		SA   policy.SAID
		Hard bool
	}
	// ChangeFailed: the Change could not be applied; nothing of it was.
	ChangeFailed struct {
		ID  ChangeID
		Err error
	}
	// Mapping: an authenticated ESP packet of this inbound SA came from another address.
	Mapping struct {
		SA     policy.SAID
		Remote netip.AddrPort
	}
	// AddressChanged: addresses or routes of this machine changed. A tunnel that would leave from another address of ours
	// is established anew from there.
	AddressChanged struct{}
	// SAUsed: the first packet was authenticated on this inbound SA.
	SAUsed struct{ SA policy.SAID }
	// Unreachable: ICMP says that a datagram on this path did not arrive. Anybody can forge it: it explains a missing
	// answer and ends nothing.
	Unreachable struct {
		Path policy.Path
		What string // "port unreachable", "host unreachable", ...
	}
)

func (Datagram) isEvent()       {}
func (Timer) isEvent()          {}
func (JobDone) isEvent()        {}
func (Answer) isEvent()         {}
func (Command) isEvent()        {}
func (Configure) isEvent()      {}
func (Shutdown) isEvent()       {}
func (Acquire) isEvent()        {}
func (Expire) isEvent()         {}
func (ChangeFailed) isEvent()   {}
func (Mapping) isEvent()        {}
func (AddressChanged) isEvent() {}
func (SAUsed) isEvent()         {}
func (Unreachable) isEvent()    {}

// Numbers that join a request to its outcome. They are never reused in the life of an engine; zero is none.
type (
	JobID     uint64
	AskID     uint64
	ChangeID  uint64
	CommandID uint64
)

// Verb is what a Command wants.
type Verb uint8

const (
	Up Verb = iota
	Down
	Rekey
)

func (v Verb) String() string {
	switch v {
	case Up:
		return "up"
	case Down:
		return "down"
	case Rekey:
		return "rekey"
	}
	return "unknown verb"
}

// Out collects what is to be done. It is reused between calls; Reset keeps the memory.
type Out struct {
	Changes []Change
	KeyLog  []KeyRecord
	Sends   []Send
	Jobs    []Job
	Asks    []Ask
	Replies []Reply
	Log     []Record
	Leases  []Lease // new owners of addresses
	Given   []Given // what peers gave us; of a tunnel the latest counts

	signals  []Signal
	refusals []Refusal
}

// Reset empties the Out.
func (o *Out) Reset() {
	*o = Out{
		Changes: o.Changes[:0], KeyLog: o.KeyLog[:0], Sends: o.Sends[:0], Jobs: o.Jobs[:0], Asks: o.Asks[:0],
		Replies: o.Replies[:0], Log: o.Log[:0], Leases: o.Leases[:0], Given: o.Given[:0], signals: o.signals[:0], refusals: o.refusals[:0],
	}
}

// Change is a transaction for the plane.
type Change struct {
	ID ChangeID
	Tx policy.Tx
}

// Send is a datagram to put on the network. The caller adds the non-ESP marker where the local port calls for it.
type Send struct {
	Path  policy.Path
	Bytes []byte // owned by the receiver
	// After names a change without which this must not leave; zero: none.
	After ChangeID
	// Keepalive: one octet 0xFF, without a marker (RFC 3948, section 2.3). Bytes is nil.
	Keepalive bool
}

// Job is slow arithmetic: a pure function to run on any goroutine. Its result comes back as JobDone.
type Job struct {
	ID  JobID
	Run func() (any, error)
	// Light: it takes a tenth of a millisecond, not many. Who received the message that caused it may well run it.
	Light bool
}

// Ask is a question about the world. Its answer comes back as Answer.
type Ask struct {
	ID   AskID
	What any // AskPath, AskRADIUS
}

// AskPath wants the addresses for a conversation with a peer: the peer's, resolved if it is a name, and ours on the way to
// it. The answer is a PathAnswer.
type AskPath struct {
	Host   string     // to be resolved; empty: Remote
	Remote netip.Addr // the peer's address if Host is empty
	Local  netip.Addr // ours if configured; invalid: whatever the route uses
}

// PathAnswer answers AskPath. Both addresses are of one family.
type PathAnswer struct{ Local, Remote netip.Addr }

// AskRADIUS takes one EAP packet of a peer to a RADIUS server (RFC 3579). The answer is a RADIUSAnswer; an error says that none
// answered, or not as one who knows the secret.
type AskRADIUS struct {
	Servers []netip.AddrPort // asked in this order; with State only the one numbered Server
	Secret  policy.Secret
	Server  int
	State   []byte // of that server's latest answer
	User    string
	EAP     []byte
	Peer    netip.AddrPort
	Local   netip.Addr // ours in the conversation with the peer
	NAS     string     // who we are
}

// RADIUSCode is what a RADIUS server decided (RFC 2865, section 3).
type RADIUSCode uint8

const (
	RADIUSAccept    RADIUSCode = 2
	RADIUSReject    RADIUSCode = 3
	RADIUSChallenge RADIUSCode = 11
)

// RADIUSAnswer answers AskRADIUS.
type RADIUSAnswer struct {
	Server     int // which answered
	Code       RADIUSCode
	EAP, State []byte        // nil: there is none
	MSK        policy.Secret // with RADIUSAccept, if the method made one
}

// Reply ends a Command. A nil Err is success.
type Reply struct {
	ID   CommandID
	Err  error
	Text string
	// After names a change that the success rests on; if it fails, its error is the outcome. Zero: none.
	After ChangeID
}

// Record is one line of log for people and machines.
type Record struct {
	Level slog.Level
	Msg   string
	Attrs []slog.Attr
}

// KeyRecord holds the keys of one IKE SA for a capture's reader; made only if the engine was told to.
type KeyRecord struct {
	Version                    uint8
	InitiatorSPI, ResponderSPI uint64
	Encryption, Integrity      policy.Transform
	SKei, SKer, SKai, SKar     policy.Secret
}

// Wipe overwrites the keys, which are the record's own copies. Whoever performs an Out does it once they are logged, or
// are not to be.
func (k KeyRecord) Wipe() {
	for _, s := range []policy.Secret{k.SKei, k.SKer, k.SKai, k.SKar} {
		s.Wipe()
	}
}
