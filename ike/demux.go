package ike

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"time"
)

// From a datagram to the machine it is for, and the bounds on machines that anybody can have us make.

// header is what both versions share (RFC 7296, section 3.1; RFC 2408, section 3.1).
type header struct {
	spiI, spiR uint64
	version    uint8
	fromInit   bool // v2: the sender is the original initiator
}

const headerLen = 28

func parseHeader(b []byte) (header, bool) {
	if len(b) < headerLen || binary.BigEndian.Uint32(b[24:]) != uint32(len(b)) {
		return header{}, false
	}
	return header{
		spiI: binary.BigEndian.Uint64(b), spiR: binary.BigEndian.Uint64(b[8:]), version: b[17] >> 4, fromInit: b[19]&0x08 != 0,
	}, true
}

func (e *Engine) datagram(now time.Time, d Datagram, out *Out) error {
	h, ok := parseHeader(d.Bytes)
	if !ok || h.spiI == 0 {
		e.Stats.Malformed++
		return nil
	}
	if en := e.find(h); en != nil {
		if en.sa.Brief().Version != h.version {
			e.Stats.WrongVersion++
			return nil
		}
		return e.run(now, en, d, out)
	}
	key := initialKey(d)
	if en := e.initial[key]; en != nil {
		return e.run(now, en, d, out)
	}
	p := e.protocols[min(h.version, maxVersion(e.protocols))]
	if p == nil {
		e.Stats.NoProtocol++
		return nil
	}
	if e.leaving {
		return nil
	}
	if h.spiR == 0 {
		switch l := &e.env.Limits; {
		case e.halfAll >= l.HalfOpenMax:
			e.Stats.HalfOpenFull++
			return nil
		case e.halfOpen[d.Path.Remote.Addr()] >= l.HalfOpenPerAddressMax:
			e.Stats.AddressFull++
			return nil
		case e.halfJobs >= l.HalfOpenJobs:
			e.Stats.JobsFull++
			return nil
		}
	}
	sa, err := p.Respond(&e.env, now, d, out)
	if err != nil {
		return err
	}
	if sa == nil {
		if h.spiR != 0 {
			e.Stats.UnknownSPI++
		}
		return nil
	}
	en := e.add(sa, now)
	en.half, en.initial = d.Path.Remote.Addr(), key
	e.initial[key] = en
	e.halfOpen[en.half]++
	e.halfAll++
	return e.after(now, en, mark{}, out)
}

func maxVersion(m map[uint8]Protocol) uint8 {
	var v uint8
	for k := range m {
		v = max(v, k)
	}
	return v
}

// find demultiplexes by version and our own SPI. In v2 a flag says whose is whose; in v1 either cookie may be ours. The
// machine checks the peer's SPI.
func (e *Engine) find(h header) *entry {
	if h.version >= 2 {
		if h.fromInit {
			return e.entries[h.spiR]
		}
		return e.entries[h.spiI]
	}
	if en := e.entries[h.spiI]; en != nil {
		return en
	}
	return e.entries[h.spiR]
}

// initialKey names a first request by its peer and all its octets: a repetition is the same, anything else is not.
func initialKey(d Datagram) (k [16]byte) {
	h := sha256.New()
	a := d.Path.Remote.Addr().As16()
	h.Write(a[:])
	h.Write([]byte{byte(d.Path.Remote.Port() >> 8), byte(d.Path.Remote.Port())})
	h.Write(d.Bytes)
	copy(k[:], h.Sum(nil))
	return k
}

// settled takes an SA out of the half-open count.
func (e *Engine) settled(en *entry) {
	if !en.half.IsValid() {
		return
	}
	if e.halfOpen[en.half]--; e.halfOpen[en.half] <= 0 {
		delete(e.halfOpen, en.half)
	}
	e.halfAll--
	en.half = netip.Addr{}
	delete(e.initial, en.initial)
}
