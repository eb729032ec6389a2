package legacy

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"coati/policy"
)

// What ipsec-tools' setkey printed on Linux, seen beside a tunnel that carried three packets.
const (
	setkeyD = "192.0.2.1 192.0.2.2 \n" +
		"\tesp mode=tunnel spi=35567542(0x021eb7b6) reqid=0(0x00000000)\n" +
		"\tE: aes-cbc  7361db4e eed91ff4 01020304 05060708\n" +
		"\tA: hmac-sha256  61f71c00 855e8d9b 01020304 05060708 090a0b0c 0d0e0f10 11121314 15161718\n" +
		"\tseq=0x00000000 replay=4 flags=0x00000000 state=mature \n" +
		"\tcreated: Nov 21 10:10:58 2026\tcurrent: Nov 21 10:11:00 2026\n" +
		"\tdiff: 2(s)\thard: 1800(s)\tsoft: 1440(s)\n" +
		"\tlast: Nov 21 10:10:58 2026\thard: 0(s)\tsoft: 0(s)\n" +
		"\tcurrent: 252(bytes)\thard: 0(bytes)\tsoft: 0(bytes)\n" +
		"\tallocated: 3\thard: 0\tsoft: 0\n" +
		"\tsadb_seq=1 pid=299 refcnt=0\n"
	setkeyDP = "10.1.0.0/24[any] 10.2.0.0/24[any] 255\n" +
		"\tout prio def ipsec\n" +
		"\tesp/tunnel/192.0.2.1-192.0.2.2/require\n" +
		"\tcreated: Nov 21 09:56:59 2026  lastused:                     \n" +
		"\tlifetime: 0(s) validtime: 0(s)\n" +
		"\tspid=1 seq=0 pid=948\n" +
		"\trefcnt=1\n"
)

func at(text string) time.Time {
	t, err := time.ParseInLocation(time.DateTime, text, time.Local)
	if err != nil {
		panic(err)
	}
	return t
}

func TestDumpIsSetkeysOctetForOctet(t *testing.T) {
	t.Parallel()
	s := parse(t, "add 192.0.2.1 192.0.2.2 esp 0x021eb7b6 -m tunnel -r 4 -lh 1800 -ls 1440 -E aes-cbc 0x7361db4eeed91ff40102030405060708"+
		" -A hmac-sha256 0x61f71c00855e8d9b0102030405060708090a0b0c0d0e0f101112131415161718;")
	live := LiveAssociation{
		Association: *s.Operations[0].SA, State: Mature, Created: at("2026-11-21 10:10:58"), Used: at("2026-11-21 10:10:58"), Packets: 3, Octets: 252, PID: 299,
	}
	var b strings.Builder
	if err := WriteAssociations(&b, at("2026-11-21 10:11:00"), []LiveAssociation{live, live}, false); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(setkeyD+strings.Replace(setkeyD, "sadb_seq=1", "sadb_seq=0", 1), b.String()); diff != "" {
		t.Errorf("-D (-setkey +ours):\n%s", diff)
	}
	b.Reset()
	cut := live
	cut.ICV96 = true
	if err := WriteAssociations(&b, at("2026-11-21 10:11:00"), []LiveAssociation{cut}, false); err != nil || !strings.Contains(b.String(), "\tA: hmac-sha256-96  61f71c00") {
		t.Errorf("cut to 96 bits: %v\n%s", err, b.String())
	}
	b.Reset()
	live.Hidden = true
	if err := WriteAssociations(&b, at("2026-11-21 10:11:00"), []LiveAssociation{live}, true); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"192.0.2.1[0] 192.0.2.2[0] \n", "\tE: aes-cbc  [redacted]\n", "\tA: hmac-sha256  [redacted]\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	b.Reset()
	e := parse(t, "spdadd 10.1.0.0/24 10.2.0.0/24 any -P out ipsec esp/tunnel/192.0.2.1-192.0.2.2/require;").Operations[0].Policy
	if err := WritePolicies(&b, []LiveEntry{{Entry: *e, ID: 1, Created: at("2026-11-21 09:56:59"), PID: 948}}, false); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(setkeyDP, b.String()); diff != "" {
		t.Errorf("-DP (-setkey +ours):\n%s", diff)
	}
}

func TestDumpOfKeysAndStates(t *testing.T) {
	t.Parallel()
	live := LiveAssociation{
		Association: Association{
			Src: addr("fd00::1"), Dst: addr("fd00::2"), SrcPort: 4500, DstPort: 4501, Encap: policy.EncapUDP, SPI: 256, Mode: AnyMode, ReqID: 20,
			Encryption: policy.LookupKeyword("aes256gcm16").Transform(), EncryptionKey: policy.NewSecret([]byte("0123456789abcdef0123456789abcdefsalt")),
		}, State: Dying,
	}
	var b strings.Builder
	if err := WriteAssociations(&b, at("2026-01-02 03:04:05"), []LiveAssociation{live, {State: Larval, Association: Association{Src: addr("10.0.0.1"), Dst: addr("10.0.0.2")}}}, false); err != nil {
		t.Fatal(err)
	}
	const none = "                    "
	want := "fd00::1[4500] fd00::2[4501] \n\tesp-udp mode=any spi=256(0x00000100) reqid=20(0x00000014)\n" +
		"\tE: aes-gcm-16  30313233 34353637 38396162 63646566 30313233 34353637 38396162 63646566\n 73616c74\n" +
		"\tseq=0x00000000 replay=0 flags=0x00000000 state=dying \n\tcreated: " + none + "\tcurrent: Jan  2 03:04:05 2026\n\tdiff: 0(s)\thard: 0(s)\tsoft: 0(s)\n" +
		"\tlast: " + none + "\thard: 0(s)\tsoft: 0(s)\n\tcurrent: 0(bytes)\thard: 0(bytes)\tsoft: 0(bytes)\n\tallocated: 0\thard: 0\tsoft: 0\n\tsadb_seq=1 pid=0 refcnt=0\n" +
		"10.0.0.1 10.0.0.2 \n\tesp mode=tunnel spi=0(0x00000000) reqid=0(0x00000000)\n" +
		"\tseq=0x00000000 replay=0 flags=0x00000000 state=larval \n\tcreated: " + none + "\tcurrent: Jan  2 03:04:05 2026\n\tdiff: 0(s)\thard: 0(s)\tsoft: 0(s)\n" +
		"\tlast: " + none + "\thard: 0(s)\tsoft: 0(s)\n\tcurrent: 0(bytes)\thard: 0(bytes)\tsoft: 0(bytes)\n\tallocated: 0\thard: 0\tsoft: 0\n\tsadb_seq=0 pid=0 refcnt=0\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// What -DP prints of a policy is what spdadd reads.
func TestDumpedPoliciesReadBack(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"10.0.0.0/8[any] 10.1.0.1[80] tcp | out prio def - 5 ipsec | esp/tunnel/192.0.2.1-192.0.2.2/unique:5",
		"10.0.0.0/8[any] 10.1.0.1[any] 255 | in prio high ipsec | esp/transport//use",
		"10.0.0.0/8[any] 10.1.0.1[any] 255 | in prio high + 1073741824 ipsec | esp/transport//default",
		"::/0 fd00::/16 ipv6-icmp 135,0 | fwd prio low + 7 none",
		"10.0.0.0/8 10.1.0.1 icmp 3,4 | out prio low - 1073741823 discard",
		"10.0.0.0/8[any] 10.1.0.1[any] ospf | in prio def ipsec | esp/tunnel/fd00::1-fd00::2/unique#70000",
	} {
		head, tail, _ := strings.Cut(text, " | ")
		script := "spdadd " + head + " -P " + strings.NewReplacer(" | ", " ", "#", ":").Replace(tail) + ";"
		var b strings.Builder
		if err := WritePolicies(&b, []LiveEntry{{Entry: *parse(t, script).Operations[0].Policy}}, false); err != nil {
			t.Fatal(err)
		}
		got, _, _ := strings.Cut(strings.ReplaceAll(b.String(), "\n\t", " | "), " | created")
		if got != text {
			t.Errorf("%s:\n got %s\nwant %s", script, got, text)
		}
	}
}
