package lab

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// IKEv1 with strongSwan at the other end: main mode with a pre-shared key, in both roles, the tunnel through both ends' userspace ESP.

const (
	v1IKE = "aes128-sha256-modp2048"
	v1ESP = "aes128-sha256"
)

// setUpV1 starts both ends of a tunnel of IKEv1.
func setUpV1(t *testing.T, role, ike, esp string, change ...func(*Tunnel, *swan)) *versus {
	t.Helper()
	pair := NewPair(t)
	tunnel := Between(pair.A, pair.B)
	tunnel.IKE, tunnel.ESP, tunnel.Start = ike, esp, "listen"
	tunnel.ExtraTunnel = "version = 1\n"
	if role == roleInitiator {
		tunnel.Start = "on-demand"
	}
	peer := toSwan(tunnel)
	peer.more = "version = 1\n  encap = yes"
	for _, f := range change {
		f(&tunnel, &peer)
	}
	return start(t, pair, role, tunnel, peer, "i_dont_care_about_security_and_use_aggressive_mode_psk = yes")
}

func TestV1StrongSwan(t *testing.T) {
	NeedRoot(t)
	for _, role := range bothRoles {
		for _, c := range []cipherCase{{v1IKE, v1ESP}, {"aes256-sha1-ecp256", "aes256-sha1"}, {"aes256-sha384-modp3072", "aes128gcm16-modp2048"}} {
			t.Run(role+"/"+c.String(), func(t *testing.T) {
				t.Parallel()
				v := setUpV1(t, role, c.ike, c.esp)
				v.judged(t)
				WaitFor(t, 10*time.Second, "strongSwan to hear of the end", func() bool { return len(v.charon.SAs(t)) == 0 })
				v.clean(t, 0)
				if !strings.Contains(v.charon.Log(), "Main Mode") && !strings.Contains(v.charon.Log(), "ID_PROT") {
					t.Errorf("it was not main mode: %s", v.charon.Log())
				}
			})
		}
	}
}

// rounds: strongSwan keeps the IKE SA that it has replaced for a long while, and by name rekeys both.
func rounds(what string) int {
	if what == caseIKEByPeer {
		return 1
	}
	return 2
}

// TestV1Rekeys has either side rekey the child and the IKE SA under numbered streams.
func TestV1Rekeys(t *testing.T) {
	NeedRoot(t)
	for _, what := range []string{caseChildByCoati, caseChildByPeer, caseIKEByCoati, caseIKEByPeer} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			v := setUpV1(t, roleInitiator, v1IKE, v1ESP, func(n *Tunnel, _ *swan) { n.Start = "now" })
			v.coati.WaitPairs(t, 20*time.Second, 1)
			s := v.stream(t)
			for range rounds(what) {
				spi, ike := v.charon.child(t, "t").SPIIn, v.charon.SAs(t)[0].InitiatorSPI
				child := true
				var err error
				switch what {
				case caseChildByCoati:
					v.coati.Do(t, "rekey", "peer/lan")
				case caseChildByPeer:
					err = v.charon.Rekey("--child", "lan")
				case caseIKEByCoati:
					child = false
					v.coati.Do(t, "rekey", "peer")
				case caseIKEByPeer:
					child = false
					err = v.charon.Rekey("--ike", "t")
				}
				if err != nil {
					t.Fatal(err)
				}
				WaitFor(t, 20*time.Second, "another SA to have taken over", func() bool {
					return slices.ContainsFunc(v.charon.SAs(t), func(sa CharonSA) bool {
						last := sa.Children
						return len(last) > 0 && (!child && sa.InitiatorSPI != ike || child && last[len(last)-1].SPIIn != spi)
					})
				})
				s.flows(t)
			}
			s.undisturbed(t)
		})
	}
}

// TestV1IKEScan: a probe for IKEv1 finds a gateway that has a tunnel of it, and nothing where there is none.
func TestV1IKEScan(t *testing.T) {
	NeedRoot(t)
	for version, want := range map[string]string{"1": "1 returned handshake", "2": "0 returned handshake; 0 returned notify"} {
		t.Run("version "+version, func(t *testing.T) {
			t.Parallel()
			pair := NewPair(t)
			tunnel := Between(pair.A, pair.B)
			tunnel.IKE, tunnel.ESP, tunnel.ExtraTunnel = v1IKE, v1ESP, "version = "+version+"\n"
			coati := StartCoati(t, pair.A, tunnel)
			output, err := pair.B.Run("ike-scan", "-M", "--sport=0", "--retry=2", "--timeout=1000", "--trans=(1=7,14=128,2=4,3=1,4=14)", pair.A.Outer4.String())
			if err != nil || !strings.Contains(output, want) {
				t.Errorf("%v: not %q in\n%s", err, want, output)
			}
			coati.Alive(t)
		})
	}
}
