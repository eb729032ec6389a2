package config

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"

	"coati/policy"
)

// EAP: auth = "eap" for who begins the tunnel, remote-auth = "eap" for who lets such a peer in.

// EAPFiles names the files that EAP needs; empty: none.
type EAPFiles struct{ Password, Users, RADIUSSecret, Cert, Key, CA string }

// builtEAP are the methods that eap-methods may name.
var builtEAP = []policy.EAPMethod{policy.EAPMSCHAPv2, policy.EAPTLS, policy.EAPTTLS, policy.EAPMD5, policy.EAPGTC}

// innerEAP is what eap-inner may name; a gateway takes all of it unless it says otherwise.
var innerEAP = []policy.EAPMethod{policy.InnerMSCHAPv2, policy.InnerPAP, policy.EAPMSCHAPv2, policy.EAPMD5, policy.EAPGTC}

// clientEAP and serverEAP are the keys of either end alone.
var (
	clientEAP = []string{"eap-identity", "eap-password-file", "eap-server-id"}
	serverEAP = []string{"eap-users-file", "radius", "radius-secret-file"}
	bothEAP   = []string{"eap-methods", "eap-inner", "eap-cert-file", "eap-key-file", "eap-ca-file"}
)

var eapKeys = []key[draft]{
	{"eap-identity", func(l *loader, d *draft, k setting) { d.eap.Identity, _ = k.text(l, "alice") }},
	{"eap-password-file", func(l *loader, d *draft, k setting) { d.files.EAP.Password = k.file(l, d, "alice.password") }},
	{"eap-users-file", func(l *loader, d *draft, k setting) { d.files.EAP.Users = k.file(l, d, "users") }},
	{"radius", (*loader).readRADIUS},
	{"radius-secret-file", func(l *loader, d *draft, k setting) { d.files.EAP.RADIUSSecret = k.file(l, d, "radius.secret") }},
	{"eap-methods", func(l *loader, d *draft, k setting) {
		d.eap.Methods = k.methods(l, "mschapv2", builtEAP, policy.EAPMethod.String)
	}},
	{"eap-inner", func(l *loader, d *draft, k setting) {
		d.eap.Inner = k.methods(l, "pap", innerEAP, policy.EAPMethod.Inner)
	}},
	{"eap-cert-file", func(l *loader, d *draft, k setting) { d.files.EAP.Cert = k.file(l, d, "alice.pem") }},
	{"eap-key-file", func(l *loader, d *draft, k setting) { d.files.EAP.Key = k.file(l, d, "alice.key") }},
	{"eap-ca-file", func(l *loader, d *draft, k setting) { d.files.EAP.CA = k.file(l, d, "ca.pem") }},
	{"eap-server-id", func(l *loader, d *draft, k setting) {
		if d.eap.ServerID = k.identity(l); d.eap.ServerID.Type != policy.IDFQDN {
			k.errorf(l, "want a host name, as the server's certificate has it, such as \"fqdn:radius.example.org\"")
		}
	}},
}

// methods is a list of some of these, each once.
func (k setting) methods(l *loader, example string, known []policy.EAPMethod, word func(policy.EAPMethod) string) []policy.EAPMethod {
	var out []policy.EAPMethod
	var choices []string
	for _, m := range known {
		choices = append(choices, word(m))
	}
	list, _ := k.texts(l, example)
	for _, w := range list {
		i, ok := w.choice(l, choices...)
		if !ok {
			continue
		}
		if slices.Contains(out, known[i]) {
			w.errorf(l, "%q is there twice", w.v.text)
		}
		out = append(out, known[i])
	}
	return out
}

// finishEAP reads what EAP needs, and says what contradicts.
func (l *loader) finishEAP(d *draft) {
	t := &d.tunnel
	if t.LocalAuth != policy.ByEAP && t.RemoteAuth != policy.ByEAP {
		for _, name := range slices.Concat(clientEAP, serverEAP, bothEAP) {
			if at, set := d.keys[name]; set {
				l.errorf(at, "%s: nobody authenticates by EAP here: say auth = \"eap\" or remote-auth = \"eap\", or leave the key out", name)
			}
		}
		return
	}
	_, users := d.keys["eap-users-file"]
	_, radius := d.keys["radius"]
	if _, said := d.keys["remote-auth"]; !said {
		l.errorf(d.keys["auth"], `[tunnel.%s] has no remote-auth: say how the gateway proves who it is, as in remote-auth = "cert", or "eap" if EAP proves that too (RFC 5998)`, t.Name)
		return
	}
	t.EAP = &d.eap
	server := t.RemoteAuth == policy.ByEAP && (users || radius || t.LocalAuth != policy.ByEAP || t.Start == policy.StartListen)
	if len(t.EAP.Methods) == 0 && !radius {
		t.EAP.Methods = []policy.EAPMethod{policy.EAPMSCHAPv2}
	}
	l.finishTLS(d, server)
	if server {
		l.finishEAPServer(d)
	} else {
		l.finishEAPClient(d)
	}
	at, said := d.keys["eap-methods"]
	if !said {
		at = d.keys["remote-auth"]
	}
	for _, m := range t.EAP.Methods {
		switch alone := t.LocalAuth == policy.ByEAP && t.RemoteAuth == policy.ByEAP; {
		case alone && !m.Keys():
			l.errorf(at, "eap-methods: %q proves nothing of the gateway: with EAP alone (RFC 5998) both ends must prove who they are", m)
		case alone && m == policy.EAPMSCHAPv2:
			l.warnf(at, "eap-methods: %q without a certificate of the gateway lets who stands between try passwords at leisure", m)
		}
	}
}

// others reports keys of the other end.
func (l *loader) others(d *draft, names []string, why string) {
	for _, name := range names {
		if at, set := d.keys[name]; set {
			l.errorf(at, "%s: is for %s: leave the key out", name, why)
		}
	}
}

func (l *loader) finishEAPClient(d *draft) {
	e := &d.eap
	l.others(d, serverEAP, "the end that lets peers in, with remote-auth = \"eap\"")
	if d.tunnel.Start == policy.StartListen {
		l.errorf(d.keys["start"], `start: %q never happens: who authenticates by EAP begins the tunnel`, d.tunnel.Start)
	}
	if at, set := d.keys["eap-identity"]; !set {
		l.errorf(d.at, "[tunnel.%s] has no eap-identity, which auth = \"eap\" needs: the name of the user that we are", d.tunnel.Name)
	} else if len(e.Identity) > maxUser || !utf8.ValidString(e.Identity) {
		l.errorf(at, "eap-identity: want at most %d octets of UTF-8", maxUser)
	}
	at, set := d.keys["eap-password-file"]
	if needs := slices.ContainsFunc(e.Methods, policy.EAPMethod.Password); !needs {
		if set {
			l.errorf(at, "eap-password-file: no method of eap-methods has a password: leave the key out")
		}
		return
	}
	if !set {
		l.errorf(d.at, "[tunnel.%s] has no eap-password-file: name the file that holds the user's password", d.tunnel.Name)
	}
	if d.files.EAP.Password == "" {
		return
	}
	data, err := l.privateFile(d.files.EAP.Password)
	if err == nil {
		e.Password, err = decodePassword(data)
	}
	if err != nil {
		l.errorf(at, "eap-password-file %s: %s", d.files.EAP.Password, err)
	}
}

func (l *loader) finishEAPServer(d *draft) {
	t := &d.tunnel
	l.others(d, clientEAP, "the end that begins, with auth = \"eap\"")
	if at, set := d.keys["start"]; !set {
		t.Start = policy.StartListen
	} else if t.Start != policy.StartListen {
		l.errorf(at, "start: %q: who authenticates by EAP begins the tunnel: say \"listen\"", t.Start)
	}
	if at, set := d.keys["reauth"]; set && t.Reauth > 0 {
		l.errorf(at, "reauth: the peer begins this tunnel, so only the peer can authenticate anew: leave the key out")
	}
	for name, act := range map[string]policy.LossAction{"on-dead": t.OnDead, "on-close": t.OnClose} {
		if act > policy.LossClear {
			l.errorf(d.keys[name], "%s: %q: who authenticates by EAP begins the tunnel: leave the key out", name, act)
		}
	}
	at, set := d.keys["eap-users-file"]
	if _, asks := d.keys["radius"]; asks || d.files.EAP.RADIUSSecret != "" {
		l.finishRADIUS(d)
		if set {
			l.errorf(at, "eap-users-file: the RADIUS server knows the users: leave one of the two out")
		}
		return
	}
	if needs := slices.ContainsFunc(d.eap.Methods, policy.EAPMethod.Password); !needs {
		if set {
			l.errorf(at, "eap-users-file: no method of eap-methods has a password: leave the key out")
		}
		d.eap.Users = map[string]policy.Secret{}
		return
	}
	if !set {
		l.errorf(d.at, "[tunnel.%s] has no eap-users-file, which remote-auth = \"eap\" needs: a user and a password in each line; or radius, the servers that know them", t.Name)
	}
	if d.files.EAP.Users == "" {
		return
	}
	data, err := l.privateFile(d.files.EAP.Users)
	if err == nil {
		d.eap.Users, err = decodeUsers(data)
		clear(data)
	}
	if err != nil {
		l.errorf(at, "eap-users-file %s: %s", d.files.EAP.Users, err)
	}
}

// finishTLS reads the certificates of EAP-TLS and EAP-TTLS: a client of EAP-TTLS has none, and a server of EAP-TTLS looks at none.
func (l *loader) finishTLS(d *draft, server bool) {
	e, files := &d.eap, &d.files.EAP
	tls, ttls := e.Allows(policy.EAPTLS), e.Allows(policy.EAPTTLS)
	need := func(key string, needed bool) {
		at, set := d.keys[key]
		switch {
		case needed && !set:
			l.errorf(d.at, "[tunnel.%s] has no %s, which eap-methods needs", d.tunnel.Name, key)
		case !needed && set:
			l.errorf(at, "%s: no method of eap-methods uses it: leave the key out", key)
		}
	}
	need("eap-cert-file", tls || ttls && server)
	need("eap-key-file", tls || ttls && server)
	need("eap-ca-file", tls || ttls && !server)
	if !server {
		need("eap-server-id", tls || ttls)
	}
	if _, set := d.keys["eap-inner"]; set && !ttls {
		l.errorf(d.keys["eap-inner"], "eap-inner: is for eap-methods = [\"ttls\"]: leave the key out")
	} else if !set && ttls {
		if e.Inner = innerEAP; !server {
			e.Inner = innerEAP[:1]
		}
	}
	if files.Cert != "" && files.Key != "" {
		e.Credential = l.tlsCredential(d)
	}
	if files.CA == "" {
		return
	}
	authorities, err := once(l.certs, files.CA, readCertificates)
	if err != nil {
		l.errorf(d.keys["eap-ca-file"], "eap-ca-file %s: %s", files.CA, err)
	}
	e.Trust = &policy.Trust{Authorities: authorities}
}

func (l *loader) tlsCredential(d *draft) *policy.Credential {
	files := &d.files.EAP
	chain, err := once(l.certs, files.Cert, readCertificates)
	if err != nil {
		l.errorf(d.keys["eap-cert-file"], "eap-cert-file %s: %s", files.Cert, err)
		return nil
	}
	data, err := readSecretFile(files.Key, l.config.Gateway.SecretsPermissions)
	if err != nil {
		l.errorf(d.keys["eap-key-file"], "eap-key-file %s: %s", files.Key, err)
		return nil
	}
	key, err := decodeKey(data, leastRSA(d))
	clear(data)
	switch {
	case err != nil:
		l.errorf(d.keys["eap-key-file"], "eap-key-file %s: %s", files.Key, err)
		return nil
	case !policy.EqualKeys(key.Public(), chain[0].PublicKey):
		l.errorf(d.keys["eap-key-file"], "eap-key-file %s: is not the key of the certificate %s in %s", files.Key, subject(chain[0]), files.Cert)
	}
	if why := outdated(chain[0], l.now()); why != "" {
		l.warnf(d.keys["eap-cert-file"], "eap-cert-file %s: the certificate %s %s: the other end will refuse it", files.Cert, subject(chain[0]), why)
	}
	return &policy.Credential{Key: policy.NewPrivateKey(key), Chain: chain}
}

// readRADIUS reads the servers: addresses, with or without port.
func (l *loader) readRADIUS(d *draft, k setting) {
	list, _ := k.texts(l, "192.0.2.9")
	for _, w := range list {
		at, err := netip.ParseAddrPort(w.v.text)
		if a, err2 := netip.ParseAddr(w.v.text); err2 == nil {
			at, err = netip.AddrPortFrom(a, radiusPort), nil
		}
		switch {
		case err != nil || at.Port() == 0:
			w.errorf(l, "%q is no address of a RADIUS server: want one such as \"192.0.2.9\" or \"[2001:db8::9]:1812\"", w.v.text)
			continue
		case at.Addr().Zone() != "" || at.Addr().IsUnspecified() || at.Addr().IsMulticast():
			w.errorf(l, "%s is no address of one server", at.Addr())
			continue
		}
		d.eap.RADIUS.Servers = append(d.eap.RADIUS.Servers, netip.AddrPortFrom(at.Addr().Unmap(), at.Port()))
	}
	if len(d.eap.RADIUS.Servers) > maxRADIUS {
		k.errorf(l, "has %d servers: want at most %d", len(d.eap.RADIUS.Servers), maxRADIUS)
	}
}

func (l *loader) finishRADIUS(d *draft) {
	if at, set := d.keys["eap-methods"]; set {
		l.errorf(at, "eap-methods: the RADIUS server chooses: leave the key out")
	}
	if _, set := d.keys["radius"]; !set {
		l.errorf(d.keys["radius-secret-file"], "radius-secret-file: there is no radius: name the servers, as in radius = [\"192.0.2.9\"]")
	}
	at, set := d.keys["radius-secret-file"]
	if !set {
		l.errorf(d.keys["radius"], "radius: needs radius-secret-file, the file of the secret we share with the servers")
	}
	if d.files.EAP.RADIUSSecret == "" {
		return
	}
	data, err := readSecretFile(d.files.EAP.RADIUSSecret, l.config.Gateway.SecretsPermissions)
	if err == nil {
		d.eap.RADIUS.Secret, err = decodePassword(data)
		clear(data)
	}
	if err != nil {
		l.errorf(at, "radius-secret-file %s: %s", d.files.EAP.RADIUSSecret, err)
	} else if n := d.eap.RADIUS.Secret.Len(); n < 16 {
		l.warnf(at, "radius-secret-file %s: the secret has %d octets: 16 or more keep it from being guessed (RFC 2865, section 3)", d.files.EAP.RADIUSSecret, n)
	}
}

const (
	radiusPort = 1812 // RFC 2865, section 3
	maxRADIUS  = 4    // servers: more would not be asked in the time a peer waits

	maxUser     = 253 // octets: more RADIUS cannot say (RFC 2865, section 5.1)
	maxPassword = 256 // octets: more MS-CHAP-V2 does not take (RFC 2759, section 4)
)

// decodePassword reads a file with one password: its text without the newline at the end.
func decodePassword(data []byte) (policy.Secret, error) {
	text, _ := bytes.CutSuffix(data, []byte("\n"))
	text, _ = bytes.CutSuffix(text, []byte("\r"))
	if err := checkPassword(text); err != nil {
		return policy.Secret{}, err
	}
	return policy.NewSecret(bytes.Clone(text)), nil
}

func checkPassword(text []byte) error {
	switch {
	case len(text) == 0:
		return errors.New("is empty: it must hold a password")
	case len(text) > maxPassword:
		return fmt.Errorf("holds a password of more than %d octets", maxPassword)
	case !utf8.Valid(text) || bytes.ContainsAny(text, "\r\n\x00"):
		return errors.New("holds no password: want one line of UTF-8")
	}
	return nil
}

// decodeUsers reads a file of users: in each line a name, blanks, and the password, which is all that follows. Empty lines and
// those that begin with # are nothing. The lines are not quoted in errors: they hold passwords.
func decodeUsers(data []byte) (map[string]policy.Secret, error) {
	users := map[string]policy.Secret{}
	for i, line := range bytes.Split(data, []byte("\n")) {
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(bytes.TrimSpace(line)) == 0 || line[0] == '#' {
			continue
		}
		end := bytes.IndexAny(line, " \t")
		if end <= 0 {
			return nil, fmt.Errorf("line %d: want a user, a blank and a password", i+1)
		}
		name, secret := string(line[:end]), bytes.TrimLeft(line[end:], " \t")
		if len(name) > maxUser || !utf8.ValidString(name) {
			return nil, fmt.Errorf("line %d: want a user of at most %d octets of UTF-8", i+1, maxUser)
		}
		if err := checkPassword(secret); err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		if _, twice := users[name]; twice {
			return nil, fmt.Errorf("line %d: the user %q is there twice", i+1, name)
		}
		users[name] = policy.NewSecret(bytes.Clone(secret))
	}
	if len(users) == 0 {
		return nil, errors.New("holds no user: want a user, a blank and a password in each line")
	}
	return users, nil
}

// eap writes the keys of EAP.
func (w *writer) eap(t *policy.PeerTunnel, f EAPFiles) {
	e := t.EAP
	if e == nil {
		return
	}
	w.text("eap-identity", e.Identity, "")
	w.text("eap-password-file", f.Password, "")
	w.text("eap-users-file", f.Users, "")
	var servers []string
	for _, s := range e.RADIUS.Servers {
		servers = append(servers, s.String())
	}
	if len(servers) > 0 {
		w.list("radius", servers)
	}
	w.text("radius-secret-file", f.RADIUSSecret, "")
	if (len(servers) > 0) != (f.RADIUSSecret != "") {
		w.fail("tunnel %s has a secret of no file", t.Name)
	}
	if len(e.Users) > 0 && f.Users == "" || (e.Password.Len() > 0) != (f.Password != "") {
		w.fail("tunnel %s has users or a password of no file", t.Name)
	}
	var words []string
	for _, m := range e.Methods {
		words = append(words, m.String())
	}
	if !slices.Equal(e.Methods, []policy.EAPMethod{policy.EAPMSCHAPv2}) && len(words) > 0 {
		w.list("eap-methods", words)
	}
	usual := innerEAP
	if !e.Serves() {
		usual = innerEAP[:1]
	}
	if len(e.Inner) > 0 && !slices.Equal(e.Inner, usual) {
		words = nil
		for _, m := range e.Inner {
			words = append(words, m.Inner())
		}
		w.list("eap-inner", words)
	}
	w.text("eap-cert-file", f.Cert, "")
	w.text("eap-key-file", f.Key, "")
	w.text("eap-ca-file", f.CA, "")
	w.identity("eap-server-id", e.ServerID)
	if (e.Credential != nil) != (f.Cert != "") || (e.Trust != nil) != (f.CA != "") {
		w.fail("tunnel %s has certificates for EAP of no file", t.Name)
	}
}

func sayEAP(e *policy.EAP) string {
	switch {
	case e == nil:
		return "none"
	case len(e.RADIUS.Servers) > 0:
		return fmt.Sprintf("RADIUS servers %v", e.RADIUS.Servers)
	case e.Users != nil:
		return fmt.Sprintf("%d users by %s", len(e.Users), strings.Trim(fmt.Sprint(e.Methods), "[]"))
	}
	return fmt.Sprintf("%s by %s", e.Identity, strings.Trim(fmt.Sprint(e.Methods), "[]"))
}
