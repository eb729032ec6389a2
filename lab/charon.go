package lab

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	charonProgram  = "/usr/lib/ipsec/charon"
	swanctlProgram = "/usr/sbin/swanctl"
	// kernel-libipsec, ESP in userspace, must come before kernel-netlink: the first one serves.
	charonPlugins = "nonce random openssl kdf hmac sha1 sha2 md5 aes gcm ccm ctr cmac chapoly gcrypt gmp " +
		"curve25519 pem x509 pkcs1 pkcs8 pubkey constraints kernel-libipsec kernel-netlink " +
		"socket-default vici updown xauth-generic"
)

// A Charon is strongSwan's daemon. Its userspace ESP takes tunnel mode in UDP only (it fakes a NAT), and no ESN; in a kernel
// that has ESP it uses that.
type Charon struct {
	Host            *Host
	p               *Process
	dir             string
	env             []string
	daemon, swanctl string
}

// StartCharon starts the daemon; verbose makes its log print SK_* and ESP keys. Settings are lines for
// the section charon of strongswan.conf.
func StartCharon(t testing.TB, h *Host, verbose bool, settings ...string) *Charon {
	t.Helper()
	return startCharon(t, h, verbose, charonPlugins, charonProgram, swanctlProgram, settings...)
}

func startCharon(t testing.TB, h *Host, verbose bool, plugins, daemon, swanctl string, settings ...string) *Charon {
	t.Helper()
	c := &Charon{Host: h, dir: h.Path("charon"), daemon: daemon, swanctl: swanctl}
	for _, folder := range strings.Fields("x509 x509ca x509ocsp x509aa x509ac x509crl pubkey private rsa ecdsa bliss pkcs8 pkcs12 conf.d") {
		if err := os.MkdirAll(c.dir+"/swanctl/"+folder, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if InKernel() {
		plugins = strings.Replace(plugins, "kernel-libipsec ", "", 1)
	}
	level := 1
	if verbose {
		level = 4
	}
	conf := h.Write(t, "charon/strongswan.conf", fmt.Sprintf(`charon {
  load = %s
  load_modular = no
  retransmit_timeout = 1.0
  retransmit_tries = 4
%s
  plugins { vici { socket = unix://%s/vici } }
  filelog { stderr { time_format = %%T
      default = 1
      ike = %d
      chd = %d
      cfg = 1
      flush_line = yes } }
}
swanctl { load = nonce random openssl pem x509 pkcs1 pkcs8 pkcs12 pubkey sha1 sha2 hmac aes gcm }
`, plugins, strings.Join(settings, "\n"), c.dir, level, level))
	c.env = []string{"STRONGSWAN_CONF=" + conf, "SWANCTL_DIR=" + c.dir + "/swanctl"}
	c.start(t)
	return c
}

func (c *Charon) start(t testing.TB) {
	t.Helper()
	_ = os.Remove(c.dir + "/vici")
	// The pid file is always in /run; `ip netns exec` gave us our own mount namespace.
	c.p = c.Host.Start(t, "charon", c.env, "sh", "-c", "mount -t tmpfs tmpfs /run && exec "+c.daemon)
	WaitFor(t, 30*time.Second, "charon answers", func() bool {
		_, err := c.Swanctl("--stats")
		return err == nil
	})
}

// Swanctl runs a swanctl command against this daemon.
func (c *Charon) Swanctl(command string, args ...string) (string, error) {
	all := append([]string{"env"}, c.env...)
	all = append(all, c.swanctl, command, "--uri", "unix://"+c.dir+"/vici")
	return c.Host.Run(append(all, args...)...)
}

// LoadAll replaces connections and secrets by those of this swanctl.conf text.
func (c *Charon) LoadAll(t testing.TB, conf string) {
	t.Helper()
	c.Host.Write(t, "charon/swanctl/swanctl.conf", conf)
	if _, err := c.Swanctl("--load-all"); err != nil {
		t.Fatal(err)
	}
}

// Initiate negotiates the child and returns when it is up, or an error.
func (c *Charon) Initiate(child string) error {
	_, err := c.Swanctl("--initiate", "--child", child, "--timeout", "20")
	return err
}

// Terminate closes SAs: "--ike", NAME or "--child", NAME; or "--rekey" like forms of swanctl.
func (c *Charon) Terminate(kind, name string) error {
	_, err := c.Swanctl("--terminate", kind, name, "--timeout", "10")
	return err
}

// Rekey replaces an SA: "--ike" or "--child", and its name; more may be "--reauth".
func (c *Charon) Rekey(kind, name string, more ...string) error {
	_, err := c.Swanctl("--rekey", append([]string{kind, name}, more...)...)
	return err
}

// Kill ends the daemon as a crash would.
func (c *Charon) Kill() { _, _ = c.p.End(syscall.SIGKILL) }

// Restart starts it again after Kill, with the same configuration.
func (c *Charon) Restart(t testing.TB) {
	t.Helper()
	// What a crashed charon leaves in the kernel is its own business, but its next start needs.
	_, _ = c.Host.Run("ip", "link", "del", "ipsec0")
	c.start(t)
	if _, err := c.Swanctl("--load-all"); err != nil {
		t.Fatal(err)
	}
}

// Log is what the daemon wrote so far.
func (c *Charon) Log() string { return c.p.Text() }

// A CharonSA is one IKE SA of `swanctl --list-sas`.
type CharonSA struct {
	Name, State              string
	InitiatorSPI, RemoteSPI  string // of the IKE SA: initiator's and responder's, 16 hex digits
	Encr, Integ, PRF, DHName string
	Children                 []CharonChild
}

// A CharonChild is one child SA.
type CharonChild struct {
	Name, State             string
	SPIIn, SPIOut           string // 8 hex digits
	Encap                   bool
	LocalTS, RemoteTS       string
	PacketsIn, PacketsOut   string
	Encr, EncrBits, EncrICV string
}

// SAs lists the daemon's IKE SAs with their children.
func (c *Charon) SAs(t testing.TB) []CharonSA {
	t.Helper()
	text, err := c.Swanctl("--list-sas", "--raw")
	if err != nil {
		t.Fatal(err)
	}
	return parseSAs(text)
}

// child is the first child of the connection; all zero if there is none.
func (c *Charon) child(t testing.TB, connection string) CharonChild {
	t.Helper()
	for _, sa := range c.SAs(t) {
		if sa.Name == connection && len(sa.Children) > 0 {
			return sa.Children[0]
		}
	}
	return CharonChild{}
}

// Established is how many children of that name are installed under an established IKE SA.
func (c *Charon) Established(t testing.TB, child string) int {
	t.Helper()
	n := 0
	for _, sa := range c.SAs(t) {
		for _, ch := range sa.Children {
			if sa.State == "ESTABLISHED" && ch.Name == child && ch.State == "INSTALLED" {
				n++
			}
		}
	}
	return n
}

// A viciSection is one nesting level of the raw output: `key=value`, `key=[list]`, `name {...}`.
type viciSection struct {
	name     string
	values   map[string]string
	sections []viciSection
}

func (s viciSection) find(name string) (viciSection, bool) {
	for _, sub := range s.sections {
		if sub.name == name {
			return sub, true
		}
	}
	return viciSection{}, false
}

func parseSAs(text string) []CharonSA {
	var sas []CharonSA
	for _, line := range strings.Split(text, "\n") {
		body, ok := strings.CutPrefix(line, "list-sa event {")
		if !ok {
			continue
		}
		root, _ := parseSection(body)
		for _, ike := range root.sections {
			sa := CharonSA{
				Name: ike.name, State: ike.values["state"],
				InitiatorSPI: ike.values["initiator-spi"], RemoteSPI: ike.values["responder-spi"],
				Encr: ike.values["encr-alg"], Integ: ike.values["integ-alg"],
				PRF: ike.values["prf-alg"], DHName: ike.values["dh-group"],
			}
			children, _ := ike.find("child-sas")
			for _, ch := range children.sections {
				v := ch.values
				sa.Children = append(sa.Children, CharonChild{
					Name: v["name"], State: v["state"], SPIIn: v["spi-in"], SPIOut: v["spi-out"],
					Encap: v["encap"] == "yes", LocalTS: v["local-ts"], RemoteTS: v["remote-ts"],
					PacketsIn: v["packets-in"], PacketsOut: v["packets-out"],
					Encr: v["encr-alg"], EncrBits: v["encr-keysize"], EncrICV: v["integ-alg"],
				})
			}
			sas = append(sas, sa)
		}
	}
	return sas
}

// parseSection reads up to the brace that closes the section and returns what follows it.
func parseSection(text string) (viciSection, string) {
	s := viciSection{values: map[string]string{}}
	for {
		text = strings.TrimLeft(text, " ")
		if text == "" {
			return s, ""
		}
		if text[0] == '}' {
			return s, text[1:]
		}
		end := strings.IndexAny(text, " =}")
		if end < 0 {
			return s, ""
		}
		name, rest := text[:end], text[end:]
		switch {
		case strings.HasPrefix(rest, " {"):
			sub, after := parseSection(rest[2:])
			sub.name = name
			s.sections = append(s.sections, sub)
			text = after
		case strings.HasPrefix(rest, "=["):
			value, after, _ := strings.Cut(rest[2:], "]")
			s.values[name] = value
			text = after
		case rest[0] == '=':
			stop := strings.IndexAny(rest, " }")
			if stop < 0 {
				stop = len(rest)
			}
			s.values[name] = rest[1:stop]
			text = rest[stop:]
		default:
			text = rest[1:]
		}
	}
}
