package lab

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"coati/gateway/control"
)

// Addresses by the configuration payload (RFC 7296, section 2.19), of both families, against strongSwan at either end.

const casePool = "virtual IPv4 and IPv6 addresses, leases over a restart, a dry pool"

func addressCells() []Cell {
	return []Cell{{peerStrongSwan, roleInitiator, casePool}, {peerStrongSwan, roleResponder, casePool}}
}

// roadWarrior is a strongSwan that asks a hub for addresses.
func roadWarrior(local, hub *Host, hubAddr netip.Addr, name string) swan {
	return swan{
		local: local.Outer4.String(), remote: hubAddr.String(), localID: name, remoteID: "hub.example.org",
		localTS: "dynamic", remoteTS: hub.LANNet4.Masked().String() + ", " + hub.LANNet6.Masked().String(), more: "vips = 0.0.0.0, ::",
	}
}

// leases are the addresses that a hub has given, by identity.
func (c *Coati) leases(t *testing.T) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for _, tunnel := range c.Status(t).Tunnels {
		for _, i := range tunnel.IKE {
			if i.State == "established" {
				out[i.RemoteID] = i.Leased
			}
		}
	}
	return out
}

// talks fails the test unless pings between these addresses come back.
func talks(t *testing.T, from *Host, src, dst string) {
	t.Helper()
	if from.Ping(t, netip.MustParseAddr(src), netip.MustParseAddr(dst), 1) != 0 {
		t.Fatalf("a ping from %s to %s is lost", src, dst)
	}
}

func TestStrongSwanIsGivenAddresses(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	results.Fill(t, peerStrongSwan, roleResponder, casePool)
	pair := NewPair(t)
	a, b, c := pair.A, pair.B, pair.Third(t)
	tunnel := Between(a, b)
	tunnel.IKE, tunnel.ESP, tunnel.AnyRemote, tunnel.NoLocal = usualIKE, usualESP, true, true
	tunnel.LocalTS = []netip.Prefix{a.LANNet4.Masked(), a.LANNet6.Masked()}
	tunnel.RemoteTS = []netip.Prefix{netip.MustParsePrefix("10.99.0.0/24"), netip.MustParsePrefix("fd99::/64")}
	tunnel.ExtraGateway = fmt.Sprintf("leases = %q\n", a.Path("leases"))
	tunnel.ExtraTunnel = "local-id = \"fqdn:hub.example.org\"\npool = [\"10.99.0.1-10.99.0.2\", \"fd99::10-fd99::11\"]\ndns = [\"10.1.0.53\"]\n"
	hub := StartCoati(t, a, tunnel)
	var charons []*Charon
	confs := []string{roadWarrior(b, a, a.Outer4, "b.example.org").conf(), roadWarrior(c, a, netip.MustParseAddr("10.8.0.1"), "c.example.org").conf()}
	for i, h := range []*Host{b, c} {
		charon := StartCharon(t, h, false)
		charon.LoadAll(t, confs[i])
		if err := charon.Initiate("lan"); err != nil {
			t.Fatalf("%v\n%s", err, grep(hub.Log(), "WARN"))
		}
		charons = append(charons, charon)
	}
	hub.WaitPairs(t, 5*time.Second, 2)
	had := hub.leases(t)
	check := func() {
		t.Helper()
		for i, h := range []*Host{b, c} {
			id := "fqdn:" + string("bc"[i]) + ".example.org"
			got := hub.leases(t)[id]
			if len(got) != 2 || !slices.Equal(got, had[id]) {
				t.Fatalf("%s has %v, and had %v", id, got, had[id])
			}
			talks(t, h, got[0], a.LAN4.String())
			talks(t, a, a.LAN4.String(), got[0])
			talks(t, h, got[1], a.LAN6.String())
			talks(t, a, a.LAN6.String(), got[1])
		}
	}
	check()
	// A third login finds the pool dry. Both ends say so, and the two are left alone.
	dry := strings.NewReplacer("connections { t {", "connections { dry {", "lan {", "dry-lan {").Replace(roadWarrior(b, a, a.Outer4, "d.example.org").conf())
	charons[0].LoadAll(t, confs[0]+dry)
	if err := charons[0].Initiate("dry-lan"); err == nil {
		t.Error("a third address was given out of two")
	}
	WaitFor(t, 5*time.Second, "the hub to say that the pool is dry", func() bool { return strings.Contains(hub.Log(), "the pool of tunnel peer is dry") })
	if !strings.Contains(charons[0].Log(), "INTERNAL_ADDRESS_FAILURE") {
		t.Errorf("strongSwan did not hear of it:\n%s", grep(charons[0].Log(), "notify"))
	}
	check()
	// The hub starts anew, and its clients come back in the other order.
	hub.Terminate(t)
	hub.Start(t)
	for _, i := range []int{1, 0} {
		_ = charons[i].Terminate("--ike", "t")
		if err := charons[i].Initiate("lan"); err != nil {
			t.Fatal(err)
		}
	}
	hub.WaitPairs(t, 5*time.Second, 2)
	check()
	if err := charons[0].Rekey("--child", "lan"); err != nil {
		t.Fatal(err)
	}
	hub.Do(t, "rekey", "peer")
	check()
	hub.Alive(t)
}

func TestStrongSwanGivesAddresses(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	results.Fill(t, peerStrongSwan, roleInitiator, casePool)
	pair := NewPair(t)
	a, b := pair.A, pair.B
	tunnel := Between(a, b)
	tunnel.IKE, tunnel.ESP, tunnel.Start = usualIKE, usualESP, "now"
	tunnel.LocalTS = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	tunnel.RemoteTS = []netip.Prefix{b.LANNet4.Masked(), b.LANNet6.Masked()}
	tunnel.ExtraTunnel = "local-id = \"fqdn:a.example.org\"\nremote-id = \"fqdn:hub.example.org\"\nvirtual-ip = [\"0.0.0.0\", \"::\"]\n"
	s := swan{
		local: b.Outer4.String(), remote: "%any", localID: "hub.example.org", remoteID: "%any",
		localTS: b.LANNet4.Masked().String() + ", " + b.LANNet6.Masked().String(), remoteTS: "dynamic", more: "pools = four, six\n  unique = replace",
	}
	charon := StartCharon(t, b, false)
	charon.LoadAll(t, s.conf()+"pools { four { addrs = 10.99.0.7/32\n dns = 10.2.0.53 }\n six { addrs = fd99::7/128\n dns = fd00:2::53 } }\n")
	coati := NewCoati(t, a, tunnel)
	coati.Start(t)
	check := func() {
		t.Helper()
		coati.WaitPairs(t, 20*time.Second, 1)
		given := coati.given(t)
		if given == nil || !slices.Equal(given.Addresses, []string{"10.99.0.7", "fd99::7"}) || !slices.Equal(given.DNS, []string{"10.2.0.53", "fd00:2::53"}) {
			t.Fatalf("we were given %+v", given)
		}
		// The kernel chooses the address: no source is named.
		for _, to := range []netip.Addr{b.LAN4, b.LAN6} {
			if output, err := a.Run("ping", "-n", "-c", "1", "-W", "5", to.String()); err != nil {
				t.Fatalf("%v\n%s", err, output)
			}
		}
		talks(t, b, b.LAN4.String(), given.Addresses[0])
		talks(t, b, b.LAN6.String(), given.Addresses[1])
	}
	check()
	coati.Do(t, "rekey", "peer/lan")
	check()
	coati.Terminate(t)
	if out := a.Must(t, "ip", "-o", "addr"); strings.Contains(out, "10.99.0.7") {
		t.Errorf("the address stays when we are gone:\n%s", out)
	}
	coati.Start(t)
	check()
	// Somebody else finds the pool dry.
	tunnel.More = fmt.Sprintf("[tunnel.second]\nremote = %q\nlocal = %q\npsk-file = \"lab.psk\"\nlocal-id = \"fqdn:other.example.org\"\nremote-id = \"fqdn:hub.example.org\"\nvirtual-ip = [\"0.0.0.0\"]\nremote-ts = [\"10.98.0.0/24\"]\nike = [%q]\nesp = [%q]\n",
		b.Outer4, a.Outer4, usualIKE, usualESP)
	coati.Configure(t, tunnel)
	coati.Do(t, "reload")
	if out, err := coati.Patiently("up", "second"); err == nil || !strings.Contains(out+err.Error(), "its pool is dry") {
		t.Errorf("a second tunnel where the pool has one address: %v\n%s", err, out)
	}
	check()
	coati.Alive(t)
}

// given is what the peer of the tunnel "peer" gave us.
func (c *Coati) given(t *testing.T) *control.Given {
	t.Helper()
	var given *control.Given
	for _, tunnel := range c.Status(t).Tunnels {
		for _, i := range tunnel.IKE {
			if tunnel.Name == "peer" && i.State == "established" && i.Given != nil {
				given = i.Given
			}
		}
	}
	if given == nil {
		text, _ := json.Marshal(c.Status(t).Tunnels)
		t.Logf("%s", text)
	}
	return given
}
