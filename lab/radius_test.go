package lab

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"coati/lab/pki"
)

// FreeRADIUS behind Coati: on its host, with strongSwan or another Coati as the user.

const (
	peerFreeRADIUS = "FreeRADIUS"
	radiusSecret   = "a secret of RADIUS"
	nameRADIUS     = "radius.example"

	caseRADIUSSwan  = "users of strongSwan by MSCHAPv2, MD5 and GTC"
	caseRADIUSCoati = "users of Coati by every method"
	caseRADIUSWrong = "wrong passwords, and a server that is gone"
)

func radiusCells() []Cell {
	return []Cell{{peerFreeRADIUS, roleResponder, caseRADIUSSwan}, {peerFreeRADIUS, roleResponder, caseRADIUSCoati}, {peerFreeRADIUS, roleResponder, caseRADIUSWrong}}
}

// A RADIUS is FreeRADIUS on a host, which the host itself may ask.
type RADIUS struct {
	host *Host
	p    *Process
}

// StartRADIUS starts the server and returns when it is ready.
func StartRADIUS(t testing.TB, h *Host, ca *pki.Authority) *RADIUS {
	t.Helper()
	own := newHolder(t, nameRADIUS, pki.RSA2048, ca, ca)
	h.Write(t, "radius/server.key", pki.KeyPEM(t, own.key))
	h.Write(t, "radius/server.pem", pki.CertPEM(own.chain...))
	h.Write(t, "radius/ca.pem", pki.CertPEM(ca.Cert))
	h.Write(t, "radius/users", fmt.Sprintf("%s Cleartext-Password := %q\n", userName, userPassword))
	dir := h.Path("radius")
	h.Write(t, "radius/radiusd.conf", strings.NewReplacer("DIR", dir, "SECRET", radiusSecret).Replace(`
prefix = /usr
exec_prefix = /usr
sysconfdir = DIR
localstatedir = DIR
logdir = DIR
raddbdir = DIR
radacctdir = DIR
run_dir = DIR
libdir = /usr/lib/freeradius
pidfile = DIR/pid
max_request_time = 10
cleanup_delay = 2
security {
  allow_core_dumps = no
  max_attributes = 200
  reject_delay = 0
  status_server = no
}
client coati {
  ipaddr = 127.0.0.1
  secret = "SECRET"
  require_message_authenticator = yes
}
modules {
  eap {
    default_eap_type = mschapv2
    timer_expire = 60
    max_sessions = 100
    tls-config lab {
      private_key_file = DIR/server.key
      certificate_file = DIR/server.pem
      ca_file = DIR/ca.pem
      cipher_list = "DEFAULT"
      tls_min_version = "1.2"
      tls_max_version = "1.3"
    }
    tls {
      tls = lab
    }
    ttls {
      tls = lab
      default_eap_type = md5
      virtual_server = default
    }
    md5 {
    }
    gtc {
      auth_type = PAP
    }
    mschapv2 {
    }
  }
  mschap {
  }
  pap {
  }
  files {
    usersfile = DIR/users
  }
}
server default {
  listen {
    type = auth
    ipaddr = 127.0.0.1
    port = 1812
  }
  authorize {
    files
    mschap
    eap {
      ok = return
    }
    pap
  }
  authenticate {
    Auth-Type PAP {
      pap
    }
    Auth-Type MS-CHAP {
      mschap
    }
    eap
  }
}
`))
	r := &RADIUS{host: h}
	r.p = h.Start(t, "radius", nil, "/usr/sbin/freeradius", "-X", "-d", dir, "-D", "/usr/share/freeradius", "-n", "radiusd")
	WaitFor(t, 20*time.Second, "FreeRADIUS to be ready", func() bool { return strings.Contains(r.p.Text(), "Ready to process requests") || !r.p.Running() })
	if !r.p.Running() {
		t.Fatalf("FreeRADIUS ends:\n%s", tail(r.p.Log, 20))
	}
	return r
}

// radiusLines are Coati's as a gateway that asks a server with this secret.
func radiusLines(t *testing.T, h *Host, g holder, secret string) string {
	t.Helper()
	lines := gatewayLines(t, h, g, nameA)
	lines, _, _ = strings.Cut(lines, "eap-users-file")
	return lines + fmt.Sprintf("radius = [\"127.0.0.1\"]\nradius-secret-file = %q\n", h.Write(t, "radius.secret", secret+"\n"))
}

func TestFreeRADIUS(t *testing.T) {
	NeedRoot(t)
	t.Run("strongSwan", func(t *testing.T) {
		t.Parallel()
		results.Fill(t, peerFreeRADIUS, roleResponder, caseRADIUSSwan)
		results.Fill(t, peerFreeRADIUS, roleResponder, caseRADIUSWrong)
		pair, ca := NewPair(t), pki.New(t, "root", pki.P256)
		server := StartRADIUS(t, pair.A, ca)
		gateway := newHolder(t, nameA, pki.P256, ca, ca)
		tunnel := signedTunnel(pair, roleResponder)
		tunnel.ExtraTunnel = radiusLines(t, pair.A, gateway, radiusSecret)
		swanUser(t, pair.B, ca)
		v := startSigned(t, pair, roleResponder, tunnel, swanEAPs(toSwan(tunnel), true, userName, userPassword), swanEAP)
		capture := v.A.Capture(t)
		for _, m := range passwordMethods() {
			if err := v.charon.Initiate(m); err != nil {
				t.Fatalf("%s: %v\n%s\n%s", m, err, grep(v.charon.Log(), "EAP"), tail(server.p.Log, 40))
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

		refused := func(says string) {
			t.Helper()
			if err := v.charon.Initiate("md5"); err == nil {
				t.Fatal("the tunnel came up")
			}
			if r := v.coati.Status(t).Tunnels[0].LastRefused; r == nil || !strings.Contains(r.Reason, says) {
				t.Errorf("coati status has %+v, want %q", r, says)
			}
		}
		v.charon.LoadAll(t, swanEAPs(toSwan(tunnel), true, userName, "guessed"))
		refused(`the RADIUS server refuses the user "alice"`)
		v.charon.LoadAll(t, swanEAPs(toSwan(tunnel), true, userName, userPassword))
		if code, err := server.p.End(syscall.SIGTERM); err != nil {
			t.Fatal(code, err)
		}
		refused("the RADIUS server 127.0.0.1:1812 gives no answer that can be believed: cannot be reached: ")
		v.coati.WaitPairs(t, 5*time.Second, 0)
		if log := v.coati.Log(); strings.Contains(log, userPassword) || strings.Contains(log, radiusSecret) {
			t.Error("a secret is in the log")
		}
		v.coati.Alive(t)
	})
	t.Run("Coati", func(t *testing.T) {
		t.Parallel()
		results.Fill(t, peerFreeRADIUS, roleResponder, caseRADIUSCoati)
		pair, ca := NewPair(t), pki.New(t, "root", pki.P256)
		server := StartRADIUS(t, pair.A, ca)
		there := signedTunnel(pair, roleResponder)
		there.AnyRemote = true
		there.ExtraTunnel = radiusLines(t, pair.A, newHolder(t, nameA, pki.P256, ca, ca), radiusSecret)
		here := signedTunnel(pair, roleInitiator).Reversed()
		lines := userLines(t, pair.B, ca, nameA, userName, userPassword)
		here.ExtraTunnel = lines + words("mschapv2")
		gateway, user := StartCoati(t, pair.A, there), StartCoati(t, pair.B, here)
		own := newHolder(t, userName, pki.P256, ca, ca)
		var ways []string
		for _, m := range passwordMethods()[1:] {
			ways = append(ways, lines+words(m))
		}
		ways = append(ways, tlsUser(t, pair.B, own, nameRADIUS, strings.Replace(lines, "eap-password-file", "#", 1)+words("tls")))
		for _, inner := range []string{"pap", "mschapv2", "eap-md5", "eap-mschapv2"} {
			ways = append(ways, lines+words("ttls")+fmt.Sprintf("eap-inner = [%q]\neap-ca-file = %q\neap-server-id = \"fqdn:%s\"\n", inner, pair.B.Path("ca.pem"), nameRADIUS))
		}
		for i, way := range append([]string{here.ExtraTunnel}, ways...) {
			if i > 0 {
				here.ExtraTunnel = way
				user.Configure(t, here)
				user.Do(t, "reload")
			}
			if !Reachable(t, pair.B, pair.A) {
				t.Fatalf("%s\n%s\n%s", way, tail(user.p.Log, 10), tail(server.p.Log, 60))
			}
			NoLoss(t, pair.B, pair.A, 2)
			NoLoss(t, pair.A, pair.B, 2)
			user.Do(t, "down", "peer")
			gateway.WaitPairs(t, 5*time.Second, 0)
		}
		if !strings.Contains(server.p.Text(), "TLS Version = \"TLS 1.3\"") && !strings.Contains(server.p.Text(), "TLSv1.3") && !strings.Contains(server.p.Text(), "TLS 1.3") {
			t.Error("EAP-TLS did not use TLS 1.3")
		}
		gateway.Alive(t)
		user.Alive(t)
	})
}
