package lab

import (
	"testing"
	"time"
)

// An IKE SA that strongSwan takes without a child alone, and begins so; the first child then has a key exchange of its own,
// which only CREATE_CHILD_SA can do.
func TestChildlessWithStrongSwan(t *testing.T) {
	NeedRoot(t)
	for _, role := range bothRoles {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			results.Fill(t, peerStrongSwan, role, caseChildless)
			pair := NewPair(t)
			tunnel := Between(pair.A, pair.B)
			tunnel.IKE, tunnel.ESP, tunnel.Start, tunnel.ExtraTunnel = usualIKE, "aes128gcm16-ecp384", "listen", "childless = true\n"
			if role == roleInitiator {
				tunnel.Start = "on-demand"
			}
			peer := toSwan(tunnel)
			peer.more = "childless = force"
			v := start(t, pair, role, tunnel, peer)
			v.connect(t)
			if got := v.coati.Pairs(t)[0].Proposal; got != "aes128gcm16-ecp384-noesn" {
				t.Errorf("the first child has %s", got)
			}
			v.coati.Do(t, "down", "peer")
			WaitFor(t, 5*time.Second, "strongSwan to have no SA", func() bool { return len(v.charon.SAs(t)) == 0 })
			v.coati.Alive(t)
		})
	}
}
