package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// warmUp is left out of the throughput of a TCP sample: slow start, and caches.
const warmUp = 500 * time.Millisecond

func needIperf() error {
	if _, err := exec.LookPath("iperf3"); err != nil {
		return fmt.Errorf("iperf3 %w: apt-get install iperf3", errMissing)
	}
	return nil
}

// serveTCP starts the receiving end.
func (c *contender) serveTCP(ctx context.Context) error {
	p, err := c.b.start("iperf3", nil, "", "iperf3", "-s", "--forceflush")
	if err != nil {
		return err
	}
	return p.await(ctx, upLimit, "iperf3", func() bool { return strings.Contains(p.text(), "listening") })
}

func (c *contender) iperf(seconds, streams int, both bool) []string {
	args := []string{"iperf3", "-J", "-c", c.b.lan.String(), "-B", c.a.lan.String(), "-t", strconv.Itoa(seconds), "-i", "0.25", "-P", strconv.Itoa(streams)}
	if both {
		args = append(args, "--bidir")
	}
	return args
}

// tcp measures streams from a to b, and as many from b to a if both is set.
func (c *contender) tcp(ctx context.Context, seconds, streams int, both bool) (sample, error) {
	before, err := c.spent()
	if err != nil {
		return nil, err
	}
	text, err := runUntil(ctx, "ip", append([]string{"netns", "exec", c.a.name}, c.iperf(seconds, streams, both)...)...)
	if err != nil {
		return nil, err
	}
	after, err := c.spent()
	if err != nil {
		return nil, err
	}
	r, err := parseIperf([]byte(text))
	if err != nil {
		return nil, err
	}
	s := sample{throughput: r.rate / 1e9}
	if len(c.gateways) > 0 && r.octets > 0 {
		s[costPerGigabit] = (after - before).Seconds() * 1000 / (r.octets * 8 / 1e9)
	}
	return s, nil
}

// iperfResult is what one run of iperf3 carried: rate in bits a second after warm-up, octets in all.
type iperfResult struct{ rate, octets float64 }

type iperfSum struct {
	Seconds float64 `json:"seconds"`
	Start   float64 `json:"start"`
	Bytes   float64 `json:"bytes"`
}

func parseIperf(text []byte) (r iperfResult, err error) {
	var report struct {
		Error     string `json:"error"`
		Intervals []struct {
			Sum     iperfSum `json:"sum"`
			Reverse iperfSum `json:"sum_bidir_reverse"`
		} `json:"intervals"`
		End struct {
			Received        iperfSum `json:"sum_received"`
			ReceivedReverse iperfSum `json:"sum_received_bidir_reverse"`
		} `json:"end"`
	}
	if err := json.Unmarshal(text, &report); err != nil {
		return r, fmt.Errorf("cannot read iperf3's report: %w", err)
	}
	if report.Error != "" {
		return r, fmt.Errorf("iperf3: %s", report.Error)
	}
	var octets, seconds float64
	for _, i := range report.Intervals {
		if i.Sum.Start >= warmUp.Seconds()*0.99 {
			octets += i.Sum.Bytes + i.Reverse.Bytes
			seconds += i.Sum.Seconds
		}
	}
	if seconds == 0 {
		return r, fmt.Errorf("iperf3 reports no interval after %v", warmUp)
	}
	r.rate = octets * 8 / seconds
	r.octets = report.End.Received.Bytes + report.End.ReceivedReverse.Bytes
	return r, nil
}
