package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"coati/policy"
)

// XAUTH and what mode config has beside addresses: IKEv1 alone.

// XAuthFiles names the files of XAUTH; empty: none.
type XAuthFiles struct{ Password, Users string }

const (
	maxXAuthUsers = 1 << 16
	maxXAuthText  = 128 // octets of a name or a password
	maxBanner     = 1024
	maxSplit      = 32
)

var xauthNames = []string{"xauth", "xauth-user", "xauth-password-file", "xauth-users-file", "mode-config", "banner", "split-include"}

var xauthKeys = []key[draft]{
	{"xauth", func(l *loader, d *draft, k setting) {
		i, ok := k.choice(l, policy.XAuthClient.String(), policy.XAuthServer.String())
		if ok {
			d.tunnel.V1.XAuth = policy.XAuthClient + policy.XAuthRole(i)
		}
	}},
	{"xauth-user", func(l *loader, d *draft, k setting) { d.tunnel.V1.User, _ = k.text(l, "alice") }},
	{"xauth-password-file", func(l *loader, d *draft, k setting) { d.files.XAuth.Password = k.file(l, d, "alice.password") }},
	{"xauth-users-file", func(l *loader, d *draft, k setting) { d.files.XAuth.Users = k.file(l, d, "users") }},
	{"mode-config", func(l *loader, d *draft, k setting) {
		i, _ := k.choice(l, "pull", "push")
		d.tunnel.V1.Push = i == 1
	}},
	{"banner", func(l *loader, d *draft, k setting) {
		if d.tunnel.V1.Banner, _ = k.text(l, "Welcome."); len(d.tunnel.V1.Banner) > maxBanner {
			k.errorf(l, "is too long: want at most %d octets", maxBanner)
		}
	}},
	{"split-include", func(l *loader, d *draft, k setting) {
		words, _ := k.texts(l, "10.1.0.0/16")
		if len(words) > maxSplit {
			k.errorf(l, "has %d networks: want at most %d", len(words), maxSplit)
			return
		}
		for _, w := range words {
			p, err := netip.ParsePrefix(w.v.text)
			if err != nil || !p.Addr().Is4() || p != p.Masked() {
				w.errorf(l, "%q is no IPv4 network: want one such as \"10.1.0.0/16\"", w.v.text)
				continue
			}
			d.tunnel.V1.SplitInclude = append(d.tunnel.V1.SplitInclude, p)
		}
	}},
}

// finishXAuth reads what XAUTH needs, and says what contradicts.
func (l *loader) finishXAuth(d *draft) {
	t := &d.tunnel
	need := func(name string, role policy.XAuthRole) bool {
		at, set := d.keys[name]
		switch {
		case set && t.V1.XAuth != role:
			l.errorf(at, "%s: is for xauth = %q: leave the key out", name, role)
		case !set && t.V1.XAuth == role:
			l.errorf(d.at, "[tunnel.%s] has no %s, which xauth = %q needs", t.Name, name, role)
		}
		return set && t.V1.XAuth == role
	}
	if need("xauth-user", policy.XAuthClient) && (len(t.V1.User) > maxXAuthText || !utf8.ValidString(t.V1.User)) {
		l.errorf(d.keys["xauth-user"], "xauth-user: want at most %d octets of UTF-8", maxXAuthText)
	}
	if need("xauth-password-file", policy.XAuthClient) && d.files.XAuth.Password != "" {
		data, err := readSecretFile(d.files.XAuth.Password, l.config.Gateway.SecretsPermissions)
		if err == nil {
			t.V1.Password, err = xauthPassword(strings.TrimRight(string(data), "\r\n"))
			clear(data)
		}
		if err != nil {
			l.errorf(d.keys["xauth-password-file"], "xauth-password-file %s: %s", d.files.XAuth.Password, err)
		}
	}
	if need("xauth-users-file", policy.XAuthServer) && d.files.XAuth.Users != "" {
		data, err := readSecretFile(d.files.XAuth.Users, l.config.Gateway.SecretsPermissions)
		if err == nil {
			t.V1.Users, err = xauthUsers(string(data))
			clear(data)
		}
		if err != nil {
			l.errorf(d.keys["xauth-users-file"], "xauth-users-file %s: %s", d.files.XAuth.Users, err)
		}
	}
	if at, set := d.keys["mode-config"]; set && len(t.Pool)+len(t.VirtualIP) == 0 {
		l.errorf(at, "mode-config: says who begins to speak of addresses: add pool or virtual-ip")
	}
	for _, name := range []string{"banner", "split-include"} {
		if at, set := d.keys[name]; set && len(t.Pool) == 0 {
			l.errorf(at, "%s: is told to peers with their addresses: add pool", name)
		}
	}
	if at, set := d.keys["start"]; t.V1.XAuth == policy.XAuthServer {
		if set && t.Start != policy.StartListen {
			l.errorf(at, "start: %q: with xauth the client begins the tunnel: say \"listen\"", t.Start)
		}
		t.Start = policy.StartListen
	} else if t.V1.XAuth == policy.XAuthClient && t.Start == policy.StartListen {
		l.errorf(at, "start: %q never happens: with xauth the client begins the tunnel", t.Start)
	}
}

func xauthPassword(s string) (policy.Secret, error) {
	if s == "" || len(s) > maxXAuthText {
		return policy.Secret{}, fmt.Errorf("want a password of 1 to %d octets", maxXAuthText)
	}
	return policy.NewSecret([]byte(s)), nil
}

// xauthUsers reads lines of a name, a blank and a password. Empty lines and those that begin with # say nothing.
func xauthUsers(text string) (out []policy.XAuthUser, err error) {
	seen := map[string]bool{}
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimRight(line, "\r")
		if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, password, ok := strings.Cut(line, " ")
		if !ok || name == "" || len(name) > maxXAuthText || !utf8.ValidString(name) {
			return nil, fmt.Errorf("line %d is not a name, a blank and a password", i+1)
		}
		if seen[name] {
			return nil, fmt.Errorf("line %d names a user that is there already", i+1)
		}
		seen[name] = true
		p, err := xauthPassword(password)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		if out = append(out, policy.XAuthUser{Name: name, Password: p}); len(out) > maxXAuthUsers {
			return nil, fmt.Errorf("has more than %d users", maxXAuthUsers)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("names no user")
	}
	return out, nil
}

func (w *writer) xauth(t *policy.PeerTunnel, f XAuthFiles) {
	w.text("xauth", t.V1.XAuth.String(), policy.XAuthNone.String())
	w.text("xauth-user", t.V1.User, "")
	w.text("xauth-password-file", f.Password, "")
	w.text("xauth-users-file", f.Users, "")
	if t.V1.XAuth == policy.XAuthClient && f.Password == "" || t.V1.XAuth == policy.XAuthServer && f.Users == "" {
		w.fail("tunnel %s has passwords of no file", t.Name)
	}
	if t.V1.Push {
		w.text("mode-config", "push", "")
	}
	w.text("banner", t.V1.Banner, "")
	if nets := t.V1.SplitInclude; len(nets) > 0 {
		out := make([]string, len(nets))
		for i, p := range nets {
			out[i] = p.String()
		}
		w.list("split-include", out)
	}
}
