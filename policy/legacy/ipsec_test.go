package legacy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"coati/policy"
	"coati/policy/config"
)

// atHome is a host with these addresses, which speaks from the first.
func atHome(own ...string) Host {
	has := func(a netip.Addr) bool { return slices.Contains(own, a.String()) }
	return Host{Own: has, Source: func(netip.Addr) netip.Addr { return netip.MustParseAddr(own[0]) }}
}

const plutoConf = `version 2.0
config setup
	nat_traversal=yes
	virtual_private=%v4:10.0.0.0/8
conn %default
	authby=secret
	ikelifetime=2m    # a comment
conn site
	also=hosts
	leftsubnet=10.1.0.0/16
	rightsubnet=10.2.0.0/16
	ike=aes128-sha2;modp2048
	phase2alg="aes256-sha2_512;modp3072"
	keylife=90
	auto=start
conn hosts
	left=192.0.2.1
	right=192.0.2.2
	rightid=@b.example
`

const plutoSecrets = `# one
192.0.2.1 @b.example : PSK "open sesame, it is me"
192.0.2.1 192.0.2.9 : PSK "another"
: PSK 0x00ff
user : XAUTH "password"
`

// ipsecConverted reads an ipsec.conf with its secrets, and loads the result.
func ipsecConverted(conf, secrets string, host Host) (*Converted, *config.Config, []config.Fault) {
	files := map[string]string{"/etc/ipsec.conf": conf}
	if secrets != "" {
		files["/etc/ipsec.secrets"] = secrets
	}
	disk := aDisk(files)
	f, faults := ParseIPsec("/etc/ipsec.conf", []byte(conf), nil, disk)
	if f == nil {
		return nil, nil, faults
	}
	c, more := f.Convert(host, disk)
	faults = append(faults, more...)
	if c == nil {
		return nil, nil, faults
	}
	cfg, more := config.LoadWith(nil, []config.Foreign{c.Foreign})
	return c, cfg, append(faults, more...)
}

func TestPlutosConnBecomesATunnel(t *testing.T) {
	t.Parallel()
	c, cfg, faults := ipsecConverted(plutoConf, plutoSecrets, atHome("192.0.2.1"))
	if cfg == nil {
		t.Fatal(faults)
	}
	const want = `[tunnel."site"]
version = 1
local = "192.0.2.1"
remote = "192.0.2.2"
remote-id = "fqdn:b.example"
lifetime = "2m0s"
dpd = "0s"
ike = ["aes128-sha256-modp2048"]
psk-file = "site.psk"
start = "now"

[[tunnel."site".child]]
name = "site"
lifetime = "1m30s"
esp = ["aes256-sha512-modp3072-noesn"]
local-ts = ["10.1.0.0/16"]
remote-ts = ["10.2.0.0/16"]
`
	if string(c.Text) != want {
		t.Errorf("got:\n%s", c.Text)
	}
	if string(cfg.Tunnels[0].PSK.Reveal()) != "open sesame, it is me" {
		t.Error("another key")
	}
	if cfg.Where("site") != "/etc/ipsec.conf:8" {
		t.Errorf("the place is lost: %s", cfg.Where("site"))
	}
	var said []string
	for _, f := range faults {
		said = append(said, f.String())
	}
	for _, want := range []string{
		"/etc/ipsec.conf:4: lost: virtual_private: private networks", "/etc/ipsec.conf:8: warning: conn: says neither ikev2", "/etc/ipsec.secrets:5: lost: XAUTH: XAUTH is not read yet",
	} {
		if !slices.ContainsFunc(said, func(s string) bool { return strings.HasPrefix(s, want) }) {
			t.Errorf("%q is not in %q", want, said)
		}
	}
	if len(said) != 3 {
		t.Errorf("%q", said)
	}
}

// EAP, as strongSwan has it: who begins has a user and a password, who lets in has all of them.
func TestEAPOfBothEnds(t *testing.T) {
	t.Parallel()
	const conf = `conn %default
	left=192.0.2.1
	right=192.0.2.2
	keyexchange=ikev2
	leftsubnet=10.1.0.0/16
	rightsubnet=10.2.0.0/16
	auto=add
conn client
	leftauth=eap-mschapv2
	eap_identity=alice
	rightauth=psk
conn server
	right=192.0.2.3
	rightsubnet=10.3.0.0/16
	leftauth=psk
	rightauth=eap-md5
	rightid=%any
`
	c, cfg, faults := ipsecConverted(conf, "alice : EAP \"open sesame\"\nbob : EAP \"let me in\"\n: PSK 'x'\n", atHome("192.0.2.1"))
	if cfg == nil {
		t.Fatalf("%v", faults)
	}
	a, b := cfg.Tunnels[0], cfg.Tunnels[1]
	if a.LocalAuth != policy.ByEAP || a.RemoteAuth != policy.ByPSK || a.EAP.Identity != "alice" || string(a.EAP.Password.Reveal()) != "open sesame" || a.Start != policy.StartOnDemand {
		t.Errorf("%+v %+v", a, a.EAP)
	}
	if b.RemoteAuth != policy.ByEAP || b.LocalAuth != policy.ByPSK || len(b.EAP.Users) != 2 || b.EAP.Methods[0] != policy.EAPMD5 || b.Start != policy.StartListen {
		t.Errorf("%+v %+v", b, b.EAP)
	}
	if strings.Contains(string(c.Text), "sesame") || strings.Contains(fmt.Sprint(faults), "sesame") {
		t.Error("a password is told")
	}
	for bad, want := range map[string]string{
		strings.Replace(conf, "eap-md5", "eap-tls", 1):                "this way to authenticate is not carried yet",
		strings.Replace(conf, "eap_identity=alice", "compress=no", 1): "EAP needs eap_identity",
		strings.Replace(conf, "=alice", "=eve", 1):                    "no EAP in ipsec.secrets is for this user",
	} {
		if _, cfg, faults := ipsecConverted(bad, "alice : EAP \"open sesame\"\n: PSK 'x'\n", atHome("192.0.2.1")); cfg != nil || !strings.Contains(fmt.Sprint(faults), want) {
			t.Errorf("%q: %v", want, faults)
		}
	}
}

// What would be another user, or another password, in Coati's file of users is refused.
func TestUsersThatALineCannotSayAreRefused(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`"a b" : EAP "x"`, `: EAP "x"`, `a : EAP " x"`, `a : EAP "x "`, `%any : EAP "x"`, `a : EAP 0x610a62`, `"" : EAP "x"`} {
		p := &secretsParser{faults: &faults{}, shelf: &shelf{Disk: aDisk(nil)}}
		p.parse("/etc/ipsec.secrets", []byte(text+"\n"))
		if len(p.out) != 0 || len(p.list) != 1 || strings.Contains(p.list[0].Message, "x ") {
			t.Errorf("%s: %v %v", text, p.out, p.list)
		}
	}
}

// Which end is us is what the host says: of two files that are alike at both ends, each end makes its own tunnel.
func TestLeftAndRightAreTheHostsToTell(t *testing.T) {
	t.Parallel()
	v2 := strings.Replace(plutoConf, "\tright=192.0.2.2", "\tright=192.0.2.2\n\tikev2=insist", 1)
	for _, c := range []struct{ conf, own, local, remote, localTS string }{
		{v2, "192.0.2.1", "192.0.2.1", "192.0.2.2", "10.1.0.0/16"},
		{v2, "192.0.2.2", "192.0.2.2", "192.0.2.1", "10.2.0.0/16"},
		{strings.Replace(v2, "right=192.0.2.2", "right=%defaultroute", 1), "192.0.2.2", "invalid IP", "192.0.2.1", "10.2.0.0/16"},
		{strings.Replace(v2, "left=192.0.2.1", "left=%defaultroute", 1), "192.0.2.7", "invalid IP", "192.0.2.2", "10.1.0.0/16"},
		{v2, "192.0.2.7", "192.0.2.1", "192.0.2.2", "10.1.0.0/16"},
	} {
		_, cfg, faults := ipsecConverted(c.conf, ": PSK 'x'", atHome(c.own))
		if cfg == nil {
			t.Fatalf("%s: %v", c.own, faults)
		}
		n := cfg.Tunnels[0]
		if n.Local.String() != c.local || n.Remote.String() != c.remote || n.Children[0].Local[0].String() != c.localTS || n.Version != 2 {
			t.Errorf("%s: %s %s %v", c.own, n.Local, n.Remote, n.Children[0].Local)
		}
		if warned := slices.ContainsFunc(faults, func(f config.Fault) bool { return strings.Contains(f.Message, "left is taken for it") }); warned != (c.own == "192.0.2.7" && c.local == "192.0.2.1") {
			t.Errorf("%s: %v", c.own, faults)
		}
	}
	if _, cfg, faults := ipsecConverted(v2, ": PSK 'x'", atHome("192.0.2.1", "192.0.2.2")); cfg != nil {
		t.Errorf("both ends are ours: %v", faults)
	}
}

// Conns between the same two hosts are children of one tunnel; a list of subnets is a child for each pair with IKEv1, and one
// child with IKEv2.
func TestConnsOfTheSameHostsAreOneTunnel(t *testing.T) {
	t.Parallel()
	conf := `conn %default
	left=192.0.2.1
	right=192.0.2.2
	authby=psk
	keyexchange=ikev1
	ike=aes256-sha256-modp2048!
	esp=aes128-sha256!
	auto=route
conn a
	leftsubnet=10.1.0.0/16
	rightsubnet=10.2.0.0/16
conn b
	leftsubnet=10.1.0.0/16
	rightsubnet=10.3.0.0/16,10.4.0.0/16
conn c
	right=192.0.2.3
	keyexchange=ikev2
	leftsubnet=10.1.0.0/16
	rightsubnet=10.5.0.0/16,10.6.0.0/16
conn d
	auto=ignore
	right=192.0.2.4
`
	_, cfg, faults := ipsecConverted(conf, ": PSK 'x'", atHome("192.0.2.1"))
	if cfg == nil {
		t.Fatal(faults)
	}
	var got []string
	for _, n := range cfg.Tunnels {
		for _, c := range n.Children {
			got = append(got, fmt.Sprintf("%d %s/%s %v", n.Version, n.Name, c.Name, c.Remote))
		}
	}
	want := []string{"1 a/a [10.2.0.0/16]", "1 a/b-1x1 [10.3.0.0/16]", "1 a/b-1x2 [10.4.0.0/16]", "2 c/c [10.5.0.0/16 10.6.0.0/16]"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if len(faults) != 0 {
		t.Errorf("%v", faults)
	}
}

func TestBothSpellingsOfProposals(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"aes128-sha-modp1024":            "aes128-sha1-modp1024",
		"aes128-sha1;modp1024":           "aes128-sha1-modp1024",
		"3des-md5;dh2, aes-sha2":         "3des-md5-modp1024 aes128-sha256",
		"aes_gcm256-sha2_512+sha2-dh19":  "aes256gcm16-sha512-sha256-ecp256",
		"aes_gcm_c":                      "aes128gcm16",
		"aes_ccm_a_192-null":             "aes192ccm8-null",
		"aes256gcm16-prfsha384-ecp384!":  "aes256gcm16-prfsha384-ecp384",
		"AES_CBC256-HMAC_SHA2_384;DH24!": "aes256-sha384-modp2048s256",
		"aes_gcm_16_256-none":            "aes256gcm16",
		",;-!":                           "",
	} {
		var got []string
		for _, s := range suites(text) {
			got = append(got, strings.Join(s, "-"))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q", text, got)
		}
	}
}

// Secrets: the entry that names both ends counts before one that names one, and that before one that names none.
func TestSecretsAreForThoseTheyName(t *testing.T) {
	t.Parallel()
	const secrets = `: PSK "all"
192.0.2.2: PSK "peer"
192.0.2.1 %any : PSK "ours"
192.0.2.1 192.0.2.3 : PSK 0s` + "dGhyZWU=" + `
2001:db8::1 2001:db8::2 : PSK
	"six"   # behind a comment

@a.example @b.example : psk 'names'
192.0.2.9 : RSA key.pem
`
	p := &secretsParser{faults: &faults{}, shelf: &shelf{Disk: aDisk(nil)}}
	p.parse("/etc/ipsec.secrets", []byte(secrets))
	if len(p.list) > 0 {
		t.Fatal(p.list)
	}
	for _, c := range []struct{ us, them, want string }{
		{"192.0.2.1", "192.0.2.3", "three"},
		{"192.0.2.3", "192.0.2.1", "three"},
		{"192.0.2.5", "192.0.2.2", "peer"},
		{"192.0.2.1", "192.0.2.7", "ours"},
		{"192.0.2.7", "192.0.2.8", "all"},
		{"2001:db8::2", "2001:db8::1", "six"},
		{"fqdn:b.example", "fqdn:a.example", "names"},
	} {
		s := findSecret(p.out, []string{"PSK"}, []string{c.us}, []string{c.them})
		if s == nil || string(s.secret.Reveal()) != c.want {
			t.Errorf("%s %s: not %q", c.us, c.them, c.want)
		}
	}
	if s := findSecret(p.out, []string{"RSA"}, []string{"192.0.2.9"}, nil); s == nil || s.file != "/etc/ipsec.d/private/key.pem" {
		t.Errorf("%v", s)
	}
}

func TestPlutosIdentities(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "@a.example": "fqdn:a.example", "a.example": "fqdn:a.example", "u@a.example": "email:u@a.example", "@#0a0b": "keyid:0x0a0b",
		"@[group]": "keyid:0x67726f7570", "C=CH, CN=a": "dn:C=CH, CN=a", "/C=CH/CN=a": "dn:C=CH, CN=a", "%any": "any", "fqdn:x": "fqdn:x", "2001:db8::1": "2001:db8::1", "keyid:z": "keyid:z",
	} {
		if got := ipsecIdentity(text); got != want {
			t.Errorf("%s: %s", text, got)
		}
		if _, err := policy.ParseIdentity(ipsecIdentity(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestIPsecFaults(t *testing.T) {
	t.Parallel()
	const base = "conn a\n left=192.0.2.1\n right=192.0.2.2\n authby=secret\n auto=add\n ikev2=insist\n"
	for _, c := range []struct{ conf, want string }{
		{"left=1\n", ":1: left: stands before the first section"},
		{"conn\n", ":1: conn: want one name"},
		{"conn a b\n", ":1: conn: want one name"},
		{"foo bar\n", ":1: want config setup, conn NAME"},
		{"conn a\n left\n", ":2: want a parameter as key=value"},
		{"conn a\n left=\"192\n", ":2: a quotation mark is never closed"},
		{"conn a\n left=\"192\" x\n", ":2: left: nothing may follow the closing quotation mark"},
		{"conn a\n left=\x00\n", ":2: there is an octet 0x00 in the line"},
		{"conn a\nconn a\n", ":2: conn: the same conn is at /etc/ipsec.conf:1"},
		{"conn a\n also=b\n", ":2: also: there is no conn of that name"},
		{"conn a\n also=b\nconn b\n also=a\n", ":4: also: leads back to where it began"},
		{"include /none\n", ":1: include: /none: no such file"},
		{base + " lefft=x\n", ":7: lefft: unknown parameter of a conn"},
		{"config setup\n oh=x\n", ":2: oh: unknown parameter of config setup"},
		{base + " type=drop\n", ":7: type: drop: write spdadd"},
		{base + " phase2=ah\n", ":7: phase2: want esp"},
		{base + " ikelifetime=soon\n", ":7: ikelifetime: want seconds"},
		{base + " ikelifetime=99999999d\n", ":7: ikelifetime: want seconds"},
		{base + " ike=aes129-sha1-modp2048\n", `:7: ike: ike: unknown algorithm "aes129"`},
		{base + " connaddrfamily=ipv6\n", ":2: left: 192.0.2.1 is not of ipv6"},
		{base + " rightsubnet=vhost:%priv\n", ":7: rightsubnet: want prefixes"},
		{base + " rightsubnet=10.0.0.0/99\n", ":7: rightsubnet: "},
		{base + " leftxauthclient=yes\n", ":7: leftxauthclient: yes: XAUTH is not read yet"},
		{strings.Replace(base, "authby=secret", "authby=rsasig\n leftcert=c\n rightrsasigkey=0sAQ", 1), ":6: rightrsasigkey: a public key is 0s"},
		{base + " dpdaction=maybe\n", ":7: dpdaction: want clear"},
		{strings.Replace(base, "add", "sometimes", 1), ":5: auto: want ignore"},
		{strings.Replace(base, "secret", "never", 1), ":4: authby: this way"},
		{strings.Replace(base, "insist", "perhaps", 1), ":6: ikev2: want no"},
		{strings.Replace(base, "=192.0.2.2", "=%group", 1), ":3: right: want one address"},
		{strings.Replace(strings.Replace(base, "=192.0.2.2", "=%any", 1), "add", "start", 1), ":5: auto: the other end may be anybody"},
		{strings.Replace(base, "authby=secret", "authby=rsasig", 1), ":1: conn: a: rsasig needs leftcert"},
	} {
		_, cfg, faults := ipsecConverted(c.conf, ": PSK 'x'", atHome("192.0.2.1"))
		if cfg != nil || !slices.ContainsFunc(faults, func(f config.Fault) bool { return strings.HasPrefix(f.String(), "/etc/ipsec.conf"+c.want) }) {
			t.Errorf("%q: %v, want %q", c.conf, faults, c.want)
		}
	}
	if _, _, faults := ipsecConverted(base, "", atHome("192.0.2.1")); !strings.Contains(fmt.Sprint(faults), "no PSK in ipsec.secrets is for its ends") {
		t.Errorf("%v", faults)
	}
}

// Includes: of a file that includes itself, too deep, too many; patterns; and files in secrets.
func TestIPsecIncludes(t *testing.T) {
	t.Parallel()
	files := map[string]string{"/etc/a": "include b\n", "/etc/b": "include a\n", "/s/1.secrets": ": PSK 'one'\n", "/s/loop": "include /s/loop\n"}
	for i := range 40 {
		files[fmt.Sprintf("/d/%d", i)] = fmt.Sprintf("include /d/%d\n", i+1)
	}
	for i := range 1001 {
		files[fmt.Sprintf("/m/%04d.conf", i)] = "\n"
	}
	for _, c := range []struct{ file, text, want string }{
		{"/etc/a", files["/etc/a"], "/etc/a: includes itself, by way of 2 files"},
		{"/d/0", files["/d/0"], "/d/15:1: include: files within files are too deep: at most 16"},
		{"/x", "include /m/*.conf\n", "/x:1: include: /m/1000.conf: is one file too many: at most 1000 are read"},
		{"/x", "include [\n", "/x:1: include: the pattern cannot be used"},
	} {
		f, faults := ParseIPsec(c.file, []byte(c.text), nil, aDisk(files))
		if f != nil || len(faults) == 0 || faults[0].String() != c.want {
			t.Errorf("%s: %v", c.file, faults)
		}
	}
	f, faults := ParseIPsec("/x", []byte("include /none/*.conf\nconn a\n left=192.0.2.1\n"), []string{"/s/1.secrets"}, aDisk(files))
	if f == nil || len(f.secrets) != 1 || len(f.conns) != 1 {
		t.Errorf("%v", faults)
	}
	if f, faults := ParseIPsec("/x", nil, []string{"/s/loop"}, aDisk(files)); f != nil || len(faults) != 1 {
		t.Errorf("%v", faults)
	}
	if f, faults := ParseIPsec("/x", make([]byte, 100<<20), nil, aDisk(nil)); f != nil || len(faults) != 1 {
		t.Errorf("%v", faults)
	}
}

func TestIPsecDiagnosticsHaveNoSecret(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3tw0rd"
	for _, text := range []string{
		secret, ": PSK " + secret, `: PSK "` + secret, `: PSK "" ` + secret, ": PSK 0x" + secret, ": " + secret + " x", `u : XAUTH "` + secret + `"`, `u : EAP "` + secret + `"`, `: RSA k.pem "` + secret + `"`,
		": PSK \"" + secret + "\x00\"", ": RSA { Modulus: " + secret + " }", "include /none " + secret, ": PSK \"" + secret + "\n\"", ": PSK \"" + strings.Repeat(secret, 9000) + "\"",
	} {
		_, _, faults := ipsecConverted(plutoConf, text, atHome("192.0.2.1"))
		if len(faults) < 2 {
			t.Errorf("%q: nothing is said", text)
		}
		for _, f := range faults {
			if strings.Contains(f.String(), secret) {
				t.Errorf("%.50q: %s", text, f)
			}
		}
	}
}

func TestIPsecIsToldFromOthers(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		plutoConf: true, "# c\n\nconn a\n": true, "include /etc/*.conf\n": true, "include \"x\" ;": false, "include x;": false, "conn = 1": false, "[tunnel.x]": false, "": false, racoonMain: false,
		glass: false, plutoSecrets: false, "config setup": true, "ca x": true,
	} {
		if LooksLikeIPsec([]byte(text)) != want {
			t.Errorf("%q", text)
		}
	}
	for text, want := range map[string]bool{
		plutoSecrets: true, ": RSA x.pem": true, "a b : PSK \"x\"": true, "remote = \"a : PSK\"": false, plutoConf: false, racoonMain: false, "": false, "u : XAUTH 'x'": true,
	} {
		if LooksLikeSecrets([]byte(text)) != want {
			t.Errorf("%q", text)
		}
	}
}

// Sections that name each other ten times, sixteen deep, are looked at once each.
func TestAlsoIsNotFollowedTwice(t *testing.T) {
	t.Parallel()
	var conf strings.Builder
	conf.WriteString(plutoConf)
	for depth := range 15 {
		for i := range 10 {
			fmt.Fprintf(&conf, "conn c%d-%d\n", depth, i)
			for j := range 10 {
				fmt.Fprintf(&conf, "\talso=c%d-%d\n", depth+1, j)
			}
		}
	}
	for i := range 10 {
		fmt.Fprintf(&conf, "conn c15-%d\n keyingtries=%d\n", i, i)
	}
	if _, cfg, faults := ipsecConverted(conf.String(), plutoSecrets, atHome("192.0.2.1")); cfg == nil {
		t.Errorf("%v", faults)
	}
}
