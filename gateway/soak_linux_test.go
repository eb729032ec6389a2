package gateway

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"coati/esp"
	"coati/gateway/control"
	"coati/policy/config"
)

// The soak: hours of everything at once, in as much time as COATI_SOAK says ("2m", "30m"). Two gateways in namespaces
// carry TCP and UDP, IPv4 and IPv6, whole packets and fragments, both ways on two queues, while children and IKE SAs are
// rekeyed; half of the time in UDP, half as protocol 50. At the end no octet was changed, what is missing has been counted by somebody, and memory and goroutines
// are what they were.

const (
	soakRekey = 20 * time.Second
	// soakWarmUp is when memory is looked at first.
	soakWarmUp  = 10 * time.Second
	soakSettle  = 3 * time.Second
	soakBlock   = 128 << 10 // octets of TCP at a time
	soakPace    = 4 * time.Millisecond
	soakAtOnce  = 6 // datagrams each soakPace
	soakLargest = 9000
	// soakGrowth is what the heap may grow, octets: the test's own marks of what arrived grow too.
	soakGrowth = 8 << 20
)

type soak struct {
	t       *testing.T
	a, b    host
	workers sync.WaitGroup
	octets  atomic.Int64
	flows   []*soakFlow
}

// soakFlow is one UDP flow.
type soakFlow struct {
	name              string
	to                host
	port              uint16
	sent, received    atomic.Int64
	early, duplicates int // received before one that was sent earlier; received again
}

// inside runs f on a thread of a host's namespace. Sockets stay where they were made.
func inside[T any](t *testing.T, h host, f func() (T, error)) T {
	t.Helper()
	var v T
	errs := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := enter(h.name)
		if err == nil {
			v, err = f()
		}
		errs <- err
	}()
	if err := <-errs; err != nil {
		t.Fatal(err)
	}
	return v
}

func TestSoak(t *testing.T) {
	d, err := time.ParseDuration(os.Getenv("COATI_SOAK"))
	if err != nil || d <= 0 {
		t.Skip("set COATI_SOAK to a duration, like 2m")
	}
	for _, encap := range []string{"udp", "esp"} {
		t.Run(encap, func(t *testing.T) { soakOver(t, encap, d/2) })
	}
}

func soakOver(t *testing.T, encap string, d time.Duration) {
	a, b := twoHosts(t)
	dir := t.TempDir()
	s := &soak{t: t, a: a, b: b}
	var gateways []*daemon
	for _, e := range [][2]host{{a, b}, {b, a}} {
		e[0].ip(t, "addr", "add", inner6(e[0])+"/128", "dev", "lo")
		g, err := e[0].start(t, Config{Settings: soakSettings(t, dir, encap, e[0], e[1]), StateDir: dir, Log: testLog(t, e[0].name)})
		if err != nil {
			t.Fatal(err)
		}
		defer g.stop()
		gateways = append(gateways, g)
	}
	a.ping(t, b.inner)
	a.ping(t, inner6(b))

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for i, e := range []struct {
		from, to host
		v6       bool
	}{{a, b, false}, {b, a, false}, {a, b, true}, {b, a, true}} {
		src, dst := e.from.inner, e.to.inner
		if e.v6 {
			src, dst = inner6(e.from), inner6(e.to)
		}
		s.tcp(ctx, e.from, e.to, src, dst, uint16(7000+i))
		s.udp(ctx, e.from, e.to, src, dst, uint16(8000+i))
	}
	// A flow's queue is its hash's choice: streams are added until each queue has some.
	for i, e := range [][2]host{{a, b}, {b, a}} {
		for n := uint16(0); n < 16 && s.idleQueue(gateways[i]); n++ {
			s.tcp(ctx, e[0], e[1], e[0].inner, e[1].inner, 7100+100*uint16(i)+n)
		}
	}
	s.run(gateways, d)
	stop()
	s.workers.Wait()
	s.judge(gateways)
	for _, g := range gateways {
		g.end(t)
	}
}

// leastFrames is how many frames each queue must carry to count as active.
const leastFrames = 100

// idleQueue says that a queue of a gateway has still carried next to nothing when another has carried a lot.
func (s *soak) idleQueue(g *daemon) bool {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		st, err := g.Status(s.t.Context())
		if err != nil {
			s.t.Fatal(err)
		}
		least, most := st.Gateway.QueueFrames[0].Read, uint64(0)
		for _, q := range st.Gateway.QueueFrames {
			least, most = min(least, q.Read), max(most, q.Read)
		}
		if least >= leastFrames || most >= 100*leastFrames {
			return least < leastFrames
		}
	}
	return false
}

func inner6(h host) string { return "fd00::" + strings.Split(h.inner, ".")[1] }

func soakSettings(t *testing.T, dir, encap string, h, peer host) *config.Config {
	t.Helper()
	psk := filepath.Join(dir, "psk")
	if err := os.WriteFile(psk, []byte("a secret of the test"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, faults := config.Parse("soak.toml", fmt.Appendf(nil, `
[gateway]
tun = "coati0"
control = %q
[tunnel.peer]
remote = %q
psk-file = %q
encap = %q
local-ts = ["%s/32", "%s/128"]
remote-ts = ["%s/32", "%s/128"]
`, filepath.Join(dir, h.name+".sock"), peer.outer, psk, encap, h.inner, inner6(h), peer.inner, inner6(peer)))
	if config.Failed(faults) {
		t.Fatal(faults)
	}
	return c
}

// tcp is one stream of octets that both ends know.
func (s *soak) tcp(ctx context.Context, from, to host, src, dst string, port uint16) {
	t := s.t
	at := netip.AddrPortFrom(netip.MustParseAddr(dst), port)
	l := inside(t, to, func() (*net.TCPListener, error) { return net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at)) })
	out := inside(t, from, func() (*net.TCPConn, error) {
		return net.DialTCP("tcp", &net.TCPAddr{IP: net.ParseIP(src)}, net.TCPAddrFromAddrPort(at))
	})
	in, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	seed := [32]byte{byte(port), byte(port >> 8)}
	sent := make(chan int64, 1)
	s.workers.Go(func() {
		defer out.Close()
		random, block, n := rand.NewChaCha8(seed), make([]byte, soakBlock), int64(0)
		pace(ctx, func() bool {
			random.Read(block)
			if _, err := out.Write(block); err != nil {
				t.Errorf("tcp to %v: %v", at, err)
				return false
			}
			n += int64(len(block))
			return true
		})
		sent <- n
	})
	s.workers.Go(func() {
		defer in.Close()
		random, want, got, n := rand.NewChaCha8(seed), make([]byte, soakBlock), make([]byte, soakBlock), int64(0)
		for {
			k, err := io.ReadFull(in, got)
			if k > 0 {
				random.Read(want)
			}
			if !bytes.Equal(got[:k], want[:k]) {
				t.Errorf("tcp to %v: octets %d to %d are not those that were sent", at, n, n+int64(k))
			}
			n += int64(k)
			s.octets.Add(int64(k))
			if err != nil {
				break
			}
		}
		if want := <-sent; n != want {
			t.Errorf("tcp to %v: %d octets came, %d were sent", at, n, want)
		}
	})
}

// udp is one flow of datagrams of all sizes, each with its number and a checksum.
func (s *soak) udp(ctx context.Context, from, to host, src, dst string, port uint16) {
	t := s.t
	f := &soakFlow{name: fmt.Sprintf("udp to %s port %d", dst, port), to: to, port: port}
	s.flows = append(s.flows, f)
	at := netip.AddrPortFrom(netip.MustParseAddr(dst), port)
	in := inside(t, to, func() (*net.UDPConn, error) { return net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)) })
	_ = in.SetReadBuffer(4 << 20)
	out := inside(t, from, func() (*net.UDPConn, error) {
		return net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(src)}, net.UDPAddrFromAddrPort(at))
	})
	const head = 12 // number, checksum
	done := make(chan struct{})
	s.workers.Go(func() {
		defer close(done)
		defer out.Close()
		random, buf := rand.New(rand.NewPCG(uint64(port), 1)), make([]byte, soakLargest)
		noise := rand.NewChaCha8([32]byte{byte(port)})
		pace(ctx, func() bool {
			for range soakAtOnce {
				size := head + random.IntN(200)
				switch random.IntN(8) {
				case 0:
					size = head + random.IntN(1400)
				case 1:
					size = head + random.IntN(soakLargest-head) // fragments, mostly
				}
				b := buf[:size]
				noise.Read(b[head:])
				binary.BigEndian.PutUint64(b, uint64(f.sent.Load()))
				binary.BigEndian.PutUint32(b[8:], crc32.Update(crc32.ChecksumIEEE(b[:8]), crc32.IEEETable, b[head:]))
				if _, err := out.Write(b); err != nil {
					t.Errorf("%s: %v", f.name, err)
					return false
				}
				f.sent.Add(1)
			}
			return true
		})
	})
	t.Cleanup(func() { in.Close() }) // the kernel forgets with the socket what it dropped
	s.workers.Go(func() { s.receive(f, in, done) })
}

// receive ends when all has come, or nothing more comes after the last was sent.
func (s *soak) receive(f *soakFlow, in *net.UDPConn, done <-chan struct{}) {
	buf, seen, top := make([]byte, soakLargest+1), []uint64{}, uint64(0)
	for {
		select {
		case <-done:
			if f.received.Load() == f.sent.Load() {
				return
			}
		default:
		}
		_ = in.SetReadDeadline(time.Now().Add(soakSettle))
		n, _, err := in.ReadFromUDPAddrPort(buf)
		if err != nil {
			select {
			case <-done:
				return
			default:
				continue
			}
		}
		b := buf[:n]
		if n < 12 || binary.BigEndian.Uint32(b[8:]) != crc32.Update(crc32.ChecksumIEEE(b[:8]), crc32.IEEETable, b[12:]) {
			s.t.Errorf("%s: a datagram of %d octets was changed on the way", f.name, n)
			continue
		}
		seq := binary.BigEndian.Uint64(b)
		for uint64(len(seen)) <= seq/64 {
			seen = append(seen, 0)
		}
		if seen[seq/64]&(1<<(seq%64)) != 0 {
			f.duplicates++
			continue
		}
		seen[seq/64] |= 1 << (seq % 64)
		if seq < top {
			f.early++
		}
		top = max(top, seq)
		f.received.Add(1)
		s.octets.Add(int64(n))
	}
}

// pace calls f again and again until ctx ends or f says false: as fast as a machine does that has other work too.
func pace(ctx context.Context, f func() bool) {
	tick := time.NewTicker(soakPace)
	defer tick.Stop()
	for f() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// run waits, rekeys, and watches memory and goroutines.
func (s *soak) run(gateways []*daemon, d time.Duration) {
	t := s.t
	end := time.After(d)
	rekey := time.NewTicker(min(soakRekey, d/4))
	defer rekey.Stop()
	warm := time.After(min(soakWarmUp, d/4))
	var first soakUse
	targets := []control.Target{{Tunnel: "peer", Child: "peer"}, {Tunnel: "peer"}}
	rekeys := 0
	for {
		select {
		case <-warm:
			first = s.use(gateways)
		case <-rekey.C:
			crossing := rekeys%2 == 1 // both ends at once: one of the two may be told that it lost
			ends := gateways[:1]
			if crossing {
				ends = gateways
			}
			for _, g := range ends {
				target := targets[rekeys/2%2]
				s.workers.Go(func() {
					ctx, stop := context.WithTimeout(context.Background(), soakRekey)
					defer stop()
					if _, err := g.Rekey(ctx, target); err != nil && !crossing {
						t.Errorf("rekey %v: %v", target, err)
					}
				})
			}
			rekeys++
		case <-end:
			last := s.use(gateways)
			t.Logf("%v: %d rekeys; %d MiB of payload, %d frames after the warm-up", d, rekeys, s.octets.Load()>>20, last.frames-first.frames)
			t.Logf("heap %d -> %d KiB, goroutines %d -> %d, %.4f allocations a frame", first.heap>>10, last.heap>>10, first.goroutines, last.goroutines,
				float64(last.mallocs-first.mallocs)/float64(max(1, last.frames-first.frames)))
			if last.heap > first.heap+soakGrowth {
				t.Errorf("the heap grew from %d to %d octets", first.heap, last.heap)
			}
			if last.goroutines > first.goroutines+8 {
				t.Errorf("%d goroutines, %d after the warm-up", last.goroutines, first.goroutines)
			}
			return
		}
	}
}

type soakUse struct {
	heap, mallocs, frames uint64
	goroutines            int
}

func (s *soak) use(gateways []*daemon) soakUse {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u := soakUse{heap: m.HeapAlloc, mallocs: m.Mallocs, goroutines: runtime.NumGoroutine()}
	for _, g := range gateways {
		st, err := g.Status(s.t.Context())
		if err != nil {
			s.t.Fatal(err)
		}
		for _, q := range st.Gateway.QueueFrames {
			u.frames += q.Read + q.Written
		}
	}
	return u
}

// judge holds what is missing against what was counted.
//
// Between the gateways: every packet that left one was handed on by the other, or is under one of its reasons, or found
// no room in its sockets' buffers. On each host: every frame the kernel gave to the TUN was read. And for each flow: what
// is missing was dropped on the way, or by the flow's own socket.
func (s *soak) judge(gateways []*daemon) {
	t := s.t
	quiet(t, gateways)
	hosts := []host{s.a, s.b}
	var counters [2]esp.Counters
	var full, dropped, kernel [2]uint64
	for i, h := range hosts {
		st, err := gateways[i].Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		counters[i] = gateways[i].plane.Counters()
		full[i] = st.Gateway.Drops["socket buffer full"]
		kernel[i] = s.kernelDrops(h)
		t.Logf("%s: %d packets left, %d handed on; drops %v; %d in the kernel; queues %v", h.name, counters[i].PacketsOut, counters[i].PacketsIn,
			st.Gateway.Drops, kernel[i], st.Gateway.QueueFrames)
		for reason, n := range st.Gateway.Drops {
			if reason != esp.DropDummy.String() {
				dropped[i] += n
			}
		}
		for j, q := range st.Gateway.QueueFrames {
			if q.Read < leastFrames {
				t.Errorf("%s: only %d frames came by queue %d", h.name, q.Read, j)
			}
		}
	}
	for i, h := range hosts {
		left, in := counters[1-i].PacketsOut, counters[i].PacketsIn+full[i]
		for r := esp.DropShort; r < esp.DropWriteFailed; r++ {
			in += counters[i].Drops[r.String()]
		}
		if left != in {
			t.Errorf("%d packets left for %s, where %d are accounted for", left, h.name, in)
		}
	}
	for _, f := range s.flows {
		lost := f.sent.Load() - f.received.Load()
		own := s.socketDrops(f.to, f.port)
		t.Logf("%s: %d sent, %d received, %d had no room in the socket, %d overtaken, %d twice", f.name, f.sent.Load(), f.received.Load(), own, f.early, f.duplicates)
		if f.duplicates > 0 {
			t.Errorf("%s: %d datagrams came twice", f.name, f.duplicates)
		}
		if way := int64(dropped[0] + dropped[1] + kernel[0] + kernel[1]); lost < own || lost > own+way {
			t.Errorf("%s: %d datagrams are missing; its socket dropped %d, and on the way %d were", f.name, lost, own, way)
		}
	}
}

// quiet waits until nothing is on its way any more: the last acknowledgements of TCP.
func quiet(t *testing.T, gateways []*daemon) {
	t.Helper()
	var last [4]uint64
	for begin := time.Now(); time.Since(begin) < 10*time.Second; time.Sleep(soakSettle / 10) {
		a, b := gateways[0].plane.Counters(), gateways[1].plane.Counters()
		now := [4]uint64{a.PacketsIn, a.PacketsOut, b.PacketsIn, b.PacketsOut}
		if now == last {
			return
		}
		last = now
	}
	t.Error("packets go on after the last flow has ended")
}

// kernelDrops is what a host's fragment queues and devices had no room for.
func (s *soak) kernelDrops(h host) (n uint64) {
	t := s.t
	lines := strings.Split(h.file(t, "/proc/net/snmp", "/proc/net/snmp6"), "\n")
	for i, line := range lines {
		name, rest, _ := strings.Cut(line, ":")
		if i+1 < len(lines) && name == "Ip" && strings.HasPrefix(lines[i+1], "Ip:") {
			values := strings.Fields(lines[i+1])[1:]
			for j, key := range strings.Fields(rest) {
				if key == "ReasmFails" || key == "OutDiscards" {
					n += number(t, values[j])
				}
			}
		}
		if f := strings.Fields(line); len(f) == 2 && (f[0] == "Ip6ReasmFails" || f[0] == "Ip6OutDiscards") {
			n += number(t, f[1])
		}
	}
	var links []struct {
		Name  string `json:"ifname"`
		Stats struct {
			RX, TX struct{ Dropped uint64 }
		} `json:"stats64"`
	}
	if err := json.Unmarshal([]byte(h.ip(t, "-s", "-j", "link")), &links); err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Stats.RX.Dropped+l.Stats.TX.Dropped > 0 {
			t.Logf("%s: %s dropped %d received, %d to be sent", h.name, l.Name, l.Stats.RX.Dropped, l.Stats.TX.Dropped)
		}
		n += l.Stats.RX.Dropped + l.Stats.TX.Dropped
	}
	return n
}

// socketDrops is what the socket of a port dropped: the last column of its line.
func (s *soak) socketDrops(h host, port uint16) int64 {
	for line := range strings.SplitSeq(h.file(s.t, "/proc/net/udp", "/proc/net/udp6"), "\n") {
		if f := strings.Fields(line); len(f) > 2 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
			return int64(number(s.t, f[len(f)-1]))
		}
	}
	s.t.Errorf("%s: no socket has port %d", h.name, port)
	return 0
}

func (h host) file(t *testing.T, names ...string) string {
	t.Helper()
	out, err := exec.Command("ip", append([]string{"netns", "exec", h.name, "cat"}, names...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func number(t *testing.T, s string) (n uint64) {
	t.Helper()
	if _, err := fmt.Sscan(s, &n); err != nil {
		t.Fatal(err)
	}
	return n
}
