package policy

import (
	"net/netip"
	"reflect"
	"time"
)

// Start says when a tunnel is negotiated.
type Start uint8

const (
	StartOnDemand Start = iota // by the first packet
	StartNow                   // at once, and again whenever it is down
	StartListen                // only by the peer
)

func (s Start) String() string {
	switch s {
	case StartNow:
		return "now"
	case StartListen:
		return "listen"
	}
	return "on-demand"
}

// EncapMode is the configured choice of encapsulation.
type EncapMode uint8

const (
	EncapAuto     EncapMode = iota // UDP where NAT detection finds a NAT (RFC 7296, section 2.23), else protocol 50
	EncapForceUDP                  // always UDP: we pretend a NAT
	EncapForceESP                  // always protocol 50, even through a NAT
)

func (e EncapMode) String() string {
	switch e {
	case EncapForceUDP:
		return "udp"
	case EncapForceESP:
		return "esp"
	}
	return "auto"
}

// LossAction is what follows the end of an IKE SA or a child that we did not end.
type LossAction uint8

const (
	LossByStart LossAction = iota // start = now: LossRestart; otherwise LossTrap
	LossClear                     // nothing, until a command or the peer begins
	LossTrap                      // the next packet begins
	LossRestart                   // we begin at once, and go on trying
)

func (a LossAction) String() string {
	return [...]string{"by-start", "clear", "trap", "restart"}[a&3]
}

// Unique says what a second IKE SA with the same identity does to the first.
type Unique uint8

const (
	UniqueByContact Unique = iota // the first goes if the peer says INITIAL_CONTACT (RFC 7296, section 2.4)
	UniqueReplace                 // the first goes
	UniqueKeep                    // the second is refused
	UniqueNever                   // both stay, whatever the peer says
)

func (u Unique) String() string {
	return [...]string{"by-contact", "replace", "keep", "never"}[u&3]
}

// PeerTunnel is a configured peer and what may be negotiated with it: an entry of the PAD (RFC 4301, section 4.4.3).
type PeerTunnel struct {
	Name    string
	Version uint8 // IKE major version: 1 or 2
	// Local is our address; invalid: whatever the route to the peer uses.
	Local netip.Addr
	// Remote is the peer's address. Invalid with an empty RemoteHost: any address.
	Remote     netip.Addr
	RemoteHost string // host name, resolved by the gateway
	// LocalID and RemoteID; zero: the address.
	LocalID, RemoteID Identity
	// LocalAuth is how we prove who we are, RemoteAuth how the peer must.
	LocalAuth, RemoteAuth AuthBy
	PSK                   Secret
	Credential            *Credential // if we sign
	Trust                 *Trust      // if the peer does
	EAP                   *EAP        // if either is ByEAP
	// PPK is a post-quantum pre-shared key and PPKID its name (RFC 8784); of length 0: none. PPKRequired refuses a peer that does not use it.
	PPK          Secret
	PPKID        string
	PPKRequired  bool
	Childless    bool // as initiator, no child in IKE_AUTH (RFC 6023)
	IKE          []Proposal
	Start        Start
	Encap        EncapMode
	FragmentSize int           // IKE messages above so many octets of IP datagram leave in IKE fragments (RFC 7383); 0: 1280; negative: fragments are neither sent nor taken
	DPD          time.Duration // idle time after which the peer is asked whether it lives; 0: never
	Keepalive    time.Duration // NAT keepalive interval (RFC 3948, section 4); 0: never
	Lifetime     time.Duration // of the IKE SA; rekeyed before; 0: for ever
	Reauth       time.Duration // the IKE SA is negotiated anew with authentication this often, before the old one goes; 0: never
	Unique       Unique
	OnDead       LossAction // the peer does not answer any more
	OnClose      LossAction // the peer deleted the IKE SA or a child
	V1           Version1
	// Pool are ranges of which each peer gets an address, DNS and Domains what it is told with it (RFC 7296, section 2.19; RFC 8598).
	Pool    []Selector
	DNS     []netip.Addr
	Domains []string
	// MOBIKE: SAs follow a change of either end's address (RFC 4555).
	MOBIKE bool
	// VirtualIP are the addresses we ask the peer for: 0.0.0.0 and :: stand for any of their family.
	VirtualIP []netip.Addr
	Children  []Child
}

// Child is a configured child SA.
type Child struct {
	Name          string
	Mode          Mode
	Local, Remote []Selector
	ESP           []Proposal
	Lifetime      Lifetime
	ReplayWindow  uint32 // packets
	ReqID         uint32 // unique over all children of the configuration
	Priority      int32
	Level         Level
	ICV96         bool          // HMAC-SHA2-256 cut to 96 bits, as in SA
	Header        TunnelHeader  // tunnel mode
	TFC           int           // as in SA
	FragmentAfter bool          // as in SA
	MSS           int           // as in SA
	ICMPErrors    ICMPErrors    // as in SA
	DummyInterval time.Duration // as in SA
	// OutPolicy and InPolicy are the children's entries in the SPD.
	OutPolicy, InPolicy PolicyID
}

// SamePeer says whether an IKE SA made for one tunnel serves the other as well: they differ in timers, in what follows their
// end, and in children, if in anything.
func (t *PeerTunnel) SamePeer(o *PeerTunnel) bool {
	if !t.Credential.Equal(o.Credential) || !t.Trust.Equal(o.Trust) || !t.EAP.Equal(o.EAP) {
		return false
	}
	a, b := *t, *o
	for _, x := range []*PeerTunnel{&a, &b} {
		x.Credential, x.Trust, x.EAP = nil, nil, nil
		x.Pool, x.DNS, x.Domains = nil, nil, nil
		x.Start, x.DPD, x.Keepalive, x.Lifetime, x.Reauth, x.Unique, x.OnDead, x.OnClose, x.Children = 0, 0, 0, 0, 0, 0, 0, 0, nil
	}
	return reflect.DeepEqual(a, b)
}

// SameSA says whether SAs made for one child serve the other as well: all but the lifetimes is equal. The numbers a gateway
// gave them are not looked at.
func (c *Child) SameSA(o *Child) bool {
	a, b := *c, *o
	for _, x := range []*Child{&a, &b} {
		x.Lifetime, x.ReqID, x.OutPolicy, x.InPolicy = Lifetime{}, 0, 0, 0
	}
	return reflect.DeepEqual(a, b)
}
