package lab

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"coati/lab/pki"
)

// OpenIKED uses the kernel's ESP, over PF_KEY: with CBC and SHA-1 alone, as Debian builds it. It begins what it is to begin by itself, and
// answers before its SAs are there, so that its peer's first packet is lost.

type ikedCase struct {
	what  string
	certs bool
}

var ikedCases = []ikedCase{{what: "IKEv2, PSK, raw ESP"}, {what: "IKEv2, certificates, ECDSA P-256", certs: true}}

func ikedCells() []Cell {
	var cells []Cell
	for _, role := range bothRoles {
		for _, c := range ikedCases {
			cells = append(cells, Cell{peerOpenIKED, role, c.what})
		}
	}
	return cells
}

func TestInKernelOpenIKED(t *testing.T) {
	NeedKernel(t)
	pair := NewPair(t)
	a, b := pair.A, pair.B
	type connection struct {
		role string
		ikedCase
		kernelPeers
	}
	ca := pki.New(t, "root", pki.P256)
	ours, theirs := newHolder(t, nameA, pki.P256, ca, ca), newHolder(t, nameB, pki.P256, ca, ca)
	var all []connection
	var peers []kernelPeers
	var tunnels, policies strings.Builder
	for _, role := range bothRoles {
		for _, c := range ikedCases {
			n, p := len(all), peersOf(kernelCase{}, len(all))
			p.outerB = peersOf(kernelCase{}, 0).outerB // it sends from one address, whatever its policies say
			all, peers = append(all, connection{role, c, p}), append(peers, p)
			mode, start := "passive", "on-demand"
			if role == roleResponder {
				mode, start = "active", "listen"
			}
			auth, theirIDs := "psk-file = \"lab.psk\"\n", fmt.Sprintf("srcid %s dstid %s psk %q", p.outerB, p.outerA, psk)
			if c.certs {
				auth = fmt.Sprintf("auth = \"cert\"\ncert-file = %q\nkey-file = %q\nca-file = %q\nlocal-id = \"fqdn:%s\"\nremote-id = \"fqdn:%s\"\n",
					a.Write(t, "a.pem", pki.CertPEM(ours.chain...)), a.Write(t, "a.key", pki.KeyPEM(t, ours.key)), a.Write(t, "ca.pem", pki.CertPEM(ca.Cert)), nameA, nameB)
				theirIDs = fmt.Sprintf("srcid %s dstid %s", nameB, nameA)
			}
			fmt.Fprintf(&tunnels, "[tunnel.t%d]\nlocal = %q\nremote = %q\nstart = %q\n%sencap = \"esp\"\nike = [\"aes256-sha256-x25519\"]\n[[tunnel.t%[1]d.child]]\nname = \"lan\"\nlocal-ts = [%[6]q]\nremote-ts = [%[7]q]\nesp = [\"aes256-sha1\"]\n\n",
				n, p.outerA, p.outerB, start, auth, p.innerA, p.innerB)
			fmt.Fprintf(&policies, "ikev2 \"t%d\" %s esp from %s to %s local %s peer %s ikesa enc aes-256 auth hmac-sha2-256 prf hmac-sha2-256 group curve25519 childsa enc aes-256 auth hmac-sha1 %s\n",
				n, mode, p.innerB, p.innerA, p.outerB, p.outerA, theirIDs)
		}
	}
	b.AddAddress(t, "eth0", netip.PrefixFrom(peers[0].outerB, 8))
	for _, p := range peers {
		a.AddAddress(t, "eth0", netip.PrefixFrom(p.outerA, 8))
		a.AddAddress(t, "lo", netip.PrefixFrom(p.innerA, 32))
		b.AddAddress(t, "lo", netip.PrefixFrom(p.innerB, 32))
	}
	coati := startPlane(t, pair, a, "user", tunnels.String())
	iked := StartIked(t, b, policies.String(), PlutoPaper{Key: pki.KeyPEM(t, theirs.key), Cert: pki.CertPEM(theirs.chain[0]), CA: pki.CertPEM(ca.Cert)})
	for n, c := range all {
		t.Run(c.role+"/"+strings.NewReplacer(" ", "-", ",", "").Replace(c.what), func(t *testing.T) {
			results.Fill(t, peerOpenIKED, c.role, c.what)
			defer func() {
				if t.Failed() {
					t.Logf("%s\n%s", tail(iked.p.Log, 60), tail(coati.p.Log, 20))
				}
			}()
			if c.role == roleResponder {
				WaitFor(t, 30*time.Second, "OpenIKED's tunnel", func() bool {
					for _, tunnel := range coati.Status(t).Tunnels {
						if tunnel.Name == fmt.Sprintf("t%d", n) && len(tunnel.Children[0].SAs) == 1 {
							return true
						}
					}
					return false
				})
			}
			sent := echoes(t, a, c.innerA, b, c.innerB, kernelCase{})
			ours := pairOf(t, coati, n)
			if int(ours.In.Packets) < sent || int(ours.Out.Packets) < sent {
				t.Errorf("%d datagrams each way, coati counts %d out and %d in", sent, ours.Out.Packets, ours.In.Packets)
			}
		})
	}
	coati.Alive(t)
}
