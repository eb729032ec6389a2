package config

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"coati/policy"
)

const tlsTunnel = `[tunnel.b]
remote = "203.0.113.7"
auth = "eap"
remote-auth = "psk"
psk-file = "psk"
eap-identity = "alice"
eap-methods = ["tls", "ttls"]
eap-inner = ["eap-gtc", "pap"]
eap-password-file = "psk"
eap-cert-file = "a.pem"
eap-key-file = "a.key"
eap-ca-file = "ca.pem"
eap-server-id = "radius.example"
remote-ts = ["10.2.0.0/16"]

[tunnel.c]
remote = "any"
remote-auth = "eap"
psk-file = "psk"
eap-methods = ["tls"]
eap-cert-file = "a.pem"
eap-key-file = "a.key"
eap-ca-file = "ca.pem"
remote-ts = ["10.3.0.0/16"]

[tunnel.d]
remote = "203.0.113.9"
auth = "eap"
remote-auth = "eap"
start = "listen"
eap-methods = ["tls"]
eap-cert-file = "a.pem"
eap-key-file = "a.key"
eap-ca-file = "ca.pem"
remote-ts = ["10.4.0.0/16"]
`

// What EAP-TLS and EAP-TTLS need is read, and written again.
func TestTLSOfEAPIsReadAndWritten(t *testing.T) {
	t.Parallel()
	p := newPapers(t)
	c, faults := Parse(filepath.Join(p.dir, "coati.toml"), []byte(tlsTunnel))
	if c == nil || len(faults) > 0 {
		t.Fatal(lines(faults))
	}
	e := c.Tunnels[0].EAP
	if e.Credential == nil || !policy.EqualKeys(e.Credential.Key.Public(), p.key.Public()) || len(e.Trust.Authorities) != 1 || string(e.ServerID.Data) != "radius.example" || e.Serves() {
		t.Errorf("the client has %+v", e)
	}
	if want := []policy.EAPMethod{policy.EAPGTC, policy.InnerPAP}; !cmp.Equal(e.Inner, want) {
		t.Errorf("inside is %v, want %v", e.Inner, want)
	}
	for _, i := range []int{1, 2} {
		if e := c.Tunnels[i].EAP; !e.Serves() || e.Users == nil || e.Credential == nil || e.Trust == nil || c.Tunnels[i].Start != policy.StartListen {
			t.Errorf("the server %d has %+v", i, e)
		}
	}
	b, err := Format(c)
	if err != nil {
		t.Fatal(err)
	}
	again, faults := Parse(filepath.Join(p.dir, "again.toml"), b)
	if again == nil || len(faults) > 0 {
		t.Fatalf("%s\n%s", lines(faults), b)
	}
	for i := range c.Tunnels {
		if !c.Tunnels[i].EAP.Equal(again.Tunnels[i].EAP) || c.Tunnels[i].Start != again.Tunnels[i].Start {
			t.Errorf("tunnel %d means something else:\n%s", i, b)
		}
	}
}

func TestWhatTLSOfEAPLacksIsSaid(t *testing.T) {
	t.Parallel()
	p := newPapers(t)
	for _, c := range []struct{ old, new, says string }{
		{"eap-cert-file = \"a.pem\"\n", "", "[tunnel.b] has no eap-cert-file, which eap-methods needs"},
		{"eap-server-id = \"radius.example\"\n", "", "[tunnel.b] has no eap-server-id, which eap-methods needs"},
		{"radius.example", "192.0.2.1", "eap-server-id: want a host name"},
		{"eap-ca-file = \"ca.pem\"\n", "", "[tunnel.b] has no eap-ca-file, which eap-methods needs"},
		{`["tls", "ttls"]`, `["mschapv2"]`, "eap-key-file: no method of eap-methods uses it: leave the key out"},
		{`["tls", "ttls"]`, `["tls"]`, "eap-inner: is for eap-methods = [\"ttls\"]: leave the key out"},
		{`"eap-gtc", "pap"`, `"chap"`, "eap-inner: unknown choice \"chap\""},
		{`eap-key-file = "a.key"`, `eap-key-file = "psk"`, "holds no private key that can be read"},
	} {
		config, faults := Parse(filepath.Join(p.dir, "coati.toml"), []byte(strings.Replace(tlsTunnel, c.old, c.new, 1)))
		if config != nil || !strings.Contains(lines(faults), c.says) {
			t.Errorf("%q: %s", c.new, lines(faults))
		}
	}
}
