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

	caseRADIUSSwan  = "users of strongSwan by MSCHAPv2, MD5 and GTC"
	caseRADIUSCoati = "users of Coati by MSCHAPv2, MD5 and GTC"
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
func StartRADIUS(t testing.TB, h *Host) *RADIUS {
	t.Helper()
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
    eap {
      ok = return
    }
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
		server := StartRADIUS(t, pair.A)
		gateway := newHolder(t, nameA, pki.P256, ca, ca)
		tunnel := signedTunnel(pair, roleResponder)
		tunnel.ExtraTunnel = radiusLines(t, pair.A, gateway, radiusSecret)
		pair.B.Write(t, "charon/swanctl/x509ca/root.pem", pki.CertPEM(ca.Cert))
		v := startSigned(t, pair, roleResponder, tunnel, swanEAPs(toSwan(tunnel), true, userName, userPassword), swanEAP)
		capture := v.A.Capture(t)
		for _, m := range eapMethods() {
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
		StartRADIUS(t, pair.A)
		there := signedTunnel(pair, roleResponder)
		there.AnyRemote = true
		there.ExtraTunnel = radiusLines(t, pair.A, newHolder(t, nameA, pki.P256, ca, ca), radiusSecret)
		here := signedTunnel(pair, roleInitiator).Reversed()
		lines := userLines(t, pair.B, ca, nameA, userName, userPassword)
		here.ExtraTunnel = lines + words("mschapv2")
		gateway, user := StartCoati(t, pair.A, there), StartCoati(t, pair.B, here)
		for i, m := range eapMethods() {
			if i > 0 {
				here.ExtraTunnel = lines + words(m)
				user.Configure(t, here)
				user.Do(t, "reload")
			}
			NoLoss(t, pair.B, pair.A, 2)
			NoLoss(t, pair.A, pair.B, 2)
			user.Do(t, "down", "peer")
			gateway.WaitPairs(t, 5*time.Second, 0)
		}
		gateway.Alive(t)
		user.Alive(t)
	})
}
