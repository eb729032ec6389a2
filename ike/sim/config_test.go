package sim

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"coati/ike"
	"coati/policy"
)

// A hub gives addresses to road warriors, who share one tunnel for peers at any address.

func pool(ranges ...string) (out []policy.Selector) {
	for _, r := range ranges {
		s, err := policy.ParseSelector(r)
		if err != nil {
			panic(err)
		}
		out = append(out, s)
	}
	return out
}

func fqdn(name string) policy.Identity {
	return policy.Identity{Type: policy.IDFQDN, Data: []byte(name)}
}

type hub struct {
	t *testing.T
	w *World
	*Host
}

func newHub(t *testing.T, seed uint64, change func(*policy.PeerTunnel), ranges ...string) *hub {
	w := NewWorld(seed)
	h := &hub{t, w, w.AddHost("hub", "192.0.2.1")}
	h.configure(change, ranges...)
	return h
}

func (h *hub) configure(change func(*policy.PeerTunnel), ranges ...string) {
	t := tunnelTo("192.0.2.2", "0.0.0.0/0", "10.9.0.0/16", func(t *policy.PeerTunnel) {
		t.Remote, t.LocalID, t.RemoteID = netip.Addr{}, fqdn("hub"), policy.Identity{Type: policy.IDAnyOne}
		t.Pool, t.Unique, t.Start = pool(ranges...), policy.UniqueReplace, policy.StartListen
		t.DNS, t.Domains = []netip.Addr{netip.MustParseAddr("10.1.0.53"), netip.MustParseAddr("2001:db8::53")}, []string{"corp.example"}
		t.Children[0].Local, t.Children[0].Remote = policy.AnySelectors(), t.Pool
		if change != nil {
			change(t)
		}
	})
	h.Configure(t)
}

// client is a road warrior with an identity.
func (h *hub) client(n int, id string, change ...func(*policy.PeerTunnel)) *Host {
	c := h.w.AddHost(fmt.Sprintf("c%d", n), fmt.Sprintf("192.0.2.%d", 10+n))
	c.Configure(tunnelTo("192.0.2.1", "10.9.0.0/16", "0.0.0.0/0", func(t *policy.PeerTunnel) {
		t.LocalID, t.RemoteID, t.Start = fqdn(id), fqdn("hub"), policy.StartNow
		t.VirtualIP = []netip.Addr{netip.IPv4Unspecified()}
		t.Children[0].Local, t.Children[0].Remote = policy.AnySelectors(), policy.AnySelectors()
		for _, f := range change {
			f(t)
		}
	}))
	return c
}

// has is the address that a client has, and that both ends have narrowed the child to.
func (h *hub) has(c *Host) string {
	h.t.Helper()
	if !c.Up("t") {
		return ""
	}
	i := c.Engine.Status()[0].SAs[0]
	if i.Given == nil || len(i.Given.Addresses) == 0 {
		h.t.Errorf("%s is up without an address", c.Name)
		return ""
	}
	a := i.Given.Addresses[0]
	if want := []policy.Selector{policy.AddrSelector(a)}; len(i.Given.Addresses) == 1 && !slices.Equal(i.Children[0].Local, want) {
		h.t.Errorf("%s has %v and its child %v", c.Name, a, i.Children[0].Local)
	}
	for _, o := range h.Engine.Status()[0].SAs {
		if o.Path.Remote.Addr() == c.Addr && o.State == ike.Established && (!slices.Contains(o.Leased, a) || len(o.Children) != 1 || !o.Children[0].Remote[0].Contains(a, 0, 0, false)) {
			h.t.Errorf("the hub has given %v, and its child %v", o.Leased, o.Children)
		}
	}
	return a.String()
}

func (h *hub) expect(c *Host, want string) {
	h.t.Helper()
	if got := h.has(c); got != want {
		h.t.Errorf("%s has %q, want %q: %q; the hub says %q", c.Name, got, want, c.Log, h.Log)
	}
}

func (h *hub) sound() {
	h.t.Helper()
	noFaults(h.t, h.w)
}

func TestEachClientHasItsLeaseAndItsChild(t *testing.T) {
	t.Parallel()
	h := newHub(t, 1, nil, "10.9.0.1-10.9.0.9", "2001:db8:9::1-2001:db8:9::9")
	a, b := h.client(1, "a"), h.client(2, "b", func(t *policy.PeerTunnel) { t.VirtualIP = append(t.VirtualIP, netip.IPv6Unspecified()) })
	h.w.Run(3 * time.Second)
	first, second := h.has(a), h.has(b)
	if first == second || first == "" || second == "" {
		t.Fatalf("the clients have %q and %q", first, second)
	}
	g := b.Given["t"]
	if want := "{t [" + second + " 2001:db8:9::1] [10.1.0.53 2001:db8::53] [corp.example]}"; fmt.Sprint(g) != want {
		t.Errorf("b was told %v, want %v", g, want)
	}
	if g := a.Given["t"]; len(g.DNS) != 1 || g.DNS[0].Is6() {
		t.Errorf("a, which asked for IPv4 alone, was told of %v", g.DNS)
	}
	// Rekeys of the child from both ends, of the IKE SA, and authentication anew keep the lease and the narrow selectors.
	for _, f := range []func(){
		func() { a.Command(ike.Rekey, "t", "lan") }, func() { h.Command(ike.Rekey, "t", "lan") }, func() { a.Command(ike.Rekey, "t", "") },
		func() { h.Command(ike.Rekey, "t", "") },
	} {
		f()
		h.w.Run(8 * time.Second)
		h.expect(a, first)
		h.expect(b, second)
	}
	h.sound()
}

func TestLeasesSurviveRestartsOfTheHub(t *testing.T) {
	t.Parallel()
	h := newHub(t, 2, nil, "10.9.0.1-10.9.0.3")
	a, b := h.client(1, "a"), h.client(2, "b")
	h.w.Run(3 * time.Second)
	first, second := h.has(a), h.has(b)
	h.Crash()
	h.w.Run(time.Second)
	h.Restart()
	b.Crash()
	h.w.Run(time.Second)
	a.Crash()
	h.w.Run(time.Second)
	b.Restart() // in the other order
	h.w.Run(3 * time.Second)
	a.Restart()
	h.w.Run(5 * time.Second)
	h.expect(a, first)
	h.expect(b, second)
	h.w.Run(2 * time.Minute)
	h.sound()
}

// The pool has one address. Who has no luck hears why, at both ends, and gets it when it is given back; the former owner, when it
// comes again, waits in turn.
func TestADryPool(t *testing.T) {
	t.Parallel()
	h := newHub(t, 3, nil, "10.9.0.1")
	a := h.client(1, "a")
	h.w.Run(2 * time.Second)
	h.expect(a, "10.9.0.1")
	b := h.client(2, "b")
	h.w.Run(2 * time.Second)
	h.expect(b, "")
	if !h.Said("the pool of tunnel t is dry", "no IPv4 address is left of 10.9.0.1-10.9.0.1") {
		t.Errorf("the hub does not explain it: %q", h.Log)
	}
	if !b.Said("its pool is dry") {
		t.Errorf("the client does not explain it: %q", b.Log)
	}
	if sas, _ := h.Established("t"); sas != 1 {
		t.Errorf("the hub has %d IKE SAs: one without an address is of no use", sas)
	}
	a.Command(ike.Down, "t", "")
	a.Configure()
	h.w.Run(90 * time.Second)
	h.expect(b, "10.9.0.1")
	h.sound()
}

// What was given back goes to its owner again, and to another only when nobody else left an address earlier.
func TestTheOldestLeaseGoesFirst(t *testing.T) {
	t.Parallel()
	h := newHub(t, 4, nil, "10.9.0.1-10.9.0.2")
	a := h.client(1, "a")
	h.w.Run(2 * time.Second)
	b := h.client(2, "b")
	h.w.Run(2 * time.Second)
	first, second := h.has(a), h.has(b)
	a.Configure()
	h.w.Run(10 * time.Second)
	b.Configure()
	h.w.Run(10 * time.Second)
	c := h.client(3, "c")
	h.w.Run(2 * time.Second)
	h.expect(c, first)
	d := h.client(4, "b") // b's identity from elsewhere
	h.w.Run(2 * time.Second)
	h.expect(d, second)
	h.sound()
}

func TestADuplicateLoginTakesOver(t *testing.T) {
	t.Parallel()
	h := newHub(t, 5, nil, "10.9.0.1-10.9.0.9")
	a := h.client(1, "a", func(t *policy.PeerTunnel) {
		t.OnClose, t.OnDead, t.Start = policy.LossClear, policy.LossClear, policy.StartOnDemand
	})
	a.Command(ike.Up, "t", "")
	h.w.Run(2 * time.Second)
	first := h.has(a)
	again := h.client(2, "a")
	h.w.Run(10 * time.Second)
	h.expect(again, first)
	h.w.Run(2 * time.Minute) // it says INITIAL_CONTACT: the other one is not told, and finds out
	h.expect(again, first)
	h.expect(a, "")
	other := h.client(3, "b")
	h.w.Run(2 * time.Second)
	if got := h.has(other); got == first || got == "" {
		t.Errorf("another client has %q", got)
	}
	got := len(again.Plane.Received)
	h.Say(77, "t", "lan")
	h.w.Run(time.Second)
	if len(again.Plane.Received)+len(other.Plane.Received) != got+1 || len(a.Plane.Received) != 0 {
		t.Error("a packet of the hub goes to nobody, or to who was taken over")
	}
	h.sound()
}

func TestLoginsThatLiveTogetherHaveAnAddressEach(t *testing.T) {
	t.Parallel()
	h := newHub(t, 6, func(t *policy.PeerTunnel) { t.Unique = policy.UniqueNever }, "10.9.0.1-10.9.0.9")
	a, b := h.client(1, "a"), h.client(2, "a")
	h.w.Run(3 * time.Second)
	if x, y := h.has(a), h.has(b); x == y || x == "" || y == "" {
		t.Errorf("the two have %q and %q", x, y)
	}
	h.sound()
}

func TestWhoAsksForNoAddressIsRefused(t *testing.T) {
	t.Parallel()
	h := newHub(t, 7, nil, "10.9.0.1-10.9.0.9")
	c := h.client(1, "a", func(t *policy.PeerTunnel) { t.VirtualIP = nil })
	h.w.Run(3 * time.Second)
	if c.Up("t") || !c.Said("see virtual-ip") || !h.Said("does not ask for an address") {
		t.Errorf("up is %t: %q %q", c.Up("t"), c.Log, h.Log)
	}
	six := h.client(2, "b", func(t *policy.PeerTunnel) { t.VirtualIP = []netip.Addr{netip.IPv6Unspecified()} })
	h.w.Run(3 * time.Second)
	if six.Up("t") || !h.Said("asks for no address of a family") {
		t.Errorf("up is %t: %q", six.Up("t"), h.Log)
	}
	h.sound()
}

func TestAClientMayWishForAnAddress(t *testing.T) {
	t.Parallel()
	h := newHub(t, 8, nil, "10.9.0.1-10.9.0.9")
	wish := func(s string) func(*policy.PeerTunnel) {
		return func(t *policy.PeerTunnel) { t.VirtualIP = []netip.Addr{netip.MustParseAddr(s)} }
	}
	a := h.client(1, "a", wish("10.9.0.7"))
	h.w.Run(2 * time.Second)
	h.expect(a, "10.9.0.7")
	for n, s := range []string{"10.9.0.7", "10.8.0.1"} { // somebody's, and none of the pool
		c := h.client(2+n, s, wish(s))
		h.w.Run(2 * time.Second)
		if got := h.has(c); got == "" || got == s {
			t.Errorf("who wishes for %s has %q", s, got)
		}
	}
	h.sound()
}

// A reload that changes the pool keeps the leases that are within the new one, and the IKE SAs.
func TestAReloadKeepsLeases(t *testing.T) {
	t.Parallel()
	h := newHub(t, 9, nil, "10.9.0.1-10.9.0.3")
	a, b := h.client(1, "a"), h.client(2, "b")
	h.w.Run(3 * time.Second)
	first, second := h.has(a), h.has(b)
	h.configure(func(t *policy.PeerTunnel) { t.DNS = nil }, "10.9.0.1-10.9.0.3")
	h.w.Run(time.Second)
	if sas, children := h.Established("t"); sas != 2 || children != 2 {
		t.Errorf("after a reload there are %d IKE SAs with %d children", sas, children)
	}
	h.expect(a, first)
	h.configure(nil, "10.9.0.1-10.9.0.200")
	h.w.Run(90 * time.Second)
	h.expect(a, first)
	h.expect(b, second)
	h.sound()
}

// A hundred clients come and go over a lossy network: no two have one address at a time, and none is lost to the pool.
func TestNoAddressIsGivenTwice(t *testing.T) {
	t.Parallel()
	h := newHub(t, 10, nil, "10.9.0.1-10.9.0.12")
	h.w.Net.Loss, h.w.Net.Duplicate = 0.1, 0.1
	var clients []*Host
	for n := range 10 {
		clients = append(clients, h.client(n, fmt.Sprintf("client %d", n)))
	}
	for range 30 {
		c := clients[h.w.Rand.IntN(len(clients))]
		switch h.w.Rand.IntN(4) {
		case 0:
			c.Crash()
			h.w.After(time.Duration(h.w.Rand.IntN(10))*time.Second, c.Restart)
		case 1:
			c.Command(ike.Rekey, "t", "")
		case 2:
			c.Command(ike.Down, "t", "")
			h.w.After(time.Second, func() { c.Command(ike.Up, "t", "") })
		case 3:
			h.Crash()
			h.w.After(time.Second, h.Restart)
		}
		h.w.Run(7 * time.Second)
	}
	h.w.Net.Loss, h.w.Net.Duplicate = 0, 0
	h.w.Run(3 * time.Minute)
	seen := map[string]string{}
	for _, c := range clients {
		a := h.has(c)
		if a == "" {
			t.Errorf("%s has no address: %q", c.Name, c.Log[max(0, len(c.Log)-3):])
		} else if seen[a] != "" {
			t.Errorf("%s and %s have %s", c.Name, seen[a], a)
		}
		seen[a] = c.Name
	}
	h.sound()
}
