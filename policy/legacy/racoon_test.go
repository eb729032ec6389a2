package legacy

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"coati/policy"
	"coati/policy/config"
)

// aDisk holds files in memory.
func aDisk(files map[string]string) Disk {
	read := func(name string) ([]byte, error) {
		text, ok := files[name]
		if !ok {
			return nil, errors.New("no such file")
		}
		return []byte(text), nil
	}
	return Disk{Read: read, Secret: read, Glob: func(pattern string) (out []string, err error) {
		for _, name := range slices.Sorted(maps.Keys(files)) {
			if ok, err := filepath.Match(pattern, name); err != nil {
				return nil, err
			} else if ok {
				out = append(out, name)
			}
		}
		return out, nil
	}}
}

const racoonMain = `
path pre_shared_key "/etc/psk.txt" ;
remote 192.0.2.2 {
	exchange_mode main;
	lifetime time 2 min;
	proposal {
		encryption_algorithm aes 256;
		hash_algorithm sha256;
		authentication_method pre_shared_key;
		dh_group 14;
	}
}
sainfo anonymous {
	pfs_group modp2048;
	lifetime time 90 sec;
	encryption_algorithm aes, 3des;
	authentication_algorithm hmac_sha1, hmac_sha256;
	compression_algorithm deflate;
}
`

const racoonPolicies = `spdadd 10.1.0.0/16 10.2.0.0/16 any -P out ipsec esp/tunnel/192.0.2.1-192.0.2.2/require;
spdadd 10.2.0.0/16 10.1.0.0/16 any -P in ipsec esp/tunnel/192.0.2.2-192.0.2.1/require;
`

const racoonSecret = "open sesame, it is me"

// converted reads a racoon.conf with its script, and loads the result.
func racoonConverted(t *testing.T, conf, script, psk string) (*Converted, *config.Config, []config.Fault) {
	t.Helper()
	disk := aDisk(map[string]string{"/etc/psk.txt": psk})
	r, faults := ParseRacoon("/etc/racoon.conf", []byte(conf), disk)
	if r == nil {
		return nil, nil, faults
	}
	s, more := ParseSetkey("policies", []byte(script))
	if more != nil {
		t.Fatal(more)
	}
	db, more := (*Database)(nil).Evaluate(s, World{})
	if more != nil {
		t.Fatal(more)
	}
	c, more := r.Convert(db, disk)
	faults = append(faults, more...)
	if c == nil {
		return nil, nil, faults
	}
	cfg, more := config.LoadWith(nil, []config.Foreign{c.Foreign})
	return c, cfg, append(faults, more...)
}

func TestRacoonAndItsScriptBecomeATunnel(t *testing.T) {
	t.Parallel()
	c, cfg, faults := racoonConverted(t, racoonMain, racoonPolicies, "# keys\n192.0.2.2\t"+racoonSecret+"\n")
	if cfg == nil {
		t.Fatal(faults)
	}
	const want = `[tunnel."192.0.2.2"]
version = 1
local = "192.0.2.1"
remote = "192.0.2.2"
remote-id = "any"
psk-file = "192.0.2.2.psk"
proposal-check = "strict"
ike = ["aes256-sha256-modp2048"]
lifetime = "2m"
encap = "esp"
dpd = "0s"

[[tunnel."192.0.2.2".child]]
name = "10.2.0.0-16"
local-ts = ["10.1.0.0/16"]
remote-ts = ["10.2.0.0/16"]
esp = ["aes128-3des-sha1-sha256-modp2048-noesn"]
sha256-96 = true
lifetime = "1m30s"
`
	if string(c.Text) != want {
		t.Errorf("got:\n%s", c.Text)
	}
	tunnel := cfg.Tunnels[0]
	if string(tunnel.PSK.Reveal()) != racoonSecret {
		t.Error("another key")
	}
	if c.Script != nil {
		t.Errorf("policies stayed with the script: %v", c.Script)
	}
	if cfg.Where("192.0.2.2") != "/etc/racoon.conf:3" || cfg.Where("192.0.2.2/10.2.0.0-16") != "policies:1" {
		t.Errorf("the places are lost: %s %s", cfg.Where("192.0.2.2"), cfg.Where("192.0.2.2/10.2.0.0-16"))
	}
	if len(faults) != 1 || !strings.HasPrefix(faults[0].String(), "/etc/racoon.conf:14: warning: pfs_group: esp: 3des is insecure") {
		t.Errorf("%v", faults)
	}
}

// What convert writes to disk means what run takes from memory.
func TestRacoonConvertedMeansTheSame(t *testing.T) {
	t.Parallel()
	c, cfg, faults := racoonConverted(t, racoonMain, racoonPolicies, "* "+racoonSecret)
	if cfg == nil {
		t.Fatal(faults)
	}
	dir := t.TempDir()
	for name, s := range c.Secrets {
		if err := os.WriteFile(filepath.Join(dir, name), s.Reveal(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "coati.toml")
	if err := os.WriteFile(file, c.Text, 0o644); err != nil {
		t.Fatal(err)
	}
	again, faults := config.Load([]string{file})
	if again == nil {
		t.Fatal(faults)
	}
	if p := config.Diff(cfg, again); !p.Empty() {
		t.Errorf("%s", p)
	}
}

func TestRacoonRemoteInheritsAndIsFoundByAddress(t *testing.T) {
	t.Parallel()
	conf := strings.Replace(racoonMain, "remote 192.0.2.2 {", "remote anonymous {\n nat_traversal on; dpd_delay 20; passive on;", 1) +
		`remote 192.0.2.3 inherit anonymous { nat_traversal force; passive off; my_identifier fqdn "a.example"; peers_identifier user_fqdn "b@example"; verify_identifier on; }`
	script := racoonPolicies + strings.NewReplacer("10.2", "10.3", "192.0.2.2", "192.0.2.3").Replace(racoonPolicies)
	_, cfg, faults := racoonConverted(t, conf, script, "* "+racoonSecret)
	if cfg == nil {
		t.Fatal(faults)
	}
	a, b := cfg.Tunnels[0], cfg.Tunnels[1]
	if a.Start != policy.StartListen || a.Encap != policy.EncapAuto || b.Start != policy.StartOnDemand || b.Encap != policy.EncapForceUDP || a.DPD != b.DPD || a.DPD == 0 {
		t.Errorf("%+v\n%+v", a, b)
	}
	if b.LocalID.String() != "fqdn:a.example" || b.RemoteID.String() != "email:b@example" || a.RemoteID.Type != policy.IDAnyOne {
		t.Errorf("identities %s %s %s", b.LocalID, b.RemoteID, a.RemoteID)
	}
}

// sainfo: what is closest to a policy is used, and only where its remoteid is the remote's.
func TestRacoonSainfoIsTheClosest(t *testing.T) {
	t.Parallel()
	conf := racoonMain + `
sainfo subnet 10.1.0.0/16 any subnet 10.2.0.0/16 any { encryption_algorithm aes 256; authentication_algorithm hmac_sha512; }
sainfo subnet 10.1.0.0/16 any subnet 10.2.0.0/16 any { remoteid 7; encryption_algorithm aes 192; authentication_algorithm hmac_sha384; }
sainfo address 10.9.0.1 any anonymous { encryption_algorithm aes 192; authentication_algorithm hmac_sha384; }`
	_, cfg, faults := racoonConverted(t, conf, racoonPolicies, "* "+racoonSecret)
	if cfg == nil {
		t.Fatal(faults)
	}
	if got := cfg.Tunnels[0].Children[0].ESP[0].String(); got != "aes256-sha512-noesn" {
		t.Errorf("%s", got)
	}
}

// Policies that the script asks first are asked first, whether they stay with it or are negotiated.
func TestRacoonKeepsTheOrderOfPolicies(t *testing.T) {
	t.Parallel()
	script := `spdadd 10.1.0.0/16 10.2.9.0/24 any -P out none;
` + racoonPolicies + `spdadd 10.0.0.0/8 10.0.0.0/8 any -P out discard;
spdadd 10.2.0.0/16 10.1.0.0/16 tcp -P in none;
spdadd 10.1.0.0/16 10.2.0.0/16 tcp -P out ipsec esp/tunnel/192.0.2.1-192.0.2.2/unique;
spdadd 10.2.0.0/16 10.1.0.0/16 tcp -P fwd ipsec esp/tunnel/192.0.2.2-192.0.2.1/unique;
`
	c, cfg, faults := racoonConverted(t, racoonMain, script, "* "+racoonSecret)
	if cfg == nil {
		t.Fatal(faults)
	}
	children := cfg.Tunnels[0].Children
	if len(children) != 2 {
		t.Fatalf("%+v", children)
	}
	got := map[int32]string{children[0].Priority: "first child", children[1].Priority: "second child"}
	for _, op := range c.Script.Operations {
		got[op.Policy.Priority] = fmt.Sprintf("line %d", op.Policy.Line)
	}
	var order []string
	for _, p := range slices.Sorted(maps.Keys(got)) {
		order = append(order, got[p])
	}
	if want := []string{"line 1", "first child", "line 4", "line 5", "second child"}; !slices.Equal(order, want) {
		t.Errorf("%v, want %v", order, want)
	}
}

// Where policies do not meet, their numbers stay, so that a new one changes no other.
func TestRacoonLeavesPrioritiesAloneWhereItCan(t *testing.T) {
	t.Parallel()
	c, cfg, faults := racoonConverted(t, racoonMain, racoonPolicies+"spdadd 172.16.0.0/12 192.168.0.0/16 any -P out none;", "* "+racoonSecret)
	if cfg == nil {
		t.Fatal(faults)
	}
	if p := c.Script.Operations[0].Policy.Priority; p != 0 || strings.Contains(string(c.Text), "priority") {
		t.Errorf("priority %d\n%s", p, c.Text)
	}
}

// The script's own priorities decide before its lines do.
func TestRacoonHeedsPriorities(t *testing.T) {
	t.Parallel()
	script := racoonPolicies + "spdadd 10.1.0.0/16 10.0.0.0/8 tcp -P out prio -1 none;\nspdadd 10.1.0.0/16 10.0.0.0/8 udp -P out prio 1 none;\n"
	c, cfg, faults := racoonConverted(t, racoonMain, script, "* "+racoonSecret)
	if cfg == nil {
		t.Fatal(faults)
	}
	child := cfg.Tunnels[0].Children[0].Priority
	if a, b := c.Script.Operations[0].Policy, c.Script.Operations[1].Policy; a.Protocol != 17 || b.Protocol != 6 || (a.Priority < child) == (b.Priority < child) {
		t.Errorf("%+v %+v around %d", a, b, child)
	}
}

// Associations with manual keys and their policies stay with the script.
func TestRacoonLeavesManualKeysAlone(t *testing.T) {
	t.Parallel()
	script := racoonPolicies + `
add 192.0.2.1 192.0.2.9 esp 0x901 -E null -A hmac-sha256 "a key of 32 octets, for you two.";
spdadd 192.0.2.1 192.0.2.9 any -P out ipsec esp/transport//require;`
	c, cfg, faults := racoonConverted(t, racoonMain, script, "* "+racoonSecret)
	if cfg == nil {
		t.Fatal(faults)
	}
	if len(cfg.Tunnels) != 1 || c.Script == nil || len(c.Script.Operations) != 2 {
		t.Errorf("%v %v", cfg.Tunnels, c.Script)
	}
}

// racoonFaults are configurations that cannot be used, and the first thing that is said of them.
func TestRacoonFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ conf, want string }{
		{"remot anonymous { }", `f:1: unknown directive "remot" outside of blocks`},
		{"log info", "f:1: log: the file ends before the directive does: a ';' is missing"},
		{"padding {\n maximum_length 5;\n", "f:3: the file ends within a block"},
		{"}\n", "f:1: there is a '}' that closes nothing"},
		{"path pre_shared_key \"/etc/psk", "f:1: a quotation mark is never closed"},
		{"log loud;", "f:1: log: want one of error, warning"},
		{"log info debug;", `f:1: log: nothing is expected after what was said, but there is more`},
		{"remote 192.0.2.2 { exchange_mode base; }", "f:1: exchange_mode: base mode is not carried"},
		{"remote 192.0.2.2 { }", "f:1: remote: has no proposal"},
		{"remote 192.0.2.2 { proposal { hash_algorithm sha1; } }", "f:1: proposal: needs encryption_algorithm"},
		{"remote 192.0.2.2 { proposal { authentication_method xauth_psk_client; } }", "f:1: authentication_method: xauth_psk_client is not carried yet"},
		{"remote 192.0.2.2 inherit anonymous;", "f:1: remote: inherit: no remote"},
		{"sainfo anonymous { encryption_algorithm twofish; authentication_algorithm hmac_sha1; }", "f:1: lost: encryption_algorithm: twofish is not carried"},
		{"sainfo address gw.example any anonymous { }", "f:1: sainfo: want an address in numbers"},
		{"timer { natt_keepalive 15; }", "f:1: natt_keepalive: want a number and its unit"},
		{"listen { isakmp 192.0.2.1 [500]; isakmp 192.0.2.2 [501]; }", "f:1: isakmp: port 501 differs from 500"},
		{"\x00\x01", "f:1: there is an octet 0x00"},
		{"include \"/none\";", "f:1: include: /none: no such file"},
		{strings.Repeat("padding {", 20), "f:1: padding: blocks within blocks are too deep"},
	} {
		r, faults := ParseRacoon("f", []byte(c.conf), aDisk(nil))
		if r != nil || len(faults) == 0 || !strings.HasPrefix(faults[0].String(), c.want) {
			t.Errorf("%q: %v, want %q", c.conf, faults, c.want)
		}
	}
}

func TestRacoonWithoutWhatFits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, conf, script, psk, want string }{
		{"no remote", racoonMain, strings.ReplaceAll(racoonPolicies, "192.0.2.2", "192.0.2.7"), "* x", "no remote is for 192.0.2.7"},
		{"no sainfo", strings.Replace(racoonMain, "sainfo anonymous", "sainfo anonymous address 10.99.0.1 any", 1), racoonPolicies, "* x", "no sainfo is for 10.1.0.0/16 to 10.2.0.0/16"},
		{"no key", racoonMain, racoonPolicies, "192.0.2.7 x\n", "/etc/psk.txt has no key for 192.0.2.2"},
		{"no mirror", racoonMain, strings.Split(racoonPolicies, "\n")[0], "* x", "no in policy is the mirror"},
		{"no policy", racoonMain, "", "* x", "no policy needs what is negotiated here"},
		{"a range of hosts", racoonMain, "spdadd 192.0.2.1 192.0.2.0/24 any -P out ipsec esp/transport//require;", "* x", "write one for each pair"},
	} {
		_, _, faults := racoonConverted(t, c.conf, c.script, c.psk)
		if !slices.ContainsFunc(faults, func(f config.Fault) bool { return strings.Contains(f.Message, c.want) }) {
			t.Errorf("%s: %v", c.name, faults)
		}
	}
}

// Includes: of a file that includes itself, by way of another, and of too many of them, a clear error.
func TestRacoonIncludes(t *testing.T) {
	t.Parallel()
	files := map[string]string{"/etc/a": `include "b";`, "/etc/b": `include "a";`, "/x/log": "log error;"}
	for i := range 40 {
		files[fmt.Sprintf("/d/%d", i)] = fmt.Sprintf(`include "/d/%d";`, i+1)
	}
	files["/d/40"] = ""
	files["/many"] = strings.Repeat(`include "/x/log";`, 1001)
	for _, c := range []struct{ file, text, want string }{
		{"/etc/a", files["/etc/a"], "/etc/a: includes itself, by way of 2 files"},
		{"/d/0", files["/d/0"], "/d/15:1: include: files within files are too deep: at most 16"},
		{"/m", files["/many"], "/m:1: include: /x/log: is one file too many: at most 1000 are read"},
	} {
		r, faults := ParseRacoon(c.file, []byte(c.text), aDisk(files))
		if r != nil || len(faults) == 0 || faults[0].String() != c.want {
			t.Errorf("%s: %v", c.file, faults)
		}
	}
	r, faults := ParseRacoon("/etc/r", []byte(`path include "/x"; include "log";`), aDisk(files))
	if r == nil || r.logLevel != "error" {
		t.Errorf("%v", faults)
	}
}

// The rule of psk.txt: its owner is root or the user, and nobody else has any right to it.
func TestPSKFileIsItsOwnersAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name := filepath.Join(dir, "psk.txt")
	if err := os.WriteFile(name, []byte("a b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		mode fs.FileMode
		ok   bool
	}{{0o600, true}, {0o400, true}, {0o700, true}, {0o640, false}, {0o604, false}, {0o610, false}, {0o601, false}, {0o620, false}, {0o602, false}} {
		if err := os.Chmod(name, c.mode); err != nil {
			t.Fatal(err)
		}
		_, err := SystemDisk().Secret(name)
		if (err == nil) != c.ok {
			t.Errorf("mode %04o: %v", c.mode, err)
		}
	}
	if err := os.Chmod(name, 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := ownersAlone(info, os.Geteuid()); err != nil {
		t.Error(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(name, 12345, -1); err != nil {
			t.Fatal(err)
		}
		if _, err := SystemDisk().Secret(name); err == nil || !strings.Contains(err.Error(), "belongs to user 12345") {
			t.Errorf("another's file: %v", err)
		}
	}
	if _, err := SystemDisk().Read(dir); err == nil {
		t.Error("a folder was read")
	}
}

// A file of 100 MiB is refused before it is read.
func TestHugeFileIsRefused(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "huge")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(100<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	r, faults := ParseRacoon("/etc/r", []byte(`include "`+name+`";`), SystemDisk())
	if r != nil || len(faults) != 1 || !strings.Contains(faults[0].Message, "is larger than 16 MiB") {
		t.Errorf("%v", faults)
	}
	if r, faults := ParseRacoon("/etc/r", make([]byte, 100<<20), SystemDisk()); r != nil || len(faults) != 1 {
		t.Errorf("%v", faults)
	}
}

// No diagnostic repeats a key, wherever it stands.
func TestRacoonDiagnosticsHaveNoSecret(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3tw0rd"
	for _, conf := range []string{
		`radiuscfg { auth "radius" ` + secret + `; }`, `ldapcfg { bind_pw "` + secret + `"; }`, `ldapcfg { bind_pw ` + secret + ` }`, `ldapcfg { ` + secret + `; }`,
		`radiuscfg { auth "radius" "` + secret, `"` + secret + `";`, secret + "0\x00", `remote "` + secret + `" inherit ` + secret + `;`,
		`log ` + secret + `;`, `log info "` + secret + `";`, `{ ` + secret + `; }`,
	} {
		_, faults := ParseRacoon("f", []byte(conf), aDisk(nil))
		if len(faults) == 0 {
			t.Errorf("%q: nothing is said", conf)
		}
		for _, f := range faults {
			if strings.Contains(f.String(), secret) {
				t.Errorf("%q: %s", conf, f)
			}
		}
	}
	for _, psk := range []string{secret, "192.0.2.2 0x" + secret, "192.0.2.2 " + secret + "\x00", "192.0.2.3 " + secret, "192.0.2.2 a\n192.0.2.2 " + secret, secret + " " + strings.Repeat(secret, 1000)} {
		_, _, faults := racoonConverted(t, racoonMain, racoonPolicies, psk)
		if len(faults) == 0 {
			t.Errorf("%q: nothing is said", psk)
		}
		for _, f := range faults {
			if strings.Contains(f.String(), secret) {
				t.Errorf("%q: %s", psk, f)
			}
		}
	}
}

func TestRacoonIsToldFromOthers(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		racoonMain: true, "# c\ninclude \"x\" ;": true, "log info;": true, "log = \"x\"": false, "[tunnel.x]": false, "include /etc/x\n": false,
		"spdflush;": false, "config setup\n": false, "": false, "remote=\"1\"": false, "version 2.0": false,
	} {
		if LooksLikeRacoon([]byte(text)) != want {
			t.Errorf("%q", text)
		}
	}
}

// Files that are made to keep us busy end in a fault, or are read at once.
func TestRacoonIsNotKeptBusy(t *testing.T) {
	t.Parallel()
	var script, conf strings.Builder
	for i := range 4000 {
		fmt.Fprintf(&script, "spdadd 10.%d.%d.0/24 10.0.0.0/8 any -P out ipsec esp/tunnel/192.0.2.1-192.0.2.2/require;\n", i/256, i%256)
	}
	for range 4000 {
		conf.WriteString("sainfo anonymous { " + anEncryption + anAuthentication + " }")
	}
	_, cfg, faults := racoonConverted(t, racoonMain+conf.String(), script.String(), "* x")
	if cfg != nil || !strings.Contains(fmt.Sprint(faults), "too many policies and sainfos") {
		t.Errorf("%d faults", len(faults))
	}
}
