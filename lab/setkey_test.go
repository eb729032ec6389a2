package lab

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Two hosts that nobody negotiates for: glass and teapot, transport mode, manual keys.

// manualCipher is what a script says of one association.
type manualCipher struct{ name, algorithms string }

var manualCiphers = []manualCipher{
	{"3des-cbc + hmac-sha1", `-E 3des-cbc "twenty-four octets, all." -A hmac-sha1 "twenty octets for it"`},
	{"aes-cbc 128 + hmac-sha256", `-E aes-cbc 0x000102030405060708090a0b0c0d0e%02x -A hmac-sha256 "a key of 32 octets, for you two."`},
	{"aes-cbc 192 + hmac-sha1", `-E aes-cbc 0x000102030405060708090a0b0c0d0e0f10111213141516%02x -A hmac-sha1 "twenty octets for it"`},
	{"null + hmac-sha1", `-E null -A hmac-sha1 "twenty octets for it"`},
}

// glassAndTeapot is the script of one of two hosts: the same associations on both, and policies that change places.
func glassAndTeapot(c manualCipher, family string, spi int, here, there *Host) string {
	glass, teapot := here, there
	if here.label > there.label {
		glass, teapot = there, here
	}
	algorithms := func(n int) string {
		if strings.Contains(c.algorithms, "%") {
			return fmt.Sprintf(c.algorithms, n)
		}
		return c.algorithms
	}
	g, p := outer(glass, family), outer(teapot, family)
	return fmt.Sprintf("#!/sbin/setkey -f\nflush;\nspdflush;\n"+
		"add %[1]s %[2]s esp 0x%[3]x -m transport -r 4 %[4]s;\n"+
		"add %[2]s %[1]s esp 0x%[5]x -m transport %[6]s;\n"+
		"spdadd %[7]s %[8]s any -P out ipsec esp/transport//require;\n"+
		"spdadd %[8]s %[7]s any -P in ipsec esp/transport//require;\n",
		g, p, spi, algorithms(1), spi+1, algorithms(2), outer(here, family), outer(there, family))
}

// startScript starts a daemon with these files, and returns when it answers. A link named setkey to the program lies beside.
func startScript(t *testing.T, h *Host, files ...string) *Coati {
	t.Helper()
	c := &Coati{Host: h, Socket: h.Path("coati.sock"), Keys: h.Path("coati.keys"), binary: program(t), label: "coati"}
	if err := os.Symlink(c.binary, h.Path("setkey")); err != nil {
		t.Fatal(err)
	}
	args := []string{"run", "--control", c.Socket, "--log-level", "debug"}
	for _, f := range files {
		args = append(args, "--config", f)
	}
	c.p = h.Start(t, c.label, nil, append([]string{c.binary}, args...)...)
	answers := func() bool {
		_, err := c.Command("status")
		return err == nil
	}
	if !Within(10*time.Second, func() bool { return answers() || !c.p.Running() }) || !answers() {
		t.Fatalf("coati does not answer:\n%s", tail(c.p.Log, 20))
	}
	return c
}

// setkey runs the link of that name.
func (c *Coati) setkey(args ...string) (string, error) {
	return c.Host.Run(append([]string{c.Host.Path("setkey"), "--control", c.Socket}, args...)...)
}

func (c *Coati) mustSetkey(t *testing.T, args ...string) string {
	t.Helper()
	output, err := c.setkey(args...)
	if err != nil {
		t.Fatal(err)
	}
	return output
}

var allocated = regexp.MustCompile(`\tallocated: (\d+)\t`)

// still is a dump without what time changes.
var still = regexp.MustCompile(`(?m)^\t(created|diff):.*$`)

func TestGlassAndTeapot(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	results.Fill(t, peerCoati, roleBoth, caseManual)
	pair := NewPair(t)
	a, b := pair.A, pair.B
	before := [2]Machine{a.Machine(t), b.Machine(t)}
	// One of them has a file of its own beside the script, which asks for a key log.
	gateway := a.Write(t, "gateway.toml", fmt.Sprintf("[gateway]\nkeylog = %q\nqueues = 2\n", a.Path("coati.keys")))
	first := manualCiphers[0]
	glass := startScript(t, a, gateway, a.Write(t, "glass.setkey", glassAndTeapot(first, "IPv4", 0x1000, a, b)))
	teapot := startScript(t, b, b.Write(t, "teapot.setkey", glassAndTeapot(first, "IPv4", 0x1000, b, a)))
	capture := a.Capture(t)
	spi := 0x1000
	for _, family := range families {
		for _, c := range manualCiphers {
			if spi > 0x1000 {
				glass.mustSetkey(t, "-f", a.Write(t, "next.setkey", glassAndTeapot(c, family, spi, a, b)))
				teapot.mustSetkey(t, "-f", b.Write(t, "next.setkey", glassAndTeapot(c, family, spi, b, a)))
			}
			from, to := outer(a, family), outer(b, family)
			if lost := a.Ping(t, from, to, 3) + b.Ping(t, to, from, 3); lost != 0 {
				t.Errorf("%s, %s: %d pings of 6 lost", c.name, family, lost)
			}
			for _, seat := range []*Coati{glass, teapot} {
				var counts [][]string
				// A packet is counted when it has been handed on: its answer may be here before.
				if !Within(10*time.Second, func() bool {
					counts = allocated.FindAllStringSubmatch(seat.mustSetkey(t, "-D"), -1)
					return len(counts) == 2 && counts[0][1] == "6" && counts[1][1] == "6"
				}) {
					t.Errorf("%s, %s: setkey -D of %s counts %v, want twice 6", c.name, family, seat.Host.Name, counts)
				}
			}
			spi += 16
		}
	}
	capture.Stop(t)
	want := len(families) * len(manualCiphers) * 12
	if v := Judge(t, capture.File, glass.Keys); v.ESP != want || v.Opened != want || len(v.Clear)+len(v.Faults) > 0 {
		t.Errorf("%d packets of esp, %d opened, want %d; in clear %v, at fault %v", v.ESP, v.Opened, want, v.Clear, v.Faults)
	}

	badScripts(t, glass)
	if lost := a.Ping(t, a.Outer6, b.Outer6, 1); lost != 0 {
		t.Error("a script with a fault has changed something")
	}
	for _, seat := range []*Coati{glass, teapot} {
		seat.Alive(t)
		seat.Terminate(t)
	}
	for i, h := range []*Host{a, b} {
		if diff := cmp.Diff(before[i], h.Machine(t)); diff != "" {
			t.Errorf("left behind on %s:\n%s", h.Name, diff)
		}
	}
}

// badScripts change nothing, each with its one message, and exit with 1.
func badScripts(t *testing.T, c *Coati) {
	t.Helper()
	was := still.ReplaceAllString(c.mustSetkey(t, "-D"), "") + c.mustSetkey(t, "-DP")
	const sa = "flush; spdflush;\nadd 10.9.0.1 10.9.0.2 esp 0x%x -E %s 0x%s -A hmac-sha1 0x0102030405060708090a0b0c0d0e0f1011121314;\n"
	for _, bad := range []struct{ script, want string }{
		{fmt.Sprintf(sa, 4096, "aes-cbc", "000102030405060708090a0b0c0d0e"), ":2: add: aes-cbc takes 128, 192 or 256 bits, not 120"},
		{fmt.Sprintf(sa, 4096, "rot-13", "00"), `:2: add: "rot-13" is an unknown encryption algorithm: want one of `},
		{
			fmt.Sprintf(sa, 4096, "aes-cbc", strings.Repeat("00", 16)) + strings.TrimPrefix(fmt.Sprintf(sa, 4096, "aes-cbc", strings.Repeat("00", 16)), "flush; spdflush;\n"),
			":3: add: spi 0x00001000 for 10.9.0.2 is taken, at ",
		},
		{fmt.Sprintf(sa, 4096, "aes-cbc", strings.Repeat("00", 16)) + "spdadd 10.9.0.1 10.9.0.2 any -P out ipsec esp/transport//require", ":3: spdadd: the file ends before the statement does: a ';' is missing"},
		{"flush;\nadd 10.9.0.1 10.9.0.2 esp 0x1000 -E aes-gcm-16 \"a key of 16 octesalt\";", ":2: add: a fixed key with a counter mode repeats nonces after a restart (RFC 8221, section 3)"},
		{"flush;\nadd 10.9.0.7 10.9.0.8 esp 0x1000 -E null -A hmac-sha1 \"twenty octets for it\";", ":2: add: neither 10.9.0.7 nor 10.9.0.8 is an address of this host"},
	} {
		file := c.Host.Write(t, "bad.setkey", bad.script)
		output, err := c.setkey("-f", file)
		lines := strings.Split(strings.TrimSpace(output), "\n")
		if err == nil || len(lines) != 2 || !strings.HasPrefix(lines[0], file+bad.want) || lines[1] != "coati: the script has faults: nothing was changed" {
			t.Errorf("%s: %v\n%s", bad.want, err, output)
		}
	}
	if diff := cmp.Diff(was, still.ReplaceAllString(c.mustSetkey(t, "-D"), "")+c.mustSetkey(t, "-DP")); diff != "" {
		t.Errorf("faulty scripts changed something:\n%s", diff)
	}
}
