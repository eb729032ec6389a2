package lab

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestReceived(t *testing.T) {
	t.Parallel()
	// Abridged from iperf3 3.12.
	const text = `Connecting to host 10.2.0.1, port 7778
[  5] local 10.1.0.1 port 48812 connected to 10.2.0.1 port 7778
[ ID][Role] Interval           Transfer     Bitrate         Retr  Cwnd
[  5][TX-C]   0.00-1.00   sec   512 KBytes  4.19 Mbits/sec    0    128 KBytes
[  7][RX-C]   0.00-1.00   sec   500 KBytes  4.10 Mbits/sec
[  5][TX-C]   1.00-2.00   sec  0.00 Bytes  0.00 bits/sec    0    128 KBytes
[  7][RX-C]   1.00-2.00   sec  1.50 MBytes  12.6 Mbits/sec
[  7][RX-C]   2.00-3.00   sec  0.00 Bytes  0.00 bits/sec
- - - - - - - - - - - - - - - - - - - - - - - - -
[  5][TX-C]   0.00-3.10   sec  1.00 MBytes  2.71 Mbits/sec    0             sender
[  7][RX-C]   0.00-3.10   sec  2.00 MBytes  5.41 Mbits/sec                  receiver
`
	want := []second{{"0.00-1.00", 500}, {"1.00-2.00", 1536}, {"2.00-3.00", 0}}
	if diff := cmp.Diff(want, received(text), cmp.AllowUnexported(second{})); diff != "" {
		t.Error(diff)
	}
}

// complaints is a testing.TB that keeps what it is told, to see that a check complains.
type complaints struct {
	testing.TB
	lines []string
}

func (c *complaints) Errorf(format string, _ ...any) { c.lines = append(c.lines, format) }

func TestTransferSeesAStandstill(t *testing.T) {
	NeedRoot(t)
	t.Parallel()
	pair := NewPair(t)
	a, b := pair.A, pair.B
	x := StartTransfer(t, a, a.Outer4, b, b.Outer4)
	b.Must(t, strings.Fields("nft add table ip shut")...)
	b.Must(t, "nft", "add chain ip shut in { type filter hook input priority 0; }")
	b.Must(t, "nft", "add rule ip shut in tcp dport 7778 drop")
	still := func() bool {
		for _, s := range received(x.server.Text()) {
			if s.kilobytes == 0 {
				return true
			}
		}
		return false
	}
	WaitFor(t, 10*time.Second, "a second without TCP", still)
	b.Must(t, "nft", "delete table ip shut")
	heard := &complaints{TB: t}
	x.Stop(heard)
	if !strings.Contains(strings.Join(heard.lines, "\n"), "stood still") {
		t.Errorf("it complains of %q", heard.lines)
	}
}
