// Package sim runs whole gateways' IKE against each other in one goroutine, on a virtual clock, from one seed.
//
//	world.go     the clock and the queue of what happens next
//	network.go   datagrams: loss, delay, duplication, reordering, size, partitions, NATs
//	attacker.go  somebody on the path who mutates, replays, reflects, injects and floods
//	plane.go     a plane that records SAs and carries numbered packets
//	host.go      one gateway: an engine and its caller's half of the contract
//	scenario.go  named courses of events; a seed and a name are a whole run
//	trace.go     what happened, as lines of JSON and as a sequence diagram
//	check.go     what must hold at the end, whatever happened on the way
//
// Two hosts share nothing but the datagrams between them. Only the checks compare what both know.
package sim

import (
	"container/heap"
	"math/rand/v2"
	"net/netip"
	"time"
)

// World is the clock, the randomness and everything that is to happen.
type World struct {
	Now   time.Time
	Rand  *rand.Rand
	Net   Network
	Hosts []*Host
	// Trace, if set, is told everything that happens, in order.
	Trace func(Entry)
	// OnBoot, if set, sees each host before its engine has tunnels.
	OnBoot func(*Host)
	// Attacker, if set, sits on every path.
	Attacker *Attacker
	// Sequences counts the chains of three transitions, one after the other at one host.
	Sequences map[[3]string]int
	queue     agenda
	seq       uint64
	nats      map[netip.Addr]*NAT
	byAddr    map[netip.Addr]*Host
	seed      uint64
}

// Epoch is when every simulation begins.
var Epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// NewWorld makes an empty world on a perfect network with 10 ms delay.
func NewWorld(seed uint64) *World {
	return &World{
		Now: Epoch, Rand: rand.New(rand.NewPCG(seed, 0x636f617469)), Net: Network{Delay: 10 * time.Millisecond},
		nats: map[netip.Addr]*NAT{}, byAddr: map[netip.Addr]*Host{}, Sequences: map[[3]string]int{}, seed: seed,
	}
}

// After schedules something.
func (w *World) After(d time.Duration, f func()) {
	w.seq++
	heap.Push(&w.queue, &happening{w.Now.Add(d), w.seq, f})
}

// Run lets the world go on for a while.
func (w *World) Run(d time.Duration) {
	w.RunUntil(d, func() bool { return false })
}

// RunUntil lets the world go on until a condition holds, at most for a while; it says whether the condition holds.
func (w *World) RunUntil(d time.Duration, cond func() bool) bool {
	end := w.Now.Add(d)
	for !cond() {
		if len(w.queue) == 0 || w.queue[0].at.After(end) {
			w.Now = end
			return cond()
		}
		h := heap.Pop(&w.queue).(*happening)
		if h.at.After(w.Now) {
			w.Now = h.at
		}
		h.do()
	}
	return true
}

type happening struct {
	at  time.Time
	seq uint64
	do  func()
}

type agenda []*happening

func (a agenda) Len() int { return len(a) }
func (a agenda) Less(i, j int) bool {
	if a[i].at.Equal(a[j].at) {
		return a[i].seq < a[j].seq
	}
	return a[i].at.Before(a[j].at)
}
func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)   { *a = append(*a, x.(*happening)) }
func (a *agenda) Pop() any {
	o := *a
	x := o[len(o)-1]
	*a = o[:len(o)-1]
	return x
}
