package esp

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"coati/packet"
	"coati/policy"
)

// byPort is an SA for UDP to port 5001, as its two ends have it.
func byPort(agreed bool, change func(out, in *policy.SA)) (policy.SA, policy.SA) {
	out, in := gcm128.outbound(), gcm128.inbound()
	local, remote := selectors("10.1.0.0/16[udp]", "fd01::/16[udp]"), selectors("10.2.0.0/16[udp/5001]", "fd02::/16[udp/5001]")
	out.Local, out.Remote, in.Local, in.Remote = local, remote, remote, local
	out.LaterFragments, in.LaterFragments = agreed, agreed
	if change != nil {
		change(&out, &in)
	}
	return out, in
}

// connectByPort makes two gateways that protect UDP to port 5001 and nothing else.
func connectByPort(t testing.TB, agreed bool, change func(out, in *policy.SA)) (a, b *host) {
	t.Helper()
	out, in := byPort(agreed, change)
	a, b = newHost(nil), newHost(nil)
	a.mustApply(t, policy.Tx{PutPolicies: []policy.Policy{portPolicy(out)}, AddSAs: []policy.SA{out}})
	b.mustApply(t, policy.Tx{AddSAs: []policy.SA{in}})
	return a, b
}

func portPolicy(sa policy.SA) policy.Policy {
	p := protectPolicy()
	p.Local, p.Remote = sa.Local, sa.Remote
	return p
}

// cut makes fragments of n octets of payload each, in frames.
func cut(s segment, n int) (out [][]byte) {
	whole := s.frame()[packet.VirtioLen:]
	header := packet.IPv4Len
	if s.v6 {
		header = packet.IPv6Len
	}
	for at, data := 0, whole[header:]; len(data) > 0; at += n {
		k := min(n, len(data))
		out = append(out, fragmentFrame(whole[:header], data[:k], at, k < len(data), s.id))
		data = data[k:]
	}
	return out
}

// seal is what the peer's gateway, if it forged nothing but the order, would send of these packets.
func sealed(t testing.TB, frames ...[]byte) (out [][]byte) {
	for n, f := range frames {
		next := byte(packet.ProtoIPv6)
		if f[packet.VirtioLen]>>4 == 4 {
			next = packet.ProtoIPv4
		}
		out = append(out, forge(t, gcm128, uint64(n+1), trailer(f[packet.VirtioLen:], next)))
	}
	return out
}

func (h *host) receive(datagrams ...[]byte) {
	for _, d := range datagrams {
		h.in.Receive([]Datagrams{{Buf: d}})
	}
}

// Both ends agreed: all fragments of a packet go where its ports send the first one, and arrive as they left.
func TestFragmentsFollowTheirFirstOneThroughAnSAForPorts(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		a, b := connectByPort(t, true, nil)
		frames := cut(segment{v6: v6, udp: true, id: 9, payload: filled(3000, 1)}, 1400)
		for _, f := range frames {
			a.out.Process(slices.Clone(f))
		}
		carry(a, b)
		got := unfoldFragments(b.tap.take())
		if len(got) != 3 || !slices.EqualFunc(got, frames, func(x, f []byte) bool { return string(x) == string(f[packet.VirtioLen:]) }) {
			t.Errorf("IPv6 %t: %d of 3 fragments arrived, drops %v and %v", v6, len(got), a.Counters().Drops, b.Counters().Drops)
		}
		if st, _ := b.State(1); st.Packets != 3 {
			t.Errorf("the SA counts %d packets", st.Packets)
		}
	}
}

// unfoldFragments are the packets of frames that hold one each.
func unfoldFragments(frames [][]byte) (out [][]byte) {
	for _, f := range frames {
		out = append(out, f[packet.VirtioLen:])
	}
	return out
}

// A peer that did not agree is sent none, and what it sends is dropped.
func TestFragmentsWithoutConsentStayOutOfAnSAForPorts(t *testing.T) {
	a, b := connectByPort(t, false, nil)
	frames := cut(segment{udp: true, id: 9, payload: filled(2000, 1)}, 1400)
	for _, f := range frames {
		a.out.Process(slices.Clone(f))
	}
	if n := len(a.net.packets()); n != 1 || a.drops(DropNoPolicy) != 1 {
		t.Errorf("%d packets left, drops %v", n, a.Counters().Drops)
	}
	b.receive(sealed(t, frames...)...)
	if n := len(b.tap.take()); n != 1 || b.drops(DropSelectors) != 1 {
		t.Errorf("%d of 2 fragments were let through, drops %v", n, b.Counters().Drops)
	}
}

// In whatever order fragments come, all of them are delivered once their first one is there, and none before.
func TestFragmentsInAnyOrder(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		rapid.Check(t, func(r *rapid.T) {
			frames := cut(segment{v6: v6, udp: true, id: 9, payload: filled(rapid.IntRange(100, 9000).Draw(r, "size"), 1)}, 8*rapid.IntRange(8, 170).Draw(r, "units"))
			order := rapid.Permutation(frames).Draw(r, "order")
			if len(order) > earlyFragments {
				r.Skip()
			}
			_, in := byPort(true, nil)
			b := newHost(nil)
			b.mustApply(t, policy.Tx{AddSAs: []policy.SA{in}})
			seen := false
			for n, d := range sealed(t, order...) {
				first := &order[n][0] == &frames[0][0]
				b.receive(d)
				want := 0
				switch {
				case first:
					want = n + 1
				case seen:
					want = 1
				}
				if seen = seen || first; len(b.tap.take()) != want {
					r.Fatalf("fragment %d of %d: not %d were delivered; drops %v", n, len(order), want, b.Counters().Drops)
				}
			}
			if c := &b.Plane.in[1].checks; c.early != 0 || c.octets != 0 || slices.ContainsFunc(c.packets, func(e checked) bool { return e.at != 0 }) {
				r.Fatal("something is kept of a packet that is complete")
			}
		})
	}
}

// What no first fragment on this SA speaks for is dropped, and counted when it has waited in vain.
func TestFragmentsWhoseFirstOneIsNotOnThisSA(t *testing.T) {
	elsewhere := segment{udp: true, id: 9, payload: filled(2000, 1)}
	_, in := byPort(true, nil)
	for _, c := range []struct {
		name string
		send func(b *host)
		want map[Reason]uint64
		get  int
	}{
		{"none came", func(b *host) {
			b.receive(sealed(t, cut(elsewhere, 1400)[1])...)
			b.Tick(start.Add(fragmentPatience))
		}, map[Reason]uint64{DropInnerFragment: 1}, 0},
		{"it has another port", func(b *host) {
			f := cut(elsewhere, 1400)
			f[0][packet.VirtioLen+packet.IPv4Len+3]++
			b.receive(sealed(t, f...)...)
		}, map[Reason]uint64{DropSelectors: 1, DropInnerFragment: 1}, 0},
		{"it has another port, and came last", func(b *host) {
			f := cut(elsewhere, 1000)
			f[0][packet.VirtioLen+packet.IPv4Len+3]++
			b.receive(sealed(t, f[1], f[2], f[0])...)
		}, map[Reason]uint64{DropSelectors: 1, DropInnerFragment: 2}, 0},
		{"it is too small to show a port (RFC 1858)", func(b *host) {
			f := cut(segment{id: 9, payload: filled(100, 1)}, 16)
			b.receive(sealed(t, f[0], f[1])...)
		}, map[Reason]uint64{DropSelectors: 1, DropInnerFragment: 1}, 0},
		{"it was another packet's", func(b *host) {
			f, g := cut(elsewhere, 1400), elsewhere
			g.id++
			b.receive(sealed(t, f[0], cut(g, 1400)[1])...)
			b.Tick(start.Add(fragmentPatience))
		}, map[Reason]uint64{DropInnerFragment: 1}, 1},
		{"it was too long ago", func(b *host) {
			f := sealed(t, cut(elsewhere, 1400)...)
			b.receive(f[0])
			b.Tick(start.Add(fragmentPatience))
			b.receive(f[1])
			b.Tick(start.Add(2 * fragmentPatience))
		}, map[Reason]uint64{DropInnerFragment: 1}, 1},
		{"it overlaps the next one", func(b *host) {
			f := cut(elsewhere, 1400)
			h := f[1][packet.VirtioLen:]
			packet.IPv4(h).SetFragment(1392, false)
			packet.IPv4(h).FillChecksum()
			b.receive(sealed(t, f...)...)
		}, map[Reason]uint64{DropInnerFragment: 1}, 1},
	} {
		b := newHost(nil)
		b.mustApply(t, policy.Tx{AddSAs: []policy.SA{in}})
		c.send(b)
		drops, want := b.Counters().Drops, map[string]uint64{}
		for r, n := range c.want {
			want[r.String()] = n
		}
		if n := len(b.tap.take()); n != c.get || fmt.Sprint(drops) != fmt.Sprint(want) {
			t.Errorf("%s: %d delivered, drops %v, want %d and %v", c.name, n, drops, c.get, want)
		}
	}
}

// Of an IPv6 packet whose fragments overlap nothing more is delivered (RFC 5722, section 4), and the next packet is.
func TestOverlappingFragmentsEndTheirPacket(t *testing.T) {
	_, in := byPort(true, nil)
	b := newHost(nil)
	b.mustApply(t, policy.Tx{AddSAs: []policy.SA{in}})
	f := cut(segment{v6: true, udp: true, id: 9, payload: filled(3000, 1)}, 800)
	b.receive(sealed(t, f[0], f[1], f[1], f[2], f[3])...)
	if n := len(b.tap.take()); n != 2 || b.drops(DropInnerFragment) != 3 {
		t.Errorf("%d delivered, drops %v", n, b.Counters().Drops)
	}
	g := cut(segment{v6: true, udp: true, id: 10, payload: filled(3000, 1)}, 800)
	b.receive(sealed(t, append(slices.Repeat([][]byte{f[2]}, 5), g...)...)[5:]...)
	if n := len(b.tap.take()); n != 4 {
		t.Errorf("%d of 4 fragments of the next packet delivered, drops %v", n, b.Counters().Drops)
	}
}

// Whatever a peer sends, what waits stays within its limits, and everything is counted in the end.
func TestFragmentsThatWaitAreFew(t *testing.T) {
	_, in := byPort(true, func(_, in *policy.SA) { in.ReplayWindow = 65536 })
	b := newHost(nil)
	b.mustApply(t, policy.Tx{AddSAs: []policy.SA{in}})
	var late [][]byte
	for n := range 1000 {
		late = append(late, cut(segment{udp: true, id: uint16(n / 3), payload: filled(3000, 1)}, 1000)[1+n%3])
	}
	for _, d := range sealed(t, late...) {
		b.receive(d)
		if c := &b.Plane.in[1].checks; c.early > earlyFragments || c.octets > earlyOctets || len(c.packets) > checkedPackets {
			t.Fatalf("%d fragments of %d octets wait, of %d packets", c.early, c.octets, len(c.packets))
		}
	}
	if n := len(b.tap.take()); n != 0 {
		t.Errorf("%d delivered", n)
	}
	b.Tick(start.Add(fragmentPatience))
	if b.drops(DropInnerFragment) != 1000 || b.Plane.in[1].checks.octets != 0 {
		t.Errorf("drops %v", b.Counters().Drops)
	}
}

// A fragmented packet that has to wait for its SA waits whole, and leaves in order if the peer agrees to fragments.
func TestFragmentsWaitForAnSAForPorts(t *testing.T) {
	for _, agreed := range []bool{true, false} {
		out, _ := byPort(agreed, nil)
		a := newHost(nil)
		a.mustApply(t, policy.Tx{PutPolicies: []policy.Policy{portPolicy(out)}})
		for _, f := range cut(segment{udp: true, id: 9, payload: filled(3000, 1)}, 1400) {
			a.out.Process(f)
		}
		if ev := a.event(t); ev.Kind != policy.PlaneAcquire || ev.Flow.DstPort != 5001 {
			t.Errorf("asked for %+v", ev)
		}
		if n, _ := a.Waiting(1); n != 3 {
			t.Errorf("%d of 3 fragments wait", n)
		}
		a.Tick(start.Add(5 * time.Second))
		a.mustApply(t, policy.Tx{AddSAs: []policy.SA{out}})
		want := map[bool]int{true: 3, false: 1}[agreed]
		if n := len(a.net.packets()); n != want || a.drops(DropNoPolicy) != uint64(3-want) {
			t.Errorf("agreed %t: %d fragments left, drops %v", agreed, n, a.Counters().Drops)
		}
		a.noEvent(t)
	}
}

// Fragments of any shape and in any order cost no more than their place, and pass only behind a first one that is selected.
func FuzzFragmentChecks(f *testing.F) {
	f.Add([]byte{0, 0, 8, 1, 0, 1, 8, 0})
	f.Add([]byte{1, 1, 8, 0, 1, 0, 8, 1, 1, 0, 8, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var c fragmentChecks
		known := map[byte]bool{}
		delivered, dropped, total := 0, 0, 0
		for n := 0; len(b) >= 4; n++ {
			p := part{int(b[1]) * 8, int(b[2]), b[3]&1 != 0}
			id, first := b[0], b[1] == 0
			selected := first && b[3]&2 != 0
			b = b[4:]
			if !p.sound(packet.IPv4Len) {
				continue
			}
			total++
			v, free, lost := c.check(fragmentKey{id: uint32(id)}, p, selected, make([]byte, p.length), int64(n+1))
			dropped += lost
			known[id] = known[id] || selected
			if v == passes {
				if delivered += 1 + len(free); !known[id] {
					t.Fatal("passed without a first one")
				}
			}
			if c.early > earlyFragments || c.octets > earlyOctets || len(c.packets) > checkedPackets {
				t.Fatal("beyond the limits")
			}
		}
		if delivered+dropped+c.early != total || total-delivered-dropped < 0 {
			t.Fatalf("%d delivered, %d dropped and %d waiting of %d", delivered, dropped, c.early, total)
		}
	})
}
