package lab

import (
	"net/netip"
	"strings"
	"testing"

	"coati/gateway/control"
)

const transportMode = "mode = \"transport\"\n"

func caseTransport(family, encap string) string {
	return "transport mode, " + family + ", " + encap
}

// own is the prefix of one address.
func own(a netip.Addr) []netip.Prefix { return []netip.Prefix{netip.PrefixFrom(a, a.BitLen())} }

// TestTransport: two hosts protect what they say to each other's own addresses. The first ping is kept, TCP in large segments
// goes both ways, and nothing but IKE and ESP is on the wire, with which our own packets do not meet themselves.
func TestTransport(t *testing.T) {
	NeedRoot(t)
	for _, family := range families {
		for _, encap := range []string{"esp", "udp"} {
			t.Run(family+"-"+encap, func(t *testing.T) {
				t.Parallel()
				results.Fill(t, peerCoati, roleBoth, caseTransport(family, encap))
				pair := NewPair(t)
				a, b := pair.A, pair.B
				tunnel := Between(a, b)
				tunnel.Local, tunnel.Remote = outer(a, family), outer(b, family)
				tunnel.LocalTS, tunnel.RemoteTS = own(tunnel.Local), own(tunnel.Remote)
				tunnel.Encap, tunnel.IKE, tunnel.ExtraChild = encap, usualIKE, transportMode
				right := StartCoati(t, b, tunnel.Reversed())
				left := StartCoati(t, a, tunnel)
				capture := a.Capture(t)
				if lost := a.Ping(t, tunnel.Local, tunnel.Remote, 3); lost != 0 {
					t.Fatalf("%d of 3 pings lost", lost)
				}
				transfer(t, a, tunnel.Local, b, tunnel.Remote, 4<<20)
				transfer(t, b, tunnel.Remote, a, tunnel.Local, 4<<20)
				right.Do(t, "rekey", "peer/lan")
				if lost := b.Ping(t, tunnel.Remote, tunnel.Local, 3); lost != 0 {
					t.Errorf("%d of 3 pings lost after a rekey", lost)
				}
				capture.Stop(t)
				for _, line := range Judge(t, capture.File, left.Keys).Clear {
					if !strings.Contains(line, "Neighbor") {
						t.Errorf("neither IKE nor ESP: %s", line)
					}
				}
				// The kernel fragments it before the TUN; what is protected is the whole of it.
				for _, way := range [][2]any{{a, tunnel.Remote}, {b, tunnel.Local}} {
					if output, err := way[0].(*Host).Run("ping", "-n", "-c", "3", "-i", "0.2", "-W", "5", "-s", "4000", way[1].(netip.Addr).String()); err != nil {
						t.Errorf("pings of 4000 octets: %v\n%s", err, output)
					}
				}
				if mode := modeOf(left.Status(t)); mode != "transport" {
					t.Errorf("the status says %q", mode)
				}
				left.Alive(t)
				right.Alive(t)
			})
		}
	}
}

func modeOf(s control.Status) string {
	if len(s.Tunnels) != 1 || len(s.Tunnels[0].Children) != 1 || len(s.Tunnels[0].Children[0].SAs) == 0 {
		return "no SA"
	}
	return s.Tunnels[0].Children[0].SAs[0].Mode
}

// TestTransportThroughNAT: the router changes the client's address behind the back of TCP's checksum, and both ends correct it
// (RFC 3948, section 3.1.2; RFC 7296, section 2.23.1).
func TestTransportThroughNAT(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	results.Fill(t, peerCoati, roleBoth, caseTransport("IPv4", "through a NAT"))
	n := NewNAT(t, 30)
	client, server := behindNAT(n)
	client.LocalTS, client.RemoteTS = own(n.A.Outer4), own(n.B.Outer4)
	server.LocalTS, server.RemoteTS = own(n.B.Outer4), own(n.Router.Outer4)
	client.ExtraChild, server.ExtraChild = transportMode, transportMode
	b := StartCoati(t, n.B, server)
	a := StartCoati(t, n.A, client)
	if lost := n.A.Ping(t, n.A.Outer4, n.B.Outer4, 3); lost != 0 {
		t.Fatalf("%d of 3 pings lost", lost)
	}
	transfer(t, n.A, n.A.Outer4, n.B, n.B.Outer4, 4<<20)
	if lost := n.B.Ping(t, n.B.Outer4, n.Router.Outer4, 3); lost != 0 {
		t.Errorf("%d of 3 pings lost to the client", lost)
	}
	a.Do(t, "rekey", "peer/lan")
	transfer(t, n.A, n.A.Outer4, n.B, n.B.Outer4, 1<<20)
	a.Alive(t)
	b.Alive(t)
}
