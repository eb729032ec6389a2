package ike

import (
	"encoding/binary"
	"io"
	"log/slog"
	"net/netip"
	"time"

	"coati/policy"
)

// Config is what an engine is built from.
type Config struct {
	// Rand is the only source of randomness. It never fails and is read from the engine's calls only.
	Rand io.Reader
	// AllocSPI and FreeSPI reserve inbound ESP SPIs at the plane.
	AllocSPI func(policy.Protocol) (policy.SPI, error)
	FreeSPI  func(policy.Protocol, policy.SPI)
	// SAState reads the counters of an SA at the plane; it does not wait.
	SAState func(policy.SAID) (policy.State, error)
	// NewSAID numbers security associations, all users of a plane together.
	NewSAID func() policy.SAID
	// Logs says whether anybody reads records of this level; nil: somebody does. What every handshake would say is not put
	// into words for nobody.
	Logs func(slog.Level) bool
	// KeyLog asks for KeyRecords.
	KeyLog bool
	// NATTPort is where IKE continues once a NAT is seen (RFC 7296, section 2.23); zero: 4500. IKEPort is where it
	// starts; zero: 500.
	IKEPort, NATTPort uint16
	Limits            Limits
	Protocols         []Protocol
	// Leases are what former lives of the engine gave out, the latest last (Out.Leases).
	Leases []Lease
}

// Protocol is one major version of IKE.
type Protocol interface {
	// Version is the major version number.
	Version() uint8
	// Initiate begins a negotiation; children are to be opened, the first of them as early as possible. flow is the packet
	// that waits for that one; zero: none.
	Initiate(env *Env, now time.Time, t *policy.PeerTunnel, path policy.Path, children []string, flow policy.Flow, out *Out) (SA, error)
	// Respond handles a datagram that belongs to no SA and may begin one. It returns nil when it does not.
	Respond(env *Env, now time.Time, d Datagram, out *Out) (SA, error)
}

// SA is the machine of one IKE SA and its children.
type SA interface {
	Machine
	// LocalSPI is our half of the SPIs, by which datagrams find the machine.
	LocalSPI() uint64
	Info() Info
	// Brief is Info without Children, Proposal and Doing; it allocates nothing.
	Brief() Info
}

// SAState is how far an IKE SA has come.
type SAState uint8

const (
	Connecting SAState = iota
	Established
	Closing // deleted by one side, or superseded
	Closed
)

func (s SAState) String() string {
	switch s {
	case Connecting:
		return "connecting"
	case Established:
		return "established"
	case Closing:
		return "closing"
	}
	return "closed"
}

// Info is what people and the engine may know of an IKE SA.
type Info struct {
	Tunnel              string
	Version             uint8
	State               SAState
	Initiator           bool // we began the initial exchange; outlives rekeys
	LocalSPI, PeerSPI   uint64
	Path                policy.Path
	LocalID, RemoteID   policy.Identity
	Proposal            policy.Proposal
	EstablishedAt       time.Time
	LastReceived        time.Time
	NATLocal, NATRemote bool // who is behind a NAT
	PeerIsCoati         bool
	Mobile              bool   // both ends know MOBIKE
	Renews              bool   // the initial exchange replaced an older SA that was still good: reauthentication
	LowNonce            []byte // the lower of both nonces of the initial exchange; outlives rekeys
	Children            []ChildInfo
	Leased              []netip.Addr // that the peer was given; not to be changed
	Given               *Given       // that the peer gave us
	Doing               string       // the exchange under way, for people
}

// ChildInfo is what people may know of a child SA.
type ChildInfo struct {
	Name          string
	In, Out       policy.SAID
	InSPI, OutSPI policy.SPI
	Proposal      policy.Proposal
	Mode          policy.Mode
	Local, Remote []policy.Selector
	EstablishedAt time.Time
	State         string // ChildUp, or for people
	Standby       bool   // the outbound SA carries nothing yet: another pair does
	Encap         policy.Encap
}

// ChildUp is the state of a pair that carries the child's traffic.
const ChildUp = "up"

// Signal is what a machine tells the engine beyond the contract's Out.
type Signal struct {
	Kind SignalKind
	// Successor takes over: the SAs and children of the machine that signals (SignalSuccessor).
	Successor SA
	// Owned by the successor from now on.
	SAs []policy.SAID
	// InitialContact: the peer says that it has no other SA with us (RFC 7296, section 2.4). SignalEstablished.
	InitialContact bool
	// Draining: the machine stays for packets and requests on their way, and signals SignalClosed again when it has gone.
	Draining bool
	Child    string
	Err      error
	Reason   CloseReason
}

// SignalKind is what a Signal is about.
type SignalKind uint8

const (
	SignalEstablished SignalKind = iota
	SignalChildUp
	SignalChildFailed
	SignalChildDown
	SignalSuccessor
	SignalClosed
	SignalMoved  // the SAs now belong to the machine Successor, which the engine has
	SignalReauth // it is to be replaced by a new initial exchange; the SA stays until then
)

// CloseReason says why an IKE SA or child ended.
type CloseReason uint8

const (
	ClosedFailed   CloseReason = iota // never came up
	ClosedByUs                        // command, shutdown, reload
	ClosedByPeer                      // authenticated delete
	ClosedDead                        // no answer
	ClosedReplaced                    // rekeyed, or a newer SA with the same peer
	ClosedExpired                     // hard lifetime
)

func (r CloseReason) String() string {
	return [...]string{"failed", "closed by us", "closed by the peer", "peer is dead", "replaced", "expired"}[r]
}

// Close ends an SA from within the engine. Quiet: without telling the peer, who has forgotten it.
type Close struct {
	Quiet  bool
	Reason CloseReason
}

func (Close) isEvent() {}

// Reconfigure gives a machine another configuration of its tunnel, for the same peer (policy.PeerTunnel.SamePeer). Timers
// change at once. Children whose SAs do not serve it any more (see Serving) are deleted.
type Reconfigure struct{ Tunnel *policy.PeerTunnel }

func (Reconfigure) isEvent() {}

// Relocate has a machine send its messages from another address of ours. Its children stay where they are.
type Relocate struct{ Local netip.Addr }

func (Relocate) isEvent() {}

// Move has a machine whose IKE SA may move (Info.Mobile) and its children leave from another address of ours.
type Move struct{ Local netip.Addr }

func (Move) isEvent() {}

// Activate has a machine send on a child that is on standby, named by its inbound SA: what carried its traffic goes.
type Activate struct{ SA policy.SAID }

func (Activate) isEvent() {}

// Renew tells a machine that has just begun that it replaces an SA that is still good.
type Renew struct{}

func (Renew) isEvent() {}

// Signal hands a signal to the engine.
func (o *Out) Signal(s Signal) { o.signals = append(o.signals, s) }

// Refusal is an attempt of a peer that was refused.
type Refusal struct {
	At     time.Time
	Tunnel string // empty: nobody knows which it was meant for
	Peer   netip.AddrPort
	Reason string // for people, as the log has it
}

// Refuse tells the engine of a refusal. Anybody can cause one; of each tunnel the latest is kept.
func (o *Out) Refuse(r Refusal) { o.refusals = append(o.refusals, r) }

// Record adds a line of log.
func (o *Out) Record(level slog.Level, msg string, attrs ...slog.Attr) {
	o.Log = append(o.Log, Record{level, msg, attrs})
}

// Env is what the engine lends its machines.
type Env struct {
	Config
	// Candidates lists the tunnels that a peer at this path may mean, best first: those with its address, then "any".
	Candidates func(policy.Path) []*policy.PeerTunnel
	// Proposals lists what those tunnels accept for IKE of this major version, each once and in their order: thousands of
	// tunnels mostly accept the same, and anybody can have us look.
	Proposals func(p policy.Path, version uint8) []policy.Proposal
	// HalfOpen counts responder SAs that are not authenticated: in all, and from one address.
	HalfOpen func(policy.Path) (all, fromAddress int)
	// HasOther says whether another IKE SA of the tunnel lives or is being negotiated.
	HasOther func(tunnel string, than SA) bool
	// PeerHas says whether another IKE SA of the tunnel is established with this identity.
	PeerHas func(tunnel string, id policy.Identity, than SA) bool
	// Lease gives the peer of a tunnel an address.
	Lease func(t *policy.PeerTunnel, w LeaseWish, out *Out) (netip.Addr, error)
	inUse func(spi uint64) bool

	jobs, asks, changes uint64
}

// Told says whether a record of this level is worth making.
func (e *Env) Told(level slog.Level) bool { return e.Logs == nil || e.Logs(level) }

// NextJob numbers a job.
func (e *Env) NextJob() JobID { e.jobs++; return JobID(e.jobs) }

// NextAsk numbers an ask.
func (e *Env) NextAsk() AskID { e.asks++; return AskID(e.asks) }

// NextChange numbers a change.
func (e *Env) NextChange() ChangeID { e.changes++; return ChangeID(e.changes) }

// Bytes draws n random octets.
func (e *Env) Bytes(n int) []byte {
	b := make([]byte, n)
	if _, err := io.ReadFull(e.Rand, b); err != nil {
		panic("ike: the source of randomness failed: " + err.Error())
	}
	return b
}

// Jitter is a random duration in [0, max).
func (e *Env) Jitter(max time.Duration) time.Duration {
	if max <= 0 {
		return 0
	}
	return time.Duration(binary.BigEndian.Uint64(e.Bytes(8)) % uint64(max))
}

// NewSPI draws an IKE SPI that no machine of this engine has; never zero (RFC 7296, section 2.6).
func (e *Env) NewSPI() uint64 {
	for {
		spi := binary.BigEndian.Uint64(e.Bytes(8))
		if spi != 0 && !e.inUse(spi) {
			return spi
		}
	}
}
