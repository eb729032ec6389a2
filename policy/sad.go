package policy

import (
	"fmt"
	"net/netip"
	"time"
)

// SPI is the security parameters index of an ESP packet (RFC 4303, section 2.1); 0 to 255 are reserved.
type SPI uint32

func (s SPI) String() string { return fmt.Sprintf("0x%08x", uint32(s)) }

// SAID is this process's own number for a security association. It is never reused and never on the wire: outbound
// SPIs are chosen by peers and may collide.
type SAID uint64

// Direction of a packet or an SA as seen from this gateway.
type Direction uint8

const (
	Outbound Direction = iota
	Inbound
)

func (d Direction) String() string {
	if d == Inbound {
		return "in"
	}
	return "out"
}

// Mode of an SA (RFC 4301, section 4.1).
type Mode uint8

const (
	Tunnel Mode = iota
	Transport
)

func (m Mode) String() string {
	if m == Transport {
		return "transport"
	}
	return "tunnel"
}

// Lifetime limits an SA; zero means no limit. The soft limit asks for a rekey, the hard one ends the SA
// (RFC 4301, section 4.4.2.1).
type Lifetime struct {
	SoftTime, HardTime       time.Duration // since Added
	SoftPackets, HardPackets uint64
	SoftOctets, HardOctets   uint64
}

// SA is one entry of the SAD (RFC 4301, section 4.4.2), one direction.
type SA struct {
	ID        SAID
	Pair      SAID // the SA of the other direction; 0 if there is none
	Direction Direction
	Protocol  Protocol
	SPI       SPI
	Mode      Mode
	Path      Path
	// Local and Remote are the negotiated traffic selectors as seen from this gateway, in both directions.
	Local, Remote []Selector
	Encryption    Transform
	Integrity     Transform // zero for combined modes
	// EncryptionKey includes the salt at its end. The plane owns the octets once Apply succeeded, and wipes them on delete.
	EncryptionKey Secret
	IntegrityKey  Secret
	// ICV96: HMAC-SHA2-256 is cut to 96 bits, not to RFC 4868's 128.
	ICV96        bool
	ESN          bool
	ReplayWindow uint32 // packets; 0: no replay check (manual keys only)
	ReqID        uint32 // joins policies and SAs
	// Standby: an outbound SA that carries nothing until an update activates it. A rekey's responder sends on the old SA
	// until the peer uses the new one (RFC 7296, section 2.8).
	Standby bool
	// First: an outbound SA whose peer has no older pair of ours, and needs no sign that this one is used.
	First    bool
	Lifetime Lifetime
	// Sequence is the last number that was used under this key before, outbound: the first packet has the next one.
	Sequence uint64
	// Ceiling is the last number that may be used until an update raises it; 0: none but the protocol's own. A fixed key of
	// a counter mode has one, because its numbers are reserved on disk before they are used.
	Ceiling uint64
	// ByPolicy: nobody negotiated it. Inbound, what may come is not what the selectors say, but what an inbound policy of this
	// ReqID selects first (RFC 4301, section 5.2, step 4). Outbound, it does not announce itself by a dummy packet.
	ByPolicy bool
	Added    time.Time
	Label    string // tunnel/child, for people
	Header   TunnelHeader
	// TFC is the least size, octets, that the inner packets of a tunnel are padded to (RFC 4303, section 2.7); 0: none.
	TFC int
	// OriginalLocal and OriginalRemote are, in transport mode through a NAT, our address and the peer's as the peer sees them:
	// its checksums count them (RFC 3948, section 3.1.2; RFC 7296, section 2.23.1). Invalid: unknown.
	OriginalLocal, OriginalRemote netip.Addr
	// Peer is who the peer proved to be, where somebody did.
	Peer string
	// TunnelMTU is the outer path MTU in octets known so far; 0: unknown.
	TunnelMTU int
	// FragmentAfter: IPv4 packets without DF that do not fit are fragmented after encryption, not before.
	FragmentAfter bool
	// MSS is what TCP's SYNs may say at the most, octets; 0: what fits, negative: anything.
	MSS int
	// LaterFragments: both ends agreed that fragments after the first travel on this SA though its selectors name ports
	// (RFC 4301, section 7.3: NON_FIRST_FRAGMENTS_ALSO).
	LaterFragments bool
	// ICMPErrors is which ICMP errors may come by the SA.
	ICMPErrors ICMPErrors
	// DummyInterval is after how long without a packet a dummy leaves, outbound (RFC 4303, section 2.6); 0: never.
	DummyInterval time.Duration
}

// ICMPErrors says by what an SA takes an ICMP error (RFC 4301, section 6.2).
type ICMPErrors uint8

const (
	ICMPByEither ICMPErrors = iota // the selectors take its header, or else the answer to the packet it quotes
	ICMPByHeader                   // the selectors take its header; what it quotes is not looked at
	ICMPByQuote                    // they take the answer to the packet it quotes, whoever speaks
	ICMPNone                       // none comes by the SA
)

func (i ICMPErrors) String() string { return [...]string{"either", "header", "quoted", "none"}[i&3] }

// SAUpdate changes a living SA.
type SAUpdate struct {
	ID       SAID
	Activate bool   // an outbound SA on standby carries traffic from now on
	Path     *Path  // the peer moved, or a NAT did
	Ceiling  uint64 // raises the SA's Ceiling; 0: it stays
}

// SAEntry is one SA of a plane as it stands, for people.
type SAEntry struct {
	SA    SA // with copies of the keys if they were asked for, else with none
	State State
	// Dying: the soft lifetime is over. Dead: the hard one is, or the sequence numbers are used up.
	Dying, Dead bool
}
