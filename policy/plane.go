package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// A Plane carries packets for SAs: esp in userspace, tun/xfrm in the kernel, a recorder in ike/sim. All methods are
// safe for concurrent use and none waits for the network.
type Plane interface {
	// AllocSPI reserves an inbound SPI that no SA of the plane has. It is given back by a delete of the SA that took
	// it, or by FreeSPI.
	AllocSPI(Protocol) (SPI, error)
	FreeSPI(Protocol, SPI)
	// Apply performs all of the transaction or none of it. The plane owns the keys of added SAs afterwards.
	Apply(Tx) error
	// State reports the counters of a living SA; ErrNoSA if there is none.
	State(SAID) (State, error)
	// Events tells what the data path saw. One reader. A full channel never blocks the data path: Acquire, Expire and
	// Used are repeated while their cause lasts.
	Events() <-chan PlaneEvent
	Capabilities() Caps
}

// ErrNoAlgorithm: the plane does not have an algorithm of the table.
var ErrNoAlgorithm = errors.New("the plane does not have the algorithm")

// ErrNoSA: the plane has no such SA.
var ErrNoSA = errors.New("no such security association")

// ErrRekey: the plane cannot change this in a living SA without risking that a nonce is used twice. Nothing was changed; a
// rekey makes a new SA that is so.
var ErrRekey = errors.New("the security association must be rekeyed for that")

// Tx is a set of changes. They take effect in the order of the fields: policies first, so that an SA finds its
// waiting packets; deletes last, so that traffic moves before its old SA goes.
type Tx struct {
	PutPolicies    []Policy // added, or replaced where the ID is known; waiting packets are kept
	AddSAs         []SA
	UpdateSAs      []SAUpdate
	DeleteSAs      []SAID
	DeletePolicies []PolicyID
	// FailAcquires: the negotiation for these policies failed; what waits is answered with ICMP "administratively
	// prohibited" (RFC 4301, section 6) and counted, and the next packet acquires again.
	FailAcquires []PolicyID
}

// Empty says that there is nothing to do.
func (t *Tx) Empty() bool {
	return len(t.PutPolicies)+len(t.AddSAs)+len(t.UpdateSAs)+len(t.DeleteSAs)+len(t.DeletePolicies)+len(t.FailAcquires) == 0
}

// Merge appends the changes of o.
func (t *Tx) Merge(o Tx) {
	t.PutPolicies = append(t.PutPolicies, o.PutPolicies...)
	t.AddSAs = append(t.AddSAs, o.AddSAs...)
	t.UpdateSAs = append(t.UpdateSAs, o.UpdateSAs...)
	t.DeleteSAs = append(t.DeleteSAs, o.DeleteSAs...)
	t.DeletePolicies = append(t.DeletePolicies, o.DeletePolicies...)
	t.FailAcquires = append(t.FailAcquires, o.FailAcquires...)
}

// State of one SA.
type State struct {
	Packets, Octets uint64 // octets of inner packets
	Sequence        uint64 // outbound: last used; inbound: highest authenticated
	LastUsed        time.Time
	// LastAuthenticated is when a packet last passed the integrity check (inbound only).
	LastAuthenticated time.Time
	Drops             map[string]uint64 // by reason
}

// Caps says what a plane can do.
type Caps struct {
	Name      string // "userspace", "kernel"
	ESN       bool
	Transport bool
	RawESP    bool
	// LaterFragments: stateful fragment checking (RFC 4301, section 7.3).
	LaterFragments bool
	// MaxReplayWindow in packets.
	MaxReplayWindow uint32
}

// PlaneEventKind is what happened.
type PlaneEventKind uint8

const (
	PlaneAcquire    PlaneEventKind = iota // a packet needs an SA that is not there: Policy, Flow
	PlaneExpireSoft                       // SA reached its soft lifetime
	PlaneExpireHard                       // SA reached its hard lifetime, or its counter would repeat; it carries nothing now
	PlaneMapping                          // an authenticated packet came from another address: SA, Remote
	PlaneUsed                             // the first packet authenticated on an inbound SA
)

func (k PlaneEventKind) String() string {
	switch k {
	case PlaneAcquire:
		return "acquire"
	case PlaneExpireSoft:
		return "soft expire"
	case PlaneExpireHard:
		return "hard expire"
	case PlaneMapping:
		return "mapping"
	case PlaneUsed:
		return "used"
	}
	return fmt.Sprintf("plane event %d", uint8(k))
}

// PlaneEvent is one thing the data path saw.
type PlaneEvent struct {
	Kind   PlaneEventKind
	Policy PolicyID
	Flow   Flow
	SA     SAID
	Remote netip.AddrPort
}
