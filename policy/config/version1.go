package config

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"

	"coati/policy"
)

// What a tunnel of version = 1 cannot say, because IKEv1 cannot: a suite is a block cipher, a hash and a group; a pair of SAs has one
// selector at each end, with one port or all of them.

var (
	defaultV1IKE = policy.DefaultV1IKE()
	defaultV1ESP = []policy.Proposal{policy.MustProposal(policy.ProtocolESP, "aes128-aes256-sha256")}
)

// defaults are the proposals of a tunnel that names none.
type defaults struct{ ike, esp []policy.Proposal }

func defaultsOf(version uint8) defaults {
	if version == 1 {
		return defaults{defaultV1IKE, defaultV1ESP}
	}
	return defaults{defaultIKE, defaultESP}
}

func (l *loader) finishVersion1(d *draft) {
	t := &d.tunnel
	if t.Version != 1 {
		l.refuseVersion1(d)
		return
	}
	if at, set := d.keys["aggressive"]; set && t.V1.Aggressive && t.LocalAuth == policy.ByPSK {
		l.warnf(at, "aggressive: whoever asks this gateway can guess the key off-line: have both ends use main mode, or a long random key")
	}
	l.finishXAuth(d)
	l.checkVersion1Auth(d)
	if at, set := d.keys["mobike"]; set {
		l.errorf(at, "mobike: IKEv1 SAs do not move: leave the key out")
	}
	if at, set := d.keys["fragment-size"]; set {
		l.errorf(at, "fragment-size: fragments of IKEv1 are not built in: leave the key out")
	}
	if _, set := d.keys["ike"]; !set {
		t.IKE = defaultV1IKE
	}
	for _, p := range t.IKE {
		if len(policy.V1Suites([]policy.Proposal{p}, 0)) == 0 {
			l.errorf(d.keys["ike"], "ike: IKEv1 cannot say %q: it wants a cipher, a hash and a group, as in \"aes256-sha256-modp2048\"", p)
		}
	}
	for i, c := range d.children {
		child := &t.Children[i]
		if _, set := c.keys["esp"]; !set {
			child.ESP = defaultV1ESP
		}
		for _, p := range child.ESP {
			if len(policy.V1Suites([]policy.Proposal{p}, p.First(policy.TransformKE).ID)) == 0 {
				l.errorf(c.keys["esp"], "esp: IKEv1 cannot say %q: write one such as \"aes256-sha256\" or \"aes128gcm16\"", p)
			}
		}
		for _, end := range []struct {
			key string
			set []policy.Selector
		}{{"local-ts", child.Local}, {"remote-ts", child.Remote}} {
			at, set := c.keys[end.key]
			if !set {
				at = c.at
			}
			if len(end.set) != 1 {
				l.errorf(at, "%s: IKEv1 has one selector at each end of a child, not %d: write a child for each", end.key, len(end.set))
				continue
			}
			if s := end.set[0]; !(s.StartPort == 0 && s.EndPort == 65535) && (s.StartPort != s.EndPort || s.StartPort == 0 || policy.HasTypes(s.Protocol)) {
				l.errorf(at, "%s: IKEv1 has one port or all of them, and cannot say %s", end.key, s)
			}
		}
	}
}

// checkVersion1Auth: one number says for both ends how they authenticate.
func (l *loader) checkVersion1Auth(d *draft) {
	t := &d.tunnel
	hybrid := t.V1.XAuth == policy.XAuthClient && t.LocalAuth == policy.ByNobody && t.RemoteAuth.Signs() ||
		t.V1.XAuth == policy.XAuthServer && t.LocalAuth.Signs() && t.RemoteAuth == policy.ByNobody
	if !hybrid && (t.LocalAuth != t.RemoteAuth && !(t.LocalAuth.Signs() && t.RemoteAuth.Signs()) || !t.LocalAuth.Signs() && t.LocalAuth != policy.ByPSK) {
		l.errorf(d.keys["version"], "version: with IKEv1 both ends authenticate by a pre-shared key, or both by signatures, or with xauth the server alone: see auth and remote-auth")
		return
	}
	keys := []crypto.PublicKey{}
	if t.Credential != nil && t.Credential.Key.Signer() != nil {
		keys = append(keys, t.Credential.Key.Public())
	}
	if t.Trust != nil {
		keys = append(keys, t.Trust.Keys...)
	}
	for i, key := range keys {
		at, name := d.keys["remote-key-file"], "remote-key-file"
		if i == 0 && t.Credential != nil {
			at, name = d.keys["key-file"], "key-file"
		}
		switch k := key.(type) {
		case ed25519.PublicKey:
			l.errorf(at, "%s: IKEv1 has no signatures by Ed25519: use RSA, or ECDSA", name)
		case *rsa.PublicKey:
			if n := k.N.BitLen(); n < 2048 {
				l.warnf(at, "%s: an RSA key of %d bits is insecure: it protects from nobody who means harm", name, n)
			}
		}
	}
}

// refuseVersion1 reports what is for IKEv1 alone.
func (l *loader) refuseVersion1(d *draft) {
	for _, name := range append([]string{"aggressive", "proposal-check"}, xauthNames...) {
		if at, set := d.keys[name]; set {
			l.errorf(at, "%s: is for IKEv1 alone: add version = 1, or leave the key out", name)
		}
	}
	for _, p := range d.tunnel.IKE {
		for _, t := range p.Transforms {
			if a := t.Algorithm(); a != nil && a.Use&policy.UseIKE == 0 && t.Type != policy.TransformPRF {
				l.errorf(d.keys["ike"], "ike: %s is for IKEv1 alone: add version = 1, or name another", a.Keyword)
			}
		}
	}
}
