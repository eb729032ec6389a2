// Package control lets people and programs talk to a running gateway: JSON over HTTP on a unix socket.
//
//	contract.go  what is asked and answered; the names in JSON are stable
//	server.go    the daemon's end: the socket, its permissions, limits on what may be asked
//	sadb.go      associations and policies by setkey's scripts
//	client.go    the other end, as the command line uses it
//
//	GET  /v1/status   Status
//	GET  /v1/version  Version
//	POST /v1/up       Target -> Done, once the children are up
//	POST /v1/down     Target -> Done
//	POST /v1/rekey    Target -> Done
//	POST /v1/reload   -> Reloaded
//	POST /v1/script   Script -> ScriptDone
//
// What fails is answered with a status of 4xx or 5xx and a Failure. Whoever may open the socket may do all of this, but
// keys are shown to root alone.
package control

import (
	"context"
	"time"
)

// A Handler does what is asked. Its methods may be called at the same time.
type Handler interface {
	Status(context.Context) (Status, error)
	Up(context.Context, Target) (Done, error)
	Down(context.Context, Target) (Done, error)
	Rekey(context.Context, Target) (Done, error)
	Reload(context.Context) (Reloaded, error)
	Script(context.Context, Script) (ScriptDone, error)
	Version() Version
}

// Target is a tunnel, or one of its children.
type Target struct {
	Tunnel string `json:"tunnel"`
	Child  string `json:"child,omitempty"` // empty: all of the tunnel
}

// Done says that a command succeeded.
type Done struct {
	Text string `json:"text,omitempty"` // what there is to say about it
}

// Reloaded says what a reload changed, or which faults kept it from changing anything.
type Reloaded struct {
	Plan   []string `json:"plan"`   // one line for each change; empty: nothing changed
	Faults []string `json:"faults"` // file:line: message; warnings too
	Failed bool     `json:"failed"` // the configuration has errors: what runs was not touched
}

// Failure is the answer to what could not be done: lower case, no period, with a hint.
type Failure struct {
	Error string `json:"error"`
}

// Version is what the daemon was built from.
type Version struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	Commit  string `json:"commit,omitempty"`
}

// Status is everything there is to see of a running gateway.
type Status struct {
	Version Version  `json:"version"`
	Gateway Gateway  `json:"gateway"`
	Tunnels []Tunnel `json:"tunnels"` // in the configuration's order
}

// Gateway is what belongs to no tunnel.
type Gateway struct {
	PID         int               `json:"pid"`
	Started     time.Time         `json:"started"`
	Plane       string            `json:"plane"`             // who moves ESP: "userspace" or "kernel"
	Ciphers     string            `json:"ciphers,omitempty"` // the kernel of AES-GCM, where ESP is in userspace: see COATI_CPU
	TUN         string            `json:"tun"`
	MTU         int               `json:"mtu"` // octets of inner packet, the largest of all tunnels
	Queues      int               `json:"queues"`
	QueueFrames []Queue           `json:"queue_frames"` // of each of them
	TUNOffloads string            `json:"tun_offloads"`
	Sockets     []Socket          `json:"sockets"`
	KeyLog      string            `json:"keylog,omitempty"`       // folder; empty: no keys are logged
	Table       int               `json:"table"`                  // number of the routing table
	Drops       map[string]uint64 `json:"drops"`                  // packets and datagrams that belong to no SA, by reason
	DropCounts  []Drop            `json:"drop_counts"`            // the same in order, with the kernel's names
	Guard       *Guard            `json:"guard,omitempty"`        // nil: there is none
	LastRefused *Refused          `json:"last_refused,omitempty"` // the latest that may have been meant for any tunnel or none
}

// Refused is a peer's attempt that was refused.
type Refused struct {
	At     time.Time `json:"at"`
	Peer   string    `json:"peer"`   // address and port
	Reason string    `json:"reason"` // as the log has it
}

// Drop is one reason for which packets were not delivered; docs/drops.md explains them.
type Drop struct {
	Reason  string `json:"reason"`
	XFRM    string `json:"xfrm,omitempty"` // the counter of /proc/net/xfrm_stat for the same; empty: the kernel has none
	Packets uint64 `json:"packets"`
}

// Guard is what came in clear and should have been protected: it was dropped.
type Guard struct {
	Packets uint64 `json:"packets"`
	Octets  uint64 `json:"octets"`
}

// Queue counts what went through one queue of the TUN.
type Queue struct {
	Read    uint64 `json:"read"`    // frames from the machine, to be protected
	Written uint64 `json:"written"` // frames to the machine
}

// Socket is one local address the gateway listens on.
type Socket struct {
	Address  string `json:"address"`
	Sockets  int    `json:"sockets"`
	Offloads string `json:"offloads"`
}

// States of a tunnel and of a child.
const (
	StateUp         = "up"
	StateConnecting = "connecting"
	StateClosing    = "closing"
	StateDown       = "down"
)

// Tunnel is one configured peer.
type Tunnel struct {
	Name   string `json:"name"`
	State  string `json:"state"`
	Local  string `json:"local"`  // address as configured; empty: as the route says
	Remote string `json:"remote"` // address, host name or "any", as configured
	Start  string `json:"start"`
	// Aggressive: it is a tunnel of IKEv1's aggressive mode.
	Aggressive bool       `json:"aggressive,omitempty"`
	Failures   int        `json:"failures"` // attempts in a row
	LastError  string     `json:"last_error,omitempty"`
	RetryAt    *time.Time `json:"retry_at,omitempty"`
	Next       string     `json:"next,omitempty"` // what brings it up, for people; empty if it is up
	// NoPath is why packets cannot reach the peer any more although there are SAs; empty: nothing is known of that.
	NoPath string `json:"no_path,omitempty"`
	// LastRefused is a peer's latest attempt that was refused; forgotten when all is up with a peer at its address.
	LastRefused *Refused `json:"last_refused,omitempty"`
	IKE         []IKE    `json:"ike"`
	Children    []Child  `json:"children"`
}

// IKE is one IKE SA.
type IKE struct {
	State        string     `json:"state"`
	Version      uint8      `json:"version"`
	Initiator    bool       `json:"initiator"`
	LocalSPI     string     `json:"local_spi"`
	RemoteSPI    string     `json:"remote_spi"`
	Local        string     `json:"local"` // address and port
	Remote       string     `json:"remote"`
	LocalID      string     `json:"local_id"`
	RemoteID     string     `json:"remote_id"`
	Proposal     string     `json:"proposal"`
	Established  *time.Time `json:"established,omitempty"`
	LastReceived *time.Time `json:"last_received,omitempty"`
	NATLocal     bool       `json:"nat_local"` // we are behind a NAT
	NATRemote    bool       `json:"nat_remote"`
	Leased       []string   `json:"leased,omitempty"` // addresses that the peer was given
	Given        *Given     `json:"given,omitempty"`  // what the peer gave us
	Doing        string     `json:"doing,omitempty"`  // the exchange under way
}

// Given is what a peer gave us by its configuration payload.
type Given struct {
	Addresses []string `json:"addresses"`
	DNS       []string `json:"dns,omitempty"`
	Domains   []string `json:"domains,omitempty"` // that these servers are to be asked about; empty: all
}

// Child is one configured child, with the SA pairs that carry it: none if it is down, two during a rekey.
type Child struct {
	Name     string   `json:"name"`
	State    string   `json:"state"`
	LocalTS  []string `json:"local_ts"`
	RemoteTS []string `json:"remote_ts"`
	SAs      []Pair   `json:"sas"`
}

// Pair is an inbound and an outbound SA.
type Pair struct {
	State       string    `json:"state"`
	In          SA        `json:"in"`
	Out         SA        `json:"out"`
	Proposal    string    `json:"proposal"`
	Mode        string    `json:"mode"`
	Encap       string    `json:"encap"`
	Established time.Time `json:"established"`
	LocalTS     []string  `json:"local_ts"` // as negotiated
	RemoteTS    []string  `json:"remote_ts"`
}

// SA is one direction.
type SA struct {
	SPI      string            `json:"spi"`
	Packets  uint64            `json:"packets"`
	Octets   uint64            `json:"octets"` // of inner packets
	Sequence uint64            `json:"sequence"`
	LastUsed *time.Time        `json:"last_used,omitempty"`
	Drops    map[string]uint64 `json:"drops,omitempty"` // packets, by reason
}
