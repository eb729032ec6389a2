package esp

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"coati/packet"
)

// slowTap is a FrameWriter that gives way to others, as a system call does, and notes the inner packets' IDs.
type slowTap struct {
	mu  sync.Mutex
	ids []uint16
}

func (s *slowTap) WriteFrame(iov [][]byte) error {
	runtime.Gosched()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids = append(s.ids, packet.IPv4(iov[1]).ID())
	return nil
}

var errNoMore = errors.New("no more datagrams")

// source gives runs of ESP packets, and an error behind the last.
type source struct {
	runs  [][]byte
	size  int // of a packet
	more  bool
	taken map[string]*atomic.Int64 // receives by whom
}

func (s *source) by(who string) Receive {
	out := make([]Datagrams, 1)
	return func() ([]Datagrams, bool, error) {
		if len(s.runs) == 0 {
			return nil, false, errNoMore
		}
		out[0] = Datagrams{Buf: s.runs[0], SegSize: s.size}
		s.runs = s.runs[1:]
		s.taken[who].Add(1)
		return out, s.more, nil
	}
}

// stream seals packets with the IDs 1 to n, in runs, each packet twice.
func stream(t testing.TB, a *host, n, inRun int) *source {
	t.Helper()
	s := &source{taken: map[string]*atomic.Int64{"lead": {}, "help": {}}}
	var run []byte
	for i := range n {
		a.out.Process(segment{sport: 1, id: uint16(i + 1), payload: filled(200, byte(i))}.frame())
		p := a.net.packets()[0]
		s.size = len(p)
		run = append(append(run, p...), p...)
		if len(run) >= inRun*len(p) || i == n-1 {
			s.runs = append(s.runs, run)
			run = nil
		}
	}
	return s
}

// Whoever opens a packet, it is delivered in its turn: a window of 32 loses none, and none comes twice or early.
func TestARelayKeepsTheOrder(t *testing.T) {
	t.Parallel()
	const packets, helpers = 20_000, 3
	a, b := connect(t, link{enc: "aes128gcm16", window: 32}, nil)
	s, out := stream(t, a, packets, 100), &slowTap{}
	s.more = true
	r := NewRelay()
	var wg sync.WaitGroup
	for range helpers {
		wg.Go(func() { r.Help(b.NewInbound(out), s.by("help")) })
	}
	if err := r.Lead(b.NewInbound(out), s.by("lead")); err != errNoMore {
		t.Errorf("ended with %v", err)
	}
	r.Close()
	wg.Wait()
	if len(out.ids) != packets {
		t.Fatalf("%d of %d packets were delivered", len(out.ids), packets)
	}
	for i, id := range out.ids {
		if id != uint16(i+1) {
			t.Fatalf("packet %d was delivered at place %d", id, i+1)
		}
	}
	if d := b.Counters().Drops; len(d) != 1 || d[DropReplay.String()] != packets {
		t.Errorf("drops %v, want %d replays", d, packets)
	}
	if runtime.GOMAXPROCS(0) > 1 && s.taken["help"].Load() == 0 {
		t.Error("nobody helped")
	}
	if c := b.Counters(); c.PacketsIn != packets {
		t.Errorf("%d packets counted", c.PacketsIn)
	}
}

// A socket that is read empty again and again has no second reader.
func TestNobodyHelpsWithoutABacklog(t *testing.T) {
	a, b := connect(t, gcm128, nil)
	s := stream(t, a, 2000, 20)
	for i := range s.runs {
		if i%relayBacklog != relayBacklog-1 {
			continue
		}
		// Never so many in a row that it would be a backlog.
		s.runs[i] = s.runs[i][:s.size]
	}
	r := NewRelay()
	var wg sync.WaitGroup
	wg.Go(func() { r.Help(b.NewInbound(sink{}), s.by("help")) })
	lead, calls := s.by("lead"), 0
	err := r.Lead(b.NewInbound(sink{}), func() ([]Datagrams, bool, error) {
		runs, _, err := lead()
		calls++
		return runs, calls%relayBacklog != 0, err
	})
	if err != errNoMore {
		t.Error(err)
	}
	r.Close()
	wg.Wait()
	if n := s.taken["help"].Load(); n > 0 {
		t.Errorf("the second goroutine received %d times", n)
	}
}

func TestNoAllocationsInARelay(t *testing.T) {
	run := received(t, gcm128, hotFrames()["tso 64 KiB"])
	r := NewRelay()
	receive := Receive(func() ([]Datagrams, bool, error) { run.renew(); return run.runs, true, nil })
	if n := testing.AllocsPerRun(50, func() {
		if _, err := r.carry(run.in, receive); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a receive", n)
	}
}

// copier is a FrameWriter that costs what the kernel's copy does.
type copier struct {
	mu  sync.Mutex
	buf [1 << 16]byte
}

func (c *copier) WriteFrame(iov [][]byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range 4 {
		at := 0
		for _, b := range iov {
			at += copy(c.buf[at:], b)
		}
	}
	return nil
}

// What a relay is for: one SA, and a socket and a TUN that copy as the kernel does. With two goroutines, and processors for
// both, the second decrypts while the first writes.
func BenchmarkRelay(b *testing.B) {
	for _, helped := range []bool{false, true} {
		b.Run(fmt.Sprintf("helped=%v", helped), func(b *testing.B) {
			run, out := received(b, gcm128, hotFrames()["tso 64 KiB"]), new(copier)
			run.sa.window = window{} // the same packets again and again
			b.SetBytes(int64(len(run.buf)))
			left := b.N
			receive := func() Receive {
				buf, runs := make([]byte, len(run.buf)), []Datagrams{run.runs[0]}
				runs[0].Buf = buf
				return func() ([]Datagrams, bool, error) {
					if left == 0 {
						return nil, false, errNoMore
					}
					left--
					copy(buf, run.sealed)
					return runs, helped, nil
				}
			}
			r := NewRelay()
			var wg sync.WaitGroup
			wg.Go(func() { r.Help(run.in.plane.NewInbound(out), receive()) })
			b.ResetTimer()
			if err := r.Lead(run.in.plane.NewInbound(out), receive()); err != errNoMore {
				b.Fatal(err)
			}
			r.Close()
			wg.Wait()
		})
	}
}
