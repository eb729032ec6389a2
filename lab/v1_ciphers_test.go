package lab

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
)

// v1Matrix goes from the weakest that anybody has to the strongest.
var v1Matrix = []cipherCase{
	{"des-md5-modp768", "des-md5-modp768"},
	{"des-sha1-modp1024", "des-sha1"},
	{"3des-sha1-modp1024", "3des-sha1-modp768"},
	{"3des-md5-modp1536", "3des-md5-modp1536"},
	{"blowfish128-sha1-modp1536", "blowfish256-sha1"},
	{"cast128-sha1-modp1024s160", "cast128-sha1-modp1024"},
	{"camellia128-sha256-modp2048s224", "camellia256-sha256"},
	{"camellia256-sha384-modp2048s256", "camellia128-sha384-modp2048s256"},
	{"aes128-sha1-modp2048", "aes128-sha1"},
	{"aes128-sha256-modp3072", "aes192-sha256-modp2048"},
	{"aes192-sha256-x25519", "aes256-sha256-x25519"},
	{"aes256-sha384-ecp384", "aes256gcm16-ecp256"},
	{"aes256-sha512-ecp521", "aes256-sha512-ecp521"},
	{"aes256-sha256-modp4096", "null-sha256"},
}

// v1Many writes one tunnel for each case, each with a subnet of its own, and addresses in them.
func v1Many(t *testing.T, pair *Pair, cases []cipherCase, start, more string) (Tunnel, []netip.Addr) {
	t.Helper()
	var tunnels []string
	var inside []netip.Addr
	first := Between(pair.A, pair.B)
	for i, c := range cases {
		a, b := netip.AddrFrom4([4]byte{10, 1, byte(100 + i), 1}), netip.AddrFrom4([4]byte{10, 2, byte(100 + i), 1})
		pair.A.AddAddress(t, "lo", netip.PrefixFrom(a, 24))
		pair.B.AddAddress(t, "lo", netip.PrefixFrom(b, 24))
		inside = append(inside, a, b)
		tunnels = append(tunnels, fmt.Sprintf(`[tunnel.c%d]
version = 1
local = %q
remote = %q
psk-file = "lab.psk"
start = %q
unique = "never"
ike = [%q]
%s
[[tunnel.c%d.child]]
name = "lan"
local-ts = ["%s/24"]
remote-ts = ["%s/24"]
esp = [%q]
`, i, first.Local, first.Remote, start, c.ike, more, i, netip.PrefixFrom(a, 24).Masked().Addr(), netip.PrefixFrom(b, 24).Masked().Addr(), c.esp))
	}
	first.Start, first.More = "listen", strings.Join(tunnels, "\n")
	return first, inside
}

// swanMany is strongSwan's side: one connection for each case, or one that takes all of them.
func swanMany(pair *Pair, cases []cipherCase, one bool, more string) string {
	var b strings.Builder
	b.WriteString("connections {\n")
	children := func(i int) string {
		return fmt.Sprintf("c%d { local_ts = 10.2.%d.0/24\n remote_ts = 10.1.%d.0/24\n esp_proposals = %s }\n", i, 100+i, 100+i, cases[i].esp)
	}
	connection := func(name, ike, children string) {
		fmt.Fprintf(&b, "%s { version = 1\n unique = never\n encap = yes\n local_addrs = %s\n remote_addrs = %s\n proposals = %s\n %s\n local { auth = psk }\n remote { auth = psk }\n children {\n%s} }\n",
			name, pair.B.Outer4, pair.A.Outer4, ike, more, children)
	}
	all, kids := "", ""
	for i, c := range cases {
		if one {
			all, kids = all+","+c.ike, kids+children(i)
			continue
		}
		connection(fmt.Sprintf("t%d", i), c.ike, children(i))
	}
	if one {
		connection("all", all[1:], kids)
	}
	fmt.Fprintf(&b, "}\nsecrets { ike-1 { secret = \"%s\" } }\n", psk)
	return b.String()
}

// TestV1Ciphers: each suite with strongSwan, in both roles, with a ping through the tunnel.
func TestV1Ciphers(t *testing.T) {
	NeedRoot(t)
	for _, role := range bothRoles {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			pair := NewPair(t)
			tunnel, inside := v1Many(t, pair, v1Matrix, "listen", "")
			coati := NewCoati(t, pair.A, tunnel)
			charon := StartCharon(t, pair.B, false)
			charon.LoadAll(t, swanMany(pair, v1Matrix, role == roleInitiator, ""))
			coati.Start(t)
			for i, c := range v1Matrix {
				name := fmt.Sprintf("c%d", i)
				if role == roleInitiator {
					coati.Do(t, "up", name)
				} else if err := charon.Initiate(name); err != nil {
					t.Errorf("%s: %v", c, err)
					continue
				}
				if lost := pair.A.Ping(t, inside[2*i], inside[2*i+1], 1); lost != 0 {
					t.Errorf("%s: the ping was lost", c)
				}
				coati.Do(t, "down", name)
			}
			coati.Alive(t)
		})
	}
}

// TestV1Aggressive: aggressive mode with strongSwan, in both roles.
func TestV1Aggressive(t *testing.T) {
	NeedRoot(t)
	for _, role := range bothRoles {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			v := setUpV1(t, role, "3des-sha1-modp1024", v1ESP, func(n *Tunnel, s *swan) {
				n.ExtraTunnel += "aggressive = true\nlocal-id = \"fqdn:a.example\"\nremote-id = \"fqdn:b.example\"\n"
				s.more += "\n  aggressive = yes"
				s.localID, s.remoteID = "b.example", "a.example"
			})
			// tshark loses the chain of IVs when message 3 is said twice.
			v.connect(t)
			NoLoss(t, v.B, v.A, 3)
			v.coati.Alive(t)
			if !strings.Contains(v.charon.Log(), "AGGRESSIVE") {
				t.Errorf("it was not aggressive mode: %s", v.charon.Log())
			}
			if n := strings.Count(v.coati.Log(), "can guess the key off-line"); n != 1 {
				t.Errorf("%d warnings of what aggressive mode gives away, want 1", n)
			}
		})
	}
}

// TestV1AggressiveKeyIsGuessed: psk-crack finds our key from what ike-scan was answered. That is what the warning is about, and shows that
// the hash is right.
func TestV1AggressiveKeyIsGuessed(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	pair := NewPair(t)
	tunnel := Between(pair.A, pair.B)
	tunnel.IKE, tunnel.ESP, tunnel.Start, tunnel.PSK = "3des-sha1-modp1024", v1ESP, "listen", "abc123"
	tunnel.ExtraTunnel = "version = 1\naggressive = true\nremote-id = \"fqdn:group\"\n"
	coati := StartCoati(t, pair.A, tunnel)
	said := pair.B.Path("psk.txt")
	output, err := pair.B.Run("ike-scan", "-A", "-M", "--sport=0", "--retry=2", "--timeout=1000", "--id=group", "--idtype=2", "-P"+said, pair.A.Outer4.String())
	if err != nil || !strings.Contains(output, "1 returned handshake") {
		t.Fatalf("%v\n%s", err, output)
	}
	words := pair.B.Write(t, "words", "wrong\nabc123\nother\n")
	output, err = pair.B.Run("psk-crack", "-d", words, said)
	if err != nil || !regexp.MustCompile(`key "abc123" matches SHA1 hash`).MatchString(output) {
		t.Errorf("%v\n%s", err, output)
	}
	// Of several transforms ours is found, and of none of ours nothing is said.
	for trans, want := range map[string]string{
		"--trans=5,1,1,2 --trans=1,2,1,1 --trans=5,2,1,2": "1 returned handshake",
		"--trans=7/256,2,1,14":                            "0 returned handshake",
	} {
		args := append([]string{"ike-scan", "-A", "-M", "--sport=0", "--retry=2", "--timeout=1000", "--id=group", "--idtype=2", "--dhgroup=2"}, strings.Fields(trans)...)
		if output, err := pair.B.Run(append(args, pair.A.Outer4.String())...); err != nil || !strings.Contains(output, want) {
			t.Errorf("%s: %v, not %q in\n%s", trans, err, want, output)
		}
	}
	if _, err := os.Stat(said); err != nil {
		t.Error(err)
	}
	coati.Alive(t)
}
