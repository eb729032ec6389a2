package legacy

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"coati/policy"
)

// State of an association (RFC 2367, section 2.3.1).
type State uint8

const (
	Larval State = iota // asked for, not there yet
	Mature
	Dying // past its soft lifetime
	Dead  // past its hard one
)

func (s State) String() string { return [...]string{"larval", "mature", "dying", "dead"}[s] }

// LiveAssociation is an association as it stands.
type LiveAssociation struct {
	Association
	State           State
	Created, Used   time.Time // zero: not said, never
	Packets, Octets uint64
	Hidden          bool // the keys are not shown
	PID             int  // of the daemon that has it
}

// LiveEntry is a policy as it stands.
type LiveEntry struct {
	Entry
	ID      uint64
	Created time.Time
	Used    time.Time
	PID     int
}

// hiddenKey stands where a key is not shown.
const hiddenKey = " [redacted]"

// WriteAssociations prints what setkey -D prints; with ports what -Dp does. The sequence number is 0, as Linux has it in a
// dump, and the window is in octets of eight packets, as -r reads it.
func WriteAssociations(to io.Writer, now time.Time, list []LiveAssociation, ports bool) error {
	w := bufio.NewWriter(to)
	for i := range list {
		writeAssociation(w, now, &list[i], ports, countdown(i, len(list)))
	}
	return w.Flush()
}

// countdown is the number PF_KEY gives to entry i of n: it ends with 0.
func countdown(i, n int) int {
	if i == n-1 {
		return 0
	}
	return i + 1
}

func end(a netip.Addr, port uint16, ports, encap bool) string {
	s := a.String()
	if ports {
		s += fmt.Sprintf("[%d]", port)
	}
	if encap {
		s += fmt.Sprintf("[%d]", port)
	}
	return s
}

func writeAssociation(w *bufio.Writer, now time.Time, a *LiveAssociation, ports bool, seq int) {
	udp := a.Encap == policy.EncapUDP
	proto := "esp"
	if udp {
		proto = "esp-udp"
	}
	mode := "any"
	if a.Mode != AnyMode {
		mode = a.Mode.String()
	}
	fmt.Fprintf(w, "%s %s \n", end(a.Src, a.SrcPort, ports, udp), end(a.Dst, a.DstPort, ports, udp))
	fmt.Fprintf(w, "\t%s mode=%s spi=%d(0x%08x) reqid=%d(0x%08x)\n", proto, mode, uint32(a.SPI), uint32(a.SPI), a.ReqID, a.ReqID)
	if a.State != Larval {
		writeKey(w, "E", algorithmName(encryptions, a.Encryption), a.EncryptionKey, a.Hidden)
		if a.Integrity != (policy.Transform{}) {
			name := algorithmName(integrities, a.Integrity)
			if a.ICV96 {
				name = hmacSHA256Cut
			}
			writeKey(w, "A", name, a.IntegrityKey, a.Hidden)
		}
	}
	fmt.Fprintf(w, "\tseq=0x%08x replay=%d flags=0x%08x state=%s \n", 0, a.Window/8, 0, a.State)
	age := time.Duration(0)
	if !a.Created.IsZero() {
		age = time.Duration(now.Unix()-a.Created.Unix()) * time.Second
	}
	l := &a.Lifetime
	fmt.Fprintf(w, "\tcreated: %s\tcurrent: %s\n", clock(a.Created), clock(now))
	fmt.Fprintf(w, "\tdiff: %d(s)\thard: %d(s)\tsoft: %d(s)\n", seconds(age), seconds(l.HardTime), seconds(l.SoftTime))
	fmt.Fprintf(w, "\tlast: %s\thard: 0(s)\tsoft: 0(s)\n", clock(a.Used))
	fmt.Fprintf(w, "\tcurrent: %d(bytes)\thard: %d(bytes)\tsoft: %d(bytes)\n", a.Octets, l.HardOctets, l.SoftOctets)
	fmt.Fprintf(w, "\tallocated: %d\thard: %d\tsoft: %d\n", a.Packets, l.HardPackets, l.SoftPackets)
	fmt.Fprintf(w, "\tsadb_seq=%d pid=%d refcnt=0\n", seq, a.PID)
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

// writeKey prints groups of four octets, 32 octets a line.
func writeKey(w *bufio.Writer, letter, name string, key policy.Secret, hidden bool) {
	fmt.Fprintf(w, "\t%s: %s ", letter, name)
	b := key.Reveal()
	if hidden && name != "null" {
		b = nil
		_, _ = w.WriteString(hiddenKey)
	}
	for i, o := range b {
		if i > 0 && i%32 == 0 {
			_ = w.WriteByte('\n')
		}
		if i%4 == 0 {
			_ = w.WriteByte(' ')
		}
		fmt.Fprintf(w, "%02x", o)
	}
	_ = w.WriteByte('\n')
}

// clock is the time as ctime has it, without the day of the week: always 20 octets.
func clock(t time.Time) string {
	if t.IsZero() {
		return strings.Repeat(" ", 20)
	}
	return t.Local().Format("Jan _2 15:04:05 2006")
}

// WritePolicies prints what setkey -DP prints; with ports what -DPp does.
func WritePolicies(to io.Writer, list []LiveEntry, ports bool) error {
	w := bufio.NewWriter(to)
	for i := range list {
		e := &list[i]
		fmt.Fprintf(w, "%s %s %s", e.port(e.Src, e.SrcPort), e.port(e.Dst, e.DstPort), protocolName(e.Protocol))
		if (e.Protocol == protoICMP || e.Protocol == protoICMPv6) && (e.SrcPort != 0 || e.DstPort != 0) {
			fmt.Fprintf(w, " %d,%d", e.SrcPort, e.DstPort)
		}
		fmt.Fprintf(w, "\n\t%s %s %s\n", e.Direction, sayPriority(e.Priority), actions[e.Action])
		if e.Action == policy.Protect {
			fmt.Fprintf(w, "\t%s\n", e.Request.say(ports))
		}
		fmt.Fprintf(w, "\tcreated: %s  lastused: %s\n", clock(e.Created), clock(e.Used))
		fmt.Fprintf(w, "\tlifetime: 0(s) validtime: 0(s)\n")
		fmt.Fprintf(w, "\tspid=%d seq=%d pid=%d\n\trefcnt=1\n", e.ID, countdown(i, len(list)), e.PID)
	}
	return w.Flush()
}

var actions = map[policy.Action]string{policy.Protect: "ipsec", policy.Bypass: "none", policy.Discard: "discard"}

// port is a range with its port, where the protocol has one.
func (e *Entry) port(p netip.Prefix, port uint16) string {
	s := p.String()
	if p.IsSingleIP() {
		s = p.Addr().String()
	}
	switch e.Protocol {
	case protoICMP, protoICMPv6, protoMobility, protoGRE:
		return s
	}
	if port == 0 {
		return s + "[any]"
	}
	return fmt.Sprintf("%s[%d]", s, port)
}

// sayPriority is the priority as an offset from the nearest base; a higher priority is a lower number.
func sayPriority(p int32) string {
	name := "def"
	switch {
	case p < -1<<29:
		name = "high"
	case p >= 1<<29:
		name = "low"
	}
	switch offset := bases[name] - int64(p); {
	case offset > 0:
		return fmt.Sprintf("prio %s + %d", name, offset)
	case offset < 0:
		return fmt.Sprintf("prio %s - %d", name, -offset)
	}
	return "prio " + name
}

// maxManual is the largest number of -u that a manual policy has; larger ones are printed with another sign.
const maxManual = 0x3fff

func (r *Request) say(ports bool) string {
	ends := ""
	if r.Src.IsValid() {
		ends = end(r.Src, r.SrcPort, ports, false) + "-" + end(r.Dst, r.DstPort, ports, false)
	}
	s := fmt.Sprintf("esp/%s/%s/%s", r.Mode, ends, r.Level)
	switch {
	case r.ReqID == 0:
		return s
	case r.ReqID > maxManual:
		return fmt.Sprintf("%s#%d", s, r.ReqID)
	}
	return fmt.Sprintf("%s:%d", s, r.ReqID)
}
