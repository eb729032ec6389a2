package bench

import (
	"strings"
	"testing"
	"time"

	"coati/ike"
	"coati/policy"
	"coati/policy/config"
)

// A responder with the configuration and the files that our daemon is given answers callers with certificates of the same
// authority, and no others.
func TestCallersWithCertificates(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{proofECDSA, proofRSA} {
		ca, err := newAuthority(kind)
		if err != nil {
			t.Fatal(err)
		}
		h := testHost(t)
		if err := ca.equip(h); err != nil {
			t.Fatal(err)
		}
		got, faults := config.Parse(h.dir+"/coati.toml", []byte(coatiAny(h, true)))
		if config.Failed(faults) || len(got.Tunnels) != 1 {
			t.Fatalf("%s: %v", kind, faults)
		}
		tunnel := got.Tunnels[0]
		tunnel.Children[0].ReqID, tunnel.Children[0].OutPolicy, tunnel.Children[0].InPolicy = 1, 1, 2
		b := &party{addr: h.outer, spi: 4096}
		b.boot(nil)
		b.inbox = append(b.inbox, ike.Configure{Tunnels: []policy.PeerTunnel{tunnel}})
		what := call{method: "x25519", psk: anyPSK, ca: ca}
		for n := 1; n <= 2; n++ {
			if err := meet(b, n, what, h.lanNet, time.Now()); err != nil {
				t.Errorf("%s: %v", kind, err)
			}
		}
		if what.ca, err = newAuthority(kind); err != nil {
			t.Fatal(err)
		}
		if err := meet(b, 3, what, h.lanNet, time.Now()); err == nil {
			t.Errorf("%s: a caller of another authority came in", kind)
		}
		if text := swanAny(h, true); !strings.Contains(text, "certs = "+responderCert) || strings.Count(text, "{") != strings.Count(text, "}") {
			t.Errorf("%s", text)
		}
	}
}

func TestProofsThatDoNotExistAreRefused(t *testing.T) {
	t.Parallel()
	if _, err := newAuthority("dsa"); err == nil || !strings.Contains(err.Error(), "ecdsa") {
		t.Errorf("%v", err)
	}
}
