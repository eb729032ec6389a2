package esp

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"coati/packet"
	"coati/policy"
)

// What tshark 4.0 calls algorithms.
var (
	tsharkCiphers = map[uint16]string{
		policy.ENCRNull: "NULL", policy.ENCRAESCBC: "AES-CBC [RFC3602]", policy.ENCRAESCTR: "AES-CTR [RFC3686]", policy.ENCRAESGCM8: "AES-GCM with 8 octet ICV [RFC4106]",
		policy.ENCRAESGCM12: "AES-GCM with 12 octet ICV [RFC4106]", policy.ENCRAESGCM16: "AES-GCM with 16 octet ICV [RFC4106]",
		policy.ENCRInsecure3DES: "TripleDES-CBC [RFC2451]", policy.ENCRInsecureDES: "DES-CBC [RFC2405]", policy.ENCRInsecureCAST: "CAST5-CBC [RFC2144]",
		policy.ENCRInsecureBlowfish: "BLOWFISH-CBC [RFC2451]",
	}
	tsharkMACs = map[uint16]string{
		policy.IntegSHA1: "HMAC-SHA-1-96 [RFC2404]", policy.IntegSHA256: "HMAC-SHA-256-128 [RFC4868]", policy.IntegSHA384: "HMAC-SHA-384-192 [RFC4868]",
		policy.IntegSHA512: "HMAC-SHA-512-256 [RFC4868]", policy.IntegInsecureMD5: "HMAC-MD5-96 [RFC2403]",
	}
)

// tshark decrypts, and checks the ICV of, a packet of every cipher and integrity algorithm it has.
func TestTsharkOpens(t *testing.T) {
	if exec.Command("tshark", "--version").Run() != nil {
		t.Skip("no tshark: install tshark")
	}
	// A capture of raw IP packets.
	const linkRaw = 101
	file := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	file = append(file, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, linkRaw, 0, 0, 0)
	var args, want []string
	for _, l := range everyLink() {
		l.raw, l.id = true, uint64(len(want))
		sa := l.outbound()
		cipher, mac := tsharkCiphers[sa.Encryption.ID], tsharkMACs[sa.Integrity.ID]
		if l.icv96 {
			mac = "HMAC-SHA-256-96 [draft-ietf-ipsec-ciph-sha-256-00]"
		}
		if cipher == "" || l.integ != "" && mac == "" || sa.Encryption.ID == policy.ENCRInsecureBlowfish && sa.Encryption.KeyBits > 128 {
			continue
		}
		if mac == "" {
			mac = "NULL"
		}
		a, _ := connect(t, l, nil)
		port := uint16(2000 + len(want))
		a.out.Process(segment{udp: true, sport: port, dst: 1, payload: filled(30, 1)}.frame())
		p := l.path()
		pkt := reheader(nil, &p, 0, packet.ProtoESP, a.net.packets()[0])
		file = append(file, make([]byte, 8)...)
		file = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(file, uint32(len(pkt))), uint32(len(pkt)))
		file = append(file, pkt...)
		hexKey := func(s policy.Secret) string { return "0x" + hex.EncodeToString(s.Reveal()) }
		args = append(args, "-o", fmt.Sprintf(`uat:esp_sa:"IPv4","192.0.2.1","192.0.2.2","0x%08x","%s","%s","%s","%s"`, uint32(sa.SPI), cipher, hexKey(sa.EncryptionKey), mac, hexKey(sa.IntegrityKey)))
		want = append(want, fmt.Sprintf("%s %d", l, port))
	}
	name := filepath.Join(t.TempDir(), "esp.pcap")
	if err := os.WriteFile(name, file, 0o600); err != nil {
		t.Fatal(err)
	}
	args = append([]string{
		"-r", name, "-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE", "-T", "fields", "-e", "udp.srcport", "-e", "esp.icv_good",
	}, args...)
	cmd := exec.Command("tshark", args...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "WIRESHARK_CONFIG_DIR="+t.TempDir())
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark: %v", err)
	}
	got := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	if len(got) != len(want) {
		t.Fatalf("%d packets seen, want %d", len(got), len(want))
	}
	for i, w := range want {
		port := w[strings.LastIndexByte(w, ' ')+1:]
		if f := strings.Split(got[i], "\t"); f[0] != port || len(f) != 2 || f[1] != "1" && f[1] != "True" {
			t.Errorf("%s: tshark says %q", w, got[i])
		}
	}
	t.Logf("%d kinds of SA", len(want))
}
