package esp

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"coati/packet"
	"coati/policy"
)

// told is an ICMP error about packet seq of the SA that l describes.
func told(l link, seq uint32, mtu int) TooBig {
	return TooBig{Path: l.path(), SPI: l.outbound().SPI, Sequence: seq, MTU: mtu}
}

// innerMTU is what the SA of a host lets pass.
func (h *host) innerMTU() int { return int(h.Plane.out[1].mtu.Load()) }

// sending has sent n packets on a path of 1500 octets.
func sending(t *testing.T, l link, n int, change func(*Config)) *host {
	t.Helper()
	l.mtu = 1500
	a, _ := connect(t, l, change)
	for range n {
		a.out.Process(segment{sport: 1}.frame())
	}
	a.net.take()
	return a
}

// RFC 4301, section 6.1.1: an error counts if it quotes what only somebody on the way can have seen, and is not trivial.
func TestWhichErrorsAboutSizeCount(t *testing.T) {
	udp, raw := gcm128, link{enc: "aes128gcm16", raw: true}
	elsewhere := func(change func(*TooBig)) TooBig {
		m := told(udp, 5, 1300)
		change(&m)
		return m
	}
	for _, c := range []struct {
		name string
		l    link
		m    TooBig
		want TooBigVerdict
	}{
		{"in udp", udp, told(udp, 5, 1300), TooBigTentative},
		{"raw", raw, told(raw, 5, 1300), TooBigTentative},
		{"raw, whatever the ports", raw, func() TooBig {
			m := told(raw, 5, 1300)
			m.Path.Local, m.Path.Remote = netip.AddrPortFrom(m.Path.Local.Addr(), 0), netip.AddrPortFrom(m.Path.Remote.Addr(), 0)
			return m
		}(), TooBigTentative},
		{"another spi", udp, elsewhere(func(m *TooBig) { m.SPI++ }), TooBigUnknown},
		{"another peer", udp, elsewhere(func(m *TooBig) { m.Path.Remote = netip.MustParseAddrPort("192.0.2.3:4500") }), TooBigUnknown},
		{"another port", udp, elsewhere(func(m *TooBig) { m.Path.Remote = netip.MustParseAddrPort("192.0.2.2:4501") }), TooBigUnknown},
		{"another address of ours", udp, elsewhere(func(m *TooBig) { m.Path.Local = netip.MustParseAddrPort("192.0.2.9:4500") }), TooBigUnknown},
		{"not in udp", udp, elsewhere(func(m *TooBig) { m.Path.Encap = policy.EncapRaw }), TooBigUnknown},
		{"a number not sent yet", udp, told(udp, 21, 1300), TooBigStale},
		{"below the floor", udp, told(udp, 5, 575), TooBigFloor},
		{"at the floor", udp, told(udp, 5, 576), TooBigTentative},
		{"no mtu (RFC 792)", udp, told(udp, 5, 0), TooBigFloor},
		{"below 1280 in IPv6", link{enc: "aes128gcm16", v6: true}, told(link{enc: "aes128gcm16", v6: true}, 5, 1279), TooBigFloor},
		{"as large as before", udp, told(udp, 5, 1500), TooBigKnown},
		{"larger", udp, told(udp, 5, 9000), TooBigKnown},
	} {
		a := sending(t, c.l, 20, nil)
		before := a.innerMTU()
		if got := a.PathTooBig(c.m); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
		if lowered := a.innerMTU() < before; lowered != (c.want == TooBigTentative) {
			t.Errorf("%s: the inner MTU went from %d to %d", c.name, before, a.innerMTU())
		}
	}
	for _, c := range []struct {
		l              link
		needed, tooBig bool
		want           TooBigVerdict
	}{
		{udp, true, false, TooBigIgnored},
		{udp, false, true, TooBigTentative},
		{link{enc: "aes128gcm16", v6: true}, true, false, TooBigTentative},
		{link{enc: "aes128gcm16", v6: true}, false, true, TooBigIgnored},
	} {
		a := sending(t, c.l, 20, func(p *Config) { p.IgnoreNeeded, p.IgnoreTooBig = c.needed, c.tooBig })
		if got := a.PathTooBig(told(c.l, 5, 1300)); got != c.want {
			t.Errorf("IPv6 %t, ignoring %t and %t: %v, want %v", c.l.v6, c.needed, c.tooBig, got, c.want)
		}
	}
	a := sending(t, udp, 20, func(c *Config) { c.MTUFloor = 1400 })
	if got := a.PathTooBig(told(udp, 5, 1300)); got != TooBigFloor {
		t.Errorf("with a floor of 1400: %v", got)
	}
}

// What is believed is probed with a packet of the former size. An error about the probe confirms it until it is old; without
// one it is forgotten soon. Either way the path may say so again.
func TestAPathMTUIsProbedAndAges(t *testing.T) {
	a := sending(t, gcm128, 20, nil)
	full := a.innerMTU()
	after := func(d time.Duration) { a.Tick(start.Add(d)) }
	if v := a.PathTooBig(told(gcm128, 20, 1300)); v != TooBigTentative {
		t.Fatal(v)
	}
	probe := a.net.packets()
	if len(probe) != 1 {
		t.Fatalf("%d probes", len(probe))
	}
	if n := len(probe[0]) + packet.IPv4Len + packet.UDPLen; n <= 1300 || n > 1500 || n < 1500-4 {
		t.Errorf("the probe has %d octets on a path that had 1500", n)
	}
	seq := packet.ESP(probe[0]).Sequence()
	if seq != 21 {
		t.Errorf("the probe has number %d", seq)
	}
	small := a.innerMTU()
	if small >= full || small < 1300-70 {
		t.Errorf("inner MTU %d, was %d", small, full)
	}
	after(probePatience - time.Second)
	if a.innerMTU() != small {
		t.Error("forgotten while the probe may still be answered")
	}
	after(probePatience)
	if a.innerMTU() != full {
		t.Errorf("nobody confirmed an MTU, and it stays at %d", a.innerMTU())
	}
	// Again, and confirmed.
	_ = a.PathTooBig(told(gcm128, 21, 1300))
	seq = packet.ESP(a.net.packets()[0]).Sequence()
	if v := a.PathTooBig(told(gcm128, seq-1, 1300)); v != TooBigKnown {
		t.Errorf("an error about another packet than the probe: %v", v)
	}
	if v := a.PathTooBig(told(gcm128, seq, 1300)); v != TooBigConfirmed {
		t.Errorf("an error about the probe: %v", v)
	}
	after(DefaultMTUAging)
	if a.innerMTU() != small {
		t.Error("a confirmed MTU was forgotten early")
	}
	after(DefaultMTUAging + probePatience)
	if a.innerMTU() != full {
		t.Error("an old MTU was kept")
	}
	if len(a.learned) != 0 {
		t.Errorf("%d path MTUs are remembered", len(a.learned))
	}
}

// A path MTU belongs to the way, not to the SA: a successor has it, and what the machine says of the first hop does not undo it.
func TestAPathMTUOutlivesItsSA(t *testing.T) {
	a := sending(t, gcm128, 20, nil)
	_ = a.PathTooBig(told(gcm128, 20, 1300))
	small := a.innerMTU()
	a.mustApply(t, policy.Tx{AddSAs: []policy.SA{link{enc: "aes128gcm16", id: 4, mtu: 1500}.outbound()}, DeleteSAs: []policy.SAID{1}})
	successor := func() int { return int(a.Plane.out[5].mtu.Load()) }
	if successor() != small {
		t.Errorf("the successor lets %d pass, want %d", successor(), small)
	}
	peer := netip.MustParseAddr("192.0.2.2")
	a.SetPathMTU(peer, 1400)
	if successor() != small {
		t.Errorf("a first hop of 1400 makes it %d", successor())
	}
	a.SetPathMTU(peer, 1200)
	if successor() >= small {
		t.Errorf("a first hop of 1200 leaves it at %d", successor())
	}
	a.SetPathMTU(netip.MustParseAddr("192.0.2.77"), 600)
	if successor() < 1100 {
		t.Error("the path of another peer counts")
	}
}

// fragmenting is an Egress that says which packets may be fragmented on their way.
type fragmenting struct {
	*network
	whole [][]byte
}

func (f *fragmenting) SendESPInFragments(_ *policy.Path, _ byte, buf []byte, stride int) error {
	for len(buf) > 0 {
		n := min(stride, len(buf))
		f.whole = append(f.whole, bytes.Clone(buf[:n]))
		buf = buf[n:]
	}
	return nil
}

// RFC 4301, section 8.2.1: what may be fragmented is, before or after encryption; and IPv6 hosts may always send 1280 octets.
func TestFragmentsBeforeOrAfter(t *testing.T) {
	for _, c := range []struct {
		name          string
		after         bool
		frame         segment
		pieces, whole int
		answers       int
	}{
		{"before", false, segment{sport: 1, udp: true, payload: filled(1400, 1)}, 2, 0, 0},
		{"after", true, segment{sport: 1, udp: true, payload: filled(1400, 1)}, 0, 1, 0},
		{"df", true, segment{sport: 1, df: true, payload: filled(1400, 1)}, 0, 0, 1},
		{"ipv6 of 1280", false, segment{sport: 1, v6: true, payload: filled(1280-60, 1)}, 0, 1, 0},
		{"ipv6 of 1281", false, segment{sport: 1, v6: true, payload: filled(1281-60, 1)}, 0, 0, 1},
		{"a run without df", false, segment{sport: 1, payload: filled(4000, 1), gso: 1300}, 3*2 + 1, 0, 0},
		{"a run after", true, segment{sport: 1, payload: filled(4000, 1), gso: 1300}, 0, 4, 0},
	} {
		net := &fragmenting{network: &network{}}
		l := link{enc: "aes128gcm16", mtu: 1280}
		a, b := connect(t, l, func(cfg *Config) { cfg.Egress = net })
		sa := l.outbound()
		sa.ID, sa.SPI, sa.FragmentAfter = 9, 0x1009, c.after
		sb := l.inbound()
		sb.ID, sb.SPI = 9, 0x1009
		a.mustApply(t, policy.Tx{AddSAs: []policy.SA{sa}, DeleteSAs: []policy.SAID{1}})
		b.mustApply(t, policy.Tx{AddSAs: []policy.SA{sb}})
		net.take()
		a.out.Process(c.frame.frame())
		pieces := net.packets()
		for _, p := range pieces {
			if len(p)+28 > 1280 {
				t.Errorf("%s: a piece of %d octets", c.name, len(p))
			}
		}
		answers := a.tap.take()
		if len(pieces) != c.pieces || len(net.whole) != c.whole || len(answers) != c.answers {
			t.Errorf("%s: %d pieces, %d whole, %d answers, want %d, %d, %d", c.name, len(pieces), len(net.whole), len(answers), c.pieces, c.whole, c.answers)
		}
		if c.frame.v6 && c.answers > 0 {
			if mtu := binary.BigEndian.Uint32(answers[0][packet.VirtioLen+44:]); mtu != 1280 {
				t.Errorf("%s: answered with %d", c.name, mtu)
			}
		}
		for _, p := range append(pieces, net.whole...) {
			b.in.Receive([]Datagrams{{Buf: p}})
		}
		if d := b.Counters().Drops; len(d) > 0 {
			t.Errorf("%s: the other end drops %v", c.name, d)
		}
		if c.answers == 0 && len(b.tap.take()) == 0 {
			t.Errorf("%s: nothing arrived", c.name)
		}
	}
}

// The MSS is what fits, or what the configuration says, or not touched.
func TestMSSAsConfigured(t *testing.T) {
	mss := []byte{2, 4, 1460 >> 8, 1460 & 0xff}
	for _, c := range []struct {
		mtu, mss int
		want     uint16
	}{{1500, 0, 1398}, {1500, -1, 1460}, {1500, 1200, 1200}, {0, 1200, 1200}, {0, 0, 1460}, {1500, 1500, 1460}} {
		for _, v := range []string{"out", "in"} {
			l := gcm128
			a, b := newHost(nil), newHost(nil)
			out, in := l.outbound(), l.inbound()
			if v == "out" {
				out.TunnelMTU, out.MSS, in.MSS = c.mtu, c.mss, -1
			} else {
				in.TunnelMTU, in.MSS, out.MSS = c.mtu, c.mss, -1
			}
			a.mustApply(t, policy.Tx{PutPolicies: []policy.Policy{protectPolicy()}, AddSAs: []policy.SA{out}})
			b.mustApply(t, policy.Tx{AddSAs: []policy.SA{in}})
			a.out.Process(segment{flags: packet.TCPSyn, opts: mss}.frame())
			carry(a, b)
			p := unfoldAll(t, b.tap.take())[0]
			if got := binary.BigEndian.Uint16(p[42:]); got != c.want {
				t.Errorf("%s, mtu %d, mss %d: %d, want %d", v, c.mtu, c.mss, got, c.want)
			}
		}
	}
}

// Whom an error is about is looked up by its SPI, two peers may have chosen the same one, and what is gone is not found.
func TestErrorsAboutSizeFindTheirSAByItsSPI(t *testing.T) {
	a := newHost(nil)
	var sas []policy.SA
	for n := range 2 {
		sa := gcm128.outbound()
		sa.ID, sa.TunnelMTU, sa.Sequence = policy.SAID(1+n), 1500, 9
		sa.Path.Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(2 + n)}), 4500)
		sas = append(sas, sa)
	}
	a.mustApply(t, policy.Tx{AddSAs: sas})
	about := func(n int) TooBig {
		return TooBig{Path: sas[n].Path, SPI: sas[n].SPI, Sequence: 5, MTU: 1300 - n}
	}
	for n := range 2 {
		if v := a.PathTooBig(about(n)); v != TooBigTentative || a.Plane.out[sas[n].ID].outer.Load() != int32(1300-n) {
			t.Errorf("peer %d: %v", n, v)
		}
	}
	a.mustApply(t, policy.Tx{DeleteSAs: []policy.SAID{1}})
	if v := a.PathTooBig(about(0)); v != TooBigUnknown {
		t.Errorf("of an SA that is gone: %v", v)
	}
	if v := a.PathTooBig(TooBig{Path: sas[1].Path, SPI: sas[1].SPI, Sequence: 5, MTU: 1000}); v != TooBigTentative {
		t.Errorf("of the one that is left: %v", v)
	}
	a.mustApply(t, policy.Tx{DeleteSAs: []policy.SAID{2}})
	if len(a.outSPI) != 0 {
		t.Errorf("%d spis are remembered of no SA", len(a.outSPI))
	}
}

// asking is an Egress that wants the plane's lock while it sends.
type asking struct {
	network
	plane *Plane
	sent  int
}

func (e *asking) SendESP(*policy.Path, byte, []byte, int) error {
	e.sent++
	_, err := e.plane.State(1)
	return err
}

// A probe leaves after the plane's lock is free: a slow socket holds up no change.
func TestAProbeHoldsNoLock(t *testing.T) {
	e := &asking{}
	e.plane = New(Config{Egress: e, Now: start})
	sa := gcm128.outbound()
	sa.TunnelMTU, sa.Sequence = 1500, 9
	if err := e.plane.Apply(policy.Tx{AddSAs: []policy.SA{sa}}); err != nil {
		t.Fatal(err)
	}
	if v := e.plane.PathTooBig(told(gcm128, 5, 1300)); v != TooBigTentative || e.sent != 1 {
		t.Errorf("%v, %d probes", v, e.sent)
	}
}
