package esp

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"coati/packet"
)

// scapyFronts reads lines "seal|open WHAT-OR-HEX" and writes whole packets in hexadecimal: an ESP packet in transport mode with what
// stands in front of it, or what such a packet holds.
const scapyFronts = `
import sys
from scapy.all import *
from scapy.layers.ipsec import ESP, SecurityAssociation
sa = SecurityAssociation(ESP, spi=0x1000, crypt_algo='AES-CBC', crypt_key=bytes.fromhex(sys.argv[1]), auth_algo='SHA2-256-128', auth_key=bytes.fromhex(sys.argv[2]))
tail = UDP(sport=7, dport=9)/Raw(b'in front of it')
v4 = lambda o: IP(src='10.1.0.1', dst='10.2.0.1', flags='DF', id=0, options=o)/tail
v6 = lambda *h: (lambda p: [p := p/x for x in h + (tail,)][-1])(IPv6(src='fd01::1', dst='fd02::1'))
made = {
 'router-alert': v4([IPOption_Router_Alert()]), 'nothing': v4([IPOption_NOP()] * 3 + [IPOption_EOL()]),
 'timestamp': v4([IPOption(b'\x44\x08\x05\x00\x00\x00\x00\x00')]),
 'hop-by-hop': v6(IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))])),
 'routing': v6(IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))]), IPv6ExtHdrRouting(type=253, segleft=0, addresses=[])),
 'destination': v6(IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))]), IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))])),
}
parse = lambda b: IPv6(b) if b[0] >> 4 == 6 else IP(b)
n = 0
for line in sys.stdin:
    what, arg = line.split()
    if what == 'open':
        print('-', bytes(sa.decrypt(parse(bytes.fromhex(arg)))).hex())
        continue
    n += 1
    plain = parse(bytes(made[arg]))
    print(bytes(plain).hex(), bytes(sa.encrypt(plain, seq_num=n)).hex())
`

// Packets with options and extension headers that scapy seals in transport mode come out whole; sealed by us, scapy opens them to the
// same.
func TestScapyAgreesOnWhatStandsInFrontOfESP(t *testing.T) {
	if exec.Command("/usr/bin/python3", "-c", "import scapy.layers.ipsec, cryptography").Run() != nil {
		t.Skip("no scapy: install python3-scapy and python3-cryptography")
	}
	sa := link{enc: "aes128", integ: "sha256", transport: true}.outbound()
	run := func(input string) [][2]string {
		t.Helper()
		cmd := exec.Command("/usr/bin/python3", "-W", "ignore", "-c", scapyFronts, hex.EncodeToString(sa.EncryptionKey.Reveal()), hex.EncodeToString(sa.IntegrityKey.Reveal()))
		cmd.Stdin, cmd.Stderr = strings.NewReader(input), os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		var pairs [][2]string
		for line := range strings.Lines(string(out)) {
			f := strings.Fields(line)
			pairs = append(pairs, [2]string{f[0], f[1]})
		}
		return pairs
	}
	names := []string{"router-alert", "nothing", "timestamp", "hop-by-hop", "routing", "destination"}
	made := run("seal " + strings.Join(names, "\nseal ") + "\n")
	var open strings.Builder
	var want [][]byte
	for i, name := range names {
		whole, sealed := must(hex.DecodeString(made[i][0])), must(hex.DecodeString(made[i][1]))
		l := link{enc: "aes128", integ: "sha256", transport: true, raw: true, v6: whole[0]>>4 == 6}
		a, b := connect(t, l, nil)
		b.in.Receive(socketGives(t, sealed))
		got := plain(unfoldAll(t, b.tap.take()))
		expected := plain([][]byte{bytes.Clone(whole)})[0]
		if len(got) != 1 || !bytes.Equal(got[0], expected) {
			t.Errorf("%s: scapy sealed\n%x, we opened\n%x, drops %v", name, expected, got, b.Counters().Drops)
		}
		a.out.Process(append(make([]byte, packet.VirtioLen), whole...))
		if len(a.net.clear) != 1 {
			t.Fatalf("%s: %d packets left, drops %v", name, len(a.net.clear), a.Counters().Drops)
		}
		fmt.Fprintf(&open, "open %x\n", a.net.clear[0])
		want = append(want, expected)
	}
	for i, opened := range run(open.String()) {
		if got := plain([][]byte{must(hex.DecodeString(opened[1]))})[0]; !bytes.Equal(got, want[i]) {
			t.Errorf("%s: we sealed\n%x, scapy opened\n%x", names[i], want[i], got)
		}
	}
}
