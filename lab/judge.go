package lab

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A Verdict is what tshark saw in a capture with the keys it was given.
type Verdict struct {
	IKE, ESP int      // messages and packets in the capture
	Sealed   int      // of the IKE messages: those with an SK or SKF payload; of IKEv1, those that are encrypted
	Opened   int      // of Sealed and ESP: those decrypted and authenticated
	Clear    []string // frames that are neither IKE nor ESP
	Faults   []string // one line for every frame that did not open
}

// A JudgeOption changes what the judge asks for.
type JudgeOption func(*judgeRules)

type judgeRules struct{ esn bool }

// WithESN judges ESP by its decrypted octets alone: with extended sequence numbers the high half
// is authenticated but not sent (RFC 4303, section 2.2.1), and tshark has no notion of it.
func WithESN() JudgeOption { return func(r *judgeRules) { r.esn = true } }

// tables are the files of a Wireshark configuration folder that hold keys.
var tables = []string{"ikev2_decryption_table", "ikev1_decryption_table", "esp_sa"}

// The columns we ask tshark for, in this order.
var judgeFields = []string{
	"frame.number", "_ws.col.Protocol", "isakmp.typepayload", "isakmp.enc.decrypted",
	"isakmp.ikev2.integrity_checksum", "_ws.malformed", "esp.spi", "esp.icv_good",
	"esp.decrypted_data", "udp.dstport", "isakmp.ispi", "udp.payload", "isakmp.version", "isakmp.flag_e",
}

// Judge opens every IKE message and ESP packet of a capture with the key tables in keys, a folder
// with files named and written as Wireshark's own.
func Judge(t testing.TB, capture, keys string, options ...JudgeOption) Verdict {
	t.Helper()
	var rules judgeRules
	for _, option := range options {
		option(&rules)
	}
	// After an additional key exchange an IKE SA has other keys under the same SPIs, and Wireshark's table has one row for
	// them: each generation is a run of tshark with a table of its own, and what one run opens is open.
	var v Verdict
	var runs [][]string
	for _, table := range generations(t, filepath.Join(keys, tables[0])) {
		runs = append(runs, sharked(t, capture, keys, table))
	}
	for i := range runs[0] {
		var one Verdict
		for _, run := range runs {
			one = Verdict{}
			if one.frame(strings.Split(run[i], "|"), rules); len(one.Faults) == 0 {
				break
			}
		}
		v.add(one)
	}
	return v
}

func (v *Verdict) add(o Verdict) {
	v.IKE, v.ESP, v.Sealed, v.Opened = v.IKE+o.IKE, v.ESP+o.ESP, v.Sealed+o.Sealed, v.Opened+o.Opened
	v.Clear, v.Faults = append(v.Clear, o.Clear...), append(v.Faults, o.Faults...)
}

// generations splits the table of IKEv2's keys, so that no two rows of a part have the same SPIs.
func generations(t testing.TB, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		return []string{""}
	}
	parts, rows := []string{""}, map[string]int{}
	for line := range strings.Lines(string(text)) {
		columns := strings.SplitN(line, ",", 3)
		spis := strings.Join(columns[:min(2, len(columns))], ",")
		n := rows[spis]
		if rows[spis]++; n == len(parts) {
			parts = append(parts, "")
		}
		parts[n] += line
	}
	return parts
}

// sharked is a line of columns for each frame, with the given table of IKEv2's keys.
func sharked(t testing.TB, capture, keys, ike string) []string {
	t.Helper()
	// A copy, as tshark may write into its configuration folder.
	config := t.TempDir()
	for i, table := range tables {
		text, err := os.ReadFile(filepath.Join(keys, table))
		if err != nil {
			continue
		}
		if i == 0 {
			text = []byte(ike)
		}
		if err := os.WriteFile(filepath.Join(config, table), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{
		"-n", "-r", capture, "-T", "fields", "-E", "occurrence=a", "-E", "separator=|",
		"-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE",
		// Inner packets that tshark thinks strange are not our business, nor is reassembly.
		"-o", "ip.defragment:FALSE",
	}
	for _, field := range judgeFields {
		args = append(args, "-e", field)
	}
	cmd := exec.Command("tshark", args...)
	cmd.Env = append(os.Environ(), "WIRESHARK_CONFIG_DIR="+config)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("tshark: %v\n%s", err, stderr.String())
	}
	// It goes on without a table it cannot read.
	if strings.Contains(stderr.String(), "Error loading table") {
		t.Fatalf("tshark does not take the key tables: %s", stderr.String())
	}
	return strings.Split(strings.TrimSpace(stdout.String()), "\n")
}

func (v *Verdict) frame(columns []string, rules judgeRules) {
	field := func(name string) string {
		for i, known := range judgeFields {
			if known == name && i < len(columns) {
				return columns[i]
			}
		}
		return ""
	}
	number, protocol := field("frame.number"), field("_ws.col.Protocol")
	switch {
	case field("esp.spi") != "":
		v.ESP++
		switch {
		case field("esp.icv_good") == "1", rules.esn && looksLikeIP(field("esp.decrypted_data")):
			v.Opened++
		default:
			v.Faults = append(v.Faults, fmt.Sprintf("frame %s: ESP %s: no key, or not authentic", number, field("esp.spi")))
		}
	case field("isakmp.ispi") != "":
		v.IKE++
		payloads := strings.Split(field("isakmp.typepayload"), ",")
		sealed := payloads[0] == "46" || payloads[0] == "53" // SK, SKF
		// What IKEv1 encrypts has a HASH, and tshark shows payloads only once they are decrypted.
		sealedV1 := field("isakmp.version") == "0x10" && field("isakmp.flag_e") == "1"
		if sealed || sealedV1 {
			v.Sealed++
		}
		switch {
		case sealedV1 && !slices.Contains(payloads, "8"):
			v.Faults = append(v.Faults, fmt.Sprintf("frame %s: IKEv1: no key", number))
		case sealed && field("isakmp.enc.decrypted") == "":
			v.Faults = append(v.Faults, fmt.Sprintf("frame %s: IKE: no key", number))
		case field("isakmp.ikev2.integrity_checksum") != "":
			v.Faults = append(v.Faults, fmt.Sprintf("frame %s: IKE: not authentic", number))
		case field("_ws.malformed") != "":
			v.Faults = append(v.Faults, fmt.Sprintf("frame %s: IKE: malformed", number))
		case sealed || sealedV1:
			v.Opened++
		}
	case field("udp.dstport") == fmt.Sprint(markerPort), protocol == "ARP", protocol == "ICMPv6":
		// Ours, and what any link carries.
	case field("udp.dstport") == "4500" && field("udp.payload") == "ff":
		// NAT keepalive (RFC 3948, section 2.3).
	default:
		v.Clear = append(v.Clear, fmt.Sprintf("frame %s: %s", number, protocol))
	}
}

// looksLikeIP says that the octets are a whole IPv4 or IPv6 packet by version and length.
func looksLikeIP(text string) bool {
	octets, err := hex.DecodeString(text)
	if err != nil || len(octets) < 20 {
		return false
	}
	switch octets[0] >> 4 {
	case 4:
		return int(octets[2])<<8|int(octets[3]) <= len(octets)
	case 6:
		return len(octets) >= 40 && 40+int(octets[4])<<8|int(octets[5]) <= len(octets)
	}
	return false
}

// Check fails the test unless at least this many ESP packets were seen, all opened, and nothing
// was on the wire but IKE and ESP.
func (v Verdict) Check(t testing.TB, leastESP int) {
	t.Helper()
	for _, fault := range v.Faults {
		t.Error(fault)
	}
	if v.Sealed < 2 {
		t.Errorf("only %d protected IKE messages in the capture", v.Sealed)
	}
	if v.ESP < leastESP {
		t.Errorf("%d ESP packets in the capture, want at least %d", v.ESP, leastESP)
	}
	if v.Opened != v.Sealed+v.ESP {
		t.Errorf("%d of %d IKE messages and ESP packets opened", v.Opened, v.Sealed+v.ESP)
	}
	if len(v.Clear) > 0 {
		t.Errorf("neither IKE nor ESP: %s", strings.Join(v.Clear, ", "))
	}
}
