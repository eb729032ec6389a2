package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Ping sends count echo requests, five a second, from one address to another and returns how many were not answered until
// two seconds after the last. (The program ping gives up on a late answer after two round trips, if others came.)
func (h *Host) Ping(t testing.TB, from, to netip.Addr, count int) int {
	t.Helper()
	network, protocol := "ip4:icmp", 1
	var request, reply icmp.Type = ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply
	if from.Is6() {
		network, protocol = "ip6:ipv6-icmp", 58
		request, reply = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	var conn net.PacketConn
	err := h.Inside(func() (err error) {
		conn, err = net.ListenPacket(network, from.String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	id := int(rand.Uint32() & 0xffff)
	go func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for i := range count {
			echo := icmp.Message{Type: request, Body: &icmp.Echo{ID: id, Seq: i, Data: make([]byte, 56)}}
			octets, err := echo.Marshal(nil) // of ICMPv6 the kernel makes the checksum
			if err == nil {
				// A failed write is a lost packet: the count shows it.
				_, _ = conn.WriteTo(octets, &net.IPAddr{IP: to.AsSlice()})
			}
			<-tick.C
		}
	}()
	answered := map[int]bool{}
	buffer := make([]byte, 65536)
	deadline := time.Now().Add(time.Duration(count-1)*200*time.Millisecond + 2*time.Second)
	for len(answered) < count {
		if err := conn.SetReadDeadline(deadline); err != nil {
			t.Fatal(err)
		}
		n, _, err := conn.ReadFrom(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			continue // ICMP errors for what was sent show up here
		}
		m, err := icmp.ParseMessage(protocol, buffer[:n])
		if err != nil || m.Type != reply {
			continue
		}
		if echo, ok := m.Body.(*icmp.Echo); ok && echo.ID == id {
			answered[echo.Seq] = true
		}
	}
	return count - len(answered)
}

// NoLoss fails the test unless all pings from the host's LAN address to the peer's come back:
// the first one too, which may have to wait for a negotiation.
func NoLoss(t testing.TB, from, to *Host, count int) {
	t.Helper()
	if lost := from.Ping(t, from.LAN4, to.LAN4, count); lost != 0 {
		t.Fatalf("%d of %d pings lost", lost, count)
	}
}

// Reachable says that one ping comes back.
func Reachable(t testing.TB, from, to *Host) bool {
	t.Helper()
	return from.Ping(t, from.LAN4, to.LAN4, 1) == 0
}

// A Stream is UDP datagrams with sequence numbers on their way from one host to another.
type Stream struct {
	sender, receiver *net.UDPConn
	stop             chan struct{}
	sending, reading sync.WaitGroup
	sent             atomic.Uint64
	mu               sync.Mutex
	got              map[uint64]int
	highest          uint64
	reordered        int
}

// A StreamReport is what became of a stream.
type StreamReport struct{ Sent, Received, Lost, Doubled, Reordered int }

const streamPort = 7777

// StartStream sends perSecond datagrams of size octets (8 at least) a second until Stop.
func StartStream(t testing.TB, from *Host, fromAddr netip.Addr, to *Host, toAddr netip.Addr, perSecond, size int) *Stream {
	t.Helper()
	return StartStreamTo(t, from, fromAddr, to, netip.AddrPortFrom(toAddr, streamPort), perSecond, size)
}

// StartStreamTo is StartStream to a port of one's choice.
func StartStreamTo(t testing.TB, from *Host, fromAddr netip.Addr, to *Host, toPort netip.AddrPort, perSecond, size int) *Stream {
	t.Helper()
	s := &Stream{stop: make(chan struct{}), got: map[uint64]int{}}
	target := net.UDPAddrFromAddrPort(toPort)
	err := to.Inside(func() (err error) {
		s.receiver, err = net.ListenUDP("udp", target)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.receiver.SetReadBuffer(4 << 20); err != nil {
		t.Fatal(err)
	}
	err = from.Inside(func() (err error) {
		s.sender, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(fromAddr, 0)), target)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s.reading.Add(1)
	go s.read()
	s.sending.Add(1)
	go s.send(time.Second/time.Duration(perSecond), size)
	t.Cleanup(func() {
		_ = s.sender.Close()
		_ = s.receiver.Close()
	})
	return s
}

func (s *Stream) send(every time.Duration, size int) {
	defer s.sending.Done()
	tick := time.NewTicker(every)
	defer tick.Stop()
	datagram := make([]byte, max(8, size))
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
			binary.BigEndian.PutUint64(datagram, s.sent.Add(1))
			// A failed write is a lost datagram: the count shows it.
			_, _ = s.sender.Write(datagram)
		}
	}
}

func (s *Stream) read() {
	defer s.reading.Done()
	buffer := make([]byte, 65536)
	for {
		n, err := s.receiver.Read(buffer)
		if err != nil {
			return
		}
		if n < 8 {
			continue
		}
		number := binary.BigEndian.Uint64(buffer)
		s.mu.Lock()
		s.got[number]++
		if number < s.highest && s.got[number] == 1 {
			s.reordered++
		}
		s.highest = max(s.highest, number)
		s.mu.Unlock()
	}
}

// Stop ends the sender, gives what is on its way up to two seconds, and reports.
func (s *Stream) Stop() StreamReport {
	close(s.stop)
	s.sending.Wait()
	Within(2*time.Second, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.got) == s.Sent()
	})
	_ = s.receiver.SetReadDeadline(time.Now())
	s.reading.Wait()
	report := StreamReport{Sent: s.Sent(), Received: len(s.got), Lost: s.Sent() - len(s.got), Reordered: s.reordered}
	for _, times := range s.got {
		report.Doubled += times - 1
	}
	return report
}

// Received is how many different datagrams have arrived so far.
func (s *Stream) Received() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.got)
}

// Sent is how many datagrams have been sent so far.
func (s *Stream) Sent() int { return int(s.sent.Load()) }

// Undisturbed fails the test if anything was lost or doubled.
func (r StreamReport) Undisturbed(t testing.TB) {
	t.Helper()
	if r.Lost != 0 || r.Doubled != 0 {
		t.Errorf("stream disturbed: %s", r)
	}
}

func (r StreamReport) String() string {
	return fmt.Sprintf("%d sent, %d lost, %d doubled, %d reordered", r.Sent, r.Lost, r.Doubled, r.Reordered)
}
