package lab

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"coati/lab/pki"
)

// Clients of IKEv1 with XAUTH and mode config: strongSwan in both roles, and vpnc.

const v1Pool = "10.5.0.0/24"

// xauthGateway gives addresses to users on host A.
func xauthGateway(t *testing.T, pair *Pair, more string) Tunnel {
	t.Helper()
	tunnel := Between(pair.A, pair.B)
	tunnel.AnyRemote, tunnel.NoPSK, tunnel.Start = true, true, "listen"
	tunnel.ExtraGateway = fmt.Sprintf("leases = %q\n", pair.A.Path("leases"))
	tunnel.LocalTS, tunnel.RemoteTS = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, []netip.Prefix{netip.MustParsePrefix(v1Pool)}
	tunnel.ExtraTunnel = fmt.Sprintf("version = 1\nxauth = \"server\"\nxauth-users-file = %q\npool = [%q]\ndns = [\"10.1.0.53\"]\ndns-domains = [\"corp.example\"]\nbanner = \"Welcome to the lab.\"\nsplit-include = [%q]\n",
		pair.A.Write(t, "users", "alice wonderland\nbob builder\n"), v1Pool, pair.A.LANNet4) + more
	return tunnel
}

// TestV1VPNC: vpnc as client, with the group's key and hybrid, by protocol 50 and in UDP.
func TestV1VPNC(t *testing.T) {
	NeedRoot(t)
	for _, c := range []struct{ name, mode, natt string }{{"group key, ESP", "psk", "natt"}, {"group key, UDP", "psk", "force-natt"}, {"hybrid, UDP", "hybrid", "force-natt"}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pair := NewPair(t)
			more := "aggressive = true\nremote-id = \"keyid:group\"\npsk-file = \"lab.psk\"\n"
			ca := ""
			if c.mode == "hybrid" {
				root := pki.New(t, "root", pki.RSA2048)
				gw := newHolder(t, nameA, pki.RSA2048, root, root)
				more = fmt.Sprintf("aggressive = true\nauth = \"cert\"\ncert-file = %q\nkey-file = %q\nlocal-id = \"fqdn:%s\"\nremote-auth = \"null\"\n",
					pair.A.Write(t, "cert.pem", pki.CertPEM(gw.chain...)), pair.A.Write(t, "cert.key", pki.KeyPEM(t, gw.key)), nameA)
				ca = "CA-File " + pair.B.Write(t, "root.pem", pki.CertPEM(root.Cert)) + "\n"
			}
			tunnel := xauthGateway(t, pair, more)
			tunnel.IKE, tunnel.ESP = "aes256-sha1-modp1024", "aes256-sha1"
			coati := StartCoati(t, pair.A, tunnel)
			env := pair.B.Path("env")
			script := pair.B.Write(t, "script", fmt.Sprintf(`#!/bin/sh
[ "$reason" = connect ] || exit 0
ip link set "$TUNDEV" mtu 1300 up
ip addr add "$INTERNAL_IP4_ADDRESS/32" dev "$TUNDEV"
ip route add "$CISCO_SPLIT_INC_0_ADDR/$CISCO_SPLIT_INC_0_MASKLEN" dev "$TUNDEV" src "$INTERNAL_IP4_ADDRESS"
env >%s.new && mv %s.new %s
`, env, env, env))
			if err := os.Chmod(script, 0o700); err != nil {
				t.Fatal(err)
			}
			conf := pair.B.Write(t, "vpnc.conf", fmt.Sprintf("IPSec gateway %s\nIPSec ID group\nIPSec secret %s\nIKE Authmode %s\nXauth username alice\nXauth password wonderland\nNAT Traversal Mode %s\nPerfect Forward Secrecy nopfs\nLocal Port 0\nInterface name vpn0\nScript %s\n%s",
				pair.A.Outer4, psk, c.mode, c.natt, script, ca))
			client := pair.B.Start(t, "vpnc", nil, "vpnc", "--no-detach", "--non-inter", "--pid-file", pair.B.Path("vpnc.pid"), conf)
			WaitFor(t, 30*time.Second, "vpnc to have called its script, or to have given up", func() bool {
				_, err := os.Stat(env)
				return err == nil || !client.Running()
			})
			said, err := os.ReadFile(env)
			if err != nil {
				t.Fatalf("vpnc: %s", client.Text())
			}
			for _, want := range []string{"INTERNAL_IP4_ADDRESS=10.5.0.1", "INTERNAL_IP4_DNS=10.1.0.53", "CISCO_DEF_DOMAIN=corp.example", "CISCO_BANNER=Welcome to the lab.", "CISCO_SPLIT_INC=1", "CISCO_SPLIT_INC_0_ADDR=10.1.0.0"} {
				if !strings.Contains(string(said), want+"\n") {
					t.Errorf("no %q in\n%s", want, said)
				}
			}
			WaitFor(t, 10*time.Second, "a ping", func() bool { return pair.B.Ping(t, netip.MustParseAddr("10.5.0.1"), pair.A.LAN4, 1) == 0 })
			if lost := pair.A.Ping(t, pair.A.LAN4, netip.MustParseAddr("10.5.0.1"), 3); lost != 0 {
				t.Errorf("%d pings lost", lost)
			}
			coati.Alive(t)
		})
	}
}

// TestV1XAuthStrongSwan: XAUTH with the pre-shared key, main and aggressive, hybrid, mode config pulled and pushed, in both roles.
func TestV1XAuthStrongSwan(t *testing.T) {
	NeedRoot(t)
	const cipher = "aes128-sha256-modp2048"
	for _, role := range bothRoles {
		for _, c := range []struct {
			name                     string
			aggressive, hybrid, push bool
		}{{"main, pull", false, false, false}, {"aggressive, push", true, false, true}, {"hybrid", false, true, false}} {
			t.Run(role+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				pair := NewPair(t)
				root := pki.New(t, "root", pki.RSA2048)
				var tunnel Tunnel
				auth, lines, connection := "psk-file = \"lab.psk\"\n", "", "version = 1\n encap = yes\n proposals = "+cipher+"\n"
				if c.aggressive {
					lines, connection = lines+"aggressive = true\n", connection+"aggressive = yes\n"
				}
				if c.push {
					lines, connection = lines+"mode-config = \"push\"\n", connection+"pull = no\n"
				}
				server, client := "auth = psk\n id = gw", "auth = psk\n id = group"
				gateway := newHolder(t, nameA, pki.RSA2048, root, root)
				if c.hybrid {
					server, client = "auth = pubkey\n id = "+nameA+"\n", ""
				}
				secrets := fmt.Sprintf("secrets { ike-1 { secret = %q }\n xauth-1 { id = alice\n secret = wonderland } }\n", psk)
				if role == roleResponder {
					if c.hybrid {
						auth = fmt.Sprintf("auth = \"cert\"\ncert-file = %q\nkey-file = %q\nlocal-id = \"fqdn:%s\"\nremote-auth = \"null\"\n",
							pair.A.Write(t, "cert.pem", pki.CertPEM(gateway.chain...)), pair.A.Write(t, "cert.key", pki.KeyPEM(t, gateway.key)), nameA)
					} else {
						auth += "local-id = \"fqdn:gw\"\nremote-id = \"fqdn:group\"\n"
					}
					tunnel = xauthGateway(t, pair, auth+lines)
					one := client
					local := "local-1 { " + one + " }\n local-2 { auth = xauth\n xauth_id = alice }"
					if c.hybrid {
						local = "local { auth = xauth\n xauth_id = alice\n id = alice }"
					}
					connection += fmt.Sprintf("vips = 0.0.0.0\n local_addrs = %s\n remote_addrs = %s\n %s\n remote { %s }\n children { lan { remote_ts = %s\n esp_proposals = aes128-sha256 } }", pair.B.Outer4, pair.A.Outer4, local, server, pair.A.LANNet4)
				} else {
					tunnel = Between(pair.A, pair.B)
					tunnel.NoPSK, tunnel.Start = true, "on-demand"
					tunnel.LocalTS = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
					if c.hybrid {
						auth = fmt.Sprintf("auth = \"null\"\nremote-auth = \"cert\"\nca-file = %q\nremote-id = \"fqdn:%s\"\n", pair.A.Write(t, "ca.pem", pki.CertPEM(root.Cert)), nameA)
					} else {
						auth += "local-id = \"fqdn:group\"\nremote-id = \"fqdn:gw\"\n"
					}
					tunnel.ExtraTunnel = fmt.Sprintf("version = 1\nxauth = \"client\"\nxauth-user = \"alice\"\nxauth-password-file = %q\nvirtual-ip = [\"0.0.0.0\"]\n", pair.A.Write(t, "password", "wonderland\n")) + auth + lines
					remote := "remote-1 { " + client + " }\n remote-2 { auth = xauth }"
					if c.hybrid {
						server += " certs = b.pem\n"
						remote = "remote { auth = xauth }"
					}
					connection += fmt.Sprintf("pools = p\n local_addrs = %s\n remote_addrs = %s\n local { %s }\n %s\n children { lan { local_ts = %s\n esp_proposals = aes128-sha256 } }", pair.B.Outer4, pair.A.Outer4, server, remote, pair.B.LANNet4)
					secrets += "pools { p { addrs = " + v1Pool + "\n dns = 10.2.0.53 } }\n"
				}
				tunnel.IKE, tunnel.ESP = cipher, "aes128-sha256"
				coati := NewCoati(t, pair.A, tunnel)
				charon := StartCharon(t, pair.B, false, "i_dont_care_about_security_and_use_aggressive_mode_psk = yes")
				pair.B.Write(t, "charon/swanctl/private/b.pem", pki.KeyPEM(t, gateway.key))
				pair.B.Write(t, "charon/swanctl/x509/b.pem", pki.CertPEM(gateway.chain[0]))
				pair.B.Write(t, "charon/swanctl/x509ca/root.pem", pki.CertPEM(root.Cert))
				charon.LoadAll(t, "connections { t { "+connection+" } }\n"+secrets)
				coati.Start(t)
				ours, theirs := pair.A.LAN4, pair.B.LAN4
				if role == roleResponder {
					if err := charon.Initiate("lan"); err != nil {
						t.Fatal(err)
					}
					theirs = netip.MustParseAddr("10.5.0.1")
				} else {
					coati.Do(t, "up", "peer")
					ours = netip.MustParseAddr("10.5.0.1")
				}
				if lost := pair.A.Ping(t, ours, theirs, 3); lost != 0 {
					t.Errorf("%d pings lost", lost)
				}
				coati.Alive(t)
			})
		}
	}
}
