package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"coati/gateway/control"
)

// Coati on the kernel's ESP, where nobody negotiates: scripts of setkey's at both ends, one in userspace and one on XFRM.

// kernelStates are the SPIs of the states a host's kernel has, without its notes of what it asked for.
func kernelStates(t *testing.T, h *Host) []string {
	t.Helper()
	var out []string
	for _, m := range regexp.MustCompile(`spi (0x[0-9a-f]{8})`).FindAllStringSubmatch(h.Must(t, "ip", "xfrm", "state"), -1) {
		if m[1] != "0x00000000" {
			out = append(out, m[1])
		}
	}
	slices.Sort(out)
	return out
}

// kernelPolicies are the policies a host's kernel has, but for those of sockets and of neighbour discovery.
func kernelPolicies(t *testing.T, h *Host) int {
	t.Helper()
	return strings.Count(h.Must(t, "ip", "xfrm", "policy"), "tmpl src")
}

// performed is what a script prints, without the program setkey: starting one takes long in the kernel.
func (c *Coati) performed(t *testing.T, text string) string {
	t.Helper()
	d, err := control.NewClient(c.Socket).Script(t.Context(), control.Script{File: "by-hand", Text: text})
	if err != nil || len(d.Faults) > 0 {
		t.Fatalf("%s: %v %v", text, err, d.Faults)
	}
	return d.Output
}

// same is a dump of setkey's as both ends must have it: what differs is the time, the process, the window of an end that
// only sends, and how octets are counted.
var same = regexp.MustCompile(`(?m)^\t(created|diff|last|current|sadb_seq|seq).*\n`)

func TestInKernelManualPlane(t *testing.T) {
	NeedKernel(t)
	results.Fill(t, peerXFRM, roleBoth, caseXFRMManual)
	pair := NewPair(t)
	a, b := pair.A, pair.B
	const firstSPI = 0x1000
	var left, right strings.Builder
	var all []kernelPeers
	for i, c := range manualPlaneCases() {
		p := peersOf(c.kernelCase, i)
		all = append(all, p)
		left.WriteString(c.script(p, firstSPI+2*i, "out", "in"))
		right.WriteString(c.script(p, firstSPI+2*i, "in", "out"))
	}
	addAddresses(t, pair, all...)
	conf := func(h *Host, plane string) string {
		return h.Write(t, "gateway.toml", fmt.Sprintf("[gateway]\nqueues = 1\nguard = false\nplane = %q\n", plane))
	}
	user := startScript(t, a, conf(a, "user"), a.Write(t, "manual.setkey", left.String()))
	kernel := startScript(t, b, conf(b, "xfrm"), b.Write(t, "manual.setkey", right.String()))
	if got := kernel.Status(t).Gateway.Plane; got != "kernel" {
		t.Fatalf("the plane is %s", got)
	}
	wantStates := len(manualPlaneCases()) * 2
	if got := kernelStates(t, b); len(got) != wantStates {
		t.Fatalf("the kernel has states %v, want %d", got, wantStates)
	}
	for i, c := range manualPlaneCases() {
		t.Run(strings.NewReplacer(" ", "-", ",", "").Replace(c.String()), func(t *testing.T) {
			sent := echoes(t, a, all[i].innerA, b, all[i].innerB, c.kernelCase) + echoes(t, b, all[i].innerB, a, all[i].innerA, c.kernelCase)
			var counts [2][3]int
			if !Within(10*time.Second, func() bool {
				ours, theirs := packetsOf(dumped, user.performed(t, "dump;")), packetsOf(dumped, kernel.performed(t, "dump;"))
				there := packetsOf(states, b.Must(t, "ip", "-s", "xfrm", "state"))
				equal := true
				for n := range counts {
					spi := fmt.Sprintf("0x%08x", firstSPI+2*i+n)
					counts[n] = [3]int{ours[spi], theirs[spi], there[spi]}
					equal = equal && counts[n][0] >= sent && counts[n][0] == counts[n][1] && counts[n][1] == counts[n][2]
				}
				return equal
			}) {
				t.Errorf("%d datagrams each way; userspace, setkey -D on XFRM and the kernel itself count %v", sent, counts)
			}
		})
	}
	// Associations and keys are the same at both ends, as each shows them.
	if diff := cmp.Diff(same.ReplaceAllString(user.mustSetkey(t, "-D"), ""), same.ReplaceAllString(kernel.mustSetkey(t, "-D"), "")); diff != "" {
		t.Errorf("setkey -D of the two ends:\n%s", diff)
	}
	inClear(t, pair, all)
	kernelRefuses(t, kernel)
	changedByHand(t, pair, user, kernel)
	user.Alive(t)
	kernel.Alive(t)
	kernel.Terminate(t)
	if left := b.Must(t, "ip", "xfrm", "state") + b.Must(t, "ip", "xfrm", "policy") + b.Must(t, "ip", "rule", "show"); strings.Contains(left, "esp") || strings.Contains(left, "dir ") || strings.Contains(left, "fwmark") {
		t.Errorf("coati on XFRM leaves:\n%s", left)
	}
	user.Terminate(t)
}

// inClear looks at what must not be protected, and at what must.
func inClear(t *testing.T, pair *Pair, all []kernelPeers) {
	a, b := pair.A, pair.B
	// The first tunnel of IPv4 in IPv4: an address that no policy covers, to one that a route leads to the TUN for.
	n := slices.IndexFunc(manualCases(), func(c manualCase) bool { return !c.transport && !c.inner6 && !c.outer6 })
	p := all[n]
	b.Must(t, "ip", "route", "add", p.innerA.String(), "dev", "eth0")
	if lost := unanswered(t, b, b.Outer4, a, p.innerA, 3); lost != 0 {
		t.Errorf("%d of 3 datagrams that no policy covers are lost", lost)
	}
	// Forged, in clear: from A's inner address past A's tunnel.
	f := forger{t: t, from: a, to: b, target: netip.AddrPortFrom(p.innerB, 7070)}
	stranger := netip.MustParseAddr("10.77.0.1")
	f.prepare(stranger, p.outerB)
	if got := f.send(stranger, 5); got != 5 {
		t.Errorf("%d of 5 packets that no policy covers were delivered", got)
	}
	before := mismatches(t, b)
	if got := f.send(p.innerA, 20); got != 0 {
		t.Errorf("%d of 20 forged packets were delivered", got)
	}
	if got := mismatches(t, b) - before; got != 20 {
		t.Errorf("the kernel counts %d forged packets, want 20", got)
	}
}

// mismatches are inbound packets that came otherwise than a policy says.
func mismatches(t *testing.T, h *Host) int {
	t.Helper()
	m := regexp.MustCompile(`XfrmInTmplMismatch\s+(\d+)`).FindStringSubmatch(h.Must(t, "cat", "/proc/net/xfrm_stat"))
	if m == nil {
		t.Fatal("the kernel does not count XfrmInTmplMismatch")
	}
	var n int
	_, _ = fmt.Sscan(m[1], &n)
	return n
}

// kernelRefuses: what the kernel plane has not is refused in one line, and nothing is changed.
func kernelRefuses(t *testing.T, c *Coati) {
	t.Helper()
	b := c.Host
	const key = "0x000102030405060708090a0b0c0d0e0f10111213"
	b.Must(t, "ip", "xfrm", "policy", "add", "src", "10.66.1.0/24", "dst", "10.66.2.0/24", "dir", "out", "action", "allow", "priority", "77")
	before := b.Must(t, "ip", "xfrm", "state") + b.Must(t, "ip", "xfrm", "policy")
	for text, want := range map[string]string{
		"add %s 10.99.0.1 esp 0x9001 -E aes-gcm-16 " + key + ";\n":                                                                                             `:2: add: a fixed key with a counter mode is carried in userspace only`,
		"add %s 10.99.0.1 esp 0x9001 -E aes-cbc 0x0102 -A hmac-sha1 " + key + ";\n":                                                                            `:2: `,
		"spdadd %[1]s 10.99.0.1 any -P out ipsec esp/transport//require;\nspdadd 10.1.2.3 10.99.0.0/16 any -P out ipsec esp/tunnel/%[1]s-10.99.0.1/require;\n": `:2: spdadd: the kernel cannot carry transport mode to 10.99.0.1/32 beside a tunnel to 10.99.0.0/16`,
		"spdadd 10.66.1.0/24 10.66.2.0/24 any -P out discard;\n":                                                                                               `the kernel has a policy of somebody else's for the same traffic, 10.66.1.0/24 to 10.66.2.0/24`,
	} {
		if strings.Contains(text, "%") {
			text = fmt.Sprintf(text, b.Outer4)
		}
		output, err := c.setkey("-f", b.Write(t, "refused.setkey", "spdadd 10.1.2.4 10.98.0.1 any -P out discard;\n"+text))
		if err == nil || !strings.Contains(output, want) {
			t.Errorf("%s%v\n%s\nwant %s", text, err, output, want)
		}
	}
	if diff := cmp.Diff(before, b.Must(t, "ip", "xfrm", "state")+b.Must(t, "ip", "xfrm", "policy")); diff != "" {
		t.Errorf("a refused script has changed the kernel:\n%s", diff)
	}
	b.Must(t, "ip", "xfrm", "policy", "delete", "src", "10.66.1.0/24", "dst", "10.66.2.0/24", "dir", "out")
}

// changedByHand deletes one by one and all at once; and associations without a mode become a tunnel's by a later policy.
func changedByHand(t *testing.T, pair *Pair, user, kernel *Coati) {
	t.Helper()
	a, b := pair.A, pair.B
	script := func(c *Coati, text string) {
		t.Helper()
		c.performed(t, text)
	}
	had := kernelStates(t, b)
	c := manualCases()[0]
	p := peersOf(c.kernelCase, 0)
	script(kernel, fmt.Sprintf("delete %s %s esp 0x1000;\nspddelete %[1]s %[2]s any -P in;\n", p.outerA, p.outerB))
	if got := kernelStates(t, b); len(got) != len(had)-1 || slices.Contains(got, "0x00001000") {
		t.Errorf("after a delete the kernel has %v", got)
	}
	for _, end := range []*Coati{user, kernel} {
		end.mustSetkey(t, "-F")
		end.mustSetkey(t, "-FP")
	}
	if got, rest := kernelStates(t, b), kernelPolicies(t, b); len(got)+rest != 0 {
		t.Errorf("after a flush the kernel has states %v and %d policies", got, rest)
	}
	if text := kernel.mustSetkey(t, "-D") + kernel.mustSetkey(t, "-DP"); text != "No SAD entries.\nNo SPD entries.\n" {
		t.Errorf("after a flush setkey says %q", text)
	}
	outer := kernelPeers{outerA: a.Outer4, outerB: b.Outer4, innerA: a.LAN4, innerB: b.LAN4}
	keys := fmt.Sprintf("add %[1]s %[2]s esp 0x2000 -E aes-cbc %[3]s -A hmac-sha256 %[4]s;\nadd %[2]s %[1]s esp 0x2001 -E aes-cbc %[5]s -A hmac-sha256 %[4]s;\n",
		outer.outerA, outer.outerB, c.key(16, 1), c.key(32, 2), c.key(16, 3))
	rules := func(there, back string) string {
		return fmt.Sprintf("spdadd %[1]s %[2]s any -P %[5]s ipsec esp/tunnel/%[3]s-%[4]s/require;\nspdadd %[2]s %[1]s any -P %[6]s ipsec esp/tunnel/%[4]s-%[3]s/require;\n",
			a.LAN4, b.LAN4, a.Outer4, b.Outer4, there, back)
	}
	script(user, keys)
	script(kernel, keys)
	if text := b.Must(t, "ip", "xfrm", "state"); strings.Count(text, "mode transport") != 2 {
		t.Errorf("without a policy the associations are for transport mode, not\n%s", text)
	}
	script(user, rules("out", "in"))
	script(kernel, rules("in", "out"))
	if text := b.Must(t, "ip", "xfrm", "state"); strings.Count(text, "mode tunnel") != 2 || strings.Contains(text, "mode transport") {
		t.Errorf("with one they are the tunnel's, not\n%s", text)
	}
	if lost := unanswered(t, a, a.LAN4, b, b.LAN4, 3) + unanswered(t, b, b.LAN4, a, a.LAN4, 3); lost != 0 {
		t.Errorf("%d of 6 datagrams lost", lost)
	}
	withoutKey(t, pair, kernel)
}

// withoutKey deletes the outbound key and changes the policy: use and none pass in clear, discard refuses.
func withoutKey(t *testing.T, pair *Pair, kernel *Coati) {
	t.Helper()
	a, b := pair.A, pair.B
	b.Must(t, "ip", "route", "add", a.LAN4.String(), "dev", "eth0", "src", b.LAN4.String())
	kernel.performed(t, fmt.Sprintf("deleteall %s %s esp;", b.Outer4, a.Outer4))
	update := func(what string) {
		t.Helper()
		kernel.performed(t, fmt.Sprintf("spdupdate %s %s any -P out %s;", b.LAN4, a.LAN4, what))
	}
	for _, what := range []string{fmt.Sprintf("ipsec esp/tunnel/%s-%s/use", b.Outer4, a.Outer4), "none"} {
		update(what)
		if lost := unanswered(t, b, b.LAN4, a, a.LAN4, 3); lost != 0 {
			t.Errorf("%s without a key: %d of 3 datagrams lost", what, lost)
		}
	}
	update("discard")
	err := b.Inside(func() error {
		c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(b.LAN4, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(a.LAN4, 9)))
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	if !errors.Is(err, unix.EPERM) {
		t.Errorf("discard: %v, want %v", err, unix.EPERM)
	}
}
