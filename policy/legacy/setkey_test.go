package legacy

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"coati/policy"
)

// glass is one end of a link between two hosts, as people write it for setkey.
const glass = `#!/usr/sbin/setkey -f
flush;
spdflush;

# what leaves, and what comes
add 192.0.2.1 192.0.2.2 esp 0x201 -m transport -r 4 -lh 1800 -ls 1440
	-E aes-cbc 0x7361db4eeed91ff47361db4eeed91ff4 -A hmac-sha256 "a key of 32 octets, for you two.";
add -4n 192.0.2.2 192.0.2.1 esp 514 -u 7 -E aes-cbc "a key of 16 octe" -A hmac-sha1 0x0102030405060708090a0b0c0d0e0f1011121314 ; # the way back

spdadd 192.0.2.1 192.0.2.2 any -P out ipsec esp/transport//require;
spdadd 192.0.2.2/32[any] 192.0.2.1[22] tcp -P in prio high - 5 ipsec esp/tunnel/192.0.2.2-192.0.2.1/unique:7;
spdadd ::/0 ::/0 icmp6 135,0 -P in none;
spdadd 10.0.0.0/8 10.1.0.0/16 17 -P fwd prio 10 discard;
`

func parse(t *testing.T, text string) *Script {
	t.Helper()
	s, faults := ParseSetkey("test.conf", []byte(text))
	if len(faults) > 0 {
		t.Fatalf("faults: %v", faults)
	}
	return s
}

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

var plain = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b policy.Secret) bool { return a.Equal(b) }),
}

func TestScriptIsRead(t *testing.T) {
	t.Parallel()
	db, faults := (*Database)(nil).Evaluate(parse(t, glass), World{})
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	transform := func(k string) policy.Transform { return policy.LookupKeyword(k).Transform() }
	want := &Database{
		SAs: []*Association{{
			Src: addr("192.0.2.1"), Dst: addr("192.0.2.2"), SPI: 0x201, Mode: policy.Transport, Window: 32,
			Lifetime: policy.Lifetime{HardTime: 1800 * time.Second, SoftTime: 1440 * time.Second}, Encryption: transform("aes128"), Integrity: transform("sha256"),
			EncryptionKey: policy.NewSecret([]byte("\x73\x61\xdb\x4e\xee\xd9\x1f\xf4\x73\x61\xdb\x4e\xee\xd9\x1f\xf4")),
			IntegrityKey:  policy.NewSecret([]byte("a key of 32 octets, for you two.")), File: "test.conf", Line: 6,
		}, {
			Src: addr("192.0.2.2"), Dst: addr("192.0.2.1"), SPI: 514, Mode: AnyMode, ReqID: 7, Encryption: transform("aes128"), Integrity: transform("sha1"),
			EncryptionKey: policy.NewSecret([]byte("a key of 16 octe")),
			IntegrityKey:  policy.NewSecret([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20}), File: "test.conf", Line: 8,
		}},
		Policies: []*Entry{{
			Selection: Selection{Src: prefix("192.0.2.1/32"), Dst: prefix("192.0.2.2/32"), Protocol: AnyProtocol, Direction: Out},
			Request:   Request{Mode: policy.Transport}, File: "test.conf", Line: 10,
		}, {
			Selection: Selection{Src: prefix("192.0.2.2/32"), Dst: prefix("192.0.2.1/32"), DstPort: 22, Protocol: 6, Direction: In}, Priority: -1<<30 + 5,
			Request: Request{Src: addr("192.0.2.2"), Dst: addr("192.0.2.1"), Level: policy.LevelUnique, ReqID: 7}, File: "test.conf", Line: 11,
		}, {
			Selection: Selection{Src: prefix("::/0"), Dst: prefix("::/0"), SrcPort: 135, Protocol: 58, Direction: In},
			Action:    policy.Bypass, File: "test.conf", Line: 12,
		}, {
			Selection: Selection{Src: prefix("10.0.0.0/8"), Dst: prefix("10.1.0.0/16"), Protocol: 17, Direction: Forward}, Priority: -10,
			Action: policy.Discard, File: "test.conf", Line: 13,
		}},
	}
	if diff := cmp.Diff(want, db, plain); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// secret is in every bad script below where a key may be. It must never be told.
const secret = "c0ffee0ddba11ade5eedface0000babe"

// Each bad line is told with its line, what it is and what was expected.
func TestFaultsSayWhatIsExpected(t *testing.T) {
	t.Parallel()
	const ends = "add 10.0.0.1 10.0.0.2 esp 0x1000 "
	const keyed = " -E aes-cbc 0x" + secret + " -A hmac-sha1 0x0102030405060708090a0b0c0d0e0f1011121314"
	for _, c := range []struct{ text, want string }{
		{"\n\nadd 10.0.0.1 10.0.0.2 esp 0x1000 -E aes-cbc 0x" + secret[:30] + " -A hmac-sha1 0x00;", "3: add: aes-cbc takes 128, 192 or 256 bits, not 120"},
		{ends + "-E aes-cbc 0x" + secret + "\n -A hmac-sha1 0x" + secret + ";", "2: add: hmac-sha1 takes 160 bits, not 128"},
		{ends + "-E rot-13 0x" + secret + ";", `1: add: "rot-13" is an unknown encryption algorithm: want one of `},
		{ends + "-E " + secret + ";", "1: add: unknown encryption algorithm: want one of "},
		{ends + "-E 0x" + secret + ";", "1: add: unknown encryption algorithm: want one of "},
		{ends + "-E \"" + secret + "\";", "1: add: -E wants the name of an algorithm in front of the key"},
		{ends + "-E aes-cbc " + secret + ";", "1: add: aes-cbc: a key is quoted, or 0x and hexadecimal digits"},
		{ends + "-E aes-cbc 0x" + secret + "xyz;", "1: add: aes-cbc: after 0x, a key has hexadecimal digits only"},
		{ends + "-E aes-cbc \"\";", "1: add: aes-cbc: the key is empty"},
		{ends + "-E aes-cbc;", "1: add: ends where the key of aes-cbc is expected"},
		{ends + "-E twofish-cbc 0x" + secret + ";", "1: add: twofish-cbc is not carried: no RFC says how"},
		{ends + "-E aes-cbc 0x" + secret + ";", "1: add: aes-cbc alone does not keep anybody from changing packets (RFC 8221, section 4): add -A"},
		{ends + "-E aes-gcm-16 0x" + secret + "01020304 -A hmac-sha1 0x0102030405060708090a0b0c0d0e0f1011121314;", "1: add: aes-gcm-16 authenticates by itself: leave -A out"},
		{ends + "-E aes-cbc 0x" + secret + " -A null;", "1: add: -A null authenticates nobody and is refused (RFC 8221, section 4)"},
		{ends + "-A hmac-sha1 0x0102030405060708090a0b0c0d0e0f1011121314;", "1: add: no encryption is named: want -E and an algorithm, which may be null"},
		{ends + keyed + " " + secret + ";", "1: add: want one of -m -u -r -lh -ls -bh -bs -f -E -A, not a word that may be a key"},
		{ends + keyed + " -E aes-cbc 0x" + secret + ";", "1: add: a word that may be a key is given twice"},
		{ends + "-C deflate;", "1: add: -C is for ipcomp, which is not carried"},
		{ends + "-m beet" + keyed + ";", `1: add: -m wants transport, tunnel or any, not "beet"`},
		{ends + "-r 3" + keyed + ";", "1: add: -r counts octets, of eight packets each: want 0, or 4 to 8192 (RFC 4303, section 3.4.3: 32 packets at least)"},
		{ends + "-f zero-pad" + keyed + ";", "1: add: -f zero-pad: padding is 1, 2, 3 and so on, and is checked (RFC 4303, section 2.4)"},
		{ends + "-lh 5 -ls 6" + keyed + ";", "1: add: the soft lifetime is longer than the hard one"},
		{ends + "-u -1" + keyed + ";", `1: add: -u wants an identifier, a number from 0 to 2147483647, not "-1"`},
		{"add 10.0.0.1 10.0.0.2 esp 12" + keyed + ";", "1: add: spi 12 is reserved: want 0x100 to 0xffffffff (RFC 4303, section 2.1)"},
		{"add 10.0.0.1 10.0.0.2 esp 0x123456789" + keyed + ";", "1: add: want an spi as a decimal number, or 0x and hexadecimal digits, of 32 bits"},
		{"add 10.0.0.1 10.0.0.2 ah 0x1000 -A hmac-sha1 0x" + secret + ";", "1: add: ah is not carried: esp with -E null authenticates as well"},
		{"add 10.0.0.1 10.0.0.2 ipcomp 0x1000 -C deflate;", "1: add: ipcomp is not carried"},
		{"add glass teapot esp 0x1000" + keyed + ";", `1: add: want the source address as a number, not "glass": names are not resolved`},
		{"add 10.0.0.1 fe80::1%eth0 esp 0x1000" + keyed + ";", "1: add: the destination address fe80::1%eth0: addresses of one link only are not carried"},
		{"add -6 10.0.0.1 10.0.0.2 esp 0x1000" + keyed + ";", "1: add: the source address 10.0.0.1 is not of the family that was asked for"},
		{"add 10.0.0.1 fd00::1 esp 0x1000" + keyed + ";", "1: add: 10.0.0.1 and fd00::1 are not of one family"},
		{ends + keyed + "\nflush;", `2: add: want one of -m -u -r -lh -ls -bh -bs -f -E -A, not "flush": is a ';' missing before it`},
		{ends + "-E aes-cbc \"" + secret, "1: a quotation mark is never closed"},
		{"flush", "1: flush: the file ends before the statement does: a ';' is missing"},
		{"frobnicate;", `1: unknown directive "frobnicate": want one of add, get, delete, deleteall, flush, dump, spdadd, spdupdate, spddelete, spdflush, spddump`},
		{"update 10.0.0.1 10.0.0.2 esp 0x1000;", "1: update: use delete and add, which take effect together"},
		{"\x00\x01;", "1: there is an octet 0x00, which no setkey script has outside quotes"},
		{strings.Repeat("[", 100000) + ";", "1: the statement has more than 256 words: is a ';' missing"},
		{strings.Repeat("x", 5000) + ";", "1: a word has more than 4096 octets"},
		{"delete 10.0.0.1 10.0.0.2 esp 0x1000;", "1: delete: there is no association of 10.0.0.1 to 10.0.0.2 with spi 0x00001000"},
		{ends + keyed + ";\n" + ends + keyed + ";", "2: add: spi 0x00001000 for 10.0.0.2 is taken, at bad.conf:1"},
		{"spdadd 10.0.0.0/8 10.1.0.0/16 any -P sideways none;", `1: spdadd: want the direction in, out or fwd, not "sideways"`},
		{"spdadd 10.0.0.0/33 10.1.0.0/16 any -P in none;", `1: spdadd: 10.0.0.0: the length of its prefix is 0 to 32, not "33"`},
		{"spdadd 10.0.0.0/8 10.1.0.0/16 any -P in ipsec ah/transport//require;", "1: spdadd: ah is not carried: esp with -E null authenticates as well"},
		{"spdadd 10.0.0.0/8 10.1.0.0/16 any -P in entrust;", "1: spdadd: entrust is for policies of single sockets, which are not carried"},
		{"spdadd 10.0.0.0/8 10.1.0.0/16 any -P in ipsec esp/tunnel//require;", "1: spdadd: a tunnel needs the addresses of its ends: esp/tunnel/src-dst/level"},
		{"spdadd 10.0.0.0/8 10.1.0.0/16 any -P in ipsec esp/tunnel/a-b/require;", `1: spdadd: want both ends of the tunnel as addresses, src-dst, not "a-b": names are not resolved`},
		{"spdadd 10.0.0.0/8 10.1.0.0/16 any -P in ipsec esp/transport//use esp/transport//use;", "1: spdadd: more than one rule: bundles of security associations are not carried"},
		{"spdadd 10.0.0.0/8 10.1.0.0/16 any -P in ipsec esp/transport//maybe;", `1: spdadd: want the level default, use, require, unique or unique:NUMBER, not "maybe"`},
		{"spdadd 10.0.0.0/8 10.1.0.0/16 any -P in prio huge ipsec esp/transport//use;", "1: spdadd: want prio OFFSET, or low, def or high, with + or - and an offset if you like"},
		{"spdadd 10.0.0.0/8[80] 10.1.0.0/16 any -P in none;", "1: spdadd: a port needs a protocol that has ports: write tcp or udp instead of any"},
		{"spdadd 10.0.0.0/8 10.1.0.0/16 icmp 8 -P in none;", `1: spdadd: want type,code of icmp, both from 0 to 255, not "8"`},
		{"spdadd 10.0.0.0/8 10.1.0.0/16 any none;", `1: spdadd: nothing is told apart within any but ports, which stand in brackets behind the addresses`},
		{"spdadd 10.0.0.1 10.0.0.2 any -P in none;spdadd 10.0.0.1 10.0.0.2 any -P in discard;", "1: spdadd: the same traffic has a policy already, at bad.conf:1: use spdupdate"},
		{"spddelete 10.0.0.1 10.0.0.2 any -P in;", "1: spddelete: there is no such policy"},
		{"spdadd tagged \"x\" -P in none;", "1: spdadd: policies by the tags of a packet filter are not carried"},
	} {
		s, faults := ParseSetkey("bad.conf", []byte(c.text))
		if faults == nil {
			var db *Database
			if db, faults = (*Database)(nil).Evaluate(s, World{}); db != nil && faults != nil {
				t.Errorf("%s: a database in spite of faults", c.text)
			}
		}
		if len(faults) != 1 || !strings.HasPrefix(faults[0].String(), "bad.conf:"+c.want) {
			t.Errorf("%.100s:\n got %v\nwant bad.conf:%s", c.text, faults, c.want)
		}
		if text := fmt.Sprint(faults); strings.Contains(text, secret[:16]) {
			t.Errorf("%.100s: a secret is told: %s", c.text, text)
		}
	}
}

func TestEveryFaultIsFoundAndManyAreCounted(t *testing.T) {
	t.Parallel()
	_, faults := ParseSetkey("x", []byte("flush;\nbad one;\nspdflush;\nspdadd;\n"))
	if len(faults) != 2 || faults[0].Line != 2 || faults[1].Line != 4 {
		t.Errorf("got %v", faults)
	}
	_, faults = ParseSetkey("x", bytes.Repeat([]byte("bad;"), 1000))
	if last := faults[len(faults)-1].String(); len(faults) != maxFaults+1 || last != "900 more faults are not shown" {
		t.Errorf("%d faults, the last is %q", len(faults), last)
	}
}

func TestHugeAndDeepFilesEndQuickly(t *testing.T) {
	t.Parallel()
	if _, faults := ParseSetkey("huge", make([]byte, 100<<20)); len(faults) != 1 || faults[0].String() != "huge: is larger than 16 MiB: split it" {
		t.Errorf("got %v", faults)
	}
	for name, data := range map[string][]byte{
		"brackets": bytes.Repeat([]byte{'['}, MaxScript), "quotes": bytes.Repeat([]byte{'"'}, MaxScript), "zeros": make([]byte, MaxScript),
		"semicolons": bytes.Repeat([]byte{';'}, MaxScript), "comment": append([]byte{'#'}, bytes.Repeat([]byte{'x'}, MaxScript-1)...),
	} {
		begin := time.Now()
		_, faults := ParseSetkey(name, data)
		if took := time.Since(begin); took > 30*time.Second {
			t.Errorf("%s took %v", name, took)
		}
		if bad := name == "brackets" || name == "zeros"; bad != (len(faults) > 0) && name != "quotes" {
			t.Errorf("%s: faults %v", name, faults)
		}
	}
}

func TestScriptsAreToldFromToml(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		glass: true, "spdflush ;": true, "\n#c\n  dump;": true, "[tunnel.x]\nremote = \"any\"\n": false, "# setkey\n[gateway]\n": false, "": false, "added = 1": false,
	} {
		if got := LooksLikeSetkey([]byte(text)); got != want {
			t.Errorf("%.30q: %t", text, got)
		}
	}
}

func TestScriptChangesAllOrNothing(t *testing.T) {
	t.Parallel()
	const sa = "add 10.0.0.1 10.0.0.2 esp %d -E aes-cbc \"a key of 16 octe\" -A hmac-sha1 0x0102030405060708090a0b0c0d0e0f1011121314;"
	one := parse(t, fmt.Sprintf(sa+sa, 1001, 1002)+"spdadd 10.0.0.1 10.0.0.2 any -P out none;")
	db, faults := (*Database)(nil).Evaluate(one, World{})
	if faults != nil {
		t.Fatal(faults)
	}
	if next, faults := db.Evaluate(parse(t, "flush;"+fmt.Sprintf(sa, 1003)+"delete 10.0.0.1 10.0.0.2 esp 9999;"), World{}); next != nil || len(faults) != 1 {
		t.Errorf("a script with a fault did something: %v", faults)
	}
	if len(db.SAs) != 2 || len(db.Policies) != 1 {
		t.Errorf("the database was changed: %v", db)
	}
	var shown []int
	next, faults := db.Evaluate(parse(t, "delete 10.0.0.1 10.0.0.2 esp 1001;dump;flush;dump;"+fmt.Sprintf(sa, 1001)+"get 10.0.0.1 10.0.0.2 esp 1001;"+
		"spdupdate 10.0.0.1 10.0.0.2 any -P out discard;"), World{Show: func(_ *Operation, d *Database) { shown = append(shown, len(d.SAs)) }})
	if faults != nil {
		t.Fatal(faults)
	}
	if diff := cmp.Diff([]int{1, 0, 1}, shown); diff != "" {
		t.Errorf("what was shown:\n%s", diff)
	}
	if len(next.SAs) != 1 || next.SAs[0].SPI != 1001 || next.Policies[0].Action != policy.Discard || db.Policies[0].Action != policy.Bypass {
		t.Errorf("got %v from %v", next, db)
	}
}

func TestFixedKeysOfCounterModes(t *testing.T) {
	t.Parallel()
	const sa = "add 10.0.0.1 10.0.0.2 esp %d -E aes-gcm-16 0x" + secret + "01020304;\n"
	s := parse(t, fmt.Sprintf(sa+sa, 1001, 1002))
	if f := s.StaticCounters(); len(f) != 2 || !strings.HasPrefix(f[1].String(), "test.conf:2: add: aes-gcm-16 with a fixed key repeats nonces after a restart") {
		t.Errorf("got %v", f)
	}
	if _, f := (*Database)(nil).Evaluate(s, World{}); len(f) != 1 || f[0].Line != 2 || !strings.Contains(f[0].Message, "has the key of test.conf:1") {
		t.Errorf("got %v", f)
	}
}

func TestSelectorsOfPolicies(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][2]string{
		"10.0.0.0/8 10.1.0.1 any":           {"10.0.0.0/8", "10.1.0.1"},
		"10.0.0.0/8[any] 10.1.0.1[80] tcp":  {"10.0.0.0/8[tcp]", "10.1.0.1[tcp/80]"},
		"10.0.0.0/8 10.1.0.1 icmp 8,0":      {"10.0.0.0/8[icmp/8]", "10.1.0.1[icmp/8]"},
		"10.0.0.0/8 10.1.0.1 icmp 3,4":      {"10.0.0.0/8[icmp/3/4]", "10.1.0.1[icmp/3/4]"},
		"::/0 fd00::/16 icmp6,135,0":        {"::/0[icmp6/135]", "fd00::/16[icmp6/135]"},
		"10.0.0.0/8[53] 10.1.0.1 udp":       {"10.0.0.0/8[udp/53]", "10.1.0.1[udp]"},
		"10.0.0.77/8 10.1.0.1 132":          {"10.0.0.0/8[sctp]", "10.1.0.1[sctp]"},
		"10.0.0.77 / 8 [ any ] 10.1.0.1 0 ": {"10.0.0.0/8", "10.1.0.1"},
	} {
		p := parse(t, "spdadd "+text+" -P out none;").Operations[0].Policy
		src, dst := p.Selectors()
		if got := [2]string{src.String(), dst.String()}; got != want {
			t.Errorf("%s: got %v, want %v", text, got, want)
		}
	}
}
