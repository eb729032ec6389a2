package bench

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"coati/esp/batch"
)

const (
	upLimit = 15 * time.Second
	psk     = "a secret of the bench"
	// wireguardMTU is what fits into 1,500 octets over IPv4: 20 + 8 + 32 less. wg-quick's 1,420 leaves room for IPv6.
	wireguardMTU  = 1440
	wireguardPort = 51820
	charonProgram = "/usr/lib/ipsec/charon"
	// insecureNull is what makes a gateway leave the cipher out.
	insecureNull = "COATI_INSECURE_NULL_CIPHER=1"
)

// Names of the contenders.
const (
	Coati      = "coati"
	CoatiNull  = "coati-null"
	CoatiRaw   = "coati-raw"
	WireGuard  = "wireguard-go"
	StrongSwan = "strongswan"
	Bare       = "bare"
)

// Contender is one who carries the traffic, as the report names it.
type Contender struct {
	Name     string   `json:"name"`
	Version  string   `json:"version"`
	Command  string   `json:"command,omitempty"`
	Cipher   string   `json:"cipher"`
	Carrier  string   `json:"carrier"`
	Device   string   `json:"device"`
	MTU      int      `json:"mtu"`
	Offloads []string `json:"offloads"`
	// IdleMemory is the resident memory of one gateway with one idle tunnel, octets.
	IdleMemory int64 `json:"idle_memory,omitempty"`
}

// contender is a Contender that is up.
type contender struct {
	Contender
	a, b     *host
	gateways []*process         // none: nothing to pay for
	rates    map[string]float64 // the last rate found, by measure
	// env is what a gateway on a host has in its environment, beside ours; nil: nothing.
	env func(*host) []string
}

// errMissing is for a peer that is not installed.
var errMissing = errors.New("is not installed")

// startContender brings up one contender on a pair of hosts of its own.
func startContender(ctx context.Context, g *ground, name string) (*contender, error) {
	starters := map[string]func(context.Context, *contender) error{
		Coati:      func(ctx context.Context, c *contender) error { return startCoati(ctx, c, "udp", false) },
		CoatiNull:  func(ctx context.Context, c *contender) error { return startCoati(ctx, c, "udp", true) },
		CoatiRaw:   func(ctx context.Context, c *contender) error { return startCoati(ctx, c, "esp", false) },
		WireGuard:  startWireGuard,
		StrongSwan: startStrongSwan,
		Bare:       startBare,
	}
	start := starters[name]
	if start == nil {
		return nil, unknown("contender", name, allContenders)
	}
	c := &contender{Contender: Contender{Name: name}, rates: map[string]float64{}}
	var err error
	if c.a, c.b, err = g.newPair(name); err != nil {
		return nil, err
	}
	if err := start(ctx, c); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := c.reachable(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := c.describe(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

// reachable waits for the first ping to come back.
func (c *contender) reachable(ctx context.Context) error {
	deadline := time.Now().Add(upLimit)
	for {
		_, err := c.a.run("ping", "-n", "-q", "-c", "1", "-W", "1", "-I", c.a.lan.String(), c.b.lan.String())
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		for _, p := range c.gateways {
			if !p.running() {
				return fmt.Errorf("a gateway has ended: %s", lastLines(p.text(), 3))
			}
		}
		if time.Now().After(deadline) {
			text := "nothing came back through the tunnel"
			for _, p := range c.gateways {
				text += "; " + lastLines(p.text(), 2)
			}
			return errors.New(text)
		}
	}
}

func (c *contender) describe() error {
	text, err := c.a.run("cat", "/sys/class/net/"+c.Device+"/mtu")
	if err != nil {
		return err
	}
	if c.MTU == 0 {
		c.MTU, _ = strconv.Atoi(strings.TrimSpace(text))
	}
	features, err := c.a.run("ethtool", "-k", c.Device)
	if err != nil {
		return fmt.Errorf("cannot read the offloads: %w", err)
	}
	c.Offloads = append(c.Offloads, parseOffloads(features)...)
	for _, p := range c.gateways {
		if memory, err := resident(p.pid); err == nil {
			c.IdleMemory = max(c.IdleMemory, memory)
		}
	}
	return nil
}

var shownOffloads = []string{
	"tx-checksumming", "tcp-segmentation-offload", "tx-udp-segmentation", "generic-segmentation-offload", "generic-receive-offload",
}

// parseOffloads lists those of ethtool's features that are on and matter here.
func parseOffloads(text string) (on []string) {
	for line := range strings.SplitSeq(text, "\n") {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		for _, shown := range shownOffloads {
			if name == shown && strings.HasPrefix(strings.TrimSpace(value), "on") {
				on = append(on, name)
			}
		}
	}
	return on
}

func (c *contender) spent() (time.Duration, error) {
	var sum time.Duration
	for _, p := range c.gateways {
		t, err := cpuTime(p.pid)
		if err != nil {
			return 0, fmt.Errorf("%s has ended: %s", c.Name, lastLines(p.text(), 3))
		}
		sum += t
	}
	return sum, nil
}

func startBare(_ context.Context, c *contender) error {
	c.Version, c.Cipher, c.Carrier, c.Device = "the kernel alone", "none", "the veth link", "eth0"
	for _, e := range [][2]*host{{c.a, c.b}, {c.b, c.a}} {
		from, to := e[0], e[1]
		if err := from.each(fmt.Sprintf("ip route add %s via %s src %s", to.lanNet, to.outer, from.lan)); err != nil {
			return err
		}
	}
	return nil
}

func startCoati(ctx context.Context, c *contender, encap string, null bool) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	c.Cipher, c.Carrier, c.Device = "AES-128-GCM", "ESP in UDP", "coati0"
	if encap == "esp" {
		c.Carrier = "ESP, protocol 50"
	}
	if kernel, _ := batch.Kernel(); kernel != "" {
		c.Cipher += " by " + kernel
	}
	var env []string
	if null {
		c.Cipher, env = "left out", []string{insecureNull}
	}
	for _, e := range [][2]*host{{c.a, c.b}, {c.b, c.a}} {
		own := env
		if c.env != nil {
			own = append(slices.Clone(env), c.env(e[0])...)
		}
		if err := c.startGateway(ctx, program, own, e[0], e[1], encap); err != nil {
			return err
		}
	}
	version, err := run(program, "version")
	if err != nil {
		return err
	}
	c.Version = strings.TrimSpace(version)
	c.Command = strings.Join(append(env, "coati run --config FILE"), " ")
	for line := range strings.SplitSeq(c.gateways[0].text(), "\n") {
		if strings.Contains(line, "ready") {
			c.MTU, c.Offloads = parseReady(line)
		}
	}
	return nil
}

func (c *contender) startGateway(ctx context.Context, program string, env []string, from, to *host, encap string) error {
	socket := filepath.Join(from.dir, "coati.sock")
	conf := fmt.Sprintf(`[gateway]
tun = "coati0"
control = %q

[tunnel.peer]
local = %q
remote = %q
psk-file = "bench.psk"
encap = %q

[[tunnel.peer.child]]
name = "lan"
local-ts = [%q]
remote-ts = [%q]
esp = ["aes128gcm16"]
`, socket, from.outer, to.outer, encap, from.lanNet, to.lanNet)
	if err := from.write("bench.psk", psk+"\n"); err != nil {
		return err
	}
	if err := from.write("coati.toml", conf); err != nil {
		return err
	}
	p, err := from.start("coati", env, "", program, "run", "--config", filepath.Join(from.dir, "coati.toml"), "--control", socket)
	if err != nil {
		return err
	}
	c.gateways = append(c.gateways, p)
	return p.await(ctx, upLimit, "coati run", func() bool { return strings.Contains(p.text(), "msg=ready") })
}

// parseReady reads MTU and offloads from the gateway's first line of log.
func parseReady(line string) (mtu int, offloads []string) {
	_, rest, _ := strings.Cut(line, "mtu=")
	value, _, _ := strings.Cut(rest, " ")
	mtu, _ = strconv.Atoi(value)
	if _, rest, ok := strings.Cut(line, `offload="`); ok {
		value, _, _ := strings.Cut(rest, `"`)
		offloads = append(offloads, value)
	}
	return mtu, offloads
}

func (h *host) write(name, text string) error {
	path := filepath.Join(h.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o600)
}

func startWireGuard(ctx context.Context, c *contender) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	c.Cipher, c.Carrier, c.Device = "ChaCha20-Poly1305", "WireGuard in UDP", "wg0"
	c.Version = "golang.zx2c4.com/wireguard " + moduleVersion("golang.zx2c4.com/wireguard")
	c.Command = "its device with its own TUN and bind, in a process of its own: coati bench wireguard-peer"
	hosts := [2]*host{c.a, c.b}
	var private, public [2]string
	for i := range hosts {
		key, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		private[i], public[i] = fmt.Sprintf("%x", key.Bytes()), fmt.Sprintf("%x", key.PublicKey().Bytes())
	}
	for i, h := range hosts {
		other := hosts[1-i]
		settings, err := json.Marshal(WireGuardPeer{
			Device: c.Device, MTU: wireguardMTU,
			Settings: fmt.Sprintf("private_key=%s\nlisten_port=%d\npublic_key=%s\nendpoint=%s:%d\nallowed_ip=%s\n",
				private[i], wireguardPort, public[1-i], other.outer, wireguardPort, other.lanNet),
		})
		if err != nil {
			return err
		}
		p, err := h.start("wireguard", nil, string(settings), program, "bench", "wireguard-peer")
		if err != nil {
			return err
		}
		c.gateways = append(c.gateways, p)
		if err := p.await(ctx, upLimit, "wireguard-go", func() bool { return strings.Contains(p.text(), wireguardReady) }); err != nil {
			return err
		}
		if err := h.each("ip link set wg0 up", fmt.Sprintf("ip route add %s dev wg0 src %s", other.lanNet, h.lan)); err != nil {
			return err
		}
	}
	return nil
}

func moduleVersion(path string) string {
	info, _ := debug.ReadBuildInfo()
	if info != nil {
		for _, m := range info.Deps {
			if m.Path == path {
				return m.Version
			}
		}
	}
	return "of unknown version"
}

// kernel-libipsec, ESP in userspace, must come before kernel-netlink: the first one serves.
const strongSwanConf = `charon {
  load = nonce random openssl kdf hmac sha1 sha2 aes gcm curve25519 pem kernel-libipsec kernel-netlink socket-default vici updown
  load_modular = no
  plugins { vici { socket = unix://%[1]s/vici } }
  filelog { stderr { default = 0
      flush_line = yes } }
}
swanctl { load = nonce random openssl pem sha1 sha2 hmac aes gcm }
`

const swanctlConf = `connections {
  t { version = 2
      local_addrs = %[1]s
      remote_addrs = %[2]s
      proposals = aes128gcm16-prfsha256-x25519
      rekey_time = 24h
      local { auth = psk
              id = %[1]s }
      remote { auth = psk
               id = %[2]s }
      children { lan { local_ts = %[3]s
                       remote_ts = %[4]s
                       esp_proposals = aes128gcm16
                       rekey_time = 24h } } }
}
secrets { ike { secret = "%[5]s" } }
`

func startStrongSwan(ctx context.Context, c *contender) error {
	if _, err := os.Stat(charonProgram); err != nil {
		return fmt.Errorf("%w: apt-get install strongswan-charon strongswan-swanctl libcharon-extra-plugins", errMissing)
	}
	c.Cipher, c.Carrier, c.Device = "AES-128-GCM", "ESP in UDP", "ipsec0"
	if _, err := exec.LookPath("swanctl"); err != nil {
		return fmt.Errorf("swanctl %w: apt-get install strongswan-swanctl", errMissing)
	}
	version, err := run(charonProgram, "--version")
	if err != nil {
		return err
	}
	c.Version, c.Command = strings.TrimSpace(version), "charon with kernel-libipsec, ESP in userspace"
	for _, e := range [][2]*host{{c.a, c.b}, {c.b, c.a}} {
		if err := c.startCharon(ctx, e[0], e[1]); err != nil {
			return err
		}
	}
	_, err = c.swanctl(c.a, "--initiate", "--child", "lan", "--timeout", "20")
	return err
}

func (c *contender) startCharon(ctx context.Context, from, to *host) error {
	if err := from.write("strongswan.conf", fmt.Sprintf(strongSwanConf, from.dir)); err != nil {
		return err
	}
	for folder := range strings.FieldsSeq("x509 x509ca x509ocsp x509aa x509ac x509crl pubkey private rsa ecdsa bliss pkcs8 pkcs12 conf.d") {
		if err := os.MkdirAll(filepath.Join(from.dir, "swanctl", folder), 0o700); err != nil {
			return err
		}
	}
	if err := from.write("swanctl/swanctl.conf", fmt.Sprintf(swanctlConf, from.outer, to.outer, from.lanNet, to.lanNet, psk)); err != nil {
		return err
	}
	// The pid file is always in /run; `ip netns exec` gave the program a mount namespace of its own.
	p, err := from.start("charon", swanEnv(from), "", "sh", "-c", "mount -t tmpfs tmpfs /run && exec "+charonProgram)
	if err != nil {
		return err
	}
	c.gateways = append(c.gateways, p)
	if err := p.await(ctx, upLimit, "charon", func() bool { _, err := c.swanctl(from, "--stats"); return err == nil }); err != nil {
		return err
	}
	_, err = c.swanctl(from, "--load-all")
	return err
}

func swanEnv(h *host) []string {
	return []string{"STRONGSWAN_CONF=" + h.dir + "/strongswan.conf", "SWANCTL_DIR=" + h.dir + "/swanctl"}
}

func (c *contender) swanctl(h *host, command string, args ...string) (string, error) {
	all := append(append([]string{"env"}, swanEnv(h)...), "swanctl", command, "--uri", "unix://"+h.dir+"/vici")
	return h.run(append(all, args...)...)
}
