package esp

import (
	"encoding/binary"
	"net/netip"

	"coati/esp/batch"
	"coati/packet"
	"coati/policy"
)

// Datagrams is what one receive gave: equal datagrams of SegSize octets, of which the last may be shorter, from one
// source. Encap says whether they are UDP payloads of port 4500 or raw ESP.
type Datagrams struct {
	Buf     []byte
	SegSize int // 0: one datagram
	From    netip.AddrPort
	Local   netip.AddrPort
	TOS     byte // outer type of service or traffic class
	Encap   policy.Encap
	// Front is what stood in front of each of the datagrams; transport mode hands it on.
	Front packet.Front
}

// openBatch is how many packets are opened together, by a goroutine that works alone.
const openBatch = 64

// arrival is an ESP packet on its way to being opened.
type arrival struct {
	sa  *inSA
	seq uint64
	esp []byte
	run *Datagrams
}

// opened says which jobs are of one SA.
type opened struct {
	sa       *inSA
	from, to int
}

// Inbound is one queue from the network to a TUN. It belongs to one goroutine.
type Inbound struct {
	plane    *Plane
	held     bool // what is sorted waits for decrypt and deliver, however much it is
	arrivals []arrival
	jobs     []batch.Job
	at       []int // arrivals index of each job
	runs     []opened
	info     packet.Info
	join     joiner
	restored []byte // what transport mode made packets of, until they are written
	used     int    // octets of restored
	// The last flow that an SA's selectors took, so that the next packet of it need not be matched again.
	lastKey packet.FlowKey
	lastSA  *inSA
}

// NewInbound makes a queue that writes frames to the queues w, at least one: each flow to one of them.
func (p *Plane) NewInbound(w ...FrameWriter) *Inbound {
	in := &Inbound{
		plane: p, arrivals: make([]arrival, 0, openBatch), jobs: make([]batch.Job, openBatch), at: make([]int, openBatch),
		runs: make([]opened, 0, openBatch),
	}
	in.join.init(p, w)
	return in
}

// Receive carries what was received. Buffers are decrypted in place and free again on return.
func (in *Inbound) Receive(runs []Datagrams) {
	in.sortAll(runs)
	in.flush()
	in.join.flushAll()
}

func (in *Inbound) sortAll(runs []Datagrams) {
	for i := range runs {
		r := &runs[i]
		size := r.SegSize
		if size <= 0 {
			size = len(r.Buf)
		}
		for buf := r.Buf; len(buf) > 0; {
			n := min(size, len(buf))
			in.sort(buf[:n:n], r)
			buf = buf[n:]
		}
	}
}

// sort tells apart what shares a port (RFC 3948, sections 2.1 to 2.3).
func (in *Inbound) sort(b []byte, run *Datagrams) {
	p := in.plane
	if run.Encap == policy.EncapUDP {
		if len(b) == 1 && b[0] == 0xff {
			p.count.keepalives.Add(1)
			return
		}
		if len(b) >= 4 && binary.BigEndian.Uint32(b) == 0 {
			if p.config.IKE == nil {
				p.count.drops.add(DropUnknownSPI, 1)
				return
			}
			p.config.IKE(policy.Path{Local: run.Local, Remote: run.From, Encap: policy.EncapUDP}, b[4:])
			return
		}
	}
	if len(b) < packet.ESPLen {
		p.count.drops.add(DropShort, 1)
		return
	}
	spi := packet.ESP(b).SPI()
	sa := p.inbound.find(spi)
	if sa == nil {
		if in.keep(policy.SPI(spi), b, run) {
			return
		}
		if sa = p.inbound.find(spi); sa == nil {
			p.count.drops.add(DropUnknownSPI, 1)
			return
		}
	}
	in.arrive(sa, b, run)
}

func (in *Inbound) arrive(sa *inSA, b []byte, run *Datagrams) {
	if len(in.arrivals) == openBatch && !in.held {
		in.flush()
	}
	if n := len(in.arrivals); n < cap(in.arrivals) {
		in.arrivals = in.arrivals[:n+1] // cleared by deliver
		a := &in.arrivals[n]
		a.sa, a.esp, a.run = sa, b, run
		return
	}
	in.arrivals = append(in.arrivals, arrival{sa: sa, esp: b, run: run})
}

// flush opens what has arrived.
func (in *Inbound) flush() {
	in.decrypt()
	in.deliver()
}

// decrypt opens what has arrived, one SA after the other (RFC 4303, section 3.4). It changes nothing that anybody else
// sees: several goroutines may do it at a time, whatever came first.
func (in *Inbound) decrypt() {
	for len(in.jobs) < len(in.arrivals) {
		in.jobs, in.at = append(in.jobs, batch.Job{}), append(in.at, 0)
	}
	jobs := 0
	for from := 0; from < len(in.arrivals); {
		sa, to := in.arrivals[from].sa, from+1
		for to < len(in.arrivals) && in.arrivals[to].sa == sa {
			to++
		}
		if sa.usage.expired.Load() {
			in.drop(sa, DropExpiredIn, to-from)
		} else if n := in.screen(sa, from, to, jobs); n > jobs {
			sa.tr.key.Open(in.jobs[jobs:n])
			in.runs = append(in.runs, opened{sa, jobs, n})
			jobs = n
		}
		from = to
	}
}

// deliver hands on what decrypt opened, in the order of arrival.
func (in *Inbound) deliver() {
	for _, r := range in.runs {
		in.admit(r.sa, r.from, r.to)
		var packets, octets int
		for j := r.from; j < r.to; j++ {
			if !in.jobs[j].OK {
				continue
			}
			if n := in.unwrap(r.sa, r.sa.tr.text(&in.jobs[j]), in.arrivals[in.at[j]].run); n > 0 {
				packets++
				octets += n
			}
		}
		in.authenticated(r.sa, r.from, r.to, packets, octets)
	}
	clear(in.arrivals)
	clear(in.runs)
	in.arrivals, in.runs = in.arrivals[:0], in.runs[:0]
}

// screen makes jobs, from number jobs on, of the arrivals that have a fitting length and a fresh sequence number. It
// returns the number of the next job.
func (in *Inbound) screen(sa *inSA, from, to, jobs int) int {
	t := &sa.tr
	head := packet.ESPLen + t.ivLen
	sa.mu.Lock()
	defer sa.mu.Unlock()
	for i := from; i < to; i++ {
		a := &in.arrivals[i]
		text := len(a.esp) - head - t.icvLen
		if text < espTrailer || text&(t.align-1) != 0 {
			in.drop(sa, DropShort, 1)
			continue
		}
		a.seq = sa.window.infer(packet.ESP(a.esp).Sequence())
		if !sa.window.fresh(a.seq) {
			in.drop(sa, DropReplay, 1)
			continue
		}
		in.at[jobs] = i
		t.job(&in.jobs[jobs], a.esp, text, sa.config.ESN, a.seq)
		jobs++
	}
	return jobs
}

// admit moves the window over what was authentic. Another goroutine may have had the same packet since screen looked:
// looking again and marking is one step under the lock, so one of the two loses.
func (in *Inbound) admit(sa *inSA, from, to int) {
	sa.mu.Lock()
	defer sa.mu.Unlock()
	for j := from; j < to; j++ {
		job := &in.jobs[j]
		if !job.OK {
			in.drop(sa, DropAuthentication, 1)
			continue
		}
		if !sa.window.accept(in.arrivals[in.at[j]].seq) {
			job.OK = false
			in.drop(sa, DropReplay, 1)
		}
	}
}

// authenticated notes what some jobs prove: that the peer lives, where it is, and that the SA is in use.
func (in *Inbound) authenticated(sa *inSA, from, to, packets, octets int) {
	p := in.plane
	var last *Datagrams
	for j := to - 1; j >= from && last == nil; j-- {
		if in.jobs[j].OK {
			last = in.arrivals[in.at[j]].run
		}
	}
	if last == nil {
		return
	}
	now := p.clock.Load()
	sa.authenticated.Store(now)
	sa.usage.count(packets, octets, now)
	p.count.packetsIn.Add(uint64(packets))
	if !sa.toldUsed.Load() {
		p.tellUsed(sa)
	}
	if last.Encap == policy.EncapUDP {
		p.noteSource(sa, last)
	}
	if sa.config.Lifetime != (policy.Lifetime{}) {
		p.checkLifetime(&sa.usage, &sa.config, now)
	}
}

func (p *Plane) tellUsed(sa *inSA) {
	if sa.toldUsed.CompareAndSwap(false, true) && !p.emit(policy.PlaneEvent{Kind: policy.PlaneUsed, SA: sa.config.ID}) {
		sa.toldUsed.Store(false)
	}
}

// noteSource tells of a peer whose address or port is not the path's any more: a NAT gave it another (RFC 7296, section
// 2.23). Every address is told once until the path is updated.
func (p *Plane) noteSource(sa *inSA, run *Datagrams) {
	path := sa.path.Load()
	if path.Encap != policy.EncapUDP || path.Remote == run.From {
		return
	}
	if told := sa.moved.Load(); told != nil && told.Remote == run.From {
		return
	}
	if p.emit(policy.PlaneEvent{Kind: policy.PlaneMapping, SA: sa.config.ID, Remote: run.From}) {
		sa.moved.Store(&policy.Path{Remote: run.From})
	}
}

func (in *Inbound) drop(sa *inSA, why Reason, n int) {
	sa.usage.drops.add(why, n)
	in.plane.count.drops.add(why, n)
}
