package gateway

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"coati/ike"
	"coati/policy"
)

// octets makes a recognisable key.
func octets(first byte, n int) policy.Secret {
	b := bytes.Repeat([]byte{first}, n)
	b[n-1] = 0xee
	return policy.NewSecret(b)
}

// The lines below were given to tshark 4.0 with captures of both ciphers, in UDP and raw: it reads and uses them.
func TestKeyLogIsWiresharks(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "keys")
	k, err := openKeyLog(folder)
	if err != nil {
		t.Fatal(err)
	}
	gcm := policy.MustProposal(policy.ProtocolIKE, "aes128gcm16-prfsha256-x25519")
	cbc := policy.MustProposal(policy.ProtocolIKE, "aes256-sha256-x25519")
	path := policy.Path{Local: netip.MustParseAddrPort("192.0.2.1:4500"), Remote: netip.MustParseAddrPort("198.51.100.2:4500"), Encap: policy.EncapUDP}
	path6 := policy.Path{Local: netip.MustParseAddrPort("[2001:db8::1]:500"), Remote: netip.MustParseAddrPort("[2001:db8::2]:500")}
	for _, r := range []ike.KeyRecord{
		{
			Version: 2, InitiatorSPI: 0x0123456789abcdef, ResponderSPI: 0xfedc, Encryption: gcm.First(policy.TransformENCR),
			SKei: octets(1, 20), SKer: octets(2, 20),
		},
		{
			Version: 2, InitiatorSPI: 1, ResponderSPI: 2, Encryption: cbc.First(policy.TransformENCR), Integrity: cbc.First(policy.TransformINTEG),
			SKei: octets(3, 32), SKer: octets(4, 32), SKai: octets(5, 32), SKar: octets(6, 32),
		},
		{Version: 1},
	} {
		if err := k.writeIKE(r); err != nil {
			t.Fatal(err)
		}
	}
	for _, sa := range []policy.SA{
		{Direction: policy.Outbound, SPI: 0xc0ffee00, Path: path, Encryption: gcm.First(policy.TransformENCR), EncryptionKey: octets(7, 20)},
		{Direction: policy.Inbound, SPI: 0x100, Path: path, Encryption: gcm.First(policy.TransformENCR), EncryptionKey: octets(8, 20), ESN: true},
		{
			Direction: policy.Inbound, SPI: 0x101, Path: path6, Encryption: cbc.First(policy.TransformENCR), EncryptionKey: octets(9, 32),
			Integrity: cbc.First(policy.TransformINTEG), IntegrityKey: octets(10, 32),
		},
	} {
		if err := k.writeESP(&sa); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.close(); err != nil {
		t.Fatal(err)
	}
	r := func(s string, n int) string { return strings.Repeat(s, n-1) + "ee" }
	want := map[string]string{
		ikeTable: "0123456789abcdef,000000000000fedc," + r("01", 20) + "," + r("02", 20) + `,"AES-GCM-128 with 16 octet ICV [RFC5282]","","","NONE [RFC4306]"` + "\n" +
			"0000000000000001,0000000000000002," + r("03", 32) + "," + r("04", 32) + `,"AES-CBC-256 [RFC3602]",` + r("05", 32) + "," + r("06", 32) + `,"HMAC_SHA2_256_128 [RFC4868]"` + "\n",
		espTable: `"IPv4","192.0.2.1","198.51.100.2","0xc0ffee00","AES-GCM with 16 octet ICV [RFC4106]","0x` + r("07", 20) + `","NULL",""` + "\n" +
			`"IPv4","198.51.100.2","192.0.2.1","0x00000100","AES-GCM with 16 octet ICV [RFC4106]","0x` + r("08", 20) + `","NULL",""` + "\n" +
			`"IPv6","2001:db8::2","2001:db8::1","0x00000101","AES-CBC [RFC3602]","0x` + r("09", 32) + `","HMAC-SHA-256-128 [RFC4868]","0x` + r("0a", 32) + `"` + "\n",
	}
	got := map[string]string{}
	for name := range want {
		b, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		got[name] = string(b)
		if st, err := os.Stat(filepath.Join(folder, name)); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", name, st.Mode(), err)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if st, err := os.Stat(folder); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("folder: mode %v, %v", st.Mode(), err)
	}
}

// Every algorithm a configuration can name has a name in the tables.
func TestKeyLogNamesEveryAlgorithm(t *testing.T) {
	t.Parallel()
	for i := range policy.Algorithms {
		a := &policy.Algorithms[i]
		if a.Type != policy.TransformENCR && a.Type != policy.TransformINTEG {
			continue
		}
		if _, ok := ikeNames[algorithm{a.Type, a.ID}]; a.Use&policy.UseIKE != 0 && !ok {
			t.Errorf("%s has no name in %s", a.Keyword, ikeTable)
		}
		if _, ok := espNames[algorithm{a.Type, a.ID}]; a.Use&policy.UseESP != 0 && !ok {
			t.Errorf("%s has no name in %s", a.Keyword, espTable)
		}
	}
}

func TestKeyLogRefusesAnOpenFolder(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "keys")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := openKeyLog(folder); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("opened, or no hint: %v", err)
	}
}
