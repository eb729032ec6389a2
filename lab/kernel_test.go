package lab

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"coati/gateway/control"
	"coati/policy"
	"coati/policy/planetest"
	"coati/tun/xfrm"
)

// TestKernel runs what needs a kernel with ESP, in one boot.
func TestKernel(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	start := time.Now()
	limit, environment := 12*time.Minute, []string(nil)
	matrix := os.Getenv(matrixVariable)
	if matrix != "" {
		limit, environment = 40*time.Minute, []string{matrixVariable + "=1"}
	}
	boot := BootTests(t, "^TestInKernel", limit, environment...)
	if matrix != "" {
		page := fmt.Sprintf("%s\nMade by `make matrix` on %s, in %.0f s.\n\n%s", kernelMatrixHead, time.Now().UTC().Format(time.DateOnly), time.Since(start).Seconds(),
			kernelMatrix(boot.Outcome))
		if err := os.WriteFile(matrix, []byte(page), 0o644); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d cells in one boot of %.0f s", len(boot.Cells), time.Since(start).Seconds())
	for _, cell := range kernelCells() {
		t.Run(strings.NewReplacer(" ", "-", ",", "").Replace(cell.Case), func(t *testing.T) {
			results.Fill(t, cell.Peer, cell.Role, cell.Case)
			if outcome := boot.Outcome(cell); !strings.HasPrefix(outcome, "ok") {
				t.Errorf("in the kernel: %s", cmp.Or(outcome, "not tried"))
			}
		})
	}
}

const kernelMatrixHead = `# The kernel's ESP at the other end: everything

One boot of User Mode Linux (Debian 12's user-mode-linux, one processor): Coati in userspace negotiates with Coati on XFRM, which writes the
kernel's states, and the kernel moves every packet of its end. Each cell is a tunnel of its own, all of one daemon at each end; datagrams of 1 to
1,300 octets go there and back, and the counters of both ends must be equal. Each cipher has its longest key.
`

func TestInKernelPlane(t *testing.T) {
	NeedKernel(t)
	results.Fill(t, peerXFRM, roleBoth, casePlaneTest)
	host := NewPair(t).A
	planetest.Run(t, func(t testing.TB) policy.Plane {
		var p *xfrm.Plane
		err := host.Inside(func() (err error) {
			p, err = xfrm.Open(xfrm.Config{Name: "coati0"})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
			if left := host.Must(t, "ip", "xfrm", "state") + host.Must(t, "ip", "xfrm", "policy"); left != "" {
				t.Errorf("a closed plane leaves:\n%s", left)
			}
		})
		return p
	})
}

// TestInKernelESP has Coati in userspace negotiate with Coati on XFRM, so that each way of carrying traffic meets the
// kernel's ESP; one tunnel for each, all at once.
func TestInKernelESP(t *testing.T) {
	NeedKernel(t)
	cases := kernelCases()
	fill := func(t *testing.T, c kernelCase) { results.Fill(t, peerKernel, roleInitiator, c.String()) }
	againstKernel(t, cases, fill)
}

// kernelPeers are the addresses of one case.
type kernelPeers struct{ outerA, outerB, innerA, innerB netip.Addr }

func peersOf(c kernelCase, n int) kernelPeers {
	v4 := func(side, what int) netip.Addr {
		return netip.AddrFrom4([4]byte{10, byte(what + side), byte(n >> 8), byte(n)})
	}
	v6 := func(side, what int) netip.Addr {
		return netip.MustParseAddr(fmt.Sprintf("fd%d::%x:%x", what, side, n+1))
	}
	p := kernelPeers{v4(1, 20), v4(2, 20), v4(1, 30), v4(2, 30)}
	if c.outer6 {
		p.outerA, p.outerB = v6(1, 20), v6(2, 20)
	}
	if c.inner6 {
		p.innerA, p.innerB = v6(1, 30), v6(2, 30)
	}
	if c.transport {
		p.innerA, p.innerB = p.outerA, p.outerB
	}
	return p
}

func (p kernelPeers) reversed() kernelPeers {
	return kernelPeers{p.outerB, p.outerA, p.innerB, p.innerA}
}

func kernelTunnel(c kernelCase, n int, p kernelPeers) string {
	encap, mode := "esp", ""
	if c.udp {
		encap = "udp"
	}
	if c.transport {
		mode = "mode = \"transport\"\n"
	}
	return fmt.Sprintf("[tunnel.t%d]\nlocal = %q\nremote = %q\npsk-file = \"lab.psk\"\nencap = %q\nike = [%q]\n[[tunnel.t%d.child]]\nname = \"lan\"\n%slocal-ts = [%q]\nremote-ts = [%q]\nesp = [%q]\n\n",
		n, p.outerA, p.outerB, encap, usualIKE, n, mode, p.innerA, p.innerB, c.esp)
}

func againstKernel(t *testing.T, cases []kernelCase, fill func(*testing.T, kernelCase)) {
	pair := NewPair(t)
	a, b := pair.A, pair.B
	var left, right strings.Builder
	var all []kernelPeers
	for i, c := range cases {
		p := peersOf(c, i)
		all = append(all, p)
		left.WriteString(kernelTunnel(c, i, p))
		right.WriteString(kernelTunnel(c, i, p.reversed()))
	}
	addAddresses(t, pair, all...)
	user, kernel := startKernelPair(t, pair, left.String(), right.String())
	for i, c := range cases {
		t.Run(strings.ReplaceAll(c.String(), " ", "-"), func(t *testing.T) {
			fill(t, c)
			p := peersOf(c, i)
			sent := echoes(t, a, p.innerA, b, p.innerB, c)
			var ours, theirs control.Pair
			// A packet is counted when it has been handed on: its answer may be here before.
			equal := Within(10*time.Second, func() bool {
				ours, theirs = pairOf(t, user, i), pairOf(t, kernel, i)
				return ours.Out.Packets == theirs.In.Packets && ours.In.Packets == theirs.Out.Packets && ours.Out.Packets >= uint64(sent) && ours.In.Packets >= uint64(sent)
			})
			if ours.Proposal != c.esp || ours.Encap != map[bool]string{false: "esp", true: "udp"}[c.udp] {
				t.Errorf("negotiated %s in %s", ours.Proposal, ours.Encap)
			}
			if !equal {
				t.Errorf("%d datagrams each way: userspace counts %d out and %d in, the kernel %d in and %d out", sent, ours.Out.Packets, ours.In.Packets, theirs.In.Packets, theirs.Out.Packets)
			}
			if len(ours.In.Drops)+len(ours.Out.Drops)+len(theirs.In.Drops) != 0 {
				t.Errorf("drops: %v %v %v", ours.In.Drops, ours.Out.Drops, theirs.In.Drops)
			}
		})
	}
	user.Alive(t)
	kernel.Alive(t)
}

// startKernelPair starts Coati in userspace on A, and on XFRM on B.
func startKernelPair(t *testing.T, pair *Pair, left, right string) (user, kernel *Coati) {
	t.Helper()
	return startPlane(t, pair, pair.A, "user", left), startPlane(t, pair, pair.B, "xfrm", right)
}

// startPlane starts Coati with these tunnels. Its guard is off: nftables here has no tables for both families.
func startPlane(t *testing.T, pair *Pair, h *Host, plane, tunnels string) *Coati {
	t.Helper()
	c := NewCoati(t, h, Between(pair.A, pair.B))
	h.Write(t, c.label+".toml", fmt.Sprintf("[gateway]\ncontrol = %q\nqueues = 1\nguard = false\nplane = %q\n\n%s", c.Socket, plane, tunnels))
	c.Start(t)
	if got := c.Status(t).Gateway.Plane; got != map[string]string{"user": "userspace", "xfrm": "kernel", "auto": "kernel"}[plane] {
		t.Fatalf("plane %q: the status says %s", plane, got)
	}
	return c
}

// addAddresses gives both hosts the addresses of these cases, all in one call.
func addAddresses(t *testing.T, pair *Pair, peers ...kernelPeers) {
	t.Helper()
	for _, side := range []struct {
		h  *Host
		of func(kernelPeers) (outer, inner netip.Addr)
	}{
		{pair.A, func(p kernelPeers) (netip.Addr, netip.Addr) { return p.outerA, p.innerA }},
		{pair.B, func(p kernelPeers) (netip.Addr, netip.Addr) { return p.outerB, p.innerB }},
	} {
		var batch strings.Builder
		for _, p := range peers {
			outer, inner := side.of(p)
			bits, nodad := 8, ""
			if outer.Is6() {
				bits, nodad = 16, "nodad"
			}
			fmt.Fprintf(&batch, "addr add %s/%d dev eth0 %s\n", outer, bits, nodad)
			if inner != outer {
				fmt.Fprintf(&batch, "addr add %s dev lo\n", inner)
			}
		}
		mustRun(t, "ip", "-n", side.h.Name, "-b", side.h.Write(t, "addresses", batch.String()))
	}
}

// echoSizes are of the datagrams, octets: with and without padding, and nearly as large as fits.
var echoSizes = []int{1, 8, 63, 64, 500, 1300}

// echoes sends datagrams that come back, one after the other, and says how many did.
func echoes(t *testing.T, a *Host, from netip.Addr, b *Host, to netip.Addr, c kernelCase) int {
	t.Helper()
	sizes := echoSizes
	if c.outer6 && c.udp {
		// Linux drops ESP in UDP over IPv6 of less than 40 octets: it counts the header of IPv6 twice.
		sizes = sizes[1:]
	}
	server, client := echoServer(t, a, from, b, to)
	defer client.Close()
	defer server.Close()
	sent := 0
	buffer := make([]byte, 2048)
	for _, size := range sizes {
		message := []byte(strings.Repeat("coati", size/5+1)[:size])
		// A repetition is counted: what is lost between the ends makes their counters differ.
		back := Within(20*time.Second, func() bool {
			sent++
			if _, err := client.Write(message); err != nil {
				t.Fatal(err)
			}
			_ = client.SetReadDeadline(time.Now().Add(5 * time.Second))
			n, err := client.Read(buffer)
			return err == nil && string(buffer[:n]) == string(message)
		})
		if !back {
			t.Fatalf("%d octets do not come back", size)
		}
	}
	if sent > len(sizes) {
		t.Logf("%d datagrams had to be sent again", sent-len(sizes))
	}
	return len(sizes)
}

// echoServer gives back what comes to it; client is connected to it.
func echoServer(t *testing.T, a *Host, from netip.Addr, b *Host, to netip.Addr) (server, client *net.UDPConn) {
	t.Helper()
	err := errors.Join(
		b.Inside(func() (err error) {
			server, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, streamPort)))
			return err
		}),
		a.Inside(func() (err error) {
			client, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, streamPort)))
			return err
		}))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		buffer := make([]byte, 2048)
		for {
			n, from, err := server.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			_, _ = server.WriteToUDPAddrPort(buffer[:n], from) // a lost answer is missed at the other end
		}
	}()
	return server, client
}

// pairOf is the one pair of SAs of tunnel tN.
func pairOf(t *testing.T, c *Coati, n int) control.Pair {
	t.Helper()
	for _, tunnel := range c.Status(t).Tunnels {
		if tunnel.Name == fmt.Sprintf("t%d", n) {
			if sas := tunnel.Children[0].SAs; len(sas) == 1 {
				return sas[0]
			}
			t.Fatalf("tunnel %s on %s has %d pairs of SAs, want 1", tunnel.Name, c.Host.Name, len(tunnel.Children[0].SAs))
		}
	}
	t.Fatalf("no tunnel t%d on %s", n, c.Host.Name)
	return control.Pair{}
}

// TestInKernelRekeys rekeys from both ends while both send.
func TestInKernelRekeys(t *testing.T) {
	NeedKernel(t)
	results.Fill(t, peerXFRM, roleBoth, caseXFRMRekeys)
	pair := NewPair(t)
	a, b := pair.A, pair.B
	conf := func(from, to *Host) string {
		return kernelTunnel(kernelCase{esp: "aes128gcm16-esn", udp: true}, 0, kernelPeers{from.Outer4, to.Outer4, from.LAN4, to.LAN4})
	}
	user, kernel := startKernelPair(t, pair, conf(a, b), conf(b, a))
	if lost := unanswered(t, b, b.LAN4, a, a.LAN4, 3); lost != 0 {
		t.Errorf("%d of the first 3 datagrams lost", lost)
	}
	out, back := StartStream(t, a, a.LAN4, b, b.LAN4, 100, 500), StartStream(t, b, b.LAN4, a, a.LAN4, 100, 500)
	spis := map[string]bool{}
	for _, end := range []*Coati{user, kernel, user, kernel} {
		spi := pairOf(t, user, 0).In.SPI
		if spis[spi] {
			t.Fatalf("spi %s a second time", spi)
		}
		spis[spi] = true
		end.Do(t, "rekey", "t0/lan")
		WaitFor(t, 20*time.Second, "new SAs alone", func() bool {
			ours, theirs := user.Pairs(t), kernel.Pairs(t)
			return len(ours) == 1 && len(theirs) == 1 && ours[0].In.SPI != spi && ours[0].In.Packets > 3 && theirs[0].In.Packets > 3
		})
	}
	out.Stop().Undisturbed(t)
	back.Stop().Undisturbed(t)
	// A state without an SPI is the kernel's note that it asked. Replaced inbound SAs stay for late packets.
	states := func() int {
		text := b.Must(t, "ip", "xfrm", "state")
		return strings.Count(text, "proto esp spi") - strings.Count(text, "proto esp spi 0x00000000")
	}
	WaitFor(t, 60*time.Second, "two states alone", func() bool { return states() == 2 })
	kernel.Do(t, "down", "t0")
	WaitFor(t, 60*time.Second, "no states", func() bool { return states() == 0 })
	kernel.Terminate(t)
	if left := b.Must(t, "ip", "xfrm", "policy"); left != "" {
		t.Errorf("coati on XFRM leaves:\n%s", left)
	}
	user.Alive(t)
}

// swanCases are what strongSwan with the kernel's ESP is tried with; one connection for each and role.
var swanCases = []struct {
	what           string
	udp, transport bool
}{{caseRawESN, false, false}, {caseKernelUDP, true, false}, {caseRawHosts, false, true}, {caseUDPHosts, true, true}}

// TestInKernelStrongSwan has strongSwan use the kernel's ESP.
func TestInKernelStrongSwan(t *testing.T) {
	NeedKernel(t)
	pair := NewPair(t)
	a, b := pair.A, pair.B
	type connection struct {
		role, what string
		udp        bool
		kernelPeers
	}
	var all []connection
	var peers []kernelPeers
	var tunnels, connections, secrets strings.Builder
	for _, role := range bothRoles {
		for _, sc := range swanCases {
			n := len(all)
			c := kernelCase{esp: "aes128gcm16-esn", transport: sc.transport, udp: sc.udp}
			p := peersOf(c, n)
			all, peers = append(all, connection{role, sc.what, sc.udp, p}), append(peers, p)
			tunnels.WriteString(kernelTunnel(c, n, p))
			mode := "tunnel"
			if sc.transport {
				mode = "transport"
			}
			fmt.Fprintf(&connections, "t%d { version = 2\n local_addrs = %s\n remote_addrs = %s\n proposals = %s\n encap = %t\n local { auth = psk\n id = %[2]s }\n remote { auth = psk\n id = %[3]s }\n"+
				" children { lan%[1]d { mode = %[6]s\n local_ts = %[7]s\n remote_ts = %[8]s\n esp_proposals = %[9]s } } }\n", n, p.outerB, p.outerA, usualIKE, sc.udp, mode, p.innerB, p.innerA, c.esp)
			fmt.Fprintf(&secrets, "ike-%d { id = %s\n secret = %q }\n", n, p.outerA, psk)
		}
	}
	addAddresses(t, pair, peers...)
	coati := startPlane(t, pair, a, "user", tunnels.String())
	charon := StartCharon(t, b, false)
	charon.LoadAll(t, "connections { "+connections.String()+" }\nsecrets { "+secrets.String()+" }\n")
	for n, c := range all {
		t.Run(c.role+"/"+strings.ReplaceAll(c.what, " ", "-"), func(t *testing.T) {
			results.Fill(t, peerSwanKernel, c.role, c.what)
			if c.role == roleResponder {
				if err := charon.Initiate(fmt.Sprintf("lan%d", n)); err != nil {
					t.Fatal(err)
				}
			}
			sent := echoes(t, a, c.innerA, b, c.innerB, kernelCase{})
			states := b.Must(t, "ip", "xfrm", "state", "list", "src", c.outerB.String())
			if !strings.Contains(states, "esn") || strings.Contains(states, "espinudp") != c.udp {
				t.Errorf("strongSwan's states are others:\n%s", states)
			}
			var counts, want [4]string
			for i := range want {
				want[i] = fmt.Sprint(sent)
			}
			if !Within(10*time.Second, func() bool {
				ours, theirs := pairOf(t, coati, n), charon.child(t, fmt.Sprintf("t%d", n))
				counts = [4]string{fmt.Sprint(ours.Out.Packets), fmt.Sprint(ours.In.Packets), theirs.PacketsIn, theirs.PacketsOut}
				return counts == want
			}) {
				t.Errorf("%d datagrams each way: coati counts %s out and %s in, strongSwan %s in and %s out", sent, counts[0], counts[1], counts[2], counts[3])
			}
		})
	}
	coati.Alive(t)
}
