package esp

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"coati/packet"
	"coati/policy"
)

var inTransport = link{enc: "aes128gcm16", transport: true, mtu: 1400}

// between are two ends of transport mode, and what goes to the second in fragments.
func between(t testing.TB, v6 bool) (a, b *host, net *fragmenting) {
	l := inTransport
	l.v6 = v6
	net = &fragmenting{network: &network{}}
	a, b = connect(t, l, func(c *Config) { c.Egress = net })
	a.net = net.network
	return a, b, net
}

// arrive lets the other end have what left, and counts the packets that come out of it.
func (f *fragmenting) arrive(b *host) [][]byte {
	for _, p := range append(f.packets(), f.whole...) {
		b.in.Receive([]Datagrams{{Buf: p}})
	}
	f.whole = nil
	return b.tap.take()
}

// fragmented is a large datagram to the peer's own address, whole and in frames of at most 1,208 octets of payload each.
func fragmented(t testing.TB, v6 bool, id uint16, size int) (whole []byte, frames [][]byte) {
	t.Helper()
	whole = segment{sport: 1, dst: 1, v6: v6, udp: true, id: id, payload: filled(size, byte(id))}.frame()[packet.VirtioLen:]
	header := packet.IPv4Len
	if v6 {
		header = packet.IPv6Len
	}
	for offset := 0; offset < len(whole)-header; offset += 1208 {
		part := whole[header+offset : min(header+offset+1208, len(whole))]
		frames = append(frames, fragmentFrame(whole[:header], part, offset, header+offset+len(part) < len(whole), id))
	}
	return whole, frames
}

// What the kernel fragmented before the TUN arrives whole, in whichever order the fragments came, and goes in fragments of
// ESP packets where it does not fit.
func TestTransportModeProtectsWholePackets(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, order := range [][]int{{0, 1, 2, 3}, {3, 2, 1, 0}, {1, 3, 0, 2}} {
			a, b, net := between(t, v6)
			whole, frames := fragmented(t, v6, 7, 4000)
			if len(frames) != len(order) {
				t.Fatalf("%d fragments", len(frames))
			}
			for n, i := range order {
				if a.out.Process(slices.Clone(frames[i])); n < len(order)-1 && len(net.esp)+len(net.whole) > 0 {
					t.Fatalf("something left before the packet was whole")
				}
			}
			got := net.arrive(b)
			if len(got) != 1 {
				t.Fatalf("v6 %v, order %v: %d frames; drops %v, %v", v6, order, len(got), a.Counters().Drops, b.Counters().Drops)
			}
			if want, got := plain([][]byte{whole})[0], plain([][]byte{got[0][packet.VirtioLen:]})[0]; !bytes.Equal(want[8:], got[8:]) {
				t.Errorf("v6 %v, order %v: the packet changed on its way", v6, order)
			}
			if n := a.Counters().Fragmented; n != 1 {
				t.Errorf("v6 %v: %d packets were fragmented outside, want 1", v6, n)
			}
		}
	}
}

// What is not a packet's fragments is dropped, all of it, and counted; a later good packet passes.
func TestFragmentsThatDoNotFit(t *testing.T) {
	drops := func(a *host) uint64 { return a.Counters().Drops[DropFragment.String()] }
	for _, c := range []struct {
		name string
		feed func(a *host, frames [][]byte)
		want uint64
	}{
		{"one twice", func(a *host, f [][]byte) { process(a, f[0], f[0]) }, 2},
		{"overlapping", func(a *host, f [][]byte) {
			whole := f[1][packet.VirtioLen:]
			process(a, f[0], fragmentFrame(whole[:packet.IPv4Len], whole[packet.IPv4Len:], 1200, true, 7))
		}, 2},
		{"beyond the end", func(a *host, f [][]byte) {
			whole := f[3][packet.VirtioLen:]
			process(a, f[3], fragmentFrame(whole[:packet.IPv4Len], whole[packet.IPv4Len:][:8], 8000, true, 7))
		}, 2},
		{"an end before what is there", func(a *host, f [][]byte) {
			whole := f[3][packet.VirtioLen:]
			process(a, f[2], fragmentFrame(whole[:packet.IPv4Len], whole[packet.IPv4Len:][:8], 1208, false, 7))
		}, 2},
		{"not in units of eight", func(a *host, f [][]byte) {
			whole := f[0][packet.VirtioLen:]
			process(a, fragmentFrame(whole[:packet.IPv4Len], whole[packet.IPv4Len:][:1001], 0, true, 7))
		}, 1},
		{"larger than a packet may be", func(a *host, f [][]byte) {
			whole := f[0][packet.VirtioLen:]
			process(a, fragmentFrame(whole[:packet.IPv4Len], whole[packet.IPv4Len:], 65528, false, 7))
		}, 1},
		{"never complete", func(a *host, f [][]byte) {
			process(a, f[0], f[1])
			a.Tick(start.Add(fragmentPatience))
			_, other := fragmented(&testing.T{}, false, 8, 4000)
			process(a, other[0])
		}, 2},
		{"too many at a time", func(a *host, f [][]byte) {
			process(a, f[0])
			for id := range uint16(assemblySlots) {
				a.Tick(start.Add(time.Duration(id+1) * time.Millisecond))
				_, other := fragmented(&testing.T{}, false, 100+id, 4000)
				process(a, other[0])
			}
		}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b, net := between(t, false)
			_, frames := fragmented(t, false, 7, 4000)
			c.feed(a, frames)
			if n := drops(a); n != c.want || len(net.esp)+len(net.whole) > 0 {
				t.Errorf("%d fragments were dropped, want %d; %d packets left", n, c.want, len(net.esp)+len(net.whole))
			}
			_, good := fragmented(t, false, 9, 4000)
			process(a, good...)
			if n := len(net.arrive(b)); n != 1 {
				t.Errorf("%d packets arrived behind it, want 1", n)
			}
		})
	}
}

func process(a *host, frames ...[]byte) {
	for _, f := range frames {
		a.out.Process(slices.Clone(f))
	}
}

// Fragments that came before there was an SA wait, and become a packet when it is there.
func TestFragmentsWaitForTheirSA(t *testing.T) {
	a, _, net := between(t, false)
	sa := a.Plane.out[1].config
	_, frames := fragmented(t, false, 7, 4000)
	a.mustApply(t, policy.Tx{DeleteSAs: []policy.SAID{sa.ID}})
	process(a, frames...)
	if len(net.esp)+len(net.whole) > 0 {
		t.Fatal("something left without an SA")
	}
	fresh := inTransport.outbound()
	fresh.ID = 99
	a.mustApply(t, policy.Tx{AddSAs: []policy.SA{fresh}})
	if n := len(net.whole); n != 1 {
		t.Errorf("%d packets left, want 1; drops %v", n, a.Counters().Drops)
	}
}

// FuzzReassembly: whatever the fragments, nothing is read or written past a buffer, and what leaves is a whole packet.
func FuzzReassembly(f *testing.F) {
	for _, v6 := range []bool{false, true} {
		_, frames := fragmented(f, v6, 7, 4000)
		var all []byte
		for _, x := range frames {
			x = x[packet.VirtioLen:]
			all = append(append(all, byte(len(x)>>8), byte(len(x))), x...)
		}
		f.Add(v6, all)
	}
	type ends struct {
		a, b *host
		net  *fragmenting
	}
	var both [2]ends
	for i, v6 := range []bool{false, true} {
		both[i].a, both[i].b, both[i].net = between(f, v6)
	}
	f.Fuzz(func(t *testing.T, v6 bool, all []byte) {
		e := both[0]
		if v6 {
			e = both[1]
		}
		a, b, net := e.a, e.b, e.net
		for i := range a.out.assemblies {
			a.out.assemblies[i].pieces = 0
		}
		for len(all) >= 2 {
			n := min(int(all[0])<<8|int(all[1]), len(all)-2)
			a.out.Process(append(make([]byte, packet.VirtioLen), all[2:2+n]...))
			all = all[2+n:]
		}
		for i := range a.out.assemblies {
			if s := &a.out.assemblies[i]; s.pieces > 0 && s.head > 0 && s.total > 0 && s.units*fragmentUnit >= s.total {
				t.Error("a whole packet stays here")
			}
		}
		net.arrive(b)
	})
}
