package lab

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The harness is tried with strongSwan at both ends, so that a red cell of the table is Coati's.

func TestHarness(t *testing.T) {
	NeedRoot(t)
	for _, c := range []struct{ name, ike, esp string }{
		{"GCM", "aes128gcm16-prfsha256-x25519", "aes128gcm16"},
		{"CBC", "aes128-sha256-x25519", "aes128-sha256"},
	} {
		for _, v6 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/v6=%t", c.name, v6), func(t *testing.T) {
				harness(t, c.ike, c.esp, v6)
			})
		}
	}
}

func harness(t *testing.T, ike, esp string, v6 bool) {
	pair := NewPair(t)
	a, b := pair.A, pair.B
	outerA, outerB := a.Outer4, b.Outer4
	if v6 {
		outerA, outerB = a.Outer6, b.Outer6
	}
	left, right := StartCharon(t, a, true), StartCharon(t, b, false)
	left.LoadAll(t, swanctlConf(outerA, outerB, a.LANNet4, b.LANNet4, ike, esp, ""))
	right.LoadAll(t, swanctlConf(outerB, outerA, b.LANNet4, a.LANNet4, ike, esp, ""))
	capture := a.Capture(t)
	if err := left.Initiate("lan"); err != nil {
		t.Fatal(err)
	}
	if n := right.Established(t, "lan"); n != 1 {
		t.Fatalf("%d children at the other end, want 1", n)
	}
	NoLoss(t, a, b, 3)
	stream := StartStream(t, a, a.LAN4, b, b.LAN4, 200, 100)
	WaitFor(t, 10*time.Second, "100 datagrams", func() bool { return stream.Received() >= 100 })
	report := stream.Stop()
	report.Undisturbed(t)
	sas := left.SAs(t)
	if err := left.Terminate("--ike", "t"); err != nil {
		t.Fatal(err)
	}
	capture.Stop(t)

	keys := charonKeys(t, a, left.Log(), sas[0], outerA.String(), outerB.String())
	verdict := Judge(t, capture.File, keys)
	verdict.Check(t, 2*report.Sent/2+6)

	// A judge that never says no is none: with each key spoilt, every frame it opened must fail.
	for _, table := range []string{"esp_sa", "ikev2_decryption_table"} {
		spoilt := spoilKeys(t, keys, table)
		bad := Judge(t, capture.File, spoilt)
		want := verdict.ESP
		if table != "esp_sa" {
			want = verdict.Sealed
		}
		if len(bad.Faults) != want {
			t.Errorf("with wrong keys in %s the judge has %d faults, want %d", table, len(bad.Faults), want)
		}
		if err := os.Remove(filepath.Join(spoilt, table)); err != nil {
			t.Fatal(err)
		}
		if without := Judge(t, capture.File, spoilt); len(without.Faults) != want {
			t.Errorf("without %s the judge has %d faults, want %d", table, len(without.Faults), want)
		}
	}
}

// charonKeys makes a key folder as Coati writes it from strongSwan's most verbose log.
func charonKeys(t *testing.T, h *Host, log string, sa CharonSA, left, right string) string {
	t.Helper()
	secret := func(name string) string {
		_, after, found := strings.Cut(log, name+" => ")
		if !found {
			return ""
		}
		var key strings.Builder
		for _, line := range strings.Split(after, "\n")[1:] {
			match := hexDump.FindStringSubmatch(line)
			if match == nil {
				break
			}
			key.WriteString(strings.ReplaceAll(match[1], " ", ""))
		}
		return strings.ToLower(key.String())
	}
	ikeCipher, ikeHash := "AES-GCM-128 with 16 octet ICV [RFC5282]", "NONE [RFC4306]"
	espCipher, espHash := "AES-GCM with 16 octet ICV [RFC4106]", "NULL"
	if sa.Encr == "AES_CBC" {
		ikeCipher, ikeHash = "AES-CBC-128 [RFC3602]", "HMAC_SHA2_256_128 [RFC4868]"
	}
	child := sa.Children[0]
	if child.Encr == "AES_CBC" {
		espCipher, espHash = "AES-CBC [RFC3602]", "HMAC-SHA-256-128 [RFC4868]"
	}
	h.Write(t, "keys/ikev2_decryption_table", fmt.Sprintf("%s,%s,%s,%s,%q,%s,%s,%q\n", sa.InitiatorSPI, sa.RemoteSPI,
		secret("Sk_ei secret"), secret("Sk_er secret"), ikeCipher, secret("Sk_ai secret"), secret("Sk_ar secret"), ikeHash))
	family := "IPv4"
	if strings.Contains(left, ":") {
		family = "IPv6"
	}
	row := func(from, to, spi, role string) string {
		return fmt.Sprintf("%q,%q,%q,\"0x%s\",%q,\"0x%s\",%q,\"0x%s\"\n", family, from, to, spi, espCipher,
			secret("encryption "+role+" key"), espHash, secret("integrity "+role+" key"))
	}
	h.Write(t, "keys/esp_sa", row(left, right, child.SPIOut, "initiator")+row(right, left, child.SPIIn, "responder"))
	return h.Path("keys")
}

var hexDump = regexp.MustCompile(`\] +\d+: ((?:[0-9A-F]{2} )+)`)

// spoilKeys copies a key folder with one bit of every key in the table turned.
func spoilKeys(t *testing.T, keys, table string) string {
	t.Helper()
	spoilt := t.TempDir()
	for _, name := range []string{"esp_sa", "ikev2_decryption_table"} {
		text, err := os.ReadFile(filepath.Join(keys, name))
		if err != nil {
			t.Fatal(err)
		}
		if name == table {
			text = longHex.ReplaceAllFunc(text, func(key []byte) []byte {
				if key[0] == '0' {
					return append([]byte{'1'}, key[1:]...)
				}
				return append([]byte{'0'}, key[1:]...)
			})
		}
		if err := os.WriteFile(filepath.Join(spoilt, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return spoilt
}

var longHex = regexp.MustCompile(`[0-9a-f]{32,}`)

func TestMachineSeesWhatIsLeftBehind(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	h := NewPair(t).A
	before := h.Machine(t)
	if diff := cmp.Diff(before, h.Machine(t)); diff != "" {
		t.Fatalf("two looks at an idle host differ:\n%s", diff)
	}
	for _, c := range []struct{ kind, do, undo string }{
		{"routes", "ip route add 10.99.0.0/24 dev eth0 table 4711 proto 167", "ip route del 10.99.0.0/24 dev eth0 table 4711"},
		{"routes6", "ip -6 route add fd99::/64 dev eth0 table 4711", "ip -6 route del fd99::/64 dev eth0 table 4711"},
		{"rules", "ip rule add not fwmark 0x2000/0x2000 table 4711", "ip rule del not fwmark 0x2000/0x2000 table 4711"},
		{"links", "ip tuntap add dev left0 mode tun", "ip tuntap del dev left0 mode tun"},
		{"sysctls", "sysctl -qw net.ipv4.conf.eth0.rp_filter=2", "sysctl -qw net.ipv4.conf.eth0.rp_filter=0"},
		{"nftables", "nft add table inet left", "nft delete table inet left"},
		{"addresses", "ip addr add 10.98.0.1/32 dev eth0", "ip addr del 10.98.0.1/32 dev eth0"},
	} {
		h.Must(t, strings.Fields(c.do)...)
		if m := h.Machine(t); m[c.kind] == before[c.kind] {
			t.Errorf("%s: no difference in %s", c.do, c.kind)
		}
		h.Must(t, strings.Fields(c.undo)...)
	}
	if diff := cmp.Diff(before, h.Machine(t)); diff != "" {
		t.Errorf("a difference stays:\n%s", diff)
	}
}

func TestStreamCountsLosses(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	pair := NewPair(t)
	a, b := pair.A, pair.B
	stream := StartStream(t, a, a.Outer4, b, b.Outer4, 500, 100)
	WaitFor(t, 5*time.Second, "the stream to flow", func() bool { return stream.Received() > 50 })
	b.Must(t, strings.Fields("nft add table ip shut")...)
	b.Must(t, "nft", "add chain ip shut in { type filter hook input priority 0; }")
	b.Must(t, "nft", "add rule ip shut in udp dport 7777 drop")
	mark := stream.Received()
	WaitFor(t, 5*time.Second, "losses", func() bool { return stream.Sent() > mark+50 })
	b.Must(t, "nft", "delete table ip shut")
	WaitFor(t, 5*time.Second, "the stream to flow again", func() bool { return stream.Received() > mark+50 })
	if report := stream.Stop(); report.Lost < 20 || report.Received+report.Lost != report.Sent || report.Doubled != 0 {
		t.Errorf("%s", report)
	}
	b.Must(t, "ip", "link", "set", "eth0", "down")
	if lost := a.Ping(t, a.Outer4, b.Outer4, 2); lost != 2 {
		t.Errorf("%d pings of 2 lost on a link that is down", lost)
	}
}

// The probes are tried on strongSwan: it must answer ike-scan, and stand random datagrams.
func TestProbes(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	pair := NewPair(t)
	a, b := pair.A, pair.B
	left, right := StartCharon(t, a, false), StartCharon(t, b, false)
	const ike = "aes128-sha256-modp2048,aes256-sha1-modp2048"
	left.LoadAll(t, swanctlConf(a.Outer4, b.Outer4, a.LANNet4, b.LANNet4, ike, usualESP, ""))
	right.LoadAll(t, swanctlConf(b.Outer4, a.Outer4, b.LANNet4, a.LANNet4, ike, usualESP, ""))
	if output, n := a.IKEScan(t, b.Outer4.String()); n != 1 {
		t.Errorf("%d handshakes, want 1:\n%s", n, output)
	}
	if output, n := a.IKEScan(t, "10.9.0.77"); n != 0 {
		t.Errorf("%d handshakes with nobody:\n%s", n, output)
	}
	capture := a.Capture(t)
	if err := left.Initiate("lan"); err != nil {
		t.Fatal(err)
	}
	NoLoss(t, a, b, 3)
	capture.Stop(t)
	recorded := Datagrams(t, capture.File, b.Outer4)
	if len(recorded) != 5 { // IKE_SA_INIT, IKE_AUTH and three of ESP
		t.Errorf("%d datagrams recorded, want 5", len(recorded))
	}
	capture = b.Capture(t)
	stranger := netip.MustParseAddr("10.9.0.66")
	rng := rand.New(rand.NewPCG(1, 2))
	a.Fire(t, stranger, b.Outer4, append(Random(rng, 60), Mutated(rng, recorded, 40)...))
	capture.Stop(t)
	if fired := Datagrams(t, capture.File, b.Outer4); len(fired) != 100 {
		t.Errorf("%d datagrams arrived, want 100", len(fired))
	}
	NoLoss(t, a, b, 3)
	if report := StartStream(t, a, a.LAN4, b, b.LAN4, 100, 100).Stop(); report.Lost != 0 {
		t.Errorf("%s", report)
	}
}

func TestTableKnowsItsEmptyCells(t *testing.T) {
	cells := []Cell{{"p", "r", "tried"}, {"p", "r", "skipped"}, {"p", "r", "forgotten"}, {"p", "r", "half skipped"}}
	table := NewTable(cells...)
	t.Run("tried", func(t *testing.T) { table.Fill(t, "p", "r", "tried") })
	t.Run("skipped", func(t *testing.T) {
		table.Fill(t, "p", "r", "skipped")
		t.Skip("to see that it counts as empty")
	})
	t.Run("half", func(t *testing.T) { table.Fill(t, "p", "r", "half skipped") })
	t.Run("other half", func(t *testing.T) {
		table.Fill(t, "p", "r", "half skipped")
		t.Skip("to see that one skip is enough")
	})
	if diff := cmp.Diff(cells[1:], table.Empty()); diff != "" {
		t.Errorf("empty cells (-want +got):\n%s", diff)
	}
	if text := table.Render(); !strings.Contains(text, "EMPTY") || !strings.Contains(text, "ok ") {
		t.Errorf("the table does not show them:\n%s", text)
	}
}
