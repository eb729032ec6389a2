package bench

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"coati/esp"
	"coati/ike"
	"coati/policy"
)

// liveHeap is what the collector finds in use, octets.
func liveHeap() int64 {
	// What the first run frees by finalizers and pools goes in the second.
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// nowhere is where a plane's packets go that nobody carries.
type nowhere struct{}

func (nowhere) SendESP(*policy.Path, byte, []byte, int) error { return nil }
func (nowhere) SendClear([]byte) error                        { return nil }

// responderHeap has one engine in this process answer n callers, and returns what it then has on the heap for each IKE SA
// with its child: the engine's share, and that of the SAs in the userspace plane.
func responderHeap(ctx context.Context, n int, what call) (ikePart, espPart float64, err error) {
	lan := netip.MustParsePrefix("10.2.0.0/24")
	begin := liveHeap()
	plane := esp.New(esp.Config{Egress: nowhere{}})
	bare := liveHeap() - begin // of a plane without SAs
	b := &party{addr: netip.AddrFrom4([4]byte{10, 9, 0, 2})}
	b.boot(plane)
	tunnel, err := what.tunnel(0, netip.Addr{}, lan)
	if err != nil {
		return 0, 0, err
	}
	child := &tunnel.Children[0]
	any, err := policy.ParseSelector(callerLANs.String())
	if err != nil {
		return 0, 0, err
	}
	child.Local, child.Remote = child.Remote, []policy.Selector{any}
	b.inbox = append(b.inbox, ike.Configure{Tunnels: []policy.PeerTunnel{tunnel}})
	now := time.Unix(1_800_000_000, 0)
	if err := b.work(now, func(ike.Send) {}); err != nil {
		return 0, 0, err
	}
	before := liveHeap()
	for i := 1; i <= n; i++ {
		if ctx.Err() != nil {
			return 0, 0, ctx.Err()
		}
		if err := meet(b, i, what, lan, now); err != nil {
			return 0, 0, err
		}
	}
	b.inbox = nil
	both := liveHeap()
	// The engine knows the plane by way of its party alone.
	b.plane, plane = nil, nil
	without := liveHeap()
	runtime.KeepAlive(b)
	return float64(without+bare-before) / float64(n), float64(both-without-bare) / float64(n), nil
}

// meet has the n-th caller make its handshake with b and go.
func meet(b *party, n int, what call, lan netip.Prefix, now time.Time) error {
	a, err := what.newCaller(n, b.addr, lan)
	if err != nil {
		return err
	}
	to := func(other *party) func(ike.Send) {
		return func(s ike.Send) {
			other.inbox = append(other.inbox, ike.Datagram{Path: policy.Path{Local: s.Path.Remote, Remote: s.Path.Local}, Bytes: s.Bytes})
		}
	}
	for len(a.inbox)+len(b.inbox) > 0 && !a.replied {
		if err := a.work(now, to(b)); err != nil {
			return err
		}
		if err := b.work(now, to(a)); err != nil {
			return err
		}
	}
	b.inbox = b.inbox[:0]
	if done, err := what.done(a); err != nil || !done {
		return fmt.Errorf("caller %d: not up: %w", n, err)
	}
	return nil
}
