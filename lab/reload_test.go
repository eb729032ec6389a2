package lab

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestReload: two tunnels carry streams while the configuration changes under one of them.
func TestReload(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	results.Fill(t, peerCoati, roleHost, caseReload)
	pair := NewPair(t)
	a, b := pair.A, pair.B
	localA, localB := netip.MustParseAddr("10.9.0.11"), netip.MustParseAddr("10.9.0.12")
	lanA, lanB := netip.MustParseAddr("10.11.0.1"), netip.MustParseAddr("10.12.0.1")
	for _, add := range []struct {
		h      *Host
		device string
		addr   netip.Addr
	}{{a, "eth0", localA}, {b, "eth0", localB}, {a, "lo", lanA}, {b, "lo", lanB}} {
		add.h.AddAddress(t, add.device, netip.PrefixFrom(add.addr, 24))
	}
	second := func(dpd, local, remote, child string, localTS, remoteTS netip.Addr) string {
		return "\n[tunnel.second]\nlocal = \"" + local + "\"\nremote = \"" + remote + "\"\npsk-file = \"lab.psk\"\ndpd = \"" + dpd + "\"\n" +
			"local-ts = [\"" + netip.PrefixFrom(localTS, 24).Masked().String() + "\"]\nremote-ts = [\"" + netip.PrefixFrom(remoteTS, 24).Masked().String() + "\"]\n" + child
	}
	atB := Between(a, b).Reversed()
	atB.More = second("30s", localB.String(), localA.String(), "", lanB, lanA)
	right := StartCoati(t, b, atB)
	atA := Between(a, b)
	atA.More = second("30s", localA.String(), localB.String(), "", lanA, lanB)
	left := StartCoati(t, a, atA)
	NoLoss(t, a, b, 1)
	if lost := a.Ping(t, lanA, lanB, 1); lost != 0 {
		t.Fatal("the second tunnel does not come up")
	}
	spi := func(tunnel int) string {
		sas := left.Status(t).Tunnels[tunnel].Children[0].SAs
		if len(sas) != 1 {
			t.Errorf("tunnel %d has %d pairs of SAs, want 1", tunnel, len(sas))
			return ""
		}
		return sas[0].In.SPI
	}
	first, other := spi(0), spi(1)
	out := StartStream(t, a, a.LAN4, b, b.LAN4, 300, 200)
	in := StartStream(t, b, b.LAN4, a, a.LAN4, 300, 200)
	WaitFor(t, 10*time.Second, "both streams", func() bool { return out.Received() > 10 && in.Received() > 10 })

	reload := func(more, want string, code string) {
		t.Helper()
		atA.More = more
		left.Configure(t, atA)
		output, err := left.Command("reload")
		if code == "" && err != nil || code != "" && (err == nil || !strings.Contains(err.Error(), code)) {
			t.Errorf("coati reload: %v", err)
		}
		if diff := cmp.Diff(want, strings.ReplaceAll(output, a.Path("")+"/", "")); diff != "" {
			t.Errorf("coati reload (-want +got):\n%s", diff)
		}
	}
	reload(atA.More, "nothing to change\n", "")
	if spi(0) != first || spi(1) != other {
		t.Error("a reload of the same replaced SAs")
	}
	// What changes is that tunnel's alone, and the plan says it.
	reload(second("40s", localA.String(), localB.String(), "", lanA, lanB), "~ second: dpd: 30s -> 40s\n", "")
	if lost := a.Ping(t, lanA, lanB, 3); lost != 0 {
		t.Errorf("%d of 3 pings of the tunnel with another timer lost", lost)
	}
	if spi(1) != other {
		t.Error("another timer replaced the SAs")
	}
	ikeSPI := func() string { return left.Status(t).Tunnels[1].IKE[0].LocalSPI }
	negotiated := ikeSPI()
	reload(second("40s", localA.String(), localB.String(), "esp = [\"aes256gcm16\"]\n", lanA, lanB),
		"~ second/second: esp: aes128gcm16-aes256gcm16-esn-noesn aes128-aes256-sha256-esn-noesn -> aes256gcm16-esn-noesn\n"+
			"! second/second: is negotiated anew\n", "")
	if lost := a.Ping(t, lanA, lanB, 3); lost != 0 {
		t.Errorf("%d of 3 pings of the changed tunnel lost", lost)
	}
	WaitFor(t, 10*time.Second, "the changed tunnel to have one new pair", func() bool {
		sas := left.Status(t).Tunnels[1].Children[0].SAs
		return len(sas) == 1 && sas[0].In.SPI != other && strings.HasPrefix(sas[0].Proposal, "aes256gcm16")
	})
	changed := spi(1)
	if ikeSPI() != negotiated {
		t.Error("another child replaced the IKE SA")
	}
	// A faulty file leaves everything as it is, and names every fault.
	before := a.Machine(t)
	faulty := strings.Replace(atA.More, "dpd", "dpdd", 1)
	reload(faulty, "coati.toml:22: unknown key \"dpdd\" in [tunnel.second]: did you mean \"dpd\"\n"+
		"coati: the configuration has faults: nothing was changed\n", "exit status 2")
	if spi(0) != first || spi(1) != changed {
		t.Error("a faulty file replaced SAs")
	}
	if diff := cmp.Diff(before, a.Machine(t)); diff != "" {
		t.Errorf("a faulty file changed the machine:\n%s", diff)
	}
	// Removed, and added again.
	reload("", "- second\n", "")
	if n := len(left.Status(t).Tunnels); n != 1 {
		t.Errorf("%d tunnels, want 1", n)
	}
	WaitFor(t, 5*time.Second, "the peer to hear of it", func() bool { return len(right.Status(t).Tunnels[1].IKE) == 0 })
	if text := a.Must(t, "ip", "route", "show", "table", "all"); strings.Contains(text, "10.12.0.0/24") {
		t.Errorf("the removed tunnel's route stays:\n%s", text)
	}
	reload(second("40s", localA.String(), localB.String(), "", lanA, lanB), "+ second\n", "")
	if lost := a.Ping(t, lanA, lanB, 3); lost != 0 {
		t.Errorf("%d of 3 pings of the added tunnel lost", lost)
	}
	if spi(0) != first {
		t.Error("the unchanged tunnel was renegotiated")
	}
	for name, s := range map[string]*Stream{"from A": out, "to A": in} {
		report := s.Stop()
		t.Logf("%s: %s", name, report)
		report.Undisturbed(t)
	}
	left.Alive(t)
	right.Alive(t)
}
