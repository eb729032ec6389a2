package sim

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"coati/ike"
	"coati/policy"
)

var update = flag.Bool("update", false, "write the golden files")

// misconfigured are pairs that cannot come to an agreement, and what each end must say about it.
var misconfigured = []struct {
	name string
	a, b func(*policy.PeerTunnel)
	// network, if set, comes in between.
	network func(w *World, a, b *Host)
}{
	{name: "IKE encryption", a: ike1("aes128gcm16-prfsha256-x25519"), b: ike1("aes256gcm16-prfsha256-x25519")},
	{name: "IKE prf", a: ike1("aes128gcm16-prfsha256-x25519"), b: ike1("aes128gcm16-prfsha384-x25519")},
	{name: "IKE integrity", a: ike1("aes128-sha256-x25519"), b: ike1("aes128-sha512-prfsha256-x25519")},
	{name: "IKE key exchange", a: ike1("aes128gcm16-prfsha256-x25519"), b: ike1("aes128gcm16-prfsha256-ecp384")},
	{name: "IKE combined mode against plain", a: ike1("aes128gcm16-prfsha256-x25519"), b: ike1("aes128-sha256-x25519")},
	{name: "pre-shared key", a: psk("one"), b: psk("two")},
	{name: "initiator is not who it must be", a: ids("a.example", ""), b: ids("", "z.example")},
	{name: "responder is not who it must be", a: ids("", "z.example"), b: ids("b.example", "")},
	{name: "responder has a name, an address is expected", b: ids("fqdn:b.example", "")},
	{name: "identity types differ", a: ids("email:a@example.org", ""), b: ids("", "fqdn:a@example.org")},
	{name: "ESP encryption", a: esp1("aes128gcm16"), b: esp1("aes256gcm16")},
	{name: "ESP integrity", a: esp1("aes128-sha256"), b: esp1("aes128-sha512")},
	{name: "sequence numbers", a: esp1("aes128gcm16-esn"), b: esp1("aes128gcm16-noesn")},
	{name: "initiator wants another remote net", a: nets("", "10.9.0.0/16")},
	{name: "initiator has another local net", a: nets("10.8.0.0/16", "")},
	{name: "protocols do not overlap", a: nets("10.1.0.0/16[tcp/80]", "10.2.0.0/16[tcp]"), b: nets("10.2.0.0/16[udp]", "10.1.0.0/16[udp]")},
	{name: "families differ", a: nets("fd01::/64", "fd02::/64")},
	{name: "nobody at the address", network: func(_ *World, _, b *Host) { b.Crash() }},
	{name: "nobody at the address, and ICMP says so", network: func(w *World, _, b *Host) { w.Net.ICMP = true; b.Crash() }},
	{name: "a firewall drops IKE_AUTH", network: func(w *World, _, _ *Host) {
		w.Net.Tap = func(d Datagram) bool { return d.ESP != nil || d.Bytes[18] != 35 }
	}},
	{name: "the peer has no tunnel for us", b: func(t *policy.PeerTunnel) { t.Remote = netip.MustParseAddr("192.0.2.250") }},
	{name: "a host name nobody knows", a: func(t *policy.PeerTunnel) { t.Remote, t.RemoteHost = netip.Addr{}, "b.example" }},
	{name: "no address to begin with", a: func(t *policy.PeerTunnel) { t.Remote = netip.Addr{} }},
}

func psk(k string) func(*policy.PeerTunnel) {
	return func(t *policy.PeerTunnel) { t.PSK = policy.NewSecret([]byte(k)) }
}

func ids(local, remote string) func(*policy.PeerTunnel) {
	return func(t *policy.PeerTunnel) {
		if local != "" {
			t.LocalID, _ = policy.ParseIdentity(local)
		}
		if remote != "" {
			t.RemoteID, _ = policy.ParseIdentity(remote)
		}
	}
}

func nets(local, remote string) func(*policy.PeerTunnel) {
	return func(t *policy.PeerTunnel) {
		if local != "" {
			t.Children[0].Local = []policy.Selector{sel(local)}
		}
		if remote != "" {
			t.Children[0].Remote = []policy.Selector{sel(remote)}
		}
	}
}

// Every misconfiguration has its sentence: what the command answers, and what both ends log.
func TestEveryMisconfigurationHasItsSentence(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for _, m := range misconfigured {
		w, x, y := pair(t, 5, m.a, m.b)
		if m.network != nil {
			m.network(w, x, y)
		}
		x.Log, y.Log = nil, nil
		id := x.Command(ike.Up, "t", "")
		w.Run(2 * time.Minute)
		err, done := x.Replies[id]
		if !done || err == nil {
			t.Errorf("%s: the command answers %v, %v", m.name, done, err)
			continue
		}
		fmt.Fprintf(&b, "## %s\nup: %v\n", m.name, err)
		for i, h := range []*Host{x, y} {
			seen := map[string]bool{}
			for _, l := range h.Log {
				msg, reason, _ := strings.Cut(l, " reason=")
				msg, _, _ = strings.Cut(msg, " tunnel=")
				msg, _, _ = strings.Cut(msg, " peer=")
				if line := msg + ": " + reason; reason != "" && !seen[line] {
					seen[line] = true
					fmt.Fprintf(&b, "%c: %s\n", 'a'+i, line)
				}
			}
		}
		b.WriteByte('\n')
		for _, fault := range w.Check() {
			t.Errorf("%s: %v", m.name, fault)
		}
	}
	const file = "testdata/sentences.txt"
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || string(want) != b.String() {
		t.Errorf("the sentences are not those of %s (%v): run with -update, and read them as somebody who has to act on them\n%s", file, err, b.String())
	}
}
