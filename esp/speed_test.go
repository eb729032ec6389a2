package esp

import (
	"fmt"
	"testing"

	"coati/policy"
)

// sink is an Egress and a FrameWriter that forgets.
type sink struct{}

func (sink) SendESP(*policy.Path, byte, []byte, int) error { return nil }
func (sink) SendClear([]byte) error                        { return nil }
func (sink) WriteFrame([][]byte) error                     { return nil }

func toSink(c *Config) { c.Egress, c.Frames = sink{}, sink{} }

// hotFrames are what a gateway sees most.
func hotFrames() map[string]segment {
	return map[string]segment{
		"tso 64 KiB":  {payload: filled(64*1024-200, 1), gso: 1398, sport: 1},
		"tso6 64 KiB": {v6: true, payload: filled(64*1024-200, 1), gso: 1378, sport: 1},
		"uso 64 KiB":  {udp: true, payload: filled(64*1024-200, 1), gso: 1398, sport: 1},
		"single":      {payload: filled(1408, 1), sport: 1},
		"ack":         {sport: 1},
	}
}

func TestNoAllocationsOutbound(t *testing.T) {
	for _, l := range []link{gcm128, {enc: "aes128gcm16", esn: true, mtu: 1600}, {enc: "aes128", integ: "sha256", esn: true}} {
		for name, seg := range hotFrames() {
			a, _ := connect(t, l, toSink)
			f := seg.frame()
			if n := testing.AllocsPerRun(50, func() { a.out.Process(f) }); n != 0 {
				t.Errorf("%v, %s: %v allocations a frame", l, name, n)
			}
			if d := a.Counters().Drops; len(d) > 0 {
				t.Errorf("%v, %s: drops %v", l, name, d)
			}
		}
	}
}

// A frame of a flow the queue has not seen costs a look-up, and no allocation either.
func TestNoAllocationsForNewFlows(t *testing.T) {
	a, _ := connect(t, gcm128, toSink)
	port := uint16(0)
	frames := make([][]byte, 64)
	for i := range frames {
		frames[i] = segment{sport: uint16(i), v6: i%2 == 0}.frame()
	}
	if n := testing.AllocsPerRun(50, func() {
		clear(a.out.cache)
		port++
		a.out.Process(frames[port%64])
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// repeated is a run that comes again and again as if it were new.
type repeated struct {
	in     *Inbound
	sa     *inSA
	sealed []byte
	buf    []byte
	runs   []Datagrams
}

func received(t testing.TB, l link, seg segment) *repeated {
	a, b := connect(t, l, nil)
	a.out.Process(seg.frame())
	s := a.net.take()[0]
	buf := make([]byte, len(s.buf))
	return &repeated{
		in: b.NewInbound(sink{}), sa: b.inbound.find(0x1000), sealed: s.buf, buf: buf,
		runs: []Datagrams{{Buf: buf, SegSize: s.stride, From: s.path.Local, Local: s.path.Remote, Encap: s.path.Encap}},
	}
}

// renew brings the run back, and the window.
func (r *repeated) renew() {
	copy(r.buf, r.sealed)
	w := &r.sa.window
	*w = window{size: w.size, esn: w.esn, ring: w.ring, mask: w.mask}
	clear(w.ring)
}

func (r *repeated) again() {
	r.renew()
	r.in.Receive(r.runs)
}

func TestNoAllocationsInbound(t *testing.T) {
	for _, l := range []link{gcm128, {enc: "aes128gcm16", esn: true, mtu: 1600}, {enc: "aes128", integ: "sha256", esn: true}} {
		for name, seg := range hotFrames() {
			r := received(t, l, seg)
			if n := testing.AllocsPerRun(50, r.again); n != 0 {
				t.Errorf("%v, %s: %v allocations a run", l, name, n)
			}
			if d := r.in.plane.Counters().Drops; len(d) > 0 {
				t.Errorf("%v, %s: drops %v", l, name, d)
			}
		}
	}
}

func BenchmarkOutbound(b *testing.B) {
	for _, null := range []bool{false, true} {
		for name, seg := range hotFrames() {
			b.Run(fmt.Sprintf("%s/null=%v", name, null), func(b *testing.B) {
				a, _ := connect(b, gcm128, func(c *Config) { toSink(c); c.InsecureNullCipher = null })
				f := seg.frame()
				b.SetBytes(int64(len(seg.payload)))
				b.ReportAllocs()
				for b.Loop() {
					a.out.Process(f)
				}
			})
		}
	}
}

func BenchmarkInbound(b *testing.B) {
	for name, seg := range hotFrames() {
		b.Run(name, func(b *testing.B) {
			r := received(b, gcm128, seg)
			b.SetBytes(int64(len(seg.payload)))
			b.ReportAllocs()
			for b.Loop() {
				r.again()
			}
		})
	}
}

func BenchmarkBuildSegments(b *testing.B) {
	a, _ := connect(b, gcm128, toSink)
	seg := hotFrames()["tso 64 KiB"]
	if !a.out.load(seg.frame()) {
		b.Fatal("frame refused")
	}
	dst := make([]byte, 1<<16)
	b.SetBytes(int64(len(seg.payload)))
	for b.Loop() {
		for i := range a.out.plan.count {
			a.out.plan.build(i, dst[i%8*1500:])
		}
	}
}
