package esp

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"

	"coati/packet"
	"coati/policy"
)

func TestBypassAndDiscard(t *testing.T) {
	a, _ := connect(t, gcm128, nil)
	bypass, discard := protectPolicy(), protectPolicy()
	bypass.ID, bypass.Action, bypass.Priority, bypass.Remote = 2, policy.Bypass, -1, selectors("10.2.0.7")
	discard.ID, discard.Action, discard.Priority, discard.Remote = 3, policy.Discard, -1, selectors("10.2.0.8")
	if err := a.Apply(policy.Tx{PutPolicies: []policy.Policy{bypass, discard}}); err != nil {
		t.Fatal(err)
	}
	run := segment{dst: 7, payload: filled(4000, 1), gso: 1400}
	want := unfold(t, run.frame())
	a.out.Process(run.frame())
	partial := segment{dst: 7, udp: true, payload: filled(10, 1), partial: true}
	want = append(want, unfold(t, partial.frame())...)
	a.out.Process(partial.frame())
	a.out.Process(segment{dst: 8}.frame())
	if d := cmp.Diff(want, a.net.clear); d != "" {
		t.Errorf("clear packets:\n%s", d)
	}
	outside := segment{dst: 1}.frame()
	outside[packet.VirtioLen+16] = 99
	packet.IPv4(outside[packet.VirtioLen:]).FillChecksum()
	a.out.Process(outside)
	if a.drops(DropDiscard) != 1 || a.drops(DropNoPolicy) != 1 || a.Counters().Bypassed != 4 {
		t.Errorf("%+v", a.Counters())
	}
	if len(a.net.take()) != 0 {
		t.Error("something was protected")
	}
}

// A change of policy counts for the next packet of a flow that is known already.
func TestKnownFlowsSeePolicyChanges(t *testing.T) {
	a, _ := connect(t, gcm128, nil)
	a.out.Process(numbered(1))
	discard := protectPolicy()
	discard.Action = policy.Discard
	if err := a.Apply(policy.Tx{PutPolicies: []policy.Policy{discard}}); err != nil {
		t.Fatal(err)
	}
	a.out.Process(numbered(1))
	if len(a.net.take()) != 1 || a.drops(DropDiscard) != 1 {
		t.Errorf("drops %v", a.Counters().Drops)
	}
	if err := a.Apply(policy.Tx{PutPolicies: []policy.Policy{protectPolicy()}, DeleteSAs: []policy.SAID{1}}); err != nil {
		t.Fatal(err)
	}
	a.out.Process(numbered(1))
	if frames, _ := a.Waiting(1); frames != 1 || len(a.net.take()) != 0 {
		t.Error("sent on a deleted SA")
	}
}

func neighbourSolicitation(hopLimit, typ byte, dst string) []byte {
	p := make([]byte, packet.VirtioLen+40+24)
	ip := p[packet.VirtioLen:]
	ip[0], ip[5], ip[6], ip[7] = 0x60, 24, 58, hopLimit
	copy(ip[8:], selectors("fd01::1")[0].Start.AsSlice())
	copy(ip[24:], selectors(dst)[0].Start.AsSlice())
	ip[40] = typ
	return p
}

// Neighbour discovery is bypassed, which for a TUN means: it does not leave. Whoever wants to tunnel it says so.
func TestNeighbourDiscoveryStaysOnItsLink(t *testing.T) {
	for _, off := range []bool{false, true} {
		for _, c := range []struct {
			name  string
			frame []byte
			stays bool
		}{
			{"solicitation to a group", neighbourSolicitation(255, 135, "ff02::1:ff00:1"), true},
			{"solicitation to a link-local address", neighbourSolicitation(255, 135, "fe80::1"), true},
			{"solicitation from afar", neighbourSolicitation(254, 135, "fe80::1"), false},
			{"redirect", neighbourSolicitation(255, 137, "fe80::1"), true},
			{"listener report", neighbourSolicitation(1, 143, "ff02::16"), true},
			{"echo", neighbourSolicitation(255, 128, "fe80::1"), false},
		} {
			a := newHost(func(cfg *Config) { cfg.NeighbourPolicies = off })
			p := protectPolicy()
			p.Remote = policy.AnySelectors()
			if err := a.Apply(policy.Tx{PutPolicies: []policy.Policy{p}}); err != nil {
				t.Fatal(err)
			}
			a.out.Process(bytes.Clone(c.frame))
			waiting, _ := a.Waiting(1)
			if stays := waiting == 0; stays != (c.stays && !off) {
				t.Errorf("%s, bypass off %v: stays %v", c.name, off, stays)
			}
			if len(a.net.clear) != 0 {
				t.Errorf("%s left on a link", c.name)
			}
		}
	}
}

func TestBadFramesAreCounted(t *testing.T) {
	good := segment{payload: filled(3000, 1), gso: 1400, sport: 1}
	for name, change := range map[string]func(f []byte) []byte{
		"empty":               func([]byte) []byte { return nil },
		"header alone":        func(f []byte) []byte { return f[:packet.VirtioLen] },
		"cut":                 func(f []byte) []byte { return f[:len(f)-1] },
		"unknown offload":     func(f []byte) []byte { f[1] = 3; return f },
		"tcp6 for ipv4":       func(f []byte) []byte { f[1] = packet.GSOTCPv6; return f },
		"udp for tcp":         func(f []byte) []byte { f[1] = packet.GSOUDP; return f },
		"segments of nothing": func(f []byte) []byte { f[4], f[5] = 0, 0; return f },
		"run of a fragment":   func(f []byte) []byte { f[packet.VirtioLen+7] = 1; return f },
		"checksum beyond":     func(f []byte) []byte { f[1] = 0; binary.LittleEndian.PutUint16(f[6:], 5000); return f },
		"checksum far beyond": func(f []byte) []byte { f[1] = 0; f[6], f[7], f[8], f[9] = 255, 255, 255, 255; return f },
		"checksum in ip":      func(f []byte) []byte { f[1] = 0; f[6], f[7] = 2, 0; return f },
		"no ip":               func(f []byte) []byte { f[packet.VirtioLen] = 0; return f },
	} {
		a, _ := connect(t, gcm128, nil)
		a.out.Process(change(good.frame()))
		if a.drops(DropMalformed) != 1 || len(a.net.take()) != 0 {
			t.Errorf("%s: drops %v", name, a.Counters().Drops)
		}
	}
}

func TestPaddingBehindThePacketDoesNotTravel(t *testing.T) {
	a, b := connect(t, gcm128, nil)
	f := segment{sport: 1, payload: filled(20, 1)}.frame()
	want := bytes.Clone(f[packet.VirtioLen:])
	a.out.Process(append(f, make([]byte, 50)...))
	carry(a, b)
	if d := cmp.Diff([][]byte{want}, unfoldAll(t, b.tap.take())); d != "" {
		t.Error(d)
	}
}

// A packet too large for the tunnel is answered with the size that fits; IPv4 without DF is cut.
func TestTooLargePackets(t *testing.T) {
	l := link{enc: "aes128gcm16", mtu: 1500}
	inner := InnerMTU(1500, false, true, policy.Tunnel, policy.LookupKeyword(l.enc).Transform(), policy.Transform{})
	if inner != 1438 {
		t.Errorf("inner mtu %d: 1500 - 20 - 8 - 8 - 8 - 16, less 2, aligned, is 1438", inner)
	}
	t.Run("df", func(t *testing.T) {
		a, _ := connect(t, l, nil)
		a.out.Process(segment{df: true, payload: filled(inner-40, 1)}.frame())
		if len(a.net.packets()) != 1 {
			t.Error("the largest that fits does not leave")
		}
		a.out.Process(segment{df: true, payload: filled(inner-39, 1)}.frame())
		answers := a.tap.take()
		if len(a.net.packets()) != 0 || len(answers) != 1 {
			t.Fatalf("%d answers", len(answers))
		}
		icmp := answers[0][packet.VirtioLen+20:]
		if icmp[0] != 3 || icmp[1] != 4 || binary.BigEndian.Uint16(icmp[6:]) != uint16(inner) {
			t.Errorf("answer % x", icmp[:8])
		}
	})
	t.Run("ipv6", func(t *testing.T) {
		a, _ := connect(t, l, nil)
		a.out.Process(segment{v6: true, payload: filled(inner-59, 1)}.frame())
		answers := a.tap.take()
		if len(a.net.packets()) != 0 || len(answers) != 1 {
			t.Fatalf("%d answers", len(answers))
		}
		icmp := answers[0][packet.VirtioLen+40:]
		if icmp[0] != 2 || binary.BigEndian.Uint32(icmp[4:]) != uint32(inner) {
			t.Errorf("answer % x", icmp[:8])
		}
	})
	t.Run("fragments", func(t *testing.T) {
		a, b := connect(t, l, nil)
		f := segment{id: 77, payload: filled(5000, 1)}.frame()
		want := bytes.Clone(f[packet.VirtioLen:])
		a.out.Process(f)
		for _, s := range a.net.take() {
			if s.stride > 1500-28 {
				t.Errorf("%d octets in udp", s.stride)
			}
			b.in.Receive([]Datagrams{{Buf: s.buf, SegSize: s.stride}})
		}
		got := bytes.Clone(want[:20])
		pieces := unfoldAll(t, b.tap.take())
		for i, p := range pieces {
			ip := packet.IPv4(p)
			if ip.FragmentOffset() != len(got)-20 || ip.MoreFragments() != (i < len(pieces)-1) || ip.ID() != 77 || !ip.ChecksumOK() {
				t.Errorf("fragment %d: offset %d, more %v", i, ip.FragmentOffset(), ip.MoreFragments())
			}
			got = append(got, p[20:]...)
		}
		if !bytes.Equal(got, want) {
			t.Error("put together again it is another packet")
		}
	})
	t.Run("seen late", func(t *testing.T) {
		a, _ := connect(t, gcm128, nil)
		a.net.fail, a.net.mtu = ErrTooBig, 1400
		a.out.Process(segment{df: true, payload: filled(1400, 1)}.frame())
		answers := a.tap.take()
		if len(answers) != 1 || binary.BigEndian.Uint16(answers[0][packet.VirtioLen+26:]) != 1338 {
			t.Errorf("%d answers", len(answers))
		}
		if a.drops(DropTooBig) != 1 {
			t.Errorf("drops %v", a.Counters().Drops)
		}
	})
}

// MSS options are clamped in both directions, so that neither end sends what does not fit.
func TestSYNsAreClamped(t *testing.T) {
	mss := []byte{2, 4, 1460 >> 8, 1460 & 0xff}
	for _, c := range []struct {
		name    string
		out, in int // outer MTU known at either end
		v6      bool
		want    uint16
	}{
		{"outbound", 1500, 0, false, 1398},
		{"inbound", 0, 1500, false, 1398},
		{"outbound v6", 1500, 0, true, 1378},
		{"nothing known", 0, 0, false, 1460},
		{"room enough", 9000, 9000, false, 1460},
	} {
		a, b := newHost(nil), newHost(nil)
		lo, li := gcm128, gcm128
		lo.mtu, li.mtu = c.out, c.in
		if err := a.Apply(policy.Tx{PutPolicies: []policy.Policy{protectPolicy()}, AddSAs: []policy.SA{lo.outbound()}}); err != nil {
			t.Fatal(err)
		}
		if err := b.Apply(policyTx(li)); err != nil {
			t.Fatal(err)
		}
		a.out.Process(segment{v6: c.v6, flags: packet.TCPSyn, opts: mss, partial: true}.frame())
		carry(a, b)
		p := unfoldAll(t, b.tap.take())[0]
		var i packet.Info
		if err := packet.Parse(p, &i); err != nil {
			t.Fatal(err)
		}
		tcp := p[i.Transport:]
		if got := binary.BigEndian.Uint16(tcp[22:]); got != c.want {
			t.Errorf("%s: mss %d, want %d", c.name, got, c.want)
		}
		if packet.Sum(tcp, packet.PseudoSum(p, packet.ProtoTCP, len(tcp))) != 0xffff {
			t.Errorf("%s: checksum", c.name)
		}
	}
}

// CBC IVs must not repeat or count (RFC 3602, section 3); counter modes must count and never repeat.
func TestIVs(t *testing.T) {
	seen := map[string]bool{}
	for _, l := range []link{gcm128, {enc: "aes128", integ: "sha256"}} {
		a, _ := connect(t, l, nil)
		for range 20 {
			a.out.Process(segment{payload: filled(20000, 1), gso: 1400}.frame())
		}
		for i, p := range a.net.packets() {
			n := 8
			if l.integ != "" {
				n = 16
			} else if got := binary.BigEndian.Uint64(p[8:]); got != uint64(i+1) {
				t.Fatalf("packet %d has IV %d", i, got)
			}
			iv := string(p[8 : 8+n])
			if seen[iv] {
				t.Fatalf("%v: IV %x twice", l, iv)
			}
			seen[iv] = true
		}
	}
}

// RFC 4303, section 2.2.1: separate integrity algorithms cover the high half of the number, which is not sent, behind
// the ciphertext.
func TestHighHalfIsAuthenticated(t *testing.T) {
	l := link{enc: "aes128", integ: "sha256", esn: true}
	a, _ := connect(t, l, nil)
	sa := a.Plane.out[1]
	sa.reserved.Store(5<<32 + 1)
	sa.turn.passed.Store(5<<32 + 1)
	a.out.Process(numbered(1))
	p := a.net.packets()[0]
	body, tag := p[:len(p)-16], p[len(p)-16:]
	cfg := l.outbound()
	mac := hmac.New(sha256.New, cfg.IntegrityKey.Reveal())
	mac.Write(body)
	mac.Write([]byte{0, 0, 0, 5})
	if !bytes.Equal(mac.Sum(nil)[:16], tag) {
		t.Error("tag is not HMAC-SHA-256 of packet and high half")
	}
}
