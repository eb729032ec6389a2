package policy

import "fmt"

// PolicyID is this process's own number for a policy; never reused.
type PolicyID uint64

// Action of a policy (RFC 4301, section 4.4.1).
type Action uint8

const (
	Protect Action = iota
	Bypass
	Discard
)

func (a Action) String() string {
	switch a {
	case Bypass:
		return "bypass"
	case Discard:
		return "discard"
	}
	return "protect"
}

// Level is setkey's level: what a PROTECT policy means while there is no SA, and which SA may carry it.
type Level uint8

const (
	LevelRequire Level = iota // packets wait for an SA
	LevelUse                  // packets pass in clear while there is no SA
	LevelUnique               // as require, and only an SA made for this policy, or with its number, may carry them
	LevelDefault              // what the system says: here as require
)

func (l Level) String() string {
	switch l {
	case LevelUse:
		return "use"
	case LevelUnique:
		return "unique"
	case LevelDefault:
		return "default"
	}
	return "require"
}

// Policy is one entry of the SPD. The first match in order of Priority, then of ID, decides.
type Policy struct {
	ID        PolicyID
	Name      string // tunnel/child, for people
	Direction Direction
	Priority  int32 // lower is asked first
	Action    Action
	Level     Level
	// A packet matches if any of Local selects its local end and any of Remote its remote end.
	Local, Remote []Selector
	ReqID         uint32 // SAs with this number may carry it
	Mode          Mode
	// Packets and octets that wait while an SA is negotiated; zero: DefaultQueuePackets, DefaultQueueOctets.
	QueuePackets, QueueOctets int
}

// What waits for an SA at the most, per policy.
const (
	DefaultQueuePackets = 64
	DefaultQueueOctets  = 256 << 10
)

func (p Policy) String() string {
	return fmt.Sprintf("%s %s %v -> %v", p.Direction, p.Action, p.Local, p.Remote)
}
