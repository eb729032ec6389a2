package esp

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"coati/packet"
)

// A fragment after the first has no ports. On another queue than the whole packets of its flow it would overtake them.
func TestAFlowAndItsFragmentsTakeOneQueue(t *testing.T) {
	t.Parallel()
	whole := packet.FlowKey{Src: [16]byte{10, 1, 0, 1}, Dst: [16]byte{10, 2, 0, 1}, SrcPort: 4001, DstPort: 53, Protocol: packet.ProtoUDP, Version: 4, HasPorts: true}
	fragment := whole
	fragment.SrcPort, fragment.DstPort, fragment.HasPorts = 0, 0, false
	if lane(&whole) != lane(&fragment) {
		t.Error("a fragment of a UDP flow takes another queue than its whole packets")
	}
	tcp := whole
	tcp.Protocol = packet.ProtoTCP
	seen := map[uint32]int{}
	for port := range uint16(64) {
		tcp.SrcPort = 40000 + port
		seen[lane(&tcp)%2]++
	}
	if seen[0] < 16 || seen[1] < 16 {
		t.Errorf("64 TCP flows between two hosts are spread %v over two queues", seen)
	}
}

// A TUN that takes no frames of UDP segments gets single packets; TCP is joined all the same.
func TestWithoutUSO(t *testing.T) {
	a, b := connect(t, gcm128, func(c *Config) { c.USO = false })
	for _, c := range []struct {
		run  segment
		want int // frames
	}{
		{segment{udp: true, sport: 1, payload: filled(10*1000, 1), gso: 1000}, 10},
		{segment{sport: 1, payload: filled(10*1000, 1), gso: 1000}, 1},
	} {
		f := c.run.frame()
		want := unfold(t, f)
		a.out.Process(f)
		carry(a, b)
		frames := b.tap.take()
		if len(frames) != c.want {
			t.Errorf("udp %v: %d frames, want %d", c.run.udp, len(frames), c.want)
		}
		if diff := cmp.Diff(want, unfoldAll(t, frames)); diff != "" {
			t.Error(diff)
		}
	}
}
