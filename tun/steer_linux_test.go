package tun

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A flow of small datagrams and of large ones, which leave in fragments, comes by one queue and in order; TCP is spread
// by its ports.
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

	for _, c := range []struct {
		name, local, remote string
		fragment            byte // protocol of a fragment
	}{
		{"ipv4", "10.9.0.1:7", "10.9.0.%:9", unix.IPPROTO_UDP},
		{"ipv6", "[fd09::1]:7", "[fd09::%]:9", unix.IPPROTO_FRAGMENT},
	} {
		used := map[int]bool{}
		for host := byte('2'); host <= '9'; host++ {
			app := appSocket(t, netip.MustParseAddrPort(c.local))
			remote := []byte(c.remote)
			for i := range remote {
				if remote[i] == '%' {
					remote[i] = host
				}
			}
			at, queues := netip.MustParseAddrPort(string(remote)), map[int]bool{}
			for range 5 {
				for size, packets := range map[int]int{100: 1, 5000: 4} {
					_, err := app.WriteToUDPAddrPort(make([]byte, size), at)
					ok(t, err)
					for range packets {
						queues[next(unix.IPPROTO_UDP, c.fragment).queue] = true
					}
				}
			}
			if len(queues) != 1 {
				t.Errorf("%s, host %c: one flow came by queues %v", c.name, host, queues)
			}
			for q := range queues {
				used[q] = true
			}
			app.Close()
		}
		if len(used) < 2 {
			t.Errorf("%s: the flows to eight hosts all came by queues %v", c.name, used)
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
