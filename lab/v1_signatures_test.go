package lab

import (
	"fmt"
	"strings"
	"testing"

	"coati/lab/pki"
)

// v1Conf turns a connection of IKEv2 into one of IKEv1.
func v1Conf(conf, more string) string {
	conf = strings.Replace(conf, "version = 2", "version = 1\n  encap = yes\n  send_cert = always\n  "+more, 1)
	return strings.NewReplacer("proposals = "+usualIKE, "proposals = "+v1IKE, "esp_proposals = "+usualESP, "esp_proposals = "+v1ESP).Replace(conf)
}

// TestV1Signatures: certificates with RSA and ECDSA, and raw RSA keys, in main and aggressive mode, with strongSwan in both roles.
func TestV1Signatures(t *testing.T) {
	NeedRoot(t)
	for _, role := range bothRoles {
		for _, c := range []struct {
			kind             string
			aggressive, bare bool
		}{{pki.RSA2048, false, false}, {pki.RSA2048, true, false}, {pki.P256, false, false}, {pki.P384, true, false}, {pki.RSA2048, false, true}} {
			t.Run(fmt.Sprintf("%s/%s aggressive=%t raw=%t", role, c.kind, c.aggressive, c.bare), func(t *testing.T) {
				t.Parallel()
				pair := NewPair(t)
				tunnel := signedTunnel(pair, role)
				tunnel.IKE, tunnel.ESP = v1IKE, v1ESP
				ours, theirs := "", ""
				var conf string
				if c.bare {
					a, b := pki.NewKey(t, c.kind), pki.NewKey(t, c.kind)
					ours = fmt.Sprintf("auth = \"pubkey\"\nkey-file = %q\nremote-key-file = %q\nlocal-id = \"fqdn:%s\"\nremote-id = \"fqdn:%s\"\n",
						pair.A.Write(t, "raw.key", pki.KeyPEM(t, a)), pair.A.Write(t, "remote.pub", pki.PublicPEM(t, b.Public())), nameA, nameB)
					pair.B.Write(t, "charon/swanctl/private/b.pem", pki.KeyPEM(t, b))
					pair.B.Write(t, "charon/swanctl/pubkey/a.pem", pki.PublicPEM(t, a.Public()))
					pair.B.Write(t, "charon/swanctl/pubkey/b.pem", pki.PublicPEM(t, b.Public()))
					conf = toSwan(tunnel).signed("pubkeys = b.pem", "pubkeys = a.pem")
				} else {
					ca := pki.New(t, "root", pki.RSA2048)
					a, b := newHolder(t, nameA, c.kind, ca, ca), newHolder(t, nameB, c.kind, ca, ca)
					ours = a.ours(t, pair.A, nameA, nameB)
					conf = b.theirs(t, pair.B, toSwan(tunnel))
				}
				if c.aggressive {
					ours, theirs = ours+"aggressive = true\n", "aggressive = yes"
				}
				tunnel.ExtraTunnel = ours + "version = 1\n"
				v := startSigned(t, pair, role, tunnel, v1Conf(conf, theirs))
				// tshark 4.0 does not always open what follows signatures.
				v.connect(t)
				NoLoss(t, v.B, v.A, 3)
				v.coati.Alive(t)
				if got := strings.Contains(v.charon.Log(), "AGGRESSIVE"); got != c.aggressive {
					t.Errorf("aggressive mode: %t", got)
				}
			})
		}
	}
}
