package lab

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// oldSuites have every algorithm of IKE that a careful configuration leaves out and both have, each at least once.
var oldSuites = []string{
	"aes128ccm16-prfsha256-modp1536",
	"aes256ccm8-prfaesxcbc-x25519",
	"aes192ccm12-prfaescmac-ecp521",
	"3des-md5-prfmd5-modp1024",
	"3des-sha1-prfsha1-modp768",
	"camellia256-sha512-prfsha512-modp2048s256",
	"camellia128-aesxcbc-prfaesxcbc-modp2048s224",
	"camellia192-aescmac-prfaescmac-modp1024s160",
	"aes256-aesxcbc-prfsha384-modp3072",
	"aes128-aescmac-prfsha256-modp4096",
	"aes256ctr-md5-prfsha256-ecp256",
	"chacha20poly1305-prfsha512-ecp384",
	"aes256gcm8-prfsha256-x25519",
}

// Coati knows all of them, its peer one after the other.
func TestOldCiphersOfIKE(t *testing.T) {
	NeedRoot(t)
	for _, role := range bothRoles {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			results.Fill(t, peerStrongSwan, role, caseOldCiphers)
			pair := NewPair(t)
			tunnel := Between(pair.A, pair.B)
			quoted := make([]string, len(oldSuites))
			for i, s := range oldSuites {
				quoted[i] = fmt.Sprintf("%q", s)
			}
			tunnel.Start, tunnel.ExtraTunnel = "listen", "ike = ["+strings.Join(quoted, ", ")+"]\n"
			if role == roleInitiator {
				tunnel.Start = "on-demand"
			}
			peer := toSwan(tunnel)
			v := startBeside(t, pair, role, tunnel, peer, func() *Charon {
				return startCharon(t, pair.B, false, charonPlugins+" xcbc", charonProgram, swanctlProgram)
			})
			for _, suite := range oldSuites {
				peer.ike = suite
				v.charon.LoadAll(t, peer.conf())
				v.connect(t)
				got, want := strings.Split(v.coati.Status(t).Tunnels[0].IKE[0].Proposal, "-"), strings.Split(suite, "-")
				slices.Sort(got)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Errorf("the IKE SA has %v, want %v", got, want)
				}
				v.coati.Do(t, "down", "peer")
				WaitFor(t, 5*time.Second, "strongSwan to have no SA", func() bool { return len(v.charon.SAs(t)) == 0 })
			}
			v.coati.Alive(t)
		})
	}
}
