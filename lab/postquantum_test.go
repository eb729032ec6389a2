package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	hybridIKE = "aes128gcm16-prfsha256-x25519-ke1_mlkem768-ke2_mlkem512"
	hybridESP = "aes128gcm16-noesn-x25519-ke1_mlkem768"
)

// A tunnel with ML-KEM in the IKE SA and its child, both rekeyed by both ends. tshark opens every message with the key log of one
// end: each key exchange makes other keys.
func TestPostQuantumBetweenCoatis(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	results.Fill(t, peerCoati, roleBoth, casePostQuantum)
	pair := NewPair(t)
	tunnel := Between(pair.A, pair.B)
	tunnel.IKE, tunnel.ESP = hybridIKE, hybridESP
	right := StartCoati(t, pair.B, tunnel.Reversed())
	left := StartCoati(t, pair.A, tunnel)
	capture := pair.A.Capture(t)
	NoLoss(t, pair.A, pair.B, 3)
	for _, c := range []*Coati{left, right} {
		before := left.Pairs(t)[0].In.SPI
		c.Do(t, "rekey", "peer/lan")
		WaitFor(t, 10*time.Second, "another pair", func() bool {
			p := left.Pairs(t)
			return len(p) == 1 && p[0].In.SPI != before
		})
		ike := left.Status(t).Tunnels[0].IKE[0].LocalSPI
		c.Do(t, "rekey", "peer")
		WaitFor(t, 10*time.Second, "another IKE SA", func() bool {
			sas := left.Status(t).Tunnels[0].IKE
			return len(sas) == 1 && sas[0].LocalSPI != ike
		})
		NoLoss(t, pair.A, pair.B, 3)
	}
	if got := left.Status(t).Tunnels[0].IKE[0].Proposal; got != hybridIKE {
		t.Errorf("the IKE SA has %s, want %s", got, hybridIKE)
	}
	left.Do(t, "down", "peer")
	right.WaitPairs(t, 5*time.Second, 0)
	capture.Stop(t)
	// 2 IKE_INTERMEDIATE, IKE_AUTH, 4 rekeys of 2 or 3 exchanges and 2 deletes each
	v := Judge(t, capture.File, left.Keys)
	if v.Check(t, 18); v.Sealed < 2*(2+1+4*3) {
		t.Errorf("only %d protected IKE messages", v.Sealed)
	}
	left.Alive(t)
	right.Alive(t)
}

// charon6 is the environment variable that names the folder of a strongSwan 6 built with --enable-ml, --enable-sha3 and
// --enable-kernel-libipsec. No distribution here has one, so these cells are not in the table.
const charon6 = "COATI_LAB_CHARON6"

const charon6Plugins = "nonce random openssl sha3 ml kdf hmac sha1 sha2 aes gcm ccm cmac pem x509 pkcs1 pkcs8 pubkey constraints kernel-libipsec kernel-netlink socket-default vici updown"

func startCharon6(t *testing.T, h *Host) *Charon {
	t.Helper()
	folder := os.Getenv(charon6)
	return startCharon(t, h, false, charon6Plugins, filepath.Join(folder, "libexec/ipsec/charon"), filepath.Join(folder, "sbin/swanctl"), "  retransmit_tries = 5")
}

// TestStrongSwan6 is ML-KEM in every place where it may be, against a strongSwan 6 that COATI_LAB_CHARON6 names.
func TestStrongSwan6(t *testing.T) {
	NeedRoot(t)
	if os.Getenv(charon6) == "" {
		t.Skipf("%s names no strongSwan 6: docs/post-quantum.md has the results of a trial", charon6)
	}
	cases := []cipherCase{
		{"aes128gcm16-prfsha256-x25519-ke1_mlkem768", "aes128gcm16-x25519-ke1_mlkem768"},
		{"aes256gcm16-prfsha384-ecp384-ke1_mlkem1024", "aes256gcm16-ecp384-ke1_mlkem1024"},
		{"aes128-sha256-modp2048-ke1_mlkem512", "aes128-sha256-modp2048-ke1_mlkem512"},
		{"aes128gcm16-prfsha256-x25519-ke1_mlkem768-ke2_ecp256-ke3_mlkem512", "aes128gcm16-mlkem768"},
		{"aes128gcm16-prfsha256-x25519-ke1_mlkem768-ke1_none", "aes128gcm16-x25519-ke1_mlkem768-ke1_none"},
	}
	for _, role := range bothRoles {
		for _, c := range cases {
			t.Run(role+"/"+c.ike+"_"+c.esp, func(t *testing.T) {
				t.Parallel()
				pair := NewPair(t)
				tunnel := Between(pair.A, pair.B)
				tunnel.IKE, tunnel.ESP, tunnel.Start = c.ike, c.esp, "listen"
				if role == roleInitiator {
					tunnel.Start = "on-demand"
				}
				v := startBeside(t, pair, role, tunnel, toSwan(tunnel), func() *Charon { return startCharon6(t, pair.B) })
				v.connect(t)
				if got := v.coati.Status(t).Tunnels[0].IKE[0].Proposal; !strings.Contains(got, "ke1_mlkem") {
					t.Errorf("the IKE SA has %s", got)
				}
				v.rekeysEverything(t)
				v.coati.Do(t, "down", "peer")
				v.coati.Alive(t)
			})
		}
	}
}

// rekeysEverything has the child and the IKE SA rekeyed by either end, each time without a lost packet.
func (v *versus) rekeysEverything(t *testing.T) {
	t.Helper()
	for name, rekey := range map[string]func() error{
		"our child":         func() error { v.coati.Do(t, "rekey", "peer/lan"); return nil },
		"our IKE SA":        func() error { v.coati.Do(t, "rekey", "peer"); return nil },
		"the peer's child":  func() error { return v.charon.Rekey("--child", "lan") },
		"the peer's IKE SA": func() error { return v.charon.Rekey("--ike", "t") },
	} {
		child, ike := v.coati.Pairs(t)[0].In.SPI, v.coati.Status(t).Tunnels[0].IKE[0].LocalSPI
		if err := rekey(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		WaitFor(t, 15*time.Second, name+" to be rekeyed", func() bool {
			pairs, sas := v.coati.Pairs(t), v.coati.Status(t).Tunnels[0].IKE
			if len(pairs) != 1 || len(sas) != 1 {
				return false
			}
			if strings.HasSuffix(name, "child") {
				return pairs[0].In.SPI != child
			}
			return sas[0].LocalSPI != ike
		})
		NoLoss(t, v.A, v.B, 3)
	}
}
