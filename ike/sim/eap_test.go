package sim

import (
	"crypto/x509"
	"net/netip"
	"strings"
	"testing"
	"time"

	"coati/ike"
	"coati/ike/eap"
	"coati/lab/pki"
	"coati/policy"
)

// warriors are the two ends of roadWarrior, changed.
func warriors(t *testing.T, seed uint64, change ...func(client, server *policy.EAP)) (*World, *Host, *Host) {
	t.Helper()
	var ends [2]policy.PeerTunnel
	for i := range ends {
		roadWarrior(&ends[i], i == 1)
	}
	for _, f := range change {
		f(ends[0].EAP, ends[1].EAP)
	}
	with := func(i int) func(*policy.PeerTunnel) {
		return func(tt *policy.PeerTunnel) {
			tt.LocalAuth, tt.RemoteAuth, tt.EAP, tt.Start = ends[i].LocalAuth, ends[i].RemoteAuth, ends[i].EAP, ends[i].Start
		}
	}
	return pair(t, seed, with(0), with(1))
}

func methods(m ...policy.EAPMethod) func(client, server *policy.EAP) {
	return func(client, server *policy.EAP) { client.Methods, server.Methods = m, m }
}

func TestEAPLetsAUserIn(t *testing.T) {
	t.Parallel()
	for _, m := range []policy.EAPMethod{policy.EAPMSCHAPv2, policy.EAPMD5, policy.EAPGTC} {
		w, a, b := warriors(t, 7, methods(m))
		a.Say(1, "t", "lan")
		w.Run(5 * time.Second)
		if len(b.Plane.Received) != 1 || !a.Up("t") || !b.Up("t") {
			t.Fatalf("%s: received %v; %q %q", m, b.Plane.Received, a.Log, b.Log)
		}
		if id := b.Engine.Status()[0].SAs[0].RemoteID.String(); id != "eap:alice" {
			t.Errorf("%s: the peer is %s, want the user", m, id)
		}
		for _, child := range []string{"", "lan"} { // the identity, and the keys, outlive EAP
			id := b.Command(ike.Rekey, "t", child)
			w.Run(5 * time.Second)
			if err, ok := b.Replies[id]; err != nil || !ok {
				t.Errorf("%s: rekey %q: %v", m, child, err)
			}
		}
		b.Say(2, "t", "lan")
		w.Run(time.Second)
		if len(a.Plane.Received) != 1 || b.Engine.Status()[0].SAs[0].RemoteID.String() != "eap:alice" {
			t.Errorf("%s: after rekeys a received %v", m, a.Plane.Received)
		}
		noFaults(t, w)
	}
}

// EAP-TLS and EAP-TTLS run through jobs, with loss.
func TestTLSLetsAUserIn(t *testing.T) {
	t.Parallel()
	ca := pki.New(t, "root", pki.P256)
	holds := func(e *policy.EAP, name string) {
		key := pki.NewKey(t, pki.P256)
		e.Credential = &policy.Credential{Key: policy.NewPrivateKey(key), Chain: []*x509.Certificate{ca.Issue(t, name, key.Public())}}
		e.Trust = &policy.Trust{Authorities: []*x509.Certificate{ca.Cert}}
		e.Inner = []policy.EAPMethod{policy.EAPMSCHAPv2}
	}
	for _, m := range []policy.EAPMethod{policy.EAPTLS, policy.EAPTTLS} {
		w, a, b := warriors(t, 7, methods(m), func(c, s *policy.EAP) {
			holds(c, "alice")
			holds(s, "gw.example")
			c.ServerID = policy.Identity{Type: policy.IDFQDN, Data: []byte("gw.example")}
		})
		w.Net.Loss = 0.1
		a.Say(1, "t", "lan")
		w.Run(time.Minute)
		w.Net.Loss = 0
		if !a.Up("t") || b.Engine.Status()[0].SAs[0].RemoteID.String() != "eap:alice" {
			t.Errorf("%s: %q %q", m, a.Log, b.Log)
		}
		// The next one is left in the middle of a job.
		b.JobDelay = 2 * b.Limits.HalfOpenLife
		a.Restart()
		a.Command(ike.Up, "t", "")
		w.Run(5 * time.Minute)
		noFaults(t, w)
	}
}

// What is wrong with EAP is said at both ends, and nothing is held.
func TestWhatIsWrongWithEAPIsSaid(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change       func(client, server *policy.EAP)
		aSays, bSays string
	}{
		"wrong password": {
			func(c, _ *policy.EAP) { c.Password = policy.NewSecret([]byte("guess")) },
			"the server refuses our password: wrong user name or password: see eap-identity and eap-password-file", `the user "alice" gives another password than eap-users-file has`,
		},
		"unknown user": {
			func(c, _ *policy.EAP) { c.Identity = "mallory" }, "wrong user name or password", `there is no user "mallory": see eap-users-file`,
		},
		"no method in common": {
			func(c, _ *policy.EAP) { c.Methods = []policy.EAPMethod{policy.EAPGTC} },
			"the server wants an EAP method that eap-methods does not have", "the client takes none of our EAP methods [mschapv2]: it wants GTC: see eap-methods",
		},
		"RADIUS silent": {
			func(_, s *policy.EAP) { s.Users, s.RADIUS.Servers = nil, someServers }, `the server refuses our EAP identity "alice"`, "no RADIUS server answers",
		},
	} {
		w, a, b := warriors(t, 7, c.change)
		id := a.Command(ike.Up, "t", "")
		w.Run(20 * time.Second)
		if err := a.Replies[id]; err == nil || !strings.Contains(err.Error(), c.aSays) {
			t.Errorf("%s: a replies %v\nwant %s", name, err, c.aSays)
		}
		if !b.Said(c.bSays) {
			t.Errorf("%s: b says %q\nwant %s", name, b.Log, c.bSays)
		}
		if a.Up("t") || b.Up("t") || len(b.Engine.Status()[0].SAs) != 0 {
			t.Errorf("%s: up %v %v, %d SAs held", name, a.Up("t"), b.Up("t"), len(b.Engine.Status()[0].SAs))
		}
		noFaults(t, w)
	}
}

// A client that expects nothing of EAP is not drawn into it, nor is one let in that expected it.
func TestEAPIsForThoseWhoAreConfiguredForIt(t *testing.T) {
	t.Parallel()
	client := func(tt *policy.PeerTunnel) { roadWarrior(tt, false) }
	server := func(tt *policy.PeerTunnel) { roadWarrior(tt, true) }
	for name, c := range map[string]struct {
		a, b         func(*policy.PeerTunnel)
		aSays, bSays string
	}{
		"only the client": {client, nil, "refuses our identity 192.0.2.1 or our EAP", "the peer wants to authenticate by EAP, tunnel t expects a pre-shared key: see remote-auth"},
		"only the server": {nil, server, "or our pre-shared key", "the peer authenticates by Shared Key Message Integrity Code, tunnel t expects EAP: see remote-auth"},
	} {
		w, a, b := pair(t, 7, c.a, c.b)
		id := a.Command(ike.Up, "t", "")
		w.Run(20 * time.Second)
		if err := a.Replies[id]; err == nil || !strings.Contains(err.Error(), c.aSays) {
			t.Errorf("%s: a replies %v\nwant %s", name, err, c.aSays)
		}
		if !b.Said(c.bSays) || a.Up("t") || b.Up("t") {
			t.Errorf("%s: b says %q\nwant %s", name, b.Log, c.bSays)
		}
	}
}

// A second device of one user does not end what another user has, even if both say to be the same in IDi.
func TestUsersAreToldApartByEAP(t *testing.T) {
	t.Parallel()
	w, a, b := warriors(t, 7, func(_, s *policy.EAP) { s.Users["bob"] = policy.NewSecret([]byte("correct horse")) })
	b.Configure(tunnelTo("192.0.2.1", "10.2.0.0/16", "10.1.0.0/16", func(tt *policy.PeerTunnel) {
		*tt = b.tunnels[0]
		tt.Remote = netip.Addr{}
	}))
	bob := w.AddHost("c", "192.0.2.3")
	ids("same.example", "")(&a.tunnels[0])
	a.Configure(a.tunnels[0])
	bob.Configure(tunnelTo("192.0.2.2", "10.1.0.0/16", "10.2.0.0/16", func(tt *policy.PeerTunnel) {
		roadWarrior(tt, false)
		ids("same.example", "")(tt)
		tt.EAP.Identity = "bob"
	}))
	a.Command(ike.Up, "t", "")
	w.Run(5 * time.Second)
	bob.Command(ike.Up, "t", "")
	w.Run(5 * time.Second)
	if sas, _ := b.Established("t"); sas != 2 || !a.Up("t") || !bob.Up("t") {
		t.Errorf("%d IKE SAs, want one for each user; up %v %v; %q", sas, a.Up("t"), bob.Up("t"), b.Log)
	}
}

// Who begins EAP and stays away holds nothing when the time for half-open SAs is over.
func TestWhoStopsInTheMiddleOfEAPIsForgotten(t *testing.T) {
	t.Parallel()
	w, a, b := warriors(t, 7)
	a.Command(ike.Up, "t", "")
	if !w.RunUntil(time.Minute, func() bool { return b.V2.Taken["peer's packet of EAP"] == 1 }) {
		t.Fatal("EAP does not begin")
	}
	a.Crash()
	w.Run(b.Limits.HalfOpenLife + time.Second)
	if n := len(b.Engine.Status()[0].SAs); n != 0 || !b.Said("the peer began and did not authenticate in time") || !b.Engine.Idle() {
		t.Errorf("%d SAs, %q", n, b.Log)
	}
}

var someServers = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.9:1812")}

// withRADIUS gives the server a RADIUS server that knows alice by EAP-MSCHAPv2.
func withRADIUS(t *testing.T, change ...func(*ike.RADIUSAnswer)) (*World, *Host, *Host) {
	w, a, b := warriors(t, 7, func(_, s *policy.EAP) { s.Users, s.Methods, s.RADIUS.Servers = nil, nil, someServers })
	var server *eap.Server
	b.RADIUS = func(q ike.AskRADIUS) (ike.RADIUSAnswer, error) {
		if q.State == nil {
			server = eap.NewServer(&policy.EAP{Methods: []policy.EAPMethod{policy.EAPMSCHAPv2}, Users: map[string]policy.Secret{"alice": policy.NewSecret([]byte("correct horse"))}}, "radius", [32]byte{})
			server.Begin()
		}
		step := server.Handle(time.Time{}, q.EAP)
		out := ike.RADIUSAnswer{Code: ike.RADIUSChallenge, EAP: step.Send, State: []byte("state")}
		switch {
		case step.Err != nil:
			out.Code = ike.RADIUSReject
		case step.Done:
			out.Code, out.MSK = ike.RADIUSAccept, server.MSK().Clone()
		}
		for _, f := range change {
			f(&out)
		}
		return out, nil
	}
	return w, a, b
}

func TestARADIUSServerLetsAUserIn(t *testing.T) {
	t.Parallel()
	w, a, b := withRADIUS(t)
	a.Say(1, "t", "lan")
	w.Run(5 * time.Second)
	if len(b.Plane.Received) != 1 || b.Engine.Status()[0].SAs[0].RemoteID.String() != "eap:alice" {
		t.Fatalf("received %v; %q %q", b.Plane.Received, a.Log, b.Log)
	}
	noFaults(t, w)
}

// A RADIUS server that accepts with a key that is not EAP's lets nobody in: the two ends' keys differ.
func TestARADIUSServerThatMakesNoSenseLetsNobodyIn(t *testing.T) {
	t.Parallel()
	for says, change := range map[string]func(*ike.RADIUSAnswer){
		"the peer's AUTH does not fit the key that EAP made": func(a *ike.RADIUSAnswer) {
			if a.Code == ike.RADIUSAccept {
				a.MSK = policy.NewSecret(make([]byte, 64))
			}
		},
		"AUTH does not fit": func(a *ike.RADIUSAnswer) {
			if a.Code == ike.RADIUSAccept {
				a.MSK = policy.Secret{}
			}
		},
		"accepts, and its EAP packet does not":       func(a *ike.RADIUSAnswer) { a.Code = ike.RADIUSAccept },
		"asks for more, and its EAP packet is":       func(a *ike.RADIUSAnswer) { a.EAP = []byte{1} },
		`the RADIUS server refuses the user "alice"`: func(a *ike.RADIUSAnswer) { a.Code = ike.RADIUSReject },
	} {
		w, a, b := withRADIUS(t, change)
		id := a.Command(ike.Up, "t", "")
		w.Run(20 * time.Second)
		if err := a.Replies[id]; a.Up("t") || b.Up("t") || err == nil || !b.Said(says) {
			t.Errorf("%s: a replies %v, b says %q", says, err, b.Log)
		}
		noFaults(t, w)
	}
}
