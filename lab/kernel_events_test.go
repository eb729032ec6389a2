package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"coati/policy"
	"coati/policy/planetest"
	"coati/tun/xfrm"
)

// What the kernel tells Coati on XFRM, and what it keeps for it: lifetimes, peers that move, packets that wait for an SA, and
// what a killed run has left.

// openPlane opens a plane of that name on a host; it is closed with the test.
func openPlane(t *testing.T, h *Host, name string) *xfrm.Plane {
	t.Helper()
	var p *xfrm.Plane
	err := h.Inside(func() (err error) {
		p, err = xfrm.Open(xfrm.Config{Name: name})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// expiry waits for the next event of an SA's.
func expiry(t *testing.T, p *xfrm.Plane) policy.PlaneEvent {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		select {
		case ev := <-p.Events():
			if ev.Kind == policy.PlaneExpireSoft || ev.Kind == policy.PlaneExpireHard {
				return ev
			}
		case <-limit:
			t.Fatal("no lifetime ends within 30 s")
		}
	}
}

// TestInKernelLifetimes: the kernel tells of the soft limit and then of the hard one, in time and in packets; then it has
// ended the SA.
func TestInKernelLifetimes(t *testing.T) {
	NeedKernel(t)
	results.Fill(t, peerXFRM, roleBoth, caseXFRMLifetimes)
	pair := NewPair(t)
	a, b := pair.A, pair.B
	a.Must(t, "ip", "route", "add", b.LANNet4.String(), "dev", "eth0")
	p := openPlane(t, a, "coati0")
	out := planetest.Policy(1, policy.Outbound)
	out.Local, out.Remote = []policy.Selector{policy.AddrSelector(a.LAN4)}, []policy.Selector{policy.AddrSelector(b.LAN4)}
	for id, life := range map[policy.SAID]policy.Lifetime{
		1: {SoftTime: time.Second, HardTime: 3 * time.Second},
		2: {SoftPackets: 3, HardPackets: 6},
		3: {SoftOctets: 500, HardOctets: 1000},
	} {
		sa := planetest.SA(id, policy.Outbound, policy.SPI(0x1000+id))
		sa.Path = policy.Path{Local: netip.AddrPortFrom(a.Outer4, 0), Remote: netip.AddrPortFrom(b.Outer4, 0)}
		sa.Local, sa.Remote, sa.Lifetime = out.Local, out.Remote, life
		if err := p.Apply(policy.Tx{PutPolicies: []policy.Policy{out}, AddSAs: []policy.SA{sa}}); err != nil {
			t.Fatal(err)
		}
		stop := make(chan struct{})
		var sending sync.WaitGroup
		sending.Go(func() {
			// Nobody answers: what counts is what leaves.
			for tick := time.NewTicker(50 * time.Millisecond); ; {
				select {
				case <-stop:
					return
				case <-tick.C:
					_ = a.Inside(func() error {
						c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a.LAN4, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(b.LAN4, 9)))
						if err != nil {
							return err
						}
						_, _ = c.Write(make([]byte, 100))
						return c.Close()
					})
				}
			}
		})
		soft := expiry(t, p)
		if soft.Kind != policy.PlaneExpireSoft || soft.SA != id {
			t.Errorf("%+v: first %v of sa %d", life, soft.Kind, soft.SA)
		}
		if e := entryOf(t, p, id); !e.Dying || e.Dead {
			t.Errorf("%+v: after the soft limit dying is %v and dead %v", life, e.Dying, e.Dead)
		}
		hard := expiry(t, p)
		for hard.Kind == policy.PlaneExpireSoft { // the kernel may say it with every packet
			hard = expiry(t, p)
		}
		close(stop)
		sending.Wait()
		if hard.SA != id {
			t.Errorf("%+v: then %v of sa %d", life, hard.Kind, hard.SA)
		}
		if _, err := p.State(id); !errors.Is(err, policy.ErrNoSA) {
			t.Errorf("%+v: after the hard limit: %v", life, err)
		}
		e := entryOf(t, p, id)
		if !e.Dead || life.HardPackets > 0 && e.State.Packets < 5 {
			t.Errorf("%+v: after the hard limit dead is %v, with %d packets", life, e.Dead, e.State.Packets)
		}
		if got := kernelStates(t, a); len(got) != 0 {
			t.Errorf("%+v: the kernel has %v", life, got)
		}
		if err := p.Apply(policy.Tx{DeleteSAs: []policy.SAID{id}}); err != nil {
			t.Errorf("%+v: delete: %v", life, err)
		}
	}
}

func entryOf(t *testing.T, p *xfrm.Plane, id policy.SAID) policy.SAEntry {
	t.Helper()
	for _, e := range p.Entries(false) {
		if e.SA.ID == id {
			return e
		}
	}
	t.Fatalf("no sa %d", id)
	return policy.SAEntry{}
}

// TestInKernelManualLifetime: a script's -ls and -lh on XFRM.
func TestInKernelManualLifetime(t *testing.T) {
	NeedKernel(t)
	results.Fill(t, peerXFRM, roleBoth, caseXFRMLifetimes)
	pair := NewPair(t)
	b := pair.B
	c := startScript(t, b, b.Write(t, "gateway.toml", "[gateway]\nqueues = 1\nguard = false\nplane = \"xfrm\"\n"), b.Write(t, "short.setkey", fmt.Sprintf(
		"add %s %s esp 0x3000 -m transport -ls 1 -lh 2 -E aes-cbc 0x000102030405060708090a0b0c0d0e0f -A hmac-sha1 0x000102030405060708090a0b0c0d0e0f10111213;\n", b.Outer4, pair.A.Outer4)))
	WaitFor(t, 60*time.Second, "the end of the key", func() bool { return len(kernelStates(t, b)) == 0 })
	WaitFor(t, 20*time.Second, "setkey -D without it", func() bool { return c.performed(t, "dump;") == "No SAD entries.\n" })
	if text := c.mustSetkey(t, "-D", "-a"); !strings.Contains(text, "spi=12288(0x00003000)") || !strings.Contains(text, "state=dead ") || !strings.Contains(text, "hard: 2(s)\tsoft: 1(s)") {
		t.Errorf("setkey -D -a does not show it:\n%s", text)
	}
	if log := c.Log(); !strings.Contains(log, "at its soft lifetime") || !strings.Contains(log, "a manual key has ended") {
		t.Errorf("the log does not tell of it:\n%s", log)
	}
	c.Alive(t)
}

// unanswered sends datagrams once each, and says how many are not answered within a minute.
func unanswered(t *testing.T, a *Host, from netip.Addr, b *Host, to netip.Addr, count int) int {
	t.Helper()
	server, client := echoServer(t, a, from, b, to)
	defer client.Close()
	defer server.Close()
	for n := range count {
		if _, err := client.Write([]byte{byte(n)}); err != nil {
			t.Errorf("datagram %d: %v", n, err)
		}
	}
	got := map[byte]bool{}
	buffer := make([]byte, 16)
	_ = client.SetReadDeadline(time.Now().Add(time.Minute))
	for len(got) < count {
		if _, err := client.Read(buffer); err != nil {
			break
		}
		got[buffer[0]] = true
	}
	return count - len(got)
}

// A relay is a NAT that is a program: what comes to its front goes to the other side from ports of its back, which change
// when it is told to.
type relay struct {
	t     *testing.T
	h     *Host
	mu    sync.Mutex
	pipes []*relayPipe
}

type relayPipe struct {
	to     netip.AddrPort
	front  *net.UDPConn
	back   *net.UDPConn
	client netip.AddrPort
}

func startRelay(t *testing.T, h *Host, front netip.Addr, to netip.Addr) *relay {
	t.Helper()
	r := &relay{t: t, h: h}
	for _, port := range []uint16{500, 4500} {
		p := &relayPipe{to: netip.AddrPortFrom(to, port)}
		if err := h.Inside(func() (err error) {
			p.front, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(front, port)))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		r.pipes = append(r.pipes, p)
		go func() {
			buffer := make([]byte, 1<<16)
			for {
				n, from, err := p.front.ReadFromUDPAddrPort(buffer)
				if err != nil {
					return
				}
				r.mu.Lock()
				p.client = from
				back := p.back
				r.mu.Unlock()
				_, _ = back.Write(buffer[:n])
			}
		}()
	}
	r.rebind()
	t.Cleanup(func() {
		for _, p := range r.pipes {
			p.front.Close()
			p.back.Close()
		}
	})
	return r
}

// rebind takes other ports.
func (r *relay) rebind() {
	r.t.Helper()
	for _, p := range r.pipes {
		var back *net.UDPConn
		if err := r.h.Inside(func() (err error) {
			back, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(p.to))
			return err
		}); err != nil {
			r.t.Fatal(err)
		}
		r.mu.Lock()
		old := p.back
		p.back = back
		r.mu.Unlock()
		if old != nil {
			old.Close()
		}
		go func() {
			buffer := make([]byte, 1<<16)
			for {
				n, err := back.Read(buffer)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err != nil {
					continue
				}
				r.mu.Lock()
				client := p.client
				r.mu.Unlock()
				_, _ = p.front.WriteToUDPAddrPort(buffer[:n], client)
			}
		}()
	}
}

// TestInKernelMapping: the peer of Coati on XFRM is behind a NAT that gives it another port. The kernel tells of it, and the
// SAs follow: one of a counter mode is rekeyed, another one moves.
func TestInKernelMapping(t *testing.T) {
	NeedKernel(t)
	for _, c := range []struct {
		esp   string
		rekey bool
	}{{"aes128gcm16", true}, {"aes128-sha256", false}} {
		t.Run(c.esp, func(t *testing.T) {
			results.Fill(t, peerXFRM, roleBoth, caseXFRMMapping)
			pair := NewPair(t)
			a, b := pair.A, pair.B
			r := pair.Third(t)
			// A knows the relay alone, at 10.8.0.3; the relay reaches B by a link of theirs.
			link(t, r, "eth1", b, "eth1")
			for _, h := range []*Host{r, b} {
				mustRun(t, "ip", "-n", h.Name, "link", "set", "eth1", "up")
			}
			back := netip.MustParseAddr("10.7.0.2")
			r.AddAddress(t, "eth1", netip.MustParsePrefix("10.7.0.3/24"))
			b.AddAddress(t, "eth1", netip.PrefixFrom(back, 24))
			nat := startRelay(t, r, r.Outer4, back)
			child := func(from, to *Host) string {
				return fmt.Sprintf("[[tunnel.t0.child]]\nname = \"lan\"\nlocal-ts = [%q]\nremote-ts = [%q]\nesp = [%q]\n", from.LANNet4, to.LANNet4, c.esp)
			}
			const ids = "local-id = \"fqdn:%s.example.org\"\nremote-id = \"fqdn:%s.example.org\"\npsk-file = \"lab.psk\"\ndpd = \"1h\"\n"
			user := startPlane(t, pair, a, "user", fmt.Sprintf("[tunnel.t0]\nlocal = \"10.8.0.1\"\nremote = %q\n"+ids, r.Outer4, "a", "b")+child(a, b))
			kernel := startPlane(t, pair, b, "xfrm", fmt.Sprintf("[tunnel.t0]\nlocal = %q\nremote = \"any\"\n"+ids, back, "b", "a")+child(b, a))
			WaitFor(t, 60*time.Second, "the tunnel", func() bool { return Reachable(t, a, b) })
			before, was := pairOf(t, kernel, 0), kernel.remote(t)
			nat.rebind()
			WaitFor(t, 60*time.Second, "coati on XFRM to follow its peer", func() bool {
				_ = a.Ping(t, a.LAN4, b.LAN4, 1) // its answer goes to the old port until then
				return kernel.remote(t) != was
			})
			WaitFor(t, 60*time.Second, "both ways", func() bool { return Reachable(t, a, b) && Reachable(t, b, a) })
			WaitFor(t, 60*time.Second, "one pair of SAs", func() bool { return len(kernel.Pairs(t)) == 1 })
			if after := pairOf(t, kernel, 0); (after.Out.SPI != before.Out.SPI) != c.rekey {
				t.Errorf("the outbound SA was %s and is %s, want another one: %v", before.Out.SPI, after.Out.SPI, c.rekey)
			}
			text := b.Must(t, "ip", "xfrm", "state")
			port := fmt.Sprint(kernel.remote(t).Port())
			if !strings.Contains(text, "dport "+port) || !strings.Contains(text, "sport "+port) {
				t.Errorf("the kernel's states do not lead to port %s:\n%s", port, text)
			}
			user.Alive(t)
			kernel.Alive(t)
		})
	}
}

// TestInKernelKilled: what a killed run left is found by its tag and removed by the next start, and nothing else is.
func TestInKernelKilled(t *testing.T) {
	NeedKernel(t)
	results.Fill(t, peerXFRM, roleBoth, caseXFRMKilled)
	pair := NewPair(t)
	a, b := pair.A, pair.B
	// Of somebody else's, by hand, and of a Coati of another name.
	b.Must(t, "ip", "xfrm", "state", "add", "src", "10.66.0.1", "dst", "10.66.0.2", "proto", "esp", "spi", "0x6666", "reqid", "1", "mode", "tunnel", "enc", "cbc(aes)", "0x000102030405060708090a0b0c0d0e0f",
		"auth-trunc", "hmac(sha1)", "0x000102030405060708090a0b0c0d0e0f10111213", "96")
	b.Must(t, "ip", "xfrm", "policy", "add", "src", "10.66.1.0/24", "dst", "10.66.2.0/24", "dir", "out", "tmpl", "src", "10.66.0.1", "dst", "10.66.0.2", "proto", "esp", "reqid", "1", "mode", "tunnel")
	other := openPlane(t, b, "coati7")
	out := planetest.Policy(1, policy.Outbound)
	out.Remote = []policy.Selector{policy.PrefixSelector(netip.MustParsePrefix("10.55.0.0/16"))}
	if err := other.Apply(policy.Tx{PutPolicies: []policy.Policy{out}, AddSAs: []policy.SA{planetest.SA(1, policy.Outbound, 0x7777)}}); err != nil {
		t.Fatal(err)
	}
	notOurs := func() string { return b.Must(t, "ip", "xfrm", "state") + b.Must(t, "ip", "xfrm", "policy") }
	foreign := notOurs()

	conf := func(from, to *Host) string {
		return kernelTunnel(kernelCase{esp: "aes128gcm16-esn"}, 0, kernelPeers{from.Outer4, to.Outer4, from.LAN4, to.LAN4})
	}
	user, kernel := startPlane(t, pair, a, "user", conf(a, b)), startPlane(t, pair, b, "auto", conf(b, a))
	WaitFor(t, 60*time.Second, "the tunnel", func() bool { return Reachable(t, b, a) })
	mine := len(kernelStates(t, b))
	if mine != 4 {
		t.Errorf("the kernel has %d states, want 4", mine)
	}
	kernel.Kill()
	if got := len(kernelStates(t, b)); got != mine {
		t.Fatalf("after kill -9 the kernel has %d states; the test proves nothing", got)
	}
	kernel.Start(t)
	if got, want := kernelStates(t, b), []string{"0x00006666", "0x00007777"}; !slices.Equal(got, want) {
		t.Errorf("after the next start the kernel has %v, want %v", got, want)
	}
	WaitFor(t, 60*time.Second, "the tunnel again", func() bool { return Reachable(t, b, a) })
	kernel.Terminate(t)
	if got := notOurs(); settled(got) != settled(foreign) {
		t.Errorf("of others there was\n%s\nand is\n%s", foreign, got)
	}
	// With the one that had the bypass of neighbour discovery first it must not go from the other.
	kernel.Start(t)
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	WaitFor(t, 30*time.Second, "the bypass of neighbour discovery", func() bool {
		return strings.Count(b.Must(t, "ip", "xfrm", "policy"), "proto ipv6-icmp type 13") == 10
	})
	user.Alive(t)
	kernel.Alive(t)
}

// settled leaves out the kernel's notes of what it asked for.
func settled(text string) string {
	return regexp.MustCompile(`(?m)^src .*\n\tproto esp spi 0x00000000.*\n(\t.*\n)*`).ReplaceAllString(text, "")
}

// TestInKernelFirstPacket: the packet that asks for a tunnel arrives, and those after it. When no tunnel comes up they are
// dropped, and the next one asks again; the kernel's setting is as before when Coati has ended.
func TestInKernelFirstPacket(t *testing.T) {
	NeedKernel(t)
	results.Fill(t, peerXFRM, roleBoth, caseXFRMFirst)
	pair := NewPair(t)
	a, b := pair.A, pair.B
	hold := func() string { return strings.TrimSpace(b.Must(t, "sysctl", "-n", "net.core.xfrm_larval_drop")) }
	if was := hold(); was != "1" {
		t.Fatalf("xfrm_larval_drop is %s before", was)
	}
	cases := []kernelCase{{esp: "aes128gcm16-esn"}, {esp: "aes128-sha256-noesn", inner6: true, udp: true}, {esp: "aes128gcm16-noesn", transport: true}, {esp: "aes128gcm16-noesn", outer6: true}}
	var left, right strings.Builder
	var all []kernelPeers
	for i, c := range cases {
		p := peersOf(c, i)
		all = append(all, p)
		left.WriteString(kernelTunnel(c, i, p))
		right.WriteString(kernelTunnel(c, i, p.reversed()))
	}
	// One whose peer has another secret.
	p := peersOf(cases[0], len(cases))
	all = append(all, p)
	left.WriteString(strings.Replace(kernelTunnel(cases[0], len(cases), p), "lab.psk", "other.psk", 1))
	right.WriteString(kernelTunnel(cases[0], len(cases), p.reversed()))
	a.Write(t, "other.psk", "another secret\n")
	addAddresses(t, pair, all...)
	user, kernel := startKernelPair(t, pair, left.String(), right.String())
	if now := hold(); now != "0" {
		t.Errorf("xfrm_larval_drop is %s while coati runs", now)
	}
	for i, c := range cases {
		if lost := unanswered(t, b, all[i].innerB, a, all[i].innerA, 3); lost != 0 {
			t.Errorf("%s: %d of 3 datagrams lost", c, lost)
		}
	}
	failures := func() int {
		for _, tunnel := range kernel.Status(t).Tunnels {
			if tunnel.Name == fmt.Sprintf("t%d", len(cases)) {
				return tunnel.Failures
			}
		}
		return -1
	}
	for n := 1; n <= 2; n++ {
		if lost := b.Ping(t, p.innerB, p.innerA, 1); lost != 1 {
			t.Error("a ping came back without a tunnel")
		}
		WaitFor(t, 30*time.Second, "a negotiation that fails", func() bool { return failures() >= n })
		WaitFor(t, 10*time.Second, "the policy to ask again", func() bool {
			return !strings.Contains(b.Must(t, "ip", "xfrm", "policy", "list", "dst", p.innerA.String()), "action block")
		})
		// What waited is gone: nothing asks by itself. The kernel would look after it at least every second by now.
		if Within(2*time.Second, func() bool { return failures() > n }) {
			t.Errorf("after failure %d there was another one without a packet", n)
		}
	}
	user.Alive(t)
	kernel.Terminate(t)
	if now := hold(); now != "1" {
		t.Errorf("xfrm_larval_drop is %s afterwards", now)
	}
}
