package esp

import (
	"crypto/rand"
	"encoding/binary"
	"errors"

	"coati/esp/batch"
	"coati/packet"
	"coati/policy"
)

const (
	// maxRun is how many packets one call to Egress may have: the kernel's UDP_MAX_SEGMENTS before Linux 6.9.
	maxRun = 64
	// maxRunOctets fits one UDP datagram in IPv4: 65535 - 20 - 8.
	maxRunOctets = 65507
	// sealBatch is how many packets are sealed together: as many as go side by side in the widest kernels.
	sealBatch = 16
)

// sealer owns the buffers of one outbound queue's last stages.
type sealer struct {
	// out has room behind a run for a packet that is built with the header it loses (transport mode).
	out   [maxRunOctets + packet.IPv6Len]byte
	jobs  [sealBatch]batch.Job
	ivs   [sealBatch * 16]byte
	ready departure
}

// departure is a run of inner packets that lie in out, each where it will be sealed. They have no sequence numbers yet,
// so that other queues of the SA need not wait for them.
type departure struct {
	sa     *outSA
	tos    byte
	stride int
	run    int  // the most packets there may be
	count  int  // 0: nothing waits
	last   bool // nothing can follow: the last packet is shorter
	loaded bool // all are of the loaded frame
	// fragments says that what leaves may be fragmented on its way.
	fragments bool
	length    [maxRun]uint16
	next      [maxRun]byte
}

// protect sends the loaded frame on an SA, or lets its end wait for more in ready.
func (o *Outbound) protect(sa *outSA) {
	if sa.tr.transport && o.info.Fragment {
		o.reassemble(sa)
		return
	}
	mtu := int(sa.mtu.Load())
	if o.syn() {
		clampMSS(o.plan.pkt, &o.info, mtu, sa.config.MSS)
	}
	if mtu > 0 && o.plan.length() > mtu {
		o.tooBig(sa, mtu)
		return
	}
	o.depart(sa)
}

// depart gathers the packets of the plan, and sends whenever the run is complete.
func (o *Outbound) depart(sa *outSA) {
	s, r := &o.plan, &o.ready
	o.bare = 0
	if sa.tr.transport && !o.strip(sa) {
		return
	}
	if o.ownHeader(sa) {
		o.sendHeaded(sa)
		return
	}
	tos := sa.outerTOS(o.info.TOS)
	stride := sa.tr.sealedLen(max(s.length()-o.bare, sa.tfcLen()))
	if stride > maxRunOctets {
		o.drop(sa, DropTooBig, s.count)
		return
	}
	for i := 0; i < s.count; {
		if r.count > 0 && !r.takes(sa, tos, stride, s.count) {
			o.Flush()
		}
		if r.count == 0 {
			r.sa, r.tos, r.stride, r.run = sa, tos, stride, min(maxRun, maxRunOctets/stride)
			r.loaded, r.last = true, false
		}
		n := min(r.run-r.count, s.count-i)
		o.gather(i, n)
		i += n
		if r.last || r.count == r.run {
			o.Flush()
		}
	}
}

// takes says whether packets can follow: they may be longer than none before them, and shorter only if it is one.
func (r *departure) takes(sa *outSA, tos byte, stride, count int) bool {
	return r.sa == sa && r.tos == tos && (stride == r.stride || stride < r.stride && count == 1)
}

// gather builds n packets of the plan from packet i on.
func (o *Outbound) gather(i, n int) {
	r := &o.ready
	head := packet.ESPLen + r.sa.tr.ivLen
	next := byte(packet.ProtoIPv6)
	if o.plan.v4 {
		next = packet.ProtoIPv4
	}
	length := 0
	for end := i + n; i < end; i++ {
		dst := o.out[r.count*r.stride+head:]
		length = o.plan.build(i, dst)
		switch tfc := r.sa.tfcLen(); {
		case r.sa.tr.transport:
			length, next = o.bareLen(dst, length), o.bareNext
		case length < tfc:
			clear(dst[length:tfc])
			length = tfc
		}
		r.length[r.count], r.next[r.count] = uint16(length), next
		r.count++
	}
	r.last = r.sa.tr.sealedLen(length) < r.stride
	o.gathered = true
}

// Flush sends what Process left waiting for more.
func (o *Outbound) Flush() {
	r := &o.ready
	sa, n := r.sa, r.count
	if n == 0 {
		return
	}
	if sa.usage.expired.Load() {
		o.reroute()
		return
	}
	r.count, r.sa = 0, nil
	first, got := sa.reserve(n)
	if first >= sa.soft {
		o.plane.tellSoft(&sa.usage, &sa.config)
	}
	now := o.plane.clock.Load()
	if got < n {
		o.drop(sa, DropExhausted, n-got)
		if sa.reserved.Load() == sa.limit {
			sa.usage.expired.Store(true)
			o.plane.checkLifetime(&sa.usage, &sa.config, now)
		}
		if got == 0 {
			return
		}
	}
	var octets, inner int
	for i := 0; i < got; i += sealBatch {
		octets, inner = o.sealSome(sa, i, min(sealBatch, got-i), first+uint64(i), inner)
	}
	sa.turn.wait(first - 1)
	err := o.send(sa, o.out[:octets])
	sa.turn.pass(first + uint64(got) - 1)
	if err != nil {
		o.sendFailed(sa, err, got)
		return
	}
	o.plane.count.packetsOut.Add(uint64(got))
	sa.usage.count(got, inner, now)
	if sa.config.Lifetime != (policy.Lifetime{}) {
		o.plane.checkLifetime(&sa.usage, &sa.config, now)
	}
}

// send gives the sealed run to the network.
func (o *Outbound) send(sa *outSA, run []byte) error {
	r := &o.ready
	if !r.fragments {
		return o.plane.config.Egress.SendESP(sa.path.Load(), r.tos, run, r.stride)
	}
	f, ok := o.plane.config.Egress.(Fragmenter)
	if !ok {
		return ErrTooBig
	}
	return f.SendESPInFragments(sa.path.Load(), r.tos, run, r.stride)
}

// mostReroutes is how many SAs in a row may end with the same packets gathered.
const mostReroutes = 4

// reroute looks for another SA for gathered packets whose SA has ended: a rekey replaced it meanwhile. Whoever ends one after
// the other loses packets.
func (o *Outbound) reroute() {
	if o.rerouting == mostReroutes {
		o.drop(o.ready.sa, DropExpired, o.ready.count)
		o.ready.count, o.ready.sa = 0, nil
		return
	}
	frames := o.recall()
	if o == o.plane.own {
		// They came from a queue of packets that wait, and go back there: Plane.ownMu is locked.
		o.returned = append(o.returned, frames...)
		return
	}
	// The loaded frame comes after them, and is not theirs.
	before, fragments := o.loaded, o.ready.fragments
	o.loaded, o.ready.fragments = loaded{}, false
	o.rerouting++
	for _, f := range frames {
		o.ready.loaded = false
		o.carry(f)
	}
	o.Flush()
	o.loaded, o.ready.fragments = before, fragments
	o.rerouting--
}

// recall takes the gathered packets back as frames.
func (o *Outbound) recall() [][]byte {
	r := &o.ready
	sa, frames := r.sa, make([][]byte, r.count)
	for i := range frames {
		at := i*r.stride + packet.ESPLen + sa.tr.ivLen
		frames[i] = make([]byte, packet.VirtioLen)
		if inner := o.out[at : at+int(r.length[i])]; sa.tr.transport {
			frames[i] = reheader(frames[i], sa.path.Load(), r.tos, r.next[i], inner)
		} else {
			frames[i] = append(frames[i], inner...)
		}
	}
	r.count, r.sa = 0, nil
	return frames
}

// sealSome seals k gathered packets from packet i on, with sequence numbers from seq on. It returns where they end, and
// inner plus the octets of the inner packets.
func (o *Outbound) sealSome(sa *outSA, i, k int, seq uint64, inner int) (int, int) {
	t, r := &sa.tr, &o.ready
	if t.randomIV() {
		_, _ = rand.Read(o.ivs[:k*16])
	}
	for j := range k {
		n := int(r.length[i+j])
		inner += n
		o.encapsulate(sa, &o.jobs[j], o.out[(i+j)*r.stride:], n, r.next[i+j], seq+uint64(j), j)
	}
	t.key.Seal(o.jobs[:k])
	end := i + k - 1
	return end*r.stride + t.sealedLen(int(r.length[end])), inner
}

// encapsulate writes everything of an ESP packet but the inner packet of n octets, which is there already (RFC 4303,
// section 2), and makes it a job.
func (o *Outbound) encapsulate(sa *outSA, job *batch.Job, dst []byte, n int, next byte, seq uint64, slot int) {
	t := &sa.tr
	esp := packet.ESP(dst)
	esp.SetSPI(uint32(sa.config.SPI))
	esp.SetSequence(uint32(seq))
	head := packet.ESPLen + t.ivLen
	padded := t.padded(n)
	text := dst[head : head+padded]
	pad := padded - n - espTrailer
	for i := range pad {
		text[n+i] = byte(i + 1)
	}
	text[padded-2], text[padded-1] = byte(pad), next
	iv := dst[packet.ESPLen:head]
	switch {
	case t.randomIV():
		copy(iv, o.ivs[slot*16:])
	case len(iv) > 0:
		binary.BigEndian.PutUint64(iv, seq)
	}
	t.job(job, dst, padded, sa.config.ESN, seq)
}

func (o *Outbound) sendFailed(sa *outSA, err error, n int) {
	if !errors.Is(err, ErrTooBig) {
		o.drop(sa, DropSendFailed, n)
		return
	}
	o.drop(sa, DropTooBig, n)
	if e, ok := o.plane.config.Egress.(PathMTUer); ok {
		if mtu := e.PathMTU(sa.path.Load()); mtu > 0 {
			sa.setOuterMTU(mtu)
			if inner := int(sa.mtu.Load()); o.ready.loaded && o.plan.length() > inner {
				o.answerTooBig(inner)
			}
		}
	}
}
