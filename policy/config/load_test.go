package config

import (
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/pelletier/go-toml/v2"

	"coati/policy"
)

// equal compares configurations wherever they were read from.
var equal = cmp.Options{
	cmp.Comparer(func(a, b policy.Secret) bool { return a.Equal(b) }),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmpopts.IgnoreUnexported(Config{}),
}

// folder is a new folder with a pre-shared key in "psk".
func folder(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "psk"), []byte("open sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// mustParse reads a configuration that has no errors.
func mustParse(t testing.TB, dir, text string) *Config {
	t.Helper()
	c, faults := Parse(filepath.Join(dir, "coati.toml"), []byte(text))
	if c == nil {
		t.Fatalf("refused:\n%s", lines(faults))
	}
	return c
}

func selectorsOf(t testing.TB, words ...string) []policy.Selector {
	t.Helper()
	var out []policy.Selector
	for _, w := range words {
		s, err := policy.ParseSelector(w)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

func TestLeastFileMeansTheDocumentedDefaults(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	got := mustParse(t, dir, `
[tunnel.site-b]
remote = "203.0.113.7"
psk-file = "psk"
remote-ts = ["10.2.0.0/16"]
`)
	want := &Config{
		Gateway: Gateway{TUN: "coati0", Control: "/run/coati/coati.sock", Leases: "/var/lib/coati/leases", IKEPort: 500, NATTPort: 4500, NDBypass: true, Guard: true, MTUFloor: 576, MTUAging: 10 * time.Minute},
		Tunnels: []policy.PeerTunnel{{
			Name: "site-b", Version: 2, Remote: netip.MustParseAddr("203.0.113.7"), PSK: policy.NewSecret([]byte("open sesame")),
			IKE: policy.DefaultIKE(), DPD: 30 * time.Second, Keepalive: 20 * time.Second, Lifetime: 4 * time.Hour,
			Children: []policy.Child{{
				Name: "site-b", Local: selectorsOf(t, "0.0.0.0/0"), Remote: selectorsOf(t, "10.2.0.0/16"), ESP: policy.DefaultESP(),
				Lifetime: policy.Lifetime{SoftTime: 54 * time.Minute, HardTime: time.Hour}, ReplayWindow: 4096,
				Priority: 100_000 - 16*129*3,
			}},
		}},
		PSKFiles: map[string]string{"site-b": filepath.Join(dir, "psk")},
	}
	if d := cmp.Diff(want, got, equal); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if w := got.Where("site-b"); w != filepath.Join(dir, "coati.toml")+":2" {
		t.Errorf("Where: %q", w)
	}
}

// Both ends name only the other's network; what the peers agree on is one network at each end.
func TestThreeLinesAtBothEndsNarrowToTheirNetworks(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	end := func(remote string) policy.Child {
		return mustParse(t, dir, fmt.Sprintf("[tunnel.x]\nremote = \"203.0.113.7\"\npsk-file = \"psk\"\nremote-ts = [%q]\n", remote)).Tunnels[0].Children[0]
	}
	a, b := end("10.2.0.0/16"), end("10.1.0.0/16")
	// RFC 7296, section 2.9: TSi are the initiator's, A's, TSr the responder's; the responder narrows both.
	tsi, tsr := policy.Narrow(a.Local, b.Remote), policy.Narrow(a.Remote, b.Local)
	if d := cmp.Diff([][]policy.Selector{selectorsOf(t, "10.1.0.0/16"), selectorsOf(t, "10.2.0.0/16")}, [][]policy.Selector{tsi, tsr}, equal); d != "" {
		t.Errorf("narrowed (-want +got):\n%s", d)
	}
}

func TestPSKFileForms(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ content, want string }{
		{"secret", "secret"},
		{"secret\n", "secret"},
		{"secret\r\n", "secret"},
		{"secret\n\n", "secret\n"},
		{" ", " "},
		{"0x00fF", "\x00\xff"},
		{"0x00fF\n", "\x00\xff"},
		{"0sAP8=\n", "\x00\xff"},
		{"0X00", "0X00"},
		{"\xff\x00\xfe", "\xff\x00\xfe"},
	} {
		s, _, err := decodePSK([]byte(c.content))
		if err != nil || string(s.Reveal()) != c.want {
			t.Errorf("%q: %q, %v; want %q", c.content, s.Reveal(), err, c.want)
		}
	}
	for _, bad := range []string{"", "\n", "\r\n", "0x", "0x0", "0xgg", "0s", "0s!", "0sAP8"} {
		if s, _, err := decodePSK([]byte(bad)); err == nil {
			t.Errorf("%q is taken for %q", bad, s.Reveal())
		}
	}
}

// owned is a file of somebody.
type owned struct {
	fs.FileInfo
	mode fs.FileMode
	uid  uint32
}

func (o owned) Mode() fs.FileMode { return o.mode }
func (o owned) Sys() any          { return &syscall.Stat_t{Uid: o.uid} }

func TestStrictPermissions(t *testing.T) {
	t.Parallel()
	us := uint32(os.Geteuid())
	for _, c := range []struct {
		name string
		file owned
		ok   bool
	}{
		{"ours", owned{mode: 0o600, uid: us}, true},
		{"ours, read only", owned{mode: 0o400, uid: us}, true},
		{"root's", owned{mode: 0o600, uid: 0}, true},
		{"somebody's", owned{mode: 0o600, uid: us + 1}, false},
		{"group may read", owned{mode: 0o640, uid: us}, false},
		{"group may write", owned{mode: 0o620, uid: us}, false},
		{"others may read", owned{mode: 0o604, uid: us}, false},
		{"others may pass", owned{mode: 0o601, uid: us}, false},
	} {
		if err := checkOwner(c.file); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestSecretFileMayBeALinkButNotAPipe(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	link := filepath.Join(dir, "link")
	if err := os.Symlink("psk", link); err != nil {
		t.Fatal(err)
	}
	if b, err := readSecretFile(link, SecretsStrict); err != nil || string(b) != "open sesame\n" {
		t.Errorf("link: %q, %v", b, err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readSecretFile(pipe, SecretsStrict); err == nil {
		t.Error("a pipe was read")
	}
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, make([]byte, MaxPSKFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readSecretFile(large, SecretsStrict); err == nil {
		t.Error("a file over the limit was read")
	}
}

// Wiping one tunnel's key leaves another's that came from the same file.
func TestTunnelsDoNotShareKeys(t *testing.T) {
	t.Parallel()
	c := mustParse(t, folder(t), `
[tunnel.a]
remote = "203.0.113.7"
psk-file = "psk"
remote-ts = ["10.2.0.0/16"]
[tunnel.b]
remote = "203.0.113.8"
psk-file = "psk"
remote-ts = ["10.3.0.0/16"]
`)
	c.Tunnels[0].PSK.Wipe()
	if got := string(c.Tunnels[1].PSK.Reveal()); got != "open sesame" {
		t.Errorf("%q", got)
	}
}

func TestFilesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	large := filepath.Join(dir, "large.toml")
	if err := os.WriteFile(large, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, MaxFile+1); err != nil {
		t.Fatal(err)
	}
	latin := filepath.Join(dir, "latin.toml")
	if err := os.WriteFile(latin, []byte("# ok\n# stra\xdfe\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		files []string
		want  string
	}{
		{nil, "no configuration file named\n"},
		{[]string{dir + "/nowhere.toml"}, "/DIR/nowhere.toml: no such file\n"},
		{[]string{dir + "/nowhere.toml", dir + "/nowhere.toml"}, "/DIR/nowhere.toml: no such file\n/DIR/nowhere.toml: named twice\n"},
		{[]string{large}, "/DIR/large.toml: is larger than 16 MiB: split it\n"},
		{[]string{dir + "/."}, "/DIR/.: is a folder: name the files in it\n"},
		{[]string{latin}, "/DIR/latin.toml:2: not text: octet 0xdf is not UTF-8\n"},
	} {
		config, faults := Load(c.files)
		if got := relative(dir, lines(faults)); got != c.want || config != nil {
			t.Errorf("%v: %v\n got %q\nwant %q", c.files, config, got, c.want)
		}
	}
}

func TestAFileOfFaultsIsCutShort(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&b, "k%d = 1\n", i)
	}
	config, faults := Parse("coati.toml", []byte(b.String()))
	if config != nil || len(faults) != maxFaults+1 || faults[maxFaults].String() != "4000 more faults are not shown" {
		t.Errorf("%d faults, the last %v", len(faults), faults[len(faults)-1])
	}
}

func TestFaultsQuoteLittleAndNothingATerminalObeys(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"long key":      strings.Repeat("k", 100_000) + " = 1",
		"long value":    "[tunnel.a]\nike = [\"" + strings.Repeat("aes128-", 100_000) + "\"]",
		"long choice":   "[gateway]\non-exit = \"" + strings.Repeat("x", 100_000) + "\"",
		"long duration": "[tunnel.a]\ndpd = \"" + strings.Repeat("1s", 100_000) + "x\"",
		"escapes":       "\"a\\u001b[2Jb\\n\" = 1\n\"a\\u001b[2Jb\\n\" = 1\n[tunnel.\"\\u001b\"]",
	} {
		_, faults := Parse("coati.toml", []byte(text))
		if !Failed(faults) {
			t.Errorf("%s: no fault", name)
		}
		for _, f := range faults {
			if s := f.String(); len(s) > 900 || strings.ContainsAny(s, "\x1b\n") {
				t.Errorf("%s: %.1000q", name, s)
			}
		}
	}
}

// A key that others may read is taken where the file says that they may.
func TestAnyPermissions(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	if err := os.Chmod(filepath.Join(dir, "psk"), 0o644); err != nil {
		t.Fatal(err)
	}
	mustParse(t, dir, "[tunnel.a]\nremote = \"203.0.113.7\"\npsk-file = \"psk\"\nremote-ts = [\"10.2.0.0/16\"]\n[gateway]\nsecrets-permissions = \"any\"\n")
}

func TestAutoPriorityPutsTheMoreSpecificFirst(t *testing.T) {
	t.Parallel()
	// From first to last asked.
	order := [][2][]string{
		{{"10.1.0.1"}, {"10.2.0.1[tcp/80]"}},
		{{"10.1.0.1"}, {"10.2.0.1[tcp]"}},
		{{"10.1.0.1"}, {"10.2.0.1"}},
		{{"10.1.0.0/16"}, {"10.2.0.1"}},
		{{"10.1.0.0/16"}, {"10.2.3.0-10.2.3.7"}},
		{{"10.1.0.0/16"}, {"10.2.3.0/24"}},
		{{"0.0.0.0/0"}, {"10.2.3.0/24"}},
		{{"10.1.0.0/16"}, {"10.2.3.0/24", "10.9.0.0/16"}},
		{{"0.0.0.0/0"}, {"10.2.0.0/16"}},
		{{"0.0.0.0/0"}, {"0.0.0.0/0"}},
	}
	last := int32(49_999)
	for _, o := range order {
		p := autoPriority(selectorsOf(t, o[0]...), selectorsOf(t, o[1]...))
		if p <= last || p > leastPriority {
			t.Errorf("%v: priority %d after %d", o, p, last)
		}
		last = p
	}
	if p := autoPriority(selectorsOf(t, "2001:db8::1[tcp/80]"), selectorsOf(t, "2001:db8::2[tcp/80]")); p < 50_000 {
		t.Errorf("the most specific of all has priority %d", p)
	}
}

// hub is a configuration of n tunnels with all that is usual.
func hub(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `
[tunnel.site-%d]
remote = "198.51.%d.%d"
local-id = "fqdn:hub.example.org"
remote-id = "fqdn:site-%d.example.org"
psk-file = "psk"
ike = ["aes256gcm16-prfsha384-ecp384", "aes128-sha256-modp2048"]
[[tunnel.site-%d.child]]
name = "lan"
local-ts = ["10.0.0.0/16"]
remote-ts = ["10.%d.%d.0/24"]
esp = ["aes128gcm16-ecp256"]
`, i, i/250%250, i%250+1, i, i, 1+i/250, i%250)
	}
	return b.String()
}

// Not parallel: it counts allocations.
func TestTenThousandTunnels(t *testing.T) {
	dir := folder(t)
	text := []byte(hub(10_000))
	c, faults := Parse(filepath.Join(dir, "coati.toml"), text)
	if len(faults) > 0 || len(c.Tunnels) != 10_000 || c.Tunnels[9_999].Name != "site-9999" {
		t.Fatalf("%s", lines(faults))
	}
	tenth := []byte(hub(1000))
	small := testing.AllocsPerRun(1, func() { mustParse(t, dir, string(tenth)) })
	large := testing.AllocsPerRun(1, func() { mustParse(t, dir, string(text)) })
	if large > 12*small {
		t.Errorf("ten times the tunnels take %.1f times the allocations", large/small)
	}
}

// The search for overlaps is near-linear where tunnels are told apart by either end. Where everything overlaps with
// everything it gives up, and says so.
func TestOverlapSearchIsBounded(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	any := func(int) string { return "0.0.0.0/0" }
	network := func(i int) string { return fmt.Sprintf("10.%d.%d.0/24", i/250, i%250) }
	nested := func(i int) string { return fmt.Sprintf("10.0.0.0-10.255.%d.%d", i/250, i%250) }
	for _, c := range []struct {
		name          string
		local, remote func(i int) string
		priorities    bool
		faults        int
		last          string
	}{
		{"different remote", any, network, false, 0, ""},
		{"different local", network, any, false, 0, ""},
		{"nested at both ends", nested, nested, false, 101, "warning: more children claim some of the same traffic: only 100 pairs are shown"},
		{"nested, in a decided order", nested, nested, true, 1, "warning: too many selectors overlap: not all pairs of children were compared"},
	} {
		var b strings.Builder
		for i := range 5000 {
			fmt.Fprintf(&b, "[tunnel.t%d]\nremote = \"198.51.%d.%d\"\npsk-file = \"psk\"\nlocal-ts = [%q]\nremote-ts = [%q]\n", i, i/250, i%250, c.local(i), c.remote(i))
			if c.priorities {
				fmt.Fprintf(&b, "priority = %d\n", i+1)
			}
		}
		_, faults := Parse(filepath.Join(dir, "coati.toml"), []byte(b.String()))
		if len(faults) != c.faults || c.faults > 0 && !slices.ContainsFunc(faults, func(f Fault) bool { return f.String() == c.last }) {
			t.Errorf("%s: %d faults: %.300s", c.name, len(faults), lines(faults))
		}
	}
}

func benchmarkParse(b *testing.B, dir, text string) {
	b.ReportAllocs()
	for b.Loop() {
		mustParse(b, dir, text)
	}
}

func BenchmarkLoad10000(b *testing.B) { benchmarkParse(b, folder(b), hub(10_000)) }

func BenchmarkDiff10000(b *testing.B) {
	dir := folder(b)
	old, new := mustParse(b, dir, hub(10_000)), mustParse(b, dir, hub(10_000))
	b.ReportAllocs()
	for b.Loop() {
		if !Diff(old, new).Empty() {
			b.Fatal("differ")
		}
	}
}

// FuzzLoad holds that no octets make Load panic or contradict itself, that it refuses whatever is not TOML, and that
// what it accepts survives Format.
func FuzzLoad(f *testing.F) {
	seeds, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range seeds {
		data, err := os.ReadFile(s)
		if err != nil {
			f.Fatal(err)
		}
		for _, p := range parseArchive(string(data)).parts {
			if strings.HasSuffix(p.name, ".toml") || p.name == "canonical" {
				f.Add([]byte(p.content))
			}
		}
	}
	dir := folder(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &report{order: map[string]int{}}
		parse("x.toml", data[:len(data):len(data)], r)
		var any map[string]any
		tomlErr := toml.Unmarshal(data, &any)
		if r.errors > 0 && tomlErr == nil {
			t.Errorf("good TOML is refused: %v", r.faults)
		}
		config, faults := Parse(filepath.Join(dir, "x.toml"), data)
		if (config == nil) != Failed(faults) {
			t.Fatalf("a configuration with errors, or none without: %v", faults)
		}
		if config == nil {
			return
		}
		if tomlErr != nil {
			t.Errorf("bad TOML is taken: %v", tomlErr)
		}
		b, err := Format(config)
		if err != nil {
			t.Fatalf("Format: %v", err)
		}
		roundTrip(t, dir, config, b)
	})
}
