package config

import "coati/policy"

// maxPPKID is the longest name of a PPK, in octets: far beyond any that people write.
const maxPPKID = 256

// finishChildless refuses what is not built in.
func (l *loader) finishChildless(d *draft) {
	t := &d.tunnel
	if !t.Childless {
		return
	}
	if t.LocalAuth == policy.ByEAP || t.Version == 1 {
		l.errorf(d.keys["childless"], "childless: is not built in beside EAP, and unknown to IKEv1: leave the key out")
	}
}

// finishPPK reads a tunnel's post-quantum pre-shared key (RFC 8784).
func (l *loader) finishPPK(d *draft) {
	t := &d.tunnel
	at, named := d.keys["ppk-file"]
	if !named {
		for _, k := range []string{"ppk-id", "ppk-required"} {
			if at, set := d.keys[k]; set {
				l.errorf(at, "%s: there is no ppk-file: name the file that holds the post-quantum pre-shared key", k)
			}
		}
		return
	}
	if t.LocalAuth == policy.ByEAP || t.RemoteAuth == policy.ByEAP {
		l.errorf(at, "ppk-file: beside EAP a post-quantum pre-shared key is not built in: leave the key out")
	}
	if t.Version == 1 {
		l.errorf(at, "ppk-file: IKEv1 knows no post-quantum pre-shared keys: leave the key out")
	}
	if _, set := d.keys["ppk-id"]; !set {
		l.errorf(at, "ppk-file: the key has no name that both ends know: add ppk-id")
	}
	if len(t.PPKID) > maxPPKID {
		l.errorf(d.keys["ppk-id"], "ppk-id: is too long: want at most %d octets", maxPPKID)
	}
	if d.files.PPK == "" {
		return
	}
	p := l.psk(d.files.PPK)
	switch {
	case p.err != nil:
		l.errorf(at, "ppk-file %s: %s", d.files.PPK, p.err)
		return
	case p.warning != "":
		l.warnf(at, "ppk-file %s: %s", d.files.PPK, p.warning)
	case p.secret.Len() < 32:
		l.warnf(at, "ppk-file %s: a key of less than 32 octets does not resist a quantum computer (RFC 8784, section 6)", d.files.PPK)
	}
	t.PPK = p.secret.Clone()
}
