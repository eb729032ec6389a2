package lab

import (
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"

	"coati/lab/pki"
)

// EAP: a gateway that proves itself by a certificate, and a user with a password. Each role is one pair of daemons, which
// negotiate once by each method.

const (
	userName     = "alice"
	userPassword = "correct horse battery"

	caseEAPRefused = "EAP, wrong passwords and unknown users explained"
	caseEAPCoati   = "EAP-MSCHAPv2, two Coatis"

	// swanEAP are the plugins for EAP, beside those that StartCharon names.
	swanEAP = "load = " + charonPlugins + " eap-identity eap-md5 eap-mschapv2 eap-gtc xauth-generic eap-tls eap-ttls\n" +
		"plugins { eap-gtc { backend = generic } }"
)

func eapMethods() []string { return []string{"mschapv2", "md5", "gtc", "tls", "ttls"} }

// passwordMethods are those whose password a test may get wrong.
func passwordMethods() []string { return eapMethods()[:3] }

func caseEAP(method string) string { return "EAP-" + strings.ToUpper(method) }

func eapCells() []Cell {
	cells := []Cell{{peerCoati, roleBoth, caseEAPCoati}}
	for _, role := range bothRoles {
		for _, m := range eapMethods() {
			cells = append(cells, Cell{peerStrongSwan, role, caseEAP(m)})
		}
		cells = append(cells, Cell{peerStrongSwan, role, caseEAPRefused})
	}
	return cells
}

// swanEAPs is a swanctl.conf with a connection of this name for each method, whose user proves who she is by EAP: strongSwan is
// the user, or the gateway.
func swanEAPs(s swan, isUser bool, user, secret string) string {
	var b strings.Builder
	b.WriteString("connections {\n")
	for _, m := range eapMethods() {
		cert, byEAP := "auth = pubkey\n    certs = b.pem\n    id = "+m+".example", "auth = eap-"+m+"\n    id = %any\n    eap_id = %any"
		if isUser {
			cert, byEAP = "auth = pubkey\n    id = "+nameA, "auth = eap-"+m+"\n    id = "+nameB+"\n    eap_id = "+user
			if m == "tls" {
				byEAP += "\n    certs = user.pem"
			}
		}
		local, remote := cert, byEAP
		if isUser {
			local, remote = byEAP, cert
		}
		fmt.Fprintf(&b, "%s { version = 2\n  local_addrs = %s\n  remote_addrs = %s\n  proposals = %s\n  send_certreq = yes\n  local { %s }\n  remote { %s }\n", m, s.local, s.remote, usualIKE, local, remote)
		fmt.Fprintf(&b, "  children { %s { local_ts = %s\n remote_ts = %s\n esp_proposals = %s } } }\n", m, s.localTS, s.remoteTS, usualESP)
	}
	fmt.Fprintf(&b, "}\nsecrets { eap-1 { id = %s\n secret = %q } }\n", user, secret)
	return b.String()
}

// gatewayLines are Coati's as the gateway.
func gatewayLines(t *testing.T, h *Host, g holder, name string) string {
	t.Helper()
	return fmt.Sprintf("auth = \"cert\"\nremote-auth = \"eap\"\ncert-file = %q\nkey-file = %q\nlocal-id = \"fqdn:%s\"\nremote-id = \"any\"\neap-users-file = %q\n",
		h.Write(t, "cert.pem", pki.CertPEM(g.chain...)), h.Write(t, "cert.key", pki.KeyPEM(t, g.key)), name, h.Write(t, "users", "# users\nalice "+userPassword+"\nbob other\n"))
}

// userLines are Coati's as the user.
func userLines(t *testing.T, h *Host, ca *pki.Authority, gateway, user, secret string) string {
	t.Helper()
	return fmt.Sprintf("auth = \"eap\"\nremote-auth = \"cert\"\nca-file = %q\nremote-id = \"fqdn:%s\"\neap-identity = %q\neap-password-file = %q\n",
		h.Write(t, "ca.pem", pki.CertPEM(ca.Cert)), gateway, user, h.Write(t, "password", secret+"\n"))
}

// swanUser writes strongSwan's files as the user.
func swanUser(t *testing.T, h *Host, ca *pki.Authority) {
	t.Helper()
	user := newHolder(t, userName, pki.P256, ca, ca)
	h.Write(t, "charon/swanctl/x509ca/root.pem", pki.CertPEM(ca.Cert))
	h.Write(t, "charon/swanctl/private/user.pem", pki.KeyPEM(t, user.key))
	h.Write(t, "charon/swanctl/x509/user.pem", pki.CertPEM(user.chain[0]))
}

// tlsUser adds what EAP-TLS needs.
func tlsUser(t *testing.T, h *Host, own holder, server, lines string) string {
	t.Helper()
	return lines + fmt.Sprintf("eap-cert-file = %q\neap-key-file = %q\neap-ca-file = %q\neap-server-id = \"fqdn:%s\"\n",
		h.Write(t, "user.pem", pki.CertPEM(own.chain...)), h.Write(t, "user.key", pki.KeyPEM(t, own.key)), h.Path("ca.pem"), server)
}

func words(methods ...string) string {
	return "eap-methods = [\"" + strings.Join(methods, "\", \"") + "\"]\n"
}

func TestStrongSwanByEAP(t *testing.T) {
	NeedRoot(t)
	t.Run(roleResponder, func(t *testing.T) {
		t.Parallel()
		for _, m := range eapMethods() {
			results.Fill(t, peerStrongSwan, roleResponder, caseEAP(m))
		}
		results.Fill(t, peerStrongSwan, roleResponder, caseEAPRefused)
		pair, ca := NewPair(t), pki.New(t, "root", pki.P256)
		tunnel := signedTunnel(pair, roleResponder)
		tunnel.ExtraTunnel = gatewayLines(t, pair.A, newHolder(t, nameA, pki.P256, ca, ca), nameA) + words(eapMethods()...) +
			fmt.Sprintf("eap-cert-file = %q\neap-key-file = %q\neap-ca-file = %q\n", pair.A.Path("cert.pem"), pair.A.Path("cert.key"), pair.A.Write(t, "ca.pem", pki.CertPEM(ca.Cert)))
		swanUser(t, pair.B, ca)
		v := startSigned(t, pair, roleResponder, tunnel, swanEAPs(toSwan(tunnel), true, userName, userPassword), swanEAP)
		capture := v.A.Capture(t)
		for _, m := range eapMethods() {
			if err := v.charon.Initiate(m); err != nil {
				t.Fatalf("%s: %v\n%s", m, err, grep(v.charon.Log(), "EAP"))
			}
			v.lives(t, m)
			if id := v.coati.Status(t).Tunnels[0].IKE[0].RemoteID; id != "eap:"+userName {
				t.Errorf("%s: the peer is %s, want the user", m, id)
			}
			if err := v.charon.Terminate("--ike", m); err != nil {
				t.Fatal(err)
			}
			v.coati.WaitPairs(t, 5*time.Second, 0)
		}
		capture.Stop(t)
		Judge(t, capture.File, v.coati.Keys).Check(t, 12)
		for user, says := range map[string]string{
			userName: `the user "alice" gives another password than eap-users-file has`, "mallory": `there is no user "mallory": see eap-users-file`,
		} {
			v.charon.LoadAll(t, swanEAPs(toSwan(tunnel), true, user, "guessed"))
			for _, m := range passwordMethods() {
				if err := v.charon.Initiate(m); err == nil {
					t.Errorf("%s, %s: the tunnel came up", user, m)
				}
				if refused := v.coati.Status(t).Tunnels[0].LastRefused; refused == nil || refused.Reason != says {
					t.Errorf("%s, %s: coati status has %+v, want %q", user, m, refused, says)
				}
			}
		}
		if log := v.coati.Log(); strings.Contains(log, "guessed") || strings.Contains(log, userPassword) {
			t.Error("a password is in the log")
		}
		v.coati.WaitPairs(t, 5*time.Second, 0)
		v.coati.Alive(t)
	})
	t.Run(roleInitiator, func(t *testing.T) {
		t.Parallel()
		for _, m := range eapMethods() {
			results.Fill(t, peerStrongSwan, roleInitiator, caseEAP(m))
		}
		results.Fill(t, peerStrongSwan, roleInitiator, caseEAPRefused)
		pair, ca := NewPair(t), pki.New(t, "root", pki.P256)
		tunnel := signedTunnel(pair, roleInitiator)
		var names []string
		for _, m := range eapMethods() {
			names = append(names, m+".example")
		}
		key := pki.NewKey(t, pki.P256)
		pair.B.Write(t, "charon/swanctl/private/b.pem", pki.KeyPEM(t, key))
		pair.B.Write(t, "charon/swanctl/x509/b.pem", pki.CertPEM(ca.Issue(t, names[0], key.Public(), func(c *x509.Certificate) { c.DNSNames = names })))
		pair.B.Write(t, "charon/swanctl/x509ca/root.pem", pki.CertPEM(ca.Cert))
		own := newHolder(t, userName, pki.P256, ca, ca)
		as := func(m, user, secret string) Tunnel {
			lines := userLines(t, pair.A, ca, m+".example", user, secret) + words(m)
			switch m {
			case "tls":
				lines = tlsUser(t, pair.A, own, m+".example", strings.Replace(lines, "eap-password-file", "#", 1))
			case "ttls":
				lines += fmt.Sprintf("eap-inner = [\"eap-md5\"]\neap-ca-file = %q\neap-server-id = \"fqdn:%s.example\"\n", pair.A.Path("ca.pem"), m)
			}
			tunnel.ExtraTunnel = lines
			return tunnel
		}
		v := startSigned(t, pair, roleInitiator, as(eapMethods()[0], userName, userPassword), swanEAPs(toSwan(tunnel), false, userName, userPassword), swanEAP)
		capture := v.A.Capture(t)
		for i, m := range eapMethods() {
			if i > 0 {
				v.coati.Configure(t, as(m, userName, userPassword))
				v.coati.Do(t, "reload")
			}
			v.lives(t, m)
			v.coati.Do(t, "down", "peer")
			WaitFor(t, 5*time.Second, "strongSwan to have no SA", func() bool { return len(v.charon.SAs(t)) == 0 })
		}
		capture.Stop(t)
		Judge(t, capture.File, v.coati.Keys).Check(t, 12)
		for _, m := range passwordMethods() {
			says := `the server refuses our EAP identity "alice" or its password: see eap-identity and eap-password-file`
			if m == "mschapv2" {
				says = "the server refuses our password: wrong user name or password: see eap-identity and eap-password-file"
			}
			v.coati.Configure(t, as(m, userName, "guessed"))
			v.coati.Do(t, "reload")
			v.refuses(t, says)
		}
		if log := v.coati.Log(); strings.Contains(log, "guessed") || strings.Contains(log, userPassword) {
			t.Error("a password is in the log")
		}
		v.coati.Alive(t)
	})
}

// lives has packets go both ways; as initiator the first brings the tunnel up, and none is lost.
func (v *versus) lives(t *testing.T, child string) {
	t.Helper()
	NoLoss(t, v.A, v.B, 2)
	NoLoss(t, v.B, v.A, 2)
	if n := v.charon.Established(t, child); n != 1 {
		t.Errorf("strongSwan has %d children %s, want 1", n, child)
	}
	v.coati.WaitPairs(t, 5*time.Second, 1)
}

// Two Coatis: the user's rekeys and the gateway's, and the gateway's restart.
func TestCoatiByEAP(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	results.Fill(t, peerCoati, roleBoth, caseEAPCoati)
	pair, ca := NewPair(t), pki.New(t, "root", pki.P256)
	there := signedTunnel(pair, roleResponder).Reversed()
	there.ESP, there.AnyRemote = "aes128gcm16-noesn", true // what tshark can open
	there.ExtraTunnel = gatewayLines(t, pair.B, newHolder(t, nameB, pki.P256, ca, ca), nameB)
	here := signedTunnel(pair, roleInitiator)
	here.ExtraTunnel = userLines(t, pair.A, ca, nameB, userName, userPassword)
	left, right := StartCoati(t, pair.A, here), StartCoati(t, pair.B, there)
	capture := pair.A.Capture(t)
	NoLoss(t, pair.A, pair.B, 3)
	left.Do(t, "rekey", "peer")
	right.Do(t, "rekey", "peer")
	NoLoss(t, pair.B, pair.A, 3)
	left.Do(t, "down", "peer")
	capture.Stop(t)
	Judge(t, capture.File, left.Keys).Check(t, 12)
	left.Alive(t)
	right.Alive(t)
}
