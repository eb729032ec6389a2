package esp

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"

	"coati/packet"
	"coati/policy"
)

// Whatever arrives from the network: no panic, and every datagram is either carried or counted.
func FuzzInbound(f *testing.F) {
	f.Add([]byte{0xff}, uint16(0), byte(0), false)
	f.Add(append(make([]byte, 4), "ike"...), uint16(0), byte(3), false)
	f.Add(append([]byte{0, 0, 0x10, 0, 0, 0, 0, 1}, make([]byte, 60)...), uint16(34), byte(3), false)
	f.Add(trailer(segment{sport: 1, dst: 1, payload: filled(40, 1)}.frame()[packet.VirtioLen:], 4), uint16(0), byte(2), true)
	f.Add(trailer(segment{v6: true, sport: 1, dst: 1}.frame()[packet.VirtioLen:], 41), uint16(0), byte(1), true)
	sa := gcm128.outbound()
	tr, err := newTransform(&sa)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte, size uint16, tos byte, sealed bool) {
		b = bytes.Clone(b)
		h := newHost(func(c *Config) { c.IKE = func(policy.Path, []byte) {} })
		if err := h.Apply(policyTx(link{enc: "aes128gcm16", mtu: 1400})); err != nil {
			t.Fatal(err)
		}
		if sealed {
			// A peer that authenticates and lies: b is the plaintext, its trailer included.
			b = b[:len(b)/4*4]
			if len(b) < 4 || len(b) > 60000 {
				return
			}
			out := make([]byte, 16+len(b)+16)
			packet.ESP(out).SetSPI(0x1000)
			packet.ESP(out).SetSequence(1)
			binary.BigEndian.PutUint64(out[8:], 1)
			copy(out[16:], b)
			o := h.own
			job := &o.jobs[0]
			copy(job.IV[:], tr.salt[:])
			copy(job.IV[4:], out[8:16])
			job.Head, job.Text = out[:8], out[16:16+len(b)]
			tr.key.Seal(o.jobs[:1])
			b, size = out, 0
		}
		run := Datagrams{Buf: bytes.Clone(b), SegSize: int(size), TOS: tos, Encap: policy.EncapUDP}
		h.in.Receive([]Datagrams{run})
		frames := h.tap.take()
		for _, frame := range frames {
			unfold(t, frame)
		}
		// The same before the SA is there gives the same afterwards, if not more wait than may.
		late := newHost(func(c *Config) { c.IKE = func(policy.Path, []byte) {} })
		late.larval.reserve(0x1000)
		run.Buf = b
		late.in.Receive([]Datagrams{run})
		if err := late.Apply(policyTx(link{enc: "aes128gcm16", mtu: 1400})); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(frames, late.tap.take()); d != "" && late.drops(DropEarlyFull) == 0 {
			t.Errorf("packets that waited came out otherwise (-at once +waited):\n%s", d)
		}
	})
}

// Whatever virtio header and packet come from the TUN: no panic; what leaves opens at the other end, or is counted.
func FuzzOutbound(f *testing.F) {
	f.Add(segment{payload: filled(100, 1), gso: 40}.frame(), uint16(1500))
	f.Add(segment{v6: true, udp: true, payload: filled(90, 1), gso: 40}.frame(), uint16(0))
	f.Add(segment{flags: packet.TCPSyn, opts: []byte{2, 4, 5, 180}, partial: true}.frame(), uint16(1400))
	f.Add(segment{payload: filled(700, 1)}.frame(), uint16(600))
	f.Add(segment{payload: filled(80, 1), gso: 1}.frame(), uint16(0))
	f.Fuzz(func(t *testing.T, frame []byte, mtu uint16) {
		if len(frame) > FrameSize {
			return
		}
		frame = bytes.Clone(frame)
		a, b := newHost(nil), newHost(nil)
		l := gcm128
		l.mtu = int(mtu)
		out, in, p := l.outbound(), l.inbound(), protectPolicy()
		out.Local, out.Remote, in.Local, in.Remote, p.Local, p.Remote = policy.AnySelectors(), policy.AnySelectors(), policy.AnySelectors(), policy.AnySelectors(), policy.AnySelectors(), policy.AnySelectors()
		if err := a.Apply(policy.Tx{PutPolicies: []policy.Policy{p}, AddSAs: []policy.SA{out}}); err != nil {
			t.Fatal(err)
		}
		if err := b.Apply(policy.Tx{AddSAs: []policy.SA{in}}); err != nil {
			t.Fatal(err)
		}
		a.out.Process(frame)
		if n := len(a.net.esp); n == 0 && len(a.Counters().Drops) == 0 {
			t.Fatal("neither sent nor counted")
		}
		for _, s := range a.net.esp {
			if len(s.buf) > maxRunOctets || len(s.buf) > 64*s.stride {
				t.Fatalf("%d octets of stride %d", len(s.buf), s.stride)
			}
		}
		carry(a, b)
		if b.drops(DropAuthentication)+b.drops(DropPadding)+b.drops(DropShort)+b.drops(DropReplay) != 0 {
			t.Fatalf("the other end drops %v", b.Counters().Drops)
		}
		for _, frame := range b.tap.take() {
			unfold(t, frame)
		}
	})
}
