package tun

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// What a packet costs in the kernel, both ways: processor time of the thread, not time that passes, so that other work on
// the machine counts little. The link is a veth pair, so a send includes the other end's receive up to the socket.

const (
	speedRun  = 44
	speedSize = 1466 // of protocol 50 on a link of 1,500
)

func processorTime(tb testing.TB) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		tb.Fatal(err)
	}
	return ts.Nano()
}

func BenchmarkRawESP(b *testing.B) {
	from, to, here, there := rawPair(b, false)
	buf, bufs, out := make([]byte, speedRun*speedSize), buffers(receiveBatch), make([]Packet, receiveBatch)
	var sending, receiving int64
	for b.Loop() {
		begin := processorTime(b)
		ok(b, from.Send(there, here, 0, buf, speedSize))
		sent := processorTime(b)
		for got := 0; got < speedRun; {
			n, err := to.Receive(bufs, out)
			ok(b, err)
			got += n
		}
		sending += sent - begin
		receiving += processorTime(b) - sent
	}
	report(b, sending, receiving)
}

// The same octets in UDP, segmented by the kernel.
func BenchmarkUDPRun(b *testing.B) {
	n := enterNamespace(b)
	o := n.another(b)
	n.connect(b, o)
	open := func(local netip.Addr) *UDP {
		u, err := openHost(b, "ctun0", b.TempDir()).OpenUDP(UDPConfig{Local: netip.AddrPortFrom(local, 4500), Sockets: 1})
		ok(b, err)
		return u
	}
	from := open(here4)
	var to *UDP
	n.in(b, o, func() { to = open(there4) })
	buf, in := make([]byte, speedRun*speedSize), make([]byte, 1<<16)
	var sending, receiving int64
	for b.Loop() {
		begin := processorTime(b)
		ok(b, from.Sockets()[0].Send(to.Local(), here4, 0, buf, speedSize))
		sent := processorTime(b)
		for got := 0; got < len(buf); {
			r, err := to.Sockets()[0].Receive(in)
			ok(b, err)
			got += r.N
		}
		sending += sent - begin
		receiving += processorTime(b) - sent
	}
	report(b, sending, receiving)
}

func report(b *testing.B, sending, receiving int64) {
	b.ReportMetric(float64(sending)/float64(b.N)/speedRun, "ns/packet-sent")
	b.ReportMetric(float64(receiving)/float64(b.N)/speedRun, "ns/packet-received")
	b.ReportMetric(0, "ns/op")
}
