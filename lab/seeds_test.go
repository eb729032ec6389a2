package lab

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Tunnels of other programs' files as they are, Coati at both ends: racoon.conf, psk.txt and the setkey script beside it;
// ipsec.conf and ipsec.secrets.

// seed is one pair of such files, seen from either end, and the traffic that they protect.
type seed struct {
	name  string
	files func(s *seedEnds, here, there *Host) map[string]string
	v6    bool // of the hosts' own addresses
	more  bool // a second subnet behind each host
	signs bool // by certificates
	up    string
	host  bool   // the hosts speak to each other, else those behind them
	state string // of a tunnel that is up, in pluto's words
	mode  string
}

type seedEnds struct {
	seed
}

// certificates are the lines of a remote for self-signed certificates of RSA-1024 and SHA-1, each of which the other end has by file.
func (s *seedEnds) certificates(here, there *Host) string {
	return fmt.Sprintf("\tmy_identifier asn1dn;\n\tpeers_identifier asn1dn \"O=Seed, CN=%s\";\n\tverify_identifier on;\n\tcertificate_type x509 %q %q;\n\tpeers_certfile x509 %q;\n",
		there.label, here.Path("own.crt"), here.Path("own.key"), there.Path("own.crt"))
}

// issue makes a host's own certificate.
func (s *seedEnds) issue(t *testing.T, h *Host) {
	t.Helper()
	if s.signs {
		h.Must(t, "openssl", "req", "-x509", "-newkey", "rsa:1024", "-sha1", "-nodes", "-days", "30", "-subj", "/O=Seed/CN="+h.label, "-keyout", h.Path("own.key"), "-out", h.Path("own.crt"))
	}
}

func (s *seedEnds) address(h *Host) netip.Addr {
	if s.v6 {
		return h.Outer6
	}
	return h.Outer4
}

func (s *seedEnds) net(h *Host) netip.Prefix {
	if s.v6 {
		return h.LANNet6
	}
	return h.LANNet4
}

// ends of a ping.
func (s *seedEnds) traffic(from, to *Host) (netip.Addr, netip.Addr) {
	switch {
	case s.host:
		return s.address(from), s.address(to)
	case s.v6:
		return from.LAN6, to.LAN6
	}
	return from.LAN4, to.LAN4
}

// racoonFiles are a racoon.conf of the seeds' kind: one anonymous remote and sainfo.
func racoonFiles(mode, cipher, hash, group, pfs string) func(*seedEnds, *Host, *Host) map[string]string {
	return func(s *seedEnds, here, there *Host) map[string]string {
		by, more := "pre_shared_key", ""
		if s.signs {
			by, more = "rsasig", s.certificates(here, there)
		}
		conf := fmt.Sprintf(`path pre_shared_key "psk.txt";
log debug;
padding { strict_check off; }
remote anonymous {
	exchange_mode %[1]s;
	lifetime time 2 min;
	proposal_check obey;
%[7]s	proposal {
		encryption_algorithm %[2]s;
		hash_algorithm %[3]s;
		authentication_method %[6]s;
		dh_group %[4]s;
	}
}
sainfo anonymous {
	pfs_group %[5]s;
	lifetime time 2 min;
	encryption_algorithm %[2]s;
	authentication_algorithm hmac_%[3]s;
	compression_algorithm deflate;
}
`, mode, cipher, hash, group, pfs, by, more)
		return map[string]string{
			"racoon.conf":      conf,
			"psk.txt":          fmt.Sprintf("# the other end\n%s\t%s\n", s.address(there), psk),
			"ipsec-tools.conf": s.policies(here, there),
		}
	}
}

func (s *seedEnds) policies(here, there *Host) string {
	text := "flush;\nspdflush;\n"
	line := func(src, dst any, from, to *Host, direction string) {
		rule := fmt.Sprintf("esp/tunnel/%s-%s/require", s.address(from), s.address(to))
		switch {
		case s.mode == "transport":
			rule = "esp/transport//require"
		case s.more:
			rule = strings.Replace(rule, "require", "unique", 1)
		}
		text += fmt.Sprintf("spdadd %s %s any -P %s ipsec %s;\n", src, dst, direction, rule)
	}
	both := func(mine, theirs any) {
		line(mine, theirs, here, there, "out")
		line(theirs, mine, there, here, "in")
	}
	if s.host {
		both(s.address(here), s.address(there))
		return text
	}
	both(s.net(here), s.net(there))
	if s.more {
		both(secondNet(here), secondNet(there))
	}
	return text
}

// secondNet is another network behind a host: 10.11.0.0/24 or 10.12.0.0/24.
func secondNet(h *Host) netip.Prefix {
	octets := h.LAN4.As4()
	octets[1] += 10
	return netip.PrefixFrom(netip.AddrFrom4(octets), 24).Masked()
}

// plutoFiles are an ipsec.conf that is the same at both ends.
func plutoFiles(s *seedEnds, here, there *Host) map[string]string {
	left, right := here, there
	if left.label > right.label {
		left, right = right, left
	}
	family, subnets := "ipv4", ""
	if s.v6 {
		family = "ipv6"
	}
	if !s.host {
		subnets = fmt.Sprintf("\tleftsubnet=%s\n\trightsubnet=%s\n", s.net(left), s.net(right))
	}
	return map[string]string{
		"ipsec.conf": fmt.Sprintf(`version 2.0
config setup
	protostack=netkey
	nat_traversal=no
conn %%default
	keyingtries=1
	ikev2=no
conn seed
	type=%s
	connaddrfamily=%s
	left=%s
	right=%s
%s	authby=secret
	ike=aes128-sha;modp1024
	phase2alg=aes128-sha1;modp1024
	ikelifetime=2m
	keylife=2m
	auto=add
`, s.mode, family, s.address(left), s.address(right), subnets),
		"ipsec.secrets": fmt.Sprintf("%s %s : PSK %q\n", s.address(left), s.address(right), psk),
	}
}

const (
	stateMain       = "STATE_MAIN_I4"
	stateAggressive = "STATE_AGGR_I2"
)

var seeds = []seed{
	{name: "racoon, main mode, transport", files: racoonFiles("main", "3des", "sha1", "modp1024", "modp768"), mode: "transport", host: true, state: stateMain},
	{name: "racoon, aggressive mode, transport", files: racoonFiles("aggressive", "3des", "sha1", "2", "1"), mode: "transport", host: true, state: stateAggressive},
	{name: "racoon, aggressive mode, tunnel", files: racoonFiles("aggressive", "3des", "sha1", "2", "1"), mode: "tunnel", state: stateAggressive},
	{name: "racoon, RSA-1024, transport", files: racoonFiles("main", "3des", "sha1", "modp1024", "modp1024"), mode: "transport", host: true, signs: true, state: stateMain},
	{name: "racoon, IPv6, tunnel", files: racoonFiles("main", "3des", "md5", "modp1024", "modp1024"), mode: "tunnel", v6: true, state: stateMain},
	{name: "racoon, IPv6, transport", files: racoonFiles("main", "3des", "md5", "modp1024", "modp1024"), mode: "transport", host: true, v6: true, state: stateMain},
	{name: "racoon, two subnets, unique", files: racoonFiles("main", "aes 128", "sha1", "modp1024", "modp1024"), mode: "tunnel", more: true, state: stateMain},
	{name: "pluto, tunnel, ipsec auto --up", files: plutoFiles, mode: "tunnel", up: "seed", state: stateMain},
	{name: "pluto, IPv6, transport, ipsec auto --up", files: plutoFiles, mode: "transport", host: true, up: "seed", v6: true, state: stateMain},
}

// startSeed starts a daemon with the files as they are, and links to the program by its other names.
func startSeed(t *testing.T, s *seedEnds, here, there *Host) *Coati {
	t.Helper()
	var configs []string
	for name, text := range s.files(s, here, there) {
		path := here.Write(t, name, text)
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		if name != "psk.txt" && name != "ipsec.secrets" {
			configs = append(configs, path)
		}
	}
	slices.Sort(configs)
	if s.more {
		here.AddAddress(t, "lo", netip.PrefixFrom(secondNet(here).Addr().Next(), 32))
	}
	c := startScript(t, here, configs...)
	for _, name := range []string{"racoonctl", "ipsec"} {
		if err := os.Symlink(c.binary, filepath.Join(filepath.Dir(c.Socket), name)); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// link runs the program by one of its other names.
func (c *Coati) link(t *testing.T, name string, args ...string) string {
	t.Helper()
	output, err := c.Host.Run(append([]string{c.Host.Path(name), "--control", c.Socket}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return output
}

// TestSeeds: each tunnel comes up from the files as they are, keeps its first packet, and is rekeyed twice without a loss; the
// programs' own commands tell of it.
func TestSeeds(t *testing.T) {
	NeedRoot(t)
	for _, x := range seeds {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			s := &seedEnds{x}
			pair := NewPair(t)
			a, b := pair.A, pair.B
			s.issue(t, a)
			s.issue(t, b)
			right, left := startSeed(t, s, b, a), startSeed(t, s, a, b)
			if s.up != "" {
				s.upByName(t, left)
			}
			s.pings(t, a, b)
			if x.more {
				mine, theirs := secondNet(a).Addr().Next(), secondNet(b).Addr().Next()
				if lost := a.Ping(t, mine, theirs, 2); lost != 0 {
					t.Errorf("%d pings between the second subnets were lost", lost)
				}
				if n := left.IKESAs(t); n != 1 {
					t.Errorf("%d IKE SAs between one pair of hosts", n)
				}
			}
			for range 2 {
				rekeyed(t, left)
				s.pings(t, b, a)
			}
			if mode := left.Status(t).Tunnels[0].Children[0].SAs[0].Mode; mode != x.mode {
				t.Errorf("%s mode", mode)
			}
			s.told(t, left, b)
			left.Alive(t)
			right.Alive(t)
		})
	}
}

func (s *seedEnds) pings(t *testing.T, from, to *Host) {
	t.Helper()
	src, dst := s.traffic(from, to)
	if lost := from.Ping(t, src, dst, 3); lost != 0 {
		t.Errorf("%d of 3 pings lost", lost)
	}
}

// upByName brings a conn up as people who had pluto do.
func (s *seedEnds) upByName(t *testing.T, c *Coati) {
	t.Helper()
	if output := c.link(t, "ipsec", "auto", "--add", s.up); !strings.Contains(output, `added connection description "seed"`) {
		t.Errorf("%s", output)
	}
	output := c.link(t, "ipsec", "auto", "--up", s.up)
	for _, want := range []string{`004 "seed" #1: STATE_MAIN_I4: ISAKMP SA established {`, `004 "seed" #2: STATE_QUICK_I2: sent QI2, IPsec SA established ` + s.mode + ` mode {ESP=>0x`} {
		if !strings.Contains(output, want) {
			t.Errorf("no %q in\n%s", want, output)
		}
	}
}

// rekeyed gives the first child new keys and waits until it has them.
func rekeyed(t *testing.T, c *Coati) {
	t.Helper()
	before := c.Status(t).Tunnels[0]
	name := before.Name + "/" + before.Children[0].Name
	old := before.Children[0].SAs[0].In.SPI
	c.Do(t, "rekey", name)
	WaitFor(t, 20*time.Second, "other keys of "+name, func() bool {
		sas := c.Status(t).Tunnels[0].Children[0].SAs
		return len(sas) > 0 && sas[len(sas)-1].In.SPI != old
	})
}

// told compares what the programs' own commands say.
func (s *seedEnds) told(t *testing.T, c *Coati, there *Host) {
	t.Helper()
	peer := s.address(there).String()
	if output := c.link(t, "ipsec", "status"); !strings.Contains(output, " "+s.state+" (") {
		t.Errorf("no %s in\n%s", s.state, output)
	}
	if s.up == "" {
		if output := c.link(t, "racoonctl", "show-sa", "isakmp"); !strings.Contains(output, "\n"+peer+".500 ") {
			t.Errorf("no SA with %s in\n%s", peer, output)
		}
		if output := c.link(t, "racoonctl", "show-sa", "ipsec"); !strings.Contains(output, "esp mode="+s.mode) {
			t.Errorf("no association in\n%s", output)
		}
		c.link(t, "racoonctl", "vpn-disconnect", peer)
		c.WaitPairs(t, 10*time.Second, 0)
		if output := c.link(t, "racoonctl", "vpn-connect", peer); !strings.Contains(output, "established") || len(c.Pairs(t)) == 0 {
			t.Errorf("%s", output)
		}
		return
	}
	output := c.link(t, "ipsec", "status")
	for _, want := range []string{`000 "seed": `, "erouted; eroute owner: #", "STATE_MAIN_I4 (ISAKMP SA established); newest ISAKMP", "STATE_QUICK_I2 (sent QI2, IPsec SA established); newest IPSEC"} {
		if !strings.Contains(output, want) {
			t.Errorf("no %q in\n%s", want, output)
		}
	}
	c.link(t, "ipsec", "auto", "--down", s.up)
	c.WaitPairs(t, 10*time.Second, 0)
}
