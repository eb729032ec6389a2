package lab

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"coati/lab/pki"
)

// Libreswan uses the kernel's ESP: it has none of its own.

const casePlutoRekeys = "rekeys by either end under streams"

// plutoCases are what Libreswan is tried with, in each role; one connection for each.
var plutoCases = []plutoCase{
	{what: "IKEv2, PSK, raw ESP"},
	{what: "IKEv2, PSK, ESP in UDP", udp: true},
	{what: "IKEv2, PSK, transport mode", transport: true},
	{what: "IKEv2, certificates, RSA-2048", kind: pki.RSA2048, authby: "rsa-sha2"},
	{what: "IKEv2, certificates, ECDSA P-256", kind: pki.P256, authby: "ecdsa"},
	{what: "IKEv1, main mode, PSK", version1: true},
}

type plutoCase struct {
	what           string
	udp, transport bool
	version1       bool
	kind, authby   string
}

func plutoCells() []Cell {
	cells := []Cell{{peerLibreswan, roleBoth, casePlutoRekeys}}
	for _, role := range bothRoles {
		for _, c := range plutoCases {
			cells = append(cells, Cell{peerLibreswan, role, c.what})
		}
	}
	return cells
}

// plutoEnds writes the two configurations of one connection: Coati's on a, and Libreswan's on b.
type plutoEnds struct {
	coati, pluto, secrets strings.Builder
	papers                []PlutoPaper
}

func (e *plutoEnds) add(t *testing.T, a *Host, n int, c plutoCase, p kernelPeers) {
	t.Helper()
	name, ike, esp, version := fmt.Sprintf("t%d", n), usualIKE, "aes128gcm16-x25519", "" // by default Libreswan demands PFS
	theirs := "  ikev2=insist\n  ike=aes_gcm128-sha2_256;dh31\n  esp=aes_gcm128\n"
	if c.version1 {
		ike, esp, version = "aes256-sha256-modp2048", "aes128-sha1", "version = 1\n"
		theirs = "  ikev2=never\n  ike=aes256-sha2_256;modp2048\n  esp=aes128-sha1\n  pfs=no\n"
	}
	encap, mode := "esp", ""
	if c.udp {
		encap, theirs = "udp", theirs+"  encapsulation=yes\n"
	}
	if c.transport {
		mode, theirs = "mode = \"transport\"\n", theirs+"  type=transport\n"
	} else {
		theirs += fmt.Sprintf("  leftsubnet=%s/32\n  rightsubnet=%s/32\n", p.innerB, p.innerA)
	}
	auth := "psk-file = \"lab.psk\"\n"
	if c.kind == "" {
		theirs += "  authby=secret\n"
		fmt.Fprintf(&e.secrets, "%s %s : PSK %q\n", p.outerB, p.outerA, psk)
	} else {
		ca := pki.New(t, name, c.kind)
		nameA, nameB := "a"+name+".example", "b"+name+".example"
		ours, other := newHolder(t, nameA, c.kind, ca, ca), newHolder(t, nameB, c.kind, ca, ca)
		auth = fmt.Sprintf("auth = \"cert\"\ncert-file = %q\nkey-file = %q\nca-file = %q\nlocal-id = \"fqdn:%s\"\nremote-id = \"fqdn:%s\"\n",
			a.Write(t, name+".pem", pki.CertPEM(ours.chain...)), a.Write(t, name+".key", pki.KeyPEM(t, ours.key)), a.Write(t, name+"-ca.pem", pki.CertPEM(ca.Cert)), nameA, nameB)
		e.papers = append(e.papers, PlutoPaper{name, pki.KeyPEM(t, other.key), pki.CertPEM(other.chain[0]), pki.CertPEM(ca.Cert)})
		theirs += fmt.Sprintf("  authby=%s\n  leftcert=%s\n  leftid=@%s\n  rightid=@%s\n  rightca=%%same\n", c.authby, name, nameB, nameA)
	}
	fmt.Fprintf(&e.coati, "[tunnel.%s]\nlocal = %q\nremote = %q\n%s%sencap = %q\nike = [%q]\n[[tunnel.%[1]s.child]]\nname = \"lan\"\n%[8]slocal-ts = [%[9]q]\nremote-ts = [%[10]q]\nesp = [%[11]q]\n\n",
		name, p.outerA, p.outerB, version, auth, encap, ike, mode, p.innerA, p.innerB, esp)
	fmt.Fprintf(&e.pluto, "conn %s\n  left=%s\n  right=%s\n%s  auto=add\n  leftupdown=%%disabled\n\n", name, p.outerB, p.outerA, theirs)
}

func TestInKernelLibreswan(t *testing.T) {
	NeedKernel(t)
	pair := NewPair(t)
	a, b := pair.A, pair.B
	type connection struct {
		role string
		plutoCase
		kernelPeers
	}
	var all []connection
	var peers []kernelPeers
	var ends plutoEnds
	var names []string
	for _, role := range bothRoles {
		for _, c := range plutoCases {
			n := len(all)
			p := peersOf(kernelCase{transport: c.transport}, n)
			all, peers, names = append(all, connection{role, c, p}), append(peers, p), append(names, fmt.Sprintf("t%d", n))
			ends.add(t, a, n, c, p)
		}
	}
	addAddresses(t, pair, peers...)
	coati := startPlane(t, pair, a, "user", ends.coati.String())
	pluto := StartPluto(t, b, ends.pluto.String(), ends.secrets.String(), ends.papers...)
	for n, c := range all {
		t.Run(c.role+"/"+strings.NewReplacer(" ", "-", ",", "").Replace(c.what), func(t *testing.T) {
			results.Fill(t, peerLibreswan, c.role, c.what)
			defer func() {
				if t.Failed() {
					t.Logf("%s\n%s", grep(pluto.Log(), fmt.Sprintf("%q", names[n])), tail(coati.p.Log, 20))
				}
			}()
			if c.role == roleResponder {
				if err := pluto.Initiate(names[n]); err != nil {
					t.Fatal(err)
				}
			}
			sent := echoes(t, a, c.innerA, b, c.innerB, kernelCase{})
			states := b.Must(t, "ip", "xfrm", "state", "list", "src", c.outerB.String())
			if strings.Contains(states, "espinudp") != c.udp || strings.Contains(states, "mode transport") != c.transport {
				t.Errorf("Libreswan's states are others:\n%s", states)
			}
			ours := pairOf(t, coati, n)
			if int(ours.In.Packets) < sent || int(ours.Out.Packets) < sent {
				t.Errorf("%d datagrams each way, coati counts %d out and %d in", sent, ours.Out.Packets, ours.In.Packets)
			}
		})
	}
	t.Run("rekeys", func(t *testing.T) {
		results.Fill(t, peerLibreswan, roleBoth, casePlutoRekeys)
		p := all[0].kernelPeers
		out, back := StartStream(t, a, p.innerA, b, p.innerB, 100, 500), StartStream(t, b, p.innerB, a, p.innerA, 100, 500)
		ikeSPI := func() string {
			for _, tunnel := range coati.Status(t).Tunnels {
				if tunnel.Name == names[0] && len(tunnel.IKE) == 1 {
					return tunnel.IKE[0].LocalSPI
				}
			}
			return ""
		}
		childSPI := func() string {
			for _, tunnel := range coati.Status(t).Tunnels {
				if tunnel.Name == names[0] && len(tunnel.Children) == 1 && len(tunnel.Children[0].SAs) == 1 {
					return tunnel.Children[0].SAs[0].In.SPI
				}
			}
			return ""
		}
		byPluto := func(kind string) func() {
			return func() {
				if err := pluto.Rekey(kind, names[0]); err != nil {
					t.Error(err)
				}
			}
		}
		for _, step := range []struct {
			what string
			act  func()
			spi  func() string
		}{
			{"child by coati", func() { coati.Do(t, "rekey", names[0]+"/lan") }, childSPI},
			{"child by Libreswan", byPluto("--rekey-ipsec"), childSPI},
			{"IKE SA by coati", func() { coati.Do(t, "rekey", names[0]) }, ikeSPI},
			{"IKE SA by Libreswan", byPluto("--rekey-ike"), ikeSPI},
			{"child by coati, again", func() { coati.Do(t, "rekey", names[0]+"/lan") }, childSPI},
		} {
			old := step.spi()
			step.act()
			WaitFor(t, 60*time.Second, step.what+": another SPI than "+old, func() bool { now := step.spi(); return now != "" && now != old })
			sent, came := out.Received(), back.Received()
			WaitFor(t, 20*time.Second, "both streams to flow", func() bool { return out.Received() > sent+5 && back.Received() > came+5 })
		}
		out.Stop().Undisturbed(t)
		back.Stop().Undisturbed(t)
	})
	coati.Alive(t)
}
