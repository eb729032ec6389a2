package sim

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"coati/ike"
	"coati/lab/pki"
	"coati/policy"
)

var (
	users  = []policy.XAuthUser{{Name: "alice", Password: policy.NewSecret([]byte("wonderland"))}, {Name: "bob", Password: policy.NewSecret([]byte("builder"))}}
	anyone = policy.Identity{Type: policy.IDAnyOne}
)

// xauthServer gives addresses to users, whose clients share the group's key.
func xauthServer(change ...func(*policy.PeerTunnel)) policy.PeerTunnel {
	return tunnelTo("192.0.2.2", "10.2.0.0/16", "10.9.0.0/16", v1Of(func(t *policy.PeerTunnel) {
		t.Remote, t.LocalID, t.RemoteID = netip.Addr{}, fqdn("hub"), anyone
		t.Pool, t.Unique, t.Start = pool("10.9.0.1-10.9.0.4"), policy.UniqueReplace, policy.StartListen
		t.DNS, t.Domains = []netip.Addr{netip.MustParseAddr("10.2.0.53")}, []string{"corp.example"}
		t.V1.XAuth, t.V1.Users, t.V1.Banner = policy.XAuthServer, users, "Welcome."
		t.V1.SplitInclude = []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16")}
	}), v1Change(change))
}

func xauthClient(user, password string, change ...func(*policy.PeerTunnel)) policy.PeerTunnel {
	return tunnelTo("192.0.2.1", "10.9.0.0/16", "10.2.0.0/16", v1Of(func(t *policy.PeerTunnel) {
		t.RemoteID = fqdn("hub")
		t.VirtualIP = []netip.Addr{netip.IPv4Unspecified()}
		t.V1.XAuth, t.V1.User, t.V1.Password = policy.XAuthClient, user, policy.NewSecret([]byte(password))
	}), v1Change(change))
}

func v1Change(change []func(*policy.PeerTunnel)) func(*policy.PeerTunnel) {
	return func(t *policy.PeerTunnel) {
		for _, f := range change {
			f(t)
		}
	}
}

func xauthPair(seed uint64, server, client policy.PeerTunnel) (w *World, hub, c *Host) {
	w = NewWorld(seed)
	hub, c = w.AddHost("hub", "192.0.2.1"), w.AddHost("c", "192.0.2.2")
	hub.Configure(server)
	c.Configure(client)
	return w, hub, c
}

func TestV1XAuthAndModeConfig(t *testing.T) {
	t.Parallel()
	push := func(t *policy.PeerTunnel) { t.V1.Push = true }
	for mode, set := range v1Modes {
		for how, config := range map[string]func(*policy.PeerTunnel){"pull": func(*policy.PeerTunnel) {}, "push": push} {
			w, hub, c := xauthPair(3, xauthServer(set, config), xauthClient("alice", "wonderland", set, config))
			c.Say(1, "t", "lan")
			w.Run(5 * time.Second)
			hub.Say(2, "t", "lan")
			w.Run(time.Second)
			if !slices.Equal(hub.Plane.Received, []uint64{1}) || !slices.Equal(c.Plane.Received, []uint64{2}) {
				t.Fatalf("%s, %s: received %v, %v; %q %q", mode, how, hub.Plane.Received, c.Plane.Received, hub.Log, c.Log)
			}
			in, _ := sas(t, c)
			if got := only(t, in.Local); got != netip.MustParseAddr("10.9.0.1") || !slices.Equal(c.Given["t"].DNS, []netip.Addr{netip.MustParseAddr("10.2.0.53")}) || !slices.Equal(c.Given["t"].Domains, []string{"corp.example"}) {
				t.Errorf("%s, %s: %v, given %+v", mode, how, got, c.Given)
			}
			if id := hub.Engine.Status()[0].SAs[0].RemoteID.String(); id != "keyid:alice" {
				t.Errorf("%s, %s: the peer is %s", mode, how, id)
			}
			noFaults(t, w)
		}
	}
}

// Two users share the group's key and are two peers; each keeps its address when phase 1 is done anew.
func TestV1XAuthUsersAreDifferentPeers(t *testing.T) {
	t.Parallel()
	w, hub, a := xauthPair(4, xauthServer(aggressive), xauthClient("alice", "wonderland", aggressive, func(t *policy.PeerTunnel) { t.Lifetime = time.Minute }))
	b := w.AddHost("b", "192.0.2.3")
	b.Configure(xauthClient("bob", "builder", aggressive))
	a.Say(1, "t", "lan")
	b.Say(2, "t", "lan")
	w.Run(5 * time.Second)
	w.Run(3 * time.Minute)
	a.Say(3, "t", "lan")
	w.Run(5 * time.Second)
	if got := hub.Plane.Received; len(got) != 3 {
		t.Errorf("received %v; %q", got, hub.Log)
	}
	if x, y := a.Given["t"].Addresses[0], b.Given["t"].Addresses[0]; x == y {
		t.Errorf("both have %s", x)
	}
	if n := len(hub.Leases); n != 2 {
		t.Errorf("%d leases: %v", n, hub.Leases)
	}
	noFaults(t, w)
}

func TestV1XAuthRefusesWhoIsNotAUser(t *testing.T) {
	t.Parallel()
	for mode, set := range v1Modes {
		for user, password := range map[string]string{"alice": "guessed", "eve": "wonderland", "bob": "wonderland"} {
			w, hub, c := xauthPair(5, xauthServer(set), xauthClient(user, password, set))
			c.Command(ike.Up, "t", "lan")
			w.Run(20 * time.Second)
			if n, _ := hub.Established("t"); n != 0 || c.Up("t") || !hub.Said(fmt.Sprintf("the user %q of 192.0.2.2 is not known, or has another password", user)) || !c.Said("the password is wrong: see xauth-user") {
				t.Errorf("%s, %s: %q %q", mode, user, hub.Log, c.Log)
			}
			if len(hub.Leases) != 0 || hub.Said("wonderland") || c.Said("wonderland") || hub.Said("guessed") {
				t.Errorf("%s, %s: leases %v; or a password in a log: %q %q", mode, user, hub.Leases, hub.Log, c.Log)
			}
			noFaults(t, w)
		}
	}
}

// A server of XAUTH lets nobody in by the group's key alone.
func TestV1XAuthCannotBeLeftOut(t *testing.T) {
	t.Parallel()
	for mode, set := range v1Modes {
		w, hub, c := xauthPair(6, xauthServer(set), xauthClient("alice", "wonderland", set, func(t *policy.PeerTunnel) { t.V1.XAuth = policy.XAuthNone }))
		c.Command(ike.Up, "t", "lan")
		w.Run(20 * time.Second)
		if n, _ := hub.Established("t"); n != 0 || c.Up("t") || !hub.Said("and we by a pre-shared key and XAUTH") {
			t.Errorf("%s: %q %q", mode, hub.Log, c.Log)
		}
		noFaults(t, w)
	}
}

// Hybrid: the server signs, the client has a name and a password alone.
func TestV1HybridAuthentication(t *testing.T) {
	t.Parallel()
	ca, other := pki.New(t, "root", pki.RSA2048), pki.New(t, "another", pki.RSA2048)
	for mode, set := range v1Modes {
		for trusts, up := range map[*pki.Authority]bool{ca: true, other: false} {
			server := xauthServer(papers(t, ca, pki.RSA2048, "hub", "", ca), func(t *policy.PeerTunnel) { t.RemoteAuth, t.RemoteID = policy.ByNobody, policy.Identity{} }, set)
			client := xauthClient("alice", "wonderland", func(t *policy.PeerTunnel) {
				t.LocalAuth, t.RemoteAuth, t.PSK = policy.ByNobody, policy.ByCert, policy.Secret{}
			}, set)
			papers(t, ca, pki.RSA2048, "nobody", "hub", trusts)(&client)
			client.LocalAuth, client.LocalID, client.Credential = policy.ByNobody, policy.Identity{}, nil
			w, hub, c := xauthPair(7, server, client)
			c.Command(ike.Up, "t", "lan")
			w.Run(20 * time.Second)
			if c.Up("t") != up || hub.Up("t") != up {
				t.Errorf("%s, trusted %v: %q %q", mode, up, hub.Log, c.Log)
			}
			noFaults(t, w)
		}
	}
}

// Nothing of it hangs on a single datagram.
func TestV1XAuthSurvivesEachLoss(t *testing.T) {
	t.Parallel()
	for mode, set := range v1Modes {
		for lost := range 16 {
			w, hub, c := xauthPair(8, xauthServer(set), xauthClient("alice", "wonderland", set))
			n := 0
			w.Net.Tap = func(d Datagram) bool {
				n++
				return n-1 != lost
			}
			c.Command(ike.Up, "t", "lan")
			w.Run(30 * time.Second)
			if !c.Up("t") || !hub.Up("t") {
				t.Errorf("%s, datagram %d lost: %q %q", mode, lost, hub.Log, c.Log)
			}
			noFaults(t, w)
		}
	}
}
