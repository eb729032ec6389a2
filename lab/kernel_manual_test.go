package lab

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A manualCase is a link with manual keys between Coati, which reads a script of setkey's, and the kernel, which ip(8) is
// told the same.
type manualCase struct {
	kernelCase
	encryption, integrity string // as setkey spells them
	enc, auth             string // as the kernel does
	encKey, authKey       int    // octets
	icv                   int    // bits
}

// manualCases: each cipher once in transport and once in tunnel mode, and every pair of families.
func manualCases() []manualCase {
	const (
		transport4 = wayTransport
		transport6 = wayTransport | wayOuter6
		tunnel44   = 0
		tunnel64   = wayInner6
		tunnel46   = wayOuter6
		tunnel66   = wayInner6 | wayOuter6
	)
	var out []manualCase
	for _, c := range []struct {
		ways [2]int
		manualCase
	}{
		{[2]int{transport4, tunnel64}, manualCase{encryption: "3des-cbc", integrity: "hmac-sha1", enc: "cbc(des3_ede)", auth: "hmac(sha1)", encKey: 24, authKey: 20, icv: 96}},
		{[2]int{transport6, tunnel46}, manualCase{encryption: "aes-cbc", integrity: "hmac-sha256", enc: "cbc(aes)", auth: "hmac(sha256)", encKey: 16, authKey: 32, icv: 128}},
		{[2]int{transport4, tunnel66}, manualCase{encryption: "aes-cbc", integrity: "hmac-sha1", enc: "cbc(aes)", auth: "hmac(sha1)", encKey: 24, authKey: 20, icv: 96}},
		{[2]int{transport6, tunnel44}, manualCase{encryption: "null", integrity: "hmac-sha1", enc: "ecb(cipher_null)", auth: "hmac(sha1)", authKey: 20, icv: 96}},
	} {
		for _, way := range c.ways {
			m := c.manualCase
			m.kernelCase = kernelCaseOf("", way)
			m.esp = fmt.Sprintf("manual keys, %s %d, %s:", m.encryption, 8*m.encKey, m.integrity)
			out = append(out, m)
		}
	}
	return out
}

// manualPlaneCases are manualCases and ESP in UDP, for which a socket must be open at either end.
func manualPlaneCases() []manualCase {
	out := manualCases()
	for _, way := range []int{wayTransport, 0, wayTransport | wayOuter6} {
		m := manualCase{encryption: "aes-cbc", integrity: "hmac-sha256", encKey: 32, authKey: 32}
		m.kernelCase = kernelCaseOf("", way|wayUDP)
		m.esp = "manual keys, aes-cbc 256, hmac-sha256:"
		out = append(out, m)
	}
	return out
}

// key is n octets that no other SA has.
func (c *manualCase) key(n int, spi int) string {
	var b strings.Builder
	b.WriteString("0x")
	for i := range n {
		fmt.Fprintf(&b, "%02x", byte(spi*7+i*29+n))
	}
	return b.String()
}

// setkey is Coati's end, on A.
func (c *manualCase) setkey(p kernelPeers, spi int) string { return c.script(p, spi, "out", "in") }

// script is either end: what A's policies call out is in for B.
func (c *manualCase) script(p kernelPeers, spi int, there, back string) string {
	mode, between := "transport", [2]string{}
	if !c.transport {
		mode, between = "tunnel", [2]string{p.outerA.String() + "-" + p.outerB.String(), p.outerB.String() + "-" + p.outerA.String()}
	}
	protocol := "esp"
	if c.udp {
		protocol = "esp-udp"
	}
	var b strings.Builder
	for i, ends := range [][2]netip.Addr{{p.outerA, p.outerB}, {p.outerB, p.outerA}} {
		fmt.Fprintf(&b, "add %s %s %s 0x%x -m %s -r 4 -E %s %s -A %s %s;\n", ends[0], ends[1], protocol, spi+i, mode,
			c.encryption, c.secret(c.encKey, spi+i), c.integrity, c.key(c.authKey, spi+i))
	}
	fmt.Fprintf(&b, "spdadd %s %s any -P %s ipsec esp/%s/%s/require;\n", p.innerA, p.innerB, there, mode, between[0])
	fmt.Fprintf(&b, "spdadd %s %s any -P %s ipsec esp/%s/%s/require;\n", p.innerB, p.innerA, back, mode, between[1])
	return b.String()
}

// secret is a key that NULL has not.
func (c *manualCase) secret(n, spi int) string {
	if n == 0 {
		return ""
	}
	return c.key(n, spi)
}

// xfrm is the kernel's end, on B: a batch for ip(8).
func (c *manualCase) xfrm(p kernelPeers, spi int) string {
	// A tunnel may carry the other family.
	mode, families := "tunnel", "flag af-unspec "
	if c.transport {
		mode, families = "transport", ""
	}
	var b strings.Builder
	for i, ends := range [][2]netip.Addr{{p.outerA, p.outerB}, {p.outerB, p.outerA}} {
		secret := c.secret(c.encKey, spi+i)
		if secret == "" {
			secret = `""`
		}
		fmt.Fprintf(&b, "xfrm state add src %s dst %s proto esp spi 0x%x mode %s replay-window 32 %sauth-trunc %s %s %d enc %s %s\n", ends[0], ends[1], spi+i, mode, families,
			c.auth, c.key(c.authKey, spi+i), c.icv, c.enc, secret)
	}
	for _, way := range []struct {
		dir                string
		from, to, src, dst netip.Addr
	}{{"in", p.innerA, p.innerB, p.outerA, p.outerB}, {"out", p.innerB, p.innerA, p.outerB, p.outerA}} {
		fmt.Fprintf(&b, "xfrm policy add src %s dst %s dir %s priority 10 tmpl src %s dst %s proto esp mode %s\n", way.from, way.to, way.dir, way.src, way.dst, mode)
	}
	return b.String()
}

var (
	dumped = regexp.MustCompile(`(?s)spi=\d+\((0x[0-9a-f]{8})\).*?\tallocated: (\d+)\t`)
	states = regexp.MustCompile(`(?s)spi (0x[0-9a-f]{8})\(.*?lifetime current:\s+\d+\(bytes\), (\d+)\(packets\)`)
)

// packetsOf reads how many packets each SPI has carried.
func packetsOf(pattern *regexp.Regexp, text string) map[string]int {
	out := map[string]int{}
	for _, m := range pattern.FindAllStringSubmatch(text, -1) {
		out[m[1]], _ = strconv.Atoi(m[2])
	}
	return out
}

// TestInKernelManualKeys has the kernel at the other end of links that nobody negotiates.
func TestInKernelManualKeys(t *testing.T) {
	NeedKernel(t)
	pair := NewPair(t)
	a, b := pair.A, pair.B
	const firstSPI = 0x1000
	var script, batch strings.Builder
	// The kernel's policies would keep neighbours from finding each other.
	for _, message := range []int{135, 136} {
		for _, dir := range []string{"in", "out"} {
			fmt.Fprintf(&batch, "xfrm policy add src ::/0 dst ::/0 proto ipv6-icmp type %d dir %s priority 1 action allow\n", message, dir)
		}
	}
	var all []kernelPeers
	for i, c := range manualCases() {
		p := peersOf(c.kernelCase, i)
		all = append(all, p)
		script.WriteString(c.setkey(p, firstSPI+2*i))
		batch.WriteString(c.xfrm(p, firstSPI+2*i))
	}
	addAddresses(t, pair, all...)
	for _, p := range all {
		if p.innerA != p.outerA {
			b.Must(t, "ip", "route", "add", p.innerA.String(), "dev", "eth0", "src", p.innerB.String())
		}
	}
	b.Must(t, "ip", "-b", b.Write(t, "xfrm", batch.String()))
	gateway := a.Write(t, "gateway.toml", "[gateway]\nqueues = 1\nguard = false\n")
	coati := startScript(t, a, gateway, a.Write(t, "manual.setkey", script.String()))
	for i, c := range manualCases() {
		t.Run(strings.NewReplacer(" ", "-", ",", "").Replace(c.String()), func(t *testing.T) {
			results.Fill(t, peerKernel, roleBoth, c.String())
			sent := echoes(t, a, all[i].innerA, b, all[i].innerB, c.kernelCase) + echoes(t, b, all[i].innerB, a, all[i].innerA, c.kernelCase)
			var counts [2][2]int
			if !Within(10*time.Second, func() bool {
				ours := packetsOf(dumped, coati.mustSetkey(t, "-D"))
				theirs := packetsOf(states, b.Must(t, "ip", "-s", "xfrm", "state"))
				for n := range counts {
					spi := fmt.Sprintf("0x%08x", firstSPI+2*i+n)
					counts[n] = [2]int{ours[spi], theirs[spi]}
				}
				return counts[0][0] == counts[0][1] && counts[1][0] == counts[1][1] && counts[0][0] >= sent && counts[1][0] >= sent
			}) {
				t.Errorf("%d datagrams each way; coati counts %d out and %d in, the kernel %d in and %d out", sent, counts[0][0], counts[1][0], counts[0][1], counts[1][1])
			}
		})
	}
	coati.Alive(t)
}
