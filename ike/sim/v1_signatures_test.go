package sim

import (
	"crypto"
	"testing"
	"time"

	"coati/ike"
	"coati/lab/pki"
	"coati/policy"
)

var v1Modes = map[string]func(*policy.PeerTunnel){"main mode": func(*policy.PeerTunnel) {}, "aggressive mode": aggressive}

func TestV1SignaturesOfEveryKindOfKey(t *testing.T) {
	t.Parallel()
	for mode, set := range v1Modes {
		for _, kind := range []string{pki.RSA2048, pki.P256, pki.P384, pki.P521} {
			ca := pki.New(t, "root", pki.P256)
			w, a, b := pair(t, 7, v1Of(papers(t, ca, kind, "a.example", "b.example", ca), set), v1Of(papers(t, ca, kind, "b.example", "a.example", ca), set))
			a.Say(1, "t", "lan")
			w.Run(5 * time.Second)
			b.Say(2, "t", "lan")
			w.Run(5 * time.Second)
			if len(b.Plane.Received) != 1 || len(a.Plane.Received) != 1 || !a.Up("t") || !b.Up("t") {
				t.Errorf("%s, %s: received %v; %q %q", mode, kind, b.Plane.Received, a.Log, b.Log)
			}
			noFaults(t, w)
		}
	}
}

// A key that is known beforehand needs no authority: neither alone nor in a certificate that is pinned by its key.
func TestV1KnownKeysAuthenticate(t *testing.T) {
	t.Parallel()
	for mode, set := range v1Modes {
		for _, sendsCert := range []bool{false, true} {
			ca := pki.New(t, "nobody trusts it", pki.RSA2048)
			keys := []crypto.Signer{pki.NewKey(t, pki.RSA2048), pki.NewKey(t, pki.RSA2048)}
			end := func(mine int, local, remote string) func(*policy.PeerTunnel) {
				return func(tt *policy.PeerTunnel) {
					papers(t, ca, pki.RSA2048, local, remote, ca)(tt)
					tt.LocalAuth, tt.RemoteAuth = policy.ByPublicKey, policy.ByPublicKey
					tt.Credential = &policy.Credential{Key: policy.NewPrivateKey(keys[mine])}
					if sendsCert {
						tt.LocalAuth = policy.ByCert
						tt.Credential.Chain = append(tt.Credential.Chain, ca.Issue(t, local, keys[mine].Public()))
					}
					tt.Trust = &policy.Trust{Keys: []crypto.PublicKey{keys[1-mine].Public()}}
				}
			}
			w, a, b := pair(t, 7, v1Of(end(0, "a.example", "b.example"), set), v1Of(end(1, "b.example", "a.example"), set))
			a.Say(1, "t", "lan")
			w.Run(5 * time.Second)
			if len(b.Plane.Received) != 1 {
				t.Errorf("%s, certificate %v: received %v; %q %q", mode, sendsCert, b.Plane.Received, a.Log, b.Log)
			}
			noFaults(t, w)
		}
	}
}

func TestV1BadCertificatesAreExplainedAndRefused(t *testing.T) {
	t.Parallel()
	ca, other := pki.New(t, "root", pki.P256), pki.New(t, "another root", pki.P256)
	for mode, set := range v1Modes {
		for name, c := range map[string]struct {
			forA, forB func(*policy.PeerTunnel)
			atA, atB   string
		}{
			"the initiator's authority": {papers(t, other, pki.P256, "a.example", "b.example", ca), papers(t, ca, pki.P256, "b.example", "a.example", ca), "", "is from an unknown authority"},
			"the responder's authority": {papers(t, ca, pki.P256, "a.example", "b.example", ca), papers(t, other, pki.P256, "b.example", "a.example", ca), "is from an unknown authority", ""},
			"the initiator's name":      {papers(t, ca, pki.P256, "x.example", "b.example", ca), papers(t, ca, pki.P256, "b.example", "a.example", ca), "", "the peer says it is fqdn:x.example, tunnel t expects fqdn:a.example"},
			"the kind of key":           {papers(t, ca, pki.RSA2048, "a.example", "b.example", ca), papers(t, ca, pki.P256, "b.example", "a.example", ca), "", "the peer wants to authenticate by RSA signatures, and we by ECDSA signatures on P-256"},
		} {
			w, a, b := pair(t, 7, v1Of(c.forA, set), v1Of(c.forB, set))
			a.Command(ike.Up, "t", "lan")
			w.Run(2 * time.Minute)
			if c.atA != "" && !a.Said(c.atA) || c.atB != "" && !b.Said(c.atB) {
				t.Errorf("%s, %s: %q and %q", mode, name, a.Log, b.Log)
			}
			if _, children := b.Established("t"); children != 0 || a.Up("t") {
				t.Errorf("%s, %s: it is up", mode, name)
			}
			noFaults(t, w)
		}
	}
}
