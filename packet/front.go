package packet

import "net/netip"

// Front is what stands between an IP header and a packet of transport mode, for nodes on the way: IPv4 options, or IPv6 extension
// headers (RFC 4303, section 3.1.1). It came with the packet, and nobody has authenticated it.
type Front struct {
	Octets []byte // without the IP header; nil: nothing stands there
	First  byte   // of IPv6: the protocol number of the first header
	Cut    bool   // it is not all of it
}

// maxOptions is what an IPv4 header has room for, octets.
const maxOptions = 60 - IPv4Len

// Fits4 says whether the front is IPv4 options that fill their part of a header.
func (f *Front) Fits4() bool {
	b := f.Octets
	if f.Cut || len(b) > maxOptions || len(b)%4 != 0 {
		return false
	}
	for len(b) > 0 {
		n := optionLen(b)
		if n == 0 {
			return false
		}
		if b[0] == optionEnd {
			return true
		}
		b = b[n:]
	}
	return true
}

// Fits6 says whether the front is a chain of hop-by-hop, routing and destination options headers of which nothing is left to do
// on the way, and where the last of them begins.
func (f *Front) Fits6() (last int, ok bool) {
	b, next := f.Octets, f.First
	if f.Cut || len(b) == 0 {
		return 0, !f.Cut
	}
	for at, n := 0, 0; ; n++ {
		if len(b)-at < 8 || n == maxExtensionHeaders-1 {
			return 0, false
		}
		switch next {
		case ProtoHopByHop:
			if at != 0 {
				return 0, false
			}
		case ProtoRouting:
			if b[at+3] != 0 { // segments left (RFC 8200, section 4.4): the packet is not for us
				return 0, false
			}
		case ProtoDestOpts:
		default:
			return 0, false
		}
		size := 8 + 8*int(b[at+1])
		switch rest := len(b) - at; {
		case size > rest:
			return 0, false
		case size == rest:
			return at, true
		}
		next, at = b[at], at+size
	}
}

// IPv4 options (RFC 791, section 3.1).
const (
	optionEnd         = 0
	optionNop         = 1
	optionRecordRoute = 7
	optionTimestamp   = 68
)

// optionLen is how many octets the first option has; 0: it does not end within b.
func optionLen(b []byte) int {
	if b[0] == optionEnd || b[0] == optionNop {
		return 1
	}
	if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
		return 0
	}
	return int(b[1])
}

// Unrecord takes out of IPv4 options what this host's kernel has recorded there when the packet came in: it will record the same when
// it is given the packet a second time. local is the address the packet came to. Options it cannot read stay.
func Unrecord(options []byte, local netip.Addr) {
	if !local.Is4() {
		return
	}
	for here := local.As4(); len(options) > 0; {
		n := optionLen(options)
		if n == 0 || options[0] == optionEnd {
			return
		}
		switch o := options[:n]; options[0] {
		case optionRecordRoute:
			unrecordRoute(o, here)
		case optionTimestamp:
			unrecordTime(o, here)
		}
		options = options[n:]
	}
}

// unrecordRoute: type, length, pointer to the next slot from 1 on, slots of an address.
func unrecordRoute(o []byte, here [4]byte) {
	const first, slot = 3, 4
	if len(o) < first {
		return
	}
	at := int(o[2]) - 1 - slot
	if at < first || at+slot > len(o) || [4]byte(o[at:at+slot]) != here {
		return
	}
	clear(o[at : at+slot])
	o[2] -= slot
}

// unrecordTime: type, length, pointer, overflow and flag, slots of a time or of an address and a time.
func unrecordTime(o []byte, here [4]byte) {
	const first, timesOnly, withAddress, ofAddress = 4, 0, 1, 3
	if len(o) < first {
		return
	}
	flag, slot := o[3]&0xf, 8
	if flag == timesOnly {
		slot = 4
	}
	if o[3]>>4 > 0 && flag != ofAddress {
		o[3] -= 1 << 4 // nobody finds a slot when one before found none
		return
	}
	at := int(o[2]) - 1 - slot
	if at < first || at+slot > len(o) {
		return
	}
	switch flag {
	case timesOnly:
	case withAddress, ofAddress:
		if [4]byte(o[at:at+4]) != here {
			return
		}
		if flag == withAddress {
			clear(o[at : at+4])
		}
	default:
		return
	}
	clear(o[at+slot-4 : at+slot])
	o[2] -= byte(slot)
}
