package esp

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"coati/policy"
)

// reload has the transactions that put ten thousand policies, put them anew and delete them.
func reload() []policy.Tx {
	var puts []policy.Policy
	var ids []policy.PolicyID
	for i := range 10_000 {
		c := protectPolicy()
		c.ID, c.ReqID, c.Priority = policy.PolicyID(10+i), uint32(10+i), 7
		c.Remote = []policy.Selector{policy.PrefixSelector(netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(16 + i>>12), byte(i >> 4), byte(i << 4)}), 28))}
		puts, ids = append(puts, c), append(ids, c.ID)
	}
	return []policy.Tx{{PutPolicies: puts}, {PutPolicies: puts}, {DeletePolicies: ids}}
}

// Ten thousand policies come and go while packets flow: none is lost, and some go through while a transaction runs.
func TestReloadNeverPausesTraffic(t *testing.T) {
	a, b := connect(t, gcm128, nil)
	b.out, b.in = nil, nil
	in := b.NewInbound(b.tap)
	var applying atomic.Bool
	sent, during := uint64(0), 0
	send := func() {
		before := applying.Load()
		a.out.Process(segment{udp: true, sport: uint16(sent), payload: filled(20, 1)}.frame())
		for _, p := range a.net.packets() {
			in.Receive([]Datagrams{{Buf: p, Encap: policy.EncapUDP}})
		}
		sent++
		if before && applying.Load() {
			during++
		}
	}
	apply := func(tx policy.Tx) {
		done := make(chan error)
		go func() {
			applying.Store(true)
			err := a.Apply(tx)
			applying.Store(false)
			done <- err
		}()
		for {
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
				return
			default:
				send()
			}
		}
	}
	// On a busy machine a transaction may be over before the sender has a processor: there is another.
	for range 100 {
		for _, tx := range reload() {
			apply(tx)
		}
		if during >= 10 {
			break
		}
	}
	if during < 10 {
		t.Errorf("%d packets went through while transactions ran", during)
	}
	if n := uint64(len(b.tap.take())); n != sent {
		t.Errorf("%d packets delivered, %d sent", n, sent)
	}
	if d := a.Counters().Drops; len(d) > 0 {
		t.Errorf("drops %v", d)
	}
}

// The longest a stream waits for its next packet to leave, with a reload of ten thousand policies and without, for as long: the
// median of some rounds.
func BenchmarkReload(b *testing.B) {
	a, _ := connect(b, gcm128, toSink)
	f := segment{udp: true, sport: 1, payload: filled(1000, 1)}.frame()
	largest := func(until func() bool) (gap float64) {
		for last := time.Now(); !until(); {
			a.out.Process(f)
			now := time.Now()
			gap, last = max(gap, float64(now.Sub(last))), now
		}
		return gap
	}
	var with, without, took []float64
	for b.Loop() {
		for range 15 {
			begin := time.Now()
			done := make(chan struct{})
			go func() {
				defer close(done)
				for _, tx := range reload() {
					if err := a.Apply(tx); err != nil {
						b.Error(err)
					}
				}
			}()
			with = append(with, largest(func() bool {
				select {
				case <-done:
					return true
				default:
					return false
				}
			}))
			d := time.Since(begin)
			took = append(took, float64(d))
			end := time.Now().Add(d)
			without = append(without, largest(func() bool { return time.Now().After(end) }))
		}
	}
	for name, x := range map[string][]float64{"ns/gap-in-a-reload": with, "ns/gap-without": without, "ns/reload": took} {
		slices.Sort(x)
		b.ReportMetric(x[len(x)/2], name)
	}
	b.ReportMetric(0, "ns/op")
}

// Whoever changes policies and SAs holds the plane's lock, however long: packets of known flows and of new ones pass, out
// and in.
func TestTrafficTakesNoLock(t *testing.T) {
	t.Parallel()
	a, b := connect(t, gcm128, nil)
	a.mu.Lock()
	defer a.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	passed := make(chan int)
	go func() {
		for i := range 100 {
			a.out.Process(segment{udp: true, sport: uint16(i / 2), v6: i%4 == 0, payload: filled(20, 1)}.frame())
			carry(a, b)
		}
		passed <- len(b.tap.take())
	}()
	select {
	case n := <-passed:
		if n != 100 {
			t.Errorf("%d of 100 packets passed", n)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("a packet waits for the plane's lock")
	}
}
