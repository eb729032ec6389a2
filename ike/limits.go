package ike

import "time"

// Limits are the tunables of the engine and its machines. DefaultLimits is what the gateway runs with.
type Limits struct {
	// RetransmitFirst is the time to the first repetition of a request; each later one waits RetransmitFactor times
	// longer, plus up to a tenth at random (RFC 7296, section 2.4).
	RetransmitFirst  time.Duration
	RetransmitFactor float64
	// RetransmitTries is how often a request is repeated before the peer counts as dead.
	RetransmitTries int
	// HalfOpenCookie is the number of half-open SAs from which on an initiator must return a cookie
	// (RFC 7296, section 2.6); HalfOpenPerAddress is the same for one source address.
	HalfOpenCookie, HalfOpenPerAddress int
	// HalfOpenPerAddressMax is where those of one address are dropped and counted, with or without a cookie.
	HalfOpenPerAddressMax int
	// HalfOpenJobs is how many key exchanges of peers that are not authenticated may be computed or wait for it; further
	// IKE_SA_INIT requests are dropped and counted. It bounds how long a live SA's rekey waits behind a flood.
	HalfOpenJobs int
	// HalfOpenMax is where new IKE_SA_INIT requests are dropped and counted.
	HalfOpenMax int
	// HalfOpenLife is how long a responder keeps an SA that is not authenticated.
	HalfOpenLife time.Duration
	// CookieLife is how long a cookie secret makes new cookies; it verifies them for twice as long.
	CookieLife time.Duration
	// ChildrenPerSA, SelectorsPerChild (of each end) and SAsPerPeer bound what one authenticated peer may open. Of IKE SAs
	// the oldest goes.
	ChildrenPerSA, SelectorsPerChild, SAsPerPeer int
	// RetryFirst and RetryMax bound the pause before a tunnel with start = now is tried again.
	RetryFirst, RetryMax time.Duration
	// DeleteGrace is how long an SA that was superseded stays for packets on their way.
	DeleteGrace time.Duration
	// FlightTime is how long the answer to a peer's delete of an IKE SA waits for our last packets on it to arrive, if the
	// peer has another one with us.
	FlightTime time.Duration
	// AnswerGrace is how long an initiator whose responder did not prove who it is waits for the answer of another: the
	// first may have been forged (RFC 7296, section 2.4).
	AnswerGrace time.Duration
	// IdleDuplicate is for how long an IKE SA that we began carries nothing, beside another with the same peer, until we
	// delete it.
	IdleDuplicate time.Duration
	// LogLines per LogPeriod is what peers may make us write as warnings; the rest is counted.
	LogLines  int
	LogPeriod time.Duration
	// InitialOnly refuses every CREATE_CHILD_SA of a peer with NO_ADDITIONAL_SAS, as a minimal implementation may
	// (RFC 7296, section 4).
	InitialOnly bool
	// NoLaterFragments never agrees that fragments after the first travel on a child for certain ports (RFC 4301, section 7.3):
	// the plane cannot check them.
	NoLaterFragments bool
	// Fragments and FragmentOctets (of content) bound a message that comes in IKE fragments (RFC 7383, section 5);
	// FragmentOctetsHalfOpen is what all peers that are not authenticated may have us keep together.
	Fragments, FragmentOctets, FragmentOctetsHalfOpen int
	// TemporaryRetry is the pause after TEMPORARY_FAILURE (RFC 7296, section 2.25).
	TemporaryRetry time.Duration
}

// DefaultLimits gives up on a silent peer after some 50 seconds.
func DefaultLimits() Limits {
	return Limits{
		RetransmitFirst:        500 * time.Millisecond,
		RetransmitFactor:       1.7,
		RetransmitTries:        7,
		HalfOpenCookie:         64,
		HalfOpenPerAddress:     8,
		HalfOpenPerAddressMax:  128,
		HalfOpenJobs:           64,
		HalfOpenMax:            8192,
		HalfOpenLife:           30 * time.Second,
		CookieLife:             30 * time.Second,
		ChildrenPerSA:          256,
		SelectorsPerChild:      128,
		SAsPerPeer:             16,
		RetryFirst:             2 * time.Second,
		RetryMax:               60 * time.Second,
		DeleteGrace:            5 * time.Second,
		TemporaryRetry:         2 * time.Second,
		FlightTime:             100 * time.Millisecond,
		AnswerGrace:            time.Second,
		IdleDuplicate:          time.Minute,
		Fragments:              256,
		FragmentOctets:         65535,
		FragmentOctetsHalfOpen: 16 << 20,
		LogLines:               100,
		LogPeriod:              10 * time.Second,
	}
}
