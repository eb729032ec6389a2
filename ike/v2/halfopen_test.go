package v2_test

import (
	"log/slog"
	"net/netip"
	"testing"

	"coati/ike"
	"coati/ike/wire"
	"coati/policy"
)

func anyPeer(tt *policy.PeerTunnel) { tt.Name, tt.Remote = "any", netip.Addr{} }

// stranger is the nth peer that begins from an address.
func stranger(b *bench, n int, address string) *puppet {
	p := newPuppet(b)
	p.path.Remote = netip.AddrPortFrom(netip.MustParseAddr(address), 500)
	p.spiI, p.ni[0] = uint64(n+1), byte(n)
	return p
}

// Half-open SAs are bounded in all and by source address, and so is the work for them that is not done yet. What is beyond is
// dropped and counted; who authenticates, or is given up, makes room.
func TestHalfOpenSAsAreBoundedInAllAndByAddress(t *testing.T) {
	t.Parallel()
	var limits ike.Limits
	b := newBench(t, func(l *ike.Limits) {
		l.HalfOpenCookie, l.HalfOpenPerAddress, l.HalfOpenPerAddressMax, l.HalfOpenMax = 100, 100, 3, 5
		limits = *l
	}, tunnel(), tunnel(anyPeer))
	n := 0
	begun := func(address string) bool {
		n++
		p := stranger(b, n, address)
		return len(p.give(p.first(p.keyExchange(), &wire.VendorID{Data: make([]byte, 64)}))) == 1
	}
	first := stranger(b, 200, there.String()).begin()
	for i, c := range []struct {
		from          string
		taken         bool
		address, full uint64
	}{
		{there.String(), true, 0, 0},
		{there.String(), true, 0, 0},
		{there.String(), false, 1, 0},
		{"198.51.100.1", true, 1, 0},
		{"198.51.100.1", true, 1, 0},
		{"198.51.100.1", false, 1, 1},
		{"198.51.100.2", false, 1, 2},
	} {
		if got := begun(c.from); got != c.taken || b.eng.Stats.AddressFull != c.address || b.eng.Stats.HalfOpenFull != c.full {
			t.Fatalf("request %d, of %s: taken %v, counters %+v", i+1, c.from, got, b.eng.Stats)
		}
	}
	first.authenticate()
	if !begun("198.51.100.2") || begun("198.51.100.2") {
		t.Error("who authenticates makes room for one")
	}
	b.wait(limits.HalfOpenLife)
	if !begun(there.String()) || !begun("198.51.100.1") {
		t.Error("half-open SAs outlive their time")
	}
	if sas, _ := b.established(); sas != 1 {
		t.Errorf("%d IKE SAs live, want the authenticated one", sas)
	}
	b.sound()
}

func TestKeyExchangesThatWaitAreBounded(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(l *ike.Limits) { l.HalfOpenJobs = 2 }, tunnel(), tunnel(anyPeer))
	b.hold = true
	for n := range 4 {
		p := stranger(b, n, "198.51.100.1")
		p.give(p.first(p.keyExchange()))
	}
	if len(b.held) != 2 || b.eng.Stats.JobsFull != 2 {
		t.Errorf("%d computations wait, %d requests were dropped", len(b.held), b.eng.Stats.JobsFull)
	}
	b.hold = false
	if sent := b.release(); len(sent) != 2 {
		t.Errorf("%d answers", len(sent))
	}
	p := stranger(b, 9, "198.51.100.1")
	if len(p.give(p.first(p.keyExchange(), &wire.VendorID{Data: make([]byte, 64)}))) != 1 {
		t.Error("there is no room when the work is done")
	}
	b.sound()
}

// One address that opens many is asked for a cookie, others are not; when there are many in all, everybody is.
func TestWhoMustReturnACookie(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(l *ike.Limits) { l.HalfOpenPerAddress, l.HalfOpenCookie = 2, 4 }, tunnel(), tunnel(anyPeer))
	for i, c := range []struct {
		from   string
		cookie bool
	}{
		{"198.51.100.1", false},
		{"198.51.100.1", false},
		{"198.51.100.1", true},
		{"198.51.100.2", false},
		{"198.51.100.3", false},
		{"198.51.100.4", true},
	} {
		p := stranger(b, i, c.from)
		sent := p.give(p.first(p.keyExchange(), &wire.VendorID{Data: make([]byte, 64)}))
		if len(sent) != 1 {
			t.Fatalf("request %d has %d answers", i+1, len(sent))
		}
		if m := p.parse(sent[0].Bytes); (wire.FindNotify(m.Payloads, wire.NotifyCookie) != nil) != c.cookie {
			t.Errorf("request %d, of %s: a cookie %v", i+1, c.from, !c.cookie)
		}
	}
	b.sound()
}

// What every handshake says is not put into words where nobody reads that level; warnings are.
func TestNothingIsWrittenForNobody(t *testing.T) {
	t.Parallel()
	for _, read := range []bool{true, false} {
		b := newBench(t, nil, tunnel())
		b.reads = func(slog.Level) bool { return read }
		up(b)
		if b.said("child SA up") != read || b.said("IKE SA established") != read {
			t.Errorf("the log is read %v: %q", read, b.log)
		}
		if sas, children := b.established(); sas != 1 || children != 1 {
			t.Errorf("%d SAs, %d children", sas, children)
		}
	}
}
