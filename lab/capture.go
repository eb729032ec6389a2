package lab

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// A Capture is tcpdump on a host's eth0.
type Capture struct {
	File string // the pcap
	host *Host
	p    *Process
}

// Capture starts capturing and returns when packets are being seen.
func (h *Host) Capture(t testing.TB) *Capture {
	t.Helper()
	h.captures++
	label := fmt.Sprintf("capture%d", h.captures)
	c := &Capture{File: h.Path(label + ".pcap"), host: h}
	// Inbound only would lose half; both directions of a veth end are what the wire carries.
	// A buffer of 32 MiB: on a busy machine tcpdump gets its turn late.
	c.p = h.Start(t, label, nil, "tcpdump", "-i", "eth0", "-n", "-U", "-B", "32768", "-s", "0",
		"-Z", "root", "-w", c.File)
	c.p.WaitText(t, 10*time.Second, "listening on")
	return c
}

// markerPort is where the last packet of a capture goes: discard, by broadcast, so that nobody answers.
const markerPort = 9

// Stop ends the capture after everything that was sent before the call is in the file.
func (c *Capture) Stop(t testing.TB) {
	t.Helper()
	marker := fmt.Appendf(nil, "end of capture %s %d", c.host.Name, time.Now().UnixNano())
	octets := c.host.Outer4.As4()
	var conn *net.UDPConn
	err := c.host.Inside(func() (err error) {
		conn, err = net.DialUDP("udp4", &net.UDPAddr{IP: octets[:]},
			&net.UDPAddr{IP: net.IPv4(octets[0], octets[1], octets[2], 255), Port: markerPort})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The capture is in order, so the first marker that got in stands behind all that was sent before it.
	WaitFor(t, 20*time.Second, "the marker in the capture", func() bool {
		if _, err := conn.Write(marker); err != nil {
			t.Error(err)
		}
		file, err := os.ReadFile(c.File)
		return err == nil && bytes.Contains(file, marker)
	})
	if _, err := c.p.End(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
}
