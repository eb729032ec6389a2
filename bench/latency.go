package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	echoPort  = 5203
	echoOctet = 56 // of payload, as ping has
	echoLimit = 500 * time.Millisecond
)

// echoSocket is a blocking datagram socket on a host, which gives up waiting after echoLimit.
func (h *host) echoSocket(port int) (fd int, err error) {
	err = h.inside(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		limit := unix.NsecToTimeval(echoLimit.Nanoseconds())
		_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: h.lan.As4(), Port: port}); err != nil {
			unix.Close(fd)
			return err
		}
		return nil
	})
	return fd, err
}

// pings sends small datagrams from a to b and back, one at a time, at an interval, and returns the round trips in
// microseconds, and how many were lost.
func (c *contender) pings(ctx context.Context, duration, interval time.Duration) (rtts []float64, lost int, err error) {
	server, err := c.b.echoSocket(echoPort)
	if err != nil {
		return nil, 0, err
	}
	defer unix.Close(server)
	client, err := c.a.echoSocket(0)
	if err != nil {
		return nil, 0, err
	}
	defer unix.Close(client)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		echo(server, stop)
	}()
	defer func() {
		close(stop)
		<-stopped
	}()
	target := &unix.SockaddrInet4{Addr: c.b.lan.As4(), Port: echoPort}
	buf, answer := make([]byte, echoOctet), make([]byte, 2*echoOctet)
	for begin, n := time.Now(), uint64(1); time.Since(begin) < duration; n++ {
		if ctx.Err() != nil {
			return nil, 0, ctx.Err()
		}
		binary.BigEndian.PutUint64(buf, n)
		sent := time.Now()
		if err := unix.Sendto(client, buf, 0, target); err != nil {
			return nil, 0, fmt.Errorf("ping: %w", err)
		}
		for {
			k, _, err := unix.Recvfrom(client, answer, 0)
			if errors.Is(err, unix.EAGAIN) {
				lost++
				break
			}
			// What came late is not this one's answer.
			if err == nil && k == echoOctet && binary.BigEndian.Uint64(answer) == n {
				rtts = append(rtts, float64(time.Since(sent).Nanoseconds())/1000)
				break
			}
			if err != nil && !errors.Is(err, unix.EINTR) {
				return nil, 0, fmt.Errorf("ping: %w", err)
			}
		}
		time.Sleep(interval - time.Since(sent))
	}
	if len(rtts) == 0 {
		return nil, lost, errors.New("no ping came back")
	}
	return rtts, lost, nil
}

func echo(fd int, stop <-chan struct{}) {
	buf := make([]byte, 2*echoOctet)
	for {
		select {
		case <-stop:
			return
		default:
		}
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if err == nil {
			_ = unix.Sendto(fd, buf[:n], 0, from)
		}
	}
}

// latency measures round trips; loaded: beside one TCP stream that takes what it can.
func (c *contender) latency(ctx context.Context, seconds int, loaded bool) (sample, []float64, error) {
	duration, interval := time.Duration(seconds)*time.Second, 2*time.Millisecond
	if loaded {
		end := make(chan error, 1)
		go func() {
			_, err := c.tcp(ctx, seconds+1, 1, false)
			end <- err
		}()
		// To its end, so that iperf3's server is free for the next one.
		defer func() { <-end }()
		time.Sleep(warmUp)
	}
	rtts, lost, err := c.pings(ctx, duration, interval)
	if err != nil {
		return nil, nil, err
	}
	return sample{p50: quantile(rtts, 0.5), p99: quantile(rtts, 0.99), p999: quantile(rtts, 0.999), lostPings: float64(lost)}, rtts, nil
}
