package legacy

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"coati/policy"
	"coati/policy/config"
)

// plainRSA is a key as plainrsa-gen and ipsec newhostkey write it: private, and public.
func plainRSA(t testing.TB) (private, public string, key *rsa.PrivateKey) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	hex := func(name string, n *big.Int) { fmt.Fprintf(&b, "\t%s: 0x%x\n", name, n) }
	b.WriteString(": RSA\t{\n\t# RSA 1024 bits\n\t#pubkey=0sAQ\n")
	hex("Modulus", key.N)
	hex("PublicExponent", big.NewInt(int64(key.E)))
	hex("PrivateExponent", key.D)
	hex("Prime1", key.Primes[0])
	hex("Prime2", key.Primes[1])
	b.WriteString("\t}\n")
	octets := append([]byte{3, 1, 0, 1}, key.N.Bytes()...)
	return b.String(), "0s" + base64.StdEncoding.EncodeToString(octets), key
}

func TestPlainKeysAreRead(t *testing.T) {
	t.Parallel()
	private, public, key := plainRSA(t)
	data, err := plainPrivate([]byte(private))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	if got, err := x509.ParsePKCS8PrivateKey(block.Bytes); err != nil || !key.Equal(got) {
		t.Errorf("another private key: %v", err)
	}
	data, err = plainPublic([]byte("# a comment\n: PUB " + public + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ = pem.Decode(data)
	if got, err := x509.ParsePKIXPublicKey(block.Bytes); err != nil || !key.PublicKey.Equal(got) {
		t.Errorf("another public key: %v", err)
	}
}

func TestBadPlainKeysAreRefused(t *testing.T) {
	t.Parallel()
	private, public, key := plainRSA(t)
	secret := fmt.Sprintf("%x", key.Primes[0])
	for _, bad := range []string{
		"", ": RSA", ": RSA {", ": RSA { }", strings.Replace(private, "Prime1", "Prime3", 1), strings.Replace(private, secret, secret[:8]+"00000000"+secret[16:], 1), strings.Replace(private, secret, "zz", 1),
		strings.Replace(private, "0x10001", "0x2", 1), strings.Replace(private, secret, strings.Repeat("f", 9000), 1), ": RSA {\n \"",
	} {
		if _, err := plainPrivate([]byte(bad)); err == nil || strings.Contains(err.Error(), secret[:12]) {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
	for _, bad := range []string{"", "0s", "0x00", "0sAAAA", "0s" + strings.Repeat("A", 100), public[2:], "0s!", "0xff01", "0x0000"} {
		if _, err := publicPEM(bad); err == nil {
			t.Errorf("%.40q was read", bad)
		}
	}
}

// Keys without certificates, in the files of both programs, become those of a tunnel.
func TestPlainKeysOfBothProgramsMakeTunnels(t *testing.T) {
	t.Parallel()
	private, public, key := plainRSA(t)
	disk := aDisk(map[string]string{"/etc/cert/mine": private, "/etc/cert/peer": ": PUB " + public})
	conf := strings.NewReplacer("pre_shared_key;", "rsasig;", "exchange_mode main;", `exchange_mode main; certificate_type plain_rsa "mine"; peers_certfile plain_rsa "peer";`).Replace(racoonMain)
	r, faults := ParseRacoon("/etc/racoon.conf", []byte("path certificate \"/etc/cert\";"+conf), disk)
	if r == nil {
		t.Fatal(faults)
	}
	db, _ := (*Database)(nil).Evaluate(parse(t, racoonPolicies), World{})
	c, faults := r.Convert(db, disk)
	if c == nil {
		t.Fatal(faults)
	}
	check := func(c *Converted) {
		t.Helper()
		cfg, faults := config.LoadWith(nil, []config.Foreign{c.Foreign})
		if cfg == nil {
			t.Fatalf("%v\n%s", faults, c.Text)
		}
		n := cfg.Tunnels[0]
		if n.LocalAuth != policy.ByPublicKey || n.RemoteAuth != policy.ByPublicKey || !policy.EqualKeys(n.Credential.Key.Public(), key.Public()) || !policy.EqualKeys(n.Trust.Keys[0], key.Public()) {
			t.Errorf("other keys")
		}
	}
	check(c)
	ipsec := "conn a\n left=192.0.2.1\n right=192.0.2.2\n authby=rsasig\n ikev2=no\n leftrsasigkey=" + public + "\n rightrsasigkey=" + public + "\n auto=add\n ike=aes128-sha1-modp2048\n"
	c, _, faults = ipsecConverted(ipsec, private, atHome("192.0.2.1"))
	if c == nil {
		t.Fatal(faults)
	}
	check(c)
}
