package lab

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What differs between two runs of one status.
var changing = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`pid \d+`), "pid PID"},
	{regexp.MustCompile(`up \d+s`), "up AGE"},
	{regexp.MustCompile(`age \d+s`), "age AGE"},
	{regexp.MustCompile(`spi [0-9a-f]{16} [0-9a-f]{16}`), "spi SPI SPI"},
	{regexp.MustCompile(`\b(0x)?[0-9a-f]{8}\b`), "SPI"},
	{regexp.MustCompile(`  +`), "  "},
	{regexp.MustCompile(`  \d+s  `), "  AGE  "},
	{regexp.MustCompile(`(?m)^  dropped: neighbour discovery stays on its link .*\n`), ""},
	{regexp.MustCompile(`/\S*/coati.keys`), "KEYS"},
	{regexp.MustCompile(`\d+ frames`), "N frames"},
	{regexp.MustCompile(`ciphers by \w+`), "ciphers by KERNEL"},
}

func steady(text string) string {
	for _, c := range changing {
		text = c.pattern.ReplaceAllString(text, c.with)
	}
	return text
}

// TestCommands is a person's morning with one tunnel: every command, what it prints, and its exit code.
func TestCommands(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	results.Fill(t, peerCoati, roleHost, caseCommands)
	pair := NewPair(t)
	a, b := pair.A, pair.B
	tunnel := Between(a, b)
	tunnel.Encap = "esp"
	left := NewCoati(t, a, tunnel)
	run := func(want string, args ...string) {
		t.Helper()
		output, err := left.Command(args...)
		code := "0"
		if err != nil {
			code = regexp.MustCompile(`exit status (\d)`).FindStringSubmatch(err.Error())[1]
		}
		if diff := cmp.Diff(want, steady(code+": "+output)); diff != "" {
			t.Errorf("coati %s (-want +got):\n%s", strings.Join(args, " "), diff)
		}
	}
	run("0: ok: 1 tunnel\n", "check", left.config)
	run("1: coati: no daemon answers at "+left.Socket+": start it with coati run, or name its socket with --control or COATI_SOCKET\n", "status")
	left.Start(t)
	right := StartCoati(t, b, tunnel.Reversed())

	const gateway = `0: gateway  coati0  pid PID  up AGE  mtu 1438  2 queues  offloads vnet-hdr, tso, uso, 2 queues
  ciphers by KERNEL
  udp 10.9.0.1:500  1 sockets  offloads gso, gro
  udp 10.9.0.1:4500  2 sockets  offloads gso, gro
  esp 10.9.0.1  1 sockets  offloads none
  queue 0  N frames out  N frames in
  queue 1  N frames out  N frames in
  keys are logged in KEYS
  guard: 0 packets

`
	const head = "  child  state  spi in  spi out  cipher  via  age  received  sent  dropped  traffic\n"
	const down = gateway + "peer  down  peer 10.9.0.2  waits for traffic, or coati up peer\n" + head +
		"  lan  down  -  -  -  -  -  -  -  -  10.1.0.0/24 - 10.2.0.0/24\n"
	run(down, "status")
	run("0: peer: up\n", "up", "peer")
	run("0: peer: up\n", "up", "peer")
	NoLoss(t, a, b, 4)
	const up = gateway + "peer  up\n" +
		"  ike  established  10.9.0.1:500 [10.9.0.1] - 10.9.0.2:500 [10.9.0.2]  spi SPI SPI  initiator  aes128gcm16-prfsha256-x25519  age AGE\n" + head +
		"  lan  up  SPI  SPI  aes128gcm16-esn  esp  AGE  4 packets 336 B  4 packets 336 B  none  10.1.0.0/24 - 10.2.0.0/24\n"
	run(up, "status")
	run(up, "status", "peer")
	run("1: coati: tunnel \"nobody\" is not configured: coati status shows those that are\n", "status", "nobody")
	before := left.Pairs(t)[0].In.SPI
	run("0: peer/lan: rekeying\n", "rekey", "peer/lan")
	WaitFor(t, 20*time.Second, "a new pair alone", func() bool {
		pairs := left.Pairs(t)
		return len(pairs) == 1 && pairs[0].In.SPI != before
	})
	ike := left.Status(t).Tunnels[0].IKE[0].LocalSPI
	run("0: peer: rekeying\n", "rekey", "peer")
	WaitFor(t, 20*time.Second, "a new IKE SA alone", func() bool {
		sas := left.Status(t).Tunnels[0].IKE
		return len(sas) == 1 && sas[0].LocalSPI != ike
	})
	NoLoss(t, a, b, 2)
	run("0: peer/lan: down\n", "down", "peer/lan")
	right.WaitPairs(t, 5*time.Second, 0)
	run("0: peer/lan: up\n", "up", "peer/lan")
	run("0: peer: down\n", "down", "peer")
	right.WaitPairs(t, 5*time.Second, 0)
	if n := right.IKESAs(t); n != 0 {
		t.Errorf("the peer still has %d IKE SAs", n)
	}
	run("1: coati: tunnel peer is not up\n", "rekey", "peer")
	for _, command := range []string{"up", "down", "rekey"} {
		run("1: coati: no such tunnel: \"nobody\" is not configured\n", command, "nobody")
		run("1: coati: no such tunnel: tunnel peer has no child \"nobody\"\n", command, "peer/nobody")
		run("2: coati: \"/lan\" names no tunnel: want NAME or NAME/CHILD, as coati status shows them\n", command, "/lan")
	}
	run("0: nothing to change\n", "reload")
	if output := left.Do(t, "version"); !regexp.MustCompile(`^coati \S+, go1\.\d+`).MatchString(output) {
		t.Errorf("coati version: %s", output)
	}
	// The variable names the socket as the option does; SIGHUP is a reload.
	output, err := a.Run("env", "COATI_SOCKET="+left.Socket, left.binary, "status")
	if err != nil || !strings.HasPrefix(output, "gateway  coati0  pid ") {
		t.Errorf("coati status with COATI_SOCKET: %v %s", err, output)
	}
	if err := left.p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	left.p.WaitText(t, 5*time.Second, "reloaded: nothing to change")
	left.Alive(t)
}

// TestRefusals: what a person may do wrong that no file shows. Each is one line, with exit code 2.
func TestRefusals(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	results.Fill(t, peerCoati, roleHost, caseRefusals)
	pair := NewPair(t)
	coati := NewCoati(t, pair.A, Between(pair.A, pair.B))
	elsewhere := Between(pair.A, pair.B)
	elsewhere.Local = pair.A.Outer4.Next().Next().Next()
	elsewhere.ControlLabel = "2"
	notHere := NewCoati(t, pair.A, elsewhere)
	twins := Between(pair.A, pair.B)
	twins.ControlLabel = "3"
	twins.More = "[tunnel.twin]\nremote = \"10.9.0.3\"\npsk-file = \"lab.psk\"\nlocal-ts = [\"10.1.0.0/24\"]\nremote-ts = [\"10.2.0.0/24\"]\n"
	twin := NewCoati(t, pair.A, twins)
	shared := Between(pair.A, pair.B)
	shared.ControlLabel = "4"
	open := NewCoati(t, pair.A, shared)
	open.config = pair.A.Write(t, "open.toml", "[tunnel.peer]\nremote = \"10.9.0.2\"\npsk-file = \"open.psk\"\nremote-ts = [\"10.2.0.0/24\"]\n")
	if err := os.Chmod(pair.A.Write(t, "open.psk", "secret\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	with := func(config string) *Coati {
		c := *coati
		c.config = config
		return &c
	}
	faulty := 0
	bad := func(text string) *Coati {
		faulty++
		return with(pair.A.Write(t, fmt.Sprintf("bad%d.toml", faulty), text))
	}
	const least = "[tunnel.peer]\nremote = \"10.9.0.2\"\npsk-file = \"lab.psk\"\nremote-ts = [\"10.2.0.0/24\"]\n"
	const noCaps = "coati: this needs CAP_NET_ADMIN and CAP_NET_RAW: run as root, or add --cap-add NET_ADMIN --cap-add NET_RAW to the container\n"
	before := pair.A.Machine(t)
	for _, c := range []struct {
		name    string
		coati   *Coati
		through []string
		want    string
	}{
		{
			"no CAP_NET_ADMIN", coati,
			[]string{"setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"},
			noCaps,
		},
		{
			"no CAP_NET_RAW", coati,
			[]string{"setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw"},
			noCaps,
		},
		{
			"not root", coati,
			[]string{"setpriv", "--reuid", "65534", "--clear-groups"},
			"coati.toml: may not be read by this user\n",
		},
		{
			"no /dev/net/tun", coati,
			[]string{"unshare", "-m", "sh", "-c", "mount -t tmpfs tmpfs /dev/net && exec \"$@\"", "sh"},
			"coati: /dev/net/tun is missing: load the tun module (modprobe tun), or add --device /dev/net/tun to the container\n",
		},
		{"an address that is not here", notHere, nil, "coati: udp 500 on 10.9.0.4: no interface has this address\n"},
		{"two tunnels that claim the same traffic", twin, nil, "coati3.toml:21: twin claims the same traffic as peer/lan at coati3.toml:15: 10.1.0.0/24 to 10.2.0.0/24\n"},
		{"a secret others may read", open, nil, "open.toml:3: psk-file open.psk: others may use it (mode 0644): run chmod 600, or set secrets-permissions = \"any\" in [gateway]\n"},
		{"no such file", with(pair.A.Path("missing.toml")), nil, "missing.toml: no such file\n"},
		{"no such secret", bad(strings.Replace(least, "lab.psk", "no.psk", 1)), nil, "bad1.toml:3: psk-file no.psk: no such file\n"},
		{"unknown key", bad(least + "dpdd = \"30s\"\n"), nil, "bad2.toml:5: unknown key \"dpdd\" in [tunnel.peer]: did you mean \"dpd\"\n"},
		{"wrong type", bad(least + "dpd = 30\n"), nil, "bad3.toml:5: dpd: wants a duration such as \"30s\", not a whole number: write \"30s\" for seconds\n"},
		{"impossible selector", bad(strings.Replace(least, "10.2.0.0/24", "10.2.0.1/24", 1)), nil, "bad4.toml:4: remote-ts: impossible selector: \"10.2.0.1/24\" has host bits set: did you mean 10.2.0.0/24\n"},
		{"unknown cipher", bad(least + "esp = [\"aes128gcm61\"]\n"), nil, "bad5.toml:5: esp: unknown algorithm \"aes128gcm61\" in proposal \"aes128gcm61\": did you mean \"aes128gcm8\"\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append(append([]string{}, c.through...), c.coati.binary, "run", "--config", c.coati.config, "--control", c.coati.Socket)
			output, err := pair.A.Run(args...)
			if err == nil || !strings.Contains(err.Error(), "exit status 2") {
				t.Errorf("want exit code 2: %v", err)
			}
			if diff := cmp.Diff(c.want, strings.ReplaceAll(output, pair.A.Path("")+"/", "")); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if diff := cmp.Diff(before, pair.A.Machine(t)); diff != "" {
				t.Errorf("the refused daemon left (-before +after):\n%s", diff)
			}
		})
	}
}
