package tun

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A flow of small datagrams and of large ones, which leave in fragments, comes by one queue and in order; TCP is spread
// by its ports, and other flows of IPv6 by their labels.
func TestAFlowComesByOneQueue(t *testing.T) {
	enterNamespace(t)
	d, err := openHost(t, "ctun0", t.TempDir()).OpenDevice(DeviceConfig{Queues: 4, MTU: 1400})
	ok(t, err)
	if !d.steers {
		t.Skip("this kernel does not let us choose the queue of a packet")
	}
	ok(t, d.AddAddress(netip.MustParsePrefix("10.9.0.1/24")))
	ok(t, d.AddAddress(netip.MustParsePrefix("fd09::1/64")))

	type arrival struct {
		queue int
		frame []byte
	}
	arrivals := make(chan arrival, 10000)
	var readers sync.WaitGroup
	for i, q := range d.Queues() {
		readers.Go(func() {
			for {
				buf := make([]byte, FrameSize)
				n, err := q.ReadFrame(buf, nil)
				if err != nil {
					return
				}
				arrivals <- arrival{i, buf[HeaderSize:n]}
			}
		})
	}
	defer readers.Wait()
	defer d.Close()
	next := func(protocols ...byte) arrival {
		t.Helper()
		for limit := time.After(10 * time.Second); ; {
			select {
			case a := <-arrivals:
				protocol := a.frame[9]
				if a.frame[0]>>4 == 6 {
					protocol = a.frame[6]
				}
				for _, p := range protocols {
					if p == protocol {
						return a
					}
				}
			case <-limit:
				t.Fatal("nothing comes")
			}
		}
	}

	// A flow sends datagrams of both sizes, and says by which queues they come.
	flow := func(local string, at netip.AddrPort, fragment byte, connected bool) int {
		t.Helper()
		app := appSocket(t, netip.MustParseAddrPort(local))
		defer app.Close()
		write := func(b []byte) (int, error) { return app.WriteToUDPAddrPort(b, at) }
		if connected {
			conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(at))
			ok(t, err)
			defer conn.Close()
			write = conn.Write
		}
		queues := map[int]bool{}
		for range 5 {
			for size, packets := range map[int]int{100: 1, 5000: 4} {
				_, err := write(make([]byte, size))
				ok(t, err)
				for range packets {
					queues[next(unix.IPPROTO_UDP, fragment).queue] = true
				}
			}
		}
		if len(queues) != 1 {
			t.Errorf("one flow to %v came by queues %v", at, queues)
		}
		for q := range queues {
			return q
		}
		return 0
	}
	for _, c := range []struct {
		local    string
		remote   netip.Addr
		fragment byte // protocol of a fragment
	}{
		{"10.9.0.1:0", netip.MustParseAddr("10.9.0.2"), unix.IPPROTO_UDP},
		{"[fd09::1]:0", netip.MustParseAddr("fd09::2"), unix.IPPROTO_FRAGMENT},
	} {
		hosts, flows := map[int]bool{}, map[int]bool{}
		remote := c.remote
		for range 8 {
			hosts[flow(c.local, netip.AddrPortFrom(remote, 9), c.fragment, false)] = true
			remote = remote.Next()
		}
		if len(hosts) < 2 {
			t.Errorf("the flows to eight hosts all came by queues %v", hosts)
		}
		for i := range 32 {
			flows[flow(c.local, netip.AddrPortFrom(c.remote, 9), c.fragment, i%2 == 0)] = true
		}
		// In IPv4 nothing that fragments have tells one flow from another.
		if v6 := c.remote.Is6(); v6 && len(flows) < 2 || !v6 && len(flows) > 1 {
			t.Errorf("32 flows to %v came by queues %v", c.remote, flows)
		}
	}

	for _, remote := range []string{"10.9.0.2:80", "[fd09::2]:80"} {
		used := map[int]bool{}
		for range 32 {
			at := netip.MustParseAddrPort(remote)
			fd, err := unix.Socket(family(at.Addr().Is6()), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			ok(t, err)
			if err := unix.Connect(fd, unixSockaddr(at)); err != unix.EINPROGRESS {
				t.Fatalf("connect: %v", err)
			}
			used[next(unix.IPPROTO_TCP).queue] = true
			unix.Close(fd)
		}
		if len(used) < 2 {
			t.Errorf("32 connections to %s all came by queues %v", remote, used)
		}
	}
}
