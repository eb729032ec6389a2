package esp

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"coati/policy"
)

// Ten thousand policies come and go while packets flow: none is lost or waits for the transaction.
func TestReloadNeverPausesTraffic(t *testing.T) {
	a, b := connect(t, gcm128, nil)
	b.out, b.in = nil, nil
	var puts []policy.Policy
	var ids []policy.PolicyID
	for i := range 10_000 {
		c := protectPolicy()
		c.ID, c.ReqID, c.Priority = policy.PolicyID(10+i), uint32(10+i), 7
		c.Remote = []policy.Selector{policy.PrefixSelector(netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(16 + i>>12), byte(i >> 4), byte(i << 4)}), 28))}
		puts, ids = append(puts, c), append(ids, c.ID)
	}
	in := b.NewInbound(b.tap)
	var applying atomic.Bool
	done := make(chan error)
	during := 0
	sent := uint64(0)
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
	for _, tx := range []policy.Tx{{PutPolicies: puts}, {PutPolicies: puts}, {DeletePolicies: ids}} {
		during = 0
		go func() {
			applying.Store(true)
			err := a.Apply(tx)
			applying.Store(false)
			done <- err
		}()
		for ended := false; !ended; {
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
				ended = true
			default:
				send()
			}
		}
		if during < 10 {
			t.Errorf("%d packets went through while the transaction ran", during)
		}
	}
	if n := uint64(len(b.tap.take())); n != sent {
		t.Errorf("%d packets delivered, %d sent", n, sent)
	}
	if d := a.Counters().Drops; len(d) > 0 {
		t.Errorf("drops %v", d)
	}
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
