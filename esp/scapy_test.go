package esp

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"coati/packet"
	"coati/policy"
)

// scapy is an independent ESP. The script reads lines "CIPHER KEY MAC KEY ESN TRANSPORT ICV open|seal SPI SEQ ESN-HIGH HEX", a dash for nothing, and writes a
// hexadecimal line for each: the inner packet of an ESP packet, or the ESP packet around an inner one. In transport mode the
// ESP packet to be opened comes with its IP header.
const scapyScript = `
import sys
from scapy.all import *
from scapy.layers.ipsec import ESP, SecurityAssociation
for line in sys.stdin:
    crypt, ckey, auth, akey, esn, transport, icv, what, spi, seq, high, data = [x if x != '-' else '' for x in line.split()]
    ckey, auth, akey, esn, transport, icv = bytes.fromhex(ckey), auth or None, bytes.fromhex(akey) or None, esn == '1', transport == '1', int(icv)
    data = bytes.fromhex(data)
    more = {} if transport else {'tunnel_header': IP(src='192.0.2.1', dst='192.0.2.2')}
    if icv:
        more['crypt_icv_size'] = icv
    sa = SecurityAssociation(ESP, spi=int(spi), crypt_algo=crypt, crypt_key=ckey, auth_algo=auth, auth_key=akey, esn_en=esn, esn=int(high), **more)
    def parse(b): return IPv6(b) if b[0] >> 4 == 6 else IP(b)
    try:
        if what == 'open':
            p = parse(data) if transport else IP(bytes(IP(src='192.0.2.1', dst='192.0.2.2', proto=50)/Raw(data)))
            print(bytes(sa.decrypt(p, esn_en=esn, esn=int(high))).hex())
        else:
            p = bytes(sa.encrypt(parse(data), seq_num=int(seq), esn_en=esn, esn=int(high)))
            print(p[40 if p[0] >> 4 == 6 else 20:].hex())
    except Exception as e:
        print(repr(e).encode().hex())
`

// What scapy calls algorithms.
var (
	scapyCiphers = map[uint16]string{
		policy.ENCRNull: "NULL", policy.ENCRAESCBC: "AES-CBC", policy.ENCRAESCTR: "AES-CTR", policy.ENCRAESGCM16: "AES-GCM", policy.ENCRAESCCM16: "AES-CCM",
		policy.ENCRAESCCM12: "AES-CCM", policy.ENCRAESCCM8: "AES-CCM",
		policy.ENCRChaCha20: "CHACHA20-POLY1305", policy.ENCRInsecureDES: "DES", policy.ENCRInsecure3DES: "3DES", policy.ENCRInsecureCAST: "CAST",
		policy.ENCRInsecureBlowfish: "Blowfish",
	}
	scapyMACs = map[uint16]string{
		policy.IntegSHA1: "HMAC-SHA1-96", policy.IntegSHA256: "SHA2-256-128", policy.IntegSHA384: "SHA2-384-192", policy.IntegSHA512: "SHA2-512-256",
		policy.IntegInsecureMD5: "HMAC-MD5-96", policy.IntegAESCMAC: "AES-CMAC-96",
	}
)

// scapySA is the front of a line.
func scapySA(l link) string {
	sa := l.outbound()
	flag := map[bool]int{true: 1}
	icv := 0
	if a := sa.Encryption.Algorithm(); a.AEAD && a.ICVLen < 16 {
		icv = a.ICVLen
	}
	hexOf := func(s policy.Secret) string { return cmp.Or(hex.EncodeToString(s.Reveal()), "-") }
	return fmt.Sprintf("%s %s %s %s %d %d %d", scapyCiphers[sa.Encryption.ID], hexOf(sa.EncryptionKey), cmp.Or(scapyMACs[sa.Integrity.ID], "-"), hexOf(sa.IntegrityKey),
		flag[l.esn], flag[l.transport], icv)
}

func scapy(t *testing.T, input string) []string {
	t.Helper()
	cmd := exec.Command("/usr/bin/python3", "-W", "ignore", "-c", scapyScript)
	cmd.Stdin = strings.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("scapy: %v\n%s", err, &stderr)
	}
	return strings.Fields(string(out))
}

// scapyLinks are all ciphers and integrity algorithms that scapy has, in tunnel and in transport mode, and some in transport mode of IPv6.
func scapyLinks() (out []link) {
	for _, l := range everyLink() {
		enc := policy.LookupKeyword(l.enc)
		if scapyCiphers[enc.ID] == "" || l.icv96 || enc.ID == policy.ENCRInsecureBlowfish && enc.KeyBits > 256 {
			continue
		}
		if l.integ != "" && scapyMACs[policy.LookupKeyword(l.integ).ID] == "" {
			continue
		}
		out = append(out, l)
		if enc.AEAD {
			l.esn = true // scapy 2.5 leaves the high half out of HMACs
			out = append(out, l)
		}
	}
	for _, l := range out {
		l.transport, l.raw = true, true
		out = append(out, l)
	}
	for _, l := range []link{{enc: "aes128gcm16"}, {enc: "aes128", integ: "sha256"}, {enc: "null", integ: "sha1"}, {enc: "aes256ccm16"}, {enc: "chacha20poly1305"}} {
		l.transport, l.raw, l.v6 = true, true, true
		out = append(out, l)
	}
	return out
}

func TestScapyOpensAndSealsTheSame(t *testing.T) {
	if _, err := os.Stat("/usr/bin/python3"); err != nil {
		t.Skip("no /usr/bin/python3: install python3-scapy and python3-cryptography")
	}
	if err := exec.Command("/usr/bin/python3", "-c", "import scapy.layers.ipsec, cryptography").Run(); err != nil {
		t.Skip("python3 has no scapy: install python3-scapy and python3-cryptography")
	}
	inner := []segment{
		{sport: 1, dst: 1, payload: filled(100, 1)},
		{v6: true, sport: 1, dst: 1, payload: filled(33, 1)},
		{udp: true, sport: 1, dst: 1, payload: filled(1, 1)},
		{v6: true, udp: true, sport: 1, dst: 1, payload: filled(70, 1)},
	}
	// One interpreter for all: it takes long to start.
	type trial struct {
		l    link
		b    *host
		want [][]byte
	}
	var trials []trial
	var toOpen, toSeal strings.Builder
	for _, l := range scapyLinks() {
		high := uint64(0)
		if l.esn {
			high = 5
		}
		a, b := connect(t, l, nil)
		sa := a.Plane.out[1]
		sa.reserved.Store(high<<32 + 9)
		sa.turn.passed.Store(high<<32 + 9)
		b.inbound.find(0x1000).window.top = high<<32 + 9
		tr := trial{l: l, b: b}
		for i, s := range inner {
			if l.transport && s.v6 != l.v6 {
				continue
			}
			f := s.frame()
			tr.want = append(tr.want, bytes.Clone(f[packet.VirtioLen:]))
			fmt.Fprintf(&toSeal, "%s seal %d %d %d %x\n", scapySA(l), 0x1000, 10+i, high, f[packet.VirtioLen:])
			a.out.Process(f)
		}
		path := l.path()
		for _, p := range a.net.packets() {
			if l.transport {
				p = reheader(nil, &path, 0, packet.ProtoESP, p)
			}
			fmt.Fprintf(&toOpen, "%s open %d 0 %d %x\n", scapySA(l), 0x1000, high, p)
		}
		trials = append(trials, tr)
	}
	opened, sealed := scapy(t, toOpen.String()), scapy(t, toSeal.String())
	for _, tr := range trials {
		n := len(tr.want)
		if len(opened) < n || len(sealed) < n {
			t.Fatalf("%v: scapy wrote too few lines", tr.l)
		}
		same := func(what string, got [][]byte) {
			want := tr.want
			if tr.l.transport {
				want, got = plain(want), plain(got)
			}
			if d := gocmp.Diff(want, got); d != "" {
				t.Errorf("%v: %s (-want +got), drops %v:\n%.1500s", tr.l, what, tr.b.Counters().Drops, d)
			}
		}
		var theirs [][]byte
		for _, line := range opened[:n] {
			theirs = append(theirs, must(hex.DecodeString(line)))
		}
		same("scapy opened", theirs)
		path := tr.l.path()
		for _, line := range sealed[:n] {
			tr.b.in.Receive([]Datagrams{{Buf: must(hex.DecodeString(line)), From: path.Local, Local: path.Remote, Encap: policy.EncapRaw}})
		}
		same("we opened", unfoldAll(t, tr.b.tap.take()))
		opened, sealed = opened[n:], sealed[n:]
	}
	t.Logf("%d kinds of SA", len(trials))
}
