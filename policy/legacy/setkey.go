// Package legacy reads other people's files into the nouns of package policy, and writes what their programs print.
//
// The language of setkey(8), of KAME, the BSDs and ipsec-tools: a script adds and deletes security associations with manual
// keys, and policies.
//
//	setkey.go            what a script says
//	setkey_lexer.go      octets -> statements, each a list of tokens that know their line
//	setkey_statement.go  statements -> operations
//	setkey_policy.go     spdadd and its kin: ranges, upper-layer protocols, what follows -P
//	setkey_algorithm.go  names and key lengths
//	setkey_database.go   operations on what is there already: all of a script or nothing
//	setkey_dump.go       what setkey -D and -DP print
//
// Every fault is told with file, line, directive and what was expected. Keys are never part of it, nor is anything that
// might be one. Addresses are numbers: no name is resolved.
package legacy

import (
	"fmt"
	"net/netip"

	"coati/policy"
)

// Verb is the first word of a statement.
type Verb uint8

const (
	Add Verb = iota
	Get
	Delete
	DeleteAll
	Flush
	Dump
	PolicyAdd
	PolicyUpdate
	PolicyDelete
	PolicyFlush
	PolicyDump
)

var verbNames = [...]string{"add", "get", "delete", "deleteall", "flush", "dump", "spdadd", "spdupdate", "spddelete", "spdflush", "spddump"}

func (v Verb) String() string { return verbNames[v] }

// Script is a file's operations, in order.
type Script struct{ Operations []Operation }

// Operation is one statement. Which of SA and Policy it has depends on the verb: Get and Delete have addresses and SPI,
// DeleteAll has addresses; PolicyDelete has selectors and direction.
type Operation struct {
	File   string
	Line   int // of its first word
	Verb   Verb
	SA     *Association
	Policy *Entry
}

// AnyMode is the mode of an association whose script does not say: what the policies that use it say.
const AnyMode policy.Mode = 0xff

// Association is a security association with manual keys: one direction.
type Association struct {
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16 // of ESP in UDP
	Encap            policy.Encap
	SPI              policy.SPI
	Mode             policy.Mode // AnyMode if it was not said
	ReqID            uint32      // joins it to policies of level unique; 0: none
	Window           uint32      // replay window, packets; 0: none (RFC 4303, section 5)
	Lifetime         policy.Lifetime
	Encryption       policy.Transform
	Integrity        policy.Transform // zero for combined modes
	ICV96            bool             // HMAC-SHA2-256 is cut to 96 bits
	EncryptionKey    policy.Secret    // with the salt at its end
	IntegrityKey     policy.Secret
	File             string
	Line             int
}

// Counter says whether a repeated sequence number under the same key would be fatal.
func (a *Association) Counter() bool {
	e := a.Encryption.Algorithm()
	return e != nil && e.Counter
}

// Same says whether two associations differ in nothing but where they were written.
func (a *Association) Same(o *Association) bool {
	x, y := *a, *o
	if !x.EncryptionKey.Equal(y.EncryptionKey) || !x.IntegrityKey.Equal(y.IntegrityKey) {
		return false
	}
	x.File, x.Line, y.File, y.Line = "", 0, "", 0
	x.EncryptionKey, x.IntegrityKey, y.EncryptionKey, y.IntegrityKey = policy.Secret{}, policy.Secret{}, policy.Secret{}, policy.Secret{}
	return fmt.Sprintf("%#v", x) == fmt.Sprintf("%#v", y)
}

// Direction of a policy.
type Direction uint8

const (
	In Direction = iota
	Out
	Forward // what comes in for others; In covers it
)

func (d Direction) String() string { return [...]string{"in", "out", "fwd"}[d] }

// AnyProtocol is the upper-layer protocol "any", as PF_KEY numbers it.
const AnyProtocol = 255

// Selection is what a policy selects.
type Selection struct {
	Src, Dst         netip.Prefix
	SrcPort, DstPort uint16 // 0: any. Of ICMP: type and code
	Protocol         uint8  // AnyProtocol: any
	Direction        Direction
}

// Entry is one policy.
type Entry struct {
	Selection
	Priority int32 // lower is asked first; "def" is 0
	Action   policy.Action
	Request  Request // of policy.Protect
	File     string
	Line     int
}

// Request is the one rule of a policy: which associations may carry what it selects.
type Request struct {
	Mode             policy.Mode
	Src, Dst         netip.Addr // invalid in transport mode where they were left out: the packet's
	SrcPort, DstPort uint16     // of ESP in UDP
	Level            policy.Level
	ReqID            uint32 // of LevelUnique; 0: none
}

// Same says whether two policies differ in nothing but where they were written.
func (e *Entry) Same(o *Entry) bool {
	x, y := *e, *o
	x.File, x.Line, y.File, y.Line = "", 0, "", 0
	return x == y
}

// Selectors are what the policy selects at its source and at its destination.
func (s *Selection) Selectors() (src, dst policy.Selector) {
	src, dst = policy.PrefixSelector(s.Src), policy.PrefixSelector(s.Dst)
	if s.Protocol == AnyProtocol {
		return src, dst
	}
	src.Protocol, dst.Protocol = s.Protocol, s.Protocol
	if s.Protocol == protoICMP || s.Protocol == protoICMPv6 {
		if s.SrcPort == 0 {
			return src, dst
		}
		// A code of zero is any code, as everywhere in PF_KEY.
		src.StartPort, src.EndPort = s.SrcPort<<8|s.DstPort, s.SrcPort<<8|s.DstPort
		if s.DstPort == 0 {
			src.EndPort |= 0xff
		}
		dst.StartPort, dst.EndPort = src.StartPort, src.EndPort
		return src, dst
	}
	if s.SrcPort != 0 {
		src.StartPort, src.EndPort = s.SrcPort, s.SrcPort
	}
	if s.DstPort != 0 {
		dst.StartPort, dst.EndPort = s.DstPort, s.DstPort
	}
	return src, dst
}
