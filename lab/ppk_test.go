package lab

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const ppkSecret = "a post-quantum pre-shared key of the lab"

// One Coati that may use a PPK, and a strongSwan that must, one that has the key of another name, and one that has none.
func TestPPKWithStrongSwan(t *testing.T) {
	NeedRoot(t)
	for _, role := range bothRoles {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			results.Fill(t, peerStrongSwan, role, casePPK)
			pair := NewPair(t)
			tunnel := Between(pair.A, pair.B)
			tunnel.IKE, tunnel.Start = usualIKE, "listen"
			if role == roleInitiator {
				tunnel.Start = "on-demand"
			}
			tunnel.ExtraTunnel = fmt.Sprintf("ppk-file = %q\nppk-id = \"lab\"\n", pair.A.Write(t, "lab.ppk", ppkSecret))
			peer := toSwan(tunnel)
			with := func(id string) swan {
				peer := peer
				peer.secrets = fmt.Sprintf(`ppk-1 { id-1 = %s
    secret = "%s" }`, id, ppkSecret)
				return peer
			}
			must := with("lab")
			must.more = "ppk_id = lab\n  ppk_required = yes"
			v := start(t, pair, role, tunnel, must)
			for _, c := range []struct {
				peer swan
				uses bool
			}{{must, true}, {with("other"), false}, {peer, false}} {
				v.charon.LoadAll(t, c.peer.conf())
				before := strings.Count(v.charon.Log(), "using PPK for PPK_ID 'lab'")
				v.connect(t)
				if uses := strings.Count(v.charon.Log(), "using PPK for PPK_ID 'lab'") > before; uses != c.uses {
					t.Errorf("with %q and %q strongSwan uses the key: %v", c.peer.more, c.peer.secrets, uses)
				}
				v.coati.Do(t, "down", "peer")
				WaitFor(t, 5*time.Second, "strongSwan to have no SA", func() bool { return len(v.charon.SAs(t)) == 0 })
			}
			v.coati.Alive(t)
		})
	}
}
