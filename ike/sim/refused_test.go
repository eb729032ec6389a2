package sim

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"coati/ike"
	"coati/policy"
)

// As responder, the tunnel's status keeps the latest refused attempt: when, from where, and the sentence of the log.
func TestARefusedPeerIsInTheStatusOfItsTunnel(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		a, b    func(*policy.PeerTunnel)
		want    string // of the reason
		nobodys bool   // no tunnel is known for it
	}{
		{"another key", psk("one"), psk("two"), "has another pre-shared key than tunnel t", false},
		{"another identity", ids("a.example", ""), ids("", "z.example"), "tunnel t expects fqdn:z.example", false},
		{"no IKE proposal", ike1("aes128gcm16-prfsha256-x25519"), ike1("aes256gcm16-prfsha256-x25519"), "no proposal in common", false},
		{"no ESP proposal", esp1("aes128gcm16"), esp1("aes256gcm16"), "child lan of tunnel t: no proposal in common", false},
		{"no selectors", nets("", "10.9.0.0/16"), nil, "which no child of tunnel t covers", false},
		{"no tunnel", nil, func(t *policy.PeerTunnel) { t.Remote = netip.MustParseAddr("192.0.2.250") }, "add a tunnel with remote", true},
	} {
		w, a, b := pair(t, 5, c.a, c.b)
		if r := b.Engine.Status()[0].Refused; !r.At.IsZero() || !b.Engine.Refused().At.IsZero() {
			t.Errorf("%s: refused before anybody came: %+v", c.name, r)
		}
		a.Command(ike.Up, "t", "")
		w.Run(5 * time.Second)
		got, other := b.Engine.Status()[0].Refused, b.Engine.Refused()
		if c.nobodys {
			got, other = other, got
		}
		if !strings.Contains(got.Reason, c.want) || got.Peer.Addr() != a.Addr || got.At.Before(Epoch) || got.At.After(w.Now) || !other.At.IsZero() {
			t.Errorf("%s: refused %+v, elsewhere %+v", c.name, got, other)
		}
		if !b.Said(got.Reason) {
			t.Errorf("%s: the log does not say %q: %q", c.name, got.Reason, b.Log)
		}
		// Who is let in afterwards has not been refused.
		if c.b == nil || c.nobodys {
			continue
		}
		a.Configure(tunnelTo("192.0.2.2", "10.1.0.0/16", "10.2.0.0/16", c.b, func(t *policy.PeerTunnel) { t.RemoteID, t.LocalID = policy.Identity{}, t.RemoteID }))
		a.Command(ike.Up, "t", "")
		w.Run(5 * time.Second)
		if r := b.Engine.Status()[0].Refused; !b.Up("t") || !r.At.IsZero() {
			t.Errorf("%s: let in %v, still refused: %+v", c.name, b.Up("t"), r)
		}
	}
}

// Of several tunnels a stranger may mean, none is blamed; the one whose name it uses is.
func TestARefusalIsAttributedOnlyWhereItBelongs(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]string{"one.example": "one", "two.example": "two", "nobody.example": ""} {
		w, a, b := pair(t, 6, func(t *policy.PeerTunnel) { ids(id, "")(t); psk("guessed")(t) }, nil)
		var both []policy.PeerTunnel
		for _, name := range []string{"one", "two"} {
			both = append(both, tunnelTo("192.0.2.1", "10.2.0.0/16", "10.1.0.0/16", ids("", name+".example"), func(t *policy.PeerTunnel) {
				t.Name, t.Remote, t.Start = name, netip.Addr{}, policy.StartListen
			}))
		}
		b.Configure(both...)
		for range 50 { // bounded: the latest only
			a.Command(ike.Up, "t", "")
			w.Run(2 * time.Second)
		}
		got := ""
		for _, st := range b.Engine.Status() {
			if !st.Refused.At.IsZero() {
				got += st.Name
			}
		}
		if got != want || b.Engine.Refused().At.IsZero() != (want != "") {
			t.Errorf("%s is refused by %q, want %q; elsewhere %+v", id, got, want, b.Engine.Refused())
		}
	}
}
