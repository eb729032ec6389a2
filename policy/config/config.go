// Package config reads Coati's native TOML file into the nouns of package policy, and writes it again.
//
// Several files are one configuration. Load works in stages, and each of them reports every fault it finds, with
// file and line, before load.go starts the next one:
//
//	document.go   octets -> a tree of values that know their line (TOML 1.0, by go-toml's parser)
//	schema.go     tree -> settings: unknown keys, wrong types, keys set twice
//	gateway.go    the table [gateway]
//	tunnel.go     the tables [tunnel.NAME] and [[tunnel.NAME.child]]: values, defaults, what contradicts what
//	secret.go     the pre-shared key files, with their permissions
//	credential.go certificates, private and public keys, revocation lists
//	claim.go      which child claims which traffic: selectors, specificity, overlaps
//
// Beside it: fault.go (how faults are said), nearest.go (spelling hints), format.go (the canonical file), diff.go
// (what a reload changes). Secrets are never written, only the names of their files.
package config

import (
	"fmt"
	"log/slog"
	"time"

	"coati/policy"
)

// Config is one whole configuration, checked.
type Config struct {
	Gateway Gateway
	// Tunnels in the order of the files. ReqID, OutPolicy and InPolicy of their children are zero: the gateway's to
	// assign.
	Tunnels []policy.PeerTunnel
	// PSKFiles names the file each tunnel's pre-shared key was read from, absolute, by tunnel.
	PSKFiles map[string]string
	// CredentialFiles names the files of keys and certificates, absolute, by tunnel; nil if no tunnel has any.
	CredentialFiles map[string]CredentialFiles

	where map[string]position
}

// Where says where a tunnel, or a child as "TUNNEL/CHILD", is configured, as file:line; empty if it was not read from
// a file.
func (c *Config) Where(name string) string {
	if p, ok := c.where[name]; ok {
		return p.String()
	}
	return ""
}

// Gateway is the table [gateway]: what belongs to no tunnel.
type Gateway struct {
	TUN     string // name of the TUN device
	Control string // path of the control socket
	// ControlGroup may use the control socket besides root; empty: nobody may.
	ControlGroup       string
	Leases             string // file of the addresses that peers were given
	KeyLog             string // folder of the key log; empty: none is written
	SecretsPermissions SecretsPermissions
	IKEPort, NATTPort  uint16 // UDP ports of IKE and of IKE and ESP behind NATs (RFC 7296, section 2.23)
	Queues             int    // TUN queues; 0: one for each CPU
	NDBypass           bool   // neighbour discovery is never protected
	OnExit             OnExit
	MTUFloor           int           // least path MTU that an ICMP error may tell, octets
	MTUAging           time.Duration // how long one is kept
	ICMPAccept         ICMPAccept
	Guard              bool // clear packets that should have been protected are dropped
	Plane              PlaneChoice
	LogLevel           slog.Level
}

// DefaultGateway is what an empty file means.
func DefaultGateway() Gateway {
	return Gateway{
		TUN:      "coati0",
		Control:  "/run/coati/coati.sock",
		Leases:   "/var/lib/coati/leases",
		IKEPort:  500,
		NATTPort: 4500,
		NDBypass: true,
		Guard:    true,
		MTUFloor: DefaultMTUFloor,
		MTUAging: DefaultMTUAging,
		LogLevel: slog.LevelInfo,
	}
}

// What a tunnel and a child mean where the file says nothing. The proposals are policy.DefaultIKE and
// policy.DefaultESP, the local selectors everything of the remote selectors' families.
const (
	DefaultDPD           = 30 * time.Second
	DefaultKeepalive     = 20 * time.Second // RFC 3948, section 4
	DefaultLifetime      = 4 * time.Hour
	DefaultChildLifetime = time.Hour
	DefaultReplayWindow  = 4096 // packets
	DefaultMTUFloor      = 576  // octets, of IPv4 (RFC 1191, section 3)
	DefaultMTUAging      = 10 * time.Minute

	// The soft lifetime of a child SA is this part of the hard one. Jitter is the state machine's.
	softPercent = 90
)

// Limits on what is read, in octets.
const (
	MaxFile    = 16 << 20
	MaxPSKFile = 64 << 10

	MaxCertFile = 4 << 20 // certificates, public keys, revocation lists
)

// SecretsPermissions says how the files of secrets are checked.
type SecretsPermissions uint8

const (
	SecretsStrict SecretsPermissions = iota // no group or other bits, owner root or ourselves
	SecretsAny                              // not at all, for secrets mounted by an orchestrator
)

func (s SecretsPermissions) String() string {
	if s == SecretsAny {
		return "any"
	}
	return "strict"
}

// PlaneChoice says who moves ESP packets.
type PlaneChoice uint8

const (
	PlaneUser PlaneChoice = iota // we do
	PlaneXFRM                    // the kernel
	PlaneAuto                    // the kernel if it can, else we
)

var planeChoices = []string{"user", "xfrm", "auto"}

func (p PlaneChoice) String() string { return planeChoices[p] }

// ICMPAccept says which ICMP errors from the unprotected side are acted upon (RFC 4301, section 6.1.1).
type ICMPAccept uint8

const (
	ICMPAcceptBoth   ICMPAccept = iota // the two that follow
	ICMPAcceptNeeded                   // IPv4's "fragmentation needed": type 3, code 4
	ICMPAcceptTooBig                   // IPv6's "packet too big": type 2
	ICMPAcceptNone
)

var icmpAccepts = []string{"both", "fragmentation-needed", "packet-too-big", "none"}

func (a ICMPAccept) String() string { return icmpAccepts[a] }

// OnExit says what is left when the gateway ends.
type OnExit uint8

const (
	ExitRestore OnExit = iota // nothing
	ExitBlock                 // routes that prohibit the tunnels' traffic
)

func (o OnExit) String() string {
	if o == ExitBlock {
		return "block"
	}
	return "restore"
}

// position is a line of a file; line 0 is the file as a whole.
type position struct {
	file string
	line int
}

func (p position) String() string {
	if p.line == 0 {
		return p.file
	}
	return fmt.Sprintf("%s:%d", p.file, p.line)
}
