package esp

import (
	"bytes"
	"encoding/binary"
	"testing"

	"coati/esp/batch"
	"coati/packet"
)

// Whatever arrives for an SA of any transform, in either mode: no panic, and each datagram is delivered as a packet or
// counted. With sealed a peer authenticates and lies: b is the plaintext with its trailer.
func FuzzEveryTransform(f *testing.F) {
	links := everyLink()
	inner := segment{sport: 1, dst: 1, payload: filled(40, 1)}.frame()[packet.VirtioLen:]
	for n := range links {
		f.Add(byte(n), byte(n)&3, trailer(bytes.Clone(inner), 4), true)
		f.Add(byte(n), byte(n)&3|4, trailer(bytes.Clone(inner[packet.IPv4Len:]), packet.ProtoTCP), true)
		f.Add(byte(n), byte(n)&3, append([]byte{0, 0, 0x10, 0, 0, 0, 0, 1}, make([]byte, 40+n)...), false)
	}
	f.Fuzz(func(t *testing.T, which, how byte, b []byte, sealed bool) {
		l := links[int(which)%len(links)]
		l.esn, l.transport, l.v6, l.raw = how&1 != 0, how&4 != 0, how&8 != 0, how&16 != 0
		h := newHost(nil)
		h.mustApply(t, policyTx(l))
		b = bytes.Clone(b)
		if sealed {
			sa := l.outbound()
			tr, err := newTransform(&sa)
			if err != nil {
				t.Fatal(err)
			}
			if b = b[:len(b)/tr.align*tr.align]; len(b) < tr.align || len(b) > 60000 {
				return
			}
			out := make([]byte, packet.ESPLen+tr.ivLen+len(b)+tr.icvLen)
			packet.ESP(out).SetSPI(0x1000)
			packet.ESP(out).SetSequence(1)
			if tr.ivLen >= 8 {
				binary.BigEndian.PutUint64(out[packet.ESPLen:], 1)
			}
			copy(out[packet.ESPLen+tr.ivLen:], b)
			var jobs [1]batch.Job
			tr.job(&jobs[0], out, len(b), l.esn, 1)
			tr.key.Seal(jobs[:])
			b = out
		}
		path := l.path()
		h.in.Receive([]Datagrams{{Buf: b, From: path.Local, Local: path.Remote, TOS: how, Encap: path.Encap}})
		frames := h.tap.take()
		for _, frame := range frames {
			unfold(t, frame)
		}
		if sealed && len(frames) == 0 && len(h.Counters().Drops) != 1 {
			t.Errorf("neither delivered nor counted: %v", h.Counters().Drops)
		}
	})
}
