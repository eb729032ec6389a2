package esp

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"coati/packet"
	"coati/policy"
)

// script is a FrameReader: nil is a moment when no frame is there.
type script struct {
	frames [][]byte
	idle   func()
}

var errEnd = errors.New("no more frames")

func (s *script) ReadFrame(buf []byte, idle func()) (int, error) {
	for len(s.frames) > 0 {
		f := s.frames[0]
		s.frames = s.frames[1:]
		if f != nil {
			return copy(buf, f), nil
		}
		s.idle()
		idle()
		s.idle()
	}
	return 0, errEnd
}

// Packets of one SA and size leave together if they are there together; nothing waits for what is not there.
func TestPacketsLeaveInCompany(t *testing.T) {
	tiny := func(n int) [][]byte {
		var out [][]byte
		for i := range n {
			out = append(out, segment{udp: true, sport: uint16(i), payload: filled(64, byte(i))}.frame())
		}
		return out
	}
	run := segment{sport: 1, payload: filled(46*1398, 1), gso: 1398}.frame()
	short := segment{sport: 1, payload: filled(30, 1)}.frame()
	other := segment{udp: true, v6: true, payload: filled(64, 2)}.frame()
	marked := segment{udp: true, tos: 0xb8, payload: filled(64, 3)}.frame()
	nowhere := segment{udp: true, payload: filled(64, 4)}.frame()
	packet.IPv4(nowhere[packet.VirtioLen:])[16] = 77
	packet.IPv4(nowhere[packet.VirtioLen:]).FillChecksum()
	for name, c := range map[string]struct {
		frames [][]byte
		want   []int // packets in each send
	}{
		"one alone":                         {tiny(1), []int{1}},
		"many at once":                      {tiny(10), []int{10}},
		"then nothing, then more":           {slices.Concat(tiny(3), [][]byte{nil}, tiny(2)), []int{3, 2}},
		"more than a run holds":             {tiny(130), []int{64, 64, 2}},
		"another class":                     {slices.Concat(tiny(2), [][]byte{marked}, tiny(2)), []int{2, 1, 2}},
		"larger ones":                       {slices.Concat(tiny(2), [][]byte{other, other}), []int{2, 2}},
		"a smaller one is the last":         {slices.Concat([][]byte{other, other}, tiny(3)), []int{3, 2}},
		"the end of a run waits for more":   {[][]byte{run, run}, []int{44, 44, 4}},
		"and for nothing":                   {[][]byte{run, nil, run}, []int{44, 2, 44, 2}},
		"a short end":                       {[][]byte{run, short, short}, []int{44, 3, 1}},
		"what goes nowhere holds up nobody": {slices.Concat(tiny(2), [][]byte{nowhere}, tiny(2)), []int{2, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := connect(t, gcm128, nil)
			var want [][]byte
			for _, f := range c.frames {
				if f != nil && f[packet.VirtioLen+16] != 77 {
					want = append(want, unfold(t, f)...)
				}
			}
			if err := a.out.Run(&script{frames: c.frames, idle: func() {}}); err != errEnd {
				t.Fatal(err)
			}
			var got []int
			seq := uint32(0)
			for _, s := range a.net.esp {
				n := (len(s.buf) + s.stride - 1) / s.stride
				got = append(got, n)
				if first := packet.ESP(s.buf).Sequence(); first != seq+1 {
					t.Errorf("a run begins with sequence number %d after %d", first, seq)
				}
				seq += uint32(n)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("packets in each send (-want +got):\n%s", d)
			}
			carry(a, b)
			if d := cmp.Diff(byFlow(t, want), byFlow(t, unfoldAll(t, b.tap.take()))); d != "" {
				t.Errorf("packets changed on the way (-sent +received):\n%.2000s", d)
			}
		})
	}
}

// When the queue waits for a frame nothing is left behind.
func TestNothingWaitsWhileTheQueueDoes(t *testing.T) {
	a, _ := connect(t, gcm128, nil)
	f := segment{sport: 1}.frame()
	var at []int
	s := &script{frames: [][]byte{f, f, nil, f, nil}, idle: func() {
		n := 0
		for _, s := range a.net.esp {
			n += (len(s.buf) + s.stride - 1) / s.stride
		}
		at = append(at, n)
	}}
	_ = a.out.Run(s)
	if d := cmp.Diff([]int{0, 2, 2, 3}, at); d != "" {
		t.Errorf("packets sent before and after the queue was told to be idle (-want +got):\n%s", d)
	}
}

// Packets whose SA ends before they are sealed leave on its successor, before what comes after them, or wait for one.
func TestAnSAEndsBeforeDeparture(t *testing.T) {
	for name, next := range map[string][]policy.SA{"a successor": {link{enc: "aes128gcm16", id: 1}.outbound()}, "none": nil} {
		t.Run(name, func(t *testing.T) {
			a, b := connect(t, gcm128, nil)
			b.mustApply(t, policy.Tx{AddSAs: []policy.SA{link{enc: "aes128gcm16", id: 1}.inbound()}})
			var want [][]byte
			for i := range 4 {
				f := segment{sport: 1, udp: true, payload: filled(100, byte(i))}.frame()
				want = append(want, unfold(t, f)...)
				if i == 2 {
					a.mustApply(t, policy.Tx{AddSAs: next, DeleteSAs: []policy.SAID{1}})
				}
				a.out.Add(f)
			}
			a.out.Flush()
			if next == nil {
				if n, _ := a.Waiting(1); n != 4 || len(a.net.take()) != 0 {
					t.Errorf("%d packets wait, want 4", n)
				}
				a.mustApply(t, policy.Tx{AddSAs: []policy.SA{link{enc: "aes128gcm16", id: 1}.outbound()}})
			}
			carry(a, b)
			if d := cmp.Diff(byFlow(t, want), byFlow(t, unfoldAll(t, b.tap.take()))); d != "" {
				t.Errorf("packets changed on the way (-sent +received):\n%.2000s", d)
			}
			if n := a.drops(DropExpired); n != 0 {
				t.Errorf("%d dropped", n)
			}
		})
	}
}

// hooked is a network that tells when something has left.
type hooked struct {
	*network
	left func()
}

func (h *hooked) SendESP(path *policy.Path, tos byte, buf []byte, stride int) error {
	err := h.network.SendESP(path, tos, buf, stride)
	if h.left != nil {
		h.left()
	}
	return err
}

// The successor that takes a gathered packet over ends before that leaves: it waits for the next one.
func TestTwoSAsEndBeforeDeparture(t *testing.T) {
	net := &hooked{}
	a, b := connect(t, gcm128, func(c *Config) {
		if net.network == nil {
			net.network = c.Egress.(*network)
			c.Egress = net
		}
	})
	links := []link{{enc: "aes128gcm16", id: 1}, {enc: "aes128gcm16", id: 2}, {enc: "aes128gcm16", id: 3}}
	var out []policy.SA
	for _, l := range links {
		b.mustApply(t, policy.Tx{AddSAs: []policy.SA{l.inbound()}})
		out = append(out, l.outbound())
	}
	// Two successors: one for IPv4, one for IPv6.
	out[0].Local, out[0].Remote = netA[:1], netB[:1]
	out[1].Local, out[1].Remote = netA[1:], netB[1:]
	var want [][]byte
	for _, v6 := range []bool{false, true} {
		seg := segment{sport: 1, udp: true, v6: v6, payload: filled(120, 1)}
		if v6 {
			seg.payload = filled(100, 2) // so that both are one run
		}
		f := seg.frame()
		want = append(want, unfold(t, f)...)
		a.out.Add(f)
	}
	if len(net.take()) != 0 {
		t.Fatal("the two packets did not wait for company")
	}
	a.mustApply(t, policy.Tx{AddSAs: out[:2], DeleteSAs: []policy.SAID{1}})
	carry(a, b)
	b.tap.take()
	net.left = func() { a.Plane.out[out[1].ID].usage.expired.Store(true) } // while the packet of IPv4 leaves
	a.out.Flush()
	net.left = nil
	if n, _ := a.Waiting(1); n != 1 {
		t.Errorf("%d packets wait for a third SA, want that of IPv6", n)
	}
	a.mustApply(t, policy.Tx{AddSAs: out[2:]})
	carry(a, b)
	if d := cmp.Diff(byFlow(t, want), byFlow(t, unfoldAll(t, b.tap.take()))); d != "" {
		t.Errorf("packets changed on the way (-sent +received):\n%.2000s", d)
	}
	if n := a.drops(DropExpired); n != 0 {
		t.Errorf("%d dropped", n)
	}
}

// All packets of a frame that cannot leave are counted, those of its second run too.
func TestAFailedFrameIsCountedWhole(t *testing.T) {
	a, _ := connect(t, gcm128, nil)
	a.net.fail = errors.New("no buffer space")
	a.out.Process(segment{sport: 1, payload: filled(46*1398, 1), gso: 1398}.frame())
	if n := a.drops(DropSendFailed); n != 46 {
		t.Errorf("%d counted, want 46", n)
	}
}

// A link whose MTU shrinks refuses a packet that was under way already, and the kernel writes an ICMP error about it. The probe that
// follows is refused, too: that is counted for what it is, and the smaller MTU stays, as if a router had confirmed it.
func TestAProbeTheFirstHopRefuses(t *testing.T) {
	a := sending(t, gcm128, 3, nil)
	a.net.fail = ErrTooBig
	if v := a.PathTooBig(told(gcm128, 2, 1400)); v != TooBigTentative {
		t.Fatalf("the error is %v", v)
	}
	if big, failed := a.drops(DropTooBig), a.drops(DropSendFailed); big != 1 || failed != 0 {
		t.Errorf("%d counted as too big, %d as failed to send", big, failed)
	}
	small := a.innerMTU()
	a.Tick(start.Add(probePatience + time.Second))
	if mtu := a.innerMTU(); mtu != small {
		t.Errorf("the inner MTU went back from %d to %d", small, mtu)
	}
}
