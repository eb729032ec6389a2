package sim

import (
	"time"

	"coati/policy"
)

// roadWarrior is a scenario's tunnel whose first end authenticates by EAP-MSCHAPv2, and the second by a shared key.
func roadWarrior(t *policy.PeerTunnel, second bool) {
	t.EAP = &policy.EAP{Methods: []policy.EAPMethod{policy.EAPMSCHAPv2}}
	secret := policy.NewSecret([]byte("correct horse"))
	if second {
		t.RemoteAuth, t.Start = policy.ByEAP, policy.StartListen
		t.EAP.Users = map[string]policy.Secret{"alice": secret}
		return
	}
	t.LocalAuth = policy.ByEAP
	t.EAP.Identity, t.EAP.Password = "alice", secret
}

func eapScenario(rekey func(w *World, a, b *Host)) Scenario {
	return Scenario{
		Name: "eap", About: "one end authenticates by EAP, on a network that loses, duplicates and forges; rekeys, crashes", Pairs: 1, Chaos: 2 * time.Minute, Every: 8 * time.Second,
		Network: Network{Loss: 0.15, Duplicate: 0.1, Jitter: 30 * time.Millisecond}, Attacker: Attacker{Mutate: 0.2, Replay: 0.3, Reflect: 0.1, Inject: 0.3},
		Tunnel: roadWarrior,
		Act: func(w *World, a, b *Host) {
			if w.Rand.IntN(3) > 0 {
				rekey(w, a, b)
				return
			}
			h := []*Host{a, b}[w.Rand.IntN(2)]
			h.Crash()
			w.After(time.Duration(w.Rand.IntN(10))*time.Second, h.Restart)
		},
	}
}
