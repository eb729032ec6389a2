package xfrm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// The structures of linux/xfrm.h as 64-bit machines lay them out. Numbers are in the machine's order, but for ports and
// SPIs, which are in the network's.

var (
	native = binary.NativeEndian
	be     = binary.BigEndian
)

// Message types.
const (
	msgNewSA     = 0x10
	msgDelSA     = 0x11
	msgGetSA     = 0x12
	msgNewPolicy = 0x13
	msgDelPolicy = 0x14
	msgGetPolicy = 0x15
	msgAllocSPI  = 0x16
	msgAcquire   = 0x17
	msgExpire    = 0x18
	msgUpdPolicy = 0x19
	msgMapping   = 0x26
)

// Attributes.
const (
	attrAlgAuth      = 1
	attrAlgCrypt     = 2
	attrEncap        = 4
	attrTmpl         = 5
	attrReplayVal    = 10
	attrLastUsed     = 15
	attrAlgAEAD      = 18
	attrAlgAuthTrunc = 20
	attrReplayESN    = 23
	attrOffload      = 28
	attrSetMark      = 29
	attrSetMarkMask  = 30
)

// Sizes, octets.
const (
	sizeMessage   = 16 // nlmsghdr
	sizeAttr      = 4
	sizeSelector  = 56
	sizeState     = 224 // xfrm_usersa_info
	sizeStateID   = 24  // xfrm_usersa_id
	sizePolicy    = 168 // xfrm_userpolicy_info
	sizePolicyID  = 64  // xfrm_userpolicy_id
	sizeTmpl      = 64
	sizeAcquire   = 280
	sizeExpire    = 232
	sizeMapping   = 64
	sizeSPIRange  = sizeState + 8 // xfrm_userspi_info
	sizeEncap     = 24
	sizeAlgName   = 64
	sizeReplayESN = 24
)

const (
	familyIPv4 = 2
	familyIPv6 = 10

	protoESP = 50

	modeTransport = 0
	modeTunnel    = 1

	dirIn  = 0
	dirOut = 1
	dirFwd = 2

	actionAllow = 0
	actionBlock = 1

	flagNoPMTUDisc = 4
	flagAFUnspec   = 32
	flagESN        = 128

	encapESPInUDP = 2

	// infinite is no limit (XFRM_INF).
	infinite = ^uint64(0)
)

// errMessage: what came is no message of XFRM's.
var errMessage = errors.New("malformed xfrm message")

func familyOf(a netip.Addr) uint16 {
	if a.Is4() || a.Is4In6() {
		return familyIPv4
	}
	return familyIPv6
}

// putAddr writes an xfrm_address_t; an invalid address is left zero.
func putAddr(b []byte, a netip.Addr) {
	a = a.Unmap()
	switch {
	case a.Is4():
		v := a.As4()
		copy(b[:16], v[:])
	case a.IsValid():
		v := a.As16()
		copy(b[:16], v[:])
	}
}

func getAddr(b []byte, family uint16) netip.Addr {
	switch family {
	case familyIPv4:
		return netip.AddrFrom4([4]byte(b[:4]))
	case familyIPv6:
		return netip.AddrFrom16([16]byte(b[:16]))
	}
	return netip.Addr{}
}

// selector is xfrm_selector.
type selector struct {
	Dst, Src                           netip.Prefix
	DstPort, DstMask, SrcPort, SrcMask uint16
	Proto                              uint8
	Family                             uint16 // zero: selects everything
}

func (s *selector) put(b []byte) {
	b = b[:sizeSelector]
	putAddr(b, s.Dst.Addr())
	putAddr(b[16:], s.Src.Addr())
	be.PutUint16(b[32:], s.DstPort)
	be.PutUint16(b[34:], s.DstMask)
	be.PutUint16(b[36:], s.SrcPort)
	be.PutUint16(b[38:], s.SrcMask)
	native.PutUint16(b[40:], s.Family)
	b[42], b[43], b[44] = uint8(max(0, s.Dst.Bits())), uint8(max(0, s.Src.Bits())), s.Proto
}

func getSelector(b []byte) selector {
	b = b[:sizeSelector]
	s := selector{
		DstPort: be.Uint16(b[32:]), DstMask: be.Uint16(b[34:]), SrcPort: be.Uint16(b[36:]), SrcMask: be.Uint16(b[38:]),
		Family: native.Uint16(b[40:]), Proto: b[44],
	}
	if a := getAddr(b, s.Family); a.IsValid() {
		s.Dst = netip.PrefixFrom(a, int(b[42]))
		s.Src = netip.PrefixFrom(getAddr(b[16:], s.Family), int(b[43]))
	}
	return s
}

// message is a request being written: a netlink header, a structure and attributes.
type message struct{ b []byte }

func newMessage(kind, flags uint16, body int) (*message, []byte) {
	m := &message{b: make([]byte, sizeMessage+body, sizeMessage+body+512)}
	native.PutUint16(m.b[4:], kind)
	native.PutUint16(m.b[6:], flags)
	return m, m.b[sizeMessage:]
}

// attr appends an attribute of n octets and returns them.
func (m *message) attr(kind uint16, n int) []byte {
	at := len(m.b)
	grown := at + sizeAttr + (n+3)&^3
	if grown > cap(m.b) {
		b := make([]byte, at, 2*grown)
		copy(b, m.b)
		clear(m.b)
		m.b = b
	}
	m.b = m.b[:grown]
	native.PutUint16(m.b[at:], uint16(sizeAttr+n))
	native.PutUint16(m.b[at+2:], kind)
	return m.b[at+sizeAttr : at+sizeAttr+n]
}

// seal completes the header.
func (m *message) seal(sequence uint32) []byte {
	native.PutUint32(m.b, uint32(len(m.b)))
	native.PutUint32(m.b[8:], sequence)
	return m.b
}

func (m *message) wipe() { clear(m.b[:cap(m.b)]) }

// messages calls f for each netlink message of a datagram, until f says stop. What does not fit is errMessage.
func messages(b []byte, f func(kind, flags uint16, sequence uint32, body []byte) (stop bool)) error {
	for len(b) > 0 {
		if len(b) < sizeMessage {
			return errMessage
		}
		n := native.Uint32(b)
		if n < sizeMessage || uint64(n) > uint64(len(b)) {
			return errMessage
		}
		if f(native.Uint16(b[4:]), native.Uint16(b[6:]), native.Uint32(b[8:]), b[sizeMessage:n]) {
			return nil
		}
		b = b[min(int(n+3)&^3, len(b)):]
	}
	return nil
}

// attributes calls f for each attribute.
func attributes(b []byte, f func(kind uint16, value []byte)) error {
	for len(b) > 0 {
		if len(b) < sizeAttr {
			return errMessage
		}
		n := int(native.Uint16(b))
		if n < sizeAttr || n > len(b) {
			return errMessage
		}
		f(native.Uint16(b[2:])&0x3fff, b[sizeAttr:n])
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}

// event is what the kernel tells of itself: an acquire, an expiry or a mapping.
type event struct {
	kind    uint16
	acquire acquired
	id      stateID
	hard    bool
	packets uint64         // expiry: what the SA has carried
	bytes   uint64         //
	remote  netip.AddrPort // mapping: the peer's new address
}

// acquired is xfrm_user_acquire: the flow, and the policy that wants an SA for it.
type acquired struct {
	index uint32
	flow  selector
}

// stateID is what the kernel knows a state by.
type stateID struct {
	Dst   netip.Addr
	SPI   uint32
	Proto uint8
}

// parseEvent reads a message of the groups we listen to. False: not one of them.
func parseEvent(kind uint16, b []byte) (event, bool, error) {
	ev := event{kind: kind}
	switch kind {
	case msgAcquire:
		if len(b) < sizeAcquire {
			return ev, false, errMessage
		}
		ev.acquire.flow = getSelector(b[40:])
		ev.acquire.index = native.Uint32(b[96+156:])
	case msgExpire:
		if len(b) < sizeExpire {
			return ev, false, errMessage
		}
		ev.id = getStateID(b)
		ev.hard = b[sizeState] != 0
		ev.bytes, ev.packets = native.Uint64(b[160:]), native.Uint64(b[168:])
	case msgMapping:
		if len(b) < sizeMapping {
			return ev, false, errMessage
		}
		family := native.Uint16(b[20:])
		ev.id = stateID{Dst: getAddr(b, family), SPI: be.Uint32(b[16:]), Proto: b[22]}
		ev.remote = netip.AddrPortFrom(getAddr(b[44:], family), be.Uint16(b[62:]))
	default:
		return ev, false, nil
	}
	return ev, true, nil
}

// getStateID reads the identity out of an xfrm_usersa_info.
func getStateID(b []byte) stateID {
	return stateID{Dst: getAddr(b[56:], native.Uint16(b[212:])), SPI: be.Uint32(b[72:]), Proto: b[76]}
}

func (id stateID) put(b []byte) {
	putAddr(b, id.Dst)
	be.PutUint32(b[16:], id.SPI)
	native.PutUint16(b[20:], familyOf(id.Dst))
	b[22] = id.Proto
}

// readState is what we look at in a state the kernel shows.
type readState struct {
	id             stateID
	reqID          uint32
	mode           uint8
	flags          uint8
	window         uint32
	packets, bytes uint64
	used           uint64 // unix seconds of the first use; 0: never
	lastUsed       uint64 // unix seconds; 0: not told
	outbound       uint64 // last sequence number sent
	inbound        uint64 // highest one received
	replays        uint32
	late           uint32 // older than the window
	failed         uint32 // not authentic
	encap          bool
	encapSrc       uint16
	encapDst       uint16
	offload        bool
	crypt, auth    string
	aead           string
	keyBits        uint32 // of the cipher
	icvBits        uint32
}

func parseState(b []byte) (readState, error) {
	if len(b) < sizeState {
		return readState{}, errMessage
	}
	s := readState{
		id: getStateID(b), reqID: native.Uint32(b[208:]), mode: b[214], window: uint32(b[215]), flags: b[216],
		bytes: native.Uint64(b[160:]), packets: native.Uint64(b[168:]), used: native.Uint64(b[184:]),
		late: native.Uint32(b[192:]), replays: native.Uint32(b[196:]), failed: native.Uint32(b[200:]),
	}
	err := attributes(b[sizeState:], func(kind uint16, v []byte) {
		switch {
		case kind == attrReplayVal && len(v) >= 12:
			s.outbound, s.inbound = uint64(native.Uint32(v)), uint64(native.Uint32(v[4:]))
		case kind == attrReplayESN && len(v) >= sizeReplayESN:
			s.outbound = uint64(native.Uint32(v[12:]))<<32 | uint64(native.Uint32(v[4:]))
			s.inbound = uint64(native.Uint32(v[16:]))<<32 | uint64(native.Uint32(v[8:]))
			s.window = native.Uint32(v[20:])
		case kind == attrLastUsed && len(v) >= 8:
			s.lastUsed = native.Uint64(v)
		case kind == attrEncap && len(v) >= sizeEncap:
			s.encap, s.encapSrc, s.encapDst = true, be.Uint16(v[2:]), be.Uint16(v[4:])
		case kind == attrOffload:
			s.offload = true
		case kind == attrAlgCrypt && len(v) >= sizeAlgName+4:
			s.crypt, s.keyBits = algName(v), native.Uint32(v[sizeAlgName:])
		case kind == attrAlgAEAD && len(v) >= sizeAlgName+8:
			s.aead, s.keyBits, s.icvBits = algName(v), native.Uint32(v[sizeAlgName:]), native.Uint32(v[sizeAlgName+4:])
		case kind == attrAlgAuthTrunc && len(v) >= sizeAlgName+8:
			s.auth, s.icvBits = algName(v), native.Uint32(v[sizeAlgName+4:])
		}
	})
	return s, err
}

func algName(b []byte) string {
	name, _, _ := bytes.Cut(b[:sizeAlgName], []byte{0})
	return string(name)
}

// readPolicy is what we look at in a policy the kernel shows.
type readPolicy struct {
	index    uint32
	priority uint32
	dir      uint8
	action   uint8
	selector selector
	tmpls    int
	tmpl     tmpl // the first
}

func parsePolicy(b []byte) (readPolicy, error) {
	if len(b) < sizePolicy {
		return readPolicy{}, errMessage
	}
	p := readPolicy{
		selector: getSelector(b), priority: native.Uint32(b[152:]), index: native.Uint32(b[156:]), dir: b[160], action: b[161],
	}
	err := attributes(b[sizePolicy:], func(kind uint16, v []byte) {
		if kind != attrTmpl {
			return
		}
		p.tmpls = len(v) / sizeTmpl
		if p.tmpls > 0 {
			p.tmpl = getTmpl(v)
		}
	})
	return p, err
}

// getTmpl reads an xfrm_user_tmpl. Addresses of zeros are any.
func getTmpl(b []byte) tmpl {
	t := tmpl{family: native.Uint16(b[24:]), reqID: native.Uint32(b[44:]), mode: b[48], optional: b[50] != 0}
	for _, a := range []struct {
		to *netip.Addr
		at int
	}{{&t.dst, 0}, {&t.src, 28}} {
		if v := getAddr(b[a.at:], t.family); v.IsValid() && !v.IsUnspecified() {
			*a.to = v
		}
	}
	return t
}

// differs says what of a policy the kernel did not take as it was told.
func (r *readPolicy) differs(k slot, e *entry, index uint32) error {
	tmpls := 1
	if e.tmpl.family == 0 {
		tmpls = 0
	}
	for _, c := range []struct {
		what string
		ok   bool
	}{
		{"direction", r.dir == k.dir},
		{"selector", r.selector == k.selector},
		{"index", r.index == index},
		{"priority", r.priority == e.priority},
		{"action", r.action == e.action},
		{"number of templates", r.tmpls == tmpls},
		{"template", r.tmpl == e.tmpl},
	} {
		if !c.ok {
			return fmt.Errorf("the kernel took another %s of a policy than it was given", c.what)
		}
	}
	return nil
}
