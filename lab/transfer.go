package lab

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// A Transfer is one TCP connection that iperf3 keeps busy in both directions until Stop.
type Transfer struct {
	client, server *Process
}

const (
	transferPort = "7778"
	// transferRate is bits of payload a second each way: TCP under a test, not a measurement. A block of it is handed to TCP
	// at once, and a window of it may be on its way: what the kernel sends in one run must fit into a peer's socket.
	transferRate, transferBlock, transferWindow = "4M", "4K", "32K"
)

// StartTransfer begins a connection and returns once it has carried something both ways.
func StartTransfer(t testing.TB, from *Host, fromAddr netip.Addr, to *Host, toAddr netip.Addr) *Transfer {
	t.Helper()
	x := &Transfer{server: to.Start(t, "iperf-server", nil, "iperf3", "-s", "-1", "--forceflush", "-B", toAddr.String(), "-p", transferPort)}
	x.server.WaitText(t, 10*time.Second, "listening")
	x.client = from.Start(t, "iperf-client", nil, "iperf3", "-c", toAddr.String(), "-B", fromAddr.String(), "-p", transferPort,
		"-t", "86400", "-b", transferRate, "-l", transferBlock, "-w", transferWindow, "--bidir", "--forceflush")
	WaitFor(t, 20*time.Second, "a second of TCP both ways", func() bool {
		return !x.client.Running() || len(received(x.client.Text())) > 0 && len(received(x.server.Text())) > 0
	})
	return x
}

// Stop ends it, and fails the test if the connection had ended before, or nothing arrived for a second in either direction.
func (x *Transfer) Stop(t testing.TB) {
	t.Helper()
	if !x.client.Running() {
		t.Errorf("TCP did not survive:\n%s", tail(x.client.Log, 5))
		return
	}
	// What they print from here on is not of whole seconds.
	ends := map[string][]second{"to the server": received(x.server.Text()), "to the client": received(x.client.Text())}
	_, _ = x.client.End(syscall.SIGINT)
	for way, seconds := range ends {
		if len(seconds) == 0 {
			t.Errorf("TCP %s never came", way)
		}
		var sum float64
		for _, s := range seconds {
			if sum += s.kilobytes; s.kilobytes == 0 {
				t.Errorf("TCP %s stood still in the second %s", way, s.when)
			}
		}
		t.Logf("TCP %s: %d seconds, %.0f kB", way, len(seconds), sum)
	}
}

// second is what arrived in one second.
type second struct {
	when      string
	kilobytes float64
}

// What the end that reads has received, as iperf3 says it: "[  7][RX-C]   3.00-4.00   sec   512 KBytes  4.19 Mbits/sec".
var receivedLine = regexp.MustCompile(`(?m)^\[ *\d+\]\[RX-[CS]\] +(\d+\.\d+-\d+\.\d+) +sec +([\d.]+) (|K|M|G)Bytes .*/sec *$`)

func received(text string) []second {
	var out []second
	for _, m := range receivedLine.FindAllStringSubmatch(text, -1) {
		n, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			panic(fmt.Sprintf("a regular expression takes %q for a number", m[2]))
		}
		out = append(out, second{m[1], n * map[string]float64{"": 1.0 / 1024, "K": 1, "M": 1024, "G": 1024 * 1024}[m[3]]})
	}
	return out
}
