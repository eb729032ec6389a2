package esp

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"coati/packet"
)

var links = []link{
	{enc: "aes128gcm16"},
	{enc: "aes256gcm16", esn: true, v6: true},
	{enc: "aes192gcm16", raw: true},
	{enc: "aes128", integ: "sha256", raw: true, v6: true},
	{enc: "aes256", integ: "sha384", esn: true},
	{enc: "aes256", integ: "sha512"},
}

func (l link) String() string {
	return fmt.Sprintf("%s-%s esn=%v v6=%v raw=%v icv96=%v transport=%v", l.enc, l.integ, l.esn, l.v6, l.raw, l.icv96, l.transport)
}

func drawSegment(t *rapid.T) segment {
	s := segment{
		v6: rapid.Bool().Draw(t, "v6"), udp: rapid.Bool().Draw(t, "udp"), partial: rapid.Bool().Draw(t, "partial"),
		seq: rapid.Uint32().Draw(t, "seq"), id: rapid.Uint16().Draw(t, "id"), df: rapid.Bool().Draw(t, "df"),
		tos: rapid.SampledFrom([]byte{0, 1, 2, 0xb8, 0xba}).Draw(t, "tos"), sport: rapid.Uint16Range(1000, 1003).Draw(t, "sport"), dst: 1,
	}
	size := rapid.SampledFrom([]int{0, 1, 2, 3, 17, 536, 1400, 1408, 2816, 9000, 30000, 65000}).Draw(t, "size")
	s.payload = filled(size, byte(s.seq))
	if !s.udp {
		s.flags = rapid.SampledFrom([]byte{0, 0, 0, packet.TCPPsh, packet.TCPFin, packet.TCPFin | packet.TCPPsh, packet.TCPCwr, packet.TCPSyn, packet.TCPRst, packet.TCPEce}).Draw(t, "flags")
		if rapid.Bool().Draw(t, "timestamps") {
			s.opts = []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}
		}
	}
	if size > 0 && rapid.Bool().Draw(t, "run") {
		s.gso = rapid.SampledFrom([]int{536, 1396, 1408, 8948}).Draw(t, "gso")
	}
	return s
}

// withoutID leaves out the ID of datagrams that are not fragmented and have DF: it means nothing (RFC 6864, section 4.1), and
// the kernel, which cuts a joined frame, counts it up.
func withoutID(pkts [][]byte) [][]byte {
	for _, p := range pkts {
		if ip := packet.IPv4(p); p[0]>>4 == 4 && ip.DF() && ip.Protocol() == packet.ProtoUDP {
			ip.SetID(0)
			ip.SetChecksum(0)
		}
	}
	return pkts
}

// What goes into one gateway comes out of the other: the same packets, in the order of their flow, however they were
// cut and joined on the way.
func TestWhatGoesInComesOut(t *testing.T) {
	for _, l := range links {
		t.Run(l.String(), func(t *testing.T) {
			t.Parallel()
			a, b := connect(t, l, nil)
			rapid.Check(t, func(rt *rapid.T) {
				var want [][]byte
				for range rapid.IntRange(1, 6).Draw(rt, "frames") {
					f := drawSegment(rt).frame()
					want = append(want, unfold(t, f)...)
					a.out.Add(f)
				}
				a.out.Flush()
				carry(a, b)
				got := unfoldAll(t, b.tap.take())
				if d := cmp.Diff(byFlow(t, withoutID(want)), byFlow(t, withoutID(got))); d != "" {
					rt.Fatalf("packets changed on the way (-sent +received):\n%.2000s", d)
				}
			})
			for _, h := range []*host{a, b} {
				if d := h.Counters().Drops; len(d) > 0 {
					t.Errorf("drops: %v", d)
				}
			}
		})
	}
}

// Segments that follow one another, with here and there a field that differs, are joined only so that cutting the frame
// gives the same packets again. Many of them are joined.
func TestJoinedFramesStandForTheSamePackets(t *testing.T) {
	a, b := connect(t, gcm128, nil)
	packets, frames := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		s := segment{
			v6: rapid.Bool().Draw(rt, "v6"), udp: rapid.IntRange(0, 3).Draw(rt, "udp") == 0, sport: 9, dst: 1, df: rapid.Bool().Draw(rt, "df"),
			seq: rapid.Uint32().Draw(rt, "seq"), id: rapid.Uint16().Draw(rt, "id"), payload: filled(rapid.SampledFrom([]int{1, 500, 1398}).Draw(rt, "size"), 3),
		}
		size := len(s.payload)
		var want [][]byte
		var runs []Datagrams
		for range rapid.IntRange(2, 80).Draw(rt, "packets") {
			one := s
			switch rapid.IntRange(0, 60).Draw(rt, "difference") {
			case 0:
				s.ack++
			case 1:
				s.window++
			case 2:
				s.tos ^= 0x20
			case 3:
				s.ttl = 63
			case 4:
				one.flags = packet.TCPPsh
			case 5:
				one.flags = packet.TCPFin
			case 6:
				one.flags = packet.TCPCwr
			case 7:
				one.payload = s.payload[:len(s.payload)/2]
			case 8:
				one.payload = filled(size+10, 1)
			case 9:
				one.opts = []byte{1, 1, 1, 1}
			case 10:
				s.id += 5
			case 11:
				s.seq += 5
			case 12:
				s.df = !s.df
			case 13:
				one.flags = packet.TCPEce
			case 14:
				one.payload = nil
			case 15:
				one.flags = packet.TCPUrg
			}
			f := one.frame()
			want = append(want, unfold(t, f)...)
			a.out.Process(f)
			for _, sent := range a.net.take() {
				runs = append(runs, Datagrams{Buf: sent.buf})
			}
			s.seq += uint32(len(one.payload))
			s.id++
		}
		b.in.Receive(runs)
		out := b.tap.take()
		got := unfoldAll(t, out)
		packets, frames = packets+len(got), frames+len(out)
		if d := cmp.Diff(byFlow(t, want), byFlow(t, got)); d != "" {
			rt.Fatalf("packets changed on the way (-sent +received):\n%.2000s", d)
		}
	})
	if frames*3 > packets*2 {
		t.Errorf("%d packets in %d frames", packets, frames)
	}
}

// A run of a flow crosses as few and as large pieces: one call to the network per 64 packets, one frame to the TUN.
func TestOneFrameStaysOneFrame(t *testing.T) {
	for _, c := range []struct {
		name  string
		seg   segment
		calls int
	}{
		{"tso4", segment{payload: filled(60000, 1), gso: 1408, sport: 1}, 1},
		{"tso6", segment{v6: true, payload: filled(60000, 1), gso: 1388, flags: packet.TCPPsh, sport: 1}, 1},
		{"uso4", segment{udp: true, payload: filled(60000, 1), gso: 1408, sport: 1}, 1},
		{"tso4, more than 64 packets", segment{payload: filled(60000, 1), gso: 536, sport: 1}, 2},
		{"tso4, 65 KiB", segment{payload: filled(65495, 1), gso: 1408, sport: 1}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := connect(t, gcm128, nil)
			a.out.Process(c.seg.frame())
			sends := a.net.take()
			if len(sends) != c.calls {
				t.Errorf("%d calls to the network, want %d", len(sends), c.calls)
			}
			for _, s := range sends {
				if n := (len(s.buf) + s.stride - 1) / s.stride; n > 64 || len(s.buf) > 65507 {
					t.Errorf("%d packets, %d octets in one call", n, len(s.buf))
				}
			}
			for _, s := range sends {
				b.in.Receive([]Datagrams{{Buf: s.buf, SegSize: s.stride, From: s.path.Local, Encap: s.path.Encap}})
			}
			if got := len(b.tap.take()); got != c.calls {
				t.Errorf("%d frames written, want %d", got, c.calls)
			}
		})
	}
}

func TestSeveralFlowsInOneRunAreJoinedApart(t *testing.T) {
	a, b := connect(t, gcm128, nil)
	var buf []byte
	stride := 0
	for n := range 8 {
		for flow := range uint16(4) {
			a.out.Process(segment{sport: 100 + flow, seq: uint32(n * 1000), id: uint16(n), payload: filled(1000, byte(flow))}.frame())
			s := a.net.take()[0]
			buf, stride = append(buf, s.buf...), s.stride
		}
	}
	b.in.Receive([]Datagrams{{Buf: buf, SegSize: stride}})
	if got := len(b.tap.take()); got != 4 {
		t.Errorf("%d frames for 4 flows of 8 segments", got)
	}
}

// A segment whose checksum is wrong must reach the receiver as wrong as it was.
func TestWrongChecksumIsNotJoined(t *testing.T) {
	a, b := connect(t, gcm128, nil)
	var buf []byte
	stride := 0
	var bad []byte
	for n := range 3 {
		f := segment{sport: 1, seq: uint32(n * 1000), id: uint16(n), payload: filled(1000, 1)}.frame()
		if n == 1 {
			f[len(f)-1] ^= 1
			bad = f
		}
		a.out.Process(f)
		s := a.net.take()[0]
		buf, stride = append(buf, s.buf...), s.stride
	}
	b.in.Receive([]Datagrams{{Buf: buf, SegSize: stride}})
	frames := b.tap.take()
	if len(frames) != 3 {
		t.Fatalf("%d frames, want 3 single ones", len(frames))
	}
	if d := cmp.Diff(bad, frames[1]); d != "" {
		t.Errorf("the packet changed:\n%s", d)
	}
}
