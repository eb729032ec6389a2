package sim

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

// Attacker sees every datagram of IKE, and may write any datagram with any source. It holds no keys. It can keep datagrams
// from arriving only as far as Drop says. Probabilities are per datagram seen.
type Attacker struct {
	Mutate  float64 // a changed copy arrives first
	Replay  float64 // an old datagram arrives again, perhaps from elsewhere
	Reflect float64 // the sender gets its own datagram
	Inject  float64 // garbage with the SPIs of a live SA and a likely message ID
	Drop    float64
	// Fragment writes, per IKE fragment (RFC 7383) seen, another with its SPIs: its neighbour, one of a larger set, or a number that cannot be; and
	// DropFragment keeps a fragment from arriving.
	Fragment, DropFragment float64
	// Forged counts what it wrote.
	Forged uint64
	seen   []Datagram
}

const remembered = 64 // datagrams the attacker can replay

// sees says whether the datagram is kept from arriving.
func (a *Attacker) sees(w *World, d Datagram) bool {
	if d.ESP != nil {
		return false
	}
	if len(a.seen) < remembered {
		a.seen = append(a.seen, d)
	} else {
		a.seen[w.Rand.IntN(remembered)] = d
	}
	if w.Rand.Float64() < a.Mutate {
		c := d
		c.Bytes = slices.Clone(d.Bytes)
		for range 1 + w.Rand.IntN(4) {
			c.Bytes[w.Rand.IntN(len(c.Bytes))] ^= byte(1 << w.Rand.IntN(8))
		}
		if w.Rand.IntN(4) == 0 {
			c.Bytes = c.Bytes[:w.Rand.IntN(len(c.Bytes))]
		}
		a.write(w, c)
	}
	if w.Rand.Float64() < a.Replay {
		c := a.seen[w.Rand.IntN(len(a.seen))]
		if w.Rand.IntN(2) == 0 {
			c.From = netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(w.Rand.IntN(256))}), 500)
		}
		a.write(w, c)
	}
	if w.Rand.Float64() < a.Reflect {
		a.write(w, Datagram{From: d.To, To: d.From, Bytes: d.Bytes})
	}
	if w.Rand.Float64() < a.Inject && len(d.Bytes) >= 28 {
		c := d
		c.Bytes = slices.Clone(d.Bytes[:28])
		for range 4 + w.Rand.IntN(60) {
			c.Bytes = append(c.Bytes, byte(w.Rand.Uint32()))
		}
		c.Bytes[16], c.Bytes[18] = 46, byte(34+w.Rand.IntN(5))
		if w.Rand.IntN(2) == 0 {
			c.Bytes[19] ^= 0x20
		}
		binary.BigEndian.PutUint32(c.Bytes[20:], uint32(w.Rand.IntN(6)))
		binary.BigEndian.PutUint32(c.Bytes[24:], uint32(len(c.Bytes)))
		a.write(w, c)
	}
	if isFragment(d.Bytes) {
		if w.Rand.Float64() < a.Fragment {
			a.write(w, forgedFragment(w, d))
		}
		if w.Rand.Float64() < a.DropFragment {
			return true
		}
	}
	return w.Rand.Float64() < a.Drop
}

const payloadSKF = 53

func isFragment(b []byte) bool { return len(b) >= 36 && b[16] == payloadSKF }

// forgedFragment is a fragment with the content of another place.
func forgedFragment(w *World, d Datagram) Datagram {
	d.Bytes = slices.Clone(d.Bytes)
	number, total := binary.BigEndian.Uint16(d.Bytes[32:]), binary.BigEndian.Uint16(d.Bytes[34:])
	switch w.Rand.IntN(4) {
	case 0:
		number = number%total + 1
	case 1:
		total += uint16(1 + w.Rand.IntN(200))
	case 2:
		number, total = total+1, total-1
	default:
		total = 65535
	}
	binary.BigEndian.PutUint16(d.Bytes[32:], number)
	binary.BigEndian.PutUint16(d.Bytes[34:], total)
	return d
}

func (a *Attacker) write(w *World, d Datagram) {
	a.Forged++
	w.traceDatagram("forged", d)
	w.After(time.Duration(w.Rand.Int64N(int64(20*time.Millisecond))), func() { w.deliver(d) })
}

// Flood sends first requests that look genuine from changing addresses, n in all, evenly over a while. Their octets are
// those of a real one, with other SPIs and nonces.
func (w *World) Flood(first Datagram, n int, over time.Duration) {
	gap := over / time.Duration(n)
	var one func(i int)
	one = func(i int) {
		d := first
		d.Bytes = slices.Clone(first.Bytes)
		binary.BigEndian.PutUint64(d.Bytes, uint64(i)+1<<40)
		d.From = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 500)
		w.deliver(d)
		if i+1 < n {
			w.After(gap, func() { one(i + 1) })
		}
	}
	one(0)
}
