package v2_test

import (
	"crypto/x509"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"
	"time"

	"coati/ike"
	"coati/lab/pki"
	"coati/policy"
)

// The responder's processor time for IKE_SA_INIT, IKE_AUTH and the first child, its jobs included, with X25519: what the
// initiator does in the same process is not counted.
func BenchmarkResponder(b *testing.B) {
	for _, kind := range []string{"psk", pki.P256, pki.P384, pki.Ed25519, pki.RSA2048} {
		b.Run(kind, func(b *testing.B) {
			ours, theirs := func(*policy.PeerTunnel) {}, func(*policy.PeerTunnel) {}
			if kind != "psk" {
				ca := pki.New(b, "root", kind)
				ours, theirs = certified(b, ca, kind, "a.example", "b.example"), certified(b, ca, kind, "b.example", "a.example")
			}
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			var spent time.Duration
			for i := range b.N {
				left := newBench(b, nil, tunnel(ours, func(t *policy.PeerTunnel) { t.Start = policy.StartOnDemand }))
				right := newBench(b, nil, tunnel(theirs, mirrored))
				left.rng = rand.New(rand.NewPCG(uint64(i), 1))
				*right.rng = *rand.New(rand.NewPCG(uint64(i), 2))
				sends := left.event(ike.Command{ID: 1, Verb: ike.Up, Tunnel: "t"})
				for len(sends) > 0 {
					var back []ike.Send
					for _, s := range sends {
						before := cpu()
						answers := right.event(ike.Datagram{Path: turned(s.Path), Bytes: s.Bytes})
						spent += cpu() - before
						for _, a := range answers {
							back = append(back, left.event(ike.Datagram{Path: turned(a.Path), Bytes: a.Bytes})...)
						}
					}
					sends = back
				}
				if left.replies[1] != nil || len(right.sas) != 2 {
					b.Fatalf("no child: %v; %q %q", left.replies[1], left.log, right.log)
				}
			}
			b.ReportMetric(float64(spent.Microseconds())/float64(b.N), "responder-cpu-us/op")
		})
	}
}

func mirrored(t *policy.PeerTunnel) {
	t.Remote = here
	c := &t.Children[0]
	c.Local, c.Remote = c.Remote, c.Local
}

func turned(p policy.Path) policy.Path {
	p.Local, p.Remote = p.Remote, p.Local
	return p
}

// cpu is the processor time of this thread so far.
func cpu() time.Duration {
	var u syscall.Rusage
	const thread = 1
	if err := syscall.Getrusage(thread, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func certified(t testing.TB, ca *pki.Authority, kind, local, remote string) func(*policy.PeerTunnel) {
	key := pki.NewKey(t, kind)
	leaf := ca.Issue(t, local, key.Public())
	return func(tt *policy.PeerTunnel) {
		tt.LocalAuth, tt.RemoteAuth = policy.ByCert, policy.ByCert
		tt.LocalID, tt.RemoteID = policy.Identity{Type: policy.IDFQDN, Data: []byte(local)}, policy.Identity{Type: policy.IDFQDN, Data: []byte(remote)}
		tt.Credential = &policy.Credential{Key: policy.NewPrivateKey(key), Chain: []*x509.Certificate{leaf}}
		tt.Trust = &policy.Trust{Authorities: []*x509.Certificate{ca.Cert}}
	}
}
