package gateway

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"coati/gateway/control"
	"coati/policy"
	"coati/policy/config"
	"coati/policy/legacy"
)

// The scripts of the tests: keys, and policies for what is behind the two hosts.
const (
	keysThere = "add 198.51.100.1 198.51.100.2 esp 0x1001 -m tunnel -lh 3600 -ls 3000 -E aes-cbc \"a key of 16 octe\" -A hmac-sha256 \"a key of 32 octets, for you two.\";\n"
	keysBack  = "add 198.51.100.2 198.51.100.1 esp 0x1002 -u 7 -E aes-cbc 0x000102030405060708090a0b0c0d0e0f1011121314151617 -A hmac-sha1 0x0102030405060708090a0b0c0d0e0f1011121314;\n"
	rules     = "spdadd 10.1.0.1 10.2.0.1 any -P %[1]s ipsec esp/tunnel/198.51.100.1-198.51.100.2/%[3]s;\n" +
		"spdadd 10.2.0.1 10.1.0.1 any -P %[2]s ipsec esp/tunnel/198.51.100.2-198.51.100.1/%[3]s;\n"
)

func script(t *testing.T, text string) *legacy.Script {
	t.Helper()
	s, faults := legacy.ParseSetkey("test.setkey", []byte(text))
	if faults != nil {
		t.Fatal(faults)
	}
	return s
}

func manualConfig(t *testing.T, dir, who, text string) Config {
	settings := &config.Config{Gateway: config.DefaultGateway()}
	settings.Gateway.Control = filepath.Join(dir, who+".sock")
	return Config{Settings: settings, Manual: script(t, text), StateDir: dir, NoIKE: true, Log: testLog(t, who), CounterDir: filepath.Join(dir, who+".counters")}
}

// setkey does what coati setkey does.
func (d *daemon) setkey(t *testing.T, text string) control.ScriptDone {
	t.Helper()
	done, err := control.NewClient(d.settings.Gateway.Control).Script(t.Context(), control.Script{File: "by-hand", Text: text})
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func (d *daemon) mustSetkey(t *testing.T, text string) string {
	t.Helper()
	done := d.setkey(t, text)
	if done.Faults != nil {
		t.Fatalf("%s: %v", text, done.Faults)
	}
	return done.Output
}

// dumped is an association as a reader of setkey -D understands it.
type dumped struct {
	src, dst, mode, enc, encKey, integ, integKey, state string
	spi, reqID, hard, soft, octets, packets             uint64
	last                                                string
}

var dumpForm = regexp.MustCompile(`^(\S+) (\S+) 
	esp mode=(\S+) spi=(\d+)\(0x[0-9a-f]{8}\) reqid=(\d+)\(0x[0-9a-f]{8}\)
	E: (\S+) ([ 0-9a-f\n]+)
	A: (\S+) ([ 0-9a-f\n]+)
	seq=0x[0-9a-f]{8} replay=\d+ flags=0x00000000 state=(\S+) 
	created: [A-Z].{19}	current: [A-Z].{19}
	diff: \d+\(s\)	hard: (\d+)\(s\)	soft: (\d+)\(s\)
	last: (.{20})	hard: 0\(s\)	soft: 0\(s\)
	current: (\d+)\(bytes\)	hard: 0\(bytes\)	soft: 0\(bytes\)
	allocated: (\d+)	hard: 0	soft: 0
	sadb_seq=\d+ pid=\d+ refcnt=0
`)

func readDump(t *testing.T, text string) []dumped {
	t.Helper()
	var out []dumped
	for text != "" {
		m := dumpForm.FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("this is not setkey's:\n%s", text)
		}
		text = text[len(m[0]):]
		n := func(i int) uint64 { v, _ := strconv.ParseUint(m[i], 10, 64); return v }
		key := func(i int) string { return strings.NewReplacer(" ", "", "\n", "").Replace(m[i]) }
		out = append(out, dumped{
			src: m[1], dst: m[2], mode: m[3], spi: n(4), reqID: n(5), enc: m[6], encKey: key(7), integ: m[8], integKey: key(9), state: m[10],
			hard: n(11), soft: n(12), last: strings.TrimSpace(m[13]), octets: n(14), packets: n(15),
		})
	}
	return out
}

// live is the same, as the plane says it.
func (d *daemon) live() []dumped {
	var out []dumped
	names := map[string]string{"aes128": "aes-cbc", "aes192": "aes-cbc", "sha256": "hmac-sha256", "sha1": "hmac-sha1"}
	for _, e := range d.plane.Entries(true) {
		x := dumped{
			src: e.SA.Path.Local.Addr().String(), dst: e.SA.Path.Remote.Addr().String(), mode: e.SA.Mode.String(), spi: uint64(e.SA.SPI),
			enc: names[e.SA.Encryption.String()], encKey: fmt.Sprintf("%x", e.SA.EncryptionKey.Reveal()), integ: names[e.SA.Integrity.String()],
			integKey: fmt.Sprintf("%x", e.SA.IntegrityKey.Reveal()), state: "mature", hard: uint64(e.SA.Lifetime.HardTime / time.Second),
			soft: uint64(e.SA.Lifetime.SoftTime / time.Second), octets: e.State.Octets, packets: e.State.Packets,
		}
		if e.SA.Direction == policy.Inbound {
			x.src, x.dst = x.dst, x.src
		}
		if e.SA.SPI == 0x1002 {
			x.reqID = 7
		}
		if !e.State.LastUsed.IsZero() {
			x.last = e.State.LastUsed.Local().Format("Jan _2 15:04:05 2006")
		}
		out = append(out, x)
	}
	return out
}

func lost(h host, to string) bool {
	return exec.Command("ip", "netns", "exec", h.name, "ping", "-c", "1", "-W", "1", to).Run() != nil
}

func TestManualKeysBetweenTwoHosts(t *testing.T) {
	a, b := twoHosts(t)
	dir := t.TempDir()
	before := a.traces(t)
	textA, textB := keysThere+keysBack+fmt.Sprintf(rules, "out", "in", "require"), keysThere+keysBack+fmt.Sprintf(rules, "in", "out", "require")
	conf := manualConfig(t, dir, "a", textA)
	next := textA
	conf.LoadManual = func() (*legacy.Script, []config.Fault) { return legacy.ParseSetkey("test.setkey", []byte(next)) }
	first, err := a.start(t, conf)
	if err != nil {
		t.Fatal(err)
	}
	defer first.stop()
	second, err := b.start(t, manualConfig(t, dir, "b", textB))
	if err != nil {
		t.Fatal(err)
	}
	defer second.stop()

	// Both ways, the first packet too; what is shown is what is there.
	a.ping(t, b.inner)
	b.ping(t, a.inner)
	for _, d := range []*daemon{first, second} {
		if diff := cmp.Diff(d.live(), readDump(t, d.mustSetkey(t, "dump;")), cmp.AllowUnexported(dumped{})); diff != "" {
			t.Errorf("dump (-plane +setkey):\n%s", diff)
		}
	}
	if live := first.live(); len(live) != 2 || live[0].packets != 6 || live[1].packets != 6 || live[0].octets != 6*84 {
		t.Errorf("counters: %+v", live)
	}
	entry := regexp.MustCompile(`^10\.1\.0\.1\[any\] 10\.2\.0\.1\[any\] 255\n\tout prio def ipsec\n\tesp/tunnel/198\.51\.100\.1-198\.51\.100\.2/require\n` +
		`\tcreated: .{20}  lastused: .{20}\n\tlifetime: 0\(s\) validtime: 0\(s\)\n\tspid=\d+ seq=1 pid=\d+\n\trefcnt=1\n`)
	if text := first.mustSetkey(t, "spddump;"); !entry.MatchString(text) {
		t.Errorf("policies:\n%s", text)
	}

	// A fault anywhere changes nothing, whatever else the script says.
	was := []any{first.live(), first.manual.db}
	for text, want := range map[string]string{
		"flush; spdflush;\nadd 198.51.100.1 198.51.100.2 esp 0x2001 -E aes-cbc 0x00 -A hmac-sha1 0x00;": "by-hand:2: add: aes-cbc takes 128, 192 or 256 bits, not 8",
		"flush;" + keysThere + keysThere: "by-hand:2: add: spi 0x00001001 for 198.51.100.2 is taken, at by-hand:1",
		"spdflush;" + keysBack:           "by-hand:1: add: spi 0x00001002 for 198.51.100.1 is taken, at test.setkey:2",
		"delete 198.51.100.2 198.51.100.1 esp 0x1002; delete 1.1.1.1 2.2.2.2 esp 4711;":           "by-hand:1: delete: there is no association of 1.1.1.1 to 2.2.2.2 with spi 0x00001267",
		strings.Replace(keysThere, "add 198.51.100.1", "flush; add 203.0.113.1", 1):               "by-hand:1: add: neither 203.0.113.1 nor 198.51.100.2 is an address of this host",
		"flush; add 198.51.100.1 198.51.100.2 esp 0x3001 -E aes-gcm-16 \"a key of 16 octesalt\";": "by-hand:1: add: a fixed key with a counter mode repeats nonces after a restart",
		"flush": "by-hand:1: flush: the file ends before the statement does: a ';' is missing",
	} {
		done := first.setkey(t, text)
		if len(done.Faults) != 1 || !strings.HasPrefix(done.Faults[0], want) || done.Output != "" {
			t.Errorf("%s:\n got %v\nwant %s", text, done, want)
		}
	}
	if diff := cmp.Diff(was, []any{first.live(), first.manual.db}, cmp.AllowUnexported(dumped{}), comparable, cmp.Comparer(func(x, y policy.Secret) bool { return x.Equal(y) })); diff != "" {
		t.Errorf("a faulty script changed something:\n%s", diff)
	}
	a.ping(t, b.inner)

	levels(t, a, b, first, second)

	// A reload goes from what the file said to what it says now. The key that stays is not disturbed, nor what was done by hand.
	first.mustSetkey(t, "spdadd 10.1.0.1 192.0.2.0/24 any -P out discard;")
	kept := first.manual.sas[first.manual.db.SAs[1]].id
	next = strings.Replace(textA, "0x1001", "0x1003", 1)
	r, err := first.Reload(t.Context())
	// 0x1001 was deleted and added again by hand meanwhile: it stays.
	if diff := cmp.Diff([]string{"+ association 198.51.100.1 to 198.51.100.2, spi 0x00001003"}, r.Plan); diff != "" || err != nil {
		t.Errorf("reload: %v %v\n%s", err, r, diff)
	}
	second.mustSetkey(t, "delete 198.51.100.1 198.51.100.2 esp 0x1001;"+strings.Replace(keysThere, "0x1001", "0x1003", 1))
	a.ping(t, b.inner)
	if first.manual.byID[kept] == nil || !strings.Contains(first.mustSetkey(t, "spddump;"), "192.0.2.0/24[any] 255\n\tout prio def discard\n") {
		t.Error("the reload disturbed what it had nothing to say of")
	}
	next = strings.NewReplacer("198.51.100.1", "198.51.100.77", "0x1001", "0x1005", "0x1002", "0x1006").Replace(textA) // an address this host does not have
	if r, err := first.Reload(t.Context()); err != nil || !r.Failed || len(r.Plan) > 0 || len(r.Faults) != 2 || !strings.HasPrefix(r.Faults[0], "test.setkey:1: add: neither 198.51.100.77 nor 198.51.100.2") {
		t.Errorf("reload of a script for another host: %+v, %v", r, err)
	}
	next = "add;"
	if r, err := first.Reload(t.Context()); err != nil || !r.Failed || len(r.Faults) != 1 {
		t.Errorf("reload of a faulty script: %+v, %v", r, err)
	}

	first.end(t)
	second.end(t)
	if diff := cmp.Diff(before, a.traces(t)); diff != "" {
		t.Errorf("left behind: %s", diff)
	}
}

// levels: require waits for a key and never lets anything pass in clear, use does, and unique takes only its own key.
func levels(t *testing.T, a, b host, first, second *daemon) {
	t.Helper()
	out := "spdupdate 10.1.0.1 10.2.0.1 any -P out ipsec esp/tunnel/198.51.100.1-198.51.100.2/%s;"
	there := strings.Replace(keysThere, "0x1001", "0x1001 -u %d", 1)
	a.ip(t, "route", "add", b.inner, "via", b.outer, "src", a.inner)
	b.ip(t, "route", "add", a.inner, "via", a.outer, "src", b.inner)
	defer a.ip(t, "route", "del", b.inner)
	defer b.ip(t, "route", "del", a.inner)
	bypassed := func() uint64 { return first.plane.Counters().Bypassed }
	for _, c := range []struct {
		level  string
		number int // of the only key
		clear  bool
		passes bool
	}{
		{"require", 0, false, true},
		{"default", 5, false, true},
		{"unique:5", 5, false, true},
		{"unique:5", 6, false, false},
		{"require", -1, false, false},
		{"unique", -1, false, false},
		{"default", -1, false, false},
		{"use", 0, false, true},
		{"use", -1, true, false}, // the other end wants it protected
	} {
		script := "deleteall 198.51.100.1 198.51.100.2 esp;"
		if c.number >= 0 {
			script += fmt.Sprintf(there, c.number)
		}
		first.mustSetkey(t, script+fmt.Sprintf(out, c.level))
		before, waits := bypassed(), false
		if got := !lost(a, b.inner); got != c.passes && !c.clear {
			t.Errorf("%s with key %d: delivered %t, want %t", c.level, c.number, got, c.passes)
		}
		if n := bypassed() - before; (n > 0) != c.clear {
			t.Errorf("%s with key %d: %d packets left in clear", c.level, c.number, n)
		}
		waits = strings.Contains(first.mustSetkey(t, "dump;"), "spi=0(0x00000000) reqid=0(0x00000000)\n\tseq=0x00000000 replay=0 flags=0x00000000 state=larval \n")
		if want := !c.clear && !c.passes; waits != want {
			t.Errorf("%s with key %d: a packet waits: %t, want %t", c.level, c.number, waits, want)
		}
	}
	// What waits goes out in order when the key comes: no first packet is lost.
	first.mustSetkey(t, fmt.Sprintf(out, "require"))
	ping := exec.Command("ip", "netns", "exec", a.name, "ping", "-c", "1", "-W", "20", b.inner)
	if err := ping.Start(); err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); !strings.Contains(first.mustSetkey(t, "dump;"), "state=larval"); {
		if time.Since(begin) > 10*time.Second {
			t.Fatal("no packet waits")
		}
	}
	first.mustSetkey(t, keysThere)
	if err := ping.Wait(); err != nil {
		t.Errorf("the packet that waited was lost: %v", err)
	}
}

// A lifetime ends a manual key; -a still shows it.
func TestManualKeysEnd(t *testing.T) {
	a, b := twoHosts(t)
	dir := t.TempDir()
	text := strings.Replace(keysThere, "-lh 3600 -ls 3000", "-bh 200 -bs 100", 1)
	first, err := a.start(t, manualConfig(t, dir, "a", text+fmt.Sprintf(rules, "out", "in", "require")))
	if err != nil {
		t.Fatal(err)
	}
	defer first.stop()
	state := func(want string, all bool) {
		t.Helper()
		for begin := time.Now(); ; {
			done, err := control.NewClient(first.settings.Gateway.Control).Script(t.Context(), control.Script{Text: "dump;", All: all})
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(done.Output, want) {
				return
			}
			if time.Since(begin) > 10*time.Second {
				t.Fatalf("no %q in\n%s", want, done.Output)
			}
		}
	}
	state("state=mature ", false)
	lost(a, b.inner)
	lost(a, b.inner)
	state("state=dying ", false)
	lost(a, b.inner)
	state("No SAD entries.", false)
	state("E: aes-cbc  [redacted]", true)
	state("state=dead ", true)
	// Its place is free.
	first.mustSetkey(t, keysThere)
	first.end(t)
}

// A fixed key of a counter mode goes on where it was, and above what a crash may have used.
func TestFixedKeyOfACounterModeNeverRepeatsANumber(t *testing.T) {
	a, b := twoHosts(t)
	dir := t.TempDir()
	gcm := "add 198.51.100.1 198.51.100.2 esp 0x1001 -m tunnel -E aes-gcm-16 \"a key of 16 octesalt\";"
	text := gcm + fmt.Sprintf(rules, "out", "in", "require")
	if d, err := a.start(t, manualConfig(t, dir, "a", text)); err == nil {
		d.end(t)
		t.Fatal("a fixed key was taken")
	} else if !strings.Contains(err.Error(), "test.setkey:1: add: a fixed key with a counter mode repeats nonces") {
		t.Error(err)
	}
	conf := manualConfig(t, dir, "a", text)
	conf.AllowStaticCounterMode = true
	sequence := func(d *daemon) uint64 {
		e := d.plane.Entries(false)
		if len(e) != 1 {
			t.Fatalf("%d associations", len(e))
		}
		return e[0].State.Sequence
	}
	var last uint64
	for round := range 3 {
		d, err := a.start(t, conf)
		if err != nil {
			t.Fatal(err)
		}
		if n := sequence(d); n != last {
			t.Errorf("round %d begins after %d, want %d", round, n, last)
		}
		lost(a, b.inner)
		if last = sequence(d); last == 0 {
			t.Error("nothing was sent")
		}
		// Deleted and added again it goes on, too; the same key for two is refused.
		if done := d.setkey(t, strings.Replace(gcm, "0x1001", "0x1009", 1)); len(done.Faults) != 1 || !strings.Contains(done.Faults[0], "would repeat nonces") {
			t.Errorf("the same key twice: %v", done)
		}
		d.mustSetkey(t, "flush;")
		d.mustSetkey(t, gcm)
		if n := sequence(d); n < last {
			t.Errorf("added again, it begins after %d, and %d were used", n, last)
		}
		last = sequence(d)
		d.end(t)
	}
}
